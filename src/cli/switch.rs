//! `keybearer switch`: another account for a route, or another environment for all, while the gateway runs.

use std::{fmt::Write as _, process::ExitCode};

use clap::Args;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    admin::changes,
    cli::{
        Failure,
        client::Client,
        place::AdminArgs,
        print, report,
        times::{ahead, clock_time, now},
        told::{self, Configuration},
    },
};

/// The word for no environment.
const NO_ENVIRONMENT: &str = "none";
/// What must stay as it is in one part of a path.
const UNRESERVED: &[u8] = b"-._~";

const EXAMPLES: &str = "Examples:
  keybearer switch orders orders-staging --for 30m   another account for half an hour
  keybearer switch orders orders-staging --dry-run   can it be done? nothing changes
  keybearer switch orders --undo                     back to what was before
  keybearer switch --environment staging             everything as the environment says
  keybearer switch --environment staging --undo      back to the environment before
  keybearer switch --list                            what is switched, until when and by whom";

/// What is asked.
#[derive(Args)]
#[command(
    after_help = EXAMPLES,
    override_usage = "keybearer switch ROUTE PROFILE [--for SPAN] [--dry-run]\n       \
                      keybearer switch ROUTE --undo\n       \
                      keybearer switch --environment NAME [--for SPAN] [--dry-run] [--undo]\n       \
                      keybearer switch --list"
)]
pub(super) struct SwitchArgs {
    /// The route's name
    #[arg(required_unless_present_any = ["environment", "list"], conflicts_with_all = ["environment", "list"])]
    route: Option<String>,
    /// The profile that serves it from now on
    #[arg(required_unless_present_any = ["environment", "list", "undo"], conflicts_with_all = ["environment", "list", "undo"])]
    profile: Option<String>,
    /// Switch everything to this environment; none for the file as it stands
    #[arg(short, long, value_name = "NAME", conflicts_with = "list")]
    environment: Option<String>,
    /// Go back by itself after this long, such as 90s, 30m, 8h, 2d
    #[arg(long = "for", value_name = "SPAN", value_parser = span, conflicts_with_all = ["undo", "list"])]
    lasts: Option<String>,
    /// Only try whether it could be done; the new account's token is obtained
    #[arg(long, conflicts_with_all = ["undo", "list"])]
    dry_run: bool,
    /// Take back the latest switch
    #[arg(long, conflicts_with = "list")]
    undo: bool,
    /// Show what is switched, and what was
    #[arg(long)]
    list: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// The API would say the same, in the words of its own body.
fn span(text: &str) -> Result<String, String> {
    match changes::span(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("not a span (such as 90s, 30m, 8h or 2d)".to_owned()),
    }
}

/// What became of it.
#[derive(Deserialize)]
struct Outcome {
    from: Option<String>,
    to: Option<String>,
    until: Option<u64>,
    #[serde(default)]
    is_kept: bool,
    #[serde(default)]
    still_switched: Vec<String>,
    #[serde(default)]
    dropped: Vec<String>,
}

pub(super) fn switch(args: &SwitchArgs) -> Result<ExitCode, Failure> {
    let client = Client::new(args.admin.place()?, args.json)?;
    if args.list {
        return list(&client, args.json);
    }
    let (path, body) = match &args.route {
        Some(route) => (format!("/routes/{}", segment(route)), json!({"profile": args.profile})),
        None => {
            let name = args.environment.as_deref().filter(|name| *name != NO_ENVIRONMENT);
            ("/environment".to_owned(), json!({"environment": name}))
        }
    };
    let answer = if args.undo {
        is_in_force(&client, args)?;
        client.change(Method::POST, &format!("{path}/undo"), &json!({}))?
    } else {
        let mut body = body;
        if let Some(wish) = body.as_object_mut() {
            wish.insert("dry_run".into(), args.dry_run.into());
            wish.extend(args.lasts.clone().map(|lasts| ("for".to_owned(), Value::from(lasts))));
        }
        client.change(Method::POST, &format!("{path}/switch"), &body)?
    };
    if args.json {
        return print(&format!("{answer}\n"));
    }
    print(&words(args, &told::read(&answer)?))
}

/// Taking back an environment that is not in force would take back another one.
fn is_in_force(client: &Client, args: &SwitchArgs) -> Result<(), Failure> {
    let Some(name) = &args.environment else { return Ok(()) };
    let configuration: Configuration = told::read(&client.runtime().block_on(client.ask("/configuration"))?)?;
    let now = configuration.environment.as_deref().unwrap_or(NO_ENVIRONMENT);
    if now == name {
        return Ok(());
    }
    let defined: Vec<_> = configuration.environments.iter().map(|name| format!("{name:?}")).collect();
    if name != NO_ENVIRONMENT && !configuration.environments.contains(name) {
        let defined = if defined.is_empty() { "none".to_owned() } else { report::named(&defined) };
        let words = format!("environment {name:?} is not defined (defined: {defined}); nothing was changed");
        return Err(Failure::Bad(format!("keybearer: {words}\n")));
    }
    let words = format!("environment {name:?} is not in force, but {now:?} is; nothing was changed");
    Err(anyhow::anyhow!(words).into())
}

fn words(args: &SwitchArgs, outcome: &Outcome) -> String {
    let name = |name: &Option<String>| name.clone().unwrap_or_else(|| NO_ENVIRONMENT.into());
    let (from, to) = (name(&outcome.from), name(&outcome.to));
    let what = match &args.route {
        Some(route) => format!("route \"{route}\": profile \"{to}\""),
        None => format!("environment \"{to}\""),
    };
    let still = match outcome.still_switched.as_slice() {
        [] => String::new(),
        routes => format!(
            "note   routes that keep a switch of their own: {} (keybearer switch ROUTE --undo)\n",
            report::named(routes)
        ),
    };
    let dropped = match outcome.dropped.as_slice() {
        [] => String::new(),
        routes => format!(
            "note   routes whose own switch ends with this, as its profile is not configured there: {}\n",
            report::named(routes)
        ),
    };
    if args.dry_run {
        return format!("{what} instead of \"{from}\" can be had; nothing was changed\n{still}{dropped}");
    }
    let mut out = format!("{what} instead of \"{from}\" from now on\n");
    if let Some(until) = outcome.until {
        let _ = writeln!(
            out,
            "until  {} ({}), then it goes back by itself",
            clock_time(until),
            ahead(until, now())
        );
    }
    out.push_str(&still);
    out.push_str(&dropped);
    if !outcome.is_kept {
        out.push_str("note   a restart of the gateway forgets this: it has no state_dir that it can use\n");
    }
    if !args.undo {
        let of = match (&args.route, &args.environment) {
            (Some(route), _) => route.clone(),
            (None, environment) => format!("--environment {}", name(environment)),
        };
        let _ = writeln!(out, "undo   keybearer switch {of} --undo");
    }
    out
}

fn list(client: &Client, as_json: bool) -> Result<ExitCode, Failure> {
    let answer = client.runtime().block_on(client.ask("/configuration"))?;
    if as_json {
        return print(&format!("{answer}\n"));
    }
    let configuration: Configuration = told::read(&answer)?;
    let mut out = report::switches(&configuration, now());
    if out.is_empty() {
        out.push_str("nothing is switched\n");
    }
    let history = report::history(&configuration.history);
    if !history.is_empty() {
        out.push('\n');
        out.push_str(&history);
    }
    print(&out)
}

/// A name as one part of a path.
fn segment(name: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || UNRESERVED.contains(&b);
    let encode = |b: u8| if is_plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    name.bytes().map(encode).collect()
}
