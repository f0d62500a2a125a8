//! Sockets that accept: how an address is bound, and what an error of accepting is about.

use std::{io, net::SocketAddr};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

/// Binds an address, perhaps `shared` with another process of the same user. The socket does not block, and does not listen
/// yet.
///
/// # Errors
/// The system's.
pub fn bind(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        // Whatever the machine is set to: all addresses in IPv6 are those in IPv4 as well.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Whether an error of accepting is about one connection and says nothing of the next.
pub fn is_one_peers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Whether the process or the system has no file descriptor left.
pub fn is_about_files(error: &io::Error) -> bool {
    let files = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| files.contains(&code))
}
