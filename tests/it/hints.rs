//! What comes before an answer over HTTP/2: early hints, and the leave to send a long body.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use bytes::Bytes;
use h2::{RecvStream, client, server};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::net::{TcpListener, TcpStream};

use crate::stage::{PATIENCE, Plan, Stage, eventually, fault};

type Reply = server::SendResponse<Bytes>;

/// An upstream that speaks HTTP/2 without TLS, and serves every request by `serve`.
async fn upstream<F, S>(serve: S) -> String
where
    F: Future<Output = ()> + Send + 'static,
    S: Fn(Request<RecvStream>, Reply) -> F + Clone + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let serve = serve.clone();
            tokio::spawn(async move {
                let mut connection = server::handshake(tcp).await.unwrap();
                while let Some(Ok((request, reply))) = connection.accept().await {
                    tokio::spawn(serve(request, reply));
                }
            });
        }
    });
    url
}

async fn gateway(url: &str, more: &str) -> Stage {
    let route = format!(
        "r: {{match: {{path: /v1}}, upstream: {{url: \"{url}\", http2: prior_knowledge}}, profile: account}}"
    );
    let stage = Plan::default().more(more).routes(&route).start().await;
    stage.ready().await;
    stage
}

fn status(status: u16) -> Response<()> {
    Response::builder().status(status).body(()).unwrap()
}

fn hints(number: usize) -> Response<()> {
    Response::builder()
        .status(103)
        .header("link", format!("</{number}.css>; rel=preload"))
        .header("content-length", "7")
        .body(())
        .unwrap()
}

/// All that a caller over HTTP/2 gets: what comes before the answer, and its status.
async fn ask(stage: &Stage) -> (Vec<(StatusCode, HeaderMap)>, StatusCode) {
    let tcp = TcpStream::connect(stage.address()).await.unwrap();
    let (sender, connection) = client::handshake(tcp).await.unwrap();
    let driving = tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let request = Request::get(stage.url("/v1/page")).body(()).unwrap();
    let (mut answering, _) = sender.send_request(request, true).unwrap();
    let mut before = Vec::new();
    let answered = poll_fn(|cx| {
        while let Poll::Ready(Some(Ok(interim))) = answering.poll_informational(cx) {
            before.push((interim.status(), interim.headers().clone()));
        }
        Pin::new(&mut answering).poll(cx)
    });
    let answer = tokio::time::timeout(PATIENCE, answered).await.unwrap().unwrap();
    driving.abort();
    (before, answer.status())
}

#[tokio::test]
async fn early_hints_pass_over_http_2_on_both_sides() {
    let url = upstream(|_, mut reply| async move {
        for number in 0..2 {
            reply.send_informational(hints(number)).unwrap();
        }
        reply.send_response(status(204), true).unwrap();
    })
    .await;
    let stage = gateway(&url, "").await;
    let (before, last) = ask(&stage).await;
    assert_eq!(last, 204);
    assert_eq!(before.len(), 2, "{before:?}");
    for (number, (status, fields)) in before.iter().enumerate() {
        assert_eq!(*status, 103);
        assert_eq!(fields["link"], format!("</{number}.css>; rel=preload"));
        assert!(!fields.contains_key("content-length"), "it would be taken for the answer's");
    }
}

#[tokio::test]
async fn early_hints_of_an_http_2_upstream_pass_to_an_http_1_caller() {
    let url = upstream(|_, mut reply| async move {
        reply.send_informational(hints(0)).unwrap();
        reply.send_response(status(204), true).unwrap();
    })
    .await;
    let stage = gateway(&url, "").await;
    let text = stage.raw("GET /v1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.to_lowercase();
    assert!(
        text.starts_with("http/1.1 103 early hints\r\nlink: </0.css>; rel=preload\r\n\r\nhttp/1.1 204 "),
        "{text}"
    );
}

#[tokio::test]
async fn early_hints_of_an_http_1_upstream_pass_to_an_http_2_caller() {
    let (listener, stage) = crate::front::played("").await;
    let answering = tokio::spawn(async move {
        let mut upstream = crate::front::Peer::accept(&listener).await;
        upstream.head().await;
        upstream
            .send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
            .await;
        upstream
    });
    let (before, last) = ask(&stage).await;
    assert_eq!(last, 204);
    assert_eq!(before.iter().map(|(_, fields)| fields["link"].clone()).collect::<Vec<_>>(), ["</a.css>"]);
    drop(answering.await.unwrap());
}

#[tokio::test]
async fn endless_hints_over_http_2_are_an_upstream_error() {
    let url = upstream(|_, mut reply| async move {
        while reply.send_informational(hints(0)).is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let stage = gateway(&url, "").await;
    assert_eq!(fault(stage.get("/v1").await).await.1, "upstream_protocol");
}

/// A body that is too long to be kept costs nothing when the token is refused.
#[tokio::test]
async fn an_http_2_upstream_is_asked_before_a_long_body_is_sent() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seeing = Arc::clone(&seen);
    let url = upstream(move |request, mut reply| {
        let seen = Arc::clone(&seeing);
        async move {
            assert_eq!(request.headers()["expect"], "100-continue");
            let is_first = seen.lock().unwrap().is_empty();
            if is_first {
                seen.lock().unwrap().push(0);
                reply.send_response(status(401), true).unwrap();
                return;
            }
            reply.send_informational(status(100)).unwrap();
            let mut body = request.into_body();
            let mut bytes = 0;
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                bytes += data.len();
                body.flow_control().release_capacity(data.len()).unwrap();
            }
            seen.lock().unwrap().push(bytes);
            reply.send_response(status(204), true).unwrap();
        }
    })
    .await;
    // Longer than the test is ready to wait: only "100 Continue" lets the body go.
    let stage = gateway(&url, "replay: {limit: 1KiB}\ntimeouts: {expect_continue: 1m}").await;
    assert_eq!(stage.post("/v1", vec![7; 300_000]).await.status(), 204);
    assert_eq!(*seen.lock().unwrap(), [0, 300_000]);
}

/// RFC 9110 §10.1.1: leave is given when the body is wanted, and not before.
#[tokio::test]
async fn an_http_2_caller_is_told_to_go_on() {
    let stage = Plan::default().start().await;
    stage.ready().await;
    let tcp = TcpStream::connect(stage.address()).await.unwrap();
    let (sender, connection) = client::handshake(tcp).await.unwrap();
    let driving = tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    for (path, expected) in [("/v1/orders", Some(StatusCode::CONTINUE)), ("/nowhere", None)] {
        let request = Request::post(stage.url(path)).header("expect", "100-continue").body(()).unwrap();
        let (mut answering, mut body) = sender.send_request(request, false).unwrap();
        let mut told = None;
        let answered = poll_fn(|cx| {
            if let Poll::Ready(Some(Ok(interim))) = answering.poll_informational(cx) {
                told = Some(interim.status());
                body.send_data(Bytes::from_static(b"{}"), true).unwrap();
            }
            Pin::new(&mut answering).poll(cx)
        });
        tokio::time::timeout(PATIENCE, answered).await.unwrap().unwrap();
        assert_eq!(told, expected, "{path}");
    }
    driving.abort();
}

/// A caller that resets its upload leaves no upstream with a body that looks whole.
#[tokio::test]
async fn an_upload_that_is_reset_is_reset_upstream_too() {
    let (begun, ends) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (beginning, ending) = (Arc::clone(&begun), Arc::clone(&ends));
    let url = upstream(move |request, reply| {
        let (begun, ends) = (Arc::clone(&beginning), Arc::clone(&ending));
        async move {
            let mut body = request.into_body();
            let end = loop {
                match body.data().await {
                    Some(Ok(_)) => begun.fetch_add(1, Ordering::SeqCst),
                    Some(Err(error)) => break error.reason(),
                    None => break None,
                };
            };
            ends.lock().unwrap().push(end);
            drop(reply);
        }
    })
    .await;
    let stage = gateway(&url, "").await;
    for (number, reason) in [h2::Reason::CANCEL, h2::Reason::NO_ERROR].into_iter().enumerate() {
        let tcp = TcpStream::connect(stage.address()).await.unwrap();
        let (sender, connection) = client::handshake(tcp).await.unwrap();
        let driving = tokio::spawn(connection);
        let mut sender = sender.ready().await.unwrap();
        let request = Request::post(stage.url("/v1")).body(()).unwrap();
        let (_answering, mut body) = sender.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(b"half of it"), false).unwrap();
        eventually("the upstream has the first half", || begun.load(Ordering::SeqCst) > number).await;
        body.send_reset(reason);
        eventually("the upstream sees an end", || ends.lock().unwrap().len() > number).await;
        driving.abort();
    }
    assert!(ends.lock().unwrap().iter().all(Option::is_some), "{:?}", ends.lock().unwrap());
}

/// The next attempt took a further connection, though the first was as good as before.
#[tokio::test]
async fn an_expectation_that_an_http_2_upstream_refuses_costs_no_connection() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (seen, connections) = (Arc::clone(&asked), Arc::new(AtomicUsize::new(0)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let mut connection = server::handshake(tcp).await.unwrap();
            while let Some(Ok((request, mut reply))) = connection.accept().await {
                let expects = request.headers().contains_key("expect");
                seen.lock().unwrap().push(expects);
                reply.send_response(status(if expects { 417 } else { 204 }), true).unwrap();
            }
        }
    });
    let stage = gateway(&url, "replay: {limit: 1KiB}").await;
    for _ in 0..2 {
        assert_eq!(stage.post("/v1", vec![0; 4096]).await.status(), 204);
    }
    assert_eq!(*asked.lock().unwrap(), [true, false, true, false]);
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}
