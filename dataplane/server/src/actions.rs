//! DoAction and ListActions: prepared statements, session options, uploads of several streams, where to upload. The list names what is here and nothing else.

use arrow_flight::sql::ActionCreatePreparedStatementRequest;
use arrow_flight::{Action, ActionType};
use bytes::Bytes;
use flightcluster_wire::action::{
    self, ABORT_UPLOAD, ACTIONS, ActionCreatePreparedStatementResult, CLOSE_PREPARED_STATEMENT,
    CLOSE_SESSION, CREATE_PREPARED_STATEMENT, CloseSessionResult, CloseSessionStatus,
    FINISH_UPLOAD, GET_SESSION_OPTIONS, PUT_LOCATION, SET_SESSION_OPTIONS, START_UPLOAD,
};
use flightcluster_wire::{PreparedHandle, schema_bytes, wire_schema};
use prost::Message as _;

use crate::caller::Caller;
use crate::service::FlightServer;
use crate::session::Session;
use crate::statement::Statement;
use crate::status::{ErrorCode, Failure};

/// Actions of the protocol that this server offers.
const OFFERED: [&str; 9] = [
    START_UPLOAD,
    FINISH_UPLOAD,
    ABORT_UPLOAD,
    PUT_LOCATION,
    CREATE_PREPARED_STATEMENT,
    CLOSE_PREPARED_STATEMENT,
    SET_SESSION_OPTIONS,
    GET_SESSION_OPTIONS,
    CLOSE_SESSION,
];

/// What an action answers.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Body of the only result, if there is one.
    pub(crate) body: Option<Bytes>,
    /// The session cookie to be kept from now on.
    pub(crate) cookie: Option<String>,
}

impl Answer {
    fn of(body: Bytes) -> Self {
        Self {
            body: Some(body),
            cookie: None,
        }
    }
}

/// What ListActions tells.
pub(crate) fn offered() -> impl Iterator<Item = ActionType> {
    ACTIONS
        .iter()
        .filter(|(name, _)| OFFERED.contains(name))
        .map(|(name, description)| ActionType {
            r#type: (*name).to_owned(),
            description: (*description).to_owned(),
        })
}

impl FlightServer {
    /// Runs an action.
    pub(crate) async fn action(&self, caller: &Caller, action: Action) -> Result<Answer, Failure> {
        match action::Action::decode(&action.r#type, &action.body)? {
            action::Action::CreatePreparedStatement(request) => {
                let body = self.prepare(caller, request).await?;
                Ok(Answer {
                    body: Some(body),
                    cookie: None,
                })
            }
            // The handle is all there is: nothing to forget here.
            action::Action::ClosePreparedStatement(_) => Ok(Answer::default()),
            action::Action::SetSessionOptions(request) => {
                let mut session = caller.session.clone();
                let result = session.set(request);
                Ok(Answer {
                    body: Some(result.encode_to_vec().into()),
                    cookie: Some(session.to_cookie()),
                })
            }
            action::Action::GetSessionOptions => Ok(Answer {
                body: Some(caller.session.options().encode_to_vec().into()),
                cookie: None,
            }),
            action::Action::CloseSession => {
                let result = CloseSessionResult {
                    status: CloseSessionStatus::Closed.into(),
                };
                Ok(Answer {
                    body: Some(result.encode_to_vec().into()),
                    cookie: Some(Session::end()),
                })
            }
            action::Action::StartUpload(request) => {
                Ok(Answer::of(self.start_upload(caller, request).await?))
            }
            action::Action::FinishUpload(request) => {
                Ok(Answer::of(self.finish_upload(caller, request).await?))
            }
            action::Action::AbortUpload(request) => {
                Ok(Answer::of(self.abort_upload(caller, request).await?))
            }
            action::Action::PutLocation(descriptor) => {
                Ok(Answer::of(self.put_location(caller, &descriptor).await?))
            }
            action::Action::CancelFlightInfo(_) => Err(Failure::new(
                ErrorCode::Unimplemented,
                format!(
                    "action {:?} is not offered; ListActions names those that are",
                    action.r#type
                ),
            )),
        }
    }

    /// Plans the statement for its schemas and makes a handle that any server of the cluster can
    /// run.
    async fn prepare(
        &self,
        caller: &Caller,
        request: ActionCreatePreparedStatementRequest,
    ) -> Result<Bytes, Failure> {
        let database = caller.database(None);
        let statement = Statement {
            database,
            sql: request.query,
            params: None,
            past: None,
            partial: None,
        };
        let plan = self.plan(caller, &statement).await?;
        let Statement { database, sql, .. } = statement;
        let handle = PreparedHandle {
            sql,
            database,
            params: None,
        };
        let parameters = plan.parameter_schema();
        let result = ActionCreatePreparedStatementResult {
            prepared_statement_handle: handle.seal(&self.key),
            // Drivers that do not know `is_update` tell updates by the missing schema.
            dataset_schema: match plan.is_update() {
                true => Bytes::new(),
                false => schema_bytes(&wire_schema(&plan.schema(), caller.encoding))?,
            },
            parameter_schema: match parameters.fields().is_empty() {
                true => Bytes::new(),
                false => schema_bytes(&parameters)?,
            },
            is_update: Some(plan.is_update()),
        };
        Ok(result.to_body())
    }
}
