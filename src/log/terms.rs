//! Which terms an event is found by, and whether an event is what a query means.

use crate::event::query::{Item, Query, category, fits};
use crate::format::frame::Frame;
use crate::format::names;
use crate::format::term::{Kind, Term};

/// Calls `each` for every term of an event.
pub(crate) fn of(frame: Frame<'_>, mut each: impl FnMut(Term)) {
    let stream = frame.stream();
    each(Term::of(Kind::Stream, stream.as_bytes()));
    if frame.is_stub() {
        return;
    }
    each(Term::of(Kind::Category, category(stream).as_bytes()));
    each(Term::of(Kind::Type, frame.type_bytes()));
    let extras = frame.extras();
    if extras.is_empty() {
        return;
    }
    extras.tags().for_each(|tag| each(Term::of(Kind::Tag, tag.as_bytes())));
    if let Some(id) = extras.id() {
        each(Term::of(Kind::Id, &id.to_be_bytes()));
    }
    for (kind, text) in [
        (Kind::Correlation, extras.correlation().map(str::as_bytes)),
        (Kind::Causation, extras.causation_bytes()),
        (Kind::Key, extras.key().map(str::as_bytes)),
    ] {
        text.into_iter().for_each(|text| each(Term::of(kind, text)));
    }
}

/// For each alternative of a filter, the ways to find its events: each a set of terms, one of which its events bear.
pub(crate) type Ways = Vec<Vec<Vec<Term>>>;

/// What a reader looks for.
#[derive(Clone, Debug)]
pub(crate) enum Filter {
    /// Events that a query means.
    Query(Query),
    /// Events that bear one term, compared as text.
    Exactly(Kind, Vec<u8>),
    /// Every event, the store's own too.
    Everything,
    /// Where this stream stood: its events, and what is left of those that are gone.
    Standing(Vec<u8>),
}

impl Filter {
    /// Whether every event of users passes.
    pub(crate) fn is_all(&self) -> bool {
        matches!(self, Filter::Query(query) if query.is_all())
    }

    /// Whether this event is meant.
    pub(crate) fn matches(&self, frame: Frame<'_>) -> bool {
        if frame.is_stub() {
            return matches!(self, Filter::Standing(stream) if frame.stream_bytes() == stream);
        }
        match self {
            Filter::Standing(stream) => frame.stream_bytes() == stream,
            Filter::Query(query) if query.items.is_empty() => !is_own(frame),
            Filter::Query(query) => query.items.iter().any(|item| item_matches(item, frame)),
            Filter::Exactly(kind, text) => bears(frame, *kind, text),
            Filter::Everything => true,
        }
    }

    /// How the index finds the events. `None` when an alternative names nothing to find them by.
    pub(crate) fn ways(&self) -> Option<Ways> {
        match self {
            Filter::Exactly(kind, text) => Some(vec![vec![vec![Term::of(*kind, text)]]]),
            Filter::Standing(stream) => Some(vec![vec![vec![Term::of(Kind::Stream, stream)]]]),
            Filter::Everything => None,
            Filter::Query(query) if query.is_all() => None,
            Filter::Query(query) => {
                let ways = query.items.iter().map(item_ways);
                ways.map(|ways| Some(ways).filter(|ways| !ways.is_empty())).collect()
            }
        }
    }
}

fn item_ways(item: &Item) -> Vec<Vec<Term>> {
    let terms = |kind, texts: &[String]| texts.iter().map(|text| Term::of(kind, text.as_bytes())).collect::<Vec<_>>();
    let mut ways: Vec<Vec<Term>> = item.tags.iter().map(|tag| vec![Term::of(Kind::Tag, tag.as_bytes())]).collect();
    ways.extend([
        terms(Kind::Stream, &item.streams),
        terms(Kind::Category, &item.categories),
        terms(Kind::Type, &item.types),
    ]);
    ways.retain(|way| !way.is_empty());
    ways
}

/// Whether an event stands in one of the store's own streams.
#[inline]
pub(crate) fn is_own(frame: Frame<'_>) -> bool {
    frame.stream_bytes().first() == Some(&(names::OWN as u8))
}

fn item_matches(item: &Item, frame: Frame<'_>) -> bool {
    let any = |names: &[String], name: &str| names.is_empty() || names.iter().any(|one| one == name);
    let names_own = |names: &[String]| names.iter().any(|name| name.starts_with(names::OWN));
    if is_own(frame) && item.streams.is_empty() && !names_own(&item.categories) && !names_own(&item.subjects) {
        return false;
    }
    any(&item.streams, frame.stream())
        && any(&item.types, frame.type_name())
        && (item.categories.is_empty() || any(&item.categories, category(frame.stream())))
        && (item.subjects.is_empty() || item.subjects.iter().any(|pattern| fits(pattern, frame.stream())))
        && item.tags.iter().all(|tag| frame.extras().tags().any(|one| one == tag))
}

fn bears(frame: Frame<'_>, kind: Kind, text: &[u8]) -> bool {
    let extras = frame.extras();
    match kind {
        Kind::Stream => frame.stream_bytes() == text,
        Kind::Category => category(frame.stream()).as_bytes() == text,
        Kind::Type => frame.type_bytes() == text,
        Kind::Tag => extras.tags().any(|tag| tag.as_bytes() == text),
        Kind::Correlation => extras.correlation().is_some_and(|id| id.as_bytes() == text),
        Kind::Causation => extras.causation_bytes() == Some(text),
        Kind::Key => extras.key().is_some_and(|key| key.as_bytes() == text),
        Kind::Id => extras.id().is_some_and(|id| id.to_be_bytes() == text),
    }
}
