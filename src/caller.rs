//! Callers: who sent a request, as far as the gateway could establish it.
//!
//! So far that is the other end of the connection: an address, or on a unix socket the user and the
//! process that the kernel names. Certificates, keys and issuers are further ways to come.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

pub mod roster;

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The other end of the connection.
    pub peer: Peer,
    is_trusted: bool,
}

impl Caller {
    /// The peer alone, whose word is taken if it is one of `trusted`.
    pub fn new(peer: Peer, trusted: &TrustedProxies) -> Self {
        Self { peer, is_trusted: trusted.contains(&peer) }
    }

    /// The peer's address; none on a unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.peer {
            Peer::Ip(address) => Some(address.ip()),
            Peer::Unix { .. } => None,
        }
    }

    /// Whether what it says of those before it is believed (`trusted_proxies` of its listener).
    pub fn is_trusted(&self) -> bool {
        self.is_trusted
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.peer.fmt(f)
    }
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// An address and a port.
    Ip(SocketAddr),
    /// A process of this machine, by the kernel's word at the time when it connected.
    Unix {
        /// Its effective user.
        user: u32,
        /// Its id, if the kernel can name it here.
        process: Option<i32>,
    },
}

impl Peer {
    /// The peer at an address. One that called over IPv4 is told so, also where a socket of IPv6 took it.
    pub fn at(address: SocketAddr) -> Self {
        Self::Ip(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }
}

/// Without the port, which tells nothing about who it is.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.ip().fmt(f),
            Self::Unix { user, process: Some(process) } => write!(f, "unix:uid={user},pid={process}"),
            Self::Unix { user, process: None } => write!(f, "unix:uid={user}"),
        }
    }
}

/// Whose word is taken about who sent a request before them. By default nobody's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    /// Peers with an address in one of these.
    pub networks: Vec<Network>,
    /// Every peer on a unix socket.
    pub unix: bool,
}

impl TrustedProxies {
    /// Whether `peer`'s word is taken.
    pub fn contains(&self, peer: &Peer) -> bool {
        match peer {
            Peer::Ip(address) => {
                let address = address.ip().to_canonical();
                self.networks.iter().any(|network| network.contains(address))
            }
            Peer::Unix { .. } => self.unix,
        }
    }
}

/// A range of addresses in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    prefix_bits: u8,
}

/// Why a text names no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Neither an address nor a network.
    #[error("is neither an IP address nor a network (as in 10.0.0.0/8, 192.0.2.7 or ::1)")]
    NotANetwork,
    /// More bits than an address has.
    #[error("has a prefix that is too long (at most /{0})")]
    TooLong(u8),
    /// Bits behind the prefix are set, so it is not clear what was meant.
    #[error("has bits behind its prefix (write {0}, or the address alone)")]
    HostBits(Network),
}

impl Network {
    /// Reads `10.0.0.0/8`, or an address alone.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError::NotANetwork)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let Some(prefix) = prefix else {
            let address = address.to_canonical();
            return Ok(Self { first: address, prefix_bits: if address.is_ipv4() { 32 } else { 128 } });
        };
        let is_number = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number {
            return Err(NetworkError::NotANetwork);
        }
        let prefix_bits = prefix.parse().ok().filter(|bits| *bits <= most);
        let prefix_bits = prefix_bits.ok_or(NetworkError::TooLong(most))?;
        let network = Self { first: first(address, prefix_bits), prefix_bits };
        if network.first == address { Ok(network) } else { Err(NetworkError::HostBits(network)) }
    }

    /// Whether `address` lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && first(address, self.prefix_bits) == self.first
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix_bits)
    }
}

/// The first address of the network of `prefix_bits` bits in which `address` lies.
fn first(address: IpAddr, prefix_bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let host_bits = 32_u32.saturating_sub(prefix_bits.into());
            let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let host_bits = 128_u32.saturating_sub(prefix_bits.into());
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        Network::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_network_contains_its_addresses_and_no_others() {
        let check = |text: &str, address: &str, expected: bool| {
            assert_eq!(network(text).contains(address.parse().unwrap()), expected, "{text} {address}");
        };
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.0", false);
        check("0.0.0.0/0", "203.0.113.9", true);
        check("0.0.0.0/0", "::1", false);
        check("192.0.2.7", "192.0.2.7", true);
        check("192.0.2.7", "192.0.2.6", false);
        check("2001:db8::/32", "2001:db8:ffff::1", true);
        check("2001:db8::/32", "2001:db9::", false);
        check("::/0", "::1", true);
        check("::1", "::1", true);
        check("::ffff:192.0.2.7", "192.0.2.7", true);
    }

    #[test]
    fn what_is_no_network_is_told_why() {
        let check = |text: &str, expected: NetworkError| assert_eq!(Network::parse(text), Err(expected));
        for text in ["", "localhost", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/x", "10.0.0/8", "/8"] {
            check(text, NetworkError::NotANetwork);
        }
        check("10.0.0.0/33", NetworkError::TooLong(32));
        check("10.0.0.0/999", NetworkError::TooLong(32));
        check("::/129", NetworkError::TooLong(128));
        check("10.1.2.3/8", NetworkError::HostBits(network("10.0.0.0/8")));
    }

    #[test]
    fn a_unix_peer_is_trusted_only_by_name() {
        let peer = Peer::Unix { user: 0, process: Some(1) };
        let everybody = vec![network("0.0.0.0/0"), network("::/0")];
        assert!(!TrustedProxies { networks: everybody, unix: false }.contains(&peer));
        assert!(TrustedProxies { networks: Vec::new(), unix: true }.contains(&peer));
        let mapped = Peer::Ip("[::ffff:10.0.0.1]:80".parse().unwrap());
        assert!(TrustedProxies { networks: vec![network("10.0.0.0/8")], unix: false }.contains(&mapped));
        assert_eq!(peer.to_string(), "unix:uid=0,pid=1");
    }
}
