//! A worker's open connections: their registry and the watch over their time.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    listen::{Limits, watched::Watched},
    proxy::worker::Worker,
};

/// More than the allocator serves from what it holds.
const RETURN_BYTES: usize = 4 * 1024 * 1024;
/// The longest time between two looks at the connections' clocks.
const WATCH_PERIOD_MAX: Duration = Duration::from_secs(1);

/// A worker's connections, to watch and to wait for.
pub struct Connections {
    live: RefCell<Vec<Rc<Watched>>>,
    limits: Rc<Limits>,
}

impl Connections {
    /// No connections yet.
    pub fn new(limits: Limits) -> Rc<Self> {
        Rc::new(Self { live: RefCell::default(), limits: Rc::new(limits) })
    }

    pub(super) fn limits(&self) -> &Rc<Limits> {
        &self.limits
    }

    /// Open connections of this worker.
    pub fn count(&self) -> usize {
        self.live.borrow().len()
    }

    /// Looks at every connection's clock again and again; never ends by itself.
    ///
    /// One look for all is far cheaper than a timer that every request of every connection resets.
    pub async fn watch(&self, worker: &Worker) {
        let timeouts = *worker.timeouts();
        let period =
            (timeouts.header_read.min(timeouts.idle) / 4).clamp(Duration::from_millis(20), WATCH_PERIOD_MAX);
        let mut stopping_since = None;
        loop {
            let period = if worker.is_draining() { Duration::from_millis(20) } else { period };
            tokio::time::sleep(period).await;
            let now = Instant::now();
            if worker.is_draining() {
                stopping_since.get_or_insert(now);
            }
            for watched in self.live.borrow().iter() {
                watched.look(now, &timeouts, stopping_since);
            }
            worker.pool().prune();
            if self.live.borrow().iter().any(|watched| watched.gave_back.take()) {
                // The allocator returns memory to the system when it is called the next time, and on an
                // idle worker nobody would.
                drop(std::hint::black_box(Vec::<u8>::with_capacity(RETURN_BYTES)));
            }
        }
    }
}

/// A connection's place in its worker's registry.
pub(super) struct Registered {
    connections: Rc<Connections>,
    watched: Rc<Watched>,
    count: Arc<AtomicUsize>,
}

impl Registered {
    /// Registers a connection, which also counts as open in `count` until this is dropped.
    pub(super) fn new(connections: &Rc<Connections>, count: &Arc<AtomicUsize>) -> Self {
        let watched = Watched::new();
        connections.live.borrow_mut().push(Rc::clone(&watched));
        count.fetch_add(1, Ordering::Relaxed);
        Self { connections: Rc::clone(connections), watched, count: Arc::clone(count) }
    }

    pub(super) fn watched(&self) -> &Rc<Watched> {
        &self.watched
    }

    pub(super) fn limits(&self) -> &Rc<Limits> {
        self.connections.limits()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        let mut live = self.connections.live.borrow_mut();
        if let Some(at) = live.iter().position(|watched| Rc::ptr_eq(watched, &self.watched)) {
            live.swap_remove(at);
        }
    }
}
