//! Serving a connection that speaks HTTP/2.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
};

use http::{HeaderValue, Request};
use hyper::{body::Incoming, rt::Executor, server::conn::http2, service::service_fn};
use hyper_util::rt::TokioIo;

use crate::{
    caller::Caller,
    listen::{
        Limits,
        frames::Frames,
        serve::isolated,
        streams::{Paced, Stream, Streams},
        transport::Transport,
        watched::{End, Ending, Watched},
    },
    proxy::{
        self, Inbound, Line,
        fault::{BadRequest, Fault},
        tunnel::Tunnel,
        worker::Worker,
    },
};

/// What the library may hold of one answer while the caller makes no room for it.
const SEND_BUFFER_MAX: usize = 64 * 1024;
/// Streams that a caller resets before they were served; then the connection ends (CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 20;
/// Streams that the caller makes us reset; then the connection ends (CVE-2025-8671).
const OWN_RESETS_MAX: usize = 200;

/// Serves `transport`, of which `early` has been read, until the connection ends.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    watched: &Rc<Watched>,
    limits: &Limits,
    (transport, early): (Transport, Vec<u8>),
    caller: Caller,
) {
    let streams = watched.streams.get_or_init(Streams::new);
    let service = service_fn(|request: Request<Incoming>| {
        let refused = judge(&request, limits);
        let stream = streams.open();
        let line = StreamLine { watched: Rc::clone(watched), stream: Rc::clone(&stream) };
        let worker = Rc::clone(worker);
        async move {
            let inbound = Inbound { request, refused, caller, line: Rc::new(line) };
            let answer = isolated(pin!(proxy::respond(worker, inbound))).await;
            stream.begin_answer();
            Ok::<_, Infallible>(answer.map(|answer| Paced { answer, stream }))
        }
    });
    let connection = http2::Builder::new(Streaming { watched: Rc::clone(watched) })
        .max_concurrent_streams(limits.http2_streams)
        .initial_stream_window_size(limits.http2_stream_window)
        .initial_connection_window_size(limits.http2_connection_window)
        .max_header_list_size(limits.http2_header_bytes)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(OWN_RESETS_MAX)
        .max_send_buf_size(SEND_BUFFER_MAX)
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(Frames::new(transport, early, watched)), service);
    let mut connection = pin!(connection);
    let mut has_left = false;
    let ended = poll_fn(|cx| {
        if watched.end.get() != End::No {
            return Poll::Ready(Ok(()));
        }
        if streams.leaves() && !has_left {
            has_left = true;
            connection.as_mut().graceful_shutdown();
        }
        watched.wake_by(cx);
        connection.as_mut().poll(cx)
    });
    if let Err(error) = ended.await {
        if is_protocol(&error) {
            watched.blame(Ending::Http2);
        }
        tracing::debug!(%error, %caller, "connection ended");
    }
}

/// Whether the library has ended the connection over what the caller sent.
fn is_protocol(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| cause.is_library() && !cause.is_io())
}

/// What the library lets pass and this gateway does not: it bounds a header block's bytes, not its
/// fields, and RFC 9113 §8.2.1 forbids white space around values.
fn judge(request: &Request<Incoming>, limits: &Limits) -> Option<Fault> {
    let headers = request.headers();
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let is_padded = |value: &HeaderValue| value.as_bytes().trim_ascii().len() != value.len();
    if headers.len() > limits.headers {
        Some(Fault::HeadersTooLarge)
    } else if target > limits.uri_bytes {
        Some(Fault::UriTooLong)
    } else if headers.values().any(is_padded) {
        Some(Fault::BadRequest(BadRequest::Framing("a header value begins or ends with white space")))
    } else {
        None
    }
}

/// Drives each stream of a connection on a task of its own, until the watch gives it up.
#[derive(Clone)]
struct Streaming {
    watched: Rc<Watched>,
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Streaming {
    fn execute(&self, driven: F) {
        // The service was called for this stream just before, or this is no stream's first task.
        let stream = self.watched.streams.get().and_then(|streams| streams.latest.take());
        let Some(stream) = stream else {
            tokio::task::spawn_local(driven);
            return;
        };
        // Ends with the stream; dropping what drives it resets the stream.
        tokio::task::spawn_local(async move {
            let mut driven = pin!(driven);
            poll_fn(|cx| match stream.poll_cancelled(cx) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => Pin::new(&mut driven).poll(cx),
            })
            .await;
        });
    }
}

/// The caller's side of one request on an HTTP/2 connection.
struct StreamLine {
    watched: Rc<Watched>,
    stream: Rc<Stream>,
}

impl Line for StreamLine {
    fn is_tls(&self) -> bool {
        self.watched.tls.get().is_some()
    }

    fn is_misdirected(&self, host: &str) -> bool {
        self.watched.tls.get().is_some_and(|tls| tls.is_misdirected(host))
    }

    /// The library has no way to send one on a stream.
    fn inform(&self, _: &proxy::Interim) {}

    fn hand_over(&self, tunnel: Tunnel) {
        tunnel.run_upgraded(self.stream.become_tunnel());
    }
}

impl Drop for StreamLine {
    fn drop(&mut self) {
        if let Some(streams) = self.watched.streams.get() {
            streams.close(&self.stream);
        }
    }
}
