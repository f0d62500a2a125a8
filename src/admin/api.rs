//! The API below `/api/v1`: what the gateway does, for programs; and what it is told to do.

mod callers;
mod change;
mod document;
mod look;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use utoipa::OpenApi;

use crate::{
    admin::{
        Shown,
        changes::{Configuration, Control, Refusal},
        metrics::RouteSum,
        socket::Peer,
        types::{Distribution, Listener, Problem, Profile, Route, Status},
    },
    clock, token,
};

use document::Common;

/// A body of the API is no longer than this.
const BODY_BYTES_MAX: usize = 16 * 1024;

type Answer<T> = Result<Json<T>, Refusal>;
type Gateway = State<Arc<Shown>>;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Keybearer",
        description = "What a running gateway does, and what it is told to do. Times are seconds since 1970.",
        license(name = "Apache-2.0")
    ),
    paths(
        status,
        routes,
        profiles,
        listeners,
        callers::callers,
        configuration,
        look::recent,
        look::events,
        look::explain,
        document,
        change::reload,
        change::switch_route,
        change::undo_route,
        change::switch_environment,
        change::undo_environment,
        change::refresh,
        change::log_level
    ),
    components(schemas(Problem)),
    modifiers(&Common)
)]
struct Document;

/// The API's routes.
pub(super) fn router(shown: Arc<Shown>) -> Router {
    Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/routes", get(routes))
        .route("/api/v1/profiles", get(profiles))
        .route("/api/v1/listeners", get(listeners))
        .route("/api/v1/callers", get(callers::callers))
        .route("/api/v1/configuration", get(configuration))
        .route("/api/v1/recent", get(look::recent))
        .route("/api/v1/events", get(look::events))
        .route("/api/v1/explain", get(look::explain))
        .route("/api/v1/openapi.json", get(document))
        .route("/api/v1/reload", post(change::reload))
        .route("/api/v1/routes/{route}/switch", post(change::switch_route))
        .route("/api/v1/routes/{route}/undo", post(change::undo_route))
        .route("/api/v1/environment/switch", post(change::switch_environment))
        .route("/api/v1/environment/undo", post(change::undo_environment))
        .route("/api/v1/profiles/{profile}/refresh", post(change::refresh))
        .route("/api/v1/log-level", put(change::log_level))
        .route("/api/{*rest}", get(nothing).post(nothing).put(nothing).delete(nothing))
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(Arc::clone(&shown), guard))
        // Outside of the guard: a method that does nothing here is told so before anything is asked for.
        .method_not_allowed_fallback(other_method)
        .with_state(shown)
}

async fn guard(
    State(shown): Gateway,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let (head, body) = request.into_parts();
    match shown.access.check(&head, &peer) {
        Ok(()) => next.run(Request::from_parts(head, body)).await,
        Err(refusal) => {
            if !matches!(head.method, Method::GET | Method::HEAD) {
                let (action, path, from) = ("refused", head.uri.path(), peer.address());
                tracing::warn!(target: "audit", action, path, from, "a change was refused: {}", refusal.detail);
            }
            refusal.into_response()
        }
    }
}

async fn nothing() -> Refusal {
    refuse(
        StatusCode::NOT_FOUND,
        "nothing_here",
        "there is nothing here; /api/v1/openapi.json tells what there is",
    )
}

async fn other_method() -> Refusal {
    let detail = "this method does nothing here; /api/v1/openapi.json tells which one does";
    refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

fn refuse(status: StatusCode, code: &'static str, detail: &str) -> Refusal {
    Refusal { status, code, detail: detail.to_owned() }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let problem =
            Problem { status: self.status.as_u16(), code: self.code.to_owned(), detail: self.detail };
        let mut response = (self.status, Json(problem)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 9110 §15.5.2
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Now, in seconds since 1970.
fn now() -> u64 {
    clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn control(shown: &Shown) -> Result<Arc<dyn Control>, Refusal> {
    shown.control.get().cloned().ok_or_else(|| {
        let detail = "this gateway was not started from a file, so it cannot be changed";
        refuse(StatusCode::CONFLICT, "no_file", detail)
    })
}

/// The gateway as a whole.
#[utoipa::path(get, path = "/api/v1/status", responses((status = 200, body = Status)))]
async fn status(State(shown): Gateway) -> Json<Status> {
    let views: Vec<_> = shown.profiles.load().iter().map(token::Handle::view).collect();
    let stopping = shown.gateway.is_draining();
    Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        ready: !stopping && views.iter().all(|view| view.ready || !view.required),
        stopping,
        uptime_seconds: clock::now().since(shown.started).as_secs(),
        configuration: shown.control.get().map(|control| control.configuration()),
        replay_bytes: shown.gateway.budget().used_bytes(),
        log_lines_dropped: shown.log.as_ref().map(crate::telemetry::log::Handle::dropped_lines),
    })
}

/// All routes, with what they have counted.
#[utoipa::path(get, path = "/api/v1/routes", responses((status = 200, body = Vec<Route>)))]
async fn routes(State(shown): Gateway) -> Json<Vec<Route>> {
    let control = shown.control.get();
    let mut switched = control.map(|control| control.configuration().switched).unwrap_or_default();
    if let Some(glance) = control.map(|control| control.glance()) {
        switched.retain(|route, _| glance.switched.binary_search(route).is_ok());
    }
    let snapshot = shown.gateway.snapshot();
    let all = snapshot.routes.iter().map(|route| {
        let base = route.settings.base_path.as_ref().map_or("", |path| path.as_str());
        let mut shown = Route {
            name: route.name.clone(),
            path: route.prefix.clone(),
            upstream: format!("{}{base}", route.settings.upstream),
            profile: route.settings.profile.clone(),
            switched: switched.remove(&route.name),
            requests: Default::default(),
            faults: Default::default(),
            unauthorized: Default::default(),
            in_flight: 0,
            duration: Distribution::default(),
            upstream_duration: Distribution::default(),
        };
        shown.count(&RouteSum::of(&route.name, "", &route.all_shards()));
        shown
    });
    Json(all.collect())
}

/// All profiles, with the health of their tokens.
#[utoipa::path(get, path = "/api/v1/profiles", responses((status = 200, body = Vec<Profile>)))]
async fn profiles(State(shown): Gateway) -> Json<Vec<Profile>> {
    let (now, snapshot) = (now(), shown.gateway.snapshot());
    let later = |span: Duration| now + span.as_secs();
    let all = shown.profiles.load();
    let all = all.iter().map(token::Handle::view).map(|view| {
        let serves = snapshot.routes.iter().filter(|r| r.settings.profile.as_ref() == Some(&view.name));
        Profile {
            routes: serves.map(|route| route.name.clone()).collect(),
            name: view.name,
            required: view.required,
            ready: view.ready,
            generation: view.generation,
            obtained_at: view.age.map(|age| now.saturating_sub(age.as_secs())),
            next_request_at: view.next_in.map(later),
            expires_at: view.expires_in.map(later),
            requests_ok: view.refreshed,
            requests_failed: view.failed,
            meaning: view.error.as_ref().map(|error| error.diagnosis().meaning),
            remedy: view.error.as_ref().map(|error| error.diagnosis().remedy),
            error: view.error.map(|error| error.to_string()),
            missing_roles: view.notes.missing_roles,
            clock_skew_s: view.notes.clock_skew,
        }
    });
    Json(all.collect())
}

/// All listeners.
#[utoipa::path(get, path = "/api/v1/listeners", responses((status = 200, body = Vec<Listener>)))]
async fn listeners(State(shown): Gateway) -> Json<Vec<Listener>> {
    let all = shown.listeners.load();
    let all = all.iter().map(|listener| Listener {
        name: listener.name.clone(),
        connections: listener.open.load(Ordering::Relaxed),
        accepted: listener.shards.iter().map(|shard| shard.accepted.read()).sum(),
    });
    Json(all.collect())
}

/// The configuration in force, its environments, and what was switched.
#[utoipa::path(
    get, path = "/api/v1/configuration",
    responses((status = 200, body = Configuration), (status = 409, body = Problem))
)]
async fn configuration(State(shown): Gateway) -> Answer<Configuration> {
    Ok(Json(control(&shown)?.configuration()))
}

/// This document.
#[utoipa::path(get, path = "/api/v1/openapi.json", responses((status = 200)))]
async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(openapi())
}

/// The document, for the API and the tests.
pub(super) fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}
