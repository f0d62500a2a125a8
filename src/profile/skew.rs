//! How far a provider's clock and this machine's are apart, from the `Date` of the provider's answers.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use reqwest::header::HeaderValue;

/// From here on it is worth a warning: servers begin to refuse assertions, the strictest 20 s ahead of their clocks
/// (Auth0) or 50 behind (Keycloak).
pub const WARN: Duration = Duration::from_secs(15);

/// Stands for "nobody has answered yet".
const UNKNOWN: i64 = i64::MIN;

/// The difference that the last answer showed.
#[derive(Debug)]
pub struct Skew(AtomicI64);

impl Default for Skew {
    fn default() -> Self {
        Self(AtomicI64::new(UNKNOWN))
    }
}

impl Skew {
    /// Takes the `Date` of an answer to a request that was sent and answered at these times. An answer
    /// without one changes nothing.
    pub fn observe(&self, date: Option<&HeaderValue>, sent: SystemTime, answered: SystemTime) {
        let date = date.and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok());
        if let Some(date) = date {
            self.0.store(seconds(date, sent, answered), Ordering::Relaxed);
        }
    }

    /// Whole seconds that the provider's clock is ahead of this machine's, negative when it is behind;
    /// `None` while unknown.
    pub fn seconds(&self) -> Option<i64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|seconds| *seconds != UNKNOWN)
    }
}

/// The least difference that explains the answer: a `Date` is cut to seconds, and nobody knows when
/// between the two times it was made.
fn seconds(date: SystemTime, sent: SystemTime, answered: SystemTime) -> i64 {
    let date = unix(date);
    let (earliest, latest) = (date - unix(answered), date + 1 - unix(sent));
    if earliest > 0 { earliest } else { latest.min(0) }
}

fn unix(time: SystemTime) -> i64 {
    let span = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unix: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(unix)
    }

    #[test]
    fn a_slow_answer_and_a_cut_second_are_no_skew() {
        for (date, sent, answered, expected) in [
            (100, 100, 100, 0),
            (100, 99, 103, 0),
            (100, 101, 101, 0),
            (100, 30, 100, 0),
            (200, 100, 103, 97),
            (100, 200, 203, -99),
        ] {
            assert_eq!(seconds(at(date), at(sent), at(answered)), expected, "{date} {sent} {answered}");
        }
    }

    #[test]
    fn an_answer_without_a_readable_date_leaves_what_was_known() {
        let skew = Skew::default();
        assert_eq!(skew.seconds(), None);
        let date = HeaderValue::from_static("Thu, 01 Jan 1970 00:10:00 GMT");
        skew.observe(Some(&date), at(0), at(1));
        assert_eq!(skew.seconds(), Some(599));
        skew.observe(None, at(0), at(1));
        skew.observe(Some(&HeaderValue::from_static("soon")), at(0), at(1));
        assert_eq!(skew.seconds(), Some(599));
    }
}
