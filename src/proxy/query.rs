//! Parameters in a request target: ours in, the caller's of the same name out.
//!
//! Servers read names in many ways. A parameter that any of them could take for ours does not get
//! through; what is left stays as it was, byte for byte.

use http::{Uri, uri::PathAndQuery};

use crate::{
    proxy::fault::{BadRequest, Fault},
    secret::Secret,
};

/// Decoded so often at most; what is encoded more often is no server's idea of a name.
const DECODINGS_MAX: usize = 4;

/// A parameter's name as the most forgiving server reads it.
///
/// Percent-encoding is undone, also where it was done more than once, and letters are small (ASP.NET).
/// White space in front goes, what stands in brackets is an index, a dot, a space and an open bracket
/// are an underscore, and a NUL ends it (PHP). Brackets around it go (Node's qs, Rack).
pub fn read(name: &[u8]) -> String {
    let mut bytes = name.to_vec();
    for _ in 0..DECODINGS_MAX {
        let decoded = decoded(&bytes);
        if decoded == bytes {
            break;
        }
        bytes = decoded;
    }
    let is_bracket = |byte: &&u8| matches!(byte, b'[' | b']');
    bytes.drain(..bytes.iter().take_while(is_bracket).count());
    let is_indexed = bytes.contains(&b']');
    let ends = |byte: &u8| *byte == 0 || (is_indexed && *byte == b'[');
    bytes.truncate(bytes.iter().position(ends).unwrap_or(bytes.len()));
    bytes.truncate(bytes.len() - bytes.iter().rev().take_while(|byte| **byte == b']').count());
    let text = String::from_utf8_lossy(&bytes);
    let plain = |c: char| if matches!(c, '.' | ' ' | '\t' | '[') { '_' } else { c.to_ascii_lowercase() };
    text.trim().chars().map(plain).collect()
}

fn decoded(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [byte, after @ ..] = rest {
        rest = after;
        match (byte, after) {
            (b'+', _) => out.push(b' '),
            // ASP.NET's own: a code unit of UTF-16. Only ASCII could be taken for a name.
            (b'%', [b'u' | b'U', b'0', b'0', high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    out.push(high << 4 | low);
                    rest = after;
                }
                _ => out.push(b'%'),
            },
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    out.push(high << 4 | low);
                    rest = after;
                }
                _ => out.push(b'%'),
            },
            _ => out.push(*byte),
        }
    }
    out
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// `target` without the parameters whose names read as one of `names`. Some servers separate parameters by
/// semicolons, so a piece between those counts as well.
///
/// # Errors
/// [`BadRequest::Target`] when what is left is no target.
pub fn without(target: Uri, names: &[String]) -> Result<Uri, Fault> {
    let Some(query) = target.query() else { return Ok(target) };
    let is_ours = |piece: &str| {
        let name = piece.split_once('=').map_or(piece, |(name, _)| name);
        names.contains(&read(name.as_bytes()))
    };
    if !query.split(['&', ';']).any(is_ours) {
        return Ok(target);
    }
    let mut left = String::with_capacity(query.len());
    for piece in query.split_inclusive(['&', ';']) {
        if !is_ours(piece.trim_end_matches(['&', ';'])) {
            left.push_str(piece);
        }
    }
    let left = left.strip_suffix(['&', ';']).filter(|_| !query.ends_with(['&', ';'])).unwrap_or(&left);
    let mark = if left.is_empty() { "" } else { "?" };
    let made = format!("{}{mark}{left}", target.path());
    at(target, made)
}

/// `target` with `pair` behind all other parameters.
///
/// # Errors
/// [`BadRequest::Target`] when the target gets too long.
pub fn with(target: &Uri, pair: &Secret) -> Result<Uri, Fault> {
    let (path, query) = (target.path(), target.query().unwrap_or_default());
    let and = if query.is_empty() || query.ends_with('&') { "" } else { "&" };
    at(target.clone(), format!("{path}?{query}{and}{}", pair.expose()))
}

/// `target` with another path and query.
fn at(target: Uri, path: String) -> Result<Uri, Fault> {
    let bad = || Fault::BadRequest(BadRequest::Target);
    let path: PathAndQuery = path.try_into().map_err(|_| bad())?;
    let mut parts = target.into_parts();
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &str, expected: &str) {
        let names = [read(b"api_key")];
        let left = without(target.parse().unwrap(), &names).unwrap();
        assert_eq!(left.to_string(), expected, "{target}");
    }

    #[test]
    fn every_spelling_of_the_name_is_taken_out_and_nothing_else_changes() {
        check("/a?api_key=t", "/a");
        check("/a?api_key", "/a");
        check("/a?b=1&api_key=t&c=%2F+&&d", "/a?b=1&c=%2F+&&d");
        for spelling in [
            "API_Key",
            "%61pi_key",
            "api%5Fkey",
            "api%255fkey",
            "+api_key",
            "%20api_key",
            "api.key",
            "api+key",
            "api_key[]",
            "api_key[0]",
            "api_key%5B%5D",
            "api_key%00x",
            "api[key",
            "[api_key]",
            "%5Bapi_key%5D",
            "[api_key",
            "]api_key",
            "api_key]",
            "[[api_key]]",
            "[api_key][]",
            "%u0061pi_key",
            "api%u005Fkey",
        ] {
            check(&format!("/a?b=1&{spelling}=t"), "/a?b=1");
            check(&format!("/a?{spelling}=t&b=1"), "/a?b=1");
        }
        check("/a?b=1;api_key=t", "/a?b=1");
        check("/a?b=1;api_key=t;c=2", "/a?b=1;c=2");
        for other in ["/a", "/a?", "/a?x=api_key", "/a?api_keys=1", "/a?b=1&", "/a?b;c", "/a?%zz=%"] {
            check(other, other);
        }
    }

    #[test]
    fn ours_stands_behind_all_others() {
        let pair = Secret::new("key=a%20b".into());
        for (target, expected) in [
            ("/a", "/a?key=a%20b"),
            ("/a?", "/a?key=a%20b"),
            ("/a?b=1", "/a?b=1&key=a%20b"),
            ("/a?b&", "/a?b&key=a%20b"),
        ] {
            assert_eq!(with(&target.parse().unwrap(), &pair).unwrap(), expected);
        }
        let absolute = "http://a.example/b?c".parse().unwrap();
        assert_eq!(with(&absolute, &pair).unwrap(), "http://a.example/b?c&key=a%20b");
    }
}
