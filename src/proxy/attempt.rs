//! Sending a request to its upstream, as often as that is safe.

use std::{
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    request,
};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::{
    proxy::{
        fault::{BadRequest, Fault},
        headers,
        record::Record,
        worker::{RouteState, Worker},
    },
    replay::{Attempt, AttemptError, NotReplayable, Recorder},
    upstream::{
        Want,
        connect::ConnectError,
        connection::{Connection, SendError},
    },
};

/// How often one attempt may be sent again. A second time is for a group of servers of which one stops
/// while another has just stopped.
const RESENDS_MAX: usize = 2;

/// The body of one attempt.
pub enum RequestBody {
    /// The request has none.
    Empty,
    /// The caller's, recorded on the way.
    Recorded(Attempt<Incoming>),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = AttemptError<hyper::Error>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Recorded(attempt) => Pin::new(attempt).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Recorded(attempt) => attempt.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Recorded(attempt) => attempt.size_hint(),
        }
    }
}

/// An upstream's response head with what its body still needs.
pub struct Sent {
    /// The response.
    pub response: Response<Incoming>,
    /// The connection that it comes over.
    pub connection: Connection<RequestBody>,
    /// The request's body, to know when the connection is free.
    pub upload: Upload,
}

/// The caller's body, if there is one: tells whether it has been sent completely.
pub type Upload = Option<Rc<Recorder<Incoming>>>;

/// One request on its way to one upstream: its prepared head and its recorded body.
pub struct Exchange {
    worker: Rc<Worker>,
    route: Rc<RouteState>,
    head: request::Parts,
    body: Upload,
}

impl Exchange {
    /// Takes over a prepared head and the caller's body.
    pub fn new(
        worker: &Rc<Worker>,
        route: &Rc<RouteState>,
        mut head: request::Parts,
        body: Incoming,
    ) -> Self {
        head.version = Version::HTTP_11;
        head.extensions.clear();
        let body = (!body.is_end_stream()).then(|| {
            // Without a credential there is nothing to recover, so nothing to record.
            let limit = route.profile().map_or(0, |_| route.settings().replay_limit_bytes);
            Rc::new(Recorder::new(body, limit, worker.budget()))
        });
        Self { worker: Rc::clone(worker), route: Rc::clone(route), head, body }
    }

    /// Whether the request could be sent again.
    ///
    /// # Errors
    /// The reason why not.
    pub fn is_replayable(&self) -> Result<(), NotReplayable> {
        if self.route.settings().replay_limit_bytes == 0 {
            return Err(NotReplayable::Off);
        }
        self.is_resendable()
    }

    /// Whether the body, if there is one, could be sent from its beginning once more.
    fn is_resendable(&self) -> Result<(), NotReplayable> {
        self.body.as_ref().map_or(Ok(()), |body| body.is_replayable())
    }

    /// The recorded body.
    pub fn body(&self) -> &Upload {
        &self.body
    }

    /// Sends the request with `credential` and waits for the response's head.
    ///
    /// A connection that the upstream closed while it was idle is replaced by a new one when nothing
    /// of the request was sent, or when the method allows sending it again (RFC 9110 §9.2.2). So is one
    /// on which the upstream refused the request before it did anything with it (RFC 9113 §8.7).
    ///
    /// # Errors
    /// [`Fault`], when there is no response that could be passed on.
    pub async fn send(
        &mut self,
        credential: Option<HeaderValue>,
        record: &mut Record,
    ) -> Result<Sent, Fault> {
        record.attempted();
        let pool = self.worker.pool();
        let upstream = self.route.upstream();
        let mut connection = pool.connection(upstream, Want::Any).await.map_err(connect_fault)?;
        let mut request = self.request(credential.clone());
        let mut resends = 0;
        loop {
            let (was_reused, sent_bytes) = (connection.is_reused(), connection.sent_bytes());
            let failure = match self.exchange(&mut connection, request).await {
                Ok(response) => {
                    record.upstream_answered();
                    return self.sent(response, connection);
                }
                Err(failure) => failure,
            };
            let may_resend = resends < RESENDS_MAX;
            resends += 1;
            request = match failure {
                Failure::Unsent(unsent) if was_reused && may_resend => *unsent,
                Failure::Unprocessed if may_resend && self.is_resendable().is_ok() => {
                    self.request(credential.clone())
                }
                Failure::Broken
                    if may_resend
                        && was_reused
                        && (self.is_idempotent() || connection.sent_bytes() == sent_bytes)
                        && self.is_resendable().is_ok() =>
                {
                    self.request(credential.clone())
                }
                Failure::Unsent(_) | Failure::Unprocessed | Failure::Broken => {
                    return Err(Fault::UpstreamProtocol);
                }
                Failure::Fault(fault) => return Err(fault),
            };
            connection = pool.another(upstream, Want::Any, &connection).await.map_err(connect_fault)?;
        }
    }

    fn request(&self, credential: Option<HeaderValue>) -> Request<RequestBody> {
        let mut head = self.head.clone();
        if let Some(credential) = credential {
            headers::authorize(&mut head.headers, credential);
        }
        // The library leaves these two out where a body is not expected or not there, and an upstream
        // would then read no body, or answer 411.
        let body = match &self.body {
            Some(body) => {
                let attempt = body.attempt();
                if attempt.size_hint().exact().is_none() {
                    head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                }
                RequestBody::Recorded(attempt)
            }
            None => {
                if matches!(head.method, Method::POST | Method::PUT | Method::PATCH) {
                    head.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
                }
                RequestBody::Empty
            }
        };
        Request::from_parts(head, body)
    }

    /// One request over one connection, until the response's head.
    async fn exchange(
        &self,
        connection: &mut Connection<RequestBody>,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Failure> {
        let mut sending = pin!(connection.send(request));
        loop {
            let drawn = self.drawn_bytes();
            match tokio::time::timeout(self.worker.timeouts().response, sending.as_mut()).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => return Err(failure(error)),
                // The clock runs for the answer, not for an upload that moves on.
                Err(_) if self.drawn_bytes() > drawn => {}
                Err(_) if self.body.as_ref().is_some_and(|body| body.awaits_caller()) => {
                    return Err(Failure::Fault(Fault::CallerTimeout));
                }
                Err(_) => return Err(Failure::Fault(Fault::UpstreamTimeout)),
            }
        }
    }

    fn drawn_bytes(&self) -> u64 {
        self.body.as_ref().map_or(0, |body| body.drawn_bytes())
    }

    fn sent(
        &self,
        response: Response<Incoming>,
        mut connection: Connection<RequestBody>,
    ) -> Result<Sent, Fault> {
        // Nothing was upgraded, so 101 is nonsense.
        if response.status() == StatusCode::SWITCHING_PROTOCOLS || !is_soundly_framed(response.headers()) {
            return Err(Fault::UpstreamProtocol);
        }
        // The library would speak 1.0 on it from now on, and lose chunked bodies.
        if connection.version() == Version::HTTP_11 && response.version() != Version::HTTP_11 {
            connection.retire();
        }
        Ok(Sent { response, connection, upload: self.body.clone() })
    }

    fn is_idempotent(&self) -> bool {
        matches!(
            self.head.method,
            Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS
        )
    }
}

/// Exactly one length, or exactly one `chunked`, or neither (RFC 9112 §6.3).
fn is_soundly_framed(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_number = |length: &HeaderValue| length.as_bytes().iter().all(u8::is_ascii_digit);
    match (lengths.next(), codings.next()) {
        (None, None) => true,
        (Some(length), None) => lengths.next().is_none() && is_number(length),
        (None, Some(coding)) => {
            codings.next().is_none() && coding.as_bytes().eq_ignore_ascii_case(b"chunked")
        }
        (Some(_), Some(_)) => false,
    }
}

/// How one attempt failed.
enum Failure {
    /// Nothing of the request left: here it is again.
    Unsent(Box<Request<RequestBody>>),
    /// The upstream has said that it did nothing with the request.
    Unprocessed,
    /// The connection broke before a response; the upstream may have acted.
    Broken,
    /// Sending it again would not help or not be safe.
    Fault(Fault),
}

fn failure(error: SendError<RequestBody>) -> Failure {
    let error = match error {
        SendError::Unsent(request) => return Failure::Unsent(request),
        SendError::Unprocessed(_) => return Failure::Unprocessed,
        SendError::Failed(error) => error,
    };
    if is_callers(&error) {
        return Failure::Fault(Fault::BadRequest(BadRequest::Body));
    }
    if error.is_parse() {
        return Failure::Fault(Fault::UpstreamProtocol);
    }
    Failure::Broken
}

/// Whether the caller's body was the cause.
fn is_callers(error: &hyper::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if inner.downcast_ref::<AttemptError<hyper::Error>>().is_some() {
            return true;
        }
        cause = inner.source();
    }
    false
}

fn connect_fault(error: ConnectError) -> Fault {
    tracing::debug!(%error, "no upstream connection");
    match error {
        ConnectError::Unreachable(_) => Fault::UpstreamUnreachable,
        ConnectError::TimedOut => Fault::UpstreamTimeout,
        ConnectError::Tls(_) => Fault::UpstreamTls,
    }
}
