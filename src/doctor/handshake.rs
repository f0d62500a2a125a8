//! A TLS handshake that remembers the certificates it was shown, also when it fails over them.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::SingleCertAndKey,
    version::{TLS12, TLS13},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    clock,
    doctor::network::{Shows, Tls},
    outbound,
    upstream::{MinTls, tls},
};

/// What a server showed of itself.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// The subject of its certificate, then the issuers as far as they were sent.
    pub(super) chain: Vec<String>,
    /// Days until the certificate expires, negative when it has.
    pub(super) days_left: Option<i64>,
    /// The date of that.
    pub(super) until: Option<String>,
}

/// Shakes hands over `tcp`. The certificate is verified as the gateway would do it.
///
/// # Errors
/// What TLS says, in one line.
pub(super) async fn shake(tcp: TcpStream, wish: &Tls) -> (Result<TlsStream<TcpStream>, String>, Shown) {
    let recorder = match recorder(wish) {
        Ok(recorder) => Arc::new(recorder),
        Err(words) => return (Err(words), Shown::default()),
    };
    let outcome = match config(wish, &recorder) {
        Ok((config, name)) => {
            let connecting = TlsConnector::from(Arc::new(config)).connect(name, tcp);
            connecting.await.map_err(|error| outbound::dated(&error.to_string()))
        }
        Err(words) => Err(words),
    };
    (outcome, recorder.shown())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn recorder(wish: &Tls) -> Result<Recorder, String> {
    let inner: Arc<dyn ServerCertVerifier> = match &wish.ca {
        None => {
            Arc::new(rustls_platform_verifier::Verifier::new(provider()).map_err(|error| error.to_string())?)
        }
        Some(path) => {
            let roots = Arc::new(tls::authorities(path).map_err(|error| error.to_string())?);
            WebPkiServerVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(|error| error.to_string())?
        }
    };
    Ok(Recorder { inner, seen: Mutex::default() })
}

fn config(wish: &Tls, recorder: &Arc<Recorder>) -> Result<(ClientConfig, ServerName<'static>), String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let name = ServerName::try_from(wish.name.clone()).map_err(|error| words(&error))?;
    let versions = match wish.min_tls {
        MinTls::Tls12 => &[&TLS13, &TLS12][..],
        MinTls::Tls13 => &[&TLS13],
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|error| words(&error))?
        // Only remembers: the verdict is that of the verifier inside.
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(recorder) as Arc<dyn ServerCertVerifier>);
    let shown = match &wish.shows {
        Shows::Nothing => None,
        Shows::Files(files) => Some(Arc::new(tls::identity(files).map_err(|error| words(&error))?)),
        Shows::Bound(certificate) => Some(Arc::clone(certificate.certified())),
    };
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown))),
    };
    config.alpn_protocols = wish.protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok((config, name))
}

#[derive(Debug)]
struct Recorder {
    inner: Arc<dyn ServerCertVerifier>,
    seen: Mutex<Vec<CertificateDer<'static>>>,
}

impl Recorder {
    fn shown(&self) -> Shown {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shown = Shown::default();
        for (at, der) in seen.iter().enumerate() {
            let Ok((_, certificate)) = X509Certificate::from_der(der) else { continue };
            if at == 0 {
                let until = certificate.validity().not_after;
                shown.chain.push(printable(&certificate.subject().to_string()));
                shown.days_left = Some((until.timestamp() - now()).div_euclid(86_400));
                shown.until = Some(date(until.timestamp()));
            }
            shown.chain.push(printable(&certificate.issuer().to_string()));
        }
        shown
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let all = std::iter::once(end_entity).chain(intermediates);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) =
            all.map(|certificate| certificate.clone().into_owned()).collect();
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn now() -> i64 {
    let span = clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}

/// `2027-01-31`.
fn date(unix: i64) -> String {
    x509_parser::time::ASN1Time::from_timestamp(unix)
        .map(|time| {
            let date = time.to_datetime().date();
            format!("{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day())
        })
        .unwrap_or_default()
}

fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(120).collect()
}
