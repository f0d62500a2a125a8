//! Tokens: one owner per profile fetches, everyone else reads or waits.
//!
//! [`start`] spawns the owner (a task of the control plane) and gives the [`Handle`] that requests
//! use: [`Handle::current`] is a lock-free read, [`Handle::acquire`] waits when there is no token, and
//! [`Handle::replace`] and [`Handle::reject`] say that an upstream answered 401 to one generation.
//! A request never fetches, so a caller that hangs up cancels nothing.
//!
//! What a token store shared by replicas would need is here and only here: [`Exchange`] is where one
//! would be put in between.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use crate::{
    clock::{self, Moment},
    profile::{
        self, Grant, Identity, Profile,
        certificate::Presented,
        credential::{Ready, Slot},
        expiry::Expiry,
        refusal::ExchangeError,
    },
    telemetry::trace::{Link, Traces},
    token::{
        state::{Report, Shared},
        waiting::Waiting,
    },
};

mod current;
mod fetch;
pub mod notes;
mod owner;
pub mod schedule;
mod state;
pub mod view;
mod waiting;

pub use current::Current;

/// Requests that may wait for one profile's token at a time, unless the settings say otherwise.
pub const WAITERS_MAX: usize = 10_000;
/// Token requests in flight at a time, all profiles of a provider together: a start with a thousand
/// profiles must not look like an attack.
const EXCHANGES_MAX: usize = 16;

/// What the owner of a profile is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The service account.
    pub profile: profile::Settings,
    /// Whether readiness waits for this profile's token.
    pub required: bool,
    /// How readily 401s cause refreshes.
    pub recovery: Recovery,
    /// Requests that may wait for the token at a time.
    pub waiters_max: usize,
    /// Further profiles, by name, whose credentials go on the same requests.
    pub also: Vec<String>,
}

/// Damping of refreshes that 401s cause: an upstream that always answers 401 must not turn every
/// request into a token request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// A younger token is not refreshed for a 401: the fault is not its age.
    pub min_token_age: Duration,
    /// The least time between two refreshes that 401s caused.
    pub min_interval: Duration,
}

impl Recovery {
    /// For a secret that only has to be read again, which harms no provider. A source may cost something,
    /// so an upstream that always answers 401 does not cause one reading per request.
    pub const STATIC: Self = Self { min_token_age: Duration::ZERO, min_interval: Duration::from_secs(1) };
}

impl Default for Recovery {
    fn default() -> Self {
        Self { min_token_age: Duration::from_secs(5), min_interval: Duration::from_secs(30) }
    }
}

/// The seam between owner and identity provider. The product has one implementation, [`Profile`].
pub trait Exchange: Send + Sync + 'static {
    /// Asks once, with these claims (OpenID Connect §5.5 JSON) if an upstream demanded some.
    fn exchange(&self, claims: Option<&str>) -> impl Future<Output = Result<Grant, ExchangeError>> + Send;

    /// The identity that a token asked for now would have; `None` when it cannot be told.
    fn identity(&self) -> impl Future<Output = Option<Identity>> + Send;

    /// The certificate that upstreams are to be shown, if tokens are bound to one.
    fn presented(&self) -> Option<Arc<Presented>> {
        None
    }

    /// Seconds that the provider's clock was ahead of this machine's at its last answer, when known.
    fn clock_skew(&self) -> Option<i64> {
        None
    }

    /// When what the account proves itself with expires, as far as that is known by now.
    fn expiries(&self) -> Vec<Expiry> {
        Vec::new()
    }

    /// The provider, in a word that says nothing secret.
    fn provider(&self) -> String {
        String::new()
    }
}

impl Exchange for Profile {
    fn exchange(&self, claims: Option<&str>) -> impl Future<Output = Result<Grant, ExchangeError>> + Send {
        Profile::exchange(self, claims)
    }

    async fn identity(&self) -> Option<Identity> {
        Profile::identity(self).await.ok()
    }

    fn presented(&self) -> Option<Arc<Presented>> {
        Profile::presented(self)
    }

    fn clock_skew(&self) -> Option<i64> {
        Profile::clock_skew(self)
    }

    fn expiries(&self) -> Vec<Expiry> {
        Profile::expiries(self)
    }

    fn provider(&self) -> String {
        Profile::provider(self)
    }
}

/// A token with its place in the profile's history.
#[derive(Debug)]
pub struct Token {
    generation: u64,
    ready: Ready,
    obtained: Moment,
    expires: Moment,
    /// The provider gave it no life worth the name: it serves those who waited for it, nobody else.
    for_one_use: bool,
    /// The round that gave it, see [`state::Status`].
    round: u64,
    /// The span of the exchange that gave it, if spans are kept.
    fetch: Option<Link>,
}

impl Token {
    /// Counts the profile's tokens from 1. A 401 is reported by generation, so that a thousand 401s to
    /// one token are one report.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What goes on requests.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Life left at `now`.
    pub fn left(&self, now: Moment) -> Duration {
        self.expires.since(now)
    }

    /// When it must not leave any more. `None` for one that serves only those who waited for it: its
    /// provider has not said when that is.
    pub fn expires(&self) -> Option<Moment> {
        (!self.for_one_use).then_some(self.expires)
    }

    /// How long it has been here.
    pub fn age(&self) -> Duration {
        clock::now().since(self.obtained)
    }

    /// The span of the exchange that gave it, if spans are kept.
    pub fn fetch(&self) -> Option<Link> {
        self.fetch
    }

    fn is_valid(&self) -> bool {
        self.expires > clock::now()
    }
}

/// Why a request gets no token.
#[derive(Clone, Debug)]
pub struct Unavailable {
    /// When asking again makes sense.
    pub retry_after: Duration,
    /// What happened.
    pub reason: Reason,
    /// The span of the exchange that failed, if spans are kept. Boxed, so that a failure stays small.
    pub fetch: Option<Box<Link>>,
}

impl Unavailable {
    /// It did not come in time; it may at any moment.
    pub fn timed_out() -> Self {
        Self { retry_after: Duration::from_secs(1), reason: Reason::TimedOut, fetch: None }
    }
}

/// See [`Unavailable`].
#[derive(Clone, Debug)]
pub enum Reason {
    /// The last exchange failed; everyone who waited for it shares its error.
    Failed(Arc<ExchangeError>),
    /// The wait was longer than the limit.
    TimedOut,
    /// [`Settings::waiters_max`] requests wait already.
    TooManyWaiters,
}

/// Why a 401 causes no refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suppressed {
    /// The token is younger than [`Recovery::min_token_age`].
    Young,
    /// A 401 caused a refresh less than [`Recovery::min_interval`] ago.
    Recent,
    /// A refresh for this very token has failed and is due again later.
    Failing,
}

/// What [`Handle::replace`] could not do.
#[derive(Clone, Debug)]
pub enum NotReplaced {
    /// No refresh was started.
    Suppressed(Suppressed),
    /// The refresh gave no token.
    Unavailable(Unavailable),
}

/// Limits how many owners ask at the same time. One per provider: a provider that hangs must not hold
/// up the profiles of another.
#[derive(Clone)]
pub struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(EXCHANGES_MAX)))
    }
}

/// Spawns the owner of a profile on the current runtime; it asks for the first token at once.
///
/// The owner ends when the last handle is dropped.
pub fn start(settings: Settings, exchange: impl Exchange, turns: Turns, traces: Arc<Traces>) -> Handle {
    let shared = Arc::new(Shared::new(settings));
    let presented = exchange.presented();
    let owner = tokio::spawn(owner::run(Arc::clone(&shared), exchange, turns, traces));
    Handle(Arc::new(Inner { shared, owner: owner.abort_handle(), presented }))
}

struct Inner {
    shared: Arc<Shared>,
    owner: tokio::task::AbortHandle,
    presented: Option<Arc<Presented>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.owner.abort();
    }
}

/// What requests hold of a profile. Cheap to clone.
#[derive(Clone)]
pub struct Handle(Arc<Inner>);

impl Handle {
    /// The profile's name.
    pub fn name(&self) -> &str {
        &self.0.shared.settings.profile.name
    }

    /// The certificate that upstreams are to be shown, if tokens are bound to one.
    pub fn presented(&self) -> Option<&Arc<Presented>> {
        self.0.presented.as_ref()
    }

    /// Where on a request its credential goes.
    pub fn slots(&self) -> Vec<Slot> {
        self.0.shared.settings.profile.kind.slots()
    }

    /// Further profiles, by name, whose credentials go on the same requests.
    pub fn also(&self) -> &[String] {
        &self.0.shared.settings.also
    }

    /// How long a request waits for a token: one token request, and some for its turn.
    pub fn patience(&self) -> Duration {
        self.0.shared.settings.profile.timeout + Duration::from_secs(5)
    }

    /// The token to use now, unless there is none or it has expired. Lock-free.
    pub fn current(&self) -> Option<Current> {
        let guard = self.0.shared.current.load();
        guard.as_ref().is_some_and(|token| token.is_valid()).then_some(Current(guard))
    }

    /// The token to use, waiting at most `patience` when there is none.
    ///
    /// # Errors
    /// [`Unavailable`], at once when the last exchange failed and the next one is not due.
    pub async fn acquire(&self, patience: Duration) -> Result<Arc<Token>, Unavailable> {
        match self.current() {
            Some(current) => Ok(current.arc()),
            None => self.settle(patience, 0).await,
        }
    }

    /// Like [`Handle::acquire`], but for a request that cannot be sent twice: when the current token
    /// has been rejected and its successor is on the way, it waits for that.
    ///
    /// # Errors
    /// [`Unavailable`] when there is no token at all; a failed refresh gives the old one.
    pub async fn acquire_unrejected(&self, patience: Duration) -> Result<Arc<Token>, Unavailable> {
        let Some(current) = self.current() else { return self.settle(patience, 0).await };
        let current = current.arc();
        if !self.0.shared.is_being_replaced(&current) {
            return Ok(current);
        }
        match self.settle(patience, current.generation).await {
            // It may have expired during the wait.
            Err(_) if current.is_valid() => Ok(current),
            settled => settled,
        }
    }

    /// Reports a 401 to the token of `generation` and gives the next one, waiting at most `patience` for it.
    ///
    /// Of any number of reports about one generation one causes a refresh; all get its outcome.
    ///
    /// # Errors
    /// [`NotReplaced`]; the caller then gets the 401.
    pub async fn replace(
        &self,
        generation: u64,
        claims: Option<String>,
        patience: Duration,
    ) -> Result<Arc<Token>, NotReplaced> {
        match self.0.shared.report(generation, claims) {
            Report::Newer(next) => Ok(next),
            Report::Suppressed(why) => Err(NotReplaced::Suppressed(why)),
            Report::Refreshing { after } => {
                self.settle(patience, after).await.map_err(NotReplaced::Unavailable)
            }
        }
    }

    /// Reports a 401 to the token of `generation` without waiting: the next request gets a fresh one.
    pub fn reject(&self, generation: u64, claims: Option<String>) -> Option<Suppressed> {
        match self.0.shared.report(generation, claims) {
            Report::Suppressed(why) => Some(why),
            Report::Newer(_) | Report::Refreshing { .. } => None,
        }
    }

    /// Has a token fetched now, whatever there is, and waits for it: for an operator who has just changed
    /// something at the identity provider. The limits on 401s do not hold for people.
    ///
    /// # Errors
    /// [`Unavailable`]; the current token, if any, goes on to be used.
    pub async fn renew(&self, patience: Duration) -> Result<(), Unavailable> {
        let shared = &self.0.shared;
        let after = shared.order();
        self.settle(patience, after).await.map(drop)
    }

    /// Whether the profile can serve requests: it has a token, or tokens that are not kept.
    pub fn is_ready(&self) -> bool {
        self.current().is_some() || self.0.shared.status.borrow().gives_tokens_for_one_use()
    }

    /// Waits until a token newer than `generation` is there, or the exchange that could give one
    /// has failed.
    async fn settle(&self, patience: Duration, generation: u64) -> Result<Arc<Token>, Unavailable> {
        let shared = &self.0.shared;
        let _waiting = Waiting::enter(&shared.waiters, shared.settings.waiters_max)?;
        let mut wait = shared.demand(generation);
        // Dropping the wait leaves the exchange running: it belongs to the owner.
        tokio::time::timeout(patience, wait.outcome()).await.unwrap_or_else(|_| Err(Unavailable::timed_out()))
    }
}

#[cfg(test)]
mod tests;
