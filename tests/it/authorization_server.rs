//! Starts the certified authorization server of `tests/idp` as a process of its own.
//!
//! It is the judge who knows nothing of us: what it accepts is right by the RFCs. The demo's own
//! identity provider (`keybearer::demo::idp`) is the one that can be told to misbehave.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Seek},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};

/// The account for `client_secret_basic`.
pub(crate) const BASIC_CLIENT: &str = "svc-basic";
/// The account for `client_secret_post`; its name has to be encoded too.
pub(crate) const POST_CLIENT: &str = "svc post:1";
/// The account whose tokens are bound to a key (DPoP).
pub(crate) const BOUND_CLIENT: &str = "svc-dpop";
/// The same, asked for a nonce in every proof.
pub(crate) const NONCE_CLIENT: &str = "svc-dpop-nonce";
/// The secret of all accounts: every character that breaks a lazy encoder.
pub(crate) const SECRET: &str = "p+s/s=w:o%r&d \"~ 1";
/// The resource whose tokens are JWTs; without it they are opaque.
pub(crate) const RESOURCE: &str = "urn:orders";

/// Node needs about a second; a loaded machine more.
const START: Duration = Duration::from_secs(30);
/// One answer over loopback.
const ANSWER: Duration = Duration::from_secs(10);

/// A running authorization server, killed when dropped.
pub(crate) struct AuthorizationServer {
    process: Child,
    url: String,
    tls_url: String,
    client: reqwest::Client,
}

impl AuthorizationServer {
    /// Starts one whose tokens live for `ttl_seconds`.
    pub(crate) async fn start(ttl_seconds: u64) -> AuthorizationServer {
        Self::start_with(ttl_seconds, None).await
    }

    /// The same with a TLS port and clients for the keys and certificates in `certificates`.
    pub(crate) async fn start_with(ttl_seconds: u64, certificates: Option<&Path>) -> AuthorizationServer {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/idp");
        assert!(
            folder.join("node_modules").is_dir(),
            "tests/idp/node_modules is missing: `make test` installs it (npm ci --prefix tests/idp)"
        );
        let mut errors = tempfile::tempfile().expect("a temporary file can be made");
        let mut process = Command::new("node")
            .arg(folder.join("idp.mjs"))
            .env("IDP_TTL", ttl_seconds.to_string())
            .envs(certificates.map(|folder| ("IDP_CERTS", folder)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone().expect("a file can be opened twice"))
            .spawn()
            .expect("node starts (Node.js 20 or later must be on the PATH)");
        let mut output = BufReader::new(process.stdout.take().expect("stdout is piped"));
        // From here on, a panic kills the process.
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER).build().expect("a client");
        let mut server = AuthorizationServer { process, url: String::new(), tls_url: String::new(), client };
        let first_line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            output.read_line(&mut line).map(|_| line)
        });
        let line = tokio::time::timeout(START, first_line).await;
        let line = line.ok().and_then(Result::ok).and_then(Result::ok).unwrap_or_default();
        let url = line.trim_end().strip_prefix("ready ").map(str::to_owned);
        assert!(url.is_some(), "tests/idp/idp.mjs did not get ready: {line}{}", text_of(&mut errors));
        let urls = url.unwrap_or_default();
        let mut urls = urls.split(' ').map(str::to_owned);
        (server.url, server.tls_url) = (urls.next().unwrap_or_default(), urls.next().unwrap_or_default());
        server
    }

    /// The issuer: the base URL as well.
    pub(crate) fn issuer(&self) -> &str {
        &self.url
    }

    /// The token endpoint.
    pub(crate) fn token_url(&self) -> String {
        format!("{}/token", self.url)
    }

    /// The token endpoint of the TLS port.
    pub(crate) fn tls_token_url(&self) -> String {
        format!("{}/token", self.tls_url)
    }

    /// Takes an opaque token back (RFC 7009). A JWT cannot be taken back here.
    pub(crate) async fn revoke(&self, token: &str) {
        let answer = self.ask("token/revocation", token).await;
        assert!(answer.status().is_success(), "revocation was refused: {}", answer.status());
    }

    /// Whether an opaque token still counts (RFC 7662).
    pub(crate) async fn introspect(&self, token: &str) -> bool {
        let answer = self.ask("token/introspection", token).await;
        assert!(answer.status().is_success(), "introspection was refused: {}", answer.status());
        let body = answer.bytes().await.expect("the answer has a body");
        let body: serde_json::Value = serde_json::from_slice(&body).expect("the answer is JSON");
        body.get("active").and_then(serde_json::Value::as_bool).expect("the answer says `active`")
    }

    async fn ask(&self, path: &str, token: &str) -> reqwest::Response {
        let form = url::form_urlencoded::Serializer::new(String::new()).append_pair("token", token).finish();
        self.client
            .post(format!("{}/{path}", self.url))
            .header("authorization", format!("Basic {}", STANDARD.encode("api:api-secret")))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form)
            .send()
            .await
            .expect("the authorization server answers")
    }
}

impl Drop for AuthorizationServer {
    fn drop(&mut self) {
        // It may have ended already; waiting keeps it from staying a zombie.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn text_of(file: &mut File) -> String {
    let mut text = String::new();
    if file.rewind().and_then(|()| file.read_to_string(&mut text)).is_err() {
        text.push_str("(its stderr cannot be read)");
    }
    text
}
