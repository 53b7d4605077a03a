//! Why a verb could not do what was asked, and how that is told: one sentence on stderr, with all causes.

use std::error::Error;
use std::io::{self, Write};

use crate::show;

/// A result of this program.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody reads the output any more: not an error.
    OutputClosed,
    /// What was asked about is not good. Exit status 1.
    NotGood(String),
    /// Exit status 2.
    CouldNotRun(String),
}

impl Failure {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Failure::CouldNotRun(why.into())
    }

    pub(crate) fn because(what: impl std::fmt::Display, cause: &dyn Error) -> Self {
        Failure::CouldNotRun(format!("{what}: {}", chain(cause)))
    }

    /// The same failure, after some words on where it was met.
    pub(crate) fn within(self, place: impl std::fmt::Display) -> Self {
        match self {
            Failure::OutputClosed => Failure::OutputClosed,
            Failure::NotGood(what) => Failure::NotGood(format!("{place}: {what}")),
            Failure::CouldNotRun(why) => Failure::CouldNotRun(format!("{place}: {why}")),
        }
    }
}

impl From<towpath::Error> for Failure {
    fn from(error: towpath::Error) -> Self {
        match error {
            // The library did its work and found the store, or the expectation, to be bad.
            towpath::Error::Damaged(_)
            | towpath::Error::Conflict { .. }
            | towpath::Error::KeyReused { .. }
            | towpath::Error::Withdrawn { .. } => Failure::NotGood(chain(&error)),
            _ => Failure::CouldNotRun(chain(&error)),
        }
    }
}

/// An error and what brought it about.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Tells it on stderr. Nothing is done when that is closed too.
pub(crate) fn complain(what: &str) {
    let _ = writeln!(io::stderr(), "towpath: {}", show::safe(what));
}
