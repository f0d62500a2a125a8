//! How MSAL holds back from a provider that says no, as a measure: under any demand we ask no more often.

use super::*;

/// When the provider was asked in ten minutes of failure, with ten requests a second that want the token
/// and are told at once that there is none.
async fn asked_under_demand(answer: Answer) -> Vec<Duration> {
    let provider = Provider::new(answer);
    let handle = provider.start();
    for _ in 0..6000 {
        let outcome = handle.acquire(ms(50)).await;
        assert!(outcome.is_err(), "{answer:?}");
        sleep(ms(100)).await;
    }
    provider.times().into_iter().filter(|at| *at < s(600)).collect()
}

#[tokio::test(start_paused = true)]
async fn msals_throttling_guidance_is_kept_under_demand() {
    let wait = |class, seconds| Answer::Wait { class, retry_after: s(seconds) };
    for (answer, most, spacing) in [
        // Microsoft: wait as long as the answer says, whatever its status.
        (wait(Class::Throttled, 60), 10, s(60)),
        (wait(Class::Throttled, 7), 20, s(7)),
        (wait(Class::Transient, 45), 14, s(45)),
        (wait(Class::Permanent, 120), 5, s(120)),
        // A 429 without a time: MSAL waits 5 s, and Entra then usually means a minute.
        (Answer::No(Class::Throttled), 11, s(60)),
        // 5xx without a time: MSAL waits 5 s each time; we begin with less and go on to 30 s.
        (Answer::No(Class::Transient), 45, ms(500)),
        // MSAL keeps a 400 for a minute, and sends a 401 again with every call.
        (Answer::No(Class::Permanent), 10, s(10)),
        (Answer::No(Class::Credential), 10, s(10)),
    ] {
        let times = asked_under_demand(answer).await;
        assert!(times.len() <= most, "{answer:?}: asked {} times", times.len());
        let least = times.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap();
        assert!(least >= spacing, "{answer:?}: asked again after {least:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_failed_once_is_used_again_within_two_seconds() {
    let provider = Provider::new(Answer::Life(HOUR));
    provider.with(|script| script.first.push_back(Answer::No(Class::Transient)));
    let handle = provider.start();
    assert!(handle.acquire(s(20)).await.is_err());
    let began = Instant::now();
    while handle.acquire(s(20)).await.is_err() {
        sleep(ms(50)).await;
    }
    assert!(began.elapsed() < s(2), "{:?}", began.elapsed());
}
