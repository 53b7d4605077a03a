//! What a canal hands out: batches of deliveries.

use std::borrow::Cow;
use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::canal::Token;
use crate::id::Timestamp;
use crate::log::event::Event;
use crate::segment::Segment;

/// Deliveries that were pulled together. Their events stay readable for as long as the batch lives.
#[derive(Debug, Default)]
pub struct Batch {
    consumer: Option<Arc<str>>,
    segments: Vec<Arc<Segment>>,
    items: Vec<Item>,
    /// What a group knows of each item; empty for canals that hand out everything in one order and count nothing.
    counts: Vec<Count>,
    canal: u64,
    claim: u64,
    skipped: u64,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    offset: u64,
    len: u32,
    /// In which of the batch's segments.
    segment: u32,
}

/// What a group knows of a delivery.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count {
    pub(crate) attempt: u32,
    pub(crate) first: Timestamp,
    pub(crate) order_key: Option<u64>,
}

/// An event as it is handed out, with what the canal knows of this hand-out. It can be used as the [`Event`] that it is.
///
/// A borrowed one lives in its batch; [`into_owned`](Delivery::into_owned) makes one that lives by itself.
#[derive(Clone, Debug)]
pub struct Delivery<'a> {
    event: Event<'a>,
    token: Token,
    count: Option<Count>,
    consumer: Option<Cow<'a, str>>,
}

impl Batch {
    pub(crate) fn new(consumer: Option<Arc<str>>, canal: u64, claim: u64) -> Self {
        Self { consumer, canal, claim, ..Self::default() }
    }

    /// How many deliveries it has.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing came.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The deliveries, in the order of the canal.
    pub fn iter(&self) -> Deliveries<'_> {
        Deliveries { batch: self, left: 0..self.items.len() }
    }

    /// One delivery, by its place in the batch, from 0.
    pub fn get(&self, at: usize) -> Option<Delivery<'_>> {
        (at < self.len()).then(|| self.delivery(at))
    }

    /// Names the last delivery, to settle all of it at once where that is possible.
    pub fn last(&self) -> Option<Token> {
        Some(self.delivery(self.len().checked_sub(1)?).token)
    }

    /// How many positions the canal passed over before this batch because its reader was too slow. Always 0 for a
    /// canal that promises to lose nothing.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    pub(crate) fn push(&mut self, segment: &Arc<Segment>, offset: u64, len: u32) {
        if self.segments.last().is_none_or(|last| !Arc::ptr_eq(last, segment)) {
            self.segments.push(segment.clone());
        }
        self.items.push(Item { offset, len, segment: self.segments.len() as u32 - 1 });
    }

    /// The same with what a group knows. All items of a batch are pushed in one of the two ways.
    pub(crate) fn push_counted(&mut self, segment: &Arc<Segment>, offset: u64, len: u32, count: Count) {
        self.push(segment, offset, len);
        self.counts.push(count);
    }

    pub(crate) fn set_skipped(&mut self, positions: u64) {
        self.skipped = positions;
    }

    #[inline]
    fn delivery(&self, at: usize) -> Delivery<'_> {
        let item = self.items[at];
        let event = Event::borrowed(&self.segments[item.segment as usize], item.offset, item.len);
        Delivery {
            token: Token { canal: self.canal, claim: self.claim, place: event.position().get() },
            event,
            count: self.counts.get(at).copied(),
            consumer: self.consumer.as_deref().map(Cow::Borrowed),
        }
    }
}

impl<'a> Delivery<'a> {
    /// The event.
    pub fn event(&self) -> &Event<'a> {
        &self.event
    }

    /// Names this delivery to the canal that made it.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Which attempt this is, from 1. Always 1 from a canal that does not count attempts.
    pub fn attempt(&self) -> u32 {
        self.count.map_or(1, |count| count.attempt)
    }

    /// Whether it was handed out before.
    pub fn is_redelivered(&self) -> bool {
        self.attempt() > 1
    }

    /// When it was handed out for the first time; `None` from a canal that does not remember it.
    pub fn first_handed_out(&self) -> Option<Timestamp> {
        self.count.map(|count| count.first)
    }

    /// Deliveries with the same order key must be handled one after the other, in this order; those with different
    /// ones need not. `None`: this one stands in no order. All deliveries of a canal that is ordered throughout share
    /// one key.
    pub fn order_key(&self) -> Option<u64> {
        self.count.map_or(Some(0), |count| count.order_key)
    }

    /// The same text for every attempt at this event by this consumer, and another one for every other event and every
    /// other consumer: for services outside that recognise a request which is made twice.
    pub fn idempotency_key(&self) -> String {
        match &self.consumer {
            Some(consumer) => format!("{}/{consumer}", self.event.id()),
            None => self.event.id().to_string(),
        }
    }

    /// The same delivery, keeping its event alive by itself. Costs a reference count, and a copy of the consumer's name.
    pub fn into_owned(self) -> Delivery<'static> {
        Delivery {
            event: self.event.into_owned(),
            token: self.token,
            count: self.count,
            consumer: self.consumer.map(|name| Cow::Owned(name.into_owned())),
        }
    }
}

impl<'a> Deref for Delivery<'a> {
    type Target = Event<'a>;

    fn deref(&self) -> &Event<'a> {
        &self.event
    }
}

/// The deliveries of a [`Batch`].
#[derive(Clone, Debug)]
pub struct Deliveries<'a> {
    batch: &'a Batch,
    left: Range<usize>,
}

impl<'a> Iterator for Deliveries<'a> {
    type Item = Delivery<'a>;

    #[inline]
    fn next(&mut self) -> Option<Delivery<'a>> {
        self.left.next().map(|at| self.batch.delivery(at))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.left.size_hint()
    }
}

impl ExactSizeIterator for Deliveries<'_> {}

impl<'a> IntoIterator for &'a Batch {
    type Item = Delivery<'a>;
    type IntoIter = Deliveries<'a>;

    fn into_iter(self) -> Deliveries<'a> {
        self.iter()
    }
}
