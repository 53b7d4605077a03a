//! Taking removed events out of the segments that they stand in: one pass over all that is pending, a piece at a time.

use crate::sync::primitive::Arc;

use crate::error::{Error, Result};
use crate::format::PAGE;
use crate::format::control::Control;
use crate::format::frame::{Found, Frame};
use crate::format::term::{Kind, Term};
use crate::id::{Position, Revision};
use crate::log::Log;
use crate::log::ledger::ranges::Ranges;
use crate::log::parts::Part;
use crate::log::removals::Removals;
use crate::log::rewrite::{Going, Progress, Rewrite, not_whole};
use crate::log::tiers::search::Search;
use crate::log::walk::latest;

/// What purging took out of a store: [`Store::purge`](crate::Store::purge).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Purged {
    /// Segments that were written again.
    pub segments: u64,
    /// Events that are gone from them.
    pub events: u64,
    /// Bytes that the segments have less.
    pub bytes: u64,
}

/// A pass that has begun.
#[derive(Debug)]
pub(crate) struct Purge {
    log: Arc<Log>,
    going: Arc<Going>,
    /// The first positions of the segments that hold something to remove, the first one last.
    left: Vec<Position>,
    rewriting: Option<Rewrite>,
    purged: Purged,
    /// What could not be written again.
    failure: Option<Error>,
}

/// How far a pass has come.
#[derive(Debug)]
pub(crate) enum Pass {
    Partly,
    /// Of these streams nothing that was removed is left, and this is to be written down.
    Done {
        purged: Purged,
        records: Vec<Control>,
        failure: Option<Error>,
    },
}

impl Purge {
    /// Begins a pass over these removals, whose records are on the disk, in the sealed segments that are.
    pub(crate) fn begin(log: Arc<Log>, removals: Arc<Removals>) -> Result<Self> {
        let mut going = Going { removals: removals.clone(), ..Going::default() };
        let mut left = Vec::new();
        for (stream, gone) in removals.streams() {
            let head = latest::standing(&log, stream, log.head())?.revision;
            if gone.contains(head.get()) {
                going.heads.insert(stream.to_owned(), head);
            }
            bearing(&log, stream, gone, going.heads.get(stream).copied(), |part| {
                let is_ready = part.segment.last().is_some_and(|last| last <= log.durable());
                left.extend(is_ready.then_some(part.segment.first()));
            })?;
        }
        left.sort_unstable();
        left.dedup();
        left.reverse();
        let going = Arc::new(going);
        Ok(Self { log, going, left, rewriting: None, purged: Purged::default(), failure: None })
    }

    /// Does a piece of it. On error what was done stays done, and the rest as it was.
    pub(crate) fn go_on(&mut self, pause: &mut dyn FnMut()) -> Result<Pass> {
        let Some(mut rewrite) = self.rewriting.take() else {
            let Some(first) = self.left.pop() else { return self.finish() };
            let part = match self.log.parts.of(first) {
                // Let go of meanwhile, and what was removed with it.
                Err(Error::Expired { .. }) => return Ok(Pass::Partly),
                part => part?,
            };
            if part.segment.first() == first && part.segment.is_sealed() {
                self.rewriting = Some(Rewrite::begin(self.log.directory.clone(), part, self.going.clone())?);
            }
            return Ok(Pass::Partly);
        };
        match rewrite.go_on(&self.log.parts, pause) {
            Ok(Progress::Partly) => self.rewriting = Some(rewrite),
            Ok(Progress::Done(freed)) => {
                self.log.counts.changed.add(1);
                self.purged.segments += 1;
                self.purged.events += freed.events;
                self.purged.bytes += freed.bytes;
            }
            Ok(Progress::Expired) => rewrite.abandon()?,
            Ok(Progress::Left) => {
                self.failure.get_or_insert_with(|| not_whole(rewrite.segment()));
                rewrite.abandon()?;
            }
            Err(error) => {
                let _left_for_the_next_who_opens = rewrite.abandon();
                return Err(error);
            }
        }
        Ok(Pass::Partly)
    }

    /// Gives up. What was done stays done.
    pub(crate) fn abandon(self) -> Result<()> {
        self.rewriting.map_or(Ok(()), Rewrite::abandon)
    }

    /// Whether nothing is left but to see what is done. No segment must be let go of meanwhile.
    pub(crate) fn is_at_the_end(&self) -> bool {
        self.left.is_empty() && self.rewriting.is_none()
    }

    fn finish(&mut self) -> Result<Pass> {
        let mut records = Vec::new();
        for (stream, gone) in self.going.removals.streams() {
            let mut is_left = false;
            let head = self.going.heads.get(stream).copied();
            bearing(&self.log, stream, gone, head, |_| is_left = true)?;
            if !is_left && is_known_by_heads(&self.log, stream, gone)? {
                records.push(Control::Purged { stream: stream.to_owned(), gone: gone.to_vec() });
            }
        }
        Ok(Pass::Done { purged: self.purged, records, failure: self.failure.take() })
    }
}

/// Whether a stream that was deleted, and of which nothing stood in the log by then, is known as such without its record, and
/// where it goes on.
fn is_known_by_heads(log: &Log, stream: &str, gone: &Ranges) -> Result<bool> {
    let stood = log.stood(stream)?;
    let is_told = stood.is_gone || !gone.contains(stood.revision.get());
    let traced = latest::standing(log, stream, log.head())?.traced;
    let goes_on_behind = gone.stretches().last().is_none_or(|(_, last)| last <= traced.get());
    Ok(goes_on_behind && (is_told || traced != stood.revision))
}

/// Whether something that was removed stands in a part.
pub(crate) fn is_needed(log: &Log, part: &Part) -> bool {
    let Some(removals) = log.removals() else { return false };
    removals.streams().any(|(stream, gone)| stands_in(part, stream, gone, |frame| frame.is_event()))
}

/// Calls `each` for every part in which something of a stream still stands that is gone. What is left of the stream's head
/// stays.
fn bearing(
    log: &Log,
    stream: &str,
    gone: &Ranges,
    head: Option<Revision>,
    mut each: impl FnMut(&Arc<Part>),
) -> Result<()> {
    let mut search = Search::term(Term::of(Kind::Stream, stream.as_bytes()));
    let mut from = Some(log.oldest());
    while let Some(next) = from {
        let part = match log.parts.search_forward(next, &mut search) {
            // Let go of meanwhile.
            Err(Error::Expired { oldest, .. }) => {
                from = Some(oldest);
                continue;
            }
            part => part?,
        };
        if stands_in(&part, stream, gone, |frame| !(frame.is_stub() && head == Some(frame.revision()))) {
            each(&part);
        }
        from = log.parts.following(part.segment.first());
    }
    Ok(())
}

/// Whether frames of a stream stand in a part that are gone, and that `counts` lets count.
fn stands_in(part: &Part, stream: &str, gone: &Ranges, counts: impl Fn(Frame<'_>) -> bool) -> bool {
    let limit = part.segment.written();
    let units = part.index.postings(Term::of(Kind::Stream, stream.as_bytes()), PAGE as u64, limit);
    units.into_iter().any(|unit| match part.segment.find(unit.offset(), limit) {
        Found::Frame(frame) if !frame.is_control() && frame.stream() == stream => {
            gone.contains(frame.revision().get()) && counts(frame)
        }
        _ => false,
    })
}
