//! What taking removed events out of sealed segments costs: how fast segments are written again, and how much slower appends
//! are meanwhile.
//!
//! `cargo bench --bench removing -- MIB DIR` (three times so many MiB on the disk, and a segment more); without them 512 in the directory for
//! temporary files.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use towpath::{Commit, Durability, NewEvent, Options, Store};

const PAYLOAD: [u8; 1_000] = [b'.'; 1_000];
const COMMIT: u64 = 100;
/// One of so many events goes, so all segments hold some.
const ONE_OF: u64 = 10;
/// How long appends alone are measured.
const ALONE: Duration = Duration::from_secs(3);

/// Appends a commit of events, of which one of so many is of the stream that goes.
fn append(store: &Store, number: &mut u64, one_of: u64) -> towpath::Result<()> {
    let mut commit = Commit::new();
    for _ in 0..COMMIT {
        *number += 1;
        let stream = if one_of > 0 && number.is_multiple_of(one_of) { "going" } else { "staying" };
        commit.event(stream, NewEvent::new("measured", &PAYLOAD));
    }
    store.commit(&commit).map(drop)
}

/// Events a second, appended by blocking calls until told to stop, or until so many are there: the disk has an end.
fn appends_until(store: &Store, done: &AtomicBool, most: u64) -> towpath::Result<f64> {
    let (began, mut number) = (Instant::now(), 0);
    while !done.load(Ordering::Acquire) && number < most {
        append(store, &mut number, 0)?;
    }
    Ok(number as f64 / began.elapsed().as_secs_f64())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let mib: u64 = args.next().map_or(Ok(512), |arg| arg.parse())?;
    let dir = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = dir.join(format!("towpath-removing-{}", std::process::id()));
    let store = Options::new().durability(Durability::Os).open(&dir)?;
    let mut number = 0;
    while (number * PAYLOAD.len() as u64) >> 20 < mib {
        append(&store, &mut number, ONE_OF)?;
    }
    let most = number;
    // Everything is sealed, indexed and on the disk.
    store.close()?;
    let store = Options::new().durability(Durability::Os).open(&dir)?;

    let done = AtomicBool::new(false);
    let alone = std::thread::scope(|scope| {
        let writer = scope.spawn(|| appends_until(&store, &done, most).map_err(|error| error.to_string()));
        let began = Instant::now();
        while began.elapsed() < ALONE {
            std::thread::sleep(Duration::from_millis(10));
        }
        done.store(true, Ordering::Release);
        writer.join().unwrap_or_else(|_| Err("the writer panicked".to_owned()))
    })?;

    store.delete_stream("going")?;
    done.store(false, Ordering::Release);
    let (purged, took, beside) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| appends_until(&store, &done, most).map_err(|error| error.to_string()));
        let began = Instant::now();
        let purged = store.purge();
        let took = began.elapsed();
        done.store(true, Ordering::Release);
        let beside = writer.join().unwrap_or_else(|_| Err("the writer panicked".to_owned()))?;
        Ok::<_, Box<dyn std::error::Error>>((purged?, took, beside))
    })?;
    let written = (number * PAYLOAD.len() as u64) as f64 / 1e6;
    println!("segments written again   {:>12}", purged.segments);
    println!("events taken out         {:>12}", purged.events);
    println!("MB of events gone through{:>12.0}", written);
    println!("seconds                  {:>12.2}", took.as_secs_f64());
    println!("MB/s                     {:>12.0}", written / took.as_secs_f64());
    println!("appends/s alone          {:>12.0}", alone);
    println!("appends/s beside it      {:>12.0}", beside);
    store.close()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
