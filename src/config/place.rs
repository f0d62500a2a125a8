//! The way from the root of the file to a value, as messages tell it.

use std::fmt;

/// The way from the root to a value, for messages.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    Root,
    Key(&'a Place<'a>, &'a str),
    Item(&'a Place<'a>, usize),
}

impl Place<'_> {
    /// The keys and numbers, from the root on.
    pub(super) fn steps(&self) -> Vec<String> {
        let (mut steps, own) = match self {
            Place::Root => return Vec::new(),
            Place::Key(parent, key) => (parent.steps(), (*key).to_owned()),
            Place::Item(parent, number) => (parent.steps(), format!("[{number}]")),
        };
        steps.push(own);
        steps
    }

    /// The last key.
    pub(super) fn key(&self) -> Option<&str> {
        if let Place::Key(_, key) = self { Some(key) } else { None }
    }
}

/// `route "orders": match.path: `, or nothing for the file itself.
impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = self.steps();
        let mut rest = steps.as_slice();
        if let [section, name, inner @ ..] = rest
            && let "listeners" | "profiles" | "routes" = section.as_str()
        {
            write!(f, "{} {name:?}: ", section.trim_end_matches('s'))?;
            rest = inner;
        }
        if rest.is_empty() { Ok(()) } else { write!(f, "{}: ", rest.join(".").replace(".[", "[")) }
    }
}
