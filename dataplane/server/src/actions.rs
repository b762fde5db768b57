//! DoAction and ListActions: prepared statements. The list names what is here and nothing else.

use arrow_flight::sql::ActionCreatePreparedStatementRequest;
use arrow_flight::{Action, ActionType};
use bytes::Bytes;
use flightcluster_wire::action::{
    self, ACTIONS, ActionCreatePreparedStatementResult, CLOSE_PREPARED_STATEMENT,
    CREATE_PREPARED_STATEMENT,
};
use flightcluster_wire::{PreparedHandle, schema_bytes, wire_schema};

use crate::caller::Caller;
use crate::service::FlightServer;
use crate::statement::Statement;
use crate::status::{ErrorCode, Failure};

/// Actions of the protocol that this server offers.
const OFFERED: [&str; 2] = [CREATE_PREPARED_STATEMENT, CLOSE_PREPARED_STATEMENT];

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
    /// Runs an action and returns its results.
    pub(crate) async fn action(
        &self,
        caller: &Caller,
        action: Action,
    ) -> Result<Vec<arrow_flight::Result>, Failure> {
        match action::Action::decode(&action.r#type, &action.body)? {
            action::Action::CreatePreparedStatement(request) => {
                let body = self.prepare(caller, request).await?;
                Ok(vec![arrow_flight::Result { body }])
            }
            // The handle is all there is: nothing to forget here.
            action::Action::ClosePreparedStatement(_) => Ok(Vec::new()),
            action::Action::SetSessionOptions(_)
            | action::Action::GetSessionOptions
            | action::Action::CloseSession
            | action::Action::CancelFlightInfo(_) => Err(Failure::new(
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
