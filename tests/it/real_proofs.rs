//! Every way of client authentication against a certified server that nobody here wrote, and tokens bound
//! to a certificate on their way to the upstream.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Output,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use keybearer::{
    clock,
    profile::{
        assertion::{Signer, Statement, unverified_claims},
        key::{Algorithm, PrivateKey},
    },
    source::Source,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::{
    authorization_server::{AuthorizationServer, BASIC_CLIENT, POST_CLIENT, RESOURCE, SECRET},
    process::{Process, command},
    stage::{eventually, pause},
};

/// Every key and certificate of these tests, in files.
struct Keys {
    folder: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Keys {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let keys = Self { folder: tempfile::tempdir().unwrap(), authority };
        keys.write("ca.pem", &keys.authority.pem());
        keys.write("secret", SECRET);
        let server = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        keys.write("server.pem", &params.signed_by(&server, &keys.authority).unwrap().pem());
        keys.write("server.key", &server.serialize_pem());
        let (rsa, ec) =
            (KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap(), KeyPair::generate().unwrap());
        for (name, pair) in [("rsa", rsa), ("ec", ec)] {
            keys.write(&format!("{name}.key"), &pair.serialize_pem());
            keys.write(&format!("{name}.pub"), &pair.public_key_pem());
        }
        keys.issue("client.pem", "svc-tls");
        keys.issue("stranger.pem", "svc-stranger");
        let own = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["svc-self".to_owned()]).unwrap().self_signed(&own).unwrap();
        keys.write("self.pem", &(certificate.pem() + &own.serialize_pem()));
        keys
    }

    /// A client's certificate with its key in one file.
    fn issue(&self, file: &str, name: &str) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        self.write(file, &(certificate.pem() + &key.serialize_pem()));
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// An assertion for `svc-rsa`, made at `now`.
    fn assertion(&self, audience: &str, now: SystemTime) -> String {
        let source = Source::File(self.path("rsa.key"));
        let key = PrivateKey::from_pem(&fs::read(self.path("rsa.key")).unwrap(), &source).unwrap();
        let statement = Statement {
            issuer: "svc-rsa",
            subject: Some("svc-rsa"),
            audience,
            key_id: None,
            thumbprint: None,
            claims: serde_json::Map::new(),
        };
        statement.sign(&Signer::Key(&key, Algorithm::Rs256), now).unwrap().expose().to_owned()
    }

    fn configuration(&self, profile: &str, upstream: &str) -> PathBuf {
        let path = self.path("keybearer.yaml");
        let text = format!(
            "listeners: {{local: {{address: \"127.0.0.1:0\"}}}}\nadmin: {{address: \"127.0.0.1:0\"}}\nprofiles:\n  \
             account:\n    kind: oauth2\n    recovery: {{min_token_age: 0s, min_interval: 0s}}\n{profile}\
             routes:\n  all: {{upstream: {upstream}, profile: account}}\n",
        );
        fs::write(&path, text).unwrap();
        path
    }

    /// What `keybearer token` says of a profile with these keys.
    fn token(&self, profile: &[String]) -> (bool, String) {
        let profile: String = profile.iter().map(|line| format!("    {line}\n")).collect();
        let path = self.configuration(&profile, "http://127.0.0.1:1");
        let mut command = command(&["token", "account", "--config", path.to_str().unwrap()]);
        let Output { status, stdout, stderr } =
            command.env("SSL_CERT_FILE", self.path("ca.pem")).output().unwrap();
        let said = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        (status.success(), format!("{profile}{said}"))
    }
}

fn lines(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certified_server_takes_every_way_of_client_authentication() {
    let keys = Keys::new();
    let server = AuthorizationServer::start_with(60, Some(keys.folder())).await;
    let url = format!("token_url: {}", server.token_url());
    let tls_url = format!("token_url: {}", server.tls_token_url());
    let issuer = format!("issuer: {}", server.issuer());
    let secret = "client_secret: {file: secret}";
    let jwt = |id: &str, file: &str, algorithm: &str| {
        let (key, algorithm) =
            (format!("private_key: {{file: {file}}}"), format!("signing_alg: {algorithm}"));
        lines(&["auth: private_key_jwt", &format!("client_id: {id}"), &key, &algorithm])
    };
    let with = |mut profile: Vec<String>, more: &[&str]| {
        profile.extend(lines(more));
        profile
    };
    for profile in [
        lines(&[&url, &format!("client_id: {BASIC_CLIENT}"), secret]),
        lines(&[&url, &format!("client_id: \"{POST_CLIENT}\""), "auth: client_secret_post", secret]),
        lines(&[&url, "client_id: svc-secret-jwt", "auth: client_secret_jwt", secret]),
        with(jwt("svc-rsa", "rsa.key", "RS256"), &[&issuer]),
        with(
            jwt("svc-rsa", "rsa.key", "PS256"),
            &[&issuer, "assertion_audience: token_endpoint", "key_id: rsa-1"],
        ),
        with(jwt("svc-ec", "ec.key", "ES256"), &[&url]),
        with(jwt("svc-ec", "ec.key", "ES256"), &[&issuer, "assertion_audience: issuer"]),
        lines(&[&issuer, "client_id: svc-tls", "auth: tls_client_auth", "certificate: {file: client.pem}"]),
        lines(&[&tls_url, "client_id: svc-tls", "auth: tls_client_auth", "certificate: {file: client.pem}"]),
        lines(&[
            &issuer,
            "client_id: svc-self",
            "auth: self_signed_tls_client_auth",
            "certificate: {file: self.pem}",
        ]),
        with(jwt("svc-rsa-bound", "rsa.key", "PS256"), &[&issuer, "certificate: {file: client.pem}"]),
    ] {
        let (is_given, said) = tokio::task::block_in_place(|| keys.token(&profile));
        assert!(is_given, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certified_server_refuses_what_does_not_prove_the_account_and_the_reason_is_told() {
    let keys = Keys::new();
    let server = AuthorizationServer::start_with(60, Some(keys.folder())).await;
    let url = format!("token_url: {}", server.token_url());
    let tls_url = format!("token_url: {}", server.tls_token_url());
    let rsa = ["client_id: svc-rsa", "auth: private_key_jwt", "private_key: {file: rsa.key}"];
    let old = keys.assertion(&server.token_url(), clock::wall() - Duration::from_secs(3600));
    keys.write("old.jwt", &old);
    for (profile, reason) in [
        (with(&rsa, &[&url, "assertion_audience: https://elsewhere.example"]), "invalid_client"),
        (with(&rsa, &[&url, "key_id: no-such-key"]), "invalid_client"),
        (lines(&[&url, "client_id: svc-ec", rsa[1], rsa[2]]), "invalid_client"),
        (
            lines(&[
                &tls_url,
                "client_id: svc-tls",
                "auth: tls_client_auth",
                "certificate: {file: stranger.pem}",
            ]),
            "invalid_client",
        ),
        (
            lines(&[
                &tls_url,
                "client_id: svc-tls",
                "auth: tls_client_auth",
                "certificate: {file: self.pem}",
            ]),
            "invalid_client",
        ),
        (
            lines(&[
                &tls_url,
                "client_id: svc-self",
                "auth: self_signed_tls_client_auth",
                "certificate: {file: client.pem}",
            ]),
            "invalid_client",
        ),
        (lines(&[&tls_url, "client_id: svc-tls", "auth: none"]), "invalid_client"),
        (
            lines(&[
                &url,
                "client_id: svc-rsa",
                "auth: client_assertion",
                "client_assertion: {file: old.jwt}",
            ]),
            "has expired at",
        ),
    ] {
        let (is_given, said) = tokio::task::block_in_place(|| keys.token(&profile));
        assert!(!is_given && said.contains(reason), "{said}");
    }
}

fn with(profile: &[&str], more: &[&str]) -> Vec<String> {
    lines(&[profile, more].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_assertion_is_taken_once_and_ours_are_never_used_twice() {
    let keys = Keys::new();
    let server = AuthorizationServer::start_with(60, Some(keys.folder())).await;
    let url = format!("token_url: {}", server.token_url());
    keys.write("made.jwt", &keys.assertion(&server.token_url(), clock::wall()));
    let foreign =
        lines(&[&url, "client_id: svc-rsa", "auth: client_assertion", "client_assertion: {file: made.jwt}"]);
    let own = lines(&[&url, "client_id: svc-rsa", "auth: private_key_jwt", "private_key: {file: rsa.key}"]);
    tokio::task::block_in_place(|| {
        assert!(keys.token(&foreign).0);
        let (is_given, said) = keys.token(&foreign);
        assert!(!is_given && said.contains("invalid_client"), "the same assertion again: {said}");
        assert!(keys.token(&own).0 && keys.token(&own).0);
    });
}

/// An upstream that takes a token only over a connection with the certificate that it is bound to.
struct Bound {
    address: SocketAddr,
    /// Thumbprints of the connections that were made, and how many requests were refused.
    seen: Arc<Mutex<(Vec<String>, usize)>>,
}

impl Bound {
    async fn start(keys: &Keys) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(keys.authority.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let chain = rustls::pki_types::CertificateDer::pem_file_iter(keys.path("server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(keys.path("server.key")).unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
            .with_single_cert(chain.map(Result::unwrap).collect(), key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<(Vec<String>, usize)>>::default();
        let known = Arc::clone(&seen);
        // Ends with the test's runtime.
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let print = stream.get_ref().1.peer_certificates().map_or_else(String::new, |chain| {
                    URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &chain[0]))
                });
                known.lock().unwrap().0.push(print.clone());
                tokio::spawn(serve(stream, print, Arc::clone(&known)));
            }
        });
        Self { address, seen }
    }

    fn thumbprints(&self) -> Vec<String> {
        self.seen.lock().unwrap().0.clone()
    }

    fn refused(&self) -> usize {
        self.seen.lock().unwrap().1
    }
}

async fn serve(
    stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    print: String,
    seen: Arc<Mutex<(Vec<String>, usize)>>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let header = request.headers()["authorization"].to_str().unwrap().to_owned();
        let claims = unverified_claims(header.trim_start_matches("Bearer ")).unwrap();
        let is_bound = claims["cnf"]["x5t#S256"] == print;
        seen.lock().unwrap().1 += usize::from(!is_bound);
        let status = if is_bound { 200 } else { 401 };
        let body = Full::new(hyper::body::Bytes::from(print.clone()));
        std::future::ready(Response::builder().status(status).body(body))
    });
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn gateway(keys: &Keys, server: &AuthorizationServer, upstream: &Bound) -> Process {
    gateway_as(keys, server, upstream, "    auth: tls_client_auth\n    client_id: svc-tls\n").await
}

async fn gateway_as(keys: &Keys, server: &AuthorizationServer, upstream: &Bound, account: &str) -> Process {
    let issuer = server.issuer();
    let profile = format!(
        "    issuer: {issuer}\n    certificate: {{file: client.pem}}\n    resource: {RESOURCE}\n{account}"
    );
    let url = format!("{{url: \"https://{}\", ca: {{file: ca.pem}}}}", upstream.address);
    let path = keys.configuration(&profile, &url);
    let mut command = command(&["run", "--log-format", "json", "--config", path.to_str().unwrap()]);
    command.env("SSL_CERT_FILE", keys.path("ca.pem"));
    Process::run(command).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_is_called_with_the_certificate_that_the_token_is_bound_to_also_after_a_rotation() {
    let keys = Keys::new();
    let server = AuthorizationServer::start_with(60, Some(keys.folder())).await;
    let upstream = Bound::start(&keys).await;
    let gateway = gateway(&keys, &server, &upstream).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = async || http.get(gateway.url("/v1")).send().await.unwrap();
    let first = get().await;
    assert_eq!(first.status(), 200, "{:?}", gateway.lines());
    let before = first.text().await.unwrap();
    assert_eq!(get().await.text().await.unwrap(), before);
    keys.issue("client.pem", "svc-tls");
    let renewed = async {
        loop {
            let response = get().await;
            assert_eq!(response.status(), 200, "{:?}", gateway.lines());
            if response.text().await.unwrap() != before {
                return;
            }
            pause().await;
        }
    };
    tokio::time::timeout(crate::stage::PATIENCE, renewed).await.expect("the new certificate is used");
    let prints = upstream.thumbprints();
    assert!(prints.iter().all(|print| !print.is_empty()), "{prints:?}");
    // Nothing that was made with the old certificate is used any more.
    let connections = prints.len();
    assert_ne!(get().await.text().await.unwrap(), before);
    assert!(upstream.thumbprints().len() <= connections + 2);
    assert!(upstream.refused() <= 1, "{}", upstream.refused());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_written_certificate_leaves_bound_tokens_and_their_connections_alone() {
    let keys = Keys::new();
    let server = AuthorizationServer::start_with(2, Some(keys.folder())).await;
    let upstream = Bound::start(&keys).await;
    let gateway = gateway(&keys, &server, &upstream).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let status = async || http.get(gateway.url("/v1")).send().await.unwrap().status().as_u16();
    assert_eq!(status().await, 200);
    let whole = fs::read_to_string(keys.path("client.pem")).unwrap();
    keys.write("client.pem", &whole[..whole.len() - 80]);
    eventually("the gateway has told", || gateway.has_logged("the last good ")).await;
    assert_eq!((status().await, upstream.refused()), (200, 0));
    assert!(gateway.has_logged("client.pem"), "the file is named");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_could_be_bound_and_is_not_is_warned_of() {
    let keys = Keys::new();
    let server = AuthorizationServer::start_with(60, Some(keys.folder())).await;
    let upstream = Bound::start(&keys).await;
    let account = |id: &str| {
        format!("    auth: private_key_jwt\n    client_id: {id}\n    private_key: {{file: rsa.key}}\n")
    };
    let unbound = gateway_as(&keys, &server, &upstream, &account("svc-rsa")).await;
    let warning = "the token is not bound to the certificate";
    eventually("the gateway has warned", || unbound.has_logged(warning)).await;
    let mut doctor = command(&["doctor", "--config", keys.path("keybearer.yaml").to_str().unwrap()]);
    doctor.env("SSL_CERT_FILE", keys.path("ca.pem"));
    let output = tokio::task::spawn_blocking(move || doctor.output().unwrap()).await.unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(words.contains(&format!("warning  binding        {warning}")), "{words}");
    let bound = gateway_as(&keys, &server, &upstream, &account("svc-rsa-bound")).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    assert_eq!(http.get(bound.url("/")).send().await.unwrap().status(), 200);
    assert!(!bound.has_logged(warning));
}
