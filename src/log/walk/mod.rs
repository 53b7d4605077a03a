//! Walking the log: event by event, forward or backward, all of them or those that an index finds.

pub(crate) mod back;
pub(crate) mod latest;
pub(crate) mod lookup;
mod places;

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::error::{Damage, Error, Result};
use crate::format::PAGE;
use crate::format::frame::{Found, padded};
use crate::format::index::Unit;
use crate::id::Position;
use crate::log::Log;
use crate::log::cost::{Account, ReadCost, counted};
use crate::log::parts::Part;
use crate::log::removals::Removals;
use crate::log::terms::{self, Filter};
use crate::log::tiers::search::Search;
use crate::log::walk::places::{
    candidates, choices, damage_at, is_hidden, look_at, lost_at, places, reversed, start_in,
};
use crate::segment::after;

/// Where an event stands in the walk's current part, or what stands in its place.
#[derive(Debug)]
pub(crate) enum Step {
    Event { offset: u64, len: u32, position: Position },
    Damaged(Box<Damage>),
}

/// Where an event stands in the walk's current part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    len: NonZeroU32,
}

impl Place {
    pub(crate) fn new(offset: u64, len: u32) -> Option<Self> {
        NonZeroU32::new(len).map(|len| Self { offset, len })
    }

    #[inline]
    pub(crate) fn len(self) -> u32 {
        self.len.get()
    }
}

/// A walk forward. Its end moves with the log for as long as somebody asks.
#[derive(Debug)]
pub(crate) struct Walk {
    filter: Filter,
    /// How the indexes find what passes the filter, if they do.
    search: Search,
    /// Whether every event of users is handed out.
    passes_all: bool,
    /// What was removed and may still stand here.
    hidden: Option<Arc<Removals>>,
    part: Arc<Part>,
    /// Where to look next in the part.
    offset: u64,
    /// Up to here the very next frame is taken without further ado. 0: never.
    swift: u64,
    /// The position that comes next there, at the least.
    next: Position,
    /// Events before this one are passed over.
    from: Position,
    plan: Plan,
    /// Whether damage was told of in this part, so that positions up to the next one may be missing.
    lost: bool,
    account: Account,
}

/// How the events of a part are found.
#[derive(Debug)]
enum Plan {
    Undecided,
    Scan,
    /// These frames, latest first; all up to `known` are in it.
    Pick {
        latest_first: Vec<Unit>,
        known: u64,
    },
}

impl Walk {
    /// A walk that begins at a position, inclusive; from [`Position::START`] on at the oldest event that is kept.
    pub(crate) fn new(log: &Log, filter: Filter, from: Position) -> Result<Self> {
        let asked = from;
        let from = from.max(Position::new(1));
        let mut account = Account::new(Some(log.costs.clone()));
        let mut search = Search::of(&filter);
        // Before the segment is looked up: one without the events may stand there from when there is nothing to hide.
        let hidden = log.removals();
        let part = loop {
            match counted(&mut account.cost, || log.parts.search_forward(from, &mut search)) {
                // Let go of meanwhile. What is oldest now is the beginning.
                Err(Error::Expired { .. }) if asked == Position::START => {}
                found => break found?,
            }
        };
        if asked > Position::START {
            check_kept(log, asked)?;
        }
        account.cost.segments += 1;
        let from = from.max(part.segment.first());
        Ok(Self { search, ..Self::in_part(part, filter, hidden, from, account) })
    }

    fn in_part(
        part: Arc<Part>,
        filter: Filter,
        hidden: Option<Arc<Removals>>,
        from: Position,
        account: Account,
    ) -> Self {
        let (passes_all, search) = (filter.is_all() && hidden.is_none(), Search::everywhere());
        let (offset, next, plan) = (PAGE as u64, part.segment.first(), Plan::Undecided);
        let mut walk =
            Self { filter, search, passes_all, hidden, part, offset, swift: 0, next, from, plan, lost: false, account };
        walk.go_to(from);
        walk
    }

    /// A walk through one part that looks at every frame.
    fn scanning(
        part: Arc<Part>,
        filter: Filter,
        hidden: Option<Arc<Removals>>,
        from: Position,
        mut account: Account,
    ) -> Self {
        account.cost.segments += 1;
        Self { plan: Plan::Scan, ..Self::in_part(part, filter, hidden, from, account) }
    }

    /// Goes on at another position of the part.
    fn go_to(&mut self, from: Position) {
        (self.offset, self.next) = counted(&mut self.account.cost, || start_in(&self.part, from));
        (self.from, self.lost, self.swift) = (from, false, 0);
    }

    /// Goes on at the beginning of another part.
    fn enter(&mut self, part: Arc<Part>, hidden: Option<Arc<Removals>>) {
        self.hidden = hidden;
        self.passes_all = self.filter.is_all() && self.hidden.is_none();
        self.account.cost.segments += 1;
        self.account.tell();
        (self.offset, self.next) = (PAGE as u64, part.segment.first());
        (self.plan, self.lost, self.swift) = (Plan::Undecided, false, 0);
        self.part = part;
    }

    /// What it has cost so far.
    pub(crate) fn cost(&self) -> ReadCost {
        self.account.cost
    }

    /// The part that the last step was in.
    pub(crate) fn part(&self) -> &Arc<Part> {
        &self.part
    }

    /// The position that comes next, at the least.
    pub(crate) fn next(&self) -> Position {
        self.next
    }

    /// How many positions are lost with the damage that was told last: none when it was in control records only. At least
    /// one where that is not known.
    pub(crate) fn lost_with(&self, damage: &Damage) -> u64 {
        let segment = &self.part.segment;
        let passed = self.next.get().saturating_sub(damage.position.get());
        let goes_on = match segment.find(self.offset, segment.written()) {
            Found::Frame(frame) => frame.position() == damage.position,
            _ => segment.last().is_some_and(|last| last < damage.position),
        };
        if goes_on { passed } else { passed.max(1) }
    }

    /// Whether the index finds the events, as far as the walk has come.
    pub(crate) fn is_picking(&self) -> bool {
        matches!(self.plan, Plan::Pick { .. })
    }

    /// The next event when it is the very next frame, as it nearly always is: the inner loop of a replay. `None` says
    /// nothing; ask [`step`](Walk::step).
    ///
    /// A function of its own that answers in two registers: written into the caller's loop, it made an event that is put
    /// together in memory and taken apart again, which cost a fifth of a replay.
    #[inline(never)]
    pub(crate) fn next_frame(&mut self, until: Position) -> Option<Place> {
        let offset = self.offset;
        let Found::Frame(frame) = self.part.segment.find(offset, self.swift) else { return None };
        let position = frame.position();
        let wanted = position == self.next && position <= until && frame.is_event() && !terms::is_own(frame);
        if !wanted {
            return None;
        }
        self.account.cost.frame(frame.stride());
        self.offset += frame.stride() as u64;
        self.next = position.next();
        Place::new(offset, frame.len() as u32)
    }

    /// The next event whose position is at most `until`; `None` when there is none yet.
    pub(crate) fn step(&mut self, log: &Log, until: Position) -> Result<Option<Step>> {
        loop {
            // Asked in each part: damage at the beginning of the next one may lie behind the end.
            if self.next > until {
                return Ok(None);
            }
            let sealed = self.part.segment.is_sealed();
            let limit = self.part.segment.written();
            if let Some(step) = self.step_in_part(limit, until) {
                return Ok(Some(step));
            }
            // Sealed was asked before where it ends, so nothing can have come behind `limit`.
            if !sealed || self.next > until {
                return Ok(None);
            }
            let Some(following) = log.parts.after(&self.part)? else { return Ok(None) };
            let missing = matches!(self.plan, Plan::Scan) && self.next < following && !self.lost;
            let gap = missing.then(|| {
                let what = "the events up to the next segment are missing";
                Step::Damaged(Box::new(self.part.segment.damage(limit, limit, self.next, what)))
            });
            let search = &mut self.search;
            let hidden = log.removals();
            let part = counted(&mut self.account.cost, || log.parts.search_forward(following, search))?;
            // Asked after the search: what was let go of since then was not passed over.
            check_kept(log, following)?;
            self.enter(part, hidden);
            if gap.is_some() {
                return Ok(gap);
            }
        }
    }

    fn step_in_part(&mut self, limit: u64, until: Position) -> Option<Step> {
        if matches!(self.plan, Plan::Undecided) && self.offset < limit {
            let ask = || candidates(&self.part, self.search.ways()?, self.offset, limit);
            self.plan = match counted(&mut self.account.cost, ask) {
                Some(rising) => Plan::Pick { latest_first: reversed(rising), known: limit },
                None => Plan::Scan,
            };
        }
        match self.plan {
            Plan::Pick { .. } => self.pick(limit, until),
            _ => self.scan(limit, until),
        }
    }

    #[inline]
    fn scan(&mut self, limit: u64, until: Position) -> Option<Step> {
        while self.offset < limit {
            let offset = self.offset;
            match self.part.segment.find(offset, limit) {
                Found::Frame(frame) if frame.is_control() && frame.position() == self.next => {
                    if frame.positions() > 0 && self.next > until {
                        return None;
                    }
                    self.account.cost.frame(frame.stride());
                    self.offset += frame.stride() as u64;
                    self.next = after(frame);
                    if let Some(lost) = lost_at(&self.part, offset, frame) {
                        return Some(lost);
                    }
                }
                Found::Frame(frame) if !frame.is_control() && frame.position() == self.next => {
                    let position = frame.position();
                    if position > until {
                        return None;
                    }
                    self.account.cost.frame(frame.stride());
                    self.offset += frame.stride() as u64;
                    self.next = position.next();
                    let wanted = position >= self.from
                        && if self.passes_all {
                            frame.is_event() && !terms::is_own(frame)
                        } else {
                            self.filter.matches(frame) && !is_hidden(self.hidden.as_deref(), frame)
                        };
                    if wanted {
                        self.swift = if self.passes_all { limit } else { 0 };
                        return Some(Step::Event { offset, len: frame.len() as u32, position });
                    }
                }
                Found::Frame(_) => return self.damaged(limit, until, "positions do not follow each other"),
                Found::Blank => return self.damaged(limit, until, "a blank where frames were"),
                Found::Bad(what) => return self.damaged(limit, until, what),
            }
        }
        None
    }

    fn pick(&mut self, limit: u64, until: Position) -> Option<Step> {
        loop {
            let Plan::Pick { latest_first, known } = &mut self.plan else { return None };
            let Some(unit) = latest_first.pop() else {
                if *known >= limit {
                    return None;
                }
                let (part, ways) = (&self.part, self.search.ways()?);
                let ask = || places(part, &choices(part, ways, limit), *known, limit);
                *latest_first = reversed(counted(&mut self.account.cost, ask));
                *known = limit;
                continue;
            };
            let offset = unit.offset();
            if offset < self.offset {
                continue;
            }
            match look_at(&self.part, &self.filter, self.hidden.as_deref(), offset, limit, &mut self.account.cost) {
                // That it comes next keeps the walk in this part, which may be sealed before all of it may be seen.
                Some(Step::Event { position, .. }) if position > until => {
                    latest_first.push(unit);
                    self.next = position;
                    return None;
                }
                Some(Step::Event { position, .. }) if position < self.from => {}
                Some(Step::Event { offset, len, position }) => {
                    self.offset = offset + padded(len as usize) as u64;
                    self.next = position.next();
                    return Some(Step::Event { offset, len, position });
                }
                Some(Step::Damaged(damage)) if damage.position > until => {
                    latest_first.push(unit);
                    self.next = damage.position;
                    return None;
                }
                Some(Step::Damaged(damage)) => {
                    self.offset = damage.offset + damage.length;
                    self.next = self.next.max(damage.position);
                    return Some(Step::Damaged(damage));
                }
                None => {}
            }
        }
    }

    /// Tells of the damaged stretch that begins here and goes on behind it.
    fn damaged(&mut self, limit: u64, until: Position, what: &str) -> Option<Step> {
        if self.next > until {
            return None;
        }
        let segment = &self.part.segment;
        let damage = damage_at(&self.part, self.offset, limit, self.next, what);
        self.lost = true;
        self.offset = damage.offset + damage.length;
        if let Found::Frame(frame) = segment.find(self.offset, limit) {
            self.next = frame.position();
        }
        Some(Step::Damaged(Box::new(damage)))
    }
}

/// Tells whoever would pass over what was let go of.
fn check_kept(log: &Log, asked: Position) -> Result<()> {
    let oldest = log.oldest();
    if asked < oldest { Err(Error::Expired { asked, oldest }) } else { Ok(()) }
}

/// Where the search goes back, the log ends at what was let go of while it searched.
fn unless_expired<T>(found: Result<Option<T>>) -> Result<Option<T>> {
    match found {
        Err(Error::Expired { .. }) => Ok(None),
        found => found,
    }
}
