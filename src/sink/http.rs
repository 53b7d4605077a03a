//! A sink that sends events to a server by HTTP.

use std::borrow::Cow;
use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ureq::Agent;
use ureq::http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, HOST, HeaderName, HeaderValue, RETRY_AFTER,
    TRANSFER_ENCODING, USER_AGENT,
};
use ureq::http::{HeaderMap, Method, Request, StatusCode, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::canal::batch::Delivery;
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::sink::fields::{Payload, chunk, each_field, plain, too_large};
use crate::sink::record::{Fit, JsonRecord, base64};
use crate::sink::tally::SinkCounts;
use crate::sink::tls;
use crate::sink::url::{self, Address};
use crate::sink::{Refusal, Sink};

const WHAT: &str = "address of an HTTP sink";

/// How long connecting may take, TLS included, unless set otherwise.
const CONNECT: Duration = Duration::from_secs(5);

/// How long one request may take in all, unless set otherwise.
const WHOLE: Duration = Duration::from_secs(30);

/// The longest wait that a server's `Retry-After` is believed.
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

/// How much of an answer is read. Of a longer one the rest is left, and the connection is not used again.
const ANSWER: u64 = 64 << 10;

/// The longest value of a header, in bytes. Servers commonly take 8 KiB for all of them.
const HEADER: usize = 4 << 10;

/// Sends events to a server, a `POST` for each event or for each batch, and waits for its answer.
///
/// | answer | means |
/// | --- | --- |
/// | 2xx, read to its end | done |
/// | 408, 429, 5xx | again, after the time in `Retry-After` (seconds or a date, at most an hour) where there is one |
/// | no connection, no answer in time, half an answer, a certificate that is not trusted | again |
/// | everything else: other 4xx, and 3xx, as redirects are never followed | refused |
///
/// Nothing is kept back: what [`write`](Sink::write) has taken, the server has answered for, so [`flush`](Sink::flush) has
/// nothing left to do. How durable it is then is the server's affair. An answer that is lost on the way means the same request
/// again: each bears an `Idempotency-Key`, by which the server can tell.
///
/// # The request
///
/// As it is made: the payload as it was stored is the body, `Content-Type` says its codec, and headers say the rest:
/// `towpath-position`, `-stream`, `-revision`, `-type`, `-time`, `-id`, `-codec`, and where the event has them
/// `-schema-version`, `-occurred`, `-correlation`, `-causation`, `-tags`, `-headers`. Their values, and the idempotency key,
/// are percent-encoded: everything but visible ASCII, and `%`, `,` and `=`, stands as `%XX`, so no event can add a header of
/// its own. Tags are joined by commas, headers are `name=value` joined by commas, encoded before that. Times are RFC 3339 in
/// UTC. A value of more than 4 KiB is left out, and `towpath-left-out` names it.
///
/// With [`lines`](HttpSink::lines): many events a request, each a line of JSON with everything in it.
///
/// The settings of a proxy that the environment may hold are not used.
pub struct HttpSink {
    name: String,
    uri: Uri,
    own: Vec<(HeaderName, Hook)>,
    lines: Option<usize>,
    most_bytes: usize,
    connect: Duration,
    whole: Duration,
    roots: Option<Vec<Certificate<'static>>>,
    clock: Arc<dyn Clock>,
    /// Made with the first request, when the settings are known.
    agent: Option<Agent>,
    counts: SinkCounts,
}

/// Makes the value of a header.
type Hook = Box<dyn FnMut() -> String + Send>;

/// What came of a request, unless it is done.
#[derive(Debug, PartialEq, Eq)]
enum Failed {
    Again {
        after: Option<Duration>,
        why: Cow<'static, str>,
    },
    /// `of_content`: a smaller request could fare better.
    Refused {
        of_content: bool,
        why: Cow<'static, str>,
    },
}

impl HttpSink {
    /// A sink for this `http` or `https` address. A user and a password in it are sent as basic authorization, and shown
    /// nowhere; nor is its query.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an address that cannot be used; the error shows none of its secrets.
    pub fn to(url: &str) -> Result<Self> {
        let address = Address::parse(WHAT, url, &["http", "https"])?;
        if address.host_and_port(443).is_none() {
            return Err(url::bad(WHAT, url, "its host and port cannot be told apart, or the port is none"));
        }
        let query = address.query.map_or(String::new(), |query| format!("?{query}"));
        let path = if address.path.is_empty() { "/" } else { address.path };
        let uri = Uri::builder()
            .scheme(address.scheme)
            .authority(address.authority)
            .path_and_query(format!("{path}{query}"))
            .build()
            .map_err(|_| url::bad(WHAT, url, "it is not a URL"))?;
        let mut sink = Self {
            name: address.shown(),
            uri,
            own: Vec::new(),
            lines: None,
            most_bytes: usize::MAX,
            connect: CONNECT,
            whole: WHOLE,
            roots: None,
            clock: Arc::new(SystemClock),
            agent: None,
            counts: SinkCounts::default(),
        };
        if address.has_credentials() {
            let Some((user, password)) = address.credentials() else {
                return Err(url::bad(WHAT, url, "a % in its user or password is not followed by two digits"));
            };
            let mut basic = b"Basic ".to_vec();
            base64(format!("{user}:{}", password.unwrap_or_default()).as_bytes(), &mut basic);
            let basic = String::from_utf8_lossy(&basic).into_owned();
            sink.own.push((AUTHORIZATION, Box::new(move || basic.clone())));
        }
        Ok(sink)
    }

    /// What errors and counters call this sink, instead of its address without credentials and query. For addresses whose
    /// path is a secret.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sends up to so many events a request, at least 1 and about a megabyte at most, each as a line of JSON
    /// (`application/x-ndjson`), instead of a payload a request.
    ///
    /// The idempotency key of such a request is made of those of its events, which their lines bear too. When a server
    /// refuses the content of a request (400, 413, 415, 422), it is sent again in smaller ones, until the event alone is
    /// refused that is to blame.
    #[must_use]
    pub fn lines(mut self, most: usize) -> Self {
        self.lines = Some(most.max(1));
        self
    }

    /// Cuts what is larger than so many bytes: the payload, or with [`lines`](HttpSink::lines) the line. A cut payload is sent
    /// as `application/octet-stream` with `towpath-cut: true` and `towpath-payload-bytes`, the size that it had; a cut line
    /// says so itself. Without it, everything is sent whole.
    #[must_use]
    pub fn most_bytes(mut self, most: usize) -> Self {
        self.most_bytes = most;
        self
    }

    /// Sends this header with each request, with the value that the function returns at that time: a token that is renewed,
    /// say. The value is shown nowhere. The same name again replaces it; so does `Authorization` what the address said.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no name of a header, and for one that the sink itself sets.
    pub fn header_with(mut self, name: &str, value: impl FnMut() -> String + Send + 'static) -> Result<Self> {
        let bad = |why| Error::invalid("header of an HTTP sink", name, why);
        let header = HeaderName::try_from(name).map_err(|_| bad("it is not a name of a header"))?;
        let set_here = [CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING].contains(&header);
        if set_here || header == IDEMPOTENCY_KEY || header.as_str().starts_with(OWN) {
            return Err(bad("the sink sets it"));
        }
        self.own.retain(|(known, _)| *known != header);
        self.own.push((header, Box::new(value)));
        Ok(self)
    }

    /// How long connecting may take, with TLS: 5 seconds unless set.
    #[must_use]
    pub fn connect_timeout(mut self, most: Duration) -> Self {
        self.connect = most;
        self
    }

    /// How long a request may take in all, from looking up the name to the last byte of the answer: 30 seconds unless set.
    #[must_use]
    pub fn timeout(mut self, most: Duration) -> Self {
        self.whole = most;
        self
    }

    /// Trusts the certificates in this PEM text, and those that they signed, instead of those that the operating system
    /// trusts. There is no way to trust every certificate.
    ///
    /// # Errors
    /// [`Error::Invalid`] when no certificate is in it, or a damaged one.
    pub fn root_certificates(mut self, pem: &[u8]) -> Result<Self> {
        let read = tls::roots(pem)?;
        self.roots = Some(read.iter().map(|der| Certificate::from_der(der).to_owned()).collect());
        Ok(self)
    }

    /// The clock that a date in `Retry-After` is compared with, where the answer has no date of its own.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    fn agent(&mut self) -> Result<&Agent, String> {
        if self.agent.is_none() {
            self.agent = Some(self.new_agent()?);
        }
        self.agent.as_ref().ok_or_else(String::new)
    }

    fn new_agent(&self) -> Result<Agent, String> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .timeout_connect(Some(self.connect))
            .timeout_global(Some(self.whole));
        let config = match self.uri.scheme_str() {
            Some("https") => config.tls_config(self.tls()?),
            _ => config,
        };
        Ok(config.build().new_agent())
    }

    fn tls(&self) -> Result<TlsConfig, String> {
        let roots = match &self.roots {
            Some(roots) => roots.clone(),
            None => {
                let known = rustls_native_certs::load_native_certs();
                known.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
            }
        };
        if roots.is_empty() {
            return Err("the operating system trusts no certificates; install some, or give root_certificates".into());
        }
        Ok(TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&roots))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build())
    }

    /// Sends some events in one request.
    fn post(&mut self, records: &[Delivery<'_>]) -> Result<(), Failed> {
        let again = |why: String| Failed::Again { after: None, why: why.into() };
        let (request, cut) = self.request(records)?;
        let clock = Arc::clone(&self.clock);
        let agent = self.agent().map_err(again)?;
        let mut answer = agent.run(request).map_err(|error| again(told(&error)))?;
        let status = answer.status();
        // The status alone proves little: a server that ends within its answer may end within its work. What the answer says
        // is not repeated: errors are counted by their text, and it could say one of the request's secrets.
        let read = std::io::copy(&mut answer.body_mut().as_reader().take(ANSWER), &mut std::io::sink());
        if !status.is_success() {
            return Err(judged(status, answer.headers(), clock.now().into()));
        }
        read.map_err(|error| again(format!("the answer {status} was cut short: {error}")))?;
        self.counts.cut.add(&too_large(self.most_bytes), cut);
        Ok(())
    }

    /// The request for some events, and how many of them were cut for it.
    fn request(&mut self, records: &[Delivery<'_>]) -> Result<(Request<Vec<u8>>, u64), Failed> {
        let again = |why: String| Failed::Again { after: None, why: why.into() };
        let (mut headers, body, cut) = match (self.lines, records) {
            (None, [record]) => one(record, self.most_bytes),
            _ => many(records, self.most_bytes)?,
        };
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("towpath/", env!("CARGO_PKG_VERSION"))));
        for (name, hook) in &mut self.own {
            let mut value = HeaderValue::try_from(hook()).map_err(|_| {
                again(format!("the value for the header {name} has characters that a header cannot have"))
            })?;
            value.set_sensitive(true);
            headers.insert(name.clone(), value);
        }
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = headers;
        Ok((request, cut))
    }
}

impl Sink for HttpSink {
    fn name(&self) -> &str {
        &self.name
    }

    fn write(&mut self, records: &[Delivery<'_>]) -> Result<(), Refusal> {
        let mut taken = 0;
        let mut most = self.lines.unwrap_or(1);
        while taken < records.len() {
            let count = chunk(&records[taken..], most);
            match self.post(&records[taken..taken + count]) {
                Ok(()) => taken += count,
                // One of them is to blame; in smaller requests it will be found out which.
                Err(Failed::Refused { of_content: true, .. }) if count > 1 => most = count / 2,
                Err(Failed::Refused { why, .. }) => return Err(Refusal::refused(taken, why)),
                Err(Failed::Again { after: Some(wait), why }) => return Err(Refusal::again(taken, why).after(wait)),
                Err(Failed::Again { after: None, why }) => return Err(Refusal::again(taken, why)),
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Refusal> {
        // Each write waited for the server's answers.
        Ok(())
    }

    fn counts(&self) -> SinkCounts {
        self.counts.clone()
    }
}

impl fmt::Debug for HttpSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSink")
            .field("name", &self.name)
            .field("lines", &self.lines)
            .field("most_bytes", &self.most_bytes)
            .field("connect_timeout", &self.connect)
            .field("timeout", &self.whole)
            .finish_non_exhaustive()
    }
}

/// How the headers begin that say what the event is.
const OWN: &str = "towpath-";

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const LEFT_OUT: HeaderName = HeaderName::from_static("towpath-left-out");

/// Headers and body for one event, and whether it was cut.
fn one(record: &Delivery<'_>, most_bytes: usize) -> (HeaderMap, Vec<u8>, u64) {
    let mut headers = HeaderMap::new();
    let mut left_out = Vec::new();
    let payload = Payload::of(record, most_bytes);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(payload.content_type));
    headers.insert(IDEMPOTENCY_KEY, value(&plain(&record.idempotency_key())));
    each_field(record, &payload, |name, text| {
        // Both lists are encoded already, item by item.
        let text = if matches!(name, "tags" | "headers") { text } else { Cow::Owned(plain(&text).into_owned()) };
        match HeaderName::try_from(format!("{OWN}{name}")) {
            _ if name == "key" => {}
            Ok(header) if text.len() <= HEADER => drop(headers.insert(header, value(&text))),
            _ => left_out.push(name),
        }
    });
    if !left_out.is_empty() {
        headers.insert(LEFT_OUT, value(&left_out.join(",")));
    }
    (headers, payload.bytes.to_vec(), u64::from(payload.is_cut()))
}

/// Headers and body for several events, and how many of them were cut.
fn many(records: &[Delivery<'_>], most_bytes: usize) -> Result<(HeaderMap, Vec<u8>, u64), Failed> {
    let mut headers = HeaderMap::new();
    let (mut body, mut cut, mut hash) = (Vec::new(), 0, Fnv::new());
    let json = JsonRecord::new().most_bytes(most_bytes);
    for record in records {
        hash.add(record.idempotency_key().as_bytes());
        hash.add(b"\n");
        match json.delivery(record, &mut body) {
            Ok(fit) => cut += u64::from(fit == Fit::Cut),
            Err(refusal) => return Err(Failed::Refused { of_content: true, why: refusal.why }),
        }
        body.push(b'\n');
    }
    let first = records.first().map(Delivery::idempotency_key).unwrap_or_default();
    let key = format!("{}+{}-{:016x}", plain(&first), records.len(), hash.0);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(IDEMPOTENCY_KEY, value(&key));
    Ok((headers, body, cut))
}

/// A header's value of visible ASCII.
fn value(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The hash FNV-1a of 64 bits: the same in every version and on every machine, unlike std's.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// What an answer means that is not a success.
fn judged(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Failed {
    let code = status.as_u16();
    let why = format!("the server answered {status}");
    if status.is_server_error() || matches!(code, 408 | 429) {
        return Failed::Again { after: retry_after(headers, now), why: why.into() };
    }
    let why = if status.is_redirection() { format!("{why}; redirects are not followed") } else { why };
    Failed::Refused { of_content: matches!(code, 400 | 413 | 415 | 422), why: why.into() }
}

/// How long the server asks to wait: in seconds, or until a date. A date is compared with the answer's own, so that it does
/// not matter what either clock says.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are a long time too.
        return Some(text.parse().map_or(LONGEST_WAIT, Duration::from_secs).min(LONGEST_WAIT));
    }
    let date = |text: &str| httpdate::parse_http_date(text).ok();
    let until = date(text)?;
    let from = headers.get(DATE).and_then(|text| date(text.to_str().ok()?)).unwrap_or(now);
    Some(until.duration_since(from).unwrap_or_default().min(LONGEST_WAIT))
}

/// What went wrong on the way. Never an address, which may hold secrets.
fn told(error: &ureq::Error) -> String {
    match error {
        ureq::Error::BadUri(_) | ureq::Error::RequireHttpsOnly(_) => "the address cannot be used".to_owned(),
        ureq::Error::Io(error) => format!("the connection failed: {error}"),
        ureq::Error::Timeout(what) => format!("no answer in time ({what})"),
        other => format!("the request failed: {other}"),
    }
}
