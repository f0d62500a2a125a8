//! The running gateway: everything wired, every socket bound, and a way to stop it.
//!
//! [`start`] returns only when all sockets listen, with their real addresses. Tests and the demo start
//! the same gateway as `keybearer run`, on port 0.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use tokio::{
    runtime::{Handle, Runtime},
    sync::{mpsc, watch},
};

use crate::{
    admin::changes,
    clock,
    config::{
        Settings,
        problem::{Problem, Problems},
    },
    export,
    listen::{self, Address, Share, certificate::CertificateError, inherited::Inherited},
    proxy::{
        credentials::Slots,
        worker::{Common, Gateway, Route, Snapshot},
    },
    route::{self, Table},
    source::SourceError,
    telemetry::{
        log::Log,
        trace::{Tracer, Traces},
    },
    token,
    upstream::{Upstream, tls},
};

mod administering;
pub mod control;
mod controlled;
mod core;
mod difference;
mod expiry;
mod listeners;
mod look;
mod owners;
mod pulse;
mod reading;
mod record;
mod reload;
mod relocation;
mod restart;
mod running;
pub mod service;
pub mod switches;
mod switching;
mod undefined;
mod worker;

use administering::Admin;
use control::{Control, Origin};
use core::Core;
pub(crate) use core::Kept;
use listeners::Listeners;
use owners::Owners;
pub use pulse::Pulse;
pub use reload::{Own, ReloadError};
use restart::Prepared;
use worker::WorkerThread;

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener could not be bound.
    #[error(transparent)]
    Listen(#[from] listen::BindError),
    /// The admin listener could not be bound.
    #[error("the admin listener cannot listen on {address}: {cause}{}", listen::hint(.address, .cause))]
    Admin {
        /// Its address.
        address: Address,
        /// The system's reason.
        cause: io::Error,
    },
    /// The admin listener's certificates cannot be used.
    #[error("admin: {0}")]
    AdminCertificate(CertificateError),
    /// The admin listener's token could not be made.
    #[error("the admin token {} cannot be made: {cause} (state_dir must be writable for the gateway's user)", .path.display())]
    AdminToken {
        /// Its file.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// The admin listener's token could not be read.
    #[error("admin.token: {0}")]
    AdminTokenSource(SourceError),
    /// An upstream cannot be used.
    #[error("route \"{0}\": {1}")]
    Upstream(String, tls::SetUpError),
    /// Two routes are of one rank.
    #[error("{0}")]
    Routes(route::Conflict),
    /// Spans could not be sent.
    #[error(transparent)]
    Export(#[from] export::StartError),
    /// A thread or its runtime could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(#[from] io::Error),
}

/// A started gateway. Dropping it stops everything at once.
pub struct Running {
    core: Arc<Core>,
    /// `None` when it was not started from a file.
    changes: Option<Arc<Control>>,
    /// Ends the thread that looks after the time of switches and the file, when dropped.
    _looking: Option<std::sync::mpsc::Sender<()>>,
    pulse: Arc<Pulse>,
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
    start_on(settings, log, Arc::default())
}

/// Starts it on sockets that are bound already, where they fit.
fn start_on(settings: Settings, log: Option<&Log>, inherited: Arc<Inherited>) -> Result<Running, StartError> {
    let count = settings.workers.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
    let core = match wire(settings, log, runtime.handle(), senders, inherited) {
        Ok(core) => Arc::new(core),
        Err(error) => {
            // Just dropped, it would wait for its tasks, which an asynchronous caller must not.
            runtime.shutdown_background();
            return Err(error);
        }
    };
    let (stop, stopped) = watch::channel(Stop::No);
    let names = (0..count).map(|index| format!("worker-{index}")).chain(["control".to_owned()]);
    let (pulse, mut beats) = Pulse::of(names);
    if let Some(beat) = beats.pop() {
        // Ends with the runtime.
        drop(runtime.spawn(beat.answer()));
    }
    let control = start_control(runtime, stopped.clone())?;
    let gateway = Arc::clone(&core.gateway);
    let mut running = Running {
        core,
        changes: None,
        _looking: None,
        pulse: Arc::new(pulse),
        stop,
        workers: Vec::new(),
        control: Some(control),
    };
    for (index, (shares, beat)) in receivers.into_iter().zip(beats).enumerate() {
        let (gateway, stopped) = (Arc::clone(&gateway), stopped.clone());
        let worker = WorkerThread { gateway, index, shares, beat, stopped };
        let thread = thread::Builder::new().name(format!("worker-{index}"));
        running.workers.push(thread.spawn(move || worker.run())?);
    }
    Ok(running)
}

/// Binds everything and makes everything ready; what remains is to start the threads.
fn wire(
    settings: Settings,
    log: Option<&Log>,
    control: &Handle,
    workers: Vec<mpsc::UnboundedSender<Share>>,
    inherited: Arc<Inherited>,
) -> Result<Core, StartError> {
    let count = workers.len();
    let listeners = Listeners::new(control, workers, inherited);
    let plan = listeners.prepare(&settings)?;
    let admin = Admin::bind(&settings, &listeners.inherited, None)?;
    let traces = Arc::<Traces>::default();
    traces.set(tracer(&settings, &traces, control)?);
    let owners = Owners::new(control, Arc::clone(&traces));
    let (profiles, _) = owners.prepare(&settings.profiles);
    let mut snapshot = snapshot(&settings, &owners::handles(&profiles), count, Kept::default())?;
    snapshot.tracer = traces.tracer();
    owners.set(profiles);
    let gateway = Gateway::new(snapshot, count, settings.replay.total_bytes, traces);
    let core = Core {
        workers: count,
        gateway,
        owners,
        listeners,
        log: log.map(Log::handle),
        admin: Mutex::default(),
        admin_connections: Arc::default(),
        control: Arc::default(),
        started: clock::now(),
        serving: Mutex::new(settings),
    };
    core.listeners.open(&plan)?;
    core.listeners.apply(plan);
    core.administer(admin, control);
    Ok(core)
}

/// Starts the gateway of a configuration file, with what was switched before a restart. The problems of a
/// file that has some are the outer error.
///
/// # Errors
/// [`StartError`]; nothing is left running then.
pub fn start_file(
    origin: Origin,
    log: Option<&Log>,
) -> Result<(Result<Running, StartError>, Vec<Problem>), Problems> {
    let prepared = restart::prepare(&origin)?;
    let warnings = prepared.loaded.warnings_for_log().cloned().collect();
    Ok((start_prepared(origin, prepared, log), warnings))
}

fn start_prepared(origin: Origin, prepared: Prepared, log: Option<&Log>) -> Result<Running, StartError> {
    let settings = prepared.loaded.settings.clone();
    let mut running = start_on(settings, log, Arc::clone(&origin.inherited))?;
    for unused in origin.inherited.unused() {
        tracing::warn!(
            name = unused.name,
            address = unused.address,
            "the service manager handed over a socket that is no listener's: nobody answers there (name it after a listener, or give a listener its address)"
        );
    }
    let path = origin.path.clone();
    let control = Arc::new(Control::new(Arc::clone(&running.core), origin, prepared));
    let shown: Arc<dyn changes::Control> = Arc::<Control>::clone(&control);
    // Set once, here.
    let _ = running.core.control.set(shown);
    running.changes = Some(Arc::clone(&control));
    running._looking = Some(look::start(control, path)?);
    Ok(running)
}

/// The routing table of `settings`, with the owners of its profiles' tokens.
pub(crate) fn snapshot(
    settings: &Settings,
    profiles: &HashMap<String, token::Handle>,
    workers: usize,
    mut kept: Kept,
) -> Result<Snapshot, StartError> {
    let trust = tls::Trust::default();
    let (mut entries, mut routes) = (Vec::new(), Vec::new());
    for (index, entry) in settings.routes.iter().enumerate() {
        let origin = &entry.target.upstream;
        let profile = entry.target.profile.as_ref().and_then(|name| profiles.get(name)).cloned();
        let also = profile.iter().flat_map(token::Handle::also);
        let also: Vec<_> = also.filter_map(|name| profiles.get(name)).cloned().collect();
        let presented = profile.iter().chain(&also).find_map(token::Handle::presented);
        // Connections of different accounts never mix.
        let place = (origin.clone(), core::accounts(profile.iter().chain(&also)));
        let upstream = match kept.upstreams.get(&place).filter(|upstream| upstream.shows(presented)) {
            Some(upstream) => Arc::clone(upstream),
            None => {
                let upstream = Upstream::new(origin.clone(), &trust, presented.cloned())
                    .map_err(|e| StartError::Upstream(entry.name.clone(), e))?;
                kept.upstreams.insert(place, Arc::clone(&upstream));
                upstream
            }
        };
        let counters = kept.counters(&entry.name, &entry.target.profile, settings);
        let rule = entry.rule.clone();
        routes.push(Arc::new(Route {
            name: entry.name.clone(),
            prefix: rule.path.as_str().to_owned(),
            slots: Slots::of(profile.iter().chain(&also)),
            profile,
            also,
            settings: entry.target.clone(),
            upstream,
            shards: counters.own.unwrap_or_else(|| (0..workers).map(|_| Arc::default()).collect()),
            former: counters.former,
        }));
        entries.push(route::Entry { name: entry.name.clone(), rule, target: index });
    }
    let table = Table::build(entries).map_err(|conflicts| {
        let first = conflicts.into_iter().next().expect("a table is refused with at least one conflict");
        StartError::Routes(first)
    })?;
    let common = Common {
        timeouts: settings.timeouts,
        connections: settings.connections,
        http2_idle_connections: settings.limits.http2_idle_connections.div_ceil(workers.max(1)),
        logs_access: settings.log.access,
    };
    Ok(Snapshot { table, routes, common, tracer: None })
}

/// Begins to send spans, if `settings` want that.
fn tracer(
    settings: &Settings,
    traces: &Traces,
    control: &Handle,
) -> Result<Option<Arc<Tracer>>, export::StartError> {
    let otlp = settings.otlp.clone();
    otlp.map(|otlp| export::start(otlp, traces.counts(), control)).transpose()
}

/// The control plane's thread: token owners, certificates and the admin listener.
fn start_control(runtime: Runtime, mut stopped: watch::Receiver<Stop>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("control".into()).spawn(move || {
        // An error means that the `Running` is gone, which is a reason to stop as well.
        let _ = runtime.block_on(stopped.wait_for(|stop| *stop == Stop::Now));
        // Owners that are in the middle of an exchange are not waited for.
        runtime.shutdown_background();
    })
}
