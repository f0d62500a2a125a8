//! A Web API on loopback that demands a token with a role, for the demo and for the tests.
//!
//! It refuses as real APIs do (RFC 6750 §3), reads bodies as they stream in, echoes what it was sent
//! and remembers it. It shows the names of headers, never the value of a credential, to its client.

mod upload;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use super::idp::{
    Verifier,
    issue::{Claims, Reason},
    loopback::{Loopback, lock, pairs, pause, raw},
    reached,
};
use upload::Upload;

/// How many requests are remembered.
const HISTORY: usize = 1024;

/// What the API demands of a token.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The GUID that must stand in `aud`.
    pub audience: String,
    /// The app role that the account must have.
    pub role: String,
}

/// What a 401 says in `WWW-Authenticate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// `Bearer` with realm, or with the error and its description.
    Standard,
    /// No challenge at all.
    Absent,
    /// This text.
    Text(String),
}

/// When a 401 is sent before the body was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Early {
    /// Answer once this much of the body has arrived, or all of it.
    pub after_bytes: u64,
    /// Close the connection after the answer; otherwise the rest of the body is read and dropped.
    pub close: bool,
}

/// A request as it arrived, the token included: for assertions, never for a log.
#[derive(Clone)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// Path and query, byte by byte as received; the whole URL if it came in absolute form.
    pub target: String,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// How much of the body was read.
    pub body_length: u64,
    /// SHA-256 of what was read, in hex.
    pub body_sha256: String,
    /// The status that it was answered with.
    pub status: u16,
}

impl Seen {
    /// Every value of a header, named in lower case.
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The token of the only `Authorization`, when it is a bearer token.
    pub fn token(&self) -> Option<&str> {
        match self.values("authorization").as_slice() {
            [value] => bearer(value),
            _ => None,
        }
    }
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        let Seen { method, target, body_length, status, .. } = self;
        write!(f, "Seen({method} {target} with {names:?}, {body_length} bytes, answered {status})")
    }
}

/// A running API and its knobs, which take effect at once. Dropping it stops it.
pub struct Api {
    inner: Arc<Inner>,
    server: Loopback,
}

impl Api {
    /// Starts one on a free port of 127.0.0.1.
    pub async fn start(verifier: Verifier, settings: Settings) -> io::Result<Api> {
        Api::serve(Loopback::bind().await?, verifier, settings)
    }

    /// Starts one on a socket that is already bound. Must be called within a runtime.
    pub fn serve(listener: TcpListener, verifier: Verifier, settings: Settings) -> io::Result<Api> {
        let inner = Arc::new(Inner::new(verifier, settings));
        let router = Router::new().fallback(serve).with_state(inner.clone());
        Ok(Api { inner, server: Loopback::serve(listener, router, None)? })
    }

    /// The base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Closes the socket and every connection. When this returns, connects are refused.
    pub async fn go_down(&self) -> io::Result<()> {
        self.server.go_down().await
    }

    /// Listens on the same port again. Fails when somebody took the port.
    pub async fn come_back(&self) -> io::Result<()> {
        self.server.come_back().await
    }

    /// How many requests arrived.
    pub fn requests(&self) -> u64 {
        *self.inner.requests.borrow()
    }

    /// How many of them were answered 401 for want of a good token.
    pub fn unauthorized(&self) -> u64 {
        *self.inner.unauthorized.borrow()
    }

    /// Waits until `count` requests arrived since the start; they may still be in work.
    pub async fn wait_for_requests(&self, count: u64) {
        reached(&self.inner.requests, count).await;
    }

    /// Waits until `count` requests were answered 401 since the start.
    pub async fn wait_for_unauthorized(&self, count: u64) {
        reached(&self.inner.unauthorized, count).await;
    }

    /// The request that was answered last.
    pub fn last(&self) -> Option<Seen> {
        lock(&self.inner.knobs).history.back().cloned()
    }

    /// The latest 1024 requests in the order of their answers.
    pub fn history(&self) -> Vec<Seen> {
        lock(&self.inner.knobs).history.iter().cloned().collect()
    }

    /// Answers the next `times` requests like this, whatever token they bring.
    pub fn answer_next_with(&self, status: u16, headers: &[(&str, &str)], body: &str, times: usize) {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        lock(&self.inner.knobs).script = Some(Script { status, headers, body: body.to_owned(), times });
    }

    /// What a 401 says from now on.
    pub fn set_challenge(&self, challenge: Challenge) {
        lock(&self.inner.knobs).challenge = challenge;
    }

    /// From now on a request without a good token is refused before its body has been read.
    pub fn set_early_401(&self, early: Option<Early>) {
        lock(&self.inner.knobs).early = early;
    }

    /// How long each request waits before its token is looked at.
    pub fn set_delay(&self, delay: Duration) {
        lock(&self.inner.knobs).delay = delay;
    }
}

struct Inner {
    verifier: Verifier,
    settings: Settings,
    requests: watch::Sender<u64>,
    unauthorized: watch::Sender<u64>,
    knobs: Mutex<Knobs>,
    /// Bodies that are read on after an early answer.
    draining: Mutex<JoinSet<()>>,
}

struct Knobs {
    script: Option<Script>,
    challenge: Challenge,
    early: Option<Early>,
    delay: Duration,
    history: VecDeque<Seen>,
}

struct Script {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
    times: usize,
}

/// Why a request is not let in.
enum Refusal {
    NoToken,
    BadToken(Reason),
    NoRole,
}

async fn serve(State(api): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    api.requests.send_modify(|count| *count += 1);
    let (delay, early) = {
        let knobs = lock(&api.knobs);
        (knobs.delay, knobs.early)
    };
    pause(delay).await;
    let mut upload = Upload::new(body);
    let mut close = false;
    let mut response = if let Some(response) = api.scripted() {
        upload.read(u64::MAX).await;
        response
    } else {
        match api.admit(&parts) {
            Ok(claims) => {
                upload.read(u64::MAX).await;
                echo(&parts, &upload, claims.as_ref())
            }
            Err(refusal) => {
                upload.read(early.map_or(u64::MAX, |early| early.after_bytes)).await;
                close = early.is_some_and(|early| early.close);
                api.refuse(&refusal)
            }
        }
    };
    response
        .headers_mut()
        .insert(HeaderName::from_static("x-served-by"), HeaderValue::from_static("demo-api"));
    if close {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    api.remember(&parts, &upload, response.status());
    if !close && !upload.is_finished() {
        api.drain(upload);
    }
    response
}

impl Inner {
    fn new(verifier: Verifier, settings: Settings) -> Inner {
        let knobs = Knobs {
            script: None,
            challenge: Challenge::Standard,
            early: None,
            delay: Duration::ZERO,
            history: VecDeque::new(),
        };
        Inner {
            verifier,
            settings,
            requests: watch::Sender::new(0),
            unauthorized: watch::Sender::new(0),
            knobs: Mutex::new(knobs),
            draining: Mutex::new(JoinSet::new()),
        }
    }

    fn scripted(&self) -> Option<Response> {
        let mut knobs = lock(&self.knobs);
        let script = knobs.script.as_mut().filter(|script| script.times > 0)?;
        script.times -= 1;
        Some(raw(script.status, &script.headers, script.body.clone()))
    }

    /// Looks at the token; `/status` needs none.
    fn admit(&self, parts: &Parts) -> Result<Option<Claims>, Refusal> {
        if parts.uri.path() == "/status" {
            return Ok(None);
        }
        let value = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = value.and_then(bearer).ok_or(Refusal::NoToken)?;
        let claims = self.verifier.verify(token, &self.settings.audience).map_err(Refusal::BadToken)?;
        if claims.has_role(&self.settings.role) { Ok(Some(claims)) } else { Err(Refusal::NoRole) }
    }

    fn refuse(&self, refusal: &Refusal) -> Response {
        let (status, standard, detail) = match refusal {
            Refusal::NoToken => (
                StatusCode::UNAUTHORIZED,
                "Bearer realm=\"orders\"".to_owned(),
                "A token is needed".to_owned(),
            ),
            Refusal::BadToken(reason) => (
                StatusCode::UNAUTHORIZED,
                format!("Bearer error=\"invalid_token\", error_description=\"{reason}\""),
                reason.to_string(),
            ),
            Refusal::NoRole => (
                StatusCode::FORBIDDEN,
                format!("Bearer error=\"insufficient_scope\", scope=\"{}\"", self.settings.role),
                format!("The role {} is needed", self.settings.role),
            ),
        };
        let mut challenge = Some(standard);
        if status == StatusCode::UNAUTHORIZED {
            challenge = match lock(&self.knobs).challenge.clone() {
                Challenge::Standard => challenge,
                Challenge::Absent => None,
                Challenge::Text(text) => Some(text),
            };
            self.unauthorized.send_modify(|count| *count += 1);
        }
        let title = status.canonical_reason().unwrap_or_default();
        let body =
            json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail});
        let mut headers = vec![("content-type".to_owned(), "application/problem+json".to_owned())];
        headers.extend(challenge.map(|challenge| ("www-authenticate".to_owned(), challenge)));
        raw(status.as_u16(), &headers, body.to_string())
    }

    fn remember(&self, parts: &Parts, upload: &Upload, status: StatusCode) {
        let seen = Seen {
            method: parts.method.to_string(),
            target: parts.uri.to_string(),
            headers: pairs(&parts.headers),
            body_length: upload.length(),
            body_sha256: upload.sha256(),
            status: status.as_u16(),
        };
        let mut knobs = lock(&self.knobs);
        if knobs.history.len() == HISTORY {
            knobs.history.pop_front();
        }
        knobs.history.push_back(seen);
    }

    /// Reads the rest, so that the answer is not lost in a reset of the connection.
    fn drain(&self, mut upload: Upload) {
        let mut draining = lock(&self.draining);
        while draining.try_join_next().is_some() {}
        draining.spawn(async move { upload.read(u64::MAX).await });
    }
}

fn echo(parts: &Parts, upload: &Upload, claims: Option<&Claims>) -> Response {
    let target = parts.uri.to_string();
    let seen = json!({
        "account": claims.map(|claims| &claims.azp), "roles": claims.map(|claims| &claims.roles),
        "method": parts.method.as_str(), "path": target,
    });
    let body = if parts.uri.path() == "/status" {
        json!({"status": "ok"})
    } else if parts.method == Method::GET && parts.uri.path() == "/v1/orders" {
        json!({"orders": [{"id": 1, "item": "anvil"}, {"id": 2, "item": "rope"}], "seen": seen})
    } else {
        let authorizations = parts.headers.get_all(header::AUTHORIZATION).iter().count();
        json!({
            "method": parts.method.as_str(),
            "path": target,
            "seen": seen,
            "body": {"length": upload.length(), "sha256": upload.sha256()},
            "headers": {
                "names": parts.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
                "values": shown(parts),
                "authorization": authorizations,
            },
        })
    };
    Json(body).into_response()
}

/// The values that a test may want and that are no secrets, each name's in one list.
fn shown(parts: &Parts) -> Value {
    const ALSO: [&str; 4] = ["host", "via", "content-length", "transfer-encoding"];
    let shown = |name: &str| name.starts_with("x-") || ALSO.contains(&name);
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in pairs(&parts.headers).into_iter().filter(|(name, _)| shown(name)) {
        values.entry(name).or_default().push(value);
    }
    json!(values)
}

/// The token of `Bearer <token>`; the scheme's case does not matter.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start())
}
