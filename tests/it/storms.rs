//! Many requests at once: one token request, one refresh, no lost body.

use std::time::Duration;

use keybearer::demo::idp::Behaviour;
use rustix::process::{Resource, Rlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    process::Process,
    stage::{PATIENCE, Plan},
};

/// Ten thousand callers, each with a connection of its own, and a token that takes its time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_on_a_cold_profile_cause_one_token_request() {
    // Each takes two sockets of the gateway and two of this process.
    let requests = 10_000.min((allow_many_files() - 1_000) / 2);
    // All at once they reach the API, too, which takes its time on a busy machine.
    let plan = Plan::default().profile("token_timeout: 60s").more("timeouts: {connect: 1m, response: 2m}");
    let stage = plan.start_with(|idp| idp.set_behaviour(Behaviour::Hang)).await;
    // The stage's own gateway asks once.
    stage.idp.wait_for_requests(1).await;
    // A process of its own, so that callers and gateway do not share one table of open files.
    let gateway = Process::start(&stage, &["--log-filter", "warn,keybearer=info"]).await;
    stage.idp.wait_for_requests(2).await;
    let mut waiting = Vec::with_capacity(requests);
    for _ in 0..requests {
        let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
        stream.write_all(b"GET /v1/orders HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        waiting.push(stream);
    }
    // All of them wait for the one exchange that hangs; now the provider answers again.
    stage.idp.set_behaviour(Behaviour::Normal);
    let mut answers = JoinSet::new();
    for mut stream in waiting {
        answers.spawn(async move {
            let mut answer = String::new();
            let read = tokio::time::timeout(2 * PATIENCE, stream.read_to_string(&mut answer)).await;
            read.unwrap().unwrap();
            answer
        });
    }
    for answer in answers.join_all().await {
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(stage.idp.requests(), 2);
}

/// Lets this process open as many files as it may, and says how many.
fn allow_many_files() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(Resource::Nofile, all).unwrap();
    limit.maximum.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX)
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
