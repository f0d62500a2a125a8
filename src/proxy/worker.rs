//! What a worker thread serves requests with: its own pool and its own view of the routing table.
//!
//! [`Gateway`] is shared by all workers and never locked; everything in [`Worker`] belongs to one
//! thread.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use http::{HeaderValue, Version};

use crate::{
    proxy::{
        attempt::RequestBody,
        complaints::Complaints,
        credentials::Slots,
        fault::CODES,
        recent::Recent,
        recovery::OUTCOMES,
        settings::{RouteSettings, Timeouts},
        timers::Timers,
    },
    replay::Budget,
    route::{Entry, Head, Table},
    telemetry::{
        metrics,
        trace::{Tracer, Traces},
    },
    token,
    upstream::{
        Upstream,
        pool::{self, Pool},
        room::Room,
        tally::Tally,
    },
};

mod route;

pub use route::RouteState;

/// What one worker counts for one route.
pub type Shard = metrics::Shard<CODES, OUTCOMES>;

/// A route made ready to forward.
pub struct Route {
    /// The route's name.
    pub name: String,
    /// The path prefix that the route matches.
    pub prefix: String,
    /// What it was told.
    pub settings: RouteSettings,
    /// Where it forwards to.
    pub upstream: Arc<Upstream>,
    /// The owner of its profile's token; `None` for `profile: none`.
    pub profile: Option<token::Handle>,
    /// The owners of tokens that go on the same requests.
    pub also: Vec<token::Handle>,
    /// Where all these go beside `Authorization`.
    pub slots: Slots,
    /// One per worker.
    pub shards: Vec<Arc<Shard>>,
    /// What it had with other profiles.
    pub former: Vec<Former>,
}

impl Route {
    /// Its counters with all profiles that it has had.
    pub fn all_shards(&self) -> Vec<Arc<Shard>> {
        let former = self.former.iter().flat_map(|former| &former.shards);
        self.shards.iter().chain(former).cloned().collect()
    }
}

/// What a route had with another profile, and goes on with when it has that one again.
#[derive(Clone)]
pub struct Former {
    /// The profile's name; `None` for `profile: none`.
    pub profile: Option<String>,
    /// One per worker.
    pub shards: Vec<Arc<Shard>>,
    /// Where its requests went, with the owners of the tokens on them; `None` when that has to be made anew.
    pub upstream: Option<(Vec<u64>, Arc<Upstream>)>,
}

/// The routing table that is in force, with its routes by index.
pub struct Snapshot {
    /// From a request to the index of its route.
    pub table: Table<usize>,
    /// In the order of the table's indices.
    pub routes: Vec<Arc<Route>>,
    /// What holds for all of them.
    pub common: Common,
    /// Where spans go, if they go anywhere.
    pub tracer: Option<Arc<Tracer>>,
}

/// What holds for the requests of all routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Common {
    /// Time limits.
    pub timeouts: Timeouts,
    /// Connections to upstreams.
    pub connections: pool::Settings,
    /// Idle HTTP/2 connections of callers that one worker keeps.
    pub http2_idle_connections: usize,
    /// Whether every request makes a line in the log.
    pub logs_access: bool,
}

/// What all workers share.
pub struct Gateway {
    snapshot: ArcSwap<Snapshot>,
    /// Counts snapshots, so that a worker notices a new one by reading a number.
    version: AtomicU64,
    pseudonym: String,
    /// Our entry for `Via`, for requests that came over HTTP/1.0, HTTP/1.1 and HTTP/2.
    via: [HeaderValue; 3],
    budget: Arc<Budget>,
    /// For connections to upstreams.
    room: Arc<Room>,
    draining: AtomicBool,
    /// For requests that no route took, one per worker.
    unrouted: Vec<Arc<Shard>>,
    /// What lies in the workers' pools.
    pools: Vec<Arc<Tally>>,
    recent: Recent,
    complaints: Complaints,
    traces: Arc<Traces>,
}

impl Gateway {
    /// A gateway of `workers` workers that serves `snapshot`.
    pub fn new(
        snapshot: Snapshot,
        workers: usize,
        replay_total_bytes: usize,
        traces: Arc<Traces>,
    ) -> Arc<Self> {
        // Random, so that it names this process and tells nothing about it (RFC 9110 §7.6.3).
        let pseudonym = format!("kb-{:012x}", fastrand::u64(..) & 0xffff_ffff_ffff);
        let via = |version| {
            let entry = format!("{version} {pseudonym}");
            HeaderValue::from_str(&entry).expect("hexadecimal is legal in a header")
        };
        let via = [via("1.0"), via("1.1"), via("2")];
        Arc::new(Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            version: AtomicU64::new(1),
            pseudonym,
            via,
            budget: Budget::new(replay_total_bytes),
            room: Room::of_this_process(),
            draining: AtomicBool::new(false),
            unrouted: (0..workers).map(|_| Arc::default()).collect(),
            pools: (0..workers).map(|_| Arc::default()).collect(),
            recent: Recent::default(),
            complaints: Complaints::default(),
            traces,
        })
    }

    /// The snapshot in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Serves `snapshot` from the next request on; those in flight finish on the one they began with.
    pub fn serve(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Memory for recorded bodies.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Counters of requests that no route took.
    pub fn unrouted(&self) -> &[Arc<Shard>] {
        &self.unrouted
    }

    /// Idle connections to upstreams, one count for each worker.
    pub fn pools(&self) -> &[Arc<Tally>] {
        &self.pools
    }

    /// The tracer in force, and what became of spans.
    pub fn traces(&self) -> &Arc<Traces> {
        &self.traces
    }

    /// The latest faults and 401s.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// From now on every answer closes its connection.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the gateway is about to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

struct View {
    version: u64,
    snapshot: Arc<Snapshot>,
    routes: Vec<Rc<RouteState>>,
}

/// Everything that one worker thread serves requests with.
pub struct Worker {
    index: usize,
    gateway: Arc<Gateway>,
    pool: Rc<Pool<RequestBody>>,
    view: RefCell<Rc<View>>,
    unrouted: Arc<Shard>,
    in_flight: Cell<usize>,
    timers: Timers,
}

impl Worker {
    /// Worker number `index` of `gateway`. To be made on the worker's own thread.
    pub fn new(gateway: &Arc<Gateway>, index: usize) -> Rc<Self> {
        let view = RefCell::new(Rc::new(view(gateway, index)));
        Rc::new(Self {
            index,
            gateway: Arc::clone(gateway),
            pool: Pool::new(
                gateway.snapshot.load().common.connections,
                gateway.pools.get(index).cloned().unwrap_or_default(),
                Arc::clone(&gateway.room),
            ),
            view,
            unrouted: gateway.unrouted.get(index).cloned().unwrap_or_default(),
            in_flight: Cell::new(0),
            timers: Timers::default(),
        })
    }

    /// The upstream connections.
    pub fn pool(&self) -> &Rc<Pool<RequestBody>> {
        &self.pool
    }

    /// What keeps time limits.
    pub(super) fn timers(&self) -> &Timers {
        &self.timers
    }

    /// Time limits in force.
    pub fn timeouts(&self) -> Timeouts {
        self.view().snapshot.common.timeouts
    }

    /// Idle HTTP/2 connections of callers that this worker keeps.
    pub fn http2_idle_connections(&self) -> usize {
        self.view().snapshot.common.http2_idle_connections
    }

    /// Whether the gateway is about to stop.
    pub fn is_draining(&self) -> bool {
        self.gateway.is_draining()
    }

    /// Requests that this worker is serving.
    pub fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// What has lately happened to requests, those of other workers included.
    pub fn recent(&self) -> &Recent {
        &self.gateway.recent
    }

    /// Which upstreams have just been complained of, by other workers too.
    pub(super) fn complaints(&self) -> &Complaints {
        &self.gateway.complaints
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.gateway.budget
    }

    pub(super) fn via(&self, version: Version) -> &HeaderValue {
        let [http10, http11, http2] = &self.gateway.via;
        match version {
            Version::HTTP_10 => http10,
            Version::HTTP_2 => http2,
            _ => http11,
        }
    }

    pub(super) fn pseudonym(&self) -> &str {
        &self.gateway.pseudonym
    }

    /// What is told of a request that begins now.
    pub(super) fn telling(&self) -> Telling {
        let view = self.view();
        Telling { logs_access: view.snapshot.common.logs_access, tracer: view.snapshot.tracer.clone() }
    }

    pub(super) fn logs_access(&self) -> bool {
        self.view().snapshot.common.logs_access
    }

    pub(super) fn unrouted(&self) -> &Shard {
        &self.unrouted
    }

    pub(super) fn enter(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    pub(super) fn leave(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    /// The route of a request and its rule, from the snapshot in force.
    pub(super) fn find(&self, head: &Head<'_>) -> Option<(Rc<RouteState>, Matched)> {
        let view = self.view();
        let entry: &Entry<usize> = view.snapshot.table.find(head)?;
        let route = Rc::clone(view.routes.get(entry.target)?);
        let names_method = entry.rule.methods.contains(head.method);
        Some((route, Matched { names_method }))
    }

    fn view(&self) -> Rc<View> {
        let mut view = self.view.borrow_mut();
        if view.version != self.gateway.version.load(Ordering::Acquire) {
            *view = Rc::new(self::view(&self.gateway, self.index));
            self.pool.set(view.snapshot.common.connections);
        }
        Rc::clone(&view)
    }
}

/// Who is told of a request.
pub(super) struct Telling {
    /// The log.
    pub(super) logs_access: bool,
    /// A collector of traces.
    pub(super) tracer: Option<Arc<Tracer>>,
}

/// What a request's match says beside the route.
pub(super) struct Matched {
    /// The rule lists the request's method by name.
    pub(super) names_method: bool,
}

fn view(gateway: &Gateway, index: usize) -> View {
    let version = gateway.version.load(Ordering::Acquire);
    let snapshot = gateway.snapshot();
    let state = |route: &Arc<Route>| {
        let shard = route.shards.get(index).cloned().unwrap_or_default();
        Rc::new(RouteState::new(Arc::clone(route), shard))
    };
    let routes = snapshot.routes.iter().map(state).collect();
    View { version, snapshot, routes }
}
