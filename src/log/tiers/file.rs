//! A tier file, mapped. Each page is checked when it is first used.

use crate::format::frame::Nonce;
use crate::format::term::Term;
use crate::format::tier::{Entries, Head};
use crate::format::{PAGE, header};
use crate::id::{Position, StoreId};
use crate::log::checked::{Checked, Unsound};
use crate::log::cost;
use crate::log::index::file::IndexFile;
use crate::segment::disk::Directory;
use crate::segment::map::{Access, Map};
use crate::sync::primitive::atomic::{AtomicBool, Ordering};

/// Which of several neighbouring segments bear a term.
///
/// It may name segments that do not, never leaves out one that does. It holds nothing that the segments do not, so it
/// can be lost at any time.
#[derive(Debug)]
pub(crate) struct Tier {
    pub(super) head: Head,
    /// First position of each segment, and the nonce of the first file that it had, rising.
    pub(super) covered: Vec<(Position, Nonce)>,
    map: Map,
    checked: Checked,
    /// Whether it was found to be of the segments that stand there.
    confirmed: AtomicBool,
}

impl Tier {
    /// `None` when there is no such file, or it is not one of this store.
    pub(super) fn open(directory: &dyn Directory, store: StoreId, first: Position, segments: usize) -> Option<Self> {
        let file = directory.open(&header::tier_name(first, segments), Access::Read).ok()?;
        let len = file.len().ok().filter(|len| *len >= PAGE as u64)?;
        let tier = Self::over(file.map(len, Access::Read).ok()?)?;
        let is_it = tier.head.store == store && tier.head.first == first && tier.covered.len() == segments;
        is_it.then_some(tier)
    }

    /// Over the bytes of a file. `None` when they are not those of a tier file.
    pub(crate) fn over(map: Map) -> Option<Self> {
        map.allow(map.len());
        let bytes = map.bytes(0..map.len());
        let head = Head::decode(bytes.get(..PAGE)?, map.len())?;
        let covered = head.decode_directory(bytes)?;
        let checked = Checked::new(head.pages() as usize);
        Some(Self { head, covered, map, checked, confirmed: AtomicBool::new(false) })
    }

    /// The name of its file.
    pub(crate) fn name(&self) -> String {
        header::tier_name(self.head.first, self.covered.len())
    }

    /// Bytes of its file.
    pub(crate) fn len(&self) -> u64 {
        self.map.len()
    }

    /// Whether it is of the segments that stand there, given the nonce of the one that begins at a position. Asked once.
    ///
    /// A copy of the store that went on by itself has files of the same names. Where two histories part every later
    /// segment is another one, so the last one tells.
    pub(crate) fn is_of(&self, nonce: impl FnOnce(Position) -> Option<Nonce>) -> bool {
        let Some((last, expected)) = self.covered.last() else { return false };
        if self.confirmed.load(Ordering::Relaxed) {
            return true;
        }
        match nonce(*last) {
            Some(found) => {
                self.confirmed.store(found == *expected, Ordering::Relaxed);
                found == *expected
            }
            // Whoever reads there is told.
            None => true,
        }
    }

    /// Whether every page of entries is what was written.
    pub(crate) fn is_sound(&self) -> bool {
        (self.head.main_page(0)..self.head.pages()).all(|number| self.entries(number).is_ok())
    }

    /// Whether it names a segment, by its number, for every term of that segment's own index, and both are sound.
    pub(crate) fn names_all(&self, number: usize, index: &IndexFile) -> bool {
        (0..index.terms()).all(|at| {
            let mut is_named = false;
            let asked = index.term(at).and_then(|term| self.bearing(term, |segment| is_named |= segment == number));
            asked.is_ok() && is_named
        })
    }

    /// The nonce of the covered segment that begins at `first`.
    pub(crate) fn nonce_of(&self, first: Position) -> Option<Nonce> {
        let at = self.covered.binary_search_by_key(&first, |(first, _)| *first).ok()?;
        Some(self.covered[at].1)
    }

    /// Calls `each` with the number of every segment that may bear a term, rising.
    pub(crate) fn bearing(&self, term: Term, mut each: impl FnMut(usize)) -> Result<(), Unsound> {
        let shape = self.head.shape;
        let prefix = shape.prefix(term);
        let page = shape.page(prefix);
        let begins = shape.begins(page);
        let (from, to) = (shape.entry(begins, prefix, 0), shape.entry(begins, prefix, self.head.segments - 1));
        let mut next = Some(self.head.main_page(page));
        while let Some(number) = next {
            let entries = self.entries(number)?;
            for at in entries.lower_bound(from).. {
                match entries.get(at) {
                    Some(entry) if entry <= to => each(shape.read(begins, entry).1 as usize),
                    Some(_) => return Ok(()),
                    None => break,
                }
            }
            next = self.behind(number, entries)?;
        }
        Ok(())
    }

    /// A page of entries.
    pub(super) fn entries(&self, number: u32) -> Result<Entries<'_>, Unsound> {
        let start = u64::from(number) * PAGE as u64;
        let page = self.map.bytes(start..start + PAGE as u64);
        cost::index_bytes(page.len());
        if page.len() < PAGE {
            return Err(Unsound);
        }
        self.checked.check(number as usize, || self.head.is_sound(number, page))?;
        Ok(Entries::of(page))
    }

    /// The page that a page goes on in.
    pub(super) fn behind(&self, number: u32, entries: Entries<'_>) -> Result<Option<u32>, Unsound> {
        match entries.goes_on() {
            // They lie behind all main pages, and behind each other: so this ends.
            Some(next) if next < self.head.spill() || next <= number => Err(Unsound),
            next => Ok(next),
        }
    }
}
