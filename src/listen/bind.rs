//! Binding a listener's sockets, and what each worker gets of a listener.
//!
//! On an address every worker has a socket of its own; the socket of a path is one for all.

use std::{
    fmt, io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicUsize},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    caller::TrustedProxies,
    listen::{
        Limits, Settings,
        addresses::Addresses,
        certificate::CertificateError,
        room::Room,
        tls::{Follower, Live},
        unix::{self, SocketFile},
    },
    telemetry::listeners::{Certificates, ListenerShard},
};

/// Connections that may wait to be accepted.
pub(super) const BACKLOG: i32 = 4096;

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address and a port; port 0 takes a free one.
    Ip(SocketAddr),
    /// A socket in the file system.
    Unix(UnixSocket),
}

impl Address {
    /// Whether both cannot be bound at a time.
    pub fn collides_with(&self, other: &Address) -> bool {
        match (self, other) {
            (Self::Ip(one), Self::Ip(other)) => one.port() != 0 && one == other,
            (Self::Unix(one), Self::Unix(other)) => one.path == other.path,
            _ => false,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(socket) => write!(f, "unix:{}", socket.path.display()),
        }
    }
}

/// A socket in the file system, and who may connect to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixSocket {
    /// Its absolute path.
    pub path: PathBuf,
    /// Permission bits; whoever may write may connect.
    pub mode: u32,
    /// Its user; `None` leaves the gateway's.
    pub owner: Option<u32>,
    /// Its group; `None` leaves the gateway's.
    pub group: Option<u32>,
}

/// Why a listener could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The system refuses the socket.
    #[error("listener \"{name}\" cannot listen on {address}: {cause}{}", hint(address, cause))]
    Socket {
        /// The listener.
        name: String,
        /// Its address.
        address: Address,
        /// The system's reason.
        cause: io::Error,
    },
    /// Its certificates cannot be used.
    #[error("listener \"{0}\": {1}")]
    Certificate(String, CertificateError),
}

fn hint(address: &Address, cause: &io::Error) -> &'static str {
    match (address, cause.kind()) {
        (_, io::ErrorKind::AddrInUse) => {
            " (another process listens there; stop it or choose another address)"
        }
        (Address::Ip(_), io::ErrorKind::PermissionDenied) => " (ports below 1024 need a privilege)",
        (Address::Ip(_), io::ErrorKind::AddrNotAvailable) => {
            " (no interface of this machine has that address)"
        }
        (Address::Unix(_), io::ErrorKind::PermissionDenied) => {
            " (the gateway's user must be allowed to make files in that folder)"
        }
        (Address::Unix(_), io::ErrorKind::NotFound) => " (make the folder first)",
        _ => "",
    }
}

/// A bound listener: one socket for each worker, and what all of them share.
pub struct Listener {
    name: Arc<str>,
    address: Address,
    sockets: Vec<BoundSocket>,
    shared: Shared,
    shards: Vec<Arc<ListenerShard>>,
    certificates: Arc<Certificates>,
    follower: Option<Follower>,
}

/// What a listener's workers have in common.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) open: Arc<AtomicUsize>,
    pub(super) room: Arc<Room>,
    pub(super) addresses: Option<Arc<Addresses>>,
    pub(super) trusted: Arc<TrustedProxies>,
    pub(super) tls: Option<Arc<Live>>,
}

/// Binds all `listeners`, with sockets for so many `workers`.
///
/// # Errors
/// [`BindError`]; none of them listens then.
pub fn bind_all(listeners: &[Settings], limits: &Limits, workers: usize) -> Result<Vec<Listener>, BindError> {
    let counts: Vec<Arc<AtomicUsize>> = listeners.iter().map(|_| Arc::default()).collect();
    let room = Arc::new(Room::of_this_process(&counts));
    room.warn_if_below(limits.connections);
    let each = listeners.iter().zip(counts);
    each.map(|(settings, open)| Listener::bind(settings, limits, workers, &room, open)).collect()
}

impl Listener {
    fn bind(
        settings: &Settings,
        limits: &Limits,
        workers: usize,
        room: &Arc<Room>,
        open: Arc<AtomicUsize>,
    ) -> Result<Self, BindError> {
        let name: Arc<str> = settings.name.as_str().into();
        let certificates = Arc::default();
        let following = settings.tls.as_ref().map(|tls| Follower::start(&name, tls, &certificates));
        let following =
            following.transpose().map_err(|e| BindError::Certificate(settings.name.clone(), e))?;
        let (tls, follower) = following.unzip();
        let (address, sockets) = sockets(&settings.address, workers).map_err(|cause| BindError::Socket {
            name: settings.name.clone(),
            address: settings.address.clone(),
            cause,
        })?;
        let shared = Shared {
            open,
            room: Arc::clone(room),
            addresses: Addresses::new(limits),
            trusted: Arc::new(settings.trusted_proxies.clone()),
            tls,
        };
        let shards = (0..workers).map(|_| Arc::default()).collect();
        Ok(Self { name, address, sockets, shared, shards, certificates, follower })
    }

    /// The listener's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it really listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Open connections; for metrics.
    pub fn open(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.shared.open)
    }

    /// What its workers count, each for itself; for metrics.
    pub fn shards(&self) -> Vec<Arc<ListenerShard>> {
        self.shards.clone()
    }

    /// What is known of its certificates; for metrics.
    pub fn certificates(&self) -> Arc<Certificates> {
        Arc::clone(&self.certificates)
    }

    /// What follows its certificates' files. To be taken once, and only if it speaks TLS.
    pub fn follower(&mut self) -> Option<Follower> {
        self.follower.take()
    }

    /// One worker's share of the listener. To be taken once for each worker.
    pub fn share(&mut self) -> Option<Share> {
        let socket = self.sockets.pop()?;
        let shard = Arc::clone(self.shards.get(self.sockets.len())?);
        Some(Share {
            socket,
            entry: Entry { name: Arc::clone(&self.name), shard, shared: self.shared.clone() },
        })
    }
}

fn sockets(address: &Address, workers: usize) -> io::Result<(Address, Vec<BoundSocket>)> {
    let mut sockets = Vec::new();
    match address {
        Address::Ip(address) => {
            // Another process that shares the port by `SO_REUSEPORT` would get a part of the traffic.
            drop(tcp(*address, false)?);
            let first = tcp(*address, true)?;
            let address = first.local_addr()?;
            sockets.push(BoundSocket::Tcp(first));
            for _ in 1..workers {
                sockets.push(BoundSocket::Tcp(tcp(address, true)?));
            }
            Ok((Address::Ip(address), sockets))
        }
        Address::Unix(socket) => {
            let (first, file) = unix::bind(socket)?;
            for _ in 1..workers {
                sockets.push(BoundSocket::Unix(first.try_clone()?, Arc::clone(&file)));
            }
            sockets.push(BoundSocket::Unix(first, file));
            Ok((address.clone(), sockets))
        }
    }
}

fn tcp(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
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

/// A socket that listens, on its way to its worker.
pub(super) enum BoundSocket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, Arc<SocketFile>),
}

/// One worker's part of a listener.
pub struct Share {
    pub(super) socket: BoundSocket,
    pub(super) entry: Entry,
}

/// What a worker needs to know of a listener, its socket aside.
pub(super) struct Entry {
    pub(super) name: Arc<str>,
    pub(super) shard: Arc<ListenerShard>,
    pub(super) shared: Shared,
}
