//! Names that nothing has, told with those that there are.

use crate::app::control::ChangeError;

/// Names that are listed: a screen of them.
const NAMES_MAX: usize = 20;

/// There is no `what` of this name, but `all` of these.
pub(super) fn undefined<'a>(
    what: &'static str,
    name: &str,
    all: impl Iterator<Item = &'a str>,
) -> ChangeError {
    let all: Vec<_> = all.map(|name| format!("\"{name}\"")).collect();
    let listed = all.get(..NAMES_MAX).unwrap_or(&all).join(", ");
    let defined = match all.len().saturating_sub(NAMES_MAX) {
        0 if all.is_empty() => "none".to_owned(),
        0 => listed,
        more => format!("{listed} and {more} more"),
    };
    ChangeError::Unknown { what, name: name.to_owned(), defined }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_cut_says_so() {
        let said = |count: usize| {
            let names: Vec<String> = (0..count).map(|i| format!("r{i}")).collect();
            undefined("route", "x", names.iter().map(String::as_str)).to_string()
        };
        assert_eq!(said(0), "route \"x\" is not defined (defined: none)");
        assert_eq!(said(2), "route \"x\" is not defined (defined: \"r0\", \"r1\")");
        assert!(said(20).ends_with("\"r19\")"), "{}", said(20));
        assert!(said(23).ends_with("\"r19\" and 3 more)"), "{}", said(23));
    }
}
