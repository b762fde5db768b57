//! Who calls, on which database, and how the answer is to be encoded: read once a call, from its
//! headers.

use std::sync::Arc;

use flightcluster_auth::{Action, Authenticator, Principal};
use flightcluster_query::{Access, AccessKind, AsOf};
use flightcluster_telemetry::metrics::ReasonLabels;
use flightcluster_wire::{Encoding, StreamName, headers};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tonic::Request;
use tracing::Span;

use crate::call::{Admission, RequestId};
use crate::session::Session;
use crate::status::{ErrorCode, Failure};

/// Database of a call that names none.
pub(crate) const DEFAULT_DATABASE: &str = "default";

/// The caller of one RPC.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Id of the call.
    pub(crate) request_id: String,
    /// Who it is, with the rights it has.
    pub(crate) principal: Principal,
    /// How batches are to be encoded.
    pub(crate) encoding: Encoding,
    /// What it set for its session.
    pub(crate) session: Session,
    /// The database named by a header.
    database: Option<String>,
    /// The upload a stream is part of.
    pub(crate) upload: Option<String>,
    /// The name of a stream whose rows are to be stored once.
    pub(crate) stream: Option<StreamName>,
    /// The past that is read: that of a header, else that of the session.
    pub(crate) as_of: Option<AsOf>,
    /// Whether a partial answer will do: as a header says, else the session.
    pub(crate) partial: bool,
}

impl Caller {
    /// Authenticates the call and reads its headers.
    pub(crate) fn of<T>(
        request: &Request<T>,
        authenticator: &Authenticator,
    ) -> Result<Self, Failure> {
        let metadata: &http::HeaderMap = request.metadata().as_ref();
        let authorization = metadata.get_all(headers::AUTHORIZATION);
        let principal = authenticator.authenticate(authorization.iter().map(|v| v.as_bytes()))?;
        Span::current().record("identity", principal.name());
        let session = Session::of(metadata);
        let partial = headers::partial_from_headers(metadata)?.or(session.partial);
        let as_of = headers::as_of_from_headers(metadata)?.or_else(|| session.as_of.clone());
        Ok(Self {
            request_id: request_id(request),
            principal,
            encoding: headers::encoding_from_headers(metadata)?,
            session,
            database: headers::database_from_headers(metadata)?,
            upload: headers::upload_from_headers(metadata)?,
            stream: StreamName::from_headers(metadata)?,
            as_of: as_of.as_deref().map(AsOf::parse).transpose()?,
            partial: partial.unwrap_or_default(),
        })
    }

    /// The database a call works in: the one it names itself, else that of its session, else that
    /// of the headers, else `default`.
    pub(crate) fn database(&self, named: Option<&str>) -> String {
        named
            .filter(|name| !name.is_empty())
            .or(self.session.catalog.as_deref())
            .or(self.database.as_deref())
            .unwrap_or(DEFAULT_DATABASE)
            .to_owned()
    }

    /// Fails unless the caller may do `action` on `database`.
    pub(crate) fn authorize(&self, action: Action, database: &str) -> Result<(), Failure> {
        Ok(self.principal.require(action, database)?)
    }

    /// Fails for a stream of rows that comes with what is said of answers: nothing is written into the
    /// past, nor in part.
    pub(crate) fn refuse_reading_options(&self) -> Result<(), Failure> {
        let problem = match (self.as_of, self.partial) {
            (None, false) => return Ok(()),
            (Some(_), _) => {
                "rows can't be written into the past; take the header x-fc-as-of and the session \
                 option as_of away"
            }
            (None, true) => {
                "rows are written all or refused; take the header x-fc-partial and the session \
                 option partial away"
            }
        };
        Err(Failure::new(ErrorCode::InvalidArgument, problem))
    }

    /// Fails for a statement: it would be taken for one that is done once.
    pub(crate) fn refuse_stream_name(&self) -> Result<(), Failure> {
        match self.stream {
            None => Ok(()),
            Some(_) => Err(Failure::new(
                ErrorCode::InvalidArgument,
                "the headers x-fc-producer and x-fc-sequence name a stream of rows, not a statement: take \
                 them away, or send the rows by DoPut or bulk ingest",
            )),
        }
    }

    /// The caller's rights as the query engine asks for them.
    pub(crate) fn access(&self) -> Access {
        let principal = self.principal.clone();
        Access::new(move |kind, database| {
            let action = match kind {
                AccessKind::Read => Action::Read,
                AccessKind::Write => Action::Write,
                AccessKind::Admin => Action::Admin,
            };
            principal.may(action, database)
        })
    }
}

/// Lets in who authenticates; counts who does not, by reason.
pub fn admission(
    authenticator: Arc<Authenticator>,
    failures: Family<ReasonLabels, Counter>,
) -> Admission {
    Arc::new(move |headers: &http::HeaderMap| {
        let authorization = headers.get_all(headers::AUTHORIZATION);
        match authenticator.authenticate(authorization.iter().map(|value| value.as_bytes())) {
            Ok(_) => Ok(()),
            Err(denied) => {
                let reason = denied.category();
                failures.get_or_create(&ReasonLabels { reason }).inc();
                Err(denied.into())
            }
        }
    })
}

/// The id given to a call by [`crate::call::CallLayer`].
pub(crate) fn request_id<T>(request: &Request<T>) -> String {
    request
        .extensions()
        .get::<RequestId>()
        .map_or_else(String::new, |id| id.as_str().to_owned())
}
