//! Secret strings: one way in, one greppable way out.
//!
//! A [`Secret`] is wiped when dropped, prints as a placeholder, and cannot be serialised, compared
//! or displayed. It deliberately has no `Display`, `Deref` or `AsRef`: a placeholder that travels to
//! an identity provider would be as bad as a secret that travels to a log.

use std::fmt;

use aws_lc_rs::{hmac, rand};
use secrecy::{ExposeSecret, SecretString};

/// A string that must never reach a log, an error, a metric or a core file.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes ownership of `value`; the caller keeps no copy.
    pub fn new(value: String) -> Self {
        Self(SecretString::from(value))
    }

    /// The plain text. Call this only where the bytes leave the process.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// A keyed digest that tells two secrets apart and nothing else.
    ///
    /// The key is drawn once per process, so a fingerprint says nothing outside of it.
    pub fn fingerprint(&self) -> Fingerprint {
        static KEY: std::sync::OnceLock<hmac::Key> = std::sync::OnceLock::new();
        let key = KEY.get_or_init(|| {
            hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new())
                .expect("the system's random source works")
        });
        let tag = hmac::sign(key, self.expose().as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(tag.as_ref());
        Fingerprint(bytes)
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
    use super::Secret;

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
