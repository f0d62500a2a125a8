//! How identity providers are reached, and when secrets expire.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use super::{
    super::{
        field::{Field, given},
        file_upstreams::PemFile,
        tree::Position,
        urls,
    },
    Account,
};
use crate::{
    clock,
    outbound::{self, Proxy, Roots},
    profile::expiry::Expiry,
};

impl Account<'_> {
    pub(super) fn connection(
        &self,
        proxy: &Option<Field<String>>,
        ca: &Option<Field<PemFile>>,
    ) -> outbound::Settings {
        let proxy = given(proxy).and_then(|(at, text)| self.proxy(at, text)).unwrap_or_default();
        let ca = given(ca).and_then(|(_, ca)| ca.file.get());
        let ca = ca.map(|(at, path)| self.authorities("ca", at, path));
        outbound::Settings { proxy, ca }
    }

    fn proxy(&self, at: Position, text: &str) -> Option<Proxy> {
        if text == "off" {
            return Some(Proxy::Off);
        }
        let words = match urls::server(text) {
            Ok(url) if matches!(url.path(), "" | "/") && url.query().is_none() => {
                return Some(Proxy::At(url));
            }
            Ok(_) => "leave out path and query (as in http://proxy.example:3128)".to_owned(),
            Err(_) if text.contains('@') => {
                self.cx.findings.hide(at, 0);
                "a user name or password in the URL is not allowed (HTTPS_PROXY of the gateway's environment may have them)"
                    .to_owned()
            }
            Err(_) => "expected off or an http or https URL (as in http://proxy.example:3128)".to_owned(),
        };
        self.problem(at, format_args!("proxy: {words}"));
        None
    }

    /// A file of certificate authorities; tells when it does not serve.
    pub(super) fn authorities(&self, key: &str, at: Position, path: &str) -> PathBuf {
        let path = self.cx.path(path);
        if let Err(error) = Roots::read(&path) {
            self.cx.missing(at, format!("{}: {key}: {error}", self.who()));
        }
        path
    }

    /// When the client secret expires, as somebody has written down; with a warning when that is soon.
    pub(super) fn secret_expires(
        &self,
        field: &Option<Field<String>>,
        has_secret: bool,
    ) -> Option<SystemTime> {
        let (at, text) = given(field)?;
        if !has_secret {
            self.problem(at, "client_secret_expires is only for client_secret (remove it)");
            return None;
        }
        let Some(moment) = moment(text) else {
            let words = "expected a day as in 2027-01-31 or a time as in 2027-01-31T12:00:00Z";
            self.problem(at, format_args!("client_secret_expires: {words}"));
            return None;
        };
        self.warn_of(at, &Expiry { what: "client_secret", at: moment });
        Some(moment)
    }

    pub(super) fn warn_of(&self, at: Position, expiry: &Expiry) {
        if let Some(words) = expiry.warning(clock::wall()) {
            self.cx.findings.warn_of_end(at, self.name, &words);
        }
    }
}

/// RFC 3339: a full date, which means its beginning in UTC, or a date and a time.
fn moment(text: &str) -> Option<SystemTime> {
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let days = days_since_1970(year, month, day)?;
    let seconds = time.map_or(Some(0), seconds_of)?;
    let total = u64::try_from(days.checked_mul(86_400)?.checked_add(seconds)?).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(total))
}

/// `12:00:00Z`, `12:00:00.5+01:00`: seconds since midnight in UTC.
fn seconds_of(time: &str) -> Option<i64> {
    let (clock, offset) = match time.strip_suffix(['Z', 'z']) {
        Some(clock) => (clock, 0),
        None => {
            let at = time.rfind(['+', '-'])?;
            let (clock, offset) = time.split_at_checked(at)?;
            let [hours, minutes] = numbers(offset.get(1..)?, ':', [2, 2])?;
            let span = hours * 3600 + minutes * 60;
            (clock, if offset.starts_with('-') { -span } else { span })
        }
    };
    let whole = clock.split('.').next().unwrap_or_default();
    let [hours, minutes, seconds] = numbers(whole, ':', [2, 2, 2])?;
    (hours < 24 && minutes < 60 && seconds < 61).then(|| hours * 3600 + minutes * 60 + seconds - offset)
}

/// Numbers of exactly these many digits, with `between` between them.
fn numbers<const N: usize>(text: &str, between: char, digits: [usize; N]) -> Option<[i64; N]> {
    let parts: Vec<&str> = text.split(between).collect();
    let is_number =
        |(part, digits): (&&str, usize)| part.len() == digits && part.bytes().all(|b| b.is_ascii_digit());
    if parts.len() != N || !parts.iter().zip(digits).all(is_number) {
        return None;
    }
    let numbers: Vec<i64> = parts.iter().filter_map(|part| part.parse().ok()).collect();
    numbers.try_into().ok()
}

/// Howard Hinnant's way, for the years that people write.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=length).contains(&day) || year < 1970 {
        return None;
    }
    let before = |year: i64| (year - 1) * 365 + (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    const STARTS: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let start = STARTS.get(usize::try_from(month - 1).ok()?)?;
    let leap_day = i64::from(is_leap && month > 2);
    Some(before(year) - before(1970) + start + leap_day + day - 1)
}

#[cfg(test)]
mod tests {
    use super::moment;
    use std::time::{Duration, SystemTime};

    #[test]
    fn days_and_times_are_read_as_rfc_3339_writes_them() {
        let seconds = |text: &str| {
            let moment = moment(text)?;
            Some(moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs())
        };
        assert_eq!(seconds("1970-01-01"), Some(0));
        assert_eq!(seconds("2000-02-29"), Some(951_782_400));
        assert_eq!(seconds("2027-01-31"), Some(1_801_353_600));
        assert_eq!(seconds("2027-01-31T12:00:00Z"), Some(1_801_396_800));
        assert_eq!(seconds("2027-01-31T13:00:00.25+01:00"), Some(1_801_396_800));
        assert_eq!(seconds("2027-01-31 07:30:00-04:30"), Some(1_801_396_800));
        for bad in [
            "",
            "soon",
            "2027",
            "2027-1-31",
            "2027-02-29",
            "2027-13-01",
            "31.01.2027",
            "2027-01-31T12:00",
            "2027-01-31T12:00:00",
            "2027-01-31T25:00:00Z",
            "1969-01-01",
            "2027-01-31T12:00:00+1",
        ] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}
