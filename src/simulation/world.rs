//! One seed: a store that works, ends, and is opened again, some rounds long.

use std::sync::Arc;
use std::time::Duration;

use crate::canal::cursor::Cursor;
use crate::canal::group::member::Member;
use crate::clock::ManualClock;
use crate::error::{Error, Result};
use crate::event::draft::{Expected, NewEvent};
use crate::event::query::Query;
use crate::id::{Position, Revision, Timestamp};
use crate::simulation::Figures;
use crate::simulation::chance::Chance;
use crate::simulation::consumers::Consumers;
use crate::simulation::disk::SimDisk;
use crate::simulation::faults::{Fault, Weakness};
use crate::simulation::model::{Check, Fate as Known, Made, Model, SOURCES, ensure, payload_of};
use crate::simulation::removals::Removals;
use crate::store::Store;
use crate::writer::commit::Commit;
use crate::writer::durability::Durability;
use crate::writer::ticket::{Receipt, Ticket};

/// How a seed's world is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) durability: Durability,
    /// Bytes that a power cut keeps or loses together.
    pub(super) piece: u64,
    /// What goes wrong besides the process ending.
    trouble: Trouble,
    /// The largest payload, as a rule.
    payload: u64,
    loose: bool,
    rounds: u64,
    /// Events are removed from streams.
    removes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    Faults,
    Medium,
}

/// A world.
pub(super) struct World {
    pub(super) setup: Setup,
    pub(super) chance: Chance,
    pub(super) clock: Arc<ManualClock>,
    pub(super) now: u64,
    pub(super) disk: SimDisk,
    pub(super) model: Model,
    pub(super) consumers: Consumers,
    pub(super) removals: Removals,
    pub(super) open: Option<Open>,
    /// What no power cut may take.
    pub(super) durable: u64,
    /// The same without what the disk has only said since it first lied.
    pub(super) honest: u64,
    /// Counts what is written for consumers, and how far a barrier has come.
    pub(super) written: u64,
    pub(super) synced: u64,
    pub(super) weakness: Option<Weakness>,
    pub(super) figures: Figures,
    /// The store told of something that the medium did: the seed ends well.
    pub(super) told: bool,
    /// How many segments recovery had cut off whole when the store was opened last.
    pub(super) cut_whole: usize,
}

/// What a process holds.
pub(super) struct Open {
    pub(super) store: Store,
    pub(super) tickets: Vec<(usize, Ticket)>,
    pub(super) audit: Option<Cursor>,
    pub(super) mail: Option<Member>,
    /// How many removals there were when they were opened.
    pub(super) audit_since: u64,
    pub(super) mail_since: u64,
}

impl Setup {
    fn of(chance: &mut Chance) -> Self {
        let every = Durability::Every(Duration::from_millis(5));
        let durability =
            *chance.pick(&[Durability::Sync, Durability::Sync, every, Durability::Os]).unwrap_or(&Durability::Sync);
        let trouble = *chance
            .pick(&[Trouble::None, Trouble::None, Trouble::Faults, Trouble::Faults, Trouble::Medium])
            .unwrap_or(&Trouble::None);
        Self {
            durability,
            piece: if chance.percent(50) { 4096 } else { 512 },
            trouble,
            payload: *chance.pick(&[40, 700, 6_000]).unwrap_or(&40),
            loose: durability == Durability::Sync && chance.percent(30),
            rounds: chance.from(2..=5),
            removes: false,
        }
    }
}

impl World {
    pub(super) fn new(seed: u64, weakness: Option<Weakness>, edition: u32) -> Self {
        let mut chance = Chance::new(seed);
        let mut setup = Setup::of(&mut chance);
        // What came with a later edition draws from a source of its own.
        let mut removing = Chance::new(seed ^ 0x0072_656d_6f76_6564);
        setup.removes = edition >= 2 && removing.percent(50);
        let disk = SimDisk::new(chance.split(), setup.loose, weakness);
        let mut model = Model::default();
        (model.oldest, model.may_keep_from) = (1, 1);
        let now = 1_700_000_000_000_000_000;
        Self {
            setup,
            chance,
            clock: Arc::new(ManualClock::at(Timestamp::from_nanos(now))),
            now,
            disk,
            model,
            consumers: Consumers::default(),
            removals: Removals::new(removing),
            open: None,
            durable: 0,
            honest: 0,
            written: 0,
            synced: 0,
            weakness,
            figures: Figures::default(),
            told: false,
            cut_whole: 0,
        }
    }

    /// All rounds, and then everything is brought to its end.
    pub(super) fn live(&mut self) -> Check {
        for _ in 0..self.setup.rounds {
            self.round()?;
            if self.told {
                return Ok(());
            }
        }
        self.disk.heal();
        self.restart(false)?;
        if self.told || self.disk.told().of_medium {
            return Ok(());
        }
        self.drain()?;
        if self.chance.percent(50) {
            let until = self.chance.from(1..=60);
            self.disk.end_in(until);
        }
        self.let_go()?;
        self.disk.heal();
        if !self.disk.is_alive() {
            self.restart(false)?;
        }
        self.observe()?;
        if self.setup.removes {
            self.remove_in_the_end()?;
        }
        self.close()?;
        self.reopen(self.model.head(), false)?;
        self.check_everything()
    }

    fn round(&mut self) -> Check {
        let steps = self.chance.from(5..=40);
        let until = self.chance.from(1..=steps * 6);
        if self.chance.percent(75) {
            self.disk.end_in(until);
        }
        match self.setup.trouble {
            Trouble::None => {}
            Trouble::Faults if self.chance.percent(70) => {
                let fault = Fault::any(&mut self.chance);
                let before = self.chance.below(steps + 1);
                self.disk.expect(fault, before);
            }
            Trouble::Medium if self.chance.percent(60) => {
                let fault = Fault::of_medium(&mut self.chance);
                let before = self.chance.below(steps + 1);
                self.disk.expect(fault, before);
            }
            Trouble::Faults | Trouble::Medium => {}
        }
        if self.open.is_none() {
            self.reopen(0, true)?;
        }
        for _ in 0..steps {
            if self.told {
                return Ok(());
            }
            if !self.disk.is_alive() {
                break;
            }
            if self.open.is_none() {
                return Ok(());
            }
            self.step()?;
            self.observe()?;
        }
        if self.disk.is_alive() && self.chance.percent(30) && self.open.is_some() {
            return self.close_and_reopen();
        }
        self.restart(true)
    }

    fn step(&mut self) -> Check {
        if self.setup.removes && self.removals.chance.percent(12) {
            return self.remove_some();
        }
        match self.chance.below(100) {
            0..30 => self.append(),
            30..40 => self.submit(),
            40..44 => self.sync(),
            44..54 => self.housekeep(),
            54..62 => self.pull_audit(),
            62..67 => self.acknowledge(),
            67..77 => self.mail(),
            77..83 => self.bill(),
            83..89 => self.copy(),
            89..92 => self.forward(),
            92..94 => self.look_around(),
            94..96 => self.retry_key(),
            96 => self.let_go(),
            97 => self.redrive(),
            _ => self.pass(),
        }
    }

    /// Time passes.
    pub(super) fn pass(&mut self) -> Check {
        self.now += self.chance.from(1..=40) * 1_000_000_000;
        self.clock.set(Timestamp::from_nanos(self.now));
        Ok(())
    }

    pub(super) fn store(&self) -> Option<Store> {
        self.open.as_ref().map(|open| open.store.clone())
    }

    fn make_attempt(&mut self, key: Option<String>) -> usize {
        let events = self.chance.from(1..=4);
        let events = (0..events)
            .map(|_| {
                let stream = *self.chance.pick(&SOURCES).unwrap_or(&SOURCES[0]);
                let largest = if self.chance.percent(5) { 20_000 } else { self.setup.payload };
                Made { stream, size: self.chance.below(largest) as usize }
            })
            .collect();
        self.model.add_attempt(events, key)
    }

    fn commit_of(&mut self, attempt: usize) -> Commit {
        self.model.hand_in(attempt);
        let one = &self.model.attempts[attempt];
        let mut commit = Commit::new();
        for (nth, made) in one.events.iter().enumerate() {
            let payload = payload_of(attempt, nth, made.size);
            commit.event(made.stream, NewEvent::new("happened", &payload).tag(format!("nth:{nth}")));
        }
        if let Some(key) = &one.key {
            commit.key(key);
        }
        commit
    }

    fn append(&mut self) -> Check {
        let key = self.chance.percent(30).then(|| format!("key-{}", self.model.attempts.len()));
        let attempt = self.make_attempt(key);
        let mut commit = self.commit_of(attempt);
        let mut refused = false;
        let alone = self.open.as_ref().is_none_or(|open| open.tickets.is_empty());
        if alone && self.chance.percent(25) {
            let stream = self.model.attempts[attempt].events[0].stream;
            let actual = self.model.stands_at(stream);
            refused = self.chance.percent(30);
            let expected = if refused { actual + 1 + self.chance.below(3) } else { actual };
            commit.expect(stream, Expected::Exact(Revision::new(expected)));
        }
        let Some(store) = self.store() else { return Ok(()) };
        let answer = store.commit(&commit);
        if refused {
            return match answer {
                Err(Error::Conflict { .. }) => {
                    self.model.attempts[attempt].state = Known::Refused;
                    Ok(())
                }
                Ok(_) => Err("a commit was written though its expectation did not hold".to_owned()),
                Err(error) => self.failed(attempt, error),
            };
        }
        let synced = answer.is_ok() && self.setup.durability == Durability::Sync;
        self.answered(attempt, answer)?;
        if synced {
            // So is everything that was written before.
            self.all_synced();
        }
        Ok(())
    }

    fn submit(&mut self) -> Check {
        let attempt = self.make_attempt(None);
        let commit = self.commit_of(attempt);
        let Some(open) = &mut self.open else { return Ok(()) };
        match open.store.submit(&commit) {
            Ok(ticket) => {
                open.tickets.push((attempt, ticket));
                Ok(())
            }
            Err(error) => self.failed(attempt, error),
        }
    }

    /// A commit was answered.
    fn answered(&mut self, attempt: usize, answer: Result<Receipt>) -> Check {
        match answer {
            Ok(receipt) => {
                self.take_in()?;
                if self.told {
                    return Ok(());
                }
                let (state, events) = (self.model.attempts[attempt].state, self.model.attempts[attempt].events.len());
                let first = receipt.first().get();
                if state == Known::Unknown && !self.disk.is_alive() {
                    // It was answered, and the process ended before it could be read.
                    if self.setup.durability == Durability::Sync {
                        self.rise(receipt.last().get());
                    }
                    return Ok(());
                }
                ensure(state == Known::Written(first), || format!("answered {first}, and it is {state:?}"))?;
                let last = receipt.last().get();
                ensure(receipt.is_duplicate() || last + 1 == first + events as u64, || "a wrong receipt".to_owned())?;
                self.figures.acknowledged += events as u64;
                if self.setup.durability == Durability::Sync && !receipt.is_duplicate() {
                    self.rise(last);
                }
                Ok(())
            }
            Err(error) => self.failed(attempt, error),
        }
    }

    fn failed(&mut self, attempt: usize, error: Error) -> Check {
        self.model.attempts[attempt].state = match &error {
            // Nothing of it was written, it says.
            Error::DiskFull { .. } | Error::Io { .. } if self.disk.is_alive() => Known::Refused,
            _ => Known::Unknown,
        };
        self.expected(error)
    }

    /// Whether an error has its reason.
    pub(super) fn expected(&mut self, error: Error) -> Check {
        if !self.disk.is_alive() {
            return Ok(());
        }
        let told = self.disk.told();
        let fine = match &error {
            Error::Damaged(_) | Error::NotAStore { .. } if told.of_medium => {
                self.told = true;
                true
            }
            Error::Io { .. } | Error::DiskFull { .. } => told.faults > 0,
            Error::Stopped { .. } | Error::Closed => told.faults > 0,
            _ => false,
        };
        ensure(fine, || format!("an error without a reason: {error} {error:?}"))?;
        if matches!(error, Error::Stopped { .. }) {
            return self.restart(true);
        }
        Ok(())
    }

    fn sync(&mut self) -> Check {
        let Some(store) = self.store() else { return Ok(()) };
        match store.sync() {
            Ok(()) => {
                self.all_synced();
                self.observe()?;
                self.rise(self.model.head());
                Ok(())
            }
            Err(error) => self.expected(error),
        }
    }

    fn housekeep(&mut self) -> Check {
        let Some(store) = self.store() else { return Ok(()) };
        for _ in 0..self.chance.from(1..=4) {
            if !store.step().unwrap_or(false) {
                break;
            }
        }
        Ok(())
    }

    /// A commit with a key comes again, with the same content.
    fn retry_key(&mut self) -> Check {
        let keyed: Vec<usize> =
            (0..self.model.attempts.len()).filter(|at| self.model.attempts[*at].key.is_some()).collect();
        let Some(attempt) = self.chance.pick(&keyed).copied() else { return Ok(()) };
        let before = self.model.attempts[attempt].state;
        if before == Known::Unknown
            || matches!(before, Known::Written(first) if first < self.model.oldest || self.model.is_gone(first))
        {
            return Ok(());
        }
        let handed_in = self.model.attempts[attempt].handed_in;
        let mut commit = self.commit_of(attempt);
        if let Known::Written(_) = before {
            (self.model.attempts[attempt].state, self.model.attempts[attempt].handed_in) = (before, handed_in);
        }
        // A commit that lost events is compared by what is left of it, and where events are gone nobody knows whose they were.
        let other = self.chance.percent(20) && before != Known::Refused && self.removals.count == 0;
        if other {
            commit.event("cart-1", NewEvent::new("another", ""));
        }
        let Some(store) = self.store() else { return Ok(()) };
        match (store.commit(&commit), before) {
            (Ok(receipt), Known::Written(first)) => {
                ensure(!other, || "a key was taken with other content".to_owned())?;
                ensure(receipt.is_duplicate() && receipt.first().get() == first, || {
                    format!("a key of position {first} was written again: {receipt:?}")
                })
            }
            (Ok(receipt), _) => {
                ensure(!receipt.is_duplicate(), || "a key of nothing is a duplicate".to_owned())?;
                self.answered(attempt, Ok(receipt))
            }
            (Err(Error::KeyReused { .. }), Known::Written(_)) if other => Ok(()),
            (Err(error), Known::Written(_)) => self.expected(error),
            (Err(error), _) => self.failed(attempt, error),
        }
    }

    /// Takes in what has come, answers and events.
    fn observe(&mut self) -> Check {
        self.take_in()?;
        let Some(open) = &mut self.open else { return Ok(()) };
        let mut answers = Vec::new();
        open.tickets.retain(|(attempt, ticket)| match ticket.poll() {
            Some(answer) => {
                answers.push((*attempt, answer));
                false
            }
            None => true,
        });
        for (attempt, answer) in answers {
            self.answered(attempt, answer)?;
        }
        let durable = self.open.as_ref().map_or(0, |open| open.store.durable().get());
        let known = self.told || !self.disk.is_alive() || durable <= self.model.head();
        ensure(known, || format!("durable up to {durable}, behind the end"))?;
        self.rise(durable);
        Ok(())
    }

    /// What was written for consumers is on the disk, as far as the disk is to be believed.
    pub(super) fn all_synced(&mut self) {
        if !self.disk.told().lied {
            self.synced = self.written;
        }
    }

    fn rise(&mut self, durable: u64) {
        self.durable = self.durable.max(durable);
        if !self.disk.told().lied {
            self.honest = self.durable;
        }
    }

    /// Takes in events that were published.
    pub(super) fn take_in(&mut self) -> Check {
        let Some(store) = self.store() else { return Ok(()) };
        let head = store.head().get();
        ensure(head >= self.model.head(), || format!("the head went back to {head}"))?;
        for position in self.model.head() + 1..=head {
            match store.event(Position::new(position)) {
                Ok(Some(event)) => self.model.take_in(&event, store.id())?,
                Ok(None) => return Err(format!("{position} is missing, and the head is {head}")),
                Err(error) => {
                    self.expected(error)?;
                    // A fault of reading comes once.
                    return if self.told || !self.disk.is_alive() { Ok(()) } else { self.take_in() };
                }
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Check {
        let Some(open) = self.open.take() else { return Ok(()) };
        let Open { store, tickets, audit, mail, .. } = open;
        drop((audit, mail));
        let kept = store.clone();
        let closed = store.close();
        let is_closed = closed.is_ok();
        // What was submitted is written before a store is closed.
        let head = kept.head();
        for position in self.model.head() + 1..=head.get() {
            match kept.event(Position::new(position)) {
                Ok(Some(event)) => self.model.take_in(&event, kept.id())?,
                Ok(None) => return Err(format!("{position} is missing when closed")),
                Err(error) => {
                    self.expected(error)?;
                    break;
                }
            }
        }
        for (attempt, ticket) in tickets {
            match ticket.wait() {
                Ok(receipt) => self.answered(attempt, Ok(receipt))?,
                Err(error) => {
                    ensure(!is_closed || matches!(error, Error::DiskFull { .. } | Error::Io { .. }), || {
                        format!("closed, and a ticket says {error}")
                    })?;
                    self.model.attempts[attempt].state = Known::Unknown;
                }
            }
        }
        match closed {
            Ok(()) => {
                self.all_synced();
                self.rise(head.get());
                Ok(())
            }
            Err(error) => self.expected(error),
        }
    }

    fn close_and_reopen(&mut self) -> Check {
        let durable = self.durable;
        self.close()?;
        if self.told || self.open.is_some() {
            return Ok(());
        }
        if !self.disk.is_alive() {
            return self.restart(true);
        }
        let lost = self.disk.has_lost_pages();
        let floor = if lost { durable.max(self.durable) } else { self.model.head() };
        if self.chance.percent(50) {
            // Closed in good order, and then the power goes.
            let power_cut = self.chance.percent(50);
            return self.begin_again(power_cut, true);
        }
        self.reopen(floor, true)
    }

    /// The process ends, here or where it has ended already, and another one begins.
    fn restart(&mut self, troubled: bool) -> Check {
        if self.open.is_some() && self.disk.is_alive() {
            self.observe_quietly();
        }
        let _in_memory = self.disk.end();
        if let Some(open) = &self.open {
            let durable = open.store.durable().get();
            self.rise(durable);
        }
        self.open = None;
        let power_cut = self.chance.percent(60);
        self.begin_again(power_cut, troubled)
    }

    /// What can be taken in is; what is wrong shows again.
    fn observe_quietly(&mut self) {
        if let Some(open) = &self.open {
            let durable = open.store.durable().get();
            self.rise(durable.min(self.model.head()));
        }
    }

    /// Removals once more, cut short or not, and then all of it goes from the files.
    fn remove_in_the_end(&mut self) -> Check {
        if self.removals.chance.percent(70) {
            let until = self.removals.chance.from(1..=60);
            self.disk.end_in(until);
        }
        for _ in 0..3 {
            if self.goes_on() {
                self.remove_some()?;
            }
        }
        self.disk.heal();
        if !self.disk.is_alive() {
            self.restart(false)?;
        }
        self.check_purged()
    }

    /// Some questions in other ways.
    fn look_around(&mut self) -> Check {
        let Some(store) = self.store() else { return Ok(()) };
        let stream = *self.chance.pick(&SOURCES).unwrap_or(&SOURCES[0]);
        let backwards = self.chance.percent(50);
        let mut expected: Vec<u64> = (self.model.oldest..=self.model.head())
            .filter(|at| self.model.at(*at).is_some_and(|known| known.stream == stream && known.gone.is_none()))
            .collect();
        let mut reader = store.read(Query::new().stream(stream));
        if backwards {
            reader = reader.backwards();
            expected.reverse();
        }
        let mut found = Vec::new();
        for event in reader {
            match event {
                Ok(event) => {
                    self.model.check(&event, store.id())?;
                    found.push(event.position().get());
                }
                Err(error) => return self.expected(error),
            }
        }
        ensure(found == expected, || format!("{stream} reads as {found:?}, and is {expected:?}"))
    }

    /// Everything, in all ways.
    fn check_everything(&mut self) -> Check {
        let Some(store) = self.store() else { return Ok(()) };
        let mut next = self.model.oldest;
        for event in store.read(Query::new()) {
            let event = event.map_err(|error| format!("in the end: {error}"))?;
            let position = event.position().get();
            let passed = (next..position).find(|at| {
                self.model.at(*at).is_some_and(|known| known.gone.is_none() && !known.stream.starts_with('$'))
            });
            ensure(passed.is_none(), || format!("{passed:?} was passed over"))?;
            self.model.check_served(position, self.removals.count)?;
            self.model.check(&event, store.id())?;
            next = position + 1;
        }
        for _ in 0..4 {
            self.look_around()?;
        }
        Ok(())
    }
}
