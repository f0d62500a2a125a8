//! Profiles of kind `static`.

use http::{HeaderName, HeaderValue};

use super::{
    super::{
        field::{Field, given},
        file_static::{Basic, HeaderKey, QueryKey, Static},
    },
    Account,
};
use crate::profile::{self, fixed::Settings};

/// Fields that say something else, that belong to a connection, or that the gateway itself writes.
const NOT_FOR_KEYS: [&str; 27] = [
    "accept",
    "accept-encoding",
    "age",
    "cache-control",
    "connection",
    "date",
    "dpop",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "origin",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "proxy-status",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "www-authenticate",
    "x-real-ip",
    "x-request-id",
];
/// The same, by how they begin.
const NOT_FOR_KEYS_FROM: [&str; 4] = ["content-", "if-", "sec-", "x-forwarded-"];

impl Account<'_> {
    pub(super) fn fixed(&self, file: &Static) -> Option<profile::Kind> {
        let bearer = |f: &Field<_>| self.text("bearer", f).map(Settings::Bearer);
        let settings = match (&file.bearer, &file.basic, &file.header, &file.query) {
            (Some(place), None, None, None) => bearer(place),
            (None, Some(basic), None, None) => basic.get().and_then(|(_, basic)| self.basic(basic)),
            (None, None, Some(header), None) => header.get().and_then(|(_, key)| self.header_key(key)),
            (None, None, None, Some(query)) => query.get().and_then(|(_, key)| self.query_key(key)),
            (None, None, None, None) => {
                self.problem(self.at, "one of bearer, basic, header and query is needed");
                None
            }
            (bearer, basic, header, query) => {
                let at = |at: Option<_>| at.into_iter();
                let all = at(bearer.as_ref().map(|f| f.at))
                    .chain(at(basic.as_ref().map(|f| f.at)))
                    .chain(at(header.as_ref().map(|f| f.at)))
                    .chain(at(query.as_ref().map(|f| f.at)));
                let last = all.max_by_key(|at| (at.line, at.column)).unwrap_or(self.at);
                let words = "keep one, and put the others into profiles of their own: also names them";
                let text = format!("bearer, basic, header and query exclude each other ({words})");
                self.problem(last, text);
                None
            }
        };
        settings.map(profile::Kind::Static)
    }

    fn basic(&self, file: &Basic) -> Option<Settings> {
        let password = self.text("basic.password", &file.password);
        let (at, username) = file.username.get()?;
        if username.contains(':') || username.chars().any(char::is_control) {
            let words = "a colon or a control character cannot be sent (RFC 7617 §2)";
            self.problem(at, format_args!("basic.username: {words}"));
            return None;
        }
        Some(Settings::Basic { username: username.clone(), password: password? })
    }

    fn header_key(&self, file: &HeaderKey) -> Option<Settings> {
        let value = self.text("header.value", &file.value);
        let prefix = given(&file.prefix).map(|(at, text)| {
            if HeaderValue::from_str(text).is_err() || text.starts_with([' ', '\t']) {
                let words = "expected visible ASCII characters, with a space only behind them";
                self.problem(at, format_args!("header.prefix: {words}"));
            }
            text.clone()
        });
        let (at, text) = file.name.get()?;
        let Ok(name) = text.parse::<HeaderName>() else {
            self.problem(at, format_args!("header.name: {text:?} is not the name of a header field"));
            return None;
        };
        let lower = name.as_str();
        if NOT_FOR_KEYS.contains(&lower) || NOT_FOR_KEYS_FROM.iter().any(|start| lower.starts_with(start)) {
            let words = "has another meaning, so no key can go there (as in X-Api-Key or Authorization)";
            self.problem(at, format_args!("header.name: {text} {words}"));
            return None;
        }
        Some(Settings::Header { name, value: value?, prefix: prefix.unwrap_or_default() })
    }

    fn query_key(&self, file: &QueryKey) -> Option<Settings> {
        let value = self.text("query.value", &file.value);
        let (at, name) = file.name.get()?;
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_graphic()) {
            let words =
                "is not the name of a parameter (visible ASCII characters, as they are before encoding)";
            self.problem(at, format_args!("query.name: {name:?} {words}"));
            return None;
        }
        Some(Settings::Query { name: name.clone(), value: value? })
    }
}
