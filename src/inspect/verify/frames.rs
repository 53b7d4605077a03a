//! Going through the frames: checksums, and everything that has an order.

use crate::error::Damage;
use crate::format::PAGE;
use crate::format::control::Control;
use crate::format::frame::{Found, Frame};
use crate::format::gap::Reason;
use crate::id::{Position, Timestamp};
use crate::inspect::verify::LostForGood;
use crate::inspect::verify::payload;
use crate::inspect::verify::revisions::Revisions;
use crate::inspect::verify::state::Head;
use crate::log::heads::Known;
use crate::log::parts::Part;
use crate::segment::{Segment, after};
use crate::sync::primitive::Arc;

/// How many frames are checked between two reports of progress.
const REPORT_EVERY: u64 = 1 << 16;

/// What was seen of the frames so far.
pub(super) struct Frames {
    pub(super) damage: Vec<Damage>,
    pub(super) lost: Vec<LostForGood>,
    pub(super) removed: u64,
    pub(super) events: u64,
    pub(super) revisions: Revisions,
    /// Where streams stood whose older events were let go of; `None` when that cannot be read.
    stood: Option<Arc<Known>>,
    /// Whether payloads are decoded.
    decodes: bool,
    /// Which time this is that the frames are gone through; all but revisions is checked in the first.
    pass: u64,
    time: Timestamp,
    head: Head,
    /// Revisions and times behind what was not read cannot be known.
    unread: bool,
    /// The CRC of the last frame of the last segment, when it was whole.
    last_crc: Option<u32>,
    damaged: bool,
}

impl Frames {
    pub(super) fn new(revisions: Revisions, stood: Option<Arc<Known>>, decodes: bool) -> Self {
        Self {
            damage: Vec::new(),
            lost: Vec::new(),
            removed: 0,
            events: 0,
            revisions,
            stood,
            decodes,
            pass: 0,
            time: Timestamp::default(),
            head: Head::default(),
            unread: false,
            last_crc: None,
            damaged: false,
        }
    }

    pub(super) fn passes(&self) -> u64 {
        self.revisions.passes()
    }

    pub(super) fn begin(&mut self, pass: u64) {
        self.pass = pass;
        self.unread = false;
        self.revisions.begin(pass);
    }

    pub(super) fn last_crc(&self) -> Option<u32> {
        self.last_crc
    }

    /// Whether the last segment was read, and is damaged.
    pub(super) fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// Goes behind a segment that is not read.
    pub(super) fn pass_over(&mut self, part: &Part) {
        self.skip();
        self.time = self.time.max(part.segment.header.created);
    }

    /// Goes behind a segment that the writer has let go of meanwhile.
    pub(super) fn skip(&mut self) {
        self.unread = true;
        self.last_crc = None;
        self.damaged = false;
        self.head.forget();
        self.revisions.forget();
    }

    pub(super) fn segment(&mut self, part: &Part, progress: &mut dyn FnMut(u64)) {
        let (segment, limit) = (&*part.segment, part.segment.written());
        let (mut offset, mut next, mut frames) = (PAGE as u64, segment.first(), 0);
        let (mut open_commit, mut last_crc, mut whole) = (false, 0, true);
        self.head.begin(segment.first());
        while offset < limit {
            let what = match segment.find(offset, limit) {
                Found::Frame(frame) if frame.position() == next => {
                    let end = offset + frame.stride() as u64;
                    if let Some(what) = self.frame(frame) {
                        self.found(segment, offset, end, next, what);
                    }
                    open_commit = frame.has_more();
                    last_crc = frame.crc();
                    next = after(frame);
                    offset = end;
                    frames += 1;
                    if frames % REPORT_EVERY == 0 {
                        progress(offset);
                    }
                    continue;
                }
                Found::Frame(_) => "positions do not follow each other",
                Found::Blank => "a blank where frames were",
                Found::Bad(what) => what,
            };
            let end = part.behind_damage(offset, limit, next);
            self.found(segment, offset, end, next, what);
            whole = false;
            self.head.forget();
            self.revisions.forget();
            if let Found::Frame(frame) = segment.find(end, limit) {
                next = frame.position();
            }
            offset = end;
        }
        if open_commit && whole {
            self.found(segment, limit, limit, next, "its last commit is not whole");
        }
        if let Some(last) = segment.last()
            && whole
            && next != last.next()
        {
            self.found(segment, limit, limit, next, "the events up to the next segment are missing");
        }
        self.last_crc = whole.then_some(last_crc);
        self.damaged = !whole;
    }

    /// What is wrong with a sound frame in its place.
    fn frame(&mut self, frame: Frame<'_>) -> Option<&'static str> {
        if frame.is_control() {
            return self.control(frame);
        }
        let (is_stub, is_first_pass) = (frame.is_stub(), self.pass == 0);
        self.events += u64::from(is_first_pass && !is_stub);
        self.removed += u64::from(is_first_pass && is_stub);
        let late = frame.time() < self.time;
        self.time = self.time.max(frame.time());
        let wrong = self.head.event();
        let stood =
            |stream: &[u8]| self.stood.as_ref().and_then(|known| known.find(stream).ok().map(|stood| stood.revision));
        let let_go = self.stood.as_ref().is_none_or(|known| known.oldest > Position::new(1));
        if !self.revisions.follows(frame.stream_bytes(), frame.revision(), stood, let_go) {
            return Some("its revision does not follow the one before it in its stream");
        }
        if self.pass > 0 {
            return None;
        }
        if late && !self.unread {
            return Some("its time is earlier than that of the event before it");
        }
        if self.decodes && !is_stub && !payload::decodes(frame) {
            return Some("its payload is not what its codec says; it was stored so");
        }
        wrong
    }

    fn control(&mut self, frame: Frame<'_>) -> Option<&'static str> {
        let Some(record) = Control::decode(frame.payload()) else {
            return Some("a control record that this build does not know");
        };
        if let Control::Gap(gap) = &record {
            match gap.reason {
                Reason::Removed => self.revisions.removed(gap.positions),
                Reason::Lost => self.revisions.forget(),
            }
            if self.pass == 0 {
                match gap.reason {
                    Reason::Removed => self.removed += gap.positions,
                    Reason::Lost => self.lost.push(LostForGood {
                        first: frame.position(),
                        positions: gap.positions,
                        why: gap.why.clone(),
                    }),
                }
            }
            if gap.reason == Reason::Lost {
                self.head.forget();
            }
        }
        self.head.record(&record, frame.has_more())
    }

    fn found(&mut self, segment: &Segment, offset: u64, end: u64, position: Position, what: &str) {
        if self.pass == 0 || what.starts_with("its revision") {
            self.damage.push(segment.damage(offset, end, position, what));
        }
    }
}
