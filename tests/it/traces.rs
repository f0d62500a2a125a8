//! Traces: what upstreams are told, and what a collector gets. The collector here reads OTLP with the official
//! messages.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value},
    trace::v1::{Span, span::SpanKind},
};
use prost::Message as _;

use crate::peer::{Authority, Peer, Tls};
use crate::process::{Process, command};
use crate::stage::{PATIENCE, Plan, Stage, eventually, pause};

const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What a collector has been sent.
#[derive(Default)]
struct Taken {
    spans: Vec<Span>,
    resource: Vec<KeyValue>,
    keys: Vec<String>,
    requests: usize,
    /// Answers to give before it takes anything.
    refusals: Vec<StatusCode>,
}

struct Collector {
    taken: Arc<Mutex<Taken>>,
    url: String,
}

impl Collector {
    async fn start() -> Self {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", socket.local_addr().unwrap());
        let taken = Arc::<Mutex<Taken>>::default();
        let shared = Arc::clone(&taken);
        let take = move |headers: http::HeaderMap, body: Bytes| {
            let shared = Arc::clone(&shared);
            async move { take(&mut shared.lock().unwrap(), &headers, &body) }
        };
        let router = Router::new().route("/v1/traces", post(take));
        tokio::spawn(async move { axum::serve(socket, router).await });
        Self { taken, url }
    }

    fn spans(&self) -> Vec<Span> {
        self.taken.lock().unwrap().spans.clone()
    }

    /// Waits for `count` spans of `kind` by that name.
    async fn wait_for(&self, what: &str, count: usize, is_one: impl Fn(&Span) -> bool) -> Vec<Span> {
        let found = || self.spans().into_iter().filter(|span| is_one(span)).collect::<Vec<_>>();
        eventually(what, || found().len() >= count).await;
        let found = found();
        assert_eq!(found.len(), count, "{what}: {found:#?}");
        found
    }

    /// The spans of requests, oldest first.
    async fn requests(&self, count: usize) -> Vec<Span> {
        self.wait_for("spans of requests", count, |span| span.kind() == SpanKind::Server).await
    }

    /// The spans of token requests.
    async fn fetches(&self, count: usize) -> Vec<Span> {
        self.wait_for("spans of token requests", count, |span| span.name == "fetch token").await
    }

    /// The spans of attempts below `request`, oldest first.
    fn attempts(&self, request: &Span) -> Vec<Span> {
        let mut all = self.spans();
        all.retain(|span| span.parent_span_id == request.span_id);
        all.sort_by_key(|span| span.start_time_unix_nano);
        all
    }
}

fn take(taken: &mut Taken, headers: &http::HeaderMap, body: &[u8]) -> StatusCode {
    taken.requests += 1;
    if let Some(refusal) = taken.refusals.pop() {
        return refusal;
    }
    assert_eq!(headers["content-type"], "application/x-protobuf");
    taken.keys.extend(headers.get("x-api-key").map(|key| key.to_str().unwrap().to_owned()));
    for sent in ExportTraceServiceRequest::decode(body).unwrap().resource_spans {
        taken.resource = sent.resource.unwrap().attributes;
        taken.spans.extend(sent.scope_spans.into_iter().flat_map(|scope| scope.spans));
    }
    StatusCode::OK
}

fn attributes(all: &[KeyValue]) -> BTreeMap<&str, String> {
    let told = |pair: &KeyValue| match pair.value.as_ref().unwrap().value.as_ref().unwrap() {
        any_value::Value::StringValue(text) => text.clone(),
        any_value::Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    all.iter().map(|pair| (pair.key.as_str(), told(pair))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A ready stage that sends its spans to `collector`.
async fn start(collector: &Collector, more: &str) -> Stage {
    let otlp = format!("telemetry: {{otlp: {{endpoint: \"{}\"{more}}}}}", collector.url);
    let stage = Plan::default().more(&otlp).start().await;
    stage.ready().await;
    stage
}

async fn get_in_trace(stage: &Stage, traceparent: &str) -> u16 {
    let request = stage.http.get(stage.url("/v1/a?code=hunter2"));
    let request = request.header("traceparent", traceparent).header("tracestate", "vendor=1");
    let request = request.header("baggage", "customer=7,region=north");
    request.send().await.unwrap().status().as_u16()
}

/// `traceparent` as the upstream saw it last.
fn told(stage: &Stage) -> String {
    let seen = stage.api.last().unwrap();
    let all = seen.values("traceparent");
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].to_owned()
}

#[tokio::test]
async fn without_a_collector_the_trace_of_a_caller_passes_untouched() {
    let stage = Stage::start().await;
    stage.ready().await;
    for given in [GIVEN, "not a traceparent"] {
        assert_eq!(get_in_trace(&stage, given).await, 200);
        assert_eq!(told(&stage), given);
        assert_eq!(stage.api.last().unwrap().values("tracestate"), ["vendor=1"]);
        assert_eq!(stage.api.last().unwrap().values("baggage"), ["customer=7,region=north"]);
    }
    stage.get("/v1/a").await;
    assert!(stage.api.last().unwrap().values("traceparent").is_empty());
}

#[tokio::test]
async fn a_request_and_its_attempt_continue_the_callers_trace() {
    let collector = Collector::start().await;
    let stage = start(&collector, "").await;
    assert_eq!(get_in_trace(&stage, GIVEN).await, 200);
    let request = collector.requests(1).await.remove(0);
    let attempts = collector.attempts(&request);
    assert_eq!(hex(&request.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(hex(&request.parent_span_id), "00f067aa0ba902b7");
    assert_eq!(request.name, "GET /v1");
    let known = attributes(&request.attributes);
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("http.route", "/v1"),
        ("url.path", "/v1/a"),
        ("keybearer.route", "orders"),
        ("keybearer.profile", "account"),
        ("client.address", "127.0.0.1"),
    ] {
        assert_eq!(known.get(key).map(String::as_str), Some(value), "{key} of {known:?}");
    }
    assert_eq!(attempts.len(), 1);
    assert_ne!(attempts[0].span_id, request.span_id);
    let attempt = &attempts[0];
    assert_eq!((attempt.kind(), attempt.name.as_str()), (SpanKind::Client, "GET"));
    assert_eq!(attempt.trace_id, request.trace_id);
    assert_eq!(told(&stage), format!("00-{}-{}-01", hex(&attempt.trace_id), hex(&attempt.span_id)));
    assert_eq!(stage.api.last().unwrap().values("tracestate"), ["vendor=1"]);
    assert_eq!(stage.api.last().unwrap().values("baggage"), ["customer=7,region=north"]);
    let known = attributes(&attempt.attributes);
    assert_eq!(
        (known["server.address"].as_str(), known["http.response.status_code"].as_str()),
        ("127.0.0.1", "200")
    );
    assert!(attempt.start_time_unix_nano >= request.start_time_unix_nano);
    assert!(attempt.end_time_unix_nano <= request.end_time_unix_nano);
    // Not a query, not a token, in anything that was sent.
    let all = format!("{:?}", collector.spans());
    assert!(!all.contains("hunter2") && !all.contains("eyJ"), "{all}");
    let resource = collector.taken.lock().unwrap().resource.clone();
    assert_eq!(attributes(&resource)["service.name"], "keybearer");
}

#[tokio::test]
async fn a_recovered_401_has_two_attempts_and_points_to_the_token_request_it_waited_for() {
    let collector = Collector::start().await;
    let stage = start(&collector, "").await;
    stage.idp.revoke_all();
    assert_eq!(stage.status("/v1/a").await, 200);
    let request = collector.requests(1).await.remove(0);
    let attempts = collector.attempts(&request);
    let statuses: Vec<_> =
        attempts.iter().map(|a| attributes(&a.attributes)["http.response.status_code"].clone()).collect();
    assert_eq!(statuses, ["401", "200"]);
    assert_eq!(attributes(&attempts[0].attributes)["error.type"], "401");
    assert_eq!(attributes(&attempts[1].attributes)["http.request.resend_count"], "1");
    assert_ne!(attempts[0].span_id, attempts[1].span_id);
    assert!(told(&stage).contains(&hex(&attempts[1].span_id)), "the upstream is told of the attempt");
    assert_eq!(attributes(&request.attributes)["keybearer.recovery"], "recovered");
    // The first one was at the start, and nobody waited for it.
    let fetches = collector.fetches(2).await;
    assert_eq!(request.links.len(), 1, "{request:#?}");
    assert_eq!(request.links[0].span_id, fetches[1].span_id);
    assert_eq!(request.links[0].trace_id, fetches[1].trace_id);
    assert_eq!(attributes(&fetches[1].attributes)["keybearer.profile"], "account");
    assert_eq!(fetches[1].kind(), SpanKind::Client);
    assert!(fetches[1].parent_span_id.is_empty(), "many requests may wait for it");
}

#[tokio::test]
async fn a_fault_is_an_error_by_its_code_and_points_to_the_token_request_that_failed() {
    let collector = Collector::start().await;
    let otlp = format!("telemetry: {{otlp: {{endpoint: \"{}\"}}}}", collector.url);
    let stage = Plan::default().more(&otlp).without_idp().start().await;
    assert_eq!(stage.status("/v1/a").await, 503);
    let request = collector.requests(1).await.remove(0);
    let known = attributes(&request.attributes);
    assert_eq!(
        (known["error.type"].as_str(), known["http.response.status_code"].as_str()),
        ("token_unavailable", "503")
    );
    assert_eq!(request.status.as_ref().unwrap().code, 2);
    // It is asked for again meanwhile, each time with another span.
    let waited_for = |span: &Span| span.span_id == request.links[0].span_id;
    let failed = collector.wait_for("the failed token request", 1, waited_for).await.remove(0);
    assert_eq!(
        (failed.name.as_str(), &*attributes(&failed.attributes)["error.type"]),
        ("fetch token", "transient")
    );
    assert_eq!(failed.status.as_ref().unwrap().code, 2);
}

#[tokio::test]
async fn an_upstream_that_is_gone_shows_in_the_attempt() {
    let collector = Collector::start().await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let otlp = format!("telemetry: {{otlp: {{endpoint: \"{}/\"}}}}", collector.url);
    let routes = format!("gone: {{match: {{path: /v1}}, upstream: \"http://{gone}\", profile: account}}");
    let stage = Plan::default().more(&otlp).routes(&routes).start().await;
    assert_eq!(stage.ready().await.status("/v1/a").await, 502);
    let request = collector.requests(1).await.remove(0);
    let attempts = collector.attempts(&request);
    assert_eq!(attributes(&attempts[0].attributes)["error.type"], "upstream_unreachable");
    assert_eq!(attributes(&request.attributes)["error.type"], "upstream_unreachable");
}

#[tokio::test]
async fn who_began_the_trace_decides_and_else_the_share_does() {
    let collector = Collector::start().await;
    let stage = start(&collector, ", sampling: 0").await;
    // Not wanted by its caller: as it came.
    let unwanted = GIVEN.replace("-01", "-00");
    assert_eq!(get_in_trace(&stage, &unwanted).await, 200);
    assert_eq!(told(&stage), unwanted);
    // A trace that begins here and is not kept: the upstream is told so.
    stage.get("/v1/a").await;
    let begun = told(&stage);
    assert!(begun.starts_with("00-") && begun.ends_with("-02"), "random and not sampled: {begun}");
    // What is no place in a trace begins a new one, without its state.
    assert_eq!(get_in_trace(&stage, "00-zz").await, 200);
    assert!(told(&stage).ends_with("-02"));
    assert!(stage.api.last().unwrap().values("tracestate").is_empty());
    // Wanted by its caller, whatever the share.
    assert_eq!(get_in_trace(&stage, GIVEN).await, 200);
    let request = collector.requests(1).await.remove(0);
    assert_eq!(hex(&request.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
}

#[tokio::test]
async fn a_collector_that_is_busy_is_asked_again_and_gets_its_key() {
    let collector = Collector::start().await;
    collector.taken.lock().unwrap().refusals =
        vec![StatusCode::UNAUTHORIZED, StatusCode::SERVICE_UNAVAILABLE];
    let stage = start(&collector, ", service_name: billing, headers: {X-Api-Key: {file: secret}}").await;
    assert_eq!(stage.status("/v1/a").await, 200);
    collector.requests(1).await;
    {
        let taken = collector.taken.lock().unwrap();
        assert!(taken.keys.iter().all(|key| key == crate::stage::SECRET) && !taken.keys.is_empty());
        assert!(taken.requests > 2);
        assert_eq!(attributes(&taken.resource)["service.name"], "billing");
    }
    // A request, an attempt and the token request of the start.
    let sent = "keybearer_spans_exported_total 3\n";
    wait_for_metric(&stage, sent).await;
    assert!(stage.admin("/metrics").await.1.contains("keybearer_spans_lost_total{reason=\"refused\"} 0\n"));
}

/// What the doctor says of the collector: exit code, and the steps with their outcomes and words.
async fn examined(stage: &Stage, arguments: &[&str]) -> (i32, String) {
    let path = stage.folder.path().join("keybearer.yaml");
    let mut doctor = command(&["doctor", "--json", "--config", path.to_str().unwrap()]);
    doctor.args(arguments);
    let output = tokio::task::spawn_blocking(move || doctor.output().unwrap()).await.unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let steps = report["collectors"][0]["steps"].as_array().cloned().unwrap_or_default();
    let line = |step: &serde_json::Value| {
        let words =
            ["step", "outcome", "seen", "meaning", "remedy"].map(|part| step[part].as_str().unwrap_or("-"));
        words.join(" | ") + "\n"
    };
    (output.status.code().unwrap(), steps.iter().map(line).collect())
}

#[tokio::test]
async fn the_doctor_tries_the_collector_and_says_what_is_wrong_with_it() {
    let collector = Collector::start().await;
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "k3y").unwrap();
    let stage = start(&collector, &format!(", headers: {{x-api-key: {{file: {}}}}}", key.display())).await;
    std::fs::remove_file(&key).unwrap();
    let (code, unreadable) = examined(&stage, &[]).await;
    assert_eq!(code, 1, "{unreadable}");
    assert!(
        unreadable.contains("source | failed | headers.x-api-key: ")
            && unreadable.contains("export | skipped")
    );
    std::fs::write(&key, "k3y").unwrap();
    let (code, well) = examined(&stage, &[]).await;
    assert_eq!(code, 0, "{well}");
    assert!(well.contains("export | ok | the collector takes spans"), "{well}");
    assert!(!well.contains("k3y"), "{well}");
    let is_asked = collector.taken.lock().unwrap().keys.contains(&"k3y".to_owned());
    assert!(is_asked, "it was asked with its key");
    for (status, outcome, words) in [
        (401, "failed | it answered 401", "put the key that it expects into telemetry.otlp.headers"),
        (404, "failed | it answered 404", "takes no traces at this path"),
        (503, "failed | it answered 503", "look at its log"),
        (400, "warning | it answered 400", "a request without spans"),
    ] {
        collector.taken.lock().unwrap().refusals = vec![StatusCode::from_u16(status).unwrap(); 50];
        let (code, told) = examined(&stage, &[]).await;
        assert_eq!(code == 1, outcome.starts_with("failed"), "{told}");
        assert!(told.contains(&format!("export | {outcome}")) && told.contains(words), "{told}");
    }
    assert_eq!(examined(&stage, &["--profile", "account"]).await.1, "", "it is not the profile's");
}

#[tokio::test]
async fn the_doctor_tells_a_collector_that_is_away_from_one_that_speaks_something_else() {
    let mut collector = Collector::start().await;
    // As a gRPC server does: its settings frame first, whatever comes.
    let grpc = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    collector.url = format!("http://{}", grpc.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = grpc.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
        }
    });
    let stage = start(&collector, "").await;
    let (code, told) = examined(&stage, &[]).await;
    assert_eq!(code, 1, "{told}");
    assert!(
        told.contains("tcp | ok") && told.contains("OTLP over gRPC") && told.contains("usually 4318"),
        "{told}"
    );
    // A port that was bound a moment ago and is free again.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let path = stage.folder.path().join("keybearer.yaml");
    std::fs::write(&path, stage.yaml.replace(&collector.url, &format!("http://{free}"))).unwrap();
    let (code, away) = examined(&stage, &[]).await;
    assert_eq!(code, 1, "{away}");
    assert!(away.contains("tcp | failed") && away.contains("nothing listens on the port"), "{away}");
}

#[tokio::test]
async fn a_collector_behind_a_private_authority_is_trusted_by_its_ca_alone() {
    let authority = Authority::new();
    let peer = Peer::start(Some(Tls::new(&authority))).await;
    let otlp = |ca: &str| {
        let headers = "headers: {authorization: {file: secret}}";
        format!("telemetry: {{otlp: {{endpoint: \"{}\", {headers}{ca}}}}}", peer.url("https"))
    };
    let strange = Plan::default().more(&otlp("")).start().await;
    let process = Process::start(&strange, &[]).await;
    let refused = || process.lines().iter().any(|line| line.contains("the TLS handshake failed"));
    eventually("the certificate is not trusted", refused).await;
    assert!(peer.seen().is_empty());
    let ca = format!(", ca: {{file: {}}}", authority.file().display());
    let stage = Plan::default().more(&otlp(&ca)).start().await;
    wait_for_metric(&stage, "keybearer_spans_exported_total 1\n").await;
    let seen = peer.seen();
    assert_eq!(seen[0].authorization, crate::stage::SECRET);
    assert!(!process.lines().iter().any(|line| line.contains(crate::stage::SECRET)));
}

#[tokio::test]
async fn spans_that_a_collector_will_not_have_are_counted_and_requests_go_on() {
    let collector = Collector::start().await;
    collector.taken.lock().unwrap().refusals = vec![StatusCode::BAD_REQUEST; 100];
    let stage = start(&collector, "").await;
    assert_eq!(stage.status("/v1/a").await, 200);
    wait_for_metric(&stage, "keybearer_spans_lost_total{reason=\"refused\"} 3\n").await;
    assert_eq!(stage.status("/v1/a").await, 200);
}

#[tokio::test]
async fn the_access_line_names_the_trace() {
    let collector = Collector::start().await;
    let stage = start(&collector, ", sampling: 0").await;
    let process = Process::start(&stage, &[]).await;
    for given in [GIVEN.to_owned(), GIVEN.replace("-01", "-00")] {
        stage.http.get(process.url("/v1/a")).header("traceparent", given).send().await.unwrap();
    }
    let lines = || process.lines().into_iter().filter(|line| line.contains("\"access\"")).collect::<Vec<_>>();
    eventually("both lines are written", || lines().len() == 2).await;
    let traced = lines().iter().filter(|line| line.contains("4bf92f3577b34da6a3ce929d0e0e4736")).count();
    assert_eq!(traced, 1, "{:?}", lines());
}

#[tokio::test]
async fn a_collector_that_hangs_holds_no_request_up_and_the_loss_is_told_once() {
    // Connections to it are made, as the system takes them, and nobody ever answers.
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let otlp = format!("telemetry: {{otlp: {{endpoint: \"http://{}\"}}}}", hanging.local_addr().unwrap());
    let stage = Plan::default().more(&otlp).start().await;
    let process = Process::start(&stage, &[]).await;
    // More than its queue has room for, and the batch that is stuck.
    let callers = (0..8).map(|_| async {
        for _ in 0..350 {
            assert_eq!(stage.http.get(process.url("/v1/a")).send().await.unwrap().status(), 200);
        }
    });
    let took = tokio::time::timeout(PATIENCE, futures_util::future::join_all(callers)).await;
    assert!(took.is_ok(), "requests wait for the collector");
    let told = || process.lines().iter().filter(|line| line.contains("spans are lost")).count();
    eventually("the loss is told", || told() > 0).await;
    assert_eq!(told(), 1);
}

async fn wait_for_metric(stage: &Stage, line: &str) {
    let shown = async {
        while !stage.admin("/metrics").await.1.contains(line) {
            pause().await;
        }
    };
    tokio::time::timeout(PATIENCE, shown).await.unwrap_or_else(|_| panic!("never: {line}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_begins_ends_and_moves_tracing() {
    let (first, second) = (Collector::start().await, Collector::start().await);
    let stage = start(&first, "").await;
    let reload = |text: &str| {
        std::fs::write(stage.folder.path().join("keybearer.yaml"), text).unwrap();
        tokio::task::block_in_place(|| stage.gateway.control().unwrap().reload("a test"))
    };
    let reloaded = reload(&stage.yaml.replace(&first.url, &second.url)).unwrap();
    assert_eq!(reloaded.changed, ["telemetry.otlp"]);
    assert_eq!(get_in_trace(&stage, GIVEN).await, 200);
    second.requests(1).await;
    assert!(first.spans().iter().all(|span| span.kind() != SpanKind::Server));
    let off = stage.yaml.replace(&format!("telemetry: {{otlp: {{endpoint: \"{}\"}}}}", first.url), "");
    reload(&off).unwrap();
    assert_eq!(get_in_trace(&stage, GIVEN).await, 200);
    assert_eq!(told(&stage), GIVEN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_gateway_sends_what_it_has() {
    let collector = Collector::start().await;
    let stage = start(&collector, "").await;
    assert_eq!(stage.status("/v1/a").await, 200);
    let gateway = stage.gateway;
    tokio::task::spawn_blocking(move || {
        gateway.stop();
        gateway.wait()
    })
    .await
    .unwrap();
    assert_eq!(collector.requests(1).await.len(), 1);
}
