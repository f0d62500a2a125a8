//! What is counted, and under which words: faults, connections that were ended, 401s that were not recovered.

use std::collections::BTreeSet;

use keybearer::demo::idp::Behaviour;

use crate::{
    frames,
    front::{Peer, played},
    hostile::{Hostile, OK, Step, get, statuses},
    process::Process,
    stage::{PATIENCE, Plan, Stage, eventually, fault, pause},
};

const GET: &str = "GET /v1/orders HTTP/1.1\r\nHost: a\r\n\r\n";
/// An answer of which some has come, and the rest has not.
const BEGUN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\nsome";

/// The number behind a series; 0 when there is none yet.
async fn counted(stage: &Stage, series: &str) -> u64 {
    let (_, metrics) = stage.admin("/metrics").await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0, |number| number.parse().unwrap())
}

/// Waits until a series has this number.
pub(crate) async fn becomes(stage: &Stage, series: &str, number: u64) {
    let holds = async {
        while counted(stage, series).await != number {
            pause().await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, holds).await;
    let metrics = async || stage.admin("/metrics").await.1;
    if in_time.is_err() {
        panic!("{series} is never {number}\n{}", metrics().await);
    }
}

fn faults(route: &str, profile: &str, code: &str) -> String {
    format!("keybearer_faults_total{{route=\"{route}\",profile=\"{profile}\",code=\"{code}\"}}")
}

#[tokio::test]
async fn what_is_too_large_is_counted() {
    let up = Hostile::saying(OK).await;
    let limits = "limits: {header_bytes: 4KiB, uri_bytes: 1KiB, body_bytes: 10B}";
    let stage = up.stage(limits).await;
    let long_target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(2000));
    let long_body = "POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world";
    let chunked =
        "POST /v1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n";
    let large_head = get(&format!("X-A: {}\r\n", "a".repeat(5000)));
    for (request, status, unrouted, routed) in [
        (large_head.as_str(), "431", 1, 0),
        (&long_target, "414", 2, 0),
        (long_body, "413", 2, 1),
        (chunked, "413", 2, 2),
    ] {
        assert_eq!(statuses(&stage.raw(request).await), [status]);
        becomes(&stage, &faults("", "", "too_large"), unrouted).await;
        becomes(&stage, &faults("all", "account", "too_large"), routed).await;
    }
}

#[tokio::test]
async fn what_comes_too_late_is_counted() {
    let up = Hostile::start(|_, _| Step::Silence).await;
    let stage = up.stage("timeouts: {header_read: 100ms, body: 100ms, response: 100ms}").await;
    assert_eq!(statuses(&stage.raw("GET /v1 HTTP/1.1\r\nHost:").await), ["408"]);
    becomes(&stage, &faults("", "", "bad_request"), 1).await;
    let slow_body = "POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhello";
    assert_eq!(statuses(&stage.raw(slow_body).await), ["408"]);
    becomes(&stage, &faults("all", "account", "bad_request"), 1).await;
    assert_eq!(statuses(&stage.raw(get("")).await), ["504"]);
    becomes(&stage, &faults("all", "account", "upstream_timeout"), 1).await;
}

fn ended(reason: &str) -> String {
    format!("keybearer_connections_ended_total{{listener=\"local\",reason=\"{reason}\"}}")
}

#[tokio::test]
async fn an_upstream_that_falls_silent_in_an_answer_is_counted() {
    let up = Hostile::saying(BEGUN).await;
    let stage = up.stage("timeouts: {stream: 200ms}").await;
    let mut caller = Peer::connect(stage.address()).await;
    caller.send(GET).await;
    caller.until("some").await;
    caller.rest().await;
    becomes(&stage, &ended("silent_upstream"), 1).await;
    assert_eq!(counted(&stage, &ended("slow_reader")).await, 0);
}

#[tokio::test]
async fn a_caller_that_stops_reading_is_counted() {
    let (listener, stage) = played("timeouts: {idle: 300ms}").await;
    let mut caller = Peer::connect(stage.address()).await;
    caller.send(GET).await;
    let mut upstream = Peer::accept(&listener).await;
    upstream.head().await;
    upstream.send(BEGUN).await;
    let sending = async { while upstream.try_send(&[b'x'; 0x10000]).await {} };
    tokio::time::timeout(PATIENCE, sending).await.expect("the gateway gives the download up");
    becomes(&stage, &ended("slow_reader"), 1).await;
    assert_eq!(counted(&stage, &ended("silent_upstream")).await, 0);
    drop(caller);
}

/// The same over HTTP/2, where a stream ends and its connection does not.
#[tokio::test]
async fn a_stream_that_stands_still_is_counted() {
    let up = Hostile::saying(BEGUN).await;
    let stage = up.stage("timeouts: {idle: 300ms}").await;
    let (mut reader, mut writer) = frames::connect(stage.address(), &frames::setting(4, 0)).await;
    writer.send(&frames::get(1, "/v1/orders")).await;
    assert!(reader.find(|f| f.kind == frames::HEADERS).await.unwrap().has_status(200));
    assert!(reader.find(|f| f.kind == frames::RST_STREAM).await.is_some(), "the stream ends");
    becomes(&stage, &streams("stood_still"), 1).await;
}

/// The HTTP library refused it alone: nobody counted it, and it looked like the upstream's answer.
#[tokio::test]
async fn a_header_list_of_http_2_that_is_too_large_is_a_fault_like_any_other() {
    let stage = Stage::start().await;
    stage.ready().await;
    let client =
        reqwest::Client::builder().no_proxy().http2_prior_knowledge().timeout(PATIENCE).build().unwrap();
    // 16 KiB in all, with 32 bytes for each of the fields that the client adds.
    for (bytes, is_taken) in [(15 * 1024, true), (16 * 1024, false), (20 * 1024, false)] {
        let request = client.get(stage.url("/v1/orders")).header("x-large", "a".repeat(bytes));
        let answer = request.send().await.unwrap();
        if is_taken {
            assert_eq!(answer.status(), 200);
        } else {
            let (status, code, _) = fault(answer).await;
            assert_eq!((status, code.as_str()), (431, "too_large"));
        }
    }
    becomes(&stage, &faults("", "", "too_large"), 2).await;
}

fn streams(reason: &str) -> String {
    format!("keybearer_streams_ended_total{{listener=\"local\",reason=\"{reason}\"}}")
}

#[tokio::test]
async fn a_stream_beyond_those_of_a_connection_is_counted() {
    let up = Hostile::start(|_, _| Step::Silence).await;
    let stage = up.stage("limits: {http2_streams: 2}").await;
    let (mut reader, mut writer) = frames::connect(stage.address(), &[]).await;
    let requests: Vec<u8> = (0..5).flat_map(|n| frames::get(frames::nth(n), "/v1/orders")).collect();
    writer.send(&requests).await;
    for n in 2..5 {
        let refused = reader.find(|f| f.kind == frames::RST_STREAM).await.unwrap();
        assert_eq!((refused.stream, refused.error()), (frames::nth(n), Some(frames::REFUSED_STREAM)));
    }
    becomes(&stage, &streams("stream_limit"), 3).await;
    assert_eq!(counted(&stage, &streams("header_limit")).await, 0);
}

/// The library reads twice as much as a request may have, and answers what is longer by itself.
#[tokio::test]
async fn a_header_list_that_the_library_refuses_is_counted() {
    let up = Hostile::saying(OK).await;
    let stage = up.stage("limits: {http2_header_bytes: 1KiB}").await;
    let (mut reader, mut writer) = frames::connect(stage.address(), &[]).await;
    let request = |n, bytes: usize| {
        let fields =
            [frames::head("GET", "/v1/orders"), frames::field("x-large", &"a".repeat(bytes))].concat();
        frames::frame(frames::HEADERS, frames::END_HEADERS | frames::END_STREAM, frames::nth(n), &fields)
    };
    for (n, bytes, of_the_library) in [(0, 3000, 1), (1, 10, 1), (2, 1500, 1), (3, 3000, 2)] {
        writer.send(&request(n, bytes)).await;
        let answer = reader.find(|f| f.kind == frames::HEADERS).await.unwrap();
        assert_eq!(answer.has_status(200), bytes == 10, "{answer:?}");
        becomes(&stage, &streams("header_limit"), of_the_library).await;
    }
    becomes(&stage, &faults("", "", "too_large"), 1).await;
    assert_eq!(counted(&stage, &streams("stream_limit")).await, 0);
}

#[tokio::test]
async fn requests_beyond_those_that_may_wait_for_a_token_are_sent_away() {
    let plan = Plan::default().more("limits: {waiters: 1}");
    let stage = plan.start_with(|idp| idp.set_behaviour(Behaviour::Hang)).await;
    // One of them waits, whichever comes first, and the other is answered at once.
    let (one, other) = (Box::pin(stage.get("/v1/orders")), Box::pin(stage.get("/v1/orders")));
    let (refused, waiting) = match futures_util::future::select(one, other).await {
        futures_util::future::Either::Left(both) | futures_util::future::Either::Right(both) => both,
    };
    assert_eq!(refused.headers()["retry-after"], "1");
    let (status, code, problem) = fault(refused).await;
    assert_eq!((status, code.as_str()), (503, "overloaded"));
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("limits.waiters") && detail.contains("\"account\""), "{detail}");
    becomes(&stage, &faults("orders", "account", "overloaded"), 1).await;
    stage.idp.set_behaviour(Behaviour::Normal);
    assert_eq!(waiting.await.status(), 200, "who has waited is served");
    assert_eq!(stage.api.requests(), 1);
}

fn unauthorized(outcome: &str) -> String {
    format!("keybearer_unauthorized_total{{route=\"orders\",profile=\"account\",outcome=\"{outcome}\"}}")
}

#[tokio::test]
async fn a_401_to_a_body_that_is_not_on_record_is_counted_with_the_reason() {
    let stage = Plan::default().more("replay: {limit: 8KiB, total: 8KiB}").start().await;
    stage.ready().await;
    stage.idp.revoke_all();
    assert_eq!(stage.post("/v1/orders", vec![b'x'; 9000]).await.status(), 401);
    becomes(&stage, &unauthorized("body_over_limit"), 1).await;
    stage.idp.wait_for_issued(2).await;
    eventually("the new token is in use", || stage.gateway.profiles()[0].view().generation == 2).await;
    // An upload that does not end holds the memory that there is.
    let mut holder = Peer::connect(stage.address()).await;
    let head = "POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 8000\r\n\r\n";
    holder.send(head.to_owned() + &"x".repeat(7000)).await;
    becomes_at_least(&stage, "keybearer_replay_bytes", 7000).await;
    stage.idp.revoke_all();
    assert_eq!(stage.post("/v1/orders", vec![b'x'; 6000]).await.status(), 401);
    becomes(&stage, &unauthorized("budget_spent"), 1).await;
    assert_eq!(counted(&stage, &unauthorized("body_over_limit")).await, 1);
}

/// The 401 was in no outcome, and not in the access line.
#[tokio::test]
async fn a_caller_that_leaves_while_a_fresh_token_is_fetched_is_counted() {
    let stage = Stage::start().await;
    stage.ready().await;
    stage.idp.revoke_all();
    stage.idp.set_behaviour(Behaviour::Hang);
    let mut caller = Peer::connect(stage.address()).await;
    caller.send(GET).await;
    stage.idp.wait_for_requests(2).await;
    drop(caller);
    becomes(&stage, &unauthorized("abandoned"), 1).await;
    let (_, recent) = stage.admin("/api/v1/recent").await;
    assert!(recent.contains("the caller left before a fresh one was taken"), "{recent}");
}

/// It was said that the token is renewed whether it was or not.
#[tokio::test]
async fn what_is_told_of_a_401_that_is_passed_on_says_whether_the_token_is_renewed() {
    let plan = Plan::default().profile("recovery: {min_token_age: 0s, min_interval: 1h}");
    let stage = plan.more("replay: {limit: 8KiB, total: 8KiB}").start().await;
    stage.ready().await;
    for words in ["the token is renewed for the next request", "and is not again"] {
        stage.idp.revoke_all();
        assert_eq!(stage.post("/v1/orders", vec![b'x'; 9000]).await.status(), 401);
        let recent: serde_json::Value = serde_json::from_str(&stage.admin("/api/v1/recent").await.1).unwrap();
        assert_eq!(recent[0]["code"], "body_over_limit");
        let told = recent[0]["words"].as_str().unwrap();
        assert!(
            told.contains(words) && told.ends_with("the request's body is over the replay limit"),
            "{told}"
        );
        eventually("the token is renewed once", || stage.gateway.profiles()[0].view().generation == 2).await;
    }
}

async fn becomes_at_least(stage: &Stage, series: &str, number: u64) {
    let holds = async {
        while counted(stage, series).await < number {
            pause().await;
        }
    };
    tokio::time::timeout(PATIENCE, holds).await.unwrap_or_else(|_| panic!("{series} stays below {number}"));
}

/// The names of all series, with their labels.
async fn series(stage: &Stage) -> BTreeSet<String> {
    let (_, metrics) = stage.admin("/metrics").await;
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

/// Every kind of request that callers make up, each as many times, and none like another.
async fn odd_requests(stage: &Stage, which: std::ops::Range<usize>) {
    for n in which {
        // The last one ends the connection.
        let requests = format!(
            "GET /v1/{n}?q={n} HTTP/1.1\r\nHost: host{n}.example\r\nUser-Agent: agent{n}\r\nX-Request-Id: id-{n}\r\n\r\n\
             GET /nowhere/{n} HTTP/1.1\r\nHost: host{n}.example\r\n\r\n\
             GET /v1/{n}%2f HTTP/1.1\r\nHost: a\r\nReferer: http://{n}.example\r\n\r\n\
             ODD{n} /v1/{n} HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        assert_eq!(statuses(&stage.raw(requests).await), ["200", "404", "400", "405"]);
    }
}

#[tokio::test]
async fn what_callers_send_makes_no_series() {
    let stage = Plan::default().more("workers: 1").start().await;
    stage.ready().await;
    odd_requests(&stage, 0..5).await;
    becomes(&stage, &faults("orders", "account", "bad_request"), 5).await;
    let before = series(&stage).await;
    odd_requests(&stage, 5..255).await;
    // All have been counted, so all that they could have made would be there.
    becomes(&stage, &faults("orders", "account", "bad_request"), 255).await;
    becomes(&stage, &faults("", "", "no_route"), 255).await;
    let after = series(&stage).await;
    let made: Vec<_> = after.difference(&before).collect();
    assert!(made.is_empty(), "{made:?}");
}

/// Lines of a log at its most talkative, more than may wait, and nobody reads them.
#[tokio::test]
async fn a_log_that_nobody_reads_holds_nothing_up_and_what_is_lost_is_counted() {
    let stage = Stage::start().await;
    stage.ready().await;
    let mut process = Process::start(&stage, &["--log-filter", "trace"]).await;
    process.stop_reading();
    let dropped = async || {
        let metrics = stage.http.get(format!("http://{}/metrics", process.admin())).send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix("keybearer_log_lines_dropped_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let losing = async {
        while dropped().await == 0 {
            for _ in 0..50 {
                let answer = stage.http.get(process.url("/v1/orders")).send().await.unwrap();
                assert_eq!(answer.status(), 200);
            }
        }
    };
    tokio::time::timeout(PATIENCE, losing).await.expect("lines are lost, and that is counted");
    process.close_log();
    for _ in 0..50 {
        assert_eq!(stage.http.get(process.url("/v1/orders")).send().await.unwrap().status(), 200);
    }
    process.signal("-TERM");
    assert!(process.end().await.success(), "it stops although its last lines are not read");
}
