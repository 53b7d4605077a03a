//! New segments: made ready ahead of the writer under a temporary name, and begun when the writer gets there.

use std::sync::Arc;

use crate::error::Result;
use crate::format::PAGE;
use crate::format::control::Control;
use crate::format::frame::{self, Nonce, Place, Staged};
use crate::format::header::{self, Header, Previous};
use crate::id::{Position, Revision, StoreId, Timestamp};
use crate::segment::disk::{Directory, File, Prepared};
use crate::segment::map::{Access, Map};
use crate::segment::{Pen, Segment};

/// What a segment is called before it has a position.
pub(crate) const SPARE_NAME: &str = "spare.tmp";

/// The first segment of a store is this small, so that a small store is small on disk.
pub(crate) const SMALLEST: u64 = if cfg!(test) { 64 << 10 } else { 1 << 20 };

/// A file with room for a segment, not part of the log yet.
#[derive(Debug)]
pub(crate) struct Spare {
    file: Arc<dyn File>,
    map: Map,
}

/// A whole segment that has no name of its own yet.
#[derive(Debug)]
pub(crate) struct Unnamed {
    header: Header,
    file: Arc<dyn File>,
    map: Map,
    end: u64,
    synced: bool,
}

/// How segments of this store are made and written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) prepared: Prepared,
    /// Whether a new segment has to be on the disk before anything is written into it.
    pub(crate) synced: bool,
    /// The largest size of a segment, unless one commit needs more.
    pub(crate) largest: u64,
}

/// What a new segment says of the log before it.
#[derive(Clone, Debug)]
pub(crate) struct Beginning {
    pub(crate) store: StoreId,
    pub(crate) first: Position,
    pub(crate) previous: Option<Previous>,
    pub(crate) durable: Position,
    pub(crate) time: Timestamp,
    /// The live control state.
    pub(crate) records: Vec<Control>,
    /// Everything before it is on the disk, control records too.
    pub(crate) all_durable: bool,
}

impl Spare {
    /// Makes room for a segment of `size` bytes. Nothing is left behind when that fails.
    pub(crate) fn prepare(directory: &dyn Directory, size: u64, manner: Manner) -> Result<Self> {
        directory.remove(SPARE_NAME)?;
        let file = directory.create(SPARE_NAME)?;
        let made = file.allocate(size, manner.prepared).and_then(|()| file.map(size, Access::Read));
        match made {
            Ok(map) => Ok(Self { file, map }),
            Err(error) => {
                directory.remove(SPARE_NAME)?;
                Err(error)
            }
        }
    }

    pub(crate) fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    pub(crate) fn size(&self) -> u64 {
        self.map.len()
    }

    /// Writes what stands at the head of the segment that follows. On error the log is as it was.
    pub(crate) fn begin(self, directory: &dyn Directory, beginning: Beginning, manner: Manner) -> Result<Unnamed> {
        let header = Header {
            store: beginning.store,
            nonce: random_nonce(directory)?,
            first: beginning.first,
            previous: beginning.previous,
            created: beginning.time,
            durable: beginning.durable,
            rewritten: None,
        };
        let state = encode_state(&beginning, header.nonce);
        self.file.write_at(&header::encode(&header), 0)?;
        self.file.write_at(&state, PAGE as u64)?;
        if manner.synced {
            self.file.sync()?;
        }
        let end = (PAGE + state.len()) as u64;
        Ok(Unnamed { header, file: self.file, map: self.map, end, synced: manner.synced })
    }
}

impl Unnamed {
    /// Makes it the newest segment. When there was no room for the name the log is as it was. After any other error it may
    /// be the newest or not, and may be so again after a power cut: nothing may be written behind the segment before it.
    pub(crate) fn take_name(self, directory: &dyn Directory) -> Result<(Arc<Segment>, Pen)> {
        directory.rename(SPARE_NAME, &header::file_name(self.header.first))?;
        if self.synced {
            directory.sync()?;
        }
        Ok(Segment::created(self.header, self.file, self.map, self.end))
    }
}

/// The size of the segment after so many bytes of log: small stores stay small, large ones get large segments.
pub(crate) fn next_size(log_bytes: u64, needed: u64, largest: u64) -> u64 {
    let grown = log_bytes.clamp(SMALLEST.min(largest), largest).next_power_of_two().min(largest);
    grown.max(needed + PAGE as u64).next_multiple_of(PAGE as u64)
}

/// The bytes that the control state takes at the head of a segment.
pub(crate) fn state_size(records: &[Control]) -> u64 {
    records.iter().map(|record| frame::padded(frame::HEADER + record.encode().len()) as u64).sum()
}

/// The control state as one commit.
fn encode_state(beginning: &Beginning, nonce: Nonce) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, record) in beginning.records.iter().enumerate() {
        let start = out.len();
        frame::stage_control(&mut out, &record.encode());
        let more = if at + 1 < beginning.records.len() { frame::flag::MORE } else { 0 };
        let synced = if start == 0 && beginning.all_durable { frame::flag::SYNCED } else { 0 };
        let flags = more | synced;
        let place = Place { position: beginning.first, revision: Revision::ABSENT, time: beginning.time, flags };
        let len = Staged::at(&out, start).len();
        frame::finish(&mut out[start..start + len], place, nonce);
    }
    out
}

/// A number that no other segment is likely to have.
pub(crate) fn random_nonce(directory: &dyn Directory) -> Result<Nonce> {
    let mut bytes = [0; 4];
    directory.random(&mut bytes)?;
    Ok(Nonce(u32::from_le_bytes(bytes) | 1))
}
