//! Looking at a store's files from outside, without the crate under test: what tests cut, flip and forge.
//!
//! The layout is written down here once more, by hand, so that a change of the format cannot go unnoticed.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where the frames of a segment begin.
pub(crate) const FRAMES: u64 = 4096;

/// Copies a store's directory as a crash would leave it: while somebody writes, lock file and all.
pub(crate) fn copy(from: &Path, to: &Path) {
    let _none_yet = fs::remove_dir_all(to);
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            copy_file(&entry.path(), &target);
        }
    }
}

/// Copies a file without writing out its blank end. One that went away since it was seen was a temporary one.
fn copy_file(from: &Path, to: &Path) {
    let bytes = match fs::read(from) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        read => read.unwrap(),
    };
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    fs::write(to, &bytes[..used]).unwrap();
    set_len(to, bytes.len() as u64);
}

/// Everything in a directory: names, modes, contents.
pub(crate) fn snapshot(dir: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            found.insert(path.clone(), (metadata.permissions().mode(), Vec::new()));
            found.extend(snapshot(&path));
        } else {
            let bytes = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            found.insert(path, (metadata.permissions().mode(), bytes));
        }
    }
    found
}

/// The segment files, oldest first.
pub(crate) fn segments(dir: &Path) -> Vec<PathBuf> {
    with_extension(dir, "seg")
}

/// The index files, oldest first.
pub(crate) fn indexes(dir: &Path) -> Vec<PathBuf> {
    with_extension(dir, "idx")
}

pub(crate) fn newest(dir: &Path) -> PathBuf {
    segments(dir).pop().unwrap()
}

/// The files with an extension, by name.
pub(crate) fn with_extension(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    paths.sort();
    paths
}

/// A file's name, as errors and reports give it.
pub(crate) fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

pub(crate) fn set_len(path: &Path, len: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

/// Writes zeroes from `from` to the end of the file.
pub(crate) fn blank_from(path: &Path, from: u64) {
    let len = fs::metadata(path).unwrap().len();
    set_len(path, from);
    set_len(path, len);
}

pub(crate) fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

pub(crate) fn flip(path: &Path, offset: u64, bit: u32) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << bit)], offset).unwrap();
}

/// A frame as its 40 bytes say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawFrame {
    pub(crate) offset: u64,
    /// Where the next frame begins.
    pub(crate) end: u64,
    pub(crate) position: u64,
    pub(crate) is_control: bool,
    pub(crate) has_more: bool,
}

/// The frames of an undamaged segment up to the first blank.
pub(crate) fn frames(segment: &Path) -> Vec<RawFrame> {
    let bytes = fs::read(segment).unwrap();
    let mut found = Vec::new();
    let mut offset = FRAMES as usize;
    while offset + 40 <= bytes.len() {
        let len = u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap()) as usize;
        if len == 0 {
            break;
        }
        let flags = u16::from_le_bytes(bytes[offset + 32..offset + 34].try_into().unwrap());
        let end = offset + len.next_multiple_of(8);
        found.push(RawFrame {
            offset: offset as u64,
            end: end as u64,
            position: u64::from_le_bytes(bytes[offset + 8..offset + 16].try_into().unwrap()),
            is_control: flags & 2 != 0,
            has_more: flags & 1 != 0,
        });
        offset = end;
    }
    found
}

/// The frame of the event at a position.
pub(crate) fn frame_of(segment: &Path, position: u64) -> RawFrame {
    *frames(segment).iter().find(|frame| frame.position == position && !frame.is_control).unwrap()
}

/// The number that the checksums of a segment's frames begin with.
pub(crate) fn nonce(segment: &Path) -> u32 {
    u32::from_le_bytes(fs::read(segment).unwrap()[32..36].try_into().unwrap())
}

/// What a forged frame claims to be.
#[derive(Clone, Copy)]
pub(crate) struct Forged<'a> {
    pub(crate) position: u64,
    pub(crate) revision: u64,
    pub(crate) flags: u16,
    pub(crate) stream: &'a str,
    pub(crate) type_name: &'a str,
    pub(crate) payload: &'a [u8],
}

/// The bytes of a frame that would be sound in a segment with this nonce.
pub(crate) fn forge(nonce: u32, frame: Forged<'_>) -> Vec<u8> {
    let mut bytes = vec![0; 40];
    bytes.extend_from_slice(frame.stream.as_bytes());
    bytes.extend_from_slice(frame.type_name.as_bytes());
    bytes.extend_from_slice(frame.payload);
    let len = bytes.len() as u32;
    bytes[0..4].copy_from_slice(&len.to_le_bytes());
    bytes[8..16].copy_from_slice(&frame.position.to_le_bytes());
    bytes[16..24].copy_from_slice(&frame.revision.to_le_bytes());
    bytes[24..32].copy_from_slice(&[0x11; 8]);
    bytes[32..34].copy_from_slice(&frame.flags.to_le_bytes());
    bytes[34..36].copy_from_slice(&(frame.stream.len() as u16).to_le_bytes());
    bytes[36..38].copy_from_slice(&(frame.type_name.len() as u16).to_le_bytes());
    let sum = crc(nonce ^ len, &bytes[8..]);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// CRC-32 as in IEEE 802.3, bit by bit, going on from `seed`.
pub(crate) fn crc(seed: u32, bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!seed, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 })
    })
}

/// Whether an independent look at a segment finds every checksum right: the control for the two above.
pub(crate) fn checksums_fit(segment: &Path) -> bool {
    let (bytes, nonce) = (fs::read(segment).unwrap(), nonce(segment));
    frames(segment).iter().all(|frame| {
        let at = frame.offset as usize;
        let len = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let stored = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap());
        crc(nonce ^ len, &bytes[at + 8..at + len as usize]) == stored
    })
}
