//! X2: a process whose reactors answer events with events. Each answer appears once, in the order of its stream.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use towpath::{
    Commit, Cursor, Delivery, Durability, Failure, Group, Handler, Member, NewEvent, Options, Order, Query, Reactor,
    Retry, Stop, Store,
};

use crate::random::Random;
use crate::{child, kills_and_seed, run_and_kill, say, scratch};

const TEST: &str = "reactors::what_reactors_answer_appears_once_however_they_are_killed";

/// Who answers, and where: in streams `<kind>-<stream of the order>`.
const ONCE: [&str; 3] = ["each", "group", "whole"];
/// The control: a handler that appends by itself and is settled afterwards.
const LOOSE: &str = "loose";

#[test]
fn what_reactors_answer_appears_once_however_they_are_killed() {
    if let Some((store, round)) = child() {
        return react_until_killed(&store, round);
    }
    let (kills, seed) = kills_and_seed();
    let path = scratch("reactors");

    let mut random = Random(seed);
    for round in 0..kills {
        run_and_kill(TEST, &path, round, random.below(400));
        let store = Store::open_read_only(&path);
        // Killed before there was a store.
        let Ok(store) = store else { continue };
        for kind in ONCE {
            check(&store, kind).unwrap_or_else(|why| panic!("round {round}, seed {seed}: {kind}: {why}"));
        }
    }

    // To the end, undisturbed: nothing is missing either.
    let store = open(&path, 0);
    let mut cursors = (each(&store), whole(&store), loose(&store));
    let mut members = group_worker(&group(&store), store.clone());
    finish(&mut cursors.0);
    finish(&mut cursors.1);
    finish(&mut cursors.2);
    finish(&mut members);
    drop((cursors, members));
    let orders = store.read(orders()).count();
    assert!(orders as u64 > kills * 5, "control: there was something to do: {orders}");
    for kind in ONCE {
        let answered = check(&store, kind).unwrap_or_else(|why| panic!("in the end, seed {seed}: {kind}: {why}"));
        assert_eq!(answered, orders, "{kind}, seed {seed}");
    }
    assert_eq!(store.dead_letters("group").unwrap().iter().unwrap().count(), 0);

    // The controls: the check sees what a handler does that is not exactly once, and one answer too many.
    assert!(check(&store, LOOSE).is_err(), "nothing came twice in {kills} kills, seed {seed}");
    let first = store.read(orders_of("each")).next().unwrap().unwrap();
    store.append(first.stream(), NewEvent::new("answered", first.payload())).unwrap();
    assert!(check(&store, "each").is_err());
    store.close().unwrap();
    std::fs::remove_dir_all(&path).unwrap();
}

fn open(path: &Path, round: u64) -> Store {
    let durability = [Durability::Os, Durability::Every(Duration::from_millis(2)), Durability::Sync];
    Options::new().segment_bytes(128 << 10).durability(durability[round as usize % 3]).open(path).unwrap()
}

fn orders() -> Query {
    orders_of("order")
}

fn orders_of(kind: &str) -> Query {
    Query::new().category(kind)
}

/// Whether each order was answered at most once, and those of a stream in their order. Says how many were.
fn check(store: &Store, kind: &str) -> Result<usize, String> {
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let mut answered = 0;
    for event in store.read(orders_of(kind)) {
        let event = event.map_err(|error| error.to_string())?;
        let order = u64::from_le_bytes(event.payload().try_into().unwrap());
        let before = last.insert(event.stream().to_owned(), order).unwrap_or_default();
        if order <= before {
            return Err(format!("order {order} was answered after {before} of its stream"));
        }
        answered += 1;
    }
    Ok(answered)
}

fn answer(kind: &str, order: &Delivery<'_>, commit: &mut Commit) {
    let position = order.position().get().to_le_bytes();
    commit.event(&format!("{kind}-{}", order.stream()), NewEvent::new("answered", &position));
}

/// Now and then an attempt fails, after it has added its answer: with an error, and with a panic.
fn trouble(at: u64) -> Result<(), Failure> {
    match at % 97 {
        13 => Err(Failure::retry("out of paper")),
        57 => std::panic::resume_unwind(Box::new("out of ink")),
        _ => Ok(()),
    }
}

fn at_once() -> Retry {
    Retry::fixed(Duration::ZERO).attempts(1000)
}

fn cursor(store: &Store, name: &str) -> Cursor {
    store.cursor(name).filter(orders()).open().unwrap()
}

fn group(store: &Store) -> Group {
    store.group("group").filter(orders()).order(Order::Stream).retry(at_once()).open().unwrap()
}

fn each(store: &Store) -> Reactor<Cursor, impl Handler<Cursor> + Send + use<>> {
    let mut calls = 0;
    let handler = move |order: &Delivery<'_>, commit: &mut Commit| {
        calls += 1;
        answer("each", order, commit);
        trouble(calls)
    };
    Reactor::exactly_once(cursor(store, "each"), handler).retry(at_once()).batch(20)
}

fn whole(store: &Store) -> Reactor<Cursor, impl Handler<Cursor> + Send + use<>> {
    let mut calls = 0;
    let handler = move |orders: &[Delivery<'_>], commit: &mut Commit| {
        calls += 1;
        orders.iter().for_each(|order| answer("whole", order, commit));
        trouble(calls * 5)
    };
    Reactor::exactly_once_batches(cursor(store, "whole"), handler).retry(at_once()).batch(30)
}

/// Sets conditions on some of its commits.
fn group_worker(group: &Group, store: Store) -> Reactor<Member, impl Handler<Member> + Send + use<>> {
    let mut calls = 0;
    let handler = move |order: &Delivery<'_>, commit: &mut Commit| {
        calls += 1;
        if calls > 200 {
            let stream = format!("group-{}", order.stream());
            commit.expect(&stream, towpath::Expected::Exact(store.revision(&stream)?));
        }
        answer("group", order, commit);
        trouble(calls)
    };
    Reactor::exactly_once(group.member().unwrap(), handler).batch(25)
}

fn loose(store: &Store) -> Reactor<Cursor, impl Handler<Cursor> + Send + use<>> {
    let appends = store.clone();
    let handler = move |order: &Delivery<'_>| {
        let mut commit = Commit::new();
        answer(LOOSE, order, &mut commit);
        appends.commit(&commit).map(drop)
    };
    Reactor::new(cursor(store, LOOSE), handler).batch(50)
}

/// Takes turns until there is nothing more to do.
fn finish<C: towpath::Canal, H: Handler<C>>(reactor: &mut Reactor<C, H>) {
    while reactor.turn(Duration::from_millis(10)).unwrap().pulled > 0 {}
}

/// The child: one thread places orders in seven streams, and reactors answer them. Each says a line now and then.
fn react_until_killed(path: &Path, round: u64) {
    let store = open(path, round);
    let (group, said) = (group(&store), AtomicU64::new(0));
    let _runs = [
        each(&store).spawn().unwrap(),
        whole(&store).spawn().unwrap(),
        loose(&store).spawn().unwrap(),
        Reactor::spawn_many(2, |_| Ok(group_worker(&group, store.clone()))).unwrap(),
    ];
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut reports = Reactor::new(store.follow().open().unwrap(), move |_: &Delivery<'_>| {
                if said.fetch_add(1, Ordering::Relaxed).is_multiple_of(10) {
                    say("handled");
                }
                Ok::<(), Failure>(())
            });
            reports.run(&Stop::new()).unwrap();
        });
        for number in 0u64.. {
            store.append(&format!("order-{}", number % 7), NewEvent::new("placed", "")).unwrap();
        }
    });
}
