//! An upstream that answers as a function of the test says, over HTTP/1.1 and HTTP/2, and keeps what it saw.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use http::{HeaderMap, Method, Request, Response, Version, request};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use keybearer::{
    app::{self, Running},
    config,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};

/// One request as the upstream read it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    /// All values of a field.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }
}

/// What a test answers with: a status and header fields.
pub(crate) type Verdict = (u16, Vec<(&'static str, String)>);

pub(crate) fn ok() -> Verdict {
    (200, Vec::new())
}

pub(crate) fn challenge(text: &str) -> Verdict {
    (401, vec![("www-authenticate", text.to_owned())])
}

pub(crate) struct Judge {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Judge {
    pub(crate) async fn start(verdict: impl Fn(&Seen) -> Verdict + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (shared, verdict) = (Arc::clone(&seen), Arc::new(verdict));
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (seen, verdict) = (Arc::clone(&shared), Arc::clone(&verdict));
                let service =
                    service_fn(move |request| judge(request, Arc::clone(&seen), Arc::clone(&verdict)));
                let serving = async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(tcp), service).await;
                };
                tokio::spawn(serving);
            }
        });
        Self { address, seen, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn last(&self) -> Seen {
        self.seen().pop().expect("nothing was asked")
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn judge(
    request: Request<Incoming>,
    seen: Arc<Mutex<Vec<Seen>>>,
    verdict: Arc<impl Fn(&Seen) -> Verdict>,
) -> Result<Response<Full<bytes::Bytes>>, Infallible> {
    let (request::Parts { method, uri, version, headers, .. }, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
    let target = uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let one = Seen { method, target, version, headers, body };
    let (status, fields) = verdict(&one);
    seen.lock().unwrap().push(one);
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(name, value);
    }
    Ok(response.body(Full::default()).unwrap())
}

/// A gateway with these profiles and routes; `{folder}`'s files are theirs.
pub(crate) fn gateway(folder: &TempDir, profiles_and_routes: &str) -> Running {
    let text =
        format!("listeners: {{local: {{address: \"127.0.0.1:0\"}}}}\nworkers: 2\n{profiles_and_routes}");
    let loaded = config::parse(&text, &folder.path().join("keybearer.yaml"), None);
    let settings = loaded.unwrap_or_else(|problems| panic!("{problems}\n{text}")).settings;
    app::start(settings, None).unwrap()
}

/// A URL of such a gateway.
pub(crate) fn url(gateway: &Running, path: &str) -> String {
    format!("http://{}{path}", gateway.listener("local").unwrap())
}

/// A caller that changes nothing by itself.
pub(crate) fn caller() -> reqwest::Client {
    let builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    builder.timeout(crate::stage::PATIENCE).build().unwrap()
}
