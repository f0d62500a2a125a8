//! What the doctor found: cases of steps, each with its words.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    profile::{self, diagnosis::Diagnosis},
    proxy::settings::RouteSettings,
    route::Entry,
};

/// How a step came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// It works, and an operator should look at it.
    Warning,
    /// It does not work.
    Failed,
    /// Not tried, as a step before it failed.
    Skipped,
}

impl Outcome {
    /// The word in reports.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Warning => "warning",
            Outcome::Failed => "failed",
            Outcome::Skipped => "skipped",
        }
    }
}

/// One thing that was tried.
#[derive(Clone, Debug)]
pub struct Step {
    /// What was tried: one of a fixed list of words.
    pub name: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// What was seen.
    pub seen: String,
    /// What a warning or a failure means, and what to do next.
    pub words: Option<(String, String)>,
    /// How long it took.
    pub took: Option<Duration>,
}

/// The steps of one case, in their order.
#[derive(Clone, Debug, Default)]
pub struct Steps(Vec<Step>);

impl<'a> IntoIterator for &'a Steps {
    type Item = &'a Step;
    type IntoIter = std::slice::Iter<'a, Step>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl Steps {
    fn push(&mut self, name: &'static str, outcome: Outcome, seen: String) -> &mut Step {
        self.0.push(Step { name, outcome, seen, words: None, took: None });
        self.0.last_mut().expect("a step was pushed a line above")
    }

    /// It is as it should be.
    pub(super) fn ok(&mut self, name: &'static str, seen: impl Into<String>) {
        self.push(name, Outcome::Ok, seen.into());
    }

    /// It works, and should be looked at.
    pub(super) fn warn(&mut self, name: &'static str, seen: impl Into<String>, words: Diagnosis) {
        self.push(name, Outcome::Warning, seen.into()).words = Some(texts(words));
    }

    /// It does not work.
    pub(super) fn fail(&mut self, name: &'static str, seen: impl Into<String>, words: Diagnosis) {
        self.push(name, Outcome::Failed, seen.into()).words = Some(texts(words));
    }

    /// It does not work, in words made for the occasion.
    pub(super) fn fail_as(&mut self, name: &'static str, seen: impl Into<String>, words: (String, String)) {
        self.push(name, Outcome::Failed, seen.into()).words = Some(words);
    }

    /// It was not tried.
    pub(super) fn skip(&mut self, name: &'static str, why: impl Into<String>) {
        self.push(name, Outcome::Skipped, why.into());
    }

    /// The last step took so long.
    pub(super) fn took(&mut self, span: Duration) {
        if let Some(step) = self.0.last_mut() {
            step.took = Some(span);
        }
    }

    /// How many came out like this.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.into_iter().filter(|step| step.outcome == outcome).count()
    }

    /// Whether the examination's time is over; a step says so.
    pub(super) fn is_late(&mut self, deadline: Instant) -> bool {
        let is_late = Instant::now() >= deadline;
        if is_late {
            self.skip("time", "the examination's time was over before this was its turn");
        }
        is_late
    }
}

fn texts(words: Diagnosis) -> (String, String) {
    (words.meaning.to_owned(), words.remedy.to_owned())
}

/// A profile or a route, and what was tried with it.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// Its name in the configuration.
    pub name: String,
    /// What it is, beside its name: label and value.
    pub about: Vec<(&'static str, String)>,
    /// What was tried.
    pub steps: Steps,
}

impl Case {
    /// A profile's, without steps.
    pub(super) fn of_profile(settings: &profile::Settings, provider: Option<String>) -> Self {
        let mut about = vec![("kind", settings.kind.name().to_owned())];
        about.extend(provider.map(|provider| ("provider", provider)));
        Self { name: settings.name.clone(), about, steps: Steps::default() }
    }

    /// A route's, without steps.
    pub(super) fn of_route(route: &Entry<RouteSettings>) -> Self {
        let target = &route.target;
        let base = target.base_path.as_ref().map_or("", |base| base.path());
        let profile = target.profile.clone().unwrap_or_else(|| "none".into());
        let about = vec![("upstream", format!("{}{base}", target.upstream)), ("profile", profile)];
        Self { name: route.name.clone(), about, steps: Steps::default() }
    }

    /// The worst of its steps.
    pub fn outcome(&self) -> Outcome {
        let has = |outcome| self.steps.into_iter().any(|step| step.outcome == outcome);
        [Outcome::Failed, Outcome::Warning].into_iter().find(|outcome| has(*outcome)).unwrap_or(Outcome::Ok)
    }
}
