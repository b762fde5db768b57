//! Turns the engine's errors into ours, by their root cause: what the caller did wrong, what a part
//! of the cluster did, and what is a bug.

use std::sync::Arc;

use arrow_schema::ArrowError;
use datafusion::common::Diagnostic;
use datafusion::error::DataFusionError;
use datafusion::parquet::errors::ParquetError;
use datafusion::sql::sqlparser::parser::ParserError;
use flightcluster_keys::NewerFormat;
use tokio::task::JoinError;

use crate::{Error, Location};

/// How the engine says that the files of all queries on the scratch disk are too large.
const SPILLED_TOO_MUCH: &str = "The used disk space during the spilling process";

/// Turns the engine's errors into ours; knows the size of the memory pool for the message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sorter {
    pub(crate) memory_bytes: u64,
}

impl Sorter {
    /// Sorts `error` by its root cause.
    pub(crate) fn sort(self, doing: &'static str, error: DataFusionError) -> Error {
        let (root, location) = root_cause(&error);
        match root {
            DataFusionError::SQL(parser, _) => syntax(parser),
            DataFusionError::Plan(message) | DataFusionError::Configuration(message) => {
                Error::Plan {
                    message: message.clone(),
                    location,
                }
            }
            DataFusionError::SchemaError(schema, _) => Error::Plan {
                message: schema.to_string(),
                location,
            },
            DataFusionError::NotImplemented(message) => Error::NotImplemented {
                message: message.clone(),
            },
            DataFusionError::Execution(message) => Error::Value {
                message: message.clone(),
            },
            // What is spilled is written by the library of batches, which wraps the error.
            DataFusionError::ArrowError(arrow, _) if matches!(&**arrow, ArrowError::IoError(text, _) if text.starts_with(SPILLED_TOO_MUCH)) => {
                Error::ScratchExhausted {
                    source: Box::new(error),
                }
            }
            DataFusionError::ArrowError(arrow, _) => match user_mistake(arrow) {
                Some(message) => Error::Value { message },
                None => by_chain(doing, error),
            },
            DataFusionError::ResourcesExhausted(text) if text.starts_with(SPILLED_TOO_MUCH) => {
                Error::ScratchExhausted {
                    source: Box::new(error),
                }
            }
            DataFusionError::ResourcesExhausted(_) => Error::MemoryExhausted {
                limit_bytes: self.memory_bytes,
                source: Box::new(error),
            },
            DataFusionError::ExecutionJoin(join) => task_ended(join),
            DataFusionError::External(cause) => {
                let shared = cause.downcast_ref::<Arc<JoinError>>().map(AsRef::as_ref);
                match cause.downcast_ref::<JoinError>().or(shared) {
                    Some(join) => task_ended(join),
                    None => by_chain(doing, error),
                }
            }
            DataFusionError::IoError(_) => Error::Scratch {
                source: Box::new(error),
            },
            _ => by_chain(doing, error),
        }
    }
}

/// A task of the engine that did not come to its end.
fn task_ended(join: &JoinError) -> Error {
    match join.is_panic() {
        true => Error::Panic {
            message: join.to_string(),
        },
        false => Error::Cancelled,
    }
}

/// Object store and Parquet errors hide at any depth; what is neither is ours.
fn by_chain(doing: &'static str, error: DataFusionError) -> Error {
    if let Some(newer) = newer_file(&error) {
        return Error::NewerFile(newer);
    }
    let store = in_chain(&error, |cause| {
        cause.is::<object_store::Error>()
            || cause
                .downcast_ref::<ParquetError>()
                .is_some_and(lost_footer)
    });
    if store || matches!(error, DataFusionError::ObjectStore(_)) {
        return Error::ObjectStore {
            source: Box::new(error),
        };
    }
    let file = in_chain(&error, |cause| cause.is::<ParquetError>())
        || matches!(root_cause(&error).0, DataFusionError::ParquetError(_));
    if file {
        return Error::StoredFile {
            source: Box::new(error),
        };
    }
    match root_cause(&error).0 {
        // What is left from outside the engine comes from libraries that read a text of the
        // caller's, such as a regular expression.
        DataFusionError::External(cause) => Error::Value {
            message: cause.to_string(),
        },
        _ => Error::Engine {
            doing,
            source: Box::new(error),
        },
    }
}

/// The file of a newer release that an error is about.
fn newer_file(error: &DataFusionError) -> Option<NewerFormat> {
    match root_cause(error).0 {
        DataFusionError::External(cause) => cause.downcast_ref().cloned(),
        _ => None,
    }
}

/// Whether an error says that an object is not there.
pub(crate) fn is_lost_object(error: &DataFusionError) -> bool {
    in_chain(error, |cause| {
        matches!(
            cause.downcast_ref(),
            Some(object_store::Error::NotFound { .. })
        ) || matches!(cause.downcast_ref(), Some(ParquetError::General(text))
                if text.starts_with("Failed to fetch metadata") && text.contains("not found"))
    })
}

/// The engine's footer cache turns an object store error into a text; this is what it looks like.
fn lost_footer(error: &ParquetError) -> bool {
    matches!(error, ParquetError::General(text)
        if text.starts_with("Failed to fetch metadata") && text.contains("Object Store error"))
}

fn in_chain(
    error: &DataFusionError,
    is: impl Fn(&(dyn std::error::Error + 'static)) -> bool,
) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(this) = cause {
        if is(this) {
            return true;
        }
        cause = this.source();
    }
    false
}

/// The innermost engine error, and the first place in the statement found on the way.
fn root_cause(error: &DataFusionError) -> (&DataFusionError, Option<Location>) {
    let mut location = None;
    let mut this = error;
    loop {
        this = match this {
            DataFusionError::Context(_, inner) => inner,
            DataFusionError::Diagnostic(diagnostic, inner) => {
                location = location.or_else(|| place_of(diagnostic));
                inner
            }
            DataFusionError::Shared(inner) => inner,
            DataFusionError::Collection(errors) if !errors.is_empty() => &errors[0],
            DataFusionError::External(inner) => match inner.downcast_ref::<DataFusionError>() {
                Some(inner) => inner,
                None => return (this, location),
            },
            DataFusionError::ArrowError(arrow, _) => match &**arrow {
                ArrowError::ExternalError(inner) => match inner.downcast_ref::<DataFusionError>() {
                    Some(inner) => inner,
                    None => return (this, location),
                },
                _ => return (this, location),
            },
            _ => return (this, location),
        };
    }
}

fn place_of(diagnostic: &Diagnostic) -> Option<Location> {
    let start = diagnostic.span?.start;
    Some(Location {
        line: start.line,
        column: start.column,
    })
}

/// Arrow errors that come from the values a statement works on.
fn user_mistake(error: &ArrowError) -> Option<String> {
    match error {
        ArrowError::CastError(_)
        | ArrowError::ParseError(_)
        | ArrowError::ComputeError(_)
        | ArrowError::InvalidArgumentError(_)
        | ArrowError::DivideByZero
        | ArrowError::ArithmeticOverflow(_)
        | ArrowError::NotYetImplemented(_)
        | ArrowError::OffsetOverflowError(_) => Some(error.to_string()),
        _ => None,
    }
}

/// Takes the place out of a parser's message, which ends in ` at Line: 1, Column: 8`.
pub(crate) fn syntax(error: &ParserError) -> Error {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.as_str(),
        ParserError::RecursionLimitExceeded => "the statement is nested too deeply",
    };
    let (message, location) = split_location(text);
    Error::Syntax {
        message: message.to_owned(),
        location,
    }
}

fn split_location(text: &str) -> (&str, Option<Location>) {
    let Some((message, place)) = text.rsplit_once(" at Line: ") else {
        return (text, None);
    };
    let Some((line, column)) = place.split_once(", Column: ") else {
        return (text, None);
    };
    match (line.trim().parse(), column.trim().parse()) {
        (Ok(line), Ok(column)) => (message, Some(Location { line, column })),
        _ => (text, None),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, reason = "tests")]

    use super::*;

    const SORTER: Sorter = Sorter { memory_bytes: 1024 };

    #[test]
    fn the_place_of_a_syntax_error_is_taken_out_of_the_text() {
        let error = syntax(&ParserError::ParserError(
            "Expected: an expression, found: FROM at Line: 2, Column: 8".to_owned(),
        ));
        let Error::Syntax { message, location } = &error else {
            panic!("{error}")
        };
        assert_eq!(message, "Expected: an expression, found: FROM");
        assert_eq!(*location, Some(Location { line: 2, column: 8 }));
        assert_eq!(
            error.to_string(),
            "SQL syntax error at line 2, column 8: Expected: an expression, found: FROM"
        );
    }

    #[test]
    fn an_object_store_error_is_found_below_arrow_and_parquet() {
        let store = object_store::Error::NotFound {
            path: "a".to_owned(),
            source: "gone".into(),
        };
        let parquet = ParquetError::External(Box::new(store));
        let arrow = ArrowError::ExternalError(Box::new(parquet));
        let error = DataFusionError::Shared(Arc::new(DataFusionError::from(arrow)));
        let sorted = SORTER.sort("running", error);
        assert!(matches!(sorted, Error::ObjectStore { .. }), "{sorted:?}");
    }

    #[test]
    fn a_user_mistake_is_told_from_a_bug() {
        let divide = DataFusionError::from(ArrowError::DivideByZero);
        assert_eq!(SORTER.sort("running", divide).category(), "value");
        let bug = DataFusionError::Internal("impossible".to_owned()).context("somewhere");
        assert_eq!(SORTER.sort("running", bug).category(), "engine");
        let memory = DataFusionError::ResourcesExhausted("sort wants more".to_owned());
        let memory = SORTER.sort("running", memory.context("sorting"));
        assert!(
            memory.to_string().contains("query.memory_bytes = 1024"),
            "{memory}"
        );
    }
}
