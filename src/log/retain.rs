//! Letting go of old segments: which ones, and who still needs them.

use std::collections::{BTreeMap, BTreeSet};

use std::time::Duration;

use crate::error::{Error, Result};
use crate::format::header;
use crate::format::names::{DEAD_LETTERS, DEAD_POSITION};
use crate::format::term::Kind;
use crate::id::{Position, Timestamp};
use crate::log::heads::Known;
use crate::log::reader::Reader;
use crate::log::state::State;
use crate::log::terms::Filter;
use crate::log::{LOOKS, Log};
use crate::segment::disk::Directory;
use crate::segment::map::Access;
use crate::sync::guard;
use crate::sync::primitive::Arc;

/// What a store keeps of its history. What is beyond any of the limits may go; without a limit nothing does.
///
/// Segments go as a whole, the oldest first, and never the newest one. So a little more is kept than asked for, up to a
/// segment's worth. Nothing goes that a consumer still needs, unless that consumer is [named](Retention::even_from).
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("towpath-retain-{}", std::process::id()));
/// # let _ = std::fs::remove_dir_all(&dir);
/// use std::time::Duration;
/// use towpath::{NewEvent, Retention, Store};
///
/// let store = Store::open(&dir)?;
/// store.append("cart-1", NewEvent::new("opened", ""))?;
/// let month = Retention::new().max_age(Duration::from_secs(30 * 86_400)).max_bytes(10 << 30);
/// let plan = store.plan_retention(&month)?;
/// assert_eq!((plan.segments, plan.held.len()), (0, 0), "all of it is young, and in the newest segment");
/// store.retain(&month)?;
/// # drop(store);
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), towpath::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    max_age: Option<Duration>,
    max_bytes: Option<u64>,
    max_events: Option<u64>,
    even_from: BTreeSet<String>,
}

impl Retention {
    /// Without limits: everything is kept.
    pub fn new() -> Self {
        Self::default()
    }

    /// Segments may go whose events were all recorded longer ago than this, by the store's clock.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// The oldest segments may go until segments and their index files have at most so many bytes together. The newest
    /// segment counts with what is written in it.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// Segments may go that hold none of the newest so many events, those of the store's own streams and those that were
    /// removed counted: these are the newest so many positions.
    #[must_use]
    pub fn max_events(mut self, events: u64) -> Self {
        self.max_events = Some(events);
        self
    }

    /// Lets go even of what the consumer of this name still needs. It is told [`Error::Expired`] when it comes to what is
    /// gone, and goes on where [`Store::seek`](crate::Store::seek) puts it.
    #[must_use]
    pub fn even_from(mut self, consumer: impl Into<String>) -> Self {
        self.even_from.insert(consumer.into());
        self
    }

    /// The consumers that are named.
    pub(crate) fn named(&self) -> &BTreeSet<String> {
        &self.even_from
    }
}

/// What a [`Retention`] would let go of, and what stands in its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// The oldest position that is kept now.
    pub oldest: Position,
    /// The oldest position that is kept afterwards.
    pub keeps_from: Position,
    /// How many segments go.
    pub segments: u64,
    /// How many events go with them, those of the store's own streams counted. What was removed counts until it is taken out of
    /// the files, and not any more after that.
    pub events: u64,
    /// Bytes of these segments and their index files.
    pub bytes: u64,
    /// Who keeps back what the limits alone would let go of, the one that keeps back most first.
    pub held: Vec<Hold>,
}

/// A consumer that still needs what a [`Retention`] would let go of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hold {
    /// The consumer's name.
    pub consumer: String,
    /// What it needs.
    pub need: Need,
    /// The oldest position that it needs.
    pub position: Position,
    /// How many bytes would go if it did not, and nobody else did.
    pub bytes: u64,
}

/// What a consumer needs old events for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Need {
    /// It has not come further: its checkpoint, or the place up to which the group has looked.
    Unread,
    /// A delivery of the group is not settled.
    Unsettled,
    /// A dead letter of the group, or the event that it was made of, which it would be redriven with.
    DeadLetter,
}

impl Need {
    /// In words: `unread`, `unsettled` or `dead letter`.
    pub fn as_str(self) -> &'static str {
        match self {
            Need::Unread => "unread",
            Need::Unsettled => "unsettled",
            Need::DeadLetter => "dead letter",
        }
    }
}

impl std::fmt::Display for Need {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A sealed segment, as far as it matters here.
struct Old {
    /// The first position of the segment behind it.
    end: Position,
    bytes: u64,
}

/// Plans what to let go of. Looks again when old segments went under its eyes: another retention is under way.
pub(crate) fn plan(log: &Arc<Log>, retention: &Retention, now: Timestamp) -> Result<Plan> {
    let mut looks = 0;
    loop {
        let oldest = log.oldest_now()?;
        match plan_now(log, retention, now) {
            Err(_) if looks < LOOKS && log.oldest_now()? > oldest => {}
            planned => return planned,
        }
        looks += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn plan_now(log: &Arc<Log>, retention: &Retention, now: Timestamp) -> Result<Plan> {
    let firsts = log.parts.firsts();
    let oldest = firsts[0];
    let old = beyond_limits(log, retention, &firsts, now)?;
    let Some(limit) = old.last().map(|old| old.end) else {
        return Ok(Plan { oldest, keeps_from: oldest, ..Plan::default() });
    };
    let mut needs = needs(log)?;
    needs.retain(|hold| !retention.even_from.contains(&hold.consumer) && hold.position < limit);
    let goes = |position: Position| old.iter().take_while(move |old| old.end <= position);
    let lowest = needs.iter().map(|hold| hold.position).min().unwrap_or(limit);
    let all: u64 = old.iter().map(|old| old.bytes).sum();
    let keeps_from = goes(lowest).last().map_or(oldest, |old| old.end);
    let mut held: Vec<Hold> = Vec::new();
    for mut hold in needs {
        hold.bytes = all - goes(hold.position).map(|old| old.bytes).sum::<u64>();
        match held.iter_mut().find(|known| known.consumer == hold.consumer) {
            // Of what one consumer needs the oldest counts.
            Some(known) if known.position <= hold.position => {}
            Some(known) => *known = hold,
            None => held.push(hold),
        }
    }
    let going = firsts.windows(2).take_while(|pair| pair[0] < keeps_from);
    let events = going.map(|pair| {
        // What cannot be looked at goes all the same: each of its positions counts then.
        let all = pair[1].get() - pair[0].get();
        let part = log.parts.still_there(pair[0]).ok().flatten();
        part.map_or(all, |part| part.index.summary(part.segment.written()).events)
    });
    let events = events.sum();
    held.sort_by(|a, b| a.position.cmp(&b.position).then_with(|| a.consumer.cmp(&b.consumer)));
    Ok(Plan {
        oldest,
        keeps_from,
        segments: goes(lowest).count() as u64,
        events,
        bytes: goes(lowest).map(|old| old.bytes).sum(),
        held,
    })
}

/// The sealed segments that the limits alone would let go of.
fn beyond_limits(log: &Log, retention: &Retention, firsts: &[Position], now: Timestamp) -> Result<Vec<Old>> {
    let mut old = Vec::new();
    let head = log.head();
    let newest = log.parts.newest().segment.written();
    let mut kept = match retention.max_bytes {
        Some(_) => newest + firsts.windows(2).map(|pair| bytes_of(log, pair[0])).sum::<Result<u64>>()?,
        None => 0,
    };
    for pair in firsts.windows(2) {
        let (first, end) = (pair[0], pair[1]);
        let too_many = retention.max_events.is_some_and(|most| head.next().get().saturating_sub(end.get()) >= most);
        let too_large = retention.max_bytes.is_some_and(|most| kept > most);
        let too_old = match retention.max_age {
            Some(age) if !too_many && !too_large => {
                let part = log.parts.of(first)?;
                now.since(part.index.summary(part.segment.written()).last_time) > age
            }
            _ => false,
        };
        if !(too_many || too_large || too_old) {
            break;
        }
        let bytes = bytes_of(log, first)?;
        kept = kept.saturating_sub(bytes);
        old.push(Old { end, bytes });
    }
    Ok(old)
}

/// Bytes of a sealed segment and its index file.
fn bytes_of(log: &Log, first: Position) -> Result<u64> {
    let len = |name: String| log.directory.open(&name, Access::Read).and_then(|file| file.len());
    // It may be asked about before it is cut and indexed.
    Ok(len(header::file_name(first))? + len(header::index_name(first)).unwrap_or(0))
}

/// What every consumer still needs, a few for each.
fn needs(log: &Arc<Log>) -> Result<Vec<Hold>> {
    // In this order: a delivery that becomes a dead letter meanwhile is among the one or the other.
    let state = log.state()?;
    let mut needs = needs_of(&state, &guard(&log.begun));
    for (group, ledger) in &state.groups {
        let (gone, letters) = (guard(ledger).gone.clone(), format!("{DEAD_LETTERS}{group}"));
        let mut least: Option<Position> = None;
        let head = log.head();
        for letter in Reader::new(log.clone(), Filter::Exactly(Kind::Stream, letters.into_bytes()), head) {
            let letter = match letter {
                Ok(letter) => letter,
                // Nobody can read it.
                Err(Error::Damaged(_)) => continue,
                Err(error) => return Err(error),
            };
            if gone.contains(letter.revision().get()) {
                continue;
            }
            let source = letter.headers().find(|(name, _)| *name == DEAD_POSITION);
            let source = source.and_then(|(_, position)| position.parse().ok()).map(Position::new);
            let position = source.filter(|source| *source >= log.oldest()).unwrap_or(letter.position());
            let position = position.min(letter.position());
            least = Some(least.map_or(position, |least| least.min(position)));
        }
        needs.extend(least.map(|position| hold(group, Need::DeadLetter, position)));
    }
    Ok(needs)
}

/// What is needed as far as the control state tells by itself, and by cursors that have just begun.
fn needs_of(state: &State, begun: &BTreeMap<String, Position>) -> Vec<Hold> {
    let begun = begun.iter().filter(|(name, _)| !state.knows(name));
    let mut needs: Vec<Hold> =
        state.checkpoints.iter().chain(begun).map(|(name, next)| hold(name, Need::Unread, *next)).collect();
    for (name, ledger) in &state.groups {
        let ledger = guard(ledger);
        needs.push(hold(name, Need::Unread, ledger.scanned.next()));
        let unsettled = ledger.rows.iter().next().map(|row| Position::new(row.position));
        needs.extend(unsettled.map(|position| hold(name, Need::Unsettled, position)));
    }
    needs
}

fn hold(consumer: &str, need: Need, position: Position) -> Hold {
    Hold { consumer: consumer.to_owned(), need, position, bytes: 0 }
}

/// Whether a plan can still be followed: nobody has come to need what is to go since it was made.
pub(crate) fn still_holds(log: &Log, retention: &Retention, keeps_from: Position) -> bool {
    let needs = needs_of(&guard(&log.state), &guard(&log.begun));
    needs.iter().all(|hold| hold.position >= keeps_from || retention.even_from.contains(&hold.consumer))
}

/// Removes the files of what was let go of, lowest first, and makes that last. Other files of old segments, and heads files
/// that are merged, go with them.
pub(crate) fn remove_files(directory: &dyn Directory, names: &[String], known: &Known) -> Result<bool> {
    let is_old = |first: Option<Position>| first.filter(|first| *first < known.oldest);
    let mut segments: Vec<_> =
        names.iter().filter_map(|name| Some((is_old(header::parse_name(name))?, name))).collect();
    segments.sort_unstable();
    let indexes = names.iter().filter(|name| is_old(header::parse_index_name(name)).is_some());
    let heads = names
        .iter()
        .filter(|name| header::parse_heads_name(name).is_some() && known.names().all(|known| known != name.as_str()));
    let mut removed = false;
    for name in segments.into_iter().map(|(_, name)| name).chain(indexes).chain(heads) {
        directory.remove(name)?;
        removed = true;
    }
    if removed {
        directory.sync()?;
    }
    Ok(removed)
}
