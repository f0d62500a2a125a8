//! When secrets and certificates expire, as far as that can be known, and when to say so.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// So long ahead people begin to be told: a new secret has to be asked for, agreed on and rolled out.
pub const AHEAD: Duration = Duration::from_secs(30 * 86_400);

/// The end of something that a profile proves itself with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The key of the configuration that it belongs to, such as `client_secret`.
    pub what: &'static str,
    /// When it ends.
    pub at: SystemTime,
}

impl Expiry {
    /// What to tell an operator at `now`, if it is time to.
    pub fn warning(&self, now: SystemTime) -> Option<String> {
        let Ok(left) = self.at.duration_since(now) else {
            return Some(format!("{} has expired on {self} (replace it)", self.what));
        };
        let days = left.as_secs() / 86_400;
        let left = match days {
            0 => "in less than a day".to_owned(),
            1 => "in a day".to_owned(),
            days => format!("in {days} days"),
        };
        (days < AHEAD.as_secs() / 86_400)
            .then(|| format!("{} expires {left}, on {self} (replace it)", self.what))
    }
}

/// The day, in UTC.
impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Beyond the year 9999 the formatter has no words.
        let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
        let text = httpdate::fmt_http_date(self.at.min(last));
        f.write_str(text.split_once(", ").and_then(|(_, rest)| rest.get(..11)).unwrap_or(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_from_thirty_days_ahead_on() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let expiry = Expiry { what: "client_secret", at };
        let told = |before: u64| expiry.warning(at - Duration::from_secs(before));
        let day = 86_400;
        assert_eq!(told(30 * day), None);
        assert_eq!(
            told(30 * day - 1).unwrap(),
            "client_secret expires in 29 days, on 15 Jan 2027 (replace it)"
        );
        assert!(told(day).unwrap().contains("in a day"));
        assert!(told(1).unwrap().contains("less than a day"));
        let late = expiry.warning(at + Duration::from_secs(1)).unwrap();
        assert_eq!(late, "client_secret has expired on 15 Jan 2027 (replace it)");
    }
}
