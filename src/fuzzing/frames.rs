//! HTTP/2 frames: the scanner finds the same frames in whatever pieces they come.

use crate::listen::frames::{PREFACE, Scanner};

/// What has to come first, with nothing in it.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// The first byte says in pieces of how many bytes the rest is read.
pub(super) fn target(input: &[u8]) {
    let Some((cut, frames)) = input.split_first() else { return };
    let (mut whole, mut pieces) = (Scanner::new(), Scanner::new());
    for scanner in [&mut whole, &mut pieces] {
        assert!(scanner.read(PREFACE).is_ok() && scanner.read(SETTINGS).is_ok());
    }
    let in_one = whole.read(frames);
    let in_pieces = frames.chunks(usize::from(*cut).max(1)).try_for_each(|piece| pieces.read(piece));
    assert_eq!(in_one, in_pieces, "the pieces decide about a flood");
    if in_one.is_ok() {
        assert_eq!(whole.is_partial(), pieces.is_partial(), "the pieces decide about what is partial");
        assert_eq!(whole.is_partial(), is_partial(frames), "a plain reader sees it otherwise");
    }
}

/// Whether the last frame header or header block is incomplete, read frame by frame.
fn is_partial(frames: &[u8]) -> bool {
    const END_HEADERS: u8 = 4;
    let (mut rest, mut in_block) = (frames, false);
    loop {
        let [a, b, c, kind, flags, _, _, _, _, after @ ..] = rest else {
            return in_block || !rest.is_empty();
        };
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if matches!(kind, 1 | 9) {
            in_block = flags & END_HEADERS == 0;
        }
        match after.split_at_checked(length) {
            Some((_, next)) => rest = next,
            // Data may come slowly.
            None => return in_block || *kind != 0,
        }
    }
}
