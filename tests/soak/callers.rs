//! Callers of every kind, each with one request after the other.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use reqwest::{Client, Method};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::watch, task::JoinSet};

use crate::Soak;

/// No answer may take longer: the gateway's own limits are 3 s, twice over for a retry, and then some for
/// a machine that does other things.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Larger than what a connection takes at once, smaller than what is kept for a second attempt.
const UPLOAD_MAX: usize = 300_000;

/// What a kind of caller does.
#[derive(Clone, Copy)]
struct Kind {
    is_http2: bool,
    /// A connection of its own for every request, whose certificate may be a second old.
    is_tls: bool,
    method: &'static str,
    path: &'static str,
    count: usize,
    /// Between two requests, at most.
    pause_ms: u64,
}

const KINDS: [Kind; 10] = [
    Kind { is_http2: false, is_tls: true, method: "GET", path: "/gentle", count: 1, pause_ms: 400 },
    Kind { is_http2: true, is_tls: true, method: "PUT", path: "/gentle", count: 1, pause_ms: 400 },
    Kind { is_http2: false, is_tls: false, method: "GET", path: "/gentle", count: 6, pause_ms: 200 },
    Kind { is_http2: true, is_tls: false, method: "GET", path: "/gentle", count: 6, pause_ms: 200 },
    Kind { is_http2: false, is_tls: false, method: "PUT", path: "/gentle", count: 3, pause_ms: 300 },
    Kind { is_http2: true, is_tls: false, method: "PUT", path: "/gentle", count: 3, pause_ms: 300 },
    Kind { is_http2: false, is_tls: false, method: "POST", path: "/gentle", count: 2, pause_ms: 300 },
    Kind { is_http2: false, is_tls: false, method: "GET", path: "/rough", count: 2, pause_ms: 100 },
    Kind { is_http2: true, is_tls: false, method: "POST", path: "/rough", count: 2, pause_ms: 100 },
    Kind { is_http2: false, is_tls: false, method: "POST", path: "/rough", count: 2, pause_ms: 100 },
];
/// Callers that hang up in the middle.
const RUDE: usize = 2;

/// Starts all of them. They end, each after an answer, when `stopped` turns true.
pub(crate) fn start(soak: &Arc<Soak>, stopped: &watch::Receiver<bool>) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for kind in KINDS {
        for _ in 0..kind.count {
            callers.spawn(call(Arc::clone(soak), stopped.clone(), kind));
        }
    }
    for _ in 0..RUDE {
        callers.spawn(hang_up(Arc::clone(soak), stopped.clone()));
    }
    callers
}

async fn call(soak: Arc<Soak>, stopped: watch::Receiver<bool>, kind: Kind) {
    let builder = Client::builder().no_proxy().timeout(ANSWER_MAX);
    let builder = match (kind.is_tls, kind.is_http2) {
        (true, is_http2) => {
            let builder = builder.tls_certs_only([soak.authority()]).pool_max_idle_per_host(0);
            if is_http2 { builder } else { builder.http1_only() }
        }
        (false, true) => builder.http2_prior_knowledge(),
        (false, false) => builder.http1_only(),
    };
    let client = builder.build().unwrap();
    while !*stopped.borrow() {
        request(&soak, &client, kind).await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..kind.pause_ms))).await;
    }
}

/// One request and its outcome.
async fn request(soak: &Soak, client: &Client, kind: Kind) {
    let path = format!("{}/{:016x}", kind.path, fastrand::u64(..));
    let body = if kind.method == "GET" { Vec::new() } else { noise(fastrand::usize(0..UPLOAD_MAX)) };
    let sum: String = digest(&SHA256, &body).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let method = Method::from_bytes(kind.method.as_bytes()).unwrap();
    let mut request = client.request(method, soak.url(kind.is_tls, &path));
    if kind.method != "GET" {
        request = request.body(body.clone());
    }
    let tally = &soak.tally;
    let (version, tls) = (if kind.is_http2 { 2 } else { 1 }, if kind.is_tls { " and TLS" } else { "" });
    let name = format!("{} {path} over HTTP/{version}{tls}", kind.method);
    // A POST is not sent twice when its connection has broken (RFC 9110 §9.2.2), and over the rough
    // layer anything can break.
    let may_fail = kind.path == "/rough" || kind.method == "POST";
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return tally.lost(format!("{name}: no answer: {}", causes(&error))),
    };
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let is_fault = headers.contains_key("proxy-status");
    match response.bytes().await {
        Ok(answer) if status == 200 => {
            let echo: Value = serde_json::from_slice(&answer).unwrap_or_default();
            if echo["path"] == path.as_str()
                && echo["body"]["sha256"] == sum.as_str()
                && echo["headers"]["authorization"] == 1
            {
                tally.answered();
            } else {
                tally.lost(format!("{name}: a wrong answer: {echo}"));
            }
        }
        Ok(answer) => {
            // Where the second attempt could not be made either, the caller gets the first 401.
            let is_passed_on = kind.path == "/rough" && status == 401;
            let expected = may_fail && is_fault && matches!(status, 502 | 504) || is_passed_on;
            if expected {
                tally.fault();
            } else {
                tally.lost(format!("{name}: {status} {}", String::from_utf8_lossy(&answer)));
            }
        }
        // The API's small answers are cut only by the rough layer.
        Err(_) if kind.path == "/rough" => tally.cut(),
        Err(error) => tally.lost(format!("{name}: {status}, and then {}", causes(&error))),
    }
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::new().fill(&mut bytes);
    bytes
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// Callers that begin a request, or wait for an answer, and are gone.
async fn hang_up(soak: Arc<Soak>, stopped: watch::Receiver<bool>) {
    let heads = [
        "GET /gentle/left HTT",
        "GET /gentle/left HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /gentle/left HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nsome of it",
        "POST /gentle/left HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "GET /rough/left HTTP/1.1\r\nHost: a\r\n\r\nGET /rough/left HTTP/1.1\r\nHost: a\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    while !*stopped.borrow() {
        if let Ok(mut stream) = TcpStream::connect(soak.gateway.listener("local").unwrap()).await {
            let _ = stream.write_all(heads[fastrand::usize(..heads.len())].as_bytes()).await;
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..50))).await;
            soak.tally.left();
        }
    }
}
