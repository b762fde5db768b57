//! Log lines on standard error: JSON for machines, one coloured line for people.
//!
//! The filter can be changed while the process runs. Fields of the spans an event happens in, such
//! as `request_id`, are part of its line, so every line of a call can be found by its id.

mod json;
mod panics;

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::filter::{EnvFilter, LevelFilter, ParseError};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, reload};

pub use panics::log_panics;

/// How lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Pretty when standard error is a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One JSON object per line: `timestamp`, `level`, `target`, `message`, then all fields.
    Json,
    /// One line for people.
    Pretty,
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => Ok(Self::Auto),
            "json" => Ok(Self::Json),
            "pretty" => Ok(Self::Pretty),
            _ => Err(Error::UnknownFormat {
                found: text.to_owned(),
            }),
        }
    }
}

/// Why logging can't be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The format is none of ours.
    #[error("unknown log format {found:?}: allowed are auto, json and pretty")]
    UnknownFormat {
        /// The text as given.
        found: String,
    },
    /// The filter can't be understood; the old one, if any, stays.
    #[error("can't understand log filter {filter:?}; expected something like info,wal=debug")]
    Filter {
        /// The text as given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// A part of the filter is no level and names none; the old filter, if any, stays.
    #[error(
        "log filter {filter:?}: {found:?} is no level; expected error, warn, info, debug, trace, \
         off or module=level"
    )]
    UnknownLevel {
        /// The text as given.
        filter: String,
        /// The part of it.
        found: String,
    },
    /// Another subscriber is installed already.
    #[error("can't install the logger")]
    Install(#[source] TryInitError),
    /// The subscriber the handle belongs to is gone.
    #[error("can't replace the log filter")]
    Replace(#[source] reload::Error),
}

impl Error {
    /// Bounded name of the failure, for metrics and events.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::UnknownFormat { .. } => "unknown_format",
            Self::Filter { .. } => "filter",
            Self::UnknownLevel { .. } => "unknown_level",
            Self::Install(_) => "install",
            Self::Replace(_) => "replace",
        }
    }
}

type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;

/// Changes the filter of a running logger.
#[derive(Clone)]
pub struct FilterHandle(reload::Handle<EnvFilter, Registry>);

impl fmt::Debug for FilterHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FilterHandle").field(&self.filter()).finish()
    }
}

impl FilterHandle {
    /// Replaces the filter, at once and for all threads.
    ///
    /// # Errors
    /// [`Error::Filter`] or [`Error::UnknownLevel`] when it can't be understood: the old one stays.
    pub fn set_filter(&self, filter: &str) -> Result<(), Error> {
        self.0.reload(parse_filter(filter)?).map_err(Error::Replace)
    }

    /// The filter in force; empty when the logger is gone.
    #[must_use]
    pub fn filter(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }
}

/// Checks a filter without using it.
///
/// # Errors
/// [`Error::Filter`] or [`Error::UnknownLevel`] when it can't be understood.
pub fn check_filter(filter: &str) -> Result<(), Error> {
    parse_filter(filter).map(|_| ())
}

/// Sends the log lines of this process to standard error, from now on.
///
/// # Errors
/// [`Error::Filter`] or [`Error::UnknownLevel`] when the filter can't be understood,
/// [`Error::Install`] when there is a logger already.
pub fn init(format: Format, filter: &str) -> Result<FilterHandle, Error> {
    let terminal = std::io::stderr().is_terminal();
    let (subscriber, handle) = build(
        format,
        filter,
        BoxMakeWriter::new(std::io::stderr),
        terminal,
    )?;
    subscriber.try_init().map_err(Error::Install)?;
    Ok(handle)
}

/// A logger that writes to `writer` and is not installed, for tests and tools.
///
/// # Errors
/// [`Error::Filter`] or [`Error::UnknownLevel`] when the filter can't be understood.
pub fn build(
    format: Format,
    filter: &str,
    writer: BoxMakeWriter,
    terminal: bool,
) -> Result<(impl tracing::Subscriber + Send + Sync, FilterHandle), Error> {
    let (filter, handle) = reload::Layer::new(parse_filter(filter)?);
    let json = match format {
        Format::Auto => !terminal,
        Format::Json => true,
        Format::Pretty => false,
    };
    let lines: Box<dyn Layer<Filtered> + Send + Sync> = if json {
        Box::new(json::JsonLayer::new(writer))
    } else {
        Box::new(
            tracing_subscriber::fmt::layer()
                .with_ansi(terminal)
                .with_writer(writer),
        )
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    Ok((subscriber, FilterHandle(handle)))
}

fn parse_filter(filter: &str) -> Result<EnvFilter, Error> {
    // A lone word that is no level would be taken for a module, and everything else went silent.
    let no_level = |word: &str| word.is_empty() || word.parse::<LevelFilter>().is_err();
    for word in filter.split(',').map(str::trim) {
        if !word.contains(['=', '[']) && no_level(word) {
            return Err(Error::UnknownLevel {
                filter: filter.to_owned(),
                found: word.to_owned(),
            });
        }
    }
    EnvFilter::builder()
        .parse(filter)
        .map_err(|source| Error::Filter {
            filter: filter.to_owned(),
            source,
        })
}
