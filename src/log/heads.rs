//! Where streams stood whose events were let go of: so that a revision is never given twice, and a stream that was there
//! once is not taken for one that never was.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::error::{Damage, Error, Result};
use crate::format::control::Kept;
use crate::format::frame::{Found, Frame};
use crate::format::heads::{Head, Pages, Stood, Streams};
use crate::format::{PAGE, header};
use crate::id::{Position, StoreId};
use crate::log::checked::Checked;
use crate::log::removals::Removals;
use crate::segment::disk::Directory;
use crate::segment::map::{Access, Map};
use crate::segment::{Segment, after};
use crate::sync::primitive::{Arc, RwLock};
use std::sync::PoisonError;

/// Bytes of names that are collected before they become a file.
const COLLECTED: usize = if cfg!(test) { 4 << 10 } else { 32 << 20 };

/// All heads files of a log.
#[derive(Debug)]
pub(crate) struct Heads(RwLock<Arc<Known>>);

/// What is known, as of one moment.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Where the log is kept from: the files speak of what came before.
    pub(crate) oldest: Position,
    /// In the order of the log, each beginning where the one before ends.
    pub(crate) files: Vec<Arc<HeadsFile>>,
}

/// A heads file, mapped. Each page is checked when it is first used.
#[derive(Debug)]
pub(crate) struct HeadsFile {
    head: Head,
    name: String,
    map: Map,
    checked: Checked,
}

impl Heads {
    pub(crate) fn new(known: Known) -> Self {
        Self(RwLock::new(Arc::new(known)))
    }

    pub(crate) fn known(&self) -> Arc<Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, known: Known) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
    }
}

impl Known {
    /// Opens the files that a record names. Each has to be there: nothing else knows what they say.
    pub(crate) fn open(directory: &dyn Directory, store: StoreId, kept: Option<&Kept>) -> Result<Self> {
        let Some(kept) = kept else { return Ok(Self { oldest: Position::new(1), files: Vec::new() }) };
        let ends = kept.heads.iter().skip(1).chain([&kept.oldest]);
        let files = kept.heads.iter().zip(ends).map(|(first, end)| HeadsFile::open(directory, store, *first, *end));
        Ok(Self { oldest: kept.oldest, files: files.collect::<Result<_>>()? })
    }

    /// The names of the files.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.name.as_str())
    }

    /// Where a stream stood that has no event in what is kept.
    pub(crate) fn find(&self, stream: &[u8]) -> Result<Stood> {
        for file in self.files.iter().rev() {
            if let Some(stood) = file.find(stream)? {
                return Ok(stood);
            }
        }
        Ok(Stood::default())
    }

    /// What a control record says of this.
    pub(crate) fn kept(&self) -> Kept {
        Kept { oldest: self.oldest, heads: self.files.iter().map(|file| file.head.first).collect() }
    }
}

impl HeadsFile {
    pub(crate) fn open(directory: &dyn Directory, store: StoreId, first: Position, end: Position) -> Result<Arc<Self>> {
        let name = header::heads_name(first, end);
        let unsound = |why: &str| Error::not_a_store(&directory.path().join(&name), why);
        let file = directory.open(&name, Access::Read).map_err(|error| match error {
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                unsound("the file that says where older streams stood is missing")
            }
            error => error,
        })?;
        let len = file.len()?;
        if len < PAGE as u64 {
            return Err(unsound("it is shorter than its header"));
        }
        let found = Self::over(name.clone(), file.map(len, Access::Read)?);
        found
            .filter(|file| (file.head.store, file.head.first, file.head.end) == (store, first, end))
            .map(Arc::new)
            .ok_or_else(|| unsound("its header is damaged, or of another store or version"))
    }

    /// Over the bytes of a file. `None` when they are not those of a heads file.
    pub(crate) fn over(name: String, map: Map) -> Option<Self> {
        map.allow(map.len());
        let head = Head::decode(map.bytes(0..PAGE as u64), map.len())?;
        Some(Self { head, name, checked: Checked::new(head.pages as usize), map })
    }

    /// Where a stream stood, if it is known here.
    pub(crate) fn find(&self, stream: &[u8]) -> Result<Option<Stood>> {
        // The last page whose first stream is not behind it.
        let (mut low, mut high) = (0, self.head.pages);
        while low < high {
            let middle = low + (high - low) / 2;
            let first = Streams::of(self.page(middle)?).next().map(|(name, _)| name.cmp(stream));
            match first {
                Some(Ordering::Equal | Ordering::Less) => low = middle + 1,
                Some(Ordering::Greater) | None => high = middle,
            }
        }
        let Some(page) = low.checked_sub(1) else { return Ok(None) };
        let mut streams = Streams::of(self.page(page)?);
        while let Some((name, stood)) = streams.next() {
            match name.cmp(stream) {
                Ordering::Less => {}
                Ordering::Equal => return Ok(Some(stood)),
                Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    /// Everything that is wrong with it: pages that are not what was written, and streams that are not in their order.
    pub(crate) fn faults(&self) -> Result<Vec<Damage>> {
        let mut found = Vec::new();
        let (mut last, mut streams) = (Vec::new(), 0);
        for number in 0..self.head.pages {
            let page = match self.page(number) {
                Ok(page) => page,
                Err(Error::Damaged(damage)) => {
                    found.push(damage);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut on_page = Streams::of(page);
            while let Some((name, _)) = on_page.next() {
                if name <= &last[..] {
                    found.push(self.damage(u64::from(number) + 1, "its streams are not in their order"));
                }
                last.clear();
                last.extend_from_slice(name);
                streams += 1;
            }
        }
        if found.is_empty() && streams != self.head.streams {
            found.push(self.damage(0, "it has not the number of streams that it says"));
        }
        Ok(found)
    }

    fn damage(&self, page: u64, what: &str) -> Damage {
        Damage {
            segment: self.name.clone(),
            offset: page * PAGE as u64,
            length: PAGE as u64,
            position: self.head.first,
            what: what.to_owned(),
        }
    }

    fn page(&self, number: u32) -> Result<&[u8]> {
        let offset = (u64::from(number) + 1) * PAGE as u64;
        let page = self.map.bytes(offset..offset + PAGE as u64);
        self.checked.check(number as usize, || self.head.is_sound(number, page)).map_err(|_unsound| {
            Error::Damaged(self.damage(u64::from(number) + 1, "where streams stood whose events are not kept any more"))
        })?;
        Ok(page)
    }
}

/// All streams of a file, one after the other.
struct All<'a> {
    file: &'a HeadsFile,
    next: u32,
    page: Option<Streams<'a>>,
}

impl<'a> All<'a> {
    fn new(file: &'a HeadsFile) -> Self {
        Self { file, next: 0, page: None }
    }

    fn next(&mut self) -> Result<Option<(Vec<u8>, Stood)>> {
        loop {
            if let Some(page) = &mut self.page
                && let Some((name, stood)) = page.next()
            {
                return Ok(Some((name.to_vec(), stood)));
            }
            if self.next == self.file.head.pages {
                return Ok(None);
            }
            self.page = Some(Streams::of(self.file.page(self.next)?));
            self.next += 1;
        }
    }
}

/// Writes a heads file again under the same name in another directory, as that of another store.
pub(crate) fn copy_as(file: &HeadsFile, to: &dyn Directory, store: StoreId) -> Result<()> {
    let mut all = All::new(file);
    write(to, store, file.head.first, file.head.end, || all.next())?;
    Ok(())
}

/// Writes a heads file again under the same name in another directory, with what can be read of it, and with what is known of
/// `streams` otherwise.
pub(crate) fn salvage(
    from: &dyn Directory,
    to: &dyn Directory,
    (store, first, end): (StoreId, Position, Position),
    mut streams: BTreeMap<Vec<u8>, Stood>,
) -> Result<()> {
    let file = match HeadsFile::open(from, store, first, end) {
        Ok(file) => Some(file),
        Err(Error::NotAStore { .. }) => None,
        Err(error) => return Err(error),
    };
    for number in 0..file.as_ref().map_or(0, |file| file.head.pages) {
        let page = match file.as_ref().map(|file| file.page(number)) {
            Some(Ok(page)) => page,
            Some(Err(Error::Damaged(_))) | None => continue,
            Some(Err(error)) => return Err(error),
        };
        let mut on_page = Streams::of(page);
        while let Some((name, stood)) = on_page.next() {
            streams.insert(name.to_vec(), stood);
        }
    }
    let mut source = streams.into_iter();
    write(to, store, first, end, || Ok(source.next()))?;
    Ok(())
}

/// Collects where streams stand in segments that are let go of, and makes files of it.
#[derive(Debug)]
pub(crate) struct Collector<'a> {
    directory: &'a dyn Directory,
    store: StoreId,
    files: Vec<Arc<HeadsFile>>,
    /// Where what is collected begins.
    from: Position,
    streams: BTreeMap<Vec<u8>, Stood>,
    bytes: usize,
}

impl<'a> Collector<'a> {
    /// Goes on behind what is known.
    pub(crate) fn new(directory: &'a dyn Directory, store: StoreId, known: &Known) -> Self {
        let files = known.files.clone();
        Self { directory, store, files, from: known.oldest, streams: BTreeMap::new(), bytes: 0 }
    }

    /// Takes in what was removed of streams that had nothing left in the log by then: only here it can be kept.
    pub(crate) fn take_in_removed(&mut self, known: &Known, removals: &Removals) -> Result<()> {
        for (stream, _) in removals.streams() {
            let stood = known.find(stream.as_bytes())?;
            if !stood.is_gone && removals.hides(stream, stood.revision) {
                self.add(stream.as_bytes(), Stood { is_gone: true, ..stood });
            }
        }
        Ok(())
    }

    /// Takes in a sealed segment, the ones before it having been taken in.
    pub(crate) fn take_in(&mut self, segment: &Segment, removals: Option<&Removals>) -> Result<()> {
        let is_gone = |frame: Frame<'_>| {
            frame.is_stub() || removals.is_some_and(|removals| removals.hides(frame.stream(), frame.revision()))
        };
        let (mut offset, mut next, limit) = (PAGE as u64, segment.first(), segment.written());
        while offset < limit {
            match segment.find(offset, limit) {
                Found::Frame(frame) => {
                    next = after(frame);
                    if !frame.is_control() {
                        let stood = Stood { revision: frame.revision(), is_gone: is_gone(frame) };
                        self.add(frame.stream_bytes(), stood);
                        if self.bytes >= COLLECTED {
                            self.make_file(next)?;
                        }
                    }
                    offset += frame.stride() as u64;
                }
                // Nobody can tell which streams stood there, and none may be given a revision twice.
                Found::Blank | Found::Bad(_) => {
                    let end = segment.next_sound(offset, limit, next).unwrap_or(limit);
                    let what = "it cannot be let go of, as nobody can tell where its streams stood; repair it first";
                    return Err(Error::Damaged(segment.damage(offset, end, next, what)));
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, stream: &[u8], stood: Stood) {
        if let Some(known) = self.streams.get_mut(stream) {
            *known = stood;
        } else {
            self.bytes += stream.len();
            self.streams.insert(stream.to_vec(), stood);
        }
    }

    /// Ends: everything before `oldest` was taken in. The files are on the disk when this returns.
    pub(crate) fn finish(mut self, oldest: Position) -> Result<Known> {
        if self.from < oldest {
            self.make_file(oldest)?;
        }
        self.directory.sync()?;
        Ok(Known { oldest, files: self.files })
    }

    /// Makes a file of what was collected up to a position, and merges files while the last one is at least half as large as
    /// the one before it: so there are few, and each stream is written again few times.
    fn make_file(&mut self, end: Position) -> Result<()> {
        let streams = std::mem::take(&mut self.streams);
        self.bytes = 0;
        let mut source = streams.into_iter();
        let file = write(self.directory, self.store, self.from, end, || Ok(source.next()))?;
        self.from = end;
        self.files.push(file);
        while let [.., one, other] = &self.files[..]
            && other.head.pages >= one.head.pages / 2
        {
            let merged = merge(self.directory, one, other)?;
            self.files.truncate(self.files.len() - 2);
            self.files.push(merged);
        }
        Ok(())
    }
}

/// One file of two neighbours. What the later one says counts.
fn merge(directory: &dyn Directory, one: &HeadsFile, other: &HeadsFile) -> Result<Arc<HeadsFile>> {
    let (mut earlier, mut later) = (All::new(one), All::new(other));
    let (mut left, mut right) = (earlier.next()?, later.next()?);
    write(directory, one.head.store, one.head.first, other.head.end, || {
        let order = match (&left, &right) {
            (None, None) => return Ok(None),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((one, _)), Some((other, _))) => one.cmp(other),
        };
        if order == Ordering::Equal {
            left = earlier.next()?;
        }
        Ok(if order == Ordering::Less {
            std::mem::replace(&mut left, earlier.next()?)
        } else {
            std::mem::replace(&mut right, later.next()?)
        })
    })
}

/// Writes a file. It is synced; its name is not.
fn write(
    directory: &dyn Directory,
    store: StoreId,
    first: Position,
    end: Position,
    mut next: impl FnMut() -> Result<Option<(Vec<u8>, Stood)>>,
) -> Result<Arc<HeadsFile>> {
    let name = header::heads_name(first, end);
    let temporary = format!("{name}.tmp");
    directory.remove(&temporary)?;
    let file = directory.create(&temporary)?;
    let mut pages = Pages::new(store, first, end);
    let mut offset = PAGE as u64;
    let mut put = |page: Vec<u8>| {
        file.may_grow_to(offset + PAGE as u64)?;
        file.write_at(&page, offset)?;
        offset += PAGE as u64;
        Ok::<(), Error>(())
    };
    let mut fill = || {
        while let Some((name, stood)) = next()? {
            pages.add(&name, stood).map_or(Ok(()), &mut put)?;
        }
        pages.finish_page().map_or(Ok(()), &mut put)?;
        file.write_at(&pages.head().encode(), 0)?;
        file.sync()
    };
    if let Err(error) = fill() {
        directory.remove(&temporary)?;
        return Err(error);
    }
    directory.rename(&temporary, &name)?;
    HeadsFile::open(directory, store, first, end)
}
