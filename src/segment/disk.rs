//! The only door to the file system. Everything above goes through [`Disk`], so that another one can stand in for it.

use std::fmt::Debug;
use std::fs::File as StdFile;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::error::{Error, Result};
#[cfg(feature = "sink-file")]
use crate::id::Timestamp;
use crate::segment::map::{Access, Map};

/// Files are for their owner alone, whatever the umask.
const FILE_MODE: Mode = Mode::from_raw_mode(0o600);
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o700);
/// Zeroes are written in pieces of this size: larger ones make large folios, and then each sync writes a megabyte.
const ZEROES: usize = 4096;

/// What a new name may take on the disk.
const NAME_BYTES: u64 = 4096;

/// A file in more pieces than this is looked at whole.
#[cfg(target_os = "linux")]
const EXTENTS_LOOKED_AT: u32 = 1000;

/// A file system.
pub(crate) trait Disk: Send + Sync + Debug {
    /// Opens a directory, or makes it when `create` says so and its parent is there.
    fn directory(&self, path: &Path, create: bool) -> Result<Arc<dyn Directory>>;
    /// The one path of what stands there that has no links and no `..` in it.
    fn real_path(&self, path: &Path) -> Result<PathBuf> {
        Ok(path.to_owned())
    }
}

/// An open directory. Names are plain file names.
pub(crate) trait Directory: Send + Sync + Debug {
    fn path(&self) -> &Path;
    /// Takes the lock of this directory until it is dropped. `false`: somebody else has it.
    fn lock(&self) -> Result<bool>;
    /// Gives the lock back before the directory is dropped.
    fn unlock(&self) -> Result<()>;
    fn names(&self) -> Result<Vec<String>>;
    /// How many bytes a file has. 0 when there is none of that name, or something else.
    fn size(&self, name: &str) -> Result<u64> {
        self.open(name, Access::Read).and_then(|file| file.len()).or(Ok(0))
    }
    #[cfg(feature = "sink-file")]
    /// What stands at a name, found by the directory's path: whoever comes that way finds the same. `None`: nothing.
    fn look(&self, name: &str) -> Result<Option<Look>>;
    /// Makes a new file; it is an error when the name is taken.
    fn create(&self, name: &str) -> Result<Arc<dyn File>>;
    fn open(&self, name: &str, access: Access) -> Result<Arc<dyn File>>;
    /// Gives a file another name; a file of that name is replaced.
    fn rename(&self, from: &str, to: &str) -> Result<()>;
    /// Removes a file. None there is no error.
    fn remove(&self, name: &str) -> Result<()>;
    /// Makes names last: created, renamed and removed ones.
    fn sync(&self) -> Result<()>;
    /// Opens a directory in this one, and makes it when it is missing.
    fn subdirectory(&self, name: &str) -> Result<Arc<dyn Directory>>;
    /// Gives two files or directories each other's name, at once. `false`: this file system cannot do that.
    fn exchange(&self, _one: &str, _other: &str) -> Result<bool> {
        Ok(false)
    }
    /// What the file system says of this directory. `None`: it says nothing.
    fn lies_on(&self) -> Result<Option<LiesOn>> {
        Ok(None)
    }
    /// Removes an empty directory in this one. None there is no error.
    fn remove_directory(&self, name: &str) -> Result<()>;
    /// What the operating system knows it by, where it does.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// Fills at most 256 bytes with numbers that nobody can foresee.
    fn random(&self, bytes: &mut [u8]) -> Result<()> {
        let failed = |error| Error::io("read", Path::new("the kernel's random source"), error);
        let filled = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty()).map_err(failed)?;
        debug_assert_eq!(filled, bytes.len(), "the kernel fills up to 256 bytes at once");
        Ok(())
    }
}

/// An open file.
pub(crate) trait File: Send + Sync + Debug {
    fn len(&self) -> Result<u64>;
    #[cfg(feature = "sink-file")]
    /// What this is, whether or not a name leads to it.
    fn look(&self) -> Result<Look>;
    /// Behind this there are holes only, as far as the file system says; at most the length.
    fn data_end(&self) -> Result<u64> {
        self.len()
    }
    /// Fills as much of `buffer` as the file has from `offset` on, and says how much.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize>;
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()>;
    /// Refuses to let it grow over the process's limit on file sizes. To be asked before writing where nothing was allocated.
    fn may_grow_to(&self, _len: u64) -> Result<()> {
        Ok(())
    }
    /// Makes a new, empty file this long, with room on the disk for all of it.
    fn allocate(&self, len: u64, prepared: Prepared) -> Result<()>;
    /// Has the file's pages in the cache soon, clean, so that whoever writes them need not make them. A hint.
    fn warm(&self, _from: u64, _len: u64) {}
    fn truncate(&self, len: u64) -> Result<()>;
    /// Makes the contents last. An error is final: what was not written yet may be lost.
    fn sync(&self) -> Result<()>;
    fn map(&self, len: u64, access: Access) -> Result<Map>;
    /// What the operating system knows it by, where it does.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// Told before a word is stored through a map of this file, so that a simulated disk knows.
    fn storing(&self) {}
    /// Takes the lock of this file until it is dropped. `false`: somebody else has it.
    fn lock(&self) -> Result<bool>;
    /// Gives the lock back before the file is dropped.
    fn unlock(&self) -> Result<()>;
}

/// Where a directory lies.
#[derive(Clone, Debug)]
pub(crate) struct LiesOn {
    /// The number that the system gives to this kind of file system.
    pub(crate) kind: Option<u64>,
    pub(crate) total: u64,
    /// As far as this process may use it.
    pub(crate) free: u64,
    /// Bytes that the files in it take.
    pub(crate) used: u64,
    /// Who may do what with the directory, and with each file in it.
    pub(crate) mode: u32,
    pub(crate) modes: Vec<(String, u32)>,
}

/// What a file is from outside.
#[cfg(feature = "sink-file")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// Device and number. No two files have the same at a time.
    pub(crate) id: (u64, u64),
    pub(crate) len: u64,
    /// When its contents changed for the last time, by the file system's clock.
    pub(crate) modified: Timestamp,
}

#[cfg(feature = "sink-file")]
impl Look {
    #[expect(clippy::useless_conversion, reason = "the numbers have other types on other systems")]
    fn of(stat: &rustix::fs::Stat) -> Self {
        let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
        let nanos = u64::try_from(stat.st_mtime_nsec).unwrap_or(0);
        Self {
            id: (stat.st_dev.into(), stat.st_ino.into()),
            len: u64::try_from(stat.st_size).unwrap_or(0),
            modified: Timestamp::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos)),
        }
    }
}

/// How a new file's room is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prepared {
    /// Blocks are set aside. The first sync of each page has to convert them.
    Allocated,
    /// Zeroes are written too, so that later syncs write data and nothing else.
    Zeroed,
}

/// The operating system's files.
#[derive(Debug)]
pub(crate) struct RealDisk;

#[derive(Debug)]
struct RealDirectory {
    path: PathBuf,
    handle: StdFile,
}

#[derive(Debug)]
struct RealFile {
    path: PathBuf,
    handle: StdFile,
}

impl Disk for RealDisk {
    fn directory(&self, path: &Path, create: bool) -> Result<Arc<dyn Directory>> {
        if create {
            match rustix::fs::mkdir(path, DIRECTORY_MODE) {
                // The umask may have taken bits away.
                Ok(()) => rustix::fs::chmod(path, DIRECTORY_MODE).map_err(|error| Error::io("create", path, error))?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(failed("create", path, error)),
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()));
        let handle = opened.map_err(|error| match error {
            Errno::NOTDIR => Error::not_a_store(path, "it is not a directory"),
            error => Error::io("open", path, error),
        })?;
        Ok(Arc::new(RealDirectory { path: path.to_owned(), handle: handle.into() }))
    }

    fn real_path(&self, path: &Path) -> Result<PathBuf> {
        std::fs::canonicalize(path).map_err(|error| Error::io("look at", path, error))
    }
}

impl RealDirectory {
    fn open_file(&self, name: &str, flags: OFlags) -> Result<Arc<dyn File>> {
        let path = self.path.join(name);
        // NONBLOCK so that a FIFO in a file's place does not hold us up; regular files take no notice.
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = retry_on_intr(|| rustix::fs::openat(&self.handle, name, flags, FILE_MODE));
        let fd = opened.map_err(|error| match error {
            Errno::LOOP | Errno::NXIO | Errno::ISDIR => Error::not_a_store(&path, "it is not a regular file"),
            error => failed("open", &path, error),
        })?;
        let stat = rustix::fs::fstat(&fd).map_err(|error| Error::io("open", &path, error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::not_a_store(&path, "it is not a regular file"));
        }
        // Writing behind the limit would end the process with SIGXFSZ.
        if flags.contains(OFlags::RDWR) && is_over_limit(stat.st_size as u64) {
            return Err(disk_full(&path, stat.st_size as u64));
        }
        if flags.contains(OFlags::CREATE) {
            rustix::fs::fchmod(&fd, FILE_MODE).map_err(|error| Error::io("create", &path, error))?;
        }
        Ok(Arc::new(RealFile { path, handle: fd.into() }))
    }

    fn io<T>(&self, action: &'static str, name: &str, result: Result<T, Errno>) -> Result<T> {
        result.map_err(|error| failed(action, &self.path.join(name), error))
    }
}

impl Directory for RealDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn lock(&self) -> Result<bool> {
        try_lock(&self.handle, &self.path)
    }

    fn unlock(&self) -> Result<()> {
        self.handle.unlock().map_err(|error| Error::io("unlock", &self.path, error))
    }

    fn names(&self) -> Result<Vec<String>> {
        let failed = |error: io::Error| Error::io("list", &self.path, error);
        let mut names = Vec::new();
        let entries = retry_on_intr(|| rustix::fs::Dir::read_from(&self.handle));
        for entry in entries.map_err(|error| failed(error.into()))? {
            let entry = entry.map_err(|error| failed(error.into()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn size(&self, name: &str) -> Result<u64> {
        match rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => Ok(stat.st_size as u64),
            Ok(_) | Err(Errno::NOENT) => Ok(0),
            Err(error) => self.io("look at", name, Err(error)),
        }
    }

    #[cfg(feature = "sink-file")]
    fn look(&self, name: &str) -> Result<Option<Look>> {
        match rustix::fs::lstat(self.path.join(name)) {
            Ok(stat) => Ok(Some(Look::of(&stat))),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => self.io("look at", name, Err(error)),
        }
    }

    fn create(&self, name: &str) -> Result<Arc<dyn File>> {
        self.open_file(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    fn open(&self, name: &str, access: Access) -> Result<Arc<dyn File>> {
        self.open_file(name, if access == Access::Write { OFlags::RDWR } else { OFlags::RDONLY })
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.io("rename", from, rustix::fs::renameat(&self.handle, from, &self.handle, to))
    }

    fn remove(&self, name: &str) -> Result<()> {
        match rustix::fs::unlinkat(&self.handle, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            result => self.io("remove", name, result),
        }
    }

    fn sync(&self) -> Result<()> {
        retry_on_intr(|| rustix::fs::fsync(&self.handle)).map_err(|error| Error::io("sync", &self.path, error))
    }

    fn subdirectory(&self, name: &str) -> Result<Arc<dyn Directory>> {
        match rustix::fs::mkdirat(&self.handle, name, DIRECTORY_MODE) {
            // The umask may have taken away what opening it needs.
            Ok(()) => {
                self.io("create", name, rustix::fs::chmodat(&self.handle, name, DIRECTORY_MODE, AtFlags::empty()))?
            }
            Err(Errno::EXIST) => {}
            error => self.io("create", name, error)?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle =
            self.io("open", name, retry_on_intr(|| rustix::fs::openat(&self.handle, name, flags, Mode::empty())))?;
        self.io("create", name, rustix::fs::fchmod(&handle, DIRECTORY_MODE))?;
        Ok(Arc::new(RealDirectory { path: self.path.join(name), handle: handle.into() }))
    }

    #[cfg(target_os = "linux")]
    fn exchange(&self, one: &str, other: &str) -> Result<bool> {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        match rustix::fs::renameat_with(&self.handle, one, &self.handle, other, flags) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
            Err(error) => self.io("rename", one, Err(error)),
        }
    }

    fn lies_on(&self) -> Result<Option<LiesOn>> {
        let failed = |error| Error::io("look at", &self.path, error);
        let room = rustix::fs::fstatvfs(&self.handle).map_err(failed)?;
        #[cfg(target_os = "linux")]
        #[expect(clippy::cast_sign_loss, reason = "the numbers of file systems are bit patterns")]
        let kind = Some(u64::from(rustix::fs::fstatfs(&self.handle).map_err(failed)?.f_type as u32));
        #[cfg(not(target_os = "linux"))]
        let kind = None;
        let (mut used, mut modes) = (0, Vec::new());
        for name in self.names()? {
            let stat = match rustix::fs::statat(&self.handle, &*name, AtFlags::SYMLINK_NOFOLLOW) {
                // It may go while we look.
                Err(Errno::NOENT) => continue,
                stat => self.io("look at", &name, stat)?,
            };
            used += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                modes.push((name, stat.st_mode & 0o7777));
            }
        }
        let own = rustix::fs::fstat(&self.handle).map_err(failed)?;
        Ok(Some(LiesOn {
            kind,
            total: room.f_blocks.saturating_mul(room.f_frsize),
            free: room.f_bavail.saturating_mul(room.f_frsize),
            used,
            mode: own.st_mode & 0o7777,
            modes,
        }))
    }

    fn remove_directory(&self, name: &str) -> Result<()> {
        match rustix::fs::unlinkat(&self.handle, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOENT) => Ok(()),
            result => self.io("remove", name, result),
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.handle.as_fd())
    }
}

/// Whether two handles are of one directory. On a disk without descriptors there is one process, which knows.
pub(crate) fn same(one: &dyn Directory, other: &dyn Directory) -> bool {
    let id = |directory: &dyn Directory| {
        let stat = rustix::fs::fstat(directory.descriptor()?).ok()?;
        Some((stat.st_dev, stat.st_ino))
    };
    id(one) == id(other)
}

/// Whether a name in a directory is a link to something else.
pub(crate) fn is_link(directory: &dyn Directory, name: &str) -> bool {
    let Some(handle) = directory.descriptor() else { return false };
    let stat = rustix::fs::statat(handle, name, AtFlags::SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

/// Has a new, empty file share all blocks of another one, until either is written. `false`: the file system cannot do that.
pub(crate) fn share_blocks(from: &dyn File, to: &dyn File) -> bool {
    #[cfg(target_os = "linux")]
    if let (Some(from), Some(to)) = (from.descriptor(), to.descriptor()) {
        return rustix::fs::ioctl_ficlone(to, from).is_ok();
    }
    false
}

/// Gives a file a second name, in another directory. `false`: that cannot be done there.
pub(crate) fn link(from: &dyn Directory, to: &dyn Directory, name: &str) -> bool {
    let (Some(from), Some(to)) = (from.descriptor(), to.descriptor()) else { return false };
    rustix::fs::linkat(from, name, to, name, AtFlags::empty()).is_ok()
}

impl RealFile {
    fn io<T>(&self, action: &'static str, result: Result<T, impl Into<io::Error>>) -> Result<T> {
        result.map_err(|error| Error::io(action, &self.path, error))
    }

    fn zero(&self, len: u64) -> io::Result<()> {
        let zeroes = [0; ZEROES];
        let mut at = 0;
        while at < len {
            let rest = usize::try_from(len - at).unwrap_or(ZEROES).min(ZEROES);
            self.handle.write_all_at(&zeroes[..rest], at)?;
            at += rest as u64;
        }
        Ok(())
    }
}

impl File for RealFile {
    fn len(&self) -> Result<u64> {
        self.io("read", self.handle.metadata().map(|metadata| metadata.len()))
    }

    #[cfg(feature = "sink-file")]
    fn look(&self) -> Result<Look> {
        self.io("look at", rustix::fs::fstat(&self.handle)).map(|stat| Look::of(&stat))
    }

    #[cfg(target_os = "linux")]
    fn data_end(&self) -> Result<u64> {
        use rustix::fs::{SeekFrom, seek};
        let len = self.len()?;
        let mut end = 0;
        for _ in 0..EXTENTS_LOOKED_AT {
            match seek(&self.handle, SeekFrom::Data(end)) {
                Ok(data) => end = seek(&self.handle, SeekFrom::Hole(data)).unwrap_or(len),
                Err(Errno::NXIO) => return Ok(end.min(len)),
                Err(_) => break,
            }
        }
        Ok(len)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.handle.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.io("read", Err(error)),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        match self.handle.write_all_at(bytes, offset) {
            Err(error) if is_full(&error) => Err(disk_full(&self.path, bytes.len() as u64)),
            result => self.io("write", result),
        }
    }

    fn may_grow_to(&self, len: u64) -> Result<()> {
        // Writing behind the limit would end the process with SIGXFSZ.
        if is_over_limit(len) { Err(disk_full(&self.path, len)) } else { Ok(()) }
    }

    fn allocate(&self, len: u64, prepared: Prepared) -> Result<()> {
        self.may_grow_to(len)?;
        #[cfg(target_os = "linux")]
        let allocated =
            retry_on_intr(|| rustix::fs::fallocate(&self.handle, rustix::fs::FallocateFlags::empty(), 0, len));
        #[cfg(not(target_os = "linux"))]
        let allocated: Result<(), Errno> = Err(Errno::OPNOTSUPP);
        let made = match allocated {
            Ok(()) if prepared == Prepared::Zeroed => self.zero(len).and_then(|()| self.handle.sync_all()),
            Err(Errno::OPNOTSUPP) => self.zero(len),
            result => result.map_err(io::Error::from),
        };
        match made {
            Err(error) if is_full(&error) => Err(disk_full(&self.path, len)),
            result => self.io("allocate", result),
        }
    }

    #[cfg(target_os = "linux")]
    fn warm(&self, from: u64, len: u64) {
        let _only_a_hint =
            rustix::fs::fadvise(&self.handle, from, std::num::NonZeroU64::new(len), rustix::fs::Advice::WillNeed);
    }

    fn truncate(&self, len: u64) -> Result<()> {
        self.io("truncate", self.handle.set_len(len))
    }

    fn sync(&self) -> Result<()> {
        self.io("sync", self.handle.sync_data())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.handle.as_fd())
    }

    fn map(&self, len: u64, access: Access) -> Result<Map> {
        self.io("map", Map::file(&self.handle, len, access))
    }

    fn lock(&self) -> Result<bool> {
        try_lock(&self.handle, &self.path)
    }

    fn unlock(&self) -> Result<()> {
        self.io("unlock", self.handle.unlock())
    }
}

/// A file without a name, in memory: what a simulated disk has in its cache.
#[cfg(all(feature = "simulation", target_os = "linux"))]
#[derive(Debug)]
pub(crate) struct Memory(StdFile);

#[cfg(all(feature = "simulation", target_os = "linux"))]
impl Memory {
    pub(crate) fn new(bytes: &[u8]) -> io::Result<Self> {
        let file = StdFile::from(rustix::fs::memfd_create("towpath", rustix::fs::MemfdFlags::CLOEXEC)?);
        file.write_all_at(bytes, 0)?;
        Ok(Self(file))
    }

    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    pub(crate) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    pub(crate) fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    pub(crate) fn map(&self, len: u64, access: Access) -> io::Result<Map> {
        Map::file(&self.0, len, access)
    }
}

fn try_lock(handle: &StdFile, path: &Path) -> Result<bool> {
    match handle.try_lock() {
        Ok(()) => Ok(true),
        Err(std::fs::TryLockError::WouldBlock) => Ok(false),
        Err(std::fs::TryLockError::Error(error)) => Err(Error::io("lock", path, error)),
    }
}

/// What a failure to make or change a name means.
fn failed(action: &'static str, path: &Path, error: Errno) -> Error {
    if is_full(&error.into()) { disk_full(path, NAME_BYTES) } else { Error::io(action, path, error) }
}

fn disk_full(path: &Path, needed: u64) -> Error {
    Error::DiskFull { path: path.to_owned(), needed }
}

/// Whether a file of this length goes over the process's limit on file sizes.
pub(crate) fn is_over_limit(len: u64) -> bool {
    let most = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
    most.is_some_and(|most| len > most)
}

/// No space, no quota, or over the process's limit on file sizes.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
