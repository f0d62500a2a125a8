//! Words of the plan that this version does not know yet.
//!
//! They get an honest answer instead of "unknown key". They are not in the schema. Building one
//! means deleting its row.

/// (struct, enum or `kind`; word; what to do meanwhile)
const PLANNED: &[(&str, &str, &str)] = &[
    ("Mode", "forward", "use reverse"),
    ("Mode", "transparent", "use reverse"),
    ("Route", "callers", "remove the key; whoever reaches the listener may use the route"),
];

/// What to do until `word` is built, when it is planned for `container`.
pub(super) fn planned(container: &str, word: &str) -> Option<&'static str> {
    PLANNED
        .iter()
        .find(|(place, planned, _)| *place == container && *planned == word)
        .map(|(_, _, hint)| *hint)
}
