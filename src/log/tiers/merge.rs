//! Merging neighbours into one tier file, a few pages at a time, so that whoever does it can stop for something else.

use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::format::frame::Nonce;
use crate::format::tier::{Head, PAGE_ENTRIES, Shape};
use crate::format::{PAGE, header};
use crate::id::Position;
use crate::log::checked::Unsound;
use crate::log::index::file::IndexFile;
use crate::log::parts::Parts;
use crate::log::tiers::Cover;
use crate::log::tiers::file::Tier;
use crate::segment::disk::{Directory, File};

/// A tier file that is being made.
#[derive(Debug)]
pub(crate) struct Merge {
    directory: Arc<dyn Directory>,
    head: Head,
    covered: Vec<(Position, Nonce)>,
    /// The first position of the segment behind them.
    end: Position,
    sources: Vec<Source>,
    file: Arc<dyn File>,
    temporary: String,
    /// The main page that comes next.
    page: u32,
}

/// What became of a few pages' work.
#[derive(Debug)]
pub(crate) enum Merged {
    /// There is more to do.
    Partly,
    Done,
    /// A source was not what was written. It was left out of what is merged next.
    Unsound,
}

/// One of the files that are merged.
#[derive(Debug)]
struct Source {
    kind: Kind,
    /// The number of its first segment in the new tier.
    base: u32,
}

#[derive(Debug)]
enum Kind {
    Index { file: Arc<IndexFile>, first: Position, at: usize },
    Tier { tier: Arc<Tier>, page: u32, number: u32, at: usize },
}

impl Merge {
    /// Begins to merge neighbours, one at least. `None` when one of them cannot be: it is left out of what is merged next.
    pub(crate) fn begin(parts: &Parts, directory: Arc<dyn Directory>, covers: &[Cover]) -> Result<Option<Self>> {
        let (mut covered, mut sources, mut entries, mut known_bits) = (Vec::new(), Vec::new(), 0, 64);
        for cover in covers {
            let base = covered.len() as u32;
            let kind = match cover {
                Cover::Segment(first) => {
                    let part = parts.of(*first)?;
                    let Some(file) = part.index.file().filter(|_| part.segment.first() == *first) else {
                        parts.tiers.bar(*first);
                        return Ok(None);
                    };
                    covered.push((*first, part.segment.header.origin()));
                    entries += file.terms() as u64;
                    Kind::Index { file, first: *first, at: 0 }
                }
                Cover::Tier(tier) => {
                    if !parts.is_of_these(tier) {
                        parts.forget(tier);
                        return Ok(None);
                    }
                    covered.extend(&tier.covered);
                    entries += tier.head.entries;
                    known_bits = known_bits.min(tier.head.shape.prefix_bits());
                    Kind::Tier { tier: tier.clone(), page: 0, number: tier.head.main_page(0), at: 0 }
                }
            };
            sources.push(Source { kind, base });
        }
        let (first, nonce) = covered[0];
        let end = covered.last().and_then(|(last, _)| parts.following(*last));
        let (Some(end), Some(shape)) = (end, Shape::new(entries, covered.len(), known_bits)) else {
            parts.tiers.bar(first);
            return Ok(None);
        };
        let segments = covered.len() as u32;
        let salt = nonce.0 ^ segments;
        let head = Head { store: parts.store, salt, first, segments, entries: 0, shape, spill_pages: 0 };

        let temporary = format!("{}.tmp", header::tier_name(first, covered.len()));
        directory.remove(&temporary)?;
        let file = directory.create(&temporary)?;
        let merge = Self { directory, head, covered, end, sources, file, temporary, page: 0 };
        let all = u64::from(merge.head.spill()) * PAGE as u64;
        let begun = merge.file.may_grow_to(all);
        match begun.and_then(|()| merge.write(&merge.head.encode_directory(&merge.covered), PAGE as u64)) {
            Ok(()) => Ok(Some(merge)),
            Err(error) => {
                merge.abandon()?;
                Err(error)
            }
        }
    }

    fn write(&self, bytes: &[u8], place: u64) -> Result<()> {
        self.file.may_grow_to(place + bytes.len() as u64)?;
        self.file.write_at(bytes, place)
    }

    /// How many segments the new tier covers.
    pub(crate) fn segments(&self) -> usize {
        self.covered.len()
    }

    /// Makes so many pages more. When they were the last, the new tier takes the place of what it was made of.
    pub(crate) fn go_on(&mut self, parts: &Parts, pages: u32) -> Result<Merged> {
        let shape = self.head.shape;
        let last = shape.main_pages().min(self.page.saturating_add(pages));
        let place = u64::from(self.head.main_page(self.page)) * PAGE as u64;
        let (mut bytes, mut entries) = (Vec::with_capacity(pages as usize * PAGE), Vec::new());
        while self.page < last {
            entries.clear();
            let prefixes = shape.begins(self.page)..shape.begins(self.page + 1);
            for source in &mut self.sources {
                if source.take(shape, &prefixes, &mut entries).is_err() {
                    source.forget(parts);
                    return Ok(Merged::Unsound);
                }
            }
            entries.sort_unstable();
            entries.dedup();
            self.head.entries += entries.len() as u64;
            let number = self.head.main_page(self.page);
            bytes.extend_from_slice(&self.encode(number, &entries)?);
            self.page += 1;
        }
        self.write(&bytes, place)?;
        if self.page < shape.main_pages() {
            return Ok(Merged::Partly);
        }
        if let Some(source) = self.sources.iter().find(|source| !source.is_exhausted()) {
            source.forget(parts);
            return Ok(Merged::Unsound);
        }
        self.finish(parts)?;
        Ok(Merged::Done)
    }

    /// One main page, and the pages behind all of them that hold what it has no room for.
    fn encode(&mut self, number: u32, entries: &[u32]) -> Result<[u8; PAGE]> {
        let (here, mut rest) = entries.split_at(entries.len().min(PAGE_ENTRIES));
        let spill = |head: &Head| head.spill() + head.spill_pages;
        let page = self.head.encode_entries(number, here, (!rest.is_empty()).then(|| spill(&self.head)));
        while !rest.is_empty() {
            let number = spill(&self.head);
            let (here, left) = rest.split_at(rest.len().min(PAGE_ENTRIES));
            let page = self.head.encode_entries(number, here, (!left.is_empty()).then_some(number + 1));
            self.write(&page, u64::from(number) * PAGE as u64)?;
            self.head.spill_pages += 1;
            rest = left;
        }
        Ok(page)
    }

    /// Not synced: whatever a power cut leaves of the file, its checksums tell, and it is made again.
    fn finish(&mut self, parts: &Parts) -> Result<()> {
        self.write(&self.head.encode(), 0)?;
        let (first, segments) = (self.head.first, self.covered.len());
        self.directory.rename(&self.temporary, &header::tier_name(first, segments))?;
        let Some(tier) = Tier::open(&*self.directory, self.head.store, first, segments) else {
            // Making it once more would not help: there may be no more maps.
            parts.tiers.bar(first);
            return Ok(());
        };
        parts.tiers.put(tier, self.end);
        for source in &self.sources {
            if let Kind::Tier { tier, .. } = &source.kind {
                self.directory.remove(&tier.name())?;
            }
        }
        Ok(())
    }

    /// Gives up. What was made is removed.
    pub(crate) fn abandon(self) -> Result<()> {
        self.directory.remove(&self.temporary)
    }
}

impl Source {
    /// Takes the entries with these prefixes of the new tier's shape, which come next.
    fn take(&mut self, shape: Shape, prefixes: &Range<u64>, entries: &mut Vec<u32>) -> Result<(), Unsound> {
        let mut add = |prefix: u64, segment: u32| {
            // They rise in every file that is what was written.
            let rises = prefix >= prefixes.start;
            rises.then(|| entries.push(shape.entry(prefixes.start, prefix, segment))).ok_or(Unsound)
        };
        match &mut self.kind {
            Kind::Index { file, at, .. } => {
                while *at < file.terms() {
                    let prefix = shape.prefix(file.term(*at)?);
                    if prefix >= prefixes.end {
                        break;
                    }
                    add(prefix, self.base)?;
                    *at += 1;
                }
            }
            Kind::Tier { tier, page, number, at } => {
                let old = tier.head.shape;
                let mut begins = old.begins(*page);
                while *page < old.main_pages() {
                    let here = tier.entries(*number)?;
                    let Some(entry) = here.get(*at) else {
                        *at = 0;
                        *number = match tier.behind(*number, here)? {
                            Some(next) => next,
                            None => {
                                *page += 1;
                                begins = old.begins(*page);
                                tier.head.main_page(*page)
                            }
                        };
                        continue;
                    };
                    let (prefix, segment) = old.read(begins, entry);
                    // The new shape knows no more of a hash than any old one.
                    let prefix = prefix >> (old.prefix_bits() - shape.prefix_bits());
                    if prefix >= prefixes.end {
                        break;
                    }
                    if segment >= tier.head.segments {
                        return Err(Unsound);
                    }
                    add(prefix, self.base + segment)?;
                    *at += 1;
                }
            }
        }
        Ok(())
    }

    fn is_exhausted(&self) -> bool {
        match &self.kind {
            Kind::Index { file, at, .. } => *at == file.terms(),
            Kind::Tier { tier, page, .. } => *page == tier.head.shape.main_pages(),
        }
    }

    /// What is not what was written is not merged again.
    fn forget(&self, parts: &Parts) {
        match &self.kind {
            Kind::Index { first, .. } => parts.tiers.bar(*first),
            Kind::Tier { tier, .. } => parts.forget(tier),
        }
    }
}
