//! Questions about events: which ones to read, and which ones must not stand behind a position.

use crate::id::Position;

/// Which events are meant. Empty: all of them.
///
/// A query has items; an event matches when it matches one of them. An item asks for one of its streams (if it names
/// any), one of its categories (if any), one of its subjects (if any), one of its types (if any), and **all** of its tags.
///
/// ```
/// use towpath::Query;
/// // (type is placed or shipped, and tagged customer:7) or in stream audit-1
/// let query = Query::new().types(["placed", "shipped"]).tags(["customer:7"]).or(Query::new().stream("audit-1"));
/// ```
///
/// Streams whose names begin with `$` are the store's own and match only when they are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    pub(crate) items: Vec<Item>,
}

/// One alternative of a query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) streams: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) subjects: Vec<String>,
    pub(crate) types: Vec<String>,
    pub(crate) tags: Vec<String>,
}

impl Query {
    /// All events.
    pub fn new() -> Self {
        Self::default()
    }

    /// The events of one stream (or of several, by calling it again).
    #[must_use]
    pub fn stream(mut self, name: impl Into<String>) -> Self {
        self.item().streams.push(name.into());
        self
    }

    /// The events of all streams whose names begin with this and then `-`, or are just this. The part of a stream's
    /// name before its first `-` is its category.
    #[must_use]
    pub fn category(mut self, name: impl Into<String>) -> Self {
        self.item().categories.push(name.into());
        self
    }

    /// The events of all streams whose names fit a pattern (or one of several, by calling it again). Both are taken as parts
    /// separated by dots: `*` fits exactly one part, `>` at the end fits one or more, anything else only itself.
    ///
    /// | pattern | fits | does not fit |
    /// | --- | --- | --- |
    /// | `room.*.light` | `room.hall.light` | `room.light`, `room.hall.west.light` |
    /// | `room.>` | `room.hall`, `room.hall.light` | `room` |
    /// | `>` | every stream but the store's own | `$dead.mail` |
    ///
    /// Every text is a pattern: within a part `*` and `>` stand for themselves, as does `>` before the end, and a part may
    /// be empty. Streams whose names begin with `$` fit only a pattern that begins with `$` too.
    ///
    /// No index finds streams by a pattern: unless the query names types, tags or the like besides, it looks at every
    /// event.
    #[must_use]
    pub fn subject(mut self, pattern: impl Into<String>) -> Self {
        self.item().subjects.push(pattern.into());
        self
    }

    /// Events of one of these types.
    #[must_use]
    pub fn types<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.item().types.extend(names.into_iter().map(Into::into));
        self
    }

    /// Events that bear all of these tags.
    #[must_use]
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.item().tags.extend(tags.into_iter().map(Into::into));
        self
    }

    /// Events that match this query or the other one. If either asks for all events, so does the result.
    #[must_use]
    pub fn or(mut self, other: Query) -> Self {
        if self.is_all() || other.is_all() {
            return Query::new();
        }
        self.items.extend(other.items);
        self
    }

    /// Whether it asks for nothing in particular.
    pub fn is_all(&self) -> bool {
        self.items.is_empty() || self.items.iter().any(Item::is_all)
    }

    fn item(&mut self) -> &mut Item {
        if self.items.is_empty() {
            self.items.push(Item::default());
        }
        self.items.last_mut().expect("an item was pushed just now")
    }
}

impl Item {
    /// What it asks for, each with what it is called.
    pub(crate) fn lists(&self) -> [(&'static str, &Vec<String>); 5] {
        [
            ("stream name", &self.streams),
            ("category", &self.categories),
            ("subject pattern", &self.subjects),
            ("event type", &self.types),
            ("tag", &self.tags),
        ]
    }

    pub(crate) fn is_all(&self) -> bool {
        self.lists().iter().all(|(_, texts)| texts.is_empty())
    }
}

/// A commit's condition: no event that matches `unless` may stand after `after`.
///
/// This is the append condition of a dynamic consistency boundary: read what a decision depends on, remember the last
/// position, decide, and append on condition that nothing new of that kind has come since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    pub(crate) unless: Query,
    pub(crate) after: Position,
}

impl Condition {
    /// Refuse if any event matches, wherever it stands.
    pub fn unless(query: Query) -> Self {
        Self { unless: query, after: Position::START }
    }

    /// Refuse only if a matching event stands behind this position.
    #[must_use]
    pub fn after(mut self, position: Position) -> Self {
        self.after = position;
        self
    }
}

/// The part of a stream's name before its first `-`, or the whole name.
pub(crate) fn category(stream: &str) -> &str {
    stream.split_once('-').map_or(stream, |(category, _)| category)
}

/// Whether a stream's name fits a pattern, as [`Query::subject`] says.
pub(crate) fn fits(pattern: &str, stream: &str) -> bool {
    if stream.starts_with('$') && !pattern.starts_with('$') {
        return false;
    }
    let mut parts = stream.split('.');
    let mut asked = pattern.split('.').peekable();
    while let Some(one) = asked.next() {
        match parts.next() {
            None => return false,
            Some(_) if one == ">" && asked.peek().is_none() => return true,
            Some(part) if one != "*" && one != part => return false,
            Some(_) => {}
        }
    }
    parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_total_and_each_sign_means_one_thing() {
        for (pattern, fitting, other) in [
            ("a.*.c", &["a.b.c", "a..c", "a.*.c"][..], &["a.c", "a.b.b.c", "a.b.c.d", "a.b"][..]),
            ("*", &["a", "a-1"], &["a.b", "$a"]),
            (">", &["a", "a.b", "a.b.c"], &["$a", "$a.b"]),
            ("a.>", &["a.b", "a.b.c", "a."], &["a", "b.a"]),
            ("a.>.c", &["a.>.c"], &["a.b.c", "a.b"]),
            ("a*.b>", &["a*.b>"], &["aa.b", "ab.bc"]),
            (">.a", &[">.a"], &["b.a"]),
            ("a.b", &["a.b"], &["a", "a.b.c", "a.c"]),
            ("$a.*", &["$a.b"], &["$b.b", "$a", "a.b"]),
            ("$*", &["$*"], &["$a", "a"]),
            ("", &[""], &["a", "."]),
            ("*.*", &["a.b", "."], &["a", "$a.b"]),
        ] {
            fitting.iter().for_each(|stream| assert!(fits(pattern, stream), "{pattern} and {stream}"));
            other.iter().for_each(|stream| assert!(!fits(pattern, stream), "{pattern} and {stream}"));
        }
    }
}
