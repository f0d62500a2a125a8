//! A token that somebody else has made, and renews all the time: what a workload proves itself with.

use std::sync::{Mutex, PoisonError};

use crate::{
    clock,
    profile::{
        authentication::{ProofError, expiry, token_in},
        refusal::ExchangeError,
    },
    secret::{Fingerprint, Secret},
    source::{Kept, Source, budget::Budget},
};

/// The token of a workload, as it is read again and again.
#[derive(Default)]
pub(super) struct Foreign {
    /// The last one that could be read.
    kept: Kept<Secret>,
    noticed: Mutex<Noticed>,
}

/// What tells a renewal that matters from those that do not.
#[derive(Default)]
struct Noticed {
    /// The one that the provider has refused.
    refused: Option<Fingerprint>,
    /// The first one after a refused one. It stays until the next of its kind: looking twice must not find two
    /// changes.
    since: Option<Fingerprint>,
}

impl Foreign {
    /// The token as it is now, and what is wrong with a newer one that was passed over.
    ///
    /// # Errors
    /// When there is none, or it has expired.
    pub(super) async fn read(
        &self,
        source: &Source,
        budget: &Budget,
    ) -> Result<(Secret, Option<ExchangeError>), ExchangeError> {
        let has_last = self.kept.last().is_some();
        let read = budget.read(source, has_last, source.read_document()).await.map_err(ExchangeError::from);
        let read = read.and_then(|bytes| Ok(token_in(&bytes, source)?));
        let (token, flaw) = self.kept.or_last(read)?;
        match expiry(token.expose()).filter(|at| *at <= clock::wall()) {
            Some(at) => {
                let at = httpdate::fmt_http_date(at);
                Err(ProofError::TokenExpired { place: source.clone(), at }.into())
            }
            None => Ok((token, flaw)),
        }
    }

    /// The provider has judged a token of this fingerprint.
    pub(super) fn judged(&self, print: Fingerprint, is_refused: bool) {
        self.noticed.lock().unwrap_or_else(PoisonError::into_inner).refused = is_refused.then_some(print);
    }

    /// What changes when `token` is worth a token request: it has taken the place of one that was refused.
    /// Others are renewed all the time and prove the same.
    pub(super) fn fingerprint(&self, token: &Secret) -> Option<Fingerprint> {
        let (print, mut noticed) =
            (token.fingerprint(), self.noticed.lock().unwrap_or_else(PoisonError::into_inner));
        if noticed.refused.is_some_and(|refused| refused != print) {
            *noticed = Noticed { refused: None, since: Some(print) };
        }
        noticed.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_behind_a_refused_one_is_another_one() {
        let foreign = Foreign::default();
        let token = |text: &str| Secret::new(text.into());
        let look = |text: &str| foreign.fingerprint(&token(text));
        assert_eq!((look("a"), look("b")), (None, None), "it proves the same");
        foreign.judged(token("b").fingerprint(), true);
        assert_eq!(look("b"), None, "it would be refused once more");
        let first = look("c");
        assert!(first.is_some() && look("c") == first);
        foreign.judged(token("c").fingerprint(), true);
        assert_eq!(look("c"), first, "it would be refused once more");
        let second = look("d");
        assert!(second.is_some() && second != first);
        foreign.judged(token("d").fingerprint(), false);
        assert_eq!(look("e"), second, "the one before was taken");
    }
}
