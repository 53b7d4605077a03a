//! What can be made of a stretch that is not whole: where it says itself that the next frame begins, and how many positions it holds.

use crate::format::frame::{self, ALIGN, Found};
use crate::id::Position;
use crate::segment::{Segment, after};

/// What frames that are not whole say of themselves.
pub(super) struct Claims {
    pub(super) events: u64,
    pub(super) records: u64,
    /// The last one's commit goes on behind it.
    pub(super) has_more: bool,
}

/// What is claimed in a stretch, if the lengths in it fit each other.
pub(super) fn claims(segment: &Segment, from: u64, to: u64) -> Option<Claims> {
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

/// Where bad frames from `from` on say that they end, if behind them stands a whole one of the position that they leave. That is less
/// than readers ask for, who want what follows to agree up to the end: here the end may be bad, too.
pub(super) fn behind_claims(segment: &Segment, from: u64, limit: u64, expected: Position) -> Option<u64> {
    let (mut at, mut next) = (from, expected);
    loop {
        let bytes = segment.bytes(at, limit);
        let len = frame::claimed_len(bytes) as usize;
        if len < frame::HEADER || bytes.len() <= frame::padded(len) {
            return None;
        }
        if !frame::peek_is_control(bytes) {
            next = next.next();
        }
        at += frame::padded(len) as u64;
        if matches!(segment.find(at, limit), Found::Frame(frame) if frame.position() == next) {
            return Some(at);
        }
    }
}

/// How many positions from `next` on were given, as far as frames in a stretch say that are whole. Which of them are the log's own
/// nothing proves; but no more can be said of them than that many, and none is given again.
pub(super) fn given(segment: &Segment, from: u64, to: u64, next: Position) -> u64 {
    let mut budget = (to - from) * 8 + (1 << 20);
    let (mut at, mut behind) = (from, next);
    while at + frame::HEADER as u64 <= to {
        let bytes = segment.bytes(at, to);
        let reachable = next.get().saturating_add((at - from) / frame::HEADER as u64);
        at += ALIGN as u64;
        if !frame::peek_position(bytes).is_some_and(|position| position >= behind && position.get() <= reachable) {
            continue;
        }
        match budget.checked_sub(u64::from(frame::peek_len(bytes)).min(to - from)) {
            Some(left) => budget = left,
            None => break,
        }
        if let Found::Frame(frame) = segment.find(at - ALIGN as u64, to) {
            behind = after(frame);
        }
    }
    behind.get() - next.get()
}
