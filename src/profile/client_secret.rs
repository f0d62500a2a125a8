//! The client secret, or the two of which one works: what makes a rotation without a gap possible.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{
    profile::diagnosis::Diagnosis,
    secret::{Fingerprint, Secret},
    source::{Kept, Source, SourceError, budget::Budget, flaws::Flaws},
};

/// Where the client secret is, or where two are of which one works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secrets {
    /// The one that is tried first.
    pub first: Source,
    /// The one that is tried when the provider refuses the other.
    pub second: Option<Source>,
}

impl From<Source> for Secrets {
    fn from(first: Source) -> Self {
        Self { first, second: None }
    }
}

/// What is legal in a secret and seldom meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// A space at one of its ends.
    Spaced,
    /// It has the form of an id, as the ids of Entra's secrets have.
    Guid,
}

impl Oddity {
    /// What is odd about `secret`. Elsewhere than at Entra a secret may well be a GUID.
    pub fn of(secret: &Secret, is_of_entra: bool) -> Option<Self> {
        let text = secret.expose();
        if text.starts_with(' ') || text.ends_with(' ') {
            return Some(Oddity::Spaced);
        }
        let mut groups =
            text.split('-').map(|group| (group.len(), group.chars().all(|c| c.is_ascii_hexdigit())));
        let is_guid = [8, 4, 4, 4, 12].into_iter().all(|length| groups.next() == Some((length, true)));
        (is_of_entra && is_guid && groups.next().is_none()).then_some(Oddity::Guid)
    }

    /// The same in plain words.
    pub fn diagnosis(self) -> Diagnosis {
        match self {
            Oddity::Spaced => Diagnosis {
                meaning: "the secret begins or ends with a space, which is legal and seldom meant",
                remedy: "if the provider refuses it, write the secret without the space",
            },
            Oddity::Guid => Diagnosis {
                meaning: "the secret has the form of an id: Entra shows one beside each secret, and it is not the secret",
                remedy: "put the secret's value into its source; it is shown only once, so make a new one if it is lost",
            },
        }
    }
}

/// One of two secrets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Which {
    #[default]
    First,
    Second,
}

impl Which {
    pub(super) fn other(self) -> Self {
        match self {
            Which::First => Which::Second,
            Which::Second => Which::First,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Which::First => "first",
            Which::Second => "second",
        }
    }
}

/// Reads them, and remembers which one worked last.
#[derive(Default)]
pub(super) struct Reader {
    first: Kept<Secret>,
    second: Kept<Secret>,
    second_works: AtomicBool,
}

impl Reader {
    /// The one to begin with.
    pub(super) fn favourite(&self) -> Which {
        if self.second_works.load(Ordering::Relaxed) { Which::Second } else { Which::First }
    }

    /// Reads one of `secrets` as it is now, or as it was last when it cannot be read.
    ///
    /// # Errors
    /// When it could never be read, or is not there at all.
    pub(super) async fn read(
        &self,
        secrets: &Secrets,
        which: Which,
        (profile, flaws): (&str, &Flaws),
        budget: &Budget,
    ) -> Result<Secret, SourceError> {
        let (kept, source) = self.place(secrets, which);
        let read = budget.read(source, kept.last().is_some(), source.read()).await;
        let read = kept.or_last(read)?;
        let what = match secrets.second {
            Some(_) => format!("{} client_secret", which.name()),
            None => "client_secret".to_owned(),
        };
        Ok(flaws.settle(profile, &what, read))
    }

    /// The provider took the one that is `which`.
    pub(super) fn worked(&self, secrets: &Secrets, which: Which, profile: &str) {
        if which == self.favourite() {
            return;
        }
        self.second_works.store(which == Which::Second, Ordering::Relaxed);
        let (_, source) = self.place(secrets, which);
        let (works, other) = (which.name(), which.other().name());
        tracing::info!(profile, "the {works} client_secret works ({source}), the {other} does not");
    }

    /// What tells that one of them is another now; those that are costly to read aside.
    ///
    /// # Errors
    /// When one could never be read.
    pub(super) async fn fingerprint(
        &self,
        secrets: &Secrets,
        told: (&str, &Flaws),
    ) -> Result<Option<Fingerprint>, SourceError> {
        let mut prints = Vec::new();
        let mut failed = None;
        for which in [Which::First, Which::Second] {
            let (_, source) = self.place(secrets, which);
            if !source.is_cheap() || (which == Which::Second && secrets.second.is_none()) {
                continue;
            }
            match self.read(secrets, which, told, &Budget::endless()).await {
                Ok(secret) => prints.push(secret.fingerprint()),
                Err(error) => failed = Some(error),
            }
        }
        if let (true, Some(error)) = (prints.is_empty(), failed) {
            return Err(error);
        }
        let parts: Vec<&[u8]> = prints.iter().map(Fingerprint::as_bytes).collect();
        Ok((!parts.is_empty()).then(|| Fingerprint::of_all(parts)))
    }

    fn place<'a>(&'a self, secrets: &'a Secrets, which: Which) -> (&'a Kept<Secret>, &'a Source) {
        match (which, &secrets.second) {
            (Which::Second, Some(second)) => (&self.second, second),
            _ => (&self.first, &secrets.first),
        }
    }
}
