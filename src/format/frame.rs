//! One frame: a CRC-framed record, an event or a control record. FORMAT.md, "Frame".

use std::ops::Range;

use crate::event::codec::Codec;
use crate::event::draft::NewEvent;
use crate::format::extras::{self, Extras};
use crate::format::gap::{self, Gap};
use crate::format::term::{Kind, Term};
use crate::format::{crc, limits, names, u16_at, u32_at, u64_at};
use crate::id::{Position, Revision, Timestamp};

const LEN: Range<usize> = 0..4; // bytes of the frame, without padding
const CRC: Range<usize> = 4..8; // over bytes 8..len, seeded with nonce and length
const POSITION: Range<usize> = 8..16;
const REVISION: Range<usize> = 16..24; // while staged: the hash of the stream's name
const TIME: Range<usize> = 24..32;
const FLAGS: Range<usize> = 32..34;
const STREAM_LEN: Range<usize> = 34..36;
const TYPE_LEN: Range<usize> = 36..38;
const EXTRAS_LEN: Range<usize> = 38..40;
const _: () = assert!(LEN.end == CRC.start && CRC.end == POSITION.start && POSITION.end == REVISION.start);
const _: () = assert!(REVISION.end == TIME.start && TIME.end == FLAGS.start && FLAGS.end == STREAM_LEN.start);
const _: () = assert!(STREAM_LEN.end == TYPE_LEN.start && TYPE_LEN.end == EXTRAS_LEN.start);

/// Bytes before the names.
pub(crate) const HEADER: usize = EXTRAS_LEN.end;

/// Frames begin at multiples of this.
pub(crate) const ALIGN: usize = 8;

/// The flags of a frame.
pub(crate) mod flag {
    /// The commit goes on in the next frame.
    pub(crate) const MORE: u16 = 1 << 0;
    /// A control record: takes no position, readers never see it.
    pub(crate) const CONTROL: u16 = 1 << 1;
    /// Everything before this frame was on stable storage before it was written.
    pub(crate) const SYNCED: u16 = 1 << 2;
    /// The codec's number stands in three bits.
    pub(super) const CODEC_SHIFT: u16 = 3;
    pub(super) const CODEC: u16 = 0b111 << CODEC_SHIFT;
    /// The event is gone; what is left says where its stream stood. A codec's number, and the only one with this bit.
    pub(crate) const STUB: u16 = 0b100 << CODEC_SHIFT;
    /// Compressed and encrypted payloads: kept free, refused by this version.
    pub(super) const UNKNOWN: u16 = 0b11 << 6;
    /// Which extras follow, see `extras`.
    pub(crate) const EXTRAS: u16 = 0xff << 8;
}

/// What stands at one place in a segment. Reports; does not judge.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found<'a> {
    Frame(Frame<'a>),
    /// Zeroes, or the end of the bytes: nothing was ever written here.
    Blank,
    /// Not a whole frame. A torn tail or damage: recovery decides which.
    Bad(&'static str),
}

/// A frame whose CRC and structure are sound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    bytes: &'a [u8],
}

/// The number that a segment's CRCs start from: another for each segment, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nonce(pub(crate) u32);

/// Looks at what stands at the start of `bytes`, which go up to the end of what may be read.
#[inline]
pub(crate) fn find(bytes: &[u8], nonce: Nonce) -> Found<'_> {
    if bytes.len() < LEN.end {
        return Found::Blank;
    }
    let len = u32_at(bytes, LEN.start) as usize;
    if len == 0 {
        return Found::Blank;
    }
    if len < HEADER || padded(len) > bytes.len() {
        return Found::Bad("the length does not fit");
    }
    let frame = Frame { bytes: &bytes[..len] };
    if frame.computed_crc(nonce) != frame.crc() {
        return Found::Bad("the checksum does not fit");
    }
    match frame.is_sound() {
        Ok(()) => Found::Frame(frame),
        Err(why) => Found::Bad(why),
    }
}

/// The nonce of the segment in which the bytes at the start of these would be a whole frame. Any bytes have one.
pub(crate) fn nonce_of(bytes: &[u8]) -> Option<Nonce> {
    let len = claimed_len(bytes) as usize;
    let frame = Frame { bytes: bytes.get(..len).filter(|_| len >= HEADER)? };
    Some(Nonce(crate::format::crc_seed(frame.crc(), &frame.bytes[CRC.end..]) ^ len as u32))
}

/// Whether the flags that would stand here say that the commit goes on. The bytes are at least [`HEADER`].
pub(crate) fn peek_has_more(bytes: &[u8]) -> bool {
    u16_at(bytes, FLAGS.start) & flag::MORE != 0
}

/// The position that would stand here if this were a frame; `None` where the bytes are too few.
pub(crate) fn peek_position(bytes: &[u8]) -> Option<Position> {
    (bytes.len() >= HEADER).then(|| Position::new(u64_at(bytes, POSITION.start)))
}

/// The length that would stand here if this were a frame. The bytes are at least [`HEADER`].
pub(crate) fn peek_len(bytes: &[u8]) -> u32 {
    u32_at(bytes, LEN.start)
}

/// The length that stands at the start of any bytes; 0 where they are too few.
pub(crate) fn claimed_len(bytes: &[u8]) -> u32 {
    if bytes.len() < LEN.end { 0 } else { u32_at(bytes, LEN.start) }
}

/// Whether the flags that would stand here are those of a control record. The bytes are at least [`HEADER`].
pub(crate) fn peek_is_control(bytes: &[u8]) -> bool {
    u16_at(bytes, FLAGS.start) & flag::CONTROL != 0
}

/// Whether the flags that would stand here say that everything before was durable. The bytes are at least [`HEADER`].
pub(crate) fn peek_is_synced(bytes: &[u8]) -> bool {
    u16_at(bytes, FLAGS.start) & flag::SYNCED != 0
}

/// A frame's length with its padding.
pub(crate) const fn padded(len: usize) -> usize {
    (len + ALIGN - 1) & !(ALIGN - 1)
}

impl<'a> Frame<'a> {
    /// The frame in bytes that were found sound before.
    #[inline]
    pub(crate) fn trusted(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// All of it, without padding.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes without padding.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends its bytes, and the padding.
    pub(crate) fn put_into(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.bytes);
        out.resize(out.len() + self.stride() - self.len(), 0);
    }

    /// Bytes to the next frame.
    #[inline]
    pub(crate) fn stride(&self) -> usize {
        padded(self.bytes.len())
    }

    #[inline]
    pub(crate) fn crc(&self) -> u32 {
        u32_at(self.bytes, CRC.start)
    }

    #[inline]
    pub(crate) fn position(&self) -> Position {
        Position::new(u64_at(self.bytes, POSITION.start))
    }

    #[inline]
    pub(crate) fn revision(&self) -> Revision {
        Revision::new(u64_at(self.bytes, REVISION.start))
    }

    #[inline]
    pub(crate) fn time(&self) -> Timestamp {
        Timestamp::from_nanos(u64_at(self.bytes, TIME.start))
    }

    #[inline]
    pub(crate) fn flags(&self) -> u16 {
        u16_at(self.bytes, FLAGS.start)
    }

    #[inline]
    pub(crate) fn has_more(&self) -> bool {
        self.flags() & flag::MORE != 0
    }

    #[inline]
    pub(crate) fn is_control(&self) -> bool {
        self.flags() & flag::CONTROL != 0
    }

    /// The positions that nothing stands at any more, when this is the record of a gap.
    pub(crate) fn gap(&self) -> Option<Gap> {
        if self.is_control() { gap::of(self.payload()) } else { None }
    }

    /// How many positions it takes: an event one, a control record none, unless it is a gap.
    #[inline]
    pub(crate) fn positions(&self) -> u64 {
        if self.is_control() { gap::positions(self.payload()) } else { 1 }
    }

    /// An event that is there: no control record, and not what is left of one.
    #[inline]
    pub(crate) fn is_event(&self) -> bool {
        self.flags() & (flag::CONTROL | flag::STUB) == 0
    }

    /// What is left of an event: its place in the log and in its stream.
    #[inline]
    pub(crate) fn is_stub(&self) -> bool {
        self.flags() & (flag::CONTROL | flag::STUB) == flag::STUB
    }

    pub(crate) fn codec(&self) -> Codec {
        Codec::from_id(codec_id(self.flags())).unwrap_or(Codec::Raw)
    }

    pub(crate) fn stream(&self) -> &'a str {
        text(&self.bytes[self.stream_range()])
    }

    #[inline]
    pub(crate) fn stream_bytes(&self) -> &'a [u8] {
        &self.bytes[self.stream_range()]
    }

    pub(crate) fn type_name(&self) -> &'a str {
        text(self.type_bytes())
    }

    #[inline]
    pub(crate) fn type_bytes(&self) -> &'a [u8] {
        let start = self.stream_range().end;
        &self.bytes[start..start + u16_at(self.bytes, TYPE_LEN.start) as usize]
    }

    #[inline]
    pub(crate) fn extras(&self) -> Extras<'a> {
        let start = self.extras_start();
        Extras::new(self.flags() & flag::EXTRAS, &self.bytes[start..start + self.extras_len()])
    }

    #[inline]
    pub(crate) fn payload(&self) -> &'a [u8] {
        &self.bytes[self.extras_start() + self.extras_len()..]
    }

    /// What the writer of the event gave: everything but position, revision, time and the log's own flags.
    pub(crate) fn has_content_of(&self, other: &Frame<'_>) -> bool {
        let own = !(flag::MORE | flag::SYNCED);
        self.flags() & own == other.flags() & own && self.bytes[STREAM_LEN.start..] == other.bytes[STREAM_LEN.start..]
    }

    #[inline]
    fn stream_range(&self) -> Range<usize> {
        HEADER..HEADER + u16_at(self.bytes, STREAM_LEN.start) as usize
    }

    #[inline]
    fn extras_start(&self) -> usize {
        self.stream_range().end + u16_at(self.bytes, TYPE_LEN.start) as usize
    }

    #[inline]
    fn extras_len(&self) -> usize {
        u16_at(self.bytes, EXTRAS_LEN.start) as usize
    }

    #[inline]
    fn computed_crc(&self, nonce: Nonce) -> u32 {
        crc(nonce.0 ^ self.bytes.len() as u32, &self.bytes[CRC.end..])
    }

    #[inline]
    fn names_are_sound(&self) -> bool {
        let (stream, name) = (self.stream_bytes(), self.type_bytes());
        let sizes = 1..=limits::NAME;
        let both = &self.bytes[HEADER..self.extras_start()];
        sizes.contains(&stream.len()) && sizes.contains(&name.len()) && names::is_plain(both)
            || names::is_sound(stream) && names::is_sound(name)
    }

    /// The lengths inside were found to fit.
    #[cold]
    fn is_sound_stub(&self) -> Result<(), &'static str> {
        let (flags, stream) = (self.flags(), self.stream_bytes());
        let bare =
            flags & (flag::UNKNOWN | flag::CONTROL | flag::EXTRAS) == 0 && HEADER + stream.len() == self.bytes.len();
        if bare && (1..=limits::NAME).contains(&stream.len()) && names::is_sound(stream) {
            Ok(())
        } else {
            Err("more is left of a removed event than its stream")
        }
    }

    /// Checks what accessors rely on, and that nothing stands here that could not have been written.
    #[inline]
    fn is_sound(&self) -> Result<(), &'static str> {
        if self.extras_start() + self.extras_len() > self.bytes.len() {
            return Err("the lengths inside do not fit");
        }
        let flags = self.flags();
        if flags & flag::UNKNOWN != 0 || Codec::from_id(codec_id(flags)).is_none() {
            return if flags & flag::CODEC == flag::STUB {
                self.is_sound_stub()
            } else {
                Err("it has flags of a newer version")
            };
        }
        if flags & flag::CONTROL != 0 {
            return if self.extras_start() == HEADER && self.extras_len() == 0 && flags & flag::EXTRAS == 0 {
                Ok(())
            } else {
                Err("a control record has names or extras")
            };
        }
        if !self.names_are_sound() {
            return Err("a name could not have been written");
        }
        if flags & flag::EXTRAS == 0 && self.extras_len() == 0 || self.extras().is_sound() {
            Ok(())
        } else {
            Err("the extras do not fit")
        }
    }
}

/// Appends what is left of an event whose stream has this name: its frame, all but its place and CRC.
pub(crate) fn stage_stub(out: &mut Vec<u8>, stream: &[u8]) {
    let (start, len) = (out.len(), HEADER + stream.len());
    out.extend_from_slice(&[0; HEADER]);
    out.extend_from_slice(stream);
    out[start..][LEN].copy_from_slice(&(len as u32).to_le_bytes());
    out[start..][FLAGS].copy_from_slice(&flag::STUB.to_le_bytes());
    out[start..][STREAM_LEN].copy_from_slice(&(stream.len() as u16).to_le_bytes());
    out.resize(start + padded(len), 0);
}

/// Appends the frame of an event, all but what the writer's turn gives it. Sizes were checked by the caller.
/// The place of the revision holds the hash of the stream's name until then.
pub(crate) fn stage_event(out: &mut Vec<u8>, stream: &str, event: &NewEvent<'_>) {
    let (start, names) = (out.len(), stream.len() + event.type_name.len());
    let extras_flags = extras::flags(event);
    let extras_len = if extras_flags == 0 { 0 } else { extras::size(event) };
    let len = HEADER + names + extras_len + event.payload.len();
    let flags = u16::from(event.codec.id()) << flag::CODEC_SHIFT | extras_flags;
    let mut header = [0; HEADER];
    header[LEN].copy_from_slice(&(len as u32).to_le_bytes());
    header[REVISION].copy_from_slice(&Term::of(Kind::Stream, stream.as_bytes()).0.to_le_bytes());
    header[FLAGS].copy_from_slice(&flags.to_le_bytes());
    header[STREAM_LEN].copy_from_slice(&(stream.len() as u16).to_le_bytes());
    header[TYPE_LEN].copy_from_slice(&(event.type_name.len() as u16).to_le_bytes());
    header[EXTRAS_LEN].copy_from_slice(&(extras_len as u16).to_le_bytes());
    out.reserve(len + ALIGN);
    out.extend_from_slice(&header);
    out.extend_from_slice(stream.as_bytes());
    out.extend_from_slice(event.type_name.as_bytes());
    if extras_flags != 0 {
        extras::put(out, event);
    }
    out.extend_from_slice(&event.payload);
    debug_assert_eq!(out.len(), start + len, "the extras are as long as they were measured");
    // A fixed number of zeroes, cut afterwards, is cheaper than a few.
    out.extend_from_slice(&[0; ALIGN]);
    out.truncate(start + padded(len));
}

/// Appends the frame of a control record.
pub(crate) fn stage_control(out: &mut Vec<u8>, record: &[u8]) {
    let start = out.len();
    let len = HEADER + record.len();
    out.extend_from_slice(&[0; HEADER]);
    out.extend_from_slice(record);
    out[start..][LEN].copy_from_slice(&(len as u32).to_le_bytes());
    out[start..][FLAGS].copy_from_slice(&flag::CONTROL.to_le_bytes());
    out.resize(start + padded(len), 0);
}

/// Adds the idempotency key to the staged frame at the start of `out`: the key is the last of the extras.
pub(crate) fn stage_key(out: &mut Vec<u8>, key: &str) {
    let staged = Staged::at(out, 0);
    let (len, at) = (staged.len(), staged.frame().extras_start() + staged.frame().extras_len());
    let flags = staged.frame().flags() | extras::KEY;
    let mut bytes = Vec::with_capacity(2 + key.len());
    extras::put_text(&mut bytes, key);
    let (grown, extras_len) = (len + bytes.len(), staged.frame().extras_len() + bytes.len());
    out.splice(at..at, bytes);
    let old_end = padded(len) + grown - len;
    out.splice(grown..old_end, std::iter::repeat_n(0, padded(grown) - grown));
    out[LEN].copy_from_slice(&(grown as u32).to_le_bytes());
    out[FLAGS].copy_from_slice(&flags.to_le_bytes());
    out[EXTRAS_LEN].copy_from_slice(&(extras_len as u16).to_le_bytes());
}

/// A frame in the staging buffer, made by this process and not finished yet.
pub(crate) struct Staged<'a> {
    bytes: &'a [u8],
}

impl<'a> Staged<'a> {
    /// The staged frame that begins at `at`.
    pub(crate) fn at(staged: &'a [u8], at: usize) -> Self {
        let len = u32_at(staged, at) as usize;
        Self { bytes: &staged[at..at + len] }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    pub(crate) fn stride(&self) -> usize {
        padded(self.bytes.len())
    }

    /// The hash of the stream's name.
    pub(crate) fn stream_term(&self) -> Term {
        Term(u64_at(self.bytes, REVISION.start))
    }

    /// What the frame says already: names, extras, payload.
    pub(crate) fn frame(&self) -> Frame<'a> {
        Frame { bytes: self.bytes }
    }
}

/// What the writer's turn gives a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) position: Position,
    pub(crate) revision: Revision,
    pub(crate) time: Timestamp,
    /// [`flag::MORE`] and [`flag::SYNCED`] or neither.
    pub(crate) flags: u16,
}

/// Finishes a staged frame: its place and its CRC. Returns the CRC.
pub(crate) fn finish(frame: &mut [u8], place: Place, nonce: Nonce) -> u32 {
    frame[POSITION].copy_from_slice(&place.position.get().to_le_bytes());
    frame[REVISION].copy_from_slice(&place.revision.get().to_le_bytes());
    frame[TIME].copy_from_slice(&place.time.as_nanos().to_le_bytes());
    let kept = u16_at(frame, FLAGS.start) & !(flag::MORE | flag::SYNCED);
    frame[FLAGS].copy_from_slice(&(kept | place.flags).to_le_bytes());
    let crc = Frame { bytes: frame }.computed_crc(nonce);
    frame[CRC].copy_from_slice(&crc.to_le_bytes());
    crc
}

fn codec_id(flags: u16) -> u8 {
    ((flags & flag::CODEC) >> flag::CODEC_SHIFT) as u8
}

#[inline]
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Finished frames, one after the other.
pub(crate) fn finished(frames: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = frames.get(at..).filter(|rest| !rest.is_empty())?;
        let frame = Frame::trusted(&rest[..peek_len(rest) as usize]);
        at += frame.stride();
        Some(frame)
    })
}
