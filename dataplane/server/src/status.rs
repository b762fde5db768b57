//! What a failed call tells its client: the machine code, the gRPC code, the text, whether and
//! where a retry helps.
//!
//! This is the only place that chooses gRPC codes and the only way to build a [`Status`] for a
//! client; `docs/errors.md` is generated from [`ErrorCode`]. Which failure of which crate becomes
//! which code is in `failure`.
//!
//! # On the wire
//! `grpc-status-details-bin` carries a `google.rpc.Status` with `ErrorInfo` (reason = the machine
//! code, domain [`DOMAIN`], metadata `retry_scope`), `RetryInfo` when there is a delay and
//! `RequestInfo`. pyarrow shows it as `extra_info`, but only when the trailer `x-arrow-status` is
//! there too, and that trailer changes the class of the exception for some codes, so it is sent
//! only for the codes where the class stays right. `x-fc-code` repeats the machine code as plain
//! text for clients that see no details.

use std::fmt::Write as _;
use std::time::Duration;

use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// `ErrorInfo.domain` of every error of this product.
pub const DOMAIN: &str = "flightcluster.io";

/// Longest message text, in bytes of its percent-encoded form. Clients drop calls whose trailers
/// exceed 8 to 16 KiB, and the text is sent twice: encoded, and in the details.
const MAX_MESSAGE_BYTES: usize = 3000;

/// Arrow's own status number for an I/O error: with it pyarrow hands the details to the caller.
const ARROW_STATUS_IO_ERROR: &str = "5";

/// When a repeat may succeed, where nobody knows better: what is away for a moment is seldom back sooner,
/// and clients that repeat at once make it worse.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Where a retry of the same call may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryScope {
    /// Not without a change by the caller or the cluster's owner.
    Never,
    /// At the same server.
    Here,
    /// At another server of the cluster.
    Other,
    /// Anywhere.
    Any,
}

impl RetryScope {
    /// As it stands in `ErrorInfo.metadata["retry_scope"]`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Here => "here",
            Self::Other => "other",
            Self::Any => "any",
        }
    }
}

/// Declares the error table once: code, gRPC code, retry scope, what the client and what the
/// cluster's owner should do.
macro_rules! error_codes {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal, $grpc:ident, $scope:ident,
       client: $client:literal, owner: $owner:literal;)*) => {
        /// The machine codes of this product, stable for ever.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[doc = $doc])* $variant,)*
        }

        impl ErrorCode {
            /// Every code, in the order of the page.
            pub const ALL: &'static [ErrorCode] = &[$(Self::$variant,)*];

            /// The machine code as sent in `x-fc-code`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The gRPC code.
            #[must_use]
            pub fn grpc(self) -> Code {
                match self { $(Self::$variant => Code::$grpc,)* }
            }

            /// Where a retry may help.
            #[must_use]
            pub fn retry_scope(self) -> RetryScope {
                match self { $(Self::$variant => RetryScope::$scope,)* }
            }

            fn explanation(self) -> (&'static str, &'static str, &'static str) {
                match self { $(Self::$variant => (concat!($($doc,)*), $client, $owner),)* }
            }
        }
    };
}

error_codes! {
    /// No token, an unknown one or an expired one.
    Unauthenticated = "UNAUTHENTICATED", Unauthenticated, Never,
        client: "Send a valid token as `authorization: Bearer TOKEN`.",
        owner: "Check the token files; `flightcluster_auth_failures_total` tells the reasons apart.";
    /// The token is valid but has no such right on this database.
    PermissionDenied = "PERMISSION_DENIED", PermissionDenied, Never,
        client: "Ask for the right, or use another database.",
        owner: "Give the token the permission it lacks.";
    /// The ticket is not one of this cluster, or was changed, or lacks a field.
    InvalidTicket = "INVALID_TICKET", InvalidArgument, Never,
        client: "Call GetFlightInfo again and use its ticket; a JSON ticket needs `database` and `sql_query`.",
        owner: "All pods must share one signing key.";
    /// The ticket was valid once.
    TicketExpired = "TICKET_EXPIRED", NotFound, Any,
        client: "Call GetFlightInfo again.",
        owner: "`server.ticket_ttl` sets the life of tickets.";
    /// The descriptor, command or action body can't be understood.
    InvalidCommand = "INVALID_COMMAND", InvalidArgument, Never,
        client: "Correct the command; the message names the field.",
        owner: "Nothing.";
    /// The SQL text has a syntax error or doesn't fit the tables.
    InvalidSql = "INVALID_SQL", InvalidArgument, Never,
        client: "Correct the statement.",
        owner: "Nothing.";
    /// A header, parameter or option has a wrong value.
    InvalidArgument = "INVALID_ARGUMENT", InvalidArgument, Never,
        client: "Correct what the message names.",
        owner: "Nothing.";
    /// The uploaded data can't be decoded.
    InvalidData = "INVALID_DATA", InvalidArgument, Never,
        client: "Correct the Arrow stream; batches acknowledged before are stored.",
        owner: "Nothing.";
    /// The uploaded columns don't fit the table.
    SchemaConflict = "SCHEMA_CONFLICT", InvalidArgument, Never,
        client: "Cast the named column, or write to another table.",
        owner: "Nothing.";
    /// A column has a type that can't be stored.
    UnsupportedType = "UNSUPPORTED_TYPE", InvalidArgument, Never,
        client: "Cast the named column to a type that can be stored.",
        owner: "Nothing.";
    /// There is no such table.
    TableNotFound = "TABLE_NOT_FOUND", NotFound, Never,
        client: "Check the name; unquoted SQL names are lower case.",
        owner: "Nothing.";
    /// There is no such upload of several streams, or it ended long ago.
    UploadNotFound = "UPLOAD_NOT_FOUND", NotFound, Never,
        client: "Begin an upload with `start-upload` and use the id of its answer.",
        owner: "Nothing.";
    /// The upload of several streams takes no more rows.
    UploadEnded = "UPLOAD_ENDED", FailedPrecondition, Never,
        client: "Begin a new upload, and send its rows again if the old one did not finish.",
        owner: "Uploads that rest for `ingest.upload_ttl` expire.";
    /// A batch of a producer came before one that has to be stored first: the message names it. It was refused
    /// before, or is under way. Of a stream with a name: rows came without those before them.
    ProducerOrder = "PRODUCER_ORDER", FailedPrecondition, Never,
        client: "Send again from the batch the message names; a stream with a name from its first row. When it was given up, and its rows were cut into other batches: give the next batch its number and count on from there, or use a new producer id. To retry the same number alone does not help.",
        owner: "Nothing.";
    /// There is no such database.
    DatabaseNotFound = "DATABASE_NOT_FOUND", NotFound, Never,
        client: "Check the name, or create the database by writing to it.",
        owner: "Nothing.";
    /// The table exists already.
    TableExists = "TABLE_EXISTS", AlreadyExists, Never,
        client: "Append to it, replace it, or choose another name.",
        owner: "Nothing.";
    /// The database exists already.
    DatabaseExists = "DATABASE_EXISTS", AlreadyExists, Never,
        client: "Use it, or choose another name.",
        owner: "Nothing.";
    /// The RPC, action or SQL statement is not offered.
    Unimplemented = "UNIMPLEMENTED", Unimplemented, Never,
        client: "Use one of the ways the message names.",
        owner: "Nothing.";
    /// The role of this server doesn't offer the call.
    WrongRole = "WRONG_ROLE", FailedPrecondition, Other,
        client: "Use the address of the cluster's query service.",
        owner: "Point clients at the query service.";
    /// The client left, or the call was cancelled.
    Cancelled = "CANCELLED", Cancelled, Any,
        client: "Nothing.",
        owner: "Nothing.";
    /// The time given by the client or by `query.timeout` is over.
    DeadlineExceeded = "DEADLINE_EXCEEDED", DeadlineExceeded, Any,
        client: "Allow more time, or ask for less.",
        owner: "See the queue and running queries in the metrics.";
    /// The client neither read nor wrote for `server.stream_idle_timeout`.
    Stalled = "STALLED", DeadlineExceeded, Any,
        client: "Read or write without long pauses, or start again.",
        owner: "`server.stream_idle_timeout` sets the limit.";
    /// Too many queries are waiting.
    QueueFull = "QUEUE_FULL", Unavailable, Any,
        client: "Retry after the delay.",
        owner: "Add queriers, or raise `query.max_concurrent_queries` or `query.queue_length`.";
    /// The ingester has as much in memory as it may, and nothing makes room soon enough.
    Overloaded = "OVERLOADED", Unavailable, Any,
        client: "Retry after the delay; the batch was not stored.",
        owner: "Check flushes and the object store; add ingesters, or give them more memory.";
    /// Rows that the ingester acknowledged can't be written to files for longer than `ingest.persist_lag`: they
    /// are on its volume only.
    PersistLag = "PERSIST_LAG", Unavailable, Any,
        client: "Retry after the delay; the batch was not stored.",
        owner: "Mend what the message says: the object store, the catalog, or the named table. Writes are taken by themselves after that.";
    /// The query needs more memory, or more scratch disk, than it may have.
    MemoryExhausted = "MEMORY_EXHAUSTED", ResourceExhausted, Never,
        client: "Ask for less at once.",
        owner: "Raise the setting the message names, or the memory limit of the pod.";
    /// A message is larger than the server accepts, or one row is larger than it may send.
    MessageTooLarge = "MESSAGE_TOO_LARGE", ResourceExhausted, Never,
        client: "Send smaller batches.",
        owner: "`server.max_message_bytes` sets the limit.";
    /// The volume of the ingester is full.
    DiskFull = "DISK_FULL", ResourceExhausted, Other,
        client: "Retry later; the batch was not stored.",
        owner: "Check that flushes succeed; then grow the volume, or raise `ingest.wal_bytes`.";
    /// The server is starting.
    NotReady = "NOT_READY", Unavailable, Any,
        client: "Retry after the delay.",
        owner: "`/startup` on the admin port tells what it waits for.";
    /// The server is stopping.
    Draining = "DRAINING", Unavailable, Other,
        client: "Retry after the delay on a new connection.",
        owner: "Nothing.";
    /// An ingester that may have rows of the table in no file can't be reached, is silent for thirty seconds, or can't read them from its log: the message names the segment.
    IngesterUnavailable = "INGESTER_UNAVAILABLE", Unavailable, Any,
        client: "Retry after the delay. A query can ask for the rows that can be reached, with `x-fc-partial`.",
        owner: "Bring the named ingester back; the answer would miss its rows. A damaged segment: see [the log](reference/wal-format.md).";
    /// The catalog can't be reached.
    CatalogUnavailable = "CATALOG_UNAVAILABLE", Unavailable, Any,
        client: "Retry after the delay.",
        owner: "Bring the catalog back.";
    /// The object store can't be reached or fails.
    StoreUnavailable = "STORE_UNAVAILABLE", Unavailable, Any,
        client: "Retry after the delay.",
        owner: "Check the object store and its credentials.";
    /// The write-ahead log can't be written; the process has to start again.
    WalFailed = "WAL_FAILED", Unavailable, Other,
        client: "Retry after the delay; a batch that was not acknowledged may be stored.",
        owner: "Check the volume of the ingester and its log.";
    /// A table changed between planning and reading, or between two writers.
    SchemaChanged = "SCHEMA_CHANGED", Unavailable, Any,
        client: "Call GetFlightInfo again, or retry the write.",
        owner: "Nothing.";
    /// A bug of this product. Details are in the server's log under the request id.
    Internal = "INTERNAL", Internal, Never,
        client: "Report it with the request id.",
        owner: "Look for the request id in the log and report it.";
}

impl ErrorCode {
    /// When a repeat of the same call may succeed, if the failure itself does not say.
    fn retry_after(self) -> Option<Duration> {
        let waits = matches!(self.grpc(), Code::Unavailable | Code::ResourceExhausted);
        (waits && self.retry_scope() != RetryScope::Never).then_some(RETRY_AFTER)
    }

    /// Whether `x-arrow-status` keeps the class of pyarrow's exception right (measured).
    fn arrow_status_is_safe(self) -> bool {
        match self.grpc() {
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::PermissionDenied
            | Code::Internal
            | Code::Unavailable
            | Code::Unauthenticated => true,
            Code::Ok
            | Code::Unknown
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::DataLoss => false,
        }
    }
}

/// A failure on its way to a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Which one.
    pub code: ErrorCode,
    /// What the client reads: cause and cure.
    pub message: String,
    /// When a retry may succeed, if that is known better than by the code.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure with the retry delay of its code.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after: None,
        }
    }

    /// The same with a retry delay of its own.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// The gRPC status of this failure in the call `request_id`. A bug of ours is logged here, the
    /// client learns only where to look.
    #[must_use]
    pub fn into_status(self, request_id: &str) -> Status {
        let message = match self.code {
            ErrorCode::Internal => {
                tracing::error!(request_id, error = self.message, "internal error");
                format!("internal error, request id {request_id} [INTERNAL]")
            }
            code => format!("{} [{}]", shorten(&self.message), code.as_str()),
        };
        let mut details = ErrorDetails::new();
        details.set_error_info(
            self.code.as_str(),
            DOMAIN,
            [(
                "retry_scope".to_owned(),
                self.code.retry_scope().as_str().to_owned(),
            )],
        );
        details.set_request_info(request_id, "");
        if let Some(delay) = self.retry_after.or(self.code.retry_after()) {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details_and_metadata(
            self.code.grpc(),
            message,
            details,
            trailers(self.code, request_id),
        )
    }
}

fn trailers(code: ErrorCode, request_id: &str) -> MetadataMap {
    let mut trailers = MetadataMap::new();
    trailers.insert("x-fc-code", MetadataValue::from_static(code.as_str()));
    if let Ok(id) = request_id.parse() {
        trailers.insert("x-request-id", id);
    }
    if code.arrow_status_is_safe() {
        trailers.insert(
            "x-arrow-status",
            MetadataValue::from_static(ARROW_STATUS_IO_ERROR),
        );
    }
    trailers
}

/// Cuts between characters, by what they need on the wire.
fn shorten(message: &str) -> String {
    let mut bytes = 0;
    let cut = message.char_indices().find(|(_, character)| {
        bytes += match character {
            ' '..='~' if *character != '%' => 1,
            other => other.len_utf8() * "%00".len(),
        };
        bytes > MAX_MESSAGE_BYTES
    });
    match cut {
        Some((at, _)) => format!("{}…", &message[..at]),
        None => message.to_owned(),
    }
}

/// The text of an error with its causes, each once: some libraries repeat the cause's text in
/// their own.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}

/// The page `docs/errors.md`.
#[must_use]
pub fn errors_page() -> String {
    let mut page = String::from(
        "# Errors\n\n\
         Generated from `dataplane/server/src/status.rs`; do not edit.\n\n\
         Every failed call carries the code below in the trailer `x-fc-code`, at the end of the \
         message, and as `ErrorInfo.reason` (domain `flightcluster.io`) of the `google.rpc.Status` \
         in `grpc-status-details-bin`, there with `retry_scope` (`never`, `here`, `other`, `any`), \
         a retry delay (`RetryInfo`) where a repeat \
         after it may help, and the request id. An error without a code was made by \
         the transport, not by this product.\n\n\
         | code | gRPC | retry | meaning | the client | the cluster's owner |\n\
         |---|---|---|---|---|---|\n",
    );
    for code in ErrorCode::ALL {
        let (meaning, client, owner) = code.explanation();
        // Writing to a String can't fail.
        let _ = writeln!(
            page,
            "| `{}` | {:?} ({}) | {} | {} | {client} | {owner} |",
            code.as_str(),
            code.grpc(),
            code.grpc() as i32,
            code.retry_scope().as_str(),
            meaning.trim(),
        );
    }
    page
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_code_has_its_own_name() {
        let names: HashSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
    }

    /// S3-26: the payload is always there, decodes, and stays under 4 KiB.
    #[test]
    fn every_status_carries_its_code_within_four_kib() {
        for code in ErrorCode::ALL {
            let failure =
                Failure::new(*code, "ž".repeat(5000)).retry_after(Duration::from_millis(1500));
            let status = failure.into_status("0123456789abcdef");
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!(info.reason, code.as_str());
            assert_eq!(info.metadata["retry_scope"], code.retry_scope().as_str());
            assert_eq!(
                details.request_info().unwrap().request_id,
                "0123456789abcdef"
            );
            assert!(
                status.details().len() < 4096,
                "{code:?}: {}",
                status.details().len()
            );
            assert!(status.message().ends_with(&format!("[{}]", code.as_str())));
        }
    }

    /// Issue section 1: past a limit a client is told when to come back.
    #[test]
    fn what_a_repeat_can_cure_says_when_to_repeat() {
        let delay = |failure: Failure| {
            let details = failure.into_status("id").get_error_details();
            details.retry_info().and_then(|info| info.retry_delay)
        };
        for code in ErrorCode::ALL {
            let waits = matches!(code.grpc(), Code::Unavailable | Code::ResourceExhausted);
            let expected = match code.retry_scope() {
                RetryScope::Never => None,
                _ => waits.then_some(Duration::from_secs(1)),
            };
            assert_eq!(delay(Failure::new(*code, "x")), expected, "{code:?}");
        }
        let own = Failure::new(ErrorCode::Overloaded, "x").retry_after(Duration::from_secs(9));
        assert_eq!(delay(own), Some(Duration::from_secs(9)));
    }

    #[test]
    fn internal_failures_hide_their_cause() {
        let status = Failure::new(ErrorCode::Internal, "secret path /x").into_status("id-1");
        assert!(!status.message().contains("secret"));
        assert!(status.message().contains("id-1"));
    }

    /// S3-26: percent-encoding makes nine bytes of a character of three.
    #[test]
    fn a_long_message_is_cut_by_what_it_needs_on_the_wire() {
        for (character, bytes) in [("a", 1), ("%", 3), ("ž", 6), ("漢", 9), ("🦀", 12)] {
            let short = shorten(&character.repeat(10_000));
            let kept = short.chars().count() - 1;
            assert_eq!(kept, MAX_MESSAGE_BYTES / bytes, "{character}");
            assert!(short.ends_with('…'));
            assert_eq!(shorten(character), character);
        }
    }

    /// Requirements §6: with this trailer pyarrow would turn an InvalidArgument into another class.
    #[test]
    fn the_arrow_status_trailer_is_left_out_where_it_changes_the_class() {
        let with = Failure::new(ErrorCode::Unauthenticated, "x").into_status("i");
        assert!(with.metadata().contains_key("x-arrow-status"));
        for code in [
            ErrorCode::InvalidSql,
            ErrorCode::TableNotFound,
            ErrorCode::TableExists,
        ] {
            let without = Failure::new(code, "x").into_status("i");
            assert!(
                !without.metadata().contains_key("x-arrow-status"),
                "{code:?}"
            );
        }
    }

    #[test]
    fn a_cause_already_told_is_not_told_again() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: inner text")]
        struct Outer(#[source] Inner);
        #[derive(Debug, thiserror::Error)]
        #[error("inner text")]
        struct Inner;
        assert_eq!(chain(&Outer(Inner)), "outer: inner text");
    }

    #[test]
    fn the_errors_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(path, errors_page()).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(
            committed,
            errors_page(),
            "run with UPDATE_EXPECT=1 and commit docs/errors.md"
        );
    }
}
