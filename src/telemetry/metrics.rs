//! Counting without sharing: each worker counts in its own [`Shard`], a scrape adds them up.
//!
//! A shard has one writer, so counting is a plain addition: no lock, no atomic read-modify-write and
//! no cache line that travels between cores. Label values come from the configuration and from
//! fixed lists, never from a request.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Upper bounds of the latency buckets, in microseconds. The last bucket has no bound. The first ones are for
/// what the gateway itself takes, the last ones for slow upstreams.
pub const BUCKETS_US: [u64; 17] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000, 60_000_000,
];

/// A number that one thread adds to and others read.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `by`. Only the shard's own worker may call this.
    pub fn add(&self, by: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }

    /// Takes 1 away; for gauges.
    pub fn decrement(&self) {
        self.add(u64::MAX);
    }

    /// Makes it `to`; for gauges.
    pub fn set(&self, to: u64) {
        self.0.store(to, Ordering::Relaxed);
    }

    /// The number now.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A latency distribution.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [Count; BUCKETS_US.len() + 1],
    sum_us: Count,
}

impl Latency {
    /// Adds one observation.
    pub fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = BUCKETS_US.partition_point(|bound| *bound < us);
        if let Some(bucket) = self.buckets.get(at) {
            bucket.add(1);
        }
        self.sum_us.add(us);
    }

    /// Adds this shard's numbers to `sum`.
    pub fn add_to(&self, sum: &mut LatencySum) {
        for (total, bucket) in sum.buckets.iter_mut().zip(&self.buckets) {
            *total += bucket.read();
        }
        sum.sum_us += self.sum_us.read();
    }
}

/// Several shards' latencies together.
#[derive(Clone, Debug, Default)]
pub struct LatencySum {
    /// Observations per bucket, not cumulated.
    pub buckets: [u64; BUCKETS_US.len() + 1],
    /// Sum of all observations.
    pub sum_us: u64,
}

impl LatencySum {
    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// What one worker counts for one route. `F` fault codes and `R` outcomes of recovery, both indexed
/// by whoever defines them.
#[derive(Debug)]
pub struct Shard<const F: usize, const R: usize> {
    /// Answers by class: index 1 to 5 for 1xx to 5xx, 0 for callers who left without one.
    pub answers: [Count; 6],
    /// Faults by code.
    pub faults: [Count; F],
    /// 401s of upstreams by what became of them.
    pub recoveries: [Count; R],
    /// From the head of the request to the last byte of the answer.
    pub total: Latency,
    /// The part of it spent waiting for the upstream's response head, all attempts together.
    pub upstream: Latency,
    /// The part of it before and between the attempts: routing, header rules, waiting for a token.
    pub overhead: Latency,
    /// Requests being served now.
    pub in_flight: Count,
    /// Bytes of request bodies.
    pub received_bytes: Count,
    /// Bytes of answer bodies.
    pub sent_bytes: Count,
}

impl<const F: usize, const R: usize> Default for Shard<F, R> {
    fn default() -> Self {
        Self {
            answers: Default::default(),
            faults: std::array::from_fn(|_| Count::default()),
            recoveries: std::array::from_fn(|_| Count::default()),
            total: Latency::default(),
            upstream: Latency::default(),
            overhead: Latency::default(),
            in_flight: Count::default(),
            received_bytes: Count::default(),
            sent_bytes: Count::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_lands_in_the_first_bucket_that_bounds_it() {
        let latency = Latency::default();
        for us in [1, 250, 251, 59_000_000, 61_000_000] {
            latency.observe(Duration::from_micros(us));
        }
        let mut sum = LatencySum::default();
        latency.add_to(&mut sum);
        assert_eq!((sum.buckets[2], sum.buckets[3], sum.buckets[16], sum.buckets[17]), (1, 1, 1, 1));
        assert_eq!((sum.buckets[0], sum.count()), (1, 5));
        assert_eq!(sum.sum_us, 1 + 250 + 251 + 59_000_000 + 61_000_000);
    }

    #[test]
    fn a_gauge_goes_up_and_down() {
        let gauge = Count::default();
        gauge.add(2);
        gauge.decrement();
        assert_eq!(gauge.read(), 1);
    }
}
