//! Connections that the gateway makes for itself: to identity providers, and to vaults that keep secrets.
//!
//! Here is what all of them have in common: which proxy, which certificate authorities, no redirects, and
//! how a failure reads. Connections to upstreams have nothing to do with it.

use std::{
    error::Error,
    fs,
    hash::{Hash, Hasher},
    io::{self, Read},
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use url::{Host, Url};

use crate::clock;

/// DNS, TCP and TLS, also through a proxy.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Shorter than any usual refresh interval, so that a server's new address is found.
const IDLE_CONNECTION: Duration = Duration::from_secs(30);
/// Every public authority together has a quarter of it.
const CA_BYTES_MAX: u64 = 1024 * 1024;
/// Characters of a reason that are shown.
const SHOWN_MAX: usize = 240;

/// A longer wait would outlive the outage it was meant for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// How a server is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Whether a proxy is between.
    pub proxy: Proxy,
    /// A PEM file with the authorities that are trusted, instead of the system's.
    pub ca: Option<PathBuf>,
}

/// A proxy towards servers. Loopback and link-local addresses are never reached through one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Proxy {
    /// What `HTTPS_PROXY` and `NO_PROXY` of the gateway's environment say.
    #[default]
    Environment,
    /// None.
    Off,
    /// This one, whatever the environment says.
    At(Url),
}

/// Certificate authorities from a file.
#[derive(Clone, Debug)]
pub struct Roots {
    text: Arc<[u8]>,
    certificates: Vec<reqwest::Certificate>,
}

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Roots {}

impl Hash for Roots {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// Why a file gives no certificate authorities.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RootsError {
    /// It could not be read.
    #[error("file {} cannot be read: {} (check the path and that the gateway's user may read it)", .0.display(), unread(*.1))]
    Unreadable(PathBuf, io::ErrorKind),
    /// It hangs.
    #[error("file {} was not read in time (does its file system hang?)", .0.display())]
    Slow(PathBuf),
    /// Reading it may wait for ever.
    #[error("file {} is a pipe or a device, not a file (it is read before every exchange)", .0.display())]
    NoFile(PathBuf),
    /// There is none in it.
    #[error("file {} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)", .0.display())]
    Absent(PathBuf),
    /// One of them is damaged.
    #[error("file {}: a certificate in it is damaged", .0.display())]
    Damaged(PathBuf),
}

fn unread(kind: io::ErrorKind) -> String {
    if kind == io::ErrorKind::NotFound { "no such file".into() } else { kind.to_string() }
}

impl Roots {
    /// Reads the PEM file at `path`. It blocks as long as the file system does.
    ///
    /// # Errors
    /// [`RootsError`].
    pub fn read(path: &Path) -> Result<Self, RootsError> {
        let unreadable = |error: io::Error| RootsError::Unreadable(path.to_owned(), error.kind());
        let there = fs::metadata(path).map_err(unreadable)?;
        if !there.is_file() && !there.is_dir() {
            return Err(RootsError::NoFile(path.to_owned()));
        }
        let mut text = Vec::new();
        fs::File::open(path)
            .and_then(|file| file.take(CA_BYTES_MAX).read_to_end(&mut text))
            .map_err(unreadable)?;
        let damaged = || RootsError::Damaged(path.to_owned());
        let mut certificates = Vec::new();
        for der in CertificateDer::pem_slice_iter(&text) {
            let der = der.map_err(|_| damaged())?;
            if rustls::RootCertStore::empty().add(der.clone()).is_err() {
                return Err(damaged());
            }
            certificates.push(reqwest::Certificate::from_der(&der).map_err(|_| damaged())?);
        }
        if certificates.is_empty() {
            return Err(RootsError::Absent(path.to_owned()));
        }
        Ok(Self { text: text.into(), certificates })
    }
}

/// What a client for `url` begins with. `roots`, when there are some, are all that it trusts: no variable of
/// the environment can add to them.
pub fn builder(url: &Url, proxy: &Proxy, roots: Option<&Roots>) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder();
    let builder = match proxy {
        _ if is_near(url) => builder.no_proxy(),
        Proxy::Environment => builder,
        Proxy::Off => builder.no_proxy(),
        Proxy::At(proxy) => match reqwest::Proxy::all(proxy.clone()) {
            Ok(proxy) => builder.proxy(proxy),
            // A URL that was read is one that a proxy can have.
            Err(_) => builder.no_proxy(),
        },
    };
    match roots {
        // Plain HTTP goes to loopback only, and works on a machine without any certificate.
        _ if url.scheme() == "http" => builder.tls_certs_only([]),
        Some(roots) => builder.tls_certs_only(roots.certificates.clone()),
        None => builder,
    }
}

/// A client that follows no redirect, and speaks HTTP/1.1: a request whose answer was waited for in vain closes its
/// connection. Of HTTP/2 the connection would stay, and be used again and again. A request in an hour gains
/// nothing from it.
///
/// # Errors
/// What is wrong, in words; for instance that there is no root certificate.
pub fn built(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, String> {
    builder
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_CONNECTION)
        .user_agent(concat!("keybearer/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| reason(&error))
}

/// The proxy that a request to `url` goes through.
pub fn proxy_for(url: &Url, proxy: &Proxy) -> Option<Url> {
    if url.scheme() == "http" || is_near(url) {
        return None;
    }
    match proxy {
        Proxy::Off => None,
        Proxy::At(proxy) => Some(proxy.clone()),
        Proxy::Environment => {
            let uri = url.as_str().parse().ok()?;
            let intercept = hyper_util::client::proxy::matcher::Matcher::from_env().intercept(&uri)?;
            Url::parse(&intercept.uri().to_string()).ok()
        }
    }
}

/// What is wrong with the variable that should name the proxy. The library says nothing of one that it cannot read.
pub fn flaw_of_environment() -> Option<String> {
    let named =
        |names: [&'static str; 2]| names.into_iter().find_map(|name| Some((name, std::env::var(name).ok()?)));
    let set = [["HTTPS_PROXY", "https_proxy"], ["ALL_PROXY", "all_proxy"]].into_iter().filter_map(named);
    let (name, _) = set.into_iter().find(|(_, value)| !value.is_empty() && !is_proxy(value))?;
    // The value may hold a password.
    Some(format!("{name} is not the address of a proxy (write for instance http://proxy.example:3128)"))
}

fn is_proxy(value: &str) -> bool {
    let matcher = hyper_util::client::proxy::matcher::Matcher::builder().https(value.to_owned()).build();
    let proxy = matcher.intercept(&http::Uri::from_static("https://login.example/"));
    // The matcher takes more for a port than a number.
    proxy.is_some_and(|proxy| Url::parse(&proxy.uri().to_string()).is_ok())
}

/// Whether `url` is this machine, or a device beside it such as a cloud's metadata service.
pub fn is_near(url: &Url) -> bool {
    let near4 = |ip: Ipv4Addr| ip.is_loopback() || ip.is_link_local();
    let near6 = |ip: Ipv6Addr| ip.is_loopback() || ip.is_unicast_link_local();
    match url.host() {
        Some(Host::Ipv4(ip)) => near4(ip),
        Some(Host::Ipv6(ip)) => ip.to_ipv4_mapped().map_or_else(|| near6(ip), near4),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// `Retry-After` in seconds or as a date (RFC 9110 §10.2.3), capped at an hour. A date is one of the
/// provider's clock, so it is compared with the `Date` of the same answer; our clock may be wrong.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let wait = text(RETRY_AFTER)?;
    let date = |text| httpdate::parse_http_date(text).ok();
    let span = match wait.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let now = text(DATE).and_then(date).unwrap_or_else(clock::wall);
            date(wait)?.duration_since(now).unwrap_or_default()
        }
    };
    Some(span.min(RETRY_AFTER_MAX))
}

/// The innermost cause of a failed request, in one line that says whether TLS or a proxy failed.
pub fn reason(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    let mut through_proxy = innermost.to_string().starts_with("tunnel error");
    while let Some(deeper) = innermost.source() {
        innermost = deeper;
        through_proxy |= innermost.to_string().starts_with("tunnel error");
    }
    let words = printable(&dated(&innermost.to_string()));
    if is_tls(error) {
        format!("the TLS handshake failed: {words}")
    } else if through_proxy {
        format!("the proxy cannot be used: {words}")
    } else {
        words
    }
}

/// The TLS library's words, with dates where it counts seconds since 1970.
pub fn dated(words: &str) -> String {
    let Some((before, rest)) = words.split_once("verification time ") else { return words.to_owned() };
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok());
    let (Some(now), Some(bound)) = (numbers.next().and_then(date), numbers.next().and_then(date)) else {
        return words.to_owned();
    };
    let bounded = if rest.contains("not valid before") { "it is valid from" } else { "it was valid until" };
    format!("{before}{bounded} {bound}, and here it is {now}")
}

/// `2026-11-23 14:30 UTC`.
fn date(unix: i64) -> Option<String> {
    let time = x509_parser::time::ASN1Time::from_timestamp(unix).ok()?.to_datetime();
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    Some(format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", time.hour(), time.minute()))
}

/// Whether a cause is of the TLS library; an I/O error hides what it was made of from `source`.
fn is_tls(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if cause.is::<rustls::Error>() || inner.is_some_and(|inner| is_tls(inner)) {
            return true;
        }
        next = cause.source();
    }
    false
}

/// One line of at most 240 characters without control characters.
pub fn printable(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let mut out: String = line.chars().filter(|c| !c.is_control()).take(SHOWN_MAX).collect();
    if line.chars().nth(SHOWN_MAX).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn what_is_near_is_never_reached_through_a_proxy() {
        let near = |url: &str| is_near(&url.parse().unwrap());
        for url in [
            "https://localhost/",
            "http://127.0.0.1:1/",
            "http://[::1]/",
            "http://169.254.169.254/metadata",
            "http://[fe80::1]/",
            "http://[::ffff:127.0.0.1]/",
        ] {
            assert!(near(url), "{url}");
        }
        for url in ["https://login.example/", "https://10.0.0.1/", "https://[2001:db8::1]/"] {
            assert!(!near(url), "{url}");
        }
    }

    #[test]
    fn a_file_of_authorities_that_does_not_serve_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let said = |text: &str| {
            fs::write(&path, text).unwrap();
            Roots::read(&path).unwrap_err().to_string()
        };
        assert!(said("").contains("holds no certificate"));
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(said(damaged).contains("damaged"));
        let cut = said(damaged.get(..40).unwrap());
        assert!(cut.contains("damaged") || cut.contains("holds no certificate"), "{cut}");
        let error = Roots::read(&folder.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("none cannot be read: no such file"), "{error}");
        assert!(
            Roots::read(Path::new("/dev/zero")).unwrap_err().to_string().contains("is a pipe or a device")
        );
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["a.example".to_owned()]).unwrap();
        fs::write(&path, certificate.self_signed(&key).unwrap().pem()).unwrap();
        assert_eq!(Roots::read(&path).unwrap().certificates.len(), 1);
    }

    #[test]
    fn the_reason_names_tls_also_when_an_io_error_is_around_it() {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let error = io::Error::other(tls);
        assert_eq!(reason(&error), "the TLS handshake failed: invalid peer certificate: UnknownIssuer");
        assert_eq!(reason(&io::Error::other("x\ny")), "x");
    }

    #[test]
    fn an_end_of_a_certificate_is_told_as_a_date() {
        use rustls::{CertificateError::*, pki_types::UnixTime};
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let said = |error| reason(&io::Error::other(rustls::Error::InvalidCertificate(error)));
        let (early, late) = (1_609_459_200, 1_795_955_829);
        assert_eq!(
            said(ExpiredContext { time: at(late), not_after: at(early) }),
            "the TLS handshake failed: invalid peer certificate: certificate expired: it was valid until 2021-01-01 \
             00:00 UTC, and here it is 2026-11-29 12:37 UTC"
        );
        assert_eq!(
            said(NotValidYetContext { time: at(early), not_before: at(late) }),
            "the TLS handshake failed: invalid peer certificate: certificate not valid yet: it is valid from 2026-11-29 \
             12:37 UTC, and here it is 2021-01-01 00:00 UTC"
        );
    }

    #[test]
    fn a_proxy_that_cannot_be_read_is_known() {
        for good in ["http://proxy.example:3128", "proxy.example:3128", "http://joe:secret@proxy.example"] {
            assert!(is_proxy(good), "{good}");
        }
        for bad in ["http://proxy.example:port", "ftp://proxy.example", "http://", "http:/proxy.example:3128"]
        {
            assert!(!is_proxy(bad), "{bad}");
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date_and_is_capped() {
        let read = |text: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]));
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(read("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    /// Read against our clock, a date was "at once" or "in an hour" wherever the two clocks are apart.
    #[test]
    fn a_date_to_ask_again_at_is_one_of_the_providers_clock() {
        let read = |date: &str| {
            let wait = HeaderValue::from_static("Wed, 21 Oct 2015 07:28:00 GMT");
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, wait), (DATE, date.parse().unwrap())]))
        };
        assert_eq!(read("Wed, 21 Oct 2015 07:27:18 GMT"), Some(Duration::from_secs(42)));
        assert_eq!(read("Wed, 21 Oct 2015 07:28:01 GMT"), Some(Duration::ZERO));
        assert_eq!(read("Wed, 21 Oct 2015"), Some(Duration::ZERO), "then against our own clock");
    }
}
