//! A sink that produces events to a Kafka topic.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use crate::canal::batch::Delivery;
use crate::error::{Error, Result};
use crate::sink::fields::{Payload, each_field, too_large};
use crate::sink::tally::SinkCounts;
use crate::sink::url::{self, Address, host_and_port};
use crate::sink::{Refusal, Sink};

const WHAT: &str = "address of a Kafka sink";

/// How long a record may take to be acknowledged, unless set otherwise.
const WHOLE: Duration = Duration::from_secs(30);

/// The shortest time that may be set. librdkafka needs some of it for itself.
const SHORTEST: Duration = Duration::from_millis(10);

/// How long after its time a record may still be without a report. It means that librdkafka has failed.
const SLACK: Duration = Duration::from_secs(10);

/// How often librdkafka is looked after while reports are awaited.
const POLL: Duration = Duration::from_millis(1);

/// The longest name that Kafka gives a topic.
const TOPIC: usize = 249;

/// Produces events to a Kafka topic, and waits until every in-sync replica has them (`acks=all`, by an idempotent producer).
///
/// The key of a record is the event's stream, so that the events of a stream stay in one partition, in order; it is found as
/// the clients for Java do it (`murmur2_random`). The value is the payload, as it was stored. Headers say the rest:
/// `content-type`, `towpath-key` (the [idempotency key](Delivery::idempotency_key)), `towpath-position`, `-stream`,
/// `-revision`, `-type`, `-time`, `-codec`, and where the event has them `-schema-version`, `-id`, `-occurred`,
/// `-correlation`, `-causation`, `-tags`, `-headers`. Tags are joined by commas, headers are `name=value` joined by commas,
/// both percent-encoded where they hold `%`, `,`, `=` or anything but visible ASCII. The timestamp of a record is the time
/// of sending, as a topic's retention counts from it.
///
/// | the cluster says | means |
/// | --- | --- |
/// | nothing in time, too few replicas, no leader, wrong password, and all that is not listed below | again |
/// | too large, invalid record, refused by a policy, no such topic, not allowed to write to it | refused |
///
/// Nothing is kept back: [`write`](Sink::write) waits for the report of each record, so [`flush`](Sink::flush) has nothing
/// left to do. When a record fails, those behind it may have been taken all the same; they come again, with the same
/// `towpath-key`.
///
/// Connections are not encrypted: librdkafka is built without TLS. Its log is not shown anywhere, as settings may be in it.
pub struct KafkaSink {
    name: String,
    topic: String,
    settings: ClientConfig,
    /// What the caller has set, and may be secret.
    own: Vec<String>,
    most_bytes: usize,
    whole: Duration,
    /// Made with the first record, when the settings are known.
    producer: Option<BaseProducer<Reports>>,
    counts: SinkCounts,
}

/// What librdkafka reports.
#[derive(Default)]
struct Reports {
    /// By the place of the record among those that are written.
    records: Mutex<Vec<(usize, Option<RDKafkaErrorCode>)>>,
    /// What was last found wrong with the cluster as a whole.
    trouble: Mutex<Option<RDKafkaErrorCode>>,
}

impl ClientContext for Reports {
    fn log(&self, _level: RDKafkaLogLevel, _facility: &str, _message: &str) {}

    fn error(&self, error: KafkaError, _reason: &str) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = error.rdkafka_error_code();
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, at: usize) {
        let failed = result.as_ref().err().map(|(error, _)| code(error));
        self.records.lock().unwrap_or_else(PoisonError::into_inner).push((at, failed));
    }
}

impl Reports {
    fn take(&self) -> Vec<(usize, Option<RDKafkaErrorCode>)> {
        std::mem::take(&mut self.records.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn trouble(&self) -> Option<RDKafkaErrorCode> {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KafkaSink {
    /// A sink for `kafka://host:port/TOPIC`; several brokers to begin with are separated by commas. Port 9092 may be left out.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an address that cannot be used; the error shows none of its secrets. User and password do not
    /// belong into it: see [`property`](KafkaSink::property).
    pub fn to(url: &str) -> Result<Self> {
        let address = Address::parse(WHAT, url, &["kafka"])?;
        let bad = |why| url::bad(WHAT, url, why);
        if address.has_credentials() {
            return Err(bad("user and password are set as the properties sasl.username and sasl.password"));
        }
        if address.query.is_some() {
            return Err(bad("it has a query (?); librdkafka's settings are set as properties"));
        }
        let mut brokers = Vec::new();
        for broker in address.authority.split(',') {
            let (host, port) = host_and_port(broker, 9092).ok_or_else(|| bad("a host or port in it is none"))?;
            brokers.push(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") });
        }
        let topic = address.path.trim_start_matches('/');
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if topic.is_empty() || topic.len() > TOPIC || !topic.bytes().all(fits) || [".", ".."].contains(&topic) {
            return Err(bad(
                "behind the host stands a topic: up to 249 letters, digits, dots, hyphens and underscores",
            ));
        }
        let mut settings = ClientConfig::new();
        settings
            .set("client.id", "towpath")
            .set("linger.ms", "1")
            .set("reconnect.backoff.max.ms", "1000")
            .set("partitioner", "murmur2_random")
            .set("bootstrap.servers", brokers.join(","));
        Ok(Self {
            name: address.shown(),
            topic: topic.to_owned(),
            settings,
            own: Vec::new(),
            most_bytes: usize::MAX,
            whole: WHOLE,
            producer: None,
            counts: SinkCounts::default(),
        })
    }

    /// Sets a configuration property of librdkafka: `sasl.username`, `sasl.password`, `compression.type`,
    /// `message.max.bytes` (1,000,000 unless set). The value is shown nowhere.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a property that this librdkafka does not have, or does not take with this value, and for
    /// those that the sink's promises rest on: brokers, acknowledgements, idempotence, and how long a record may take.
    pub fn property(mut self, name: &str, value: &str) -> Result<Self> {
        let bad = |why| Err(Error::invalid("property of a Kafka sink", name, why));
        if OWN.contains(&name) {
            return bad("the sink sets it");
        }
        if ClientConfig::new().set(name, value).create_native_config().is_err() {
            return bad("librdkafka, as it is built here, does not have it or does not take this value");
        }
        self.settings.set(name, value);
        self.own.push(value.to_owned());
        Ok(self)
    }

    /// Cuts payloads that are larger than so many bytes; the record then has the headers `towpath-cut` (`true`) and
    /// `towpath-payload-bytes`, the size that it had. Without it, what is larger than `message.max.bytes`, or than the topic
    /// takes, is refused.
    #[must_use]
    pub fn most_bytes(mut self, most: usize) -> Self {
        self.most_bytes = most;
        self
    }

    /// How long a record may take until it is acknowledged, with finding and connecting to its broker and every attempt to
    /// send it: 30 seconds unless set, at least 10 milliseconds.
    #[must_use]
    pub fn timeout(mut self, most: Duration) -> Self {
        self.whole = most.max(SHORTEST);
        self
    }

    fn producer(&mut self) -> Result<&BaseProducer<Reports>, Cow<'static, str>> {
        if self.producer.is_none() {
            let millis = |time: Duration| time.as_millis().min(i32::MAX as u128).to_string();
            let mut settings = self.settings.clone();
            settings
                .set("acks", "all")
                .set("enable.idempotence", "true")
                .set("message.timeout.ms", millis(self.whole))
                // Tells that there is no such topic before the time is up, when it would only be known that it is up.
                .set("topic.metadata.propagation.max.ms", millis(self.whole / 2));
            let made = settings.create_with_context(Reports::default()).map_err(|error| self.unmade(&error))?;
            self.producer = Some(made);
        }
        self.producer.as_ref().ok_or(Cow::Borrowed("there is no producer"))
    }

    /// Why there is no producer, without what the caller has set.
    fn unmade(&self, error: &KafkaError) -> Cow<'static, str> {
        match error {
            KafkaError::ClientCreation(why) if !self.own.iter().any(|own| why.contains(own.as_str())) => {
                format!("librdkafka cannot be set up: {why}").into()
            }
            KafkaError::ClientConfig(_, _, name, _) => format!("librdkafka does not take the property {name}").into(),
            _ => "librdkafka cannot be set up".into(),
        }
    }

    /// Produces these records, by their places, and waits for their reports.
    fn produce(&mut self, records: &[Delivery<'_>], places: &[usize]) -> Result<Produced, Cow<'static, str>> {
        let (most_bytes, topic) = (self.most_bytes, self.topic.clone());
        let deadline = Instant::now() + self.whole + SLACK;
        let producer = self.producer()?;
        let mut failed = Vec::new();
        let mut sent = 0;
        for &at in places {
            if let Err(why) = send(producer, &topic, &records[at], at, most_bytes, deadline) {
                failed.push((at, why));
                break;
            }
            sent += 1;
        }
        let mut reported = 0;
        while reported < sent {
            producer.poll(POLL);
            for (at, why) in producer.context().take() {
                reported += 1;
                if let Some(code) = why {
                    failed.push((at, Failure { code, trouble: producer.context().trouble() }));
                }
            }
            if reported < sent && Instant::now() > deadline {
                self.producer = None;
                return Err("librdkafka did not report in time what became of the records".into());
            }
        }
        if producer.client().fatal_error().is_some() {
            // It would fail for ever; what failed comes again with another one.
            self.producer = None;
        }
        let unsent = places.len() - sent - usize::from(places.len() > sent);
        failed.sort_by_key(|(at, _)| *at);
        Ok(Produced { failed, unsent })
    }
}

impl Sink for KafkaSink {
    fn name(&self) -> &str {
        &self.name
    }

    fn write(&mut self, records: &[Delivery<'_>]) -> Result<(), Refusal> {
        let places: Vec<usize> = (0..records.len()).collect();
        let Produced { mut failed, unsent } = self.produce(records, &places).map_err(|why| Refusal::again(0, why))?;
        // A broker refuses what it was sent together, whichever record is to blame. Sent alone, the first that fails is.
        if failed.len() > 1 && failed[0].1.is_of_content() {
            let missing = failed.iter().map(|(at, _)| *at).chain(records.len() - unsent..records.len());
            let missing: Vec<usize> = missing.collect();
            failed.clear();
            for at in missing {
                failed = self.produce(records, &[at]).map_err(|why| Refusal::again(at, why))?.failed;
                if !failed.is_empty() {
                    break;
                }
            }
        }
        let taken = failed.first().map_or(records.len(), |(at, _)| *at);
        let cut = records[..taken].iter().filter(|record| Payload::of(record, self.most_bytes).is_cut()).count();
        self.counts.cut.add(&too_large(self.most_bytes), cut as u64);
        match failed.first() {
            None => Ok(()),
            Some((_, why)) if why.is_final() => Err(Refusal::refused(taken, why.to_string())),
            Some((_, why)) => Err(Refusal::again(taken, why.to_string())),
        }
    }

    fn flush(&mut self) -> Result<(), Refusal> {
        // Each write waited for the reports of its records.
        Ok(())
    }

    fn counts(&self) -> SinkCounts {
        self.counts.clone()
    }
}

impl fmt::Debug for KafkaSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSink")
            .field("name", &self.name)
            .field("most_bytes", &self.most_bytes)
            .field("timeout", &self.whole)
            .finish_non_exhaustive()
    }
}

/// The properties that the sink's promises rest on, by all their names.
const OWN: [&str; 14] = [
    "acks",
    "bootstrap.servers",
    "debug",
    "delivery.report.only.error",
    "delivery.timeout.ms",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "log_level",
    "message.timeout.ms",
    "metadata.broker.list",
    "queuing.strategy",
    "request.required.acks",
    "topic.metadata.propagation.max.ms",
    "transactional.id",
];

/// What came of some records.
struct Produced {
    /// The places of those that failed, in order.
    failed: Vec<(usize, Failure)>,
    /// How many of the last ones were not even sent, because librdkafka itself did not take the one before them.
    unsent: usize,
}

/// Hands one record to librdkafka. While its queue is full, waits.
fn send(
    producer: &BaseProducer<Reports>,
    topic: &str,
    record: &Delivery<'_>,
    at: usize,
    most_bytes: usize,
    deadline: Instant,
) -> Result<(), Failure> {
    let payload = Payload::of(record, most_bytes);
    let mut headers = OwnedHeaders::new().insert(Header { key: "content-type", value: Some(payload.content_type) });
    each_field(record, &payload, |name, text| {
        let taken = std::mem::take(&mut headers);
        headers = taken.insert(Header { key: &format!("towpath-{name}"), value: Some(text.as_bytes()) });
    });
    let mut message =
        BaseRecord::with_opaque_to(topic, at).key(record.stream()).payload(payload.bytes).headers(headers);
    loop {
        let (error, unsent) = match producer.send(message) {
            Ok(()) => return Ok(()),
            Err(failed) => failed,
        };
        if code(&error) != RDKafkaErrorCode::QueueFull || Instant::now() > deadline {
            return Err(Failure { code: code(&error), trouble: None });
        }
        producer.poll(POLL);
        message = unsent;
    }
}

fn code(error: &KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)
}

/// Why a record failed.
#[derive(Clone, Copy, Debug)]
struct Failure {
    code: RDKafkaErrorCode,
    /// What was wrong with the cluster as a whole.
    trouble: Option<RDKafkaErrorCode>,
}

impl Failure {
    /// The record itself is to blame, or one that was sent together with it.
    fn is_of_content(&self) -> bool {
        use RDKafkaErrorCode::{
            InvalidMessage, InvalidMessageSize, InvalidRecord, InvalidTimestamp, MessageBatchTooLarge,
            MessageSizeTooLarge, PolicyViolation,
        };
        matches!(
            self.code,
            InvalidMessage
                | InvalidMessageSize
                | InvalidRecord
                | InvalidTimestamp
                | MessageBatchTooLarge
                | MessageSizeTooLarge
                | PolicyViolation
        )
    }

    fn is_final(&self) -> bool {
        use RDKafkaErrorCode::{
            InvalidTopic, TopicAuthorizationFailed, UnknownPartition, UnknownTopic, UnknownTopicOrPartition,
        };
        self.is_of_content()
            || matches!(
                self.code,
                InvalidTopic | TopicAuthorizationFailed | UnknownPartition | UnknownTopic | UnknownTopicOrPartition
            )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kafka: {}", self.code)?;
        match self.trouble {
            Some(trouble) if self.code == RDKafkaErrorCode::MessageTimedOut => write!(f, "; {trouble}"),
            _ => Ok(()),
        }
    }
}
