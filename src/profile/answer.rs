//! Reading the answer of a token endpoint: hostile input until proven a token.
//!
//! Sloppiness that cannot hurt is accepted (numbers as text, `bearer` in lower case, no lifetime);
//! what could be used to smuggle or to mislead is refused. Success bodies are never logged.

use std::time::Duration;

use reqwest::{StatusCode, header::HeaderValue};
use serde_json::{Map, Value};

use crate::{
    clock,
    profile::refusal::{ExchangeError, Rejection},
    secret::Secret,
};

/// No API takes a longer one: servers stop at 4 to 16 KiB of header.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Nobody means more by a lifetime; keeps the arithmetic on deadlines safe.
const LIFETIME_MAX: Duration = Duration::from_secs(366 * 86_400);
/// A longer wait would outlive the outage it was meant for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// The answer of a token endpoint, read to its end.
pub struct Reply {
    /// HTTP status.
    pub status: StatusCode,
    /// `Retry-After`, when it was given and understood.
    pub retry_after: Option<Duration>,
    /// The body, bounded by the reader.
    pub body: Vec<u8>,
}

/// What a token is asked for as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// RFC 6750. An answer that names no type means it.
    Bearer,
    /// RFC 9449. A token of another type is not bound to anything.
    Dpop,
}

/// A usable token with what is known of its life.
pub struct Accepted {
    /// The token, visible ASCII only.
    pub access_token: Secret,
    /// How long it lives; zero for a token that must not be kept.
    pub lifetime: Duration,
    /// When the provider suggests to refresh.
    pub refresh_in: Option<Duration>,
}

/// Reads `reply` as RFC 6749 §5.1 or §5.2. `secrets` are what was sent: they are kept out of errors.
///
/// # Errors
/// [`ExchangeError::Rejected`] for an OAuth error, also inside a 200; [`ExchangeError::Unusable`] for
/// an answer that holds no usable token.
pub fn read(
    reply: &Reply,
    scheme: Scheme,
    default_ttl: Duration,
    secrets: &[Secret],
) -> Result<Accepted, ExchangeError> {
    let json: Option<Map<String, Value>> = serde_json::from_slice(&reply.body).ok();
    let unusable = |what| ExchangeError::Unusable { status: reply.status.as_u16(), what };
    if !reply.status.is_success() || json.as_ref().is_some_and(|m| m.contains_key("error")) {
        return Err(ExchangeError::Rejected(Box::new(Rejection::read(reply, json.as_ref(), secrets))));
    }
    let Some(json) = json else {
        return Err(unusable(if reply.body.is_empty() {
            "its body is empty"
        } else {
            "its body is no JSON object"
        }));
    };
    let Some(Value::String(token)) = json.get("access_token") else {
        return Err(unusable("it holds no access_token"));
    };
    if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
        return Err(unusable("its access_token is empty or longer than 16 KiB"));
    }
    // Wider than RFC 6750's b64token, as real tokens are, yet nothing that could end a header.
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(unusable("its access_token holds characters that no token holds"));
    }
    let kind = json.get("token_type").filter(|kind| !kind.is_null());
    let is = |name: &str| kind.and_then(Value::as_str).is_some_and(|kind| kind.eq_ignore_ascii_case(name));
    match scheme {
        Scheme::Bearer if kind.is_none() || is("bearer") => {}
        Scheme::Bearer if is("dpop") => {
            return Err(unusable("its token_type is DPoP, and nobody asked for that (set dpop: true)"));
        }
        Scheme::Bearer => return Err(unusable("its token_type is not Bearer")),
        Scheme::Dpop if is("dpop") => {}
        Scheme::Dpop => return Err(unusable("its token_type is not DPoP: the server has ignored the proof")),
    }
    Ok(Accepted {
        access_token: Secret::new(token.clone()),
        lifetime: lifetime(&json).unwrap_or(default_ttl),
        refresh_in: json.get("refresh_in").and_then(seconds).filter(|s| !s.is_zero()),
    })
}

/// `expires_in`, else `expires_on` of Entra v1 and managed identities, as a span from now.
fn lifetime(json: &Map<String, Value>) -> Option<Duration> {
    if let Some(span) = json.get("expires_in").and_then(seconds) {
        return Some(span);
    }
    let until = json.get("expires_on").and_then(seconds)?;
    let now = clock::wall().duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(until.saturating_sub(now).min(LIFETIME_MAX))
}

/// A number of seconds as number or text; negative counts as zero.
fn seconds(value: &Value) -> Option<Duration> {
    let number = match value {
        Value::Number(n) => n.as_f64()?,
        Value::String(text) => text.trim().parse::<f64>().ok()?,
        _ => return None,
    };
    if !number.is_finite() {
        return None;
    }
    // `expires_on` counts from 1970, so the cap for spans is applied where it is one.
    let capped = number.clamp(0.0, 1e11);
    let span = Duration::try_from_secs_f64(capped).ok()?;
    Some(if number < 1e9 { span.min(LIFETIME_MAX) } else { span })
}

/// `Retry-After` in seconds or as a date (RFC 9110 §10.2.3), capped at an hour.
pub fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let span = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(clock::wall()).unwrap_or_default(),
    };
    Some(span.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(300);

    fn check(status: u16, body: &str) -> Result<Accepted, ExchangeError> {
        let reply = Reply {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
            body: body.as_bytes().to_vec(),
        };
        read(&reply, Scheme::Bearer, TTL, &[Secret::new("s3cret-value".into())])
    }

    fn lifetime_of(members: &str) -> Duration {
        check(200, &format!(r#"{{"access_token":"a.b.c","token_type":"Bearer"{members}}}"#)).unwrap().lifetime
    }

    #[test]
    fn lifetimes_are_read_in_every_shape_that_servers_send() {
        let secs = Duration::from_secs;
        assert_eq!(lifetime_of(r#","expires_in":3599"#), secs(3599));
        assert_eq!(lifetime_of(r#","expires_in":"3599""#), secs(3599));
        assert_eq!(lifetime_of(r#","expires_in":3599.0"#), secs(3599));
        assert_eq!(lifetime_of(""), TTL);
        assert_eq!(lifetime_of(r#","expires_in":null"#), TTL);
        assert_eq!(lifetime_of(r#","expires_in":"soon""#), TTL);
        assert_eq!(lifetime_of(r#","expires_in":0"#), secs(0));
        assert_eq!(lifetime_of(r#","expires_in":-5"#), secs(0));
        assert_eq!(lifetime_of(r#","expires_in":1e300"#), Duration::from_secs_f64(1e11));
    }

    #[test]
    fn a_type_in_lower_case_or_missing_is_bearer_and_any_other_is_refused() {
        assert!(check(200, r#"{"access_token":"t","token_type":"bearer"}"#).is_ok());
        assert!(check(200, r#"{"access_token":"t"}"#).is_ok());
        for kind in [r#""DPoP""#, r#""mac""#, "7", r#""""#] {
            let body = format!(r#"{{"access_token":"t","token_type":{kind}}}"#);
            assert!(matches!(check(200, &body), Err(ExchangeError::Unusable { .. })), "{kind}");
        }
    }

    #[test]
    fn a_bound_token_must_say_that_it_is_one() {
        let check = |body: &str| {
            let reply = Reply { status: StatusCode::OK, retry_after: None, body: body.as_bytes().to_vec() };
            read(&reply, Scheme::Dpop, TTL, &[]).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(check(r#"{"access_token":"t","token_type":"dpop"}"#), Ok(()));
        for unbound in [r#"{"access_token":"t","token_type":"Bearer"}"#, r#"{"access_token":"t"}"#] {
            assert!(check(unbound).unwrap_err().contains("ignored the proof"));
        }
    }

    #[test]
    fn a_token_that_could_end_a_header_is_refused() {
        for token in [r"a\r\nx: y", r"a b", r"a\u0000", "tök", ""] {
            let body = format!(r#"{{"access_token":"{token}"}}"#);
            assert!(matches!(check(200, &body), Err(ExchangeError::Unusable { .. })), "{token}");
        }
        assert!(check(200, r#"{"access_token":"00D!AQ.x_y~"}"#).is_ok(), "Salesforce's tokens hold a !");
    }

    #[test]
    fn answers_that_hold_no_token_say_what_is_wrong_with_them() {
        for (body, words) in [
            ("", "empty"),
            ("<html>", "no JSON object"),
            ("{}", "no access_token"),
            ("[1]", "no JSON object"),
        ] {
            let error = check(200, body).err().unwrap();
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn an_error_inside_a_200_is_an_error() {
        let error = check(200, r#"{"error":"invalid_client","access_token":"t"}"#).err().unwrap();
        assert!(matches!(error, ExchangeError::Rejected(_)), "{error}");
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date_and_is_capped() {
        let read = |text: &str| retry_after(&HeaderValue::from_str(text).unwrap());
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(read("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
    }
}
