//! Entra's other doors: B2C's policies, and claims that are declared with every token request.

use std::fs;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use keybearer::demo::idp::{Behaviour, TENANT};
use serde_json::{Value, json};

use crate::{
    process::command,
    stage::{Plan, ROLE, Stage},
};

/// `keybearer token account` with the stage's configuration: what it printed, and its errors.
async fn token(stage: &Stage) -> (String, String) {
    let path = stage.folder.path().join("token.yaml");
    fs::write(&path, &stage.yaml).unwrap();
    let mut command = command(&["token", "account", "--config", path.to_str().unwrap()]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn a_policys_tokens_carry_the_roles_in_scp_and_that_is_enough() {
    let stage = Plan::default().profile("policy: B2C_1_service\nexpected_roles: [Orders.Read]").start().await;
    assert_eq!(stage.status("/v1/orders").await, 200);
    let asked = stage.idp.last_request().unwrap();
    assert_eq!(asked.path, format!("/{TENANT}/B2C_1_service/oauth2/v2.0/token"));
    let (shown, _) = token(&stage).await;
    assert!(shown.contains(&format!("scope      {ROLE}")), "{shown}");
    assert!(!shown.contains("missing"), "{shown}");
}

#[tokio::test]
async fn a_policys_own_numbers_are_shown_as_what_they_are() {
    let stage = Plan::default().profile("policy: B2C_1_service").start().await;
    // What B2C sends has its number in the description and nowhere else.
    let body = r#"{"error":"invalid_scope","error_description":"AADB2C90085: The service has encountered an error."}"#;
    stage.idp.set_behaviour(Behaviour::Raw { status: 400, headers: Vec::new(), body: body.into() });
    let (_, words) = token(&stage).await;
    assert!(words.contains("invalid_scope: AADB2C90085: The"), "{words}");
}

fn claims(stage: &Stage) -> Value {
    let asked = stage.idp.last_request().unwrap();
    asked.field("claims").map(|text| serde_json::from_str(text).unwrap()).unwrap_or_default()
}

#[tokio::test]
async fn cae_declares_its_capability_and_merges_what_a_challenge_demands() {
    let damping = "recovery: {min_token_age: 0s, min_interval: 0s}";
    let stage = Plan::default().profile(&format!("cae: true\n{damping}")).start().await;
    assert_eq!(stage.status("/v1/orders").await, 200);
    assert_eq!(claims(&stage), json!({"access_token": {"xms_cc": {"values": ["cp1"]}}}));
    let demanded =
        BASE64_URL_SAFE_NO_PAD.encode(r#"{"access_token":{"nbf":{"essential":true,"value":"1604106651"}}}"#);
    let challenge = format!("Bearer error=\"insufficient_claims\", claims=\"{demanded}\"");
    stage.api.answer_next_with(401, &[("www-authenticate", &challenge)], "", 1);
    assert_eq!(stage.status("/v1/orders").await, 200);
    let both = json!({"access_token": {
        "nbf": {"essential": true, "value": "1604106651"}, "xms_cc": {"values": ["cp1"]}
    }});
    assert_eq!(claims(&stage), both);
}

#[tokio::test]
async fn without_cae_nothing_is_declared() {
    let stage = Stage::start().await;
    assert_eq!(stage.status("/v1/orders").await, 200);
    assert_eq!(claims(&stage), Value::Null);
}
