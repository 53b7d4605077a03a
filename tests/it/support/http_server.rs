//! A small server of HTTP on loopback, that answers as it was told and keeps what it was asked.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What the server does with a request, once it has read it.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Answers with this status, these lines of headers, and a short body.
    Status(u16, &'static str),
    /// Begins an answer of status 200 and ends the connection within it.
    Half,
    /// The same, and leaves the connection open.
    HalfAndSilence,
    /// Ends the connection without an answer.
    Nothing,
    /// Never answers, and leaves the connection open.
    Silence,
    /// Answers with something that is not HTTP.
    Nonsense,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The lines before the body, as they are, with the request line.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    /// The value of a header, whatever its case. There may be only one.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.head.lines().filter_map(|line| {
            let (known, value) = line.split_once(": ")?;
            known.eq_ignore_ascii_case(name).then_some(value)
        });
        let value = values.next();
        assert_eq!(values.next(), None, "twice: {name}");
        value
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Its threads end with the process, or with the connections that they serve.
#[derive(Debug)]
pub(crate) struct HttpServer {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// When none is left, everything is answered with 200.
    answers: Mutex<VecDeque<Answer>>,
    asked: Mutex<Vec<Asked>>,
}

impl HttpServer {
    pub(crate) fn answering(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self::start(answers, None)
    }

    /// One that speaks TLS with a certificate of its own making for `localhost`, which it returns as PEM.
    pub(crate) fn with_tls(answers: impl IntoIterator<Item = Answer>) -> (Self, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let pem = made.cert.pem();
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        (Self::start(answers, Some(Arc::new(config))), pem)
    }

    fn start(answers: impl IntoIterator<Item = Answer>, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared { answers: Mutex::new(answers.into_iter().collect()), ..Shared::default() });
        let serving = shared.clone();
        thread::spawn(move || {
            for connection in listener.incoming() {
                let (shared, tls) = (serving.clone(), tls.clone());
                thread::spawn(move || {
                    let connection = connection.unwrap();
                    match tls {
                        Some(config) => {
                            let session = ServerConnection::new(config).unwrap();
                            serve(StreamOwned::new(session, connection), &shared);
                        }
                        None => serve(connection, &shared),
                    }
                });
            }
        });
        Self { port, shared }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }
}

/// Serves one connection to its end.
fn serve<S: Read + Write>(connection: S, shared: &Shared) {
    let mut connection = BufReader::new(connection);
    while let Some(asked) = request(&mut connection) {
        shared.asked.lock().unwrap().push(asked);
        let answer = shared.answers.lock().unwrap().pop_front().unwrap_or(Answer::Status(200, ""));
        let stream = connection.get_mut();
        let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nthe begin";
        // The client may have gone.
        let _gone = match answer {
            Answer::Status(status, lines) => {
                write!(stream, "HTTP/1.1 {status} As told\r\n{lines}content-length: 2\r\n\r\nok")
            }
            Answer::Half => return drop(stream.write_all(half).and_then(|()| stream.flush())),
            Answer::HalfAndSilence => stream.write_all(half),
            Answer::Nothing => return,
            Answer::Silence => Ok(()),
            Answer::Nonsense => stream.write_all(b"220 mail.example.org ESMTP\r\n\r\n"),
        };
        let _gone = stream.flush();
    }
}

/// The next request, or `None` when the client has ended the connection.
fn request(connection: &mut impl BufRead) -> Option<Asked> {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head.push_str(&line);
    }
    let asked = Asked { head, body: Vec::new() };
    let length = asked.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    connection.read_exact(&mut body).ok()?;
    Some(Asked { body, ..asked })
}
