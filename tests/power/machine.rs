//! A machine: a disk that records, a loop device over it, and a real file system on that.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::fs::Advice;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::cuts::State;
use crate::log::Log;
use crate::{disk, roles};

const BLOCK: u64 = 4096;

/// The file system on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Ext4,
    Xfs,
}

impl Format {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// As small as can be: a small journal is soon full and begins again.
    fn size(self) -> u64 {
        match self {
            Self::Ext4 => 48 << 20,
            Self::Xfs => 300 << 20,
        }
    }

    fn make(self, image: &Path) {
        let mut mkfs = Command::new(format!("mkfs.{}", self.name()));
        match self {
            Self::Ext4 => {
                let extended = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
                mkfs.args(["-q", "-F", "-b", "4096", "-m", "0", "-J", "size=4", "-E", extended])
            }
            Self::Xfs => mkfs.args(["-q", "-f", "-K"]),
        };
        assert!(mkfs.arg(image).status().unwrap().success());
    }
}

pub(crate) struct Machine {
    dir: PathBuf,
    format: Format,
    image: File,
    /// As the file system was made.
    fresh: File,
    log: File,
    /// Blocks of the image that may differ from the fresh ones.
    dirty: BTreeSet<u64>,
    /// Keeps the loop device alive, which is gone once nobody has it open.
    device: Option<File>,
    loop_path: PathBuf,
    disk: Child,
}

impl Machine {
    /// Begins in a directory with nothing in it, which is gone from sight when the process ends.
    pub(crate) fn start(dir: &Path, format: Format) -> Self {
        rustix::mount::mount("tmpfs", dir, "tmpfs", MountFlags::empty(), None).unwrap();
        for name in ["fuse", "mnt"] {
            std::fs::create_dir(dir.join(name)).unwrap();
        }
        let path = dir.join("image");
        let image = File::create_new(&path).unwrap();
        image.set_len(format.size()).unwrap();
        format.make(&path);
        let fresh = dir.join("fresh");
        std::fs::copy(&path, &fresh).unwrap();
        let log = File::create_new(dir.join("log")).unwrap();
        let disk = roles::ready(roles::command("disk", dir));
        let (loop_path, device) = attach(&dir.join("fuse").join(disk::DISK));
        Self {
            dir: dir.to_owned(),
            format,
            image,
            fresh: File::open(fresh).unwrap(),
            log,
            dirty: BTreeSet::new(),
            device: Some(device),
            loop_path,
            disk,
        }
    }

    /// Where the file system is mounted.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn mount(&self) -> Result<(), Errno> {
        let data = if self.format == Format::Ext4 { None } else { Some(c"nouuid") };
        rustix::mount::mount(&self.loop_path, self.root(), self.format.name(), MountFlags::empty(), data)
    }

    pub(crate) fn unmount(&self) {
        rustix::mount::unmount(self.root(), UnmountFlags::empty()).unwrap();
    }

    /// What the disk was told since the log was cleared.
    pub(crate) fn log(&self) -> Log {
        Log::read(&self.dir.join("log"))
    }

    /// Makes a write fail: the first from now on, the second …; 0 for none.
    pub(crate) fn fail_write(&self, number: u64) {
        let file = File::options().write(true).open(self.dir.join("fuse").join(disk::FAIL)).unwrap();
        file.write_all_at(number.to_string().as_bytes(), 0).unwrap();
    }

    /// Puts the disk into a state, built from the fresh file system by these, one after the other, and begins a new log.
    pub(crate) fn load(&mut self, states: &[&State<'_>]) {
        // What happened since the last time counts, too.
        let log = self.log();
        log.writes().for_each(|(offset, bytes)| touch(&mut self.dirty, offset, bytes));
        let mut block = [0; BLOCK as usize];
        for at in std::mem::take(&mut self.dirty) {
            self.fresh.read_exact_at(&mut block, at * BLOCK).unwrap();
            self.image.write_all_at(&block, at * BLOCK).unwrap();
        }
        for (offset, bytes) in states.iter().flat_map(|state| &state.pieces) {
            self.image.write_all_at(bytes, *offset).unwrap();
            touch(&mut self.dirty, *offset, bytes);
        }
        self.log.set_len(0).unwrap();
        let device = self.device.as_ref().unwrap();
        rustix::fs::fadvise(device, 0, None, Advice::DontNeed).unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if rustix::mount::unmount(self.root(), UnmountFlags::empty()) == Err(Errno::BUSY) {
            let _gone_with_the_process = rustix::mount::unmount(self.root(), UnmountFlags::DETACH);
        }
        self.device = None;
        drop(self.disk.stdin.take());
        let _ended = self.disk.wait();
    }
}

fn touch(dirty: &mut BTreeSet<u64>, offset: u64, bytes: &[u8]) {
    dirty.extend(offset / BLOCK..(offset + bytes.len() as u64).div_ceil(BLOCK));
}

/// A loop device that is gone once nobody has it open.
fn attach(file: &Path) -> (PathBuf, File) {
    // Somebody else may take the one that was free.
    for _ in 0..20 {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().unwrap();
        if !output.status.success() {
            continue;
        }
        let path = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
        let device = File::open(&path).unwrap();
        // It is open, so this only asks for it to go with its last user.
        assert!(Command::new("losetup").arg("--detach").arg(&path).status().unwrap().success());
        return (path, device);
    }
    panic!("there is no loop device to be had");
}
