//! From the bytes of a head to the decision about it, through the functions that the gateway uses.
//!
//! What the guard passes is what the library reads; what is forwarded still belongs to the route that
//! was matched.

use std::{collections::HashMap, path::Path, rc::Rc};

use http::{HeaderValue, request};

use crate::{
    app, config,
    fuzzing::{headers::assert_fit_to_leave, library},
    listen::{
        Limits,
        framing::{self, BodyLength, Extent},
    },
    proxy::{
        self, Interim, Line,
        forwarded::Source,
        headers::{self, Outgoing},
        notable::Notable,
        settings::Forwarding,
        target::upstream_target,
        tunnel::Tunnel,
        upgrade,
        worker::{Gateway, RouteState, Worker},
    },
    route::path,
};

/// Routes of every kind.
const ROUTES: &str = r#"
listeners: {local: {address: "127.0.0.1:0"}}
profiles:
  account: {kind: oauth2, token_url: "https://id.example/token", auth: none, client_id: a}
routes:
  v1: {match: {path: /v1}, upstream: "http://127.0.0.1:1", profile: account}
  orders: {match: {path: /v1/orders}, upstream: "http://127.0.0.1:2", profile: account}
  gold: {match: {path: /v1, headers: {x-tier: gold}}, upstream: "http://127.0.0.1:3", profile: account}
  host: {match: {host: api.example, path: /v1}, upstream: "http://127.0.0.1:4", profile: account}
  below: {match: {host: "*.api.example"}, upstream: "http://127.0.0.1:5", profile: account}
  lenient: {match: {path: /lenient}, upstream: "http://127.0.0.1:6", profile: account, path_check: lenient}
  stripped: {match: {path: /strip}, upstream: "http://127.0.0.1:7/base", profile: account, strip_path: true}
  bare: {match: {path: /bare}, upstream: "http://127.0.0.1:8", profile: account, strip_path: true, path_check: lenient}
  java: {match: {path: /java}, upstream: "http://127.0.0.1:11", profile: account, h2c: ignore}
  dav: {match: {path: /dav, methods: [PROPFIND, GET]}, upstream: "http://127.0.0.1:9", profile: account}
  open: {match: {path: /open}, upstream: "http://127.0.0.1:10", profile: none}
"#;

/// Bodies that are tried are no longer than this.
const BODY_BYTES_MAX: u64 = 4096;

thread_local! {
    static WORKER: Rc<Worker> = worker();
}

/// One that serves these routes.
pub(crate) fn worker() -> Rc<Worker> {
    let loaded = config::parse(ROUTES, Path::new("routes.yaml"), None).expect("the routes are sound");
    let snapshot = app::snapshot(&loaded.settings, &HashMap::new(), 1, app::Kept::default())
        .expect("the table is sound");
    Worker::new(&Gateway::new(snapshot, 1, 0, Default::default()), 0)
}

/// A caller on a plain connection.
struct Plain;

impl Line for Plain {
    fn is_tls(&self) -> bool {
        false
    }

    fn is_misdirected(&self, _: &str) -> bool {
        false
    }

    fn inform(&self, _: &Interim) {}

    fn hand_over(&self, _: Tunnel) {}
}

pub(super) fn target(input: &[u8]) {
    leaves(input);
}

/// Whether the request is forwarded. Stops when it breaks a promise.
pub(super) fn leaves(input: &[u8]) -> bool {
    let limits = Limits::default();
    let Ok(Extent::Complete(end)) = framing::extent(input, 0, &limits) else { return false };
    let head = input.get(..end).unwrap_or_default();
    let Ok(length) = framing::head(head, &limits) else { return false };
    assert_sound(head, length);
    read_by_library(head, length).is_some_and(|head| WORKER.with(|worker| decide(worker, head)))
}

/// Reads the framing once more, as simply as can be.
fn assert_sound(head: &[u8], length: BodyLength) {
    assert!(head.iter().all(|b| *b >= b' ' || matches!(b, b'\r' | b'\n' | b'\t')), "a control character");
    let text = String::from_utf8_lossy(head);
    let bare = text.replace("\r\n", "");
    assert!(!bare.contains(['\r', '\n']), "a bare CR or LF");
    assert!(!text.contains("\r\n ") && !text.contains("\r\n\t"), "a folded line");
    let fields: Vec<(String, &str)> = text
        .split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
        .collect();
    let of = |wanted: &str| -> Vec<&str> {
        fields.iter().filter(|(name, _)| name == wanted).map(|(_, value)| *value).collect()
    };
    let (lengths, codings) = (of("content-length"), of("transfer-encoding"));
    let expected = match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => BodyLength::None,
        ([length], []) => match length.parse::<u64>().expect("a Content-Length that is no number") {
            0 => BodyLength::None,
            bytes => BodyLength::Bytes(bytes),
        },
        ([], [coding]) => {
            assert!(coding.eq_ignore_ascii_case("chunked"), "the coding {coding:?}");
            BodyLength::Chunked
        }
        _ => {
            assert!(lengths.len() + codings.len() <= 1, "two lengths: {lengths:?} {codings:?}");
            BodyLength::None
        }
    };
    assert_eq!(length, expected, "another length");
}

/// The head as the library reads it, with the body that was judged behind it.
fn read_by_library(head: &[u8], length: BodyLength) -> Option<request::Parts> {
    let (body, data): (Vec<u8>, &[u8]) = match length {
        BodyLength::None => (Vec::new(), b""),
        BodyLength::Bytes(bytes @ ..=BODY_BYTES_MAX) => (vec![b'x'; usize::try_from(bytes).ok()?], b"x"),
        BodyLength::Bytes(_) => return None,
        BodyLength::Chunked => (b"1\r\ny\r\n0\r\n\r\n".to_vec(), b"y"),
    };
    let mut seen = library::requests(&[head, &body, library::MARK].concat()).into_iter();
    let first = seen.next().expect("the library refuses what the guard has passed");
    let read = first.body.expect("the library finds the body broken");
    let expected = if length == BodyLength::Chunked { data.to_vec() } else { body };
    assert_eq!(read, expected, "the library reads another body");
    // There is none behind `Connection: close`.
    if let Some(second) = seen.next() {
        assert_eq!(second.head.uri, "/mark", "the library sees the next request elsewhere");
        assert!(seen.next().is_none(), "the library sees a third request");
    }
    Some(first.head)
}

fn decide(worker: &Worker, mut head: request::Parts) -> bool {
    let came = head.headers.clone();
    let found = Notable::of(&came);
    let Ok(handshake) = upgrade::take(&mut head, found) else { return false };
    let Some(route) = admitted(worker, &head) else { return false };
    if upgrade::decline_http2(&mut head.headers, found, route.settings().http2_offers).is_err() {
        return false;
    }
    let target = upstream_target(route.settings(), route.prefix(), &head.uri);
    let target = target.expect("an admitted path makes a target");
    assert_stays(worker, &route, &head, &target);
    let host = head.headers.get("host").cloned();
    let outgoing = Outgoing {
        host: route.upstream().host(),
        preserve_host: false,
        pass_authorization: false,
        via: &HeaderValue::from_static("1.1 kb-0123456789ab"),
        pseudonym: "kb-0123456789ab",
        request_id: &HeaderValue::from_static("id-1"),
        found,
        version: head.version,
        underscores: route.settings().underscores,
        forwarded: Forwarding::Off,
        source: Source { address: None, is_trusted: false, is_tls: false, host: host.as_ref() },
        slots: route.slots(),
    };
    if headers::prepare(&mut head.headers, &outgoing).is_err() {
        return false;
    }
    head.headers.insert(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer ours"));
    assert_fit_to_leave(&came, &head.headers, &outgoing);
    assert!(!head.headers.contains_key("http2-settings"), "an offer of h2c leaves");
    if let Some(handshake) = handshake {
        upgrade::put(&handshake, &mut head, http::Version::HTTP_11);
        assert!(!head.headers.contains_key("te") && head.headers.get("connection").is_some());
    }
    true
}

fn admitted(worker: &Worker, head: &request::Parts) -> Option<Rc<RouteState>> {
    proxy::find_route(worker, head, &Plain).ok()?.admit(&head.method).ok()
}

/// What is sent leads to the route that was matched, and is still free of flaws.
fn assert_stays(worker: &Worker, route: &RouteState, head: &request::Parts, target: &http::Uri) {
    let settings = route.settings();
    assert!(target.scheme().is_none() && target.authority().is_none(), "{target} names a host");
    let sent = target.path();
    assert!(sent.starts_with('/') && !sent.starts_with("//"), "{sent} looks like a host");
    assert_eq!(target.query(), head.uri.query(), "the query has changed");
    if settings.profile.is_some() {
        let flaw = path::read(sent).refused_by(settings.path_check);
        assert!(flaw.is_none(), "{sent} has a flaw: {flaw:?}");
    }
    if let Some(base) = &settings.base_path {
        let below = sent.strip_prefix(base.path().trim_end_matches('/'));
        assert!(below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')), "{sent} left its base");
    } else if !settings.strip_path {
        let mut again = head.clone();
        // An absolute target's authority is not sent; the Host field is the same one.
        let authority = head.uri.authority().map(|authority| format!("http://{authority}"));
        let uri = format!("{}{target}", authority.unwrap_or_default());
        again.uri = uri.parse().expect("what is sent is a target");
        let found = admitted(worker, &again).expect("what is sent would not be admitted");
        assert_eq!(found.name(), route.name(), "{sent} leads to another route");
        let sent_again = upstream_target(settings, route.prefix(), &again.uri).ok();
        assert_eq!(sent_again.as_ref(), Some(target), "what is sent would be sent otherwise");
    }
}
