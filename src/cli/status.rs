//! `keybearer status`: what a running gateway says of itself.

use std::{fmt::Write as _, net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::{Context, anyhow};
use serde_json::Value;

use crate::{
    cli::{Failure, print},
    profile::{diagnosis, skew},
};

/// A gateway that does not answer within this is not well.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn status(admin: Option<SocketAddr>, as_json: bool) -> Result<ExitCode, Failure> {
    let Some(address) = admin else {
        return Err(Failure::Bad(
            "keybearer: the configuration has no admin listener to ask (add admin: {address: 127.0.0.1:9901})\n"
                .into(),
        ));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (is_ready, body) = runtime.block_on(ask(address))?;
    let body: Value = serde_json::from_str(&body).map_err(|_| anyhow!("{address} is no admin listener"))?;
    print(&if as_json { format!("{body}\n") } else { text(&body) })?;
    Ok(if is_ready { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn ask(address: SocketAddr) -> Result<(bool, String), Failure> {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
    let response = client
        .get(format!("http://{address}/readyz"))
        .send()
        .await
        .with_context(|| format!("no gateway answers at {address}"))?;
    let is_ready = response.status().is_success();
    Ok((is_ready, response.text().await?))
}

fn text(body: &Value) -> String {
    let word = |value: &Value| if value.as_bool() == Some(true) { "ready" } else { "not ready" };
    let mut out = format!("gateway  {}\n", word(body.get("ready").unwrap_or(&Value::Null)));
    for (name, profile) in body.get("profiles").and_then(Value::as_object).into_iter().flatten() {
        let state = word(profile.get("ready").unwrap_or(&Value::Null));
        let reason = profile.get("reason").and_then(Value::as_str);
        let _ =
            writeln!(out, "profile  {name}: {state}{}", reason.map_or(String::new(), |r| format!(", {r}")));
        remarks(profile, &mut out);
    }
    out
}

/// What there is to do about a profile, also about one that is ready.
fn remarks(profile: &Value, out: &mut String) {
    let text = |name: &str| profile.get(name).and_then(Value::as_str);
    if let (Some(meaning), Some(remedy)) = (text("meaning"), text("remedy")) {
        let _ = writeln!(out, "           means: {meaning}\n           next:  {remedy}");
    }
    let missing = profile.get("missing_roles").and_then(Value::as_array).into_iter().flatten();
    let missing: Vec<_> = missing.filter_map(Value::as_str).collect();
    if !missing.is_empty() {
        let _ =
            writeln!(out, "           its token lacks {} (keybearer doctor tells more)", missing.join(", "));
    }
    let skew = profile.get("clock_skew_s").and_then(Value::as_i64).unwrap_or(0);
    if skew.unsigned_abs() > skew::WARN.as_secs() {
        let words = diagnosis::of_clock_skew(skew);
        let _ = writeln!(out, "           {} by {} s", words.meaning, skew.unsigned_abs());
    }
}
