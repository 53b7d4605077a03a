//! The file that lines are appended to: opened, repaired, watched.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::id::Timestamp;
use crate::segment::disk::{Directory, Disk, File, Look, RealDisk, is_over_limit};
use crate::segment::map::Access;

/// How every line of this sink begins. A file that begins otherwise belongs to somebody else.
const BEGIN: &[u8] = b"{\"position\":";

/// The last line end of a file is looked for in pieces of this size.
const PIECE: usize = 64 << 10;

/// How much before that is looked at: far more than is ever written between two syncs.
const LOOKED_AT: u64 = 64 << 20;

/// A process that some thread forks off has the file's lock, too, until it becomes another program: that long it is waited for.
const FORKS_PASS: Duration = Duration::from_millis(500);

/// An open file of whole lines.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) directory: Arc<dyn Directory>,
    file: Arc<dyn File>,
    name: String,
    id: (u64, u64),
    /// Where the next line goes.
    pub(super) len: u64,
    /// Up to here everything is durable.
    durable: u64,
    /// When the file was begun or, if it was there already, written to.
    pub(super) begun: Timestamp,
}

/// A file that could not be written to the end: which one, and how much of it counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resume {
    id: (u64, u64),
    durable: u64,
}

impl Lines {
    /// Opens the file or makes it, and takes away what is no whole line at its end: a crash may leave that, and what was in it was
    /// never durable. Says also what is wrong with the lines before that.
    pub(super) fn open(
        parent: &Path,
        name: &str,
        resume: Option<Resume>,
        clock: &dyn Clock,
    ) -> Result<(Self, Option<String>), String> {
        let directory = RealDisk.directory(parent, false).map_err(told)?;
        let (file, is_new) = match directory.open(name, Access::Write) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                (directory.create(name).map_err(told)?, true)
            }
            opened => (opened.map_err(told)?, false),
        };
        let started = Instant::now();
        while !file.lock().map_err(told)? {
            if started.elapsed() > FORKS_PASS {
                return Err(format!("{} is written to by somebody else", shown(&*directory, name)));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let look = file.look().map_err(told)?;
        let mut lines = Self {
            id: look.id,
            len: look.len,
            durable: look.len,
            begun: if is_new || look.len == 0 { clock.now() } else { look.modified },
            directory,
            file,
            name: name.to_owned(),
        };
        lines.len = match resume {
            Some(resume) if resume.id == look.id && resume.durable <= look.len => resume.durable,
            _ => lines.last_line_end()?,
        };
        if lines.len < look.len {
            lines.cut_back()?;
        }
        // Also when it was made before: by a process that ended before this.
        lines.directory.sync().map_err(told)?;
        lines.sync()?;
        // Whoever had it open may have given it another name before we had the lock.
        if let Some(gone) = lines.gone() {
            return Err(gone);
        }
        let damage = lines.damage()?;
        Ok((lines, damage))
    }

    /// Appends whole lines, all or none.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), String> {
        let end = self.len + bytes.len() as u64;
        // Writing behind the process's limit on file sizes would end it.
        let written = match is_over_limit(end) {
            true => Err(format!("no room for {}", self.shown())),
            false => self.file.write_at(bytes, self.len).map_err(told),
        };
        match written {
            Ok(()) => {
                self.len = end;
                Ok(())
            }
            Err(why) => {
                // Half a line would stand there otherwise.
                self.cut_back()?;
                Err(why)
            }
        }
    }

    pub(super) fn sync(&mut self) -> Result<(), String> {
        self.file.sync().map_err(told)?;
        self.durable = self.len;
        Ok(())
    }

    /// What has become of the file behind our back; `None` if its name leads to it and it is as long as it should be.
    pub(super) fn gone(&self) -> Option<String> {
        let what = match self.directory.look(&self.name) {
            Err(error) => return Some(told(error)),
            Ok(None) => "was removed",
            Ok(Some(Look { id, .. })) if id != self.id => "was replaced by another file",
            Ok(Some(Look { len, .. })) if len < self.len => "was cut by somebody else",
            Ok(Some(Look { len, .. })) if len > self.len => "was written to by somebody else",
            Ok(Some(_)) => return None,
        };
        Some(format!("{} {what}", self.shown()))
    }

    /// Gives the file another name, which it keeps. It has to be durable by then.
    pub(super) fn rename(self, to: &str) -> Result<(), String> {
        self.directory.rename(&self.name, to).and_then(|()| self.directory.sync()).map_err(told)
    }

    /// What is needed to go on with this file after it failed.
    pub(super) fn resume(&self) -> Resume {
        Resume { id: self.id, durable: self.durable }
    }

    fn shown(&self) -> String {
        shown(&*self.directory, &self.name)
    }

    fn cut_back(&self) -> Result<(), String> {
        self.file.truncate(self.len).map_err(told)
    }

    /// Where the whole lines end.
    fn last_line_end(&self) -> Result<u64, String> {
        let mut begin = [0; BEGIN.len()];
        let read = self.file.read_at(&mut begin, 0).map_err(told)?;
        // After a crash it may have its length already, and not its contents.
        let sound = begin[..read].iter().position(|byte| *byte == 0).unwrap_or(read);
        if !BEGIN.starts_with(&begin[..sound]) || (sound < BEGIN.len() && !self.is_blank(sound as u64, self.len)?) {
            return Err(format!("{} holds something else than this sink writes; move it away", self.shown()));
        }
        let (mut buffer, mut to) = (vec![0; PIECE], self.len);
        while to > 0 {
            let from = to.saturating_sub(PIECE as u64);
            let piece = &mut buffer[..(to - from) as usize];
            let read = self.file.read_at(piece, from).map_err(told)?;
            if let Some(last) = piece[..read].iter().rposition(|byte| *byte == b'\n') {
                return Ok(from + last as u64 + 1);
            }
            to = from;
        }
        Ok(0)
    }

    /// Blocks that did not reach the disk before a power cut, though later ones did, read as zeroes, which no line has.
    fn damage(&self) -> Result<Option<String>, String> {
        let from = self.len.saturating_sub(LOOKED_AT);
        let has_zero = self.find(from, self.len, |byte| byte == 0)?;
        Ok(has_zero.then(|| format!("{} has zeroes in it; it was set aside as it is", self.shown())))
    }

    fn is_blank(&self, from: u64, to: u64) -> Result<bool, String> {
        Ok(!self.find(from, to, |byte| byte != 0)?)
    }

    /// Whether there is such a byte in a stretch.
    fn find(&self, from: u64, to: u64, is: impl Fn(u8) -> bool) -> Result<bool, String> {
        let (mut buffer, mut at) = (vec![0; PIECE], from);
        while at < to {
            let most = (to - at).min(PIECE as u64) as usize;
            let read = self.file.read_at(&mut buffer[..most], at).map_err(told)?;
            if buffer[..read].iter().any(|byte| is(*byte)) {
                return Ok(true);
            }
            if read == 0 {
                break;
            }
            at += read as u64;
        }
        Ok(false)
    }
}

fn shown(directory: &dyn Directory, name: &str) -> String {
    directory.path().join(name).display().to_string()
}

/// An error as a reason: the same words for the same cause.
pub(super) fn told(error: Error) -> String {
    match error {
        Error::Io { action, path, source } => format!("could not {action} {}: {source}", path.display()),
        Error::DiskFull { path, .. } => format!("no room for {}", path.display()),
        Error::NotAStore { path, why } => format!("{}: {why}", path.display()),
        other => other.to_string(),
    }
}
