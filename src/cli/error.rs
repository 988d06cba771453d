//! Why a command was not done, what a person is told, and the exit code that a script sees.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::output::{escape_json, printable};

/// Why a command was not done. The text is a sentence with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line cannot be meant.
    #[error("{0}")]
    Usage(String),
    /// There is no Roundsman to talk to.
    #[error("{0}")]
    Unreachable(String),
    /// Roundsman said no.
    #[error("{detail}")]
    Refused {
        /// Last part of the problem's type: `not-found`, `name-taken`, …
        kind: String,
        detail: String,
        /// The problem as it came.
        body: Value,
    },
    /// It was tried and did not work.
    #[error("{0}")]
    Failed(String),
    /// The reader of our output went away; there is nobody left to tell.
    #[error("the output was closed")]
    OutputClosed,
}

impl CliError {
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// What a script compares; part of the command line's contract (docs/cli.md).
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Refused { .. } | Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        }
    }

    fn kind(&self) -> &str {
        match self {
            Self::Usage(_) => "usage",
            Self::Unreachable(_) => "unreachable",
            Self::Refused { kind, .. } => kind,
            Self::Failed(_) => "failed",
            Self::OutputClosed => "output-closed",
        }
    }

    fn as_json(&self) -> Value {
        let mut object = match self {
            Self::Refused { body: Value::Object(members), .. } => members.clone(),
            _ => serde_json::Map::new(),
        };
        object.insert("error".to_owned(), json!(self.kind()));
        object.insert("detail".to_owned(), json!(self.to_string()));
        Value::Object(object)
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::OutputClosed
        } else {
            Self::Failed(format!("the output cannot be written: {error}"))
        }
    }
}

/// Tells the user on stderr and answers with the exit code.
#[must_use]
pub fn report(error: &CliError, as_json: bool) -> ExitCode {
    let text = match error {
        CliError::OutputClosed => String::new(),
        error if as_json => format!("{}\n", escape_json(&error.as_json().to_string())),
        error => format!("roundsman: {}\n", printable(&error.to_string())),
    };
    // A closed stderr leaves the exit code as the only messenger.
    drop(io::stderr().lock().write_all(text.as_bytes()));
    ExitCode::from(error.exit_code())
}
