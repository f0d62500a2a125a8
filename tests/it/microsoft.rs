//! MSAL Python and azure-identity, unmodified, against the demo's identity provider: who writes a daemon
//! with them can try it on one machine, and what we take for Entra's habits is what they expect.

use std::{fs, sync::Arc};

use keybearer::demo::idp::{Account, Behaviour, Idp, TENANT_ID};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    authority::{Authority, Issued},
    programs::Program,
    proofs::Made,
    stage::{API_URI, AUDIENCE, CLIENT, ROLE, SECRET},
};

/// The provider with TLS, one without for its endpoints on a machine, and the program that asks both.
struct Lab {
    idp: Idp,
    machine: Idp,
    folder: TempDir,
    program: Program,
}

impl Lab {
    async fn start() -> Lab {
        let authority = Authority::new();
        let issued = authority.issue(&["127.0.0.1", "localhost"]);
        let idp = Idp::start_with_tls(tls(&issued)).await.unwrap();
        let machine = Idp::start().await.unwrap();
        for provider in [&idp, &machine] {
            provider.add_api(API_URI, AUDIENCE);
            provider.add_account(Account::new(CLIENT, SECRET, &[ROLE]));
            provider.set_machine(CLIENT);
        }
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("ca.pem", &authority.pem);
        write("client", &format!("{CLIENT}\n{SECRET}"));
        write("scope", &format!("{API_URI}/.default"));
        let path = folder.path().to_str().unwrap().to_owned();
        let arguments = [idp.url(), &format!("{path}/ca.pem"), machine.url(), &path];
        let program = Program::python("microsoft.py", &arguments);
        Lab { idp, machine, folder, program }
    }

    /// The claims of the token that the library got.
    async fn claims(&mut self, command: &str) -> Value {
        let heard = self.program.ask(command).await;
        serde_json::from_str(&heard).unwrap_or_else(|_| panic!("{command}: {heard}"))
    }
}

fn tls(issued: &Issued) -> ServerConfig {
    let key = PrivateKeyDer::try_from(issued.secret().to_vec()).unwrap();
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.der.clone()], key)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn msal_and_azure_identity_get_tokens_with_a_secret() {
    let mut lab = Lab::start().await;
    for command in ["msal secret", "msal cae", "azure secret"] {
        let claims = lab.claims(command).await;
        assert_eq!(claims["roles"][0], ROLE, "{command}");
        assert_eq!(claims["iss"], format!("{}/{TENANT_ID}/v2.0", lab.idp.url()), "{command}");
        let asked = lab.idp.last_request().unwrap();
        assert_eq!(asked.field("client_secret"), Some(SECRET), "{command}");
        assert_eq!(asked.field("claims").is_some(), command == "msal cae", "{command}");
    }
    lab.program.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn msal_takes_a_policys_door_for_one_of_b2c() {
    let mut lab = Lab::start().await;
    let claims = lab.claims("msal policy").await;
    assert_eq!((&claims["scp"], &claims["tfp"]), (&ROLE.into(), &"B2C_1_service".into()));
    lab.program.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn msal_and_azure_identity_get_tokens_of_a_machines_identity() {
    let mut lab = Lab::start().await;
    for command in ["msal app_service", "azure app_service", "msal imds", "azure imds"] {
        let issued = lab.machine.issued();
        let claims = lab.claims(command).await;
        assert_eq!((&claims["azp"], &claims["roles"][0]), (&CLIENT.into(), &ROLE.into()), "{command}");
        assert_eq!(lab.machine.issued(), issued + 1, "{command}");
    }
    lab.program.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn msal_reads_the_providers_errors_as_entras() {
    let mut lab = Lab::start().await;
    lab.idp.set_secrets(CLIENT, &["another"]);
    let heard = lab.program.ask("msal secret").await;
    assert!(heard.contains("invalid_client: AADSTS7000215"), "{heard}");
    let heard = lab.program.ask("azure secret").await;
    assert!(heard.contains("ClientAuthenticationError") && heard.contains("AADSTS7000215"), "{heard}");
    lab.idp.set_secrets(CLIENT, &[SECRET]);
    lab.idp.set_behaviour(Behaviour::Shape(|body| body["expires_in"] = "3599".into()));
    assert_eq!(lab.claims("azure secret").await["aud"], AUDIENCE);
    lab.program.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn msal_and_azure_identity_prove_themselves_by_certificates_and_workload_tokens() {
    let mut lab = Lab::start().await;
    let (own, cluster) = (Made::new(), Made::new());
    let write = |name: &str, text: String| fs::write(lab.folder.path().join(name), text).unwrap();
    write("client.pem", own.pem());
    write("client.key", fs::read_to_string(own.path("only.key")).unwrap());
    write("thumbprint", own.thumbprint());
    write("workload.jwt", cluster.token(keybearer::clock::wall()));
    let mut account = own.account();
    account.trusts = cluster.trusting_account().trusts;
    lab.idp.add_account(account);
    for command in ["msal certificate", "azure certificate", "azure workload"] {
        assert_eq!(lab.claims(command).await["roles"][0], ROLE, "{command}");
        let asked = lab.idp.last_request().unwrap();
        assert!(asked.field("client_assertion").is_some() && asked.field("client_secret").is_none());
    }
    // Its lifetimes are fractions and its thumbprints are padded: a strict server takes neither.
    lab.idp.set_strict(true);
    let heard = lab.program.ask("msal certificate").await;
    assert!(heard.starts_with("no token:"), "{heard}");
    lab.program.finish().await;
}
