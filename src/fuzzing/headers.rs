//! Header rules: whatever comes in, one `Authorization` leaves and it is ours, nothing of the caller's
//! connection leaves, and what no rule names arrives unchanged.

use std::net::{IpAddr, Ipv4Addr};

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRANSFER_ENCODING, VIA},
};

use crate::proxy::{
    credentials::Slots,
    forwarded::{Source, is_forwarding},
    headers::{self, Outgoing, REQUEST_ID},
    notable::Notable,
    settings::{Forwarding, Underscores},
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
const UPSTREAM: HeaderValue = HeaderValue::from_static("up.example");
const VIA_US: HeaderValue = HeaderValue::from_static("1.1 kb-0123456789ab");
const ID: HeaderValue = HeaderValue::from_static("id-1");

/// The first byte chooses the settings of the route; then each line is one field.
pub(super) fn target(input: &[u8]) {
    let Some((choice, lines)) = input.split_first() else { return };
    let came = fields(lines);
    answers(*choice, came.clone());
    leaves(*choice, &came);
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
        slots: &Slots::default(),
    };
    let mut left = came.clone();
    if headers::prepare(&mut left, &outgoing).is_err() {
        return false;
    }
    left.insert(AUTHORIZATION, OURS);
    assert_fit_to_leave(came, &left, &outgoing);
    true
}

/// The contract of a request's header with a credential on it; `came` is what the caller sent.
pub(super) fn assert_fit_to_leave(came: &HeaderMap, left: &HeaderMap, outgoing: &Outgoing<'_>) {
    assert_eq!(values(left, &AUTHORIZATION), [&OURS], "exactly one Authorization leaves and it is ours");
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
        HOP_BY_HOP.contains(&text)
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
