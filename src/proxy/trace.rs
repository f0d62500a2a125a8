//! The spans of one request: itself, and each attempt.
//!
//! Only a request that is kept has a [`Trace`]. One that is not costs at most the header that tells the
//! upstream so. A trace holds no query, no header value but the caller's place in its trace, and no body.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use tokio::time::Instant;

use crate::{
    clock,
    telemetry::trace::{Context, Kind, Link, Span, SpanId, TRACEPARENT, TRACESTATE, TraceId, Tracer, Value},
    token::Token,
    upstream::Origin,
};

/// Links of one span. Each is a wait for a token, of which a request has few.
const LINKS_MAX: usize = 16;

/// The spans of a request that is kept.
pub struct Trace {
    tracer: Arc<Tracer>,
    own: Context,
    parent: Option<SpanId>,
    method: Method,
    path: String,
    began: Instant,
    /// The same moment on the clock that the collector knows.
    began_wall: SystemTime,
    version: Version,
    attempts: Vec<Span>,
    open: Option<Attempt>,
    links: Vec<Link>,
}

/// An attempt that has no answer yet.
struct Attempt {
    context: Context,
    began: Instant,
    attributes: Vec<(&'static str, Value)>,
}

/// What is known when a request is over.
pub struct End<'a> {
    /// The route's name and its path prefix.
    pub route: Option<(&'a str, &'a str)>,
    /// Its profile's name.
    pub profile: Option<&'a str>,
    /// What the caller got.
    pub status: Option<StatusCode>,
    /// The fault's code.
    pub fault: Option<&'static str>,
    /// What became of a 401.
    pub recovery: Option<&'static str>,
    /// The caller's address.
    pub caller: Option<std::net::IpAddr>,
    /// Since it began.
    pub took: Duration,
}

impl Trace {
    /// Begins the spans of a request, if they are kept; what the upstream is to know otherwise is put on
    /// the request.
    pub fn begin<B>(tracer: Arc<Tracer>, request: &mut Request<B>, began: Instant) -> Option<Box<Self>> {
        let given = Context::of(request.headers());
        let (own, parent) = match given {
            // Somebody before has decided, and what is not kept is passed on as it came.
            Some(given) if !given.is_sampled() => return None,
            Some(given) => (given.at(SpanId::random()), Some(given.span)),
            None => (root(&tracer, request.headers_mut())?, None),
        };
        Some(Box::new(Self {
            tracer,
            own,
            parent,
            method: request.method().clone(),
            path: super::record::shown(request.uri().path()).to_owned(),
            began,
            began_wall: clock::wall(),
            version: request.version(),
            attempts: Vec::with_capacity(1),
            open: None,
            links: Vec::new(),
        }))
    }

    /// An attempt goes out to `upstream` now. Gives the place in the trace that it is told.
    pub fn attempt(&mut self, upstream: &Origin, now: Instant) -> HeaderValue {
        self.fail(None);
        let context = self.own.at(SpanId::random());
        let mut attributes = vec![
            ("http.request.method", method_word(&self.method)),
            ("url.scheme", upstream.scheme.word().into()),
            ("server.address", upstream.host.clone().into()),
            ("server.port", upstream.port.into()),
        ];
        if let Ok(resends @ 1..) = u16::try_from(self.attempts.len()) {
            attributes.push(("http.request.resend_count", resends.into()));
        }
        self.open = Some(Attempt { context, began: now, attributes });
        context.header()
    }

    /// The attempt has this answer.
    pub fn answered(&mut self, status: StatusCode, now: Instant) {
        let Some(mut attempt) = self.open.take() else { return };
        attempt.attributes.push(("http.response.status_code", status.as_u16().into()));
        let has_failed = status.is_client_error() || status.is_server_error();
        if has_failed {
            attempt.attributes.push(("error.type", status.as_str().to_owned().into()));
        }
        self.end(attempt, now, has_failed);
    }

    /// The attempt, if there is one under way, has no answer, for this reason.
    pub fn fail(&mut self, code: Option<&'static str>) {
        let Some(mut attempt) = self.open.take() else { return };
        attempt.attributes.push(("error.type", code.unwrap_or("_OTHER").into()));
        self.end(attempt, Instant::now(), true);
    }

    fn end(&mut self, attempt: Attempt, now: Instant, has_failed: bool) {
        self.attempts.push(Span {
            context: attempt.context,
            parent: Some(self.own.span),
            name: method_name(&self.method),
            kind: Kind::Client,
            began: self.wall(attempt.began),
            ended: self.wall(now),
            attributes: attempt.attributes,
            links: Vec::new(),
            has_failed,
        });
    }

    /// The trace's id, as people write it.
    pub fn id(&self) -> String {
        self.own.trace.to_string()
    }

    /// The request has got `token`. If it was fetched meanwhile, the request has waited for it.
    pub fn got(&mut self, token: &Token) {
        if token.age() <= self.began.elapsed() {
            self.waited(token.fetch());
        }
    }

    /// The request has waited for this.
    pub fn waited(&mut self, fetch: Option<Link>) {
        if let Some(link) = fetch.filter(|link| !self.links.contains(link) && self.links.len() < LINKS_MAX) {
            self.links.push(link);
        }
    }

    /// The request is over.
    pub fn finish(mut self, end: &End<'_>) {
        // Without a fault nobody is left who could have waited for the attempt.
        self.fail(end.fault.or(Some("caller_left")));
        let ended = self.wall(self.began + end.took);
        let name = match end.route {
            Some((_, prefix)) => Cow::Owned(format!("{} {prefix}", method_name(&self.method))),
            None => method_name(&self.method),
        };
        let is_error = end.status.is_none_or(|status| status.is_server_error());
        let span = Span {
            context: self.own,
            parent: self.parent,
            name,
            kind: Kind::Server,
            began: self.began_wall,
            ended,
            attributes: self.attributes(end),
            links: std::mem::take(&mut self.links),
            has_failed: is_error,
        };
        let mut spans = std::mem::take(&mut self.attempts);
        spans.push(span);
        self.tracer.keep(spans);
    }

    fn attributes(&self, end: &End<'_>) -> Vec<(&'static str, Value)> {
        let version = match self.version {
            Version::HTTP_2 => "2",
            Version::HTTP_10 => "1.0",
            _ => "1.1",
        };
        let mut all = vec![
            ("http.request.method", method_word(&self.method)),
            ("url.path", self.path.clone().into()),
            ("network.protocol.version", version.into()),
        ];
        if let Some((route, prefix)) = end.route {
            all.extend([
                ("http.route", prefix.to_owned().into()),
                ("keybearer.route", route.to_owned().into()),
            ]);
        }
        let error = end.fault.map(Value::from).or_else(|| match end.status {
            Some(status) => status.is_server_error().then(|| status.as_str().to_owned().into()),
            None => Some("caller_left".into()),
        });
        let rest = [
            ("keybearer.profile", end.profile.map(|profile| profile.to_owned().into())),
            ("http.response.status_code", end.status.map(|status| status.as_u16().into())),
            ("client.address", end.caller.map(|caller| caller.to_string().into())),
            ("keybearer.recovery", end.recovery.map(Value::from)),
            ("error.type", error),
        ];
        all.extend(rest.into_iter().filter_map(|(key, value)| Some((key, value?))));
        all
    }

    fn wall(&self, at: Instant) -> SystemTime {
        self.began_wall + at.saturating_duration_since(self.began)
    }
}

/// The beginning of a trace, if it is kept; if not, the upstream is told that.
fn root(tracer: &Tracer, headers: &mut HeaderMap) -> Option<Context> {
    // Trace Context §3.3: without a parent the state is of nothing.
    headers.remove(TRACESTATE);
    headers.remove(TRACEPARENT);
    let trace = TraceId::random();
    let is_kept = tracer.wants(trace);
    let root = Context::root(trace, is_kept);
    if is_kept {
        return Some(root);
    }
    headers.insert(TRACEPARENT, root.header());
    None
}

fn method_word(method: &Method) -> Value {
    Value::Text(match method_name(method) {
        Cow::Borrowed("HTTP") => "_OTHER".into(),
        name => name,
    })
}

/// A name from a fixed list: callers may send any method.
fn method_name(method: &Method) -> Cow<'static, str> {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"];
    Cow::Borrowed(KNOWN.into_iter().find(|name| method == name).unwrap_or("HTTP"))
}
