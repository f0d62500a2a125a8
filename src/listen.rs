//! Listeners: accepting callers' connections, watching their time, and letting them go.
//!
//! Every worker has its own socket on every listener's address (`SO_REUSEPORT`), so the kernel
//! spreads connections and no worker hands one to another.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::Instant,
};

use crate::{
    caller::Caller,
    proxy::{self, Inbound, worker::Worker},
};

mod framing;
mod guard;
mod watched;

use guard::Guard;
use watched::{Phase, Watched};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// How long accepting pauses when the system refuses, for instance without file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection may stay open for its next request while the gateway stops.
const LAST_CHANCE: Duration = Duration::from_secs(1);
/// The longest time between two looks at the connections' clocks.
const WATCH_PERIOD_MAX: Duration = Duration::from_secs(1);
/// What a caller still sends behind an early answer is read for so long, so that the answer reaches it.
const LINGER_TIME_MAX: Duration = Duration::from_secs(10);
/// And for so long when nothing comes.
const LINGER_PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a listener is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The listener's name in the configuration.
    pub name: String,
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
}

/// Limits on what callers send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a header block, without the request line.
    pub header_bytes: usize,
    /// Number of header fields.
    pub headers: usize,
    /// Bytes of a request target.
    pub uri_bytes: usize,
    /// Connections of one listener, all workers together.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { header_bytes: 32 * 1024, headers: 100, uri_bytes: 16 * 1024, connections: 10_000 }
    }
}

/// Why a listener could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("listener \"{name}\" cannot listen on {address}: {cause}{}", hint(cause))]
pub struct BindError {
    /// The listener.
    pub name: String,
    /// Its address.
    pub address: SocketAddr,
    /// The system's reason.
    pub cause: io::Error,
}

fn hint(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::AddrInUse => " (another process listens there; stop it or choose another address)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need a privilege)",
        io::ErrorKind::AddrNotAvailable => " (no interface of this machine has that address)",
        _ => "",
    }
}

/// A bound listener: one socket for each worker, all on one address.
pub struct Listener {
    name: Arc<str>,
    address: SocketAddr,
    sockets: Vec<std::net::TcpListener>,
    open: Arc<AtomicUsize>,
}

impl Listener {
    /// Binds `workers` sockets.
    ///
    /// # Errors
    /// [`BindError`], also when another process shares its port by `SO_REUSEPORT`: two gateways on
    /// one port would each get a part of the traffic.
    pub fn bind(settings: &Settings, workers: usize) -> Result<Self, BindError> {
        let fail = |cause| BindError { name: settings.name.clone(), address: settings.address, cause };
        drop(socket(settings.address, false).map_err(fail)?);
        let first = socket(settings.address, true).map_err(fail)?;
        let address = first.local_addr().map_err(fail)?;
        let mut sockets = vec![first];
        for _ in 1..workers {
            sockets.push(socket(address, true).map_err(fail)?);
        }
        Ok(Self { name: settings.name.as_str().into(), address, sockets, open: Arc::default() })
    }

    /// The listener's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address it really listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Open connections; for metrics.
    pub fn open(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.open)
    }

    /// One worker's share of the listener. To be taken once for each worker.
    pub fn share(&mut self) -> Option<Share> {
        let socket = self.sockets.pop()?;
        Some(Share { name: Arc::clone(&self.name), socket, open: Arc::clone(&self.open) })
    }
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// One worker's socket of a listener.
pub struct Share {
    name: Arc<str>,
    socket: std::net::TcpListener,
    open: Arc<AtomicUsize>,
}

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
                watched.look(now);
                let (phase, since) = watched.phase();
                match phase {
                    // An upstream that fell silent, or a caller that stopped reading.
                    Phase::Answering if now - since > timeouts.idle => watched.end_silently(),
                    Phase::Head if now - since > timeouts.header_read => watched.end_too_slow(),
                    Phase::Idle if now - since > timeouts.idle => watched.end_silently(),
                    // The caller may be about to send: it gets a moment, and its answer says `close`.
                    Phase::Idle if stopping_since.is_some_and(|at| now - at.max(since) > LAST_CHANCE) => {
                        watched.end_silently();
                    }
                    Phase::Head | Phase::Idle | Phase::Busy | Phase::Answering => {}
                }
            }
            worker.pool().prune();
        }
    }
}

/// Accepts connections of one listener for one worker until `stop` turns true.
///
/// # Errors
/// Only when the socket cannot be registered at all; failures to accept are survived.
pub async fn accept(
    worker: Rc<Worker>,
    share: Share,
    connections: Rc<Connections>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(share.socket)?;
    let mut trouble = Trouble::default();
    while !*stop.borrow() {
        if share.open.load(Ordering::Relaxed) >= connections.limits.connections {
            trouble.say(&share.name, "the limit of connections is reached");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        }
        // Both branches may be dropped: an unaccepted connection stays in the kernel's queue.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => continue,
        };
        match accepted {
            Ok((stream, peer)) => open(&worker, &connections, &share.open, stream, peer),
            Err(error) if is_one_callers(&error) => {}
            Err(error) => {
                trouble.say(&share.name, &error.to_string());
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Closing the socket would reset the connections that wait in its queue.
    let socket = listener.into_std()?;
    while let Ok((stream, peer)) = socket.accept() {
        stream.set_nonblocking(true)?;
        open(&worker, &connections, &share.open, TcpStream::from_std(stream)?, peer);
    }
    Ok(())
}

/// Errors that are about one connection and say nothing of the next.
fn is_one_callers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Says that accepting is in trouble, but not at every attempt.
#[derive(Default)]
struct Trouble {
    said_at: Option<Instant>,
}

impl Trouble {
    fn say(&mut self, listener: &str, what: &str) {
        const PERIOD: Duration = Duration::from_secs(10);
        if self.said_at.is_none_or(|at| at.elapsed() > PERIOD) {
            self.said_at = Some(Instant::now());
            tracing::warn!(listener, "connections wait to be accepted: {what}");
        }
    }
}

/// Serves a connection on a task of its own, which the registry and the open count outlive.
fn open(
    worker: &Rc<Worker>,
    connections: &Rc<Connections>,
    count: &Arc<AtomicUsize>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    // Without it a small answer waits for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let watched = Watched::new();
    connections.live.borrow_mut().push(Rc::clone(&watched));
    count.fetch_add(1, Ordering::Relaxed);
    let registered = Registered { connections: Rc::clone(connections), watched, count: Arc::clone(count) };
    let worker = Rc::clone(worker);
    // Ends with the connection; the worker waits for all of them when it stops.
    tokio::task::spawn_local(async move {
        let caller = Caller { address: peer };
        serve(worker, &registered, stream, caller).await;
    });
}

/// A connection's place in its worker's registry.
struct Registered {
    connections: Rc<Connections>,
    watched: Rc<Watched>,
    count: Arc<AtomicUsize>,
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

async fn serve(worker: Rc<Worker>, registered: &Registered, stream: TcpStream, caller: Caller) {
    let watched = &registered.watched;
    let limits = &registered.connections.limits;
    let guard = Guard::new(stream, limits, watched);
    let service = service_fn(|request| {
        let refused = watched.serve();
        let (presence, answering) = (Presence(Rc::clone(watched)), Rc::clone(watched));
        let worker = Rc::clone(&worker);
        async move {
            let inbound = Inbound { request, refused, caller, presence: Box::new(presence) };
            let answer = proxy::respond(worker, inbound).await;
            answering.begin_answer();
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    // The guard has judged every head before hyper sees it, so hyper's limits only have to be no
    // smaller. Its header timer is replaced by the watch.
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_headers(limits.headers.saturating_add(8))
        .max_buf_size((limits.header_bytes + limits.uri_bytes + 8 * 1024).max(64 * 1024))
        .serve_connection(TokioIo::new(guard), service);
    match connection.without_shutdown().await {
        Ok(parts) => {
            let (stream, is_sending) = parts.io.into_inner().into_parts();
            close(stream, is_sending).await;
        }
        Err(error) => tracing::debug!(%error, %caller, "connection ended"),
    }
}

/// Closes a connection. One whose caller may still be sending is read for a moment: closing it with
/// unread bytes would reset it, and the caller might never see the answer.
async fn close(mut stream: TcpStream, linger: bool) {
    if stream.shutdown().await.is_err() || !linger {
        return;
    }
    let drain = async {
        let mut scratch = vec![0; 16 * 1024];
        while let Ok(Ok(1..)) = tokio::time::timeout(LINGER_PAUSE_MAX, stream.read(&mut scratch)).await {}
    };
    let _ = tokio::time::timeout(LINGER_TIME_MAX, drain).await;
}

/// Lives as long as a request of a connection does.
struct Presence(Rc<Watched>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.answer();
    }
}
