//! A month of real flights: imported as typed events, replayed into a table of delays, worked on by a group of two workers,
//! and checked.
//!
//! ```text
//! cargo run --release --example flights                        # January 2013, which lies beside this file
//! cargo run --release --example flights -- FLIGHTS.csv.gz      # another file, such as that of the whole year
//! cargo run --release --example flights -- FLIGHTS.csv.gz DIR  # and another store than target/flights.towpath
//! ```
//!
//! Run it twice: the second run finds every row in the store already, and prints the same without doing anything again.
//! Kill it at any point and run it again: it goes on where it was, and ends with the same.
//!
//! What is `pub(crate)` is used by the test that runs this page, too.

pub(crate) mod late;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize};
use towpath::{Canal, Commit, Durability, Event, NewEvent, Options, Position, Query, Store, Ticket, inspect};

use self::late::Lateness;

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

fn main() -> Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let file = arguments.next().unwrap_or_else(|| here.join("examples/data/flights-2013-01.csv.gz"));
    let directory = arguments.next().unwrap_or_else(|| here.join("target/flights.towpath"));
    if let Some(parent) = directory.parent() {
        std::fs::create_dir_all(parent)?;
    }
    println!("{} -> {}", file.display(), directory.display());

    let store = open(&directory)?;
    let began = Instant::now();
    let import = import(&store, &file)?;
    let seconds = began.elapsed().as_secs_f64();
    println!("{} rows read in {seconds:.3} s, {} of them here already", import.rows, import.known);
    println!("{} events written in that time: {:.0}/s", import.written, import.written as f64 / seconds);

    let saved = directory.with_extension("delays.json");
    let began = Instant::now();
    let (table, replayed) = replay(&store, &saved)?;
    let seconds = began.elapsed().as_secs_f64();
    println!("{replayed} events replayed in {seconds:.3} s: {:.0}/s", replayed as f64 / seconds);

    let began = Instant::now();
    let work = late::work(&store)?;
    let seconds = began.elapsed().as_secs_f64();
    let late::Work { handled, rejected } = work;
    println!("{handled} flight events handled by two workers, {rejected} rejected, in {seconds:.3} s");
    let lateness = late::lateness(&store)?;
    let dead = store.dead_letters("late")?.iter()?.count() as u64;
    let letters = directory.with_extension("dead.ndjson");
    let forwarded = late::forward(&store, &letters)?;
    println!("{forwarded} of {dead} dead letters forwarded to {}", letters.display());

    store.close()?;
    let summary = inspect::summary(&directory)?;
    println!("{} events in {} streams, {} bytes in the store\n", summary.events, summary.streams, summary.bytes);
    print(&table);
    println!("departures 15 minutes late or more: {} of {} planes", lateness.departures, lateness.planes);
    check(&table, &import)?;
    check_late(&table, &import, lateness, dead)
}

// ---- The events. A serde enum is the schema: the variant's serde name is the event type, its content the payload. ----

/// What happens to a flight. A field that is added later with `#[serde(default)]` leaves old events readable.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Flight {
    #[serde(rename = "flight.scheduled")]
    Scheduled { number: u32, departure: u32, arrival: u32, distance: u32 },
    #[serde(rename = "flight.departed")]
    Departed { time: u32, delay: i64 },
    /// Flights that landed elsewhere have a time of arrival and no delay.
    #[serde(rename = "flight.arrived")]
    Arrived { time: u32, delay: Option<i64>, minutes_in_air: Option<u32> },
    #[serde(rename = "flight.cancelled")]
    Cancelled,
}

/// One line of the file. Times of day are numbers: 517 is 5:17.
#[derive(Deserialize)]
struct Row<'a> {
    #[serde(deserialize_with = "unless_missing")]
    dep_time: Option<u32>,
    sched_dep_time: u32,
    #[serde(deserialize_with = "unless_missing")]
    dep_delay: Option<i64>,
    #[serde(deserialize_with = "unless_missing")]
    arr_time: Option<u32>,
    sched_arr_time: u32,
    #[serde(deserialize_with = "unless_missing")]
    arr_delay: Option<i64>,
    carrier: &'a str,
    flight: u32,
    /// `NA` stays: those flights share the stream `plane-NA`.
    tailnum: &'a str,
    origin: &'a str,
    dest: &'a str,
    #[serde(deserialize_with = "unless_missing")]
    air_time: Option<u32>,
    distance: u32,
    /// The hour it was to leave, in UTC.
    time_hour: &'a str,
}

/// Missing numbers are `NA`. Anything else that is not a number is an error, not a missing one.
fn unless_missing<'de, D: Deserializer<'de>, T: std::str::FromStr<Err: std::fmt::Display>>(
    field: D,
) -> Result<Option<T>, D::Error> {
    match <&str>::deserialize(field)? {
        "NA" => Ok(None),
        text => text.parse().map(Some).map_err(serde::de::Error::custom),
    }
}

impl Row<'_> {
    /// What the row tells, in the order it happened.
    fn events(&self) -> Vec<Flight> {
        let (number, distance) = (self.flight, self.distance);
        let scheduled =
            Flight::Scheduled { number, departure: self.sched_dep_time, arrival: self.sched_arr_time, distance };
        let Some((time, delay)) = self.dep_time.zip(self.dep_delay) else {
            return vec![scheduled, Flight::Cancelled];
        };
        let arrived = |time| Flight::Arrived { time, delay: self.arr_delay, minutes_in_air: self.air_time };
        [scheduled, Flight::Departed { time, delay }].into_iter().chain(self.arr_time.map(arrived)).collect()
    }

    /// No other row has the same carrier, flight number and hour: so this names the row wherever it is read from.
    fn key(&self) -> String {
        format!("{} {}{}", self.time_hour, self.carrier, self.flight)
    }
}

// ---- Writing. ----

/// Under `Os` an append returns once the kernel has the bytes: a killed process loses nothing, a power cut may take the
/// last rows. That is enough here, because the file is still there and its rows have keys, so running again fills what is
/// missing. One `Store::sync` at the end makes it last. Where events have no other source, use `Durability::Sync`, the default.
pub(crate) fn open(directory: &Path) -> Result<Store> {
    Ok(Options::new().durability(Durability::Os).open(directory)?)
}

/// What an import did.
#[derive(Debug, Default)]
pub(crate) struct Import {
    pub(crate) rows: u64,
    /// Rows that stood in the store already.
    pub(crate) known: u64,
    /// Events that were written.
    pub(crate) written: u64,
    /// The table as the rows themselves tell it, to check the replayed one against.
    expected: BTreeMap<String, Delays>,
    /// What the workers have to find in these rows.
    late: Lateness,
    /// Events of rows without a tail number.
    nobody: u64,
}

/// One commit a row: its events are written all or none. Submitting does not wait for the answer, so the rows of one
/// moment share the writer's turn; the tickets that are on their way are kept in a queue with a bound.
pub(crate) fn import(store: &Store, file: &Path) -> Result<Import> {
    let mut csv = csv::Reader::from_reader(flate2::read::MultiGzDecoder::new(File::open(file)?));
    let names = csv.headers()?.clone();
    let (mut done, mut tickets) = (Import::default(), VecDeque::new());
    let (mut record, mut commit) = (csv::StringRecord::new(), Commit::new());
    let mut planes = BTreeSet::new();
    while csv.read_record(&mut record)? {
        let row: Row<'_> = record.deserialize(Some(&names))?;
        let stream = format!("plane-{}", row.tailnum);
        let tags = [("carrier", row.carrier), ("origin", row.origin), ("dest", row.dest)];
        let tags = tags.map(|(name, value)| format!("{name}:{value}"));
        commit.clear().key(&row.key());
        for event in row.events() {
            commit.event(&stream, NewEvent::typed(&event)?.tags(tags.iter().map(String::as_str)));
            add(&mut done.expected, row.carrier, &event);
            done.nobody += u64::from(row.tailnum == "NA");
        }
        if let Some(minutes) = row.dep_delay.filter(|minutes| *minutes >= late::LATE && row.tailnum != "NA") {
            done.late.departures += 1;
            done.late.minutes += minutes;
            done.late.planes += u64::from(planes.insert(row.tailnum.to_owned()));
        }
        done.rows += 1;
        tickets.push_back(store.submit(&commit)?);
        if tickets.len() == 4096 {
            done.settle(tickets.pop_front())?;
        }
    }
    for ticket in tickets {
        done.settle(Some(ticket))?;
    }
    store.sync()?;
    Ok(done)
}

impl Import {
    fn settle(&mut self, ticket: Option<Ticket>) -> Result<()> {
        let Some(receipt) = ticket.map(Ticket::wait).transpose()? else { return Ok(()) };
        if receipt.is_duplicate() {
            self.known += 1;
        } else {
            self.written += receipt.last().get() - receipt.first().get() + 1;
        }
        Ok(())
    }
}

// ---- Reading. ----

/// Delays by carrier, made from the log. It is saved beside the store, together with how far it has come.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Table {
    /// The store it was made from. A table of another store is of no use.
    store: String,
    /// The last position that is in it.
    upto: u64,
    carriers: BTreeMap<String, Delays>,
}

/// What is known of one carrier's flights.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Delays {
    scheduled: u64,
    cancelled: u64,
    departures: Mean,
    arrivals: Mean,
}

/// Whole minutes, so that sums are exact whatever the order.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Mean {
    count: u64,
    minutes: i64,
}

impl Mean {
    fn add(&mut self, minutes: i64) {
        self.count += 1;
        self.minutes += minutes;
    }

    fn get(&self) -> f64 {
        self.minutes as f64 / self.count as f64
    }
}

/// Brings the saved table up to date with what is new in the log, and saves it. Says how many events that were.
///
/// Each event counts once, whatever is killed when: table and position are saved as one file, and the cursor's
/// checkpoint follows only then. Should the two differ, it is the table's position that counts.
pub(crate) fn replay(store: &Store, saved: &Path) -> Result<(Table, u64)> {
    let mut table = load(store, saved)?;
    let mut cursor = store.cursor("delays").filter(Query::new().category("plane")).open()?;
    let next = Position::new(table.upto).next();
    if cursor.checkpoint() != next {
        cursor.seek(next)?;
    }
    let mut replayed = 0;
    loop {
        let batch = cursor.pull_batch(4096, Duration::ZERO)?;
        if batch.is_empty() {
            break; // Nothing more for now. To go on for ever, pull with a longer patience.
        }
        for event in &batch {
            add(&mut table.carriers, carrier(&event)?, &event.decode()?);
            table.upto = event.position().get();
        }
        replayed += batch.len() as u64;
    }
    save(&table, saved)?;
    cursor.acknowledge(Position::new(table.upto))?;
    cursor.flush()?;
    Ok((table, replayed))
}

fn add(table: &mut BTreeMap<String, Delays>, carrier: &str, event: &Flight) {
    let delays = table.entry(carrier.to_owned()).or_default();
    match event {
        Flight::Scheduled { .. } => delays.scheduled += 1,
        Flight::Cancelled => delays.cancelled += 1,
        Flight::Departed { delay, .. } => delays.departures.add(*delay),
        Flight::Arrived { delay, .. } => delay.iter().for_each(|delay| delays.arrivals.add(*delay)),
    }
}

fn carrier<'a>(event: &'a Event<'_>) -> Result<&'a str> {
    let carrier = event.tags().find_map(|tag| tag.strip_prefix("carrier:"));
    carrier.ok_or_else(|| format!("the event at position {} has no carrier", event.position()).into())
}

fn load(store: &Store, saved: &Path) -> Result<Table> {
    let new = Table { store: store.id().to_string(), ..Table::default() };
    if !saved.exists() {
        return Ok(new);
    }
    let table: Table = serde_json::from_reader(File::open(saved)?)?;
    Ok(if table.store == new.store { table } else { new })
}

/// Under a temporary name first, so that there is always a whole table.
fn save(table: &Table, saved: &Path) -> Result<()> {
    let unfinished = saved.with_extension("unfinished");
    let file = File::create(&unfinished)?;
    serde_json::to_writer_pretty(&file, table)?;
    file.sync_all()?;
    Ok(std::fs::rename(unfinished, saved)?)
}

// ---- Showing. ----

fn print(table: &Table) {
    let names = include_str!("../data/airlines.csv").lines().filter_map(|line| line.split_once(','));
    let names: BTreeMap<&str, &str> = names.collect();
    println!("{:31}scheduled cancelled  departed  minutes late  on arrival", "");
    let mut all = Mean::default();
    for (code, Delays { scheduled, cancelled, departures, arrivals }) in &table.carriers {
        let name = names.get(code.as_str()).copied().unwrap_or_default();
        let (departed, late, on_arrival) = (departures.count, departures.get(), arrivals.get());
        println!("{code} {name:28}{scheduled:>9}{cancelled:>10}{departed:>10}{late:>14.2}{on_arrival:>12.2}");
        all.count += departures.count;
        all.minutes += departures.minutes;
    }
    println!("all departures: {}, {:.6} minutes late on average", all.count, all.get());
}

/// What went in must have come out: the same table, by way of the log. A store that holds the rows of other files too
/// has more than this one can tell.
pub(crate) fn check(table: &Table, import: &Import) -> Result<()> {
    let scheduled: u64 = table.carriers.values().map(|delays| delays.scheduled).sum();
    if scheduled > import.rows {
        println!("\nnot checked: the store holds {} flights of other files", scheduled - import.rows);
    } else if table.carriers == import.expected {
        println!("\nchecked: the replayed table is the one that the rows add up to");
    } else {
        return Err("the replayed table is not the one that the rows add up to".into());
    }
    Ok(())
}

/// The workers told each late departure once, and refused each flight without a tail number once, whatever was killed when.
pub(crate) fn check_late(table: &Table, import: &Import, found: Lateness, dead: u64) -> Result<()> {
    let scheduled: u64 = table.carriers.values().map(|delays| delays.scheduled).sum();
    if scheduled > import.rows {
        return Ok(());
    }
    if (found, dead) == (import.late, import.nobody) {
        println!("checked: the late departures and the dead letters are those that the rows add up to");
        Ok(())
    } else {
        Err(format!("{found:?} and {dead} dead letters were found, {:?} and {} expected", import.late, import.nobody)
            .into())
    }
}
