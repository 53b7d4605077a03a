//! What the disk holds: for each file what the cache shows and what a power cut leaves, and for names the same.
//!
//! Data: a page that was written is *dirty*: cached, and not on the disk. A sync, or the kernel by itself at any moment, writes it.
//! Names and lengths: the file system keeps a journal of what was done to them, and writes it in that order, as ext4 and XFS do:
//! syncing a directory writes all of it, syncing a file whatever concerns its length and everything before it. A power cut
//! leaves a first part of the journal. A *loose* file system promises no more than POSIX: syncing a directory writes names,
//! syncing a file its own length, and a power cut leaves any of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::segment::disk::Memory;
use crate::simulation::chance::Chance;

pub(crate) const PAGE: u64 = 4096;

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Directory,
    File(usize),
}

pub(super) type Names = BTreeMap<String, Node>;

/// Gives a file, or a directory with all that is in it, another name.
fn move_names(names: &mut Names, from: &str, to: &str) {
    let moved = take_names(names, from);
    names.extend(moved.into_iter().map(|(rest, node)| (format!("{to}{rest}"), node)));
}

fn exchange_names(names: &mut Names, one: &str, other: &str) {
    let (first, second) = (take_names(names, one), take_names(names, other));
    names.extend(first.into_iter().map(|(rest, node)| (format!("{other}{rest}"), node)));
    names.extend(second.into_iter().map(|(rest, node)| (format!("{one}{rest}"), node)));
}

/// Takes out a name and those below it; gives what follows it in each.
fn take_names(names: &mut Names, of: &str) -> Vec<(String, Node)> {
    let below = |path: &str| path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '\0']));
    let paths: Vec<String> =
        names.range(of.to_owned()..).map(|(path, _)| path.clone()).take_while(|path| path.starts_with(of)).collect();
    let taken = paths.into_iter().filter(|path| below(path));
    taken.filter_map(|path| Some((path[of.len()..].to_owned(), names.remove(&path)?))).collect()
}

/// A change to names or lengths that may not be on the disk yet.
#[derive(Clone, Debug)]
enum Change {
    Make(String, Node),
    /// To the other name, which is that file's from then on.
    Rename(String, String, Node),
    Exchange(String, String),
    Remove(String),
    Length(usize, u64),
}

/// One file.
#[derive(Debug, Default)]
pub(super) struct Inode {
    /// What programs see. Made when somebody looks.
    cached: Option<Memory>,
    pub(super) len: u64,
    /// What the disk has.
    blocks: Vec<u8>,
    durable_len: u64,
    dirty: BTreeSet<u64>,
    /// Pages that the cache calls clean though the disk has something else.
    stale: BTreeSet<u64>,
    /// Something could not be written; the next sync says so, once.
    pub(super) failed: bool,
    /// Mapped by somebody who stores into it.
    pub(super) shared: bool,
    /// Somebody holds its lock.
    pub(super) lock: Option<u64>,
}

/// How a power cut treats what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Everything is lost.
    Nothing,
    /// Everything had just been written.
    All,
    /// Each piece by itself: so many of a hundred are there.
    Some(u64),
}

#[derive(Debug, Default)]
pub(super) struct Platter {
    pub(super) inodes: Vec<Inode>,
    pub(super) names: Names,
    durable: Names,
    journal: Vec<Change>,
    /// The file system promises no order among names.
    loose: bool,
}

impl Inode {
    pub(super) fn cached(&mut self) -> io::Result<&Memory> {
        if self.cached.is_none() {
            self.blocks.resize(self.len as usize, 0);
            self.cached = Some(Memory::new(&self.blocks)?);
        }
        self.cached.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.cached()?.write(bytes, offset)?;
        let end = offset + bytes.len() as u64;
        self.len = self.len.max(end);
        self.touch(offset / PAGE..=(end - 1) / PAGE);
        Ok(())
    }

    /// Pages were written to.
    pub(super) fn touch(&mut self, pages: impl Iterator<Item = u64>) {
        for page in pages {
            self.dirty.insert(page);
            self.stale.remove(&page);
        }
    }

    pub(super) fn dirty(&self) -> impl Iterator<Item = u64> + '_ {
        self.dirty.iter().copied()
    }

    pub(super) fn has_stale(&self) -> bool {
        !self.stale.is_empty()
    }

    /// Puts a page's bytes on the disk.
    pub(super) fn write_back(&mut self, page: u64) -> io::Result<()> {
        let (from, to) = (page * PAGE, ((page + 1) * PAGE).min(self.len));
        if from < to {
            self.make_room(to);
            let mut bytes = [0; PAGE as usize];
            let bytes = &mut bytes[..(to - from) as usize];
            self.cached()?.read(bytes, from)?;
            self.blocks[from as usize..to as usize].copy_from_slice(bytes);
        }
        self.dirty.remove(&page);
        self.stale.remove(&page);
        Ok(())
    }

    /// The page is lost: the cache calls it clean, and the disk never gets it.
    pub(super) fn lose(&mut self, page: u64) {
        if self.dirty.remove(&page) {
            self.stale.insert(page);
        }
    }

    /// Puts a page's bytes in another one's place on the disk.
    pub(super) fn misdirect(&mut self, page: u64, onto: u64) -> io::Result<()> {
        let kept = std::mem::take(&mut self.dirty);
        let (from, to) = (page * PAGE, onto * PAGE);
        let len = PAGE.min(self.len.saturating_sub(from)).min(self.len.saturating_sub(to)) as usize;
        let mut bytes = vec![0; len];
        self.cached()?.read(&mut bytes, from)?;
        self.make_room(to + len as u64);
        self.blocks[to as usize..to as usize + len].copy_from_slice(&bytes);
        self.dirty = kept;
        self.lose(page);
        if !self.dirty.contains(&onto) {
            self.stale.insert(onto);
        }
        Ok(())
    }

    /// Turns a bit of what the disk has.
    pub(super) fn rot(&mut self, chance: &mut Chance) -> Option<u64> {
        let used = self.blocks.iter().rposition(|byte| *byte != 0)? as u64 + 1;
        let at = chance.below(used);
        self.blocks[at as usize] ^= 1 << chance.below(8);
        if !self.dirty.contains(&(at / PAGE)) && self.cached.is_some() {
            self.stale.insert(at / PAGE);
        }
        Some(at)
    }

    /// The kernel drops what it calls clean: from now on the cache shows what the disk has.
    pub(super) fn evict(&mut self) -> io::Result<()> {
        for page in std::mem::take(&mut self.stale) {
            let (from, to) = (page * PAGE, ((page + 1) * PAGE).min(self.len));
            if from < to {
                self.make_room(to);
                let bytes = self.blocks[from as usize..to as usize].to_vec();
                self.cached()?.write(&bytes, from)?;
            }
        }
        Ok(())
    }

    pub(super) fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.cached()?.set_len(len)?;
        self.len = len;
        let end = len.div_ceil(PAGE);
        self.dirty.retain(|page| *page < end);
        self.stale.retain(|page| *page < end);
        Ok(())
    }

    /// The bytes as they are in the cache, in memory of their own: nobody's old map is that any more.
    pub(super) fn detach(&mut self) -> io::Result<()> {
        if let Some(cached) = self.cached.take() {
            let mut bytes = vec![0; self.len as usize];
            cached.read(&mut bytes, 0)?;
            self.cached = Some(Memory::new(&bytes)?);
        }
        Ok(())
    }

    /// Bytes on the disk, for a disk that meddles.
    pub(super) fn blocks(&mut self) -> &mut [u8] {
        self.cached = None;
        &mut self.blocks
    }

    fn make_room(&mut self, len: u64) {
        if (self.blocks.len() as u64) < len {
            self.blocks.resize(len as usize, 0);
        }
    }

    fn cut_power(&mut self, left: Left, piece: u64, chance: &mut Chance) -> io::Result<()> {
        for page in std::mem::take(&mut self.dirty) {
            for part in 0..PAGE / piece {
                let stays = match left {
                    Left::Nothing => false,
                    Left::All => true,
                    Left::Some(percent) => chance.percent(percent),
                };
                let from = page * PAGE + part * piece;
                let to = (from + piece).min(self.len);
                if stays && from < to {
                    self.make_room(to);
                    let mut bytes = vec![0; (to - from) as usize];
                    self.cached()?.read(&mut bytes, from)?;
                    self.blocks[from as usize..to as usize].copy_from_slice(&bytes);
                }
            }
        }
        Ok(())
    }

    /// After a power cut: the disk is all there is.
    fn start_again(&mut self) {
        self.len = self.durable_len;
        self.blocks.resize(self.len as usize, 0);
        self.stale.clear();
        (self.cached, self.failed, self.shared, self.lock) = (None, false, false, None);
    }
}

impl Platter {
    pub(super) fn new(loose: bool) -> Self {
        Self { loose, ..Self::default() }
    }

    pub(super) fn make(&mut self, path: &str, node: Node) {
        self.names.insert(path.to_owned(), node);
        self.journal.push(Change::Make(path.to_owned(), node));
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> bool {
        let Some(node) = self.names.get(from).copied() else { return false };
        move_names(&mut self.names, from, to);
        self.journal.push(Change::Rename(from.to_owned(), to.to_owned(), node));
        true
    }

    pub(super) fn exchange(&mut self, one: &str, other: &str) -> bool {
        if !self.names.contains_key(one) || !self.names.contains_key(other) {
            return false;
        }
        exchange_names(&mut self.names, one, other);
        self.journal.push(Change::Exchange(one.to_owned(), other.to_owned()));
        true
    }

    pub(super) fn remove(&mut self, path: &str) {
        if self.names.remove(path).is_some() {
            self.journal.push(Change::Remove(path.to_owned()));
        }
    }

    pub(super) fn set_len(&mut self, inode: usize, len: u64) -> io::Result<()> {
        self.inodes[inode].set_len(len)?;
        self.journal.push(Change::Length(inode, len));
        Ok(())
    }

    /// A write went beyond the end.
    pub(super) fn grown(&mut self, inode: usize) {
        let len = self.inodes[inode].len;
        self.journal.push(Change::Length(inode, len));
    }

    /// What syncing a file writes of the journal.
    pub(super) fn sync_length(&mut self, inode: usize) {
        let own = |change: &Change| matches!(change, Change::Length(of, _) if *of == inode);
        if self.loose {
            let (own, rest) = self.journal.drain(..).partition(own);
            self.journal = rest;
            self.apply(own);
        } else if let Some(last) = self.journal.iter().rposition(own) {
            self.write_journal(last + 1);
        }
    }

    /// What syncing a directory writes of it.
    pub(super) fn sync_names(&mut self) {
        if self.loose {
            let (lengths, names) = self.journal.drain(..).partition(|change| matches!(change, Change::Length(..)));
            self.journal = lengths;
            self.apply(names);
        } else {
            self.write_journal(self.journal.len());
        }
    }

    /// The file system writes some of its journal by itself.
    pub(super) fn write_some(&mut self, chance: &mut Chance) {
        if !self.loose {
            self.write_journal(chance.below(self.journal.len() as u64 + 1) as usize);
        }
    }

    fn write_journal(&mut self, changes: usize) {
        let written = self.journal.drain(..changes).collect();
        self.apply(written);
    }

    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Make(path, node) => drop(self.durable.insert(path, node)),
                Change::Rename(from, to, Node::Directory) => move_names(&mut self.durable, &from, &to),
                Change::Rename(from, to, node) => {
                    if self.durable.get(&from) == Some(&node) {
                        self.durable.remove(&from);
                    }
                    self.durable.insert(to, node);
                }
                Change::Exchange(one, other) => exchange_names(&mut self.durable, &one, &other),
                Change::Remove(path) => drop(self.durable.remove(&path)),
                Change::Length(inode, len) => {
                    let inode = &mut self.inodes[inode];
                    if len < inode.durable_len && (inode.blocks.len() as u64) > len {
                        inode.blocks[len as usize..].fill(0);
                    }
                    inode.durable_len = len;
                }
            }
        }
    }

    /// The power goes. Each dirty page, in pieces of so many bytes, is on the disk or not, and so are names and lengths.
    pub(super) fn cut_power(&mut self, left: Left, piece: u64, chance: &mut Chance) -> io::Result<()> {
        let changes = std::mem::take(&mut self.journal);
        let kept = match (left, self.loose) {
            (Left::Nothing, _) => Vec::new(),
            (Left::All, _) => changes,
            (Left::Some(percent), true) => changes.into_iter().filter(|_| chance.percent(percent)).collect(),
            (Left::Some(_), false) => {
                let first = chance.below(changes.len() as u64 + 1) as usize;
                changes.into_iter().take(first).collect()
            }
        };
        for inode in &mut self.inodes {
            inode.cut_power(left, piece, chance)?;
        }
        self.apply(kept);
        self.names = self.durable.clone();
        let used: BTreeSet<usize> = self.files().collect();
        for (at, inode) in self.inodes.iter_mut().enumerate() {
            match used.contains(&at) {
                true => inode.start_again(),
                false => *inode = Inode::default(),
            }
        }
        Ok(())
    }

    /// Files that have a name.
    pub(super) fn files(&self) -> impl Iterator<Item = usize> + '_ {
        self.names.values().filter_map(|node| match node {
            Node::File(inode) => Some(*inode),
            Node::Directory => None,
        })
    }
}
