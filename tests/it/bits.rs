//! Every bit and every cut of a small store that has everything: C1, C2, C9.
//!
//! `TOWPATH_BITS=all` flips every bit of every file, `TOWPATH_BITS=10000` about so many, evenly spread; without, a few hundred.
//! What came of it is printed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use towpath::{Canal as _, Commit, Error, NewEvent, Query, Reason, Settlement, Start, Store, Unsettled, inspect};

use crate::support::files::{self, FRAMES};
use crate::support::told::Told;
use crate::support::{Scratch, os};

/// Segments that are sealed: enough for a tier.
const SEALED: usize = 8;
const EVENTS: u64 = 24;
/// About so many bits are flipped unless more are asked for.
const FEW: u64 = 300;

/// Events of a segment: several streams, tags, keys, a commit over two streams.
fn fill(store: &Store, round: u64) {
    for number in 0..EVENTS / 2 {
        let text = format!("{round}-{number}");
        let mut commit = Commit::new();
        commit.event(&format!("cart-{}", number % 3), NewEvent::new("added", &text).tag("sku:tea"));
        commit.event(&format!("round-{round}"), NewEvent::new("noted", &text));
        store.commit(commit.key(&format!("key-{text}"))).unwrap();
    }
}

/// What a group of the store has done: some done, one rejected, one to be retried, two in somebody's hands.
fn work(store: &Store) {
    let group = store.group("workers").start(Start::Beginning).lease(Duration::from_secs(3600)).open().unwrap();
    let mut member = group.member().unwrap();
    let batch = member.pull_batch(6, Duration::ZERO).unwrap();
    let tokens: Vec<_> = batch.iter().map(|delivery| delivery.token()).collect();
    member.settle(tokens[0], Settlement::Done).unwrap();
    let why = || "does not fit".to_owned();
    member.settle(tokens[1], Settlement::Reject { reason: Reason::Rejected, why: why() }).unwrap();
    member.settle(tokens[3], Settlement::Retry { after: Some(Duration::from_secs(3600)), why: why() }).unwrap();
    member.flush().unwrap();
    // As a crash leaves them: a member that is dropped in good order gives back what it holds.
    std::mem::forget((member, group));
}

fn checkpoint(store: &Store) {
    let mut cursor = store.cursor("reader").open().unwrap();
    let batch = cursor.pull_batch(5, Duration::ZERO).unwrap();
    cursor.settle(batch.last().unwrap(), Settlement::Done).unwrap();
    cursor.flush().unwrap();
}

/// Eight sealed segments with index files and a tier, and a newest one with what consumers remember. `closed`: in good order;
/// otherwise as a crash leaves it.
fn store_of_everything(scratch: &Scratch, closed: bool) -> PathBuf {
    let mut path = scratch.path().join("round-0");
    for round in 0..=SEALED {
        let store = os().open(&path).unwrap();
        fill(&store, round as u64);
        if round == SEALED {
            work(&store);
        }
        checkpoint(&store);
        if round == SEALED {
            let begun = Instant::now();
            while files::with_extension(&path, "tier").is_empty() {
                assert!(begun.elapsed() < Duration::from_secs(60), "no tier");
                let _asked = Answers::of(&store);
                std::thread::yield_now();
            }
        }
        if closed && round == SEALED {
            store.close().unwrap();
        } else {
            let copy = scratch.path().join(format!("round-{}", round + 1));
            files::copy(&path, &copy);
            drop(store);
            path = copy;
        }
    }
    let spare = path.join("spare.tmp");
    if spare.exists() {
        fs::remove_file(spare).unwrap();
    }
    assert_eq!((files::segments(&path).len(), files::indexes(&path).len()), (SEALED + 1, SEALED));
    path
}

/// What the consumers stand at: name, position, in flight, waiting, dead.
type Consumers = Vec<(String, u64, u64, u64, u64)>;

/// Everything that a store answers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answers {
    all: Vec<Told>,
    of_stream: Vec<Told>,
    of_tag: Vec<Told>,
    backward: Vec<Told>,
    revisions: Vec<Option<u64>>,
    consumers: Consumers,
    unsettled: Vec<Unsettled>,
    dead: Vec<(u64, u64, String)>,
    /// Whether an error was told on the way.
    is_told: bool,
}

impl Answers {
    fn of(store: &Store) -> Self {
        let mut is_told = !store.recovery().quarantined.is_empty();
        let mut read = |query: Query, back: bool| {
            let reader = store.read(query);
            let mut reader = if back { reader.backwards() } else { reader };
            let mut found = Vec::new();
            while let Some(item) = reader.next_borrowed() {
                match item {
                    Ok(event) => found.push(Told::of(&event)),
                    Err(_) => is_told = true,
                }
                assert!(found.len() < 10_000, "reading does not end");
            }
            found
        };
        let all = read(Query::new(), false);
        let of_stream = read(Query::new().stream("round-2"), false);
        let of_tag = read(Query::new().tags(["sku:tea"]), false);
        let backward = read(Query::new(), true);
        let mut known = |result: towpath::Result<u64>| {
            is_told |= result.is_err();
            result.ok()
        };
        let streams = ["cart-0", "round-0", "round-7", "round-8", "nowhere"];
        let revisions = streams.map(|stream| known(store.revision(stream).map(|revision| revision.get()))).to_vec();
        let (mut consumers, mut unsettled, mut dead) = (Vec::new(), Vec::new(), Vec::new());
        match store.consumers() {
            Ok(found) => {
                let row = |c: towpath::Consumer| (c.name, c.position.get(), c.in_flight, c.waiting, c.dead);
                consumers = found.into_iter().map(row).collect();
            }
            Err(_) => is_told = true,
        }
        if consumers.iter().any(|(name, ..)| name == "workers") {
            match (store.unsettled("workers"), store.dead_letters("workers").and_then(|letters| letters.iter())) {
                (Ok(found), Ok(letters)) => {
                    unsettled = found;
                    for letter in letters {
                        match letter {
                            Ok(letter) => {
                                let why = letter.why().to_owned();
                                dead.push((letter.number().get(), letter.source_position().get(), why));
                            }
                            Err(_) => is_told = true,
                        }
                    }
                }
                _ => is_told = true,
            }
        }
        Self { all, of_stream, of_tag, backward, revisions, consumers, unsettled, dead, is_told }
    }

    /// The same, whether or not anything was told.
    fn is_as(&self, sound: &Self) -> bool {
        Self { is_told: sound.is_told, ..self.clone() } == *sound
    }

    /// An event that was never written.
    fn forged(&self, sound: &Self) -> Option<&Told> {
        let all = [&self.all, &self.of_stream, &self.of_tag, &self.backward];
        all.into_iter().flatten().find(|event| {
            let at = sound.all.binary_search_by_key(&event.position, |known| known.position);
            at.map_or(true, |at| sound.all[at] != **event)
        })
    }
}

/// What came of a flip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Came {
    Told,
    Harmless,
}

/// Judges what somebody says who has opened a changed store.
fn judge(way: &str, found: Option<&Answers>, sound: &Answers, told_elsewhere: bool) -> Result<Came, String> {
    let Some(found) = found else { return Ok(Came::Told) };
    if let Some(wrong) = found.forged(sound) {
        return Err(format!("{way}: never written: {wrong:?}"));
    }
    match (found.is_as(sound), found.is_told || told_elsewhere) {
        (true, false) => Ok(Came::Harmless),
        (false, false) => Err(format!("{way}: other answers without a word")),
        (_, true) => Ok(Came::Told),
    }
}

/// A store in memory, one directory for reading and one for writing.
struct Bench {
    original: BTreeMap<PathBuf, Vec<u8>>,
    reading: PathBuf,
    writing: PathBuf,
    sound: Answers,
}

impl Bench {
    fn new(scratch: &Scratch, original: &Path, name: &str) -> Self {
        let (reading, writing) = (scratch.path().join(format!("{name}-r")), scratch.path().join(format!("{name}-w")));
        files::copy(original, &reading);
        let files = files::snapshot(original).into_iter().filter(|(path, _)| path.is_file());
        let original = files.map(|(path, (_, bytes))| (files::name(&path).into(), bytes)).collect();
        let sound = Answers::of(&Store::open_read_only(&reading).unwrap());
        assert!(!sound.is_told && inspect::verify(&reading, |_| {}).unwrap().ok, "it is sound");
        assert!(sound.all.len() as u64 == (SEALED as u64 + 1) * EVENTS && !sound.unsettled.is_empty());
        assert!(!sound.dead.is_empty() && sound.consumers.len() == 2, "{:?}", sound.consumers);
        Self { original, reading, writing, sound }
    }

    /// What readers say of the store with one byte changed, and whoever verifies it.
    fn read_with(&self, name: &Path, at: u64, byte: u8) -> Result<Came, String> {
        let file = File::options().write(true).open(self.reading.join(name)).unwrap();
        file.write_all_at(&[byte], at).unwrap();
        let verified = inspect::verify(&self.reading, |_| {});
        let verify_tells = verified.map_or(true, |verdict| !verdict.ok || verdict.torn_bytes > 0);
        let found = Store::open_read_only(&self.reading).ok().map(|store| Answers::of(&store));
        file.write_all_at(&[self.original[name][at as usize]], at).unwrap();
        // What can be made again is as if nothing had happened to whoever asks.
        judge("read-only", found.as_ref(), &self.sound, verify_tells && !is_derived(name))
            .map(|came| if verify_tells { Came::Told } else { came })
    }

    /// What the store says to a writer, and what comes of writing.
    fn write_with(&self, name: &Path, at: u64, byte: u8) -> Result<Came, String> {
        let _none_yet = fs::remove_dir_all(&self.writing);
        fs::create_dir(&self.writing).unwrap();
        for (file, bytes) in &self.original {
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let target = self.writing.join(file);
            fs::write(&target, &bytes[..used]).unwrap();
            files::set_len(&target, bytes.len() as u64);
        }
        File::options().write(true).open(self.writing.join(name)).unwrap().write_all_at(&[byte], at).unwrap();
        let Ok(store) = os().open(&self.writing) else { return Ok(Came::Told) };
        let found = Answers::of(&store);
        let came = judge("for writing", Some(&found), &self.sound, false)?;
        let cut = found.is_told && found.all.len() < self.sound.all.len();
        for (stream, expected) in [("cart-0", 1 + self.sound.revisions[0].unwrap()), ("nowhere", 1)] {
            match store.append(stream, NewEvent::new("after", "")) {
                Ok(receipt) if receipt.revision().get() == expected || cut => {}
                Ok(receipt) => return Err(format!("{stream} goes on at revision {}", receipt.revision())),
                Err(Error::Damaged(_)) => return Ok(Came::Told),
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(came)
    }
}

/// Figures of a run.
#[derive(Debug, Default)]
struct Flips {
    flipped: u64,
    told: u64,
    harmless: u64,
    opened_for_writing: u64,
    wrong: Vec<String>,
}

impl Flips {
    fn count(&mut self, what: impl Fn() -> String, came: Result<Came, String>) {
        self.flipped += 1;
        match came {
            Ok(Came::Told) => self.told += 1,
            Ok(Came::Harmless) => self.harmless += 1,
            Err(why) => self.wrong.push(format!("{}: {why}", what())),
        }
    }

    fn add(&mut self, other: Self) {
        self.flipped += other.flipped;
        self.told += other.told;
        self.harmless += other.harmless;
        self.opened_for_writing += other.opened_for_writing;
        self.wrong.extend(other.wrong);
    }
}

/// Flips the bits of the store's files: every `stride`-th, the others by other threads. Opening for writing is tried with one bit
/// of each eight that are flipped, and with all of the lock file.
fn flip(bench: &Bench, begin: u64, stride: u64, only: impl Fn(&Path) -> bool) -> Flips {
    let mut flips = Flips::default();
    let mut at = begin;
    for (name, bytes) in bench.original.iter().filter(|(name, _)| only(name)) {
        let bits = bytes.len() as u64 * 8;
        while at < bits {
            let (byte, bit) = (at / 8, at % 8);
            let changed = bytes[byte as usize] ^ 1 << bit;
            let mut came = bench.read_with(name, byte, changed);
            if flips.flipped.is_multiple_of(8) || name == Path::new("LOCK") {
                flips.opened_for_writing += 1;
                came = came.and_then(|read| bench.write_with(name, byte, changed).map(|written| read.min(written)));
            }
            if came == Ok(Came::Harmless) && !may_be_silent(name, byte, bytes) {
                came = Err("nothing was told, and it is neither blank nor made again".to_owned());
            }
            flips.count(|| format!("bit {bit} of byte {byte} of {}", name.display()), came);
            at += stride;
        }
        at -= bits;
    }
    flips
}

fn is_derived(name: &Path) -> bool {
    name.extension().is_some_and(|extension| extension == "idx" || extension == "tier")
}

/// Blank space, the lock file, which nobody has to believe, and what is made again from the segments.
fn may_be_silent(name: &Path, byte: u64, bytes: &[u8]) -> bool {
    name == Path::new("LOCK") || is_derived(name) || bytes[byte as usize] == 0 && byte >= FRAMES
}

/// C2, C9.
#[test]
fn any_flipped_bit_of_any_file_is_told_or_harmless() {
    let scratch = Scratch::in_memory();
    let asked = std::env::var("TOWPATH_BITS").ok();
    let is_all = asked.as_deref() == Some("all");
    let few = asked.and_then(|bits| bits.parse().ok()).unwrap_or(FEW);
    let threads = if few > FEW || is_all { 2 } else { 1 };
    let mut flips = Flips::default();
    for closed in [true, false] {
        let made = Scratch::in_memory();
        let original = store_of_everything(&made, closed);
        // Of the second one only what differs: the rest is as in the first.
        let newest = files::name(&files::newest(&original));
        let only = |name: &Path| closed || name == Path::new("LOCK") || name == Path::new(&newest);
        let bits: u64 = files::snapshot(&original).values().map(|(_, bytes)| bytes.len() as u64 * 8).sum();
        // Odd, so that it comes to all eight bits of a byte.
        let stride = if is_all { threads } else { (bits * threads / few) | 1 };
        let found = std::thread::scope(|scope| {
            let work = |begin: u64| {
                let bench = Bench::new(&scratch, &original, &format!("{closed}-{begin}"));
                flip(&bench, if is_all { begin } else { begin * stride / threads }, stride, only)
            };
            let workers: Vec<_> = (0..threads).map(|begin| scope.spawn(move || work(begin))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
        });
        found.into_iter().for_each(|found| flips.add(found));
    }
    let Flips { flipped, told, harmless, opened_for_writing, wrong } = &flips;
    let line = format!(
        "bits flipped: {flipped}, told: {told}, harmless: {harmless}, wrong: {}; opened for writing, too: {opened_for_writing}",
        wrong.len()
    );
    println!("{line}");
    assert!(wrong.is_empty(), "{line}\n{}", wrong[..wrong.len().min(20)].join("\n"));
    assert!(*told > FEW / 3 && *harmless > 10, "control: {line}");
}

/// The control for both: a reader that believes what stands there gives events that were never written.
#[test]
fn a_reader_that_does_not_check_is_caught_by_the_same_judge() {
    let (scratch, made) = (Scratch::in_memory(), Scratch::in_memory());
    let bench = Bench::new(&scratch, &store_of_everything(&made, true), "control");
    let segment = files::segments(&bench.reading)[2].clone();
    let name = PathBuf::from(files::name(&segment));
    let (mut caught, mut told) = (0, 0);
    for frame in files::frames(&segment).into_iter().filter(|frame| !frame.is_control) {
        // In the name of the stream.
        let (at, byte) = (frame.offset + 41, bench.original[&name][frame.offset as usize + 41] ^ 1);
        files::overwrite(&segment, at, &[byte]);
        let found = naive(&bench.reading, &bench.sound);
        files::overwrite(&segment, at, &[byte ^ 1]);
        caught += u64::from(judge("naive", Some(&found), &bench.sound, false).is_err_and(|why| why.contains("never")));
        told += u64::from(bench.read_with(&name, at, byte) == Ok(Came::Told));
    }
    assert_eq!((caught, told), (EVENTS, EVENTS));
    assert_eq!(judge("naive", Some(&naive(&bench.reading, &bench.sound)), &bench.sound, false), Ok(Came::Harmless));
}

/// What somebody reads who takes each frame for what it says. What only the extras say is taken from what is known.
fn naive(path: &Path, sound: &Answers) -> Answers {
    let mut all = Vec::new();
    for segment in files::segments(path) {
        let bytes = fs::read(&segment).unwrap();
        for frame in files::frames(&segment).into_iter().filter(|frame| !frame.is_control) {
            let Some(known) = sound.all.iter().find(|event| event.position == frame.position) else { continue };
            let at = frame.offset as usize;
            let len = usize::from(u16::from_le_bytes([bytes[at + 34], bytes[at + 35]]));
            let stream = String::from_utf8_lossy(bytes.get(at + 40..at + 40 + len).unwrap_or_default()).into_owned();
            all.push(Told { stream, ..known.clone() });
        }
    }
    Answers { all, ..sound.clone() }
}

/// C9.
#[test]
fn without_any_or_all_of_the_derived_files_the_answers_are_the_same() {
    let (scratch, made) = (Scratch::in_memory(), Scratch::in_memory());
    let bench = Bench::new(&scratch, &store_of_everything(&made, true), "derived");
    let answers = || Answers::of(&Store::open_read_only(&bench.reading).unwrap());
    let derived: Vec<_> = bench.original.keys().filter(|name| is_derived(name)).collect();
    assert_eq!(derived.len(), SEALED + 1);
    for name in &derived {
        fs::remove_file(bench.reading.join(name)).unwrap();
        assert_eq!(answers(), bench.sound, "without {}", name.display());
        fs::write(bench.reading.join(name), &bench.original[*name]).unwrap();
    }
    for name in &derived {
        fs::remove_file(bench.reading.join(name)).unwrap();
    }
    assert_eq!(answers(), bench.sound);
    // Control: a segment is not derived.
    fs::remove_file(&files::segments(&bench.reading)[0]).unwrap();
    assert!(Store::open_read_only(&bench.reading).is_err());
}

/// C1: of a store that has everything. What consumers stand at is cut with the commits that say it.
#[test]
fn a_newest_segment_cut_at_any_byte_of_its_last_three_commits_keeps_events_and_consumers() {
    let (scratch, made) = (Scratch::in_memory(), Scratch::in_memory());
    let original = store_of_everything(&made, false);
    let newest = files::newest(&original);
    let frames = files::frames(&newest);
    let ends: Vec<u64> = frames.iter().filter(|frame| !frame.has_more).map(|frame| frame.end).collect();
    let [.., from, _, _, to] = ends[..] else { panic!("too few commits: {ends:?}") };
    let (work, bytes) = (scratch.path().join("work"), fs::read(&newest).unwrap());
    let cut_at = |cut: u64, is_shorter: bool| {
        files::copy(&original, &work);
        let newest = files::newest(&work);
        if is_shorter {
            files::set_len(&newest, cut)
        } else {
            files::blank_from(&newest, cut)
        }
        Answers::of(&os().open(&work).unwrap())
    };
    let expected: BTreeMap<u64, Answers> =
        ends.iter().filter(|end| **end >= from).map(|end| (*end, cut_at(*end, false))).collect();
    for cut in from..=to {
        let is_shorter = cut % 2 == 0;
        // Zeroes at the end of a frame may be cut from a blank file without loss.
        let is_whole =
            |end: u64| end <= cut || !is_shorter && bytes[cut as usize..end as usize].iter().all(|b| *b == 0);
        let (_, expected) = expected.iter().rev().find(|(end, _)| is_whole(**end)).unwrap();
        assert!(cut_at(cut, is_shorter).is_as(expected), "cut at {cut} of {from}..={to}");
    }
    // Control: the last three commits say different things, so that the comparison can fail.
    let all: Vec<_> = expected.values().collect();
    assert!(all.windows(2).all(|pair| !pair[0].is_as(pair[1])), "{ends:?}");
}
