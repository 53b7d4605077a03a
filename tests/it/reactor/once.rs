//! X2: what a handler appends and the settlement are one commit. Killing at every moment is in `tests/kills.rs`.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use towpath::{
    Batch, Canal, Commit, Delivery, Error, Expected, Failure, Group, ManualClock, Member, NewEvent, Options, Promises,
    Query, Reactor, Receipt, Result, Revision, Settlement, Store, Timestamp, Token, Transact,
};

use super::{FINE, at_once, letters, noting};
use crate::support::Scratch;

/// Orders of five customers, `o-0` to `o-4`, one after the other.
fn with_orders(dir: &Scratch, orders: u64) -> Store {
    let store = dir.open();
    for number in 0..orders {
        store.append(&format!("o-{}", number % 5), NewEvent::new("ordered", "")).unwrap();
    }
    store
}

fn orders() -> Query {
    Query::new().category("o")
}

fn group(store: &Store) -> Group {
    let group = store.group("billing").filter(orders()).order(towpath::Order::Stream);
    group.retry(at_once(3)).open().unwrap()
}

/// Adds a bill for an order, which bears its position.
fn bill(order: &Delivery<'_>, commit: &mut Commit) {
    let bill = order.position().to_string();
    commit.event(&format!("bill-{}", order.stream()), NewEvent::new("billed", &bill));
}

/// How many bills there are for each order.
fn bills(store: &Store) -> BTreeMap<u64, u32> {
    let mut bills = BTreeMap::new();
    for event in store.read(Query::new().category("bill")) {
        let order: u64 = std::str::from_utf8(event.unwrap().payload()).unwrap().parse().unwrap();
        *bills.entry(order).or_default() += 1;
    }
    bills
}

fn one_each(orders: impl IntoIterator<Item = u64>) -> BTreeMap<u64, u32> {
    orders.into_iter().map(|order| (order, 1)).collect()
}

/// Takes turns until nothing comes.
fn all<C: Transact, H: towpath::Handler<C>>(reactor: &mut Reactor<C, H>) {
    while reactor.turn(Duration::ZERO).unwrap().pulled > 0 {}
}

#[test]
fn the_results_of_a_batch_and_its_settlement_are_one_commit() {
    let dir = Scratch::new();
    let store = with_orders(&dir, 10);
    let mut over_group = Reactor::exactly_once(group(&store).member().unwrap(), |order, commit| {
        bill(order, commit);
        FINE
    });
    assert_eq!(over_group.turn(Duration::ZERO).unwrap().done, 10);
    assert_eq!(bills(&store), one_each(1..=10));
    // All of them, or none: whatever a killed process leaves behind shows both or neither.
    let left = dir.as_if_killed();
    let store = left.open();
    let mut again = Reactor::exactly_once(group(&store).member().unwrap(), |_, _| FINE);
    assert_eq!(again.turn(Duration::ZERO).unwrap().pulled, 0);
    assert_eq!(bills(&store), one_each(1..=10));
}

/// Fails at order 4, first with an error and then with a panic, each after it has added its bill.
fn failing_twice() -> impl FnMut(&Delivery<'_>, &mut Commit) -> Result<(), Failure> {
    let mut runs = 0;
    move |order, commit| {
        bill(order, commit);
        runs += u32::from(order.position().get() == 4);
        match (order.position().get(), runs) {
            (4, 1) => Err(Failure::retry("out of paper")),
            (4, 2) => panic!("out of ink"),
            _ => Ok(()),
        }
    }
}

#[test]
fn a_failing_delivery_takes_its_own_results_back_and_nothing_else() {
    let dir = Scratch::new();
    let store = with_orders(&dir, 10);
    let mut reactor = Reactor::exactly_once(group(&store).member().unwrap(), failing_twice());
    // 4 and 9 are of one stream.
    let first = reactor.turn(Duration::ZERO).unwrap();
    assert_eq!((first.done, first.retried, first.released), (8, 1, 1));
    assert_eq!(bills(&store), one_each([1, 2, 3, 5, 6, 7, 8, 10]));
    all(&mut reactor);
    assert_eq!(bills(&store), one_each(1..=10));
    let of_stream = store.read(Query::new().stream("bill-o-3")).map(|event| event.unwrap().payload().to_vec());
    assert_eq!(of_stream.collect::<Vec<_>>(), [b"4", b"9"], "in order");
}

#[test]
fn the_same_over_a_cursor_keeps_the_order_of_the_log() {
    let dir = Scratch::new();
    let store = with_orders(&dir, 10);
    let cursor = store.cursor("billing").filter(orders()).open().unwrap();
    let mut reactor = Reactor::exactly_once(cursor, failing_twice()).retry(at_once(3));
    let first = reactor.turn(Duration::ZERO).unwrap();
    assert_eq!((first.done, first.retried, first.released), (3, 1, 6));
    assert_eq!(bills(&store), one_each(1..=3));
    all(&mut reactor);
    let all: Vec<u64> = store
        .read(Query::new().category("bill"))
        .map(|event| std::str::from_utf8(event.unwrap().payload()).unwrap().parse().unwrap())
        .collect();
    assert!(all.iter().copied().eq(1..=10), "{all:?}");
}

/// The commit of one of them cannot be written, over and over: the others are, and that one becomes a dead letter.
#[test]
fn a_commit_that_is_refused_is_split_down_to_the_one_whose_results_are_refused() {
    let dir = Scratch::new();
    let store = with_orders(&dir, 16);
    let name = "x".repeat(2000);
    let mut runs = 0;
    let mut reactor = Reactor::exactly_once_batches(group(&store).member().unwrap(), |orders, commit| {
        for order in orders {
            bill(order, commit);
            if order.position().get() == 6 {
                runs += u32::from(orders.len() == 1);
                commit.event("taken", NewEvent::new("x", "")).expect("taken", Expected::Exact(Revision::new(9)));
            }
        }
        FINE
    });
    all(&mut reactor);
    drop(reactor);
    assert_eq!(runs, 3);
    // 6, 11 and 16 are of one stream; what follows the dead letter goes on.
    assert_eq!(bills(&store), one_each((1..=16).filter(|order| *order != 6)));
    let letters = letters(&store);
    assert!(matches!(&letters[..], [(6, why)] if why.contains("stream taken is at revision 0")), "{letters:?}");

    let mut alone = Reactor::exactly_once(store.cursor("single").filter(orders()).open().unwrap(), |order, commit| {
        bill(order, commit);
        if order.position().get() == 3 {
            commit.event(&name, NewEvent::new("x", ""));
        }
        FINE
    });
    match alone.turn(Duration::ZERO) {
        Err(Error::Handler { position, why }) => assert!(position.get() == 3 && why.contains("stream name"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(bills(&store).values().filter(|bills| **bills == 2).count(), 2, "1 and 2 were billed once more");
}

/// Each decides on what came of those before it, in the same batch, too.
#[test]
fn a_handler_that_sets_conditions_sees_what_those_before_it_added() {
    for (batch, conditions) in [(256, true), (3, true), (1, false), (256, false)] {
        let dir = Scratch::new();
        let store = with_orders(&dir, 20);
        let (mut calls, reads) = (0, store.clone());
        let mut reactor = Reactor::exactly_once(group(&store).member().unwrap(), |_, commit| {
            calls += 1;
            let revision = reads.revision("counter")?;
            commit.event("counter", NewEvent::new("counted", &revision.to_string()));
            if conditions {
                commit.expect("counter", Expected::Exact(revision));
            }
            Ok::<(), Failure>(())
        })
        .batch(batch);
        all(&mut reactor);
        drop(reactor);
        let counts: Vec<u64> = store
            .read(Query::new().stream("counter"))
            .map(|event| std::str::from_utf8(event.unwrap().payload()).unwrap().parse().unwrap())
            .collect();
        // The control is the one without conditions and with a batch: its results are blind to each other.
        assert_eq!(counts.iter().copied().eq(0..20), conditions || batch == 1, "{batch}: {counts:?}");
        assert_eq!(counts.len(), 20);
        assert_eq!(calls, 20, "none was tried twice: the first one showed that there are conditions");
        assert!(letters(&store).is_empty());
    }
}

/// Conditions that show late: the one call more that the docs speak of.
#[test]
fn the_first_handler_call_with_a_condition_behind_others_is_made_again() {
    let dir = Scratch::new();
    let store = with_orders(&dir, 6);
    let (mut calls, reads) = (Vec::new(), store.clone());
    let mut reactor = Reactor::exactly_once(group(&store).member().unwrap(), |order: &Delivery<'_>, commit| {
        calls.push(order.position().get());
        let revision = reads.revision("counter")?;
        commit.event("counter", NewEvent::new("counted", ""));
        if order.position().get() >= 3 {
            commit.expect("counter", Expected::Exact(revision));
        }
        Ok::<(), Failure>(())
    });
    let turn = reactor.turn(Duration::ZERO).unwrap();
    drop(reactor);
    assert_eq!((turn.done, turn.retried), (6, 0));
    assert_eq!(calls, [1, 2, 3, 3, 4, 5, 6]);
    assert_eq!(store.revision("counter").unwrap().get(), 6);
}

#[test]
fn what_was_taken_away_leaves_no_results() {
    for whole in [false, true] {
        let (dir, clock) = (Scratch::new(), Arc::new(ManualClock::at(Timestamp::from_nanos(1))));
        let store = Options::new().clock(clock.clone()).open(dir.store_path()).unwrap();
        for number in 0..4 {
            store.append(&format!("o-{number}"), NewEvent::new("ordered", "")).unwrap();
        }
        let group = store.group("billing").filter(orders()).lease(Duration::from_secs(1)).open().unwrap();
        let ((say, hears), mut thief) = (mpsc::channel(), group.member().unwrap());
        let member = group.member().unwrap();
        let mut time = 1;
        let mut steal = move |order: u64| {
            // All but the lease of one run out, and somebody else gets them.
            if order == 2 {
                time += 2_000_000_000;
                clock.set(Timestamp::from_nanos(time));
                let stolen = thief.pull_batch(1, Duration::ZERO).unwrap();
                assert_eq!(stolen.len(), 1);
            }
        };
        let turn = if whole {
            Reactor::exactly_once_batches(member, |orders, commit| {
                for order in orders {
                    bill(order, commit);
                    steal(order.position().get());
                }
                FINE
            })
            .watch(noting(&say))
            .turn(Duration::ZERO)
        } else {
            Reactor::exactly_once(member, |order, commit| {
                bill(order, commit);
                steal(order.position().get());
                FINE
            })
            .watch(noting(&say))
            .turn(Duration::ZERO)
        };
        let turn = turn.unwrap();
        assert_eq!((turn.done, turn.late), (0, 4), "all leases had run out");
        assert_eq!(bills(&store), BTreeMap::new());
        assert_eq!(hears.try_iter().filter(|line| line.ends_with("late")).count(), 4);
    }
}

/// A handler that is slower than its leases loses every batch. That it is not called again for each delivery of it, for
/// nothing each time, is what lets it be stopped.
#[test]
fn a_batch_that_outlasts_its_leases_is_given_back_and_not_handled_once_for_each_delivery() {
    let (dir, clock) = (Scratch::new(), Arc::new(ManualClock::at(Timestamp::from_nanos(1))));
    let store = Options::new().clock(clock.clone()).open(dir.store_path()).unwrap();
    for number in 0..20 {
        store.append(&format!("o-{number}"), NewEvent::new("ordered", "")).unwrap();
    }
    let group = store.group("billing").filter(orders()).lease(Duration::from_secs(1)).open().unwrap();
    let (mut calls, mut time) = (Vec::new(), 1);
    let mut reactor = Reactor::exactly_once_batches(group.member().unwrap(), |orders, commit| {
        calls.push(orders.len());
        time += 2_000_000_000;
        clock.set(Timestamp::from_nanos(time));
        orders.iter().for_each(|order| bill(order, commit));
        FINE
    });
    let turn = reactor.turn(Duration::ZERO).unwrap();
    drop(reactor);
    assert_eq!((turn.done, turn.late), (0, 20));
    assert_eq!(calls, [20, 19], "once more, because only one might have been lost");
    assert_eq!(bills(&store), BTreeMap::new());
    all(&mut Reactor::exactly_once(group.member().unwrap(), |order: &Delivery<'_>, commit: &mut Commit| {
        bill(order, commit);
        FINE
    }));
    assert_eq!(bills(&store), one_each(1..=20), "the control: nothing is gone");
}

#[test]
fn a_cursor_without_a_name_cannot_be_exactly_once_and_says_so() {
    let dir = Scratch::new();
    let store = with_orders(&dir, 2);
    let mut reactor = Reactor::exactly_once(store.follow().open().unwrap(), |order, commit| {
        bill(order, commit);
        FINE
    });
    assert!(matches!(reactor.turn(Duration::ZERO), Err(Error::NotPromised { .. })));
    assert_eq!(bills(&store), BTreeMap::new());
}

/// A member from which another one takes a delivery at the moment of its first commit.
struct Robbed {
    member: Member,
    loses: usize,
    robbed: bool,
}

impl Transact for Robbed {
    fn commit_and_settle(&mut self, commit: &mut Commit, done: &[Token]) -> Result<Receipt> {
        if !std::mem::replace(&mut self.robbed, true) {
            self.member.settle(done[self.loses], Settlement::Release)?;
        }
        self.member.commit_and_settle(commit, done)
    }
}

impl Canal for Robbed {
    fn pull_batch(&mut self, max: usize, patience: Duration) -> Result<Batch> {
        self.member.pull_batch(max, patience)
    }

    fn settle(&mut self, token: Token, settlement: Settlement) -> Result<()> {
        self.member.settle(token, settlement)
    }

    fn extend(&mut self, token: Token, lease: Duration) -> Result<()> {
        self.member.extend(token, lease)
    }

    fn flush(&mut self) -> Result<()> {
        self.member.flush()
    }

    fn promises(&self) -> Promises {
        self.member.promises()
    }
}

#[test]
fn one_delivery_that_was_taken_away_does_not_hold_up_the_results_of_the_others() {
    for whole in [false, true] {
        for loses in 0..5 {
            let dir = Scratch::in_memory();
            let store = with_orders(&dir, 5);
            let group = group(&store);
            let canal = Robbed { member: group.member().unwrap(), loses, robbed: false };
            let each = |order: &Delivery<'_>, commit: &mut Commit| {
                bill(order, commit);
                FINE
            };
            let turn = if whole {
                let all = |orders: &[Delivery<'_>], commit: &mut Commit| {
                    orders.iter().for_each(|order| bill(order, commit));
                    FINE
                };
                Reactor::exactly_once_batches(canal, all).turn(Duration::ZERO).unwrap()
            } else {
                Reactor::exactly_once(canal, each).turn(Duration::ZERO).unwrap()
            };
            assert_eq!((turn.done, turn.late), (4, 1));
            let late = loses as u64 + 1;
            assert_eq!(bills(&store), one_each((1..=5).filter(|order| *order != late)), "without that one, once each");
            all(&mut Reactor::exactly_once(group.member().unwrap(), each));
            assert_eq!(bills(&store), one_each(1..=5));
        }
    }
}
