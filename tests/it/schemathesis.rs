//! The API against its own document: schemathesis makes requests from it, good and bad ones, and judges the answers.

use std::{
    path::Path,
    process::{Command, Output},
};

use crate::stage::{Plan, Stage};

/// Requests for each operation and phase. More find more; these take some seconds.
const EXAMPLES: &str = "25";

async fn stage() -> Stage {
    // An environment, so that one can be switched to.
    let more = "state_dir: state\nenvironments: {staging: {routes: {orders: {profile: none}}}}";
    let stage = Plan::default().more(more).start().await;
    stage.ready().await;
    stage
}

/// Runs it, on a thread that may block.
async fn judge(stage: &Stage, arguments: &[&str]) -> Output {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/bin/schemathesis");
    assert!(program.exists(), "{} is missing: `make tools` installs it", program.display());
    let mut command = Command::new(program);
    command.args(["run", "--no-color", "--checks", "all", "--continue-on-failure", "--seed", "1"]);
    command.args(["--max-examples", EXAMPLES, "--generation-database", "none", "--no-shrink"]);
    // An answer without an end, which it would wait for; tests/it/admin_api.rs reads it.
    command.args(["--exclude-path", "/api/v1/events"]);
    command.args(arguments);
    command.arg(format!("http://{}/api/v1/openapi.json", stage.gateway.admin().unwrap()));
    // It must not find a configuration, nor leave files, where the tests run.
    command.current_dir(stage.folder.path());
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(name);
    }
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn assert_passed(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_keeps_to_its_document_with_the_admin_token() {
    let stage = stage().await;
    let token = std::fs::read_to_string(stage.folder.path().join("state/admin-token")).unwrap();
    let header = format!("Authorization: Bearer {}", token.trim());
    assert_passed(&judge(&stage, &["-H", &header]).await);
    // It has changed things meanwhile, and the gateway serves on.
    assert_eq!(stage.admin("/livez").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_keeps_to_its_document_without_the_admin_token() {
    let stage = stage().await;
    assert_passed(&judge(&stage, &[]).await);
    let (_, configuration) = stage.admin("/api/v1/configuration").await;
    let configuration: serde_json::Value = serde_json::from_str(&configuration).unwrap();
    assert_eq!(configuration["history"], serde_json::json!([]), "nothing was changed");
    assert_eq!(configuration["reading"]["done"], 0);
}
