//! Standard output: buffered, one line at a time, safe for terminals, and quiet when nobody reads any more.

use std::io::{self, BufWriter, ErrorKind, IsTerminal, StdoutLock, Write};

use indicatif::{ProgressBar, ProgressStyle};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::show;

pub(crate) struct Out {
    to: BufWriter<StdoutLock<'static>>,
    json: bool,
}

impl Out {
    pub(crate) fn new(json: bool) -> Self {
        Self { to: BufWriter::with_capacity(1 << 16, io::stdout().lock()), json }
    }

    /// Whether `--json` was given.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// One line. Control characters in it are escaped, in JSON too, where the escape means the same character.
    pub(crate) fn line(&mut self, text: &str) -> Result<()> {
        let written = self.to.write_all(show::safe(text).as_bytes());
        written.and_then(|()| self.to.write_all(b"\n")).map_err(failure)
    }

    /// One JSON object on a line.
    pub(crate) fn object(&mut self, object: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(object).map_err(|e| Failure::because("could not write JSON", &e))?;
        self.line(&text)
    }

    /// A bar over so many bytes, on stderr; not to be seen when that is no terminal, or with `--json`.
    pub(crate) fn bar(&self, bytes: u64) -> ProgressBar {
        if self.json || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(bytes);
        match ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    }

    /// Whether anybody can still read it. Of a pipe whose other end is closed that is known before something is written.
    pub(crate) fn is_heard(&self) -> bool {
        let out = io::stdout();
        let mut polled = [PollFd::new(&out, PollFlags::empty())];
        let looked = poll(&mut polled, Some(&Timespec::default()));
        looked.is_err() || !polled[0].revents().intersects(PollFlags::ERR)
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        self.to.flush().map_err(failure)
    }
}

fn failure(error: io::Error) -> Failure {
    match error.kind() {
        ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::because("could not write to standard output", &error),
    }
}
