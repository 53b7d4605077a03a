//! Repairing: C2, C6, R6, L5. What is whole stays, what is lost is written down, readers are told, and the store goes on.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use towpath::copies::{self, Repair};
use towpath::inspect::{self, Depth};
use towpath::{
    Canal as _, Durability, Error, NewEvent, Options, Position, Query, Retention, Revision, Settlement, Store,
};

use crate::support::files;
use crate::support::told::{self, Told};
use crate::support::{Scratch, cases, consume, os};

const EVENTS: u64 = 300;

/// Several segments, with a cursor that has come to 41, and a group with unsettled deliveries and a dead letter; closed in good
/// order.
fn store(scratch: &Scratch) -> PathBuf {
    let store = os().open(scratch.store_path()).unwrap();
    for number in 1..=EVENTS {
        if number == 100 {
            consume(&store);
        }
        let (stream, text) = (format!("cart-{}", number % 7), [number as u8; 1_000]);
        store.append(&stream, NewEvent::new("added", &text).tag("sku:tea")).unwrap();
    }
    store.close().unwrap();
    let path = scratch.store_path();
    assert!(files::segments(&path).len() > 4);
    path
}

/// The first position of a segment.
fn first(segment: &Path) -> u64 {
    files::name(segment)[..20].parse().unwrap()
}

/// Everything that is there, dead letters included, and the positions that readers are told of as damaged.
fn everything(store: &Store) -> (Vec<Told>, BTreeSet<u64>) {
    let (mut events, mut told) = (Vec::new(), BTreeSet::new());
    for position in store.oldest().get()..=store.head().get() {
        match store.event(Position::new(position)) {
            Ok(Some(event)) => events.push(Told::of(&event)),
            Ok(None) => {}
            Err(Error::Damaged(_)) => _ = told.insert(position),
            Err(error) => panic!("{position}: {error}"),
        }
    }
    (events, told)
}

/// What is wrong with a repaired copy of a store: events that differ from those that were there, positions that are neither
/// there nor told, and damage.
fn faults(before: &[Told], copy: &Path, lost: &BTreeSet<u64>) -> Vec<String> {
    let mut faults = Vec::new();
    let verdict = inspect::verify_to(copy, Depth::Deep, |_| {}).unwrap();
    faults.extend(verdict.damage.iter().map(|damage| format!("damaged: {damage}")));
    let written: u64 = verdict.lost.iter().map(|lost| lost.positions).sum();
    if written != lost.len() as u64 {
        faults.push(format!("{written} positions are written down as lost"));
    }
    let store = Store::open_read_only(copy).unwrap();
    let (events, told) = everything(&store);
    let expected: Vec<&Told> = before.iter().filter(|event| !lost.contains(&event.position)).collect();
    if !events.iter().eq(expected) {
        faults.push(format!("other events: {}", events.len()));
    }
    if told != *lost {
        faults.push(format!("told of {told:?} instead of {lost:?}"));
    }
    let (read, errors) = told::read(&store, Query::new());
    if errors.iter().any(|error| !matches!(error, Error::Damaged(_))) || errors.is_empty() != lost.is_empty() {
        faults.push(format!("readers are told {errors:?}"));
    }
    if read.iter().any(|event| lost.contains(&event.position)) {
        faults.push("what is lost is read".to_owned());
    }
    faults
}

/// Repairs a store, and checks what comes of it: the plan, the copy, and that the store goes on.
fn repaired(scratch: &Scratch, path: &Path, before: &[Told], lost: impl IntoIterator<Item = u64>) -> Repair {
    let lost: BTreeSet<u64> = lost.into_iter().collect();
    let damaged = files::snapshot(path);
    let plan = copies::plan_repair(path).unwrap();
    assert!(plan.is_needed());
    let to = scratch.path().join(format!("repaired-{}", lost.len()));
    let made = copies::repair(path, &to, |_| {}).unwrap();
    assert!(files::snapshot(path) == damaged, "the damaged one is not changed");
    assert_eq!((&made.repair, &made.damage[..]), (&plan, &[][..]));
    let stretches = plan.lost.iter().flat_map(|lost| lost.first.get()..lost.first.get() + lost.positions);
    assert_eq!(stretches.collect::<BTreeSet<_>>(), lost, "{plan:?}");
    assert_eq!(faults(before, &to, &lost), [] as [&str; 0]);
    // It goes on, after a kill, too.
    for round in 0..2 {
        let store = os().open(&to).unwrap();
        let next = store.append("cart-1", NewEvent::new("added", "")).unwrap();
        assert_eq!(next.first().get(), plan.head.get() + 1 + 2 * round);
        store.append("new-1", NewEvent::new("added", "")).unwrap();
        if round == 0 {
            let killed = scratch.path().join("killed");
            files::copy(&to, &killed);
            drop(store);
            fs::remove_dir_all(&to).unwrap();
            fs::rename(&killed, &to).unwrap();
        } else {
            store.close().unwrap();
        }
    }
    assert!(inspect::verify_to(&to, Depth::Deep, |_| {}).unwrap().ok);
    fs::remove_dir_all(&to).unwrap();
    plan
}

/// What is in the copy's place when nobody looks after the gap.
fn silenced(copy: &Path) {
    for segment in files::segments(copy) {
        let bytes = fs::read(&segment).unwrap();
        for frame in files::frames(&segment).into_iter().filter(|frame| frame.is_control) {
            let payload = frame.offset as usize + 40;
            if bytes[payload] == 12 {
                // Positions take one byte here; the reason follows, and 2 is "removed".
                let mut frame_bytes = bytes[frame.offset as usize..frame.end as usize].to_vec();
                frame_bytes[42] = 2;
                let len = u32::from_le_bytes(frame_bytes[..4].try_into().unwrap());
                let sum = files::crc(files::nonce(&segment) ^ len, &frame_bytes[8..len as usize]);
                frame_bytes[4..8].copy_from_slice(&sum.to_le_bytes());
                files::overwrite(&segment, frame.offset, &frame_bytes);
            }
        }
        assert!(files::checksums_fit(&segment));
    }
}

fn before(path: &Path) -> Vec<Told> {
    let (events, told) = everything(&Store::open_read_only(path).unwrap());
    assert!(told.is_empty());
    events
}

#[test]
fn a_damaged_event_in_a_sealed_segment_is_written_down_and_the_rest_is_kept() {
    let scratch = Scratch::in_memory();
    let path = store(&scratch);
    let before = before(&path);
    let segment = files::segments(&path)[2].clone();
    let (one, other) = (first(&segment) + 5, first(&segment) + 9);
    files::flip(&segment, files::frame_of(&segment, one).offset + 300, 3);
    files::flip(&segment, files::frame_of(&segment, other).offset + 300, 3);
    assert!(matches!(Store::open_read_only(&path).unwrap().event(Position::new(one)), Err(Error::Damaged(_))));
    let plan = repaired(&scratch, &path, &before, [one, other]);
    assert_eq!((plan.lost.len(), plan.put_back.len()), (2, 0), "{plan:?}");
    assert_eq!((&plan.lost[0].segment, plan.lost[0].records), (&files::name(&segment), false));
    assert_eq!(plan.lost[0].offset, files::frame_of(&segment, one - 1).end);

    // Control: with the gap left out readers pass over it in silence, and the check notices.
    let to = scratch.path().join("silent");
    copies::repair(&path, &to, |_| {}).unwrap();
    assert_eq!(faults(&before, &to, &[one, other].into()), [] as [&str; 0]);
    silenced(&to);
    let faults = faults(&before, &to, &[one, other].into());
    assert!(faults.iter().any(|fault| fault.starts_with("told of {}")), "{faults:?}");
}

#[test]
fn many_stretches_and_lost_pages_are_repaired_at_once() {
    let scratch = Scratch::in_memory();
    let path = store(&scratch);
    let before = before(&path);
    let segments = files::segments(&path);
    let page = |segment: &Path, page: u64| {
        files::overwrite(segment, page * 4096, &[0; 4096]);
        files::frames(segment)
    };
    let lost: BTreeSet<u64> = [(1, 3), (1, 7), (3, 2)]
        .into_iter()
        .flat_map(|(number, at)| {
            let segment = &segments[number];
            let within = at * 4096..(at + 1) * 4096;
            let frames = files::frames(segment);
            let hit = frames.iter().filter(|frame| frame.offset < within.end && frame.end > within.start);
            hit.map(|frame| frame.position).collect::<Vec<_>>()
        })
        .collect();
    for (number, at) in [(1, 3), (1, 7), (3, 2)] {
        page(&segments[number], at);
    }
    assert!(lost.len() > 8);
    repaired(&scratch, &path, &before, lost);
}

/// The store refuses to open; what was durable and is gone is known by its positions.
#[test]
fn a_damaged_end_of_the_newest_segment_is_repaired() {
    for lost in [1u64, 4] {
        let scratch = Scratch::in_memory();
        let path = store(&scratch);
        let before = before(&path);
        let newest = files::newest(&path);
        let frames: Vec<_> = files::frames(&newest).into_iter().filter(|frame| !frame.is_control).collect();
        assert!(frames.len() > 5);
        let from = frames[frames.len() - lost as usize].offset;
        if lost == 1 {
            files::flip(&newest, from + 300, 2)
        } else {
            files::blank_from(&newest, from)
        }
        assert!(matches!(told::refusal(os(), &path), Error::Damaged(_)));
        let head = before.last().unwrap().position;
        repaired(&scratch, &path, &before, head + 1 - lost..=head);
    }
}

/// The nonce that everything is checked with stands in the header: the frames tell it, too.
#[test]
fn a_damaged_header_costs_nothing() {
    for newest in [false, true] {
        for destroyed in [false, true] {
            let scratch = Scratch::in_memory();
            let path = store(&scratch);
            let before = before(&path);
            let segments = files::segments(&path);
            let segment = if newest { segments.last().unwrap() } else { &segments[2] };
            if destroyed {
                files::overwrite(segment, 0, &[0xa5; 4096])
            } else {
                files::flip(segment, 34, 1)
            }
            if newest {
                assert!(matches!(told::refusal(os(), &path), Error::NotAStore { .. }));
            } else {
                let (_, told) = everything(&Store::open_read_only(&path).unwrap());
                assert!(told.len() > 10, "control: without it all of the segment is lost");
            }
            let plan = repaired(&scratch, &path, &before, []);
            assert!(plan.files.iter().any(|noted| noted.what.contains("header")), "{plan:?}");
            assert_eq!(plan.put_back, []);
        }
    }
}

#[test]
fn a_segment_that_is_missing_or_unreadable_is_a_gap() {
    for how in ["missing", "unreadable", "foreign"] {
        let scratch = Scratch::in_memory();
        let path = store(&scratch);
        let before = before(&path);
        let segments = files::segments(&path);
        let len = fs::metadata(&segments[2]).unwrap().len();
        match how {
            "missing" => fs::remove_file(&segments[2]).unwrap(),
            "unreadable" => fs::write(&segments[2], vec![0xa5; len as usize]).unwrap(),
            _ => {
                let other = Scratch::in_memory();
                let other = store(&other);
                fs::copy(&files::segments(&other)[2], &segments[2]).unwrap();
            }
        }
        let plan = repaired(&scratch, &path, &before, first(&segments[2])..first(&segments[3]));
        assert_eq!(plan.put_back, [], "the one behind it knows how consumers stood");
    }
}

/// The oldest one, and the newest: what was durable in it is known from the lock file.
#[test]
fn the_first_and_the_last_segment_can_be_missing_too() {
    let scratch = Scratch::in_memory();
    let path = store(&scratch);
    let before = before(&path);
    let segments = files::segments(&path);
    let kept = fs::read(&segments[0]).unwrap();
    fs::remove_file(&segments[0]).unwrap();
    assert!(matches!(told::refusal(os(), &path), Error::NotAStore { .. }));
    repaired(&scratch, &path, &before, 1..first(&segments[1]));
    fs::write(&segments[0], kept).unwrap();

    let newest = segments.last().unwrap();
    fs::remove_file(newest).unwrap();
    assert!(matches!(told::refusal(os(), &path), Error::NotAStore { .. }));
    let plan = repaired(&scratch, &path, &before, first(newest)..=before.last().unwrap().position);
    let put_back: Vec<_> = plan.put_back.iter().map(|back| &back.consumer[..]).collect();
    assert_eq!(put_back, ["mail", "reader"]);
}

/// L5 and settlements: nobody goes on further than it surely was, and a group that may have been handed out something gets it
/// again.
#[test]
fn consumers_whose_records_are_lost_are_put_back_and_that_is_told() {
    let scratch = Scratch::in_memory();
    let store = Options::new().durability(Durability::Os).open(scratch.store_path()).unwrap();
    let group = store.group("mail").open().unwrap();
    for _ in 0..20 {
        store.append("cart-1", NewEvent::new("added", "")).unwrap();
    }
    let mut member = group.member().unwrap();
    let mut cursor = store.cursor("reader").open().unwrap();
    let mut round = |many: usize| {
        let batch = member.pull_batch(many, Duration::ZERO).unwrap();
        batch.iter().for_each(|delivery| member.settle(delivery.token(), Settlement::Done).unwrap());
        member.flush().unwrap();
        let batch = cursor.pull_batch(many, Duration::ZERO).unwrap();
        cursor.settle(batch.last().unwrap(), Settlement::Done).unwrap();
        cursor.flush().unwrap();
        let end = files::frames(&files::newest(&scratch.store_path())).last().unwrap().end;
        (end, batch.iter().last().unwrap().position().get())
    };
    let (start, surely) = round(5);
    let (end, _) = round(5);
    store.append("cart-1", NewEvent::new("added", "")).unwrap();
    drop((member, group));
    drop(cursor);
    store.close().unwrap();
    let path = scratch.store_path();
    let before = before(&path);
    let newest = files::newest(&path);
    let records: Vec<_> = files::frames(&newest).into_iter().filter(|frame| frame.offset >= start).collect();
    assert!(records[0].is_control && records[0].offset == start);
    for frame in records.iter().filter(|frame| frame.end <= end) {
        files::flip(&newest, frame.offset + 41, 0);
    }
    assert!(matches!(told::refusal(os(), &path), Error::Damaged(_)));
    let plan = repaired(&scratch, &path, &before, []);
    assert!(plan.lost.iter().all(|lost| lost.positions == 0 && lost.records) && !plan.lost.is_empty(), "{plan:?}");
    let put_back: Vec<_> = plan.put_back.iter().map(|back| (&back.consumer[..], back.next.get())).collect();
    assert_eq!(put_back, [("mail", surely + 1), ("reader", surely + 1)]);

    let to = scratch.path().join("repaired");
    copies::repair(&path, &to, |_| {}).unwrap();
    let store = os().open(&to).unwrap();
    let group = store.group("mail").open().unwrap();
    let mut member = group.member().unwrap();
    let again: Vec<u64> =
        member.pull_batch(50, Duration::ZERO).unwrap().iter().map(|got| got.position().get()).collect();
    assert_eq!(again, (surely + 1..=21).collect::<Vec<_>>(), "what may have been settled comes again");
    // Control: in the store as it was before the damage those were settled.
    assert!(surely == 5);
}

/// Controls: damage that held no record, and one that the next segment makes up for.
#[test]
fn what_was_removed_may_be_there_again_where_its_record_is_lost_and_that_is_told() {
    for (is_record, events, comes_back) in [(true, 0, true), (false, 0, false), (true, 100, false)] {
        let scratch = Scratch::in_memory();
        let path = store(&scratch);
        let store = os().open(&path).unwrap();
        let newest = files::newest(&path);
        let before = files::frames(&newest).last().unwrap().end;
        for _ in 0..2 {
            store.append("cart-1", NewEvent::new("added", "")).unwrap();
        }
        store.delete_stream("cart-3").unwrap();
        for _ in 0..events {
            store.append("cart-1", NewEvent::new("added", &[0; 1_000])).unwrap();
        }
        let of_cart = |store: &Store| told::read(store, Query::new().stream("cart-3")).0.len();
        assert_eq!(of_cart(&store), 0);
        store.close().unwrap();
        let written: Vec<_> = files::frames(&newest).into_iter().filter(|frame| frame.offset >= before).collect();
        let spoilt = written.iter().find(|frame| frame.is_control == is_record).unwrap();
        files::flip(&newest, spoilt.offset + 41, 0);

        let plan = copies::plan_repair(&path).unwrap();
        assert!(plan.is_needed() && plan.may_bring_back == comes_back, "{plan:?}");
        let to = scratch.path().join("repaired");
        copies::repair(&path, &to, |_| {}).unwrap();
        let store = os().open(&to).unwrap();
        assert_eq!(of_cart(&store) > 0, comes_back);
        store.delete_stream("cart-3").unwrap();
        assert_eq!(of_cart(&store), 0);
    }
}

/// They stand under no checksum, and a repair that believed them wrote gaps for as many positions as they said.
#[test]
fn words_of_the_lock_file_that_cannot_be_are_not_believed() {
    let scratch = Scratch::in_memory();
    let path = store(&scratch);
    let (before, _) = everything(&Store::open_read_only(&path).unwrap());
    let head = before.last().unwrap().position;
    for word in (2048..=2088).step_by(8) {
        for byte in [0, 3, 7] {
            let copy = scratch.path().join(format!("copy-{word}-{byte}"));
            files::copy(&path, &copy);
            files::flip(&copy.join("LOCK"), word + byte, 4);
            let plan = copies::plan_repair(&copy).unwrap();
            assert_eq!((plan.head.get(), plan.lost.len()), (head, 0), "word {word}, byte {byte}: {plan:?}");
            fs::remove_dir_all(copy).unwrap();
        }
    }
    // Control: what the word does say is believed where it can be.
    let newest = files::newest(&path);
    let last = files::frame_of(&newest, head);
    files::blank_from(&newest, last.offset);
    let plan = copies::plan_repair(&path).unwrap();
    assert_eq!((plan.head.get(), plan.lost.len()), (head, 1), "{plan:?}");
}

/// Words that agree with each other can be: whoever reads the five billion positions that are lost then, in either direction, is
/// behind them at once.
#[test]
fn billions_of_lost_positions_are_passed_over_at_once() {
    let scratch = Scratch::in_memory();
    let path = store(&scratch);
    let before = before(&path);
    let mut lock = fs::read(path.join("LOCK")).unwrap();
    lock.copy_within(2045..4093, 2048);
    fs::write(path.join("LOCK"), lock).unwrap();
    let to = scratch.path().join("repaired");
    let made = copies::repair(&path, &to, |_| {}).unwrap();
    assert!(made.repair.positions_lost() > 1 << 32 && made.damage.is_empty(), "{made:?}");
    let store = Store::open_read_only(&to).unwrap();
    let (events, errors) = told::read(&store, Query::new());
    assert!(errors.iter().all(|error| matches!(error, Error::Damaged(_))) && !errors.is_empty());
    let mut back: Vec<_> =
        store.read(Query::new()).backwards().filter_map(|event| Some(Told::of(&event.ok()?))).collect();
    back.reverse();
    assert!(events == back && before.iter().filter(|event| !event.stream.starts_with('$')).eq(&events));
}

#[test]
fn a_file_whose_name_cannot_be_right_is_left_out() {
    let scratch = Scratch::in_memory();
    let path = store(&scratch);
    let head = Store::open_read_only(&path).unwrap().head();
    for (name, is_left_out) in [
        ("09000000000000000000", true),
        ("18446744073709551615", true),
        ("00000000000000000000", true),
        ("00000000000000001000", false),
    ] {
        let stray = path.join(format!("{name}.seg"));
        fs::write(&stray, [0xa5; 70_000]).unwrap();
        let plan = copies::plan_repair(&path).unwrap();
        assert!(plan.files.iter().any(|noted| noted.file.contains(name)), "{plan:?}");
        // Control: nobody can tell that the last one was never part of the log.
        assert_eq!(plan.head == head, is_left_out, "{plan:?}");
        fs::remove_file(stray).unwrap();
    }
}

/// Somebody copied a segment, and its header is damaged in the copy: no event is there twice, also where nothing tells any more which
/// segments there are.
#[test]
fn a_copy_of_a_segment_under_another_name_is_left_out() {
    let scratch = Scratch::in_memory();
    let path = store(&scratch);
    let before = before(&path);
    let [oldest, second] = [0, 1].map(|at| files::segments(&path)[at].clone());
    for list_is_lost in [false, true] {
        if list_is_lost {
            files::flip(&files::newest(&path), files::FRAMES + 44, 0);
        }
        for name in [first(&oldest) + 1, first(&second) - 1, first(&second) + 1] {
            let copy = path.join(format!("{name:020}.seg"));
            fs::copy(&oldest, &copy).unwrap();
            files::flip(&copy, 20, 3);
            let to = scratch.path().join("repaired");
            let made = copies::repair(&path, &to, |_| {}).unwrap();
            assert!(made.damage.is_empty() && made.repair.positions_lost() == 0, "{name}, {list_is_lost}: {made:?}");
            let noted = made.repair.files.iter().find(|noted| noted.file == files::name(&copy)).unwrap();
            assert!(noted.what.contains("left out"), "{noted:?}");
            assert_eq!(everything(&Store::open_read_only(&to).unwrap()).0, before);
            fs::remove_dir_all(&to).unwrap();
            fs::remove_file(&copy).unwrap();
        }
    }
}

/// What stands behind the closing record was never in the log.
#[test]
fn garbage_behind_a_closed_log_costs_no_event() {
    let scratch = Scratch::in_memory();
    let path = store(&scratch);
    let newest = files::newest(&path);
    let frames = files::frames(&newest);
    let events: Vec<_> = frames.iter().filter(|frame| !frame.is_control).collect();
    assert!(events.len() > 10);
    files::flip(&newest, events[2].offset + 50, 1);
    // Control: without garbage one event is lost.
    let lost = |plan: &Repair| plan.lost.iter().map(|lost| (lost.first.get(), lost.positions)).collect::<Vec<_>>();
    let expected = vec![(events[2].position, 1)];
    assert_eq!(lost(&copies::plan_repair(&path).unwrap()), expected);
    files::flip(&newest, frames.last().unwrap().offset + 200, 1);
    assert_eq!(lost(&copies::plan_repair(&path).unwrap()), expected);
}

/// The head of the newest segment: the one before it tells how consumers stood.
#[test]
fn a_damaged_control_state_is_made_anew() {
    for at in 0..3 {
        let scratch = Scratch::in_memory();
        let path = store(&scratch);
        let before = before(&path);
        let stood = Store::open_read_only(&path).unwrap().consumers().unwrap();
        let newest = files::newest(&path);
        let record = files::frames(&newest)[at];
        assert!(record.is_control);
        files::flip(&newest, record.offset + 41, 0);
        let plan = repaired(&scratch, &path, &before, []);
        assert_eq!(plan.put_back.len(), if at == 1 { 2 } else { plan.put_back.len() });
        let to = scratch.path().join("repaired");
        copies::repair(&path, &to, |_| {}).unwrap();
        let store = Store::open_read_only(&to).unwrap();
        assert_eq!(format!("{:?}", store.consumers().unwrap()), format!("{stood:?}"), "record {at}");
        assert_eq!(store.unsettled("mail").unwrap().len(), 7);
    }
}

/// What can be made again is left out and told; what cannot is told, and the store opens.
#[test]
fn files_beside_the_segments_are_made_again_or_told() {
    let scratch = Scratch::in_memory();
    let path = store(&scratch);
    let before = before(&path);
    let index = files::indexes(&path)[1].clone();
    let len = fs::metadata(&index).unwrap().len();
    files::flip(&index, (4096 + len) / 2, 0);
    let plan = repaired(&scratch, &path, &before, []);
    assert_eq!(plan.files.iter().map(|noted| &noted.file).collect::<Vec<_>>(), [&files::name(&index)]);
    assert!(plan.files[0].what.contains("makes it again"));

    let store = os().open(&path).unwrap();
    store.append("once-1", NewEvent::new("added", "")).unwrap();
    for _ in 0..200 {
        store.append("cart-1", NewEvent::new("added", &[1; 1_000])).unwrap();
    }
    store.retain(&Retention::new().max_events(100).even_from("reader").even_from("mail")).unwrap();
    store.close().unwrap();
    let store = Store::open_read_only(&path).unwrap();
    let kept = everything(&store).0;
    drop(store);
    let heads = files::with_extension(&path, "heads");
    assert_eq!(heads.len(), 1);
    let whole = fs::read(&heads[0]).unwrap();
    for missing in [false, true] {
        if missing {
            fs::remove_file(&heads[0]).unwrap()
        } else {
            files::flip(&heads[0], 5_000, 0)
        }
        if missing {
            assert!(matches!(told::refusal(os(), &path), Error::NotAStore { .. }));
        }
        let plan = repaired(&scratch, &path, &kept, []);
        assert!(plan.files[0].what.contains("revision 1 again"), "{plan:?}");
        fs::write(&heads[0], &whole).unwrap();
    }
    // Control: whole, there is nothing to tell, and what is known of old streams comes along.
    assert!(!copies::plan_repair(&path).unwrap().is_needed());
    let to = scratch.path().join("repaired");
    copies::repair(&path, &to, |_| {}).unwrap();
    assert_eq!(os().open(&to).unwrap().revision("once-1").unwrap().get(), 1);
}

#[test]
fn a_store_that_is_whole_or_in_use_or_no_store_is_left_alone() {
    let scratch = Scratch::in_memory();
    let path = store(&scratch);
    assert!(!copies::plan_repair(&path).unwrap().is_needed());
    let open = os().open(&path).unwrap();
    assert!(matches!(copies::plan_repair(&path), Err(Error::Locked { .. })));
    drop(open);
    let empty = scratch.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(matches!(copies::plan_repair(&empty), Err(Error::NotAStore { .. })));
    let taken = scratch.path().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("letter.txt"), "dear").unwrap();
    assert!(matches!(copies::repair(&path, &taken, |_| {}), Err(Error::NotAStore { .. })));
    assert!(matches!(copies::repair(&path, path.join("inside"), |_| {}), Err(Error::NotAStore { .. })));
}

/// A writer that was killed leaves a segment in which nothing stands yet when the next one opens the store and appends nothing.
#[test]
fn a_store_whose_newest_segment_has_no_event_is_repaired_too() {
    let scratch = Scratch::new();
    let path = store(&scratch);
    let killed = scratch.as_if_killed();
    fs::remove_file(killed.store_path().join("LOCK")).unwrap();
    drop(os().open(killed.store_path()).unwrap());
    let newest = files::segments(&killed.store_path()).pop().unwrap();
    assert_eq!(first(&newest), EVENTS + 2, "control: behind the last, which is a dead letter's");
    for from in [path, killed.store_path()] {
        let to = from.with_file_name("repaired");
        copies::repair(&from, &to, |_| ()).unwrap();
        assert_eq!(everything(&Store::open_read_only(to).unwrap()), everything(&Store::open_read_only(from).unwrap()));
    }
}

/// A backup has no `LOCK` that says up to where events were there.
#[test]
fn a_few_bytes_in_the_newest_segment_of_a_backup_cost_one_event_not_the_rest() {
    let scratch = Scratch::in_memory();
    let store = Options::new().durability(Durability::Os).open(scratch.store_path()).unwrap();
    for number in 0..400 {
        store.append(&format!("cart-{}", number % 7), NewEvent::new("added", &[7; 150])).unwrap();
    }
    let (backup, to) = (scratch.path().join("backup"), scratch.path().join("repaired"));
    store.backup(&backup).unwrap();
    assert!(!backup.join("LOCK").exists());
    let newest = files::newest(&backup);
    let frames: Vec<_> = files::frames(&newest).into_iter().filter(|frame| !frame.is_control).collect();
    let whole = fs::read(&newest).unwrap();
    for within in [0, 8, 24, 56, 152] {
        fs::write(&newest, &whole).unwrap();
        files::overwrite(&newest, frames[100].offset + within, &[0; 8]);
        let made = copies::repair(&backup, &to, |_| {}).unwrap();
        let lost: Vec<_> = made.repair.lost.iter().map(|lost| (lost.first.get(), lost.positions)).collect();
        assert_eq!(lost, [(frames[100].position, 1)], "{within} bytes behind its beginning");
        let repaired = Store::open_read_only(&to).unwrap();
        assert_eq!((repaired.head(), everything(&repaired).0.len()), (store.head(), 399));
        assert_eq!(inspect::summary(&to).unwrap().durable_position, store.head());
        fs::remove_dir_all(&to).unwrap();
    }
    // Control: bytes that look like a frame, in the payload of a damaged last event that says itself how long it is, are none.
    let forged = files::Forged {
        position: store.head().get() + 2,
        revision: 1,
        flags: 0,
        stream: "forged",
        type_name: "t",
        payload: b"",
    };
    let forged = files::forge(files::nonce(&newest), forged);
    let last =
        store.append("cart-1", NewEvent::new("added", &[&[7; 40 - 11 + 40][..], &forged].concat())).unwrap().first();
    let _none = fs::remove_dir_all(&backup);
    store.backup(&backup).unwrap();
    let at = fs::read(&newest).unwrap().windows(forged.len()).position(|bytes| bytes == forged).unwrap();
    assert_eq!(at % 8, 0, "where a frame could begin");
    files::flip(&newest, files::frame_of(&newest, last.get()).offset + 50, 1);
    copies::repair(&backup, &to, |_| {}).unwrap();
    let events = everything(&Store::open_read_only(&to).unwrap()).0;
    assert!(events.iter().all(|event| event.stream != "forged"));
}

/// A damaged event, and behind whole ones an end that a crash cut: with the lock file, which knows the last position, and without.
#[test]
fn whole_events_between_a_damaged_one_and_an_end_that_was_cut_are_kept() {
    let scratch = Scratch::in_memory();
    let store = os().open(scratch.store_path()).unwrap();
    let numbers = 1..=40;
    for number in numbers.clone() {
        store.append(&format!("cart-{}", number % 7), NewEvent::new("added", &[number as u8; 700])).unwrap();
    }
    let killed = scratch.path().join("killed");
    files::copy(&scratch.store_path(), &killed);
    drop(store);
    let newest = files::newest(&killed);
    let frames: Vec<_> = files::frames(&newest).into_iter().filter(|frame| !frame.is_control).collect();
    let (damaged, last) = (&frames[5], frames.last().unwrap());
    assert!(frames.len() > 20 && last.position == *numbers.end());
    let whole = fs::read(&newest).unwrap();
    for (within, knows_the_end) in [(300, true), (300, false), (1, true), (1, false), (36, true), (36, false)] {
        let path = scratch.path().join(format!("cut-{within}-{knows_the_end}"));
        files::copy(&killed, &path);
        let newest = path.join(files::name(&newest));
        fs::write(&newest, &whole).unwrap();
        files::flip(&newest, damaged.offset + within, 1);
        if within == 36 {
            files::flip(&newest, frames[6].offset + 285, 1);
        }
        files::blank_from(&newest, last.offset + 200);
        if !knows_the_end {
            fs::remove_file(path.join("LOCK")).unwrap();
        }
        let plan = copies::plan_repair(&path).unwrap();
        let lost: Vec<_> = plan.lost.iter().map(|lost| (lost.first.get(), lost.positions)).collect();
        let between = last.position - damaged.position;
        match within {
            // Its length says where the next one begins.
            300 => assert_eq!(lost, [(damaged.position, 1), (last.position, 1)], "{knows_the_end}: {plan:?}"),
            36 => assert_eq!(lost, [(damaged.position, 2), (last.position, 1)], "{knows_the_end}: {plan:?}"),
            // Nothing proves where the next one begins, but no position that was given is given again.
            _ => {
                assert_eq!(lost, [(damaged.position, between + u64::from(knows_the_end))], "{knows_the_end}: {plan:?}")
            }
        }
    }
}

/// A length that reaches behind everything looks as a cut write does; whole events stand behind it all the same.
#[test]
fn a_newest_segment_whose_first_record_is_damaged_is_not_given_up() {
    let scratch = Scratch::in_memory();
    let options = Options::new().segment_bytes(64 << 10);
    for (durability, knows_the_end) in [(Durability::Sync, false), (Durability::Os, true), (Durability::Os, false)] {
        let store = options.clone().durability(durability).open(scratch.store_path()).unwrap();
        for number in 1..=100u64 {
            store.append(&format!("cart-{}", number % 7), NewEvent::new("added", &[number as u8; 1_000])).unwrap();
        }
        let before = everything(&store).0;
        let path = scratch.path().join("killed");
        files::copy(&scratch.store_path(), &path);
        drop(store);
        let newest = files::newest(&path);
        assert!((2..90).contains(&first(&newest)), "{}", newest.display());
        if !knows_the_end {
            fs::remove_file(path.join("LOCK")).unwrap();
        }
        for (byte, bit) in [(2, 4), (3, 0)] {
            files::flip(&newest, files::FRAMES + byte, bit);
            let plan = copies::plan_repair(&path).unwrap();
            let lost: Vec<_> = plan.lost.iter().map(|lost| (lost.first.get(), lost.positions)).collect();
            // The record's length was to tell where the first event begins.
            assert_eq!((plan.head.get(), &lost[..]), (100, &[(first(&newest), 1)][..]), "{durability:?}: {plan:?}");
            let to = scratch.path().join("repaired");
            copies::repair(&path, &to, |_| {}).unwrap();
            let kept = before.iter().filter(|event| event.position != first(&newest));
            assert!(everything(&Store::open_read_only(&to).unwrap()).0.iter().eq(kept));
            fs::remove_dir_all(&to).unwrap();
            files::flip(&newest, files::FRAMES + byte, bit);
        }
        // Control: where nothing whole stands behind its beginning it never was part of the log.
        files::blank_from(&newest, files::FRAMES + 8);
        let plan = copies::plan_repair(&path).unwrap();
        assert_eq!((plan.head.get(), plan.lost.len()), (first(&newest) - 1, 0), "{plan:?}");
        [path, scratch.store_path()].iter().for_each(|path| fs::remove_dir_all(path).unwrap());
    }
}

/// What may become of a file.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Flip { at: u64, bit: u32 },
    Blank { page: u64 },
    Garbage { at: u64, bytes: u8 },
    Cut { to: u64 },
    Gone,
}

fn harm() -> impl Strategy<Value = (usize, Harm)> {
    let harm = prop_oneof![
        6 => (any::<u64>(), 0..8u32).prop_map(|(at, bit)| Harm::Flip { at, bit }),
        3 => any::<u64>().prop_map(|page| Harm::Blank { page }),
        3 => (any::<u64>(), 1..=255u8).prop_map(|(at, bytes)| Harm::Garbage { at, bytes }),
        1 => any::<u64>().prop_map(|to| Harm::Cut { to }),
        1 => Just(Harm::Gone),
    ];
    (any::<usize>(), harm)
}

fn do_harm(file: &Path, harm: Harm) {
    let len = fs::metadata(file).map_or(0, |data| data.len());
    match harm {
        _ if len == 0 => {}
        Harm::Flip { at, bit } => files::flip(file, at % len, bit),
        Harm::Blank { page } => {
            let from = page % len.div_ceil(4096) * 4096;
            files::overwrite(file, from, &vec![0; 4096.min(len - from) as usize]);
        }
        Harm::Garbage { at, bytes } => {
            let from = at % len;
            files::overwrite(file, from, &vec![0xa5; u64::from(bytes).min(len - from) as usize]);
        }
        Harm::Cut { to } => files::set_len(file, to % len),
        Harm::Gone => fs::remove_file(file).unwrap(),
    }
}

/// A store with everything: several segments, consumers, old segments let go of, a newest one with events and records.
fn template() -> &'static (Scratch, Vec<Told>) {
    static TEMPLATE: std::sync::OnceLock<(Scratch, Vec<Told>)> = std::sync::OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let scratch = Scratch::in_memory();
        let path = store(&scratch);
        let store = os().open(&path).unwrap();
        store.retain(&Retention::new().max_events(200).even_from("reader").even_from("mail")).unwrap();
        store.seek("reader", Position::new(store.head().get() - 20)).unwrap();
        store.delete_stream("cart-4").unwrap();
        store.truncate_stream("cart-3", Revision::new(40)).unwrap();
        store.purge().unwrap();
        for number in 0..40u64 {
            store.append(&format!("cart-{}", number % 7), NewEvent::new("added", &[5; 700])).unwrap();
        }
        store.close().unwrap();
        let before = everything(&Store::open_read_only(&path).unwrap()).0;
        (scratch, before)
    })
}

fn survives(harms: &[(usize, Harm)]) -> Result<(), TestCaseError> {
    let (template, before) = template();
    let scratch = Scratch::in_memory();
    let path = scratch.store_path();
    files::copy(&template.store_path(), &path);
    let mut all: Vec<PathBuf> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.retain(|file| file.is_file());
    all.sort();
    for (file, harm) in harms {
        do_harm(&all[file % all.len()], *harm);
    }
    // Without it nobody knows how far the newest segment went.
    let knows_the_end = harms.iter().all(|(file, _)| !all[file % all.len()].ends_with("LOCK"));
    let stood = Store::open_read_only(template.store_path()).unwrap().consumers().unwrap();
    let to = scratch.path().join("repaired");
    let made = match copies::repair(&path, &to, |_| {}) {
        Ok(made) => made,
        Err(Error::NotAStore { why, .. }) if why.contains("nothing of any segment can be read") => return Ok(()),
        Err(error) => return Err(TestCaseError::fail(format!("{error}"))),
    };
    prop_assert!(made.damage.is_empty(), "{:?}", made.damage);
    if let [(_, Harm::Flip { .. })] = harms {
        // One event, or the record of some that had been removed.
        let is_lost = |at: u64| {
            made.repair.lost.iter().any(|lost| (lost.first.get()..lost.first.get() + lost.positions).contains(&at))
        };
        let lost = before.iter().filter(|event| is_lost(event.position)).count();
        prop_assert!(lost <= 1, "{:?}", made.repair);
    }
    let copy = Store::open_read_only(&to).unwrap();
    prop_assert!(copy.oldest().get() <= before[0].position);
    prop_assert!(copy.head().get() >= before.last().unwrap().position || !knows_the_end);
    let (events, told) = everything(&copy);
    let mut there = events.iter().peekable();
    for event in before.iter().filter(|event| event.position <= copy.head().get()) {
        let found = there.next_if(|found| found.position == event.position);
        prop_assert!(found.is_none_or(|found| found == event), "another event at {}", event.position);
        prop_assert!(found.is_some() != told.contains(&event.position), "neither there nor told: {}", event.position);
    }
    prop_assert!(there.next().is_none(), "an event that never was");
    for consumer in copy.consumers().unwrap() {
        let before = stood.iter().find(|before| before.name == consumer.name);
        prop_assert!(before.is_some_and(|before| consumer.position <= before.position), "{consumer:?} {stood:?}");
    }
    drop(copy);
    let store = os().open(&to).unwrap();
    store.append("cart-1", NewEvent::new("added", "")).unwrap();
    store.append("new-1", NewEvent::new("added", "")).unwrap();
    store.close().unwrap();
    let verdict = inspect::verify_to(&to, Depth::Deep, |_| {}).unwrap();
    prop_assert!(verdict.ok, "{:?}", verdict.damage);
    // What was repaired once needs no repair.
    prop_assert!(!copies::plan_repair(&to).unwrap().is_needed());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(40), failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever becomes of its files (any of them, `LOCK` included): no event is wrong, none is gone in silence, no consumer is ahead, and the store goes on.
    #[test]
    fn any_damage_is_repaired_or_told(harms in prop::collection::vec(harm(), 1..6)) {
        survives(&harms)?;
    }
}
