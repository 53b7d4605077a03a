//! Opening a store after something went wrong: C1, C3, C4, C7 to C11.
//!
//! A crash is a copy of the directory made while the store is open: the copy has the lock file of a writer that never
//! closed, and no process behind it.

use std::fs;
use std::path::{Path, PathBuf};

use towpath::{Commit, Durability, Error, NewEvent, Options, Position, Query, Settlement, Store};

use towpath::Canal as _;

use crate::support::files::{self, FRAMES};
use crate::support::told::{self, Told};
use crate::support::{Scratch, small};

fn tiny(durability: Durability) -> Options {
    Options::new().segment_bytes(64 << 10).durability(durability)
}

fn os() -> Options {
    tiny(Durability::Os)
}

/// Six commits of one to three events, as a crash leaves them.
fn crashed(scratch: &Scratch, durability: Durability) -> (PathBuf, Vec<Told>) {
    let store = tiny(durability).open(scratch.store_path()).unwrap();
    for number in 0..6u8 {
        let mut commit = Commit::new();
        for event in 0..=number % 3 {
            let stream = format!("cart-{event}");
            commit.event(&stream, NewEvent::new("added", &[number; 30]).tag("sku:tea"));
        }
        store.commit(&commit).unwrap();
    }
    let copy = scratch.path().join("crashed");
    files::copy(&scratch.store_path(), &copy);
    (copy, told::all(&store))
}

/// Where the commits of a segment end, each with the last position that is in it or before it.
fn commit_ends(segment: &Path) -> Vec<(u64, u64)> {
    let mut last = 0;
    let mut ends = Vec::new();
    for frame in files::frames(segment) {
        if !frame.is_control {
            last = frame.position;
        }
        if !frame.has_more {
            ends.push((frame.end, last));
        }
    }
    ends
}

/// Every event up to a position, if the store at `path` opens and holds just these, before and after one more append and
/// another opening.
fn keeps(path: &Path, expected: &[Told]) -> Result<(), String> {
    let store = os().open(path).map_err(|error| error.to_string())?;
    let found = told::all(&store);
    if found != expected {
        return Err(format!("{} events, expected {}", found.len(), expected.len()));
    }
    let next = store.append("cart-9", NewEvent::new("after", "")).map_err(|error| error.to_string())?;
    if next.first().get() != expected.len() as u64 + 1 {
        return Err(format!("went on at {}", next.first()));
    }
    let with_next = told::all(&store);
    drop(store);
    let again = os().open(path).map_err(|error| error.to_string())?;
    (told::all(&again) == with_next).then_some(()).ok_or_else(|| "differs when opened again".to_owned())
}

/// C1. The cut file ends there, or is blank from there on, by turns.
#[test]
fn a_segment_cut_at_any_byte_of_its_last_three_commits_keeps_every_whole_commit_before() {
    let scratch = Scratch::in_memory();
    let (crashed, all) = crashed(&scratch, Durability::Os);
    let segment = files::newest(&crashed);
    assert!(files::checksums_fit(&segment), "the tests' own reading of the format fits");
    let ends = commit_ends(&segment);
    let [.., (from, _), _, _, (to, _)] = ends[..] else { panic!("too few commits: {ends:?}") };

    let work = scratch.path().join("work");
    for cut in from..=to {
        files::copy(&crashed, &work);
        if cut % 2 == 0 {
            files::set_len(&files::newest(&work), cut);
        } else {
            files::blank_from(&files::newest(&work), cut);
        }
        // Trailing zeroes of a frame may be cut without loss: they are there again in the blank file.
        let bytes = fs::read(&segment).unwrap();
        let whole =
            |end: u64| end <= cut || (cut % 2 == 1 && bytes[cut as usize..end as usize].iter().all(|b| *b == 0));
        let kept = ends.iter().rev().find(|(end, _)| whole(*end)).unwrap().1;
        if let Err(why) = keeps(&work, &all[..kept as usize]) {
            panic!("cut at {cut} of {from}..={to}: {why}");
        }
    }

    // Control: the same check on a cut that reaches one commit further back.
    files::copy(&crashed, &work);
    files::set_len(&files::newest(&work), from - 1);
    let kept = ends.iter().rev().find(|(end, _)| *end <= from).unwrap().1;
    assert!(keeps(&work, &all[..kept as usize]).is_err());
}

/// C1, C2: what was acknowledged as durable, and the store knows it, is never given up without a word.
#[test]
fn a_cut_into_what_was_durable_is_told_and_changes_nothing() {
    let scratch = Scratch::new();
    let (crashed, all) = crashed(&scratch, Durability::Sync);
    let segment = files::newest(&crashed);
    let ends = commit_ends(&segment);
    let [.., (from, _), (to, _)] = ends[..] else { panic!("too few commits: {ends:?}") };

    let work = scratch.path().join("work");
    for cut in (from..to).step_by(5).chain([to - 8]) {
        for blank in [true, false] {
            files::copy(&crashed, &work);
            let newest = files::newest(&work);
            if blank {
                files::blank_from(&newest, cut)
            } else {
                files::set_len(&newest, cut)
            }
            let before = files::snapshot(&work);
            let refused = tiny(Durability::Sync).open(&work);
            match refused {
                Err(Error::Damaged(damage)) => assert_eq!(damage.segment, files::name(&newest)),
                Err(other) => panic!("cut at {cut}, blank {blank}: {other}"),
                Ok(store) => {
                    // Nothing but the padding of the last frame was cut.
                    assert_eq!(told::all(&store), all, "cut at {cut} of {from}..{to}, blank {blank}");
                    continue;
                }
            }
            assert_eq!(files::snapshot(&work), before, "cut at {cut}");
        }
    }
    // Control: uncut it opens, with everything.
    files::copy(&crashed, &work);
    keeps(&work, &all).unwrap();
}

/// C3.
#[test]
fn crashing_again_and_again_loses_nothing() {
    let scratch = Scratch::new();
    let mut path = scratch.store_path();
    let mut expected = Vec::new();
    for round in 0..30u32 {
        let durability = [Durability::Os, Durability::Sync][round as usize % 2];
        let store = tiny(durability).open(&path).unwrap();
        assert_eq!(told::all(&store), expected, "round {round}");
        if round % 5 != 4 {
            store.append(&format!("s-{}", round % 3), NewEvent::new("t", &round.to_le_bytes())).unwrap();
        }
        expected = told::all(&store);
        let copy = scratch.path().join(format!("crash-{round}"));
        files::copy(&path, &copy);
        if round % 3 == 1 {
            // Half of a frame that was never acknowledged.
            let segment = files::newest(&copy);
            let end = files::frames(&segment).last().unwrap().end;
            files::overwrite(&segment, end, &[96, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        }
        path = copy;
    }
    let store = os().open(&path).unwrap();
    assert_eq!(told::all(&store), expected);
    assert_eq!(expected.len(), 24, "control: something was written on the way");
    store.close().unwrap();
    let verdict = towpath::inspect::verify(&path, |_| {}).unwrap();
    assert!(verdict.ok && verdict.events == 24, "{verdict:?}");
}

/// C3: the whole control state moves into each new segment.
#[test]
fn a_checkpoint_survives_crash_after_crash() {
    let scratch = Scratch::new();
    let mut path = scratch.store_path();
    for round in 1..=5u64 {
        let store = os().open(&path).unwrap();
        store.append("s-1", NewEvent::new("t", "")).unwrap();
        let mut cursor = store.cursor("reader").open().unwrap();
        let batch = cursor.pull_batch(10, std::time::Duration::ZERO).unwrap();
        assert_eq!(batch.len(), 1, "round {round}: only what is new");
        cursor.settle(batch.last().unwrap(), Settlement::Done).unwrap();
        cursor.flush().unwrap();
        let copy = scratch.path().join(format!("crash-{round}"));
        files::copy(&path, &copy);
        path = copy;
    }
    let store = os().open(&path).unwrap();
    let consumers = store.consumers().unwrap();
    assert_eq!(consumers[0].position, Position::new(6), "{consumers:?}");
}

/// C4.
#[test]
fn a_torn_tail_is_kept_in_quarantine_byte_by_byte_and_cut_at_once() {
    let scratch = Scratch::new();
    let (crashed, all) = crashed(&scratch, Durability::Os);
    let segment = files::newest(&crashed);
    let last = *files::frames(&segment).last().unwrap();
    let before = *commit_ends(&segment).iter().rev().nth(1).unwrap();
    files::set_len(&segment, last.offset + 44);
    let torn = fs::read(&segment).unwrap()[before.0 as usize..].to_vec();

    let store = os().open(&crashed).unwrap();
    let [quarantined] = &store.recovery().quarantined[..] else { panic!("{:?}", store.recovery()) };
    assert!(!store.recovery().clean);
    assert_eq!((&quarantined.segment, quarantined.offset), (&files::name(&segment), before.0));
    let kept = fs::read(crashed.join("quarantine").join(&quarantined.file)).unwrap();
    assert_eq!(kept.len() as u64, quarantined.length);
    assert_eq!(kept[..torn.len()], torn, "all that was cut is kept");
    assert!(kept[torn.len()..].iter().all(|byte| *byte == 0));
    assert_eq!(fs::metadata(&segment).unwrap().len(), before.0, "the tail is gone before anything is written");
    assert_eq!(told::all(&store), all[..before.1 as usize]);

    // Nothing is left to be cut at the next crash, and what was kept stays.
    let again = scratch.path().join("again");
    files::copy(&crashed, &again);
    let reopened = os().open(&again).unwrap();
    assert_eq!(reopened.recovery().quarantined, []);
    assert_eq!(fs::read(again.join("quarantine").join(&quarantined.file)).unwrap(), kept);
}

/// C4: two tails torn at the same place do not take each other's file.
#[test]
fn quarantine_never_overwrites_what_it_keeps() {
    let scratch = Scratch::new();
    let (crashed, _) = crashed(&scratch, Durability::Os);
    let segment = files::newest(&crashed);
    let end = files::frames(&segment).last().unwrap().end;
    files::overwrite(&segment, end, &[96, 0, 0, 0, 1, 1, 1, 1]);
    let untouched = fs::read(&segment).unwrap();
    drop(os().open(&crashed).unwrap());

    // As if recovery had been cut after it kept the tail and before it cut it, and then met other bytes.
    for path in files::segments(&crashed).into_iter().skip(1) {
        fs::remove_file(path).unwrap();
    }
    fs::write(&segment, &untouched).unwrap();
    files::overwrite(&segment, end + 4, &[2, 2, 2, 2]);
    fs::remove_file(crashed.join("LOCK")).unwrap();
    let store = os().open(&crashed).unwrap();
    let mut kept: Vec<_> = fs::read_dir(crashed.join("quarantine"))
        .unwrap()
        .map(|entry| fs::read(entry.unwrap().path()).unwrap()[4])
        .collect();
    kept.sort_unstable();
    assert_eq!(kept, [1, 2]);
    assert_eq!(store.recovery().quarantined.len(), 1);
}

/// A recovery that fails once it has kept a tail, and is tried again.
#[test]
fn what_is_kept_in_quarantine_is_kept_once_however_often_opening_fails() {
    let scratch = Scratch::new();
    let (crashed, all) = crashed(&scratch, Durability::Os);
    let segment = files::newest(&crashed);
    let end = files::frames(&segment).last().unwrap().end;
    files::overwrite(&segment, end, &[96, 0, 0, 0, 1, 1, 1, 1]);
    fs::remove_file(crashed.join("LOCK")).unwrap();
    fs::create_dir(crashed.join("LOCK")).unwrap();
    let kept = || fs::read_dir(crashed.join("quarantine")).unwrap().count();
    for _ in 0..3 {
        assert!(os().open(&crashed).is_err());
        assert_eq!(kept(), 1);
    }
    fs::remove_dir(crashed.join("LOCK")).unwrap();
    // As if it had ended while it wrote the segment again.
    let unfinished = crashed.join(format!("{}.tmp", files::name(&segment)));
    fs::write(&unfinished, fs::read(&segment).unwrap()).unwrap();
    let store = os().open(&crashed).unwrap();
    assert_eq!((kept(), store.recovery().quarantined.len(), unfinished.exists()), (1, 1, false));
    assert_eq!(told::all(&store), all);
}

/// C4: a newest segment that never became part of the log goes into quarantine whole, and never over an earlier one.
#[test]
fn a_segment_whose_header_never_reached_the_disk_is_kept_and_the_log_goes_on_without_it() {
    let scratch = Scratch::new();
    let (crashed, all) = crashed(&scratch, Durability::Os);
    let unborn = crashed.join(format!("{:020}.seg", all.len() + 1));
    for (round, late_page) in [(1u8, false), (2, true)] {
        fs::write(&unborn, vec![0; 64 << 10]).unwrap();
        if late_page {
            // A later page did reach the disk: it is kept too.
            files::overwrite(&unborn, 5 * FRAMES, &[round; 100]);
        }
        let store = os().open(&crashed).unwrap();
        assert_eq!(told::all(&store), all);
        let [quarantined] = &store.recovery().quarantined[..] else { panic!("{:?}", store.recovery()) };
        assert_eq!(quarantined.segment, files::name(&unborn));
        let kept = fs::read(crashed.join("quarantine").join(&quarantined.file)).unwrap();
        assert_eq!(kept.contains(&round), late_page);
        drop(store);
        // Back to one segment, unclean, for the next round.
        for path in files::segments(&crashed).into_iter().skip(1) {
            fs::remove_file(path).unwrap();
        }
        fs::remove_file(crashed.join("LOCK")).unwrap();
    }
    assert_eq!(fs::read_dir(crashed.join("quarantine")).unwrap().count(), 2);
}

/// C2, C6: a blank header where durable events stood is damage, not a segment that was never born.
#[test]
fn a_blanked_header_over_durable_events_is_told_and_changes_nothing() {
    let scratch = Scratch::new();
    let (first, _) = crashed(&scratch, Durability::Sync);
    let store = tiny(Durability::Sync).open(&first).unwrap();
    store.append("cart-1", NewEvent::new("in the second segment", "")).unwrap();
    let copy = scratch.path().join("copy");
    files::copy(&first, &copy);
    let newest = files::newest(&copy);
    assert_eq!(files::segments(&copy).len(), 2);
    files::overwrite(&newest, 0, &[0; FRAMES as usize]);
    let before = files::snapshot(&copy);
    let error = told::refusal(tiny(Durability::Sync), &copy);
    assert!(error.to_string().contains(&files::name(&newest)), "{error}");
    assert_eq!(files::snapshot(&copy), before);
}

/// C7.
#[test]
fn a_second_writer_is_refused_and_told_who_holds_the_lock() {
    let scratch = Scratch::new();
    let store = scratch.open();
    store.append("s-1", NewEvent::new("t", "")).unwrap();
    let error = told::refusal(small(), &scratch.store_path());
    assert!(matches!(error, Error::Locked { holder: Some(pid), .. } if pid == std::process::id()), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&std::process::id().to_string()) && text.contains("orders.towpath"), "{text}");
    for advice in ["delete", "remove", "unlink", "rm "] {
        assert!(!text.contains(advice), "{text}");
    }
    // Not even deleting the file makes room for a second writer: the lock is not the file.
    fs::remove_file(scratch.store_path().join("LOCK")).unwrap();
    assert!(matches!(told::refusal(small(), &scratch.store_path()), Error::Locked { holder: None, .. }));
    // Control: it was the lock and nothing else.
    drop(store);
    small().open(scratch.store_path()).unwrap();
}

/// Many segments of 64 KiB, closed in good order.
fn many_segments(scratch: &Scratch, events: u32) -> Vec<Told> {
    let store = os().open(scratch.store_path()).unwrap();
    let payload = [7; 1000];
    for number in 0..events {
        let mut commit = Commit::new();
        let event = NewEvent::new("t", &payload).tag(format!("n:{}", number % 10));
        commit.event(&format!("s-{}", number % 7), event);
        store.submit(&commit).unwrap();
    }
    store.sync().unwrap();
    let all = told::all(&store);
    store.close().unwrap();
    all
}

/// C8. A thousand segments in the long run.
#[test]
fn opening_reads_the_newest_segment_only() {
    let few = Scratch::new();
    many_segments(&few, 10);
    let many = Scratch::new();
    let wanted = if std::env::var_os("TOWPATH_LONG").is_some() { 65_000 } else { 2_500 };
    let all = many_segments(&many, wanted);
    let segments = files::segments(&many.store_path());
    assert!(segments.len() >= 40, "{}", segments.len());

    let bytes_read = |scratch: &Scratch| os().open(scratch.store_path()).unwrap().recovery().bytes_read;
    let (of_few, of_many) = (bytes_read(&few), bytes_read(&many));
    assert!(of_few > 0 && of_many <= 64 << 10, "{of_few}, {of_many}");

    // The same after a crash, when everything was synced before.
    let store = os().open(many.store_path()).unwrap();
    store.append("s-1", NewEvent::new("t", "")).unwrap();
    let crashed = many.path().join("crashed");
    files::copy(&many.store_path(), &crashed);
    drop(store);
    assert!(os().open(&crashed).unwrap().recovery().bytes_read <= 64 << 10);

    // What sealed segments hold does not matter for opening: not one byte of it is right any more.
    for segment in &segments[..segments.len() - 2] {
        let len = fs::metadata(segment).unwrap().len();
        fs::write(segment, vec![0xee; len as usize]).unwrap();
    }
    let store = os().open(many.store_path()).unwrap();
    assert!(store.recovery().bytes_read <= 64 << 10);
    assert_eq!(store.head().get(), all.len() as u64 + 1);
    store.append("s-1", NewEvent::new("t", "")).unwrap();
    // Control: it does matter for reading.
    assert!(store.read(Query::new()).any(|item| item.is_err()));
}

/// C8: under `Os` the segments that were sealed are on the disk before long, so a killed process does not make the next
/// one read its history.
#[test]
fn opening_after_a_crash_does_not_read_the_history_either() {
    let scratch = Scratch::new();
    let store = os().open(scratch.store_path()).unwrap();
    let payload = [7; 1000];
    for _ in 0..1_000 {
        store.append("s-1", NewEvent::new("t", &payload)).unwrap();
    }
    // Sealing goes on beside the writer; its index file is the last thing made for a segment.
    let sealed = files::segments(&scratch.store_path()).len() - 1;
    assert!(sealed > 10);
    while files::indexes(&scratch.store_path()).len() < sealed {
        std::thread::yield_now();
    }
    let crashed = scratch.path().join("crashed");
    files::copy(&scratch.store_path(), &crashed);
    let recovered = os().open(&crashed).unwrap();
    assert_eq!(told::all(&recovered), told::all(&store));
    assert!(recovered.recovery().bytes_read <= 128 << 10, "{}", recovered.recovery().bytes_read);
}

/// What the indexes answer.
fn answers(store: &Store) -> Vec<Vec<Told>> {
    let queries = [
        Query::new(),
        Query::new().stream("s-3"),
        Query::new().tags(["n:4"]),
        Query::new().types(["none"]),
        Query::new().stream("s-3").tags(["n:4"]),
    ];
    let forward = queries.clone().map(|query| told::read(store, query).0);
    let backward = queries.map(|query| store.read(query).backwards().map(|e| Told::of(&e.unwrap())).collect());
    forward.into_iter().chain(backward).collect()
}

/// C9.
#[test]
fn index_files_that_are_gone_or_garbage_are_made_again_with_the_same_answers() {
    let scratch = Scratch::new();
    many_segments(&scratch, 400);
    let path = scratch.store_path();
    let store = os().open(&path).unwrap();
    let expected = answers(&store);
    drop(store);
    let sound: Vec<_> = files::indexes(&path).iter().map(|index| (index.clone(), fs::read(index).unwrap())).collect();
    assert!(sound.len() >= 5);
    assert!(expected[1].len() > 50 && expected[2].len() == 40, "control: the questions have answers");

    type Spoil = fn(&Path);
    let ways: [(&str, Spoil); 9] = [
        ("deleted", |index| fs::remove_file(index).unwrap()),
        ("empty", |index| files::set_len(index, 0)),
        ("one byte", |index| files::set_len(index, 1)),
        ("cut in the header", |index| files::set_len(index, 1000)),
        ("cut by its last byte", |index| files::set_len(index, fs::metadata(index).unwrap().len() - 1)),
        ("longer", |index| files::set_len(index, fs::metadata(index).unwrap().len() + 4096)),
        ("garbage", |index| fs::write(index, vec![0xa5; 9000]).unwrap()),
        ("a flipped bit in the header", |index| files::flip(index, 50, 3)),
        ("garbage behind the header", |index| {
            let len = fs::metadata(index).unwrap().len();
            files::overwrite(index, FRAMES, &vec![0x5a; (len - FRAMES) as usize]);
        }),
    ];
    for (what, spoil) in ways {
        for (index, _) in &sound {
            spoil(index);
        }
        let read_only = Store::open_read_only(&path).unwrap();
        assert_eq!(answers(&read_only), expected, "{what}, read-only");
        drop(read_only);
        assert!(sound.iter().all(|(index, bytes)| fs::read(index).ok().as_ref() != Some(bytes)), "{what}: control");
        let store = os().open(&path).unwrap();
        assert_eq!(answers(&store), expected, "{what}");
        store.close().unwrap();
        for (index, bytes) in &sound {
            assert!(fs::read(index).unwrap() == *bytes, "{what}: {} was not made again", index.display());
        }
    }
}

/// C9: one bad page in an index file, wherever it is.
#[test]
fn an_index_file_with_one_bad_page_gives_the_same_answers_and_is_made_again() {
    let scratch = Scratch::new();
    many_segments(&scratch, 100);
    let path = scratch.store_path();
    let expected = answers(&os().open(&path).unwrap());
    let index = files::indexes(&path)[0].clone();
    let sound = fs::read(&index).unwrap();
    let used: Vec<u64> = (0..sound.len() as u64).filter(|at| sound[*at as usize] != 0).collect();
    for at in used.iter().step_by(23) {
        files::flip(&index, *at, (*at % 8) as u32);
        let store = os().open(&path).unwrap();
        assert_eq!(answers(&store), expected, "flip at {at}");
        // A second look, by which what was found bad has been put right.
        assert_eq!(answers(&store), expected, "flip at {at}");
        drop(store);
        let found = fs::read(&index).unwrap();
        if found != sound {
            // A page that no question touched stays as it is, and `verify` tells of it.
            assert!(!towpath::inspect::verify(&path, |_| {}).unwrap().ok, "flip at {at} stays and is not told");
            fs::write(&index, &sound).unwrap();
        }
    }
}

/// C10, as far as it goes without a failing disk: nothing is written any more into a segment that an unclean end left.
#[test]
fn after_an_unclean_end_writing_goes_on_in_a_new_segment() {
    let scratch = Scratch::new();
    let (crashed, all) = crashed(&scratch, Durability::Sync);
    let old = files::newest(&crashed);
    let end = files::frames(&old).last().unwrap().end;
    let written = fs::read(&old).unwrap()[..end as usize].to_vec();

    let store = tiny(Durability::Sync).open(&crashed).unwrap();
    assert!(!store.recovery().clean);
    store.append("cart-1", NewEvent::new("after", "")).unwrap();
    let segments = files::segments(&crashed);
    assert_eq!(segments.len(), 2);
    assert_eq!(files::name(&segments[1]), format!("{:020}.seg", all.len() + 1));
    assert_eq!(fs::read(&old).unwrap(), written, "the old segment ends where its last commit does");
    store.close().unwrap();

    // Control: after an end in good order it goes on where it was.
    let store = tiny(Durability::Sync).open(&crashed).unwrap();
    assert!(store.recovery().clean);
    store.append("cart-1", NewEvent::new("after", "")).unwrap();
    assert_eq!(files::segments(&crashed).len(), 2);
}

/// C11: whatever of recovery's work was done when it was cut short, doing it again comes to the same.
#[test]
fn recovery_that_was_cut_short_comes_to_the_same_when_run_again() {
    let scratch = Scratch::new();
    let (crashed, all) = crashed(&scratch, Durability::Os);
    let segment = files::newest(&crashed);
    let (end, last) = *commit_ends(&segment).iter().rev().nth(1).unwrap();
    files::set_len(&segment, files::frames(&segment).last().unwrap().offset + 44);
    files::set_len(&segment, 64 << 10);
    let expected = &all[..last as usize];

    let whole = scratch.path().join("whole");
    files::copy(&crashed, &whole);
    drop(os().open(&whole).unwrap());
    let done = files::snapshot(&whole);
    let kept_name = done.keys().find(|path| path.parent().unwrap().ends_with("quarantine")).unwrap();
    let kept = fs::read(kept_name).unwrap();
    let newest = files::newest(&whole);

    type Stage<'a> = (&'a str, Box<dyn Fn(&Path) + 'a>);
    let put_kept = |dir: &Path, bytes: &[u8]| {
        let _there = fs::create_dir(dir.join("quarantine"));
        fs::write(dir.join("quarantine").join(files::name(kept_name)), bytes).unwrap();
    };
    let stages: Vec<Stage<'_>> = vec![
        ("nothing done", Box::new(|_| {})),
        ("quarantine made", Box::new(|dir| fs::create_dir(dir.join("quarantine")).unwrap())),
        ("quarantine half written", Box::new(|dir| put_kept(dir, &kept[..kept.len() / 2]))),
        ("quarantine written", Box::new(|dir| put_kept(dir, &kept))),
        (
            "tail cut",
            Box::new(|dir| {
                put_kept(dir, &kept);
                files::set_len(&files::newest(dir), end);
            }),
        ),
        (
            "spare made",
            Box::new(|dir| {
                put_kept(dir, &kept);
                files::set_len(&files::newest(dir), end);
                fs::write(dir.join("spare.tmp"), vec![0; 64 << 10]).unwrap();
            }),
        ),
        (
            "new segment blank",
            Box::new(|dir| {
                put_kept(dir, &kept);
                files::set_len(&files::newest(dir), end);
                fs::write(dir.join(files::name(&newest)), vec![0; 64 << 10]).unwrap();
            }),
        ),
        (
            "new segment without its control state",
            Box::new(|dir| {
                put_kept(dir, &kept);
                files::set_len(&files::newest(dir), end);
                let mut bytes = fs::read(&newest).unwrap();
                bytes[FRAMES as usize..].fill(0);
                fs::write(dir.join(files::name(&newest)), bytes).unwrap();
            }),
        ),
        (
            "new segment begun",
            Box::new(|dir| {
                put_kept(dir, &kept);
                files::set_len(&files::newest(dir), end);
                fs::copy(&newest, dir.join(files::name(&newest))).unwrap();
            }),
        ),
    ];
    for (what, prepare) in &stages {
        let work = scratch.path().join("work");
        files::copy(&crashed, &work);
        prepare(&work);
        for _ in 0..2 {
            keeps(&work, expected)
                .or_else(|why| {
                    // The second time one event more is there.
                    let store = os().open(&work).map_err(|error| error.to_string())?;
                    let found = told::all(&store);
                    (found.len() == expected.len() + 1 && found[..expected.len()] == *expected).then_some(()).ok_or(why)
                })
                .unwrap_or_else(|why| panic!("{what}: {why}"));
        }
        assert!(towpath::inspect::verify(&work, |_| {}).unwrap().ok, "{what}");
        let kept_now = fs::read_dir(work.join("quarantine")).unwrap();
        assert!(kept_now.map(|entry| fs::read(entry.unwrap().path()).unwrap()).any(|bytes| bytes == kept), "{what}");
    }
    // Control: the check tells another history apart.
    assert!(keeps(&crashed, &all).is_err());
}
