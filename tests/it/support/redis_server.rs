//! A real Redis server of one test's own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use redis::{Connection, FromRedisValue, Value};

use super::Scratch;
use super::servers::{free_port, missing};

/// Ended with its handle. Its data lies in a directory of its own.
#[derive(Debug)]
pub(crate) struct RedisServer {
    running: Option<Child>,
    options: Vec<String>,
    port: u16,
    dir: Scratch,
}

impl RedisServer {
    /// Starts one with these options, or says that there is none. `TOWPATH_REDIS_SERVER` names another program than the
    /// `redis-server` on the path.
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        let mut server = Self {
            running: None,
            options: options.iter().map(ToString::to_string).collect(),
            port: free_port(),
            dir: Scratch::new(),
        };
        if !server.start_again() {
            missing("redis-server");
            return None;
        }
        Some(server)
    }

    /// Starts it on the same port and directory, and waits until it takes connections. `false` when there is no such program.
    pub(crate) fn start_again(&mut self) -> bool {
        let program = std::env::var_os("TOWPATH_REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
        let port = self.port.to_string();
        let started = Command::new(program)
            .args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--daemonize", "no", "--logfile", ""])
            .arg("--dir")
            .arg(self.dir.path())
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut child) = started else { return false };
        let output = BufReader::new(child.stdout.take().unwrap());
        let (ready, is_ready) = mpsc::channel();
        thread::spawn(move || {
            let mut said = String::new();
            for line in output.lines().map_while(Result::ok) {
                said.push_str(&line);
                said.push('\n');
                if line.contains("Ready to accept connections") {
                    let _not_waited_for = ready.send(Ok(()));
                }
            }
            let _not_waited_for = ready.send(Err(said));
        });
        is_ready.recv().unwrap().unwrap_or_else(|said| panic!("redis-server ended: {said}"));
        self.running = Some(child);
        true
    }

    /// Ends it at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.running.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The address of a stream in it.
    pub(crate) fn url(&self, key: &str) -> String {
        format!("redis://127.0.0.1:{}/0/{key}", self.port)
    }

    pub(crate) fn connect(&self) -> Connection {
        redis::Client::open(format!("redis://127.0.0.1:{}/0", self.port)).unwrap().get_connection().unwrap()
    }

    /// Has it do something that it has to do.
    pub(crate) fn does(&self, words: &[&str]) -> Value {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]).query(&mut self.connect()).unwrap()
    }

    /// The entries of a stream.
    pub(crate) fn entries(&self, key: &str) -> Vec<Entry> {
        type Entries = Vec<(String, Vec<(String, String)>)>;
        let entries = Entries::from_redis_value(self.does(&["XRANGE", key, "-", "+"])).unwrap();
        entries.into_iter().map(|(id, fields)| Entry { id, fields }).collect()
    }

    /// The payloads in a stream.
    pub(crate) fn payloads(&self, key: &str) -> Vec<String> {
        self.entries(key).iter().map(|entry| entry.field("payload").unwrap().to_owned()).collect()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An entry of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) fields: Vec<(String, String)>,
}

impl Entry {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}
