//! Removing when it is cut short, or the disk fails.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::*;
use crate::clock::SystemClock;
use crate::event::draft::NewEvent;
use crate::inspect;
use crate::log::grow::Manner;
use crate::log::recover::open_writer;
use crate::segment::disk::{Directory, Disk, File, Prepared, RealDisk};
use crate::segment::map::{Access, Map};
use crate::store::Inner;
use crate::writer::durability::Durability;
use crate::writer::housekeeping::Work;
use crate::writer::{Settings, Writer};

const MANNER: Manner = Manner { prepared: Prepared::Allocated, synced: false, largest: 64 << 10 };

/// What happens at the operations that change files.
#[derive(Debug, Default)]
struct Plan {
    /// Only while this is set.
    armed: Mutex<Option<What>>,
    seen: AtomicU32,
    told: Mutex<Vec<String>>,
    /// The last change was that a segment was replaced.
    replaced: AtomicBool,
}

#[derive(Clone, Debug)]
enum What {
    /// The files are copied as they are before this operation.
    Copy { store: PathBuf, to: PathBuf },
    /// The operation with this number fails.
    Fail(u32),
}

impl Plan {
    fn before(&self, what: &str, name: &str) -> Result<()> {
        let armed = self.armed.lock().unwrap();
        let Some(plan) = &*armed else { return Ok(()) };
        let number = self.seen.fetch_add(1, Ordering::Relaxed);
        self.told.lock().unwrap().push(format!("{what} {name}"));
        match plan {
            What::Copy { store, to } => copy(store, &to.join(format!("{number:04}"))),
            What::Fail(at) if *at == number => {
                return Err(Error::DiskFull { path: name.into(), needed: 1 });
            }
            What::Fail(_) => {}
        }
        Ok(())
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

#[derive(Debug)]
struct Planned<T: ?Sized>(Arc<Plan>, String, Arc<T>);

#[derive(Debug)]
struct PlannedDisk(Arc<Plan>);

impl Disk for PlannedDisk {
    fn directory(&self, path: &Path, create: bool) -> Result<Arc<dyn Directory>> {
        Ok(Arc::new(Planned(self.0.clone(), String::new(), RealDisk.directory(path, create)?)))
    }
}

impl Directory for Planned<dyn Directory> {
    fn path(&self) -> &Path {
        self.2.path()
    }
    fn lock(&self) -> Result<bool> {
        self.2.lock()
    }
    fn unlock(&self) -> Result<()> {
        self.2.unlock()
    }
    fn names(&self) -> Result<Vec<String>> {
        self.2.names()
    }
    #[cfg(feature = "sink-file")]
    fn look(&self, name: &str) -> Result<Option<crate::segment::disk::Look>> {
        self.2.look(name)
    }
    fn create(&self, name: &str) -> Result<Arc<dyn File>> {
        self.0.before("create", name)?;
        Ok(Arc::new(Planned(self.0.clone(), name.to_owned(), self.2.create(name)?)))
    }
    fn open(&self, name: &str, access: Access) -> Result<Arc<dyn File>> {
        Ok(Arc::new(Planned(self.0.clone(), name.to_owned(), self.2.open(name, access)?)))
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.0.before("rename", from)?;
        self.0.replaced.store(from.ends_with(".seg.tmp"), Ordering::Relaxed);
        self.2.rename(from, to)
    }
    fn remove(&self, name: &str) -> Result<()> {
        self.0.before("remove", name)?;
        self.2.remove(name)
    }
    fn sync(&self) -> Result<()> {
        // Other syncs of it are the writer's, which stops when they fail, as is tested elsewhere.
        if self.0.replaced.swap(false, Ordering::Relaxed) {
            self.0.before("sync", "the directory")?;
        }
        self.2.sync()
    }
    fn remove_directory(&self, name: &str) -> Result<()> {
        self.2.remove_directory(name)
    }
    fn subdirectory(&self, name: &str) -> Result<Arc<dyn Directory>> {
        self.2.subdirectory(name)
    }
}

impl Planned<dyn File> {
    /// The writer stops when its own file fails, which is tested elsewhere.
    fn before(&self, what: &str) -> Result<()> {
        let is_ours = [".seg.tmp", ".idx.tmp"].iter().any(|end| self.1.ends_with(end));
        if is_ours { self.0.before(what, &self.1) } else { Ok(()) }
    }
}

impl File for Planned<dyn File> {
    fn len(&self) -> Result<u64> {
        self.2.len()
    }
    #[cfg(feature = "sink-file")]
    fn look(&self) -> Result<crate::segment::disk::Look> {
        self.2.look()
    }
    fn data_end(&self) -> Result<u64> {
        self.2.data_end()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.2.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.before("write")?;
        self.2.write_at(bytes, offset)
    }
    fn may_grow_to(&self, len: u64) -> Result<()> {
        self.2.may_grow_to(len)
    }
    fn allocate(&self, len: u64, prepared: Prepared) -> Result<()> {
        self.before("allocate")?;
        self.2.allocate(len, prepared)
    }
    fn warm(&self, from: u64, len: u64) {
        self.2.warm(from, len);
    }
    fn truncate(&self, len: u64) -> Result<()> {
        self.before("truncate")?;
        self.2.truncate(len)
    }
    fn sync(&self) -> Result<()> {
        self.before("sync")?;
        self.2.sync()
    }
    fn map(&self, len: u64, access: Access) -> Result<Map> {
        self.2.map(len, access)
    }
    fn lock(&self) -> Result<bool> {
        self.2.lock()
    }
    fn unlock(&self) -> Result<()> {
        self.2.unlock()
    }
}

fn open(disk: &dyn Disk, path: &Path) -> Store {
    let opened = open_writer(disk, path, true, MANNER, &SystemClock).unwrap();
    let (log, recovery) = (opened.log.clone(), opened.recovery.clone());
    let clock = Arc::new(SystemClock);
    let settings = Settings {
        manner: MANNER,
        durability: Durability::Os,
        staging_bytes: limits::STAGING,
        clock: clock.clone(),
        limit: None,
        retention: None,
        work: Work::Threads,
    };
    let writer = Writer::start(opened, settings).unwrap();
    Store { inner: Arc::new(Inner::new(log, Some(writer), recovery, clock)) }
}

/// Some segments of events, of which every third is in the stream that goes.
fn filled(store: &Store) {
    for number in 0..60u64 {
        let stream = if number % 3 == 0 { "going" } else { "staying" };
        let payload = format!("{stream} {number} {}", ".".repeat(3_000));
        store.append(stream, NewEvent::new("added", payload.as_bytes())).unwrap();
    }
}

fn positions(store: &Store) -> Vec<u64> {
    store.read(Query::new()).map(|event| event.unwrap().position().get()).collect()
}

fn staying() -> Vec<u64> {
    (1..=60).filter(|position| (position - 1) % 3 != 0).collect()
}

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("towpath-{name}-{}", std::process::id()));
    let _none_yet = std::fs::remove_dir_all(&path);
    std::fs::create_dir(&path).unwrap();
    path
}

#[test]
fn cut_short_before_any_change_of_a_file_a_purge_leaves_a_store_that_says_the_same_and_ends_it_later() {
    let path = scratch("purge-cut");
    let plan = Arc::new(Plan::default());
    let store = open(&PlannedDisk(plan.clone()), &path.join("store"));
    filled(&store);
    store.delete_stream("going").unwrap();
    *plan.armed.lock().unwrap() = Some(What::Copy { store: path.join("store"), to: path.join("cuts") });
    let purged = store.purge().unwrap();
    *plan.armed.lock().unwrap() = None;
    assert!((purged.segments, purged.events) >= (3, 20), "{purged:?}");
    let told = plan.told.lock().unwrap().clone();
    for what in ["allocate", "write", "truncate", "sync", "rename"] {
        let of_segments = |told: &&String| told.starts_with(what) && told.ends_with(".seg.tmp");
        assert!(told.iter().filter(of_segments).count() >= 3, "control: {what} is among {told:?}");
    }
    store.close().unwrap();

    let mut done_before = 0;
    for (number, told) in told.iter().enumerate() {
        let cut = path.join("cuts").join(format!("{number:04}"));
        let store = open(&RealDisk, &cut);
        assert_eq!(positions(&store), staying(), "cut before {told}");
        assert_eq!(store.revision("going").unwrap(), Revision::ABSENT);
        let rest = store.purge().unwrap();
        done_before += u32::from(rest.events < purged.events);
        assert_eq!(positions(&store), staying(), "cut before {told}");
        let next = store.append("going", NewEvent::new("added", "")).unwrap();
        assert_eq!((next.revision().get(), next.last().get()), (21, 61), "cut before {told}");
        store.close().unwrap();
        let verdict = inspect::verify(&cut, |_| ()).unwrap();
        assert!(verdict.ok, "cut before {told}: {verdict:?}");
    }
    assert!(done_before > 0, "control: some segments were done before some cuts");
    std::fs::remove_dir_all(path).unwrap();
}

#[test]
fn a_disk_that_fails_at_any_change_of_a_file_is_told_and_the_purge_can_be_tried_again() {
    let path = scratch("purge-fails");
    let mut failed = 0;
    for number in 0.. {
        let plan = Arc::new(Plan::default());
        let directory = path.join(number.to_string());
        let store = open(&PlannedDisk(plan.clone()), &directory);
        filled(&store);
        store.truncate_stream("going", Revision::new(20)).unwrap();
        // What is sealed already is purged; the newest is ended without trouble, and so are merges.
        store.sync().unwrap();
        *plan.armed.lock().unwrap() = Some(What::Fail(number));
        let outcome = store.purge();
        *plan.armed.lock().unwrap() = None;
        let told = plan.told.lock().unwrap().get(number as usize).cloned();
        let expected: Vec<u64> = (1..=60).filter(|position| (position - 1) % 3 != 0 || *position == 58).collect();
        assert_eq!(positions(&store), expected, "{told:?}");
        match outcome {
            Err(Error::DiskFull { .. }) => failed += 1,
            other => assert!(other.is_ok(), "{other:?} at {told:?}"),
        }
        store.purge().unwrap();
        assert!(store.inner.log.removals().is_none(), "all of it is gone, after {told:?} failed");
        store.append("staying", NewEvent::new("added", "")).unwrap();
        store.close().unwrap();
        assert!(inspect::verify(&directory, |_| ()).unwrap().ok, "{told:?}");
        if told.is_none() {
            break;
        }
    }
    assert!(failed > 10, "control: {failed} of them were told");
    std::fs::remove_dir_all(path).unwrap();
}
