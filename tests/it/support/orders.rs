//! Events so large that a segment is soon full.

use towpath::{NewEvent, Store};

/// A segment has room for some twenty.
pub(crate) const PAYLOAD: [u8; 3_000] = [7; 3_000];

/// Events of three streams in turn.
pub(crate) fn fill(store: &Store, events: u64) {
    for _ in 0..events {
        let stream = format!("order-{}", store.head().get() % 3);
        store.append(&stream, NewEvent::new("placed", &PAYLOAD)).unwrap();
    }
}
