//! The command line: what a person types, and what the program answers.
//!
//! Results go to standard output, logs and problems to standard error. Exit codes: 0 done, 1 failed,
//! 2 bad usage or configuration.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, CommandFactory, FromArgMatches as _, Parser, Subcommand, ValueEnum};

use crate::{
    config::{self, Loaded},
    telemetry::log,
};

mod check;
mod client;
mod doctor;
mod explain;
mod init;
mod pinned;
mod place;
mod reload;
mod report;
mod run;
mod status;
mod switch;
mod table;
mod times;
mod token;
mod told;

/// Places where a configuration is looked for when none is named.
const CONFIG_PLACES: [&str; 2] = ["keybearer.yaml", "/etc/keybearer/keybearer.yaml"];

/// A gateway that carries OAuth 2.0 credentials for programs that cannot.
///
/// It matches each request to a route, puts the token of the route's service account on it, forwards
/// it, and, when the upstream answers 401, gets a fresh token and sends the request once more.
#[derive(Parser)]
#[command(name = "keybearer", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a first configuration, from a few questions or from flags
    Init(init::InitArgs),
    /// Run the gateway until it is told to stop (SIGTERM, SIGINT)
    Run {
        #[command(flatten)]
        config: ConfigArgs,
        #[command(flatten)]
        log: LogArgs,
    },
    /// Validate a configuration and all its environments without starting
    Check {
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Show which route, profile and upstream URL a request would get, and why not others
    Explain {
        /// The request's method, for instance GET
        method: String,
        /// The request's URL, or only its path
        url: String,
        /// A header field of the request, for routes that match on headers and for the rules that refuse some;
        /// may be repeated
        #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
        headers: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Get a token now and show who issued it, for whom, with which roles and for how long
    Token {
        /// The profile's name
        profile: String,
        /// Print the token itself and nothing else
        #[arg(long)]
        raw: bool,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Try every profile and upstream, and say of each failure what it means and what to do next
    Doctor {
        /// Only this profile
        #[arg(long, value_name = "PROFILE")]
        profile: Option<String>,
        /// Only this route, and the profile that it uses
        #[arg(long, value_name = "ROUTE", conflicts_with = "profile")]
        route: Option<String>,
        /// GET this path, as a program would ask for it, with a token and without one; from the named
        /// route's upstream, or else from those of the routes that take the path
        #[arg(long, value_name = "PATH")]
        probe: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Show what a running gateway does; exit 1 if it is not ready (for health checks)
    Status(status::StatusArgs),
    /// Serve a route with another profile while the gateway runs, for a while or until it is undone
    Switch(switch::SwitchArgs),
    /// Have the running gateway read its configuration again
    Reload(reload::ReloadArgs),
    /// Show the whole thing on loopback: identity provider, Web API, gateway and a narrated tour
    Demo {
        /// Run the tour and exit 0 only if every step came out as told
        #[arg(long)]
        once: bool,
    },
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    /// Print a shell's completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or that of one command
    Man {
        /// The command
        command: Option<String>,
    },
}

#[derive(Args)]
struct ConfigArgs {
    /// The configuration file [default: ./keybearer.yaml, then /etc/keybearer/keybearer.yaml]
    #[arg(short, long, value_name = "FILE", env = "KEYBEARER_CONFIG")]
    config: Option<PathBuf>,
    /// The environment whose overlay applies
    #[arg(short, long, value_name = "NAME", env = "KEYBEARER_ENVIRONMENT")]
    environment: Option<String>,
}

#[derive(Args, Clone)]
struct LogArgs {
    /// The least severe level that is logged; overrides the file
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<tracing::Level>,
    /// The form of log lines; overrides the file
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// What is logged, as a tracing filter such as info,access=off; overrides --log-level and the file's level
    #[arg(long, value_name = "FILTER", env = "KEYBEARER_LOG")]
    log_filter: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Auto,
    Human,
    Json,
}

impl From<LogFormat> for log::Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Auto => Self::Auto,
            LogFormat::Human => Self::Human,
            LogFormat::Json => Self::Json,
        }
    }
}

/// Why a command did not do what it was asked to.
enum Failure {
    /// It failed: exit code 1.
    Failed(anyhow::Error),
    /// It was asked badly or configured badly: exit code 2. The text is complete.
    Bad(String),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Parses the command line, does what it says and gives the exit code.
pub fn main() -> ExitCode {
    // clap answers --help with 0 and bad usage with 2 by itself.
    let mut matches = without_empty_variables(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.exit());
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(Failure::Failed(error)) => {
            say(&format!("keybearer: {error:#}\n"));
            ExitCode::from(1)
        }
        Err(Failure::Bad(text)) => {
            say(&text);
            ExitCode::from(2)
        }
    }
}

/// A variable that is set to nothing says nothing: environment files and compose files have such lines.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty =
        |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|arg| if is_empty(&arg) { arg.env(None::<&str>) } else { arg });
    command.mut_subcommands(without_empty_variables)
}

fn dispatch(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Init(args) => init::init(&args),
        Command::Run { config, log } => run::run(&config.load()?, &log),
        Command::Check { config } => check::check(&config),
        Command::Explain { method, url, headers, json, config } => {
            print(&explain::explain(&config.inspect()?, &method, &url, &headers, json)?)
        }
        Command::Token { profile, raw, config } => token::token(&config.inspect()?, &profile, raw),
        Command::Doctor { profile, route, probe, json, config } => {
            let wish = crate::doctor::Wish { profile, route, probe };
            doctor::doctor(&config.inspect()?, wish, json)
        }
        Command::Status(args) => status::status(&args),
        Command::Switch(args) => switch::switch(&args),
        Command::Reload(args) => reload::reload(&args),
        Command::Demo { once } => crate::demo::tour::run(once).map_err(Failure::from),
        Command::Schema => {
            let schema = serde_json::to_string_pretty(&config::schema())?;
            print(&(schema + "\n"))
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "keybearer", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Command::Man { command } => manual(command.as_deref()),
    }
}

fn manual(command: Option<&str>) -> Result<ExitCode, Failure> {
    let mut all = Cli::command();
    // Gives the commands their full names.
    all.build();
    let wanted = match command {
        None => all,
        Some(name) => match all.find_subcommand(name) {
            Some(found) => found.clone(),
            None => return Err(Failure::Bad(format!("keybearer: there is no command \"{name}\"\n"))),
        },
    };
    let mut page = Vec::new();
    let source = concat!("keybearer ", env!("CARGO_PKG_VERSION"));
    clap_mangen::Man::new(wanted).source(source).render(&mut page)?;
    print(&String::from_utf8_lossy(&page))
}

/// A configuration that was found valid, and where it came from.
struct Configured {
    path: PathBuf,
    loaded: Loaded,
}

impl ConfigArgs {
    fn path(&self) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.config {
            return Ok(path.clone());
        }
        CONFIG_PLACES.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
            Failure::Bad(format!(
                "no configuration: name one with --config FILE or KEYBEARER_CONFIG, or put it at {}; keybearer init \
                 writes a first one\n",
                CONFIG_PLACES.join(" or ")
            ))
        })
    }

    /// For commands that need the secrets.
    fn load(&self) -> Result<Configured, Failure> {
        self.read(config::load)
    }

    /// For commands that only look.
    fn inspect(&self) -> Result<Configured, Failure> {
        self.read(config::inspect)
    }

    fn read(
        &self,
        how: fn(&Path, Option<&str>) -> Result<Loaded, config::problem::Problems>,
    ) -> Result<Configured, Failure> {
        let path = self.path()?;
        match how(&path, self.environment.as_deref()) {
            Ok(loaded) => Ok(Configured { path, loaded }),
            Err(problems) => Err(Failure::Bad(complaint(&path, &problems))),
        }
    }
}

fn complaint(path: &Path, problems: &config::problem::Problems) -> String {
    let count = match problems.len() {
        1 => "1 problem".to_owned(),
        n => format!("{n} problems"),
    };
    format!("{}\n\n{} has {count}\n", problems.to_string().trim_end(), path.display())
}

/// Writes a result. A reader who has seen enough, such as `head`, is no failure.
fn print(text: &str) -> Result<ExitCode, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Writes to standard error, where nothing can be done about a failure.
fn say(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
