//! How fast the file sink takes events with 100-byte payloads, each batch synced before it is settled.
//! `cargo bench --features sink-file --bench sink_ndjson`

use std::path::PathBuf;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use towpath::{Codec, Commit, Durability, FileSink, Forwarder, NewEvent, Options, Position, Store};

const EVENTS: u64 = 1_000_000;
const BATCH: usize = 8192;

/// A directory of its own, removed at the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

/// A store with so many events, of 1,000 streams.
fn filled(path: PathBuf, codec: Codec, payload: &[u8]) -> Store {
    let store = Options::new().durability(Durability::Os).open(path).unwrap();
    let mut commit = Commit::new();
    for number in 0..EVENTS / 1000 {
        commit.clear();
        for stream in 0..1000 {
            let event = NewEvent::encoded("bench.event", codec, payload).tag(format!("batch:{number}"));
            commit.event(&format!("stream-{stream}"), event);
        }
        store.commit(&commit).unwrap();
    }
    store
}

fn sink_ndjson(criterion: &mut Criterion) {
    let scratch = Scratch(std::env::temp_dir().join(format!("towpath-bench-sink-{}", std::process::id())));
    std::fs::create_dir(&scratch.0).unwrap();
    let mut group = criterion.benchmark_group("sink_ndjson");
    group.throughput(Throughput::Elements(EVENTS)).sample_size(10).measurement_time(Duration::from_secs(20));
    let json = format!("{{\"name\":\"{}\",\"seats\":180,\"late\":true}}", "x".repeat(65));
    assert_eq!(json.len(), 100);
    let message_pack = NewEvent::typed(&Late { name: "x".repeat(82), seats: 180, late: true }).unwrap();
    for (name, codec, payload) in [
        ("json", Codec::Json, json.as_bytes()),
        ("bytes", Codec::Raw, &[7; 100]),
        ("message_pack", Codec::MessagePack, message_pack.payload()),
    ] {
        let store = filled(scratch.0.join(name), codec, payload);
        let path = scratch.0.join(format!("{name}.ndjson"));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let mut spent = Duration::ZERO;
                for _ in 0..times {
                    let _before = std::fs::remove_file(&path);
                    let mut cursor = store.cursor("bench").open().unwrap();
                    cursor.seek(Position::new(1)).unwrap();
                    let mut forwarder = Forwarder::new(cursor, FileSink::new(&path).unwrap()).batch(BATCH);
                    let begun = Instant::now();
                    let mut forwarded = 0;
                    while forwarded < EVENTS {
                        forwarded += forwarder.turn(Duration::ZERO).unwrap().forwarded as u64;
                    }
                    spent += begun.elapsed();
                }
                spent
            });
        });
        store.close().unwrap();
    }
    group.finish();
}

#[derive(serde::Serialize)]
struct Late {
    name: String,
    seats: u32,
    late: bool,
}

criterion_group!(benches, sink_ndjson);
criterion_main!(benches);
