//! Callers that send one request after the other, on several connections at once.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};
use tokio_rustls::TlsConnector;

use crate::{
    Speech,
    scene::{ANSWER, Scene},
};

/// Requests on their way at a time, however they are spread over connections.
const AT_ONCE: usize = 32;
/// Connections of HTTP/2 that these share.
const HTTP_2_CONNECTIONS: usize = 4;

/// Where a caller sends its requests, and how.
pub(crate) struct Caller {
    speech: Speech,
    address: SocketAddr,
    path: &'static str,
    tls: TlsConnector,
}

/// A connection that takes requests.
enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

/// How long requests took.
#[derive(Default)]
pub(crate) struct Tally(Vec<Duration>);

impl Caller {
    pub(crate) fn new(scene: &Scene, speech: Speech, address: SocketAddr, path: &'static str) -> Self {
        Self { speech, address, path, tls: scene.trusting(speech.is_http2) }
    }

    /// Sends requests for `warm_up` and then for `span`, calls `begin` between the two, and tells of the second.
    pub(crate) async fn run(self, warm_up: Duration, span: Duration, begin: impl FnOnce()) -> Tally {
        let counted_from = Instant::now() + warm_up;
        let until = counted_from + span;
        let this = Arc::new(self);
        let mut requesting = JoinSet::new();
        let connections = if this.speech.is_http2 { HTTP_2_CONNECTIONS } else { AT_ONCE };
        for _ in 0..connections {
            let sender = this.connect().await;
            if let Sender::Http2(sender) = &sender {
                for _ in 1..AT_ONCE / connections {
                    let sender = Sender::Http2(sender.clone());
                    requesting.spawn(Arc::clone(&this).request(sender, counted_from, until));
                }
            }
            requesting.spawn(Arc::clone(&this).request(sender, counted_from, until));
        }
        tokio::time::sleep_until(counted_from).await;
        begin();
        let mut all = Tally::default();
        for tally in requesting.join_all().await {
            all.add(tally);
        }
        all
    }

    /// One request after the other.
    async fn request(self: Arc<Self>, mut sender: Sender, counted_from: Instant, until: Instant) -> Tally {
        let mut tally = Tally::default();
        let scheme = if self.speech.is_tls { "https" } else { "http" };
        let target = match sender {
            Sender::Http1(_) => self.path.to_owned(),
            Sender::Http2(_) => format!("{scheme}://localhost{}", self.path),
        };
        loop {
            let request = Request::get(&target);
            let request = match sender {
                Sender::Http1(_) => request.header("host", "localhost"),
                Sender::Http2(_) => request,
            };
            let request = request.body(Empty::new()).expect("the request is well-formed");
            let sent_at = Instant::now();
            let response = match &mut sender {
                Sender::Http1(sender) => {
                    sender.ready().await.expect("the connection stays open");
                    sender.send_request(request).await
                }
                Sender::Http2(sender) => sender.send_request(request).await,
            };
            let response = response.expect("the request is answered");
            assert_eq!(response.status(), 200, "the bench measures something else than it says");
            let body = response.into_body().collect().await.expect("the answer is whole").to_bytes();
            assert_eq!(body, ANSWER);
            let now = Instant::now();
            if now > until {
                return tally;
            }
            if sent_at >= counted_from {
                tally.0.push(now - sent_at);
            }
        }
    }

    async fn connect(&self) -> Sender {
        let tcp = TcpStream::connect(self.address).await.expect("somebody listens");
        tcp.set_nodelay(true).expect("a socket option");
        if !self.speech.is_tls {
            return self.handshake(tcp).await;
        }
        let name = "localhost".try_into().expect("a host name");
        let stream = self.tls.connect(name, tcp).await.expect("the certificate is trusted");
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        assert_eq!(is_http2, self.speech.is_http2, "ALPN has chosen otherwise");
        self.handshake(stream).await
    }

    async fn handshake(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Sender {
        let stream = TokioIo::new(stream);
        // The connections end when their senders are dropped.
        if self.speech.is_http2 {
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2 is spoken");
            tokio::spawn(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(stream).await.expect("HTTP/1.1 is spoken");
            tokio::spawn(connection);
            Sender::Http1(sender)
        }
    }
}

impl Tally {
    pub(crate) fn add(&mut self, other: Tally) {
        self.0.extend(other.0);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn rate(&self, span: Duration) -> f64 {
        self.0.len() as f64 / span.as_secs_f64()
    }

    pub(crate) fn percentile(&mut self, share: f64) -> Duration {
        self.0.sort_unstable();
        let at = (self.0.len() as f64 * share) as usize;
        self.0.get(at).copied().unwrap_or_default()
    }
}
