//! Managed identities: the gateway as a process on a pretended Azure machine.

use std::{fs, process::Output};

use keybearer::demo::{
    api::{Api, Settings},
    idp::{Account, Behaviour, IDENTITY_HEADER, Idp, TENANT},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::{
    process::{Process, command},
    stage::{API_URI, AUDIENCE, CLIENT, ROLE, eventually, fault},
    vaults::Server,
};

/// A user-assigned identity beside the machine's own.
const OTHER: &str = "7d3a1c52-9a11-4f0e-8f55-6c2b1e9d0a42";

/// A machine with identities, an API that knows them, and the configuration of a gateway.
struct Machine {
    idp: Idp,
    api: Api,
    folder: TempDir,
}

impl Machine {
    /// `profile` are lines below `kind: managed_identity`.
    async fn start(profile: &str) -> Machine {
        let idp = Idp::start().await.unwrap();
        idp.add_api(API_URI, AUDIENCE);
        idp.add_account(Account::new(CLIENT, "never-asked-for", &[ROLE]));
        idp.add_account(Account::new(OTHER, "never-asked-for", &[ROLE]));
        idp.set_machine(CLIENT);
        let settings = Settings { audience: AUDIENCE.into(), role: ROLE.into() };
        let api = Api::start(idp.verifier(), settings).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let yaml = format!(
            "listeners: {{local: {{address: \"127.0.0.1:0\"}}}}\nprofiles:\n  machine:\n    kind: managed_identity\n    \
             scope: {API_URI}/.default\n    recovery: {{min_token_age: 0s, min_interval: 0s}}\n    {profile}\n\
             routes:\n  orders: {{match: {{path: /v1}}, upstream: \"{}\", profile: machine}}\n",
            api.url()
        );
        fs::write(folder.path().join("keybearer.yaml"), yaml).unwrap();
        Machine { idp, api, folder }
    }

    /// The variables of App Service.
    fn app_service(&self) -> Vec<(&'static str, String)> {
        vec![
            ("IDENTITY_ENDPOINT", format!("{}/msi/token", self.idp.url())),
            ("IDENTITY_HEADER", IDENTITY_HEADER.to_owned()),
        ]
    }

    /// The variable that puts the metadata service of a virtual machine elsewhere.
    fn virtual_machine(&self) -> Vec<(&'static str, String)> {
        vec![("AZURE_POD_IDENTITY_AUTHORITY_HOST", self.idp.url().to_owned())]
    }

    async fn gateway(&self, variables: &[(&'static str, String)]) -> Process {
        Process::start_with_variables(&self.folder.path().join("keybearer.yaml"), variables).await
    }

    /// `keybearer token machine`.
    async fn token(&self, variables: &[(&'static str, String)]) -> Output {
        let path = self.folder.path().join("keybearer.yaml");
        let mut command = command(&["token", "machine", "--config", path.to_str().unwrap()]);
        for (name, value) in variables {
            command.env(name, value);
        }
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }
}

async fn get(gateway: &Process) -> reqwest::Response {
    reqwest::Client::builder()
        .no_proxy()
        .build()
        .unwrap()
        .get(gateway.url("/v1/orders"))
        .send()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_virtual_machines_own_identity_serves_without_any_secret() {
    let machine = Machine::start("expected_roles: [Orders.Read]").await;
    let gateway = machine.gateway(&machine.virtual_machine()).await;
    assert_eq!(get(&gateway).await.status(), 200);
    let asked = machine.idp.last_request().unwrap();
    assert_eq!(
        (asked.path.as_str(), asked.header("metadata")),
        ("/metadata/identity/oauth2/token", Some("true"))
    );
    assert_eq!(asked.field("resource"), Some(API_URI));
    let shown = machine.token(&machine.virtual_machine()).await;
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("machine (managed_identity)") && shown.contains(CLIENT), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_token_of_app_service_is_replaced() {
    let machine = Machine::start(&format!("client_id: {OTHER}")).await;
    let gateway = machine.gateway(&machine.app_service()).await;
    assert_eq!(get(&gateway).await.status(), 200);
    machine.idp.revoke_all();
    assert_eq!(get(&gateway).await.status(), 200);
    assert_eq!((machine.api.unauthorized(), machine.idp.issued()), (1, 2));
    assert_eq!(machine.idp.last_request().unwrap().field("client_id"), Some(OTHER));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_in_key_vault_is_read_with_the_machines_identity() {
    let vault = Server::start(|asked| match asked.header("authorization") {
        Some(value) if value.starts_with("Bearer ey") => (200, json!({"value": "kept in the vault"})),
        _ => (401, json!({})),
    })
    .await;
    let machine = Machine::start("").await;
    machine.idp.add_api("https://vault.azure.net", "vault-audience");
    machine.idp.add_account(Account::new("orders-client", "kept in the vault", &[ROLE]));
    let path = machine.folder.path().join("keybearer.yaml");
    let account = format!(
        "profiles:\n  account:\n    kind: entra\n    authority: {}\n    tenant: {TENANT}\n    client_id: orders-client\n    \
         scope: {API_URI}/.default\n    \
         client_secret: {{azure_key_vault: {{vault: \"{}\", secret: orders, profile: machine}}}}\n",
        machine.idp.url(),
        vault.url()
    );
    let text = fs::read_to_string(&path).unwrap().replace("profiles:\n", &account);
    fs::write(&path, text.replace("profile: machine}\n", "profile: account}\n")).unwrap();
    let gateway = machine.gateway(&machine.app_service()).await;
    assert_eq!(get(&gateway).await.status(), 200);
    assert_eq!(vault.asked()[0].path, "/secrets/orders/?api-version=7.4");
    assert_eq!(machine.idp.last_request().unwrap().field("client_secret"), Some("kept in the vault"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_managed_identity_is_never_asked_for_through_a_proxy() {
    let machine = Machine::start("").await;
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    for endpoint in [machine.virtual_machine(), machine.app_service()] {
        let mut variables = endpoint;
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
            variables.push((name, address.clone()));
        }
        variables.push(("NO_PROXY", String::new()));
        let gateway = machine.gateway(&variables).await;
        assert_eq!(get(&gateway).await.status(), 200);
    }
    let arrived = tokio::time::timeout(std::time::Duration::from_millis(1), proxy.accept()).await;
    assert!(arrived.is_err(), "the proxy was connected to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_another_identity_than_the_one_asked_for_is_refused() {
    let machine = Machine::start(&format!("client_id: {OTHER}")).await;
    machine.idp.set_behaviour(Behaviour::Shape(|body| body["client_id"] = CLIENT.into()));
    let output = machine.token(&machine.app_service()).await;
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        words.contains("gave a token of another identity than the identity with client_id 7d3a1c52"),
        "{words}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_that_the_machine_does_not_have_is_503_and_named_in_the_log() {
    let machine = Machine::start("client_id: 00000000-0000-0000-0000-000000000000").await;
    let gateway = machine.gateway(&machine.virtual_machine()).await;
    let (status, code, problem) = fault(get(&gateway).await).await;
    assert_eq!((status, code.as_str()), (503, "token_unavailable"));
    assert!(!problem.to_string().contains("Identity not found"), "{problem}");
    eventually("the log says why", || gateway.has_logged("Identity not found")).await;
    assert!(gateway.has_logged("the identity is not assigned to this machine"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_is_none_of_azures_says_so() {
    let machine = Machine::start("endpoint: app_service").await;
    let words = |output: Output| String::from_utf8(output.stderr).unwrap();
    let said = words(machine.token(&[]).await);
    assert!(said.contains("needs the environment variable IDENTITY_ENDPOINT, which is not set"), "{said}");
    let machine = Machine::start("").await;
    machine.idp.go_down().await.unwrap();
    let said = words(machine.token(&machine.virtual_machine()).await);
    assert!(said.contains("this machine is no Azure VM, or something blocks the address"), "{said}");
    // It is not given up: the endpoint of a machine that starts may be late.
    let gateway = machine.gateway(&machine.virtual_machine()).await;
    eventually("a first attempt failed", || gateway.has_logged("this machine is no Azure VM")).await;
    machine.idp.come_back().await.unwrap();
    machine.idp.wait_for_issued(1).await;
    assert_eq!(get(&gateway).await.status(), 200);
}
