//! Where secrets are kept, as the file says it.

use super::{
    super::{
        field::Field,
        file_profiles::{Place, SecretPlace},
        problem::is_variable,
        tree::Position,
    },
    Account,
};
use crate::source::Source;

/// How to say where a secret is.
const KEEP: &str = "write {env: NAME} or {file: PATH}";

impl Account<'_> {
    /// Where the secret is kept; tries whether it can be read from there.
    pub(super) fn secret(&self, key: &str, field: &Field<Place>) -> Option<Source> {
        let (at, place) = field.get()?;
        let place = match place {
            Place::Kept(place) => place,
            Place::Inline(_) | Place::Listed(_) => {
                let words = format_args!("{key}: a secret does not belong into this file ({KEEP})");
                self.cx.findings.hide(at, 0);
                self.problem(at, words);
                return None;
            }
        };
        self.kept(key, at, place)
    }

    /// The same for a place that is there for certain.
    pub(super) fn kept(&self, key: &str, at: Position, place: &SecretPlace) -> Option<Source> {
        let (at, source) = self.source(key, at, place)?;
        if let Err(error) = source.probe() {
            self.cx.missing(at, format!("profile {:?}: {key}: {error}", self.name));
        }
        Some(source)
    }

    fn source(&self, key: &str, at: Position, place: &SecretPlace) -> Option<(Position, Source)> {
        match (&place.env, &place.file) {
            (Some(env), None) => {
                let (at, name) = env.get()?;
                if is_variable(name) {
                    return Some((at, Source::Env(name.clone())));
                }
                // It may be the secret itself.
                self.cx.findings.hide(at, 0);
                self.problem(
                    at,
                    format_args!(
                        "{key}.env: not the name of an environment variable (letters, digits and `_`)"
                    ),
                );
            }
            (None, Some(file)) => {
                let (at, path) = file.get()?;
                if !path.is_empty() {
                    return Some((at, Source::File(self.cx.path(path))));
                }
                self.problem(at, format_args!("{key}.file: the path is empty"));
            }
            _ => self.problem(at, format_args!("{key}: expected exactly one of env and file ({KEEP})")),
        }
        None
    }
}
