//! Dead letters: what a group's deliveries became that failed for good. Listing, handing out again, dropping.

use std::sync::Arc;

use crate::canal::Reason;
use crate::canal::consumers::unknown;
use crate::canal::group::letter::{Head, STREAMS};
use crate::error::Result;
use crate::format::control::Control;
use crate::format::term::Kind;
use crate::format::{names, runs};
use crate::id::{Position, Revision, Timestamp};
use crate::log::event::Event;
use crate::log::ledger::Ledger;
use crate::log::ledger::ranges::Ranges;
use crate::log::terms::Filter;
use crate::store::Store;
use crate::sync::guard;
use crate::sync::primitive::Mutex;

/// The dead letters of one group: [`Store::dead_letters`] gives it.
///
/// They stand in the stream `$dead/<group>` like any other event, each written in the same commit that settled its delivery.
/// Redriving hands the *source* event out again, to the group that refused it and to nobody else; the dead letter is gone
/// once that is settled, and replaced by another one if it fails for good again.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    store: Store,
    group: String,
}

/// One dead letter: an event with the payload, type, tags and headers of the one that failed.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    event: Event<'static>,
    head: Head,
    redriven: bool,
}

/// What became of dead letters that were to be handed out again or dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Moved {
    /// How many were.
    pub moved: u64,
    /// How many were on their way already, or gone, or are ahead of the group, which was moved back and comes to them anyway.
    pub passed_over: u64,
    /// How many cannot be handed out again, because their bytes are damaged or no longer kept.
    pub impossible: u64,
}

impl Store {
    /// The dead letters of a group.
    ///
    /// # Errors
    /// [`Error::UnknownConsumer`](crate::Error::UnknownConsumer) when the store knows no group of this name. When what
    /// a writer in another process has published since cannot be read.
    pub fn dead_letters(&self, group: impl Into<String>) -> Result<DeadLetters> {
        let group = group.into();
        names::check_users("consumer name", &group)?;
        let letters = DeadLetters { store: self.clone(), group };
        letters.ledger()?;
        Ok(letters)
    }
}

impl DeadLetters {
    /// The name of the stream that they stand in: any cursor or query that names it reads them.
    pub fn stream(&self) -> String {
        format!("{STREAMS}{}", self.group)
    }

    /// Those that are not gone, in the order in which they were written.
    ///
    /// # Errors
    /// When what a writer in another process has published since cannot be read. Damage is an item of its own.
    pub fn iter(&self) -> Result<impl Iterator<Item = Result<DeadLetter>> + use<>> {
        let ledger = self.ledger()?;
        let (gone, redriven) = {
            let ledger = guard(&ledger);
            let redriven = ledger.histories.values().map(|history| history.letter).filter(|letter| *letter > 0);
            let mut on_their_way = Ranges::default();
            redriven.for_each(|letter| on_their_way.insert(letter));
            (ledger.gone.clone(), on_their_way)
        };
        let reader = self.store.read_filtered(Filter::Exactly(Kind::Stream, self.stream().into_bytes()));
        Ok(reader.filter_map(move |event| match event {
            Err(error) => Some(Err(error)),
            Ok(event) => {
                let number = event.revision().get();
                let redriven = redriven.contains(number);
                let head = Head::of(&event).filter(|_| !gone.contains(number))?;
                Some(Ok(DeadLetter { event, head, redriven }))
            }
        }))
    }

    /// The one with this number, unless it is gone.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn get(&self, number: Revision) -> Result<Option<DeadLetter>> {
        let ledger = self.ledger()?;
        if guard(&ledger).gone.contains(number.get()) {
            return Ok(None);
        }
        let Some(event) = self.store.event_at(&self.stream(), number)? else { return Ok(None) };
        let redriven = guard(&ledger).histories.values().any(|history| history.letter == number.get());
        Ok(Head::of(&event).map(|head| DeadLetter { event, head, redriven }))
    }

    /// Has the group hand the sources of these out again, as if they had never been tried. To choose some, and to go slowly,
    /// call it with those that are chosen, when it is time.
    ///
    /// # Errors
    /// [`Error::ReadOnly`](crate::Error::ReadOnly), and what an append can fail with. What was moved before the error stays moved.
    pub fn redrive<'a>(&self, letters: impl IntoIterator<Item = &'a DeadLetter>) -> Result<Moved> {
        self.store.writer()?.check_may_wait()?;
        let (mut moved, mut chosen) = (Moved::default(), Vec::new());
        for letter in letters {
            let (number, source) = (letter.number().get(), letter.source_position());
            if self.check_is_ours(letter).is_err() || letter.head.lost.is_some() || source < self.store.oldest() {
                moved.impossible += 1;
            } else {
                chosen.push((number, source));
            }
            if chosen.len() == AT_ONCE {
                self.redrive_some(&std::mem::take(&mut chosen), &mut moved)?;
            }
        }
        self.redrive_some(&chosen, &mut moved)?;
        Ok(moved)
    }

    /// Forgets these. They stay in the log as events of their stream, and are no longer counted, listed or redriven.
    ///
    /// # Errors
    /// [`Error::ReadOnly`](crate::Error::ReadOnly), and what an append can fail with. Those that are being redriven are passed over.
    pub fn drop_letters<'a>(&self, letters: impl IntoIterator<Item = &'a DeadLetter>) -> Result<Moved> {
        self.store.writer()?.check_may_wait()?;
        let ledger = self.ledger()?;
        let (mut moved, mut dropped) = (Moved::default(), Vec::new());
        for letter in letters {
            let number = letter.number().get();
            let ledger = guard(&ledger);
            let on_its_way =
                ledger.histories.get(&letter.source_position().get()).is_some_and(|kept| kept.letter == number);
            if self.check_is_ours(letter).is_err() {
                moved.impossible += 1;
            } else if on_its_way || ledger.gone.contains(number) || dropped.contains(&number) {
                moved.passed_over += 1;
            } else {
                dropped.push(number);
                moved.moved += 1;
            }
            drop(ledger);
            if dropped.len() == AT_ONCE {
                self.write_dropped(std::mem::take(&mut dropped))?;
            }
        }
        self.write_dropped(dropped)?;
        Ok(moved)
    }

    fn redrive_some(&self, letters: &[(u64, Position)], moved: &mut Moved) -> Result<()> {
        let redriven = self.store.with_group(&self.group, |group| match group {
            Some(group) => group.redrive(letters),
            None => {
                let ledger = self.ledger()?;
                let fresh = guard(&ledger).redrivable(letters);
                let count = fresh.len() as u64;
                self.store.write_redriven(&self.group, fresh).map(|()| count)
            }
        })?;
        moved.moved += redriven;
        moved.passed_over += letters.len() as u64 - redriven;
        Ok(())
    }

    fn write_dropped(&self, mut dropped: Vec<u64>) -> Result<()> {
        if dropped.is_empty() {
            return Ok(());
        }
        dropped.sort_unstable();
        let record = Control::Letters { group: self.group.clone(), redriven: Vec::new(), dropped };
        self.store.write_record(&record)?;
        self.store.open_group(&self.group).map_or(Ok(()), |group| group.letters_dropped())
    }

    fn check_is_ours(&self, letter: &DeadLetter) -> Result<()> {
        let is_ours = letter.event.store() == self.store.id() && letter.event.stream() == self.stream();
        if is_ours { Ok(()) } else { Err(unknown(&letter.head.group)) }
    }

    fn ledger(&self) -> Result<Arc<Mutex<Ledger>>> {
        self.store.inner.log.state()?.groups.remove(&self.group).ok_or_else(|| unknown(&self.group))
    }
}

/// Dead letters that one control record names, well below what it may.
const AT_ONCE: usize = 1024;
const _: () = assert!(AT_ONCE <= runs::MOST);

impl DeadLetter {
    /// Its number among the dead letters of its group, from 1: its revision in their stream.
    pub fn number(&self) -> Revision {
        self.event.revision()
    }

    /// The dead letter as an event, with its payload, type and tags.
    pub fn event(&self) -> &Event<'static> {
        &self.event
    }

    /// The headers that the event had when it failed.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.event.headers().skip(self.head.own)
    }

    /// Why it is one.
    pub fn reason(&self) -> Reason {
        self.head.reason
    }

    /// What the last attempt failed of, in words.
    pub fn why(&self) -> &str {
        &self.head.error
    }

    /// How often its delivery was handed out.
    pub fn attempts(&self) -> u32 {
        self.head.attempts
    }

    /// The event that failed; of a damaged stretch, its first position.
    pub fn source_position(&self) -> Position {
        self.head.position
    }

    /// The stream of the event that failed; `None` when that could not be read.
    pub fn source_stream(&self) -> Option<&str> {
        self.head.stream.as_deref()
    }

    /// The place of the event that failed in its stream; `None` when that could not be read.
    pub fn source_revision(&self) -> Option<Revision> {
        self.head.revision
    }

    /// When its delivery was handed out for the first time, if it ever was.
    pub fn first_handed_out(&self) -> Option<Timestamp> {
        self.head.handed_out
    }

    /// When an attempt failed for the first time.
    pub fn first_failed(&self) -> Timestamp {
        self.head.first_failed
    }

    /// When it failed for good.
    pub fn last_failed(&self) -> Timestamp {
        self.head.last_failed
    }

    /// The dead letter that was redriven and failed again as this one.
    pub fn replaces(&self) -> Option<Revision> {
        self.head.replaces
    }

    /// How many positions were lost, when it stands for a damaged stretch.
    pub fn lost(&self) -> Option<u64> {
        self.head.lost
    }

    /// Whether it is being redriven: its source is handed out again and not settled.
    pub fn is_redriven(&self) -> bool {
        self.redriven
    }
}
