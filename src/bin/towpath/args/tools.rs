//! What operators' tools take.

use std::path::PathBuf;

pub(crate) const VERIFY_HELP: &str = "\
Without an option: every checksum of every file, order and revisions of the events, whole commits, how segments follow each other,
and that each begins with its control state, in which no consumer is ahead of the log. Left out: whether index files
say what the events say, payloads, and the revisions of streams behind the first four million.

--fast: headers, how segments follow each other, heads of index files; all of the newest segment, and of at most three others,
chosen at random each time. It says what it left out.

--deep: everything, index files made again in memory and compared, revisions of all streams in bounded memory (it may read the
events several times), and payloads decoded: JSON and MessagePack.

Works beside a live writer, and changes nothing.

Exit status: 0 when nothing is damaged, 1 when something is, 2 when there is no store that could be read. Positions that are
written down as lost, and bytes of a commit that a crash cut short, are told and are no damage. With --json an object: `ok`,
`events` and `damage` (each `segment`, `offset`, `position`, `what`); with --fast `segments` and `segments_read`; and where there
are any `torn_bytes`, `removed` (positions) and `lost` (each `first`, `positions`, `why`).";

pub(crate) const BACKUP_HELP: &str = "\
TO becomes a store like DIR, as DIR was when this began; it can be read and verified where it stands. Said again, it brings TO up to
date: what TO has of sealed segments is kept, new ones share their blocks with DIR's where the file system can do that, or are
copied. A writer of DIR is not held up.

The new backup is made in TO.part, synced, checked as `verify --fast` does, and then takes the place of the one before it at once:
one that is cut short leaves that as it was, and the next goes on with what is there. So does one whose check finds damage: repair
DIR, or choose another directory to have the damage, too. With --verify every checksum is checked once it stands in its place. What
that finds is damaged in DIR, too, or has rotted in TO since: then remove TO, and make the backup anew.

Exit status: 0 good, 1 when something in the backup is damaged, 2 when there is no new backup.
With --json an object: `store`, `head`, `kept`, `shared`, `copied`, `bytes_copied`, `resumed`, `damage`.";

pub(crate) const RESTORE_HELP: &str = "\
Checks every byte before TO takes its place. TO is the same store, with its id, as it was when the backup was made. What was
written after that is gone, and its positions are given to other events: servers and files that leave out what they have, by store
and position, take the new ones for old.

Exit status: 0 good, 1 when the store is there and something in it is damaged, 2 when there is none. With --json an object: `store`,
`head`, `kept` (of an attempt that was cut short), `shared`, `copied`, `bytes_copied`, `damage`.";

pub(crate) const FORK_HELP: &str = "\
TO becomes an independent store with the history of DIR up to POSITION, inclusive; when that stands within a commit, up to the commit
before. Both can be written to afterwards. Its id is another one; events keep positions, revisions and times.

Consumers, groups and dead letters are those of that moment: what they did since in DIR they do again in TO. Remove those that should
not, by `consumers rm`, before anything runs on TO. A writer of DIR is not held up.

Exit status: 0 good, 1 when the fork is there and something in it is damaged (it is in DIR, too), 2 when there is none. With --json an
object: `store`, `head`, `shared`, `copied`, `bytes_copied`, `damage`.";

#[derive(clap::Args)]
#[command(after_help = FORK_HELP)]
pub(crate) struct Fork {
    /// The store's directory
    pub(crate) dir: PathBuf,
    /// Where to make the new store; must be empty, or not there yet
    pub(crate) to: PathBuf,
    /// The last event that it is to have
    #[arg(long, value_name = "POSITION")]
    pub(crate) at: u64,
}

pub(crate) const REPAIR_HELP: &str = "\
Without --yes nothing is written: it tells, stretch by stretch, which positions would be kept and which are lost, where and why; which
consumers would be put back to where they surely were; and which files are not what they should be.

With --yes what is whole is written to DIR.repaired, or to the directory that --to names. DIR is never changed. The repaired store keeps the id, and
every event its position. Where events are lost readers are told so, for exactly these positions, and it opens for writing.
When DIR is whole nothing is written.

That events were removed (`towpath stream`) is a record, too, until they are taken out of the files. Where that record may be lost it is
told: then such events are there again in the repaired store, and are to be removed again.

Exit status: without --yes 0 when nothing is damaged, 1 when something is; with it 0 when the repaired store is there and sound, or
DIR was whole, 1 when it is there and a check still finds something; 2 when there is none. With --json an object: `oldest`, `head`, `events`, `lost` (each
`segment`, `offset`, `length`, `first`, `positions`, `records`, `why`), `put_back` (each `consumer`, `next`), `may_bring_back` (whether a record of a removal may be lost), `files` (each `file`,
`what`), `torn_bytes`, and once written `to` and `damage`.";

pub(crate) const DOCTOR_HELP: &str = "\
Works beside a live writer and changes nothing. It does not check the events: that is `verify`.

Something to look at, which makes the exit status 1, and is told with what to do about it:

  consumer      it is --behind positions or more behind the head, or what it was handed out is --older and not settled
  dead letters  they stand, and nobody has redriven or dropped them
  disk          less than a twentieth of it, or less than 256 MiB, is free
  file system   one in memory, over a network, or without a journal, where syncing is not what it is on a disk of one's own
  modes         somebody else than the owner may do something with a file or the directory
  quarantine    recovery has cut something off that nobody has looked at yet

With --json an object: `ok`, `writer` (`process`, `since`, `lives`, `closed`; or null), `head`, `durable`, `at_risk` (events that a power
cut now may take), `longest_unsynced` (how many stood unsynced at once in the newest segment, at the most), `used`, `free`, `total`,
`file_system`, `consumers` (each `name`, `kind`, `lag`, `in_flight`, `waiting`, `dead`, `paused`, `oldest_handed_out`), `quarantined`,
and `findings` (each `about`, `what`, `remedy`).";

#[derive(clap::Args)]
#[command(after_help = DOCTOR_HELP)]
pub(crate) struct Doctor {
    /// The store's directory
    pub(crate) dir: PathBuf,
    /// How many positions a consumer may be behind
    #[arg(long, value_name = "POSITIONS", default_value_t = 10_000)]
    pub(crate) behind: u64,
    /// How many seconds a delivery may be unsettled after it was handed out
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
    pub(crate) older: u64,
}

#[derive(clap::Args)]
#[command(after_help = REPAIR_HELP)]
pub(crate) struct Repair {
    /// The store's directory
    pub(crate) dir: PathBuf,
    /// Write the repaired store
    #[arg(long)]
    pub(crate) yes: bool,
    /// Where to write it, instead of DIR.repaired; must be empty, or not there yet
    #[arg(long, requires = "yes")]
    pub(crate) to: Option<PathBuf>,
}

#[derive(clap::Args)]
#[command(after_help = VERIFY_HELP)]
pub(crate) struct Verify {
    /// The store's directory
    pub(crate) dir: PathBuf,
    /// Look at headers, the newest segment and a sample
    #[arg(long, conflicts_with = "deep")]
    pub(crate) fast: bool,
    /// Make every index again and compare, decode every payload
    #[arg(long)]
    pub(crate) deep: bool,
}

#[derive(clap::Args)]
#[command(after_help = BACKUP_HELP)]
pub(crate) struct Backup {
    /// The store's directory
    pub(crate) dir: PathBuf,
    /// The backup's directory; the one it lies in has to be there
    pub(crate) to: PathBuf,
    /// Check every checksum of the backup, not just a sample
    #[arg(long)]
    pub(crate) verify: bool,
}

#[derive(clap::Args)]
#[command(after_help = RESTORE_HELP)]
pub(crate) struct Restore {
    /// The backup's directory
    pub(crate) from: PathBuf,
    /// Where to make the store; must be empty, or not there yet
    pub(crate) to: PathBuf,
}
