//! Design, "Token lifecycle": cold, warm, failing, changed, stopped.

use std::sync::atomic::Ordering;

use super::*;

#[tokio::test(start_paused = true)]
async fn ten_thousand_cold_requests_share_one_exchange() {
    let provider = Provider::new(Answer::Life(HOUR));
    let handle = provider.start();
    let tokens = join_all((0..WAITERS_MAX).map(|_| handle.acquire(s(20)))).await;
    assert!(tokens.iter().all(|token| token.as_ref().unwrap().generation() == 1));
    assert_eq!(provider.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_cold_requests_share_one_error_and_nobody_asks_again_for_himself() {
    let provider = Provider::new(Answer::No(Class::Permanent));
    let handle = provider.start();
    let begun = Instant::now();
    let outcomes = join_all((0..WAITERS_MAX).map(|_| handle.acquire(s(20)))).await;
    assert_eq!(begun.elapsed(), ms(100));
    let errors: Vec<_> = outcomes.into_iter().map(|outcome| outcome.unwrap_err()).collect();
    assert!(errors.iter().all(|error| Arc::ptr_eq(failed(error), failed(&errors[0]))));
    assert_eq!(provider.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_error_is_shown_until_a_token_comes_also_while_the_next_exchange_is_on_its_way() {
    let provider = Provider::new(Answer::No(Class::Transient));
    let handle = provider.start();
    assert!(handle.view().error.is_none(), "nothing has failed yet");
    let error = handle.acquire(s(20)).await.unwrap_err();
    provider.answers(Answer::Life(HOUR));
    provider.delays(s(5));
    while provider.calls() == 1 {
        sleep(ms(100)).await;
    }
    let view = handle.view();
    assert!(view.next_in.is_none(), "an exchange is on its way");
    assert!(Arc::ptr_eq(&view.error.unwrap(), failed(&error)));
    handle.acquire(s(20)).await.unwrap();
    assert!(handle.view().error.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_warm_token_is_refreshed_in_the_background_while_requests_read_the_old_one() {
    let provider = Provider::new(Answer::Life(HOUR));
    let (handle, _) = provider.started().await;
    provider.delays(s(8));
    // A third of the life before the end at the soonest, ten minutes before it at the latest.
    sleep(s(2300)).await;
    assert_eq!(provider.calls(), 1);
    while provider.calls() == 1 {
        assert_eq!(handle.acquire(Duration::ZERO).await.unwrap().generation(), 1);
        sleep(s(1)).await;
    }
    for _ in 0..6 {
        assert_eq!(handle.acquire(Duration::ZERO).await.unwrap().generation(), 1, "nobody waits");
        sleep(s(1)).await;
    }
    assert!(provider.times()[1] <= s(3000));
    sleep(s(3)).await;
    assert_eq!(handle.current().unwrap().token().generation(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_providers_wish_when_to_be_asked_again_is_respected() {
    let wish = Answer::Wish { life: s(86_400), refresh_in: s(1000) };
    let provider = Provider::new(wish);
    let _started = provider.started().await;
    sleep(s(1001)).await;
    let second = provider.times()[1];
    assert!(second > s(800) && second <= s(1000), "{second:?}");
}

#[tokio::test(start_paused = true)]
async fn five_second_tokens_roll_over_without_a_gap() {
    let provider = Provider::new(Answer::Life(s(5)));
    let (handle, mut last) = provider.started().await;
    for _ in 0..6000 {
        sleep(ms(100)).await;
        let token = handle.current().expect("a gap").arc();
        assert!(token.generation() == last.generation() || token.generation() == last.generation() + 1);
        last = token;
    }
    assert!((180..230).contains(&provider.calls()), "{}", provider.calls());
}

#[tokio::test(start_paused = true)]
async fn a_valid_token_beats_a_failed_refresh_is_used_until_it_expires_and_never_after() {
    for class in [Class::Transient, Class::Permanent, Class::Credential, Class::Eventual, Class::Throttled] {
        let provider = Provider::new(Answer::Life(HOUR));
        let begun = Instant::now();
        let (handle, _) = provider.started().await;
        provider.answers(Answer::No(class));
        // The last second is for the way of the last request.
        while begun.elapsed() < HOUR - s(1) {
            assert!(handle.current().is_some(), "{class:?} {:?}", begun.elapsed());
            assert_eq!(handle.acquire(Duration::ZERO).await.unwrap().generation(), 1);
            sleep(s(1)).await;
        }
        assert!(provider.calls() > 2);
        assert!(handle.current().is_none());
        assert!(handle.acquire(s(20)).await.is_err());
        assert!(!handle.is_ready());
    }
}

#[tokio::test(start_paused = true)]
async fn no_error_ends_the_refresh_loop_and_permanent_ones_slow_it() {
    for (class, most) in [
        (Class::Transient, 300),
        (Class::Permanent, 20),
        (Class::Credential, 20),
        (Class::Eventual, 60),
        (Class::Throttled, 65),
    ] {
        let provider = Provider::new(Answer::No(class));
        let handle = provider.start();
        for _ in 0..3600 {
            // Demand changes nothing about the pace.
            let _ = handle.acquire(ms(1)).await;
            sleep(s(1)).await;
        }
        let calls = provider.calls();
        assert!(calls > 10 && calls <= most, "{class:?}: {calls} in an hour");
        provider.answers(Answer::Life(HOUR));
        sleep(s(301)).await;
        assert!(handle.current().is_some(), "{class:?}: not back five minutes after the provider");
    }
}

#[tokio::test(start_paused = true)]
async fn during_back_off_requests_fail_at_once_with_the_time_to_the_next_attempt() {
    let provider = Provider::new(Answer::No(Class::Permanent));
    let handle = provider.start();
    handle.acquire(s(20)).await.unwrap_err();
    let after = Instant::now();
    for waited in [0, 4, 9] {
        tokio::time::sleep_until(after + s(waited)).await;
        let before = Instant::now();
        let refused = handle.acquire(s(20)).await.unwrap_err();
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert_eq!(refused.retry_after, s(10 - waited));
    }
    assert_eq!(provider.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_providers_waiting_time_is_obeyed_in_spite_of_demand_401s_and_a_new_secret() {
    for class in [Class::Throttled, Class::Transient, Class::Credential] {
        let provider = Provider::new(Answer::Wish { life: HOUR, refresh_in: s(60) });
        let (handle, first) = provider.started().await;
        provider.answers(Answer::Wait { class, retry_after: s(600) });
        sleep(s(62)).await;
        assert_eq!(provider.calls(), 2, "the background refresh was told to wait");
        let told = provider.times()[1];
        for round in 0..500 {
            let _ = handle.acquire(Duration::ZERO).await;
            let refused = handle.replace(first.generation(), claims("nbf"), s(20)).await.unwrap_err();
            assert!(matches!(refused, NotReplaced::Suppressed(Suppressed::Failing)), "{refused:?}");
            provider.with(|script| script.secret = Some(round));
            sleep(s(1)).await;
        }
        assert_eq!(provider.calls(), 2, "{class:?}");
        sleep(s(200)).await;
        let again = provider.times()[2] - told;
        assert!(again >= s(600) && again <= s(661), "{again:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_without_life_serves_those_who_waited_and_is_not_kept() {
    let provider = Provider::new(Answer::Life(Duration::ZERO));
    let handle = provider.start();
    let tokens = join_all((0..1000).map(|_| handle.acquire(s(20)))).await;
    assert!(tokens.iter().all(|token| token.as_ref().unwrap().generation() == 1));
    assert!(handle.current().is_none());
    assert!(handle.is_ready() && handle.view().ready);
    sleep(HOUR).await;
    assert_eq!(provider.calls(), 1, "nobody asked: the wake-ups of those who waited are no demand");
    assert_eq!(handle.acquire(s(20)).await.unwrap().generation(), 2);
    assert_eq!(provider.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_for_one_use_is_not_given_out_again_when_the_next_exchange_fails() {
    let provider = Provider::new(Answer::No(Class::Transient));
    provider.with(|script| script.first.push_back(Answer::Life(Duration::ZERO)));
    let (handle, first) = provider.started().await;
    assert!(first.for_one_use);
    let refused = handle.acquire(s(20)).await.unwrap_err();
    assert_eq!(failed(&refused).class(), Class::Transient);
}

/// `expires_in: 0` in answer to a background refresh used to throw away a token with most of its life left.
#[tokio::test(start_paused = true)]
async fn a_token_without_life_does_not_take_a_valid_one_away() {
    let provider = Provider::new(Answer::Wish { life: HOUR, refresh_in: s(100) });
    let begun = Instant::now();
    let (handle, first) = provider.started().await;
    provider.answers(Answer::Life(Duration::ZERO));
    while begun.elapsed() < HOUR - s(2) {
        assert!(Arc::ptr_eq(&handle.acquire(Duration::ZERO).await.unwrap(), &first));
        sleep(s(1)).await;
    }
    assert!((2..20).contains(&provider.calls()), "{}", provider.calls());
    sleep(s(3)).await;
    assert!(handle.acquire(s(20)).await.unwrap().for_one_use, "the valid one has expired");
    assert!(handle.current().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_token_without_life_takes_the_place_of_a_rejected_one_and_of_an_old_secrets() {
    let provider = Provider::new(Answer::Life(HOUR));
    let (handle, first) = provider.started().await;
    sleep(s(60)).await;
    provider.answers(Answer::Life(Duration::ZERO));
    assert!(handle.replace(first.generation(), None, s(20)).await.unwrap().for_one_use);
    assert!(handle.current().is_none());

    let provider = Provider::new(Answer::Life(HOUR));
    let (handle, _) = provider.started().await;
    provider.answers(Answer::Life(Duration::ZERO));
    provider.with(|script| script.secret = Some(2));
    sleep(s(3)).await;
    assert_eq!(provider.calls(), 2);
    assert!(handle.current().is_none());
}

#[tokio::test(start_paused = true)]
async fn steady_demand_for_tokens_without_life_is_one_exchange_a_second_and_stays_ready() {
    for life in [Duration::ZERO, ms(1), ms(999)] {
        let provider = Provider::new(Answer::Life(life));
        provider.delays(ms(5));
        let (handle, _) = provider.started().await;
        let end = Instant::now() + s(100);
        while Instant::now() < end {
            handle.acquire(s(20)).await.unwrap();
            assert!(handle.is_ready());
            sleep(ms(1)).await;
        }
        assert!((99..=102).contains(&provider.calls()), "{life:?}: {}", provider.calls());
        sleep(HOUR).await;
        assert!(provider.calls() <= 102, "{life:?}: no demand, no exchange");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_died_on_its_way_is_a_failure_and_no_tight_loop() {
    // The last twentieth of a life is for the way of requests: a token that comes in it is dead as well.
    for delay in [s(6), ms(3900)] {
        let provider = Provider::new(Answer::Life(s(4)));
        provider.delays(delay);
        let handle = provider.start();
        let refused = handle.acquire(s(20)).await.unwrap_err();
        assert!(matches!(**failed(&refused), ExchangeError::Unusable { .. }));
        sleep(HOUR).await;
        assert!(provider.calls() < 200, "{delay:?}: {}", provider.calls());
        provider.delays(s(1));
        sleep(s(40)).await;
        assert!(handle.current().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_gives_the_same_dying_token_again_is_no_tight_loop() {
    let provider = Provider::new(Answer::Life(s(600)));
    let (handle, _) = provider.started().await;
    // A cache of its own: what it gives has less and less life, until there is a new one.
    let end = Instant::now() + s(600);
    while Instant::now() < end {
        provider.answers(Answer::Life(end - Instant::now()));
        sleep(ms(100)).await;
    }
    assert!(provider.calls() < 12, "{}", provider.calls());
    provider.answers(Answer::Life(HOUR));
    assert!(handle.acquire(s(40)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_absurd_wish_to_be_asked_again_is_no_tight_loop() {
    let provider = Provider::new(Answer::Wish { life: HOUR, refresh_in: ms(1) });
    let (_handle, _) = provider.started().await;
    sleep(HOUR).await;
    assert!(provider.calls() <= 3, "{}", provider.calls());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_goes_away_while_it_waits_cancels_nothing() {
    let provider = Provider::new(Answer::Life(HOUR));
    provider.delays(s(5));
    let handle = provider.start();
    assert!(timeout(s(1), handle.acquire(s(20))).await.is_err());
    assert_eq!(handle.0.shared.waiters.load(Ordering::Relaxed), 0);
    assert_eq!(handle.acquire(s(20)).await.unwrap().generation(), 1);
    assert_eq!(provider.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_wait_has_a_limit_and_the_exchange_goes_on() {
    let provider = Provider::new(Answer::Life(HOUR));
    provider.delays(s(30));
    let handle = provider.start();
    let begun = Instant::now();
    let refused = handle.acquire(handle.patience()).await.unwrap_err();
    assert!(matches!(refused.reason, Reason::TimedOut));
    assert_eq!(begun.elapsed(), s(15));
    sleep(s(16)).await;
    assert_eq!((handle.current().is_some(), provider.calls()), (true, 1));
}

#[tokio::test(start_paused = true)]
async fn more_than_the_greatest_number_of_waiters_are_refused_at_once() {
    let provider = Provider::new(Answer::Life(HOUR));
    let handle = provider.start();
    let outcomes = join_all((0..WAITERS_MAX + 7).map(|_| handle.acquire(s(20)))).await;
    let refused = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    assert_eq!(refused.inspect(|u| assert!(matches!(u.reason, Reason::TooManyWaiters))).count(), 7);
    assert_eq!(handle.0.shared.waiters.load(Ordering::Relaxed), 0);
    assert!(handle.acquire(s(20)).await.is_ok());
}

/// Deadlines are on the boot clock: whoever sets the date an hour forward or back changes nothing.
#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_neither_ends_a_good_token_nor_prolongs_an_expired_one() {
    for seconds in [3600, -3600] {
        let provider = Provider::new(Answer::Life(HOUR));
        let (handle, first) = provider.started().await;
        sleep(s(60)).await;
        jump::by(seconds);
        sleep(s(60)).await;
        assert_eq!(handle.acquire(s(20)).await.unwrap().generation(), first.generation());
        assert_eq!(provider.calls(), 1, "{seconds}: it is not renewed for it");
        let refused = Answer::Wait { class: Class::Throttled, retry_after: s(600) };
        provider.answers(refused);
        sleep(s(3300)).await;
        assert!(handle.current().is_some(), "{seconds}: it has minutes left");
        let asked = provider.calls();
        assert!(asked > 1, "{seconds}: it is renewed in time");
        jump::by(-seconds);
        sleep(s(180)).await;
        assert!(handle.current().is_none(), "{seconds}: its life is over");
        assert!(handle.acquire(ms(50)).await.is_err());
        assert!(provider.calls() <= asked + 1, "{seconds}: the provider's waiting time holds");
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_secret_causes_one_refresh_within_two_seconds() {
    let provider = Provider::new(Answer::Life(HOUR));
    let (_handle, _) = provider.started().await;
    sleep(s(100)).await;
    assert_eq!(provider.calls(), 1, "an unchanged one causes none");
    provider.with(|script| script.secret = Some(2));
    sleep(ms(2100)).await;
    assert_eq!(provider.calls(), 2);
    sleep(s(100)).await;
    assert_eq!(provider.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_changed_secret_ends_a_long_back_off() {
    let provider = Provider::new(Answer::No(Class::Credential));
    let handle = provider.start();
    sleep(s(700)).await;
    let calls = provider.calls();
    provider.with(|script| script.secret = Some(2));
    provider.answers(Answer::Life(HOUR));
    sleep(ms(2200)).await;
    assert_eq!(provider.calls(), calls + 1);
    assert!(handle.current().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_cannot_be_read_for_a_moment_causes_no_refresh() {
    let provider = Provider::new(Answer::Life(HOUR));
    let (_handle, _) = provider.started().await;
    provider.with(|script| script.secret = None);
    sleep(s(100)).await;
    provider.with(|script| script.secret = Some(1));
    sleep(s(100)).await;
    assert_eq!(provider.calls(), 1);
}

/// A federated token that was renewed too late went unnoticed: it proves the same as the one that got the last
/// token, so it did not look like a change.
#[tokio::test(start_paused = true)]
async fn what_can_be_asked_with_again_is_noticed_also_when_it_is_what_it_was() {
    for class in [Class::Credential, Class::Transient] {
        let provider = Provider::new(Answer::Life(s(60)));
        let (handle, _) = provider.started().await;
        provider.with(|script| script.secret = None);
        provider.answers(Answer::No(class));
        sleep(s(400)).await;
        assert!(handle.current().is_none());
        let before = provider.calls();
        provider.with(|script| script.secret = Some(1));
        provider.answers(Answer::Life(HOUR));
        sleep(s(3)).await;
        assert_eq!(provider.calls(), before + 1, "{class:?}");
        assert!(handle.current().is_some());
    }
}

/// A file on a mount that hangs stopped the owner without a word: no refresh, no answer to demand or 401s.
#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_holds_no_exchange_up() {
    let provider = Provider::new(Answer::Life(HOUR));
    provider.with(|script| script.stuck = true);
    let (handle, first) = provider.started().await;
    sleep(s(60)).await;
    let begun = Instant::now();
    assert_eq!(handle.replace(first.generation(), None, s(20)).await.unwrap().generation(), 2);
    assert!(begun.elapsed() < s(4), "{:?}", begun.elapsed());
    sleep(HOUR).await;
    assert_eq!(provider.calls(), 3, "it is renewed before its end");
    provider.with(|script| (script.stuck, script.secret) = (false, Some(2)));
    sleep(s(3)).await;
    assert_eq!(provider.calls(), 4, "a new secret is noticed when it can be read");
}

/// What an exchange is made with is not known before it begins, and each reading that ended later looked like a
/// change: a token request every few seconds, whatever the provider had said.
#[tokio::test(start_paused = true)]
async fn a_source_that_is_slow_causes_no_requests() {
    let throttled = Answer::Wait { class: Class::Throttled, retry_after: s(1000) };
    for (usual, calls) in [(Answer::Life(HOUR * 10), 2), (throttled, 4)] {
        let provider = Provider::new(usual);
        provider.with(|script| script.reads_for = ms(3500));
        let handle = provider.start();
        sleep(HOUR).await;
        assert!(provider.calls() <= calls, "{usual:?}: {:?}", provider.times());
        provider.answers(Answer::Life(HOUR * 10));
        provider.with(|script| script.secret = Some(2));
        sleep(s(1100)).await;
        assert!(handle.current().is_some());
        let before = provider.calls();
        provider.with(|script| script.secret = Some(3));
        sleep(s(30)).await;
        assert_eq!(provider.calls(), before + 1, "a new secret is noticed, once");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_gives_another_secret_each_time_is_no_request_every_two_seconds() {
    for usual in [Answer::Life(HOUR), Answer::No(Class::Credential)] {
        let provider = Provider::new(usual);
        provider.with(|script| script.flaps = true);
        let _handle = provider.start();
        sleep(HOUR).await;
        assert!(provider.calls() <= 361, "{usual:?}: {}", provider.calls());
    }
}

#[tokio::test(start_paused = true)]
async fn the_owner_stops_when_the_last_handle_is_dropped() {
    let provider = Provider::new(Answer::Life(s(5)));
    let (handle, _) = provider.started().await;
    let other = handle.clone();
    drop(handle);
    sleep(s(10)).await;
    assert!(other.current().is_some());
    let owner = other.0.owner.clone();
    let shared = Arc::downgrade(&other.0.shared);
    drop(other);
    let calls = provider.calls();
    sleep(s(60)).await;
    assert!(owner.is_finished() && shared.upgrade().is_none());
    assert_eq!(provider.calls(), calls);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_sixteen_profiles_ask_a_provider_at_a_time_and_others_are_not_held_up() {
    let (busy, other) = (Provider::new(Answer::Life(HOUR)), Provider::new(Answer::Life(HOUR)));
    busy.delays(s(1));
    let turns = Turns::default();
    let start_at =
        |turns: &Turns| start(settings(Recovery::default()), busy.clone(), turns.clone(), Arc::default());
    let handles: Vec<_> = (0..100).map(|_| start_at(&turns)).collect();
    assert!(other.start().acquire(ms(150)).await.is_ok());
    let tokens = join_all(handles.iter().map(|handle| handle.acquire(s(15)))).await;
    assert!(tokens.iter().all(Result::is_ok));
    assert_eq!(busy.with(|script| script.most_in_flight), EXCHANGES_MAX);
    assert_eq!(busy.calls(), 100);
}

#[tokio::test(start_paused = true)]
async fn no_form_of_a_token_that_can_be_logged_shows_it() {
    let (handle, token) = Provider::new(Answer::Life(HOUR)).started().await;
    let Ready::Header(_, value) = token.ready() else { panic!("no header") };
    assert!(value.is_sensitive());
    let shown = format!("{token:?} {:?}", handle.view());
    assert!(!shown.contains("Bearer"), "{shown}");
}
