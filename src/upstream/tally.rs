//! How many connections lie idle in a pool, for those who look from outside.
//!
//! A pool's worker counts without a lock. It takes one only when it begins or ends to keep connections to
//! an upstream.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::telemetry::metrics::Count;

/// Idle connections of one worker's pool, by upstream.
#[derive(Debug, Default)]
pub struct Tally(Mutex<HashMap<u64, Arc<Count>>>);

impl Tally {
    /// Idle connections to the upstream of this id.
    pub fn idle(&self, id: u64) -> u64 {
        self.counts().get(&id).map_or(0, |count| count.read())
    }

    pub(super) fn begin(&self, id: u64) -> Arc<Count> {
        Arc::clone(self.counts().entry(id).or_default())
    }

    pub(super) fn end(&self, id: u64) {
        self.counts().remove(&id);
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<u64, Arc<Count>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
