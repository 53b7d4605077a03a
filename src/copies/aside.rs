//! A directory that is filled beside the place it is meant for, and takes that place at once when it is whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::{backup, header};
use crate::id::{Position, StoreId};
use crate::log::mark::{self, Marked};
use crate::log::parts::read_header;
use crate::log::recover::segments;
use crate::segment::disk::{Directory, Disk, is_link, same};

/// What follows the name of a directory that is being filled.
const PART: &str = ".part";
/// What follows the name of one that makes room, where two cannot change places at once.
const OLD: &str = ".part.old";

/// What is made, by which a directory that was left unfinished is known from one that somebody keeps under such a name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// A backup of a store, up to a position. The only one that bears a mark, before it takes its place.
    Backup { store: StoreId, head: Position },
    /// A store with the same id.
    Store(StoreId),
    /// A store with an id that only it has, made of this one.
    Fork { of: StoreId },
}

/// A directory on its way.
#[derive(Debug)]
pub(super) struct Aside {
    parent: Arc<dyn Directory>,
    name: String,
    pub(super) part: Arc<dyn Directory>,
    /// What stands in its place now, if anything does.
    pub(super) present: Option<Arc<dyn Directory>>,
    /// An earlier one was left unfinished here, or not cleared away.
    pub(super) resumed: bool,
}

impl Aside {
    /// Begins to fill a directory for `path`, or goes on with one that was left unfinished. The parent has to be there.
    /// `check` says whether what stands there now may give way; nobody else opens that for writing until this is over.
    pub(super) fn begin(
        disk: &dyn Disk,
        path: &Path,
        kind: Kind,
        check: impl FnOnce(&dyn Directory) -> Result<()>,
    ) -> Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str()).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| Error::invalid("directory", &path.to_string_lossy(), "it has no plain name"))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parent = disk.directory(parent, false)?;
        let (part, old) = (format!("{name}{PART}"), format!("{name}{OLD}"));
        let names = parent.names()?;
        let is_there = |wanted: &str| names.iter().any(|name| name == wanted);
        for ours in [&part, &old].into_iter().filter(|name| is_there(name)) {
            check_left(&*disk.directory(&path.with_file_name(ours), false)?, kind)?;
        }
        let stands = [name, &old].into_iter().find(|name| is_there(name));
        let present = stands.map(|stands| giving_way(disk, &*parent, path, stands, check)).transpose()?;
        let resumed = is_there(&part);
        let part = locked(&*parent, &part)?;
        if stands == Some(&*old) {
            // Cut short between making room and moving in.
            parent.rename(&old, name)?;
            parent.sync()?;
        } else if is_there(&old) {
            // Cut short between moving in and clearing away.
            remove_directory(&*parent, &old)?;
        }
        Ok(Self { parent, name: name.to_owned(), part, present, resumed })
    }

    /// Removes what was left in it, but for the files that `keep` wants.
    pub(super) fn clear(&self, keep: impl Fn(&str) -> bool) -> Result<()> {
        clear(&*self.part, keep)
    }

    /// Whether anything gives way to it.
    pub(super) fn replaces(&self) -> Result<bool> {
        self.present.as_ref().map_or(Ok(false), |present| Ok(!present.names()?.is_empty()))
    }

    /// Makes it last, and has it take its place; what stood there goes.
    pub(super) fn take_place(self) -> Result<()> {
        let (name, part, old) = (&self.name, format!("{}{PART}", self.name), format!("{}{OLD}", self.name));
        self.part.sync()?;
        // The name of the unfinished directory has to last before another one gives way to it.
        self.parent.sync()?;
        if !self.replaces()? {
            self.parent.rename(&part, name)?;
            return self.parent.sync();
        }
        if self.parent.exchange(&part, name)? {
            self.parent.sync()?;
            // The new one is there and lasts; what is left of the one before is cleared away by the next.
            let _left_for_the_next = remove_directory(&*self.parent, &part);
            return Ok(());
        }
        self.parent.rename(name, &old)?;
        // It has to last that the one is out of the way before the other comes.
        self.parent.sync()?;
        self.parent.rename(&part, name)?;
        self.parent.sync()?;
        let _left_for_the_next = remove_directory(&*self.parent, &old);
        Ok(())
    }
}

impl Drop for Aside {
    /// Gives the locks back at once: a child that another thread forks just now has copies of these handles for a moment.
    fn drop(&mut self) {
        for held in [Some(&self.part), self.present.as_ref()].into_iter().flatten() {
            let _gone_with_the_process = held.unlock();
        }
    }
}

/// Opens and locks what stands at a path now, under this name, if it may give way.
fn giving_way(
    disk: &dyn Disk,
    parent: &dyn Directory,
    path: &Path,
    stands: &str,
    check: impl FnOnce(&dyn Directory) -> Result<()>,
) -> Result<Arc<dyn Directory>> {
    if is_link(parent, stands) {
        return Err(Error::not_a_store(path, "it is a link, which would give way, not what it leads to; name that"));
    }
    let present = disk.directory(&path.with_file_name(stands), false)?;
    if !present.lock()? {
        return Err(Error::Locked { path: present.path().to_owned(), holder: None });
    }
    check(&*present)?;
    Ok(present)
}

/// Opens the directory that is to be filled, for this process alone.
fn locked(parent: &dyn Directory, name: &str) -> Result<Arc<dyn Directory>> {
    let part = parent.subdirectory(name)?;
    // Whoever had it a moment ago may have given it the other name, which is then not to be touched.
    if !part.lock()? || !same(&*part, &*parent.subdirectory(name)?) {
        return Err(Error::Locked { path: part.path().to_owned(), holder: None });
    }
    Ok(part)
}

/// Refuses a place that lies in what the copy is made of, `what`, or beside which that would be cleared away, also by way of links
/// and `..`.
pub(super) fn check_is_outside(disk: &dyn Disk, from: &Path, to: &Path, what: &str) -> Result<()> {
    let real_from = real_place(disk, from);
    if to.starts_with(from) || real_place(disk, to).starts_with(&real_from) {
        return Err(Error::not_a_store(to, format!("it lies in the {what} itself; choose another directory")));
    }
    for needed in [PART, OLD].into_iter().filter_map(|suffix| beside(to, suffix)) {
        let real = real_place(disk, &needed);
        if from.starts_with(&needed) || real_from.starts_with(&real) || real.starts_with(&real_from) {
            let why = format!(
                "the copy needs {}, where what it is made of stands; choose another directory",
                needed.display()
            );
            return Err(Error::not_a_store(to, why));
        }
    }
    Ok(())
}

/// The one path of a place where perhaps nothing stands yet. One that cannot be looked at stays as it is: nothing is made there.
fn real_place(disk: &dyn Disk, path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let in_parent = |name| disk.real_path(parent).map(|parent| parent.join(name)).ok();
    disk.real_path(path).ok().or_else(|| path.file_name().and_then(in_parent)).unwrap_or_else(|| path.to_owned())
}

/// Refuses a place where something stands already.
pub(super) fn is_free(present: &dyn Directory) -> Result<()> {
    if present.names()?.is_empty() {
        return Ok(());
    }
    Err(Error::not_a_store(present.path(), "it is not empty; choose another directory"))
}

/// Looks at a directory that was left, unless somebody is at work there.
fn check_left(directory: &dyn Directory, kind: Kind) -> Result<()> {
    if !directory.lock()? {
        return Err(Error::Locked { path: directory.path().to_owned(), holder: None });
    }
    let checked = check_is_ours(directory, kind);
    directory.unlock()?;
    checked
}

/// Refuses to take a directory for one on its way that holds anything else, a copy of another kind, or a store that somebody
/// has opened.
fn check_is_ours(directory: &dyn Directory, kind: Kind) -> Result<()> {
    let refuse = |what: &str| {
        let why = format!("it is needed for a copy on its way, and {what}; move it, or choose another directory");
        Err(Error::not_a_store(directory.path(), why))
    };
    let names = directory.names()?;
    if let Some(other) = foreign(&names) {
        return refuse(&format!("holds other things, such as {other:?}"));
    }
    match (mark::read(directory)?.map(Marked::sound), kind) {
        (Some(Some(mark)), Kind::Backup { store, .. }) if mark.store != store => {
            return refuse("holds a backup of another store");
        }
        (Some(Some(mark)), Kind::Backup { head, .. }) if mark.head > head => {
            return refuse(&format!("holds a backup that goes further, up to position {}", mark.head));
        }
        // A damaged one does not say; the segments do.
        (None, _) | (Some(_), Kind::Backup { .. }) => {}
        (Some(_), _) => return refuse("holds a backup"),
    }
    for first in segments(&names) {
        match (read_header(directory, first).map(|header| header.store), kind) {
            (Ok(found), Kind::Backup { store, .. } | Kind::Store(store)) if found != store => {
                return refuse("holds another store");
            }
            (Ok(found), Kind::Fork { of }) if found == of => return refuse("holds the same store, which no fork does"),
            // A damaged one does not say; the others do.
            (Ok(_) | Err(Error::NotAStore { .. }), _) => {}
            (Err(error), _) => return Err(error),
        }
    }
    Ok(())
}

/// A name among these that no copy has.
pub(super) fn foreign(names: &[String]) -> Option<&String> {
    let is_ours = |name: &str| {
        name == backup::NAME
            || header::parse_name(name).is_some()
            || header::parse_index_name(name).is_some()
            || header::parse_tier_name(name).is_some()
            || header::parse_heads_name(name).is_some()
    };
    names.iter().find(|name| !is_ours(name.strip_suffix(".tmp").unwrap_or(name)))
}

fn remove_directory(parent: &dyn Directory, name: &str) -> Result<()> {
    clear(&*parent.subdirectory(name)?, |_| false)?;
    parent.remove_directory(name)?;
    parent.sync()
}

fn clear(directory: &dyn Directory, keep: impl Fn(&str) -> bool) -> Result<()> {
    directory.names()?.iter().filter(|name| !keep(name)).try_for_each(|name| directory.remove(name))
}

/// What stood at a path, when it was to give way to another one and that has not come.
pub(super) fn old(path: &Path) -> Option<PathBuf> {
    beside(path, OLD)
}

/// Whether somebody was filling a directory for this path, and did not finish.
pub(super) fn is_unfinished(disk: &dyn Disk, path: &Path) -> bool {
    beside(path, PART).is_some_and(|part| disk.directory(&part, false).is_ok())
}

fn beside(path: &Path, suffix: &str) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    Some(path.with_file_name(format!("{name}{suffix}")))
}
