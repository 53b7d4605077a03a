//! Consumer groups beside a model of them: any order of appending, pulling, settling, waiting, crashing, moving and redriving,
//! by several groups with different settings. After each step the groups did what the model allows: every event that is
//! meant ends once, its attempts are counted, no key is overtaken. G1, G3–G12, D1–D4, X2.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use towpath::{
    Canal as _, Clock as _, Commit, DeadLetter, Durability, Error, Expected, Group, ManualClock, Member, NewEvent,
    OnFailure, Options, Order, Position, Query, Reason, Retry, Settlement, Store, Timestamp, Token, Transact as _,
};

use crate::support::{Scratch, cases};

const GROUPS: usize = 3;
const MEMBERS: usize = 3;
const STREAMS: [&str; 4] = ["cart-1", "cart-2", "order-1", "order-2"];
const TAGS: [&str; 3] = ["for:ann", "for:bob", "other"];
const UNANSWERED: &str = "an attempt ended without an answer";

/// One thing that is done.
#[derive(Clone, Debug)]
enum Step {
    /// Events: stream, tag, type, hundreds of bytes.
    Append(Vec<(usize, usize, bool, usize)>),
    Pull {
        group: usize,
        member: usize,
        max: usize,
    },
    /// What becomes of the n-th delivery that a group's members have in hand.
    Settle {
        group: usize,
        nth: usize,
        how: How,
    },
    SettleAll {
        group: usize,
        most: usize,
    },
    Extend {
        group: usize,
        nth: usize,
        seconds: u64,
    },
    /// A token that was good once.
    Stale {
        group: usize,
        nth: usize,
        how: How,
    },
    CommitAndSettle {
        group: usize,
        nth: usize,
        most: usize,
        refused: bool,
        foreign: bool,
    },
    Pass {
        seconds: u64,
    },
    Leave {
        group: usize,
        member: usize,
    },
    Flush {
        group: usize,
    },
    Pause {
        group: usize,
        paused: bool,
    },
    Seek {
        group: usize,
        to: usize,
    },
    Redrive {
        group: usize,
        first: usize,
        most: usize,
    },
    Drop {
        group: usize,
        nth: usize,
    },
    Reopen {
        close: bool,
    },
    Crash,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Done,
    Retry { seconds: Option<u64> },
    Reject,
    Release,
}

impl How {
    fn settlement(self, why: &str) -> Settlement {
        match self {
            How::Done => Settlement::Done,
            How::Retry { seconds } => {
                Settlement::Retry { after: seconds.map(Duration::from_secs), why: why.to_owned() }
            }
            How::Reject => Settlement::Reject { reason: Reason::Undecodable, why: why.to_owned() },
            How::Release => Settlement::Release,
        }
    }
}

/// How a group is set up.
#[derive(Clone, Debug)]
struct Setup {
    order: Order,
    parks: bool,
    max_in_flight: u32,
    attempts: u32,
    wait: u64,
    lease: u64,
    expire_after: Option<u64>,
    only_red: bool,
}

impl Setup {
    fn open(&self, store: &Store, name: &str) -> Group {
        let filter = if self.only_red { Query::new().types(["red"]) } else { Query::new() };
        let mut group = store
            .group(name)
            .order(self.order.clone())
            .on_failure(if self.parks { OnFailure::Park } else { OnFailure::Hold })
            .max_in_flight(self.max_in_flight)
            .retry(Retry::fixed(Duration::from_secs(self.wait)).attempts(self.attempts))
            .lease(Duration::from_secs(self.lease))
            .filter(filter);
        if let Some(age) = self.expire_after {
            group = group.expire_after(Duration::from_secs(age));
        }
        group.open().unwrap()
    }

    fn means(&self, event: &Appended) -> bool {
        !self.only_red || event.is_red
    }

    fn key(&self, event: &Appended) -> Option<&'static str> {
        match &self.order {
            Order::None => None,
            Order::Stream => Some(event.stream),
            Order::Tag(prefix) => Some(event.tag).filter(|tag| tag.starts_with(prefix)),
        }
    }
}

#[derive(Clone, Debug)]
struct Appended {
    stream: &'static str,
    tag: &'static str,
    is_red: bool,
    time: u64,
}

/// What an event is to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Never handed out, or not since the group was moved back.
    New,
    Waiting {
        not_before: u64,
        /// An attempt at it ended without an answer.
        unanswered: bool,
    },
    Held {
        token: Token,
        batch: u64,
        member: usize,
    },
    /// Decided to be a dead letter, which must turn up.
    Dying {
        reason: Reason,
        why: String,
    },
    Done,
    Dead,
    /// The group was moved past it.
    Passed,
}

#[derive(Clone, Debug)]
struct Delivery {
    state: State,
    attempts: u32,
    first: Option<u64>,
    /// The dead letter that it is, being redriven.
    letter: Option<u64>,
    /// It was settled and nothing says that this is written: after a crash it may be in the hands of nobody instead.
    unwritten: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Letter {
    source: u64,
    reason: Reason,
    attempts: u32,
    replaces: Option<u64>,
}

/// What one batch was handed out with.
#[derive(Clone, Debug)]
struct Lease {
    deadline: u64,
    extended: BTreeMap<u64, u64>,
}

#[derive(Clone, Debug)]
struct Model {
    setup: Setup,
    deliveries: BTreeMap<u64, Delivery>,
    leases: BTreeMap<u64, Lease>,
    batches: u64,
    /// Live dead letters, by number.
    letters: BTreeMap<u64, Letter>,
    /// The last number that was seen.
    last_letter: u64,
    paused: bool,
    stale: Vec<Token>,
}

impl Delivery {
    fn new() -> Self {
        Self { state: State::New, attempts: 0, first: None, letter: None, unwritten: false }
    }

    fn is_held(&self) -> bool {
        matches!(self.state, State::Held { .. })
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::New | State::Waiting { .. } | State::Held { .. })
    }
}

type Check<T = ()> = Result<T, String>;

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(otherwise()) }
}

impl Model {
    fn new(setup: Setup) -> Self {
        Self {
            setup,
            deliveries: BTreeMap::new(),
            leases: BTreeMap::new(),
            batches: 0,
            letters: BTreeMap::new(),
            last_letter: 0,
            paused: false,
            stale: Vec::new(),
        }
    }

    fn held(&self) -> Vec<(u64, Token)> {
        let held = |(position, one): (&u64, &Delivery)| match one.state {
            State::Held { token, .. } => Some((*position, token)),
            _ => None,
        };
        self.deliveries.iter().filter_map(held).collect()
    }

    /// Takes away what is held beyond its lease.
    fn expire(&mut self, log: &BTreeMap<u64, Appended>, now: u64) {
        let due: Vec<u64> =
            self.leases.iter().filter(|(_, lease)| lease.deadline <= now).map(|(batch, _)| *batch).collect();
        for batch in due {
            let Some(mut lease) = self.leases.remove(&batch) else { continue };
            let (mut keys, mut next) = (BTreeSet::new(), None::<u64>);
            for (position, one) in &mut self.deliveries {
                if !matches!(one.state, State::Held { batch: of, .. } if of == batch) {
                    continue;
                }
                let key = self.setup.key(&log[position]);
                let overtakes = key.is_some_and(|key| keys.contains(key));
                match lease.extended.get(position).copied().filter(|until| *until > now && !overtakes) {
                    Some(until) => next = Some(next.map_or(until, |next| next.min(until))),
                    None => {
                        keys.extend(key);
                        lease.extended.remove(position);
                        take_away(one, &mut self.stale);
                    }
                }
            }
            if let Some(deadline) = next {
                self.leases.insert(batch, Lease { deadline, ..lease });
            }
        }
    }

    fn let_go(&mut self, position: u64, state: State) {
        if let Some(one) = self.deliveries.get_mut(&position) {
            if let State::Held { token, batch, .. } = one.state {
                self.stale.push(token);
                if let Some(lease) = self.leases.get_mut(&batch) {
                    lease.extended.remove(&position);
                }
            }
            one.state = state;
            one.unwritten = true;
        }
    }

    /// What the batch of a delivery holds behind it under its key comes back untried.
    fn pull_back(&mut self, log: &BTreeMap<u64, Appended>, before: u64) {
        let State::Held { batch, .. } = self.deliveries[&before].state else { return };
        let Some(key) = self.setup.key(&log[&before]) else { return };
        let behind: Vec<u64> = self
            .deliveries
            .range(before + 1..)
            .filter(|(position, one)| {
                matches!(one.state, State::Held { batch: of, .. } if of == batch)
                    && self.setup.key(&log[position]) == Some(key)
            })
            .map(|(position, _)| *position)
            .collect();
        for position in behind {
            self.let_go(position, State::Waiting { not_before: 0, unanswered: false });
            self.deliveries.get_mut(&position).unwrap().attempts -= 1;
        }
    }

    fn settle(&mut self, log: &BTreeMap<u64, Appended>, position: u64, how: How, why: &str, now: u64) {
        let attempts = self.deliveries[&position].attempts;
        match how {
            How::Done => self.let_go(position, State::Done),
            How::Release => {
                self.pull_back(log, position);
                self.let_go(position, State::Waiting { not_before: 0, unanswered: false });
                self.deliveries.get_mut(&position).unwrap().attempts -= 1;
            }
            How::Retry { seconds } if attempts < self.setup.attempts => {
                self.pull_back(log, position);
                let wait = seconds.unwrap_or(self.setup.wait);
                let not_before = if wait == 0 { 0 } else { now + wait * SECOND };
                self.let_go(position, State::Waiting { not_before, unanswered: false });
            }
            How::Retry { .. } | How::Reject => {
                if self.setup.parks {
                    self.pull_back(log, position);
                }
                let reason = if matches!(how, How::Reject) { Reason::Undecodable } else { Reason::Attempts };
                self.let_go(position, State::Dying { reason, why: why.to_owned() });
            }
        }
    }

    /// Whether nothing of an event's key keeps it from being handed out, or made a dead letter, now.
    fn is_due(&self, log: &BTreeMap<u64, Appended>, position: u64, now: u64) -> bool {
        let one = &self.deliveries[&position];
        let comes = match one.state {
            State::New => true,
            State::Waiting { not_before, .. } => not_before <= now,
            _ => false,
        };
        let Some(key) = self.setup.key(&log[&position]) else { return comes };
        let mut of_key = self.deliveries.iter().filter(|(other, _)| self.setup.key(&log[other]) == Some(key));
        comes
            && of_key.all(|(other, one)| match one.state {
                State::Held { .. } => false,
                State::Waiting { not_before, .. } => *other >= position && not_before <= now,
                State::New => *other >= position,
                _ => true,
            })
    }

    fn is_held_up(&self, log: &BTreeMap<u64, Appended>, position: u64) -> bool {
        let one = &self.deliveries[&position];
        let on_their_way: BTreeSet<u64> = self.deliveries.values().filter_map(|one| one.letter).collect();
        let Some(key) = self.setup.key(&log[&position]).filter(|_| self.setup.parks) else { return false };
        let of_key = |source: &u64| *source < position && self.setup.key(&log[source]) == Some(key);
        let live = self.letters.iter().filter(|(number, letter)| {
            !on_their_way.contains(number) && of_key(&letter.source) && one.letter.is_none_or(|own| own < **number)
        });
        let dying =
            self.deliveries.iter().filter(|(other, one)| matches!(one.state, State::Dying { .. }) && of_key(other));
        live.count() + dying.count() > 0
    }

    /// What came into being by itself: each new dead letter has its right.
    fn take_in_letters(&mut self, log: &BTreeMap<u64, Appended>, live: &[DeadLetter], now: u64) -> Check {
        let seen = self.last_letter;
        for letter in live.iter().filter(|letter| letter.number().get() > seen) {
            let (number, source) = (letter.number().get(), letter.source_position().get());
            let told = Letter {
                source,
                reason: letter.reason(),
                attempts: letter.attempts(),
                replaces: letter.replaces().map(|number| number.get()),
            };
            let shown = || format!("dead letter {number} {told:?} {:?}", letter.why());
            let held_up = self.deliveries.contains_key(&source) && self.is_held_up(log, source);
            let one = self.deliveries.get(&source).ok_or_else(|| format!("{} of nothing", shown()))?;
            ensure(told.attempts == one.attempts, || format!("{}: there were {}", shown(), one.attempts))?;
            ensure(told.replaces == one.letter, || format!("{}: it was {:?}", shown(), one.letter))?;
            ensure(letter.first_handed_out().map(|time| time.as_nanos()) == one.first, shown)?;
            let event = &log[&source];
            let right = match (&one.state, told.reason) {
                (State::Dying { reason, why }, _) => *reason == told.reason && why == letter.why(),
                (State::Waiting { .. }, Reason::Attempts) => {
                    one.attempts >= self.setup.attempts && letter.why().starts_with(UNANSWERED)
                }
                (State::Waiting { .. } | State::New, Reason::Expired) => {
                    let age = now - event.time;
                    one.letter.is_none() && self.setup.expire_after.is_some_and(|most| age > most * SECOND)
                }
                (State::Waiting { .. } | State::New, Reason::Parked) => held_up,
                _ => false,
            };
            ensure(right, || format!("{} has no right: {one:?}", shown()))?;
            ensure(letter.source_stream() == Some(event.stream), shown)?;
            let Some(one) = self.deliveries.get_mut(&source) else { continue };
            (one.state, one.unwritten) = (State::Dead, false);
            if let Some(replaced) = one.letter.take() {
                self.letters.remove(&replaced);
            }
            self.letters.insert(number, told);
            self.last_letter = number;
        }
        Ok(())
    }

    /// What is settled with success and was redriven takes its dead letter along.
    fn written(&mut self) {
        for one in self.deliveries.values_mut() {
            one.unwritten = false;
            if one.state == State::Done
                && let Some(letter) = one.letter.take()
            {
                self.letters.remove(&letter);
            }
        }
    }
}

fn take_away(one: &mut Delivery, stale: &mut Vec<Token>) {
    if let State::Held { token, .. } = one.state {
        stale.push(token);
        one.state = State::Waiting { not_before: 0, unanswered: true };
    }
}

const SECOND: u64 = 1_000_000_000;

/// A store with groups, and the models of them.
struct World {
    members: Vec<[Option<Member>; MEMBERS]>,
    groups: Vec<Group>,
    models: Vec<Model>,
    log: BTreeMap<u64, Appended>,
    clock: Arc<ManualClock>,
    results: u64,
    store: Store,
    dir: Scratch,
    /// Deliberately wrong, for the control.
    flaw: Option<fn(&mut Model)>,
}

fn open(dir: &Scratch, clock: &Arc<ManualClock>) -> Store {
    // So small that the state is carried from segment to segment all the time.
    let options = Options::new().segment_bytes(64 << 10).durability(Durability::Os);
    options.clock(clock.clone()).open(dir.store_path()).unwrap()
}

fn name(group: usize) -> String {
    format!("group {group}")
}

impl World {
    fn new(setups: &[Setup]) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_nanos(1_000 * SECOND)));
        let dir = Scratch::in_memory();
        let store = open(&dir, &clock);
        let groups = setups.iter().enumerate().map(|(at, setup)| setup.open(&store, &name(at))).collect();
        let models = setups.iter().map(|setup| Model::new(setup.clone())).collect();
        let members = setups.iter().map(|_| [None, None, None]).collect();
        Self { members, groups, models, log: BTreeMap::new(), clock, results: 0, store, dir, flaw: None }
    }

    fn now(&self) -> u64 {
        self.clock.now().as_nanos()
    }

    fn step(&mut self, step: &Step) -> Check {
        match *step {
            Step::Append(ref events) => self.append(events),
            Step::Pull { group, member, max } => self.pull(group, member, max).map(drop),
            Step::Settle { group, nth, how } => self.settle(group, nth, how),
            Step::SettleAll { group, most } => self.settle_all(group, most),
            Step::Extend { group, nth, seconds } => self.extend(group, nth, seconds),
            Step::Stale { group, nth, how } => self.stale(group, nth, how),
            Step::CommitAndSettle { group, nth, most, refused, foreign } => {
                self.commit_and_settle(group, nth, most, refused, foreign)
            }
            Step::Pass { seconds } => {
                self.clock.set(Timestamp::from_nanos(self.now() + seconds * SECOND));
                Ok(())
            }
            Step::Leave { group, member } => self.leave(group, member),
            Step::Flush { group } => self.flush(group),
            Step::Pause { group, paused } => {
                let opened = &self.groups[group];
                if paused {
                    opened.pause().unwrap()
                } else {
                    opened.resume().unwrap()
                }
                self.models[group].paused = paused;
                Ok(())
            }
            Step::Seek { group, to } => self.seek(group, to),
            Step::Redrive { group, first, most } => self.redrive(group, first, most),
            Step::Drop { group, nth } => self.drop_letter(group, nth),
            Step::Reopen { close } => self.reopen(close),
            Step::Crash => self.crash(),
        }
    }

    fn append(&mut self, events: &[(usize, usize, bool, usize)]) -> Check {
        for &(stream, tag, is_red, size) in events {
            let (stream, tag) = (STREAMS[stream], TAGS[tag]);
            let payload = vec![7; size * 100];
            let event = NewEvent::new(if is_red { "red" } else { "blue" }, &payload).tag(tag);
            let receipt = self.store.append(stream, event).unwrap();
            let appended = Appended { stream, tag, is_red, time: receipt.time().as_nanos() };
            for model in &mut self.models {
                if model.setup.means(&appended) {
                    model.deliveries.insert(receipt.first().get(), Delivery::new());
                }
            }
            self.log.insert(receipt.first().get(), appended);
        }
        Ok(())
    }

    fn member(&mut self, group: usize, member: usize) -> &mut Member {
        let opened = &self.groups[group];
        self.members[group][member].get_or_insert_with(|| opened.member().unwrap())
    }

    fn live(&self, group: usize) -> Vec<DeadLetter> {
        let letters = self.store.dead_letters(name(group)).unwrap();
        letters.iter().unwrap().map(Result::unwrap).collect()
    }

    fn pull(&mut self, group: usize, member: usize, max: usize) -> Check<usize> {
        let now = self.now();
        self.models[group].expire(&self.log, now);
        let batch = self.member(group, member).pull_batch(max, Duration::ZERO).unwrap();
        let live = self.live(group);
        let (model, log) = (&mut self.models[group], &self.log);
        // Dead letters first: what they stand for is out of the way of what was handed out.
        model.take_in_letters(log, &live, now)?;
        let in_flight = model.held().len();
        let allowed = (model.setup.max_in_flight as usize).saturating_sub(in_flight);
        ensure(batch.len() <= max.min(allowed), || format!("{} came, {max} asked, {allowed} allowed", batch.len()))?;
        ensure(batch.is_empty() || !model.paused, || "a paused group handed out".to_owned())?;

        let mut came: Vec<u64> = Vec::new();
        for delivery in &batch {
            let position = delivery.position().get();
            let shown = |what: &str| format!("{position} was handed out to {member} of {}: {what}", name(group));
            let one = model.deliveries.get(&position).ok_or_else(|| shown("it is not meant"))?;
            ensure(one.is_open() && !one.is_held(), || shown(&format!("{one:?}")))?;
            ensure(delivery.attempt() == one.attempts + 1, || shown(&format!("attempt {}", delivery.attempt())))?;
            ensure(delivery.attempt() <= model.setup.attempts, || shown("too often"))?;
            let first = delivery.first_handed_out().map(|time| time.as_nanos());
            ensure(first == Some(one.first.unwrap_or(now)), || shown("it was first handed out at another time"))?;
            if let State::Waiting { not_before, unanswered } = one.state {
                ensure(not_before <= now, || shown("before its time"))?;
                ensure(!unanswered || batch.len() == 1, || shown("not alone, though nobody answered for it"))?;
            }
            ensure(!model.is_held_up(log, position), || shown("over a dead letter"))?;
            ensure(model.setup.key(&log[&position]).is_none() == delivery.order_key().is_none(), || shown("its key"))?;
            let key = model.setup.key(&log[&position]);
            if let Some(key) = key {
                let overtaken = model.deliveries.iter().find(|(other, one)| {
                    model.setup.key(&log[other]) == Some(key)
                        && (one.is_held() || **other < position && one.is_open() && !came.contains(other))
                });
                ensure(overtaken.is_none(), || shown(&format!("over {overtaken:?}")))?;
            }
            ensure(!came.contains(&position), || shown("twice in a batch"))?;
            came.push(position);
        }
        // Nothing that came back is passed over for something new, but for what follows under a key that has its turn.
        let leads = |position: &u64| {
            let key = model.setup.key(&log[position]);
            key.is_none() || came.iter().find(|other| model.setup.key(&log[other]) == key) == Some(position)
        };
        let is_new = |position: &&u64| model.deliveries[position].state == State::New && leads(position);
        if let Some(new) = came.iter().find(is_new) {
            let left = model.deliveries.range(..new).find(|(position, one)| {
                matches!(one.state, State::Waiting { .. })
                    && !came.contains(position)
                    && model.is_due(log, **position, now)
            });
            ensure(left.is_none(), || format!("{came:?} before {left:?}"))?;
        }
        // Nothing is forgotten.
        if batch.is_empty() && !model.paused && allowed > 0 {
            let due = model.deliveries.keys().find(|position| model.is_due(log, **position, now));
            ensure(due.is_none(), || {
                format!("{due:?} {:?} is due and does not come", due.map(|due| &model.deliveries[due]))
            })?;
        }
        if !batch.is_empty() {
            // The claim is written behind everything that was settled before.
            model.written();
            model.batches += 1;
            let deadline = now + model.setup.lease * SECOND;
            model.leases.insert(model.batches, Lease { deadline, extended: BTreeMap::new() });
            for delivery in &batch {
                let Some(one) = model.deliveries.get_mut(&delivery.position().get()) else { continue };
                one.attempts += 1;
                one.first.get_or_insert(now);
                one.state = State::Held { token: delivery.token(), batch: model.batches, member };
            }
        }
        if let Some(flaw) = self.flaw.take() {
            flaw(model);
        }
        self.same_in_flight(group)?;
        Ok(came.len())
    }

    fn same_in_flight(&self, group: usize) -> Check {
        let (found, known) = (self.groups[group].in_flight() as usize, self.models[group].held().len());
        ensure(found == known, || format!("{found} in flight, {known} expected"))
    }

    /// Any member may settle.
    fn settle(&mut self, group: usize, nth: usize, how: How) -> Check {
        let held = self.models[group].held();
        let Some((position, token)) = held.get(nth % held.len().max(1)).copied() else { return Ok(()) };
        let now = self.now();
        self.models[group].expire(&self.log, now);
        let is_held = self.models[group].deliveries[&position].is_held();
        let why = format!("{position} at {now}");
        let told = self.member(group, nth % MEMBERS).settle(token, how.settlement(&why));
        match told {
            Ok(()) if is_held => self.models[group].settle(&self.log, position, how, &why, now),
            Err(Error::NotHeld { .. }) if !is_held => {}
            other => return Err(format!("settling {position}, which is held: {is_held}: {other:?}")),
        }
        self.same_in_flight(group)
    }

    fn settle_all(&mut self, group: usize, most: usize) -> Check {
        let now = self.now();
        let held: Vec<(u64, Token)> = self.models[group].held().into_iter().take(most).collect();
        self.models[group].expire(&self.log, now);
        let all_held = held.iter().all(|(position, _)| self.models[group].deliveries[position].is_held());
        let tokens: Vec<Token> = held.iter().map(|(_, token)| *token).collect();
        let told = self.member(group, 0).settle_all(&tokens);
        ensure(told.as_ref().is_ok_and(Vec::is_empty) == all_held, || format!("settling all of {held:?}: {told:?}"))?;
        for (position, _) in held {
            if self.models[group].deliveries[&position].is_held() {
                self.models[group].settle(&self.log, position, How::Done, "", now);
            }
        }
        self.same_in_flight(group)
    }

    fn extend(&mut self, group: usize, nth: usize, seconds: u64) -> Check {
        let held = self.models[group].held();
        let Some((position, token)) = held.get(nth % held.len().max(1)).copied() else { return Ok(()) };
        let now = self.now();
        self.models[group].expire(&self.log, now);
        let is_held = self.models[group].deliveries[&position].is_held();
        let told = self.member(group, nth % MEMBERS).extend(token, Duration::from_secs(seconds));
        ensure(told.is_ok() == is_held, || format!("extending {position}: {told:?}"))?;
        if let State::Held { batch, .. } = self.models[group].deliveries[&position].state
            && let Some(lease) = self.models[group].leases.get_mut(&batch)
            && now + seconds * SECOND > lease.deadline
        {
            lease.extended.insert(position, now + seconds * SECOND);
        }
        Ok(())
    }

    fn stale(&mut self, group: usize, nth: usize, how: How) -> Check {
        let now = self.now();
        self.models[group].expire(&self.log, now);
        let stale = &self.models[group].stale;
        let Some(token) = stale.get(nth % stale.len().max(1)).copied() else { return Ok(()) };
        let told = self.member(group, nth % MEMBERS).settle(token, how.settlement("late"));
        ensure(matches!(told, Err(Error::NotHeld { .. })), || format!("a stale token: {told:?}"))?;
        // One of another group.
        let other = self.models[(group + 1) % GROUPS].held().first().copied();
        if let Some((_, token)) = other {
            let told = self.member(group, nth % MEMBERS).settle(token, how.settlement("foreign"));
            ensure(matches!(told, Err(Error::NotHeld { .. })), || format!("a foreign token: {told:?}"))?;
        }
        self.same_in_flight(group)
    }

    fn commit_and_settle(&mut self, group: usize, nth: usize, most: usize, refused: bool, foreign: bool) -> Check {
        let now = self.now();
        let held = self.models[group].held();
        let chosen: Vec<(u64, Token)> = held.into_iter().skip(nth).take(most).collect();
        if chosen.is_empty() {
            return Ok(());
        }
        let mut tokens: Vec<Token> = chosen.iter().map(|(_, token)| *token).collect();
        if foreign {
            tokens.extend(self.models[group].stale.last());
        }
        self.models[group].expire(&self.log, now);
        let all_held = chosen.iter().all(|(position, _)| self.models[group].deliveries[position].is_held())
            && tokens.len() == chosen.len();
        let mut commit = Commit::new();
        for (position, _) in &chosen {
            commit.event("results", NewEvent::new("result", &position.to_le_bytes()));
        }
        if refused {
            commit.expect("results", Expected::Exact(towpath::Revision::new(self.results + 1)));
        }
        let told = self.member(group, nth % MEMBERS).commit_and_settle(&mut commit, &tokens);
        match told {
            Ok(receipt) if all_held && !refused => {
                self.results += chosen.len() as u64;
                for position in receipt.first().get()..=receipt.last().get() {
                    let appended =
                        Appended { stream: "results", tag: "", is_red: false, time: receipt.time().as_nanos() };
                    for model in self.models.iter_mut().filter(|model| model.setup.means(&appended)) {
                        model.deliveries.insert(position, Delivery::new());
                    }
                    self.log.insert(position, appended);
                }
                for (position, _) in &chosen {
                    self.models[group].let_go(*position, State::Done);
                }
                // It waited for what was settled before it.
                self.models[group].written();
                let live = self.live(group);
                self.models[group].take_in_letters(&self.log, &live, now)?;
            }
            Err(Error::NotHeld { .. }) if !all_held => {}
            Err(Error::Conflict { .. }) if all_held && refused => {}
            other => return Err(format!("committing {chosen:?}, all held: {all_held}, refused: {refused}: {other:?}")),
        }
        self.same_in_flight(group)?;
        let results = self.store.revision("results").unwrap().get();
        ensure(results == self.results, || format!("{results} results, {} expected", self.results))
    }

    fn leave(&mut self, group: usize, member: usize) -> Check {
        if self.members[group][member].take().is_none() {
            return Ok(());
        }
        let model = &mut self.models[group];
        // Leaving looks at the time, too, through the flush behind it.
        for one in model.deliveries.values_mut() {
            if matches!(one.state, State::Held { member: of, .. } if of == member) {
                take_away(one, &mut model.stale);
            }
        }
        self.settled_down(group)
    }

    fn flush(&mut self, group: usize) -> Check {
        self.member(group, 0).flush().unwrap();
        self.settled_down(group)
    }

    /// Everything that was decided is written: the store says exactly what the model does.
    fn settled_down(&mut self, group: usize) -> Check {
        let now = self.now();
        self.models[group].written();
        let live = self.live(group);
        let model = &mut self.models[group];
        model.take_in_letters(&self.log, &live, now)?;
        self.same_in_flight(group)?;
        self.check(group)
    }

    fn check(&self, group: usize) -> Check {
        let model = &self.models[group];
        let dying = model.deliveries.iter().find(|(_, one)| matches!(one.state, State::Dying { .. }));
        ensure(dying.is_none(), || format!("{dying:?} did not become a dead letter"))?;
        let live: BTreeMap<u64, Letter> = self
            .live(group)
            .iter()
            .map(|letter| {
                let told = Letter {
                    source: letter.source_position().get(),
                    reason: letter.reason(),
                    attempts: letter.attempts(),
                    replaces: letter.replaces().map(|number| number.get()),
                };
                (letter.number().get(), told)
            })
            .collect();
        ensure(live == model.letters, || format!("dead letters {live:?}, expected {:?}", model.letters))?;
        let redriven: BTreeSet<u64> =
            self.live(group).iter().filter(|letter| letter.is_redriven()).map(|letter| letter.number().get()).collect();
        let on_their_way: BTreeSet<u64> = model.deliveries.values().filter_map(|one| one.letter).collect();
        ensure(redriven == on_their_way, || format!("redriven {redriven:?}, expected {on_their_way:?}"))?;
        // Those that were never handed out are there or not, as far as the group has looked.
        let is_known = |position: &u64| {
            model.deliveries.get(position).is_none_or(|one| one.state != State::New || one.letter.is_some())
        };
        let unsettled = self.store.unsettled(&name(group)).unwrap().into_iter();
        let told: BTreeMap<u64, (u32, bool)> = unsettled
            .map(|one| (one.position.get(), (one.attempts, one.in_flight)))
            .filter(|(position, _)| is_known(position))
            .collect();
        let known = model.deliveries.iter().filter(|(position, one)| one.is_open() && is_known(position));
        let claimed =
            |one: &Delivery| matches!(one.state, State::Held { .. } | State::Waiting { unanswered: true, .. });
        let known: BTreeMap<u64, (u32, bool)> =
            known.map(|(position, one)| (*position, (one.attempts, claimed(one)))).collect();
        ensure(told == known, || format!("unsettled {told:?}, expected {known:?}"))
    }

    fn seek(&mut self, group: usize, to: usize) -> Check {
        let to = 1 + to as u64 % (self.store.head().get() + 1);
        self.store.seek(&name(group), Position::new(to)).unwrap();
        // Letters that were decided came before it.
        let (now, live) = (self.now(), self.live(group));
        let model = &mut self.models[group];
        model.written();
        model.take_in_letters(&self.log, &live, now)?;
        for (position, one) in &mut model.deliveries {
            take_away(one, &mut model.stale);
            *one = Delivery::new();
            if *position < to {
                one.state = State::Passed;
            }
        }
        model.leases.clear();
        // The next call notices.
        self.member(group, 0).flush().unwrap();
        self.check(group)
    }

    fn redrive(&mut self, group: usize, first: usize, most: usize) -> Check {
        let letters: Vec<DeadLetter> = self.live(group).into_iter().skip(first).take(most).collect();
        let moved = self.store.dead_letters(name(group)).unwrap().redrive(&letters).unwrap();
        ensure(moved.impossible == 0, || format!("{moved:?}"))?;
        // What was decided before is written by it.
        let now = self.now();
        let live = self.live(group);
        let model = &mut self.models[group];
        model.written();
        model.take_in_letters(&self.log, &live, now)?;
        let redriven: BTreeMap<u64, u64> = live
            .iter()
            .filter(|letter| letter.is_redriven())
            .map(|letter| (letter.number().get(), letter.source_position().get()))
            .collect();
        let mut count = 0;
        for letter in &letters {
            let (number, source) = (letter.number().get(), letter.source_position().get());
            let is_redriven = redriven.contains_key(&number);
            let Some(one) = model.deliveries.get_mut(&source) else { return Err(format!("{source} is not meant")) };
            let may = model.letters.contains_key(&number) && one.letter.is_none();
            let must = may && matches!(one.state, State::Done | State::Dead | State::Passed);
            let newly = is_redriven && one.letter != Some(number);
            ensure(newly == must, || format!("{number} redriven: {newly}: {one:?}"))?;
            if newly {
                count += 1;
                *one = Delivery { state: State::Waiting { not_before: 0, unanswered: false }, ..Delivery::new() };
                one.letter = Some(number);
            }
        }
        ensure((moved.moved, moved.passed_over) == (count, letters.len() as u64 - count), || {
            format!("{moved:?}, {count}")
        })?;
        self.settled_down(group)
    }

    fn drop_letter(&mut self, group: usize, nth: usize) -> Check {
        let (now, letters) = (self.now(), self.live(group));
        self.models[group].take_in_letters(&self.log, &letters, now)?;
        let Some(letter) = letters.get(nth % letters.len().max(1)) else { return Ok(()) };
        let moved = self.store.dead_letters(name(group)).unwrap().drop_letters([letter]).unwrap();
        let number = letter.number().get();
        // Of one whose redelivery is settled, the settlement may be on its way.
        let model = &mut self.models[group];
        let on_its_way = model.deliveries.values().any(|one| one.letter == Some(number));
        ensure(moved.moved == u64::from(!on_its_way), || format!("dropping {number}: {moved:?}"))?;
        if !on_its_way {
            model.letters.remove(&number);
        }
        Ok(())
    }

    fn reopen(&mut self, close: bool) -> Check {
        for members in &mut self.members {
            members.iter_mut().for_each(|member| drop(member.take()));
        }
        self.groups.clear();
        let elsewhere = Scratch::in_memory();
        let store = std::mem::replace(&mut self.store, open(&elsewhere, &self.clock));
        if close {
            store.close().unwrap();
        } else {
            drop(store);
        }
        self.store = open(&self.dir, &self.clock);
        for model in &mut self.models {
            for one in model.deliveries.values_mut() {
                take_away(one, &mut model.stale);
            }
            model.leases.clear();
            model.stale.clear();
        }
        self.open_groups()?;
        (0..GROUPS).try_for_each(|group| self.settled_down(group))
    }

    fn open_groups(&mut self) -> Check {
        self.groups =
            self.models.iter().enumerate().map(|(at, model)| model.setup.open(&self.store, &name(at))).collect();
        Ok(())
    }

    /// The process is killed, and another one goes on.
    fn crash(&mut self) -> Check {
        let left = self.dir.as_if_killed();
        for members in &mut self.members {
            members.iter_mut().for_each(|member| drop(member.take()));
        }
        self.groups.clear();
        self.store = open(&left, &self.clock);
        self.dir = left;
        let now = self.now();
        for group in 0..GROUPS {
            let unsettled = self.store.unsettled(&name(group)).unwrap();
            let live = self.live(group);
            let model = &mut self.models[group];
            for (position, one) in &mut model.deliveries {
                let row = unsettled.iter().find(|row| row.position.get() == *position);
                if !std::mem::take(&mut one.unwritten) {
                    take_away(one, &mut model.stale);
                    continue;
                }
                // Whatever was said of it last, it is written whole, or not at all, and then it comes again.
                match row {
                    Some(row) if row.in_flight => {
                        // A release that is lost leaves the attempt counted.
                        let released = matches!(one.state, State::Waiting { .. }) && row.attempts == one.attempts + 1;
                        ensure(released || row.attempts == one.attempts, || format!("{row:?} {one:?}"))?;
                        one.attempts = row.attempts;
                        one.state = State::Waiting { not_before: 0, unanswered: true };
                    }
                    Some(row) => {
                        let is_waiting = matches!(one.state, State::Waiting { .. });
                        ensure(is_waiting && row.attempts == one.attempts, || format!("{row:?} {one:?}"))?;
                    }
                    None => {
                        let has_ended = matches!(one.state, State::Done | State::Dying { .. });
                        ensure(has_ended, || format!("{position} is lost: {one:?}"))?;
                    }
                }
            }
            model.written();
            model.leases.clear();
            model.stale.clear();
            model.take_in_letters(&self.log, &live, now)?;
        }
        self.open_groups()?;
        (0..GROUPS).try_for_each(|group| self.check(group))
    }

    /// Everything is handled in the end: each event that is meant has ended, once.
    fn drain(&mut self) -> Check {
        for group in 0..GROUPS {
            self.step(&Step::Pause { group, paused: false })?;
            for round in 0.. {
                ensure(round < 100_000, || "it does not end".to_owned())?;
                // Whoever has something lets it go.
                while !self.models[group].held().is_empty() {
                    self.settle(group, 0, How::Done)?;
                }
                if self.pull(group, 0, 7)? == 0 {
                    let waits = self.models[group].deliveries.values().any(|one| one.is_open());
                    if !waits {
                        break;
                    }
                    self.step(&Step::Pass { seconds: 1_000 })?;
                }
            }
            self.flush(group)?;
        }
        self.reopen(true)?;
        for group in 0..GROUPS {
            ensure(self.pull(group, 0, 100)? == 0, || "something comes again in the end".to_owned())?;
            let model = &self.models[group];
            let open =
                model.deliveries.iter().find(|(_, one)| one.is_open() || matches!(one.state, State::Dying { .. }));
            ensure(open.is_none(), || format!("{open:?} has not ended"))?;
        }
        Ok(())
    }
}

fn setup() -> impl Strategy<Value = Setup> {
    let order = prop_oneof![
        1 => Just(Order::None),
        1 => Just(Order::Stream),
        1 => Just(Order::Tag("for:".to_owned())),
    ];
    let expire = prop::option::weighted(0.25, select(&[30_u64, 100]));
    (order, any::<bool>(), 1..12_u32, 1..4_u32, select(&[0_u64, 5]), select(&[10_u64, 40]), expire, any::<bool>())
        .prop_map(|(order, parks, max_in_flight, attempts, wait, lease, expire_after, only_red)| Setup {
            order,
            parks,
            max_in_flight,
            attempts,
            wait,
            lease,
            expire_after,
            only_red,
        })
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        4 => Just(How::Done),
        3 => select(&[None, Some(0), Some(3), Some(20)]).prop_map(|seconds| How::Retry { seconds }),
        2 => Just(How::Reject),
        1 => Just(How::Release),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let event = || (0..STREAMS.len(), 0..TAGS.len(), any::<bool>(), prop_oneof![9 => 0..3_usize, 1 => 100..200_usize]);
    prop_oneof![
        10 => vec(event(), 1..12).prop_map(Step::Append),
        25 => (0..GROUPS, 0..MEMBERS, 1..9_usize).prop_map(|(group, member, max)| Step::Pull { group, member, max }),
        30 => (0..GROUPS, 0..20_usize, how()).prop_map(|(group, nth, how)| Step::Settle { group, nth, how }),
        3 => (0..GROUPS, 1..9_usize).prop_map(|(group, most)| Step::SettleAll { group, most }),
        4 => (0..GROUPS, 0..20_usize, 1..60_u64).prop_map(|(group, nth, seconds)| Step::Extend { group, nth, seconds }),
        3 => (0..GROUPS, 0..50_usize, how()).prop_map(|(group, nth, how)| Step::Stale { group, nth, how }),
        6 => (0..GROUPS, 0..4_usize, 1..6_usize, prop::bool::weighted(0.3), prop::bool::weighted(0.1)).prop_map(
            |(group, nth, most, refused, foreign)| Step::CommitAndSettle { group, nth, most, refused, foreign }
        ),
        8 => select(&[1_u64, 2, 5, 15, 50]).prop_map(|seconds| Step::Pass { seconds }),
        3 => (0..GROUPS, 0..MEMBERS).prop_map(|(group, member)| Step::Leave { group, member }),
        4 => (0..GROUPS).prop_map(|group| Step::Flush { group }),
        1 => (0..GROUPS, any::<bool>()).prop_map(|(group, paused)| Step::Pause { group, paused }),
        1 => (0..GROUPS, 0..200_usize).prop_map(|(group, to)| Step::Seek { group, to }),
        4 => (0..GROUPS, 0..5_usize, 1..6_usize).prop_map(|(group, first, most)| Step::Redrive { group, first, most }),
        1 => (0..GROUPS, 0..9_usize).prop_map(|(group, nth)| Step::Drop { group, nth }),
        1 => any::<bool>().prop_map(|close| Step::Reopen { close }),
        2 => Just(Step::Crash),
    ]
}

#[test]
fn groups_do_what_their_models_do() {
    let config = ProptestConfig { cases: cases(24), failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(setups in vec(setup(), GROUPS), steps in vec(step(), 1..150))| {
        let mut world = World::new(&setups);
        for (at, step) in steps.iter().enumerate() {
            world.step(step).map_err(|why| TestCaseError::fail(format!("step {at}, {step:?}: {why}")))?;
        }
        world.drain().map_err(|why| TestCaseError::fail(format!("in the end: {why}")))?;
    });
}

/// The control: whatever a model and its group do not agree on is noticed.
#[test]
fn a_group_that_differs_from_its_model_is_noticed() {
    let setup = |order| Setup {
        order,
        parks: true,
        max_in_flight: 4,
        attempts: 3,
        wait: 5,
        lease: 10,
        expire_after: None,
        only_red: false,
    };
    let setups = [setup(Order::Stream), setup(Order::None), setup(Order::None)];
    let story = |flaw: Option<fn(&mut Model)>| -> Check {
        let mut world = World::new(&setups);
        let (group, how) = (0, How::Reject);
        world.step(&Step::Append((0..9).map(|at| (at % 2, 0, true, 0)).collect()))?;
        world.step(&Step::Pull { group, member: 0, max: 3 })?;
        world.step(&Step::Settle { group, nth: 0, how })?;
        world.step(&Step::Settle { group, nth: 0, how: How::Retry { seconds: None } })?;
        world.step(&Step::Flush { group })?;
        world.step(&Step::Pass { seconds: 6 })?;
        world.flaw = flaw;
        world.step(&Step::Pull { group, member: 1, max: 3 })?;
        world.step(&Step::Crash)?;
        world.drain()
    };
    story(None).unwrap();
    let flaws: [fn(&mut Model); 8] = [
        |model| model.letters.clear(),
        |model| model.deliveries.values_mut().for_each(|one| one.attempts = 1),
        |model| model.deliveries.values_mut().for_each(|one| one.state = State::Done),
        |model| model.deliveries.values_mut().for_each(|one| one.state = State::New),
        |model| model.deliveries.retain(|_, one| !one.is_held()),
        |model| drop(model.deliveries.pop_last()),
        |model| model.setup.max_in_flight = 0,
        |model| model.letters.values_mut().for_each(|letter| letter.attempts += 1),
    ];
    for (n, flaw) in flaws.into_iter().enumerate() {
        assert!(story(Some(flaw)).is_err(), "flaw {n}");
    }
}
