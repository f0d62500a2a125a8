//! What an operator should look at although there is a token: it lacks roles, it is large, the clocks
//! are apart. Each is told once: with a token's generation, or when it changes.

use crate::{
    profile::{
        Grant,
        content::{self, Content},
        diagnosis, skew,
    },
    token::state::Shared,
};

/// What is to be said about a profile that works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Expected roles that the last token does not carry; empty too when it is opaque.
    pub missing_roles: Vec<String>,
    /// Size of the last token, zero before the first.
    pub token_bytes: usize,
    /// Seconds that the provider's clock is ahead of this machine's, when known.
    pub clock_skew: Option<i64>,
}

/// Looks at a new token and says what is odd about it, once per generation.
pub(super) fn look_at(shared: &Shared, grant: &Grant, generation: u64) {
    let settings = &shared.settings.profile;
    let token = grant.credential.secret();
    let missing_roles = match Content::of(token) {
        Some(content) => content.missing(&settings.expected_roles),
        None => Vec::new(),
    };
    let token_bytes = token.expose().len();
    if !missing_roles.is_empty() {
        let words = diagnosis::of_missing_roles(settings.kind.is_of_entra());
        tracing::warn!(
            profile = settings.name,
            generation,
            missing_roles = missing_roles.join(" "),
            "the token lacks expected roles ({words})"
        );
    }
    if token_bytes > content::LARGE_BYTES {
        tracing::warn!(
            profile = settings.name,
            generation,
            token_bytes,
            "the token is larger than 4 KiB; servers refuse header fields of that size (ask for fewer roles or groups)"
        );
    }
    shared.note(|notes| {
        notes.missing_roles = missing_roles;
        notes.token_bytes = token_bytes;
    });
}

/// Tells about the clocks when they drift apart and when they are together again.
#[derive(Default)]
pub(super) struct Clocks {
    /// The difference that was warned about.
    told: Option<i64>,
}

impl Clocks {
    /// Takes what the last answer showed.
    pub(super) fn compare(&mut self, shared: &Shared, seconds: Option<i64>) {
        shared.note(|notes| notes.clock_skew = seconds);
        let Some(seconds) = seconds else { return };
        let profile = &shared.settings.profile.name;
        let is_far = |seconds: i64| seconds.unsigned_abs() > skew::WARN.as_secs();
        match self.told {
            Some(told) if !is_far(seconds) => {
                self.told = None;
                tracing::info!(profile, clock_skew_s = seconds, told, "the clocks are together again");
            }
            Some(told) if !is_far(seconds.saturating_sub(told)) => {}
            None if !is_far(seconds) => {}
            _ => {
                self.told = Some(seconds);
                let words = diagnosis::of_clock_skew(seconds);
                tracing::warn!(profile, clock_skew_s = seconds, "{words}");
            }
        }
    }
}
