//! What a token says of itself, read without verifying it: for diagnosis, never for a decision.
//!
//! To the gateway tokens are opaque: some are encrypted, some are only a key to a record of the
//! provider's. So nothing here fails, and no request depends on it.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use crate::secret::Secret;

/// Servers begin to refuse header fields from 4 to 8 KiB on.
pub const LARGE_BYTES: usize = 4 * 1024;
/// What a claim's value is cut to, so that a hostile one fills no screen.
const SHOWN_MAX: usize = 400;

/// The claims of a token that is a JWT.
#[derive(Debug)]
pub struct Content(Map<String, Value>);

impl Content {
    /// The claims of `token`; `None` when it is opaque: no JWT, or an encrypted one.
    pub fn of(token: &Secret) -> Option<Self> {
        let mut parts = token.expose().split('.');
        let (header, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || header.is_empty() || signature.is_empty() {
            return None;
        }
        let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?;
        serde_json::from_slice(&payload).ok().map(Self)
    }

    /// Who issued it.
    pub fn issuer(&self) -> Option<String> {
        self.shown(&["iss"])
    }

    /// For which API it is.
    pub fn audience(&self) -> Option<String> {
        self.shown(&["aud"])
    }

    /// What a federated credential is compared with, byte for byte.
    pub fn trust(&self) -> String {
        let shown = |name| self.shown(&[name]).map_or("none".into(), |value| format!("{value:?}"));
        format!("issuer {}, subject {}, audience {}", shown("iss"), shown("sub"), shown("aud"))
    }

    /// The account that it was issued to.
    pub fn client(&self) -> Option<String> {
        self.shown(&["azp", "appid", "client_id", "cid"])
    }

    /// The tenant of an Entra token.
    pub fn tenant(&self) -> Option<String> {
        self.shown(&["tid"])
    }

    /// Its scope, where that is not where roles are.
    pub fn scope(&self) -> Option<String> {
        self.shown(&["scp", "scope"])
    }

    /// Every role in it, from wherever the known providers put them: Entra in `roles`, a B2C policy and
    /// Okta in `scp`, Auth0 in `permissions` or `scope`, Keycloak and Zitadel in claims of their own.
    pub fn roles(&self) -> Vec<String> {
        let mut found = Vec::new();
        for name in ["roles", "scp", "permissions", "scope"] {
            listed(self.0.get(name), &mut found);
        }
        let of_realm = self.0.get("realm_access").and_then(|access| access.get("roles"));
        listed(of_realm, &mut found);
        let clients = self.0.get("resource_access").and_then(Value::as_object);
        for client in clients.into_iter().flat_map(Map::values) {
            listed(client.get("roles"), &mut found);
        }
        for (name, value) in &self.0 {
            if name.starts_with("urn:zitadel:iam:org:project:") && name.ends_with("roles") {
                found.extend(value.as_object().into_iter().flat_map(Map::keys).cloned());
            }
        }
        let mut seen = std::collections::HashSet::new();
        found.retain(|role| seen.insert(role.clone()));
        found.into_iter().map(|role| printable(&role)).collect()
    }

    /// Those of `expected` that it does not carry.
    pub fn missing(&self, expected: &[String]) -> Vec<String> {
        let roles = self.roles();
        expected.iter().filter(|role| !roles.contains(role)).cloned().collect()
    }

    fn shown(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.0.get(*name)).map(text_of)
    }
}

/// A list, or words in one text.
fn listed(value: Option<&Value>, found: &mut Vec<String>) {
    match value {
        Some(Value::Array(items)) => {
            found.extend(items.iter().filter_map(Value::as_str).map(str::to_owned));
        }
        Some(Value::String(text)) => found.extend(text.split(' ').map(str::to_owned)),
        _ => {}
    }
    found.retain(|role| !role.is_empty());
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        Value::Array(items) => printable(&items.iter().map(text_of).collect::<Vec<_>>().join(", ")),
        other => printable(&other.to_string()),
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(claims: &str) -> Content {
        let token = format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims));
        Content::of(&Secret::new(token)).unwrap()
    }

    #[test]
    fn roles_are_found_wherever_a_provider_puts_them() {
        for claims in [
            r#"{"roles":["other","Orders.Read"]}"#,
            r#"{"roles":"Orders.Read"}"#,
            r#"{"scp":"other Orders.Read"}"#,
            r#"{"scp":["Orders.Read"]}"#,
            r#"{"permissions":["Orders.Read"]}"#,
            r#"{"scope":"Orders.Read"}"#,
            r#"{"realm_access":{"roles":["Orders.Read"]}}"#,
            r#"{"resource_access":{"api":{"roles":["Orders.Read"]}}}"#,
            r#"{"urn:zitadel:iam:org:project:7:roles":{"Orders.Read":{"7":"x"}}}"#,
        ] {
            assert!(content(claims).missing(&["Orders.Read".into()]).is_empty(), "{claims}");
            assert_eq!(content(claims).missing(&["orders.read".into()]), ["orders.read"], "{claims}");
        }
        assert_eq!(content(r#"{"roles":7,"scp":null}"#).roles(), Vec::<String>::new());
    }

    #[test]
    fn claims_are_shown_in_one_line_and_not_without_end() {
        let content =
            content(&format!(r#"{{"iss":"a\u001b[31m\nb","aud":["x","y"],"azp":"{}"}}"#, "c".repeat(9000)));
        assert_eq!(content.issuer().unwrap(), "a[31mb");
        assert_eq!(content.audience().unwrap(), "x, y");
        assert_eq!(content.client().unwrap().len(), SHOWN_MAX);
        assert_eq!(content.tenant(), None);
    }

    #[test]
    fn what_is_no_readable_jwt_is_opaque() {
        for token in ["opaque", "a.b", "a.b.c", "a.e30.c.d.e", ".e30.c", "00D!AQ.x_y~"] {
            assert!(Content::of(&Secret::new(token.into())).is_none(), "{token}");
        }
    }
}
