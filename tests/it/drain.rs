//! Stopping: requests in flight are finished, nothing is lost, the process ends with 0.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;

use crate::{
    process::Process,
    stage::{Stage, eventually},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_loses_no_request_and_ends_with_0() {
    let stage = Stage::start().await;
    let mut process = Process::start(&stage, &[]).await;
    stage.api.set_delay(Duration::from_millis(20));
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let (http, url) = (stage.http.clone(), process.url("/v1/orders"));
        let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
        callers.spawn(async move {
            loop {
                match http.get(&url).send().await {
                    Ok(response) => {
                        assert_eq!(response.status(), 200);
                        response.bytes().await.expect("an answer that began is finished");
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                    // Refused before anything was sent: nothing is lost, another gateway would take it.
                    Err(error) if error.is_connect() && stop.load(Ordering::Relaxed) => return,
                    Err(error) => panic!("a request was lost: {error:?}"),
                }
            }
        });
    }
    eventually("there is load", || served.load(Ordering::Relaxed) > 500).await;
    stop.store(true, Ordering::Relaxed);
    process.signal("-TERM");
    callers.join_all().await;
    assert_eq!(process.end().await.code(), Some(0));
    assert!(process.has_logged("keybearer has stopped"));
    assert!(!process.has_logged("were cut"));
}

#[tokio::test]
async fn a_request_in_flight_is_finished_and_readiness_turns_first() {
    let stage = Stage::start().await;
    stage.ready().await;
    stage.api.set_delay(Duration::from_secs(1));
    let request = tokio::spawn(stage.http.get(stage.url("/v1/orders")).send());
    stage.api.wait_for_requests(1).await;
    stage.gateway.stop();
    let (status, body) = stage.admin("/readyz").await;
    assert_eq!(status, 503);
    assert!(body.contains("\"stopping\":true"), "{body}");
    let response = request.await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["connection"], "close");
    assert!(stage.http.get(stage.url("/v1/orders")).send().await.unwrap_err().is_connect());
}

#[tokio::test]
async fn what_does_not_end_is_cut_after_the_drain_time() {
    let stage = crate::stage::Plan::default().more("timeouts: {drain: 300ms}").start().await;
    let mut process = Process::start(&stage, &[]).await;
    stage.api.set_delay(Duration::from_secs(20));
    let hanging = tokio::spawn(stage.http.get(process.url("/v1/orders")).send());
    stage.api.wait_for_requests(1).await;
    process.signal("-TERM");
    assert_eq!(process.end().await.code(), Some(0));
    assert!(process.has_logged("connections were cut"));
    assert!(hanging.await.unwrap().is_err());
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let stage = Stage::start().await;
    let mut process = Process::start(&stage, &[]).await;
    stage.api.set_delay(Duration::from_secs(20));
    let hanging = tokio::spawn(stage.http.get(process.url("/v1/orders")).send());
    stage.api.wait_for_requests(1).await;
    process.signal("-TERM");
    eventually("it is stopping", || process.has_logged("stopping")).await;
    // One that comes within moments of the first may be its echo.
    eventually("it says why it ends", || {
        process.signal("-TERM");
        process.has_logged("stopped by a second signal")
    })
    .await;
    assert_eq!(process.end().await.code(), Some(1));
    assert!(hanging.await.unwrap().is_err());
}
