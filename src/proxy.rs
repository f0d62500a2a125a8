//! One request, from its head to its record: a straight line of named phases.
//!
//! [`respond`] is the whole life of a request. Its statements are the phases of `docs/architecture.md`
//! in their order; there is no middleware. Whatever fails becomes a [`fault::Fault`], and whatever
//! happens, also a caller who hangs up, ends in one [`record::Record`].

use std::{any::Any, rc::Rc};

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, request};
use hyper::body::Incoming;

use crate::{
    caller::Caller,
    proxy::{
        answer::Answer,
        attempt::{Exchange, Sent},
        fault::{BadRequest, Fault},
        headers::Outgoing,
        record::Record,
        worker::{RouteState, Worker},
    },
    route::{self, path},
    token::Unavailable,
};

pub mod answer;
pub mod attempt;
pub mod challenge;
pub mod fault;
pub mod headers;
pub mod record;
pub mod recovery;
pub mod settings;
pub mod target;
pub mod worker;

/// A request as a listener hands it over: refused already when its bytes are no HTTP that can be
/// trusted.
pub struct Inbound {
    /// The request; a stand-in when it was refused.
    pub request: Request<Incoming>,
    /// Why its bytes were refused.
    pub refused: Option<Fault>,
    /// Who sent it.
    pub caller: Caller,
    /// Dropped when the request is over, its answer included, so that the listener notices.
    pub presence: Box<dyn Any>,
}

/// Serves one request.
pub async fn respond(worker: Rc<Worker>, inbound: Inbound) -> Response<Answer> {
    let Inbound { request, refused, caller, presence } = inbound;
    let mut record = Record::begin(&worker, &request, caller, presence, refused.is_none());
    let outcome = match refused {
        Some(fault) => Err(fault),
        None => forward(&worker, request, &mut record).await,
    };
    match outcome {
        Ok(sent) => answer(&worker, sent, record),
        Err(fault) => Answer::fault(fault, record),
    }
}

/// Phases 2 to 7: from the head to an upstream's response.
async fn forward(
    worker: &Rc<Worker>,
    request: Request<Incoming>,
    record: &mut Record,
) -> Result<Sent, Fault> {
    let (mut head, body) = request.into_parts();
    let route = find_route(worker, &head, record)?;
    let target = target::upstream_target(route.settings(), route.prefix(), &head.uri)?;
    headers::prepare(
        &mut head.headers,
        &Outgoing {
            host: route.upstream().host(),
            preserve_host: route.settings().preserve_host,
            pass_authorization: route.settings().pass_authorization,
            via: worker.via(),
            pseudonym: worker.pseudonym(),
            request_id: record.request_id(),
        },
    )?;
    head.uri = target;
    let mut exchange = Exchange::new(worker, &route, head, body);
    record.uploads(exchange.body());
    let Some(profile) = route.profile() else {
        return exchange.send(None, record).await;
    };
    let token = match route.current_token() {
        Some(current) if exchange.is_replayable().is_ok() => current,
        // A body that can be sent once only is not risked on a token that is being replaced.
        _ => {
            let token = profile.acquire_unrejected(profile.patience()).await.map_err(unavailable)?;
            (token.generation(), token.header().clone())
        }
    };
    let (generation, credential) = token;
    let first = exchange.send(Some(credential), record).await?;
    if first.response.status() != StatusCode::UNAUTHORIZED {
        if let Some(body) = exchange.body() {
            body.settle();
        }
        return Ok(first);
    }
    Ok(recovery::recover(&mut exchange, profile, generation, first, record).await)
}

fn unavailable(unavailable: Unavailable) -> Fault {
    match unavailable.reason {
        crate::token::Reason::TooManyWaiters => Fault::Overloaded,
        _ => Fault::TokenUnavailable(unavailable),
    }
}

/// Phase 2: the one route of this request. The canonical path is what is matched and what is sent.
fn find_route(
    worker: &Rc<Worker>,
    head: &request::Parts,
    record: &mut Record,
) -> Result<Rc<RouteState>, Fault> {
    if matches!(head.method, Method::TRACE | Method::CONNECT) {
        return Err(Fault::MethodRefused);
    }
    let host = headers::host(&head.uri, head.version, &head.headers).map_err(Fault::BadRequest)?;
    let raw = head.uri.path();
    if raw == "*" && head.method == Method::OPTIONS {
        return Err(Fault::NoRoute);
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
    record.routed(&route);
    if route.profile().is_some()
        && let Some(flaw) = reading.refused_by(route.settings().path_check)
    {
        return Err(Fault::BadRequest(BadRequest::Path(flaw)));
    }
    if !target::is_usual(&head.method) && !matched.names_method {
        return Err(Fault::MethodRefused);
    }
    Ok(route)
}

/// Phase 8: an upstream's response, made fit for the caller.
fn answer(worker: &Worker, sent: Sent, mut record: Record) -> Response<Answer> {
    let Sent { response, connection, upload } = sent;
    let (mut head, body) = response.into_parts();
    headers::answer(&mut head.headers, record.request_id());
    // RFC 9110 §2.5: the version is this hop's, whatever the upstream's is.
    head.version = Version::HTTP_11;
    // An upload that is not read to its end leaves bytes that no next request could follow.
    let is_early = upload.as_ref().is_some_and(|upload| !upload.is_sent());
    if worker.is_draining() || is_early {
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    record.answered(head.status);
    Response::from_parts(head, Answer::upstream(body, connection, upload, record))
}
