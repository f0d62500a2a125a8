//! A connection in use by one request: its own with HTTP/1.1, a share of one with HTTP/2.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use http::{Request, Response, Version};
use hyper::{body::Incoming, client::conn::TrySendError};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::{
    body::{self, Received},
    upstream::{
        Sendable,
        departures::Departures,
        driven::Driven,
        http1::Idle,
        http2::{Failed, Shared, Upload},
        interims::Interims,
        pool::Pool,
        stream::{Upgraded, Wire},
    },
};

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Nothing of it has left.
    #[error("the request was not sent")]
    Unsent,
    /// The upstream has said that it did nothing with it (RFC 9113 §8.7).
    #[error("the upstream did not look at the request")]
    Unprocessed,
    /// This request was ended, and nothing else of its connection: by the upstream, or because what came was no
    /// answer.
    #[error(transparent)]
    Reset(h2::Error),
    /// TLS has failed before a first response. With TLS 1.3 that is when an upstream refuses our
    /// certificate, or the lack of one.
    #[error("TLS with the upstream failed after its handshake")]
    Tls,
    /// The upstream may have acted, over HTTP/1.1.
    #[error(transparent)]
    Http1(hyper::Error),
    /// The same over HTTP/2.
    #[error(transparent)]
    Http2(h2::Error),
}

/// A connection in use by one request.
pub struct Connection<B: Sendable> {
    lane: Lane<B>,
    /// This request is its first.
    is_new: bool,
    /// It was there before this request came.
    is_found: bool,
}

enum Lane<B: Sendable> {
    Http1(Whole<B>),
    Http2(Share<B>),
}

/// A connection of one's own.
struct Whole<B: Sendable> {
    idle: Idle<B>,
    id: u64,
    is_spent: bool,
    pool: Rc<Pool<B>>,
}

/// A place on a shared connection.
struct Share<B: Sendable> {
    shared: Rc<Shared>,
    interims: Interims,
    upload: Upload,
    pool: Rc<Pool<B>>,
}

impl<B: Sendable> Connection<B> {
    pub(super) fn whole(pool: &Rc<Pool<B>>, id: u64, idle: Idle<B>) -> Self {
        let is_new = !idle.is_used;
        let whole = Whole { idle, id, is_spent: false, pool: Rc::clone(pool) };
        Self { lane: Lane::Http1(whole), is_new, is_found: false }
    }

    pub(super) fn share(pool: &Rc<Pool<B>>, shared: &Rc<Shared>) -> Self {
        shared.streams.set(shared.streams.get() + 1);
        let is_new = !shared.is_used.replace(true);
        let (shared, pool) = (Rc::clone(shared), Rc::clone(pool));
        let share = Share { shared, interims: Interims::default(), upload: Upload::default(), pool };
        Self { lane: Lane::Http2(share), is_new, is_found: false }
    }

    /// It lay in the pool, maybe without ever having carried a request: who wanted it had hung up.
    pub(super) fn found(self) -> Self {
        Self { is_found: true, ..self }
    }

    /// The number of a shared connection.
    pub(super) fn number(&self) -> Option<u64> {
        match &self.lane {
            Lane::Http1(_) => None,
            Lane::Http2(share) => Some(share.shared.number),
        }
    }

    /// HTTP/1.1 or HTTP/2.
    pub fn version(&self) -> Version {
        match &self.lane {
            Lane::Http1(_) => Version::HTTP_11,
            Lane::Http2(_) => Version::HTTP_2,
        }
    }

    /// Whether a WebSocket can begin on it: over HTTP/2 as extended CONNECT (RFC 8441), if the upstream has
    /// said so.
    pub fn takes_handshakes(&self) -> bool {
        match &self.lane {
            Lane::Http1(_) => true,
            Lane::Http2(share) => share.shared.takes_extended_connect(),
        }
    }

    /// Whether the connection was there before, so that the upstream may have closed it.
    pub fn is_reused(&self) -> bool {
        self.is_found || !self.is_new
    }

    /// Bytes that have left over this connection so far, also for others that share it.
    pub fn sent_bytes(&self) -> u64 {
        match &self.lane {
            Lane::Http1(whole) => whole.idle.wire.sent_bytes(),
            Lane::Http2(share) => share.shared.wire.sent_bytes(),
        }
    }

    /// Whether part of the request waits until the upstream reads. Of a shared connection that is not asked:
    /// it moves by itself.
    pub fn is_blocked(&self) -> bool {
        matches!(&self.lane, Lane::Http1(whole) if whole.idle.wire.is_blocked())
    }

    /// The connection is not to be used again after this request.
    pub fn retire(&mut self) {
        match &mut self.lane {
            Lane::Http1(whole) => whole.is_spent = true,
            Lane::Http2(share) => share.pool.forget(&share.shared),
        }
    }

    /// Gives the connection back once its response has been read to the end. A connection of one's own
    /// that is dropped instead closes; of a shared one only the request's stream does, in both cases.
    pub fn give_back(self) {
        let Lane::Http1(Whole { mut idle, id, is_spent, pool }) = self.lane else { return };
        if is_spent {
            return;
        }
        idle.since = Instant::now();
        idle.is_used = true;
        pool.keep(id, idle);
    }

    /// The same where the request's body may still be on its way, which the upstream gets as long as it takes
    /// it. A connection of one's own is free only when the body `is_sent`.
    pub fn leave(self, is_sent: bool) {
        match &self.lane {
            Lane::Http1(_) if is_sent => self.give_back(),
            Lane::Http1(_) => {}
            Lane::Http2(share) => {
                let Some(ended) = share.upload.wind_up() else { return };
                // Ends with the upload, or some seconds after that moved last. Until then the stream is there,
                // and counts.
                tokio::task::spawn_local(async move {
                    ended.await;
                    drop(self);
                });
            }
        }
    }

    /// Nobody may wait for the connection from now on, but it shall move: a response that nobody reads must
    /// not hold up the request's body. What moves by itself tells no next request what comes before its
    /// answer, and cannot be taken over by a WebSocket: this request is its last.
    pub fn let_go(&mut self) {
        if let Lane::Http1(whole) = &mut self.lane {
            whole.idle.driven.let_go();
            whole.is_spent = true;
        }
    }

    /// The bytes of an HTTP/1.1 connection whose upstream has answered 101, with those that were read
    /// already. `None` when it is gone.
    pub async fn into_upgraded(self) -> Option<Upgraded> {
        match &self.lane {
            Lane::Http1(whole) => whole.idle.driven.upgraded().await,
            Lane::Http2(_) => None,
        }
    }
}

impl<B: Sendable> Connection<B> {
    /// Informational responses to the next request, or to the one that is on its way.
    pub fn interims(&self) -> Interims {
        match &self.lane {
            Lane::Http1(whole) => whole.idle.interims.clone(),
            Lane::Http2(share) => share.interims.clone(),
        }
    }

    /// Sends one request, written for HTTP/1.1 whatever the connection speaks.
    ///
    /// # Errors
    /// [`SendError`], which says whether the upstream may have acted.
    pub fn send(
        &mut self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Received>, SendError>> + use<B> {
        match &mut self.lane {
            Lane::Http1(whole) => Sending::Http1 {
                // A body comes by its caller's task, which would be woken when anybody else takes of it.
                departures: request.body().is_end_stream().then(|| Rc::clone(whole.pool.departures())),
                sending: whole.send(request),
                driven: Rc::clone(&whole.idle.driven),
                new: self.is_new.then(|| Rc::clone(&whole.idle.wire)),
            },
            Lane::Http2(share) => Sending::Http2 {
                // Boxed: it is large, and would make every request's future as large.
                sending: Box::pin(share.send(request)),
                new: self.is_new.then(|| Rc::clone(&share.shared.wire)),
            },
        }
    }
}

pin_project! {
    /// A request on its way until its response's head.
    #[project = OnItsWay]
    enum Sending<B: Sendable, F> {
        Http1 {
            #[pin]
            sending: F,
            driven: Rc<Driven<B>>,
            // With whom it leaves, until it is among them.
            departures: Option<Rc<Departures>>,
            new: Option<Rc<Wire>>,
        },
        Http2 { sending: Pin<Box<dyn Future<Output = Outcome>>>, new: Option<Rc<Wire>> },
    }
}

impl<B, F> Future for Sending<B, F>
where
    B: Sendable,
    F: Future<Output = Result<Response<Incoming>, TrySendError<Request<B>>>>,
{
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let (outcome, new) = match self.project() {
            OnItsWay::Http1 { mut sending, driven, departures, new } => {
                if let Some(departures) = departures.take() {
                    driven.begin(cx, &departures);
                    return Poll::Pending;
                }
                let outcome = ready!(driven.poll(cx, |cx| sending.as_mut().poll(cx)));
                (received(outcome, driven), new)
            }
            OnItsWay::Http2 { sending, new } => (ready!(sending.as_mut().poll(cx)), new),
        };
        Poll::Ready(match outcome {
            Err(_) if new.as_ref().is_some_and(|wire| wire.has_tls_failed()) => Err(SendError::Tls),
            outcome => outcome,
        })
    }
}

fn received<B: Sendable>(
    outcome: Result<Response<Incoming>, TrySendError<Request<B>>>,
    driven: &Rc<Driven<B>>,
) -> Outcome {
    match outcome {
        Ok(response) => {
            let driven = Rc::clone(driven);
            Ok(response.map(|body| Received::Driven(body::Driven::new(body, driven))))
        }
        Err(mut error) => Err(match error.take_message() {
            Some(_) => SendError::Unsent,
            None => SendError::Http1(error.into_error()),
        }),
    }
}

impl<B: Sendable> Whole<B> {
    fn send(
        &mut self,
        mut request: Request<B>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<B>>>> + use<B> {
        let Idle { sender, driven, interims, hearing, .. } = &mut self.idle;
        interims.begin();
        request.extensions_mut().extend(hearing.clone());
        driven.mute();
        sender.try_send_request(request)
    }
}

type Outcome = Result<Response<Received>, SendError>;

impl<B: Sendable> Share<B> {
    fn send(&self, request: Request<B>) -> impl Future<Output = Outcome> + use<B> {
        let (interims, upload) = (self.interims.clone(), self.upload.clone());
        self.shared.ask();
        let awaiting =
            Awaiting { shared: Rc::clone(&self.shared), pool: Rc::clone(&self.pool), is_over: false };
        async move {
            let outcome = awaiting.shared.send(request, interims, &upload).await;
            awaiting.finish(outcome)
        }
    }
}

/// A request on a shared connection until its response comes.
struct Awaiting<B: Sendable> {
    shared: Rc<Shared>,
    pool: Rc<Pool<B>>,
    is_over: bool,
}

impl<B: Sendable> Awaiting<B> {
    fn finish(mut self, outcome: Result<Response<Received>, Failed>) -> Outcome {
        self.is_over = true;
        match outcome {
            Ok(response) => Ok(response),
            Err(Failed::Unsent(error)) => {
                tracing::debug!(%error, "a connection takes no more requests");
                self.pool.forget(&self.shared);
                Err(SendError::Unsent)
            }
            Err(Failed::Sent(error)) => {
                if !error.is_reset() {
                    self.pool.forget(&self.shared);
                }
                Err(match error {
                    error if is_unprocessed(&error) => SendError::Unprocessed,
                    // What resets a stream on our side is the caller's body that broke off.
                    error if error.is_reset() && (error.is_remote() || error.is_library()) => {
                        SendError::Reset(error)
                    }
                    error => SendError::Http2(error),
                })
            }
        }
    }
}

/// A wait that was given up.
impl<B: Sendable> Drop for Awaiting<B> {
    fn drop(&mut self) {
        if !self.is_over && self.shared.is_silent(Instant::now()) {
            self.pool.forget(&self.shared);
        }
    }
}

/// RFC 9113 §8.7: the two ways in which a server says that it has not acted. A GOAWAY fails only
/// streams above its last one; one with an error code may be the request's own fault.
fn is_unprocessed(error: &h2::Error) -> bool {
    let reason = if error.is_go_away() { h2::Reason::NO_ERROR } else { h2::Reason::REFUSED_STREAM };
    error.is_remote() && error.reason() == Some(reason)
}

impl<B: Sendable> Drop for Share<B> {
    fn drop(&mut self) {
        // A response that nobody waits for any more, or reads, needs no request body.
        self.upload.end();
        let left = self.shared.streams.get().saturating_sub(1);
        self.shared.streams.set(left);
        if left == 0 {
            self.shared.since.set(Instant::now());
            self.pool.rest(&self.shared);
        }
    }
}
