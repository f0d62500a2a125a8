//! Many requests at once: one token request, one refresh, no lost body.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::stage::{PATIENCE, Plan};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_on_a_cold_profile_cause_one_token_request() {
    // A single process may open some thousand sockets: the requests come pipelined, fifty a connection.
    const CONNECTIONS: usize = 200;
    const EACH: usize = 50;
    let stage = Plan::default().start_with(|idp| idp.set_delay(Duration::from_secs(2))).await;
    let mut callers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let address = stage.address();
        callers.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let one = "GET /v1/orders HTTP/1.1\r\nHost: a\r\n\r\n";
            let last = "GET /v1/orders HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            stream.write_all((one.repeat(EACH - 1) + last).as_bytes()).await.unwrap();
            let mut answers = String::new();
            tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answers)).await.unwrap().unwrap();
            answers.matches("HTTP/1.1 200").count()
        });
    }
    let answered: usize = callers.join_all().await.into_iter().sum();
    assert_eq!(answered, CONNECTIONS * EACH);
    assert_eq!(stage.idp.requests(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_requests_wait_at_once_for_one_token() {
    let stage = Plan::default().start_with(|idp| idp.set_delay(Duration::from_secs(2))).await;
    let mut callers = JoinSet::new();
    for _ in 0..2_000 {
        let request = stage.http.get(stage.url("/v1/orders"));
        callers.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    assert!(callers.join_all().await.iter().all(|status| *status == 200));
    assert_eq!(stage.idp.requests(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_401s_with_one_token_cause_one_refresh_and_a_thousand_successes() {
    const REQUESTS: usize = 1_000;
    let stage = Plan::default().start().await;
    stage.ready().await;
    stage.idp.revoke_all();
    // Slow enough that all of them have been refused when the new token comes.
    stage.idp.set_delay(Duration::from_secs(1));
    let mut callers = JoinSet::new();
    for n in 0..REQUESTS {
        let body = format!("body {n} ").repeat(100);
        let request = stage.http.post(stage.url(&format!("/v1/{n}"))).body(body.clone());
        callers.spawn(async move {
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 200);
            let echo: serde_json::Value = response.json().await.unwrap();
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body.as_bytes());
            let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(echo.to_string().contains(&digest), "{n}: {echo}");
        });
    }
    callers.join_all().await;
    assert_eq!(stage.idp.issued(), 2);
    assert!(stage.api.unauthorized() > 10, "{}", stage.api.unauthorized());
}
