//! Planes that are late: two workers share the flights, those of one plane in their order, and append what they find. What cannot
//! be handled becomes a dead letter, and dead letters go into a file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use towpath::{
    Commit, Delivery, Failure, FileSink, Forwarder, Group, NewEvent, Order, Position, Query, Reactor, Reason, Revision,
    Store,
};

use super::{Flight, Result};

/// A departure is late from this many minutes on, as the US Department of Transportation counts.
pub(crate) const LATE: i64 = 15;

/// The flights of planes without a tail number, which are all of them cancelled ones.
const NOBODY: &str = "plane-NA";

/// What the workers append, to a stream of its own for each plane.
#[derive(Debug, Serialize, Deserialize)]
enum Plane {
    #[serde(rename = "plane.late")]
    Late { minutes: i64, times: u64, total: i64 },
}

/// What the workers did.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(crate) struct Work {
    pub(crate) handled: u64,
    pub(crate) rejected: u64,
}

/// What is in the store of late planes.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(crate) struct Lateness {
    pub(crate) planes: u64,
    pub(crate) departures: u64,
    pub(crate) minutes: i64,
}

/// Has two workers handle whatever flights they have not handled yet.
///
/// What a worker appends and the settlement of what it handled are one commit. So each late departure is told once,
/// wherever the program is killed.
pub(crate) fn work(store: &Store) -> Result<Work> {
    let group = store.group("late").filter(Query::new().category("plane")).order(Order::Stream).open()?;
    let records = Records::default();
    let done = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(|| worker(store, &group, &records))).collect();
        workers.into_iter().map(|worker| worker.join()).collect::<Vec<_>>()
    });
    let mut work = Work::default();
    for done in done {
        let done = done.map_err(|_| "a worker panicked")??;
        work = Work { handled: work.handled + done.handled, rejected: work.rejected + done.rejected };
    }
    Ok(work)
}

fn worker(store: &Store, group: &Group, records: &Records) -> Result<Work, towpath::Error> {
    let handler = |flight: &Delivery<'_>, commit: &mut Commit| records.handle(store, flight, commit);
    let mut reactor = Reactor::exactly_once(group.member()?, handler);
    let mut work = Work::default();
    loop {
        // A program that goes on for ever would call `run`, or `spawn`.
        let turn = reactor.turn(Duration::from_millis(5))?;
        work = Work { handled: work.handled + turn.done, rejected: work.rejected + turn.rejected };
        // Nothing came; the other worker may hold flights that come back if it fails.
        if turn.pulled == 0 && group.lag() == 0 {
            return Ok(work);
        }
    }
}

/// What is known of each plane so far: made from its flights in the log, so it may be lost at any time.
#[derive(Default)]
struct Records(Mutex<HashMap<String, Record>>);

#[derive(Clone, Copy, Default)]
struct Record {
    /// The last event of the plane that is in it.
    upto: Revision,
    times: u64,
    total: i64,
}

impl Records {
    fn handle(&self, store: &Store, flight: &Delivery<'_>, commit: &mut Commit) -> Result<(), Failure> {
        if flight.stream() == NOBODY {
            return Err(Failure::reject(Reason::Rejected, "the flight has no tail number"));
        }
        let mut record = self.before(store, flight)?;
        let late = record.add(flight.revision(), &flight.decode()?);
        if let Some(minutes) = late {
            let Record { times, total, .. } = record;
            let event = NewEvent::typed(&Plane::Late { minutes, times, total })?.causation(flight.id());
            commit.event(&flight.stream().replace("plane-", "late-"), event);
        }
        self.lock().insert(flight.stream().to_owned(), record);
        Ok(())
    }

    /// The plane's record up to the flight. The group keeps the order of each plane, so that is what the worker before
    /// left here, unless something went wrong in between.
    fn before(&self, store: &Store, flight: &Delivery<'_>) -> Result<Record, Failure> {
        let known = self.lock().get(flight.stream()).copied().unwrap_or_default();
        if known.upto.next() == flight.revision() {
            return Ok(known);
        }
        let mut record = Record::default();
        for event in store.read(Query::new().stream(flight.stream())) {
            let event = event?;
            if event.revision() >= flight.revision() {
                break;
            }
            record.add(event.revision(), &event.decode()?);
        }
        Ok(record)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Record>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Record {
    /// Takes in what happened, and says by how many minutes it was late, if it was.
    fn add(&mut self, revision: Revision, flight: &Flight) -> Option<i64> {
        self.upto = revision;
        let Flight::Departed { delay, .. } = flight else { return None };
        let minutes = Some(*delay).filter(|delay| *delay >= LATE)?;
        self.times += 1;
        self.total += minutes;
        Some(minutes)
    }
}

/// Reads what the workers appended. That each was appended once shows in the events themselves: the n-th of a plane says that it is
/// the n-th, and its total is the sum of all before it.
pub(crate) fn lateness(store: &Store) -> Result<Lateness> {
    let mut planes: HashMap<String, (u64, i64)> = HashMap::new();
    let mut all = Lateness::default();
    for event in store.read(Query::new().types(["plane.late"])) {
        let event = event?;
        let Plane::Late { minutes, times, total } = event.decode()?;
        let known = planes.entry(event.stream().to_owned()).or_default();
        *known = (known.0 + 1, known.1 + minutes);
        if *known != (times, total) {
            return Err(format!("{} was told twice or not at all: {times} against {}", event.stream(), known.0).into());
        }
        all.departures += 1;
        all.minutes += minutes;
    }
    all.planes = planes.len() as u64;
    Ok(all)
}

/// Forwards the dead letters to a file, a line each. Says how many lines were written.
///
/// A forwarder writes, makes sure that it lasts, and then moves its checkpoint; killed in between, it would write the same lines
/// again. The file itself says how far it has come, and that is what counts here: so each letter is one line.
pub(crate) fn forward(store: &Store, file: &Path) -> Result<u64> {
    let dead = store.dead_letters("late")?;
    let mut cursor = store.cursor("late-to-file").filter(Query::new().stream(dead.stream())).open()?;
    let mut sink = FileSink::new(file)?;
    sink.open()?; // Takes off what a kill has left of a line.
    let next = last_position(file)?.next();
    if next > cursor.checkpoint() {
        cursor.seek(next)?;
    }
    let mut forwarder = Forwarder::new(cursor, sink);
    let mut forwarded = 0;
    loop {
        let turn = forwarder.turn(Duration::ZERO)?;
        if turn.released > 0 || turn.refused > 0 {
            return Err(format!("{} cannot be written", file.display()).into());
        }
        if turn.forwarded == 0 {
            forwarder.flush()?;
            return Ok(forwarded);
        }
        forwarded += turn.forwarded as u64;
    }
}

/// Where the last line's event stands in the log.
fn last_position(file: &Path) -> Result<Position> {
    #[derive(Deserialize)]
    struct Line {
        position: u64,
    }
    let mut last = Position::START;
    if file.exists() {
        for line in BufReader::new(File::open(file)?).lines() {
            last = Position::new(serde_json::from_str::<Line>(&line?)?.position);
        }
    }
    Ok(last)
}
