//! The Redis sink, against a real server (S3, S7, S9).

use std::time::Duration;

use towpath::{Codec, Error, NewEvent, RedisSink, Refusal, RefusalKind, Sink, Timestamp};

use crate::support::records::{delivered, records, texts};
use crate::support::redis_server::RedisServer;
use crate::support::servers::{free_port, mute_listener};

/// Long enough for a server on loopback, and short enough to be waited for.
const SHORT: Duration = Duration::from_secs(1);

fn sink(server: &RedisServer) -> RedisSink {
    RedisSink::to(&server.url("events")).unwrap()
}

#[track_caller]
fn is_again(refusal: &Refusal, taken: usize, why: &str) {
    assert!(matches!(refusal.kind, RefusalKind::Again { .. }) && refusal.taken == taken, "{refusal}");
    assert!(refusal.why.contains(why), "{refusal}");
}

#[test]
fn each_event_is_an_entry_with_everything_it_says() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let payload = "line\r\n$5\r\nXADD\r\n\u{0}";
    let batch = delivered([
        NewEvent::encoded("opened", Codec::Json, br#"{"by":"web"}"#.as_slice())
            .tag("plane-N1")
            .tag("a,b")
            .header("trace", "x=1\r\n")
            .correlation("journey")
            .id(7)
            .schema_version(3)
            .occurred(Timestamp::from_nanos(1)),
        NewEvent::new("größe", payload),
    ]);
    let mut sink = sink(&server);
    sink.write(&records(&batch)).unwrap();
    sink.flush().unwrap();

    let entries = server.entries("events");
    for (name, value) in [
        ("key", "00000000-0000-0000-0000-000000000007/sink"),
        ("position", "1"),
        ("stream", "orders"),
        ("revision", "1"),
        ("type", "opened"),
        ("codec", "json"),
        ("schema-version", "3"),
        ("id", "00000000-0000-0000-0000-000000000007"),
        ("occurred", "1970-01-01T00:00:00.000000001Z"),
        ("correlation", "journey"),
        ("tags", "plane-N1,a%2Cb"),
        ("headers", "trace=x%3D1%0D%0A"),
        ("content-type", "application/json"),
        ("payload", r#"{"by":"web"}"#),
    ] {
        assert_eq!(entries[0].field(name), Some(value), "{name}");
    }
    assert_eq!(entries[1].field("type"), Some("größe"));
    assert_eq!(entries[1].field("payload"), Some(payload));
    assert_eq!((entries[1].field("tags"), entries[1].field("cut")), (None, None));
    assert_eq!(entries.len(), 2);
}

#[test]
fn many_events_stay_in_order_over_several_transactions() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let texts: Vec<String> = (0..700).map(|number| format!("event {number}")).collect();
    let batch = delivered(texts.iter().map(|text| NewEvent::new("noted", text)));
    let mut sink = sink(&server);
    sink.write(&records(&batch)).unwrap();
    sink.flush().unwrap();
    assert_eq!(server.payloads("events"), texts);
}

#[test]
fn a_server_that_is_down_is_told_and_taken_up_again_when_it_is_back() {
    let Some(mut server) = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]) else { return };
    let batch = texts(["a", "b"]);
    let mut sink = sink(&server);
    sink.write(&records(&batch)[..1]).unwrap();
    sink.flush().unwrap();

    server.kill();
    is_again(&sink.write(&records(&batch)[1..]).unwrap_err(), 0, "connection");
    is_again(&sink.write(&records(&batch)[1..]).unwrap_err(), 0, "connection");
    server.start_again();
    sink.write(&records(&batch)[1..]).unwrap();
    sink.flush().unwrap();
    assert_eq!(server.payloads("events"), ["a", "b"]);
}

/// S3. The server has no file to keep its entries in, so it comes back without them.
#[test]
fn a_flush_does_not_answer_for_what_was_written_before_the_connection_was_lost() {
    let Some(mut server) = RedisServer::start(&[]) else { return };
    let batch = texts(["a", "b"]);
    let mut sink = sink(&server);
    // The control: with the server still there, it does.
    sink.write(&records(&batch)[..1]).unwrap();
    sink.flush().unwrap();

    // Lost between writing and flushing.
    sink.write(&records(&batch)[..1]).unwrap();
    server.kill();
    server.start_again();
    is_again(&sink.flush().unwrap_err(), 0, "connection");

    // Lost between two writes, with a connection that works when it is flushed.
    sink.write(&records(&batch)[..1]).unwrap();
    server.kill();
    server.start_again();
    is_again(&sink.write(&records(&batch)[1..]).unwrap_err(), 0, "connection");
    sink.write(&records(&batch)[1..]).unwrap();
    is_again(&sink.flush().unwrap_err(), 0, "connection was lost");

    // Then everything is written again, and flushed.
    sink.write(&records(&batch)).unwrap();
    sink.flush().unwrap();
    assert_eq!(server.payloads("events"), ["b", "a", "b"]);
}

#[test]
fn a_slow_server_is_given_up_in_time_and_its_late_answers_are_not_taken_for_others() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let batch = texts(["a", "b"]);
    let mut sink = sink(&server).timeout(SHORT).connect_timeout(SHORT);
    sink.write(&records(&batch)[..1]).unwrap();
    sink.flush().unwrap();
    let mut pausing = server.connect();
    redis::cmd("CLIENT").arg(&["PAUSE", "600000", "WRITE"]).exec(&mut pausing).unwrap();
    is_again(&sink.write(&records(&batch)[1..]).unwrap_err(), 0, "in time");
    redis::cmd("CLIENT").arg("UNPAUSE").exec(&mut pausing).unwrap();
    sink.write(&records(&batch)[1..]).unwrap();
    sink.flush().unwrap();
    assert_eq!(server.payloads("events").last().unwrap(), "b");

    // One that never says a word.
    let (_listener, port) = mute_listener();
    let mut mute = RedisSink::to(&format!("redis://127.0.0.1:{port}/0/events")).unwrap().connect_timeout(SHORT);
    is_again(&mute.write(&records(&batch)).unwrap_err(), 0, "in time");
    let mut nobody = RedisSink::to(&format!("redis://127.0.0.1:{}/0/events", free_port())).unwrap();
    is_again(&nobody.write(&records(&batch)).unwrap_err(), 0, "refused");
}

#[test]
fn what_the_server_will_take_later_comes_again_and_what_it_never_will_is_refused() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let batch = texts(["a", "b"]);
    let mut sink = sink(&server);

    server.does(&["CONFIG", "SET", "maxmemory", "1"]);
    is_again(&sink.write(&records(&batch)).unwrap_err(), 0, "OOM");
    server.does(&["CONFIG", "SET", "maxmemory", "0"]);

    server.does(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    is_again(&sink.write(&records(&batch)).unwrap_err(), 0, "NOREPLICAS");
    server.does(&["CONFIG", "SET", "min-replicas-to-write", "0"]);

    server.does(&["REPLICAOF", "127.0.0.1", "1"]);
    is_again(&sink.write(&records(&batch)).unwrap_err(), 0, "READONLY");
    server.does(&["REPLICAOF", "NO", "ONE"]);

    server.does(&["SET", "events", "a text"]);
    let refusal = sink.write(&records(&batch)).unwrap_err();
    assert!(refusal.is_final() && refusal.taken == 0 && refusal.why.contains("WRONGTYPE"), "{refusal}");
    server.does(&["DEL", "events"]);

    server.does(&["ACL", "SETUSER", "default", "-xadd"]);
    let refusal = sink.write(&records(&batch)).unwrap_err();
    assert!(refusal.is_final() && refusal.taken == 0 && refusal.why.contains("NOPERM"), "{refusal}");
    server.does(&["ACL", "SETUSER", "default", "+xadd"]);

    // The control: nothing of all that is left, and nothing was added on the way.
    sink.write(&records(&batch)).unwrap();
    sink.flush().unwrap();
    assert_eq!(server.payloads("events"), ["a", "b"]);
}

#[test]
fn a_server_that_cannot_save_takes_nothing_until_it_can() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let batch = texts(["a"]);
    let mut sink = sink(&server);
    server.does(&["CONFIG", "SET", "save", "3600 1"]);
    // There is a directory in the place of its snapshot.
    let snapshot = server.dir().join("dump.rdb");
    std::fs::create_dir(&snapshot).unwrap();
    assert_eq!(save(&server), "err");
    is_again(&sink.write(&records(&batch)).unwrap_err(), 0, "MISCONF");
    std::fs::remove_dir(&snapshot).unwrap();
    assert_eq!(save(&server), "ok");
    sink.write(&records(&batch)).unwrap();
    assert_eq!(server.payloads("events"), ["a"]);
}

/// Has the server make a snapshot, waits for it, and returns what came of it.
fn save(server: &RedisServer) -> String {
    server.does(&["BGSAVE"]);
    let mut connection = server.connect();
    loop {
        let info: String = redis::cmd("INFO").arg("persistence").query(&mut connection).unwrap();
        let line = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
        if line("rdb_bgsave_in_progress:") == "0" {
            return line("rdb_last_bgsave_status:");
        }
    }
}

#[test]
fn a_record_that_the_server_cannot_take_is_refused_and_those_before_it_are_taken() {
    let Some(server) = RedisServer::start(&["--proto-max-bulk-len", "1048576"]) else { return };
    let large = "x".repeat(1_100_000);
    let batch = texts(["a", "b", &large, "c", "d"]);
    let mut sink = sink(&server);
    let refusal = sink.write(&records(&batch)).unwrap_err();
    assert!(refusal.is_final() && refusal.taken == 2, "{refusal}");
    assert!(refusal.why.contains("proto-max-bulk-len"), "{refusal}");
    // What is known of it does not hang on what the server could still say before it ended the connection.
    for _ in 0..20 {
        assert_eq!(sink.write(&records(&batch)[2..3]).unwrap_err(), refusal.clone().at(0));
    }
    sink.write(&records(&batch)[3..]).unwrap();
    assert_eq!(server.payloads("events"), ["a", "b", "c", "d"]);

    // Cut to what the server takes, it is taken, marked and counted (S9).
    let mut cutting = self::sink(&server).most_bytes(10);
    cutting.write(&records(&batch)[2..4]).unwrap();
    let entries = server.entries("events");
    let cut = &entries[4];
    assert_eq!((cut.field("cut"), cut.field("payload-bytes")), (Some("true"), Some("1100000")));
    assert_eq!((cut.field("payload"), entries[5].field("cut")), (Some("xxxxxxxxxx"), None));
    assert_eq!(cutting.counts().cut.get("larger than 10 bytes"), 1);
}

#[test]
fn with_ids_by_position_what_is_written_twice_is_added_once() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let batch = texts(["a", "b", "c"]);
    let mut sink = sink(&server).ids_by_position();
    sink.write(&records(&batch)[..2]).unwrap();
    sink.write(&records(&batch)).unwrap();
    sink.write(&records(&batch)[1..2]).unwrap();
    sink.flush().unwrap();
    assert_eq!(server.payloads("events"), ["a", "b", "c"]);
    let ids: Vec<String> = server.entries("events").into_iter().map(|entry| entry.id).collect();
    assert_eq!(ids, ["1-0", "2-0", "3-0"]);

    // The control: without it, they are there twice.
    let mut sink = RedisSink::to(&server.url("times")).unwrap();
    sink.write(&records(&batch)).unwrap();
    sink.write(&records(&batch)).unwrap();
    assert_eq!(server.payloads("times"), ["a", "b", "c", "a", "b", "c"]);
}

#[test]
fn with_ids_by_position_nothing_is_taken_for_added_that_is_not_there() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let batch = texts(["a", "b", "c"]);
    let all = records(&batch);
    let refused = |key: &str, at: usize, taken: usize| {
        let mut sink = RedisSink::to(&server.url(key)).unwrap().ids_by_position();
        let refusal = sink.write(&all[at..]).unwrap_err();
        assert!(refusal.is_final() && refusal.taken == taken, "{refusal}");
        refusal.why
    };
    // Entries of somebody else, whose ids are times.
    server.does(&["XADD", "foreign", "*", "some", "thing"]);
    assert!(refused("foreign", 0, 0).contains("order cannot be kept"));
    // Out of order.
    let mut sink = RedisSink::to(&server.url("order")).unwrap().ids_by_position();
    sink.write(&all[..1]).unwrap();
    sink.write(&all[2..]).unwrap();
    assert!(refused("order", 0, 1).contains("order cannot be kept"));
    // The same position of another store.
    let mut sink = RedisSink::to(&server.url("stores")).unwrap().ids_by_position();
    sink.write(&records(&texts(["x", "y", "z"]))).unwrap();
    assert!(refused("stores", 0, 0).contains("another event"));

    // The control: what the sink has added, and was removed since.
    let mut sink = RedisSink::to(&server.url("trimmed")).unwrap().ids_by_position();
    sink.write(&all).unwrap();
    server.does(&["XTRIM", "trimmed", "MAXLEN", "1"]);
    sink.write(&all).unwrap();
    assert_eq!(server.payloads("trimmed"), ["c"]);
}

#[test]
fn a_stream_is_kept_about_as_long_as_it_was_told() {
    let Some(server) = RedisServer::start(&["--stream-node-max-entries", "10"]) else { return };
    let texts: Vec<String> = (0..500).map(|number| format!("event {number}")).collect();
    let batch = delivered(texts.iter().map(|text| NewEvent::new("noted", text)));
    let mut sink = sink(&server).max_len(50);
    sink.write(&records(&batch)).unwrap();
    let kept = server.payloads("events");
    assert!((50..=60).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept.last(), texts.last());
}

/// Redis 7.2 and later can be asked whether its file is synced.
#[test]
fn waiting_for_the_servers_disk_is_told_where_the_server_cannot_say() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let batch = texts(["a"]);
    let mut sink = self::sink(&server).wait_for_disk().timeout(Duration::from_secs(5));
    sink.write(&records(&batch)).unwrap();
    is_again(&sink.flush().unwrap_err(), 0, "WAITAOF");
    drop(server);

    let Some(server) = RedisServer::start(&["--appendonly", "yes"]) else { return };
    let mut sink = self::sink(&server).wait_for_disk().timeout(Duration::from_secs(10));
    sink.write(&records(&batch)).unwrap();
    let knows_how = server.does(&["COMMAND", "INFO", "WAITAOF"]) != redis::Value::Array(vec![redis::Value::Nil]);
    if knows_how {
        sink.flush().unwrap();
    } else {
        is_again(&sink.flush().unwrap_err(), 0, "unknown command");
    }
}

#[test]
fn passwords_are_used_and_never_shown() {
    let Some(server) = RedisServer::start(&["--requirepass", "SE@CRET"]) else { return };
    let batch = texts(["a"]);
    let to = |credentials: &str| {
        RedisSink::to(&format!("redis://{credentials}127.0.0.1:{}/0/events", server.port())).unwrap()
    };
    for (credentials, why) in [("", "NOAUTH"), (":WRONGSECRET@", ""), ("me:SE%40CRET@", "")] {
        let mut sink = to(credentials);
        let refusal = sink.write(&records(&batch)).unwrap_err();
        is_again(&refusal, 0, why);
        let shown = format!("{refusal} {refusal:?} {sink:?} {}", sink.name());
        assert!(!shown.contains("SECRET") && !shown.contains("CRET"), "{shown}");
    }
    // The control: it is asked for, and the right one is sent.
    for credentials in [":SE%40CRET@", "default:SE%40CRET@"] {
        let mut sink = to(credentials);
        sink.write(&records(&batch)).unwrap();
        sink.flush().unwrap();
        assert!(!format!("{sink:?} {}", sink.name()).contains("CRET"));
    }
}

#[test]
fn tls_is_checked_and_a_certificate_of_ones_own_can_be_trusted() {
    let made = |file: &str| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let dir = crate::support::Scratch::new();
        let (certificate, key) = (dir.path().join(format!("{file}.crt")), dir.path().join(format!("{file}.key")));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        (made.cert.pem(), certificate.to_str().unwrap().to_owned(), key.to_str().unwrap().to_owned(), dir)
    };
    let (pem, certificate, key, _dir) = made("own");
    let (other_pem, ..) = made("other");
    let tls_port = free_port();
    let options = ["--tls-port", &tls_port.to_string(), "--tls-cert-file", &certificate, "--tls-key-file", &key];
    let Some(server) = RedisServer::start(&[&options[..], &["--tls-auth-clients", "no"]].concat()) else { return };
    let batch = texts(["a"]);
    let to = |host: &str| RedisSink::to(&format!("rediss://{host}:{tls_port}/0/events")).unwrap();

    let mut trusting = to("localhost").root_certificates(pem.as_bytes()).unwrap();
    trusting.write(&records(&batch)).unwrap();
    trusting.flush().unwrap();
    assert_eq!(server.payloads("events"), ["a"]);

    for mut sink in [
        to("localhost").root_certificates(other_pem.as_bytes()).unwrap(),
        to("127.0.0.1").root_certificates(pem.as_bytes()).unwrap(),
        to("localhost"),
    ] {
        is_again(&sink.write(&records(&batch)).unwrap_err(), 0, "certificate");
    }
    assert!(matches!(to("localhost").root_certificates(b"nonsense").unwrap_err(), Error::Invalid { .. }));
}

#[test]
fn an_address_that_cannot_be_used_is_refused_without_its_secrets() {
    for url in [
        "",
        "redis://host",
        "redis://host/0",
        "redis://host/0/",
        "redis://host/x/key",
        "redis://host/-1/key",
        "redis://:SECRET@host:0/0/key",
        "redis://:SECRET@host:x/0/key",
        "redis://SECRET@host/0/key",
        "redis://:SE%CRET@host/0/key",
        "redis://host/0/%ff",
        "rediss://:SECRET@host/0/key#insecure",
        "redis://:SECRET@host/0/key?protocol=resp3",
        "http://:SECRET@host/0/key",
    ] {
        let error = RedisSink::to(url).expect_err(url);
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("SECRET") && !shown.contains("CRET@"), "{shown}");
    }
    let sink = RedisSink::to("redis://me:SECRET@[::1]/3/a/b%20c").unwrap();
    assert_eq!(sink.name(), "redis://[::1]/3/a/b%20c");
}
