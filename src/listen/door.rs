//! The way of a connection from being accepted to being served: limits, TLS, then HTTP.
//!
//! Everything that may take time happens in the connection's own task. A connection counts as open
//! from here on, so a caller that does not get on with its handshake has its place like any other.

use std::{future::poll_fn, io, rc::Rc, sync::atomic::Ordering, task::Poll};

use tokio::{net::TcpStream, time::Instant};

use crate::{
    caller::{Caller, Peer},
    listen::{
        Connections,
        bind::{Entry, Shared},
        certificate,
        connections::Registered,
        refuse::Refusals,
        serve,
        tls::{HandshakeError, Live},
        transport::{Accepted, TlsFacts, Transport},
        watched::{End, Ending, Watched},
    },
    proxy::worker::Worker,
    telemetry::{listeners::ListenerShard, metrics::Count},
};

/// One worker's side of one listener.
pub(super) struct Door {
    worker: Rc<Worker>,
    connections: Rc<Connections>,
    entry: Entry,
    shared: Shared,
    refusals: Refusals,
}

impl Door {
    pub(super) fn new(
        worker: &Rc<Worker>,
        connections: &Rc<Connections>,
        entry: &Entry,
        shared: Shared,
    ) -> Rc<Self> {
        let (worker, connections) = (Rc::clone(worker), Rc::clone(connections));
        Rc::new(Self { worker, connections, entry: entry.clone(), shared, refusals: Refusals::default() })
    }

    /// The listener's name.
    pub(super) fn name(&self) -> &str {
        &self.entry.name
    }

    /// Whether another gateway may have the address by now.
    pub(super) fn yields(&self) -> bool {
        self.shared.reuse_port
    }

    pub(super) fn shard(&self) -> &ListenerShard {
        &self.entry.shard
    }

    /// Why no connection should be accepted now, and where that is counted. Workers look for themselves, so together they may
    /// go over a limit by one connection each.
    pub(super) fn is_full(&self) -> Option<(&'static str, &Count)> {
        let (shard, shared) = (&self.entry.shard, &self.shared);
        if shared.open.load(Ordering::Relaxed) >= shared.limits.connections {
            return Some(("the limit of connections is reached", &shard.paused_limit));
        }
        shared
            .room
            .is_full()
            .then_some(("the process may not open enough files for more", &shard.paused_files))
    }

    /// Serves a connection on a task of its own, which the registry and the open count outlive.
    pub(super) fn open(self: &Rc<Self>, transport: Transport, peer: Peer) {
        let (shard, shared) = (&self.entry.shard, &self.shared);
        shard.accepted.add(1);
        let place = match &shared.addresses {
            None => None,
            Some(addresses) => {
                let place = addresses.enter(&peer);
                if place.is_none() {
                    shard.refused_address.add(1);
                    tracing::debug!(listener = self.name(), caller = %peer, "the caller has too many connections");
                    return self.refusals.refuse(transport, shared.tls.is_some());
                }
                place
            }
        };
        let registered = Registered::new(&self.connections, &self.entry, shared, peer);
        let caller = Caller::new(peer, &shared.trusted);
        let door = Rc::clone(self);
        // Ends with the connection; the worker waits for all of them when it stops.
        tokio::task::spawn_local(async move {
            let _place = place;
            if let Some(accepted) = door.secure(transport, caller, &registered).await {
                serve::serve(Rc::clone(&door.worker), &registered, accepted).await;
                door.count(registered.watched());
            }
        });
    }

    /// Counts why a connection was ended.
    fn count(&self, watched: &Watched) {
        let shard = &self.entry.shard;
        let ended = match watched.ending.get() {
            Some(Ending::Idle) => &shard.ended_idle,
            Some(Ending::Surplus) => &shard.ended_surplus,
            Some(Ending::SlowHead) => &shard.ended_slow_head,
            Some(Ending::SlowReader) => &shard.ended_slow_reader,
            Some(Ending::Silence) => &shard.ended_silence,
            Some(Ending::SilentTunnel) => &shard.ended_tunnel,
            Some(Ending::Drain) => &shard.ended_drain,
            Some(Ending::Flood) => &shard.ended_flood,
            Some(Ending::Http2) => &shard.ended_http2,
            None => return,
        };
        ended.add(1);
    }

    /// Makes a TLS connection of it on a TLS listener. `None` when that fails.
    async fn secure(
        &self,
        transport: Transport,
        caller: Caller,
        registered: &Registered,
    ) -> Option<Accepted> {
        let watched = registered.watched();
        let stream = match (&self.shared.tls, transport) {
            (Some(tls), Transport::Tcp(stream)) => {
                // In a box: its state is large, and needed for a short time only.
                Box::pin(handshake(tls, stream, watched)).await
            }
            (_, transport) => return Some(Accepted { transport, caller, tls: None }),
        };
        match stream {
            Ok((transport, facts, certificate)) => {
                if let Some(name) = certificate {
                    registered.certify(&name);
                }
                // Time for the first request counts from here.
                watched.since.set(Instant::now());
                Some(Accepted { transport, caller, tls: Some(facts) })
            }
            Err(HandshakeError::Plain(stream)) => {
                self.entry.shard.refused_tls.add(1);
                tracing::debug!(listener = self.name(), %caller, "the caller does not speak TLS");
                self.refusals.refuse_plain(Transport::Tcp(stream));
                None
            }
            Err(HandshakeError::Failed(error)) => {
                self.entry.shard.refused_tls.add(1);
                tracing::debug!(listener = self.name(), %caller, %error, "the TLS handshake failed");
                None
            }
        }
    }
}

async fn handshake(
    tls: &Live,
    stream: TcpStream,
    watched: &Watched,
) -> Result<(Transport, TlsFacts, Option<String>), HandshakeError> {
    // What is dropped ends with its connection: either way nothing goes on here.
    tokio::select! {
        done = tls.handshake(stream) => done.map(|(stream, facts)| {
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let name = shown.and_then(certificate::holder);
            (Transport::Tls(Box::new(stream)), facts, name)
        }),
        () = ended(watched) => {
            let error = io::Error::new(io::ErrorKind::TimedOut, "the gateway has ended it");
            Err(HandshakeError::Failed(error))
        }
    }
}

/// Until the watch ends the connection: it stood idle for too long, or the gateway stops.
async fn ended(watched: &Watched) {
    poll_fn(|cx| {
        if watched.end.get() != End::No {
            return Poll::Ready(());
        }
        watched.wake_by(cx);
        Poll::Pending
    })
    .await;
}
