//! What becomes of an upstream's 401. Every sentence of the design's "401 recovery" is here, but for
//! bodies, which are in `uploads`, and crowds, which are in `storms`.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use keybearer::demo::{
    api::Challenge,
    idp::{Account, Behaviour},
};

use crate::stage::{CLIENT, Plan, ROLE, SECRET, Stage, eventually, fault};

#[tokio::test]
async fn a_revoked_token_is_replaced_and_the_caller_sees_only_the_200() {
    let stage = Stage::start().await;
    assert_eq!(stage.status("/v1/orders").await, 200);
    stage.idp.revoke_all();
    assert_eq!(stage.status("/v1/orders").await, 200);
    assert_eq!(stage.idp.issued(), 2);
    assert_eq!(stage.api.unauthorized(), 1);
    assert_eq!(stage.api.requests(), 3);
}

#[tokio::test]
async fn a_401_without_any_challenge_means_refresh() {
    let stage = Stage::start().await;
    stage.ready().await;
    stage.api.set_challenge(Challenge::Absent);
    stage.idp.revoke_all();
    assert_eq!(stage.status("/v1/orders").await, 200);
    assert_eq!(stage.idp.issued(), 2);
}

#[tokio::test]
async fn a_second_401_is_passed_on() {
    let stage = Stage::start().await;
    stage.ready().await;
    stage.api.answer_next_with(401, &[("x-which", "any"), ("www-authenticate", "Bearer")], "no", 2);
    let response = stage.get("/v1/orders").await;
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()["x-which"], "any");
    assert_eq!(response.text().await.unwrap(), "no");
    assert_eq!((stage.api.requests(), stage.idp.issued()), (2, 2));
}

#[tokio::test]
async fn a_403_is_never_retried() {
    let stage = Stage::start().await;
    stage.ready().await;
    stage.api.answer_next_with(403, &[("www-authenticate", "Bearer error=\"invalid_token\"")], "no", 1);
    assert_eq!(stage.status("/v1/orders").await, 403);
    assert_eq!((stage.api.requests(), stage.idp.issued()), (1, 1));
}

#[tokio::test]
async fn a_401_that_another_token_would_not_cure_is_passed_on() {
    let stage = Stage::start().await;
    stage.ready().await;
    for challenge in ["Bearer error=\"insufficient_scope\"", "Basic realm=\"x\"", "Negotiate"] {
        let before = stage.api.requests();
        stage.api.answer_next_with(401, &[("www-authenticate", challenge)], "no", 1);
        assert_eq!(stage.status("/v1/orders").await, 401, "{challenge}");
        assert_eq!((stage.api.requests(), stage.idp.issued()), (before + 1, 1), "{challenge}");
    }
}

#[tokio::test]
async fn demanded_claims_are_asked_for() {
    let stage = Stage::start().await;
    stage.ready().await;
    let claims = r#"{"access_token":{"nbf":{"essential":true,"value":"1604106651"}}}"#;
    let challenge =
        format!("Bearer error=\"insufficient_claims\", claims=\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(claims));
    stage.api.answer_next_with(401, &[("www-authenticate", &challenge)], "", 1);
    assert_eq!(stage.status("/v1/orders").await, 200);
    assert_eq!(stage.idp.last_request().unwrap().field("claims"), Some(claims));
}

#[tokio::test]
async fn without_a_fresh_token_the_caller_gets_the_first_401_unchanged() {
    let stage = Stage::start().await;
    stage.ready().await;
    stage.idp.go_down().await.unwrap();
    let body = "the first answer ".repeat(10_000);
    stage.api.answer_next_with(401, &[("www-authenticate", "Bearer"), ("x-first", "1")], &body, 1);
    let response = stage.get("/v1/orders").await;
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()["x-first"], "1");
    assert_eq!(response.text().await.unwrap(), body);
    // The token has not expired: it is still the best there is.
    assert_eq!(stage.status("/v1/orders").await, 200);
}

#[tokio::test]
async fn a_young_token_is_not_refreshed_for_a_401() {
    let stage = Plan::default().profile("recovery: {min_interval: 0s}").start().await;
    stage.ready().await;
    stage.api.answer_next_with(401, &[], "no", 1);
    assert_eq!(stage.status("/v1/orders").await, 401);
    assert_eq!((stage.api.requests(), stage.idp.issued()), (1, 1));
}

#[tokio::test]
async fn an_api_that_always_refuses_causes_one_refresh_and_no_storm() {
    let stage = Plan::default().profile("recovery: {min_token_age: 0s}").start().await;
    stage.ready().await;
    stage.api.answer_next_with(401, &[], "no", 1000);
    for _ in 0..20 {
        assert_eq!(stage.status("/v1/orders").await, 401);
    }
    assert_eq!(stage.idp.issued(), 2);
}

#[tokio::test]
async fn when_the_second_attempt_cannot_be_made_the_caller_gets_the_first_401() {
    // The API goes away between its 401 and the second attempt.
    let stage = Stage::start().await;
    stage.ready().await;
    stage.idp.set_delay(Duration::from_millis(300));
    stage.api.answer_next_with(401, &[("x-first", "1"), ("connection", "close")], "first", 1);
    let asking = stage.get("/v1/orders");
    let leaving = async {
        stage.idp.wait_for_requests(2).await;
        stage.api.go_down().await.unwrap();
    };
    let (response, ()) = tokio::join!(asking, leaving);
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()["x-first"], "1");
}

#[tokio::test]
async fn a_route_with_replay_off_passes_the_401_on_and_has_a_fresh_token_next_time() {
    let stage = Plan::default()
        .routes("orders: {match: {path: /v1}, upstream: \"{api}\", profile: account, replay: {limit: 0}}")
        .start()
        .await;
    stage.ready().await;
    stage.idp.revoke_all();
    assert_eq!(stage.status("/v1/orders").await, 401);
    assert_eq!(stage.status("/v1/orders").await, 200);
    assert_eq!(stage.idp.issued(), 2);
}

#[tokio::test]
async fn a_rotated_secret_is_used_without_a_restart() {
    let stage = Stage::start().await;
    stage.ready().await;
    stage.idp.set_secrets(CLIENT, &["rotated-canary"]);
    std::fs::write(stage.secret_file(), "rotated-canary\n").unwrap();
    // The new secret is noticed by itself, and its token replaces the old one.
    stage.idp.wait_for_issued(2).await;
    assert_eq!(stage.idp.last_request().unwrap().field("client_secret"), Some("rotated-canary"));
    eventually("the new token is in use", || stage.gateway.profiles()[0].view().generation == 2).await;
    assert_eq!(stage.status("/v1/orders").await, 200);
    assert_eq!((stage.api.requests(), stage.api.unauthorized()), (1, 0));
}

#[tokio::test]
async fn a_wrong_secret_is_asked_with_once_and_again_as_soon_as_it_is_mended() {
    let stage = Plan::default().start_with(|idp| idp.set_secrets(CLIENT, &["another"])).await;
    stage.idp.wait_for_requests(1).await;
    let (status, code, problem) = fault(stage.get("/v1/orders").await).await;
    assert_eq!((status, code.as_str()), (503, "token_unavailable"));
    assert!(problem["detail"].as_str().unwrap().contains("refuses the service account"), "{problem}");
    for _ in 0..10 {
        assert_eq!(stage.status("/v1/orders").await, 503);
    }
    assert_eq!(stage.idp.requests(), 1, "a wrong secret must not become a login storm");
    std::fs::write(stage.secret_file(), "another").unwrap();
    stage.idp.wait_for_issued(1).await;
    stage.ready().await;
    assert_eq!(stage.status("/v1/orders").await, 200);
}

#[tokio::test]
async fn routes_of_one_profile_share_its_token_and_others_do_not() {
    let stage = Plan::default()
        .routes(
            "one: {match: {path: /v1}, upstream: \"{api}\", profile: account}\n\
             two: {match: {path: /v2}, upstream: \"{api}\", profile: account}",
        )
        .start()
        .await;
    stage.idp.add_account(Account::new("unused", SECRET, &[ROLE]));
    assert_eq!(stage.status("/v1/x").await, 200);
    assert_eq!(stage.status("/v2/x").await, 200);
    assert_eq!(stage.idp.requests(), 1);
}

#[tokio::test]
async fn a_slow_refresh_after_a_401_is_waited_for() {
    let stage = Stage::start().await;
    stage.ready().await;
    stage.idp.revoke_all();
    stage.idp.set_next([Behaviour::Normal]);
    stage.idp.set_delay(Duration::from_secs(1));
    assert_eq!(stage.status("/v1/orders").await, 200);
}
