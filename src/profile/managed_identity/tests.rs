//! Managed identities against small servers that speak as Azure's do.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, Uri},
    response::{IntoResponse, Response},
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::profile::refusal::Class;

/// Answers the path, query and headers of each request, and keeps them.
type Answerer = fn(&Uri, &HeaderMap, &str) -> Response;

#[derive(Clone)]
struct Fake {
    answer: Answerer,
    /// What the answer may name: a folder.
    word: String,
    seen: Arc<Mutex<Vec<(Uri, HeaderMap)>>>,
}

impl Fake {
    fn new(answer: Answerer, word: &str) -> Fake {
        Fake { answer, word: word.to_owned(), seen: Arc::default() }
    }

    fn router(&self) -> Router {
        async fn any(State(fake): State<Fake>, request: Request) -> Response {
            fake.seen.lock().unwrap().push((request.uri().clone(), request.headers().clone()));
            (fake.answer)(request.uri(), request.headers(), &fake.word)
        }
        Router::new().fallback(any).with_state(self.clone())
    }

    /// Listens on loopback until the test ends.
    async fn listen(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = self.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

fn client(variables: &[(&str, String)], account: Account, tokens: &std::path::Path) -> Client {
    let variables: Vec<(String, String)> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let find = move |name: &str| variables.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    Client {
        settings: Settings { resource: "api://orders".into(), account, endpoint: Endpoint::Auto },
        default_ttl: Duration::from_secs(300),
        timeout: Duration::from_secs(10),
        surroundings: Surroundings {
            variables: Box::new(find),
            arc_agent: "/nowhere/himds".into(),
            arc_tokens: tokens.to_owned(),
        },
        http: OnceLock::new(),
    }
}

fn token(body: &str) -> Response {
    ([("content-type", "application/json")], body.to_owned()).into_response()
}

const NOWHERE: &str = "/nowhere/tokens";

#[tokio::test]
async fn app_service_gets_its_header_and_its_strings_are_read() {
    let fake = Fake::new(
        |uri, headers, _| {
            assert_eq!(uri.path(), "/msi/token");
            assert_eq!(headers["x-identity-header"], "canary");
            token(
                r#"{"access_token":"t.o.k","expires_on":"99999999999","token_type":"Bearer","client_id":"a"}"#,
            )
        },
        "",
    );
    let url = fake.listen().await;
    let variables = [("IDENTITY_ENDPOINT", format!("{url}/msi/token")), ("IDENTITY_HEADER", "canary".into())];
    let client = client(&variables, Account::ClientId("A".into()), NOWHERE.as_ref());
    let grant = client.exchange().await.unwrap();
    assert_eq!(grant.credential.secret().expose(), "t.o.k");
    assert_eq!(grant.lifetime, Duration::from_secs(366 * 86_400), "capped at a year");
    assert_eq!(client.provider(), url);
}

#[tokio::test]
async fn arc_gets_the_content_of_its_own_key_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("1.key"), "canary").unwrap();
    let fake = Fake::new(
        |_, headers, folder| match headers.get("authorization") {
            None => (
                axum::http::StatusCode::UNAUTHORIZED,
                [("www-authenticate", format!("Basic realm={folder}/1.key"))],
            )
                .into_response(),
            Some(proof) => {
                assert_eq!(proof, "Basic canary");
                assert_eq!(headers["metadata"], "true");
                token(r#"{"access_token":"t","expires_in":"3600"}"#)
            }
        },
        folder.path().to_str().unwrap(),
    );
    let url = fake.listen().await;
    let variables = [("IDENTITY_ENDPOINT", url.clone()), ("IMDS_ENDPOINT", url)];
    let grant = client(&variables, Account::System, folder.path()).exchange().await.unwrap();
    assert_eq!(grant.lifetime, Duration::from_secs(3600));
    assert_eq!(fake.requests(), 2);
    // The same agent ignores the choice of an identity, and says nothing about it.
    let chosen = client(&variables, Account::ClientId("a".into()), folder.path());
    let error = chosen.exchange().await.err().unwrap();
    assert!(error.to_string().contains("does not say whose token"), "{error}");
}

#[tokio::test]
async fn arc_is_not_sent_a_file_of_its_choice() {
    let fake = Fake::new(
        |_, headers, _| {
            assert!(!headers.contains_key("authorization"), "a file was sent");
            let challenge = "Basic realm=/etc/ssl/private/server.key";
            (axum::http::StatusCode::UNAUTHORIZED, [("www-authenticate", challenge)]).into_response()
        },
        "",
    );
    let url = fake.listen().await;
    let variables = [("IDENTITY_ENDPOINT", url.clone()), ("IMDS_ENDPOINT", url)];
    let error = client(&variables, Account::System, NOWHERE.as_ref()).exchange().await.err().unwrap();
    assert!(error.to_string().contains("not one of its keys"), "{error}");
    assert_eq!((error.class(), fake.requests()), (Class::Permanent, 1));
}

#[tokio::test]
async fn nothing_is_asked_twice_in_one_exchange() {
    let fake = Fake::new(|_, _, _| axum::http::StatusCode::SERVICE_UNAVAILABLE.into_response(), "");
    let variables = [("AZURE_POD_IDENTITY_AUTHORITY_HOST", fake.listen().await)];
    let error = client(&variables, Account::System, NOWHERE.as_ref()).exchange().await.err().unwrap();
    assert_eq!((error.class(), fake.requests()), (Class::Transient, 1));
}

#[tokio::test]
async fn a_machine_without_an_identity_endpoint_is_told_so() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let variables = [("AZURE_POD_IDENTITY_AUTHORITY_HOST", format!("http://{unused}"))];
    let error = client(&variables, Account::System, NOWHERE.as_ref()).exchange().await.err().unwrap();
    let words = error.explained().to_string();
    assert!(words.contains("this machine is no Azure VM, or something blocks the address"), "{words}");
    assert_eq!(error.class(), Class::Transient, "it may be starting");
}

/// A server with a certificate of its own making, and that certificate's thumbprint.
async fn fabric(fake: &Fake) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["cluster.example".into()]).unwrap();
    let der = made.cert.der().clone();
    let sha1 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &der);
    let thumbprint: String = sha1.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der], key)
        .unwrap();
    let (acceptor, router) = (TlsAcceptor::from(Arc::new(config)), fake.router());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/token", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = hyper_util::service::TowerToHyperService::new(router.clone());
            let stream = hyper_util::rt::TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await;
        }
    });
    (url, thumbprint)
}

#[tokio::test]
async fn service_fabric_is_known_by_its_certificates_thumbprint_alone() {
    let fake = Fake::new(
        |_, headers, _| {
            assert_eq!(headers["secret"], "canary");
            token(r#"{"access_token":"t","expires_on":99999999999}"#)
        },
        "",
    );
    let (url, thumbprint) = fabric(&fake).await;
    let variables = |thumbprint: &str| {
        [
            ("IDENTITY_ENDPOINT", url.clone()),
            ("IDENTITY_HEADER", "canary".to_owned()),
            ("IDENTITY_SERVER_THUMBPRINT", thumbprint.to_owned()),
        ]
    };
    let ask = |thumbprint: String| {
        let client = client(&variables(&thumbprint), Account::System, NOWHERE.as_ref());
        async move { client.exchange().await }
    };
    ask(thumbprint.clone()).await.unwrap();
    let error = ask("00".repeat(20)).await.err().unwrap();
    assert!(error.to_string().contains("IDENTITY_SERVER_THUMBPRINT"), "{error}");
    assert_eq!(fake.requests(), 1, "its secret is not sent to another server");
}
