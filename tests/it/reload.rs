//! A running gateway gets another configuration: all of it at once, or nothing.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use keybearer::{
    app::ReloadError,
    config::{self, Settings},
    demo::idp::Account,
};

use crate::{
    process::Process,
    stage::{Plan, ROLE, SECRET, Stage, eventually},
};

const OTHER: &str = "77777777-7615-472f-8200-a81d5c87c0ca";

/// The stage's configuration with `change` made to its text.
fn settings(stage: &Stage, change: impl Fn(&str) -> String) -> Settings {
    let text = change(&stage.yaml);
    assert_ne!(text, stage.yaml, "nothing was changed");
    let path = stage.folder.path().join("keybearer.yaml");
    config::parse(&text, &path, None).unwrap_or_else(|problems| panic!("{problems}\n{text}")).settings
}

/// A stage whose gateway can be reloaded while the test goes on.
async fn start(plan: Plan) -> Stage {
    let stage = plan.start().await;
    stage.ready().await;
    stage
}

/// Reloads as the binary does: on a thread that may block.
fn reload(stage: &Stage, settings: &Settings) -> Result<(), ReloadError> {
    tokio::task::block_in_place(|| stage.gateway.reload(settings))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_change_at_once_and_an_unchanged_profile_keeps_its_token() {
    let stage = start(Plan::default()).await;
    assert_eq!((stage.status("/v1/a").await, stage.status("/v2/a").await), (200, 404));
    let after = settings(&stage, |text| text.replace("path: /v1", "path: /v2"));
    reload(&stage, &after).unwrap();
    assert_eq!((stage.status("/v1/a").await, stage.status("/v2/a").await), (404, 200));
    assert_eq!(stage.idp.issued(), 1);
    // Counters of a route go on.
    let (_, metrics) = stage.admin("/metrics").await;
    let line = "keybearer_requests_total{route=\"orders\",profile=\"account\",class=\"2xx\"} 2";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_profile_has_its_token_before_the_change() {
    let stage = start(Plan::default()).await;
    stage.idp.add_account(Account::new(OTHER, SECRET, &[ROLE]));
    let after = settings(&stage, |text| text.replace(crate::stage::CLIENT, OTHER));
    reload(&stage, &after).unwrap();
    assert_eq!(stage.idp.issued(), 2, "the token was there when the reload was done");
    assert_eq!(stage.status("/v1/a").await, 200);
    assert_eq!(stage.idp.last_request().unwrap().field("client_id"), Some(OTHER));
    assert_eq!(stage.gateway.profiles().len(), 1, "the old owner has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_that_gets_no_token_changes_nothing() {
    let stage = start(Plan::default()).await;
    let after =
        settings(&stage, |text| text.replace(crate::stage::CLIENT, OTHER).replace("path: /v1", "path: /v2"));
    let error = reload(&stage, &after).unwrap_err().to_string();
    assert!(
        error.contains("profile \"account\" gets no token") && error.contains("nothing was changed"),
        "{error}"
    );
    assert_eq!((stage.status("/v1/a").await, stage.status("/v2/a").await), (200, 404));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_restart_is_named_and_changes_nothing() {
    let stage = start(Plan::default()).await;
    let after = settings(&stage, |text| {
        let more = "timeouts: {idle: 9s}\nlimits: {headers: 50}\nprofiles:";
        text.replace("profiles:", more).replace("path: /v1", "path: /v2")
    });
    let error = reload(&stage, &after).unwrap_err().to_string();
    assert_eq!(error, "a change of limits, timeouts needs a restart; nothing was changed");
    assert_eq!((stage.status("/v1/a").await, stage.status("/v2/a").await), (200, 404));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_routes_change_under_load() {
    let stage = start(Plan::default()).await;
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (http, url) = (stage.http.clone(), stage.url("/v1/a"));
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(http.get(&url).send().await.unwrap().status(), 200);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for round in 0..20 {
        let before = served.load(Ordering::Relaxed);
        let after = settings(&stage, |text| {
            text.replace("routes:\n", &format!("routes:\n  extra{round}: {{match: {{path: /v1/{round}}}, upstream: \"http://127.0.0.1:9\", profile: none}}\n"))
        });
        reload(&stage, &after).unwrap();
        eventually("requests go on", || served.load(Ordering::Relaxed) > before + 8).await;
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!((stage.idp.issued(), stage.api.unauthorized()), (1, 0));
}

#[tokio::test]
async fn a_hangup_reloads_and_a_broken_file_changes_nothing() {
    let stage = Stage::start().await;
    let process = Process::start(&stage, &[]).await;
    let path = stage.folder.path().join("process.yaml");
    let status = |path: &'static str| {
        let request = stage.http.get(process.url(path)).send();
        async move { request.await.unwrap().status().as_u16() }
    };
    fs::write(&path, stage.yaml.replace("path: /v1", "path: /v2")).unwrap();
    process.signal("-HUP");
    eventually("it was reloaded", || process.has_logged("the configuration was reloaded")).await;
    assert_eq!((status("/v1/a").await, status("/v2/a").await), (404, 200));
    fs::write(&path, stage.yaml.replace("profile: account", "profile: nobody")).unwrap();
    process.signal("-HUP");
    eventually("it says why not", || process.has_logged("the old one stays in force")).await;
    assert_eq!((status("/v1/a").await, status("/v2/a").await), (404, 200));
}
