//! The HTTP clients that talk to identity providers.

use std::{
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use reqwest::StatusCode;
use url::Url;

use crate::{
    profile::{
        certificate::Certificate,
        refusal::{ExchangeError, innermost},
    },
    secret::Fingerprint,
};

/// The largest answer that is read from an identity provider.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// DNS, TCP and TLS towards an identity provider.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Shorter than any usual refresh interval, so that a provider's new address is found.
const IDLE_CONNECTION: Duration = Duration::from_secs(30);

/// The HTTP clients that all profiles share, each made when it is first needed: a machine without
/// any root certificate can still talk to a provider on loopback.
#[derive(Default)]
pub struct Http {
    /// Honours `HTTPS_PROXY` and `NO_PROXY` of the gateway's environment.
    outbound: OnceLock<Result<reqwest::Client, String>>,
    /// TLS to loopback: a proxy has no business there.
    near: OnceLock<Result<reqwest::Client, String>>,
    /// Plain HTTP, which only loopback gets.
    plain: OnceLock<Result<reqwest::Client, String>>,
}

impl Http {
    /// The client for `url`.
    ///
    /// # Errors
    /// [`ExchangeError::SetUp`] when TLS cannot be set up, for instance without any root certificate.
    pub fn client(&self, url: &Url) -> Result<&reqwest::Client, ExchangeError> {
        let slot = match () {
            () if url.scheme() == "http" => &self.plain,
            () if is_loopback(url) => &self.near,
            () => &self.outbound,
        };
        let made = slot.get_or_init(|| built(builder(url)));
        made.as_ref().map_err(|what| ExchangeError::SetUp { what: what.clone() })
    }
}

/// The client of a profile that shows a certificate in TLS handshakes. It is made anew for another
/// certificate, so that no connection and no session of the old one is used again.
#[derive(Default)]
pub(super) struct Showing(Mutex<Option<(Fingerprint, reqwest::Client)>>);

impl Showing {
    /// The client for `url`, always of the same host.
    ///
    /// # Errors
    /// [`ExchangeError::SetUp`] when TLS cannot be set up.
    pub(super) fn client(
        &self,
        url: &Url,
        certificate: &Certificate,
    ) -> Result<reqwest::Client, ExchangeError> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let print = certificate.fingerprint();
        if let Some((_, client)) = last.as_ref().filter(|(of, _)| *of == print) {
            return Ok(client.clone());
        }
        let identity = reqwest::Identity::from_pem(certificate.pem().expose().as_bytes());
        let made = identity
            .map_err(|error| innermost(&error))
            .and_then(|identity| built(builder(url).identity(identity)));
        let client = made.map_err(|what| ExchangeError::SetUp { what })?;
        *last = Some((print, client.clone()));
        Ok(client)
    }
}

fn builder(url: &Url) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder();
    if url.scheme() == "http" {
        builder.no_proxy().tls_certs_only([])
    } else if is_loopback(url) {
        builder.no_proxy()
    } else {
        builder
    }
}

fn built(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, String> {
    builder
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_CONNECTION)
        .user_agent(concat!("keybearer/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| innermost(&error))
}

/// The proxy of the gateway's environment that a request to `url` goes through.
pub fn outbound_proxy(url: &Url) -> Option<Url> {
    if url.scheme() == "http" || is_loopback(url) {
        return None;
    }
    let uri = url.as_str().parse().ok()?;
    let intercept = hyper_util::client::proxy::matcher::Matcher::from_env().intercept(&uri)?;
    Url::parse(&intercept.uri().to_string()).ok()
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
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
