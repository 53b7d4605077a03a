//! What the target `recovery` does, and what `tests/it/fuzz_regressions.rs` replays. Public API only.
//!
//! An input is a small program: its first byte chooses a sound store, made once a process, and each six bytes behind it
//! damage one file of a copy: bytes flipped, cut, zeroed, moved, forged; files removed, renamed, doubled, replaced. Then the
//! copy is read, checked, opened, appended to, closed and opened again. All may fail, with an error and soon; but what is
//! read has to be what was written, and what was acknowledged as durable may not go without a word.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use towpath::{Commit, Durability, Error, NewEvent, Options, Position, Query, Reader, Store, copies, inspect};

mod forge;

const SEGMENT: u64 = 64 << 10;
/// So many events stand in each segment of a sound store.
const EVENTS: u64 = 12;

/// A store that is in good order, or was when its process ended.
struct Base {
    files: BTreeMap<String, Vec<u8>>,
    events: Vec<Known>,
    /// Every event was acknowledged as durable.
    durable: bool,
}

/// An event as it has to be read.
#[derive(Clone, PartialEq)]
struct Known {
    position: u64,
    stream: String,
    revision: u64,
    type_name: String,
    payload: Vec<u8>,
    tags: Vec<String>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}@{}", self.position, self.stream, self.revision)
    }
}

/// What came of reading.
#[derive(Default)]
struct Read {
    events: Vec<Known>,
    /// Damaged stretches that were told.
    damaged: usize,
    /// A segment could not be opened, and reading ended there.
    stopped: bool,
}

/// What stands in a directory.
enum Entry {
    File(Vec<u8>),
    Folder,
    Link,
}

/// What was done to it, as far as it changes what may be expected.
#[derive(Default)]
struct Done {
    /// Checksums were put right: nobody can tell a forged event from a real one.
    forged: bool,
    /// Files were taken away or put there, or the lock file was changed, which knows what is durable.
    unsettled: bool,
}

/// Damages a store as the input says, and goes through its life. Panics when a promise is broken.
pub(crate) fn run(input: &[u8]) {
    let Some((&choice, program)) = input.split_first() else { return };
    let bases = bases();
    let base = match choice {
        0x80..=0x9f => backup(),
        _ => &bases[usize::from(choice) % bases.len()],
    };
    let mut entries: BTreeMap<String, Entry> =
        base.files.iter().map(|(name, bytes)| (name.clone(), Entry::File(bytes.clone()))).collect();
    let mut done = Done::default();
    for step in program.chunks_exact(6).take(32) {
        damage(&mut entries, step, bases, &mut done);
    }
    let scratch = Scratch::new();
    let path = scratch.0.join("store");
    write(&path, &entries);
    #[cfg(fuzzing)]
    if (0xa0..=0xbf).contains(&choice) {
        return check_repair(&path, base, &done);
    }
    #[cfg(fuzzing)]
    if choice < 0xe0 {
        // Most of what can go wrong does so before there is a writer, whose threads take most of the time.
        if choice & 0x08 == 0 {
            check_read_only(&path, base, &done);
        }
        return match towpath::fuzzing::recovered(&path, SEGMENT) {
            Ok(recovered) => {
                check_events(|query| recovered.read(query), recovered.head(), base, &done, true);
            }
            Err(error) => expected(&error),
        };
    }
    let durability = if choice & 0x10 == 0 { Durability::Os } else { Durability::Sync };
    live(&path, base, &done, durability);
}

/// The control: an event that was forged, while nothing says so. This has to panic.
#[cfg(test)]
pub(crate) fn run_with_a_forged_event() {
    let base = &bases()[0];
    let mut files = base.files.clone();
    let segment = files.get_mut("00000000000000000001.seg").expect("the first segment");
    let at = segment.windows(5).position(|bytes| bytes == b"moved").expect("an event");
    segment[at] = b'M';
    forge::checksums(segment);
    let entries = files.into_iter().map(|(name, bytes)| (name, Entry::File(bytes))).collect();
    let scratch = Scratch::new();
    let path = scratch.0.join("store");
    write(&path, &entries);
    live(&path, base, &Done::default(), Durability::Os);
}

fn damage(entries: &mut BTreeMap<String, Entry>, step: &[u8], bases: &[Base], done: &mut Done) {
    let [what, which, low, high, argument, other] = *step else { return };
    let names: Vec<String> = entries.keys().cloned().collect();
    let Some(name) = names.get(usize::from(which) % names.len().max(1)).cloned() else { return };
    let place = usize::from(u16::from_le_bytes([low, high]));
    done.unsettled |= name == "LOCK";
    let Some(Entry::File(bytes)) = entries.get_mut(&name) else { return };
    let at = place % bytes.len().max(1);
    let length = bytes.len();
    let stretch = |wanted: usize| at..(at + wanted).min(length);
    match what % 14 {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << (argument % 8),
        1 => bytes.truncate(at),
        2 => bytes[stretch(usize::from(argument) * 16 + 1)].fill(0),
        3 => {
            let from = at / 512 * 512;
            let to = (from + 512 * (usize::from(argument % 32) + 1)).min(bytes.len());
            bytes[from..to].fill(0);
        }
        4 => {
            let range = stretch(usize::from(argument) * 8 + 8);
            let to = (at + (usize::from(other) + 1) * 8).min(length - range.len());
            bytes.copy_within(range, to);
        }
        5 => bytes[stretch(8)].iter_mut().for_each(|byte| *byte = argument),
        6 => {
            let value = u64::from(argument).wrapping_sub(u64::from(other)).to_le_bytes();
            let at = at / 8 * 8;
            if let Some(word) = bytes.get_mut(at..at + 8) {
                word.copy_from_slice(&value);
            }
        }
        7 => bytes.extend(std::iter::repeat_n(other, usize::from(argument) * 64)),
        8 => {
            done.forged = true;
            forge::checksums(bytes);
        }
        9 => {
            done.unsettled = true;
            entries.remove(&name);
        }
        10 | 11 => {
            done.unsettled = true;
            let to = new_name(&names, argument);
            let Some(moved) = entries.remove(&name) else { return };
            if let (11, Entry::File(bytes)) = (what % 14, &moved) {
                entries.insert(name, Entry::File(bytes.clone()));
            }
            entries.insert(to, moved);
        }
        12 => {
            done.unsettled = true;
            let foreign = &bases[usize::from(argument) % bases.len()].files;
            let (_, taken) = foreign.iter().nth(usize::from(other) % foreign.len()).expect("within");
            // A whole store's worth of other files is another store, with other events.
            done.forged = true;
            entries.insert(name, Entry::File(taken.clone()));
        }
        13 => {
            done.unsettled = true;
            entries.insert(name, if argument % 2 == 0 { Entry::Folder } else { Entry::Link });
        }
        _ => {}
    }
}

fn new_name(names: &[String], choice: u8) -> String {
    const NAMES: [&str; 12] = [
        "LOCK",
        "spare.tmp",
        "quarantine",
        "00000000000000000000.seg",
        "00000000000000000001.seg",
        "00000000000000000001.idx",
        "00000000000000000001.idx.tmp",
        "00000000000000000002.seg",
        "00000000000000000013.seg",
        "09999999999999999999.seg",
        "18446744073709551615.seg",
        "99999999999999999999.seg",
    ];
    let choice = usize::from(choice) % (NAMES.len() + names.len());
    NAMES.get(choice).map_or_else(|| names[choice - NAMES.len()].clone(), |name| (*name).to_owned())
}

/// What becomes of the store from here.
fn live(path: &Path, base: &Base, done: &Done, durability: Durability) {
    check_read_only(path, base, done);
    check_repair(path, base, done);
    let _verdict = inspect::verify(path, |_| {});
    let _summary = inspect::summary(path);

    let open = || Options::new().durability(durability).segment_bytes(SEGMENT).create(false).open(path);
    let store = match open() {
        Ok(store) => store,
        Err(error) => return expected(&error),
    };
    let before = check_events(|query| store.read(query), store.head(), base, done, true);
    let head = store.head();
    match store.append("cart-0", NewEvent::new("after", "the damage").tag("late")) {
        Ok(receipt) => {
            assert_eq!(receipt.first(), head.next());
            let event = store.event(receipt.first()).expect("just written").expect("just written");
            assert_eq!((event.type_name(), event.payload()), ("after", &b"the damage"[..]));
        }
        Err(error) => return assert!(done.forged, "a store that opened takes an event: {error}"),
    }
    store.close().unwrap_or_else(|error| panic!("a store that took an event closes: {error}"));

    let store = open().unwrap_or_else(|error| panic!("a store that was closed opens: {error}"));
    assert!(store.recovery().clean, "{:?}", store.recovery());
    assert_eq!(store.head(), head.next());
    let after = read(|query| store.read(query), Query::new(), false).events;
    if !done.forged {
        assert!(after.len() >= before.len() && after[..before.len()] == before, "what was read before is read again");
    }
    store.close().expect("a store that nothing was done to closes");
}

/// Opened for reading only, which has to do without recovery.
fn check_read_only(path: &Path, base: &Base, done: &Done) {
    match Store::open_read_only(path) {
        Ok(store) => {
            check_events(|query| store.read(query), store.head(), base, done, false);
            let _revision = store.revision("cart-1");
            let _by_id = store.event_by_id(&towpath::EventId::Own(5));
        }
        Err(error) => expected(&error),
    }
}

/// What is made of it by a repair: every event up to where that says that it ends is there, or told as lost.
fn check_repair(path: &Path, base: &Base, done: &Done) {
    let to = path.with_extension("repaired");
    let plan = match copies::plan_repair(path) {
        Ok(plan) => plan,
        Err(error) => return expected(&error),
    };
    match copies::repair(path, &to, |_| {}) {
        // Files under other names are whole, and do not fit each other.
        Ok(made) => {
            assert!(
                made.repair == plan && (made.damage.is_empty() || done.forged || done.unsettled),
                "{:?}",
                made.damage
            )
        }
        Err(error) => return assert!(done.forged, "{error}"),
    }
    let open = Options::new().durability(Durability::Os).segment_bytes(SEGMENT).create(false).open(&to);
    let store = match open {
        Ok(store) => store,
        Err(error) => return assert!(done.forged, "what was repaired opens: {error}"),
    };
    let events = check_events(|query| store.read(query), store.head(), base, done, true);
    if !done.forged {
        assert_eq!(store.head(), plan.head);
        let is_told =
            |at: u64| plan.lost.iter().any(|lost| (lost.first.get()..lost.first.get() + lost.positions).contains(&at));
        for known in base.events.iter().filter(|known| known.position <= plan.head.get()) {
            let is_there = events.binary_search_by_key(&known.position, |event| event.position).is_ok();
            assert!(is_there != is_told(known.position), "{known:?} is neither there nor told");
        }
    }
    store.close().expect("what was repaired closes");
}

/// Reads everything, in several ways; what comes has to be what was written. Gives the events.
fn check_events(
    reader: impl Fn(Query) -> Reader,
    head: Position,
    base: &Base,
    done: &Done,
    recovered: bool,
) -> Vec<Known> {
    let all = read(&reader, Query::new(), false);
    let mut backwards = read(&reader, Query::new(), true);
    backwards.events.reverse();
    let of_stream = read(&reader, Query::new().stream("cart-1"), false);
    let tagged = read(&reader, Query::new().tags(["day:0"]), true);
    if done.forged {
        return all.events;
    }
    for event in all.events.iter().chain(&backwards.events).chain(&of_stream.events).chain(&tagged.events) {
        let known = event.position.checked_sub(1).and_then(|at| base.events.get(at as usize));
        assert_eq!(Some(event), known, "a wrong event");
    }
    if !all.stopped && !backwards.stopped {
        assert_eq!(all.events, backwards.events, "the same in both directions");
        let by_name: Vec<Known> = all.events.iter().filter(|event| event.stream == "cart-1").cloned().collect();
        assert_eq!(of_stream.events, by_name, "the index says what the events say");
    }
    if recovered && base.durable && !done.unsettled {
        assert!(head.get() >= base.events.len() as u64, "durable events are gone without a word");
        let told = all.stopped || all.damaged > 0;
        assert!(told || all.events == base.events, "durable events are left out without a word");
    }
    all.events
}

/// All events, and what else came.
fn read(reader: impl Fn(Query) -> Reader, query: Query, backwards: bool) -> Read {
    let reader = reader(query);
    let mut read = Read::default();
    for item in if backwards { reader.backwards() } else { reader } {
        assert!(!read.stopped && read.events.len() + read.damaged < 20_000, "a reader comes to an end");
        match item {
            Ok(event) => read.events.push(Known {
                position: event.position().get(),
                stream: event.stream().to_owned(),
                revision: event.revision().get(),
                type_name: event.type_name().to_owned(),
                payload: event.payload().to_vec(),
                tags: event.tags().map(str::to_owned).collect(),
            }),
            Err(Error::Damaged(_)) => read.damaged += 1,
            Err(error) => {
                expected(&error);
                read.stopped = true;
            }
        }
    }
    read
}

/// Errors that bytes on a disk may lead to.
fn expected(error: &Error) {
    let fits = matches!(
        error,
        Error::NotAStore { .. }
            | Error::Damaged(_)
            | Error::Unsupported { .. }
            | Error::Io { .. }
            | Error::Expired { .. }
    );
    assert!(fits, "an error that does not fit: {error}");
}

fn bases() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| {
        vec![
            base(Durability::Sync, 1, true),
            base(Durability::Sync, 1, false),
            base(Durability::Os, 1, false),
            base(Durability::Sync, 3, true),
            base(Durability::Sync, 3, false),
            base(Durability::Os, 3, false),
        ]
    })
}

/// A backup with the mark of its end, which knows what is durable as a lock file does.
fn backup() -> &'static Base {
    static BACKUP: OnceLock<Base> = OnceLock::new();
    BACKUP.get_or_init(|| {
        let store = base(Durability::Sync, 3, true);
        let scratch = Scratch::new();
        let [from, to] = ["store", "backup"].map(|name| scratch.0.join(name));
        write(&from, &store.files.into_iter().map(|(name, bytes)| (name, Entry::File(bytes))).collect());
        copies::backup(from, &to, |_| {}).expect("a good store");
        Base { files: files(&to), ..store }
    })
}

/// Makes a store of so many segments, with commits of up to three events, and takes its files: after closing it, or while
/// it is open, which is what a killed process leaves. That is also how it comes to several small segments.
fn base(durability: Durability, segments: u64, closed: bool) -> Base {
    let scratch = Scratch::new();
    let open =
        |path: &Path| Options::new().durability(durability).segment_bytes(SEGMENT).open(path).expect("a good store");
    let mut path = scratch.0.join("first");
    let mut store = open(&path);
    let mut commit = Commit::new();
    for number in 1..=segments * EVENTS {
        if number > 1 && number % EVENTS == 1 {
            let next = scratch.0.join(number.to_string());
            write(&next, &files(&path).into_iter().map(|(name, bytes)| (name, Entry::File(bytes))).collect());
            (store, path) = (open(&next), next);
        }
        let length = if number % 4 == 0 { 600 } else { 20 };
        let payload: Vec<u8> = (0..length).map(|at| (at * 7 + number) as u8 | 1).collect();
        let event = NewEvent::new(if number % 2 == 0 { "moved" } else { "opened" }, &payload);
        commit.event(&format!("cart-{}", number % 3), event.tag(format!("day:{}", number % 4)).id(number.into()));
        if number % EVENTS % 5 != 1 {
            store.commit(&commit).expect("a good store takes it");
            commit.clear();
        }
        if number == EVENTS / 2 {
            let mut cursor = store.cursor("table").open().expect("a cursor");
            let batch = towpath::Canal::pull_batch(&mut cursor, 4, std::time::Duration::ZERO).expect("events");
            cursor.acknowledge(batch.iter().last().expect("events").position()).expect("a checkpoint");
            towpath::Canal::flush(&mut cursor).expect("a checkpoint");
        }
    }
    // Whoever reads there makes the index files of the older segments.
    let known = read(|query| store.read(query), Query::new(), false).events;
    assert_eq!(known.len() as u64, segments * EVENTS);
    assert_eq!(store.head(), Position::new(segments * EVENTS));
    let open_files = files(&path);
    assert_eq!(
        open_files.len() as u64,
        2 * segments,
        "a lock file, the segments, and an index file of all but the newest"
    );
    let files = if closed {
        store.close().expect("a good store closes");
        files(&path)
    } else {
        open_files
    };
    Base { files, events: known, durable: durability == Durability::Sync }
}

fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(path).expect("the store") {
        let entry = entry.expect("a file");
        let name = entry.file_name().into_string().expect("a plain name");
        files.insert(name, fs::read(entry.path()).expect("a file"));
    }
    files.remove("spare.tmp");
    files
}

fn write(path: &Path, entries: &BTreeMap<String, Entry>) {
    use std::io::Write;

    fs::create_dir(path).expect("an empty folder");
    for (name, entry) in entries {
        let place = path.join(name);
        match entry {
            Entry::File(bytes) => {
                let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                let mut file = fs::File::create(place).expect("a file");
                file.write_all(&bytes[..used]).expect("room");
                file.set_len(bytes.len() as u64).expect("room");
            }
            Entry::Folder => fs::create_dir(place).expect("a folder"),
            Entry::Link => symlink("LOCK", place).expect("a link"),
        }
    }
}

/// A folder in memory where there is one, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("towpath-recovery-{}-{number}", std::process::id()));
        let _none_yet = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _left_behind = fs::remove_dir_all(&self.0);
    }
}
