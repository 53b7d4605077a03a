//! Stores without one of their defences, for controls. Where a store that does not look and a disk that hides what there
//! would be to see are the same, the disk is what is changed.

use std::ops::Range;

use crate::format::frame::{self, Found, Frame, Nonce, Place, flag};
use crate::format::{header, u32_at};
use crate::simulation::faults::Weakness;
use crate::simulation::platter::{Node, PAGE, Platter};

/// Where a segment's nonce stands.
const NONCE: usize = 32;

/// Changes what a power cut has left.
pub(super) fn after_power_cut(platter: &mut Platter, weakness: Option<Weakness>) {
    let meddle = match weakness {
        Some(Weakness::NoChecksums) => fit_checksums,
        Some(Weakness::TornTailKept) => close_commit,
        _ => return,
    };
    let segments: Vec<usize> = platter
        .names
        .iter()
        .filter(|(path, _)| path.rsplit('/').next().and_then(header::parse_name).is_some())
        .filter_map(|(_, node)| if let Node::File(inode) = node { Some(*inode) } else { None })
        .collect();
    for segment in segments {
        let blocks = platter.inodes[segment].blocks();
        if blocks.len() > PAGE as usize {
            let nonce = Nonce(u32_at(blocks, NONCE));
            meddle(blocks, nonce);
        }
    }
}

/// Every frame that has a length gets the checksum that it should have.
fn fit_checksums(blocks: &mut [u8], nonce: Nonce) {
    let mut at = PAGE as usize;
    while let Some(frame) = claimed(blocks, at) {
        finish(&mut blocks[frame.clone()], nonce, flag::MORE | flag::SYNCED);
        at += frame::padded(frame.len());
    }
}

/// A commit that has no end ends where it was cut.
fn close_commit(blocks: &mut [u8], nonce: Nonce) {
    let (mut at, mut last) = (PAGE as usize, None);
    while let Found::Frame(found) = frame::find(&blocks[at..], nonce) {
        let (range, stride) = (at..at + found.len(), found.stride());
        last = found.has_more().then_some(range);
        at += stride;
    }
    if let Some(last) = last {
        finish(&mut blocks[last], nonce, flag::SYNCED);
        blocks[at..].fill(0);
    }
}

/// The bytes that a frame would have here, by its length.
fn claimed(blocks: &[u8], at: usize) -> Option<Range<usize>> {
    let len = frame::claimed_len(blocks.get(at..)?) as usize;
    let fits = len >= frame::HEADER && at + frame::padded(len) <= blocks.len();
    fits.then_some(at..at + len)
}

/// Gives a frame its checksum again. Of its flags those about its place stay that are in `kept`.
fn finish(bytes: &mut [u8], nonce: Nonce, kept: u16) {
    let found = Frame::trusted(bytes);
    let place = Place {
        position: found.position(),
        revision: found.revision(),
        time: found.time(),
        flags: found.flags() & kept & (flag::MORE | flag::SYNCED),
    };
    frame::finish(bytes, place, nonce);
}
