//! Walking backward.

use std::sync::Arc;

use crate::error::Result;
use crate::format::PAGE;
use crate::format::index::{SPARSE, Unit};
use crate::id::Position;
use crate::log::Log;
use crate::log::cost::{Account, ReadCost, counted};
use crate::log::parts::Part;
use crate::log::terms::Filter;
use crate::log::tiers::search::Search;
use crate::log::walk::places::{candidates, look_at};
use crate::log::walk::{Step, Walk, check_kept, unless_expired};

/// A walk backward, from a position down.
#[derive(Debug)]
pub(crate) struct WalkBack {
    /// Looks at the runs where the index does not find the events. It knows the filter and what is searched for, too.
    run: Walk,
    /// `None` at the end.
    part: Option<Arc<Part>>,
    /// Events behind this one are passed over.
    until: Position,
    /// What was found in the run that is being handed out, latest last.
    found: Vec<Step>,
    left: Left,
}

/// What of the part was not looked at yet.
#[derive(Debug)]
enum Left {
    Undecided,
    /// So many runs of [`SPARSE`] positions.
    Chunks(usize),
    /// These frames, rising.
    Picked(Vec<Unit>),
}

impl WalkBack {
    /// A walk that begins at a position, inclusive.
    pub(crate) fn new(log: &Log, filter: Filter, until: Position) -> Result<Self> {
        let mut search = Search::of(&filter);
        let account = Account::new(Some(log.costs.clone()));
        let mut run = Walk::in_part(log.parts.newest(), filter, None, Position::START, account);
        let hidden = log.removals();
        let part = counted(&mut run.account.cost, || log.parts.search_back(until, &mut search))?;
        run.search = search;
        if let Some(part) = &part {
            run.enter(part.clone(), hidden);
        }
        Ok(Self { run, part, until, found: Vec::new(), left: Left::Undecided })
    }

    /// What it has cost so far.
    pub(crate) fn cost(&self) -> ReadCost {
        self.run.cost()
    }

    /// The part that the last step was in.
    pub(crate) fn part(&self) -> Option<&Arc<Part>> {
        self.part.as_ref()
    }

    /// The next event down to `from`; `None` at the end.
    pub(crate) fn step(&mut self, log: &Log, from: Position) -> Result<Option<Step>> {
        loop {
            match self.found.pop() {
                Some(Step::Event { position, .. }) if position < from => self.part = None,
                Some(step) => return Ok(Some(step)),
                None => {}
            }
            let Some(part) = self.part.clone() else { return Ok(None) };
            if !self.find_run(&part)? {
                let first = part.segment.first();
                let run = &mut self.run;
                let hidden = log.removals();
                let ask = || unless_expired(log.parts.search_back(first.previous(), &mut run.search));
                self.part = if first <= from { None } else { counted(&mut run.account.cost, ask)? };
                if self.part.is_none() && first > from && from > Position::START {
                    check_kept(log, from)?;
                }
                self.left = Left::Undecided;
                if let Some(part) = &self.part {
                    run.enter(part.clone(), hidden);
                }
            }
        }
    }

    /// Finds the next run of events. `false` when the part has no more.
    fn find_run(&mut self, part: &Arc<Part>) -> Result<bool> {
        let limit = part.segment.written();
        let first = part.segment.first();
        if matches!(self.left, Left::Undecided) {
            let run = &mut self.run;
            let ask = || candidates(part, run.search.ways()?, PAGE as u64, limit);
            self.left = if let Some(rising) = counted(&mut run.account.cost, ask) {
                Left::Picked(rising)
            } else {
                // Runs of positions and not of the sparse table: behind the last sound frame it has none.
                let last = part.segment.last().unwrap_or(self.until).min(self.until);
                let runs = last.get().checked_sub(first.get()).map_or(0, |steps| steps as usize / SPARSE + 1);
                Left::Chunks(runs)
            };
        }
        match &mut self.left {
            Left::Undecided => Ok(false),
            Left::Picked(units) => {
                while let Some(unit) = units.pop() {
                    let run = &mut self.run;
                    match look_at(part, &run.filter, run.hidden.as_deref(), unit.offset(), limit, &mut run.account.cost)
                    {
                        None => {}
                        Some(Step::Event { position, .. }) if position > self.until => {}
                        Some(Step::Damaged(damage)) if damage.position > self.until => {}
                        Some(step) => {
                            self.found.push(step);
                            return Ok(true);
                        }
                    }
                }
                Ok(false)
            }
            Left::Chunks(left) => {
                let Some(chunk) = left.checked_sub(1) else { return Ok(false) };
                *left = chunk;
                let from = Position::new(first.get() + (chunk * SPARSE) as u64);
                let until = Position::new(from.get() + SPARSE as u64 - 1).min(self.until);
                let walk = &mut self.run;
                walk.go_to(from);
                while let Some(step) = walk.scan(limit, until) {
                    // A stretch that covers several runs is told once, by the run that it begins in.
                    match &step {
                        Step::Damaged(damage) if damage.position > until => {}
                        Step::Damaged(damage) if damage.position < from => {
                            if walk.offset >= limit || walk.next > until {
                                // It covers this run and those before it, down to the one that it begins in.
                                let begins = damage.position.get().saturating_sub(first.get()) as usize / SPARSE;
                                *left = (begins + 1).min(chunk);
                            }
                        }
                        _ => self.found.push(step),
                    }
                }
                Ok(true)
            }
        }
    }
}
