//! The gateway under a service manager: what it tells systemd, and restarts that no caller notices.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use nix::{errno::Errno, sys::ptrace, unistd::Pid};
use socket2::{Domain, Socket, Type};
use tokio::task::JoinSet;

use crate::{
    process::Process,
    stage::{PATIENCE, Stage, eventually},
};

/// The service manager's side of `NOTIFY_SOCKET`.
struct Manager {
    told: Arc<Mutex<Vec<String>>>,
    path: String,
}

impl Manager {
    fn start(stage: &Stage) -> Self {
        let path = stage.folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self::listen(socket, &path)
    }

    fn listen(socket: UnixDatagram, path: &Path) -> Self {
        let told = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&told);
        // Ends with the test's process: nobody can be made to stop listening to a datagram socket.
        std::thread::spawn(move || {
            let mut space = [0; 4096];
            while let Ok(length) = socket.recv(&mut space) {
                heard.lock().unwrap().push(String::from_utf8(space[..length].to_vec()).unwrap());
            }
        });
        Self { told, path: path.to_str().unwrap().to_owned() }
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }

    /// Without the signs of life.
    fn states(&self) -> Vec<String> {
        self.told().into_iter().filter(|told| told != "WATCHDOG=1\n").collect()
    }

    async fn run(&self, stage: &Stage, more: &[(&str, String)]) -> Process {
        let config = write(stage, &stage.yaml);
        let variables: Vec<_> = more.iter().cloned().chain([("NOTIFY_SOCKET", self.path.clone())]).collect();
        Process::start_with_variables(&config, &variables).await
    }
}

#[tokio::test]
async fn systemd_is_told_of_start_reload_and_stop() {
    let stage = Stage::start().await;
    let manager = Manager::start(&stage);
    let mut process = manager.run(&stage, &[]).await;
    eventually("it is ready", || !manager.told().is_empty()).await;
    assert_eq!(manager.told(), ["READY=1\nSTATUS=serving; routes: 1, profiles: 1\n"]);

    process.signal("-HUP");
    eventually("it has reloaded", || manager.told().len() >= 3).await;
    let told = manager.told();
    let (reloading, time) = told[1].trim_end().split_once('\n').unwrap();
    assert_eq!(reloading, "RELOADING=1");
    assert!(time.strip_prefix("MONOTONIC_USEC=").unwrap().parse::<u64>().unwrap() > 0, "{time}");
    assert_eq!(told[2], told[0]);

    fs::write(stage.folder.path().join("process.yaml"), "routes: {").unwrap();
    process.signal("-HUP");
    eventually("it has refused", || manager.told().len() >= 5).await;
    let last = manager.told()[4].clone();
    assert!(
        last.starts_with("READY=1\nSTATUS=serving; routes: 1, profiles: 1; the last reload was refused"),
        "{last}"
    );

    process.signal("-TERM");
    assert_eq!(process.end().await.code(), Some(0));
    eventually("it has said that it stops", || manager.told().len() >= 6).await;
    assert!(manager.told()[5].starts_with("STOPPING=1\nSTATUS="), "{:?}", manager.told());
    // Nobody asked for signs of life.
    assert_eq!(manager.states(), manager.told());
}

#[tokio::test]
async fn signals_are_heard_before_systemd_is_told_that_it_runs() {
    let stage = Stage::start().await;
    let path = stage.folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    // With a full queue the gateway waits in the middle of telling.
    let fill = || {
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        (0..).take_while(|_| sender.send_to(b"full", &path).is_ok()).count()
    };
    while fill() > 0 {}
    let config = write(&stage, &stage.yaml);
    let variables = [("NOTIFY_SOCKET", path.to_str().unwrap().to_owned())];
    let mut process = Process::start_with_variables(&config, &variables).await;
    process.signal("-HUP");
    process.signal("-TERM");
    let manager = Manager::listen(socket, &path);
    assert_eq!(process.end().await.code(), Some(0));
    eventually("it has said that it stops", || {
        manager.states().iter().any(|told| told.starts_with("STOPPING=1"))
    })
    .await;
}

#[tokio::test]
async fn the_watchdog_hears_of_the_gateway_also_while_it_drains() {
    let stage = Stage::start().await;
    let manager = Manager::start(&stage);
    let mut process = manager.run(&stage, &[("WATCHDOG_USEC", "400000".to_owned())]).await;
    let beats = || manager.told().iter().filter(|told| *told == "WATCHDOG=1\n").count();
    eventually("it is alive", || beats() >= 3).await;
    stage.api.set_delay(std::time::Duration::from_secs(2));
    let slow = tokio::spawn(stage.http.get(process.url("/v1/orders")).send());
    stage.api.wait_for_requests(1).await;
    process.signal("-TERM");
    let is_stopping = || manager.told().iter().any(|told| told.starts_with("STOPPING=1"));
    eventually("it is stopping", is_stopping).await;
    let before = beats();
    eventually("it is alive", || beats() >= before + 2).await;
    assert_eq!(slow.await.unwrap().unwrap().status(), 200);
    assert_eq!(process.end().await.code(), Some(0));
}

/// Keeps one thread of a process from running, as a task that never yields does, until this is dropped.
struct Stuck {
    release: Option<mpsc::Sender<()>>,
    holder: Option<JoinHandle<()>>,
}

impl Stuck {
    /// `None` where nobody may do that to another process: it takes root.
    fn thread(process: &Process, name: &str) -> Option<Self> {
        let tasks = fs::read_dir(format!("/proc/{}/task", process.id())).unwrap().map(|task| task.unwrap());
        let has_name = |folder: &Path| fs::read_to_string(folder.join("comm")).unwrap().trim_end() == name;
        let task =
            tasks.map(|task| task.path()).find(|folder| has_name(folder)).expect("a thread of that name");
        let id = Pid::from_raw(task.file_name().unwrap().to_str().unwrap().parse().unwrap());
        let (release, released) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        // The kernel lets go of the thread when the one that holds it ends.
        let holder = std::thread::spawn(move || {
            let held = ptrace::seize(id, ptrace::Options::empty()).and_then(|()| ptrace::interrupt(id));
            let is_held = held.is_ok();
            tell.send(held).unwrap();
            if is_held {
                let _ = released.recv();
            }
        });
        match told.recv().unwrap() {
            Ok(()) => Some(Self { release: Some(release), holder: Some(holder) }),
            Err(Errno::EPERM) => None,
            Err(error) => panic!("the thread cannot be held: {error}"),
        }
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        drop(self.release.take());
        let _ = self.holder.take().map(JoinHandle::join);
    }
}

#[tokio::test]
async fn a_worker_that_is_stuck_is_named_and_silences_the_watchdog_until_it_goes_on() {
    let stage = Stage::start().await;
    let manager = Manager::start(&stage);
    let process = manager.run(&stage, &[("WATCHDOG_USEC", "800000".to_owned())]).await;
    let beats = || manager.told().iter().filter(|told| *told == "WATCHDOG=1\n").count();
    eventually("it is alive", || beats() >= 2).await;
    let Some(stuck) = Stuck::thread(&process, "worker-0") else { return };
    eventually("the thread is named", || process.has_logged("threads do not answer")).await;
    let line = process.lines().into_iter().find(|line| line.contains("threads do not answer")).unwrap();
    assert!(line.contains("\"worker-0\"") && line.contains("\"ERROR\""), "{line}");
    let before = beats();
    let complaints = || process.lines().iter().filter(|line| line.contains("threads do not answer")).count();
    let first = complaints();
    eventually("it complains again", || complaints() >= first + 2).await;
    // Longer than systemd would have waited, and not one sign of life.
    assert_eq!(beats(), before);
    drop(stuck);
    eventually("it is alive again", || beats() >= before + 2).await;
    assert_eq!(stage.http.get(process.url("/v1/orders")).send().await.unwrap().status(), 200);
}

// --- Restart -------------------------------------------------------------------------------------------------------

/// Callers that go on asking: half on connections of their own for each request, half on lasting ones.
struct Load {
    callers: JoinSet<usize>,
    is_over: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
}

impl Load {
    fn on(stage: &Stage, url: &str) -> Self {
        let mut load = Self { callers: JoinSet::new(), is_over: Arc::default(), served: Arc::default() };
        for index in 0..16 {
            let new = || reqwest::Client::builder().no_proxy().timeout(PATIENCE).pool_max_idle_per_host(0);
            let http = if index % 2 == 0 { stage.http.clone() } else { new().build().unwrap() };
            let (url, is_over, served) =
                (url.to_owned(), Arc::clone(&load.is_over), Arc::clone(&load.served));
            load.callers.spawn(async move {
                let mut count = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let answer = http.get(&url).send().await.expect("no request is lost");
                    assert_eq!(answer.status(), 200);
                    answer.bytes().await.expect("an answer that began is finished");
                    served.fetch_add(1, Ordering::Relaxed);
                    count += 1;
                }
                count
            });
        }
        load
    }

    async fn goes_on(&self) {
        let before = self.served.load(Ordering::Relaxed);
        eventually("requests are served", || self.served.load(Ordering::Relaxed) > before + 200).await;
    }

    /// Panics if one request of one caller has failed.
    async fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        let served = self.callers.join_all().await;
        assert!(served.iter().all(|count| *count > 0), "{served:?}");
    }
}

/// Hands `sockets` over as systemd does: from number 3 on, with their names.
fn activated(config: &Path, names: &str, sockets: Vec<OwnedFd>) -> Command {
    let count = sockets.len();
    let mut sockets = sockets.into_iter();
    // Programs inherit nothing but their standard streams, so the sockets go by these.
    let moved = if count == 2 { "exec 3<&0 4<&1 </dev/null >/dev/null" } else { "exec 3<&0 </dev/null" };
    let script = format!("{moved}; LISTEN_FDS={count} LISTEN_FDNAMES={names} LISTEN_PID=$$ exec \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_keybearer"), "run", "--log-format", "json"]);
    command.arg("--config").arg(config).env_remove("KEYBEARER_ENVIRONMENT").env_remove("KEYBEARER_LOG");
    command.stdin(sockets.next().unwrap());
    if let Some(second) = sockets.next() {
        command.stdout(second);
    }
    command
}

fn write(stage: &Stage, yaml: &str) -> PathBuf {
    let path = stage.folder.path().join("process.yaml");
    fs::write(&path, yaml).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_under_load_on_a_socket_of_systemd_fails_no_request() {
    let stage = Stage::start().await;
    let config = write(&stage, &stage.yaml);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let start = || Process::run(activated(&config, "local", vec![socket.try_clone().unwrap().into()]));
    let mut before = start().await;
    assert_eq!(before.address(), address);
    let load = Load::on(&stage, &before.url("/v1/orders"));
    load.goes_on().await;
    before.signal("-TERM");
    assert_eq!(before.end().await.code(), Some(0));
    // Nobody is there: connections wait in the socket's queue.
    let after = start().await;
    load.goes_on().await;
    load.end().await;
    assert_eq!(after.address(), address);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_are_found_by_address_or_name_and_a_reload_keeps_them() {
    let stage = Stage::start().await;
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let path = stage.folder.path().join("handed.sock");
    let unix = UnixListener::bind(&path).unwrap();
    let listeners = format!(
        "listeners:\n  first: {{address: \"{address}\"}}\n  second: {{address: \"unix:{}\"}}\n",
        path.display()
    );
    let yaml = stage.yaml.replace("listeners:\n  local: {address: \"127.0.0.1:0\"}\n", &listeners);
    assert_ne!(yaml, stage.yaml);
    let config = write(&stage, &yaml);
    // The first by its address, the second by its path.
    let process = Process::run(activated(&config, "other:second", vec![tcp.into(), unix.into()])).await;
    assert_eq!(process.address(), address);
    let status = || async { stage.http.get(process.url("/v1/orders")).send().await.unwrap().status() };
    assert_eq!(status().await, 200);
    let unix_answers = || {
        let mut caller = UnixStream::connect(&path).unwrap();
        caller.write_all(b"GET /v1/orders HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        caller.read_to_string(&mut answer).unwrap();
        answer.starts_with("HTTP/1.1 200")
    };
    assert!(unix_answers());
    // Another name for the same address is another listener, on the same socket.
    write(&stage, &yaml.replace("first:", "third:").replace("second:", "fourth:"));
    process.signal("-HUP");
    eventually("it has reloaded", || process.has_logged("the configuration was reloaded")).await;
    assert_eq!(status().await, 200);
    assert!(unix_answers());
    assert!(!process.has_logged("handed over a socket"), "{:?}", process.lines());
}

#[tokio::test]
async fn a_socket_of_systemd_that_nobody_wants_is_named() {
    let stage = Stage::start().await;
    let config = write(&stage, &stage.yaml);
    let stray = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = stray.local_addr().unwrap().to_string();
    let datagrams = UnixDatagram::unbound().unwrap();
    let open = fs::read_link(format!("/proc/self/fd/{}", datagrams.as_raw_fd())).unwrap();
    let process = Process::run(activated(&config, "stray:log", vec![stray.into(), datagrams.into()])).await;
    let lines = process.lines();
    let warning = |text: &str| lines.iter().find(|line| line.contains("WARN") && line.contains(text));
    let unwanted = warning("no listener's").expect("a warning");
    assert!(unwanted.contains("stray") && unwanted.contains(&address), "{unwanted}");
    let useless = warning("of no use").expect("a warning");
    assert!(useless.contains("log") && useless.contains("ListenStream="), "{useless}");
    // It would go on to every command that the gateway starts.
    let files = fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap();
    let mut files = files.filter_map(|file| fs::read_link(file.unwrap().path()).ok());
    assert!(!files.any(|file| file == open), "it is still open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_gateway_takes_over_from_an_old_one_under_load_and_no_request_fails() {
    let stage = Stage::start().await;
    // Bound and not listening: the port is nobody else's meanwhile.
    let place = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    place.set_reuse_port(true).unwrap();
    place.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = place.local_addr().unwrap().as_socket().unwrap();
    let listener = |more: &str| {
        stage.yaml.replacen("{address: \"127.0.0.1:0\"}", &format!("{{address: \"{address}\"{more}}}"), 1)
    };
    let config = write(&stage, &listener(", reuse_port: true"));
    let mut before = Process::start_with(&config, &[]).await;
    let load = Load::on(&stage, &before.url("/v1/orders"));
    load.goes_on().await;
    for _ in 0..3 {
        let after = Process::start_with(&config, &[]).await;
        before.signal("-TERM");
        assert_eq!(before.end().await.code(), Some(0));
        load.goes_on().await;
        before = after;
    }
    load.end().await;
    // Without the key a second gateway is a mistake, and refused.
    let alone = write(&stage, &listener(""));
    let refused = crate::process::keybearer(&["run", "--config", alone.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(words.contains("another process listens there"), "{words}");
}

#[tokio::test]
async fn systemds_own_tool_hands_a_socket_over() {
    if Command::new("systemd-socket-activate").arg("--version").output().is_err() {
        return;
    }
    let stage = Stage::start().await;
    let config = write(&stage, &stage.yaml);
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new("systemd-socket-activate");
    command.arg(format!("--listen={address}")).args(["--fdname=local", env!("CARGO_BIN_EXE_keybearer")]);
    command.args(["run", "--log-format", "json", "--config"]).arg(&config);
    // It starts the gateway when the first caller comes, who waits meanwhile.
    let url = format!("http://{address}/v1/orders");
    let first = async {
        loop {
            match stage.http.get(&url).send().await {
                Ok(answer) => break answer.status(),
                Err(error) if error.is_connect() => tokio::task::yield_now().await,
                Err(error) => panic!("the first request was lost: {error:?}"),
            }
        }
    };
    let (process, status) = tokio::join!(Process::run(command), first);
    assert_eq!(status, 200);
    assert_eq!(process.address(), address);
}
