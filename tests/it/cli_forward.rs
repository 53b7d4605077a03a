//! `towpath forward`: S1–S3 and S6 as the command line has them. The binary runs as a process of its own, against files and
//! a server on loopback.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use towpath::{Canal, Codec, NewEvent, Reason, Settlement, Store};

use crate::cli::{Ran, STORE, command, fed, run};
use crate::support::{Scratch, files};

/// Three events of a cart among others.
fn fill(scratch: &Scratch) {
    let store = scratch.open();
    for (stream, payload) in [("cart-1", "1"), ("cart-2", "2"), ("cart-1", "3"), ("cart-2", "4"), ("cart-1", "5")] {
        store.append(stream, NewEvent::encoded("added", Codec::Json, payload.as_bytes())).unwrap();
    }
    store.close().unwrap();
}

fn append(scratch: &Scratch, stream: &str) {
    run(scratch, &["append", STORE, stream, "added", "7"]).ends(0);
}

/// Forwards until caught up, and gives what it said at the end.
fn once(scratch: &Scratch, stream: &str, to: &str, name: &str) -> Ran {
    run(scratch, &["forward", STORE, "--stream", stream, "--to", to, "--as", name, "--once", "--json"])
}

/// The positions in a file that was forwarded to.
fn positions(scratch: &Scratch, file: &str) -> Vec<u64> {
    let text = fs::read_to_string(scratch.path().join(file)).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["position"].as_u64().unwrap()).collect()
}

/// A server that says which request came, and answers each once it is told how.
struct Server {
    address: String,
    came: Receiver<String>,
    answers: Sender<u16>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        let (say, came) = channel();
        let (answers, next) = channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &say, &next);
            }
        });
        Self { address, came, answers }
    }

    fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }

    /// Answers so many requests with this status, now or when they come.
    fn answer(&self, status: u16, requests: usize) {
        (0..requests).for_each(|_| self.answers.send(status).unwrap());
    }

    /// The body of the next request; waits for it.
    fn next(&self) -> String {
        self.came.recv().unwrap()
    }
}

/// Serves one connection until it ends.
fn serve(stream: TcpStream, say: &Sender<String>, answers: &Receiver<u16>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() || say.send(String::from_utf8(body).unwrap()).is_err() {
            return;
        }
        let Ok(status) = answers.recv() else { return };
        if stream.write_all(format!("HTTP/1.1 {status} So\r\ncontent-length: 0\r\n\r\n").as_bytes()).is_err() {
            return;
        }
    }
}

/// A forwarder that runs until it is stopped; it has opened the store when this returns.
fn start(scratch: &Scratch, to: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut command = command(scratch, &["forward", STORE, "--stream", "cart-1", "--to", to, "--as", "web"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert!(line.starts_with("forwarding cart-1 to ") && line.ends_with(", until stopped\n"), "{line:?}");
    (child, out)
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn events_of_a_stream_go_to_a_file_once_and_the_next_run_goes_on_behind_them() {
    let scratch = Scratch::new();
    fill(&scratch);
    let first = once(&scratch, "cart-1", "file:out.ndjson", "archive").ends(0).object();
    assert_eq!((&first["forwarded"], &first["position"]), (&Value::from(3), &Value::from(6)));
    assert_eq!((&first["name"], &first["to"]), (&Value::from("archive"), &Value::from("file out.ndjson")));
    assert_eq!(positions(&scratch, "out.ndjson"), [1, 3, 5]);
    let record = fs::read_to_string(scratch.path().join("out.ndjson")).unwrap();
    assert!(record.lines().all(|line| line.contains("/archive\",\"payload\":")), "{record}");

    assert_eq!(once(&scratch, "cart-1", "file:out.ndjson", "archive").ends(0).object()["forwarded"], 0);
    append(&scratch, "cart-1");
    append(&scratch, "cart-2");
    assert_eq!(once(&scratch, "cart-1", "file:out.ndjson", "archive").ends(0).object()["forwarded"], 1);
    assert_eq!(positions(&scratch, "out.ndjson"), [1, 3, 5, 6]);
    let consumers = run(&scratch, &["consumers", "show", STORE, "archive", "--json"]).ends(0).object();
    assert_eq!((&consumers["kind"], &consumers["position"]), (&Value::from("cursor"), &Value::from(7)));

    // Under another name nothing is remembered, and all of it comes again.
    assert_eq!(once(&scratch, "cart-1", "file:out.ndjson", "other").ends(0).object()["forwarded"], 4);
    assert_eq!(positions(&scratch, "out.ndjson"), [1, 3, 5, 6, 1, 3, 5, 6]);
}

#[test]
fn dead_letters_are_forwarded_like_any_stream() {
    let scratch = Scratch::new();
    fill(&scratch);
    let store = Store::open(scratch.store_path()).unwrap();
    let mut member = store.group("mailer").open().unwrap().member().unwrap();
    let batch = member.pull_batch(9, std::time::Duration::ZERO).unwrap();
    let why = || Settlement::Reject { reason: Reason::Rejected, why: "no".to_owned() };
    batch.iter().for_each(|delivery| member.settle(delivery.token(), why()).unwrap());
    member.flush().unwrap();
    drop((batch, member));
    store.close().unwrap();
    once(&scratch, "$dead/mailer", "file:dead.ndjson", "dead letters").ends(0);
    assert_eq!(positions(&scratch, "dead.ndjson"), [6, 7, 8, 9, 10]);
}

/// The signal comes while the first of three requests waits for its answer.
#[test]
fn a_signal_has_the_batch_in_hand_finished_and_a_second_run_goes_on_behind_it() {
    for which in [Signal::TERM, Signal::INT] {
        let scratch = Scratch::new();
        fill(&scratch);
        let server = Server::start();
        let (mut child, mut out) = start(&scratch, &server.url());
        assert_eq!(server.next(), "1");
        signal(&child, which);
        server.answer(200, 3);
        assert_eq!([server.next(), server.next()], ["3", "5"]);
        let mut said = String::new();
        out.read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
        let to = server.url();
        assert_eq!(said, format!("web: forwarded 3 of cart-1 to {to}, next position 6\n"));

        append(&scratch, "cart-1");
        server.answer(200, 1);
        assert_eq!(once(&scratch, "cart-1", &to, "web").ends(0).object()["forwarded"], 1);
        assert_eq!(server.next(), "7");
    }
}

#[test]
fn it_waits_for_new_events_and_ends_when_it_is_asked_to_while_it_waits() {
    let scratch = Scratch::new();
    fill(&scratch);
    let server = Server::start();
    server.answer(200, 3);
    let (mut child, mut out) = start(&scratch, &server.url());
    let all: Vec<String> = (0..3).map(|_| server.next()).collect();
    assert_eq!(all, ["1", "3", "5"]);
    run(&scratch, &["append", STORE, "cart-1", "added"]).says(2, &format!("locked by process {}", child.id()));
    assert_eq!(child.try_wait().unwrap(), None, "it runs until it is stopped");
    signal(&child, Signal::TERM);
    let mut said = String::new();
    out.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
}

#[test]
fn a_second_signal_does_not_wait_for_the_server() {
    let scratch = Scratch::new();
    fill(&scratch);
    let server = Server::start();
    let (mut child, _out) = start(&scratch, &server.url());
    assert_eq!(server.next(), "1");
    signal(&child, Signal::INT);
    // Two that come at once may be handled at once, by two of its threads, and be one: so another is sent until it ends.
    let ended = loop {
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        signal(&child, Signal::TERM);
        std::thread::yield_now();
    };
    assert_eq!(ended.code(), None, "it was ended by a signal");
}

#[test]
fn a_server_that_is_down_is_told_once_and_asked_until_it_works() {
    let scratch = Scratch::new();
    fill(&scratch);
    let server = Server::start();
    [503, 503, 200, 200, 200].into_iter().for_each(|status| server.answer(status, 1));
    let (mut child, mut out) = start(&scratch, &server.url());
    let mut err = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut told = || err.next().unwrap().unwrap();
    let first = told();
    assert!(first.contains("503") && first.ends_with("; it is asked again until it works"), "{first}");
    assert_eq!(told(), "towpath: it works again");
    signal(&child, Signal::TERM);
    let mut said = String::new();
    out.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("web: forwarded 3 of cart-1 "), "{said}");
    assert_eq!((child.wait().unwrap().code(), err.count()), (Some(0), 0));
}

#[test]
fn a_killed_forwarder_forwards_again_what_was_not_settled() {
    let scratch = Scratch::new();
    fill(&scratch);
    let server = Server::start();
    let (mut child, _out) = start(&scratch, &server.url());
    server.answer(200, 2);
    assert_eq!([server.next(), server.next(), server.next()], ["1", "3", "5"]);
    child.kill().unwrap();
    child.wait().unwrap();
    once(&scratch, "cart-1", "file:out.ndjson", "web").ends(0);
    assert_eq!(positions(&scratch, "out.ndjson"), [1, 3, 5], "nothing of the batch was settled");
}

/// A server that refuses everything, as one does whose password has changed, loses nothing.
#[test]
fn what_the_server_refuses_stops_it_before_that_event() {
    let scratch = Scratch::new();
    fill(&scratch);
    let server = Server::start();
    [200, 401].into_iter().for_each(|status| server.answer(status, 1));
    let ran = once(&scratch, "cart-1", &server.url(), "web").says(1, "position 3 was refused");
    assert_eq!((&ran.object()["forwarded"], &ran.object()["position"]), (&Value::from(1), &Value::from(2)));
    server.answer(200, 2);
    assert_eq!(once(&scratch, "cart-1", &server.url(), "web").ends(0).object()["forwarded"], 2);
}

#[test]
fn what_the_server_refuses_is_counted_told_and_passed_over_where_that_was_said() {
    let scratch = Scratch::new();
    fill(&scratch);
    let server = Server::start();
    [200, 400, 200].into_iter().for_each(|status| server.answer(status, 1));
    let url = server.url();
    let args = ["forward", STORE, "--stream", "cart-1", "--to", &url, "--as", "web", "--once", "--json", "--pass-over"];
    let ran = run(&scratch, &args).says(1, "1 refused: ");
    let row = ran.object();
    assert_eq!(
        (&row["forwarded"], &row["refused"], &row["position"]),
        (&Value::from(2), &Value::from(1), &Value::from(6))
    );
    assert_eq!([server.next(), server.next(), server.next()], ["1", "3", "5"]);
    once(&scratch, "cart-1", &server.url(), "web").ends(0);
}

#[test]
fn a_server_that_is_down_is_told_and_the_next_run_forwards_the_rest() {
    let scratch = Scratch::new();
    fill(&scratch);
    let server = Server::start();
    [200, 503].into_iter().for_each(|status| server.answer(status, 1));
    let ran = once(&scratch, "cart-1", &server.url(), "web").says(1, "503");
    assert_eq!(ran.object()["forwarded"], 1);
    server.answer(200, 2);
    assert_eq!(once(&scratch, "cart-1", &server.url(), "web").ends(0).object()["forwarded"], 2);
}

#[test]
fn secrets_of_an_address_are_shown_nowhere() {
    let scratch = Scratch::new();
    fill(&scratch);
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = |scheme: &str| format!("{scheme}://ann:s3cret@127.0.0.1:{unused}/0/events?token=s3cret");
    let forward = ["forward", STORE, "--stream", "cart-1", "--as", "web", "--once"];
    for scheme in ["http", "https", "redis", "rediss", "kafka", "ftp", "http:", "HTTP"] {
        let ran = run(&scratch, &[&forward[..], &["--to", &address(scheme)]].concat());
        assert!(ran.status != Some(0) && !ran.err.is_empty(), "{scheme}: {ran:?}");
        assert!(!format!("{ran:?}").contains("s3cret"), "{scheme}: {ran:?}");
    }
    let misplaced = run(&scratch, &["forward", STORE, &address("http")]);
    assert!(misplaced.says(2, "127.0.0.1").err.contains("unexpected argument"));
    let ran = run(&scratch, &["forward", STORE, &address("http")]);
    assert!(!ran.err.contains("s3cret"), "{ran:?}");

    // What goes to the server is another matter; and on standard input no list of processes shows it.
    let server = Server::start();
    server.answer(200, 3);
    let address = format!("http://ann:s3cret@{}/events\n", server.address);
    let ran = fed(&scratch, &[&forward[..], &["--to", "-"]].concat(), address.as_bytes()).ends(0);
    assert_eq!(ran.out, format!("web: forwarded 3 of cart-1 to http://{}/events, next position 6\n", server.address));
}

#[test]
fn what_cannot_be_forwarded_to_is_refused_before_anything_is_done() {
    let scratch = Scratch::new();
    fill(&scratch);
    fs::write(scratch.path().join("notes.txt"), "mine\n").unwrap();
    let segment = files::newest(&scratch.store_path());
    let in_store = format!("file:{STORE}/{}", files::name(&segment));
    let before = fs::read(&segment).unwrap();
    for (to, why) in [
        ("out.ndjson", "it has no scheme"),
        ("ftp://host/path", "its scheme is none of these"),
        ("file:", "does not name a file"),
        ("file:.", "is a directory"),
        ("file:nowhere/out.ndjson", "cannot be written"),
        ("file:notes.txt", "cannot be written"),
        ("file://out.ndjson", "write file:PATH or file:///PATH"),
        (in_store.as_str(), "lies in the store"),
        ("http://", "address of an HTTP sink"),
        #[cfg(not(feature = "sink-redis"))]
        ("redis://host/0/key", "build it with the features cli and sink-redis"),
        #[cfg(feature = "sink-redis")]
        ("redis://host", "behind the host stand the database"),
        #[cfg(not(feature = "sink-kafka"))]
        ("kafka://host/topic", "build it with the features cli and sink-kafka"),
        #[cfg(feature = "sink-kafka")]
        ("kafka://ann:s3cret@host/topic", "address of a Kafka sink"),
    ] {
        let ran = once(&scratch, "cart-1", to, "web").ends(2);
        assert!(ran.err.contains(why), "{to}: no {why:?} in {}", ran.err);
    }
    assert_eq!(fs::read(scratch.path().join("notes.txt")).unwrap(), b"mine\n");
    assert_eq!(fs::read(&segment).unwrap()[..8], before[..8]);
    let consumers = run(&scratch, &["consumers", "ls", STORE, "--json"]).ends(0);
    assert_eq!(consumers.out, "", "no consumer was made");

    let store = scratch.open();
    let holder = format!("locked by process {}", std::process::id());
    once(&scratch, "cart-1", "file:out.ndjson", "web").says(2, &holder);
    store.group("mailer").open().unwrap();
    store.close().unwrap();
    once(&scratch, "cart-1", "file:out.ndjson", "mailer").says(2, "it is a group");
    once(&scratch, "cart-1", "file:out.ndjson", "$web").says(2, "names that begin with $");
    let elsewhere = ["forward", "elsewhere", "--stream", "s", "--to", "file:out.ndjson", "--as", "web", "--once"];
    run(&scratch, &elsewhere).ends(2);
    assert!(!scratch.path().join("elsewhere").exists(), "it made a store");

    let whole = format!("file://{}/out.ndjson", scratch.path().display());
    once(&scratch, "cart-1", &whole, "web").ends(0);
    assert_eq!(positions(&scratch, "out.ndjson"), [1, 3, 5]);
}

#[cfg(feature = "sink-redis")]
#[test]
fn events_of_a_stream_go_to_redis() {
    let Some(server) = crate::support::redis_server::RedisServer::start(&[]) else { return };
    let scratch = Scratch::new();
    fill(&scratch);
    let to = format!("redis://127.0.0.1:{}/0/events", server.port());
    for forwarded in [3, 0] {
        assert_eq!(once(&scratch, "cart-1", &to, "redis").ends(0).object()["forwarded"], forwarded);
        assert_eq!(server.entries("events").len(), 3);
    }
}

#[cfg(feature = "sink-kafka")]
#[test]
fn events_of_a_stream_go_to_kafka() {
    let cluster = rdkafka::mocking::MockCluster::new(1).unwrap();
    cluster.create_topic("events", 1, 1).unwrap();
    let scratch = Scratch::new();
    fill(&scratch);
    let to = format!("kafka://{}/events", cluster.bootstrap_servers());
    for forwarded in [3, 0] {
        assert_eq!(once(&scratch, "cart-1", &to, "kafka").ends(0).object()["forwarded"], forwarded);
    }
}
