//! TLS towards a gateway of this machine: the very certificate that its configuration names is trusted, whoever
//! has signed it and whatever name is in it. Others must be of a known authority.

use std::sync::Arc;

use anyhow::anyhow;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    sign::SingleCertAndKey,
};

use crate::{
    cli::{Failure, place::Place},
    upstream::tls,
};

/// How TLS is spoken with the gateway at `place`: its certificate is a known one, or of the authority that is named, or
/// else of one of the system's.
pub(super) fn settings(place: &Place) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let identity = place.identity.as_ref().map(tls::identity).transpose();
    let identity =
        identity.map_err(|error| Failure::Bad(format!("keybearer: --certificate and --key: {error}\n")))?;
    // A file that cannot be read pins nothing: the certificate may still be of a known authority.
    let pinned: Vec<_> =
        place.certificates.iter().filter_map(|path| CertificateDer::from_pem_file(path).ok()).collect();
    let others: Option<Arc<dyn ServerCertVerifier>> = match &place.ca {
        Some(path) => {
            let roots = tls::authorities(path)
                .map_err(|error| Failure::Bad(format!("keybearer: --ca: {error}\n")))?;
            Some(of_roots(roots, &provider)?)
        }
        None => match rustls_platform_verifier::Verifier::new(Arc::clone(&provider)) {
            Ok(verifier) => Some(Arc::new(verifier)),
            // A machine without authorities can still talk to a gateway whose certificate is pinned.
            Err(_) => None,
        },
    };
    let verifier = Pinned { pinned, others, provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| anyhow!("TLS cannot be set up: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Ok(match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))),
        None => builder.with_no_client_auth(),
    })
}

fn of_roots(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Failure> {
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    Ok(verifier.map_err(|error| anyhow!("TLS cannot be set up: {error}"))?)
}

#[derive(Debug)]
struct Pinned {
    pinned: Vec<CertificateDer<'static>>,
    others: Option<Arc<dyn ServerCertVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.pinned.iter().any(|known| known == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        match &self.others {
            Some(others) => {
                others.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Err(rustls::CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
