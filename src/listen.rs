//! Listeners: accepting callers' connections, watching their time, and letting them go.
//!
//! Every worker has its own socket on every listener's address (`SO_REUSEPORT`), so the kernel
//! spreads connections and no worker hands one to another.

use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::Instant,
};

use crate::{caller::Caller, proxy::worker::Worker};

mod bind;
mod connections;
mod frames;
mod framing;
mod guard;
mod http2;
mod serve;
mod streams;
mod transport;
mod watched;

pub use bind::{BindError, Listener, Share};
pub use connections::Connections;
use connections::Registered;
use transport::{Accepted, Transport};

/// How long accepting pauses when the system refuses, for instance without file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    /// Requests at a time on one HTTP/2 connection.
    pub http2_streams: u32,
    /// Bytes of a request body that an HTTP/2 caller may send ahead on one stream.
    pub http2_stream_window: u32,
    /// And on all streams of a connection together.
    pub http2_connection_window: u32,
    /// Bytes of an HTTP/2 header list (RFC 9113 §6.5.2).
    pub http2_header_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 32 * 1024,
            headers: 100,
            uri_bytes: 16 * 1024,
            connections: 10_000,
            http2_streams: 100,
            http2_stream_window: 64 * 1024,
            http2_connection_window: 1024 * 1024,
            http2_header_bytes: 16 * 1024,
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
        if share.open.load(Ordering::Relaxed) >= connections.limits().connections {
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
    let registered = Registered::new(connections, count);
    let worker = Rc::clone(worker);
    // Ends with the connection; the worker waits for all of them when it stops.
    tokio::task::spawn_local(async move {
        let accepted =
            Accepted { transport: Transport::Tcp(stream), caller: Caller { address: peer }, tls: None };
        serve::serve(worker, &registered, accepted).await;
    });
}
