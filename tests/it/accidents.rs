//! What happens to secrets in practice: an id in the place of a value, a pipe in the place of a file, a
//! provider that repeats what it was sent. `check` and the doctor say so, and nobody shows the secret.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use keybearer::{clock, demo::idp::Behaviour};
use tempfile::TempDir;

use crate::{
    judge::{Judge, ok},
    process::{Process, command, keybearer},
    proofs::Made,
    stage::{API_URI, CLIENT, Plan, SECRET, Stage, eventually},
    vaults::{Server, vault},
};

/// A configuration with a secret in `secret`, and one in a variable that nobody has set.
fn folder(kind: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "listeners: {{local: {{address: 127.0.0.1:0}}}}\nprofiles:\n  one:\n    {kind}\n    client_id: {CLIENT}\n    \
         client_secret: {{file: secret}}\n\
         routes: {{all: {{upstream: https://orders.contoso.com, profile: one}}}}\n"
    );
    fs::write(folder.path().join("keybearer.yaml"), text).unwrap();
    folder
}

const OF_ENTRA: &str =
    "{kind: entra, tenant: contoso.onmicrosoft.com, scope: api://orders/.default, client_id: x}";

fn entra() -> TempDir {
    folder("kind: entra\n    tenant: contoso.onmicrosoft.com\n    scope: api://orders/.default")
}

fn check(folder: &Path) -> (i32, String) {
    let output = keybearer(&["check", "--config", folder.join("keybearer.yaml").to_str().unwrap()]);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn check_finds_what_is_no_secret_before_a_provider_does() {
    let folder = entra();
    for (content, code, words) in [
        ("canary\n", 0, ""),
        ("", 2, "is empty"),
        ("\n", 2, "is empty"),
        ("canary\n\n", 2, "control character at byte 6"),
        ("\u{feff}canary", 2, "byte-order mark"),
        (" canary", 0, "warning: "),
        (" canary", 0, "begins or ends with a space"),
        ("0f8fad5b-d9cb-469f-a165-70867728950e", 0, "the secret has the form of an id"),
    ] {
        fs::write(folder.path().join("secret"), content).unwrap();
        let (exit, said) = check(folder.path());
        assert!(exit == code && said.contains(words), "{content:?}: {exit} {said}");
        assert!(words.is_empty() == said.is_empty(), "{content:?}: {said}");
        assert!(!said.contains("canary") && !said.contains("0f8fad5b"), "{said}");
    }
    // Elsewhere a secret may well be a GUID.
    let other = self::folder("kind: oauth2\n    token_url: https://id.example.com/token");
    fs::write(other.path().join("secret"), "0f8fad5b-d9cb-469f-a165-70867728950e").unwrap();
    assert_eq!(check(other.path()), (0, String::new()));
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_refused_and_holds_up_nobody() {
    let folder = entra();
    let made = Command::new("mkfifo").arg(folder.path().join("secret")).status().unwrap();
    assert!(made.success());
    let (code, said) = check(folder.path());
    assert!(code == 2 && said.contains("is a pipe or a device, not a file"), "{said}");
    let path = folder.path().join("keybearer.yaml");
    let output = keybearer(&["token", "one", "--config", path.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is a pipe or a device"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_needs_no_other_profiles_secret() {
    let stage = Stage::start().await;
    let other = format!(
        "profiles:\n  other: {}",
        OF_ENTRA.replace('}', ", client_secret: {env: KEYBEARER_NOT_SET}}")
    );
    let path = stage.folder.path().join("two.yaml");
    fs::write(&path, stage.yaml.replacen("profiles:", &other, 1)).unwrap();
    let token = |name| keybearer(&["token", name, "--config", path.to_str().unwrap()]);
    let well = token("account");
    assert_eq!(well.status.code(), Some(0), "{}", String::from_utf8_lossy(&well.stderr));
    let output = token("other");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("environment variable KEYBEARER_NOT_SET is not set") && said.contains("next "),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_repeats_the_secret_in_any_form_gets_it_into_no_output() {
    let stage = Stage::start().await;
    let basic = BASE64_STANDARD.encode(format!("{CLIENT}:{SECRET}"));
    let yaml = stage.folder.path().join("keybearer.yaml");
    // (what the provider says, what must not be shown of it)
    for (said, shown) in [
        (format!("you sent Basic {basic}"), basic.split_at(60).1.split_at(8).0.to_owned()),
        (SECRET.to_uppercase(), SECRET.to_uppercase().split_at(8).0.to_owned()),
        ("p%2Bs%2Fs%3Dw%3Ao%25r%26d%20%22~".into(), "p%2Bs%2Fs".into()),
    ] {
        let body = serde_json::json!({"error": "invalid_client", "error_codes": [7000215], "error_description": said});
        let refusal = Behaviour::Raw { status: 401, headers: Vec::new(), body: body.to_string() };
        stage.idp.set_behaviour(refusal);
        let process = Process::start(&stage, &["--log-filter", "trace"]).await;
        eventually("the refusal is told", || process.has_logged("AADSTS7000215")).await;
        let profiles =
            stage.http.get(format!("http://{}/api/v1/profiles", process.admin())).send().await.unwrap();
        let mut told = vec![process.lines().join("\n"), profiles.text().await.unwrap()];
        for arguments in [&["doctor"][..], &["doctor", "--json"], &["token", "account"]] {
            let output = command(arguments).arg("--config").arg(&yaml).output().unwrap();
            told.push(String::from_utf8([output.stdout, output.stderr].concat()).unwrap());
        }
        for text in told {
            assert!(text.contains("repeat what was sent"), "{text}");
            assert!(!text.contains(&shown) && !text.contains("canary"), "{shown} is in {text}");
        }
    }
}

#[tokio::test]
async fn a_file_that_breaks_is_told_within_seconds_and_not_at_the_next_token() {
    let stage = Stage::start().await;
    let process = Process::start(&stage, &[]).await;
    eventually("there are tokens", || stage.idp.issued() == 2).await;
    fs::write(stage.secret_file(), "half\nwritten").unwrap();
    eventually("it is told", || process.has_logged("the last good client_secret stays in use: file ")).await;
    fs::write(stage.secret_file(), SECRET).unwrap();
    eventually("it is well", || process.has_logged("the client_secret can be read again")).await;
    assert_eq!(stage.idp.issued(), 2, "nothing has changed, so nobody was asked");
}

/// The process may write into its folder, into a home and a place for temporary files; what is there at its end is what
/// was put there, and the state that it was told to keep.
#[tokio::test]
async fn no_token_is_written_to_disk() {
    let stage = Plan::default().more("state_dir: state").start().await;
    stage.ready().await;
    let (path, places) = (stage.folder.path().join("keybearer.yaml"), tempfile::tempdir().unwrap());
    let place = places.path().to_str().unwrap().to_owned();
    let variables = ["HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_STATE_HOME"].map(|name| (name, place.clone()));
    let mut process = Process::start_with_variables(&path, &variables).await;
    for _ in 0..2 {
        assert_eq!(stage.http.get(process.url("/v1/orders")).send().await.unwrap().status(), 200);
        stage.idp.revoke_all();
    }
    process.signal("-TERM");
    assert!(process.end().await.success());
    let tokens: Vec<String> =
        stage.api.history().iter().filter_map(|seen| seen.token().map(str::to_owned)).collect();
    assert!(tokens.len() > 1);
    let mut files = files_below(stage.folder.path());
    let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["keybearer.yaml", "secret", "admin-token"]);
    files.extend(files_below(places.path()));
    for file in files {
        let text = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
        let has_token = tokens.iter().any(|token| text.contains(token)) || text.contains("eyJ");
        assert!(!has_token, "a token is in {}", file.display());
    }
}

/// All files of a folder, those of its folders last.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort_by_key(|path| (path.is_dir(), path.clone()));
    paths.into_iter().flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// A profile for each place and each proof, none of which is known to the provider, and a key for an upstream
/// that speaks HTTP/2.
async fn everything(stage: &Stage, made: &Made, upstream: &Judge, server: &Server) -> String {
    let folder = stage.folder.path();
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write("helper", "#!/bin/sh\necho canary-error >&2\nprintf canary-output\n");
    fs::set_permissions(folder.join("helper"), fs::Permissions::from_mode(0o755)).unwrap();
    write("id", "canary-id");
    write("kept", "canary-kept");
    write("workload", &made.token(clock::wall()));
    let (idp, vault) = (stage.idp.url(), server.url());
    let approle = "{approle: {role_id: keybearer, secret_id: {file: id}}}";
    let entra = format!(
        "kind: entra, authority: \"{idp}\", tenant: contoso.onmicrosoft.com, client_id: nobody, scope: {API_URI}/.default"
    );
    let plain = format!("kind: oauth2, token_url: \"{idp}/token\", client_id: nobody");
    let at = |name: &str| made.path(name).display().to_string();
    format!(
        "listeners: {{local: {{address: \"127.0.0.1:0\"}}}}\nadmin: {{address: \"127.0.0.1:0\"}}\nprofiles:\n  \
         exec: {{{entra}, client_secret: {{exec: [./helper, canary-argument]}}}}\n  \
         vault: {{{plain}, client_secret: {{vault: {{address: \"{vault}\", path: secret/data/app, field: password, auth: {approle}}}}}}}\n  \
         certificate: {{{entra}, certificate: {{file: {}}}, certificate_password: {{file: {}}}}}\n  \
         federated: {{{entra}, federated_token: {{file: workload}}}}\n  \
         signed: {{{plain}, auth: client_secret_jwt, client_secret: {{file: kept}}}}\n  \
         key: {{{plain}, auth: private_key_jwt, private_key: {{file: {}}}}}\n  \
         exchanged: {{{plain}, grant: token_exchange, auth: none, subject_token: {{file: workload}}, subject_token_type: jwt}}\n  \
         fixed: {{kind: static, bearer: {{file: kept}}}}\n\
         routes: {{all: {{upstream: {{url: \"{}\", http2: prior_knowledge}}, profile: fixed}}}}\n",
        at("both.pfx"),
        at("password"),
        at("only.key"),
        upstream.url()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_proves_an_account_gets_into_any_output_whatever_the_level() {
    let (stage, made) = (Stage::start().await, Made::new());
    let (upstream, server) = (Judge::start(|_| ok()).await, Server::start(vault("canary-vault")).await);
    let yaml = stage.folder.path().join("everything.yaml");
    fs::write(&yaml, everything(&stage, &made, &upstream, &server).await).unwrap();
    let process = Process::start_with(&yaml, &["--log-filter", "trace"]).await;
    let refused = || process.lines().iter().filter(|line| line.contains("no token: ")).count();
    eventually("all have been refused", || refused() >= 7).await;
    assert_eq!(stage.http.get(process.url("/a")).send().await.unwrap().status(), 200);
    assert_eq!(upstream.last().values("authorization"), ["Bearer canary-kept"]);
    let mut told = vec![process.lines().join("\n")];
    for path in ["metrics", "readyz", "api/v1/profiles", "api/v1/routes", "api/v1/configuration"] {
        let answer = stage.http.get(format!("http://{}/{path}", process.admin())).send().await.unwrap();
        assert_eq!(answer.status() == 200, path != "readyz", "{path}");
        told.push(answer.text().await.unwrap());
    }
    let names = ["exec", "vault", "certificate", "federated", "signed", "key", "exchanged", "fixed"];
    let mut lines: Vec<Vec<&str>> = names.map(|name| vec!["token", name]).into();
    lines.extend([vec!["check"], vec!["doctor"], vec!["doctor", "--json"], vec!["explain", "GET", "/a"]]);
    for arguments in lines {
        let mut tried = command(&arguments);
        tried.arg("--config").arg(&yaml).env("RUST_LOG", "trace").env("KEYBEARER_LOG", "trace");
        let output = tried.output().unwrap();
        told.push(format!(
            "{arguments:?} {}",
            String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
        ));
    }
    let key = made.pem().lines().rev().nth(3).unwrap().to_owned();
    let workload = made.token(clock::wall()).split('.').next().unwrap().to_owned();
    for text in told {
        for leak in ["canary", "open sesame", &key, &workload, "eyJ"] {
            assert!(!text.contains(leak), "{leak} is in {text}");
        }
    }
}
