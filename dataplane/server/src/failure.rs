//! Which failure of which crate becomes which [`ErrorCode`]: one exhaustive `match` each, so that a
//! new variant can't be forgotten.

use arrow_flight::error::FlightError;
use flightcluster_auth::Denied;
use flightcluster_ingest::{Fatal, Fault};
use flightcluster_query::rewrite::RewriteError;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::peers;
use crate::status::{ErrorCode, Failure, chain};

fn told(code: ErrorCode, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(code, chain(error))
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        let code = match &denied {
            Denied::Unauthenticated(_) => ErrorCode::Unauthenticated,
            Denied::PermissionDenied { .. } => ErrorCode::PermissionDenied,
        };
        // The log tells the reasons apart, the caller must not learn which tokens exist.
        tracing::debug!(reason = denied.category(), "call denied");
        Self::new(code, denied.to_string())
    }
}

impl From<flightcluster_catalog::Error> for Failure {
    fn from(error: flightcluster_catalog::Error) -> Self {
        told(of_catalog(&error), &error)
    }
}

/// The code of a refusal of the catalog, whoever asked it.
fn of_catalog(error: &flightcluster_catalog::Error) -> ErrorCode {
    use flightcluster_catalog::Error;
    match error {
        Error::DatabaseNotFound(_) => ErrorCode::DatabaseNotFound,
        Error::DatabaseExists(_) => ErrorCode::DatabaseExists,
        Error::TableNotFound(_) => ErrorCode::TableNotFound,
        Error::TableExists(_) => ErrorCode::TableExists,
        Error::InvalidName { .. }
        | Error::UploadTarget { .. }
        | Error::UploadKey { .. }
        | Error::NotReadable { .. } => ErrorCode::InvalidArgument,
        Error::UploadNotFound(_) => ErrorCode::UploadNotFound,
        Error::UploadEnded { .. } => ErrorCode::UploadEnded,
        // All say: somebody else was first, begin again.
        Error::SchemaChanged { .. }
        | Error::TableReplaced(_)
        | Error::FilesChanged { .. }
        | Error::RetentionChanged { .. } => ErrorCode::SchemaChanged,
        Error::Fenced { .. } | Error::WrongLog { .. } | Error::RolledBack { .. } => {
            ErrorCode::WalFailed
        }
        // A file that is written anew at the next attempt.
        Error::Unavailable { .. } | Error::FileGivenUp { .. } => ErrorCode::CatalogUnavailable,
        // The first two are answers to an operator, who does not come by this way.
        Error::IngesterNotFound(_) | Error::NotDrained(_) | Error::Store { .. } => {
            ErrorCode::Internal
        }
    }
}

impl From<flightcluster_query::Error> for Failure {
    fn from(error: flightcluster_query::Error) -> Self {
        use flightcluster_query::Error;
        let code = match &error {
            Error::Syntax { .. }
            | Error::StatementCount { .. }
            | Error::Plan { .. }
            | Error::Value { .. }
            | Error::NullValue { .. }
            | Error::ReadOnly { .. } => ErrorCode::InvalidSql,
            Error::InvalidName { .. }
            | Error::Option { .. }
            | Error::AsOf { .. }
            | Error::Partial { .. }
            | Error::Parameter { .. }
            | Error::ParameterMissing { .. } => ErrorCode::InvalidArgument,
            Error::UnstorableType { .. } => ErrorCode::UnsupportedType,
            Error::Key(error) if error.is_callers() => ErrorCode::InvalidArgument,
            Error::Key(_) | Error::NewerFile(_) => ErrorCode::Unimplemented,
            Error::Unsupported { .. } | Error::NotImplemented { .. } => ErrorCode::Unimplemented,
            Error::NoWriter => ErrorCode::WrongRole,
            Error::TableNotFound { .. } | Error::NotInSnapshot { .. } => ErrorCode::TableNotFound,
            Error::DatabaseNotFound { .. } => ErrorCode::DatabaseNotFound,
            Error::TableExists { .. } => ErrorCode::TableExists,
            Error::DatabaseExists { .. } => ErrorCode::DatabaseExists,
            Error::AccessDenied { .. } => ErrorCode::PermissionDenied,
            Error::QueueFull { .. } => ErrorCode::QueueFull,
            Error::Rewrite { source, .. } => match source.as_ref() {
                RewriteError::Store { .. } => ErrorCode::StoreUnavailable,
                // What reading came to, and being stopped, are told by the statement itself.
                RewriteError::Read { .. }
                | RewriteError::Stopped
                | RewriteError::Schema { .. }
                | RewriteError::Rows { .. }
                | RewriteError::Encode { .. }
                | RewriteError::Fit { .. }
                | RewriteError::Task { .. }
                | RewriteError::Start { .. } => ErrorCode::Internal,
            },
            Error::MemoryExhausted { .. } | Error::ScratchExhausted { .. } => {
                ErrorCode::MemoryExhausted
            }
            Error::Cancelled => ErrorCode::Cancelled,
            Error::DeadlineExceeded => ErrorCode::DeadlineExceeded,
            Error::IngesterUnavailable { .. } => ErrorCode::IngesterUnavailable,
            Error::TableReplaced { .. } | Error::ColumnWidened { .. } => ErrorCode::SchemaChanged,
            Error::ObjectStore { .. } => ErrorCode::StoreUnavailable,
            Error::Catalog { source, .. } => of_catalog(source),
            // What the writer said is what the client is to hear.
            Error::Write { source, .. } => match source.downcast_ref::<Failure>() {
                Some(failure) => return failure.clone(),
                None => ErrorCode::Internal,
            },
            Error::IngesterAnswer { .. }
            | Error::StoredFile { .. }
            | Error::StoredSchema { .. }
            | Error::Scratch { .. }
            | Error::Panic { .. }
            | Error::Engine { .. }
            | Error::WrongSchema { .. }
            | Error::Start { .. } => ErrorCode::Internal,
        };
        told(code, &error)
    }
}

impl From<flightcluster_ingest::Error> for Failure {
    fn from(error: flightcluster_ingest::Error) -> Self {
        let failure = told(of_ingest(&error), &error);
        match error.retry_after() {
            Some(delay) => failure.retry_after(delay),
            None => failure,
        }
    }
}

/// The code of a refusal of the ingester. By what happened, not by whose fault it is: each part that can
/// be away has another cure.
fn of_ingest(error: &flightcluster_ingest::Error) -> ErrorCode {
    use flightcluster_ingest::Error;
    match error {
        Error::UnsupportedType { .. } => ErrorCode::UnsupportedType,
        Error::TypeConflict { .. }
        | Error::MissingColumn { .. }
        | Error::NullValue { .. }
        | Error::NullableColumn { .. }
        | Error::KeyMismatch { .. } => ErrorCode::SchemaConflict,
        Error::DuplicateColumn { .. }
        | Error::NoColumns
        | Error::SchemaMismatch
        | Error::Values { .. }
        | Error::ProducerId { .. } => ErrorCode::InvalidArgument,
        Error::Key(error) if error.is_callers() => ErrorCode::InvalidArgument,
        // The table is of a newer release.
        Error::Key(_) => ErrorCode::Unimplemented,
        Error::UploadSealed => ErrorCode::UploadEnded,
        Error::TableNotFound(_) => ErrorCode::TableNotFound,
        Error::TableExists(_) => ErrorCode::TableExists,
        Error::ProducerOrder { .. } | Error::StreamGap { .. } => ErrorCode::ProducerOrder,
        Error::ProducerOwner { .. } | Error::ProducerMoved { .. } | Error::OtherLife { .. } => {
            ErrorCode::IngesterUnavailable
        }
        Error::Overloaded { .. } => ErrorCode::Overloaded,
        Error::PersistLag { .. } => ErrorCode::PersistLag,
        // The process is ending.
        Error::Draining | Error::Cancelled => ErrorCode::Draining,
        // Only the log ends an attempt that is under way; what it lacks is told to the repeat.
        Error::FirstAttempt { .. } => ErrorCode::WalFailed,
        Error::OutOfService(Fatal::Wal(_) | Fatal::Fenced(_) | Fatal::RolledBack(_)) => {
            ErrorCode::WalFailed
        }
        Error::Unconfirmed(cause) => of_ingest(cause),
        Error::Wal(_) | Error::OpenWal(_) | Error::ReadLog(_) => match error.fault() {
            Fault::InvalidArgument => ErrorCode::InvalidArgument,
            Fault::ResourceExhausted => ErrorCode::DiskFull,
            Fault::Unavailable => ErrorCode::WalFailed,
            Fault::NotFound
            | Fault::AlreadyExists
            | Fault::FailedPrecondition
            | Fault::Internal => ErrorCode::Internal,
        },
        Error::Catalog { source, .. } => of_catalog(source),
        Error::Store { .. } => ErrorCode::StoreUnavailable,
        Error::UnknownColumn { .. }
        | Error::NarrowColumn { .. }
        | Error::UnreadableRecord { .. }
        | Error::OtherRecord { .. }
        | Error::UnreadableSchema { .. }
        | Error::EncodeBatch { .. }
        | Error::EncodeFile { .. }
        | Error::EncoderPanicked { .. } => ErrorCode::Internal,
    }
}

impl From<flightcluster_wire::command::Error> for Failure {
    fn from(error: flightcluster_wire::command::Error) -> Self {
        let code = match &error {
            flightcluster_wire::command::Error::Ticket(_) => ErrorCode::InvalidTicket,
            _ => ErrorCode::InvalidCommand,
        };
        told(code, &error)
    }
}

impl From<flightcluster_wire::ticket::Error> for Failure {
    fn from(error: flightcluster_wire::ticket::Error) -> Self {
        use flightcluster_wire::ticket::Error;
        let code = match &error {
            Error::Expired { .. } => ErrorCode::TicketExpired,
            Error::Foreign { .. }
            | Error::Version { .. }
            | Error::Signature { .. }
            | Error::Content { .. }
            | Error::Missing { .. } => ErrorCode::InvalidTicket,
        };
        told(code, &error)
    }
}

impl From<flightcluster_wire::decode::Error> for Failure {
    fn from(error: flightcluster_wire::decode::Error) -> Self {
        let code = match error.is_too_large() {
            true => ErrorCode::MessageTooLarge,
            false => ErrorCode::InvalidData,
        };
        told(code, &error)
    }
}

impl From<flightcluster_wire::encode::Error> for Failure {
    fn from(error: flightcluster_wire::encode::Error) -> Self {
        use flightcluster_wire::encode::Error;
        let code = match &error {
            Error::RowTooLarge { .. } | Error::DictionaryTooLarge { .. } => {
                ErrorCode::MessageTooLarge
            }
            Error::NestedDictionary { .. } => ErrorCode::Unimplemented,
            Error::Conform(_) | Error::Write(_) => ErrorCode::Internal,
        };
        told(code, &error)
    }
}

impl From<flightcluster_wire::conform::Error> for Failure {
    fn from(error: flightcluster_wire::conform::Error) -> Self {
        use flightcluster_wire::conform::Error;
        let code = match &error {
            Error::TooLarge { .. } => ErrorCode::MessageTooLarge,
            Error::Columns { .. } | Error::Cast { .. } | Error::Batch(_) => ErrorCode::Internal,
        };
        told(code, &error)
    }
}

impl From<flightcluster_wire::params::Error> for Failure {
    fn from(error: flightcluster_wire::params::Error) -> Self {
        use flightcluster_wire::params::Error;
        let code = match &error {
            Error::Truncated | Error::Read(_) | Error::NoSchema | Error::Join(_) => {
                ErrorCode::InvalidArgument
            }
            Error::Write(_) => ErrorCode::Internal,
        };
        told(code, &error)
    }
}

impl From<flightcluster_wire::schema::Error> for Failure {
    fn from(error: flightcluster_wire::schema::Error) -> Self {
        told(ErrorCode::Internal, &error)
    }
}

impl From<flightcluster_wire::headers::Error> for Failure {
    fn from(error: flightcluster_wire::headers::Error) -> Self {
        told(ErrorCode::InvalidArgument, &error)
    }
}

impl From<flightcluster_wire::stream::Error> for Failure {
    fn from(error: flightcluster_wire::stream::Error) -> Self {
        told(ErrorCode::InvalidArgument, &error)
    }
}

impl From<flightcluster_wire::action::Error> for Failure {
    fn from(error: flightcluster_wire::action::Error) -> Self {
        let code = match &error {
            flightcluster_wire::action::Error::Unknown { .. } => ErrorCode::Unimplemented,
            _ => ErrorCode::InvalidCommand,
        };
        told(code, &error)
    }
}

impl From<peers::Error> for Failure {
    fn from(error: peers::Error) -> Self {
        told(ErrorCode::IngesterUnavailable, &error)
    }
}

impl From<FlightError> for Failure {
    /// Only the builders of Flight SQL metadata give these here: a bug in our tables.
    fn from(error: FlightError) -> Self {
        told(ErrorCode::Internal, &error)
    }
}

impl Failure {
    /// The end of a client's upload: it left, or sent a message over the limit.
    #[must_use]
    pub fn of_client_stream(status: Status) -> Self {
        // Of our own: the message had no room.
        if let Some(failure) = Self::of_ours(&status) {
            return failure;
        }
        let text = status.message();
        // The transport has no code of its own for a message over the limit.
        if status.code() == Code::OutOfRange || status.code() == Code::ResourceExhausted {
            let message = format!("{text}; send smaller batches (server.max_message_bytes)");
            return Self::new(ErrorCode::MessageTooLarge, message);
        }
        match status.code() {
            Code::Cancelled | Code::Unknown => Self::new(
                ErrorCode::Cancelled,
                format!("the upload was broken off: {text}"),
            ),
            _ => Self::new(
                ErrorCode::InvalidData,
                format!("the upload can't be read: {text}"),
            ),
        }
    }

    /// What a peer answered instead of doing what we asked. Its own machine code is kept; anything
    /// else means that it can't be reached.
    #[must_use]
    pub fn from_peer(url: &str, status: &Status) -> Self {
        Self::of_ours(status).unwrap_or_else(|| {
            let text = format!("ingester {url} can't be reached: {}", chain(status));
            Self::new(ErrorCode::IngesterUnavailable, text)
        })
    }

    /// The failure that a status of this product was made of.
    fn of_ours(status: &Status) -> Option<Self> {
        let details = status.get_error_details();
        let info = details.error_info()?;
        let mut codes = ErrorCode::ALL.iter().copied();
        let code = codes.find(|code| code.as_str() == info.reason)?;
        let suffix = format!(" [{}]", code.as_str());
        let text = status.message();
        Some(Self {
            code,
            message: text.strip_suffix(&suffix).unwrap_or(text).to_owned(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use std::sync::Arc;
    use std::time::Duration;

    use flightcluster_catalog::Error as Catalog;
    use flightcluster_ingest::Error as Ingest;

    use super::*;

    fn of_the_catalog(source: Catalog) -> Ingest {
        Ingest::Catalog {
            doing: "committing",
            source: Arc::new(source),
        }
    }

    /// The store that is away is not the log's volume, and a slow catalog is not another schema.
    #[test]
    fn each_part_that_is_away_has_its_own_code() {
        let store = Ingest::Store {
            path: "t/1.parquet".to_owned(),
            source: object_store::Error::NotImplemented {
                operation: "put".to_owned(),
                implementer: "nobody".to_owned(),
            },
        };
        let away = || Catalog::Unavailable {
            place: "https://catalog:17002".to_owned(),
            source: "refused".into(),
        };
        let name = || "ingester-0".to_owned();
        let cases = [
            (store, ErrorCode::StoreUnavailable),
            (of_the_catalog(away()), ErrorCode::CatalogUnavailable),
            (Ingest::Cancelled, ErrorCode::Draining),
            (Ingest::Draining, ErrorCode::Draining),
            (
                Ingest::FirstAttempt {
                    producer: name(),
                    sequence: 1,
                },
                ErrorCode::WalFailed,
            ),
            (
                Ingest::Unconfirmed(Box::new(of_the_catalog(away()))),
                ErrorCode::CatalogUnavailable,
            ),
            (
                Ingest::OtherLife { ingester: name() },
                ErrorCode::IngesterUnavailable,
            ),
        ];
        for (error, code) in cases {
            let (text, failure) = (error.to_string(), Failure::from(error));
            assert_eq!(failure.code, code, "{text}");
            assert!(failure.retry_after.is_some(), "{text}");
        }
    }

    /// Columns that do not fit, and nothing else.
    #[test]
    fn only_columns_that_do_not_fit_are_a_conflict_of_schemas() {
        let table = || flightcluster_catalog::TableName {
            database: "d".to_owned(),
            schema: "public".to_owned(),
            table: "t".to_owned(),
        };
        let conflict = Ingest::TypeConflict {
            table: table(),
            column: "a".to_owned(),
            expected: Box::new(arrow_schema::DataType::Int64),
            found: Box::new(arrow_schema::DataType::Utf8),
        };
        let missing = Ingest::MissingColumn {
            table: table(),
            column: "a".to_owned(),
        };
        for error in [conflict, missing] {
            assert_eq!(Failure::from(error).code, ErrorCode::SchemaConflict);
        }
        let others = [
            of_the_catalog(Catalog::NotDrained("ingester-0".to_owned())),
            of_the_catalog(Catalog::IngesterNotFound("ingester-0".to_owned())),
            Ingest::NoColumns,
            Ingest::UploadSealed,
            of_the_catalog(Catalog::UploadNotFound("u".to_owned())),
        ];
        let codes = others.map(|error| Failure::from(error).code);
        let expected = [
            ErrorCode::Internal,
            ErrorCode::Internal,
            ErrorCode::InvalidArgument,
            ErrorCode::UploadEnded,
            ErrorCode::UploadNotFound,
        ];
        assert_eq!(codes, expected);
    }

    #[test]
    fn a_failure_survives_the_way_through_a_peer() {
        let failure = Failure::new(ErrorCode::SchemaConflict, "column a is Int64, not Utf8")
            .retry_after(Duration::from_secs(3));
        let status = failure.clone().into_status("id");
        assert_eq!(Failure::from_peer("https://a:1", &status), failure);
    }

    /// Not `DISK_FULL`: the cure is another one.
    #[test]
    fn an_ingester_that_can_not_keep_up_is_overloaded() {
        let failure = Failure::from(flightcluster_ingest::Error::Overloaded {
            buffered_bytes: 9,
            limit_bytes: 8,
            retry_after: Duration::from_secs(1),
        });
        assert_eq!(failure.code, ErrorCode::Overloaded);
        assert_eq!(failure.retry_after, Some(Duration::from_secs(1)));
    }

    /// Not `OVERLOADED`: more ingesters or memory are no cure.
    #[test]
    fn an_ingester_whose_flushes_fail_for_too_long_says_why() {
        let failure = Failure::from(flightcluster_ingest::Error::PersistLag {
            waiting: Duration::from_millis(90_061_500),
            limit: Duration::from_secs(24 * 3600),
            cause: "can't store file a: refused".into(),
        });
        assert_eq!(failure.code, ErrorCode::PersistLag);
        assert!(failure.retry_after.is_some());
        assert_eq!(
            failure.message,
            "rows that were acknowledged 1d1h1m1s ago are in no file yet and on one volume only, because flushing \
             fails: can't store file a: refused; mend that, and writes are taken as soon as a flush succeeds \
             (limit 1d, setting ingest.persist_lag)"
        );
    }

    #[test]
    fn a_batch_out_of_order_has_a_code_of_its_own() {
        let failure = Failure::from(flightcluster_ingest::Error::ProducerOrder {
            producer: "p".to_owned(),
            sequence: 8,
            due: 7,
        });
        assert_eq!(failure.code, ErrorCode::ProducerOrder);
        assert!(failure.message.contains("number 7"), "{}", failure.message);
    }

    #[test]
    fn a_peer_that_is_away_is_named() {
        let status = Status::unavailable("tcp connect error");
        let failure = Failure::from_peer("https://a:1", &status);
        assert_eq!(failure.code, ErrorCode::IngesterUnavailable);
        assert!(
            failure.message.contains("https://a:1"),
            "{}",
            failure.message
        );
    }

    /// S2-30: the client is told the size and the limit, and what to do.
    #[test]
    fn a_message_over_the_limit_is_the_clients_to_mend() {
        let status = Status::out_of_range("decoded message length too large: found 9 > 5");
        let failure = Failure::of_client_stream(status);
        assert_eq!(failure.code, ErrorCode::MessageTooLarge);
        assert!(failure.message.contains("smaller batches"));
    }
}
