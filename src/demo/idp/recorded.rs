//! A token request as it arrived, for tests to look at.

use std::fmt;

use axum::http::{HeaderMap, header};
use base64::{Engine, engine::general_purpose::STANDARD};
use url::form_urlencoded;

/// A token request as it arrived, credentials included: for assertions, never for a log.
#[derive(Clone)]
pub struct Recorded {
    /// The path.
    pub path: String,
    /// The decoded parameters in the order sent.
    pub form: Vec<(String, String)>,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Client id and secret of HTTP Basic, form-decoded, when it was used.
    pub basic: Option<(String, String)>,
}

impl Recorded {
    /// The value of a parameter.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.form.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The value of a header, named in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The scheme of `Authorization`, when there was one.
    pub fn authorization_scheme(&self) -> Option<&str> {
        self.header("authorization")?.split(' ').next()
    }
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.form.iter().map(|(name, _)| name.as_str()).collect();
        let scheme = self.authorization_scheme().unwrap_or("none");
        write!(f, "Recorded({} with {names:?}, authorization {scheme})", self.path)
    }
}

/// RFC 6749 §2.3.1: each half is form-encoded by itself.
pub(super) fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, encoded) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let pair = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = pair.split_once(':')?;
    scheme.eq_ignore_ascii_case("basic").then(|| (form_decoded(id), form_decoded(secret)))
}

fn form_decoded(text: &str) -> String {
    // As a form, an `&` or `=` would divide it; the encoder wrote neither, so both stand for themselves.
    let whole = text.replace('&', "%26").replace('=', "%3D");
    form_urlencoded::parse(whole.as_bytes()).map(|(name, _)| name.into_owned()).collect()
}
