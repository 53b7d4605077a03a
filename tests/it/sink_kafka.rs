//! The Kafka sink, against librdkafka's own mock cluster, and where there is one against a broker that speaks the real
//! protocol (S3, S7, S9). `TOWPATH_TEST_KAFKA` holds the host and port of that one.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};
use towpath::{Codec, Error, KafkaSink, NewEvent, Refusal, RefusalKind, Sink};

use crate::support::records::{delivered, records, texts};
use crate::support::servers::{free_port, missing, mute_listener};

/// Long enough for a broker on loopback, also on a busy machine, and short enough to be waited for.
const ENOUGH: Duration = Duration::from_secs(4);

/// For what never works.
const SHORT: Duration = Duration::from_millis(500);

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster() -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("events", 1, 1).unwrap();
    cluster
}

fn sink(cluster: &Cluster) -> KafkaSink {
    KafkaSink::to(&format!("kafka://{}/events", cluster.bootstrap_servers())).unwrap()
}

/// A record as a consumer of the topic sees it.
#[derive(Debug)]
struct Seen {
    key: String,
    payload: String,
    headers: Vec<(String, String)>,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Everything in the only partition of a topic.
fn seen(brokers: &str, topic: &str) -> Vec<Seen> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "test")
        .set("enable.partition.eof", "true")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&from).unwrap();
    let mut seen = Vec::new();
    loop {
        match consumer.poll(Duration::from_secs(20)) {
            Some(Ok(message)) => {
                let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap();
                let headers = message.headers().unwrap();
                let headers = headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect();
                seen.push(Seen { key: text(message.key()), payload: text(message.payload()), headers });
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return seen,
            Some(Err(error)) => panic!("{error}"),
            None => panic!("neither a record nor the end of the partition came; seen so far: {seen:?}"),
        }
    }
}

fn payloads(cluster: &Cluster) -> Vec<String> {
    seen(&cluster.bootstrap_servers(), "events").into_iter().map(|seen| seen.payload).collect()
}

#[track_caller]
fn is_again(refusal: &Refusal, taken: usize, why: &str) {
    assert!(matches!(refusal.kind, RefusalKind::Again { .. }) && refusal.taken == taken, "{refusal}");
    assert!(refusal.why.contains(why), "{refusal}");
}

#[track_caller]
fn is_refused(refusal: &Refusal, taken: usize, why: &str) {
    assert!(refusal.is_final() && refusal.taken == taken, "{refusal}");
    assert!(refusal.why.contains(why), "{refusal}");
}

#[test]
fn each_event_is_a_record_with_its_stream_as_the_key_and_the_rest_in_headers() {
    let cluster = cluster();
    says_everything(&cluster.bootstrap_servers(), "events");
}

/// The same against a broker of another make.
#[test]
fn a_broker_of_the_real_protocol_takes_the_records() {
    let Ok(broker) = std::env::var("TOWPATH_TEST_KAFKA") else { return missing("a Kafka broker (TOWPATH_TEST_KAFKA)") };
    let topic = format!("towpath-{}", std::process::id());
    says_everything(&broker, &topic);
}

fn says_everything(brokers: &str, topic: &str) {
    let batch = delivered([
        NewEvent::encoded("opened", Codec::Json, br#"{"by":"web"}"#.as_slice())
            .tag("a,b")
            .header("trace", "x=1\r\n")
            .correlation("journey"),
        NewEvent::new("größe", "second"),
        NewEvent::new("noted", "third"),
    ]);
    let mut sink = KafkaSink::to(&format!("kafka://{brokers}/{topic}")).unwrap();
    // A broker that makes topics when they are asked for may not have made this one yet.
    let written = (0..20).find_map(|_| sink.write(&records(&batch)[..1]).ok());
    written.expect("the topic was never there");
    sink.write(&records(&batch)[1..]).unwrap();
    sink.flush().unwrap();

    let seen = seen(brokers, topic);
    let payloads: Vec<_> = seen.iter().map(|seen| seen.payload.as_str()).collect();
    assert_eq!(payloads, [r#"{"by":"web"}"#, "second", "third"]);
    let key = batch.get(0).unwrap().idempotency_key();
    for (name, value) in [
        ("content-type", "application/json"),
        ("towpath-key", key.as_str()),
        ("towpath-position", "1"),
        ("towpath-stream", "orders"),
        ("towpath-revision", "1"),
        ("towpath-type", "opened"),
        ("towpath-codec", "json"),
        ("towpath-correlation", "journey"),
        ("towpath-tags", "a%2Cb"),
        ("towpath-headers", "trace=x%3D1%0D%0A"),
    ] {
        assert_eq!(seen[0].header(name), Some(value), "{name}");
    }
    assert_eq!(
        (seen[1].header("towpath-type"), seen[1].header("content-type")),
        (Some("größe"), Some("application/octet-stream"))
    );
    assert_eq!((seen[1].header("towpath-tags"), seen[1].header("towpath-cut")), (None, None));
    assert!(seen.iter().all(|seen| seen.key == "orders"));
}

#[test]
fn many_events_of_a_stream_stay_in_order() {
    let cluster = cluster();
    let texts: Vec<String> = (0..2000).map(|number| format!("event {number}")).collect();
    let batch = delivered(texts.iter().map(|text| NewEvent::new("noted", text)));
    // A queue that is shorter than what is written.
    let mut sink = sink(&cluster).property("queue.buffering.max.messages", "100").unwrap();
    sink.write(&records(&batch)).unwrap();
    sink.flush().unwrap();
    assert_eq!(payloads(&cluster), texts);
}

#[test]
fn a_broker_that_is_down_is_told_and_taken_up_again_when_it_is_back() {
    let cluster = cluster();
    let batch = texts(["a", "b", "c"]);
    let mut sink = sink(&cluster).timeout(ENOUGH);
    sink.write(&records(&batch)[..1]).unwrap();
    cluster.broker_down(-1).unwrap();
    is_again(&sink.write(&records(&batch)[1..]).unwrap_err(), 0, "timed out");
    cluster.broker_up(-1).unwrap();
    // Until the connection stands again.
    let written = (0..20).find_map(|_| sink.write(&records(&batch)[1..]).ok());
    written.expect("never taken up again");
    assert_eq!(payloads(&cluster), ["a", "b", "c"]);

    let (_listener, mute) = mute_listener();
    for port in [mute, free_port()] {
        let mut sink = KafkaSink::to(&format!("kafka://127.0.0.1:{port}/events")).unwrap().timeout(SHORT);
        is_again(&sink.write(&records(&batch)).unwrap_err(), 0, "timed out");
    }
}

/// A write waits for the cluster, so that it and a flush never say more than the cluster did (S3).
#[test]
fn a_slow_broker_is_waited_for_within_the_time_that_there_is() {
    let cluster = cluster();
    let batch = texts(["a", "b"]);
    let mut patient = sink(&cluster);
    patient.write(&records(&batch)[..1]).unwrap();
    let mut hasty = sink(&cluster).timeout(ENOUGH);
    hasty.write(&records(&batch)[..1]).unwrap();

    cluster.broker_round_trip_time(-1, ENOUGH * 3 / 2).unwrap();
    is_again(&hasty.write(&records(&batch)[1..]).unwrap_err(), 0, "timed out");
    // The control: the same, and more time.
    patient.write(&records(&batch)[1..]).unwrap();
    patient.flush().unwrap();
    cluster.broker_round_trip_time(-1, Duration::ZERO).unwrap();
    assert_eq!(payloads(&cluster).iter().filter(|payload| *payload == "a").count(), 2);
}

#[test]
fn what_the_cluster_will_take_later_comes_again() {
    use RDKafkaRespErr::{RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED, RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS};

    let cluster = cluster();
    let batch = texts(["a"]);
    let mut sink = sink(&cluster);
    // librdkafka tries again by itself, as the mock does not fail the next time.
    cluster.request_errors(RDKafkaApiKey::Produce, &[RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS]);
    sink.write(&records(&batch)).unwrap();
    cluster.request_errors(RDKafkaApiKey::Produce, &[RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED]);
    let refusal = sink.write(&records(&batch)).unwrap_err();
    is_again(&refusal, 0, "authorization");
    sink.write(&records(&batch)).unwrap();
    assert_eq!(payloads(&cluster), ["a", "a"]);
}

#[test]
fn a_record_that_the_broker_refuses_is_found_among_those_sent_with_it() {
    use RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD;

    let cluster = cluster();
    let batch = texts(["a", "b", "c", "d"]);
    // Time for all four to be sent together.
    let mut sink = sink(&cluster).property("linger.ms", "200").unwrap();
    // All together, then `a`; `b` is taken, `c` is not.
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[
            RD_KAFKA_RESP_ERR_INVALID_RECORD,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR,
            RD_KAFKA_RESP_ERR_INVALID_RECORD,
        ],
    );
    is_refused(&sink.write(&records(&batch)).unwrap_err(), 2, "record");
    assert_eq!(payloads(&cluster), ["a", "b"]);
    // The control: nothing is wrong with what stands behind it.
    sink.write(&records(&batch)[3..]).unwrap();
    assert_eq!(payloads(&cluster), ["a", "b", "d"]);
}

#[test]
fn what_is_too_large_is_refused_or_cut_marked_and_counted() {
    let cluster = cluster();
    let large = "x".repeat(5000);
    let batch = texts(["a", &large, "b"]);
    let mut whole = sink(&cluster).property("message.max.bytes", "2000").unwrap();
    is_refused(&whole.write(&records(&batch)).unwrap_err(), 1, "large");
    whole.write(&records(&batch)[2..]).unwrap();
    assert_eq!(payloads(&cluster), ["a", "b"]);

    let mut cutting = sink(&cluster).property("message.max.bytes", "2000").unwrap().most_bytes(1000);
    cutting.write(&records(&batch)[1..]).unwrap();
    assert_eq!(cutting.counts().cut.get("larger than 1000 bytes"), 1);
    let seen = seen(&cluster.bootstrap_servers(), "events");
    assert_eq!((seen[2].header("towpath-cut"), seen[2].header("towpath-payload-bytes")), (Some("true"), Some("5000")));
    assert_eq!((seen[2].payload.len(), seen[3].header("towpath-cut")), (1000, None));
}

#[test]
fn a_topic_that_is_not_there_is_told() {
    use RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;

    let cluster = cluster();
    cluster.topic_error("elsewhere", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let url = format!("kafka://{}/elsewhere", cluster.bootstrap_servers());
    let mut sink = KafkaSink::to(&url).unwrap().timeout(ENOUGH);
    is_refused(&sink.write(&records(&texts(["a"]))).unwrap_err(), 0, "nknown topic");
}

#[test]
fn properties_are_checked_and_never_shown() {
    let to = || KafkaSink::to("kafka://localhost/events").unwrap();
    for (name, value) in [
        ("nonsense", "SECRET"),
        ("linger.ms", "SECRET"),
        ("acks", "0"),
        ("enable.idempotence", "false"),
        ("request.required.acks", "1"),
        ("bootstrap.servers", "SECRET"),
        ("debug", "all"),
    ] {
        let error = to().property(name, value).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(error.to_string().contains(name) && !format!("{error} {error:?}").contains("SECRET"), "{error:?}");
    }
    // What librdkafka finds only when it puts all of them together.
    let mut sink = to().property("sasl.mechanism", "SECRET").unwrap();
    sink = sink.property("security.protocol", "sasl_plaintext").unwrap().property("sasl.password", "SECRET").unwrap();
    let refusal = sink.write(&records(&texts(["a"]))).unwrap_err();
    is_again(&refusal, 0, "librdkafka");
    assert!(!format!("{refusal:?} {sink:?}").contains("SECRET"), "{refusal}");
}

#[test]
fn an_address_that_cannot_be_used_is_refused_without_its_secrets() {
    for url in [
        "",
        "kafka://host",
        "kafka://host/",
        "kafka://host/a/b",
        "kafka://host/a%20b",
        "kafka://host/..",
        "kafka://host:x/events",
        "kafka://host,,host/events",
        "kafka://me:SECRET@host/events",
        "kafka://host/events?sasl.password=SECRET",
        "http://host/events",
    ] {
        let error = KafkaSink::to(url).expect_err(url);
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("SECRET"), "{error}");
    }
    assert_eq!(KafkaSink::to("kafka://a,b:1,[::1]:2/events").unwrap().name(), "kafka://a,b:1,[::1]:2/events");
}
