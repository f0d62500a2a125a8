//! Whose time runs: the caller's, the upstream's, and never that of a neighbour.

use std::{convert::Infallible, future::pending, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use keybearer::demo::idp::Behaviour;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::{Instant, interval, timeout},
};

use crate::{
    hostile::{Hostile, OK, Step, keep, statuses},
    peer::{Act, Peer, Scripted},
    stage::{PATIENCE, Plan, Stage, eventually, fault},
};

const MIB: usize = 1024 * 1024;

/// One worker, so that there is one pool.
async fn gateway(upstream: &str, more: &str) -> Stage {
    let routes = format!("r: {{match: {{path: /v1}}, upstream: {upstream}, profile: account}}");
    let stage = Plan::default().more(&format!("workers: 1\n{more}")).routes(&routes).start().await;
    stage.ready().await;
    stage
}

fn http2(url: &str) -> String {
    format!("{{url: \"{url}\", http2: prior_knowledge}}")
}

/// A body whose pieces come `period` apart.
fn in_pieces(pieces: usize, length: usize, period: Duration) -> reqwest::Body {
    let parts = stream::unfold((0, interval(period)), move |(n, mut ticks)| async move {
        ticks.tick().await;
        (n < pieces).then(|| (Ok::<_, Infallible>(Bytes::from(vec![b'x'; length])), (n + 1, ticks)))
    });
    reqwest::Body::wrap_stream(parts.boxed())
}

/// Five of them filled the window of the connection that all requests shared, and nobody got more than a head.
#[tokio::test]
async fn callers_that_do_not_read_large_answers_of_an_http_2_upstream_hold_up_nobody_else() {
    let peer = Peer::start(None).await;
    let stage = gateway(&http2(&peer.url("http")), "").await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        let mut caller = TcpStream::connect(stage.address()).await.unwrap();
        caller.write_all(b"GET /v1/large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        silent.push(caller);
    }
    eventually("all are there", || peer.seen().len() == 8).await;
    for number in 0..50 {
        let answered = timeout(PATIENCE, async { stage.get("/v1").await.text().await.unwrap() }).await;
        assert_eq!(answered.unwrap_or_else(|_| panic!("request {number} waits")), "Ok(0)");
    }
}

/// Each request with a body had twice the time.
#[tokio::test]
async fn a_request_with_a_body_has_no_more_time_for_its_answer_than_one_without() {
    let up = Hostile::start(|_, _| Step::Silence).await;
    let stage = up.stage("timeouts: {response: 1500ms}").await;
    for length in [0, 100, 100_000] {
        let begun = Instant::now();
        let (status, code, _) = fault(stage.post("/v1", vec![b'x'; length]).await).await;
        assert_eq!((status, code.as_str()), (504, "upstream_timeout"));
        let waited = begun.elapsed();
        assert!((1500..2800).contains(&waited.as_millis()), "{length} bytes: {waited:?}");
    }
}

/// A pause that was longer than twice the time for answers was a 408, whatever `timeouts.body` said.
#[tokio::test]
async fn a_caller_may_pause_for_longer_than_the_upstream_may_think() {
    let stage = Plan::default().more("timeouts: {response: 300ms}").start().await;
    stage.ready().await;
    let body = in_pieces(2, 50, Duration::from_secs(1));
    let response = stage.http.post(stage.url("/v1/orders")).body(body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(stage.api.last().unwrap().body_length, 100);
}

/// An upstream that takes 400 kB of a body in each tenth of a second, and then answers.
async fn takes_slowly(mut upstream: TcpStream, bytes: usize) -> TcpStream {
    let (mut ticks, mut left) = (interval(Duration::from_millis(100)), bytes);
    let mut piece = vec![0; 400_000];
    while left > 0 {
        ticks.tick().await;
        let length = left.min(piece.len());
        upstream.read_exact(&mut piece[..length]).await.unwrap();
        left -= length;
    }
    upstream
}

async fn head(upstream: &mut TcpStream) {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(upstream.read_u8().await.unwrap());
    }
}

/// The time for the answer ran while the recorded body was still being taken, and the caller got the 401.
#[tokio::test]
async fn a_second_attempt_whose_body_moves_on_has_the_time_of_the_first() {
    const LENGTH: usize = 12 * MIB;
    let socket = TcpSocket::new_v4().unwrap();
    // What lies in the system's buffers has left as far as the gateway can tell.
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(8).unwrap();
    let url = format!("\"http://{}\"", listener.local_addr().unwrap());
    let stage = gateway(&url, "replay: {limit: 32MiB}\ntimeouts: {response: 1500ms}").await;
    let serving = tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        head(&mut first).await;
        first.read_exact(&mut vec![0; LENGTH]).await.unwrap();
        first.write_all(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await.unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        head(&mut second).await;
        let mut second = takes_slowly(second, LENGTH).await;
        second.write_all(OK.as_bytes()).await.unwrap();
        second
    });
    assert_eq!(stage.post("/v1", vec![b'x'; LENGTH]).await.status(), 200);
    drop(serving.await.unwrap());
}

/// The first 401 kept its connection, and the second attempt waited for one that such an upstream does not take.
#[tokio::test]
async fn an_upstream_that_takes_one_connection_at_a_time_gets_the_second_attempt_over_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stage = gateway(&format!("\"http://{}\"", listener.local_addr().unwrap()), "").await;
    let serving = async {
        let (mut only, _) = listener.accept().await.unwrap();
        head(&mut only).await;
        only.write_all(b"HTTP/1.1 401 No\r\nContent-Length: 7\r\n\r\nrefused").await.unwrap();
        head(&mut only).await;
        only.write_all(OK.as_bytes()).await.unwrap();
        pending::<()>().await;
    };
    tokio::select! {
        () = serving => {}
        response = stage.get("/v1") => assert_eq!(response.status(), 200),
    }
}

/// What was read of the first 401 is the caller's answer where there is none that is better.
#[tokio::test]
async fn a_401_that_was_read_ahead_arrives_whole() {
    let long = "x".repeat(200_000);
    for (number, body) in ["refused", "", &long].into_iter().enumerate() {
        let answer = format!("HTTP/1.1 401 No\r\nX-First: 1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let up = Hostile::start(move |request, _| match request {
            // Nothing is said to the second attempt.
            0 => keep(&answer),
            _ => Step::Close(Vec::new()),
        })
        .await;
        let stage = up.stage("").await;
        let response = stage.get("/v1").await;
        assert_eq!(response.status(), 401);
        assert_eq!(response.headers()["x-first"], "1");
        assert_eq!(response.text().await.unwrap(), body, "{number}");
    }
}

/// It was given an end where it had none: with a length the next answer on the caller's connection passed for the rest.
#[tokio::test]
async fn a_401_that_breaks_off_while_a_token_is_waited_for_does_not_look_whole() {
    for framing in ["Content-Length: 50\r\n\r\nnope!", "Transfer-Encoding: chunked\r\n\r\n5\r\nnope!\r\n"] {
        let broken = format!("HTTP/1.1 401 No\r\n{framing}");
        let up = Hostile::start(move |request, _| match request {
            0 => Step::Close(broken.clone().into_bytes()),
            _ => keep(OK),
        })
        .await;
        let stage = up.stage("").await;
        stage.ready().await;
        stage.idp.set_delay(Duration::from_millis(300));
        stage.idp.set_behaviour(Behaviour::Status(503));
        let answer =
            stage.raw("GET /v1 HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/next HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(statuses(&answer), ["401"], "{answer}");
        assert!(answer.contains("nope!") && !answer.contains("\r\n0\r\n"), "{answer}");
        assert!(!answer.to_lowercase().contains("content-length: 5\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_401_that_was_read_ahead_has_its_trailers() {
    let head = "HTTP/1.1 401 No\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n";
    let up = Hostile::start(move |request, _| match request {
        0 => keep(format!("{head}5\r\nnope!\r\n0\r\nX-Sum: 7\r\n\r\n")),
        _ => Step::Close(Vec::new()),
    })
    .await;
    let stage = up.stage("").await;
    let asked = "GET /v1 HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n";
    let answer = stage.raw(asked).await.to_lowercase();
    assert!(answer.ends_with("nope!\r\n0\r\nx-sum: 7\r\n\r\n"), "{answer}");
}

/// Its connection carried the second attempt also of a POST, which may not be sent again where that closes without a word.
#[tokio::test]
async fn an_upstream_that_closes_behind_its_401_without_a_word_costs_no_post() {
    let up = Hostile::start(|request, _| match request % 2 {
        0 => Step::Close(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno".to_vec()),
        _ => keep(OK),
    })
    .await;
    let plan = Plan::default().more("workers: 1").profile("recovery: {min_token_age: 0s, min_interval: 0s}");
    let stage =
        plan.routes(&format!("all: {{upstream: \"http://{}\", profile: account}}", up.address)).start().await;
    stage.ready().await;
    for number in 0..20 {
        assert_eq!(stage.post("/v1", vec![b'x'; 100]).await.status(), 200, "{number}");
    }
}

/// Each request that was given up began the silence anew, and a caller with less patience than that stayed there.
#[tokio::test]
async fn an_impatient_caller_gets_away_from_a_silent_connection() {
    let script = |connection, request| {
        if connection == 1 && request > 1 { Act::Silence } else { Act::Answer }
    };
    let peer = Scripted::start(script).await;
    let stage = gateway(&http2(&peer.url()), "").await;
    assert_eq!(stage.get("/v1").await.status(), 200);
    for _ in 0..2 {
        timeout(Duration::from_secs(3), stage.get("/v1")).await.expect_err("it is not answered");
    }
    let answered = timeout(PATIENCE, stage.get("/v1")).await.expect("it goes elsewhere");
    assert_eq!(answered.status(), 200);
}

/// While a first request waited in vain, all others were put beside it, for as long as it waited.
#[tokio::test]
async fn a_connection_that_is_silent_gets_no_further_requests_while_one_still_waits() {
    let script = |connection, request| {
        if connection == 1 && request == 2 { Act::Silence } else { Act::Answer }
    };
    let peer = Scripted::start(script).await;
    let stage = gateway(&http2(&peer.url()), "").await;
    assert_eq!(stage.get("/v1").await.status(), 200);
    let mut waiting = tokio::spawn(stage.http.get(stage.url("/v1")).send());
    // A little more than what is taken for silence.
    timeout(Duration::from_millis(5200), &mut waiting).await.expect_err("it is not answered");
    for _ in 0..3 {
        let answered = timeout(PATIENCE, stage.get("/v1")).await.expect("it goes elsewhere");
        assert_eq!(answered.status(), 200);
    }
    assert_eq!(peer.accepted(), 2);
    waiting.abort();
}
