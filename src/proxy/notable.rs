//! Which fields of a header need a second look, found in one pass.
//!
//! Most requests have none of them. One look at every name is cheaper than a lookup for each field that
//! the rules know.

use http::HeaderMap;

/// A set of fields that a header has, or had before some were taken off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notable(u32);

impl Notable {
    /// `Connection`.
    pub const CONNECTION: Self = Self(1);
    /// Every other field that belongs to one connection (RFC 9110 §7.6.1), but those with an own name here.
    pub const HOP_BY_HOP: Self = Self(1 << 1);
    /// `TE`.
    pub const TE: Self = Self(1 << 2);
    /// `Trailer`.
    pub const TRAILER: Self = Self(1 << 3);
    /// `Upgrade`.
    pub const UPGRADE: Self = Self(1 << 4);
    /// `HTTP2-Settings`.
    pub const HTTP2_SETTINGS: Self = Self(1 << 5);
    /// `Expect`.
    pub const EXPECT: Self = Self(1 << 6);
    /// `Content-Length`.
    pub const CONTENT_LENGTH: Self = Self(1 << 7);
    /// `Content-Type`.
    pub const CONTENT_TYPE: Self = Self(1 << 8);
    /// `Authorization`.
    pub const AUTHORIZATION: Self = Self(1 << 9);
    /// `Via`.
    pub const VIA: Self = Self(1 << 10);
    /// `Cookie`.
    pub const COOKIE: Self = Self(1 << 11);
    /// `Proxy-Status`.
    pub const PROXY_STATUS: Self = Self(1 << 12);
    /// `Forwarded`, `X-Forwarded-*` and `X-Real-IP`.
    pub const FORWARDING: Self = Self(1 << 13);
    /// Any name with an underscore.
    pub const UNDERSCORE: Self = Self(1 << 14);

    /// `X-Request-ID`.
    pub const REQUEST_ID: Self = Self(1 << 15);

    /// What `headers` has.
    pub fn of(headers: &HeaderMap) -> Self {
        headers.keys().fold(Self::default(), |found, name| found.with(kind(name.as_str())))
    }

    /// Both sets together.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether any of `fields` is in the set.
    pub const fn has(self, fields: Self) -> bool {
        self.0 & fields.0 != 0
    }
}

/// Names are in lower case here.
fn kind(name: &str) -> Notable {
    match name {
        "connection" => Notable::CONNECTION,
        "keep-alive"
        | "proxy-connection"
        | "proxy-authenticate"
        | "proxy-authorization"
        | "transfer-encoding" => Notable::HOP_BY_HOP,
        "te" => Notable::TE,
        "trailer" => Notable::TRAILER,
        "upgrade" => Notable::UPGRADE,
        "http2-settings" => Notable::HTTP2_SETTINGS,
        "expect" => Notable::EXPECT,
        "content-length" => Notable::CONTENT_LENGTH,
        "content-type" => Notable::CONTENT_TYPE,
        "authorization" => Notable::AUTHORIZATION,
        "via" => Notable::VIA,
        "cookie" => Notable::COOKIE,
        "proxy-status" => Notable::PROXY_STATUS,
        "forwarded" | "x-real-ip" => Notable::FORWARDING,
        "x-request-id" => Notable::REQUEST_ID,
        _ => of_unknown(name),
    }
}

/// Names are short: looking at every byte costs less than calling for help.
fn of_unknown(name: &str) -> Notable {
    let has_underscore = name.bytes().fold(false, |seen, byte| seen | (byte == b'_'));
    if has_underscore {
        Notable::UNDERSCORE
    } else if name.starts_with("x-forwarded-") {
        Notable::FORWARDING
    } else {
        Notable::default()
    }
}

/// What an upstream could take `name` for that knows no difference between `_` and `-`, as CGI does not. Nothing
/// for names without an underscore.
pub fn resembles(name: &str) -> Notable {
    if name.contains('_') { kind(&name.replace('_', "-")) } else { Notable::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_and_nothing_else() {
        let mut headers = HeaderMap::new();
        for name in ["accept", "x-forwarded-for", "te", "x-a_b"] {
            headers.insert(name, http::HeaderValue::from_static("x"));
        }
        let found = Notable::of(&headers);
        assert!(found == Notable::FORWARDING.with(Notable::TE).with(Notable::UNDERSCORE));
        assert!(found.has(Notable::TE.with(Notable::VIA)) && !found.has(Notable::VIA));
    }
}
