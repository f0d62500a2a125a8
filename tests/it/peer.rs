//! Upstreams that speak TLS and HTTP/2, and tell what they saw.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;
use x509_parser::time::ASN1Time;

/// A certificate authority of a test's own.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// The file with its own certificate.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Certificate and key for `name`, in files.
    pub(crate) fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        self.issue_for(name, None)
    }

    /// The same with so many days of life.
    pub(crate) fn issue_for(&self, name: &str, days: Option<u64>) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        if let Some(days) = days {
            let span = keybearer::clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap();
            let end = span.as_secs() + days * 86_400 + 3600;
            params.not_after = ASN1Time::from_timestamp(end.cast_signed()).unwrap().to_datetime();
        }
        let made = params.signed_by(&key, &self.issuer).unwrap();
        let files = ["pem", "key"].map(|end| self.folder.path().join(format!("{name}.{end}")));
        fs::write(&files[0], made.pem()).unwrap();
        fs::write(&files[1], key.serialize_pem()).unwrap();
        let [certificate, key] = files;
        (certificate, key)
    }
}

/// How a peer does TLS.
pub(crate) struct Tls<'a> {
    pub(crate) authority: &'a Authority,
    pub(crate) name: &'a str,
    pub(crate) alpn: &'a [&'a str],
    pub(crate) versions: &'a [&'static SupportedProtocolVersion],
    /// Asks for a certificate of the authority.
    pub(crate) asks: bool,
    /// For how long its certificate is valid; a very long time when absent.
    pub(crate) days: Option<u64>,
}

impl<'a> Tls<'a> {
    pub(crate) fn new(authority: &'a Authority) -> Self {
        let versions = rustls::ALL_VERSIONS;
        Self { authority, name: "localhost", alpn: &["h2", "http/1.1"], versions, asks: false, days: None }
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_protocol_versions(self.versions).unwrap();
        let builder = if self.asks {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(self.authority.file()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let (certificate, key) = self.authority.issue_for(self.name, self.days);
        let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
        let mut config = builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap();
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// One request, as a peer saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) version: Version,
    pub(crate) authority: String,
    pub(crate) authorization: String,
    /// The name in the caller's certificate is not read; that there is one is enough.
    pub(crate) has_certificate: bool,
    pub(crate) fields: Vec<String>,
}

/// What a peer's connections share.
#[derive(Default)]
struct Facts {
    accepted: AtomicUsize,
    open: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
    refused: Mutex<Vec<String>>,
    streams_max: Option<u32>,
}

/// An upstream that speaks HTTP/1.1 and HTTP/2.
///
/// It answers with the length of the request's body. What lies under `/v1/slow` waits until it is
/// released. `/v1/socket` becomes a WebSocket that greets and then echoes, on HTTP/1.1 only.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    facts: Arc<Facts>,
    release: watch::Sender<bool>,
}

impl Peer {
    pub(crate) async fn start(tls: Option<Tls<'_>>) -> Self {
        Self::with_streams(tls, None).await
    }

    /// One that takes so many requests at a time on an HTTP/2 connection.
    pub(crate) async fn with_streams(tls: Option<Tls<'_>>, streams_max: Option<u32>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (release, released) = watch::channel(false);
        let facts = Arc::new(Facts { streams_max, ..Facts::default() });
        let (shared, acceptor) = (Arc::clone(&facts), tls.map(|tls| tls.acceptor()));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (facts, released) = (Arc::clone(&shared), released.clone());
                let acceptor = acceptor.clone();
                tokio::spawn(serve(tcp, acceptor, facts, released));
            }
        });
        Self { address, facts, release }
    }

    pub(crate) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://localhost:{}", self.address.port())
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.facts.accepted.load(Ordering::SeqCst)
    }

    /// Connections now.
    pub(crate) fn open(&self) -> usize {
        self.facts.open.load(Ordering::SeqCst)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.facts.seen.lock().unwrap().clone()
    }

    /// Answers 401 at once to this credential, without reading bodies.
    pub(crate) fn refuse(&self, authorization: &str) {
        self.facts.refused.lock().unwrap().push(authorization.to_owned());
    }

    pub(crate) fn release(&self) {
        self.release.send_replace(true);
    }

    /// What lies under `/v1/slow` waits again.
    pub(crate) fn hold(&self) {
        self.release.send_replace(false);
    }
}

async fn serve(
    tcp: TcpStream,
    acceptor: Option<TlsAcceptor>,
    facts: Arc<Facts>,
    released: watch::Receiver<bool>,
) {
    let open = Arc::new(Open::count(facts));
    match acceptor {
        None => http(tcp, None, false, open, released).await,
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(tcp).await {
                let (_, session) = stream.get_ref();
                let is_http2 = session.alpn_protocol() == Some(b"h2");
                let has_certificate = session.peer_certificates().is_some();
                http(stream, Some(is_http2), has_certificate, open, released).await;
            }
        }
    }
}

/// Lives as long as a connection does, whatever is spoken on it.
struct Open(Arc<Facts>);

impl Open {
    fn count(facts: Arc<Facts>) -> Self {
        facts.accepted.fetch_add(1, Ordering::SeqCst);
        facts.open.fetch_add(1, Ordering::SeqCst);
        Self(facts)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Without TLS it is HTTP/2 that is expected.
async fn http(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    is_http2: Option<bool>,
    has_certificate: bool,
    open: Arc<Open>,
    released: watch::Receiver<bool>,
) {
    let streams_max = open.0.streams_max;
    let service = service_fn(move |request: Request<Incoming>| {
        let (open, released) = (Arc::clone(&open), released.clone());
        async move {
            let facts = &open.0;
            let header = |name| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
            let authority = request.uri().authority().map(ToString::to_string).or_else(|| header("host"));
            let seen = Seen {
                version: request.version(),
                authority: authority.unwrap_or_default(),
                authorization: header("authorization").unwrap_or_default(),
                has_certificate,
                fields: request.headers().keys().map(ToString::to_string).collect(),
            };
            let is_refused = facts.refused.lock().unwrap().contains(&seen.authorization);
            facts.seen.lock().unwrap().push(seen);
            Ok::<_, Infallible>(answer(request, is_refused, &open, released).await)
        }
    });
    let _ = match is_http2 {
        Some(false) => {
            let served =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service);
            served.with_upgrades().await
        }
        _ => {
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.max_concurrent_streams(streams_max.or(Some(200)));
            builder.serve_connection(TokioIo::new(io), service).await
        }
    };
}

async fn answer(
    request: Request<Incoming>,
    is_refused: bool,
    open: &Arc<Open>,
    mut released: watch::Receiver<bool>,
) -> Response<Full<Bytes>> {
    if is_refused {
        let challenge = "Bearer error=\"invalid_token\"";
        return Response::builder()
            .status(401)
            .header("www-authenticate", challenge)
            .body(Full::default())
            .unwrap();
    }
    if request.uri().path() == "/v1/socket" && request.version() == Version::HTTP_11 {
        tokio::spawn(greet_and_echo(request, Arc::clone(open)));
        let head = Response::builder().status(101).header("upgrade", "websocket");
        return head.header("connection", "upgrade").body(Full::default()).unwrap();
    }
    if request.uri().path() == "/v1/large" {
        return Response::new(Full::new(Bytes::from(vec![b'x'; 16 << 20])));
    }
    if request.uri().path().starts_with("/v1/slow") {
        let _ = released.wait_for(|is_released| *is_released).await;
    }
    let body = request.into_body().collect().await.map(|body| body.to_bytes().len());
    Response::new(Full::new(Bytes::from(format!("{body:?}"))))
}

async fn greet_and_echo(request: Request<Incoming>, _open: Arc<Open>) -> std::io::Result<()> {
    let stream = hyper::upgrade::on(request).await.map_err(std::io::Error::other)?;
    let (mut read, mut write) = tokio::io::split(TokioIo::new(stream));
    write.write_all(b"welcome ").await?;
    tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await
}

/// What a scripted peer does about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// 200, when its body has come.
    Answer,
    /// RST_STREAM with REFUSED_STREAM, at once.
    Refuse,
    /// RST_STREAM with INTERNAL_ERROR, at once.
    Reset,
    /// GOAWAY with NO_ERROR and the last answered stream, at once.
    GoAway,
    /// Closes the connection without a word.
    Close,
    /// Says nothing any more, to nobody.
    Silence,
}

/// An HTTP/2 upstream without TLS that does as its script says, frame by frame.
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    bodies: Arc<Mutex<Vec<usize>>>,
}

impl Scripted {
    /// `script` is asked with the numbers of the connection and of the request on it, from 1.
    pub(crate) async fn start(script: impl Fn(usize, usize) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, bodies) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<usize>>>::default());
        let (counter, lengths, script) = (Arc::clone(&accepted), Arc::clone(&bodies), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let connection = counter.fetch_add(1, Ordering::SeqCst) + 1;
                let (lengths, script) = (Arc::clone(&lengths), Arc::clone(&script));
                tokio::spawn(async move {
                    let act = |request| script(connection, request);
                    let _ = frames(tcp, act, &lengths).await;
                });
            }
        });
        Self { address, accepted, bodies }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// The lengths of the bodies that were answered.
    pub(crate) fn answered(&self) -> Vec<usize> {
        self.bodies.lock().unwrap().clone()
    }
}

async fn frames(
    mut tcp: TcpStream,
    act: impl Fn(usize) -> Act,
    answered: &Mutex<Vec<usize>>,
) -> std::io::Result<()> {
    const END_STREAM: u8 = 1;
    const ACK: u8 = 1;
    let mut preface = [0; 24];
    tcp.read_exact(&mut preface).await?;
    frame(&mut tcp, 4, 0, 0, &[]).await?;
    let mut bodies: BTreeMap<u32, usize> = BTreeMap::new();
    let (mut requests, mut last) = (0, 0);
    loop {
        let mut head = [0; 9];
        tcp.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        let mut payload = vec![0; length];
        tcp.read_exact(&mut payload).await?;
        match kind {
            1 => {
                requests += 1;
                match act(requests) {
                    Act::Answer => {
                        bodies.insert(stream, 0);
                    }
                    Act::Refuse => frame(&mut tcp, 3, 0, stream, &7u32.to_be_bytes()).await?,
                    Act::Reset => frame(&mut tcp, 3, 0, stream, &2u32.to_be_bytes()).await?,
                    Act::GoAway => {
                        let payload = [u32::to_be_bytes(last), [0; 4]].concat();
                        frame(&mut tcp, 7, 0, 0, &payload).await?;
                    }
                    Act::Close => return Ok(()),
                    Act::Silence => std::future::pending().await,
                }
            }
            0 => {
                if let Some(body) = bodies.get_mut(&stream) {
                    *body += length;
                }
                let grant = u32::try_from(length.max(1)).unwrap().to_be_bytes();
                frame(&mut tcp, 8, 0, 0, &grant).await?;
                if flags & END_STREAM == 0 {
                    frame(&mut tcp, 8, 0, stream, &grant).await?;
                }
            }
            4 if flags & ACK == 0 => frame(&mut tcp, 4, ACK, 0, &[]).await?,
            6 if flags & ACK == 0 => frame(&mut tcp, 6, ACK, 0, &payload).await?,
            _ => {}
        }
        if matches!(kind, 0 | 1)
            && flags & END_STREAM != 0
            && let Some(body) = bodies.remove(&stream)
        {
            answered.lock().unwrap().push(body);
            last = stream;
            // `:status: 200`, the end of headers and of the stream.
            frame(&mut tcp, 1, 5, stream, &[0x88]).await?;
        }
    }
}

async fn frame(tcp: &mut TcpStream, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    tcp.write_all(&bytes).await
}
