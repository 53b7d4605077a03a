//! What goes wrong on a simulated disk, and how a disk is weakened for controls.

use crate::simulation::chance::Chance;

/// A fault that an operation can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A write fails with nothing written.
    Write,
    /// A write is cut short, and the rest fails.
    ShortWrite,
    /// A sync fails. Some pages are written, the others count as clean and are lost.
    Sync,
    /// The kernel could not write a page by itself: it counts as clean and is lost, and the next sync says so.
    WriteBack,
    /// Making, renaming, removing or cutting a file fails.
    Names,
    /// Syncing a directory fails.
    DirectorySync,
    /// Reading, or opening, fails.
    Read,
    /// There is no room, for so many operations that need some.
    Full(u64),
    /// A bit turns on the disk.
    Rot,
    /// A page goes where another one belongs.
    Misdirected,
    /// The disk says that it has a page, and never writes it.
    Lost,
}

impl Fault {
    /// One that a working disk may show.
    pub(super) fn any(chance: &mut Chance) -> Self {
        let room = Fault::Full(chance.from(1..=4));
        let all = [
            Fault::Write,
            Fault::ShortWrite,
            Fault::Sync,
            Fault::Sync,
            Fault::WriteBack,
            Fault::Names,
            Fault::DirectorySync,
            Fault::Read,
            room,
            room,
        ];
        *chance.pick(&all).unwrap_or(&room)
    }

    /// One that no disk should show.
    pub(super) fn of_medium(chance: &mut Chance) -> Self {
        *chance.pick(&[Fault::Rot, Fault::Misdirected, Fault::Lost]).unwrap_or(&Fault::Rot)
    }
}

/// What an operation is, for faults that wait for one of their kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Write,
    Sync,
    Names,
    DirectorySync,
    Allocate,
    Store,
    Read,
}

impl Kind {
    /// Whether a fault is for an operation of this kind.
    pub(super) fn meets(self, fault: Fault) -> bool {
        match fault {
            Fault::Write | Fault::ShortWrite => self == Kind::Write,
            Fault::Sync | Fault::Misdirected | Fault::Lost => self == Kind::Sync,
            Fault::WriteBack | Fault::Rot => true,
            Fault::Names => self == Kind::Names,
            Fault::DirectorySync => self == Kind::DirectorySync,
            Fault::Read => self == Kind::Read,
            Fault::Full(_) => matches!(self, Kind::Allocate | Kind::Names),
        }
    }
}

/// A disk, or a store, that is weaker than it should be. The simulation has to find each out.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weakness {
    /// Syncing a file does nothing.
    NoSync,
    /// Syncing a directory does nothing.
    NoDirectorySync,
    /// Syncing what recovery writes again does nothing: as if it believed the cache.
    CopiesUnsynced,
    /// After a power cut every frame is given a checksum that fits: as if nobody looked at checksums.
    NoChecksums,
    /// After a power cut a commit that was cut short is closed with what there is of it: as if recovery kept torn tails.
    TornTailKept,
    /// The cursor's checkpoint is kept outside the log, and written at once.
    CheckpointOutside,
    /// Results are written first, and the checkpoint with a commit of its own.
    TwoCommits,
    /// What was removed goes from segments before the record that says so is on the disk.
    RemovalUnsynced,
    /// A segment that is written again lacks an event that was not removed.
    PurgesTooMuch,
    /// Syncing a segment that is written again does nothing, and it takes its place all the same.
    PurgedUnsynced,
}
