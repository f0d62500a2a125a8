//! HTTP/2 frames on their way out (RFC 9113 §4.1): which streams move, and which have come to their ends.
//!
//! The library takes the end of an answer and keeps it until the caller has room for it. It does not tell
//! when that is written, so the frames' heads are read as they leave.

use std::io::IoSlice;

use crate::listen::heads::{DATA, END_STREAM, HEADERS, Head, Heads, RST_STREAM};

/// What the head of a frame says of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The answer's head goes out.
    Begins(u32),
    /// Some of the answer's content goes out.
    Moves(u32),
    /// Nothing comes behind this frame.
    Ends(u32),
    /// The same, and it is the head of an answer without content, or trailers.
    EndsWithFields(u32),
    /// We give the stream up, for this reason (RFC 9113 §7).
    Resets(u32, u32),
}

/// Reads the heads of frames out of what is written.
#[derive(Debug, Default)]
pub(super) struct Outgoing(Heads);

impl Outgoing {
    /// Reads on through the first `count` bytes of `pieces`.
    pub(super) fn read(&mut self, pieces: &[IoSlice<'_>], mut count: usize, mut note: impl FnMut(Step)) {
        for piece in pieces {
            let mut bytes = piece.get(..count).unwrap_or(piece);
            count -= bytes.len();
            while let Some(head) = self.0.next(&mut bytes) {
                step(&head).into_iter().for_each(&mut note);
            }
        }
    }
}

fn step(head: &Head) -> Option<Step> {
    match head.kind {
        DATA if head.has(END_STREAM) => Some(Step::Ends(head.stream)),
        DATA if head.length > 0 => Some(Step::Moves(head.stream)),
        HEADERS if head.has(END_STREAM) => Some(Step::EndsWithFields(head.stream)),
        HEADERS => Some(Step::Begins(head.stream)),
        RST_STREAM => head.code.map(|code| Step::Resets(head.stream, code)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, stream];
        bytes.resize(9 + payload, 1);
        bytes
    }

    #[test]
    fn steps_are_seen_however_the_frames_are_cut() {
        let frames = [
            // SETTINGS, a head, content, nothing, a window, the end with content and without, trailers, a reset.
            frame(4, 0, 0, 36),
            frame(HEADERS, 4, 1, 20),
            frame(DATA, 0, 1, 300),
            frame(DATA, 0, 1, 0),
            frame(8, 0, 1, 4),
            frame(DATA, END_STREAM, 1, 7),
            frame(DATA, END_STREAM, 3, 0),
            frame(HEADERS, END_STREAM | 4, 5, 9),
            frame(RST_STREAM, 0, 7, 4),
        ];
        let bytes = frames.concat();
        let expected = [Step::Begins(1), Step::Moves(1), Step::Ends(1), Step::Ends(3)];
        let expected = [&expected[..], &[Step::EndsWithFields(5), Step::Resets(7, 0x0101_0101)]].concat();
        for step in [1, 2, 8, 9, 10, 100, bytes.len()] {
            let (mut outgoing, mut seen) = (Outgoing::default(), Vec::new());
            for part in bytes.chunks(step) {
                // Of what is offered a part is taken, from the first of two pieces or from both.
                let (one, two) = part.split_at(part.len() / 3);
                let offered = [IoSlice::new(one), IoSlice::new(two), IoSlice::new(&[0xff; 20])];
                outgoing.read(&offered, part.len(), |step| seen.push(step));
            }
            assert_eq!(seen, expected, "{step}");
        }
    }
}
