//! The doctor: tries what the gateway will do with every profile and every upstream, step by step,
//! and says of each failure what was seen, what it means and what to do next.
//!
//! It gets real tokens and opens real connections, but sends no request to an API unless a probe was
//! asked for. It never shows a secret, a token or anything of an answer but names and numbers.

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};

use crate::{
    config::Settings,
    doctor::{
        account::Had,
        step::{Case, Outcome, Steps},
    },
    profile::{certificate::Certificate, http::Http},
    proxy::settings::RouteSettings,
    route::Entry,
    upstream::Origin,
};

mod account;
mod collector;
mod handshake;
mod network;
mod probe;
pub mod step;

/// Cases that are examined at a time: enough to be quick, few enough to look like no attack.
const AT_A_TIME: usize = 8;
/// What has not begun by then is skipped. Each step has a limit of its own.
const LIMIT: Duration = Duration::from_secs(120);

/// What to examine.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Only this profile.
    pub profile: Option<String>,
    /// Only this route, and the profile that it uses.
    pub route: Option<String>,
    /// The path to ask the route's upstream for, with a token and without one. Where no route is named it
    /// is that of the routes that take the path.
    pub probe: Option<String>,
}

impl Wish {
    /// The routes that are looked at.
    pub fn routes<'a>(&self, settings: &'a Settings) -> Vec<&'a Entry<RouteSettings>> {
        let is_wanted = |route: &&Entry<RouteSettings>| match (&self.route, &self.profile) {
            (Some(wanted), _) => *wanted == route.name,
            (None, Some(profile)) => route.target.profile.as_ref() == Some(profile),
            (None, None) => true,
        };
        settings.routes.iter().filter(is_wanted).collect()
    }

    /// The names of the routes that are probed: the one that is named, else those whose path is the longest
    /// that the probe's path lies under.
    pub fn probed<'a>(&self, routes: &[&'a Entry<RouteSettings>]) -> Vec<&'a str> {
        let Some(probe) = &self.probe else { return Vec::new() };
        let path = probe.split_once('?').map_or(probe.as_str(), |(path, _)| path);
        let takes = |route: &&&Entry<RouteSettings>| self.route.is_some() || route.rule.path.is_match(path);
        let length = |route: &Entry<RouteSettings>| route.rule.path.as_str().len();
        let longest = routes.iter().filter(takes).map(|route| length(route)).max();
        let probed = routes.iter().filter(takes).filter(|route| Some(length(route)) == longest);
        probed.map(|route| route.name.as_str()).collect()
    }
}

/// Everything that was found.
#[derive(Debug)]
pub struct Report {
    /// One case for each profile.
    pub profiles: Vec<Case>,
    /// One case for each route.
    pub routes: Vec<Case>,
    /// One case for the collector of traces, if there is one and everything was asked for.
    pub collectors: Vec<Case>,
}

impl Report {
    /// All cases in the order in which they are shown.
    pub fn cases(&self) -> impl Iterator<Item = &Case> {
        self.profiles.iter().chain(&self.routes).chain(&self.collectors)
    }

    /// How many steps came out like this.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.cases().map(|case| case.steps.count(outcome)).sum()
    }

    /// Whether nothing has failed.
    pub fn is_well(&self) -> bool {
        self.count(Outcome::Failed) == 0
    }
}

/// Told how many of how many cases are done.
pub type Progress = Arc<dyn Fn(usize, usize) + Send + Sync>;

/// Examines what `wish` names. Profiles come first, as probes need their tokens.
pub async fn examine(settings: &Settings, wish: &Wish, progress: Progress) -> Report {
    let routes = wish.routes(settings);
    let serves = |name: &str| {
        routes.iter().any(|route| credentials(settings, route).any(|credential| credential == name))
    };
    let profiles = settings.profiles.iter().map(|profile| &profile.profile).filter(|profile| {
        match (&wish.profile, &wish.route) {
            (Some(wanted), _) => *wanted == profile.name,
            (None, Some(_)) => serves(&profile.name),
            (None, None) => true,
        }
    });
    let profiles: Vec<_> = profiles.cloned().collect();
    let mut ways: Vec<Way<'_>> = Vec::new();
    for route in &routes {
        let way = Way::of(settings, route);
        if !ways.contains(&way) {
            ways.push(way);
        }
    }
    let is_whole = wish.profile.is_none() && wish.route.is_none();
    let collector = settings.otlp.clone().filter(|_| is_whole);
    let parts = profiles.len() + ways.len() + usize::from(collector.is_some());
    let round = Round::new(parts, progress);
    let http = Arc::new(Http::default());
    let accounts =
        profiles.into_iter().map(|profile| account::examine(profile, Arc::clone(&http), round.deadline));
    let (profiles, had) = round.all(accounts).await;
    let had: HashMap<String, Arc<Had>> =
        profiles.iter().zip(had).filter_map(|(case, had)| Some((case.name.clone(), had??))).collect();
    let bound = |way: &Way<'_>| had.get(way.bound_by?)?.certificate.clone();
    let networks = ways.iter().map(|way| upstream(way.origin.clone(), bound(way), round.deadline));
    let (_, reached) = round.all(networks).await;
    let tried = collector.into_iter().map(|settings| collector::examine(settings, round.deadline));
    let (collectors, _) = round.all(tried).await;
    let reached: HashMap<&Way<'_>, Steps> =
        ways.iter().zip(reached.into_iter().map(Option::unwrap_or_default)).collect();
    let probed = wish.probed(&routes);
    let mut cases = Vec::new();
    for route in routes {
        let mut case = Case::of_route(route);
        case.steps = reached.get(&Way::of(settings, route)).cloned().unwrap_or_default();
        if let Some(path) = wish.probe.as_ref().filter(|_| probed.contains(&route.name.as_str())) {
            let all: Option<Vec<_>> =
                credentials(settings, route).map(|name| had.get(name).cloned()).collect();
            probe::examine(route, path, &all.unwrap_or_default(), &mut case.steps).await;
        }
        cases.push(case);
    }
    Report { profiles, routes: cases, collectors }
}

/// The profiles whose credentials go on a route's requests.
fn credentials<'a>(settings: &'a Settings, route: &'a Entry<RouteSettings>) -> impl Iterator<Item = &'a str> {
    let first = route.target.profile.as_deref();
    let others = settings.profiles.iter().filter(move |profile| Some(profile.profile.name.as_str()) == first);
    first.into_iter().chain(others.flat_map(|profile| profile.also.iter().map(String::as_str)))
}

/// The way to an upstream, which is looked at once for all routes that lead there so.
#[derive(PartialEq, Eq, Hash)]
struct Way<'a> {
    origin: &'a Origin,
    /// The profile whose certificate is shown there, as its tokens may be bound to it.
    bound_by: Option<&'a str>,
}

impl<'a> Way<'a> {
    fn of(settings: &'a Settings, route: &'a Entry<RouteSettings>) -> Self {
        let name = route.target.profile.as_deref();
        let is_bound = settings.profiles.iter().any(|profile| {
            Some(profile.profile.name.as_str()) == name && profile.profile.kind.shows_certificate()
        });
        Self { origin: &route.target.upstream, bound_by: name.filter(|_| is_bound) }
    }
}

async fn upstream(origin: Origin, bound: Option<Arc<Certificate>>, deadline: Instant) -> (Case, Steps) {
    let mut steps = Steps::default();
    if !steps.is_late(deadline) {
        network::examine(&network::Target::of_upstream(&origin, bound.as_ref()), &mut steps).await;
    }
    (Case::default(), steps)
}

/// Runs cases side by side.
struct Round {
    turns: Arc<Semaphore>,
    deadline: Instant,
    done: Arc<AtomicUsize>,
    total: usize,
    progress: Progress,
}

impl Round {
    fn new(total: usize, progress: Progress) -> Self {
        progress(0, total);
        let (turns, done) = (Arc::new(Semaphore::new(AT_A_TIME)), Arc::default());
        Self { turns, deadline: Instant::now() + LIMIT, done, total, progress }
    }

    /// The outcomes in the order of `jobs`; a job that panics leaves an empty case.
    async fn all<T, F>(&self, jobs: impl Iterator<Item = F>) -> (Vec<Case>, Vec<Option<T>>)
    where
        T: Send + 'static,
        F: Future<Output = (Case, T)> + Send + 'static,
    {
        let begun: Vec<_> = jobs.map(|job| tokio::spawn(self.in_turn(job))).collect();
        let (mut cases, mut results) = (Vec::new(), Vec::new());
        for job in begun {
            let (case, result) = match job.await {
                Ok((case, result)) => (case, Some(result)),
                Err(_) => (Case::default(), None),
            };
            cases.push(case);
            results.push(result);
        }
        (cases, results)
    }

    fn in_turn<T, F: Future<Output = T>>(&self, job: F) -> impl Future<Output = T> + use<T, F> {
        let (turns, done) = (Arc::clone(&self.turns), Arc::clone(&self.done));
        let (progress, total) = (Arc::clone(&self.progress), self.total);
        async move {
            let _turn = turns.acquire().await;
            let outcome = job.await;
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
            outcome
        }
    }
}
