//! Reading: which events, from where, in which direction, how many.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::id::{Position, Timestamp};
use crate::log::Log;
use crate::log::event::Event;
use crate::log::parts::Part;
use crate::log::terms::Filter;
use crate::log::walk::{self, Step, Walk, WalkBack};

/// An iterator over stored events, up to the head at the time it was made.
///
/// What is damaged is an item of its own, [`Error::Damaged`], and the next item is the first event behind it. Each event's
/// checksum is checked before it is handed out. Streams whose names begin with `$` are left out unless the query names
/// them.
///
/// The methods that narrow it are to be called before the first event is taken.
#[derive(Debug)]
pub struct Reader {
    log: Arc<Log>,
    filter: Filter,
    from: Position,
    since: Option<Timestamp>,
    until: Position,
    head: Position,
    backwards: bool,
    left: u64,
    course: Course,
    ended: Ended,
}

/// How far a [`Reader`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// Not at its end yet.
    Not,
    /// Everything up to the head (or down to the start) was looked at.
    AtHead,
    /// It was to begin behind the head: nothing is there yet.
    PastHead {
        /// Where it was to begin.
        asked: Position,
        /// Where the log ended when the reader was made.
        head: Position,
    },
    /// As many events as were asked for.
    Limit,
}

#[derive(Debug)]
enum Course {
    NotStarted,
    Forward(Walk),
    Backward(WalkBack),
    Over,
}

impl Reader {
    /// A reader of everything up to `head`.
    pub(crate) fn new(log: Arc<Log>, filter: Filter, head: Position) -> Self {
        Self {
            log,
            filter,
            from: Position::START,
            since: None,
            until: head,
            head,
            backwards: false,
            left: u64::MAX,
            course: Course::NotStarted,
            ended: Ended::Not,
        }
    }

    /// Events from this position on, inclusive.
    #[must_use]
    pub fn from(mut self, position: Position) -> Self {
        self.from = position;
        self
    }

    /// Events behind this position.
    #[must_use]
    pub fn after(self, position: Position) -> Self {
        self.from(position.next())
    }

    /// Events up to this position, inclusive.
    #[must_use]
    pub fn until(mut self, position: Position) -> Self {
        self.until = position.min(self.head);
        self
    }

    /// Events recorded at this time or later. Recorded time never goes backward along the log.
    #[must_use]
    pub fn since(mut self, time: Timestamp) -> Self {
        self.since = Some(time);
        self
    }

    /// The latest event first.
    #[must_use]
    pub fn backwards(mut self) -> Self {
        self.backwards = true;
        self
    }

    /// At most so many events. Damage does not count.
    #[must_use]
    pub fn limit(mut self, events: u64) -> Self {
        self.left = events;
        self
    }

    /// Whether it has ended, and at what.
    pub fn ended(&self) -> Ended {
        self.ended
    }

    /// The next event, without the cost of keeping its segment alive by itself. For loops that look at each event once.
    ///
    /// # Errors
    /// [`Error::Damaged`] for a damaged stretch; the next call goes on behind it. [`Error::Expired`] when it was to begin
    /// before the oldest event that is kept. [`Error::Io`] and [`Error::NotAStore`] when a segment cannot be opened;
    /// then it has ended.
    #[inline]
    pub fn next_borrowed(&mut self) -> Option<Result<Event<'_>>> {
        let found = match &mut self.course {
            Course::Forward(walk) if self.left > 0 => walk.next_frame(self.until),
            _ => None,
        };
        let Some((offset, len)) = found else { return self.next_step() };
        let Course::Forward(walk) = &self.course else { return None };
        self.left -= 1;
        Some(Ok(Event::borrowed(&walk.part().segment, offset, len)))
    }

    /// The same, for whatever is not simply the next frame.
    fn next_step(&mut self) -> Option<Result<Event<'_>>> {
        let step = match self.step() {
            Ok(step) => step?,
            Err(error) => {
                self.course = Course::Over;
                return Some(Err(error));
            }
        };
        Some(match step {
            Step::Damaged(damage) => Err(Error::Damaged(*damage)),
            Step::Event { offset, len, .. } => {
                let part: &Arc<Part> = match &self.course {
                    Course::Forward(walk) => walk.part(),
                    Course::Backward(walk) => walk.part()?,
                    Course::NotStarted | Course::Over => return None,
                };
                Ok(Event::borrowed(&part.segment, offset, len))
            }
        })
    }

    fn step(&mut self) -> Result<Option<Step>> {
        if matches!(self.course, Course::NotStarted) {
            self.start()?;
        }
        if self.left == 0 && !matches!(self.course, Course::Over) {
            self.ended = Ended::Limit;
            return Ok(None);
        }
        let step = match &mut self.course {
            Course::Forward(walk) => walk.step(&self.log, self.until)?,
            Course::Backward(walk) => walk.step(&self.log, self.from)?,
            Course::NotStarted | Course::Over => return Ok(None),
        };
        match step {
            Some(Step::Event { .. }) => self.left -= 1,
            Some(Step::Damaged(_)) => {}
            None => {
                self.course = Course::Over;
                self.ended = Ended::AtHead;
            }
        }
        Ok(step)
    }

    fn start(&mut self) -> Result<()> {
        self.course = Course::Over;
        let oldest = self.log.oldest();
        if self.from > Position::START && self.from < oldest {
            return Err(Error::Expired { asked: self.from, oldest });
        }
        if self.from > self.head.next() {
            self.ended = Ended::PastHead { asked: self.from, head: self.head };
            return Ok(());
        }
        if let Some(time) = self.since {
            self.from = self.from.max(walk::at_time(&self.log, time)?);
        }
        if self.from > self.until || self.until == Position::START {
            self.ended = Ended::AtHead;
            return Ok(());
        }
        self.course = if self.backwards {
            Course::Backward(WalkBack::new(&self.log, self.filter.clone(), self.until)?)
        } else {
            Course::Forward(Walk::new(&self.log, self.filter.clone(), self.from)?)
        };
        Ok(())
    }
}

impl Iterator for Reader {
    type Item = Result<Event<'static>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_borrowed().map(|event| event.map(Event::into_owned))
    }
}
