//! Where secrets are kept, and what becomes of a new one, a broken one and a second one.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use keybearer::demo::idp::{Behaviour, Idp};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    process::{Process, command},
    stage::{CLIENT, Plan, SECRET, Stage, eventually},
    vaults::{Server, vault},
};

async fn stage(credential: &str) -> Stage {
    Plan::default().credential(credential).start().await
}

/// Why the account has no token.
async fn failure(stage: &Stage) -> String {
    eventually("the profile has failed", || stage.gateway.profiles()[0].view().failed > 0).await;
    stage.gateway.profiles()[0].view().error.unwrap().to_string()
}

fn file(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

fn script(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = file(folder, name, &format!("#!/bin/sh\n{text}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A new secret is taken from now on, and the old one is not.
fn rotate(idp: &Idp, path: &Path, secret: &str) {
    fs::write(path, secret).unwrap();
    idp.set_secrets(CLIENT, &[secret]);
}

#[tokio::test]
async fn a_command_gives_the_secret_and_is_asked_again_for_every_token() {
    let folder = tempfile::tempdir().unwrap();
    let secret = file(&folder, "kept", SECRET);
    let stage = stage(&format!("client_secret: {{exec: [cat, {}]}}", secret.display())).await;
    assert_eq!(stage.status("/v1/orders").await, 200);
    rotate(&stage.idp, &secret, "rotated-canary");
    stage.idp.revoke_all();
    assert_eq!(stage.status("/v1/orders").await, 200);
    assert_eq!(stage.idp.last_request().unwrap().field("client_secret"), Some("rotated-canary"));
}

#[tokio::test]
async fn a_command_that_fails_shows_its_status_and_nothing_of_what_it_said() {
    let folder = tempfile::tempdir().unwrap();
    let program = script(&folder, "helper", "echo canary-out; echo canary-err >&2; exit 3");
    let stage = stage(&format!(
        "client_secret: {{exec: {{command: [{}, canary-argument], timeout: 30s}}}}",
        program.display()
    ))
    .await;
    let error = failure(&stage).await;
    assert!(error.contains(&format!("command {} gave no secret", program.display())), "{error}");
    assert!(error.contains("exit status 3") && !error.contains("canary"), "{error}");
    assert_eq!(stage.idp.requests(), 0, "nobody is asked without a secret");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_gives_credentials_in_a_folder_of_its_own() {
    let stage = Stage::start().await;
    let path = stage.folder.path().join("keybearer.yaml");
    let text =
        stage.yaml.replace("client_secret: {file: secret}", "client_secret: {credential: orders.secret}");
    fs::write(&path, text).unwrap();
    let output = command(&["token", "account", "--config", path.to_str().unwrap()]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("CREDENTIALS_DIRECTORY is not set (systemd sets it for a unit with LoadCredential=orders.secret:PATH)"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    file(&folder, "orders.secret", SECRET);
    let mut token = command(&["token", "account", "--config", path.to_str().unwrap()]);
    let output = token.env("CREDENTIALS_DIRECTORY", folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(stage.idp.issued(), 2, "the gateway's own, and this one");
}

/// A `vault:` source at `server`.
fn in_vault(server: &Server, path: &str, auth: &str) -> String {
    format!(
        "client_secret: {{vault: {{address: \"{}\", path: {path}, field: password, namespace: team, auth: {auth}}}}}",
        server.url()
    )
}

#[tokio::test]
async fn vault_is_logged_in_to_once_and_read_for_every_token() {
    let server = Server::start(vault(SECRET)).await;
    let folder = tempfile::tempdir().unwrap();
    let id = file(&folder, "id", "canary-id\n");
    let auth = format!("{{approle: {{role_id: keybearer, secret_id: {{file: {}}}}}}}", id.display());
    let stage = stage(&in_vault(&server, "secret/data/app", &auth)).await;
    assert_eq!(stage.status("/v1/orders").await, 200);
    stage.idp.revoke_all();
    assert_eq!(stage.status("/v1/orders").await, 200);
    assert_eq!((server.count("/login"), server.count("/app")), (1, 2));
    let asked = server.asked();
    assert_eq!(asked[0].path, "/v1/auth/approle/login");
    assert_eq!(asked[0].body, json!({"role_id": "keybearer", "secret_id": "canary-id"}));
    assert_eq!(asked[1].header("x-vault-namespace"), Some("team"));
    assert_eq!(asked[1].header("x-vault-request"), Some("true"));
    // The login was revoked, as far as anybody can tell: it is made anew, once.
    server.fail(&[403]);
    stage.idp.revoke_all();
    assert_eq!(stage.status("/v1/orders").await, 200);
    assert_eq!((server.count("/login"), server.count("/app")), (2, 4));
}

#[tokio::test]
async fn vault_takes_a_pods_service_account_and_both_versions_of_the_engine() {
    let server = Server::start(vault(SECRET)).await;
    let folder = tempfile::tempdir().unwrap();
    let token = file(&folder, "token", "canary-jwt");
    let auth =
        format!("{{kubernetes: {{role: orders, mount: clusters/one, token_file: {}}}}}", token.display());
    let stage = stage(&in_vault(&server, "kv/app", &auth)).await;
    assert_eq!(stage.status("/v1/orders").await, 200);
    let asked = server.asked();
    assert_eq!(asked[0].path, "/v1/auth/clusters/one/login");
    assert_eq!(asked[0].body, json!({"role": "orders", "jwt": "canary-jwt"}));
}

#[tokio::test]
async fn what_vault_refuses_is_told_in_plain_words() {
    let server = Server::start(vault(SECRET)).await;
    let folder = tempfile::tempdir().unwrap();
    let good = format!("{{token_file: {}}}", file(&folder, "good", "canary-login").display());
    let bad = format!("{{token_file: {}}}", file(&folder, "bad", "canary-expired").display());
    let wrong = file(&folder, "wrong", "canary-wrong");
    let refused = format!("{{approle: {{role_id: keybearer, secret_id: {{file: {}}}}}}}", wrong.display());
    for (path, auth, words) in [
        ("secret/data/app", &bad, "permission denied (the policy of the login must allow \"read\""),
        ("secret/app", &good, "wants \"data\" behind the mount, as in secret/data/app"),
        ("secret/data/app", &refused, "the login was refused with HTTP 400"),
    ] {
        let error = failure(&stage(&in_vault(&server, path, auth)).await).await;
        assert!(error.contains(words) && !error.contains("canary"), "{error}");
        assert!(error.contains(&format!("of {path} in Vault at {}", server.url())), "{error}");
    }
    for (status, words) in [(503, "it is sealed"), (307, "it redirects"), (500, "HTTP 500")] {
        server.fail(&[status]);
        let error = failure(&stage(&in_vault(&server, "secret/data/app", &good)).await).await;
        assert!(error.contains(words), "{error}");
    }
    let line = in_vault(&server, "secret/data/app", &good).replace("password", "pasword");
    let error = failure(&stage(&line).await).await;
    assert!(error.contains("no text in this field (it has \"n\", \"password\")"), "{error}");
}

#[tokio::test]
async fn a_vault_that_is_sealed_for_a_moment_is_asked_again_soon() {
    let server = Server::start(vault(SECRET)).await;
    server.fail(&[503]);
    let folder = tempfile::tempdir().unwrap();
    let auth = format!("{{token_file: {}}}", file(&folder, "token", "canary-login").display());
    let stage = stage(&in_vault(&server, "secret/data/app", &auth)).await;
    stage.ready().await;
    assert_eq!(stage.status("/v1/orders").await, 200);
}

/// How long its callers are told to wait for a token.
async fn told_to_wait(stage: &Stage) -> u64 {
    let response = stage.get("/v1/orders").await;
    assert_eq!(response.status(), 503);
    response.headers()["retry-after"].to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_vault_that_throttles_is_left_alone_as_long_as_it_says() {
    let server = Server::start(vault(SECRET)).await;
    let folder = tempfile::tempdir().unwrap();
    let id = file(&folder, "id", "canary-id\n");
    let login = format!("{{approle: {{role_id: keybearer, secret_id: {{file: {}}}}}}}", id.display());
    let token = format!("{{token_file: {}}}", file(&folder, "token", "canary-login").display());
    for auth in [login, token] {
        server.fail(&[429]);
        let stage = stage(&in_vault(&server, "secret/data/app", &auth)).await;
        failure(&stage).await;
        let wait = told_to_wait(&stage).await;
        assert!((60..=140).contains(&wait), "{wait}");
    }
}

/// The account waited as long as the one place had said, though the other had a good secret by then.
#[tokio::test]
async fn a_place_that_throttles_keeps_no_secret_of_another_place_waiting() {
    let server = Server::start(vault(SECRET)).await;
    let folder = tempfile::tempdir().unwrap();
    let token = format!("{{token_file: {}}}", file(&folder, "token", "canary-login").display());
    let first = in_vault(&server, "secret/data/app", &token).replacen("client_secret: ", "", 1);
    let second = folder.path().join("second");
    server.fail(&[429; 5]);
    let stage = stage(&format!("client_secret: [{first}, {{file: {}}}]", second.display())).await;
    failure(&stage).await;
    assert!(told_to_wait(&stage).await > 30);
    fs::write(&second, SECRET).unwrap();
    stage.ready().await;
}

/// A profile whose secret is in Key Vault, and the one that reads it from there.
async fn key_vault_stage(server: &Server) -> Stage {
    let credential = format!(
        "client_secret: {{azure_key_vault: {{vault: \"{}\", secret: orders, profile: reader}}}}",
        server.url()
    );
    let started = Plan::default().start_with(|idp| {
        idp.add_api("https://vault.azure.net", "vault-audience");
        let account = keybearer::demo::idp::Account::new("reader-client", "reader-secret", &["Reader"]);
        idp.add_account(account);
    });
    let mut stage = started.await;
    let reader = stage.yaml.split("  account:\n").nth(1).unwrap().split("routes:").next().unwrap();
    let reader = reader.replace(CLIENT, "reader-client").replace("file: secret", "file: reader");
    fs::write(stage.folder.path().join("reader"), "reader-secret").unwrap();
    let text = stage.yaml.replace("client_secret: {file: secret}", &credential);
    let text = text.replace("routes:\n", &format!("  reader:\n{reader}routes:\n"));
    let path = stage.folder.path().join("keybearer.yaml");
    fs::write(&path, &text).unwrap();
    stage.gateway = crate::stage::start_file(&path, None);
    stage.yaml = text;
    stage
}

#[tokio::test]
async fn a_secret_in_key_vault_is_read_with_the_token_of_another_profile() {
    let soon = keybearer::clock::wall().duration_since(UNIX_EPOCH).unwrap().as_secs() + 10 * 86_400;
    let server = Server::start(move |asked| match asked.header("authorization") {
        Some(value) if value.starts_with("Bearer ") => {
            (200, json!({"value": SECRET, "attributes": {"enabled": true, "exp": soon}}))
        }
        _ => (401, json!({})),
    })
    .await;
    let stage = key_vault_stage(&server).await;
    assert_eq!(stage.status("/v1/orders").await, 200);
    assert_eq!(server.asked()[0].path, "/secrets/orders/?api-version=7.4");
    // When it expires is known from the vault.
    let (_, metrics) = stage.admin("/metrics").await;
    let line =
        format!("keybearer_secret_expires_seconds{{profile=\"account\",what=\"client_secret\"}} {soon}");
    assert!(metrics.contains(&line), "{metrics}");
    // A token that the vault does not take is replaced, once.
    server.fail(&[401]);
    stage.idp.revoke_all();
    assert_eq!(stage.status("/v1/orders").await, 200);
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn key_vaults_refusals_name_the_profile_and_the_role_that_is_missing() {
    let server = Server::start(|_| (403, json!({"error": {"code": "Forbidden", "message": "canary"}}))).await;
    let stage = key_vault_stage(&server).await;
    let account = || stage.gateway.profiles().iter().find(|p| p.name() == "account").unwrap().view();
    eventually("the profile has failed", || account().failed > 0).await;
    let error = account().error.unwrap().to_string();
    assert!(
        error.contains("profile \"reader\" may not read it (give it the role \"Key Vault Secrets User\""),
        "{error}"
    );
    assert!(!error.contains("canary"), "{error}");
}

/// The provider's waiting time was lost on the way, and it was asked again within a second.
#[tokio::test]
async fn a_provider_that_throttles_the_login_to_key_vault_is_left_alone_as_long_as_it_says() {
    let server = Server::start(|_| (403, json!({}))).await;
    let mut stage = key_vault_stage(&server).await;
    let throttling = Idp::start().await.unwrap();
    let headers = vec![("retry-after".to_owned(), "120".to_owned())];
    throttling.set_behaviour(Behaviour::Raw { status: 429, headers, body: "{}".into() });
    let (before, reader) = stage.yaml.split_once("  reader:\n").unwrap();
    let text = format!("{before}  reader:\n{}", reader.replace(stage.idp.url(), throttling.url()));
    let path = stage.folder.path().join("throttled.yaml");
    fs::write(&path, text).unwrap();
    stage.gateway = crate::stage::start_file(&path, None);
    let has_failed = || stage.gateway.profiles().iter().all(|profile| profile.view().failed > 0);
    eventually("both profiles have failed", has_failed).await;
    let wait = told_to_wait(&stage).await;
    assert!((60..=140).contains(&wait), "{wait}");
    assert_eq!(throttling.requests(), 2, "the reader's own, and the one for Key Vault");
}

#[tokio::test]
async fn a_broken_file_keeps_the_secret_that_works() {
    let stage = Plan::default().lifetime(Duration::from_secs(3)).start().await;
    stage.ready().await;
    for broken in ["", "half\nwritten", "\u{feff}s"] {
        fs::write(stage.secret_file(), broken).unwrap();
        let before = stage.idp.issued();
        stage.idp.wait_for_issued(before + 1).await;
        assert_eq!(stage.idp.last_request().unwrap().field("client_secret"), Some(SECRET));
        assert_eq!(stage.status("/v1/orders").await, 200);
    }
    fs::remove_file(stage.secret_file()).unwrap();
    let before = stage.idp.issued();
    stage.idp.wait_for_issued(before + 1).await;
    assert_eq!(stage.gateway.profiles()[0].view().failed, 0);
    rotate(&stage.idp, &stage.secret_file(), "mended-canary");
    let is_mended = || stage.idp.last_request().unwrap().field("client_secret") == Some("mended-canary");
    eventually("the mended file is used", is_mended).await;
}

/// A vault that hung used up the time of the whole token request: the last good secret was of no use, and
/// the provider was said not to have answered.
#[tokio::test]
async fn a_source_that_hangs_leaves_the_secret_that_works_enough_time() {
    let folder = tempfile::tempdir().unwrap();
    let (secret, stuck) = (file(&folder, "kept", SECRET), folder.path().join("stuck"));
    let text = format!("[ -e {} ] && exec sleep 60; cat {}", stuck.display(), secret.display());
    let program = script(&folder, "helper", &text);
    let credential = format!(
        "client_secret: {{exec: {{command: [{}], timeout: 60s}}}}\ntoken_timeout: 2s",
        program.display()
    );
    let stage = Plan::default().credential(&credential).lifetime(Duration::from_secs(3)).start().await;
    stage.ready().await;
    fs::write(&stuck, "").unwrap();
    let before = stage.idp.issued();
    stage.idp.wait_for_issued(before + 2).await;
    assert_eq!(stage.gateway.profiles()[0].view().failed, 0);
    assert_eq!(stage.idp.last_request().unwrap().field("client_secret"), Some(SECRET));
}

#[tokio::test]
async fn a_source_that_hangs_from_the_start_is_named_instead_of_the_provider() {
    let folder = tempfile::tempdir().unwrap();
    let program = script(&folder, "helper", "exec sleep 60");
    let stage = stage(&format!(
        "client_secret: {{exec: {{command: [{}], timeout: 60s}}}}\ntoken_timeout: 500ms",
        program.display()
    ))
    .await;
    let error = failure(&stage).await;
    assert!(error.contains(&format!("command {} was not read within 450 ms", program.display())), "{error}");
}

#[tokio::test]
async fn a_secret_that_was_replaced_while_it_was_being_sent_is_sent_again_at_once() {
    let folder = tempfile::tempdir().unwrap();
    // The first reading gives the old one, each later one the new.
    let turn = folder.path().join("turn");
    let text = format!(
        "if [ -e {0} ]; then printf rotated-canary; else touch {0}; printf old-canary; fi",
        turn.display()
    );
    let program = script(&folder, "helper", &text);
    let credential = format!("client_secret: {{exec: [{}]}}", program.display());
    let prepare = |idp: &Idp| idp.set_secrets(CLIENT, &["rotated-canary"]);
    let stage = Plan::default().credential(&credential).start_with(prepare).await;
    assert_eq!(stage.status("/v1/orders").await, 200);
    assert_eq!((stage.idp.requests(), stage.idp.issued()), (2, 1));
    assert_eq!(stage.gateway.profiles()[0].view().failed, 0);
}

fn two(folder: &TempDir, first: &str, second: &str) -> (PathBuf, PathBuf, String) {
    let (first, second) = (file(folder, "first", first), file(folder, "second", second));
    let line = format!("client_secret: [{{file: {}}}, {{file: {}}}]", first.display(), second.display());
    (first, second, line)
}

#[tokio::test]
async fn of_two_secrets_the_one_that_works_is_found_and_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let (_, _, line) = two(&folder, SECRET, "next-canary");
    let stage = stage(&line).await;
    assert_eq!(stage.status("/v1/orders").await, 200);
    assert_eq!(stage.idp.requests(), 1, "the first is tried first");
    // The provider now knows the next one only.
    stage.idp.set_secrets(CLIENT, &["next-canary"]);
    stage.idp.revoke_all();
    assert_eq!(stage.status("/v1/orders").await, 200);
    assert_eq!((stage.idp.requests(), stage.idp.issued()), (3, 2));
    stage.idp.revoke_all();
    assert_eq!(stage.status("/v1/orders").await, 200);
    assert_eq!((stage.idp.requests(), stage.idp.issued()), (4, 3), "the one that worked last comes first");
}

#[tokio::test]
async fn the_log_says_which_of_two_secrets_works() {
    let folder = tempfile::tempdir().unwrap();
    let (_, second, line) = two(&folder, "canary-wrong", SECRET);
    let stage = stage(&line).await;
    let process = Process::start(&stage, &[]).await;
    let words = format!("the second client_secret works (file {}), the first does not", second.display());
    eventually("the log says it", || process.has_logged(&words)).await;
    assert!(!process.has_logged("canary"));
    let path = stage.folder.path().join("keybearer.yaml");
    for arguments in [&["token", "account"][..], &["doctor", "--profile", "account"]] {
        let mut tried = command(arguments);
        tried.arg("--config").arg(&path);
        let output = tokio::task::spawn_blocking(move || tried.output().unwrap()).await.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("with the second client_secret; the first does not work"), "{said}");
    }
}

#[tokio::test]
async fn two_wrong_secrets_are_two_logins_and_not_more() {
    let folder = tempfile::tempdir().unwrap();
    let (_, second, line) = two(&folder, "wrong-canary", "wronger-canary");
    let stage = stage(&line).await;
    let error = failure(&stage).await;
    assert!(error.contains("invalid_client") && !error.contains("canary"), "{error}");
    for _ in 0..5 {
        assert_eq!(stage.status("/v1/orders").await, 503);
    }
    assert_eq!(stage.idp.requests(), 2);
    fs::write(second, SECRET).unwrap();
    stage.ready().await;
    assert_eq!(stage.status("/v1/orders").await, 200);
}

#[tokio::test]
async fn a_gateway_starts_with_one_of_two_secrets_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second, line) = two(&folder, "canary-gone", SECRET);
    let stage = stage(&line).await;
    fs::remove_file(&first).unwrap();
    let process = Process::start(&stage, &[]).await;
    assert!(process.has_logged("no such file") && process.has_logged("the other place serves meanwhile"));
    assert_eq!(stage.http.get(process.url("/v1/orders")).send().await.unwrap().status(), 200);
    fs::write(&second, "").unwrap();
    let path = stage.folder.path().join("keybearer.yaml");
    let output = command(&["check", "--config", path.to_str().unwrap()]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && said.contains("2 problems"), "{said}");
}

#[tokio::test]
async fn one_of_two_secrets_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let (first, _, line) = two(&folder, "", SECRET);
    fs::write(&first, "gone").unwrap();
    let stage = Plan::default().credential(&line).without_idp().start().await;
    fs::remove_file(&first).unwrap();
    stage.idp.come_back().await.unwrap();
    stage.ready().await;
    assert_eq!(stage.status("/v1/orders").await, 200);
}

#[tokio::test]
async fn an_end_that_is_near_is_told_by_check_by_the_log_and_by_a_metric() {
    let soon = keybearer::clock::wall() + Duration::from_secs(5 * 86_400 + 3600);
    let text = httpdate::fmt_http_date(soon);
    let expires = format!("{}T00:00:00Z", iso_day(soon));
    let stage = Plan::default().profile(&format!("client_secret_expires: {expires}")).start().await;
    stage.ready().await;
    let path = stage.folder.path().join("keybearer.yaml");
    let output = command(&["check", "--config", path.to_str().unwrap()]).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words}");
    let day = text.split_once(", ").unwrap().1.get(..11).unwrap();
    assert!(words.contains("client_secret expires in") && words.contains(day), "{words}");
    let process = Process::start(&stage, &[]).await;
    let warning = |line: &String| {
        line.contains("\"WARN\"")
            && line.contains("client_secret expires in ")
            && line.contains("\"profile\":\"account\"")
    };
    eventually("the log has it", || process.lines().iter().any(warning)).await;
    // Behind what the start has to say of the configuration.
    eventually("it runs", || process.has_logged("keybearer runs")).await;
    let told = process.lines().iter().filter(|line| line.contains("client_secret expires in")).count();
    assert_eq!(told, 1, "it is told twice:\n{}", process.lines().join("\n"));
    let (_, metrics) = stage.admin("/metrics").await;
    assert!(
        metrics.contains("keybearer_secret_expires_seconds{profile=\"account\",what=\"client_secret\"}"),
        "{metrics}"
    );
}

fn iso_day(time: SystemTime) -> String {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    // `Sun, 22 Nov 2026 23:00:00 GMT`
    let text = httpdate::fmt_http_date(time);
    let parts: Vec<&str> = text.split(' ').collect();
    let month = MONTHS.find(parts[2]).unwrap() / 3 + 1;
    format!("{}-{month:02}-{}", parts[3], parts[1])
}
