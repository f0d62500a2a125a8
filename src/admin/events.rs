//! What happens, as it happens: a stream of server-sent events for each reader.
//!
//! A reader's task looks at the gateway's state twice a second and tells what has changed. So events cost
//! nothing while nobody reads, a slow reader delays nobody, and nothing piles up for it.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Bytes;
use http_body::Frame;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time,
};

use crate::{
    admin::{
        Shown,
        changes::{Action, Entry},
        types::{self, Event},
    },
    proxy::recent::What,
    token,
};

/// Readers at a time: each is a task that looks at every profile.
const READERS_MAX: usize = 16;
/// How often a reader's task looks.
const PERIOD: Duration = Duration::from_millis(500);
/// Looks without news after which a comment shows that the stream is alive.
const QUIET_MAX: u32 = 30;
/// Events on their way to a reader.
const QUEUE: usize = 64;
/// A reader that takes nothing for so long has gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// Room for readers.
#[derive(Debug)]
pub struct Readers(Arc<Semaphore>);

impl Default for Readers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(READERS_MAX)))
    }
}

/// Begins a stream, if there is room for one more reader.
pub(super) fn begin(shown: Arc<Shown>) -> Option<Stream> {
    let place = Arc::clone(&shown.readers.0).try_acquire_owned().ok()?;
    let (events, queue) = mpsc::channel(QUEUE);
    let seen = Seen::of(&shown);
    // Ends with its reader, or with the gateway.
    tokio::spawn(follow(shown, seen, events, place));
    Some(Stream(queue))
}

/// The body of the answer.
pub(super) struct Stream(mpsc::Receiver<Bytes>);

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

async fn follow(
    shown: Arc<Shown>,
    mut seen: Seen,
    events: mpsc::Sender<Bytes>,
    _place: OwnedSemaphorePermit,
) {
    let mut tick = time::interval(PERIOD);
    tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    // At once, so that the reader knows that it is heard.
    let mut quiet = QUIET_MAX;
    while !shown.gateway.is_draining() {
        let mut told: Vec<Bytes> = seen.news(&shown).iter().filter_map(line).collect();
        quiet += 1;
        if told.is_empty() && quiet > QUIET_MAX {
            told.push(Bytes::from_static(b": alive\n\n"));
        }
        for event in told {
            quiet = 0;
            if events.send_timeout(event, PATIENCE).await.is_err() {
                return;
            }
        }
        // Nothing is lost with either: one is a timer, the other says that the reader has gone.
        tokio::select! {
            _ = tick.tick() => {}
            () = events.closed() => return,
        }
    }
}

fn line(event: &Event) -> Option<Bytes> {
    let json = serde_json::to_string(event).ok()?;
    Some(format!("data: {json}\n\n").into())
}

/// How things were at the last look.
struct Seen {
    happening: u64,
    history: Vec<Entry>,
    reloads: (u64, u64),
    profiles: HashMap<String, (u64, u64)>,
}

impl Seen {
    fn of(shown: &Shown) -> Self {
        let configuration = shown.control.get().map(|control| control.configuration());
        let reading = configuration.as_ref().map(|c| (c.reading.done, c.reading.failed));
        Self {
            happening: shown.gateway.recent().since(0).first().map_or(0, |latest| latest.number),
            history: configuration.map(|c| c.history).unwrap_or_default(),
            reloads: reading.unwrap_or_default(),
            profiles: profiles(shown).map(|view| (view.name, (view.generation, view.failed))).collect(),
        }
    }

    /// What has happened since, in order of time as far as that is known.
    fn news(&mut self, shown: &Shown) -> Vec<Event> {
        let mut news = self.changes(shown);
        news.extend(self.tokens(shown));
        let mut latest = shown.gateway.recent().since(self.happening);
        self.happening = latest.first().map_or(self.happening, |happening| happening.number);
        latest.reverse();
        news.extend(latest.into_iter().map(|happening| Event {
            kind: match happening.what {
                What::Fault => "fault",
                What::Unauthorized => "unauthorized",
            },
            at: types::seconds(happening.at),
            code: Some(happening.code),
            words: happening.words,
            route: happening.route,
            profile: happening.profile,
            request_id: Some(happening.request_id),
        }));
        news
    }

    fn changes(&mut self, shown: &Shown) -> Vec<Event> {
        let Some(control) = shown.control.get() else { return Vec::new() };
        let configuration = control.configuration();
        let (history, reading) = (configuration.history, configuration.reading);
        // Two entries may be alike, so they are counted as long as none has been forgotten.
        let grown = history.len().saturating_sub(self.history.len());
        let known = self.history.first();
        let new = match grown {
            0 => history.iter().take_while(|entry| Some(*entry) != known).count(),
            grown => grown,
        };
        let mut news: Vec<Event> = history.iter().take(new).rev().map(switched).collect();
        self.history = history;
        let reloads = (reading.done, reading.failed);
        if reloads.0 != self.reloads.0 {
            news.push(event("reload", "the configuration was reloaded".into()));
        }
        if reloads.1 != self.reloads.1 {
            let why = reading.refused.unwrap_or_default();
            news.push(event("reload_refused", format!("the configuration was not reloaded: {why}")));
        }
        self.reloads = reloads;
        news
    }

    fn tokens(&mut self, shown: &Shown) -> Vec<Event> {
        let (mut news, mut now) = (Vec::new(), HashMap::new());
        for view in profiles(shown) {
            let (generation, failed) = self.profiles.get(&view.name).copied().unwrap_or_default();
            if view.generation != generation && view.generation > 0 {
                let words = format!("profile \"{}\" has a new token", view.name);
                news.push(Event { profile: Some(view.name.clone()), ..event("token", words) });
            }
            if view.failed > failed {
                let why = view.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
                let words = format!("profile \"{}\" got no token{why}", view.name);
                news.push(Event { profile: Some(view.name.clone()), ..event("token_failed", words) });
            }
            now.insert(view.name, (view.generation, view.failed));
        }
        self.profiles = now;
        news
    }
}

fn profiles(shown: &Shown) -> impl Iterator<Item = token::view::View> {
    let all: Vec<_> = shown.profiles.load().iter().map(token::Handle::view).collect();
    all.into_iter()
}

fn event(kind: &'static str, words: String) -> Event {
    let at = types::seconds(crate::clock::wall());
    Event { kind, at, code: None, words, route: None, profile: None, request_id: None }
}

fn switched(entry: &Entry) -> Event {
    let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "none".into());
    let (from, to) = (name(&entry.from), name(&entry.to));
    let what = match &entry.route {
        Some(route) => format!("route \"{route}\" went from profile \"{from}\" to \"{to}\""),
        None => format!("the environment went from \"{from}\" to \"{to}\""),
    };
    let words = match entry.action {
        Action::Switch => format!("{what} (by {})", entry.by),
        Action::Undo => format!("{what}: a switch was undone (by {})", entry.by),
        Action::Expire => format!("{what}: the time of a switch was over"),
        Action::Drop => format!("{what}: the configuration knows the switch's route or profile no more"),
    };
    let profile = entry.route.as_ref().and(entry.to.clone());
    Event { at: entry.at, route: entry.route.clone(), profile, ..event(entry.action.word(), words) }
}
