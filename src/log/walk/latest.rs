//! The latest event that bears a term, and so where a stream stands.

use std::cell::RefCell;
use std::sync::Arc;

use crate::error::{Damage, Error, Result};
use crate::format::frame::{Found, Frame};
use crate::format::index::Unit;
use crate::format::term::{Kind, Term};
use crate::id::{Position, Revision};
use crate::log::Log;
use crate::log::parts::Part;
use crate::log::removals::Removals;
use crate::log::terms::Filter;
use crate::log::tiers::search::Search;
use crate::log::walk::places::{is_hidden, look_up};
use crate::log::walk::{Step, unless_expired};

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
