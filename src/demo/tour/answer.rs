//! What came back for a request, and which part of it is worth showing.

use reqwest::{StatusCode, header::HeaderMap};
use serde_json::Value;

/// Headers that say something here.
const HEADERS: [&str; 3] = ["www-authenticate", "retry-after", "proxy-status"];

/// Members of the API's, the gateway's and the admin listener's documents, by JSON Pointer.
const MEMBERS: [(&str, &str); 6] = [
    ("account", "/seen/account"),
    ("roles", "/seen/roles"),
    ("code", "/code"),
    ("detail", "/detail"),
    ("ready", "/ready"),
    ("orders-daemon", "/profiles/orders-daemon/reason"),
];

/// An answer, read to its end.
pub(super) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    /// Reads one. A body that is no JSON counts as none.
    ///
    /// # Errors
    /// When the answer breaks off.
    pub(super) async fn read(response: reqwest::Response) -> reqwest::Result<Answer> {
        let (status, headers) = (response.status(), response.headers().clone());
        let body = serde_json::from_slice(&response.bytes().await?).unwrap_or_default();
        Ok(Answer { status, headers, body })
    }

    /// The status code.
    pub(super) fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// Code and reason.
    pub(super) fn status_line(&self) -> String {
        format!("{} {}", self.status(), self.status.canonical_reason().unwrap_or_default())
    }

    /// A header's value.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The account that the API saw.
    pub(super) fn account(&self) -> &str {
        self.text("/seen/account")
    }

    /// The gateway's code for a request that it did not serve.
    pub(super) fn code(&self) -> &str {
        self.text("/code")
    }

    /// Whether the API saw this role.
    pub(super) fn has_role(&self, role: &str) -> bool {
        let roles = self.body.pointer("/seen/roles").and_then(Value::as_array);
        roles.is_some_and(|roles| roles.iter().any(|r| r == role))
    }

    /// What a person wants to see of it.
    pub(super) fn essentials(&self) -> Vec<(&'static str, String)> {
        let headers = HEADERS.into_iter().filter_map(|name| Some((name, self.header(name)?.to_owned())));
        let members = MEMBERS.into_iter().filter_map(|(name, at)| {
            let value = self.body.pointer(at).filter(|value| !value.is_null())?;
            Some((name, plain(value)))
        });
        headers.chain(members).collect()
    }

    fn text(&self, at: &str) -> &str {
        self.body.pointer(at).and_then(Value::as_str).unwrap_or_default()
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
