//! A connection in use by one request: its own with HTTP/1.1, a share of one with HTTP/2.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::Body;
use hyper::client::conn::http1;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    body::Received,
    upstream::{
        Hear, Want,
        http1::{Claim, Idle},
        http2::{Failed, Shared},
        pool::Pool,
        stream::{Upgraded, Wire},
    },
};

/// A shared connection from which nothing at all has come for so long while a request was waiting is
/// not trusted with further ones: its peer may have vanished without a word.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Nothing of it has left.
    #[error("the request was not sent")]
    Unsent,
    /// The upstream has said that it did nothing with it (RFC 9113 §8.7).
    #[error("the upstream did not look at the request")]
    Unprocessed,
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
pub struct Connection<B> {
    lane: Lane<B>,
    is_reused: bool,
}

enum Lane<B> {
    Http1(Whole<B>),
    Http2(Share<B>),
}

/// A connection of one's own.
struct Whole<B> {
    sender: http1::SendRequest<B>,
    wire: Rc<Wire>,
    id: u64,
    expires: Instant,
    is_spent: bool,
    claim: Option<Claim>,
    pool: Rc<Pool<B>>,
}

/// A place on a shared connection.
struct Share<B> {
    shared: Rc<Shared>,
    pool: Rc<Pool<B>>,
}

impl<B> Connection<B> {
    pub(super) fn whole(pool: &Rc<Pool<B>>, id: u64, idle: Idle<B>, want: Want) -> Self {
        let Idle { sender, wire, expires, is_used, .. } = idle;
        let claim = (want == Want::Http1).then(|| wire.open_claim());
        let whole = Whole { sender, wire, id, expires, is_spent: false, claim, pool: Rc::clone(pool) };
        Self { lane: Lane::Http1(whole), is_reused: is_used }
    }

    pub(super) fn share(pool: &Rc<Pool<B>>, shared: &Rc<Shared>) -> Self {
        shared.streams.set(shared.streams.get() + 1);
        let is_reused = shared.is_used.replace(true);
        let share = Share { shared: Rc::clone(shared), pool: Rc::clone(pool) };
        Self { lane: Lane::Http2(share), is_reused }
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

    /// Whether WebSockets can go over it as extended CONNECT (RFC 8441).
    pub fn takes_extended_connect(&self) -> bool {
        match &self.lane {
            Lane::Http1(_) => false,
            Lane::Http2(share) => share.shared.takes_extended_connect(),
        }
    }

    /// Whether the connection has carried a request before, so that the upstream may have closed it.
    pub fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// Bytes that have left over this connection so far, also for others that share it.
    pub fn sent_bytes(&self) -> u64 {
        match &self.lane {
            Lane::Http1(whole) => whole.wire.sent_bytes(),
            Lane::Http2(share) => share.shared.wire.sent_bytes(),
        }
    }

    /// The connection is not to be used again after this request.
    pub fn retire(&mut self) {
        match &mut self.lane {
            Lane::Http1(whole) => whole.is_spent = true,
            Lane::Http2(share) => share.pool.forget(&share.shared),
        }
    }

    /// Gives the connection back once its response has been read to the end. A connection of one's own
    /// that is dropped instead closes; of a shared one only the request's stream does.
    pub fn give_back(self) {
        let Lane::Http1(whole) = self.lane else { return };
        if whole.is_spent {
            return;
        }
        let Whole { sender, wire, id, expires, pool, .. } = whole;
        pool.keep(id, Idle { sender, wire, since: Instant::now(), expires, is_used: true });
    }

    /// The bytes of a connection whose upstream has answered 101, with those that were read already.
    /// `None` when it is gone, or when it was not asked for as [`Want::Http1`].
    pub fn into_upgraded(self) -> impl Future<Output = Option<Upgraded>> {
        let (reply, upgraded) = oneshot::channel();
        if let Lane::Http1(Whole { claim: Some(claim), .. }) = self.lane {
            let _ = claim.send(reply);
        }
        async move { upgraded.await.ok() }
    }
}

impl<B> Connection<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    /// Sends one request, written for HTTP/1.1 whatever the connection speaks. Gives informational
    /// responses to `hear`.
    ///
    /// # Errors
    /// [`SendError`], which says whether the upstream may have acted.
    pub fn send<H: Hear>(
        &mut self,
        request: Request<B>,
        hear: H,
    ) -> impl Future<Output = Result<Response<Received>, SendError>> + use<B, H> {
        let is_reused = self.is_reused;
        let sending = match &mut self.lane {
            Lane::Http1(whole) => Sending::Http1(whole.send(request, hear), Rc::clone(&whole.wire)),
            Lane::Http2(share) => Sending::Http2(share.send(request, hear), Rc::clone(&share.shared.wire)),
        };
        async move {
            let (outcome, wire) = match sending {
                Sending::Http1(sending, wire) => (sending.await, wire),
                Sending::Http2(sending, wire) => (sending.await, wire),
            };
            match outcome {
                Err(_) if !is_reused && wire.has_tls_failed() => Err(SendError::Tls),
                outcome => outcome,
            }
        }
    }
}

/// The two ways to wait for a response.
enum Sending<F, G> {
    Http1(F, Rc<Wire>),
    Http2(G, Rc<Wire>),
}

impl<B> Whole<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    fn send<H: Hear>(
        &mut self,
        mut request: Request<B>,
        hear: H,
    ) -> impl Future<Output = Outcome> + use<B, H> {
        hyper::ext::on_informational(&mut request, move |interim| {
            hear.heard(interim.status(), interim.headers());
        });
        let sending = self.sender.try_send_request(request);
        async move {
            match sending.await {
                Ok(response) => Ok(response.map(Received::Http1)),
                Err(mut error) => Err(match error.take_message() {
                    Some(_) => SendError::Unsent,
                    None => SendError::Http1(error.into_error()),
                }),
            }
        }
    }
}

type Outcome = Result<Response<Received>, SendError>;

impl<B> Share<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error,
{
    fn send<H: Hear>(&self, request: Request<B>, hear: H) -> impl Future<Output = Outcome> + use<B, H> {
        let awaiting = Awaiting {
            shared: Rc::clone(&self.shared),
            pool: Rc::clone(&self.pool),
            since: Instant::now(),
            received_bytes: self.shared.wire.received_bytes(),
            is_over: false,
        };
        async move {
            let outcome = awaiting.shared.send(request, hear).await;
            awaiting.finish(outcome)
        }
    }
}

/// A request on a shared connection until its response comes.
struct Awaiting<B> {
    shared: Rc<Shared>,
    pool: Rc<Pool<B>>,
    since: Instant,
    /// What had come when the request was sent.
    received_bytes: u64,
    is_over: bool,
}

impl<B> Awaiting<B> {
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
                Err(if is_unprocessed(&error) { SendError::Unprocessed } else { SendError::Http2(error) })
            }
        }
    }
}

/// A wait that was given up.
impl<B> Drop for Awaiting<B> {
    fn drop(&mut self) {
        let is_silent = self.shared.wire.received_bytes() == self.received_bytes;
        if !self.is_over && is_silent && self.since.elapsed() >= SILENCE_MAX {
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

impl<B> Drop for Share<B> {
    fn drop(&mut self) {
        let left = self.shared.streams.get().saturating_sub(1);
        self.shared.streams.set(left);
        if left == 0 {
            self.shared.since.set(Instant::now());
            self.pool.rest(&self.shared);
        }
    }
}
