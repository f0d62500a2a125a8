//! What grants ask with, taken apart again.

use std::{path::PathBuf, time::UNIX_EPOCH};

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use super::*;
use crate::profile::assertion::unverified_claims;

const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_only";

fn url() -> Url {
    "https://id.example.com/token".parse().unwrap()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn keep(&self, name: &str, text: &str) -> Source {
        std::fs::write(self.path(name), text).unwrap();
        Source::File(self.path(name))
    }
}

fn pem() -> String {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().serialize_pem()
}

fn google_file(pem: &str) -> String {
    json!({
        "type": "service_account", "private_key_id": "k1", "private_key": pem,
        "client_email": "svc@p.example", "token_uri": "https://oauth2.example/token",
    })
    .to_string()
}

fn bearer(key: AssertionKey) -> JwtBearer {
    JwtBearer { key, subject: None, audience: None, target_audience: None }
}

fn own(key: Source) -> AssertionKey {
    let issuer = "the-client".to_owned();
    AssertionKey::Own { key, algorithm: Algorithm::Rs256, key_id: None, issuer, maker: None }
}

fn trade(settings: JwtBearer) -> Trade {
    Trade::new("account", GrantType::JwtBearer(Box::new(settings)))
}

fn parameter<'t>(traded: &'t Traded, name: &str) -> Option<&'t str> {
    traded.parameters.iter().find(|(n, _)| *n == name).map(|(_, value)| value.expose())
}

fn claims(traded: &Traded) -> Map<String, Value> {
    unverified_claims(parameter(traded, "assertion").unwrap()).unwrap()
}

fn header(token: &str) -> Map<String, Value> {
    let header = token.split('.').next().unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap()
}

#[tokio::test]
async fn googles_assertion_holds_the_scope_and_names_nobody_else() {
    let (folder, pem) = (Folder::new(), pem());
    let source = folder.keep("key.json", &google_file(&pem));
    let traded = trade(bearer(AssertionKey::File(source.clone())))
        .offer(&url(), Some(SCOPE), &Budget::endless())
        .await
        .unwrap();
    assert_eq!(parameter(&traded, "grant_type"), Some("urn:ietf:params:oauth:grant-type:jwt-bearer"));
    assert_eq!(parameter(&traded, "scope"), None, "it stands in the assertion");
    let assertion = parameter(&traded, "assertion").unwrap();
    assert_eq!(Value::Object(header(assertion)), json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}));
    let said = claims(&traded);
    assert_eq!((said["iss"].as_str(), said.get("sub")), (Some("svc@p.example"), None));
    assert_eq!(said["aud"], "https://oauth2.example/token", "the file says so");
    assert_eq!(said["scope"], SCOPE);
    let life = said["exp"].as_u64().unwrap() - said["iat"].as_u64().unwrap();
    assert_eq!(life, 120);
    let (signed, signature) = assertion.rsplit_once('.').unwrap();
    let key = PrivateKey::from_pem(pem.as_bytes(), &source).unwrap();
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public())
        .verify(signed.as_bytes(), &signature)
        .unwrap();
    assert!(traded.secrets.iter().any(|secret| secret.expose() == assertion), "no error may repeat it");
}

#[tokio::test]
async fn an_id_token_is_asked_for_by_its_audience_and_a_subject_by_its_name() {
    let folder = Folder::new();
    let mut settings = bearer(AssertionKey::File(folder.keep("key.json", &google_file(&pem()))));
    settings.target_audience = Some("https://run.example".into());
    settings.subject = Some("admin@p.example".into());
    let said = claims(&trade(settings).offer(&url(), None, &Budget::endless()).await.unwrap());
    assert_eq!(said["target_audience"], "https://run.example");
    assert_eq!(said["sub"], "admin@p.example");
    assert!(!said.contains_key("scope"));
}

#[tokio::test]
async fn a_key_by_itself_follows_the_standard_and_the_scope_stays_in_the_form() {
    let folder = Folder::new();
    let key = folder.keep("key.pem", &pem());
    let mut settings = bearer(own(key.clone()));
    settings.audience = Some(Audience::Literal("https://login.example".into()));
    let traded = trade(settings).offer(&url(), Some("openid"), &Budget::endless()).await.unwrap();
    assert_eq!(parameter(&traded, "scope"), Some("openid"));
    let said = claims(&traded);
    assert_eq!((said["iss"].as_str(), said["sub"].as_str()), (Some("the-client"), Some("the-client")));
    assert_eq!(said["aud"], "https://login.example");
    let said = claims(&trade(bearer(own(key))).offer(&url(), None, &Budget::endless()).await.unwrap());
    assert_eq!(said["aud"], url().as_str(), "the token endpoint, where nothing else is said");
}

#[tokio::test]
async fn every_request_has_an_assertion_of_its_own() {
    let folder = Folder::new();
    let trade = trade(bearer(own(folder.keep("key.pem", &pem()))));
    let first = claims(&trade.offer(&url(), None, &Budget::endless()).await.unwrap());
    let second = claims(&trade.offer(&url(), None, &Budget::endless()).await.unwrap());
    assert_ne!(first["jti"], second["jti"]);
}

#[tokio::test]
async fn a_key_file_that_is_half_written_leaves_the_old_key_in_use_until_it_is_whole() {
    let folder = Folder::new();
    let source = folder.keep("key.json", &google_file(&pem()));
    let trade = trade(bearer(AssertionKey::File(source)));
    let first = trade.fingerprint().await.unwrap();
    assert!(first.is_some());
    folder.keep("key.json", "{\"type\": \"service_acc");
    assert!(trade.fingerprint().await.unwrap() == first);
    assert!(trade.offer(&url(), None, &Budget::endless()).await.is_ok());
    folder.keep("key.json", &google_file(&pem()));
    assert!(trade.fingerprint().await.unwrap() != first);
}

fn exchange(folder: &Folder, token: &str) -> Trade {
    let kind = "urn:ietf:params:oauth:token-type:jwt".to_owned();
    let subject = ForeignToken { source: folder.keep("subject", token), kind: kind.clone() };
    let actor = ForeignToken { source: folder.keep("actor", "actor-token"), kind: kind.clone() };
    let settings = TokenExchange { subject, actor: Some(actor), requested: Some(kind) };
    Trade::new("account", GrantType::TokenExchange(Box::new(settings)))
}

#[tokio::test]
async fn an_exchange_sends_the_tokens_that_are_there_now_with_their_types() {
    let folder = Folder::new();
    let trade = exchange(&folder, "first\n");
    let traded = trade.offer(&url(), Some("a b"), &Budget::endless()).await.unwrap();
    let kind = "urn:ietf:params:oauth:token-type:jwt";
    for (name, value) in [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", "first"),
        ("subject_token_type", kind),
        ("actor_token", "actor-token"),
        ("actor_token_type", kind),
        ("requested_token_type", kind),
        ("scope", "a b"),
    ] {
        assert_eq!(parameter(&traded, name), Some(value), "{name}");
    }
    let before = trade.fingerprint().await.unwrap();
    folder.keep("subject", "second\n");
    assert_eq!(
        parameter(&trade.offer(&url(), None, &Budget::endless()).await.unwrap(), "subject_token"),
        Some("second")
    );
    assert!(trade.fingerprint().await.unwrap() != before, "another subject, another token");
}

#[tokio::test]
async fn a_subject_token_that_has_expired_is_told_instead_of_sent() {
    let folder = Folder::new();
    let past = clock::wall().duration_since(UNIX_EPOCH).unwrap().as_secs() - 60;
    let payload = BASE64_URL_SAFE_NO_PAD.encode(json!({"exp": past}).to_string());
    let trade = exchange(&folder, &format!("e30.{payload}.c2ln"));
    let error = trade.offer(&url(), None, &Budget::endless()).await.err().unwrap();
    assert!(error.to_string().contains("has expired at"), "{error}");
    assert!(trade.fingerprint().await.is_err(), "so that the next one is noticed");
}

#[test]
fn whatever_shapes_the_trade_is_among_its_parts() {
    let settings = || bearer(own(Source::Env("K".into())));
    let parts = |settings: JwtBearer| GrantType::JwtBearer(Box::new(settings)).parts().join("|");
    let base = parts(settings());
    let changes: [fn(&mut JwtBearer); 4] = [
        |s| s.subject = Some("x".into()),
        |s| s.audience = Some(Audience::TokenEndpoint),
        |s| s.target_audience = Some("x".into()),
        |s| s.key = AssertionKey::File(Source::Env("K".into())),
    ];
    for change in changes {
        let mut other = settings();
        change(&mut other);
        assert_ne!(base, parts(other));
    }
}
