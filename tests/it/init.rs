//! `keybearer init`: every choice gives a file that `check` accepts, by flags and by answers.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
};

use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256};

use crate::{process::command, terminal::Terminal};

const SCOPE: &str = "--scope api://orders-api/.default";
const APP: &str = "--tenant contoso.onmicrosoft.com --client-id 10d635e5-7615-472f-8200-a81d5c87c0ca";

fn of(folder: &Path, line: &str) -> Command {
    let mut command = command(&line.split_whitespace().collect::<Vec<_>>());
    command.current_dir(folder);
    for name in ["AZURE_FEDERATED_TOKEN_FILE", "AZURE_CLIENT_ID", "AZURE_TENANT_ID", "CREDENTIALS_DIRECTORY"]
    {
        command.env_remove(name);
    }
    command
}

fn run(folder: &Path, line: &str) -> Output {
    of(folder, line).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Everything that an account of the table may prove itself with.
fn provide(folder: &Path) {
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let certificate = CertificateParams::new(["orders".to_owned()]).unwrap().self_signed(&key).unwrap();
    fs::write(folder.join("orders.pem"), certificate.pem()).unwrap();
    fs::write(folder.join("orders.key"), key.serialize_pem()).unwrap();
    fs::write(folder.join("both.pem"), certificate.pem() + &key.serialize_pem()).unwrap();
    fs::write(folder.join("workload.token"), "e30.e30.c2ln\n").unwrap();
    fs::create_dir(folder.join("credentials")).unwrap();
    for name in ["orders.secret", "my secret: 1", "credentials/orders-secret"] {
        fs::write(folder.join(name), "s3cret-canary").unwrap();
    }
}

#[test]
fn every_provider_gives_a_file_that_check_accepts() {
    let folder = tempfile::tempdir().unwrap();
    provide(folder.path());
    let cases = [
        format!("--provider entra {APP} {SCOPE} --secret-file orders.secret"),
        format!("--provider entra {APP} {SCOPE} --secret-env ORDERS_SECRET"),
        format!("--provider entra {APP} {SCOPE} --secret-credential orders-secret"),
        format!("--provider entra {APP} {SCOPE} --certificate-file both.pem"),
        format!("--provider entra {APP} {SCOPE} --certificate-file orders.pem --key-file orders.key"),
        format!("--provider entra {APP} {SCOPE} --federated-token-file workload.token"),
        format!("--provider entra {SCOPE} --workload-identity"),
        format!("--provider managed-identity {SCOPE}"),
        format!("--provider managed-identity {SCOPE} --client-id 10d635e5-7615-472f-8200-a81d5c87c0ca"),
        "--provider oauth2 --issuer https://id.example.com --client-id crm --secret-file orders.secret"
            .into(),
        "--provider oauth2 --token-url https://id.example.com/token --client-id 17 --scope crm.read \
         --secret-env ORDERS_SECRET"
            .into(),
        "--provider static --secret-file orders.secret".into(),
        "--provider static --secret-credential orders-secret --listen unix:gateway.sock".into(),
    ];
    for case in cases {
        let line =
            format!("init --force --upstream https://orders.contoso.com/api --prefix /v1/orders {case}");
        let output = run(folder.path(), &line);
        assert_eq!(output.status.code(), Some(0), "{case}\n{}", said(&output));
        let mut check = of(folder.path(), "check");
        let variables = [
            ("ORDERS_SECRET", "s3cret-canary"),
            ("CREDENTIALS_DIRECTORY", folder.path().join("credentials").to_str().unwrap()),
            ("AZURE_FEDERATED_TOKEN_FILE", folder.path().join("workload.token").to_str().unwrap()),
            ("AZURE_CLIENT_ID", "10d635e5-7615-472f-8200-a81d5c87c0ca"),
            ("AZURE_TENANT_ID", "contoso.onmicrosoft.com"),
        ]
        .map(|(name, value)| (name, value.to_owned()));
        let checked = check.envs(variables).output().unwrap();
        let yaml = fs::read_to_string(folder.path().join("keybearer.yaml")).unwrap();
        assert_eq!(checked.status.code(), Some(0), "{case}\n{}\n{yaml}", said(&checked));
        assert!(checked.stderr.is_empty(), "{case}\n{}", said(&checked));
        let explained = run(folder.path(), "explain GET /v1/orders/7");
        assert!(
            said(&explained).contains("https://orders.contoso.com/api/v1/orders/7"),
            "{}",
            said(&explained)
        );
        assert!(
            !yaml.contains("canary") && yaml.lines().filter(|line| line.contains("# ")).count() > 5,
            "{yaml}"
        );
    }
}

#[test]
fn nothing_is_written_over_unless_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keybearer.yaml");
    fs::write(&path, "mine\n").unwrap();
    let line = "init --provider static --secret-file a --upstream https://a.example";
    let output = run(folder.path(), line);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("keybearer.yaml is there already"), "{}", said(&output));
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine\n");
    // One of two files that is there stops both.
    fs::write(folder.path().join("unit.env"), "mine\n").unwrap();
    let output = run(folder.path(), &format!("{line} --output new.yaml --systemd unit.env"));
    assert_eq!((output.status.code(), folder.path().join("new.yaml").exists()), (Some(1), false));
    assert_eq!(run(folder.path(), &format!("{line} --force")).status.code(), Some(0));
    assert!(fs::read_to_string(&path).unwrap().contains("kind: static"));
}

#[test]
fn a_folder_that_is_not_there_is_said_before_anything_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    for line in ["init --output none/k.yaml", "init --systemd none/unit.env"] {
        let output = run(folder.path(), line);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("the folder none is not there: make it"), "{}", said(&output));
    }
}

#[test]
fn what_is_missing_or_wrong_is_said_all_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(
        folder.path(),
        "init --provider entra --client-id x --scope orders --upstream http://orders.example.com --listen 8080",
    );
    assert_eq!(output.status.code(), Some(2));
    let words = said(&output);
    for expected in [
        "--tenant is missing",
        "one of --secret-file",
        "--scope \"orders\": it ends with /.default",
        "--upstream \"http://orders.example.com\": a token goes over https",
        "--listen \"8080\": an IP address and a port",
        "keybearer init --help",
    ] {
        assert!(words.contains(expected), "{expected:?} is not in\n{words}");
    }
    let output = run(
        folder.path(),
        "init --provider static --secret-file a --upstream https://a.example --prefix /a/../b",
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("make no valid configuration; nothing was written"), "{}", said(&output));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_environment_file_of_the_unit_has_a_line_for_the_secret() {
    let folder = tempfile::tempdir().unwrap();
    let line = "init --provider static --secret-env CRM_TOKEN --upstream https://a.example --systemd";
    let output = run(folder.path(), line);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let path = folder.path().join("keybearer.env");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.lines().any(|line| line == "CRM_TOKEN="), "{text}");
    assert!(!text.contains("ORDERS_SECRET"), "{text}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let yaml = fs::read_to_string(folder.path().join("keybearer.yaml")).unwrap();
    assert!(yaml.contains("state_dir: /var/lib/keybearer"), "{yaml}");
    assert!(said(&output).contains("systemctl enable --now keybearer"), "{}", said(&output));
    // Without them check would miss what the unit has.
    assert!(said(&output).contains(". /etc/keybearer/keybearer.env; keybearer check"), "{}", said(&output));
}

#[test]
fn for_the_unit_it_says_which_files_its_user_cannot_reach() {
    let folder = tempfile::tempdir().unwrap();
    let to = format!("init --provider entra {APP} {SCOPE} --upstream https://a.example --force");
    for proof in ["--secret-file a.secret", "--certificate-file a.pem", "--federated-token-file a.token"] {
        let words = said(&run(folder.path(), &format!("{to} {proof} --systemd")));
        assert!(words.contains("not below /home or /root"), "{proof}: {words}");
        let words = said(&run(folder.path(), &format!("{to} {proof}")));
        assert!(!words.contains("/home"), "{proof}: {words}");
    }
}

#[test]
fn what_the_provider_has_no_use_for_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let to = "init --secret-file a --upstream https://a.example";
    for (line, flag) in [
        ("--provider static --tenant contoso.onmicrosoft.com", "--tenant"),
        ("--provider static --scope api://a/.default", "--scope"),
        ("--provider static --client-id crm", "--client-id"),
        ("--provider oauth2 --issuer https://id.example --client-id crm --tenant contoso", "--tenant"),
        (&format!("--provider entra {APP} {SCOPE} --token-url https://id.example/token"), "--token-url"),
    ] {
        let output = run(folder.path(), &format!("{to} {line}"));
        assert_eq!(output.status.code(), Some(2), "{line}: {}", said(&output));
        let words = format!("{flag} means nothing for --provider ");
        assert!(said(&output).contains(&words), "{line}: {}", said(&output));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn certificate_and_key_in_two_files_are_asked_for_in_both() {
    let folder = tempfile::tempdir().unwrap();
    let proof = "--certificate-file a.pem --key-file a.key";
    let line = format!("init --provider entra {APP} {SCOPE} --upstream https://a.example {proof}");
    let words = said(&run(folder.path(), &line));
    assert!(words.contains("put the certificate into a.pem and its key into a.key"), "{words}");
}

#[tokio::test]
async fn a_token_endpoint_that_is_given_for_an_issuer_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let line = "init --provider oauth2 --client-id crm --scope crm.read --secret-file a --upstream https://a.example \
                --prefix / --listen 127.0.0.1:8080 --force";
    for (url, key) in [
        ("https://sso.example/as/token.oauth2", "token_url"),
        ("https://id.example/oauth2/v2.0/token", "token_url"),
        ("https://id.example/oauth/access_token/", "token_url"),
        ("https://id.example/realms/token/main", "issuer"),
        ("https://token.example", "issuer"),
    ] {
        let mut terminal = Terminal::start(of(folder.path(), line), 40, 120);
        terminal.answer("or its token endpoint, as a URL:", url).await;
        let (status, shown) = terminal.end().await;
        assert_eq!(status.code(), Some(0), "{shown}");
        let yaml = fs::read_to_string(folder.path().join("keybearer.yaml")).unwrap();
        assert!(yaml.contains(&format!("{key}: {url}\n")), "{url}: {yaml}");
    }
}

#[test]
fn a_path_means_the_same_in_a_file_that_is_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    provide(folder.path());
    fs::create_dir(folder.path().join("etc")).unwrap();
    let mut command =
        of(folder.path(), "init --provider static --upstream https://a.example --output etc/k.yaml");
    // A name that would be another value in YAML, were it not quoted.
    let output = command.args(["--secret-file", "my secret: 1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let checked = run(folder.path(), "check --config etc/k.yaml");
    assert_eq!(checked.status.code(), Some(0), "{}", said(&checked));
}

#[tokio::test]
async fn on_a_terminal_it_asks_and_asks_again_when_an_answer_will_not_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::start(of(folder.path(), "init --prefix /v1"), 40, 120);
    terminal.answer("4 nobody: a token lies in its place", "7").await;
    terminal.answer("a number from 1 to 4", "1").await;
    terminal.answer("6 by Azure Workload Identity", "2").await;
    terminal.answer("directory id or verified domain:", "contoso.onmicrosoft.com").await;
    terminal.answer("The application's (client) id:", "10d635e5-7615-472f-8200-a81d5c87c0ca").await;
    terminal.answer("The variable's name:", "ORDERS_SECRET").await;
    terminal.answer("with /.default:", "orders").await;
    terminal.answer("it ends with /.default, as in", "api://orders-api/.default").await;
    terminal.answer("The Web API's base URL:", "https://orders.contoso.com").await;
    terminal.answer("[127.0.0.1:8080]:", "").await;
    let (status, shown) = terminal.end().await;
    assert_eq!(status.code(), Some(0), "{shown}");
    assert!(shown.contains("put the secret into the variable ORDERS_SECRET"), "{shown}");
    let checked = of(folder.path(), "check").env("ORDERS_SECRET", "s3cret").output().unwrap();
    assert_eq!(checked.status.code(), Some(0), "{}", said(&checked));
}
