//! The doors of the identity provider: Entra's token endpoints, B2C's policy door, a plain OAuth 2.0
//! server, and what each publishes about itself.
//!
//! A door checks the request as its model does and says no in the same words. What a test wants
//! instead of that is in `Behaviour`; this file only carries it out.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::to_bytes,
    extract::{Path, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::{
    Behaviour, assertion,
    issue::{Grant, unix_ms},
    knobs::{Inner, Plan},
    loopback::{pairs, pause, raw},
    machine,
    metadata::{entra_metadata, keys, plain_metadata, policy_metadata},
    recorded::{Recorded, basic},
    refusal::{Refusal, Voice},
};

/// A token request is a few hundred bytes; an assertion makes it a few thousand.
const BODY_BYTES: usize = 64 * 1024;

/// Where a token request came in.
pub(super) enum Door {
    /// Entra ID, version 2.0 and 1.0 of the endpoint.
    Entra {
        tenant: String,
    },
    EntraV1 {
        tenant: String,
    },
    /// Azure AD B2C with a policy in the path.
    Policy {
        tenant: String,
        policy: String,
    },
    /// RFC 6749 and nothing else.
    Plain,
}

/// A token request as it was read.
pub(super) struct Asked {
    parts: Parts,
    pub(super) form: Vec<(String, String)>,
}

/// Who asks, and how that was shown.
struct Credentials {
    client_id: String,
    secret: Option<String>,
    /// The assertion, with what it says that it is.
    assertion: Option<(String, Option<String>)>,
    basic: bool,
}

pub(super) fn router(idp: Arc<Inner>) -> Router {
    Router::new()
        .route("/oauth2/token", post(plain))
        .route("/{tenant}/oauth2/v2.0/token", post(entra))
        .route("/{tenant}/oauth2/token", post(entra_v1))
        .route("/{tenant}/{policy}/oauth2/v2.0/token", post(policy))
        .route("/metadata/identity/oauth2/token", get(machine::imds))
        .route("/msi/token", get(machine::app_service))
        .route("/.well-known/openid-configuration", get(plain_metadata))
        .route("/.well-known/oauth-authorization-server", get(plain_metadata))
        .route("/{tenant}/v2.0/.well-known/openid-configuration", get(entra_metadata))
        .route("/{tenant}/{policy}/v2.0/.well-known/openid-configuration", get(policy_metadata))
        .route("/jwks", get(keys))
        .route("/{tenant}/discovery/v2.0/keys", get(keys))
        .route("/{tenant}/{policy}/discovery/v2.0/keys", get(keys))
        .with_state(idp)
}

async fn plain(State(idp): State<Arc<Inner>>, request: Request) -> Response {
    answer(&idp, &Door::Plain, request).await
}

async fn entra(State(idp): State<Arc<Inner>>, Path(tenant): Path<String>, request: Request) -> Response {
    answer(&idp, &Door::Entra { tenant }, request).await
}

async fn entra_v1(State(idp): State<Arc<Inner>>, Path(tenant): Path<String>, request: Request) -> Response {
    answer(&idp, &Door::EntraV1 { tenant }, request).await
}

async fn policy(
    State(idp): State<Arc<Inner>>,
    Path((tenant, policy)): Path<(String, String)>,
    request: Request,
) -> Response {
    answer(&idp, &Door::Policy { tenant, policy }, request).await
}

async fn answer(idp: &Inner, door: &Door, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY_BYTES).await.unwrap_or_default();
    let form = form_urlencoded::parse(&body).into_owned().collect();
    let asked = Asked { parts, form };
    respond(idp, door.voice(), &asked, || grant(idp, door, &asked)).await
}

/// Does what the script says; `decide` is what the door does by itself.
pub(super) async fn respond(
    idp: &Inner,
    voice: Voice,
    asked: &Asked,
    decide: impl FnOnce() -> Result<Value, Refusal>,
) -> Response {
    let Plan { behaviour, delay } = idp.record(recorded(asked));
    pause(delay).await;
    let behaviour = idp.after_hanging(behaviour).await;
    let correlation_id = asked.header("client-request-id").map(str::to_owned);
    let refuse = |refusal: Refusal| refusal.answer(voice, correlation_id.as_deref());
    let mut response = match behaviour {
        Behaviour::Normal | Behaviour::Hang => decide().map_or_else(refuse, success),
        Behaviour::Raw { status, headers, body } => raw(status, &headers, body),
        Behaviour::Status(status) => refuse(Refusal::of_status(status)),
        Behaviour::Refuse { status, error, code } => {
            refuse(Refusal::new(status, error, code, "Refused as the script says."))
        }
        Behaviour::Throttle { retry_after_seconds } => {
            let mut response = refuse(Refusal::of_status(429));
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_seconds));
            response
        }
        Behaviour::Shape(shape) => match decide() {
            Ok(mut token) => {
                shape(&mut token);
                success(token)
            }
            Err(refusal) => refuse(refusal),
        },
    };
    if let Some(Ok(id)) = correlation_id.as_deref().map(HeaderValue::from_str) {
        response.headers_mut().insert(HeaderName::from_static("client-request-id"), id);
    }
    response
}

fn success(token: Value) -> Response {
    let mut response = Json(token).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-cache"));
    response.headers_mut().insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

/// Decides one request in the order in which Entra does: form, tenant, client, secret, scope.
fn grant(idp: &Inner, door: &Door, asked: &Asked) -> Result<Value, Refusal> {
    asked.check_form()?;
    let tenant = door.tenant().unwrap_or("");
    let tenant_id = match door.tenant() {
        Some(name) => idp.tenant_id(name).ok_or_else(|| Refusal::unknown_tenant(name))?,
        None => String::new(),
    };
    let credentials = asked.credentials()?;
    let path = asked.parts.uri.path();
    let roles = authenticate(idp, door, tenant, path, &credentials).map_err(|mut refusal| {
        refusal.basic_challenge = credentials.basic && refusal.status == StatusCode::UNAUTHORIZED;
        refusal
    })?;
    let (resource, audience) = target(idp, door, tenant, asked)?;
    let base = &idp.base;
    let (issuer, rights) = match door {
        Door::Entra { .. } | Door::EntraV1 { .. } => {
            (format!("{base}/{tenant_id}/v2.0"), roles_claim(&roles))
        }
        Door::Policy { policy, .. } => (
            format!("{base}/{tenant_id}/v2.0/"),
            vec![("scp", json!(roles.join(" "))), ("tfp", json!(policy))],
        ),
        Door::Plain => {
            let mut rights = roles_claim(&roles);
            rights.extend(asked.field("scope").map(|scope| ("scp", json!(scope))));
            (base.clone(), rights)
        }
    };
    let (lifetime, refresh_in) = idp.lifetime();
    let client_id = credentials.client_id;
    let token = idp.issue(&Grant { issuer, audience, client_id, tenant_id, lifetime, rights });
    let seconds = lifetime.as_secs();
    let mut body = json!({"token_type": "Bearer", "expires_in": seconds, "access_token": token});
    let members = door.members(seconds, &resource, asked.field("scope").unwrap_or(""));
    merge(&mut body, members);
    if let Some(refresh_in) = refresh_in {
        merge(&mut body, json!({"refresh_in": refresh_in.as_secs()}));
    }
    Ok(body)
}

pub(super) fn merge(body: &mut Value, members: Value) {
    if let (Value::Object(body), Value::Object(members)) = (body, members) {
        body.extend(members);
    }
}

/// An account without roles gets a token without the claim, as from Entra.
pub(super) fn roles_claim(roles: &[String]) -> Vec<(&'static str, Value)> {
    if roles.is_empty() { Vec::new() } else { vec![("roles", json!(roles))] }
}

fn authenticate(
    idp: &Inner,
    door: &Door,
    tenant: &str,
    path: &str,
    credentials: &Credentials,
) -> Result<Vec<String>, Refusal> {
    let id = &credentials.client_id;
    let Some(account) = idp.account(id) else {
        return Err(match door {
            Door::Plain => Refusal::wrong_secret(id),
            _ => Refusal::unknown_client(id, tenant),
        });
    };
    if let (Some((assertion, kind)), None) = (&credentials.assertion, &credentials.secret) {
        let presented = assertion::Presented {
            assertion,
            kind: kind.as_deref(),
            client_id: id,
            token_url: &format!("{}{path}", idp.base),
            strict: idp.is_strict(),
        };
        return presented.judge(&account, &idp.seen).map(|()| account.roles);
    }
    let secret = credentials.secret.as_ref().ok_or_else(Refusal::no_secret)?;
    if account.secrets.contains(secret) { Ok(account.roles) } else { Err(Refusal::wrong_secret(id)) }
}

/// The resource as it was named, and the audience of its tokens.
fn target(idp: &Inner, door: &Door, tenant: &str, asked: &Asked) -> Result<(String, String), Refusal> {
    let resource = match door {
        Door::Plain => match asked.field("resource").or_else(|| asked.field("audience")) {
            Some(resource) => resource.to_owned(),
            None => return Ok((String::new(), idp.first_audience())),
        },
        Door::EntraV1 { .. } => {
            asked.field("resource").ok_or_else(|| Refusal::missing("resource"))?.to_owned()
        }
        Door::Entra { .. } | Door::Policy { .. } => {
            let scope = asked.field("scope").ok_or_else(|| Refusal::missing("scope"))?;
            if scope.contains(' ') {
                return Err(Refusal::several_scopes(scope));
            }
            // Entra takes everything before the last slash, so that `https://x//.default` works.
            scope.strip_suffix("/.default").ok_or_else(|| Refusal::scope_without_default(scope))?.to_owned()
        }
    };
    match idp.audience(&resource) {
        Some(audience) => Ok((resource, audience)),
        None if matches!(door, Door::Plain) => {
            Err(Refusal::new(400, "invalid_target", 0, "The resource is not known."))
        }
        None => Err(Refusal::unknown_resource(&resource, tenant)),
    }
}

impl Door {
    pub(super) fn tenant(&self) -> Option<&str> {
        match self {
            Door::Entra { tenant } | Door::EntraV1 { tenant } | Door::Policy { tenant, .. } => Some(tenant),
            Door::Plain => None,
        }
    }

    /// What the answer holds beyond type, lifetime and token.
    fn members(&self, seconds: u64, resource: &str, scope: &str) -> Value {
        let now = unix_ms() / 1000;
        let end = now + seconds;
        match self {
            Door::Entra { .. } => json!({"ext_expires_in": seconds}),
            // Version 1 sends its numbers as strings.
            Door::EntraV1 { .. } => json!({
                "expires_in": seconds.to_string(), "ext_expires_in": seconds.to_string(),
                "not_before": now.to_string(), "expires_on": end.to_string(), "resource": resource,
            }),
            Door::Policy { .. } => json!({"not_before": now, "expires_on": end, "resource": resource}),
            Door::Plain => json!({"scope": scope}),
        }
    }

    pub(super) fn voice(&self) -> Voice {
        match self {
            Door::Entra { .. } | Door::EntraV1 { .. } => Voice::Entra,
            Door::Policy { .. } => Voice::Policy,
            Door::Plain => Voice::Plain,
        }
    }
}

impl Asked {
    /// A request whose parameters are in its query.
    pub(super) fn query(request: Request) -> Asked {
        let (parts, _) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default();
        let form = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        Asked { parts, form }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.parts.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// RFC 6749 §3.2: an empty parameter counts as absent.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.form.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    fn check_form(&self) -> Result<(), Refusal> {
        let media_type = self.header("content-type").and_then(|t| t.split(';').next()).unwrap_or("").trim();
        if !media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(Refusal::malformed("The content type must be application/x-www-form-urlencoded."));
        }
        let repeated = |name: &str| self.form.iter().filter(|(n, _)| n == name).count() > 1;
        if self.form.iter().any(|(name, _)| name != "resource" && repeated(name)) {
            return Err(Refusal::malformed("A parameter is included more than once."));
        }
        match self.field("grant_type") {
            Some("client_credentials") => Ok(()),
            Some(other) => Err(Refusal::grant_type(other)),
            None => Err(Refusal::missing("grant_type")),
        }
    }

    fn credentials(&self) -> Result<Credentials, Refusal> {
        let secret = self.field("client_secret").map(str::to_owned);
        if self.parts.headers.contains_key(header::AUTHORIZATION) {
            if secret.is_some() {
                return Err(Refusal::malformed("Only one way of client authentication may be used."));
            }
            let (client_id, secret) = basic(&self.parts.headers).ok_or_else(|| {
                let mut refusal = Refusal::wrong_secret("");
                refusal.basic_challenge = true;
                refusal
            })?;
            return Ok(Credentials { client_id, secret: Some(secret), assertion: None, basic: true });
        }
        let client_id = self.field("client_id").ok_or_else(|| Refusal::missing("client_id"))?.to_owned();
        let kind = self.field("client_assertion_type").map(str::to_owned);
        let assertion = self.field("client_assertion").map(|assertion| (assertion.to_owned(), kind));
        Ok(Credentials { client_id, secret, assertion, basic: false })
    }
}

fn recorded(asked: &Asked) -> Recorded {
    Recorded {
        path: asked.parts.uri.path().to_owned(),
        form: asked.form.clone(),
        headers: pairs(&asked.parts.headers),
        basic: basic(&asked.parts.headers),
    }
}
