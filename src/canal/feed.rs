//! What canals that read the log themselves have in common: finding the next events, and waiting for more.

use std::time::Duration;

use crate::canal::batch::Batch;
use crate::error::{Error, Result};
use crate::event::query::Query;
use crate::id::Position;
use crate::log::Log;
use crate::log::terms::Filter;
use crate::log::walk::{Step, Walk};
use crate::store::Store;

/// How often a reader looks for what a writer in another process has published.
const LOOK: Duration = Duration::from_millis(2);

/// The events of a query, from a position on.
#[derive(Debug)]
pub(crate) struct Feed {
    filter: Query,
    walk: Walk,
    /// What was found and did not fit into the last batch.
    pending: Option<Step>,
}

impl Feed {
    pub(crate) fn new(log: &Log, filter: Query, next: Position) -> Result<Self> {
        Ok(Self { walk: Walk::new(log, Filter::Query(filter.clone()), next)?, filter, pending: None })
    }

    /// Goes on at another position.
    pub(crate) fn go_to(&mut self, log: &Log, next: Position) -> Result<()> {
        self.walk = Walk::new(log, Filter::Query(self.filter.clone()), next)?;
        self.pending = None;
        Ok(())
    }

    /// Adds events up to the position `until`, until the batch has `max` of them. Gives the last one's position.
    pub(crate) fn take(
        &mut self,
        log: &Log,
        until: Position,
        max: usize,
        batch: &mut Batch,
    ) -> Result<Option<Position>> {
        let mut last = None;
        while batch.len() < max {
            let found = match self.find(log, until) {
                // What was found before is handed out; the next call goes on at the same place, and tells.
                Err(_) if !batch.is_empty() => break,
                found => found?,
            };
            match found {
                Some(Step::Event { offset, len, position }) => {
                    batch.push(&self.walk.part().segment, offset, len);
                    last = Some(position);
                }
                Some(Step::Damaged(damage)) if batch.is_empty() => return Err(Error::Damaged(*damage)),
                Some(step) => {
                    self.pending = Some(step);
                    break;
                }
                None => break,
            }
        }
        Ok(last)
    }

    /// Whether something was found that the next batch begins with.
    pub(crate) fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Whether the index finds the events, so that those which are not meant cost nothing.
    pub(crate) fn is_picking(&self) -> bool {
        self.walk.is_picking()
    }

    fn find(&mut self, log: &Log, until: Position) -> Result<Option<Step>> {
        match self.pending.take() {
            Some(step) => Ok(Some(step)),
            None => match self.walk.next_frame(until) {
                Some(place) => {
                    let (offset, len, position) = (place.offset, place.len(), self.walk.next().previous());
                    Ok(Some(Step::Event { offset, len, position }))
                }
                None => self.walk.step(log, until),
            },
        }
    }
}

/// Waits until the log has grown beyond `seen`, was closed, `or` says so, or the patience ends. On a store that was opened
/// read-only it comes back before that, to look at what the other process has published.
pub(crate) fn wait(store: &Store, seen: u64, patience: Duration, or: impl Fn() -> bool) {
    let log = &store.inner.log;
    let patience = if store.writer().is_ok() { patience } else { patience.min(LOOK) };
    log.head.wait(seen, patience, || log.is_closed() || or());
}
