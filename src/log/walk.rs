//! Walking the log: event by event, forward or backward, all of them or those that an index finds.

use std::cell::RefCell;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::error::{Damage, Error, Result};
use crate::format::PAGE;
use crate::format::frame::{Found, Frame, padded};
use crate::format::gap::Reason;
use crate::format::index::{SPARSE, Unit};
use crate::format::term::{Kind, Term};
use crate::id::{Position, Revision, Timestamp};
use crate::log::Log;
use crate::log::cost::{self, Account, ReadCost, counted};
use crate::log::parts::Part;
use crate::log::removals::Removals;
use crate::log::terms::{self, Filter, Ways};
use crate::log::tiers::search::Search;
use crate::segment::after;

/// An index is used when it leaves out at least three quarters of a segment's events.
const WORTH: u64 = 4;

/// Where an alternative can be found by two things, the places of the more frequent one are fetched, too, when they are at
/// most so many times as many: so much cheaper is a place than looking at a frame for nothing.
const PLACES_A_FRAME: u64 = 16;

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
                Some(Step::Event { position, .. }) if position > until => {
                    latest_first.push(unit);
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

/// The event at a position, or what stands in its place; `None` past the end, and where one was removed.
pub(crate) fn at(log: &Log, position: Position) -> Result<Option<(Arc<Part>, Step)>> {
    let hidden = log.removals();
    let part = log.parts.of(position)?;
    let mut walk = Walk::scanning(part.clone(), Filter::Everything, hidden, position, Account::new(None));
    let limit = part.segment.written();
    loop {
        match walk.scan(limit, position) {
            // A stretch that ends before it is not what was asked for.
            Some(Step::Damaged(_)) if walk.offset < limit && walk.next <= position => {}
            step => return Ok(step.map(|step| (part, step))),
        }
    }
}

/// The first position at or after a time, or the one after the head.
pub(crate) fn at_time(log: &Log, time: Timestamp) -> Result<Position> {
    loop {
        match look_for_time(log, time) {
            // Something was let go of meanwhile.
            Err(Error::Expired { .. }) => {}
            found => return found,
        }
    }
}

fn look_for_time(log: &Log, time: Timestamp) -> Result<Position> {
    let firsts = log.parts.firsts();
    let mut failed = None;
    let later = firsts.partition_point(|first| {
        let first_time = log.parts.of(*first).map(|part| part.index.summary(part.segment.written()));
        match first_time {
            Ok(summary) => summary.events + summary.gone > 0 && summary.first_time < time,
            Err(error) => {
                failed = Some(error);
                false
            }
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let part = log.parts.of(firsts[later.saturating_sub(1)])?;
    let limit = part.segment.written();
    let chunks: Vec<usize> = (0..part.index.chunks(limit)).collect();
    let is_before = |chunk: &usize| {
        let offset = part.index.chunk(*chunk, limit).unwrap_or(limit);
        matches!(part.segment.find(offset, limit), Found::Frame(frame) if frame.time() < time)
    };
    let chunk = chunks.partition_point(is_before).saturating_sub(1);
    let mut walk =
        Walk::scanning(part.clone(), Filter::Everything, None, chunk_start(&part, chunk), Account::new(None));
    while let Some(step) = walk.scan(limit, Position::new(u64::MAX)) {
        if let Step::Event { offset, len, position } = step
            && part.segment.frame(offset, len).time() >= time
        {
            return Ok(position);
        }
    }
    Ok(walk.next)
}

/// The latest event up to `until` that bears a term.
///
/// # Errors
/// [`Error::Damaged`] when a damaged frame that bears the term, or might, lies behind every sound one: what is said of the
/// latest would be wrong, and a revision would be given twice, or a commit with a key written twice.
pub(crate) fn latest(log: &Log, kind: Kind, text: &[u8], until: Position) -> Result<Option<(Arc<Part>, u64, u32)>> {
    let latest = latest_seen(log, kind, text, until)?;
    match latest.lost.into_iter().chain(latest.written_down).next() {
        Some(damage) => Err(Error::Damaged(damage)),
        None => Ok(latest.sound),
    }
}

/// The latest sound event up to `until` that bears a term, whatever is damaged behind it.
pub(crate) fn latest_seen(log: &Log, kind: Kind, text: &[u8], until: Position) -> Result<Latest> {
    let filter = Filter::Exactly(kind, text.to_vec());
    latest_of(log, Term::of(kind, text), &filter, log.removals().as_deref(), until)
}

/// Where a stream stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// That of its last event that is whole; what is left of a removed one counts, and what is known of those let go of or
    /// written down as removed.
    pub(crate) revision: Revision,
    /// The same, but for what is only written down: a fork has no trace of events that were removed before it was made.
    pub(crate) traced: Revision,
    /// That event was removed, and with it all before: readers find none.
    pub(crate) is_gone: bool,
    /// How many events may be lost behind it: their revisions are not given again.
    pub(crate) lost_events: u64,
}

/// Where a stream stands at `until`. What a repair has written down as lost is counted.
///
/// # Errors
/// [`Error::Damaged`] when its last event may be damaged.
pub(crate) fn standing(log: &Log, stream: &str, until: Position) -> Result<Standing> {
    standing_at(log, stream, standing_of(log, stream, until)?.unless_damaged()?)
}

/// The same, whatever is damaged.
pub(crate) fn standing_seen(log: &Log, stream: &str, until: Position) -> Result<Standing> {
    standing_at(log, stream, standing_of(log, stream, until)?)
}

/// Where a stream stands by what is left of its events, whatever is damaged, and whether that is kept, not only known.
pub(crate) fn traced(log: &Log, stream: &str, until: Position) -> Result<(Revision, bool)> {
    let latest = standing_of(log, stream, until)?;
    let is_kept = latest.sound.is_some();
    Ok((standing_at(log, stream, latest)?.traced, is_kept))
}

fn standing_at(log: &Log, stream: &str, latest: Latest) -> Result<Standing> {
    let hidden = log.removals();
    let (revision, is_stub) = match &latest.sound {
        Some((part, offset, len)) => {
            let frame = part.segment.frame(*offset, *len);
            (frame.revision(), frame.is_stub())
        }
        None => {
            let stood = log.stood(stream)?;
            (stood.revision, stood.is_gone)
        }
    };
    let is_hidden = hidden.as_ref().is_some_and(|hidden| hidden.hides(stream, revision));
    let removed = hidden.and_then(|hidden| hidden.last(stream)).unwrap_or(Revision::ABSENT);
    let is_gone = is_stub || is_hidden || revision == Revision::ABSENT && removed > revision;
    // Those that are lost may be among the removed.
    let beyond = Revision::new(removed.get().saturating_sub(latest.lost_events));
    Ok(Standing { revision: revision.max(beyond), traced: revision, is_gone, lost_events: latest.lost_events })
}

/// The latest sound event that bears a term, and what lies behind it.
pub(crate) struct Latest {
    pub(crate) sound: Option<(Arc<Part>, u64, u32)>,
    /// Damage behind it, latest first, in which events that bear the term are lost, or may be.
    lost: Vec<Damage>,
    /// The same, of what a repair has written down: nobody waits for it to come back.
    written_down: Vec<Damage>,
    /// How many such events there are at the most.
    lost_events: u64,
}

/// The latest frame of a stream that is whole, what is left of a removed event included.
fn standing_of(log: &Log, stream: &str, until: Position) -> Result<Latest> {
    let term = Term::of(Kind::Stream, stream.as_bytes());
    latest_of(log, term, &Filter::Standing(stream.as_bytes().to_vec()), None, until)
}

impl Latest {
    /// The latest sound one, when nothing is damaged behind it but what a repair has written down.
    pub(crate) fn unless_damaged(self) -> Result<Self> {
        match self.lost.into_iter().next() {
            Some(damage) => Err(Error::Damaged(damage)),
            None => Ok(Self { lost: Vec::new(), ..self }),
        }
    }
}

/// The latest sound event up to `until` that bears a term, whatever is damaged behind it.
fn latest_of(log: &Log, term: Term, filter: &Filter, hidden: Option<&Removals>, until: Position) -> Result<Latest> {
    let mut search = Search::term(term);
    let mut latest = Latest { sound: None, lost: Vec::new(), written_down: Vec::new(), lost_events: 0 };
    let mut part = unless_expired(log.parts.search_back(until, &mut search))?;
    while let Some(here) = part {
        let limit = here.segment.written();
        let lost = RefCell::new(Vec::new());
        let is_it = |frame: Frame<'_>| frame.position() <= until && filter.matches(frame) && !is_hidden(hidden, frame);
        let matching = |unit: Unit, is_lost: bool| match here.segment.find(unit.offset(), limit) {
            Found::Frame(frame) if !is_lost => Some(frame.len() as u32).filter(|_| is_it(frame)),
            Found::Frame(_) | Found::Blank | Found::Bad(_) => {
                lost.borrow_mut().push(unit);
                None
            }
        };
        let found = here.index.latest(term, limit, |unit, is_lost| matching(unit, is_lost).is_some());
        for unit in lost.take() {
            let Some(Step::Damaged(damage)) = look_up(&here, filter, unit.offset(), limit) else { continue };
            let end = damage.offset + damage.length;
            // What an index in memory met may have been of any stream; a file names the very frame.
            latest.lost_events += match (here.index.damage(unit.offset()), here.segment.find(end, limit)) {
                (None, _) => 1,
                (Some((begins, _)), Found::Frame(frame)) => frame.position().get().saturating_sub(begins.get()),
                (Some((begins, _)), _) => {
                    let last = here.segment.last().unwrap_or(until).min(until);
                    last.next().get().saturating_sub(begins.get())
                }
            };
            match here.segment.find(unit.offset(), limit) {
                Found::Frame(frame) if frame.gap().is_some() => latest.written_down.push(*damage),
                _ => latest.lost.push(*damage),
            }
        }
        if let Some(unit) = found
            && let Found::Frame(frame) = here.segment.find(unit.offset(), limit)
        {
            let len = frame.len() as u32;
            latest.sound = Some((here, unit.offset(), len));
            return Ok(latest);
        }
        part = unless_expired(log.parts.search_back(here.segment.first().previous(), &mut search))?;
    }
    Ok(latest)
}

/// The event with a revision of a stream, up to `until`. Looks at two frames a part, not at the stream.
///
/// Revisions are dense, so the first one in a part tells which of the stream's frames there has the one asked for. Where
/// damage or two names with one hash break that, the part is walked.
pub(crate) fn by_revision(
    log: &Log,
    stream: &str,
    revision: Revision,
    until: Position,
) -> Result<Option<(Arc<Part>, Step)>> {
    let term = Term::of(Kind::Stream, stream.as_bytes());
    let filter = Filter::Exactly(Kind::Stream, stream.as_bytes().to_vec());
    let mut search = Search::term(term);
    if log.removals().is_some_and(|hidden| hidden.hides(stream, revision)) {
        return Ok(None);
    }
    let (mut part, mut lost) = (unless_expired(log.parts.search_back(until, &mut search))?, None);
    while let Some(here) = part {
        let limit = here.segment.written();
        let units = here.index.postings(term, PAGE as u64, limit);
        let look = |unit: &Unit| look_up(&here, &filter, unit.offset(), limit);
        let revision_of = |step: &Step| match step {
            Step::Event { offset, len, position } if *position <= until => {
                Some(here.segment.frame(*offset, *len).revision())
            }
            Step::Event { .. } | Step::Damaged(_) => None,
        };
        let is_it = |step: &Step| revision_of(step) == Some(revision);
        let is_damage = |step: &Step| matches!(step, Step::Damaged(_));
        let damaged = || units.iter().filter_map(look).find(is_damage);
        // Behind the first revision in the part none before it can stand, damaged or not.
        let mut before = None;
        let first = units.iter().filter_map(look).find_map(|step| {
            let revision = revision_of(&step);
            before = before.take().or(Some(step).filter(is_damage));
            revision
        });
        match first {
            Some(begins) if begins <= revision => {
                let nth = (revision.get() - begins.get()) as usize;
                let direct = units.get(nth).and_then(look).filter(is_it);
                let found = direct.or_else(|| units.iter().filter_map(look).find(is_it)).or_else(damaged);
                // It may have stood behind this part, in what is damaged there.
                return Ok(found.map(|step| (here.clone(), step)).or(lost));
            }
            _ => lost = lost.or_else(|| before.map(|step| (here.clone(), step))),
        }
        part = unless_expired(log.parts.search_back(here.segment.first().previous(), &mut search))?;
    }
    Ok(lost)
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

/// What stands at a frame that an index named, counted for the thread that asks.
fn look_up(part: &Part, filter: &Filter, offset: u64, limit: u64) -> Option<Step> {
    let mut cost = ReadCost::default();
    let step = look_at(part, filter, None, offset, limit, &mut cost);
    cost::count(&cost);
    step
}

/// What stands at a frame that an index named: an event that passes the filter, damage, or nothing of interest.
fn look_at(
    part: &Part,
    filter: &Filter,
    hidden: Option<&Removals>,
    offset: u64,
    limit: u64,
    cost: &mut ReadCost,
) -> Option<Step> {
    let damaged = |what| {
        let (position, end) = part.index.damage(offset).unwrap_or_else(|| {
            let position = position_at(part, offset, limit);
            (position, part.behind_damage(offset, limit, position))
        });
        Some(Step::Damaged(Box::new(part.segment.damage(offset, end, position, what))))
    };
    let found = part.segment.find(offset, limit);
    if let Found::Frame(frame) = found {
        cost.frame(frame.stride());
    }
    match found {
        Found::Frame(frame) if frame.is_control() && frame.positions() > 0 => lost_at(part, offset, frame),
        // A sound frame out of its place is part of a damaged stretch.
        Found::Frame(_) if part.index.damage(offset).is_some() => damaged("positions do not follow each other"),
        Found::Frame(frame) if !frame.is_control() && filter.matches(frame) && !is_hidden(hidden, frame) => {
            Some(Step::Event { offset, len: frame.len() as u32, position: frame.position() })
        }
        Found::Frame(_) => None,
        Found::Blank => damaged("a blank where a frame was"),
        Found::Bad(what) => damaged(what),
    }
}

/// What a repair wrote down about events that were lost here. What was removed on purpose is nothing to tell of.
fn lost_at(part: &Part, offset: u64, frame: Frame<'_>) -> Option<Step> {
    let gap = frame.gap().filter(|gap| gap.reason == Reason::Lost && gap.positions > 0)?;
    let end = offset + frame.stride() as u64;
    Some(Step::Damaged(Box::new(part.segment.damage(offset, end, frame.position(), gap.why))))
}

#[inline]
fn is_hidden(hidden: Option<&Removals>, frame: Frame<'_>) -> bool {
    hidden.is_some_and(|hidden| hidden.hides(frame.stream(), frame.revision()))
}

fn damage_at(part: &Part, offset: u64, limit: u64, position: Position, what: &str) -> Damage {
    let end = part.behind_damage(offset, limit, position);
    part.segment.damage(offset, end, position, what)
}

/// Which position was to come at an offset where there is no frame: walks there from the sparse table.
fn position_at(part: &Part, offset: u64, limit: u64) -> Position {
    let chunks: Vec<usize> = (0..part.index.chunks(limit)).collect();
    let before = chunks.partition_point(|chunk| part.index.chunk(*chunk, limit).is_some_and(|start| start < offset));
    let from = chunk_start(part, before.saturating_sub(1));
    let (mut at, mut next) = start_in(part, from);
    while at < offset {
        match part.segment.find(at, limit) {
            Found::Frame(frame) if frame.position() == next => (at, next) = (at + frame.stride() as u64, after(frame)),
            _ => {
                let behind = part.behind_damage(at, limit, next);
                match part.segment.find(behind, limit) {
                    Found::Frame(frame) if behind <= offset => (at, next) = (behind, frame.position()),
                    _ => break,
                }
            }
        }
    }
    next
}

/// Where to begin to look in a part for a position, and which position comes there: always a place where nothing is lost.
fn start_in(part: &Part, from: Position) -> (u64, Position) {
    let first = part.segment.first();
    let limit = part.segment.written();
    let wanted = from.get().saturating_sub(first.get()) as usize / SPARSE;
    if wanted == 0 {
        // Without asking the index, which would have to catch up with the whole segment first.
        return (PAGE as u64, first);
    }
    let mut chunk = wanted.min(part.index.chunks(limit).saturating_sub(1));
    while chunk > 0 {
        let offset = part.index.chunk(chunk, limit).unwrap_or(PAGE as u64);
        match part.segment.find(offset, limit) {
            Found::Frame(frame) if part.index.damage(offset).is_none() => return (offset, frame.position()),
            // Damage that may have begun in an earlier run.
            _ => chunk -= 1,
        }
    }
    (PAGE as u64, first)
}

fn chunk_start(part: &Part, chunk: usize) -> Position {
    Position::new(part.segment.first().get() + (chunk * SPARSE) as u64)
}

/// The ways of each alternative, the one with the fewest frames first.
fn choices<'a>(part: &Part, ways: &'a Ways, limit: u64) -> Vec<Vec<(u64, &'a [Term])>> {
    let count = |way: &[Term]| way.iter().map(|term| part.index.count(*term, limit)).sum::<u64>();
    let sorted = |item: &'a Vec<Vec<Term>>| {
        let mut counted: Vec<_> = item.iter().map(|way| (count(way), &way[..])).collect();
        counted.sort_unstable_by_key(|(count, _)| *count);
        counted
    };
    ways.iter().map(sorted).collect()
}

/// The frames from `from` on that may pass, rising, if asking the index beats looking at every frame.
fn candidates(part: &Part, ways: &Ways, from: u64, limit: u64) -> Option<Vec<Unit>> {
    let choices = choices(part, ways, limit);
    let found: u64 = choices.iter().filter_map(|item| item.first()).map(|(count, _)| count).sum();
    (found * WORTH <= part.index.summary(limit).events).then(|| places(part, &choices, from, limit))
}

/// The frames from `from` on that may pass, rising.
fn places(part: &Part, choices: &[Vec<(u64, &[Term])>], from: u64, limit: u64) -> Vec<Unit> {
    let of = |way: &[Term]| rising(way.iter().flat_map(|term| part.index.postings(*term, from, limit)).collect());
    rising(
        choices
            .iter()
            .flat_map(|item| {
                let mut ways = item.iter();
                let mut units = ways.next().map_or_else(Vec::new, |(_, way)| of(way));
                for (count, way) in ways {
                    if *count > units.len() as u64 * PLACES_A_FRAME {
                        break;
                    }
                    let others = of(way);
                    units.retain(|unit| others.binary_search(unit).is_ok());
                }
                units
            })
            .collect(),
    )
}

fn rising(mut units: Vec<Unit>) -> Vec<Unit> {
    units.sort_unstable();
    units.dedup();
    units
}

fn reversed(mut units: Vec<Unit>) -> Vec<Unit> {
    units.reverse();
    units
}
