//! Attacks on the order and the bounds of connections: HTTP/2 frame by frame, and bytes between answers.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use crate::{
    attacks::{gauge, nothing_is_left},
    frames::{
        ACK, CANCEL, DATA, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, WINDOW_UPDATE, connect,
        connect_raw, frame, get, nth, post, setting,
    },
    front::{Peer, played},
    hostile::{self, Hostile, OK, Step, keep, statuses},
    peer::{Act, Scripted},
    process::Process,
    stage::{PATIENCE, Plan, Stage, eventually, pause},
};

/// A caller that reads slowly pipelines a second request; its early hints must not come in the middle of
/// the first answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_hints_never_cut_the_answer_before_them_in_two() {
    let up = Hostile::start(|_, request| {
        let length: usize = request.split(['/', ' ']).nth(3).and_then(|n| n.parse().ok()).unwrap_or(0);
        if request.starts_with("GET /big/") {
            return keep(
                [
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes(),
                    vec![b'a'; length],
                ]
                .concat(),
            );
        }
        keep(format!("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n{OK}"))
    })
    .await;
    let stage = up.stage("").await;
    // What the system takes without the caller is not known: looked for by halves. Just below it the end of
    // the first answer lies in the gateway while the second request is on its way.
    let (mut taken, mut too_long) = (100_000, 32_000_000);
    while too_long - taken > 8_000 {
        let length = usize::midpoint(taken, too_long);
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 * 1024).unwrap();
        let mut caller = socket.connect(stage.address()).await.unwrap();
        let before = up.count();
        let two = format!(
            "GET /big/{length} HTTP/1.1\r\nHost: a\r\n\r\nGET /hints HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        );
        caller.write_all(two.as_bytes()).await.unwrap();
        let both = eventually("the second request is sent", || up.count() == before + 2);
        let is_sent = tokio::time::timeout(Duration::from_millis(150), both).await.is_ok();
        *if is_sent { &mut taken } else { &mut too_long } = length;
        pause().await;
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, caller.read_to_end(&mut answer)).await.unwrap().unwrap();
        let text = String::from_utf8(answer).unwrap();
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        let cut = body.find(|c| c != 'a').unwrap();
        assert_eq!(cut, length, "cut in two by {:?}", &body[cut..cut + 30]);
        assert_eq!(statuses(&text), ["200", "103", "200"], "{length}");
    }
}

/// gRPC for Go measures the way with a ping, and updates its window, at each message that it gets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_acknowledges_each_small_message_is_no_flood() {
    let (listener, stage) = played("").await;
    let (mut reader, mut writer) = connect(stage.address(), &[]).await;
    assert!(writer.send(&get(1, "/v1/events")).await);
    let mut upstream = Peer::accept(&listener).await;
    upstream.head().await;
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for number in 0..4000 {
        upstream.send("14\r\na message of 20 byte\r\n").await;
        let got = reader.find(|f| f.kind == DATA || f.kind == GOAWAY).await;
        assert!(got.as_ref().is_some_and(|f| f.kind == DATA), "after {number} messages: {got:?}");
        let by = 20u32.to_be_bytes();
        let both =
            [frame(WINDOW_UPDATE, 0, 0, &by), frame(WINDOW_UPDATE, 0, 1, &by), frame(PING, 0, 0, &[1; 8])];
        assert!(writer.send(&both.concat()).await, "after {number} messages");
    }
}

/// The library allows for so many small frames that nobody has read as half of the connection's window has
/// room for. Where messages are tiny and upstreams stop now and then, a larger window is the remedy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tiny_messages_to_an_upstream_that_does_not_read_wait_where_the_window_is_large() {
    let up = Scripted::start(|_, request| if request == 1 { Act::Silence } else { Act::Answer }).await;
    let route =
        format!("all: {{upstream: {{url: \"{}\", http2: prior_knowledge}}, profile: account}}", up.url());
    let stage = Plan::default()
        .routes(&route)
        .more("workers: 1\nlimits: {http2_connection_window: 8MiB}")
        .start()
        .await;
    stage.ready().await;
    let (mut reader, mut writer) = connect(stage.address(), &[]).await;
    assert!(writer.send(&post(1, "/v1/events")).await);
    let mut window: u32 = 65_535;
    let mut sent = 0;
    let mut messages = Vec::new();
    loop {
        while window >= 15 {
            messages.extend(frame(DATA, 0, 1, &[b'x'; 15]));
            window -= 15;
            sent += 1;
        }
        assert!(writer.send(&std::mem::take(&mut messages)).await);
        let next = tokio::time::timeout(
            Duration::from_secs(2),
            reader.find(|f| f.kind == GOAWAY || (f.kind == WINDOW_UPDATE && f.stream == 1)),
        )
        .await;
        let Ok(next) = next else { break };
        let next = next.unwrap();
        assert_ne!(next.kind, GOAWAY, "after {sent} messages: {next:?}");
        window += u32::from_be_bytes(next.payload[..4].try_into().unwrap());
    }
    assert!(sent >= 2 * 4369, "the window was used up: {sent}");
}

/// RFC 9113 §6.8: GOAWAY, no further streams, and those that were begun are finished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_finishes_the_streams_of_http_2_and_takes_no_more() {
    let stage = Stage::start().await;
    stage.ready().await;
    let mut process = Process::start(&stage, &[]).await;
    stage.api.set_delay(Duration::from_secs(2));
    let (mut reader, mut writer) = connect(process.address(), &[]).await;
    for n in 0..5 {
        assert!(writer.send(&get(nth(n), "/v1/orders")).await);
    }
    stage.api.wait_for_requests(5).await;
    process.signal("-TERM");
    let mut answered = Vec::new();
    let mut last = u32::MAX;
    while let Some(f) = reader.next().await {
        if f.kind == PING && f.flags & ACK == 0 {
            writer.send(&frame(PING, ACK, 0, &f.payload)).await;
        }
        if f.kind == GOAWAY {
            assert_eq!(f.error(), Some(0));
            last = u32::from_be_bytes(f.payload[..4].try_into().unwrap());
            if last < 100 {
                writer.send(&get(nth(6), "/v1/orders")).await;
            }
        }
        if f.kind == HEADERS {
            assert!(f.has_status(200));
        }
        if f.flags & END_STREAM != 0 && matches!(f.kind, HEADERS | DATA) {
            answered.push(f.stream);
        }
    }
    assert_eq!(last, nth(4));
    answered.sort_unstable();
    assert_eq!(answered, [1, 3, 5, 7, 9]);
    assert_eq!(process.end().await.code(), Some(0));
    assert_eq!(stage.api.requests(), 5);
}

/// A stream may end at any moment of its life. Nothing of it may stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_reset_at_any_moment_leave_nothing() {
    let big = format!("HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n{}", "b".repeat(3_000_000));
    let up = Hostile::start(move |_, request| match request.split(' ').nth(1).unwrap() {
        "/big" => keep(&big),
        "/silent" => Step::Silence,
        "/refused" => keep("HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno"),
        _ => keep(OK),
    })
    .await;
    let stage = up.stage("limits: {http2_streams: 500}").await;
    let ends: [(&str, bool, Option<&[u8]>); 8] = [
        ("/big", false, None),
        ("/silent", false, None),
        ("/refused", false, None),
        ("/early", false, None),
        ("/big", true, Some(b"some")),
        ("/silent", true, Some(b"some")),
        ("/silent", true, None),
        ("/refused", true, Some(b"some")),
    ];
    for wait in [0, 1, 5, 20] {
        let (mut reader, mut writer) = connect(stage.address(), &[]).await;
        let reading = tokio::spawn(async move { reader.end().await });
        let mut stream = 1;
        for _ in 0..6 {
            for (path, has_body, data) in ends {
                let first = if has_body { post(stream, path) } else { get(stream, path) };
                assert!(writer.send(&first).await, "{path} {wait}");
                if let Some(data) = data {
                    assert!(writer.send(&frame(DATA, 0, stream, data)).await);
                }
                if wait > 0 {
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                }
                assert!(writer.send(&frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())).await);
                stream += 2;
            }
        }
        // The connection itself goes on.
        let empty = async {
            while gauge(&stage, "keybearer_in_flight{").await + gauge(&stage, "keybearer_replay_bytes").await
                > 0
            {
                pause().await;
            }
        };
        assert!(
            tokio::time::timeout(Duration::from_secs(5), empty).await.is_ok(),
            "{wait}: something is left"
        );
        drop(writer);
        reading.abort();
    }
    nothing_is_left(&stage, &up, "a stream that was reset").await;
}

/// RFC 9110 §8.6: an answer that has no content by its status says no length.
#[tokio::test]
async fn answers_without_content_say_no_length() {
    for answer in [
        "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        let up = Hostile::saying(answer).await;
        let stage = up.stage("").await;
        let got = stage.raw(hostile::get("")).await.to_lowercase();
        assert!(got.starts_with("http/1.1 204 ") && !got.contains("content-length"), "{got}");
        let caller = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
        let got = caller.get(stage.url("/v1")).send().await.unwrap();
        assert_eq!((got.status().as_u16(), got.headers().get("content-length")), (204, None));
    }
}

/// Neither does an informational one: its length would be taken for that of the answer.
#[tokio::test]
async fn informational_answers_say_no_length() {
    let up = Hostile::saying(
        "HTTP/1.1 103 Early Hints\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\nLink: </a>\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let stage = up.stage("").await;
    let got = stage.raw(hostile::get("")).await.to_lowercase();
    assert_eq!(
        got.split("http/1.1 ").skip(1).map(|part| &part[..3]).collect::<Vec<_>>(),
        ["103", "200"],
        "{got}"
    );
    assert_eq!(got.matches("content-length").count(), 1, "{got}");
    assert!(!got.contains("transfer-encoding"), "{got}");
}

/// A preface that dribbles is a head that comes too slowly.
#[tokio::test]
async fn a_preface_that_dribbles_ends() {
    let stage = Plan::default().more("timeouts: {header_read: 500ms, idle: 30s}").start().await;
    stage.ready().await;
    let (mut reader, mut writer) = connect_raw(stage.address()).await;
    let begun = tokio::time::Instant::now();
    let dribbling = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(300));
        for byte in PREFACE {
            ticks.tick().await;
            if !writer.send(&[*byte]).await {
                return;
            }
        }
    });
    reader.end().await;
    let elapsed = begun.elapsed();
    dribbling.abort();
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
}

/// RFC 9113 §3.4: what follows the preface says what the caller can do.
#[tokio::test]
async fn a_preface_without_settings_ends() {
    let stage = Stage::start().await;
    stage.ready().await;
    let (mut reader, mut writer) = connect_raw(stage.address()).await;
    let ping = frame(PING, 0, 0, b"12345678");
    assert!(writer.send(&[PREFACE, &ping].concat()).await);
    tokio::time::timeout(PATIENCE, reader.end()).await.unwrap();
}

#[tokio::test]
async fn a_fault_over_http_1_is_never_a_200() {
    let stage = Stage::start().await;
    stage.ready().await;
    for method in ["POST", "HEAD", "GET"] {
        let got = stage.raw(format!("{method} /nowhere HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")).await;
        assert!(got.starts_with("HTTP/1.1 404 "), "{got}");
    }
}

/// A caller's expectation and our own: the caller is asked once, and uploads once.
#[tokio::test]
async fn an_expectation_of_the_callers_and_one_of_ours_cost_one_upload() {
    let (listener, stage) = played("replay: {limit: 1KiB}").await;
    let mut caller = Peer::connect(stage.address()).await;
    let length = 100_000;
    let head =
        format!("POST /v1 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n");
    caller.send(&head).await;
    let mut first = Peer::accept(&listener).await;
    assert!(first.head().await.to_lowercase().contains("expect: 100-continue\r\n"));
    first.send("HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer error=\"invalid_token\"\r\nContent-Length: 0\r\n\r\n").await;
    let mut second = Peer::accept(&listener).await;
    let asked = second.head().await.to_lowercase();
    assert!(asked.contains("expect: 100-continue\r\n"), "{asked}");
    second.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(caller.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    caller.send(vec![b'u'; length]).await;
    assert_eq!(second.take(length).await.len(), length);
    second.send(OK).await;
    assert!(caller.head().await.starts_with("HTTP/1.1 200 "));
    assert_eq!(caller.take(2).await, b"ok");
    // The first one's body never came, so nothing may follow there. The others go on.
    assert_eq!(first.rest().await, "");
    caller.send("GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(second.head().await.starts_with("GET /v1 "));
    second.send(OK).await;
    assert!(caller.head().await.starts_with("HTTP/1.1 200 "));
}

/// More than the guard reads ahead, with something to say before each answer.
#[tokio::test]
async fn a_pipeline_longer_than_what_waits_is_answered_with_all_its_hints() {
    let up =
        Hostile::start(|_, _| keep(format!("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n{OK}"))).await;
    let stage = up.stage("").await;
    let mut stream = tokio::net::TcpStream::connect(stage.address()).await.unwrap();
    let (mut read, mut write) = stream.split();
    let one = format!("GET /v1 HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(300));
    let text = one.repeat(1000) + &hostile::get("");
    let mut answer = Vec::new();
    let both = async { tokio::join!(write.write_all(text.as_bytes()), read.read_to_end(&mut answer)) };
    tokio::time::timeout(PATIENCE, both).await.expect("all is answered").0.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let statuses = statuses(&answer);
    assert_eq!(statuses.len(), 2002);
    assert!(statuses.chunks(2).all(|pair| pair == ["103", "200"]));
}

/// A reader who stops loses one stream with all that belongs to it, and others do not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_not_read_ends_alone() {
    let big = format!("HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n{}", "b".repeat(300_000));
    let up = Hostile::start(move |_, request| keep(if request.contains("/big") { big.as_str() } else { OK }))
        .await;
    let stage = up.stage("timeouts: {idle: 1s}").await;
    let (mut reader, mut writer) = connect(stage.address(), &setting(4, 10_000)).await;
    writer.send(&get(1, "/big")).await;
    let mut stream = 3;
    let end = loop {
        writer.send(&get(stream, "/small")).await;
        let f = reader
            .find(|f| {
                matches!(f.kind, RST_STREAM | GOAWAY) || (f.stream == stream && f.flags & END_STREAM != 0)
            })
            .await
            .unwrap();
        if f.stream != stream {
            break f;
        }
        stream += 2;
        pause().await;
    };
    assert_eq!((end.kind, end.stream), (RST_STREAM, 1), "{end:?}");
    let last = reader.find(|f| f.stream == stream && f.flags & END_STREAM != 0).await.unwrap();
    assert_eq!((last.kind, last.payload.as_slice()), (DATA, &b"ok"[..]));
    let empty = async {
        while gauge(&stage, "keybearer_in_flight{").await > 0 || up.open() > 1 {
            pause().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(3), empty).await.is_ok(), "{} are open", up.open());
}

/// Nor does a long pipeline keep the watch from ending it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_ends_also_when_much_is_pipelined() {
    let big = format!("HTTP/1.1 200 OK\r\nContent-Length: 30000000\r\n\r\n{}", "b".repeat(30_000_000));
    let up = Hostile::start(move |_, _| keep(&big)).await;
    let stage = up.stage("timeouts: {idle: 1s}").await;
    let mut caller = tokio::net::TcpStream::connect(stage.address()).await.unwrap();
    let one = format!("GET /v1 HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(300));
    caller.write_all(one.repeat(1000).as_bytes()).await.unwrap();
    eventually("an answer is on its way", || up.count() == 1).await;
    let ended = async {
        while gauge(&stage, "keybearer_connections{").await + gauge(&stage, "keybearer_in_flight{").await > 0
        {
            pause().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), ended).await.is_ok(), "it is still open");
    assert_eq!(up.count(), 1);
}

/// Nor when it is informational answers that fill the caller's window: nothing looked blocked then, and neither `idle` nor
/// `drain` ended such a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_ends_also_when_early_hints_wait_for_it() {
    let hint = format!("HTTP/1.1 103 Early Hints\r\nX: {}\r\n\r\n", "h".repeat(15_000));
    let answers = format!("{}{OK}", hint.repeat(3));
    let up = Hostile::start(move |_, _| keep(&answers)).await;
    let stage = up.stage("timeouts: {idle: 1s}").await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut caller = socket.connect(stage.address()).await.unwrap();
    caller.write_all("GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n".repeat(400).as_bytes()).await.unwrap();
    eventually("answers are on their way", || up.count() > 1).await;
    let ended = async {
        while gauge(&stage, "keybearer_connections{").await > 0 {
            pause().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), ended).await.is_ok(), "it is still open");
    assert_eq!(
        gauge(&stage, "keybearer_connections_ended_total{listener=\"local\",reason=\"slow_reader\"").await,
        1
    );
}

/// Nor does an upload that the upstream does not read while it answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_ends_also_in_the_middle_of_its_upload() {
    let (listener, stage) = played("timeouts: {idle: 1s, stream: 2s}").await;
    for answers in ["b".repeat(30_000_000), String::new()] {
        let mut caller = Peer::connect(stage.address()).await;
        caller.send("POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n").await;
        let uploading = tokio::spawn(async move { caller.try_send(&vec![b'u'; 50_000_000]).await });
        let mut upstream = Peer::accept(&listener).await;
        upstream.head().await;
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 30000000\r\n\r\n{answers}");
        let answering = tokio::spawn(async move {
            upstream.try_send(answer.as_bytes()).await;
            std::future::pending::<()>().await;
            drop(upstream);
        });
        let ended = async {
            while gauge(&stage, "keybearer_connections{").await + gauge(&stage, "keybearer_in_flight{").await
                > 0
            {
                pause().await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(10), ended).await.is_ok(), "it is still open");
        assert!(!uploading.await.unwrap());
        answering.abort();
    }
}
