//! The verbs of the command line that look at consumers and dead letters, and change them: D4, and the fields of their
//! rows. The binary runs as a process of its own.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use towpath::{
    Canal, Codec, Delivery, Durability, Event, EventId, ManualClock, Member, NewEvent, Options, Position, Reason,
    Settlement, Start, Store, Timestamp,
};

use crate::cli::{STORE, command, names, run};
use crate::support::{Scratch, files};

/// Opens a store whose clock stands at one second past 1970.
fn open(scratch: &Scratch) -> Store {
    let clock = Arc::new(ManualClock::at(Timestamp::from_nanos(1_000_000_000)));
    Options::new().durability(Durability::Os).clock(clock).open(scratch.store_path()).unwrap()
}

fn json(type_name: &'static str, payload: &'static str) -> NewEvent<'static> {
    NewEvent::encoded(type_name, Codec::Json, payload.as_bytes())
}

fn settle(member: &mut Member, how: &[(u64, Settlement)]) {
    let batch = member.pull_batch(100, Duration::ZERO).unwrap();
    for delivery in &batch {
        if let Some((_, settlement)) = how.iter().find(|(position, _)| *position == delivery.position().get()) {
            member.settle(delivery.token(), settlement.clone()).unwrap();
        }
    }
    member.flush().unwrap();
}

fn reject(reason: Reason, why: &str) -> Settlement {
    Settlement::Reject { reason, why: why.to_owned() }
}

/// Seven events; a group `mailer` that has refused three of them, done one, waits to try one again, and holds two; a group
/// `audit` that has refused one; and a cursor `reader` that has read two.
fn store_with_letters(scratch: &Scratch) {
    let store = open(scratch);
    store.append("cart-1", json("opened", "{\"by\":\"ann\"}").tag("shop:7").header("by", "web")).unwrap();
    store.append("cart-1", json("paid", "{\"cents\":100}").tag("shop:7")).unwrap();
    store.append("cart-2", json("opened", "{\"by\":\"bob\"}").tag("shop:8")).unwrap();
    store.append("cart-2", NewEvent::new("scanned", b"\x00\xff")).unwrap();
    store.append("cart-3", json("opened", "{}")).unwrap();
    store.append("cart-3", json("paid", "{\"cents\":7}")).unwrap();
    store.append("cart-3", json("closed", "null")).unwrap();
    let mut mailer = store.group("mailer").open().unwrap().member().unwrap();
    let again = Settlement::Retry { after: Some(Duration::from_secs(3600)), why: "the line was busy".to_owned() };
    let how = [
        (1, reject(Reason::Rejected, "no address")),
        (2, reject(Reason::Undecodable, "field cents: timeout=3 <late>")),
        (3, reject(Reason::Rejected, "no address")),
        (4, Settlement::Done),
        (5, again),
    ];
    settle(&mut mailer, &how);
    drop(mailer);
    let mut audit = store.group("audit").start(Start::At(Position::new(7))).open().unwrap().member().unwrap();
    settle(&mut audit, &[(7, reject(Reason::Rejected, "closed too early"))]);
    drop(audit);
    let mut reader = store.cursor("reader").open().unwrap();
    let read = reader.pull_batch(2, Duration::ZERO).unwrap();
    reader.acknowledge(read.iter().last().unwrap().position()).unwrap();
    drop((reader, read));
    store.close().unwrap();
}

/// The fields that rows of consumers and of dead letters have in common.
const COMMON: [&str; 11] = [
    "attempts",
    "first_failed",
    "in_flight",
    "kind",
    "lag",
    "last_failed",
    "name",
    "position",
    "reason",
    "source_position",
    "stream",
];

/// The common fields that a row lacks.
fn missing(row: &Value) -> Vec<&'static str> {
    COMMON.into_iter().filter(|name| row.get(name).is_none()).collect()
}

/// The numbers of the dead letters of `mailer` of which these conditions hold.
fn chosen(scratch: &Scratch, conditions: &[&str]) -> Vec<u64> {
    let wheres = conditions.iter().flat_map(|condition| ["--where", condition]);
    let args: Vec<&str> = ["dead", "ls", STORE, "mailer", "--json"].into_iter().chain(wheres).collect();
    run(scratch, &args).ends(0).numbers("number")
}

#[test]
fn rows_of_consumers_have_the_fixed_fields_and_stand_as_the_store_has_them() {
    let scratch = Scratch::new();
    store_with_letters(&scratch);
    let ls = run(&scratch, &["consumers", "ls", STORE, "--json"]).ends(0);
    let rows = ls.objects();
    let own = ["dead", "paused", "waiting"];
    let mut fields = [&COMMON[..], &own].concat();
    fields.sort_unstable();
    for row in &rows {
        assert_eq!((names(row), missing(row)), (fields.clone(), vec![]));
    }
    let numbers = |row: &Value| ["position", "in_flight", "waiting", "dead"].map(|name| row[name].as_u64().unwrap());
    let [audit, mailer, reader] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((&audit["name"], &audit["kind"], numbers(audit)), (&json!("audit"), &json!("group"), [11, 0, 0, 1]));
    // Two are held, and one waits for its time. Members that are dropped give back what they hold.
    let held = mailer["in_flight"].as_u64().unwrap() + mailer["waiting"].as_u64().unwrap();
    assert_eq!((&mailer["name"], held, &mailer["dead"]), (&json!("mailer"), 3, &json!(3)));
    assert_eq!((&reader["kind"], numbers(reader), &reader["paused"]), (&json!("cursor"), [3, 0, 0, 0], &json!(false)));
    assert_eq!(run(&scratch, &["consumers", "show", STORE, "mailer", "--json"]).ends(0).object(), *mailer);
    let text = run(&scratch, &["consumers", "show", STORE, "mailer"]).ends(0).out;
    assert!(text.contains("dead letters    3\n") && text.contains("paused          no\n"), "{text}");
    assert_eq!(run(&scratch, &["consumers", "ls", STORE]).ends(0).out.lines().count(), 3);

    // A row that lacks one of them would be told.
    let mut short = mailer.clone();
    short.as_object_mut().unwrap().remove("lag");
    assert_eq!(missing(&short), ["lag"]);
}

#[test]
fn consumers_are_moved_paused_and_forgotten_by_name() {
    let scratch = Scratch::new();
    store_with_letters(&scratch);
    let reset = |name, to| run(&scratch, &["consumers", "reset", STORE, name, "--to", to, "--json"]);
    let position = |name, to| reset(name, to).ends(0).object()["position"].clone();
    assert_eq!(position("reader", "start"), 1);
    assert_eq!(position("reader", "5"), 5);
    assert_eq!(position("reader", "end"), 12);
    assert_eq!(position("reader", "1970-01-01T00:00:01Z"), 1);
    assert_eq!(position("reader", "1970-01-01T00:00:01.000000001Z"), 12);
    let again = reset("mailer", "2").ends(0).object();
    assert_eq!([&again["position"], &again["in_flight"], &again["waiting"], &again["dead"]], [2, 0, 0, 3]);
    reset("reader", "13").says(2, "position 13 is past the end; the furthest place to go on from is 12");
    reset("reader", "noon").says(2, "neither `start`, `end` nor a position");
    reset("nobody", "end").says(1, "no consumer \"nobody\"");

    let on = |verb, name| run(&scratch, &["consumers", verb, STORE, name]);
    assert!(on("pause", "mailer").ends(0).out.ends_with(", paused\n"));
    {
        let store = open(&scratch);
        let mut member = store.group("mailer").open().unwrap().member().unwrap();
        assert!(member.pull_batch(9, Duration::ZERO).unwrap().is_empty());
    }
    assert!(!on("resume", "mailer").ends(0).out.contains("paused"));
    {
        let store = open(&scratch);
        let mut member = store.group("mailer").open().unwrap().member().unwrap();
        assert!(!member.pull_batch(9, Duration::ZERO).unwrap().is_empty(), "it goes on once it is resumed");
    }
    on("pause", "reader").says(2, "\"reader\" is a cursor; only groups can be paused");
    on("pause", "nobody").says(1, "no consumer");

    assert!(on("rm", "mailer").ends(0).out.ends_with(", gone\n"));
    on("rm", "reader").ends(0);
    on("rm", "reader").says(1, "no consumer \"reader\"");
    on("show", "mailer").says(1, "no consumer \"mailer\"");
    let left = run(&scratch, &["consumers", "ls", STORE, "--json"]).ends(0).objects();
    assert_eq!(left.iter().map(|row| row["name"].clone()).collect::<Vec<_>>(), ["audit"]);
}

#[test]
fn pending_lists_what_a_group_has_not_settled() {
    let scratch = Scratch::new();
    store_with_letters(&scratch);
    let pending = run(&scratch, &["pending", STORE, "mailer", "--json"]).ends(0);
    assert_eq!(pending.numbers("position"), [5, 6, 7]);
    let rows = pending.objects();
    for row in &rows {
        assert_eq!((missing(row), names(row).len()), (vec![], COMMON.len() + 4), "{row}");
    }
    let fifth = &rows[0];
    assert_eq!(
        (&fifth["stream"], &fifth["type"], &fifth["in_flight"]),
        (&json!("cart-3"), &json!("opened"), &json!(false))
    );
    assert_eq!((&fifth["attempts"], &fifth["error"]), (&json!(1), &json!("the line was busy")));
    assert_eq!(fifth["last_failed"], "1970-01-01T00:00:01.000000000Z");
    assert_eq!(fifth["not_before"], "1970-01-01T01:00:01.000000000Z");
    assert_eq!((&rows[1]["error"], &rows[1]["last_failed"]), (&Value::Null, &Value::Null));
    let text = run(&scratch, &["pending", STORE, "mailer"]).ends(0).out;
    assert!(text.contains("not before 1970-01-01T01:00:01.000000000Z") && text.contains("the line was busy"), "{text}");

    assert!(run(&scratch, &["pending", STORE, "audit", "--json"]).ends(0).out.is_empty());
    run(&scratch, &["pending", STORE, "reader"]).says(2, "\"reader\" is a cursor");
    run(&scratch, &["pending", STORE, "nobody"]).says(1, "no consumer \"nobody\"");
}

#[test]
fn dead_letters_are_listed_shown_and_exported() {
    let scratch = Scratch::new();
    store_with_letters(&scratch);
    let all = run(&scratch, &["dead", "ls", STORE, "--json"]).ends(0).objects();
    let places: Vec<_> =
        all.iter().map(|row| (row["name"].as_str().unwrap(), row["position"].as_u64().unwrap())).collect();
    assert_eq!(places, [("audit", 11), ("mailer", 8), ("mailer", 9), ("mailer", 10)]);
    let mailer = &all[1..];
    let fields = names(&mailer[0]);
    assert_eq!((fields.len(), missing(&mailer[0])), (19, vec![]));
    for row in &all {
        assert_eq!((names(row), &row["kind"]), (fields.clone(), &json!("dead")));
    }
    let second = &mailer[1];
    assert_eq!((&second["reason"], &second["attempts"]), (&json!("undecodable"), &json!(1)));
    assert_eq!((&second["stream"], &second["source_position"]), (&json!("cart-1"), &json!(2)));
    assert_eq!((&second["first_failed"], &second["lag"]), (&json!("1970-01-01T00:00:01.000000000Z"), &Value::Null));

    let shown = run(&scratch, &["dead", "show", STORE, "mailer", "--json"]).ends(0).objects();
    let exported = run(&scratch, &["dead", "export", STORE, "mailer"]).ends(0);
    assert_eq!(exported.numbers("position"), [8, 9, 10]);
    for ((shown, listed), event) in shown.iter().zip(mailer).zip(exported.objects()) {
        let mut without = shown.clone();
        assert_eq!(without.as_object_mut().unwrap().remove("event"), Some(event));
        assert_eq!(without, *listed);
    }
    let cat = run(&scratch, &["cat", STORE, "--stream", "$dead/mailer", "--json"]).ends(0).out;
    assert_eq!(exported.out, cat, "an export is what stands in the stream");
    let text = run(&scratch, &["dead", "show", STORE, "mailer", "--limit", "1"]).ends(0).out;
    let told = [
        "mailer#1, position 8\n",
        "cart-1@1, position 1\n",
        "no address\n",
        "shop:7\n",
        "by=web\n",
        "{\"by\":\"ann\"}\n",
    ];
    assert!(told.iter().all(|words| text.contains(words)) && !text.contains("$letter"), "{text}");

    let ls = |args: &[&str]| run(&scratch, &[&["dead", "ls", STORE], args].concat());
    assert_eq!(ls(&["--limit", "2", "--json"]).ends(0).numbers("position"), [11, 8]);
    assert_eq!(ls(&["--limit", "0"]).ends(0).out, "");
    assert_eq!(ls(&[]).ends(0).out.lines().count(), 4);
    ls(&["nobody"]).says(1, "no consumer \"nobody\"");
    ls(&["reader"]).says(2, "\"reader\" is a cursor; only groups have dead letters");
}

#[test]
fn dead_letters_are_chosen_by_conditions() {
    let scratch = Scratch::new();
    store_with_letters(&scratch);
    let all = vec![1, 2, 3];
    for (condition, numbers) in [
        ("reason=rejected", vec![1, 3]),
        ("reason!=rejected", vec![2]),
        ("error=no address", vec![1, 3]),
        ("error~timeout=3 <late>", vec![2]),
        ("error!~address", vec![2]),
        ("type=opened", vec![1, 3]),
        ("type=open", vec![]),
        ("stream~cart-1", vec![1, 2]),
        ("tag=shop:8", vec![3]),
        ("tag!=shop:8", vec![1, 2]),
        ("tag~shop", all.clone()),
        ("attempts>=1", all.clone()),
        ("attempts>1", vec![]),
        ("number<=2", vec![1, 2]),
        ("position>9", vec![3]),
        ("source_position<2", vec![1]),
        ("last_failed>=1970-01-01T00:00:01Z", all.clone()),
        ("last_failed>1970-01-01T00:00:01Z", vec![]),
        ("first_failed<1d", all.clone()),
        ("redriven=false", all.clone()),
        ("redriven=true", vec![]),
    ] {
        assert_eq!(chosen(&scratch, &[condition]), numbers, "{condition}");
    }
    assert_eq!(chosen(&scratch, &["reason=rejected", "tag=shop:7"]), [1]);
    for (condition, why) in [
        ("rejected", "no operator"),
        ("colour=red", "there is no field \"colour\", but reason, error,"),
        ("reason=tired", "a reason is one of: attempts, rejected,"),
        ("attempts~3", "attempts goes with"),
        ("attempts>=many", "attempts is a whole number"),
        ("first_failed>noon", "first_failed is a time"),
    ] {
        run(&scratch, &["dead", "ls", STORE, "--where", condition]).says(2, why);
    }
}

#[test]
fn redriving_says_first_what_it_would_do_and_a_letter_is_gone_only_once_its_event_is_settled() {
    let scratch = Scratch::new();
    store_with_letters(&scratch);
    let redrive = |args: &[&str]| run(&scratch, &[&["dead", "redrive", STORE, "mailer"], args].concat());
    let before = run(&scratch, &["dead", "ls", STORE, "--json"]).ends(0).out;
    let would = redrive(&["--where", "reason=rejected"]).ends(0).out;
    assert!(would.contains("mailer: 2 would be redriven") && would.contains("with --yes does it"), "{would}");
    assert_eq!(would.lines().count(), 4, "{would}");
    let row = redrive(&["--where", "reason=rejected", "--json"]).ends(0).object();
    let counts =
        json!({"name": "mailer", "action": "redrive", "done": false, "moved": 2, "passed_over": 0, "impossible": 0});
    assert_eq!(row, counts);
    assert_eq!(run(&scratch, &["dead", "ls", STORE, "--json"]).ends(0).out, before, "nothing was changed");

    let row = redrive(&["--where", "reason=rejected", "--rate", "1000/s", "--yes", "--json"]).ends(0).object();
    assert_eq!((&row["done"], &row["moved"]), (&json!(true), &json!(2)));
    assert_eq!(chosen(&scratch, &["redriven=true"]), [1, 3]);
    assert_eq!(chosen(&scratch, &[]), [1, 2, 3], "not gone yet");
    let row = redrive(&["--yes", "--json"]).ends(0).object();
    assert_eq!((&row["moved"], &row["passed_over"]), (&json!(1), &json!(2)));

    let store = open(&scratch);
    let mut member = store.group("mailer").open().unwrap().member().unwrap();
    settle(&mut member, &[(1, Settlement::Done), (2, Settlement::Release), (3, reject(Reason::TooLarge, "once more"))]);
    drop(member);
    store.close().unwrap();
    let left = run(&scratch, &["dead", "ls", STORE, "mailer", "--json"]).ends(0).objects();
    let left: Vec<_> = left.iter().map(|row| (&row["number"], &row["replaces"], &row["redriven"])).collect();
    assert_eq!(left, [(&json!(2), &Value::Null, &json!(true)), (&json!(4), &json!(3), &json!(false))]);
    assert!(redrive(&["--where", "number=1"]).ends(0).out.contains("nothing to do"));
}

#[test]
fn dropping_says_first_what_it_would_do() {
    let scratch = Scratch::new();
    store_with_letters(&scratch);
    let would = run(&scratch, &["dead", "drop", STORE, "--limit", "2"]).ends(0).out;
    let told = ["audit: 1 would be dropped\n", "mailer: 1 would be dropped\n", "nothing was changed"];
    assert!(told.iter().all(|words| would.contains(words)), "{would}");
    assert_eq!(chosen(&scratch, &[]), [1, 2, 3]);

    let done = run(&scratch, &["dead", "drop", STORE, "mailer", "--where", "error~address", "--yes"]).ends(0).out;
    assert_eq!(done, "mailer: 2 dropped\n");
    assert_eq!(chosen(&scratch, &[]), [2]);
    let stream = run(&scratch, &["cat", STORE, "--stream", "$dead/mailer", "--json"]).ends(0);
    assert_eq!(stream.numbers("position"), [8, 9, 10], "the log keeps them");
}

#[test]
fn a_letter_whose_event_is_lost_is_told_and_cannot_be_redriven_or_become_a_test() {
    let scratch = Scratch::new();
    {
        // The first of two segments.
        let store = scratch.open();
        let payload = "a".repeat(60_000);
        for _ in 0..4 {
            store.append("cart-1", NewEvent::new("opened", &payload)).unwrap();
        }
        store.close().unwrap();
    }
    let segment = files::segments(&scratch.store_path()).remove(0);
    assert_ne!(segment, files::newest(&scratch.store_path()));
    files::flip(&segment, files::frame_of(&segment, 2).offset + 41, 0);
    {
        let store = open(&scratch);
        let mut member = store.group("mailer").open().unwrap().member().unwrap();
        settle(&mut member, &[]);
        settle(&mut member, &[]);
    }
    let row = run(&scratch, &["dead", "ls", STORE, "--json"]).ends(0).object();
    assert_eq!((&row["reason"], &row["lost"], &row["stream"]), (&json!("damaged"), &json!(1), &Value::Null));
    assert_eq!((&row["source_position"], missing(&row)), (&json!(2), vec![]));
    for yes in [&[][..], &["--yes"]] {
        let ran = run(&scratch, &[&["dead", "redrive", STORE, "--json"], yes].concat());
        let ran = ran.says(1, "1 dead letters of mailer cannot be handled again");
        assert_eq!((&ran.object()["moved"], &ran.object()["impossible"]), (&json!(0), &json!(1)));
    }
    let position = row["position"].to_string();
    run(&scratch, &["dead", "export", STORE, "--as-test", &position]).says(1, "stands for a damaged stretch");
    assert_eq!(run(&scratch, &["dead", "drop", STORE, "--yes"]).ends(0).out, "mailer: 1 dropped\n");
}

#[test]
fn verbs_that_look_work_beside_a_live_writer_and_those_that_change_name_it() {
    let scratch = Scratch::new();
    store_with_letters(&scratch);
    let look = [
        &["consumers", "ls", STORE][..],
        &["consumers", "show", STORE, "mailer"],
        &["pending", STORE, "mailer"],
        &["dead", "ls", STORE],
        &["dead", "show", STORE],
        &["dead", "export", STORE],
        &["dead", "export", STORE, "--as-test", "8"],
        &["dead", "redrive", STORE],
        &["dead", "drop", STORE],
        &["tail", STORE, "--stream", "$dead/mailer"],
    ];
    let change = [
        &["dead", "redrive", STORE, "mailer", "--yes"][..],
        &["consumers", "pause", STORE, "mailer"],
        &["consumers", "resume", STORE, "mailer"],
        &["consumers", "reset", STORE, "mailer", "--to", "end"],
        &["dead", "drop", STORE, "--yes"],
        &["consumers", "rm", STORE, "mailer"],
    ];
    let store = open(&scratch);
    let holder = format!("locked by process {}", std::process::id());
    for args in look {
        assert!(!run(&scratch, args).ends(0).out.is_empty(), "{args:?}");
    }
    for args in change {
        run(&scratch, args).says(2, &holder);
    }
    store.close().unwrap();
    for args in change {
        run(&scratch, args).ends(0);
    }
    for args in look.iter().chain(&change) {
        let elsewhere: Vec<&str> = args.iter().map(|arg| if *arg == STORE { "elsewhere" } else { arg }).collect();
        run(&scratch, &elsewhere).ends(2);
        assert!(!scratch.path().join("elsewhere").exists(), "{args:?} made a store");
    }
}

#[test]
fn tail_shows_one_stream_also_one_of_the_stores_own() {
    let scratch = Scratch::new();
    store_with_letters(&scratch);
    let tail = |args: &[&str]| run(&scratch, &[&["tail", STORE, "--json"], args].concat()).ends(0).numbers("position");
    assert_eq!(tail(&["--stream", "$dead/mailer", "-n", "2"]), [9, 10]);
    assert_eq!(tail(&["--stream", "cart-2"]), [3, 4]);
    assert_eq!(tail(&["-n", "2"]), [6, 7], "those of the store's own are left out unless named");

    let store = open(&scratch);
    let mut follower = command(&scratch, &["tail", STORE, "--stream", "$dead/mailer", "-f", "-n", "1", "--json"]);
    let mut follower = follower.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["position"], 10);
    store.append("cart-9", json("opened", "{}")).unwrap();
    let mut member = store.group("mailer").open().unwrap().member().unwrap();
    settle(&mut member, &[(6, reject(Reason::Rejected, "no"))]);
    assert_eq!(next()["type"], "paid");
    follower.kill().unwrap();
    follower.wait().unwrap();
}

/// An event with everything that an event can have, and texts that try to get out of a literal.
fn hostile() -> NewEvent<'static> {
    NewEvent::encoded("pa\"id\\", Codec::Json, "{\"said\": \"\u{202e}'\\u0000\\\"#\",\n\"é\": r#\"}".as_bytes())
        .id(7)
        .occurred(Timestamp::from_nanos(5))
        .schema_version(3)
        .correlation("order \"9\"")
        .causation(EventId::Own(8))
        .tag("it's \u{2067}so")
        .tag("shop:7")
        .header("by", "{web}")
        .header("$own", "*/ \" // é")
}

const HOSTILE_STREAM: &str = "cart-\"\\1{}";

/// The handler of the tests in `cli_replayed.rs`: everything about the event is as it was appended.
pub(crate) fn seen(delivery: &Delivery<'_>) -> Result<(), String> {
    let expected = {
        let scratch = Scratch::new();
        let store = open(&scratch);
        store.append(HOSTILE_STREAM, hostile()).unwrap();
        store.event(Position::new(1)).unwrap().unwrap()
    };
    match (everything(delivery), everything(&expected)) {
        (seen, expected) if seen == expected => Ok(()),
        (seen, expected) => Err(format!("{seen}\nis not\n{expected}")),
    }
}

fn everything(event: &Event<'_>) -> String {
    let texts = (event.stream(), event.type_name(), event.codec(), event.payload());
    let ids = (event.own_id(), event.correlation(), event.causation(), event.schema_version());
    let lists = (event.tags().collect::<Vec<_>>(), event.headers().collect::<Vec<_>>());
    format!("{texts:?} {ids:?} {lists:?} {:?} {:?}", event.time(), event.occurred())
}

/// The tests that are printed stand in `cli_replayed.rs`, compile there with the public API alone, and run. The first as
/// it is printed, the second with a handler that looks.
#[test]
fn a_dead_letter_becomes_a_test_that_compiles_and_hands_over_the_same_event() {
    let scratch = Scratch::new();
    let store = open(&scratch);
    store.append("cart-1", NewEvent::new("scanned", b"\x00\xff")).unwrap();
    store.append(HOSTILE_STREAM, hostile()).unwrap();
    let mut member = store.group("Mail-out").open().unwrap().member().unwrap();
    settle(
        &mut member,
        &[(1, reject(Reason::Rejected, "no address")), (2, reject(Reason::Rejected, "one\ntwo */ \u{202e}"))],
    );
    drop(member);
    store.close().unwrap();
    let printed = |position| run(&scratch, &["dead", "export", STORE, "--as-test", position]).ends(0).out;
    let args = ["dead", "export", STORE, "--as-test", "3", "--json"];
    assert_eq!(run(&scratch, &args).ends(0).object()["test"], printed("3").trim_end());
    let handler = "        // Call your handler here; until then this test proves nothing.\n        let _ = delivery;\n        Ok(())\n";
    let looking = "        crate::cli_consumers::seen(delivery)\n";
    let (plain, looked) = (printed("3"), printed("4").replace(handler, looking));
    assert!(plain.contains(handler) && looked.contains(looking));
    let head = "//! What `dead export --as-test` prints, see `cli_consumers.rs`.\n";
    let file = format!("{head}\n{plain}\n{looked}");
    assert!(file == include_str!("cli_replayed.rs"), "cli_replayed.rs is to be:\n{file}");

    // Another event would be told apart.
    let scratch = Scratch::new();
    let store = open(&scratch);
    store.append(HOSTILE_STREAM, hostile().tag("another")).unwrap();
    let mut cursor = store.cursor("replay").open().unwrap();
    let batch = cursor.pull_batch(1, Duration::ZERO).unwrap();
    assert!(seen(&batch.get(0).unwrap()).unwrap_err().contains("another"));
}

#[test]
fn a_position_without_a_dead_letter_is_told() {
    let scratch = Scratch::new();
    store_with_letters(&scratch);
    let export = |args: &[&str]| run(&scratch, &[&["dead", "export", STORE], args].concat());
    export(&["--as-test", "1"]).says(1, "position 1 is no dead letter; what it became stands at 8");
    export(&["--as-test", "4"]).says(1, "no dead letter at position 4");
    export(&["--as-test", "99"]).says(1, "no dead letter at position 99");
    export(&["audit", "--as-test", "8"]).says(1, "no dead letter at position 8");
    export(&["--as-test", "8", "--limit", "1"]).says(2, "cannot be used with");
    run(&scratch, &["dead", "drop", STORE, "mailer", "--limit", "1", "--yes"]).ends(0);
    export(&["--as-test", "8"]).says(1, "was dropped, or redriven with success");
    assert!(export(&["--as-test", "9"]).ends(0).out.contains("fn dead_letter_9_of_mailer_is_handled()"));
}
