//! Answers of a token endpoint: a token fits a header, and no error repeats the secret that was sent.

use std::time::Duration;

use http::{HeaderValue, StatusCode};

use crate::{
    profile::answer::{Reply, Scheme, Wanted, as_json, read_as},
    secret::Secret,
};

const SECRET: &str = "canary+5f3a/9c=";
/// Stands for the secret in inputs, so that they need not know it.
const MARK: &str = "SECRET";
const STATUSES: [u16; 8] = [200, 201, 400, 401, 403, 429, 500, 503];

/// The first byte chooses the status and what is expected; the rest is the body.
pub(super) fn target(input: &[u8]) {
    let Some((choice, body)) = input.split_first() else { return };
    let status = STATUSES.get(usize::from(*choice) % STATUSES.len()).copied().unwrap_or(200);
    let text = String::from_utf8_lossy(body);
    let body = if text.contains(MARK) { text.replace(MARK, SECRET).into_bytes() } else { body.to_vec() };
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    let body = as_json((choice & 0x08 != 0).then_some(&form), body);
    let wanted = Wanted {
        field: if choice & 0x10 == 0 { "access_token" } else { "id_token" },
        scheme: Scheme::Bearer,
        default_ttl: Duration::from_secs(300),
        believes_token: choice & 0x20 != 0,
        exchange: (choice & 0x40 != 0).then_some(Some("urn:ietf:params:oauth:token-type:jwt")),
    };
    let reply = Reply {
        status: StatusCode::from_u16(status).unwrap_or_default(),
        retry_after: (choice & 0x80 != 0).then_some(Duration::from_secs(1)),
        body,
    };
    let secret = Secret::new(SECRET.to_owned());
    match read_as(&wanted, &reply, &[secret]) {
        Ok(accepted) => {
            assert!(reply.status.is_success(), "a token in an answer of status {status}");
            let token = accepted.access_token.expose();
            assert!(!token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()), "{token:?}");
            assert!(HeaderValue::from_str(&format!("Bearer {token}")).is_ok(), "{token:?} fits no header");
            // Deadlines are sums with now: they must not overflow.
            assert!(accepted.lifetime <= Duration::from_secs(366 * 86_400), "{:?}", accepted.lifetime);
            assert!(accepted.refresh_in.is_none_or(|span| !span.is_zero()));
        }
        Err(error) => {
            for text in [error.to_string(), format!("{error:?}")] {
                assert!(!text.contains(SECRET), "the secret is in {text}");
                assert!(text.chars().all(|c| !c.is_control()), "a control character is in {text:?}");
            }
        }
    }
}
