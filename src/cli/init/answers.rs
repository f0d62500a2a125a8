//! What a first configuration is made of.

use std::net::SocketAddr;

use url::{Host, Url};

use super::{
    InitArgs, Provider,
    ask::{Asker, Flaw, Wanted},
};
use crate::cli::Failure;

/// Everything that the file says.
pub(super) struct Answers {
    pub(super) account: Account,
    pub(super) upstream: String,
    pub(super) prefix: String,
    pub(super) listen: String,
}

/// The service account.
pub(super) enum Account {
    Entra { tenant: String, client_id: String, scope: String, proof: Proof },
    ManagedIdentity { client_id: Option<String>, scope: String },
    Oauth2 { server: Server, client_id: String, scope: Option<String>, secret: Kept },
    Static { secret: Kept },
}

/// Where an OAuth 2.0 server is.
pub(super) enum Server {
    Issuer(String),
    TokenUrl(String),
}

/// How an account of Entra proves itself.
pub(super) enum Proof {
    Secret(Kept),
    Certificate { file: String, key: Option<String> },
    FederatedToken(String),
    WorkloadIdentity,
}

/// Where a secret is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    File(String),
    Env(String),
    Credential(String),
}

impl Account {
    /// Where its secret is kept, if it has one.
    pub(super) fn secret(&self) -> Option<&Kept> {
        match self {
            Self::Entra { proof: Proof::Secret(secret), .. } => Some(secret),
            Self::Oauth2 { secret, .. } | Self::Static { secret } => Some(secret),
            Self::Entra { .. } | Self::ManagedIdentity { .. } => None,
        }
    }
}

#[derive(Clone, Copy)]
enum ProofKind {
    File,
    Env,
    Credential,
    Certificate,
    FederatedToken,
    WorkloadIdentity,
}

const KEPT: [(&str, ProofKind); 3] = [
    ("in a file", ProofKind::File),
    ("in an environment variable of the gateway", ProofKind::Env),
    ("in a systemd credential (LoadCredential=)", ProofKind::Credential),
];

/// Takes what the flags say, and asks for the rest.
pub(super) fn gather(args: &InitArgs, mut asker: Asker) -> Result<Answers, Failure> {
    let provider = match args.provider {
        Some(provider) => Some(provider),
        None => asker.choose(
            "--provider entra, managed-identity, oauth2 or static",
            "Who gives the tokens?",
            &[
                ("Microsoft Entra ID, also for Azure AD B2C", Provider::Entra),
                ("Azure's managed identity of this machine or application", Provider::ManagedIdentity),
                ("another OAuth 2.0 server", Provider::Oauth2),
                ("nobody: a token lies in its place", Provider::Static),
            ],
        )?,
    };
    let account = match provider {
        Some(Provider::Entra) => Some(entra(args, &mut asker)?),
        Some(Provider::ManagedIdentity) => Some(managed_identity(args, &mut asker)?),
        Some(Provider::Oauth2) => oauth2(args, &mut asker)?,
        Some(Provider::Static) => {
            secret(args, &mut asker, "the token")?.map(|secret| Account::Static { secret })
        }
        None => None,
    };
    let upstream = asker.want(&Wanted {
        flag: "--upstream",
        given: args.upstream.as_deref(),
        question: "The Web API's base URL",
        default: None,
        check: is_upstream,
    })?;
    let prefix = asker.want(&Wanted {
        flag: "--prefix",
        given: args.prefix.as_deref(),
        question: "Forwarded are paths below",
        default: Some("/"),
        check: |text| if text.starts_with('/') { Ok(()) } else { Err("a path begins with /".into()) },
    })?;
    let listen = asker.want(&Wanted {
        flag: "--listen",
        given: args.listen.as_deref(),
        question: "Programs reach the gateway at",
        default: Some("127.0.0.1:8080"),
        check: is_address,
    })?;
    if let Some(provider) = provider {
        strays(args, provider).for_each(|flaw| asker.flaw(flaw));
    }
    asker.finish()?;
    // Without an account a flaw was noted, so the asker has ended this.
    let account = account.ok_or_else(|| anyhow::anyhow!("the account is not known"))?;
    Ok(Answers { account, upstream, prefix, listen })
}

/// Flags that the provider has no use for.
fn strays(args: &InitArgs, provider: Provider) -> impl Iterator<Item = String> {
    let (name, is_entra, is_oauth2) = match provider {
        Provider::Entra => ("entra", true, false),
        Provider::ManagedIdentity => ("managed-identity", false, false),
        Provider::Oauth2 => ("oauth2", false, true),
        Provider::Static => ("static", false, false),
    };
    let is_static = provider == Provider::Static;
    let flags = [
        ("--tenant", args.tenant.is_some() && !is_entra),
        ("--client-id", args.client_id.is_some() && is_static),
        ("--scope", args.scope.is_some() && is_static),
        ("--issuer", args.issuer.is_some() && !is_oauth2),
        ("--token-url", args.token_url.is_some() && !is_oauth2),
    ];
    let strays = flags.into_iter().filter(|(_, is_stray)| *is_stray);
    strays.map(move |(flag, _)| format!("{flag} means nothing for --provider {name}; leave it out"))
}

fn entra(args: &InitArgs, asker: &mut Asker) -> Result<Account, Failure> {
    let proof = match given(args) {
        Some(kind) => Some(kind),
        None => asker.choose(
            "one of --secret-file, --secret-env, --secret-credential, --certificate-file, --federated-token-file and \
             --workload-identity",
            "How does the account prove itself?",
            &[
                ("by a client secret in a file", ProofKind::File),
                ("by a client secret in an environment variable of the gateway", ProofKind::Env),
                ("by a client secret in a systemd credential (LoadCredential=)", ProofKind::Credential),
                ("by a certificate", ProofKind::Certificate),
                ("by the workload's own token in a file (federation)", ProofKind::FederatedToken),
                ("by Azure Workload Identity in Kubernetes", ProofKind::WorkloadIdentity),
            ],
        )?,
    };
    // Azure Workload Identity says tenant and client in its variables.
    let is_said = matches!(proof, Some(ProofKind::WorkloadIdentity));
    let question = "The tenant: directory id or verified domain";
    let mut tenant = word(asker, "--tenant", args.tenant.as_deref(), question, is_said)?;
    let question = "The application's (client) id";
    let mut client_id = word(asker, "--client-id", args.client_id.as_deref(), question, is_said)?;
    if is_said {
        (tenant, client_id) = (String::new(), String::new());
        if args.tenant.is_some() || args.client_id.is_some() {
            asker.flaw(
                "--workload-identity takes tenant and client from the pod's variables; leave them out".into(),
            );
        }
    }
    let proof = match proof {
        None => Proof::WorkloadIdentity,
        Some(ProofKind::Certificate) => Proof::Certificate {
            file: path(
                asker,
                "--certificate-file",
                args.certificate_file.as_deref(),
                "The file with certificate and key, PEM or PFX",
            )?,
            key: args.key_file.clone(),
        },
        Some(ProofKind::FederatedToken) => {
            let given = args.federated_token_file.as_deref();
            Proof::FederatedToken(path(
                asker,
                "--federated-token-file",
                given,
                "The file with the workload's token",
            )?)
        }
        Some(ProofKind::WorkloadIdentity) => Proof::WorkloadIdentity,
        Some(kind) => Proof::Secret(kept(kind, args, asker)?),
    };
    let scope = scope(args, asker)?;
    Ok(Account::Entra { tenant, client_id, scope, proof })
}

fn managed_identity(args: &InitArgs, asker: &mut Asker) -> Result<Account, Failure> {
    let scope = scope(args, asker)?;
    if given(args).is_some() {
        asker.flaw("--provider managed-identity has no secret; leave its place out".into());
    }
    Ok(Account::ManagedIdentity { client_id: args.client_id.clone(), scope })
}

fn oauth2(args: &InitArgs, asker: &mut Asker) -> Result<Option<Account>, Failure> {
    let server = match (&args.issuer, &args.token_url) {
        (Some(issuer), _) => Server::Issuer(issuer.clone()),
        (None, Some(url)) => Server::TokenUrl(url.clone()),
        (None, None) => {
            let url = asker.want(&Wanted {
                flag: "--issuer or --token-url",
                given: None,
                question: "The server's issuer, or its token endpoint, as a URL",
                default: None,
                check: is_url,
            })?;
            if is_token_endpoint(&url) { Server::TokenUrl(url) } else { Server::Issuer(url) }
        }
    };
    let client_id = word(asker, "--client-id", args.client_id.as_deref(), "The client id", false)?;
    let scope = asker.want(&Wanted {
        flag: "--scope",
        given: args.scope.as_deref(),
        question: "The scope, if the server wants one",
        default: Some(""),
        check: |_| Ok(()),
    })?;
    let secret = secret(args, asker, "the client secret")?;
    let scope = Some(scope).filter(|scope| !scope.is_empty());
    Ok(secret.map(|secret| Account::Oauth2 { server, client_id, scope, secret }))
}

/// Issuers hardly ever have such a path, token endpoints do: `/token`, `/access_token`, `/as/token.oauth2`.
fn is_token_endpoint(url: &str) -> bool {
    let path = Url::parse(url).map(|url| url.path().trim_end_matches('/').to_ascii_lowercase());
    path.is_ok_and(|path| {
        let last = path.rsplit('/').next().unwrap_or_default();
        last.split('.').next().unwrap_or_default().ends_with("token")
    })
}

/// Where the secret is kept, of an account that has nothing else.
fn secret(args: &InitArgs, asker: &mut Asker, what: &str) -> Result<Option<Kept>, Failure> {
    let kind = match given(args) {
        Some(kind @ (ProofKind::File | ProofKind::Env | ProofKind::Credential)) => Some(kind),
        Some(_) => {
            asker.flaw("certificates and federated tokens are for --provider entra here; docs/configuration.md has more".into());
            None
        }
        None => {
            let flags = "one of --secret-file, --secret-env and --secret-credential";
            asker.choose(flags, &format!("Where is {what} kept?"), &KEPT)?
        }
    };
    kind.map(|kind| kept(kind, args, asker)).transpose()
}

fn kept(kind: ProofKind, args: &InitArgs, asker: &mut Asker) -> Result<Kept, Failure> {
    match kind {
        ProofKind::Env => {
            let question = "The variable's name";
            word(asker, "--secret-env", args.secret_env.as_deref(), question, false).map(Kept::Env)
        }
        ProofKind::Credential => {
            let question = "The credential's name";
            word(asker, "--secret-credential", args.secret_credential.as_deref(), question, false)
                .map(Kept::Credential)
        }
        _ => path(asker, "--secret-file", args.secret_file.as_deref(), "The file with the secret")
            .map(Kept::File),
    }
}

/// Which proof the flags name.
fn given(args: &InitArgs) -> Option<ProofKind> {
    let all = [
        (args.secret_file.is_some(), ProofKind::File),
        (args.secret_env.is_some(), ProofKind::Env),
        (args.secret_credential.is_some(), ProofKind::Credential),
        (args.certificate_file.is_some(), ProofKind::Certificate),
        (args.federated_token_file.is_some(), ProofKind::FederatedToken),
        (args.workload_identity, ProofKind::WorkloadIdentity),
    ];
    all.into_iter().find(|(is_given, _)| *is_given).map(|(_, kind)| kind)
}

fn scope(args: &InitArgs, asker: &mut Asker) -> Result<String, Failure> {
    asker.want(&Wanted {
        flag: "--scope",
        given: args.scope.as_deref(),
        question: "The scope: the Web API's App ID URI with /.default",
        default: None,
        check: |text| match text.ends_with("/.default") && !text.contains(char::is_whitespace) {
            true => Ok(()),
            false => Err("it ends with /.default, as in api://orders-api/.default".into()),
        },
    })
}

/// One word, such as an id. One that is `said` elsewhere is not asked for.
fn word(
    asker: &mut Asker,
    flag: &str,
    given: Option<&str>,
    question: &str,
    said: bool,
) -> Result<String, Failure> {
    if said {
        return Ok(String::new());
    }
    let check =
        |text: &str| match text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            true => Err("one word is needed".into()),
            false => Ok(()),
        };
    asker.want(&Wanted { flag, given, question, default: None, check })
}

fn path(asker: &mut Asker, flag: &str, given: Option<&str>, question: &str) -> Result<String, Failure> {
    let check = |text: &str| match text.is_empty() || text.contains(char::is_control) {
        true => Err("a file's path is needed".into()),
        false => Ok(()),
    };
    asker.want(&Wanted { flag, given, question, default: None, check })
}

fn is_url(text: &str) -> Result<(), Flaw> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(()),
        _ => Err("a URL is needed, as in https://api.example.com".into()),
    }
}

fn is_upstream(text: &str) -> Result<(), Flaw> {
    is_url(text)?;
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    let is_here = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match url.scheme() == "https" || is_here {
        true => Ok(()),
        false => Err("a token goes over https, or to this machine".into()),
    }
}

fn is_address(text: &str) -> Result<(), Flaw> {
    let is_socket = text.strip_prefix("unix:").is_some_and(|path| !path.is_empty());
    match is_socket || text.parse::<SocketAddr>().is_ok() {
        true => Ok(()),
        false => Err("an IP address and a port are needed, as in 127.0.0.1:8080, or unix:PATH".into()),
    }
}
