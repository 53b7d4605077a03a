//! Consumer groups: G1–G13, and the dead letters D1–D4 that they make.

use std::sync::Arc;
use std::time::Duration;

use towpath::{
    Batch, Canal, Clock as _, Durability, Error, Group, ManualClock, Member, NewEvent, OnFailure, Options, Order,
    Position, Query, Reason, Retry, Settlement, Start, Store, Timestamp, Transact as _,
};

use crate::support::Scratch;

const SECOND: Duration = Duration::from_secs(1);

/// A store with a clock that the test moves.
struct Timed {
    store: Store,
    clock: Arc<ManualClock>,
}

impl Timed {
    fn open(scratch: &Scratch) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_nanos(1_000_000_000_000)));
        let options = Options::new().durability(Durability::Os).clock(clock.clone());
        Self { store: options.open(scratch.store_path()).unwrap(), clock }
    }

    fn pass(&self, time: Duration) {
        self.clock.set(Timestamp::from_nanos(self.clock.now().as_nanos() + time.as_nanos() as u64));
    }
}

fn fill(store: &Store, events: u64) {
    for event in 0..events {
        store.append(&format!("cart-{}", event % 3), NewEvent::new("added", &event.to_le_bytes())).unwrap();
    }
}

fn pull(member: &mut Member, max: usize) -> Batch {
    member.pull_batch(max, Duration::ZERO).unwrap()
}

fn positions(batch: &Batch) -> Vec<u64> {
    batch.iter().map(|delivery| delivery.position().get()).collect()
}

fn attempts(batch: &Batch) -> Vec<u32> {
    batch.iter().map(|delivery| delivery.attempt()).collect()
}

fn all_done(member: &mut Member, batch: &Batch) {
    for delivery in batch {
        member.settle(delivery.token(), Settlement::Done).unwrap();
    }
}

fn retry() -> Settlement {
    Settlement::Retry { after: Some(Duration::ZERO), why: "not today".into() }
}

fn reject(why: &str) -> Settlement {
    Settlement::Reject { reason: Reason::Rejected, why: why.into() }
}

fn settle(member: &mut Member, batch: &Batch, position: u64, settlement: Settlement) {
    let delivery = batch.iter().find(|delivery| delivery.position().get() == position).unwrap();
    member.settle(delivery.token(), settlement).unwrap();
}

/// G1.
#[test]
fn each_group_gets_everything_and_its_members_share_it() {
    let dir = Scratch::new();
    let store = dir.open();
    fill(&store, 10);
    let group = store.group("mail").open().unwrap();
    let (mut one, mut two) = (group.member().unwrap(), group.member().unwrap());
    let (first, second) = (pull(&mut one, 4), pull(&mut two, 100));
    assert_eq!((positions(&first), positions(&second)), (vec![1, 2, 3, 4], (5..=10).collect()));
    all_done(&mut one, &first);
    all_done(&mut two, &second);
    assert!(pull(&mut one, 1).is_empty());
    let mut other = store.group("audit").open().unwrap().member().unwrap();
    assert_eq!(pull(&mut other, 100).len(), 10);
}

/// G2, L11.
#[test]
fn opening_a_group_again_is_the_same_group_and_another_start_is_told() {
    let dir = Scratch::new();
    let store = dir.open();
    fill(&store, 3);
    let group = store.group("mail").start(Start::At(Position::new(2))).open().unwrap();
    let again = store.group("mail").start(Start::At(Position::new(2))).open().unwrap();
    assert_eq!(pull(&mut again.member().unwrap(), 9).len(), 2);
    let differs = store.group("mail").start(Start::At(Position::new(2))).lease(SECOND).open().unwrap_err();
    assert!(differs.to_string().contains("another lease in this process"), "{differs}");
    drop((group, again));
    for other in [
        store.group("mail"),
        store.group("mail").start(Start::At(Position::new(2))).order(Order::Stream),
        store.group("mail").start(Start::At(Position::new(2))).filter(Query::new().stream("cart-1")),
    ] {
        assert!(matches!(other.open().unwrap_err(), Error::ConsumerDiffers { .. }));
    }
    assert!(matches!(store.cursor("mail").open().unwrap_err(), Error::ConsumerDiffers { .. }));
    let _cursor = store.cursor("reader").open().unwrap();
    assert!(matches!(store.group("reader").open().unwrap_err(), Error::ConsumerBusy { .. }));
}

/// G2: a pattern is part of what a group was made with, and is kept as such.
#[test]
fn a_group_takes_only_what_fits_its_pattern_also_after_the_store_was_opened_again() {
    let dir = Scratch::new();
    let by = |store: &Store, pattern: &str| store.group("lights").filter(Query::new().subject(pattern)).open();
    let store = dir.open();
    let group = by(&store, "room.*.light").unwrap();
    for stream in ["room.hall.light", "room.hall", "room.attic.light", "cart-1"] {
        store.append(stream, NewEvent::new("on", "")).unwrap();
    }
    assert_eq!(positions(&pull(&mut group.member().unwrap(), 1)), [1]);
    drop(group);
    store.close().unwrap();

    let store = dir.open();
    assert!(matches!(by(&store, "room.>").unwrap_err(), Error::ConsumerDiffers { .. }));
    assert!(matches!(by(&store, "").unwrap_err(), Error::Invalid { .. } | Error::ConsumerDiffers { .. }));
    let mut member = by(&store, "room.*.light").unwrap().member().unwrap();
    let all = std::iter::repeat_with(|| positions(&pull(&mut member, 9))).take_while(|batch| !batch.is_empty());
    assert_eq!(all.flatten().collect::<Vec<_>>(), [1, 3]);
}

/// G3, G8.
#[test]
fn what_was_not_settled_comes_again_after_the_store_was_opened_again_and_nothing_else() {
    let dir = Scratch::new();
    let timed = Timed::open(&dir);
    fill(&timed.store, 6);
    let group = timed.store.group("mail").open().unwrap();
    let mut member = group.member().unwrap();
    let batch = pull(&mut member, 5);
    let first = timed.clock.now();
    for position in [2, 5, 3] {
        settle(&mut member, &batch, position, Settlement::Done);
    }
    drop((batch, member, group));
    timed.store.close().unwrap();

    let timed = Timed::open(&dir);
    timed.pass(SECOND);
    let mut member = timed.store.group("mail").open().unwrap().member().unwrap();
    let mut seen = Vec::new();
    loop {
        let batch = pull(&mut member, 10);
        if batch.is_empty() {
            break;
        }
        for delivery in &batch {
            let is_first = delivery.first_handed_out() == Some(first);
            seen.push((delivery.position().get(), delivery.attempt(), delivery.is_redelivered(), is_first));
        }
        all_done(&mut member, &batch);
    }
    assert_eq!(seen, [(1, 2, true, true), (4, 2, true, true), (6, 1, false, false)]);
}

/// G4.
#[test]
fn a_delivery_comes_back_when_its_lease_runs_out_and_before_new_ones_though_there_are_always_some() {
    let dir = Scratch::new();
    let timed = Timed::open(&dir);
    fill(&timed.store, 20);
    let group = timed.store.group("mail").lease(10 * SECOND).open().unwrap();
    let (mut slow, mut quick) = (group.member().unwrap(), group.member().unwrap());
    let held = pull(&mut slow, 3);
    slow.extend(held.iter().nth(1).unwrap().token(), 60 * SECOND).unwrap();
    timed.pass(10 * SECOND);
    let mut came = Vec::new();
    for _ in 0..4 {
        let batch = pull(&mut quick, 2);
        came.push(positions(&batch));
        all_done(&mut quick, &batch);
    }
    assert_eq!(came, [vec![1], vec![3], vec![4, 5], vec![6, 7]]);
    let late = slow.settle(held.iter().next().unwrap().token(), Settlement::Done).unwrap_err();
    assert!(matches!(late, Error::NotHeld { .. }), "{late}");
    settle(&mut slow, &held, 2, Settlement::Done);
    timed.pass(100 * SECOND);
    assert_eq!(positions(&pull(&mut quick, 1)), [8]);
}

/// G5.
#[test]
fn a_retry_comes_not_before_its_time_and_holds_no_slot_meanwhile() {
    let dir = Scratch::new();
    let timed = Timed::open(&dir);
    fill(&timed.store, 4);
    let group = timed.store.group("mail").max_in_flight(1).retry(Retry::fixed(5 * SECOND)).open().unwrap();
    let mut member = group.member().unwrap();
    let batch = pull(&mut member, 10);
    settle(&mut member, &batch, 1, Settlement::Retry { after: Some(2 * SECOND), why: "busy".into() });
    let batch = pull(&mut member, 10);
    settle(&mut member, &batch, 2, Settlement::Retry { after: None, why: "busy".into() });
    timed.pass(SECOND);
    let batch = pull(&mut member, 10);
    assert_eq!(positions(&batch), [3]);
    all_done(&mut member, &batch);
    timed.pass(SECOND);
    let batch = pull(&mut member, 10);
    assert_eq!((positions(&batch), attempts(&batch)), (vec![1], vec![2]));
    all_done(&mut member, &batch);
    timed.pass(3 * SECOND);
    assert_eq!(positions(&pull(&mut member, 10)), [2], "the group's own wait applies when none is given");
}

/// G5: however many wait for their time, what is new goes on.
#[test]
fn many_that_wait_for_their_time_do_not_hold_up_new_ones() {
    let dir = Scratch::new();
    let timed = Timed::open(&dir);
    let mut commit = towpath::Commit::new();
    for _ in 0..35_000 {
        commit.event("cart-1", NewEvent::new("added", ""));
    }
    timed.store.commit(&commit).unwrap();
    timed.store.commit(&commit).unwrap();
    let group = timed.store.group("mail").max_in_flight(u32::MAX).open().unwrap();
    let mut member = group.member().unwrap();
    let batch = pull(&mut member, 70_000);
    let later = pull(&mut member, 70_000);
    assert_eq!((batch.len() + later.len(), later.is_empty()), (70_000, false));
    for delivery in batch.iter().chain(&later) {
        let settlement = Settlement::Retry { after: Some(60 * SECOND), why: "busy".into() };
        member.settle(delivery.token(), settlement).unwrap();
    }
    assert!(pull(&mut member, 1).is_empty());
    timed.store.append("cart-2", NewEvent::new("added", "")).unwrap();
    assert_eq!(positions(&pull(&mut member, 1)), [70_001]);
    timed.pass(60 * SECOND);
    assert_eq!(positions(&pull(&mut member, 1)), [1]);
}

/// A group whose filter an index answers has looked at everything, too, when nothing is left.
#[test]
fn a_group_that_has_everything_is_not_behind_whatever_came_that_is_not_meant() {
    let dir = Scratch::new();
    let store = dir.open();
    store.append("wanted-1", NewEvent::new("added", "")).unwrap();
    fill(&store, 200);
    let group = || store.group("mail").filter(Query::new().category("wanted")).open().unwrap();
    let mut member = group().member().unwrap();
    let batch = pull(&mut member, 10);
    assert_eq!((batch.len(), group().lag() > 0), (1, true));
    all_done(&mut member, &batch);
    assert!(pull(&mut member, 10).is_empty());
    member.flush().unwrap();
    assert_eq!(group().lag(), 0);
    drop(member);
    assert_eq!(store.consumers().unwrap()[0].lag, 0, "it is recorded when the last member goes");
}

/// D1: what becomes a dead letter there would come again, and again.
#[test]
fn a_group_does_not_consume_its_own_dead_letters() {
    let dir = Scratch::new();
    let store = dir.open();
    let own = store.group("mail").filter(Query::new().stream("$dead/mail")).open().unwrap_err();
    assert!(matches!(own, Error::Invalid { .. }), "{own}");
    store.group("mail").filter(Query::new().stream("$dead/other")).open().unwrap();
}

/// G7: each of them is told, and none is counted as done.
#[test]
fn a_batch_whose_leases_ran_out_is_told_one_by_one() {
    let dir = Scratch::new();
    let timed = Timed::open(&dir);
    fill(&timed.store, 5);
    let group = timed.store.group("mail").lease(SECOND).open().unwrap();
    let mut member = group.member().unwrap();
    let batch = pull(&mut member, 5);
    let tokens: Vec<_> = batch.iter().map(|delivery| delivery.token()).collect();
    assert!(member.settle_all(&tokens[..1]).unwrap().is_empty(), "the control: in time");
    timed.pass(SECOND);
    assert_eq!(member.settle_all(&tokens).unwrap().len(), 5);
    drop(batch);

    let passing = timed.clock.clone();
    let mut reactor = towpath::Reactor::new(member, move |_: &towpath::Delivery<'_>| {
        let later = passing.now().as_nanos() + SECOND.as_nanos() as u64;
        passing.set(Timestamp::from_nanos(later));
        Ok::<(), std::convert::Infallible>(())
    });
    reactor = reactor.clock(timed.clock.clone());
    let turn = reactor.turn(Duration::ZERO).unwrap();
    assert_eq!((turn.pulled, turn.done, turn.late), (1, 0, 1));
}

/// G6, D1.
#[test]
fn a_rejected_delivery_is_one_dead_letter_with_everything_and_a_released_one_was_never_tried() {
    let dir = Scratch::new();
    let timed = Timed::open(&dir);
    let event = NewEvent::new("added", "tea").tag("sku:tea").header("by", "me").correlation("req 7");
    timed.store.append("cart-1", event).unwrap();
    fill(&timed.store, 1);
    let group = timed.store.group("mail").open().unwrap();
    let mut member = group.member().unwrap();
    let batch = pull(&mut member, 10);
    timed.pass(SECOND);
    settle(&mut member, &batch, 1, reject("no such cart"));
    settle(&mut member, &batch, 2, Settlement::Release);
    let batch = pull(&mut member, 10);
    assert_eq!((positions(&batch), attempts(&batch)), (vec![2], vec![1]));
    member.flush().unwrap();

    let letters: Vec<_> = timed.store.dead_letters("mail").unwrap().iter().unwrap().map(Result::unwrap).collect();
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!((letter.reason(), letter.why(), letter.attempts()), (Reason::Rejected, "no such cart", 1));
    assert_eq!((letter.source_position().get(), letter.source_stream()), (1, Some("cart-1")));
    assert_eq!(letter.first_handed_out().map(|time| time.as_nanos()), Some(1_000_000_000_000));
    assert_eq!((letter.event().type_name(), letter.event().payload()), ("added", &b"tea"[..]));
    assert_eq!(letter.headers().collect::<Vec<_>>(), [("by", "me")]);
    assert_eq!(
        (letter.event().tags().collect::<Vec<_>>(), letter.event().correlation()),
        (vec!["sku:tea"], Some("req 7"))
    );
    assert_eq!(timed.store.read(Query::new()).count(), 2, "dead letters show up only where they are named");
}

/// G7.
#[test]
fn settling_twice_or_what_is_unknown_is_told_and_changes_nothing() {
    let dir = Scratch::new();
    let store = dir.open();
    fill(&store, 2);
    let group = store.group("mail").open().unwrap();
    let mut member = group.member().unwrap();
    let batch = pull(&mut member, 1);
    let token = batch.last().unwrap();
    member.settle(token, Settlement::Done).unwrap();
    for settlement in [Settlement::Done, Settlement::Release, retry(), reject("no")] {
        assert!(matches!(member.settle(token, settlement).unwrap_err(), Error::NotHeld { .. }));
    }
    assert!(matches!(member.extend(token, SECOND).unwrap_err(), Error::NotHeld { .. }));
    let mut other = store.group("audit").open().unwrap().member().unwrap();
    assert!(matches!(other.settle(token, Settlement::Done).unwrap_err(), Error::NotHeld { .. }));
    let (mine, others) = (pull(&mut member, 9), pull(&mut other, 9));
    assert_eq!((positions(&mine), positions(&others)), (vec![2], vec![1, 2]));
    // The same event, handed out by the same number of its claim, elsewhere.
    let mut third = store.group("third").open().unwrap().member().unwrap();
    let foreign = pull(&mut third, 9).last().unwrap();
    assert!(matches!(other.settle(foreign, Settlement::Done).unwrap_err(), Error::NotHeld { .. }));
    assert!(matches!(other.commit_and_settle(&mut towpath::Commit::new(), &[foreign]), Err(Error::NotHeld { .. })));
    assert_eq!((group.in_flight(), store.unsettled("audit").unwrap().len()), (1, 2));
    assert_eq!(store.dead_letters("mail").unwrap().iter().unwrap().count(), 0);
}

/// G9.
#[test]
fn no_more_are_in_flight_than_may_be_those_that_came_back_included() {
    let dir = Scratch::new();
    let store = dir.open();
    fill(&store, 9);
    let group = store.group("mail").max_in_flight(3).open().unwrap();
    let (mut one, mut two) = (group.member().unwrap(), group.member().unwrap());
    let batch = pull(&mut one, 2);
    assert_eq!((pull(&mut two, 9).len(), pull(&mut one, 9).len(), group.in_flight()), (1, 0, 3));
    settle(&mut one, &batch, 1, retry());
    settle(&mut one, &batch, 2, Settlement::Done);
    assert_eq!((positions(&pull(&mut one, 9)), group.in_flight()), (vec![1, 4], 3));
}

/// G11.
#[test]
fn so_many_attempts_are_so_many_runs_whatever_ends_them() {
    let dir = Scratch::new();
    let timed = Timed::open(&dir);
    fill(&timed.store, 1);
    let group = || timed.store.group("mail").retry(Retry::fixed(Duration::ZERO).attempts(4)).open().unwrap();
    let mut member = group().member().unwrap();
    // An error.
    let batch = pull(&mut member, 1);
    settle(&mut member, &batch, 1, retry());
    // A lease that runs out.
    let batch = pull(&mut member, 1);
    assert_eq!(attempts(&batch), [2]);
    timed.pass(60 * SECOND);
    assert!(group().in_flight() == 1 && positions(&pull(&mut member, 1)) == [1]);
    // A member that goes.
    drop(member);
    let mut member = group().member().unwrap();
    let batch = pull(&mut member, 1);
    assert_eq!(attempts(&batch), [4]);
    settle(&mut member, &batch, 1, retry());
    assert!(pull(&mut member, 1).is_empty());
    member.flush().unwrap();
    let letters: Vec<_> = timed.store.dead_letters("mail").unwrap().iter().unwrap().map(Result::unwrap).collect();
    assert_eq!((letters.len(), letters[0].attempts(), letters[0].reason()), (1, 4, Reason::Attempts));
}

/// G12.
#[test]
fn deliveries_of_one_stream_never_overlap_or_overtake_each_other() {
    let dir = Scratch::new();
    let store = dir.open();
    fill(&store, 9);
    let group = store.group("mail").order(Order::Stream).open().unwrap();
    let (mut one, mut two) = (group.member().unwrap(), group.member().unwrap());
    let first = pull(&mut one, 2);
    let second = pull(&mut two, 9);
    assert_eq!((positions(&first), positions(&second)), (vec![1, 2], vec![3, 6, 9]));
    settle(&mut one, &first, 1, retry());
    let third = pull(&mut two, 9);
    assert_eq!(positions(&third), [1, 4, 7]);
    settle(&mut two, &third, 1, retry());
    let stale = two.settle(third.iter().nth(1).unwrap().token(), Settlement::Done).unwrap_err();
    assert!(matches!(stale, Error::NotHeld { .. }), "it would have overtaken: {stale}");
    let again = pull(&mut two, 9);
    assert_eq!((positions(&again), attempts(&again)), (vec![1, 4, 7], vec![3, 1, 1]));
}

/// D4.
#[test]
fn a_redriven_dead_letter_is_gone_once_its_redelivery_is_settled_and_not_before() {
    let dir = Scratch::new();
    let store = dir.open();
    fill(&store, 3);
    let group = store.group("mail").open().unwrap();
    let mut member = group.member().unwrap();
    let batch = pull(&mut member, 9);
    for position in 1..=3 {
        settle(&mut member, &batch, position, reject("no"));
    }
    let dead = store.dead_letters("mail").unwrap();
    member.flush().unwrap();
    let letters: Vec<_> = dead.iter().unwrap().map(Result::unwrap).collect();
    assert_eq!(letters.len(), 3);
    let moved = dead.redrive(&letters[..2]).unwrap();
    assert_eq!((moved.moved, dead.redrive(&letters[..2]).unwrap().passed_over), (2, 2));
    assert_eq!(dead.iter().unwrap().count(), 3);
    let batch = pull(&mut member, 9);
    assert_eq!((positions(&batch), attempts(&batch)), (vec![1, 2], vec![1, 1]));
    settle(&mut member, &batch, 1, Settlement::Done);
    settle(&mut member, &batch, 2, reject("still not"));
    member.flush().unwrap();
    let left: Vec<_> = dead.iter().unwrap().map(Result::unwrap).collect();
    assert_eq!(left.iter().map(|letter| letter.source_position().get()).collect::<Vec<_>>(), [3, 2]);
    assert_eq!((left[1].replaces(), left[1].why()), (Some(letters[1].number()), "still not"));
    assert_eq!(dead.drop_letters(&left).unwrap().moved, 2);
    assert_eq!(dead.iter().unwrap().count(), 0);
}

/// X2.
#[test]
fn a_commit_and_its_settlements_are_written_both_or_neither() {
    let dir = Scratch::new();
    let store = dir.open();
    fill(&store, 2);
    let group: Group = store.group("mail").open().unwrap();
    let mut member = group.member().unwrap();
    let batch = pull(&mut member, 9);
    let tokens: Vec<_> = batch.iter().map(|delivery| delivery.token()).collect();
    let mut refused = towpath::Commit::new();
    refused.event("sent-1", NewEvent::new("sent", "")).expect("cart-0", towpath::Expected::Absent);
    assert!(matches!(member.commit_and_settle(&mut refused, &tokens).unwrap_err(), Error::Conflict { .. }));
    let mut commit = towpath::Commit::new();
    commit.event("sent-1", NewEvent::new("sent", ""));
    member.commit_and_settle(&mut commit, &tokens[..1]).unwrap();
    assert!(matches!(member.commit_and_settle(&mut commit, &tokens).unwrap_err(), Error::NotHeld { .. }));
    member.commit_and_settle(&mut commit, &tokens[1..]).unwrap();
    assert_eq!((store.read(Query::new().stream("sent-1")).count(), group.in_flight()), (2, 0));
    assert_eq!(store.unsettled("mail").unwrap(), []);
}

/// G12: a lease that was extended does not let its delivery overtake the one before it, whose lease ran out.
#[test]
fn what_follows_a_delivery_that_is_taken_away_is_taken_away_with_it() {
    let dir = Scratch::new();
    let timed = Timed::open(&dir);
    fill(&timed.store, 7);
    let group = timed.store.group("mail").order(Order::Stream).lease(10 * SECOND).open().unwrap();
    let (mut one, mut two) = (group.member().unwrap(), group.member().unwrap());
    let batch = pull(&mut one, 7);
    assert_eq!(positions(&batch), [1, 2, 3, 4, 5, 6, 7]);
    for position in [4, 2] {
        let delivery = batch.iter().find(|delivery| delivery.position().get() == position).unwrap();
        one.extend(delivery.token(), 60 * SECOND).unwrap();
    }
    timed.pass(10 * SECOND);
    assert_eq!((positions(&pull(&mut two, 9)), group.in_flight()), (vec![1], 2), "2 was extended, and its key goes on");
    let four = batch.iter().nth(3).unwrap().token();
    assert!(matches!(one.settle(four, Settlement::Done).unwrap_err(), Error::NotHeld { .. }), "4 overtook 1");
    settle(&mut one, &batch, 2, Settlement::Done);
}

/// L4, D4: a group that is moved back comes to the source of a dead letter anyway, and it cannot be redriven before.
#[test]
fn an_event_ahead_of_a_group_that_was_moved_back_is_not_redriven() {
    let dir = Scratch::new();
    let store = dir.open();
    fill(&store, 6);
    let group = store.group("mail").open().unwrap();
    let mut member = group.member().unwrap();
    let batch = pull(&mut member, 9);
    settle(&mut member, &batch, 5, reject("no"));
    settle(&mut member, &batch, 1, Settlement::Done);
    store.seek("mail", Position::new(3)).unwrap();
    assert!(matches!(member.settle(batch.last().unwrap(), Settlement::Done).unwrap_err(), Error::NotHeld { .. }));
    let dead = store.dead_letters("mail").unwrap();
    let letters: Vec<_> = dead.iter().unwrap().map(Result::unwrap).collect();
    assert_eq!(letters.len(), 1, "what was decided before is kept");
    assert_eq!(dead.redrive(&letters).unwrap().passed_over, 1);
    let batch = pull(&mut member, 9);
    assert_eq!((positions(&batch), dead.redrive(&letters).unwrap().passed_over), (vec![3, 4, 5, 6], 1));
    all_done(&mut member, &batch);
    assert_eq!(dead.redrive(&letters).unwrap().moved, 1);
    let batch = pull(&mut member, 9);
    assert_eq!((positions(&batch), group.in_flight()), (vec![5], 1));
    all_done(&mut member, &batch);
    member.flush().unwrap();
    assert_eq!((pull(&mut member, 9).len(), group.in_flight(), dead.iter().unwrap().count()), (0, 0, 0));
}

/// D4: two at once redrive the same dead letters, and each source is handed out once.
#[test]
fn dead_letters_that_two_redrive_at_once_are_handed_out_once() {
    let dir = Scratch::new();
    let store = dir.open();
    fill(&store, 60);
    let group = store.group("mail").order(Order::Stream).open().unwrap();
    let mut member = group.member().unwrap();
    for delivery in &pull(&mut member, 100) {
        member.settle(delivery.token(), reject("no")).unwrap();
    }
    member.flush().unwrap();
    let dead = store.dead_letters("mail").unwrap();
    let letters: Vec<_> = dead.iter().unwrap().map(Result::unwrap).collect();
    let moved: u64 = std::thread::scope(|scope| {
        let redrive = || letters.iter().map(|letter| dead.redrive([letter]).unwrap().moved).sum::<u64>();
        let two = [scope.spawn(redrive), scope.spawn(redrive)];
        let mut came = Vec::new();
        while came.len() < 60 {
            let batch = member.pull_batch(7, Duration::from_millis(1)).unwrap();
            came.extend(positions(&batch));
            all_done(&mut member, &batch);
        }
        came.sort_unstable();
        assert!(came.iter().copied().eq(1..=60), "{came:?}");
        two.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    member.flush().unwrap();
    assert_eq!((moved, pull(&mut member, 9).len(), dead.iter().unwrap().count(), group.lag()), (60, 0, 0, 0));
}

/// G12: what follows a dead letter is parked until that is redriven with success, and nothing ever overtakes.
/// G4, G5: a clock that is set, back or for a moment forward, makes no lease and no wait longer.
#[test]
fn leases_and_waits_last_as_long_as_they_say_though_the_clock_is_set_back() {
    let hour = 3600 * SECOND;
    for glitch in [false, true] {
        let dir = Scratch::new();
        let timed = Timed::open(&dir);
        fill(&timed.store, 2);
        let group = timed.store.group("mail").lease(30 * SECOND).retry(Retry::fixed(10 * SECOND)).open().unwrap();
        let mut member = group.member().unwrap();
        let right = timed.clock.now();
        if glitch {
            timed.pass(hour);
        }
        let batch = pull(&mut member, 9);
        member.settle(batch.get(0).unwrap().token(), Settlement::Retry { after: None, why: "no".into() }).unwrap();
        let back = if glitch { right } else { Timestamp::from_nanos(right.as_nanos() - hour.as_nanos() as u64 / 10) };
        timed.clock.set(back);
        assert_eq!(pull(&mut member, 9).len(), 0);
        timed.pass(9 * SECOND);
        assert_eq!(pull(&mut member, 9).len(), 0, "the control: not at once either");
        timed.pass(SECOND);
        assert_eq!(positions(&pull(&mut member, 9)), [1]);
        timed.pass(19 * SECOND);
        assert_eq!(pull(&mut member, 9).len(), 0);
        timed.pass(SECOND);
        assert_eq!(positions(&pull(&mut member, 9)), [2]);
    }
}

/// An event is as old as the log's times say, which stand still until a clock that was set back has caught up.
#[test]
fn a_clock_that_is_set_back_lets_no_new_event_expire() {
    let dir = Scratch::new();
    let timed = Timed::open(&dir);
    let group = timed.store.group("mail").expire_after(10 * SECOND).open().unwrap();
    let mut member = group.member().unwrap();
    fill(&timed.store, 1);
    timed.clock.set(Timestamp::from_nanos(timed.clock.now().as_nanos() - 100_000_000_000));
    assert_eq!(pull(&mut member, 9).len(), 1);
    timed.pass(50 * SECOND);
    fill(&timed.store, 1);
    assert_eq!(pull(&mut member, 9).len(), 1);
    fill(&timed.store, 1);
    timed.pass(61 * SECOND);
    assert_eq!(pull(&mut member, 9).len(), 0, "the control: it is 11 seconds old");
}

#[test]
fn a_parked_key_goes_on_in_order_once_its_dead_letters_are_redriven() {
    let dir = Scratch::new();
    let store = dir.open();
    fill(&store, 6);
    let group = store.group("mail").order(Order::Stream).on_failure(OnFailure::Park).open().unwrap();
    let mut member = group.member().unwrap();
    let batch = pull(&mut member, 9);
    settle(&mut member, &batch, 1, reject("no"));
    for position in [2, 3, 5, 6] {
        settle(&mut member, &batch, position, Settlement::Done);
    }
    assert_eq!(pull(&mut member, 9).len(), 0, "4 follows 1");
    let dead = store.dead_letters("mail").unwrap();
    let live = || {
        let letters = dead.iter().unwrap().map(Result::unwrap);
        letters.map(|letter| (letter.source_position().get(), letter.reason())).collect::<Vec<_>>()
    };
    assert_eq!(live(), [(1, Reason::Rejected), (4, Reason::Parked)]);

    // Both again, and the first one fails again: what follows it may not go before it.
    let redrive = || dead.redrive(&dead.iter().unwrap().map(Result::unwrap).collect::<Vec<_>>()).unwrap().moved;
    assert_eq!(redrive(), 2);
    let batch = pull(&mut member, 9);
    assert_eq!(positions(&batch), [1, 4]);
    settle(&mut member, &batch, 1, reject("still no"));
    assert_eq!(pull(&mut member, 9).len(), 0);
    assert_eq!(live(), [(1, Reason::Rejected), (4, Reason::Parked)]);

    // New ones wait behind those that are redriven, and go on once they are done.
    assert_eq!(redrive(), 2);
    let batch = pull(&mut member, 1);
    store.append("cart-0", NewEvent::new("added", "")).unwrap();
    assert_eq!((positions(&batch), pull(&mut member, 9).len()), (vec![1], 0));
    all_done(&mut member, &batch);
    let batch = pull(&mut member, 9);
    assert_eq!((positions(&batch), attempts(&batch)), (vec![4, store.head().get()], vec![1, 1]));
    all_done(&mut member, &batch);
    member.flush().unwrap();
    assert_eq!(live(), []);
}

/// G4, G12, X2: members on threads, with leases that run out in the middle of their work and members that come and go. What
/// they write with their settlements stands there once, for each key in its order.
#[test]
fn members_on_threads_whose_leases_run_out_write_each_result_once_and_in_order() {
    const EVENTS: u64 = 1_500;
    let dir = Scratch::in_memory();
    let store = Options::new().segment_bytes(64 << 10).durability(Durability::Os).open(dir.store_path()).unwrap();
    let tries = Retry::fixed(Duration::ZERO).attempts(u32::MAX);
    let group = store.group("mail").order(Order::Stream).lease(Duration::from_millis(1)).retry(tries);
    let group = group.filter(Query::new().category("cart")).open().unwrap();
    let told = |settled: towpath::Result<()>| match settled {
        Ok(()) | Err(Error::NotHeld { .. }) => {}
        Err(other) => panic!("{other:?}"),
    };
    let work = |seed: u64| {
        let mut member = group.member().unwrap();
        let mut random = seed;
        while store.revision("results").unwrap().get() < EVENTS {
            let batch = member.pull_batch(1 + seed as usize * 3, Duration::from_millis(1)).unwrap();
            for delivery in &batch {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let mut commit = towpath::Commit::new();
                let result = [delivery.position().get().to_le_bytes(), [batch.len() as u8; 8]].concat();
                commit.event("results", NewEvent::new(delivery.stream(), &result));
                match random >> 59 {
                    0 => told(member.settle(delivery.token(), retry())),
                    1 => told(member.settle(delivery.token(), Settlement::Release)),
                    2 => drop(std::mem::replace(&mut member, group.member().unwrap())),
                    kind => {
                        if kind < 6 {
                            told(member.extend(delivery.token(), Duration::from_millis(3)));
                        }
                        told(member.commit_and_settle(&mut commit, &[delivery.token()]).map(drop));
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for seed in 1..=4 {
            let work = &work;
            scope.spawn(move || work(seed));
        }
        scope.spawn(|| fill(&store, EVENTS));
    });
    let mut seen = std::collections::HashMap::new();
    let mut count = 0;
    for result in store.read(Query::new().stream("results")) {
        let result = result.unwrap();
        let source = u64::from_le_bytes(result.payload()[..8].try_into().unwrap());
        let before = seen.insert(result.type_name().to_owned(), source);
        assert!(before < Some(source), "{} after {before:?}", source);
        count += 1;
    }
    assert_eq!(count, EVENTS, "with rising positions: each one once");
    let mut member = group.member().unwrap();
    assert!(pull(&mut member, 9).is_empty());
    member.flush().unwrap();
    assert_eq!((group.in_flight(), store.unsettled("mail").unwrap()), (0, vec![]));
}

/// G13: counted in the commits that the log has.
#[test]
fn a_batch_that_is_settled_one_by_one_costs_two_commits() {
    let commits = |most: usize| {
        let dir = Scratch::new();
        let store = dir.open();
        fill(&store, 1_000);
        let group = store.group("mail").filter(Query::new().category("cart")).open().unwrap();
        let mut member = group.member().unwrap();
        loop {
            let batch = pull(&mut member, most);
            if batch.is_empty() {
                break;
            }
            all_done(&mut member, &batch);
        }
        member.flush().unwrap();
        assert_eq!(store.unsettled("mail").unwrap(), []);
        let segments = crate::support::files::segments(&dir.store_path());
        let frames = segments.iter().flat_map(|segment| crate::support::files::frames(segment));
        // The last frame of each commit; those of events are not meant.
        frames.filter(|frame| frame.is_control && !frame.has_more).count()
    };
    let (of_a_hundred, of_one) = (commits(100), commits(1));
    assert!(of_a_hundred <= 2 * 10 + 8, "{of_a_hundred} commits for 10 batches of 100");
    assert!(of_one >= 1_000, "control: {of_one} commits for as many batches as deliveries");
}

/// What a group does not mean is behind it once it has looked: after the last event that it does mean, too, and when it is
/// opened again.
#[test]
fn a_group_whose_events_are_rare_has_no_lag_when_there_is_nothing_left_for_it() {
    let dir = Scratch::new();
    let store = dir.open();
    fill(&store, 500);
    store.append("rare-1", NewEvent::new("seen", "")).unwrap();
    fill(&store, 3_000);
    let open = |store: &Store| store.group("mail").filter(Query::new().category("rare")).open().unwrap();
    let group = open(&store);
    let mut member = group.member().unwrap();
    assert_eq!(group.lag(), 3_501);
    let batch = pull(&mut member, 9);
    assert_eq!(positions(&batch), [501]);
    all_done(&mut member, &batch);
    assert!(pull(&mut member, 9).is_empty());
    member.flush().unwrap();
    assert_eq!(group.lag(), 0);
    drop((member, group));
    assert_eq!(open(&store).lag(), 0);
    fill(&store, 7);
    assert_eq!(store.consumers().unwrap()[0].lag, 7, "control: what it has not looked at counts");
}
