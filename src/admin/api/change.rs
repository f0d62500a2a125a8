//! What the gateway is told to do over the API.

use std::time::Duration;

use axum::{
    Json,
    body::Bytes,
    extract::{ConnectInfo, Path, State},
    http::StatusCode,
};
use serde::de::DeserializeOwned;

use super::{Answer, Gateway, control, refuse};
use crate::{
    admin::{
        Shown,
        changes::{self, Control, Refusal, Reloaded, Switched, Wish},
        socket::Peer,
        types::{Done, Empty, LogLevel, Problem, SwitchEnvironment, SwitchRoute},
    },
    token,
};

/// How much can be logged.
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Runs a change on a thread that may block. It goes on when who asked hangs up.
async fn change<T: Send + 'static>(
    shown: &Shown,
    work: impl FnOnce(&dyn Control) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let control = control(shown)?;
    tokio::task::spawn_blocking(move || work(&*control)).await.unwrap_or_else(|_| {
        Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, "failed", "the change has failed; the log says more"))
    })
}

/// A body that is read strictly: what is not understood is refused, not passed over.
fn body<T: DeserializeOwned + Default>(bytes: &Bytes) -> Result<T, Refusal> {
    if bytes.is_empty() {
        return Ok(T::default());
    }
    wanted(bytes)
}

fn wanted<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Refusal> {
    // A list of a structure's fields would be taken for it.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(refuse(StatusCode::BAD_REQUEST, "bad_body", "the body is not a JSON object"));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        refuse(
            StatusCode::BAD_REQUEST,
            "bad_body",
            &format!("the body is not what is expected here: {error}"),
        )
    })
}

fn lasts(text: Option<&str>) -> Result<Option<Duration>, Refusal> {
    let Some(text) = text else { return Ok(None) };
    changes::span(text).map(Some).ok_or_else(|| {
        refuse(StatusCode::BAD_REQUEST, "bad_span", "\"for\" is a span such as 30s, 15m, 8h or 2d")
    })
}

/// Reads the configuration's file again and serves what it says.
#[utoipa::path(
    post, path = "/api/v1/reload", request_body = Empty,
    responses(
        (status = 200, body = Reloaded), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 409, body = Problem), (status = 415, body = Problem), (status = 422, body = Problem),
        (status = 507, body = Problem)
    )
)]
pub(super) async fn reload(
    State(shown): Gateway,
    ConnectInfo(peer): ConnectInfo<Peer>,
    bytes: Bytes,
) -> Answer<Reloaded> {
    let Empty {} = body(&bytes)?;
    let by = peer.name();
    change(&shown, move |control| control.reload(&by)).await.map(Json)
}

/// Serves a route with another profile. The profile's token is obtained first.
#[utoipa::path(
    post, path = "/api/v1/routes/{route}/switch", params(("route" = String, Path, description = "The route's name")),
    request_body = SwitchRoute,
    responses(
        (status = 200, body = Switched), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 415, body = Problem),
        (status = 422, body = Problem), (status = 502, body = Problem), (status = 507, body = Problem)
    )
)]
pub(super) async fn switch_route(
    State(shown): Gateway,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(route): Path<String>,
    bytes: Bytes,
) -> Answer<Switched> {
    let SwitchRoute { profile, lasts: span, dry_run } = wanted(&bytes)?;
    let lasts = lasts(span.as_deref())?;
    let wish = Wish { route: Some(route), to: Some(profile), lasts, is_dry_run: dry_run };
    let by = peer.name();
    change(&shown, move |control| control.switch(&wish, &by)).await.map(Json)
}

/// Takes back a route's latest switch.
#[utoipa::path(
    post, path = "/api/v1/routes/{route}/undo", params(("route" = String, Path, description = "The route's name")),
    request_body = Empty,
    responses(
        (status = 200, body = Switched), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 415, body = Problem),
        (status = 422, body = Problem), (status = 502, body = Problem), (status = 507, body = Problem)
    )
)]
pub(super) async fn undo_route(
    State(shown): Gateway,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(route): Path<String>,
    bytes: Bytes,
) -> Answer<Switched> {
    let Empty {} = body(&bytes)?;
    let by = peer.name();
    change(&shown, move |control| control.undo(Some(&route), &by)).await.map(Json)
}

/// Serves everything in another environment.
#[utoipa::path(
    post, path = "/api/v1/environment/switch", request_body = SwitchEnvironment,
    responses(
        (status = 200, body = Switched), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 415, body = Problem),
        (status = 422, body = Problem), (status = 502, body = Problem), (status = 507, body = Problem)
    )
)]
pub(super) async fn switch_environment(
    State(shown): Gateway,
    ConnectInfo(peer): ConnectInfo<Peer>,
    bytes: Bytes,
) -> Answer<Switched> {
    let SwitchEnvironment { environment, lasts: span, dry_run } = wanted(&bytes)?;
    let lasts = lasts(span.as_deref())?;
    let wish = Wish { route: None, to: environment, lasts, is_dry_run: dry_run };
    let by = peer.name();
    change(&shown, move |control| control.switch(&wish, &by)).await.map(Json)
}

/// Takes back the environment's latest switch.
#[utoipa::path(
    post, path = "/api/v1/environment/undo", request_body = Empty,
    responses(
        (status = 200, body = Switched), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 409, body = Problem), (status = 415, body = Problem), (status = 422, body = Problem),
        (status = 502, body = Problem), (status = 507, body = Problem)
    )
)]
pub(super) async fn undo_environment(
    State(shown): Gateway,
    ConnectInfo(peer): ConnectInfo<Peer>,
    bytes: Bytes,
) -> Answer<Switched> {
    let Empty {} = body(&bytes)?;
    let by = peer.name();
    change(&shown, move |control| control.undo(None, &by)).await.map(Json)
}

/// Fetches a token for a profile now, whatever there is: after a change at the identity provider.
#[utoipa::path(
    post, path = "/api/v1/profiles/{profile}/refresh",
    params(("profile" = String, Path, description = "The profile's name")), request_body = Empty,
    responses(
        (status = 200, body = Done), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 404, body = Problem), (status = 415, body = Problem), (status = 502, body = Problem)
    )
)]
pub(super) async fn refresh(
    State(shown): Gateway,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(profile): Path<String>,
    bytes: Bytes,
) -> Answer<Done> {
    let Empty {} = body(&bytes)?;
    let handle = shown.profiles.load().iter().find(|handle| handle.name() == profile).cloned();
    let Some(handle) = handle else {
        return Err(refuse(StatusCode::NOT_FOUND, "not_defined", "there is no such profile"));
    };
    tracing::info!(target: "audit", action = "refresh", profile, by = peer.name(), "a token is fetched");
    match handle.renew(handle.patience()).await {
        Ok(()) => Ok(Json(Done { done: true })),
        Err(unavailable) => {
            let why = match &unavailable.reason {
                token::Reason::Failed(error) => error.to_string(),
                token::Reason::TimedOut => "the identity provider has not answered".to_owned(),
                token::Reason::TooManyWaiters => "too many requests wait for a token".to_owned(),
            };
            Err(refuse(StatusCode::BAD_GATEWAY, "no_token", &format!("no new token: {why}")))
        }
    }
}

/// Says how much is logged, until the next reload or restart.
#[utoipa::path(
    put, path = "/api/v1/log-level", request_body = LogLevel,
    responses(
        (status = 200, body = LogLevel), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 409, body = Problem), (status = 415, body = Problem)
    )
)]
pub(super) async fn log_level(
    State(shown): Gateway,
    ConnectInfo(peer): ConnectInfo<Peer>,
    bytes: Bytes,
) -> Answer<LogLevel> {
    let LogLevel { level } = wanted(&bytes)?;
    // The parser alone would take numbers and capitals as well.
    let known = LEVELS.contains(&level.as_str()).then(|| level.parse::<tracing::Level>().ok()).flatten();
    let parsed = known.ok_or_else(|| {
        refuse(StatusCode::BAD_REQUEST, "bad_level", "level is one of error, warn, info, debug and trace")
    })?;
    match shown.log.as_ref().is_some_and(|log| log.set_level(parsed)) {
        true => {
            // Every line has a `level` of its own.
            tracing::info!(target: "audit", action = "log_level", to = level, by = peer.name(), "the log's level is changed");
            Ok(Json(LogLevel { level }))
        }
        false => {
            let detail = "the log has a filter from the command line or KEYBEARER_LOG, which stays";
            Err(refuse(StatusCode::CONFLICT, "filter_given", detail))
        }
    }
}
