//! What the README's table of figures is measured with. `cargo bench` runs all of it, `cargo bench -- replay` one.
//!
//! Events have 100-byte payloads and go to 10,000 streams unless a name says otherwise. Absolute figures drift with the
//! machine: compare within one run.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use towpath::{Canal, Commit, Durability, NewEvent, Options, Query, Start, Store};

/// Events of one pipelined sample.
const APPENDED: u64 = 2_000_000;
/// Events that reading works on.
const STORED: u64 = 1_000_000;

/// A directory of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("towpath-bench-{}-{name}", std::process::id()));
        let _none_yet = std::fs::remove_dir_all(&path);
        Self(path)
    }

    fn open(&self, durability: Durability) -> Store {
        Options::new().durability(durability).open(&self.0).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

fn names(streams: u64) -> Vec<String> {
    (0..streams).map(|n| format!("stream-{n}")).collect()
}

/// Appends so many events through one reused commit, and waits for the last answer.
fn fill(store: &Store, events: u64, streams: &[String], size: usize, commit_events: u64) {
    let payload = vec![7; size];
    let mut commit = Commit::new();
    let mut last = None;
    let mut streams = streams.iter().cycle();
    for _ in 0..events / commit_events {
        commit.clear();
        for stream in streams.by_ref().take(commit_events as usize) {
            commit.event(stream, NewEvent::new("bench.event", &payload));
        }
        last = Some(store.submit(&commit).unwrap());
    }
    last.unwrap().wait().unwrap();
}

fn group<'c>(criterion: &'c mut Criterion, name: &str, events: u64) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(300));
    group.throughput(Throughput::Elements(events));
    group
}

fn append(criterion: &mut Criterion) {
    let mut group = group(criterion, "append_pipelined_os", APPENDED);
    for (name, streams, size, commit) in [
        ("100_a_commit", 10_000, 100, 100),
        ("1_a_commit", 10_000, 100, 1),
        ("1000000_streams", 1_000_000, 100, 100),
        ("1_KiB", 10_000, 1024, 100),
    ] {
        let streams = names(streams);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let scratch = Scratch::new(name);
                let store = scratch.open(Durability::Os);
                fill(&store, 100_000, &streams, size, commit);
                let begun = Instant::now();
                (0..times).for_each(|_| fill(&store, APPENDED, &streams, size, commit));
                begun.elapsed()
            });
        });
    }
    group.finish();
}

fn blocking(criterion: &mut Criterion) {
    let mut group = group(criterion, "append_blocking", 1);
    for (name, durability) in [("os", Durability::Os), ("sync", Durability::Sync)] {
        let scratch = Scratch::new(name);
        let store = scratch.open(durability);
        let (streams, payload) = (names(10_000), [7; 100]);
        let mut streams = streams.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| store.append(streams.next().unwrap(), NewEvent::new("bench.event", &payload)).unwrap());
        });
    }
    // What the disk allows: the same bytes into a file written before, and a bare fdatasync.
    let scratch = Scratch::new("bare");
    let file = File::create(&scratch.0).unwrap();
    (0..4096).for_each(|page| file.write_all_at(&[0; 4096], page * 4096).unwrap());
    file.sync_all().unwrap();
    let mut at = 0;
    group.bench_function("bare_fdatasync", |bencher| {
        bencher.iter(|| {
            file.write_all_at(&[7; 160], at).unwrap();
            file.sync_data().unwrap();
            at = (at + 160) % (16 << 20);
        });
    });
    std::fs::remove_file(&scratch.0).unwrap();
    group.finish();
}

fn sync_in_flight(criterion: &mut Criterion) {
    const EVENTS: u64 = 20_000;
    let mut group = group(criterion, "append_sync_64_in_flight", EVENTS);
    let (streams, payload) = (names(10_000), [7; 100]);
    let scratch = Scratch::new("in-flight");
    let store = scratch.open(Durability::Sync);
    group.bench_function("1_a_commit", |bencher| {
        bencher.iter(|| {
            let mut tickets = std::collections::VecDeque::new();
            let mut commit = Commit::new();
            for stream in streams.iter().cycle().take(EVENTS as usize) {
                commit.clear().event(stream, NewEvent::new("bench.event", &payload));
                tickets.push_back(store.submit(&commit).unwrap());
                if tickets.len() == 64 {
                    tickets.pop_front().unwrap().wait().unwrap();
                }
            }
            for ticket in tickets {
                ticket.wait().unwrap();
            }
        });
    });
    group.finish();
}

fn read(criterion: &mut Criterion) {
    let scratch = Scratch::new("read");
    let store = scratch.open(Durability::Os);
    let streams = names(10_000);
    fill(&store, STORED, &streams, 100, 100);

    let mut replay = group(criterion, "replay", STORED);
    replay.bench_function("checked", |bencher| {
        bencher.iter(|| {
            let mut reader = store.read(Query::new());
            while let Some(event) = reader.next_borrowed() {
                let event = event.unwrap();
                black_box((event.position(), event.payload().len()));
            }
        });
    });
    replay.bench_function("cursor_batches_of_64", |bencher| {
        bencher.iter(|| {
            let mut cursor = store.follow().open().unwrap();
            loop {
                let batch = cursor.pull_batch(64, Duration::ZERO).unwrap();
                if batch.is_empty() {
                    break;
                }
                for event in &batch {
                    black_box((event.position(), event.payload().len()));
                }
            }
        });
    });
    replay.finish();

    const READ: u64 = 1_000;
    let mut one_stream = group(criterion, "streams", READ * STORED / 10_000);
    one_stream.bench_function("1000_streams_one_after_the_other", |bencher| {
        bencher.iter(|| {
            for stream in &streams[..READ as usize] {
                let mut reader = store.read(Query::new().stream(stream));
                while let Some(event) = reader.next_borrowed() {
                    black_box(event.unwrap().payload().len());
                }
            }
        });
    });
    one_stream.finish();

    let last = store.head();
    let mut point = group(criterion, "point", 1);
    point.bench_function("by_position", |bencher| {
        let mut at = 0;
        bencher.iter(|| {
            at = (at + 104_729) % last.get();
            store.event((at + 1).into()).unwrap().unwrap().position()
        });
    });
    point.finish();
    store.close().unwrap();

    let mut open = group(criterion, "open", 1);
    open.bench_function("after_a_clean_close", |bencher| {
        bencher.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                let begun = Instant::now();
                let store = scratch.open(Durability::Os);
                spent += begun.elapsed();
                store.close().unwrap();
            }
            spent
        });
    });
    open.finish();
}

fn tail_latency(criterion: &mut Criterion) {
    let mut group = group(criterion, "tail_latency", 1);
    let scratch = Scratch::new("tail");
    let store = scratch.open(Durability::Os);
    let (to_reader, from_writer) = std::sync::mpsc::channel::<()>();
    let (to_writer, from_reader) = std::sync::mpsc::channel();
    let mut cursor = store.follow().start(Start::End).open().unwrap();
    let reader = std::thread::spawn(move || {
        while from_writer.recv().is_ok() {
            let batch = cursor.pull_batch(1, Duration::MAX).unwrap();
            black_box(&batch);
            to_writer.send(Instant::now()).unwrap();
        }
    });
    group.bench_function("append_to_a_waiting_cursor", |bencher| {
        bencher.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                to_reader.send(()).unwrap();
                let parked = Instant::now();
                while parked.elapsed() < Duration::from_micros(20) {
                    std::hint::spin_loop();
                }
                let begun = Instant::now();
                store.append("tail-1", NewEvent::new("bench.event", &[7; 100])).unwrap();
                spent += from_reader.recv().unwrap().saturating_duration_since(begun);
            }
            spent
        });
    });
    group.finish();
    drop(to_reader);
    reader.join().unwrap();
}

criterion_group!(benches, append, blocking, sync_in_flight, read, tail_latency);
criterion_main!(benches);
