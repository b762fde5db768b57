//! What is wrong with a configuration, said so that its owner can mend it.

use std::fmt;
use std::path::PathBuf;

use crate::yaml::Cause;

/// Where the value of a setting came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Built in.
    Default,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable, by name.
    Env(String),
    /// A command line flag, by name.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "env {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One thing that is wrong, in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted name of the setting to change.
    pub setting: String,
    /// Cause and cure.
    pub message: String,
    /// Where the value came from, as far as that is known.
    pub origin: Option<Origin>,
}

impl Problem {
    pub(crate) fn new(setting: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            setting: setting.into(),
            message: message.into(),
            origin: None,
        }
    }

    pub(crate) fn with_origin(self, origin: &Origin) -> Self {
        Self {
            origin: Some(origin.clone()),
            ..self
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.message)?;
        match &self.origin {
            Some(origin) => write!(f, " ({origin})"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong; never empty. Displays as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

/// Why a configuration can't be used. Always the fault of who wrote it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read.
    #[error("can't read configuration file {}", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A file is not YAML.
    #[error("configuration file {} is not valid YAML", path.display())]
    ParseFile {
        /// The file.
        path: PathBuf,
        /// What the YAML library says, with line and column.
        #[source]
        source: Cause,
    },
    /// An environment variable with a setting is not UTF-8.
    #[error("environment variable {name} is not UTF-8 text")]
    EnvNotText {
        /// The variable.
        name: String,
    },
    /// Unknown settings or values of the wrong type, all at once.
    #[error("{0}")]
    Settings(Problems),
}

impl Error {
    /// Bounded name of the failure, for metrics and events.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::ReadFile { .. } => "read_file",
            Self::ParseFile { .. } => "parse_file",
            Self::EnvNotText { .. } => "env_not_text",
            Self::Settings(_) => "settings",
        }
    }
}
