//! C10: a write that the disk refuses, a program that is started again, and then the power cut.
//!
//! After a failed sync the kernel shows pages that never reached the disk, and takes them for written. A program that is
//! started again and believes them goes on behind what is not there. Where another process has mapped these pages, not even
//! asking the kernel to drop them helps.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use towpath::{Event, NewEvent, Options, Query, Store};

use crate::cuts::Manner;
use crate::machine::{Format, Machine};
use crate::random::Random;
use crate::stories::{Marks, marked, wrong};
use crate::{roles, seed, states};

/// How many events each of the two runs writes, if it can.
const EVENTS: u64 = 50;

/// A program that writes numbered records.
struct Program {
    name: &'static str,
    /// Goes on behind what is there until something fails, and marks what was acknowledged.
    run: fn(&Path, &Marks, u64),
    /// Looks at what is there from another process while it is started again, if one is to.
    beside: Option<fn(&Path)>,
    /// The contents of what is there after a power cut.
    read: fn(&Path) -> Result<Vec<Vec<u8>>, String>,
}

const STORE: Program = Program { name: "towpath", run: write_store, beside: None, read: read_store };
const STORE_BESIDE_A_READER: Program = Program { name: "towpath beside a reader", beside: Some(map_store), ..STORE };
const PLAIN: Program = Program { name: "a plain log", run: write_plain, beside: None, read: read_plain };

#[test]
fn a_failed_write_and_a_restart_before_the_power_cut_lose_nothing() {
    let found = break_writes(&STORE);
    assert!(found.is_none_or(|wrong| wrong.is_empty()));
}

#[test]
fn nor_do_they_while_another_process_has_mapped_what_never_reached_the_disk() {
    let found = break_writes(&STORE_BESIDE_A_READER);
    assert!(found.is_none_or(|wrong| wrong.is_empty()));
}

/// The control: a log with checksums that syncs as well, and believes what it reads when it is started again.
#[test]
fn a_plain_log_loses_what_it_acknowledged_after_a_failed_write() {
    let found = break_writes(&PLAIN);
    assert!(found.is_none_or(|wrong| !wrong.is_empty()));
}

/// What was lost or wrong, on the machine; `None` elsewhere.
fn break_writes(program: &Program) -> Option<Vec<String>> {
    let mut found = None;
    roles::on_a_machine(
        |dir| found = Some(break_each(dir, program)),
        |role, dir| {
            if role == "reader" {
                program.beside.unwrap()(&dir.join("mnt"));
                return;
            }
            (program.run)(&dir.join("mnt"), &Marks::of(dir), role.parse().unwrap());
            // Nothing is closed in good order.
            std::process::exit(0);
        },
    );
    found
}

fn break_each(dir: &Path, program: &Program) -> Vec<String> {
    let mut machine = Machine::start(dir, Format::Ext4);
    let (mut random, positions) = (Random(seed()), states().div_ceil(5).max(10));
    // How many writes there are to choose from.
    begin(&mut machine, program, 0);
    let writes = machine.log().writes().count() as u64;
    machine.unmount();
    let (mut failed, mut went_on, mut cuts, mut found) = (0, 0, 0, Vec::new());
    for nth in 0..positions {
        let position = 1 + nth * writes / positions;
        begin(&mut machine, program, position);
        let reader = program.beside.map(|_| roles::ready(roles::command("reader", machine.dir())));
        let status = roles::command("2", machine.dir()).status().unwrap();
        assert!(status.success(), "{}: {status}", program.name);
        if let Some(mut reader) = reader {
            drop(reader.stdin.take());
            let status = reader.wait().unwrap();
            assert!(status.success(), "the reader: {status}");
        }
        let log = machine.log();
        machine.fail_write(0);
        machine.unmount();
        failed += log.failures();
        went_on += usize::from(log.marks(log.entries.len()).any(|mark| mark.ends_with(" 2")));
        for manner in Manner::ALL {
            let state = log.cut(log.entries.len(), manner, &mut random);
            machine.load(&[&state]);
            let mounted = machine.mount().map_err(wrong);
            let checked = mounted.and_then(|()| {
                let checked = (program.read)(&machine.root()).and_then(|there| check(&there, &state.known));
                machine.unmount();
                checked
            });
            cuts += 1;
            found.extend(checked.err().map(|why| format!("write {position}, {manner:?}: {why}")));
        }
    }
    roles::tell(&format!(
        "power: {}, one of {positions} writes fails ({failed} did), started again ({went_on} times it went on), then a power \
         cut: {} of {cuts} states wrong",
        program.name,
        found.len(),
    ));
    assert!(failed as u64 * 10 >= positions * 9, "only {failed} of {positions} writes were made to fail");
    assert!(went_on as u64 * 2 >= positions, "it went on after {went_on} of {positions} failures only");
    if program.name != PLAIN.name {
        assert!(found.is_empty(), "seed {}:\n{}", seed(), found.join("\n"));
    }
    found
}

/// The first run, on a fresh file system, in which a write fails.
fn begin(machine: &mut Machine, program: &Program, position: u64) {
    machine.load(&[]);
    machine.mount().unwrap();
    machine.fail_write(position);
    let status = roles::command("1", machine.dir()).status().unwrap();
    assert!(status.success(), "{}: {status}", program.name);
}

/// Every record is what one of the runs wrote there, and those that were acknowledged are what that run wrote.
fn check(there: &[Vec<u8>], known: &[&str]) -> Result<(), String> {
    for (number, content) in (1..).zip(there) {
        if ![1, 2].iter().any(|run| *content == payload(number, *run)) {
            return Err(format!("{number} is not what was written"));
        }
    }
    let numbers: Vec<u64> = marked(known, "E").collect();
    let acknowledged: BTreeMap<u64, u64> = numbers.chunks(2).map(|mark| (mark[0], mark[1])).collect();
    for (number, run) in acknowledged {
        match there.get(number as usize - 1) {
            Some(content) if *content == payload(number, run) => {}
            other => {
                let what = if other.is_some() { "another one" } else { "nothing" };
                return Err(format!("{number} of run {run} was acknowledged, and {what} is there"));
            }
        }
    }
    Ok(())
}

/// Most are longer than a page, so that the next one rewrites none of theirs.
fn payload(number: u64, run: u64) -> Vec<u8> {
    let len = [300, 5000, 9000][number as usize % 3];
    (0..len).map(|at| (number * 31 + at + run * 101) as u8).collect()
}

fn write_store(root: &Path, marks: &Marks, run: u64) {
    // What cannot be opened says so.
    let Ok(store) = Options::new().segment_bytes(128 << 10).open(root.join("store")) else { return };
    let next = store.head().get() + 1;
    for number in next..next + EVENTS {
        let appended = store.append("s", NewEvent::new("n", &payload(number, run)));
        if appended.is_err() {
            break;
        }
        marks.mark(format_args!("E {number} {run}"));
    }
    std::mem::forget(store);
}

/// Reads all of it, keeps it mapped, and reads it again at the end.
fn map_store(root: &Path) {
    let store = Store::open_read_only(root.join("store"));
    // A first run that came to nothing left nothing to read.
    let held: Vec<_> = store.iter().flat_map(|store| store.read(Query::new())).flatten().collect();
    let sum = |events: &[Event<'static>]| -> u64 {
        events.iter().flat_map(|event| event.payload()).map(|byte| u64::from(*byte)).sum()
    };
    let before = sum(&held);
    roles::say("ready");
    let _end = std::io::stdin().read_to_end(&mut Vec::new());
    assert_eq!(sum(&held), before);
}

fn read_store(root: &Path) -> Result<Vec<Vec<u8>>, String> {
    let store = Options::new().segment_bytes(128 << 10).open(root.join("store")).map_err(wrong)?;
    let events = store.read(Query::new().stream("s")).map(|event| event.map(|event| event.payload().to_vec()));
    let there = events.collect::<towpath::Result<_>>().map_err(wrong)?;
    store.append("after", NewEvent::new("n", "")).map_err(wrong)?;
    store.close().map_err(wrong)?;
    Ok(there)
}

/// A length, a checksum, the content; all of it set aside and synced before.
fn write_plain(root: &Path, marks: &Marks, run: u64) {
    let path = root.join("plain");
    if !path.exists() {
        let made = std::fs::write(&path, vec![0; 1 << 20]);
        if made.and_then(|()| File::open(&path)?.sync_all()).and_then(|()| File::open(root)?.sync_all()).is_err() {
            return;
        }
    }
    let Ok(there) = read_plain(root) else { return };
    let Ok(file) = File::options().write(true).open(&path) else { return };
    let mut end = there.iter().map(|content| 8 + content.len() as u64).sum();
    for number in (there.len() as u64 + 1..).take(EVENTS as usize) {
        let content = payload(number, run);
        let mut record = (content.len() as u32).to_le_bytes().to_vec();
        record.extend(crc32fast::hash(&content).to_le_bytes());
        record.extend(content);
        if file.write_all_at(&record, end).and_then(|()| file.sync_data()).is_err() {
            return;
        }
        end += record.len() as u64;
        marks.mark(format_args!("E {number} {run}"));
    }
}

fn read_plain(root: &Path) -> Result<Vec<Vec<u8>>, String> {
    let bytes = std::fs::read(root.join("plain")).unwrap_or_default();
    let (mut there, mut at) = (Vec::new(), 0);
    while let Some(header) = bytes.get(at..at + 8) {
        let len = u32::from_le_bytes(header[..4].try_into().map_err(wrong)?) as usize;
        let Some(content) = bytes.get(at + 8..at + 8 + len).filter(|content| !content.is_empty()) else { break };
        if crc32fast::hash(content).to_le_bytes() != header[4..] {
            break;
        }
        there.push(content.to_vec());
        at += 8 + len;
    }
    Ok(there)
}
