//! R5: looking beside a writer that lets go of old segments once the store was opened to be looked at.

use std::path::PathBuf;

use super::*;
use crate::event::draft::NewEvent;
use crate::inspect::verify::verify_log;
use crate::store::{Options, Store};
use crate::writer::durability::Durability;

const EVENTS: u64 = 1_000;
const KEPT: u64 = 200;

/// A store of a dozen segments, open for writing.
struct Beside {
    path: PathBuf,
    store: Store,
}

impl Beside {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("towpath-inspect-{name}-{}", std::process::id()));
        let _none_yet = std::fs::remove_dir_all(&path);
        let options = Options::new().segment_bytes(64 << 10).durability(Durability::Os);
        let store = options.open(&path).unwrap();
        for number in 0..EVENTS {
            store.append(&format!("cart-{}", number % 50), NewEvent::new("added", &[7; 600])).unwrap();
        }
        Self { path, store }
    }

    fn open(&self) -> Arc<Log> {
        open(&self.path).unwrap()
    }

    /// The first position that is kept then. `control` was opened before, as what is to look was.
    fn lets_go(&self, control: &Log) -> u64 {
        let plan = self.store.retain(&Retention::new().max_events(KEPT)).unwrap();
        assert!(plan.segments > 4, "{plan:?}");
        let met = control.parts.of(Position::new(1));
        assert!(matches!(met, Err(Error::Expired { .. })), "control: {met:?}");
        plan.keeps_from.get()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _removed = std::fs::remove_dir_all(&self.path);
    }
}

#[test]
fn figures_are_of_what_is_still_there_when_it_is_looked_at() {
    let beside = Beside::new("figures");
    let (log, control) = (beside.open(), beside.open());
    assert_eq!(summary_of(&beside.open()).unwrap().events, EVENTS);
    let oldest = beside.lets_go(&control);
    let found = summary_of(&log).unwrap();
    assert_eq!((found.first_position.get(), found.last_position.get()), (oldest, EVENTS));
    assert_eq!((found.gone, found.events), (oldest - 1, EVENTS - (oldest - 1)));
    let after = summary_of(&beside.open()).unwrap();
    assert_eq!((found.segments, found.index_files), (after.segments, after.index_files));
}

#[test]
fn every_event_goes_on_at_the_oldest_that_is_kept() {
    let beside = Beside::new("events");
    let (log, control) = (beside.open(), beside.open());
    let (mut seen, mut oldest) = (Vec::new(), 0);
    let damage = each_event(&log, |frame| {
        seen.push(frame.position().get());
        if seen.len() == 10 {
            oldest = beside.lets_go(&control);
        }
    });
    assert_eq!(damage.unwrap(), []);
    // The segment that it was in stays readable.
    let jump = seen.windows(2).position(|pair| pair[1] != pair[0] + 1).unwrap();
    assert!(jump >= 9 && seen[jump] < oldest - 1, "{jump} {oldest}");
    assert!(seen[..=jump].iter().copied().eq(1..=seen[jump]), "nothing is left out before");
    assert!(seen[jump + 1..].iter().copied().eq(oldest..=EVENTS), "nor behind");
}

#[test]
fn a_check_passes_over_what_was_let_go_of() {
    for depth in [Depth::Fast, Depth::Whole, Depth::Deep] {
        let beside = Beside::new("check");
        let (log, control) = (beside.open(), beside.open());
        let oldest = beside.lets_go(&control);
        let verdict = verify_log(&log, depth, &mut |_| {}).unwrap();
        assert!(verdict.ok, "{depth:?}: {:?}", verdict.damage);
        assert!(depth == Depth::Fast || verdict.events == EVENTS - (oldest - 1), "{depth:?}: {}", verdict.events);
    }
}

#[test]
fn what_is_durable_is_known_of_backups_and_of_killed_stores_too() {
    let beside = Beside::new("durable");
    let (path, head) = (&beside.path, beside.store.head());
    let durable = |path: &Path| summary(path).unwrap().durable_position;
    assert!(durable(path) < head, "control: nobody asked for it");
    beside.store.sync().unwrap();
    assert_eq!(durable(path), head);
    let [copy, backup] = ["killed", "backup"].map(|suffix| path.with_extension(suffix));
    [&copy, &backup].iter().for_each(|at| _ = std::fs::remove_dir_all(at));
    crate::copies::backup(path, &backup, |_| {}).unwrap();
    assert_eq!(durable(&backup), head);
    // As a kill leaves it: the lock file tells.
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(path).unwrap().map(|file| file.unwrap().path()).filter(|file| file.is_file()) {
        std::fs::copy(&file, copy.join(file.file_name().unwrap())).unwrap();
    }
    assert_eq!(durable(&copy), head);
    [&copy, &backup].iter().for_each(|at| std::fs::remove_dir_all(at).unwrap());
}
