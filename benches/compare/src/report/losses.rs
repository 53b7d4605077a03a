//! Where another store is better, from the figures.

use crate::raw::Results;
use crate::report::metrics::{Metric, groups};
use crate::stores::Name;

/// A metric by which others are better than towpath, the best of them first.
#[derive(Debug, PartialEq)]
pub struct Loss {
    pub metric: String,
    pub ours: String,
    pub others: Vec<String>,
}

pub fn losses(results: &Results) -> Vec<Loss> {
    let groups = groups();
    let metrics = groups.iter().flat_map(|group| group.metrics.iter().map(move |metric| (group.title, metric)));
    metrics.filter_map(|(group, metric)| loss(results, group, metric)).collect()
}

pub fn list(results: &Results) -> String {
    let losses = losses(results);
    if losses.is_empty() {
        return "Nowhere in this run.\n".into();
    }
    let line = |loss: Loss| format!("| {} | {} | {} |\n", loss.metric, loss.ours, loss.others.join(", "));
    let lines: String = losses.into_iter().map(line).collect();
    format!("| | towpath | better, and how many times |\n| --- | ---: | --- |\n{lines}")
}

fn loss(results: &Results, group: &str, metric: &Metric) -> Option<Loss> {
    let ours = results.median(Name::Towpath, metric.workload, metric.value)?;
    let mut better: Vec<(Name, f64)> = Name::ALL
        .iter()
        .filter_map(|store| results.median(*store, metric.workload, metric.value).map(|figure| (*store, figure)))
        .filter(|(_, figure)| metric.unit.better(*figure, ours))
        .collect();
    better.sort_by(|one, other| one.1.total_cmp(&other.1));
    if metric.unit.more_is_better() {
        better.reverse();
    }
    let others: Vec<String> = better
        .into_iter()
        .map(|(store, figure)| {
            let times = if metric.unit.more_is_better() { figure / ours } else { ours / figure };
            format!("{} {} ({times:.2} ×)", store.profile().name, metric.unit.show(figure))
        })
        .collect();
    let metric_name = format!("{group}: {}", metric.title);
    (!others.is_empty()).then(|| Loss { metric: metric_name, ours: metric.unit.show(ours), others })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::results;

    #[test]
    fn who_is_better_is_told_the_best_first_and_who_is_not_is_left_out() {
        let mut rates = [
            (Name::Towpath, "replay", 30e6),
            (Name::Redb, "replay", 33e6),
            (Name::Lmdb, "replay", 45e6),
            (Name::Sqlite, "replay", 17e6),
        ];
        let found = losses(&results(&rates));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].others, ["LMDB 45.0 M (1.50 ×)", "redb 33.0 M (1.10 ×)"]);

        rates[0].2 = 50e6;
        assert_eq!(losses(&results(&rates)), []);
        assert_eq!(list(&results(&rates)), "Nowhere in this run.\n");
    }
}
