//! The example on real input, run on the month that lies beside it. The figures were counted from the file with awk, not
//! by this crate. Behaviours W7, W9, L1, L2.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::Value;
use towpath::{Error, NewEvent, Position, Query, inspect};

use self::example::late::{self, Lateness};
use self::example::{Import, Table};
use crate::support::Scratch;

#[path = "../../examples/flights/main.rs"]
#[expect(dead_code, reason = "its main and what it prints are for people")]
mod example;

/// Carrier, scheduled, cancelled, departures and their minutes, arrivals with a known delay and their minutes.
const JANUARY: [(&str, [i64; 6]); 16] = [
    ("9E", [1573, 75, 1498, 25290, 1480, 15107]),
    ("AA", [2794, 59, 2735, 18960, 2724, 2676]),
    ("AS", [62, 0, 62, 456, 62, 556]),
    ("B6", [4427, 9, 4418, 41942, 4413, 20817]),
    ("DL", [3690, 29, 3661, 14094, 3655, -16099]),
    ("EV", [4171, 182, 3989, 96649, 3964, 99735]),
    ("F9", [59, 0, 59, 590, 59, 1288]),
    ("FL", [328, 4, 324, 639, 324, 1075]),
    ("HA", [31, 0, 31, 1686, 31, 852]),
    ("MQ", [2271, 65, 2206, 14307, 2203, 17368]),
    ("OO", [1, 0, 1, 67, 1, 107]),
    ("UA", [4637, 32, 4605, 38342, 4590, 14576]),
    ("US", [1602, 47, 1555, 2826, 1554, 2224]),
    ("VX", [316, 1, 315, 335, 314, -4798]),
    ("WN", [996, 11, 985, 9000, 985, 5798]),
    ("YV", [46, 7, 39, 618, 39, 537]),
];
const ROWS: u64 = 27_004;
const EVENTS: u64 = 80_476;
const STREAMS: u64 = 3_149;

#[test]
fn january_is_imported_once_and_replayed_to_the_figures_that_its_rows_add_up_to() {
    let dir = Scratch::new();
    let first = run(&dir, &month());
    assert_eq!((first.import.rows, first.import.known, first.import.written), (ROWS, 0, EVENTS));
    assert_eq!(first.replayed, EVENTS);
    assert_eq!(figures(&first.table), january());
    example::check(&first.table, &first.import).unwrap();

    let again = run(&dir, &month());
    assert_eq!((again.import.rows, again.import.known, again.import.written), (ROWS, ROWS, 0));
    assert_eq!(again.replayed, 0, "the checkpoint stands behind everything");
    assert_eq!(figures(&again.table), january());

    let summary = inspect::summary(dir.store_path()).unwrap();
    assert_eq!((summary.events, summary.streams), (EVENTS, STREAMS));

    // Control: one minute more is noticed.
    let mut wrong = serde_json::to_value(&again.table).unwrap();
    wrong["carriers"]["EV"]["departures"]["minutes"] = 96_650.into();
    let wrong = serde_json::from_value(wrong).unwrap();
    assert_ne!(figures(&wrong), january());
    example::check(&wrong, &again.import).unwrap_err();
}

/// X2, D2, S3: 5,091 departures of January were 15 minutes late or more, 1,851 planes, 314,107 minutes; 155 rows have no tail
/// number, and two events each. Counted with awk.
#[test]
fn late_planes_are_told_once_and_planes_without_a_number_are_dead_letters_in_a_file_once() {
    let dir = Scratch::new();
    let letters = dir.path().join("dead.ndjson");
    let expected = Lateness { planes: 1_851, departures: 5_091, minutes: 314_107 };
    for round in 0..2 {
        let run = run(&dir, &month());
        let store = example::open(&dir.store_path()).unwrap();
        let work = late::work(&store).unwrap();
        assert_eq!((work.handled, work.rejected), if round == 0 { (EVENTS - 310, 310) } else { (0, 0) });
        let found = late::lateness(&store).unwrap();
        assert_eq!(found, expected);
        let dead = store.dead_letters("late").unwrap().iter().unwrap().count() as u64;
        assert_eq!(late::forward(&store, &letters).unwrap(), if round == 0 { 310 } else { 0 });
        example::check_late(&run.table, &run.import, found, dead).unwrap();
        example::check_late(&run.table, &run.import, found, dead + 1).unwrap_err();
        if round == 0 {
            // As if killed after the lines were written, and before the checkpoint was.
            store.seek("late-to-file", Position::new(1)).unwrap();
        }
        store.close().unwrap();
        let mut lines: Vec<String> = std::fs::read_to_string(&letters).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 310);
        lines.dedup();
        assert_eq!(lines.len(), 310, "a line stands there twice");
    }
}

/// The control: a late departure that is told twice is noticed.
#[test]
fn a_departure_that_is_told_twice_is_noticed() {
    let dir = Scratch::new();
    run(&dir, &cut(&dir, 500, |_, line| line.to_owned()));
    let store = example::open(&dir.store_path()).unwrap();
    late::work(&store).unwrap();
    late::lateness(&store).unwrap();
    let told = store.read(Query::new().types(["plane.late"])).next().unwrap().unwrap();
    let again = NewEvent::encoded(told.type_name(), told.codec(), told.payload());
    store.append(told.stream(), again).unwrap();
    late::lateness(&store).unwrap_err();
}

#[test]
fn tags_and_types_find_the_same_flights_that_the_replay_counts() {
    let dir = Scratch::new();
    run(&dir, &cut(&dir, 5_000, |_, line| line.to_owned()));
    let store = example::open(&dir.store_path()).unwrap();
    let lines = text();
    let of = |wanted: &str| lines.lines().skip(1).take(5_000).filter(|l| l.split(',').nth(9) == Some(wanted)).count();
    for carrier in ["EV", "US", "HA"] {
        let query = Query::new().types(["flight.scheduled"]).tags([format!("carrier:{carrier}")]);
        assert_eq!(store.read(query).count(), of(carrier));
    }
    let nowhere = Query::new().types(["flight.scheduled"]).tags(["carrier:EV", "carrier:US"]);
    assert_eq!(store.read(nowhere).count(), 0);
}

#[test]
fn a_run_that_got_only_part_of_the_way_is_gone_on_with() {
    let dir = Scratch::new();
    let part = run(&dir, &cut(&dir, 10_000, |_, line| line.to_owned()));
    assert_eq!(part.import.rows, 10_000);
    assert_ne!(figures(&part.table), january(), "control: the month has more");

    let whole = run(&dir, &month());
    assert_eq!((whole.import.known, whole.import.written), (10_000, EVENTS - part.import.written));
    assert_eq!(whole.replayed, whole.import.written);
    assert_eq!(figures(&whole.table), january());

    std::fs::remove_file(saved(&dir)).unwrap();
    let rebuilt = run(&dir, &month());
    assert_eq!(rebuilt.replayed, EVENTS, "without a table the checkpoint does not count");
    assert_eq!(figures(&rebuilt.table), january());
}

#[test]
fn a_row_that_was_changed_since_is_refused_and_not_counted_twice() {
    let dir = Scratch::new();
    run(&dir, &cut(&dir, 10, |_, line| line.to_owned()));
    let changed = cut(&dir, 10, |number, line| match number {
        7 => line.replace(",B6,507,", ",B6,507,X"),
        _ => line.to_owned(),
    });
    let store = example::open(&dir.store_path()).unwrap();
    let before = store.head();
    let error = example::import(&store, &changed).unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(Error::KeyReused { .. })), "{error}");
    assert_eq!(store.head(), before);
}

struct Run {
    import: Import,
    table: Table,
    replayed: u64,
}

fn run(dir: &Scratch, file: &Path) -> Run {
    let store = example::open(&dir.store_path()).unwrap();
    let import = example::import(&store, file).unwrap();
    let (table, replayed) = example::replay(&store, &saved(dir)).unwrap();
    store.close().unwrap();
    Run { import, table, replayed }
}

fn figures(table: &Table) -> Vec<(String, [i64; 6])> {
    let table = serde_json::to_value(table).unwrap();
    let carriers = table["carriers"].as_object().unwrap().iter();
    let number = |value: &Value| value.as_i64().unwrap();
    let figures = carriers.map(|(carrier, delays)| {
        let [departures, arrivals] = [&delays["departures"], &delays["arrivals"]];
        let figures = [
            &delays["scheduled"],
            &delays["cancelled"],
            &departures["count"],
            &departures["minutes"],
            &arrivals["count"],
            &arrivals["minutes"],
        ];
        (carrier.clone(), figures.map(number))
    });
    figures.collect()
}

fn january() -> Vec<(String, [i64; 6])> {
    JANUARY.iter().map(|(carrier, figures)| ((*carrier).to_owned(), *figures)).collect()
}

fn saved(dir: &Scratch) -> PathBuf {
    dir.path().join("delays.json")
}

fn month() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/flights-2013-01.csv.gz")
}

fn text() -> String {
    let mut text = String::new();
    GzDecoder::new(File::open(month()).unwrap()).read_to_string(&mut text).unwrap();
    text
}

/// The month's first rows as a file of their own, each passed through `change` with its number from 1.
fn cut(dir: &Scratch, rows: usize, change: impl Fn(usize, &str) -> String) -> PathBuf {
    let path = dir.path().join("part.csv.gz");
    let mut file = GzEncoder::new(File::create(&path).unwrap(), Compression::fast());
    for (number, line) in text().lines().take(rows + 1).enumerate() {
        writeln!(file, "{}", if number == 0 { line.to_owned() } else { change(number, line) }).unwrap();
    }
    file.finish().unwrap();
    path
}
