//! S5, S9, S3: the file sink, and what files go through.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use towpath::{
    Breaker, Canal, Clock, Cursor, Delivery, FileSink, Forwarded, Forwarder, JsonRecord, ManualClock, NewEvent,
    OnRefusal, Refusal, Retry, Sink, Store, Timestamp,
};

use crate::support::child::{self, say};
use crate::support::{Scratch, noted};

fn with_events(scratch: &Scratch, events: u64) -> Store {
    let store = scratch.open();
    append(&store, 1..=events);
    store
}

fn append(store: &Store, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        store.append("s", noted(&format!("payload {number}"))).unwrap();
    }
}

fn file(scratch: &Scratch) -> PathBuf {
    scratch.path().join("events.ndjson")
}

fn sink(scratch: &Scratch) -> FileSink {
    FileSink::new(file(scratch)).unwrap()
}

/// A forwarder that asks its sink at every turn.
fn eager<S: Sink>(store: &Store, sink: S) -> Forwarder<Cursor, S> {
    let never = Breaker::at_percent(100).of_last(1000).at_least(1000);
    let canal = store.cursor("f").open().unwrap();
    Forwarder::new(canal, sink).retry(Retry::fixed(Duration::ZERO)).breaker(never).batch(10)
}

fn drain(forwarder: &mut Forwarder<Cursor, impl Sink>) {
    for _ in 0..10_000 {
        let done = forwarder.turn(Duration::ZERO).unwrap();
        forwarder.flush().unwrap();
        if done == Forwarded::default() {
            return;
        }
    }
    panic!("it never comes to an end");
}

fn upto(last: u64) -> Vec<u64> {
    (1..=last).collect()
}

/// The files of the sink, rotated ones first and in their order.
fn list(directory: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.is_file()).collect();
    paths.sort_by_key(|path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name == "events.ndjson", name.split_once('-').map(|(_, number)| number.to_owned()), name)
    });
    paths
}

/// The text of a file, unpacked.
fn text(path: &Path) -> String {
    let bytes = fs::read(path).unwrap();
    if path.extension().is_some_and(|extension| extension == "gz") {
        let mut text = String::new();
        flate2::read::GzDecoder::new(&*bytes).read_to_string(&mut text).unwrap();
        return text;
    }
    String::from_utf8(bytes).unwrap()
}

/// The positions in a file's lines, each of which has to be whole.
fn positions_in(path: &Path) -> Vec<u64> {
    let text = text(path);
    assert!(text.is_empty() || text.ends_with('\n'), "{} ends within a line", path.display());
    let position = |line: &str| serde_json::from_str::<Value>(line).unwrap()["position"].as_u64().unwrap();
    text.lines().map(position).collect()
}

fn positions(directory: &Path) -> Vec<u64> {
    list(directory).iter().flat_map(|path| positions_in(path)).collect()
}

/// Every record from 1 on is there, and of those that came twice the first ones came in order.
fn is_complete(positions: &[u64], last: u64) -> bool {
    let mut next = 1;
    for position in positions {
        if *position > next {
            return false;
        }
        next = next.max(position + 1);
    }
    next == last + 1
}

#[test]
fn each_record_is_a_line_that_its_owner_alone_may_read() {
    let scratch = Scratch::new();
    let store = scratch.open();
    store.append("s", noted("one").tag("t").header("line", "a\nb")).unwrap();
    drain(&mut eager(&store, sink(&scratch)));
    append(&store, 2..=25);
    drain(&mut eager(&store, sink(&scratch)));
    assert_eq!(positions(scratch.path()), upto(25), "what was there is appended to");
    assert_eq!(fs::metadata(file(&scratch)).unwrap().permissions().mode() & 0o777, 0o600);

    let mut expected = Vec::new();
    let batch = store.cursor("again").open().unwrap().pull_batch(1, Duration::ZERO).unwrap();
    JsonRecord::new().event(&batch.get(0).unwrap(), &mut expected).unwrap();
    let text = text(&file(&scratch));
    let mut line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let key = line.as_object_mut().unwrap().remove("key").unwrap();
    assert_eq!(line, serde_json::from_slice::<Value>(&expected).unwrap());
    assert_eq!(key, format!("{}@1/f", store.id()));
}

/// S5.
#[test]
fn a_file_is_rotated_before_it_grows_too_large() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 100);
    drain(&mut eager(&store, sink(&scratch).rotate_bytes(2000)));
    let files = list(scratch.path());
    assert!(files.len() > 10, "{files:?}");
    assert!(files.iter().all(|path| fs::metadata(path).unwrap().len() <= 2000));
    assert_eq!(positions(scratch.path()), upto(100), "in order, over all files");

    // Numbers go on where they ended.
    append(&store, 101..=130);
    drain(&mut eager(&store, sink(&scratch).rotate_bytes(2000)));
    assert_eq!(positions(scratch.path()), upto(130));

    // The control: one file unless it is set.
    let scratch = Scratch::new();
    drain(&mut eager(&with_events(&scratch, 100), sink(&scratch)));
    assert_eq!(list(scratch.path()), [file(&scratch)]);
}

/// S5: a record that is larger than a file stands alone.
#[test]
fn a_record_larger_than_a_file_stands_alone() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 3);
    drain(&mut eager(&store, sink(&scratch).rotate_bytes(1)));
    let files = list(scratch.path());
    assert_eq!(files.iter().map(|path| positions_in(path)).collect::<Vec<_>>(), [[1], [2], [3]]);
}

fn day(number: u64) -> Timestamp {
    Timestamp::from_nanos(number * 86_400 * 1_000_000_000)
}

/// S5.
#[test]
fn a_file_is_rotated_when_its_span_of_time_is_over() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 1);
    let clock = Arc::new(ManualClock::at(day(20_000)));
    let daily = || sink(&scratch).rotate_every(Duration::from_secs(86_400)).clock(clock.clone());
    let mut forwarder = eager(&store, daily());
    drain(&mut forwarder);
    clock.set(Timestamp::from_nanos(day(20_001).as_nanos() - 1));
    append(&store, [2]);
    drain(&mut forwarder);
    assert_eq!(list(scratch.path()).len(), 1, "control: the day is not over");
    clock.set(day(20_001));
    append(&store, [3]);
    drain(&mut forwarder);
    let files = list(scratch.path());
    assert_eq!(files.iter().map(|path| positions_in(path)).collect::<Vec<_>>(), [vec![1, 2], vec![3]]);
    assert!(files[0].ends_with("events.20241005T000000Z-000001.ndjson"), "{files:?}");

    // A sink that is opened later knows from the file when it was written to.
    drop(forwarder);
    let written = fs::File::options().write(true).open(file(&scratch)).unwrap();
    written.set_modified(day(20_001).into()).unwrap();
    append(&store, [4]);
    drain(&mut eager(&store, daily()));
    assert_eq!(list(scratch.path()).len(), 2, "control: it is the same day");
    written.set_modified(day(20_001).into()).unwrap();
    clock.set(day(20_005));
    append(&store, [5]);
    drain(&mut eager(&store, daily()));
    assert_eq!(positions_in(&file(&scratch)), [5]);
    assert_eq!(positions(scratch.path()), upto(5));
}

/// S5.
#[test]
fn rotated_files_are_compressed_and_an_interrupted_compression_is_cleaned_up() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 60);
    let packing = || sink(&scratch).rotate_bytes(2000).gzip();
    drain(&mut eager(&store, packing()));
    let is_packed = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "gz");
    let files = list(scratch.path());
    let (active, rotated) = files.split_last().unwrap();
    assert!(rotated.len() > 4 && rotated.iter().all(is_packed) && !is_packed(active), "{files:?}");
    assert_eq!(positions(scratch.path()), upto(60));
    for path in rotated {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    // Killed while it was being packed; killed before the plain one was removed; killed before it was packed.
    let plain = |path: &Path| path.with_extension("");
    let half = PathBuf::from(format!("{}.tmp", rotated[0].display()));
    fs::copy(&rotated[0], &half).unwrap();
    fs::write(plain(&rotated[1]), text(&rotated[1])).unwrap();
    fs::write(plain(&rotated[2]), text(&rotated[2])).unwrap();
    fs::remove_file(&rotated[2]).unwrap();
    // Whatever else lies there is left alone.
    let other = scratch.path().join("events.ndjson.gz.tmp");
    fs::write(&other, "mine").unwrap();
    append(&store, [61]);
    drain(&mut eager(&store, packing()));
    assert_eq!(fs::read(&other).unwrap(), b"mine");
    fs::remove_file(other).unwrap();
    assert!(!half.exists());
    assert!(list(scratch.path()).split_last().unwrap().1.iter().all(is_packed));
    assert_eq!(positions(scratch.path()), upto(61));
}

/// S5, S9: each file that is removed is counted with the reason.
#[test]
fn old_files_are_removed_by_number_size_and_age() {
    let rotated = |with: &dyn Fn(FileSink) -> FileSink| {
        let scratch = Scratch::new();
        let store = scratch.open();
        let clock = Arc::new(ManualClock::at(day(20_000)));
        let mut forwarder = eager(&store, with(sink(&scratch).rotate_bytes(1).clock(clock.clone())));
        for number in 1..=10 {
            clock.set(day(20_000 + number));
            append(&store, [number]);
            drain(&mut forwarder);
        }
        // A minute later, and nothing new but one record.
        clock.set(Timestamp::from_nanos(clock.now().as_nanos() + 61_000_000_000));
        append(&store, [11]);
        drain(&mut forwarder);
        let removed = forwarder.watch().counters().sink.removed;
        let size = fs::metadata(file(&scratch)).unwrap().len();
        (
            positions(scratch.path()),
            removed.iter().map(|(why, count)| (why.to_owned(), count)).collect::<Vec<_>>(),
            size,
        )
    };
    let counted = |why: &str, count| vec![(why.to_owned(), count)];
    let (all, none, size) = rotated(&|sink| sink);
    assert_eq!((all, none), (upto(11), vec![]), "control: nothing is removed unless that is set");

    let (left, removed, _) = rotated(&|sink| sink.keep_files(3));
    assert_eq!((left, removed), (vec![8, 9, 10, 11], counted("more files than are kept", 7)));
    let (left, removed, _) = rotated(&|sink| sink.keep_bytes(4 * size));
    assert_eq!((left, removed), (vec![7, 8, 9, 10, 11], counted("more bytes than are kept", 6)));
    let (left, removed, _) = rotated(&|sink| sink.keep_for(Duration::from_secs(2 * 86_400)));
    assert_eq!((left, removed), (vec![8, 9, 10, 11], counted("older than is kept", 7)));
}

/// Does something to the file between writing and flushing, for as long as there is something to do.
struct Meddler<S>(S, Vec<Box<dyn FnMut() + Send>>);

impl<S: Sink> Sink for Meddler<S> {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn write(&mut self, records: &[Delivery<'_>]) -> Result<(), Refusal> {
        self.0.write(records)
    }
    fn flush(&mut self) -> Result<(), Refusal> {
        if let Some(mut meddle) = self.1.pop() {
            meddle();
        }
        self.0.flush()
    }
    fn counts(&self) -> towpath::SinkCounts {
        self.0.counts()
    }
}

/// Writes to a file and does not look back: the control.
struct Naive(fs::File);

impl Sink for Naive {
    fn name(&self) -> &str {
        "naive"
    }
    fn write(&mut self, records: &[Delivery<'_>]) -> Result<(), Refusal> {
        let line = |record: &Delivery<'_>| writeln!(self.0, "{{\"position\":{}}}", record.position());
        records.iter().try_for_each(line).map_err(|error| Refusal::again(0, error.to_string()))
    }
    fn flush(&mut self) -> Result<(), Refusal> {
        self.0.sync_data().map_err(|error| Refusal::again(0, error.to_string()))
    }
}

/// S5, S3: what was written and not flushed went with the file, and comes again.
#[test]
fn a_file_that_is_removed_replaced_or_cut_before_its_flush_loses_nothing_of_it() {
    type Meddle = fn(&Path);
    let ways: [(&str, Meddle); 5] = [
        ("was removed", |path| fs::remove_file(path).unwrap()),
        ("was removed", |path| fs::rename(path, path.with_extension("elsewhere")).unwrap()),
        ("was replaced by another file", |path| {
            fs::write(path.with_extension("new"), "").unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        }),
        ("was cut by somebody else", |path| {
            fs::File::options().write(true).open(path).unwrap().set_len(10).unwrap();
        }),
        ("was written to by somebody else", |path| {
            fs::File::options().append(true).open(path).unwrap().write_all(b"{\"posi").unwrap();
        }),
    ];
    for (why, meddle) in ways {
        let run = |naive: bool| {
            let scratch = Scratch::new();
            let store = with_events(&scratch, 10);
            let path = file(&scratch);
            let at = path.clone();
            let inner: Box<dyn Sink> = match naive {
                false => Box::new(sink(&scratch)),
                true => Box::new(Naive(fs::File::options().append(true).create(true).open(&path).unwrap())),
            };
            let mut forwarder = eager(&store, Meddler(inner, vec![Box::new(move || meddle(&at))]));
            drain(&mut forwarder);
            let counters = forwarder.watch().counters();
            drop(forwarder);
            let lines = text(&path);
            let whole = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let found: BTreeSet<u64> = whole.map(|line| line["position"].as_u64().unwrap()).collect();
            (found.into_iter().collect::<Vec<_>>() == upto(10) && lines.ends_with('\n'), counters)
        };
        let (complete, counters) = run(false);
        assert!(complete, "{why}");
        let told = counters.last_error.unwrap();
        assert!(told.ends_with(why) && told.contains("events.ndjson"), "{told}");
        assert_eq!(counters.sink.troubles.total(), 1);
    }
    // The control: a sink that does not look back has lost them.
    for (_, meddle) in &ways[..4] {
        let scratch = Scratch::new();
        let store = with_events(&scratch, 10);
        let path = file(&scratch);
        let (at, meddle) = (path.clone(), *meddle);
        let naive = Naive(fs::File::options().append(true).create(true).open(&path).unwrap());
        drain(&mut eager(&store, Meddler(naive, vec![Box::new(move || meddle(&at))])));
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert_ne!(found.lines().count(), 10);
    }
}

/// S5: a file that goes away between two batches is made again, and that is told.
#[test]
fn a_file_that_is_removed_between_batches_is_made_again() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 10);
    let mut forwarder = eager(&store, sink(&scratch));
    drain(&mut forwarder);
    fs::remove_file(file(&scratch)).unwrap();
    append(&store, 11..=20);
    drain(&mut forwarder);
    assert_eq!(positions(scratch.path()), (11..=20).collect::<Vec<_>>());
    let counters = forwarder.watch().counters();
    assert_eq!((counters.released, counters.sink.troubles.total()), (0, 1));
}

/// S5: told as a failure that may pass; when it has passed, everything arrives.
#[test]
fn what_cannot_be_written_is_told_and_recovers() {
    type Change = fn(&Path);
    let ways: [(&str, Change, Change); 5] = [
        ("No such file or directory", |_| {}, |path| fs::create_dir(path.parent().unwrap()).unwrap()),
        ("it is not a regular file", |path| fs::create_dir_all(path).unwrap(), |path| fs::remove_dir(path).unwrap()),
        (
            "it is not a regular file",
            |path| {
                fs::create_dir(path.parent().unwrap()).unwrap();
                fs::write(path.with_extension("target"), "").unwrap();
                symlink(path.with_extension("target"), path).unwrap();
            },
            |path| {
                assert_eq!(fs::read(path).unwrap(), b"", "a symbolic link is not followed");
                fs::remove_file(path).unwrap();
                fs::remove_file(path.with_extension("target")).unwrap();
            },
        ),
        (
            "it is not a regular file",
            |path| {
                fs::create_dir(path.parent().unwrap()).unwrap();
                let made = Command::new("mkfifo").arg(path).status().unwrap();
                assert!(made.success());
            },
            |path| fs::remove_file(path).unwrap(),
        ),
        (
            "holds something else than this sink writes; move it away",
            |path| {
                fs::create_dir(path.parent().unwrap()).unwrap();
                fs::write(path, "dear diary,\nno line end").unwrap();
            },
            |path| {
                assert_eq!(fs::read(path).unwrap(), b"dear diary,\nno line end", "it is left alone");
                fs::remove_file(path).unwrap();
            },
        ),
    ];
    for (why, before, after) in ways {
        let scratch = Scratch::new();
        let store = with_events(&scratch, 25);
        let path = scratch.path().join("logs").join("events.ndjson");
        before(&path);
        let mut sink = FileSink::new(&path).unwrap();
        assert!(sink.open().is_err());
        let mut forwarder = eager(&store, sink);
        for _ in 0..3 {
            let done = forwarder.turn(Duration::ZERO).unwrap();
            assert_eq!((done.forwarded, done.released), (0, 10), "{why}");
        }
        let told = forwarder.watch().counters().last_error.unwrap();
        assert!(told.contains(why) && told.contains("logs"), "{told}");
        after(&path);
        drain(&mut forwarder);
        assert_eq!(positions(path.parent().unwrap()), upto(25), "{why}");
    }
}

/// S5: another process, or another sink in this one, is told.
#[test]
fn one_sink_at_a_time_writes_to_a_file() {
    let scratch = Scratch::new();
    let (mut first, mut second) = (sink(&scratch), sink(&scratch));
    first.open().unwrap();
    let refusal = second.open().unwrap_err();
    assert!(refusal.why.ends_with("is written to by somebody else") && !refusal.is_final(), "{refusal}");
    drop(first);
    second.open().unwrap();
}

/// S5: a crash within a line leaves a part of it, which is no record.
#[test]
fn a_torn_last_line_is_taken_away_and_whole_ones_stay() {
    let whole = {
        let scratch = Scratch::new();
        drain(&mut eager(&with_events(&scratch, 3), sink(&scratch)));
        fs::read(file(&scratch)).unwrap()
    };
    let ends: Vec<usize> = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
    for cut in 0..=whole.len() {
        // A file system may have given it its length before its contents.
        for zeroes in [0, 5000] {
            let scratch = Scratch::in_memory();
            let mut torn = whole[..cut].to_vec();
            torn.resize(cut + zeroes, 0);
            fs::write(file(&scratch), torn).unwrap();
            sink(&scratch).open().unwrap();
            let kept = ends.iter().rev().find(|end| **end <= cut).copied().unwrap_or(0);
            assert_eq!(fs::read(file(&scratch)).unwrap(), whole[..kept], "cut at {cut}, {zeroes} zeroes");
        }
    }
}

/// S5: a power cut may take blocks in the middle and leave later ones. The file is set aside, and nothing of it is lost.
#[test]
fn a_file_with_a_hole_is_set_aside_as_it_is() {
    let scratch = Scratch::new();
    let store = with_events(&scratch, 30);
    drain(&mut eager(&store, sink(&scratch)));
    let damaged = fs::File::options().write(true).open(file(&scratch)).unwrap();
    damaged.write_all_at(&[0; 500], 300).unwrap();
    let before = fs::read(file(&scratch)).unwrap();
    append(&store, 31..=35);
    let mut forwarder = eager(&store, sink(&scratch));
    drain(&mut forwarder);
    assert_eq!(positions_in(&file(&scratch)), (31..=35).collect::<Vec<_>>());
    let aside = &list(scratch.path())[0];
    assert!(fs::read(aside).unwrap() == before, "it is as it was");
    let troubles = forwarder.watch().counters().sink.troubles;
    assert!(troubles.iter().any(|(why, _)| why.ends_with("has zeroes in it; it was set aside as it is")));
}

/// S9.
#[test]
fn a_record_too_large_is_cut_marked_and_counted_or_refused_where_that_does_not_do() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let large = vec![7; 5000];
    let long_tag = "t".repeat(900);
    store.append("s", noted("small")).unwrap();
    store.append("s", NewEvent::new("large", &large)).unwrap();
    store.append("s", noted("all tag").tag(&long_tag)).unwrap();
    store.append("s", noted("small")).unwrap();
    let mut forwarder = eager(&store, sink(&scratch).most_record_bytes(800)).on_refusal(OnRefusal::PassOver);
    drain(&mut forwarder);
    assert_eq!(positions(scratch.path()), [1, 2, 4]);
    let text = text(&file(&scratch));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(text.lines().all(|line| line.len() <= 800) && text.lines().any(|line| line.len() > 790));
    assert_eq!((&lines[1]["cut"], &lines[1]["payload_bytes"]), (&true.into(), &5000.into()));
    assert!(lines[1]["payload_base64"].as_str().unwrap().starts_with("BwcHBwcH"));
    assert_eq!(lines[0].get("cut"), None, "control");
    let counters = forwarder.watch().counters();
    assert_eq!(counters.sink.cut.iter().collect::<Vec<_>>(), [("larger than 800 bytes", 1)]);
    assert_eq!(counters.refused.iter().collect::<Vec<_>>(), [("larger than 800 bytes even without its payload", 1)]);
}

/// S5: no room, and room again, on a disk of its own.
#[test]
fn a_full_disk_is_told_and_costs_no_line() {
    const NAME: &str = "sink_file::a_full_disk_is_told_and_costs_no_line";
    let Some((_, disk)) = child::on_a_disk_of("1m", NAME, &["full"]) else { return };
    let scratch = Scratch::new();
    let store = with_events(&scratch, 200);
    let path = disk.join("events.ndjson");
    let mut forwarder = eager(&store, FileSink::new(&path).unwrap().rotate_bytes(10_000).gzip());
    for round in 0..3 {
        for spare in [0, 100, 5000, 9000, 13_000] {
            let ballast = disk.join("ballast.bin");
            let mut filling = fs::File::create(&ballast).unwrap();
            let mut filled = 0u64;
            while filling.write_all(&[1; 4096]).is_ok() {
                filled += 4096;
            }
            filling.set_len(filled.saturating_sub(spare)).unwrap();
            for _ in 0..5 {
                forwarder.turn(Duration::ZERO).unwrap();
            }
            fs::remove_file(ballast).unwrap();
        }
        append(&store, (store.head().get() + 1)..=(200 + 50 * (round + 1)));
    }
    let told = forwarder.watch().counters();
    assert!(told.released > 0 && told.last_error.unwrap().contains("no room for"), "control: it was never full");
    drain(&mut forwarder);
    let last = store.read(towpath::Query::new()).last().unwrap().unwrap().position().get();
    let (found, files) = (positions(&disk), list(&disk));
    assert!(is_complete(&found, last), "{found:?} in {files:?}");
    assert!(files.iter().all(|path| !path.to_string_lossy().ends_with(".tmp")), "{files:?}");
    say("done");
}

/// S5: behind the process's limit on file sizes a write would end the process.
#[test]
fn the_limit_on_file_sizes_is_told_like_a_full_disk() {
    const NAME: &str = "sink_file::the_limit_on_file_sizes_is_told_like_a_full_disk";
    let Some((_, directory)) = child::role() else {
        let scratch = Scratch::new();
        assert_eq!(child::said(child::command(NAME, "limited", scratch.path())), ["done"]);
        return;
    };
    let scratch = Scratch::new();
    let store = scratch.open();
    let payload = vec![7; 4096];
    for _ in 0..100 {
        store.append("s", NewEvent::new("t", &payload)).unwrap();
    }
    let mut forwarder = eager(&store, FileSink::new(directory.join("events.ndjson")).unwrap());
    let limit = |bytes: Option<u64>| {
        let most = rustix::process::getrlimit(rustix::process::Resource::Fsize).maximum;
        let limit = rustix::process::Rlimit { current: bytes.or(most), maximum: most };
        rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).unwrap();
    };
    // The store's own files stay below it.
    limit(Some(200 << 10));
    for _ in 0..10 {
        forwarder.turn(Duration::ZERO).unwrap();
    }
    let told = forwarder.watch().counters().last_error.unwrap();
    assert!(told.contains("no room for"), "{told}");
    limit(None);
    drain(&mut forwarder);
    assert_eq!(positions(&directory), upto(100));
    say("done");
}

/// S3: a sync that fails says nothing of what was written before it; all of that comes again.
#[test]
fn a_failed_sync_has_everything_since_the_last_one_written_again() {
    const NAME: &str = "sink_file::a_failed_sync_has_everything_since_the_last_one_written_again";
    const SYNCS: u32 = 8;
    let Some((_, directory)) = child::role() else {
        let mut failed = 0;
        for at in 1..=SYNCS {
            let scratch = Scratch::new();
            // Only those of the sink: the store's own failures are told elsewhere.
            let only = file(&scratch);
            let said = child::said_with_a_failed_sync(NAME, "syncing", scratch.path(), Some(&only), at as usize);
            let Some(said) = said else { return };
            failed += u32::from(said[0] != "None");
            assert_eq!(positions(scratch.path()), upto(60), "sync {at}: {said:?}");
        }
        assert!(failed >= SYNCS / 2, "control: the failure was met {failed} times");
        return;
    };
    let scratch = Scratch::in_memory();
    let store = with_events(&scratch, 60);
    let sink = FileSink::new(directory.join("events.ndjson")).unwrap().rotate_bytes(6000);
    let mut forwarder = eager(&store, sink);
    drain(&mut forwarder);
    say(format!("{:?}", forwarder.watch().counters().last_error));
}

/// S3: killed before a flush, between it and the settlement, and while files are rotated and packed.
#[test]
fn a_kill_loses_no_record_and_leaves_no_half_line() {
    const NAME: &str = "sink_file::a_kill_loses_no_record_and_leaves_no_half_line";
    let Some((role, directory)) = child::role() else {
        let (mut repeated, mut killed) = (0, 0);
        for flush in 0..6 {
            for before in [true, false] {
                let scratch = Scratch::new();
                drop(with_events(&scratch, 50));
                let role = format!("{flush} {before}");
                let output = child::finish(child::command(NAME, &role, scratch.path()));
                killed += u32::from(!output.status.success());
                // What a kill within a write may leave.
                if let Ok(mut file) = fs::File::options().append(true).open(file(&scratch)) {
                    file.write_all(b"{\"position\":99,\"str").unwrap();
                }
                let mut sink = sink(&scratch).rotate_bytes(3000).gzip();
                sink.open().unwrap();
                drain(&mut eager(&scratch.open(), sink));
                let found = positions(scratch.path());
                assert!(is_complete(&found, 50), "{role}: {found:?}");
                assert!(found.len() <= 50 + 2 * 10, "{role}: more came again than was not settled: {found:?}");
                repeated += found.len() - 50;
            }
        }
        assert!(repeated > 0 && killed > 8, "control: {repeated} came again after {killed} kills");
        return;
    };
    struct Deadly(FileSink, i32, bool);
    impl Sink for Deadly {
        fn name(&self) -> &str {
            self.0.name()
        }
        fn write(&mut self, records: &[Delivery<'_>]) -> Result<(), Refusal> {
            self.0.write(records)
        }
        fn flush(&mut self) -> Result<(), Refusal> {
            self.1 -= 1;
            let die = || rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            if self.1 < 0 && self.2 {
                die().unwrap();
            }
            self.0.flush()?;
            if self.1 < 0 {
                die().unwrap();
            }
            Ok(())
        }
    }
    let (flush, before) = role.split_once(' ').unwrap();
    let sink = FileSink::new(directory.join("events.ndjson")).unwrap().rotate_bytes(3000).gzip();
    let store = crate::support::small().open(directory.join("orders.towpath")).unwrap();
    let deadly = Deadly(sink, flush.parse().unwrap(), before == "true");
    drain(&mut eager(&store, deadly));
}
