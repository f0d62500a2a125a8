//! What is said about a profile that works: missing roles, large tokens, clocks that are apart.

use std::io;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use tracing::subscriber::DefaultGuard;

use super::*;

/// Lines that this test's thread has logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn begin() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// How many lines say it.
    fn count(&self, words: &str) -> usize {
        let bytes = self.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().filter(|line| line.contains(words)).count()
    }
}

fn token_with(claims: &str) -> String {
    format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims))
}

fn expecting(roles: &[&str], provider: &Provider) -> Handle {
    let mut settings = settings(Recovery::default());
    settings.profile.expected_roles = roles.iter().map(|role| (*role).to_owned()).collect();
    start(settings, provider.clone(), Turns::default(), Arc::default())
}

#[tokio::test(start_paused = true)]
async fn a_token_without_the_expected_roles_is_told_once_per_generation_and_used_all_the_same() {
    let (log, _guard) = Log::begin();
    let provider = Provider::new(Answer::Life(HOUR));
    provider.with(|script| script.token = token_with(r#"{"roles":["Other"],"scp":"Orders.List"}"#));
    let handle = expecting(&["Orders.Read", "Orders.List"], &provider);
    for _ in 0..100 {
        assert!(handle.acquire(s(20)).await.is_ok());
    }
    assert_eq!(log.count("lacks expected roles"), 1);
    assert_eq!(log.count("Assignment required"), 1, "the remedy stands beside it");
    assert_eq!(handle.view().notes.missing_roles, ["Orders.Read"], "the other one is in scp");
    sleep(s(3001)).await;
    assert_eq!((provider.calls(), log.count("lacks expected roles")), (2, 2));
    provider.with(|script| script.token = token_with(r#"{"roles":["Orders.Read","Orders.List"]}"#));
    sleep(s(3001)).await;
    assert_eq!((provider.calls(), log.count("lacks expected roles")), (3, 2));
    assert!(handle.view().notes.missing_roles.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_opaque_token_is_not_said_to_lack_roles() {
    let (log, _guard) = Log::begin();
    let provider = Provider::new(Answer::Life(HOUR));
    let handle = expecting(&["Orders.Read"], &provider);
    assert!(handle.acquire(s(20)).await.is_ok());
    assert_eq!(log.count("lacks expected roles"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_token_over_4_kib_is_told_once_per_generation() {
    let (log, _guard) = Log::begin();
    let provider = Provider::new(Answer::Life(HOUR));
    provider.with(|script| script.token = "t".repeat(4096));
    let (handle, _) = provider.started().await;
    assert_eq!((handle.view().notes.token_bytes, log.count("larger than 4 KiB")), (4096, 0));
    provider.with(|script| script.token = "t".repeat(4097));
    sleep(s(3001)).await;
    assert_eq!((handle.view().notes.token_bytes, log.count("larger than 4 KiB")), (4097, 1));
    sleep(s(1000)).await;
    assert_eq!(log.count("larger than 4 KiB"), 1);
}

#[tokio::test(start_paused = true)]
async fn clocks_that_are_apart_are_told_once_per_change_also_when_the_provider_refuses() {
    let (log, _guard) = Log::begin();
    let provider = Provider::new(Answer::Life(s(60)));
    provider.with(|script| script.skew = Some(-15));
    let (handle, _) = provider.started().await;
    let round = async |skew| {
        let before = provider.calls();
        provider.with(|script| script.skew = Some(skew));
        while provider.calls() < before + 3 {
            sleep(s(1)).await;
        }
    };
    assert_eq!((handle.view().notes.clock_skew, log.count("this machine's clock")), (Some(-15), 0));
    round(-16).await;
    assert_eq!((handle.view().notes.clock_skew, log.count("clock is ahead")), (Some(-16), 1));
    round(-30).await;
    assert_eq!(log.count("clock is ahead"), 1, "as good as the same");
    provider.answers(Answer::No(Class::Permanent));
    round(100).await;
    assert_eq!((log.count("clock is ahead"), log.count("clock is behind")), (1, 1));
    round(0).await;
    assert_eq!(log.count("together again"), 1);
    round(0).await;
    assert_eq!(log.count("together again"), 1);
}
