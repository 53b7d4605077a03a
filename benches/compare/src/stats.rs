//! Medians and spreads.

/// The middle of all rounds, and the lowest and highest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub median: f64,
    pub lowest: f64,
    pub highest: f64,
}

impl Summary {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (lowest, highest) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] };
        Some(Self { median, lowest, highest })
    }

    /// How far the rounds lie apart, in percent of the median.
    pub fn spread(&self) -> f64 {
        if self.median > 0.0 { (self.highest - self.lowest) / self.median * 100.0 } else { 0.0 }
    }
}

/// Of sorted values.
pub fn percentile<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let place = (sorted.len() * percent / 100).min(sorted.len().checked_sub(1)?);
    sorted.get(place).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_not_the_mean() {
        let summary = Summary::of([9.0, 1.0, 100.0, 2.0, 3.0]).unwrap();
        assert_eq!((summary.median, summary.lowest, summary.highest), (3.0, 1.0, 100.0));
        assert_ne!(summary.median, (9.0 + 1.0 + 100.0 + 2.0 + 3.0) / 5.0);
        assert_eq!(Summary::of([4.0, 1.0]).unwrap().median, 2.5);
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn the_spread_is_relative_to_the_median() {
        assert_eq!(Summary::of([90.0, 100.0, 120.0]).unwrap().spread(), 30.0);
        assert_eq!(Summary::of([5.0]).unwrap().spread(), 0.0);
    }

    #[test]
    fn percentiles_of_few_values_stay_within_them() {
        assert_eq!(percentile(&[1, 2, 3], 99), Some(3));
        assert_eq!(percentile(&[7], 50), Some(7));
        assert_eq!(percentile::<u32>(&[], 50), None);
    }
}
