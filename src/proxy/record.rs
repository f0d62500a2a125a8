//! What is kept of a request: one set of counters and one access line, written when it is over.
//!
//! A record is written when it is dropped, so a caller who hangs up is on record as well. It never
//! holds a query, a header value or a body.

use std::{rc::Rc, thread, time::Duration};

use http::{HeaderValue, Method, Request, StatusCode, Uri, Version};
use http_body::Body as _;
use tokio::time::Instant;

use crate::{
    body::Received,
    caller::Caller,
    clock,
    proxy::{
        attempt::Upload,
        fault::{About, CODE_NAMES, Fault},
        headers,
        line::{Held, Line},
        lost,
        notable::Notable,
        recent::{Happening, What},
        recovery::Outcome,
        trace::{End, Trace},
        worker::{RouteState, Shard, Telling, Worker},
    },
    telemetry::log,
    token::{Token, Unavailable},
    upstream::Origin,
};

/// A path is logged up to here.
const PATH_LOGGED_MAX: usize = 512;

/// The story of one request so far.
pub struct Record {
    worker: Rc<Worker>,
    route: Option<Rc<RouteState>>,
    caller: Caller,
    /// Tells the listener that the request is over when the record is.
    line: Held,
    version: Version,
    found: Notable,
    is_grpc: bool,
    wants_trailers: bool,
    request_id: HeaderValue,
    /// What only the access line needs.
    shown: Option<(Method, Uri)>,
    started: Instant,
    /// Since when it is not the upstream's turn.
    idle_since: Instant,
    sent_at: Option<Instant>,
    upstream_time: Option<Duration>,
    /// Before and between the attempts.
    overhead: Duration,
    attempts: u32,
    outcome: Option<Outcome>,
    status: Option<StatusCode>,
    fault: Option<&'static str>,
    sent_bytes: u64,
    is_complete: bool,
    has_body: bool,
    upload: Upload,
    /// Bytes from the caller that went through a tunnel.
    tunnelled_bytes: u64,
    /// Its spans, if they are kept.
    trace: Option<Box<Trace>>,
}

impl Record {
    /// Begins the record of a request, boxed because it goes through many hands. `is_genuine` is false for a stand-in whose head says nothing.
    pub fn begin(
        worker: &Rc<Worker>,
        request: &mut Request<Received>,
        caller: Caller,
        line: Held,
        is_genuine: bool,
    ) -> Box<Self> {
        let Telling { logs_access, tracer } = worker.telling();
        let started = Instant::now();
        let trace = tracer.filter(|_| is_genuine).and_then(|tracer| Trace::begin(tracer, request, started));
        let shown = (logs_access && is_genuine).then(|| (request.method().clone(), request.uri().clone()));
        worker.enter();
        let has_body = !request.body().is_end_stream();
        let found = Notable::of(request.headers());
        let request_id = match found.has(Notable::REQUEST_ID) {
            true => headers::request_id(request.headers()),
            false => headers::made_id(),
        };
        Box::new(Self {
            worker: Rc::clone(worker),
            route: None,
            caller,
            line,
            version: request.version(),
            found,
            is_grpc: found.has(Notable::CONTENT_TYPE) && headers::is_grpc(request),
            wants_trailers: found.has(Notable::TE) && headers::wants_trailers(request.headers()),
            request_id,
            shown,
            started,
            idle_since: started,
            sent_at: None,
            upstream_time: None,
            overhead: Duration::ZERO,
            attempts: 0,
            outcome: None,
            status: None,
            fault: None,
            sent_bytes: 0,
            is_complete: false,
            has_body,
            upload: None,
            tunnelled_bytes: 0,
            trace,
        })
    }

    /// What the request's header has that the rules know.
    pub fn found(&self) -> Notable {
        self.found
    }

    /// The caller's side of the request.
    pub fn line(&self) -> &Rc<dyn Line> {
        self.line.line()
    }

    /// Who sent it.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The caller's protocol.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether it is a gRPC call.
    pub fn is_grpc(&self) -> bool {
        self.is_grpc
    }

    /// Whether the caller reads trailers of HTTP/1.1 if it is told of them before.
    pub fn wants_trailers(&self) -> bool {
        self.wants_trailers && self.version == Version::HTTP_11
    }

    /// What a fault's response says of the request.
    pub fn about(&self) -> About<'_> {
        About {
            route: self.route_name(),
            request_id: &self.request_id,
            is_grpc: self.is_grpc,
            version: self.version,
        }
    }

    /// A tunnel has carried so much.
    pub fn tunnelled(&mut self, received_bytes: u64, sent_bytes: u64) {
        self.tunnelled_bytes += received_bytes;
        self.sent_bytes += sent_bytes;
    }

    /// The request's body is on its way.
    pub fn uploads(&mut self, upload: &Upload) {
        self.upload.clone_from(upload);
    }

    /// Whether the request came with a body that has not been read to its end.
    pub fn has_unread_body(&self) -> bool {
        self.upload.as_ref().map_or(self.has_body, |upload| !upload.has_ended())
    }

    fn received_bytes(&self) -> u64 {
        self.upload.as_ref().map_or(self.tunnelled_bytes, |upload| upload.drawn_bytes())
    }

    /// The request's id, the caller's or ours.
    pub fn request_id(&self) -> &HeaderValue {
        &self.request_id
    }

    /// The route is known.
    pub fn routed(&mut self, route: &Rc<RouteState>) {
        route.shard().in_flight.add(1);
        self.route = Some(Rc::clone(route));
    }

    /// The name of the route, once it is known.
    pub fn route_name(&self) -> Option<&str> {
        self.route.as_ref().map(|route| route.name())
    }

    /// The name of the route's profile.
    pub fn profile_name(&self) -> Option<&str> {
        self.route.as_ref().and_then(|route| route.profile()).map(|profile| profile.name())
    }

    /// A request goes out to `upstream`. Gives the place in a trace that it is told, if it is kept.
    pub fn attempted(&mut self, upstream: &Origin) -> Option<HeaderValue> {
        let now = Instant::now();
        self.attempts += 1;
        self.overhead += now - self.idle_since;
        self.sent_at = Some(now);
        self.trace.as_mut().map(|trace| trace.attempt(upstream, now))
    }

    /// The attempt has no answer, but the caller gets one all the same.
    pub fn attempt_failed(&mut self, fault: &Fault) {
        if let Some(trace) = &mut self.trace {
            trace.fail(Some(fault.code()));
        }
    }

    /// The request has got a token.
    pub fn got(&mut self, token: &Token) {
        if let Some(trace) = &mut self.trace {
            trace.got(token);
        }
    }

    /// The request has waited for a token that did not come.
    pub fn got_none(&mut self, unavailable: &Unavailable) {
        if let Some(trace) = &mut self.trace {
            trace.waited(unavailable.fetch.as_deref().copied());
        }
    }

    /// The upstream's response head is there.
    pub fn upstream_answered(&mut self, status: StatusCode) {
        let now = Instant::now();
        let took = self.sent_at.map_or(Duration::ZERO, |at| now - at);
        self.upstream_time = Some(self.upstream_time.unwrap_or_default() + took);
        self.idle_since = now;
        if let Some(trace) = &mut self.trace {
            trace.answered(status, now);
        }
    }

    /// A better answer than a 401 is looked for. What becomes of the 401 is told later, unless the caller
    /// leaves before.
    pub fn recovering(&mut self) {
        self.outcome = Some(Outcome::Abandoned);
    }

    /// What became of a 401.
    pub fn recovered(&mut self, outcome: Outcome) {
        self.recovered_as(outcome, outcome.words().to_owned());
    }

    /// The same in other words.
    pub fn recovered_as(&mut self, outcome: Outcome, words: String) {
        self.outcome = Some(outcome);
        self.happened(What::Unauthorized, outcome.name(), None, words);
    }

    /// The caller gets a response with this status.
    pub fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// The gateway itself answers.
    pub fn faulted(&mut self, fault: &Fault) {
        self.fault = Some(fault.code());
        self.status = Some(fault.status());
        if self.attempts > 0 && fault.status().is_client_error() {
            self.line().spoil();
        }
        self.happened(What::Fault, fault.code(), self.status, fault.detail(self.route_name()));
    }

    fn happened(&self, what: What, code: &'static str, status: Option<StatusCode>, words: String) {
        self.worker.recent().add(Happening {
            number: 0,
            at: clock::wall(),
            what,
            code,
            status: status.map(|status| status.as_u16()),
            words,
            route: self.route_name().map(str::to_owned),
            profile: self.profile_name().map(str::to_owned),
            request_id: self.request_id.to_str().unwrap_or_default().to_owned(),
            took: self.started.elapsed(),
        });
    }

    /// Bytes of the answer's body went out.
    pub fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }

    /// The answer's last byte is on its way.
    pub fn complete(&mut self) {
        self.is_complete = true;
    }

    fn shard(&self) -> &Shard {
        self.route.as_ref().map_or(self.worker.unrouted(), |route| route.shard())
    }

    fn count(&self, took: Duration) {
        let shard = self.shard();
        // A caller who left before an answer began is class 0.
        let class = self.status.map_or(0, |status| usize::from(status.as_u16() / 100));
        if let Some(answers) = shard.answers.get(class) {
            answers.add(1);
        }
        let code = self.fault.and_then(|code| CODE_NAMES.iter().position(|name| *name == code));
        if let Some(faults) = code.and_then(|at| shard.faults.get(at)) {
            faults.add(1);
        }
        if let Some(recoveries) = self.outcome.and_then(|outcome| shard.recoveries.get(outcome as usize)) {
            recoveries.add(1);
        }
        shard.total.observe(took);
        if let Some(upstream) = self.upstream_time {
            shard.upstream.observe(upstream);
        }
        if self.attempts > 0 {
            shard.overhead.observe(self.overhead);
        }
        shard.received_bytes.add(self.received_bytes());
        shard.sent_bytes.add(self.sent_bytes);
        if self.route.is_some() {
            shard.in_flight.decrement();
        }
    }

    fn finish(&self, trace: Trace, took: Duration) {
        trace.finish(&End {
            route: self.route.as_ref().map(|route| (route.name(), route.prefix())),
            profile: self.profile_name(),
            status: self.status,
            fault: self.fault,
            recovery: self.outcome.map(Outcome::name),
            caller: self.caller.ip(),
            took,
        });
    }

    fn log(&self, took: Duration) {
        let (method, path) = match &self.shown {
            Some((method, uri)) => (method.as_str(), shown(uri.path())),
            None => ("-", "-"),
        };
        tracing::info!(
            target: log::ACCESS,
            route = self.route_name(),
            profile = self.profile_name(),
            caller = %self.caller,
            method,
            path,
            status = self.status.map(|status| status.as_u16()),
            fault = self.fault,
            attempts = self.attempts,
            recovery = self.outcome.map(Outcome::name),
            upstream_ms = self.upstream_time.map(milliseconds),
            total_ms = milliseconds(took),
            bytes_in = self.received_bytes(),
            bytes_out = self.sent_bytes,
            complete = self.is_complete,
            request_id = self.request_id.to_str().unwrap_or_default(),
            trace_id = self.trace.as_ref().map(|trace| trace.id()),
        );
    }
}

/// The path as far as it is logged. hyper has refused control characters already.
pub(super) fn shown(path: &str) -> &str {
    path.split_at_checked(PATH_LOGGED_MAX).map_or(path, |(shown, _)| shown)
}

/// Milliseconds with three decimals.
fn milliseconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e6).round() / 1e3
}

impl Drop for Record {
    fn drop(&mut self) {
        if thread::panicking() && self.status.is_none() {
            self.faulted(&Fault::Internal);
            lost::leave(self.request_id.clone());
        }
        if self.outcome == Some(Outcome::Abandoned) {
            self.recovered(Outcome::Abandoned);
        }
        let took = self.started.elapsed();
        self.count(took);
        if self.worker.logs_access() {
            self.log(took);
        }
        if let Some(trace) = self.trace.take() {
            self.finish(*trace, took);
        }
        self.worker.leave();
    }
}
