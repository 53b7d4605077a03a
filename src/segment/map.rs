//! Memory maps: the only file with unsafe code.
//!
//! Invariants that the blocks below name:
//!
//! - **M1** `raw` is mapped for `raw.len()` bytes, unchanged, until `self` drops; every slice borrows `self`.
//! - **M2** Bytes below `readable` are never written again. `readable` only grows, by a Release store after the bytes were
//!   written to the file, and is read with Acquire before a slice is made. Nothing is ever written through a map but
//!   live words (M4).
//! - **M3** Another process must not change what is mapped below `readable`, nor cut the file there. The writer keeps to
//!   M2, holds the lock of the store, and cuts files only behind their last frame. Recovery cuts none that may have been
//!   read further: it puts another file in its place. A third party that truncates a mapped
//!   file makes the kernel end the process with SIGBUS; no memory map can prevent that.
//! - **M4** The live words of a lock file are reached only through [`Map::word`], as whole aligned `u64` atomics, and lie
//!   above `readable`, so no slice covers them.

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::slice;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

/// A file, or plain memory, mapped whole.
#[derive(Debug)]
pub(crate) struct Map {
    raw: MmapRaw,
    readable: AtomicU64,
}

/// Who may do what with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

impl Map {
    /// Maps the first `len` bytes of a file; none of them readable yet. `len` must not exceed the file's length.
    pub(crate) fn file(file: &impl AsRawFd, len: u64, access: Access) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let mut options = MmapOptions::new();
        options.len(len);
        let raw = match access {
            Access::Read => options.map_raw_read_only(file)?,
            Access::Write => options.map_raw(file)?,
        };
        Ok(Self { raw, readable: AtomicU64::new(0) })
    }

    /// Plain memory with these bytes in it, none of them readable yet.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn memory(bytes: &[u8]) -> io::Result<Self> {
        let mut memory = MmapOptions::new().len(bytes.len()).map_anon()?;
        memory.copy_from_slice(bytes);
        Ok(Self { raw: MmapRaw::from(memory), readable: AtomicU64::new(0) })
    }

    /// A map of a file that is not there: none of it is ever readable.
    pub(crate) fn nothing() -> io::Result<Self> {
        Ok(Self { raw: MmapOptions::new().len(1).map_anon()?.into(), readable: AtomicU64::new(0) })
    }

    /// Bytes mapped.
    pub(crate) fn len(&self) -> u64 {
        self.raw.len() as u64
    }

    /// Up to where bytes may be read.
    #[inline]
    pub(crate) fn readable(&self) -> u64 {
        self.readable.load(Ordering::Acquire)
    }

    /// Says that bytes below `upto` will not be written any more, by this map or by anyone else. Cut at the end.
    pub(crate) fn allow(&self, upto: u64) {
        self.readable.fetch_max(upto.min(self.len()), Ordering::Release);
    }

    /// The bytes of a range, cut where they are not readable.
    #[inline]
    pub(crate) fn bytes(&self, range: Range<u64>) -> &[u8] {
        let end = range.end.min(self.readable());
        let start = range.start.min(end);
        // SAFETY: the range lies within the map (M1: `allow` never goes beyond it), nobody writes there (M2, M3).
        unsafe { slice::from_raw_parts(self.raw.as_ptr().add(start as usize), (end - start) as usize) }
    }

    /// A live word, shared with other processes. `at` is a multiple of eight, within the map, never readable.
    pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.raw.len() && at as u64 >= self.readable());
        // SAFETY: within the map (M1), aligned since a map begins at a page, only used as an atomic (M4). A read-only
        // map is only loaded from: its owner never stores.
        unsafe { AtomicU64::from_ptr(self.raw.as_mut_ptr().add(at).cast()) }
    }
}

/// Knows whether this process is the one that made it, at the cost of one load.
#[derive(Debug)]
pub(crate) struct ForkGuard {
    page: MmapRaw,
}

impl ForkGuard {
    pub(crate) fn new() -> io::Result<Self> {
        let page = MmapRaw::from(MmapOptions::new().len(4096).map_anon()?);
        // SAFETY: the page is mapped, private and anonymous (M1), as this advice asks; a forked child sees zeroes in it.
        #[cfg(target_os = "linux")]
        unsafe {
            rustix::mm::madvise(page.as_mut_ptr().cast(), page.len(), rustix::mm::Advice::LinuxWipeOnFork)?;
        }
        let guard = Self { page };
        guard.mark().store(1, Ordering::Relaxed);
        Ok(guard)
    }

    /// Whether this is a forked child of the process that made the guard.
    pub(crate) fn is_child(&self) -> bool {
        self.mark().load(Ordering::Relaxed) == 0
    }

    fn mark(&self) -> &AtomicU8 {
        // SAFETY: the first byte of a mapped page (M1), only used as an atomic.
        unsafe { AtomicU8::from_ptr(self.page.as_mut_ptr()) }
    }
}
