//! Reading: which events, from where, in which direction, how many.

use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::id::{Position, Timestamp};
use crate::log::Log;
use crate::log::cost::{ReadCost, counted};
use crate::log::event::Event;
use crate::log::terms::Filter;
use crate::log::walk::back::WalkBack;
use crate::log::walk::{Place, Step, Walk, lookup};
use crate::segment::Segment;

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
    /// Whether another reader reads what lies before, and tells of damage that begins there.
    joins: bool,
    course: Course,
    ended: Ended,
    /// The error that is told next.
    failed: Option<Box<Error>>,
    /// What was looked up before the walk, and the walk when it is over.
    cost: ReadCost,
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
            joins: false,
            course: Course::NotStarted,
            ended: Ended::Not,
            failed: None,
            cost: ReadCost::default(),
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

    /// What it has cost so far.
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join(format!("towpath-cost-{}", std::process::id()));
    /// # let _ = std::fs::remove_dir_all(&dir);
    /// use towpath::{NewEvent, Query, Store};
    ///
    /// let store = Store::open(&dir)?;
    /// for n in 0..100 {
    ///     let event = NewEvent::new("opened", "");
    ///     store.append("cart-1", if n == 40 { event.tag("odd") } else { event })?;
    /// }
    /// let mut all = store.read(Query::new());
    /// assert_eq!((all.by_ref().count(), all.cost().frames), (100, 101), "and a record at the head of the segment");
    /// let mut odd = store.read(Query::new().tags(["odd"]));
    /// assert_eq!((odd.by_ref().count(), odd.cost().frames), (1, 1), "the index knows where it is");
    /// # drop((all, odd));
    /// store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok::<(), towpath::Error>(())
    /// ```
    pub fn cost(&self) -> ReadCost {
        let mut cost = self.cost;
        match &self.course {
            Course::Forward(walk) => cost += walk.cost(),
            Course::Backward(walk) => cost += walk.cost(),
            Course::NotStarted | Course::Over => {}
        }
        cost
    }

    /// The next event, without the cost of keeping its segment alive by itself. For loops that look at each event once.
    ///
    /// # Errors
    /// [`Error::Damaged`] for a damaged stretch; the next call goes on behind it. [`Error::Expired`] when it was to begin
    /// before the oldest event that is kept. [`Error::Io`] and [`Error::NotAStore`] when a segment cannot be opened;
    /// then it has ended.
    #[inline]
    pub fn next_borrowed(&mut self) -> Option<Result<Event<'_>>> {
        // Each answer fits into registers. An event that came back from a call in memory would cost a fifth of a replay.
        match self.next_found() {
            Some(place) => Some(Ok(Event::borrowed(self.segment()?, place.offset, place.len()))),
            None => self.failed.take().map(|error| Err(*error)),
        }
    }

    /// Where the next event stands. `None`: an error, or the end.
    #[inline]
    fn next_found(&mut self) -> Option<Place> {
        let swift = match &mut self.course {
            Course::Forward(walk) if self.left > 0 => walk.next_frame(self.until),
            _ => None,
        };
        if swift.is_some() {
            self.left -= 1;
            return swift;
        }
        self.next_step()
    }

    /// The same, for whatever is not simply the next frame. `None`: an error, or the end.
    #[inline(never)]
    fn next_step(&mut self) -> Option<Place> {
        let step = self.step().unwrap_or_else(|error| {
            self.end();
            self.failed = Some(Box::new(error));
            None
        });
        match step? {
            Step::Damaged(damage) => {
                self.failed = Some(Box::new(Error::Damaged(*damage)));
                None
            }
            Step::Event { offset, len, .. } => Place::new(offset, len),
        }
    }

    /// Where the last event stands.
    #[inline]
    fn segment(&self) -> Option<&Arc<Segment>> {
        match &self.course {
            Course::Forward(walk) => Some(&walk.part().segment),
            Course::Backward(walk) => Some(&walk.part()?.segment),
            Course::NotStarted | Course::Over => None,
        }
    }

    fn step(&mut self) -> Result<Option<Step>> {
        if matches!(self.course, Course::NotStarted) {
            self.start()?;
        }
        if self.left == 0 && !matches!(self.course, Course::Over) {
            self.ended = Ended::Limit;
            return Ok(None);
        }
        let step = loop {
            let step = match &mut self.course {
                Course::Forward(walk) => walk.step(&self.log, self.until)?,
                Course::Backward(walk) => walk.step(&self.log, self.from)?,
                Course::NotStarted | Course::Over => return Ok(None),
            };
            match step {
                Some(Step::Damaged(damage)) if self.joins && damage.position < self.from => {}
                step => break step,
            }
        };
        match step {
            Some(Step::Event { .. }) => self.left -= 1,
            Some(Step::Damaged(_)) => {}
            None => {
                self.end();
                self.ended = Ended::AtHead;
            }
        }
        Ok(step)
    }

    /// The first and the last position that it is to look at, if there are any: as it will find out when it begins.
    pub(crate) fn range(&mut self) -> Result<Option<RangeInclusive<Position>>> {
        if matches!(self.course, Course::NotStarted) && self.since.is_some() {
            self.from = self.from.max(self.at_time()?);
            self.since = None;
        }
        let oldest = self.log.oldest();
        let is_told = self.from > Position::START && self.from < oldest || self.from > self.until;
        Ok((!is_told && self.until > Position::START).then_some(self.from.max(oldest)..=self.until))
    }

    /// A reader of the same that has not begun, from one position to another. One that `joins` reads on where another one
    /// ends.
    pub(crate) fn of_range(&self, range: RangeInclusive<Position>, joins: bool) -> Self {
        let mut other = Self::new(self.log.clone(), self.filter.clone(), self.head);
        (other.from, other.until) = range.into_inner();
        (other.backwards, other.joins) = (self.backwards, joins);
        other
    }

    /// Whether it looks at every event, from the first to the last.
    pub(crate) fn is_plain(&self) -> bool {
        !self.backwards && self.left == u64::MAX && self.filter.ways().is_none()
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.left < u64::MAX
    }

    pub(crate) fn is_backwards(&self) -> bool {
        self.backwards
    }

    pub(crate) fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// The next event as a place in a segment.
    pub(crate) fn next_place(&mut self) -> Option<Result<(&Arc<Segment>, Place)>> {
        match self.next_found() {
            Some(place) => Some(Ok((self.segment()?, place))),
            None => self.failed.take().map(|error| Err(*error)),
        }
    }

    fn at_time(&mut self) -> Result<Position> {
        let Some(time) = self.since else { return Ok(Position::START) };
        let mut cost = ReadCost::default();
        let first = counted(&mut cost, || lookup::at_time(&self.log, time));
        self.cost += cost;
        self.log.costs.add(cost);
        first
    }

    fn end(&mut self) {
        self.cost = self.cost();
        self.course = Course::Over;
    }

    fn start(&mut self) -> Result<()> {
        self.course = Course::Over;
        self.log.check_shown()?;
        let oldest = self.log.oldest();
        if self.from > Position::START && self.from < oldest {
            return Err(Error::Expired { asked: self.from, oldest });
        }
        if self.from > self.head.next() {
            self.ended = Ended::PastHead { asked: self.from, head: self.head };
            return Ok(());
        }
        self.from = self.from.max(self.at_time()?);
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
