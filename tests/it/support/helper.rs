//! A child process that a test talks with: it is told things on its stdin, line by line, and says things.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::child;

/// Long enough for a slow machine: only a test that fails waits so long.
const FAR_TOO_LONG: Duration = Duration::from_secs(60);

pub(crate) struct Helper {
    child: Child,
    said: mpsc::Receiver<String>,
    heard: HashSet<String>,
    stdin: Option<ChildStdin>,
}

impl Helper {
    /// Runs one test of this binary as a child with a role.
    pub(crate) fn start(test: &str, role: &str, store: &Path) -> Self {
        let mut command = child::command(test, role, store);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdout, stdin) = (BufReader::new(child.stdout.take().unwrap()), child.stdin.take());
        let (tell, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some((_, said)) = line.split_once("said:") {
                    let _nobody_listens = tell.send(said.to_owned());
                }
            }
        });
        Self { child, said, heard: HashSet::new(), stdin }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells it a line.
    pub(crate) fn hears(&mut self, line: impl std::fmt::Display) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Waits until the child has said this, now or before.
    pub(crate) fn says(&mut self, what: &str) {
        while !self.heard.contains(what) {
            let said = self.next(what);
            self.heard.insert(said);
        }
    }

    /// Waits for the next thing that begins so, and gives the rest of it.
    pub(crate) fn says_next(&mut self, beginning: &str) -> String {
        loop {
            let said = self.next(beginning);
            match said.strip_prefix(beginning) {
                Some(rest) => return rest.trim_start().to_owned(),
                None => drop(self.heard.insert(said)),
            }
        }
    }

    fn next(&mut self, wanted: &str) -> String {
        self.said.recv_timeout(FAR_TOO_LONG).unwrap_or_else(|error| {
            panic!("the child never said {wanted:?}: {error}, it is {:?}", self.child.try_wait());
        })
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until a signal has stopped it.
    pub(crate) fn is_stopped(&self) {
        let child = WaitId::Pid(Pid::from_child(&self.child));
        let stopped = waitid(child, WaitIdOptions::STOPPED).unwrap();
        assert!(stopped.is_some_and(|status| status.stopped()));
    }

    /// The child is told to come to its end, and has to end well.
    pub(crate) fn ends_well(mut self) {
        drop(self.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    /// How it ends by itself.
    pub(crate) fn ends(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Where a test failed; it is gone already otherwise.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Ends when the parent closes its end of the pipe, or ends itself.
pub(crate) fn wait_for_the_end() {
    let _end = std::io::stdin().lines().map_while(Result::ok).last();
}
