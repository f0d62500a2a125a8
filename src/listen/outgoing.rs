//! HTTP/2 frames on their way out (RFC 9113 §4.1): which streams move, and which have come to their ends.
//!
//! The library takes the end of an answer and keeps it until the caller has room for it. It does not tell
//! when that is written, so the frames' heads are read as they leave.

use std::io::IoSlice;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;

/// What the head of a frame says of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Some of the answer's content goes out.
    Moves(u32),
    /// Nothing comes behind this frame.
    Ends(u32),
}

/// Reads the heads of frames out of what is written.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    header: [u8; 9],
    have: usize,
    payload_left: usize,
}

impl Outgoing {
    /// Reads on through the first `count` bytes of `pieces`.
    pub(super) fn read(&mut self, pieces: &[IoSlice<'_>], mut count: usize, mut note: impl FnMut(Step)) {
        for piece in pieces {
            let bytes = piece.get(..count).unwrap_or(piece);
            count -= bytes.len();
            self.read_piece(bytes, &mut note);
        }
    }

    fn read_piece(&mut self, mut bytes: &[u8], note: &mut impl FnMut(Step)) {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let used = bytes.len().min(self.payload_left);
                self.payload_left -= used;
                bytes = bytes.get(used..).unwrap_or_default();
                continue;
            }
            let wanted = self.header.len() - self.have;
            let (now, rest) = bytes.split_at_checked(wanted).unwrap_or((bytes, &[]));
            for (slot, byte) in self.header.iter_mut().skip(self.have).zip(now) {
                *slot = *byte;
            }
            self.have += now.len();
            bytes = rest;
            if self.have == self.header.len() {
                self.have = 0;
                self.frame().into_iter().for_each(&mut *note);
            }
        }
    }

    fn frame(&mut self) -> Option<Step> {
        let [a, b, c, kind, flags, stream @ ..] = self.header;
        self.payload_left = u32::from_be_bytes([0, a, b, c]) as usize;
        let stream = u32::from_be_bytes(stream);
        match kind {
            DATA | HEADERS if flags & END_STREAM != 0 => Some(Step::Ends(stream)),
            RST_STREAM => Some(Step::Ends(stream)),
            DATA if self.payload_left > 0 => Some(Step::Moves(stream)),
            _ => None,
        }
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
        let expected = [Step::Moves(1), Step::Ends(1), Step::Ends(3), Step::Ends(5), Step::Ends(7)];
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
