//! What must hold for a commit to be written, looked at on the writer's turn, so that nobody writes in between.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::error::{Error, Result, panic_text};
use crate::event::draft::Expected;
use crate::format::frame::{Found, finished};
use crate::format::names;
use crate::format::term::{Kind, Term};
use crate::id::{Position, Revision};
use crate::log::Log;
use crate::log::terms::Filter;
use crate::log::walk::{Step, Walk};
use crate::sync::primitive::thread_local;
use crate::writer::commit::Conditions;
use crate::writer::ticket::Receipt;
use crate::writer::turn::Turn;
use crate::writer::view::{Proposal, View, frames, revision_seen, standing, with_key};

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
                let (seen, lost) = self.stands(stream, unwritten, log)?;
                // What the next event gets is remembered when it comes: until then the stream stands where it is seen.
                if lost == 0 {
                    self.streams.set(term, stream.as_bytes(), seen, self.next);
                }
                seen
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
        let (seen, lost) = self.stands(stream, unwritten, log)?;
        let revision = Revision::new(seen.get() + lost);
        self.streams.set(term, stream.as_bytes(), revision, self.next);
        Ok(revision)
    }

    /// Where a stream stands that is not remembered, and how many events of it may be lost behind that.
    fn stands(&self, stream: &str, unwritten: Unwritten<'_>, log: &Log) -> Result<(Revision, u64)> {
        let since = self.streams.since();
        // Nearly always what is not written yet is remembered.
        let found = if since > unwritten.from { unwritten.revision(stream) } else { None };
        match (found, since.min(unwritten.from).previous()) {
            (Some(revision), _) => Ok((revision, 0)),
            (None, Position::START) => Ok((Revision::ABSENT, 0)),
            (None, until) => match standing(log, stream, until) {
                // A group that cannot write a dead letter would stop for good: there a revision is rather left out.
                Err(Error::Damaged(_)) if stream.starts_with(names::OWN) => revision_seen(log, stream, until),
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

/// The receipt of the commit that bears this key, if there is one and its content is what is proposed.
fn written_before(log: &Log, key: &str, proposed: &[u8], head: Position) -> Result<Option<Receipt>> {
    let Some((part, mut offset, _)) = with_key(log, key, head)? else { return Ok(None) };
    let segment = &part.segment;
    let mut receipt: Option<Receipt> = None;
    let mut proposed = frames(proposed).peekable();
    while let Some(frame) = proposed.next() {
        let stored = match segment.find(offset, segment.written()) {
            Found::Frame(stored) => stored,
            Found::Blank | Found::Bad(_) => {
                let what = "the commit of an idempotency key is not whole";
                return Err(Error::Damaged(segment.damage(offset, segment.written(), head, what)));
            }
        };
        let first = receipt.map_or(stored.position(), |receipt| receipt.first);
        if !stored.has_content_of(&frame) || stored.has_more() != proposed.peek().is_some() {
            return Err(Error::KeyReused { key: key.to_owned(), first });
        }
        if !stored.is_control() {
            let (last, revision) = (stored.position(), stored.revision());
            receipt = Some(Receipt { first, last, revision, time: stored.time(), duplicate: true });
        }
        offset += stored.stride() as u64;
    }
    Ok(receipt)
}
