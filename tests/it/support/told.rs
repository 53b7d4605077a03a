//! What a store says of its events, in a form that can be compared.

use std::path::Path;

use towpath::{Error, Event, Options, Query, Store};

/// Everything that an event says, in one comparable piece.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Told {
    pub(crate) position: u64,
    pub(crate) stream: String,
    pub(crate) revision: u64,
    pub(crate) type_name: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) time: u64,
    pub(crate) tags: Vec<String>,
    pub(crate) key: Option<String>,
}

impl Told {
    pub(crate) fn of(event: &Event<'_>) -> Self {
        Self {
            position: event.position().get(),
            stream: event.stream().to_owned(),
            revision: event.revision().get(),
            type_name: event.type_name().to_owned(),
            payload: event.payload().to_vec(),
            time: event.time().as_nanos(),
            tags: event.tags().map(str::to_owned).collect(),
            key: event.key().map(str::to_owned),
        }
    }
}

/// All events of a store, which has to read without an error.
pub(crate) fn all(store: &Store) -> Vec<Told> {
    store.read(Query::new()).map(|event| Told::of(&event.unwrap())).collect()
}

/// What reading gives: events, and errors in between.
pub(crate) fn read(store: &Store, query: Query) -> (Vec<Told>, Vec<Error>) {
    let (mut events, mut errors) = (Vec::new(), Vec::new());
    for item in store.read(query) {
        match item {
            Ok(event) => events.push(Told::of(&event)),
            Err(error) => errors.push(error),
        }
        assert!(events.len() + errors.len() < 100_000, "reading does not end");
    }
    (events, errors)
}

/// The error of opening what cannot be opened.
pub(crate) fn refusal(options: Options, path: &Path) -> Error {
    match options.open(path) {
        Ok(store) => panic!("{} opened, with {:?}", path.display(), store.recovery()),
        Err(error) => error,
    }
}
