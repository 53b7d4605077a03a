//! Going through the frames of a segment for an index: which terms stand where, and where frames are lost.

use crate::format::PAGE;
use crate::format::frame::{Found, Frame};
use crate::format::gap::{self, Reason};
use crate::format::index::{SPARSE, Summary, Unit};
use crate::format::names;
use crate::format::term::Term;
use crate::id::{Position, Revision, Timestamp};
use crate::log::terms;
use crate::segment::{Segment, after};

/// What was seen of a segment up to some offset, but for the terms.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) summary: Summary,
    /// The position that comes next.
    next: Position,
    /// For each run of [`SPARSE`] positions, where to begin to walk.
    pub(super) sparse: Vec<Unit>,
    /// Where frames are lost. What they bore is not known, so these belong to every term.
    pub(super) damaged: Vec<Lost>,
}

/// A damaged stretch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    pub(super) unit: Unit,
    /// The position that was to come there.
    pub(super) position: Position,
    pub(super) end: u64,
}

impl Survey {
    pub(super) fn new(segment: &Segment) -> Self {
        let header = &segment.header;
        Self {
            summary: Summary {
                store: header.store,
                nonce: header.nonce,
                first: header.first,
                events: 0,
                gone: 0,
                own_events: 0,
                streams: 0,
                end: PAGE as u64,
                first_time: Timestamp::default(),
                last_time: Timestamp::default(),
            },
            next: header.first,
            sparse: Vec::new(),
            damaged: Vec::new(),
        }
    }

    /// Goes on up to `limit`, and calls `each` for every term of the frames that have come since.
    pub(super) fn catch_up(&mut self, segment: &Segment, limit: u64, mut each: impl FnMut(Term, Unit)) {
        while self.summary.end < limit {
            let offset = self.summary.end;
            match segment.find(offset, limit) {
                Found::Frame(frame) if frame.position() == self.next && frame.is_control() => {
                    self.pass_over(frame, limit);
                }
                Found::Frame(frame) if frame.position() == self.next => {
                    self.reach(frame.position(), offset);
                    self.next = frame.position().next();
                    self.count(frame);
                    terms::of(frame, |term| each(term, Unit::of(offset)));
                    self.summary.end += frame.stride() as u64;
                }
                // A frame out of order is damage too: the table would grow to wherever it claims to be.
                Found::Frame(_) | Found::Blank | Found::Bad(_) => {
                    let next = segment.next_sound(offset, limit, self.next).unwrap_or(limit);
                    self.damaged.push(Lost { unit: Unit::of(offset), position: self.next, end: next });
                    if let Found::Frame(frame) = segment.find(next, limit) {
                        self.reach(frame.position(), offset);
                        self.next = frame.position();
                    }
                    self.summary.end = next;
                }
            }
        }
    }

    /// Goes behind a control record. Events that were lost may have borne any term, as those of a damaged stretch.
    fn pass_over(&mut self, frame: Frame<'_>, limit: u64) {
        let offset = self.summary.end;
        self.summary.end += frame.stride() as u64;
        let next = after(frame);
        if next == self.next {
            return;
        }
        let is_too_far = next.get() - self.summary.first.get() > gap::MOST;
        if is_too_far {
            // No writer made this, and the table would grow to wherever it claims to be.
            self.summary.end = limit;
        } else {
            self.reach(next.previous(), offset);
            self.count(frame);
        }
        if is_too_far || frame.gap().is_some_and(|gap| gap.reason == Reason::Lost) {
            self.damaged.push(Lost { unit: Unit::of(offset), position: self.next, end: self.summary.end });
        }
        self.next = next;
    }

    /// Makes the sparse table say that positions from the next one up to `position` are found by walking from `offset`.
    fn reach(&mut self, position: Position, offset: u64) {
        let chunks = (position.get().saturating_sub(self.summary.first.get()) / SPARSE as u64) as usize + 1;
        while self.sparse.len() < chunks {
            self.sparse.push(Unit::of(offset));
        }
    }

    fn count(&mut self, frame: Frame<'_>) {
        let own = frame.stream_bytes().first() == Some(&(names::OWN as u8));
        let summary = &mut self.summary;
        if summary.events + summary.gone == 0 {
            summary.first_time = frame.time();
        }
        summary.last_time = frame.time();
        if !frame.is_event() {
            summary.gone += frame.positions();
            return;
        }
        summary.events += 1;
        summary.own_events += u64::from(own);
        summary.streams += u64::from(!own && frame.revision() == Revision::new(1));
    }
}
