//! Sending a request to its upstream, as often as that is safe.

use std::{
    future::poll_fn,
    mem,
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
    time::Duration,
};

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRANSFER_ENCODING},
    request,
};
use http_body::Body;

use crate::{
    body::Received,
    proxy::{
        acquire,
        credentials::Credentials,
        fault::Fault,
        headers,
        interim::Keeper,
        line::Line,
        notable::Notable,
        record::Record,
        timers::Late,
        upgrade::{self, Handshake},
        worker::{RouteState, Worker},
    },
    replay::{NotReplayable, Recorder},
    telemetry::trace::TRACEPARENT,
    upstream::{
        Want,
        connection::{Connection, SendError},
    },
};

mod body;
mod clock;
mod failure;
mod trip;

pub use body::RequestBody;
use clock::Clock;
use failure::{Failure, failure, is_soundly_framed};
use trip::{Asking, Trip};

/// How often one attempt may be sent again. A second time is for a group of servers of which one stops
/// while another has just stopped.
const RESENDS_MAX: usize = 2;

/// An upstream's response head with what its body still needs.
pub struct Sent {
    /// The response.
    pub response: Response<Received>,
    /// What it comes over, unless all of it has come.
    pub carrier: Option<Carrier>,
    /// The request's body, to know when the connection is free.
    pub upload: Upload,
    /// The upstream has agreed to a WebSocket.
    pub is_upgraded: bool,
}

/// A connection with an answer on it.
pub struct Carrier {
    /// The connection.
    pub connection: Connection<RequestBody>,
    /// What holds its upload back; an upload that was not wanted ends with it.
    _keeper: Option<Keeper>,
}

/// The caller's body, if there is one: tells whether it has been sent completely.
pub type Upload = Option<Rc<Recorder<Received>>>;

/// One request on its way to one upstream: its prepared head and its recorded body.
pub struct Exchange {
    worker: Rc<Worker>,
    route: Rc<RouteState>,
    line: Rc<dyn Line>,
    head: request::Parts,
    body: Upload,
    is_grpc: bool,
    /// Whether the caller's protocol knows informational responses.
    informs: bool,
    /// Whether the caller has said something of trailers, so that the upstream may be told.
    may_tell_te: bool,
    handshake: Option<Handshake>,
}

impl Exchange {
    /// Takes over a prepared head and the caller's body.
    ///
    /// # Errors
    /// [`Fault::BodyTooLong`] when the body is known to be longer than the route allows.
    pub fn new(
        worker: &Rc<Worker>,
        route: Rc<RouteState>,
        record: &Record,
        (mut head, body): (request::Parts, Received),
        handshake: Option<Handshake>,
    ) -> Result<Box<Self>, Fault> {
        head.version = Version::HTTP_11;
        head.extensions.clear();
        let settings = route.settings();
        if body.size_hint().lower() > settings.body_bytes_max {
            return Err(Fault::BodyTooLong);
        }
        let body = (!body.is_end_stream()).then(|| {
            // Without a credential there is nothing to recover, so nothing to record.
            let limit = route.profile().map_or(0, |_| settings.replay_limit_bytes);
            Rc::new(Recorder::new(body, limit, settings.body_bytes_max, worker.budget()))
        });
        let (worker, line) = (Rc::clone(worker), Rc::clone(record.line()));
        let (is_grpc, informs) = (record.is_grpc(), record.version() != Version::HTTP_10);
        let may_tell_te = record.found().has(Notable::TE);
        Ok(Box::new(Self { worker, route, line, head, body, is_grpc, informs, may_tell_te, handshake }))
    }

    /// Where it goes.
    pub fn route(&self) -> &Rc<RouteState> {
        &self.route
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

    /// Whether the body, if there is one, can go to waste: it is kept, or it is not begun before the
    /// upstream wants it.
    pub fn may_be_refused(&self) -> bool {
        self.is_replayable().is_ok() && self.body.as_ref().is_none_or(|body| body.is_recording())
    }

    /// Whether the body, if there is one, could be sent from its beginning once more.
    fn is_resendable(&self) -> Result<(), NotReplayable> {
        self.body.as_ref().map_or(Ok(()), |body| body.is_replayable())
    }

    /// The recorded body.
    pub fn body(&self) -> &Upload {
        &self.body
    }

    /// The caller's wish for a WebSocket.
    pub fn take_handshake(&mut self) -> Option<Handshake> {
        self.handshake.take()
    }

    /// Whether the upstream has refused the credential. gRPC says so inside a 200, in a header when it
    /// has nothing else to say ("Trailers-Only").
    pub fn is_refused(&self, sent: &Sent) -> bool {
        let response = &sent.response;
        response.status() == StatusCode::UNAUTHORIZED
            || (self.is_grpc
                && response.body().is_end_stream()
                && response.headers().get("grpc-status").is_some_and(|status| status == "16"))
    }

    /// Sends the request with `credentials`, or those that have come in their place if they have expired, and
    /// waits for the response's head.
    ///
    /// A connection that the upstream closed while it was idle is replaced by a new one when nothing
    /// of the request was sent, or when the method allows sending it again (RFC 9110 §9.2.2). So is
    /// one on which the upstream says that it has not looked at the request (RFC 9113 §8.7).
    ///
    /// # Errors
    /// [`Fault`], when there is no response that could be passed on.
    pub async fn send(
        &mut self,
        mut credentials: Option<&mut Credentials>,
        record: &mut Record,
    ) -> Result<Sent, Fault> {
        if let Some(place) = record.attempted(self.route.upstream().origin()) {
            self.head.headers.insert(TRACEPARENT, place);
        }
        let pool = Rc::clone(self.worker.pool());
        let want = if self.handshake.is_some() { Want::Http1 } else { Want::Any };
        let route = Rc::clone(&self.route);
        let upstream = route.upstream();
        let mut connection = self.connected(pool.connection(upstream, want).await, record)?;
        let mut asks = self.asks_first();
        let mut resends_left = RESENDS_MAX;
        loop {
            // RFC 8441 §3: an upstream that has not said that it knows this must not be asked.
            if self.handshake.is_some() && !connection.takes_handshakes() {
                return Err(Fault::UpstreamProtocol);
            }
            // A connection may have been long in coming. What has expired meanwhile must not leave.
            let expired = credentials.as_deref_mut().filter(|taken| taken.have_expired());
            let has_waited = expired.is_some();
            if let Some(credentials) = expired {
                *credentials = Box::pin(acquire::successors(&route, record)).await?;
            }
            let credentials = credentials.as_deref();
            let (request, asking) = self.prepared(credentials, connection.version(), asks)?;
            let mut trip = Trip { interims: connection.interims(), asking };
            // The upstream may have closed it meanwhile, as one that lay in the pool.
            let (was_reused, sent_bytes) = (connection.is_reused() || has_waited, connection.sent_bytes());
            let outcome = {
                let sending = pin!(connection.send(request));
                self.answered(sending, &mut trip).await
            };
            if let (Some(credentials), Ok(response)) = (credentials, &outcome) {
                credentials.learn(upstream, response.headers());
            }
            let failure = match outcome {
                // RFC 9110 §10.1.1: an upstream that knows no expectations is asked without one.
                Ok(response) if trip.is_unexpected(&response) => {
                    asks = None;
                    connection = self.connected(pool.connection(upstream, want).await, record)?;
                    continue;
                }
                Ok(response) => {
                    record.upstream_answered(response.status());
                    trip.welcome(&response);
                    return self.sent(response, connection, trip);
                }
                Err(failure) => failure,
            };
            let may_resend = match failure {
                Failure::Unsent => was_reused,
                Failure::Unprocessed => self.is_resendable().is_ok(),
                Failure::Broken => {
                    self.is_sound()?;
                    was_reused
                        && (self.is_idempotent() || connection.sent_bytes() == sent_bytes)
                        && self.is_resendable().is_ok()
                }
                Failure::Fault(fault) => return Err(self.told(fault, record)),
            };
            if !may_resend || resends_left == 0 {
                return Err(Fault::UpstreamProtocol);
            }
            // Where a stream was refused its connection may still be as good as any.
            let is_refused = matches!(failure, Failure::Unprocessed) && resends_left == RESENDS_MAX;
            resends_left -= 1;
            let next = match is_refused {
                true => pool.connection(upstream, want).await,
                false => pool.another(upstream, want, &connection).await,
            };
            connection = self.connected(next, record)?;
        }
    }

    /// How long to wait for the upstream to want a body that could not be sent a second time.
    fn asks_first(&self) -> Option<Duration> {
        let body = self.body.as_ref()?;
        let is_too_long = body.length().is_some() && !body.is_recording();
        self.route.profile().filter(|_| is_too_long && self.is_replayable().is_ok())?;
        self.route.settings().expect_continue
    }

    /// The request as it goes over a connection of `version`.
    fn prepared(
        &mut self,
        credentials: Option<&Credentials>,
        version: Version,
        asks: Option<Duration>,
    ) -> Result<(Request<RequestBody>, Asking), Fault> {
        // The copy stays, and has no room to grow; what goes out has some for what is put on.
        let copy = self.head.clone();
        let mut head = mem::replace(&mut self.head, copy);
        if let Some(handshake) = &self.handshake {
            upgrade::put(handshake, &mut head, version);
        }
        if let Some(credentials) = credentials {
            credentials.put_on(&mut head, self.route.upstream())?;
        }
        let is_http1 = version == Version::HTTP_11;
        if is_http1 && self.may_tell_te && head.headers.contains_key(TE) {
            head.headers.insert(CONNECTION, HeaderValue::from_static("TE"));
        }
        let asking = asks.map(|limit| (Keeper::new(), limit));
        if asking.is_some() {
            head.headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
        }
        // The library leaves these two out where a body is not expected or not there, and an upstream
        // would then read no body, or answer 411.
        let attempt = self.body.as_ref().map(|body| body.attempt());
        let body = match attempt.filter(|attempt| !attempt.is_end_stream()) {
            Some(attempt) => {
                if is_http1 && attempt.size_hint().exact().is_none() {
                    head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                }
                RequestBody::Recorded(attempt, asking.as_ref().map(|(keeper, _)| Rc::clone(keeper.gate())))
            }
            None => {
                if matches!(head.method, Method::POST | Method::PUT | Method::PATCH) {
                    head.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
                }
                RequestBody::Empty
            }
        };
        Ok((Request::from_parts(head, body), asking))
    }

    /// Waits for the response's head of a request that is on its way.
    async fn answered(
        &self,
        mut sending: Pin<&mut impl Future<Output = Result<Response<Received>, SendError>>>,
        trip: &mut Trip,
    ) -> Result<Response<Received>, Failure> {
        let mut clock = Clock::new(self);
        loop {
            let answered = poll_fn(|cx| {
                let sent = sending.as_mut().poll(cx);
                // What came before the answer goes before it, also when both have come at once.
                if let Err(fault) = self.inform(trip) {
                    return Poll::Ready(Err(Failure::Fault(fault)));
                }
                sent.map(|sent| sent.map_err(failure))
            });
            match self.worker.timers().limit(clock.next(trip), answered).await {
                Ok(outcome) => return outcome,
                Err(Late) => clock.strike(trip)?,
            }
        }
    }

    /// Passes on what the upstream says before its answer.
    fn inform(&self, trip: &Trip) -> Result<(), Fault> {
        for mut interim in trip.interims.take().map_err(|_| Fault::UpstreamProtocol)? {
            match (interim.status, &trip.asking) {
                (StatusCode::CONTINUE, Some((keeper, _))) => keeper.gate().open(),
                // This gateway's own reader has said so, or nobody has asked.
                (StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS, _) => {}
                _ if !self.informs => {}
                _ => {
                    headers::take_off_quoted_names(&mut interim.headers);
                    headers::informational(&mut interim.headers, false);
                    // RFC 9110 §8.6: a length would be taken for the answer's.
                    interim.headers.remove(CONTENT_LENGTH);
                    self.line.inform(&interim);
                }
            }
        }
        Ok(())
    }

    fn sent(
        &self,
        response: Response<Received>,
        mut connection: Connection<RequestBody>,
        trip: Trip,
    ) -> Result<Sent, Fault> {
        let version = connection.version();
        let is_upgraded = match &self.handshake {
            Some(handshake) => upgrade::is_agreed(handshake, &response, version)?,
            None => false,
        };
        // Where nothing was to be upgraded, 101 is nonsense.
        if (response.status() == StatusCode::SWITCHING_PROTOCOLS && !is_upgraded)
            || !is_soundly_framed(response.headers())
            || (version == Version::HTTP_2 && headers::has_quoted_name(response.headers()))
        {
            return Err(Fault::UpstreamProtocol);
        }
        // The library would speak 1.0 on it from now on, and lose chunked bodies.
        if connection.version() == Version::HTTP_11 && response.version() != Version::HTTP_11 {
            connection.retire();
        }
        // The caller may read the answer only when it has sent everything; and what was taken of the body may
        // still lie here when the answer has ended.
        let is_on_its_way = |body: &Rc<Recorder<_>>| !body.is_sent() || connection.is_blocked();
        if !is_upgraded && self.body.as_ref().is_some_and(is_on_its_way) {
            connection.let_go();
        }
        let carrier = Some(Carrier { connection, _keeper: trip.asking.map(|(keeper, _)| keeper) });
        Ok(Sent { response, carrier, upload: self.body.clone(), is_upgraded })
    }

    /// Whether it may be sent again when nobody knows what became of it (RFC 9110 §9.2.2).
    pub fn is_idempotent(&self) -> bool {
        matches!(
            self.head.method,
            Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS
        )
    }
}
