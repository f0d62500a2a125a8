//! Programs of `tests/clients`: real callers and servers in other languages, started and spoken to in lines.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::stage::PATIENCE;

/// A running program. Killed when dropped.
pub(crate) struct Program {
    child: Child,
    input: Option<ChildStdin>,
    lines: UnboundedReceiver<String>,
    errors: Arc<Mutex<String>>,
}

impl Program {
    /// A script of `tests/clients` for the Python that `make test` has prepared.
    pub(crate) fn python(script: &str, arguments: &[&str]) -> Program {
        let python = root().join("target/clients/bin/python");
        assert!(python.exists(), "{} is missing: `make tools` installs it", python.display());
        let mut command = Command::new(python);
        // -B: a test leaves no compiled files in the source folder.
        command.arg("-B").arg(folder().join(script)).args(arguments);
        Program::start(command)
    }

    /// A script of `tests/clients` for Node.js.
    pub(crate) fn node(script: &str, arguments: &[&str]) -> Program {
        let modules = folder().join("node_modules");
        assert!(modules.is_dir(), "{} is missing: `make tools` installs it", modules.display());
        let mut command = Command::new("node");
        command.arg(folder().join(script)).args(arguments);
        Program::start(command)
    }

    /// A source file of `tests/clients` for Java; none where Java is not installed.
    pub(crate) fn java(source: &str, arguments: &[&str]) -> Option<Program> {
        let java = Command::new("java").arg("-version").stderr(Stdio::null()).status();
        if !java.is_ok_and(|status| status.success()) {
            println!("java is not installed: its HTTP client is not tried");
            return None;
        }
        let mut command = Command::new("java");
        command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]);
        command.arg(folder().join(source)).args(arguments);
        Some(Program::start(command))
    }

    fn start(mut command: Command) -> Program {
        // The tester's own proxy must not stand between.
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(name);
        }
        let (stdin, stdout, stderr) = (Stdio::piped(), Stdio::piped(), Stdio::piped());
        let child = command.stdin(stdin).stdout(stdout).stderr(stderr).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let (send, lines) = unbounded_channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        let failures = BufReader::new(child.stderr.take().unwrap());
        let errors = Arc::new(Mutex::new(String::new()));
        let said = Arc::clone(&errors);
        // Both end with the program, which this struct ends.
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        std::thread::spawn(move || {
            for line in failures.lines().map_while(Result::ok) {
                *said.lock().unwrap() += &format!("{line}\n");
            }
        });
        let input = child.stdin.take();
        Program { child, input, lines, errors }
    }

    /// Writes a line to the program.
    pub(crate) fn say(&mut self, line: &str) {
        let written = self.input.as_mut().unwrap().write_all(format!("{line}\n").as_bytes());
        assert!(written.is_ok(), "the program has ended: {}", self.errors());
    }

    /// The next line that the program prints.
    pub(crate) async fn hear(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.lines.recv()).await;
        let line = line.unwrap_or_else(|_| panic!("the program says nothing\n{}", self.errors()));
        line.unwrap_or_else(|| panic!("the program has ended\n{}", self.errors()))
    }

    /// Says a line and hears the answer.
    pub(crate) async fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.hear().await
    }

    /// Closes the program's input and hears it out. It must end well.
    pub(crate) async fn finish(mut self) -> Vec<String> {
        drop(self.input.take());
        let mut heard = Vec::new();
        let all = async {
            while let Some(line) = self.lines.recv().await {
                heard.push(line);
            }
        };
        let ended = tokio::time::timeout(2 * PATIENCE, all).await;
        assert!(ended.is_ok(), "the program does not end: {heard:#?}\n{}", self.errors());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {heard:#?}\n{}", self.errors());
        heard
    }

    fn errors(&self) -> String {
        self.errors.lock().unwrap().clone()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where the programs are.
pub(crate) fn folder() -> PathBuf {
    root().join("tests/clients")
}
