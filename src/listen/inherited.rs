//! Sockets that the service manager has bound and hands over (socket activation).
//!
//! They outlive the process: connections that come while it restarts wait in their queue for the next one.
//! So they are never emptied or closed here, and a listener that a reload takes away and another brings back
//! finds its socket again.

use std::{
    env, fmt, io,
    net::TcpListener,
    os::unix::net::UnixListener,
    sync::atomic::{AtomicBool, Ordering},
};

use listenfd::ListenFd;
use socket2::{SockRef, Type};

use crate::listen::Address;

/// The names of the sockets, with colons between them (`sd_listen_fds_with_names(3)`).
const NAMES: &str = "LISTEN_FDNAMES";
/// No socket is called this, as colons separate names.
const NO_NAME: &str = ":";

/// What was handed over to this process.
#[derive(Default)]
pub struct Inherited {
    sockets: Vec<Handed>,
}

struct Handed {
    /// `FileDescriptorName=` of the socket unit; by default the unit's name.
    name: String,
    socket: Socket,
    is_used: AtomicBool,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// One that nobody wants.
#[derive(Debug, PartialEq, Eq)]
pub struct Unused {
    /// Its name in the socket unit.
    pub name: String,
    /// Where it listens.
    pub address: String,
}

impl Inherited {
    /// Takes over what the environment tells of. To be called once, before there are threads. Says in words
    /// what cannot be used.
    pub fn from_environment() -> (Self, Vec<String>) {
        let names = env::var(NAMES).unwrap_or_default();
        let names: Vec<_> = names.split(':').collect();
        let mut handed = ListenFd::from_env();
        let (mut sockets, mut problems) = (Vec::new(), Vec::new());
        for index in 0..handed.len() {
            let name = names.get(index).copied().unwrap_or_default().to_owned();
            match Socket::take(&mut handed, index) {
                Ok(socket) => sockets.push(Handed { name, socket, is_used: AtomicBool::new(false) }),
                Err(error) => {
                    close(&mut handed, index);
                    problems.push(format!(
                        "the service manager handed over a socket {name:?} that is of no use ({error}): a listener needs ListenStream="
                    ));
                }
            }
        }
        (Self { sockets }, problems)
    }

    /// The TCP socket for the listener `name` at `wanted`: the one with that address, else the one with that
    /// name, unless it is at one of `all` addresses and so another one's. With the system's error when it cannot be
    /// doubled.
    pub fn tcp(&self, name: &str, wanted: &Address, all: &[&Address]) -> Option<io::Result<TcpListener>> {
        let handed = self.find(name, wanted, all, |socket| matches!(socket, Socket::Tcp(_)))?;
        match &handed.socket {
            Socket::Tcp(socket) => Some(socket.try_clone()),
            Socket::Unix(_) => None,
        }
    }

    /// The TCP socket at an address, and at no other.
    pub fn tcp_at(&self, wanted: &Address) -> Option<io::Result<TcpListener>> {
        self.tcp(NO_NAME, wanted, &[])
    }

    /// The unix socket at a path, and at no other.
    pub fn unix_at(&self, wanted: &Address) -> Option<io::Result<UnixListener>> {
        self.unix(NO_NAME, wanted, &[])
    }

    /// The same for a path.
    pub fn unix(&self, name: &str, wanted: &Address, all: &[&Address]) -> Option<io::Result<UnixListener>> {
        let handed = self.find(name, wanted, all, |socket| matches!(socket, Socket::Unix(_)))?;
        match &handed.socket {
            Socket::Unix(socket) => Some(socket.try_clone()),
            Socket::Tcp(_) => None,
        }
    }

    fn find(
        &self,
        name: &str,
        wanted: &Address,
        all: &[&Address],
        fits: fn(&Socket) -> bool,
    ) -> Option<&Handed> {
        let fitting = || self.sockets.iter().filter(|handed| fits(&handed.socket));
        let is_free = |handed: &&Handed| !all.iter().any(|address| handed.socket.is_at(address));
        let found = fitting().find(|handed| handed.socket.is_at(wanted));
        let found = found.or_else(|| fitting().filter(is_free).find(|handed| handed.name == name))?;
        found.is_used.store(true, Ordering::Relaxed);
        Some(found)
    }

    /// Those that no listener has asked for so far.
    pub fn unused(&self) -> Vec<Unused> {
        let unused = self.sockets.iter().filter(|handed| !handed.is_used.load(Ordering::Relaxed));
        unused
            .map(|handed| Unused { name: handed.name.clone(), address: handed.socket.to_string() })
            .collect()
    }
}

/// Nobody has it from here on. Otherwise commands that the gateway starts would.
fn close(handed: &mut ListenFd, index: usize) {
    if let Ok(Some(socket)) = handed.take_raw_fd(index) {
        let _ = nix::unistd::close(socket);
    }
}

impl Socket {
    fn take(handed: &mut ListenFd, index: usize) -> io::Result<Self> {
        let none = || io::Error::from(io::ErrorKind::NotFound);
        let socket = match handed.take_unix_listener(index) {
            Ok(socket) => Self::Unix(socket.ok_or_else(none)?),
            Err(_) => Self::Tcp(handed.take_tcp_listener(index)?.ok_or_else(none)?),
        };
        let raw = match &socket {
            Self::Tcp(socket) => SockRef::from(socket),
            Self::Unix(socket) => SockRef::from(socket),
        };
        if raw.r#type()? != Type::STREAM || !raw.is_listener()? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"));
        }
        raw.set_nonblocking(true)?;
        Ok(socket)
    }

    fn is_at(&self, wanted: &Address) -> bool {
        match (self, wanted) {
            (Self::Tcp(socket), Address::Ip(wanted)) => socket.local_addr().is_ok_and(|at| at == *wanted),
            (Self::Unix(socket), Address::Unix(wanted)) => {
                socket.local_addr().is_ok_and(|at| at.as_pathname() == Some(wanted.path.as_path()))
            }
            _ => false,
        }
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = |socket: &UnixListener| Some(socket.local_addr().ok()?.as_pathname()?.to_owned());
        match self {
            Self::Tcp(socket) => match socket.local_addr() {
                Ok(address) => address.fmt(f),
                Err(_) => f.write_str("an unknown address"),
            },
            Self::Unix(socket) => match path(socket) {
                Some(path) => write!(f, "unix:{}", path.display()),
                None => f.write_str("a unix socket without a path"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed(name: &str) -> (Handed, Address) {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Ip(socket.local_addr().unwrap());
        (Handed { name: name.into(), socket: Socket::Tcp(socket), is_used: AtomicBool::default() }, address)
    }

    /// Two listeners had one socket: whoever called the one was served by the rules of the other.
    #[test]
    fn a_socket_at_the_address_of_one_listener_is_not_anothers_by_its_name() {
        let (socket, of_b) = handed("a");
        let (other, elsewhere) = handed("a");
        let of_a = Address::Ip(([127, 0, 0, 1], 9).into());
        let inherited = Inherited { sockets: vec![socket] };
        assert!(inherited.tcp("a", &of_a, &[&of_a, &of_b]).is_none());
        assert!(inherited.tcp("b", &of_b, &[&of_a, &of_b]).is_some());
        assert!(inherited.tcp("a", &of_a, &[&of_a]).is_some(), "where nobody else is called that");
        // A unit with two addresses gives both of its sockets one name.
        let inherited = Inherited { sockets: vec![handed("a").0, other] };
        let found = inherited.tcp("a", &of_a, &[&of_a, &elsewhere]).unwrap().unwrap();
        assert_ne!(Address::Ip(found.local_addr().unwrap()), elsewhere);
    }
}
