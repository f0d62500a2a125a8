//! Who is connected now: an entry for each open connection, put together by caller when somebody asks.
//!
//! Each worker has a roster for each listener, so that no worker waits for another. It is touched when a connection
//! opens and when it closes; how many requests there were is noted once in a while, never by a request.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use crate::{caller::Peer, clock};

/// The name in a certificate is kept up to this many characters; whoever has issued it chose it.
const NAME_CHARS_MAX: usize = 200;

/// The open connections that one worker serves for one listener.
#[derive(Debug, Default)]
pub struct Roster(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: HashMap<u64, Arc<Connection>>,
}

/// What is known of an open connection.
#[derive(Debug)]
pub struct Connection {
    peer: Peer,
    since: SystemTime,
    certificate: OnceLock<Box<str>>,
    requests: AtomicU64,
}

impl Connection {
    /// Notes the name in the certificate that the caller has shown.
    pub fn certify(&self, name: &str) {
        let printable = name.chars().map(|c| if c.is_control() { ' ' } else { c });
        let _ = self.certificate.set(printable.take(NAME_CHARS_MAX).collect::<String>().into());
    }

    /// Notes how many requests have come over it so far.
    pub fn note(&self, requests: u64) {
        self.requests.store(requests, Ordering::Relaxed);
    }
}

impl Roster {
    /// A connection of `peer` has opened; it closes when the entry is dropped.
    pub fn enter(self: &Arc<Self>, peer: Peer) -> Entry {
        let connection = Arc::new(Connection {
            peer,
            since: clock::wall(),
            certificate: OnceLock::new(),
            requests: AtomicU64::new(0),
        });
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = open.next;
        open.next += 1;
        open.connections.insert(id, Arc::clone(&connection));
        Entry { roster: Arc::clone(self), id, connection }
    }

    fn connections(&self) -> Vec<Arc<Connection>> {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.connections.values().map(Arc::clone).collect()
    }
}

/// An open connection's place in its roster.
#[derive(Debug)]
pub struct Entry {
    roster: Arc<Roster>,
    id: u64,
    connection: Arc<Connection>,
}

impl Entry {
    /// The connection, to note more about it.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut open = self.roster.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.connections.remove(&self.id);
    }
}

/// A caller with its open connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Its address without the port, or on a unix socket its user and process.
    pub caller: String,
    /// The name in the certificate that it has shown.
    pub certificate: Option<String>,
    /// How many connections it has.
    pub connections: usize,
    /// When the oldest of them was opened.
    pub since: SystemTime,
    /// Requests that have come over them.
    pub requests: u64,
}

/// Who is connected, by the rosters of all workers; in no order.
pub fn present(rosters: &[Arc<Roster>]) -> Vec<Present> {
    let mut callers: HashMap<(Peer, Option<Box<str>>), Present> = HashMap::new();
    for connection in rosters.iter().flat_map(|roster| roster.connections()) {
        let peer = nameless(connection.peer);
        let certificate = connection.certificate.get();
        let caller = callers.entry((peer, certificate.cloned())).or_insert_with(|| Present {
            caller: peer.to_string(),
            certificate: certificate.map(|name| name.to_string()),
            connections: 0,
            since: connection.since,
            requests: 0,
        });
        caller.connections += 1;
        caller.since = caller.since.min(connection.since);
        caller.requests += connection.requests.load(Ordering::Relaxed);
    }
    callers.into_values().collect()
}

/// The peer without its port. An IPv4 address that came as an IPv6 one is the same caller.
fn nameless(peer: Peer) -> Peer {
    match peer {
        Peer::Ip(address) => {
            let ip: IpAddr = address.ip().to_canonical();
            Peer::Ip((ip, 0).into())
        }
        unix @ Peer::Unix { .. } => unix,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(address: &str) -> Peer {
        Peer::Ip(address.parse().unwrap())
    }

    fn told(rosters: &[Arc<Roster>]) -> Vec<(String, Option<String>, usize, u64)> {
        let mut all: Vec<_> = present(rosters)
            .into_iter()
            .map(|one| (one.caller, one.certificate, one.connections, one.requests))
            .collect();
        all.sort();
        all
    }

    #[test]
    fn connections_are_put_together_by_caller_and_forgotten_when_they_close() {
        let rosters = [Arc::<Roster>::default(), Arc::default()];
        let first = rosters[0].enter(ip("192.0.2.1:1000"));
        let second = rosters[1].enter(ip("[::ffff:192.0.2.1]:1001"));
        let shown = rosters[1].enter(ip("192.0.2.1:1002"));
        let unix = rosters[0].enter(Peer::Unix { user: 7, process: Some(8) });
        shown.connection().certify("CN=billing\u{1b}[2J");
        first.connection().note(3);
        second.connection().note(2);
        let certified = Some("CN=billing [2J".to_owned());
        assert_eq!(
            told(&rosters),
            [
                ("192.0.2.1".to_owned(), None, 2, 5),
                ("192.0.2.1".to_owned(), certified, 1, 0),
                ("unix:uid=7,pid=8".to_owned(), None, 1, 0)
            ]
        );
        drop((first, shown, unix));
        assert_eq!(told(&rosters), [("192.0.2.1".to_owned(), None, 1, 2)]);
        drop(second);
        assert!(rosters.iter().all(|roster| roster.0.lock().unwrap().connections.is_empty()));
    }
}
