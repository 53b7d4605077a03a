//! The workloads that read, and the one that opens.

use std::hint::black_box;
use std::time::{Duration, Instant};

use towpath::{Query, Reader, Store};

use crate::bench::Plan;
use crate::bench::measure::{Measured, Samples};
use crate::failure::Result;

/// Events that are one sample of a replay.
const STRETCH: u64 = 10_000;
/// Streams that are read.
const STREAMS: usize = 1_000;
/// Openings.
const OPENINGS: u32 = 21;

/// All events, in the order of the log.
pub(crate) fn replay(store: &Store) -> Result<Measured> {
    let mut reader = store.read(Query::new());
    let (mut events, mut samples) = (0, Samples::new());
    let started = Instant::now();
    loop {
        let stretch = Instant::now();
        match read(&mut reader, STRETCH)? {
            0 => break,
            count => events += count,
        }
        samples.push(stretch.elapsed());
    }
    Ok(Measured { events, time: started.elapsed(), samples })
}

/// All events and a hash of each payload, on so many threads, the hashes in the order of the log.
pub(crate) fn replay_hashed(store: &Store, threads: usize) -> Result<Measured> {
    let reader = store.read(Query::new());
    let (mut events, mut samples) = (0, Samples::new());
    let started = Instant::now();
    reader.in_parallel(
        threads,
        |event| hash(event.payload()),
        |hashes| {
            let mut stretch = Instant::now();
            for hash in hashes {
                black_box(hash?);
                events += 1;
                if events % STRETCH == 0 {
                    samples.push(stretch.elapsed());
                    stretch = Instant::now();
                }
            }
            Ok::<_, towpath::Error>(())
        },
    )?;
    Ok(Measured { events, time: started.elapsed(), samples })
}

/// FNV-1a, one byte after the other: each step waits for the one before, as in decoding.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// All events of some streams, one stream after the other, the streams spread over all of them.
pub(crate) fn streams(plan: &Plan<'_>, store: &Store) -> Result<Measured> {
    let step = (plan.names.len() / STREAMS).max(1);
    let (mut events, mut samples) = (0, Samples::new());
    let started = Instant::now();
    for place in (0..plan.names.len()).step_by(step).take(STREAMS) {
        let called = Instant::now();
        events += read(&mut store.read(Query::new().stream(plan.names.get(place))), u64::MAX)?;
        samples.push(called.elapsed());
    }
    Ok(Measured { events, time: started.elapsed(), samples })
}

/// Opens the closed store again and again; the last one stays open. The time is that of one opening.
pub(crate) fn reopen(plan: &Plan<'_>) -> Result<(Store, Measured)> {
    let (mut samples, mut time) = (Samples::new(), Duration::ZERO);
    let mut open = || -> Result<Store> {
        let called = Instant::now();
        let store = plan.open()?;
        samples.push(called.elapsed());
        time += called.elapsed();
        Ok(store)
    };
    for _ in 1..OPENINGS {
        open()?.close()?;
    }
    let store = open()?;
    let events = store.head().get();
    Ok((store, Measured { events, time: time / OPENINGS, samples }))
}

/// Reads up to so many, looks at each, and counts them.
fn read(reader: &mut Reader, most: u64) -> Result<u64> {
    let mut count = 0;
    while count < most {
        let Some(event) = reader.next_borrowed() else { break };
        let event = event?;
        black_box((event.position(), event.payload().len()));
        count += 1;
    }
    Ok(count)
}
