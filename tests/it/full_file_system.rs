//! W11, G8, L3, C9, R2: file systems that are really full, again and again, whatever the store is about to do: appending, rolling, sealing,
//! merging, letting go of old segments, keeping checkpoints, settling. A loop-mounted ext4 and a tmpfs, each in a process of its own.
//!
//! One of each and durability; as many as `TOWPATH_FULL` says, each with a seed of its own (`TOWPATH_SEED`). With
//! `TOWPATH_REQUIRE_DISKS` it is a failure where nothing can be mounted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use towpath::{
    Canal as _, Cursor, Durability, Error, Member, NewEvent, Options, Query, Reason, Result, Retention, Retry,
    Settlement, Store, inspect,
};

use crate::support::child::{self, say};
use crate::support::random::Random;
use crate::support::{Scratch, files};

const TEST: &str = "full_file_system::whatever_meets_a_full_disk_is_told_so_and_goes_on_once_there_is_room";
const DISK: u64 = 24 << 20;
const ROUNDS: u64 = 6;
const STEPS: u64 = 50;
const KEPT: u64 = 200;
/// What is left free: for nothing, a page, an index file, a segment and no more, a few segments.
const FREE: [u64; 8] = [0, 0, 4 << 10, 24 << 10, 68 << 10, 76 << 10, 140 << 10, 300 << 10];

#[test]
fn whatever_meets_a_full_disk_is_told_so_and_goes_on_once_there_is_room() {
    if let Some((role, disk)) = child::role() {
        return fill_again_and_again(&role, &disk);
    }
    let number = |name: &str| std::env::var(name).map_or(1, |text| text.parse::<u64>().expect("a number"));
    let (runs, seed) = (number("TOWPATH_FULL"), number("TOWPATH_SEED"));
    if !child::can_mount() {
        return cannot("mounting needs root and `unshare`");
    }
    let mut met: BTreeMap<String, u64> = BTreeMap::new();
    for seed in seed..seed + runs {
        for (system, durability) in [("tmpfs", "os"), ("ext4", "sync"), ("ext4", "every"), ("ext4", "os")] {
            let scratch = Scratch::new();
            let disk = scratch.path().join("disk");
            fs::create_dir(&disk).unwrap();
            let role = format!("{system} {durability} {seed}");
            let said = child::said(child::in_own_mounts(TEST, &role, &disk));
            if let Some(why) = said[0].strip_prefix("cannot ") {
                cannot(&format!("{system}: {why}"));
                continue;
            }
            for line in &said {
                let (what, times) = line.rsplit_once(' ').unwrap();
                *met.entry(format!("{system}: {what}")).or_default() += times.parse::<u64>().unwrap();
            }
        }
    }
    eprintln!("full disks: {runs} runs of each, {met:?}");
    // The control: it was full when each of these came.
    for system in ["tmpfs", "ext4"] {
        for what in ["append", "checkpoint", "retain", "settle", "index"] {
            let times = met.get(&format!("{system}: {what}")).copied().unwrap_or(0);
            let has_run = met.keys().any(|known| known.starts_with(system));
            assert!(!has_run || times > 0, "{system}: {what} never met a full disk: {met:?}");
        }
    }
}

fn cannot(why: &str) {
    assert!(std::env::var_os("TOWPATH_REQUIRE_DISKS").is_none(), "{TEST} cannot run: {why}");
    child::skip(TEST, why);
}

fn mount(system: &str, disk: &Path) -> std::result::Result<(), String> {
    let mut mount = Command::new("mount");
    if system == "tmpfs" {
        mount.args(["-t", "tmpfs", "-o", &format!("size={DISK}"), "tmpfs"]);
    } else {
        let image = disk.with_file_name("image");
        // With all its blocks: only this disk is to be full, not the one below it.
        let file = File::create(&image).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, DISK)
            .map_err(|error| error.to_string())?;
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-F", "-b", "4096", "-m", "0", "-J", "size=4"]).arg(&image);
        let made = mkfs.output().map_err(|error| format!("mkfs.ext4: {error}"))?;
        if !made.status.success() {
            return Err("mkfs.ext4 failed".to_owned());
        }
        mount.args(["-o", "loop"]).arg(image);
    }
    let mounted = mount.arg(disk).output().map_err(|error| error.to_string())?;
    if mounted.status.success() { Ok(()) } else { Err("no loop device".to_owned()) }
}

/// What takes the room away.
struct Ballast(PathBuf);

impl Ballast {
    /// Fills the disk but for so many bytes.
    fn leave(&self, free: u64) {
        let mut file = File::options().append(true).create(true).open(&self.0).unwrap();
        for piece in [64 << 10, 4 << 10] {
            while file.write_all(&vec![1; piece]).is_ok() {}
        }
        let len = file.metadata().unwrap().len();
        file.set_len(len.saturating_sub(free)).unwrap();
        self.settle();
    }

    fn remove(&self) {
        fs::remove_file(&self.0).unwrap();
        self.settle();
    }

    /// Ext4 gives blocks back when its journal was written.
    fn settle(&self) {
        rustix::fs::syncfs(File::open(self.0.parent().unwrap()).unwrap()).unwrap();
    }
}

fn payload(number: u64, len: usize) -> Vec<u8> {
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(8 + len, number as u8);
    payload
}

fn stream(number: u64) -> String {
    format!("s-{}", number % 5)
}

/// What works on the store.
struct Work {
    store: Store,
    cursor: Cursor,
    member: Member,
    told: Told,
}

/// What was acknowledged, and what was asked for.
#[derive(Clone, Default)]
struct Told {
    /// Events, which are numbered from 1 on.
    appended: u64,
    rejected: BTreeSet<u64>,
    letters: BTreeSet<u64>,
    checkpoint: u64,
    kept_from: u64,
}

impl Work {
    fn open(durability: &str, path: &Path, told: Told) -> Result<Self> {
        let durability = match durability {
            "sync" => Durability::Sync,
            "every" => Durability::Every(Duration::from_millis(1)),
            _ => Durability::Os,
        };
        let store = Options::new().segment_bytes(64 << 10).durability(durability).open(path)?;
        let cursor = store.cursor("ship").filter(users()).open()?;
        let retry = Retry::fixed(Duration::ZERO).attempts(99);
        let member = store.group("mail").filter(users()).retry(retry).open()?.member()?;
        Ok(Self { store, cursor, member, told })
    }

    fn append(&mut self, len: usize) -> Result<()> {
        let number = self.told.appended + 1;
        self.store.append(&stream(number), NewEvent::new("n", &payload(number, len)))?;
        self.told.appended = number;
        Ok(())
    }

    /// Appends some, and where there is no room for them, small ones, until there is no room for anything.
    fn append_some(&mut self) -> Result<()> {
        let done = (0..12).try_for_each(|at| self.append([20, 1_000, 3_000][at % 3]));
        if done.is_err() {
            while self.append(0).is_ok() {}
        }
        done
    }

    /// Says whether there was something to acknowledge.
    fn checkpoint(&mut self) -> Result<bool> {
        let batch = self.cursor.pull_batch(30, Duration::ZERO)?;
        if let Some(token) = batch.last() {
            self.cursor.settle(token, Settlement::Done)?;
        }
        self.cursor.flush()?;
        self.told.checkpoint = self.cursor.checkpoint().get();
        Ok(!batch.is_empty())
    }

    /// Says whether there was something to settle.
    fn settle(&mut self) -> Result<bool> {
        let mut told = Ok(());
        let batch = self.member.pull_batch(30, Duration::ZERO)?;
        for delivery in &batch {
            let position = delivery.position().get();
            let settlement = match position % 10 {
                0 => Settlement::Reject { reason: Reason::Rejected, why: "no".to_owned() },
                _ => Settlement::Done,
            };
            self.told.rejected.extend((position % 10 == 0).then_some(position));
            // An error may be of an earlier one; this one is taken all the same.
            told = told.and(self.member.settle(delivery.token(), settlement));
        }
        told.and(self.member.flush()).map(|()| !batch.is_empty())
    }

    fn retain(&mut self) -> Result<()> {
        let plan = self.store.retain(&Retention::new().max_events(KEPT))?;
        self.told.kept_from = plan.keeps_from.get();
        Ok(())
    }

    /// Settles and acknowledges everything that there is.
    fn catch_up(&mut self) -> Result<()> {
        while self.checkpoint()? {}
        while self.settle()? {}
        Ok(())
    }

    /// Everything that was acknowledged is there, once and in order, and nothing that was refused.
    fn check(&self) {
        let (oldest, head, told) = (self.store.oldest().get(), self.store.head().get(), &self.told);
        assert!(oldest >= told.kept_from, "{oldest}");
        let mut next = None;
        for event in self.store.read(users()) {
            let event = event.unwrap();
            let number = u64::from_le_bytes(event.payload()[..8].try_into().unwrap());
            assert!(next.is_none_or(|next| next == number), "{number} at {}, expected {next:?}", event.position());
            assert_eq!(
                (event.stream(), event.payload()),
                (&*stream(number), &payload(number, event.payload().len() - 8)[..])
            );
            next = Some(number + 1);
        }
        assert_eq!(next.unwrap_or(1), told.appended + 1);
        let next = self.store.consumers().unwrap().into_iter().find(|one| one.name == "ship").unwrap().position.get();
        assert!(next >= told.checkpoint && next >= oldest && next <= head + 1, "{next} of {oldest} to {head}");
    }
}

fn users() -> Query {
    Query::new().category("s")
}

fn fill_again_and_again(role: &str, disk: &Path) {
    let [system, durability, seed] = role.split(' ').collect::<Vec<_>>()[..] else { panic!("{role}") };
    if let Err(why) = mount(system, disk) {
        return say(format!("cannot {why}"));
    }
    let mut random = Random(seed.parse::<u64>().unwrap() * 0x9e37_79b9 + 1);
    let (path, ballast) = (disk.join("store"), Ballast(disk.join("ballast")));
    let mut work = Work::open(durability, &path, Told::default()).unwrap();
    let mut met: BTreeMap<&str, u64> = BTreeMap::new();
    for round in 0..ROUNDS {
        for step in 0..STEPS {
            if step % 5 == 0 {
                ballast.leave(FREE[random.below(FREE.len() as u64) as usize]);
            }
            let (what, done) = match random.below(12) {
                0..6 => ("append", work.append_some()),
                6..8 => ("checkpoint", work.checkpoint().map(drop)),
                8..10 => ("settle", work.settle().map(drop)),
                10 => ("retain", work.retain()),
                _ => ("sync", work.store.sync()),
            };
            match done {
                Ok(()) => {}
                Err(Error::DiskFull { path: of, needed }) => {
                    assert!(of.starts_with(&path) && needed > 0, "{of:?}, {needed}");
                    *met.entry(what).or_default() += 1;
                }
                Err(other) => panic!("{role}, round {round}, step {step}: {what}: {other:?}"),
            }
        }
        while work.store.counters().segments_sealed < work.store.counters().segments_begun {
            std::thread::yield_now();
        }
        let unindexed = files::segments(&path).len().saturating_sub(1 + files::indexes(&path).len());
        *met.entry("index").or_default() += unindexed as u64;
        work.check();
        assert!(inspect::verify(&path, |_| {}).unwrap().ok);

        // Room, without opening it again, or after a close on the full disk.
        if round % 3 == 2 {
            let Work { store, cursor, member, told } = work;
            drop((cursor, member));
            let closed = store.close();
            assert!(matches!(closed, Ok(()) | Err(Error::DiskFull { .. })), "{closed:?}");
            ballast.remove();
            work = Work::open(durability, &path, told).unwrap();
        } else {
            ballast.remove();
        }
        work.append(20).unwrap();
        // What could not be written on the full disk is told once more, and written.
        let _told = work.settle();
        work.catch_up().unwrap();
        work.retain().unwrap();
        work.check();
        assert_eq!(work.store.unsettled("mail").unwrap(), vec![]);
        let letters = work.store.dead_letters("mail").unwrap();
        let found: Vec<_> = letters.iter().unwrap().map(|letter| letter.unwrap()).collect();
        for letter in &found {
            assert!(work.told.letters.insert(letter.source_position().get()), "{letter:?} is there twice");
        }
        letters.drop_letters(&found).unwrap();
    }
    assert_eq!(work.told.letters, work.told.rejected, "each that was rejected is a dead letter once");
    // The control: an event that was acknowledged and is not there would be missed.
    work.told.appended += 1;
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work.check())).is_err());
    work.store.close().unwrap();
    assert!(inspect::verify(&path, |_| {}).unwrap().ok);
    met.into_iter().for_each(|(what, times)| say(format!("{what} {times}")));
}
