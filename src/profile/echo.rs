//! Whether a text repeats a secret. Servers quote what they were sent: as it was, encoded, or in part.
//!
//! It errs towards yes: what is lost is a provider's sentence, and what is kept is a secret.

use std::collections::HashSet;

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use url::form_urlencoded;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// This many characters in a row of a secret are more than an accident. Of a shorter secret, all.
const RUN: usize = 8;
/// A text may be encoded once by the client, once by the server and once by a proxy's error page.
const LAYERS: usize = 3;

/// Whether `text` repeats a secret or a part of it, plain, percent-encoded or in base64 (as `Authorization:
/// Basic` has it), in capitals or not. `text` should be short: it is taken to pieces.
pub(super) fn reveals(text: &str, secrets: &[Secret]) -> bool {
    let mut layer = Zeroizing::new(text.as_bytes().to_vec());
    for _ in 0..LAYERS {
        let plain = alike(&layer);
        if secrets.iter().any(|secret| forms(secret).iter().any(|form| share(&plain, form))) {
            return true;
        }
        layer = decoded(&layer);
    }
    false
}

/// Whether a run of `form` stands in `text`.
fn share(text: &[u8], form: &[u8]) -> bool {
    let run = RUN.min(form.len());
    if run == 0 {
        return false;
    }
    let pieces: HashSet<&[u8]> = text.windows(run).collect();
    form.windows(run).any(|piece| pieces.contains(piece))
}

/// How a secret may look in an answer, once that is decoded.
fn forms(secret: &Secret) -> Vec<Zeroizing<Vec<u8>>> {
    let plain = secret.expose().as_bytes();
    let form: Zeroizing<String> = Zeroizing::new(form_urlencoded::byte_serialize(plain).collect());
    let mut forms = vec![alike(plain)];
    for bytes in [plain, form.as_bytes()] {
        forms.extend((0..3).map(|before| in_base64(bytes, before)).filter(|form| form.len() >= RUN));
    }
    forms
}

/// The characters of base64 that depend on `bytes` alone, with so many bytes before them, modulo 3.
fn in_base64(bytes: &[u8], before: usize) -> Zeroizing<Vec<u8>> {
    let whole: Zeroizing<Vec<u8>> = Zeroizing::new(vec![0; before].iter().chain(bytes).copied().collect());
    let encoded = Zeroizing::new(BASE64_STANDARD_NO_PAD.encode(&whole));
    let own = encoded.as_bytes().get((before * 8).div_ceil(6)..whole.len() * 8 / 6);
    alike(own.unwrap_or_default())
}

/// What differs by an encoding's taste, made the same: case, `+` and `-` and a space, `_` and `/`.
fn alike(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let one = |byte: &u8| match byte {
        b'+' | b'-' => b' ',
        b'_' => b'/',
        other => other.to_ascii_lowercase(),
    };
    Zeroizing::new(bytes.iter().map(one).collect())
}

/// One layer of percent-encoding less.
fn decoded(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut out = Zeroizing::new(Vec::with_capacity(bytes.len()));
    let mut rest = bytes;
    while let [first, after @ ..] = rest {
        rest = after;
        let (mut byte, quoted) = (*first, after);
        if let (b'%', [high, low, behind @ ..]) = (*first, quoted)
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            (byte, rest) = (high << 4 | low, behind);
        }
        out.push(byte);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "S3cr3t+value/=% \"x&y~end";

    fn is_told(text: &str) -> bool {
        reveals(text, &[Secret::new(SECRET.into())])
    }

    #[test]
    fn a_secret_is_recognised_in_every_form_in_which_servers_repeat_it() {
        let form: String = form_urlencoded::byte_serialize(SECRET.as_bytes()).collect();
        let again: String = form_urlencoded::byte_serialize(form.as_bytes()).collect();
        for text in [SECRET.to_owned(), SECRET.to_lowercase(), form.clone(), again] {
            assert!(is_told(&format!("you sent {text}.")), "{text}");
        }
        assert!(is_told("percent S3cr3t%2Bvalue/%3D%25%20%22x%26y~end"));
        assert!(is_told("a page: S3cr3t+value/=% &quot;x&amp;y~end"));
        assert!(is_told("in part: S3cr3t+v..."));
        // As in `Authorization: Basic`, behind ids of any length.
        for id in ["", "a", "ab", "abc", "svc post"] {
            for secret in [SECRET, &form] {
                let basic = BASE64_STANDARD_NO_PAD.encode(format!("{id}:{secret}"));
                assert!(is_told(&format!("Basic {basic}==")), "{id} {secret}");
                assert!(is_told(&format!("Basic {}", basic.replace('+', "-").replace('/', "_"))), "{id}");
                let (most, _) = basic.split_at(basic.len() - 8);
                assert!(is_told(most), "{id} {secret}");
            }
        }
    }

    #[test]
    fn other_words_are_not_taken_for_a_secret() {
        for text in [
            "",
            "AADSTS7000215: Invalid client secret provided. Ensure the secret being sent is the value.",
            "%",
            "%2",
            "%zz",
            "S3cr3t",
            "value",
        ] {
            assert!(!is_told(text), "{text}");
        }
        assert!(!reveals("anything", &[]));
        assert!(reveals("the pin is 4711", &[Secret::new("4711".into())]), "a short one, when it is whole");
        assert!(!reveals("the pin is 471", &[Secret::new("4711".into())]));
    }
}
