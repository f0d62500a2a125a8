//! The steps of the tour, in the order in which a person meets the troubles.
//!
//! Each one says why it matters, does something to the scene, asks as the daemon would, and checks
//! the answer and the counters. A step that cannot be carried out has failed; the next one is tried.

use std::{io::Write, time::Duration};

use anyhow::Context;
use tokio::time::Instant;

use super::{
    answer::Answer,
    page::Page,
    stage::{ACCESS, HOUR, ORDERS, ORDERS_ROLE, REPORTS, REPORTS_ROLE, Stage},
};
use crate::token::view::View;

/// A life short enough to be waited for, and long enough for a step of the tour on a slow machine.
const SHORT: Duration = Duration::from_secs(6);
/// More than any wait of the tour takes: the life of a token, or the longest pause of its owner.
const WAIT_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

/// Walks through all steps.
///
/// # Errors
/// When the page cannot be written.
pub(super) async fn walk<W: Write>(stage: &Stage, page: &mut Page<W>) -> anyhow::Result<Vec<u16>> {
    let mut tour = Tour { stage, page, carried: Vec::new() };
    let outcome = tour.alone().await;
    tour.end_step(outcome)?;
    let outcome = tour.carried().await;
    tour.end_step(outcome)?;
    let outcome = tour.revoked().await;
    tour.end_step(outcome)?;
    let outcome = tour.provider_down().await;
    tour.end_step(outcome)?;
    let outcome = tour.expired().await;
    tour.end_step(outcome)?;
    let outcome = tour.provider_back().await;
    tour.end_step(outcome)?;
    let outcome = tour.other_account().await;
    tour.end_step(outcome)?;
    Ok(tour.carried)
}

struct Tour<'a, W> {
    stage: &'a Stage,
    page: &'a mut Page<W>,
    /// The statuses that the daemon got from the gateway.
    carried: Vec<u16>,
}

/// What provider and API have counted at one moment.
#[derive(Clone, Copy)]
struct Counts {
    tokens: u64,
    requests: u64,
    unauthorized: u64,
}

impl Counts {
    fn since(self, before: Counts) -> Counts {
        Counts {
            tokens: self.tokens - before.tokens,
            requests: self.requests - before.requests,
            unauthorized: self.unauthorized - before.unauthorized,
        }
    }

    fn found(self) -> String {
        let Counts { tokens, requests, unauthorized } = self;
        format!("{tokens} tokens issued, {requests} requests and {unauthorized} 401s at the API")
    }
}

impl<W: Write> Tour<'_, W> {
    async fn alone(&mut self) -> anyhow::Result<()> {
        self.page.step(
            "The daemon alone is refused",
            "The Web API has begun to demand tokens. The daemon has never heard of them, and nobody is \
             going to change it.",
        )?;
        let url = format!("{}/v1/orders", self.stage.api.url());
        let answer = self.ask(&url).await?;
        let is_refused = answer.status() == 401 && answer.header("www-authenticate").is_some();
        self.check("the API refuses the request with 401 and asks for a token", is_refused, &answer)
    }

    async fn carried(&mut self) -> anyhow::Result<()> {
        self.page.step(
            "Through the gateway the same request is served",
            "All that changed for the daemon is its base URL. The gateway has a service account, has got a \
             token for it, and puts it on the request.",
        )?;
        let before = self.counts();
        let answer = self.ask_gateway("/v1/orders").await?;
        if let Some(length) = self.last_token().map(|token| token.len()) {
            let value = format!("Bearer eyJ… ({length} bytes, not shown)");
            self.page.waited(&format!("what the gateway added: authorization: {value}"))?;
        }
        self.check("the daemon gets 200", answer.status() == 200, &answer)?;
        let saw = answer.account() == ORDERS && answer.has_role(ORDERS_ROLE) && answer.has_role(ACCESS);
        self.check(&format!("the API saw the account {ORDERS} with the role {ORDERS_ROLE}"), saw, &answer)?;
        let counts = self.counts().since(before);
        let told = "the token was there already: this request caused no token request";
        self.count(told, counts.tokens == 0 && counts.requests == 1, counts)
    }

    async fn revoked(&mut self) -> anyhow::Result<()> {
        self.page.step(
            "A revoked token is replaced while the daemon waits",
            "A token can die before its time. On a 401 the gateway gets one fresh token and sends the \
             request again; the daemon notices nothing.",
        )?;
        let token = self.last_token().context("no token has been seen, so none can be revoked")?;
        self.stage.idp.set_lifetime(SHORT);
        self.stage.idp.revoke(&token);
        let seconds = SHORT.as_secs();
        self.page.action(&format!(
            "the token is revoked; new ones live {seconds} seconds, so that nobody has to wait an hour later"
        ))?;
        let before = self.counts();
        let answer = self.ask_gateway("/v1/orders").await?;
        let counts = self.counts().since(before);
        self.check("the daemon gets 200", answer.status() == 200, &answer)?;
        let was_sent_twice = counts.requests == 2 && counts.unauthorized == 1;
        self.count("the API saw the request twice: one 401, then one 200", was_sent_twice, counts)?;
        self.count("exactly one new token was issued", counts.tokens == 1, counts)
    }

    async fn provider_down(&mut self) -> anyhow::Result<()> {
        self.page.step(
            "The identity provider goes down, requests go on",
            "Requests only ever read the token that the gateway holds. A refresh that fails in the \
             background does not spoil a token that is still good.",
        )?;
        let failed_before = self.stage.profile(ORDERS)?.failed;
        let before = self.counts();
        self.stage.idp.go_down().await?;
        self.page.action("the identity provider is gone: connections to it are refused")?;
        let answer = self.ask_gateway("/v1/orders").await?;
        self.check("200, with the token that is at hand", answer.status() == 200, &answer)?;
        let waited = self
            .wait(|view| {
                let left = seconds_of(view.expires_in);
                (view.failed == failed_before)
                    .then(|| format!("the token has {left} s left, the gateway will soon try to refresh it"))
            })
            .await?;
        let left = self.stage.profile(ORDERS)?.expires_in.unwrap_or_default().as_secs_f64();
        self.page
            .waited(&format!("{waited:.1} s later a refresh has failed; the token has {left:.1} s left"))?;
        let answer = self.ask_gateway("/v1/orders").await?;
        self.check("still 200, although the refresh has failed", answer.status() == 200, &answer)?;
        let counts = self.counts().since(before);
        self.count("no new token, no 401", counts.tokens == 0 && counts.unauthorized == 0, counts)
    }

    async fn expired(&mut self) -> anyhow::Result<()> {
        self.page.step(
            "The token ends, and the gateway says so",
            "Without a token it sends nothing to the API. The daemon gets an answer that no one takes for \
             the API's, with the time after which asking again makes sense.",
        )?;
        let waited = self
            .wait(|view| {
                let left = seconds_of(Some(view.expires_in?));
                Some(format!("the token has {left} s left"))
            })
            .await?;
        self.page.waited(&format!("{waited:.1} s later the token has ended"))?;
        let before = self.counts();
        let answer = self.ask_gateway("/v1/orders").await?;
        let is_clear = answer.status() == 503 && answer.code() == "token_unavailable";
        self.check("503 with the code token_unavailable", is_clear, &answer)?;
        let seconds = answer.header("retry-after").and_then(|value| value.parse::<u64>().ok());
        self.check("Retry-After says when to ask again", seconds.is_some_and(|s| s > 0), &answer)?;
        let counts = self.counts().since(before);
        self.count("the API was not bothered", counts.requests == 0, counts)?;
        let answer = self.ask(&format!("{}/readyz", self.stage.admin_url())).await?;
        self.check("the readiness check names the account and the reason", answer.status() == 503, &answer)
    }

    async fn provider_back(&mut self) -> anyhow::Result<()> {
        self.page.step(
            "The identity provider comes back",
            "The gateway has never stopped trying, at growing intervals. Nobody has to restart anything.",
        )?;
        let before = self.counts();
        self.stage.idp.set_lifetime(HOUR);
        self.stage.idp.come_back().await?;
        self.page.action("the identity provider is back; its tokens live an hour again")?;
        let waited =
            self.wait(|view| (!view.ready).then(|| "the gateway's next attempt is near".to_owned())).await?;
        self.page.waited(&format!("{waited:.1} s later the gateway has a token"))?;
        let answer = self.ask_gateway("/v1/orders").await?;
        self.check("200 again", answer.status() == 200, &answer)?;
        let counts = self.counts().since(before);
        self.count("one token request was enough", counts.tokens == 1 && counts.unauthorized == 0, counts)
    }

    async fn other_account(&mut self) -> anyhow::Result<()> {
        self.page.step(
            "Another route, another account",
            "Each route has its own service account, so each daemon gets the rights that it needs and no \
             more. The API tells them apart.",
        )?;
        let before = self.counts();
        let answer = self.ask_gateway("/v1/reports").await?;
        self.check("the daemon gets 200", answer.status() == 200, &answer)?;
        let saw = answer.account() == REPORTS && answer.has_role(REPORTS_ROLE);
        let told = format!("the API saw the account {REPORTS} with the role {REPORTS_ROLE}");
        self.check(&told, saw && !answer.has_role(ORDERS_ROLE), &answer)?;
        let counts = self.counts().since(before);
        let generation = self.stage.profile(REPORTS)?.generation;
        let told = "with its first token: what befell the other account did not touch it";
        self.count(told, generation == 1 && counts.tokens == 0, counts)
    }

    /// A request straight to `url`.
    async fn ask(&mut self, url: &str) -> anyhow::Result<Answer> {
        self.page.request(&format!("curl -i {url}"))?;
        let answer = self.stage.get(url).await?;
        self.page.answer(&answer)?;
        Ok(answer)
    }

    async fn ask_gateway(&mut self, path: &str) -> anyhow::Result<Answer> {
        let answer = self.ask(&format!("{}{path}", self.stage.gateway_url())).await?;
        self.carried.push(answer.status());
        Ok(answer)
    }

    /// Waits until `pending` has nothing to say about the first account; gives the seconds it took.
    async fn wait(&mut self, pending: impl Fn(&View) -> Option<String>) -> anyhow::Result<f64> {
        let start = Instant::now();
        while let Some(what) = pending(&self.stage.profile(ORDERS)?) {
            anyhow::ensure!(start.elapsed() < WAIT_LIMIT, "after {WAIT_LIMIT:?} still: {what}");
            self.page.progress(&what)?;
            tokio::time::sleep(POLL).await;
        }
        Ok(start.elapsed().as_secs_f64())
    }

    fn check(&mut self, told: &str, is_so: bool, answer: &Answer) -> anyhow::Result<()> {
        Ok(self.page.check(told, is_so, &format!("the answer was {}", answer.status_line()))?)
    }

    fn count(&mut self, told: &str, is_so: bool, counts: Counts) -> anyhow::Result<()> {
        Ok(self.page.check(told, is_so, &counts.found())?)
    }

    /// A step that broke off has failed. Fails itself only when the page cannot be written.
    fn end_step(&mut self, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
        if let Err(error) = outcome {
            self.page.check("the step can be carried out", false, &format!("{error:#}"))?;
        }
        Ok(())
    }

    fn counts(&self) -> Counts {
        let Stage { idp, api, .. } = self.stage;
        Counts { tokens: idp.issued(), requests: api.requests(), unauthorized: api.unauthorized() }
    }

    fn last_token(&self) -> Option<String> {
        Some(self.stage.api.last()?.token()?.to_owned())
    }
}

/// Whole seconds, rounded up: nobody says that a token with half a second has none.
fn seconds_of(span: Option<Duration>) -> u64 {
    let span = span.unwrap_or_default();
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}
