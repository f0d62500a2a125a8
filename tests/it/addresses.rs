//! Names of upstreams: who is connected to when a name has several addresses, or other ones than before.
//!
//! The gateway is a process with an /etc/hosts of its own. Where the system lets nobody have one, the tests say that they
//! were left out.

use std::{
    fs,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{
    hostile::OK,
    process::Process,
    stage::{Plan, Stage},
};

const NAME: &str = "orders.test";
/// All of loopback is this machine's.
const ADDRESSES: [&str; 3] = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];

/// An upstream at one address that ends each connection after its answer.
struct Upstream {
    connections: Arc<AtomicUsize>,
}

impl Upstream {
    fn serve(listener: TcpListener) -> Self {
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        // Ends with the test's runtime.
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && matches!(stream.read_buf(&mut head).await, Ok(1..)) {}
                let answer = OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Listeners at so many addresses, all on one port.
async fn on_one_port(count: usize) -> Vec<TcpListener> {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        let mut all = vec![first];
        for address in &ADDRESSES[1..count] {
            // Somebody else may have that one: then another port does it.
            all.extend(TcpListener::bind((*address, port)).await);
        }
        if all.len() == count {
            return all;
        }
    }
}

/// A gateway for which [`NAME`] is what its hosts file says.
struct Named {
    stage: Stage,
    process: Process,
}

impl Named {
    async fn start(port: u16, addresses: &[&str]) -> Option<Self> {
        Self::start_with(port, "", |stage| write(stage, addresses)).await
    }

    async fn start_with(port: u16, more: &str, prepare: impl FnOnce(&Stage)) -> Option<Self> {
        let routes = format!(
            "all: {{upstream: \"http://{NAME}:{port}\", profile: account, allow_plaintext: true}}\n\
             near: {{match: {{path: /near}}, upstream: \"http://127.0.0.1:{port}\", profile: account}}"
        );
        let stage = Plan::default().more(&format!("workers: 1\n{more}")).routes(&routes).start().await;
        stage.ready().await;
        let (path, hosts) = (stage.folder.path().join("keybearer.yaml"), stage.folder.path().join("hosts"));
        prepare(&stage);
        let within = |program: &str| {
            let mut command = Command::new("unshare");
            let script = "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
            command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(&hosts).arg(program);
            command.env_remove("KEYBEARER_ENVIRONMENT").env_remove("KEYBEARER_LOG").stdin(Stdio::null());
            command
        };
        if !within("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
            println!("a hosts file of its own is not allowed here: this is not tried");
            return None;
        }
        let mut run = within(env!("CARGO_BIN_EXE_keybearer"));
        run.args(["run", "--log-format", "json", "--config"]).arg(path);
        let process = Process::run(run).await;
        Some(Self { stage, process })
    }

    async fn status(&self) -> u16 {
        self.status_of("/v1").await
    }

    async fn status_of(&self, path: &str) -> u16 {
        self.stage.http.get(self.process.url(path)).send().await.unwrap().status().as_u16()
    }
}

/// From now on these are the addresses of [`NAME`].
fn write(stage: &Stage, addresses: &[&str]) {
    let lines: String = addresses.iter().map(|address| format!("{address} {NAME}\n")).collect();
    // In place: the file as it is now is what the gateway sees.
    fs::write(stage.folder.path().join("hosts"), format!("127.0.0.1 localhost\n{lines}")).unwrap();
}

fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().as_ref().map(SocketAddr::port).unwrap()
}

#[tokio::test]
async fn a_name_is_asked_for_again_for_each_new_connection() {
    let listeners = on_one_port(2).await;
    let Some(named) = Named::start(port(&listeners[0]), &ADDRESSES[..1]).await else { return };
    let upstreams: Vec<_> = listeners.into_iter().map(Upstream::serve).collect();
    let counts = || upstreams.iter().map(Upstream::connections).collect::<Vec<_>>();
    assert_eq!((named.status().await, counts()), (200, vec![1, 0]));
    write(&named.stage, &ADDRESSES[1..2]);
    for connections in 1..4 {
        assert_eq!((named.status().await, counts()), (200, vec![1, connections]));
    }
}

#[tokio::test]
async fn several_addresses_take_turns_and_a_dead_one_costs_no_request() {
    let mut listeners = on_one_port(3).await;
    let Some(named) = Named::start(port(&listeners[0]), &ADDRESSES).await else { return };
    // Nobody listens there any more.
    drop(listeners.remove(1));
    let upstreams: Vec<_> = listeners.into_iter().map(Upstream::serve).collect();
    for _ in 0..12 {
        assert_eq!(named.status().await, 200);
    }
    for upstream in &upstreams {
        assert!(upstream.connections() >= 4, "{}", upstream.connections());
    }
}

/// Each connection to a name that hung used to hold a thread of its own, until no other name was found any more, and the
/// end of the process waited for all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_hangs_takes_one_thread_and_does_not_hold_up_the_end() {
    let listener = on_one_port(1).await.remove(0);
    // Whoever opens a hosts file that is a pipe waits for ever.
    let pipe = |stage: &Stage| {
        let made = Command::new("mkfifo").arg(stage.folder.path().join("hosts")).status().unwrap();
        assert!(made.success());
    };
    let more = "timeouts: {connect: 500ms, drain: 300ms}";
    let Some(mut named) = Named::start_with(port(&listener), more, pipe).await else { return };
    let _upstream = Upstream::serve(listener);
    assert_eq!(named.status_of("/near").await, 200);
    let threads = |named: &Named| fs::read_dir(format!("/proc/{}/task", named.process.id())).unwrap().count();
    let before = threads(&named);
    let waiting: Vec<_> = (0..40).map(|_| named.status()).collect();
    for status in futures_util::future::join_all(waiting).await {
        assert_eq!(status, 504);
    }
    assert!(threads(&named) <= before + 1, "{} threads, {before} before", threads(&named));
    assert_eq!(named.status_of("/near").await, 200);
    named.process.signal("-TERM");
    assert_eq!(named.process.end().await.code(), Some(0));
}
