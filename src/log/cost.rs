//! What reading costs, counted: how much of the log and of its indexes was looked at.
//!
//! A walk counts the frames that it passes by itself, without an atomic. Whoever asks an index counts for the thread that
//! asks, because a question goes through several layers; the walk takes what was counted since.

use std::cell::Cell;
use std::ops::{AddAssign, Sub};
use std::sync::Arc;

use crate::log::counts::Count;
use crate::sync::primitive::thread_local;

/// What reading has cost so far: of one reader ([`Reader::cost`](crate::Reader::cost)), or of all
/// ([`Counters::read`](crate::Counters::read)).
///
/// What is looked at twice counts twice. Searching for the end of a damaged stretch is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadCost {
    /// Segments that were gone into.
    pub segments: u64,
    /// Frames that were looked at: checksum computed, names checked, handed out or not. Events and control records.
    pub frames: u64,
    /// The bytes of these frames, with their padding.
    pub frame_bytes: u64,
    /// Bytes of index that answers were looked for in: of an index file the entries, of a tier the pages, of an index in
    /// memory the entries that were followed.
    pub index_bytes: u64,
    /// Bytes of frames that an index in memory took in first. Each frame is taken in at most once while its segment has no
    /// index file, and whoever asks first pays for it.
    pub indexed_bytes: u64,
}

impl AddAssign for ReadCost {
    fn add_assign(&mut self, other: Self) {
        self.segments += other.segments;
        self.frames += other.frames;
        self.frame_bytes += other.frame_bytes;
        self.index_bytes += other.index_bytes;
        self.indexed_bytes += other.indexed_bytes;
    }
}

impl Sub for ReadCost {
    type Output = Self;

    /// What has come since `before`.
    fn sub(self, before: Self) -> Self {
        Self {
            segments: self.segments.wrapping_sub(before.segments),
            frames: self.frames.wrapping_sub(before.frames),
            frame_bytes: self.frame_bytes.wrapping_sub(before.frame_bytes),
            index_bytes: self.index_bytes.wrapping_sub(before.index_bytes),
            indexed_bytes: self.indexed_bytes.wrapping_sub(before.indexed_bytes),
        }
    }
}

impl ReadCost {
    /// Another frame was looked at.
    #[inline]
    pub(crate) fn frame(&mut self, stride: usize) {
        self.frames += 1;
        self.frame_bytes += stride as u64;
    }
}

/// What this thread has asked so far, a cell a number: all of them as one would be written and read in pieces of different
/// sizes, which makes a processor wait.
struct Asked {
    segments: Cell<u64>,
    frames: Cell<u64>,
    frame_bytes: Cell<u64>,
    index_bytes: Cell<u64>,
    indexed_bytes: Cell<u64>,
}

thread_local! {
    static ASKED: Asked = const {
        Asked {
            segments: Cell::new(0),
            frames: Cell::new(0),
            frame_bytes: Cell::new(0),
            index_bytes: Cell::new(0),
            indexed_bytes: Cell::new(0),
        }
    };
}

/// Counts bytes of index for the thread that asks.
#[inline]
pub(crate) fn index_bytes(bytes: usize) {
    ASKED.with(|asked| asked.index_bytes.set(asked.index_bytes.get() + bytes as u64));
}

/// Counts for the thread that asks.
pub(crate) fn count(cost: &ReadCost) {
    ASKED.with(|asked| {
        for (sum, number) in [
            (&asked.segments, cost.segments),
            (&asked.frames, cost.frames),
            (&asked.frame_bytes, cost.frame_bytes),
            (&asked.index_bytes, cost.index_bytes),
            (&asked.indexed_bytes, cost.indexed_bytes),
        ] {
            sum.set(sum.get() + number);
        }
    });
}

/// Does something, and moves what that counted for this thread to `cost`.
pub(crate) fn counted<T>(cost: &mut ReadCost, ask: impl FnOnce() -> T) -> T {
    let take = || {
        ASKED.with(|asked| ReadCost {
            segments: asked.segments.take(),
            frames: asked.frames.take(),
            frame_bytes: asked.frame_bytes.take(),
            index_bytes: asked.index_bytes.take(),
            indexed_bytes: asked.indexed_bytes.take(),
        })
    };
    let before = take();
    let answer = ask();
    *cost += take();
    count(&before);
    answer
}

/// What all readers of a store have cost together.
#[derive(Debug, Default)]
pub(crate) struct Costs {
    segments: Count,
    frames: Count,
    frame_bytes: Count,
    index_bytes: Count,
    indexed_bytes: Count,
}

impl Costs {
    pub(crate) fn sum(&self) -> ReadCost {
        ReadCost {
            segments: self.segments.get(),
            frames: self.frames.get(),
            frame_bytes: self.frame_bytes.get(),
            index_bytes: self.index_bytes.get(),
            indexed_bytes: self.indexed_bytes.get(),
        }
    }

    /// Looks something up and adds what that cost.
    pub(crate) fn of<T>(&self, look_up: impl FnOnce() -> T) -> T {
        let mut cost = ReadCost::default();
        let answer = counted(&mut cost, look_up);
        self.add(cost);
        answer
    }

    pub(crate) fn add(&self, cost: ReadCost) {
        for (sum, number) in [
            (&self.segments, cost.segments),
            (&self.frames, cost.frames),
            (&self.frame_bytes, cost.frame_bytes),
            (&self.index_bytes, cost.index_bytes),
            (&self.indexed_bytes, cost.indexed_bytes),
        ] {
            if number > 0 {
                sum.add(number);
            }
        }
    }
}

/// What one walk has cost, and how much of it the others know of.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) cost: ReadCost,
    told: ReadCost,
    /// `None`: it counts for its thread at the end.
    costs: Option<Arc<Costs>>,
}

impl Account {
    pub(crate) fn new(costs: Option<Arc<Costs>>) -> Self {
        Self { cost: ReadCost::default(), told: ReadCost::default(), costs }
    }

    /// Adds what is new to the sum of all.
    pub(crate) fn tell(&mut self) {
        let new = self.cost - self.told;
        match &self.costs {
            Some(costs) => costs.add(new),
            None => count(&new),
        }
        self.told = self.cost;
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.tell();
    }
}
