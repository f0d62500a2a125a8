//! nginx as a child process on loopback.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::stage::pause;

/// Attempts to find a port that nobody takes before nginx does.
const ATTEMPTS: usize = 10;

pub(crate) struct Nginx {
    pub(crate) address: SocketAddr,
    /// As in `1.22.1`.
    pub(crate) version: String,
    child: Child,
    _folder: TempDir,
}

impl Nginx {
    pub(crate) async fn start(upstream: SocketAddr) -> Self {
        let version = version();
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..ATTEMPTS {
            // nginx cannot tell which free port it took, so one is looked for here.
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let mut child = spawn(&folder, address, upstream);
            while child.try_wait().unwrap().is_none() {
                if TcpStream::connect(address).is_ok() {
                    return Self { address, version, child, _folder: folder };
                }
                pause().await;
            }
        }
        let log = fs::read_to_string(folder.path().join("error.log")).unwrap_or_default();
        panic!("nginx does not start:\n{log}");
    }
}

/// Debian puts it where only the paths of administrators lead.
fn program() -> Command {
    let usual = "/usr/sbin/nginx";
    Command::new(if std::path::Path::new(usual).exists() { usual } else { "nginx" })
}

fn version() -> String {
    let output = program().arg("-v").output().unwrap_or_else(|error| {
        panic!("nginx is needed to compare with and cannot be run ({error}): install it, or run `make tools`")
    });
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.trim().rsplit('/').next().unwrap_or_default().split(' ').next().unwrap_or_default().to_owned()
}

fn spawn(folder: &TempDir, address: SocketAddr, upstream: SocketAddr) -> Child {
    let path = folder.path().to_str().unwrap();
    let text = include_str!("nginx.conf")
        .replace("{folder}", path)
        .replace("{address}", &address.to_string())
        .replace("{upstream}", &upstream.to_string());
    let file = folder.path().join("nginx.conf");
    fs::write(&file, text).unwrap();
    program()
        .args(["-p", path, "-e", &format!("{path}/error.log"), "-g", "daemon off; master_process off;", "-c"])
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
