//! A file on the simulated disk, as a process has it open.

use std::io;
use std::path::PathBuf;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
#[cfg(feature = "sink-file")]
use crate::segment::disk::Look;
use crate::segment::disk::{File, Prepared};
use crate::segment::map::{Access, Map};
use crate::simulation::disk::{Hold, State, failed};
use crate::simulation::faults::{Fault, Kind, Weakness};

#[derive(Debug)]
pub(super) struct SimFile {
    hold: Hold,
    path: PathBuf,
    inode: usize,
    /// This handle has the file's lock.
    locked: AtomicBool,
}

impl SimFile {
    pub(super) fn new(hold: Hold, path: PathBuf, inode: usize) -> Self {
        Self { hold, path, inode, locked: AtomicBool::new(false) }
    }

    fn told<T>(&self, action: &'static str, done: io::Result<T>) -> Result<T> {
        done.map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => Error::DiskFull { path: self.path.clone(), needed: 1 },
            _ => Error::io(action, &self.path, error),
        })
    }

    /// An operation that counts.
    fn act(&self, kind: Kind) -> io::Result<(MutexGuard<'_, State>, Option<Fault>)> {
        self.hold.act(kind, Some(self.inode))
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (mut state, fault, died) = match self.act(Kind::Write) {
            Ok((state, fault)) => (state, fault, false),
            // A process that is killed in a write may have written a part.
            Err(error) => match self.hold.just_ended() {
                Some(state) => (state, Some(Fault::ShortWrite), true),
                None => return Err(error),
            },
        };
        let part = match fault {
            None => bytes.len(),
            Some(Fault::ShortWrite) => state.chance.below(bytes.len() as u64 + 1) as usize,
            Some(_) => 0,
        };
        let State { platter, chance, .. } = &mut *state;
        let before = platter.inodes[self.inode].len;
        platter.inodes[self.inode].write(&bytes[..part], offset)?;
        if platter.inodes[self.inode].len > before {
            platter.grown(self.inode);
        }
        match fault {
            None => Ok(()),
            Some(_) if !died && chance.percent(30) => Err(failed(Fault::Full(0))),
            Some(fault) => Err(failed(fault)),
        }
    }

    fn sync_now(&self) -> io::Result<()> {
        let (mut state, fault) = self.act(Kind::Sync)?;
        let state = &mut *state;
        let is_copy = || self.path.to_string_lossy().ends_with(".seg.tmp");
        let syncs = match state.weakness {
            Some(Weakness::NoSync) => false,
            Some(Weakness::CopiesUnsynced) => !is_copy(),
            // Once the store is open, that is what such a file is for.
            Some(Weakness::PurgedUnsynced) => !(state.recovered && is_copy()),
            _ => true,
        };
        if !syncs {
            return Ok(());
        }
        let inode = &mut state.platter.inodes[self.inode];
        let failed_before = std::mem::take(&mut inode.failed);
        let dirty: Vec<u64> = inode.dirty().collect();
        if let Some(fault) = fault {
            for page in dirty {
                match state.chance.percent(50) {
                    true => inode.write_back(page)?,
                    false => {
                        inode.lose(page);
                        state.told.lost_pages = true;
                    }
                }
            }
            return Err(failed(fault));
        }
        dirty.into_iter().try_for_each(|page| inode.write_back(page))?;
        state.platter.sync_length(self.inode);
        if failed_before { Err(failed(Fault::WriteBack)) } else { Ok(()) }
    }

    fn allocate_now(&self, len: u64, prepared: Prepared) -> io::Result<()> {
        let (mut state, fault) = self.act(Kind::Allocate)?;
        if let Some(fault) = fault {
            // A part may be there already.
            let part = state.chance.below(len + 1);
            state.platter.set_len(self.inode, part)?;
            return Err(failed(fault));
        }
        state.platter.set_len(self.inode, len)?;
        drop(state);
        // The zeroes that are written stand for themselves: nobody can tell them from blocks that were set aside.
        if prepared == Prepared::Zeroed { self.sync_now() } else { Ok(()) }
    }
}

impl File for SimFile {
    fn len(&self) -> Result<u64> {
        self.told("read", self.hold.look().map(|state| state.platter.inodes[self.inode].len))
    }

    #[cfg(feature = "sink-file")]
    fn look(&self) -> Result<Look> {
        Err(Error::io("look at", &self.path, io::Error::from(io::ErrorKind::Unsupported)))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut read = || -> io::Result<usize> {
            let (mut state, fault) = self.act(Kind::Read)?;
            if let Some(fault) = fault {
                return Err(failed(fault));
            }
            let inode = &mut state.platter.inodes[self.inode];
            let len = inode.len.saturating_sub(offset).min(buffer.len() as u64) as usize;
            inode.cached()?.read(&mut buffer[..len], offset)?;
            Ok(len)
        };
        self.told("read", read())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.told("write", self.write(bytes, offset))
    }

    fn allocate(&self, len: u64, prepared: Prepared) -> Result<()> {
        self.told("allocate", self.allocate_now(len, prepared))
    }

    fn truncate(&self, len: u64) -> Result<()> {
        let truncate = || -> io::Result<()> {
            let (mut state, fault) = self.act(Kind::Names)?;
            match fault {
                Some(fault) => Err(failed(fault)),
                None => state.platter.set_len(self.inode, len),
            }
        };
        self.told("truncate", truncate())
    }

    fn sync(&self) -> Result<()> {
        self.told("sync", self.sync_now())
    }

    fn map(&self, len: u64, access: Access) -> Result<Map> {
        let map = || -> io::Result<Map> {
            let mut state = self.hold.look()?;
            let inode = &mut state.platter.inodes[self.inode];
            inode.shared |= access == Access::Write;
            inode.cached()?.map(len, access)
        };
        self.told("map", map())
    }

    fn storing(&self) {
        // Whoever stores after the process has ended stores into a map that nobody else has.
        if let Ok((mut state, _none)) = self.act(Kind::Store) {
            state.platter.inodes[self.inode].touch(std::iter::once(0));
        }
    }

    fn lock(&self) -> Result<bool> {
        let lock = || -> io::Result<bool> {
            let mut state = self.hold.look()?;
            let lock = &mut state.platter.inodes[self.inode].lock;
            let free = lock.is_none();
            lock.get_or_insert(0);
            Ok(free)
        };
        let taken = self.told("lock", lock())?;
        self.locked.fetch_or(taken, Ordering::Relaxed);
        Ok(taken)
    }

    fn unlock(&self) -> Result<()> {
        if self.locked.swap(false, Ordering::Relaxed) {
            let unlock = || -> io::Result<()> {
                self.hold.look()?.platter.inodes[self.inode].lock = None;
                Ok(())
            };
            return self.told("unlock", unlock());
        }
        Ok(())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let _gone_with_its_process = File::unlock(self);
    }
}
