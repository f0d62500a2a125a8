//! How many connections each caller address has on a listener.
//!
//! Only when there is a limit on them: otherwise nothing is counted. The map is touched when a
//! connection opens and when it closes, never by a request.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{caller::Peer, listen::Limits};

/// Whose connections are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    V4(u32),
    /// The upper half: one machine has a whole /64 to choose its addresses from.
    V6(u64),
    User(u32),
}

impl From<&Peer> for Key {
    fn from(peer: &Peer) -> Self {
        match peer {
            Peer::Ip(address) => match address.ip().to_canonical() {
                IpAddr::V4(v4) => Self::V4(v4.to_bits()),
                IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 64) as u64),
            },
            Peer::Unix { user, .. } => Self::User(*user),
        }
    }
}

/// Open connections of a listener by address, whatever the limit has been when they came. Callers choose the
/// keys, so the hash is one that they cannot foresee.
#[derive(Debug, Default)]
pub(super) struct Crowd(Mutex<HashMap<Key, usize>>);

/// A limit on them.
#[derive(Debug)]
pub(super) struct Addresses {
    limit: usize,
    crowd: Arc<Crowd>,
}

impl Addresses {
    /// `None` when the limit of the whole listener is not above the one of an address.
    pub(super) fn new(limits: &Limits, crowd: &Arc<Crowd>) -> Option<Arc<Self>> {
        let limit = limits.connections_per_address;
        (limit < limits.connections).then(|| Arc::new(Self { limit, crowd: Arc::clone(crowd) }))
    }

    /// Takes a place for one more connection of `peer`, if there is one.
    pub(super) fn enter(&self, peer: &Peer) -> Option<Place> {
        let key = Key::from(peer);
        let mut open = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(key).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Place { crowd: Arc::clone(&self.crowd), key })
    }
}

/// An open connection's place. Free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Arc<Crowd>,
    key: Key,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::Ip(address.parse().unwrap())
    }

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let limits = Limits { connections_per_address: 2, ..Limits::default() };
        let crowd = Arc::default();
        let addresses = Addresses::new(&limits, &crowd).unwrap();
        let first = addresses.enter(&peer("192.0.2.1:1")).unwrap();
        let second = addresses.enter(&peer("[::ffff:192.0.2.1]:2")).unwrap();
        assert!(addresses.enter(&peer("192.0.2.1:3")).is_none());
        let _other = addresses.enter(&peer("192.0.2.2:1")).unwrap();
        drop(first);
        let _third = addresses.enter(&peer("192.0.2.1:4")).unwrap();
        assert!(addresses.enter(&peer("192.0.2.1:5")).is_none());
        drop((second, _third, _other));
        assert!(crowd.0.lock().unwrap().is_empty(), "nothing is kept of those who left");
    }

    #[test]
    fn another_limit_counts_those_who_are_there() {
        let (crowd, caller) = (Arc::default(), peer("192.0.2.1:1"));
        let limited = |connections_per_address| {
            Addresses::new(&Limits { connections_per_address, ..Limits::default() }, &crowd).unwrap()
        };
        let before = limited(3);
        let places: Vec<_> = (0..3).map(|_| before.enter(&caller).unwrap()).collect();
        let after = limited(2);
        assert!(after.enter(&caller).is_none());
        drop(places);
        assert!(after.enter(&caller).is_some());
    }

    #[test]
    fn a_v6_network_and_a_unix_user_count_as_one() {
        let limits = Limits { connections_per_address: 1, ..Limits::default() };
        let addresses = Addresses::new(&limits, &Arc::default()).unwrap();
        let _first = addresses.enter(&peer("[2001:db8::1]:1")).unwrap();
        assert!(addresses.enter(&peer("[2001:db8::ffff:0:0:2]:1")).is_none());
        let _next = addresses.enter(&peer("[2001:db8:0:1::1]:1")).unwrap();
        let _user = addresses.enter(&Peer::Unix { user: 7, process: Some(1) }).unwrap();
        assert!(addresses.enter(&Peer::Unix { user: 7, process: Some(2) }).is_none());
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        assert!(Addresses::new(&Limits::default(), &Arc::default()).is_none());
    }
}
