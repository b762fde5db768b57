//! What an error says, with all its causes.

use std::error::Error;

/// The texts of an error and its causes, as a log shows them.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
