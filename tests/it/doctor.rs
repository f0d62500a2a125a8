//! `keybearer doctor`: what works is told as such, each failure with its words and the next step.

use std::{fs, process::Output};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Version;
use keybearer::demo::idp::{Behaviour, TENANT};
use serde_json::Value;

use crate::{
    judge::{Judge, challenge, ok},
    outbound::behind_tls,
    peer::{Authority, Peer, Tls},
    process::command,
    proofs::Made,
    stage::{CLIENT, PATIENCE, Plan, ROLE, SECRET, Stage},
};

/// Runs the doctor on the stage's configuration, with another thread for the servers of the stage.
async fn run(stage: &Stage, arguments: &[&str]) -> Output {
    let path = stage.folder.path().join("keybearer.yaml");
    let mut doctor = command(&["doctor", "--config", path.to_str().unwrap()]);
    doctor.args(arguments);
    tokio::task::spawn_blocking(move || doctor.output().unwrap()).await.unwrap()
}

async fn report(stage: &Stage, arguments: &[&str]) -> (i32, Value) {
    let output = run(stage, &[&["--json"], arguments].concat()).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = serde_json::from_str(&text).unwrap_or_else(|_| {
        panic!("{text}{}", String::from_utf8_lossy(&output.stderr));
    });
    (output.status.code().unwrap(), report)
}

fn step<'a>(case: &'a Value, name: &str) -> &'a Value {
    let steps = case["steps"].as_array().unwrap();
    steps.iter().find(|step| step["step"] == name).unwrap_or_else(|| panic!("no step {name} in {case}"))
}

/// Outcome, what was seen, what it means, what to do next.
#[track_caller]
fn check(case: &Value, name: &str, outcome: &str, words: &[&str]) {
    let step = step(case, name);
    assert_eq!(step["outcome"], outcome, "{step}");
    let text = step.to_string();
    for word in words {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    let has_words = step["meaning"].is_string() && step["remedy"].is_string();
    assert_eq!(has_words, outcome == "failed" || outcome == "warning", "{step}");
}

#[tokio::test]
async fn what_works_is_told_step_by_step_without_any_secret() {
    let stage = Plan::default().profile(&format!("expected_roles: [{ROLE}]")).start().await;
    let (code, report) = report(&stage, &[]).await;
    assert_eq!((code, &report["ok"]), (0, &Value::Bool(true)), "{report}");
    assert_eq!((&report["failed"], &report["warnings"]), (&0.into(), &0.into()), "{report}");
    let profile = &report["profiles"][0];
    assert_eq!((&profile["name"], &profile["outcome"]), (&"account".into(), &"ok".into()));
    check(profile, "source", "ok", &["client_secret: file ", "/secret is readable"]);
    check(profile, "dns", "ok", &["127.0.0.1"]);
    check(profile, "tcp", "ok", &["connected to 127.0.0.1:"]);
    check(profile, "token", "ok", &["client_secret_post"]);
    check(profile, "clock", "ok", &["0 s apart"]);
    check(profile, "lifetime", "ok", &["3600 s"]);
    check(profile, "content", "ok", &["issuer ", "audience 0f8fad5b", CLIENT]);
    check(profile, "roles", "ok", &[ROLE]);
    let route = &report["routes"][0];
    assert_eq!((&route["name"], &route["profile"]), (&"orders".into(), &"account".into()));
    check(route, "tcp", "ok", &[]);
    let output = run(&stage, &[]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("all is well: 2 examined"), "{text}");
    assert!(!text.contains('\u{1b}') && output.stderr.is_empty(), "no terminal, no colours: {text}");
    for shown in [text, report.to_string()] {
        assert!(!shown.contains("canary") && !shown.contains(SECRET) && !shown.contains("eyJ"), "{shown}");
    }
}

#[tokio::test]
async fn a_refusal_is_told_with_its_number_its_meaning_and_the_next_step() {
    let stage = Stage::start().await;
    stage.idp.set_secrets(CLIENT, &["other"]);
    let (code, report) = report(&stage, &[]).await;
    assert_eq!((code, &report["ok"]), (1, &Value::Bool(false)));
    let profile = &report["profiles"][0];
    check(profile, "source", "ok", &[]);
    check(profile, "token", "failed", &["AADSTS7000215", "secret's id was pasted", "make a new one"]);
    check(profile, "content", "skipped", &["no token"]);
    check(&report["routes"][0], "tcp", "ok", &[]);
    let output = run(&stage, &["--profile", "account"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("means: the secret is wrong") && text.contains("next:  put the secret"), "{text}");
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_and_one_with_a_space_are_named_by_their_place() {
    let stage = Stage::start().await;
    fs::write(stage.secret_file(), format!("{SECRET} ")).unwrap();
    let (_, spaced) = report(&stage, &["--profile", "account"]).await;
    check(&spaced["profiles"][0], "source", "warning", &["begins or ends with a space"]);
    check(&spaced["profiles"][0], "token", "failed", &["begins or ends with a space"]);
    fs::remove_file(stage.secret_file()).unwrap();
    let (code, gone) = report(&stage, &["--profile", "account"]).await;
    assert_eq!(code, 1);
    check(&gone["profiles"][0], "source", "failed", &["no such file", "readable by the gateway's user"]);
    assert!(gone["routes"].as_array().unwrap().len() == 1, "the routes that the profile serves");
}

/// `/proc/kmsg` stands for a file on a mount that hangs: whoever has read it and may do so waits for the kernel's
/// next line. Both commands used to wait with it.
#[tokio::test]
async fn a_source_that_hangs_keeps_no_command_from_its_end() {
    let stage = Stage::start().await;
    let path = stage.folder.path().join("keybearer.yaml");
    let hanging = "client_secret: {file: /proc/kmsg}\n    token_timeout: 1s";
    fs::write(&path, stage.yaml.replace("client_secret: {file: secret}", hanging)).unwrap();
    for arguments in [&["token", "account"][..], &["doctor", "--profile", "account"]] {
        let mut run = command(arguments);
        run.arg("--config").arg(&path);
        let mut run = tokio::process::Command::from(run);
        let output = tokio::time::timeout(PATIENCE, run.kill_on_drop(true).output()).await;
        let output = output.unwrap_or_else(|_| panic!("{arguments:?} does not end")).unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(said.contains("file /proc/kmsg"), "{said}");
    }
}

#[tokio::test]
async fn missing_roles_are_a_failure_with_the_fix() {
    let stage = Plan::default().profile("expected_roles: [Orders.Write]").start().await;
    let (code, report) = report(&stage, &[]).await;
    assert_eq!(code, 1);
    let words = ["expected and missing: Orders.Write", "Assignment required", "assign the app role"];
    check(&report["profiles"][0], "roles", "failed", &words);
}

#[tokio::test]
async fn a_provider_that_is_down_is_told_apart_from_one_that_is_not_there() {
    let stage = Stage::start().await;
    stage.idp.go_down().await.unwrap();
    let (code, down) = report(&stage, &["--profile", "account"]).await;
    assert_eq!(code, 1);
    check(&down["profiles"][0], "tcp", "failed", &["nothing listens on the port"]);
    check(&down["profiles"][0], "token", "skipped", &["cannot be reached"]);
    let path = stage.folder.path().join("keybearer.yaml");
    let authority = "https://no-such-name.invalid";
    fs::write(path, stage.yaml.replace(stage.idp.url(), authority)).unwrap();
    let (_, absent) = report(&stage, &["--profile", "account"]).await;
    check(&absent["profiles"][0], "dns", "failed", &["no-such-name.invalid"]);
    check(&absent["profiles"][0], "tls", "skipped", &[]);
}

#[tokio::test]
async fn a_secret_that_expires_soon_is_told_ahead_and_one_that_does_not_by_its_day() {
    for (day, outcome, words) in
        [("2099-01-31", "ok", "until 31 Jan 2099"), ("2020-01-31", "warning", "has expired on 31 Jan 2020")]
    {
        let stage = Plan::default().profile(&format!("client_secret_expires: {day}")).start().await;
        let (code, report) = report(&stage, &["--profile", "account"]).await;
        assert_eq!(code, 0, "the provider is the judge: {report}");
        check(&report["profiles"][0], "expiry", outcome, &[words]);
    }
}

#[tokio::test]
async fn clocks_that_are_apart_are_measured_also_when_the_provider_refuses() {
    let behaviour = Behaviour::Raw {
        status: 401,
        headers: vec![("date".into(), "Sun, 06 Nov 1994 08:49:37 GMT".into())],
        body: r#"{"error":"invalid_client","error_codes":[700024]}"#.into(),
    };
    let stage = Plan::default().start_with(|idp| idp.set_behaviour(behaviour)).await;
    let (_, report) = report(&stage, &["--profile", "account"]).await;
    check(&report["profiles"][0], "token", "failed", &["AADSTS700024", "clock is wrong"]);
    check(&report["profiles"][0], "clock", "warning", &["this machine's clock is ahead", "NTP"]);
}

#[tokio::test]
async fn a_probe_compares_the_answers_with_a_token_and_without() {
    let stage = Stage::start().await;
    let arguments = ["--route", "orders", "--probe", "/v1/orders?limit=1"];
    let (code, well) = report(&stage, &arguments).await;
    assert_eq!(code, 0, "{well}");
    check(&well["routes"][0], "with_token", "ok", &["GET /v1/orders gave 200"]);
    check(&well["routes"][0], "without_token", "ok", &["gave 401"]);
    // The path tells the route, too.
    let (code, well) = report(&stage, &["--probe", "/v1/orders?limit=1"]).await;
    assert_eq!(code, 0, "{well}");
    check(&well["routes"][0], "with_token", "ok", &["GET /v1/orders gave 200"]);
    stage.api.answer_next_with(200, &[], "open", 1);
    let (code, open) = report(&stage, &arguments).await;
    assert_eq!(code, 0);
    check(&open["routes"][0], "without_token", "warning", &["does not check tokens"]);
    stage.api.answer_next_with(401, &[("www-authenticate", "Bearer error=\"invalid_token\"")], "", 2);
    let (code, refused) = report(&stage, &arguments).await;
    assert_eq!(code, 1);
    let words = ["invalid_token", "audience is 0f8fad5b-d9cb-469f-a165-70867728950e", "issuer"];
    check(&refused["routes"][0], "with_token", "failed", &words);
    stage.idp.set_roles(CLIENT, &["Other"]);
    let (_, forbidden) = report(&stage, &arguments).await;
    check(&forbidden["routes"][0], "with_token", "failed", &["its roles: Other", "assign the role"]);
    stage.idp.set_secrets(CLIENT, &["other"]);
    let (_, without) = report(&stage, &arguments).await;
    check(&without["routes"][0], "with_token", "skipped", &["account"]);
}

#[tokio::test]
async fn the_metadata_of_an_issuer_are_looked_at() {
    let stage = Stage::start().await;
    let path = stage.folder.path().join("keybearer.yaml");
    let issuer = format!("{}/{TENANT}/v2.0", stage.idp.url());
    let (_, metadata) =
        (0, stage.http.get(format!("{issuer}/.well-known/openid-configuration")).send().await.unwrap());
    let metadata: Value = metadata.json().await.unwrap();
    let told = metadata["issuer"].as_str().unwrap();
    let yaml = |issuer: &str| {
        let text = stage.yaml.replace("kind: entra", "kind: oauth2\n    auth: client_secret_post");
        let text = text.replace(&format!("authority: {}", stage.idp.url()), &format!("issuer: \"{issuer}\""));
        fs::write(&path, text.replace(&format!("    tenant: {TENANT}\n"), "")).unwrap();
    };
    yaml(told);
    let (code, well) = report(&stage, &["--profile", "account"]).await;
    check(&well["profiles"][0], "discovery", "ok", &["the token endpoint is ", "/oauth2/v2.0/token"]);
    assert_eq!(code, 0, "{well}");
    yaml(&format!("{told}/"));
    let (code, other) = report(&stage, &["--profile", "account"]).await;
    assert_eq!(code, 1);
    check(&other["profiles"][0], "discovery", "failed", &["write issuer exactly", told]);
    check(&other["profiles"][0], "token", "skipped", &[]);
}

#[tokio::test]
async fn what_can_be_read_and_proves_nothing_is_told_even_when_nobody_can_be_asked() {
    let stage = Stage::start().await;
    let path = stage.folder.path().join("keybearer.yaml");
    let yaml = stage.yaml.replace(stage.idp.url(), "https://no-such-name.invalid");
    for (credential, words) in [
        ("certificate: {file: secret}", "holds no certificate"),
        ("federated_token: {file: secret}", "holds no token"),
    ] {
        fs::write(&path, yaml.replace("client_secret: {file: secret}", credential)).unwrap();
        let (code, told) = report(&stage, &["--profile", "account"]).await;
        let steps = told["profiles"][0]["steps"].as_array().unwrap();
        let is_told = |step: &&Value| step["step"] == "source" && step["outcome"] == "failed";
        let step = steps.iter().find(is_told).unwrap_or_else(|| panic!("{told}"));
        assert!(step["seen"].as_str().unwrap().contains(words) && code == 1, "{step}");
        check(&told["profiles"][0], "dns", "failed", &[]);
    }
}

#[tokio::test]
async fn the_way_to_a_provider_that_wants_a_certificate_is_looked_at_too() {
    let stage = Stage::start().await;
    let made = Made::new();
    let path = stage.folder.path().join("keybearer.yaml");
    let (before, after) = stage.yaml.split_once("  account:\n").unwrap();
    let routes = after.split_once("\nroutes:").unwrap().1;
    let account = format!(
        "kind: oauth2, token_url: \"https://no-such-name.invalid/t\", auth: tls_client_auth, client_id: a, certificate: {{file: {}}}",
        made.path("both.pem").display()
    );
    fs::write(&path, format!("{before}  account: {{{account}}}\nroutes:{routes}")).unwrap();
    let (_, told) = report(&stage, &["--profile", "account"]).await;
    check(&told["profiles"][0], "dns", "failed", &["no-such-name.invalid"]);
    check(&told["profiles"][0], "token", "skipped", &[]);
}

#[tokio::test]
async fn what_cannot_be_reached_is_not_probed() {
    let routes = "orders: {match: {path: /v1}, upstream: \"https://no-such-name.invalid\", profile: account}\n\
                  open: {match: {path: /open}, upstream: \"https://no-such-name.invalid\", profile: none}";
    let stage = Plan::default().routes(routes).start().await;
    let (_, told) = report(&stage, &["--route", "orders", "--probe", "/v1"]).await;
    check(&told["routes"][0], "without_token", "skipped", &["cannot be reached"]);
    check(&told["routes"][0], "with_token", "skipped", &["cannot be reached"]);
    let (_, told) = report(&stage, &["--route", "open", "--probe", "/open"]).await;
    check(&told["routes"][0], "probe", "skipped", &["cannot be reached"]);
    assert_eq!(told["failed"], 1, "what follows from one failure is not counted with it");
}

#[tokio::test]
async fn the_certificates_of_upstreams_are_shown_judged_and_counted_down() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let well = Peer::start(Some(Tls::new(&authority))).await;
    let soon = Peer::start(Some(Tls { days: Some(10), ..Tls::new(&authority) })).await;
    let other = Peer::start(Some(Tls { name: "other.example", ..Tls::new(&authority) })).await;
    let plain = Peer::start(None).await;
    let routes: Vec<_> = [
        ("well", &well, &authority),
        ("soon", &soon, &authority),
        ("foreign", &well, &foreign),
        ("other", &other, &authority),
        ("plain", &plain, &authority),
    ]
    .iter()
    .map(|(name, peer, authority)| {
        let (url, ca) = (peer.url("https"), authority.file());
        format!("{name}: {{match: {{path: /{name}}}, upstream: {{url: \"{url}\", ca: {{file: {ca:?}}}}}, profile: none}}")
    })
    .collect();
    let stage = Plan::default().routes(&routes.join("\n")).start().await;
    let (code, report) = report(&stage, &[]).await;
    assert_eq!(code, 1);
    let case = |name: &str| {
        let cases = report["routes"].as_array().unwrap();
        cases.iter().find(|case| case["name"] == name).unwrap().clone()
    };
    check(&case("well"), "tls", "ok", &["TLS 1.3; ", "issued by", "valid until "]);
    check(&case("soon"), "tls", "warning", &["(10 days)", "expires soon"]);
    check(&case("foreign"), "tls", "failed", &["not trusted here", "issued by", "ca: {file: …}"]);
    check(&case("other"), "tls", "failed", &["for another name"]);
    check(&case("plain"), "tls", "failed", &["does not speak TLS"]);
}

/// The stage with an account of any OAuth 2.0 server, for the binary alone.
async fn with_oauth2(lines: &str, upstream: &str) -> Stage {
    let routes = format!("orders: {{match: {{path: /v1}}, upstream: {upstream}, profile: account}}");
    let stage = Plan::default().routes(&routes).start().await;
    if lines.contains("dpop") {
        stage.idp.set_behaviour(Behaviour::Shape(|body| body["token_type"] = "DPoP".into()));
    }
    let (url, text) = (stage.idp.url(), stage.yaml.replace(&format!("    tenant: {TENANT}\n"), ""));
    let account = format!("kind: oauth2\n    auth: client_secret_post\n{lines}");
    let text = text.replace("kind: entra", account.trim_end());
    let endpoint = format!("token_url: {url}/{TENANT}/oauth2/v2.0/token");
    let text = text.replace(&format!("authority: {url}"), &endpoint);
    fs::write(stage.folder.path().join("keybearer.yaml"), text).unwrap();
    stage
}

const PROBE: [&str; 4] = ["--route", "orders", "--probe", "/v1/orders"];

/// The gateway shows the certificate, and so the upstream takes the token.
#[tokio::test]
async fn an_upstream_is_shown_the_certificate_to_which_the_token_is_bound() {
    let authority = Authority::new();
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12][..]] {
        let peer = Peer::start(Some(Tls { asks: true, versions, ..Tls::new(&authority) })).await;
        let (certificate, key) = authority.issue("daemon.internal");
        let both = fs::read_to_string(&certificate).unwrap() + &fs::read_to_string(key).unwrap();
        fs::write(&certificate, both).unwrap();
        let upstream = format!("{{url: \"{}\", ca: {{file: {:?}}}}}", peer.url("https"), authority.file());
        let lines =
            format!("    certificate: {{file: {certificate:?}}}\n    ca: {{file: {:?}}}\n", authority.file());
        let stage = with_oauth2(&lines, &upstream).await;
        let provider = behind_tls(&stage, &authority, "localhost").await.port();
        let path = stage.folder.path().join("keybearer.yaml");
        let text = fs::read_to_string(&path).unwrap();
        let (from, to) =
            (format!("token_url: {}", stage.idp.url()), format!("token_url: https://localhost:{provider}"));
        fs::write(&path, text.replace(&from, &to)).unwrap();
        let (code, told) = report(&stage, &PROBE).await;
        assert_eq!(code, 0, "{told}");
        check(&told["routes"][0], "tls", "ok", &[]);
        check(&told["routes"][0], "with_token", "ok", &["gave 200"]);
        assert!(peer.seen().iter().all(|seen| seen.has_certificate), "{:?}", peer.seen());
    }
}

#[tokio::test]
async fn an_upstream_that_wants_a_nonce_in_proofs_gets_it_from_the_doctor_too() {
    let judge = Judge::start(|seen| {
        let claims = |proof: &str| proof.split('.').nth(1).map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
        let proof = seen.values("dpop").first().and_then(|proof| claims(proof));
        let nonce = proof.map(|json| serde_json::from_slice::<Value>(&json).unwrap()["nonce"].clone());
        let (status, mut fields) = match nonce {
            Some(nonce) if nonce == "n-1" => ok(),
            _ => challenge("DPoP error=\"use_dpop_nonce\""),
        };
        fields.push(("dpop-nonce", "n-1".to_owned()));
        (status, fields)
    })
    .await;
    let stage = with_oauth2("    dpop: true\n", &format!("\"{}\"", judge.url())).await;
    let (code, told) = report(&stage, &PROBE).await;
    assert_eq!(code, 0, "{told}");
    check(&told["routes"][0], "without_token", "ok", &["gave 401"]);
    check(&told["routes"][0], "with_token", "ok", &["gave 200"]);
    assert_eq!(judge.seen().len(), 3);
}

#[tokio::test]
async fn an_upstream_that_speaks_nothing_but_http2_over_tls_is_well() {
    let authority = Authority::new();
    let peer = Peer::start(Some(Tls { alpn: &["h2"], ..Tls::new(&authority) })).await;
    let upstream = format!("{{url: \"{}\", ca: {{file: {:?}}}}}", peer.url("https"), authority.file());
    let stage = with_oauth2("", &upstream).await;
    let (code, told) = report(&stage, &PROBE).await;
    assert_eq!(code, 0, "{told}");
    check(&told["routes"][0], "tls", "ok", &["TLS 1.3"]);
    check(&told["routes"][0], "with_token", "ok", &["GET /v1/orders gave 200"]);
    let seen = peer.seen();
    assert!(
        seen.iter().all(|seen| seen.version == Version::HTTP_2 && seen.authority.starts_with("localhost:"))
    );
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn what_does_not_exist_is_bad_usage_and_names_what_does() {
    let stage = Stage::start().await;
    for (arguments, words) in [
        (&["--profile", "erp"][..], "(defined: \"account\")"),
        (&["--route", "nowhere"], "(defined: \"orders\")"),
        (&["--probe", "/elsewhere"], "(paths of routes: \"/v1\")"),
    ] {
        let output = run(&stage, arguments).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{said}");
    }
}
