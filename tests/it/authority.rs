//! A certificate authority, and callers that speak TLS, made of the same library as the gateway's but
//! with every choice open.

use std::{fs, io, net::SocketAddr, path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::stage::PATIENCE;

pub(crate) static TLS_1_2: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
pub(crate) static TLS_1_3: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pub(crate) pem: String,
}

/// A certificate with its key.
pub(crate) struct Issued {
    pub(crate) pem: String,
    pub(crate) key: String,
    pub(crate) der: CertificateDer<'static>,
    secret: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        // Its own name: OpenSSL takes a certificate whose issuer is named like itself for self-signed.
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "an authority of the tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let made = params.self_signed(&key).unwrap();
        let (certificate, pem) = (made.der().clone(), made.pem());
        Self { issuer: Issuer::new(params, key), certificate, pem }
    }

    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        self.sign(
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap(),
        )
    }

    /// A caller's certificate, as most authorities make it: the name is its subject.
    pub(crate) fn issue_to(&self, subject: &str) -> Issued {
        let mut params = CertificateParams::new([subject.to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject);
        self.sign(params)
    }

    pub(crate) fn issue_expired(&self, name: &str) -> Issued {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2020, 1, 2);
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &self.issuer).unwrap();
        Issued {
            pem: made.pem(),
            key: key.serialize_pem(),
            der: made.der().clone(),
            secret: key.serialize_der(),
        }
    }

    /// What a caller is configured with that trusts this authority.
    pub(crate) fn caller(&self) -> Caller<'_> {
        Caller { authority: self, identity: None, versions: rustls::ALL_VERSIONS, alpn: &[] }
    }
}

impl Issued {
    /// The key as PKCS#8.
    pub(crate) fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// Writes `NAME.pem` and `NAME.key`.
    pub(crate) fn write(&self, folder: &Path, name: &str) {
        fs::write(folder.join(format!("{name}.pem")), &self.pem).unwrap();
        fs::write(folder.join(format!("{name}.key")), &self.key).unwrap();
    }
}

/// A caller to be.
#[derive(Clone, Copy)]
pub(crate) struct Caller<'a> {
    authority: &'a Authority,
    identity: Option<&'a Issued>,
    versions: &'static [&'static SupportedProtocolVersion],
    alpn: &'static [&'static str],
}

impl<'a> Caller<'a> {
    /// Shows this certificate when it is asked for one.
    pub(crate) fn with(mut self, identity: &'a Issued) -> Self {
        self.identity = Some(identity);
        self
    }

    pub(crate) fn versions(mut self, versions: &'static [&'static SupportedProtocolVersion]) -> Self {
        self.versions = versions;
        self
    }

    pub(crate) fn alpn(mut self, alpn: &'static [&'static str]) -> Self {
        self.alpn = alpn;
        self
    }

    /// Connections made of one of these share their sessions.
    pub(crate) fn config(self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(self.versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let key = PrivateKeyDer::try_from(identity.secret.clone()).unwrap();
                builder.with_client_auth_cert(vec![identity.der.clone()], key).unwrap()
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    pub(crate) async fn connect(self, address: SocketAddr, name: &str) -> io::Result<TlsStream<TcpStream>> {
        connect(&self.config(), address, name).await
    }

    /// The whole way: a connection for `name`, one request, the answer.
    pub(crate) async fn get(self, address: SocketAddr, name: &str) -> io::Result<String> {
        let mut stream = self.connect(address, name).await?;
        get(&mut stream, name).await
    }
}

/// Asks for `name` by SNI, unless it is an IP address.
pub(crate) async fn connect(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connecting = TlsConnector::from(Arc::clone(config)).connect(name, stream);
    tokio::time::timeout(PATIENCE, connecting).await.expect("the handshake ends, one way or the other")
}

/// One request on a connection that stays open, and the answer.
pub(crate) async fn get(stream: &mut TlsStream<TcpStream>, host: &str) -> io::Result<String> {
    let request = format!("GET /v1/orders HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let reading = async {
        while !is_complete(&answer) {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the answer comes, or the end")
}

/// Whether a head and as many bytes as it says are there.
fn is_complete(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    match length {
        Some(length) => body.len() >= length.trim().parse().unwrap(),
        None => body.ends_with("0\r\n\r\n"),
    }
}

/// The certificate that the gateway has shown.
pub(crate) fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

pub(crate) fn is_resumed(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
}

pub(crate) fn version(stream: &TlsStream<TcpStream>) -> ProtocolVersion {
    stream.get_ref().1.protocol_version().unwrap()
}
