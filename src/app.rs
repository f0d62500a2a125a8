//! The running gateway: everything wired, every socket bound, and a way to stop it.
//!
//! [`start`] returns only when all sockets listen, with their real addresses. Tests and the demo start
//! the same gateway as `keybearer run`, on port 0.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    runtime::{LocalOptions, Runtime},
    sync::watch,
    time::Instant,
};

use crate::{
    admin,
    config::Settings,
    listen::{self, Address, Connections, Listener, Share},
    proxy::worker::{Gateway, Route, Snapshot, Worker},
    route::{self, Table},
    telemetry::log::Log,
    token,
    upstream::{Upstream, tls},
};

mod reload;

pub(crate) use reload::Kept;
pub use reload::ReloadError;
use reload::{Owners, handles};

/// How often a stopping worker looks whether its last connection has closed.
const DRAIN_POLL: Duration = Duration::from_millis(5);

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener could not be bound.
    #[error(transparent)]
    Listen(#[from] listen::BindError),
    /// The admin listener could not be bound.
    #[error("the admin listener cannot listen on {0}: {1}")]
    Admin(SocketAddr, io::Error),
    /// An upstream cannot be used.
    #[error("route \"{0}\": {1}")]
    Upstream(String, tls::SetUpError),
    /// Two routes are of one rank.
    #[error("{0}")]
    Routes(route::Conflict),
    /// A thread or its runtime could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(#[from] io::Error),
}

/// A started gateway. Dropping it stops everything at once.
pub struct Running {
    listeners: Vec<(String, Address)>,
    admin: Option<SocketAddr>,
    gateway: Arc<Gateway>,
    owners: Owners,
    /// The settings in force.
    serving: Mutex<Settings>,
    stop: watch::Sender<Stop>,
    workers: Vec<JoinHandle<Drained>>,
    control: Option<JoinHandle<()>>,
}

/// How far stopping has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    No,
    /// No new connections; requests in flight are finished.
    Drain,
    /// Everything ends.
    Now,
}

/// How a gateway ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every request in flight was finished.
    Completely,
    /// So many connections were still busy when the drain time was over.
    Cut(usize),
}

/// Starts the gateway that `settings` describe.
///
/// # Errors
/// [`StartError`]; nothing is left running then.
pub fn start(settings: Settings, log: Option<&Log>) -> Result<Running, StartError> {
    let count = settings.workers.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let mut listeners = listen::bind_all(&settings.listeners, &settings.limits, count)?;
    let admin = settings.admin.map(|address| {
        let socket = admin::bind(address).map_err(|e| StartError::Admin(address, e))?;
        let address = socket.local_addr()?;
        Ok::<_, StartError>((socket, address))
    });
    let admin = admin.transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let owners = Owners::new(runtime.handle());
    let (profiles, _) = owners.prepare(&settings.profiles);
    let snapshot = snapshot(&settings, &handles(&profiles), count, Kept::default())?;
    owners.set(profiles);
    let gateway = Gateway::new(
        snapshot,
        count,
        settings.timeouts,
        settings.connections,
        settings.replay.total_bytes,
        settings.log.access,
    );
    let (stop, stopped) = watch::channel(Stop::No);
    let mut running = Running {
        listeners: listeners.iter().map(|l| (l.name().to_owned(), l.address().clone())).collect(),
        admin: admin.as_ref().map(|(_, address)| *address),
        gateway: Arc::clone(&gateway),
        owners,
        serving: Mutex::new(settings.clone()),
        stop,
        workers: Vec::new(),
        control: None,
    };
    let shown = admin::Shown {
        gateway: Arc::clone(&gateway),
        profiles: Arc::clone(&running.owners.shown),
        listeners: listeners.iter().map(count_of).collect(),
        dropped_lines: log.map(Log::dropped),
    };
    let admin = admin.map(|(socket, _)| (socket, Arc::new(shown)));
    let followers = listeners.iter_mut().filter_map(Listener::follower).collect();
    running.control = Some(start_control(runtime, admin, followers, stopped.clone())?);
    for index in 0..count {
        let shares = listeners.iter_mut().filter_map(Listener::share).collect();
        let worker = WorkerThread {
            gateway: Arc::clone(&gateway),
            index,
            shares,
            limits: settings.limits,
            stopped: stopped.clone(),
        };
        let thread = thread::Builder::new().name(format!("worker-{index}"));
        running.workers.push(thread.spawn(move || worker.run())?);
    }
    Ok(running)
}

fn count_of(listener: &Listener) -> admin::metrics::ListenerCount {
    admin::metrics::ListenerCount {
        name: listener.name().to_owned(),
        open: listener.open(),
        shards: listener.shards(),
        certificates: listener.certificates(),
    }
}

/// The routing table of `settings`, with the owners of its profiles' tokens.
pub(crate) fn snapshot(
    settings: &Settings,
    profiles: &HashMap<String, token::Handle>,
    workers: usize,
    kept: Kept,
) -> Result<Snapshot, StartError> {
    let trust = tls::Trust::default();
    let Kept { mut shards, mut upstreams } = kept;
    let (mut entries, mut routes) = (Vec::new(), Vec::new());
    for (index, entry) in settings.routes.iter().enumerate() {
        let origin = &entry.target.upstream;
        // Connections of different accounts never mix.
        let key = (origin.clone(), entry.target.profile.clone());
        let upstream = match upstreams.get(&key) {
            Some(upstream) => Arc::clone(upstream),
            None => {
                let upstream = Upstream::new(origin.clone(), &trust)
                    .map_err(|e| StartError::Upstream(entry.name.clone(), e))?;
                upstreams.insert(key, Arc::clone(&upstream));
                upstream
            }
        };
        let rule = entry.rule.clone();
        routes.push(Arc::new(Route {
            name: entry.name.clone(),
            prefix: rule.path.as_str().to_owned(),
            profile: entry.target.profile.as_ref().and_then(|name| profiles.get(name)).cloned(),
            settings: entry.target.clone(),
            upstream,
            shards: shards
                .remove(&entry.name)
                .unwrap_or_else(|| (0..workers).map(|_| Arc::default()).collect()),
        }));
        entries.push(route::Entry { name: entry.name.clone(), rule, target: index });
    }
    let table = Table::build(entries).map_err(|conflicts| {
        let first = conflicts.into_iter().next().expect("a table is refused with at least one conflict");
        StartError::Routes(first)
    })?;
    Ok(Snapshot { table, routes })
}

/// The control plane's thread: token owners, certificates and the admin listener.
fn start_control(
    runtime: Runtime,
    admin: Option<(std::net::TcpListener, Arc<admin::Shown>)>,
    followers: Vec<listen::tls::Follower>,
    mut stopped: watch::Receiver<Stop>,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("control".into()).spawn(move || {
        runtime.block_on(async {
            if let Some((socket, shown)) = admin {
                tokio::spawn(async move {
                    if let Err(error) = admin::serve(socket, shown).await {
                        tracing::error!(%error, "the admin listener has ended");
                    }
                });
            }
            tokio::spawn(listen::tls::follow(followers));
            // An error means that the `Running` is gone, which is a reason to stop as well.
            let _ = stopped.wait_for(|stop| *stop == Stop::Now).await;
        });
        // Owners that are in the middle of an exchange are not waited for.
        runtime.shutdown_background();
    })
}

struct WorkerThread {
    gateway: Arc<Gateway>,
    index: usize,
    shares: Vec<Share>,
    limits: listen::Limits,
    stopped: watch::Receiver<Stop>,
}

impl WorkerThread {
    fn run(self) -> Drained {
        let options = LocalOptions::default();
        match tokio::runtime::Builder::new_current_thread().enable_all().build_local(options) {
            Ok(runtime) => runtime.block_on(self.serve()),
            Err(error) => {
                tracing::error!(%error, worker = self.index, "a worker could not start");
                Drained::Cut(0)
            }
        }
    }

    async fn serve(self) -> Drained {
        let worker = Worker::new(&self.gateway, self.index);
        let connections = Connections::new(self.limits);
        let mut accepting = Vec::new();
        let (stop_accepting, stopped_accepting) = watch::channel(false);
        for share in self.shares {
            let accept =
                listen::accept(Rc::clone(&worker), share, Rc::clone(&connections), stopped_accepting.clone());
            accepting.push(tokio::task::spawn_local(accept));
        }
        let watching = {
            let (worker, connections) = (Rc::clone(&worker), Rc::clone(&connections));
            tokio::task::spawn_local(async move { connections.watch(&worker).await })
        };
        let mut stopped = self.stopped;
        let _ = stopped.wait_for(|stop| *stop >= Stop::Drain).await;
        let deadline = Instant::now() + worker.timeouts().drain;
        stop_accepting.send_replace(true);
        for task in accepting {
            if let Ok(Err(error)) = task.await {
                tracing::error!(%error, "a listener has ended");
            }
        }
        while connections.count() > 0 && Instant::now() < deadline && !is_now(&stopped) {
            tokio::time::sleep(DRAIN_POLL).await;
        }
        watching.abort();
        match connections.count() {
            0 => Drained::Completely,
            open => Drained::Cut(open),
        }
    }
}

/// Also when the `Running` is gone: nobody waits for the requests then.
fn is_now(stopped: &watch::Receiver<Stop>) -> bool {
    *stopped.borrow() == Stop::Now || stopped.has_changed().is_err()
}

impl Running {
    /// Where the listener `name` listens, unless that is a unix socket.
    pub fn listener(&self, name: &str) -> Option<SocketAddr> {
        let (_, address) = self.listeners.iter().find(|(n, _)| n == name)?;
        match address {
            Address::Ip(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }

    /// All listeners with their addresses.
    pub fn listeners(&self) -> &[(String, Address)] {
        &self.listeners
    }

    /// Where the admin listener listens.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The token owners.
    pub fn profiles(&self) -> Arc<Vec<token::Handle>> {
        self.owners.shown.load_full()
    }

    /// Begins to stop: readiness turns, no connection is accepted any more, requests in flight go on.
    pub fn stop(&self) {
        self.gateway.drain();
        self.stop.send_if_modified(|stop| {
            let begins = *stop == Stop::No;
            if begins {
                *stop = Stop::Drain;
            }
            begins
        });
    }

    /// Waits until a stopping gateway has stopped; blocks the thread for at most the drain time.
    pub fn wait(mut self) -> Drained {
        let mut drained = Drained::Completely;
        for worker in self.workers.drain(..) {
            let outcome = worker.join().unwrap_or(Drained::Cut(0));
            drained = match (drained, outcome) {
                (Drained::Cut(a), Drained::Cut(b)) => Drained::Cut(a + b),
                (Drained::Cut(n), _) | (_, Drained::Cut(n)) => Drained::Cut(n),
                _ => Drained::Completely,
            };
        }
        self.stop.send_replace(Stop::Now);
        if let Some(control) = self.control.take() {
            let _ = control.join();
        }
        drained
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.gateway.drain();
        self.stop.send_replace(Stop::Now);
    }
}
