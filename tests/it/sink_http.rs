//! The HTTP sink, against a real server on loopback (S6, S9).

use std::time::Duration;

use towpath::{Codec, Error, HttpSink, ManualClock, NewEvent, Refusal, RefusalKind, Sink, Timestamp};

use crate::support::http_server::Answer::{Half, HalfAndSilence, Nonsense, Nothing, Silence, Status};
use crate::support::http_server::{Asked, HttpServer};
use crate::support::records::{delivered, records, texts};
use crate::support::servers::{free_port, mute_listener};

/// Long enough for a server on loopback, and short enough to be waited for.
const SHORT: Duration = Duration::from_secs(1);

fn sink(server: &HttpServer) -> HttpSink {
    HttpSink::to(&server.url("/events")).unwrap()
}

fn again(refusal: &Refusal) -> Option<Duration> {
    match refusal.kind {
        RefusalKind::Again { after } => after,
        _ => panic!("{refusal}"),
    }
}

fn bodies(asked: &[Asked]) -> Vec<&str> {
    asked.iter().map(Asked::text).collect()
}

/// Writes three events to a server whose second answer is this one.
fn second_answer(answer: crate::support::http_server::Answer) -> (HttpServer, Result<(), Refusal>) {
    let server = HttpServer::answering([Status(200, ""), answer.clone()]);
    let time = if matches!(answer, Silence | HalfAndSilence) { SHORT } else { Duration::from_secs(60) };
    let written = sink(&server).timeout(time).write(&records(&texts(["a", "b", "c"])));
    (server, written)
}

#[test]
fn each_event_is_a_request_with_its_payload_as_the_body_and_the_rest_in_headers() {
    let server = HttpServer::answering([Status(200, ""), Status(201, ""), Status(204, "")]);
    let batch = delivered([
        NewEvent::encoded("opened", Codec::Json, br#"{"by":"web"}"#.as_slice())
            .tag("plane-N1")
            .tag("a,b")
            .header("trace", "x=1")
            .correlation("journey")
            .id(7)
            .schema_version(3)
            .occurred(Timestamp::from_nanos(1)),
        NewEvent::encoded("packed", Codec::MessagePack, [0xc0].as_slice()),
        NewEvent::new("raw", "bytes"),
    ]);
    let mut sink = sink(&server);
    sink.write(&records(&batch)).unwrap();
    sink.flush().unwrap();

    let asked = server.asked();
    assert_eq!(asked.len(), 3);
    let first = &asked[0];
    assert!(first.head.starts_with("POST /events HTTP/1.1\r\n"), "{}", first.head);
    assert_eq!(first.text(), r#"{"by":"web"}"#);
    for (name, value) in [
        ("content-type", "application/json"),
        ("idempotency-key", "00000000-0000-0000-0000-000000000007/sink"),
        ("towpath-position", "1"),
        ("towpath-stream", "orders"),
        ("towpath-revision", "1"),
        ("towpath-type", "opened"),
        ("towpath-id", "00000000-0000-0000-0000-000000000007"),
        ("towpath-codec", "json"),
        ("towpath-schema-version", "3"),
        ("towpath-occurred", "1970-01-01T00:00:00.000000001Z"),
        ("towpath-correlation", "journey"),
        ("towpath-tags", "plane-N1,a%2Cb"),
        ("towpath-headers", "trace=x%3D1"),
    ] {
        assert_eq!(first.header(name), Some(value), "{name}");
    }
    assert_eq!(asked[1].header("content-type"), Some("application/vnd.msgpack"));
    assert_eq!(asked[2].header("content-type"), Some("application/octet-stream"));
    for absent in ["towpath-tags", "towpath-headers", "towpath-cut", "towpath-left-out", "towpath-key"] {
        assert_eq!(asked[2].header(absent), None, "{absent}");
    }
    let keys: Vec<_> = asked.iter().map(|asked| asked.header("idempotency-key").unwrap()).collect();
    let wanted: Vec<_> = batch.iter().map(|record| record.idempotency_key()).collect();
    assert_eq!(keys, wanted);
}

#[test]
fn what_may_work_later_comes_again_and_nothing_behind_it_was_sent() {
    for status in [408, 429, 500, 502, 503, 504, 599] {
        let (server, written) = second_answer(Status(status, ""));
        let refusal = written.unwrap_err();
        assert_eq!((refusal.taken, again(&refusal)), (1, None), "{refusal}");
        assert!(refusal.why.contains(&status.to_string()), "{refusal}");
        assert_eq!(bodies(&server.asked()), ["a", "b"]);
    }
    for answer in [Nothing, Silence, Half, HalfAndSilence, Nonsense] {
        let (server, written) = second_answer(answer.clone());
        let refusal = written.expect_err(&format!("{answer:?}"));
        assert_eq!((refusal.taken, again(&refusal)), (1, None), "{answer:?}: {refusal}");
        assert_eq!(bodies(&server.asked()), ["a", "b"], "{answer:?}");
    }
}

/// The control of the two tests around it: the same three events, and nothing in the way.
#[test]
fn what_is_answered_with_success_is_done() {
    for status in [200, 201, 202, 204, 299] {
        let (server, written) = second_answer(Status(status, ""));
        written.unwrap();
        assert_eq!(bodies(&server.asked()), ["a", "b", "c"]);
    }
}

#[test]
fn what_will_never_work_is_refused_with_its_status_and_redirects_are_not_followed() {
    for status in [400, 401, 403, 404, 409, 410, 413, 422, 451] {
        let (server, written) = second_answer(Status(status, ""));
        let refusal = written.unwrap_err();
        assert!(refusal.is_final() && refusal.taken == 1, "{refusal}");
        assert!(refusal.why.contains(&status.to_string()), "{refusal}");
        assert_eq!(bodies(&server.asked()), ["a", "b"]);
    }
    let elsewhere = HttpServer::answering([]);
    for status in [301, 302, 303, 307, 308] {
        let lines = format!("location: {}\r\n", elsewhere.url("/stolen")).leak();
        let (_server, written) = second_answer(Status(status, lines));
        let refusal = written.unwrap_err();
        assert!(refusal.is_final() && refusal.taken == 1, "{refusal}");
        assert!(refusal.why.contains(&status.to_string()) && refusal.why.contains("redirect"), "{refusal}");
    }
    assert_eq!(elsewhere.asked().len(), 0);
}

#[test]
fn after_a_failure_the_rest_is_sent_when_it_comes_again() {
    let server = HttpServer::answering([Nothing, Status(503, ""), Half]);
    let batch = texts(["a", "b"]);
    let mut sink = sink(&server);
    let mut rest = records(&batch);
    for _ in 0..3 {
        let refusal = sink.write(&rest).unwrap_err();
        rest.drain(..refusal.taken);
    }
    sink.write(&rest).unwrap();
    assert_eq!(bodies(&server.asked()), ["a", "a", "a", "a", "b"]);
    let keys: Vec<_> = server.asked().iter().map(|asked| asked.header("idempotency-key").unwrap().to_owned()).collect();
    assert!(keys[..4].iter().all(|key| *key == keys[0]) && keys[4] != keys[0], "{keys:?}");
}

#[test]
fn a_server_says_how_long_to_wait_in_seconds_or_with_a_date() {
    let wait = |lines: &'static str| {
        let server = HttpServer::answering([Status(429, lines)]);
        let clock = std::sync::Arc::new(ManualClock::at(Timestamp::from_nanos(784_111_767_000_000_000)));
        let refusal = sink(&server).clock(clock).write(&records(&texts(["a"]))).unwrap_err();
        again(&refusal)
    };
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(wait("retry-after: 7\r\n"), seconds(7));
    // The clock stands at 08:49:27.
    assert_eq!(wait("retry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n"), seconds(10));
    // The older forms of dates, and the answer's own clock, which is a minute behind.
    assert_eq!(wait("retry-after: Sunday, 06-Nov-94 08:49:37 GMT\r\n"), seconds(10));
    let own = "date: Sun, 06 Nov 1994 08:48:27 GMT\r\nretry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    assert_eq!(wait(own), seconds(70));
    assert_eq!(wait("retry-after: Sun, 06 Nov 1994 08:49:07 GMT\r\n"), seconds(0));
    // What is not to be believed.
    assert_eq!(wait("retry-after: 99999999999999999999999\r\n"), seconds(3600));
    assert_eq!(wait("retry-after: Sat, 06 Nov 2094 08:49:37 GMT\r\n"), seconds(3600));
    for nonsense in ["", "retry-after: soon\r\n", "retry-after: -1\r\n", "retry-after: \r\n", "retry-after: 1.5\r\n"] {
        assert_eq!(wait(nonsense), None, "{nonsense}");
    }
}

#[test]
fn a_server_that_cannot_be_reached_or_does_not_answer_is_given_up_in_time() {
    let batch = texts(["a"]);
    let mut down = HttpSink::to(&format!("http://127.0.0.1:{}/", free_port())).unwrap();
    let refusal = down.write(&records(&batch)).unwrap_err();
    assert_eq!((refusal.taken, again(&refusal)), (0, None), "{refusal}");
    assert!(refusal.why.contains("refused"), "{refusal}");

    let (_listener, port) = mute_listener();
    let mut mute = HttpSink::to(&format!("http://127.0.0.1:{port}/")).unwrap().timeout(SHORT);
    let refusal = mute.write(&records(&batch)).unwrap_err();
    assert!(again(&refusal).is_none() && refusal.why.contains("in time"), "{refusal}");
    // Nobody answers the greeting of TLS either, and that is part of connecting.
    let mut tls = HttpSink::to(&format!("https://127.0.0.1:{port}/")).unwrap().connect_timeout(SHORT);
    let (_server, pem) = HttpServer::with_tls([]);
    tls = tls.root_certificates(pem.as_bytes()).unwrap();
    let refusal = tls.write(&records(&batch)).unwrap_err();
    assert!(again(&refusal).is_none() && refusal.why.contains("in time"), "{refusal}");
}

#[test]
fn a_certificate_is_checked_and_one_of_ones_own_can_be_trusted() {
    let (server, pem) = HttpServer::with_tls([]);
    let batch = texts(["a"]);
    let to = |host: &str| HttpSink::to(&format!("https://{host}:{}/", server.port())).unwrap();

    let mut trusting = to("localhost").root_certificates(pem.as_bytes()).unwrap();
    trusting.write(&records(&batch)).unwrap();
    assert_eq!(bodies(&server.asked()), ["a"]);

    // Another certificate, and another name than the one it was made for.
    let (_other, other_pem) = HttpServer::with_tls([]);
    for mut sink in [
        to("localhost").root_certificates(other_pem.as_bytes()).unwrap(),
        to("127.0.0.1").root_certificates(pem.as_bytes()).unwrap(),
        to("localhost"),
    ] {
        let refusal = sink.write(&records(&batch)).unwrap_err();
        assert!(again(&refusal).is_none(), "{refusal}");
        assert!(refusal.why.contains("certificate"), "{refusal}");
    }
    assert_eq!(server.asked().len(), 1, "nothing is sent to a server that is not trusted");

    for nonsense in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let error = to("localhost").root_certificates(nonsense.as_bytes()).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }
}

#[test]
fn no_event_can_add_a_header_or_a_request() {
    let server = HttpServer::answering([]);
    let payload = "x\r\n\r\nPOST /evil HTTP/1.1\r\nEvil: yes\r\n\r\n";
    // Names cannot hold control characters, values of headers can.
    let batch = delivered([NewEvent::new("größe, 100%", payload)
        .tag("a tag")
        .header("Evil: yes", "x\r\nEvil: yes\r\n\r\nPOST /evil HTTP/1.1\r\n")]);
    let mut sink = sink(&server);
    sink.write(&records(&batch)).unwrap();
    sink.write(&records(&texts(["after"]))).unwrap();

    let asked = server.asked();
    assert_eq!(bodies(&asked), [payload, "after"]);
    assert!(asked[0].head.lines().skip(1).all(|line| !line.to_lowercase().starts_with("evil")), "{}", asked[0].head);
    assert_eq!(asked[0].header("towpath-type"), Some("gr%C3%B6%C3%9Fe%2C%20100%25"));
    assert_eq!(asked[0].header("towpath-tags"), Some("a%20tag"));
    let headers = asked[0].header("towpath-headers").unwrap();
    assert!(headers.starts_with("Evil:%20yes=x%0D%0AEvil"), "{headers}");
    assert!(asked[0].head.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ' || b"\r\n".contains(&byte)));
}

#[test]
fn what_is_too_long_for_a_header_is_left_out_and_named() {
    let server = HttpServer::answering([]);
    let tags: Vec<String> = (0..200).map(|number| format!("{number:030}")).collect();
    let batch = delivered([NewEvent::new("tagged", "x").tags(tags).header("kept", "yes")]);
    sink(&server).write(&records(&batch)).unwrap();
    let asked = &server.asked()[0];
    assert_eq!(asked.header("towpath-left-out"), Some("tags"));
    assert_eq!((asked.header("towpath-tags"), asked.header("towpath-headers")), (None, Some("kept=yes")));
}

#[test]
fn headers_of_ones_own_are_made_for_each_request_and_never_shown() {
    let server = HttpServer::answering([Status(200, ""), Status(401, ""), Nothing]);
    let mut number = 0;
    let mut sink = sink(&server)
        .header_with("Authorization", move || {
            number += 1;
            format!("Bearer SECRET-{number}")
        })
        .unwrap()
        .header_with("X-Tenant", || "SECRET-tenant".to_owned())
        .unwrap();
    let batch = texts(["a", "b"]);
    let refused = sink.write(&records(&batch)).unwrap_err();
    let reset = sink.write(&records(&batch)[1..]).unwrap_err();
    let sent: Vec<_> = server.asked().iter().map(|asked| asked.header("authorization").unwrap().to_owned()).collect();
    assert_eq!(sent, ["Bearer SECRET-1", "Bearer SECRET-2", "Bearer SECRET-3"]);
    assert_eq!(server.asked()[0].header("x-tenant"), Some("SECRET-tenant"));
    for shown in [format!("{sink:?}"), format!("{refused:?} {refused}"), format!("{reset:?} {reset}")] {
        assert!(!shown.contains("SECRET"), "{shown}");
    }

    // A value that would be two headers is not sent, and not shown.
    let mut sink = sink.header_with("X-Tenant", || "SECRET\r\nEvil: yes".to_owned()).unwrap();
    let refusal = sink.write(&records(&batch)).unwrap_err();
    assert!(again(&refusal).is_none() && refusal.why.contains("x-tenant"), "{refusal}");
    assert!(!refusal.why.contains("SECRET"), "{refusal}");
    assert_eq!(server.asked().len(), 3);
}

#[test]
fn headers_that_the_sink_sets_and_names_that_are_none_are_refused() {
    let to = || HttpSink::to("http://localhost/").unwrap();
    for name in ["", "a b", "a:b", "é", "x\r\ny", "Host", "content-length", "Idempotency-Key", "Towpath-Stream"] {
        let error = to().header_with(name, String::new).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{name:?}: {error}");
    }
    assert!(to().header_with("X-Tenant", String::new).is_ok());
}

#[test]
fn credentials_in_the_address_are_sent_and_neither_they_nor_the_query_are_shown() {
    let server = HttpServer::answering([Status(404, "")]);
    let url = format!("http://me:SE%40CRET@127.0.0.1:{}/events?token=SECRET", server.port());
    let mut sink = HttpSink::to(&url).unwrap();
    let refusal = sink.write(&records(&texts(["a"]))).unwrap_err();
    let asked = &server.asked()[0];
    assert!(asked.head.starts_with("POST /events?token=SECRET HTTP/1.1\r\n"), "{}", asked.head);
    // me:SE@CRET
    assert_eq!(asked.header("authorization"), Some("Basic bWU6U0VAQ1JFVA=="));
    assert_eq!(sink.name(), format!("http://127.0.0.1:{}/events", server.port()));
    for shown in [sink.name().to_owned(), format!("{sink:?}"), format!("{refusal} {refusal:?}")] {
        assert!(!shown.contains("CRET") && !shown.contains("U0VAQ"), "{shown}");
    }
    assert_eq!(HttpSink::to(&url).unwrap().named("hook").name(), "hook");
}

#[test]
fn an_address_that_cannot_be_used_is_refused_without_its_secrets() {
    for url in [
        "",
        "nonsense",
        "ftp://me:SECRET@host/",
        "http://",
        "http://me:SECRET@/",
        "http://me:SECRET@host:99999/",
        "http://me:SECRET@host:x/",
        "http://me:SE%CRET@host/",
        "http://me:SECRET@ho st/",
        "http://me:SECRET@host/\r\nEvil: yes",
        "http://host/?token=SECRET#x",
    ] {
        let error = HttpSink::to(url).expect_err(url);
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("SECRET") && !shown.contains("CRET@"), "{shown}");
    }
    assert!(HttpSink::to("http://[::1]:81/a?b").is_ok());
}

#[test]
fn several_events_go_as_lines_of_json_with_one_key_that_tells_them_apart() {
    let server = HttpServer::answering([]);
    let batch = texts(["a", "b", "c", "d", "e"]);
    let mut sink = sink(&server).lines(2);
    sink.write(&records(&batch)).unwrap();
    sink.write(&records(&batch)[..2]).unwrap();
    sink.write(&records(&batch)[..1]).unwrap();

    let asked = server.asked();
    let lines: Vec<usize> = asked.iter().map(|asked| asked.text().lines().count()).collect();
    assert_eq!(lines, [2, 2, 1, 2, 1]);
    assert!(asked.iter().all(|asked| asked.header("content-type") == Some("application/x-ndjson")));
    let positions: Vec<u64> = asked[..3].iter().flat_map(|asked| asked.text().lines().map(position)).collect();
    assert_eq!(positions, [1, 2, 3, 4, 5]);

    let keys: Vec<_> = asked.iter().map(|asked| asked.header("idempotency-key").unwrap()).collect();
    assert_eq!(keys[0], keys[3], "the same events have the same key");
    assert!(keys[0] != keys[4] && keys[0] != keys[1] && keys[1] != keys[2], "{keys:?}");
}

fn position(line: &str) -> u64 {
    let value: serde_json::Value = serde_json::from_str(line).unwrap();
    value["position"].as_u64().unwrap()
}

/// S7 for HTTP: a server that refuses one record of many.
#[test]
fn of_a_refused_request_the_event_alone_is_refused_that_is_to_blame() {
    // Eight; four; four; two; two is bad; one; one is bad.
    let answers = [422, 200, 422, 200, 422, 200, 422].map(|status| Status(status, ""));
    let server = HttpServer::answering(answers);
    let batch = texts(["1", "2", "3", "4", "5", "6", "7", "8"]);
    let mut sink = sink(&server).lines(8);
    let refusal = sink.write(&records(&batch)).unwrap_err();
    assert!(refusal.is_final() && refusal.taken == 7, "{refusal}");
    let last = server.asked().last().unwrap().clone();
    assert_eq!(position(last.text()), 8);

    // The control: a refusal that does not speak of the content is one of all, and is not looked into.
    let server = HttpServer::answering([Status(401, "")]);
    let refusal = HttpSink::to(&server.url("/")).unwrap().lines(8).write(&records(&batch)).unwrap_err();
    assert!(refusal.is_final() && refusal.taken == 0 && server.asked().len() == 1, "{refusal}");
}

#[test]
fn what_is_too_large_is_cut_marked_and_counted() {
    let server = HttpServer::answering([Status(500, "")]);
    let large = "0123456789".repeat(100);
    let batch = delivered([
        NewEvent::encoded("large", Codec::Json, format!("\"{large}\"").into_bytes()),
        NewEvent::new("small", "x"),
    ]);
    let mut cutting = sink(&server).most_bytes(500);
    assert!(cutting.write(&records(&batch)).is_err());
    assert_eq!(cutting.counts().cut.total(), 0, "what was not taken is not counted");
    cutting.write(&records(&batch)).unwrap();
    assert_eq!(cutting.counts().cut.get("larger than 500 bytes"), 1);

    let asked = server.asked();
    let (cut, whole) = (&asked[1], &asked[2]);
    assert_eq!(cut.body.len(), 500);
    assert_eq!(cut.header("content-type"), Some("application/octet-stream"));
    assert_eq!((cut.header("towpath-cut"), cut.header("towpath-payload-bytes")), (Some("true"), Some("1002")));
    assert_eq!(cut.header("towpath-codec"), Some("json"));
    assert_eq!((whole.header("towpath-cut"), whole.text()), (None, "x"));

    let mut lines = sink(&server).lines(10).most_bytes(500);
    lines.write(&records(&batch)).unwrap();
    assert_eq!(lines.counts().cut.total(), 1);
    let asked = server.asked().last().unwrap().clone();
    assert!(asked.text().lines().all(|line| line.len() <= 500) && asked.text().contains("\"cut\":true"));
}
