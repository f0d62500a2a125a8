//! Where the admin listener listens: an address, with TLS or without, or a unix socket.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::ServerConfig;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
};
use tokio_rustls::TlsAcceptor;

/// The longest that a TLS handshake may take.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// What is spoken over TLS (RFC 7301 §6).
const PROTOCOL: &[u8] = b"http/1.1";

/// Gives the TLS settings in force: certificates are renewed while the gateway runs.
pub type Tls = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// A bound socket that is not served yet.
pub enum Bound {
    /// An address.
    Tcp(std::net::TcpListener, Option<Tls>),
    /// A path in the file system, with what takes it away at the end.
    Unix(std::os::unix::net::UnixListener, Arc<dyn Send + Sync>),
}

impl Bound {
    /// The same socket once more, with the queue of connections that wait.
    ///
    /// # Errors
    /// The system's, for instance that it gives no more file descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket, tls) => Self::Tcp(socket.try_clone()?, tls.clone()),
            Self::Unix(socket, file) => Self::Unix(socket.try_clone()?, Arc::clone(file)),
        })
    }

    /// The same socket, served with this TLS from now on.
    pub fn with_tls(self, tls: Option<Tls>) -> Self {
        match self {
            Self::Tcp(socket, _) => Self::Tcp(socket, tls),
            Self::Unix(..) => self,
        }
    }

    /// Says whether another gateway of the same user may listen there as well.
    ///
    /// # Errors
    /// The system's.
    pub fn share(&self, shared: bool) -> io::Result<()> {
        match self {
            Self::Tcp(socket, _) => SockRef::from(socket).set_reuse_port(shared),
            Self::Unix(..) => Ok(()),
        }
    }
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

/// A connection, whatever it runs over.
pub(super) type Stream = Box<dyn Io>;

/// Bytes both ways.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection that has been accepted, and nothing more.
pub(super) struct Accepted {
    /// Its bytes, as they are on the wire.
    pub(super) stream: Stream,
    /// Who is at the other end.
    pub(super) peer: Peer,
    /// There when TLS comes first.
    pub(super) tls: Option<Handshake>,
}

/// A TLS handshake that is still to be done.
pub(super) struct Handshake(Arc<ServerConfig>);

impl Handshake {
    /// With the settings of the listener, which offer callers protocols that are not spoken here.
    fn new(tls: &Tls) -> Self {
        let mut config = ServerConfig::clone(&tls());
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Self(Arc::new(config))
    }

    /// The connection behind the handshake; nothing when that fails or takes too long.
    pub(super) async fn shake_hands(self, stream: Stream) -> Option<Stream> {
        let shaking = TlsAcceptor::from(self.0).accept(stream);
        let shaken = tokio::time::timeout(HANDSHAKE_TIME_MAX, shaking).await.ok()?.ok()?;
        Some(Box::new(shaken))
    }
}

/// The socket as it is served.
pub(super) enum Listener {
    Tcp(TcpListener, Option<Tls>),
    Unix(UnixListener, #[expect(dead_code, reason = "dropped at the end")] Arc<dyn Send + Sync>),
}

impl Listener {
    /// Registers a bound socket with this runtime.
    pub(super) fn register(bound: Bound) -> io::Result<Self> {
        match bound {
            Bound::Tcp(socket, tls) => Ok(Self::Tcp(TcpListener::from_std(socket)?, tls)),
            Bound::Unix(socket, file) => Ok(Self::Unix(UnixListener::from_std(socket)?, file)),
        }
    }

    /// The next connection.
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener, tls) => {
                let (stream, peer) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                let tls = tls.as_ref().map(Handshake::new);
                Ok(Accepted { stream: Box::new(stream), peer: Peer::Ip(peer), tls })
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                // About this one only: somebody whom the kernel does not know.
                let credentials = stream.peer_cred().map_err(|_| io::ErrorKind::ConnectionAborted)?;
                let peer = Peer::Unix { user: credentials.uid() };
                Ok(Accepted { stream: Box::new(stream), peer, tls: None })
            }
        }
    }
}
