//! Connections to upstreams: what is spoken on them, who shares them, and what becomes of requests
//! when one ends.

use std::{convert::Infallible, fs, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use http::Version;
use keybearer::demo::idp::Account;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::{
    attacks::gauge,
    counters::becomes,
    hostile::{Hostile, keep},
    peer::{Act, Authority, Peer, Scripted, Tls},
    stage::{CLIENT, PATIENCE, Plan, ROLE, SECRET, Stage, eventually, fault, pause},
};

/// One worker, so that there is one pool.
async fn gateway(routes: &str) -> Stage {
    let stage = Plan::default().more("workers: 1").routes(routes).start().await;
    stage.ready().await;
    stage
}

/// A route to `url` with further keys of its upstream.
fn route(url: &str, keys: &str) -> String {
    format!("r: {{match: {{path: /v1}}, upstream: {{url: \"{url}\", {keys}}}, profile: account}}")
}

fn ca(authority: &Authority) -> String {
    format!("ca: {{file: {:?}}}", authority.file())
}

/// Sends so many requests at once and gives their statuses when `release` has let them go.
async fn at_once(stage: &Stage, count: usize, path: &str, release: impl Future<Output = ()>) -> Vec<u16> {
    let requests: Vec<_> = (0..count).map(|_| tokio::spawn(stage.http.get(stage.url(path)).send())).collect();
    release.await;
    let mut statuses = Vec::new();
    for request in requests {
        statuses.push(request.await.unwrap().unwrap().status().as_u16());
    }
    statuses
}

#[tokio::test]
async fn many_requests_at_once_share_one_http2_connection() {
    let authority = Authority::new();
    let peer = Peer::start(Some(Tls::new(&authority))).await;
    let stage = gateway(&route(&peer.url("https"), &ca(&authority))).await;
    // All at once and from cold: nobody knows yet what the upstream speaks.
    let all_there = async {
        eventually("all fifty are there", || peer.seen().len() == 50).await;
        peer.release();
    };
    assert_eq!(at_once(&stage, 50, "/v1/slow", all_there).await, [200; 50]);
    assert_eq!(peer.accepted(), 1);
    let seen = &peer.seen()[0];
    assert_eq!(seen.version, Version::HTTP_2);
    assert_eq!(seen.authority, peer.url("https").trim_start_matches("https://"));
    assert!(seen.authorization.starts_with("Bearer "));
    assert!(!seen.fields.iter().any(|name| name == "host" || name == "connection"), "{:?}", seen.fields);
}

#[tokio::test]
async fn a_second_connection_is_made_when_the_first_is_full() {
    let authority = Authority::new();
    let peer = Peer::start(Some(Tls::new(&authority))).await;
    let stage = gateway(&route(&peer.url("https"), &ca(&authority))).await;
    assert_eq!(stage.status("/v1").await, 200);
    let all_there = async {
        eventually("all are there", || peer.seen().len() == 151).await;
        peer.release();
    };
    assert_eq!(at_once(&stage, 150, "/v1/slow", all_there).await, [200; 150]);
    assert_eq!(peer.accepted(), 2);
}

#[tokio::test]
async fn an_upstream_that_takes_few_requests_at_a_time_gets_more_connections() {
    let peer = Peer::with_streams(None, Some(2)).await;
    let stage = gateway(&route(&peer.url("http"), "http2: prior_knowledge")).await;
    let all_there = async {
        eventually("all are there", || peer.seen().len() == 6).await;
        peer.release();
    };
    assert_eq!(at_once(&stage, 6, "/v1/slow", all_there).await, [200; 6]);
    assert_eq!(peer.accepted(), 3);
}

/// Each request used to make four connections, which stayed.
#[tokio::test]
async fn an_upstream_that_takes_no_requests_for_now_gets_no_more_connections() {
    let peer = Peer::with_streams(None, Some(0)).await;
    let route = route(&peer.url("http"), "http2: prior_knowledge");
    let more = "workers: 1\ntimeouts: {response: 1s}";
    let stage = Plan::default().more(more).routes(&route).start().await;
    stage.ready().await;
    assert_eq!(at_once(&stage, 30, "/v1/a", async {}).await, [504; 30]);
    assert_eq!((peer.accepted(), peer.seen().len()), (1, 0));
}

#[tokio::test]
async fn an_upstream_that_speaks_no_http2_after_all_is_a_fault_of_its_own() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tcp.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await.unwrap();
        }
    });
    let stage = gateway(&route(&url, "http2: prior_knowledge")).await;
    assert_eq!(fault(stage.get("/v1").await).await.1, "upstream_protocol");
}

#[tokio::test]
async fn http2_off_and_an_upstream_without_http2_mean_http1() {
    let authority = Authority::new();
    let willing = Peer::start(Some(Tls::new(&authority))).await;
    let mut tls = Tls::new(&authority);
    tls.alpn = &["http/1.1"];
    let old = Peer::start(Some(tls)).await;
    for (peer, keys) in [(&willing, "http2: off, "), (&old, "")] {
        let stage = gateway(&route(&peer.url("https"), &format!("{keys}{}", ca(&authority)))).await;
        assert_eq!(stage.status("/v1").await, 200);
        assert_eq!(stage.status("/v1").await, 200);
        assert_eq!(peer.seen()[0].version, Version::HTTP_11);
        assert_eq!(peer.accepted(), 1);
    }
}

#[tokio::test]
async fn prior_knowledge_speaks_http2_without_tls() {
    let peer = Peer::start(None).await;
    let stage = gateway(&route(&peer.url("http"), "http2: prior_knowledge")).await;
    let answer = stage.post("/v1", vec![1; 300_000]).await;
    assert_eq!(answer.text().await.unwrap(), "Ok(300000)");
    assert_eq!(peer.seen()[0].version, Version::HTTP_2);
}

#[tokio::test]
async fn a_preserved_host_becomes_the_authority() {
    let peer = Peer::start(None).await;
    let route = route(&peer.url("http"), "http2: prior_knowledge");
    let stage = gateway(&route.replace("profile:", "preserve_host: true, profile:")).await;
    let answer = stage.http.get(stage.url("/v1")).header("host", "orders.internal:81").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(peer.seen()[0].authority, "orders.internal:81");
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_it_is_demanded() {
    let authority = Authority::new();
    for alpn in [&["h2"][..], &["http/1.1"][..]] {
        for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12][..]] {
            let tls = Tls { asks: true, alpn, versions, ..Tls::new(&authority) };
            let peer = Peer::start(Some(tls)).await;
            let (certificate, key) = authority.issue("daemon.internal");
            let identity = format!("certificate: {{file: {certificate:?}}}, key: {{file: {key:?}}}");
            let stage = gateway(&route(&peer.url("https"), &format!("{}, {identity}", ca(&authority)))).await;
            assert_eq!(stage.status("/v1").await, 200);
            assert!(peer.seen()[0].has_certificate);
            // Without one the upstream breaks the handshake off.
            let stage = gateway(&route(&peer.url("https"), &ca(&authority))).await;
            let (status, code, _) = fault(stage.get("/v1").await).await;
            assert_eq!((status, code.as_str()), (502, "upstream_tls"), "{alpn:?} {versions:?}");
            assert_eq!(peer.seen().len(), 1);
        }
    }
}

#[tokio::test]
async fn a_certificate_of_another_name_is_refused_unless_server_name_says_so() {
    let authority = Authority::new();
    let tls = Tls { name: "orders.internal", ..Tls::new(&authority) };
    let peer = Peer::start(Some(tls)).await;
    let stage = gateway(&route(&peer.url("https"), &ca(&authority))).await;
    assert_eq!(fault(stage.get("/v1").await).await.1, "upstream_tls");
    let keys = format!("{}, server_name: orders.internal", ca(&authority));
    let stage = gateway(&route(&peer.url("https"), &keys)).await;
    assert_eq!(stage.status("/v1").await, 200);
    // The name is for TLS only.
    assert!(peer.seen()[0].authority.starts_with("localhost:"));
}

#[tokio::test]
async fn min_tls_refuses_an_older_upstream() {
    let authority = Authority::new();
    let tls = Tls { versions: &[&rustls::version::TLS12], ..Tls::new(&authority) };
    let peer = Peer::start(Some(tls)).await;
    let stage = gateway(&route(&peer.url("https"), &ca(&authority))).await;
    assert_eq!(stage.status("/v1").await, 200);
    let stage = gateway(&route(&peer.url("https"), &format!("{}, min_tls: \"1.3\"", ca(&authority)))).await;
    assert_eq!(fault(stage.get("/v1").await).await.1, "upstream_tls");
}

#[tokio::test]
async fn what_an_upstream_did_not_look_at_is_sent_again_whatever_the_method() {
    // Where one stream was refused, the connection may take the next.
    for (act, connections) in [(Act::GoAway, 2), (Act::Refuse, 1)] {
        // The third request on the first connection is not looked at.
        let script = move |connection, request| {
            if (connection, request) == (1, 3) { act } else { Act::Answer }
        };
        let peer = Scripted::start(script).await;
        let stage = gateway(&route(&peer.url(), "http2: prior_knowledge")).await;
        for length in [10, 20, 30, 40] {
            assert_eq!(stage.post("/v1", vec![0; length]).await.status(), 200, "{act:?} {length}");
        }
        assert_eq!(peer.answered(), [10, 20, 30, 40], "{act:?}");
        assert_eq!(peer.accepted(), connections, "{act:?}");
    }
}

#[tokio::test]
async fn a_large_upload_that_was_not_looked_at_is_not_lost() {
    let script = |connection, _| if connection == 1 { Act::GoAway } else { Act::Answer };
    let peer = Scripted::start(script).await;
    let stage = gateway(&route(&peer.url(), "http2: prior_knowledge")).await;
    assert_eq!(stage.post("/v1", vec![0; 1_000_000]).await.status(), 200);
    assert_eq!(peer.answered(), [1_000_000]);
}

#[tokio::test]
async fn an_upstream_that_never_looks_is_given_up() {
    for (act, connections) in [(Act::GoAway, 3), (Act::Refuse, 2)] {
        let peer = Scripted::start(move |_, _| act).await;
        let stage = gateway(&route(&peer.url(), "http2: prior_knowledge")).await;
        let (status, code, _) = fault(stage.get("/v1").await).await;
        assert_eq!((status, code.as_str()), (502, "upstream_protocol"));
        assert_eq!(peer.accepted(), connections, "{act:?}");
    }
}

/// It was taken for a connection that broke: asked twice, with a further connection for each that failed.
#[tokio::test]
async fn a_request_whose_stream_the_upstream_resets_is_not_sent_again() {
    let peer = Scripted::start(|_, request| if request == 2 { Act::Reset } else { Act::Answer }).await;
    let stage = gateway(&route(&peer.url(), "http2: prior_knowledge")).await;
    assert_eq!(stage.status("/v1").await, 200);
    let (status, code, _) = fault(stage.get("/v1").await).await;
    assert_eq!((status, code.as_str()), (502, "upstream_protocol"));
    assert_eq!(stage.status("/v1").await, 200);
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn an_answer_may_have_more_than_a_hundred_fields() {
    let fields: String = (0..120).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let answer = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n");
    let up = Hostile::start(move |_, _| keep(&answer)).await;
    let stage = up.stage("").await;
    let answer = stage.raw("GET /v1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.to_lowercase().contains("\r\nx-119: 119\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_connection_that_breaks_is_replaced_for_requests_that_may_be_repeated() {
    let script = |connection, request| {
        if connection == 1 && request == 2 { Act::Close } else { Act::Answer }
    };
    let peer = Scripted::start(script).await;
    let stage = gateway(&route(&peer.url(), "http2: prior_knowledge")).await;
    assert_eq!(stage.status("/v1").await, 200);
    assert_eq!(stage.status("/v1").await, 200);
    assert_eq!(peer.accepted(), 2);
    // The upstream may have acted on a POST before it broke off.
    let peer = Scripted::start(script).await;
    let stage = gateway(&route(&peer.url(), "http2: prior_knowledge")).await;
    assert_eq!(stage.status("/v1").await, 200);
    assert_eq!(fault(stage.post("/v1", vec![1]).await).await.1, "upstream_protocol");
    assert_eq!(peer.answered(), [0]);
}

#[tokio::test]
async fn an_old_connection_is_renewed_and_its_requests_are_finished() {
    let peer = Peer::start(None).await;
    let stage = gateway(&route(&peer.url("http"), "http2: prior_knowledge, max_age: 1s")).await;
    let slow = tokio::spawn(stage.http.get(stage.url("/v1/slow")).send());
    eventually("the slow one is there", || peer.seen().len() == 1).await;
    assert_eq!(stage.status("/v1").await, 200);
    assert_eq!(peer.accepted(), 1);
    let renewed = async {
        while peer.accepted() == 1 {
            assert_eq!(stage.status("/v1").await, 200);
        }
    };
    tokio::time::timeout(Duration::from_secs(10), renewed).await.unwrap();
    assert_eq!(peer.open(), 2);
    peer.release();
    assert_eq!(slow.await.unwrap().unwrap().status(), 200);
    eventually("the old one is closed", || peer.open() == 1).await;
    becomes(&stage, &closed(&peer.url("http"), "max_age"), 1).await;
}

#[tokio::test]
async fn an_old_http1_connection_is_renewed() {
    let authority = Authority::new();
    let peer = Peer::start(Some(Tls { alpn: &[], ..Tls::new(&authority) })).await;
    let stage = gateway(&route(&peer.url("https"), &format!("{}, max_age: 1s", ca(&authority)))).await;
    let renewed = async {
        while peer.accepted() < 2 {
            assert_eq!(stage.status("/v1").await, 200);
        }
    };
    tokio::time::timeout(Duration::from_secs(10), renewed).await.unwrap();
    assert!(peer.seen().len() > 2, "the first connection was used for a while");
    eventually("the old one is closed", || peer.open() == 1).await;
    becomes(&stage, &closed(&peer.url("https"), "max_age"), 1).await;
}

#[tokio::test]
async fn idle_connections_are_closed_and_are_not_more_than_allowed() {
    for http2 in ["off", "auto"] {
        let authority = Authority::new();
        let peer = Peer::start(Some(Tls::new(&authority))).await;
        let routes = route(&peer.url("https"), &format!("http2: {http2}, {}", ca(&authority)));
        let more = "workers: 1\ntimeouts: {upstream_idle: 100ms}\nlimits: {upstream_idle_connections: 2}";
        let stage = Plan::default().more(more).routes(&routes).start().await;
        stage.ready().await;
        let all_there = async {
            eventually("all are there", || peer.seen().len() == 5).await;
            peer.release();
        };
        assert_eq!(at_once(&stage, 5, "/v1/slow", all_there).await, [200; 5]);
        eventually("few are kept", || peer.open() <= 2).await;
        eventually("none is kept for long", || peer.open() == 0).await;
        let connections = if http2 == "off" { 5 } else { 1 };
        becomes(&stage, &closed(&peer.url("https"), "idle"), connections).await;
    }
}

/// The series of connections that were closed for a reason.
fn closed(url: &str, reason: &str) -> String {
    format!("keybearer_upstream_connections_closed_total{{upstream=\"{url}\",reason=\"{reason}\"}}")
}

#[tokio::test]
async fn requests_that_begin_together_again_find_the_connections_of_those_that_ended_together() {
    let authority = Authority::new();
    let peer = Peer::start(Some(Tls::new(&authority))).await;
    let routes = route(&peer.url("https"), &format!("http2: off, {}", ca(&authority)));
    let more = "workers: 1\nlimits: {upstream_idle_connections: 2}";
    let stage = Plan::default().more(more).routes(&routes).start().await;
    stage.ready().await;
    for round in 1..=3 {
        peer.hold();
        let all_there = async {
            eventually("all are there", || peer.seen().len() == 5 * round).await;
            peer.release();
        };
        assert_eq!(at_once(&stage, 5, "/v1/slow", all_there).await, [200; 5]);
    }
    assert_eq!(peer.accepted(), 5);
    eventually("few are kept", || peer.open() == 2).await;
    becomes(&stage, &closed(&peer.url("https"), "surplus"), 3).await;
}

#[tokio::test]
async fn an_idle_connection_that_the_upstream_has_closed_costs_no_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stage = gateway(&route(&format!("http://{}", listener.local_addr().unwrap()), "")).await;
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ];
    // Each connection serves one request, says nothing of its end, and closes: at once, or when the answer has
    // arrived.
    for (answer, at_once) in answers.into_iter().flat_map(|answer| [(answer, true), (answer, false)]) {
        for _ in 0..3 {
            let serving = async {
                let (mut arrived, _) = listener.accept().await.unwrap();
                let (mut seen, mut some) = (Vec::new(), [0; 4096]);
                while !seen.ends_with(b"once") {
                    let n = arrived.read(&mut some).await.unwrap();
                    assert!(n > 0, "the request came in part");
                    seen.extend_from_slice(&some[..n]);
                }
                arrived.write_all(answer.as_bytes()).await.unwrap();
                (!at_once).then_some(arrived)
            };
            let asking = async {
                let answered = stage.post("/v1", b"once".to_vec()).await;
                assert_eq!(answered.status(), 200, "{answer:?}, closed at once: {at_once}");
                answered.bytes().await.unwrap()
            };
            let both = async { tokio::join!(serving, asking).0 };
            drop(tokio::time::timeout(PATIENCE, both).await.unwrap());
        }
    }
}

#[tokio::test]
async fn a_connection_whose_caller_hung_up_while_it_was_made_costs_no_other_request() {
    let authority = Authority::new();
    let acceptor = Tls { alpn: &["http/1.1"], ..Tls::new(&authority) }.acceptor();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let stage = gateway(&route(&url, &ca(&authority))).await;
    let leaving = tokio::spawn(stage.http.get(stage.url("/v1")).send());
    let (arrived, _) = listener.accept().await.unwrap();
    leaving.abort();
    assert!(leaving.await.unwrap_err().is_cancelled());
    let idle = format!("keybearer_upstream_connections{{upstream=\"{url}\",state=\"idle\"}}");
    let wait = async {
        while gauge(&stage, "keybearer_in_flight{").await > 0 {
            pause().await;
        }
        let unused = acceptor.accept(arrived).await.unwrap();
        while gauge(&stage, &idle).await == 0 {
            pause().await;
        }
        unused
    };
    let mut unused = tokio::time::timeout(PATIENCE, wait).await.expect("it lies in the pool");
    // It closes when the next caller's request is on its way to it.
    let closing = tokio::spawn(async move {
        let mut some = [0; 4096];
        assert!(unused.read(&mut some).await.unwrap() > 0);
        drop(unused);
        let (arrived, _) = listener.accept().await.unwrap();
        let mut other = acceptor.accept(arrived).await.unwrap();
        assert!(other.read(&mut some).await.unwrap() > 0);
        other.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        other
    });
    assert_eq!(stage.status("/v1").await, 200);
    tokio::time::timeout(PATIENCE, closing).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_with_tls_is_ended_in_peace_also_in_the_middle_of_an_answer() {
    let authority = Authority::new();
    let acceptor = Tls { alpn: &["http/1.1"], ..Tls::new(&authority) }.acceptor();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let stage = gateway(&route(&url, &ca(&authority))).await;
    let mut caller = TcpStream::connect(stage.address()).await.unwrap();
    caller.write_all(b"GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let (arrived, _) = listener.accept().await.unwrap();
    let mut arrived = acceptor.accept(arrived).await.unwrap();
    let mut some = [0; 4096];
    assert!(arrived.read(&mut some).await.unwrap() > 0);
    arrived.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf").await.unwrap();
    arrived.flush().await.unwrap();
    assert!(caller.read(&mut some).await.unwrap() > 0);
    drop(caller);
    // Without a last word of TLS, this would be an error.
    let last = tokio::time::timeout(PATIENCE, arrived.read(&mut some)).await.unwrap();
    assert_eq!(last.unwrap(), 0);
}

#[tokio::test]
async fn no_idle_connections_means_one_for_each_request() {
    let peer = Peer::start(None).await;
    let more = "workers: 1\nlimits: {upstream_idle_connections: 0}";
    let routes = route(&peer.url("http"), "http2: prior_knowledge");
    let stage = Plan::default().more(more).routes(&routes).start().await;
    for number in 1..=3 {
        assert_eq!(stage.status("/v1").await, 200);
        assert_eq!(peer.accepted(), number);
    }
}

#[tokio::test]
async fn routes_share_connections_only_with_the_same_account_and_the_same_settings() {
    for (second, connections) in [("profile: none", 1), ("profile: account", 2)] {
        for keys in ["", ", max_age: 9m"] {
            let peer = Peer::start(None).await;
            let upstream = format!("url: \"{}\", http2: prior_knowledge", peer.url("http"));
            let stage = gateway(&format!(
                "a: {{match: {{path: /a}}, upstream: {{{upstream}}}, profile: none}}\n\
                 b: {{match: {{path: /b}}, upstream: {{{upstream}{keys}}}, {second}}}"
            ))
            .await;
            assert_eq!(stage.status("/a").await, 200);
            assert_eq!(stage.status("/b").await, 200);
            let connections = if keys.is_empty() { connections } else { 2 };
            assert_eq!(peer.accepted(), connections, "{second} {keys}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_that_becomes_another_account_gets_connections_of_its_own() {
    let peer = Peer::start(None).await;
    let upstream = format!("url: \"{}\", http2: prior_knowledge", peer.url("http"));
    let stage = gateway(&format!(
        "a: {{match: {{path: /a}}, upstream: {{{upstream}}}, profile: account}}\n\
         b: {{match: {{path: /b}}, upstream: {{{upstream}}}, profile: none}}"
    ))
    .await;
    let ask = async || assert_eq!((stage.status("/a").await, stage.status("/b").await), (200, 200));
    ask().await;
    assert_eq!(peer.accepted(), 2);
    let other = "77777777-7615-472f-8200-a81d5c87c0ca";
    stage.idp.add_account(Account::new(other, SECRET, &[ROLE]));
    let path = stage.folder.path().join("keybearer.yaml");
    let reload = |text: &str| {
        fs::write(&path, text).unwrap();
        tokio::task::block_in_place(|| stage.gateway.control().unwrap().reload("a test")).unwrap();
    };
    reload(&(stage.yaml.clone() + "\n"));
    ask().await;
    assert_eq!(peer.accepted(), 2, "the same accounts keep their connections");
    reload(&stage.yaml.replace(CLIENT, other));
    ask().await;
    assert_eq!(peer.accepted(), 3, "the other account has one of its own, and nobody else needs another");
}

#[tokio::test]
async fn a_401_in_the_middle_of_an_upload_is_recovered_over_http2() {
    let authority = Authority::new();
    let peer = Peer::start(Some(Tls::new(&authority))).await;
    let stage = gateway(&route(&peer.url("https"), &ca(&authority))).await;
    assert_eq!(stage.status("/v1").await, 200);
    peer.refuse(&peer.seen()[0].authorization);
    let (chunks, body) = mpsc::channel::<Bytes>(1);
    let body = futures_util::stream::unfold(body, |mut body| async {
        Some((Ok::<_, Infallible>(body.recv().await?), body))
    });
    let body = reqwest::Body::wrap_stream(body.boxed());
    let upload = tokio::spawn(stage.http.post(stage.url("/v1")).body(body).send());
    chunks.send(Bytes::from_static(&[1; 1000])).await.unwrap();
    // The second attempt is there before the caller has sent the rest.
    eventually("the second attempt is there", || peer.seen().len() == 3).await;
    for _ in 0..100 {
        chunks.send(Bytes::from_static(&[2; 1000])).await.unwrap();
    }
    drop(chunks);
    let answer = upload.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), "Ok(101000)");
    assert_eq!(peer.accepted(), 1, "a refused stream harms no other");
}

#[tokio::test]
async fn a_caller_who_leaves_ends_its_stream_and_no_other() {
    let peer = Peer::start(None).await;
    let stage = gateway(&route(&peer.url("http"), "http2: prior_knowledge")).await;
    let stays = tokio::spawn(stage.http.get(stage.url("/v1/slow")).send());
    let leaves = tokio::spawn(stage.http.get(stage.url("/v1/slow")).send());
    eventually("both are there", || peer.seen().len() == 2).await;
    leaves.abort();
    peer.release();
    assert_eq!(stays.await.unwrap().unwrap().status(), 200);
    assert_eq!(stage.status("/v1").await, 200);
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn an_upstream_that_is_away_fails_all_who_wait_and_is_found_when_it_is_back() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let stage = gateway(&route(&format!("http://{address}"), "http2: prior_knowledge")).await;
    assert_eq!(at_once(&stage, 20, "/v1", async {}).await, [502; 20]);
    let (_, code, _) = fault(stage.get("/v1").await).await;
    assert_eq!(code, "upstream_unreachable");
}

#[tokio::test]
async fn a_websocket_gets_a_connection_with_http1_of_its_own() {
    let authority = Authority::new();
    let peer = Peer::start(Some(Tls::new(&authority))).await;
    let stage = gateway(&route(&peer.url("https"), &ca(&authority))).await;
    assert_eq!(stage.status("/v1").await, 200);
    // The first handshake is refused; its connection carries the second.
    peer.refuse(&peer.seen()[0].authorization);
    let mut caller = TcpStream::connect(stage.address()).await.unwrap();
    let handshake = "GET /v1/socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    caller.write_all(handshake.as_bytes()).await.unwrap();
    let head = read_until(&mut caller, "welcome ").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    caller.write_all(b"to you").await.unwrap();
    read_until(&mut caller, "to you").await;
    assert_eq!(stage.status("/v1").await, 200);
    let versions: Vec<_> = peer.seen().iter().map(|seen| seen.version).collect();
    let (two, one) = (Version::HTTP_2, Version::HTTP_11);
    assert_eq!(versions, [two, one, one, two]);
    assert_eq!((peer.accepted(), peer.open()), (2, 2));
    drop(caller);
    eventually("its connection is closed", || peer.open() == 1).await;
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    let reading = async {
        while !read.ends_with(end.as_bytes()) {
            read.push(stream.read_u8().await.unwrap());
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap();
    String::from_utf8(read).unwrap()
}

#[tokio::test]
async fn a_connection_that_fell_silent_gets_no_further_requests() {
    let script = |connection, request| {
        if connection == 1 && request == 2 { Act::Silence } else { Act::Answer }
    };
    let peer = Scripted::start(script).await;
    let route = route(&peer.url(), "http2: prior_knowledge");
    // A little more than what is taken for silence.
    let stage = gateway(&route.replace("profile:", "response_timeout: 5100ms, profile:")).await;
    assert_eq!(stage.status("/v1").await, 200);
    assert_eq!(fault(stage.get("/v1").await).await.1, "upstream_timeout");
    assert_eq!(stage.status("/v1").await, 200);
    assert_eq!(peer.accepted(), 2);
}
