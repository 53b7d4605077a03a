//! What may be seen: the log as it was seen so far, and what was tried.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use crate::canal::Reason;
use crate::canal::group::letter::Head;
use crate::id::{EventId, Revision, StoreId, Timestamp};
use crate::log::event::Event;
use crate::simulation::chance::Chance;

/// A claim that did not hold, in words.
pub(super) type Check<T = ()> = Result<T, String>;

pub(super) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// The streams that commits write to.
pub(super) const SOURCES: [&str; 5] = ["cart-1", "cart-2", "cart-3", "order-1", "order-2"];

/// Where the results of the two exactly-once reactors stand, and the copies of dead letters.
pub(super) const COPIED: &str = "copied";
pub(super) const BILLED: &str = "billed";
pub(super) const FAILED: &str = "failed";

/// The groups.
pub(super) const MAIL: &str = "mail";
pub(super) const BILLER: &str = "biller";

/// How often they try.
pub(super) const ATTEMPTS: u32 = 3;

/// A commit that was handed to the store, once or again.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) events: Vec<Made>,
    pub(super) key: Option<String>,
    /// When it was handed in last: a later one stands behind it.
    pub(super) handed_in: u64,
    pub(super) state: Fate,
}

/// What an event was made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    pub(super) stream: &'static str,
    pub(super) size: usize,
}

/// What is known of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It may be written, or not.
    Unknown,
    /// It was refused: it may never be seen.
    Refused,
    /// It stands in the log, from this position on.
    Written(u64),
}

/// What an event in the log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Made {
        attempt: usize,
        nth: usize,
    },
    /// What an exactly-once reactor wrote for a source.
    Result {
        source: u64,
    },
    /// A group's dead letter of a source.
    Letter {
        group: &'static str,
        source: u64,
    },
    /// A copy of a dead letter.
    Copy {
        letter: u64,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) what: What,
    pub(super) stream: String,
    pub(super) revision: u64,
    time: Timestamp,
    /// Its commit goes on with another event. What consumers write may go on with a control record only, so of that
    /// nothing is known.
    pub(super) more: bool,
    flag: bool,
    /// The removal that took it.
    pub(super) gone: Option<u64>,
}

/// The log as it was seen.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) log: Vec<Known>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) revisions: BTreeMap<String, u64>,
    /// By stream of results and source: where the result stands.
    pub(super) results: BTreeMap<(String, u64), u64>,
    /// By group and source: where the dead letter stands.
    pub(super) letters: BTreeMap<(&'static str, u64), Vec<u64>>,
    /// Those that were handed out again, or may have been.
    pub(super) redriven: BTreeSet<(&'static str, u64)>,
    /// The oldest position that is kept, and the one that was to be when old segments were let go of last.
    pub(super) oldest: u64,
    pub(super) may_keep_from: u64,
    /// By letter: where its copies stand. There is one, and another when that was removed.
    pub(super) copies: BTreeMap<u64, Vec<u64>>,
    handed_in: u64,
    /// Events that were compared with what was written, and how many were wrong.
    pub(super) compared: Cell<u64>,
    pub(super) wrong: Cell<u64>,
}

impl Model {
    pub(super) fn head(&self) -> u64 {
        self.log.len() as u64
    }

    pub(super) fn hand_in(&mut self, attempt: usize) {
        self.handed_in += 1;
        self.attempts[attempt].handed_in = self.handed_in;
        self.attempts[attempt].state = Fate::Unknown;
    }

    pub(super) fn add_attempt(&mut self, events: Vec<Made>, key: Option<String>) -> usize {
        self.attempts.push(Attempt { events, key, handed_in: 0, state: Fate::Unknown });
        self.attempts.len() - 1
    }

    /// Whether a position holds something that groups and reactors handle.
    pub(super) fn is_source(&self, position: u64) -> bool {
        matches!(self.at(position).map(|known| &known.what), Some(What::Made { .. }))
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = u64> + '_ {
        (1..=self.head()).filter(|position| self.is_source(*position))
    }

    pub(super) fn at(&self, position: u64) -> Option<&Known> {
        self.log.get((position as usize).checked_sub(1)?)
    }

    /// Looks at an event that was seen before.
    pub(super) fn check(&self, event: &Event<'_>, store: StoreId) -> Check {
        self.compared.update(|compared| compared + 1);
        self.is_as_seen(event, store).inspect_err(|_| self.wrong.update(|wrong| wrong + 1))
    }

    fn is_as_seen(&self, event: &Event<'_>, store: StoreId) -> Check {
        let position = event.position().get();
        let known = self.at(position).ok_or_else(|| format!("{position} is behind the end"))?;
        let what = self.what(event, store)?;
        ensure(what == known.what && event.stream() == known.stream, || {
            format!("{position} was {:?} in {}, and is {what:?} in {}", known.what, known.stream, event.stream())
        })?;
        ensure(event.revision() == Revision::new(known.revision), || {
            format!("{position} had revision {}, and has {}", known.revision, event.revision())
        })?;
        ensure(event.time() == known.time, || format!("{position} has another time"))?;
        // Where the rest of its commit was removed, an event may be the last of it.
        let is_last = known.flag && self.is_gone(position + 1);
        ensure(event.commit_goes_on() == known.flag || is_last, || format!("{position} ends its commit otherwise"))
    }

    /// Takes in the event that comes next.
    pub(super) fn take_in(&mut self, event: &Event<'_>, store: StoreId) -> Check {
        self.compared.update(|compared| compared + 1);
        let taken = self.takes_in(event, store);
        taken.inspect_err(|_| self.wrong.update(|wrong| wrong + 1))
    }

    fn takes_in(&mut self, event: &Event<'_>, store: StoreId) -> Check {
        let position = event.position().get();
        ensure(position == self.head() + 1, || format!("{position} comes after {}", self.head()))?;
        let what = self.what(event, store)?;
        let (stream, flag, time) = (event.stream().to_owned(), event.commit_goes_on(), event.time());
        let more = flag && matches!(what, What::Made { .. });
        let last = self.log.last();
        ensure(last.is_none_or(|last| last.time <= time), || format!("time goes back at {position}"))?;
        let revision = self.revisions.get(&stream).copied().unwrap_or(0) + 1;
        ensure(event.revision() == Revision::new(revision), || {
            format!("{position} has revision {} of {stream}, and {revision} was to come", event.revision())
        })?;
        self.check_commit(position, &what, more)?;
        match &what {
            What::Made { attempt, nth } => {
                if *nth == 0 {
                    self.attempts[*attempt].state = Fate::Written(position);
                }
            }
            What::Result { source } => {
                ensure(*source < position && self.is_source(*source), || {
                    format!("{position} is of {source}, which is no source")
                })?;
                let twice = self.results.insert((stream.clone(), *source), position);
                ensure(twice.is_none(), || format!("{source} was handled twice, at {twice:?} and {position}"))?;
                let letter = self.letters.get(&(BILLER, *source));
                let both = stream == BILLED && letter.is_some();
                ensure(!both, || format!("{source} has a result at {position}, and a dead letter at {letter:?}"))?;
            }
            What::Letter { group, source } => {
                ensure(*source < position && self.is_source(*source), || {
                    format!("{position} is of {source}, which is no source")
                })?;
                let before = self.letters.entry((group, *source)).or_default();
                let again = before.is_empty() || self.redriven.contains(&(group, *source));
                ensure(again, || format!("{source} has dead letters at {before:?} and {position}"))?;
                before.push(position);
                let result = self.results.get(&(BILLED.to_owned(), *source));
                let both = *group == BILLER && result.is_some();
                ensure(!both, || format!("{source} has a dead letter at {position}, and a result at {result:?}"))?;
            }
            What::Copy { letter } => {
                let is_letter = matches!(self.at(*letter).map(|known| &known.what), Some(What::Letter { .. }));
                ensure(is_letter, || format!("{position} copies {letter}, which is no dead letter"))?;
                let before = self.copies.get(letter).cloned().unwrap_or_default();
                let twice = before.iter().find(|copy| !self.is_gone(**copy));
                ensure(twice.is_none(), || format!("{letter} was copied twice, to {twice:?} and {position}"))?;
                self.copies.entry(*letter).or_default().push(position);
            }
        }
        self.revisions.insert(stream.clone(), revision);
        self.log.push(Known { what, stream, revision, time, more, flag, gone: None });
        Ok(())
    }

    /// Commits are whole, once, and in the order in which they were handed in.
    fn check_commit(&self, position: u64, what: &What, more: bool) -> Check {
        let before = self.log.last();
        if let Some(Known { what: What::Made { attempt, nth }, more: true, .. }) = before {
            let next = What::Made { attempt: *attempt, nth: nth + 1 };
            ensure(*what == next, || format!("{position} is {what:?}, and {next:?} was to come"))?;
        }
        let What::Made { attempt, nth } = what else { return Ok(()) };
        let is_first = before.is_none_or(|before| !before.more);
        ensure(is_first == (*nth == 0), || format!("{position} is {what:?}, behind {before:?}"))?;
        let one = &self.attempts[*attempt];
        ensure(more == (nth + 1 < one.events.len()), || format!("{position}, {what:?}, ends its commit otherwise"))?;
        if is_first {
            let state = one.state;
            ensure(state == Fate::Unknown, || format!("{position} is {what:?}, of which is known: {state:?}"))?;
            let last = self.log.iter().rev().find_map(|known| match known.what {
                What::Made { attempt, .. } => Some(self.attempts[attempt].handed_in),
                _ => None,
            });
            ensure(last < Some(one.handed_in), || format!("{position}, {what:?}, overtook another one"))?;
        }
        Ok(())
    }

    /// What an event says that it is, and whether it is that.
    fn what(&self, event: &Event<'_>, store: StoreId) -> Check<What> {
        let (position, stream, payload) = (event.position(), event.stream(), event.payload());
        let wrong = |what: &str| format!("wrong event at {position} in {stream}: {what}");
        let number = || payload.try_into().map(u64::from_le_bytes).map_err(|_| wrong("its payload"));
        match stream {
            COPIED | BILLED => Ok(What::Result { source: number()? }),
            FAILED => match event.causation() {
                Some(EventId::Place { store: of, position: letter }) if of == store => {
                    Ok(What::Copy { letter: letter.get() })
                }
                cause => Err(wrong(&format!("its cause {cause:?}"))),
            },
            "$dead/mail" => self.letter(event, MAIL),
            "$dead/biller" => self.letter(event, BILLER),
            _ => {
                let attempt = payload.get(..8).map(|bytes| crate::format::u64_at(bytes, 0) as usize);
                let nth = payload.get(8..16).map(|bytes| crate::format::u64_at(bytes, 0) as usize);
                let (Some(attempt), Some(nth)) = (attempt, nth) else { return Err(wrong("its payload")) };
                let made = self.attempts.get(attempt).and_then(|one| one.events.get(nth));
                let made = made.ok_or_else(|| wrong("it was never handed in"))?;
                let is_it = made.stream == stream && payload == payload_of(attempt, nth, made.size);
                ensure(is_it, || wrong("its content"))?;
                let key = self.attempts[attempt].key.as_deref().filter(|_| nth == 0);
                ensure(event.key() == key, || wrong("its key"))?;
                Ok(What::Made { attempt, nth })
            }
        }
    }

    fn letter(&self, event: &Event<'_>, group: &'static str) -> Check<What> {
        let position = event.position();
        let head = Head::of(event).ok_or_else(|| format!("{position} is no dead letter"))?;
        let source = head.position.get();
        if head.lost.is_some() {
            return Ok(What::Letter { group, source });
        }
        let Some(Known { what: What::Made { attempt, nth }, .. }) = self.at(source) else {
            return Err(format!("the dead letter at {position} is of {source}, which is no source"));
        };
        let size = self.attempts[*attempt].events[*nth].size;
        ensure(event.payload() == payload_of(*attempt, *nth, size), || format!("{position} is not like {source}"))?;
        let expected = match head.reason {
            Reason::Rejected => head.attempts >= 1 && head.attempts <= ATTEMPTS,
            Reason::Attempts => head.attempts == ATTEMPTS,
            _ => false,
        };
        ensure(expected, || format!("the dead letter at {position} says {} after {}", head.reason, head.attempts))?;
        Ok(What::Letter { group, source })
    }

    /// The log ends here; what came behind it is lost.
    pub(super) fn cut(&mut self, head: u64) -> Check {
        ensure(head == 0 || !self.log[head as usize - 1].more, || format!("{head} is in the middle of a commit"))?;
        for known in self.log.split_off(head as usize).into_iter().rev() {
            if let Some(revision) = self.revisions.get_mut(&known.stream) {
                *revision -= 1;
            }
            match known.what {
                What::Made { attempt, nth } => {
                    if nth == 0 {
                        self.attempts[attempt].state = Fate::Refused;
                    }
                }
                What::Result { source } => drop(self.results.remove(&(known.stream, source))),
                What::Letter { group, source } => {
                    if let Some(places) = self.letters.get_mut(&(group, source)) {
                        places.pop();
                    }
                    self.letters.retain(|_, places| !places.is_empty());
                }
                What::Copy { letter } => {
                    if let Some(copies) = self.copies.get_mut(&letter) {
                        copies.pop();
                    }
                    self.copies.retain(|_, copies| !copies.is_empty());
                }
            }
        }
        Ok(())
    }

    /// Whatever was not seen by now never will be.
    pub(super) fn settle_unknown(&mut self) {
        for attempt in &mut self.attempts {
            if attempt.state == Fate::Unknown {
                attempt.state = Fate::Refused;
            }
        }
    }
}

/// The payload of an event: which one it is, and then something that recovery may take for something else.
pub(super) fn payload_of(attempt: usize, nth: usize, size: usize) -> Vec<u8> {
    let mut payload = Vec::with_capacity(size + 32);
    payload.extend_from_slice(&(attempt as u64).to_le_bytes());
    payload.extend_from_slice(&(nth as u64).to_le_bytes());
    let mut chance = Chance::new((attempt * 31 + nth) as u64);
    match chance.below(4) {
        // Blank sectors.
        0 => payload.resize(16 + size, 0),
        1 => payload.extend((0..size).map(|at| if at % 1024 < 600 { 0 } else { at as u8 | 1 })),
        _ => {
            while payload.len() < 16 + size {
                payload.extend_from_slice(&chance.next().to_le_bytes());
            }
            payload.truncate(16 + size);
        }
    }
    payload
}
