//! Times as people read them: how long ago, in how long, and at what o'clock.

use std::time::UNIX_EPOCH;

use x509_parser::time::ASN1Time;

use crate::clock;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Now, in seconds since 1970.
pub(super) fn now() -> u64 {
    clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A span, to its two largest units: `3 h 12 min`.
pub(super) fn span(seconds: u64) -> String {
    let (large, small) = match seconds {
        DAY.. => ((seconds / DAY, "d"), (seconds % DAY / HOUR, "h")),
        HOUR.. => ((seconds / HOUR, "h"), (seconds % HOUR / MINUTE, "min")),
        // Seconds count only when few are left.
        600.. => ((seconds / MINUTE, "min"), (0, "s")),
        MINUTE.. => ((seconds / MINUTE, "min"), (seconds % MINUTE, "s")),
        _ => ((seconds, "s"), (0, "s")),
    };
    match small.0 {
        0 => format!("{} {}", large.0, large.1),
        n => format!("{} {} {n} {}", large.0, large.1, small.1),
    }
}

/// `2 min ago`.
pub(super) fn ago(at: u64, now: u64) -> String {
    match now.saturating_sub(at) {
        0 => "now".to_owned(),
        passed => format!("{} ago", span(passed)),
    }
}

/// `in 28 min`, or that it is over.
pub(super) fn ahead(at: u64, now: u64) -> String {
    match at.checked_sub(now) {
        None | Some(0) => "now".to_owned(),
        Some(left) => format!("in {}", span(left)),
    }
}

/// `2027-01-31 12:00 UTC`.
pub(super) fn clock_time(at: u64) -> String {
    let time = i64::try_from(at).ok().and_then(|at| ASN1Time::from_timestamp(at).ok());
    time.map_or_else(
        || "an unknown time".to_owned(),
        |time| {
            let time = time.to_datetime();
            let (date, month) = (time.date(), u8::from(time.month()));
            format!(
                "{:04}-{month:02}-{:02} {:02}:{:02} UTC",
                date.year(),
                date.day(),
                time.hour(),
                time.minute()
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_as_people_tell_them() {
        for (seconds, told) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (95, "1 min 35 s"),
            (1799, "29 min"),
            (3600, "1 h"),
            (11_520, "3 h 12 min"),
            (190_000, "2 d 4 h"),
        ] {
            assert_eq!(span(seconds), told);
        }
        assert_eq!(
            (ago(100, 100), ago(40, 100), ago(101, 100)),
            ("now".into(), "1 min ago".into(), "now".into())
        );
        assert_eq!((ahead(100, 100), ahead(160, 100)), ("now".into(), "in 1 min".into()));
        assert_eq!(clock_time(1_795_392_000), "2026-11-23 00:00 UTC");
    }
}
