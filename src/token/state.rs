//! What the owner and the requests of a profile share, and every change of it.
//!
//! Requests run on other threads than the owner. Whoever changes [`Status`] or decides by more than
//! one part of [`Shared`] holds [`Orders`] meanwhile, so that reports, waits and outcomes of exchanges
//! have one order: an outcome either answers a report or comes before it, never half of each.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};

use crate::{
    clock::{self, Moment},
    profile::{expiry::Expiry, refusal::ExchangeError},
    telemetry::{metrics::Latency, trace::Link},
    token::{
        Reason, Settings, Suppressed, Token, Unavailable, notes::Notes, schedule::Pauses, waiting::Wait,
    },
};

/// What the owner is doing, for those who wait.
#[derive(Clone)]
pub(super) enum Phase {
    /// No exchange is on its way or due: the last token was for one use only.
    Idle,
    /// An exchange is on its way or ordered.
    Fetching,
    Ready,
    Failed {
        error: Arc<ExchangeError>,
        retry_at: Moment,
        /// Not before, even when it turns out that the token in use is refused.
        soonest: Moment,
        /// The exchange's span.
        fetch: Option<Link>,
    },
}

#[derive(Clone)]
pub(super) struct Status {
    pub(super) phase: Phase,
    /// Why the last exchange failed that has ended, if it did; also while the next is on its way.
    pub(super) error: Option<Arc<ExchangeError>>,
    /// Exchanges that have ended.
    rounds: u64,
    /// What the last successful exchange gave, also when it may not be kept.
    latest: Option<Arc<Token>>,
}

impl Status {
    /// Whether there is no token now because the provider's tokens may not be kept.
    pub(super) fn gives_tokens_for_one_use(&self) -> bool {
        let is_working = matches!(self.phase, Phase::Idle | Phase::Fetching);
        is_working && self.latest.as_ref().is_some_and(|token| token.for_one_use)
    }

    fn generation(&self) -> u64 {
        self.latest.as_ref().map_or(0, |token| token.generation)
    }

    /// What somebody who began to wait in round `asked_in` for a token after `generation` gets now.
    pub(super) fn outcome(&self, generation: u64, asked_in: u64) -> Option<Result<Arc<Token>, Unavailable>> {
        if let Some(token) = &self.latest
            && token.generation > generation
            && if token.for_one_use { token.round > asked_in } else { token.is_valid() }
        {
            return Some(Ok(Arc::clone(token)));
        }
        match &self.phase {
            Phase::Failed { error, retry_at, fetch, .. } => {
                let (retry_after, fetch) = (retry_at.since(clock::now()), fetch.map(Box::new));
                (!retry_after.is_zero()).then(|| {
                    Err(Unavailable { retry_after, reason: Reason::Failed(Arc::clone(error)), fetch })
                })
            }
            Phase::Idle | Phase::Fetching | Phase::Ready => None,
        }
    }
}

/// What has been asked of the owner since it last began an exchange.
#[derive(Default)]
struct Orders {
    /// A 401 wants an exchange, whatever the schedule says.
    refresh: bool,
    /// Somebody waits for a token.
    demanded: bool,
    /// What the next exchange is to ask for.
    claims: Option<String>,
    /// The exchange that is on its way.
    flight: Option<Flight>,
    /// The youngest generation that was rejected.
    rejected: u64,
    /// When a 401 last caused an exchange.
    rejected_at: Option<Moment>,
    /// By when a 401 wants the attempt that follows a failure.
    due_by: Option<Moment>,
}

struct Flight {
    claims: Option<String>,
}

impl Orders {
    /// The generation after which a report is answered that an exchange on its way or ordered
    /// already answers; `None` if it takes another one.
    fn joined(&self, status: &Status, generation: u64, claims: Option<&String>) -> Option<u64> {
        if claims.is_none() {
            return matches!(status.phase, Phase::Fetching).then_some(generation);
        }
        if self.flight.as_ref().is_some_and(|flight| flight.claims.as_ref() == claims) {
            return Some(generation);
        }
        (self.claims.as_ref() == claims).then(|| self.next(status, generation))
    }

    /// The generation before the one that an exchange ordered now will give.
    fn next(&self, status: &Status, generation: u64) -> u64 {
        if self.flight.is_some() { status.generation() + 1 } else { generation }
    }
}

/// How a 401 was taken.
pub(super) enum Report {
    /// There is a newer token already.
    Newer(Arc<Token>),
    /// The token that answers the report comes after this generation.
    Refreshing {
        after: u64,
    },
    Suppressed(Suppressed),
}

pub(super) struct Shared {
    /// Of all that there have been.
    pub(super) id: u64,
    pub(super) settings: Settings,
    pub(super) current: ArcSwapOption<Token>,
    pub(super) status: watch::Sender<Status>,
    pub(super) wake: Notify,
    pub(super) waiters: AtomicUsize,
    pub(super) refreshed: AtomicU64,
    pub(super) failed: AtomicU64,
    /// How long token requests took; only the owner adds to it.
    pub(super) latency: Latency,
    /// When the next exchange is due by itself.
    pub(super) due: Mutex<Option<Moment>>,
    orders: Mutex<Orders>,
    notes: Mutex<Notes>,
    expiries: Mutex<Vec<Expiry>>,
}

impl Shared {
    pub(super) fn new(settings: Settings) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let status = Status { phase: Phase::Fetching, error: None, rounds: 0, latest: None };
        Self {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            settings,
            current: ArcSwapOption::empty(),
            status: watch::Sender::new(status),
            wake: Notify::new(),
            waiters: AtomicUsize::new(0),
            refreshed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            latency: Latency::default(),
            due: Mutex::default(),
            orders: Mutex::default(),
            notes: Mutex::default(),
            expiries: Mutex::default(),
        }
    }

    /// When what the account proves itself with expires, as far as that is known.
    pub(super) fn expiries(&self) -> Vec<Expiry> {
        self.expiries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_expiries(&self, expiries: Vec<Expiry>) {
        *self.expiries.lock().unwrap_or_else(PoisonError::into_inner) = expiries;
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For those who look: when the owner asks next by itself.
    pub(super) fn is_due_at(&self, due: Option<Moment>) {
        *self.due.lock().unwrap_or_else(PoisonError::into_inner) = due;
    }

    /// What there is to say beside whether it works.
    pub(super) fn notes(&self) -> Notes {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut Notes)) {
        change(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn is_valid(&self) -> bool {
        self.current.load().as_ref().is_some_and(|token| token.is_valid())
    }

    /// Nobody waits for this phase, so nobody of ten thousand is woken.
    fn fetching(&self) {
        self.status.send_if_modified(|status| {
            status.phase = Phase::Fetching;
            false
        });
    }

    /// Whether `token` was rejected and its successor is on the way.
    pub(super) fn is_being_replaced(&self, token: &Token) -> bool {
        // Looked at first, because it is seldom true and the lock is one for all workers.
        let is_fetching = matches!(self.status.borrow().phase, Phase::Fetching);
        is_fetching && self.orders().rejected >= token.generation
    }

    /// Takes a report of a 401 to the token of `generation`.
    pub(super) fn report(&self, generation: u64, claims: Option<String>) -> Report {
        let mut orders = self.orders();
        let current = self.current.load();
        if let Some(next) = current.as_ref().filter(|t| t.is_valid() && t.generation > generation) {
            return Report::Newer(Arc::clone(next));
        }
        let status = self.status.borrow().clone();
        let now = clock::now();
        let damped = self.damped(&orders, &status, claims.is_some());
        if let Phase::Failed { retry_at, soonest, .. } = status.phase {
            // The provider's wait and our own back-off hold for 401s too: they end with an exchange. Only
            // what was added because there is a good token does not, when it is none.
            orders.rejected = orders.rejected.max(generation);
            if soonest >= retry_at || damped.is_some() {
                return Report::Suppressed(Suppressed::Failing);
            }
            if now < soonest {
                self.bring_forward(orders, soonest);
                return Report::Suppressed(Suppressed::Failing);
            }
        } else if let Some(after) = orders.joined(&status, generation, claims.as_ref()) {
            orders.rejected = orders.rejected.max(generation);
            return Report::Refreshing { after };
        }
        if let Some(why) = damped {
            return Report::Suppressed(why);
        }
        let after = orders.next(&status, generation);
        orders.rejected = orders.rejected.max(generation);
        orders.rejected_at = Some(now);
        orders.refresh = true;
        if claims.is_some() {
            orders.claims = claims;
        }
        self.fetching();
        drop(orders);
        self.wake.notify_one();
        Report::Refreshing { after }
    }

    /// Why a 401 causes no refresh now. A demand for claims says nothing about the token's age.
    fn damped(&self, orders: &Orders, status: &Status, has_claims: bool) -> Option<Suppressed> {
        let (now, recovery) = (clock::now(), self.settings.recovery);
        let age = status.latest.as_ref().map(|token| now.since(token.obtained));
        if !has_claims && age.is_some_and(|age| age < recovery.min_token_age) {
            return Some(Suppressed::Young);
        }
        let is_recent = orders.rejected_at.is_some_and(|at| now.since(at) < recovery.min_interval);
        is_recent.then_some(Suppressed::Recent)
    }

    /// A 401 wants the attempt that follows a failure `at` this moment.
    fn bring_forward(&self, mut orders: MutexGuard<'_, Orders>, at: Moment) {
        orders.rejected_at = Some(clock::now());
        orders.due_by = Some(at);
        self.status.send_if_modified(|status| {
            if let Phase::Failed { retry_at, .. } = &mut status.phase {
                *retry_at = at;
            }
            // As in `fetching`: nobody waits for it.
            false
        });
        self.wake.notify_one();
    }

    /// When the next exchange is due that was to be `by`.
    pub(super) fn due(&self, by: Moment) -> Moment {
        self.orders().due_by.map_or(by, |sooner| sooner.min(by))
    }

    /// Orders an exchange, whatever there is. Gives the generation after which its token comes.
    pub(super) fn order(&self) -> u64 {
        let mut orders = self.orders();
        let status = self.status.borrow().clone();
        let after = orders.next(&status, status.generation());
        orders.refresh = true;
        self.fetching();
        drop(orders);
        self.wake.notify_one();
        after
    }

    /// Asks for a token after `generation`, unless there is one or the answer is no already.
    pub(super) fn demand(&self, generation: u64) -> Wait {
        let mut orders = self.orders();
        let status = self.status.subscribe();
        let asked_in = status.borrow().rounds;
        if status.borrow().outcome(generation, asked_in).is_none() {
            orders.demanded = true;
            drop(orders);
            self.wake.notify_one();
        }
        Wait { status, generation, asked_in }
    }

    /// Whether an exchange is wanted before its time.
    pub(super) fn is_wanted(&self, may_be_demanded: bool) -> bool {
        let orders = self.orders();
        orders.refresh || (may_be_demanded && orders.demanded && !self.is_valid())
    }

    /// An exchange begins. It takes what has been ordered so far; what is ordered later is for the next.
    pub(super) fn begin(&self) -> Option<String> {
        let mut orders = self.orders();
        orders.refresh = false;
        orders.due_by = None;
        let claims = orders.claims.take();
        orders.flight = Some(Flight { claims: claims.clone() });
        self.fetching();
        claims
    }

    /// The exchange gave a token, which `make` makes from its generation and its round. With `may_stay` a
    /// current token goes on that is valid, was not rejected, and would give way to one for one use only.
    pub(super) fn publish(&self, may_stay: bool, make: impl FnOnce(u64, u64) -> Token) -> Arc<Token> {
        let mut orders = self.orders();
        orders.flight = None;
        orders.demanded = false;
        self.refreshed.fetch_add(1, Ordering::Relaxed);
        let (generation, round) = {
            let status = self.status.borrow();
            (status.generation() + 1, status.rounds + 1)
        };
        let token = Arc::new(make(generation, round));
        let keep = !token.for_one_use;
        let stays = |old: &Arc<Token>| may_stay && old.is_valid() && orders.rejected < old.generation;
        if keep || !self.current.load().as_ref().is_some_and(stays) {
            self.current.store(keep.then(|| Arc::clone(&token)));
        }
        self.status.send_modify(|status| {
            status.rounds = round;
            status.error = None;
            status.latest = Some(Arc::clone(&token));
            status.phase = if keep { Phase::Ready } else { Phase::Idle };
        });
        token
    }

    /// The exchange gave none, as is known since `now`. With `keep_claims` the next one asks for the same claims.
    /// Gives when that is.
    pub(super) fn fail(
        &self,
        now: Moment,
        error: ExchangeError,
        pauses: Pauses,
        keep_claims: bool,
        fetch: Option<Link>,
    ) -> Moment {
        let mut orders = self.orders();
        let flight = orders.flight.take();
        orders.refresh = false;
        orders.demanded = false;
        if keep_claims && orders.claims.is_none() {
            orders.claims = flight.and_then(|flight| flight.claims);
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
        let is_refused =
            self.current.load().as_ref().is_some_and(|token| orders.rejected >= token.generation);
        let soonest = now.after(pauses.refused);
        let retry_at = if is_refused { soonest } else { now.after(pauses.usual) };
        let error = Arc::new(error);
        self.status.send_modify(|status| {
            status.rounds += 1;
            status.error = Some(Arc::clone(&error));
            status.phase = Phase::Failed { error, retry_at, soonest, fetch };
        });
        retry_at
    }
}
