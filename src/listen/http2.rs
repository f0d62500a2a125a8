//! Serving a connection that speaks HTTP/2.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use h2::{
    Reason, RecvStream,
    server::{self, SendResponse},
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;

use crate::{
    body::{self, Duplex, Received, Unsent, Wanted},
    caller::Caller,
    clock,
    listen::{
        Limits,
        frames::Frames,
        isolated::Isolated,
        streams::{Paced, Stream, Streams},
        transport::Transport,
        watched::{End, Ending, Watched},
        withdrawals::Withdrawals,
    },
    proxy::{
        self, Held, Inbound, Interim, Line,
        answer::Answer,
        fault::{BadRequest, Fault},
        headers, target,
        tunnel::Tunnel,
        worker::Worker,
    },
};

/// What the library may hold of one answer while the caller makes no room for it.
const SEND_BUFFER_MAX: usize = 64 * 1024;
/// The library refuses a longer header list with a 431 of its own, which has no words and that nobody counts. So it
/// reads more than a request may have, and what is beyond that is refused here.
const READ_PER_HEADER_BYTE: u32 = 2;
/// What a field counts beside its bytes (RFC 9113 §6.5.2).
const FIELD_OVERHEAD: usize = 32;
/// Streams that a caller resets before the library hands them over; then the connection ends
/// (CVE-2023-44487). Those that it has handed over are counted as [`Withdrawals`].
const PENDING_RESETS_MAX: usize = 20;
/// Streams that the caller makes us reset; then the connection ends (CVE-2025-8671).
const OWN_RESETS_MAX: usize = 200;
/// What the library lets unread pieces of uploads lack of 256 bytes each, for a byte of the connection's
/// window; a piece takes about that much memory, however short it is. Its own measure, half the window,
/// ends the connection of an honest caller that sends 3,000 messages of ten bytes at once. With this one a
/// stream's whole window may come in pieces of eight.
const PIECES_LACK_PER_BYTE: usize = 2;
/// Informational responses on one stream. Nothing but the caller's reading takes them out of memory.
const INTERIM_BYTES_MAX: usize = 16 * 1024;

/// Serves `transport`, of which `early` has been read, until the connection ends.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    watched: &Rc<Watched>,
    limits: &Limits,
    (transport, early): (Transport, Vec<u8>),
    caller: Caller,
) {
    let streams = watched.streams.get_or_init(Streams::new);
    let withdrawals = Rc::new(Withdrawals::new());
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(limits.http2_streams)
        .initial_window_size(limits.http2_stream_window)
        .initial_connection_window_size(limits.http2_connection_window)
        .max_header_list_size(limits.http2_header_bytes.saturating_mul(READ_PER_HEADER_BYTE))
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(Some(OWN_RESETS_MAX))
        .max_send_buffer_size(SEND_BUFFER_MAX)
        .data_frame_budget(limits.http2_connection_window as usize * PIECES_LACK_PER_BYTE)
        .enable_connect_protocol();
    let conversing = async {
        let mut connection = builder.handshake(Frames::new(transport, early, watched)).await?;
        let (mut has_left, mut is_flooded) = (false, false);
        let mut next = async || {
            poll_fn(|cx| {
                if streams.leaves() && !has_left {
                    has_left = true;
                    connection.graceful_shutdown();
                }
                if withdrawals.is_exceeded() && !is_flooded {
                    is_flooded = true;
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                }
                connection.poll_accept(cx)
            })
            .await
        };
        while let Some(accepted) = next().await {
            let (request, reply) = accepted?;
            watched.served.set(watched.served.get() + 1);
            let stream = streams.open(reply.stream_id().as_u32());
            let side = Side::new(watched, &withdrawals, stream, reply);
            let refused = judge(&request, limits);
            let answering = answer(Rc::clone(worker), caller, request, refused, side);
            // Ends with the stream, or when the watch gives it up. Dropping it resets the stream.
            tokio::task::spawn_local(answering);
        }
        Ok::<_, h2::Error>(())
    };
    let mut conversing = pin!(conversing);
    let ended = poll_fn(|cx| {
        if watched.end.get() != End::No {
            return Poll::Ready(Ok(()));
        }
        watched.wake_by(cx);
        conversing.as_mut().poll(cx)
    });
    if let Err(error) = ended.await {
        // Over what the caller sent.
        if error.is_library() && !error.is_io() {
            watched.blame(Ending::Http2);
        }
        tracing::debug!(%error, %caller, "connection ended");
    }
}

/// Serves one stream: its request, its answer and what may come behind it.
async fn answer(
    worker: Rc<Worker>,
    caller: Caller,
    request: Request<RecvStream>,
    refused: Option<Fault>,
    side: Rc<Side>,
) {
    let is_head = request.method() == Method::HEAD;
    let (request, receiving) = opened(request, &side);
    let inbound = Inbound { request, refused, caller, line: Held::new(Rc::clone(&side) as Rc<dyn Line>) };
    let responding = Isolated::begin(|| proxy::respond(worker, inbound));
    let Some(answer) = side.unless_reset(responding).await else {
        return;
    };
    let stream = Rc::clone(&side.stream);
    stream.begin_answer();
    let (mut head, answer) = answer.into_parts();
    complete(&mut head.headers, &answer, is_head);
    let tunnel = side.tunnel.take();
    let is_whole = tunnel.is_none() && answer.is_end_stream();
    let sent = side.reply.borrow_mut().send_response(Response::from_parts(head, ()), is_whole);
    // Nothing of this stream but its clock is needed any more; the record may hold the rest longer.
    let sending = match sent {
        Ok(sending) => sending,
        Err(error) => {
            tracing::debug!(%error, "no answer on a stream");
            // An upload may have told of the reset first.
            let withdrawn = poll_fn(|cx| Poll::Ready(side.poll_withdrawn(cx)));
            if withdrawn.await.is_pending() {
                side.reply.borrow_mut().send_reset(Reason::INTERNAL_ERROR);
            }
            return;
        }
    };
    match (tunnel, receiving) {
        (Some(tunnel), Some(receiving)) => {
            // A tunnel watches its own time.
            let pieces = stream.become_tunnel();
            let was_silent = tunnel.counted_by(pieces).run(Duplex::new(sending, receiving), Vec::new()).await;
            side.watched.shard.lost_streams.add(u64::from(was_silent));
            stream.finish();
        }
        _ if is_whole => side.answered(),
        _ => {
            let paced = Paced { answer, stream: Rc::clone(&stream), broken: None };
            let sending = body::send(paced, sending, Reason::INTERNAL_ERROR);
            match stream.unless_cancelled(sending).await {
                Some(Ok(())) => side.answered(),
                Some(Err(error)) => {
                    if matches!(error, Unsent::Stream(_)) {
                        side.withdrawn();
                    }
                    tracing::debug!(%error, "an answer was not sent to its end");
                }
                None => {}
            }
        }
    }
}

/// The request as the proxy knows one. The bytes of a CONNECT are no body; they wait for its answer.
///
/// Who waits for leave to send the body gets it when somebody begins to read (RFC 9110 §10.1.1).
fn opened(request: Request<RecvStream>, side: &Rc<Side>) -> (Request<Received>, Option<RecvStream>) {
    let (head, stream) = request.into_parts();
    if head.method == Method::CONNECT {
        return (Request::from_parts(head, Received::Empty), Some(stream));
    }
    let expectation = head.headers.get(header::EXPECT);
    let waits = expectation.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let wanted = waits.then(|| {
        let side = Rc::downgrade(side);
        Box::new(move || {
            if let Some(side) = side.upgrade() {
                side.inform(&Interim { status: StatusCode::CONTINUE, headers: HeaderMap::new() });
            }
        }) as Wanted
    });
    let body = Received::of_request(stream, &head.headers, wanted);
    (Request::from_parts(head, body), None)
}

/// What every answer has (RFC 9110 §6.6.1, §8.6), and nothing that HTTP/2 does not know
/// (RFC 9113 §8.2.2).
fn complete(headers: &mut HeaderMap, answer: &Answer, is_head: bool) {
    for field in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(field);
    }
    if let (false, false, Some(bytes)) = (is_head, answer.is_end_stream(), answer.size_hint().exact()) {
        headers.entry(header::CONTENT_LENGTH).or_insert_with(|| bytes.into());
    }
    if !headers.contains_key(header::DATE)
        && let Ok(now) = HeaderValue::try_from(httpdate::fmt_http_date(clock::wall()))
    {
        headers.insert(header::DATE, now);
    }
    gather(headers);
}

/// Puts all values into one piece of memory of their own. The library keeps some of them in the connection's
/// table, where each would hold the whole buffer that the upstream's answer was read into, some 8 KiB.
fn gather(headers: &mut HeaderMap) {
    let mut all = BytesMut::with_capacity(headers.values().map(HeaderValue::len).sum());
    for value in headers.values_mut() {
        all.extend_from_slice(value.as_bytes());
        if let Ok(mut own) = HeaderValue::from_maybe_shared(all.split().freeze()) {
            own.set_sensitive(value.is_sensitive());
            *value = own;
        }
    }
}

/// What the library lets pass and this gateway does not: it bounds a header block's bytes, not its
/// fields, takes targets that no request line could hold and names that are none, and RFC 9113 §8.2.1 forbids
/// white space around values.
fn judge(request: &Request<RecvStream>, limits: &Limits) -> Option<Fault> {
    let (fields, target) = (request.headers(), request.uri().path_and_query());
    let is_padded = |value: &HeaderValue| value.as_bytes().trim_ascii().len() != value.len();
    if fields.len() > limits.headers || list_bytes(request) > limits.http2_header_bytes as usize {
        Some(Fault::HeadersTooLarge)
    } else if target.is_some_and(|target| target.as_str().len() > limits.uri_bytes) {
        Some(Fault::UriTooLong)
    } else if !target.is_none_or(target::is_written_in_full) {
        Some(Fault::BadRequest(BadRequest::Target))
    } else if fields.values().any(is_padded) {
        Some(Fault::BadRequest(BadRequest::Framing("a header value begins or ends with white space")))
    } else if headers::has_quoted_name(fields) {
        Some(Fault::BadRequest(BadRequest::Framing("a header name holds a quotation mark")))
    } else {
        None
    }
}

/// The size of a request's header list, pseudo-header fields included (RFC 9113 §6.5.2).
fn list_bytes(request: &Request<RecvStream>) -> usize {
    let uri = request.uri();
    let pseudo = [
        (":method", request.method().as_str()),
        (":scheme", uri.scheme_str().unwrap_or_default()),
        (":authority", uri.authority().map_or("", |authority| authority.as_str())),
        (":path", uri.path_and_query().map_or("", |target| target.as_str())),
    ];
    let pseudo = pseudo.iter().map(|(name, value)| name.len() + value.len());
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    pseudo.chain(fields).map(|bytes| bytes + FIELD_OVERHEAD).sum()
}

/// The caller's side of one request on an HTTP/2 connection.
struct Side {
    watched: Rc<Watched>,
    stream: Rc<Stream>,
    withdrawals: Rc<Withdrawals>,
    is_withdrawn: Cell<bool>,
    reply: RefCell<SendResponse<Bytes>>,
    tunnel: Cell<Option<Tunnel>>,
    interim_bytes: Cell<usize>,
}

impl Side {
    fn new(
        watched: &Rc<Watched>,
        withdrawals: &Rc<Withdrawals>,
        stream: Rc<Stream>,
        reply: SendResponse<Bytes>,
    ) -> Rc<Self> {
        Rc::new(Self {
            watched: Rc::clone(watched),
            withdrawals: Rc::clone(withdrawals),
            is_withdrawn: Cell::default(),
            stream,
            reply: RefCell::new(reply),
            tunnel: Cell::default(),
            interim_bytes: Cell::default(),
        })
    }

    /// The outcome of `answering`, unless the caller resets the stream before, the connection is gone, or
    /// the watch gives the stream up.
    async fn unless_reset<T>(&self, answering: impl Future<Output = T>) -> Option<T> {
        let mut answering = pin!(answering);
        let answered = poll_fn(|cx: &mut Context<'_>| {
            if let Poll::Ready(answer) = answering.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            self.poll_withdrawn(cx).map(|()| None)
        });
        self.stream.unless_cancelled(answered).await.flatten()
    }

    /// Ready when the stream is reset or the connection is gone, which counts.
    fn poll_withdrawn(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.reply.borrow_mut().poll_reset(cx).map(|_| self.withdrawn())
    }

    /// The library has the answer to its end.
    fn answered(&self) {
        self.stream.finish();
        if !self.is_withdrawn.get() {
            self.withdrawals.answered();
        }
    }

    /// The request was taken back before it was answered, or is as good as taken back.
    fn withdrawn(&self) {
        if !self.is_withdrawn.replace(true) && self.withdrawals.withdrawn() {
            self.watched.blame(Ending::Flood);
            self.watched.wake();
        }
    }
}

impl Line for Side {
    fn is_tls(&self) -> bool {
        self.watched.tls.get().is_some()
    }

    fn is_misdirected(&self, host: &str) -> bool {
        self.watched.tls.get().is_some_and(|tls| tls.is_misdirected(host))
    }

    fn inform(&self, interim: &Interim) {
        let bytes: usize =
            interim.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let so_far = self.interim_bytes.get() + bytes;
        if so_far > INTERIM_BYTES_MAX {
            return;
        }
        self.interim_bytes.set(so_far);
        let mut response = Response::new(());
        *response.status_mut() = interim.status;
        response.headers_mut().clone_from(&interim.headers);
        if let Err(error) = self.reply.borrow_mut().send_informational(response) {
            tracing::debug!(%error, "an informational response was not passed on");
        }
    }

    fn hand_over(&self, tunnel: Tunnel) {
        self.tunnel.set(Some(tunnel));
    }

    fn spoil(&self) {
        self.withdrawn();
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if let Some(streams) = self.watched.streams.get() {
            streams.close(&self.stream);
        }
    }
}
