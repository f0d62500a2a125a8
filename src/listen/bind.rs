//! Binding a listener's sockets: one for each worker, all on one address.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::listen::Settings;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

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
    pub(super) name: Arc<str>,
    pub(super) socket: std::net::TcpListener,
    pub(super) open: Arc<AtomicUsize>,
}
