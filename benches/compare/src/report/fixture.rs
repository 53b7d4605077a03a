//! Results for the tests of tables.

use crate::measure::{RATE, Values};
use crate::raw::{Line, Measurement, Outcome, Results};
use crate::stores::Name;

/// Rates by store and workload, one round each.
pub fn results(rates: &[(Name, &str, f64)]) -> Results {
    let lines: Vec<_> = rates.iter().map(|(store, workload, rate)| (*store, *workload, RATE, *rate)).collect();
    values(&lines)
}

pub fn values(lines: &[(Name, &str, &str, f64)]) -> Results {
    let line = |(store, workload, value, figure): &(Name, &str, &str, f64)| {
        let outcome = Outcome::Values(Values::from([((*value).into(), *figure)]));
        Line::Measurement(Measurement { store: *store, workload: (*workload).into(), round: 1, outcome })
    };
    lines.iter().map(line).collect()
}
