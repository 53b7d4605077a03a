//! Splitting a reader into several that share its work.

use std::ops::RangeInclusive;

use crate::error::Result;
use crate::format::PAGE;
use crate::format::index::SPARSE;
use crate::id::Position;
use crate::log::Log;
use crate::log::reader::Reader;

/// Positions of one segment that are read, and about how many bytes they take.
struct Stretch {
    first: Position,
    positions: u64,
    bytes: u64,
}

impl Reader {
    /// Splits it into at most `readers` ones that read neighbouring ranges of the log, about equally many bytes each: for
    /// threads of your own. One after the other they give what it would have given, nothing missing and nothing twice;
    /// a damaged stretch is told by the one in whose range it begins. (Where a segment is damaged in several places, a
    /// reader that begins between them may find events that one from the beginning cannot be sure of, and gives up.) There
    /// are fewer where the log has no more to share,
    /// and just one when there is a limit.
    ///
    /// To have the results in the order of the log, use [`in_parallel`](Reader::in_parallel).
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join(format!("towpath-split-{}", std::process::id()));
    /// # let _ = std::fs::remove_dir_all(&dir);
    /// use towpath::{NewEvent, Query, Store};
    ///
    /// let store = Store::open(&dir)?;
    /// for n in 0..1000 {
    ///     store.append("cart-1", NewEvent::new("opened", &n.to_string()))?;
    /// }
    /// let readers = store.read(Query::new()).split(4)?;
    /// let counts: Vec<usize> = std::thread::scope(|scope| {
    ///     let threads: Vec<_> = readers.into_iter().map(|reader| scope.spawn(|| reader.flatten().count())).collect();
    ///     threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    /// });
    /// assert_eq!(counts.len(), 4);
    /// assert_eq!(counts.iter().sum::<usize>(), 1000);
    /// store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok::<(), towpath::Error>(())
    /// ```
    ///
    /// # Errors
    /// When a segment cannot be opened.
    pub fn split(mut self, readers: usize) -> Result<Vec<Reader>> {
        let range = if self.is_limited() { None } else { self.range()? };
        let Some(range) = range.filter(|_| readers > 1) else { return Ok(vec![self]) };
        let cuts = cuts(&stretches(self.log(), &range)?, readers as u64);
        let firsts = std::iter::once(*range.start()).chain(cuts.iter().copied());
        let lasts = cuts.iter().map(|cut| cut.previous()).chain([*range.end()]);
        let mut split: Vec<Reader> =
            firsts.zip(lasts).enumerate().map(|(at, (first, last))| self.of_range(first..=last, at > 0)).collect();
        if self.is_backwards() {
            split.reverse();
        }
        Ok(split)
    }
}

fn stretches(log: &Log, range: &RangeInclusive<Position>) -> Result<Vec<Stretch>> {
    let firsts = log.parts.firsts();
    let begin = firsts.partition_point(|first| first <= range.start()).saturating_sub(1);
    let mut stretches = Vec::new();
    for (at, begins) in firsts.iter().enumerate().skip(begin).take_while(|(_, begins)| *begins <= range.end()) {
        let ends = firsts.get(at + 1).copied().unwrap_or(log.head().next());
        let (first, end) = ((*begins).max(*range.start()), ends.min(range.end().next()));
        let positions = end.get().saturating_sub(first.get());
        let all = ends.get().saturating_sub(begins.get()).max(1);
        let bytes = log.parts.of(*begins)?.segment.written().saturating_sub(PAGE as u64);
        // As if all events of a segment were alike.
        let bytes = (u128::from(bytes) * u128::from(positions) / u128::from(all)) as u64;
        stretches.push(Stretch { first, positions, bytes });
    }
    Ok(stretches)
}

/// The first positions of all ranges but the first one, rising.
fn cuts(stretches: &[Stretch], ranges: u64) -> Vec<Position> {
    let sum: u64 = stretches.iter().map(|stretch| stretch.bytes).sum();
    let (mut cuts, mut passed, mut rest) = (Vec::new(), 0, stretches.iter().peekable());
    for range in 1..ranges {
        let wanted = (u128::from(sum) * u128::from(range) / u128::from(ranges)) as u64;
        while let Some(stretch) = rest.next_if(|stretch| passed + stretch.bytes <= wanted) {
            passed += stretch.bytes;
        }
        let Some(stretch) = rest.peek() else { break };
        let share = u128::from(wanted - passed) * u128::from(stretch.positions) / u128::from(stretch.bytes.max(1));
        cuts.push(Position::new(stretch.first.get() + share as u64));
    }
    cuts.dedup();
    cuts.retain(|cut| *cut > stretches[0].first);
    cuts
}

/// What one thread takes at a time.
pub(crate) enum Share {
    /// From a position up to this one: the index file of their segment says where they are.
    Range(Position),
    /// What stands up to this one is to be found frame by frame first.
    Walk(Position),
}

/// What is taken from `from` on: at most so many events, and about so many bytes.
pub(crate) fn share(log: &Log, from: Position, events: u64, bytes: u64) -> Result<Share> {
    let part = log.parts.of(from)?;
    let Some(last) = part.segment.last() else { return Ok(Share::Walk(Position::new(u64::MAX))) };
    let last = last.max(from);
    if !part.index.is_file() {
        return Ok(Share::Walk(last));
    }
    let first = part.segment.first().get();
    let each = part.segment.written() / (last.get() - first + 1);
    let events = (bytes / each.max(1)).clamp(SPARSE as u64, events.max(SPARSE as u64));
    // Up to where a run of the sparse table ends, so that the next one begins there.
    let end = (from.get() - first + events) / SPARSE as u64 * SPARSE as u64;
    Ok(Share::Range(Position::new(first + end - 1).max(from).min(last)))
}
