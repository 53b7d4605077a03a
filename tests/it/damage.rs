//! Bytes that changed after they were stored: C2, C12, R6.

use std::fs;
use std::path::{Path, PathBuf};

use towpath::{Canal as _, Commit, Error, NewEvent, Query, Reason, Settlement, Start, Store, inspect};

use crate::support::files::{self, FRAMES, Forged};
use crate::support::told::{self, Told};
use crate::support::{Scratch, os};

/// A store of three small segments with a checkpoint, closed in good order. Each segment but the last ended in a crash.
fn small_store(scratch: &Scratch) -> PathBuf {
    let mut path = scratch.store_path();
    for round in 0..3u8 {
        let store = os().open(&path).unwrap();
        store.append("cart-1", NewEvent::new("added", &[round; 20]).tag("sku:tea")).unwrap();
        let mut pair = Commit::new();
        pair.event("cart-2", NewEvent::new("added", &[round; 5])).event("cart-1", NewEvent::new("gone", ""));
        store.commit(pair.key(&format!("key-{round}"))).unwrap();
        let mut cursor = store.cursor("reader").open().unwrap();
        let batch = cursor.pull_batch(2, std::time::Duration::ZERO).unwrap();
        cursor.settle(batch.last().unwrap(), Settlement::Done).unwrap();
        cursor.flush().unwrap();
        if round == 2 {
            drop(cursor);
            store.close().unwrap();
        } else {
            let copy = scratch.path().join(format!("round-{round}"));
            files::copy(&path, &copy);
            path = copy;
        }
    }
    // Index files are made when somebody reads.
    let store = os().open(&path).unwrap();
    assert_eq!(told::all(&store).len(), 9);
    store.close().unwrap();
    assert_eq!((files::segments(&path).len(), files::indexes(&path).len()), (3, 2));
    path
}

/// Everything that a store answers.
#[derive(Debug, PartialEq, Eq)]
struct Answers {
    all: Vec<Told>,
    of_stream: Vec<Told>,
    of_tag: Vec<Told>,
    backward: Vec<Told>,
    checkpoints: Vec<(String, u64)>,
}

/// What opening and reading gave: the answers, and whether anything was told on the way.
fn ask(store: &Store) -> (Answers, bool) {
    let (all, errors) = told::read(store, Query::new());
    let (of_stream, of_stream_errors) = told::read(store, Query::new().stream("cart-2"));
    let (of_tag, of_tag_errors) = told::read(store, Query::new().tags(["sku:tea"]));
    let mut backward: Vec<_> = store.read(Query::new()).backwards().filter_map(|e| Some(Told::of(&e.ok()?))).collect();
    backward.reverse();
    let told = !errors.is_empty() || !of_stream_errors.is_empty() || !of_tag_errors.is_empty();
    let checkpoints = store.consumers().unwrap().into_iter().map(|c| (c.name, c.position.get())).collect();
    (Answers { all, of_stream, of_tag, backward, checkpoints }, told || !store.recovery().quarantined.is_empty())
}

/// Whether a damaged store says so, or answers as if nothing had happened. An event that was never written is wrong
/// whatever it says.
fn told_or_harmless(path: &Path, sound: &Answers) -> Result<bool, String> {
    let verdict = inspect::verify(path, |_| {});
    let told_by_verify = verdict.as_ref().map_or(true, |verdict| !verdict.ok);
    let read_only = Store::open_read_only(path).ok().map(|store| ask(&store));
    let opened = os().open(path).ok().map(|store| ask(&store));
    let mut told_by_any = told_by_verify;
    for (way, found) in [("read-only", &read_only), ("for writing", &opened)] {
        let Some((found, told)) = found else {
            told_by_any = true;
            continue;
        };
        let events = [&found.all, &found.of_stream, &found.of_tag, &found.backward];
        if let Some(wrong) = events.into_iter().flatten().find(|event| !sound.all.contains(event)) {
            return Err(format!("opened {way}: never written: {wrong:?}"));
        }
        if found != sound && !told && !(way == "read-only" && told_by_verify) {
            return Err(format!("opened {way}: other answers without a word: {found:#?}"));
        }
        told_by_any |= told;
    }
    Ok(told_by_any)
}

/// C2. All written bytes of all files, one bit a byte, each time another one; all eight with `TOWPATH_LONG=1`. Of the
/// blank rest of each file some bytes.
#[test]
fn a_flipped_bit_is_told_or_harmless() {
    let scratch = Scratch::in_memory();
    let path = small_store(&scratch);
    let (sound, told) = ask(&os().open(&path).unwrap());
    assert!(!told && sound.checkpoints == [("reader".to_owned(), 7)], "{sound:?}");
    let long = std::env::var_os("TOWPATH_LONG").is_some();

    let work = scratch.path().join("work");
    let mut tried = 0;
    let mut silent = Vec::new();
    for (file, (_, bytes)) in files::snapshot(&path) {
        let name = files::name(&file);
        let is_written =
            |at: &usize| bytes[*at] != 0 || bytes[at.saturating_sub(3)..(at + 4).min(bytes.len())] != [0; 7];
        let written = (0..bytes.len()).filter(is_written);
        let blank = (0..bytes.len()).filter(|at| !is_written(at)).step_by(1999);
        for at in written.chain(blank) {
            let bits = if long { 0..8 } else { at as u32 % 8..at as u32 % 8 + 1 };
            for bit in bits {
                files::copy(&path, &work);
                files::flip(&work.join(&name), at as u64, bit);
                match told_or_harmless(&work, &sound) {
                    Ok(true) => {}
                    Ok(false) if name == "LOCK" || bytes[at] == 0 && at as u64 >= FRAMES => {}
                    Ok(false) => silent.push((name.clone(), at, bit)),
                    Err(why) => panic!("bit {bit} of byte {at} of {name}: {why}"),
                }
                tried += 1;
            }
        }
    }
    assert!(tried > 1_000, "{tried}");
    // Nothing but blank space, and the lock file, which nobody has to believe, may change in silence.
    assert_eq!(silent, []);

    // Control: a change that fits its checksum is found by comparing, so a wrong event would have been.
    files::copy(&path, &work);
    let segment = &files::segments(&work)[0];
    let frame = files::frame_of(segment, 1);
    let len =
        u64::from(u32::from_le_bytes(fs::read(segment).unwrap()[frame.offset as usize..][..4].try_into().unwrap()));
    files::flip(segment, frame.offset + len - 1, 0);
    let bytes = fs::read(segment).unwrap()[frame.offset as usize..][..len as usize].to_vec();
    let sum = files::crc(files::nonce(segment) ^ len as u32, &bytes[8..]);
    files::overwrite(segment, frame.offset + 4, &sum.to_le_bytes());
    assert!(told_or_harmless(&work, &sound).unwrap_err().contains("never written"));
}

/// A segment of ten events, sealed because the writer crashed and another one came, and one event behind it.
fn sealed_and_newest(scratch: &Scratch, payload: impl Fn(u64) -> Vec<u8>) -> PathBuf {
    let store = os().open(scratch.store_path()).unwrap();
    for number in 1..=10 {
        store.append("s-1", NewEvent::new("t", &payload(number))).unwrap();
    }
    let path = scratch.path().join("sealed");
    files::copy(&scratch.store_path(), &path);
    let store = os().open(&path).unwrap();
    store.append("s-1", NewEvent::new("t", "last")).unwrap();
    store.close().unwrap();
    path
}

fn positions(events: &[Told]) -> Vec<u64> {
    events.iter().map(|event| event.position).collect()
}

/// R6.
#[test]
fn a_damaged_stretch_is_an_item_of_its_own_and_reading_goes_on_behind_it() {
    let scratch = Scratch::new();
    let path = sealed_and_newest(&scratch, |number| vec![number as u8; 50]);
    let segment = files::segments(&path)[0].clone();
    let frame = files::frame_of(&segment, 4);
    files::flip(&segment, frame.offset + 60, 1);

    for read_only in [true, false] {
        let store = if read_only { Store::open_read_only(&path).unwrap() } else { os().open(&path).unwrap() };
        for query in [Query::new(), Query::new().stream("s-1"), Query::new().types(["t"])] {
            let (events, errors) = told::read(&store, query.clone());
            assert_eq!(positions(&events), [1, 2, 3, 5, 6, 7, 8, 9, 10, 11]);
            let [Error::Damaged(damage)] = &errors[..] else { panic!("{errors:?}") };
            let expected = (files::name(&segment), frame.offset, frame.end - frame.offset, 4);
            let found = (damage.segment.clone(), damage.offset, damage.length, damage.position.get());
            assert_eq!(found, expected);
            let backward: Vec<_> = store.read(query).backwards().map(|e| e.map_or(0, |e| e.position().get())).collect();
            assert_eq!(backward, [11, 10, 9, 8, 7, 6, 5, 0, 3, 2, 1]);
        }
        let point = |position| store.event(towpath::Position::new(position));
        assert!(matches!(point(4), Err(Error::Damaged(_))));
        assert_eq!(point(5).unwrap().unwrap().payload(), [5; 50]);
        let mut cursor = store.follow().open().unwrap();
        let mut seen = Vec::new();
        loop {
            match cursor.pull_batch(3, std::time::Duration::ZERO) {
                Ok(batch) if batch.is_empty() => break,
                Ok(batch) => seen.extend(batch.iter().map(|event| event.position().get())),
                Err(Error::Damaged(damage)) => seen.push(1000 + damage.position.get()),
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(seen, [1, 2, 3, 1004, 5, 6, 7, 8, 9, 10, 11]);
    }
    let verdict = inspect::verify(&path, |_| {}).unwrap();
    assert!(!verdict.ok && verdict.damage.len() == 1 && verdict.events == 10, "{verdict:?}");
}

/// R6: several stretches, at the ends too.
#[test]
fn several_damaged_stretches_are_told_one_by_one() {
    let scratch = Scratch::new();
    let path = sealed_and_newest(&scratch, |number| vec![number as u8; 50]);
    let segment = files::segments(&path)[0].clone();
    for position in [1, 5, 6, 9] {
        files::flip(&segment, files::frame_of(&segment, position).offset + 45, 2);
    }
    let store = os().open(&path).unwrap();
    let (events, errors) = told::read(&store, Query::new());
    assert_eq!(positions(&events), [2, 3, 4, 7, 8, 10, 11]);
    let places: Vec<_> = errors
        .iter()
        .map(|error| match error {
            Error::Damaged(damage) => damage.position.get(),
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(places, [1, 5, 9], "neighbours are one stretch");
}

/// R6: two stretches of which the second one reaches the end of the segment, so that nothing behind them bears witness.
#[test]
fn sound_events_between_two_damaged_stretches_are_found_by_the_index_file() {
    for is_indexed in [true, false] {
        let scratch = Scratch::new();
        let path = sealed_and_newest(&scratch, |number| vec![number as u8; 50]);
        assert_eq!(told::all(&os().open(&path).unwrap()).len(), 11);
        let segment = files::segments(&path)[0].clone();
        files::flip(&segment, files::frame_of(&segment, 3).offset + 45, 2);
        let from = files::frame_of(&segment, 8).offset;
        let len = fs::metadata(&segment).unwrap().len() - from;
        files::overwrite(&segment, from, &vec![0xff; len as usize]);
        if !is_indexed {
            files::indexes(&path).iter().for_each(|index| fs::remove_file(index).unwrap());
        }
        let store = Store::open_read_only(&path).unwrap();
        let found = |reader: towpath::Reader| -> Vec<u64> {
            reader
                .map(|event| event.map_or_else(|error| 1000 + place(&error), |event| event.position().get()))
                .collect()
        };
        // Control: without the file what stands between could be the bytes of frames in the payload of one.
        let expected: &[u64] = if is_indexed { &[1, 2, 1003, 4, 5, 6, 7, 1008, 11] } else { &[1, 2, 1003, 11] };
        for query in [Query::new(), Query::new().stream("s-1")] {
            assert_eq!(found(store.read(query.clone())), expected);
            let mut backward = found(store.read(query).backwards());
            backward.reverse();
            assert_eq!(backward, expected);
        }
        assert_eq!(inspect::verify(&path, |_| {}).unwrap().damage.len(), if is_indexed { 2 } else { 1 });
        assert_eq!(store.event(5.into()).is_ok(), is_indexed);
    }
}

fn place(error: &Error) -> u64 {
    match error {
        Error::Damaged(damage) => damage.position.get(),
        other => panic!("{other}"),
    }
}

/// R6: a page of zeroes or garbage, anywhere.
/// One segment of a hundred events in two streams, as a killed writer leaves it, so that only the index in memory knows
/// where they are. `damage` gets the segment's file and its frames.
fn a_hundred_events_of_which_some_are_damaged(damage: impl FnOnce(&Path, &dyn Fn(u64) -> files::RawFrame)) -> Scratch {
    let scratch = Scratch::new();
    let store = os().open(scratch.store_path()).unwrap();
    for number in 1..=100u64 {
        let stream = if number % 10 == 5 { "cart-1" } else { "cart-2" };
        store.append(stream, NewEvent::new("added", &[7; 50])).unwrap();
    }
    let killed = scratch.as_if_killed();
    let segment = files::newest(&killed.store_path());
    damage(&segment, &|position| files::frame_of(&segment, position));
    killed
}

/// The index keeps an offset for each run of 32 events; a stretch of damage may begin in one run and end in another.
#[test]
fn the_event_behind_a_damaged_one_is_found_wherever_it_stands() {
    for damaged in 2..=70 {
        let scratch = a_hundred_events_of_which_some_are_damaged(|segment, frame| {
            files::flip(segment, frame(damaged).offset + 100, 3);
        });
        let store = Store::open_read_only(scratch.store_path()).unwrap();
        let behind = store.event((damaged + 1).into()).unwrap().unwrap();
        assert_eq!(behind.position().get(), damaged + 1);
        let from_there: Vec<u64> =
            store.read(Query::new()).from((damaged + 1).into()).flatten().map(|event| event.position().get()).collect();
        assert_eq!(from_there, (damaged + 1..=100).collect::<Vec<_>>(), "behind {damaged}");
        // The control: the damaged one is told, at its own place.
        assert!(matches!(store.event(damaged.into()), Err(Error::Damaged(damage)) if damage.position.get() == damaged));
    }
}

#[test]
fn a_stretch_over_many_runs_is_told_once_in_each_direction_and_by_the_index_alike() {
    let scratch = a_hundred_events_of_which_some_are_damaged(|segment, frame| {
        files::flip(segment, frame(3).offset + 100, 3);
        (20..=85).for_each(|position| files::flip(segment, frame(position).offset + 100, 3));
        files::flip(segment, frame(92).offset + 100, 3);
    });
    let store = Store::open_read_only(scratch.store_path()).unwrap();
    let damage = |reader: towpath::Reader| -> Vec<(u64, u64)> {
        let told = reader.filter_map(Result::err).map(|error| match error {
            Error::Damaged(damage) => (damage.position.get(), damage.length),
            other => panic!("{other}"),
        });
        told.collect()
    };
    let forward = damage(store.read(Query::new()));
    assert_eq!(forward.iter().map(|(position, _)| *position).collect::<Vec<_>>(), [3, 20, 92]);
    let mut backward = damage(store.read(Query::new()).backwards());
    backward.reverse();
    assert_eq!(backward, forward);
    assert_eq!(damage(store.read(Query::new().stream("cart-1"))), forward);
    let (of_stream, _) = told::read(&store, Query::new().stream("cart-1"));
    assert_eq!(positions(&of_stream), [5, 15, 95]);
}

#[test]
fn a_lost_page_takes_only_the_events_in_it() {
    let scratch = Scratch::new();
    let path = sealed_and_newest(&scratch, |number| vec![number as u8; 1500]);
    let segment = files::segments(&path)[0].clone();
    let sound = fs::read(&segment).unwrap();
    for page in 1..sound.len() as u64 / 4096 {
        for filler in [0u8, 0xff] {
            let lost = page * 4096..(page + 1) * 4096;
            files::overwrite(&segment, lost.start, &[filler; 4096]);
            let store = Store::open_read_only(&path).unwrap();
            let (events, errors) = told::read(&store, Query::new());
            fs::write(&segment, &sound).unwrap();
            let whole = files::frames(&segment).into_iter().filter(|frame| !frame.is_control);
            let whole = whole.filter(|frame| frame.end <= lost.start || frame.offset >= lost.end);
            let expected: Vec<_> = whole.map(|frame| frame.position).chain([11]).collect();
            assert_eq!(positions(&events), expected, "page {page}, {filler}");
            assert_eq!(errors.len(), 1, "page {page}: {errors:?}");
        }
    }
}

/// R6: a segment whose header is lost, or that is gone or cut under an open store's feet.
#[test]
fn behind_a_segment_that_cannot_be_opened_reading_goes_on() {
    let scratch = Scratch::new();
    let path = small_store(&scratch);
    let [first, middle, _] = &files::segments(&path)[..] else { panic!("three segments") };
    type Spoil = fn(&Path);
    let ways: [(&str, Spoil, &Path, [u64; 6]); 6] = [
        ("a flipped bit in the header", |segment| files::flip(segment, 2000, 0), first, [4, 5, 6, 7, 8, 9]),
        ("a flipped bit in the header", |segment| files::flip(segment, 2000, 0), middle, [1, 2, 3, 7, 8, 9]),
        ("garbage", |segment| fs::write(segment, vec![0xee; 6000]).unwrap(), first, [4, 5, 6, 7, 8, 9]),
        ("empty", |segment| fs::write(segment, "").unwrap(), first, [4, 5, 6, 7, 8, 9]),
        ("cut in the frames", |segment| files::set_len(segment, FRAMES + 10), first, [4, 5, 6, 7, 8, 9]),
        ("cut in the frames", |segment| files::set_len(segment, FRAMES + 10), middle, [1, 2, 3, 7, 8, 9]),
    ];
    for (what, spoil, segment, kept) in ways {
        let sound = fs::read(segment).unwrap();
        spoil(segment);
        let what = format!("{what}, {}", files::name(segment));
        for store in [Store::open_read_only(&path).unwrap(), os().open(&path).unwrap()] {
            let (events, errors) = told::read(&store, Query::new());
            assert_eq!(positions(&events), kept, "{what}: {errors:?}");
            assert_eq!(errors.len(), 1, "{what}: {errors:?}");
            assert!(errors[0].to_string().contains(&files::name(segment)), "{what}: {errors:?}");
            let backward = store.read(Query::new()).backwards();
            let mut backward: Vec<_> = backward.map(|event| event.map_or(0, |event| event.position().get())).collect();
            assert_eq!(backward.iter().filter(|position| **position == 0).count(), 1, "{what}: told once");
            backward.retain(|position| *position > 0);
            backward.reverse();
            assert_eq!(backward, kept, "{what}");
        }
        assert!(!inspect::verify(&path, |_| {}).unwrap().ok, "{what}");
        fs::write(segment, &sound).unwrap();
    }
    // Control: everything was put back.
    assert!(inspect::verify(&path, |_| {}).unwrap().ok);
}

/// R6: damage at the end of a segment that is longer than one run of the index, read backward.
/// Nothing but its name then says how far the segment before it went.
#[test]
fn a_lost_end_is_told_when_the_segment_behind_it_cannot_be_opened_either() {
    let scratch = Scratch::new();
    let path = small_store(&scratch);
    let [first, second, _] = &files::segments(&path)[..] else { panic!() };
    let frames = files::frames(first);
    let events = frames.iter().filter(|frame| !frame.is_control).count() as u64;
    for lost in frames.iter().filter(|frame| !frame.is_control) {
        let copy = scratch.path().join(format!("copy-{}", lost.position));
        files::copy(&path, &copy);
        files::indexes(&copy).iter().for_each(|index| fs::remove_file(index).unwrap());
        files::blank_from(&copy.join(first.file_name().unwrap()), lost.offset);
        files::flip(&copy.join(second.file_name().unwrap()), 2000, 0);
        let store = Store::open_read_only(&copy).unwrap();
        for query in [Query::new(), Query::new().stream("cart-2"), Query::new().types(["gone"])] {
            let (_, errors) = told::read(&store, query);
            assert!(errors.iter().any(|error| place(error) <= lost.position), "{}: {errors:?}", lost.position);
        }
        for position in lost.position..=events {
            let found = store.event(position.into());
            assert!(matches!(found, Err(Error::Damaged(_))), "{position}: {found:?}");
        }
    }
    // Control: what is whole is not told of.
    files::flip(second, 2000, 0);
    let (read, errors) = told::read(&Store::open_read_only(&path).unwrap(), Query::new());
    assert_eq!((read.len() as u64, place(&errors[0])), (events + 3, events + 1));
}

#[test]
fn a_lost_end_of_a_segment_is_told_backward_too() {
    let scratch = Scratch::new();
    let store = os().open(scratch.store_path()).unwrap();
    for _ in 0..200 {
        store.append("s-1", NewEvent::new("t", "")).unwrap();
    }
    let path = scratch.path().join("sealed");
    files::copy(&scratch.store_path(), &path);
    drop(os().open(&path).unwrap());
    let segment = files::segments(&path)[0].clone();
    files::set_len(&segment, files::frame_of(&segment, 51).offset + 7);
    let store = Store::open_read_only(&path).unwrap();
    assert_eq!(store.head().get(), 200);
    let backward: Vec<_> = store.read(Query::new()).backwards().collect();
    assert!(matches!(&backward[0], Err(Error::Damaged(damage)) if damage.position.get() == 51), "{:?}", backward[0]);
    assert_eq!(backward.len(), 51, "control: the others are there");
    assert_eq!(told::read(&store, Query::new()).1.len(), 1);
    assert!(store.event(towpath::Position::new(180)).is_err());
}

/// What may follow damage in a sealed segment: `lost` is the stream whose last event is damaged, `sound` another one.
fn nothing_is_given_away_again(path: &Path, key: &str) {
    let damaged = |result: towpath::Result<towpath::Receipt>| matches!(result, Err(Error::Damaged(_)));
    let store = os().open(path).unwrap();
    let head = store.head();
    assert!(matches!(store.revision("lost"), Err(Error::Damaged(_))));
    assert!(damaged(store.append("lost", NewEvent::new("t", ""))));
    assert!(damaged(store.commit(Commit::new().event("new", NewEvent::new("t", "lost")).key(key))));
    let mut asking = Commit::new();
    asking.event("sound", NewEvent::new("t", "")).rule({
        let key = key.to_owned();
        move |_, view| match (view.revision("lost"), view.has_key(&key)) {
            (Err(Error::Damaged(_)), Err(Error::Damaged(_))) => Err("both told".to_owned()),
            other => panic!("{other:?}"),
        }
    });
    assert!(matches!(store.commit(&asking), Err(Error::Refused { reason }) if reason == "both told"));
    assert_eq!(store.head(), head, "nothing was written");
    // Control: where a stream stands that goes on behind the damage is known.
    let sound = store.revision("sound").unwrap();
    assert_eq!(store.append("sound", NewEvent::new("t", "")).unwrap().revision(), sound.next());
    store.close().unwrap();
}

/// Two streams in a segment that is sealed, with index file or without; `sound` goes on in the newest one.
fn a_stream_that_ends_in_a_sealed_segment(scratch: &Scratch, is_indexed: bool) -> PathBuf {
    let store = os().open(scratch.store_path()).unwrap();
    for stream in ["lost", "sound", "lost", "sound"] {
        store.append(stream, NewEvent::new("t", "first")).unwrap();
    }
    store.commit(Commit::new().event("lost", NewEvent::new("t", "lost")).key("key")).unwrap();
    store.append("sound", NewEvent::new("t", "last")).unwrap();
    let path = scratch.path().join("sealed");
    files::copy(&scratch.store_path(), &path);
    let store = os().open(&path).unwrap();
    store.append("sound", NewEvent::new("t", "newest")).unwrap();
    assert_eq!(told::all(&store).len(), 7);
    store.close().unwrap();
    if !is_indexed {
        files::indexes(&path).iter().for_each(|index| fs::remove_file(index).unwrap());
    }
    path
}

/// W1, W7, C2: a revision and a key whose event is damaged are not given away once more.
#[test]
fn behind_a_damaged_last_event_of_a_stream_nothing_is_appended_to_it() {
    for is_indexed in [true, false] {
        let scratch = Scratch::new();
        let path = a_stream_that_ends_in_a_sealed_segment(&scratch, is_indexed);
        let segment = files::segments(&path)[0].clone();
        files::flip(&segment, files::frame_of(&segment, 5).offset + 45, 2);
        nothing_is_given_away_again(&path, "key");
        let store = os().open(&path).unwrap();
        // Whether another one is new the index file knows. Without it, it may have been in the damaged stretch.
        let new = store.append("brand-new", NewEvent::new("t", ""));
        match is_indexed {
            true => assert_eq!(new.unwrap().revision().get(), 1),
            false => assert!(matches!(new, Err(Error::Damaged(_)))),
        }
        assert_eq!(store.event_at("lost", 2.into()).unwrap().unwrap().position().get(), 3);
    }
    // Control: damage before the last event of a stream does not matter.
    let scratch = Scratch::new();
    let path = a_stream_that_ends_in_a_sealed_segment(&scratch, true);
    let segment = files::segments(&path)[0].clone();
    files::flip(&segment, files::frame_of(&segment, 3).offset + 45, 2);
    let store = os().open(&path).unwrap();
    assert_eq!(store.append("lost", NewEvent::new("t", "")).unwrap().revision().get(), 4);
    let again = store.commit(Commit::new().event("lost", NewEvent::new("t", "lost")).key("key")).unwrap();
    assert!(again.is_duplicate() && again.first().get() == 5);
}

/// The same where the whole segment cannot be opened: its index file, if there is one, knows what was there.
#[test]
fn behind_a_lost_segment_nothing_is_given_away_again_either() {
    for is_indexed in [true, false] {
        let scratch = Scratch::new();
        let path = a_stream_that_ends_in_a_sealed_segment(&scratch, is_indexed);
        files::flip(&files::segments(&path)[0], 2000, 0);
        nothing_is_given_away_again(&path, "key");
        let store = os().open(&path).unwrap();
        let (events, errors) = told::read(&store, Query::new());
        assert_eq!((positions(&events)[0], errors.len()), (7, 1), "{errors:?}");
        let new = store.append("brand-new", NewEvent::new("t", ""));
        assert_eq!(new.is_ok(), is_indexed, "{new:?}");
    }
}

/// R6, D1: a group goes on behind damage of which no index knows what it held, and numbers no dead letter twice.
#[test]
fn a_group_writes_its_dead_letters_behind_damage_that_may_have_held_others() {
    let scratch = Scratch::new();
    let path = a_stream_that_ends_in_a_sealed_segment(&scratch, false);
    let segment = files::segments(&path)[0].clone();
    files::flip(&segment, files::frame_of(&segment, 2).offset + 45, 2);
    files::flip(&segment, files::frame_of(&segment, 5).offset + 45, 2);
    let store = os().open(&path).unwrap();
    let letters = |store: &Store| {
        let letters = store.dead_letters("workers").unwrap().iter().unwrap();
        letters.filter_map(Result::ok).map(|letter| letter.number().get()).collect::<Vec<_>>()
    };
    let group = store.group("workers").start(Start::Beginning).open().unwrap();
    let mut member = group.member().unwrap();
    for _ in 0..9 {
        let batch = member.pull_batch(1, std::time::Duration::ZERO).unwrap();
        for delivery in batch.iter() {
            let (reason, why) = (Reason::Rejected, "no".to_owned());
            member.settle(delivery.token(), Settlement::Reject { reason, why }).unwrap();
        }
    }
    member.flush().unwrap();
    // Two were in the damage, at the most, so two numbers are left out.
    assert_eq!(letters(&store), (3..10).collect::<Vec<_>>());
    drop((member, group));
    store.close().unwrap();
    assert_eq!(letters(&os().open(&path).unwrap()).len(), 7, "control");
}

/// The shapes of C12: payloads around a forged frame.
fn shapes(forged: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let around = |before: usize, after: usize, filler: u8| {
        // The payload begins behind 40 bytes, `s-1` and `t`: 44. Four bytes more and a frame may begin.
        let mut payload = vec![b'x'; 4 + before];
        payload.extend_from_slice(forged);
        payload.resize(payload.len() + after, filler);
        payload
    };
    vec![
        ("at the end", around(0, 0, 0)),
        ("in the middle", around(64, 200, b'y')),
        ("followed by zeroes", around(8, 512, 0)),
        ("behind a sector", around(1024, 0, 0)),
        ("before a page of zeroes", around(0, 8192, 0)),
    ]
}

/// Ways to damage the frame at `frame` without touching what is forged inside it.
fn spoils(frame: files::RawFrame) -> Vec<(&'static str, u64, u8)> {
    let at = frame.offset;
    vec![
        ("length, smaller", at + 1, 0xff),
        ("length, a bit", at, 0x08),
        ("length, huge", at + 3, 0x40),
        ("checksum", at + 5, 0x10),
        ("position", at + 8, 0x01),
        ("flags: more", at + 32, 0x01),
        ("flags: control", at + 32, 0x02),
        ("stream", at + 41, 0x20),
    ]
}

/// Every way of reading finds only what was written, and never anything called `forged`.
fn nothing_is_forged(path: &Path, what: &str) {
    let look = |store: &Store, way: &str| {
        let queries = [Query::new(), Query::new().stream("s-1"), Query::new().stream("forged")];
        for query in queries {
            for back in [false, true] {
                let reader = store.read(query.clone());
                let reader = if back { reader.backwards() } else { reader };
                for event in reader.flatten() {
                    assert!(event.stream() != "forged" && event.type_name() != "forged", "{what}, {way}: {event:?}");
                }
            }
        }
        assert!(store.consumers().unwrap().is_empty(), "{what}, {way}: {:?}", store.consumers().unwrap());
    };
    if let Ok(verdict) = inspect::verify(path, |_| {}) {
        assert!(!verdict.ok || verdict.torn_bytes > 0, "{what}: {verdict:?}");
    }
    if let Ok(store) = Store::open_read_only(path) {
        look(&store, "read-only");
    }
    if let Ok(store) = os().open(path) {
        look(&store, "for writing");
        store.append("s-1", NewEvent::new("t", "after")).unwrap();
        look(&store, "for writing, after an append");
    }
}

/// C12. Every second shape unless `TOWPATH_LONG` is set. The forged frame has the right checksum for its segment: whoever wrote the payload could read the store's files.
#[test]
fn a_frame_stored_in_a_payload_is_never_brought_to_life() {
    const CHECKPOINT: &[u8] = b"\x02\x63\0\0\0\0\0\0\0\x06\0forged";
    let scratch = Scratch::in_memory();
    let work = scratch.path().join("work");
    let long = std::env::var_os("TOWPATH_LONG").is_some();
    let (mut found_outside, mut tried) = (false, 0);
    for closed in [true, false] {
        for outer in [3u64, 5] {
            for (claim, flags) in [(0i64, 0u16), (1, 0), (2, 0), (0, 2), (1, 2), (1, 4), (1, 1)] {
                let is_control = flags & 2 != 0;
                let forged = files::forge(
                    0,
                    Forged {
                        position: outer.checked_add_signed(claim).unwrap(),
                        revision: outer,
                        flags,
                        stream: if is_control { "" } else { "forged" },
                        type_name: if is_control { "" } else { "forged" },
                        payload: if is_control { CHECKPOINT } else { b"" },
                    },
                );
                for shape in (0..shapes(&forged).len())
                    .filter(|shape| long || (shape + claim as usize + flags as usize).is_multiple_of(2))
                {
                    let path = scratch.path().join("store");
                    let _none = fs::remove_dir_all(&path);
                    let store = os().open(&path).unwrap();
                    let mut name = "";
                    for number in 1..=5 {
                        let nonce = files::nonce(&files::newest(&path));
                        let forged = reseal(&forged, nonce);
                        let (shape, payload) = shapes(&forged).swap_remove(shape);
                        name = shape;
                        let payload = if number == outer { payload } else { vec![number as u8; 20] };
                        store.append("s-1", NewEvent::new("t", &payload)).unwrap();
                    }
                    let crash = scratch.path().join("crash");
                    files::copy(&path, &crash);
                    let path = if closed {
                        store.close().unwrap();
                        path
                    } else {
                        drop(store);
                        crash
                    };
                    let frame = files::frame_of(&files::newest(&path), outer);
                    for (spoiled, at, mask) in spoils(frame) {
                        files::copy(&path, &work);
                        let newest = files::newest(&work);
                        let byte = fs::read(&newest).unwrap()[at as usize];
                        files::overwrite(&newest, at, &[byte ^ mask]);
                        let what = format!(
                            "forged {name}, claims outer+{claim}, flags {flags}, outer {outer}, {spoiled} spoiled, closed {closed}"
                        );
                        nothing_is_forged(&work, &what);
                        tried += 1;
                    }
                    // Control: where the log would go on, the forged bytes are a sound frame.
                    if !closed && claim == 0 && flags == 0 && outer == 5 && !found_outside {
                        files::copy(&path, &work);
                        let newest = files::newest(&work);
                        let forged = reseal(&forged, files::nonce(&newest));
                        files::overwrite(&newest, files::frame_of(&newest, 5).offset, &forged);
                        files::blank_from(&newest, files::frame_of(&newest, 5).offset + forged.len() as u64);
                        let store = Store::open_read_only(&work).unwrap();
                        found_outside = told::all(&store).iter().any(|event| event.stream == "forged");
                    }
                }
            }
        }
    }
    assert!(found_outside && tried > 400, "control: the forgery is good, {tried} tried");
}

/// The same frame with the checksum for another segment.
fn reseal(forged: &[u8], nonce: u32) -> Vec<u8> {
    let len = u32::from_le_bytes(forged[..4].try_into().unwrap());
    let mut bytes = forged.to_vec();
    let sum = files::crc(nonce ^ len, &bytes[8..len as usize]);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}
