//! Idle connections of one worker, used last-in first-out.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::upstream::{
    Upstream,
    connect::{self, ConnectError, Wire},
};

/// Idle connections kept per origin and worker.
const IDLE_MAX: usize = 256;
/// How long an idle connection may take to notice that it is idle.
const READY_LIMIT: Duration = Duration::from_millis(50);
/// Shorter than what most servers keep, so that it is rarely the server who closes.
const IDLE_TIME: Duration = Duration::from_secs(60);
/// A response head of an upstream, and at most this much of its body read ahead. Bounds what a busy
/// connection costs.
const READ_BUFFER_MAX: usize = 64 * 1024;

/// Connections of one worker to all its upstreams.
pub struct Pool<B> {
    idle: RefCell<FxHashMap<u64, Vec<Idle<B>>>>,
    connect_limit: Duration,
    open: Arc<AtomicUsize>,
}

struct Idle<B> {
    sender: http1::SendRequest<B>,
    wire: Rc<Wire>,
    since: Instant,
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// An empty pool whose connection attempts end after `connect_limit`.
    pub fn new(connect_limit: Duration) -> Rc<Self> {
        Rc::new(Self { idle: RefCell::default(), connect_limit, open: Arc::default() })
    }

    /// Open connections, idle or not; for metrics.
    pub fn open(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.open)
    }

    /// The most recently used idle connection, or a new one.
    ///
    /// # Errors
    /// When a new connection cannot be made.
    pub async fn connection(self: &Rc<Self>, upstream: &Upstream) -> Result<Connection<B>, ConnectError> {
        while let Some(mut idle) = self.take(upstream.id) {
            // Ready at once unless the last answer's end is still being noticed. An error means closed,
            // and one that takes longer is busy with what nobody waits for any more.
            let becomes_ready = async { idle.sender.is_ready() || idle.sender.ready().await.is_ok() };
            if tokio::time::timeout(READY_LIMIT, becomes_ready).await.unwrap_or(false) {
                return Ok(self.lend(upstream, idle, true));
            }
        }
        self.new_connection(upstream).await
    }

    /// A connection that nobody has used before.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn new_connection(self: &Rc<Self>, upstream: &Upstream) -> Result<Connection<B>, ConnectError> {
        let stream = connect::connect(upstream, self.connect_limit).await?;
        let wire = stream.wire();
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(READ_BUFFER_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| ConnectError::Unreachable(std::io::Error::other(e)))?;
        let open = Open::count(&self.open);
        // Ends by itself when the connection closes or its sender is dropped.
        tokio::task::spawn_local(async move {
            let _open = open;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Ok(self.lend(upstream, Idle { sender, wire, since: Instant::now() }, false))
    }

    /// Closes connections that have been idle for too long. To be called every few seconds.
    pub fn prune(&self) {
        let now = Instant::now();
        self.idle.borrow_mut().retain(|_, idle| {
            // The oldest are at the front: the pool is a stack.
            let keep = idle.iter().position(|i| now - i.since < IDLE_TIME).unwrap_or(idle.len());
            idle.drain(..keep);
            idle.retain(|i| !i.sender.is_closed());
            !idle.is_empty()
        });
    }

    fn take(&self, id: u64) -> Option<Idle<B>> {
        let mut idle = self.idle.borrow_mut();
        let idle = idle.get_mut(&id)?;
        std::iter::from_fn(|| idle.pop()).find(|idle| !idle.sender.is_closed())
    }

    fn lend(self: &Rc<Self>, upstream: &Upstream, idle: Idle<B>, reused: bool) -> Connection<B> {
        let Idle { sender, wire, .. } = idle;
        Connection { sender, wire, id: upstream.id, reused, is_spent: false, pool: Rc::clone(self) }
    }
}

/// A connection in use by one request.
pub struct Connection<B> {
    sender: http1::SendRequest<B>,
    wire: Rc<Wire>,
    id: u64,
    reused: bool,
    is_spent: bool,
    pool: Rc<Pool<B>>,
}

impl<B> Connection<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Whether the connection has carried a request before, so that the upstream may have closed it.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// Bytes that have left over this connection so far.
    pub fn sent_bytes(&self) -> u64 {
        self.wire.sent_bytes()
    }

    /// Sends one request. The error gives the request back when nothing of it was sent.
    ///
    /// # Errors
    /// hyper's, with the request inside if it never left.
    pub fn send(
        &mut self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<B>>>> + use<B> {
        self.sender.try_send_request(request)
    }

    /// The connection is not to be used again after this request.
    pub fn retire(&mut self) {
        self.is_spent = true;
    }

    /// Gives the connection back once its response has been read to the end. A connection that is
    /// dropped instead closes.
    pub fn give_back(self) {
        if self.is_spent {
            return;
        }
        let mut idle = self.pool.idle.borrow_mut();
        let idle = idle.entry(self.id).or_default();
        if idle.len() < IDLE_MAX && !self.sender.is_closed() && !self.wire.is_deaf() {
            idle.push(Idle { sender: self.sender, wire: self.wire, since: Instant::now() });
        }
    }
}

/// Counts one open connection while it lives.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn count(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
