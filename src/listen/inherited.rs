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
    /// name. With the system's error when it cannot be doubled.
    pub fn tcp(&self, name: &str, wanted: &Address) -> Option<io::Result<TcpListener>> {
        let handed = self.find(name, wanted, |socket| matches!(socket, Socket::Tcp(_)))?;
        match &handed.socket {
            Socket::Tcp(socket) => Some(socket.try_clone()),
            Socket::Unix(_) => None,
        }
    }

    /// The TCP socket at an address, and at no other.
    pub fn tcp_at(&self, wanted: &Address) -> Option<io::Result<TcpListener>> {
        self.tcp(NO_NAME, wanted)
    }

    /// The unix socket at a path, and at no other.
    pub fn unix_at(&self, wanted: &Address) -> Option<io::Result<UnixListener>> {
        self.unix(NO_NAME, wanted)
    }

    /// The same for a path.
    pub fn unix(&self, name: &str, wanted: &Address) -> Option<io::Result<UnixListener>> {
        let handed = self.find(name, wanted, |socket| matches!(socket, Socket::Unix(_)))?;
        match &handed.socket {
            Socket::Unix(socket) => Some(socket.try_clone()),
            Socket::Tcp(_) => None,
        }
    }

    fn find(&self, name: &str, wanted: &Address, fits: fn(&Socket) -> bool) -> Option<&Handed> {
        let fitting = || self.sockets.iter().filter(|handed| fits(&handed.socket));
        let found = fitting().find(|handed| handed.socket.is_at(wanted));
        let found = found.or_else(|| fitting().find(|handed| handed.name == name))?;
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
