//! TLS to the identity endpoint of a Service Fabric cluster: one certificate, known by its thumbprint.
//!
//! No authority signs that certificate and its name means nothing. The cluster gives its SHA-1 in the
//! environment, and that is all there is to compare with; the handshake still has to prove the key.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs::default_provider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

/// TLS that takes only the certificate with this SHA-1 in hexadecimal.
///
/// # Errors
/// When it is no such number.
pub(super) fn tls(thumbprint: &str) -> Result<ClientConfig, String> {
    let sha1 = read(thumbprint)
        .ok_or("IDENTITY_SERVER_THUMBPRINT is not the SHA-1 of a certificate (40 hexadecimal digits)")?;
    let provider = Arc::new(default_provider());
    let pinned = Arc::new(Pinned { sha1, provider: Arc::clone(&provider) });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(pinned)
        .with_no_client_auth();
    Ok(config)
}

fn read(thumbprint: &str) -> Option<[u8; 20]> {
    let digits: Vec<u8> = thumbprint.bytes().filter(|b| !matches!(b, b':' | b' ')).collect();
    let mut out = [0; 20];
    if digits.len() != 2 * out.len() {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok().filter(|p| p.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(out)
}

#[derive(Debug)]
struct Pinned {
    sha1: [u8; 20],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, end_entity);
        if shown.as_ref() == self.sha1 {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::General("its certificate is not the one with IDENTITY_SERVER_THUMBPRINT".into()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbprint_is_forty_digits_in_any_case_and_grouping() {
        let digits = "00FF".repeat(10);
        assert_eq!(read(&digits), read(&digits.to_lowercase()));
        assert_eq!(read(&digits).map(|sha1| (sha1[0], sha1[1])), Some((0, 0xff)));
        let grouped: Vec<_> = (0..20).map(|i| digits.get(2 * i..2 * i + 2).unwrap()).collect();
        assert_eq!(read(&grouped.join(":")), read(&digits));
        for wrong in ["", "00", &"0g".repeat(20), &"00".repeat(32), &"+1".repeat(20)] {
            assert!(read(wrong).is_none(), "{wrong}");
        }
    }
}
