//! Profiles that go with others: `also`.

use super::{
    super::{
        field::{Field, Named, given},
        file_profiles::Profile,
        lower::Context,
        names::quoted,
        tree::Position,
    },
    NONE,
};
use crate::{proxy::credentials, token};

type List = Option<Field<Vec<Field<String>>>>;

fn also(profile: &Profile) -> &List {
    match profile {
        Profile::Entra(f) => &f.also,
        Profile::OAuth2(f) => &f.also,
        Profile::Static(f) => &f.also,
        Profile::ManagedIdentity(f) => &f.also,
    }
}

/// Gives each profile in `out` the names of those that go with it.
pub(super) fn lower(profiles: &Named<Profile>, out: &mut [token::Settings], cx: &Context<'_>) {
    for (_, name, field) in profiles.iter() {
        let Some((_, list)) = field.value.as_ref().and_then(|profile| given(also(profile))) else { continue };
        let company = Company { profiles, name, cx };
        let mut names: Vec<String> = Vec::new();
        for (at, other) in list.iter().filter_map(Field::get) {
            if company.admits(at, other, &names) && company.has_room(at, other, &names, out) {
                names.push(other.clone());
            }
        }
        if let Some(settings) = out.iter_mut().find(|settings| settings.profile.name == name) {
            settings.also = names;
        }
    }
}

/// One profile that names others.
struct Company<'a> {
    profiles: &'a Named<Profile>,
    name: &'a str,
    cx: &'a Context<'a>,
}

impl Company<'_> {
    fn refuse(&self, at: Position, words: impl std::fmt::Display) -> bool {
        self.cx.problem(at, format!("profile {:?}: also: {words}", self.name));
        false
    }

    fn admits(&self, at: Position, other: &str, names: &[String]) -> bool {
        if other == self.name {
            return self.refuse(at, "a profile cannot go with itself (remove it)");
        }
        if names.iter().any(|name| name == other) {
            return self.refuse(at, format_args!("{other:?} is written twice"));
        }
        let Some((_, _, field)) = self.profiles.iter().find(|(_, name, _)| *name == other && other != NONE)
        else {
            let defined = quoted(self.profiles.iter().map(|(_, name, _)| name));
            return self.refuse(at, format_args!("profile {other:?} is not defined (defined: {defined})"));
        };
        let has_company = field.value.as_ref().is_some_and(|profile| also(profile).is_some());
        if has_company {
            let words = "has an also of its own (name all of them here, a chain is not followed)";
            return self.refuse(at, format_args!("profile {other:?} {words}"));
        }
        true
    }

    /// Each credential needs a place of its own on the request.
    fn has_room(&self, at: Position, other: &str, names: &[String], out: &[token::Settings]) -> bool {
        let slots = |name: &str| {
            let settings = out.iter().find(|settings| settings.profile.name == name);
            settings.map(|settings| settings.profile.kind.slots()).unwrap_or_default()
        };
        let wanted = slots(other);
        for earlier in names.iter().map(String::as_str).chain([self.name]) {
            let taken = slots(earlier);
            let clash =
                wanted.iter().find(|slot| taken.iter().any(|taken| credentials::collide(taken, slot)));
            if let Some(slot) = clash {
                let words = "which can hold one credential only";
                return self
                    .refuse(at, format_args!("{other:?} and {earlier:?} both go into {slot}, {words}"));
            }
        }
        true
    }
}
