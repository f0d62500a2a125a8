//! A worker's socket that accepts: on an address, or in the file system.

use std::{io, os::unix::net::UnixListener as StdUnixListener, sync::Arc};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::{
    caller::Peer,
    listen::{bind::BoundSocket, transport::Transport, unix::SocketFile},
};

/// A socket that accepts.
pub(super) enum AcceptSocket {
    Tcp(TcpListener),
    Unix(UnixListener, Arc<SocketFile>),
}

impl AcceptSocket {
    /// Registers a bound socket with this thread's runtime.
    pub(super) fn register(socket: BoundSocket) -> io::Result<Self> {
        match socket {
            BoundSocket::Tcp(listener) => Ok(Self::Tcp(TcpListener::from_std(listener)?)),
            BoundSocket::Unix(listener, file) => Ok(Self::Unix(UnixListener::from_std(listener)?, file)),
        }
    }

    /// The next connection. Nothing is lost when the wait is dropped.
    pub(super) async fn accept(&self) -> io::Result<(Transport, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok(tcp(stream, peer))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                unix(stream)
            }
        }
    }

    /// Ends accepting: the connections that wait to be accepted, and no more.
    pub(super) fn into_waiting(self) -> io::Result<Vec<(Transport, Peer)>> {
        let mut waiting = Vec::new();
        match self {
            Self::Tcp(listener) => {
                let listener = listener.into_std()?;
                while let Ok((stream, peer)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    waiting.push(tcp(TcpStream::from_std(stream)?, peer));
                }
            }
            Self::Unix(listener, file) => {
                // First, so that the queue has an end.
                file.remove();
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

fn tcp(stream: TcpStream, peer: std::net::SocketAddr) -> (Transport, Peer) {
    // Without it a small answer waits for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    (Transport::Tcp(stream), Peer::Ip(peer))
}

/// Who it is, the kernel knows (`SO_PEERCRED`).
fn unix(stream: UnixStream) -> io::Result<(Transport, Peer)> {
    // A connection of nobody is not served; the next one may be better.
    let credentials = stream.peer_cred().map_err(|_| io::ErrorKind::ConnectionAborted)?;
    let peer = Peer::Unix { user: credentials.uid(), process: credentials.pid().filter(|id| *id > 0) };
    Ok((Transport::Unix(stream), peer))
}
