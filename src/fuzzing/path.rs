//! Paths: what passes for a prefix stays under it however an origin decodes, and reads again as itself.

use crate::route::{
    origins::escapes,
    path::{Check, read},
};

pub(super) fn target(input: &[u8]) {
    let Ok(tail) = str::from_utf8(input) else { return };
    for raw in [format!("/api/{tail}"), format!("/api{tail}"), tail.to_owned()] {
        let reading = read(&raw);
        let again = read(&reading.path);
        assert_eq!(
            (&again.path, again.flaws),
            (&reading.path, reading.flaws),
            "{raw:?} reads otherwise again"
        );
        for check in [Check::Strict, Check::Lenient] {
            let escape = escapes(&raw, check);
            assert!(escape.is_none(), "{raw:?} escapes: {escape:?}");
        }
    }
}
