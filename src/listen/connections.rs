//! A worker's open connections: their registry and the watch over their time.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    caller::{Peer, roster},
    listen::{
        Limits,
        bind::{Entry, Shared},
        watched::{Ending, Watched},
    },
    proxy::worker::Worker,
};

/// The longest time between two looks at the connections' clocks.
const WATCH_PERIOD_MAX: Duration = Duration::from_secs(1);
/// An HTTP/2 connection that has been idle for less is never one too many: its caller may be between two requests.
const SURPLUS_AFTER: Duration = Duration::from_secs(5);

/// A worker's connections, to watch and to wait for.
#[derive(Default)]
pub struct Connections {
    live: RefCell<Vec<Rc<Watched>>>,
}

impl Connections {
    /// No connections yet.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Open connections of this worker.
    pub fn count(&self) -> usize {
        self.live.borrow().len()
    }

    /// Looks at every connection's clock again and again; never ends by itself.
    ///
    /// One look for all is far cheaper than a timer that every request of every connection resets.
    pub async fn watch(&self, worker: &Worker) {
        let mut stopping_since = None;
        loop {
            // Read anew each time: they may have been changed.
            let timeouts = worker.timeouts();
            let period = match worker.is_draining() {
                true => Duration::from_millis(20),
                false => (timeouts.header_read.min(timeouts.idle) / 4)
                    .clamp(Duration::from_millis(20), WATCH_PERIOD_MAX),
            };
            tokio::time::sleep(period).await;
            let now = Instant::now();
            if worker.is_draining() {
                stopping_since.get_or_insert(now);
            }
            for watched in self.live.borrow().iter() {
                watched.look(now, &timeouts, stopping_since);
            }
            self.thin_out(now, worker.http2_idle_connections());
            worker.pool().prune();
        }
    }

    /// Keeps `most` idle HTTP/2 connections, those that were used last. Each holds some 30 kB of the library's buffers
    /// and tables, which cannot be given back as with HTTP/1.1.
    fn thin_out(&self, now: Instant, most: usize) {
        let live = self.live.borrow();
        if live.len() <= most {
            return;
        }
        let idle = |watched: &Rc<Watched>| Some((watched.streams.get()?.idle_since()?, Rc::clone(watched)));
        let mut idle: Vec<_> = live.iter().filter_map(idle).collect();
        let surplus = idle.len().saturating_sub(most);
        idle.sort_unstable_by_key(|(since, _)| *since);
        idle.retain(|(since, _)| now - *since > SURPLUS_AFTER);
        for (_, watched) in idle.iter().take(surplus) {
            if let Some(streams) = watched.streams.get() {
                streams.leave(watched, now, Some(Ending::Surplus));
            }
        }
    }
}

/// A connection's place in its worker's registry.
pub(super) struct Registered {
    connections: Rc<Connections>,
    watched: Rc<Watched>,
    shared: Shared,
    present: roster::Entry,
}

impl Registered {
    /// Registers a connection of `peer`, which also counts as open in its listener until this is dropped.
    pub(super) fn new(connections: &Rc<Connections>, entry: &Entry, shared: &Shared, peer: Peer) -> Self {
        let present = entry.roster.enter(peer);
        let watched = Watched::new(&shared.is_replaced, present.connection(), &entry.shard);
        connections.live.borrow_mut().push(Rc::clone(&watched));
        shared.open.fetch_add(1, Ordering::Relaxed);
        shared.room.enter();
        Self { connections: Rc::clone(connections), watched, shared: shared.clone(), present }
    }

    /// Notes the name in the certificate that the caller has shown.
    pub(super) fn certify(&self, name: &str) {
        self.present.connection().certify(name);
    }

    pub(super) fn watched(&self) -> &Rc<Watched> {
        &self.watched
    }

    /// Those that were in force when it was accepted.
    pub(super) fn limits(&self) -> &Arc<Limits> {
        &self.shared.limits
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        self.shared.room.leave();
        let mut live = self.connections.live.borrow_mut();
        if let Some(at) = live.iter().position(|watched| Rc::ptr_eq(watched, &self.watched)) {
            live.swap_remove(at);
        }
    }
}
