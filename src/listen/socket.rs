//! A worker's socket that accepts: on an address, or in the file system.

use std::{io, net::SocketAddr, os::unix::net::UnixListener as StdUnixListener, sync::Arc};

use socket2::{SockFilter, SockRef};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::{
    caller::Peer,
    listen::{bound::BoundSocket, transport::Transport, unix::SocketFile},
};

/// What the system may hold of an answer beside what is on its way. It makes room again when half of this is
/// gone. Without a bound that is a third of several megabytes, and whoever reads them slowly takes nothing, as
/// far as anybody can see. Throughput needs no more, as what is on its way does not count.
const UNSENT_MAX: u32 = 128 * 1024;

/// A program of the kernel's packet filter: of a TCP header's flags, SYN without ACK is dropped, all else is
/// kept. Numbers of `linux/bpf_common.h`: load a byte, and with a constant, jump if equal, return.
const IGNORE_NEW: [SockFilter; 5] = [
    SockFilter::new(0x30, 0, 0, FLAGS_AT),
    SockFilter::new(0x54, 0, 0, SYN | ACK),
    SockFilter::new(0x15, 0, 1, SYN),
    SockFilter::new(0x06, 0, 0, 0),
    SockFilter::new(0x06, 0, 0, u32::MAX),
];
/// Where the flags are in a TCP header (RFC 9293 §3.1), and two of them.
const FLAGS_AT: u32 = 13;
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;

/// A socket that accepts.
pub(super) enum AcceptSocket {
    Tcp(TcpListener),
    /// With its file, unless that is the service manager's.
    Unix(UnixListener, Option<Arc<SocketFile>>),
}

impl AcceptSocket {
    /// Registers a bound socket with this thread's runtime.
    pub(super) fn register(socket: BoundSocket) -> io::Result<Self> {
        match socket {
            BoundSocket::Tcp(listener) => {
                // Connections that are accepted have this as well: it costs them no call of their own.
                let _ = SockRef::from(&listener).set_tcp_notsent_lowat(UNSENT_MAX);
                Ok(Self::Tcp(TcpListener::from_std(listener)?))
            }
            BoundSocket::Unix(listener, file) => Ok(Self::Unix(UnixListener::from_std(listener)?, file)),
        }
    }

    /// The next connection. Nothing is lost when the wait is dropped.
    pub(super) async fn accept(&self) -> io::Result<(Transport, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok(accepted(stream, peer))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                unix(stream)
            }
        }
    }

    /// From now on no connection begins here; those that have begun go on. Connections that are accepted
    /// have this as well, and it is nothing to them: a packet that only begins a connection never comes on one.
    pub(super) fn ignore_new(&self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => SockRef::from(listener).attach_filter(&IGNORE_NEW),
            // Its file can be taken away instead.
            Self::Unix(..) => Ok(()),
        }
    }

    /// Whether another listener has the socket's queue by now.
    pub(super) fn is_passed_on(&self) -> bool {
        matches!(self, Self::Unix(_, Some(file)) if file.is_passed_on())
    }

    /// Ends accepting: the connections that wait to be accepted, and no more.
    pub(super) fn into_waiting(self) -> io::Result<Vec<(Transport, Peer)>> {
        let mut waiting = Vec::new();
        match self {
            Self::Tcp(listener) => {
                let listener = listener.into_std()?;
                while let Ok((stream, peer)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    waiting.push(accepted(TcpStream::from_std(stream)?, peer));
                }
            }
            Self::Unix(listener, file) => {
                // First, so that the queue has an end.
                if let Some(file) = file {
                    file.remove();
                }
                let listener: StdUnixListener = listener.into_std()?;
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    waiting.extend(unix(UnixStream::from_std(stream)?));
                }
            }
        }
        Ok(waiting)
    }
}

fn accepted(stream: TcpStream, peer: SocketAddr) -> (Transport, Peer) {
    // Without it a small answer waits for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    (Transport::Tcp(stream), Peer::at(peer))
}

/// Who it is, the kernel knows (`SO_PEERCRED`).
fn unix(stream: UnixStream) -> io::Result<(Transport, Peer)> {
    // A connection of nobody is not served; the next one may be better.
    let credentials = stream.peer_cred().map_err(|_| io::ErrorKind::ConnectionAborted)?;
    let peer = Peer::Unix { user: credentials.uid(), process: credentials.pid().filter(|id| *id > 0) };
    Ok((Transport::Unix(stream), peer))
}
