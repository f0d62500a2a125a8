//! Too many connections and too few files: who waits, who is told so, and that it passes.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    frames::{GOAWAY, HEADERS, connect, get, nth},
    listeners::metric,
    process::Process,
    stage::{PATIENCE, Plan, Stage, eventually, pause, raw},
};

const GET: &[u8] = b"GET /v1/orders HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

async fn idle(stage: &Stage, number: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..number {
        streams.push(TcpStream::connect(stage.address()).await.unwrap());
    }
    streams
}

async fn are_open(stage: &Stage, number: usize) {
    let holds = async {
        while metric(stage, "keybearer_connections{listener=\"local\"}").await != number as f64 {
            pause().await;
        }
    };
    tokio::time::timeout(PATIENCE, holds).await.unwrap_or_else(|_| panic!("{number} are never open"));
}

#[tokio::test]
async fn an_address_with_too_many_connections_is_told_so_at_once() {
    let stage = Plan::default().more("limits: {connections_per_address: 3}").start().await;
    stage.ready().await;
    // One is the metrics' own business: they come over the admin listener, which has no such limit.
    let streams = idle(&stage, 3).await;
    are_open(&stage, 3).await;
    for request in [&b""[..], GET] {
        let answer = raw(stage.address(), request).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 503"), "{head}");
        for line in ["retry-after: 1", "connection: close", "content-type: application/problem+json"] {
            assert!(head.contains(line), "{head}");
        }
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["code"], "overloaded");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("limits.connections_per_address"), "{detail}");
    }
    let refused = "keybearer_connections_refused_total{listener=\"local\",reason=\"address_limit\"}";
    assert_eq!(metric(&stage, refused).await, 2.0);
    drop(streams);
    are_open(&stage, 0).await;
    assert!(raw(stage.address(), GET).await.starts_with("HTTP/1.1 200"));
    assert_eq!(stage.api.requests(), 1);
}

#[tokio::test]
async fn beyond_the_listeners_limit_callers_wait_and_are_served_later() {
    let stage = Plan::default().more("workers: 1\nlimits: {connections: 2}").start().await;
    stage.ready().await;
    let streams = idle(&stage, 2).await;
    are_open(&stage, 2).await;
    let mut waiting = TcpStream::connect(stage.address()).await.unwrap();
    waiting.write_all(GET).await.unwrap();
    let mut answer = [0; 12];
    let early = tokio::time::timeout(Duration::from_millis(300), waiting.read_exact(&mut answer)).await;
    assert!(early.is_err(), "the third connection is served while two are open");
    let pauses = "keybearer_accept_pauses_total{listener=\"local\",reason=\"connection_limit\"}";
    assert_eq!(metric(&stage, pauses).await, 1.0, "one pause, however long it lasts");
    drop(streams);
    tokio::time::timeout(PATIENCE, waiting.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_takes_all_files_does_not_silence_the_admin_listener_and_is_survived() {
    let stage = Plan::default().more("admin: {address: \"127.0.0.1:0\"}").start().await;
    let process = Process::start_with_files(&stage, 128).await;
    eventually("it says how little room there is", || {
        process
            .has_logged("there is room for 16 connections of callers, fewer than limits.connections (10000)")
    })
    .await;
    let livez = format!("http://{}/livez", process.admin());
    let client = || reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
    let mut crowd = Vec::new();
    for _ in 0..300 {
        crowd.push(TcpStream::connect(process.address()).await.unwrap());
    }
    eventually("it says that connections wait", || process.has_logged("connections wait to be accepted"))
        .await;
    for _ in 0..3 {
        let response = client().get(&livez).send().await.expect("the admin listener answers");
        assert_eq!(response.status(), 200);
    }
    let metrics = client().get(format!("http://{}/metrics", process.admin())).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(
        metrics.contains("keybearer_accept_pauses_total{listener=\"local\",reason=\"files\"}"),
        "{metrics}"
    );
    assert!(
        !metrics.contains("keybearer_accept_pauses_total{listener=\"local\",reason=\"files\"} 0"),
        "{metrics}"
    );
    drop(crowd);
    let answer = tokio::time::timeout(Duration::from_secs(5), raw(process.address(), GET)).await;
    let answer = answer.expect("the gateway serves again at once");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_file_left_accepting_pauses_and_goes_on_later() {
    let stage = Plan::default().more("workers: 1\nadmin: {address: \"127.0.0.1:0\"}").start().await;
    // Fewer than its room for connections asks for.
    let process = Process::start_with_files(&stage, 32).await;
    eventually("it is warmed up", || process.has_logged("keybearer runs")).await;
    let mut crowd = Vec::new();
    for _ in 0..40 {
        crowd.push(TcpStream::connect(process.address()).await.unwrap());
    }
    eventually("it has no file left", || process.has_logged("Too many open files")).await;
    drop(crowd);
    let served = async {
        while !raw(process.address(), GET).await.starts_with("HTTP/1.1 200") {
            pause().await;
        }
    };
    tokio::time::timeout(PATIENCE, served).await.expect("it serves again");
    let said = process.lines().iter().filter(|line| line.contains("connections wait")).count();
    assert!(said < 10, "it is said once in a while, not at every attempt: {said}");
}

/// One caller of HTTP/2 made as many connections to a silent upstream as there were files, and nobody else, not
/// even the admin listener, had any left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_wait_for_a_silent_upstream_leave_files_for_everybody_else() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let routes = format!(
        "silent: {{match: {{path: /silent}}, upstream: \"http://{}\", profile: account}}\n\
         orders: {{match: {{path: /v1}}, upstream: \"{{api}}\", profile: account}}",
        silent.local_addr().unwrap()
    );
    let plan = Plan::default().routes(&routes).more("workers: 1\nadmin: {address: \"127.0.0.1:0\"}");
    let stage = plan.start().await;
    let process = Process::start_with_files(&stage, 128).await;
    let upstream = tokio::spawn(async move {
        let mut taken = Vec::new();
        while let Ok((stream, _)) = silent.accept().await {
            taken.push(stream);
        }
    });
    assert!(raw(process.address(), GET).await.starts_with("HTTP/1.1 200"));
    let (mut reader, mut writer) = connect(process.address(), &[]).await;
    let requests: Vec<u8> = (0..90).flat_map(|n| get(nth(n), "/silent")).collect();
    writer.send(&requests).await;
    // Those that have no place are told so, the others wait.
    let refused = reader.find(|frame| frame.kind == HEADERS).await.unwrap();
    assert!(!refused.has_status(200), "{refused:?}");
    eventually("it says why", || process.has_logged("no room for a further connection to an upstream")).await;
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    let asked = client.get(format!("http://{}/metrics", process.admin())).send().await;
    let metrics = asked.expect("the admin listener answers").text().await.unwrap();
    let counted =
        metrics.lines().find(|line| line.contains("route=\"silent\"") && line.contains("overloaded"));
    assert!(counted.is_some_and(|line| !line.ends_with(" 0")), "{metrics}");
    // Places come back with the caller's end, and one that was idle gives way.
    drop((reader, writer));
    let served = async {
        while !raw(process.address(), GET).await.starts_with("HTTP/1.1 200") {
            pause().await;
        }
    };
    tokio::time::timeout(PATIENCE, served).await.expect("others are served again");
    upstream.abort();
}

/// Ten thousand of them fit in 150 MB: after a while without a request they hold no buffers.
#[tokio::test]
async fn idle_connections_give_their_buffers_back_and_go_on() {
    const COUNT: usize = 1000;
    let stage = Plan::default().more("workers: 1").start().await;
    let process = Process::start(&stage, &[]).await;
    let request = b"GET /v1/orders HTTP/1.1\r\nHost: a\r\n\r\n";
    let before = process.resident_kib();
    let mut streams = Vec::new();
    for _ in 0..COUNT {
        let mut stream = TcpStream::connect(process.address()).await.unwrap();
        assert!(answer(&mut stream, request).await.starts_with("HTTP/1.1 200"));
        streams.push(stream);
    }
    // 150 MB for ten thousand, of which the process itself is a part.
    eventually("they are small", || process.resident_kib() < before + COUNT * 13).await;
    for stream in &mut streams {
        assert!(answer(stream, request).await.starts_with("HTTP/1.1 200"));
    }
}

/// Over HTTP/2 they cannot give their buffers back, so only so many are kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_too_many_idle_http_2_connections_those_go_that_were_used_least_lately() {
    let stage = Plan::default().more("workers: 1\nlimits: {http2_idle_connections: 2}").start().await;
    stage.ready().await;
    let mut callers = Vec::new();
    for _ in 0..4 {
        let (mut reader, mut writer) = connect(stage.address(), &[]).await;
        assert!(writer.send(&get(nth(0), "/v1/orders")).await);
        assert!(reader.find(|frame| frame.kind == HEADERS).await.unwrap().has_status(200));
        callers.push((reader, writer));
    }
    let mut kept = callers.split_off(2);
    for (reader, writer) in &mut callers {
        let told = reader.find(|frame| frame.kind == GOAWAY).await.unwrap();
        assert_eq!(told.error(), Some(0), "no error: {told:?}");
        // What was sent before the caller knew is served.
        assert!(writer.send(&get(nth(1), "/v1/orders")).await);
        assert!(reader.find(|frame| frame.kind == HEADERS).await.unwrap().has_status(200));
    }
    for (reader, writer) in &mut kept {
        assert!(writer.send(&get(nth(1), "/v1/orders")).await);
        let next = reader.find(|frame| matches!(frame.kind, HEADERS | GOAWAY)).await.unwrap();
        assert!(next.has_status(200), "{next:?}");
    }
    drop(callers);
    let name = "keybearer_connections_ended_total{listener=\"local\",reason=\"surplus\"}";
    let counted = async {
        while metric(&stage, name).await != 2.0 {
            pause().await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.expect("both are counted");
}

/// Sends a request and reads what comes at once, which is the whole answer or its beginning.
async fn answer(stream: &mut TcpStream, request: &[u8]) -> String {
    stream.write_all(request).await.unwrap();
    let mut space = vec![0; 16 * 1024];
    let length = tokio::time::timeout(PATIENCE, stream.read(&mut space)).await.unwrap().unwrap();
    String::from_utf8_lossy(&space[..length]).into_owned()
}

#[tokio::test]
async fn a_connection_that_is_ended_is_counted_with_the_reason() {
    let stage = Plan::default().more("timeouts: {header_read: 50ms, idle: 100ms}").start().await;
    stage.ready().await;
    let pings = [b"\0\0\x08\x06\0\0\0\0\0".as_slice(), &[0; 8]].concat().repeat(1500);
    let flood = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".as_slice(), &pings].concat();
    let nonsense = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x01\0\0\0\0\0".as_slice();
    for (reason, bytes) in
        [("slow_head", b"GET /v1".as_slice()), ("idle", b""), ("flood", &flood), ("http2", nonsense)]
    {
        let mut stream = TcpStream::connect(stage.address()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let name = format!("keybearer_connections_ended_total{{listener=\"local\",reason=\"{reason}\"}}");
        let counted = async {
            while metric(&stage, &name).await != 1.0 {
                pause().await;
            }
        };
        tokio::time::timeout(PATIENCE, counted).await.unwrap_or_else(|_| panic!("{reason} is not counted"));
    }
}
