//! What origins make of a path before they look it up: the measure of what may be sent to them.
//!
//! Written apart from `path`, so that one slip is not made twice. Only tests and fuzzing know it.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a measure, no part of the program")]

use crate::route::path::{Check, read};

/// What an origin may do to a path before it removes dot segments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    decodings: usize,
    cuts_parameters_first: bool,
    cuts_parameters_last: bool,
    takes_backslashes: bool,
    merges_slashes: bool,
    trims_windows_names: bool,
}

impl Origin {
    fn all() -> impl Iterator<Item = Origin> {
        (0..4 * 32).map(|choice: usize| Origin {
            decodings: choice / 32,
            cuts_parameters_first: choice & 1 != 0,
            cuts_parameters_last: choice & 2 != 0,
            takes_backslashes: choice & 4 != 0,
            merges_slashes: choice & 8 != 0,
            trims_windows_names: choice & 16 != 0,
        })
    }

    fn resolve(self, path: &str) -> Vec<u8> {
        let mut path = path.as_bytes().to_vec();
        if self.cuts_parameters_first {
            path = each_segment(&path, without_parameters);
        }
        for _ in 0..self.decodings {
            path = percent_decode(&path);
        }
        if self.takes_backslashes {
            path.iter_mut().filter(|octet| **octet == b'\\').for_each(|octet| *octet = b'/');
        }
        if self.cuts_parameters_last {
            path = each_segment(&path, without_parameters);
        }
        if self.merges_slashes {
            path.dedup_by(|a, b| *a == b'/' && *b == b'/');
        }
        if self.trims_windows_names {
            path = each_segment(&path, |segment| match segment {
                b"." | b".." => segment,
                [b'.', b'.', ..] if segment.iter().all(|octet| b". ".contains(octet)) => b"..",
                _ => segment.trim_ascii_end(),
            });
        }
        remove_dot_segments(&path)
    }
}

fn without_parameters(segment: &[u8]) -> &[u8] {
    segment.split(|octet| *octet == b';').next().unwrap()
}

fn each_segment(path: &[u8], change: impl Fn(&[u8]) -> &[u8]) -> Vec<u8> {
    path.split(|octet| *octet == b'/').map(change).collect::<Vec<_>>().join(&b'/')
}

pub(super) fn percent_decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < path.len() {
        let digits = path.get(at + 1..at + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        match (path[at], digits) {
            (b'%', Some(digits)) => {
                decoded.push(u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap());
                at += 3;
            }
            (octet, _) => {
                decoded.push(octet);
                at += 1;
            }
        }
    }
    decoded
}

/// RFC 3986 §5.2.4 for a path that begins with a slash.
fn remove_dot_segments(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let segments: Vec<_> = path.split(|octet| *octet == b'/').skip(1).collect();
    for (index, segment) in segments.iter().enumerate() {
        let is_last = index + 1 == segments.len();
        match *segment {
            b".." | b"." => {
                if *segment == b".." {
                    kept.pop();
                }
                if is_last {
                    kept.push(b"");
                }
            }
            segment => kept.push(segment),
        }
    }
    [b"/".to_vec(), kept.join(&b'/')].concat()
}

fn is_under(path: &[u8], prefix: &str) -> bool {
    path.strip_prefix(prefix.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// An origin that takes `raw`, passed by `check`, out of the prefix `/api`, and where it ends up.
pub(crate) fn escapes(raw: &str, check: Check) -> Option<(Origin, String)> {
    let reading = read(raw);
    let sent = &*reading.path;
    if reading.refused_by(check).is_some() || !is_under(sent.as_bytes(), "/api") {
        return None;
    }
    Origin::all()
        .map(|origin| (origin, origin.resolve(sent)))
        .find(|(_, resolved)| !is_under(resolved, "/api"))
        .map(|(origin, resolved)| (origin, String::from_utf8_lossy(&resolved).into_owned()))
}
