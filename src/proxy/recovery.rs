//! What becomes of an upstream's 401: the second attempt, or the reason why there is none.
//!
//! The first 401 is kept until the second attempt has a response head. Whenever there is no better
//! answer the caller gets that 401 unchanged, body included.

use crate::{
    proxy::{
        attempt::{Exchange, Sent},
        challenge::{self, Demand},
        credentials::Credentials,
        record::Record,
        worker::RouteState,
    },
    replay::NotReplayable,
    token::{Handle, NotReplaced, Suppressed},
};

mod first;

use first::First;

/// What became of a 401 that an upstream gave to our credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The second attempt was answered with something else than 401.
    Recovered,
    /// The second attempt got 401 as well.
    SecondRefused,
    /// The challenge says that another token would not help.
    NotAskedFor,
    /// The token was too young to be at fault.
    SuppressedYoung,
    /// A 401 caused a refresh a moment ago.
    SuppressedRecent,
    /// No fresh token could be had.
    NoFreshToken,
    /// The second attempt could not be made.
    SecondFailed,
    /// Replay is off for the route.
    ReplayOff,
    /// The body is over the replay limit.
    BodyOverLimit,
    /// The memory for recorded bodies is spent.
    BudgetSpent,
    /// The caller's body broke off.
    BodyBroken,
    /// What could be had is what was refused.
    SameCredential,
    /// The same token was taken with the upstream's nonce in the proof of it.
    Nonce,
    /// The caller left before there was a better answer.
    Abandoned,
}

/// Number of outcomes.
pub const OUTCOMES: usize = 14;

/// Label values for metrics and logs, in the order of [`Outcome`].
pub const OUTCOME_NAMES: [&str; OUTCOMES] = [
    "recovered",
    "second_refused",
    "not_asked_for",
    "suppressed_young",
    "suppressed_recent",
    "no_fresh_token",
    "second_failed",
    "replay_off",
    "body_over_limit",
    "budget_spent",
    "body_broken",
    "same_credential",
    "nonce",
    "abandoned",
];

impl Outcome {
    /// The label value.
    pub fn name(self) -> &'static str {
        OUTCOME_NAMES.get(self as usize).copied().unwrap_or_default()
    }

    /// What became of the 401, for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Recovered => "the upstream refused the token; a fresh one was taken",
            Self::SecondRefused => "the upstream refused a fresh token as well: look at the account's rights",
            Self::NotAskedFor => "the upstream's challenge says that another token would not help",
            Self::SuppressedYoung => "the upstream refused a token that had only just been obtained",
            Self::SuppressedRecent => {
                "the upstream refused the token, which was renewed for a 401 a moment ago"
            }
            Self::NoFreshToken => "the upstream refused the token, and no fresh one could be had",
            Self::SecondFailed => "the request could not be sent again with a fresh token",
            Self::ReplayOff => "replay is off for the route",
            Self::BodyOverLimit => "the request's body is over the replay limit",
            Self::BudgetSpent => "the memory for replays is spent",
            Self::BodyBroken => "the caller's body broke off",
            Self::SameCredential => "the credential that could be had is the one that was refused",
            Self::Nonce => "the same token was taken with the upstream's nonce",
            Self::Abandoned => {
                "the upstream refused the token, and the caller left before a fresh one was taken"
            }
        }
    }
}

/// What comes of a 401 for the next request, when this one cannot be sent again.
#[derive(Clone, Copy)]
enum Next {
    Renewed,
    NotRenewed(Suppressed),
    /// The upstream wants its nonce in the proof, and it is known now.
    Nonce,
}

impl Next {
    fn words(self) -> &'static str {
        match self {
            Self::Renewed => "the token is renewed for the next request",
            Self::NotRenewed(Suppressed::Young) => {
                "the upstream refused a token that had only just been obtained, so it is not renewed"
            }
            Self::NotRenewed(Suppressed::Recent) => {
                "the upstream refused the token, which was renewed for a 401 a moment ago and is not again"
            }
            Self::NotRenewed(Suppressed::Failing) => {
                "the upstream refused the token, and no fresh one could be had a moment ago"
            }
            Self::Nonce => "the next request has the upstream's nonce",
        }
    }
}

/// Answers a 401: with a second attempt's response if that is better, else with `first`.
pub async fn recover(
    exchange: &mut Exchange,
    route: &RouteState,
    mut refused: Credentials,
    first: Sent,
    record: &mut Record,
) -> Sent {
    let first = match challenge::demand(first.response.headers(), refused.is_bound()) {
        Demand::Nonce => match with_nonce(exchange, &mut refused, first, record).await {
            Ok(answered) => return answered,
            Err(refused_again) => refused_again,
        },
        _ => first,
    };
    let claims = match challenge::demand(first.response.headers(), refused.is_bound()) {
        Demand::Refresh => None,
        // Whoever wants an API key or a password may call it anything.
        Demand::OtherScheme if !refused.is_bearer() && !refused.is_bound() => None,
        Demand::Claims(claims) => Some(claims),
        Demand::Nonce => return kept(first, Outcome::SecondRefused, record),
        Demand::Scope | Demand::OtherScheme => return kept(first, Outcome::NotAskedFor, record),
    };
    if let Err(why) = exchange.is_replayable() {
        // The next request shall have a fresh token, even if this one cannot.
        let next = reject(route, &refused, claims).map_or(Next::Renewed, Next::NotRenewed);
        return unrepeated(first, why, next, record);
    }
    let mut first = First::of(exchange, first);
    record.recovering();
    match first.keep_while(replace(route, &refused, claims, record)).await {
        // Sending the same once more would get the same answer, and look like an attack.
        Ok(fresh) if fresh.is_same(&refused) => first.stands(Outcome::SameCredential, record),
        Ok(fresh) => second(exchange, fresh, first, record).await,
        Err(why) => first.stands(of_token(&why), record),
    }
}

/// The same token once more, now that the upstream's nonce is known. This says nothing about the token: an
/// answer that refuses it is an error, and is treated like the first.
async fn with_nonce(
    exchange: &mut Exchange,
    credentials: &mut Credentials,
    first: Sent,
    record: &mut Record,
) -> Result<Sent, Sent> {
    if let Err(why) = exchange.is_replayable() {
        return Ok(unrepeated(first, why, Next::Nonce, record));
    }
    let mut first = First::of(exchange, first);
    record.recovering();
    first.keep_while(std::future::ready(())).await;
    match exchange.send(Some(credentials), record).await {
        Ok(second) if exchange.is_refused(&second) => {
            first.discard();
            Err(second)
        }
        Ok(second) => {
            if let Some(body) = exchange.body() {
                body.settle();
            }
            record.recovered(Outcome::Nonce);
            first.discard();
            Ok(second)
        }
        Err(fault) => Ok(first.fails(&fault, record)),
    }
}

/// All of a route's profiles, with the generations of their refused tokens. Claims are for the first.
fn reported<'a>(
    route: &'a RouteState,
    refused: &'a Credentials,
    claims: Option<String>,
) -> impl Iterator<Item = (&'a Handle, u64, Option<String>)> {
    let own = route.profile().map(|profile| (profile, refused.generation(), claims));
    let others = route.also().iter().zip(refused.generations_of_others());
    own.into_iter().chain(others.map(|(profile, generation)| (profile, *generation, None)))
}

/// Why none of them is renewed, if that is so.
fn reject(route: &RouteState, refused: &Credentials, claims: Option<String>) -> Option<Suppressed> {
    let (mut is_renewed, mut why) = (false, None);
    for (profile, generation, claims) in reported(route, refused, claims) {
        match profile.reject(generation, claims) {
            None => is_renewed = true,
            suppressed => why = why.or(suppressed),
        }
    }
    why.filter(|_| !is_renewed)
}

/// What takes the place of `refused`: nobody knows which of several credentials was meant, so all are
/// asked for anew. One that cannot be had stays, as long as another one changes.
async fn replace(
    route: &RouteState,
    refused: &Credentials,
    claims: Option<String>,
    record: &mut Record,
) -> Result<Credentials, NotReplaced> {
    let (mut tokens, mut failed) = (Vec::with_capacity(1), None);
    for (profile, generation, claims) in reported(route, refused, claims) {
        match profile.replace(generation, claims, profile.patience()).await {
            Ok(token) => {
                record.got(&token);
                tokens.push(token);
            }
            Err(why) => {
                if let NotReplaced::Unavailable(unavailable) = &why {
                    record.got_none(unavailable);
                }
                if let Some(current) = profile.current() {
                    tokens.push(current.arc());
                }
                failed.get_or_insert(why);
            }
        }
    }
    let fresh = tokens.split_first().and_then(|(own, others)| Credentials::of(own, others));
    match (fresh, failed) {
        (Some(fresh), None) => Ok(fresh),
        (Some(fresh), Some(_)) if tokens.len() == 1 + route.also().len() && !fresh.is_same(refused) => {
            Ok(fresh)
        }
        (_, Some(why)) => Err(why),
        (None, None) => Ok(refused.clone()),
    }
}

async fn second(exchange: &mut Exchange, mut fresh: Credentials, first: First, record: &mut Record) -> Sent {
    match exchange.send(Some(&mut fresh), record).await {
        Ok(second) => {
            if let Some(body) = exchange.body() {
                body.settle();
            }
            let is_refused = exchange.is_refused(&second);
            record.recovered(if is_refused { Outcome::SecondRefused } else { Outcome::Recovered });
            first.discard();
            second
        }
        Err(fault) => first.fails(&fault, record),
    }
}

fn kept(first: Sent, outcome: Outcome, record: &mut Record) -> Sent {
    record.recovered(outcome);
    settled(first)
}

/// It is the answer: what was kept for a further attempt can go.
fn settled(sent: Sent) -> Sent {
    if let Some(body) = &sent.upload {
        body.settle();
    }
    sent
}

/// The request cannot be sent again. Says why, and what comes of the 401 all the same.
fn unrepeated(first: Sent, why: NotReplayable, next: Next, record: &mut Record) -> Sent {
    let outcome = of_body(why);
    record.recovered_as(outcome, format!("{}; {}", next.words(), outcome.words()));
    settled(first)
}

fn of_body(why: NotReplayable) -> Outcome {
    match why {
        NotReplayable::Off => Outcome::ReplayOff,
        NotReplayable::OverLimit => Outcome::BodyOverLimit,
        NotReplayable::BudgetSpent => Outcome::BudgetSpent,
        NotReplayable::Broken => Outcome::BodyBroken,
    }
}

fn of_token(why: &NotReplaced) -> Outcome {
    match why {
        NotReplaced::Suppressed(Suppressed::Young) => Outcome::SuppressedYoung,
        NotReplaced::Suppressed(Suppressed::Recent) => Outcome::SuppressedRecent,
        NotReplaced::Suppressed(Suppressed::Failing) | NotReplaced::Unavailable(_) => Outcome::NoFreshToken,
    }
}
