//! Request bodies: replayed byte for byte, streamed without being held, recovered half-way.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use keybearer::demo::api::Early;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use crate::{
    front::{Peer, played},
    hostile::{Hostile, keep},
    process::Process,
    stage::{PATIENCE, Plan, Stage, pause},
};

const MIB: usize = 1024 * 1024;

/// Bytes that differ from place to place, so that a shift or a cut shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_body_at_the_limit_is_replayed_byte_for_byte() {
    let stage = Stage::start().await;
    stage.ready().await;
    stage.idp.revoke_all();
    let body = pattern(MIB);
    assert_eq!(stage.post("/v1/orders", body.clone()).await.status(), 200);
    let seen = stage.api.last().unwrap();
    assert_eq!((seen.body_length, seen.body_sha256), (MIB as u64, sha256(&body)));
    assert_eq!(seen.status, 200);
    assert_eq!(stage.idp.issued(), 2);
}

#[tokio::test]
async fn a_body_over_the_limit_is_not_and_the_caller_gets_the_original_401() {
    let stage = Stage::start().await;
    stage.ready().await;
    stage.idp.revoke_all();
    let response = stage.post("/v1/orders", pattern(MIB + 1)).await;
    assert_eq!(response.status(), 401);
    assert!(response.headers()["www-authenticate"].to_str().unwrap().contains("invalid_token"));
    assert!(response.text().await.unwrap().contains("revoked"));
    assert_eq!(stage.api.requests(), 1);
    // The next request has a fresh token, even one that could not be replayed either.
    assert_eq!(stage.post("/v1/orders", pattern(MIB + 1)).await.status(), 200);
    assert_eq!(stage.api.unauthorized(), 1);
}

#[tokio::test]
async fn a_chunked_body_over_the_limit_is_not_replayed_either() {
    let stage = Plan::default().more("replay: {limit: 64KiB}").start().await;
    stage.ready().await;
    stage.idp.revoke_all();
    let parts = stream::iter(
        pattern(65 * 1024).chunks(1000).map(|c| Ok::<_, Infallible>(c.to_vec())).collect::<Vec<_>>(),
    );
    let body = reqwest::Body::wrap_stream(parts);
    let response = stage.http.post(stage.url("/v1/orders")).body(body).send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(stage.api.requests(), 1);
}

#[tokio::test]
async fn a_401_in_the_middle_of_an_upload_is_recovered() {
    let stage = Stage::start().await;
    stage.ready().await;
    stage.idp.revoke_all();
    stage.api.set_early_401(Some(Early { after_bytes: 1000, close: false }));
    let body = pattern(200_000);
    let (first, rest) = body.split_at(50_000);
    let (send, receive) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
    send.send(Bytes::copy_from_slice(first)).unwrap();
    let parts = stream::unfold(receive, |mut receive| async {
        receive.recv().await.map(|part| (Ok::<_, Infallible>(part), receive))
    });
    let body_stream = reqwest::Body::wrap_stream(parts.boxed());
    let sending = stage.http.post(stage.url("/v1/orders")).body(body_stream).send();
    let feeding = async {
        // The API has refused the first attempt, so the second is under way when the rest comes.
        stage.idp.wait_for_issued(2).await;
        for part in rest.chunks(30_000) {
            send.send(Bytes::copy_from_slice(part)).unwrap();
            pause().await;
        }
        drop(send);
    };
    let (response, ()) = tokio::join!(sending, feeding);
    assert_eq!(response.unwrap().status(), 200);
    let seen = stage.api.last().unwrap();
    assert_eq!((seen.body_length, seen.body_sha256), (200_000, sha256(&body)));
}

#[tokio::test]
async fn a_401_whose_connection_closes_in_the_middle_of_an_upload_is_recovered() {
    let stage = Stage::start().await;
    stage.ready().await;
    stage.idp.revoke_all();
    stage.api.set_early_401(Some(Early { after_bytes: 1000, close: true }));
    let body = pattern(MIB);
    assert_eq!(stage.post("/v1/orders", body.clone()).await.status(), 200);
    assert_eq!(stage.api.last().unwrap().body_sha256, sha256(&body));
}

#[tokio::test]
async fn the_upstream_sees_the_first_byte_before_the_caller_has_sent_the_last() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = format!("all: {{upstream: \"http://{}\", profile: account}}", upstream.local_addr().unwrap());
    let stage = Plan::default().routes(&route).start().await;
    let mut caller = TcpStream::connect(stage.address()).await.unwrap();
    caller.write_all(b"POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfirst").await.unwrap();
    let (mut arrived, _) = tokio::time::timeout(PATIENCE, upstream.accept()).await.unwrap().unwrap();
    let mut seen = String::new();
    while !seen.ends_with("first") {
        let mut some = [0; 4096];
        let n = tokio::time::timeout(PATIENCE, arrived.read(&mut some)).await.unwrap().unwrap();
        seen += std::str::from_utf8(&some[..n]).unwrap();
    }
    caller.write_all(b"last!").await.unwrap();
    let mut last = [0; 5];
    arrived.read_exact(&mut last).await.unwrap();
    assert_eq!(&last, b"last!");
}

#[tokio::test]
async fn a_large_upload_streams_through_memory_that_does_not_grow_with_it() {
    const LENGTH: usize = 100 * MIB;
    let stage = Stage::start().await;
    // A process of its own: this one holds the API and other tests as well.
    let gateway = Process::start(&stage, &[]).await;
    let part = Bytes::from(pattern(64 * 1024));
    let upload = async |length: usize| {
        let part = part.clone();
        let parts = stream::iter((0..length / part.len()).map(move |_| Ok::<_, Infallible>(part.clone())));
        let request = stage.http.put(gateway.url("/v1/orders")).body(reqwest::Body::wrap_stream(parts));
        assert_eq!(request.send().await.unwrap().status(), 200);
        assert_eq!(stage.api.last().unwrap().body_length, length as u64);
    };
    upload(4 * MIB).await;
    let before = gateway.peak_kib();
    upload(LENGTH).await;
    let grown = gateway.peak_kib().saturating_sub(before);
    assert!(grown < 4 * 1024, "{grown} KiB for 100 MiB");
}

#[tokio::test]
async fn an_upstream_that_answers_without_a_word_on_the_expectation_gets_the_upload_for_its_success() {
    let (listener, stage) = played("replay: {limit: 10B}\ntimeouts: {expect_continue: 1m}").await;
    let mut caller = Peer::connect(stage.address()).await;
    caller
        .send("POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 27\r\n\r\nmore than can be sent again")
        .await;
    let mut upstream = Peer::accept(&listener).await;
    assert!(upstream.head().await.contains("100-continue"));
    // It sends back what it reads, and begins before it has read anything.
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n").await;
    let body = upstream.take(27).await;
    upstream.send(&body).await;
    caller.until("more than can be sent again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_an_upload_arrives_also_when_its_answer_was_complete_before() {
    const LENGTH: usize = 6 * MIB;
    let more = "replay: {limit: 16MiB}\nlimits: {upstream_idle_connections: 0}";
    let (listener, stage) = played(more).await;
    let upload = Bytes::from("x".repeat(LENGTH));
    // How much there is room for on the way, nobody outside can tell. A little more lay in the gateway, and was lost.
    for unread in (0..LENGTH).step_by(MIB / 50) {
        let asking = tokio::spawn(stage.http.post(stage.url("/v1")).body(upload.clone()).send());
        let mut upstream = Peer::accept(&listener).await;
        upstream.head().await;
        upstream.take(LENGTH - unread).await;
        pause().await;
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        upstream.take(unread).await;
        assert_eq!(asking.await.unwrap().unwrap().text().await.unwrap(), "ok", "{unread}");
    }
}

/// Such a connection moves by itself. A next request on it would hear what comes before its answer only with the
/// answer, and could not become a WebSocket.
#[tokio::test]
async fn a_connection_whose_answer_began_before_its_upload_ended_takes_no_next_request() {
    let (listener, stage) = played("").await;
    let mut caller = Peer::connect(stage.address()).await;
    caller.send("POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345").await;
    let mut early = Peer::accept(&listener).await;
    early.head().await;
    early.take(5).await;
    early.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no").await;
    caller.head().await;
    caller.send("67890").await;
    early.take(5).await;
    early.send("k").await;
    caller.until("ok").await;
    assert_eq!(early.rest().await, "", "it is closed");
    let mut caller = Peer::connect(stage.address()).await;
    caller.send("GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut upstream = Peer::accept(&listener).await;
    upstream.head().await;
    upstream.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n").await;
    assert!(caller.head().await.starts_with("HTTP/1.1 103"), "before there is an answer");
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert!(caller.head().await.starts_with("HTTP/1.1 200"));
}

/// The shorter limit for a body was taken for the answer's, for bodies of fewer bytes than the answer has seconds.
#[tokio::test]
async fn an_answer_to_a_short_upload_has_the_time_of_any_answer() {
    let (listener, stage) = played("timeouts: {body: 200ms, response: 3s}").await;
    let asking = tokio::spawn(stage.http.post(stage.url("/v1")).body("x").send());
    let mut upstream = Peer::accept(&listener).await;
    upstream.head().await;
    upstream.take(1).await;
    let thinks_until = Instant::now() + Duration::from_millis(700);
    while Instant::now() < thinks_until {
        pause().await;
    }
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(asking.await.unwrap().unwrap().status(), 200);
}

/// Each piece was a part of a buffer of 8 KiB, which it kept.
#[tokio::test]
async fn a_body_in_very_short_pieces_is_kept_in_about_its_own_length() {
    const PIECES: usize = 5000;
    let (listener, stage) = played("").await;
    let gateway = Process::start(&stage, &[]).await;
    let upload = async |pieces: usize| {
        let mut caller = Peer::connect(gateway.address()).await;
        caller.send(format!("POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: {pieces}\r\n\r\n")).await;
        let mut upstream = Peer::accept(&listener).await;
        upstream.head().await;
        for _ in 0..pieces {
            caller.send("x").await;
            // The next one comes in a read of its own.
            upstream.take(1).await;
        }
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        assert!(caller.head().await.starts_with("HTTP/1.1 200"));
    };
    upload(10).await;
    let before = gateway.peak_kib();
    upload(PIECES).await;
    let grown = gateway.peak_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB for {PIECES} bytes");
}

/// The second attempt's length was forgotten, and its connections were closed.
#[tokio::test]
async fn an_empty_chunked_body_has_a_length_also_when_it_is_sent_again() {
    let (listener, stage) = played("").await;
    let mut caller = Peer::connect(stage.address()).await;
    caller.send("POST /v1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").await;
    let mut upstream = Peer::accept(&listener).await;
    assert!(upstream.head().await.contains("transfer-encoding: chunked"));
    upstream.until("0\r\n\r\n").await;
    upstream.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").await;
    let mut second = Peer::accept(&listener).await;
    let head = second.head().await;
    assert!(head.contains("content-length: 0"), "{head}");
    second.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let answer = caller.head().await;
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("connection: close"), "{answer}");
    // The connections carry the next requests.
    let mut other = Peer::connect(stage.address()).await;
    for peer in [&mut caller, &mut other] {
        peer.send("GET /v1/next HTTP/1.1\r\nHost: a\r\n\r\n").await;
    }
    for peer in [&mut upstream, &mut second] {
        assert!(peer.head().await.starts_with("GET /v1/next "));
    }
}

#[tokio::test]
async fn a_slow_upload_is_not_taken_for_a_slow_answer() {
    let stage = Plan::default().more("timeouts: {response: 400ms}").start().await;
    stage.ready().await;
    let ticks = tokio::time::interval(Duration::from_millis(100));
    let parts = stream::unfold((0, ticks), |(n, mut ticks)| async move {
        ticks.tick().await;
        (n < 12).then(|| (Ok::<_, Infallible>(Bytes::from_static(b"slowly ")), (n + 1, ticks)))
    });
    let body = reqwest::Body::wrap_stream(parts.boxed());
    let response = stage.http.post(stage.url("/v1/orders")).body(body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(stage.api.last().unwrap().body_length, 84);
}

#[tokio::test]
async fn memory_for_recorded_bodies_is_given_back() {
    let stage = Stage::start().await;
    stage.ready().await;
    for _ in 0..5 {
        assert_eq!(stage.post("/v1/orders", pattern(MIB)).await.status(), 200);
    }
    let (_, metrics) = stage.admin("/metrics").await;
    assert!(metrics.contains("keybearer_replay_bytes 0\n"), "{metrics}");
}

/// It lay there until the caller had read the 401 to its end.
#[tokio::test]
async fn a_body_that_is_not_sent_again_is_given_back_with_the_head_of_the_401() {
    let head = "HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer error=\"insufficient_scope\"\r\n";
    let up = Hostile::start(move |_, _| keep(format!("{head}Content-Length: 10\r\n\r\nhalf "))).await;
    let stage = up.stage("").await;
    let response = stage.post("/v1/orders", pattern(100_000)).await;
    assert_eq!(response.status(), 401);
    let (_, metrics) = stage.admin("/metrics").await;
    assert!(metrics.contains("keybearer_replay_bytes 0\n"), "{metrics}");
}

#[tokio::test]
async fn a_caller_who_leaves_in_the_middle_of_an_upload_harms_nobody() {
    let stage = Stage::start().await;
    stage.ready().await;
    let mut caller = TcpStream::connect(stage.address()).await.unwrap();
    caller.write_all(b"POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\npart").await.unwrap();
    in_flight(&stage, 1).await;
    drop(caller);
    in_flight(&stage, 0).await;
    for _ in 0..5 {
        assert_eq!(stage.post("/v1/orders", pattern(1000)).await.status(), 200);
    }
}

#[tokio::test]
async fn a_caller_that_reads_only_when_all_is_sent_is_no_match_for_an_early_answer() {
    const LENGTH: usize = 32 * MIB;
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = upstream.local_addr().unwrap();
    // Asked first, the upstream would answer without any of it.
    let route = format!("all: {{upstream: \"http://{address}\", profile: account, expect_continue: off}}");
    let stage = Plan::default().routes(&route).start().await;
    stage.ready().await;
    // Answers in full width at once, and takes the upload at the same time.
    let answering = async {
        let (arrived, _) = upstream.accept().await.unwrap();
        let (mut reading, mut writing) = arrived.into_split();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
        let telling = tokio::spawn(async move {
            writing.write_all(head.as_bytes()).await.unwrap();
            writing.write_all(&vec![b'd'; LENGTH]).await.unwrap();
            writing
        });
        let mut received = 0;
        let mut some = vec![0; 64 * 1024];
        while received < LENGTH {
            received += reading.read(&mut some).await.unwrap();
        }
        telling.await.unwrap();
    };
    let calling = async {
        let mut caller = TcpStream::connect(stage.address()).await.unwrap();
        let head = format!("POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n");
        caller.write_all(head.as_bytes()).await.unwrap();
        caller.write_all(&vec![b'u'; LENGTH]).await.unwrap();
        let (mut received, mut some) = (0, vec![0; 64 * 1024]);
        while received < LENGTH {
            received += caller.read(&mut some).await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, async { tokio::join!(answering, calling) }).await.unwrap();
}

/// Waits until the gateway counts so many requests on their way.
async fn in_flight(stage: &Stage, count: usize) {
    let line = format!("keybearer_in_flight{{route=\"orders\",profile=\"account\"}} {count}\n");
    let counted = async {
        while !stage.admin("/metrics").await.1.contains(&line) {
            pause().await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.expect("the gateway notices");
}
