//! One event, by its position, its time or its revision.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::PAGE;
use crate::format::frame::Found;
use crate::format::index::Unit;
use crate::format::term::{Kind, Term};
use crate::id::{Position, Revision, Timestamp};
use crate::log::Log;
use crate::log::cost::Account;
use crate::log::parts::Part;
use crate::log::terms::Filter;
use crate::log::tiers::search::Search;
use crate::log::walk::places::{chunk_start, look_up};
use crate::log::walk::{Step, Walk, unless_expired};

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
