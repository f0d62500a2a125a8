//! Grants other than client credentials, and what token endpoints answer: the real gateway between a
//! token endpoint of the test's own and an upstream that tells which credential it saw.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, Mutex},
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    Router,
    extract::{Form, State},
    http::{HeaderMap, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use keybearer::{
    app::{self, Running},
    config,
};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    process::{Process, command, keybearer},
    stage::{eventually, fault, pause},
};

/// The parameters of one token request, by name.
type Parameters = HashMap<String, String>;
/// What a token endpoint says to them.
type Judge = Box<dyn Fn(&Parameters) -> (StatusCode, Value) + Send + Sync>;

/// A token endpoint at every path, metadata, and an API below `/api` that answers with the credential.
struct World {
    url: String,
    state: Arc<Shared>,
    task: JoinHandle<()>,
    folder: TempDir,
}

struct Shared {
    url: String,
    judge: Judge,
    seen: Mutex<Vec<(String, Parameters)>>,
    content_type: Mutex<&'static str>,
}

impl World {
    async fn start(judge: impl Fn(&Parameters) -> (StatusCode, Value) + Send + Sync + 'static) -> World {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Shared {
            url: url.clone(),
            judge: Box::new(judge),
            seen: Mutex::default(),
            content_type: Mutex::new("application/json"),
        });
        let router = Router::new()
            .route("/api/{*rest}", axum::routing::any(api))
            .route("/.well-known/openid-configuration", axum::routing::get(metadata))
            .fallback(token)
            .with_state(Arc::clone(&state));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        World { url, state, task, folder: tempfile::tempdir().unwrap() }
    }

    /// Keeps a document for the gateway to read.
    fn keep(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// A configuration with `profile` for everything; `{url}` stands for this server.
    fn yaml(&self, profile: &str) -> String {
        let profile = profile.replace("{url}", &self.url);
        format!(
            "listeners: {{local: {{address: \"127.0.0.1:0\"}}}}\nprofiles:\n  account:\n    kind: oauth2\n    \
             recovery: {{min_token_age: 0s, min_interval: 0s}}\n{profile}\
             routes:\n  all: {{upstream: \"{}/api\", profile: account}}\n",
            self.url
        )
    }

    fn gateway(&self, profile: &str) -> Running {
        let text = self.yaml(profile);
        let loaded = config::parse(&text, &self.folder.path().join("keybearer.yaml"), None);
        app::start(loaded.unwrap_or_else(|p| panic!("{p}\n{text}")).settings, None).unwrap()
    }

    /// The last token request: its path and its parameters.
    fn last(&self) -> (String, Parameters) {
        self.state.seen.lock().unwrap().last().cloned().unwrap()
    }

    fn requests(&self) -> usize {
        self.state.seen.lock().unwrap().len()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn api(headers: HeaderMap) -> String {
    headers.get("authorization").and_then(|h| h.to_str().ok()).unwrap_or("none").to_owned()
}

async fn metadata(State(state): State<Arc<Shared>>) -> axum::Json<Value> {
    axum::Json(json!({
        "issuer": state.url,
        "token_endpoint": format!("{}/token", state.url),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
    }))
}

async fn token(State(state): State<Arc<Shared>>, uri: Uri, Form(parameters): Form<Parameters>) -> Response {
    let (status, body) = (state.judge)(&parameters);
    state.seen.lock().unwrap().push((uri.path().to_owned(), parameters));
    let kind = *state.content_type.lock().unwrap();
    let text = match body {
        Value::String(text) => text,
        body => body.to_string(),
    };
    (status, [(CONTENT_TYPE, kind)], text).into_response()
}

async fn seen_upstream(gateway: &Running) -> String {
    let url = format!("http://{}/orders", gateway.listener("local").unwrap());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    client.get(url).send().await.unwrap().text().await.unwrap()
}

async fn ready(gateway: &Running) {
    eventually("the gateway has its token", || gateway.profiles()[0].is_ready()).await;
}

fn life(gateway: &Running) -> u64 {
    gateway.profiles()[0].view().expires_in.unwrap().as_secs()
}

/// A key whose assertions this test verifies as a server would.
struct Signer {
    pair: KeyPair,
}

impl Signer {
    fn new() -> Signer {
        Signer { pair: KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap() }
    }

    fn pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// Takes what a server needs to verify assertions for `audience`; gives header and claims.
    fn verifier(
        &self,
        audience: &str,
    ) -> impl Fn(&str) -> Result<(jsonwebtoken::Header, Value), jsonwebtoken::errors::Error> + use<> {
        let key = DecodingKey::from_rsa_pem(self.pair.public_key_pem().as_bytes()).unwrap();
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_audience(&[audience]);
        validation.leeway = 0;
        validation.validate_nbf = true;
        move |assertion| {
            jsonwebtoken::decode::<Value>(assertion, &key, &validation).map(|data| (data.header, data.claims))
        }
    }
}

fn google_file(signer: &Signer, token_uri: &str) -> String {
    json!({
        "type": "service_account", "project_id": "p", "private_key_id": "key-1", "private_key": signer.pem(),
        "client_email": "svc@p.iam.gserviceaccount.com", "client_id": "1", "token_uri": token_uri,
    })
    .to_string()
}

fn jwt_of(claims: &Value) -> String {
    format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn refused(error: &str) -> (StatusCode, Value) {
    (StatusCode::BAD_REQUEST, json!({"error": error}))
}

fn now() -> u64 {
    keybearer::clock::wall().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token endpoint that does what Google documents.
async fn google(signer: &Signer) -> World {
    let verify = signer.verifier("https://oauth2.google.example/token");
    World::start(move |parameters| {
        if parameters.get("grant_type").map(String::as_str)
            != Some("urn:ietf:params:oauth:grant-type:jwt-bearer")
            || parameters.keys().any(|name| !matches!(name.as_str(), "grant_type" | "assertion"))
        {
            return refused("invalid_request");
        }
        let Ok((header, claims)) = verify(&parameters["assertion"]) else { return refused("invalid_grant") };
        assert_eq!(header.kid.as_deref(), Some("key-1"));
        let life = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
        if claims["iss"] != "svc@p.iam.gserviceaccount.com" || claims.get("sub").is_some() || life > 3600 {
            return refused("invalid_grant");
        }
        match (claims.get("scope"), claims.get("target_audience")) {
            (Some(scope), None) if scope == "https://www.googleapis.com/auth/pubsub" => {
                let body = json!({"access_token": "ya29.token", "expires_in": 3599, "token_type": "Bearer"});
                (StatusCode::OK, body)
            }
            (None, Some(audience)) => {
                let id = json!({"aud": audience, "iat": now(), "exp": now() + 1800});
                (StatusCode::OK, json!({"id_token": jwt_of(&id)}))
            }
            _ => refused("invalid_scope"),
        }
    })
    .await
}

#[tokio::test]
async fn a_google_service_account_gets_a_token_with_its_key_file_and_a_scope() {
    let signer = Signer::new();
    let world = google(&signer).await;
    world.keep("key.json", &google_file(&signer, "https://oauth2.google.example/token"));
    let gateway = world.gateway(
        "    provider: google\n    token_url: \"{url}/token\"\n    service_account: {file: key.json}\n    \
         scope: https://www.googleapis.com/auth/pubsub\n",
    );
    ready(&gateway).await;
    assert_eq!(seen_upstream(&gateway).await, "Bearer ya29.token");
    assert!((3500..=3599).contains(&life(&gateway)));
}

#[tokio::test]
async fn a_google_id_token_goes_on_requests_and_tells_its_life_itself() {
    let signer = Signer::new();
    let world = google(&signer).await;
    world.keep("key.json", &google_file(&signer, "https://oauth2.google.example/token"));
    let gateway = world.gateway(
        "    token_url: \"{url}/token\"\n    grant: jwt_bearer\n    service_account: {file: key.json}\n    \
         target_audience: https://run.example\n",
    );
    ready(&gateway).await;
    let seen = seen_upstream(&gateway).await;
    let payload = seen.strip_prefix("Bearer e30.").unwrap().split('.').next().unwrap();
    let claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    assert_eq!(claims["aud"], "https://run.example");
    assert!((1700..=1800).contains(&life(&gateway)), "{}", life(&gateway));
}

#[tokio::test]
async fn the_key_file_says_where_tokens_are_asked_for_when_nothing_else_does() {
    let signer = Signer::new();
    type Verify = Box<dyn Fn(&str) -> bool + Send>;
    let verify = Arc::new(Mutex::new(None::<Verify>));
    let world = {
        let verify = Arc::clone(&verify);
        World::start(move |parameters| {
            let held = verify.lock().unwrap();
            let verify: &(dyn Fn(&str) -> bool + Send) = &**held.as_ref().unwrap();
            if !verify(&parameters["assertion"]) {
                return refused("invalid_grant");
            }
            (StatusCode::OK, json!({"access_token": "ya29.there", "token_type": "Bearer"}))
        })
        .await
    };
    let url = format!("{}/its-own-place", world.url);
    let check = signer.verifier(&url);
    *verify.lock().unwrap() =
        Some(Box::new(move |assertion: &str| check(assertion).is_ok()) as Box<dyn Fn(&str) -> bool + Send>);
    world.keep("key.json", &google_file(&signer, &url));
    let gateway =
        world.gateway("    grant: jwt_bearer\n    service_account: {file: key.json}\n    scope: a\n");
    ready(&gateway).await;
    assert_eq!(seen_upstream(&gateway).await, "Bearer ya29.there");
    assert_eq!(world.last().0, "/its-own-place");
}

#[tokio::test]
async fn a_zitadel_key_file_speaks_for_its_user_and_the_scope_stays_in_the_form() {
    let signer = Signer::new();
    let verify = signer.verifier("https://contoso.zitadel.cloud");
    let world = World::start(move |parameters| {
        let Ok((header, claims)) = verify(&parameters["assertion"]) else { return refused("invalid_grant") };
        let is_itself = claims["iss"] == "user-7" && claims["sub"] == "user-7";
        if !is_itself || header.kid.as_deref() != Some("key-7") || parameters["scope"] != "openid profile" {
            return refused("invalid_request");
        }
        (StatusCode::OK, json!({"access_token": "opaque", "token_type": "Bearer", "expires_in": 43199}))
    })
    .await;
    let file = json!({"type": "serviceaccount", "keyId": "key-7", "key": signer.pem(), "userId": "user-7"});
    world.keep("key.json", &file.to_string());
    let gateway = world.gateway(
        "    provider: zitadel\n    domain: contoso.zitadel.cloud\n    token_url: \"{url}/oauth/v2/token\"\n    \
         service_account: {file: key.json}\n    scope: openid profile\n",
    );
    ready(&gateway).await;
    assert_eq!(seen_upstream(&gateway).await, "Bearer opaque");
}

#[tokio::test]
async fn salesforce_takes_an_assertion_for_a_user_and_tells_no_lifetime() {
    let signer = Signer::new();
    let verify = signer.verifier("https://login.salesforce.com");
    let world = World::start(move |parameters| {
        let Ok((_, claims)) = verify(&parameters["assertion"]) else { return refused("invalid_grant") };
        // It takes nothing that is valid for much longer than three minutes.
        if claims["iss"] != "3MVG9"
            || claims["sub"] != "svc@contoso.com"
            || claims["exp"].as_u64() > Some(now() + 185)
        {
            return refused("invalid_grant");
        }
        let body = json!({
            "access_token": "00D50000000IZ3Z!AQ0AQDpEDKYsn7ioKug2aSmgCjgrPjG", "token_type": "Bearer",
            "scope": "api", "instance_url": "https://contoso.my.salesforce.com", "id": "https://x",
        });
        (StatusCode::OK, body)
    })
    .await;
    world.keep("key.pem", &signer.pem());
    let gateway = world.gateway(
        "    provider: salesforce\n    domain: contoso.my.salesforce.com\n    token_url: \"{url}/services/oauth2/token\"\n    \
         grant: jwt_bearer\n    client_id: 3MVG9\n    private_key: {file: key.pem}\n    \
         assertion_subject: svc@contoso.com\n    default_ttl: 15m\n",
    );
    ready(&gateway).await;
    assert_eq!(seen_upstream(&gateway).await, "Bearer 00D50000000IZ3Z!AQ0AQDpEDKYsn7ioKug2aSmgCjgrPjG");
    assert!((880..=900).contains(&life(&gateway)), "default_ttl: {}", life(&gateway));
    let (_, parameters) = world.last();
    assert!(!parameters.contains_key("client_id"), "the assertion says who asks");
}

/// A security token service that gives back what it was given, as another token.
async fn exchange() -> World {
    World::start(|parameters| {
        let subject = &parameters["subject_token"];
        assert_eq!(parameters["grant_type"], "urn:ietf:params:oauth:grant-type:token-exchange");
        assert_eq!(parameters["subject_token_type"], "urn:ietf:params:oauth:token-type:jwt");
        let body = json!({
            "access_token": format!("for-{subject}"), "token_type": "Bearer", "expires_in": 3600,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        });
        (StatusCode::OK, body)
    })
    .await
}

const EXCHANGE: &str = "    token_url: \"{url}/v1/token\"\n    grant: token_exchange\n    auth: none\n    \
     audience: //iam.example/pools/p\n    subject_token: {file: subject}\n    subject_token_type: jwt\n";

#[tokio::test]
async fn a_token_is_exchanged_and_again_when_there_is_another() {
    let world = exchange().await;
    world.keep("subject", "first\n");
    let gateway = world.gateway(EXCHANGE);
    ready(&gateway).await;
    assert_eq!(seen_upstream(&gateway).await, "Bearer for-first");
    let (_, parameters) = world.last();
    assert_eq!(parameters["audience"], "//iam.example/pools/p");
    assert!(!parameters.contains_key("client_id"), "nobody but the token says who asks");
    world.keep("subject", "second\n");
    eventually("the new subject is exchanged", || world.requests() == 2).await;
    while seen_upstream(&gateway).await != "Bearer for-second" {
        pause().await;
    }
}

#[tokio::test]
async fn an_exchange_that_does_not_say_what_it_issued_gives_no_token() {
    for answer in [
        json!({"access_token": "t", "token_type": "Bearer"}),
        json!({"access_token": "t", "token_type": "N_A", "issued_token_type": "urn:ietf:params:oauth:token-type:jwt"}),
    ] {
        let world = World::start(move |_| (StatusCode::OK, answer.clone())).await;
        world.keep("subject", "first\n");
        let gateway = world.gateway(EXCHANGE);
        eventually("the first exchange has failed", || gateway.profiles()[0].view().failed > 0).await;
        let url = format!("http://{}/orders", gateway.listener("local").unwrap());
        let response = reqwest::Client::builder().no_proxy().build().unwrap().get(url).send().await.unwrap();
        let (status, code, _) = fault(response).await;
        assert_eq!((status, code.as_str()), (503, "token_unavailable"));
    }
}

#[tokio::test]
async fn a_preset_finds_the_token_endpoint_below_its_base_url() {
    for (keys, path) in [
        (
            "provider: keycloak\n    base_url: \"{url}/auth\"\n    realm: staff",
            "/auth/realms/staff/protocol/openid-connect/token",
        ),
        ("provider: hydra\n    base_url: \"{url}/\"", "/oauth2/token"),
        ("provider: pingfederate\n    base_url: \"{url}\"", "/as/token.oauth2"),
    ] {
        let world = World::start(|_| (StatusCode::OK, json!({"access_token": "t", "expires_in": 60}))).await;
        world.keep("secret", "s");
        let gateway =
            world.gateway(&format!("    {keys}\n    client_id: a\n    client_secret: {{file: secret}}\n"));
        ready(&gateway).await;
        assert_eq!(seen_upstream(&gateway).await, "Bearer t");
        assert_eq!(world.last().0, path);
    }
}

#[tokio::test]
async fn an_answer_in_the_form_of_requests_and_a_token_under_another_name_are_taken() {
    let world = World::start(|_| (StatusCode::OK, json!("sessionKey=k%2B1&expires_in=90"))).await;
    *world.state.content_type.lock().unwrap() = "application/x-www-form-urlencoded";
    let gateway = world.gateway(
        "    token_url: \"{url}/login\"\n    client_id: a\n    auth: none\n    token_field: sessionKey\n",
    );
    ready(&gateway).await;
    assert_eq!(seen_upstream(&gateway).await, "Bearer k+1");
    assert!(life(&gateway) <= 90);
}

#[tokio::test]
async fn a_scope_that_the_provider_drops_is_told_once_for_each_token_and_by_the_doctor() {
    let answer =
        json!({"access_token": "t", "token_type": "Bearer", "expires_in": 3600, "scope": "orders.read"});
    let world = World::start(move |_| (StatusCode::OK, answer.clone())).await;
    let yaml = world.yaml(
        "    token_url: \"{url}/t\"\n    client_id: a\n    auth: none\n    scope: orders.read orders.wirte\n",
    );
    let path = world.folder.path().join("keybearer.yaml");
    fs::write(&path, yaml).unwrap();
    let process = Process::start_with(&path, &[]).await;
    eventually("it is told", || process.has_logged("without the scope orders.wirte")).await;
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
    for _ in 0..3 {
        assert_eq!(client.get(process.url("/x")).send().await.unwrap().text().await.unwrap(), "Bearer t");
    }
    let told = process.lines().iter().filter(|line| line.contains("without the scope")).count();
    assert_eq!(told, 1);
    let mut doctor = command(&["doctor", "--config", path.to_str().unwrap(), "--profile", "account"]);
    let output = tokio::task::spawn_blocking(move || doctor.output().unwrap()).await.unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        words.contains("warning  scope          the token comes without the scope orders.wirte"),
        "{words}"
    );
    assert!(words.contains("next:  compare scope:") && output.status.success(), "{words}");
}

#[tokio::test]
async fn a_refusal_says_which_methods_the_issuer_lists() {
    let world = World::start(|_| (StatusCode::UNAUTHORIZED, json!({"error": "invalid_client"}))).await;
    world.keep("secret", "s");
    let yaml = world.yaml("    issuer: \"{url}\"\n    client_id: a\n    client_secret: {file: secret}\n");
    let path = world.folder.path().join("keybearer.yaml");
    fs::write(&path, yaml).unwrap();
    let path = path.to_str().unwrap().to_owned();
    let run = move || keybearer(&["token", "account", "--config", &path]);
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{words}");
    let expected = "list client_secret_post, private_key_jwt for auth, not client_secret_basic";
    assert!(words.contains(expected), "{words}");
    assert_eq!(world.requests(), 1, "it was asked all the same");
}
