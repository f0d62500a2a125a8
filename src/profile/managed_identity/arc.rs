//! The proof that Azure Arc's agent asks for: the content of a file that only its group may read.
//!
//! The challenge names the file. It comes over plain HTTP from whoever listens on the port, so it is
//! not believed: only a small regular file directly in the agent's own folder is read. Otherwise any
//! program that gets hold of the port could have a file of its choice sent to it.

use std::{
    fs::{self, File},
    io::Read,
    path::{Component, Path, PathBuf},
};

use reqwest::header::HeaderValue;

use super::failure::Failure;
use crate::secret::Secret;

/// What the agent documents as the limit of its keys.
const KEY_BYTES_MAX: u64 = 4096;

/// The content of the file that `challenge` names.
///
/// # Errors
/// When there is no such challenge, when the file is none of the agent's, or cannot be read.
pub(super) async fn answer_to(challenge: Option<&HeaderValue>, folder: &Path) -> Result<Secret, Failure> {
    let text = challenge.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let path = realm(text).ok_or_else(|| Failure::arc("its challenge names no file"))?;
    let path = allowed(path, folder).ok_or_else(|| {
        Failure::arc("its challenge names a file that is not one of its keys; it is not read")
    })?;
    let read = tokio::task::spawn_blocking(move || read(&path));
    read.await.unwrap_or_else(|_| Err(Failure::arc("reading its key was broken off")))
}

/// The value of `Basic realm=…`, with or without quotes.
fn realm(challenge: &str) -> Option<&str> {
    let (scheme, rest) = challenge.trim().split_once(' ')?;
    let (name, value) = rest.trim().split_once('=')?;
    let is_ours = scheme.eq_ignore_ascii_case("basic") && name.trim().eq_ignore_ascii_case("realm");
    is_ours.then(|| value.trim().trim_matches('"'))
}

/// The path, if it is a key directly in `folder`.
fn allowed(path: &str, folder: &Path) -> Option<PathBuf> {
    let path = Path::new(path);
    let is_plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let is_key = path.extension().is_some_and(|end| end == "key");
    (is_plain && is_key && path.is_absolute() && path.parent() == Some(folder)).then(|| path.to_owned())
}

fn read(path: &Path) -> Result<Secret, Failure> {
    let unreadable = |error: std::io::Error| {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound => "it does not exist".to_owned(),
            kind => kind.to_string(),
        };
        Failure::arc(&format!("its key cannot be read: {reason}"))
    };
    // A link would lead out of the folder.
    if !fs::symlink_metadata(path).map_err(unreadable)?.is_file() {
        return Err(Failure::arc("its key is no regular file; it is not read"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(KEY_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > KEY_BYTES_MAX {
        return Err(Failure::arc("its key is larger than 4096 bytes; it is not sent"));
    }
    let text = String::from_utf8(bytes).map_err(|_| Failure::illegal_key())?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_directly_in_the_agents_folder_are_read() {
        let folder = Path::new("/var/opt/azcmagent/tokens");
        let check = |path: &str, expected: bool| {
            assert_eq!(allowed(path, folder).is_some(), expected, "{path}");
        };
        check("/var/opt/azcmagent/tokens/1-2.key", true);
        check("/var/opt/azcmagent/tokens/1-2.pem", false);
        check("/var/opt/azcmagent/tokens/.key", false);
        check("/var/opt/azcmagent/tokens/a/1.key", false);
        check("/var/opt/azcmagent/tokens/../1.key", false);
        check("/var/opt/azcmagent/tokens/../tokens/1.key", false);
        check("/var/opt/azcmagent/tokensx/1.key", false);
        check("var/opt/azcmagent/tokens/1.key", false);
        check("tokens/1.key", false);
        check("/etc/shadow", false);
        check("", false);
    }

    #[test]
    fn the_realm_is_read_with_and_without_quotes() {
        assert_eq!(realm("Basic realm=/a/b.key"), Some("/a/b.key"));
        assert_eq!(realm("basic Realm=\"/a/b.key\""), Some("/a/b.key"));
        assert_eq!(realm("Bearer realm=/a/b.key"), None);
        assert_eq!(realm("Basic"), None);
        assert_eq!(realm(""), None);
    }

    async fn read_key(folder: &Path, name: &str) -> Result<Secret, Failure> {
        let challenge = format!("Basic realm={}/{name}", folder.display());
        answer_to(Some(&HeaderValue::from_str(&challenge).unwrap()), folder).await
    }

    #[tokio::test]
    async fn links_and_large_files_are_not_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::write(path.join("good.key"), "canary\n").unwrap();
        fs::write(path.join("large.key"), vec![b'a'; 4097]).unwrap();
        fs::write(path.join("secret"), "canary").unwrap();
        std::os::unix::fs::symlink(path.join("secret"), path.join("link.key")).unwrap();
        fs::create_dir(path.join("folder.key")).unwrap();
        assert_eq!(read_key(path, "good.key").await.unwrap().expose(), "canary");
        for (name, words) in [
            ("large.key", "larger than 4096"),
            ("link.key", "no regular file"),
            ("folder.key", "no regular file"),
            ("absent.key", "does not exist"),
        ] {
            let error = read_key(path, name).await.unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
        assert!(answer_to(None, path).await.unwrap_err().to_string().contains("names no file"));
    }
}
