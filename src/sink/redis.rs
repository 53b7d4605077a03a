//! A sink that adds events to a Redis stream.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, Instant};

use redis::{
    Client, Cmd, Connection, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue, IntoConnectionInfo,
    RedisConnectionInfo, RedisError, ServerError, TlsCertificates, Value,
};

use crate::canal::batch::Delivery;
use crate::error::Result;
use crate::sink::fields::{Payload, chunk, each_field, too_large};
use crate::sink::tally::SinkCounts;
use crate::sink::tls;
use crate::sink::url::{self, Address, decoded};
use crate::sink::{Refusal, Sink};

const WHAT: &str = "address of a Redis sink";

/// How long connecting may take, with TLS and authentication, unless set otherwise.
const CONNECT: Duration = Duration::from_secs(5);

/// How long the server may take to answer, unless set otherwise.
const WHOLE: Duration = Duration::from_secs(30);

/// Events of one transaction.
const TRANSACTION: usize = 256;

/// The smallest `proto-max-bulk-len` that a server can be given, in bytes.
const SMALLEST_LIMIT: usize = 1 << 20;

/// How long to wait for a server's word on a size.
const PROBE: Duration = Duration::from_secs(1);

/// How much of what the server said an error shows, in characters.
const SHOWN: usize = 120;

/// Adds events to a Redis stream, by `XADD`, and waits for the server's answer. Valkey works too.
///
/// Each entry has the fields `key` (the [idempotency key](Delivery::idempotency_key)), `position`, `stream`, `revision`,
/// `type`, `time` and `codec`, where the event has them `schema-version`, `id`, `occurred`, `correlation`, `causation`, `tags`
/// and `headers`, and at last `content-type` and `payload`, as it was stored. Times are RFC 3339 in UTC. Tags are joined by
/// commas, headers are `name=value` joined by commas, both percent-encoded where they hold `%`, `,`, `=` or anything but
/// visible ASCII.
///
/// Events go up to 256 at a time in a transaction (`MULTI`, `EXEC`): all of them are added, or none. An answer that is lost on
/// the way means that they are added again, with the same `key`; with [`ids_by_position`](RedisSink::ids_by_position) they
/// are not.
///
/// | answer | means |
/// | --- | --- |
/// | no connection, no answer in time, wrong password | again |
/// | `OOM`, `MISCONF`, `LOADING`, `READONLY`, `BUSY`, `NOREPLICAS`, and all that is not listed below | again |
/// | `WRONGTYPE` (the key holds something else), `NOPERM`, larger than the server's `proto-max-bulk-len` | refused |
///
/// # What `flush` means
///
/// That the server has answered for every entry, and is still the same: if the connection was lost since, the server may have
/// been started again without its newest entries, so what was written since the last flush counts as not written. How much
/// of it a crash of the server takes along is a matter of its `appendfsync` and its replicas. With
/// [`wait_for_disk`](RedisSink::wait_for_disk) it means that the entries are on the server's disk.
pub struct RedisSink {
    name: String,
    server: ConnectionInfo,
    tls: bool,
    roots: Option<Vec<u8>>,
    key: String,
    max_len: Option<u64>,
    by_position: bool,
    wait_for_disk: bool,
    most_bytes: usize,
    connect: Duration,
    whole: Duration,
    connection: Option<Connection>,
    /// Records that were taken since the last flush.
    unflushed: usize,
    /// The connection was lost since they were.
    doubtful: bool,
    counts: SinkCounts,
}

/// What came of an exchange with the server, unless it is done.
#[derive(Debug)]
enum Failed {
    Again(Cow<'static, str>),
    /// The same, because the connection ended.
    Lost(Cow<'static, str>),
    /// The record at this place.
    Refused {
        at: usize,
        why: Cow<'static, str>,
    },
}

impl RedisSink {
    /// A sink for `redis://user:password@host:port/DB/KEY`: the number of the database and the key of the stream, which may
    /// hold slashes. Port 6379, user and password may be left out. `rediss` instead of `redis`: with TLS by rustls, for
    /// which the process uses rustls' `ring` provider unless it has chosen another one.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for an address that cannot be used; the error shows none of its secrets.
    pub fn to(url: &str) -> Result<Self> {
        let address = Address::parse(WHAT, url, &["redis", "rediss"])?;
        let bad = |why| url::bad(WHAT, url, why);
        if address.query.is_some() {
            return Err(bad("it has a query (?), of which nothing would be used"));
        }
        let (host, port) = address.host_and_port(6379).ok_or_else(|| bad("its host or port is none"))?;
        let (db, key) = address.path.strip_prefix('/').and_then(|path| path.split_once('/')).unwrap_or_default();
        let db: u32 =
            db.parse().map_err(|_| bad("behind the host stand the database, a number, and the key: /0/events"))?;
        let key = decoded(key).ok_or_else(|| bad("a % in its key is not followed by two digits"))?;
        if key.is_empty() {
            return Err(bad("it has no key behind the database, such as /0/events"));
        }
        let tls = address.scheme == "rediss";
        let to = match tls {
            true => ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure: false, tls_params: None },
            false => ConnectionAddr::Tcp(host.to_owned(), port),
        };
        let mut settings = RedisConnectionInfo::default().set_db(i64::from(db));
        if address.has_credentials() {
            let credentials = address.credentials();
            let (user, password) =
                credentials.ok_or_else(|| bad("a % in its user or password is not followed by two digits"))?;
            let password = password.ok_or_else(|| bad("it has a user without a password; write user:password@"))?;
            settings = settings.set_password(password);
            if !user.is_empty() {
                settings = settings.set_username(user);
            }
        }
        let server =
            to.into_connection_info().map_err(|_| bad("it cannot be connected to"))?.set_redis_settings(settings);
        Ok(Self {
            name: address.shown(),
            server,
            tls,
            roots: None,
            key,
            max_len: None,
            by_position: false,
            wait_for_disk: false,
            most_bytes: usize::MAX,
            connect: CONNECT,
            whole: WHOLE,
            connection: None,
            unflushed: 0,
            doubtful: false,
            counts: SinkCounts::default(),
        })
    }

    /// Keeps about so many entries in the stream (`MAXLEN ~`): Redis removes the oldest ones, whoever has read them. Without
    /// it, it keeps all.
    #[must_use]
    pub fn max_len(mut self, entries: u64) -> Self {
        self.max_len = Some(entries);
        self
    }

    /// Gives each entry the id `position-0` instead of a time, so that an event which is written twice is added once.
    ///
    /// The key then belongs to this sink alone, and its feeder must bring the events in order: what stands in the stream
    /// under the same id is looked at, and an event that would have to be added before the last entry is refused, unless the
    /// stream's first entry comes after it, so that it was removed since.
    #[must_use]
    pub fn ids_by_position(mut self) -> Self {
        self.by_position = true;
        self
    }

    /// Has a flush wait until the server has its append-only file synced (`WAITAOF`): needs Redis 7.2, `appendonly yes` and an
    /// `appendfsync` other than `no`; on other servers every flush fails, and says why.
    #[must_use]
    pub fn wait_for_disk(mut self) -> Self {
        self.wait_for_disk = true;
        self
    }

    /// Cuts payloads that are larger than so many bytes; the entry then has the fields `cut` (`true`) and `payload-bytes`,
    /// the size that it had. Without it, everything is added whole.
    #[must_use]
    pub fn most_bytes(mut self, most: usize) -> Self {
        self.most_bytes = most;
        self
    }

    /// How long connecting may take, with TLS and authentication: 5 seconds unless set. At least a millisecond.
    #[must_use]
    pub fn connect_timeout(mut self, most: Duration) -> Self {
        self.connect = most.max(Duration::from_millis(1));
        self
    }

    /// How long the server may take to answer: 30 seconds unless set. At least a millisecond.
    #[must_use]
    pub fn timeout(mut self, most: Duration) -> Self {
        self.whole = most.max(Duration::from_millis(1));
        self
    }

    /// Trusts the certificates in this PEM text, and those that they signed, instead of those that the operating system
    /// trusts. There is no way to trust every certificate.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) when no certificate is in it, or a damaged one.
    pub fn root_certificates(mut self, pem: &[u8]) -> Result<Self> {
        tls::roots(pem)?;
        self.roots = Some(pem.to_vec());
        Ok(self)
    }

    /// Adds events in one transaction.
    fn add(&mut self, records: &[Delivery<'_>]) -> Result<(), Failed> {
        let mut commands = vec![redis::cmd("MULTI")];
        commands.extend(records.iter().map(|record| self.xadd(record)));
        commands.push(redis::cmd("EXEC"));
        let mut answers = self.exchange(&commands).map_err(|failed| match (failed, records) {
            (Failed::Lost(_), [record]) if self.is_beyond_limit(record) => {
                Failed::Refused { at: 0, why: "larger than the server's proto-max-bulk-len".into() }
            }
            (failed, _) => failed,
        })?;
        // Why the server would not even queue one of them says more than that it then gave up all of them.
        if let Some(Value::ServerError(error)) = answers.iter().find(|answer| matches!(answer, Value::ServerError(_))) {
            return Err(told(error, 0));
        }
        let added = match answers.pop() {
            Some(Value::Array(added)) if added.len() == records.len() => added,
            _ => return Err(Failed::Again("the server's answer to a transaction is not understood".into())),
        };
        for (at, answer) in added.iter().enumerate() {
            match answer {
                Value::ServerError(error) if self.by_position && is_older(error) => self.is_there(at, &records[at])?,
                Value::ServerError(error) => return Err(told(error, at)),
                _ => {}
            }
        }
        let cut = records.iter().filter(|record| Payload::of(record, self.most_bytes).is_cut()).count();
        self.counts.cut.add(&too_large(self.most_bytes), cut as u64);
        Ok(())
    }

    fn xadd(&self, record: &Delivery<'_>) -> Cmd {
        let mut command = redis::cmd("XADD");
        command.arg(&self.key);
        if let Some(entries) = self.max_len {
            command.arg("MAXLEN").arg("~").arg(entries);
        }
        match self.by_position {
            true => command.arg(format!("{}-0", record.position())),
            false => command.arg("*"),
        };
        let payload = Payload::of(record, self.most_bytes);
        each_field(record, &payload, |name, text| {
            command.arg(name).arg(text.as_bytes());
        });
        command.arg("content-type").arg(payload.content_type).arg("payload").arg(payload.bytes);
        command
    }

    /// Whether an event that the server would not add, as its position is not beyond the last, was added before.
    fn is_there(&mut self, at: usize, record: &Delivery<'_>) -> Result<(), Failed> {
        let id = format!("{}-0", record.position());
        let mut same = redis::cmd("XRANGE");
        same.arg(&self.key).arg(&id).arg(&id);
        let mut first = redis::cmd("XRANGE");
        first.arg(&self.key).arg("-").arg("+").arg("COUNT").arg(1);
        let answers = self.exchange(&[same, first])?;
        let mut entries = answers.into_iter().map(Entry::first_of);
        let (same, first) = (entries.next().flatten(), entries.next().flatten());
        let refused = |why: &'static str| Err(Failed::Refused { at, why: why.into() });
        match (same, first) {
            (Some(entry), _) if entry.event() == Some(&record.id().to_string()) => Ok(()),
            (Some(_), _) => refused("another event stands in the stream at its position"),
            (None, Some(first)) if first.is_by_position() && first.position() > Some(record.position().get()) => Ok(()),
            (None, _) => refused("the stream goes on behind its position without it, and its order cannot be kept"),
        }
    }

    /// Whether the server ended the connection because of this record's size. It says so, but what it said is lost with a
    /// connection that it ends before it has read everything. So it is asked again, with the size alone.
    fn is_beyond_limit(&mut self, record: &Delivery<'_>) -> bool {
        let size = Payload::of(record, self.most_bytes).bytes.len();
        if size < SMALLEST_LIMIT {
            return false;
        }
        let patience = self.whole.min(PROBE);
        let answer = self.connected().and_then(|connection| {
            connection.send_packed_command(format!("*2\r\n$4\r\nECHO\r\n${size}\r\n").as_bytes())?;
            connection.set_read_timeout(Some(patience))?;
            connection.recv_response()
        });
        // It may still wait for so many bytes.
        self.connection = None;
        matches!(answer, Ok(Value::ServerError(error)) if is_protocol_error(&error))
    }

    /// Sends commands and waits for all answers. A server that says that a command is an error has answered.
    fn exchange(&mut self, commands: &[Cmd]) -> Result<Vec<Value>, Failed> {
        let deadline = Instant::now() + self.whole;
        let answers = self.connected().and_then(|connection| {
            let mut bytes = Vec::new();
            for command in commands {
                bytes.extend_from_slice(&command.get_packed_command());
            }
            connection.send_packed_command(&bytes)?;
            let mut answers = Vec::with_capacity(commands.len());
            for _ in commands {
                let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
                connection.set_read_timeout(Some(left))?;
                let answer = connection.recv_response()?;
                if matches!(&answer, Value::ServerError(error) if is_protocol_error(error)) {
                    // The server ends the connection with this. What it said before is why: that it wants a password, say.
                    if answers.iter().any(|answer| matches!(answer, Value::ServerError(_))) {
                        break;
                    }
                    return Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into());
                }
                answers.push(answer);
            }
            Ok(answers)
        });
        if answers.as_ref().map_or(true, |answers| answers.len() < commands.len()) {
            // Answers may still be on their way, and must not be taken for those to later commands.
            self.connection = None;
            self.doubtful |= self.unflushed > 0;
        }
        answers.map_err(|error| match error.is_io_error() && !error.is_timeout() {
            true => Failed::Lost(self.shown(&error).into()),
            false => Failed::Again(self.shown(&error).into()),
        })
    }

    fn connected(&mut self) -> Result<&mut Connection, RedisError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let connection = self.client()?.get_connection_with_timeout(self.connect)?;
                connection.set_write_timeout(Some(self.whole))?;
                connection
            }
        };
        Ok(self.connection.insert(connection))
    }

    fn client(&self) -> Result<Client, RedisError> {
        if !self.tls {
            return Client::open(self.server.clone());
        }
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Without one, rustls panics in a program that has two of them built in.
            let _another_was_faster = rustls::crypto::ring::default_provider().install_default();
        }
        Client::build_with_tls(self.server.clone(), TlsCertificates { client_tls: None, root_cert: self.roots.clone() })
    }

    /// What went wrong on the way, without the password, which a server could repeat that does not know `AUTH`.
    fn shown(&self, error: &RedisError) -> String {
        let text = match error.kind() {
            ErrorKind::Io if error.is_timeout() => "the server did not answer in time".to_owned(),
            ErrorKind::Io => format!("the connection failed: {error}"),
            _ => error.to_string(),
        };
        let secret = self.server.redis_settings().password();
        match secret {
            Some(secret) if text.contains(secret) => "the server refused the connection".to_owned(),
            _ => text.chars().take(SHOWN).collect(),
        }
    }
}

impl Sink for RedisSink {
    fn name(&self) -> &str {
        &self.name
    }

    fn write(&mut self, records: &[Delivery<'_>]) -> Result<(), Refusal> {
        let mut taken = 0;
        while taken < records.len() {
            let count = chunk(&records[taken..], TRANSACTION);
            match self.add(&records[taken..taken + count]) {
                Ok(()) => {
                    taken += count;
                    self.unflushed += count;
                }
                Err(Failed::Refused { at, why }) => {
                    self.unflushed += at;
                    return Err(Refusal::refused(taken + at, why));
                }
                Err(Failed::Again(why) | Failed::Lost(why)) => return Err(Refusal::again(taken, why)),
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Refusal> {
        if self.unflushed == 0 {
            return Ok(());
        }
        let question = match self.wait_for_disk {
            // Half of the time, so that the answer to an unsuccessful wait comes in time.
            true => {
                let mut command = redis::cmd("WAITAOF");
                command.arg(1).arg(0).arg(self.whole.as_millis() as u64 / 2 + 1);
                command
            }
            false => redis::cmd("PING"),
        };
        let answered = match self.doubtful {
            true => Err(Failed::Again("the connection was lost before a flush".into())),
            false => self.exchange(&[question]),
        };
        self.unflushed = 0;
        self.doubtful = false;
        let again = |why| Err(Refusal::again(0, why));
        match answered {
            Ok(answers) => match answers.into_iter().next() {
                Some(Value::ServerError(error)) => again(said(&error)),
                Some(Value::Array(synced)) if self.wait_for_disk && synced.first() != Some(&Value::Int(1)) => {
                    again("the server's disk was not synced in time".into())
                }
                _ => Ok(()),
            },
            Err(Failed::Again(why) | Failed::Lost(why) | Failed::Refused { why, .. }) => again(why),
        }
    }

    fn counts(&self) -> SinkCounts {
        self.counts.clone()
    }
}

impl fmt::Debug for RedisSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSink")
            .field("name", &self.name)
            .field("max_len", &self.max_len)
            .field("by_position", &self.by_position)
            .field("wait_for_disk", &self.wait_for_disk)
            .field("unflushed", &self.unflushed)
            .finish_non_exhaustive()
    }
}

/// An entry of a stream, as `XRANGE` tells it.
struct Entry {
    id: String,
    fields: Vec<(String, Vec<u8>)>,
}

impl Entry {
    fn first_of(answer: Value) -> Option<Self> {
        type Entries = Vec<(String, Vec<(String, Vec<u8>)>)>;
        let entries = Entries::from_redis_value(answer).ok()?;
        entries.into_iter().next().map(|(id, fields)| Self { id, fields })
    }

    fn field(&self, name: &str) -> Option<&str> {
        let (_, value) = self.fields.iter().find(|(known, _)| known == name)?;
        std::str::from_utf8(value).ok()
    }

    /// The id of its event: what its key begins with, before the name of the consumer.
    fn event(&self) -> Option<&str> {
        self.field("key")?.split('/').next()
    }

    fn position(&self) -> Option<u64> {
        self.field("position")?.parse().ok()
    }

    /// Whether its id is its position.
    fn is_by_position(&self) -> bool {
        self.position().is_some_and(|position| self.id == format!("{position}-0"))
    }
}

/// What the server's error means for the record at this place.
fn told(error: &ServerError, at: usize) -> Failed {
    let why = said(error);
    match error.code() {
        "WRONGTYPE" | "NOPERM" => Failed::Refused { at, why },
        _ => Failed::Again(why),
    }
}

fn said(error: &ServerError) -> Cow<'static, str> {
    let text = format!("the server answered {} {}", error.code(), error.details().unwrap_or_default());
    text.trim_end().chars().take(SHOWN).collect::<String>().into()
}

fn is_protocol_error(error: &ServerError) -> bool {
    error.details().is_some_and(|details| details.starts_with("Protocol error"))
}

/// The answer to an id that is not beyond the last one of the stream.
fn is_older(error: &ServerError) -> bool {
    error.details().is_some_and(|details| details.contains("equal or smaller"))
}
