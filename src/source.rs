//! Where a secret lives, and reading it from there.
//!
//! A source is read again for every token request, so a rotated secret needs no restart. What is
//! read is checked for the accidents that secret files are prone to; it is never guessed at.

use std::{
    fmt, io, mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use zeroize::Zeroizing;

use crate::{secret::Secret, source::file::FileError};

pub mod budget;
pub mod exec;
pub mod file;
pub mod flaws;
pub mod key_vault;
pub mod remote;
pub mod vault;

/// Where systemd puts credentials of a unit (`LoadCredential=`).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
/// The largest secret that is read. A private key with its chain fits many times.
const BYTES_MAX: u64 = 64 * 1024;

/// A place that holds one secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An environment variable of the gateway's own process.
    Env(String),
    /// A file, its path made absolute when the configuration was read.
    File(PathBuf),
    /// A credential that systemd gives to the unit, by its name.
    Credential(String),
    /// What a command writes to its standard output.
    Exec(Box<exec::Command>),
    /// A field of a secret in HashiCorp Vault.
    Vault(Arc<vault::Vault>),
    /// A secret in Azure Key Vault.
    KeyVault(Arc<key_vault::KeyVault>),
}

/// Why a source gave no secret. Never holds any part of the secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SourceError {
    /// The variable does not exist in the gateway's environment.
    #[error("{0} is not set (export it before the gateway starts)")]
    NotSet(Source),
    /// The file could not be opened or read.
    #[error("{0} cannot be read: {1} (check the path and that the gateway's user may read it)")]
    Unreadable(Source, Reason),
    /// Reading it may wait for ever, and gives something else each time.
    #[error("{0} is a pipe or a device, not a file (a secret is read again for every token request)")]
    NoFile(Source),
    /// Nothing is left after the trailing line break.
    #[error("{0} is empty")]
    Empty(Source),
    /// Larger than any secret.
    #[error("{0} is larger than 64 KiB, so it is hardly a secret")]
    TooLarge(Source),
    /// A byte-order mark, as some editors put in front.
    #[error("{0} begins with a byte-order mark (save it as UTF-8 without BOM)")]
    ByteOrderMark(Source),
    /// Bytes that are no UTF-8 text.
    #[error("{0} is not UTF-8 text")]
    NotText(Source),
    /// A control character, most often a second line break.
    #[error("{0} holds a control character at byte {1} (only one line break, at the end, is taken off)")]
    Control(Source, usize),
    /// A credential was asked for outside of a unit that has some.
    #[error("{0} cannot be read: CREDENTIALS_DIRECTORY is not set (systemd sets it for a unit with LoadCredential={name}:PATH)", name = .0.name())]
    NoCredentials(Source),
    /// A command gave nothing.
    #[error("{0} gave no secret: {1}")]
    Exec(Source, exec::Flaw),
    /// Vault gave nothing.
    #[error("{0} cannot be read: {1}")]
    Vault(Source, Box<vault::Flaw>),
    /// Key Vault gave nothing.
    #[error("{0} cannot be read: {1}")]
    KeyVault(Source, Box<key_vault::Flaw>),
    /// It hangs, or is too slow for the token request that waits for it.
    #[error("{0} was not read within {span} (of the profile's token_timeout; is it reachable?)", span = exec::Span(*.1))]
    Slow(Source, Duration),
    /// The file system that it is on does not answer.
    #[error("{0} hangs: it could not be read in time (is its file system there?)")]
    Hanging(Source),
    /// It costs more than reading a file, so it is not looked at here.
    #[error("{0} is read only when a token is asked for")]
    NotNow(Source),
}

impl SourceError {
    /// Whether the place can be read, and what it holds is no secret.
    pub fn is_about_content(&self) -> bool {
        matches!(self, Self::Empty(_) | Self::ByteOrderMark(_) | Self::NotText(_) | Self::Control(..))
    }

    /// Whether it is likely to go away by itself, soon.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Vault(_, flaw) => flaw.is_transient(),
            Self::KeyVault(_, flaw) => flaw.is_transient(),
            Self::Slow(..) | Self::Hanging(_) => true,
            Self::Exec(_, flaw) => matches!(flaw, exec::Flaw::TimedOut(_) | exec::Flaw::System(_)),
            _ => false,
        }
    }

    /// The waiting time that whoever keeps it has given.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Vault(_, flaw) => flaw.retry_after(),
            Self::KeyVault(_, flaw) => flaw.retry_after(),
            _ => None,
        }
    }
}

/// Why a file could not be read, in the words that people use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(io::ErrorKind);

impl From<&io::Error> for Reason {
    fn from(error: &io::Error) -> Self {
        Self(error.kind())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            io::ErrorKind::NotFound => f.write_str("no such file"),
            kind => kind.fmt(f),
        }
    }
}

impl Source {
    /// Reads the secret as it is now.
    ///
    /// One trailing line break is taken off. Spaces are kept: they are legal in a client secret
    /// (RFC 6749 appendix A.2).
    ///
    /// # Errors
    /// When the source cannot be read, is empty, or holds what no secret holds.
    pub async fn read(&self) -> Result<Secret, SourceError> {
        self.accept(self.bytes(false).await?)
    }

    /// Reads a document as it is now: a key, a certificate, a token in a file of its own. It may have
    /// several lines, and need not be text.
    ///
    /// # Errors
    /// When the source cannot be read, is empty or larger than 64 KiB.
    pub async fn read_document(&self) -> Result<Zeroizing<Vec<u8>>, SourceError> {
        let bytes = Zeroizing::new(self.bytes(true).await?);
        if bytes.is_empty() {
            return Err(SourceError::Empty(self.clone()));
        }
        Ok(bytes)
    }

    /// [`Source::read_document`] for a source that can be read at once, which is a cheap one.
    ///
    /// # Errors
    /// When the source cannot be read, is empty or larger than 64 KiB.
    pub fn document_now(&self) -> Result<Zeroizing<Vec<u8>>, SourceError> {
        let bytes = Zeroizing::new(self.bytes_at_once()?);
        if bytes.is_empty() { Err(SourceError::Empty(self.clone())) } else { Ok(bytes) }
    }

    /// [`Source::read`] for a source that can be read at once, which is a cheap one.
    ///
    /// # Errors
    /// When the source cannot be read, is empty, or holds what no secret holds.
    pub fn secret_now(&self) -> Result<Secret, SourceError> {
        self.accept(self.bytes_at_once()?)
    }

    /// Whether a change can be looked for every few seconds: reading it costs no more than a file.
    pub fn is_cheap(&self) -> bool {
        match self {
            Source::Env(_) | Source::File(_) | Source::Credential(_) => true,
            Source::Exec(_) | Source::Vault(_) | Source::KeyVault(_) => false,
        }
    }

    /// When the secret that was read last expires, where its place knows that.
    pub fn expires(&self) -> Option<SystemTime> {
        match self {
            Source::KeyVault(secret) => secret.expires(),
            _ => None,
        }
    }

    /// Tries whether the secret could be read, as far as that is possible at once: what
    /// `keybearer check` tells about a machine.
    ///
    /// # Errors
    /// When the source cannot be read.
    pub fn probe(&self) -> Result<(), SourceError> {
        match self {
            Source::Env(_) | Source::File(_) | Source::Credential(_) => {
                self.bytes_at_once().map(|bytes| drop(Zeroizing::new(bytes)))
            }
            Source::Exec(command) => command.probe().map_err(|flaw| SourceError::Exec(self.clone(), flaw)),
            // What only the network can tell is not asked for.
            Source::Vault(_) | Source::KeyVault(_) => Ok(()),
        }
    }

    async fn bytes(&self, is_document: bool) -> Result<Vec<u8>, SourceError> {
        let bytes = match self {
            Source::Env(_) => self.bytes_now()?,
            Source::File(_) | Source::Credential(_) => {
                let (path, source) = (self.path(), self.clone());
                let read = file::apart(path, move || source.bytes_now().map(Zeroizing::new));
                let read = read.await.unwrap_or_else(|_| Err(SourceError::Empty(self.clone())));
                read.map(|mut bytes| mem::take(&mut *bytes))?
            }
            Source::Exec(command) => {
                command.run().await.map_err(|flaw| SourceError::Exec(self.clone(), flaw))?
            }
            Source::Vault(vault) => {
                vault.read().await.map_err(|flaw| SourceError::Vault(self.clone(), Box::new(flaw)))?
            }
            Source::KeyVault(secret) => secret
                .read(is_document)
                .await
                .map_err(|flaw| SourceError::KeyVault(self.clone(), Box::new(flaw)))?,
        };
        self.sized(bytes)
    }

    /// What tells files apart that are read.
    fn path(&self) -> &Path {
        match self {
            Source::File(path) => path,
            _ => Path::new(self.name()),
        }
    }

    /// For whoever waits: not for ever.
    fn bytes_at_once(&self) -> Result<Vec<u8>, SourceError> {
        if !matches!(self, Source::File(_) | Source::Credential(_)) {
            return self.bytes_now();
        }
        let source = self.clone();
        // Wiped also where nobody waits for it any more.
        let read = file::at_once(self.path(), move || source.bytes_now().map(Zeroizing::new));
        let read = read.unwrap_or_else(|| Err(SourceError::Hanging(self.clone())));
        read.map(|mut bytes| mem::take(&mut *bytes))
    }

    fn bytes_now(&self) -> Result<Vec<u8>, SourceError> {
        let bytes = match self {
            Source::Env(name) => {
                let value = std::env::var_os(name).ok_or_else(|| SourceError::NotSet(self.clone()))?;
                value.into_encoded_bytes()
            }
            Source::File(path) => self.file(path)?,
            Source::Credential(name) => {
                let folder = std::env::var_os(CREDENTIALS).filter(|folder| !folder.is_empty());
                let folder = folder.ok_or_else(|| SourceError::NoCredentials(self.clone()))?;
                self.file(&Path::new(&folder).join(name))?
            }
            Source::Exec(_) | Source::Vault(_) | Source::KeyVault(_) => {
                return Err(SourceError::NotNow(self.clone()));
            }
        };
        self.sized(bytes)
    }

    fn file(&self, path: &Path) -> Result<Vec<u8>, SourceError> {
        let read = file::read(path, BYTES_MAX);
        let mut bytes = read.map_err(|error| match error {
            FileError::Unreadable(reason) => SourceError::Unreadable(self.clone(), reason),
            FileError::NoFile => SourceError::NoFile(self.clone()),
            FileError::TooLarge => SourceError::TooLarge(self.clone()),
        })?;
        Ok(mem::take(&mut bytes))
    }

    fn sized(&self, bytes: Vec<u8>) -> Result<Vec<u8>, SourceError> {
        if bytes.len() as u64 > BYTES_MAX { Err(SourceError::TooLarge(self.clone())) } else { Ok(bytes) }
    }

    /// The name of a variable or a credential.
    fn name(&self) -> &str {
        match self {
            Source::Env(name) | Source::Credential(name) => name,
            _ => "NAME",
        }
    }

    fn accept(&self, mut bytes: Vec<u8>) -> Result<Secret, SourceError> {
        if [&b"\xef\xbb\xbf"[..], b"\xff\xfe", b"\xfe\xff"].iter().any(|mark| bytes.starts_with(mark)) {
            return Err(SourceError::ByteOrderMark(self.clone()));
        }
        if bytes.ends_with(b"\n") {
            bytes.pop();
            if bytes.ends_with(b"\r") {
                bytes.pop();
            }
        }
        if bytes.is_empty() {
            return Err(SourceError::Empty(self.clone()));
        }
        if let Some(at) = bytes.iter().position(u8::is_ascii_control) {
            return Err(SourceError::Control(self.clone(), at));
        }
        let text = String::from_utf8(bytes).map_err(|_| SourceError::NotText(self.clone()))?;
        Ok(Secret::new(text))
    }
}

/// The last good value of what a source holds. A file that is half written, or gone for a moment, must
/// not take away a value that works.
#[derive(Debug)]
pub struct Kept<T>(Mutex<Option<T>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> Kept<T> {
    /// The last good value.
    pub fn last(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `read`, or the last good value with the reason why it is not the newest.
    ///
    /// # Errors
    /// That of `read` when there has been no good value yet.
    pub fn or_last<E>(&self, read: Result<T, E>) -> Result<(T, Option<E>), E> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(value) => Ok((last.insert(value).clone(), None)),
            Err(error) => match last.as_ref() {
                Some(value) => Ok((value.clone(), Some(error))),
                None => Err(error),
            },
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Env(name) => write!(f, "environment variable {name}"),
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::Credential(name) => write!(f, "systemd credential {name}"),
            Source::Exec(command) => write!(f, "command {}", command.name().display()),
            Source::Vault(vault) => {
                let vault::Settings { address, path, field, .. } = vault.settings();
                let address = address.origin().ascii_serialization();
                write!(f, "field {field:?} of {path} in Vault at {address}")
            }
            Source::KeyVault(secret) => {
                let key_vault::Settings { vault, secret, .. } = secret.settings();
                write!(f, "secret {secret:?} in Key Vault {}", vault.origin().ascii_serialization())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn check(bytes: &[u8], expected: Result<&str, &str>) {
        let source = Source::File("/s".into());
        let got = source.accept(bytes.to_vec());
        match (got, expected) {
            (Ok(secret), Ok(text)) => assert_eq!(secret.expose(), text),
            (Err(error), Err(words)) => {
                assert!(error.to_string().contains(words), "{error}");
            }
            (got, expected) => panic!("{:?} gave {got:?}, expected {expected:?}", bytes),
        }
    }

    #[test]
    fn one_trailing_line_break_is_taken_off_and_nothing_else() {
        check(b"s3cret\n", Ok("s3cret"));
        check(b"s3cret\r\n", Ok("s3cret"));
        check(b"s3cret ", Ok("s3cret "));
        check(b"p+s/s=w:o%r&d \"~ 1", Ok("p+s/s=w:o%r&d \"~ 1"));
        check(b"s3cret\n\n", Err("control character at byte 6"));
    }

    #[test]
    fn accidents_of_secret_files_are_refused_by_name() {
        check(b"\xef\xbb\xbfs3cret", Err("byte-order mark"));
        check(b"\xff\xfes\0", Err("byte-order mark"));
        check(b"s3\tcret", Err("control character at byte 2"));
        check(b"\n", Err("is empty"));
        check(b"", Err("is empty"));
        check(b"\xc3\x28", Err("not UTF-8"));
    }

    #[tokio::test]
    async fn what_is_larger_than_any_secret_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        fs::write(&path, vec![b'a'; 70_000]).unwrap();
        let source = Source::File(path);
        assert!(matches!(source.read().await, Err(SourceError::TooLarge(_))));
        assert!(matches!(source.read_document().await, Err(SourceError::TooLarge(_))));
    }

    #[test]
    fn a_good_value_outlives_a_broken_file() {
        let kept = Kept::default();
        assert_eq!(kept.or_last(Err::<u8, _>("none yet")), Err("none yet"));
        assert_eq!(kept.or_last(Ok::<_, &str>(1)), Ok((1, None)));
        assert_eq!(kept.or_last(Err("half written")), Ok((1, Some("half written"))));
        assert_eq!(kept.or_last(Ok::<_, &str>(2)), Ok((2, None)));
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let error = Source::Env("KEYBEARER_NO_SUCH_VARIABLE".into()).read().await.unwrap_err();
        assert!(error.to_string().starts_with("environment variable KEYBEARER_NO_SUCH_VARIABLE is not set"));
        let error = Source::File("/no/such/file".into()).read().await.unwrap_err();
        assert!(error.to_string().starts_with("file /no/such/file cannot be read: no such file"));
    }
}
