//! WebSocket handshakes: RFC 6455 over HTTP/1.1, RFC 8441 over HTTP/2, and from one to the other.
//!
//! WebSocket is the only protocol that a connection may be upgraded to. The caller's key and the
//! upstream's proof pass through where both speak the same HTTP; else this gateway makes them.

use aws_lc_rs::digest;
use base64::{Engine, prelude::BASE64_STANDARD};
use h2::ext::Protocol;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, TE, TRANSFER_ENCODING, UPGRADE,
    },
    request,
};

use crate::proxy::{
    fault::{BadRequest, Fault, RefusedMethod},
    notable::Notable,
    settings::Http2Offers,
};

const WEBSOCKET: &str = "websocket";
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
/// RFC 6455 §1.3.
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A caller's wish for a WebSocket.
pub struct Handshake {
    /// What the upstream has to prove that it has read; the caller's on HTTP/1.1.
    key: HeaderValue,
    /// Whether the caller has asked over HTTP/2.
    is_http2: bool,
}

/// Takes the wish out of `head`, which is then that of a plain GET.
///
/// # Errors
/// A CONNECT that is no WebSocket's.
pub fn take(head: &mut request::Parts, found: Notable) -> Result<Option<Handshake>, Fault> {
    if head.version == Version::HTTP_2 {
        return take_http2(head);
    }
    if !found.has(Notable::UPGRADE) {
        return Ok(None);
    }
    let mut wishes = head.headers.get_all(UPGRADE).iter();
    let is_websocket = match (wishes.next(), wishes.next()) {
        (Some(wish), None) => wish.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()),
        _ => false,
    };
    let is_wanted = is_websocket
        && head.method == Method::GET
        && head.version == Version::HTTP_11
        && names(&head.headers, &CONNECTION, "upgrade");
    let key = head.headers.get(SEC_WEBSOCKET_KEY).filter(|_| is_wanted).cloned();
    Ok(key.map(|key| Handshake { key, is_http2: false }))
}

fn take_http2(head: &mut request::Parts) -> Result<Option<Handshake>, Fault> {
    if head.method != Method::CONNECT {
        return Ok(None);
    }
    match head.extensions.remove::<Protocol>() {
        Some(protocol) if protocol.as_str() == WEBSOCKET => {
            head.method = Method::GET;
            let key = BASE64_STANDARD.encode(fastrand::u128(..).to_be_bytes());
            let key = HeaderValue::from_str(&key).expect("base64 is legal in a header");
            Ok(Some(Handshake { key, is_http2: true }))
        }
        _ => Err(Fault::MethodRefused(RefusedMethod::Never(Method::CONNECT))),
    }
}

/// What becomes of an offer to go on in HTTP/2 (RFC 7540 §3.2, made obsolete by RFC 9113). It never gets
/// through: the upstream's connection would be anybody's to write on. A route may have it ignored
/// (RFC 9110 §7.8) for callers that make it with every request, such as Java's HttpClient.
///
/// # Errors
/// [`BadRequest::Upgrade`] unless it is ignored.
pub fn decline_http2(headers: &mut HeaderMap, found: Notable, offers: Http2Offers) -> Result<(), Fault> {
    if !found.has(Notable::UPGRADE.with(Notable::HTTP2_SETTINGS)) {
        return Ok(());
    }
    if !headers.contains_key(HTTP2_SETTINGS) && !names(headers, &UPGRADE, "h2c") {
        return Ok(());
    }
    headers.remove(HTTP2_SETTINGS);
    match offers {
        Http2Offers::Refuse => Err(Fault::BadRequest(BadRequest::Upgrade)),
        Http2Offers::Ignore => Ok(()),
    }
}

/// The wish, if the route grants it. Without it an HTTP/1.1 request is one like any other; an HTTP/2 one
/// is nothing at all.
///
/// # Errors
/// [`Fault::MethodRefused`] for an HTTP/2 caller.
pub fn allowed(wish: Option<Handshake>, is_allowed: bool) -> Result<Option<Handshake>, Fault> {
    match wish {
        Some(wish) if is_allowed => Ok(Some(wish)),
        Some(wish) if wish.is_http2 => Err(Fault::MethodRefused(RefusedMethod::WebSocket)),
        _ => Ok(None),
    }
}

/// Whether a field's list holds `word`.
fn names(headers: &HeaderMap, field: &HeaderName, word: &str) -> bool {
    let mut values = headers.get_all(field).iter().filter_map(|value| value.to_str().ok());
    values.any(|value| value.split(',').any(|item| item.trim().eq_ignore_ascii_case(word)))
}

/// Puts the wish on a prepared request, in the words of the connection's HTTP version.
pub fn put(handshake: &Handshake, head: &mut request::Parts, version: Version) {
    if version == Version::HTTP_2 {
        head.method = Method::CONNECT;
        head.extensions.insert(Protocol::from_static(WEBSOCKET));
        head.headers.remove(SEC_WEBSOCKET_KEY);
    } else {
        // A handshake's answer has no trailers, and `Connection` has one thing to say only.
        head.headers.remove(TE);
        head.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        head.headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
        head.headers.insert(SEC_WEBSOCKET_KEY, handshake.key.clone());
    }
}

/// Whether the upstream has agreed.
///
/// # Errors
/// [`Fault::UpstreamProtocol`] when it says that it has and proves otherwise.
pub fn is_agreed<B>(handshake: &Handshake, response: &Response<B>, version: Version) -> Result<bool, Fault> {
    if version == Version::HTTP_2 {
        return Ok(response.status().is_success());
    }
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // To an HTTP/2 caller a 2xx would mean what only 101 means here.
        let is_taken_for_agreed = handshake.is_http2 && response.status().is_success();
        return if is_taken_for_agreed { Err(Fault::UpstreamProtocol) } else { Ok(false) };
    }
    let headers = response.headers();
    let proof = headers.get(SEC_WEBSOCKET_ACCEPT);
    let is_proven = !handshake.is_http2 || proof.is_some_and(|p| *p == proof_of(&handshake.key));
    if names(headers, &UPGRADE, WEBSOCKET) && is_proven { Ok(true) } else { Err(Fault::UpstreamProtocol) }
}

/// RFC 6455 §4.2.2: what shows that a key has been read.
fn proof_of(key: &HeaderValue) -> HeaderValue {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(ACCEPT_SUFFIX);
    let proof = BASE64_STANDARD.encode(context.finish());
    HeaderValue::from_str(&proof).expect("base64 is legal in a header")
}

/// Turns an upstream's agreement, whose header has been prepared for the caller, into what the caller's
/// HTTP version says.
pub fn answer<B>(handshake: &Handshake, response: &mut Response<B>) {
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
    if handshake.is_http2 {
        headers.remove(SEC_WEBSOCKET_ACCEPT);
        *response.status_mut() = StatusCode::OK;
        return;
    }
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    if !headers.contains_key(SEC_WEBSOCKET_ACCEPT) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, proof_of(&handshake.key));
    }
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_is_that_of_the_rfc() {
        // RFC 6455 §1.3.
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(proof_of(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    fn wish(version: Version, method: &str, pairs: &[(&str, &str)]) -> Result<bool, u16> {
        let mut request = http::Request::builder().method(method).version(version);
        for (name, value) in pairs {
            request = request.header(*name, *value);
        }
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        let found = Notable::of(&head.headers);
        take(&mut head, found).map(|wish| wish.is_some()).map_err(|fault| fault.status().as_u16())
    }

    #[test]
    fn only_a_websocket_is_an_upgrade() {
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let up = ("connection", "keep-alive, Upgrade");
        let ws = ("upgrade", "WebSocket");
        let v11 = Version::HTTP_11;
        assert_eq!(wish(v11, "GET", &[up, ws, key]), Ok(true));
        assert_eq!(wish(v11, "POST", &[up, ws, key]), Ok(false));
        assert_eq!(wish(v11, "GET", &[ws, key]), Ok(false), "Connection does not name it");
        assert_eq!(wish(v11, "GET", &[up, ws]), Ok(false), "no key");
        assert_eq!(wish(v11, "GET", &[up, ("upgrade", "TLS/1.0"), key]), Ok(false));
        assert_eq!(wish(v11, "GET", &[up, ("upgrade", "websocket, h2c"), key]), Ok(false));
        assert_eq!(wish(v11, "GET", &[up, ("upgrade", "h2c"), key]), Ok(false));
        assert_eq!(wish(Version::HTTP_10, "GET", &[up, ws, key]), Ok(false));
        assert_eq!(wish(Version::HTTP_2, "CONNECT", &[]), Err(405));
    }

    #[test]
    fn an_offer_of_http2_never_gets_through() {
        for (name, value) in [("upgrade", "foo, H2C"), ("http2-settings", "AAMAAABkAAQAAP__")] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            let found = Notable::of(&headers);
            let refused = decline_http2(&mut headers.clone(), found, Http2Offers::Refuse);
            assert_eq!(refused.map_err(|fault| fault.status().as_u16()), Err(400), "{name}");
            assert!(decline_http2(&mut headers, found, Http2Offers::Ignore).is_ok());
            assert!(!headers.contains_key("http2-settings"));
        }
    }
}
