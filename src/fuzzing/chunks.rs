//! Chunked bodies: what the guard passes ends at one place, in whatever pieces it comes and whoever
//! reads it.

use crate::{
    fuzzing::library,
    listen::{
        Limits,
        framing::{Chunks, Refusal},
    },
};

const HEAD: &[u8] = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// The first byte says in pieces of how many bytes the rest is read.
pub(super) fn target(input: &[u8]) {
    let Some((cut, body)) = input.split_first() else { return };
    let whole = read(body, body.len().max(1));
    let pieces = read(body, usize::from(*cut).max(1));
    match (whole, pieces) {
        (Ok(whole), Ok(pieces)) => assert_eq!(whole, pieces, "pieces end elsewhere"),
        // A verdict may fall before everything has come, but it must be the same one.
        (Err(_), Err(_)) => return,
        (whole, pieces) => assert_eq!(whole.is_ok(), pieces.is_ok(), "{whole:?} whole, {pieces:?} in pieces"),
    }
    let Ok((used, true)) = whole else { return };
    let body = body.get(..used).unwrap_or_default();
    let data = decode(body).expect("a plain reader cannot read what was passed");
    let seen = library::requests(&[HEAD, body, library::MARK].concat());
    let [first, second] = seen.as_slice() else { panic_with(&seen) };
    assert_eq!(first.body.as_deref(), Some(data.as_slice()), "the library reads another body");
    assert_eq!(second.head.uri, "/mark", "the library sees the next request elsewhere");
}

fn panic_with(seen: &[library::Seen]) -> ! {
    let count = seen.len();
    assert_eq!(count, 2, "the library sees another number of requests");
    unreachable!("the assertion above has failed")
}

/// How far the body goes, and whether it has ended.
fn read(body: &[u8], piece: usize) -> Result<(usize, bool), Refusal> {
    let mut chunks = Chunks::new(Limits::default().headers);
    let mut used = 0;
    for piece in body.chunks(piece) {
        used += chunks.read(piece)?;
        if chunks.is_done() {
            break;
        }
    }
    Ok((used, chunks.is_done()))
}

/// A reader that knows nothing of extensions and trailers but where they end.
fn decode(body: &[u8]) -> Option<Vec<u8>> {
    let (mut data, mut rest) = (Vec::new(), body);
    loop {
        let (line, after) = line(rest)?;
        let digits = line.split(|b| *b == b';').next()?;
        let size = usize::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
        rest = after;
        if size == 0 {
            break;
        }
        let (chunk, after) = rest.split_at_checked(size)?;
        data.extend_from_slice(chunk);
        rest = after.strip_prefix(b"\r\n")?;
    }
    loop {
        let (trailer, after) = line(rest)?;
        rest = after;
        if trailer.is_empty() {
            return rest.is_empty().then_some(data);
        }
    }
}

fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")?;
    Some((bytes.get(..end)?, bytes.get(end + 2..)?))
}
