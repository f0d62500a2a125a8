//! What the two vaults have in common: one bounded request, and how its failure reads.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reqwest::{RequestBuilder, StatusCode};
use serde_json::Value;
use url::Url;

use super::file;
use crate::outbound::{self, Proxy, Roots, RootsError, Settings};

/// A secret and what is said about it.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// One request, from connecting to the last byte of the answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why there was no answer that could be read.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RequestError {
    /// No answer: DNS, TCP, TLS or a broken connection.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// The answer is larger than any secret.
    #[error("its answer is larger than 1 MiB")]
    TooLarge,
    /// The file of certificate authorities cannot be used.
    #[error("its certificate authorities: {0}")]
    Roots(#[from] RootsError),
    /// TLS cannot be set up at all.
    #[error("TLS cannot be set up: {0}")]
    SetUp(String),
}

/// An answer, read to its end.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Null when the body is no JSON.
    pub(super) json: Value,
    /// The waiting time that it gives.
    pub(super) retry_after: Option<Duration>,
}

/// How a vault is reached. The client is made when it is needed, and anew for other authorities.
#[derive(Debug, Default)]
pub(super) struct Link {
    settings: Settings,
    made: Mutex<Option<(Option<Roots>, reqwest::Client)>>,
}

impl Link {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, made: Mutex::default() }
    }

    /// The client for `url`, which is always of the same server.
    pub(super) async fn client(&self, url: &Url) -> Result<reqwest::Client, RequestError> {
        let roots = match &self.settings.ca {
            Some(path) => Some(self.roots(path.clone()).await?),
            None => None,
        };
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = made.as_ref().filter(|(of, _)| *of == roots) {
            return Ok(client.clone());
        }
        let builder = outbound::builder(url, &self.settings.proxy, roots.as_ref());
        let client = outbound::built(builder.timeout(TIMEOUT)).map_err(RequestError::SetUp)?;
        *made = Some((roots, client.clone()));
        Ok(client)
    }

    /// The authorities as they are now; the last good ones while the file is broken.
    async fn roots(&self, path: PathBuf) -> Result<Roots, RequestError> {
        let file = path.clone();
        let read = file::apart(&path, move || Roots::read(&file)).await;
        let read = read.unwrap_or(Err(RootsError::Absent(path)));
        read.or_else(|error| {
            let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            made.as_ref().and_then(|(roots, _)| roots.clone()).ok_or(error)
        })
        .map_err(RequestError::from)
    }
}

/// Settings of a link to a vault with its own authorities.
pub(super) fn with_authorities(ca: Option<PathBuf>) -> Settings {
    Settings { proxy: Proxy::Environment, ca }
}

/// Sends `request` and reads what comes, within limits.
pub(super) async fn send(request: RequestBuilder) -> Result<Answer, RequestError> {
    let unreachable = |error: reqwest::Error| {
        let words = if error.is_timeout() { "timed out".to_owned() } else { outbound::reason(&error) };
        RequestError::Unreachable(words)
    };
    let mut response = request.send().await.map_err(unreachable)?;
    let retry_after = outbound::retry_after(response.headers());
    let mut body = zeroize::Zeroizing::new(Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(RequestError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    let json = serde_json::from_slice(&body).unwrap_or_default();
    Ok(Answer { status: response.status(), json, retry_after })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Each reading of a secret left one more thread behind, until no file was read any more.
    #[tokio::test]
    async fn authorities_that_hang_hold_one_thread() {
        let folder = tempfile::tempdir().unwrap();
        let (path, (lets, held)) = (folder.path().join("ca.pem"), mpsc::channel::<()>());
        let mut hanging = Box::pin(file::apart(&path, move || held.recv()));
        tokio::time::timeout(Duration::from_millis(10), hanging.as_mut()).await.unwrap_err();
        let (link, url) =
            (Link::new(with_authorities(Some(path.clone()))), "https://vault.example".parse().unwrap());
        let mut client = Box::pin(link.client(&url));
        let waited = tokio::time::timeout(Duration::from_millis(50), client.as_mut()).await;
        assert!(waited.is_err(), "the reading before has not ended");
        lets.send(()).unwrap();
        let error = client.await.unwrap_err();
        assert!(matches!(error, RequestError::Roots(RootsError::Unreadable(..))), "{error}");
    }
}
