//! Phase 4: the tokens that go on a request.

use crate::{
    proxy::{
        credentials::Credentials,
        fault::{Fault, Overload},
        record::Record,
        worker::RouteState,
    },
    token::{Reason, Unavailable},
};

/// How often the tokens of several profiles are waited for, when one expires while another is.
const ROUNDS_MAX: usize = 3;

/// The current token of the route's profile, and those that go with it; `None` where none goes on the request.
/// One that `may_be_refused` is not waited for.
///
/// # Errors
/// [`Fault`] when a profile has none.
pub(super) async fn credentials(
    route: &RouteState,
    may_be_refused: bool,
    record: &mut Record,
) -> Result<Option<Credentials>, Fault> {
    if route.profile().is_none() {
        return Ok(None);
    }
    match route.current_credentials() {
        Some(current) if may_be_refused => Ok(Some(current)),
        // A body that can be sent once only is not risked on a token that is being replaced.
        _ => Ok(Some(Box::pin(acquire(route, record)).await?)),
    }
}

/// What takes the place of credentials that have expired since they were taken.
///
/// # Errors
/// [`Fault`] when a profile has none.
pub(super) async fn successors(route: &RouteState, record: &mut Record) -> Result<Credentials, Fault> {
    match route.current_credentials() {
        Some(current) => Ok(current),
        None => acquire(route, record).await,
    }
}

/// Waits for the tokens of all of a route's profiles.
async fn acquire(route: &RouteState, record: &mut Record) -> Result<Credentials, Fault> {
    for _ in 0..ROUNDS_MAX {
        let mut tokens = Vec::with_capacity(1);
        for profile in route.profile().into_iter().chain(route.also()) {
            match profile.acquire_unrejected(profile.patience()).await {
                Ok(token) => {
                    record.got(&token);
                    tokens.push(token);
                }
                Err(why) => {
                    record.got_none(&why);
                    return Err(unavailable(profile.name(), why));
                }
            }
        }
        let (own, others) = tokens.split_first().ok_or(Fault::Internal)?;
        let credentials = Credentials::of(own, others).ok_or(Fault::Internal)?;
        // The first may have expired while the last was waited for.
        if !credentials.have_expired() {
            return Ok(credentials);
        }
    }
    let name = route.profile().map(|profile| profile.name().to_owned()).unwrap_or_default();
    Err(Fault::TokenUnavailable(name, Unavailable::timed_out()))
}

fn unavailable(profile: &str, unavailable: Unavailable) -> Fault {
    match unavailable.reason {
        Reason::TooManyWaiters => Fault::Overloaded(Overload::Waiters(profile.to_owned())),
        _ => Fault::TokenUnavailable(profile.to_owned(), unavailable),
    }
}
