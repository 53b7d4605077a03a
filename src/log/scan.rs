//! Reading one segment frame by frame, and telling a torn end from damage.

use crate::error::{Damage, Error, Result};
use crate::format::PAGE;
use crate::format::control::Control;
use crate::format::frame::{ALIGN, Found, Frame, flag};
use crate::id::{Position, Timestamp};
use crate::log::state::State;
use crate::segment::{Segment, after};

/// The smallest piece of a file that a disk writes whole.
const SECTOR: u64 = 512;

/// What a segment holds, up to the last whole commit.
#[derive(Clone, Debug)]
pub(crate) struct Scan {
    /// Where the last whole commit ends.
    pub(crate) end: u64,
    /// The position that comes next.
    pub(crate) next: Position,
    /// The CRC of the last frame, 0 when there is none.
    pub(crate) last_crc: u32,
    pub(crate) last_time: Timestamp,
    /// Events in whole commits.
    pub(crate) events: u64,
    /// The last frame is the closing record.
    pub(crate) closed: bool,
    /// The last position that the frames themselves prove to be durable.
    pub(crate) durable: Position,
    pub(crate) state: State,
    /// The segments before this one, from the record at its head; `None` when that is missing.
    pub(crate) firsts: Option<Vec<Position>>,
    /// The first place that is not a whole frame.
    stop: u64,
    why: Option<&'static str>,
    /// What was passed over, when that was asked for.
    pub(crate) damage: Vec<Damage>,
}

/// What to do at a place that is not a whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtDamage {
    Stop,
    /// Go on behind it, where frames follow.
    PassOver,
}

/// What stands behind the last whole commit.
#[derive(Debug)]
pub(crate) enum Tail {
    /// Nothing.
    Blank,
    /// What a crash leaves of a write that was never acknowledged as durable. Ends here.
    Torn { end: u64 },
    /// Something that was whole once.
    Damaged(Damage),
}

/// Reads the frames of a segment up to `limit`. The segment must allow it.
pub(crate) fn scan(segment: &Segment, limit: u64, at_damage: AtDamage) -> Result<Scan> {
    let first = segment.first();
    let mut scan = Scan {
        end: PAGE as u64,
        next: first,
        last_crc: 0,
        last_time: Timestamp::default(),
        events: 0,
        closed: false,
        durable: Position::START,
        state: State::default(),
        firsts: None,
        stop: PAGE as u64,
        why: None,
        damage: Vec::new(),
    };
    let mut commit = Commit { next: first, ..Commit::default() };
    let mut offset = PAGE as u64;
    loop {
        scan.why = match segment.find(offset, limit) {
            Found::Frame(frame) if frame.position() == commit.next => {
                offset += frame.stride() as u64;
                commit.take_in(frame).map_err(|()| unknown_record(segment, frame))?;
                if !frame.has_more() {
                    scan.complete(std::mem::take(&mut commit), frame, offset);
                    commit.next = scan.next;
                }
                continue;
            }
            Found::Frame(_) => Some("positions do not follow each other"),
            Found::Blank => None,
            Found::Bad(why) => Some(why),
        };
        scan.stop = offset;
        let behind = match at_damage {
            AtDamage::PassOver => segment.next_sound(offset, data_end(segment, offset, limit), commit.next),
            AtDamage::Stop => None,
        };
        let Some(behind) = behind else { return Ok(scan) };
        let what = scan.why.unwrap_or("a blank where frames were");
        scan.damage.push(segment.damage(offset, behind, commit.next, what));
        let Found::Frame(frame) = segment.find(behind, limit) else { return Ok(scan) };
        commit = Commit { next: frame.position(), ..Commit::default() };
        offset = behind;
    }
}

/// The frames of the commit that is being read.
#[derive(Default)]
struct Commit {
    next: Position,
    events: u64,
    durable: Option<Position>,
    time: Timestamp,
    records: Vec<Control>,
}

impl Commit {
    fn take_in(&mut self, frame: Frame<'_>) -> Result<(), ()> {
        if frame.flags() & flag::SYNCED != 0 {
            self.durable = Some(frame.position().previous());
        }
        if frame.is_control() {
            self.records.push(Control::decode(frame.payload()).ok_or(())?);
        } else {
            self.events += 1;
        }
        self.time = self.time.max(frame.time());
        self.next = after(frame);
        Ok(())
    }
}

impl Scan {
    fn complete(&mut self, commit: Commit, last: Frame<'_>, end: u64) {
        self.end = end;
        self.next = commit.next;
        self.last_crc = last.crc();
        self.last_time = self.last_time.max(commit.time);
        self.events += commit.events;
        self.durable = commit.durable.unwrap_or(self.durable);
        self.closed = commit.records == [Control::Closed];
        for record in commit.records {
            match record {
                Control::Segments(firsts) if self.firsts.is_none() => self.firsts = Some(firsts),
                record => self.state.apply(record),
            }
        }
    }

    /// The first stretch up to `limit` that is damaged, passed over or not.
    pub(crate) fn first_damage(&self, segment: &Segment, limit: u64, durable: Position) -> Option<Damage> {
        self.damage.first().cloned().or_else(|| match self.tail(segment, limit, durable) {
            Tail::Damaged(damage) => Some(damage),
            Tail::Blank | Tail::Torn { .. } => None,
        })
    }

    /// Decides what stands behind the last whole commit of a segment that nobody writes, up to `limit`. `durable` is the
    /// last position known to have been on the disk.
    pub(crate) fn tail(&self, segment: &Segment, limit: u64, durable: Position) -> Tail {
        let end = data_end(segment, self.end, limit);
        if end <= self.end && self.next > durable {
            return Tail::Blank;
        }
        let damaged = |what: &str| {
            let behind = segment.next_sound(self.stop, end, self.next).unwrap_or(end.max(self.stop));
            Tail::Damaged(segment.damage(self.stop, behind, self.next, what))
        };
        if self.next <= durable {
            return damaged(self.why.unwrap_or("a blank where frames were"));
        }
        if segment.any_synced(self.stop, end, self.next) {
            return damaged("a frame is not whole, and frames written after it was on the disk follow");
        }
        match self.why {
            Some(why) if !is_torn(segment, self.stop, end) => damaged(why),
            _ => Tail::Torn { end },
        }
    }
}

/// Whether the bytes of the frame at `offset` look like a write that was cut: a whole sector of it is zeroes, or
/// everything from somewhere inside it is.
fn is_torn(segment: &Segment, offset: u64, data_end: u64) -> bool {
    let header = segment.bytes(offset, offset + 4);
    let Ok(len) = header.try_into().map(u32::from_le_bytes) else { return true };
    let frame_end = offset + u64::from(len);
    if frame_end.next_multiple_of(ALIGN as u64) > segment.capacity() || data_end < frame_end {
        return true;
    }
    // `data_end` is rounded up to where a frame could begin.
    if segment.bytes(frame_end - 1, data_end).iter().all(|byte| *byte == 0) {
        return true;
    }
    let mut from = offset;
    while from < frame_end {
        let to = ((from / SECTOR + 1) * SECTOR).min(frame_end);
        if segment.bytes(from, to).iter().all(|byte| *byte == 0) {
            return true;
        }
        from = to;
    }
    false
}

/// Behind the last byte that is not zero, rounded up to where a frame could begin.
pub(crate) fn data_end(segment: &Segment, from: u64, to: u64) -> u64 {
    const BLANK: [u8; 4096] = [0; 4096];
    let end = to;
    let to = to.min(segment.data_end().max(from));
    let bytes = segment.bytes(from, to);
    let mut used = bytes.len();
    for chunk in bytes.rchunks(BLANK.len()) {
        if chunk != &BLANK[..chunk.len()] {
            used -= chunk.iter().rev().take_while(|byte| **byte == 0).count();
            break;
        }
        used -= chunk.len();
    }
    (from + (used as u64).next_multiple_of(8)).min(end)
}

pub(crate) fn unknown_record(segment: &Segment, frame: Frame<'_>) -> Error {
    Error::Unsupported {
        path: segment.name().into(),
        what: "control record",
        found: frame.payload().first().map_or(0, |kind| u64::from(*kind)),
    }
}
