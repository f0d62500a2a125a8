//! The heads of HTTP/2 frames (RFC 9113 §4.1), found in a stream of bytes however that is cut.

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

const HEAD: usize = 9;
/// The whole payload of an RST_STREAM: why (RFC 9113 §6.4).
const CODE: usize = 4;

/// What stands before a frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// Without the reserved bit.
    pub(super) stream: u32,
    /// Bytes of its payload.
    pub(super) length: usize,
    /// Why a stream is reset: RST_STREAM only, which is read to its end for it.
    pub(super) code: Option<u32>,
}

impl Head {
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Reads heads, and passes payloads over.
#[derive(Debug, Default)]
pub(super) struct Heads {
    bytes: [u8; HEAD + CODE],
    have: usize,
    payload_left: usize,
}

impl Heads {
    /// Goes on through `bytes` to the end of the next head. `None` when all of them have been read.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        loop {
            let passed = bytes.len().min(self.payload_left);
            self.payload_left -= passed;
            *bytes = bytes.get(passed..).filter(|rest| !rest.is_empty())?;
            // A head that is there already is a reset's, whose code is missing.
            let end = if self.have < HEAD { HEAD } else { HEAD + CODE };
            let (now, rest) = bytes.split_at_checked(end - self.have).unwrap_or((bytes, &[]));
            for (slot, byte) in self.bytes.iter_mut().skip(self.have).zip(now) {
                *slot = *byte;
            }
            self.have += now.len();
            *bytes = rest;
            if self.have < end {
                return None;
            }
            let head = self.head();
            if head.kind == RST_STREAM && head.length == CODE && self.have == HEAD {
                continue;
            }
            self.payload_left = if self.have == HEAD { head.length } else { 0 };
            self.have = 0;
            return Some(head);
        }
    }

    fn head(&self) -> Head {
        let [a, b, c, kind, flags, d, e, f, g, code @ ..] = self.bytes;
        Head {
            kind,
            flags,
            stream: u32::from_be_bytes([d & 0x7f, e, f, g]),
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            code: (self.have > HEAD).then(|| u32::from_be_bytes(code)),
        }
    }

    /// Whether a head has begun and is not complete.
    pub(super) fn is_in_head(&self) -> bool {
        self.have > 0
    }

    /// The kind of the frame whose payload has not come to its end.
    pub(super) fn in_payload_of(&self) -> Option<u8> {
        let [_, _, _, kind, ..] = self.bytes;
        (self.payload_left > 0).then_some(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    #[test]
    fn heads_are_found_however_the_bytes_are_cut() {
        let frames = [
            frame(SETTINGS, 0, 0, &[7; 36]),
            frame(HEADERS, END_HEADERS, 0x8000_0001, &[1; 20]),
            frame(DATA, 0, 1, &[]),
            frame(RST_STREAM, 0, 3, &[0, 0, 0, 8]),
            // Too long for one: its payload is passed over.
            frame(RST_STREAM, 0, 5, &[0; 5]),
            frame(RST_STREAM, 0, 7, &[0, 0, 1, 0]),
            frame(DATA, END_STREAM, 1, &[9; 300]),
        ];
        let bytes = frames.concat();
        let head = |kind, flags, stream, length, code| Head { kind, flags, stream, length, code };
        let expected = [
            head(SETTINGS, 0, 0, 36, None),
            head(HEADERS, END_HEADERS, 1, 20, None),
            head(DATA, 0, 1, 0, None),
            head(RST_STREAM, 0, 3, 4, Some(8)),
            head(RST_STREAM, 0, 5, 5, None),
            head(RST_STREAM, 0, 7, 4, Some(256)),
            head(DATA, END_STREAM, 1, 300, None),
        ];
        for step in 1..=bytes.len() {
            let (mut heads, mut found) = (Heads::default(), Vec::new());
            for mut part in bytes.chunks(step) {
                while let Some(head) = heads.next(&mut part) {
                    found.push(head);
                }
            }
            assert_eq!(found, expected, "{step}");
            assert!(!heads.is_in_head() && heads.in_payload_of().is_none(), "{step}");
        }
    }

    #[test]
    fn what_is_incomplete_is_told() {
        let bytes = [frame(HEADERS, 0, 1, &[1; 2]), frame(RST_STREAM, 0, 1, &[0; 4])].concat();
        let mut heads = Heads::default();
        let told: Vec<_> = bytes
            .iter()
            .map(|byte| {
                heads.next(&mut [*byte].as_slice());
                (heads.is_in_head(), heads.in_payload_of())
            })
            .collect();
        let (head, payload, whole) = ((true, None), (false, Some(HEADERS)), (false, None));
        let expected = [vec![head; 8], vec![payload; 2], vec![whole], vec![head; 12], vec![whole]].concat();
        assert_eq!(told, expected);
    }
}
