//! Serving one connection, from its first byte to its last.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf},
    time::Instant,
};

use crate::{
    body::Received,
    caller::Caller,
    listen::{
        connections::Registered,
        frames::PREFACE,
        guard::Guard,
        http2,
        isolated::Isolated,
        transport::{Accepted, Transport},
        watched::{End, Ending, Watched},
    },
    proxy::{self, Held, Inbound, Interim, Line, answer::Answer, tunnel::Tunnel, worker::Worker},
};

/// What a caller still sends behind an early answer is read for so long, so that the answer reaches it.
const LINGER_TIME_MAX: Duration = Duration::from_secs(10);
/// And for so long when nothing comes.
const LINGER_PAUSE_MAX: Duration = Duration::from_secs(1);
/// What is read of a connection to see which protocol it speaks; most request heads fit.
const FIRST_READ: usize = 2048;
/// Header fields that the library takes if it is not told a number.
const LIBRARY_HEADERS: usize = 100;
/// Informational responses that wait for the caller to take them.
const INTERIM_BYTES_MAX: usize = 64 * 1024;

/// Serves a connection until it ends.
pub(super) async fn serve(worker: Rc<Worker>, registered: &Registered, accepted: Accepted) {
    let (watched, limits) = (registered.watched(), registered.limits());
    let Accepted { mut transport, caller, tls } = accepted;
    let is_http2 = tls.as_ref().map(|tls| tls.is_http2);
    if let Some(tls) = tls {
        let _ = watched.tls.set(tls);
    }
    // Without TLS nobody has settled the protocol: its first bytes tell.
    let (is_http2, early) = match is_http2 {
        Some(is_http2) => (is_http2, Vec::new()),
        None => match first_bytes(&mut transport, watched).await {
            Some(early) => (early.starts_with(PREFACE), early),
            None => return,
        },
    };
    if is_http2 {
        // Boxed, like all that an idle connection can do without.
        Box::pin(http2::serve(&worker, watched, limits, (transport, early), caller)).await;
    } else {
        http1(&worker, registered, (transport, early), caller).await;
    }
}

/// The first bytes of a connection, as many as tell HTTP/2 by prior knowledge from HTTP/1.1
/// (RFC 9113 §3.3).
async fn first_bytes(transport: &mut Transport, watched: &Rc<Watched>) -> Option<Vec<u8>> {
    let mut early: Vec<u8> = Vec::new();
    while PREFACE.starts_with(&early) && early.len() < PREFACE.len() {
        early.extend(next_bytes(transport, watched).await?);
        if !watched.has_partial_head.replace(true) {
            watched.since.set(Instant::now());
        }
    }
    watched.has_partial_head.set(false);
    Some(early)
}

/// What comes next; nothing when the connection ends. A connection that waits here costs no buffer.
async fn next_bytes(transport: &mut Transport, watched: &Rc<Watched>) -> Option<Vec<u8>> {
    poll_fn(|cx| {
        if watched.end.get() != End::No {
            return Poll::Ready(None);
        }
        watched.wake_by(cx);
        let mut space = [0; FIRST_READ];
        let mut buf = ReadBuf::new(&mut space);
        match ready!(Pin::new(&mut *transport).poll_read(cx, &mut buf)) {
            Ok(()) if !buf.filled().is_empty() => Poll::Ready(Some(buf.filled().to_vec())),
            _ => Poll::Ready(None),
        }
    })
    .await
}

async fn http1(
    worker: &Rc<Worker>,
    registered: &Registered,
    (transport, early): (Transport, Vec<u8>),
    caller: Caller,
) {
    let (watched, limits) = (registered.watched(), registered.limits());
    let mut guard = Guard::new(transport, early, limits, watched);
    // A connection that rests gives its buffers back, and gets others when something comes.
    while let Some((mut resting, read)) = Box::pin(converse(worker, registered, guard, caller)).await {
        if !watched.rests.take() || !read.is_empty() {
            return Box::pin(end(resting, read, watched)).await;
        }
        // Empty, but still the whole buffer that it was cut from.
        drop(read);
        match next_bytes(resting.io(), watched).await {
            Some(early) => resting.unread(early),
            None => return Box::pin(end(resting, Bytes::new(), watched)).await,
        }
        guard = resting;
    }
}

/// Serves requests until the connection ends, rests or becomes a tunnel. Gives the guard back, and what
/// was read beyond it; nothing when the connection broke.
async fn converse(
    worker: &Rc<Worker>,
    registered: &Registered,
    guard: Guard<Transport>,
    caller: Caller,
) -> Option<(Guard<Transport>, Bytes)> {
    let (watched, limits) = (registered.watched(), registered.limits());
    let service = service_fn(|request| {
        let refused = watched.serve();
        let is_old = request.version() == Version::HTTP_10;
        let line = Held::new(Rc::clone(watched) as Rc<dyn Line>);
        let inbound = Inbound { request: Request::map(request, Received::Http1), refused, caller, line };
        let responding = Isolated::begin(|| proxy::respond(Rc::clone(worker), inbound));
        Serving { responding, watched: Rc::clone(watched), worker, is_old }
    });
    // The guard has judged every head before hyper sees it, so hyper's limits only have to be no
    // smaller. Its header timer is replaced by the watch.
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .max_buf_size((limits.header_bytes + limits.uri_bytes + 8 * 1024).max(64 * 1024));
    // With a number of its own it takes memory for each head.
    if limits.headers > LIBRARY_HEADERS {
        builder.max_headers(limits.headers);
    }
    let mut connection = builder.serve_connection(TokioIo::new(guard), service);
    let ended = poll_fn(|cx| {
        // The guard would tell the library, but that does not read on while an upload waits.
        if watched.is_given_up() {
            return Poll::Ready(None);
        }
        watched.wake_by(cx);
        if watched.wants_rest.take() && watched.may_rest() {
            watched.rests.set(true);
            Pin::new(&mut connection).graceful_shutdown();
        }
        // Its shutdown writes what the library holds, and ends with the guard.
        let polled = Pin::new(&mut connection).poll(cx).map(Some);
        // Nothing that it waits for may outlive the watch.
        if polled.is_pending() && watched.end.get() == End::Silently { Poll::Ready(None) } else { polled }
    })
    .await;
    let Some(Ok(())) = ended else {
        // It holds the connection that holds it.
        drop(watched.take_tunnel());
        let error = ended.and_then(Result::err);
        tracing::debug!(?error, %caller, "connection ended");
        return None;
    };
    let parts = connection.into_parts();
    Some((parts.io.into_inner(), parts.read_buf))
}

/// The end of a connection's HTTP: a tunnel, or its close.
async fn end(guard: Guard<Transport>, read: Bytes, watched: &Watched) {
    match watched.take_tunnel() {
        Some(tunnel) => {
            // What came right behind the head was held back until the upstream agreed.
            let (transport, held) = guard.into_tunnel();
            let mut running = pin!(tunnel.run(transport, [read.as_ref(), &held].concat()));
            let was_silent = poll_fn(|cx| {
                if watched.end.get() != End::No {
                    return Poll::Ready(false);
                }
                watched.wake_by(cx);
                running.as_mut().poll(cx)
            });
            if was_silent.await {
                watched.blame(Ending::SilentTunnel);
            }
        }
        None => {
            let (transport, is_sending) = guard.into_parts();
            close(transport, is_sending).await;
        }
    }
}

/// Closes a connection. One whose caller may still be sending is read for a moment: closing it with
/// unread bytes would reset it, and the caller might never see the answer.
async fn close(mut stream: Transport, linger: bool) {
    // The last words of TLS wait for room like all others.
    let closed = tokio::time::timeout(LINGER_TIME_MAX, stream.shutdown()).await;
    if !matches!(closed, Ok(Ok(()))) || !linger {
        return;
    }
    let drain = async {
        let mut scratch = vec![0; 16 * 1024];
        while let Ok(Ok(1..)) = tokio::time::timeout(LINGER_PAUSE_MAX, stream.read(&mut scratch)).await {}
    };
    let _ = tokio::time::timeout(LINGER_TIME_MAX, drain).await;
}

/// One request of an HTTP/1.1 connection.
struct Serving<'a, F> {
    responding: Isolated<F>,
    watched: Rc<Watched>,
    worker: &'a Worker,
    /// The request came over HTTP/1.0, where an answer without a length ends with its connection.
    is_old: bool,
}

impl<F: Future<Output = Response<Answer>>> Future for Serving<'_, F> {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut answer = ready!(Pin::new(&mut self.responding).poll(cx));
        let has_no_end = self.is_old && answer.body().size_hint().exact().is_none();
        if self.watched.is_replaced() || self.worker.is_draining() || has_no_end {
            say_close(&mut answer);
            if self.is_old {
                // Else the library would say beside it that the connection is kept, as this caller has asked for.
                *answer.version_mut() = Version::HTTP_10;
            }
        }
        self.watched.begin_answer();
        Poll::Ready(Ok(answer))
    }
}

/// This answer is the connection's last (RFC 9112 §9.6), faults included. A tunnel has no close.
fn say_close(answer: &mut Response<Answer>) {
    let says = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
    let is_said = answer.headers().get_all(header::CONNECTION).iter().any(says);
    if !is_said && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        answer.headers_mut().append(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// The caller's side of the current request on an HTTP/1.1 connection.
impl Line for Watched {
    fn is_tls(&self) -> bool {
        self.tls.get().is_some()
    }

    fn is_misdirected(&self, host: &str) -> bool {
        self.tls.get().is_some_and(|tls| tls.is_misdirected(host))
    }

    fn inform(&self, interim: &Interim) {
        let mut waiting = self.interim.borrow_mut();
        if waiting.len() < INTERIM_BYTES_MAX {
            write_interim(&mut waiting, interim);
        }
        drop(waiting);
        self.wake();
    }

    fn hand_over(&self, tunnel: Tunnel) {
        *self.tunnel.borrow_mut() = Some(tunnel);
    }

    fn end(&self) {
        self.answer();
    }
}

/// RFC 9110 §15.2: a status line and fields, nothing else.
fn write_interim(out: &mut BytesMut, interim: &Interim) {
    let reason = interim.status.canonical_reason().unwrap_or("Informational");
    out.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", interim.status.as_str()).as_bytes());
    for (name, value) in &interim.headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b"\r\n");
}
