//! Names of things, and helping with a mistyped one.

/// Characters of a name: long enough for people, short enough for a metric label.
const NAME_CHARS_MAX: usize = 64;

/// Whether `text` may name a listener, profile, route or environment.
pub(super) fn is_name(text: &str) -> bool {
    text.len() <= NAME_CHARS_MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// What to say about a name that is none.
pub(super) fn not_a_name(thing: &str, name: &str) -> String {
    format!(
        "{thing} {name:?}: not a name (a letter or digit, then letters, digits, `_`, `.` or `-`; at most {NAME_CHARS_MAX})"
    )
}

/// `"a", "b"`, or `none` when there is nothing.
pub(super) fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("{name:?}")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// The one of `allowed` that was probably meant by `word`.
pub(super) fn closest<'a>(word: &str, allowed: &[&'a str]) -> Option<&'a str> {
    let near = |name: &&&str| distance(word, name) <= (name.len() / 3).max(1);
    allowed.iter().filter(near).min_by_key(|name| distance(word, name)).copied()
}

/// Levenshtein's distance, case aside.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(NAME_CHARS_MAX).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (y, above) in b.iter().zip(row.iter().skip(1)) {
            let change = diagonal + usize::from(!x.eq_ignore_ascii_case(y));
            left = change.min(left + 1).min(above + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_key_finds_the_one_that_was_meant() {
        let allowed = ["upstream", "profile", "path", "preserve_host"];
        assert_eq!(closest("upstrem", &allowed), Some("upstream"));
        assert_eq!(closest("Profile", &allowed), Some("profile"));
        assert_eq!(closest("preservehost", &allowed), Some("preserve_host"));
        assert_eq!(closest("colour", &allowed), None);
    }

    #[test]
    fn names_are_plain() {
        assert!(is_name("orders-daemon_2.eu"));
        for bad in ["", "-a", "a b", "ä", "a/b", &"a".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
