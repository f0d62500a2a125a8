//! Tokens that are bound to a key (RFC 9449): from a certified server, and to an upstream that verifies.

use std::{
    collections::HashSet,
    fs,
    sync::{Arc, Mutex},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::Version;
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    jwk::{Jwk, ThumbprintHash},
};
use keybearer::{app::Running, profile::refusal::Class};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    authorization_server::{AuthorizationServer, BASIC_CLIENT, BOUND_CLIENT, NONCE_CLIENT, RESOURCE, SECRET},
    front::Peer,
    judge::{Judge, Seen, Verdict, caller, challenge, gateway, ok, url},
    stage::eventually,
};

fn part(text: &str, index: usize) -> Value {
    let part = text.split('.').nth(index).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn sha256(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(digest)
}

/// Verifies as RFC 9449 §7.1 wants it of an upstream; gives the proof's claims.
fn verified(seen: &Seen, origin: &str) -> Result<Value, String> {
    let [authorization] = seen.values("authorization")[..] else { return Err("one Authorization".into()) };
    let token = authorization.strip_prefix("DPoP ").ok_or("the scheme is DPoP")?;
    let [proof] = seen.values("dpop")[..] else { return Err("one proof".into()) };
    let head = part(proof, 0);
    if (&head["typ"], &head["alg"]) != (&"dpop+jwt".into(), &"ES256".into())
        || head["jwk"]["d"] != Value::Null
    {
        return Err(format!("its head is {head}"));
    }
    let jwk: Jwk = serde_json::from_value(head["jwk"].clone()).map_err(|e| e.to_string())?;
    let mut rules = Validation::new(Algorithm::ES256);
    rules.required_spec_claims.clear();
    rules.validate_exp = false;
    let key = DecodingKey::from_jwk(&jwk).map_err(|e| e.to_string())?;
    let claims = jsonwebtoken::decode::<Value>(proof, &key, &rules).map_err(|e| e.to_string())?.claims;
    let path = seen.target.split('?').next().unwrap();
    let now = keybearer::clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let expected = [
        ("htm", Value::from(seen.method.as_str())),
        ("htu", Value::from(format!("{origin}{path}"))),
        ("ath", Value::from(sha256(token))),
    ];
    for (name, value) in expected {
        if claims[name] != value {
            return Err(format!("{name} is {} instead of {value}", claims[name]));
        }
    }
    if claims["iat"].as_u64().is_none_or(|iat| iat.abs_diff(now) > 5) {
        return Err(format!("iat is {} at {now}", claims["iat"]));
    }
    if token.contains('.') && part(token, 1)["cnf"]["jkt"] != jwk.thumbprint(ThumbprintHash::SHA256).unwrap()
    {
        return Err("the token is bound to another key".into());
    }
    Ok(claims)
}

/// An upstream that verifies; then `rules` may still say no.
async fn verifying(rules: impl Fn(&Seen, &Value) -> Verdict + Send + Sync + 'static) -> Judge {
    let origin = Arc::new(Mutex::new(String::new()));
    let known = Arc::clone(&origin);
    let judge = Judge::start(move |seen| match verified(seen, &known.lock().unwrap()) {
        Ok(claims) => rules(seen, &claims),
        Err(why) => {
            println!("refused: {why}");
            (400, vec![("x-why", why)])
        }
    })
    .await;
    *origin.lock().unwrap() = judge.url();
    judge
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), SECRET).unwrap();
    folder
}

fn bound(server: &AuthorizationServer, client: &str, upstream: &str, folder: &TempDir) -> Running {
    let text = format!(
        "profiles: {{p: {{kind: oauth2, token_url: \"{}\", client_id: {client}, client_secret: {{file: secret}}, \
         scope: orders.read, resource: \"{RESOURCE}\", dpop: true, \
         recovery: {{min_token_age: 0s, min_interval: 0s}}}}}}\n\
         routes: {{all: {{upstream: {upstream}, profile: p}}}}\n\
         admin: {{address: \"127.0.0.1:0\"}}\n",
        server.token_url(),
    );
    gateway(folder, &text)
}

async fn counted(gateway: &Running, outcome: &str) -> bool {
    let metrics = format!("http://{}/metrics", gateway.admin().unwrap());
    let metrics = caller().get(metrics).send().await.unwrap().text().await.unwrap();
    let outcome = format!("outcome=\"{outcome}\"");
    metrics.lines().any(|line| line.contains(&outcome) && line.ends_with(" 1"))
}

fn quoted(url: &str) -> String {
    format!("\"{url}\"")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certified_server_binds_tokens_to_our_key_with_and_without_its_nonce() {
    let server = AuthorizationServer::start(60).await;
    let judge = verifying(|_, _| ok()).await;
    for client in [BOUND_CLIENT, NONCE_CLIENT] {
        let folder = folder();
        let gateway = bound(&server, client, &quoted(&judge.url()), &folder);
        let request = caller().post(url(&gateway, "/v1/orders?a=b#c")).body("body");
        let request = request.header("dpop", "theirs").header("authorization", "DPoP theirs");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{client}: {:?}", answer.headers().get("x-why"));
        assert_eq!(judge.last().target, "/v1/orders?a=b");
        assert!(part(judge.last().values("authorization")[0], 1)["cnf"]["jkt"].is_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_two_of_a_thousand_requests_have_the_same_proof() {
    let server = AuthorizationServer::start(60).await;
    let judge = verifying(|_, _| ok()).await;
    let folder = folder();
    let gateway = bound(&server, BOUND_CLIENT, &quoted(&judge.url()), &folder);
    let http = caller();
    for _ in 0..20 {
        let requests = (0..50).map(|_| http.get(url(&gateway, "/a")).send());
        for answer in futures_util::future::join_all(requests).await {
            assert_eq!(answer.unwrap().status(), 200);
        }
    }
    let seen = judge.seen();
    let ids: HashSet<String> =
        seen.iter().map(|seen| part(seen.values("dpop")[0], 1)["jti"].to_string()).collect();
    assert_eq!((seen.len(), ids.len()), (1000, 1000));
    assert_eq!(gateway.profiles()[0].view().refreshed, 1);
}

/// Demands a nonce, which it changes with every `per` requests that it takes.
fn with_nonce(claims: &Value, nonce: &str) -> Verdict {
    let (status, mut fields) = if claims["nonce"] == nonce {
        ok()
    } else {
        challenge("DPoP error=\"use_dpop_nonce\", error_description=\"a nonce is needed\"")
    };
    fields.push(("dpop-nonce", nonce.to_owned()));
    (status, fields)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_wants_a_nonce_gets_the_same_token_with_it() {
    let server = AuthorizationServer::start(60).await;
    let judge = verifying(|_, claims| with_nonce(claims, "n-1")).await;
    let folder = folder();
    let gateway = bound(&server, BOUND_CLIENT, &quoted(&judge.url()), &folder);
    let answer = caller().post(url(&gateway, "/a")).body("body").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let seen = judge.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].values("authorization"), seen[1].values("authorization"));
    assert_ne!(seen[0].values("dpop"), seen[1].values("dpop"));
    assert_eq!((seen[0].body.as_slice(), seen[1].body.as_slice()), (&b"body"[..], &b"body"[..]));
    assert!(counted(&gateway, "nonce").await);
    // From now on it is known.
    assert_eq!(caller().get(url(&gateway, "/b")).send().await.unwrap().status(), 200);
    assert_eq!(judge.seen().len(), 3);
    assert_eq!(gateway.profiles()[0].view().refreshed, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_nonce_a_refused_token_is_replaced_as_ever() {
    let server = AuthorizationServer::start(60).await;
    let first = Arc::new(Mutex::new(None::<String>));
    let judge = verifying(move |seen, claims| {
        let token = seen.values("authorization")[0].to_owned();
        let mut first = first.lock().unwrap();
        match with_nonce(claims, "n-1") {
            (200, _) if *first.get_or_insert(token.clone()) == token => {
                challenge("DPoP error=\"invalid_token\"")
            }
            verdict => verdict,
        }
    })
    .await;
    let folder = folder();
    let gateway = bound(&server, BOUND_CLIENT, &quoted(&judge.url()), &folder);
    let answer = caller().post(url(&gateway, "/a")).body("body").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let seen = judge.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|seen| seen.body == b"body"));
    assert_eq!(gateway.profiles()[0].view().refreshed, 2);
    assert!(counted(&gateway, "recovered").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_always_wants_another_nonce_is_asked_twice_and_no_more() {
    let server = AuthorizationServer::start(60).await;
    let judge = verifying(|_, _| {
        let (status, mut fields) = challenge("DPoP error=\"use_dpop_nonce\"");
        fields.push(("dpop-nonce", another_nonce()));
        (status, fields)
    })
    .await;
    let folder = folder();
    let gateway = bound(&server, BOUND_CLIENT, &quoted(&judge.url()), &folder);
    let answer = caller().get(url(&gateway, "/a")).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), judge.seen().len()), (401, 2));
    assert_eq!(gateway.profiles()[0].view().refreshed, 1, "a nonce says nothing about the token");
    assert!(counted(&gateway, "second_refused").await);
}

fn another_nonce() -> String {
    let now = keybearer::clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("n-{}", now.as_nanos())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_proof_is_not_answered_with_another_token() {
    let server = AuthorizationServer::start(60).await;
    let judge = verifying(|_, _| challenge("DPoP error=\"invalid_dpop_proof\"")).await;
    let folder = folder();
    let gateway = bound(&server, BOUND_CLIENT, &quoted(&judge.url()), &folder);
    assert_eq!(caller().get(url(&gateway, "/a")).send().await.unwrap().status(), 401);
    assert_eq!((judge.seen().len(), gateway.profiles()[0].view().refreshed), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proof_is_for_the_upstreams_url_over_http2_too() {
    let server = AuthorizationServer::start(60).await;
    let judge = verifying(|_, _| ok()).await;
    let folder = folder();
    let upstream = format!("{{url: \"{}/base\", http2: prior_knowledge}}", judge.url());
    let gateway = bound(&server, BOUND_CLIENT, &upstream, &folder);
    let answer = caller().put(url(&gateway, "/%61/b?c")).body("body").send().await.unwrap();
    assert_eq!(answer.status(), 200, "{:?}", answer.headers().get("x-why"));
    let seen = judge.last();
    assert_eq!((seen.version, seen.target.as_str()), (Version::HTTP_2, "/base/a/b?c"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_starts_with_a_proof() {
    let server = AuthorizationServer::start(60).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let folder = folder();
    let gateway = bound(&server, BOUND_CLIENT, &quoted(&origin), &folder);
    let mut caller = Peer::connect(gateway.listener("local").unwrap()).await;
    let wish = "GET /chat?a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nDPoP: theirs\r\n\r\n";
    caller.send(wish).await;
    let asked = Peer::accept(&listener).await.head().await;
    let fields = asked.lines().skip(1).filter_map(|line| line.split_once(": "));
    let mut headers = http::HeaderMap::new();
    for (name, value) in fields {
        headers.append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
    }
    let seen = Seen {
        method: http::Method::GET,
        target: "/chat".into(),
        version: Version::HTTP_11,
        headers,
        body: Vec::new(),
    };
    verified(&seen, &origin).unwrap();
}

/// The upstream asks for its nonce, refuses the token and takes the third attempt, all while the caller is still
/// sending: nothing of the body is lost, and each attempt has a proof of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_survives_a_nonce_and_a_refusal_in_its_middle() {
    let server = AuthorizationServer::start(60).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let folder = folder();
    let gateway = bound(&server, BOUND_CLIENT, &quoted(&origin), &folder);
    let mut caller = Peer::connect(gateway.listener("local").unwrap()).await;
    caller.send("POST /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
    let mut proofs = HashSet::new();
    let mut tokens = HashSet::new();
    let field = |head: &str, name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).unwrap().1.to_owned()
    };
    let mut kept = Vec::new();
    for answer in ["use_dpop_nonce", "invalid_token", ""] {
        let mut upstream = Peer::accept(&listener).await;
        let head = upstream.head().await;
        let proof = field(&head, "dpop");
        let nonce = part(&proof, 1)["nonce"].clone();
        assert_eq!(nonce.is_null(), proofs.is_empty(), "{nonce}");
        proofs.insert(proof);
        tokens.insert(field(&head, "authorization"));
        upstream.until("first").await;
        if !answer.is_empty() {
            let challenge = format!("WWW-Authenticate: DPoP error=\"{answer}\"\r\nDPoP-Nonce: n-1\r\n");
            upstream.send(format!("HTTP/1.1 401 No\r\n{challenge}Content-Length: 0\r\n\r\n")).await;
            kept.push(upstream);
            continue;
        }
        caller.send("6\r\nsecond\r\n0\r\n\r\n").await;
        upstream.until("second\r\n0\r\n\r\n").await;
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert!(caller.head().await.starts_with("HTTP/1.1 200 "));
    }
    assert_eq!((proofs.len(), tokens.len()), (3, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_ignores_the_proof_and_one_that_wants_it_are_told_apart_from_a_bad_secret() {
    let server = AuthorizationServer::start(60).await;
    let folder = folder();
    let why = |client: &str, dpop: bool| {
        let text = format!(
            "profiles: {{p: {{kind: oauth2, token_url: \"{}\", client_id: {client}, client_secret: {{file: secret}}, \
             dpop: {dpop}}}}}\nroutes: {{all: {{upstream: \"http://127.0.0.1:1\", profile: p}}}}\n",
            server.token_url(),
        );
        gateway(&folder, &text)
    };
    let gateway = why(BOUND_CLIENT, false);
    eventually("the server has answered", || gateway.profiles()[0].view().failed > 0).await;
    let error = gateway.profiles()[0].view().error.unwrap();
    assert_eq!(error.class(), Class::Permanent, "{error}");
    assert!(error.to_string().contains("invalid_grant"), "{error}");
    // This client's tokens need not be bound, and are when it is asked for.
    let gateway = why(BASIC_CLIENT, true);
    eventually("the server has answered", || gateway.profiles()[0].is_ready()).await;
}
