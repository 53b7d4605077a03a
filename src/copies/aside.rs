//! A directory that is filled beside the place it is meant for, and takes that place at once when it is whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::{backup, header};
use crate::segment::disk::{Directory, Disk, is_link, same};

/// What follows the name of a directory that is being filled.
const PART: &str = ".part";
/// What follows the name of one that makes room, where two cannot change places at once.
const OLD: &str = ".part.old";

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
            check_is_ours(&*disk.directory(&path.with_file_name(ours), false)?)?;
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

/// Refuses a place that lies in what the copy is made of, `what`, also by way of links and `..`.
pub(super) fn check_is_outside(disk: &dyn Disk, from: &Path, to: &Path, what: &str) -> Result<()> {
    if to.starts_with(from) || real_place(disk, to).starts_with(real_place(disk, from)) {
        return Err(Error::not_a_store(to, format!("it lies in the {what} itself; choose another directory")));
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

/// Refuses to take a directory for one on its way that holds anything else, or a store that somebody has opened.
fn check_is_ours(directory: &dyn Directory) -> Result<()> {
    let is_ours = |name: &String| {
        let name = name.strip_suffix(".tmp").unwrap_or(name);
        name == backup::NAME
            || header::parse_name(name).is_some()
            || header::parse_index_name(name).is_some()
            || header::parse_tier_name(name).is_some()
            || header::parse_heads_name(name).is_some()
    };
    match directory.names()?.into_iter().find(|name| !is_ours(name)) {
        Some(other) => {
            let why = format!("it is needed for a copy on its way, and holds other things, such as {other:?}");
            Err(Error::not_a_store(directory.path(), why))
        }
        None => Ok(()),
    }
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
    let name = path.file_name()?.to_str()?;
    Some(path.with_file_name(format!("{name}{OLD}")))
}

/// Whether somebody was filling a directory for this path, and did not finish.
pub(super) fn is_unfinished(disk: &dyn Disk, path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    disk.directory(&path.with_file_name(format!("{name}{PART}")), false).is_ok()
}
