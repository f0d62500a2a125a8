//! The owner: the one task that fetches a profile's tokens.
//!
//! Its loop has no way out but being aborted: errors only change how long it waits.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;

use crate::{
    clock,
    profile::{Grant, Identity, refusal::ExchangeError},
    token::{Exchange, Phase, Shared, Token, Turns, schedule},
};

/// How often a secret's source is looked at between exchanges.
const SOURCE_CHECK: Duration = Duration::from_secs(2);

/// Fetches, waits, fetches again, until aborted.
pub(super) async fn run(shared: Arc<Shared>, exchange: impl Exchange, turns: Turns) {
    let mut failures = 0u32;
    loop {
        let claims = begin(&shared);
        let asked_with = exchange.identity();
        let outcome = {
            let _turn = turns.0.acquire().await;
            exchange.exchange(claims.as_deref()).await
        };
        let next = match outcome {
            Ok(grant) => {
                failures = 0;
                publish(&shared, grant)
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                let pause = fail(&shared, error, failures);
                keep_claims(&shared, claims);
                Some(pause)
            }
        };
        wait(&shared, &exchange, asked_with, next).await;
    }
}

/// Takes what has been ordered so far; what is ordered later is for the next round.
fn begin(shared: &Shared) -> Option<String> {
    let mut orders = shared.orders();
    orders.refresh = false;
    shared.status.send_modify(|status| status.phase = Phase::Fetching);
    orders.claims.take()
}

/// Claims that an upstream demanded are asked for until there is a token with them.
fn keep_claims(shared: &Shared, claims: Option<String>) {
    let mut orders = shared.orders();
    if orders.claims.is_none() {
        orders.claims = claims;
    }
}

/// Makes a grant the current token. Gives the time to refresh it, or `None` for one not to be kept.
fn publish(shared: &Shared, grant: Grant) -> Option<Duration> {
    let now = clock::now();
    let generation = shared.status.borrow().latest.as_ref().map_or(0, |token| token.generation) + 1;
    let keep = !grant.lifetime.is_zero();
    let expires = grant.asked_at.after(grant.lifetime);
    let token =
        Arc::new(Token { generation, header: grant.header(), obtained: now, expires, for_one_use: !keep });
    shared.refreshed.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(
        profile = shared.settings.profile.name,
        generation,
        lifetime_s = grant.lifetime.as_secs(),
        "token obtained"
    );
    fulfil(shared);
    shared.current.store(keep.then(|| Arc::clone(&token)));
    shared.status.send_modify(|status| {
        status.rounds += 1;
        status.latest = Some(token);
        status.phase = if keep { Phase::Ready } else { Phase::Idle };
    });
    let refresh = schedule::refresh_after(grant.lifetime, grant.refresh_in, fastrand::f64());
    keep.then(|| grant.asked_at.after(refresh).since(now))
}

/// An order that came in while an exchange was on its way was about an older token, so the exchange
/// has fulfilled it, unless it demanded claims that were not asked for.
fn fulfil(shared: &Shared) {
    let mut orders = shared.orders();
    orders.refresh = orders.claims.is_some();
}

/// Tells everyone who waits why there is no token. Gives the time until the next attempt.
fn fail(shared: &Shared, error: ExchangeError, failures: u32) -> Duration {
    let now = clock::now();
    let token_left = shared.current.load().as_ref().map_or(Duration::ZERO, |token| token.left(now));
    let failure = schedule::Failure {
        class: error.class(),
        in_a_row: failures,
        retry_after: error.retry_after(),
        token_left,
    };
    let pause = schedule::pause(failure, fastrand::f64());
    shared.failed.fetch_add(1, Ordering::Relaxed);
    fulfil(shared);
    tracing::warn!(
        profile = shared.settings.profile.name,
        failures,
        next_attempt_s = pause.as_secs(),
        token_left_s = token_left.as_secs(),
        "no token: {error}"
    );
    let error = Arc::new(error);
    shared.status.send_modify(|status| {
        status.rounds += 1;
        status.phase = Phase::Failed { error, retry_at: now.after(pause) };
    });
    pause
}

/// Waits for the next reason to fetch: it is time, a 401 was reported, a request needs a token that
/// is not there, or the secret in its source has changed.
async fn wait(
    shared: &Shared,
    exchange: &impl Exchange,
    asked_with: Option<Identity>,
    next: Option<Duration>,
) {
    // Without a next time only demand ends the wait; a day stands for "never" and harms nobody.
    let due = Instant::now() + next.unwrap_or(Duration::from_secs(86_400));
    let mut check = tokio::time::interval_at(Instant::now() + SOURCE_CHECK, SOURCE_CHECK);
    check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // Nothing is lost with the branches that are dropped: they are a timer, a permit and a tick.
        tokio::select! {
            () = tokio::time::sleep_until(due) => return,
            () = shared.wake.notified() => {
                if shared.orders().refresh || is_demanded(shared) {
                    return;
                }
            }
            _ = check.tick() => {
                let now = exchange.identity();
                if now.is_some() && now != asked_with {
                    tracing::info!(profile = shared.settings.profile.name, "the secret has changed");
                    return;
                }
            }
        }
    }
}

/// Whether somebody waits for a token and asking for it is allowed now.
fn is_demanded(shared: &Shared) -> bool {
    let missing = !shared.current.load().as_ref().is_some_and(|token| token.is_valid());
    let allowed = match &shared.status.borrow().phase {
        // After a suspend the boot clock knows of time that the timer has slept through.
        Phase::Failed { retry_at, .. } => *retry_at <= clock::now(),
        Phase::Idle | Phase::Fetching | Phase::Ready => true,
    };
    missing && allowed
}
