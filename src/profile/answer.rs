//! Reading the answer of a token endpoint: hostile input until proven a token.
//!
//! Sloppiness that cannot hurt is accepted (numbers as text, `bearer` in lower case, no lifetime);
//! what could be used to smuggle or to mislead is refused. Success bodies are never logged.

use std::time::Duration;

use reqwest::{StatusCode, header::HeaderValue};
use serde_json::{Map, Value};
use url::form_urlencoded;

use crate::{
    clock,
    profile::{
        assertion::unverified_claims,
        dates,
        refusal::{ExchangeError, Rejection},
    },
    secret::Secret,
};

/// No API takes a longer one: servers stop at 4 to 16 KiB of header.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Nobody means more by a lifetime; keeps the arithmetic on deadlines safe.
const LIFETIME_MAX: Duration = Duration::from_secs(366 * 86_400);

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
    /// What the provider says that the token is good for, if it does.
    pub scope: Option<String>,
}

/// What a success has to hold.
pub struct Wanted<'a> {
    /// The member that holds the token: `access_token`, `id_token`, or a name of the server's own.
    pub field: &'a str,
    /// What it is asked for as.
    pub scheme: Scheme,
    /// Lifetime of a token whose answer tells none.
    pub default_ttl: Duration,
    /// Whether the `exp` of the token itself comes before `default_ttl`.
    pub believes_token: bool,
    /// Whether it answers a token exchange (RFC 8693 §2.2), and which type was asked for.
    pub exchange: Option<Option<&'a str>>,
}

/// RFC 6749's name of the token.
pub const ACCESS_TOKEN: &str = "access_token";
/// OpenID Connect's name of the token that says who somebody is.
pub const ID_TOKEN: &str = "id_token";
/// The type of tokens that only a token endpoint takes (RFC 8693 §3).
const REFRESH_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:refresh_token";

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
    let wanted = Wanted { field: ACCESS_TOKEN, scheme, default_ttl, believes_token: false, exchange: None };
    read_as(&wanted, reply, secrets)
}

/// [`read`] for an answer that may look otherwise.
///
/// # Errors
/// Those of [`read`].
pub fn read_as(wanted: &Wanted<'_>, reply: &Reply, secrets: &[Secret]) -> Result<Accepted, ExchangeError> {
    let json: Option<Map<String, Value>> = serde_json::from_slice(&reply.body).ok();
    let unusable = |what| ExchangeError::Unusable { status: reply.status.as_u16(), what };
    // RFC 6749 §3.2: a parameter without a value counts as absent.
    let is_error = |error: &Value| !error.is_null() && error.as_str() != Some("");
    if !reply.status.is_success() || json.as_ref().is_some_and(|m| m.get("error").is_some_and(is_error)) {
        return Err(ExchangeError::Rejected(Box::new(Rejection::read(reply, json.as_ref(), secrets))));
    }
    let Some(json) = json else {
        return Err(unusable(if reply.body.is_empty() {
            "its body is empty"
        } else {
            "its body is no JSON object"
        }));
    };
    let token = token(&json, wanted.field).map_err(unusable)?;
    is_of_type(&json, wanted).map_err(unusable)?;
    if wanted.exchange.is_some() {
        issued_type(&json).map_err(unusable)?;
    }
    let own = || wanted.believes_token.then(|| own_lifetime(token)).flatten();
    Ok(Accepted {
        access_token: Secret::new(token.to_owned()),
        lifetime: lifetime(&json).or_else(own).unwrap_or(wanted.default_ttl),
        refresh_in: json.get("refresh_in").and_then(seconds).filter(|s| !s.is_zero()),
        scope: json.get("scope").and_then(Value::as_str).map(str::to_owned),
    })
}

/// RFC 6749 §7.1: a token of a type that is not known must not be used.
fn is_of_type(json: &Map<String, Value>, wanted: &Wanted<'_>) -> Result<(), &'static str> {
    let kind = json.get("token_type").filter(|kind| !kind.is_null());
    let is = |name: &str| kind.and_then(Value::as_str).is_some_and(|kind| kind.eq_ignore_ascii_case(name));
    match (wanted.scheme, wanted.exchange) {
        (Scheme::Bearer, _) if kind.is_none() || is("bearer") => Ok(()),
        (Scheme::Bearer, _) if is("dpop") => {
            Err("its token_type is DPoP, and nobody asked for that (set dpop: true)")
        }
        (Scheme::Bearer, Some(requested)) if is("n_a") => not_for_access(json, requested),
        (Scheme::Bearer, _) => Err("its token_type is not Bearer"),
        (Scheme::Dpop, _) if is("dpop") => Ok(()),
        (Scheme::Dpop, _) => Err("its token_type is not DPoP: the server has ignored the proof"),
    }
}

fn token<'j>(json: &'j Map<String, Value>, field: &str) -> Result<&'j str, &'static str> {
    let Some(Value::String(token)) = json.get(field) else {
        return Err(match field {
            ACCESS_TOKEN if json.contains_key(ID_TOKEN) => {
                "it holds an id_token and no access_token (token_field: id_token takes that)"
            }
            ACCESS_TOKEN => "it holds no access_token",
            ID_TOKEN => "it holds no id_token",
            _ => "it holds no text under the name that token_field says",
        });
    };
    if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
        return Err("its token is empty or longer than 16 KiB");
    }
    // Wider than RFC 6750's b64token, as real tokens are, yet nothing that could end a header.
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("its token holds characters that no token holds");
    }
    Ok(token)
}

/// `N_A` says that the token opens nothing by itself (RFC 8693 §2.2.1). Whoever asked for such a type by
/// name knows an API that takes it all the same.
fn not_for_access(json: &Map<String, Value>, requested: Option<&str>) -> Result<(), &'static str> {
    let issued = json.get("issued_token_type").and_then(Value::as_str);
    if requested.is_some() && issued == requested {
        return Ok(());
    }
    Err("its token_type is N_A, so it gives no access (if the API takes such a token, name its type in \
         requested_token_type)")
}

/// RFC 8693 §2.2.1: REQUIRED. A server that leaves it out has not understood that it is an exchange.
fn issued_type(json: &Map<String, Value>) -> Result<(), &'static str> {
    match json.get("issued_token_type") {
        Some(Value::String(kind)) if kind == REFRESH_TOKEN_TYPE => {
            Err("it issued a refresh token, which no API takes (choose another requested_token_type)")
        }
        Some(Value::String(_)) => Ok(()),
        _ => Err("it holds no issued_token_type, which every token exchange tells (RFC 8693 §2.2.1)"),
    }
}

/// What a JWT says about its own life, unverified: a hint for when to ask again.
///
/// The span between `iat` and `exp` is the issuer's; the one from now on suffers from our clock. The
/// shorter one is the safer.
fn own_lifetime(token: &str) -> Option<Duration> {
    let claims = unverified_claims(token)?;
    let end = claims.get("exp").and_then(seconds)?;
    let now = clock::wall().duration_since(std::time::UNIX_EPOCH).ok()?;
    let from_now = end.checked_sub(now).filter(|left| !left.is_zero())?;
    let whole = claims.get("iat").and_then(seconds).and_then(|start| end.checked_sub(start));
    Some(whole.map_or(from_now, |whole| whole.min(from_now)).min(LIFETIME_MAX))
}

/// The body as JSON: some servers answer in the form that requests have, as RFC 6749's drafts did.
pub fn as_json(content_type: Option<&HeaderValue>, body: Vec<u8>) -> Vec<u8> {
    let kind = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_form = kind == "application/x-www-form-urlencoded";
    if !is_form && kind != "text/plain" || body.first().is_none_or(|first| *first == b'{') {
        return body;
    }
    let members: Map<String, Value> = form_urlencoded::parse(&body)
        .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
        .collect();
    // Any text can be read as a form, so one that is not said to be must look like an answer.
    let is_answer = || [ACCESS_TOKEN, ID_TOKEN, "error"].iter().any(|name| members.contains_key(*name));
    if is_form || is_answer() { Value::Object(members).to_string().into_bytes() } else { body }
}

/// `expires_in`, else `expires_on` of Entra v1 and managed identities, as a span from now.
fn lifetime(json: &Map<String, Value>) -> Option<Duration> {
    if let Some(span) = json.get("expires_in").and_then(seconds) {
        return Some(span.min(LIFETIME_MAX));
    }
    let until = json.get("expires_on")?;
    let until = seconds(until).or_else(|| dates::since_1970(until.as_str()?))?;
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
    Duration::try_from_secs_f64(number.clamp(0.0, 1e11)).ok()
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
        assert_eq!(lifetime_of(r#","expires_in":1e300"#), LIFETIME_MAX);
        // Milliseconds, or a date: no span that anybody means. It used to be taken at its word.
        for absurd in ["1e9", "1764417600", "3600000000", r#""9999999999""#] {
            assert_eq!(lifetime_of(&format!(r#","expires_in":{absurd}"#)), LIFETIME_MAX, "{absurd}");
        }
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
        for none in ["null", r#""""#] {
            let body = format!(r#"{{"error":{none},"access_token":"t"}}"#);
            assert!(check(200, &body).is_ok(), "some write every member, {none}");
        }
    }

    fn check_as(wanted: &Wanted<'_>, body: &str) -> Result<Accepted, ExchangeError> {
        let reply = Reply { status: StatusCode::OK, retry_after: None, body: body.as_bytes().to_vec() };
        read_as(wanted, &reply, &[])
    }

    fn jwt(claims: &Value) -> String {
        use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
        format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    #[test]
    fn another_member_holds_the_token_when_the_profile_says_so() {
        let wanted = |field| Wanted {
            field,
            scheme: Scheme::Bearer,
            default_ttl: TTL,
            believes_token: true,
            exchange: None,
        };
        let both = r#"{"id_token":"i","access_token":"a","sessionKey":"s"}"#;
        for (field, token) in [("id_token", "i"), ("access_token", "a"), ("sessionKey", "s")] {
            assert_eq!(check_as(&wanted(field), both).unwrap().access_token.expose(), token);
        }
        for (field, body, words) in [
            ("access_token", r#"{"id_token":"i"}"#, "token_field: id_token takes that"),
            ("id_token", r#"{"access_token":"a"}"#, "no id_token"),
            ("sessionKey", r#"{"sessionKey":7}"#, "the name that token_field says"),
        ] {
            let error = check_as(&wanted(field), body).err().unwrap();
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn a_token_tells_its_life_where_the_answer_does_not() {
        let now = clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let life = |claims: Value, believes_token| {
            let wanted = Wanted {
                field: "id_token",
                scheme: Scheme::Bearer,
                default_ttl: TTL,
                believes_token,
                exchange: None,
            };
            let body = serde_json::json!({"id_token": jwt(&claims)}).to_string();
            check_as(&wanted, &body).unwrap().lifetime.as_secs()
        };
        assert!((3590..=3600).contains(&life(serde_json::json!({"exp": now + 3600}), true)));
        // Our clock is behind the issuer's: what it says of the span counts.
        assert_eq!(life(serde_json::json!({"iat": now + 600, "exp": now + 4200}), true), 3600);
        assert_eq!(life(serde_json::json!({"exp": now + 3600}), false), 300);
        assert_eq!(life(serde_json::json!({"exp": now - 5}), true), 300);
        assert_eq!(life(serde_json::json!({"exp": "never"}), true), 300);
    }

    #[test]
    fn an_exchange_must_say_what_it_issued_and_give_what_opens_something() {
        const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
        let wanted = |requested| Wanted {
            field: ACCESS_TOKEN,
            scheme: Scheme::Bearer,
            default_ttl: TTL,
            believes_token: false,
            exchange: Some(requested),
        };
        let body = |kind: &str, issued: &str| {
            format!(r#"{{"access_token":"t","token_type":"{kind}","issued_token_type":"{issued}"}}"#)
        };
        let access = "urn:ietf:params:oauth:token-type:access_token";
        assert!(check_as(&wanted(None), &body("Bearer", access)).is_ok());
        assert!(check_as(&wanted(Some(JWT)), &body("N_A", JWT)).is_ok(), "it was asked for by name");
        for (requested, body, words) in [
            (None, r#"{"access_token":"t","token_type":"Bearer"}"#.to_owned(), "no issued_token_type"),
            (None, body("N_A", JWT), "token_type is N_A"),
            (Some(JWT), body("N_A", access), "token_type is N_A"),
            (None, body("Bearer", REFRESH_TOKEN_TYPE), "refresh token"),
            (None, body("mac", access), "not Bearer"),
        ] {
            let error = check_as(&wanted(requested), &body).err().unwrap();
            assert!(error.to_string().contains(words), "{error}");
        }
        // Without an exchange, N_A is one more type that is not Bearer.
        assert!(check(200, &body("N_A", JWT)).is_err());
    }

    #[test]
    fn an_answer_in_the_form_of_requests_is_read_when_its_type_says_so() {
        let form = b"access_token=t%2B1&token_type=bearer&expires_in=60".to_vec();
        let json = |kind: &'static str| as_json(Some(&HeaderValue::from_static(kind)), form.clone());
        for kind in ["application/x-www-form-urlencoded; charset=utf-8", "text/plain"] {
            let reply = Reply { status: StatusCode::OK, retry_after: None, body: json(kind) };
            let accepted = read(&reply, Scheme::Bearer, TTL, &[]).unwrap();
            assert_eq!((accepted.access_token.expose(), accepted.lifetime.as_secs()), ("t+1", 60));
        }
        assert_eq!(json("text/html"), form);
        assert_eq!(as_json(None, form.clone()), form);
        let json = br#"{"access_token":"t"}"#.to_vec();
        assert_eq!(as_json(Some(&HeaderValue::from_static("text/plain")), json.clone()), json);
    }
}
