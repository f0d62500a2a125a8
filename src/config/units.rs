//! Sizes and durations as people write them.

use std::{ops::RangeInclusive, time::Duration};

/// Reads `500ms`, `30s`, `5m` or `1h`, within `range`.
pub(super) fn duration(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let (digits, unit) = split(text);
    let how = "as in 500ms, 30s, 5m or 1h";
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" if !digits.is_empty() => {
            return Err(format!("{text:?} has no unit (write {digits}s or {digits}ms)"));
        }
        _ => return Err(format!("{text:?} is not a duration ({how})")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is not a duration ({how})"))?;
    let value = Duration::from_millis(number.saturating_mul(factor));
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!("{text} is out of range ({} to {})", written(*range.start()), written(*range.end())))
}

/// Reads `0`, `4096B`, `64KiB`, `1MiB` or `1GiB`, within `range`.
pub(super) fn size(text: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    let (digits, unit) = split(text);
    let how = "as in 4096B, 64KiB, 1MiB or 1GiB";
    let factor = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" if digits == "0" => 1,
        "" if !digits.is_empty() => {
            return Err(format!("{text:?} has no unit (write {digits}B or {digits}KiB)"));
        }
        _ => return Err(format!("{text:?} is not a size ({how})")),
    };
    let number: usize = digits.parse().map_err(|_| format!("{text:?} is not a size ({how})"))?;
    let value = number.saturating_mul(factor);
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!("{text} is out of range ({} to {})", bytes(*range.start()), bytes(*range.end())))
}

fn split(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn written(value: Duration) -> String {
    let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let ms = value.as_millis();
    if ms == 0 {
        return "0s".to_owned();
    }
    let unit = units.into_iter().find(|(factor, _)| ms >= *factor && ms.is_multiple_of(*factor));
    unit.map_or_else(|| format!("{ms}ms"), |(factor, unit)| format!("{}{unit}", ms / factor))
}

fn bytes(value: usize) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    if value == 0 {
        return "0".to_owned();
    }
    let unit = units.into_iter().find(|(factor, _)| value >= *factor && value.is_multiple_of(*factor));
    unit.map_or_else(|| format!("{value}B"), |(factor, unit)| format!("{}{unit}", value / factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("500ms", DAY), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1h", DAY), Ok(Duration::from_secs(3600)));
        assert_eq!(duration("30", DAY).unwrap_err(), "\"30\" has no unit (write 30s or 30ms)");
        assert_eq!(
            duration("1.5s", DAY).unwrap_err(),
            "\"1.5s\" is not a duration (as in 500ms, 30s, 5m or 1h)"
        );
        assert_eq!(duration("0s", DAY).unwrap_err(), "0s is out of range (1ms to 24h)");
        assert!(duration("99999999999999999999h", DAY).is_err());
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!(size("64KiB", 0..=1 << 20), Ok(65_536));
        assert_eq!(size("0", 0..=1 << 20), Ok(0));
        assert_eq!(size("4096B", 0..=1 << 20), Ok(4096));
        assert_eq!(
            size("10MB", 0..=1).unwrap_err(),
            "\"10MB\" is not a size (as in 4096B, 64KiB, 1MiB or 1GiB)"
        );
        assert_eq!(size("4096", 0..=1).unwrap_err(), "\"4096\" has no unit (write 4096B or 4096KiB)");
        assert_eq!(size("2GiB", 1024..=1 << 30).unwrap_err(), "2GiB is out of range (1KiB to 1GiB)");
    }
}
