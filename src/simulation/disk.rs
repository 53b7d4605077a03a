//! A disk that does what disks do: it forgets what was not synced, fails, and has its process killed between any two of
//! its operations.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
#[cfg(feature = "sink-file")]
use crate::segment::disk::Look;
use crate::segment::disk::{Directory, Disk, File};
use crate::segment::map::Access;
use crate::simulation::chance::Chance;
use crate::simulation::faults::{Fault, Kind, Weakness};
use crate::simulation::file::SimFile;
use crate::simulation::meddle;
use crate::simulation::platter::{Inode, Left, Node, PAGE, Platter};

/// One in so many operations, the kernel writes something by itself.
const WRITES_BACK: u64 = 12;

/// Clones are the same disk.
#[derive(Clone, Debug)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug)]
pub(super) struct State {
    pub(super) platter: Platter,
    pub(super) chance: Chance,
    /// Which process this is.
    process: u64,
    alive: bool,
    /// Operations so far.
    operations: u64,
    /// The operation at which the process ends.
    end_at: Option<u64>,
    /// It ended in a write, of which a part may be there.
    ended_in_write: bool,
    /// Faults that wait for an operation.
    pub(super) faults: Vec<Waiting>,
    /// How many operations yet find no room.
    full_for: u64,
    pub(super) weakness: Option<Weakness>,
    /// This process has opened a store.
    pub(super) recovered: bool,
    /// Two names cannot change places at once.
    cannot_exchange: bool,
    pub(super) told: Told,
}

/// A fault, and how many operations of its kind go well before.
#[derive(Debug)]
pub(super) struct Waiting {
    fault: Fault,
    before: u64,
}

/// What a disk has done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    pub(crate) operations: u64,
    pub(crate) faults: u64,
    /// Pages were lost, by a failed sync or by the kernel: what was not synced may not survive the process either.
    pub(crate) lost_pages: bool,
    /// The disk itself broke its promise.
    pub(crate) of_medium: bool,
    /// It said that it had what it had not.
    pub(crate) lied: bool,
    /// That was a copy, which takes the place of what it had.
    pub(crate) lied_of_copy: bool,
    /// It changed bytes that it had.
    pub(crate) changed: bool,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It is killed; the kernel goes on.
    Kill,
    /// The power goes. Pages are lost in pieces of so many bytes.
    PowerCut { piece: u64 },
}

/// One process's hold on the disk.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    disk: SimDisk,
    process: u64,
}

#[derive(Debug)]
struct SimDirectory {
    hold: Hold,
    path: PathBuf,
    /// This handle has the directory's lock.
    locked: Mutex<Option<usize>>,
}

impl SimDisk {
    pub(crate) fn new(mut chance: Chance, loose: bool, weakness: Option<Weakness>) -> Self {
        let platter = Platter::new(loose);
        let chance = chance.split();
        Self(Arc::new(Mutex::new(State {
            platter,
            chance,
            process: 0,
            alive: true,
            operations: 0,
            end_at: None,
            ended_in_write: false,
            faults: Vec::new(),
            full_for: 0,
            weakness,
            recovered: false,
            cannot_exchange: false,
            told: Told::default(),
        })))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        guard(&self.0)
    }

    /// Has the process end at one of the next operations: the last of so many.
    pub(crate) fn end_in(&self, operations: u64) {
        let mut state = self.state();
        state.end_at = Some(state.operations + operations);
    }

    /// Has a fault come with an operation of its kind, after so many that go well.
    pub(crate) fn expect(&self, fault: Fault, before: u64) {
        self.state().faults.push(Waiting { fault, before });
    }

    /// From now on two names cannot change places at once, as on some file systems.
    #[cfg(test)]
    pub(super) fn cannot_exchange(&self) {
        self.state().cannot_exchange = true;
    }

    /// No fault comes any more, and there is room again.
    pub(crate) fn heal(&self) {
        let mut state = self.state();
        (state.faults, state.full_for, state.end_at) = (Vec::new(), 0, None);
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.state().alive
    }

    pub(crate) fn told(&self) -> Told {
        let state = self.state();
        Told { operations: state.operations, ..state.told }
    }

    /// Whether some page is in the cache, called clean, and not on the disk.
    pub(crate) fn has_lost_pages(&self) -> bool {
        let state = self.state();
        let is_wrong = |inode: usize| state.platter.inodes[inode].has_stale() || state.platter.inodes[inode].failed;
        state.told.lost_pages || state.platter.files().any(is_wrong)
    }

    /// A store was opened: it saw what there is, and made that last.
    pub(crate) fn is_recovered(&self) {
        let mut state = self.state();
        (state.told.lost_pages, state.recovered) = (false, true);
    }

    /// How many files stand in a directory.
    pub(crate) fn files_in(&self, directory: &Path) -> usize {
        let below = format!("{}/", name_of(directory));
        self.state().platter.names.keys().filter(|path| path.starts_with(&below)).count()
    }

    /// How many segments recovery has cut off whole.
    pub(super) fn segments_cut_whole(&self) -> usize {
        let is_whole = |path: &&String| path.starts_with("store/quarantine/") && path.contains(".seg-whole");
        self.state().platter.names.keys().filter(is_whole).count()
    }

    /// Turns a bit of a file.
    #[cfg(test)]
    pub(crate) fn turn_bit(&self, path: &str, offset: u64) {
        let mut state = self.state();
        if let Some(Node::File(inode)) = state.platter.names.get(path).copied() {
            state.platter.inodes[inode].blocks()[offset as usize] ^= 1;
        }
    }

    /// The process ends now, if it has not yet.
    pub(crate) fn end(&self) -> Result<()> {
        self.state().end().map_err(|error| Error::io("end", Path::new("the process"), error))
    }

    /// Another process begins. Nobody may hold anything of the one before.
    pub(crate) fn begin(&self, how: End) -> Result<()> {
        self.end()?;
        let mut state = self.state();
        let begun = state.begin(how);
        begun.map_err(|error| Error::io("begin", Path::new("a process"), error))
    }
}

impl State {
    /// One operation, at which the process may end and faults come. Gives the fault that this one has to show.
    fn operation(&mut self, kind: Kind, inode: Option<usize>) -> io::Result<Option<Fault>> {
        if !self.alive {
            return Err(gone());
        }
        if kind != Kind::Read {
            self.operations += 1;
            if self.end_at == Some(self.operations) {
                self.end()?;
                self.ended_in_write = kind == Kind::Write;
                return Err(gone());
            }
            if self.chance.below(WRITES_BACK) == 0 {
                self.write_back(false)?;
            }
        }
        let due = self.faults.iter_mut().find(|waiting| kind.meets(waiting.fault)).and_then(|waiting| {
            let due = waiting.before == 0;
            waiting.before = waiting.before.saturating_sub(1);
            due.then_some(waiting.fault)
        });
        let Some(fault) = due else { return self.no_room(kind) };
        let at = self.faults.iter().position(|waiting| waiting.fault == fault);
        let waiting = at.map(|at| self.faults.swap_remove(at));
        match fault {
            Fault::Full(times) => {
                self.told.faults += 1;
                self.full_for = times;
                return self.no_room(kind);
            }
            Fault::WriteBack if self.write_back(true)? => {}
            Fault::Rot if self.rot() => {}
            Fault::Misdirected | Fault::Lost if inode.is_some_and(|inode| self.break_promise(inode, fault)) => {}
            // Nothing to be lost here yet.
            Fault::WriteBack | Fault::Rot | Fault::Misdirected | Fault::Lost => {
                self.faults.extend(waiting);
                return self.no_room(kind);
            }
            _ => {
                self.told.faults += 1;
                return Ok(Some(fault));
            }
        }
        self.told.faults += 1;
        self.no_room(kind)
    }

    fn no_room(&mut self, kind: Kind) -> io::Result<Option<Fault>> {
        if self.full_for > 0 && kind.meets(Fault::Full(0)) {
            self.full_for -= 1;
            return Ok(Some(Fault::Full(0)));
        }
        Ok(None)
    }

    /// The kernel writes something by itself, or fails to. Says whether there was anything.
    fn write_back(&mut self, fails: bool) -> io::Result<bool> {
        if !fails && self.chance.percent(20) {
            self.platter.write_some(&mut self.chance);
            return Ok(true);
        }
        let mut dirty = Vec::new();
        for (at, inode) in self.platter.inodes.iter().enumerate() {
            dirty.extend(inode.dirty().map(|page| (at, page)));
        }
        let Some((at, page)) = self.chance.pick(&dirty).copied() else { return Ok(false) };
        let inode = &mut self.platter.inodes[at];
        if fails {
            inode.lose(page);
            inode.failed = true;
            self.told.lost_pages = true;
        } else {
            inode.write_back(page)?;
        }
        Ok(true)
    }

    fn rot(&mut self) -> bool {
        let files: Vec<usize> = self.platter.files().collect();
        let Some(file) = self.chance.pick(&files).copied() else { return false };
        let turned = self.platter.inodes[file].rot(&mut self.chance).is_some();
        self.told.of_medium |= turned;
        self.told.changed |= turned;
        turned
    }

    /// One of the pages that are about to be synced goes elsewhere or nowhere.
    fn break_promise(&mut self, at: usize, fault: Fault) -> bool {
        let inode = &mut self.platter.inodes[at];
        let dirty: Vec<u64> = inode.dirty().collect();
        let Some(page) = self.chance.pick(&dirty).copied() else { return false };
        let pages = inode.len / PAGE;
        let onto = if pages > 0 { self.chance.below(pages) } else { page };
        if fault == Fault::Misdirected && onto != page {
            let _in_memory = inode.misdirect(page, onto);
            self.told.changed = true;
        } else {
            inode.lose(page);
        }
        (self.told.of_medium, self.told.lied) = (true, true);
        let is_copy = |(path, node): (&String, &Node)| path.ends_with(".seg.tmp") && *node == Node::File(at);
        self.told.lied_of_copy |= self.platter.names.iter().any(is_copy);
        true
    }

    fn end(&mut self) -> io::Result<()> {
        if self.alive {
            self.alive = false;
            // The process still runs in truth, and may store into what it has mapped.
            for inode in self.platter.inodes.iter_mut().filter(|inode| inode.shared) {
                inode.detach()?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, how: End) -> io::Result<()> {
        if let End::PowerCut { piece } = how {
            let percent = self.chance.from(10..=90);
            let left = *self
                .chance
                .pick(&[Left::Nothing, Left::All, Left::Some(50), Left::Some(percent), Left::Some(percent)])
                .unwrap_or(&Left::Nothing);
            self.platter.cut_power(left, piece, &mut self.chance)?;
            meddle::after_power_cut(&mut self.platter, self.weakness);
            self.told.lost_pages = false;
        }
        let drops_clean = self.chance.percent(50);
        for inode in &mut self.platter.inodes {
            (inode.lock, inode.shared) = (None, false);
            if drops_clean {
                inode.evict()?;
            }
        }
        self.process += 1;
        (self.alive, self.end_at, self.recovered) = (true, None, false);
        Ok(())
    }
}

impl Hold {
    /// The disk's state, if this process lives, for an operation that neither fails nor counts.
    pub(super) fn look(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.process == self.process && state.alive { Ok(state) } else { Err(gone()) }
    }

    /// The disk's state when this process has just ended, in the middle of a write.
    pub(super) fn just_ended(&self) -> Option<MutexGuard<'_, State>> {
        let mut state = self.disk.state();
        let ended = std::mem::take(&mut state.ended_in_write) && state.process == self.process;
        ended.then_some(state)
    }

    /// The same for one that does, and the fault that it has to show.
    pub(super) fn act(&self, kind: Kind, inode: Option<usize>) -> io::Result<(MutexGuard<'_, State>, Option<Fault>)> {
        let mut state = self.look()?;
        let fault = state.operation(kind, inode)?;
        Ok((state, fault))
    }
}

fn gone() -> io::Error {
    io::Error::other("the process has ended")
}

/// What the operating system says of a fault.
pub(super) fn failed(fault: Fault) -> io::Error {
    match fault {
        Fault::Full(_) => io::ErrorKind::StorageFull.into(),
        _ => io::Error::other("a simulated fault"),
    }
}

impl Disk for SimDisk {
    fn directory(&self, path: &Path, create: bool) -> Result<Arc<dyn Directory>> {
        let hold = Hold { process: self.state().process, disk: self.clone() };
        let made = || -> io::Result<()> {
            let name = name_of(path);
            if hold.look()?.platter.names.contains_key(&name) {
                return Ok(());
            }
            if !create {
                return Err(io::ErrorKind::NotFound.into());
            }
            // Whether it lasts is not the store's to say: its parent belongs to somebody else.
            hold.look()?.platter.make(&name, Node::Directory);
            hold.look()?.platter.sync_names();
            Ok(())
        };
        made().map_err(|error| Error::io("open", path, error))?;
        Ok(Arc::new(SimDirectory { hold, path: path.to_owned(), locked: Mutex::new(None) }))
    }
}

impl SimDirectory {
    fn name(&self, name: &str) -> String {
        name_of(&self.path.join(name))
    }

    /// An operation on names.
    fn change<T>(
        &self,
        action: &'static str,
        name: &str,
        kind: Kind,
        change: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> Result<T> {
        let done = self.hold.act(kind, None).and_then(|(mut state, fault)| match fault {
            Some(fault) => Err(failed(fault)),
            None => change(&mut state),
        });
        done.map_err(|error| Error::io(action, &self.path.join(name), error))
    }

    fn file(&self, name: &str, inode: usize) -> Arc<dyn File> {
        Arc::new(SimFile::new(self.hold.clone(), self.path.join(name), inode))
    }

    /// The directory's own lock stands beside its names.
    fn lock_inode(&self, state: &mut State) -> usize {
        let name = format!("{}\0lock", name_of(&self.path));
        match state.platter.names.get(&name) {
            Some(Node::File(inode)) => *inode,
            _ => {
                state.platter.inodes.push(Inode::default());
                let inode = state.platter.inodes.len() - 1;
                state.platter.names.insert(name, Node::File(inode));
                inode
            }
        }
    }
}

/// The standard library's own, whatever scheduler the store itself runs on.
fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Directory for SimDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn lock(&self) -> Result<bool> {
        let lock = || -> io::Result<Option<usize>> {
            let mut state = self.hold.look()?;
            let inode = self.lock_inode(&mut state);
            let lock = &mut state.platter.inodes[inode].lock;
            let free = lock.is_none();
            lock.get_or_insert(0);
            Ok(free.then_some(inode))
        };
        let taken = lock().map_err(|error| Error::io("lock", &self.path, error))?;
        if taken.is_some() {
            *guard(&self.locked) = taken;
        }
        Ok(taken.is_some())
    }

    fn unlock(&self) -> Result<()> {
        // Not what stands under its name now: it may have got another one.
        let Some(inode) = guard(&self.locked).take() else { return Ok(()) };
        let unlock = || -> io::Result<()> {
            let mut state = self.hold.look()?;
            state.platter.inodes[inode].lock = None;
            Ok(())
        };
        unlock().map_err(|error| Error::io("unlock", &self.path, error))
    }

    fn names(&self) -> Result<Vec<String>> {
        self.change("list", "", Kind::Read, |state| {
            let below = format!("{}/", name_of(&self.path));
            let names = state.platter.names.keys().filter_map(|path| path.strip_prefix(&below));
            Ok(names.filter(|name| !name.contains(['/', '\0'])).map(str::to_owned).collect())
        })
    }

    #[cfg(feature = "sink-file")]
    fn look(&self, _name: &str) -> Result<Option<Look>> {
        Ok(None)
    }

    fn create(&self, name: &str) -> Result<Arc<dyn File>> {
        let path = self.name(name);
        let inode = self.change("open", name, Kind::Names, |state| {
            if state.platter.names.contains_key(&path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.platter.inodes.push(Inode::default());
            let inode = state.platter.inodes.len() - 1;
            state.platter.make(&path, Node::File(inode));
            Ok(inode)
        })?;
        Ok(self.file(name, inode))
    }

    fn open(&self, name: &str, _access: Access) -> Result<Arc<dyn File>> {
        let path = self.name(name);
        let node = self.change("open", name, Kind::Read, |state| {
            state.platter.names.get(&path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
        })?;
        match node {
            Node::File(inode) => Ok(self.file(name, inode)),
            Node::Directory => Err(Error::not_a_store(&self.path.join(name), "it is not a regular file")),
        }
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (old, new) = (self.name(from), self.name(to));
        self.change("rename", from, Kind::Names, |state| match state.platter.rename(&old, &new) {
            true => Ok(()),
            false => Err(io::ErrorKind::NotFound.into()),
        })
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.name(name);
        self.change("remove", name, Kind::Names, |state| {
            state.platter.remove(&path);
            Ok(())
        })
    }

    fn sync(&self) -> Result<()> {
        self.change("sync", "", Kind::DirectorySync, |state| {
            if state.weakness != Some(Weakness::NoDirectorySync) {
                state.platter.sync_names();
            }
            Ok(())
        })
    }

    fn subdirectory(&self, name: &str) -> Result<Arc<dyn Directory>> {
        let path = self.name(name);
        let there = self.hold.look().is_ok_and(|state| state.platter.names.contains_key(&path));
        if !there {
            self.change("create", name, Kind::Names, |state| {
                state.platter.make(&path, Node::Directory);
                Ok(())
            })?;
        }
        let (hold, path) = (self.hold.clone(), self.path.join(name));
        Ok(Arc::new(Self { hold, path, locked: Mutex::new(None) }))
    }

    fn exchange(&self, one: &str, other: &str) -> Result<bool> {
        let (first, second) = (self.name(one), self.name(other));
        self.change("rename", one, Kind::Names, |state| match state.cannot_exchange {
            true => Ok(false),
            false if state.platter.exchange(&first, &second) => Ok(true),
            false => Err(io::ErrorKind::NotFound.into()),
        })
    }

    fn remove_directory(&self, name: &str) -> Result<()> {
        self.remove(name)
    }

    fn random(&self, bytes: &mut [u8]) -> Result<()> {
        let mut state = self.hold.disk.state();
        for bytes in bytes.chunks_mut(8) {
            let number = state.chance.next().to_le_bytes();
            bytes.copy_from_slice(&number[..bytes.len()]);
        }
        Ok(())
    }
}

impl Drop for SimDirectory {
    fn drop(&mut self) {
        let _gone_with_its_process = Directory::unlock(self);
    }
}

fn name_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
