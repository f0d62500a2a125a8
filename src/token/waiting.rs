//! Requests that wait for one profile's token: how many may, and what they get.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use crate::token::{Reason, Token, Unavailable, state::Status};

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

/// A request that waits for a token.
pub(super) struct Wait {
    pub(super) status: watch::Receiver<Status>,
    /// It wants a later one.
    pub(super) generation: u64,
    /// The round in which it began to wait.
    pub(super) asked_in: u64,
}

impl Wait {
    /// The token, or why there is none.
    pub(super) async fn outcome(&mut self) -> Result<Arc<Token>, Unavailable> {
        loop {
            if let Some(outcome) = self.status.borrow_and_update().outcome(self.generation, self.asked_in) {
                return outcome;
            }
            // Cannot fail: the sender lives in `Shared`, which the waiting handle keeps alive.
            let _ = self.status.changed().await;
        }
    }
}
