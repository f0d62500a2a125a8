//! Secret strings: one way in, one greppable way out.
//!
//! A [`Secret`] is wiped when dropped, prints as a placeholder, and cannot be serialised, compared
//! or displayed. It deliberately has no `Display`, `Deref` or `AsRef`: a placeholder that travels to
//! an identity provider would be as bad as a secret that travels to a log.

use std::fmt;

use aws_lc_rs::{hmac, rand};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroize;

/// A string that must never reach a log, an error, a metric or a core file.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes ownership of `value`; the caller keeps no copy.
    pub fn new(mut value: String) -> Self {
        // Copied, as the allocator may move what is shrunk to its length, and leave the old place as it was.
        let secret = Self(SecretString::from(value.as_str()));
        value.zeroize();
        secret
    }

    /// The plain text. Call this only where the bytes leave the process.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// A keyed digest that tells two secrets apart and nothing else.
    ///
    /// The key is drawn once per process, so a fingerprint says nothing outside of it.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.expose().as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What two readings of a secret are compared by. See [`Secret::fingerprint`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of anything that must be told apart: a document, a certificate.
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_all([bytes])
    }

    /// Of several things together. Where one ends and the next begins counts.
    pub fn of_all<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        static KEY: std::sync::OnceLock<hmac::Key> = std::sync::OnceLock::new();
        let key = KEY.get_or_init(|| {
            hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new())
                .expect("the system's random source works")
        });
        let mut context = hmac::Context::with_key(key);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.sign().as_ref());
        Self(bytes)
    }

    /// The digest itself, to become part of a larger one.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, hint::black_box, os::unix::fs::FileExt};

    use super::Secret;

    /// Bytes of a secret whose place in memory is looked at. More than an allocator writes into what is
    /// free, and less than it gives back to the system at once.
    const LENGTH: usize = 3000;

    /// How much of the canary lies at `address`, in parts of eight bytes. The system lets a process read its
    /// own memory as a file, also what is free; what is not mapped any more holds nothing.
    fn left_at(address: usize) -> usize {
        // On the stack: what was just freed would be given out again, and cleared.
        let mut bytes = [0; LENGTH];
        let memory = File::open("/proc/self/mem").unwrap();
        if memory.read_exact_at(&mut bytes, address as u64).is_err() {
            return 0;
        }
        bytes.chunks(8).filter(|part| *part == b"canary-!").count()
    }

    fn canary(capacity: usize) -> String {
        let mut text = String::with_capacity(capacity);
        // Piece by piece, as a whole one would leave a copy of its own.
        (0..LENGTH / 8).for_each(|_| text.push_str("canary-!"));
        text
    }

    #[test]
    fn a_secret_is_wiped_when_it_is_dropped() {
        let secret = Secret::new(canary(LENGTH));
        let address = secret.expose().as_ptr() as usize;
        assert_eq!(left_at(address), LENGTH / 8, "it is seen while it is there");
        drop(black_box(secret));
        assert_eq!(left_at(address), 0);
        // A clone is a copy of its own.
        let secret = Secret::new(canary(LENGTH));
        let clone = secret.clone();
        let addresses = [&secret, &clone].map(|secret| secret.expose().as_ptr() as usize);
        drop(black_box((secret, clone)));
        assert_eq!(addresses.map(left_at), [0, 0]);
        // The text that it is made of leaves no copy. In this test, as others would leave the same canary.
        for capacity in [LENGTH, 4 * LENGTH] {
            let text = canary(capacity);
            let before = text.as_ptr() as usize;
            let secret = black_box(Secret::new(text));
            assert_eq!(left_at(before), 0);
            drop(secret);
        }
    }

    #[test]
    fn no_way_of_formatting_shows_the_plain_text() {
        let secret = Secret::new("canary-7f3a".into());
        let shown = format!("{secret:?} {secret:#?} {:?} {:?}", Some(&secret), secret.fingerprint());
        assert!(!shown.contains("canary"), "{shown}");
    }

    #[test]
    fn equal_secrets_have_equal_fingerprints_and_others_do_not() {
        let print = |s: &str| Secret::new(s.into()).fingerprint();
        assert!(print("a") == print("a"));
        assert!(print("a") != print("b"));
    }
}
