//! In which order the addresses of a name are tried, and which of them have failed lately.

use std::{net::SocketAddr, time::Duration};

use rustc_hash::FxHashMap;
use tokio::time::Instant;

/// How long an address that failed is tried last. Long enough to spare most requests the wait, short
/// enough that a server which comes back gets its share again soon.
const FAILURE_TIME: Duration = Duration::from_secs(10);
/// Failed addresses that are remembered; beyond, the oldest knowledge is of least use.
const FAILURES_MAX: usize = 1024;

/// The order of RFC 8305 §4: families take turns, the resolver's first one begins. Within a family
/// the start moves on with `turn`, so that connections spread. Failed addresses come last.
pub(super) fn order(
    resolved: impl IntoIterator<Item = SocketAddr>,
    turn: usize,
    has_failed: impl Fn(SocketAddr) -> bool,
) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = Vec::new();
    for address in resolved {
        if !all.contains(&address) {
            all.push(address);
        }
    }
    let Some(first) = all.first().copied() else { return all };
    let (mut near, mut far): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|address| address.is_ipv6() == first.is_ipv6());
    for family in [&mut near, &mut far] {
        let start = turn.checked_rem(family.len()).unwrap_or(0);
        family.rotate_left(start);
        // Stable: the turns stay as they are among the good ones.
        family.sort_by_key(|address| has_failed(*address));
    }
    let mut out = Vec::with_capacity(near.len() + far.len());
    let (mut near, mut far) = (near.into_iter(), far.into_iter());
    loop {
        match (near.next(), far.next()) {
            (None, None) => break,
            (one, other) => out.extend(one.into_iter().chain(other)),
        }
    }
    out.sort_by_key(|address| has_failed(*address));
    out
}

/// Addresses that failed to connect a moment ago.
#[derive(Default)]
pub(super) struct Failures(FxHashMap<SocketAddr, Instant>);

impl Failures {
    /// Whether `address` failed within the last ten seconds.
    pub(super) fn has(&self, address: SocketAddr) -> bool {
        self.0.get(&address).is_some_and(|at| at.elapsed() < FAILURE_TIME)
    }

    /// It failed now.
    pub(super) fn add(&mut self, address: SocketAddr) {
        if self.0.len() >= FAILURES_MAX {
            self.0.retain(|_, at| at.elapsed() < FAILURE_TIME);
        }
        if self.0.len() < FAILURES_MAX {
            self.0.insert(address, Instant::now());
        }
    }

    /// It has connected.
    pub(super) fn forget(&mut self, address: SocketAddr) {
        self.0.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(resolved: &str, turn: usize, failed: &str, expected: &str) {
        let address = |name: &str| -> SocketAddr {
            // "6a" is an IPv6 address, "4a" an IPv4 one.
            let last = u32::from(name.as_bytes()[1]);
            let ip = if name.starts_with('6') { format!("[::{last:x}]") } else { format!("127.0.0.{last}") };
            format!("{ip}:443").parse().unwrap()
        };
        let list = |names: &str| names.split_whitespace().map(address).collect::<Vec<_>>();
        let failed = list(failed);
        let ordered = order(list(resolved), turn, |address| failed.contains(&address));
        assert_eq!(ordered, list(expected), "{resolved} turn {turn} failed {failed:?}");
    }

    #[test]
    fn families_take_turns_and_the_resolvers_first_one_begins() {
        check("", 0, "", "");
        check("4a", 5, "", "4a");
        check("6a 4a", 0, "", "6a 4a");
        check("4a 6a", 0, "", "4a 6a");
        check("6a 6b 6c 4a 4b", 0, "", "6a 4a 6b 4b 6c");
        check("4a 4b 4c 6a", 0, "", "4a 6a 4b 4c");
        check("4a 4a 4b", 0, "", "4a 4b");
    }

    #[test]
    fn each_connection_begins_with_the_next_address() {
        check("4a 4b 4c", 1, "", "4b 4c 4a");
        check("4a 4b 4c", 2, "", "4c 4a 4b");
        check("4a 4b 4c", 3, "", "4a 4b 4c");
        check("6a 6b 4a 4b", 1, "", "6b 4b 6a 4a");
        check("6a 4a", 1, "", "6a 4a");
        check("4a 4b", usize::MAX, "", "4b 4a");
    }

    #[test]
    fn failed_addresses_come_last_in_their_turn() {
        check("4a 4b 4c", 0, "4a", "4b 4c 4a");
        check("4a 4b 4c", 0, "4a 4b", "4c 4a 4b");
        check("6a 4a", 0, "6a", "4a 6a");
        check("6a 6b 4a 4b", 0, "6a", "6b 4a 4b 6a");
        check("4a", 0, "4a", "4a");
        check("4a 4b", 1, "4a 4b", "4b 4a");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_forgotten_after_ten_seconds_or_a_success() {
        let (one, other) = (SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([127, 0, 0, 1], 2)));
        let mut failures = Failures::default();
        failures.add(one);
        failures.add(other);
        failures.forget(other);
        assert!(failures.has(one) && !failures.has(other));
        tokio::time::advance(FAILURE_TIME).await;
        assert!(!failures.has(one));
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_failures_are_remembered_and_no_more() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut failures = Failures::default();
        (0..5000).for_each(|port| failures.add(address(port)));
        assert_eq!(failures.0.len(), FAILURES_MAX);
        tokio::time::advance(FAILURE_TIME).await;
        failures.add(address(5001));
        assert_eq!(failures.0.len(), 1);
    }
}
