//! Everything but the callers: an identity provider, an upstream, and the gateway as a process.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use keybearer::demo::idp::{Account, Idp, TENANT};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What the upstream answers to everything.
pub(crate) const ANSWER: &[u8] = &[b'x'; 128];

const API: &str = "https://contoso.onmicrosoft.com/bench-api";
const SECRET: &str = "not a secret";

/// What is measured, and what it needs.
pub(crate) struct Scene {
    upstream: SocketAddr,
    secure_upstream: SocketAddr,
    gateway: Gateway,
    certificate: CertificateDer<'static>,
    _folder: TempDir,
}

/// The gateway's process, killed when dropped.
struct Gateway {
    process: Child,
    address: SocketAddr,
    secure_address: SocketAddr,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the thread of the servers tells when they listen.
struct Servers {
    idp: String,
    upstream: SocketAddr,
    secure_upstream: SocketAddr,
}

impl Scene {
    pub(crate) fn build() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("server.pem"), made.cert.pem()).expect("a file");
        fs::write(path("server.key"), made.signing_key.serialize_pem()).expect("a file");
        fs::write(path("secret"), SECRET).expect("a file");
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let tls = acceptor(certificate.clone(), key);
        let (send, receive) = std::sync::mpsc::channel();
        // Ends with the process: a bench is over when its callers are.
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(serve_all(tls, &send));
        });
        let servers = receive.recv().expect("the servers start");
        fs::write(path("keybearer.yaml"), configuration(&servers)).expect("a file");
        let gateway = Gateway::start(&path("keybearer.yaml"));
        let Servers { upstream, secure_upstream, .. } = servers;
        Self { upstream, secure_upstream, gateway, certificate, _folder: folder }
    }

    pub(crate) fn upstream(&self, is_tls: bool) -> SocketAddr {
        if is_tls { self.secure_upstream } else { self.upstream }
    }

    pub(crate) fn gateway(&self, is_tls: bool) -> SocketAddr {
        if is_tls { self.gateway.secure_address } else { self.gateway.address }
    }

    pub(crate) fn gateway_id(&self) -> u32 {
        self.gateway.process.id()
    }

    /// TLS of a caller that speaks one version of HTTP.
    pub(crate) fn trusting(&self, is_http2: bool) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("the certificate is well-formed");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = config.expect("a provider").with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![if is_http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        TlsConnector::from(Arc::new(config))
    }
}

fn acceptor(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("a provider").with_no_client_auth();
    let mut config = config.with_single_cert(vec![certificate], key).expect("the key is the certificate's");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// The identity provider and the upstream, on one thread.
async fn serve_all(tls: TlsAcceptor, ready: &std::sync::mpsc::Sender<Servers>) {
    let idp = Idp::start().await.expect("a free port");
    idp.add_api(API, "3c2f1f3e-6a3b-4a63-9f64-6f5dbd9a5e30");
    idp.add_account(Account::new("bench", SECRET, &[]));
    let plain = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let secure = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let servers = Servers {
        idp: idp.url().to_owned(),
        upstream: plain.local_addr().expect("it is bound"),
        secure_upstream: secure.local_addr().expect("it is bound"),
    };
    ready.send(servers).expect("the bench waits for it");
    tokio::join!(serve(plain, None), serve(secure, Some(tls)));
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let tls = tls.clone();
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            let service = service_fn(answer);
            // An error is the other end's way to hang up.
            match tls {
                None => drop(server.serve_connection(TokioIo::new(stream), service).await),
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        drop(server.serve_connection(TokioIo::new(stream), service).await);
                    }
                }
            }
        });
    }
}

async fn answer(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(ANSWER))))
}

fn configuration(servers: &Servers) -> String {
    let Servers { idp, upstream, secure_upstream } = servers;
    let port = secure_upstream.port();
    let secure = format!("url: \"https://localhost:{port}\", ca: {{file: server.pem}}");
    format!(
        "listeners:
  plain: {{address: \"127.0.0.1:0\"}}
  secure: {{address: \"127.0.0.1:0\", tls: {{certificate: {{file: server.pem}}, key: {{file: server.key}}}}}}
workers: 1
telemetry: {{log: {{access: false}}}}
profiles:
  bench:
    kind: entra
    authority: {idp}
    tenant: {TENANT}
    client_id: bench
    client_secret: {{file: secret}}
    scope: {API}/.default
routes:
  plain: {{match: {{path: /plain}}, upstream: \"http://{upstream}\", profile: bench}}
  tls-1: {{match: {{path: /tls-1}}, upstream: {{{secure}, http2: off}}, profile: bench}}
  tls-2: {{match: {{path: /tls-2}}, upstream: {{{secure}}}, profile: bench}}
"
    )
}

impl Gateway {
    fn start(config: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_keybearer"))
            .args(["run", "--log-format", "json", "--config"])
            .arg(config)
            .env_remove("KEYBEARER_ENVIRONMENT")
            .env_remove("KEYBEARER_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the gateway starts");
        let mut lines = BufReader::new(process.stderr.take().expect("stderr is piped")).lines();
        let none = SocketAddr::from(([0, 0, 0, 0], 0));
        // From here on, a panic kills the process.
        let mut gateway = Self { process, address: none, secure_address: none };
        while gateway.address == none || gateway.secure_address == none {
            let line = lines.next().expect("the gateway starts").expect("its log is text");
            let entry: serde_json::Value = serde_json::from_str(&line).expect("its log is JSON");
            let text = |name: &str| entry.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
            match (text("listener"), text("address").parse()) {
                ("plain", Ok(address)) => gateway.address = address,
                ("secure", Ok(address)) => gateway.secure_address = address,
                _ => {}
            }
        }
        // A pipe that nobody reads would fill up; the thread ends with the process.
        thread::spawn(move || lines.count());
        gateway
    }
}
