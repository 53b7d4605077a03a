//! X2: a process whose reactors answer events with events is killed at random moments, again and again, on one store. Each
//! answer appears once, in the order of its stream.
//!
//! Twenty kills; as many as `TOWPATH_KILLS` says. The seed of a failed run is in its message; `TOWPATH_SEED` takes it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use towpath::{
    Commit, Cursor, Delivery, Durability, Failure, Group, Handler, Member, NewEvent, Options, Order, Query, Reactor,
    Retry, Stop, Store,
};

const STORE: &str = "TOWPATH_KILLS_STORE";
const ROUND: &str = "TOWPATH_KILLS_ROUND";
const TEST: &str = "what_reactors_answer_appears_once_however_they_are_killed";

/// Who answers, and where: in streams `<kind>-<stream of the order>`.
const ONCE: [&str; 3] = ["each", "group", "whole"];
/// The control: a handler that appends by itself and is settled afterwards.
const LOOSE: &str = "loose";

#[test]
fn what_reactors_answer_appears_once_however_they_are_killed() {
    if let (Some(store), Ok(round)) = (std::env::var_os(STORE), std::env::var(ROUND)) {
        return react_until_killed(Path::new(&store), round.parse().unwrap());
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let kills: u64 = number("TOWPATH_KILLS").unwrap_or(20);
    let seed = number("TOWPATH_SEED").unwrap_or_else(|| u64::from(std::process::id()) * 0x9e37_79b9 + 1);
    let path = std::env::temp_dir().join(format!("towpath-kills-reactor-{}", std::process::id()));
    let _none_yet = std::fs::remove_dir_all(&path);

    let mut random = seed;
    for round in 0..kills {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        react_and_kill(&path, round, random % 400);
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
            let mut stdout = std::io::stdout();
            let mut reports = Reactor::new(store.follow().open().unwrap(), move |_: &Delivery<'_>| {
                if said.fetch_add(1, Ordering::Relaxed).is_multiple_of(10) {
                    stdout.write_all(b"kills:handled\n")?;
                    stdout.flush()?;
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

/// Runs a child, and kills it once it has said so many lines.
fn react_and_kill(path: &Path, round: u64, lines: u64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(STORE, path)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.take().unwrap()).lines();
    let heard = said.take(lines as usize).filter(|line| line.is_ok()).count() as u64;
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(heard == lines && status.code().is_none(), "round {round}: the child ended by itself: {status}");
}
