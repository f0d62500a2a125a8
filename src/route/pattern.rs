//! What a route says about hosts and paths, in canonical form.
//!
//! Whatever parses here can be compared with a request by equality; there is no second normalisation
//! at request time. It does not know which rule beats which.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv4Addr;

use crate::route::authority;
use crate::route::path::{Check, Flaw, read};

/// RFC 1035 §3.1, as text without the trailing dot.
const MAX_NAME: usize = 253;
/// RFC 1035 §3.1.
const MAX_LABEL: usize = 63;

/// A host that a route wants: one name or address, or everything below a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This host: lower case, no trailing dot; an IPv6 address in brackets and in RFC 5952 form.
    Exact(Box<str>),
    /// `*.suffix`: one or more labels in front of this suffix, not the suffix itself.
    Below(Box<str>),
}

/// Why a text is not a host pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// No text.
    #[error("host is empty: leave it out to match any host")]
    Empty,
    /// `*` elsewhere than as the first label.
    #[error(
        "host {0:?} may have \"*\" only as its first label, as in \"*.example.com\" (leave host out for any)"
    )]
    Wildcard(String),
    /// A port.
    #[error("host {0:?} has a port: the listener's address decides the port, leave it out")]
    Port(String),
    /// An international name in its Unicode form.
    #[error("host {0:?} is not ASCII: write it in punycode (\"xn--...\")")]
    NonAscii(String),
    /// A character that no host has.
    #[error(
        "host {host:?} has the character {character:?}: hosts have letters, digits, \"-\", \"_\" and \".\""
    )]
    Character {
        /// The whole text.
        host: String,
        /// The first wrong character.
        character: char,
    },
    /// An empty label or too long a one, or too long a name.
    #[error("host {0:?} is not a name: labels have 1 to 63 characters, names up to 253")]
    Length(String),
    /// Something that is nearly an IP address.
    #[error("host {0:?} is not an IP address: write \"10.0.0.1\" or \"[2001:db8::1]\"")]
    Address(String),
}

impl HostPattern {
    /// Reads `orders.internal`, `*.suffix`, `10.0.0.1` or `[2001:db8::1]`. Case and one trailing dot
    /// do not matter.
    pub fn parse(text: &str) -> Result<HostPattern, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if !text.is_ascii() {
            return Err(PatternError::NonAscii(text.to_owned()));
        }
        if text.starts_with('[') || text.matches(':').count() > 1 {
            return parse_address(text);
        }
        if text.contains(':') {
            return Err(PatternError::Port(text.to_owned()));
        }
        let name = fold(text);
        match name.strip_prefix("*.") {
            Some(suffix) => {
                check_name(suffix, text)?;
                let is_number = ends_in_number(suffix);
                if is_number {
                    Err(PatternError::Address(text.to_owned()))
                } else {
                    Ok(Self::Below(suffix.into()))
                }
            }
            None => {
                check_name(&name, text)?;
                let is_wrong = ends_in_number(&name) && name.parse::<Ipv4Addr>().is_err();
                if is_wrong {
                    Err(PatternError::Address(text.to_owned()))
                } else {
                    Ok(Self::Exact(name.into()))
                }
            }
        }
    }

    /// Whether a host in the form of [`fold`] is meant.
    pub(super) fn is_match(&self, host: &str) -> bool {
        match self {
            HostPattern::Exact(name) => **name == *host,
            HostPattern::Below(suffix) => host
                .strip_suffix(&**suffix)
                .and_then(|labels| labels.strip_suffix('.'))
                .is_some_and(|labels| !labels.is_empty()),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(name) => f.write_str(name),
            HostPattern::Below(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

/// The form in which hosts are compared: lower case, no trailing dot, IPv6 as RFC 5952 writes it.
/// Allocates only for capitals and IPv6.
pub(super) fn fold(host: &str) -> Cow<'_, str> {
    if let Some(address) = authority::bracketed(host) {
        return Cow::Owned(format!("[{address}]"));
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.bytes().any(|octet| octet.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

fn parse_address(text: &str) -> Result<HostPattern, PatternError> {
    if authority::bracketed(text).is_some() {
        return Ok(HostPattern::Exact(fold(text).into()));
    }
    let is_address_and_port = authority::parse(text.as_bytes()).is_ok_and(|read| read.port.is_some());
    Err(if is_address_and_port {
        PatternError::Port(text.to_owned())
    } else {
        PatternError::Address(text.to_owned())
    })
}

fn check_name(name: &str, text: &str) -> Result<(), PatternError> {
    let is_allowed = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    if name.contains('*') {
        return Err(PatternError::Wildcard(text.to_owned()));
    }
    if let Some(character) = name.chars().find(|character| !is_allowed(*character)) {
        return Err(PatternError::Character { host: text.to_owned(), character });
    }
    if name.len() > MAX_NAME || name.split('.').any(|label| label.is_empty() || label.len() > MAX_LABEL) {
        return Err(PatternError::Length(text.to_owned()));
    }
    Ok(())
}

fn ends_in_number(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|label| label.bytes().all(|octet| octet.is_ascii_digit()))
}

/// A path prefix by whole segments: `/v1/orders` takes `/v1/orders` and `/v1/orders/7`, not
/// `/v1/ordersX`. `/` takes every path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPrefix(Box<str>);

/// Why a text is not a path prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No `/` at the start.
    #[error("path {0:?} does not begin with \"/\"")]
    Relative(String),
    /// A query or a fragment.
    #[error("path {0:?} has {1:?}: a route matches paths only, leave the rest out")]
    Query(String, char),
    /// A space, which no request path has.
    #[error("path {0:?} has a space: write it as \"%20\"")]
    Space(String),
    /// A prefix that origins could read in more than one way.
    #[error("path {path:?} has {flaw}: write it without")]
    Flaw {
        /// The whole text.
        path: String,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// Another spelling of the canonical path.
    #[error("path {path:?} is not in canonical form: write {canonical:?}")]
    Spelling {
        /// The whole text.
        path: String,
        /// How to write it.
        canonical: String,
    },
}

impl PathPrefix {
    /// Reads a prefix in canonical form. A trailing slash does not matter.
    pub fn parse(text: &str) -> Result<PathPrefix, PathError> {
        if !text.starts_with('/') {
            return Err(PathError::Relative(text.to_owned()));
        }
        if let Some(mark) = text.chars().find(|character| matches!(character, '?' | '#')) {
            return Err(PathError::Query(text.to_owned(), mark));
        }
        if text.contains(' ') {
            return Err(PathError::Space(text.to_owned()));
        }
        let reading = read(text);
        if let Some(flaw) = reading.refused_by(Check::Strict) {
            return Err(PathError::Flaw { path: text.to_owned(), flaw });
        }
        if reading.path != text {
            return Err(PathError::Spelling { path: text.to_owned(), canonical: reading.path.into_owned() });
        }
        Ok(PathPrefix(text.strip_suffix('/').unwrap_or(text).into()))
    }

    /// The prefix: `/`, or without a trailing slash.
    pub fn as_str(&self) -> &str {
        if self.0.is_empty() { "/" } else { &self.0 }
    }

    /// The prefix as a request's path begins with it: empty for `/`.
    pub(super) fn key(&self) -> &str {
        &self.0
    }

    /// How many segments the prefix has; none for `/`.
    pub(super) fn depth(&self) -> usize {
        self.0.bytes().filter(|octet| *octet == b'/').count()
    }

    /// Whether the canonical `path` is the prefix or lies under it.
    pub fn is_match(&self, path: &str) -> bool {
        path.starts_with('/')
            && path.strip_prefix(&*self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
