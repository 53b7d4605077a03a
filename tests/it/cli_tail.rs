//! `towpath tail -f` is a reader in another process (R5): what it prints while segments follow each other, old ones go, and the writer
//! is killed and comes back; what it says of what it cannot print; and how it ends.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::RenameFlags;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::beside::{COMMIT, append, helper};
use crate::cli::{STORE, command};
use crate::support::Scratch;
use crate::withdrawn::{killed_after, lose_behind};

/// Only a test that fails waits so long.
const FAR_TOO_LONG: Duration = Duration::from_secs(60);

struct Tail {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Tail {
    fn start(scratch: &Scratch) -> Self {
        let mut command = command(scratch, &["tail", STORE, "-f", "-n", "1", "--json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _nobody_listens = tell.send(line);
            }
        });
        Self { child, lines }
    }

    /// The position of the next event that it prints.
    fn next(&self) -> u64 {
        let line = self.lines.recv_timeout(FAR_TOO_LONG).expect("it prints another line");
        serde_json::from_str::<Value>(&line).unwrap()["position"].as_u64().unwrap()
    }

    /// It prints these, each once and in their order.
    #[track_caller]
    fn prints(&self, positions: std::ops::RangeInclusive<u64>) {
        positions.for_each(|position| assert_eq!(self.next(), position));
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its exit status, and what it said on stderr.
    fn ends(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(self.lines.iter().all(|line| serde_json::from_str::<Value>(&line).is_ok()), "its lines are whole");
        (status.code(), said)
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        // Where a test failed; it is gone already otherwise.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

#[test]
fn tail_goes_on_through_rolls_retention_and_kills_of_the_writer_until_it_is_interrupted() {
    for signal in [Signal::INT, Signal::TERM] {
        let scratch = Scratch::new();
        append(&scratch.open());
        let tail = Tail::start(&scratch);
        tail.prints(COMMIT..=COMMIT);
        let mut seen = COMMIT;
        for _ in 0..2 {
            let mut writer = helper("writer", &scratch.store_path());
            writer.hears("append 1500");
            let head = writer.says_next("wrote ").parse().unwrap();
            tail.prints(seen + 1..=head);
            writer.hears("retain 300");
            let oldest: u64 = writer.says_next("keeps from ").parse().unwrap();
            assert!(oldest > seen + 300, "{oldest}");
            writer.hears("append 30");
            let head: u64 = writer.says_next("wrote ").parse().unwrap();
            tail.prints(head - 29..=head);
            seen = head;
            writer.kill();
        }
        tail.signal(signal);
        assert_eq!(tail.ends(), (Some(0), String::new()), "{signal:?}");
    }
}

#[test]
fn tail_says_what_went_before_it_could_print_it() {
    let scratch = Scratch::new();
    append(&scratch.open());
    let tail = Tail::start(&scratch);
    tail.prints(COMMIT..=COMMIT);
    tail.signal(Signal::STOP);
    let mut writer = helper("writer", &scratch.store_path());
    writer.hears("append 3000");
    let head: u64 = writer.says_next("wrote ").parse().unwrap();
    writer.hears("retain 1000");
    let oldest: u64 = writer.says_next("keeps from ").parse().unwrap();
    tail.signal(Signal::CONT);
    let mut next = COMMIT + 1;
    let found = loop {
        // What it had mapped, and knew the end of, it may print.
        let printed = tail.next();
        if printed != next {
            break printed;
        }
        next += 1;
    };
    assert_eq!(found, oldest);
    tail.prints(oldest + 1..=head);
    tail.signal(Signal::INT);
    let told = format!("towpath: positions {next} to {} are not kept any more\n", oldest - 1);
    // That is nothing bad about the store: it ends as it does otherwise when it is interrupted.
    assert_eq!(tail.ends(), (Some(0), told));
    writer.ends_well();
}

#[test]
fn tail_ends_when_what_it_printed_was_lost_in_a_crash() {
    let scratch = Scratch::new();
    let path = scratch.store_path();
    let head = killed_after(&path, 60);
    let tail = Tail::start(&scratch);
    tail.prints(head..=head);
    lose_behind(&path, head - 30);
    let store = scratch.open();
    let (status, said) = tail.ends();
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains(&format!("behind position {} were withdrawn, up to {head}", head - 30)), "{said}");
    assert!(said.starts_with(&format!("towpath: in {STORE} ")), "{said}");
    // The next one begins with what is there now, and is not told.
    let tail = Tail::start(&scratch);
    tail.prints(head - 30..=head - 30);
    let last = append(&store).get();
    tail.prints(head - 29..=last);
    tail.signal(Signal::INT);
    assert_eq!(tail.ends(), (Some(0), String::new()));
}

/// Moved away, with another one in its place or none. Control: until then it follows.
#[test]
fn tail_ends_when_the_directory_is_not_the_one_any_more_that_it_follows() {
    for replaced in [false, true] {
        let scratch = Scratch::new();
        let (path, away) = (scratch.store_path(), scratch.path().join("away"));
        let store = scratch.open();
        append(&store);
        let tail = Tail::start(&scratch);
        tail.prints(COMMIT..=COMMIT);
        append(&store);
        tail.prints(COMMIT + 1..=2 * COMMIT);
        if replaced {
            let other = Scratch::new();
            append(&other.open());
            let (cwd, other) = (rustix::fs::CWD, other.store_path());
            rustix::fs::renameat_with(cwd, other, cwd, &path, RenameFlags::EXCHANGE).unwrap();
        } else {
            std::fs::rename(&path, &away).unwrap();
        }
        let (status, said) = tail.ends();
        let told = if replaced { "is another directory now" } else { "is gone: it was moved away or removed" };
        assert_eq!(status, Some(1), "{said}");
        assert!(said.starts_with(&format!("towpath: {STORE} {told}")) && said.lines().count() == 1, "{said}");
    }
}

/// As a slow reader of its output, and one that was stopped for a while, need it.
#[test]
fn tail_prints_all_that_had_come_before_the_directory_went() {
    const MANY: u64 = 3_000;
    let scratch = Scratch::new();
    let path = scratch.store_path();
    let store = scratch.open();
    append(&store);
    let tail = Tail::start(&scratch);
    tail.prints(COMMIT..=COMMIT);
    tail.signal(Signal::STOP);
    while store.head().get() < MANY {
        append(&store);
    }
    std::fs::rename(&path, scratch.path().join("away")).unwrap();
    tail.signal(Signal::CONT);
    tail.prints(COMMIT + 1..=store.head().get());
    let (status, said) = tail.ends();
    assert_eq!((status, said.lines().count()), (Some(1), 1), "{said}");
}

/// Though nothing comes that it could fail to print.
#[test]
fn tail_ends_when_nobody_reads_its_output_any_more() {
    let scratch = Scratch::new();
    append(&scratch.open());
    let mut command = command(&scratch, &["tail", STORE, "-f", "-n", "1", "--json"]);
    let mut tail = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(tail.stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    assert!(tail.try_wait().unwrap().is_none(), "control: it goes on as long as somebody reads");
    drop(out);
    let output = tail.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}
