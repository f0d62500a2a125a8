//! Connections of one worker: idle ones, used last-in first-out, and shared ones.
//!
//! With HTTP/1.1 every request has a connection of its own and makes one when none is idle. With
//! HTTP/2 requests share connections; who finds none with room waits for the one that is being made.
//! So does who does not know yet what the upstream speaks.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::upstream::{
    Closing, Sendable, Upstream, Want,
    connect::{ConnectError, Connected, Dialer},
    connection::Connection,
    departures::Departures,
    http1::{self, Idle},
    http2::{self, Shared},
    names::Names,
    opening::Opening,
    room::{Place, Room},
    shelf::Shelf,
    stream::Wire,
    tally::Tally,
};

/// How often a request waits for a connection that others fill up before it does. Then it makes its own.
const JOINS_MAX: usize = 3;

/// That there is no room for a connection is said no more often.
const FULL_SAID_EVERY: Duration = Duration::from_secs(10);

/// What may be told to all pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// DNS, TCP and TLS towards the upstream, together.
    pub connect: Duration,
    /// How long a connection without requests is kept.
    pub idle: Duration,
    /// Idle connections that are kept per upstream and worker. More are closed after a second; with none, each
    /// is closed at once.
    pub idle_connections: usize,
}

impl Default for Settings {
    /// Sixty seconds are shorter than what most servers keep, so that it is rarely the server who closes.
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), idle: Duration::from_secs(60), idle_connections: 256 }
    }
}

/// Connections of one worker to all its upstreams.
pub struct Pool<B: Sendable> {
    shelves: RefCell<FxHashMap<u64, Shelf<B>>>,
    settings: Cell<Settings>,
    dialer: Dialer,
    last_number: Cell<u64>,
    tally: Arc<Tally>,
    room: Arc<Room>,
    /// When it was last said that there is no room.
    said_full_at: Cell<Option<Instant>>,
    departures: Rc<Departures>,
}

impl<B: Sendable> Pool<B> {
    /// An empty pool; `tally` is where it counts, `room` is what the pools of all workers share.
    pub fn new(settings: Settings, tally: Arc<Tally>, room: Arc<Room>) -> Rc<Self> {
        let dialer = Dialer {
            limit: Cell::new(settings.connect),
            failures: RefCell::default(),
            names: Names::default(),
        };
        Rc::new(Self {
            shelves: RefCell::default(),
            settings: Cell::new(settings),
            dialer,
            last_number: Cell::new(0),
            tally,
            room,
            said_full_at: Cell::default(),
            departures: Rc::default(),
        })
    }

    /// These hold from now on, also for the connections there are.
    pub fn set(&self, settings: Settings) {
        self.settings.set(settings);
        self.dialer.limit.set(settings.connect);
    }

    /// Closes connections that have been idle for too long or are too old. To be called every few
    /// seconds.
    pub fn prune(&self) {
        let now = Instant::now();
        let settings = self.settings.get();
        // What is idle here may be in another worker's way.
        let kept = if self.room.is_crowded() { 0 } else { settings.idle_connections };
        let is_recent = |since: Instant, wire: &Wire| {
            let is_recent = now - since < settings.idle;
            if !is_recent {
                wire.close_because(Closing::Idle);
            }
            is_recent
        };
        self.shelves.borrow_mut().retain(|id, shelf| {
            shelf.idle.retain(|idle| {
                idle.driven.catch_up();
                idle.is_fit(now) && is_recent(idle.since, &idle.wire)
            });
            shelf.shared.retain(|shared| {
                shared.is_fit(now)
                    && (shared.streams.get() > 0 || is_recent(shared.since.get(), &shared.wire))
            });
            shelf.trim(kept, now);
            shelf.count();
            let is_used = !shelf.idle.is_empty() || !shelf.shared.is_empty() || !shelf.opening.is_empty();
            if !is_used {
                self.tally.end(*id);
            }
            is_used
        });
    }

    /// A connection of one's own comes back.
    pub(super) fn keep(&self, id: u64, idle: Idle<B>) {
        let mut shelves = self.shelves.borrow_mut();
        let shelf = shelves.entry(id).or_insert_with(|| Shelf::new(&self.tally, id));
        idle.driven.rest();
        if !idle.is_fit(idle.since) {
            return;
        }
        if self.settings.get().idle_connections == 0 {
            return idle.wire.close_because(Closing::Surplus);
        }
        shelf.idle.push(idle);
        shelf.count();
    }

    /// A shared connection has no requests now.
    pub(super) fn rest(&self, shared: &Rc<Shared>) {
        let mut shelves = self.shelves.borrow_mut();
        let Some(shelf) = shelves.get_mut(&shared.upstream.id) else { return };
        let is_fit = shared.is_fit(Instant::now());
        if is_fit && self.settings.get().idle_connections == 0 {
            shared.wire.close_because(Closing::Surplus);
        }
        if !is_fit || self.settings.get().idle_connections == 0 {
            shelf.forget(shared);
        }
        shelf.count();
    }

    /// A shared connection gets no more requests; it closes with its last one.
    pub(super) fn forget(&self, shared: &Rc<Shared>) {
        if let Some(shelf) = self.shelves.borrow_mut().get_mut(&shared.upstream.id) {
            shelf.forget(shared);
        }
    }

    /// Its requests that are about to leave.
    pub(super) fn departures(&self) -> &Rc<Departures> {
        &self.departures
    }

    fn next_number(&self) -> u64 {
        self.last_number.set(self.last_number.get() + 1);
        self.last_number.get()
    }
}

/// What lies in the pool for a request.
enum Found<B: Sendable> {
    Shared(Rc<Shared>),
    Idle(Idle<B>),
}

impl<B: Sendable> Pool<B> {
    /// A shared connection with room, or the most recently used idle one, or a new one.
    ///
    /// # Errors
    /// When a new connection cannot be made.
    pub async fn connection(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        want: Want,
    ) -> Result<Connection<B>, ConnectError> {
        match self.ready(upstream, want, 0) {
            Some(connection) => Ok(connection.found()),
            // Boxed, as everything that is rare: a request's future is moved, and small ones move fast.
            None => Box::pin(self.open_any(upstream, want, 0)).await,
        }
    }

    /// A connection that is newer than `failed`, which took no request.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn another(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        want: Want,
        failed: &Connection<B>,
    ) -> Result<Connection<B>, ConnectError> {
        let Some(number) = failed.number() else { return Box::pin(self.open_own(upstream, want)).await };
        let share = self.shelves.borrow_mut().get_mut(&upstream.id).and_then(|shelf| shelf.share(number));
        match share {
            Some(shared) if upstream.may_share(want) => Ok(Connection::share(self, &shared)),
            _ => Box::pin(self.open_any(upstream, want, number)).await,
        }
    }

    /// A connection from the pool.
    fn ready(self: &Rc<Self>, upstream: &Upstream, want: Want, newer_than: u64) -> Option<Connection<B>> {
        loop {
            let mut idle = match self.find(upstream, want, newer_than)? {
                Found::Shared(shared) => return Some(Connection::share(self, &shared)),
                Found::Idle(idle) => idle,
            };
            if idle.is_ready() {
                return Some(Connection::whole(self, upstream.id, idle));
            }
        }
    }

    fn find(&self, upstream: &Upstream, want: Want, newer_than: u64) -> Option<Found<B>> {
        let mut shelves = self.shelves.borrow_mut();
        let shelf = shelves.get_mut(&upstream.id)?;
        if upstream.may_share(want)
            && let Some(shared) = shelf.share(newer_than)
        {
            return Some(Found::Shared(shared));
        }
        shelf.take().map(Found::Idle)
    }

    /// A connection that is being made, by this request or another, if it may be shared.
    async fn open_any(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        want: Want,
        newer_than: u64,
    ) -> Result<Connection<B>, ConnectError> {
        for _ in 0..JOINS_MAX {
            if !upstream.may_share(want) {
                break;
            }
            self.join(upstream, newer_than).ended().await?;
            if let Some(connection) = self.ready(upstream, want, newer_than) {
                return Ok(connection);
            }
        }
        self.open_own(upstream, want).await
    }

    /// A connection for this request alone to begin with.
    async fn open_own(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        want: Want,
    ) -> Result<Connection<B>, ConnectError> {
        let number = self.next_number();
        Ok(match self.open_one(upstream, want, number).await? {
            Found::Idle(idle) => Connection::whole(self, upstream.id, idle),
            Found::Shared(shared) => {
                let connection = Connection::share(self, &shared);
                self.put(upstream, Found::Shared(shared));
                connection
            }
        })
    }

    /// The connection that is being made and has room for one more who waits; begins one if need be.
    fn join(self: &Rc<Self>, upstream: &Arc<Upstream>, newer_than: u64) -> Rc<Opening> {
        let mut shelves = self.shelves.borrow_mut();
        let shelf = shelves.entry(upstream.id).or_insert_with(|| Shelf::new(&self.tally, upstream.id));
        let room = shelf.streams_max;
        let known = shelf.opening.iter().find(|opening| opening.number > newer_than && opening.join(room));
        if let Some(known) = known {
            return Rc::clone(known);
        }
        let (opening, end) = Opening::begin(self.next_number());
        shelf.opening.push(Rc::clone(&opening));
        let (pool, upstream, number) = (Rc::clone(self), Arc::clone(upstream), opening.number);
        // Bounded by the limit on connecting, and of use to others when the caller hangs up.
        tokio::task::spawn_local(async move {
            let outcome = pool.open_one(&upstream, Want::Any, number).await;
            let outcome = outcome.map(|found| pool.put(&upstream, found));
            if let Some(shelf) = pool.shelves.borrow_mut().get_mut(&upstream.id) {
                shelf.opening.retain(|opening| opening.number != number);
            }
            end.with(outcome);
        });
        opening
    }

    async fn open_one(
        &self,
        upstream: &Arc<Upstream>,
        want: Want,
        number: u64,
    ) -> Result<Found<B>, ConnectError> {
        let place = self.place()?;
        let Connected { stream, is_http2 } = self.dialer.connect(upstream, want).await?;
        let stream = stream.holding(place);
        if want == Want::Any {
            upstream.learn(is_http2);
        }
        let expires = Instant::now() + upstream.life();
        Ok(if is_http2 {
            Found::Shared(http2::begin(stream, upstream, number, expires).await?)
        } else {
            Found::Idle(http1::begin(stream, expires).await?)
        })
    }

    /// A place for one more connection, if need be that of an idle one.
    fn place(&self) -> Result<Place, ConnectError> {
        if !self.room.is_full() || self.close_longest_idle() {
            return Ok(self.room.place());
        }
        let now = Instant::now();
        if self.said_full_at.get().is_none_or(|at| now - at > FULL_SAID_EVERY) {
            self.said_full_at.set(Some(now));
            self.room.warn_that_it_is_full();
        }
        Err(ConnectError::NoRoom)
    }

    fn close_longest_idle(&self) -> bool {
        let mut shelves = self.shelves.borrow_mut();
        let longest = shelves.values_mut().filter_map(|shelf| Some((shelf.idle_since()?, shelf)));
        let Some((since, shelf)) = longest.min_by_key(|(since, _)| *since) else { return false };
        shelf.close(since);
        true
    }

    fn put(&self, upstream: &Upstream, found: Found<B>) {
        let mut shelves = self.shelves.borrow_mut();
        let shelf = shelves.entry(upstream.id).or_insert_with(|| Shelf::new(&self.tally, upstream.id));
        match found {
            Found::Idle(idle) => shelf.idle.push(idle),
            Found::Shared(shared) => {
                shelf.streams_max = shared.streams_max().max(1);
                let at = shelf.shared.partition_point(|known| known.number < shared.number);
                shelf.shared.insert(at, shared);
            }
        }
        shelf.count();
    }
}
