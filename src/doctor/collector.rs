//! The collector of traces: the way there, and whether it takes what the gateway would send.

use tokio::time::Instant;

use crate::{
    doctor::{
        network::{self, Target},
        step::{Case, Outcome, Steps},
    },
    export::{self, Obstacle},
    outbound::{self, Proxy},
    profile::{
        diagnosis::{Diagnosis, network::of_network},
        refusal::ExchangeError,
    },
};

/// Examines the collector. Spans are not made up: the request that it gets holds none.
pub(super) async fn examine(settings: export::Settings, deadline: Instant) -> (Case, ()) {
    // Its path may hold a key.
    let endpoint = settings.endpoint.origin().ascii_serialization();
    let mut case =
        Case { name: "telemetry.otlp".into(), about: vec![("endpoint", endpoint)], ..Case::default() };
    let steps = &mut case.steps;
    if steps.is_late(deadline) {
        return (case, ());
    }
    for (name, source) in &settings.headers {
        match source.read().await {
            Ok(_) => steps.ok("source", format!("headers.{name}: {source} is readable")),
            Err(error) => {
                let words = ExchangeError::Source(error);
                let diagnosis = words.diagnosis();
                steps.fail("source", format!("headers.{name}: {words}"), diagnosis);
            }
        }
    }
    way(&settings, steps).await;
    if steps.count(Outcome::Failed) > 0 {
        steps.skip("export", "a step before it has failed");
        return (case, ());
    }
    let begun = Instant::now();
    match export::try_once(&settings).await {
        Ok(()) => steps.ok("export", "the collector takes spans"),
        Err(Obstacle::Refused(status)) if status.as_u16() == 400 => {
            let words = Diagnosis {
                meaning: "it takes OTLP, perhaps: some collectors refuse a request without spans, as this one was",
                remedy: "send a request through the gateway and look at keybearer_spans_exported_total",
            };
            steps.warn("export", "it answered 400", words);
        }
        Err(obstacle) => steps.fail("export", obstacle.to_string(), words(&obstacle)),
    }
    steps.took(begun.elapsed());
    (case, ())
}

/// The way to it; through an outbound proxy only the way to that can be seen.
async fn way(settings: &export::Settings, steps: &mut Steps) {
    let proxy = outbound::proxy_for(&settings.endpoint, &Proxy::Environment);
    let url = proxy.as_ref().unwrap_or(&settings.endpoint);
    let Some(target) = Target::of_url(url, settings.ca.as_deref()) else { return };
    if let Some(proxy) = &proxy {
        let shown = proxy.origin().ascii_serialization();
        steps.ok("proxy", format!("{shown} is used; the name, the way and TLS beyond it are not looked at"));
    }
    network::examine(&target, steps).await;
}

fn words(obstacle: &Obstacle) -> Diagnosis {
    match obstacle {
        Obstacle::Refused(status) => of_status(status.as_u16()),
        Obstacle::Header(_) => Diagnosis {
            meaning: "a header that the collector wants cannot be made",
            remedy: "put its value right, on one line and without control characters",
        },
        // The way there was found a moment ago, so it is what is spoken there.
        Obstacle::Unreached(words) if !words.contains("TLS") && !words.contains("proxy") => Diagnosis {
            meaning: "it takes connections but does not speak HTTP/1.1: perhaps it is OTLP over gRPC, or wants TLS",
            remedy: "name the port of OTLP over HTTP, usually 4318 (4317 is that of gRPC), and https:// where it has TLS",
        },
        Obstacle::Start(_) | Obstacle::Unreached(_) => of_network(&obstacle.to_string()),
    }
}

fn of_status(status: u16) -> Diagnosis {
    let (meaning, remedy) = match status {
        401 | 403 => (
            "the collector wants a key, or another one",
            "put the key that it expects into telemetry.otlp.headers",
        ),
        404 | 405 => (
            "it speaks HTTP, but takes no traces at this path",
            "compare the path of telemetry.otlp.endpoint with the collector's documentation; /v1/traces is added to it",
        ),
        415 => {
            ("it does not take OTLP as protobuf", "switch OTLP over HTTP with protobuf on in the collector")
        }
        429 => ("it takes no more spans for now", "raise its limit, or keep fewer traces with sampling"),
        500..=599 => ("the collector, or what stands in front of it, is not well", "look at its log"),
        _ => {
            ("it does not take traces", "compare telemetry.otlp.endpoint with the collector's documentation")
        }
    };
    Diagnosis { meaning, remedy }
}
