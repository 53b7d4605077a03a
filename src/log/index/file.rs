//! The index file of a sealed segment.

use std::ops::Range;

use crate::format::frame;
use crate::format::index::{self, Layout, Posting, Postings, Unit};
use crate::format::term::Term;
use crate::format::{PAGE, header, u32_at};
use crate::log::checked::{Checked, Unsound};
use crate::log::cost;
use crate::log::index::survey::Survey;
use crate::segment::Segment;
use crate::segment::disk::Directory;
use crate::segment::map::{Access, Map};

/// The terms of an event without tags: stream, category, type.
const USUAL_TERMS: usize = 3;

/// Postings between two pauses, when they are collected and when they are sorted: some hundred microseconds.
const POSTINGS_AT_ONCE: usize = 4096;

/// The bytes of the index file of a sealed segment. `None` when the segment is damaged, and when the file would be too
/// large.
///
/// All postings are sorted at once: a third of the time, and of the memory, of collecting them term by term. `pause` is
/// called again and again, so that whoever makes the file in the background can let others have the core: a kernel that
/// does not preempt lets them wait for milliseconds otherwise.
pub(super) fn encode(segment: &Segment, pause: &mut dyn FnMut()) -> Option<Vec<u8>> {
    let mut survey = Survey::new(segment);
    // All at once: growing would hold much of it twice.
    let claimed = segment.last().map_or(0, |last| last.next().get().saturating_sub(segment.first().get()));
    let events = claimed.min(segment.written() / frame::HEADER as u64);
    let mut postings = Vec::with_capacity(events as usize * USUAL_TERMS);
    survey.catch_up(segment, segment.written(), |term, unit| {
        postings.push(Posting::new(term, unit));
        if postings.len().is_multiple_of(POSTINGS_AT_ONCE) {
            pause();
        }
    });
    if !survey.damaged.is_empty() {
        return None;
    }
    sort(&mut postings, pause);
    postings.dedup();
    index::encode(&survey.summary, &survey.sparse, &postings, pause)
}

/// Sorts, in pieces with pauses between them.
fn sort(postings: &mut [Posting], pause: &mut dyn FnMut()) {
    if postings.len() <= POSTINGS_AT_ONCE {
        postings.sort_unstable();
        return pause();
    }
    let (lower, _, upper) = postings.select_nth_unstable(postings.len() / 2);
    sort(lower, pause);
    sort(upper, pause);
}

/// An index file, mapped. Each page is checked when it is first used.
#[derive(Debug)]
pub(crate) struct IndexFile {
    pub(super) layout: Layout,
    map: Map,
    checked: Checked,
}

impl IndexFile {
    /// `None` when there is no file, or not one for this segment as it is.
    pub(super) fn open(directory: &dyn Directory, segment: &Segment) -> Option<Self> {
        let file = directory.open(&header::index_name(segment.first()), Access::Read).ok()?;
        let len = file.len().ok().filter(|len| *len >= PAGE as u64)?;
        Self::over(file.map(len, Access::Read).ok()?, segment)
    }

    pub(super) fn over(map: Map, segment: &Segment) -> Option<Self> {
        map.allow(map.len());
        let bytes = map.bytes(0..map.len());
        let layout = index::layout(bytes.get(..PAGE)?, bytes.len())?;
        let fits = layout.summary.store == segment.header.store
            // What is known of a segment that is lost, it knows: which terms were there.
            && (layout.summary.nonce == segment.header.nonce || segment.is_lost() && layout.summary.first == segment.first())
            && layout.summary.end == segment.written()
            && layout.table_is_sound(bytes);
        let checked = Checked::new(layout.pages());
        fits.then_some(Self { layout, map, checked })
    }

    pub(super) fn postings(&self, term: Term, from: u64) -> Result<Vec<Unit>, Unsound> {
        let Some(postings) = self.find(term)? else { return Ok(Vec::new()) };
        let mut units = match postings.only() {
            Some(only) => vec![only],
            None => {
                let range = self.layout.postings_bytes(postings).ok_or(Unsound)?;
                postings.decode(self.bytes(range)?).ok_or(Unsound)?
            }
        };
        let skipped = units.partition_point(|unit| unit.offset() < from);
        units.drain(..skipped);
        Ok(units)
    }

    /// Every frame that bears a term, which is every event, rising. Costs as much as making the file.
    pub(super) fn frames(&self) -> Result<Vec<Unit>, Unsound> {
        let mut units = Vec::with_capacity(self.layout.summary.events as usize);
        for at in 0..self.terms() {
            let term = self.term(at)?;
            units.extend(self.postings(term, 0)?);
            // A type or a tag that all have may be as many as the events; more than a few times them is never held.
            if units.len() > 4 * self.layout.summary.events as usize {
                units.sort_unstable();
                units.dedup();
            }
        }
        units.sort_unstable();
        units.dedup();
        Ok(units)
    }

    pub(super) fn count(&self, term: Term) -> Result<u64, Unsound> {
        Ok(self.find(term)?.map_or(0, |postings| u64::from(postings.count)))
    }

    pub(super) fn sparse(&self, chunk: usize) -> Result<Option<Unit>, Unsound> {
        let start = self.layout.sparse.start + chunk * 4;
        if start >= self.layout.sparse.end {
            return Ok(None);
        }
        Ok(Some(Unit(u32_at(self.bytes(start..start + 4)?, 0))))
    }

    /// Whether every page is what was written.
    pub(crate) fn is_sound(&self) -> bool {
        let file = self.map.bytes(0..self.map.len());
        (0..self.layout.pages()).all(|page| self.layout.page_is_sound(file, page))
    }

    /// How many terms there are.
    pub(crate) fn terms(&self) -> usize {
        self.layout.terms()
    }

    /// The hash of a term. They rise.
    pub(crate) fn term(&self, at: usize) -> Result<Term, Unsound> {
        Ok(self.layout.term(self.bytes(self.layout.term_bytes(at))?))
    }

    fn find(&self, term: Term) -> Result<Option<Postings>, Unsound> {
        let fanout = self.bytes(self.layout.fanout_of(term))?;
        let bucket = self.layout.bucket(fanout).ok_or(Unsound)?;
        if bucket.is_empty() {
            return Ok(None);
        }
        Ok(self.layout.find(self.bytes(bucket)?, term))
    }

    fn bytes(&self, range: Range<usize>) -> Result<&[u8], Unsound> {
        cost::index_bytes(range.len());
        let file = self.map.bytes(0..self.map.len());
        for page in self.layout.pages_of(&range) {
            self.checked.check(page, || self.layout.page_is_sound(file, page))?;
        }
        Ok(&file[range])
    }
}
