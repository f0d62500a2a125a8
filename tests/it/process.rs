//! The binary as a process, started as an operator would, with the stage's provider and API.

use std::{
    fs,
    io::{BufRead, BufReader, Read as _},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::Value;

use crate::stage::{Stage, eventually};

/// Runs `keybearer` to its end.
pub(crate) fn keybearer(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keybearer"));
    // What the tester's own shell sets must not decide a test.
    for name in ["KEYBEARER_CONFIG", "KEYBEARER_ENVIRONMENT", "KEYBEARER_LOG"] {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Before the path of a configuration.
const RUN: [&str; 4] = ["run", "--log-format", "json", "--config"];

/// A running `keybearer run` with its log. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    is_unread: Arc<AtomicBool>,
    /// The log's pipe, once nobody reads it.
    unread: Arc<Mutex<Option<BufReader<ChildStderr>>>>,
    address: SocketAddr,
}

impl Process {
    /// Starts it with the configuration that the stage's own gateway has, and waits for its token.
    pub(crate) async fn start(stage: &Stage, arguments: &[&str]) -> Process {
        let path = stage.folder.path().join("process.yaml");
        fs::write(&path, &stage.yaml).unwrap();
        Self::start_with(&path, arguments).await
    }

    pub(crate) async fn start_with(config: &Path, arguments: &[&str]) -> Process {
        let mut command = command(&RUN);
        command.arg(config).args(arguments);
        Self::run(command).await
    }

    /// Starts it with these environment variables as well.
    pub(crate) async fn start_with_variables(config: &Path, variables: &[(&str, String)]) -> Process {
        let mut command = command(&RUN);
        command.arg(config);
        for (name, value) in variables {
            command.env(name, value);
        }
        Self::run(command).await
    }

    /// Starts it where no process may open more than so many files.
    pub(crate) async fn start_with_files(stage: &Stage, files: usize) -> Process {
        let path = stage.folder.path().join("process.yaml");
        fs::write(&path, &stage.yaml).unwrap();
        let script = format!("ulimit -n {files}; exec \"$@\"");
        let mut limited = Command::new("sh");
        limited.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_keybearer")]).args(RUN).arg(path);
        limited.env_remove("KEYBEARER_ENVIRONMENT").env_remove("KEYBEARER_LOG").stdin(Stdio::null());
        Self::run(limited).await
    }

    /// Starts a command line that was prepared.
    pub(crate) async fn run(mut command: Command) -> Process {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (is_unread, unread) = (Arc::<AtomicBool>::default(), Arc::new(Mutex::new(None)));
        let (lines, mut errors) = (Arc::clone(&log), BufReader::new(child.stderr.take().unwrap()));
        let (stops, kept) = (Arc::clone(&is_unread), Arc::clone(&unread));
        // Ends with the process, which this struct ends.
        std::thread::spawn(move || {
            for line in errors.by_ref().lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
                if stops.load(Ordering::SeqCst) {
                    break;
                }
            }
            *kept.lock().unwrap() = Some(errors);
        });
        let address = ([127, 0, 0, 1], 0).into();
        let mut process = Process { child, log, is_unread, unread, address };
        eventually("the process runs", || process.has_logged("keybearer runs")).await;
        let line = process.lines().into_iter().find(|line| line.contains("\"listening\"")).unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        process.address = line["address"].as_str().unwrap().parse().unwrap();
        process
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its admin listener listens.
    pub(crate) fn admin(&self) -> SocketAddr {
        let line = self.lines().into_iter().find(|line| line.contains("\"admin listening\"")).unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        line["address"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn has_logged(&self, text: &str) -> bool {
        self.log.lock().unwrap().iter().any(|line| line.contains(text))
    }

    /// From its next line on nobody reads the log, whose pipe stays open.
    pub(crate) fn stop_reading(&self) {
        self.is_unread.store(true, Ordering::SeqCst);
    }

    /// Closes the pipe that nobody reads any more.
    pub(crate) fn close_log(&self) {
        let pipe = self.unread.lock().unwrap().take();
        drop(pipe.expect("the log is no longer read"));
    }

    /// The most memory that the process has had in use.
    pub(crate) fn peak_kib(&self) -> usize {
        self.status("VmHWM:")
    }

    /// Its memory now.
    pub(crate) fn resident_kib(&self) -> usize {
        self.status("VmRSS:")
    }

    fn status(&self, name: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the process, and to nobody else.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) async fn end(&mut self) -> ExitStatus {
        let child = Mutex::new(&mut self.child);
        let ended = Mutex::new(None);
        eventually("the process ends", || {
            *ended.lock().unwrap() = child.lock().unwrap().try_wait().unwrap();
            ended.lock().unwrap().is_some()
        })
        .await;
        ended.into_inner().unwrap().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
