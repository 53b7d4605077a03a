//! All segments as one log: what readers see, how far, and what consumers have to remember.

pub(crate) mod checked;
pub(crate) mod cost;
pub(crate) mod counts;
pub(crate) mod event;
pub(crate) mod grow;
pub(crate) mod heads;
pub(crate) mod index;
pub(crate) mod ledger;
pub(crate) mod lock;
pub(crate) mod mark;
pub(crate) mod parts;
pub(crate) mod purge;
pub(crate) mod reader;
pub(crate) mod recover;
pub(crate) mod removals;
pub(crate) mod retain;
pub(crate) mod rewrite;
pub(crate) mod scan;
pub(crate) mod shown;
pub(crate) mod split;
pub(crate) mod state;
pub(crate) mod terms;
pub(crate) mod tiers;
pub(crate) mod walk;

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::format::control::Control;
use crate::format::header;
use crate::format::heads::Stood;
use crate::id::{Position, StoreId};
use crate::log::cost::Costs;
use crate::log::counts::Counts;
use crate::log::heads::{Heads, Known};
use crate::log::lock::{Held, Progress};
use crate::log::parts::{Part, Parts, read_header};
use crate::log::removals::Removals;
use crate::log::scan::{AtDamage, scan};
use crate::log::shown::Shown;
use crate::log::state::State;
use crate::segment::Segment;
use crate::segment::disk::Directory;
use crate::segment::map::Access;
use crate::sync::gate::Gate;
use crate::sync::guard;
use crate::sync::primitive::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::primitive::{Arc, Mutex};

/// The log, shared by the writer and all readers of the process.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) store: StoreId,
    pub(crate) parts: Parts,
    /// Where streams stood that have no event in the parts any more.
    pub(crate) heads: Heads,
    /// The last position that readers see. Waiting consumers wait here.
    pub(crate) head: Gate,
    /// Raised when nothing more will come, for those who do not wait for events.
    pub(crate) end: Gate,
    durable: AtomicU64,
    pub(crate) state: Mutex<State>,
    /// Whether the state knows of something that was removed and may still stand in segments.
    hides: AtomicBool,
    /// Where cursors began that are open under a name and have no checkpoint yet. They need what comes behind.
    pub(crate) begun: Mutex<BTreeMap<String, Position>>,
    /// Whether something was removed that other processes are to be told of with the next that is published.
    has_removed: AtomicBool,
    pub(crate) side: Side,
    pub(crate) counts: Counts,
    /// What reading has cost.
    pub(crate) costs: Arc<Costs>,
    closed: AtomicBool,
}

/// Which side of the store this is.
#[derive(Debug)]
pub(crate) enum Side {
    /// The one writer.
    Writer(Held),
    /// A reader, with the lock file by which it follows this writer or one that comes later.
    Reader(Arc<Shown>),
}

impl Log {
    pub(crate) fn head(&self) -> Position {
        Position::new(self.head.get())
    }

    pub(crate) fn durable(&self) -> Position {
        Position::new(self.durable.load(Ordering::Acquire))
    }

    pub(crate) fn oldest(&self) -> Position {
        self.parts.oldest()
    }

    /// The same; a reader looks first what a writer in another process has let go of.
    pub(crate) fn oldest_now(&self) -> Result<Position> {
        self.parts.find_oldest()?;
        Ok(self.oldest())
    }

    /// What readers are to pass over, if there is anything.
    #[inline]
    pub(crate) fn removals(&self) -> Option<Arc<Removals>> {
        if self.hides.load(Ordering::Acquire) { Some(guard(&self.state).removals.clone()) } else { None }
    }

    /// Takes in what was written down.
    pub(crate) fn apply(&self, records: impl IntoIterator<Item = Control>) {
        let mut state = guard(&self.state);
        let mut removes = false;
        for record in records {
            removes |= matches!(record, Control::Dropped { .. } | Control::Purged { .. });
            state.apply(record);
        }
        if removes {
            self.hides.store(!state.removals.is_empty(), Ordering::Release);
            self.has_removed.store(true, Ordering::Release);
        }
    }

    /// On the reading side: takes in what was removed in what is published.
    fn look_at_removals(&self) -> Result<()> {
        let newest = self.parts.newest();
        let removals = scan(&newest.segment, newest.segment.written(), AtDamage::PassOver)?.state.removals;
        let mut state = guard(&self.state);
        if state.removals != removals {
            // What need not be hidden any more is gone from the files, but not from those that are mapped here.
            self.parts.open_again();
            self.hides.store(!removals.is_empty(), Ordering::Release);
            state.removals = removals;
        }
        Ok(())
    }

    /// Whether nothing more will come because the store was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Lets consumers know that nothing more will come.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.head.wake();
        self.end.raise(1);
    }

    /// Lets another writer open the store, though readers here may still hold what they read.
    pub(crate) fn release(&self) -> Result<()> {
        if let Side::Writer(held) = &self.side {
            held.release()?;
            self.directory.unlock()?;
        }
        Ok(())
    }

    /// Shows readers what was written: in other processes by the words of `LOCK`, here by the head, which also wakes them.
    pub(crate) fn publish(&self, segment: &Segment, end: u64, head: Position) {
        segment.set_written(end);
        if let Side::Writer(held) = &self.side {
            held.publish(Progress {
                segment: segment.first(),
                nonce: segment.header.nonce,
                end,
                head,
                durable: self.durable().min(head),
            });
            if self.has_removed.swap(false, Ordering::AcqRel) {
                held.has_removed();
            }
        }
        self.head.raise(head.get());
    }

    /// Remembers that everything up to here is on the disk.
    pub(crate) fn set_durable(&self, durable: Position) {
        let before = self.durable.fetch_max(durable.get(), Ordering::AcqRel);
        if let Side::Writer(held) = &self.side
            && before < durable.get()
        {
            held.publish_durable(durable);
        }
    }

    /// On the reading side: takes in what the writer in another process has published since.
    pub(crate) fn refresh(&self) -> Result<()> {
        match &self.side {
            Side::Reader(shown) => {
                let follow = |progress| self.follow(shown, progress);
                shown.refresh(&*self.directory, follow, || self.look_at_removals())
            }
            Side::Writer(_) => Ok(()),
        }
    }

    /// Whether what readers here were shown still holds, as far as is known.
    pub(crate) fn check_shown(&self) -> Result<()> {
        match &self.side {
            Side::Reader(shown) => shown.check(),
            Side::Writer(_) => Ok(()),
        }
    }

    /// Says to readers of other processes that what is published from now on is of the log as recovery left it.
    pub(crate) fn has_recovered(&self) {
        if let Side::Writer(held) = &self.side {
            held.has_recovered();
        }
    }

    /// Whether a writer held the store when this side was opened for reading.
    pub(crate) fn follows_a_writer(&self) -> bool {
        matches!(&self.side, Side::Reader(shown) if shown.writer_lives())
    }

    /// The control state as of now.
    pub(crate) fn state(&self) -> Result<State> {
        if let Side::Reader(_) = &self.side {
            self.refresh()?;
            // Each segment begins with the whole state.
            let newest = self.parts.newest();
            return Ok(scan(&newest.segment, newest.segment.written(), AtDamage::PassOver)?.state);
        }
        Ok(guard(&self.state).clone())
    }

    /// Where a stream stood that has no event in what is kept.
    pub(crate) fn stood(&self, stream: &str) -> Result<Stood> {
        self.heads_now()?.find(stream.as_bytes())
    }

    /// Where streams stood that have no event in what is kept; a reader looks first what a writer in another process has let
    /// go of.
    pub(crate) fn heads_now(&self) -> Result<Arc<Known>> {
        let mut known = self.heads.known();
        // A writer in another process has let go of more since.
        for look in 0.. {
            if matches!(self.side, Side::Writer(_)) || known.oldest >= self.oldest() {
                break;
            }
            match Known::open(&*self.directory, self.store, self.state()?.kept.as_ref()) {
                Ok(found) => self.heads.set(found),
                // It may have made another file of these just now.
                Err(error) if look > LOOKS => return Err(error),
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
            }
            known = self.heads.known();
            if look > LOOKS {
                break;
            }
        }
        Ok(known)
    }

    fn follow(&self, shown: &Shown, progress: Progress) -> Result<()> {
        // Listed once for all that follow: there may be thousands, and the writer goes on meanwhile.
        let mut firsts = Vec::new();
        while self.parts.newest().segment.first() < progress.segment {
            let newest = self.parts.newest();
            let following = |firsts: &[Position]| {
                firsts.get(firsts.partition_point(|first| *first <= newest.segment.first())).copied()
            };
            if following(&firsts).is_none() {
                let names = self.directory.names()?;
                firsts = names.iter().filter_map(|name| header::parse_name(name)).collect();
                firsts.sort_unstable();
            }
            if firsts.first().is_some_and(|oldest| *oldest > newest.segment.first()) {
                // The writer went on and let go of all that was known here.
                let sealed = firsts.partition_point(|first| *first < progress.segment);
                let part = Part::new(open_newest(&*self.directory, progress.segment)?);
                shown.knows(progress.segment.previous());
                self.parts.begin_anew(&firsts[..sealed], part);
                newest.segment.seal(self.head());
                break;
            }
            let Some(first) = following(&firsts) else { return Ok(()) };
            let following = open_newest(&*self.directory, first)?;
            let fits = following.header.previous.filter(|previous| previous.first == newest.segment.first());
            let previous = fits.ok_or_else(|| {
                let path = self.directory.path().join(following.name());
                Error::not_a_store(&path, format!("it does not follow {}", newest.segment.name()))
            })?;
            // Written again, it is what was there before without some events; what is mapped here stays whole.
            if read_header(&*self.directory, newest.segment.first())?.origin() != newest.segment.header.origin() {
                self.parts.replace_newest(Part::new(open_newest(&*self.directory, newest.segment.first())?));
                continue;
            }
            let end = newest.segment.header.own_end(previous.end);
            newest.segment.allow(end);
            newest.segment.set_written(end);
            shown.knows(first.previous());
            self.parts.push(Part::new(following));
            newest.segment.seal(first.previous());
        }
        let mut newest = self.parts.newest();
        if newest.segment.first() == progress.segment && newest.segment.header.nonce != progress.nonce {
            // A segment without events gives its place to a new file of the same name.
            self.parts.replace_newest(Part::new(open_newest(&*self.directory, progress.segment)?));
            newest = self.parts.newest();
        }
        if newest.segment.header.nonce == progress.nonce {
            newest.segment.allow(progress.end);
            newest.segment.set_last(progress.head);
            newest.segment.set_written(progress.end);
            self.durable.fetch_max(progress.durable.get(), Ordering::AcqRel);
            shown.knows(progress.head);
            self.head.raise(progress.head.get());
        }
        Ok(())
    }
}

/// So often a reader looks again for files that a writer may replace meanwhile, a millisecond apart.
const LOOKS: u32 = 100;

/// Opens the segment that another process writes. Nothing of it is readable yet.
fn open_newest(directory: &dyn Directory, first: Position) -> Result<Arc<Segment>> {
    Ok(Arc::new(Segment::open(directory, first, Access::Read, None)?))
}
