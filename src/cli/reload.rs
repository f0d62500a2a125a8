//! `keybearer reload`: the running gateway reads its configuration again.
//!
//! A file with problems is told by them, with exit code 2. One that is valid and cannot be put in force, because a
//! new profile gets no token for instance, ends with 1.

use std::{fmt::Write as _, process::ExitCode};

use clap::Args;
use reqwest::Method;
use serde_json::json;

use crate::{
    admin::changes::Reloaded,
    cli::{Failure, client::Client, place::AdminArgs, print, say, told},
};

/// Names that are printed of what was added, changed or removed: a screen of each.
const NAMES_MAX: usize = 20;

/// What is asked.
#[derive(Args)]
pub(super) struct ReloadArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn reload(args: &ReloadArgs) -> Result<ExitCode, Failure> {
    let client = Client::new(args.admin.place()?, args.json)?;
    let answer = client.change(Method::POST, "/reload", &json!({}))?;
    if args.json {
        return print(&format!("{answer}\n"));
    }
    let reloaded: Reloaded = told::read(&answer)?;
    for warning in &reloaded.warnings {
        say(&format!("warning: {warning}\n"));
    }
    let mut out = String::from("the configuration was reloaded\n");
    for (word, names) in
        [("added", &reloaded.added), ("changed", &reloaded.changed), ("removed", &reloaded.removed)]
    {
        for name in names.iter().take(NAMES_MAX) {
            let _ = writeln!(out, "  {word:9}{name}");
        }
        if let Some(more) = names.len().checked_sub(NAMES_MAX).filter(|more| *more > 0) {
            let _ = writeln!(out, "  {word:9}{more} more, which --json names");
        }
    }
    if reloaded.added.is_empty() && reloaded.changed.is_empty() && reloaded.removed.is_empty() {
        out.push_str("  nothing that is in force has changed\n");
    }
    print(&out)
}
