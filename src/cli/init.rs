//! `keybearer init`: a first configuration, from flags or from a few questions on a terminal.
//!
//! It asks where a secret is kept and never for the secret. What it writes is valid: it was read as `check` would.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::anyhow;
use clap::{Args, ValueEnum};

use crate::{
    cli::{Failure, print},
    config,
};

mod answers;
mod ask;
mod text;

const EXAMPLES: &str = "Examples:
  keybearer init                       asks
  keybearer init --provider entra --tenant contoso.onmicrosoft.com \\
    --client-id 10d635e5-7615-472f-8200-a81d5c87c0ca --secret-file orders.secret \\
    --scope https://contoso.onmicrosoft.com/orders-api/.default \\
    --upstream https://orders.contoso.com/api --prefix /v1/orders
  keybearer init --provider managed-identity --scope api://orders-api/.default \\
    --upstream https://orders.contoso.com";

/// Who gives the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Provider {
    /// Microsoft Entra ID, also for Azure AD B2C: an app registration
    Entra,
    /// The identity that Azure gives to a machine or an application
    ManagedIdentity,
    /// Any other OAuth 2.0 server
    Oauth2,
    /// Nobody: a token or key that lies in its place
    Static,
}

/// What is known before any question. What is missing is asked for on a terminal.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct InitArgs {
    /// Who gives the tokens
    #[arg(long)]
    provider: Option<Provider>,
    /// The directory id or a verified domain, for entra
    #[arg(long)]
    tenant: Option<String>,
    /// The client or application id
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// The scope of tokens: for entra and managed-identity the App ID URI of the Web API with /.default
    #[arg(long)]
    scope: Option<String>,
    /// The server's issuer, from which its token endpoint is learned, for oauth2
    #[arg(long, value_name = "URL", conflicts_with = "token_url")]
    issuer: Option<String>,
    /// The server's token endpoint, for oauth2
    #[arg(long, value_name = "URL")]
    token_url: Option<String>,
    /// The file in which the secret is kept
    #[arg(long, value_name = "FILE", group = "proof")]
    secret_file: Option<String>,
    /// The environment variable in which the secret is kept
    #[arg(long, value_name = "NAME", group = "proof")]
    secret_env: Option<String>,
    /// The systemd credential in which the secret is kept (LoadCredential=)
    #[arg(long, value_name = "NAME", group = "proof")]
    secret_credential: Option<String>,
    /// The PEM or PFX file with the certificate, for entra in place of a secret
    #[arg(long, value_name = "FILE", group = "proof")]
    certificate_file: Option<String>,
    /// The PEM file with the certificate's key, when it is not beside it
    #[arg(long, value_name = "FILE", requires = "certificate_file")]
    key_file: Option<String>,
    /// The file with the workload's own token, for entra in place of a secret
    #[arg(long, value_name = "FILE", group = "proof")]
    federated_token_file: Option<String>,
    /// Take the workload's token from where Azure Workload Identity puts it, for entra
    #[arg(long, group = "proof")]
    workload_identity: bool,
    /// The Web API's base URL
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// The paths that are forwarded begin with this [default: /]
    #[arg(long, value_name = "PATH")]
    prefix: Option<String>,
    /// Where your programs reach the gateway [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The file to write
    #[arg(short, long, value_name = "FILE", default_value = "keybearer.yaml")]
    output: PathBuf,
    /// Write the environment file of the systemd unit as well
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "keybearer.env")]
    systemd: Option<PathBuf>,
    /// Write over files that are there
    #[arg(long)]
    force: bool,
}

pub(super) fn init(args: &InitArgs) -> Result<ExitCode, Failure> {
    let files = || [Some(&args.output), args.systemd.as_ref()].into_iter().flatten();
    if let Some(there) = files().find(|path| path.exists() && !args.force) {
        return Err(is_there(there));
    }
    let folder =
        |path: &Path| path.parent().filter(|folder| !folder.as_os_str().is_empty()).map(Path::to_owned);
    if let Some(missing) = files().filter_map(|path| folder(path)).find(|folder| !folder.is_dir()) {
        return Err(anyhow!("the folder {} is not there: make it, and try again", missing.display()).into());
    }
    let is_asking = io::stdin().is_terminal() && io::stderr().is_terminal();
    let answers = answers::gather(args, ask::Asker::new(is_asking))?;
    let yaml = text::configuration(&answers, &args.output, args.systemd.is_some());
    // Secrets need not be there yet; everything else is as `check` wants it.
    if let Err(problems) = config::inspect_text(&yaml, &args.output, None) {
        let problems = problems.to_string();
        let words = "these answers make no valid configuration; nothing was written";
        return Err(Failure::Bad(format!("{}\n\nkeybearer: {words}\n", problems.trim_end())));
    }
    write(&args.output, &yaml, 0o644, args.force)?;
    if let Some(path) = &args.systemd {
        write(path, &text::environment(&answers), 0o600, args.force)?;
    }
    print(&text::next_steps(&answers, args))
}

fn is_there(path: &Path) -> Failure {
    anyhow!("{} is there already; name another file with --output, or say --force", path.display()).into()
}

/// Writes a whole file or none. What is there stays, unless it is to be written over.
fn write(path: &Path, text: &str, mode: u32, force: bool) -> Result<(), Failure> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => is_there(path),
        _ => anyhow!("{} cannot be written: {error}", path.display()).into(),
    };
    let mut options = fs::OpenOptions::new();
    options.write(true).mode(mode);
    let place = if force { path.with_extension("new") } else { path.to_owned() };
    match force {
        true => options.create(true).truncate(true),
        false => options.create_new(true),
    };
    let mut file = options.open(&place).map_err(failed)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let written = written.and_then(|()| if force { fs::rename(&place, path) } else { Ok(()) });
    written.map_err(|error| {
        let _ = fs::remove_file(&place);
        failed(error)
    })
}
