//! `towpath backup`, `restore` and `fork`: stores made of a store.

use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use serde::Serialize;
use towpath::copies::{self, Files};
use towpath::inspect::{self, Depth, Progress};
use towpath::{Damage, Error, Position, StoreId};

use crate::Answer;
use crate::args::tools::{Backup, Fork, Restore};
use crate::failure::{Failure, Result};
use crate::out::Out;
use crate::verify::Damaged;

/// The field names are fixed: scripts rely on them.
#[derive(Serialize)]
struct Made<'a> {
    store: String,
    head: u64,
    /// Of a fork nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<u64>,
    shared: u64,
    copied: u64,
    bytes_copied: u64,
    /// Only of a backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    resumed: Option<bool>,
    damage: Vec<Damaged<'a>>,
}

pub(crate) fn run(args: &Backup, out: &mut Out) -> Result<Answer> {
    let bar = out.bar(0);
    let made = copies::backup(&args.dir, &args.to, |progress| show(&bar, progress));
    bar.finish_and_clear();
    let made = made.map_err(|error| nothing_made(error, &args.to, ON))?;
    let mut damage = made.damage;
    if args.verify {
        let bar = out.bar(0);
        let verdict = inspect::verify_to(&args.to, Depth::Whole, |progress| show(&bar, progress));
        bar.finish_and_clear();
        damage = verdict?.damage;
    }
    if made.resumed && !out.is_json() {
        out.line("an earlier backup was cut short; this one used what it had left")?;
    }
    tell("backup", made.store, made.head, made.files, Some(made.resumed), &damage, out)
}

pub(crate) fn restore(args: &Restore, out: &mut Out) -> Result<Answer> {
    let bar = out.bar(0);
    let made = copies::restore(&args.from, &args.to, |progress| show(&bar, progress));
    bar.finish_and_clear();
    let made = made.map_err(|error| nothing_made(error, &args.to, ON))?;
    tell("store", made.store, made.head, made.files, None, &made.damage, out)
}

pub(crate) fn fork(args: &Fork, out: &mut Out) -> Result<Answer> {
    let bar = out.bar(0);
    let made = copies::fork(&args.dir, &args.to, Position::new(args.at), |progress| show(&bar, progress));
    bar.finish_and_clear();
    let made = made.map_err(|error| nothing_made(error, &args.to, ANEW))?;
    tell("fork", made.store, made.head, made.files, None, &made.damage, out)
}

/// What the next attempt does with the files that there was room for.
const ON: &str = "goes on with";
pub(crate) const ANEW: &str = "begins anew, without";

/// A store that is damaged so that no copy can be made of it is no answer about a copy.
fn nothing_made(error: Error, to: &Path, next: &str) -> Failure {
    match error {
        Error::Damaged(damage) => Failure::because("nothing was made; repair it first", &Error::Damaged(damage)),
        error => no_room(error, to, next),
    }
}

/// Where a copy finds no room, what there is of it takes some, too.
pub(crate) fn no_room(error: Error, to: &Path, next: &str) -> Failure {
    match error {
        Error::DiskFull { .. } => {
            // TO/ and TO are the same.
            let to = to.components().collect::<PathBuf>();
            let what = format!("nothing was made; the next attempt {next} what is in {}.part", to.display());
            Failure::because(what, &error)
        }
        error => error.into(),
    }
}

pub(crate) fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_length(progress.total);
    bar.set_position(progress.done);
}

fn tell(
    what: &str,
    store: StoreId,
    head: Position,
    files: Files,
    resumed: Option<bool>,
    damage: &[Damage],
    out: &mut Out,
) -> Result<Answer> {
    let Files { kept, shared, copied, bytes_copied, .. } = files;
    let kept = (what != "fork").then_some(kept);
    if out.is_json() {
        let (store, head) = (store.to_string(), head.get());
        let damage = damage.iter().map(Damaged::of).collect();
        out.object(&Made { store, head, kept, shared, copied, bytes_copied, resumed, damage })?;
    } else {
        for damage in damage {
            out.line(&damage.to_string())?;
        }
        let files = match kept {
            Some(kept) => format!("{kept} files kept, {shared} shared"),
            None => format!("{shared} files shared"),
        };
        out.line(&format!("{what} up to position {head}: {files}, {copied} copied ({bytes_copied} bytes)"))?;
    }
    Ok(if damage.is_empty() { Answer::Good } else { Answer::NotGood })
}
