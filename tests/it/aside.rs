//! A copy is made in `TO.part`, and what it takes the place of may stand in `TO.part.old` for a moment: C6. What somebody keeps under
//! such a name is not the copy's to clear away, and what the copy is made of least of all.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use towpath::{Error, NewEvent, Position, Store, copies};

use crate::support::told;
use crate::support::{Scratch, files, small};

type Make = fn(&Path, &Path) -> Result<(), Error>;

const BACKUP: Make = |from, to| copies::backup(from, to, |_| {}).map(drop);
const RESTORE: Make = |from, to| copies::restore(from, to, |_| {}).map(drop);
const FORK: Make = |from, to| copies::fork(from, to, Position::new(3), |_| {}).map(drop);
const REPAIR: Make = |from, to| copies::repair(from, to, |_| {}).map(drop);
const VERBS: [(&str, Make); 4] = [("backup", BACKUP), ("restore", RESTORE), ("fork", FORK), ("repair", REPAIR)];

const MARK: &str = "BACKUP";

fn fill(store: &Store, events: u64) {
    for number in 0..events {
        store.append(&format!("cart-{}", number % 7), NewEvent::new("added", &[number as u8; 400])).unwrap();
    }
}

/// A closed store of some segments, and its backup under a name.
fn backup_at(scratch: &Scratch, name: &str) {
    let store = scratch.open();
    fill(&store, 300);
    store.backup(scratch.path().join(name)).unwrap();
    store.close().unwrap();
}

/// The copy is refused, and nothing of all that is there changes. Gives why.
fn refused(scratch: &Scratch, verb: (&str, Make), from: &Path, to: &Path) -> String {
    let before = files::snapshot(scratch.path());
    let made = verb.1(from, to);
    let what = format!("{} {} {}", verb.0, from.display(), to.display());
    assert!(files::snapshot(scratch.path()) == before, "{what} changed something: {made:?}");
    match made {
        Err(Error::NotAStore { why, .. }) => why,
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn no_copy_is_made_where_it_would_clear_away_what_it_is_made_of() {
    for (name, has_empty) in [("x.part", false), ("x.part", true), ("x.part.old", false), ("x.part.old", true)] {
        let scratch = Scratch::new();
        backup_at(&scratch, name);
        let (from, to) = (scratch.path().join(name), scratch.path().join("x"));
        let (link, beside) = (scratch.path().join("link"), scratch.path().join("beside"));
        symlink(scratch.path(), &link).unwrap();
        fs::create_dir(&beside).unwrap();
        if has_empty {
            fs::create_dir(&to).unwrap();
        }
        for verb in VERBS {
            for from in [from.clone(), link.join(name), beside.join("..").join(name)] {
                for to in [to.clone(), link.join("x"), beside.join("..").join("x")] {
                    let why = refused(&scratch, verb, &from, &to);
                    assert!(why.contains("is made of"), "{}: {why}", verb.0);
                }
            }
        }
        // It is the other end of a link.
        let elsewhere = scratch.path().join("elsewhere");
        fs::rename(&from, &elsewhere).unwrap();
        symlink(&elsewhere, &from).unwrap();
        for verb in VERBS {
            assert!(refused(&scratch, verb, &elsewhere, &to).contains("is made of"), "{}", verb.0);
        }
        fs::remove_file(&from).unwrap();
        // It lies in there.
        fs::create_dir(&from).unwrap();
        fs::rename(&elsewhere, from.join("inside")).unwrap();
        for verb in VERBS {
            assert!(refused(&scratch, verb, &from.join("inside"), &to).contains("is made of"), "{}", verb.0);
        }
        // Control: elsewhere, under a name that only begins alike.
        let alike = scratch.path().join("x.parts");
        fs::rename(from.join("inside"), &alike).unwrap();
        fs::remove_dir(&from).unwrap();
        for (verb, make) in VERBS {
            make(&alike, &to).unwrap_or_else(|error| panic!("{verb}: {error}"));
            fs::remove_dir_all(&to).unwrap();
        }
    }
}

/// Where two directories cannot change places at once the earlier backup has the other name for a moment, and is restored from there.
#[test]
fn what_is_restored_from_between_two_names_is_not_cleared_away() {
    let scratch = Scratch::new();
    backup_at(&scratch, "x.part.old");
    let from = scratch.path().join("x");
    refused(&scratch, ("restore", RESTORE), &from, &from);
    refused(&scratch, ("restore", RESTORE), &from, &scratch.path().join("x.part.old").join("inside"));
    // Control: to another place.
    RESTORE(&from, &scratch.path().join("y")).unwrap();
}

#[test]
fn a_backup_that_stands_where_a_copy_is_to_be_made_is_not_cleared_away() {
    for name in ["x.part", "x.part.old"] {
        let (scratch, other) = (Scratch::new(), Scratch::new());
        backup_at(&scratch, "backup");
        backup_at(&other, "backup");
        let (from, to) = (scratch.path().join("backup"), scratch.path().join("x"));
        let taken = scratch.path().join(name);
        fs::create_dir(&to).unwrap();
        // Of another store, with its mark, and as from before there were marks.
        files::copy(&other.path().join("backup"), &taken);
        for verb in VERBS {
            refused(&scratch, verb, &from, &to);
        }
        fs::remove_file(taken.join(MARK)).unwrap();
        for verb in [VERBS[0], VERBS[1], VERBS[3]] {
            refused(&scratch, verb, &from, &to);
        }
        fs::remove_dir_all(&taken).unwrap();
        // Of the same store: only a backup bears a mark before it takes its place.
        files::copy(&from, &taken);
        for verb in [VERBS[1], VERBS[2], VERBS[3]] {
            refused(&scratch, verb, &from, &to);
        }
        // Without one, no fork of the store has its id.
        fs::remove_file(taken.join(MARK)).unwrap();
        refused(&scratch, VERBS[2], &from, &to);
        fs::remove_dir_all(&taken).unwrap();
        // One that goes further than what is to be copied is no earlier one of it.
        let store = small().open(scratch.store_path()).unwrap();
        fill(&store, 1);
        store.backup(&taken).unwrap();
        drop(store);
        assert!(refused(&scratch, VERBS[0], &from, &to).contains("further"));
        // Control: as it is when a backup ends between its mark and its place, or before it has cleared the last one away.
        fs::remove_dir_all(&taken).unwrap();
        files::copy(&from, &taken);
        BACKUP(&scratch.store_path(), &to).unwrap();
        assert!(!taken.exists());
        assert_eq!(told::all(&Store::open_read_only(&to).unwrap()).len(), 301);
    }
}

/// Each verb goes on from what it leaves itself when it is cut short, or begins again.
#[test]
fn what_a_copy_of_the_same_kind_has_left_is_taken_for_its_own() {
    for (verb, make) in VERBS {
        let scratch = Scratch::new();
        backup_at(&scratch, "backup");
        let (from, to, part) = (scratch.path().join("backup"), scratch.path().join("x"), scratch.path().join("x.part"));
        let left: [fn(&Path); 3] = [
            |_whole| {},
            |part| fs::remove_file(files::newest(part)).unwrap(),
            |part| files::blank_from(&files::newest(part), 0),
        ];
        for leave in left {
            make(&from, &to).unwrap();
            fs::rename(&to, &part).unwrap();
            leave(&part);
            make(&from, &to).unwrap_or_else(|error| panic!("{verb}: {error}"));
            assert!(!part.exists(), "{verb}");
            fs::remove_dir_all(&to).unwrap();
        }
    }
}

/// What somebody put into a backup's directory is not cleared away with the backup before.
#[test]
fn what_somebody_put_beside_a_backup_is_not_cleared_away() {
    let scratch = Scratch::new();
    let store = scratch.open();
    store.append("cart-1", NewEvent::new("added", "")).unwrap();
    let to = scratch.path().join("copy");
    store.backup(&to).unwrap();
    for (name, is_file) in [("notes.txt", true), ("sub", false)] {
        let put = to.join(name);
        if is_file {
            fs::write(&put, "mine").unwrap()
        } else {
            fs::create_dir(&put).unwrap()
        }
        let refused = store.backup(&to).unwrap_err();
        assert!(matches!(&refused, Error::NotAStore { why, .. } if why.contains(name)), "{refused}");
        assert!(put.exists());
        // Control: without it the backup is brought up to date.
        if is_file {
            fs::remove_file(&put).unwrap()
        } else {
            fs::remove_dir(&put).unwrap()
        }
        store.backup(&to).unwrap();
    }
}
