//! towpath itself, through its public API.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use towpath::{Canal, Cursor, Event, NewEvent, Options, Query, Reader, Start, Ticket};

use crate::events::{Commit, TYPE};
use crate::store::{Durability, Producer, Profile, Purpose, Seen, Store, Tail, Visitor, Waits};

pub struct Towpath {
    store: towpath::Store,
    /// Filled anew for each commit.
    commit: towpath::Commit,
    /// Tickets are answered in order, so that of the last commit stands for all.
    last: Option<Ticket>,
}

pub struct Handle {
    store: towpath::Store,
    commit: towpath::Commit,
}

impl Store for Towpath {
    type Producer = Handle;
    type Tail = Following;

    const PROFILE: Profile = Profile {
        key: "towpath",
        name: "towpath",
        package: "towpath",
        kind: "event store",
        checks: Some("CRC-32 of every event"),
        unsynced_batches: true,
        unsynced_singles: true,
        synced: true,
        pipelined: true,
        producers: true,
        streams: true,
        revisions: true,
        replays_again: true,
        waits: Waits::Woken,
        settings: &[
            "Defaults; `Durability::Os` and `Durability::Sync`.",
            "`submit` where it says pipelined, `append` and `commit` where it says blocking.",
        ],
    };

    fn open(dir: &Path, purpose: Purpose) -> Result<Self> {
        let durability = purpose.durability;
        let durability = match durability {
            Durability::Os => towpath::Durability::Os,
            Durability::Sync => towpath::Durability::Sync,
        };
        let store = Options::new().durability(durability).open(dir)?;
        Ok(Self { store, commit: towpath::Commit::new(), last: None })
    }

    fn append(&mut self, commit: &Commit<'_>) -> Result<()> {
        append(&self.store, &mut self.commit, commit)
    }

    fn submit(&mut self, commit: &Commit<'_>) -> Result<()> {
        fill(&mut self.commit, commit);
        self.last = Some(self.store.submit(&self.commit)?);
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.last.take().map(Ticket::wait).transpose()?;
        Ok(())
    }

    fn replay(&mut self, visitor: &mut impl Visitor) -> Result<()> {
        visit(self.store.read(Query::new()), visitor)
    }

    fn stream(&mut self, name: &str, visitor: &mut impl Visitor) -> Result<()> {
        visit(self.store.read(Query::new().stream(name)), visitor)
    }

    fn producer(&mut self) -> Result<Handle> {
        Ok(Handle { store: self.store.clone(), commit: towpath::Commit::new() })
    }

    fn tail(&mut self) -> Result<Following> {
        Ok(Following { cursor: self.store.follow().start(Start::End).open()? })
    }

    fn close(self) -> Result<()> {
        Ok(self.store.close()?)
    }
}

impl Producer for Handle {
    fn append(&mut self, commit: &Commit<'_>) -> Result<()> {
        append(&self.store, &mut self.commit, commit)
    }
}

pub struct Following {
    cursor: Cursor,
}

impl Tail for Following {
    fn next(&mut self, patience: Duration, payload: &mut impl FnMut(&[u8])) -> Result<u64> {
        let batch = self.cursor.pull_batch(64, patience)?;
        batch.iter().for_each(|event| payload(event.payload()));
        Ok(batch.len() as u64)
    }
}

impl Seen for Event<'_> {
    fn payload(&self) -> &[u8] {
        Event::payload(self)
    }

    fn stream(&self) -> Option<&str> {
        Some(Event::stream(self))
    }

    fn revision(&self) -> Option<u64> {
        // Its revisions begin at 1.
        Event::revision(self).get().checked_sub(1)
    }
}

fn append(store: &towpath::Store, filled: &mut towpath::Commit, commit: &Commit<'_>) -> Result<()> {
    if let Some(event) = commit.only() {
        store.append(event.stream, NewEvent::new(TYPE, event.payload))?;
    } else {
        fill(filled, commit);
        store.commit(filled)?;
    }
    Ok(())
}

fn fill(filled: &mut towpath::Commit, commit: &Commit<'_>) {
    filled.clear();
    for event in commit.events() {
        filled.event(event.stream, NewEvent::new(TYPE, event.payload));
    }
}

fn visit(mut reader: Reader, visitor: &mut impl Visitor) -> Result<()> {
    while let Some(event) = reader.next_borrowed() {
        visitor.event(&event?);
    }
    Ok(())
}
