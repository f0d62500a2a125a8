//! The HTTP clients that talk to identity providers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use reqwest::StatusCode;
use url::Url;

use crate::{
    outbound::{self, Proxy, Roots, RootsError, Settings},
    profile::{certificate::Certificate, refusal::ExchangeError},
    secret::Fingerprint,
    source::{Kept, budget::Budget, file, flaws::Flaws},
};

/// The largest answer that is read from an identity provider.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Clients that are kept for other profiles to share. More appear when authorities are replaced again and
/// again; those in use live on by themselves.
const CLIENTS_MAX: usize = 64;

/// The HTTP clients of one profile, each made when it is first needed: a machine without any root
/// certificate can still talk to a provider on loopback. Profiles that reach their providers in the same way
/// share them.
#[derive(Default)]
pub struct Http {
    clients: Arc<Clients>,
    profile: String,
    settings: Settings,
    roots: Kept<Roots>,
    flaws: Flaws,
}

/// All clients, by what they were made for.
#[derive(Default)]
struct Clients(Mutex<HashMap<Key, Result<reqwest::Client, String>>>);

/// What makes clients differ.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    is_plain: bool,
    is_near: bool,
    proxy: Proxy,
    roots: Option<Roots>,
}

impl Http {
    /// The clients of `profile`, which share what they can with these.
    pub fn of_profile(&self, profile: &str, settings: Settings) -> Self {
        let (clients, profile) = (Arc::clone(&self.clients), profile.to_owned());
        Self { clients, profile, settings, roots: Kept::default(), flaws: Flaws::default() }
    }

    /// How the provider is reached.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Reads the file of authorities again, if there is one: before every exchange.
    ///
    /// # Errors
    /// [`ExchangeError::Authorities`] while there have been no good ones.
    pub async fn refresh(&self, budget: &Budget) -> Result<(), ExchangeError> {
        let Some(path) = self.settings.ca.clone() else { return Ok(()) };
        let (fallback, slow) = (RootsError::Absent(path.clone()), RootsError::Slow(path.clone()));
        let file = path.clone();
        let read = file::apart(&path, move || Roots::read(&file));
        let read = match budget.within(self.roots.last().is_some(), read).await {
            Ok(read) => read.unwrap_or(Err(fallback)),
            Err(_) => Err(slow),
        };
        let read = self.roots.or_last(read)?;
        self.flaws.settle(&self.profile, "certificate authorities (ca)", read);
        Ok(())
    }

    /// The client for `url`.
    ///
    /// # Errors
    /// [`ExchangeError::SetUp`] when TLS cannot be set up, for instance without any root certificate.
    pub fn client(&self, url: &Url) -> Result<reqwest::Client, ExchangeError> {
        let roots = self.roots()?;
        let key = Key {
            is_plain: url.scheme() == "http",
            is_near: outbound::is_near(url),
            proxy: self.settings.proxy.clone(),
            roots: roots.clone(),
        };
        let mut clients = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= CLIENTS_MAX && !clients.contains_key(&key) {
            clients.clear();
        }
        let made = clients
            .entry(key)
            .or_insert_with(|| outbound::built(outbound::builder(url, &self.settings.proxy, roots.as_ref())));
        made.clone().map_err(|what| ExchangeError::SetUp { what })
    }

    fn roots(&self) -> Result<Option<Roots>, ExchangeError> {
        match (self.roots.last(), &self.settings.ca) {
            (None, Some(path)) => Ok(Some(self.roots.or_last(Roots::read(path))?.0)),
            (last, _) => Ok(last),
        }
    }
}

/// The client of a profile that shows a certificate in TLS handshakes. It is made anew for another
/// certificate, so that no connection and no session of the old one is used again.
#[derive(Default)]
pub(super) struct Showing(Mutex<Option<(Shown, reqwest::Client)>>);

/// The certificate that is shown, and the authorities that are trusted.
type Shown = (Fingerprint, Option<Roots>);

impl Showing {
    /// The client for `url`, always of the same host.
    ///
    /// # Errors
    /// [`ExchangeError::SetUp`] when TLS cannot be set up.
    pub(super) fn client(
        &self,
        url: &Url,
        certificate: &Certificate,
        http: &Http,
    ) -> Result<reqwest::Client, ExchangeError> {
        let shown = (certificate.fingerprint(), http.roots()?);
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = last.as_ref().filter(|(of, _)| *of == shown) {
            return Ok(client.clone());
        }
        let identity = reqwest::Identity::from_pem(certificate.pem().expose().as_bytes());
        let builder = outbound::builder(url, &http.settings.proxy, shown.1.as_ref());
        let made = identity
            .map_err(|error| outbound::reason(&error))
            .and_then(|identity| outbound::built(builder.identity(identity)));
        let client = made.map_err(|what| ExchangeError::SetUp { what })?;
        *last = Some((shown, client.clone()));
        Ok(client)
    }
}

/// What went wrong while an answer was read.
pub(super) enum Cut {
    TooLarge(StatusCode),
    Broken(reqwest::Error),
}

impl Cut {
    pub(super) fn at(self, url: &Url) -> ExchangeError {
        match self {
            Cut::TooLarge(status) => ExchangeError::TooLarge { status: status.as_u16() },
            Cut::Broken(error) => ExchangeError::unreachable(url, &error),
        }
    }
}

/// Reads an answer up to [`ANSWER_BYTES_MAX`].
pub(super) async fn bounded(response: &mut reqwest::Response) -> Result<Vec<u8>, Cut> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Cut::Broken)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(Cut::TooLarge(response.status()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
