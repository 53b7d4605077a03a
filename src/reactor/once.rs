//! The handlers whose results and settlements are one commit.

use std::ops::Range;

use crate::canal::batch::Delivery;
use crate::canal::{Token, Transact};
use crate::error::{Error, Result};
use crate::reactor::failure::{Failure, call};
use crate::reactor::hand::{Hand, not_ours};
use crate::reactor::handler::{Handler, Tried, bisect};
use crate::writer::commit::Commit;

/// A commit that has so many bytes is written before the batch is at its end.
const BYTES: usize = 4 << 20;

/// Called with one delivery and a commit for what it leads to.
#[derive(Debug)]
pub struct Once<H> {
    handler: H,
    /// What one delivery leads to.
    own: Commit,
    /// What those before it lead to that are not written yet.
    commit: Commit,
    parts: Vec<Part>,
    /// The handler sets conditions: each delivery gets a commit of its own, so that its handler sees what came of those
    /// before it.
    alone: bool,
}

/// What one delivery adds to a commit.
#[derive(Clone, Debug)]
struct Part {
    at: usize,
    frames: Range<usize>,
    events: u32,
}

/// Called with all deliveries of a batch and a commit for what they lead to.
#[derive(Debug)]
pub struct OnceBatches<H> {
    handler: H,
    commit: Commit,
}

impl<H> Once<H> {
    pub(super) fn new(handler: H) -> Self {
        Self { handler, own: Commit::new(), commit: Commit::new(), parts: Vec::new(), alone: false }
    }

    /// Writes what was handled, and settles it.
    fn write<C: Transact>(&mut self, hand: &mut Hand<'_, '_, C>) -> Result<()> {
        let written = write_parts(hand, &mut self.commit, &self.parts);
        self.commit.clear();
        self.parts.clear();
        written
    }
}

impl<C, H, E> Handler<C> for Once<H>
where
    C: Transact,
    H: FnMut(&Delivery<'_>, &mut Commit) -> Result<(), E>,
    E: Into<Failure>,
{
    fn handle(&mut self, hand: &mut Hand<'_, '_, C>) -> Result<()> {
        // An error may have left something of the batch before, which was given back.
        self.commit.clear();
        self.parts.clear();
        for (at, delivery) in hand.deliveries().iter().enumerate() {
            if !hand.take(at)? {
                continue;
            }
            self.own.clear();
            let mut handled = call(|| (self.handler)(delivery, &mut self.own));
            if handled.is_ok() && !self.own.conditions.is_empty() && !self.parts.is_empty() {
                // It was decided without knowing what those before it add: they come first, and then it decides again.
                self.write(hand)?;
                if !hand.take(at)? {
                    continue;
                }
                self.own.clear();
                handled = call(|| (self.handler)(delivery, &mut self.own));
            }
            let refused = self.own.error().map(|error| Failure::from(error.clone()));
            if let Err(failure) = handled.and(refused.map_or(Ok(()), Err)) {
                // Progress that is cumulative must not pass it.
                if hand.is_cumulative() {
                    self.write(hand)?;
                }
                if hand.is_waiting(at) {
                    hand.failed(at, failure)?;
                }
                continue;
            }
            self.alone |= !self.own.conditions.is_empty();
            let (start, events) = (self.commit.frames.len(), self.own.events);
            match self.parts.is_empty() {
                true => std::mem::swap(&mut self.commit, &mut self.own),
                false => self.commit.append(&self.own),
            }
            self.parts.push(Part { at, frames: start..self.commit.frames.len(), events });
            hand.pend(at);
            if self.alone || self.commit.frames.len() >= BYTES {
                self.write(hand)?;
            }
        }
        self.write(hand)
    }
}

/// Writes what several deliveries lead to as one commit. If that is refused, each half by itself, so that what is
/// refused in the end is what one of them leads to.
fn write_parts<C: Transact>(hand: &mut Hand<'_, '_, C>, commit: &mut Commit, parts: &[Part]) -> Result<()> {
    loop {
        let left: Vec<&Part> = parts.iter().filter(|part| hand.is_pending(part.at)).collect();
        let Some(first) = left.first() else { return Ok(()) };
        let places: Vec<usize> = left.iter().map(|part| part.at).collect();
        let events: u32 = left.iter().map(|part| part.events).sum();
        let written = if events == commit.events {
            write(hand, commit, &places)?
        } else {
            write(hand, &mut commit.parts(left.iter().map(|part| (part.frames.clone(), part.events))), &places)?
        };
        match written {
            Written::Whole => return Ok(()),
            Written::Late => {}
            Written::Refused(failure) if left.len() == 1 => return hand.failed(first.at, failure),
            Written::Refused(_) => {
                let (before, behind) = parts.split_at(parts.len() / 2);
                write_parts(hand, commit, before)?;
                return write_parts(hand, commit, behind);
            }
        }
    }
}

/// What came of a commit.
enum Written {
    Whole,
    /// One of the deliveries is not ours any more; nothing was written.
    Late,
    /// What they lead to cannot be written.
    Refused(Failure),
}

/// Writes a commit, and settles the deliveries in these places with it.
fn write<C: Transact>(hand: &mut Hand<'_, '_, C>, commit: &mut Commit, places: &[usize]) -> Result<Written> {
    let deliveries = hand.deliveries();
    let tokens: Vec<Token> = match places {
        [.., last] if hand.is_cumulative() => vec![deliveries[*last].token()],
        places => places.iter().map(|at| deliveries[*at].token()).collect(),
    };
    match hand.canal.commit_and_settle(commit, &tokens) {
        Ok(_) => {
            places.iter().for_each(|at| hand.committed(*at));
            Ok(Written::Whole)
        }
        Err(error) if is_refusal(&error) => Ok(Written::Refused(error.into())),
        Err(error) => {
            let late =
                not_ours(&error).and_then(|position| places.iter().find(|at| deliveries[**at].position() == position));
            let Some(late) = late else { return Err(error) };
            hand.unless_gone(*late, Err(error))?;
            Ok(Written::Late)
        }
    }
}

/// Whether it is the commit that cannot be written. After the other errors nothing can.
fn is_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::Conflict { .. }
            | Error::ConditionFailed { .. }
            | Error::Refused { .. }
            | Error::KeyReused { .. }
            | Error::TooLarge { .. }
            | Error::Invalid { .. }
    )
}

impl<H> OnceBatches<H> {
    pub(super) fn new(handler: H) -> Self {
        Self { handler, commit: Commit::new() }
    }
}

impl<C, H, E> Handler<C> for OnceBatches<H>
where
    C: Transact,
    H: FnMut(&[Delivery<'_>], &mut Commit) -> Result<(), E>,
    E: Into<Failure>,
{
    fn handle(&mut self, hand: &mut Hand<'_, '_, C>) -> Result<()> {
        let mut late = false;
        bisect(hand, 0, hand.len(), &mut |hand, places, deliveries| {
            self.commit.clear();
            if let Err(failure) = call(|| (self.handler)(deliveries, &mut self.commit)) {
                return Ok(Tried::Failed(failure));
            }
            Ok(match write(hand, &mut self.commit, places)? {
                Written::Whole => Tried::Settled,
                // One may have been taken away. A second time all leases have run out, and will again.
                Written::Late if std::mem::replace(&mut late, true) => {
                    hand.release_all(places)?;
                    Tried::Settled
                }
                Written::Late => Tried::Again,
                Written::Refused(failure) => Tried::Failed(failure),
            })
        })
    }
}
