//! W1–W10 and W13: what holds when events are written.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use towpath::{
    Commit, Condition, Durability, Error, Event, Expected, NewEvent, Options, Position, Query, Receipt, Revision,
    Store, limits,
};

use crate::support::{Scratch, is_dense, noted, positions, small, texts};

/// Long enough that no timer of the store comes up in a test.
const NEVER: Duration = Duration::from_secs(3600);

/// W1.
#[test]
fn positions_are_dense_though_commits_are_refused_and_the_store_is_reopened() {
    let dir = Scratch::new();
    let mut store = dir.open();
    for round in 0..5 {
        store.append("cart-1", noted("a")).unwrap();
        for mut refused in refused_by_the_log() {
            refused.event("cart-2", noted("never")).event("cart-3", noted("never"));
            store.commit(&refused).unwrap_err();
        }
        store.append("$cart", noted("never")).unwrap_err();
        let receipt = store.commit(Commit::new().event("cart-1", noted("b")).event("cart-4", noted("c"))).unwrap();
        assert_eq!((receipt.first().get(), receipt.last().get()), (round * 3 + 2, round * 3 + 3));
        if round % 2 == 0 {
            store.close().unwrap();
        } else {
            drop(store);
        }
        store = dir.open();
        assert_eq!(store.head(), receipt.last());
    }
    let all = positions(store.read(Query::new()));
    assert_eq!(all.len(), 15);
    assert!(is_dense(&all));
    assert!(!is_dense(&[1, 3]) && !is_dense(&[1, 1]) && !is_dense(&[2, 3]), "the check can fail");
}

/// Commits that only the log can refuse, once `cart-1` is there; each for another reason.
fn refused_by_the_log() -> Vec<Commit> {
    let mut refused = vec![Commit::new(); 4];
    refused[0].expect("cart-1", Expected::Absent);
    refused[1].condition(Condition::unless(Query::new().types(["noted"])));
    refused[2].rule(|_, _| Err("no".to_owned()));
    refused[3].rule(|_, _| std::panic::resume_unwind(Box::new("no")));
    refused
}

/// W2.
#[test]
fn what_was_appended_can_be_read_at_once_and_is_as_durable_as_was_asked() {
    for durability in [Durability::Sync, Durability::Every(NEVER), Durability::Os] {
        let dir = Scratch::new();
        let store = dir.open_with(durability);
        let beside = Store::open_read_only(dir.store_path()).unwrap();
        let (tell, told) = mpsc::channel::<Receipt>();
        thread::scope(|scope| {
            let reading = store.clone();
            scope.spawn(move || {
                for receipt in told {
                    assert!(reading.event(receipt.last()).unwrap().is_some(), "{durability:?}");
                    assert!(beside.event(receipt.last()).unwrap().is_some(), "{durability:?}, beside the writer");
                }
            });
            for n in 0..200 {
                let receipt = store.append(&format!("cart-{}", n % 7), noted("x")).unwrap();
                assert!(durability != Durability::Sync || store.durable() >= receipt.last());
                tell.send(receipt).unwrap();
            }
            drop(tell);
        });
        assert!(store.event(store.head().next()).unwrap().is_none(), "the check can fail");
        // Without a sync of its own an append is not called durable, so the check above can fail too.
        assert_eq!(store.durable() == store.head(), durability == Durability::Sync, "{durability:?}");
        store.sync().unwrap();
        assert_eq!(store.durable(), store.head(), "{durability:?}");
    }
}

/// W3.
#[test]
fn of_eight_threads_that_expect_no_stream_exactly_one_succeeds() {
    let dir = Scratch::new();
    let store = dir.open();
    for round in 0..25 {
        let stream = format!("cart-{round}");
        let outcomes =
            race(8, |_| store.commit(Commit::new().event(&stream, noted("x")).expect(&stream, Expected::Absent)));
        let conflicts = outcomes.iter().filter(|outcome| {
            matches!(outcome, Err(Error::Conflict { stream: told, expected: Expected::Absent, actual })
                if *told == stream && actual.get() == 1)
        });
        assert_eq!(conflicts.count(), 7);
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    }
    let unconditional = race(8, |_| store.append("cart-any", noted("x")));
    assert_eq!(unconditional.iter().filter(|outcome| outcome.is_ok()).count(), 8, "without it all of them do");
}

/// W3.
#[test]
fn an_absent_stream_and_a_stream_of_one_event_are_told_apart() {
    let dir = Scratch::new();
    let store = dir.open();
    let try_it = |stream: &str, expected| {
        store
            .commit(Commit::new().event(stream, noted("x")).expect(stream, expected))
            .map(|receipt| receipt.revision().get())
    };
    assert!(try_it("a", Expected::Exact(Revision::new(1))).is_err());
    assert_eq!(try_it("a", Expected::Exact(Revision::ABSENT)).unwrap(), 1);
    for expected in [Expected::Absent, Expected::Exact(Revision::ABSENT), Expected::Exact(Revision::new(2))] {
        assert!(try_it("a", expected).is_err(), "{expected}");
    }
    assert_eq!(try_it("a", Expected::Exact(Revision::new(1))).unwrap(), 2);
    assert_eq!(try_it("a", Expected::Any).unwrap(), 3);
    assert_eq!(store.revision("a").unwrap().get(), 3);
    assert_eq!(store.revision("b").unwrap(), Revision::ABSENT);
}

/// W4.
#[test]
fn a_conflict_tells_what_stood_where_and_writes_nothing_of_the_commit() {
    let dir = Scratch::new();
    let store = dir.open();
    store.append("cart-1", noted("a")).unwrap();
    store.append("cart-1", noted("b")).unwrap();
    let mut commit = Commit::new();
    commit
        .event("cart-2", noted("first"))
        .event("cart-1", noted("second"))
        .expect("cart-2", Expected::Absent)
        .expect("cart-1", Expected::Exact(Revision::new(1)));
    let error = store.commit(&commit).unwrap_err();
    let told = error.to_string();
    let Error::Conflict { stream, expected, actual } = error else { panic!("{told}") };
    assert_eq!((&*stream, expected, actual.get()), ("cart-1", Expected::Exact(Revision::new(1)), 2));
    assert!(told.contains("cart-1") && told.contains("revision 1") && told.contains("at revision 2"), "{told}");
    assert_eq!(texts(store.read(Query::new())), ["a", "b"]);
    assert_eq!(store.revision("cart-2").unwrap(), Revision::ABSENT);

    store.append("cart-3", noted("c")).unwrap();
    let mut right = Commit::new();
    right.event("cart-2", noted("first")).expect("cart-1", Expected::Exact(Revision::new(2)));
    store.commit(&right).expect("a stream may be expected without an event for it");
    assert_eq!(texts(store.read(Query::new())), ["a", "b", "c", "first"], "the check can fail");
}

/// W5.
#[test]
fn of_racing_writers_with_a_condition_one_gets_each_username() {
    const NAMES: [&str; 6] = ["ada", "grace", "barbara", "frances", "jean", "kay"];
    let dir = Scratch::new();
    let store = dir.open();
    let register = |n: usize, unique: bool| {
        let mut taken = 0;
        for name in NAMES {
            let tag = format!("username:{name}:{unique}");
            let mut commit = Commit::new();
            commit.event(&format!("user-{n}"), NewEvent::new("registered", name).tag(&*tag));
            if unique {
                commit.condition(Condition::unless(Query::new().types(["registered"]).tags([&*tag])));
            }
            match store.commit(&commit) {
                Ok(_) => taken += 1,
                Err(Error::ConditionFailed { after: Position::START, found }) => {
                    let event = store.event(found).unwrap().unwrap();
                    assert!(event.tags().any(|found| found == tag));
                }
                Err(error) => panic!("{error}"),
            }
        }
        taken
    };
    assert_eq!(race(8, |n| register(n, true)).iter().sum::<usize>(), NAMES.len());
    assert_eq!(race(8, |n| register(n, false)).iter().sum::<usize>(), 8 * NAMES.len(), "without it all of them get it");
    for name in NAMES {
        assert_eq!(store.read(Query::new().tags([format!("username:{name}:true")])).count(), 1);
    }
}

/// W5.
#[test]
fn a_decision_that_is_made_again_whenever_something_came_between_never_oversells() {
    const SEATS: usize = 25;
    let dir = Scratch::new();
    let store = dir.open();
    let sold = Query::new().types(["sold"]).tags(["concert:1"]);
    let seller = |n: usize| {
        let mut mine = 0;
        loop {
            let head = store.head();
            if store.read(sold.clone()).until(head).count() >= SEATS {
                return mine;
            }
            let mut commit = Commit::new();
            commit.event(&format!("seller-{n}"), NewEvent::new("sold", "").tag("concert:1"));
            commit.condition(Condition::unless(sold.clone()).after(head));
            match store.commit(&commit) {
                Ok(_) => mine += 1,
                Err(Error::ConditionFailed { after, found }) => assert!(after == head && found > head),
                Err(error) => panic!("{error}"),
            }
        }
    };
    assert_eq!(race(4, seller).iter().sum::<usize>(), SEATS);
    assert_eq!(store.read(sold).count(), SEATS);
}

/// W5.
#[test]
fn a_condition_looks_behind_its_position_for_any_type_all_tags_and_any_alternative() {
    let dir = Scratch::new();
    let store = dir.open();
    store.append("a-1", NewEvent::new("opened", "").tag("x").tag("y")).unwrap(); // 1
    store.append("a-2", NewEvent::new("closed", "").tag("x")).unwrap(); // 2
    store.append("b-1", NewEvent::new("opened", "")).unwrap(); // 3
    let all = Query::new;
    let table = [
        (all(), 0, Some(1)),
        (all(), 2, Some(3)),
        (all(), 3, None),
        (all(), 99, None),
        (all().types(["opened", "closed"]), 0, Some(1)),
        (all().types(["opened", "closed"]), 1, Some(2)),
        (all().types(["closed"]), 2, None),
        (all().tags(["x"]), 1, Some(2)),
        (all().tags(["x", "y"]), 0, Some(1)),
        (all().tags(["x", "y"]), 1, None),
        (all().tags(["x", "z"]), 0, None),
        (all().stream("a-2"), 0, Some(2)),
        (all().stream("a-2").types(["opened"]), 0, None),
        (all().category("b"), 0, Some(3)),
        (all().category("b").tags(["x"]), 0, None),
        (all().types(["missing"]).or(all().stream("b-1")), 0, Some(3)),
        (all().types(["missing"]).or(all().stream("b-2")), 0, None),
    ];
    for (unless, after, stands_at) in table {
        let after = Position::new(after);
        let mut commit = Commit::new();
        // Whether it would be written is asked without writing it: the rule comes after the condition.
        commit.event("probe", noted("")).condition(Condition::unless(unless.clone()).after(after));
        commit.rule(|_, _| Err("it would be".to_owned()));
        match (store.commit(&commit).unwrap_err(), stands_at) {
            (Error::ConditionFailed { after: told, found }, Some(at)) => {
                assert_eq!((told, found.get()), (after, at), "{unless:?}");
            }
            (Error::Refused { .. }, None) => {}
            (error, expected) => panic!("{unless:?} after {after}: {error}, expected {expected:?}"),
        }
    }
}

/// W5, W3: also what was submitted a moment before, and is not written yet, counts.
#[test]
fn pipelined_commits_are_checked_against_those_before_them() {
    let dir = Scratch::new();
    let store = dir.open();
    let mut once = Commit::new();
    once.event("user-1", NewEvent::new("registered", "").tag("name:ada"));
    once.condition(Condition::unless(Query::new().tags(["name:ada"])));
    let mut next = Commit::new();
    next.event("user-1", noted("x")).expect("user-1", Expected::Exact(Revision::new(1)));
    let answers = together(&store, &[&once, &once, &next, &next]);
    assert!(matches!(&answers[..], [Ok(_), Err(Error::ConditionFailed { .. }), Ok(_), Err(Error::Conflict { .. })]));
    assert_eq!(store.revision("user-1").unwrap().get(), 2);
}

/// W6.
#[test]
fn a_rule_sees_the_commit_and_the_log_and_its_refusal_carries_its_reason() {
    let dir = Scratch::new();
    let store = dir.open();
    let withdraw = |amount: i64| {
        let mut commit = Commit::new();
        commit.event("account-1", NewEvent::new("moved", &amount.to_le_bytes()).tag("bank"));
        commit.rule(|proposal, view| {
            let sum = |payload: &[u8]| i64::from_le_bytes(payload.try_into().unwrap());
            let mut balance = 0;
            for event in view.read(Query::new().stream("account-1")) {
                balance += sum(event.map_err(|error| error.to_string())?.payload());
            }
            for event in proposal.events() {
                assert_eq!((event.stream(), event.type_name()), ("account-1", "moved"));
                assert_eq!(event.tags().collect::<Vec<_>>(), ["bank"]);
                balance += sum(event.payload());
            }
            if balance < 0 { Err(format!("{balance} would be left")) } else { Ok(()) }
        });
        commit
    };
    store.commit(&withdraw(100)).unwrap();
    store.commit(&withdraw(-70)).unwrap();
    let head = store.head();
    let error = store.commit(&withdraw(-40)).unwrap_err();
    assert!(matches!(&error, Error::Refused { reason } if reason == "-10 would be left"), "{error}");
    assert_eq!(store.head(), head);

    // Check and append are one: of eight who want the last 30, one gets them.
    let outcomes = race(8, |_| store.commit(&withdraw(-30)).is_ok());
    assert_eq!(outcomes.iter().filter(|ok| **ok).count(), 1);
}

/// W6.
#[test]
fn a_rule_that_panics_refuses_its_commit_and_leaves_the_writer_alive() {
    let dir = Scratch::new();
    let store = dir.open();
    let mut panicking = Commit::new();
    panicking.event("cart-1", noted("never")).rule(|_, _| panic!("half of {} is missing", "everything"));
    for _ in 0..3 {
        match store.commit(&panicking).unwrap_err() {
            Error::Refused { reason } => assert!(reason.contains("half of everything is missing"), "{reason}"),
            other => panic!("{other}"),
        }
        assert!(matches!(store.submit(&panicking).unwrap().wait(), Err(Error::Refused { .. })));
        store.append("cart-1", noted("alive")).unwrap();
    }
    store.close().unwrap();
    assert_eq!(texts(dir.open().read(Query::new())), ["alive"; 3]);
}

/// W6.
#[test]
fn a_rule_sees_earlier_commits_of_the_same_moment_before_readers_do() {
    let dir = Scratch::new();
    let store = dir.open();
    let mut before = Commit::new();
    before.event("cart-1", noted("just before"));
    let mut ruled = Commit::new();
    let readers = Store::open_read_only(dir.store_path()).unwrap();
    ruled.event("cart-1", noted("ruled")).rule(move |_, view| {
        let seen = texts(view.read(Query::new().stream("cart-1")));
        let revision = view.revision("cart-1").unwrap().get();
        let unpublished = readers.head() < view.head();
        Err(format!("{seen:?}, revision {revision}, head {}, unpublished: {unpublished}", view.head()))
    });
    let answers = together(&store, &[&before, &ruled]);
    match answers[1].as_ref().unwrap_err() {
        Error::Refused { reason } => {
            assert_eq!(reason, r#"["just before"], revision 1, head 2, unpublished: true"#, "both came in one group");
        }
        other => panic!("{other}"),
    }
    assert!(answers[0].is_ok());
}

/// W6.
#[test]
fn whatever_would_wait_for_the_writer_is_refused_within_a_rule() {
    let dir = Scratch::new();
    let store = dir.open();
    let (hand_in, handed_in) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    let (inner, handed_in) = (store.clone(), Mutex::new(handed_in));
    let mut commit = Commit::new();
    commit.event("cart-1", noted("never")).rule(move |_, view| {
        let ticket: towpath::Ticket = handed_in.lock().unwrap().recv().unwrap();
        let appended = inner.append("cart-2", noted("never")).map(drop);
        let sought = inner.seek("bell", Position::new(1));
        let waited = ticket.wait().map(drop);
        tell.send([appended, sought, waited, inner.sync(), inner.clone().close()]).unwrap();
        assert_eq!(view.revision("cart-2").unwrap(), Revision::ABSENT);
        Err("asked".to_owned())
    });
    let ruled = store.submit(&commit).unwrap();
    hand_in.send(store.submit(Commit::new().event("cart-3", noted("behind"))).unwrap()).unwrap();
    assert!(matches!(ruled.wait(), Err(Error::Refused { reason }) if reason == "asked"));
    for told in told.recv().unwrap() {
        let error = told.unwrap_err();
        assert!(matches!(&error, Error::ReadOnly { why } if why.contains("rule")), "{error}");
    }
    store.append("cart-2", noted("outside")).expect("outside of a rule it is allowed");
    assert_eq!(store.revision("cart-3").unwrap().get(), 1, "what was not waited for was written all the same");
}

/// W7.
#[test]
fn the_same_key_and_content_brings_the_first_receipt_also_after_reopening() {
    let dir = Scratch::new();
    let mut store = dir.open();
    let transfer = |n: u32| {
        let mut commit = Commit::new();
        commit.event("account-1", NewEvent::new("debited", &n.to_le_bytes()).tag("eur").header("by", "ada"));
        commit.event("account-2", NewEvent::new("credited", &n.to_le_bytes())).key(&format!("transfer {n}"));
        commit
    };
    let first: Vec<Receipt> = (0..40).map(|n| store.commit(&transfer(n)).unwrap()).collect();
    assert!(first.iter().all(|receipt| !receipt.is_duplicate()), "the check can fail");
    for round in 0..3 {
        for (n, first) in (0..).zip(&first) {
            let again = store.commit(&transfer(n)).unwrap();
            assert!(again.is_duplicate());
            let all = |receipt: &Receipt| (receipt.first(), receipt.last(), receipt.revision(), receipt.time());
            assert_eq!(all(&again), all(first), "round {round}");
        }
        assert_eq!(store.revision("account-2").unwrap().get(), 40);
        // Enough that the keys come to stand in sealed segments.
        let wide = [b'.'; 2000];
        for _ in 0..100 {
            store.append("other-1", NewEvent::new("wide", &wide)).unwrap();
        }
        store.close().unwrap();
        store = dir.open();
    }
    let keyed = store.read(Query::new().stream("account-1")).filter(|event| event.as_ref().unwrap().key().is_some());
    assert_eq!(keyed.count(), 40);
}

/// W7.
#[test]
fn the_same_key_with_other_content_is_an_error() {
    let dir = Scratch::new();
    let mut store = dir.open();
    store.append("cart-0", noted("before")).unwrap();
    let event = || NewEvent::new("placed", "tea").tag("a").header("by", "ada");
    let keyed = |commit: &mut Commit| commit.key("order 1").clone();
    let same = keyed(Commit::new().event("cart-1", event()).event("cart-2", noted("x")));
    let others = [
        keyed(Commit::new().event("cart-1", event())),
        keyed(Commit::new().event("cart-1", event()).event("cart-2", noted("x")).event("cart-2", noted("x"))),
        keyed(Commit::new().event("cart-1", event()).event("cart-3", noted("x"))),
        keyed(Commit::new().event("cart-1", event()).event("cart-2", noted("y"))),
        keyed(Commit::new().event("cart-1", event().tag("b")).event("cart-2", noted("x"))),
        keyed(Commit::new().event("cart-1", event().header("at", "noon")).event("cart-2", noted("x"))),
        keyed(Commit::new().event("cart-1", event().id(7)).event("cart-2", noted("x"))),
        keyed(Commit::new().event("cart-1", event().schema_version(1)).event("cart-2", noted("x"))),
        keyed(Commit::new().event("cart-1", event()).event("cart-2", NewEvent::new("Noted", "x"))),
    ];
    store.commit(&same).unwrap();
    for reopened in [false, true] {
        for other in &others {
            let error = store.commit(other).unwrap_err();
            assert!(
                matches!(&error, Error::KeyReused { key, first } if key == "order 1" && first.get() == 2),
                "{error}"
            );
        }
        assert!(store.commit(&same).unwrap().is_duplicate(), "reopened: {reopened}");
        assert_eq!(store.head().get(), 3);
        store.close().unwrap();
        store = dir.open();
    }
}

/// W7.
#[test]
fn a_retry_of_a_conditional_append_succeeds_though_the_stream_has_moved_on() {
    let dir = Scratch::new();
    let store = dir.open();
    let mut commit = Commit::new();
    commit.event("cart-1", NewEvent::new("opened", "").tag("t"));
    commit.expect("cart-1", Expected::Absent).condition(Condition::unless(Query::new().tags(["t"])));
    let without_key = commit.clone();
    commit.key("open cart 1").rule(|_, view| if view.head() == Position::START { Ok(()) } else { Err("late".into()) });
    let answers = [&commit, &commit].map(|commit| store.submit(commit).unwrap()).map(towpath::Ticket::wait);
    assert!(matches!(&answers[..], [Ok(first), Ok(again)] if !first.is_duplicate() && again.is_duplicate()));
    store.append("cart-1", noted("moved on")).unwrap();
    assert!(store.commit(&commit).unwrap().is_duplicate());
    assert!(matches!(store.commit(&without_key), Err(Error::Conflict { .. })), "without the key it does not");
}

/// W8, R3.
#[test]
fn racing_readers_never_see_a_part_of_a_commit_over_several_streams() {
    const COMMITS: u32 = 1500;
    let dir = Scratch::new();
    let store = dir.open();
    let beside = Store::open_read_only(dir.store_path()).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for reading in [&store, &beside] {
            let done = &done;
            scope.spawn(move || {
                let mut seen = 0;
                loop {
                    let over = done.load(Ordering::Acquire);
                    let parts = parts_of(reading);
                    assert!(is_whole(&parts), "a part of a commit was seen: {:?}", parts.last());
                    assert!(parts.len() >= seen, "what was seen went away");
                    seen = parts.len();
                    if over {
                        break;
                    }
                }
                assert_eq!(seen, total(COMMITS));
            });
        }
        for n in 0..COMMITS {
            store.submit(&parted(n)).unwrap();
        }
        store.append("end", noted("")).unwrap();
        done.store(true, Ordering::Release);
    });
    let mut parts = parts_of(&store);
    parts.pop();
    assert!(!is_whole(&parts), "the check can fail");
}

/// A commit with one event in each of 1 to 5 streams; each event tells which part of what commit it is.
fn parted(n: u32) -> Commit {
    let mut commit = Commit::new();
    let of = n % 5 + 1;
    for part in 0..of {
        let payload: Vec<u8> = [n, part, of].iter().flat_map(|number| number.to_le_bytes()).collect();
        commit.event(&format!("stream-{part}"), NewEvent::new("part", &payload));
    }
    commit
}

fn total(commits: u32) -> usize {
    (0..commits).map(|n| n as usize % 5 + 1).sum()
}

fn parts_of(store: &Store) -> Vec<[u32; 3]> {
    let part = |event: Event<'_>| {
        let number = |at: usize| u32::from_le_bytes(event.payload()[at..at + 4].try_into().unwrap());
        [number(0), number(4), number(8)]
    };
    store.read(Query::new().types(["part"])).map(|event| part(event.unwrap())).collect()
}

/// Whether these are the parts of whole commits, from commit 0 on.
fn is_whole(parts: &[[u32; 3]]) -> bool {
    let mut due = [0, 0];
    for [n, part, of] in parts {
        if [*n, *part] != due {
            return false;
        }
        due = if part + 1 == *of { [n + 1, 0] } else { [*n, part + 1] };
    }
    due[1] == 0
}

/// W9.
#[test]
fn tickets_answer_in_order_and_a_dropped_one_changes_nothing() {
    let dir = Scratch::new();
    let store = dir.open();
    let mut tickets = Vec::new();
    for n in 1..=5_000_u64 {
        let ticket = store.submit(Commit::new().event("cart-1", noted("x"))).unwrap();
        if n % 3 > 0 {
            tickets.push((n, ticket));
        }
    }
    let last = tickets.pop().unwrap();
    assert_eq!(last.1.wait().unwrap().first().get(), last.0);
    for (n, ticket) in tickets {
        let answer = ticket.poll().expect("those before an answered one are answered").unwrap();
        assert_eq!((answer.first().get(), answer.revision().get()), (n, n));
        assert_eq!(ticket.wait().unwrap(), answer);
    }
    assert_eq!(store.head().get(), 5_000, "the dropped ones were written too");
}

/// W9.
#[test]
fn closing_writes_everything_that_was_submitted_before() {
    for durability in [Durability::Os, Durability::Sync, Durability::Every(NEVER)] {
        let dir = Scratch::new();
        let store = dir.open_with(durability);
        let tickets: Vec<_> =
            (0..2_000).map(|_| store.submit(Commit::new().event("cart-1", noted("x"))).unwrap()).collect();
        let clone = store.clone();
        store.close().unwrap();
        assert!(matches!(clone.submit(Commit::new().event("cart-1", noted("x"))), Err(Error::Closed)));
        assert!(matches!(clone.append("cart-1", noted("x")), Err(Error::Closed)));
        assert!(matches!(clone.clone().close(), Err(Error::Closed)));
        for (n, ticket) in (1..).zip(tickets) {
            assert_eq!(ticket.wait().unwrap().first().get(), n);
        }
        let store = dir.open();
        assert!(store.recovery().clean);
        assert!(is_dense(&positions(store.read(Query::new()))));
        assert_eq!(store.head().get(), 2_000, "{durability:?}");
    }
}

/// W10.
#[test]
fn every_limit_refuses_with_the_size_and_the_limit_before_anything_is_written() {
    let dir = Scratch::new();
    let store = dir.open();
    let big = vec![b'.'; limits::PAYLOAD + 1];
    let wide = "w".repeat(limits::EXTRAS);
    let with = |event: NewEvent<'_>| Commit::new().event("fine", noted("x")).event("cart-1", event).clone();
    let tags = |count: usize| noted("x").tags((0..count).map(|n| n.to_string()));
    let events = |count: usize| {
        let mut commit = Commit::new();
        for _ in 0..count {
            commit.event("s", NewEvent::new("t", ""));
        }
        commit
    };
    let expecting = |count: usize| {
        let mut commit = with(noted("x"));
        for n in 0..count {
            commit.expect(&format!("s-{n}"), Expected::Absent);
        }
        commit
    };
    let mut heavy = Commit::new();
    for _ in 0..4 {
        heavy.event("s", NewEvent::new("t", &big[1..]));
    }

    let refused = [
        (with(NewEvent::new("t", &big)), limits::PAYLOAD + 1, limits::PAYLOAD),
        (with(tags(limits::TAGS + 1)), limits::TAGS + 1, limits::TAGS),
        (events(limits::COMMIT_EVENTS + 1), limits::COMMIT_EVENTS + 1, limits::COMMIT_EVENTS),
        (expecting(limits::EXPECTATIONS + 1), limits::EXPECTATIONS + 1, limits::EXPECTATIONS),
    ];
    for (commit, was, most) in &refused {
        match store.commit(commit).unwrap_err() {
            Error::TooLarge { size, limit, .. } => assert_eq!((size, limit), (*was as u64, *most as u64)),
            other => panic!("{other}"),
        }
    }
    // What else stands in the frames and the extras counts too, so the size is somewhat more than what was given.
    for (commit, at_least, most) in [
        (&with(noted("x").header("h", &*wide)), limits::EXTRAS, limits::EXTRAS),
        (&heavy, limits::COMMIT, limits::COMMIT),
    ] {
        match store.commit(commit).unwrap_err() {
            Error::TooLarge { size, limit, .. } => {
                assert!(size > at_least as u64 && limit == most as u64, "{size} {limit}")
            }
            other => panic!("{other}"),
        }
    }
    assert!(matches!(store.commit(&Commit::new()), Err(Error::Invalid { what: "commit", .. })), "nothing to write");
    assert_eq!(store.head(), Position::START);

    let fitting = [
        with(NewEvent::new("t", &big[1..])),
        with(tags(limits::TAGS)),
        events(limits::COMMIT_EVENTS),
        expecting(limits::EXPECTATIONS),
        with(noted("x").header("h", &wide[..limits::EXTRAS - 16])),
    ];
    let mut written = 0;
    for commit in &fitting {
        store.commit(commit).expect("just within the limits");
        written += commit.len() as u64;
    }
    assert_eq!(store.head().get(), written);
    let last = store.event(store.head()).unwrap().unwrap();
    assert_eq!(last.headers().map(|(_, value)| value.len()).sum::<usize>(), limits::EXTRAS - 16);
    let large = store.event(Position::new(2)).unwrap().unwrap();
    assert_eq!(large.payload().len(), limits::PAYLOAD);
}

/// W10. A name is used in one place of a commit, and refused or taken.
type Use = fn(&Store, &str) -> towpath::Result<()>;

/// Every kind of name, what the store calls it, and whether a `$` at its start is the store's own.
const NAMES: [(&str, bool, Use); 7] = [
    ("stream name", true, |store, name| store.append(name, noted("x")).map(drop)),
    ("event type", true, |store, name| store.append("s", NewEvent::new(name, "x")).map(drop)),
    ("consumer name", true, |store, name| store.cursor(name).open().map(drop)),
    ("tag", false, |store, name| store.append("s", noted("x").tag(name)).map(drop)),
    ("correlation id", false, |store, name| store.append("s", noted("x").correlation(name)).map(drop)),
    ("header name", false, |store, name| store.append("s", noted("x").header(name, "")).map(drop)),
    ("idempotency key", false, |store, name| store.commit(Commit::new().event("s", noted("x")).key(name)).map(drop)),
];

/// W10.
#[test]
fn names_are_not_empty_not_too_long_and_have_no_control_characters() {
    let dir = Scratch::new();
    let store = dir.open();
    let longest = "n".repeat(limits::NAME);
    let longest_wide = "é".repeat(limits::NAME / 2);
    let too_long = [format!("{longest}n"), format!("{longest_wide}n"), format!("{}€", &longest[..limits::NAME - 2])];
    let invalid = ["", "\0", "a\0b", "a\nb", "tab\t", "\u{7f}", "\u{1b}[31m", "next line \u{85}", "\u{9f}"];
    for (what, dollar_is_own, used_in) in NAMES {
        let head = store.head();
        for name in &too_long {
            match used_in(&store, name).unwrap_err() {
                Error::TooLarge { what: told, size, limit } => {
                    assert_eq!((told, size, limit), (what, name.len() as u64, limits::NAME as u64));
                }
                other => panic!("{what}: {other}"),
            }
        }
        for name in invalid {
            let error = used_in(&store, name).unwrap_err();
            assert!(
                matches!(&error, Error::Invalid { what: told, value, .. } if *told == what && value == name),
                "{error}"
            );
        }
        let owns = used_in(&store, "$mine");
        assert_eq!(owns.is_err(), dollar_is_own, "{what}");
        if owns.is_err() {
            assert_eq!(store.head(), head, "{what}");
        }
        for name in [&longest, &*longest_wide, "a", " ", "a$", "Zürich–Köln", "日本 🚲", "../../etc", "-", "a-b-c"]
        {
            used_in(&store, name).unwrap_or_else(|error| panic!("{what} {name:?}: {error}"));
        }
    }
    store.close().unwrap();
    let store = dir.open();
    for name in [&longest, &*longest_wide, "日本 🚲", "../../etc", "-"] {
        assert_eq!(store.revision(name).unwrap().get(), 1);
        assert_eq!(store.read(Query::new().types([name])).count(), 1);
        assert_eq!(store.read(Query::new().tags([name])).count(), 1);
        assert_eq!(store.correlated(name).count(), 1);
    }
}

/// W13. With `TOWPATH_LONG` set, 100,000 events each.
#[test]
fn eight_producers_lose_nothing_and_keep_their_order() {
    let events: u32 = if std::env::var_os("TOWPATH_LONG").is_some() { 100_000 } else { 20_000 };
    let dir = Scratch::new();
    let options = Options::new().segment_bytes(1 << 20).staging_bytes(4 << 10).durability(Durability::Os);
    let store = options.open(dir.store_path()).unwrap();
    race(8, |producer| {
        let stream = format!("producer-{producer}");
        let mut commit = Commit::new();
        for n in 0..events {
            commit.clear().event(&stream, NewEvent::new("n", &n.to_le_bytes()));
            match n % 1000 {
                // Each way of handing in a commit takes part.
                0 => assert!(store.commit(&commit).is_ok()),
                1 => while matches!(store.try_submit(&commit), Err(Error::Busy)) {},
                _ => drop(store.submit(&commit).unwrap()),
            }
        }
    });
    store.close().unwrap();

    let store = small().open(dir.store_path()).unwrap();
    let mut all: HashMap<String, Vec<u32>> = HashMap::new();
    let mut reader = store.read(Query::new());
    while let Some(event) = reader.next_borrowed() {
        let event = event.unwrap();
        all.entry(event.stream().to_owned()).or_default().push(u32::from_le_bytes(event.payload().try_into().unwrap()));
    }
    assert_eq!(all.len(), 8);
    let in_order = |numbers: &[u32]| numbers.iter().copied().eq(0..events);
    for numbers in all.values_mut() {
        assert!(in_order(numbers));
        numbers.swap(3, 4);
        assert!(!in_order(numbers), "the check can fail");
    }
}

/// W13.
#[test]
fn a_full_staging_buffer_refuses_or_makes_producers_wait() {
    let dir = Scratch::new();
    let store = small().staging_bytes(1).durability(Durability::Os).open(dir.store_path()).unwrap();
    let commit = Commit::new().event("cart-1", noted("x")).clone();
    let held = Held::new(&store);
    let first = store.try_submit(&commit).expect("one commit is always taken");
    assert!(matches!(store.try_submit(&commit), Err(Error::Busy)));
    assert!(matches!(store.try_submit(&commit), Err(Error::Busy)), "it stays so while the writer is held up");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| store.submit(&commit).unwrap().wait().unwrap());
        held.let_go();
        assert!(waiting.join().unwrap().first() > first.wait().unwrap().first());
    });
    store.try_submit(&commit).expect("there is room again").wait().unwrap();
}

/// W13: a producer that waits for room is told when the store is closed instead.
#[test]
fn a_producer_that_waits_for_room_is_let_go_by_closing() {
    let dir = Scratch::new();
    let store = small().staging_bytes(1).durability(Durability::Os).open(dir.store_path()).unwrap();
    let written: usize = thread::scope(|scope| {
        let producers: Vec<_> = (0..4)
            .map(|_| {
                let store = store.clone();
                scope.spawn(move || {
                    let commit = Commit::new().event("cart-1", noted("x")).clone();
                    (0..)
                        .take_while(|_| store.submit(&commit).map_err(|e| assert!(matches!(e, Error::Closed))).is_ok())
                        .count()
                })
            })
            .collect();
        while store.head() < Position::new(100) {
            thread::yield_now();
        }
        store.clone().close().unwrap();
        producers.into_iter().map(|producer| producer.join().unwrap()).sum()
    });
    drop(store);
    assert_eq!(dir.open().head().get(), written as u64, "what was taken was written");
}

/// The writer, held up by a rule until it is let go.
struct Held {
    release: mpsc::Sender<()>,
}

impl Held {
    fn new(store: &Store) -> Self {
        let (started, has_started) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let released = Mutex::new(released);
        let mut commit = Commit::new();
        commit.event("holding", noted("")).rule(move |_, _| {
            started.send(()).unwrap();
            released.lock().unwrap().recv().map_err(|error| error.to_string())
        });
        store.submit(&commit).unwrap();
        has_started.recv().unwrap();
        Self { release }
    }

    fn let_go(self) {
        self.release.send(()).unwrap();
    }
}

/// Has the writer take all of these in one group, behind one event of another stream.
fn together(store: &Store, commits: &[&Commit]) -> Vec<towpath::Result<Receipt>> {
    let held = Held::new(store);
    let tickets: Vec<_> = commits.iter().map(|commit| store.submit(commit).unwrap()).collect();
    held.let_go();
    tickets.into_iter().map(towpath::Ticket::wait).collect()
}

/// The same from several threads at once.
fn race<T: Send>(threads: usize, run: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let start = Barrier::new(threads);
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|n| {
                let (start, run) = (&start, &run);
                scope.spawn(move || {
                    start.wait();
                    run(n)
                })
            })
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// What `Store::counters` says of segments. Closing finishes what was sealed, so it has to be asked after that, of a clone.
#[test]
fn segments_that_are_begun_and_sealed_are_counted() {
    let dir = Scratch::new();
    let store = small().durability(Durability::Os).open(dir.store_path()).unwrap();
    store.append("cart-1", noted("small")).unwrap();
    assert_eq!(store.counters().segments_begun, 0, "control: not every append is counted");
    for _ in 0..5 {
        store.append("cart-1", NewEvent::new("large", &[0; 100 << 10])).unwrap();
    }
    let asked_later = store.clone();
    store.close().unwrap();
    let counters = asked_later.counters();
    assert!(counters.segments_begun >= 4, "{counters:?}");
    assert_eq!(counters.segments_sealed, counters.segments_begun);
    drop(asked_later);
    assert_eq!(dir.open().counters(), towpath::Counters::default());
}

/// The memory of streams has 24 MiB; this commit names more than that.
const MANY: usize = 25_500;

#[test]
fn a_commit_of_more_streams_than_are_remembered_gives_each_its_revision() {
    let scratch = Scratch::new();
    let store = Options::new().durability(Durability::Os).open(scratch.store_path()).unwrap();
    let names: Vec<String> = (0..MANY).map(|number| format!("{number:01000}")).collect();
    for round in 0..2 {
        let mut commit = Commit::new();
        for name in names.iter().chain(&names[..10]) {
            commit.event(name, NewEvent::new("added", ""));
        }
        store.commit(&commit).unwrap();
        let stands = |name: usize| store.revision(&names[name]).unwrap().get();
        assert_eq!((stands(0), stands(9)), (2 * round + 2, 2 * round + 2));
        assert_eq!((stands(10), stands(MANY - 1)), (round + 1, round + 1));
    }
}
