//! Forking: an independent store that begins with the history of another one up to a position.

use std::collections::BTreeMap;
use std::path::Path;

use crate::copies::aside::{Aside, Kind, check_is_outside, is_free};
use crate::copies::backup::check_end;
use crate::copies::moment::{self, Moment, changed, look_again, may_pass};
use crate::copies::out::Out;
use crate::copies::place::{Files, Wanted};
use crate::error::{Damage, Error, Result};
use crate::format::PAGE;
use crate::format::control::Control;
use crate::format::frame::{Found, Frame};
use crate::format::gap::Reason;
use crate::format::header::{self, Header, Previous};
use crate::id::{Position, Revision, StoreId, Timestamp};
use crate::inspect::verify::{Depth, Progress, verify_on};
use crate::log::Log;
use crate::log::grow;
use crate::log::heads::{self, Known};
use crate::log::parts::{Part, read_header};
use crate::log::removals::Removals;
use crate::log::scan::unknown_record;
use crate::log::state::State;
use crate::log::walk::latest;
use crate::segment::disk::{Directory, Disk, RealDisk};
use crate::segment::map::Access;
use crate::segment::{Segment, after};
use crate::store::Store;
use crate::sync::guard;
use crate::sync::primitive::Arc;

/// What a fork begins with, and what it took.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fork {
    /// The new store's id: another one than that of the store it was made of.
    pub store: StoreId,
    /// The last event that is in it. Before the position that was asked for when that one stands within a commit.
    pub head: Position,
    /// How its files came there.
    pub files: Files,
    /// What the check at the end found damaged. The original is likely damaged there, too: `verify` tells.
    pub damage: Vec<Damage>,
}

/// Makes an independent store in `to`, which has to be empty or not there yet, of the history of another one up to a position,
/// inclusive. Both can be written to afterwards, and neither knows of the other: they share no file.
///
/// - Events keep positions, revisions, times and keys. The store's *id is another one*, so an event that has no
///   [id of its own](crate::NewEvent::id) is another event for whoever tells events apart by store id and position, as sinks do.
///   Causes that were recorded go on naming the events of the original.
/// - Commits are whole: when the position stands within one the fork ends before that.
/// - Consumers, groups, unsettled deliveries and dead letters are those of *that moment*: everything that was
///   recorded before the first event behind the position. What they did since in the original they do again here; remove
///   the [consumers](Store::remove_consumer) that should not, before anything opens them.
/// - What the original had let go of or removed by now is not there, even if it was there then. No revision of it is given again;
///   a few more may be left out, as nobody can tell any more of which stream each event was.
///
/// A live writer is not held up. Sealed segments share their blocks with the originals where the file system can do that
/// (btrfs, XFS), and are copied otherwise. It is made in `TO.part`, synced, checked as [`Depth::Fast`] does, and then takes its place at
/// once.
///
/// # Errors
/// As [`Store::open_read_only`]. [`Error::Expired`] for a position before the oldest that is kept, [`Error::Invalid`] for one
/// behind the last event, [`Error::Damaged`] when the segment that the position stands in is damaged before it: then nobody
/// can say how consumers stood; [repair](crate::copies::repair()) first. [`Error::NotAStore`] when `to` is not empty, or `TO.part` is
/// the original, a backup, or anything else that no fork leaves that was cut short (a fork of another store looks like one); and where
/// files change again and again while they are copied, as for [`backup`](crate::copies::backup()).
pub fn fork(
    from: impl AsRef<Path>,
    to: impl AsRef<Path>,
    position: Position,
    progress: impl FnMut(Progress),
) -> Result<Fork> {
    fork_on(&RealDisk, from.as_ref(), to.as_ref(), position, progress)
}

impl Store {
    /// Makes an independent store of this one's history up to a position: [`copies::fork`](crate::copies::fork()) beside the
    /// writer of this process.
    ///
    /// # Errors
    /// As [`copies::fork`](crate::copies::fork()).
    pub fn fork(&self, to: impl AsRef<Path>, position: Position) -> Result<Fork> {
        fork(self.path(), to, position, |_| {})
    }
}

pub(crate) fn fork_on(
    disk: &dyn Disk,
    from: &Path,
    to: &Path,
    position: Position,
    mut progress: impl FnMut(Progress),
) -> Result<Fork> {
    check_is_outside(disk, from, to, "store")?;
    let (mut moment, mut log) = moment::open(disk, from)?;
    check_end(disk, &log)?;
    check(&log, position)?;
    let aside = Aside::begin(disk, to, Kind::Fork { of: log.store }, is_free)?;
    let mut id = [0; 16];
    aside.part.random(&mut id)?;
    let store = StoreId(id);
    let mut looks = 0;
    let (head, files) = loop {
        // Nothing that is left here from another time can be of this store.
        aside.clear(|_| false)?;
        match fill(&log, &moment, store, position, &*aside.part, &mut progress) {
            Ok(done) => break done,
            Err(error) => look_again(from, error, &mut looks)?,
        }
        (moment, log) = moment::open(disk, from)?;
        check(&log, position)?;
    };
    let verdict = verify_on(disk, aside.part.path(), Depth::Fast, &mut |_| {})?;
    aside.take_place()?;
    Ok(Fork { store, head, files, damage: verdict.damage })
}

fn check(log: &Log, position: Position) -> Result<()> {
    if position.next() < log.oldest() {
        return Err(Error::Expired { asked: position, oldest: log.oldest() });
    }
    if position > log.head() {
        return Err(Error::invalid("position", &position.to_string(), "it is behind the last event"));
    }
    Ok(())
}

/// Puts everything up to a position into the directory. Gives the last position that is there.
fn fill(
    log: &Arc<Log>,
    moment: &Moment,
    store: StoreId,
    position: Position,
    to: &dyn Directory,
    progress: &mut impl FnMut(Progress),
) -> Result<(Position, Files)> {
    let from = &*log.directory;
    let kept = guard(&log.state).kept.clone();
    let mut put = Put { from, moment, to, store, files: Files::default() };
    // Records that stand before the next event are of that moment, too.
    let upto = position.next().max(log.oldest());
    let mut whole: Vec<Position> = log.parts.firsts().into_iter().filter(|first| *first <= upto).collect();
    let last = log.parts.of(upto)?;
    whole.pop();
    let (first, cut) = (last.segment.first(), cut_at(&last, position)?);
    let (mut done, mut total) = (0, cut.end);
    for first in &whole {
        total += log.parts.of(*first)?.segment.written();
    }
    for first in &whole {
        let part = log.parts.of(*first)?;
        put.segment(&part.segment, part.segment.written())?;
        put.index(&part)?;
        done += part.segment.written();
        progress(Progress { done, total });
    }
    let mut firsts = whole.clone();
    let mut previous = last.segment.header.previous;
    // Without an event all that counts of it is how consumers stood.
    if cut.next > first {
        put.segment(&last.segment, cut.end)?;
        if last.segment.is_sealed() && cut.end == last.segment.written() {
            put.index(&last)?;
            whole.push(first);
        }
        let original = put.header(&last.segment.header, cut.end)?;
        let (end, last_crc) = original.unwrap_or((cut.end, cut.last_crc));
        previous = Some(Previous { first, end, last_crc });
        firsts.push(first);
    }
    for file in &Known::open(from, log.store, kept.as_ref())?.files {
        heads::copy_as(file, to, store)?;
    }
    for (tier, covered) in log.parts.tiers.all() {
        if tier.is_sound() && covered.iter().all(|first| whole.contains(first)) {
            put.derived(&tier.name(), tier.len())?;
        }
    }
    let (created, durable) = (cut.last_time, cut.next.previous());
    let nonce = grow::random_nonce(to)?;
    let header = Header { store, nonce, first: cut.next, previous, created, durable, rewritten: None };
    let removals = removals(log, &cut, &last)?;
    let records = State { kept, removals: Arc::new(removals), ..cut.state }.records(Vec::new());
    let mut out = Out::begin(to, header, grow::state_size(&records) + 16 * firsts.len() as u64)?;
    out.head(&records, &firsts, created)?;
    out.finish(to)?;
    to.sync()?;
    progress(Progress { done: total, total });
    Ok((cut.next.previous(), put.files))
}

/// What was removed by now of what there was then: it does not come back, and no revision of it is given again.
fn removals(log: &Log, cut: &Cut, part: &Part) -> Result<Removals> {
    let mut removals = Removals::default();
    let (now, until) = (log.removals().unwrap_or_default(), cut.next.previous());
    for (stream, gone) in now.streams() {
        let head = latest::standing_seen(log, stream, until)?.traced.get();
        let then = gone.stretches().filter(|(first, _)| *first <= head);
        let then: Vec<_> = then.map(|(first, last)| (first, last.min(head))).collect();
        if !then.is_empty() {
            removals.dropped(stream.to_owned(), &then);
        }
    }
    let taken_out = taken_out(log, cut, part)?;
    let was_let_go = log.oldest() > Position::new(1);
    if taken_out == 0 && !was_let_go {
        return Ok(removals);
    }
    // Of what was taken out of the files a stream's next event tells: it goes on behind that.
    let mut behind = first_behind(log, cut, part)?;
    for (stream, gone) in now.streams() {
        let last = gone.stretches().last().map_or(0, |(_, last)| last);
        behind.entry(stream.to_owned()).or_insert(Revision::new(last).next());
    }
    for (stream, next) in behind {
        let before = next.get() - 1;
        if before == 0 {
            continue;
        }
        let (stood, is_kept) = latest::traced(log, &stream, until)?;
        // Some of it may have been taken out behind the position: no more than was taken out before it counts.
        let most = if was_let_go && !is_kept { before } else { before.min(stood.get() + taken_out) };
        if most > stood.get() {
            removals.dropped(stream, &[(stood.get() + 1, most)]);
        }
    }
    Ok(removals)
}

/// How many events up to a cut were taken out of the files.
fn taken_out(log: &Log, cut: &Cut, part: &Part) -> Result<u64> {
    let mut taken_out = 0;
    let mut count = |frame: Frame<'_>| {
        taken_out += frame.gap().filter(|gap| gap.reason == Reason::Removed).map_or(0, |gap| gap.positions);
    };
    for first in log.parts.firsts().into_iter().filter(|first| *first < part.segment.first()) {
        let part = log.parts.of(first)?;
        let limit = part.segment.written();
        if part.index.summary(limit).gone > 0 {
            each_frame(&part.segment, PAGE as u64, limit, &mut count);
        }
    }
    each_frame(&part.segment, PAGE as u64, cut.end, &mut count);
    Ok(taken_out)
}

/// The revisions that streams go on with behind a cut.
fn first_behind(log: &Log, cut: &Cut, part: &Part) -> Result<BTreeMap<String, Revision>> {
    let mut behind = BTreeMap::new();
    let mut note = |frame: Frame<'_>| {
        if !frame.is_control() && !behind.contains_key(frame.stream()) {
            behind.insert(frame.stream().to_owned(), frame.revision());
        }
    };
    each_frame(&part.segment, cut.end, part.segment.written(), &mut note);
    for first in log.parts.firsts().into_iter().filter(|first| *first > part.segment.first()) {
        let part = log.parts.of(first)?;
        each_frame(&part.segment, PAGE as u64, part.segment.written(), &mut note);
    }
    Ok(behind)
}

/// Every frame of a stretch that is whole.
fn each_frame(segment: &Segment, from: u64, end: u64, mut each: impl FnMut(Frame<'_>)) {
    let (mut offset, mut next) = (from, segment.first());
    while offset < end {
        match segment.find(offset, end) {
            Found::Frame(frame) => {
                next = after(frame);
                offset += frame.stride() as u64;
                each(frame);
            }
            Found::Blank | Found::Bad(_) => match segment.next_sound(offset, end, next) {
                Some(sound) => offset = sound,
                None => break,
            },
        }
    }
}

/// How a segment stood at a position.
struct Cut {
    /// Behind the last commit that counts.
    end: u64,
    last_crc: u32,
    last_time: Timestamp,
    next: Position,
    state: State,
}

/// Everything of a segment that comes before the first commit with an event behind the position.
fn cut_at(part: &Part, position: Position) -> Result<Cut> {
    let segment = &*part.segment;
    let (first, limit) = (segment.first(), segment.written());
    let last_time = segment.header.created;
    let mut cut = Cut { end: PAGE as u64, last_crc: 0, last_time, next: first, state: State::default() };
    let (mut offset, mut next, mut records) = (PAGE as u64, first, Vec::new());
    while offset < limit && next <= position.next() {
        let what = match segment.find(offset, limit) {
            Found::Frame(frame) if frame.position() == next => {
                next = after(frame);
                offset += frame.stride() as u64;
                if frame.is_control() {
                    records.push(Control::decode(frame.payload()).ok_or_else(|| unknown_record(segment, frame))?);
                }
                if !frame.has_more() && next <= position.next() {
                    std::mem::take(&mut records).into_iter().for_each(|record| cut.state.apply(record));
                    let last_time = cut.last_time.max(frame.time());
                    cut = Cut { end: offset, last_crc: frame.crc(), last_time, next, state: cut.state };
                }
                continue;
            }
            // What is damaged behind the position does not matter here.
            _ if next > position => break,
            Found::Frame(_) => "positions do not follow each other",
            Found::Blank => "a blank where frames were",
            Found::Bad(what) => what,
        };
        let end = part.behind_damage(offset, limit, next);
        let what = format!("{what}, so nobody knows how consumers stood behind it; repair the store first");
        return Err(Error::Damaged(segment.damage(offset, end, next, what)));
    }
    Ok(cut)
}

/// Puts files into the new store, under its id.
struct Put<'a> {
    from: &'a dyn Directory,
    moment: &'a Moment,
    to: &'a dyn Directory,
    store: StoreId,
    files: Files,
}

impl Put<'_> {
    fn segment(&mut self, segment: &Segment, end: u64) -> Result<()> {
        // What is no header must not become one by a checksum that fits.
        read_header(self.from, segment.first())?;
        self.put(segment.name(), end)?;
        if read_header(self.to, segment.first())?.nonce != segment.header.nonce {
            return Err(changed(&self.from.path().join(segment.name())));
        }
        self.moment.check(self.to, segment.first())
    }

    /// A segment that took the place of another one is followed as that one was; gives its end and last CRC. One that was
    /// cut stands for itself.
    fn header(&mut self, header: &Header, end: u64) -> Result<Option<(u64, u32)>> {
        match header.rewritten {
            Some(original) if original.end == end => Ok(Some((original.original_end, original.original_crc))),
            Some(_) => {
                let file = self.to.open(&header::file_name(header.first), Access::Write)?;
                let header = Header { store: self.store, rewritten: None, ..header.clone() };
                file.write_at(&header::encode(&header), 0)?;
                file.sync().map(|()| None)
            }
            None => Ok(None),
        }
    }

    fn index(&mut self, part: &Part) -> Result<()> {
        match part.index.file() {
            Some(file) if file.is_sound() => {
                let name = header::index_name(part.segment.first());
                let len = self.from.open(&name, Access::Read).and_then(|file| file.len());
                len.map_or(Ok(()), |len| self.derived(&name, len))
            }
            _ => Ok(()),
        }
    }

    /// A file that can be made again, and may go meanwhile.
    fn derived(&mut self, name: &str, len: u64) -> Result<()> {
        match self.put(name, len) {
            Err(error) if may_pass(&error) => Ok(()),
            result => result,
        }
    }

    fn put(&mut self, name: &str, len: u64) -> Result<()> {
        Wanted { name, len, store: Some(self.store) }.put(self.from, None, self.to, &mut self.files)
    }
}
