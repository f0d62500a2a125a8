//! Connections of the admin listener: how many there may be, and how long they may take.
//!
//! They are files as those of callers are, and callers must not suffer when somebody opens too many of them
//! or lets them lie. It speaks HTTP/1.1 only: one request at a time on each, so that bounding connections bounds
//! the work as well.

use std::{
    io,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo, http::StatusCode};
use http::{Request, Response};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{self, Instant},
};

use crate::{
    accepting,
    admin::{
        Shown,
        socket::{Accepted, Listener, Stream},
        types::Problem,
        watched::{Ending, Side, Watched, WatchedBody, WatchedStream, look_period},
    },
    proxy::settings::Timeouts,
    telemetry::listeners::AdminShard,
};

/// Open connections. All readers of events, some browsers with six each, Prometheus and probes fit; and with
/// the sockets and runtimes of the process they fit in the hundred files that callers leave to others.
pub const CONNECTIONS_MAX: usize = 64;
/// Refused connections that are told why at a time. Others are closed without a word, as they are files too.
const FAREWELLS_MAX: usize = 8;
/// An answer reaches its reader only if what that sent is read: so long, and no longer.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(1);
/// How long accepting pauses when the system refuses, for instance without file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The time between two warnings of one kind.
const WARNING_PERIOD: Duration = Duration::from_secs(10);

/// Room for connections, and what is counted of them. Outlives a listener that a reload moves.
#[derive(Debug)]
pub struct Connections {
    places: Arc<Semaphore>,
    farewells: Arc<Semaphore>,
    warned: Warned,
    counted: AdminShard,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            farewells: Arc::new(Semaphore::new(FAREWELLS_MAX)),
            warned: Warned::default(),
            counted: AdminShard::default(),
        }
    }
}

impl Connections {
    /// Open connections, those in a TLS handshake among them.
    pub(super) fn open(&self) -> usize {
        CONNECTIONS_MAX.saturating_sub(self.places.available_permits())
    }

    /// What has been counted.
    pub(super) fn counted(&self) -> &AdminShard {
        &self.counted
    }

    /// Refuses a connection for which there is no place.
    fn refuse(&self, accepted: Accepted) {
        self.counted.refused_limit.add(1);
        if self.warned.is_due() {
            let from = accepted.peer.address();
            tracing::warn!(
                from,
                "the admin listener refuses connections: as many as it takes ({CONNECTIONS_MAX}) are open"
            );
        }
        // With TLS a handshake would cost more than the refusal saves.
        let place = Arc::clone(&self.farewells).try_acquire_owned();
        if let (None, Ok(place)) = (&accepted.tls, place) {
            // Ends by its limit of time, at the latest.
            tokio::spawn(time::timeout(FAREWELL_TIME_MAX, say_farewell(accepted.stream, place)));
        }
    }

    fn note(&self, ending: Ending) {
        let count = match ending {
            Ending::Idle => &self.counted.ended_idle,
            Ending::SlowHead => &self.counted.ended_slow_head,
            Ending::SlowBody => &self.counted.ended_slow_body,
            Ending::SlowReader => &self.counted.ended_slow_reader,
        };
        count.add(1);
    }
}

/// When the last warning of a kind was.
#[derive(Debug, Default)]
struct Warned(Mutex<Option<Instant>>);

impl Warned {
    /// Whether it is time for another one, which then counts as given.
    fn is_due(&self) -> bool {
        let mut at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = at.is_none_or(|at| at.elapsed() > WARNING_PERIOD);
        if is_due {
            *at = Some(Instant::now());
        }
        is_due
    }
}

/// Accepts and serves until the task is dropped; failures to accept are survived. Connections then end behind
/// the answers that they are giving.
pub(super) async fn serve(listener: Listener, router: Router, shown: Arc<Shown>) -> io::Result<()> {
    // Nothing is ever sent: that it is gone tells the connections that the listener is.
    let (_serving, is_serving) = watch::channel(());
    let (warned, mut is_held) = (Warned::default(), false);
    loop {
        match listener.accept().await {
            Ok(accepted) => {
                is_held = false;
                open(accepted, &router, &shown, &is_serving);
            }
            Err(error) if accepting::is_one_peers(&error) => {}
            Err(error) => {
                let counted = shown.connections.counted();
                let count = if accepting::is_about_files(&error) {
                    &counted.paused_files
                } else {
                    &counted.paused_system
                };
                // One pause, however long it lasts.
                count.add(u64::from(!is_held));
                is_held = true;
                if warned.is_due() {
                    tracing::warn!("connections wait to be accepted by the admin listener: {error}");
                }
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn open(accepted: Accepted, router: &Router, shown: &Arc<Shown>, is_serving: &watch::Receiver<()>) {
    let Ok(place) = Arc::clone(&shown.connections.places).try_acquire_owned() else {
        return shown.connections.refuse(accepted);
    };
    let (router, shown, is_serving) = (router.clone(), Arc::clone(shown), is_serving.clone());
    // Ends with its peer, by its limits of time, or with the control plane.
    tokio::spawn(async move {
        let _place = place;
        if let Some(ending) = converse(accepted, router, &shown, is_serving).await {
            shown.connections.note(ending);
        }
    });
}

/// Serves one connection to its end; says why if that was not the peer's doing.
async fn converse(
    accepted: Accepted,
    router: Router,
    shown: &Shown,
    mut is_serving: watch::Receiver<()>,
) -> Option<Ending> {
    let watched = Watched::new();
    let (peer, tls) = (accepted.peer, accepted.tls);
    let stream: Stream = Box::new(WatchedStream::new(accepted.stream, &watched));
    let stream = match tls {
        Some(tls) => {
            let Some(stream) = tls.shake_hands(stream).await else {
                shown.connections.counted.refused_tls.add(1);
                return None;
            };
            watched.restart();
            stream
        }
        None => stream,
    };
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        watched.asked(!request.body().is_end_stream());
        let mut request = request.map(|body| WatchedBody::new(body, Side::Request, &watched));
        request.extensions_mut().insert(ConnectInfo(peer.clone()));
        let (answer, watched) = (router.call(request), Arc::clone(&watched));
        async move {
            let answer: Response<Body> = answer.await?;
            Ok::<_, std::convert::Infallible>(
                answer.map(|body| WatchedBody::new(body, Side::Answer, &watched)),
            )
        }
    });
    // The library's own timer knows one limit for heads and for the time between them.
    let connection =
        http1::Builder::new().header_read_timeout(None).serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut is_ending = false;
    loop {
        let timeouts = timeouts(shown);
        // What has come is looked at before the clock is. The other two are only waited for, so dropping them
        // loses nothing.
        tokio::select! {
            biased;
            _ = connection.as_mut() => return None,
            _ = is_serving.changed(), if !is_ending => {
                is_ending = true;
                connection.as_mut().graceful_shutdown();
            }
            () = time::sleep(look_period(&timeouts)) => {
                if let Some(ending) = watched.overdue(&timeouts) {
                    return Some(ending);
                }
            }
        }
    }
}

/// Those in force, which a reload may have changed.
fn timeouts(shown: &Shown) -> Timeouts {
    shown.gateway.snapshot().common.timeouts
}

async fn say_farewell(mut stream: Stream, _place: OwnedSemaphorePermit) -> io::Result<()> {
    stream.write_all(farewell().as_bytes()).await?;
    stream.shutdown().await?;
    let mut scratch = vec![0; 4096];
    while stream.read(&mut scratch).await? > 0 {}
    Ok(())
}

/// The refusal as HTTP/1.1.
fn farewell() -> String {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let detail = format!(
        "as many connections as the admin listener takes ({CONNECTIONS_MAX}) are open; close some, or try again later"
    );
    let problem = Problem { status: status.as_u16(), code: "too_many_connections".to_owned(), detail };
    let body = serde_json::to_string(&problem).unwrap_or_default();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}
