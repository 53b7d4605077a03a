//! Replaying on several threads, with the results in the order of the log.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::{fmt, mem, thread, vec};

use crate::error::{Error, Result};
use crate::id::Position;
use crate::log::event::Event;
use crate::log::reader::Reader;
use crate::log::split::{self, Share};
use crate::log::walk::Place;
use crate::segment::Segment;
use crate::sync::guard;
use crate::sync::primitive::atomic::{AtomicBool, Ordering};
use crate::sync::primitive::{Arc, Condvar, Mutex, PoisonError};

/// Events that a thread takes at a time, and about so many bytes of them.
const PIECE: u64 = 1024;
const PIECE_BYTES: u64 = 1 << 20;

/// Pieces for each thread that may be taken and not handed out yet.
const AHEAD: usize = 4;

impl Reader {
    /// Reads on several threads at once: `map` makes something of each event on any of them, and `body` gets what it made
    /// in the order of the log, on this thread. Meant for projections that decode much and apply little.
    ///
    /// `threads` counts this one, which helps while it would wait; with 1, and with 0, it does everything itself. The
    /// others are gone when this returns. At most 4,096 results a thread are made ahead of `body`.
    ///
    /// What can go wrong comes in its place: damage is an item, and the next one is what lies behind it; after any other
    /// error of reading nothing follows. What `map` itself returns as an error is up to `body`. When `map` panics, the
    /// panic goes on in `body` where it takes that event's result. To stop early, `body` returns.
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join(format!("towpath-parallel-{}", std::process::id()));
    /// # let _ = std::fs::remove_dir_all(&dir);
    /// use serde::{Deserialize, Serialize};
    /// use towpath::{NewEvent, Query, Store};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// enum Account { Paid { cents: u64 }, Closed }
    ///
    /// let store = Store::open(&dir)?;
    /// for cents in 1..=100 {
    ///     store.append("account-1", NewEvent::typed(&Account::Paid { cents })?)?;
    /// }
    /// let sum = store.read(Query::new()).in_parallel(
    ///     4,
    ///     |event| event.decode::<Account>(),
    ///     |decoded| -> towpath::Result<u64> {
    ///         let mut sum = 0;
    ///         for account in decoded {
    ///             // The first error is one of reading, the second one of decoding.
    ///             match account?? {
    ///                 Account::Paid { cents } => sum += cents,
    ///                 Account::Closed => break,
    ///             }
    ///         }
    ///         Ok(sum)
    ///     },
    /// )?;
    /// assert_eq!(sum, 5050);
    /// store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok::<(), towpath::Error>(())
    /// ```
    pub fn in_parallel<T: Send, R>(
        self,
        threads: usize,
        map: impl Fn(Event<'_>) -> T + Sync,
        body: impl FnOnce(&mut InOrder<'_, T>) -> R,
    ) -> R {
        let threads = threads.max(1);
        let stopped = AtomicBool::new(false);
        let run = |piece: Piece| run(piece, &map, &stopped);
        let work = Work {
            source: Mutex::new(Source::new(self)),
            state: Mutex::default(),
            changed: Condvar::new(),
            most: threads * AHEAD,
            stopped: &stopped,
            run: &run,
        };
        thread::scope(|scope| {
            // Made first: whatever happens from here on, dropping it lets the others go.
            let mut results = InOrder {
                work: &work,
                next: 0,
                values: Vec::new().into_iter(),
                errors: Vec::new(),
                panic: None,
                over: false,
            };
            for _ in 1..threads {
                scope.spawn(|| work.help());
            }
            body(&mut results)
        })
    }
}

/// What [`Reader::in_parallel`] made of the events, in the order of the log.
pub struct InOrder<'a, T> {
    work: &'a Work<'a, T>,
    /// The number of the piece that comes next.
    next: u64,
    values: vec::IntoIter<T>,
    /// Errors among the values, the last one first, each with how many values are left behind it.
    errors: Vec<(usize, Error)>,
    /// What `map` panicked with behind all these.
    panic: Option<Box<dyn Any + Send>>,
    over: bool,
}

impl<T> Iterator for InOrder<'_, T> {
    type Item = Result<T>;

    #[inline]
    fn next(&mut self) -> Option<Result<T>> {
        if self.errors.is_empty()
            && let Some(value) = self.values.next()
        {
            return Some(Ok(value));
        }
        self.next_step()
    }
}

impl<T> InOrder<'_, T> {
    /// The same, for whatever is not simply the next value.
    fn next_step(&mut self) -> Option<Result<T>> {
        loop {
            let left = self.values.len();
            if let Some((_, error)) = self.errors.pop_if(|(behind, _)| *behind == left) {
                // As with one reader: damage is passed over, anything else ends it.
                if !matches!(error, Error::Damaged(_)) {
                    self.end();
                }
                return Some(Err(error));
            }
            if let Some(value) = self.values.next() {
                return Some(Ok(value));
            }
            if let Some(panic) = self.panic.take() {
                self.end();
                resume_unwind(panic);
            }
            if self.over {
                return None;
            }
            match self.work.take(self.next) {
                Some(done) => {
                    self.next += 1;
                    let all = done.values.len();
                    let behind = |(before, error)| (all - before, error);
                    self.errors = done.errors.into_iter().rev().map(behind).collect();
                    (self.values, self.panic) = (done.values.into_iter(), done.panic);
                }
                None => self.end(),
            }
        }
    }

    fn end(&mut self) {
        self.over = true;
        (self.values, self.errors) = (Vec::new().into_iter(), Vec::new());
        self.work.stop();
    }
}

impl<T> Drop for InOrder<'_, T> {
    fn drop(&mut self) {
        self.work.stop();
    }
}

impl<T> fmt::Debug for InOrder<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InOrder").field("over", &self.over).finish_non_exhaustive()
    }
}

/// What several threads share. A piece is allowed for, taken in its order, worked on, and put where it is handed out.
struct Work<'a, T> {
    source: Mutex<Source>,
    state: Mutex<State<T>>,
    changed: Condvar,
    /// Pieces that may be allowed for and not handed out yet.
    most: usize,
    stopped: &'a AtomicBool,
    run: &'a (dyn Fn(Piece) -> Done<T> + Sync),
}

struct State<T> {
    /// Pieces that somebody is about to take, works on, or has finished.
    allowed: usize,
    /// There are no more pieces to take.
    dry: bool,
    done: BTreeMap<u64, Done<T>>,
}

/// What became of a piece.
struct Done<T> {
    values: Vec<T>,
    /// What could not be read, each with how many values stand before it.
    errors: Vec<(usize, Error)>,
    panic: Option<Box<dyn Any + Send>>,
}

/// What one thread works on at a time.
enum Piece {
    /// A range of the log, read where it is worked on.
    Range(Box<Reader>),
    /// Events that were found already, and the error behind them.
    Found(Vec<(Arc<Segment>, Place)>, Option<Error>),
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self { allowed: 0, dry: false, done: BTreeMap::new() }
    }
}

impl<T> Work<'_, T> {
    /// Works until there is nothing to do any more.
    fn help(&self) {
        loop {
            let mut state = guard(&self.state);
            while state.allowed == self.most && !self.is_over(&state) {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if self.is_over(&state) {
                return;
            }
            state.allowed += 1;
            drop(state);
            self.work();
        }
    }

    /// The piece of a number; `None` behind the last one. Helps while it is not there.
    fn take(&self, number: u64) -> Option<Done<T>> {
        loop {
            let mut state = guard(&self.state);
            if let Some(done) = state.done.remove(&number) {
                state.allowed -= 1;
                self.changed.notify_all();
                return Some(done);
            }
            if state.allowed < self.most && !state.dry {
                state.allowed += 1;
                drop(state);
                self.work();
            } else if state.allowed == 0 {
                return None;
            } else {
                // Somebody takes it or works on it: pieces are taken in their order.
                drop(self.changed.wait(state).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    /// Takes the next piece and works on it. It was allowed for.
    fn work(&self) {
        let taken = guard(&self.source).take();
        let done = taken.map(|(number, piece)| (number, (self.run)(piece)));
        let mut state = guard(&self.state);
        match done {
            Some((number, done)) => {
                state.done.insert(number, done);
            }
            None => {
                state.allowed -= 1;
                state.dry = true;
            }
        }
        self.changed.notify_all();
    }

    fn is_over(&self, state: &State<T>) -> bool {
        state.dry || self.stopped.load(Ordering::Relaxed)
    }

    fn stop(&self) {
        let state = guard(&self.state);
        self.stopped.store(true, Ordering::Relaxed);
        drop(state);
        self.changed.notify_all();
    }
}

/// Makes something of each event. A panic ends it, and is kept.
fn run<T>(piece: Piece, map: &impl Fn(Event<'_>) -> T, stopped: &AtomicBool) -> Done<T> {
    let (mut values, mut errors) = (Vec::new(), Vec::new());
    let is_stopped = || stopped.load(Ordering::Relaxed);
    let worked = catch_unwind(AssertUnwindSafe(|| match piece {
        Piece::Range(mut reader) => {
            while let Some(event) = reader.next_borrowed()
                && !is_stopped()
            {
                match event {
                    Ok(event) => values.push(map(event)),
                    Err(error) => errors.push((values.len(), error)),
                }
            }
        }
        Piece::Found(places, error) => {
            values.reserve_exact(places.len());
            for (segment, place) in &places {
                if is_stopped() {
                    return;
                }
                values.push(map(Event::borrowed(segment, place.offset, place.len())));
            }
            errors.extend(error.map(|error| (values.len(), error)));
        }
    }));
    Done { values, errors, panic: worked.err() }
}

/// Where the pieces come from.
struct Source {
    rest: Rest,
    /// Reads what cannot be taken as a range. What it finds is worked on by whoever takes it.
    by_itself: Option<Box<Reader>>,
    taken: u64,
}

/// What was not taken yet.
enum Rest {
    All(Box<Reader>),
    /// From the first of these positions to the last.
    Range(Box<Reader>, Position, Position),
    Nothing,
}

impl Source {
    fn new(reader: Reader) -> Self {
        Self { rest: Rest::All(Box::new(reader)), by_itself: None, taken: 0 }
    }

    /// The next piece, and its number.
    fn take(&mut self) -> Option<(u64, Piece)> {
        let piece = self.find().unwrap_or_else(|error| {
            (self.rest, self.by_itself) = (Rest::Nothing, None);
            Some(Piece::Found(Vec::new(), Some(error)))
        })?;
        self.taken += 1;
        Some((self.taken - 1, piece))
    }

    fn find(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some(reader) = &mut self.by_itself {
                if let Some(piece) = found(reader) {
                    return Ok(Some(piece));
                }
                self.by_itself = None;
            }
            match mem::replace(&mut self.rest, Rest::Nothing) {
                Rest::Nothing => return Ok(None),
                Rest::All(mut reader) => match if reader.is_plain() { reader.range()? } else { None } {
                    Some(range) => self.rest = Rest::Range(reader, *range.start(), *range.end()),
                    // It is found by an index, goes backward, has a limit, or has something to tell.
                    None => self.by_itself = Some(reader),
                },
                Rest::Range(reader, next, last) => {
                    let share = split::share(reader.log(), next, PIECE, PIECE_BYTES)?;
                    let (Share::Range(end) | Share::Walk(end)) = share;
                    let end = end.min(last);
                    let range = Box::new(reader.of_range(next..=end, self.taken > 0));
                    if end < last {
                        self.rest = Rest::Range(reader, end.next(), last);
                    }
                    match share {
                        Share::Range(_) => return Ok(Some(Piece::Range(range))),
                        Share::Walk(_) => self.by_itself = Some(range),
                    }
                }
            }
        }
    }
}

/// The next events of a reader, up to the first error.
fn found(reader: &mut Reader) -> Option<Piece> {
    let (mut places, mut bytes) = (Vec::new(), 0);
    while places.len() < PIECE as usize && bytes < PIECE_BYTES {
        match reader.next_place() {
            Some(Ok((segment, place))) => {
                bytes += u64::from(place.len());
                places.push((segment.clone(), place));
            }
            Some(Err(error)) => return Some(Piece::Found(places, Some(error))),
            None => break,
        }
    }
    (!places.is_empty()).then_some(Piece::Found(places, None))
}
