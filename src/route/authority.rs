//! The authority of a request: the `Host` field and the authority of an absolute target.
//!
//! RFC 9110 §7.2 and RFC 3986 §3.2, read narrowly: `host[:port]` and nothing else. It does not resolve
//! names and does not know which hosts are configured.

use std::net::Ipv6Addr;

/// A host and perhaps a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// A name or an address, as it was sent; an IPv6 address keeps its brackets.
    pub host: &'a str,
    /// The port, when one was given.
    pub port: Option<u16>,
}

/// Why some octets are not `host[:port]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityFlaw {
    /// Nothing, or no host in front of the port.
    #[error("the host is empty")]
    Empty,
    /// `user@host`, which RFC 9110 §4.2.4 tells recipients to distrust.
    #[error("the host has user information (\"@\")")]
    UserInformation,
    /// `/`, `\`, `?` or `#`.
    #[error("the host is followed by a path")]
    Path,
    /// `,`: what a list of two `Host` fields looks like.
    #[error("the host is a list (\",\")")]
    List,
    /// Blank or control characters.
    #[error("the host has a blank or a control character")]
    Blank,
    /// An octet of 0x80 or above.
    #[error("the host has a non-ASCII character (punycode is needed)")]
    NonAscii,
    /// `%`, legal in RFC 3986 §3.2.2 but never in a DNS name.
    #[error("the host is percent-encoded")]
    Encoded,
    /// Any other character that RFC 3986 §3.2.2 does not allow in a host.
    #[error("the host has a character that hosts cannot have")]
    Character,
    /// Two dots in a row, or one at the start.
    #[error("the host has an empty label")]
    EmptyLabel,
    /// Brackets around something else than an IPv6 address.
    #[error("the host is not an IPv6 address in brackets")]
    Address,
    /// A port that is empty, not decimal, or above 65535.
    #[error("the port is not a number up to 65535")]
    Port,
}

/// Reads `raw` as exactly `host[:port]`.
pub fn parse(raw: &[u8]) -> Result<Authority<'_>, AuthorityFlaw> {
    // What nearly every request has is read in one pass, which does not say what is wrong with the rest.
    if let Some(named) = parse_name(raw) {
        return Ok(named);
    }
    if let Some(flaw) = raw.iter().find_map(|octet| flaw_of(*octet)) {
        return Err(flaw);
    }
    let text = str::from_utf8(raw).map_err(|_| AuthorityFlaw::NonAscii)?;
    if raw.first() == Some(&b'[') { parse_bracketed(text) } else { Err(flaw_of_name(text)) }
}

/// Whether `a` and `b` are the same place: hosts compared without case and one trailing dot, IPv6
/// addresses by value, and a missing port taken as `default_port` (RFC 9110 §4.2.3).
pub fn same(a: &Authority<'_>, b: &Authority<'_>, default_port: u16) -> bool {
    let (port_a, port_b) = (a.port.unwrap_or(default_port), b.port.unwrap_or(default_port));
    port_a == port_b && is_same_host(a.host, b.host)
}

/// The IPv6 address that `host` is in brackets.
pub(super) fn bracketed(host: &str) -> Option<Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

fn is_same_host(a: &str, b: &str) -> bool {
    match (bracketed(a), bracketed(b)) {
        (Some(a), Some(b)) => a == b,
        (None, None) => without_dot(a).eq_ignore_ascii_case(without_dot(b)),
        _ => false,
    }
}

fn without_dot(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

fn flaw_of(octet: u8) -> Option<AuthorityFlaw> {
    match octet {
        b'@' => Some(AuthorityFlaw::UserInformation),
        b'/' | b'\\' | b'?' | b'#' => Some(AuthorityFlaw::Path),
        b',' => Some(AuthorityFlaw::List),
        b'%' => Some(AuthorityFlaw::Encoded),
        0..=b' ' | 0x7f => Some(AuthorityFlaw::Blank),
        0x80.. => Some(AuthorityFlaw::NonAscii),
        _ => None,
    }
}

fn parse_name(raw: &[u8]) -> Option<Authority<'_>> {
    // As if a dot stood in front: one at the beginning is an empty label.
    let mut before = b'.';
    let mut colon = raw.len();
    for (at, &octet) in raw.iter().enumerate() {
        if octet == b':' {
            colon = at;
            break;
        }
        if !is_name_octet(octet) || (octet == b'.' && before == b'.') {
            return None;
        }
        before = octet;
    }
    let (host, rest) = raw.split_at_checked(colon).filter(|(host, _)| !host.is_empty())?;
    let port = match rest.split_first() {
        None => None,
        Some((_, digits)) => Some(parse_port(str::from_utf8(digits).ok()?).ok()?),
    };
    Some(Authority { host: str::from_utf8(host).ok()?, port })
}

fn parse_bracketed(text: &str) -> Result<Authority<'_>, AuthorityFlaw> {
    let end = text.find(']').ok_or(AuthorityFlaw::Address)?;
    let (host, rest) = text.split_at_checked(end + 1).ok_or(AuthorityFlaw::Address)?;
    bracketed(host).ok_or(AuthorityFlaw::Address)?;
    let port = match rest.strip_prefix(':') {
        Some(digits) => Some(parse_port(digits)?),
        None if rest.is_empty() => None,
        None => return Err(AuthorityFlaw::Address),
    };
    Ok(Authority { host, port })
}

/// Why [`parse_name`] has refused `text`, in which no octet is wrong for itself.
fn flaw_of_name(text: &str) -> AuthorityFlaw {
    let (host, _) = text.split_once(':').unwrap_or((text, ""));
    if without_dot(host).is_empty() {
        AuthorityFlaw::Empty
    } else if host.starts_with('.') || host.contains("..") {
        AuthorityFlaw::EmptyLabel
    } else if !host.bytes().all(is_name_octet) {
        AuthorityFlaw::Character
    } else {
        AuthorityFlaw::Port
    }
}

/// `unreserved` and `sub-delims` of RFC 3986 §2 except the comma, which was refused before.
fn is_name_octet(octet: u8) -> bool {
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let mut octet = 0u8;
        while octet < 0x80 {
            #[expect(clippy::indexing_slicing, reason = "the index is below the table's length")]
            {
                table[octet as usize] = octet.is_ascii_alphanumeric()
                    || matches!(octet, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')')
                    || matches!(octet, b'*' | b'+' | b';' | b'=');
            }
            octet += 1;
        }
        table
    };
    TABLE.get(usize::from(octet)).copied().unwrap_or(false)
}

fn parse_port(digits: &str) -> Result<u16, AuthorityFlaw> {
    // `u16::from_str` alone would take "+80".
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(AuthorityFlaw::Port);
    }
    digits.parse().map_err(|_| AuthorityFlaw::Port)
}

#[cfg(test)]
mod tests {
    use super::{Authority, AuthorityFlaw, parse, same};

    #[test]
    fn a_host_and_a_port_are_read() {
        let table = [
            ("a.internal", "a.internal", None),
            ("A.Internal.:80", "A.Internal.", Some(80)),
            ("127.0.0.1:65535", "127.0.0.1", Some(65535)),
            ("[::1]", "[::1]", None),
            ("[2001:DB8::1]:8080", "[2001:DB8::1]", Some(8080)),
            ("a_b", "a_b", None),
            ("a:00080", "a", Some(80)),
        ];
        for (raw, host, port) in table {
            assert_eq!(parse(raw.as_bytes()), Ok(Authority { host, port }), "{raw}");
        }
    }

    #[test]
    fn anything_else_than_host_and_port_is_refused() {
        use AuthorityFlaw as F;
        let table: [(&[u8], F); 31] = [
            (b"", F::Empty),
            (b":80", F::Empty),
            (b".", F::Empty),
            (b".a", F::EmptyLabel),
            (b"a..b", F::EmptyLabel),
            (b"a..", F::EmptyLabel),
            (b"..", F::EmptyLabel),
            (b"u@a", F::UserInformation),
            (b"u:p@a", F::UserInformation),
            (b"a/", F::Path),
            (b"a\\b", F::Path),
            (b"a?b", F::Path),
            (b"a#b", F::Path),
            (b"a,b", F::List),
            (b" a", F::Blank),
            (b"a b", F::Blank),
            (b"a\t", F::Blank),
            (b"a\0", F::Blank),
            (b"a\x7f", F::Blank),
            (b"\xc3\xa9.example", F::NonAscii),
            (b"a%2eb", F::Encoded),
            (b"[fe80::1%25eth0]", F::Encoded),
            (b"a\"b", F::Character),
            (b"[::1", F::Address),
            (b"[]", F::Address),
            (b"[v1.a]", F::Address),
            (b"[::1]80", F::Address),
            (b"a:", F::Port),
            (b"a:+80", F::Port),
            (b"a:65536", F::Port),
            (b"::1", F::Empty),
        ];
        for (raw, flaw) in table {
            assert_eq!(parse(raw), Err(flaw), "{}", raw.escape_ascii());
        }
    }

    #[test]
    fn authorities_are_compared_by_meaning() {
        let table = [
            ("a.b", "A.B.", true),
            ("a.b:80", "a.b", true),
            ("a.b:81", "a.b", false),
            ("a.b", "a.c", false),
            ("[::1]", "[0:0:0:0:0:0:0:1]:80", true),
            ("[::1]", "[::2]", false),
        ];
        for (a, b, expected) in table {
            let (first, second) = (parse(a.as_bytes()).unwrap(), parse(b.as_bytes()).unwrap());
            assert_eq!(same(&first, &second, 80), expected, "{a} and {b}");
        }
    }
}
