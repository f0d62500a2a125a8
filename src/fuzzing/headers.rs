//! Header rules: whatever comes in, each of our credentials leaves once and none of the caller's does, nothing
//! of the caller's connection leaves, and what no rule names arrives unchanged. The same for the query.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, OnceLock},
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Uri, Version,
    header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRANSFER_ENCODING, VIA},
    request,
};

use crate::{
    profile::{
        credential::{Credential, Ready, Slot},
        dpop::{DPOP, Key},
    },
    proxy::{
        credentials::{Credentials, Slots},
        forwarded::{Source, is_forwarding},
        headers::{self, Outgoing, REQUEST_ID},
        notable::Notable,
        query,
        settings::{Forwarding, Underscores},
    },
    secret::Secret,
    upstream::{Origin, Scheme, Upstream, tls::Trust},
};

/// Fields of one connection (RFC 9110 §7.6.1), written down apart from the code under test.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
const OURS: HeaderValue = HeaderValue::from_static("Bearer ours");
const BOUND: HeaderValue = HeaderValue::from_static("DPoP ours");
const KEY: HeaderName = HeaderName::from_static("x-api-key");
const OUR_KEY: HeaderValue = HeaderValue::from_static("our key");
const UPSTREAM: HeaderValue = HeaderValue::from_static("up.example");
const VIA_US: HeaderValue = HeaderValue::from_static("1.1 kb-0123456789ab");
const ID: HeaderValue = HeaderValue::from_static("id-1");

/// The first byte chooses the settings of the route; then each line is one field.
pub(super) fn target(input: &[u8]) {
    let Some((choice, lines)) = input.split_first() else { return };
    let came = fields(lines);
    answers(*choice, came.clone());
    leaves(*choice, &came);
    if let Ok(query) = std::str::from_utf8(lines) {
        query_leaves(query);
    }
}

/// `name: value` lines; what is no field is left out.
fn fields(lines: &[u8]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in lines.split(|b| *b == b'\n').take(100) {
        let mut parts = line.splitn(2, |b| *b == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
        let (name, value) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii()));
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    fields
}

/// Whether a request with these fields is forwarded. Stops when it breaks the contract.
pub(super) fn leaves(choice: u8, came: &HeaderMap) -> bool {
    let is = |bit: u8| choice & (1 << bit) != 0;
    let host = came.get(HOST).cloned();
    let outgoing = Outgoing {
        host: &UPSTREAM,
        preserve_host: is(0),
        pass_authorization: false,
        via: &VIA_US,
        pseudonym: "kb-0123456789ab",
        request_id: &ID,
        found: Notable::of(came),
        version: if is(1) { Version::HTTP_2 } else { Version::HTTP_11 },
        underscores: if is(2) { Underscores::Allow } else { Underscores::Refuse },
        forwarded: match (is(3), is(4)) {
            (false, _) => Forwarding::Off,
            (true, false) => Forwarding::X,
            (true, true) => Forwarding::Rfc7239,
        },
        source: Source {
            address: (!is(5)).then_some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            is_trusted: is(6),
            is_tls: is(7),
            host: host.as_ref(),
        },
        slots: &slots(),
    };
    let mut left = came.clone();
    if headers::prepare(&mut left, &outgoing).is_err() {
        return false;
    }
    let left = with_credentials(left, Uri::from_static("/a")).headers;
    assert_fit_to_leave(came, &left, &outgoing);
    assert_eq!(values(&left, &KEY), [&OUR_KEY], "exactly one key leaves and it is ours");
    assert_eq!(values(&left, &DPOP).len(), 1, "exactly one proof leaves");
    assert_ne!(values(&left, &DPOP), values(came, &DPOP), "the proof is the caller's");
    true
}

/// A bound token, a key in a field and a key in the query: all that a route can have.
fn ready() -> [Ready; 3] {
    static BOUND: OnceLock<Ready> = OnceLock::new();
    let token = || Credential::Dpop(Secret::new("ours".into()), Arc::new(Key::generate())).ready();
    let query = Credential::Query { name: "api_key".into(), value: Secret::new("ours".into()) };
    [BOUND.get_or_init(token).clone(), Ready::Header(KEY, OUR_KEY), query.ready()]
}

fn slots() -> Slots {
    let mut slots = Slots::default();
    [AUTHORIZATION, DPOP, KEY].into_iter().for_each(|name| slots.add(Slot::Header(name)));
    slots.add(Slot::Query("api_key".into()));
    slots
}

fn with_credentials(headers: HeaderMap, target: Uri) -> request::Parts {
    let [token, key, parameter] = ready();
    let credentials = Credentials::made((1, &token), [(1, &key), (1, &parameter)].into_iter());
    let origin = Origin::new(Scheme::Http, "up.example".into(), 80);
    let upstream = Upstream::new(origin, &Trust::default(), None).expect("nothing is read for plain http");
    let (mut head, ()) = Request::new(()).into_parts();
    (head.headers, head.uri) = (headers, target);
    credentials.expect("all of these are legal").put_on(&mut head, &upstream).expect("there is room");
    head
}

/// Whether a request with this query is forwarded. Our parameter leaves once and last, no other that a server
/// could take for it does, and what is left stands in its order.
pub(super) fn query_leaves(query: &str) -> bool {
    let Ok(target) = Uri::try_from(format!("/a?{query}")) else { return false };
    if target.path_and_query().is_none_or(|target| target.as_str().len() > 8192) {
        return false;
    }
    let came = target.query().unwrap_or_default().to_owned();
    let cleaned = slots().clean(target).expect("what is left is a target");
    let left = with_credentials(HeaderMap::new(), cleaned).uri;
    assert_eq!(left.path(), "/a");
    let pieces = left.query().unwrap_or_default().split(['&', ';']).collect::<Vec<_>>();
    let (ours, theirs) = pieces.split_last().expect("ours is there");
    assert_eq!(*ours, "api_key=ours", "ours is not the last of {left}");
    let is_ours =
        |piece: &&str| query::read(piece.split('=').next().unwrap_or_default().as_bytes()) == "api_key";
    assert!(!theirs.iter().any(&is_ours), "another api_key leaves in {left}");
    let kept = |pieces: &[&str]| {
        pieces.iter().filter(|p| !p.is_empty()).map(|p| (*p).to_owned()).collect::<Vec<_>>()
    };
    let expected: Vec<&str> = came.split(['&', ';']).filter(|piece| !is_ours(piece)).collect();
    assert_eq!(kept(theirs), kept(&expected), "of {came} something else is left");
    true
}

/// The contract of a request's header with a credential on it; `came` is what the caller sent.
pub(super) fn assert_fit_to_leave(came: &HeaderMap, left: &HeaderMap, outgoing: &Outgoing<'_>) {
    let sent = values(left, &AUTHORIZATION);
    assert!(sent == [&OURS] || sent == [&BOUND], "{} Authorization leave, or it is not ours", sent.len());
    for name in HOP_BY_HOP {
        assert!(!left.contains_key(name), "{name} leaves");
    }
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT] {
        assert!(!left.contains_key(&name), "{name} is copied");
    }
    assert!(values(left, &TE).iter().all(|te| *te == "trailers"), "TE leaves with more than trailers");
    assert_eq!(values(left, &REQUEST_ID), [outgoing.request_id]);
    let via = values(left, &VIA);
    assert_eq!(via.last().copied(), Some(outgoing.via), "our entry is not the last in Via");
    assert!(left.contains_key(HOST));
    if !outgoing.preserve_host {
        assert_eq!(values(left, &HOST), [outgoing.host]);
    }
    if outgoing.underscores == Underscores::Refuse {
        assert!(left.keys().all(|name| !name.as_str().contains('_')), "an underscore leaves");
    }
    let named = nominated(came);
    for name in &named {
        assert!(!left.contains_key(name) || *name == "te", "{name} leaves, which Connection names");
    }
    let is_ruled = |name: &HeaderName| {
        let text = name.as_str();
        let more = [
            "authorization",
            "host",
            "via",
            "te",
            "x-request-id",
            "content-length",
            "expect",
            "cookie",
            "http2-settings",
        ];
        // What could pass for such a field is taken off with it.
        let plain = HeaderName::from_bytes(text.replace('_', "-").as_bytes()).unwrap_or(name.clone());
        let resembles = HOP_BY_HOP.contains(&plain.as_str()) || plain == REQUEST_ID || is_forwarding(&plain);
        (text.contains('_') && resembles)
            || outgoing.slots.has_field(text)
            || HOP_BY_HOP.contains(&text)
            || more.contains(&text)
            || is_forwarding(name)
            || named.iter().any(|named| named == text)
    };
    for name in came.keys().filter(|name| !is_ruled(name)) {
        assert_eq!(values(came, name), values(left, name), "{name} has changed");
    }
    for name in left.keys().filter(|name| !is_ruled(name)) {
        assert!(came.contains_key(name), "{name} comes from nowhere");
    }
}

fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a HeaderValue> {
    headers.get_all(name).iter().collect()
}

/// The names in `Connection`.
fn nominated(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase());
    names.filter(|name| !name.is_empty()).collect()
}

/// The way back: what belongs to the upstream's connection does not reach the caller.
fn answers(choice: u8, came: HeaderMap) {
    let keep_trailer = choice & 1 != 0;
    let mut answer = came.clone();
    headers::answer(&mut answer, &ID, keep_trailer);
    let mut trailers = came;
    headers::trailers(&mut trailers);
    for name in HOP_BY_HOP.into_iter().chain(["te"]) {
        assert!(!answer.contains_key(name) || (keep_trailer && name == "trailer"), "{name} comes back");
        assert!(!trailers.contains_key(name), "{name} comes back in trailers");
    }
    assert_eq!(values(&answer, &REQUEST_ID), [&ID]);
    for name in [AUTHORIZATION, CONTENT_LENGTH, HOST] {
        assert!(!trailers.contains_key(&name), "{name} comes back in trailers");
    }
    let ours = |status: &HeaderValue| status.to_str().is_ok_and(|text| text.contains("keybearer"));
    assert!(!answer.get_all("proxy-status").iter().any(ours), "an upstream speaks in our name");
}
