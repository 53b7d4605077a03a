//! The fields that rows of `consumers`, `pending` and `dead` share. The names are fixed: scripts rely on them.

use serde::{Serialize, Serializer};
use towpath::Timestamp;

use crate::time::rfc3339;

/// A moment, or null.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(pub(crate) Option<Timestamp>);

impl Moment {
    /// For people.
    pub(crate) fn text(self) -> String {
        self.0.map_or_else(|| "-".to_owned(), rfc3339)
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.map(rfc3339).serialize(to)
    }
}

/// A field a line, names and values below each other.
pub(crate) fn lines(fields: &[(&str, String)]) -> Vec<String> {
    fields.iter().map(|(name, value)| format!("{name:<16}{value}")).collect()
}
