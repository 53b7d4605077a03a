//! The goals of the project, as ratios within one run.

use crate::measure::{MEMORY, OPEN, P50, RATE, RATE_AGAIN};
use crate::raw::Results;
use crate::report::metrics::Unit;
use crate::stores::Name;
use crate::workload::Workload;

const LARGEST_MEMORY: f64 = 96.0;

struct Goal {
    text: &'static str,
    workload: &'static str,
    value: &'static str,
    unit: Unit,
    against: Against,
    wanted: Wanted,
}

enum Against {
    /// The best of these.
    BestOf(&'static [Name]),
    EveryPeer,
    /// No peer: the figure itself.
    Itself,
}

#[derive(Clone, Copy)]
enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}

/// What came of a goal.
#[derive(Debug, PartialEq)]
pub struct Reached {
    pub text: &'static str,
    pub wanted: String,
    /// None when one of the two was not measured.
    pub measured: Option<f64>,
    pub met: bool,
    /// The two figures.
    pub of: String,
}

const GOALS: &[Goal] = &[
    Goal {
        text: "pipelined append, 100 a commit, `Os`: against commitlog (a plain log without streams or index)",
        workload: "append-100x100-os-pipelined",
        value: RATE,
        unit: Unit::EventsPerSecond,
        against: Against::BestOf(&[Name::Commitlog]),
        wanted: Wanted::AtLeast(1.0),
    },
    Goal {
        text: "… against the best of SQLite, redb, fjall, LMDB",
        workload: "append-100x100-os-pipelined",
        value: RATE,
        unit: Unit::EventsPerSecond,
        against: Against::BestOf(&[Name::Sqlite, Name::Redb, Name::Fjall, Name::Lmdb]),
        wanted: Wanted::AtLeast(12.0),
    },
    Goal {
        text: "… against batpak",
        workload: "append-100x100-os-pipelined",
        value: RATE,
        unit: Unit::EventsPerSecond,
        against: Against::BestOf(&[Name::Batpak]),
        wanted: Wanted::AtLeast(50.0),
    },
    Goal {
        text: "one event a commit, pipelined, `Os`: against the best peer",
        workload: "append-1x100-os-pipelined",
        value: RATE,
        unit: Unit::EventsPerSecond,
        against: Against::EveryPeer,
        wanted: Wanted::AtLeast(2.5),
    },
    Goal {
        text: "blocking append, `Os`, p50: against fjall",
        workload: "append-1x100-os-blocking",
        value: P50,
        unit: Unit::Micros,
        against: Against::BestOf(&[Name::Fjall]),
        wanted: Wanted::AtMost(1.0),
    },
    Goal {
        text: "one event, synced, one thread: against the best peer",
        workload: "append-1x100-sync-blocking",
        value: RATE,
        unit: Unit::EventsPerSecond,
        against: Against::EveryPeer,
        wanted: Wanted::AtLeast(1.0),
    },
    Goal {
        text: "100 a commit, synced, blocking: against SQLite",
        workload: "append-100x100-sync-blocking",
        value: RATE,
        unit: Unit::EventsPerSecond,
        against: Against::BestOf(&[Name::Sqlite]),
        wanted: Wanted::AtLeast(3.0),
    },
    Goal {
        text: "64 producers, synced: against the best peer with the same threads",
        workload: "producers",
        value: RATE,
        unit: Unit::EventsPerSecond,
        against: Against::EveryPeer,
        wanted: Wanted::AtLeast(3.0),
    },
    Goal {
        text: "1 KiB events, 100 a commit, pipelined, `Os`: against commitlog",
        workload: "append-100x1024-os-pipelined",
        value: RATE,
        unit: Unit::EventsPerSecond,
        against: Against::BestOf(&[Name::Commitlog]),
        wanted: Wanted::AtLeast(1.0),
    },
    Goal {
        text: "replay, checked, first pass: against commitlog",
        workload: "replay",
        value: RATE,
        unit: Unit::EventsPerSecond,
        against: Against::BestOf(&[Name::Commitlog]),
        wanted: Wanted::AtLeast(1.5),
    },
    Goal {
        text: "… later passes",
        workload: "replay",
        value: RATE_AGAIN,
        unit: Unit::EventsPerSecond,
        against: Against::BestOf(&[Name::Commitlog]),
        wanted: Wanted::AtLeast(1.5),
    },
    Goal {
        text: "single-stream reads, first pass: against LMDB",
        workload: "streams",
        value: RATE,
        unit: Unit::EventsPerSecond,
        against: Against::BestOf(&[Name::Lmdb]),
        wanted: Wanted::AtLeast(3.0),
    },
    Goal {
        text: "… later passes",
        workload: "streams",
        value: RATE_AGAIN,
        unit: Unit::EventsPerSecond,
        against: Against::BestOf(&[Name::Lmdb]),
        wanted: Wanted::AtLeast(3.0),
    },
    Goal {
        text: "reopen at 10 M events: against LMDB",
        workload: "reopen-large",
        value: OPEN,
        unit: Unit::Millis,
        against: Against::BestOf(&[Name::Lmdb]),
        wanted: Wanted::AtMost(3.0),
    },
    Goal {
        text: "anonymous memory after 10 M appended events, MiB (the goal is meant at 100 M)",
        workload: "fill-large",
        value: MEMORY,
        unit: Unit::Mebibytes,
        against: Against::Itself,
        wanted: Wanted::AtMost(LARGEST_MEMORY),
    },
];

pub fn reached(results: &Results) -> Vec<Reached> {
    GOALS.iter().map(|goal| goal.reached(results)).collect()
}

pub fn table(results: &Results) -> String {
    let mut text = String::from("| goal | wanted | measured | | of |\n| --- | --- | ---: | --- | --- |\n");
    for goal in reached(results) {
        let (measured, verdict) = match goal.measured {
            Some(measured) if goal.met => (format!("{measured:.2}"), "met"),
            Some(measured) => (format!("{measured:.2}"), "**not met**"),
            None => ("–".into(), "not measured"),
        };
        text.push_str(&format!("| {} | {} | {measured} | {verdict} | {} |\n", goal.text, goal.wanted, goal.of));
    }
    text
}

impl Goal {
    fn reached(&self, results: &Results) -> Reached {
        let wanted = match self.wanted {
            Wanted::AtLeast(least) => format!("at least {least}"),
            Wanted::AtMost(most) => format!("{most} or less"),
        };
        let ours = self.of(results, Name::Towpath);
        let theirs = self.peer(results);
        let measured = match (&self.against, ours, theirs) {
            (Against::Itself, ours, _) => ours,
            (_, Some(ours), Some((_, theirs))) => Some(ours / theirs),
            _ => None,
        };
        let met = measured.is_some_and(|measured| match self.wanted {
            Wanted::AtLeast(least) => measured >= least,
            Wanted::AtMost(most) => measured <= most,
        });
        let show = |figure: f64| format!("{} {}", self.unit.show(figure), self.unit.name());
        let of = match (ours, theirs) {
            (Some(ours), Some((peer, theirs))) => format!("{}; {} {}", show(ours), peer.profile().name, show(theirs)),
            _ => String::new(),
        };
        Reached { text: self.text, wanted, measured, met, of }
    }

    fn peer(&self, results: &Results) -> Option<(Name, f64)> {
        let peers = match self.against {
            Against::BestOf(peers) => peers,
            Against::EveryPeer => Name::ALL,
            Against::Itself => &[Name::Lmdb],
        };
        let figures = peers.iter().filter(|peer| **peer != Name::Towpath);
        let figures = figures.filter_map(|peer| self.of(results, *peer).map(|figure| (*peer, figure)));
        figures.reduce(|best, next| if self.unit.better(next.1, best.1) { next } else { best })
    }

    fn of(&self, results: &Results, store: Name) -> Option<f64> {
        results.median(store, Workload::named(self.workload)?, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::{results, values};

    #[test]
    fn goals_name_workloads_that_there_are() {
        assert!(GOALS.iter().all(|goal| Workload::named(goal.workload).is_some()));
    }

    #[test]
    fn a_ratio_is_taken_against_the_best_of_the_peers_named() {
        let rates = [
            (Name::Towpath, "append-100x100-os-pipelined", 12e6),
            (Name::Commitlog, "append-100x100-os-blocking", 10e6),
            (Name::Lmdb, "append-100x100-os-blocking", 0.9e6),
            (Name::Redb, "append-100x100-os-blocking", 0.4e6),
        ];
        let all = reached(&results(&rates));
        assert_eq!((all[0].measured, all[0].met), (Some(1.2), true));
        assert_eq!((all[1].measured.map(f64::round), all[1].met), (Some(13.0), true));
        assert_eq!((all[2].measured, all[2].met), (None, false));

        let mut slower = rates;
        slower[0].2 = 9e6;
        let all = reached(&results(&slower));
        assert_eq!((all[0].measured, all[0].met), (Some(0.9), false));
        assert_eq!((all[1].measured.map(f64::round), all[1].met), (Some(10.0), false));
    }

    #[test]
    fn where_less_is_better_the_goal_is_an_upper_bound() {
        let p50 = |ours, theirs| {
            let line = |store, p50| (store, "append-1x100-os-blocking", P50, p50);
            let all = reached(&values(&[line(Name::Towpath, ours), line(Name::Fjall, theirs)]));
            (all[4].measured, all[4].met)
        };
        assert_eq!(p50(1.0, 2.0), (Some(0.5), true));
        assert_eq!(p50(3.0, 2.0), (Some(1.5), false));
        let memory = |mib| reached(&values(&[(Name::Towpath, "fill-large", MEMORY, mib)])).last().unwrap().met;
        assert!(memory(96.0) && !memory(96.5));
    }
}
