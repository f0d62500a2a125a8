//! One request, from its head to its record: a straight line of named phases.
//!
//! [`respond`] is the whole life of a request. Its statements are the phases of `docs/architecture.md`
//! in their order; there is no middleware. Whatever fails becomes a [`fault::Fault`], and whatever
//! happens, also a caller who hangs up, ends in one [`record::Record`].

use std::rc::Rc;

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, request};

use crate::{
    body::Received,
    caller::Caller,
    proxy::{
        answer::Answer,
        attempt::{Exchange, Sent},
        fault::{BadRequest, Fault, RefusedMethod},
        headers::Outgoing,
        notable::Notable,
        record::Record,
        settings::Underscores,
        tunnel::{Far, Tunnel},
        upgrade::Handshake,
        worker::{RouteState, Worker},
    },
    route::{
        self,
        path::{self, Flaw},
    },
};

mod acquire;
pub mod answer;
pub mod attempt;
pub mod challenge;
pub mod complaints;
pub mod credentials;
pub mod explain;
pub mod fault;
pub mod forwarded;
pub mod headers;
pub mod interim;
mod line;
mod lost;
pub mod notable;
pub mod query;
pub mod recent;
pub mod record;
pub mod recovery;
pub mod settings;
pub mod target;
pub mod timers;
pub mod trace;
pub mod tunnel;
pub mod upgrade;
pub mod worker;

pub use crate::upstream::interims::Interim;
pub use line::{Held, Line};

/// A request as a listener hands it over: refused already when its bytes are no HTTP that can be
/// trusted.
pub struct Inbound {
    /// The request; a stand-in when it was refused.
    pub request: Request<Received>,
    /// Why its bytes were refused.
    pub refused: Option<Fault>,
    /// Who sent it.
    pub caller: Caller,
    /// The caller's side.
    pub line: Held,
}

/// Serves one request. All that comes before the first wait is done at once, so that the future which is moved
/// about holds what it needs and nothing else.
pub fn respond(worker: Rc<Worker>, inbound: Inbound) -> impl Future<Output = Response<Answer>> {
    let (mut record, begun) = begin(&worker, inbound);
    async move {
        let (sent, handshake) = match begun {
            Ok(mut exchange) => match forward(&mut exchange, &mut record).await {
                Ok(sent) => (sent, exchange.take_handshake()),
                Err(fault) => return Answer::fault(fault, record),
            },
            Err(fault) => return Answer::fault(fault, record),
        };
        match handshake {
            Some(handshake) if sent.is_upgraded => Box::pin(switch(&worker, sent, handshake, record)).await,
            _ => answer(sent, record),
        }
    }
}

/// Phases 2, 3 and 5, and the record that outlives them.
fn begin(worker: &Rc<Worker>, inbound: Inbound) -> (Box<Record>, Result<Box<Exchange>, Fault>) {
    let Inbound { mut request, refused, caller, line } = inbound;
    let mut record = Record::begin(worker, &mut request, caller, line, refused.is_none());
    let begun = match refused {
        Some(fault) => Err(fault),
        None => plan(worker, request, &mut record),
    };
    (record, begun)
}

/// From the head to what will be sent, but for the credential.
fn plan(
    worker: &Rc<Worker>,
    request: Request<Received>,
    record: &mut Record,
) -> Result<Box<Exchange>, Fault> {
    let (mut head, body) = request.into_parts();
    let handshake = upgrade::take(&mut head, record.found())?;
    // A rule means the same over every version.
    if head.version == Version::HTTP_2 && record.found().has(Notable::COOKIE) {
        headers::join_cookies(&mut head.headers);
    }
    let matched = find_route(worker, &head, &**record.line())?;
    record.routed(&matched.route);
    let route = matched.admit(&head.method)?;
    upgrade::decline_http2(&mut head.headers, record.found(), route.settings().http2_offers)?;
    let handshake = upgrade::allowed(handshake, route.settings().websocket)?;
    let target = target::upstream_target(route.settings(), route.prefix(), &head.uri)?;
    prepare(worker, &route, &mut head, record)?;
    head.uri = route.slots().clean(target)?;
    let exchange = Exchange::new(worker, route, record, (head, body), handshake)?;
    record.uploads(exchange.body());
    Ok(exchange)
}

/// Phases 4, 6 and 7: from a token to an upstream's response.
async fn forward(exchange: &mut Exchange, record: &mut Record) -> Result<Sent, Fault> {
    let route = Rc::clone(exchange.route());
    let mut credentials = acquire::credentials(&route, exchange.may_be_refused(), record).await?;
    let first = exchange.send(credentials.as_mut(), record).await?;
    match (route.profile(), credentials) {
        // Boxed, as everything that is rare: a request's future is moved, and small ones move fast.
        (Some(_), Some(credentials)) if exchange.is_refused(&first) => {
            Ok(Box::pin(recovery::recover(exchange, &route, credentials, first, record)).await)
        }
        _ => {
            if let Some(body) = exchange.body() {
                body.settle();
            }
            Ok(first)
        }
    }
}

/// Phase 5, all but the credential: the header for the upstream.
fn prepare(
    worker: &Worker,
    route: &RouteState,
    head: &mut request::Parts,
    record: &Record,
) -> Result<(), Fault> {
    let settings = route.settings();
    if head.method == Method::OPTIONS {
        headers::count_forwards(&mut head.headers)?;
    }
    // HTTP/2 names the host in the target; everything that follows reads the field.
    if head.version == Version::HTTP_2
        && let Some(authority) = head.uri.authority()
    {
        let host = HeaderValue::from_str(authority.as_str());
        head.headers.insert(header::HOST, host.map_err(|_| Fault::BadRequest(BadRequest::Target))?);
    }
    let tells_host = settings.forwarded != settings::Forwarding::Off;
    let host = tells_host.then(|| head.headers.get(header::HOST).cloned()).flatten();
    let source = forwarded::Source {
        address: record.caller().ip(),
        is_trusted: record.caller().is_trusted(),
        is_tls: record.line().is_tls(),
        host: host.as_ref(),
    };
    let outgoing = Outgoing {
        found: record.found(),
        host: route.upstream().host(),
        preserve_host: settings.preserve_host,
        pass_authorization: settings.pass_authorization,
        via: worker.via(head.version),
        pseudonym: worker.pseudonym(),
        request_id: record.request_id(),
        version: head.version,
        // Only where a credential could be misused by a name that passes for another.
        underscores: route.profile().map_or(Underscores::Allow, |_| settings.underscores),
        forwarded: settings.forwarded,
        source,
        slots: route.slots(),
    };
    headers::prepare(&mut head.headers, &outgoing)
}

/// The one route that a request matches.
pub(crate) struct Found {
    pub(crate) route: Rc<RouteState>,
    /// Why its path may not pass.
    flaw: Option<Flaw>,
    /// Its rule lists the method by name.
    names_method: bool,
}

impl Found {
    /// The route, if it takes such a path and such a method.
    pub(crate) fn admit(self, method: &Method) -> Result<Rc<RouteState>, Fault> {
        if let Some(flaw) = self.flaw {
            return Err(Fault::BadRequest(BadRequest::Path(flaw)));
        }
        if !target::is_usual(method) && !self.names_method {
            return Err(Fault::MethodRefused(RefusedMethod::Unlisted(method.clone())));
        }
        Ok(self.route)
    }
}

/// Phase 2: the one route of this request. The canonical path is what is matched and what is sent.
pub(crate) fn find_route(worker: &Worker, head: &request::Parts, line: &dyn Line) -> Result<Found, Fault> {
    if matches!(head.method, Method::TRACE | Method::CONNECT) {
        return Err(Fault::MethodRefused(RefusedMethod::Never(head.method.clone())));
    }
    let host = headers::host(head, line.is_tls()).map_err(Fault::BadRequest)?;
    if line.is_misdirected(host) {
        return Err(Fault::BadRequest(BadRequest::Misdirected));
    }
    let raw = head.uri.path();
    if raw == "*" && head.method == Method::OPTIONS {
        return Err(Fault::LastHop);
    }
    if !raw.starts_with('/') {
        return Err(Fault::BadRequest(BadRequest::Target));
    }
    let reading = path::read(raw);
    let wanted = route::Head { host, path: &reading.path, method: &head.method, headers: &head.headers };
    let Some((route, matched)) = worker.find(&wanted) else {
        // Its ambiguity may be why nothing matches; that is worth more to the caller than a 404.
        return Err(match reading.refused_by(path::Check::Strict) {
            Some(flaw) => Fault::BadRequest(BadRequest::Path(flaw)),
            None => Fault::NoRoute,
        });
    };
    let has_profile = route.settings().profile.is_some();
    let flaw = reading.refused_by(route.settings().path_check).filter(|_| has_profile);
    Ok(Found { route, flaw, names_method: matched.names_method })
}

/// Phase 8: an upstream's response, made fit for the caller.
fn answer(sent: Sent, mut record: Box<Record>) -> Response<Answer> {
    let Sent { response, carrier, upload, .. } = sent;
    let (mut head, body) = response.into_parts();
    // RFC 9110 §15.5.22: the one answer that has to say what the caller should speak instead.
    let wished = (head.status == StatusCode::UPGRADE_REQUIRED && record.version() == Version::HTTP_11)
        .then(|| head.headers.remove(header::UPGRADE))
        .flatten();
    headers::answer(&mut head.headers, record.request_id(), record.wants_trailers());
    if let Some(wished) = wished {
        head.headers.insert(header::UPGRADE, wished);
        head.headers.append(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    // RFC 9110 §8.6. An HTTP/2 caller would wait for what it announces.
    if head.status == StatusCode::NO_CONTENT {
        head.headers.remove(header::CONTENT_LENGTH);
    }
    if head.status == StatusCode::UNAUTHORIZED && record.profile_name().is_some() {
        headers::disown_challenge(&mut head.headers);
    }
    // RFC 9110 §2.5: the version is this hop's, whatever the upstream's is.
    head.version = Version::HTTP_11;
    // An upload that is not read to its end leaves bytes that no next request could follow.
    let is_early = upload.as_ref().is_some_and(|upload| !upload.is_sent());
    if is_early && record.version() != Version::HTTP_2 {
        head.headers.append(header::CONNECTION, HeaderValue::from_static("close"));
    }
    record.answered(head.status);
    Response::from_parts(head, Answer::upstream(body, carrier, upload, record))
}

/// Phase 8 of a WebSocket: the upstream has agreed, and from here on bytes go both ways.
async fn switch(
    worker: &Worker,
    sent: Sent,
    handshake: Handshake,
    mut record: Box<Record>,
) -> Response<Answer> {
    let Sent { mut response, carrier, .. } = sent;
    let far = match carrier.map(|carrier| carrier.connection) {
        None => None,
        Some(connection) if connection.version() == Version::HTTP_2 => {
            let stream = response.body_mut().take_duplex();
            stream.map(|stream| Far::Http2(stream, connection))
        }
        Some(connection) => connection.into_upgraded().await.map(|(stream, ahead)| Far::Http1(stream, ahead)),
    };
    let Some(far) = far else { return Answer::fault(Fault::UpstreamProtocol, record) };
    headers::answer(response.headers_mut(), record.request_id(), false);
    let mut response = response.map(|_| Answer::none());
    upgrade::answer(&handshake, &mut response);
    record.answered(response.status());
    let line = Rc::clone(record.line());
    line.hand_over(Tunnel::new(far, worker.timeouts().stream, record));
    response
}
