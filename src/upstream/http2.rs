//! HTTP/2 on a connection to an upstream: many requests at a time, each on a stream of its own.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{self, SendRequest},
};
use http::{
    HeaderMap, Method, Request, Response, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE},
    uri::{Authority, PathAndQuery},
};
use http_body::{Body, Frame, SizeHint};
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    body::{self, Duplex, Received},
    upstream::{
        Closing, Upstream,
        connect::ConnectError,
        interims::Interims,
        stream::{Stream, Wire},
    },
};

/// What an upstream may send of one response before we have passed it on. Enough for a fast transfer
/// over some distance (100 ms at 20 Mbit/s).
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all responses of a connection: as much as they may have together. With less, callers that do not read
/// what they asked for would hold up everybody else's answers.
const CONNECTION_WINDOW: u32 = STREAMS_MAX as u32 * STREAM_WINDOW;
/// What the library lets pieces of responses that no caller has read yet lack of 256 bytes each, which is
/// about what a piece takes in memory. Its own measure, half the window, ends the connection, and everybody's
/// requests with it, when callers do not read their short events. With this one all windows may come in pieces
/// of 86 bytes, and those of twelve streams in pieces of 16.
const PIECES_LACK_MAX: usize = 2 * CONNECTION_WINDOW as usize;
/// A response's fields, and its trailers; as much as over HTTP/1.1.
const HEADER_LIST_MAX: u32 = 64 * 1024;
/// How long the rest of an upload may stand still when everybody has gone.
const STALL_LIMIT: Duration = Duration::from_secs(10);
/// Streams of one connection, whatever the peer allows: one lost packet holds up all of them.
pub(super) const STREAMS_MAX: usize = 100;

/// A connection from which nothing at all has come for so long while a request was waiting gets no further ones until
/// something comes: its peer may have vanished without a word.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// What the peer's limit is taken for until it has said something: more than a number on the wire can
/// say, so that it tells whether the peer's settings are there.
const UNSETTLED: usize = usize::MAX - 1;
/// So long a new connection waits for the peer's settings, which are the first thing it has to send
/// (RFC 9113 §3.4). Without them nobody knows how many requests it takes.
const SETTINGS_LIMIT: Duration = Duration::from_secs(1);

/// A connection that several requests share. It closes when the pool and all of them have let it go.
pub(super) struct Shared {
    sender: RefCell<SendRequest<Bytes>>,
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
    /// When a request began to wait behind which nothing has come, and what had come by then.
    asked: Cell<Option<(Instant, u64)>>,
}

impl Shared {
    /// Whether it may carry further requests, now or later.
    pub(super) fn is_fit(&self, now: Instant) -> bool {
        if self.is_closed() || self.wire.is_unfit() {
            return false;
        }
        if now >= self.expires {
            self.wire.close_because(Closing::MaxAge);
        }
        now < self.expires
    }

    /// Whether the connection takes no more requests: it is gone, or its peer has said that it goes.
    fn is_closed(&self) -> bool {
        // A sender that has sent nothing is ready at once or never, so nobody has to be woken.
        let mut cx = Context::from_waker(Waker::noop());
        matches!(self.sender.borrow_mut().poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// A request waits for its response from now on.
    pub(super) fn ask(&self) {
        let received_bytes = self.wire.received_bytes();
        // If nothing has come, a request was given up before: its wait counts, or one impatient caller would stay here.
        if self.asked.get().is_none_or(|(_, bytes)| bytes != received_bytes) {
            self.asked.set(Some((Instant::now(), received_bytes)));
        }
    }

    /// Whether nothing has come for long, though a request waits.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        let asked = self.asked.get().filter(|(_, bytes)| *bytes == self.wire.received_bytes());
        self.streams.get() > 0 && asked.is_some_and(|(at, _)| now - at >= SILENCE_MAX)
    }

    /// Whether it may carry one more now.
    pub(super) fn has_room(&self) -> bool {
        self.streams.get() < self.streams_max()
    }

    /// Requests that it may carry at a time.
    pub(super) fn streams_max(&self) -> usize {
        self.sender.borrow().current_max_send_streams().min(STREAMS_MAX)
    }

    /// Waits for the peer's settings, but not for long: without them it works as well.
    async fn settled(&self) -> Result<(), ConnectError> {
        let heard = poll_fn(|cx| {
            let has_said = self.sender.borrow().current_max_send_streams() != UNSETTLED;
            if has_said || self.wire.has_ended() || self.is_closed() {
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
        self.sender.borrow().is_extended_connect_protocol_enabled()
    }

    /// Sends a request, written for HTTP/1.1, and waits for its response's head. Informational responses
    /// go to `interims`. Its body may still be on its way then, which `upload` tells.
    ///
    /// # Errors
    /// [`Failed`], which says whether anything has left.
    pub(super) async fn send<B>(
        &self,
        mut request: Request<B>,
        interims: Interims,
        upload: &Upload,
    ) -> Result<Response<Received>, Failed>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: std::error::Error,
    {
        translate(&mut request, &self.upstream);
        let is_connect = request.method() == Method::CONNECT;
        let (mut head, body) = request.into_parts();
        if let Some(bytes @ 1..) = body.size_hint().exact() {
            head.headers.entry(CONTENT_LENGTH).or_insert_with(|| bytes.into());
        }
        let is_whole = !is_connect && body.is_end_stream();
        let mut sender = self.sender.borrow().clone();
        let sent = match poll_fn(|cx| sender.poll_ready(cx)).await {
            Ok(()) => sender.send_request(Request::from_parts(head, ()), is_whole),
            Err(error) => Err(error),
        };
        let (mut answering, sending) = sent.map_err(Failed::Unsent)?;
        let sending = if is_connect || is_whole {
            Some(sending)
        } else {
            upload.begin(body, sending).await;
            None
        };
        let response = poll_fn(|cx| {
            while let Poll::Ready(Some(interim)) = answering.poll_informational(cx) {
                match interim {
                    Ok(interim) => interims.heard(interim.status(), interim.headers()),
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            Pin::new(&mut answering).poll(cx)
        });
        let response = response.await.map_err(Failed::Sent)?;
        Ok(received(response, sending.filter(|_| is_connect)))
    }
}

/// Why there is no response.
pub(super) enum Failed {
    /// Nothing of the request has left.
    Unsent(h2::Error),
    /// Some of it may have.
    Sent(h2::Error),
}

/// A response, whose stream is bytes in both directions where those were asked for and agreed to.
fn received(response: Response<RecvStream>, sending: Option<SendStream<Bytes>>) -> Response<Received> {
    let (head, receiving) = response.into_parts();
    let body = match sending {
        Some(sending) if head.status.is_success() => Received::Duplex(Duplex::new(sending, receiving)),
        _ => Received::of_response(receiving, &head.headers),
    };
    Response::from_parts(head, body)
}

/// A request's body on its way, for those who answer for it: the wait for the response, and then who has the
/// response. Nobody else would notice that the upstream never takes the rest.
#[derive(Clone, Default)]
pub(super) struct Upload(Rc<Cell<Option<Going>>>);

/// An upload that has a task of its own.
struct Going {
    task: JoinHandle<()>,
    /// Pieces of the body that have been taken.
    taken: Rc<Cell<u64>>,
}

impl Upload {
    /// Sends what is there at once, and the rest on a task of its own.
    async fn begin<B>(&self, body: B, sending: SendStream<Bytes>)
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: std::error::Error,
    {
        let taken = Rc::<Cell<u64>>::default();
        let body = Tallied { body, taken: Rc::clone(&taken) };
        let mut sending = Box::pin(body::send(body, sending, Reason::CANCEL));
        if poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx).is_ready())).await {
            return;
        }
        // Ends with the body, with the stream, or when it is aborted.
        let task = tokio::task::spawn_local(async move {
            if let Err(error) = sending.await {
                tracing::debug!(%error, "a request body was not sent to its end");
            }
        });
        self.0.set(Some(Going { task, taken }));
    }

    /// The response has been read, or is not wanted: nobody waits for the rest of the upload, but an upstream
    /// that takes it gets it. Gives the wait for its end, if it has not ended.
    pub(super) fn wind_up(&self) -> Option<impl Future<Output = ()> + use<>> {
        let mut going = self.0.take().filter(|going| !going.task.is_finished())?;
        Some(async move {
            loop {
                let before = going.taken.get();
                // An end is an end, whatever it was like.
                if tokio::time::timeout(STALL_LIMIT, &mut going.task).await.is_ok() {
                    return;
                }
                if going.taken.get() == before {
                    return going.task.abort();
                }
            }
        })
    }

    /// Resets the stream unless all of the body has left.
    pub(super) fn end(&self) {
        if let Some(going) = self.0.take() {
            going.task.abort();
        }
    }
}

/// A body whose pieces are counted.
struct Tallied<B> {
    body: B,
    taken: Rc<Cell<u64>>,
}

impl<B: Body + Unpin> Body for Tallied<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        this.taken.set(this.taken.get() + u64::from(frame.is_ready()));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Begins HTTP/2 on `stream`.
///
/// # Errors
/// When the peer closes before it has said anything in HTTP/2.
pub(super) async fn begin(
    stream: Stream,
    upstream: &Arc<Upstream>,
    number: u64,
    expires: Instant,
) -> Result<Rc<Shared>, ConnectError> {
    let wire = stream.wire();
    let (sender, connection) = client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .data_frame_budget(PIECES_LACK_MAX)
        .max_header_list_size(HEADER_LIST_MAX)
        .initial_max_send_streams(UNSETTLED)
        .enable_push(false)
        .handshake(stream)
        .await
        .map_err(|e| ConnectError::Unreachable(Rc::new(io::Error::other(e))))?;
    // Ends by itself when the connection closes or its last sender is dropped.
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "upstream connection ended");
        }
    });
    let shared = Rc::new(Shared {
        sender: RefCell::new(sender),
        wire,
        upstream: Arc::clone(upstream),
        number,
        streams: Cell::new(0),
        since: Cell::new(Instant::now()),
        is_used: Cell::new(false),
        expires,
        asked: Cell::default(),
    });
    shared.settled().await?;
    Ok(shared)
}

/// Turns a request for HTTP/1.1 into one for HTTP/2 (RFC 9113 §8.3.1): `Host` becomes the authority.
fn translate<B>(request: &mut Request<B>, upstream: &Upstream) {
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

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    /// How long an upload is waited for of which a piece leaves each second, `pieces` in all, and then nothing any
    /// more, or its end.
    async fn lasts(pieces: u64, ends: bool) -> Duration {
        let (taken, upload) = (Rc::<Cell<u64>>::default(), Upload::default());
        let (counted, (lives, over)) = (Rc::clone(&taken), oneshot::channel::<()>());
        let task = tokio::task::spawn_local(async move {
            let _lives = lives;
            for number in 1..=pieces {
                tokio::time::sleep(Duration::from_secs(1)).await;
                counted.set(number);
            }
            if !ends {
                std::future::pending::<()>().await;
            }
        });
        upload.0.set(Some(Going { task, taken }));
        let begun = Instant::now();
        upload.wind_up().expect("it is under way").await;
        let lasted = begun.elapsed();
        assert!(over.await.is_err(), "it is over in both cases");
        lasted
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_nobody_waits_for_ends_when_it_stands_still() {
        let lasting = async {
            assert_eq!(lasts(0, false).await, STALL_LIMIT);
            assert_eq!(lasts(25, false).await, 4 * STALL_LIMIT);
        };
        tokio::task::LocalSet::new().run_until(lasting).await;
    }

    /// Its place on the connection was kept until the next look.
    #[tokio::test(start_paused = true)]
    async fn an_upload_that_comes_to_its_end_is_not_waited_for_any_longer() {
        let lasting = async { assert_eq!(lasts(3, true).await, Duration::from_secs(3)) };
        tokio::task::LocalSet::new().run_until(lasting).await;
    }
}
