//! The owner: the one task that fetches a profile's tokens.
//!
//! Its loop has no way out but being aborted: errors only change how long it waits.

use std::{
    future::{Future, pending},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use crate::{
    clock::{self, Moment},
    profile::{
        self, Grant, Identity,
        expiry::Expiry,
        refusal::{Class, ExchangeError},
    },
    telemetry::trace::{Link, Traces},
    token::{
        Exchange, Token, Turns,
        fetch::Fetch,
        notes::{self, Clocks},
        schedule,
        state::Shared,
    },
};

/// How often a secret's source is looked at between exchanges.
const SOURCE_CHECK: Duration = Duration::from_secs(2);
/// The least time between two exchanges that a changed secret caused: a source that gives something
/// else each time it is read must not become a token request every two seconds.
const SOURCE_SPACING: Duration = Duration::from_secs(10);
/// A shorter life is none: refreshing such a token in time would be a loop without a pause.
const LIFE_MIN: Duration = Duration::from_secs(1);
/// The least time between two exchanges for tokens that may not be kept, however great the demand:
/// who comes in between shares the next.
const ONE_USE_SPACING: Duration = Duration::from_secs(1);
/// The least time between two exchanges while an older token is used, because newer ones may not be kept.
const OLDER_SPACING: Duration = Duration::from_secs(30);
/// So long an exchange waits to learn which secret it is made with: only what tells of changes needs that.
const SOURCE_PATIENCE: Duration = Duration::from_secs(3);
/// How often somebody is told that a secret will expire.
const EXPIRY_WARNINGS: Duration = Duration::from_secs(86_400);
/// Stands for "never, unless somebody asks" and harms nobody.
const NEVER: Duration = Duration::from_secs(86_400);
/// Claims are asked for so often, then without: an upstream's wish must not cost everyone the token.
const CLAIMS_FAILURES_MAX: u32 = 3;

/// Fetches, waits, fetches again, until aborted.
pub(super) async fn run(shared: Arc<Shared>, exchange: impl Exchange, turns: Turns, traces: Arc<Traces>) {
    let (mut failures, mut clocks) = (Failures::default(), Clocks::default());
    let mut source = SourceWatch::new(&exchange, &shared.settings.profile);
    let mut ends = ExpiryWatch::default();
    loop {
        let claims = shared.begin();
        source.asked_with = source.identity().await;
        let (outcome, fetch) = {
            let _turn = turns.0.acquire().await;
            let (began, fetch) = (tokio::time::Instant::now(), Fetch::begin(&traces));
            let outcome = exchange.exchange(claims.as_deref()).await.and_then(alive);
            shared.latency.observe(began.elapsed());
            let link = fetch.as_ref().map(Fetch::link);
            if let Some(fetch) = fetch {
                fetch.end(&shared.settings.profile.name, exchange.provider(), &outcome);
            }
            (outcome, link)
        };
        clocks.compare(&shared, exchange.clock_skew());
        shared.set_expiries(exchange.expiries());
        let next = match outcome {
            Ok(grant) => {
                failures = Failures::default();
                let may_stay = source.keeps(grant.lifetime >= LIFE_MIN);
                publish(&shared, &grant, fetch, may_stay)
            }
            Err(error) => {
                source.has_failed();
                failures.add(error.class());
                fail(&shared, error, &failures, fetch)
            }
        };
        wait(&shared, &mut source, &mut ends, next).await;
        shared.is_due_at(None);
    }
}

/// Failures since the last token.
#[derive(Default)]
struct Failures {
    all: u32,
    /// Each class has a pace of its own: an outage must not slow down what follows it. And what is asked again
    /// with a wrong secret goes on slowing down, whatever fails in between.
    of_class: [u32; Class::ALL.len()],
}

impl Failures {
    fn add(&mut self, class: Class) {
        self.all = self.all.saturating_add(1);
        let counts = self.of_class.iter_mut().zip(Class::ALL);
        counts.filter(|(_, of)| *of == class).for_each(|(count, _)| *count = count.saturating_add(1));
    }

    fn of(&self, class: Class) -> u32 {
        let counts = self.of_class.iter().zip(Class::ALL);
        counts.filter(|(_, of)| *of == class).map(|(count, _)| *count).sum()
    }
}

/// A token that died on its way is none. Taken for one, nobody could use it, and it would be due for
/// a refresh at once, again and again.
fn alive(grant: Grant) -> Result<Grant, ExchangeError> {
    let is_dead = end(&grant) <= clock::now();
    if grant.lifetime >= LIFE_MIN && is_dead {
        let what = "its token's life was over before it arrived";
        return Err(ExchangeError::Unusable { status: 200, what });
    }
    Ok(grant)
}

/// When a token is no longer used.
fn end(grant: &Grant) -> Moment {
    grant.asked_at.after(grant.lifetime.saturating_sub(schedule::in_transit(grant.lifetime)))
}

/// When to begin the next exchange.
struct Next {
    /// By itself.
    due: Moment,
    /// From here on because a request needs a token and there is none.
    demand_from: Moment,
    /// From here on because the secret has changed.
    change_from: Moment,
}

/// Makes a grant the current token. With `may_stay`, one that has life left does not give way to one without.
fn publish(shared: &Shared, grant: &Grant, fetch: Option<Link>, may_stay: bool) -> Next {
    let now = clock::now();
    let for_one_use = grant.lifetime < LIFE_MIN;
    let token = shared.publish(may_stay, |generation, round| Token {
        generation,
        ready: grant.credential.ready(),
        obtained: now,
        expires: end(grant),
        for_one_use,
        round,
        fetch,
    });
    tracing::debug!(
        profile = shared.settings.profile.name,
        generation = token.generation,
        lifetime_s = grant.lifetime.as_secs(),
        "token obtained"
    );
    notes::look_at(shared, grant, token.generation);
    let refresh = schedule::refresh_after(grant.lifetime, grant.refresh_in, fastrand::f64());
    let older = shared.current.load().as_ref().filter(|_| for_one_use).map(|older| older.left(now));
    let due = match older {
        // It goes on, and the provider may think better of it before its end.
        Some(left) => now.after((left / 2).max(OLDER_SPACING)),
        None => grant.asked_at.after(if for_one_use { NEVER } else { refresh }),
    };
    Next { due, demand_from: grant.asked_at.after(ONE_USE_SPACING), change_from: now }
}

/// Tells everyone who waits why there is no token.
fn fail(shared: &Shared, error: ExchangeError, failures: &Failures, fetch: Option<Link>) -> Next {
    let now = clock::now();
    let token_left = shared.current.load().as_ref().map_or(Duration::ZERO, |token| token.left(now));
    let (class, wait) = (error.class(), error.retry_after());
    // A place of secrets that asks for patience keeps that itself; another place may have what is needed.
    let wait_of_provider = wait.filter(|_| !error.is_of_source()).unwrap_or_default();
    let failure = schedule::Failure { class, count: failures.of(class), retry_after: wait, token_left };
    let pauses = schedule::pauses(failure, fastrand::f64());
    let words = error.explained().to_string();
    // A refusal may be about the claims; anything else is not.
    let is_refused = matches!(class, Class::Permanent | Class::Eventual);
    let retry_at = shared.fail(now, error, pauses, !is_refused && failures.all <= CLAIMS_FAILURES_MAX, fetch);
    let until = retry_at.since(now);
    tracing::warn!(
        profile = shared.settings.profile.name,
        failures = failures.all,
        // Rounded up: 0 would say that it is made at once.
        next_attempt_s = until.as_secs() + u64::from(until.subsec_nanos() > 0),
        token_left_s = token_left.as_secs(),
        "no token: {words}",
    );
    // A new secret ends our own back-off, but not the wait that the provider asked for.
    Next { due: retry_at, demand_from: retry_at, change_from: now.after(wait_of_provider) }
}

/// Waits for the next reason to fetch: it is time, a 401 was reported, a request needs a token that
/// is not there, or the secret in its source has changed.
///
/// Deadlines are on the boot clock. The timers sleep through a suspend; the check of the source wakes
/// the loop soon after it.
async fn wait(
    shared: &Shared,
    source: &mut SourceWatch<'_, impl Exchange>,
    ends: &mut ExpiryWatch,
    next: Next,
) {
    let mut check = tokio::time::interval_at(tokio::time::Instant::now() + SOURCE_CHECK, SOURCE_CHECK);
    check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ends.look(shared);
        let (now, due) = (clock::now(), shared.due(next.due));
        if now >= due || shared.is_wanted(now >= next.demand_from) {
            return;
        }
        shared.is_due_at(Some(due));
        let until = if now < next.demand_from { next.demand_from.min(due) } else { due };
        // Nothing is lost with the branches that are dropped: they are a timer, a permit, a tick, and a
        // reading that goes on. All that a permit tells is to look again.
        tokio::select! {
            () = tokio::time::sleep(until.since(now)) => {}
            () = shared.wake.notified() => {}
            _ = check.tick() => {
                if clock::now() >= next.change_from {
                    source.look();
                }
            }
            identity = source.told() => {
                // A reading may have begun long ago. What comes too early is read again at a later look.
                if clock::now() >= next.change_from && source.is_changed_to(identity) {
                    tracing::info!(profile = shared.settings.profile.name, "the secret has changed");
                    return;
                }
            }
        }
    }
}

/// Warns of secrets and certificates that will expire: at once, daily, and when they are other ones.
#[derive(Default)]
struct ExpiryWatch {
    told: Vec<Expiry>,
    told_at: Option<Moment>,
}

impl ExpiryWatch {
    fn look(&mut self, shared: &Shared) {
        let known = shared.expiries();
        let is_due = self.told_at.is_none_or(|at| clock::now().since(at) >= EXPIRY_WARNINGS);
        if !is_due && known == self.told {
            return;
        }
        for words in known.iter().filter_map(|expiry| expiry.warning(clock::wall())) {
            tracing::warn!(profile = shared.settings.profile.name, "{words}");
        }
        (self.told, self.told_at) = (known, Some(clock::now()));
    }
}

/// Notices that a token asked for now would be another one.
///
/// A file system may hang for hours. So a reading is never waited for without a limit, and there is one at
/// a time: each holds a thread.
struct SourceWatch<'a, E> {
    exchange: &'a E,
    profile: &'a str,
    patience: Duration,
    asked_with: Option<Identity>,
    /// What the source gave last. Stands in where nobody knows what was asked with, as the source is slow: else
    /// each of its answers would look like a change.
    known: Option<Identity>,
    /// There was nothing in the source to ask with, or nothing that could be read.
    had_none: bool,
    /// What the token that was kept last was asked for with.
    kept_with: Option<Identity>,
    changed_at: Option<Moment>,
    reading: Option<Reading<'a>>,
    is_slow: bool,
}

/// A look at the source that is under way.
struct Reading<'a> {
    began: Moment,
    identity: Pin<Box<dyn Future<Output = Option<Identity>> + Send + 'a>>,
}

impl<'a, E: Exchange> SourceWatch<'a, E> {
    fn new(exchange: &'a E, profile: &'a profile::Settings) -> Self {
        Self {
            exchange,
            profile: &profile.name,
            patience: SOURCE_PATIENCE.min(profile.timeout),
            asked_with: None,
            known: None,
            had_none: false,
            kept_with: None,
            changed_at: None,
            reading: None,
            is_slow: false,
        }
    }

    /// The identity of a token that is asked for now; `None` too when that is not known in time.
    async fn identity(&mut self) -> Option<Identity> {
        self.read();
        self.had_none = false;
        match tokio::time::timeout(self.patience, self.told()).await {
            Ok(identity) => {
                self.had_none = identity.is_none();
                self.known = identity.or(self.known);
                identity
            }
            Err(_) => {
                self.is_late();
                None
            }
        }
    }

    /// The exchange failed. If it had nothing to ask with, whatever comes into the source is a change, also
    /// what there was before.
    fn has_failed(&mut self) {
        if self.had_none {
            self.known = None;
        }
    }

    /// Looks whether the secret is another one, unless that was so a moment ago.
    fn look(&mut self) {
        let now = clock::now();
        if self.reading.as_ref().is_some_and(|reading| now.since(reading.began) >= self.patience) {
            self.is_late();
        }
        if self.may_change(now) {
            self.read();
        }
    }

    fn may_change(&self, now: Moment) -> bool {
        self.changed_at.is_none_or(|at| now.since(at) >= SOURCE_SPACING)
    }

    fn read(&mut self) {
        let exchange = self.exchange;
        let begin = || Reading { began: clock::now(), identity: Box::pin(exchange.identity()) };
        self.reading.get_or_insert_with(begin);
    }

    fn is_late(&mut self) {
        if !std::mem::replace(&mut self.is_slow, true) {
            let (profile, waited_s) = (self.profile, self.patience.as_secs());
            tracing::warn!(profile, waited_s, "the secret's source hangs, a new secret in it goes unnoticed");
        }
    }

    /// What the reading under way gives; without one it does not end. Dropped, the reading goes on.
    async fn told(&mut self) -> Option<Identity> {
        let Some(reading) = &mut self.reading else { return pending().await };
        let identity = reading.identity.as_mut().await;
        self.reading = None;
        if std::mem::take(&mut self.is_slow) {
            tracing::info!(profile = self.profile, "the secret's source hangs no longer");
        }
        identity
    }

    fn is_changed_to(&mut self, identity: Option<Identity>) -> bool {
        let now = clock::now();
        if identity.is_none() || !self.may_change(now) {
            return false;
        }
        let has_changed = identity != self.asked_with.or(self.known);
        self.known = identity;
        if has_changed {
            self.changed_at = Some(now);
        }
        has_changed
    }

    /// A token has come, which `is_kept` or not. Gives whether the one that was kept before is of the same
    /// secret.
    fn keeps(&mut self, is_kept: bool) -> bool {
        let is_same = self.kept_with == self.asked_with;
        if is_kept {
            self.kept_with = self.asked_with;
        }
        is_same
    }
}
