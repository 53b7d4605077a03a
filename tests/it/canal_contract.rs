//! What every canal keeps, whatever stands behind it. Written over `impl Canal`, so that each new one can be held to it.
//! L1, L10, G3, G6, G7, X2.

use std::cell::Cell;
use std::time::Duration;

use towpath::{
    Batch, Canal, Commit, Error, Expected, Member, NewEvent, Order, Promises, Query, Reason, Result, Revision,
    Settlement, Start, Store, Token, Transact,
};

use crate::support::Scratch;

/// Takes a canal through the contract: `open` begins a new one each time, of its own, behind what the store has then or
/// at its beginning; it is called on empty stores. What a canal promises decides what is expected of it.
///
/// Says what was not kept.
pub(crate) fn keeps<C: Canal>(open: impl Fn(&Store) -> C) -> Result<(), String> {
    hands_out(&open)?;
    settles(&open)?;
    refuses_what_it_did_not_hand_out(&open)?;
    settles_all(&open)
}

fn hands_out<C: Canal>(open: impl Fn(&Store) -> C) -> Result<(), String> {
    let dir = Scratch::new();
    let store = dir.open();
    let mut canal = open(&store);
    let Promises { ordered, lossless, counted, .. } = canal.promises();

    let nothing = pull(&mut canal, 10)?;
    ensure(nothing.is_empty(), "events came out of an empty store")?;
    ensure(nothing.last().is_none(), "an empty batch names a delivery")?;

    append(&store, 1..=7);
    let batch = pull(&mut canal, 3)?;
    ensure(!batch.is_empty(), "an empty batch was taken for the end")?;
    ensure(positions(&batch) == [1, 2, 3], "a batch is not the next events, up to as many as asked for")?;
    ensure(batch.iter().map(|event| event.token()).last() == batch.last(), "the last token is another one")?;
    ensure(batch.iter().all(|one| one.attempt() == 1 && !one.is_redelivered()), "a first attempt is not the first")?;
    ensure(!counted || batch.iter().all(|one| one.first_handed_out().is_some()), "the first time is not told")?;
    settle(&mut canal, &batch, 1, Settlement::Done)?;
    settle(&mut canal, &batch, 2, Settlement::Done)?;
    let released = settle(&mut canal, &batch, 3, Settlement::Release);
    ensure(released.is_ok() == lossless, "releasing is not what was promised")?;

    let again = pull(&mut canal, 10)?;
    let again = positions(&again);
    ensure(again.contains(&3) == lossless, "what was released does not come again")?;
    ensure(!again.contains(&2), "what was done comes again")?;
    if ordered {
        ensure(
            again == if lossless { vec![3, 4, 5, 6, 7] } else { vec![4, 5, 6, 7] },
            "events are out of order, or missing",
        )?;
    }
    ensure(pull(&mut canal, 10)?.is_empty(), "an event came twice")?;

    append(&store, 8..=9);
    store.close().map_err(|error| error.to_string())?;
    if !counted {
        let last = pull(&mut canal, 10)?;
        ensure(positions(&last) == [8, 9], "a closed canal does not hand out what was there")?;
    }
    // Where attempts are counted nothing can be handed out any more: the count could not be written down.
    let closed = canal.pull_batch(10, Duration::MAX);
    ensure(matches!(closed, Err(Error::Closed)), "a closed canal does not say so")
}

/// Retry, reject, extend, and settling twice.
fn settles<C: Canal>(open: impl Fn(&Store) -> C) -> Result<(), String> {
    let dir = Scratch::new();
    let store = dir.open();
    let mut canal = open(&store);
    let Promises { lossless, cumulative, counted, leased, rejects, .. } = canal.promises();
    append(&store, 1..=3);
    let batch = pull(&mut canal, 10)?;

    let extended = canal.extend(token(&batch, 3)?, Duration::from_secs(60));
    ensure(kept(extended, leased)?, "extending a lease is not what was promised")?;
    let reject = Settlement::Reject { reason: Reason::Rejected, why: "no such cart".to_owned() };
    let rejected = canal.settle(token(&batch, 3)?, reject);
    ensure(kept(rejected, rejects)?, "rejecting is not what was promised")?;
    canal.flush().map_err(|error| error.to_string())?;
    let dead: u64 = store.consumers().unwrap().iter().map(|consumer| consumer.dead).sum();
    ensure(dead == u64::from(rejects), "a rejected delivery is not one dead letter")?;

    settle(&mut canal, &batch, 1, Settlement::Done)?;
    let retry = Settlement::Retry { after: Some(Duration::ZERO), why: "busy".to_owned() };
    let retried = canal.settle(token(&batch, 2)?, retry);
    ensure(kept(retried, lossless)?, "trying again is not what was promised")?;
    let twice = canal.settle(token(&batch, 1)?, Settlement::Done);
    ensure(!counted || is_refused(twice), "a delivery was settled twice")?;

    let again = pull(&mut canal, 10)?;
    if !lossless {
        return ensure(again.is_empty(), "an event came twice");
    }
    // What is cumulative begins again there, with everything behind it.
    let expected = if cumulative { vec![2, 3] } else { vec![2] };
    ensure(positions(&again) == expected, "what is to be tried again does not come")?;
    let second = again.get(0).ok_or("nothing came")?;
    ensure(second.attempt() == if counted { 2 } else { 1 }, "the attempts are not counted")?;
    ensure(second.is_redelivered() == counted, "a second attempt is not marked as one")?;
    let first = batch.iter().find(|one| one.position() == second.position()).ok_or("the event is missing")?;
    ensure(first.first_handed_out() == second.first_handed_out(), "the first time was forgotten")?;
    ensure(first.idempotency_key() == second.idempotency_key(), "an attempt has a key of its own")?;
    let last = again.last().ok_or("nothing came")?;
    canal.settle(last, Settlement::Done).map_err(|error| error.to_string())?;
    ensure(pull(&mut canal, 10)?.is_empty(), "what was done comes again")
}

fn refuses_what_it_did_not_hand_out<C: Canal>(open: impl Fn(&Store) -> C) -> Result<(), String> {
    let dir = Scratch::new();
    let store = dir.open();
    let (mut canal, mut other) = (open(&store), open(&store));
    append(&store, 1..=3);
    let (batch, others) = (pull(&mut canal, 2)?, pull(&mut other, 3)?);
    // The same events, and one that this canal has not come to.
    for foreign in others.iter().map(|one| one.token()) {
        for settlement in [Settlement::Done, Settlement::Release] {
            ensure(is_refused(canal.settle(foreign, settlement)), "a delivery of another canal was settled")?;
        }
        ensure(canal.extend(foreign, Duration::from_secs(1)).is_err(), "a delivery of another canal was extended")?;
        let refused = canal.settle_all(&[foreign]).map_err(|error| error.to_string())?;
        ensure(refused.len() == 1, "deliveries of another canal were settled")?;
    }
    // Nothing has changed, here or there.
    for (canal, batch) in [(&mut canal, &batch), (&mut other, &others)] {
        for delivery in batch {
            canal.settle(delivery.token(), Settlement::Done).map_err(|error| error.to_string())?;
        }
    }
    ensure(positions(&pull(&mut canal, 10)?) == [3], "a refused settlement changed something")?;
    ensure(pull(&mut other, 10)?.is_empty(), "a settlement of another canal changed something")
}

fn settles_all<C: Canal>(open: impl Fn(&Store) -> C) -> Result<(), String> {
    let dir = Scratch::new();
    let store = dir.open();
    let mut canal = open(&store);
    append(&store, 1..=6);
    for (most, came) in [(4, 4), (10, 2)] {
        let tokens: Vec<Token> = pull(&mut canal, most)?.iter().map(|one| one.token()).collect();
        ensure(tokens.len() == came, "events are missing")?;
        let refused = canal.settle_all(&tokens).map_err(|error| error.to_string())?;
        ensure(refused.is_empty(), "its own deliveries were refused")?;
    }
    canal.flush().map_err(|error| error.to_string())?;
    ensure(pull(&mut canal, 10)?.is_empty(), "what was done comes again")?;
    if canal.promises().remembered {
        let consumers = store.consumers().unwrap();
        let known = consumers.first().ok_or("nothing is remembered")?;
        ensure((known.lag, known.in_flight) == (0, 0), "what was settled and flushed is not remembered")?;
        ensure(known.position.get() > 6, "the position is not remembered")?;
    }
    canal.settle_all(&[]).map(drop).map_err(|error| error.to_string())
}

/// The contract of a canal whose settlements go with commits.
pub(crate) fn commits<C: Transact>(open: impl Fn(&Store) -> C) -> Result<(), String> {
    let dir = Scratch::new();
    let store = dir.open();
    let (mut canal, mut other) = (open(&store), open(&store));
    append(&store, 1..=4);
    let batch = pull(&mut canal, 2)?;
    let tokens: Vec<Token> = batch.iter().map(|one| one.token()).collect();
    let foreign = pull(&mut other, 4)?.last().ok_or("a second canal gets nothing")?;
    let result = || {
        let mut commit = Commit::new();
        commit.event("result-1", NewEvent::new("counted", ""));
        commit
    };
    let results = || store.revision("result-1").unwrap().get();

    let conflict = canal.commit_and_settle(result().expect("cart-1", Expected::Absent), &tokens);
    ensure(matches!(conflict, Err(Error::Conflict { .. })), "a commit that has to be refused was not")?;
    let keyed = canal.commit_and_settle(result().key("once"), &tokens);
    ensure(matches!(keyed, Err(Error::Invalid { .. })), "an idempotency key was accepted")?;
    let of_another = canal.commit_and_settle(&mut result(), &[tokens[0], foreign]);
    ensure(is_refused(of_another.map(drop)), "a delivery of another canal was settled")?;
    ensure(results() == 0, "a refused commit was written")?;

    let mut commit = result();
    let receipt = canal.commit_and_settle(&mut commit, &tokens).map_err(|error| error.to_string())?;
    ensure(results() == 1 && receipt.revision().get() == 1, "the commit was not written")?;
    ensure(commit.len() == 1, "the commit is another one now")?;
    if canal.promises().counted {
        let twice = canal.commit_and_settle(&mut commit, &tokens);
        ensure(is_refused(twice.map(drop)) && results() == 1, "a delivery was settled twice")?;
    }
    let rest = pull(&mut canal, 10)?;
    ensure(positions(&rest) == [3, 4], "what was done comes again, or something is missing")?;
    let tokens: Vec<Token> = rest.iter().map(|one| one.token()).collect();
    canal.commit_and_settle(&mut Commit::new(), &tokens).map_err(|error| error.to_string())?;
    ensure(pull(&mut canal, 10)?.is_empty(), "what was done comes again")?;
    let consumers = store.consumers().unwrap();
    let known = consumers.first().ok_or("nothing is remembered")?;
    ensure(known.position.get() > 4 && known.in_flight == 0, "what was settled is not remembered")
}

fn pull(canal: &mut impl Canal, max: usize) -> Result<Batch, String> {
    canal.pull_batch(max, Duration::ZERO).map_err(|error| error.to_string())
}

fn token(batch: &Batch, position: u64) -> Result<Token, String> {
    let event = batch.iter().find(|event| event.position().get() == position).ok_or("the event is missing")?;
    Ok(event.token())
}

fn settle(canal: &mut impl Canal, batch: &Batch, position: u64, what: Settlement) -> Result<(), String> {
    canal.settle(token(batch, position)?, what).map_err(|error| error.to_string())
}

/// Whether something was done where it was promised, and refused as such where it was not.
fn kept(done: Result<()>, promised: bool) -> Result<bool, String> {
    match done {
        Ok(()) => Ok(promised),
        Err(Error::NotPromised { .. }) => Ok(!promised),
        Err(other) => Err(other.to_string()),
    }
}

fn is_refused(settled: Result<()>) -> bool {
    matches!(settled, Err(Error::NotDelivered { .. } | Error::NotHeld { .. }))
}

fn positions(batch: &Batch) -> Vec<u64> {
    batch.iter().map(|event| event.position().get()).collect()
}

fn append(store: &Store, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        store.append("cart-1", NewEvent::new("item added", &number.to_le_bytes())).unwrap();
    }
}

fn ensure(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

fn from_now(store: &Store) -> Start {
    Start::At(store.head().next())
}

/// A name that was not used before.
fn names() -> impl Fn() -> String {
    let used = Cell::new(0);
    move || {
        used.set(used.get() + 1);
        format!("consumer {}", used.get())
    }
}

#[test]
fn a_cursor_keeps_the_contract_of_a_canal() {
    keeps(|store| store.follow().open().unwrap()).unwrap();
    let name = names();
    keeps(|store| store.cursor(name()).open().unwrap()).unwrap();
    commits(|store| store.cursor(name()).filter(Query::new().stream("cart-1")).open().unwrap()).unwrap();
    let unnamed = commits(|store| store.follow().open().unwrap());
    assert!(unnamed.is_err(), "control: it cannot keep it");
}

#[test]
fn a_member_of_a_group_keeps_the_contract_of_a_canal() {
    let name = names();
    for order in [Order::None, Order::Stream, Order::Tag("customer:".to_owned())] {
        let open = |store: &Store| {
            let group = store.group(name()).order(order.clone()).start(from_now(store));
            group.filter(Query::new().stream("cart-1")).open().unwrap().member().unwrap()
        };
        keeps(open).unwrap_or_else(|why| panic!("{order:?}: {why}"));
        commits(open).unwrap_or_else(|why| panic!("{order:?}: {why}"));
    }
}

/// One of several members, of which the others have left or have nothing.
#[test]
fn one_member_among_several_keeps_the_contract_of_a_canal() {
    let name = names();
    let idle: std::cell::RefCell<Vec<Member>> = std::cell::RefCell::default();
    let open = |store: &Store| {
        let group = store.group(name()).filter(Query::new().stream("cart-1")).open().unwrap();
        idle.borrow_mut().push(group.member().unwrap());
        drop(group.member().unwrap());
        group.member().unwrap()
    };
    keeps(open).unwrap();
    commits(open).unwrap();
}

#[test]
fn a_subscription_keeps_the_contract_of_a_canal() {
    keeps(|store| store.subscribe().open().unwrap()).unwrap();
}

/// What a bad canal does wrong.
#[derive(Clone, Copy, Debug)]
enum Flaw {
    LosesTheFirst,
    IgnoresTheMaximum,
    ForgetsRelease,
    ForgetsRetry,
    ForgetsRejects,
    ForgetsSettleAll,
    SettlesAnything,
    ExtendsAnything,
    EndsWhenEmpty,
    ClosesAtOnce,
    NeverCloses,
}

/// A canal with a flaw.
struct Flawed<C> {
    canal: C,
    store: Store,
    flaw: Flaw,
    pulls: u32,
    ended: bool,
}

impl<C: Canal> Canal for Flawed<C> {
    fn pull_batch(&mut self, max: usize, patience: Duration) -> Result<Batch> {
        self.pulls += 1;
        let mut refused_anyway = Commit::new();
        refused_anyway.event("probe", NewEvent::new("x", "")).expect("probe", Expected::Exact(Revision::new(99)));
        let is_closed = matches!(self.store.commit(&refused_anyway), Err(Error::Closed));
        match self.flaw {
            Flaw::LosesTheFirst if self.pulls == 2 => drop(self.canal.pull_batch(1, patience)?),
            Flaw::IgnoresTheMaximum => return self.canal.pull_batch(max + 1, patience),
            Flaw::EndsWhenEmpty if self.ended => return Ok(Batch::default()),
            Flaw::ClosesAtOnce if is_closed => return Err(Error::Closed),
            Flaw::NeverCloses if is_closed => {
                return self.canal.pull_batch(max, patience).or_else(|_| Ok(Batch::default()));
            }
            _ => {}
        }
        let batch = self.canal.pull_batch(max, patience)?;
        self.ended |= batch.is_empty();
        Ok(batch)
    }

    fn settle(&mut self, token: Token, settlement: Settlement) -> Result<()> {
        match (self.flaw, settlement.clone()) {
            (Flaw::ForgetsRelease, Settlement::Release) => {
                let probe = self.canal.settle(token, Settlement::Done);
                if is_refused(probe.clone()) { probe } else { Ok(()) }
            }
            (Flaw::ForgetsRetry, Settlement::Retry { .. }) => self.canal.settle(token, Settlement::Done),
            (Flaw::ForgetsRejects, Settlement::Reject { .. }) => self.canal.settle(token, Settlement::Done),
            (Flaw::SettlesAnything, _) => self.canal.settle(token, settlement).or(Ok(())),
            _ => self.canal.settle(token, settlement),
        }
    }

    fn settle_all(&mut self, tokens: &[Token]) -> Result<Vec<Error>> {
        let most = if matches!(self.flaw, Flaw::ForgetsSettleAll) { tokens.len().min(1) } else { tokens.len() };
        self.canal.settle_all(&tokens[..most])
    }

    fn extend(&mut self, token: Token, lease: Duration) -> Result<()> {
        let extended = self.canal.extend(token, lease);
        if matches!(self.flaw, Flaw::ExtendsAnything) { Ok(()) } else { extended }
    }

    fn flush(&mut self) -> Result<()> {
        self.canal.flush()
    }

    fn promises(&self) -> Promises {
        self.canal.promises()
    }
}

/// The control of the contract.
#[test]
fn a_canal_that_breaks_the_contract_is_found_out() {
    for (flaw, told) in [
        (Flaw::LosesTheFirst, "a batch is not the next events"),
        (Flaw::IgnoresTheMaximum, "a batch is not the next events"),
        (Flaw::ForgetsRelease, "what was released does not come again"),
        (Flaw::ForgetsRetry, "what is to be tried again does not come"),
        (Flaw::ForgetsSettleAll, "what was settled and flushed is not remembered"),
        (Flaw::SettlesAnything, "rejecting is not what was promised"),
        (Flaw::ExtendsAnything, "extending a lease is not what was promised"),
        (Flaw::EndsWhenEmpty, "an empty batch was taken for the end"),
        (Flaw::ClosesAtOnce, "the store is closed"),
        (Flaw::NeverCloses, "a closed canal does not say so"),
    ] {
        let name = names();
        let kept = keeps(|store| flawed(flaw, store, store.cursor(name()).open().unwrap()));
        assert!(kept.as_ref().is_err_and(|why| why.contains(told)), "{flaw:?}: {kept:?}");
    }
    for (flaw, told) in [
        (Flaw::LosesTheFirst, "a batch is not the next events"),
        (Flaw::ForgetsRelease, "what was released does not come again"),
        (Flaw::ForgetsRetry, "what is to be tried again does not come"),
        (Flaw::ForgetsRejects, "a rejected delivery is not one dead letter"),
        (Flaw::ForgetsSettleAll, "what was settled and flushed is not remembered"),
        (Flaw::SettlesAnything, "a delivery was settled twice"),
        (Flaw::ExtendsAnything, "a delivery of another canal was extended"),
        (Flaw::NeverCloses, "a closed canal does not say so"),
    ] {
        let name = names();
        let kept = keeps(|store| flawed(flaw, store, store.group(name()).open().unwrap().member().unwrap()));
        assert!(kept.as_ref().is_err_and(|why| why.contains(told)), "{flaw:?}: {kept:?}");
    }
}

fn flawed<C: Canal>(flaw: Flaw, store: &Store, canal: C) -> Flawed<C> {
    Flawed { canal, store: store.clone(), flaw, pulls: 0, ended: false }
}
