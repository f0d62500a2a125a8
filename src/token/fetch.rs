//! The span of a token request: the root of a trace of its own, since many requests may wait for it.
//!
//! Token requests are few, and always kept while there is a collector.

use std::{sync::Arc, time::SystemTime};

use crate::{
    clock,
    profile::{Grant, refusal::ExchangeError},
    telemetry::trace::{Context, Kind, Link, Span, TraceId, Tracer, Traces},
};

/// A token request that is under way.
pub(super) struct Fetch {
    tracer: Arc<Tracer>,
    context: Context,
    began: SystemTime,
}

impl Fetch {
    /// Begins its span, if somebody collects spans.
    pub(super) fn begin(traces: &Traces) -> Option<Self> {
        let tracer = traces.tracer()?;
        let context = Context::root(TraceId::random(), true);
        Some(Self { tracer, context, began: clock::wall() })
    }

    /// What those who wait for it point to.
    pub(super) fn link(&self) -> Link {
        self.context.link()
    }

    /// It is over.
    pub(super) fn end(self, profile: &str, provider: String, outcome: &Result<Grant, ExchangeError>) {
        let mut attributes = vec![
            ("keybearer.profile", profile.to_owned().into()),
            ("keybearer.identity_provider", provider.into()),
        ];
        if let Err(error) = outcome {
            attributes.push(("error.type", error.class().name().into()));
        }
        self.tracer.keep(vec![Span {
            context: self.context,
            parent: None,
            name: "fetch token".into(),
            kind: Kind::Client,
            began: self.began,
            ended: clock::wall(),
            attributes,
            links: Vec::new(),
            has_failed: outcome.is_err(),
        }]);
    }
}
