//! A small HTTP server for the demo's own services, which can be taken away and brought back.
//!
//! It owns its connections: going down closes the listening socket and every open connection, so
//! that a client sees what it would see of a dead machine's neighbour: connection refused. It knows
//! neither TLS nor graceful shutdown; nothing here serves anybody but the demo and the tests.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::Response,
};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::oneshot,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

/// More than any test opens at once; beyond it, connections wait in the backlog.
const CONNECTIONS: usize = 20_000;
/// Enough for the bursts of the load tests.
const BACKLOG: u32 = 4096;
/// Between two tries after an error that passes by itself (too many open files, port still taken).
const PAUSE: Duration = Duration::from_millis(20);
/// For how long a port that somebody else holds is asked for again: five seconds in all.
const BIND_TRIES: u32 = 250;

/// A running server. Dropping it stops the server and its connections.
pub(in crate::demo) struct Loopback {
    address: SocketAddr,
    router: Router,
    tls: Option<TlsAcceptor>,
    phase: Mutex<Phase>,
}

enum Phase {
    Up(Running),
    /// The socket is bound and does not listen: connects are refused and nobody else gets the port.
    Down(Option<TcpSocket>),
}

struct Running {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Loopback {
    /// Binds a free port of 127.0.0.1.
    pub(in crate::demo) async fn bind() -> io::Result<TcpListener> {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
    }

    /// Serves `router` on `listener`, with TLS or without. Must be called within a runtime.
    pub(in crate::demo) fn serve(
        listener: TcpListener,
        router: Router,
        tls: Option<ServerConfig>,
    ) -> io::Result<Loopback> {
        let address = listener.local_addr()?;
        let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let running = Running::start(listener, router.clone(), tls.clone());
        Ok(Loopback { address, router, tls, phase: Mutex::new(Phase::Up(running)) })
    }

    /// Where it listens, also while it is down.
    pub(in crate::demo) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the listening socket and all connections; when this returns, connects are refused.
    pub(in crate::demo) async fn go_down(&self) -> io::Result<()> {
        let before = std::mem::replace(&mut *lock(&self.phase), Phase::Down(None));
        if let Phase::Up(mut running) = before {
            drop(running.stop.take());
            // The task ends by itself after it closed everything; an abort of it is an end as well.
            let _ = (&mut running.task).await;
        }
        let reserved = self.reserve().await?;
        *lock(&self.phase) = Phase::Down(Some(reserved));
        Ok(())
    }

    /// Listens on the same port again. Does nothing when it is up.
    pub(in crate::demo) async fn come_back(&self) -> io::Result<()> {
        let mut reserved = match &mut *lock(&self.phase) {
            Phase::Up(_) => return Ok(()),
            Phase::Down(socket) => socket.take(),
        };
        let mut tries = 0;
        let listener = loop {
            let socket = match reserved.take() {
                Some(socket) => socket,
                None => self.reserve().await?,
            };
            match socket.listen(BACKLOG) {
                Ok(listener) => break listener,
                Err(e) if e.kind() == io::ErrorKind::AddrInUse && tries < BIND_TRIES => tries += 1,
                Err(e) => return Err(e),
            }
            tokio::time::sleep(PAUSE).await;
        };
        *lock(&self.phase) = Phase::Up(Running::start(listener, self.router.clone(), self.tls.clone()));
        Ok(())
    }

    async fn reserve(&self) -> io::Result<TcpSocket> {
        let mut tries = 0;
        loop {
            let socket = if self.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.set_reuseaddr(true)?;
            match socket.bind(self.address) {
                Ok(()) => return Ok(socket),
                Err(e) if e.kind() == io::ErrorKind::AddrInUse && tries < BIND_TRIES => tries += 1,
                Err(e) => return Err(e),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Running {
    fn start(listener: TcpListener, router: Router, tls: Option<TlsAcceptor>) -> Running {
        let (stop, stopped) = oneshot::channel();
        Running { stop: Some(stop), task: tokio::spawn(accept(listener, router, tls, stopped)) }
    }
}

async fn accept(
    listener: TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        // Each branch may be dropped: accepting and joining lose nothing, stopping is final.
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(connections.spawn(greet(stream, router.clone(), tls.clone()))),
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn greet(stream: TcpStream, router: Router, tls: Option<TlsAcceptor>) {
    // Without it, answers wait for the client's delayed acknowledgement. Failing costs only time.
    let _ = stream.set_nodelay(true);
    match tls {
        None => converse(stream, router).await,
        // A handshake that fails is the client's end of the connection; the client sees it too.
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                converse(stream, router).await;
            }
        }
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let service = TowerToHyperService::new(router);
    // An error here is the client's end of the connection; the client sees it too.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Answers as scripted; a header that cannot be sent is left out.
pub(in crate::demo) fn raw(status: u16, headers: &[(String, String)], body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// Headers as text, in the order received; bytes outside of UTF-8 are replaced.
pub(in crate::demo) fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

/// Waits; without a delay at once, as a timer would take a millisecond.
pub(in crate::demo) async fn pause(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

/// Locks also after a panic of another holder: all that is kept under these locks stays whole.
pub(in crate::demo) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
