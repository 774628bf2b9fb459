//! A log-linear histogram of durations in nanoseconds.
//!
//! Invariants:
//! - a value is off by less than 1 part in 128 where it is read back, and never by more than the
//!   smallest and largest value seen;
//! - recording costs no allocation; the size is fixed (36 KiB), whatever the values are.

/// Each power of two is cut into this many equal parts.
const PARTS: usize = 128;
const PART_BITS: u32 = PARTS.ilog2();
/// Values beyond 2^`BITS_MAX` (18 minutes) are counted in the last part.
const BITS_MAX: u32 = 40;
const BUCKETS: usize = PARTS * (BITS_MAX - PART_BITS + 1) as usize;

#[derive(Debug, Clone)]
pub(super) struct Histogram {
    counts: Box<[u64]>,
    count: u64,
    sum: u64,
    min: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS].into_boxed_slice(),
            count: 0,
            sum: 0,
            min: u64::MAX,
            max: 0,
        }
    }
}

impl Histogram {
    #[inline]
    pub(super) fn record(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Adds what `other` holds and empties it.
    pub(super) fn take_from(&mut self, other: &mut Self) {
        if other.count == 0 {
            return;
        }
        for (to, from) in self.counts.iter_mut().zip(&mut other.counts) {
            *to += std::mem::take(from);
        }
        self.count += std::mem::take(&mut other.count);
        self.sum = self.sum.saturating_add(std::mem::take(&mut other.sum));
        self.min = self.min.min(std::mem::replace(&mut other.min, u64::MAX));
        self.max = self.max.max(std::mem::take(&mut other.max));
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// The smallest value; 0 when there is none.
    pub(super) const fn min(&self) -> u64 {
        if self.count == 0 { 0 } else { self.min }
    }

    pub(super) const fn max(&self) -> u64 {
        self.max
    }

    pub(super) const fn mean(&self) -> u64 {
        match self.sum.checked_div(self.count) {
            Some(mean) => mean,
            None => 0,
        }
    }

    /// The value that `percent` of the values do not exceed; 0 when there is none.
    pub(super) fn percentile(&self, percent: f64) -> u64 {
        let wanted = ((percent / 100.0 * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return highest(at).clamp(self.min, self.max);
            }
        }
        0
    }
}

#[inline]
fn bucket(value: u64) -> usize {
    let Some(octave) = value
        .checked_ilog2()
        .and_then(|bits| bits.checked_sub(PART_BITS))
    else {
        return value as usize;
    };
    let part = (value >> octave) as usize - PARTS;
    let at = (octave as usize + 1) * PARTS + part;
    at.min(BUCKETS - 1)
}

/// The highest value that is counted in bucket `at`.
fn highest(at: usize) -> u64 {
    if at < PARTS {
        return at as u64;
    }
    let octave = at / PARTS - 1;
    let part = (at % PARTS + PARTS) as u64;
    ((part + 1) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gap() {
        let mut last = 0;
        for at in 1..BUCKETS {
            assert_eq!(bucket(highest(at)), at);
            assert_eq!(
                bucket(highest(at - 1) + 1),
                at,
                "the next value is the next bucket's"
            );
            assert!(highest(at) > last);
            last = highest(at);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(last, (1 << BITS_MAX) - 1);
    }

    #[test]
    fn percentiles_are_close() {
        let mut histogram = Histogram::default();
        for value in 1..=100_000 {
            histogram.record(value * 10);
        }
        for (percent, exact) in [(50.0, 500_000), (99.0, 990_000), (99.9, 999_000)] {
            let found = histogram.percentile(percent);
            assert!(found.abs_diff(exact) * 128 <= exact, "{percent}: {found}");
        }
        assert_eq!(histogram.percentile(100.0), 1_000_000);
        assert_eq!((histogram.min(), histogram.max()), (10, 1_000_000));
        assert_eq!(histogram.mean(), 500_005);
    }

    #[test]
    fn none_is_zero_and_one_is_itself() {
        let mut histogram = Histogram::default();
        assert_eq!(
            (
                histogram.percentile(50.0),
                histogram.min(),
                histogram.mean()
            ),
            (0, 0, 0)
        );
        histogram.record(123_457);
        assert_eq!(histogram.percentile(1.0), 123_457);
        assert_eq!(histogram.percentile(99.9), 123_457);
    }

    #[test]
    fn taking_moves_everything() {
        let (mut all, mut part) = (Histogram::default(), Histogram::default());
        all.record(5);
        part.record(1_000);
        all.take_from(&mut part);
        all.take_from(&mut part);
        assert_eq!((all.count(), all.min(), all.max()), (2, 5, 1_000));
        assert_eq!((part.count(), part.max(), part.percentile(50.0)), (0, 0, 0));
    }
}
