//! Where in a part to look for events, and what stands there.

use crate::error::Damage;
use crate::format::PAGE;
use crate::format::frame::{Found, Frame};
use crate::format::gap::Reason;
use crate::format::index::{SPARSE, Unit};
use crate::format::term::Term;
use crate::id::Position;
use crate::log::cost::{self, ReadCost};
use crate::log::parts::Part;
use crate::log::removals::Removals;
use crate::log::terms::{Filter, Ways};
use crate::log::walk::Step;
use crate::segment::after;

/// An index is used when it leaves out at least three quarters of a segment's events.
const WORTH: u64 = 4;

/// Where an alternative can be found by two things, the places of the more frequent one are fetched, too, when they are at
/// most so many times as many: so much cheaper is a place than looking at a frame for nothing.
const PLACES_A_FRAME: u64 = 16;

/// What stands at a frame that an index named, counted for the thread that asks.
pub(super) fn look_up(part: &Part, filter: &Filter, offset: u64, limit: u64) -> Option<Step> {
    let mut cost = ReadCost::default();
    let step = look_at(part, filter, None, offset, limit, &mut cost);
    cost::count(&cost);
    step
}

/// What stands at a frame that an index named: an event that passes the filter, damage, or nothing of interest.
pub(super) fn look_at(
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
pub(super) fn lost_at(part: &Part, offset: u64, frame: Frame<'_>) -> Option<Step> {
    let gap = frame.gap().filter(|gap| gap.reason == Reason::Lost && gap.positions > 0)?;
    let end = offset + frame.stride() as u64;
    Some(Step::Damaged(Box::new(part.segment.damage(offset, end, frame.position(), gap.why))))
}

#[inline]
pub(super) fn is_hidden(hidden: Option<&Removals>, frame: Frame<'_>) -> bool {
    hidden.is_some_and(|hidden| hidden.hides(frame.stream(), frame.revision()))
}

pub(super) fn damage_at(part: &Part, offset: u64, limit: u64, position: Position, what: &str) -> Damage {
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
pub(super) fn start_in(part: &Part, from: Position) -> (u64, Position) {
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
            // Damage that may have begun in an earlier run, by millions of runs where a repair wrote down what is lost.
            _ => {
                let begins = part.index.damage(offset).map(|(position, _)| position.get().saturating_sub(first.get()));
                chunk = begins.map_or(chunk, |steps| steps as usize / SPARSE).min(chunk - 1);
            }
        }
    }
    (PAGE as u64, first)
}

pub(super) fn chunk_start(part: &Part, chunk: usize) -> Position {
    Position::new(part.segment.first().get() + (chunk * SPARSE) as u64)
}

/// The ways of each alternative, the one with the fewest frames first.
pub(super) fn choices<'a>(part: &Part, ways: &'a Ways, limit: u64) -> Vec<Vec<(u64, &'a [Term])>> {
    let count = |way: &[Term]| way.iter().map(|term| part.index.count(*term, limit)).sum::<u64>();
    let sorted = |item: &'a Vec<Vec<Term>>| {
        let mut counted: Vec<_> = item.iter().map(|way| (count(way), &way[..])).collect();
        counted.sort_unstable_by_key(|(count, _)| *count);
        counted
    };
    ways.iter().map(sorted).collect()
}

/// The frames from `from` on that may pass, rising, if asking the index beats looking at every frame.
pub(super) fn candidates(part: &Part, ways: &Ways, from: u64, limit: u64) -> Option<Vec<Unit>> {
    let choices = choices(part, ways, limit);
    let found: u64 = choices.iter().filter_map(|item| item.first()).map(|(count, _)| count).sum();
    (found * WORTH <= part.index.summary(limit).events).then(|| places(part, &choices, from, limit))
}

/// The frames from `from` on that may pass, rising.
pub(super) fn places(part: &Part, choices: &[Vec<(u64, &[Term])>], from: u64, limit: u64) -> Vec<Unit> {
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

pub(super) fn reversed(mut units: Vec<Unit>) -> Vec<Unit> {
    units.reverse();
    units
}
