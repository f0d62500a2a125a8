//! Accounts that prove themselves to Entra by certificates and by tokens of others.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use keybearer::{
    clock,
    demo::idp::{Account, Behaviour, assertion},
    profile::{
        assertion::{Signer, Statement},
        key::{Algorithm, PrivateKey},
    },
    source::Source,
};
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKeyChain};
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use tempfile::TempDir;
use x509_parser::time::ASN1Time;

use crate::{
    process::{Process, command},
    stage::{CLIENT, Plan, ROLE, SECRET, Stage, eventually},
};

/// A certificate with an RSA key, as files.
pub(crate) struct Made {
    folder: TempDir,
    key: KeyPair,
    certificate: rcgen::Certificate,
}

impl Made {
    pub(crate) fn new() -> Self {
        Self::until(2999)
    }

    fn until(year: i32) -> Self {
        Self::with_end(|params| params.not_after = rcgen::date_time_ymd(year, 1, 1))
    }

    /// With so many days of life, and an hour.
    fn for_days(days: u64) -> Self {
        let now = clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap();
        let end = ASN1Time::from_timestamp((now.as_secs() + days * 86_400 + 3600).cast_signed()).unwrap();
        Self::with_end(|params| params.not_after = end.to_datetime())
    }

    fn with_end(set: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let mut params = CertificateParams::new(["orders-daemon".to_owned()]).unwrap();
        set(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        let made = Self { folder: tempfile::tempdir().unwrap(), key, certificate };
        made.write("both.pem", made.pem().as_bytes());
        made.write("only.pem", made.certificate.pem().as_bytes());
        made.write("only.key", made.key.serialize_pem().as_bytes());
        made.write("password", b"open sesame\n");
        made.write("both.pfx", &made.pfx("open sesame"));
        made
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate.pem() + &self.key.serialize_pem()
    }

    fn pfx(&self, password: &str) -> Vec<u8> {
        let key = p12_keystore::PrivateKey::from_der(&self.key.serialize_der()).unwrap();
        let certificate = Certificate::from_der(self.certificate.der()).unwrap();
        let mut store = KeyStore::new();
        let chain = PrivateKeyChain::new(b"1".to_vec(), key, [certificate]);
        store.add_entry("orders-daemon", KeyStoreEntry::PrivateKeyChain(chain));
        store.writer(password).write().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// The certificate's SHA-1 in hexadecimal, as Microsoft's portal shows it.
    pub(crate) fn thumbprint(&self) -> String {
        let sha1 = &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY;
        let digest = aws_lc_rs::digest::digest(sha1, self.certificate.der());
        digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect()
    }

    /// `key: {file: …}` for the configuration.
    fn line(&self, key: &str, name: &str) -> String {
        format!("{key}: {{file: {}}}", self.path(name).display())
    }

    /// The account, with this certificate registered and no secret.
    pub(crate) fn account(&self) -> Account {
        let mut account = Account::new(CLIENT, SECRET, &[ROLE]);
        account.secrets.clear();
        account.certificates.push(self.certificate.der().to_vec());
        account
    }

    /// A workload's token, signed by this key, that ends five minutes after `now`.
    pub(crate) fn token(&self, now: SystemTime) -> String {
        let source = Source::File(self.path("only.key"));
        let key = PrivateKey::from_pem(self.key.serialize_pem().as_bytes(), &source).unwrap();
        let statement = Statement {
            issuer: "https://cluster.example",
            subject: Some("system:serviceaccount:orders:daemon"),
            audience: assertion::EXCHANGE_AUDIENCE,
            key_id: Some("cluster"),
            thumbprint: None,
            claims: serde_json::Map::new(),
        };
        statement.sign(&Signer::Key(&key, Algorithm::Rs256), now).unwrap().expose().to_owned()
    }

    /// The account, with the tokens of this key's cluster trusted and no secret.
    pub(crate) fn trusting_account(&self) -> Account {
        let mut account = Account::new(CLIENT, SECRET, &[ROLE]);
        account.secrets.clear();
        account.trusts.push(assertion::Trust {
            issuer: "https://cluster.example".into(),
            subject: "system:serviceaccount:orders:daemon".into(),
            certificate: self.certificate.der().to_vec(),
        });
        account
    }
}

async fn stage(credential: &str, account: Account) -> Stage {
    let prepare = |idp: &keybearer::demo::idp::Idp| {
        idp.set_strict(true);
        idp.add_account(account);
    };
    Plan::default().credential(credential).start_with(prepare).await
}

/// The header and the claims of the assertion in the latest token request.
fn sent(stage: &Stage) -> (Value, Value) {
    let request = stage.idp.last_request().unwrap();
    assert_eq!((request.field("client_secret"), request.authorization_scheme()), (None, None));
    assert_eq!(request.field("client_id"), Some(CLIENT));
    let assertion = request.field("client_assertion").unwrap();
    let mut parts = assertion.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap()).take(2);
    let mut next = || serde_json::from_slice(&parts.next().unwrap()).unwrap();
    (next(), next())
}

/// Why the account has no token.
async fn failure(stage: &Stage) -> String {
    eventually("the profile has failed", || stage.gateway.profiles()[0].view().failed > 0).await;
    stage.gateway.profiles()[0].view().error.unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_proves_an_entra_account_in_pem_and_in_pfx() {
    let made = Made::new();
    let apart = made.line("certificate", "only.pem") + "\n" + &made.line("private_key", "only.key");
    let pfx = made.line("certificate", "both.pfx") + "\n" + &made.line("certificate_password", "password");
    for credential in [made.line("certificate", "both.pem"), apart, pfx] {
        let stage = stage(&credential, made.account()).await;
        assert_eq!(stage.status("/v1").await, 200, "{credential}");
        let (header, claims) = sent(&stage);
        assert_eq!(
            (header["alg"].as_str(), header["x5t#S256"].as_str().map(str::len)),
            (Some("PS256"), Some(43))
        );
        assert_eq!((&header["kid"], &header["x5t"]), (&Value::Null, &Value::Null));
        assert_eq!(claims["aud"], stage.idp.token_url());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adfs_gets_rs256_with_the_older_thumbprint() {
    let made = Made::new();
    let stage = stage(&(made.line("certificate", "both.pem") + "\nsigning_alg: RS256"), made.account()).await;
    assert_eq!(stage.status("/v1").await, 200);
    let (header, _) = sent(&stage);
    assert_eq!((header["alg"].as_str(), header["x5t"].as_str().map(str::len)), (Some("RS256"), Some(27)));
    assert_eq!(header["x5t#S256"], Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_checks_for_replay_takes_every_assertion() {
    let made = Made::new();
    let stage = stage(&made.line("certificate", "both.pem"), made.account()).await;
    let mut ids = std::collections::HashSet::new();
    for _ in 0..3 {
        assert_eq!(stage.status("/v1").await, 200);
        ids.insert(sent(&stage).1["jti"].to_string());
        stage.idp.revoke_all();
    }
    assert_eq!((ids.len(), stage.gateway.profiles()[0].view().failed), (3, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_not_registered_is_told_in_words() {
    let (made, other) = (Made::new(), Made::new());
    let stage = stage(&made.line("certificate", "both.pem"), other.account()).await;
    let words = failure(&stage).await;
    assert!(words.contains("AADSTS700027"), "{words}");
    assert!(words.contains(&format!("has the thumbprint {}", made.thumbprint())), "{words}");
    assert_eq!(stage.status("/v1").await, 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_is_told_without_asking_anybody() {
    let made = Made::until(2020);
    let stage = stage(&made.line("certificate", "both.pem"), made.account()).await;
    let words = failure(&stage).await;
    assert!(words.contains("has expired on Jan  1 00:00:00 2020"), "{words}");
    assert_eq!(stage.idp.requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_expires_within_thirty_days_is_warned_of_everywhere() {
    for (days, is_told) in [(31, false), (29, true)] {
        let made = Made::for_days(days);
        let stage = stage(&made.line("certificate", "both.pem"), made.account()).await;
        let process = Process::start(&stage, &[]).await;
        eventually("there are tokens", || stage.idp.issued() == 2).await;
        let warning = |line: &String| {
            line.contains("\"WARN\"")
                && line.contains("certificate expires in 29 days")
                && line.contains("\"profile\":\"account\"")
        };
        if is_told {
            eventually("the log has it", || process.lines().iter().any(warning)).await;
        }
        assert!(is_told || !process.has_logged("certificate expires"), "{:?}", process.lines());
        let path = stage.folder.path().join("keybearer.yaml");
        for arguments in [&["check"][..], &["doctor", "--profile", "account"]] {
            let mut tried = command(arguments);
            let output = tokio::task::block_in_place(|| tried.arg("--config").arg(&path).output().unwrap());
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert_eq!(said.contains("certificate expires in 29 days"), is_told, "{said}");
            assert!(output.status.success(), "it still works: {said}");
        }
        let metrics = stage.admin("/metrics").await.1;
        assert!(
            metrics.contains("keybearer_secret_expires_seconds{profile=\"account\",what=\"certificate\"}")
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_used_within_seconds() {
    let (made, next) = (Made::new(), Made::new());
    let mut account = made.account();
    account.certificates.push(next.certificate.der().to_vec());
    let stage = stage(&made.line("certificate", "both.pem"), account).await;
    assert_eq!(stage.status("/v1").await, 200);
    let before = sent(&stage).0;
    made.write("both.pem", next.pem().as_bytes());
    eventually("a token was asked for", || stage.idp.issued() > 1).await;
    assert_ne!(sent(&stage).0["x5t#S256"], before["x5t#S256"]);
    assert_eq!(stage.status("/v1").await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_was_replaced_while_it_was_refused_is_sent_once_more() {
    let (old, next) = (Made::new(), Made::new());
    // The first reading gives the old one, each later one the new.
    let [turn, was, is] =
        [old.path("turn"), old.path("both.pem"), next.path("both.pem")].map(|p| p.display().to_string());
    let script = format!("if [ -e {turn} ]; then cat {is}; else touch {turn}; cat {was}; fi");
    let stage = stage(&format!("certificate: {{exec: [sh, -c, \"{script}\"]}}"), next.account()).await;
    stage.ready().await;
    assert_eq!((stage.idp.requests(), stage.idp.issued()), (2, 1), "AADSTS700027, and at once the new one");
    assert_eq!(stage.gateway.profiles()[0].view().failed, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_written_credential_file_leaves_the_old_certificate_in_use() {
    let made = Made::new();
    let stage = stage(&made.line("certificate", "both.pem"), made.account()).await;
    assert_eq!(stage.status("/v1").await, 200);
    let before = sent(&stage).0;
    let pem = made.pem();
    for half in [&pem[..pem.len() / 2], "", &made.certificate.pem()] {
        made.write("both.pem", half.as_bytes());
        stage.idp.revoke_all();
        assert_eq!(stage.status("/v1").await, 200, "{half}");
        assert_eq!(sent(&stage).0["x5t#S256"], before["x5t#S256"]);
    }
    assert_eq!(stage.gateway.profiles()[0].view().failed, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_federated_token_is_read_at_every_token_request() {
    let made = Made::new();
    let now = clock::wall();
    made.write("token", (made.token(now) + "\n").as_bytes());
    let stage = stage(&made.line("federated_token", "token"), made.trusting_account()).await;
    assert_eq!(stage.status("/v1").await, 200);
    let renewed = made.token(now + Duration::from_secs(5));
    made.write("token", renewed.as_bytes());
    // It proves the same, so nothing is asked for its sake.
    assert_eq!((stage.status("/v1").await, stage.idp.issued()), (200, 1));
    stage.idp.revoke_all();
    assert_eq!(stage.status("/v1").await, 200);
    let request = stage.idp.last_request().unwrap();
    assert_eq!(request.field("client_assertion"), Some(renewed.as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_federated_token_that_matches_no_credential_is_shown_with_what_is_compared() {
    let made = Made::new();
    made.write("token", made.token(clock::wall()).as_bytes());
    let mut account = made.trusting_account();
    account.trusts[0].subject = "system:serviceaccount:Orders:daemon".into();
    let stage = stage(&made.line("federated_token", "token"), account).await;
    let words = failure(&stage).await;
    let shown = format!(
        "issuer \"https://cluster.example\", subject \"system:serviceaccount:orders:daemon\", audience \"{}\"",
        assertion::EXCHANGE_AUDIENCE
    );
    assert!(words.contains("AADSTS7002") && words.contains(&shown), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_federated_token_is_told_from_a_refused_one_and_its_renewal_is_noticed() {
    let made = Made::new();
    let now = clock::wall();
    made.write("token", made.token(now - Duration::from_secs(3600)).as_bytes());
    let stage = stage(&made.line("federated_token", "token"), made.trusting_account()).await;
    let words = failure(&stage).await;
    assert!(words.contains("has expired at ") && words.ends_with("; is the projection running?"), "{words}");
    assert_eq!((stage.status("/v1").await, stage.idp.requests()), (503, 0));
    made.write("token", made.token(now).as_bytes());
    stage.ready().await;
    assert_eq!(stage.status("/v1").await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_federated_token_that_was_renewed_while_it_was_refused_is_sent_once_more() {
    let made = Made::new();
    let now = clock::wall();
    made.write("token", made.token(now).as_bytes());
    let account = made.trusting_account();
    let prepare = |idp: &keybearer::demo::idp::Idp| {
        idp.add_account(account);
        idp.set_behaviour(Behaviour::Hang);
    };
    let credential = made.line("federated_token", "token");
    let stage = Plan::default().credential(&credential).start_with(prepare).await;
    stage.idp.wait_for_requests(1).await;
    made.write("token", made.token(now + Duration::from_secs(5)).as_bytes());
    stage.idp.set_next([Behaviour::Normal]);
    stage.idp.set_behaviour(Behaviour::Refuse { status: 401, error: "invalid_client", code: 700_024 });
    stage.ready().await;
    assert_eq!((stage.idp.requests(), stage.gateway.profiles()[0].view().failed), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_federated_token_that_has_not_changed_is_not_sent_again() {
    let made = Made::new();
    made.write("token", made.token(clock::wall()).as_bytes());
    let account = made.trusting_account();
    let prepare = |idp: &keybearer::demo::idp::Idp| {
        idp.add_account(account);
        idp.set_next([Behaviour::Refuse { status: 401, error: "invalid_client", code: 700_024 }]);
        idp.set_behaviour(Behaviour::Hang);
    };
    let credential = made.line("federated_token", "token");
    let stage = Plan::default().credential(&credential).start_with(prepare).await;
    let words = failure(&stage).await;
    assert!(words.contains("AADSTS700024"), "{words}");
    assert_eq!(stage.idp.requests(), 1);
}

/// It used to wait for the next attempt, which may be five minutes away: a renewed token proves the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_federated_token_that_takes_the_place_of_a_refused_one_is_sent_within_seconds() {
    let made = Made::new();
    let now = clock::wall();
    made.write("token", made.token(now).as_bytes());
    let account = made.trusting_account();
    let prepare = |idp: &keybearer::demo::idp::Idp| {
        idp.add_account(account);
        idp.set_behaviour(Behaviour::Refuse { status: 401, error: "invalid_client", code: 700_024 });
    };
    let credential = made.line("federated_token", "token");
    let stage = Plan::default().credential(&credential).start_with(prepare).await;
    failure(&stage).await;
    let asked = stage.idp.requests();
    stage.idp.set_behaviour(Behaviour::Normal);
    let begun = tokio::time::Instant::now();
    made.write("token", made.token(now + Duration::from_secs(1)).as_bytes());
    stage.ready().await;
    assert!(begun.elapsed() < Duration::from_secs(8), "the next attempt by itself is after ten");
    assert_eq!(stage.idp.requests(), asked + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_of_a_workload_comes_from_its_environment() {
    let made = Made::new();
    made.write("token", made.token(clock::wall()).as_bytes());
    let stage = stage(&made.line("federated_token", "token"), made.trusting_account()).await;
    let path = stage.folder.path().join("environment.yaml");
    let kept = |line: &&str| {
        !["tenant:", "client_id:", "authority:", "federated_token:"]
            .iter()
            .any(|key| line.trim().starts_with(key))
    };
    let yaml: Vec<&str> = stage.yaml.lines().filter(kept).collect();
    let yaml =
        yaml.join("\n").replace("    kind: entra\n", "    kind: entra\n    federated_token: environment\n");
    fs::write(&path, yaml).unwrap();
    let token = |variables: &[(&str, String)]| {
        let mut command = command(&["token", "account", "--config", path.to_str().unwrap()]);
        for name in
            ["AZURE_FEDERATED_TOKEN_FILE", "AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_AUTHORITY_HOST"]
        {
            command.env_remove(name);
        }
        command.envs(variables.iter().cloned()).output().unwrap()
    };
    let variables = [
        ("AZURE_FEDERATED_TOKEN_FILE", made.path("token").display().to_string()),
        ("AZURE_CLIENT_ID", CLIENT.to_owned()),
        ("AZURE_TENANT_ID", keybearer::demo::idp::TENANT_ID.to_owned()),
        ("AZURE_AUTHORITY_HOST", format!("{}/", stage.idp.url())),
    ];
    let output = tokio::task::block_in_place(|| token(&variables));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words}");
    let output = tokio::task::block_in_place(|| token(&variables[1..]));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("environment variable AZURE_FEDERATED_TOKEN_FILE is not set"), "{words}");
    assert!(words.contains("azure.workload.identity/use"), "{words}");
    assert_eq!(output.status.code(), Some(1));
    let before = stage.idp.requests();
    let run = |name| {
        let mut command = command(&[name, "--config", path.to_str().unwrap()]);
        command.env_clear().envs(variables[..1].iter().cloned()).output().unwrap()
    };
    let output = tokio::task::block_in_place(|| run("check"));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("federated_token: environment variable AZURE_CLIENT_ID is not set"), "{words}");
    assert!(words.contains("AZURE_TENANT_ID") && output.status.code() == Some(2), "{words}");
    // The doctor does not leave out an account that it knows too little of.
    let output = tokio::task::block_in_place(|| run("doctor"));
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let sign =
        "source         federated_token: the secret cannot be read: environment variable AZURE_CLIENT_ID";
    assert!(words.contains(sign) && output.status.code() == Some(1), "{words}");
    assert_eq!(stage.idp.requests(), before, "nobody was asked for an account that is not complete");
}

#[test]
fn an_elliptic_certificate_for_entra_is_refused_by_check_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["a".to_owned()]).unwrap().self_signed(&key).unwrap();
    fs::write(folder.path().join("c.pem"), certificate.pem() + &key.serialize_pem()).unwrap();
    let path = folder.path().join("keybearer.yaml");
    let yaml = "listeners: {l: {address: 127.0.0.1:0}}\nprofiles: {a: {kind: entra, tenant: a.example, client_id: a, \
                scope: b/.default, certificate: {file: c.pem}}}\nroutes: {r: {upstream: https://a.example, profile: a}}\n";
    fs::write(&path, yaml).unwrap();
    let output = command(&["check", "--config", path.to_str().unwrap()]).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        words.contains(
            "is a P-256 key, and PS256 needs an RSA key (Entra takes certificates with RSA keys only)"
        ),
        "{words}"
    );
    assert_eq!(output.status.code(), Some(2));
}
