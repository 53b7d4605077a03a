//! What was removed from streams, and may still stand in segments until they are written again without it.

use std::collections::BTreeMap;

use crate::format::control::Control;
use crate::id::Revision;
use crate::log::ledger::ranges::Ranges;

/// By stream: the revisions that are gone for readers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removals(BTreeMap<String, Ranges>);

impl Removals {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether readers pass over this event.
    #[inline]
    pub(crate) fn hides(&self, stream: &str, revision: Revision) -> bool {
        self.0.get(stream).is_some_and(|gone| gone.contains(revision.get()))
    }

    /// The last revision of a stream that is written down as gone.
    pub(crate) fn last(&self, stream: &str) -> Option<Revision> {
        self.0.get(stream)?.stretches().last().map(|(_, last)| Revision::new(last))
    }

    /// The streams of which something is gone.
    pub(crate) fn streams(&self) -> impl Iterator<Item = (&str, &Ranges)> {
        self.0.iter().map(|(stream, gone)| (stream.as_str(), gone))
    }

    /// Events were removed.
    pub(crate) fn dropped(&mut self, stream: String, gone: &[(u64, u64)]) {
        let known = self.0.entry(stream).or_default();
        gone.iter().for_each(|(first, last)| known.add(*first, *last));
    }

    /// Nothing of these is left in any segment.
    pub(crate) fn purged(&mut self, stream: &str, gone: &[(u64, u64)]) {
        let Some(known) = self.0.get_mut(stream) else { return };
        gone.iter().for_each(|(first, last)| known.subtract(*first, *last));
        if known.is_empty() {
            self.0.remove(stream);
        }
    }

    /// All of it as records.
    pub(crate) fn records(&self) -> impl Iterator<Item = Control> {
        self.streams().map(|(stream, gone)| Control::Dropped { stream: stream.to_owned(), gone: gone.to_vec() })
    }

    /// Bytes that its records take, about.
    pub(crate) fn size(&self) -> usize {
        self.streams().map(|(stream, gone)| stream.len() + gone.len() * BYTES_A_STRETCH).sum()
    }
}

/// Two numbers of up to some millions.
pub(crate) const BYTES_A_STRETCH: usize = 8;
