//! A listener's sockets, bound and on their way to the workers.

use std::{io, net::SocketAddr, sync::Arc};

use socket2::SockRef;

use crate::{
    accepting,
    listen::{
        Settings,
        bind::BACKLOG,
        inherited::Inherited,
        place::Address,
        unix::{self, SocketFile},
    },
};

/// The service manager's socket for a listener, once for each worker: all of them have one queue. `all` are the addresses
/// of all listeners.
pub(super) fn handed(
    settings: &Settings,
    workers: usize,
    inherited: &Inherited,
    all: &[&Address],
) -> Option<io::Result<(Address, Vec<BoundSocket>)>> {
    let (name, wanted) = (settings.name.as_str(), &settings.address);
    let one = || match wanted {
        Address::Ip(_) => inherited.tcp(name, wanted, all).map(|socket| socket.map(BoundSocket::Tcp)),
        Address::Unix(_) => inherited
            .unix(name, wanted, all)
            .map(|socket| socket.map(|socket| BoundSocket::Unix(socket, None))),
    };
    let first = one()?;
    let all = [first].into_iter().chain((1..workers).filter_map(|_| one()));
    Some(all.collect::<io::Result<Vec<_>>>().map(|sockets| {
        let address = sockets.first().and_then(BoundSocket::address).unwrap_or_else(|| wanted.clone());
        if address != *wanted {
            tracing::warn!(
                listener = name,
                "the service manager's socket of that name is bound to {address}, not to {wanted}: it is used as it is"
            );
        }
        (address, sockets)
    }))
}

/// Binds a socket for each worker. That of a path which is `held` is used as it is.
pub(super) fn sockets(
    settings: &Settings,
    workers: usize,
    held: Option<&Held>,
) -> io::Result<(Address, Vec<BoundSocket>)> {
    let address = &settings.address;
    let mut sockets = Vec::new();
    match address {
        Address::Ip(address) => {
            let first = tcp(*address, true)?;
            let address = first.local_addr()?;
            sockets.push(BoundSocket::Tcp(first));
            for _ in 1..workers {
                sockets.push(BoundSocket::Tcp(tcp(address, true)?));
            }
            Ok((Address::Ip(address), sockets))
        }
        Address::Unix(socket) => {
            let (first, file) = match held {
                Some(held) => (held.socket.try_clone()?, Arc::new(held.file.next())),
                None => unix::bind(socket)?,
            };
            for _ in 1..workers {
                sockets.push(BoundSocket::Unix(first.try_clone()?, Some(Arc::clone(&file))));
            }
            sockets.push(BoundSocket::Unix(first, Some(file)));
            Ok((address.clone(), sockets))
        }
    }
}

/// It does not listen yet: a connection that the system gives to it would wait for whatever is still to be
/// done, and be reset if that fails.
fn tcp(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    accepting::bind(address, shared).map(Into::into)
}

/// Refuses an address on which another process listens, also one that would share it: it would get a part of
/// the traffic. To be asked before sockets of our own listen there.
pub(super) fn refuse_shared(address: SocketAddr) -> io::Result<()> {
    tcp(address, false).map(drop)
}

/// The socket of a path, for whoever has the path next.
pub(super) struct Held {
    socket: std::os::unix::net::UnixListener,
    pub(super) file: Arc<SocketFile>,
}

/// A socket on its way to its worker.
pub(super) enum BoundSocket {
    Tcp(std::net::TcpListener),
    /// With its file, unless that is the service manager's.
    Unix(std::os::unix::net::UnixListener, Option<Arc<SocketFile>>),
}

impl BoundSocket {
    /// From now on connections wait in its queue. A path listens since it was bound.
    pub(super) fn listen(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => SockRef::from(socket).listen(BACKLOG),
            Self::Unix(..) => Ok(()),
        }
    }

    /// The socket of a path, unless its file is the service manager's.
    pub(super) fn held(&self) -> io::Result<Option<Held>> {
        match self {
            Self::Unix(socket, Some(file)) => {
                Ok(Some(Held { socket: socket.try_clone()?, file: Arc::clone(file) }))
            }
            Self::Tcp(_) | Self::Unix(_, None) => Ok(None),
        }
    }

    /// Where a TCP socket really listens.
    fn address(&self) -> Option<Address> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok().map(Address::Ip),
            Self::Unix(..) => None,
        }
    }
}
