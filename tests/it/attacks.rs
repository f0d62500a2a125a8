//! Attacks on the HTTP/1.1 data path: callers and upstreams that write raw bytes.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    hostile::{Hostile, OK, Step, close, forwarded, get, is_whole, keep, read_all, refused, statuses},
    process::Process,
    stage::{PATIENCE, Plan, Stage, eventually, pause, raw},
};

/// Sends `request` in two pieces, cut at `at`, and reads to the end.
async fn in_two(address: SocketAddr, request: &str, at: usize) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (first, second) = request.as_bytes().split_at(at);
    stream.write_all(first).await.unwrap();
    // Long enough that most cuts arrive as two reads; none has to.
    pause().await;
    stream.write_all(second).await.unwrap();
    read_all(&mut stream).await
}

pub(crate) async fn gauge(stage: &Stage, name: &str) -> u64 {
    let (_, metrics) = stage.admin("/metrics").await;
    let lines = metrics.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Waits until a caller who left has left nothing behind.
pub(crate) async fn nothing_is_left(stage: &Stage, up: &Hostile, what: &str) {
    let empty = async {
        while gauge(stage, "keybearer_in_flight{").await
            + gauge(stage, "keybearer_replay_bytes").await
            + gauge(stage, "keybearer_connections{").await
            > 0
            || up.open() > 0
        {
            pause().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(3), empty).await.is_ok(), "{what} leaves something");
}

#[tokio::test]
async fn a_pipeline_cut_at_any_byte_means_the_same() {
    let up = Hostile::saying(OK).await;
    let stage = up.stage("").await;
    let whole = "\r\nPOST /v1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
        5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n\
        GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n\
        PUT /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi\
        GET /v1/bad HTTP/1.1\r\nHost: a\r\nX A: b\r\n\r\nGET /v1/never HTTP/1.1\r\nHost: a\r\n\r\n";
    for at in 1..whole.len() {
        let before = up.count();
        assert_eq!(statuses(&in_two(stage.address(), whole, at).await), ["200", "200", "200", "400"], "{at}");
        let seen = up.requests().split_off(before);
        assert_eq!(seen.len(), 3, "{at}");
        assert!(!seen[0].to_lowercase().contains("x: y"), "{at}: a trailer came through");
        assert!(seen[2].ends_with("\r\n\r\nhi"), "{at}");
    }
}

#[tokio::test]
async fn a_sloppy_chunk_is_refused_wherever_its_bytes_are_cut() {
    let up = Hostile::saying(OK).await;
    let stage = up.stage("").await;
    let whole = "POST /v1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3 \r\nabc\r\n\
        0\r\n\r\nGET /v1/never HTTP/1.1\r\nHost: a\r\n\r\n";
    for at in 1..whole.len() {
        assert_eq!(statuses(&in_two(stage.address(), whole, at).await), ["400"], "{at}");
    }
    // The part that was sound may have begun its way; no request ever got to its end.
    assert_eq!(up.count(), 0);
}

#[tokio::test]
async fn a_very_long_pipeline_is_answered_to_its_end() {
    let up = Hostile::saying(OK).await;
    let stage = up.stage("").await;
    let mut stream = TcpStream::connect(stage.address()).await.unwrap();
    let (mut read, mut write) = stream.split();
    let text = "GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000) + &get("");
    let mut answer = Vec::new();
    let (written, all) = tokio::join!(write.write_all(text.as_bytes()), read.read_to_end(&mut answer));
    written.unwrap();
    all.unwrap();
    assert_eq!(statuses(&String::from_utf8_lossy(&answer)).len(), 1001);
}

#[tokio::test]
async fn odd_but_legal_requests_carry_one_credential_and_nothing_of_the_connection() {
    let up = Hostile::saying(OK).await;
    let stage = up.stage("").await;
    for request in [
        "DELETE /v1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \tCHUNKED \r\nConnection: close\r\n\r\n5\r\nhello\r\n\
         0\r\nAuthorization: Bearer evil\r\nHost: evil\r\nContent-Length: 3\r\n\r\n",
        "GET http://A.example:80/v1 HTTP/1.1\r\nHost: a.EXAMPLE\r\nConnection: close\r\n\r\n",
        "GET http://[::1]:80/v1 HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n",
        "GET /v1 HTTP/1.0\r\n\r\n",
        "GET /v1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0005\r\n\r\nhello",
        "GET /v1 HTTP/1.1\r\nHost:\ta\t\r\nX-O: \u{e9}\r\nx!#$%&'*+-.^`|~: 1\r\nConnection:\tclose\r\n\r\n",
        "GET /v1 HTTP/1.1\r\nHost: a\r\nConnection: close, evil\r\nEvil: 1\r\nAuthorization: Bearer evil\r\n\
         authorization: evil\r\nProxy-Authorization: evil\r\nTE: evil\r\nKeep-Alive: evil\r\n\r\n",
        "POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\nhello",
    ] {
        let seen = forwarded(&stage, &up, request).await.to_lowercase();
        assert_eq!(seen.matches("\r\nauthorization: bearer ey").count(), 1, "{seen}");
        assert_eq!(seen.matches("authorization").count(), 1, "{seen}");
        assert_eq!(seen.matches("\r\nhost: ").count(), 1, "{seen}");
        for forbidden in ["evil", "\r\nconnection:", "\r\nte:", "\r\nexpect:", "keep-alive"] {
            assert!(!seen.contains(forbidden), "{forbidden} in {seen}");
        }
        assert_eq!(seen.ends_with("hello"), request.ends_with("hello"), "{seen}");
    }
}

#[tokio::test]
async fn heads_at_their_limits_pass_and_one_more_does_not() {
    let up = Hostile::saying(OK).await;
    let stage = up.stage("limits: {headers: 20, header_bytes: 1KiB, uri_bytes: 1KiB}").await;
    let fields = |n: usize| (0..n).map(|i| format!("x-{i}: 1\r\n")).collect::<String>();
    forwarded(&stage, &up, &get(&fields(18))).await;
    assert!(refused(&stage, &up, &get(&fields(19))).await.starts_with("HTTP/1.1 431 "));
    // What counts are the field lines with their ends, without the empty line.
    let rest = "Host: a\r\nConnection: close\r\nX: \r\n".len();
    forwarded(&stage, &up, &get(&format!("X: {}\r\n", "v".repeat(1024 - rest)))).await;
    let over = get(&format!("X: {}\r\n", "v".repeat(1025 - rest)));
    assert!(refused(&stage, &up, &over).await.starts_with("HTTP/1.1 431 "));
    let target =
        |n: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "p".repeat(n - 1));
    forwarded(&stage, &up, &target(1024)).await;
    assert!(refused(&stage, &up, &target(1025)).await.starts_with("HTTP/1.1 414 "));
}

#[tokio::test]
async fn nothing_behind_an_expectation_that_was_refused_is_taken_for_a_request() {
    let up = Hostile::saying(OK).await;
    let stage = up.stage("").await;
    let mut stream = TcpStream::connect(stage.address()).await.unwrap();
    let head = "POST /v1/%2f HTTP/1.1\r\nHost: a\r\nContent-Length: 41\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut some = [0; 12];
    stream.read_exact(&mut some).await.unwrap();
    assert_eq!(&some, b"HTTP/1.1 400");
    // It may be closed already.
    let _ = stream.write_all(b"GET /v1/as-body HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(statuses(&read_all(&mut stream).await), [""; 0]);
    assert_eq!(up.count(), 0);
}

#[tokio::test]
async fn bytes_behind_an_answer_are_never_another_callers_answer() {
    let poison = format!("{OK}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
    let head = "HTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    for answer in [poison.as_str(), head] {
        let answer = answer.to_owned();
        let up = Hostile::start(move |_, _| keep(&answer)).await;
        let stage = up.stage("").await;
        let mut stream = TcpStream::connect(stage.address()).await.unwrap();
        let one = "GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n";
        stream.write_all((one.repeat(100) + &get("")).as_bytes()).await.unwrap();
        let answer = read_all(&mut stream).await;
        assert_eq!(statuses(&answer).len(), 101);
        assert!(!answer.contains("poison"));
    }
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_never_the_next_callers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = format!("all: {{upstream: \"http://{}\", profile: account}}", listener.local_addr().unwrap());
    let poisoned = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&poisoned);
    // Ends with the test's runtime.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = Vec::new();
            while !is_whole(&bytes) {
                assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
            }
            stream.write_all(OK.as_bytes()).await.unwrap();
            pause().await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison").await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move { stream.read_to_end(&mut bytes).await });
        }
    });
    let stage = Plan::default().routes(&route).more("workers: 1").start().await;
    stage.ready().await;
    for n in 1..=30 {
        assert_eq!(stage.get("/v1").await.text().await.unwrap(), "ok");
        eventually("the poison is sent", || poisoned.load(Ordering::SeqCst) == n).await;
    }
}

#[tokio::test]
async fn answers_that_are_no_http_become_a_502() {
    let headers: String = (0..10_000).map(|i| format!("x-{i}: 1\r\n")).collect();
    let large = "a".repeat(1_000_000);
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX: ab\r\n cd\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX : ab\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 99 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 1000 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "hello",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "",
        &format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: 2\r\n\r\nok"),
        &format!("HTTP/1.1 200 OK\r\nX: {large}\r\nContent-Length: 2\r\n\r\nok"),
    ] {
        let bytes = answer.to_owned();
        let up = Hostile::start(move |_, _| close(&bytes)).await;
        let stage = up.stage("").await;
        let got = stage.raw(get("")).await;
        assert!(got.starts_with("HTTP/1.1 502 ") && got.contains("upstream_protocol"), "{answer:.80} {got}");
        assert_eq!(up.count(), 1, "{answer:.80}");
    }
}

/// What an upstream says of itself passes as it is, however long; what would be another line or answer does not pass.
#[tokio::test]
async fn no_field_of_an_upstream_splits_its_answer() {
    let long = "v".repeat(10_000);
    let (cookie, location) =
        (format!("Set-Cookie: a={long}"), format!("Location: /{long}?next=%0d%0aX-Evil:%201"));
    let up = Hostile::start(move |_, request| {
        let split = match request.split(' ').nth(1).unwrap() {
            "/cr" => "Location: /a\rX-Evil: 1",
            "/nul" => "Set-Cookie: a=\0b",
            "/fold" => "Location: /a\r\n X-Evil: 1",
            "/name" => "Set-Cookie\r: a\r\nX-Evil: 1",
            _ => "X-Sound: 1",
        };
        close(format!(
            "HTTP/1.1 302 Found\r\n{cookie}\r\n{location}\r\n{split}\r\nContent-Length: 2\r\n\r\nok"
        ))
    })
    .await;
    let stage = up.stage("").await;
    for path in ["/cr", "/nul", "/fold", "/name"] {
        let answer = stage.raw(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(statuses(&answer), ["502"], "{path}: {answer}");
        assert!(!answer.to_lowercase().contains("x-evil"), "{path}: {answer}");
    }
    let response = stage.get("/sound").await;
    assert_eq!(response.status(), 302);
    assert_eq!(response.headers()["set-cookie"], format!("a={long}"));
    assert_eq!(response.headers()["location"], format!("/{long}?next=%0d%0aX-Evil:%201"));
    assert!(!response.headers().contains_key("x-evil"));
}

/// Nothing is decompressed: neither what is in it nor how large it would become concerns the gateway.
#[tokio::test]
async fn a_compressed_answer_passes_as_it_is() {
    let up = Hostile::saying("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 7\r\n\r\nno gzip")
        .await;
    let stage = up.stage("").await;
    let response = stage.get("/v1").await;
    assert_eq!(response.headers()["content-encoding"], "gzip");
    assert_eq!(response.text().await.unwrap(), "no gzip");
    let seen = up.requests().pop().unwrap().to_lowercase();
    assert!(!seen.contains("accept-encoding"), "nothing is asked for in a caller's name: {seen}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_looks_complete() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
    ] {
        let up = Hostile::start(move |_, _| close(answer)).await;
        let stage = up.stage("").await;
        // Head and end may come at once or one after the other; the caller is told the status in any case.
        for _ in 0..20 {
            let got = stage.http.get(stage.url("/v1")).send().await.expect("a head");
            assert!(got.bytes().await.is_err(), "{answer}");
        }
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_never_looks_complete() {
    let up = Hostile::saying(OK).await;
    let stage = up.stage("").await;
    for framing in ["Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "Content-Length: 9\r\n\r\nhello"] {
        let mut stream = TcpStream::connect(stage.address()).await.unwrap();
        let request = format!("POST /v1 HTTP/1.1\r\nHost: a\r\n{framing}");
        stream.write_all(request.as_bytes()).await.unwrap();
        eventually("the upstream is reached", || up.open() > 0).await;
        drop(stream);
        nothing_is_left(&stage, &up, framing).await;
    }
    assert_eq!(up.count(), 0);
}

#[tokio::test]
async fn a_401_however_odd_is_recovered_and_its_connection_not_trusted() {
    let large = format!("HTTP/1.1 401 No\r\nContent-Length: 9000000\r\n\r\n{}", "x".repeat(9_000_000));
    for (answer, closes) in [
        ("HTTP/1.1 401 No\r\nContent-Length: 10\r\n\r\nab", true),
        ("HTTP/1.1 401 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab", true),
        ("HTTP/1.1 401 No\r\nContent-Length: 10\r\n\r\n", false),
        ("HTTP/1.1 401 No\r\n\r\nab", true),
        (
            "HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
            false,
        ),
        (&large, false),
    ] {
        let bytes = answer.to_owned();
        let up = Hostile::start(move |n, _| match (n, closes) {
            (0, true) => close(&bytes),
            (0, false) => keep(&bytes),
            _ => keep(OK),
        })
        .await;
        let stage = up.stage("").await;
        for _ in 0..3 {
            let got = stage.post("/v1", b"hello".to_vec()).await;
            assert_eq!((got.status().as_u16(), got.text().await.unwrap().as_str()), (200, "ok"));
        }
        assert_eq!(up.count(), 4, "{answer:.60}");
    }
}

#[tokio::test]
async fn a_post_whose_connection_breaks_is_never_sent_twice() {
    for first in [0, 1] {
        let up = Hostile::start(move |n, _| if n == first { close("") } else { keep(OK) }).await;
        let stage = up.stage("").await;
        let post = "POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
        let last = "POST /v1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
        let answer = stage.raw(format!("{post}{last}")).await;
        let mut expected = ["200", "200"];
        expected[first] = "502";
        assert_eq!(statuses(&answer), expected);
        assert_eq!(up.count(), 2);
    }
}

#[tokio::test]
async fn a_caller_who_hangs_up_leaves_nothing_behind() {
    let up = Hostile::start(|_, request| {
        if request.contains("/stall") {
            Step::Silence
        } else {
            keep("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok")
        }
    })
    .await;
    let stage = up.stage("").await;
    for request in [
        "",
        "GET /v1 HTTP/1.1\r\nHo",
        "GET /stall HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /half HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhello",
    ] {
        let mut stream = TcpStream::connect(stage.address()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        if request.ends_with("\r\n\r\n") || request.ends_with("hello") {
            eventually("the upstream is reached", || up.open() > 0).await;
        }
        drop(stream);
        nothing_is_left(&stage, &up, request).await;
    }
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_ends_in_time() {
    let up = Hostile::saying(OK).await;
    let stage = up.stage("timeouts: {header_read: 400ms, idle: 20s}").await;
    for before in ["", "\r\n", "GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let stream = TcpStream::connect(stage.address()).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        write.write_all(before.as_bytes()).await.unwrap();
        let began = tokio::time::Instant::now();
        let dribble = tokio::spawn(async move {
            write.write_all(b"GET /v1 HTTP/1.1\r\nHost: ").await.unwrap();
            while write.write_all(b"a").await.is_ok() {
                pause().await;
            }
        });
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, read.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(statuses(&answer).last(), Some(&"408"), "{before:?}");
        // The limit, a look of the watch, and the moment that a refused caller gets to read.
        assert!(began.elapsed() < Duration::from_millis(400 + 100 + 1000 + 1000), "{:?}", began.elapsed());
        dribble.abort();
    }
}

#[tokio::test]
async fn at_the_limit_of_connections_accepting_stops_and_begins_again() {
    let up = Hostile::saying(OK).await;
    let stage = up.stage("limits: {connections: 3}").await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(TcpStream::connect(stage.address()).await.unwrap());
    }
    let full = async {
        while gauge(&stage, "keybearer_connections{").await < 3 {
            pause().await
        }
    };
    tokio::time::timeout(PATIENCE, full).await.unwrap();
    let mut stream = TcpStream::connect(stage.address()).await.unwrap();
    stream.write_all(get("").as_bytes()).await.unwrap();
    let mut some = [0; 9];
    assert!(tokio::time::timeout(Duration::from_millis(200), stream.read(&mut some)).await.is_err());
    drop(kept);
    assert_eq!(statuses(&read_all(&mut stream).await), ["200"]);
}

#[tokio::test]
async fn callers_who_read_nothing_cost_little_memory() {
    const LENGTH: usize = 50_000_000;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n").into_bytes();
    let answer = [answer, vec![b'x'; LENGTH]].concat();
    let up =
        Hostile::start(move |_, r| if r.contains("/big") { Step::Keep(answer.clone()) } else { keep(OK) })
            .await;
    let stage = up.stage("").await;
    let gateway = Process::start(&stage, &[]).await;
    assert_eq!(statuses(&raw(gateway.address(), get("").as_bytes()).await), ["200"]);
    let before = gateway.peak_kib();
    let mut kept = Vec::new();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
        stream.write_all(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        kept.push(stream);
    }
    // They hold their places, and others are served meanwhile.
    eventually("all of them are being answered", || up.count() >= 6).await;
    for _ in 0..50 {
        assert_eq!(statuses(&raw(gateway.address(), get("").as_bytes()).await), ["200"]);
    }
    let grown = gateway.peak_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB");
}

#[tokio::test]
async fn a_caller_who_shuts_down_its_sending_side_is_taken_for_one_who_left() {
    let up = Hostile::start(|_, _| Step::Silence).await;
    let stage = up.stage("").await;
    let mut stream = TcpStream::connect(stage.address()).await.unwrap();
    stream.write_all(get("").as_bytes()).await.unwrap();
    eventually("the upstream is reached", || up.count() > 0).await;
    // A choice: the two look the same, and an upstream shall not work for a caller who left.
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, "");
    nothing_is_left(&stage, &up, "a caller who has shut down").await;
}

// What follows failed when it was written; each test is one bug.

#[tokio::test]
async fn a_post_without_a_body_says_that_its_length_is_zero() {
    let up = Hostile::saying(OK).await;
    let stage = up.stage("").await;
    for fields in ["Content-Length: 0\r\n", ""] {
        let request = format!("POST /v1 HTTP/1.1\r\nHost: a\r\n{fields}Connection: close\r\n\r\n");
        let seen = forwarded(&stage, &up, &request).await;
        // IIS and many gateways answer 411 without it (RFC 9110 §8.6).
        assert!(seen.to_lowercase().contains("\r\ncontent-length: 0\r\n"), "{fields:?}");
    }
}

#[tokio::test]
async fn a_get_with_a_chunked_body_arrives_with_it() {
    let up = Hostile::saying(OK).await;
    let stage = up.stage("").await;
    let request = "GET /v1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
        5\r\nhello\r\n0\r\n\r\n";
    assert!(forwarded(&stage, &up, request).await.contains("hello"), "the body is lost");
}

#[tokio::test]
async fn an_upload_over_a_connection_that_spoke_http_1_0_arrives_whole() {
    let up =
        Hostile::saying("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok").await;
    let stage = up.stage("").await;
    let get = "GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST /v1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
        5\r\nhello\r\n0\r\n\r\n";
    stage.raw(format!("{get}{post}")).await;
    let seen = up.requests().pop().unwrap();
    assert!(seen.starts_with("POST /v1 HTTP/1.1\r\n"), "{}", &seen[..seen.len().min(20)]);
    assert!(seen.contains("hello"), "the body is lost");
}

#[tokio::test]
async fn an_upstream_that_answers_before_it_has_read_a_replayed_body_stops_nobody_else() {
    const LENGTH: usize = 20_000_000;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(16).unwrap();
    let route = format!("all: {{upstream: \"http://{}\", profile: account}}", listener.local_addr().unwrap());
    // Ends with the test's runtime.
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = Vec::new();
            if kept.is_empty() {
                while bytes.len() < LENGTH {
                    assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
                }
                let refusal = b"HTTP/1.1 401 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                stream.write_all(refusal).await.unwrap();
            } else {
                // Only the head is read.
                stream.read_buf(&mut bytes).await.unwrap();
                stream.write_all(OK.as_bytes()).await.unwrap();
            }
            kept.push(stream);
        }
    });
    let more = "workers: 1\ntimeouts: {response: 1s, connect: 1s}\nreplay: {limit: 32MiB}";
    let stage = Plan::default().routes(&route).more(more).start().await;
    stage.ready().await;
    assert_eq!(stage.post("/v1", vec![b'x'; LENGTH]).await.status(), 200);
    let other = tokio::time::timeout(Duration::from_secs(4), stage.get("/v1")).await;
    assert_eq!(other.expect("another caller waits for ever").status(), 200);
}

#[tokio::test]
async fn an_odd_connection_field_of_an_upstream_takes_off_no_less() {
    let up = Hostile::start(|_, _| {
        close(
            "HTTP/1.1 200 OK\r\nConnection: x-a, a b\r\nX-A: secret\r\nKeep-Alive: timeout=1\r\nUpgrade: h2c\r\n\
             Proxy-Authenticate: Basic\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        )
    })
    .await;
    let stage = up.stage("").await;
    let answer = stage.raw(get("")).await.to_lowercase();
    for name in ["keep-alive", "upgrade", "proxy-authenticate", "trailer", "x-a:"] {
        assert!(!answer.contains(name), "{name} in {answer}");
    }
}

#[tokio::test]
async fn a_length_or_coding_of_an_upstream_that_we_do_not_pass_on_faithfully_is_a_502() {
    for fields in [
        "Content-Length: 2, 2",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ] {
        let body = if fields.contains("chunked") { "2\r\nok\r\n0\r\n\r\n" } else { "ok" };
        let up =
            Hostile::start(move |_, _| close(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{body}"))).await;
        let stage = up.stage("").await;
        let answer = stage.raw(get("")).await;
        assert_eq!(statuses(&answer), ["502"], "{fields}: {answer}");
    }
}

#[tokio::test]
async fn an_http_1_0_answer_is_passed_on_as_http_1_1() {
    for (answer, closes) in
        [("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", false), ("HTTP/1.0 200 OK\r\n\r\nok", true)]
    {
        let up = Hostile::start(move |_, _| if closes { close(answer) } else { keep(answer) }).await;
        let stage = up.stage("").await;
        // RFC 9110 §2.5: an intermediary sends its own version.
        let got = stage.raw(get("")).await;
        assert!(got.starts_with("HTTP/1.1 200 "), "{got}");
    }
}

#[tokio::test]
async fn a_caller_who_hangs_up_behind_pipelined_bytes_leaves_nothing_behind() {
    let up = Hostile::start(|_, _| Step::Silence).await;
    let stage = up.stage("").await;
    for more in ["GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n", "GET /v1 HTTP/1.1\r\nHo st: a\r\n\r\n"] {
        let mut stream = TcpStream::connect(stage.address()).await.unwrap();
        let request = format!("GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n{more}");
        stream.write_all(request.as_bytes()).await.unwrap();
        eventually("the upstream is reached", || up.open() > 0).await;
        drop(stream);
        nothing_is_left(&stage, &up, more).await;
    }
}

#[tokio::test]
async fn a_get_over_a_connection_that_broke_is_sent_again_also_when_replay_is_off() {
    let up = Hostile::start(|n, _| if n == 1 { close("") } else { keep(OK) }).await;
    let stage = up.stage_with("profile: account, replay: {limit: 0}", "").await;
    let answer = stage.raw(format!("GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n{}", get(""))).await;
    assert_eq!(statuses(&answer), ["200", "200"]);
}

#[tokio::test]
async fn a_target_that_the_library_refuses_is_a_fault_like_any_other() {
    let up = Hostile::saying(OK).await;
    let stage = up.stage("").await;
    for target in ["?v1", "http:///v1", "/v1<>", "/v1`"] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let answer = refused(&stage, &up, &request).await;
        assert!(answer.contains("\"code\":\"bad_request\""), "{target}: {answer}");
    }
}

#[tokio::test]
async fn a_fault_reaches_a_caller_who_is_still_sending() {
    let up = Hostile::saying(OK).await;
    let stage = up.stage("").await;
    for _ in 0..5 {
        let sent = stage.http.post(stage.url("/v1/%2f")).body(vec![b'x'; 5_000_000]).send().await;
        assert_eq!(sent.expect("the connection is reset before the answer is read").status(), 400);
    }
    // Whoever closes says so.
    let answer = stage.raw("POST /v1/%2f HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n").await;
    assert!(answer.to_lowercase().contains("\r\nconnection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn an_early_refusal_is_passed_on_although_the_upload_breaks() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = format!("all: {{upstream: \"http://{}\", profile: account}}", listener.local_addr().unwrap());
    // Ends with the test's runtime.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut some = [0; 4096];
            let _ = stream.read(&mut some).await;
            let refusal = b"HTTP/1.1 413 Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno";
            let _ = stream.write_all(refusal).await;
        }
    });
    let stage = Plan::default().routes(&route).more("workers: 1").start().await;
    stage.ready().await;
    for _ in 0..10 {
        let mut stream = TcpStream::connect(stage.address()).await.unwrap();
        let head = "POST /v1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3000000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let _ = stream.write_all(&vec![b'x'; 3_000_000]).await;
        assert_eq!(statuses(&read_all(&mut stream).await), ["413"]);
    }
}

#[tokio::test]
async fn a_caller_who_stops_sending_is_not_blamed_on_the_upstream() {
    let up = Hostile::saying(OK).await;
    let stage = up.stage("timeouts: {response: 300ms, body: 500ms}").await;
    let mut stream = TcpStream::connect(stage.address()).await.unwrap();
    let request = "POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhello";
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = read_all(&mut stream).await;
    assert_eq!(statuses(&answer), ["408"], "{answer}");
}

#[tokio::test]
async fn an_upstream_that_falls_silent_in_the_middle_of_an_answer_is_left() {
    let up = Hostile::saying("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok").await;
    let stage = up.stage("timeouts: {response: 200ms, stream: 200ms, header_read: 200ms}").await;
    let answer = tokio::time::timeout(Duration::from_secs(3), stage.raw(get(""))).await;
    assert!(answer.is_ok(), "no time limit ends it");
}

#[tokio::test]
async fn a_request_without_host_has_one_at_an_upstream_that_gets_the_callers() {
    let up = Hostile::saying(OK).await;
    let stage = up.stage_with("profile: account, preserve_host: true", "").await;
    for request in ["GET /v1 HTTP/1.0\r\n\r\n", "GET http://b/v1 HTTP/1.0\r\n\r\n"] {
        let seen = forwarded(&stage, &up, request).await;
        assert_eq!(seen.to_lowercase().matches("\r\nhost: ").count(), 1, "{request}");
    }
}

#[tokio::test]
async fn a_second_expectation_is_judged_as_well() {
    let up = Hostile::saying(OK).await;
    let stage = up.stage("").await;
    let request = get("Expect: 100-continue\r\nExpect: miracles\r\n");
    assert_eq!(statuses(&refused(&stage, &up, &request).await), ["417"]);
}
