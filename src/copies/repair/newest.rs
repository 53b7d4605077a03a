//! The newest segment of a damaged store of which something is whole, and where it ends.

use crate::copies::repair::look::{Headers, Looking, Opened};
use crate::copies::repair::search::given;
use crate::error::{Error, Result};
use crate::format::backup::Mark;
use crate::format::control::Kept;
use crate::format::frame::{self, ALIGN, Found as Look};
use crate::format::{PAGE, header, limits};
use crate::id::Position;
use crate::log::lock::Left;
use crate::log::scan::{AtDamage, Scan, Tail, data_end, scan};
use crate::segment::disk::File;
use crate::segment::map::Access;
use crate::segment::{Segment, after};

/// The newest segment of which something is whole.
pub(super) struct Newest {
    pub(super) first: Position,
    pub(super) limit: u64,
    /// Events up to here were there for sure.
    pub(super) known: Position,
    /// The last position that can stand in it, where the lock file says so, or else what is whole at its end.
    pub(super) highest: Option<Position>,
    /// Where the mark of a backup says that it ends; 0 where none does.
    pub(super) marked_end: u64,
    pub(super) torn_bytes: u64,
    /// It ends with the closing record that the lock file speaks of.
    pub(super) is_closed: bool,
    /// The segments before it and what is kept, if its control state is whole.
    pub(super) named: Option<(Vec<Position>, Option<Kept>)>,
}

impl Looking<'_> {
    /// The newest segment of which something is whole, and up to where events are lost in those behind it.
    pub(super) fn newest(
        &mut self,
        headers: &Headers,
        left: Option<Left>,
        marked: Option<Mark>,
    ) -> Result<(Newest, Position)> {
        let mut lost_behind = Position::START;
        for first in headers.keys().rev() {
            let Some(Opened { segment, .. }) = self.open(*first, headers)? else {
                let file = self.directory.open(&header::file_name(*first), Access::Read)?;
                if holds_something(&*file)? {
                    // How many events it had nobody can tell; one at the least.
                    lost_behind = lost_behind.max(*first);
                }
                self.note(*first, "nothing of it can be read");
                continue;
            };
            let of_this = left.filter(|left| left.progress.nonce == segment.header.nonce);
            let closed = of_this.and_then(|left| left.closed);
            let highest = match of_this {
                Some(left) => Some(left.progress.head),
                None => last_whole(&segment),
            };
            if let Some(highest) = highest {
                segment.set_last(highest);
            }
            let (found, is_closed) = scan_closed(&segment, closed)?;
            // So many events can stand in it at the most.
            let most = Position::new(first.get().saturating_add(segment.capacity() / frame::HEADER as u64));
            let said = left.map_or(Position::START, |left| left.progress.durable);
            let said = if is_closed { Position::START } else { said.min(most) };
            let durable = said.max(segment.header.durable).max(found.durable);
            let end = data_end(&segment, PAGE as u64, segment.capacity());
            let no_beginning = found.firsts.is_none() && found.events == 0 && durable < *first && headers.len() > 1;
            let is_damaged = no_beginning && given(&segment, PAGE as u64, end, *first) > 0;
            if no_beginning && !is_damaged {
                // Its first commit never reached the disk; nothing of it counts.
                self.note(*first, "it never became part of the log");
                continue;
            }
            let tail = || found.tail(&segment, segment.capacity(), durable);
            let (limit, known, torn_bytes) = match (!is_closed).then(tail) {
                None => (found.end, found.next.previous(), 0),
                Some(Tail::Blank) => (found.end, durable, 0),
                Some(Tail::Torn { end }) if !is_damaged => (found.end, durable, end - found.end),
                Some(tail) => {
                    let from = if let Tail::Damaged(damage) = tail { damage.offset } else { found.end };
                    let seen = of_this.map_or(Position::START, |left| left.progress.head.min(most));
                    (end.max(from), durable.max(seen), 0)
                }
            };
            let named = found.firsts.map(|firsts| (firsts, found.state.kept));
            let marked_end = marked.filter(|mark| mark.segment == *first).map_or(0, |mark| mark.end);
            let newest = Newest { first: *first, limit, known, highest, marked_end, torn_bytes, is_closed, named };
            return Ok((newest, lost_behind));
        }
        Err(Error::not_a_store(self.directory.path(), "nothing of any segment can be read"))
    }
}

/// What a segment holds, and whether it ends with the closing record that ends at `closed`: what stands behind that is nothing
/// that was ever written to the log.
fn scan_closed(segment: &Segment, closed: Option<u64>) -> Result<(Scan, bool)> {
    if let Some(closed) = closed.filter(|closed| *closed <= segment.capacity()) {
        let found = scan(segment, closed, AtDamage::PassOver)?;
        if found.closed && found.end == closed {
            return Ok((found, true));
        }
    }
    Ok((scan(segment, segment.capacity(), AtDamage::PassOver)?, false))
}

/// The last position of a segment of which no lock file tells, when it is damaged: whole frames in order that reach the end say so.
/// They might be what somebody stored in the payload of a damaged last event: where that one says that it is as long they do not
/// count.
fn last_whole(segment: &Segment) -> Option<Position> {
    let end = data_end(segment, PAGE as u64, segment.capacity());
    let (mut offset, mut next) = (PAGE as u64, segment.first());
    // Where what is not whole begins, the last time, and whether it goes on.
    let (mut broken_at, mut is_broken) = (None, false);
    let mut budget = end.saturating_sub(offset) * 8 + (1 << 20);
    while offset < end {
        let claimed = u64::from(frame::claimed_len(segment.bytes(offset, end)));
        budget = budget.checked_sub(claimed.min(end - offset))?;
        match segment.find(offset, end) {
            Look::Frame(frame) if frame.position() == next || is_broken && frame.position() > next => {
                next = after(frame);
                offset += frame.stride() as u64;
                is_broken = false;
            }
            Look::Frame(_) | Look::Blank | Look::Bad(_) => {
                if !is_broken {
                    (broken_at, is_broken) = (Some(offset), true);
                }
                offset += ALIGN as u64;
            }
        }
    }
    let begins = broken_at.filter(|_| !is_broken)?;
    let claimed = frame::claimed_len(segment.bytes(begins, end)) as usize;
    // A segment begins with records, in which nobody stores bytes of his own.
    let reaches_the_end = begins > PAGE as u64
        && (frame::HEADER..limits::COMMIT).contains(&claimed)
        && begins + frame::padded(claimed) as u64 >= end;
    (!reaches_the_end).then(|| next.previous())
}

/// Whether anything but zeroes stands behind the first page of a file.
fn holds_something(file: &dyn File) -> Result<bool> {
    let (mut at, end) = (PAGE as u64, file.data_end()?);
    let mut bytes = vec![0; 1 << 20];
    while at < end {
        let read = file.read_at(&mut bytes, at)?;
        if bytes[..read].iter().any(|byte| *byte != 0) {
            return Ok(true);
        }
        at += bytes.len() as u64;
    }
    Ok(false)
}
