//! Which segments are read frame by frame.

use crate::error::Result;
use crate::id::Position;
use crate::inspect::verify::Depth;
use crate::segment::disk::Directory;

/// So many sealed segments are read by a fast check, besides the newest.
const SAMPLED: usize = 3;

/// The first positions of those that are read, rising.
pub(super) fn choose(directory: &dyn Directory, firsts: &[Position], depth: Depth) -> Result<Vec<Position>> {
    if depth != Depth::Fast || firsts.len() <= SAMPLED + 1 {
        return Ok(firsts.to_vec());
    }
    let (newest, sealed) = (firsts[firsts.len() - 1], &firsts[..firsts.len() - 1]);
    let mut chosen = vec![newest];
    let mut bytes = [0; 8];
    while chosen.len() <= SAMPLED {
        directory.random(&mut bytes)?;
        let first = sealed[(u64::from_le_bytes(bytes) % sealed.len() as u64) as usize];
        if !chosen.contains(&first) {
            chosen.push(first);
        }
    }
    chosen.sort_unstable();
    Ok(chosen)
}
