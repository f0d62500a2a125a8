//! Where the admin listener listens: an address, with TLS or without, or a unix socket.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{extract::connect_info::Connected, serve::IncomingStream};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

/// TLS handshakes that are under way at a time.
const HANDSHAKES_MAX: usize = 64;
/// The longest that one may take.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// How long accepting pauses when the system refuses.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Gives the TLS settings in force: certificates are renewed while the gateway runs.
pub type Tls = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// A bound socket that is not served yet.
pub enum Bound {
    /// An address.
    Tcp(std::net::TcpListener, Option<Tls>),
    /// A path in the file system, with what takes it away at the end.
    Unix(std::os::unix::net::UnixListener, Box<dyn Send + Sync>),
}

/// Who asks.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Somebody at an address.
    Ip(SocketAddr),
    /// A process of this machine; the kernel says whose.
    Unix {
        /// The user's number.
        user: u32,
    },
}

impl Peer {
    /// For the audit log.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Ip(_) => format!("admin token, {}", self.address()),
            Self::Unix { .. } => self.address(),
        }
    }

    /// Where a request came from, when it is not known who sent it.
    pub(super) fn address(&self) -> String {
        match self {
            Self::Ip(address) => address.ip().to_string(),
            Self::Unix { user } => format!("unix socket, uid {user}"),
        }
    }
}

type Stream = Box<dyn Io>;

/// Bytes both ways.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The socket as axum serves it.
pub(super) enum Listener {
    Tcp(TcpListener),
    Tls(mpsc::Receiver<(Stream, Peer)>),
    Unix(UnixListener, #[expect(dead_code, reason = "dropped at the end")] Box<dyn Send + Sync>),
}

impl Listener {
    /// Registers a bound socket with this runtime.
    pub(super) fn register(bound: Bound) -> io::Result<Self> {
        match bound {
            Bound::Tcp(socket, None) => Ok(Self::Tcp(TcpListener::from_std(socket)?)),
            Bound::Tcp(socket, Some(tls)) => {
                let (ready, accepted) = mpsc::channel(HANDSHAKES_MAX);
                tokio::spawn(secure(TcpListener::from_std(socket)?, tls, ready));
                Ok(Self::Tls(accepted))
            }
            Bound::Unix(socket, file) => Ok(Self::Unix(UnixListener::from_std(socket)?, file)),
        }
    }
}

/// Accepts and shakes hands, each in a task of its own: one that is slow holds up nobody. Ends with the
/// listener.
async fn secure(listener: TcpListener, tls: Tls, ready: mpsc::Sender<(Stream, Peer)>) {
    let room = Arc::new(tokio::sync::Semaphore::new(HANDSHAKES_MAX));
    loop {
        // Never closed, so there is always a permit in the end.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ready.closed() => return,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (acceptor, ready) = (TlsAcceptor::from(tls()), ready.clone());
        tokio::spawn(async move {
            let _place = place;
            let shaken = tokio::time::timeout(HANDSHAKE_TIME_MAX, acceptor.accept(stream)).await;
            if let Ok(Ok(stream)) = shaken {
                // Refused when nobody serves any more.
                let _ = ready.send((Box::new(stream), Peer::Ip(peer))).await;
            }
        });
    }
}

impl axum::serve::Listener for Listener {
    type Io = Stream;
    type Addr = Peer;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self {
                Self::Tcp(listener) => {
                    if let Ok((stream, peer)) = TcpListener::accept(listener).await {
                        return (plain(stream), Peer::Ip(peer));
                    }
                }
                Self::Tls(accepted) => {
                    if let Some(next) = accepted.recv().await {
                        return next;
                    }
                }
                Self::Unix(listener, _) => {
                    let accepted = UnixListener::accept(listener).await;
                    if let Ok((stream, _)) = accepted
                        && let Ok(credentials) = stream.peer_cred()
                    {
                        return (Box::new(stream), Peer::Unix { user: credentials.uid() });
                    }
                }
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Peer::Ip),
            Self::Tls(_) | Self::Unix(..) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

fn plain(stream: TcpStream) -> Stream {
    let _ = stream.set_nodelay(true);
    Box::new(stream)
}

impl Connected<IncomingStream<'_, Listener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        stream.remote_addr().clone()
    }
}
