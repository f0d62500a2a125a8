//! Which upstreams have just been complained of in the log: each request that finds one unreachable would
//! otherwise make a line.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::clock::{self, Moment};

/// The least time between two complaints of one upstream.
const SPACING: Duration = Duration::from_secs(10);
/// Upstreams that are complained of within that time. Thousands of lines say no more than a network that is down.
const UPSTREAMS_MAX: usize = 100;

/// When upstreams were last complained of. Locked only where a connection has failed.
#[derive(Debug, Default)]
pub struct Complaints(Mutex<HashMap<String, Moment>>);

impl Complaints {
    /// Whether a complaint of `upstream` is news now; it is made then.
    pub fn is_news(&self, upstream: &str) -> bool {
        let now = clock::now();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |at: &Moment| now.since(*at) < SPACING;
        if known.get(upstream).is_some_and(is_recent) {
            return false;
        }
        if known.len() >= UPSTREAMS_MAX {
            known.retain(|_, at| is_recent(at));
        }
        if known.len() >= UPSTREAMS_MAX {
            return false;
        }
        known.insert(upstream.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_upstream_is_complained_of_once_in_ten_seconds_and_not_too_many_are() {
        let complaints = Complaints::default();
        assert!(complaints.is_news("https://a.example"));
        assert!(!complaints.is_news("https://a.example"));
        assert!(complaints.is_news("https://b.example"));
        tokio::time::advance(SPACING).await;
        assert!(complaints.is_news("https://a.example"));
        let told = (0..1000).filter(|n| complaints.is_news(&format!("https://{n}.example"))).count();
        assert_eq!(told, UPSTREAMS_MAX - 1);
        tokio::time::advance(SPACING).await;
        assert!(complaints.is_news("https://999.example"));
    }
}
