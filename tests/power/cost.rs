//! What one synced event costs the disk.

use std::path::Path;
use std::process::Command;

use towpath::{NewEvent, Options};

use crate::log::{Entry, Log};
use crate::machine::{Format, Machine};
use crate::roles;
use crate::stories::Marks;

/// Enough for several segments, each of which has its blocks written ahead.
const EVENTS: u64 = 8000;
const WARM_UP: u64 = 500;
const PAYLOAD: usize = 300;
/// Bytes written for each event, at most.
const MOST: u64 = 6 << 10;

#[test]
fn a_synced_event_of_300_bytes_costs_the_disk_at_most_6_kib() {
    roles::on_a_machine(measure, |role, dir| append(&dir.join("mnt"), &Marks::of(dir), role == "large"));
}

fn measure(dir: &Path) {
    let mut machine = Machine::start(dir, Format::Ext4);
    let journal = journal(&dir.join("fresh"));
    let mut cost = |role: &str| {
        machine.load(&[]);
        machine.mount().unwrap();
        assert!(roles::command(role, machine.dir()).status().unwrap().success());
        machine.unmount();
        cost(&machine.log(), &journal)
    };
    let (data, journalled) = cost("small");
    roles::tell(&format!(
        "power: a synced event of {PAYLOAD} bytes on ext4: {} bytes to the disk, {data} of data and {journalled} of journal, \
         over {EVENTS} events",
        data + journalled,
    ));
    assert!(data + journalled <= MOST, "{data} and {journalled}");
    // Control: more is seen where more is written.
    let (large, journalled) = cost("large");
    assert!(large + journalled > MOST, "{large} and {journalled}");
}

fn append(root: &Path, marks: &Marks, large: bool) {
    let store = Options::new().open(root.join("store")).unwrap();
    let (payload, events) = if large { (vec![7; 20 * PAYLOAD], 500) } else { (vec![7; PAYLOAD], EVENTS) };
    for number in 0..WARM_UP + events {
        if number == WARM_UP {
            marks.mark("begin");
        }
        store.append("s", NewEvent::new("n", &payload)).unwrap();
    }
    marks.mark(format_args!("end {events}"));
}

/// Bytes of data and of journal for each event between the marks.
fn cost(log: &Log, journal: &[u64]) -> (u64, u64) {
    let (mut data, mut journalled, mut counts) = (0, 0, false);
    for entry in &log.entries {
        match entry {
            Entry::Mark(text) if text == "begin" => counts = true,
            Entry::Mark(text) => {
                let events = text.strip_prefix("end ").unwrap().parse::<u64>().unwrap();
                return (data / events, journalled / events);
            }
            Entry::Write { offset, bytes } if counts => {
                let is_journal = journal.binary_search(&(offset / 4096)).is_ok();
                *(if is_journal { &mut journalled } else { &mut data }) += bytes.len() as u64;
            }
            _ => {}
        }
    }
    panic!("it did not come to its end");
}

/// The blocks of the file system's journal, sorted.
fn journal(image: &Path) -> Vec<u64> {
    let output = Command::new("debugfs").args(["-R", "blocks <8>"]).arg(image).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut blocks: Vec<u64> = text.split_whitespace().map(|block| block.parse().unwrap()).collect();
    blocks.sort_unstable();
    assert!(!blocks.is_empty());
    blocks
}
