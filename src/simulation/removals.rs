//! Events are removed from streams, and taken out of the files; and what may be seen of that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::format::PAGE;
use crate::format::frame::Found;
use crate::id::{Position, Revision};
use crate::log::purge::{Pass, Purge};
use crate::simulation::chance::Chance;
use crate::simulation::faults::Weakness;
use crate::simulation::model::{BILLED, COPIED, Check, FAILED, Known, Model, SOURCES, ensure};
use crate::simulation::world::World;
use crate::store::Store;
use crate::writer::durability::Durability;

/// With so many removals of which nobody knows what became, the next one waits.
const UNKNOWN: usize = 4;

/// What was removed since the store was opened last, or may have been.
#[derive(Debug)]
pub(super) struct Removals {
    pub(super) chance: Chance,
    /// In the order in which they were asked for.
    recent: Vec<Removal>,
    /// How many there were.
    pub(super) count: u64,
}

/// Everything is purged after so many steps, or never.
const PURGED: u32 = 10_000;

/// One removal.
#[derive(Clone, Debug)]
struct Removal {
    /// Its number among all.
    number: u64,
    stream: &'static str,
    positions: Vec<u64>,
    /// Its number among what was written, if it was answered.
    written: Option<u64>,
    /// Its record stands behind this position.
    behind: u64,
    /// And before whatever follows this one, if that is known.
    before: Option<u64>,
    /// Nothing that may have happened since takes it away.
    lasts: bool,
}

impl Removals {
    pub(super) fn new(chance: Chance) -> Self {
        Self { chance, recent: Vec::new(), count: 0 }
    }

    /// The process ended. What was written and not synced may be lost with the power.
    pub(super) fn ended(&mut self, may_lose: bool, synced: u64) {
        for removal in &mut self.recent {
            removal.lasts &= removal.written.is_some_and(|written| !may_lose || written <= synced);
        }
    }

    /// Whether one of those that may be in the log takes a position.
    pub(super) fn may_take(&self, position: u64) -> bool {
        self.recent.iter().any(|removal| removal.positions.contains(&position))
    }

    /// Whether one that lasts takes it.
    pub(super) fn surely_takes(&self, position: u64) -> bool {
        self.recent.iter().any(|removal| removal.lasts && removal.positions.contains(&position))
    }

    /// Which of them may stand in a log that ends at `head`, all at once: each that is said to last, those that were answered
    /// up to one of them, and any whose answer never came.
    fn outcomes(&self, head: u64) -> Vec<Vec<&Removal>> {
        let mut outcomes = vec![Vec::new()];
        let mut lost = vec![false];
        for removal in &self.recent {
            let fits = removal.behind <= head;
            let has_to = removal.lasts || removal.before.is_some_and(|before| before < head);
            let (mut next, mut next_lost) = (Vec::new(), Vec::new());
            for (outcome, lost) in outcomes.into_iter().zip(lost) {
                // What follows one that is lost is lost, too.
                if fits && !(lost && removal.written.is_some()) {
                    let mut with = outcome.clone();
                    with.push(removal);
                    next.push(with);
                    next_lost.push(lost);
                }
                if !has_to {
                    next.push(outcome);
                    next_lost.push(lost || removal.written.is_some());
                }
            }
            (outcomes, lost) = (next, next_lost);
        }
        outcomes
    }
}

impl Model {
    pub(super) fn is_gone(&self, position: u64) -> bool {
        self.at(position).is_some_and(|known| known.gone.is_some())
    }

    /// Where a stream stands: nowhere when its last event was removed.
    pub(super) fn stands_at(&self, stream: &str) -> u64 {
        let last = self.log.iter().rev().find(|known| known.stream == stream);
        last.filter(|known| known.gone.is_none()).map_or(0, |known| known.revision)
    }

    /// One who began after so many removals was handed an event: it was not removed before.
    pub(super) fn check_served(&self, position: u64, since: u64) -> Check {
        let gone = self.at(position).and_then(|known| known.gone);
        ensure(gone.is_none_or(|removal| removal > since), || {
            format!("{position} was handed out, and removal {gone:?} took it before there were {since}")
        })
    }

    /// The events of a stream that are there, latest first.
    fn latest_of(&self, stream: &str) -> Vec<(u64, u64)> {
        let here = |(_, known): &(u64, &Known)| known.stream == stream && known.gone.is_none();
        let mut here: Vec<_> = (1..).zip(&self.log).filter(here).map(|(at, known)| (at, known.revision)).collect();
        here.reverse();
        here
    }

    fn take_out(&mut self, removal: &Removal) {
        for position in &removal.positions {
            if let Some(known) = self.log.get_mut(*position as usize - 1) {
                known.gone.get_or_insert(removal.number);
            }
        }
    }
}

impl World {
    /// Something is removed, or purged.
    pub(super) fn remove_some(&mut self) -> Check {
        self.take_in()?;
        if !self.goes_on() {
            return Ok(());
        }
        let most = self.removals.recent.iter().filter(|removal| removal.written.is_none()).count();
        let Some(store) = self.store().filter(|_| most < UNKNOWN) else { return Ok(()) };
        let chance = &mut self.removals.chance;
        let streams = [&SOURCES[..], &SOURCES, &[COPIED, BILLED, FAILED]].concat();
        let stream = *chance.pick(&streams).unwrap_or(&SOURCES[0]);
        let here = self.model.latest_of(stream);
        let last = here.first().map_or(0, |(_, revision)| *revision);
        let (mut gone, done) = match chance.below(100) {
            0..30 => {
                let before = chance.from(1..=last + 2);
                let gone: Vec<u64> =
                    here.iter().filter(|(_, revision)| *revision < before).map(|(at, _)| *at).collect();
                (gone, store.truncate_stream(stream, Revision::new(before)))
            }
            30..45 => (here.iter().map(|(at, _)| *at).collect(), store.delete_stream(stream)),
            45..65 => {
                let keys = chance.from(1..=4);
                let key = |position: u64| (!position.is_multiple_of(5)).then_some(position % keys);
                let mut seen = BTreeSet::new();
                let kept = here.iter().filter(|(at, _)| *at >= self.model.oldest);
                let gone: Vec<u64> =
                    kept.map(|(at, _)| *at).filter(|at| key(*at).is_some_and(|key| !seen.insert(key))).collect();
                match store.compact_stream(stream, |event| key(event.position().get())) {
                    Ok(compacted) => {
                        let expected = gone.len() as u64;
                        ensure((compacted.removed, compacted.left) == (expected, 0), || {
                            format!("{expected} were to be compacted of {stream}, and {compacted:?} were")
                        })?;
                        (gone, Ok(()))
                    }
                    Err(error) => (gone, Err(error)),
                }
            }
            _ => return self.purge(),
        };
        gone.reverse();
        self.figures.removed += gone.len() as u64;
        self.removed(stream, gone, done)
    }

    /// A removal was answered.
    fn removed(&mut self, stream: &'static str, positions: Vec<u64>, done: Result<(), Error>) -> Check {
        if positions.is_empty() {
            // There was nothing to write.
            return done.or_else(|error| self.expected(error));
        }
        self.removals.count += 1;
        let (number, behind) = (self.removals.count, self.model.head());
        let mut removal = Removal { number, stream, positions, written: None, behind, before: None, lasts: true };
        match done {
            Ok(()) => {
                self.written += 1;
                removal.written = Some(self.written);
                self.take_in()?;
                // Who died meanwhile could not look how far the log goes.
                removal.before = self.disk.is_alive().then(|| self.model.head());
                self.model.take_out(&removal);
                self.removals.recent.push(removal);
                if self.setup.durability == Durability::Sync {
                    self.all_synced();
                }
                Ok(())
            }
            // Nothing of it was written, it says.
            Err(error @ (Error::DiskFull { .. } | Error::Io { .. })) if self.disk.is_alive() => self.expected(error),
            Err(error) => {
                removal.lasts = false;
                self.removals.recent.push(removal);
                self.expected(error)
            }
        }
    }

    /// What was removed goes from the files, partly or all of it.
    fn purge(&mut self) -> Check {
        let Some(store) = self.store() else { return Ok(()) };
        if let Err(error) = store.purge() {
            return self.expected(error);
        }
        self.figures.purges += 1;
        if matches!(self.weakness, Some(Weakness::RemovalUnsynced | Weakness::PurgesTooMuch)) {
            return self.purge_weakly(&store);
        }
        for _ in 0..self.removals.chance.from(1..=40) {
            if !self.disk.is_alive() || !store.step().unwrap_or(false) {
                break;
            }
        }
        Ok(())
    }

    /// The controls: segments are written again before what says why is on the disk, or without an event that was not removed.
    fn purge_weakly(&mut self, store: &Store) -> Check {
        let log = store.inner.log.clone();
        let Some(mut removals) = log.removals() else { return Ok(()) };
        if self.weakness == Some(Weakness::PurgesTooMuch) {
            let stream = SOURCES[0];
            let Some((_, revision)) = self.model.latest_of(stream).get(1).copied() else { return Ok(()) };
            Arc::make_mut(&mut removals).dropped(stream.to_owned(), &[(revision, revision)]);
        }
        let pass = Purge::begin(log, removals).and_then(|mut pass| {
            while let Pass::Partly = pass.go_on(&mut || {})? {}
            Ok(())
        });
        pass.or_else(|error| self.expected(error))
    }

    /// The store was opened and ends at `head`; of these positions it has nothing. What became of the removals since it was opened
    /// before has to be one thing.
    pub(super) fn settle_removals(&mut self, store: &Store, head: u64, missing: &BTreeSet<u64>) -> Check {
        let mut stands = BTreeMap::new();
        let streams: Vec<&str> = self.removals.recent.iter().map(|removal| removal.stream).collect();
        for stream in streams {
            match store.revision(stream) {
                Ok(stands_at) => _ = stands.insert(stream, stands_at.get()),
                // Where the medium lost it nobody can say which of the removals it was.
                Err(error) => return self.expected(error),
            }
        }
        let agrees = |outcome: &[&Removal]| {
            let takes = |position: u64| {
                let before = self.model.at(position).and_then(|known| known.gone);
                let recent = |number: u64| self.removals.recent.iter().any(|removal| removal.number == number);
                before.is_some_and(|number| !recent(number))
                    || outcome.iter().any(|removal| removal.positions.contains(&position))
            };
            let kept = self.model.oldest..=head.min(self.model.head());
            kept.clone().all(|position| takes(position) == missing.contains(&position))
                && stands.iter().all(|(stream, stands_at)| {
                    let last = (1..=self.model.head().min(head))
                        .rev()
                        .find(|at| self.model.at(*at).is_some_and(|known| known.stream == *stream));
                    let revision = last.filter(|at| !takes(*at)).and_then(|at| Some(self.model.at(at)?.revision));
                    head > self.model.head() || revision.unwrap_or(0) == *stands_at
                })
        };
        let outcomes = self.removals.outcomes(head);
        let Some(outcome) = outcomes.iter().find(|outcome| agrees(outcome)) else {
            let (told, removals) = (self.disk.told(), &self.removals.recent);
            if told.lied || told.changed && self.disk.files_in(Path::new("store/quarantine")) > 0 {
                // What removed them may be among what it never wrote, or look like a write that was cut.
                self.figures.lied += u64::from(told.lied);
                self.figures.looks_torn += u64::from(!told.lied);
                self.told = true;
                return Ok(());
            }
            return Err(format!(
                "no removals, of {removals:?}, leave {missing:?} missing of {head}, and streams at {stands:?}"
            ));
        };
        let outcome: Vec<Removal> = outcome.iter().map(|removal| (*removal).clone()).collect();
        let recent: BTreeSet<u64> = self.removals.recent.drain(..).map(|removal| removal.number).collect();
        for known in &mut self.model.log {
            known.gone = known.gone.filter(|number| !recent.contains(number));
        }
        outcome.iter().for_each(|removal| self.model.take_out(removal));
        Ok(())
    }

    /// Whether a position may be missing: it was removed, or that was asked for.
    pub(super) fn may_be_removed(&self, position: u64) -> bool {
        self.model.is_gone(position) || self.removals.may_take(position)
    }

    /// In the end nothing that was removed stands in any file.
    pub(super) fn check_purged(&mut self) -> Check {
        let Some(store) = self.store() else { return Ok(()) };
        store.purge().map_err(|error| format!("in the end: {error}"))?;
        for step in 0.. {
            ensure(step < PURGED, || "purging does not end".to_owned())?;
            if !store.step().map_err(|error| error.to_string())? {
                break;
            }
        }
        self.take_in()?;
        let parts = &store.inner.log.parts;
        for first in parts.firsts() {
            let part = parts.of(first).map_err(|error| error.to_string())?;
            let (mut at, end) = (PAGE as u64, part.segment.written());
            while let Found::Frame(frame) = part.segment.find(at, end) {
                let position = frame.position();
                let gone = frame.is_event() && self.model.is_gone(position.get());
                ensure(!gone, || format!("{position} was removed and purged, and stands in segment {first}"))?;
                at += frame.stride() as u64;
            }
            ensure(at == end, || format!("segment {first} cannot be read at {at}"))?;
        }
        for known in &self.model.log {
            let stands_at = store.revision(&known.stream).map_err(|error| error.to_string())?;
            let expected = self.model.stands_at(&known.stream);
            ensure(stands_at.get() == expected, || {
                format!("{} stands at {stands_at}, and not at {expected}", known.stream)
            })?;
        }
        let removed = (self.model.oldest..=self.model.head()).find(|position| {
            self.model.is_gone(*position) && !matches!(store.event(Position::new(*position)), Ok(None))
        });
        ensure(removed.is_none(), || format!("{removed:?} was removed, and is there"))
    }
}
