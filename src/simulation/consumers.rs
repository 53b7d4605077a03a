//! The consumers on top of the store, and what may be seen of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::canal::batch::Delivery;
use crate::canal::group::{Group, Order};
use crate::canal::retry::Retry;
use crate::canal::{Canal, Reason, Settlement, Token};
use crate::error::{Error, Result};
use crate::event::draft::NewEvent;
use crate::event::query::Query;
use crate::forward::Forwarder;
use crate::id::Position;
use crate::reactor::Reactor;
use crate::reactor::failure::Failure;
use crate::simulation::faults::Weakness;
use crate::simulation::model::{ATTEMPTS, BILLED, BILLER, COPIED, Check, FAILED, MAIL, SOURCES, ensure};
use crate::simulation::world::World;
use crate::sink::stream::StreamSink;
use crate::store::Store;
use crate::writer::commit::Commit;

pub(super) const AUDIT: &str = "audit";
pub(super) const COPIER: &str = "copier";
pub(super) const SHIPPER: &str = "shipper";

/// Everything is at its end after so many turns, or never.
const DRAINED: u32 = 3_000;

/// What consumers have done.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    audit: Audit,
    mail: BTreeMap<u64, Mail>,
}

#[derive(Debug)]
struct Audit {
    /// The position from which the cursor goes on.
    next: u64,
    handed_out: u64,
    /// Checkpoints that were written, or may have been.
    checkpoints: Vec<Checkpoint>,
}

#[derive(Clone, Copy, Debug)]
struct Checkpoint {
    next: u64,
    /// Its number among what was written, once it was surely written.
    number: Option<u64>,
    /// The head when it was.
    after: u64,
    /// Nothing that may have happened since takes it away.
    lasts: bool,
}

impl Default for Audit {
    fn default() -> Self {
        let checkpoint = Checkpoint { next: 1, number: Some(0), after: 0, lasts: true };
        Self { next: 1, handed_out: 0, checkpoints: vec![checkpoint] }
    }
}

/// What was said of a source by the group's member.
#[derive(Clone, Copy, Debug, Default)]
struct Mail {
    /// It was said that it is done.
    done: bool,
    /// And that stands in the log: its number, and the head then.
    written: Option<(u64, u64)>,
    lasts: bool,
}

impl Consumers {
    /// The process ended. What was written and not synced may be lost with the power.
    pub(super) fn ended(&mut self, may_lose: bool, synced: u64) {
        let keeps = |number: Option<u64>| number.is_some_and(|number| !may_lose || number <= synced);
        for checkpoint in &mut self.audit.checkpoints {
            checkpoint.lasts = keeps(checkpoint.number) && (checkpoint.lasts || checkpoint.number.is_some());
            if !checkpoint.lasts {
                checkpoint.number = None;
            }
        }
        for mail in self.mail.values_mut() {
            mail.lasts = keeps(mail.written.map(|(number, _)| number));
        }
    }

    /// The log was found to end here.
    pub(super) fn cut(&mut self, head: u64) {
        self.mail.retain(|position, _| *position <= head);
        for mail in self.mail.values_mut() {
            let lasts = mail.lasts || mail.written.is_some_and(|(_, after)| head > after);
            mail.written = mail.written.filter(|_| lasts).map(|(_, after)| (0, after));
        }
        for checkpoint in &mut self.audit.checkpoints {
            checkpoint.lasts |= head > checkpoint.after && checkpoint.number.is_some();
        }
    }
}

fn sources() -> Query {
    SOURCES.iter().map(|stream| Query::new().stream(*stream)).reduce(Query::or).unwrap_or_default()
}

fn retry() -> Retry {
    Retry::fixed(Duration::from_secs(1)).attempts(ATTEMPTS)
}

fn group(store: &Store, name: &str) -> Result<Group> {
    store.group(name).filter(sources()).order(Order::Stream).retry(retry()).open()
}

impl World {
    /// What the store says of its consumers right after it was opened.
    pub(super) fn check_consumers(&mut self) -> Check {
        let Some(store) = self.store() else { return Ok(()) };
        if self.weakness == Some(Weakness::CheckpointOutside) {
            let next = self.consumers.audit.checkpoints.iter().map(|one| one.next).max().unwrap_or(1);
            let _control = store.set_checkpoint(AUDIT, Position::new(next)).and_then(|ticket| ticket.wait());
        }
        let consumers = match store.consumers() {
            Ok(consumers) => consumers,
            Err(error) => return self.expected(error),
        };
        let head = self.model.head();
        let at = |name: &str| consumers.iter().find(|consumer| consumer.name == name).map(|one| one.position.get());
        for consumer in &consumers {
            let position = consumer.position.get();
            ensure(position <= head + 1, || format!("{} is at {position}, and the log ends at {head}", consumer.name))?;
        }
        let audit = &mut self.consumers.audit;
        let next = at(AUDIT).unwrap_or(1);
        let known = audit.checkpoints.iter().any(|one| one.next == next);
        ensure(known, || format!("audit is at {next}, of {:?}", audit.checkpoints))?;
        let least = audit.checkpoints.iter().filter(|one| one.lasts).map(|one| one.next).max().unwrap_or(1);
        ensure(next >= least, || format!("audit is at {next}, and {least} was written: {:?}", audit.checkpoints))?;
        let checkpoint = Checkpoint { next, number: Some(0), after: head, lasts: true };
        *audit = Audit { next, handed_out: next - 1, checkpoints: vec![checkpoint] };

        let copier = at(COPIER).unwrap_or(1);
        for source in self.model.sources() {
            let copied = self.model.results.contains_key(&(COPIED.to_owned(), source));
            // What was removed it may have passed over.
            let passed = !copied && source < copier && self.model.is_gone(source);
            ensure(copied == (source < copier) || passed, || {
                format!("the copier is at {copier}, and whether {source} was copied is {copied}")
            })?;
        }
        Ok(())
    }

    pub(super) fn pull_audit(&mut self) -> Check {
        let Some(open) = &mut self.open else { return Ok(()) };
        if open.audit.is_none() {
            match open.store.cursor(AUDIT).open() {
                Ok(cursor) => {
                    let at = cursor.checkpoint().get();
                    let next = self.consumers.audit.next;
                    ensure(at == next, || format!("audit begins at {at}, and is at {next}"))?;
                    open.audit = Some(cursor);
                    open.audit_since = self.removals.count;
                }
                Err(error) => return self.expected(error),
            }
        }
        let Some(cursor) = &mut open.audit else { return Ok(()) };
        let most = self.chance.from(1..=12) as usize;
        let since = open.audit_since;
        let (batch, store) = match cursor.pull_batch(most, Duration::ZERO) {
            Ok(batch) => (batch, open.store.clone()),
            Err(error) => return self.expected(error),
        };
        self.take_in()?;
        for delivery in &batch {
            let position = delivery.position().get();
            let from = self.consumers.audit.handed_out + 1;
            let users = |at: &u64| {
                self.model.at(*at).is_some_and(|known| known.gone.is_none() && !known.stream.starts_with('$'))
            };
            let passed = (from..position).find(users);
            ensure(position >= from && passed.is_none(), || format!("audit got {position}, and {passed:?} not"))?;
            self.model.check(delivery.event(), store.id())?;
            self.model.check_served(position, since)?;
            self.consumers.audit.handed_out = position;
        }
        Ok(())
    }

    pub(super) fn acknowledge(&mut self) -> Check {
        let audit = &self.consumers.audit;
        if audit.handed_out < audit.next {
            return Ok(());
        }
        let position = self.chance.from(audit.next..=audit.handed_out);
        let Some(cursor) = self.open.as_mut().and_then(|open| open.audit.as_mut()) else { return Ok(()) };
        let checkpoint = Checkpoint { next: position + 1, number: None, after: 0, lasts: false };
        self.consumers.audit.checkpoints.push(checkpoint);
        let flushes = self.chance.percent(60);
        let said = cursor.acknowledge(Position::new(position));
        let said = if flushes { said.and_then(|()| cursor.flush()) } else { said };
        let flushed = said.is_ok() && flushes;
        self.consumers.audit.next = position + 1;
        if flushed {
            // Others may have been written with it.
            self.take_in()?;
            self.written += 1;
            let (number, after) = (self.written, self.model.head());
            if let Some(last) = self.consumers.audit.checkpoints.last_mut() {
                (last.number, last.after) = (Some(number), after);
            }
        }
        said.map_or_else(|error| self.expected(error), Ok)
    }

    /// The member of the mail group takes some, and says what became of them.
    pub(super) fn mail(&mut self) -> Check {
        let Some(open) = &mut self.open else { return Ok(()) };
        if open.mail.is_none() || self.chance.percent(5) {
            // What it holds is given back, and what it said is written.
            open.mail = None;
            match group(&open.store, MAIL).and_then(|group| group.member()) {
                Ok(member) => {
                    open.mail = Some(member);
                    open.mail_since = self.removals.count;
                }
                Err(error) => return self.expected(error),
            }
        }
        let since = open.mail_since;
        let Some(member) = &mut open.mail else { return Ok(()) };
        let most = self.chance.from(1..=6) as usize;
        let (batch, store) = match member.pull_batch(most, Duration::ZERO) {
            Ok(batch) => (batch, open.store.clone()),
            Err(error) => return self.expected(error),
        };
        self.take_in()?;
        let mut pulled = BTreeSet::new();
        for delivery in &batch {
            self.model.check(delivery.event(), store.id())?;
            self.check_delivery(&delivery, &pulled)?;
            self.model.check_served(delivery.position().get(), since)?;
            pulled.insert(delivery.position().get());
        }
        let mut done = Vec::new();
        for delivery in &batch {
            let position = delivery.position().get();
            let settlement = match self.chance.below(100) {
                0..65 => Settlement::Done,
                65..78 => Settlement::Retry { after: None, why: "no".to_owned() },
                78..86 => Settlement::Reject { reason: Reason::Rejected, why: "never".to_owned() },
                86..92 => Settlement::Release,
                // It is kept, until its lease runs out.
                _ => continue,
            };
            if settlement == Settlement::Done {
                self.consumers.mail.entry(position).or_default().done = true;
                done.push(position);
            }
            let Some(member) = self.open.as_mut().and_then(|open| open.mail.as_mut()) else { return Ok(()) };
            match member.settle(delivery.token(), settlement) {
                Ok(()) => {}
                // What follows a delivery under its key is given back with it.
                Err(Error::NotHeld { .. }) => {
                    done.retain(|one| *one != position);
                }
                Err(error) => return self.expected(error),
            }
        }
        if !self.chance.percent(60) {
            return Ok(());
        }
        let Some(member) = self.open.as_mut().and_then(|open| open.mail.as_mut()) else { return Ok(()) };
        match member.flush() {
            Ok(()) => {
                self.take_in()?;
                self.written += 1;
                let written = Some((self.written, self.model.head()));
                done.into_iter()
                    .for_each(|position| self.consumers.mail.entry(position).or_default().written = written);
                Ok(())
            }
            Err(error) => self.expected(error),
        }
    }

    fn check_delivery(&self, delivery: &Delivery<'_>, pulled: &BTreeSet<u64>) -> Check {
        let position = delivery.position().get();
        let mail = self.consumers.mail.get(&position).copied().unwrap_or_default();
        ensure(mail.written.is_none(), || format!("{position} comes again, and was settled: {mail:?}"))?;
        let letter = self.model.letters.get(&(MAIL, position));
        let redriven = self.model.redriven.contains(&(MAIL, position));
        ensure(letter.is_none() || redriven, || {
            format!("{position} comes again, and has a dead letter at {letter:?}")
        })?;
        let attempt = delivery.attempt();
        ensure(attempt <= ATTEMPTS, || format!("{position} comes for the {attempt}th time"))?;
        let overtaken = self.model.sources().take_while(|before| *before < position).find(|before| {
            let same = self.model.at(*before).is_some_and(|known| known.stream == delivery.stream());
            let over = self.consumers.mail.get(before).is_some_and(|mail| mail.done)
                || self.model.letters.contains_key(&(MAIL, *before));
            same && !over && !pulled.contains(before) && !self.model.is_gone(*before)
        });
        ensure(overtaken.is_none(), || format!("{position} overtakes {overtaken:?}"))
    }

    /// A group whose results and settlements are one commit.
    pub(super) fn bill(&mut self) -> Check {
        let Some(store) = self.store() else { return Ok(()) };
        let seed = self.chance.next();
        let handle = move |delivery: &Delivery<'_>, commit: &mut Commit| -> Result<(), Failure> {
            let position = delivery.position().get();
            match (seed ^ position.wrapping_mul(0x9e37_79b9)) % 20 {
                0 => return Err(Failure::reject(Reason::Rejected, "never")),
                1 | 2 => return Err(Failure::retry("no")),
                _ => {}
            }
            commit.event(BILLED, NewEvent::new("billed", &position.to_le_bytes()));
            Ok(())
        };
        self.bill_with(&store, handle)
    }

    /// The same, and nothing fails.
    pub(super) fn bill_all(&mut self) -> Check {
        let Some(store) = self.store() else { return Ok(()) };
        self.bill_with(&store, |delivery, commit| {
            commit.event(BILLED, NewEvent::new("billed", &delivery.position().get().to_le_bytes()));
            Ok(())
        })
    }

    fn bill_with(
        &mut self,
        store: &Store,
        handle: impl FnMut(&Delivery<'_>, &mut Commit) -> Result<(), Failure>,
    ) -> Check {
        let most = self.chance.from(1..=8) as usize;
        let turn = group(store, BILLER).and_then(|group| group.member()).and_then(|member| {
            let mut reactor = Reactor::exactly_once(member, handle).batch(most).clock(self.clock.clone());
            reactor.turn(Duration::ZERO)
        });
        turn.map(drop).or_else(|error| self.expected(error))
    }

    /// A cursor whose results and checkpoint are one commit.
    pub(super) fn copy(&mut self) -> Check {
        let Some(store) = self.store() else { return Ok(()) };
        let most = self.chance.from(1..=8) as usize;
        let opened = store.cursor(COPIER).filter(sources()).open();
        let turn = opened.and_then(|cursor| {
            if self.weakness == Some(Weakness::TwoCommits) {
                return copy_in_two(&store, cursor, most);
            }
            let handle = |delivery: &Delivery<'_>, commit: &mut Commit| -> Result<(), Failure> {
                commit.event(COPIED, NewEvent::new("copied", &delivery.position().get().to_le_bytes()));
                Ok(())
            };
            Reactor::exactly_once(cursor, handle).batch(most).clock(self.clock.clone()).turn(Duration::ZERO).map(drop)
        });
        turn.or_else(|error| self.expected(error))
    }

    /// Dead letters are forwarded to a stream.
    pub(super) fn forward(&mut self) -> Check {
        let Some(store) = self.store() else { return Ok(()) };
        let letters = Query::new().stream(format!("$dead/{MAIL}"));
        let turn = store.cursor(SHIPPER).filter(letters).open().and_then(|cursor| {
            let sink = StreamSink::new(&store, FAILED)?;
            Forwarder::new(cursor, sink).clock(self.clock.clone()).turn(Duration::ZERO)
        });
        turn.map(drop).or_else(|error| self.expected(error))
    }

    /// Everything is handled in the end.
    pub(super) fn drain(&mut self) -> Check {
        let mut quiet = 0;
        for turn in 0.. {
            ensure(turn < DRAINED, || format!("it does not end: {:?}", self.store().map(|store| store.consumers())))?;
            let before = (self.model.head(), self.handled());
            self.pull_audit()?;
            self.mail_done()?;
            self.bill_all()?;
            let Some(store) = self.store() else { return Err("it is not open in the end".to_owned()) };
            self.copy()?;
            self.forward()?;
            self.take_in()?;
            self.pass()?;
            let consumers = store.consumers().map_err(|error| error.to_string())?;
            let groups = consumers.iter().filter(|one| [MAIL, BILLER].contains(&one.name.as_str()));
            let idle = groups.clone().count() == 2 && groups.clone().all(|one| one.in_flight + one.waiting == 0);
            let read = self.consumers.audit.handed_out >= self.last_of_users();
            let changed = before != (self.model.head(), self.handled());
            quiet = if idle && read && !changed { quiet + 1 } else { 0 };
            if quiet > 10 {
                break;
            }
        }
        self.check_drained()
    }

    fn handled(&self) -> usize {
        self.consumers.mail.values().filter(|mail| mail.done).count()
    }

    fn last_of_users(&self) -> u64 {
        (1..=self.model.head())
            .rev()
            .find(|at| self.model.at(*at).is_some_and(|known| known.gone.is_none() && !known.stream.starts_with('$')))
            .unwrap_or(0)
    }

    /// The member of the mail group takes many, and all is done.
    pub(super) fn mail_done(&mut self) -> Check {
        let Some(open) = &mut self.open else { return Ok(()) };
        if open.mail.is_none() {
            match group(&open.store, MAIL).and_then(|group| group.member()) {
                Ok(member) => {
                    open.mail = Some(member);
                    open.mail_since = self.removals.count;
                }
                Err(error) => return self.expected(error),
            }
        }
        let Some(member) = &mut open.mail else { return Ok(()) };
        let batch = match member.pull_batch(50, Duration::ZERO) {
            Ok(batch) => batch,
            Err(error) => return self.expected(error),
        };
        self.take_in()?;
        let mut pulled = BTreeSet::new();
        for delivery in &batch {
            self.check_delivery(&delivery, &pulled)?;
            pulled.insert(delivery.position().get());
        }
        let tokens: Vec<Token> = batch.iter().map(|delivery| delivery.token()).collect();
        pulled.into_iter().for_each(|position| self.consumers.mail.entry(position).or_default().done = true);
        let Some(member) = self.open.as_mut().and_then(|open| open.mail.as_mut()) else { return Ok(()) };
        let said = member.settle_all(&tokens).and_then(|_| member.flush());
        said.or_else(|error| self.expected(error))
    }

    fn check_drained(&self) -> Check {
        for source in self.model.sources() {
            if self.model.is_gone(source) {
                continue;
            }
            let done = self.consumers.mail.get(&source).is_some_and(|mail| mail.done);
            let letter = self.model.letters.contains_key(&(MAIL, source));
            ensure(done || letter, || format!("{source} never came to the mail group"))?;
            let billed = self.model.results.contains_key(&(BILLED.to_owned(), source));
            let letter = self.model.letters.contains_key(&(BILLER, source));
            ensure(billed != letter, || format!("{source} was billed: {billed}, dead letter: {letter}"))?;
            let copied = self.model.results.contains_key(&(COPIED.to_owned(), source));
            ensure(copied, || format!("{source} was never copied"))?;
        }
        for ((group, source), letters) in &self.model.letters {
            let left = letters.iter().find(|letter| !self.model.copies.contains_key(letter));
            let copied = *group != MAIL || left.is_none();
            ensure(copied, || format!("the dead letter {left:?} of {source} was never forwarded"))?;
        }
        Ok(())
    }
}

/// The control: results first, and then the checkpoint.
fn copy_in_two(store: &Store, mut cursor: crate::canal::cursor::Cursor, most: usize) -> Result<()> {
    let batch = cursor.pull_batch(most, Duration::ZERO)?;
    for delivery in &batch {
        store.append(COPIED, NewEvent::new("copied", &delivery.position().get().to_le_bytes()))?;
    }
    if let Some(last) = batch.iter().last() {
        cursor.acknowledge(last.position())?;
        cursor.flush()?;
    }
    Ok(())
}
