//! Credentials: what an exchange gives, where it goes on a request, and how it looks there.
//!
//! Nothing here puts anything on a request: that is `proxy`'s, which knows when.

use std::{fmt, sync::Arc};

use http::{HeaderName, HeaderValue, header::AUTHORIZATION};

use crate::{profile::dpop, secret::Secret};

/// Where on a request a credential goes. Only one credential can go there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// A header field.
    Header(HeaderName),
    /// A parameter of the query, by its plain name.
    Query(String),
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Slot::Header(name) => write!(f, "the header field {name}"),
            Slot::Query(name) => write!(f, "the parameter {name}"),
        }
    }
}

/// What an exchange gave to prove the account with. Checked to be legal where it goes.
#[derive(Debug)]
pub enum Credential {
    /// A token for `Authorization: Bearer` (RFC 6750 §2.1).
    Bearer(Secret),
    /// A token that is bound to a key (RFC 9449).
    Dpop(Secret, Arc<dpop::Key>),
    /// The value of a header field: an API key, or a user's name and password.
    Header {
        /// The field.
        name: HeaderName,
        /// Its whole value, marked sensitive.
        value: HeaderValue,
        /// The secret in it.
        secret: Secret,
    },
    /// A parameter of the query.
    Query {
        /// The parameter's plain name.
        name: String,
        /// Its plain value.
        value: Secret,
    },
}

/// A credential in the form in which it goes on requests.
#[derive(Clone, Debug)]
pub enum Ready {
    /// A header field; its value is marked sensitive.
    Header(HeaderName, HeaderValue),
    /// `name=value`, percent-encoded.
    Query(Secret),
    /// A bound token; each request gets a proof beside it.
    Dpop(dpop::Bound),
}

impl Credential {
    /// The token or key itself: for diagnosis, and for `keybearer token --raw`.
    pub fn secret(&self) -> &Secret {
        match self {
            Credential::Bearer(secret)
            | Credential::Dpop(secret, _)
            | Credential::Header { secret, .. }
            | Credential::Query { value: secret, .. } => secret,
        }
    }

    /// The form in which it goes on requests.
    pub fn ready(&self) -> Ready {
        match self {
            // The scheme is always `Bearer`, whatever case the answer used: servers insist on it.
            Credential::Bearer(token) => {
                let value = sensitive("Bearer ", token).expect("`answer` refuses what no header holds");
                Ready::Header(AUTHORIZATION, value)
            }
            Credential::Dpop(token, key) => Ready::Dpop(dpop::Bound {
                authorization: sensitive("DPoP ", token).expect("`answer` refuses what no header holds"),
                digest: dpop::digest_of(token).into(),
                key: Arc::clone(key),
            }),
            Credential::Header { name, value, .. } => Ready::Header(name.clone(), value.clone()),
            Credential::Query { name, value } => {
                let pair = format!("{}={}", percent_encoded(name), percent_encoded(value.expose()));
                Ready::Query(Secret::new(pair))
            }
        }
    }
}

/// `prefix` and `secret` as a field's value, marked sensitive; `None` when no field can have it.
pub(super) fn sensitive(prefix: &str, secret: &Secret) -> Option<HeaderValue> {
    let text = zeroize::Zeroizing::new(format!("{prefix}{}", secret.expose()));
    // The library takes more, which servers read in different ways.
    let is_plain = text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    let mut value = HeaderValue::from_str(&text).ok().filter(|_| is_plain)?;
    value.set_sensitive(true);
    Some(value)
}

/// Everything but RFC 3986's unreserved characters encoded, so that no server reads it differently.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_percent_encoded_byte_by_byte() {
        let value = Secret::new("a+b&c=d e/é%".into());
        let Ready::Query(pair) = Credential::Query { name: "api key".into(), value }.ready() else {
            panic!()
        };
        assert_eq!(pair.expose(), "api%20key=a%2Bb%26c%3Dd%20e%2F%C3%A9%25");
    }

    #[test]
    fn a_credential_on_a_request_is_marked_sensitive_and_shows_nothing() {
        let bearer = Credential::Bearer(Secret::new("canary".into()));
        let Ready::Header(name, value) = bearer.ready() else { panic!() };
        assert_eq!((name, value.as_bytes()), (AUTHORIZATION, &b"Bearer canary"[..]));
        assert!(value.is_sensitive());
        let query = Credential::Query { name: "key".into(), value: Secret::new("canary".into()) };
        for shown in [format!("{bearer:?} {:?}", bearer.ready()), format!("{query:?} {:?}", query.ready())] {
            assert!(!shown.contains("canary"), "{shown}");
        }
    }
}
