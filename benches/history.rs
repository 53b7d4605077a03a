//! Whether a store stays as fast as its history grows: appends to it up to each of some sizes, and at each closes it, opens it
//! again, and asks it.
//!
//! `cargo bench --features cli --bench history -- --sizes 1000000,10000000,100000000 --dir DIR`
//! (about 19 GB on the disk for the last of them). Without `--sizes` it goes up to a million.

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use towpath::{Commit, Durability, NewEvent, Options, Position, Query, Revision, Store, inspect};

/// Events of one stream, of one tag.
const EACH: u64 = 10;
/// Streams that are written to at a time, when they come and go.
const ALIVE: usize = 10_000;
const COMMIT: u64 = 100;
const PAYLOAD: [u8; 100] = [b'.'; 100];

#[derive(Debug, Parser)]
struct Args {
    /// How many events the store has when it is asked.
    #[arg(long, value_delimiter = ',', default_value = "100000,1000000")]
    sizes: Vec<u64>,
    /// Which stream an event goes to.
    #[arg(long, value_enum, default_value = "lifetimes")]
    pattern: Pattern,
    /// Give each commit an idempotency key.
    #[arg(long)]
    keys: bool,
    /// Questions of each kind.
    #[arg(long, default_value_t = 2_000)]
    questions: u64,
    /// Where the store is made; it is removed at the end.
    #[arg(long)]
    dir: Option<PathBuf>,
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Pattern {
    /// Streams come and go: 10,000 are alive at a time, each gets ten events.
    Lifetimes,
    /// Each event goes to any of a tenth as many streams as there will be events at last.
    Uniform,
}

/// Xorshift64*: the same numbers in each run. (Vigna, 2016.)
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((u128::from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)) * u128::from(bound)) >> 64) as u64
    }
}

/// Asks something of random events, and counts what was found.
type Question<'a> = Box<dyn FnMut(&mut Random) -> towpath::Result<u64> + 'a>;

/// Which stream comes next.
enum Streams {
    Lifetimes { alive: Vec<(u64, u64)>, next: u64 },
    Uniform(u64),
}

impl Streams {
    fn next(&mut self, random: &mut Random) -> u64 {
        match self {
            Streams::Uniform(streams) => random.below(*streams),
            Streams::Lifetimes { alive, next } => {
                let slot = &mut alive[random.below(ALIVE as u64) as usize];
                if slot.1 == EACH {
                    *slot = (*next, 0);
                    *next += 1;
                }
                slot.1 += 1;
                slot.0
            }
        }
    }

    fn known(&self) -> u64 {
        match self {
            Streams::Uniform(streams) => *streams,
            Streams::Lifetimes { next, .. } => *next,
        }
    }
}

struct Run<'a> {
    args: &'a Args,
    path: &'a Path,
    random: Random,
    streams: Streams,
    /// The most memory that was the process's own, sampled while appending.
    anonymous: f64,
}

fn main() -> towpath::Result<()> {
    let args = Args::parse();
    let path = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let path = path.join(format!("towpath-history-{}", std::process::id()));
    let largest = args.sizes.iter().copied().max().unwrap_or_default();
    let streams = match args.pattern {
        Pattern::Uniform => Streams::Uniform(largest / EACH),
        Pattern::Lifetimes => {
            Streams::Lifetimes { alive: (0..ALIVE as u64).map(|id| (id, 0)).collect(), next: ALIVE as u64 }
        }
    };
    let mut run = Run { args: &args, path: &path, random: Random(0x9e37_79b9), streams, anonymous: 0.0 };
    let result = args.sizes.iter().try_for_each(|size| run.to(*size));
    let _left_behind = std::fs::remove_dir_all(&path);
    result
}

impl Run<'_> {
    fn to(&mut self, size: u64) -> towpath::Result<()> {
        let store = open(self.path)?;
        let (rates, costs) = self.append(&store, size)?;
        store.close()?;
        println!("## {size} events");
        println!("append, M events/s by tenths: {}", rates.join(" "));
        println!("processor time of all threads, us an event: {}", costs.join(" "));
        println!("anonymous memory, most while appending: {:.1} MiB", self.anonymous);

        let begun = Instant::now();
        until_merged(self.path)?;
        println!("merged {:.1} s after that", begun.elapsed().as_secs_f64());
        let summary = inspect::summary(self.path)?;
        let bytes = |extension| bytes(self.path, extension) as f64 / size as f64;
        println!(
            "{} segments, {} streams, {} index files asked; bytes an event: log {:.1}, indexes {:.2}, tiers {:.2}",
            summary.segments,
            summary.streams,
            summary.index_files,
            bytes("seg"),
            bytes("idx"),
            bytes("tier"),
        );
        let begun = Instant::now();
        let store = open(self.path)?;
        println!("open: {:.2} ms", begun.elapsed().as_secs_f64() * 1e3);
        // Questions for what was not asked for yet touch pages for the first time; those that come again do not.
        for (round, seed) in [("just opened", 1), ("others", 2), ("the same again", 2)] {
            self.ask(&store, round, &mut Random(seed), size)?;
        }
        println!("anonymous memory after that: {:.1} MiB\n", anonymous_mib());
        store.close()
    }

    /// Appends up to `size`, and tells the rate of each tenth, and what it costs. A disk that cannot keep up slows down the
    /// one and not the other.
    fn append(&mut self, store: &Store, size: u64) -> towpath::Result<(Vec<String>, Vec<String>)> {
        let begins = store.head().get();
        let (mut commit, mut name, mut rates, mut costs) = (Commit::new(), String::new(), Vec::new(), Vec::new());
        let (mut tag, mut key) = (String::new(), String::new());
        for tenth in 1..=10 {
            let until = begins + (size - begins) * tenth / 10;
            let (begun, processor, from) = (Instant::now(), processor_seconds(), store.head().get());
            let (mut at, mut last) = (from, None);
            while at < until {
                commit.clear();
                for place in 0..COMMIT.min(until - at) {
                    name.clear();
                    let _ = write!(name, "order-{}", self.streams.next(&mut self.random));
                    let event = NewEvent::new("bench.event", &PAYLOAD);
                    if place > 0 {
                        commit.event(&name, event);
                        continue;
                    }
                    // Each tag is found ten times, spread over the log as it is now.
                    tag.clear();
                    let _ = write!(tag, "file:{}", at / COMMIT % (size / COMMIT / EACH).max(1));
                    commit.event(&name, event.tag(&tag));
                }
                if self.args.keys {
                    key.clear();
                    let _ = write!(key, "import-{}", at / COMMIT);
                    commit.key(&key);
                }
                at += COMMIT.min(until - at);
                last = Some(store.submit(&commit)?);
                if at.is_multiple_of(1 << 20) {
                    self.anonymous = self.anonymous.max(anonymous_mib());
                }
            }
            last.map(|ticket| ticket.wait()).transpose()?;
            self.anonymous = self.anonymous.max(anonymous_mib());
            let events = (until - from) as f64;
            rates.push(format!("{:.2}", events / begun.elapsed().as_secs_f64() / 1e6));
            costs.push(format!("{:.2}", (processor_seconds() - processor) / events * 1e6));
        }
        Ok((rates, costs))
    }

    fn ask(&self, store: &Store, round: &str, random: &mut Random, size: u64) -> towpath::Result<()> {
        let (known, tags) = (self.streams.known(), (size / COMMIT / EACH).max(1));
        let mut kinds: Vec<(&str, Question<'_>)> = vec![
            (
                "point read",
                Box::new(|random| {
                    let found = store.event(Position::new(1 + random.below(size)))?;
                    Ok(found.map_or(0, |event| event.payload().len() as u64))
                }),
            ),
            (
                "one stream, its events",
                Box::new(|random| count(store, Query::new().stream(format!("order-{}", random.below(known))))),
            ),
            (
                "one stream, its revision",
                Box::new(|random| Ok(store.revision(&format!("order-{}", random.below(known)))?.get())),
            ),
            (
                "one stream, its third event",
                Box::new(|random| {
                    Ok(store.event_at(&format!("order-{}", random.below(known)), Revision::new(3))?.is_some().into())
                }),
            ),
            (
                "a stream that does not exist",
                Box::new(|random| Ok(store.revision(&format!("nothing-{}", random.below(known)))?.get())),
            ),
            (
                "tag, its events",
                Box::new(|random| count(store, Query::new().tags([format!("file:{}", random.below(tags))]))),
            ),
        ];
        if self.args.keys {
            kinds.push((
                "idempotency key, known",
                Box::new(|random| {
                    let mut commit = Commit::new();
                    commit
                        .event("order-x", NewEvent::new("other", ""))
                        .key(&format!("import-{}", random.below(size / COMMIT)));
                    Ok(store.commit(&commit).is_err().into())
                }),
            ));
        }
        kinds.push((
            "idempotency key, new",
            Box::new(|random| {
                let mut commit = Commit::new();
                commit.event("order-x", NewEvent::new("other", "")).key(&format!("new-{}", random.below(u64::MAX)));
                Ok(store.commit(&commit)?.is_duplicate().into())
            }),
        ));
        for (what, ask) in &mut kinds {
            let (mut times, mut found) = (Vec::new(), 0);
            for _ in 0..self.args.questions {
                let begun = Instant::now();
                found += black_box(ask(random)?);
                times.push(begun.elapsed());
            }
            times.sort_unstable();
            let mean = times.iter().sum::<Duration>().as_secs_f64() / times.len() as f64;
            let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e6;
            println!(
                "{round}: {what}: {:.2} us mean, {:.2} p50, {:.2} p99 ({:.1} found)",
                mean * 1e6,
                at(50),
                at(99),
                found as f64 / self.args.questions as f64
            );
        }
        Ok(())
    }
}

fn open(path: &Path) -> towpath::Result<Store> {
    Options::new().durability(Durability::Os).open(path)
}

fn count(store: &Store, query: Query) -> towpath::Result<u64> {
    let (mut reader, mut count) = (store.read(query), 0);
    while let Some(event) = reader.next_borrowed() {
        black_box(event?.payload());
        count += 1;
    }
    Ok(count)
}

/// Opens the store until nothing is left to merge: a look-up asks less than eight files of each size.
fn until_merged(path: &Path) -> towpath::Result<()> {
    let store = open(path)?;
    let mut before = u64::MAX;
    loop {
        let summary = inspect::summary(path)?;
        let mut sealed = summary.segments - 1;
        let mut least = 0;
        while sealed > 0 {
            least += sealed % 8;
            sealed /= 8;
        }
        if summary.index_files <= least || before == summary.index_files && before < 8 {
            return store.close();
        }
        before = summary.index_files;
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Bytes of the files with an extension.
fn bytes(path: &Path, extension: &str) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.path().extension().is_some_and(|found| found == extension));
    files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Memory of this process that is no file's, in MiB; 0 where the system does not tell.
fn anonymous_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or_default() / 1024.0
}

/// Processor time of this process so far, in hundredths of a second at best; 0 where the system does not tell.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}
