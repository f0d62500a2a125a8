//! Upstreams: from the file's words to origins, and everything that could be wrong with one.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use http::uri::PathAndQuery;
use rustls::pki_types::ServerName;
use url::Host;

use super::{
    field::{Field, given},
    file_upstreams::{self, FullUpstream, PemFile, TlsVersion, Upstream},
    routes::Trip,
    tree::Position,
    urls,
};
use crate::{
    route::pattern::PathPrefix,
    upstream::{
        Http2, Identity, MinTls, Origin, Scheme,
        tls::{self, PemError},
    },
};

/// Below, connecting would be most of the work; above, it is no limit.
const MAX_AGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);

/// What was found: the place of the URL, the origin, and the path in front of all paths.
pub(super) type Found = (Position, Origin, Option<PathAndQuery>);

/// The upstream of one route.
pub(super) fn lower(trip: &Trip<'_>, at: Position, upstream: &Upstream) -> Option<Found> {
    let (at, text) = match upstream {
        Upstream::Url(text) => (at, text),
        Upstream::Full(full) => full.url.get()?,
    };
    let mut origin = origin(trip, at, text)?;
    if let Upstream::Full(full) = upstream {
        Connecting { trip, full }.settle(&mut origin);
    }
    let path = urls::raw_path(text).trim_end_matches('/');
    let folded = urls::raw_path(text).len() - path.len() <= 1;
    if path.is_empty() && folded {
        return Some((at, origin, None));
    }
    let canonical = PathPrefix::parse(path).map_err(|e| trip.problem(at, format_args!("upstream: {e}"))).ok();
    if canonical.is_some() && !folded {
        trip.problem(at, "upstream: the path ends with more than one slash (one or none is the same)");
    }
    let base = PathAndQuery::try_from(canonical?.as_str()).ok()?;
    Some((at, origin, Some(base)))
}

fn origin(trip: &Trip<'_>, at: Position, text: &str) -> Option<Origin> {
    let url = match urls::server(text) {
        Ok(url) if url.query().is_none() => url,
        Ok(_) => {
            trip.problem(at, "upstream: a query is not allowed (the caller's is passed on)");
            return None;
        }
        Err(words) => {
            trip.problem(at, format_args!("upstream: {words}"));
            return None;
        }
    };
    let scheme = if url.scheme() == "https" { Scheme::Https } else { Scheme::Http };
    let host = match url.host()? {
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(ip) => ip.to_string(),
        Host::Ipv6(ip) => ip.to_string(),
    };
    let port = url.port_or_known_default()?;
    if port == 0 {
        trip.problem(at, "upstream: nothing listens on port 0 (write the port, or leave it out)");
    }
    Some(Origin::new(scheme, host, port))
}

/// How to connect, beside the URL.
struct Connecting<'a> {
    trip: &'a Trip<'a>,
    full: &'a FullUpstream,
}

impl Connecting<'_> {
    fn settle(&self, origin: &mut Origin) {
        if origin.scheme == Scheme::Http {
            self.refuse_tls_keys();
        }
        origin.ca = self.authorities();
        origin.identity = self.identity();
        origin.server_name = self.server_name();
        if let Some((_, TlsVersion::Tls13)) = given(&self.full.min_tls) {
            origin.min_tls = MinTls::Tls13;
        }
        origin.http2 = self.http2(origin.scheme);
        let place = format!("route {:?}: upstream.max_age", self.trip.name);
        origin.max_age = self.trip.cx.duration(&place, &self.full.max_age, MAX_AGE, Origin::MAX_AGE);
    }

    fn problem(&self, at: Position, message: impl std::fmt::Display) {
        self.trip.problem(at, format_args!("upstream.{message}"));
    }

    fn refuse_tls_keys(&self) {
        let FullUpstream { ca, certificate, key, server_name, min_tls, .. } = self.full;
        let given = [
            ("ca", place(ca)),
            ("certificate", place(certificate)),
            ("key", place(key)),
            ("server_name", place(server_name)),
            ("min_tls", place(min_tls)),
        ];
        for (name, at) in given {
            if let Some(at) = at {
                let words = "plain http has no TLS (write https, or remove";
                self.problem(at, format_args!("{name}: {words} {name})"));
            }
        }
    }

    fn authorities(&self) -> Option<PathBuf> {
        let (at, path) = self.file("ca", &self.full.ca)?;
        if let Err(error) = tls::authorities(&path) {
            self.missing(at, "ca", &error);
        }
        Some(path)
    }

    fn identity(&self) -> Option<Identity> {
        let (certificate, key) =
            (self.file("certificate", &self.full.certificate), self.file("key", &self.full.key));
        match (place(&self.full.certificate), place(&self.full.key)) {
            (Some(at), None) => self.problem(at, "certificate: its key is missing (write key: {file: PATH})"),
            (None, Some(at)) => {
                self.problem(at, "key: its certificate is missing (write certificate: {file: PATH})");
            }
            _ => {}
        }
        let ((certificate_at, certificate), (key_at, key)) = (certificate?, key?);
        let unreadable = [
            tls::certificates(&certificate).err().map(|error| (certificate_at, "certificate", error)),
            tls::private_key(&key).err().map(|error| (key_at, "key", error)),
        ];
        let are_readable = unreadable.iter().all(Option::is_none);
        for (at, name, error) in unreadable.into_iter().flatten() {
            self.missing(at, name, &error);
        }
        let files = Identity { certificate, key };
        if are_readable && let Err(error) = tls::identity(&files) {
            let is_key = error.path() == files.key;
            let (at, name) = if is_key { (key_at, "key") } else { (certificate_at, "certificate") };
            self.missing(at, name, &error);
        }
        Some(files)
    }

    fn file(&self, name: &str, field: &Option<Field<PemFile>>) -> Option<(Position, PathBuf)> {
        let (at, text) = given(field).and_then(|(_, pem)| pem.file.get())?;
        if text.is_empty() {
            self.problem(at, format_args!("{name}.file: the path is empty"));
            return None;
        }
        if text.contains("-----BEGIN") {
            self.trip.cx.findings.hide(at, 0);
            self.problem(at, format_args!("{name}.file: expected the path of a file, found what is in it"));
            return None;
        }
        Some((at, self.trip.cx.path(text)))
    }

    /// A file may be on the machine that runs the environment and not on this one.
    fn missing(&self, at: Position, name: &str, error: &PemError) {
        self.trip.cx.missing(at, format!("route {:?}: upstream.{name}: {error}", self.trip.name));
    }

    fn server_name(&self) -> Option<String> {
        let (at, name) = given(&self.full.server_name)?;
        if ServerName::try_from(name.as_str()).is_err() {
            let words = "is no host name or address (as in orders.internal; no port)";
            self.problem(at, format_args!("server_name: {name:?} {words}"));
        }
        Some(name.clone())
    }

    fn http2(&self, scheme: Scheme) -> Http2 {
        match given(&self.full.http2) {
            None | Some((_, file_upstreams::Http2::Auto)) => Http2::Auto,
            Some((_, file_upstreams::Http2::Off)) => Http2::Off,
            Some((at, file_upstreams::Http2::PriorKnowledge)) => {
                if scheme == Scheme::Https {
                    let words = "is for plain http (over https the handshake tells: write auto)";
                    self.problem(at, format_args!("http2: prior_knowledge {words}"));
                }
                Http2::PriorKnowledge
            }
        }
    }
}

fn place<T>(field: &Option<Field<T>>) -> Option<Position> {
    field.as_ref().map(|field| field.at)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::generate_simple_self_signed;

    use crate::config::parse;

    /// What is said about an upstream with these files.
    fn said(ca: &str, certificate: &str, key: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("ca", ca);
        write("certificate", certificate);
        write("key", key);
        let text = "listeners: {l: {address: 127.0.0.1:0}}\n\
            routes: {r: {profile: none, upstream: {url: https://a.example, ca: {file: ca}, certificate: {file: certificate}, key: {file: key}}}}";
        let parsed = parse(text, &folder.path().join("keybearer.yaml"), None);
        let said: Vec<String> = match parsed {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(|problem| problem.message.clone()).collect(),
        };
        said.join("\n").replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn pem_files_that_do_not_serve_are_named() {
        let made = generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let other = generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let (pem, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let cut = key.lines().take(2).collect::<Vec<_>>().join("\n");
        let garbled = pem.replace("\nMI", "\n!!");
        let hollow = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (files, expected) in [
            ([&*pem, &*pem, &*key], ""),
            (["", &pem, &key], "route \"r\": upstream.ca: file ca holds no certificate in PEM form"),
            ([&key, &pem, &key], "route \"r\": upstream.ca: file ca holds no certificate in PEM form"),
            (
                [&garbled, &pem, &key],
                "route \"r\": upstream.ca: file ca: the certificate cannot be used (it is not base64 text)",
            ),
            (
                [hollow, &pem, &key],
                "route \"r\": upstream.ca: file ca: the certificate cannot be used (invalid peer certificate: BadEncoding)",
            ),
            (
                [&pem, &key, &pem],
                "route \"r\": upstream.certificate: file certificate holds no certificate in PEM form\n\
                 route \"r\": upstream.key: file key holds no private key in PEM form (an encrypted key cannot be read: store it without a password)",
            ),
            (
                [&pem, &pem, &cut],
                "route \"r\": upstream.key: file key: the private key cannot be used (its END line is missing)",
            ),
            (
                [&pem, &pem, &other.signing_key.serialize_pem()],
                "route \"r\": upstream.key: the key in file key does not belong to the certificate in file certificate",
            ),
        ] {
            let [ca, certificate, key] = files;
            assert_eq!(said(ca, certificate, key), expected);
        }
    }
}
