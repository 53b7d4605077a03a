//! Going through one segment: what of it is whole, and what is lost.

use crate::copies::repair::consumers::Consumers;
use crate::error::Result;
use crate::format::PAGE;
use crate::format::control::Control;
use crate::format::frame::{self, Found};
use crate::id::{Position, Timestamp};
use crate::log::parts::Part;
use crate::log::scan::unknown_record;
use crate::segment::{Segment, after};

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
    let segment = &*part.segment;
    let mut read = Read {
        stretches: Vec::new(),
        head: None,
        next: segment.first(),
        end: PAGE as u64,
        last_crc: 0,
        last_time: time,
        events: 0,
    };
    let (mut head, mut pending) = (Head::Coming, Vec::new());
    let (mut has_more, mut may_be_cut) = (false, false);
    while read.end < limit {
        let offset = read.end;
        let what = match segment.find(offset, limit) {
            Found::Frame(frame) if frame.position() == read.next => {
                if frame.positions() > 0 {
                    if head == Head::Coming {
                        break_head(&mut head, &mut pending, known);
                    }
                    make_head(&mut read, &mut head, known, offset);
                    read.events += u64::from(frame.is_event());
                } else {
                    let record = Control::decode(frame.payload()).ok_or_else(|| unknown_record(segment, frame))?;
                    match head {
                        Head::Broken => known.surviving(record),
                        _ => pending.push(record),
                    }
                }
                has_more = frame.has_more();
                if !has_more {
                    match head {
                        Head::Coming if matches!(pending.first(), Some(Control::Segments(_))) => {
                            known.begin_anew(std::mem::take(&mut pending));
                            head = Head::Whole;
                        }
                        Head::Coming => break_head(&mut head, &mut pending, known),
                        Head::Broken => {}
                        _ => known.commit(std::mem::take(&mut pending), may_be_cut),
                    }
                    may_be_cut = false;
                }
                read.last_crc = frame.crc();
                read.last_time = read.last_time.max(frame.time());
                read.next = after(frame);
                read.end = offset + frame.stride() as u64;
                continue;
            }
            Found::Frame(_) => "positions do not follow each other",
            Found::Blank => "a blank where frames were",
            Found::Bad(what) => what,
        };
        let end = part.behind_damage(offset, limit, read.next);
        let following = match segment.find(end, limit) {
            Found::Frame(frame) if end < limit => frame.position(),
            _ => end_of(until, read.next, || claims(segment, offset, end).map_or(1, |claims| claims.events)),
        };
        let positions = following.get().saturating_sub(read.next.get());
        let claims = claims(segment, offset, end).filter(|claims| claims.events == positions);
        let records = claims.as_ref().is_none_or(|claims| claims.records > 0);
        if head == Head::Coming {
            break_head(&mut head, &mut pending, known);
        } else if records || !pending.is_empty() {
            known.doubt();
            pending.clear();
        }
        may_be_cut = claims.is_none_or(|claims| claims.has_more);
        has_more = false;
        if positions > 0 {
            make_head(&mut read, &mut head, known, offset);
        }
        let what = what.to_owned();
        read.stretches.push(Stretch { offset, end, position: read.next, positions, records, what });
        read.next = read.next.max(following);
        read.end = end;
    }
    if head == Head::Coming {
        break_head(&mut head, &mut pending, known);
    }
    let at_end = read.end;
    make_head(&mut read, &mut head, known, at_end);
    let following = end_of(until, read.next, || 0);
    let missing = following.get().saturating_sub(read.next.get());
    let is_told = read.stretches.last().is_some_and(|stretch| stretch.end == at_end);
    let is_cut = matches!(until, Until::Newest { end, .. } if at_end < end);
    if missing > 0 || has_more || is_cut {
        known.doubt();
    }
    if missing > 0 || has_more || is_cut && !is_told {
        let what = match () {
            () if missing > 0 => "the events behind it are missing",
            () if has_more => "its last commit is not whole",
            () => "the records behind it are missing",
        };
        read.stretches.push(Stretch {
            offset: at_end,
            end: at_end,
            position: read.next,
            positions: missing,
            records: true,
            what: what.to_owned(),
        });
        read.next = read.next.max(following);
    }
    Ok(read)
}

/// Some of the control state is lost that the segment begins with. What came before the segment stands for it.
fn break_head(head: &mut Head, pending: &mut Vec<Control>, known: &mut Consumers) {
    known.doubt();
    std::mem::take(pending).into_iter().for_each(|record| known.surviving(record));
    *head = Head::Broken;
}

/// What follows the control state begins here. Makes that anew when it is broken.
fn make_head(read: &mut Read, head: &mut Head, known: &Consumers, offset: u64) {
    if *head == Head::Broken {
        read.head = Some((known.records(), offset));
        *head = Head::Made;
    }
}

/// The position behind the last one of a segment of which `next` has not come. `at_least` says how many come from there on
/// in the newest segment, as far as that is known otherwise.
fn end_of(until: Until, next: Position, at_least: impl FnOnce() -> u64) -> Position {
    match until {
        Until::Sealed { last } => last.next(),
        Until::Newest { known, .. } => known.next().max(Position::new(next.get() + at_least())),
    }
}

/// What frames that are not whole say of themselves.
struct Claims {
    events: u64,
    records: u64,
    /// The last one's commit goes on behind it.
    has_more: bool,
}

/// What is claimed in a stretch, if the lengths in it fit each other.
fn claims(segment: &Segment, from: u64, to: u64) -> Option<Claims> {
    let mut claims = Claims { events: 0, records: 0, has_more: false };
    let mut at = from;
    while at < to {
        let bytes = segment.bytes(at, to);
        let len = frame::claimed_len(bytes) as usize;
        if len < frame::HEADER || bytes.len() < frame::padded(len) {
            return None;
        }
        if frame::peek_is_control(bytes) {
            claims.records += 1;
        } else {
            claims.events += 1;
        }
        claims.has_more = frame::peek_has_more(bytes);
        at += frame::padded(len) as u64;
    }
    Some(claims)
}
