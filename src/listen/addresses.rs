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

/// Open connections by address.
#[derive(Debug)]
pub(super) struct Addresses {
    limit: usize,
    /// Callers choose the keys, so the hash is one that they cannot foresee.
    open: Mutex<HashMap<Key, usize>>,
}

impl Addresses {
    /// `None` when the limit of the whole listener is not above the one of an address.
    pub(super) fn new(limits: &Limits) -> Option<Arc<Self>> {
        let limit = limits.connections_per_address;
        (limit < limits.connections).then(|| Arc::new(Self { limit, open: Mutex::default() }))
    }

    /// Takes a place for one more connection of `peer`, if there is one.
    pub(super) fn enter(self: &Arc<Self>, peer: &Peer) -> Option<Place> {
        let key = Key::from(peer);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(key).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Place { addresses: Arc::clone(self), key })
    }
}

/// An open connection's place. Free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    addresses: Arc<Addresses>,
    key: Key,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.addresses.open.lock().unwrap_or_else(PoisonError::into_inner);
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
        let addresses = Addresses::new(&limits).unwrap();
        let first = addresses.enter(&peer("192.0.2.1:1")).unwrap();
        let second = addresses.enter(&peer("[::ffff:192.0.2.1]:2")).unwrap();
        assert!(addresses.enter(&peer("192.0.2.1:3")).is_none());
        let _other = addresses.enter(&peer("192.0.2.2:1")).unwrap();
        drop(first);
        let _third = addresses.enter(&peer("192.0.2.1:4")).unwrap();
        assert!(addresses.enter(&peer("192.0.2.1:5")).is_none());
        drop((second, _third, _other));
        assert!(addresses.open.lock().unwrap().is_empty(), "nothing is kept of those who left");
    }

    #[test]
    fn a_v6_network_and_a_unix_user_count_as_one() {
        let limits = Limits { connections_per_address: 1, ..Limits::default() };
        let addresses = Addresses::new(&limits).unwrap();
        let _first = addresses.enter(&peer("[2001:db8::1]:1")).unwrap();
        assert!(addresses.enter(&peer("[2001:db8::ffff:0:0:2]:1")).is_none());
        let _next = addresses.enter(&peer("[2001:db8:0:1::1]:1")).unwrap();
        let _user = addresses.enter(&Peer::Unix { user: 7, process: Some(1) }).unwrap();
        assert!(addresses.enter(&Peer::Unix { user: 7, process: Some(2) }).is_none());
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        assert!(Addresses::new(&Limits::default()).is_none());
    }
}
