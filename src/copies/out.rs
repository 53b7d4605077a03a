//! A segment that is written frame by frame into a copy.

use crate::error::Result;
use crate::format::PAGE;
use crate::format::control::{Control, WHY};
use crate::format::frame::{self, Frame, Place, Staged, flag};
use crate::format::gap::{Gap, MOST, Reason};
use crate::format::header::{self, Header, Previous};
use crate::id::{Position, Revision, Timestamp};
use crate::segment::disk::{Directory, File, Prepared};
use crate::sync::primitive::Arc;

/// How much is written in one go.
const AT_ONCE: usize = 1 << 20;

/// A gap takes at most this much.
pub(super) const GAP: u64 = 2048;

/// A file on its way, under a temporary name.
pub(super) struct Copy<'a> {
    name: &'a str,
    pub(super) file: Arc<dyn File>,
}

impl<'a> Copy<'a> {
    pub(super) fn begin(to: &dyn Directory, name: &'a str, room: u64) -> Result<Self> {
        let temporary = format!("{name}.tmp");
        to.remove(&temporary)?;
        let file = to.create(&temporary)?;
        file.allocate(room, Prepared::Allocated)?;
        Ok(Self { name, file })
    }

    pub(super) fn finish(self, to: &dyn Directory, len: u64) -> Result<()> {
        self.file.truncate(len)?;
        self.file.sync()?;
        to.rename(&format!("{}.tmp", self.name), self.name)
    }
}

/// A segment that is written frame by frame.
pub(super) struct Out {
    header: Header,
    name: String,
    file: Arc<dyn File>,
    written: u64,
    buffer: Vec<u8>,
    last_crc: u32,
}

impl Out {
    pub(super) fn begin(to: &dyn Directory, header: Header, room: u64) -> Result<Self> {
        let name = header::file_name(header.first);
        let file = Copy::begin(to, &name, PAGE as u64 + GAP + room)?.file;
        Ok(Self { header, name, file, written: PAGE as u64, buffer: Vec::new(), last_crc: 0 })
    }

    /// The control state, behind these segments.
    pub(super) fn head(&mut self, records: &[Control], firsts: &[Position], time: Timestamp) -> Result<()> {
        let rest = records.iter().filter(|record| !matches!(record, Control::Segments(_)));
        let mut left = rest.clone().count();
        self.control(&Control::Segments(firsts.to_vec()), self.header.first, time, left > 0)?;
        for record in rest {
            left -= 1;
            self.control(record, self.header.first, time, left > 0)?;
        }
        Ok(())
    }

    /// A gap where positions are lost; of none where only records about consumers are.
    pub(super) fn gap(&mut self, first: Position, positions: u64, why: &str, time: Timestamp) -> Result<()> {
        let end = first.get() + positions;
        let mut from = first.get();
        let mut why = why.to_owned();
        while why.len() > WHY {
            why.pop();
        }
        loop {
            let positions = (end - from).min(MOST);
            let gap = Gap { reason: Reason::Lost, positions, why: why.clone() };
            self.control(&Control::Gap(gap), Position::new(from), time, false)?;
            from += positions;
            if from >= end {
                return Ok(());
            }
        }
    }

    fn control(&mut self, record: &Control, position: Position, time: Timestamp, has_more: bool) -> Result<()> {
        let start = self.buffer.len();
        frame::stage_control(&mut self.buffer, &record.encode());
        let flags = if has_more { flag::MORE } else { 0 };
        self.close(start, Place { position, revision: Revision::ABSENT, time, flags })
    }

    /// The same frame, with the checksum that it has here.
    pub(super) fn frame(&mut self, frame: Frame<'_>) -> Result<()> {
        let start = self.buffer.len();
        frame.put_into(&mut self.buffer);
        let flags = frame.flags() & (flag::MORE | flag::SYNCED);
        self.close(start, Place { position: frame.position(), revision: frame.revision(), time: frame.time(), flags })
    }

    fn close(&mut self, start: usize, place: Place) -> Result<()> {
        let len = Staged::at(&self.buffer, start).len();
        self.last_crc = frame::finish(&mut self.buffer[start..start + len], place, self.header.nonce);
        if self.buffer.len() >= AT_ONCE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.file.may_grow_to(self.written + self.buffer.len() as u64)?;
        self.file.write_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    pub(super) fn finish(mut self, to: &dyn Directory) -> Result<Previous> {
        self.flush()?;
        self.file.write_at(&header::encode(&self.header), 0)?;
        Copy { name: &self.name, file: self.file }.finish(to, self.written)?;
        Ok(Previous { first: self.header.first, end: self.written, last_crc: self.last_crc })
    }
}
