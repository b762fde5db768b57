//! Bodies and results of `DoAction`, including the messages arrow-flight has no types for.
//!
//! Flight SQL actions are packed into a protobuf `Any`, the actions of Flight itself are not.
//! Left to others: what the actions do (`server`).

use std::collections::HashMap;

use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, Any, ProstMessageExt,
};
use arrow_flight::{CancelFlightInfoRequest, CancelFlightInfoResult, FlightDescriptor};
use bytes::Bytes;
use prost::Message;

/// Type of [`Action::CreatePreparedStatement`].
pub const CREATE_PREPARED_STATEMENT: &str = "CreatePreparedStatement";
/// Type of [`Action::ClosePreparedStatement`].
pub const CLOSE_PREPARED_STATEMENT: &str = "ClosePreparedStatement";
/// Type of [`Action::SetSessionOptions`].
pub const SET_SESSION_OPTIONS: &str = "SetSessionOptions";
/// Type of [`Action::GetSessionOptions`].
pub const GET_SESSION_OPTIONS: &str = "GetSessionOptions";
/// Type of [`Action::CloseSession`].
pub const CLOSE_SESSION: &str = "CloseSession";
/// Type of [`Action::CancelFlightInfo`].
pub const CANCEL_FLIGHT_INFO: &str = "CancelFlightInfo";

/// Type of [`Action::StartUpload`].
pub const START_UPLOAD: &str = "start-upload";
/// Type of [`Action::FinishUpload`].
pub const FINISH_UPLOAD: &str = "finish-upload";
/// Type of [`Action::AbortUpload`].
pub const ABORT_UPLOAD: &str = "abort-upload";

/// Type of [`Action::PutLocation`].
pub const PUT_LOCATION: &str = "put-location";

/// Every action known here with the text `ListActions` shows for it.
pub const ACTIONS: [(&str, &str); 10] = [
    (
        START_UPLOAD,
        "Begins an upload of several streams, whose rows appear together. Body: JSON {\"database\", \
         \"table\"}. Result: JSON {\"upload\", \"state\"}; DoPut streams name it in the header \
         x-fc-upload.",
    ),
    (
        FINISH_UPLOAD,
        "Makes all rows of an upload visible. Body: JSON {\"upload\"}. Result: JSON {\"upload\", \
         \"state\", \"rows\"}. May be repeated.",
    ),
    (
        ABORT_UPLOAD,
        "Gives an upload up; none of its rows ever appears. Body: JSON {\"upload\"}. Result: JSON \
         {\"upload\", \"state\"}. May be repeated.",
    ),
    (
        PUT_LOCATION,
        "Tells where to send the rows of a table. Body: the FlightDescriptor of the DoPut. Result: JSON \
         {\"locations\"}, the one to be tried first is the first.",
    ),
    (
        CREATE_PREPARED_STATEMENT,
        "Prepares a SQL statement. Body: Any of ActionCreatePreparedStatementRequest. Result: Any \
         of ActionCreatePreparedStatementResult.",
    ),
    (
        CLOSE_PREPARED_STATEMENT,
        "Closes a prepared statement. Body: Any of ActionClosePreparedStatementRequest. No result.",
    ),
    (
        SET_SESSION_OPTIONS,
        "Sets session options. Body: SetSessionOptionsRequest. Result: SetSessionOptionsResult.",
    ),
    (
        GET_SESSION_OPTIONS,
        "Reads the session options. Body: GetSessionOptionsRequest. Result: \
         GetSessionOptionsResult.",
    ),
    (
        CLOSE_SESSION,
        "Ends the session. Body: CloseSessionRequest. Result: CloseSessionResult.",
    ),
    (
        CANCEL_FLIGHT_INFO,
        "Cancels the query of a FlightInfo. Body: CancelFlightInfoRequest. Result: \
         CancelFlightInfoResult.",
    ),
];

/// A decoded action.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Prepare a statement.
    CreatePreparedStatement(ActionCreatePreparedStatementRequest),
    /// Close a prepared statement.
    ClosePreparedStatement(ActionClosePreparedStatementRequest),
    /// Set session options.
    SetSessionOptions(SetSessionOptionsRequest),
    /// Read all session options.
    GetSessionOptions,
    /// End the session.
    CloseSession,
    /// Cancel a query.
    CancelFlightInfo(Box<CancelFlightInfoRequest>),
    /// Begin an upload of several streams.
    StartUpload(StartUploadRequest),
    /// Make its rows visible.
    FinishUpload(UploadRequest),
    /// Give it up.
    AbortUpload(UploadRequest),
    /// Tell where to send the rows of a DoPut with this descriptor.
    PutLocation(FlightDescriptor),
}

/// Body of [`Action::StartUpload`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartUploadRequest {
    /// The database; that of the call when missing.
    pub database: Option<String>,
    /// The table.
    pub table: String,
}

/// Body of [`Action::FinishUpload`] and [`Action::AbortUpload`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UploadRequest {
    /// The upload, as `start-upload` answered.
    pub upload: String,
}

/// Why an action was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such action.
    #[error("action {action:?} is not known; ListActions names those that are")]
    Unknown {
        /// Type that was sent, cut to 100 characters.
        action: String,
    },
    /// The body is not the protobuf message of the action.
    #[error("the body of action {action} is not the protobuf message it takes; see ListActions")]
    Body {
        /// Type of the action.
        action: &'static str,
        /// What the decoder found.
        source: prost::DecodeError,
    },
    /// The body is a protobuf `Any` of another message.
    #[error("the body of action {action} must be an Any of {expected}, it is of {found:?}")]
    TypeUrl {
        /// Type of the action.
        action: &'static str,
        /// Type URL it takes.
        expected: &'static str,
        /// Type URL that was sent, cut to 100 characters.
        found: String,
    },
    /// The body is not the JSON of the action.
    #[error("the body of action {action} is not the JSON object it takes; see ListActions")]
    Json {
        /// Type of the action.
        action: &'static str,
        /// What the decoder found.
        source: serde_json::Error,
    },
    /// A field is empty that must not be.
    #[error("field {field} in the body of action {action} is empty")]
    EmptyField {
        /// Type of the action.
        action: &'static str,
        /// The field.
        field: &'static str,
    },
}

impl Error {
    /// Bounded name for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "action_unknown",
            Self::Body { .. } => "action_body",
            Self::TypeUrl { .. } => "action_type_url",
            Self::Json { .. } => "action_json",
            Self::EmptyField { .. } => "action_empty_field",
        }
    }
}

impl Action {
    /// Decodes an action by its type and body.
    ///
    /// - Errors: [`Error::Unknown`] for a type not in [`ACTIONS`], the others for its body.
    pub fn decode(action: &str, body: &[u8]) -> Result<Self, Error> {
        match action {
            CREATE_PREPARED_STATEMENT => {
                let request: ActionCreatePreparedStatementRequest =
                    unpack(CREATE_PREPARED_STATEMENT, body)?;
                if request.query.trim().is_empty() {
                    let action = CREATE_PREPARED_STATEMENT;
                    return Err(Error::EmptyField {
                        action,
                        field: "query",
                    });
                }
                Ok(Self::CreatePreparedStatement(request))
            }
            CLOSE_PREPARED_STATEMENT => Ok(Self::ClosePreparedStatement(unpack(
                CLOSE_PREPARED_STATEMENT,
                body,
            )?)),
            SET_SESSION_OPTIONS => Ok(Self::SetSessionOptions(plain(SET_SESSION_OPTIONS, body)?)),
            GET_SESSION_OPTIONS => {
                let GetSessionOptionsRequest {} = plain(GET_SESSION_OPTIONS, body)?;
                Ok(Self::GetSessionOptions)
            }
            CLOSE_SESSION => {
                let CloseSessionRequest {} = plain(CLOSE_SESSION, body)?;
                Ok(Self::CloseSession)
            }
            CANCEL_FLIGHT_INFO => {
                let request: CancelFlightInfoRequest = plain(CANCEL_FLIGHT_INFO, body)?;
                if request.info.is_none() {
                    return Err(Error::EmptyField {
                        action: CANCEL_FLIGHT_INFO,
                        field: "info",
                    });
                }
                Ok(Self::CancelFlightInfo(Box::new(request)))
            }
            START_UPLOAD => Ok(Self::StartUpload(json(START_UPLOAD, body)?)),
            FINISH_UPLOAD => Ok(Self::FinishUpload(json(FINISH_UPLOAD, body)?)),
            ABORT_UPLOAD => Ok(Self::AbortUpload(json(ABORT_UPLOAD, body)?)),
            // Nothing at all is a message too.
            PUT_LOCATION if body.is_empty() => Err(Error::EmptyField {
                action: PUT_LOCATION,
                field: "descriptor",
            }),
            PUT_LOCATION => Ok(Self::PutLocation(plain(PUT_LOCATION, body)?)),
            other => Err(Error::Unknown {
                action: other.chars().take(100).collect(),
            }),
        }
    }
}

fn json<T: serde::de::DeserializeOwned>(action: &'static str, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|source| Error::Json { action, source })
}

/// Result of preparing a statement. arrow-flight's message lacks `is_update`.
#[derive(Clone, PartialEq, Message)]
pub struct ActionCreatePreparedStatementResult {
    /// Handle the client sends back with each use of the statement.
    #[prost(bytes = "bytes", tag = "1")]
    pub prepared_statement_handle: Bytes,
    /// Schema message of the result; empty for an update, which JDBC drivers that do not know
    /// `is_update` go by.
    #[prost(bytes = "bytes", tag = "2")]
    pub dataset_schema: Bytes,
    /// Schema message of the parameters; empty when there are none.
    #[prost(bytes = "bytes", tag = "3")]
    pub parameter_schema: Bytes,
    /// Whether the statement is run by DoPut (true) or by GetFlightInfo and DoGet (false).
    #[prost(bool, optional, tag = "4")]
    pub is_update: Option<bool>,
}

impl ProstMessageExt for ActionCreatePreparedStatementResult {
    fn type_url() -> &'static str {
        "type.googleapis.com/arrow.flight.protocol.sql.ActionCreatePreparedStatementResult"
    }

    fn as_any(&self) -> Any {
        Any {
            type_url: Self::type_url().into(),
            value: self.encode_to_vec().into(),
        }
    }
}

impl ActionCreatePreparedStatementResult {
    /// Body of the `Result` message: the message in an `Any`.
    pub fn to_body(&self) -> Bytes {
        self.as_any().encode_to_vec().into()
    }
}

/// Body of the `Result` message of [`Action::CancelFlightInfo`].
pub fn cancel_flight_info_body(result: CancelFlightInfoResult) -> Bytes {
    result.encode_to_vec().into()
}

/// Options to set for a session; `Flight.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct SetSessionOptionsRequest {
    /// Values by option name; a value of `None` removes the option.
    #[prost(map = "string, message", tag = "1")]
    pub session_options: HashMap<String, SessionOptionValue>,
}

/// Value of a session option.
#[derive(Clone, PartialEq, Message)]
pub struct SessionOptionValue {
    /// The value; absent means the option is not set.
    #[prost(oneof = "OptionValue", tags = "1, 2, 3, 4, 5")]
    pub option_value: Option<OptionValue>,
}

/// The types a session option can have.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum OptionValue {
    /// Text.
    #[prost(string, tag = "1")]
    String(String),
    /// Truth value.
    #[prost(bool, tag = "2")]
    Bool(bool),
    /// Integer.
    #[prost(sfixed64, tag = "3")]
    Int64(i64),
    /// Number.
    #[prost(double, tag = "4")]
    Double(f64),
    /// List of texts.
    #[prost(message, tag = "5")]
    StringList(StringListValue),
}

/// List of texts as a session option.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StringListValue {
    /// The texts.
    #[prost(string, repeated, tag = "1")]
    pub values: Vec<String>,
}

/// Result of setting session options.
#[derive(Clone, PartialEq, Message)]
pub struct SetSessionOptionsResult {
    /// The options that were not set; an option that is not here was.
    #[prost(map = "string, message", tag = "1")]
    pub errors: HashMap<String, SessionOptionError>,
}

/// Why one option was not set.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SessionOptionError {
    /// The reason.
    #[prost(enumeration = "SessionOptionErrorKind", tag = "1")]
    pub value: i32,
}

/// Reasons an option is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum SessionOptionErrorKind {
    /// Not said; servers avoid it.
    Unspecified = 0,
    /// There is no such option.
    InvalidName = 1,
    /// The option does not take this value.
    InvalidValue = 2,
    /// The option cannot be set.
    Error = 3,
}

/// Asks for all session options.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct GetSessionOptionsRequest {}

/// All session options.
#[derive(Clone, PartialEq, Message)]
pub struct GetSessionOptionsResult {
    /// Values by option name.
    #[prost(map = "string, message", tag = "1")]
    pub session_options: HashMap<String, SessionOptionValue>,
}

/// Asks to end the session.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct CloseSessionRequest {}

/// Result of ending a session.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct CloseSessionResult {
    /// What became of it.
    #[prost(enumeration = "CloseSessionStatus", tag = "1")]
    pub status: i32,
}

/// What became of a session that was to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum CloseSessionStatus {
    /// Not said; servers avoid it.
    Unspecified = 0,
    /// It is closed.
    Closed = 1,
    /// It is being closed; the client may ask again.
    Closing = 2,
    /// It cannot be closed.
    NotCloseable = 3,
}

fn plain<M: Message + Default>(action: &'static str, body: &[u8]) -> Result<M, Error> {
    M::decode(body).map_err(|source| Error::Body { action, source })
}

fn unpack<M: ProstMessageExt>(action: &'static str, body: &[u8]) -> Result<M, Error> {
    let any: Any = plain(action, body)?;
    if any.type_url != M::type_url() {
        let found = any.type_url.chars().take(100).collect();
        return Err(Error::TypeUrl {
            action,
            expected: M::type_url(),
            found,
        });
    }
    plain(action, &any.value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use arrow_flight::FlightInfo;
    use proptest::prelude::*;

    #[test]
    fn a_prepare_request_is_unpacked() {
        let request = ActionCreatePreparedStatementRequest {
            query: "SELECT 1".into(),
            transaction_id: None,
        };
        let body = request.as_any().encode_to_vec();
        let action = Action::decode(CREATE_PREPARED_STATEMENT, &body).unwrap();
        assert_eq!(action, Action::CreatePreparedStatement(request));
    }

    #[test]
    fn a_prepare_request_without_a_statement_names_the_field() {
        let body = ActionCreatePreparedStatementRequest::default()
            .as_any()
            .encode_to_vec();
        let error = Action::decode(CREATE_PREPARED_STATEMENT, &body).unwrap_err();
        assert!(error.to_string().contains("query"), "{error}");
    }

    #[test]
    fn a_body_of_another_message_names_both_types() {
        let body = ActionClosePreparedStatementRequest::default()
            .as_any()
            .encode_to_vec();
        let text = Action::decode(CREATE_PREPARED_STATEMENT, &body)
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("ActionCreatePreparedStatementRequest"),
            "{text}"
        );
        assert!(
            text.contains("ActionClosePreparedStatementRequest"),
            "{text}"
        );
    }

    #[test]
    fn session_options_have_the_field_numbers_of_the_specification() {
        // {"catalog": string "d"}: map entry 1, key 1, value 2, string_value 1.
        let catalog = b"\x0a\x0e\x0a\x07catalog\x12\x03\x0a\x01d";
        let Action::SetSessionOptions(request) =
            Action::decode(SET_SESSION_OPTIONS, catalog).unwrap()
        else {
            unreachable!("the type decides the variant");
        };
        let value = request.session_options["catalog"].option_value.clone();
        assert_eq!(value, Some(OptionValue::String("d".into())));
        // int64_value is sfixed64 with number 3.
        let int = SessionOptionValue {
            option_value: Some(OptionValue::Int64(1)),
        };
        assert_eq!(int.encode_to_vec(), b"\x19\x01\0\0\0\0\0\0\0");
        let closed = CloseSessionResult {
            status: CloseSessionStatus::Closed.into(),
        };
        assert_eq!(closed.encode_to_vec(), b"\x08\x01");
    }

    #[test]
    fn is_update_is_field_four_and_absent_unless_set() {
        let result = |is_update| ActionCreatePreparedStatementResult {
            is_update,
            ..ActionCreatePreparedStatementResult::default()
        };
        assert_eq!(result(Some(true)).encode_to_vec(), b"\x20\x01");
        assert_eq!(result(Some(false)).encode_to_vec(), b"\x20\x00");
        assert_eq!(result(None).encode_to_vec(), b"");
        let known = arrow_flight::sql::ActionCreatePreparedStatementResult::type_url();
        assert_eq!(ActionCreatePreparedStatementResult::type_url(), known);
    }

    #[test]
    fn a_cancel_request_needs_a_flight_info() {
        let request = CancelFlightInfoRequest {
            info: Some(FlightInfo::new()),
        };
        let action = Action::decode(CANCEL_FLIGHT_INFO, &request.encode_to_vec()).unwrap();
        assert_eq!(action, Action::CancelFlightInfo(Box::new(request)));
        assert!(Action::decode(CANCEL_FLIGHT_INFO, b"").is_err());
    }

    #[test]
    fn every_listed_action_is_decoded_and_no_other() {
        for (action, _) in ACTIONS {
            let unknown = matches!(Action::decode(action, b""), Err(Error::Unknown { .. }));
            assert!(!unknown, "{action}");
        }
        assert!(matches!(
            Action::decode("BeginTransaction", b""),
            Err(Error::Unknown { .. })
        ));
    }

    proptest! {
        #[test]
        fn random_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..128)) {
            for (action, _) in ACTIONS {
                let _ = Action::decode(action, &body);
            }
        }
    }
}
