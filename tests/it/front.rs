//! A gateway with two listeners, one of them with TLS, and raw peers that speak byte by byte.

use std::{fs, net::SocketAddr, time::Duration};

use keybearer::{
    app::{self, Running},
    config,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::stage::{PATIENCE, Plan, Stage, eventually};

/// A gateway with the listeners `local` and `secure` in front of a stage's API. The stage's own gateway
/// has nothing to do.
pub(crate) struct Front {
    pub(crate) stage: Stage,
    pub(crate) gateway: Running,
}

impl Front {
    /// The configuration is that of `plan`, with a TLS listener.
    pub(crate) async fn start(plan: Plan) -> Self {
        let stage = plan.start().await;
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        fs::write(stage.folder.path().join("server.pem"), made.cert.pem()).unwrap();
        fs::write(stage.folder.path().join("server.key"), made.signing_key.serialize_pem()).unwrap();
        let secure = "listeners:\n  secure: {address: \"127.0.0.1:0\", \
                      tls: {certificate: {file: server.pem}, key: {file: server.key}}}\n";
        let yaml = stage.yaml.replacen("listeners:\n", secure, 1);
        let loaded = config::parse(&yaml, &stage.folder.path().join("keybearer.yaml"), None);
        let gateway = app::start(loaded.unwrap_or_else(|p| panic!("{p}\n{yaml}")).settings, None).unwrap();
        let all = || [&gateway, &stage.gateway].iter().all(|g| g.profiles().iter().all(|p| p.is_ready()));
        eventually("both gateways are ready", all).await;
        Self { stage, gateway }
    }

    /// `host:port` of the listener without TLS.
    pub(crate) fn plain(&self) -> String {
        self.gateway.listener("local").unwrap().to_string()
    }

    /// `host:port` of the listener with TLS.
    pub(crate) fn secure(&self) -> String {
        format!("localhost:{}", self.gateway.listener("secure").unwrap().port())
    }

    /// The file of the certificate that callers have to trust.
    pub(crate) fn certificate(&self) -> String {
        self.stage.folder.path().join("server.pem").to_str().unwrap().to_owned()
    }
}

/// One end of a connection on which a test reads and writes bytes.
pub(crate) struct Peer {
    stream: TcpStream,
    /// What has been read and not been taken.
    ahead: Vec<u8>,
}

impl Peer {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, ahead: Vec::new() }
    }

    /// The next connection that somebody makes to `listener`.
    pub(crate) async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = tokio::time::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, ahead: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends, unless the other end has gone.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> bool {
        matches!(tokio::time::timeout(PATIENCE, self.stream.write_all(bytes)).await, Ok(Ok(())))
    }

    /// The next head, up to its empty line.
    pub(crate) async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = self.ahead.split_off(end + 4);
                return String::from_utf8(std::mem::replace(&mut self.ahead, rest)).unwrap();
            }
            assert!(self.more().await, "closed in a head: {:?}", String::from_utf8_lossy(&self.ahead));
        }
    }

    /// The next `count` bytes.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<u8> {
        while self.ahead.len() < count {
            assert!(self.more().await, "closed after {:?}", self.latest());
        }
        let rest = self.ahead.split_off(count);
        std::mem::replace(&mut self.ahead, rest)
    }

    /// Reads until `text` has come, and returns everything up to its end.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        loop {
            let found = self.ahead.windows(text.len()).position(|part| part == text.as_bytes());
            if let Some(at) = found {
                return String::from_utf8(self.take(at + text.len()).await).unwrap();
            }
            assert!(self.more().await, "closed after {:?}", self.latest());
        }
    }

    /// Everything until the other end closes or resets.
    pub(crate) async fn rest(&mut self) -> String {
        while self.more().await {}
        String::from_utf8_lossy(&std::mem::take(&mut self.ahead)).into_owned()
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn half_close(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Whether the other end is still there after so long without a byte from it.
    pub(crate) async fn is_silent_for(&mut self, time: Duration) -> bool {
        let mut one = [0];
        self.ahead.is_empty() && tokio::time::timeout(time, self.stream.peek(&mut one)).await.is_err()
    }

    /// The end of what has come.
    fn latest(&self) -> String {
        String::from_utf8_lossy(&self.ahead[self.ahead.len().saturating_sub(500)..]).into_owned()
    }

    async fn more(&mut self) -> bool {
        let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.ahead)).await;
        matches!(read.expect("bytes or an end in time"), Ok(1..))
    }
}

/// An upstream of which the test plays the part itself, and the stage in front of it.
pub(crate) async fn played(more: &str) -> (TcpListener, Stage) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = format!("all: {{upstream: \"http://{}\", profile: account}}", listener.local_addr().unwrap());
    let stage = Plan::default().routes(&route).more(&format!("workers: 1\n{more}")).start().await;
    stage.ready().await;
    (listener, stage)
}
