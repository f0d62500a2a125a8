//! How many requests may wait for one profile's token.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crate::token::{Reason, Unavailable};

/// One place in the queue of waiters.
pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    pub(super) fn enter(waiters: &'a AtomicUsize, limit: usize) -> Result<Self, Unavailable> {
        let place = Self(waiters);
        if waiters.fetch_add(1, Ordering::Relaxed) >= limit {
            let retry_after = Duration::from_secs(1);
            return Err(Unavailable { retry_after, reason: Reason::TooManyWaiters, fetch: None });
        }
        Ok(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
