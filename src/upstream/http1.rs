//! HTTP/1.1 on a connection to an upstream: one request at a time.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use http_body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWriteExt, sync::oneshot, time::Instant};

use crate::upstream::{
    connect::ConnectError,
    stream::{Stream, Upgraded, Wire},
};

/// A response head of an upstream, and at most this much of its body read ahead. Bounds what a busy
/// connection costs.
const READ_BUFFER_MAX: usize = 64 * 1024;
/// How long saying goodbye may take: TLS has a last record to send, which a stalled peer does not take.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// A connection that nobody uses now.
pub(super) struct Idle<B> {
    pub(super) sender: http1::SendRequest<B>,
    pub(super) wire: Rc<Wire>,
    pub(super) since: Instant,
    /// From then on it takes no request.
    pub(super) expires: Instant,
    /// Whether it has carried a request.
    pub(super) is_used: bool,
}

impl<B> Idle<B> {
    /// Whether it may carry another request.
    pub(super) fn is_fit(&self, now: Instant) -> bool {
        now < self.expires && !self.sender.is_closed() && !self.wire.is_unfit()
    }
}

/// Begins HTTP/1.1 on `stream`.
///
/// # Errors
/// When the library refuses.
pub(super) async fn begin<B>(stream: Stream, expires: Instant) -> Result<Idle<B>, ConnectError>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let wire = stream.wire();
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(READ_BUFFER_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| ConnectError::Unreachable(Rc::new(std::io::Error::other(e))))?;
    // Ends by itself when the connection closes or its sender is dropped.
    tokio::task::spawn_local(drive(connection, Rc::clone(&wire)));
    Ok(Idle { sender, wire, since: Instant::now(), expires, is_used: false })
}

/// Carries a connection to its end, which is an upgrade or a goodbye.
async fn drive<B>(connection: http1::Connection<TokioIo<Stream>, B>, wire: Rc<Wire>)
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let parts = match connection.without_shutdown().await {
        Ok(parts) => parts,
        Err(error) => {
            tracing::debug!(%error, "upstream connection ended");
            return;
        }
    };
    let upgraded: Upgraded = (parts.io.into_inner(), parts.read_buf);
    let (mut stream, _) = match wire.claimed().await {
        None => upgraded,
        Some(claimant) => match claimant.send(upgraded) {
            Ok(()) => return,
            // Whoever asked has gone in the meantime.
            Err(upgraded) => upgraded,
        },
    };
    let _ = tokio::time::timeout(SHUTDOWN_LIMIT, stream.shutdown()).await;
}

/// The right to a connection's bytes after an upgrade.
pub(super) type Claim = oneshot::Sender<oneshot::Sender<Upgraded>>;
