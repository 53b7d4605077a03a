//! What must hold for a commit to be written, looked at on the writer's turn, so that nobody writes in between.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::error::{Error, Result, panic_text};
use crate::event::draft::Expected;
use crate::format::frame::{Found, Frame, finished};
use crate::format::names;
use crate::format::term::{Kind, Term};
use crate::id::{Position, Revision};
use crate::log::Log;
use crate::log::terms::Filter;
use crate::log::walk::latest::{self, Standing};
use crate::log::walk::{Step, Walk};
use crate::segment::after;
use crate::sync::primitive::thread_local;
use crate::writer::commit::Conditions;
use crate::writer::ticket::Receipt;
use crate::writer::turn::Turn;
use crate::writer::view::{Proposal, View, frames, with_key};

thread_local! {
    /// Whether a caller's rule runs on this thread, which must not append then.
    static IN_RULE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread runs a caller's rule.
pub(crate) fn is_in_rule() -> bool {
    IN_RULE.with(Cell::get)
}

impl Turn {
    /// Idempotency key, expected revisions, append condition, the caller's rule, in this order.
    pub(super) fn check(
        &mut self,
        conditions: &Conditions,
        proposed: &[u8],
        unwritten: Unwritten<'_>,
        log: &Arc<Log>,
    ) -> Result<Option<Receipt>> {
        let head = self.next.previous();
        if let Some(key) = &conditions.key
            && let Some(receipt) = written_before(log, key, proposed, head)?
        {
            return Ok(Some(receipt));
        }
        for (stream, expected) in &conditions.expected {
            self.check_revision(stream, *expected, unwritten, log)?;
        }
        if let Some(condition) = &conditions.condition
            && condition.after < head
        {
            // After the start means among all that is kept. After a place that is not kept cannot be told.
            let from = if condition.after == Position::START { Position::START } else { condition.after.next() };
            let mut walk = Walk::new(log, Filter::Query(condition.unless.clone()), from)?;
            match walk.step(log, head)? {
                Some(Step::Event { position, .. }) => {
                    return Err(Error::ConditionFailed { after: condition.after, found: position });
                }
                Some(Step::Damaged(damage)) => return Err(Error::Damaged(*damage)),
                None => {}
            }
        }
        if let Some(rule) = &conditions.rule {
            IN_RULE.with(|within| within.set(true));
            let said = catch_unwind(AssertUnwindSafe(|| rule(&Proposal::new(proposed), &View::new(log, head))));
            IN_RULE.with(|within| within.set(false));
            let said = said.unwrap_or_else(|panic| Err(format!("it panicked: {}", panic_text(&*panic))));
            said.map_err(|reason| Error::Refused { reason })?;
        }
        Ok(None)
    }

    fn check_revision(&mut self, stream: &str, expected: Expected, unwritten: Unwritten<'_>, log: &Log) -> Result<()> {
        let term = Term::of(Kind::Stream, stream.as_bytes());
        let actual = match self.streams.get(term, stream.as_bytes()) {
            Some(revision) => revision,
            None => {
                let standing = self.stands(stream, unwritten, log)?;
                // What the next event gets is remembered when it comes: until then the stream stands where it is seen, or
                // nowhere when it was deleted.
                if standing.lost_events == 0 && !standing.is_gone {
                    self.streams.set(term, stream.as_bytes(), standing.revision, self.next);
                }
                if standing.is_gone { Revision::ABSENT } else { standing.revision }
            }
        };
        if expected.allows(actual) {
            return Ok(());
        }
        Err(Error::Conflict { stream: stream.to_owned(), expected, actual })
    }

    /// The last revision that a stream which is not remembered may have given, what was finished and not written yet
    /// included. Now it is remembered.
    pub(super) fn look_up(
        &mut self,
        term: Term,
        stream: &str,
        unwritten: Unwritten<'_>,
        log: &Log,
    ) -> Result<Revision> {
        let standing = self.stands(stream, unwritten, log)?;
        let revision = Revision::new(standing.revision.get() + standing.lost_events);
        self.streams.set(term, stream.as_bytes(), revision, self.next);
        Ok(revision)
    }

    /// Where a stream stands that is not remembered.
    fn stands(&self, stream: &str, unwritten: Unwritten<'_>, log: &Log) -> Result<Standing> {
        let since = self.streams.since();
        // Nearly always what is not written yet is remembered.
        let found = if since > unwritten.from { unwritten.revision(stream) } else { None };
        match (found, since.min(unwritten.from).previous()) {
            (Some(revision), _) => Ok(Standing { revision, ..Standing::default() }),
            (None, Position::START) => Ok(Standing::default()),
            (None, until) => match log.costs.of(|| latest::standing(log, stream, until)) {
                // A group that cannot write a dead letter would stop for good: there a revision is rather left out.
                Err(Error::Damaged(_)) if stream.starts_with(names::OWN) => {
                    log.costs.of(|| latest::standing_seen(log, stream, until))
                }
                found => found,
            },
        }
    }
}

/// Finished frames that are not in the log yet.
#[derive(Clone, Copy)]
pub(super) struct Unwritten<'a> {
    /// The position of the first of them.
    pub(super) from: Position,
    /// Those of earlier commits, and those of this one.
    pub(super) frames: [&'a [u8]; 2],
}

impl Unwritten<'_> {
    /// Where a stream stands with them, if one is of it.
    fn revision(self, stream: &str) -> Option<Revision> {
        let all = self.frames.into_iter().flat_map(finished);
        all.filter(|frame| !frame.is_control() && frame.stream_bytes() == stream.as_bytes())
            .last()
            .map(|frame| frame.revision())
    }
}

/// The receipt of the commit that bears this key, if there is one and its content is what is proposed. Of a commit that lost
/// events since, what is left is compared.
fn written_before(log: &Log, key: &str, proposed: &[u8], head: Position) -> Result<Option<Receipt>> {
    let Some((part, mut offset, _)) = with_key(log, key, head)? else { return Ok(None) };
    let segment = &part.segment;
    let lost_events = segment.header.rewritten.is_some();
    let (mut receipt, mut has_ended): (Option<Receipt>, _) = (None, false);
    let mut proposed = frames(proposed).peekable();
    while let Some(frame) = proposed.next() {
        let stored = match segment.find(offset, segment.written()) {
            Found::Frame(stored) => stored,
            // The last of its events were the last of the segment.
            Found::Blank if lost_events && offset == segment.written() => break,
            Found::Blank | Found::Bad(_) => {
                let what = "the commit of an idempotency key is not whole";
                return Err(Error::Damaged(segment.damage(offset, segment.written(), head, what)));
            }
        };
        let position = receipt.map_or(stored.position(), |receipt| receipt.last.next());
        if let Some(receipt) = receipt.as_mut().filter(|_| !frame.is_control() && is_gone(stored, position)) {
            receipt.last = position;
            if position.next() == after(stored) {
                offset += stored.stride() as u64;
            }
            continue;
        }
        let first = receipt.map_or(stored.position(), |receipt| receipt.first);
        let ends_alike = stored.has_more() == proposed.peek().is_some() || lost_events && !stored.has_more();
        if has_ended || !stored.has_content_of(&frame) || !ends_alike {
            return Err(Error::KeyReused { key: key.to_owned(), first });
        }
        has_ended = !stored.has_more();
        if !stored.is_control() {
            let (last, revision) = (stored.position(), stored.revision());
            receipt = Some(Receipt { first, last, revision, time: stored.time(), duplicate: true });
        }
        offset += stored.stride() as u64;
    }
    Ok(receipt)
}

/// Whether the event at a position was removed, as this frame says.
fn is_gone(stored: Frame<'_>, position: Position) -> bool {
    !stored.is_event() && (stored.position()..after(stored)).contains(&position)
}
