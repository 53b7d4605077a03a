//! Going through one segment: what of it is whole, and what is lost.

use crate::copies::repair::consumers::Consumers;
use crate::copies::repair::search::{behind_claims, claims, given};
use crate::error::Result;
use crate::format::PAGE;
use crate::format::control::Control;
use crate::format::frame::{Found, Frame};
use crate::id::{Position, Timestamp};
use crate::log::parts::Part;
use crate::log::scan::unknown_record;
use crate::segment::after;

/// What stands in a segment.
pub(super) struct Read {
    pub(super) stretches: Vec<Stretch>,
    /// The control state to begin with when the segment's own is not whole, and where what follows it stands.
    pub(super) head: Option<(Vec<Control>, u64)>,
    /// The position behind the last one that stands here or is lost here.
    pub(super) next: Position,
    pub(super) end: u64,
    /// The CRC of the last whole frame.
    pub(super) last_crc: u32,
    pub(super) last_time: Timestamp,
    pub(super) events: u64,
}

/// A stretch that is not whole.
pub(super) struct Stretch {
    pub(super) offset: u64,
    pub(super) end: u64,
    pub(super) position: Position,
    pub(super) positions: u64,
    /// Records about consumers may have stood here.
    pub(super) records: bool,
    pub(super) what: String,
}

/// Where a segment ends.
#[derive(Clone, Copy)]
pub(super) enum Until {
    /// Another one follows.
    Sealed { last: Position },
    /// It is the newest; events up to here were there for sure, and frames up to this end.
    Newest { known: Position, end: u64 },
}

/// How far the reading of the control state has come that a segment begins with.
#[derive(PartialEq)]
enum Head {
    Coming,
    Whole,
    /// Some of it is lost; more of it may come up to the first event.
    Broken,
    /// It is made anew.
    Made,
}

impl Read {
    fn is_whole(&self) -> bool {
        self.stretches.is_empty() && self.head.is_none()
    }

    /// Whether the segment can be kept as it is.
    pub(super) fn keeps(&self, limit: u64) -> bool {
        self.is_whole() && self.end == limit
    }
}

/// Reads a segment up to `limit`, going on with what is known of consumers. `time` is that of the last frame before it.
pub(super) fn read(part: &Part, limit: u64, until: Until, time: Timestamp, known: &mut Consumers) -> Result<Read> {
    let mut reading = Reading::new(part, limit, until, time, known);
    while reading.read.end < limit {
        match part.segment.find(reading.read.end, limit) {
            Found::Frame(frame) if frame.position() == reading.read.next => reading.whole(frame)?,
            Found::Frame(_) => reading.damaged("positions do not follow each other"),
            Found::Blank => reading.damaged("a blank where frames were"),
            Found::Bad(what) => reading.damaged(what),
        }
    }
    Ok(reading.finish())
}

/// A segment that is being read.
struct Reading<'a> {
    part: &'a Part,
    limit: u64,
    until: Until,
    known: &'a mut Consumers,
    read: Read,
    head: Head,
    /// Records of the commit that is being read.
    pending: Vec<Control>,
    /// The last frame's commit goes on behind it.
    has_more: bool,
    /// What is lost before the next frame may be the beginning of its commit.
    may_be_cut: bool,
}

impl<'a> Reading<'a> {
    fn new(part: &'a Part, limit: u64, until: Until, time: Timestamp, known: &'a mut Consumers) -> Self {
        let read = Read {
            stretches: Vec::new(),
            head: None,
            next: part.segment.first(),
            end: PAGE as u64,
            last_crc: 0,
            last_time: time,
            events: 0,
        };
        let (head, pending) = (Head::Coming, Vec::new());
        Self { part, limit, until, known, read, head, pending, has_more: false, may_be_cut: false }
    }

    /// Takes in a frame that stands in its place.
    fn whole(&mut self, frame: Frame<'_>) -> Result<()> {
        if frame.positions() > 0 {
            if self.head == Head::Coming {
                self.break_head();
            }
            self.make_head();
            self.read.events += u64::from(frame.is_event());
        } else {
            let record = Control::decode(frame.payload()).ok_or_else(|| unknown_record(&self.part.segment, frame))?;
            match self.head {
                Head::Broken => self.known.surviving(record),
                _ => self.pending.push(record),
            }
        }
        self.has_more = frame.has_more();
        if !self.has_more {
            self.end_commit();
        }
        self.read.last_crc = frame.crc();
        self.read.last_time = self.read.last_time.max(frame.time());
        self.read.next = after(frame);
        self.read.end += frame.stride() as u64;
        Ok(())
    }

    /// The records of a commit count once it is whole.
    fn end_commit(&mut self) {
        match self.head {
            Head::Coming if matches!(self.pending.first(), Some(Control::Segments(_))) => {
                self.known.begin_anew(std::mem::take(&mut self.pending));
                self.head = Head::Whole;
            }
            Head::Coming => self.break_head(),
            Head::Broken => {}
            Head::Whole | Head::Made => self.known.commit(std::mem::take(&mut self.pending), self.may_be_cut),
        }
        self.may_be_cut = false;
    }

    /// Goes behind a stretch that is not whole.
    fn damaged(&mut self, what: &str) {
        let (segment, offset, next) = (&*self.part.segment, self.read.end, self.read.next);
        let end = self.part.behind_damage(offset, self.limit, next);
        let claimed = || behind_claims(segment, offset, self.limit, next);
        let end = if end < self.limit { end } else { claimed().unwrap_or(end) };
        let claims = claims(segment, offset, end);
        let following = match segment.find(end, self.limit) {
            Found::Frame(frame) if end < self.limit => frame.position(),
            _ => {
                let at_least = claims.as_ref().map_or(1, |claims| claims.events);
                end_of(self.until, next, at_least.max(given(segment, offset, end, next)))
            }
        };
        let positions = following.get().saturating_sub(next.get());
        let claims = claims.filter(|claims| claims.events == positions);
        let records = claims.as_ref().is_none_or(|claims| claims.records > 0);
        if self.head == Head::Coming {
            self.break_head();
        } else if records || !self.pending.is_empty() {
            self.known.doubt();
            self.pending.clear();
        }
        self.may_be_cut = claims.is_none_or(|claims| claims.has_more);
        self.has_more = false;
        if positions > 0 {
            self.make_head();
        }
        self.read.stretches.push(Stretch { offset, end, position: next, positions, records, what: what.to_owned() });
        self.read.next = next.max(following);
        self.read.end = end;
    }

    /// Ends, and notes what is missing behind the last frame.
    fn finish(mut self) -> Read {
        if self.head == Head::Coming {
            self.break_head();
        }
        self.make_head();
        let (at_end, next) = (self.read.end, self.read.next);
        let following = end_of(self.until, next, 0);
        let missing = following.get().saturating_sub(next.get());
        let is_told = self.read.stretches.last().is_some_and(|stretch| stretch.end == at_end);
        let is_cut = matches!(self.until, Until::Newest { end, .. } if at_end < end);
        if missing > 0 || self.has_more || is_cut {
            self.known.doubt();
        }
        if missing > 0 || self.has_more || is_cut && !is_told {
            let what = match () {
                () if missing > 0 => "the events behind it are missing",
                () if self.has_more => "its last commit is not whole",
                () => "the records behind it are missing",
            };
            self.read.stretches.push(Stretch {
                offset: at_end,
                end: at_end,
                position: next,
                positions: missing,
                records: true,
                what: what.to_owned(),
            });
            self.read.next = next.max(following);
        }
        self.read
    }

    /// Some of the control state is lost that the segment begins with. What came before the segment stands for it.
    fn break_head(&mut self) {
        self.known.doubt();
        std::mem::take(&mut self.pending).into_iter().for_each(|record| self.known.surviving(record));
        self.head = Head::Broken;
    }

    /// What follows the control state begins here. Makes that anew when it is broken.
    fn make_head(&mut self) {
        if self.head == Head::Broken {
            self.read.head = Some((self.known.records(), self.read.end));
            self.head = Head::Made;
        }
    }
}

/// The position behind the last one of a segment of which `next` has not come. `at_least` says how many come from there on
/// in the newest segment, as far as that is known otherwise.
fn end_of(until: Until, next: Position, at_least: u64) -> Position {
    match until {
        Until::Sealed { last } => last.next(),
        Until::Newest { known, .. } => known.next().max(Position::new(next.get() + at_least)),
    }
}
