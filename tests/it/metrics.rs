//! What `/metrics` shows is what the documents, the alerts and the dashboard speak of.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use keybearer::admin::changes::Wish;

use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::{
    authority::Authority,
    stage::{PATIENCE, Plan, Stage, pause, start_file},
    switches,
};

async fn scrape(stage: &Stage) -> String {
    let (status, text) = stage.admin("/metrics").await;
    assert_eq!(status, 200);
    assert!(text.ends_with("# EOF\n"), "{text}");
    text
}

/// Every metric of a scrape, as Prometheus stores it.
fn names(scrape: &str) -> BTreeSet<String> {
    let kinds = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let stored = kinds.map(|(name, kind)| match kind {
        "counter" => format!("{name}_total"),
        _ => name.to_owned(),
    });
    stored.collect()
}

fn text_of(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[tokio::test]
async fn every_metric_of_alerts_and_dashboard_is_in_a_real_scrape() {
    let stage = Stage::start().await;
    let there = names(&scrape(stage.ready().await).await);
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut asked = BTreeSet::new();
    for file in [
        "deploy/prometheus/alerts.yaml",
        "deploy/prometheus/alerts-test.yaml",
        "deploy/grafana/dashboard.json",
    ] {
        let text = text_of(file);
        for word in text.split(|c| !is_name(c)).filter(|word| word.starts_with("keybearer_")) {
            let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
            asked.insert(name.unwrap_or(word).to_owned());
        }
    }
    assert!(asked.len() > 20, "{asked:?}");
    let missing: Vec<_> = asked.difference(&there).collect();
    assert!(missing.is_empty(), "no such metric: {missing:?}");
}

#[tokio::test]
async fn the_table_of_metrics_and_a_scrape_agree() {
    let stage = Stage::start().await;
    let there = names(&scrape(stage.ready().await).await);
    let document = text_of("docs/operating.md");
    let table = document.split("\n## Metrics\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let told: BTreeSet<String> = table
        .lines()
        .filter_map(|row| Some(row.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .collect();
    let (untold, absent): (Vec<_>, Vec<_>) =
        (there.difference(&told).collect(), told.difference(&there).collect());
    assert!(untold.is_empty() && absent.is_empty(), "not in the table: {untold:?}; not there: {absent:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_reload_shows_until_the_file_is_put_right() {
    let stage = Stage::start().await;
    let path = stage.ready().await.folder.path().join("keybearer.yaml");
    let control = stage.gateway.control().unwrap();
    let reload = || tokio::task::block_in_place(|| control.reload("a test"));
    assert!(scrape(&stage).await.contains("keybearer_configuration_valid 1\n"));
    fs::write(&path, "routes: 7\n").unwrap();
    reload().unwrap_err();
    let refused = scrape(&stage).await;
    assert!(refused.contains("keybearer_configuration_valid 0\n"), "{refused}");
    assert!(refused.contains("keybearer_configuration_reloads_total{result=\"failed\"} 1\n"), "{refused}");
    fs::write(&path, &stage.yaml).unwrap();
    reload().unwrap();
    let right = scrape(&stage).await;
    assert!(right.contains("keybearer_configuration_valid 1\n"), "{right}");
    assert!(right.contains("keybearer_configuration_reloads_total{result=\"ok\"} 1\n"), "{right}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switched_route_shows_until_it_is_undone() {
    let stage = Stage::start().await;
    let path = stage.ready().await.folder.path().join("keybearer.yaml");
    let (before, rest) = stage.yaml.split_once("profiles:\n").unwrap();
    let (account, routes) = rest.split_once("routes:\n").unwrap();
    let other = account.replace("  account:", "  other:");
    fs::write(&path, format!("{before}profiles:\n{account}{other}\nroutes:\n{routes}")).unwrap();
    let control = stage.gateway.control().unwrap();
    let wish =
        Wish { route: Some("orders".into()), to: Some("other".into()), lasts: None, is_dry_run: false };
    tokio::task::block_in_place(|| {
        control.reload("a test").unwrap();
        control.switch(&wish, "a test").unwrap()
    });
    let line = "keybearer_switched{route=\"orders\"} 1\n";
    assert!(scrape(&stage).await.contains(line));
    tokio::task::block_in_place(|| control.undo(Some("orders"), "a test")).unwrap();
    assert!(!scrape(&stage).await.contains(line));
}

#[tokio::test]
async fn a_token_without_an_end_has_no_life_left_to_tell() {
    let more = "profiles: {account: {kind: static, header: {name: X-Key, value: {file: secret}}}}";
    let stage = Stage::start().await;
    let path = stage.folder.path().join("static.yaml");
    let (before, rest) = stage.yaml.split_once("profiles:\n").unwrap();
    let (_, routes) = rest.split_once("routes:\n").unwrap();
    fs::write(&path, format!("{before}{more}\nroutes:\n{routes}")).unwrap();
    let gateway = start_file(&path, None);
    let stage = Stage { gateway, ..stage };
    let static_one = scrape(stage.ready().await).await;
    assert!(static_one.contains("keybearer_token_ready{profile=\"account\"} 1\n"), "{static_one}");
    assert!(!static_one.contains("keybearer_token_expires_in_seconds{"), "{static_one}");
    let waiting = Plan::default().without_idp().start().await;
    let none = scrape(&waiting).await;
    assert!(none.contains("keybearer_token_expires_in_seconds{profile=\"account\"} 0.0\n"), "{none}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_counts_with_each_of_its_profiles_apart() {
    let stage = switches::start().await;
    let control = stage.gateway.control().unwrap();
    let wish =
        Wish { route: Some("orders".into()), to: Some("other".into()), lasts: None, is_dry_run: false };
    for _ in 0..2 {
        assert_eq!(stage.status("/v1/a").await, 200);
    }
    tokio::task::block_in_place(|| control.switch(&wish, "a test")).unwrap();
    assert_eq!(stage.status("/v1/a").await, 200);
    let counted = async |account: u32, other: u32| {
        let text = scrape(&stage).await;
        for (profile, number) in [("account", account), ("other", other)] {
            let line = format!("_total{{route=\"orders\",profile=\"{profile}\",class=\"2xx\"}} {number}\n");
            assert!(text.contains(&line), "{line}{text}");
            let line = format!("keybearer_in_flight{{route=\"orders\",profile=\"{profile}\"}} 0\n");
            assert!(text.contains(&line), "{line}{text}");
        }
        let (_, routes) = stage.admin("/api/v1/routes").await;
        let routes: serde_json::Value = serde_json::from_str(&routes).unwrap();
        assert_eq!(routes[0]["requests"]["2xx"], account + other, "the route as a whole");
    };
    counted(2, 1).await;
    tokio::task::block_in_place(|| control.undo(Some("orders"), "a test")).unwrap();
    assert_eq!(stage.status("/v1/a").await, 200);
    counted(3, 1).await;
    // What is not configured any more is forgotten.
    let path = stage.folder.path().join("keybearer.yaml");
    fs::write(&path, &stage.yaml).unwrap();
    tokio::task::block_in_place(|| control.reload("a test")).unwrap();
    assert!(!scrape(&stage).await.contains("profile=\"other\""));
}

#[tokio::test]
async fn token_requests_show_with_their_time_and_the_next_one() {
    let stage = Stage::start().await;
    let text = scrape(stage.ready().await).await;
    assert!(
        text.contains("keybearer_token_request_duration_seconds_count{profile=\"account\"} 1\n"),
        "{text}"
    );
    // A token of an hour is renewed ten minutes before its end.
    let next = value(&text, "keybearer_token_next_request_in_seconds{profile=\"account\"}");
    assert!((2000.0..3600.0).contains(&next), "{next}");
    assert!(value(&text, "process_open_fds") > 3.0, "{text}");
    assert!(value(&text, "process_resident_memory_bytes") > 1e6, "{text}");
    assert_eq!(value(&text, "keybearer_replay_limit_bytes"), 268_435_456.0);
}

#[tokio::test]
async fn connections_to_an_upstream_show_as_idle_or_in_use() {
    let stage = Plan::default().more("workers: 1").start().await;
    assert_eq!(stage.ready().await.status("/v1/a").await, 200);
    let api = stage.api.url();
    let series = |state| format!("keybearer_upstream_connections{{upstream=\"{api}\",state=\"{state}\"}}");
    // The connection comes back a moment after the answer.
    let idle = async {
        while value(&scrape(&stage).await, &series("idle")) < 1.0 {
            pause().await;
        }
    };
    tokio::time::timeout(PATIENCE, idle).await.unwrap();
    let text = scrape(&stage).await;
    assert_eq!(value(&text, &series("in_use")), 0.0, "{text}");
    let opened = format!("keybearer_upstream_connections_opened_total{{upstream=\"{api}\"}}");
    assert_eq!(value(&text, &opened), 1.0);
    // A request whose body has not ended holds its connection.
    let mut caller = TcpStream::connect(stage.address()).await.unwrap();
    let head = "POST /v1/a HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf";
    caller.write_all(head.as_bytes()).await.unwrap();
    let in_use = async {
        while value(&scrape(&stage).await, &series("in_use")) < 1.0 {
            pause().await;
        }
    };
    tokio::time::timeout(PATIENCE, in_use).await.unwrap();
    assert_eq!(value(&scrape(&stage).await, &series("idle")), 0.0);
}

#[tokio::test]
async fn a_wait_for_a_token_is_overhead_and_not_the_upstreams_time() {
    let stage = Stage::start().await;
    assert_eq!(stage.ready().await.status("/v1/a").await, 200);
    stage.idp.set_delay(Duration::from_millis(600));
    stage.idp.revoke_all();
    assert_eq!(stage.status("/v1/a").await, 200);
    let text = scrape(&stage).await;
    let labels = "{route=\"orders\",profile=\"account\"}";
    let (overhead, upstream) = (
        value(&text, &format!("keybearer_overhead_duration_seconds_sum{labels}")),
        value(&text, &format!("keybearer_upstream_duration_seconds_sum{labels}")),
    );
    assert!(overhead > 0.55, "{text}");
    assert!(upstream < 0.5, "{text}");
    assert_eq!(value(&text, &format!("keybearer_overhead_duration_seconds_count{labels}")), 2.0);
}

fn value(scrape: &str, series: &str) -> f64 {
    let line = scrape.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in {scrape}")).parse().unwrap()
}

#[tokio::test]
async fn the_admin_listeners_certificate_shows_with_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.issue(&["127.0.0.1"]).write(folder.path(), "admin");
    let (pem, key) = (folder.path().join("admin.pem"), folder.path().join("admin.key"));
    let admin = format!(
        "state_dir: state\nadmin: {{address: \"127.0.0.1:0\", tls: {{certificate: {{file: {pem:?}}}, key: {{file: {key:?}}}}}}}"
    );
    let stage = Plan::default().more(&admin).start().await;
    let ca = reqwest::Certificate::from_pem(authority.pem.as_bytes()).unwrap();
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([ca]).build().unwrap();
    let url = format!("https://{}/metrics", stage.gateway.admin().unwrap());
    let ask = async || {
        let answer = http.get(&url).timeout(PATIENCE).send().await.unwrap();
        answer.text().await.unwrap()
    };
    let first = ask().await;
    let series = format!("keybearer_admin_certificate_expiry_seconds{{file=\"{}\"}}", pem.display());
    assert!(value(&first, &series) > 1e9, "{first}");
    let renewed = "keybearer_admin_certificate_reloads_total{result=\"ok\"}";
    assert_eq!(value(&first, renewed), 0.0);
    authority.issue(&["127.0.0.1"]).write(folder.path(), "admin");
    // The gateway looks at its files every two seconds.
    let is_new = async { while value(&ask().await, renewed) < 1.0 {} };
    tokio::time::timeout(PATIENCE, is_new).await.expect("the new certificate is counted");
}
