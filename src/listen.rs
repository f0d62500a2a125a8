//! Listeners: accepting callers' connections, watching their time, and letting them go.
//!
//! Every worker has its own socket on every listener's address (`SO_REUSEPORT`), so the kernel
//! spreads connections and no worker hands one to another. A socket that systemd hands over is one for all. Where a listener has too many, accepting
//! pauses and connections wait in the kernel's queue; nothing is dropped.

use std::{io, rc::Rc, time::Duration};

use tokio::{sync::watch, time::Instant};

use crate::{accepting, caller::TrustedProxies, proxy::worker::Worker, telemetry::metrics::Count};

mod addresses;
mod bind;
mod bound;
pub mod certificate;
mod connections;
mod door;
pub(crate) mod frames;
pub(crate) mod framing;
mod guard;
mod heads;
mod http2;
pub mod inherited;
mod isolated;
mod outgoing;
mod place;
mod refuse;
mod serve;
mod sni;
mod socket;
mod streams;
pub mod tls;
mod transport;
pub mod unix;
mod watched;
mod withdrawals;

pub(crate) use bind::hint;
pub use bind::{BindError, Change, Listener, Share};
pub use connections::Connections;
use door::Door;
pub use place::{Address, UnixSocket};
use socket::AcceptSocket;
pub use tls::Follower;

/// How long accepting pauses when the system refuses, for instance without file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a socket that others follow on its address takes what is half connected, while it lets nothing
/// new begin. Longer than most ways there and back.
const YIELD: Duration = Duration::from_millis(200);

/// What a listener is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The listener's name in the configuration.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// Whether another gateway of the same user may listen there at the same time.
    pub reuse_port: bool,
    /// `None` for plain HTTP.
    pub tls: Option<tls::Settings>,
    /// Whose word is taken about who sent a request before them.
    pub trusted_proxies: TrustedProxies,
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
    /// Connections of one caller address on one listener: an IPv4 address, an IPv6 /64, or a user on a
    /// unix socket. Off unless it is below `connections`.
    pub connections_per_address: usize,
    /// Idle HTTP/2 connections that are kept, of all listeners and workers together.
    pub http2_idle_connections: usize,
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
            connections_per_address: 10_000,
            http2_idle_connections: 3_000,
            http2_streams: 100,
            http2_stream_window: 64 * 1024,
            http2_connection_window: 1024 * 1024,
            http2_header_bytes: 16 * 1024,
        }
    }
}

/// Accepts connections of one listener for one worker until `stop` turns true or the listener closes.
///
/// # Errors
/// Only when the socket cannot be registered at all; failures to accept are survived.
pub async fn accept(
    worker: Rc<Worker>,
    share: Share,
    connections: Rc<Connections>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let Share { socket, entry, is_inherited, mut live } = share;
    let socket = AcceptSocket::register(socket)?;
    let mut pause = Pause::default();
    let current = live.borrow_and_update().clone();
    let Some(mut door) = current.map(|shared| Door::new(&worker, &connections, &entry, shared)) else {
        return Ok(());
    };
    let mut is_closed = false;
    while !*stop.borrow() {
        // An error means that nobody is left who could change it: the gateway is gone.
        if live.has_changed().unwrap_or(true) {
            match live.borrow_and_update().clone() {
                Some(shared) => door = Door::new(&worker, &connections, &entry, shared),
                None => {
                    // Perhaps another listener of ours has the address from now on.
                    is_closed = true;
                    break;
                }
            }
        }
        if let Some((why, count)) = door.is_full() {
            pause.hold(&door, why, count).await;
            continue;
        }
        // Both branches may be dropped: an unaccepted connection stays in the kernel's queue.
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = stop.changed() => continue,
            _ = live.changed() => {
                live.mark_changed();
                continue;
            }
        };
        match accepted {
            Ok((transport, peer)) => {
                pause.is_held = false;
                // It may have come behind a change that was not looked at yet.
                if live.has_changed().unwrap_or(true)
                    && let Some(shared) = live.borrow().clone()
                {
                    door = Door::new(&worker, &connections, &entry, shared);
                }
                door.open(transport, peer);
            }
            Err(error) if accepting::is_one_peers(&error) => {}
            Err(error) => {
                let shard = door.shard();
                let count = if accepting::is_about_files(&error) {
                    &shard.paused_files
                } else {
                    &shard.paused_system
                };
                pause.hold(&door, &error.to_string(), count).await;
            }
        }
    }
    // The next process, or the next listener, takes what waits in its queue.
    if is_inherited || socket.is_passed_on() {
        return Ok(());
    }
    if is_closed || door.yields() {
        make_way(&socket, &door).await;
    }
    // Closing the socket would reset the connections that wait in its queue.
    for (transport, peer) in socket.into_waiting()? {
        door.open(transport, peer);
    }
    Ok(())
}

/// Lets nothing new begin on a socket whose address another one has by now, and takes what has begun. A
/// caller's first packet gets no answer, so it is sent again, and then the other socket answers.
async fn make_way(socket: &AcceptSocket, door: &Rc<Door>) {
    if let Err(error) = socket.ignore_new() {
        return tracing::debug!(listener = door.name(), %error, "the socket cannot make way");
    }
    let until = Instant::now() + YIELD;
    // An unaccepted connection stays in the queue when the time is over.
    while let Ok(accepted) = tokio::time::timeout_at(until, socket.accept()).await {
        match accepted {
            Ok((transport, peer)) => door.open(transport, peer),
            Err(error) if accepting::is_one_peers(&error) => {}
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Accepting while it cannot go on. Says so, but not at every attempt.
#[derive(Default)]
struct Pause {
    said_at: Option<Instant>,
    is_held: bool,
}

impl Pause {
    /// Waits a moment; counts in `count` unless this goes on a pause that is counted already.
    async fn hold(&mut self, door: &Door, why: &str, count: &Count) {
        const PERIOD: Duration = Duration::from_secs(10);
        if !self.is_held {
            self.is_held = true;
            count.add(1);
        }
        if self.said_at.is_none_or(|at| at.elapsed() > PERIOD) {
            self.said_at = Some(Instant::now());
            tracing::warn!(listener = door.name(), "connections wait to be accepted: {why}");
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}
