//! Where secrets are kept, as the file says it.

use super::{
    super::{
        field::Field,
        file_profiles::{Place, Places},
        file_secrets::SecretPlace,
        problem::is_variable,
        tree::Position,
    },
    Account,
};
use crate::{
    profile::client_secret::{Oddity, Secrets},
    source::Source,
};

/// How to say where a secret is.
const KEEP: &str = "write {env: NAME} or {file: PATH}";

impl Account<'_> {
    /// Where the secret is kept; tries whether it can be read from there.
    pub(in crate::config) fn secret(&self, key: &str, field: &Field<Place>) -> Option<Source> {
        let (at, source) = self.untried(key, field)?;
        self.try_source(key, at, &source);
        Some(source)
    }

    fn untried(&self, key: &str, field: &Field<Place>) -> Option<(Position, Source)> {
        let (at, place) = field.get()?;
        match place {
            Place::Kept(place) => self.source(key, at, place),
            Place::Inline(_) | Place::Listed(_) => {
                self.refuse_inline(key, at);
                None
            }
        }
    }

    /// The same for what is one line of text.
    pub(super) fn text(&self, key: &str, field: &Field<Place>) -> Option<Source> {
        let source = self.secret(key, field)?;
        self.try_text(key, field.at, &source, false);
        Some(source)
    }

    /// Where the client secret is, or two places of which one is enough.
    pub(super) fn secrets(&self, key: &str, field: &Field<Places>, is_of_entra: bool) -> Option<Secrets> {
        let (at, places) = field.get()?;
        match places {
            Places::Kept(place) => {
                let source = self.kept(key, at, place)?;
                self.try_text(key, at, &source, is_of_entra);
                Some(Secrets::from(source))
            }
            Places::Inline(_) => {
                self.refuse_inline(key, at);
                None
            }
            Places::Several(list) => {
                let found: Vec<_> = list.iter().map(|field| self.untried(key, field)).collect();
                let [first, second] = <[_; 2]>::try_from(found).ok().or_else(|| {
                    self.cx.findings.hide(at, 0);
                    let words = "expected one place or a list of two (the second is tried when the provider refuses the first)";
                    self.problem(at, format_args!("{key}: {words}"));
                    None
                })?;
                let both = [first?, second?];
                self.try_both(key, &both, is_of_entra);
                let [(_, first), (_, second)] = both;
                if first == second {
                    self.problem(at, format_args!("{key}: both places are the same (remove one)"));
                }
                Some(Secrets { first, second: Some(second) })
            }
        }
    }

    fn refuse_inline(&self, key: &str, at: Position) {
        self.cx.findings.hide(at, 0);
        self.problem(at, format_args!("{key}: a secret does not belong into this file ({KEEP})"));
    }

    /// The same for a place that is there for certain.
    pub(super) fn kept(&self, key: &str, at: Position, place: &SecretPlace) -> Option<Source> {
        let (at, source) = self.source(key, at, place)?;
        self.try_source(key, at, &source);
        Some(source)
    }

    /// Tells when the source cannot be read on this machine.
    pub(super) fn try_source(&self, key: &str, at: Position, source: &Source) {
        if let Err(error) = source.probe() {
            self.cx.missing(at, format!("{}: {key}: {error}", self.who()));
        }
    }

    /// One of two is enough: a restart in the middle of a rotation must not end in a refusal.
    fn try_both(&self, key: &str, both: &[(Position, Source); 2], is_of_entra: bool) {
        let flaw = |source: &Source| {
            if source.is_cheap() { source.secret_now().err() } else { source.probe().err() }
        };
        let is_one_there = both.iter().any(|(_, source)| flaw(source).is_none());
        for (at, source) in both {
            match flaw(source) {
                None => self.try_text(key, *at, source, is_of_entra),
                Some(error) => {
                    let words = format!("{}: {key}: {error}", self.who());
                    if is_one_there {
                        self.cx.findings.warn(*at, format!("{words}; the other place serves meanwhile"));
                    } else {
                        self.cx.missing(*at, words);
                    }
                }
            }
        }
    }

    /// Tells when what is there is no secret, or hardly the one that was meant.
    fn try_text(&self, key: &str, at: Position, source: &Source, is_of_entra: bool) {
        if !source.is_cheap() {
            return;
        }
        match source.secret_now() {
            Ok(secret) => {
                if let Some(oddity) = Oddity::of(&secret, is_of_entra) {
                    let words = format!("profile {:?}: {key}: {}", self.name, oddity.diagnosis());
                    self.cx.findings.warn(at, words);
                }
            }
            Err(error) if error.is_about_content() => {
                self.cx.missing(at, format!("profile {:?}: {key}: {error}", self.name));
            }
            // That it cannot be read was told already.
            Err(_) => {}
        }
    }

    fn source(&self, key: &str, at: Position, place: &SecretPlace) -> Option<(Position, Source)> {
        let SecretPlace { env, file, credential, exec, vault, azure_key_vault } = place;
        let given = [
            env.is_some(),
            file.is_some(),
            credential.is_some(),
            exec.is_some(),
            vault.is_some(),
            azure_key_vault.is_some(),
        ];
        if given.into_iter().filter(|given| *given).count() != 1 {
            let words = "expected exactly one of env, file, credential, exec, vault and azure_key_vault";
            self.problem(at, format_args!("{key}: {words} ({KEEP})"));
            return None;
        }
        if let Some((at, name)) = env.as_ref().and_then(Field::get) {
            return self.variable(key, at, name).map(|source| (at, source));
        }
        if let Some((at, path)) = file.as_ref().and_then(Field::get) {
            if path.is_empty() {
                self.problem(at, format_args!("{key}.file: the path is empty"));
                return None;
            }
            return Some((at, Source::File(self.cx.path(path))));
        }
        if let Some((at, name)) = credential.as_ref().and_then(Field::get) {
            return self.credential(key, at, name).map(|source| (at, source));
        }
        if let Some((at, command)) = exec.as_ref().and_then(Field::get) {
            return self.exec(key, at, command).map(|source| (at, source));
        }
        if let Some((at, vault)) = vault.as_ref().and_then(Field::get) {
            return self.vault(key, at, vault).map(|source| (at, source));
        }
        let (at, secret) = azure_key_vault.as_ref().and_then(Field::get)?;
        self.key_vault(key, secret).map(|source| (at, source))
    }

    fn variable(&self, key: &str, at: Position, name: &str) -> Option<Source> {
        if is_variable(name) {
            return Some(Source::Env(name.to_owned()));
        }
        // It may be the secret itself.
        self.cx.findings.hide(at, 0);
        let words = "not the name of an environment variable (letters, digits and `_`)";
        self.problem(at, format_args!("{key}.env: {words}"));
        None
    }

    fn credential(&self, key: &str, at: Position, name: &str) -> Option<Source> {
        let is_name = !name.is_empty() && !matches!(name, "." | "..");
        if is_name && name.chars().all(|c| c.is_ascii_graphic() && c != '/') {
            return Some(Source::Credential(name.to_owned()));
        }
        self.cx.findings.hide(at, 0);
        let words = "not the name of a credential (no `/` and no spaces: what stands before the colon in LoadCredential=NAME:PATH)";
        self.problem(at, format_args!("{key}.credential: {words}"));
        None
    }
}
