//! Places that keep secrets, as far as the gateway's sources see them: a Vault, a Key Vault.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A server of secrets whose answers the test decides. Ends with the test's runtime.
pub(crate) struct Server {
    url: String,
    shared: Arc<Shared>,
}

type Answers = dyn Fn(&Asked) -> (u16, Value) + Send + Sync;

struct Shared {
    answer: Box<Answers>,
    /// Status codes that come first.
    first: Mutex<VecDeque<u16>>,
    asked: Mutex<Vec<Asked>>,
}

impl Server {
    pub(crate) async fn start(answer: impl Fn(&Asked) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared =
            Arc::new(Shared { answer: Box::new(answer), first: Mutex::default(), asked: Mutex::default() });
        let router = Router::new().fallback(serve).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, shared }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The next requests get these statuses and nothing else, with 429 a waiting time of two minutes.
    pub(crate) fn fail(&self, statuses: &[u16]) {
        self.shared.first.lock().unwrap().extend(statuses);
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// How often a path that ends like this was asked for.
    pub(crate) fn count(&self, end: &str) -> usize {
        self.asked().iter().filter(|asked| asked.path.ends_with(end)).count()
    }
}

async fn serve(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let body = axum::body::to_bytes(request.into_body(), 65_536).await.unwrap_or(Bytes::new());
    let path = uri.path_and_query().map_or(String::new(), ToString::to_string);
    let asked = Asked { path, headers, body: serde_json::from_slice(&body).unwrap_or_default() };
    shared.asked.lock().unwrap().push(asked.clone());
    let failure = shared.first.lock().unwrap().pop_front();
    let (status, json) =
        failure.map_or_else(|| (shared.answer)(&asked), |status| (status, json!({"errors": []})));
    let mut response = (StatusCode::from_u16(status).unwrap(), json.to_string()).into_response();
    if status == 429 {
        response.headers_mut().insert("retry-after", HeaderValue::from_static("120"));
    }
    response
}

/// What a Vault answers: a login, and a secret of a key-value engine of version 2.
pub(crate) fn vault(secret: &'static str) -> impl Fn(&Asked) -> (u16, Value) + Send + Sync {
    move |asked| match asked.path.as_str() {
        path if path.ends_with("/login") => {
            let is_right = asked.body["secret_id"] == "canary-id" || asked.body["jwt"] == "canary-jwt";
            let token = json!({"auth": {"client_token": "canary-login", "lease_duration": 3600}});
            if is_right { (200, token) } else { (400, json!({"errors": ["invalid role or secret ID"]})) }
        }
        "/v1/secret/data/app" if asked.header("x-vault-token") == Some("canary-login") => {
            (200, json!({"data": {"data": {"password": secret, "n": 1}, "metadata": {"version": 2}}}))
        }
        "/v1/kv/app" if asked.header("x-vault-token") == Some("canary-login") => {
            (200, json!({"data": {"password": secret}}))
        }
        path if path.starts_with("/v1/secret/data") || path.starts_with("/v1/kv") => {
            (403, json!({"errors": ["permission denied"]}))
        }
        _ => (404, json!({"errors": []})),
    }
}
