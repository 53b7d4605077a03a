//! Deliveries for sinks.

use std::time::Duration;

use towpath::{Batch, Canal, Delivery, NewEvent};

use super::Scratch;

/// What a consumer named `sink` is handed out of a store that holds these events, all of the stream `orders`.
pub(crate) fn delivered<'e>(events: impl IntoIterator<Item = NewEvent<'e>>) -> Batch {
    let dir = Scratch::in_memory();
    let store = dir.open();
    for event in events {
        store.append("orders", event).unwrap();
    }
    store.cursor("sink").open().unwrap().pull_batch(usize::MAX, Duration::ZERO).unwrap()
}

/// The same for events with these texts.
pub(crate) fn texts<const N: usize>(texts: [&str; N]) -> Batch {
    delivered(texts.map(|text| NewEvent::new("noted", text)))
}

pub(crate) fn records(batch: &Batch) -> Vec<Delivery<'_>> {
    batch.iter().collect()
}
