//! Walking the log: event by event, forward or backward, all of them or those that an index finds.

use std::sync::Arc;

use crate::error::{Damage, Result};
use crate::format::PAGE;
use crate::format::frame::{Found, padded};
use crate::format::index::{SPARSE, Unit};
use crate::format::term::{Kind, Term};
use crate::id::{Position, Revision, Timestamp};
use crate::log::Log;
use crate::log::parts::Part;
use crate::log::terms::{self, Filter};
use crate::log::tiers::search::Search;
use crate::segment::after;

/// An index is used when it leaves out at least three quarters of a segment's events.
const WORTH: u64 = 4;

/// Where an event stands in the walk's current part, or what stands in its place.
#[derive(Debug)]
pub(crate) enum Step {
    Event { offset: u64, len: u32, position: Position },
    Damaged(Box<Damage>),
}

/// A walk forward. Its end moves with the log for as long as somebody asks.
#[derive(Debug)]
pub(crate) struct Walk {
    filter: Filter,
    search: Search,
    /// Whether the filter lets every event of users pass.
    passes_all: bool,
    part: Arc<Part>,
    /// Where to look next in the part.
    offset: u64,
    /// The position that comes next there, at the least.
    next: Position,
    /// Events before this one are passed over.
    from: Position,
    plan: Plan,
    /// Whether damage was told of in this part, so that positions up to the next one may be missing.
    lost: bool,
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
    /// A walk that begins at a position, inclusive.
    pub(crate) fn new(log: &Log, filter: Filter, from: Position) -> Result<Self> {
        let from = from.max(Position::new(1));
        let mut search = Search::of(&filter);
        let part = log.parts.search_forward(from, &mut search)?;
        let from = from.max(part.segment.first());
        Ok(Self { search, ..Self::in_part(part, filter, from) })
    }

    fn in_part(part: Arc<Part>, filter: Filter, from: Position) -> Self {
        let (offset, next) = start_in(&part, from);
        let (passes_all, search) = (filter.is_all(), Search::everywhere());
        Self { filter, search, passes_all, part, offset, next, from, plan: Plan::Undecided, lost: false }
    }

    /// The part that the last step was in.
    pub(crate) fn part(&self) -> &Arc<Part> {
        &self.part
    }

    /// The position that comes next, at the least.
    pub(crate) fn next(&self) -> Position {
        self.next
    }

    /// Whether the index finds the events, as far as the walk has come.
    pub(crate) fn is_picking(&self) -> bool {
        matches!(self.plan, Plan::Pick { .. })
    }

    /// The next event when it is the very next frame, as it nearly always is: the inner loop of a replay. `None` says
    /// nothing; ask [`step`](Walk::step).
    #[inline]
    pub(crate) fn next_frame(&mut self, until: Position) -> Option<(u64, u32)> {
        let Plan::Scan = self.plan else { return None };
        let offset = self.offset;
        let Found::Frame(frame) = self.part.segment.find(offset, self.part.segment.written()) else { return None };
        let position = frame.position();
        let wanted = self.passes_all
            && !frame.is_control()
            && position == self.next
            && position <= until
            && position >= self.from
            && !terms::is_own(frame);
        if !wanted {
            return None;
        }
        self.offset += frame.stride() as u64;
        self.next = position.next();
        Some((offset, frame.len() as u32))
    }

    /// The next event whose position is at most `until`; `None` when there is none yet.
    pub(crate) fn step(&mut self, log: &Log, until: Position) -> Result<Option<Step>> {
        if self.next > until {
            return Ok(None);
        }
        loop {
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
            self.part = log.parts.search_forward(following, &mut self.search)?;
            self.offset = PAGE as u64;
            self.next = self.part.segment.first();
            self.plan = Plan::Undecided;
            self.lost = false;
            if gap.is_some() {
                return Ok(gap);
            }
        }
    }

    fn step_in_part(&mut self, limit: u64, until: Position) -> Option<Step> {
        if matches!(self.plan, Plan::Undecided) && self.offset < limit {
            self.plan = if is_worth_an_index(&self.part, &self.filter, limit) {
                Plan::Pick { latest_first: Vec::new(), known: self.offset }
            } else {
                Plan::Scan
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
                    self.offset += frame.stride() as u64;
                }
                Found::Frame(frame) if !frame.is_control() && frame.position() == self.next => {
                    let position = frame.position();
                    if position > until {
                        return None;
                    }
                    self.offset += frame.stride() as u64;
                    self.next = position.next();
                    let wanted = position >= self.from
                        && if self.passes_all { !terms::is_own(frame) } else { self.filter.matches(frame) };
                    if wanted {
                        return Some(Step::Event { offset, len: frame.len() as u32, position });
                    }
                }
                Found::Frame(_) => return self.damaged(limit, "positions do not follow each other"),
                Found::Blank => return self.damaged(limit, "a blank where frames were"),
                Found::Bad(what) => return self.damaged(limit, what),
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
                *latest_first = candidates(&self.part, &self.filter, *known, limit);
                latest_first.reverse();
                *known = limit;
                continue;
            };
            let offset = unit.offset();
            if offset < self.offset {
                continue;
            }
            match look_at(&self.part, &self.filter, offset, limit) {
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
    fn damaged(&mut self, limit: u64, what: &str) -> Option<Step> {
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
    filter: Filter,
    search: Search,
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

/// How many picked frames are looked at in one go.
const PICKED_RUN: usize = 64;

impl WalkBack {
    /// A walk that begins at a position, inclusive.
    pub(crate) fn new(log: &Log, filter: Filter, until: Position) -> Result<Self> {
        let mut search = Search::of(&filter);
        let part = log.parts.search_back(until, &mut search)?;
        Ok(Self { filter, search, part, until, found: Vec::new(), left: Left::Undecided })
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
                self.part =
                    if first <= from { None } else { log.parts.search_back(first.previous(), &mut self.search)? };
                self.left = Left::Undecided;
            }
        }
    }

    /// Finds the next run of events. `false` when the part has no more.
    fn find_run(&mut self, part: &Arc<Part>) -> Result<bool> {
        let limit = part.segment.written();
        let first = part.segment.first();
        if matches!(self.left, Left::Undecided) {
            self.left = if is_worth_an_index(part, &self.filter, limit) {
                Left::Picked(candidates(part, &self.filter, PAGE as u64, limit))
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
                let run = units.split_off(units.len().saturating_sub(PICKED_RUN));
                let (filter, until) = (&self.filter, self.until);
                let steps = run.iter().filter_map(|unit| look_at(part, filter, unit.offset(), limit));
                self.found
                    .extend(steps.filter(|step| !matches!(step, Step::Event { position, .. } if *position > until)));
                Ok(!run.is_empty())
            }
            Left::Chunks(left) => {
                let Some(chunk) = left.checked_sub(1) else { return Ok(false) };
                *left = chunk;
                let from = Position::new(first.get() + (chunk * SPARSE) as u64);
                let until = Position::new(from.get() + SPARSE as u64 - 1).min(self.until);
                let mut walk = Walk::in_part(part.clone(), self.filter.clone(), from);
                walk.plan = Plan::Scan;
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

/// The event at a position, or what stands in its place; `None` past the end.
pub(crate) fn at(log: &Log, position: Position) -> Result<Option<(Arc<Part>, Step)>> {
    let part = log.parts.of(position)?;
    let mut walk = Walk::in_part(part.clone(), Filter::Everything, position);
    walk.plan = Plan::Scan;
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
    let firsts = log.parts.firsts();
    let mut failed = None;
    let later = firsts.partition_point(|first| {
        let first_time = log.parts.of(*first).map(|part| part.index.summary(part.segment.written()));
        match first_time {
            Ok(summary) => summary.events > 0 && summary.first_time < time,
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
    let mut walk = Walk::in_part(part.clone(), Filter::Everything, chunk_start(&part, chunk));
    walk.plan = Plan::Scan;
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
pub(crate) fn latest(log: &Log, kind: Kind, text: &[u8], until: Position) -> Result<Option<(Arc<Part>, u64, u32)>> {
    let (term, filter) = (Term::of(kind, text), Filter::Exactly(kind, text.to_vec()));
    let mut search = Search::term(term);
    let mut part = log.parts.search_back(until, &mut search)?;
    while let Some(here) = part {
        let limit = here.segment.written();
        let matching = |unit: Unit| match here.segment.find(unit.offset(), limit) {
            Found::Frame(frame) if frame.position() <= until && filter.matches(frame) => Some(frame.len() as u32),
            _ => None,
        };
        if let Some(unit) = here.index.latest(term, limit, |unit| matching(unit).is_some()) {
            let len = matching(unit).unwrap_or_default();
            return Ok(Some((here, unit.offset(), len)));
        }
        part = log.parts.search_back(here.segment.first().previous(), &mut search)?;
    }
    Ok(None)
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
    let (mut part, mut lost) = (log.parts.search_back(until, &mut search)?, None);
    while let Some(here) = part {
        let limit = here.segment.written();
        let units = here.index.postings(term, PAGE as u64, limit);
        let look = |unit: &Unit| look_at(&here, &filter, unit.offset(), limit);
        let revision_of = |step: &Step| match step {
            Step::Event { offset, len, position } if *position <= until => {
                Some(here.segment.frame(*offset, *len).revision())
            }
            Step::Event { .. } | Step::Damaged(_) => None,
        };
        let is_it = |step: &Step| revision_of(step) == Some(revision);
        let damaged = || units.iter().filter_map(look).find(|step| matches!(step, Step::Damaged(_)));
        match units.iter().filter_map(look).find_map(|step| revision_of(&step)) {
            Some(begins) if begins <= revision => {
                let nth = (revision.get() - begins.get()) as usize;
                let direct = units.get(nth).and_then(look).filter(is_it);
                let found = direct.or_else(|| units.iter().filter_map(look).find(is_it)).or_else(damaged);
                return Ok(found.map(|step| (here.clone(), step)));
            }
            _ => lost = lost.or_else(|| damaged().map(|step| (here.clone(), step))),
        }
        part = log.parts.search_back(here.segment.first().previous(), &mut search)?;
    }
    Ok(lost)
}

/// What stands at a frame that an index named: an event that passes the filter, damage, or nothing of interest.
fn look_at(part: &Part, filter: &Filter, offset: u64, limit: u64) -> Option<Step> {
    let damaged = |what| {
        let (position, end) = part.index.damage(offset).unwrap_or_else(|| {
            let position = position_at(part, offset, limit);
            (position, part.segment.next_sound(offset, limit, position).unwrap_or(limit))
        });
        Some(Step::Damaged(Box::new(part.segment.damage(offset, end, position, what))))
    };
    match part.segment.find(offset, limit) {
        // A sound frame out of its place is part of a damaged stretch.
        Found::Frame(_) if part.index.damage(offset).is_some() => damaged("positions do not follow each other"),
        Found::Frame(frame) if !frame.is_control() && filter.matches(frame) => {
            Some(Step::Event { offset, len: frame.len() as u32, position: frame.position() })
        }
        Found::Frame(_) => None,
        Found::Blank => damaged("a blank where a frame was"),
        Found::Bad(what) => damaged(what),
    }
}

fn damage_at(part: &Part, offset: u64, limit: u64, position: Position, what: &str) -> Damage {
    let end = part.segment.next_sound(offset, limit, position).unwrap_or(limit);
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
                let behind = part.segment.next_sound(at, limit, next).unwrap_or(limit);
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

/// Whether asking the index beats looking at every frame.
fn is_worth_an_index(part: &Part, filter: &Filter, limit: u64) -> bool {
    let Some(ways) = filter.ways() else { return false };
    let found: u64 = ways.iter().map(|item| best_way(part, item, limit).1).sum();
    found * WORTH <= part.index.summary(limit).events
}

/// The way with the fewest frames, and how many.
fn best_way<'a>(part: &Part, item: &'a [Vec<Term>], limit: u64) -> (&'a [Term], u64) {
    let counted = item.iter().map(|way| (&way[..], way.iter().map(|term| part.index.count(*term, limit)).sum()));
    counted.min_by_key(|(_, count)| *count).unwrap_or((&[], u64::MAX / WORTH))
}

/// The frames from `from` on that may pass, rising.
fn candidates(part: &Part, filter: &Filter, from: u64, limit: u64) -> Vec<Unit> {
    let ways = filter.ways().unwrap_or_default();
    let mut units: Vec<Unit> = ways
        .iter()
        .flat_map(|item| best_way(part, item, limit).0)
        .flat_map(|term| part.index.postings(*term, from, limit))
        .collect();
    units.sort_unstable();
    units.dedup();
    units
}
