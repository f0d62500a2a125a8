//! What is counted of the connections to one upstream, over all workers.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Connections to one upstream.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    open: AtomicUsize,
    opened: AtomicU64,
    closed: [AtomicU64; Closing::ALL.len()],
}

/// Why the gateway has closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// It carried no request for as long as an idle one is kept.
    Idle,
    /// More were idle than are kept, or another connection needed its place.
    Surplus,
    /// It was as old as it may become.
    MaxAge,
}

impl Closing {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Self; 3] = [Self::Idle, Self::Surplus, Self::MaxAge];

    /// The word for it in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Surplus => "surplus",
            Self::MaxAge => "max_age",
        }
    }
}

impl Traffic {
    /// Open connections, idle or not, and those that were upgraded.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections that were made.
    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Connections that were closed for this reason.
    pub(super) fn closed(&self, why: Closing) -> u64 {
        self.closed.get(why as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// One more is open.
    pub(super) fn begin(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// One fewer is open; `why` is there when that was our doing.
    pub(super) fn end(&self, why: Option<Closing>) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(count) = why.and_then(|why| self.closed.get(why as usize)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}
