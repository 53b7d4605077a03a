//! Rising numbers as runs: one after the other costs nothing, a gap a byte. FORMAT.md, "Runs".

use crate::format::varint;

/// Numbers that one list may hold, so that a few forged bytes cannot stand for more than memory can.
pub(crate) const MOST: usize = 1 << 16;

/// Appends rising numbers: how many runs, and for each the gap before it, whether it has more than one number, and then
/// how many beyond two.
pub(crate) fn put(out: &mut Vec<u8>, numbers: &[u64]) {
    debug_assert!(
        numbers.len() <= MOST && numbers.is_sorted_by(|a, b| a < b),
        "a list of rising numbers, and not too long"
    );
    let runs = || numbers.chunk_by(|a, b| a + 1 == *b);
    varint::put(out, runs().count() as u64);
    let mut next = 0;
    for run in runs() {
        let gap = run[0] - next;
        varint::put(out, gap << 1 | u64::from(run.len() > 1));
        if run.len() > 1 {
            varint::put(out, run.len() as u64 - 2);
        }
        next = run[0] + run.len() as u64;
    }
}

/// Reads a list and moves behind it. `None` where the bytes do not hold one.
pub(crate) fn take(bytes: &mut &[u8]) -> Option<Vec<u64>> {
    let runs = varint::take(bytes)?;
    let (mut numbers, mut next) = (Vec::new(), 0u64);
    for at in 0..runs {
        let head = varint::take(bytes)?;
        let (gap, is_long) = (head >> 1, head & 1 == 1);
        let len = if is_long { varint::take(bytes)?.checked_add(2)? } else { 1 };
        let first = next.checked_add(gap)?;
        if at > 0 && gap == 0 || len > (MOST - numbers.len()) as u64 {
            return None;
        }
        next = first.checked_add(len)?;
        numbers.extend(first..next);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(numbers: &[u64]) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, numbers);
        out
    }

    #[test]
    fn lists_read_back_and_a_run_costs_as_much_as_one_number() {
        for numbers in [&[][..], &[0], &[7], &[1, 2], &[1, 2, 3, 9, 11, 12, 1 << 62], &[5, 7, 9]] {
            let bytes = encoded(numbers);
            let mut rest = &bytes[..];
            assert_eq!((take(&mut rest).as_deref(), rest.len()), (Some(numbers), 0));
            assert!((0..bytes.len()).all(|cut| take(&mut &bytes[..cut]).is_none()), "a cut list was read");
        }
        let run: Vec<u64> = (1_000_000..1_000_256).collect();
        assert_eq!(encoded(&run).len(), encoded(&run[..1]).len() + 2);
    }

    #[test]
    fn a_few_bytes_cannot_stand_for_more_than_memory_can() {
        let mut bytes = vec![1, 3];
        varint::put(&mut bytes, 1 << 40);
        assert_eq!(take(&mut &bytes[..]), None);
        assert_eq!(take(&mut &[2, 2, 0][..]), None, "two runs without a gap are one");
    }
}
