//! The files that `keybearer init` writes, and what it says afterwards.

use std::{fmt::Write as _, path::Path};

use super::{
    InitArgs,
    answers::{Account, Answers, Kept, Proof, Server},
};

/// What the systemd unit's environment file looks like; the packages ship the same.
const ENVIRONMENT: &str = include_str!("../../../deploy/systemd/keybearer.env");
/// The name in it that stands for a secret's variable.
const EXAMPLE: &str = "ORDERS_SECRET";
/// Where the unit keeps its state, and where switches go else.
const STATE_OF_UNIT: &str = "/var/lib/keybearer";
const STATE: &str = "keybearer-state";
/// The admin listener of the configuration.
const ADMIN: &str = "127.0.0.1:9901";

/// The configuration, with its reasons. `output` is where it will be, `for_unit` whether systemd runs it.
pub(super) fn configuration(answers: &Answers, output: &Path, for_unit: bool) -> String {
    let state = if for_unit { STATE_OF_UNIT } else { STATE };
    let mut out = format!(
        "# Keybearer's configuration, written by keybearer init. Names such as `account` and `api` are yours to choose.\n\
         # After a change: keybearer check, then keybearer reload.\n\n\
         # Where requests come in: what your programs use as base URL in place of the Web API's.\n\
         listeners:\n  local:\n    address: {}\n\n\
         # Health checks, metrics and the status page. keybearer status, switch and reload ask here.\n\
         admin:\n  address: {ADMIN}\n\n\
         # Keeps switches and the admin token. Belongs to the gateway's user alone.\n\
         state_dir: {state}\n\n\
         # Service accounts: how a token is had. Secrets stand elsewhere, never in this file.\n\
         profiles:\n  account:\n",
        scalar(&answers.listen),
    );
    let paths = Paths { is_here: !for_unit && is_here(output) };
    profile(&answers.account, &paths, &mut out);
    let _ = write!(
        out,
        "\n# Which requests go where, and with whose token. The most specific route wins; what matches none goes \
         nowhere.\n\
         routes:\n  api:\n    match: {{path: {}}}\n    # The request's path and query are put behind this URL.\n    \
         upstream: {}\n    profile: account\n",
        scalar(&answers.prefix),
        scalar(&answers.upstream),
    );
    out
}

fn profile(account: &Account, paths: &Paths, out: &mut String) {
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(out, "    {key}: {value}");
    };
    match account {
        Account::Entra { tenant, client_id, scope, proof } => {
            line("kind", "entra");
            for (key, value) in [("tenant", tenant), ("client_id", client_id)] {
                if !value.is_empty() {
                    line(key, &scalar(value));
                }
            }
            match proof {
                Proof::Secret(secret) => line("client_secret", &paths.place(secret)),
                Proof::Certificate { file, key } => {
                    line("certificate", &paths.file(file));
                    if let Some(key) = key {
                        line("private_key", &paths.file(key));
                    }
                }
                Proof::FederatedToken(file) => line("federated_token", &paths.file(file)),
                Proof::WorkloadIdentity => line("federated_token", "environment"),
            }
            line("scope", &scalar(scope));
            out.push_str(
                "    # The app roles that the Web API wants; keybearer doctor tells when one is missing.\n",
            );
            out.push_str("    #expected_roles: [Orders.Read]\n");
        }
        Account::ManagedIdentity { client_id, scope } => {
            line("kind", "managed_identity");
            if let Some(client_id) = client_id {
                line("client_id", &scalar(client_id));
            }
            line("scope", &scalar(scope));
        }
        Account::Oauth2 { server, client_id, scope, secret } => {
            line("kind", "oauth2");
            match server {
                Server::Issuer(url) => line("issuer", &scalar(url)),
                Server::TokenUrl(url) => line("token_url", &scalar(url)),
            }
            line("client_id", &scalar(client_id));
            line("client_secret", &paths.place(secret));
            if let Some(scope) = scope {
                line("scope", &scalar(scope));
            }
            out.push_str("    # Some servers want the secret in the body, or an audience:\n");
            out.push_str("    #auth: client_secret_post\n    #audience: https://api.example.com\n");
        }
        Account::Static { secret } => {
            line("kind", "static");
            line("bearer", &paths.place(secret));
            out.push_str("    # For a key in another field, in place of bearer:\n");
            out.push_str("    #header: {name: X-Api-Key, value: {file: api.key}}\n");
        }
    }
}

/// How paths of the command line stand in the file. There they are relative to where we are; in the file, to where
/// the file is, and the unit's is in another folder than the one that is written.
struct Paths {
    is_here: bool,
}

impl Paths {
    fn place(&self, kept: &Kept) -> String {
        match kept {
            Kept::File(path) => self.file(path),
            Kept::Env(name) => format!("{{env: {}}}", scalar(name)),
            Kept::Credential(name) => format!("{{credential: {}}}", scalar(name)),
        }
    }

    fn file(&self, path: &str) -> String {
        let whole = || std::path::absolute(path).ok().map(|path| path.display().to_string());
        let path = if self.is_here { None } else { whole() }.unwrap_or_else(|| path.to_owned());
        format!("{{file: {}}}", scalar(&path))
    }
}

/// Whether the file is in the folder in which we are.
fn is_here(output: &Path) -> bool {
    output.parent().is_none_or(|folder| folder.as_os_str().is_empty() || folder == Path::new("."))
}

/// A text in YAML: as it is where nobody could read it otherwise, else in quotes.
fn scalar(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | ':');
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && text.chars().all(is_word)
        && !text.ends_with(':')
        && text.parse::<f64>().is_err()
        && !["true", "false", "yes", "no", "on", "off", "null", "y", "n"]
            .contains(&text.to_ascii_lowercase().as_str());
    // JSON's strings are YAML's as well.
    if is_plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

/// The systemd unit's environment file.
pub(super) fn environment(answers: &Answers) -> String {
    match answers.account.secret() {
        Some(Kept::Env(name)) => {
            ENVIRONMENT.replace(&format!("#{EXAMPLE}="), &format!("{name}=")).replace(EXAMPLE, name)
        }
        _ => ENVIRONMENT.to_owned(),
    }
}

/// What is left to do.
pub(super) fn next_steps(answers: &Answers, args: &InitArgs) -> String {
    let output = args.output.display();
    let mut out = format!("wrote {output}\n");
    if let Some(path) = &args.systemd {
        let _ = writeln!(out, "wrote {}", path.display());
    }
    out.push_str("\nnext\n");
    let mut number = 0;
    let mut step = |text: &str| {
        number += 1;
        let _ = writeln!(out, "  {number}  {text}");
    };
    if let Some(text) = provide(answers, args) {
        step(&text);
    }
    if let Some(environment) = &args.systemd {
        step(&format!(
            "sudo install -D -m 644 {output} /etc/keybearer/keybearer.yaml\n     sudo install -m 600 {} \
             /etc/keybearer/keybearer.env",
            environment.display()
        ));
        step(&format!("{}   says what is wrong, and what to do", as_the_unit(answers)));
        step("sudo systemctl enable --now keybearer");
        step("sudo keybearer status");
    } else {
        step(&format!("keybearer check --config {output}    is everything there?"));
        step(&format!("keybearer doctor --config {output}   tries the account and the Web API"));
        step(&format!("keybearer run --config {output}"));
    }
    if !answers.listen.starts_with("unix:") {
        step(&format!("point your program at http://{} in place of {}", answers.listen, answers.upstream));
    }
    out
}

/// How `check` and `doctor` see the secrets that systemd gives to the unit.
fn as_the_unit(answers: &Answers) -> &'static str {
    match answers.account.secret() {
        Some(Kept::Env(_)) => {
            "sudo sh -c 'set -a; . /etc/keybearer/keybearer.env; keybearer check && keybearer doctor'"
        }
        Some(Kept::Credential(_)) => {
            "sudo env CREDENTIALS_DIRECTORY=/etc/keybearer/secrets sh -c 'keybearer check && keybearer doctor'"
        }
        Some(Kept::File(_)) | None => "sudo sh -c 'keybearer check && keybearer doctor'",
    }
}

/// What has to be put where, so that the account can prove itself.
fn provide(answers: &Answers, args: &InitArgs) -> Option<String> {
    let unit = "sudo systemctl edit keybearer";
    // The unit's user exists only while it runs, and people's folders are not there for it.
    let reach = match args.systemd {
        Some(_) => ", which the service's own user has to reach and read (not below /home or /root)",
        None => "",
    };
    let text = match (&answers.account, answers.account.secret()) {
        (_, Some(Kept::File(path))) if args.systemd.is_some() => {
            format!("put the secret into {path}{reach}; --secret-credential keeps it from all others")
        }
        (_, Some(Kept::File(path))) => format!(
            "put the secret into {path}, for the gateway's user alone:\n     install -D -m 600 /dev/stdin {path}   then paste \
             it, Enter, Ctrl-D"
        ),
        (_, Some(Kept::Env(name))) => match &args.systemd {
            Some(path) => format!("put the secret behind {name}= in {}", path.display()),
            None => format!("put the secret into the variable {name} of the gateway's environment"),
        },
        (_, Some(Kept::Credential(name))) => format!(
            "put the secret into a file that only root reads, and hand it to the unit:\n     \
             sudo install -D -m 600 /dev/stdin /etc/keybearer/secrets/{name}\n     \
             {unit}   [Service] LoadCredential={name}:/etc/keybearer/secrets/{name}"
        ),
        (Account::Entra { proof: Proof::Certificate { file, key: Some(key) }, .. }, None) => {
            format!(
                "put the certificate into {file} and its key into {key}{reach}, and upload the certificate, without the \
                 key, to the app registration"
            )
        }
        (Account::Entra { proof: Proof::Certificate { file, key: None }, .. }, None) => {
            format!(
                "put the certificate with its key into {file}{reach}, and upload it, without the key, to the app \
                 registration"
            )
        }
        (Account::Entra { proof: Proof::FederatedToken(file), .. }, None) => {
            format!(
                "see that the workload's token is in {file}{reach}, and that the app registration trusts its issuer"
            )
        }
        (Account::ManagedIdentity { .. }, None) => {
            "turn the identity on in Azure, and assign it the Web API's app role".to_owned()
        }
        (Account::Entra { .. } | Account::Oauth2 { .. } | Account::Static { .. }, None) => return None,
    };
    Some(text)
}
