//! Where a running gateway is spoken to, and with which token: from the command line, or from its
//! configuration.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use clap::Args;
use url::Url;

use crate::{
    cli::{ConfigArgs, Failure, complaint},
    config::{self, Found},
    listen::Address,
    secret::Secret,
    source::Source,
    upstream::Identity,
};

/// The token's file in the state folder.
const TOKEN_FILE: &str = "admin-token";

/// How commands find the gateway that they speak to.
#[derive(Args)]
pub(super) struct AdminArgs {
    /// The admin listener: ADDRESS:PORT, https://HOST:PORT or unix:PATH; from the configuration when absent
    #[arg(long, value_name = "WHERE", env = "KEYBEARER_ADMIN")]
    admin: Option<String>,
    /// A PEM file with the authority of the admin listener's certificate; the certificate that the
    /// configuration names needs none
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A PEM file with the certificate to show to an admin listener that asks for one (client_ca)
    #[arg(long, value_name = "FILE", env = "KEYBEARER_ADMIN_CERTIFICATE", requires = "key")]
    certificate: Option<PathBuf>,
    /// A PEM file with that certificate's key
    #[arg(long, value_name = "FILE", env = "KEYBEARER_ADMIN_KEY", requires = "certificate")]
    key: Option<PathBuf>,
    /// The file with the admin token, for changes; from the configuration when absent
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The gateway's configuration [default: ./keybearer.yaml, then /etc/keybearer/keybearer.yaml]
    #[arg(short, long, value_name = "FILE", env = "KEYBEARER_CONFIG")]
    config: Option<PathBuf>,
}

/// Where a gateway is spoken to.
pub(super) struct Place {
    /// How it is reached.
    pub(super) door: Door,
    /// For TLS: a file with the authority that is trusted.
    pub(super) ca: Option<PathBuf>,
    /// For TLS: files with the very certificates that the gateway has.
    pub(super) certificates: Vec<PathBuf>,
    /// For TLS: what is shown to a gateway that asks who speaks to it.
    pub(super) identity: Option<Identity>,
    /// Where the token is, or why it is not known.
    token: Result<Source, String>,
}

/// How a gateway is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// `http://…` or `https://…`, without a path.
    Url(Url),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl std::fmt::Display for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url(url) => f.write_str(url.as_str().trim_end_matches('/')),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl AdminArgs {
    /// Where the gateway is.
    pub(super) fn place(&self) -> Result<Place, Failure> {
        let found = match (&self.admin, self.found()) {
            (_, Ok(found)) => Some(found),
            // What the command line says is enough, until a token is wanted.
            (Some(_), Err(_)) => None,
            (None, Err(failure)) => return Err(failure),
        };
        let admin = found.as_ref().and_then(|found| found.admin.as_ref());
        let door = match (&self.admin, admin) {
            (Some(text), _) => door(text)?,
            (None, Some(admin)) => configured(&admin.address, admin.tls.is_some())?,
            (None, None) => {
                return Err(bad(
                    "the configuration has no admin listener to ask (add admin: {address: 127.0.0.1:9901} and start \
                     the gateway anew, or say --admin)",
                ));
            }
        };
        let pairs = admin.and_then(|admin| admin.tls.as_ref()).map(|tls| tls.certificates.iter());
        let certificates = pairs.into_iter().flatten().map(|pair| pair.certificate.clone()).collect();
        let token = self.token(found.as_ref());
        Ok(Place { door, ca: self.ca.clone(), certificates, identity: self.identity(), token })
    }

    fn identity(&self) -> Option<Identity> {
        let (certificate, key) = self.certificate.clone().zip(self.key.clone())?;
        Some(Identity { certificate, key })
    }

    fn found(&self) -> Result<Found, Failure> {
        let path =
            ConfigArgs { config: self.config.clone(), environment: None }.path().map_err(|failure| {
                match failure {
                    Failure::Bad(words) => Failure::Bad(format!(
                        "{}; for a gateway elsewhere, say --admin ADDRESS:PORT\n",
                        words.trim_end()
                    )),
                    failed => failed,
                }
            })?;
        config::find_admin(&path).map_err(|problems| {
            let words = "the admin listener cannot be made out; say --admin ADDRESS:PORT";
            Failure::Bad(format!("{}keybearer: {words}\n", complaint(&path, &problems)))
        })
    }

    fn token(&self, found: Option<&Found>) -> Result<Source, String> {
        if let Some(path) = &self.token_file {
            return Ok(Source::File(path.clone()));
        }
        let Some(found) = found else {
            return Err(
                "no configuration says where the admin token is (say --token-file FILE, or --config FILE)"
                    .into(),
            );
        };
        let named = found.admin.as_ref().and_then(|admin| admin.token.clone());
        let made = || found.state_dir.as_ref().map(|folder| Source::File(folder.join(TOKEN_FILE)));
        named.or_else(made).ok_or_else(|| {
            "the configuration has neither state_dir nor admin.token, so its gateway lets nobody change it over an \
             address (set state_dir and send the gateway SIGHUP, which reloads the file; or use a unix socket)"
                .into()
        })
    }
}

impl Place {
    /// The token for changes; none for a unix socket, whose permissions say who may.
    pub(super) fn secret(&self) -> Result<Option<Secret>, Failure> {
        if let Door::Unix(_) = self.door {
            return Ok(None);
        }
        let source = self.token.as_ref().map_err(|words| bad(words))?;
        source.secret_now().map(Some).map_err(|error| {
            let next = "run this as root or the gateway's user, for instance with sudo, or name another file with \
                        --token-file; the gateway makes its token when it first starts";
            Failure::Failed(anyhow::anyhow!("the admin token is needed for a change: {error}\n  next: {next}"))
        })
    }

    /// Where the token comes from, for people.
    pub(super) fn token_place(&self) -> String {
        self.token.as_ref().map_or_else(Clone::clone, ToString::to_string)
    }
}

/// Where a person says that the gateway is.
fn door(text: &str) -> Result<Door, Failure> {
    let socket = text.strip_prefix("unix:");
    if let Some(path) = socket.filter(|path| !path.is_empty()) {
        return Ok(Door::Unix(path.into()));
    }
    let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&whole).ok().filter(|url| {
        let is_http = matches!(url.scheme(), "http" | "https") && url.has_host();
        is_http && socket.is_none() && url.path() == "/" && url.username().is_empty() && url.query().is_none()
    });
    url.map(Door::Url).ok_or_else(|| {
        bad(&format!(
            "--admin {text:?} is no place (as in 127.0.0.1:9901, https://gateway.internal:9901 or unix:/run/keybearer/admin.sock)"
        ))
    })
}

/// Where the configuration says that it is.
fn configured(address: &Address, has_tls: bool) -> Result<Door, Failure> {
    let ip = match address {
        Address::Unix(socket) => return Ok(Door::Unix(socket.path.clone())),
        Address::Ip(ip) => *ip,
    };
    if ip.port() == 0 {
        return Err(bad("admin.address has port 0; the log of the gateway tells the real one (say --admin)"));
    }
    // One that listens everywhere listens here.
    let here = match ip.ip() {
        IpAddr::V4(all) if all.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(all) if all.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        one => one,
    };
    door(&format!("{}://{}", if has_tls { "https" } else { "http" }, SocketAddr::new(here, ip.port())))
}

fn bad(words: &str) -> Failure {
    Failure::Bad(format!("keybearer: {words}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_people_write_them() {
        for (text, shown) in [
            ("127.0.0.1:9901", "http://127.0.0.1:9901"),
            ("[::1]:9901", "http://[::1]:9901"),
            ("localhost:9901", "http://localhost:9901"),
            ("http://127.0.0.1:9901/", "http://127.0.0.1:9901"),
            ("https://gateway.internal:9901", "https://gateway.internal:9901"),
            ("unix:/run/keybearer/admin.sock", "unix:/run/keybearer/admin.sock"),
        ] {
            assert_eq!(door(text).ok().map(|door| door.to_string()).as_deref(), Some(shown), "{text}");
        }
        for text in ["", "unix:", "ftp://a", "http://a/api", "https://u@a", "127.0.0.1:99999"] {
            assert!(door(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_listener_for_everybody_is_asked_here() {
        let shown = |address: &str, has_tls| {
            configured(&Address::Ip(address.parse().unwrap()), has_tls).ok().map(|door| door.to_string())
        };
        assert_eq!(shown("0.0.0.0:9901", true).as_deref(), Some("https://127.0.0.1:9901"));
        assert_eq!(shown("[::]:9901", true).as_deref(), Some("https://[::1]:9901"));
        assert_eq!(shown("127.0.0.1:9901", false).as_deref(), Some("http://127.0.0.1:9901"));
        assert_eq!(shown("127.0.0.1:0", false), None);
    }
}
