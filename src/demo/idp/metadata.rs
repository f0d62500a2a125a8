//! What each door of the identity provider publishes about itself: endpoints, issuer and keys.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{door::Door, issue, knobs::Inner, refusal::Refusal};

pub(super) async fn plain_metadata(State(idp): State<Arc<Inner>>) -> Json<Value> {
    let base = &idp.base;
    Json(metadata(base, &format!("{base}/oauth2"), "token", &format!("{base}/jwks")))
}

pub(super) async fn entra_metadata(State(idp): State<Arc<Inner>>, Path(tenant): Path<String>) -> Response {
    tenant_metadata(&idp, &Door::Entra { tenant })
}

pub(super) async fn policy_metadata(
    State(idp): State<Arc<Inner>>,
    Path((tenant, policy)): Path<(String, String)>,
) -> Response {
    tenant_metadata(&idp, &Door::Policy { tenant, policy })
}

/// As Entra does, the issuer names the tenant by its GUID, however it was asked for.
fn tenant_metadata(idp: &Inner, door: &Door) -> Response {
    let tenant = door.tenant().unwrap_or("");
    let Some(id) = idp.tenant_id(tenant) else {
        return Refusal::unknown_tenant(tenant).answer(door.voice(), None);
    };
    let base = &idp.base;
    let (root, issuer) = match door {
        Door::Policy { policy, .. } => (format!("{base}/{tenant}/{policy}"), format!("{base}/{id}/v2.0/")),
        _ => (format!("{base}/{tenant}"), format!("{base}/{id}/v2.0")),
    };
    let (oauth2, keys) = (format!("{root}/oauth2"), format!("{root}/discovery/v2.0/keys"));
    Json(metadata(&issuer, &oauth2, "v2.0/token", &keys)).into_response()
}

fn metadata(issuer: &str, oauth2: &str, token: &str, keys: &str) -> Value {
    let authorize = token.replace("token", "authorize");
    json!({
        "issuer": issuer,
        "token_endpoint": format!("{oauth2}/{token}"),
        "authorization_endpoint": format!("{oauth2}/{authorize}"),
        "jwks_uri": keys,
        "grant_types_supported": ["client_credentials"],
        "response_types_supported": ["token"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
    })
}

pub(super) async fn keys() -> Json<Value> {
    Json(issue::key_set())
}
