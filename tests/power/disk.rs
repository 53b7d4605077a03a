//! The disk: a file system in user space with one file that a loop device is made of. It keeps what is written in an image
//! and tells the log.
//!
//! It lives in a process of its own that never touches what is mounted from it: one that waited for itself could not even be
//! killed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use crate::log::Recorder;

/// The file that the loop device is made of.
pub(crate) const DISK: &str = "disk";
/// What is written here goes into the log as a mark.
pub(crate) const MARKS: &str = "marks";
/// A number that is written here: so many writes from now on, one fails.
pub(crate) const FAIL: &str = "fail";

const NAMES: [(u64, &str); 3] = [(2, DISK), (3, MARKS), (4, FAIL)];
const LARGEST_WRITE: u32 = 1 << 20;
const TTL: Duration = Duration::from_secs(3600);

struct Disk {
    image: File,
    size: u64,
    state: Mutex<State>,
}

struct State {
    log: Recorder,
    /// How many writes until one fails.
    fails_in: u64,
}

/// Serves until standard input ends.
pub(crate) fn serve(dir: &Path) {
    let image = File::options().read(true).write(true).open(dir.join("image")).unwrap();
    let size = image.metadata().unwrap().len();
    let state = Mutex::new(State { log: Recorder::new(&dir.join("log")), fails_in: 0 });
    let mut config = Config::default();
    config.mount_options = vec![fuser::MountOption::FSName("towpath-power".to_owned())];
    let session = fuser::spawn_mount(Disk { image, size, state }, dir.join("fuse"), &config).unwrap();
    crate::roles::say("ready");
    let _ended = std::io::stdin().read_to_end(&mut Vec::new());
    let _gone_already = session.umount_and_join();
}

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attributes(&self, inode: u64) -> FileAttr {
        let is_root = inode == u64::from(INodeNo::ROOT);
        let size = if inode == NAMES[0].0 { self.size } else { 0 };
        FileAttr {
            ino: INodeNo(inode),
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_root { FileType::Directory } else { FileType::RegularFile },
            perm: if is_root { 0o700 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn write_block(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let mut state = self.state();
        let fails = state.fails_in == 1;
        state.fails_in = state.fails_in.saturating_sub(1);
        if fails {
            state.log.failed();
            return Err(Errno::EIO);
        }
        state.log.write(offset, data);
        self.image.write_all_at(data, offset).map_err(|_| Errno::ENOSPC)
    }
}

impl Filesystem for Disk {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let _smaller = config.set_max_write(LARGEST_WRITE);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match NAMES.iter().find(|(_, known)| name == *known) {
            Some((inode, _)) => reply.entry(&TTL, &self.attributes(*inode), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(inode.into()));
    }

    /// Past the kernel's cache: every write comes here as it was made, and the image may change behind the kernel's back.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut bytes = vec![0; size as usize];
        match self.image.read_exact_at(&mut bytes, offset) {
            Ok(()) => reply.data(&bytes),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let text = || std::str::from_utf8(data).ok()?.trim().parse().ok();
        let done = match NAMES.iter().find(|(known, _)| *known == u64::from(inode)).map(|(_, name)| *name) {
            Some(DISK) => self.write_block(offset, data),
            Some(MARKS) => {
                self.state().log.mark(data);
                Ok(())
            }
            _ => text().map(|count| self.state().fails_in = count).ok_or(Errno::EINVAL),
        };
        match done {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if u64::from(inode) == NAMES[0].0 {
            self.state().log.flush();
        }
        reply.ok();
    }
}
