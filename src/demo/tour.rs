//! The narrated tour of `keybearer demo`: what goes wrong between a daemon and a Web API that wants
//! tokens, and what the gateway makes of it.
//!
//! Everything runs in this process on loopback. No token and no secret is ever printed.

mod answer;
mod folder;
mod page;
mod stage;
mod steps;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

use page::{Page, Screen, Verdict};
use stage::{ACCESS, ORDERS, REPORTS, Stage};

/// Runs the tour; unless `once`, everything runs on until the person has tried enough.
///
/// Gives success when every step came out as told.
///
/// # Errors
/// When a part of the scene cannot be started, or standard output cannot be written.
pub fn run(once: bool) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match runtime.block_on(show(once)) {
        // A reader who has seen enough, such as `head`; the rest of the tour was not shown to be good.
        Err(error) if is_closed_pipe(&error) => Ok(ExitCode::FAILURE),
        outcome => outcome,
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

async fn show(once: bool) -> anyhow::Result<ExitCode> {
    let mut stop = Stop::new()?;
    let mut page = Page::new(io::stdout(), Screen::of_stdout());
    let secrets = [stage::new_secret()?, stage::new_secret()?];
    let stage = Stage::build(&secrets).await?;
    // Dropping the tour half-way leaves only the page unfinished: what it did it did to the stage.
    let toured = tokio::select! {
        toured = tour(&stage, &mut page) => Some(toured?),
        () = stop.asked() => None,
    };
    let Some(is_as_told) = toured else {
        page.conclusion("the tour was stopped before its end", false)?;
        stage.stop().await?;
        return Ok(ExitCode::FAILURE);
    };
    if !once {
        invite(&stage, &mut page)?;
        stop.asked().await;
        page.line("")?;
    }
    stage.stop().await?;
    if !once {
        page.line("Everything has stopped, and the secrets are gone.")?;
    }
    Ok(if is_as_told { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The signals that end the demo.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> anyhow::Result<Stop> {
        let listen = |kind| signal(kind).context("signals cannot be received");
        Ok(Stop { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        // Both branches only wait.
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The whole tour on one page. Tells whether every step came out as told.
async fn tour<W: Write>(stage: &Stage, page: &mut Page<W>) -> anyhow::Result<bool> {
    let start = Instant::now();
    introduce(stage, page)?;
    let carried = steps::walk(stage, page).await?;
    sum_up(stage, page, &carried, start)?;
    conclude(page)
}

fn introduce<W: Write>(stage: &Stage, page: &mut Page<W>) -> anyhow::Result<()> {
    page.heading("Keybearer carries tokens for programs that cannot")?;
    page.text("Everything here runs in this process, on loopback. Nothing leaves this machine.")?;
    page.line("")?;
    page.listing(
        "daemon ───────▶ gateway ───────▶ Web API
                   │
                   ╰───▶ identity provider",
    )?;
    page.line("")?;
    page.field("gateway", &format!("{}   this is Keybearer", stage.gateway_url()))?;
    let demand = format!("{}   demands a token with the role {ACCESS}", stage.api.url());
    page.field("Web API", &demand)?;
    page.field("identity provider", &format!("{}   shaped like Entra ID", stage.idp.url()))?;
    page.heading("The gateway's whole configuration")?;
    page.listing(&stage.yaml)?;
    Ok(())
}

fn sum_up<W: Write>(
    stage: &Stage,
    page: &mut Page<W>,
    carried: &[u16],
    start: Instant,
) -> anyhow::Result<()> {
    let times = |status: u16| carried.iter().filter(|s| **s == status).count();
    let (served, waiting, refused) = (times(200), times(503), times(401));
    let (orders, reports) = (stage.profile(ORDERS)?.refreshed, stage.profile(REPORTS)?.refreshed);
    page.heading("In numbers")?;
    let requests = format!("{} through the gateway: {served} served, {waiting} told to wait", carried.len());
    page.field("requests", &requests)?;
    let unauthorized = stage.api.unauthorized();
    page.field("401s", &format!("{unauthorized} given by the API, {refused} passed on by the gateway"))?;
    let total = stage.idp.requests();
    page.field("token requests", &format!("{total}: {orders} for {ORDERS}, {reports} for {REPORTS}"))?;
    page.field(
        "time",
        &format!("{:.1} s, most of it waiting for a token to end", start.elapsed().as_secs_f64()),
    )?;
    page.line("")?;
    Ok(())
}

fn conclude<W: Write>(page: &mut Page<W>) -> anyhow::Result<bool> {
    let steps = page.verdicts().len();
    let failed: Vec<String> = page
        .verdicts()
        .iter()
        .enumerate()
        .filter(|(_, verdict)| !verdict.is_as_told())
        .map(|(index, Verdict { title, failures, .. })| {
            format!("step {} \"{title}\": {}", index + 1, failures.join("; "))
        })
        .collect();
    for step in &failed {
        page.conclusion(step, false)?;
    }
    if failed.is_empty() {
        page.conclusion(&format!("All {steps} steps came out as told."), true)?;
    }
    Ok(failed.is_empty())
}

/// What a person can try while everything runs on.
fn invite<W: Write>(stage: &Stage, page: &mut Page<W>) -> anyhow::Result<()> {
    let (gateway, api, admin) = (stage.gateway_url(), stage.api.url(), stage.admin_url());
    page.heading("Everything runs on. Try it:")?;
    let tries = [
        ("with a token, as the daemon got it", format!("curl -i {gateway}/v1/orders")),
        ("a body goes through as it is", format!("curl -i -d item=anvil {gateway}/v1/orders")),
        ("another account", format!("curl -i {gateway}/v1/reports")),
        (
            "a credential of the caller is taken off",
            format!("curl -i -H 'Authorization: Bearer mine' {gateway}/v1/orders"),
        ),
        ("no route: nothing is forwarded", format!("curl -i {gateway}/v1/salaries")),
        ("the API itself, without a token", format!("curl -i {api}/v1/orders")),
        ("is the gateway ready?", format!("curl {admin}/readyz")),
        ("what has it counted?", format!("curl {admin}/metrics")),
    ];
    for (what, command) in tries {
        page.text(what)?;
        page.request(&command)?;
    }
    page.line("")?;
    page.text(&format!("The status page, for a browser: {admin}/"))?;
    page.text("Ctrl-C stops everything.")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_step_of_the_tour_comes_out_as_told_and_shows_no_credential() {
        let secrets = [stage::new_secret().unwrap(), stage::new_secret().unwrap()];
        let stage = Stage::build(&secrets).await.unwrap();
        let mut page = Page::new(Vec::new(), Screen::default());

        let is_as_told = tour(&stage, &mut page).await.unwrap();
        invite(&stage, &mut page).unwrap();

        let steps = page.verdicts().len();
        let shown = String::from_utf8(page.into_inner()).unwrap();
        assert!(is_as_told, "{shown}");
        assert_eq!(steps, 7);
        let tokens: Vec<String> =
            stage.api.history().iter().filter_map(|seen| Some(seen.token()?.to_owned())).collect();
        assert!(tokens.len() > 5, "the API saw tokens");
        // Header, claims and signature are each as good as nothing alone, and still not shown.
        let parts = tokens.iter().flat_map(|token| token.split('.'));
        for hidden in parts.chain(secrets.iter().map(|secret| secret.expose())) {
            assert!(hidden.len() > 20 && !shown.contains(hidden), "a credential is shown:\n{shown}");
        }
        stage.stop().await.unwrap();
    }
}
