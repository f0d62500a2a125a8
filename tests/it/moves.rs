//! A reload gives listeners other names, addresses and permissions, and nobody waits.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::{
    authority::Authority,
    listeners::metric,
    stage::{Plan, Stage, raw},
};

const REQUEST: &[u8] = b"GET /v1/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn start(listeners: &str, more: &str) -> Stage {
    let stage = Plan::default().listeners(listeners).more(more).start().await;
    stage.ready().await;
    stage
}

/// Reloads the stage's file with other words in the place of some.
fn change(stage: &Stage, words: &[(&str, &str)]) -> Result<(), String> {
    let text = words.iter().fold(stage.yaml.clone(), |text, (old, new)| {
        assert!(text.contains(old), "{old} is not in {text}");
        text.replace(old, new)
    });
    fs::write(stage.folder.path().join("keybearer.yaml"), text).unwrap();
    let reloaded = tokio::task::block_in_place(|| stage.gateway.control().unwrap().reload("a test"));
    reloaded.map(drop).map_err(|error| error.to_string())
}

/// The first line of what comes back through a socket, which takes requests at once.
async fn through(path: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(REQUEST).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

/// The file's number and its permissions.
fn file(path: &Path) -> (u64, u32) {
    let file = fs::symlink_metadata(path).unwrap();
    (file.ino(), file.mode() & 0o777)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_gets_other_permissions_and_another_name_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.sock");
    let line = format!("socket: {{address: \"unix:{}\"}}", path.display());
    let stage = start(&format!("local: {{address: \"127.0.0.1:0\"}}\n{line}"), "").await;
    let ok = async || assert_eq!(through(&path).await.unwrap(), "HTTP/1.1 200 OK");
    let (number, mode) = file(&path);
    assert_eq!(mode, 0o660);
    let with = |name: &str, mode: &str| {
        format!("{name}: {{address: \"unix:{}\", socket: {{mode: \"{mode}\"}}}}", path.display())
    };
    change(&stage, &[(&line, &with("socket", "0600"))]).unwrap();
    assert_eq!(file(&path), (number, 0o600), "the same socket");
    ok().await;
    change(&stage, &[(&line, &with("other", "0606"))]).unwrap();
    assert_eq!(file(&path), (number, 0o606), "the same socket");
    for _ in 0..10 {
        ok().await;
    }
    // What is refused changes nothing.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let more = format!("{}\n  new: {{address: \"{}\"}}", with("other", "0666"), taken.local_addr().unwrap());
    let error = change(&stage, &[(&line, &more)]).unwrap_err();
    assert!(error.contains("another process listens there"), "{error}");
    assert_eq!(file(&path), (number, 0o606));
    ok().await;
    // Another process has the path meanwhile: nobody's file is touched.
    fs::rename(&path, folder.path().join("aside")).unwrap();
    fs::write(&path, "precious").unwrap();
    let error = change(&stage, &[(&line, &with("other", "0666"))]).unwrap_err();
    assert!(error.contains("another file is in its place by now"), "{error}");
    fs::rename(folder.path().join("aside"), &path).unwrap();
    change(&stage, &[(&line, "")]).unwrap();
    assert!(!path.exists(), "it is taken away");
    change(&stage, &[]).unwrap();
    ok().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_moves_from_one_address_to_all_of_them_and_back() {
    let one = free();
    let all = format!("0.0.0.0:{}", one.port());
    let stage = start(&format!("local: {{address: \"{one}\"}}"), "").await;
    for words in [vec![(one.to_string(), all)], Vec::new()] {
        let words: Vec<_> = words.iter().map(|(old, new)| (old.as_str(), new.as_str())).collect();
        change(&stage, &words).unwrap();
        assert!(raw(one, REQUEST).await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_listener_changes_on_its_address() {
    let stage = start("local: {address: \"127.0.0.1:0\"}", "").await;
    let before = stage.gateway.admin().unwrap();
    let ask = async || {
        raw(before, b"GET /readyz HTTP/1.1\r\nHost: gateway.internal\r\nConnection: close\r\n\r\n").await
    };
    assert!(ask().await.starts_with("HTTP/1.1 421"));
    let named = "admin: {address: \"127.0.0.1:0\", hosts: [gateway.internal], reuse_port: true}";
    change(&stage, &[("admin: {address: \"127.0.0.1:0\"}", named)]).unwrap();
    assert_eq!(stage.gateway.admin(), Some(before), "the same socket");
    assert!(ask().await.starts_with("HTTP/1.1 200"));
    change(
        &stage,
        &[("admin: {address: \"127.0.0.1:0\"}", &named.replace("127.0.0.1:0", &before.to_string()))],
    )
    .unwrap();
    assert_eq!(stage.gateway.admin(), Some(before), "the same socket");
    // A socket of callers cannot be bound beside it.
    let moved = [
        ("127.0.0.1:0\"}\nadmin", &*format!("{before}\"}}\nadmin")),
        ("admin: {address: \"127.0.0.1:0\"}", ""),
    ];
    let error = change(&stage, &moved).unwrap_err();
    let words = format!(
        "listener \"local\" cannot listen on {before}: the admin listener of this gateway has {before} until the \
         reload is done (take that away with one reload, and bring this with the next); nothing was changed"
    );
    assert_eq!(error, words);
    assert!(ask().await.starts_with("HTTP/1.1 200"));
    change(&stage, &[("admin: {address: \"127.0.0.1:0\"}", "")]).unwrap();
    assert_eq!(stage.gateway.admin(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_socket_changes_its_permissions_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let line = format!("admin: {{address: \"unix:{}\"}}", path.display());
    let stage = start("local: {address: \"127.0.0.1:0\"}", &line).await;
    let ok = async || assert_eq!(through(&path).await.unwrap(), "HTTP/1.1 404 Not Found");
    ok().await;
    let number = file(&path).0;
    let other = line.replace('}', ", socket: {mode: \"0600\"}}");
    change(&stage, &[(&line, &other)]).unwrap();
    assert_eq!(file(&path), (number, 0o600), "the same socket");
    ok().await;
    change(&stage, &[(&line, "")]).unwrap();
    assert!(!path.exists(), "it is taken away");
    change(&stage, &[]).unwrap();
    ok().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_reload_shows_no_certificate_that_is_not_served() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    for name in ["first", "second"] {
        authority.issue(&["gateway.example"]).write(folder.path(), name);
    }
    let place = folder.path().display();
    let line = format!(
        "local: {{address: \"127.0.0.1:0\", tls: {{certificate: {{file: {place}/first.pem}}, key: {{file: {place}/first.key}}}}}}"
    );
    let stage = start(&line, "").await;
    let shown = async |name: &str| {
        let series = "keybearer_listener_certificate_expiry_seconds{listener=\"local\"";
        metric(&stage, &format!("{series},file=\"{place}/{name}.pem\"")).await
    };
    shown("first").await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let new = format!("  new: {{address: \"{}\"}}\n  local:", taken.local_addr().unwrap());
    change(&stage, &[("first.", "second."), ("  local:", &new)]).unwrap_err();
    shown("first").await;
    change(&stage, &[("first.", "second.")]).unwrap();
    shown("second").await;
    change(&stage, &[(&line, "local: {address: \"127.0.0.1:0\"}")]).unwrap();
    let (_, text) = stage.admin("/metrics").await;
    assert!(!text.contains("keybearer_listener_certificate_expiry_seconds{"), "{text}");
}
