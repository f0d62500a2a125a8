//! How often a provider that refuses is asked, for each class of failure: with traffic and without,
//! with a valid token and without.

use std::ops::RangeInclusive;

use super::*;

const TEN_MINUTES: Duration = s(600);

/// What ten minutes of failure cost the provider.
struct Row {
    answer: Answer,
    /// Token requests when there is no token.
    cold: RangeInclusive<usize>,
    /// Token requests while an old token is still good for long.
    warm: RangeInclusive<usize>,
    /// The same when upstreams refuse it.
    refused: RangeInclusive<usize>,
}

const fn row(answer: Answer, cold: RangeInclusive<usize>, warm: usize) -> Row {
    Row { answer, cold, warm: warm..=warm, refused: warm..=warm }
}

const fn wait(class: Class, seconds: u64) -> Answer {
    Answer::Wait { class, retry_after: s(seconds) }
}

const TABLE: [Row; 9] = [
    // 10, 20, 40, 80, 160, 300 seconds.
    row(Answer::No(Class::Permanent), 6..=6, 6),
    row(Answer::No(Class::Credential), 6..=6, 6),
    // Every 15 seconds, as a change in the directory takes minutes.
    row(Answer::No(Class::NewCredential), 40..=40, 20),
    row(Answer::No(Class::Eventual), 40..=40, 20),
    // 1, 2, 4 … 30 seconds, by chance up to a half less.
    // An old token that is refused is as good as none.
    Row { answer: Answer::No(Class::Transient), cold: 23..=46, warm: 20..=20, refused: 23..=46 },
    row(Answer::No(Class::Throttled), 10..=10, 10),
    // Whatever the class, the provider's own wait holds.
    row(wait(Class::Throttled, 120), 5..=5, 5),
    row(wait(Class::Transient, 200), 3..=3, 3),
    row(wait(Class::Permanent, 300), 2..=2, 2),
];

/// Requests of ten minutes, each of which wants a token and reports a 401 to the one that it got.
async fn traffic(handle: &Handle, many: bool) {
    let end = Instant::now() + TEN_MINUTES;
    while Instant::now() < end {
        for _ in 0..if many { 20 } else { 0 } {
            if let Ok(token) = handle.acquire(Duration::ZERO).await {
                let _ = handle.reject(token.generation(), None);
            }
        }
        sleep(ms(500)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_class_of_failure_costs_the_provider_its_own_number_of_requests_whatever_the_traffic() {
    for Row { answer, cold, warm, refused } in TABLE {
        for many in [false, true] {
            let provider = Provider::new(answer);
            let handle = provider.start();
            traffic(&handle, many).await;
            assert!(cold.contains(&provider.calls()), "{answer:?} {many}: {} cold", provider.calls());

            let wish = Answer::Wish { life: HOUR, refresh_in: s(60) };
            let provider = Provider::new(wish);
            let (handle, _) = provider.started().await;
            provider.answers(answer);
            while provider.calls() == 1 {
                sleep(ms(100)).await;
            }
            traffic(&handle, many).await;
            let asked = provider.calls() - 1;
            let expected = if many { &refused } else { &warm };
            assert!(expected.contains(&asked), "{answer:?} {many}: {asked} warm");
            assert!(handle.current().is_some(), "{answer:?}: the old token is good for an hour");
        }
    }
}

/// A short outage with one odd answer at its end used to cost five minutes.
#[tokio::test(start_paused = true)]
async fn failures_of_one_class_do_not_slow_down_those_of_another() {
    for (outages, class, pause) in [(6, Class::Permanent, s(10)), (50, Class::Eventual, s(15))] {
        let provider = Provider::new(Answer::Life(HOUR));
        provider.with(|script| {
            script.first.extend(std::iter::repeat_n(Answer::No(Class::Transient), outages));
            script.first.push_back(Answer::No(class));
        });
        let handle = provider.start();
        while provider.calls() < outages + 2 {
            sleep(ms(100)).await;
        }
        let times = provider.times();
        let waited = times[outages + 1] - times[outages];
        assert!((pause..pause + s(1)).contains(&waited), "{class:?}: {waited:?}");
        drop(handle);
    }
}

/// A wrong secret is a failed login each time, and the provider may lock the account.
#[tokio::test(start_paused = true)]
async fn an_outage_between_two_logins_with_a_wrong_secret_does_not_bring_the_next_one_forward() {
    let provider = Provider::new(Answer::No(Class::Credential));
    let both = [Answer::No(Class::Credential), Answer::No(Class::Transient)];
    provider.with(|script| script.first.extend([both; 100].concat()));
    let _handle = provider.start();
    sleep(TEN_MINUTES).await;
    assert!(provider.calls() <= 14, "{:?}", provider.times());
}

#[tokio::test(start_paused = true)]
async fn a_wrong_secret_under_traffic_is_no_storm_of_logins() {
    let provider = Provider::new(Answer::No(Class::Credential));
    let handle = provider.start();
    for _ in 0..600 {
        let outcomes = join_all((0..1000).map(|_| handle.acquire(s(20)))).await;
        assert!(outcomes.iter().all(|outcome| outcome.is_err()));
        sleep(s(1)).await;
    }
    assert_eq!(provider.calls(), 6, "six logins for six hundred thousand requests");
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_entra_reports_is_left_alone_for_five_minutes() {
    let body = r#"{"error":"invalid_grant","error_codes":[50196]}"#.into();
    let reply = answer::Reply { status: StatusCode::BAD_REQUEST, retry_after: None, body };
    let error = answer::read(&reply, answer::Scheme::Bearer, HOUR, &[]).err().unwrap();
    let failure = schedule::Failure {
        class: error.class(),
        count: 1,
        retry_after: error.retry_after(),
        token_left: Duration::ZERO,
    };
    assert!(schedule::pause(failure, 0.0) >= s(300));
}
