//! Paused clock, and a provider that is a script.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use futures_util::future::join_all;
use reqwest::StatusCode;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::{
    clock::jump,
    outbound,
    profile::{Kind, answer, authentication::ClientAuth, credential::Credential, entra, refusal::Class},
    secret::Secret,
    source::Source,
};

mod classes;
mod lifecycle;
mod noticed;
mod random;
mod recovery;
mod throttling;

const HOUR: Duration = Duration::from_secs(3600);

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// How the provider answers.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Life(Duration),
    Wish { life: Duration, refresh_in: Duration },
    No(Class),
    Wait { class: Class, retry_after: Duration },
}

#[derive(Clone, Debug)]
struct Call {
    at: Instant,
    claims: Option<String>,
}

struct Script {
    calls: Vec<Call>,
    /// Answers to the next calls, before `usual`.
    first: VecDeque<Answer>,
    usual: Answer,
    /// Claims that are refused.
    refused: Option<String>,
    delay: Duration,
    in_flight: usize,
    most_in_flight: usize,
    /// The secret in its source, or none to be read there.
    secret: Option<u64>,
    /// Reading the source does not end.
    stuck: bool,
    /// How long reading the source takes.
    reads_for: Duration,
    /// The source gives something else each time.
    flaps: bool,
    /// What tokens it gives.
    token: String,
    /// How far its clock is ahead.
    skew: Option<i64>,
}

#[derive(Clone)]
struct Provider(Arc<Mutex<Script>>);

impl Provider {
    fn new(usual: Answer) -> Self {
        Self(Arc::new(Mutex::new(Script {
            calls: Vec::new(),
            first: VecDeque::new(),
            usual,
            refused: None,
            delay: ms(100),
            in_flight: 0,
            most_in_flight: 0,
            secret: Some(1),
            stuck: false,
            reads_for: Duration::ZERO,
            flaps: false,
            token: "t".into(),
            skew: None,
        })))
    }

    fn with<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn answers(&self, usual: Answer) {
        self.with(|script| script.usual = usual);
    }

    fn delays(&self, delay: Duration) {
        self.with(|script| script.delay = delay);
    }

    fn calls(&self) -> usize {
        self.with(|script| script.calls.len())
    }

    /// When it was asked, counted from the first time.
    fn times(&self) -> Vec<Duration> {
        self.with(|script| {
            let first = script.calls.first().map(|call| call.at);
            script.calls.iter().map(|call| call.at - first.unwrap()).collect()
        })
    }

    fn claims(&self) -> Vec<Option<String>> {
        self.with(|script| script.calls.iter().map(|call| call.claims.clone()).collect())
    }

    fn start(&self) -> Handle {
        start(settings(Recovery::default()), self.clone(), Turns::default(), Arc::default())
    }

    /// Starts and waits for the first token.
    async fn started(&self) -> (Handle, Arc<Token>) {
        let handle = self.start();
        let token = handle.acquire(s(20)).await.unwrap();
        (handle, token)
    }
}

impl Exchange for Provider {
    async fn exchange(&self, claims: Option<&str>) -> Result<Grant, ExchangeError> {
        let asked_at = clock::now();
        let claims = claims.map(str::to_owned);
        let (delay, answer) = self.with(|script| {
            script.calls.push(Call { at: Instant::now(), claims: claims.clone() });
            script.in_flight += 1;
            script.most_in_flight = script.most_in_flight.max(script.in_flight);
            let scripted = script.first.pop_front().unwrap_or(script.usual);
            let is_refused = claims.is_some() && claims == script.refused;
            (script.delay, if is_refused { Answer::No(Class::Permanent) } else { scripted })
        });
        sleep(delay).await;
        self.with(|script| script.in_flight -= 1);
        let (lifetime, refresh_in) = match answer {
            Answer::Life(life) => (life, None),
            Answer::Wish { life, refresh_in } => (life, Some(refresh_in)),
            Answer::No(class) => return Err(error(class, None)),
            Answer::Wait { class, retry_after } => return Err(error(class, Some(retry_after))),
        };
        let token = self.with(|script| script.token.clone());
        Ok(Grant { credential: Credential::Bearer(Secret::new(token)), lifetime, refresh_in, asked_at })
    }

    async fn identity(&self) -> Option<Identity> {
        while self.with(|script| script.stuck) {
            sleep(ms(50)).await;
        }
        sleep(self.with(|script| script.reads_for)).await;
        let secret = self.with(|script| {
            if script.flaps {
                script.secret = script.secret.map(|secret| secret + 1);
            }
            script.secret
        })?;
        Some(Identity::of([&secret.to_be_bytes()[..]]))
    }

    fn clock_skew(&self) -> Option<i64> {
        self.with(|script| script.skew)
    }
}

fn error(class: Class, retry_after: Option<Duration>) -> ExchangeError {
    let (status, body) = match class {
        Class::Permanent => (400, r#"{"error":"invalid_scope"}"#),
        Class::Credential => (401, r#"{"error":"invalid_client"}"#),
        Class::NewCredential => (401, r#"{"error":"invalid_client","error_codes":[700027]}"#),
        Class::Eventual => (400, r#"{"error":"unauthorized_client","error_codes":[700016]}"#),
        Class::Transient => (503, ""),
        Class::Throttled => (429, ""),
    };
    let reply =
        answer::Reply { status: StatusCode::from_u16(status).unwrap(), retry_after, body: body.into() };
    let error = answer::read(&reply, answer::Scheme::Bearer, HOUR, &[]).err().unwrap();
    assert_eq!(error.class(), class);
    error
}

fn settings(recovery: Recovery) -> Settings {
    let account = entra::Settings {
        authority: entra::AUTHORITY.parse().unwrap(),
        tenant: "contoso.onmicrosoft.com".into(),
        client_id: "daemon".into(),
        auth: ClientAuth::SecretPost(Source::Env("NEVER_READ".into()).into()),
        scope: "api://orders/.default".into(),
        policy: None,
        cae: false,
    };
    let profile = profile::Settings {
        name: "orders-daemon".into(),
        kind: Kind::Entra(account),
        expected_roles: Vec::new(),
        default_ttl: s(300),
        timeout: s(10),
        connection: outbound::Settings::default(),
        secret_expires: None,
    };
    Settings { profile, required: true, recovery, waiters_max: WAITERS_MAX, also: Vec::new() }
}

fn failed(unavailable: &Unavailable) -> &Arc<ExchangeError> {
    match &unavailable.reason {
        Reason::Failed(error) => error,
        other => panic!("{other:?}"),
    }
}

fn claims(text: &str) -> Option<String> {
    Some(format!(r#"{{"{text}":1}}"#))
}
