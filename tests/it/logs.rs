//! Access lines and metrics: what they hold, and what never gets into them.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
};

use keybearer::demo::idp::Behaviour;
use serde_json::Value;

use crate::{
    peer::{Authority, Peer, Tls},
    process::{Process, command},
    stage::{CLIENT, Plan, SECRET, Stage, eventually, fault},
};

fn access_lines(process: &Process) -> Vec<Value> {
    let lines = process.lines();
    let parsed = lines.iter().map(|line| serde_json::from_str::<Value>(line).expect("every line is JSON"));
    parsed.filter(|line| line["target"] == "access").collect()
}

#[tokio::test]
async fn every_request_leaves_one_line_with_what_an_operator_asks_for() {
    let stage = Stage::start().await;
    let process = Process::start(&stage, &[]).await;
    stage
        .http
        .get(process.url("/v1/orders?canary=query"))
        .header("x-request-id", "id-1")
        .send()
        .await
        .unwrap();
    stage.idp.revoke_all();
    stage.http.post(process.url("/v1/new")).body("four").send().await.unwrap();
    stage.http.get(process.url("/nowhere")).send().await.unwrap();
    eventually("three lines are written", || access_lines(&process).len() == 3).await;
    let lines = access_lines(&process);
    let [first, second, third] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!(first["route"], "orders");
    assert_eq!(first["profile"], "account");
    assert_eq!(first["caller"], "127.0.0.1");
    assert_eq!((&first["method"], &first["path"]), (&"GET".into(), &"/v1/orders".into()));
    assert_eq!((&first["status"], &first["attempts"]), (&200.into(), &1.into()));
    assert_eq!(first["request_id"], "id-1");
    assert!(first["upstream_ms"].as_f64().unwrap() <= first["total_ms"].as_f64().unwrap());
    assert!(first["bytes_out"].as_u64().unwrap() > 0);
    assert_eq!((&second["attempts"], &second["recovery"]), (&2.into(), &"recovered".into()));
    assert_eq!((&second["bytes_in"], &second["status"]), (&4.into(), &200.into()));
    assert_eq!((&third["status"], &third["fault"]), (&404.into(), &"no_route".into()));
    assert_eq!(third["route"], Value::Null);
}

#[tokio::test]
async fn no_token_secret_or_query_gets_into_logs_metrics_or_faults() {
    let plan = Plan::default().routes(
        "orders: {match: {path: /v1}, upstream: \"{api}\", profile: account}\n\
         gone: {match: {path: /gone}, upstream: \"http://127.0.0.1:1\", profile: account}",
    );
    let stage = plan.more("telemetry: {log: {level: trace}}").start().await;
    let process = Process::start(&stage, &["--log-level", "trace"]).await;
    let send = |path: &str| {
        let request = stage.http.get(process.url(path)).header("authorization", "Bearer canary-callers");
        request.header("cookie", "canary-cookie").send()
    };
    let mut seen = String::new();
    for path in
        ["/v1/orders?canary=query", "/gone?canary=query", "/none?canary=query", "/v1/a%2fb?canary=query"]
    {
        let response = send(path).await.unwrap();
        if response.headers()["content-type"] == "application/problem+json" {
            seen += &format!("{:?}", response.headers());
            seen += &response.text().await.unwrap();
        }
    }
    stage.idp.revoke_all();
    send("/v1/orders?canary=query").await.unwrap();
    stage.idp.set_secrets(CLIENT, &["other"]);
    stage.idp.revoke_all();
    send("/v1/orders?canary=query").await.unwrap();
    eventually("the failure is logged", || process.has_logged("no token")).await;
    eventually("all lines are written", || access_lines(&process).len() == 6).await;
    seen += &process.lines().join("\n");
    seen += &stage.admin("/metrics").await.1;
    let token = stage.api.history().iter().find_map(|seen| seen.token().map(str::to_owned)).unwrap();
    let signature = token.rsplit('.').next().unwrap();
    for leak in ["canary", SECRET, &token, signature, "eyJ"] {
        assert!(!seen.contains(leak), "{leak} in {seen}");
    }
}

/// The verifier's own line said less than ours, as an error, and named a path of the machine that built it.
#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_told_in_our_own_words_only() {
    let authority = Authority::new();
    let peer = Peer::start(Some(Tls::new(&authority))).await;
    let routes =
        format!("orders: {{match: {{path: /v1}}, upstream: \"{}\", profile: account}}", peer.url("https"));
    let stage = Plan::default().routes(&routes).start().await;
    let process = Process::start(&stage, &[]).await;
    for _ in 0..3 {
        let response = stage.http.get(process.url("/v1/orders")).send().await.unwrap();
        assert_eq!(fault(response).await.1, "upstream_tls");
    }
    eventually("the requests are logged", || access_lines(&process).len() == 3).await;
    let lines = process.lines();
    assert!(!lines.iter().any(|line| line.contains("rustls_platform_verifier")), "{lines:?}");
    let told: Vec<_> = lines.iter().filter(|line| line.contains("cannot be connected to")).collect();
    let [told] = told.as_slice() else { panic!("once for all three: {lines:?}") };
    let told: Value = serde_json::from_str(told).unwrap();
    assert_eq!((&told["level"], &told["fault"]), (&"WARN".into(), &"upstream_tls".into()));
    assert_eq!((&told["route"], &told["upstream"]), (&"orders".into(), &peer.url("https").into()));
    assert!(told["message"].as_str().unwrap().contains("UnknownIssuer"), "{told}");
}

/// With TLS 1.3 an upstream refuses a caller without a certificate only behind the handshake, and nothing was told.
#[tokio::test]
async fn an_upstream_that_wants_a_certificate_is_complained_of() {
    let authority = Authority::new();
    let tls =
        Tls { asks: true, alpn: &["http/1.1"], versions: &[&rustls::version::TLS13], ..Tls::new(&authority) };
    let peer = Peer::start(Some(tls)).await;
    let upstream = format!("{{url: \"{}\", ca: {{file: {:?}}}}}", peer.url("https"), authority.file());
    let routes = format!("orders: {{match: {{path: /v1}}, upstream: {upstream}, profile: account}}");
    let stage = Plan::default().routes(&routes).start().await;
    let process = Process::start(&stage, &[]).await;
    for _ in 0..2 {
        let response = stage.http.get(process.url("/v1/orders")).send().await.unwrap();
        assert_eq!(fault(response).await.1, "upstream_tls");
    }
    eventually("the requests are logged", || access_lines(&process).len() == 2).await;
    let lines = process.lines();
    let told = lines.iter().filter(|line| line.contains("perhaps over our certificate"));
    assert_eq!(told.count(), 1, "{lines:?}");
}

#[tokio::test]
async fn the_next_token_request_is_never_announced_for_now() {
    let stage = Plan::default().without_idp().start().await;
    let process = Process::start(&stage, &[]).await;
    eventually("a failure is logged", || process.has_logged("no token")).await;
    let line = process.lines().into_iter().find(|line| line.contains("no token")).unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    // A second at most, of which a part is left to chance.
    assert_eq!(line["next_attempt_s"], 1, "{line}");
}

/// The wait used to be counted from a moment before its own beginning, and then rounded up.
#[tokio::test]
async fn the_next_token_request_is_announced_for_its_second() {
    let stage = Stage::start().await;
    stage.idp.set_behaviour(Behaviour::Refuse { status: 400, error: "invalid_scope", code: 70_011 });
    let process = Process::start(&stage, &[]).await;
    eventually("a failure is logged", || process.has_logged("no token")).await;
    let line = process.lines().into_iter().find(|line| line.contains("no token")).unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["next_attempt_s"], 10, "{line}");
}

#[tokio::test]
async fn access_lines_can_be_turned_off() {
    let stage = Plan::default().more("telemetry: {log: {access: false}}").start().await;
    let mut process = Process::start(&stage, &[]).await;
    stage.http.get(process.url("/v1/orders")).send().await.unwrap();
    process.signal("-TERM");
    process.end().await;
    // The last line is written after every other.
    eventually("the log is complete", || process.has_logged("keybearer has stopped")).await;
    assert!(access_lines(&process).is_empty());
}

#[tokio::test]
async fn lines_for_people_are_no_json() {
    let stage = Stage::start().await;
    let path = stage.folder.path().join("keybearer.yaml");
    fs::write(&path, &stage.yaml).unwrap();
    let mut child = command(&["run", "--log-format", "human", "--config"])
        .arg(path)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.into_iter().find(|line| line.contains("keybearer runs"));
    child.kill().unwrap();
    child.wait().unwrap();
    let line = line.expect("it says that it runs");
    assert!(line.contains(" INFO ") && !line.starts_with('{'), "{line}");
}

#[tokio::test]
async fn metrics_count_requests_faults_recoveries_and_tokens() {
    let stage = Stage::start().await;
    stage.ready().await;
    assert_eq!(stage.status("/v1/orders").await, 200);
    stage.idp.revoke_all();
    assert_eq!(stage.status("/v1/orders").await, 200);
    assert_eq!(stage.status("/nowhere").await, 404);
    assert_eq!(stage.status("/v1/a%2fb").await, 400);
    let (status, metrics) = stage.admin("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "keybearer_requests_total{route=\"orders\",profile=\"account\",class=\"2xx\"} 2",
        "keybearer_requests_total{route=\"orders\",profile=\"account\",class=\"4xx\"} 1",
        "keybearer_requests_total{route=\"\",profile=\"\",class=\"4xx\"} 1",
        "keybearer_faults_total{route=\"orders\",profile=\"account\",code=\"bad_request\"} 1",
        "keybearer_faults_total{route=\"\",profile=\"\",code=\"no_route\"} 1",
        "keybearer_unauthorized_total{route=\"orders\",profile=\"account\",outcome=\"recovered\"} 1",
        "keybearer_token_ready{profile=\"account\"} 1",
        "keybearer_token_requests_total{profile=\"account\",result=\"ok\"} 2",
        "keybearer_request_duration_seconds_count{route=\"orders\",profile=\"account\"} 3",
        "keybearer_request_duration_seconds_bucket{le=\"+Inf\",route=\"orders\",profile=\"account\"} 3",
        "keybearer_in_flight{route=\"orders\",profile=\"account\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert!(metrics.ends_with("# EOF\n"));
}

#[tokio::test]
async fn every_admin_path_answers_and_none_takes_a_change() {
    let stage = Stage::start().await;
    stage.ready().await;
    let (_, index) = stage.admin("/").await;
    for endpoint in &keybearer::admin::ENDPOINTS {
        assert_eq!(stage.admin(endpoint.path).await.0, 200, "{}", endpoint.path);
        assert!(index.contains(endpoint.path) && index.contains(endpoint.help), "{index}");
        let url = format!("http://{}{}", stage.gateway.admin().unwrap(), endpoint.path);
        assert_eq!(stage.http.post(url).send().await.unwrap().status(), 405, "{}", endpoint.path);
    }
    assert_eq!(stage.admin("/nothing").await.0, 404);
}

#[tokio::test]
async fn no_filter_loses_the_audit_lines_unless_it_names_them() {
    let stage = Stage::start().await;
    stage.ready().await;
    for (filter, is_told) in [
        ("error,keybearer::cli=info", true),
        ("off,keybearer::cli=info,keybearer::app=error", true),
        ("error,keybearer::cli=info,audit=off", false),
    ] {
        let mut process = Process::start(&stage, &["--log-filter", filter]).await;
        let path = stage.folder.path().join("process.yaml");
        process.signal("-HUP");
        let told = || process.has_logged("the configuration was reloaded");
        if is_told {
            eventually("the reload is on record", told).await;
        }
        // The second reload is refused, which is an error in every case here.
        fs::write(path, "routes: 7\n").unwrap();
        let refused = || process.has_logged("the configuration was not reloaded");
        eventually("the next reload is refused", || {
            process.signal("-HUP");
            refused()
        })
        .await;
        assert_eq!(told(), is_told, "{filter}");
        process.signal("-TERM");
        process.end().await;
    }
}
