//! What a failing delivery leads to, over groups and cursors (X1, G11, G12, G15).

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use towpath::{
    Batch, Canal, Commit, Cursor, Delivery, Error, Failure, ManualClock, NewEvent, Options, Order, Position, Promises,
    Reactor, Reason, Result, Retry, Settlement, Stop, Timestamp, Token,
};

use super::{FINE, at_once, group, letters, noting, with_events};
use crate::support::Scratch;

/// X1, G11.
#[test]
fn a_panic_of_the_handler_is_an_attempt_and_the_reactor_lives_on() {
    let dir = Scratch::new();
    let store = dir.open();
    for stream in ["a-1", "b-1", "c-1", "b-1"] {
        store.append(stream, NewEvent::new("happened", "")).unwrap();
    }
    let (mut runs, (say, hears)) = (BTreeMap::<u64, u32>::new(), mpsc::channel());
    let mut reactor = Reactor::new(group(&store).member().unwrap(), |event: &Delivery<'_>| {
        *runs.entry(event.position().get()).or_default() += 1;
        assert_ne!(event.position().get(), 2, "the handler's own trouble");
        FINE
    })
    .watch(noting(&say));

    let first = reactor.turn(Duration::ZERO).unwrap();
    assert_eq!((first.pulled, first.done, first.retried, first.released), (4, 2, 1, 1));
    let mut done = first.done;
    while done < 3 {
        done += reactor.turn(Duration::ZERO).unwrap().done;
    }
    assert_eq!(reactor.turn(Duration::ZERO).unwrap().pulled, 0);
    drop(reactor);

    // Exactly three runs of the one; the control is the others, with one each.
    assert_eq!(runs, BTreeMap::from([(1, 1), (2, 3), (3, 1), (4, 1)]));
    let told: Vec<String> = hears.try_iter().collect();
    assert!(told[0].starts_with("2 panicked at attempt 1: the handler panicked: ") && told.len() == 3, "{told:?}");
    assert!(told[0].contains("the handler's own trouble"), "{told:?}");
    assert!(letters(&store).iter().all(|(position, why)| *position == 2 && why.contains("own trouble")));
    assert_eq!(letters(&store).len(), 1);
}

/// X1: over a cursor, which counts nothing itself.
#[test]
fn a_panic_over_a_cursor_is_tried_again_and_in_the_end_ends_the_turn() {
    let dir = Scratch::new();
    let store = with_events(&dir, 4);
    let mut seen = Vec::new();
    let mut reactor = Reactor::new(store.cursor("mail").open().unwrap(), |event: &Delivery<'_>| {
        seen.push(event.position().get());
        assert_ne!(event.position().get(), 3, "the handler's own trouble");
        FINE
    })
    .retry(at_once(2));

    let first = reactor.turn(Duration::ZERO).unwrap();
    assert_eq!((first.done, first.retried, first.released), (2, 1, 1));
    match reactor.turn(Duration::ZERO) {
        Err(Error::Handler { position, why }) => assert!(position.get() == 3 && why.contains("own trouble"), "{why}"),
        other => panic!("{other:?}"),
    }
    drop(reactor);
    assert_eq!(seen, [1, 2, 3, 3]);
    let mut cursor = store.cursor("mail").open().unwrap();
    let again = cursor.pull_batch(10, Duration::ZERO).unwrap();
    assert_eq!(again.iter().map(|event| event.position().get()).collect::<Vec<_>>(), [3, 4]);
}

#[test]
fn a_cursor_without_a_policy_ends_at_the_first_panic() {
    let dir = Scratch::new();
    let store = with_events(&dir, 2);
    let cursor = store.cursor("mail").open().unwrap();
    let mut reactor = Reactor::new(cursor, |_: &Delivery<'_>| -> Result<(), Failure> { panic!("at once") });
    assert!(matches!(reactor.turn(Duration::ZERO), Err(Error::Handler { why, .. }) if why.ends_with("at once")));
}

/// G12: what follows a failed one under its key is not handled before it.
#[test]
fn what_follows_a_failed_delivery_under_its_key_waits_and_the_others_go_on() {
    let dir = Scratch::new();
    let store = dir.open();
    for stream in ["a-1", "b-1", "a-1", "b-1", "c-1", "a-1"] {
        store.append(stream, NewEvent::new("happened", "")).unwrap();
    }
    let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut failed = false;
    let mut reactor = Reactor::new(group(&store).member().unwrap(), |event: &Delivery<'_>| {
        seen.entry(event.stream().to_owned()).or_default().push(event.position().get());
        let fail = event.position().get() == 1 && !std::mem::replace(&mut failed, true);
        if fail { Err(Failure::retry("once")) } else { Ok(()) }
    });

    let first = reactor.turn(Duration::ZERO).unwrap();
    assert_eq!((first.done, first.retried, first.released), (3, 1, 2));
    let second = reactor.turn(Duration::ZERO).unwrap();
    assert_eq!((second.done, second.retried, second.released), (3, 0, 0));
    drop(reactor);
    assert_eq!(seen["a-1"], [1, 1, 3, 6], "the key that failed");
    assert_eq!((&seen["b-1"][..], &seen["c-1"][..]), (&[2, 4][..], &[5][..]), "the control: the others, once");
    assert!(letters(&store).is_empty());
}

#[test]
fn a_rejection_makes_a_dead_letter_and_its_key_goes_on() {
    let dir = Scratch::new();
    let store = with_events(&dir, 3);
    let mut reactor =
        Reactor::new(group(&store).member().unwrap(), |event: &Delivery<'_>| match event.position().get() {
            1 => Err(Failure::reject(Reason::TooLarge, "it does not fit")),
            2 => Err(event.decode::<std::net::IpAddr>().unwrap_err().into()),
            _ => Ok(()),
        });
    let turn = reactor.turn(Duration::ZERO).unwrap();
    assert_eq!((turn.rejected, turn.done, turn.released), (2, 1, 0));
    reactor.into_canal().flush().unwrap();
    let reasons: Vec<Reason> =
        store.dead_letters("billing").unwrap().iter().unwrap().map(|letter| letter.unwrap().reason()).collect();
    assert_eq!(reasons, [Reason::TooLarge, Reason::Undecodable]);
}

#[test]
fn a_group_that_parks_hands_nothing_of_a_rejected_key_to_the_handler() {
    let dir = Scratch::new();
    let store = with_events(&dir, 3);
    let group = store.group("billing").order(Order::Stream).on_failure(towpath::OnFailure::Park).open().unwrap();
    let mut seen = Vec::new();
    let mut reactor = Reactor::new(group.member().unwrap(), |event: &Delivery<'_>| {
        seen.push(event.position().get());
        Err::<(), _>(Failure::reject(Reason::Rejected, "no"))
    });
    assert_eq!(reactor.turn(Duration::ZERO).unwrap().rejected, 1);
    assert_eq!(reactor.turn(Duration::ZERO).unwrap().pulled, 0);
    drop(reactor);
    assert_eq!(seen, [1]);
    assert_eq!(letters(&store).len(), 3);
}

#[test]
fn a_policy_of_the_reactor_replaces_the_waits_of_a_group_and_its_attempts_when_they_are_fewer() {
    let (dir, clock) = (Scratch::new(), Arc::new(ManualClock::at(Timestamp::from_nanos(1))));
    let store = Options::new().clock(clock.clone()).open(dir.store_path()).unwrap();
    store.append("a-1", NewEvent::new("happened", "")).unwrap();
    let group = store.group("billing").retry(Retry::fixed(Duration::from_secs(1)).attempts(5)).open().unwrap();
    let mut runs = 0;
    let mut reactor = Reactor::new(group.member().unwrap(), |_: &Delivery<'_>| {
        runs += 1;
        Err::<(), _>(Failure::retry("no"))
    })
    .retry(Retry::fixed(Duration::from_secs(60)).attempts(2));

    assert_eq!(reactor.turn(Duration::ZERO).unwrap().retried, 1);
    clock.set(Timestamp::from_nanos(59_000_000_000));
    assert_eq!(reactor.turn(Duration::ZERO).unwrap().pulled, 0, "not after the group's own wait");
    clock.set(Timestamp::from_nanos(61_000_000_000));
    assert_eq!(reactor.turn(Duration::ZERO).unwrap().rejected, 1);
    drop(reactor);
    assert_eq!((runs, letters(&store).len()), (2, 1));
}

/// G15: over every place and several of them, and both kinds of canals.
#[test]
fn a_failing_batch_is_split_until_the_bad_one_alone_is_left() {
    for bad in [vec![1], vec![7], vec![16], vec![4, 5, 11], vec![]] {
        let dir = Scratch::in_memory();
        let store = dir.open();
        for number in 1..=16 {
            store.append(&format!("s-{number}"), NewEvent::new("happened", "")).unwrap();
        }
        let (mut alone, mut good, mut calls) = (Vec::<u64>::new(), Vec::<u64>::new(), 0);
        let mut reactor = Reactor::batches(group(&store).member().unwrap(), |batch: &[Delivery<'_>]| {
            calls += 1;
            let positions: Vec<u64> = batch.iter().map(|event| event.position().get()).collect();
            assert!(positions.is_sorted(), "in order");
            if positions.iter().any(|position| bad.contains(position)) {
                alone.extend(positions.first().filter(|_| positions.len() == 1));
                return Err(Failure::retry("bad"));
            }
            good.extend(positions);
            Ok(())
        });
        let turn = reactor.turn(Duration::ZERO).unwrap();
        assert_eq!((turn.done, turn.retried, turn.released), (16 - bad.len() as u64, bad.len() as u64, 0));
        drop(reactor);
        assert_eq!(alone, bad);
        // The controls: each good neighbour passed once, and a batch without a bad one is not split.
        assert_eq!(good.len() + bad.len(), 16);
        assert!(good.is_sorted() && (calls == 1) == bad.is_empty(), "{calls}");
    }
}

/// G15 over a cursor: what is behind the bad one waits for it.
#[test]
fn a_failing_batch_of_a_cursor_is_handled_up_to_the_bad_one() {
    let dir = Scratch::new();
    let store = with_events(&dir, 9);
    let mut passed = Vec::new();
    let mut attempts = 0;
    let mut reactor = Reactor::batches(store.cursor("mail").open().unwrap(), |batch: &[Delivery<'_>]| {
        if batch.iter().any(|event| event.position().get() == 6) {
            attempts += u32::from(batch.len() == 1);
            if attempts < 3 {
                return Err(Failure::retry("bad"));
            }
        }
        passed.extend(batch.iter().map(|event| event.position().get()));
        Ok(())
    })
    .retry(at_once(5));
    let mut done = 0;
    while done < 9 {
        done += reactor.turn(Duration::ZERO).unwrap().done;
    }
    drop(reactor);
    assert_eq!(passed, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(attempts, 3);
}

/// A handler that is slower than the lease of its batch keeps it with `lease`, and loses it without.
#[test]
fn a_slow_handler_keeps_the_rest_of_its_batch_by_extending_it() {
    for keeps in [true, false] {
        let (dir, clock) = (Scratch::new(), Arc::new(ManualClock::at(Timestamp::from_nanos(1))));
        let store = Options::new().clock(clock.clone()).open(dir.store_path()).unwrap();
        for _ in 0..20 {
            store.append("a-1", NewEvent::new("happened", "")).unwrap();
        }
        let lease = Duration::from_secs(30);
        let group = store.group("billing").lease(lease).open().unwrap();
        let (mut other, mut stolen, mut time) = (group.member().unwrap(), 0, 1);
        let (say, hears) = mpsc::channel();
        let mut reactor = Reactor::new(group.member().unwrap(), |_: &Delivery<'_>| {
            time += 10_000_000_000;
            clock.set(Timestamp::from_nanos(time));
            stolen += other.pull_batch(10, Duration::ZERO).unwrap().len();
            FINE
        })
        .clock(clock.clone())
        .watch(noting(&say));
        if keeps {
            reactor = reactor.lease(lease);
        }
        let turn = reactor.turn(Duration::ZERO).unwrap();
        drop(reactor);
        let late = hears.try_iter().filter(|line| line.ends_with("late")).count() as u64;
        assert_eq!(turn.late, late, "what is late is told");
        if keeps {
            assert_eq!((turn.done, turn.late, stolen), (20, 0, 0));
        } else {
            assert!(turn.late > 0 && stolen > 0, "control: {turn:?}, {stolen}");
        }
    }
}

/// A clock that is set back does not keep a batch from being extended.
#[test]
fn a_batch_is_kept_also_while_the_clock_is_set_back() {
    for keeps in [true, false] {
        const SECOND: u64 = 1_000_000_000;
        let (dir, clock) = (Scratch::new(), Arc::new(ManualClock::at(Timestamp::from_nanos(1000 * SECOND))));
        let store = Options::new().clock(clock.clone()).open(dir.store_path()).unwrap();
        for _ in 0..20 {
            store.append("a-1", NewEvent::new("happened", "")).unwrap();
        }
        let lease = Duration::from_secs(30);
        let group = store.group("billing").lease(lease).open().unwrap();
        let (mut other, mut stolen, mut time) = (group.member().unwrap(), 0, 500);
        let mut reactor = Reactor::new(group.member().unwrap(), |_: &Delivery<'_>| {
            time += 10;
            clock.set(Timestamp::from_nanos(time * SECOND));
            stolen += other.pull_batch(10, Duration::ZERO).unwrap().len();
            FINE
        })
        .clock(clock.clone());
        if keeps {
            reactor = reactor.lease(lease);
        }
        let turn = reactor.turn(Duration::ZERO).unwrap();
        drop(reactor);
        match keeps {
            true => assert_eq!((turn.done, turn.late, stolen), (20, 0, 0)),
            false => assert!(turn.late > 0 && stolen > 0, "control: {turn:?}, {stolen}"),
        }
    }
}

#[test]
fn a_run_over_a_group_ends_when_the_store_is_closed() {
    let dir = Scratch::new();
    let store = with_events(&dir, 300);
    let mut reactor = Reactor::new(group(&store).member().unwrap(), |event: &Delivery<'_>| {
        if event.position().get() == 300 {
            store.clone().close().unwrap();
        }
        FINE
    });
    // The last batch could not be settled any more.
    assert!(matches!(reactor.run(&Stop::new()), Err(Error::Closed)));
}

/// A slow batch is settled on the way, so that a crash does not bring all of it back.
#[test]
fn what_a_slow_handler_has_handled_is_settled_before_the_batch_is_at_its_end() {
    for slow in [true, false] {
        let (dir, clock) = (Scratch::new(), Arc::new(ManualClock::at(Timestamp::from_nanos(1))));
        let store = with_events(&dir, 5);
        let mut settled = Vec::new();
        let mut time = 1;
        let mut reactor = Reactor::new(store.cursor("mail").open().unwrap(), |_: &Delivery<'_>| {
            store.sync().unwrap();
            settled.push(store.consumers().unwrap().first().map_or(0, |mail| mail.position.get()));
            time += if slow { 60_000_000 } else { 1 };
            clock.set(Timestamp::from_nanos(time));
            FINE
        })
        .clock(clock.clone());
        assert_eq!(reactor.turn(Duration::ZERO).unwrap().done, 5);
        drop(reactor);
        // The control is the fast one.
        assert_eq!(settled, if slow { [0, 0, 3, 3, 5] } else { [0; 5] });
    }
}

/// A cursor whose settlements cannot be written for a while.
struct Stuck {
    cursor: Cursor,
    refusals: u32,
}

impl Canal for Stuck {
    fn pull_batch(&mut self, max: usize, patience: Duration) -> Result<Batch> {
        self.cursor.pull_batch(max, patience)
    }

    fn settle(&mut self, token: Token, settlement: Settlement) -> Result<()> {
        if settlement == Settlement::Done && self.refusals > 0 {
            self.refusals -= 1;
            return Err(Error::Stopped { why: "the disk is on strike".to_owned() });
        }
        self.cursor.settle(token, settlement)
    }

    fn extend(&mut self, token: Token, lease: Duration) -> Result<()> {
        self.cursor.extend(token, lease)
    }

    fn flush(&mut self) -> Result<()> {
        self.cursor.flush()
    }

    fn promises(&self) -> Promises {
        self.cursor.promises()
    }
}

/// Otherwise the next settlement would stand for them, too, because it is cumulative.
#[test]
fn what_was_not_handled_when_a_settlement_failed_is_not_passed_over() {
    let (dir, clock) = (Scratch::new(), Arc::new(ManualClock::at(Timestamp::from_nanos(1))));
    let store = with_events(&dir, 5);
    let mut seen = Vec::new();
    let stuck = Stuck { cursor: store.cursor("mail").open().unwrap(), refusals: 1 };
    let mut reactor = Reactor::new(stuck, |event: &Delivery<'_>| {
        seen.push(event.position().get());
        clock.set(Timestamp::from_nanos(seen.len() as u64 * 1_000_000_000));
        FINE
    })
    .clock(clock.clone());
    assert!(matches!(reactor.turn(Duration::ZERO), Err(Error::Stopped { .. })));
    assert_eq!(reactor.turn(Duration::ZERO).unwrap().done, 4);
    drop(reactor);
    assert_eq!(seen, [1, 2, 3, 4, 5]);
}

/// What was in hand is not the cursor's any more, in either way of settling; the reactor goes on where it was sent.
#[test]
fn a_consumer_that_is_moved_back_within_a_batch_begins_again_there() {
    let dir = Scratch::new();
    let store = with_events(&dir, 3);
    let (mut seen, (say, hears)) = (Vec::new(), mpsc::channel());
    let move_back = |seen: &[u64]| if seen.len() == 2 { store.seek("mail", Position::new(1)) } else { Ok(()) };
    let mut reactor = Reactor::new(store.cursor("mail").open().unwrap(), |event: &Delivery<'_>| {
        seen.push(event.position().get());
        move_back(&seen)
    })
    .watch(noting(&say));
    assert_eq!(reactor.turn(Duration::ZERO).unwrap().late, 1);
    assert_eq!(hears.try_iter().collect::<Vec<_>>(), ["3 late"]);
    let again = reactor.turn(Duration::ZERO).unwrap();
    assert_eq!((again.done, again.late), (3, 0), "control: nothing is late when nobody moves it");
    drop(reactor);
    assert_eq!(seen, [1, 2, 3, 1, 2, 3]);

    store.seek("mail", Position::new(1)).unwrap();
    seen.clear();
    let cursor = store.cursor("mail").open().unwrap();
    let mut reactor = Reactor::exactly_once(cursor, |event: &Delivery<'_>, commit: &mut Commit| {
        seen.push(event.position().get());
        commit.event("results", NewEvent::new("seen", &event.position().get().to_le_bytes()));
        move_back(&seen)
    });
    assert_eq!(reactor.turn(Duration::ZERO).unwrap().late, 3);
    assert_eq!(store.revision("results").unwrap().get(), 0);
    assert_eq!(reactor.turn(Duration::ZERO).unwrap().done, 3);
    drop(reactor);
    assert_eq!((seen, store.revision("results").unwrap().get()), (vec![1, 2, 3, 1, 2, 3], 3));
}

/// A subscription takes nothing back: it is told, and nothing is tried twice.
#[test]
fn over_a_subscription_the_first_failure_ends_the_turn() {
    let dir = Scratch::new();
    let store = with_events(&dir, 1);
    let subscription = store.subscribe().open().unwrap();
    for _ in 0..3 {
        store.append("cart-1", NewEvent::new("item added", "")).unwrap();
    }
    let (say, hears) = mpsc::channel();
    let mut reactor =
        Reactor::new(
            subscription,
            |event: &Delivery<'_>| {
                if event.position().get() == 3 { Err(Failure::retry("no")) } else { Ok(()) }
            },
        )
        .retry(at_once(5))
        .watch(noting(&say));
    assert!(matches!(reactor.turn(Duration::ZERO), Err(Error::Handler { position, .. }) if position.get() == 3));
    assert_eq!(hears.try_iter().collect::<Vec<_>>(), ["3 failed at attempt 1: no", "4 lost", "3 lost"]);
    store.append("cart-1", NewEvent::new("item added", "")).unwrap();
    assert_eq!(reactor.turn(Duration::ZERO).unwrap().done, 1);
}
