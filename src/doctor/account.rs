//! One profile: its sources, the way to its provider, a token, and what the token says.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};
use url::Url;

use crate::{
    clock,
    doctor::{
        network::{self, Target},
        step::{Case, Outcome, Steps},
    },
    outbound,
    profile::{
        self, Grant, Kind, Profile,
        certificate::Certificate,
        content::{self, Content},
        diagnosis::{self, Diagnosis},
        http::Http,
        refusal::ExchangeError,
        skew,
    },
    source::SourceError,
};

/// A profile's own limit may be longer; the doctor's patience is not.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(30);
/// Shorter lives are refreshed without a pause.
const LIFETIME_MIN: Duration = Duration::from_secs(60);

/// What a profile gave.
pub(super) struct Had {
    pub(super) grant: Grant,
    /// What the token is bound to, and upstreams are to be shown.
    pub(super) certificate: Option<Arc<Certificate>>,
}

/// Examines a profile and gives its token, if it could be had.
pub(super) async fn examine(
    settings: profile::Settings,
    http: Arc<Http>,
    deadline: Instant,
) -> (Case, Option<Arc<Had>>) {
    let profile = Profile::new(settings.clone(), http);
    // Who talks to nobody has no address.
    let provider = Some(profile.provider()).filter(|provider| Url::parse(provider).is_ok());
    let mut case = Case::of_profile(&settings, provider);
    if case.steps.is_late(deadline) {
        return (case, None);
    }
    let steps = &mut case.steps;
    sources(&settings, steps).await;
    if steps.count(Outcome::Failed) == 0 {
        proves(&profile, steps).await;
    }
    let is_reached = way(&profile, steps).await;
    let grant = if is_reached {
        token(&profile, steps).await
    } else {
        steps.skip("token", "the provider cannot be reached");
        None
    };
    match &grant {
        Some(grant) => describe(&settings, grant, steps),
        None => steps.skip("content", "there is no token"),
    }
    let certificate = profile.presented().and_then(|presented| presented.current());
    (case, grant.map(|grant| Arc::new(Had { grant, certificate })))
}

/// As long as a token request would wait for a source, which may hang.
fn reading_limit(settings: &profile::Settings) -> Duration {
    settings.timeout.min(EXCHANGE_LIMIT)
}

async fn sources(settings: &profile::Settings, steps: &mut Steps) {
    let limit = reading_limit(settings);
    for item in settings.kind.inventory() {
        let place = format!("{}: {}", item.what, item.source);
        let read = timeout(limit, item.oddity(settings.kind.is_of_entra())).await;
        match read.unwrap_or_else(|_| Err(SourceError::Slow(item.source.clone(), limit))) {
            Ok(None) => steps.ok("source", format!("{place} is readable")),
            Ok(Some(oddity)) => {
                steps.warn("source", format!("{place} is readable"), oddity.diagnosis());
            }
            Err(error) => {
                let words = ExchangeError::Source(error);
                let diagnosis = words.diagnosis();
                steps.fail("source", format!("{}: {words}", item.what), diagnosis);
            }
        }
    }
}

/// Whether what can be read can prove something: known without asking anybody.
async fn proves(profile: &Profile, steps: &mut Steps) {
    let settings = profile.settings();
    let limit = reading_limit(settings);
    let error = match timeout(limit, profile.identity()).await {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => error,
        // It could be read a moment ago.
        Err(_) => match settings.kind.inventory().into_iter().next() {
            Some(item) => ExchangeError::Source(SourceError::Slow(item.source, limit)),
            None => return,
        },
    };
    steps.fail("source", error.to_string(), error.diagnosis());
}

/// The way to the provider, step by step. Through an outbound proxy only the way to that can be seen.
async fn way(profile: &Profile, steps: &mut Steps) -> bool {
    // A machine's own endpoint is asked without a proxy or a name, and says by itself what is wrong.
    if matches!(profile.settings().kind, Kind::ManagedIdentity(_)) {
        return true;
    }
    let Ok(url) = Url::parse(&profile.provider()) else { return true };
    let before = steps.count(Outcome::Failed);
    let outbound::Settings { proxy, ca } = &profile.settings().connection;
    let proxy = outbound::proxy_for(&url, proxy);
    let Some(target) = Target::of_url(proxy.as_ref().unwrap_or(&url), ca.as_deref()) else { return true };
    if let Some(proxy) = &proxy {
        let shown = proxy.origin().ascii_serialization();
        steps.ok("proxy", format!("{shown} is used; the name, the way and TLS beyond it are not looked at"));
    }
    // Whoever shows a certificate may be refused without one: the token request tells.
    let shows_certificate = profile.settings().kind.proven_by().is_some_and(|method| method.contains("tls"));
    if shows_certificate {
        network::examine(&target.without_tls(), steps).await;
        steps.skip("tls", "the provider wants a certificate in the handshake; the token request shows it");
    } else {
        network::examine(&target, steps).await;
    }
    if steps.count(Outcome::Failed) > before {
        return false;
    }
    match profile.discovered().await {
        None => true,
        Some(Ok(url)) => {
            steps.ok("discovery", format!("the token endpoint is {url}"));
            if let Some(words) = profile.objection() {
                let diagnosis = Diagnosis {
                    meaning: "servers forget to list what they take, so it is asked all the same",
                    remedy: "if the token is refused, set auth to one of these",
                };
                steps.warn("methods", words, diagnosis);
            }
            true
        }
        Some(Err(error)) => {
            steps.fail("discovery", error.to_string(), error.diagnosis());
            false
        }
    }
}

async fn token(profile: &Profile, steps: &mut Steps) -> Option<Grant> {
    let begun = Instant::now();
    let asked = timeout(EXCHANGE_LIMIT, profile.exchange(None)).await;
    let outcome = asked.unwrap_or(Err(ExchangeError::TimedOut { after: EXCHANGE_LIMIT }));
    let grant = match outcome {
        Ok(grant) => {
            let by = profile.proven_by().map_or(String::new(), |by| format!(", proven by {by}"));
            steps.ok("token", format!("obtained{by}"));
            steps.took(begun.elapsed());
            for oddity in profile.oddities() {
                steps.warn(oddity.step(), oddity.to_string(), oddity.diagnosis());
            }
            Some(grant)
        }
        Err(error) => {
            steps.fail("token", error.to_string(), error.diagnosis());
            steps.took(begun.elapsed());
            None
        }
    };
    clocks(profile, steps);
    expiries(profile, steps);
    grant
}

/// The ends of what proves the account, as far as they are known: some only after a request.
fn expiries(profile: &Profile, steps: &mut Steps) {
    for expiry in profile.expiries() {
        match expiry.warning(clock::wall()) {
            None => steps.ok("expiry", format!("{} is good until {expiry}", expiry.what)),
            Some(seen) => {
                let words = Diagnosis {
                    meaning: "from then on the provider refuses the account",
                    remedy: "make a new one and put it into its source while the old one still works",
                };
                steps.warn("expiry", seen, words);
            }
        }
    }
}

fn clocks(profile: &Profile, steps: &mut Steps) {
    if Url::parse(&profile.provider()).is_err() {
        return;
    }
    match profile.clock_skew() {
        None => steps.skip("clock", "the provider did not tell its time"),
        Some(seconds) if seconds.unsigned_abs() > skew::WARN.as_secs() => {
            let seen = format!("{} s apart from the provider's", seconds.unsigned_abs());
            steps.warn("clock", seen, diagnosis::of_clock_skew(seconds));
        }
        Some(seconds) => {
            steps.ok("clock", format!("{} s apart from the provider's", seconds.unsigned_abs()));
        }
    }
}

fn describe(settings: &profile::Settings, grant: &Grant, steps: &mut Steps) {
    lifetime(grant, steps);
    let token = grant.credential.secret();
    let bytes = token.expose().len();
    if bytes > content::LARGE_BYTES {
        let words = Diagnosis {
            meaning: "servers refuse header fields of that size: 4 to 8 KiB is all that many take",
            remedy: "grant the account fewer roles or groups, or raise the limit of the API's server",
        };
        steps.warn("size", format!("{bytes} bytes"), words);
    }
    let Some(content) = Content::of(token) else {
        steps.ok("content", "opaque: only its issuer can read it");
        if !settings.expected_roles.is_empty() {
            steps.skip("roles", "they cannot be compared, as the token is opaque");
        }
        return;
    };
    let shown = [
        ("issuer", content.issuer()),
        ("audience", content.audience()),
        ("client", content.client()),
        ("tenant", content.tenant()),
    ];
    let shown: Vec<_> = shown
        .into_iter()
        .filter_map(|(label, value)| value.map(|value| format!("{label} {value}")))
        .collect();
    steps.ok("content", shown.join(", "));
    roles(settings, &content, steps);
}

fn lifetime(grant: &Grant, steps: &mut Steps) {
    let words = |meaning| Diagnosis {
        meaning,
        remedy: "let the provider issue tokens for longer, or set default_ttl if its answer names no lifetime",
    };
    match grant.lifetime {
        Duration::ZERO => steps.warn(
            "lifetime",
            "none: for one use",
            words("the token may not be kept, so every request needs a token request"),
        ),
        short if short < LIFETIME_MIN => steps.warn(
            "lifetime",
            format!("{} s", short.as_secs()),
            words("so short a life means token requests all the time"),
        ),
        Grant::FOR_EVER => steps.ok("lifetime", "until it is replaced"),
        life => steps.ok("lifetime", format!("{} s", life.as_secs())),
    }
}

fn roles(settings: &profile::Settings, content: &Content, steps: &mut Steps) {
    let roles = content.roles();
    let shown = if roles.is_empty() { "none".to_owned() } else { roles.join(", ") };
    let missing = content.missing(&settings.expected_roles);
    let is_of_entra = settings.kind.is_of_entra();
    if !missing.is_empty() {
        let seen = format!("{shown}; expected and missing: {}", missing.join(", "));
        steps.fail("roles", seen, diagnosis::of_missing_roles(is_of_entra));
    } else if roles.is_empty() && is_of_entra {
        steps.warn("roles", shown, diagnosis::of_missing_roles(true));
    } else {
        steps.ok("roles", shown);
    }
}
