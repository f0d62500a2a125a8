//! The two clocks: time since boot for deadlines, wall time for what people and protocols read.
//!
//! Expiry is counted on the boot clock, which goes on while a machine sleeps and does not jump when
//! somebody sets the date. Under `cfg(test)` both derive from tokio's clock, so that a paused test
//! moves them together with every timer.

use std::time::{Duration, SystemTime};

/// A point on the boot clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// The time from `earlier` to here; zero when `earlier` is later.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment moved by `by` towards the future.
    pub fn after(self, by: Duration) -> Moment {
        Moment(self.0.saturating_add(by))
    }
}

/// Now, on the boot clock (`CLOCK_BOOTTIME`: suspend counts).
#[cfg(not(test))]
pub fn now() -> Moment {
    // It fails for clocks that the system does not have only, and Linux has had this one since 2.6.39.
    let t = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).expect("Linux has this clock");
    Moment(t.into())
}

/// Now, on tokio's clock, so that paused tests decide what time it is.
#[cfg(test)]
pub fn now() -> Moment {
    static START: std::sync::OnceLock<tokio::time::Instant> = std::sync::OnceLock::new();
    // Another test's paused clock may have begun later than this one's: count from a day before.
    const DAY: Duration = Duration::from_secs(86_400);
    let now = tokio::time::Instant::now();
    let start = *START.get_or_init(|| now);
    Moment((DAY + now.saturating_duration_since(start)).saturating_sub(start.saturating_duration_since(now)))
}

/// Wall time. Only for timestamps that leave the process; never for deadlines.
pub fn wall() -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads wall time")]
    let now = SystemTime::now();
    #[cfg(test)]
    let now = jump::after(now);
    now
}

/// Somebody sets the date, or NTP does: on the thread of one test.
#[cfg(test)]
pub(crate) mod jump {
    use super::{Duration, SystemTime};

    thread_local! {
        static AHEAD: std::cell::Cell<i64> = const { std::cell::Cell::new(0) };
    }

    /// From now on the wall clock is so many seconds ahead of what it was.
    pub(crate) fn by(seconds: i64) {
        AHEAD.set(AHEAD.get() + seconds);
    }

    pub(super) fn after(now: SystemTime) -> SystemTime {
        let span = Duration::from_secs(AHEAD.get().unsigned_abs());
        if AHEAD.get() < 0 { now - span } else { now + span }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_jumps_and_the_boot_clock_does_not() {
        let (boot, before) = (now(), wall());
        for seconds in [3600, -7200] {
            jump::by(seconds);
        }
        assert!(wall() < before - Duration::from_secs(3000));
        assert!(now().since(boot) < Duration::from_secs(600));
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_test_moves_the_boot_clock_with_its_timers() {
        let before = now();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(now().since(before), Duration::from_secs(3600));
        assert_eq!(before.since(now()), Duration::ZERO);
    }
}
