//! How many connections of callers the process has file descriptors for.
//!
//! A caller's connection wants another one to an upstream, and the admin listener must be able to
//! answer when callers have taken all they may. So callers of all listeners together get about half.

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

/// Room for callers' connections, over all listeners.
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

    /// Whether no further connection should be taken.
    pub(super) fn is_full(&self) -> bool {
        self.open.load(Ordering::Relaxed) >= self.connections
    }

    pub(super) fn enter(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
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
