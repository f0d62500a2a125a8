//! `keybearer reload`: the running gateway reads its configuration again.

use std::process::ExitCode;

use clap::Args;
use reqwest::Method;
use serde_json::json;

use crate::cli::{Failure, client::Client, place::AdminArgs, print};

/// What is asked.
#[derive(Args)]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn reload(args: &ReloadArgs) -> Result<ExitCode, Failure> {
    let client = Client::new(args.admin.place()?)?;
    client.change(Method::POST, "/reload", &json!({}))?;
    print("the configuration was reloaded\n")
}
