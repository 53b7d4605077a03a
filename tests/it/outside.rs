//! What somebody does to a store's processes and files from outside while others have them open: the writer is stopped, a file is
//! cut. A process that has mapped what is cut may die of it; the next one is told, and nothing is missing without a word. R5, C2, C6.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use towpath::{Canal, Durability, Error, NewEvent, Options, Query, Reader, Retention, Store, inspect};

use crate::beside::{self, COMMIT, append, check, revision, stream};
use crate::support::files;
use crate::support::helper::Helper;
use crate::support::{Scratch, child, positions, small};
use crate::withdrawn::killed_after;

fn helper(role: &str, store: &Path) -> Helper {
    Helper::start("outside::child_of_these_tests", role, store)
}

/// Not a test by itself: what the other processes of these tests do.
#[test]
fn child_of_these_tests() {
    match child::role() {
        Some((role, path)) if role == "holder" => hold(&path),
        Some((role, path)) if role == "synced writer" => write_synced(&path),
        _ => {}
    }
}

/// Reads everything, holds it, and when told to looks at every byte again and asks for everything once more.
fn hold(path: &Path) {
    let store = Store::open_read_only(path).unwrap();
    let read = || store.read(Query::new()).collect::<Vec<_>>();
    let held = read();
    child::say(format_args!("holds {}", held.len()));
    for _ in std::io::stdin().lines() {
        let sum: u64 = held.iter().flatten().flat_map(|event| event.payload()).map(|byte| u64::from(*byte)).sum();
        let told = read().into_iter().find_map(Result::err).map_or("nothing".to_owned(), |error| error.to_string());
        child::say(format_args!("still here {sum}, told: {told}"));
    }
}

/// Appends a commit for each line that it hears, and says what came of it.
fn write_synced(path: &Path) {
    let store = small().durability(Durability::Sync).open(path).unwrap();
    (0..100).for_each(|_| _ = append(&store));
    child::say(format_args!("wrote {}", store.head()));
    for _ in std::io::stdin().lines() {
        child::say(format_args!("appended {}", append(&store)));
    }
}

// Stopping the writer.

#[test]
fn readers_go_on_while_the_writer_is_stopped() {
    let dir = Scratch::new();
    let path = dir.store_path();
    let mut writer = beside::helper("writer", &path);
    writer.hears("append 30");
    writer.says("wrote 30");
    let reader = Store::open_read_only(&path).unwrap();
    let mut cursor = reader.follow().open().unwrap();
    writer.hears("write on");
    let mut seen = 0;
    for _ in 0..20 {
        // Somewhere: between two commits, within one, while segments change.
        let events = cursor.pull_batch(64, Duration::from_secs(60)).unwrap();
        assert!(!events.is_empty());
        seen = events.iter().fold(seen, |last, event| {
            assert_eq!(check(&event), Ok(last + 1));
            last + 1
        });
        writer.signal(Signal::STOP);
        writer.is_stopped();
        let head = reader.head().get();
        assert!(positions(reader.read(Query::new())).into_iter().eq(1..=head), "not all up to {head}");
        let fresh = Store::open_read_only(&path).unwrap();
        assert!(fresh.head().get() >= head, "{} after {head}", fresh.head());
        let all = positions(fresh.read(Query::new()));
        assert!(all.iter().copied().eq(1..=all.len() as u64) && all.len() as u64 >= head);
        assert!(matches!(small().open(&path), Err(Error::Locked { holder: Some(pid), .. }) if pid == writer.id()));
        writer.signal(Signal::CONT);
    }
    writer.kill();
}

/// A recovery that is stopped in its middle, as far as LOCK tells.
#[test]
fn a_reader_does_not_wait_for_ever_for_a_recovery_that_is_stopped() {
    let dir = Scratch::new();
    let path = dir.store_path();
    let store = dir.open();
    let last = append(&store);
    let lock = path.join("LOCK");
    files::overwrite(&lock, 2096, &5u64.to_le_bytes());
    let reader = Store::open_read_only(&path).unwrap();
    assert_eq!(reader.head(), last);
    let later = append(&store);
    assert_eq!(reader.head(), last, "what is published meanwhile may be of the log before");
    files::overwrite(&lock, 2096, &6u64.to_le_bytes());
    // That recovery kept nothing of what the reader saw, as the slot says, which is zero.
    assert!(matches!(reader.event(last), Err(Error::Withdrawn { seen, kept, .. }) if (seen, kept.get()) == (last, 0)));
    assert_eq!(Store::open_read_only(&path).unwrap().head(), later);
    store.close().unwrap();
}

// Cutting what is mapped.

/// Recovery cuts what the reader has mapped and read; the control does what it must not do.
#[test]
fn a_reader_is_not_killed_by_what_recovery_cuts() {
    for by_recovery in [true, false] {
        let dir = Scratch::new();
        let path = dir.store_path();
        let head = killed_after(&path, 300);
        let mut holder = helper("holder", &path);
        holder.says(&format!("holds {head}"));
        let newest = files::newest(&path);
        let from = files::frame_of(&newest, 31).offset;
        if by_recovery {
            let used = files::frames(&newest).last().unwrap().end;
            files::overwrite(&newest, from, &vec![0; (used - from) as usize]);
            assert_eq!(dir.open().head().get(), 30);
            holder.hears("look");
            let said = holder.says_next("still here");
            assert!(said.contains("behind position 30 were withdrawn, up to 300"), "{said}");
            holder.ends_well();
        } else {
            files::set_len(&newest, from);
            holder.hears("look");
            let status = holder.ends();
            assert_eq!(status.signal(), Some(Signal::BUS.as_raw()), "{status}");
        }
    }
}

/// The writer's newest segment is cut under it. Acknowledged events are gone, and whoever comes next is told.
#[test]
fn cutting_the_newest_segment_under_its_writer_is_told_by_the_next_opening() {
    for appends in [0, 3] {
        let dir = Scratch::new();
        let path = dir.store_path();
        let mut writer = helper("synced writer", &path);
        writer.says("wrote 300");
        let mut holder = helper("holder", &path);
        holder.says("holds 300");
        let newest = files::newest(&path);
        files::set_len(&newest, files::frame_of(&newest, 200).offset + 11);
        for _ in 0..appends {
            writer.hears("append");
            writer.says_next("appended ");
        }
        writer.kill();
        // Whether it dies or not.
        holder.hears("look");
        drop(holder);
        match small().open(&path) {
            // Of a commit that is not whole nothing counts.
            Err(Error::Damaged(damage)) => assert_eq!(damage.position.get(), 199),
            other => panic!("{appends}: {other:?}"),
        }
        let told = whole(Store::open_read_only(&path).unwrap().read(Query::new()), 1, 300 + appends * COMMIT, 1);
        assert!(told.unwrap() > 0);
        assert!(!inspect::verify(&path, |_| {}).unwrap().ok);
    }
}

/// What is missing of events that are a step apart without being told of, if anything. Gives how often damage was told.
fn whole(reader: Reader, first: u64, last: u64, step: u64) -> Result<u64, String> {
    let (mut next, mut told, mut pardoned) = (first, 0, false);
    for event in reader {
        match event {
            Ok(event) => {
                let position = event.position().get();
                let is_right =
                    event.payload().get(..8) == Some(&position.to_le_bytes()) && event.stream() == stream(position);
                if !is_right {
                    return Err(format!("the event at {position} is another one"));
                }
                if position != next && !(pardoned && position > next && (position - next).is_multiple_of(step)) {
                    return Err(format!("{position} where {next} was to come"));
                }
                (next, pardoned) = (position + step, false);
            }
            Err(Error::Damaged(_)) => (told, pardoned) = (told + 1, true),
            Err(error) => return Err(error.to_string()),
        }
    }
    if next <= last && !pardoned { Err(format!("it ends before {next} of {last}")) } else { Ok(told) }
}

/// What a store answers that was sound before a file of it was cut.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Sound,
    /// Damage was told of.
    Told,
    /// It did not open, and the error named the file.
    Refused,
    Silent(String),
}

/// Everything is there, or told of. `name`: the file that was cut.
fn judge(path: &Path, oldest: u64, head: u64, name: &str) -> Verdict {
    let store = match Options::new().segment_bytes(64 << 10).open(path) {
        Ok(store) => store,
        Err(error @ (Error::Damaged(_) | Error::NotAStore { .. })) if error.to_string().contains(name) => {
            return Verdict::Refused;
        }
        Err(error) => return Verdict::Silent(format!("{error:?}")),
    };
    let mut told = 0;
    let first = |step: u64, rest: u64| (oldest..).find(|position| position % step == rest).unwrap();
    let ways = [
        whole(store.read(Query::new()), oldest, head, 1),
        whole(store.read(Query::new().stream(stream(2))), first(COMMIT, 2), head, COMMIT),
        whole(store.read(Query::new().types(["added-1"])), first(2, 1), head, 2),
        whole(store.read(Query::new().tags(["n:3"])), first(7, 3), head, 7),
    ];
    for way in ways {
        match way {
            Ok(times) => told += times,
            Err(why) => return Verdict::Silent(why),
        }
    }
    for position in (oldest..=head).step_by(97).chain([head]) {
        // The first three events were of another stream.
        match store.event_at(&stream(position), revision(position - COMMIT)) {
            Ok(Some(event)) if event.position().get() == position => {}
            Err(Error::Damaged(_)) => told += 1,
            other => return Verdict::Silent(format!("{position} by its revision: {other:?}")),
        }
    }
    match store.revision("gone") {
        Ok(revision) if revision.get() == COMMIT => {}
        Err(_) => told += 1,
        other => return Verdict::Silent(format!("a stream that was let go of: {other:?}")),
    }
    drop(store);
    let verified = inspect::verify(path, |_| {}).is_ok_and(|found| found.ok);
    match told {
        0 if !verified => Verdict::Silent("verify alone tells".to_owned()),
        0 => Verdict::Sound,
        _ if verified => Verdict::Silent("verify does not tell".to_owned()),
        _ => Verdict::Told,
    }
}

/// A store that has files of every kind, closed. Gives its oldest position and its head.
fn with_everything(path: &Path) -> (u64, u64) {
    let store = Options::new().segment_bytes(64 << 10).durability(Durability::Os).open(path).unwrap();
    for _ in 0..COMMIT {
        store.append("gone", NewEvent::new("added", "")).unwrap();
    }
    (0..1_500).for_each(|_| _ = append(&store));
    store.retain(&Retention::new().max_events(3_600)).unwrap();
    while files::with_extension(path, "tier").is_empty() {
        std::thread::yield_now();
    }
    let ends = (store.oldest().get(), store.head().get());
    store.close().unwrap();
    ends
}

#[test]
fn a_file_that_was_cut_while_a_reader_had_it_mapped_is_told_of_or_made_again() {
    let dir = Scratch::new();
    let path = dir.path().join("whole");
    let (oldest, head) = with_everything(&path);
    let work = dir.path().join("work");
    let cut = |file: &Path, len: u64| -> Verdict {
        files::copy(&path, &work);
        let mut holder = helper("holder", &work);
        holder.says_next("holds ");
        let name = files::name(file);
        files::set_len(&work.join(&name), len);
        holder.hears("look");
        // Dead or alive.
        drop(holder);
        judge(&work, oldest, head, &name)
    };
    files::copy(&path, &work);
    assert_eq!(judge(&work, oldest, head, "-"), Verdict::Sound);

    let middle = |kind: &str| -> PathBuf {
        let all = files::with_extension(&path, kind);
        all[all.len() / 2].clone()
    };
    let lengths = |file: &Path| {
        // Behind its last event the newest segment has nothing that anybody would miss.
        let is_newest = *file == files::newest(&path);
        let len = if is_newest { files::frame_of(file, head).end } else { fs::metadata(file).unwrap().len() };
        [0, 1_000, 4_096, len / 2, len - 1]
    };
    for (file, expected) in [
        (files::newest(&path), vec![Verdict::Refused]),
        (middle("seg"), vec![Verdict::Told]),
        (middle("idx"), vec![Verdict::Sound]),
        (middle("tier"), vec![Verdict::Sound]),
        (middle("heads"), vec![Verdict::Refused, Verdict::Told]),
    ] {
        for len in lengths(&file) {
            let found = cut(&file, len);
            assert!(expected.contains(&found), "{} cut to {len}: {found:?}", file.display());
        }
    }
}
