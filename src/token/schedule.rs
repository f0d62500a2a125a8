//! When to ask for a token again: pure functions of what is known, without a clock.

use std::time::Duration;

use crate::profile::refusal::Class;

/// No more than this is left unused at the end of a long-lived token.
const EARLY_MAX: Duration = Duration::from_secs(300);
/// From here on half of the lifetime is soon enough (what MSAL does for managed identities).
const LONG_LIVED: Duration = Duration::from_secs(2 * 3600);
/// A provider's wish to be asked sooner than this is a mistake: the loop would have no pause.
const WISH_MIN: Duration = Duration::from_secs(1);

/// When to refresh a token that lives for `lifetime`, counted from the moment it was asked for.
///
/// `refresh_in` is the provider's wish. Without one it is two thirds of a short life and ten minutes
/// before the end of a long one: a flat "five minutes early" would never serve a five-minute token
/// from the cache. `jitter` in 0..1, drawn once per token, keeps replicas from refreshing in step.
pub fn refresh_after(lifetime: Duration, refresh_in: Option<Duration>, jitter: f64) -> Duration {
    let early = EARLY_MAX.min(lifetime / 6);
    let soft = match refresh_in {
        Some(wish) if wish < lifetime && wish >= WISH_MIN => wish,
        _ if lifetime >= LONG_LIVED => lifetime / 2,
        _ => lifetime.saturating_sub(2 * early),
    };
    // A fifth of the window between the soft and the hard end is enough to spread replicas.
    let spread = lifetime.saturating_sub(soft).min(soft).mul_f64(0.2 * jitter.clamp(0.0, 1.0));
    soft.saturating_sub(spread)
}

/// What is taken off the end of a token's life: the time that a request may take to arrive with it.
/// A token that expires on its way earns a 401 that nobody needed.
pub fn in_transit(lifetime: Duration) -> Duration {
    (lifetime / 20).min(Duration::from_secs(1))
}

/// What [`pause`] goes by.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// How the failure is likely to go away.
    pub class: Class,
    /// Failures of this class since the last token, this one included.
    pub count: u32,
    /// The provider's own waiting time.
    pub retry_after: Option<Duration>,
    /// Life left in the token that is being used meanwhile.
    pub token_left: Duration,
}

/// How long to wait after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pauses {
    /// As long as the token that is being used meanwhile serves.
    pub usual: Duration,
    /// When an upstream has refused it: then it counts for nothing.
    pub refused: Duration,
}

/// See [`pause`]. A refusal shortens only the wait for what goes away by itself, and none that the
/// provider asked for.
pub fn pauses(failure: Failure, jitter: f64) -> Pauses {
    let usual = pause(failure, jitter);
    let is_short = failure.class == Class::Transient && failure.retry_after.is_none();
    let without = Failure { token_left: Duration::ZERO, ..failure };
    Pauses { usual, refused: if is_short { pause(without, jitter) } else { usual } }
}

/// How long to wait before asking again after a failure. Never for ever: a permanent error only
/// slows the loop.
pub fn pause(failure: Failure, jitter: f64) -> Duration {
    let jitter = jitter.clamp(0.0, 1.0);
    let doubled = |first: u64, most: u64| {
        let factor = 1u64 << failure.count.saturating_sub(1).min(16);
        Duration::from_secs(first.saturating_mul(factor).min(most))
    };
    let own = match failure.class {
        // Short, as every second without a token is a second of 503s.
        Class::Transient => doubled(1, 30).mul_f64(0.5 + 0.5 * jitter),
        Class::Permanent | Class::Credential => doubled(10, 300),
        // A change in the directory takes minutes; after ten it is no longer on its way.
        // A new key, too, is a change on its way.
        Class::Eventual | Class::NewCredential if failure.count <= 40 => Duration::from_secs(15),
        Class::Eventual | Class::NewCredential => Duration::from_secs(300),
        // Entra's usual waiting time for client credentials. A provider that throttles and says "zero
        // seconds", or a date that is past, is not taken at its word for long.
        Class::Throttled => failure.retry_after.unwrap_or(Duration::from_secs(60)).max(doubled(1, 60)),
    };
    let asked = failure.retry_after.map_or(Duration::ZERO, |span| span.mul_f64(1.0 + 0.1 * jitter));
    let comfortable = failure.token_left > Duration::from_secs(60);
    let spaced = if comfortable { own.max(Duration::from_secs(30)) } else { own };
    spaced.max(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn refresh_is_early_enough_for_every_lifetime_and_never_at_once() {
        for (lifetime, wish, latest) in [
            (s(3599), None, s(2999)),
            (s(300), None, s(200)),
            (s(5), None, Duration::from_micros(3_333_334)),
            (s(1), None, Duration::from_micros(666_668)),
            (s(86_400), None, s(43_200)),
            (s(7200), None, s(3600)),
            (s(3600), Some(s(1800)), s(1800)),
            (s(3600), Some(s(9999)), s(3000)),
            (s(3600), Some(Duration::from_millis(1)), s(3000)),
        ] {
            let soft = refresh_after(lifetime, wish, 0.0);
            assert_eq!(soft.as_millis(), latest.as_millis(), "{lifetime:?} {wish:?}");
            let jittered = refresh_after(lifetime, wish, 1.0);
            assert!(jittered < soft && jittered > soft.mul_f64(0.75), "{lifetime:?}: {jittered:?}");
        }
        assert_eq!(refresh_after(s(0), None, 0.5), s(0));
    }

    #[test]
    fn each_class_of_failure_is_asked_again_at_its_own_pace() {
        let asked_in_ten_minutes = |class, retry_after| {
            let (mut at, mut count) = (Duration::ZERO, 0);
            while at < s(600) {
                count += 1;
                let failure = Failure { class, count, retry_after, token_left: s(0) };
                at += pause(failure, 1.0);
            }
            count
        };
        assert_eq!(asked_in_ten_minutes(Class::Transient, None), 24);
        assert_eq!(asked_in_ten_minutes(Class::Permanent, None), 6);
        assert_eq!(asked_in_ten_minutes(Class::Credential, None), 6);
        assert_eq!(asked_in_ten_minutes(Class::Eventual, None), 40);
        assert_eq!(asked_in_ten_minutes(Class::NewCredential, None), 40);
        assert_eq!(asked_in_ten_minutes(Class::Throttled, None), 10);
        assert_eq!(asked_in_ten_minutes(Class::Throttled, Some(s(120))), 5);
        assert_eq!(asked_in_ten_minutes(Class::Throttled, Some(s(0))), 15);
        assert_eq!(asked_in_ten_minutes(Class::Transient, Some(s(300))), 2);
    }

    #[test]
    fn a_comfortable_token_is_not_worth_more_than_one_attempt_in_thirty_seconds() {
        let wait = |left| {
            let class = Class::Transient;
            pause(Failure { class, count: 1, retry_after: None, token_left: left }, 0.0)
        };
        assert_eq!(wait(s(600)), s(30));
        assert_eq!(wait(s(20)), Duration::from_millis(500));
    }

    #[test]
    fn a_refused_token_is_no_comfort_when_the_failure_goes_away_by_itself() {
        let of = |class, retry_after| {
            let failure = Failure { class, count: 1, retry_after, token_left: s(600) };
            let Pauses { usual, refused } = pauses(failure, 0.0);
            (usual, refused)
        };
        assert_eq!(of(Class::Transient, None), (s(30), Duration::from_millis(500)));
        assert_eq!(of(Class::Transient, Some(s(40))), (s(40), s(40)));
        assert_eq!(of(Class::Credential, None), (s(30), s(30)));
    }

    #[test]
    fn no_number_of_failures_ends_the_loop() {
        for class in Class::ALL {
            let failure = Failure { class, count: u32::MAX, retry_after: None, token_left: s(0) };
            assert!(pause(failure, 1.0) <= s(300), "{class:?}");
        }
    }
}
