//! The dates that Azure's older endpoints write into `expires_on` instead of seconds since 1970.

use std::time::Duration;

/// Reads `11/05/2026 15:18:31 +00:00`, with or without `PM`, and `2026-11-05T15:18:31Z`, with a blank for
/// the `T` or without a zone, as the time since 1970. No zone means UTC.
pub(super) fn since_1970(text: &str) -> Option<Duration> {
    let text = text.trim().replacen('T', " ", 1);
    let (date, rest) = text.split_once(' ')?;
    let (year, month, day) = if date.contains('/') {
        let [month, day, year] = numbers(date, '/')?;
        (year, month, day)
    } else {
        let [year, month, day] = numbers(date, '-')?;
        (year, month, day)
    };
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let zone = rest.find(['+', '-', 'Z']).unwrap_or(rest.len());
    let (clock, zone) = rest.split_at_checked(zone)?;
    let mut words = clock.split_whitespace();
    let [hour, minute, second] = numbers(words.next()?.split('.').next()?, ':')?;
    let hour = match words.next() {
        None => hour,
        Some(half) if half.eq_ignore_ascii_case("am") && (1..=12).contains(&hour) => hour % 12,
        Some(half) if half.eq_ignore_ascii_case("pm") && (1..=12).contains(&hour) => hour % 12 + 12,
        Some(_) => return None,
    };
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    u64::try_from(seconds - offset(zone)?).ok().map(Duration::from_secs)
}

/// Three numbers with one sign between them.
fn numbers(text: &str, sign: char) -> Option<[i64; 3]> {
    let mut parts = text.split(sign).map(|part| {
        let is_number = (1..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| part.parse().ok()).flatten()
    });
    let three = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(three)
}

/// `+01:00` in seconds.
fn offset(zone: &str) -> Option<i64> {
    let zone = zone.trim();
    if zone.is_empty() || zone == "Z" {
        return Some(0);
    }
    let (sign, rest) =
        if let Some(rest) = zone.strip_prefix('-') { (-1, rest) } else { (1, zone.strip_prefix('+')?) };
    let [hours, minutes, _] = numbers(&format!("{rest}:0"), ':')?;
    Some(sign * (hours * 3600 + minutes * 60))
}

/// The calendar is counted from March, so that the leap day is the year's last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let months_since_march = (month + 9) % 12;
    let leap_days = year / 4 - year / 100 + year / 400;
    365 * year + leap_days + (153 * months_since_march + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_in_which_azure_writes_a_date_is_read() {
        for text in [
            "11/05/2026 15:18:31 +00:00",
            "11/5/2026 3:18:31 PM +00:00",
            "11/05/2026 15:18:31",
            "2026-11-05 15:18:31",
            "2026-11-05T15:18:31Z",
            "2026-11-05T15:18:31.1234567Z",
            "2026-11-05T16:18:31+01:00",
            "2026-11-05T10:18:31-05:00",
        ] {
            assert_eq!(since_1970(text), Some(Duration::from_secs(1_793_891_911)), "{text}");
        }
        assert_eq!(since_1970("1970-01-01 00:00:00"), Some(Duration::ZERO));
        assert_eq!(since_1970("2000-02-29 12:00:00 AM"), Some(Duration::from_secs(951_782_400)));
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "soon",
            "2026-11-05",
            "2026-13-05 00:00:00",
            "2026-11-05 24:00:00",
            "11/05 15:18:31",
            "2026-11-05 15:18",
            "2026-11-05 15:18:31 XM",
            "1969-12-31 23:59:59",
            "2026-11-05 15:18:31+1",
            "99999-11-05 15:18:31",
            "2026-11-05 15:é8:31",
        ] {
            assert_eq!(since_1970(text), None, "{text}");
        }
    }
}
