//! A machine's own endpoints for managed identities, shaped like those of Azure's virtual machines and of
//! App Service.
//!
//! Whoever can reach them gets tokens, as there. The one that is shaped like App Service's wants its header.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use serde_json::{Value, json};

use super::{
    IDENTITY_HEADER, TENANT_ID,
    door::{Asked, merge, respond, roles_claim},
    issue::{Grant, unix_ms},
    knobs::Inner,
    refusal::{Refusal, Voice},
};

pub(super) async fn imds(State(idp): State<Arc<Inner>>, request: Request) -> Response {
    let asked = Asked::query(request);
    respond(&idp, Voice::Plain, &asked, || {
        // It keeps requests out that somebody had a browser or a server make.
        if asked.header("metadata") != Some("true") {
            return Err(bad_request("Required metadata header not specified"));
        }
        let (mut body, seconds) = token(&idp, &asked)?;
        merge(&mut body, json!({"expires_in": seconds.to_string(), "ext_expires_in": seconds.to_string()}));
        Ok(body)
    })
    .await
}

pub(super) async fn app_service(State(idp): State<Arc<Inner>>, request: Request) -> Response {
    let asked = Asked::query(request);
    respond(&idp, Voice::Plain, &asked, || {
        if asked.header("x-identity-header") != Some(IDENTITY_HEADER) {
            return Err(Refusal::new(401, "invalid_request", 0, "The header X-IDENTITY-HEADER is wrong."));
        }
        token(&idp, &asked).map(|(body, _)| body)
    })
    .await
}

fn bad_request(words: &str) -> Refusal {
    Refusal::new(400, "invalid_request", 0, words)
}

/// What both have in common: their numbers are strings, and they tell whose token it is.
fn token(idp: &Inner, asked: &Asked) -> Result<(Value, u64), Refusal> {
    let named = asked.field("client_id").map(str::to_owned);
    let client_id = named.or_else(|| idp.machine()).ok_or_else(|| bad_request("Identity not found"))?;
    let account = idp.account(&client_id).ok_or_else(|| bad_request("Identity not found"))?;
    let resource = asked.field("resource").ok_or_else(|| bad_request("resource is missing"))?.to_owned();
    let audience =
        idp.audience(&resource).ok_or_else(|| bad_request("The resource principal was not found"))?;
    let (lifetime, _) = idp.lifetime();
    let issuer = format!("{}/{TENANT_ID}/v2.0", idp.base);
    let rights = roles_claim(&account.roles);
    let tenant_id = TENANT_ID.to_owned();
    let token =
        idp.issue(&Grant { issuer, audience, client_id: client_id.clone(), tenant_id, lifetime, rights });
    let (now, seconds) = (unix_ms() / 1000, lifetime.as_secs());
    let body = json!({
        "access_token": token, "token_type": "Bearer", "resource": resource, "client_id": client_id,
        "not_before": now.to_string(), "expires_on": (now + seconds).to_string(),
    });
    Ok((body, seconds))
}
