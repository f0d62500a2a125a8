//! The admin listener: is the gateway alive, is it ready, and what has it counted.
//!
//! It runs on the control plane, so a busy data plane does not silence it. Nothing that it shows is secret;
//! changes need a token, or a unix socket.

use std::{
    fmt::Write as _,
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::{HeaderValue, Method, Response, StatusCode, header},
    response::IntoResponse as _,
};
use serde_json::json;

use crate::{accepting, clock::Moment, proxy::worker::Gateway, telemetry, token};

pub mod access;
mod api;
pub mod changes;
pub mod connections;
pub mod events;
pub mod metrics;
mod page;
pub mod socket;
mod types;
mod watched;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// What the admin listener shows.
pub struct Shown {
    /// The data plane.
    pub gateway: Arc<Gateway>,
    /// Every profile's token owner.
    pub profiles: Arc<ArcSwap<Vec<token::Handle>>>,
    /// Listeners with their open connections.
    pub listeners: Arc<ArcSwap<Vec<metrics::ListenerCount>>>,
    /// The log; `None` when somebody else logs.
    pub log: Option<telemetry::log::Handle>,
    /// Who may read and change.
    pub access: access::Access,
    /// Who changes the gateway; not set when it was not started from a file.
    pub control: Arc<OnceLock<Arc<dyn changes::Control>>>,
    /// When the gateway started.
    pub started: Moment,
    /// Who reads events.
    pub readers: events::Readers,
    /// The admin listener's own connections.
    pub connections: Arc<connections::Connections>,
    /// The admin listener's own certificates, if it has any.
    pub certificates: Arc<telemetry::listeners::Certificates>,
}

/// One path of the admin listener. The index and the tests read this table.
pub struct Endpoint {
    /// The exact path.
    pub path: &'static str,
    /// What it is for.
    pub help: &'static str,
    serve: fn(&Shown) -> Response<Body>,
}

const LIVEZ: &str = "/livez";

/// Every path there is.
pub const ENDPOINTS: [Endpoint; 4] = [
    Endpoint { path: "/", help: "this list, and the status page in a browser", serve: index },
    Endpoint { path: LIVEZ, help: "200 while the process runs", serve: livez },
    Endpoint {
        path: "/readyz",
        help: "200 when every required profile has a token, else 503 with the reason",
        serve: readyz,
    },
    Endpoint { path: "/metrics", help: "OpenMetrics for Prometheus", serve: metrics::serve },
];

/// Serves the admin listener on `socket` until the task is dropped.
///
/// # Errors
/// When the socket cannot be registered.
pub async fn serve(socket: socket::Bound, shown: Arc<Shown>) -> io::Result<()> {
    let listener = socket::Listener::register(socket)?;
    let health = Router::new().fallback(answer).with_state(Arc::clone(&shown));
    let router = api::router(Arc::clone(&shown)).merge(health);
    connections::serve(listener, router, shown).await
}

/// Binds an address for the admin listener; `shared` with another gateway of the same user.
///
/// # Errors
/// The system's.
pub fn bind(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = accepting::bind(address, shared)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

async fn answer(
    State(shown): State<Arc<Shown>>,
    ConnectInfo(peer): ConnectInfo<socket::Peer>,
    request: Request,
) -> Response<Body> {
    let Some(endpoint) = ENDPOINTS.iter().find(|endpoint| endpoint.path == request.uri().path()) else {
        return text(StatusCode::NOT_FOUND, "there is nothing here; / lists what there is\n".into());
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "this is for reading only\n".into());
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let (head, _) = request.into_parts();
    // Everybody may know that it lives.
    if endpoint.path != LIVEZ
        && let Err(refusal) = shown.access.check_reader(&head, &peer)
    {
        return refusal.into_response();
    }
    if endpoint.path == "/" && page::is_wanted(&head.headers) {
        return page::serve();
    }
    (endpoint.serve)(&shown)
}

fn index(_: &Shown) -> Response<Body> {
    let mut page = format!("keybearer {}\n\n", env!("CARGO_PKG_VERSION"));
    for endpoint in &ENDPOINTS {
        let _ = writeln!(page, "{:10}{}", endpoint.path, endpoint.help);
    }
    let _ = writeln!(page, "{:10}the API; /api/v1/openapi.json describes it", "/api/v1");
    text(StatusCode::OK, page)
}

fn livez(_: &Shown) -> Response<Body> {
    text(StatusCode::OK, "ok\n".into())
}

fn readyz(shown: &Shown) -> Response<Body> {
    let views: Vec<_> = shown.profiles.load().iter().map(token::Handle::view).collect();
    let is_draining = shown.gateway.is_draining();
    let is_ready = !is_draining && views.iter().all(|view| view.ready || !view.required);
    let profiles: serde_json::Map<_, _> = views
        .iter()
        .map(|view| {
            let reason = match (&view.error, view.ready) {
                (Some(error), false) => Some(error.public_words()),
                (None, false) if view.generation > 0 => Some("the next token has not arrived yet"),
                (None, false) => Some("the first token has not arrived yet"),
                (_, true) => None,
            };
            // A failed refresh is told before the old token has expired.
            let words = view.error.as_ref().map(|error| error.diagnosis());
            let told = json!({
                "ready": view.ready,
                "required": view.required,
                "reason": reason,
                "meaning": words.map(|words| words.meaning),
                "remedy": words.map(|words| words.remedy),
                "missing_roles": view.notes.missing_roles,
                "clock_skew_s": view.notes.clock_skew,
            });
            (view.name.clone(), told)
        })
        .collect();
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({"ready": is_ready, "stopping": is_draining, "profiles": profiles});
    let mut response = text(status, body.to_string() + "\n");
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
