//! The binary as a person uses it: what each command prints, and its exit code.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Stdio},
};

use keybearer::demo::idp::TENANT;
use serde_json::Value;

use crate::{
    process::{Process, command, keybearer},
    stage::{API_URI, CLIENT, ROLE, SECRET, Stage, eventually},
};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn shipped(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name).to_string_lossy().into_owned()
}

#[test]
fn check_accepts_every_shipped_configuration() {
    for name in ["minimal.yaml", "full.yaml", "entra.yaml"] {
        let output = keybearer(&["check", "--config", &shipped(name)]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains("is valid: "), "{name}");
    }
    let output = keybearer(&["check", "-c", &shipped("entra.yaml"), "-e", "staging"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let output = keybearer(&["check", "-c", &shipped("entra.yaml"), "-e", "nowhere"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("staging"), "the environments that exist are named");
}

#[test]
fn check_reports_every_problem_with_its_place_and_exits_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.yaml");
    fs::write(
        &path,
        "listeners:\n  local: {adress: 127.0.0.1:8080}\nprofiles:\n  crm:\n    kind: oauth2\n    \
         token_url: http://id.example.com/token\n    client_id: crm\n    client_secret: canary-inline\n\
         routes:\n  billing: {upstream: https://billing.example.com, profile: erp}\n",
    )
    .unwrap();
    let output = keybearer(&["check", "--config", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let problems = text(&output.stderr);
    for expected in [
        "bad.yaml:2:11: listener \"local\": unknown key \"adress\" (did you mean \"address\"?",
        "bad.yaml:6:",
        "bad.yaml:8:",
        "profile \"erp\" is not defined (defined: \"crm\")",
        "address",
    ] {
        assert!(problems.contains(expected), "{expected} is not in\n{problems}");
    }
    assert!(!problems.contains("canary"), "{problems}");
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    let output = keybearer(&["check", "--config", "/no/such/file.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("/no/such/file.yaml"), "{}", text(&output.stderr));
    let folder = tempfile::tempdir().unwrap();
    let output = command(&["run"]).current_dir(folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--config FILE"), "{}", text(&output.stderr));
}

#[test]
fn explain_says_where_a_request_goes_and_why_not_elsewhere() {
    let config = shipped("minimal.yaml");
    let output = keybearer(&["explain", "GET", "http://any.internal/v1/orders?x=1", "-c", &config]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    for expected in ["orders", "orders-daemon", "https://orders.contoso.com/api/v1/orders?x=1"] {
        assert!(shown.contains(expected), "{expected} is not in\n{shown}");
    }
    let output = keybearer(&["explain", "GET", "/v1/../x", "--json", "-c", &config]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["fault"]["code"], "bad_request");
    assert_eq!(json["upstream"], Value::Null);
}

#[test]
fn explain_needs_no_secret_and_check_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keybearer.yaml");
    let yaml = fs::read_to_string(shipped("minimal.yaml")).unwrap();
    fs::write(&path, yaml.replace("{file: example.secret}", "{env: KEYBEARER_TEST_ABSENT}")).unwrap();
    let path = path.to_str().unwrap();
    assert_eq!(keybearer(&["explain", "GET", "/v1", "-c", path]).status.code(), Some(0));
    let output = keybearer(&["check", "-c", path]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("KEYBEARER_TEST_ABSENT is not set"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn explain_and_the_gateway_agree() {
    let stage = Stage::start().await;
    stage.ready().await;
    let path = stage.folder.path().join("keybearer.yaml");
    fs::write(&path, &stage.yaml).unwrap();
    for (method, target, field) in [
        ("GET", "/v1/x?y", "a: b"),
        ("GET", "/v2", "a: b"),
        ("TRACE", "/v1", "a: b"),
        ("GET", "/v1/%2e%2e/x", "a: b"),
        ("FOO", "/v1", "a: b"),
        ("GET", "/v1", "x_a: 1"),
        ("GET", "/v2", "x_a: 1"),
        ("GET", "/v1", "expect: 200-ok"),
        ("GET", "/v1", "upgrade: h2c"),
        ("GET", "/v1", "connection: authorization"),
        ("OPTIONS", "/v1", "max-forwards: 0"),
        ("OPTIONS", "/v1", "max-forwards: soon"),
        ("OPTIONS", "*", "a: b"),
        ("GET", "*", "a: b"),
    ] {
        let output =
            keybearer(&["explain", method, target, "-H", field, "--json", "-c", path.to_str().unwrap()]);
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{field}\r\nConnection: close\r\n\r\n");
        let answer = stage.raw(head).await;
        match json["fault"]["status"].as_u64() {
            Some(status) => {
                assert!(
                    answer.starts_with(&format!("HTTP/1.1 {status} ")),
                    "{method} {target}: {json} {answer}"
                );
                let code = json["fault"]["code"].as_str().unwrap();
                assert!(answer.contains(code), "{method} {target}: {json} {answer}");
            }
            None => assert!(answer.starts_with("HTTP/1.1 200 "), "{method} {target}: {json} {answer}"),
        }
    }
}

#[test]
fn explain_matches_by_the_host_field_and_says_how_many_routes_it_leaves_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keybearer.yaml");
    let mut yaml = String::from("listeners: {l: {address: \"127.0.0.1:0\"}}\nroutes:\n");
    for i in 0..14 {
        yaml += &format!(
            "  r{i}: {{match: {{host: h{i}.example}}, upstream: https://a.example, profile: none}}\n"
        );
    }
    fs::write(&path, yaml).unwrap();
    let ask = |more: &[&str]| {
        let arguments = ["explain", "GET", "/", "-H", "Host: h3.example", "-c", path.to_str().unwrap()];
        text(&keybearer(&[&arguments, more].concat()).stdout)
    };
    let shown = ask(&[]);
    assert!(shown.contains("route     r3") && shown.ends_with("  … 3 more, farther away\n"), "{shown}");
    let json: Value = serde_json::from_str(&ask(&["--json"])).unwrap();
    assert_eq!((json["near_misses"].as_array().unwrap().len(), &json["more"]), (10, &Value::from(3)));
}

#[tokio::test]
async fn token_shows_everything_but_the_token_unless_asked_to() {
    let stage = Stage::start().await;
    let path = stage.folder.path().join("keybearer.yaml");
    let yaml =
        stage.yaml.replace("    scope:", &format!("    expected_roles: [{ROLE}, Missing.Role]\n    scope:"));
    fs::write(&path, yaml).unwrap();
    let path = path.to_str().unwrap().to_owned();
    let run = async |arguments: Vec<String>| {
        tokio::task::spawn_blocking(move || {
            keybearer(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
        })
        .await
        .unwrap()
    };
    let output = run(["token", "account", "-c", &path].map(str::to_owned).to_vec()).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    for expected in [CLIENT, ROLE, "issuer", "audience", "3600 s", "missing    Missing.Role"] {
        assert!(shown.contains(expected), "{expected} is not in\n{shown}");
    }
    assert!(!shown.contains("eyJ") && !shown.contains(SECRET), "{shown}");
    let output = run(["token", "account", "--raw", "-c", &path].map(str::to_owned).to_vec()).await;
    assert!(text(&output.stdout).starts_with("eyJ"));
    let output = run(["token", "nobody", "-c", &path].map(str::to_owned).to_vec()).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("(defined: \"account\")"));
    stage.idp.set_secrets(CLIENT, &["other"]);
    let output = run(["token", "account", "-c", &path].map(str::to_owned).to_vec()).await;
    assert_eq!(output.status.code(), Some(1));
    let words = text(&output.stderr);
    assert!(words.contains("AADSTS7000215") && words.contains("the secret is wrong"), "{words}");
}

#[tokio::test]
async fn a_port_in_use_ends_run_with_1_and_names_the_listener() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keybearer.yaml");
    let yaml = format!(
        "listeners: {{front: {{address: \"{}\"}}}}\nroutes: {{all: {{upstream: http://127.0.0.1:1, profile: none}}}}\n",
        taken.local_addr().unwrap()
    );
    fs::write(&path, &yaml).unwrap();
    let output = keybearer(&["run", "--config", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let words = text(&output.stderr);
    assert!(words.contains("listener \"front\" cannot listen on 127.0.0.1:"), "{words}");
    drop(taken);
    // Nor does a second gateway share the port of a first one unasked.
    let first = Process::start_with(&path, &[]).await;
    let output = keybearer(&["run", "--config", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    drop(first);
}

#[tokio::test]
async fn status_tells_health_checks_whether_the_gateway_is_ready() {
    let stage = Stage::start().await;
    stage.ready().await;
    let admin = stage.gateway.admin().unwrap().to_string();
    let ask = async |admin: String| {
        tokio::task::spawn_blocking(move || keybearer(&["status", "--admin", &admin])).await.unwrap()
    };
    let output = ask(admin.clone()).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("account  ready"), "{}", text(&output.stdout));
    stage.gateway.stop();
    assert_eq!(ask(admin).await.status.code(), Some(1));
    assert_eq!(ask("127.0.0.1:1".into()).await.status.code(), Some(1));
}

#[tokio::test]
async fn an_environment_changes_accounts_and_upstreams_and_nothing_else() {
    let stage = Stage::start().await;
    let path = stage.folder.path().join("keybearer.yaml");
    let yaml = format!(
        "{}environments:\n  staging:\n    profiles:\n      other:\n        kind: entra\n        authority: {}\n        \
         tenant: {TENANT}\n        client_id: other-client\n        client_secret: {{file: secret}}\n        \
         scope: {API_URI}/.default\n    routes:\n      orders: {{profile: other}}\n",
        stage.yaml,
        stage.idp.url()
    );
    stage.idp.add_account(keybearer::demo::idp::Account::new("other-client", SECRET, &[ROLE]));
    fs::write(&path, yaml).unwrap();
    let process = Process::start_with(&path, &["--environment", "staging"]).await;
    let body: Value = stage.http.get(process.url("/v1/orders")).send().await.unwrap().json().await.unwrap();
    assert_eq!(body["seen"]["account"], "other-client");
    let body: Value = stage.get("/v1/orders").await.json().await.unwrap();
    assert_eq!(body["seen"]["account"], CLIENT);
}

#[tokio::test]
async fn the_process_leaves_no_core_and_is_out_of_reach_for_others() {
    let stage = Stage::start().await;
    let path = stage.folder.path().join("keybearer.yaml");
    let Some(mut run) = without_privileges(env!("CARGO_BIN_EXE_keybearer")) else {
        return println!("setpriv is not installed: whether others may read the memory is not tried");
    };
    run.env_remove("KEYBEARER_ENVIRONMENT").env_remove("KEYBEARER_LOG").stdin(Stdio::null());
    run.args(["run", "--log-format", "json", "--config"]).arg(path);
    let process = Process::run(run).await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    // A process that hides nothing, for comparison. It ends with its input.
    let mut other = without_privileges("cat").unwrap();
    let mut other = other.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    eventually("it is what it shall be", || {
        fs::read_to_string(format!("/proc/{}/comm", other.id())).unwrap() == "cat\n"
    })
    .await;
    let read = |process| {
        let mut reader = without_privileges("cat").unwrap();
        reader.env("LC_ALL", "C").arg(format!("/proc/{process}/maps")).output().unwrap()
    };
    let (open, closed) = (read(other.id()), read(process.id()));
    drop(other.stdin.take());
    other.wait().unwrap();
    assert!(open.status.success(), "{}", text(&open.stderr));
    assert!(!closed.status.success() && closed.stdout.is_empty(), "{}", text(&closed.stdout));
    assert!(text(&closed.stderr).contains("Permission denied"), "{}", text(&closed.stderr));
}

/// Starts a program as this user, but without what only root may do: root may read everybody's memory.
fn without_privileges(program: &str) -> Option<Command> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return Some(Command::new(program));
    }
    let is_there = Command::new("setpriv").arg("--version").output().is_ok();
    let mut dropping = Command::new("setpriv");
    dropping.args(["--bounding-set=-all", program]);
    is_there.then_some(dropping)
}

#[test]
fn schema_completions_man_and_help_are_generated() {
    let schema: Value = serde_json::from_slice(&keybearer(&["schema"]).stdout).unwrap();
    assert!(schema["properties"]["routes"].is_object());
    assert!(text(&keybearer(&["completions", "bash"]).stdout).contains("_keybearer"));
    assert!(text(&keybearer(&["man"]).stdout).contains(".TH keybearer 1"));
    let page = text(&keybearer(&["man", "switch"]).stdout);
    assert!(page.contains(".TH keybearer-switch 1") && page.contains("dry"), "{page}");
    assert_eq!(keybearer(&["man", "nonsense"]).status.code(), Some(2));
    assert!(text(&keybearer(&["--help"]).stdout).contains("explain"));
    assert_eq!(keybearer(&["nonsense"]).status.code(), Some(2));
    assert_eq!(keybearer(&["--version"]).status.code(), Some(0));
}
