//! What every canal keeps, whatever stands behind it. Written over `impl Canal`, so that each new one can be held to it.

use std::time::Duration;

use towpath::{
    Batch, Canal, Commit, Error, Expected, NewEvent, Promises, Query, Result, Revision, Settlement, Store, Token,
};

use crate::support::Scratch;

/// Takes a canal through the contract: `open` begins a new one at the beginning of the store each time, which is empty.
///
/// Says what was not kept.
pub(crate) fn keeps<C: Canal>(open: impl Fn(&Store) -> C) -> Result<(), String> {
    let dir = Scratch::new();
    let store = dir.open();
    let mut canal = open(&store);
    let mut second = open(&store);

    let nothing = pull(&mut canal, 10)?;
    ensure(nothing.is_empty(), "events came out of an empty store")?;
    ensure(nothing.last().is_none(), "an empty batch names a delivery")?;

    append(&store, 1..=7);
    let batch = pull(&mut canal, 3)?;
    ensure(!batch.is_empty(), "an empty batch was taken for the end")?;
    ensure(positions(&batch) == [1, 2, 3], "a batch is not the next events, up to as many as asked for")?;
    ensure(batch.iter().map(|event| event.token()).last() == batch.last(), "the last token is another one")?;
    let beyond = pull(&mut second, 7)?.last().ok_or("a second canal gets nothing")?;
    ensure(is_refused(canal.settle(beyond, Settlement::Done)), "a delivery of another canal was settled")?;
    ensure(is_refused(canal.settle(beyond, Settlement::Release)), "a delivery of another canal was released")?;
    settle(&mut canal, &batch, 2, Settlement::Done).map_err(|error| error.to_string())?;
    let released = settle(&mut canal, &batch, 3, Settlement::Release);
    let comes_again = canal.promises().lossless;
    if comes_again {
        released.map_err(|error| error.to_string())?;
    } else {
        ensure(matches!(released, Err(Error::NotPromised { .. })), "a release that is not promised is not refused")?;
    }

    let again = pull(&mut canal, 10)?;
    let again = positions(&again);
    ensure(again.contains(&3) == comes_again, "what was released does not come again, or what was refused does")?;
    ensure(!again.contains(&2), "what was done comes again")?;
    if canal.promises().ordered {
        ensure(
            again.iter().copied().eq(if comes_again { 3..=7 } else { 4..=7 }),
            "events are out of order, or missing",
        )?;
    }
    ensure(pull(&mut canal, 10)?.is_empty(), "an event came twice")?;

    append(&store, 8..=9);
    store.close().map_err(|error| error.to_string())?;
    let last = pull(&mut canal, 10)?;
    ensure(positions(&last) == [8, 9], "a closed canal does not hand out what was there")?;
    let closed = canal.pull_batch(10, Duration::MAX);
    ensure(matches!(closed, Err(Error::Closed)), "a closed canal does not say so")
}

fn pull(canal: &mut impl Canal, max: usize) -> Result<Batch, String> {
    canal.pull_batch(max, Duration::ZERO).map_err(|error| error.to_string())
}

fn settle(canal: &mut impl Canal, batch: &Batch, position: u64, what: Settlement) -> Result<()> {
    let event = batch.iter().find(|event| event.position().get() == position);
    canal.settle(event.map(|event| event.token()).expect("these came just now"), what)
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

#[test]
fn a_cursor_keeps_the_contract_of_a_canal() {
    keeps(|store| store.follow().open().unwrap()).unwrap();
    let names = std::cell::Cell::new(0);
    keeps(|store| {
        names.set(names.get() + 1);
        store.cursor(format!("consumer {}", names.get())).open().unwrap()
    })
    .unwrap();
}

#[test]
fn a_subscription_keeps_the_contract_of_a_canal() {
    keeps(|store| store.subscribe().open().unwrap()).unwrap();
    keeps(|store| store.subscribe().filter(Query::new().subject("*")).capacity(7).open().unwrap()).unwrap();
}

/// What a bad canal does wrong.
#[derive(Clone, Copy, Debug)]
enum Flaw {
    LosesTheFirst,
    IgnoresTheMaximum,
    ForgetsRelease,
    SettlesAnything,
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
            (Flaw::SettlesAnything, _) => self.canal.settle(token, settlement).or(Ok(())),
            _ => self.canal.settle(token, settlement),
        }
    }

    fn extend(&mut self, token: Token, lease: Duration) -> Result<()> {
        self.canal.extend(token, lease)
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
        (Flaw::SettlesAnything, "a delivery of another canal was settled"),
        (Flaw::EndsWhenEmpty, "an empty batch was taken for the end"),
        (Flaw::ClosesAtOnce, "the store is closed"),
        (Flaw::NeverCloses, "a closed canal does not say so"),
    ] {
        let kept = keeps(|store| Flawed {
            canal: store.follow().open().unwrap(),
            store: store.clone(),
            flaw,
            pulls: 0,
            ended: false,
        });
        assert!(kept.as_ref().is_err_and(|why| why.contains(told)), "{flaw:?}: {kept:?}");
    }
}
