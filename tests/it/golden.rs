//! Stores that were written by format version 1, in `tests/fixtures/v1`. They are never made again: every release has to
//! read them as they are.
//!
//! The generator below is kept to document how they were made, and runs only with `TOWPATH_WRITE_GOLDEN=directory` in the
//! environment. A store for another format version gets another folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use towpath::{
    Canal, Clock, Codec, Commit, Durability, Error, Event, EventId, ManualClock, NewEvent, Options, Position, Query,
    Store, StoreId, Timestamp, inspect,
};

use crate::support::{Scratch, files};

/// The id of the store `whole`.
const WHOLE: &str = "c845f9a0-b11f-8591-0f64-c9e0d3603238";

/// The own id of one of its events.
const OWN_ID: u128 = 0x6ba7_b810_9dad_11d1_80b4_00c0_4fd4_30c8;

/// What an event says, except for its position, which is its place in the list.
#[derive(Clone, Debug, Default, PartialEq)]
struct Story {
    /// Tells commits apart, and is their time in seconds.
    commit: u64,
    stream: &'static str,
    revision: u64,
    type_name: &'static str,
    codec: u8,
    payload: Vec<u8>,
    own_id: Option<u128>,
    occurred: Option<u64>,
    schema_version: u32,
    correlation: Option<&'static str>,
    causation: Option<Cause>,
    tags: Vec<&'static str>,
    headers: Vec<(&'static str, &'static str)>,
    key: Option<&'static str>,
    goes_on: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Cause {
    Own(u128),
    /// A position of the same store.
    Here(u64),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Cart {
    #[serde(rename = "item added")]
    ItemAdded { sku: String, n: u32 },
}

const CODECS: [Codec; 4] = [Codec::Raw, Codec::MessagePack, Codec::Json, Codec::Bincode];

/// The events of `whole`. Those with large payloads begin new segments.
fn whole() -> Vec<Story> {
    let story = |commit, stream, revision, type_name, payload: &[u8]| Story {
        commit,
        stream,
        revision,
        type_name,
        payload: payload.to_vec(),
        ..Story::default()
    };
    let every_byte: Vec<u8> = (0..=255).collect();
    vec![
        story(1, "cart-1", 1, "opened", b""),
        Story {
            codec: 1,
            schema_version: 2,
            tags: vec!["sku:tea", "gift"],
            headers: vec![("by", "Ann"), ("note", "")],
            ..story(2, "cart-1", 2, "item added", b"\x82\xa3sku\xa3tea\xa1n\x02")
        },
        Story {
            codec: 2,
            own_id: Some(OWN_ID),
            occurred: Some(1_699_999_999_123_456_789),
            correlation: Some("request 9"),
            key: Some("order 17"),
            ..story(3, "order-1", 1, "placed", br#"{"total":7.5}"#)
        },
        Story {
            causation: Some(Cause::Here(1)),
            correlation: Some("request 9"),
            goes_on: true,
            ..story(4, "cart-1", 3, "checked out", b"x")
        },
        Story { goes_on: true, tags: vec!["größe:ü"], ..story(4, "größe-ü-1", 1, "geändert ✓", &every_byte) },
        Story { codec: 3, causation: Some(Cause::Own(OWN_ID)), ..story(4, "order-1", 2, "paid", &[7, 0]) },
        story(5, "blob", 1, "stored", &b"0123456789".repeat(6_090)),
        story(6, "blob", 2, "stored", &b"abcdef".repeat(1_000)),
        story(7, "cart-2", 1, "opened", b""),
    ]
}

fn seconds(seconds: u64) -> Timestamp {
    Timestamp::from_nanos((1_700_000_000 + seconds) * 1_000_000_000)
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1")
}

/// A copy of a golden store.
fn golden(name: &str) -> (Scratch, PathBuf) {
    let dir = Scratch::new();
    let path = dir.store_path();
    files::copy(&fixtures().join(name), &path);
    (dir, path)
}

/// What the event of a store says.
fn told(event: &Event<'_>, store: StoreId) -> Story {
    let told_seconds = event.time().as_nanos() / 1_000_000_000 - 1_700_000_000;
    assert_eq!(event.time(), seconds(told_seconds));
    assert_eq!(
        event.id(),
        match event.own_id() {
            Some(id) => EventId::Own(id),
            None => EventId::Place { store, position: event.position() },
        }
    );
    let leaked = |text: &str| -> &'static str { Box::leak(text.to_owned().into_boxed_str()) };
    Story {
        commit: told_seconds,
        stream: leaked(event.stream()),
        revision: event.revision().get(),
        type_name: leaked(event.type_name()),
        codec: CODECS.iter().position(|codec| *codec == event.codec()).unwrap() as u8,
        payload: event.payload().to_vec(),
        own_id: event.own_id(),
        occurred: event.occurred().map(Timestamp::as_nanos),
        schema_version: event.schema_version(),
        correlation: event.correlation().map(leaked),
        causation: event.causation().map(|cause| match cause {
            EventId::Own(id) => Cause::Own(id),
            EventId::Place { store: other, position } => {
                assert_eq!(other, store);
                Cause::Here(position.get())
            }
        }),
        tags: event.tags().map(leaked).collect(),
        headers: event.headers().map(|(name, value)| (leaked(name), leaked(value))).collect(),
        key: event.key().map(leaked),
        goes_on: event.commit_goes_on(),
    }
}

fn all(store: &Store) -> Vec<Story> {
    let events = store.read(Query::new()).map(Result::unwrap);
    let events = events.enumerate().map(|(at, event)| {
        assert_eq!(event.position().get(), at as u64 + 1);
        told(&event, store.id())
    });
    events.collect()
}

fn positions(store: &Store, query: Query) -> Vec<u64> {
    store.read(query).map(|event| event.unwrap().position().get()).collect()
}

fn checks_whole(store: &Store) {
    assert_eq!(store.id().to_string(), WHOLE);
    assert_eq!(all(store), whole());
    assert_eq!((store.head().get(), store.durable().get(), store.oldest().get()), (9, 9, 1));

    assert_eq!(positions(store, Query::new().stream("order-1")), [3, 6]);
    assert_eq!(positions(store, Query::new().category("cart")), [1, 2, 4, 9]);
    assert_eq!(positions(store, Query::new().types(["opened"])), [1, 9]);
    assert_eq!(positions(store, Query::new().tags(["sku:tea", "gift"])), [2]);
    assert_eq!(positions(store, Query::new().tags(["größe:ü"])), [5]);
    let correlated = store.correlated("request 9").map(|event| event.unwrap().position().get());
    assert_eq!(correlated.collect::<Vec<_>>(), [3, 4]);
    let of_own_id = store.event_by_id(&EventId::Own(OWN_ID)).unwrap().unwrap();
    assert_eq!(of_own_id.position().get(), 3);
    let effects = store.effects(&EventId::Own(OWN_ID)).unwrap();
    assert_eq!(effects.iter().map(|event| event.position().get()).collect::<Vec<_>>(), [6]);
    assert_eq!(store.revision("blob").unwrap().get(), 2);

    let added = store.event(Position::new(2)).unwrap().unwrap();
    let cart = Cart::ItemAdded { sku: "tea".to_owned(), n: 2 };
    assert_eq!(added.decode::<Cart>().unwrap(), cart);
    // What is written today is what was written then.
    assert_eq!(NewEvent::typed(&cart).unwrap().payload(), added.payload());

    let consumers: Vec<_> =
        store.consumers().unwrap().into_iter().map(|consumer| (consumer.name, consumer.position.get())).collect();
    assert_eq!(consumers, [("billing".to_owned(), 10), ("mail".to_owned(), 4)]);
}

#[test]
fn the_whole_store_of_version_1_reads_in_every_field() {
    let (_dir, path) = golden("whole");
    let before = files::snapshot(&path);
    let summary = inspect::summary(&path).unwrap();
    assert_eq!((summary.store.to_string(), summary.format_version), (WHOLE.to_owned(), 1));
    assert_eq!((summary.events, summary.streams, summary.segments), (9, 5, 3));
    assert_eq!((summary.first_position.get(), summary.last_position.get()), (1, 9));
    let verdict = inspect::verify(&path, |_| {}).unwrap();
    assert_eq!((verdict.ok, verdict.events, verdict.torn_bytes, verdict.damage), (true, 9, 0, vec![]));

    checks_whole(&Store::open_read_only(&path).unwrap());
    assert!(files::snapshot(&path) == before, "reading changed something");

    let store = Options::new().open(&path).unwrap();
    assert!(store.recovery().clean);
    checks_whole(&store);
    let indexes: Vec<_> = files::indexes(&path);
    assert_eq!(indexes.len(), 2);
    assert!(indexes.iter().all(|index| before[index].1 == std::fs::read(index).unwrap()), "an index was made again");

    // The control: one word in one event would be noticed.
    let mut other = whole();
    other[1].headers[0].1 = "Bob";
    assert_ne!(all(&store), other);
}

#[test]
fn the_whole_store_of_version_1_goes_on_where_it_ended() {
    let (_dir, path) = golden("whole");
    let store = Options::new().open(&path).unwrap();
    let mut again = Commit::new();
    let placed = NewEvent::encoded("placed", Codec::Json, br#"{"total":7.5}"#)
        .id(OWN_ID)
        .occurred(Timestamp::from_nanos(1_699_999_999_123_456_789))
        .correlation("request 9");
    let receipt = store.commit(again.event("order-1", placed).key("order 17")).unwrap();
    assert_eq!((receipt.is_duplicate(), receipt.first().get()), (true, 3));

    let mut mail = store.cursor("mail").open().unwrap();
    let batch = mail.pull_batch(10, std::time::Duration::ZERO).unwrap();
    assert_eq!(batch.iter().next().map(|event| event.position().get()), Some(4));
    drop(mail);

    let receipt = store.append("cart-1", NewEvent::new("reopened", "")).unwrap();
    assert_eq!((receipt.first().get(), receipt.revision().get()), (10, 4));
    store.close().unwrap();
    let store = Options::new().open(&path).unwrap();
    assert_eq!(positions(&store, Query::new()), (1..=10).collect::<Vec<_>>());
    assert_eq!(positions(&store, Query::new().category("cart")), [1, 2, 4, 9, 10]);
    store.close().unwrap();
    assert!(inspect::verify(&path, |_| {}).unwrap().ok);
}

/// What is wrong with `damaged`: a bit in the payload of event 2, a page of its segment's index, and a commit whose last
/// frame was cut off by a crash.
mod wrong {
    pub(super) const STORE: &str = "d756a2af-87f4-935c-7d28-b4f3a7cba9ff";
    pub(super) const SEGMENT: &str = "00000000000000000001.seg";
    pub(super) const INDEX: &str = "00000000000000000001.idx";
    pub(super) const OFFSET: u64 = 4216;
    pub(super) const LENGTH: u64 = 72;
    pub(super) const NEWEST: &str = "00000000000000000005.seg";
    pub(super) const TORN_OFFSET: u64 = 4344;
    pub(super) const TORN_LENGTH: u64 = 96;
}

/// The payloads of a store, with the positions of what is damaged in their places.
fn payloads(store: &Store) -> Vec<Result<String, u64>> {
    let told = |item: towpath::Result<Event<'static>>| match item {
        Ok(event) => Ok(String::from_utf8(event.payload().to_vec()).unwrap()),
        Err(Error::Damaged(damage)) => {
            assert_eq!(
                (&damage.segment[..], damage.offset, damage.length),
                (wrong::SEGMENT, wrong::OFFSET, wrong::LENGTH)
            );
            Err(damage.position.get())
        }
        Err(other) => panic!("{other}"),
    };
    store.read(Query::new()).map(told).collect()
}

fn expected_payloads() -> Vec<Result<String, u64>> {
    [Ok(1), Err(2), Ok(3), Ok(4), Ok(5), Ok(6)].map(|item| item.map(|position| format!("payload {position}"))).to_vec()
}

#[test]
fn the_damaged_store_of_version_1_tells_exactly_its_damage() {
    let (_dir, path) = golden("damaged");
    let before = files::snapshot(&path);
    let verdict = inspect::verify(&path, |_| {}).unwrap();
    assert_eq!((verdict.ok, verdict.events, verdict.torn_bytes), (false, 5, wrong::TORN_LENGTH));
    let damage = &verdict.damage[..];
    assert_eq!(damage.len(), 1);
    assert_eq!(
        (&damage[0].segment[..], damage[0].offset, damage[0].length),
        (wrong::SEGMENT, wrong::OFFSET, wrong::LENGTH)
    );
    assert_eq!((damage[0].position.get(), &damage[0].what[..]), (2, "the checksum does not fit"));

    assert_eq!(payloads(&Store::open_read_only(&path).unwrap()), expected_payloads());
    assert!(files::snapshot(&path) == before, "reading changed something");

    let store = Options::new().durability(Durability::Os).open(&path).unwrap();
    assert_eq!(store.id().to_string(), wrong::STORE);
    let recovery = store.recovery();
    assert!(!recovery.clean);
    let quarantined = &recovery.quarantined[..];
    assert_eq!(quarantined.len(), 1);
    assert_eq!((&quarantined[0].segment[..], quarantined[0].offset), (wrong::NEWEST, wrong::TORN_OFFSET));
    assert_eq!(quarantined[0].length, wrong::TORN_LENGTH);
    let kept = std::fs::read(path.join("quarantine").join(&quarantined[0].file)).unwrap();
    let (from, to) = (wrong::TORN_OFFSET as usize, (wrong::TORN_OFFSET + wrong::TORN_LENGTH) as usize);
    assert_eq!(kept, before[&path.join(wrong::NEWEST)].1[from..to]);

    assert_eq!(payloads(&store), expected_payloads());
    assert!(matches!(store.event(Position::new(2)), Err(Error::Damaged(_))));
    let receipt = store.append("cart-1", NewEvent::new("item added", "payload 7")).unwrap();
    assert_eq!((receipt.first().get(), receipt.revision().get()), (7, 7));
    let consumers = store.consumers().unwrap();
    assert_eq!((consumers.len(), &consumers[0].name[..], consumers[0].position.get()), (1, "mail", 6));
    store.close().unwrap();

    // The control: the damage is the file's, and goes with its bit. What is left is the index, and that can go.
    files::flip(&path.join(wrong::SEGMENT), wrong::OFFSET + 40 + 6 + 10, 0);
    let mended = inspect::verify(&path, |_| {}).unwrap();
    assert_eq!(mended.events, 7);
    assert_eq!(mended.damage.iter().map(|damage| &damage.segment[..]).collect::<Vec<_>>(), [wrong::INDEX]);
    std::fs::remove_file(path.join(wrong::INDEX)).unwrap();
    assert!(inspect::verify(&path, |_| {}).unwrap().ok);
}

const GROUPS: [&str; 17] = [
    "cursor cursor: at 3, 0 in flight, 0 wait, 0 dead, paused: false",
    "group mail: at 8, 2 in flight, 2 wait, 2 dead, paused: false",
    "unsettled 1: 1 attempts, in flight: true, first 30, failed -1 to -1, not before -1, \"\"",
    "unsettled 3: 1 attempts, in flight: false, first 1, failed 2 to 2, not before 22, \"busy\"",
    "unsettled 6: 0 attempts, in flight: false, first 1, failed -1 to -1, not before -1, \"\"",
    "unsettled 7: 1 attempts, in flight: true, first 1, failed -1 to -1, not before -1, \"\"",
    "dead letter 1 of 1 \"cart-1\"/Some(1): rejected after 1 attempts, first 1, failed 2 to 2, \"no such cart\", redriven: true, replaces None, added [(\"by\", \"Ann\")]",
    "dead letter 3 of 4 \"cart-1\"/Some(2): rejected after 1 attempts, first 1, failed 2 to 2, \"größer als erlaubt\", redriven: false, replaces None, taken [(\"by\", \"Ann\")]",
    "group moved: at 6, 0 in flight, 0 wait, 0 dead, paused: false",
    "group parks: at 19, 2 in flight, 0 wait, 4 dead, paused: false",
    "unsettled 13: 1 attempts, in flight: true, first 2, failed -1 to -1, not before -1, \"\"",
    "unsettled 14: 1 attempts, in flight: true, first 2, failed -1 to -1, not before -1, \"\"",
    "dead letter 1 of 9 \"cart-3\"/Some(3): rejected after 1 attempts, first 2, failed 2 to 2, \"this one\", redriven: false, replaces None, added [(\"by\", \"Ann\")]",
    "dead letter 2 of 10 \"cart-1\"/Some(4): parked after 0 attempts, first -1, failed 2 to 2, \"it follows a dead letter under its order key\", redriven: false, replaces None, taken [(\"by\", \"Ann\")]",
    "dead letter 3 of 11 \"cart-2\"/Some(4): parked after 0 attempts, first -1, failed 2 to 2, \"it follows a dead letter under its order key\", redriven: false, replaces None, added [(\"by\", \"Ann\")]",
    "dead letter 4 of 12 \"cart-3\"/Some(4): parked after 0 attempts, first -1, failed 2 to 2, \"it follows a dead letter under its order key\", redriven: false, replaces None, taken [(\"by\", \"Ann\")]",
    "group paused: at 1, 0 in flight, 0 wait, 0 dead, paused: true",
];

/// What comes of `mail` in the end, and its attempts.
const COMES: [(u64, u32); 10] = [(1, 2), (3, 2), (6, 1), (7, 2), (8, 1), (9, 1), (10, 1), (11, 1), (12, 1), (13, 1)];

/// What `groups` says of its groups, a line for each fact. Times are in seconds.
fn told_of_groups(store: &Store) -> Vec<String> {
    let second =
        |time: Option<Timestamp>| time.map_or(-1, |time| (time.as_nanos() / 1_000_000_000) as i64 - 1_700_000_000);
    let mut lines = Vec::new();
    for one in store.consumers().unwrap() {
        lines.push(format!(
            "{} {}: at {}, {} in flight, {} wait, {} dead, paused: {}",
            one.kind, one.name, one.position, one.in_flight, one.waiting, one.dead, one.paused
        ));
        if one.kind != towpath::ConsumerKind::Group {
            continue;
        }
        for one in store.unsettled(&one.name).unwrap() {
            lines.push(format!(
                "unsettled {}: {} attempts, in flight: {}, first {}, failed {} to {}, not before {}, {:?}",
                one.position,
                one.attempts,
                one.in_flight,
                second(one.first_handed_out),
                second(one.first_failed),
                second(one.last_failed),
                second(one.not_before),
                one.why
            ));
        }
        for letter in store.dead_letters(&one.name).unwrap().iter().unwrap() {
            let letter = letter.unwrap();
            lines.push(format!(
                "dead letter {} of {} {:?}/{:?}: {} after {} attempts, first {}, failed {} to {}, {:?}, redriven: {}, replaces {:?}, {} {:?}",
                letter.number(),
                letter.source_position(),
                letter.source_stream().unwrap_or_default(),
                letter.source_revision().map(|revision| revision.get()),
                letter.reason(),
                letter.attempts(),
                second(letter.first_handed_out()),
                second(Some(letter.first_failed())),
                second(Some(letter.last_failed())),
                letter.why(),
                letter.is_redriven(),
                letter.replaces().map(|revision| revision.get()),
                letter.event().type_name(),
                letter.headers().collect::<Vec<_>>(),
            ));
        }
    }
    lines
}

#[test]
fn the_groups_of_version_1_stand_where_they_stood() {
    let (_dir, path) = golden("groups");
    let before = files::snapshot(&path);
    let told = told_of_groups(&Store::open_read_only(&path).unwrap());
    assert_eq!(told, GROUPS);
    assert!(files::snapshot(&path) == before, "reading changed something");
    assert!(inspect::verify(&path, |_| {}).unwrap().ok);

    // They go on, once by what the last segment says of them, and once by what is carried into another one.
    for _ in 0..2 {
        let clock = Arc::new(ManualClock::at(seconds(100)));
        let store = Options::new().durability(Durability::Os).clock(clock).open(&path).unwrap();
        assert_eq!(told_of_groups(&store), GROUPS);
        let group = mail(&store).open().unwrap();
        drop(group);
        store.append("blob", NewEvent::new("stored", &[0; 1 << 20])).unwrap();
        store.close().unwrap();
    }
    let store = Options::new().durability(Durability::Os).open(&path).unwrap();
    assert!(matches!(store.group("mail").open().unwrap_err(), Error::ConsumerDiffers { .. }));
    let mut member = mail(&store).open().unwrap().member().unwrap();
    let mut came = Vec::new();
    loop {
        let batch = member.pull_batch(10, std::time::Duration::ZERO).unwrap();
        if batch.is_empty() {
            break;
        }
        came.extend(batch.iter().map(|delivery| (delivery.position().get(), delivery.attempt())));
        for delivery in &batch {
            member.settle(delivery.token(), towpath::Settlement::Done).unwrap();
        }
    }
    assert_eq!(came, COMES);

    // The control: one fact that is another one.
    assert_ne!(told_of_groups(&store), GROUPS);
}

fn mail(store: &Store) -> towpath::GroupBuilder {
    let retry = towpath::Retry::fixed(std::time::Duration::from_secs(20)).attempts(3);
    let filter =
        Query::new().category("cart").types(["added", "taken"]).or(Query::new().subject("shop.*.cart").tags(["gift"]));
    store.group("mail").order(towpath::Order::Stream).retry(retry).filter(filter)
}

fn write_groups(path: &Path) {
    use std::time::Duration;
    use towpath::{OnFailure, Order, Reason, Settlement, Start};

    let dir = Scratch::new();
    let clock = Arc::new(ManualClock::at(seconds(0)));
    let options = Options::new().durability(Durability::Os).segment_bytes(64 << 10).clock(clock.clone());
    let store = options.open(dir.store_path()).unwrap();
    let append = |stream: &str, type_name: &str, tag: &str| {
        store.append(stream, NewEvent::new(type_name, "tea").tag(tag).header("by", "Ann")).unwrap();
    };
    for number in 0..12 {
        append(["cart-1", "cart-2", "cart-3"][number % 3], ["added", "taken"][number % 2], "customer:7");
    }
    append("shop.north.cart", "opened", "gift");
    append("shop.north.cart", "opened", "customer:8");

    // One of each end, and of each way to be unsettled.
    let mut member = mail(&store).open().unwrap().member().unwrap();
    clock.set(seconds(1));
    let batch = member.pull_batch(7, Duration::ZERO).unwrap();
    let token = |position: u64| batch.iter().find(|one| one.position().get() == position).unwrap().token();
    let reject = |why: &str| Settlement::Reject { reason: Reason::Rejected, why: why.to_owned() };
    clock.set(seconds(2));
    member.settle(token(1), reject("no such cart")).unwrap();
    member.settle(token(2), reject("nobody wants it")).unwrap();
    member.settle(token(3), Settlement::Retry { after: None, why: "busy".to_owned() }).unwrap();
    member.settle(token(4), reject("größer als erlaubt")).unwrap();
    member.settle(token(5), Settlement::Done).unwrap();
    member.flush().unwrap();
    let dead = store.dead_letters("mail").unwrap();
    let letters: Vec<_> = dead.iter().unwrap().map(Result::unwrap).collect();
    dead.drop_letters(&letters[1..2]).unwrap();
    dead.redrive(&letters[..1]).unwrap();

    let parks = store.group("parks").order(Order::Tag("customer:".to_owned())).on_failure(OnFailure::Park);
    let mut parking = parks.start(Start::At(Position::new(9))).open().unwrap().member().unwrap();
    let first = parking.pull_batch(1, Duration::ZERO).unwrap();
    parking.settle(first.last().unwrap(), reject("this one")).unwrap();
    parking.pull_batch(9, Duration::ZERO).unwrap();
    let paused = store.group("paused").start(Start::Time(seconds(0))).open().unwrap();
    paused.pause().unwrap();
    store.seek("cursor", Position::new(3)).unwrap();
    drop(store.group("removed").open().unwrap());
    store.remove_consumer("removed").unwrap();
    let moved = store.group("moved").start(Start::End).open().unwrap();
    store.seek("moved", Position::new(6)).unwrap();

    // What stands so far is carried into another segment, and goes on there.
    store.append("blob", NewEvent::new("stored", &[1; 62_000])).unwrap();
    clock.set(seconds(30));
    member.settle(token(7), Settlement::Release).unwrap();
    member.pull_batch(2, Duration::ZERO).unwrap();
    files::copy(&dir.store_path(), path);
    let _not_of_the_log = std::fs::remove_file(path.join("spare.tmp"));
    drop((member, parking, paused, moved));
    cut_newest(path);
}

/// Writes the golden stores into the directory that `TOWPATH_WRITE_GOLDEN` names. Does nothing without it.
#[test]
fn golden_stores_are_written_on_request_only() {
    let Some(target) = std::env::var_os("TOWPATH_WRITE_GOLDEN").map(PathBuf::from) else { return };
    write_whole(&target.join("whole"));
    write_damaged(&target.join("damaged"));
    write_groups(&target.join("groups"));
}

/// Cuts the newest segment behind the page where its data ends, so that the fixture is small.
fn cut_newest(store: &Path) {
    let newest = files::newest(store);
    let end = files::frames(&newest).last().unwrap().end;
    files::set_len(&newest, end.next_multiple_of(4096));
}

fn write_whole(path: &Path) {
    let clock = Arc::new(ManualClock::at(seconds(0)));
    let store = Options::new().segment_bytes(64 << 10).clock(clock.clone()).open(path).unwrap();
    let stories = whole();
    for stories in stories.chunk_by(|a, b| a.commit == b.commit) {
        clock.set(seconds(stories[0].commit));
        let mut commit = Commit::new();
        for story in stories {
            let mut event = NewEvent::encoded(story.type_name, CODECS[story.codec as usize], &story.payload[..]);
            event = event.tags(story.tags.clone());
            if let Some(id) = story.own_id {
                event = event.id(id);
            }
            if let Some(nanos) = story.occurred {
                event = event.occurred(Timestamp::from_nanos(nanos));
            }
            if story.schema_version > 0 {
                event = event.schema_version(story.schema_version);
            }
            if let Some(correlation) = story.correlation {
                event = event.correlation(correlation);
            }
            event = match story.causation {
                Some(Cause::Own(id)) => event.causation(EventId::Own(id)),
                Some(Cause::Here(position)) => {
                    event.causation(EventId::Place { store: store.id(), position: Position::new(position) })
                }
                None => event,
            };
            event = story.headers.iter().fold(event, |event, (name, value)| event.header(*name, *value));
            commit.event(story.stream, event);
            if let Some(key) = story.key {
                commit.key(key);
            }
        }
        store.commit(&commit).unwrap();
    }
    clock.set(seconds(clock.now().as_nanos() / 1_000_000_000 - 1_700_000_000 + 1));
    store.seek("mail", Position::new(2)).unwrap();
    store.seek("mail", Position::new(4)).unwrap();
    store.seek("billing", Position::new(10)).unwrap();
    store.close().unwrap();
    cut_newest(path);
}

fn write_damaged(path: &Path) {
    let dir = Scratch::new();
    let options = || {
        let clock = Arc::new(ManualClock::at(seconds(0)));
        Options::new().durability(Durability::Os).segment_bytes(64 << 10).clock(clock)
    };
    let append = |store: &Store, position: u64| {
        let payload = format!("payload {position}");
        store.append("cart-1", NewEvent::new("item added", &payload)).unwrap();
    };
    // A crash seals a small segment.
    let first = options().open(dir.store_path()).unwrap();
    (1..=4).for_each(|position| append(&first, position));
    let crashed = dir.path().join("crashed");
    files::copy(&dir.store_path(), &crashed);
    let second = options().open(&crashed).unwrap();
    assert_eq!(second.read(Query::new().tags(["reading makes the index"])).count(), 0);
    (5..=6).for_each(|position| append(&second, position));
    second.seek("mail", Position::new(6)).unwrap();
    let mut torn = Commit::new();
    torn.event("cart-1", NewEvent::new("item added", "payload 7"));
    torn.event("cart-1", NewEvent::new("item added", "payload 8"));
    second.commit(&torn).unwrap();
    files::copy(&crashed, path);

    let newest = files::newest(path);
    let last = files::frame_of(&newest, 8);
    files::blank_from(&newest, last.offset + 24);
    let segment = &files::segments(path)[0];
    let hurt = files::frame_of(segment, 2);
    files::flip(segment, hurt.offset + 40 + 6 + 10, 0);
    files::flip(&files::indexes(path)[0], 4096 + 4, 3);
    files::set_len(&newest, 8192);
}
