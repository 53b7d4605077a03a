//! UmaDB's core: events with tags in a copy-on-write tree; the stream is a tag.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::sync::{mpsc, oneshot, watch};
use umadb_core::db::UmaDb;
use umadb_core::mvcc::{Mvcc, StorageOptions};
use umadb_core::writer_thread_blocking::writer_thread_blocking;
use umadb_core::writer_thread_request::WriterThreadRequest;
use umadb_dcb::{DcbEvent, DcbEventStoreSync, DcbQuery, DcbQueryItem, DcbResult, DcbSequencedEvent};

use crate::events::{Commit, TYPE};
use crate::store::{Producer, Profile, Purpose, Seen, Store, Tail, Visitor, Waits, poll};

/// Events that are read together: it reads a page whole before it hands out the first.
const PAGE: u32 = 1_000;
/// Requests that wait for the writer's thread.
const QUEUE: usize = 4_096;
/// Events that the writer's thread commits together.
const GROUP: usize = 4_096;

type Answer = oneshot::Receiver<DcbResult<u64>>;

pub struct Umadb {
    database: UmaDb,
    /// Started for those who pipeline, and for several threads.
    writer: Option<Writer>,
    waiting: VecDeque<Answer>,
}

struct Writer {
    requests: mpsc::Sender<WriterThreadRequest>,
    head: watch::Receiver<Option<u64>>,
    thread: JoinHandle<()>,
}

impl Store for Umadb {
    type Producer = Requests;
    type Tail = Heads;

    const PROFILE: Profile = Profile {
        key: "umadb",
        name: "UmaDB core",
        package: "umadb-core",
        kind: "event store",
        checks: Some("CRC-32 of every page"),
        unsynced_batches: false,
        unsynced_singles: false,
        synced: true,
        pipelined: true,
        producers: true,
        streams: true,
        revisions: false,
        replays_again: true,
        waits: Waits::Polls,
        settings: &[
            "It syncs every commit, and cannot do otherwise.",
            "`UmaDb::append` where one thread waits; its writer's thread, which commits in groups, for pipelining and several threads.",
            "Defaults: `ReadMethod::FileIo`, no cache of pages, one writer without a pipeline. Read 1,000 events at a time.",
            "The stream is the event's one tag; there are no revisions.",
        ],
    };

    fn open(dir: &Path, _purpose: Purpose) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let options = StorageOptions::default().db_path(dir);
        let database = UmaDb::from_arc(Arc::new(Mvcc::new(false, options)?));
        Ok(Self { database, writer: None, waiting: VecDeque::new() })
    }

    fn append(&mut self, commit: &Commit<'_>) -> Result<()> {
        match &self.writer {
            None => self.database.append(events(commit), None, None).map(drop)?,
            Some(writer) => answered(request(&writer.requests, commit)?)?,
        }
        Ok(())
    }

    fn submit(&mut self, commit: &Commit<'_>) -> Result<()> {
        let answer = request(&self.writer().requests, commit)?;
        self.waiting.push_back(answer);
        if self.waiting.len() > QUEUE {
            self.waiting.pop_front().map(answered).transpose()?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.waiting.drain(..).try_for_each(answered)
    }

    fn replay(&mut self, visitor: &mut impl Visitor) -> Result<()> {
        self.read(None, visitor)
    }

    fn stream(&mut self, name: &str, visitor: &mut impl Visitor) -> Result<()> {
        self.read(Some(DcbQuery::new().item(DcbQueryItem::new().tags([name]))), visitor)
    }

    fn producer(&mut self) -> Result<Requests> {
        Ok(Requests { requests: self.writer().requests.clone() })
    }

    fn tail(&mut self) -> Result<Heads> {
        let head = self.writer().head.clone();
        let next = self.database.head()?.unwrap_or(0) + 1;
        Ok(Heads { database: UmaDb::from_arc(Arc::clone(&self.database.mvcc)), head, next })
    }

    fn close(self) -> Result<()> {
        let Some(writer) = self.writer else { return Ok(()) };
        writer.requests.blocking_send(WriterThreadRequest::Shutdown).context("UmaDB's writer is gone")?;
        writer.thread.join().map_err(|_| anyhow!("UmaDB's writer panicked"))
    }
}

impl Umadb {
    fn writer(&mut self) -> &Writer {
        let mvcc = &self.database.mvcc;
        self.writer.get_or_insert_with(|| {
            let (requests, incoming) = mpsc::channel(QUEUE);
            let (published, head) = watch::channel(None);
            let mvcc = Arc::clone(mvcc);
            let thread = thread::spawn(move || writer_thread_blocking(mvcc, incoming, published, GROUP));
            Writer { requests, head, thread }
        })
    }

    fn read(&self, query: Option<DcbQuery>, visitor: &mut impl Visitor) -> Result<()> {
        let mut start = None;
        loop {
            let mut page = self.database.read(query.clone(), start, false, Some(PAGE))?;
            let (mut count, mut last) = (0, 0);
            for event in page.by_ref() {
                let event = event?;
                (count, last) = (count + 1, event.position);
                visitor.event(&event);
            }
            if count < PAGE {
                return Ok(());
            }
            start = Some(last + 1);
        }
    }
}

/// What several threads append through.
pub struct Requests {
    requests: mpsc::Sender<WriterThreadRequest>,
}

impl Producer for Requests {
    fn append(&mut self, commit: &Commit<'_>) -> Result<()> {
        answered(request(&self.requests, commit)?)
    }
}

pub struct Heads {
    database: UmaDb,
    head: watch::Receiver<Option<u64>>,
    next: u64,
}

impl Tail for Heads {
    fn next(&mut self, patience: Duration, payload: &mut impl FnMut(&[u8])) -> Result<u64> {
        // Its writer tells the head through a channel that only an async task can wait for.
        let Self { database, head, next } = self;
        poll(patience, || {
            if head.borrow().is_none_or(|head| head < *next) {
                return Ok(0);
            }
            let mut count = 0;
            for event in database.read(None, Some(*next), false, None)? {
                let event = event?;
                payload(&event.event.data);
                *next = event.position + 1;
                count += 1;
            }
            Ok(count)
        })
    }
}

impl Seen for DcbSequencedEvent {
    fn payload(&self) -> &[u8] {
        &self.event.data
    }

    fn stream(&self) -> Option<&str> {
        self.event.tags.first().map(String::as_str)
    }

    fn revision(&self) -> Option<u64> {
        None
    }
}

fn events(commit: &Commit<'_>) -> Vec<DcbEvent> {
    let event = |event: crate::events::Draft<'_>| DcbEvent {
        event_type: TYPE.to_owned(),
        tags: vec![event.stream.to_owned()],
        data: event.payload.to_vec(),
        uuid: None,
        metadata: Vec::new(),
    };
    commit.events().map(event).collect()
}

fn request(requests: &mpsc::Sender<WriterThreadRequest>, commit: &Commit<'_>) -> Result<Answer> {
    let (response_tx, answer) = oneshot::channel();
    let append = WriterThreadRequest::Append {
        events: events(commit),
        condition: None,
        tracking_info: None,
        response_tx,
        cancel: None,
    };
    requests.blocking_send(append).map_err(|_| anyhow!("UmaDB's writer is gone"))?;
    Ok(answer)
}

fn answered(answer: Answer) -> Result<()> {
    answer.blocking_recv().context("UmaDB's writer is gone")??;
    Ok(())
}
