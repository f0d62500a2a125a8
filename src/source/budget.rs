//! How long reading sources may hold up one token request, all of its sources together.
//!
//! A vault that hangs must not use up the time in which the last good secret would have got a token, nor
//! make the identity provider look as if it had not answered.

use std::{
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Source, SourceError};

/// While there is a last good value, sources have this part of a token request's time: one half.
const SHARE_OF_NEWER: f64 = 0.5;
/// Without one, nothing can be asked; the rest is for saying so.
const SHARE_OF_FIRST: f64 = 0.9;
/// What every source has at least, so that one that hangs does not take the newest value of a file away.
const READING_MIN: Duration = Duration::from_millis(100);

/// What is left for reading sources. Only the time of reading counts, not that of the provider.
#[derive(Debug)]
pub struct Budget {
    /// The time of the token request; `None` where nothing waits for the sources.
    timeout: Option<Duration>,
    spent: Mutex<Duration>,
}

impl Budget {
    /// For a token request that may take `timeout`.
    pub fn of(timeout: Duration) -> Self {
        Self { timeout: Some(timeout), spent: Mutex::default() }
    }

    /// For whoever only looks at sources.
    pub fn endless() -> Self {
        Self { timeout: None, spent: Mutex::default() }
    }

    /// What `read` gives, which reads `source`. `has_last` says whether there is a last good value.
    ///
    /// # Errors
    /// Those of `read`, and [`SourceError::Slow`] when the time is over.
    pub async fn read<T>(
        &self,
        source: &Source,
        has_last: bool,
        read: impl Future<Output = Result<T, SourceError>>,
    ) -> Result<T, SourceError> {
        let within = self.within(has_last, read).await;
        within.unwrap_or_else(|limit| Err(SourceError::Slow(source.clone(), limit)))
    }

    /// What `read` gives, or all the time that sources have, which is over. Dropped, `read` is cancelled.
    ///
    /// # Errors
    /// When the time is over.
    pub async fn within<T>(&self, has_last: bool, read: impl Future<Output = T>) -> Result<T, Duration> {
        let Some(timeout) = self.timeout else { return Ok(read.await) };
        let whole = timeout.mul_f64(if has_last { SHARE_OF_NEWER } else { SHARE_OF_FIRST });
        let spent = *self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        let outcome = tokio::time::timeout(whole.saturating_sub(spent).max(READING_MIN), read).await;
        *self.spent.lock().unwrap_or_else(PoisonError::into_inner) += began.elapsed();
        outcome.map_err(|_| whole)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    async fn took(budget: &Budget, has_last: bool) -> Duration {
        let began = Instant::now();
        budget.within(has_last, pending::<()>()).await.unwrap_err();
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn sources_that_hang_leave_half_of_the_time_to_the_provider() {
        let budget = Budget::of(Duration::from_secs(10));
        assert_eq!(took(&budget, true).await, Duration::from_secs(5));
        // The provider's own time does not count.
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(took(&budget, true).await, READING_MIN, "the next one has hardly any");
        let budget = Budget::of(Duration::from_secs(10));
        assert_eq!(took(&budget, false).await, Duration::from_secs(9), "nothing can stand in");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reading_without_an_end_is_told_with_the_source_and_the_time() {
        let (budget, source) = (Budget::of(Duration::from_secs(10)), Source::File("/nfs/secret".into()));
        let error = budget.read(&source, true, pending::<Result<(), _>>()).await.unwrap_err();
        assert!(error.is_transient());
        assert_eq!(
            error.to_string(),
            "file /nfs/secret was not read within 5 s (of the profile's token_timeout; is it reachable?)"
        );
    }
}
