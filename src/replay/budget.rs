//! Memory for recorded bodies.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Memory for recorded bodies, all requests together.
#[derive(Debug)]
pub struct Budget {
    total_bytes: AtomicUsize,
    used_bytes: AtomicUsize,
}

impl Budget {
    /// A budget of `total_bytes`.
    pub fn new(total_bytes: usize) -> Arc<Self> {
        Arc::new(Self { total_bytes: AtomicUsize::new(total_bytes), used_bytes: AtomicUsize::new(0) })
    }

    /// Allows so many bytes from now on; what is recorded already stays.
    pub fn allow(&self, total_bytes: usize) {
        self.total_bytes.store(total_bytes, Ordering::Relaxed);
    }

    /// Bytes that recorded bodies hold now.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that they may hold.
    pub fn total_bytes(&self) -> usize {
        self.total_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn take(&self, bytes: usize) -> bool {
        let before = self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.total_bytes.load(Ordering::Relaxed) {
            self.give(bytes);
            return false;
        }
        true
    }

    pub(super) fn give(&self, bytes: usize) {
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}
