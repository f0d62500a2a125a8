//! How many connections the process has file descriptors for.
//!
//! A caller's connection wants another one to an upstream, over HTTP/2 even many, and the admin listener must be
//! able to answer when both have taken all they may. So the callers of all listeners together get about half, and
//! the connections to all upstreams as many.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use rustix::process::{Resource, getrlimit};

/// Descriptors for everything else: sockets that listen, the log, runtimes, the admin listener,
/// token requests.
const FILES_RESERVED: usize = 100;
/// However few there are, some connections must be let in.
const CONNECTIONS_MIN: usize = 16;

/// Room for callers' connections, over all listeners, or for those to upstreams, over all workers.
pub struct Room {
    open: AtomicUsize,
    files: Option<usize>,
    connections: usize,
}

impl Room {
    /// As the process's limit of open files leaves it.
    pub fn of_this_process() -> Arc<Self> {
        let files = getrlimit(Resource::Nofile).current;
        let files = files.map(|files| usize::try_from(files).unwrap_or(usize::MAX));
        let connections = files.map_or(usize::MAX, connections);
        Arc::new(Self { open: AtomicUsize::new(0), files, connections })
    }

    /// Says that the configured limit is not what holds.
    pub fn warn_if_below(&self, limit: usize) {
        let Some(files) = self.files.filter(|_| self.connections < limit) else { return };
        tracing::warn!(
            "there is room for {} connections of callers, fewer than limits.connections ({limit}): the process may \
             open {files} files (raise `ulimit -n`, or LimitNOFILE= in its systemd unit)",
            self.connections
        );
    }

    /// Says that requests are refused because there is no room.
    pub(super) fn warn_that_it_is_full(&self) {
        tracing::warn!(
            "no room for a further connection to an upstream, requests get 503: {} are open and the process may open \
             {} files (raise `ulimit -n`, or LimitNOFILE= in its systemd unit, or find out why upstreams do not answer)",
            self.open.load(Ordering::Relaxed),
            self.files.unwrap_or(usize::MAX)
        );
    }

    /// Whether no further connection should be taken.
    pub fn is_full(&self) -> bool {
        self.open.load(Ordering::Relaxed) >= self.connections
    }

    /// Whether idle connections should make room for others.
    pub(super) fn is_crowded(&self) -> bool {
        self.open.load(Ordering::Relaxed) >= self.connections / 4 * 3
    }

    /// A place that is given back when it is dropped.
    pub(super) fn place(self: &Arc<Self>) -> Place {
        self.enter();
        Place(Arc::clone(self))
    }

    /// One more is open.
    pub fn enter(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// One fewer is open.
    pub fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection's place in a [`Room`].
pub(super) struct Place(Arc<Room>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.leave();
    }
}

fn connections(files: usize) -> usize {
    (files.saturating_sub(FILES_RESERVED) / 2).max(CONNECTIONS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_files_are_for_callers() {
        for (files, expected) in [(1024, 462), (128, 16), (20_100, 10_000), (0, 16)] {
            assert_eq!(connections(files), expected, "{files}");
        }
    }

    #[test]
    fn listeners_share_the_room() {
        let room = Room { open: AtomicUsize::new(3), files: None, connections: 4 };
        assert!(!room.is_full());
        room.enter();
        assert!(room.is_full());
        room.leave();
        assert!(!room.is_full());
    }
}
