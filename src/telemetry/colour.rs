//! Whether what is written may have colour: one rule for the log, the doctor and the tour.

use std::{env, ffi::OsStr, io::IsTerminal};

/// Whether colour is shown on `out`, and nobody has asked for none (<https://no-color.org>).
pub fn is_wanted(out: &impl IsTerminal) -> bool {
    can_redraw(out) && !is_unwanted(env::var_os("NO_COLOR").as_deref())
}

/// Whether lines on `out` can be rewritten: it is a terminal that knows how.
pub fn can_redraw(out: &impl IsTerminal) -> bool {
    out.is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// An empty variable asks for nothing.
fn is_unwanted(no_color: Option<&OsStr>) -> bool {
    no_color.is_some_and(|value| !value.is_empty())
}
