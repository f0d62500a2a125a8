//! Random sequences of events on the paused clock; what must hold whatever happens.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const CLASSES: [Class; 5] =
    [Class::Permanent, Class::Credential, Class::Eventual, Class::Transient, Class::Throttled];

fn any_answer(random: &mut fastrand::Rng) -> Answer {
    let life = [Duration::ZERO, ms(300), s(1), s(5), s(60), s(300), HOUR][random.usize(..7)];
    let class = CLASSES[random.usize(..5)];
    match random.u8(..10) {
        0..6 => Answer::Life(life),
        6 => Answer::Wish { life, refresh_in: ms(random.u64(..1_000_000)) },
        7 | 8 => Answer::No(class),
        _ => Answer::Wait { class, retry_after: s(random.u64(..400)) },
    }
}

/// One request: takes a token, sends, reports a 401 if there is one.
async fn request(
    handle: Handle,
    kind: u8,
    wait: Duration,
    demanded: Option<String>,
    newest: Arc<AtomicUsize>,
) {
    let acquired = match kind {
        0 => handle.acquire_unrejected(wait).await,
        _ => handle.acquire(wait).await,
    };
    let Ok(token) = acquired else { return };
    assert!(token.is_valid() || token.for_one_use, "an expired token was given out");
    if kind < 2 {
        sleep(ms(u64::from(kind) * 700)).await;
        let outcome = handle.replace(token.generation(), demanded, wait).await;
        if let Ok(next) = outcome {
            assert!(next.generation() > token.generation(), "generations only grow");
            assert!(next.is_valid() || next.for_one_use);
        }
    }
    // A token that is kept goes on beside newer ones that serve those who wait and nobody else.
    if !token.for_one_use {
        newest.fetch_max(usize::try_from(token.generation()).unwrap(), Ordering::Relaxed);
    }
}

async fn one_hour(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let provider = Provider::new(any_answer(&mut random));
    let handle = provider.start();
    let newest = Arc::new(AtomicUsize::new(0));
    let end = Instant::now() + HOUR;
    let mut requests = tokio::task::JoinSet::new();
    while Instant::now() < end {
        match random.u8(..20) {
            0 => provider.answers(any_answer(&mut random)),
            1 => provider.delays(ms([0, 1, 100, 3000, 9999][random.usize(..5)])),
            2 => provider.with(|script| script.secret = (random.u8(..4) > 0).then(|| random.u64(..3))),
            3 if random.bool() => provider.with(|script| script.stuck = !script.stuck),
            3 => provider.with(|script| script.refused = random.bool().then(|| claims("a")).flatten()),
            _ => {
                let wait = ms([0, 50, 2000, 15_000][random.usize(..4)]);
                let demanded = random.bool().then(|| claims(["a", "b"][random.usize(..2)])).flatten();
                let (handle, newest) = (handle.clone(), Arc::clone(&newest));
                requests.spawn(request(handle, random.u8(..6), wait, demanded, newest));
            }
        }
        if random.u8(..50) == 0 {
            requests.abort_all();
        }
        while let Some(done) = requests.try_join_next() {
            assert!(done.is_ok() || done.as_ref().is_err_and(|e| e.is_cancelled()), "{seed}: {done:?}");
        }
        sleep(ms(random.u64(..3000))).await;
    }
    while let Some(done) = requests.join_next().await {
        assert!(done.is_ok() || done.as_ref().is_err_and(|e| e.is_cancelled()), "{seed}: {done:?}");
    }
    assert!(provider.with(|script| script.most_in_flight) <= 1, "{seed}: two exchanges at once");
    // At worst one-second lives, each refreshed a little before its end.
    assert!(provider.calls() < 7000, "{seed}: {} exchanges in an hour", provider.calls());
    assert_eq!(handle.0.shared.waiters.load(Ordering::Relaxed), 0, "{seed}");

    // The provider has recovered: a token is there when its waiting time or five minutes are over.
    provider
        .with(|script| (script.usual, script.delay, script.refused) = (Answer::Life(HOUR), ms(100), None));
    provider.with(|script| script.stuck = false);
    sleep(s(441)).await;
    let token = handle.acquire(s(20)).await.unwrap();
    assert!(token.generation() >= newest.load(Ordering::Relaxed) as u64, "{seed}: generations only grow");
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_tokens_are_valid_exchanges_few_and_recovery_sure() {
    for seed in 0..40 {
        one_hour(seed).await;
    }
}
