//! A store on a disk that fails, driven step by step on one thread: everything that happens comes from a seed, so each
//! run can be had again. For this package's own tests and examples; it may change or go in any release.
//!
//! `chance` draws, `platter` is what the disk holds, `disk` and `file` are what a process sees of it, `faults` is what goes
//! wrong. `world` lives through a seed, `model` says what may be seen of the log, and `consumers` what may be seen of
//! those who read it; `history` lets go of what is old, and `removals` removes events from streams. `scenes` plays again what
//! once went wrong.
//!
//! What the model still allows, though a stricter one might tell it apart: where a disk lied, any end behind what lasted before, and
//! any of the removals; where it changed bytes and something lies in `quarantine/`, an early end, without comparing the two. A key
//! is not tried with other content once something was removed, as nobody knows whose the gap behind its commit is. A removal whose
//! outcomes look the same is taken for either. Limits on bytes, standing retention and readers in other processes are not simulated.

mod chance;
mod consumers;
#[cfg(test)]
mod copied;
mod disk;
mod faults;
mod file;
mod history;
mod meddle;
mod model;
mod opening;
mod platter;
mod removals;
#[cfg(test)]
mod scenes;
mod world;

use std::fmt;
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::panic_text;
pub use crate::simulation::faults::Weakness;
use crate::simulation::world::World;

/// What was simulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Seeds.
    pub seeds: u64,
    /// Operations of disks: each is a place where the process may end.
    pub operations: u64,
    /// How often it ended.
    pub ends: u64,
    /// With how many of those the power went.
    pub power_cuts: u64,
    /// How many of those cut opening short.
    pub cut_recoveries: u64,
    /// Faults that operations met.
    pub faults: u64,
    /// How often the store was opened, and looked through.
    pub opened: u64,
    /// Events that were acknowledged.
    pub acknowledged: u64,
    /// How often an event that was to outlast the end of a process was looked for after it.
    pub expected: u64,
    /// How many of those were missing, and nothing was told of them.
    pub lost: u64,
    /// Events that were compared with what was written, byte by byte.
    pub compared: u64,
    /// How many of those were wrong.
    pub wrong: u64,
    /// Published events that a power cut took, as their durability allows.
    pub taken: u64,
    /// Stores that told of what a medium did.
    pub told: u64,
    /// Media that said they had what they never wrote, with nothing left to show it: what went is behind everything that
    /// lasted before.
    pub lied: u64,
    /// Segments that were let go of.
    pub let_go: u64,
    /// Dead letters that were handed out again.
    pub redriven: u64,
    /// Events that were asked to be removed from their streams.
    pub removed: u64,
    /// How often that was to go from the files.
    pub purges: u64,
    /// Media that changed the end of the log so that it looks torn: it is in `quarantine/`.
    pub looks_torn: u64,
}

/// A seed in which something was seen that may not be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What was seen.
    pub why: String,
    /// What was simulated up to there.
    pub figures: Figures,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.operations += other.operations;
        self.ends += other.ends;
        self.power_cuts += other.power_cuts;
        self.cut_recoveries += other.cut_recoveries;
        self.faults += other.faults;
        self.opened += other.opened;
        self.acknowledged += other.acknowledged;
        self.expected += other.expected;
        self.lost += other.lost;
        self.compared += other.compared;
        self.wrong += other.wrong;
        self.taken += other.taken;
        self.told += other.told;
        self.lied += other.lied;
        self.looks_torn += other.looks_torn;
        self.let_go += other.let_go;
        self.redriven += other.redriven;
        self.removed += other.removed;
        self.purges += other.purges;
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("seeds", self.seeds),
            ("crash points passed", self.operations),
            ("processes ended", self.ends),
            ("  of these by power cut", self.power_cuts),
            ("  of these while opening", self.cut_recoveries),
            ("faults injected", self.faults),
            ("stores opened and checked", self.opened),
            ("events acknowledged", self.acknowledged),
            ("lasting events looked for", self.expected),
            ("  lost", self.lost),
            ("events compared byte by byte", self.compared),
            ("  wrong", self.wrong),
            ("events taken as durability allows", self.taken),
            ("old segments let go of", self.let_go),
            ("dead letters redriven", self.redriven),
            ("events removed from streams", self.removed),
            ("purges begun", self.purges),
            ("damage told", self.told),
            ("  ends that damage made look torn", self.looks_torn),
            ("lies of a medium with no trace", self.lied),
        ];
        for (at, (name, number)) in rows.iter().enumerate() {
            let end = if at + 1 < rows.len() { "\n" } else { "" };
            write!(f, "{name:<34}{number:>12}{end}")?;
        }
        Ok(())
    }
}

/// What this simulation does. An earlier edition leaves out what came later, so that most of its seeds are the runs that they were,
/// as far as the store takes the same steps: 1 is all that no later one names, 2 removes events from streams.
pub const EDITION: u32 = 2;

/// Lives through a seed.
///
/// # Errors
/// What was seen that may not be seen.
pub fn run(seed: u64) -> Result<Figures, Box<Failed>> {
    lives(World::new(seed, None, EDITION))
}

/// The same as of an [edition](EDITION).
///
/// # Errors
/// As [`run`].
pub fn run_as_of(edition: u32, seed: u64) -> Result<Figures, Box<Failed>> {
    lives(World::new(seed, None, edition))
}

/// The same with something weaker than it should be, for controls.
///
/// # Errors
/// As [`run`].
pub fn run_weakened(seed: u64, weakness: Option<Weakness>) -> Result<Figures, Box<Failed>> {
    lives(World::new(seed, weakness, EDITION))
}

fn lives(mut world: World) -> Result<Figures, Box<Failed>> {
    let lived = catch_unwind(AssertUnwindSafe(|| world.live()));
    let told = world.disk.told();
    let (compared, wrong) = (world.model.compared.get(), world.model.wrong.get());
    let figures =
        Figures { seeds: 1, operations: told.operations, faults: told.faults, compared, wrong, ..world.figures };
    // What a panic left behind is not to be touched.
    let why = match lived {
        Ok(Ok(())) => return Ok(figures),
        Ok(Err(why)) => why,
        Err(panic) => format!("it panicked: {}", panic_text(&*panic)),
    };
    let setup = world.setup;
    std::mem::forget(world);
    Err(Box::new(Failed { why: format!("{why} ({setup:?})"), figures }))
}
