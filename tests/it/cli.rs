//! The command line, as scripts and people use it: every verb, its field names, its exit status, what it says on stderr,
//! and what clumsy or hostile input does to it. The binary runs as a process of its own; the fixed names stand in the
//! README and in the verbs' sources.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, ExitStatus, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use towpath::{Canal, Codec, Commit, Event, NewEvent, Position, Query, Store, Timestamp};

use crate::support::{Scratch, child, files};

/// The store of a test lies in the directory that the commands run in.
pub(crate) const STORE: &str = "orders.towpath";

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    fn of(status: ExitStatus, out: &[u8], err: &[u8]) -> Self {
        // Output is UTF-8 whatever was put in.
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Self { status: status.code(), out: text(out), err: text(err) }
    }

    /// What is wrong with the way it ended, and with what it said of that: good and silent, or one sentence on stderr.
    fn fault(&self, status: i32) -> Option<String> {
        let is_told = self.err.starts_with("towpath: ") && self.err.ends_with('\n') && self.err.lines().count() == 1;
        let is_plain = !self.err.chars().any(|c| c.is_control() && c != '\n') && !self.err.contains("panicked");
        let is_right = match status {
            0 => self.err.is_empty(),
            _ => is_told && is_plain,
        };
        (self.status != Some(status) || !is_right).then(|| format!("expected {status}: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn ends(self, status: i32) -> Self {
        if let Some(fault) = self.fault(status) {
            panic!("{fault}");
        }
        self
    }

    /// Ends with one sentence that has these words in it.
    #[track_caller]
    pub(crate) fn says(self, status: i32, words: &str) -> Self {
        let ran = self.ends(status);
        assert!(ran.err.contains(words), "no {words:?} in {:?}", ran.err);
        ran
    }

    /// Each line of the output as a JSON object.
    #[track_caller]
    pub(crate) fn objects(&self) -> Vec<Value> {
        let object = |line| serde_json::from_str::<Value>(line).ok().filter(Value::is_object);
        self.out.lines().map(|line| object(line).unwrap_or_else(|| panic!("not an object: {line}"))).collect()
    }

    #[track_caller]
    pub(crate) fn object(&self) -> Value {
        let mut objects = self.objects();
        assert_eq!(objects.len(), 1, "{}", self.out);
        objects.remove(0)
    }

    /// The number in one field of all objects.
    #[track_caller]
    pub(crate) fn numbers(&self, field: &str) -> Vec<u64> {
        self.objects().iter().map(|object| object[field].as_u64().unwrap()).collect()
    }
}

pub(crate) fn command(scratch: &Scratch, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_towpath"));
    // A backtrace must not show up even where somebody wants all of them.
    command.args(args).current_dir(scratch.path()).env("RUST_BACKTRACE", "1").stdin(Stdio::null());
    command
}

pub(crate) fn run(scratch: &Scratch, args: &[&str]) -> Ran {
    let output = command(scratch, args).output().unwrap();
    Ran::of(output.status, &output.stdout, &output.stderr)
}

/// Runs with this on standard input.
pub(crate) fn fed(scratch: &Scratch, args: &[&str], input: &[u8]) -> Ran {
    let path = scratch.path().join("input");
    fs::write(&path, input).unwrap();
    let output = command(scratch, args).stdin(File::open(path).unwrap()).output().unwrap();
    Ran::of(output.status, &output.stdout, &output.stderr)
}

fn write(scratch: &Scratch, name: &str, content: impl AsRef<[u8]>) {
    fs::write(scratch.path().join(name), content).unwrap();
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// The names in an object, in the order of the alphabet.
pub(crate) fn names(object: &Value) -> Vec<&str> {
    let mut names: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// Two carts and a payment, five events, one of them with everything an event can have.
fn five(store: &Store) {
    let json =
        |type_name: &'static str, payload: &'static str| NewEvent::encoded(type_name, Codec::Json, payload.as_bytes());
    store.append("cart-1", json("opened", "{\"by\": \"ann\"}").tag("shop:7")).unwrap();
    let cause = store.event(Position::new(1)).unwrap().unwrap().id();
    store.append("cart-2", json("opened", "{\"by\":\"bob\"}").tag("shop:7").tag("new")).unwrap();
    store.append("cart-1", NewEvent::new("scanned", b"\x00\xff")).unwrap();
    let everything = json("paid", "{\"z\":1.10,\"a\":[1,2]}")
        .id(7)
        .correlation("order 9")
        .causation(cause)
        .occurred(Timestamp::from_nanos(1))
        .tag("shop:7")
        .header("by", "web");
    store.append("payment-1", everything).unwrap();
    store.append("cart-1", json("closed", "null")).unwrap();
}

fn store_of_five(scratch: &Scratch) {
    let store = scratch.open();
    five(&store);
    store.close().unwrap();
}

/// Breaks the event at position 3 of five.
fn damage_the_third(scratch: &Scratch) -> u64 {
    let segment = files::newest(&scratch.store_path());
    let offset = files::frame_of(&segment, 3).offset;
    files::flip(&segment, offset + 41, 0);
    offset
}

/// Positions of an export, as an independent look through the library gives them.
fn positions(scratch: &Scratch) -> Vec<u64> {
    let store = Store::open_read_only(scratch.store_path()).unwrap();
    store.read(Query::new()).map(|event| event.unwrap().position().get()).collect()
}

fn first(scratch: &Scratch, position: u64) -> Event<'static> {
    let store = Store::open_read_only(scratch.store_path()).unwrap();
    store.event(Position::new(position)).unwrap().unwrap()
}

#[test]
fn the_checks_of_these_tests_can_fail() {
    let ran = |status, err: &str| Ran { status, out: String::new(), err: err.to_owned() };
    assert_eq!(ran(Some(0), "").fault(0), None);
    assert_eq!(ran(Some(2), "towpath: it is locked\n").fault(2), None);
    let wrong = [
        (ran(Some(0), "towpath: but\n"), 0),
        (ran(Some(101), ""), 0),
        (ran(Some(101), "towpath: it is locked\n"), 2),
        (ran(None, ""), 0),
        (ran(Some(2), ""), 2),
        (ran(Some(2), "towpath: a\nstack backtrace:\n"), 2),
        (ran(Some(2), "towpath: \u{1b}[2J\n"), 2),
        (ran(Some(2), "Error: Os { code: 2 }\n"), 2),
        (ran(Some(2), "thread 'main' panicked at src\n"), 2),
    ];
    for (ran, status) in wrong {
        assert!(ran.fault(status).is_some(), "{ran:?} passes for {status}");
    }
}

#[test]
fn info_tells_what_a_store_holds() {
    let scratch = Scratch::new();
    let store = scratch.open();
    five(&store);
    let mut cursor = store.cursor("mailer").open().unwrap();
    let last = cursor.pull_batch(2, std::time::Duration::ZERO).unwrap().iter().last().unwrap().position();
    cursor.acknowledge(last).unwrap();
    drop(cursor);
    store.close().unwrap();

    let info = run(&scratch, &["info", STORE, "--json"]).ends(0).object();
    let fixed = [
        "bytes",
        "consumers",
        "durable_position",
        "events",
        "first_position",
        "format_version",
        "gone",
        "index_files",
        "last_position",
        "segments",
        "streams",
    ];
    assert_eq!(names(&info), fixed);
    let last = &info["last_position"];
    assert_eq!((&info["events"], &info["streams"], &info["first_position"]), (&json!(5), &json!(3), &json!(1)));
    assert_eq!((&info["segments"], &info["format_version"], &info["durable_position"]), (&json!(1), &json!(1), last));
    assert!(info["bytes"].as_u64().unwrap() > files::FRAMES);
    let [mailer] = info["consumers"].as_array().unwrap().as_slice() else { panic!("{info}") };
    assert_eq!(names(mailer), ["kind", "lag", "name", "position"]);
    assert_eq!(
        (&mailer["name"], &mailer["kind"], &mailer["position"]),
        (&json!("mailer"), &json!("cursor"), &json!(3))
    );
    assert!(mailer["lag"].as_u64().unwrap() >= 3);

    let text = run(&scratch, &["info", STORE]).ends(0).out;
    assert!(text.contains("events     5\n") && text.contains("consumer   mailer (cursor), next 3"), "{text}");
}

#[test]
fn streams_and_types_are_listed_with_their_counts() {
    let scratch = Scratch::new();
    store_of_five(&scratch);
    let streams = run(&scratch, &["streams", STORE, "--json"]).ends(0).objects();
    assert_eq!(
        streams,
        [
            json!({"stream": "cart-1", "events": 3, "last_position": 5}),
            json!({"stream": "cart-2", "events": 1, "last_position": 2}),
            json!({"stream": "payment-1", "events": 1, "last_position": 4}),
        ]
    );
    let types = run(&scratch, &["types", "--json", STORE]).ends(0).objects();
    assert_eq!(types[1], json!({"type": "opened", "events": 2}));
    assert_eq!(types.len(), 4);
    assert!(run(&scratch, &["streams", STORE]).ends(0).out.ends_with("           1  payment-1\n"));
    assert!(run(&scratch, &["types", STORE]).ends(0).out.starts_with("           1  closed\n"));
}

#[test]
fn cat_and_export_have_the_fixed_fields() {
    let scratch = Scratch::new();
    store_of_five(&scratch);
    let cat = run(&scratch, &["cat", STORE, "--json"]).ends(0);
    let [plain, _, raw, full, _] = &cat.objects()[..] else { panic!("{}", cat.out) };
    let always = ["headers", "payload", "position", "revision", "stream", "tags", "time", "type"];
    assert_eq!(names(plain), always);
    assert_eq!(names(raw), always.map(|name| if name == "payload" { "payload_base64" } else { name }));
    let mut all = [&always[..], &["causation", "correlation", "id", "occurred"]].concat();
    all.sort_unstable();
    assert_eq!(names(full), all);

    assert_eq!((&plain["position"], &plain["stream"], &plain["revision"]), (&json!(1), &json!("cart-1"), &json!(1)));
    assert_eq!((&plain["type"], &plain["tags"], &plain["headers"]), (&json!("opened"), &json!(["shop:7"]), &json!({})));
    assert_eq!(raw["payload_base64"], "AP8=");
    assert_eq!((&full["correlation"], &full["headers"]), (&json!("order 9"), &json!({"by": "web"})));
    assert_eq!(full["occurred"], "1970-01-01T00:00:00.000000001Z");
    let cause = first(&scratch, 1).id().to_string();
    assert_eq!(full["causation"], cause);
    let time = plain["time"].as_str().unwrap();
    assert!(time.len() == "2013-01-01T10:00:00.000000000Z".len() && time.ends_with('Z'), "{time}");
    assert!(cat.out.contains("\"payload\":{\"z\":1.10,\"a\":[1,2]}"), "the order and digits as stored");

    for args in [&["export", STORE][..], &["export", STORE, "--json"], &["export", STORE, "--format", "ndjson"]] {
        assert_eq!(run(&scratch, args).ends(0).out, cat.out);
    }
    let text = run(&scratch, &["cat", STORE]).ends(0).out;
    assert!(text.contains("  cart-1@2  scanned  <2 bytes raw>\n"), "{text}");
}

#[test]
fn cat_prints_what_was_asked_for() {
    let scratch = Scratch::new();
    store_of_five(&scratch);
    let asked: [(&[&str], &[u64]); 23] = [
        (&["--stream", "cart-1"], &[1, 3, 5]),
        (&["--category", "cart"], &[1, 2, 3, 5]),
        (&["--category", "cart-1"], &[]),
        (&["--subject", "*"], &[1, 2, 3, 4, 5]),
        (&["--subject", "cart-1"], &[1, 3, 5]),
        (&["--subject", "cart-1.*"], &[]),
        (&["--type", "opened", "--type", "paid"], &[1, 2, 4]),
        (&["--tag", "shop:7"], &[1, 2, 4]),
        (&["--tag", "shop:7", "--tag", "new"], &[2]),
        (&["--stream", "cart-1", "--tag", "shop:7"], &[1]),
        (&["--stream", "nobody's"], &[]),
        (&["--type", ""], &[]),
        (&["--from", "4"], &[4, 5]),
        (&["--from", "0", "-n", "1"], &[1]),
        (&["--from", "6"], &[]),
        (&["--reverse"], &[5, 4, 3, 2, 1]),
        (&["--reverse", "--from", "3"], &[3, 2, 1]),
        (&["--reverse", "--from", "18446744073709551615", "-n", "2"], &[5, 4]),
        (&["--reverse", "--from", "0"], &[]),
        (&["-n", "0"], &[]),
        (&["-n", "18446744073709551615", "--stream", "payment-1"], &[4]),
        (&["--since", "2553-12-31"], &[]),
        (&["--since", "1d", "--reverse", "-n", "1"], &[5]),
    ];
    for (args, expected) in asked {
        let args = [&["cat", STORE, "--json"], args].concat();
        assert_eq!(run(&scratch, &args).ends(0).numbers("position"), expected, "{args:?}");
    }
    // Nothing there yet is not an error, but it is told: somebody may have the wrong store.
    let past = run(&scratch, &["cat", STORE, "--from", "18446744073709551615"]);
    assert_eq!((past.status, &past.out[..]), (Some(0), ""));
    assert!(past.err.contains("past the end, the last event is"), "{past:?}");
}

#[test]
fn get_prints_one_event_or_says_that_there_is_none() {
    let scratch = Scratch::new();
    store_of_five(&scratch);
    let all = run(&scratch, &["cat", STORE, "--json"]).out;
    let got = run(&scratch, &["get", STORE, "4", "--json"]).ends(0);
    assert_eq!(got.out.trim_end(), all.lines().nth(3).unwrap());
    let text = run(&scratch, &["get", STORE, "4"]).ends(0).out;
    for line in ["position    4", "stream      payment-1@1", "correlation order 9", "header      by=web"] {
        assert!(text.lines().any(|found| found == line), "no {line:?} in {text}");
    }
    for nothing in ["0", "1000", "18446744073709551615"] {
        run(&scratch, &["get", STORE, nothing]).says(1, &format!("no event at position {nothing}"));
    }
    for nonsense in ["18446744073709551616", "-1", "x", ""] {
        run(&scratch, &["get", STORE, nonsense]).ends(2);
    }
}

#[test]
fn append_makes_a_store_and_answers_with_the_place() {
    let scratch = Scratch::new();
    let appended = run(&scratch, &["append", STORE, "cart-1", "opened", "{\"a\": 1}", "--tag", "x", "--json"]).ends(0);
    assert_eq!(appended.object(), json!({"position": 1, "revision": 1, "duplicate": false}));
    assert_eq!(run(&scratch, &["append", STORE, "cart-1", "empty"]).ends(0).out, "position 2, revision 2\n");
    assert_eq!(
        fed(&scratch, &["append", STORE, "cart-1", "fed", "-"], b" [1]\n").ends(0).out,
        "position 3, revision 3\n"
    );
    run(&scratch, &["append", STORE, "temperature", "measured", "-5", "--occurred", "2013-01-01"]).ends(0);
    assert_eq!((first(&scratch, 3).payload(), first(&scratch, 4).payload()), (&b"[1]"[..], &b"-5"[..]));
    assert_eq!(first(&scratch, 4).occurred(), Some(Timestamp::from_nanos(1_356_998_400_000_000_000)));

    let keyed = ["append", STORE, "cart-2", "opened", "1", "--key", "k", "--json", "--header", "by=web=2"];
    assert_eq!(run(&scratch, &keyed).ends(0).object()["duplicate"], false);
    assert_eq!(run(&scratch, &keyed).ends(0).object(), json!({"position": 5, "revision": 1, "duplicate": true}));
    run(&scratch, &["append", STORE, "cart-2", "opened", "2", "--key", "k"]).says(1, "\"k\"");

    let expect = |what| run(&scratch, &["append", STORE, "cart-1", "closed", "--expect", what]);
    expect("absent").says(1, "cart-1 is at revision 3");
    expect("18446744073709551615").says(1, "cart-1 is at revision 3");
    expect("3").ends(0);
    assert_eq!(positions(&scratch), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn append_refuses_what_cannot_be_stored_and_changes_nothing() {
    let scratch = Scratch::new();
    store_of_five(&scratch);
    let long = "x".repeat(5_000);
    let deep = "[".repeat(5_000);
    let refused: [&[&str]; 18] = [
        &["", "x"],
        &["x", ""],
        &["$own", "x"],
        &["a\nb", "x"],
        &["\u{1b}[2J", "x"],
        &[&long, "x"],
        &["x", &long],
        &["x", "x", "{"],
        &["x", "x", ""],
        &["x", "x", "nope"],
        &["x", "x", &deep],
        &["x", "x", "1", "--tag", ""],
        &["x", "x", "1", "--header", "name"],
        &["x", "x", "1", "--header", "=value"],
        &["x", "x", "1", "--key", ""],
        &["x", "x", "1", "--expect", "18446744073709551616"],
        &["x", "x", "1", "--occurred", "1600-01-01"],
        &["x", "x", "1", "--occurred", "9999-12-31"],
    ];
    for args in refused {
        run(&scratch, &[&["append", STORE], args].concat()).ends(2);
    }
    for input in [&b""[..], b"\xff", b"{\"a\":\0}", &vec![b' '; (16 << 20) + 1]] {
        fed(&scratch, &["append", STORE, "x", "x", "-"], input).ends(2);
    }
    assert_eq!(positions(&scratch), [1, 2, 3, 4, 5]);
    // Control: these very arguments are refused for what is in them.
    run(&scratch, &["append", STORE, "ünï-🦀", "größe", "\"\\u0000ÿ\"", "--tag", "日本"]).ends(0);
}

/// R5: what another process has open can be read in every way, and written by nobody else.
#[test]
fn everything_that_reads_works_beside_a_live_writer_and_what_writes_names_it() {
    let scratch = Scratch::new();
    let store = scratch.open();
    five(&store);
    store.sync().unwrap();
    for verb in ["info", "streams", "types", "cat", "tail", "export", "verify"] {
        for json in [&[][..], &["--json"]] {
            let out = run(&scratch, &[&[verb, STORE], json].concat()).ends(0).out;
            assert!(!out.is_empty(), "{verb}");
        }
    }
    assert_eq!(run(&scratch, &["export", STORE]).ends(0).numbers("position"), [1, 2, 3, 4, 5]);
    store.append("cart-3", NewEvent::new("opened", "")).unwrap();
    run(&scratch, &["get", STORE, "6"]).ends(0);

    write(&scratch, "rows.ndjson", "{}\n");
    let holder = format!("locked by process {}", std::process::id());
    run(&scratch, &["append", STORE, "cart-3", "closed"]).says(2, &holder);
    run(&scratch, &["import", STORE, "rows.ndjson", "--stream", "a", "--type", "b"]).says(2, &holder);

    store.close().unwrap();
    run(&scratch, &["append", STORE, "cart-3", "closed"]).ends(0);
}

#[test]
fn tail_prints_the_last_events_in_their_order() {
    let scratch = Scratch::new();
    store_of_five(&scratch);
    let tail = |count| run(&scratch, &["tail", STORE, "--json", "-n", count]).ends(0).numbers("position");
    assert_eq!(tail("2"), [4, 5]);
    assert_eq!(tail("0"), [0; 0]);
    assert_eq!(tail("18446744073709551615"), [1, 2, 3, 4, 5]);
    assert_eq!(run(&scratch, &["tail", STORE]).ends(0).out, run(&scratch, &["cat", STORE]).ends(0).out);
}

#[test]
fn tail_follows_a_writer_of_another_process() {
    let scratch = Scratch::new();
    let store = scratch.open();
    five(&store);
    let mut tail =
        command(&scratch, &["tail", STORE, "-f", "-n", "1", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    // Ends with the pipe when the follower ends, so a follower that dies fails the test instead of hanging it.
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["position"], 5);
    for position in 6..20 {
        let mut commit = Commit::new();
        commit.event("cart-9", NewEvent::encoded("added", Codec::Json, vec![b'7'; position]));
        store.commit(&commit).unwrap();
        assert_eq!(next()["position"], position as u64);
    }
    tail.kill().unwrap();
    assert_eq!(tail.wait().unwrap().code(), None, "it followed until it was killed");
}

#[test]
fn ndjson_is_imported_byte_for_byte_and_bad_rows_are_told() {
    let scratch = Scratch::new();
    let rows = concat!(
        "{\"id\": 1, \"at\":{\"code\":\"EWR\"},\"when\":\"2013-01-01T10:00:00Z\"}\n",
        "\n",
        "{\"id\":\"two\",\"at\":{\"code\":\"JFK\"},\"when\":1357034400}\r\n",
        "not json\n",
        "{\"id\":null,\"at\":{\"code\":\"x\"},\"when\":1}\n",
        "[1]\n",
        "{\"id\":3,\"at\":{},\"when\":1}\n",
        "{\"id\":\"a\\u0000b\",\"at\":{\"code\":\"x\"},\"when\":1}\n",
        "{\"id\":4,\"at\":{\"code\":\"x\"},\"when\":\"soon\"}\n",
        "{\"id\":5,\"at\":{\"code\":\"\u{1f6e9}\"},\"when\":0}",
    );
    write(&scratch, "rows.ndjson", rows);
    let names = ["--stream", "flight-{id}", "--type", "{{{at.code}}}", "--tag", "{at.code}", "--occurred", "when"];
    let args = [&["import", STORE, "rows.ndjson", "--rejects", "bad.ndjson", "--json"], &names[..]].concat();
    let done = run(&scratch, &args).says(1, "rejected rows: 6, the first in line 4").object();
    assert_eq!(names_but(&done, "seconds"), json!({"rows": 9, "events": 3, "rejected": 6}));

    assert_eq!(first(&scratch, 1).payload(), rows.lines().next().unwrap().as_bytes());
    let second = first(&scratch, 2);
    assert_eq!((second.stream(), second.type_name(), second.codec()), ("flight-two", "{JFK}", Codec::Json));
    assert_eq!(second.occurred(), first(&scratch, 1).occurred());
    assert_eq!(first(&scratch, 3).tags().collect::<Vec<_>>(), ["\u{1f6e9}"]);

    let bad = fs::read_to_string(scratch.path().join("bad.ndjson")).unwrap();
    let bad: Vec<Value> = bad.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(bad.iter().map(|row| row["line"].as_u64().unwrap()).collect::<Vec<_>>(), [4, 5, 6, 7, 8, 9]);
    assert_eq!(bad[0]["row"], "not json");
    assert!(bad.iter().all(|row| !row["reason"].as_str().unwrap().is_empty()));

    // Control: without the bad rows it is good, and the file of rejects is empty.
    let good: String = rows.lines().filter(|line| line.contains("1357034400")).collect();
    write(&scratch, "rows.ndjson", good);
    let done = run(&scratch, &args).ends(0).object();
    assert_eq!((&done["events"], &done["rejected"]), (&json!(1), &json!(0)));
    assert_eq!(fs::read(scratch.path().join("bad.ndjson")).unwrap(), b"");
}

/// An object without one field, which has to be there.
fn names_but(object: &Value, name: &str) -> Value {
    let mut object = object.clone();
    assert!(object.as_object_mut().unwrap().remove(name).is_some());
    object
}

#[test]
fn csv_is_imported_plain_and_compressed_from_a_file_and_from_standard_input() {
    let scratch = Scratch::new();
    let rows = b"\xef\xbb\xbfid,name\r\n1,\"a, \"\"b\"\"\nc\"\r\n2,\r\n";
    write(&scratch, "rows.csv", rows);
    // The content tells that it is compressed, not the name.
    write(&scratch, "rows.csv.gz", gzip(rows));
    write(&scratch, "packed.csv", gzip(rows));
    let names = ["--stream", "row-{id}", "--type", "row"];
    for file in ["rows.csv", "rows.csv.gz", "packed.csv"] {
        let out = run(&scratch, &[&["import", STORE, file], &names[..]].concat()).ends(0).out;
        assert!(out.starts_with("2 rows, 2 events, 0 rejected, "), "{out}");
    }
    for input in [rows.to_vec(), gzip(rows)] {
        let args = [&["import", STORE, "-", "--format", "csv", "--batch", "1"], &names[..]].concat();
        fed(&scratch, &args, &input).ends(0);
    }
    assert_eq!(positions(&scratch).len(), 10);
    for position in [1, 3, 5, 7, 9] {
        assert_eq!(first(&scratch, position).payload(), br#"{"id":"1","name":"a, \"b\"\nc"}"#);
    }
}

/// C14. What unpacks to more than the process may have is a row that is too long.
#[test]
fn a_bomb_of_compressed_rows_is_one_bad_row() {
    let scratch = Scratch::new();
    let part = gzip(&vec![b'x'; 1 << 20]);
    let bomb = [part.repeat(512), gzip(b"\n{\"id\":1}\n")].concat();
    assert!(bomb.len() < 8 << 20, "{} bytes", bomb.len());
    write(&scratch, "rows.ndjson", &bomb);
    let import = ["import", STORE, "rows.ndjson", "--stream", "row-{id}", "--type", "row"];
    let limited = |kibibytes: u32| {
        let script = format!("ulimit -v {kibibytes}; exec \"$0\" \"$@\"");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_towpath")]).args(import).current_dir(scratch.path());
        let output = shell.output().unwrap();
        Ran::of(output.status, &output.stdout, &output.stderr)
    };
    let out = limited(480 << 10).says(1, "line 1: it has more than").out;
    assert!(out.starts_with("2 rows, 1 events, 1 rejected, "), "{out}");
    // Control: the limit is one.
    assert_ne!(limited(8 << 10).status, Some(1));
}

#[test]
fn an_export_can_be_imported_again() {
    let scratch = Scratch::new();
    store_of_five(&scratch);
    write(&scratch, "all.ndjson", run(&scratch, &["export", STORE]).ends(0).out);
    run(&scratch, &["import", "second", "all.ndjson", "--stream", "{stream}", "--type", "{type}"]).ends(0);
    let list = |dir| run(&scratch, &["streams", dir, "--json"]).ends(0).out;
    assert_eq!(list("second"), list(STORE));
}

#[test]
fn hostile_rows_are_bad_rows_and_hostile_files_are_refused() {
    let scratch = Scratch::new();
    let deep = format!("{}1{}\n", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    // A line that is longer than memory should ever hold, from a small file.
    let long = gzip(&[vec![b'a'; 40 << 20], b"\n{\"a\":1}\n".to_vec()].concat());
    let rows: [(&str, &[u8], i32, &str); 14] = [
        ("nul.ndjson", b"\0\0\0\n{\"a\":1}\n", 1, "it is not JSON"),
        ("utf8.ndjson", b"{\"a\":\"\xff\"}\n", 1, "not UTF-8"),
        ("deep.ndjson", deep.as_bytes(), 1, "recursion"),
        ("long.ndjson", &long, 1, "more than 16777216 bytes"),
        ("utf8.csv", b"a,b\n\xff,1\n", 1, "not UTF-8"),
        ("ragged.csv", b"a,b\n1\n", 1, "1 fields, the first line names 2"),
        ("open.csv", b"a,b\n\"1,2\n3,4\n", 1, "1 fields"),
        ("twice.csv", b"a,a\n1,2\n", 2, "twice"),
        ("names.csv", b"\xff\n1\n", 2, "not UTF-8"),
        ("cut.csv", &gzip(b"a\n1\n")[..14], 2, "could not read on"),
        ("broken.csv", &[&gzip(b"a\n1\n")[..12], &[0xaa; 30]].concat(), 2, "could not read on"),
        ("tiny.csv", &[0x1f, 0x8b], 2, "could not read on"),
        ("unnamed.txt", b"{}\n", 2, "--format"),
        ("", b"", 2, ""),
    ];
    for (name, content, status, words) in rows {
        let path = if name.is_empty() { "not-there.csv" } else { name };
        if !name.is_empty() {
            write(&scratch, name, content);
        }
        let ran = run(&scratch, &["import", STORE, path, "--stream", "a", "--type", "b", "--rejects", "bad"]);
        ran.says(status, words);
        // What is given back of a bad row is small, too.
        assert!(fs::metadata(scratch.path().join("bad")).map_or(0, |bad| bad.len()) < 2 << 20);
    }
    for empty in ["", "\n\n", "a,b\n"] {
        write(&scratch, "empty.csv", empty);
        run(&scratch, &["import", STORE, "empty.csv", "--stream", "a", "--type", "b"]).ends(0);
    }
    // The rows behind the NUL bytes and behind the long line went in, and those before the cut.
    run(&scratch, &["verify", STORE]).ends(0);
    assert!(positions(&scratch).len() >= 2);
}

#[test]
fn templates_and_targets_that_cannot_work_are_refused_before_anything_is_done() {
    let scratch = Scratch::new();
    write(&scratch, "rows.ndjson", "{\"a\":1}\n");
    let import = |args: &[&str]| run(&scratch, &[&["import", STORE, "rows.ndjson"], args].concat());
    for template in ["{", "}", "{}", "a{b", "{a{b}", "{a}}"] {
        import(&["--stream", template, "--type", "t"]).ends(2);
        import(&["--stream", "s", "--type", template]).ends(2);
        import(&["--stream", "s", "--type", "t", "--tag", template]).ends(2);
    }
    for batch in ["0", "10001", "-1", "18446744073709551616"] {
        import(&["--stream", "s", "--type", "t", "--batch", batch]).ends(2);
    }
    assert!(!scratch.store_path().exists());

    for template in ["", "$own", "{b}", "{a.b}", "{a..}"] {
        import(&["--stream", template, "--type", "t"]).says(1, "rejected rows: 1");
    }
    assert_eq!(positions(&scratch), [0; 0]);
    import(&["--stream", "{a}", "--type", "t"]).ends(0);
}

#[test]
fn rejects_never_overwrite_the_rows_or_the_store() {
    let scratch = Scratch::new();
    store_of_five(&scratch);
    write(&scratch, "rows.ndjson", "bad\n");
    let segment = files::name(&files::newest(&scratch.store_path()));
    std::os::unix::fs::symlink(scratch.store_path().join(&segment), scratch.path().join("link")).unwrap();
    let import =
        |to: &str| run(&scratch, &["import", STORE, "rows.ndjson", "--stream", "a", "--type", "b", "--rejects", to]);
    for inside in [format!("{STORE}/{segment}"), format!("./{STORE}/new"), "link".to_owned()] {
        import(&inside).says(2, "lies in the store");
    }
    import("./rows.ndjson").says(2, "holds the rows");
    import(".").ends(2);
    import("not/there").ends(2);
    assert_eq!(fs::read(scratch.path().join("rows.ndjson")).unwrap(), b"bad\n");
    assert_eq!(positions(&scratch), [1, 2, 3, 4, 5]);
    import("beside").says(1, "rejected rows: 1");
    assert!(fs::read_to_string(scratch.path().join("beside")).unwrap().starts_with("{\"line\":1,"));
}

#[test]
fn a_pipe_without_a_name_for_its_rows_is_imported_to_its_end() {
    let scratch = Scratch::new();
    let mut import =
        command(&scratch, &["import", STORE, "/dev/stdin", "--format", "ndjson", "--stream", "a", "--type", "b"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    let mut rows = import.stdin.take().unwrap();
    // In pieces that do not end where rows do.
    for piece in ["{\"a\"", ":1}\n{\"a\":", "2}", "\n{\"a\":3}"] {
        rows.write_all(piece.as_bytes()).unwrap();
    }
    drop(rows);
    let output = import.wait_with_output().unwrap();
    Ran::of(output.status, &output.stdout, &output.stderr).ends(0);
    assert_eq!(positions(&scratch), [1, 2, 3]);
}

/// C4: damage is told by every verb that meets it, with exit status 1, and what is whole is printed all the same.
#[test]
fn damage_is_told_and_what_is_whole_is_printed() {
    let scratch = Scratch::new();
    store_of_five(&scratch);
    let whole = run(&scratch, &["verify", STORE, "--json"]).ends(0).object();
    assert_eq!((&whole["ok"], &whole["damage"]), (&json!(true), &json!([])));
    assert!(run(&scratch, &["verify", STORE]).ends(0).out.starts_with("good, "));
    let offset = damage_the_third(&scratch);

    // `verify` was asked for the damage, so the damage is its answer and stderr has nothing to add.
    let verdict = run(&scratch, &["verify", STORE, "--json"]);
    assert_eq!((verdict.status, &verdict.err[..]), (Some(1), ""));
    let verdict = verdict.object();
    assert_eq!(names(&verdict), ["damage", "events", "ok"]);
    let [damage] = verdict["damage"].as_array().unwrap().as_slice() else { panic!("{verdict}") };
    assert_eq!(names(damage), ["offset", "position", "segment", "what"]);
    let segment = files::name(&files::newest(&scratch.store_path()));
    assert_eq!((&damage["segment"], &damage["offset"]), (&json!(segment), &json!(offset)));
    assert_eq!((&damage["position"], &verdict["ok"]), (&json!(3), &json!(false)));
    assert_eq!(verdict["events"].as_u64().unwrap() + 1, whole["events"].as_u64().unwrap());
    let text = run(&scratch, &["verify", STORE]);
    assert!(text.status == Some(1) && text.out.contains("\nnot good, "), "{text:?}");

    for verb in ["cat", "export", "tail"] {
        let read = run(&scratch, &[verb, STORE, "--json"]).says(1, &format!("{segment} is damaged at offset {offset}"));
        assert_eq!(read.numbers("position"), [1, 2, 4, 5], "{verb}");
    }
    let backwards = run(&scratch, &["cat", STORE, "--json", "--reverse"]).says(1, "is damaged");
    assert_eq!(backwards.numbers("position"), [5, 4, 2, 1]);
    run(&scratch, &["get", STORE, "3"]).says(1, "is damaged");
    run(&scratch, &["get", STORE, "4"]).ends(0);

    let streams = run(&scratch, &["streams", STORE, "--json"]).says(1, "is damaged").objects();
    assert_eq!(streams[0], json!({"stream": "cart-1", "events": 2, "last_position": 5}));
    assert_eq!(streams.len(), 3);
    let types = run(&scratch, &["types", STORE]).says(1, "is damaged").out;
    assert_eq!(types, "           1  closed\n           2  opened\n           1  paid\n");
}

#[test]
fn bench_prints_a_line_for_each_workload_with_the_fixed_fields() {
    let scratch = Scratch::new();
    let sizes = ["--events", "300", "--size", "10", "--streams", "7", "--commit", "9", "--producers", "2"];
    let rate = ["--rate", "2000", "--seconds", "1", "--segment", "65536"];
    let args = |dir, durability, json: &[&'static str]| {
        [&["bench", dir, "--durability", durability], &sizes[..], &rate, json].concat()
    };
    let mut lines = run(&scratch, &args("first", "os", &["--json"])).ends(0).objects();
    let workloads: Vec<_> = lines.iter().map(|line| line["workload"].as_str().unwrap()).collect();
    assert_eq!(
        workloads,
        [
            "append",
            "append_blocking",
            "replay",
            "replay_hashed",
            "replay_parallel",
            "streams",
            "reopen",
            "tail_latency",
            "cursor",
            "cursor_checkpoint",
            "group",
            "group_ordered",
            "reactor_exactly_once",
            "reactor_latency",
            "sink_ndjson",
            "append_1000_subscribers",
            "latency_append",
            "latency_consumer",
        ]
    );
    for line in lines.drain(16..) {
        let fixed = ["call", "event", "events", "events_per_s", "rate", "rolled", "seconds"];
        assert_eq!(names(&line), [&fixed[..], &["segments_begun", "segments_sealed", "workload"]].concat());
        assert_eq!((line["rate"].as_u64(), line["event"]["count"].as_u64()), (Some(2_000), Some(2_000)));
        assert_eq!(names(&line["event"]), ["count", "max_us", "p50_us", "p999_us", "p99_us"]);
        // Two thousand events do not fit into one segment.
        assert!(line["segments_begun"].as_u64() >= Some(1), "{line}");
        assert_eq!(line["rolled"]["count"], line["segments_begun"], "{line}");
    }
    let fixed = [
        "anon_mib",
        "disk_bytes_per_event",
        "events",
        "events_per_s",
        "max_us",
        "p50_us",
        "p99_us",
        "seconds",
        "workload",
    ];
    for line in &lines {
        assert_eq!(names(line), fixed);
        assert!(line["events"].as_u64().unwrap() >= 300, "{line}");
    }
    let text = run(&scratch, &args("second", "every", &["--workload", "replay"])).ends(0).out;
    assert_eq!(text.lines().count(), 2, "{text}");

    run(&scratch, &args("first", "os", &[])).says(2, "not empty");
    write(&scratch, "file", "");
    run(&scratch, &args("file", "os", &[])).ends(2);
    for (option, value) in [
        ("--size", "16777217"),
        ("--size", "-1"),
        ("--events", "0"),
        ("--streams", "1000000000"),
        ("--producers", "65"),
        ("--commit", "0"),
        ("--rate", "0"),
        ("--seconds", "0"),
        ("--segment", "65535"),
    ] {
        run(&scratch, &["bench", "third", option, value]).ends(2);
    }
    run(&scratch, &["bench", "third", "--durability", "never"]).ends(2);
    assert!(!scratch.path().join("third").exists());
}

#[test]
fn what_is_no_store_is_refused_in_a_sentence_and_left_alone() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path().join("empty")).unwrap();
    fs::create_dir(scratch.path().join("foreign")).unwrap();
    write(&scratch, "foreign/photo.jpg", "not a store");
    write(&scratch, "file", "not a store");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        scratch.path().join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let places = ["not-there", "empty", "foreign", "file", "fifo", "/dev/null", "", "a\u{1b}[2Jb", "file/below"];
    for place in places {
        for verb in ["info", "streams", "types", "cat", "tail", "export", "verify"] {
            run(&scratch, &[verb, place]).ends(2);
        }
        run(&scratch, &["get", place, "1"]).ends(2);
    }
    for place in ["foreign", "file", "fifo", "/dev/null", "", "not/there"] {
        run(&scratch, &["append", place, "a", "b"]).ends(2);
    }
    assert_eq!(fs::read_dir(scratch.path().join("foreign")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(scratch.path().join("empty")).unwrap().count(), 0);
}

#[test]
fn what_may_not_be_read_is_refused_in_a_sentence() {
    use std::os::unix::fs::PermissionsExt;
    if child::is_root() {
        return child::skip("what_may_not_be_read_is_refused_in_a_sentence", "root may read everything");
    }
    let scratch = Scratch::new();
    store_of_five(&scratch);
    write(&scratch, "rows.ndjson", "{}\n");
    let close = |path: &std::path::Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    close(&scratch.path().join("rows.ndjson"), 0);
    run(&scratch, &["import", STORE, "rows.ndjson", "--stream", "a", "--type", "b"]).ends(2);
    let segment = files::newest(&scratch.store_path());
    close(&segment, 0);
    run(&scratch, &["cat", STORE]).says(2, "Permission denied");
    close(&segment, 0o600);
    run(&scratch, &["cat", STORE]).ends(0);
}

#[test]
fn a_clumsy_command_line_gets_one_sentence() {
    let scratch = Scratch::new();
    store_of_five(&scratch);
    let clumsy: [&[&str]; 16] = [
        &["nonsense"],
        &["info"],
        &["info", STORE, STORE],
        &["cat", STORE, "--from", "18446744073709551616"],
        &["cat", STORE, "--from", "-1"],
        &["cat", STORE, "-n", "-1"],
        &["cat", STORE, "-n", "many"],
        &["cat", STORE, "--since", "yesterday"],
        &["cat", STORE, "--since", "99999999999999h"],
        &["cat", STORE, "--since", "\u{1b}[31m"],
        &["cat", STORE, "--stream", "a", "--stream", "b"],
        &["export", STORE, "--format", "xml"],
        &["append", STORE],
        &["append", STORE, "a", "b", "1", "2"],
        &["import", STORE, "rows.csv"],
        &["--colour"],
    ];
    for args in clumsy {
        assert_eq!(run(&scratch, args).says(2, "; see --help").out, "", "{args:?}");
    }
    let mut not_utf8 = command(&scratch, &["cat", STORE, "--stream"]);
    let output = not_utf8.arg(std::ffi::OsStr::from_bytes(b"\xff")).output().unwrap();
    Ran::of(output.status, &output.stdout, &output.stderr).ends(2);

    for args in [&["--help"][..], &["help", "import"], &["cat", "--help"], &["--version"]] {
        assert!(!run(&scratch, args).ends(0).out.is_empty());
    }
}

#[test]
fn names_and_payloads_cannot_drive_the_terminal() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let turning = "\u{202e}cod.exe";
    store
        .append(&format!("cart-{turning}"), NewEvent::encoded("x", Codec::Json, "\"\u{9b}2J\u{7f}\"".as_bytes()))
        .unwrap();
    store.close().unwrap();
    for args in
        [&["cat", STORE][..], &["cat", STORE, "--json"], &["get", STORE, "1"], &["streams", STORE], &["export", STORE]]
    {
        let out = run(&scratch, args).ends(0).out;
        assert!(out.is_ascii(), "{args:?}: {out:?}");
    }
    let shown = run(&scratch, &["cat", STORE, "--json"]).object();
    assert_eq!((&shown["payload"], &shown["stream"]), (&json!("\u{9b}2J\u{7f}"), &json!(format!("cart-{turning}"))));
}

#[test]
fn nobody_who_reads_is_no_error_and_a_full_disk_is_one() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for _ in 0..200 {
        store.append("cart-1", NewEvent::new("filled", &[0; 2_000])).unwrap();
    }
    store.close().unwrap();

    let mut cat = command(&scratch, &["export", STORE]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut start = [0; 10];
    let mut pipe = cat.stdout.take().unwrap();
    pipe.read_exact(&mut start).unwrap();
    // More is to come than a pipe and the buffer before it hold.
    drop(pipe);
    let output = cat.wait_with_output().unwrap();
    Ran::of(output.status, &output.stdout, &output.stderr).ends(0);

    if !cfg!(target_os = "linux") {
        return;
    }
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    for args in
        [&["export", STORE][..], &["info", STORE], &["verify", STORE, "--json"], &["tail", STORE, "-f"], &["--help"]]
    {
        let output = command(&scratch, args).stdout(full()).output().unwrap();
        Ran::of(output.status, &output.stdout, &output.stderr).says(2, "No space left on device");
    }
    let unheard = command(&scratch, &["nonsense"]).stderr(full()).status().unwrap();
    assert_eq!(unheard.code(), Some(2));
}

/// Beside a live writer, and behind one: who has it, what is at risk, who is stuck, and what is open to others.
#[test]
fn doctor_tells_how_a_store_stands_and_what_to_look_at() {
    use std::os::unix::fs::PermissionsExt;

    let scratch = Scratch::new();
    let store = scratch.open_with(towpath::Durability::Os);
    five(&store);
    let group = store.group("mail").open().unwrap();
    let mut member = group.member().unwrap();
    let batch = towpath::Canal::pull_batch(&mut member, 2, std::time::Duration::ZERO).unwrap();
    let first = batch.iter().next().unwrap().token();
    let why = "no such plane".into();
    towpath::Canal::settle(&mut member, first, towpath::Settlement::Reject { reason: towpath::Reason::Rejected, why })
        .unwrap();
    member.flush().unwrap();
    let before = files::snapshot(scratch.path());

    let told = run(&scratch, &["doctor", STORE, "--json"]);
    assert_eq!(told.status, Some(1));
    let object: Value = serde_json::from_str(&told.out).unwrap();
    assert_eq!(object["writer"]["process"], std::process::id());
    assert_eq!((&object["writer"]["lives"], &object["head"]), (&Value::Bool(true), &Value::from(6)));
    assert_eq!(object["at_risk"], 6, "control: nothing was synced");
    assert_eq!((&object["consumers"][0]["dead"], &object["consumers"][0]["in_flight"]), (&1.into(), &1.into()));
    let about = |told: &Value| -> Vec<String> {
        let places = ["disk", "file system"];
        let all = told["findings"].as_array().unwrap().iter().map(|found| found["about"].as_str().unwrap().to_owned());
        all.filter(|about| !places.contains(&&about[..])).collect()
    };
    let has_remedies = |told: &Value| {
        let mut findings = told["findings"].as_array().unwrap().iter();
        findings.all(|found| found["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()))
    };
    assert!(has_remedies(&object), "{object}");
    assert_eq!(about(&object), ["dead letters"]);
    let object: Value =
        serde_json::from_str(&run(&scratch, &["doctor", STORE, "--json", "--behind", "1", "--older", "0"]).out)
            .unwrap();
    assert_eq!(about(&object), ["consumer", "consumer", "dead letters"]);
    assert!(has_remedies(&object), "{object}");
    assert!(files::snapshot(scratch.path()) == before, "it changes nothing");

    drop((member, group));
    store.close().unwrap();
    let segment = files::newest(&scratch.store_path());
    std::fs::set_permissions(&segment, std::fs::Permissions::from_mode(0o644)).unwrap();
    let told = run(&scratch, &["doctor", STORE]).out;
    assert!(told.contains("closed it in good order") && told.contains("would cost nothing"), "{told}");
    assert!(told.contains(&format!("modes: {} has mode 0644", files::name(&segment))), "{told}");
    let remedy = told.lines().find_map(|line| line.split_once("chmod go= ")).map(|(_, file)| file);
    assert_eq!(remedy, Some(format!("{STORE}/{}", files::name(&segment)).as_str()), "{told}");
    run(&scratch, &["doctor", "nowhere"]).says(2, "nowhere");
}

/// What lies in memory is told: a restart loses it.
#[test]
fn doctor_warns_of_a_file_system_where_syncing_means_nothing() {
    let scratch = Scratch::in_memory();
    store_of_five(&scratch);
    let told = run(&scratch, &["doctor", STORE]).out;
    if told.contains("on tmpfs") {
        assert!(told.contains("look at      file system: it lies in memory"), "{told}");
    } else {
        crate::support::child::skip("doctor_warns_of_a_file_system_where_syncing_means_nothing", "no tmpfs");
    }
}

#[test]
fn a_fork_is_made_at_a_position() {
    let scratch = Scratch::new();
    store_of_five(&scratch);
    let made = run(&scratch, &["fork", STORE, "other", "--at", "3", "--json"]).ends(0).object();
    assert_eq!((&made["head"], &made["damage"]), (&3.into(), &Value::Array(Vec::new())));
    assert_eq!(names(&made), ["bytes_copied", "copied", "damage", "head", "shared", "store"]);
    run(&scratch, &["verify", "other", "--deep"]).ends(0);
    run(&scratch, &["append", "other", "cart-1", "item added", "{}"]).ends(0);
    assert_eq!(positions(&scratch).len(), 5);
    run(&scratch, &["fork", STORE, "other", "--at", "3"]).says(2, "not empty");
    run(&scratch, &["fork", STORE, "third", "--at", "6"]).says(2, "behind the last event");
    run(&scratch, &["fork", STORE, "third"]).says(2, "--at");
}

#[test]
fn repair_tells_what_it_would_keep_and_writes_only_when_it_is_told_to() {
    let scratch = Scratch::new();
    store_of_five(&scratch);
    assert!(run(&scratch, &["repair", STORE, "--yes"]).ends(0).out.contains("nothing to repair"));
    damage_the_third(&scratch);
    let before = files::snapshot(scratch.path());
    let told = run(&scratch, &["repair", STORE]);
    assert_eq!(told.status, Some(1));
    assert!(
        told.out.starts_with("kept  1 to 2 (2)\nlost  3 to 3 (1)") && told.out.contains("kept  4 to 5 (2)"),
        "{}",
        told.out
    );
    let object = run(&scratch, &["repair", STORE, "--json"]);
    assert!(object.status == Some(1) && object.out.contains("\"positions\":1"), "{}", object.out);
    assert!(object.out.contains("\"may_bring_back\":false") && !told.out.contains("removed"), "{}", object.out);
    assert!(files::snapshot(scratch.path()) == before);
    run(&scratch, &["repair", STORE, "--to", "elsewhere"]).says(2, "--yes");

    let made = run(&scratch, &["repair", STORE, "--yes"]).ends(0);
    let copy = format!("{STORE}.repaired");
    assert!(made.out.contains(&format!("4 events are kept and 1 positions lost, in {copy}")), "{}", made.out);
    run(&scratch, &["verify", &copy, "--deep"]).ends(0);
    assert_eq!(run(&scratch, &["cat", &copy]).status, Some(1), "what is lost is told");
    run(&scratch, &["append", &copy, "cart-1", "item added", "{}"]).ends(0);
    run(&scratch, &["repair", STORE, "--yes"]).says(2, "not empty");
    run(&scratch, &["repair", STORE, "--yes", "--to", "elsewhere", "--json"]).ends(0);
}

/// A backup beside a writer, brought up to date, and a store made of it; what is in the way is refused.
#[test]
fn a_backup_is_made_brought_up_to_date_and_restored() {
    let scratch = Scratch::new();
    store_of_five(&scratch);
    let store = scratch.open();
    let made = run(&scratch, &["backup", STORE, "backup", "--json"]).ends(0).object();
    assert_eq!(names(&made), ["bytes_copied", "copied", "damage", "head", "kept", "resumed", "shared", "store"]);
    assert_eq!((&made["head"], &made["resumed"], &made["kept"]), (&json!(5), &json!(false), &json!(0)));
    store.append("cart-9", NewEvent::new("opened", "{}")).unwrap();
    assert!(run(&scratch, &["backup", STORE, "backup", "--verify"]).ends(0).out.starts_with("backup up to position 6"));
    store.close().unwrap();
    let cat = |dir: &str| run(&scratch, &["cat", dir]).ends(0).out;
    let restored = run(&scratch, &["restore", "backup", "again", "--json"]).ends(0).object();
    assert_eq!(restored["store"], made["store"]);
    assert_eq!(names(&restored), ["bytes_copied", "copied", "damage", "head", "kept", "shared", "store"]);
    assert_eq!(cat("again"), cat(STORE));
    run(&scratch, &["restore", "backup", "again"]).says(2, "not empty");
    run(&scratch, &["backup", STORE, "again/in/there"]).says(2, "could not open");
    run(&scratch, &["restore", "nowhere", "other"]).says(2, "could not open");

    // Control: damage comes along, and both say so.
    let damaged = Scratch::new();
    store_of_five(&damaged);
    damage_the_third(&damaged);
    let made = run(&damaged, &["backup", STORE, "backup", "--json"]);
    assert_eq!((made.status, &made.object()["damage"][0]["position"]), (Some(1), &json!(3)));
    let restored = run(&damaged, &["restore", "backup", "again"]);
    assert_eq!((restored.status, restored.out.lines().count()), (Some(1), 2));
}

/// With a limit on the size of files, which counts as no room.
#[test]
fn a_copy_that_finds_no_room_says_what_becomes_of_what_is_there() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for _ in 0..20 {
        store.append("cart-1", NewEvent::new("filled", &[7; 2_000])).unwrap();
    }
    store.close().unwrap();
    let limited = |verb: &str, from: &str, more: &str| {
        let mut shell = Command::new("sh");
        let line = format!("trap '' XFSZ; ulimit -f 16; exec \"$0\" {verb} {from} to {more}");
        shell.args(["-c", &line, env!("CARGO_BIN_EXE_towpath")]).current_dir(scratch.path()).stdin(Stdio::null());
        let output = shell.output().unwrap();
        Ran::of(output.status, &output.stdout, &output.stderr).ends(2).err
    };
    for (verb, more, next) in
        [("backup", "", "goes on with"), ("restore", "", "goes on with"), ("fork", "--at 20", "begins anew, without")]
    {
        let said = limited(verb, STORE, more);
        assert!(said.contains(&format!("nothing was made; the next attempt {next} what is in to.part")), "{said}");
        assert!(said.contains("no room for") && said.contains("free some space there and try again"), "{said}");
        let args = [&[verb, STORE, "to"], more.split_whitespace().collect::<Vec<_>>().as_slice()].concat();
        run(&scratch, &args).ends(0);
        fs::remove_dir_all(scratch.path().join("to")).unwrap();
    }
}

/// How closely it looks, and what it says that it left out.
#[test]
fn verify_looks_as_closely_as_it_is_told() {
    let scratch = Scratch::new();
    store_of_five(&scratch);
    let text = run(&scratch, &["verify", STORE, "--fast"]).ends(0).out;
    assert!(text.starts_with("left out: ") && text.contains("\ngood, "), "{text}");
    let fast = run(&scratch, &["verify", STORE, "--fast", "--json"]).ends(0).object();
    assert_eq!(names(&fast), ["damage", "events", "ok", "segments", "segments_read"]);
    run(&scratch, &["verify", STORE, "--deep"]).ends(0);
    run(&scratch, &["verify", STORE, "--deep", "--fast"]).says(2, "cannot be used with");
    damage_the_third(&scratch);
    assert_eq!(run(&scratch, &["verify", STORE, "--fast"]).status, Some(1));
}
