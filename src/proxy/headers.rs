//! Header rules of RFC 9110 §7.6 and of a gateway that holds credentials, in one fixed order:
//! what belongs to a connection goes off, then the caller's credentials, then ours go on.
//!
//! The order is the point: ours go on last, so nothing that a caller sends can take them off again.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Version,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, MAX_FORWARDS,
        PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
        WWW_AUTHENTICATE,
    },
    request,
};

use crate::{
    proxy::{
        credentials::Slots,
        fault::{BadRequest, Fault},
        forwarded::{self, Source},
        notable::{self, Notable},
        settings::{Forwarding, Underscores},
    },
    route::authority,
};

/// The correlation id of a request, taken over from the caller or made.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Fields of one connection.
const ANY_HOP_BY_HOP: Notable = Notable::CONNECTION
    .with(Notable::HOP_BY_HOP)
    .with(Notable::TE)
    .with(Notable::TRAILER)
    .with(Notable::UPGRADE);

/// A caller's id is taken over up to this length.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The one host a request is for: `Host`, or the target's authority when it has one.
///
/// # Errors
/// [`BadRequest`] when there is not exactly one, when it is malformed, or when the two differ
/// (RFC 9112 §3.2).
pub fn host(head: &request::Parts, is_tls: bool) -> Result<&str, BadRequest> {
    let request::Parts { uri, version, headers, .. } = head;
    let (scheme, port) = if is_tls { ("https", 443) } else { ("http", 80) };
    let mut fields = headers.get_all(HOST).iter();
    let target = match uri.authority() {
        None => None,
        Some(named) => {
            if uri.scheme_str() != Some(scheme) {
                return Err(BadRequest::Target);
            }
            Some(authority::parse(named.as_str().as_bytes()).map_err(BadRequest::Host)?)
        }
    };
    let Some(field) = fields.next() else {
        // HTTP/1.0 knows no Host (RFC 9112 §3.2 demands it of HTTP/1.1 only), HTTP/2 has an own field.
        return match (*version, target) {
            (Version::HTTP_10, None) => Ok(""),
            (Version::HTTP_10 | Version::HTTP_2, Some(target)) => Ok(target.host),
            _ => Err(BadRequest::HostCount),
        };
    };
    if fields.next().is_some() {
        return Err(BadRequest::HostCount);
    }
    let field = authority::parse(field.as_bytes()).map_err(BadRequest::Host)?;
    match target {
        Some(target) if !authority::same(&target, &field, port) => Err(BadRequest::HostMismatch),
        _ => Ok(field.host),
    }
}

/// Names that no `Connection` field may carry away: they are no connection's business.
fn is_protected(name: &str) -> bool {
    const NAMES: [&str; 8] =
        ["host", "authorization", "cookie", "via", "forwarded", "x-request-id", "date", "expect"];
    let lower = name.to_ascii_lowercase();
    NAMES.contains(&lower.as_str())
        || lower == COOKIE.as_str()
        || lower.starts_with("content-")
        || lower == "transfer-encoding"
        || lower.starts_with("x-forwarded-")
}

/// Takes off what belongs to one connection (RFC 9110 §7.6.1), both directions. With `protected`, of a
/// caller's: there these names are no connection's business either.
fn take_off_hop_by_hop(
    headers: &mut HeaderMap,
    found: Notable,
    protected: Option<&Slots>,
    keep_trailer: bool,
) -> Result<(), BadRequest> {
    // A list of names with drops is dear to build for each header.
    static NAMED: [(Notable, HeaderName); 4] = [
        (Notable::CONNECTION, CONNECTION),
        (Notable::TE, TE),
        (Notable::TRAILER, TRAILER),
        (Notable::UPGRADE, UPGRADE),
    ];
    let protect = protected.is_some();
    if !found.has(ANY_HOP_BY_HOP) {
        return Ok(());
    }
    let mut nominated: Vec<HeaderName> = Vec::new();
    for value in headers.get_all(CONNECTION) {
        // Nearly always it says this alone.
        if value.as_bytes().eq_ignore_ascii_case(b"keep-alive") {
            continue;
        }
        let Ok(value) = value.to_str() else {
            if protect {
                return Err(BadRequest::Nomination);
            }
            continue;
        };
        for name in value.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if name.eq_ignore_ascii_case("close") || name.eq_ignore_ascii_case("keep-alive") {
                continue;
            }
            // Framing is made anew on the other side, so naming it here changes nothing.
            if name.eq_ignore_ascii_case("transfer-encoding") && !protect {
                continue;
            }
            if is_protected(name) || protected.is_some_and(|slots| slots.has_field(name)) {
                if protect {
                    return Err(BadRequest::Nomination);
                }
                continue;
            }
            match name.parse() {
                Ok(name) => nominated.push(name),
                // An upstream's nonsense is worth no fault, and no less is taken off for it.
                Err(_) if !protect => {}
                Err(_) => return Err(BadRequest::Nomination),
            }
        }
    }
    for name in nominated {
        headers.remove(name);
    }
    if found.has(Notable::HOP_BY_HOP) {
        let names =
            [KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TRANSFER_ENCODING];
        names.iter().for_each(|name| drop(headers.remove(name)));
    }
    for (field, name) in &NAMED {
        if found.has(*field) && !(keep_trailer && *name == TRAILER) {
            headers.remove(name);
        }
    }
    Ok(())
}

/// What goes on a request to an upstream.
pub struct Outgoing<'a> {
    /// What the caller's header has that the rules know.
    pub found: Notable,
    /// The upstream's `Host`.
    pub host: &'a HeaderValue,
    /// Sends the caller's `Host` instead, if it has one.
    pub preserve_host: bool,
    /// Lets the caller's own `Authorization` through.
    pub pass_authorization: bool,
    /// This gateway's entry for `Via`.
    pub via: &'a HeaderValue,
    /// The pseudonym in it, by which a loop is noticed.
    pub pseudonym: &'a str,
    /// The request's id.
    pub request_id: &'a HeaderValue,
    /// The protocol that the request came in.
    pub version: Version,
    /// What becomes of names with an underscore.
    pub underscores: Underscores,
    /// How the upstream is told where the request comes from.
    pub forwarded: Forwarding,
    /// Where it comes from.
    pub source: Source<'a>,
    /// Where our credentials go beside `Authorization`.
    pub slots: &'a Slots,
}

/// Turns a caller's header fields into those for the upstream, all but our own credential, which
/// [`Credentials::put_on`](crate::proxy::credentials::Credentials::put_on) puts on each attempt.
///
/// # Errors
/// [`Fault`] for a nomination that no connection owns, a loop, an expectation we cannot keep, or a name
/// that an upstream could take for another.
pub fn prepare(headers: &mut HeaderMap, outgoing: &Outgoing<'_>) -> Result<(), Fault> {
    let found = outgoing.found;
    if outgoing.underscores == Underscores::Refuse && found.has(Notable::UNDERSCORE) {
        return Err(Fault::BadRequest(BadRequest::Underscore));
    }
    let wants_trailers = found.has(Notable::TE) && wants_trailers(headers);
    let is_unknown = |expect: &HeaderValue| !expect.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if found.has(Notable::EXPECT) && headers.get_all(EXPECT).iter().any(is_unknown) {
        return Err(Fault::BadRequest(BadRequest::Expectation));
    }
    take_off_hop_by_hop(headers, found, Some(outgoing.slots), false).map_err(Fault::BadRequest)?;
    // Framing is made anew from the body; 100-continue was answered by this gateway's own reader.
    for (field, name) in [(Notable::CONTENT_LENGTH, CONTENT_LENGTH), (Notable::EXPECT, EXPECT)] {
        if found.has(field) {
            headers.remove(name);
        }
    }
    if !outgoing.pass_authorization && found.has(Notable::AUTHORIZATION) {
        headers.remove(AUTHORIZATION);
    }
    outgoing.slots.strip(headers);
    if found.has(Notable::UNDERSCORE) {
        take_off_resembling(headers, outgoing.source.is_trusted);
    }
    let is_ours =
        |via: &HeaderValue| memchr::memmem::find(via.as_bytes(), outgoing.pseudonym.as_bytes()).is_some();
    if found.has(Notable::VIA) && headers.get_all(VIA).iter().any(is_ours) {
        return Err(Fault::Loop);
    }
    headers.append(VIA, outgoing.via.clone());
    if outgoing.forwarded != Forwarding::Off || found.has(Notable::FORWARDING) {
        forwarded::tell(headers, outgoing.forwarded, &outgoing.source);
    }
    if wants_trailers {
        headers.insert(TE, TRAILERS);
    }
    if !outgoing.preserve_host || !headers.contains_key(HOST) {
        headers.insert(HOST, outgoing.host.clone());
    }
    headers.insert(REQUEST_ID, outgoing.request_id.clone());
    Ok(())
}

/// Takes off names with an underscore that could pass for what only this gateway says, or for a connection's own.
/// What a trusted caller says of where a request comes from may be spelled like this.
fn take_off_resembling(headers: &mut HeaderMap, is_trusted: bool) {
    const OURS: Notable = ANY_HOP_BY_HOP.with(Notable::REQUEST_ID);
    let taken = if is_trusted { OURS } else { OURS.with(Notable::FORWARDING) };
    let resembling = |name: &&HeaderName| notable::resembles(name.as_str()).has(taken);
    let names: Vec<HeaderName> = headers.keys().filter(resembling).cloned().collect();
    names.iter().for_each(|name| drop(headers.remove(name)));
}

/// Counts this hop of a request that says how many it may take (RFC 9110 §7.6.2).
///
/// # Errors
/// [`Fault::LastHop`] when it may take no more, and a number that is none.
pub fn count_forwards(headers: &mut HeaderMap) -> Result<(), Fault> {
    let Some(left) = headers.get(MAX_FORWARDS) else { return Ok(()) };
    let left: Option<u32> = left.to_str().ok().and_then(|text| text.parse().ok());
    let next =
        left.ok_or(Fault::BadRequest(BadRequest::MaxForwards))?.checked_sub(1).ok_or(Fault::LastHop)?;
    headers.insert(MAX_FORWARDS, HeaderValue::from(next));
    Ok(())
}

/// Whether the caller can read trailers (RFC 9110 §10.1.4).
pub fn wants_trailers(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(TE).iter().filter_map(|value| value.to_str().ok());
    values.any(|value| value.split(',').any(|word| word.trim().eq_ignore_ascii_case("trailers")))
}

/// Whether it is a gRPC call. Every kind has its name in front: `application/grpc`, `application/grpc+proto`.
/// It is POST over HTTP/2 and nothing else: to any other caller a fault inside of a 200 would pass for an
/// answer.
pub fn is_grpc<B>(request: &Request<B>) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    if request.version() != Version::HTTP_2 || request.method() != Method::POST {
        return false;
    }
    match request.headers().get(CONTENT_TYPE).and_then(|kind| kind.as_bytes().strip_prefix(GRPC)) {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';')),
        None => false,
    }
}

/// HTTP/2 callers may send a cookie in crumbs, which are one field to everybody else (RFC 9113 §8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().count() < 2 {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(b"; ".as_slice())) {
        headers.insert(COOKIE, cookie);
    }
}

/// Turns an upstream's header fields into those for the caller. `Trailer` stays for one that can read
/// trailers and needs to be told of them.
pub fn answer(headers: &mut HeaderMap, request_id: &HeaderValue, keep_trailer: bool) {
    informational(headers, keep_trailer);
    headers.insert(REQUEST_ID, request_id.clone());
}

/// The same for a response that only informs: it has no id.
pub fn informational(headers: &mut HeaderMap, keep_trailer: bool) {
    let found = interim(headers, keep_trailer);
    // Only this gateway speaks in its own name (RFC 9209 §2).
    let is_ours = |status: &HeaderValue| memchr::memmem::find(status.as_bytes(), b"keybearer").is_some();
    if found.has(Notable::PROXY_STATUS) && headers.get_all(PROXY_STATUS).iter().any(is_ours) {
        headers.remove(PROXY_STATUS);
    }
    if found.has(Notable::REQUEST_ID) {
        headers.remove(REQUEST_ID);
    }
}

/// Takes off a response's header what belongs to the upstream's connection. Gives what it had.
pub fn interim(headers: &mut HeaderMap, keep_trailer: bool) -> Notable {
    let found = Notable::of(headers);
    take_off_hop_by_hop(headers, found, None, keep_trailer).expect("only what callers send is refused");
    found
}

/// Says that a 401 is about this gateway's credential, so that no caller takes it for its own.
pub fn disown_challenge(headers: &mut HeaderMap) {
    const WORDS: &str = "keybearer; received-status=401; \
                         details=\"the upstream refused the gateway's credential, not the caller's\"";
    headers.append(PROXY_STATUS, HeaderValue::from_static(WORDS));
}

/// Whether a name is none, as it holds a `"` (RFC 9110 §5.1). Only over HTTP/2 does the library take one, and
/// no other octet that it should not; over HTTP/1.1 there is no need to look.
pub fn has_quoted_name(headers: &HeaderMap) -> bool {
    headers.keys().any(is_quoted)
}

/// Takes off what [`has_quoted_name`] looks for.
pub fn take_off_quoted_names(headers: &mut HeaderMap) {
    let quoted: Vec<HeaderName> = headers.keys().filter(|name| is_quoted(name)).cloned().collect();
    quoted.iter().for_each(|name| drop(headers.remove(name)));
}

fn is_quoted(name: &HeaderName) -> bool {
    memchr::memchr(b'"', name.as_str().as_bytes()).is_some()
}

/// Takes out of an answer's trailers what must not come so late (RFC 9110 §6.5.1).
pub fn trailers(trailers: &mut HeaderMap) {
    let late = [AUTHORIZATION, CONTENT_LENGTH, COOKIE, HOST, SET_COOKIE, WWW_AUTHENTICATE, PROXY_STATUS];
    take_off_quoted_names(trailers);
    interim(trailers, false);
    late.iter().for_each(|name| drop(trailers.remove(name)));
}

/// Takes over the caller's request id when it is short and harmless, else makes one.
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    match headers.get(REQUEST_ID) {
        Some(given)
            if !given.is_empty()
                && given.len() <= REQUEST_ID_BYTES_MAX
                && given.as_bytes().iter().all(|b| b.is_ascii_graphic() && *b != b'"') =>
        {
            given.clone()
        }
        _ => made_id(),
    }
}

/// A random id.
pub fn made_id() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let random = fastrand::u128(..).to_be_bytes();
    let mut text = [0u8; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(random) {
        for (digit, nibble) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
            *digit = DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
        }
    }
    HeaderValue::from_bytes(&text).expect("hexadecimal digits are legal in a header")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::credential::Slot;

    fn fields(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn prepared(pairs: &[(&str, &str)]) -> Result<HeaderMap, Fault> {
        prepared_with(Underscores::Refuse, pairs)
    }

    fn prepared_with(underscores: Underscores, pairs: &[(&str, &str)]) -> Result<HeaderMap, Fault> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let mut slots = Slots::default();
        slots.add(Slot::Header(HeaderName::from_static("x-api-key")));
        let outgoing = Outgoing {
            found: Notable::of(&headers),
            host: &HeaderValue::from_static("api.internal"),
            preserve_host: false,
            pass_authorization: false,
            via: &HeaderValue::from_static("1.1 kb-1"),
            pseudonym: "kb-1",
            request_id: &HeaderValue::from_static("id"),
            version: Version::HTTP_2,
            underscores,
            forwarded: Forwarding::Off,
            source: Source { address: None, is_trusted: false, is_tls: false, host: None },
            slots: &slots,
        };
        prepare(&mut headers, &outgoing)?;
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer ours"));
        Ok(headers)
    }

    #[test]
    fn exactly_one_authorization_leaves_and_it_is_ours() {
        let sent = prepared(&[
            ("authorization", "Basic theirs"),
            ("authorization", "Bearer theirs"),
            ("proxy-authorization", "Basic theirs"),
            ("accept", "*/*"),
        ])
        .unwrap();
        assert_eq!(sent.get_all(AUTHORIZATION).iter().collect::<Vec<_>>(), ["Bearer ours"]);
        assert!(!sent.contains_key(PROXY_AUTHORIZATION));
        assert_eq!(sent[HOST], "api.internal");
        assert_eq!(sent["accept"], "*/*");
    }

    #[test]
    fn what_only_the_gateway_says_is_taken_off_also_where_it_is_spelled_with_underscores() {
        let spelled = ["X_Forwarded_For", "X-Real_Ip", "x_request_id", "Proxy_Authorization", "keep_alive"];
        let mut pairs = spelled.map(|name| (name, "theirs")).to_vec();
        pairs.extend([("x_forwarded", "kept"), ("plain_name", "kept")]);
        let sent = prepared_with(Underscores::Allow, &pairs).unwrap();
        assert!(spelled.iter().all(|name| !sent.contains_key(*name)), "{sent:?}");
        assert_eq!(sent.values().filter(|value| *value == "kept").count(), 2);
        assert_eq!(sent[&REQUEST_ID], "id");
    }

    #[test]
    fn an_informational_response_speaks_in_nobodys_name() {
        let mut hints = fields(&[
            ("link", "</a.css>"),
            ("proxy-status", "keybearer; error=\"x\""),
            ("x-request-id", "theirs"),
            ("keep-alive", "timeout=5"),
        ]);
        informational(&mut hints, false);
        assert_eq!(hints, fields(&[("link", "</a.css>")]));
        let mut others = fields(&[("proxy-status", "cdn; hit")]);
        informational(&mut others, false);
        assert_eq!(others.len(), 1);
    }

    #[test]
    fn what_belongs_to_the_connection_and_what_it_names_stays_behind() {
        let sent = prepared(&[
            ("connection", "x-hop, keep-alive"),
            ("connection", "X-Other"),
            ("x-hop", "1"),
            ("x-other", "1"),
            ("x-kept", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("content-length", "5"),
            ("expect", "100-continue"),
        ])
        .unwrap();
        let mut names: Vec<&str> = sent.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["authorization", "host", "via", "x-kept", "x-request-id"]);
    }

    #[test]
    fn a_connection_field_cannot_carry_away_what_must_arrive() {
        for name in [
            "authorization",
            "Host",
            "Cookie",
            "content-type",
            "transfer-encoding",
            "x-request-id",
            "via",
            "X-Api-Key",
        ] {
            let refused = prepared(&[("connection", name)]);
            assert!(matches!(refused, Err(Fault::BadRequest(BadRequest::Nomination))), "{name}");
        }
    }

    #[test]
    fn our_own_pseudonym_in_via_is_a_loop() {
        assert!(matches!(prepared(&[("via", "1.1 other, 1.1 kb-1")]), Err(Fault::Loop)));
        let sent = prepared(&[("via", "1.1 other")]).unwrap();
        assert_eq!(sent.get_all(VIA).iter().collect::<Vec<_>>(), ["1.1 other", "1.1 kb-1"]);
    }

    #[test]
    fn a_name_with_an_underscore_is_refused() {
        let refused = prepared(&[("x_admin", "1")]);
        assert!(matches!(refused, Err(Fault::BadRequest(BadRequest::Underscore))));
    }

    #[test]
    fn a_cookie_in_crumbs_is_put_together() {
        let mut sent = HeaderMap::new();
        for crumb in ["a=1", "b=2"] {
            sent.append(COOKIE, HeaderValue::from_static(crumb));
        }
        join_cookies(&mut sent);
        assert_eq!(sent.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn of_te_only_trailers_go_on() {
        assert_eq!(prepared(&[("te", "gzip;q=0.5, Trailers")]).unwrap()[TE], "trailers");
        assert!(!prepared(&[("te", "gzip")]).unwrap().contains_key(TE));
    }

    #[test]
    fn what_must_not_come_late_is_no_trailer() {
        let mut late = fields(&[
            ("grpc-status", "0"),
            ("authorization", "Bearer x"),
            ("set-cookie", "a=b"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("connection", "close"),
        ]);
        trailers(&mut late);
        assert_eq!(late.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["grpc-status"]);
    }

    #[test]
    fn an_unknown_expectation_is_refused() {
        let refused = prepared(&[("expect", "200-ok")]);
        assert!(matches!(refused, Err(Fault::BadRequest(BadRequest::Expectation))));
    }

    #[test]
    fn a_request_is_for_exactly_one_host() {
        let check = |uri: &str, hosts: &[&str], version, expected: Result<&str, ()>| {
            let pairs: Vec<_> = hosts.iter().map(|h| ("host", *h)).collect();
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(name, value.parse().unwrap());
            }
            let (mut head, ()) = Request::new(()).into_parts();
            (head.uri, head.version, head.headers) = (uri.parse().unwrap(), version, headers);
            assert_eq!(host(&head, false).map_err(|_| ()), expected, "{uri} {hosts:?}");
        };
        let v11 = Version::HTTP_11;
        check("/", &["a.example:80"], v11, Ok("a.example"));
        check("/", &[], v11, Err(()));
        check("/", &[], Version::HTTP_10, Ok(""));
        check("/", &["a", "a"], v11, Err(()));
        for bad in ["", "u@a", "a/b", "a,b", "a b", "a:x"] {
            check("/", &[bad], v11, Err(()));
        }
        check("http://a.example/x", &["a.example"], v11, Ok("a.example"));
        check("http://a.example/x", &["A.example:80"], v11, Ok("A.example"));
        check("http://a.example/x", &["b.example"], v11, Err(()));
        check("https://a.example/x", &["a.example"], v11, Err(()));
    }

    #[test]
    fn a_harmless_request_id_is_taken_over_and_any_other_is_replaced() {
        assert_eq!(request_id(&fields(&[("x-request-id", "abc-123")])), "abc-123");
        let long = "a".repeat(200);
        for bad in ["", "a b", "a\"b", long.as_str()] {
            let id = request_id(&fields(&[("x-request-id", bad)]));
            assert_eq!(id.len(), 32, "{bad}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
