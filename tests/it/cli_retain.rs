//! `towpath retain`: what would go, who keeps it back, and letting go of it. The binary runs as a process of its own.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use towpath::{Canal, Clock, Durability, ManualClock, NewEvent, Options, Position, Store, SystemClock, Timestamp};

use crate::cli::{STORE, names, run};
use crate::support::{Scratch, files};

const DAY: u64 = 86_400;

/// Two hundred events, half of them three days old, in some ten segments; and a cursor that stands at 61.
fn store_of_old_events(scratch: &Scratch) -> Store {
    let now = SystemClock.now().as_nanos();
    let clock = Arc::new(ManualClock::at(Timestamp::from_nanos(now - 3 * DAY * 1_000_000_000)));
    let options = Options::new().segment_bytes(64 << 10).durability(Durability::Os).clock(clock.clone());
    let store = options.open(scratch.store_path()).unwrap();
    for number in 0..200 {
        if number == 100 {
            clock.set(Timestamp::from_nanos(now));
        }
        store.append(&format!("order-{}", number % 3), NewEvent::new("placed", &[7; 3_000])).unwrap();
    }
    let mut mail = store.cursor("mail").open().unwrap();
    mail.pull_batch(60, Duration::ZERO).unwrap();
    mail.acknowledge(Position::new(60)).unwrap();
    mail.flush().unwrap();
    drop(mail);
    store
}

#[test]
fn a_plan_tells_what_would_go_and_who_keeps_it_back_beside_a_live_writer() {
    let scratch = Scratch::new();
    let store = store_of_old_events(&scratch);
    while store.counters().segments_sealed < store.counters().segments_begun {
        std::thread::yield_now();
    }
    let before = files::segments(&scratch.store_path());
    let plan = run(&scratch, &["retain", "plan", STORE, "--max-events", "50", "--json"]).ends(0).object();
    let fixed = ["bytes", "done", "events", "held", "keeps_from", "oldest", "segments"];
    assert_eq!(names(&plan), fixed);
    let known = store.plan_retention(&towpath::Retention::new().max_events(50)).unwrap();
    assert_eq!(
        (&plan["done"], &plan["oldest"], &plan["segments"], &plan["keeps_from"], &plan["events"], &plan["bytes"]),
        (
            &json!(false),
            &json!(1),
            &json!(known.segments),
            &json!(known.keeps_from.get()),
            &json!(known.events),
            &json!(known.bytes)
        )
    );
    assert!(known.segments > 0);
    let held = &plan["held"].as_array().unwrap()[..];
    let [mail] = held else { panic!("{held:?}") };
    assert_eq!(names(mail), ["bytes", "consumer", "need", "position"]);
    assert_eq!(*mail, json!({ "consumer": "mail", "need": "unread", "position": 61, "bytes": known.held[0].bytes }));

    // The limits one by one, and without the one that holds it back.
    let goes = |args: &[&str]| {
        let plan = run(&scratch, &[&["retain", "plan", STORE, "--json"], args].concat()).ends(0).object();
        (plan["keeps_from"].as_u64().unwrap(), plan["held"].as_array().unwrap().len())
    };
    let (by_age, _) = goes(&["--max-age", "2d", "--even-from", "mail"]);
    assert!(by_age > 61 && by_age <= 101, "{by_age}");
    assert_eq!(goes(&["--max-age", "4d"]), (1, 0));
    assert_eq!(goes(&["--max-bytes", "10GiB"]), (1, 0));
    let (by_bytes, _) = goes(&["--max-bytes", "200KiB", "--even-from", "mail"]);
    assert!(by_bytes > 101, "{by_bytes}");
    let text = run(&scratch, &["retain", "plan", STORE, "--max-events", "50"]).ends(0).out;
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains(" segments would go: ") && text.contains("kept back by mail from position 61 (unread): "));
    assert_eq!(files::segments(&scratch.store_path()), before, "planning changes nothing");
}

#[test]
fn applying_lets_go_and_is_refused_while_another_process_writes() {
    let scratch = Scratch::new();
    let store = store_of_old_events(&scratch);
    let holder = format!("locked by process {}", std::process::id());
    let apply = ["retain", "apply", STORE, "--max-events", "50"];
    run(&scratch, &apply).says(2, &holder);
    assert_eq!(store.oldest().get(), 1);
    store.close().unwrap();

    let apply = [&apply[..], &["--json"]].concat();
    let went = run(&scratch, &apply).ends(0).object();
    let oldest = went["keeps_from"].as_u64().unwrap();
    assert_eq!((&went["done"], &went["oldest"]), (&json!(true), &json!(1)));
    assert!(oldest > 1 && oldest <= 61);
    assert_eq!(run(&scratch, &["info", STORE, "--json"]).ends(0).object()["first_position"], json!(oldest));
    assert_eq!(run(&scratch, &apply).ends(0).object()["segments"], json!(0), "what is gone does not come back");

    // Named, it is passed over, told, and put where it can go on.
    let named = [&apply[..], &["--even-from", "mail"]].concat();
    let oldest = run(&scratch, &named).ends(0).object()["keeps_from"].as_u64().unwrap();
    assert!(oldest > 61);
    let refused = Store::open_read_only(scratch.store_path()).unwrap();
    assert_eq!(refused.oldest().get(), oldest);
    run(&scratch, &["consumers", "reset", STORE, "mail", "--to", "start"]).ends(0);
    let ls = run(&scratch, &["consumers", "ls", STORE, "--json"]).ends(0).object();
    assert_eq!(ls["position"], json!(oldest));
    run(&scratch, &["verify", STORE]).ends(0);
    // One that is young, and beyond no limit, stays.
    let text = run(&scratch, &["retain", "apply", STORE, "--max-age", "1d"]).ends(0).out;
    assert_eq!(text, format!("nothing went; kept from position {oldest}\n"));
}

/// Its streams all began in what went. Control: before that, and where nothing is gone, the number stands by itself.
#[test]
fn info_says_which_streams_it_counts_where_events_are_gone() {
    let scratch = Scratch::new();
    store_of_old_events(&scratch).close().unwrap();
    assert!(run(&scratch, &["info", STORE]).ends(0).out.contains("\nstreams    3\npositions  1 to 200, "));
    let apply = ["retain", "apply", STORE, "--max-events", "1", "--even-from", "mail"];
    run(&scratch, &apply).ends(0);
    let info = run(&scratch, &["info", STORE, "--json"]).ends(0).object();
    let oldest = info["first_position"].as_u64().unwrap();
    assert_eq!(
        (&info["streams"], &info["gone"], &info["events"]),
        (&json!(0), &json!(oldest - 1), &json!(201 - oldest))
    );
    let text = run(&scratch, &["info", STORE]).ends(0).out;
    assert!(text.contains("\nstreams    0 whose first event is there; `towpath streams` finds all"), "{text}");
    assert!(text.contains(&format!("\ngone       {} positions hold no event any more\n", oldest - 1)), "{text}");
    assert_eq!(run(&scratch, &["streams", STORE]).ends(0).out.lines().count(), 3);
}

#[test]
fn a_retention_without_a_limit_or_for_nobody_is_refused_in_a_sentence() {
    let scratch = Scratch::new();
    store_of_old_events(&scratch).close().unwrap();
    for verb in ["plan", "apply"] {
        run(&scratch, &["retain", verb, STORE]).says(2, "--max-age");
        run(&scratch, &["retain", verb, STORE, "--max-age", "soon"]).says(2, "it is not a span");
        run(&scratch, &["retain", verb, STORE, "--max-bytes", "10GB"]).says(2, "it is not a number");
        run(&scratch, &["retain", verb, STORE, "--max-events", "-1"]).ends(2);
        run(&scratch, &["retain", verb, STORE, "--max-events", "1", "--even-from", "post"])
            .says(2, "no consumer \"post\"");
        run(&scratch, &["retain", verb, "nowhere", "--max-events", "1"]).ends(2);
    }
    assert_eq!(Store::open_read_only(scratch.store_path()).unwrap().oldest().get(), 1);
}
