//! Where a listener listens.

use std::{fmt, net::SocketAddr, path::PathBuf};

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address and a port; port 0 takes a free one.
    Ip(SocketAddr),
    /// A socket in the file system.
    Unix(UnixSocket),
}

impl Address {
    /// Whether it is the same one, whoever may connect there.
    pub fn is_at(&self, other: &Address) -> bool {
        match (self, other) {
            (Self::Unix(one), Self::Unix(other)) => one.path == other.path,
            _ => self == other,
        }
    }

    /// Whether both cannot be bound at a time: one is the other, or stands for it among all addresses.
    pub fn collides_with(&self, other: &Address) -> bool {
        match (self, other) {
            (Self::Ip(one), Self::Ip(other)) => {
                // All addresses in IPv6 are those in IPv4 as well.
                let stands = |one: &SocketAddr, other: &SocketAddr| {
                    one.ip().is_unspecified() && (one.is_ipv6() || other.is_ipv4())
                };
                let overlap = one.ip() == other.ip() || stands(one, other) || stands(other, one);
                one.port() != 0 && one.port() == other.port() && overlap
            }
            _ => self.is_at(other),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_collide_when_one_stands_for_both() {
        let ip = |text: &str| Address::Ip(text.parse().unwrap());
        for (one, other, collide) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("[::]:80", "[::1]:80", true),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("0.0.0.0:0", "127.0.0.1:0", false),
        ] {
            assert_eq!(ip(one).collides_with(&ip(other)), collide, "{one} {other}");
            assert_eq!(ip(other).collides_with(&ip(one)), collide, "{other} {one}");
        }
    }
}
