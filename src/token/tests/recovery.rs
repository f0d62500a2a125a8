//! Design, "401 recovery", as far as it is about tokens.

use super::*;

/// Old enough for a 401 to mean something.
async fn aged(provider: &Provider) -> (Handle, Arc<Token>) {
    let started = provider.started().await;
    sleep(s(60)).await;
    started
}

fn suppressed(outcome: Result<Arc<Token>, NotReplaced>) -> Suppressed {
    match outcome {
        Err(NotReplaced::Suppressed(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_401s_to_one_token_are_one_refresh_and_all_get_the_same_token() {
    let provider = Provider::new(Answer::Life(HOUR));
    let (handle, old) = aged(&provider).await;
    let reports = (0..WAITERS_MAX).map(|_| handle.replace(old.generation(), None, s(20)));
    let tokens: Vec<_> = join_all(reports).await.into_iter().map(Result::unwrap).collect();
    assert!(tokens.iter().all(|token| Arc::ptr_eq(token, &tokens[0])));
    assert_eq!((tokens[0].generation(), provider.calls()), (2, 2));
    sleep(s(60)).await;
    assert_eq!(provider.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_401_to_an_old_token_gets_the_newer_one_at_once_and_causes_no_refresh() {
    let provider = Provider::new(Answer::Life(HOUR));
    let (handle, old) = aged(&provider).await;
    let next = handle.replace(old.generation(), None, s(20)).await.unwrap();
    sleep(s(60)).await;
    let late = handle.replace(old.generation(), None, Duration::ZERO).await.unwrap();
    assert!(Arc::ptr_eq(&late, &next));
    assert_eq!(handle.reject(old.generation(), None), None);
    assert_eq!(provider.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_report_without_waiting_gives_the_next_request_a_fresh_token() {
    let provider = Provider::new(Answer::Life(HOUR));
    let (handle, old) = aged(&provider).await;
    assert_eq!(handle.reject(old.generation(), None), None);
    assert_eq!(handle.acquire_unrejected(s(20)).await.unwrap().generation(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_younger_than_five_seconds_is_not_refreshed_for_a_401() {
    let provider = Provider::new(Answer::Life(HOUR));
    let (handle, first) = provider.started().await;
    sleep(ms(4900)).await;
    assert_eq!(suppressed(handle.replace(first.generation(), None, s(20)).await), Suppressed::Young);
    sleep(ms(100)).await;
    assert!(handle.replace(first.generation(), None, s(20)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn no_profile_is_refreshed_for_401s_more_often_than_once_in_thirty_seconds() {
    let provider = Provider::new(Answer::Life(HOUR));
    let (handle, first) = aged(&provider).await;
    let reported = Instant::now();
    let second = handle.replace(first.generation(), None, s(20)).await.unwrap();
    tokio::time::sleep_until(reported + ms(29_900)).await;
    assert_eq!(suppressed(handle.replace(second.generation(), None, s(20)).await), Suppressed::Recent);
    tokio::time::sleep_until(reported + s(30)).await;
    assert_eq!(handle.replace(second.generation(), None, s(20)).await.unwrap().generation(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_answers_401_to_everything_for_an_hour_costs_two_exchanges_a_minute() {
    for demanded in [None, claims("nbf")] {
        let provider = Provider::new(Answer::Life(HOUR));
        let (handle, _) = provider.started().await;
        for _ in 0..36_000 {
            let token = handle.acquire(s(20)).await.unwrap();
            let _ = handle.replace(token.generation(), demanded.clone(), s(20)).await;
            sleep(ms(100)).await;
        }
        let calls = provider.calls();
        assert!((100..=122).contains(&calls), "{demanded:?}: {calls}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_401_during_a_background_refresh_joins_it() {
    let provider = Provider::new(Answer::Wish { life: HOUR, refresh_in: s(100) });
    let (handle, first) = provider.started().await;
    provider.delays(s(5));
    while provider.calls() == 1 {
        sleep(s(1)).await;
    }
    let next = handle.replace(first.generation(), None, s(20)).await.unwrap();
    sleep(s(10)).await;
    assert_eq!((next.generation(), provider.calls()), (2, 2));
    // It did not cause the refresh, so it does not count against the next one.
    assert!(handle.replace(next.generation(), None, s(20)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn claims_are_asked_for_once_and_not_again_afterwards() {
    let provider = Provider::new(Answer::Life(HOUR));
    let (handle, young) = provider.started().await;
    let next = handle.replace(young.generation(), claims("nbf"), s(20)).await;
    assert_eq!(next.unwrap().generation(), 2, "a demand for claims is not damped by the token's age");
    sleep(HOUR).await;
    assert_eq!(provider.claims()[..3], [None, claims("nbf"), None]);
}

#[tokio::test(start_paused = true)]
async fn claims_are_kept_over_a_failure_that_says_nothing_about_them() {
    let provider = Provider::new(Answer::Life(HOUR));
    let (handle, first) = aged(&provider).await;
    provider.with(|script| script.first.extend([Answer::No(Class::Transient); 2]));
    let refused = handle.replace(first.generation(), claims("nbf"), s(20)).await.unwrap_err();
    assert!(matches!(refused, NotReplaced::Unavailable(_)));
    sleep(s(70)).await;
    assert_eq!(provider.claims(), [None, claims("nbf"), claims("nbf"), claims("nbf")]);
    assert_eq!(handle.current().unwrap().token().generation(), 2);
}

/// One upstream with odd claims must not cost all routes of the profile their token.
#[tokio::test(start_paused = true)]
async fn claims_that_the_provider_refuses_are_dropped() {
    let provider = Provider::new(Answer::Life(s(600)));
    provider.with(|script| script.refused = claims("odd"));
    let (handle, _) = provider.started().await;
    let mut without = 0;
    for _ in 0..36_000 {
        match handle.acquire(ms(500)).await {
            Ok(token) => {
                let _ = handle.replace(token.generation(), claims("odd"), s(20)).await;
            }
            Err(_) => without += 1,
        }
        sleep(ms(100)).await;
    }
    assert_eq!(without, 0, "requests without a token");
    assert!(provider.calls() <= 242, "{}", provider.calls());
}

#[tokio::test(start_paused = true)]
async fn claims_that_make_the_provider_fail_are_given_up_after_a_few_attempts() {
    let provider = Provider::new(Answer::Life(HOUR));
    let (handle, first) = aged(&provider).await;
    provider.with(|script| script.first.extend([Answer::No(Class::Transient); 4]));
    let _ = handle.replace(first.generation(), claims("odd"), s(20)).await;
    sleep(s(150)).await;
    let asked = provider.claims();
    assert_eq!(asked.iter().filter(|asked| asked.is_some()).count(), 4);
    assert_eq!((asked.len(), asked[5].clone()), (6, None));
}

#[tokio::test(start_paused = true)]
async fn claims_demanded_during_a_refresh_are_asked_for_next_and_waited_for() {
    let provider = Provider::new(Answer::Wish { life: HOUR, refresh_in: s(100) });
    let (handle, first) = provider.started().await;
    provider.delays(s(3));
    while provider.calls() == 1 {
        sleep(ms(100)).await;
    }
    let reports = (0..100).map(|_| handle.replace(first.generation(), claims("nbf"), s(20)));
    let tokens = join_all(reports).await;
    assert!(tokens.into_iter().all(|token| token.unwrap().generation() == 3));
    assert_eq!(provider.claims(), [None, None, claims("nbf")]);
}

#[tokio::test(start_paused = true)]
async fn claims_demanded_during_a_refresh_that_fails_wait_for_the_back_off() {
    let provider = Provider::new(Answer::Wish { life: HOUR, refresh_in: s(100) });
    let (handle, first) = provider.started().await;
    provider.delays(s(3));
    provider.answers(Answer::Wait { class: Class::Throttled, retry_after: s(300) });
    while provider.calls() == 1 {
        sleep(ms(100)).await;
    }
    let refused = handle.replace(first.generation(), claims("nbf"), s(20)).await.unwrap_err();
    assert!(matches!(refused, NotReplaced::Unavailable(_)));
    sleep(s(290)).await;
    assert_eq!(provider.calls(), 2);
    provider.answers(Answer::Life(HOUR));
    sleep(s(50)).await;
    assert_eq!(provider.claims(), [None, None, claims("nbf")]);
}

#[tokio::test(start_paused = true)]
async fn when_a_forced_refresh_fails_everyone_is_told_and_the_old_token_goes_on() {
    let provider = Provider::new(Answer::Life(HOUR));
    let (handle, old) = aged(&provider).await;
    provider.answers(Answer::No(Class::Permanent));
    let reports = (0..1000).map(|_| handle.replace(old.generation(), None, s(20)));
    for outcome in join_all(reports).await {
        assert!(matches!(outcome, Err(NotReplaced::Unavailable(_))), "{outcome:?}");
    }
    assert_eq!(provider.calls(), 2);
    assert!(Arc::ptr_eq(&handle.acquire(Duration::ZERO).await.unwrap(), &old));
    assert!(Arc::ptr_eq(&handle.acquire_unrejected(Duration::ZERO).await.unwrap(), &old));
    for _ in 0..25 {
        assert_eq!(suppressed(handle.replace(old.generation(), None, s(20)).await), Suppressed::Failing);
        sleep(s(1)).await;
    }
    assert_eq!(provider.calls(), 2, "no attempt before it is due");
    provider.answers(Answer::Life(HOUR));
    sleep(s(6)).await;
    assert_eq!(handle.replace(old.generation(), None, s(20)).await.unwrap().generation(), 2);
}

/// The refused token used to count as a comfort: after one failure of no weight, the provider was left alone
/// for half a minute, in which every request got a 401.
#[tokio::test(start_paused = true)]
async fn a_forced_refresh_that_fails_for_a_moment_is_tried_again_within_a_second() {
    let provider = Provider::new(Answer::Life(HOUR));
    let (handle, old) = aged(&provider).await;
    provider.with(|script| script.first.push_back(Answer::No(Class::Transient)));
    assert!(handle.replace(old.generation(), None, s(20)).await.is_err());
    sleep(ms(1100)).await;
    assert_eq!(handle.current().unwrap().token().generation(), 2);
    assert_eq!(provider.calls(), 3);
}

/// A background refresh has failed, with a good token in hand. A 401 says that it is not good.
#[tokio::test(start_paused = true)]
async fn a_401_after_a_refresh_that_failed_for_a_moment_brings_the_next_attempt_forward() {
    for waited in [ms(200), s(10)] {
        let provider = Provider::new(Answer::Wish { life: HOUR, refresh_in: s(60) });
        let (handle, old) = provider.started().await;
        provider.with(|script| script.first.push_back(Answer::No(Class::Transient)));
        while handle.view().failed == 0 {
            sleep(ms(10)).await;
        }
        sleep(waited).await;
        let outcome = handle.replace(old.generation(), None, s(20)).await;
        assert_eq!(outcome.is_ok(), waited >= s(1), "it is not waited for when the back-off holds");
        sleep(ms(1)).await;
        assert!(handle.view().next_in.is_none_or(|next| waited >= s(1) || next < s(1)));
        sleep(ms(1100)).await;
        assert_eq!(handle.current().unwrap().token().generation(), 2, "{waited:?}");
        assert_eq!(provider.calls(), 3);
    }
}

/// While the provider is down, an upstream that refuses everything causes no more than the back-off does.
#[tokio::test(start_paused = true)]
async fn refused_tokens_are_no_storm_on_a_provider_that_fails() {
    let provider = Provider::new(Answer::Life(HOUR));
    let (handle, _) = aged(&provider).await;
    provider.answers(Answer::No(Class::Transient));
    for _ in 0..6000 {
        let token = handle.acquire(s(20)).await.unwrap();
        let _ = handle.replace(token.generation(), None, s(20)).await;
        sleep(ms(100)).await;
    }
    assert!(provider.calls() < 50, "{}", provider.calls());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_sent_twice_waits_for_the_successor_of_a_rejected_token() {
    let provider = Provider::new(Answer::Life(HOUR));
    let (handle, old) = aged(&provider).await;
    assert!(Arc::ptr_eq(&handle.acquire_unrejected(s(20)).await.unwrap(), &old), "it is not rejected");
    handle.reject(old.generation(), None);
    assert!(Arc::ptr_eq(&handle.acquire(s(20)).await.unwrap(), &old), "others do not wait");
    assert_eq!(handle.acquire_unrejected(s(20)).await.unwrap().generation(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_sent_twice_gets_the_old_token_when_the_refresh_fails() {
    let provider = Provider::new(Answer::Life(HOUR));
    let (handle, old) = aged(&provider).await;
    provider.answers(Answer::No(Class::Transient));
    handle.reject(old.generation(), None);
    assert!(Arc::ptr_eq(&handle.acquire_unrejected(s(20)).await.unwrap(), &old));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_expires_while_its_successor_is_waited_for_is_not_given_out() {
    let provider = Provider::new(Answer::Life(s(20)));
    let (handle, old) = provider.started().await;
    sleep(s(10)).await;
    provider.answers(Answer::No(Class::Transient));
    provider.delays(s(12));
    handle.reject(old.generation(), None);
    let refused = handle.acquire_unrejected(s(20)).await.unwrap_err();
    assert!(matches!(refused.reason, Reason::Failed(_)));
}

/// A report about a generation that never was must not block the reports to come.
#[tokio::test(start_paused = true)]
async fn a_generation_from_the_future_waits_for_nothing_for_ever() {
    let provider = Provider::new(Answer::Life(HOUR));
    let (handle, first) = aged(&provider).await;
    handle.reject(999, None);
    sleep(s(60)).await;
    let second = handle.current().unwrap().arc();
    assert_eq!(second.generation(), first.generation() + 1);
    assert_eq!(handle.replace(second.generation(), None, s(20)).await.unwrap().generation(), 3);
}

/// A refresh used to be ordered a second time by a 401 that came while its token was being published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_401_while_a_token_is_published_orders_no_second_exchange() {
    let provider = Provider::new(Answer::Life(HOUR));
    provider.delays(Duration::ZERO);
    let recovery = Recovery { min_token_age: Duration::ZERO, min_interval: Duration::ZERO };
    let handle = start(settings(recovery), provider.clone(), Turns::default(), Arc::default());
    for _ in 0..500 {
        let old = handle.acquire(s(20)).await.unwrap().generation();
        let racing = (0..4).map(|_| {
            let handle = handle.clone();
            tokio::spawn(async move { handle.replace(old, None, s(20)).await.unwrap().generation() })
        });
        for newer in join_all(racing).await {
            assert!(newer.unwrap() > old);
        }
        let now = handle.current().unwrap().token().generation();
        assert_eq!(now, old + 1, "one generation rejected, one refresh");
    }
    assert_eq!(provider.calls(), 501);
}
