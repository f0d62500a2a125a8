//! What a worker's pool keeps of one upstream.

use std::{rc::Rc, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    telemetry::metrics::Count,
    upstream::{
        Closing, Sendable,
        http1::Idle,
        http2::{self, Shared},
        opening::Opening,
        tally::Tally,
    },
};

/// So long an idle connection is kept also when there are too many. Requests that end together are often
/// followed by others that begin together, and making connections costs more than they do.
const SURPLUS_KEPT: Duration = Duration::from_secs(1);

/// Connections to one upstream.
pub(super) struct Shelf<B: Sendable> {
    /// A stack.
    pub(super) idle: Vec<Idle<B>>,
    /// By rising number.
    pub(super) shared: Vec<Rc<Shared>>,
    pub(super) opening: Vec<Rc<Opening>>,
    /// What its latest shared connection carries; how many may wait for one that is being made.
    pub(super) streams_max: usize,
    /// How many are idle, for those who look.
    resting: Arc<Count>,
}

impl<B: Sendable> Shelf<B> {
    pub(super) fn new(tally: &Tally, id: u64) -> Self {
        let (idle, shared, opening) = (Vec::new(), Vec::new(), Vec::new());
        Self { idle, shared, opening, streams_max: http2::STREAMS_MAX, resting: tally.begin(id) }
    }

    pub(super) fn forget(&mut self, shared: &Rc<Shared>) {
        self.shared.retain(|known| !Rc::ptr_eq(known, shared));
    }

    /// A shared connection with room. The newest first, so that old ones come to their ends. If the newest takes no
    /// request at all for now, it is the one to wait on: another would take none either. One that has fallen silent
    /// is passed over.
    pub(super) fn share(&mut self, newer_than: u64) -> Option<Rc<Shared>> {
        if self.shared.is_empty() {
            return None;
        }
        let now = Instant::now();
        self.shared.retain(|shared| shared.is_fit(now));
        let newer = self.shared.iter().rev().take_while(|shared| shared.number > newer_than);
        let mut newer = newer.filter(|shared| !shared.is_silent(now));
        let newest = newer.clone().next().filter(|shared| shared.streams_max() == 0);
        newer.find(|shared| shared.has_room()).or(newest).cloned()
    }

    pub(super) fn take(&mut self) -> Option<Idle<B>> {
        if self.idle.is_empty() {
            return None;
        }
        let now = Instant::now();
        let found = std::iter::from_fn(|| self.idle.pop()).find(|idle| {
            idle.driven.catch_up();
            idle.is_fit(now)
        });
        self.count();
        found
    }

    /// Closes what is more than `kept`, the longest idle first.
    pub(super) fn trim(&mut self, kept: usize, now: Instant) {
        let mut surplus = self.resting().saturating_sub(kept);
        let is_old = |since: Instant| now - since >= SURPLUS_KEPT;
        let old = self.idle.iter().take(surplus).take_while(|idle| is_old(idle.since)).count();
        self.idle.drain(..old).for_each(|idle| idle.wire.close_because(Closing::Surplus));
        surplus -= old;
        self.shared.retain(|shared| {
            let goes = surplus > 0 && shared.streams.get() == 0 && is_old(shared.since.get());
            if goes {
                shared.wire.close_because(Closing::Surplus);
                surplus -= 1;
            }
            !goes
        });
    }

    fn resting(&self) -> usize {
        self.idle.len() + self.shared.iter().filter(|shared| shared.streams.get() == 0).count()
    }

    /// Tells how many are idle. A shared connection that gets a request is told of at the next look.
    pub(super) fn count(&self) {
        self.resting.set(self.resting() as u64);
    }

    /// Since when the connection has been idle that has been so for longest.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let shared = self.shared.iter().filter(|shared| shared.streams.get() == 0);
        self.idle.iter().map(|idle| idle.since).chain(shared.map(|shared| shared.since.get())).min()
    }

    /// Closes the connection that has been idle since `since`.
    pub(super) fn close(&mut self, since: Instant) {
        let goes = |shared: &Rc<Shared>| shared.streams.get() == 0 && shared.since.get() == since;
        match self.idle.iter().position(|idle| idle.since == since) {
            Some(at) => self.idle.remove(at).wire.close_because(Closing::Surplus),
            None => {
                self.shared
                    .extract_if(.., |shared| goes(shared))
                    .for_each(|shared| shared.wire.close_because(Closing::Surplus));
            }
        }
        self.count();
    }
}
