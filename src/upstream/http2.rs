//! HTTP/2 on a connection to an upstream: many requests at a time, each on a stream of its own.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, Request, Uri, Version,
    header::{CONNECTION, HOST, TRANSFER_ENCODING, UPGRADE},
    uri::{Authority, PathAndQuery},
};
use http_body::Body;
use hyper::{client::conn::http2, rt::Executor};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::upstream::{
    Upstream,
    connect::ConnectError,
    stream::{Stream, Wire},
};

/// What an upstream may send of one response before we have passed it on. Enough for a fast transfer
/// over some distance (100 ms at 80 Mbit/s).
const STREAM_WINDOW: u32 = 1024 * 1024;
/// The same for all responses of a connection.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// A response's fields, and its trailers; as much as over HTTP/1.1.
const HEADER_LIST_MAX: u32 = 64 * 1024;
/// Streams of one connection, whatever the peer allows: one lost packet holds up all of them.
pub(super) const STREAMS_MAX: usize = 100;

/// What the peer's limit is taken for until it has said something: more than a number on the wire can
/// say, so that it tells whether the peer's settings are there.
const UNSETTLED: usize = usize::MAX - 1;
/// So long a new connection waits for the peer's settings, which are the first thing it has to send
/// (RFC 9113 §3.4). Without them nobody knows how many requests it takes.
const SETTINGS_LIMIT: Duration = Duration::from_secs(1);

/// Runs the library's tasks on the worker's own thread.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// What the peer's settings say at this moment.
trait Peer {
    /// Streams that the peer allows, while there is a connection.
    fn streams_max(&self) -> Option<usize>;
    /// Whether it knows extended CONNECT (RFC 8441).
    fn takes_extended_connect(&self) -> bool;
}

type Driven<B> = RefCell<Option<http2::Connection<TokioIo<Stream>, B, Local>>>;

impl<B> Peer for Driven<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn streams_max(&self) -> Option<usize> {
        self.borrow().as_ref().map(|connection| connection.current_max_send_streams())
    }

    fn takes_extended_connect(&self) -> bool {
        self.borrow().as_ref().is_some_and(|connection| connection.is_extended_connect_protocol_enabled())
    }
}

/// A connection that several requests share. It closes when the pool and all of them have let it go.
pub(super) struct Shared<B> {
    pub(super) sender: http2::SendRequest<B>,
    pub(super) wire: Rc<Wire>,
    pub(super) upstream: Arc<Upstream>,
    /// Counts the worker's connections, so that later ones have higher numbers.
    pub(super) number: u64,
    /// Requests that have it now.
    pub(super) streams: Cell<usize>,
    /// Since when nobody has it, if nobody has.
    pub(super) since: Cell<Instant>,
    /// Whether it has carried a request.
    pub(super) is_used: Cell<bool>,
    /// From then on it takes no new request.
    pub(super) expires: Instant,
    peer: Rc<dyn Peer>,
}

impl<B> Shared<B> {
    /// Whether it may carry further requests, now or later.
    pub(super) fn is_fit(&self, now: Instant) -> bool {
        now < self.expires && !self.sender.is_closed() && !self.wire.is_unfit()
    }

    /// Whether it may carry one more now.
    pub(super) fn has_room(&self) -> bool {
        self.streams.get() < self.streams_max()
    }

    /// Requests that it may carry at a time.
    pub(super) fn streams_max(&self) -> usize {
        self.peer.streams_max().unwrap_or(0).min(STREAMS_MAX)
    }

    /// Waits for the peer's settings, but not for long: without them it works as well.
    async fn settled(&self) -> Result<(), ConnectError> {
        let heard = poll_fn(|cx| {
            let has_said = self.peer.streams_max().is_some_and(|max| max != UNSETTLED);
            if has_said || self.wire.has_ended() || self.sender.is_closed() {
                return Poll::Ready(has_said);
            }
            self.wire.wake_on_receipt(cx.waker());
            Poll::Pending
        });
        match tokio::time::timeout(SETTINGS_LIMIT, heard).await {
            Ok(false) if self.wire.has_tls_failed() => Err(ConnectError::Tls(Rc::new(io::Error::other(
                "the upstream ended TLS after the handshake, perhaps over our certificate",
            )))),
            Ok(false) => Err(ConnectError::NotHttp2),
            Ok(true) | Err(_) => Ok(()),
        }
    }

    /// Whether WebSockets can go over it (RFC 8441).
    pub(super) fn takes_extended_connect(&self) -> bool {
        self.peer.takes_extended_connect()
    }
}

/// Begins HTTP/2 on `stream`.
///
/// # Errors
/// When the peer closes before it has said anything in HTTP/2.
pub(super) async fn begin<B>(
    stream: Stream,
    upstream: &Arc<Upstream>,
    number: u64,
    expires: Instant,
) -> Result<Rc<Shared<B>>, ConnectError>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let wire = stream.wire();
    let (sender, connection) = http2::Builder::new(Local)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST_MAX)
        .initial_max_send_streams(UNSETTLED)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| ConnectError::Unreachable(Rc::new(io::Error::other(e))))?;
    let driven: Rc<Driven<B>> = Rc::new(RefCell::new(Some(connection)));
    // Ends by itself when the connection closes or its last sender is dropped.
    tokio::task::spawn_local(drive(Rc::clone(&driven)));
    let shared = Rc::new(Shared {
        sender,
        wire,
        upstream: Arc::clone(upstream),
        number,
        streams: Cell::new(0),
        since: Cell::new(Instant::now()),
        is_used: Cell::new(false),
        expires,
        peer: driven,
    });
    shared.settled().await?;
    Ok(shared)
}

/// Carries a connection to its end. It lies in a cell, so that the peer's settings can be read there.
async fn drive<B>(driven: Rc<Driven<B>>)
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let ended = poll_fn(|cx| match driven.borrow_mut().as_mut() {
        Some(connection) => Pin::new(connection).poll(cx),
        None => Poll::Ready(Ok(())),
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "upstream connection ended");
    }
    driven.take();
}

/// Turns a request for HTTP/1.1 into one for HTTP/2 (RFC 9113 §8.3.1): `Host` becomes the authority.
pub(super) fn translate<B>(request: &mut Request<B>, upstream: &Upstream) {
    let headers = request.headers_mut();
    let authority = authority(headers, upstream);
    for field in [CONNECTION, HOST, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(field);
    }
    let mut target = std::mem::take(request.uri_mut()).into_parts();
    target.scheme = Some(upstream.origin.scheme.name());
    target.authority = Some(authority);
    target.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(target).expect("scheme, authority and path are all there");
    *request.version_mut() = Version::HTTP_2;
}

fn authority(headers: &HeaderMap, upstream: &Upstream) -> Authority {
    match headers.get(HOST) {
        Some(host) if host != upstream.host => {
            Authority::try_from(host.as_bytes()).unwrap_or_else(|_| upstream.authority.clone())
        }
        _ => upstream.authority.clone(),
    }
}
