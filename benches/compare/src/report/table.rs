//! Markdown tables: a line for each store, the best of each column in bold.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::raw::{Figure, Results};
use crate::report::metrics::{Group, Metric};
use crate::stores::Name;
use crate::workload::Mark;

/// Whether medians stand alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    Medians,
    /// With the lowest and the highest of all rounds.
    Spread,
}

pub fn table(results: &Results, group: &Group, detail: Detail) -> String {
    let stores = results.stores();
    let metrics: Vec<&Metric> = group.metrics.iter().filter(|metric| is_shown(results, metric)).collect();
    let mut text = String::from("| |");
    metrics.iter().for_each(|metric| write_to(&mut text, format_args!(" {} |", metric.title)));
    text.push_str("\n| --- |");
    metrics.iter().for_each(|_| text.push_str(" ---: |"));
    for store in &stores {
        write_to(&mut text, format_args!("\n| {} |", store.profile().name));
        for metric in &metrics {
            let best = best(results, metric).is_some_and(|(best, _)| best == *store);
            write_to(&mut text, format_args!(" {} |", cell(results, metric, *store, best, detail)));
        }
    }
    text.push('\n');
    let marks: BTreeSet<Mark> = stores.iter().flat_map(|store| marks(results, &metrics, *store)).collect();
    let notes: Vec<String> = Mark::ALL
        .iter()
        .filter(|mark| marks.contains(mark))
        .map(|mark| format!("{} {}", mark.sign(), mark.meaning()))
        .collect();
    if !notes.is_empty() {
        write_to(&mut text, format_args!("\n{}.\n", notes.join("; ")));
    }
    text
}

/// The store that is best by this metric, and its median.
pub fn best(results: &Results, metric: &Metric) -> Option<(Name, f64)> {
    let measured = results
        .stores()
        .into_iter()
        .filter_map(|store| results.median(store, metric.workload, metric.value).map(|median| (store, median)));
    measured.reduce(|best, next| if metric.unit.better(next.1, best.1) { next } else { best })
}

fn cell(results: &Results, metric: &Metric, store: Name, best: bool, detail: Detail) -> String {
    match results.figure(store, metric.workload, metric.value) {
        Figure::Cannot(_) | Figure::Absent => "–".into(),
        Figure::Failed(_) => "failed".into(),
        Figure::Measured { summary, marks } => {
            let signs: String = marks.iter().map(|mark| mark.sign()).collect();
            let shown = metric.unit.show(summary.median);
            let shown = if best { format!("**{shown}**{signs}") } else { format!("{shown}{signs}") };
            match detail {
                Detail::Medians => shown,
                Detail::Spread => {
                    let (lowest, highest) = (metric.unit.show(summary.lowest), metric.unit.show(summary.highest));
                    format!("{shown}<br>{lowest} … {highest}")
                }
            }
        }
    }
}

fn is_shown(results: &Results, metric: &Metric) -> bool {
    best(results, metric).is_some()
}

fn marks(results: &Results, metrics: &[&Metric], store: Name) -> BTreeSet<Mark> {
    let figures = metrics.iter().map(|metric| results.figure(store, metric.workload, metric.value));
    let marks = figures.flat_map(|figure| match figure {
        Figure::Measured { marks, .. } => marks,
        _ => Vec::new(),
    });
    marks.collect()
}

fn write_to(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::results;
    use crate::report::metrics::groups;

    #[test]
    fn a_table_has_a_line_a_store_and_the_best_in_bold() {
        let results = results(&[
            (Name::Towpath, "replay", 30e6),
            (Name::Lmdb, "replay", 35e6),
            (Name::Towpath, "streams", 9e6),
            (Name::Commitlog, "replay", 20e6),
        ]);
        let text = table(&results, &groups()[2], Detail::Medians);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "| | replay, first pass | 1,000 streams, first pass |");
        assert_eq!(lines[2], "| towpath | 30.0 M | **9.00 M** |");
        assert_eq!(lines[3], "| LMDB | **35.0 M** | – |");
        assert_eq!(lines[4], "| commitlog | 20.0 M | – |");
    }

    #[test]
    fn what_a_store_does_instead_is_marked_and_explained() {
        let results = results(&[
            (Name::Towpath, "append-100x100-os-pipelined", 13e6),
            (Name::Lmdb, "append-100x100-os-blocking", 1e6),
            (Name::Umadb, "append-100x100-sync-pipelined", 2e5),
        ]);
        let text = table(&results, &groups()[0], Detail::Spread);
        assert!(text.contains("| **13.0 M**<br>13.0 M … 13.0 M |"), "{text}");
        assert!(text.contains("| 1.00 Mᵇ<br>"), "{text}");
        assert!(text.contains("| 200 kˢ<br>"), "{text}");
        assert!(text.ends_with(&format!("ᵇ {}; ˢ {}.\n", Mark::Blocking.meaning(), Mark::Synced.meaning())), "{text}");
    }
}
