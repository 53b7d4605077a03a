//! S3, S5, D2: dead letters on their way into files that are rotated and compressed, and copies on their way into a stream.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use towpath::{
    Canal as _, Cursor, FileSink, Forwarder, NewEvent, Options, Query, Reason, Settlement, Store, StreamSink,
};

use super::append::payload;
use super::{Marks, Story, marked, wrong};

const ROUNDS: u64 = 20;
const A_ROUND: u64 = 4;
const WORK: &str = "work";
const TO_FILE: &str = "letters to file";
const COPIES: &str = "copies";

pub(crate) const STORY: Story = Story { name: "forwarding", run, check };

fn open(root: &Path) -> towpath::Result<Store> {
    Options::new().segment_bytes(256 << 10).open(root.join("store"))
}

/// A store whose group rejects everything, and two forwarders.
struct Parts {
    store: Store,
    to_file: Forwarder<Cursor, FileSink>,
    to_stream: Forwarder<Cursor, StreamSink>,
}

impl Parts {
    fn begin(store: Store, root: &Path) -> towpath::Result<Self> {
        // Made before anybody asks for its dead letters.
        store.group(WORK).filter(sources()).open()?;
        let letters = Query::new().stream(store.dead_letters(WORK)?.stream());
        let file = FileSink::new(root.join("out.ndjson"))?.rotate_bytes(6 << 10).gzip();
        let to_file = Forwarder::new(store.cursor(TO_FILE).filter(letters).open()?, file).batch(3);
        let copies = StreamSink::new(&store, COPIES)?;
        let to_stream = Forwarder::new(store.cursor("to stream").filter(sources()).open()?, copies).batch(5);
        Ok(Self { store, to_file, to_stream })
    }

    fn append(&self, number: u64, marks: &Marks) -> towpath::Result<()> {
        self.store.append(&format!("p-{}", number % 3), NewEvent::new("n", &payload(number)))?;
        marks.mark(format_args!("E {number}"));
        Ok(())
    }

    /// Rejects everything that there is.
    fn reject(&self) -> towpath::Result<()> {
        let mut member = self.store.group(WORK).filter(sources()).open()?.member()?;
        loop {
            // What was in hand when the power went comes again alone: one batch is not all.
            let batch = member.pull_batch(1000, Duration::ZERO)?;
            if batch.is_empty() {
                return member.flush();
            }
            for delivery in &batch {
                let settlement = Settlement::Reject { reason: Reason::Rejected, why: "no".to_owned() };
                member.settle(delivery.token(), settlement)?;
            }
        }
    }
}

fn sources() -> Query {
    Query::new().category("p")
}

fn run(root: &Path, marks: &Marks) {
    let mut parts = Parts::begin(open(root).unwrap(), root).unwrap();
    let (mut in_file, mut copies) = (0, 0);
    for round in 0..ROUNDS {
        for number in round * A_ROUND + 1..=(round + 1) * A_ROUND {
            parts.append(number, marks).unwrap();
        }
        parts.reject().unwrap();
        in_file += parts.to_file.turn(Duration::ZERO).unwrap().forwarded;
        marks.mark(format_args!("F {in_file}"));
        copies += parts.to_stream.turn(Duration::ZERO).unwrap().forwarded;
        marks.mark(format_args!("K {copies}"));
    }
    assert!(in_file > 0 && copies > 0);
}

fn check(root: &Path, known: &[&str], marks: &Marks) -> Result<(), String> {
    let store = open(root).map_err(wrong)?;
    let told = |kind| marked(known, kind).max().unwrap_or(0);
    let at = |name: &str| {
        let consumers = store.consumers().map_err(wrong)?;
        Ok::<_, String>(consumers.iter().find(|one| one.name == name).map_or(1, |one| one.position.get()))
    };
    let progress = at(TO_FILE)?;
    if progress > store.head().next().get() {
        return Err(format!("the forwarder is at {progress} and the log ends with {}", store.head()));
    }
    let mut parts = Parts::begin(store, root).map_err(wrong)?;
    let sources = positions(&parts.store, sources())?;
    if told("E") > sources.len() as u64 {
        return Err(format!("{} were acknowledged, and {} are there", told("E"), sources.len()));
    }
    // Before the sink has looked at its files: what it said to have, and what the forwarder counts on.
    let letters = positions(&parts.store, Query::new().stream(letters(&parts.store)?))?;
    let there = in_files(root, true)?;
    let owed = letters.iter().take(told("F") as usize).chain(letters.range(..progress));
    if let Some(lost) = owed.into_iter().find(|letter| !there.contains(letter)) {
        return Err(format!("the dead letter at {lost} was forwarded and is in no file"));
    }
    if let Some(ahead) = there.difference(&letters).next() {
        return Err(format!("{ahead} is in a file and not in the log"));
    }
    let copies = positions(&parts.store, Query::new().stream(COPIES))?.len();
    if copies < told("K") as usize || copies > sources.len() {
        return Err(format!("{} copies were told, {copies} are there, of {}", told("K"), sources.len()));
    }
    finish(&mut parts, sources.len() as u64 + 1, root, marks)?;
    drop((parts.to_file, parts.to_stream));
    parts.store.close().map_err(wrong)
}

/// Goes on to the end: everything is a dead letter once, in a file, and copied once.
fn finish(parts: &mut Parts, next: u64, root: &Path, marks: &Marks) -> Result<(), String> {
    parts.append(next, marks).map_err(wrong)?;
    parts.reject().map_err(wrong)?;
    while parts.to_file.turn(Duration::ZERO).map_err(wrong)?.forwarded > 0 {}
    while parts.to_stream.turn(Duration::ZERO).map_err(wrong)?.forwarded > 0 {}
    let letters = positions(&parts.store, Query::new().stream(letters(&parts.store)?))?;
    let (there, copies) = (in_files(root, false)?, positions(&parts.store, Query::new().stream(COPIES))?.len());
    if letters != there || letters.len() as u64 != next || copies as u64 != next {
        return Err(format!("of {next} there are {} letters, {} lines, {copies} copies", letters.len(), there.len()));
    }
    marks.mark(format_args!("F {next}"));
    marks.mark(format_args!("K {next}"));
    Ok(())
}

fn letters(store: &Store) -> Result<String, String> {
    Ok(store.dead_letters(WORK).map_err(wrong)?.stream())
}

fn positions(store: &Store, query: Query) -> Result<BTreeSet<u64>, String> {
    let positions = store.read(query).map(|event| event.map(|event| event.position().get()));
    positions.collect::<towpath::Result<_>>().map_err(wrong)
}

/// The positions in all files of the sink. The end of the one that is written to may be torn.
fn in_files(root: &Path, may_be_torn: bool) -> Result<BTreeSet<u64>, String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(root).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with("out.") || name.ends_with(".tmp") {
            continue;
        }
        let (mut bytes, file) = (Vec::new(), File::open(&path).map_err(wrong)?);
        let read = match name.ends_with(".gz") {
            true => flate2::read::MultiGzDecoder::new(file).read_to_end(&mut bytes),
            false => (&file).read_to_end(&mut bytes),
        };
        read.map_err(|error| format!("{name}: {error}"))?;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            match serde_json::from_slice::<serde_json::Value>(line) {
                Ok(record) if line.ends_with(b"\n") => _ = found.insert(record["position"].as_u64().unwrap_or(0)),
                _ if may_be_torn && name == "out.ndjson" => break,
                _ => return Err(format!("{name} has a torn line: {}", String::from_utf8_lossy(line))),
            }
        }
    }
    Ok(found)
}
