//! What an identity provider may do, and what callers see of it.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use keybearer::demo::idp::Behaviour;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{
    peer::{Authority, Tls},
    stage::{PATIENCE, Plan, Stage, eventually, fault},
};

fn raw(status: u16, body: &str) -> Behaviour {
    let headers = vec![("content-type".into(), "text/html".into())];
    Behaviour::Raw { status, headers, body: body.into() }
}

#[tokio::test]
async fn a_provider_that_is_down_gives_a_503_that_says_so_and_recovers_by_itself() {
    let stage = Plan::default().without_idp().start().await;
    let (status, code, problem) = fault(stage.get("/v1/orders").await).await;
    assert_eq!((status, code.as_str()), (503, "token_unavailable"));
    assert!(problem["detail"].as_str().unwrap().contains("cannot be reached"), "{problem}");
    assert_eq!(stage.admin("/readyz").await.0, 503);
    assert_eq!(stage.api.requests(), 0, "nothing is forwarded without a token");
    stage.idp.come_back().await.unwrap();
    stage.ready().await;
    assert_eq!(stage.status("/v1/orders").await, 200);
    assert_eq!(stage.admin("/readyz").await.0, 200);
}

/// While a request was on its way, nothing was told but that the first token had not arrived yet.
#[tokio::test]
async fn a_failure_is_told_until_a_token_comes_also_while_the_next_request_is_on_its_way() {
    let stage = Plan::default().start_with(|idp| idp.set_behaviour(Behaviour::Status(500))).await;
    eventually("the first request has failed", || stage.gateway.profiles()[0].view().failed == 1).await;
    stage.idp.set_behaviour(Behaviour::Hang);
    let is_under_way = || stage.gateway.profiles()[0].view().next_in.is_none() && stage.idp.requests() > 1;
    eventually("the next one is on its way", is_under_way).await;
    let (_, told) = stage.admin("/readyz").await;
    assert!(told.contains("the identity provider is out of order") && !told.contains("first"), "{told}");
    let (_, told) = stage.admin("/api/v1/profiles").await;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told[0]["next_request_at"], &told[0]["requests_failed"]), (&Value::Null, &1.into()));
    assert!(told[0]["error"].as_str().unwrap().contains("500"), "{told}");
}

#[tokio::test]
async fn a_fault_for_want_of_a_token_says_when_to_come_back() {
    let stage = Plan::default()
        .start_with(|idp| idp.set_behaviour(Behaviour::Throttle { retry_after_seconds: 40 }))
        .await;
    stage.idp.wait_for_requests(1).await;
    let response = stage.get("/v1/orders").await;
    let seconds: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((35..=44).contains(&seconds), "{seconds}");
    let (status, code, problem) = fault(response).await;
    assert_eq!((status, code.as_str()), (503, "token_unavailable"));
    assert!(problem["detail"].as_str().unwrap().contains("asks the gateway to wait"), "{problem}");
    assert_eq!(stage.idp.requests(), 1, "Retry-After is obeyed");
}

#[tokio::test]
async fn answers_that_hold_no_token_are_a_503_and_are_asked_for_again() {
    for behaviour in [
        Behaviour::Status(500),
        raw(500, "<html>canary</html>"),
        raw(200, ""),
        raw(200, "<html>canary</html>"),
        raw(200, r#"{"access_token":"a b"}"#),
        raw(200, r#"{"access_token":"t","token_type":"mac"}"#),
        raw(200, r#"{"error":"temporarily_unavailable"}"#),
        raw(302, ""),
    ] {
        let shown = format!("{behaviour:?}");
        let stage = Plan::default().start_with(|idp| idp.set_behaviour(behaviour)).await;
        stage.idp.wait_for_requests(1).await;
        let (status, code, problem) = fault(stage.get("/v1/orders").await).await;
        assert_eq!((status, code.as_str()), (503, "token_unavailable"), "{shown}");
        assert!(!problem.to_string().contains("canary"), "{shown}: {problem}");
        assert_eq!(stage.api.requests(), 0, "{shown}");
        if !shown.contains("302") {
            stage.idp.set_behaviour(Behaviour::Normal);
            stage.ready().await;
            assert_eq!(stage.status("/v1/orders").await, 200, "{shown}");
        }
    }
}

/// An answer with a token of so many bytes, which is so long as a whole.
fn answer_of(length: usize, token: usize) -> Behaviour {
    let (token, json) = ("t".repeat(token), json!({"access_token": "", "expires_in": 3600}).to_string());
    let text = json.replace(r#""access_token":"""#, &format!(r#""access_token":"{token}""#));
    // White space behind it belongs to the answer and means nothing.
    let space = " ".repeat(length.saturating_sub(text.len()));
    raw(200, &(text + &space))
}

#[tokio::test]
async fn an_answer_over_1_mib_and_a_token_over_16_kib_are_refused_with_their_reason() {
    const MIB: usize = 1024 * 1024;
    for (behaviour, error, meaning) in [
        (answer_of(MIB + 1, 20), "larger than", "what answered is no token endpoint"),
        (answer_of(0, 16 * 1024 + 1), "longer than 16 KiB", "the provider gives something else"),
    ] {
        let stage = Plan::default().start_with(|idp| idp.set_behaviour(behaviour)).await;
        eventually("the exchange has failed", || stage.gateway.profiles()[0].view().failed > 0).await;
        let (status, code, _) = fault(stage.get("/v1/orders").await).await;
        assert_eq!((status, code.as_str()), (503, "token_unavailable"));
        let (_, told) = stage.admin("/api/v1/profiles").await;
        let told: Value = serde_json::from_str(&told).unwrap();
        assert!(told[0]["error"].as_str().unwrap().contains(error), "{told}");
        assert!(told[0]["meaning"].as_str().unwrap().starts_with(meaning), "{told}");
        assert_eq!(stage.api.requests(), 0);
    }
    for behaviour in [answer_of(MIB, 20), answer_of(0, 16 * 1024)] {
        let stage = Plan::default().start_with(|idp| idp.set_behaviour(behaviour)).await;
        stage.ready().await;
    }
}

#[tokio::test]
async fn a_slow_provider_makes_the_first_requests_wait_and_no_longer() {
    let stage = Plan::default().start_with(|idp| idp.set_delay(Duration::from_secs(5))).await;
    assert_eq!(stage.status("/v1/orders").await, 200);
    assert_eq!(stage.idp.requests(), 1);
}

#[tokio::test]
async fn a_provider_that_hangs_is_given_up_after_the_limit() {
    let stage = Plan::default()
        .profile("token_timeout: 300ms")
        .start_with(|idp| idp.set_behaviour(Behaviour::Hang))
        .await;
    let (status, code, problem) = fault(stage.get("/v1/orders").await).await;
    assert_eq!((status, code.as_str()), (503, "token_unavailable"));
    assert!(problem["detail"].as_str().unwrap().contains("did not answer in time"), "{problem}");
}

#[tokio::test]
async fn sloppy_answers_are_accepted_where_that_is_safe() {
    let shapes: [fn(&mut Value); 6] = [
        |answer| answer["expires_in"] = json!("3599"),
        |answer| answer["expires_in"] = json!(3599.5),
        |answer| answer["token_type"] = json!("bearer"),
        |answer| {
            answer.as_object_mut().unwrap().remove("token_type");
        },
        |answer| {
            answer.as_object_mut().unwrap().remove("expires_in");
        },
        |answer| answer["refresh_in"] = json!("1800"),
    ];
    for shape in shapes {
        let stage = Plan::default().start_with(|idp| idp.set_behaviour(Behaviour::Shape(shape))).await;
        for _ in 0..3 {
            assert_eq!(stage.status("/v1/orders").await, 200);
        }
        assert_eq!(stage.idp.requests(), 1);
    }
}

#[tokio::test]
async fn a_missing_lifetime_is_the_profiles_default() {
    let shape: fn(&mut Value) = |answer| {
        answer.as_object_mut().unwrap().remove("expires_in");
    };
    let stage = Plan::default()
        .profile("default_ttl: 90s")
        .start_with(|idp| idp.set_behaviour(Behaviour::Shape(shape)))
        .await;
    stage.ready().await;
    let left = stage.gateway.profiles()[0].view().expires_in.unwrap();
    assert!(left > Duration::from_secs(80) && left <= Duration::from_secs(90), "{left:?}");
}

#[tokio::test]
async fn a_token_without_life_serves_those_who_wait_and_is_not_kept() {
    for life in [json!(0), json!(-5)] {
        let shape: fn(&mut Value) = match life {
            Value::Number(ref n) if n.as_i64() == Some(0) => |answer| answer["expires_in"] = json!(0),
            _ => |answer| answer["expires_in"] = json!(-5),
        };
        let stage = Plan::default().start_with(|idp| idp.set_behaviour(Behaviour::Shape(shape))).await;
        stage.ready().await;
        let before = stage.idp.issued();
        for _ in 0..3 {
            assert_eq!(stage.status("/v1/orders").await, 200, "{life}");
        }
        assert_eq!(stage.idp.issued() - before, 3, "{life}: each request needs its own");
    }
}

#[tokio::test]
async fn an_outage_goes_unnoticed_until_the_token_expires_and_never_an_expired_one_is_sent() {
    let stage = Plan::default().lifetime(Duration::from_secs(4)).start().await;
    stage.ready().await;
    stage.idp.go_down().await.unwrap();
    assert_eq!(stage.status("/v1/orders").await, 200);
    let mut served = 0;
    loop {
        match stage.status("/v1/orders").await {
            200 => served += 1,
            503 => break,
            other => panic!("{other}: an expired token was sent"),
        }
        crate::stage::pause().await;
    }
    assert!(served > 10, "{served}");
    assert_eq!(stage.api.unauthorized(), 0, "the gateway stops before the API does");
    let response = stage.get("/v1/orders").await;
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(fault(response).await.1, "token_unavailable");
    stage.idp.come_back().await.unwrap();
    stage.ready().await;
    assert_eq!(stage.status("/v1/orders").await, 200);
}

#[tokio::test]
async fn a_caller_who_hangs_up_while_waiting_harms_nobody() {
    let stage = Plan::default().start_with(|idp| idp.set_delay(Duration::from_secs(1))).await;
    let impatient = stage.http.get(stage.url("/v1/orders")).timeout(Duration::from_millis(200)).send();
    let patient = stage.get("/v1/orders");
    let (impatient, patient) = tokio::join!(impatient, patient);
    assert!(impatient.is_err());
    assert_eq!(patient.status(), 200);
    assert_eq!((stage.idp.requests(), stage.api.requests()), (1, 1));
}

#[tokio::test]
async fn short_tokens_are_refreshed_before_they_expire() {
    let stage = Plan::default().lifetime(Duration::from_secs(3)).start().await;
    stage.ready().await;
    while stage.idp.issued() < 3 {
        assert_eq!(stage.status("/v1/orders").await, 200);
        crate::stage::pause().await;
    }
    assert_eq!(stage.api.unauthorized(), 0);
}

#[tokio::test]
async fn a_profile_that_is_not_required_does_not_hold_up_readiness() {
    let stage = Plan::default().profile("required: false").without_idp().start().await;
    eventually("the first exchange has failed", || stage.gateway.profiles()[0].view().failed > 0).await;
    assert_eq!(stage.admin("/readyz").await.0, 200);
    let stage = Plan::default().without_idp().start().await;
    eventually("the first exchange has failed", || stage.gateway.profiles()[0].view().failed > 0).await;
    let (status, body) = stage.admin("/readyz").await;
    assert_eq!(status, 503);
    assert!(body.contains("cannot be reached"), "{body}");
    assert_eq!(stage.admin("/livez").await.0, 200);
}

#[tokio::test]
async fn an_issuer_is_asked_where_its_token_endpoint_is() {
    let stage = Stage::start().await;
    let text = format!(
        "listeners: {{local: {{address: \"127.0.0.1:0\"}}}}\nprofiles:\n  plain:\n    kind: oauth2\n    \
         issuer: {}\n    client_id: {}\n    client_secret: {{file: secret}}\n    scope: read\n\
         routes: {{all: {{upstream: \"{}\", profile: plain}}}}\n",
        stage.idp.url(),
        crate::stage::CLIENT,
        stage.api.url(),
    );
    let path = stage.folder.path().join("keybearer.yaml");
    let settings = keybearer::config::parse(&text, &path, None).unwrap().settings;
    let gateway = keybearer::app::start(settings, None).unwrap();
    eventually("the token is there", || gateway.profiles()[0].is_ready()).await;
    let request = stage.idp.last_request().unwrap();
    assert_eq!(request.path, "/oauth2/token");
    // RFC 6749 §2.3.1: the halves are form-encoded, and the secret's characters survive it.
    let basic = request.basic.unwrap();
    assert_eq!(basic, (crate::stage::CLIENT.to_owned(), crate::stage::SECRET.to_owned()));
    assert_eq!(request.form.iter().filter(|(name, _)| name.starts_with("client")).count(), 0);
}

/// When a token of the demo's provider expires, in milliseconds since 1970.
fn expiry(token: &str) -> u128 {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    claims["demo_exp_ms"].as_u64().unwrap().into()
}

fn unix_ms() -> u128 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()
}

/// It was taken before the connection was made, and sent however long that took.
#[tokio::test]
async fn a_token_that_expires_while_its_request_waits_for_a_connection_does_not_leave() {
    let authority = Authority::new();
    let acceptor = Tls { alpn: &["http/1.1"], ..Tls::new(&authority) }.acceptor();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let route = format!(
        "r: {{upstream: {{url: \"{url}\", ca: {{file: {:?}}}}}, profile: account}}",
        authority.file()
    );
    let plan = Plan::default().lifetime(Duration::from_secs(2)).routes(&route);
    let stage = plan.more("workers: 1\ntimeouts: {connect: 30s}").start().await;
    stage.ready().await;
    let asking = stage.get("/v1");
    let serving = async {
        let (arrived, _) = listener.accept().await.unwrap();
        // The handshake waits until the token that there was is no good any more.
        let (over, issued) = (unix_ms() + 2000, stage.idp.issued());
        eventually("others took its place", || unix_ms() > over && stage.idp.issued() > issued).await;
        let mut stream = acceptor.accept(arrived).await.unwrap();
        let (mut seen, mut some) = (Vec::new(), [0; 4096]);
        while !seen.ends_with(b"\r\n\r\n") {
            let n = stream.read(&mut some).await.unwrap();
            assert!(n > 0, "no request");
            seen.extend_from_slice(&some[..n]);
        }
        let now = unix_ms();
        let head = String::from_utf8(seen).unwrap();
        let token = head.split("Bearer ").nth(1).unwrap().lines().next().unwrap();
        assert!(expiry(token) > now, "it has been over for {} ms", now - expiry(token));
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        stream
    };
    let both = async { tokio::join!(asking, serving).0 };
    let answered = tokio::time::timeout(PATIENCE, both).await.unwrap();
    assert_eq!(answered.status(), 204);
}
