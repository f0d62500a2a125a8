//! The safety contract of `docs/security.md`: what holds unless somebody has turned it off.

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
};

use crate::{
    front::{Peer, played},
    hostile::{Hostile, OK, Step, forwarded, get, keep, read_all, refused, statuses},
    stage::{PATIENCE, Plan, Stage, eventually, pause},
};

#[tokio::test]
async fn a_header_name_with_an_underscore_is_refused_where_a_credential_goes_on() {
    let up = Hostile::saying(OK).await;
    let request = get("X_Admin: 1\r\n");
    let stage = up.stage("").await;
    let answer = refused(&stage, &up, &request).await;
    assert_eq!(statuses(&answer), ["400"]);
    assert!(answer.contains("underscores: allow"), "{answer}");
    for route in ["profile: account, underscores: allow", "profile: none"] {
        let stage = up.stage_with(route, "").await;
        assert!(forwarded(&stage, &up, &request).await.to_lowercase().contains("x_admin: 1"), "{route}");
    }
}

#[tokio::test]
async fn what_a_caller_says_of_where_it_comes_from_is_dropped_and_told_anew_by_choice() {
    let up = Hostile::saying(OK).await;
    let spoofed = get("X-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n");
    let stage = up.stage("").await;
    let seen = forwarded(&stage, &up, &spoofed).await.to_lowercase();
    assert!(!seen.contains("6.6.6.6") && !seen.contains("forwarded"), "{seen}");
    let stage = up.stage("forwarded: x").await;
    let seen = forwarded(&stage, &up, &spoofed).await.to_lowercase();
    assert!(seen.contains("x-forwarded-for: 127.0.0.1\r\n") && !seen.contains("6.6.6.6"), "{seen}");
    assert!(seen.contains("x-forwarded-proto: http\r\nx-forwarded-host: a\r\n"), "{seen}");
    let stage = up.stage_with("profile: account, forwarded: rfc7239", "forwarded: x").await;
    let seen = forwarded(&stage, &up, &spoofed).await.to_lowercase();
    assert!(seen.contains("forwarded: for=127.0.0.1;host=\"a\";proto=http\r\n"), "{seen}");
}

#[tokio::test]
async fn a_body_over_the_routes_limit_is_refused_known_or_not() {
    let up = Hostile::saying(OK).await;
    let stage = up.stage_with("profile: account, body_bytes: 10B", "").await;
    let known = "POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world";
    assert_eq!(statuses(&refused(&stage, &up, known).await), ["413"]);
    let head = "POST /v1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunked = format!("{head}b\r\nhello world\r\n0\r\n\r\n");
    assert_eq!(statuses(&refused(&stage, &up, &chunked).await), ["413"]);
    let short = "POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nConnection: close\r\n\r\nhello worl";
    assert!(forwarded(&stage, &up, short).await.ends_with("hello worl"));
}

#[tokio::test]
async fn a_final_401_says_whose_credential_was_refused() {
    let stage = Stage::start().await;
    stage.ready().await;
    stage.idp.set_roles(crate::stage::CLIENT, &[]);
    stage.api.answer_next_with(401, &[("www-authenticate", "Bearer error=\"insufficient_scope\"")], "", 1);
    let response = stage.get("/v1/orders").await;
    assert_eq!(response.status(), 401);
    assert!(response.headers()["www-authenticate"].to_str().unwrap().contains("insufficient_scope"));
    let status = response.headers()["proxy-status"].to_str().unwrap();
    assert!(status.starts_with("keybearer; received-status=401;"), "{status}");
    assert!(status.contains("the gateway's credential, not the caller's"), "{status}");
}

#[tokio::test]
async fn a_401_to_a_request_without_our_credential_is_the_callers_own() {
    let up = Hostile::saying("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").await;
    let stage = up.stage_with("profile: none", "").await;
    let answer = stage.raw(get("")).await;
    assert!(!answer.to_lowercase().contains("proxy-status"), "{answer}");
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_not_waited_for() {
    let up = Hostile::saying(OK).await;
    let stage = up.stage("timeouts: {body: 100ms}").await;
    let mut stream = TcpStream::connect(stage.address()).await.unwrap();
    let head = "POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhello";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_all(&mut stream).await;
    assert_eq!(statuses(&answer), ["408"], "{answer}");
}

#[tokio::test]
async fn an_answer_may_be_silent_for_longer_than_a_caller_may_be_idle() {
    let (upstream, address) = raw_upstream().await;
    let stage = stage_for(&address, "profile: account", "timeouts: {idle: 50ms}").await;
    let serve = async {
        let (mut reader, mut writer) = accept(&upstream).await;
        head(&mut reader).await;
        writer.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await.unwrap();
        // Some three hundred milliseconds of silence.
        for _ in 0..60 {
            pause().await;
        }
        writer.write_all(b"1\r\nb\r\n0\r\n\r\n").await.unwrap();
        head(&mut reader).await;
    };
    let caller = async {
        let response = stage.get("/v1/events").await;
        assert_eq!(response.text().await.unwrap(), "ab");
    };
    tokio::select! { () = serve => {}, () = caller => {} }
}

#[tokio::test]
async fn informational_responses_pass_and_an_endless_row_of_them_does_not() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n";
    let up = Hostile::start(move |_, request| {
        let count = if request.contains("/endless") { 200 } else { 2 };
        keep(format!("{}{OK}", hints.repeat(count)))
    })
    .await;
    let stage = up.stage("").await;
    let answer = stage.raw(get("")).await.to_lowercase();
    assert_eq!(statuses(&answer.replace("http/1.1", "HTTP/1.1")), ["103", "103", "200"]);
    assert!(answer.contains("link: </a.css>\r\n\r\n") && !answer.contains("x-hop"), "{answer}");
    // HTTP/1.0 knows none.
    assert!(!stage.raw("GET /v1 HTTP/1.0\r\n\r\n").await.contains(" 103 "));
    let endless = stage.raw("GET /endless HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(endless.contains(" 502 "), "{endless}");
}

#[tokio::test]
async fn trailers_reach_callers_that_can_read_them_and_only_what_may_come_late() {
    let up = Hostile::saying(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum, set-cookie\r\n\r\n\
         2\r\nok\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\n\r\n",
    )
    .await;
    let stage = up.stage("").await;
    let answer = stage.raw(get("TE: trailers\r\n")).await.to_lowercase();
    assert!(answer.ends_with("0\r\nx-sum: 1\r\n\r\n"), "{answer}");
    let answer = stage.raw(get("")).await.to_lowercase();
    assert!(answer.ends_with("0\r\n\r\n") && !answer.contains("x-sum"), "{answer}");
}

#[tokio::test]
async fn an_answer_with_trailers_gives_its_connection_back() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
                          2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n";
    let (listener, stage) = played("").await;
    let serving = tokio::spawn(async move {
        let mut upstream = Peer::accept(&listener).await;
        for _ in 0..4 {
            upstream.head().await;
            upstream.send(ANSWER).await;
        }
    });
    let mut caller = Peer::connect(stage.address()).await;
    for (te, end) in [("TE: trailers\r\n", "0\r\nx-sum: 1\r\n\r\n"), ("", "0\r\n\r\n")].repeat(2) {
        caller.send(format!("GET /v1 HTTP/1.1\r\nHost: a\r\n{te}\r\n")).await;
        caller.until(end).await;
    }
    serving.await.unwrap();
}

#[tokio::test]
async fn options_go_no_further_than_they_may() {
    let up = Hostile::saying(OK).await;
    let stage = up.stage("").await;
    let options = |left: &str| {
        format!("OPTIONS /v1 HTTP/1.1\r\nHost: a\r\nMax-Forwards: {left}\r\nConnection: close\r\n\r\n")
    };
    let answer = refused(&stage, &up, &options("0")).await.to_lowercase();
    assert!(answer.starts_with("http/1.1 200") && answer.contains("allow: get, head"), "{answer}");
    assert!(forwarded(&stage, &up, &options("3")).await.to_lowercase().contains("max-forwards: 2\r\n"));
    assert_eq!(statuses(&refused(&stage, &up, &options("many")).await), ["400"]);
}

// Uploads over the replay limit: the upstream is asked before the first byte.

const UPLOAD: usize = 100_000;

async fn raw_upstream() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

async fn stage_for(address: &str, route: &str, more: &str) -> Stage {
    let route = format!("all: {{upstream: \"http://{address}\", {route}}}");
    let stage = Plan::default().routes(&route).more(&format!("workers: 1\n{more}")).start().await;
    stage.ready().await;
    stage
}

type Writer = tokio::net::tcp::OwnedWriteHalf;

async fn accept(listener: &TcpListener) -> (BufReader<OwnedReadHalf>, Writer) {
    let (reader, writer) = listener.accept().await.unwrap().0.into_split();
    (BufReader::new(reader), writer)
}

/// One request's head, in lower case.
async fn head(reader: &mut BufReader<OwnedReadHalf>) -> String {
    let mut text = String::new();
    while !text.ends_with("\r\n\r\n") && reader.read_line(&mut text).await.unwrap() > 0 {}
    text.to_lowercase()
}

async fn upload(stage: &Stage) -> (u16, String) {
    let sending = stage.post("/v1/files", vec![b'x'; UPLOAD]);
    let response = tokio::time::timeout(PATIENCE, sending).await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn a_stale_token_costs_no_upload() {
    let (upstream, address) = raw_upstream().await;
    let stage = stage_for(&address, "profile: account, replay: {limit: 1KiB}", "").await;
    let serve = async {
        let (mut reader, mut writer) = accept(&upstream).await;
        assert!(head(&mut reader).await.contains("expect: 100-continue\r\n"));
        writer.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let (mut second, mut writer) = accept(&upstream).await;
        head(&mut second).await;
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        second.read_exact(&mut vec![0; UPLOAD]).await.unwrap();
        writer.write_all(OK.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).await.unwrap();
        rest.len()
    };
    let (sent_in_vain, answer) = tokio::join!(serve, upload(&stage));
    assert_eq!(answer, (200, "ok".into()));
    assert_eq!(sent_in_vain, 0, "bytes of the body that were sent with the stale token");
    eventually("the second token", || stage.idp.issued() == 2).await;
}

#[tokio::test]
async fn an_upstream_that_knows_no_expectation_gets_the_body_after_a_moment() {
    let (upstream, address) = raw_upstream().await;
    let more = "timeouts: {expect_continue: 50ms}";
    let stage = stage_for(&address, "profile: account, replay: {limit: 1KiB}", more).await;
    let serve = async {
        let (mut reader, mut writer) = accept(&upstream).await;
        assert!(head(&mut reader).await.contains("expect: 100-continue\r\n"));
        reader.read_exact(&mut vec![0; UPLOAD]).await.unwrap();
        writer.write_all(OK.as_bytes()).await.unwrap();
        head(&mut reader).await
    };
    tokio::select! {
        _ = serve => panic!("the upstream was left"),
        answer = upload(&stage) => assert_eq!(answer, (200, "ok".into())),
    }
}

#[tokio::test]
async fn an_upstream_that_refuses_the_expectation_is_asked_without() {
    let (upstream, address) = raw_upstream().await;
    let stage = stage_for(&address, "profile: account, replay: {limit: 1KiB}", "").await;
    let serve = async {
        let (mut reader, mut writer) = accept(&upstream).await;
        head(&mut reader).await;
        writer.write_all(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let (mut reader, mut writer) = accept(&upstream).await;
        assert!(!head(&mut reader).await.contains("expect:"));
        reader.read_exact(&mut vec![0; UPLOAD]).await.unwrap();
        writer.write_all(OK.as_bytes()).await.unwrap();
        head(&mut reader).await
    };
    tokio::select! {
        _ = serve => panic!("the upstream was left"),
        answer = upload(&stage) => assert_eq!(answer, (200, "ok".into())),
    }
}

#[tokio::test]
async fn nobody_is_asked_where_the_route_says_so_or_the_body_could_be_replayed() {
    for route in ["replay: {limit: 1KiB}, expect_continue: off", "replay: {limit: 1MiB}"] {
        let up = Hostile::start(|_, _| Step::Keep(OK.into())).await;
        let stage = up.stage_with(&format!("profile: account, {route}"), "").await;
        assert_eq!(upload(&stage).await, (200, "ok".into()));
        assert!(!up.requests()[0].to_lowercase().contains("expect:"), "{route}");
    }
}
