//! What a person asks of a running gateway beyond its numbers: what happened lately, and why.

use axum::{
    Json,
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::Response,
};

use super::{Answer, Gateway, refuse};
use crate::{
    admin::{
        changes::Refusal,
        events,
        types::{Event, Explanation, Happening, Problem, Question},
    },
    proxy::explain,
    token,
};

/// The latest faults and 401s, at most 200, the latest first. Without paths, queries and headers.
#[utoipa::path(get, path = "/api/v1/recent", responses((status = 200, body = Vec<Happening>)))]
pub(super) async fn recent(State(shown): Gateway) -> Json<Vec<Happening>> {
    Json(shown.gateway.recent().since(0).into_iter().map(Happening::from).collect())
}

/// What happens from now on, as server-sent events; the data of each is an `Event`. At most 16 readers.
#[utoipa::path(
    get, path = "/api/v1/events",
    responses(
        (status = 200, body = Event, content_type = "text/event-stream"), (status = 503, body = Problem)
    )
)]
pub(super) async fn events(State(shown): Gateway) -> Result<Response, Refusal> {
    let stream = events::begin(shown).ok_or_else(|| {
        let detail = "as many as may read events already do; close a status page, or try again later";
        refuse(StatusCode::SERVICE_UNAVAILABLE, "too_many_readers", detail)
    })?;
    let mut response = Response::new(Body::new(stream));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Which route, profile and upstream a request would get, and why the others do not. Nothing is sent, and
/// the request has no header here but `Host`.
#[utoipa::path(
    get, path = "/api/v1/explain", params(Question),
    responses((status = 200, body = Explanation), (status = 400, body = Problem))
)]
pub(super) async fn explain(
    State(shown): Gateway,
    question: Result<Query<Question>, QueryRejection>,
) -> Answer<Explanation> {
    let Query(question) = question.map_err(|_| bad("ask with ?method=GET&url=http://host/path"))?;
    let method = question.method.as_deref().unwrap_or("GET");
    let method: Method = method.parse().map_err(|_| bad("method is no method (write for instance GET)"))?;
    let uri: Uri = question.url.parse().map_err(|_| bad("url is no URL and no path"))?;
    // A single word would be taken for a host.
    if uri.scheme().is_none() && !question.url.starts_with('/') {
        return Err(bad("url begins with http://, https:// or /"));
    }
    let snapshot = shown.gateway.snapshot();
    let question = explain::Question { method: &method, uri: &uri, headers: &HeaderMap::new() };
    let settings =
        |entry: &crate::route::Entry<usize>| snapshot.routes.get(entry.target).map(|route| &route.settings);
    let profiles = shown.profiles.load();
    let also = |name: &str| {
        let own = profiles.iter().find(|profile| profile.name() == name);
        own.map(token::Handle::also).unwrap_or_default().to_vec()
    };
    Ok(Json(explain::decide(&snapshot.table, &question, settings, also).into()))
}

fn bad(detail: &str) -> Refusal {
    refuse(StatusCode::BAD_REQUEST, "bad_question", detail)
}
