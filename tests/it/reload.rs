//! A running gateway gets another configuration: all of it at once, or nothing.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use keybearer::{
    admin::changes::Reloaded,
    app::{ReloadError, control::ChangeError},
    config::{self, Settings},
    demo::idp::{Account, Behaviour},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    attacks::gauge,
    counters::becomes,
    frames::{HEADERS, connect, get, nth},
    front::{Peer, played},
    process::Process,
    stage::{CLIENT, PATIENCE, Plan, ROLE, SECRET, Stage, eventually, pause, raw},
    websocket::{HANDSHAKE, SWITCH},
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
    let after = settings(&stage, |text| text.replace(CLIENT, OTHER));
    reload(&stage, &after).unwrap();
    assert_eq!(stage.idp.issued(), 2, "the token was there when the reload was done");
    assert_eq!(stage.status("/v1/a").await, 200);
    assert_eq!(stage.idp.last_request().unwrap().field("client_id"), Some(OTHER));
    assert_eq!(stage.gateway.profiles().len(), 1, "the old owner has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_that_gets_no_token_changes_nothing() {
    let stage = start(Plan::default()).await;
    let after = settings(&stage, |text| text.replace(CLIENT, OTHER).replace("path: /v1", "path: /v2"));
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
        let more = "workers: 7\nprofiles:";
        text.replace("workers: 2\nprofiles:", more)
            .replace("workers: 2\n\nprofiles:", more)
            .replace("path: /v1", "path: /v2")
    });
    let error = reload(&stage, &after).unwrap_err().to_string();
    assert_eq!(error, "a change of workers needs a restart; nothing was changed");
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
    eventually("it says why not", || {
        process.has_logged("the configuration has problems, nothing was changed")
    })
    .await;
    assert_eq!((status("/v1/a").await, status("/v2/a").await), (404, 200));
}

/// Writes the stage's file anew and has the gateway read it.
fn rewrite(stage: &Stage, change: impl Fn(&str) -> String) {
    let text = change(&stage.yaml);
    assert_ne!(text, stage.yaml, "nothing was changed");
    fs::write(stage.folder.path().join("keybearer.yaml"), text).unwrap();
    tokio::task::block_in_place(|| stage.gateway.control().unwrap().reload("a test")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_listener_opens_a_gone_one_closes_and_others_keep_their_sockets() {
    let stage = start(Plan::default()).await;
    let first = stage.address();
    let more = "listeners:\n  second: {address: \"127.0.0.1:0\"}\n";
    rewrite(&stage, |text| text.replace("listeners:\n", more));
    let second = stage.gateway.listener("second").unwrap();
    assert_eq!(stage.address(), first, "its socket stays");
    for address in [first, second] {
        let answer = stage.http.get(format!("http://{address}/v1/a")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    rewrite(&stage, |text| text.to_owned() + "\n");
    assert!(stage.gateway.listener("second").is_none());
    // Also the connection that was kept alive ends, once it is idle.
    let mut lost = false;
    for _ in 0..100 {
        lost = TcpStream::connect(second).await.is_err();
        if lost {
            break;
        }
        pause().await;
    }
    assert!(lost, "nobody listens there any more");
    assert_eq!(stage.status("/v1/a").await, 200);
}

/// Says other things about who may connect.
fn tightened(text: &str) -> String {
    text.replace("local: {", "local: {trusted_proxies: [10.0.0.0/8], ")
}

/// A caller that is never idle used to stay for ever, under rules that hold no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_caller_of_a_listener_with_other_rules_is_told_to_close() {
    let stage = start(Plan::default()).await;
    let paths = ["/v1/a", "/nowhere"];
    let mut callers = Vec::new();
    for path in paths {
        let mut caller = Peer::connect(stage.address()).await;
        caller.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let head = caller.head().await.to_ascii_lowercase();
        assert!(!head.contains("connection: close"), "{head}");
        callers.push(caller);
    }
    rewrite(&stage, tightened);
    for (mut caller, path) in callers.into_iter().zip(paths) {
        caller.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let rest = caller.rest().await.to_ascii_lowercase();
        assert_eq!(rest.matches("connection: close").count(), 1, "{path}: {rest}");
    }
    assert_eq!(stage.status("/v1/a").await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_over_http_2_that_does_not_go_is_cut_after_the_drain_time() {
    let stage = start(Plan::default().more("timeouts: {drain: 500ms}")).await;
    let (mut reader, mut writer) = connect(stage.address(), &[]).await;
    rewrite(&stage, tightened);
    // It answers no ping and looks at no GOAWAY.
    let asking = async {
        for n in 0.. {
            if !writer.send(&get(nth(n), "/v1/a")).await
                || reader.find(|f| f.kind == HEADERS && f.stream == nth(n)).await.is_none()
            {
                return;
            }
            pause().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("the connection ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_end_on_a_listener_with_other_rules_is_cut_after_the_drain_time() {
    let (listener, stage) = played("timeouts: {drain: 500ms}").await;
    let mut waiting = Peer::connect(stage.address()).await;
    waiting.send("GET /v1/a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut behind = Peer::accept(&listener).await;
    behind.head().await;
    let mut socket = Peer::connect(stage.address()).await;
    socket.send(HANDSHAKE).await;
    let mut upstream = Peer::accept(&listener).await;
    upstream.head().await;
    upstream.send(SWITCH).await;
    socket.head().await;
    rewrite(&stage, tightened);
    assert_eq!(waiting.rest().await, "", "an answer that has not come");
    assert_eq!(socket.rest().await, "", "a WebSocket");
    upstream.rest().await;
    becomes(&stage, "keybearer_connections_ended_total{listener=\"local\",reason=\"drain\"}", 2).await;
    assert_eq!(gauge(&stage, "keybearer_connections{").await, 0);
}

/// An address that was free a moment ago.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Begins to reload `text` on a thread of its own, and comes back when the reload waits for a token.
async fn reload_that_waits(stage: &Stage, text: &str) -> JoinHandle<Result<Reloaded, ChangeError>> {
    stage.idp.set_behaviour(Behaviour::Hang);
    let before = stage.idp.requests();
    fs::write(stage.folder.path().join("keybearer.yaml"), text).unwrap();
    let control = Arc::clone(stage.gateway.control().unwrap());
    let reloading = thread::spawn(move || control.reload("a test"));
    stage.idp.wait_for_requests(before + 1).await;
    reloading
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_listener_keeps_nobody_waiting_and_a_refused_reload_resets_nobody() {
    let address = free();
    let stage = start(Plan::default().listeners(&format!("local: {{address: \"{address}\"}}"))).await;
    let after = stage.yaml.replace("  local:", "  front:").replace(CLIENT, OTHER);
    let reloading = reload_that_waits(&stage, &after).await;
    let ask = || raw(address, b"GET /v1/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    // Of so many connections some would be for the sockets of the new listener, if they listened.
    for _ in 0..40 {
        assert!(ask().await.starts_with("HTTP/1.1 200"));
    }
    assert!(!reloading.is_finished(), "the token has not come");
    stage.idp.set_behaviour(Behaviour::Status(400));
    while !reloading.is_finished() {
        assert!(ask().await.starts_with("HTTP/1.1 200"));
    }
    let error = reloading.join().unwrap().unwrap_err().to_string();
    assert!(error.contains("profile \"account\" gets no token"), "{error}");
    assert!(ask().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_a_reload_that_waits_for_a_token() {
    let stage = start(Plan::default()).await;
    let reloading = reload_that_waits(&stage, &stage.yaml.replace(CLIENT, OTHER)).await;
    let Stage { gateway, folder, idp, .. } = stage;
    gateway.stop();
    tokio::task::block_in_place(|| gateway.wait());
    let outcome = tokio::task::block_in_place(|| reloading.join()).expect("it does not panic");
    assert!(matches!(outcome, Err(ChangeError::Reload(ReloadError::Stopping))), "{outcome:?}");
    drop((folder, idp));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_and_timeouts_change_without_a_restart() {
    let stage = start(Plan::default()).await;
    let many = format!("GET /v1/a HTTP/1.1\r\nHost: a\r\n{}\r\n", "X-A: 1\r\n".repeat(60));
    let closed = many.replace("Host: a", "Host: a\r\nConnection: close");
    assert!(stage.raw(&closed).await.starts_with("HTTP/1.1 200"));
    rewrite(&stage, |text| text.replace("profiles:\n", "limits: {headers: 50}\nprofiles:\n"));
    assert!(stage.raw(&closed).await.starts_with("HTTP/1.1 431"));
    // A head that does not come to its end is refused after the new time, not after the old one.
    rewrite(&stage, |text| text.replace("profiles:\n", "timeouts: {header_read: 200ms}\nprofiles:\n"));
    assert!(stage.raw("GET /v1/a HTTP/1.1\r\n").await.starts_with("HTTP/1.1 408"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_listener_moves() {
    let stage = start(Plan::default()).await;
    let before = stage.gateway.admin().unwrap();
    let mut open = TcpStream::connect(before).await.unwrap();
    open.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut begin = [0; 12];
    open.read_exact(&mut begin).await.unwrap();
    let free = free();
    rewrite(&stage, |text| {
        text.replace("admin: {address: \"127.0.0.1:0\"}", &format!("admin: {{address: \"{free}\"}}"))
    });
    assert_eq!(stage.gateway.admin(), Some(free));
    assert_eq!(stage.admin("/livez").await.0, 200);
    // What is open there ends behind its answer.
    let rest = tokio::time::timeout(PATIENCE, open.read_to_end(&mut Vec::new())).await;
    rest.expect("the connection ends").unwrap();
    // For a moment also a process that another test is starting may have the old socket.
    let gone = async {
        while TcpStream::connect(before).await.is_ok() {
            pause().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("nobody listens there any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_file_is_put_in_force_by_itself() {
    let stage = start(Plan::default().more("watch: true")).await;
    let path = stage.folder.path().join("keybearer.yaml");
    fs::write(&path, stage.yaml.replace("path: /v1", "path: /v2")).unwrap();
    let control = stage.gateway.control().unwrap();
    eventually("it was read", || control.view().reading.done == 1).await;
    assert_eq!((stage.status("/v1/a").await, stage.status("/v2/a").await), (404, 200));
    fs::write(&path, "listeners: [\n").unwrap();
    eventually("it was refused", || control.view().reading.failed == 1).await;
    assert!(control.view().reading.refused.as_ref().unwrap().contains("keybearer.yaml:"));
    assert_eq!(stage.status("/v2/a").await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_routes_reload_under_load_without_a_failed_request() {
    let stage = start(Plan::default()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (http, url, stop) = (stage.http.clone(), stage.url("/v1/a"), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut served = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(http.get(&url).send().await.unwrap().status(), 200);
                    served += 1;
                }
                served
            })
        })
        .collect();
    let many: String = (0..10_000)
        .map(|n| {
            format!("  r{n}: {{match: {{path: /x/{n}}}, upstream: \"http://127.0.0.1:9\", profile: none}}\n")
        })
        .collect();
    rewrite(&stage, |text| text.replace("routes:\n", &format!("routes:\n{many}")));
    rewrite(&stage, |text| text.replace("routes:\n", &format!("routes:\n{many}\n")));
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        assert!(caller.await.unwrap() > 0);
    }
    assert_eq!((stage.idp.issued(), stage.api.unauthorized()), (1, 0));
}
