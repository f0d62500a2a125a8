//! What a running gateway, `status` and `token` tell about a profile that does not work, or not well.

use keybearer::demo::idp::Behaviour;
use serde_json::Value;

use crate::{
    process::{Process, command},
    stage::{CLIENT, Plan, Stage, eventually},
};

async fn cli(stage: &Stage, arguments: &[&str]) -> (i32, String) {
    let path = stage.folder.path().join("keybearer.yaml");
    let mut command = command(arguments);
    command.args(["--config", path.to_str().unwrap()]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
}

async fn status(stage: &Stage) -> String {
    let admin = stage.gateway.admin().unwrap().to_string();
    cli(stage, &["status", "--admin", &admin]).await.1
}

async fn readyz(stage: &Stage) -> Value {
    let body = stage.admin("/readyz").await.1;
    serde_json::from_str::<Value>(&body).unwrap()["profiles"]["account"].clone()
}

#[tokio::test]
async fn a_refused_account_is_put_into_words_in_the_log_at_readyz_and_by_status_and_token() {
    let stage = Plan::default().start_with(|idp| idp.set_secrets(CLIENT, &["other"])).await;
    eventually("the first exchange has failed", || stage.gateway.profiles()[0].view().failed > 0).await;
    let told = readyz(&stage).await;
    assert!(told["meaning"].as_str().unwrap().starts_with("the secret is wrong"), "{told}");
    assert!(told["remedy"].as_str().unwrap().starts_with("put the secret's value"), "{told}");
    let said = status(&stage).await;
    assert!(said.contains("\nFAILING      no new token: account\n"), "{said}");
    assert!(
        said.contains("means  the secret is wrong") && said.contains("next   put the secret's"),
        "{said}"
    );
    let (code, said) = cli(&stage, &["token", "account"]).await;
    assert_eq!(code, 1);
    for words in ["AADSTS7000215", "means  the secret is wrong", "next   put the secret's value"] {
        assert!(said.contains(words), "{words} is not in {said}");
    }
    assert!(!said.contains("canary"), "{said}");
}

#[tokio::test]
async fn the_log_says_what_a_failure_means_and_what_to_do_next() {
    let stage = Stage::start().await;
    stage.ready().await;
    let process = Process::start(&stage, &[]).await;
    stage.idp.set_behaviour(Behaviour::Refuse { status: 400, error: "invalid_client", code: 700_016 });
    stage.idp.revoke_all();
    stage.http.get(process.url("/v1/orders")).send().await.unwrap();
    let words =
        "the tenant does not know the client_id: wrong tenant, or registered a moment ago; next: compare";
    eventually("the words are in the log", || process.has_logged(words)).await;
}

#[tokio::test]
async fn log_admin_api_status_token_and_doctor_have_the_same_words() {
    let stage = Stage::start().await;
    for (code, is_policys) in [(7_000_215, false), (501_051, false), (700_016, false), (90_085, true)] {
        let prefix = if is_policys { "AADB2C" } else { "AADSTS" };
        let body = format!(r#"{{"error":"invalid_request","error_description":"{prefix}{code}: x"}}"#);
        stage.idp.set_behaviour(Behaviour::Raw { status: 400, headers: Vec::new(), body });
        let process = Process::start(&stage, &[]).await;
        eventually("the refusal is logged", || process.has_logged("no token: ")).await;
        let url = format!("http://{}/api/v1/profiles", process.admin());
        let told: Value = stage.http.get(url).send().await.unwrap().json().await.unwrap();
        let profile = told.get(0).unwrap_or_else(|| &told["profiles"][0]);
        let (meaning, remedy) = (profile["meaning"].as_str().unwrap(), profile["remedy"].as_str().unwrap());
        assert!(process.has_logged(&format!("{meaning}; next: {remedy}")), "{:?}", process.lines());
        let readyz = stage.http.get(format!("http://{}/readyz", process.admin())).send().await.unwrap();
        let admin = process.admin().to_string();
        for (text, place) in [
            (readyz.text().await.unwrap(), "readyz"),
            (cli(&stage, &["token", "account"]).await.1, "token"),
            (cli(&stage, &["doctor"]).await.1, "doctor"),
            (stage_status(&admin).await, "status"),
        ] {
            assert!(text.contains(meaning) && text.contains(remedy), "{place}: {meaning}, {remedy}: {text}");
        }
    }
}

async fn stage_status(admin: &str) -> String {
    let mut command = command(&["status", "--admin", admin]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn missing_roles_are_shown_while_the_token_is_used() {
    let stage = Plan::default().profile("expected_roles: [Orders.Write]").start().await;
    stage.ready().await;
    assert_eq!(stage.status("/v1/orders").await, 200);
    assert_eq!(readyz(&stage).await["missing_roles"][0], "Orders.Write");
    let metrics = stage.admin("/metrics").await.1;
    assert!(metrics.contains("keybearer_token_roles_missing{profile=\"account\"} 1"), "{metrics}");
    assert!(status(&stage).await.contains("its token lacks Orders.Write"));
    let (code, said) = cli(&stage, &["token", "account"]).await;
    assert_eq!(code, 0);
    assert!(said.contains("missing    Orders.Write") && said.contains("Assignment required"), "{said}");
}

#[tokio::test]
async fn a_token_says_who_it_is_by_its_claims_or_is_called_opaque() {
    let stage = Stage::start().await;
    let (_, said) = cli(&stage, &["token", "account"]).await;
    for words in
        ["proven by  client_secret_post", "issuer     ", "audience   0f8fad5b", "roles      Orders.Read"]
    {
        assert!(said.contains(words), "{words} is not in {said}");
    }
    let body = r#"{"access_token":"opaque-canary","token_type":"Bearer","expires_in":600}"#.into();
    stage.idp.set_behaviour(Behaviour::Raw { status: 200, headers: Vec::new(), body });
    let (code, said) = cli(&stage, &["token", "account"]).await;
    assert_eq!(code, 0);
    assert!(said.contains("opaque: only its issuer can read it") && !said.contains("canary"), "{said}");
}

#[tokio::test]
async fn the_clocks_difference_and_the_tokens_size_are_measured() {
    let body = format!(r#"{{"access_token":"{}","expires_in":600}}"#, "t".repeat(5000));
    let headers = vec![("date".to_owned(), "Sun, 06 Nov 1994 08:49:37 GMT".to_owned())];
    let answer = Behaviour::Raw { status: 200, headers, body };
    let stage = Plan::default().start_with(|idp| idp.set_behaviour(answer)).await;
    stage.ready().await;
    let metrics = stage.admin("/metrics").await.1;
    assert!(metrics.contains("keybearer_token_size_bytes{profile=\"account\"} 5000"), "{metrics}");
    let skew = "keybearer_identity_provider_clock_skew_seconds{profile=\"account\"} -";
    assert!(metrics.contains(skew), "{metrics}");
    assert!(status(&stage).await.contains("this machine's clock is ahead of the identity provider's by"));
}
