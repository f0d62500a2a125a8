//! Sends finished spans to a collector, by OTLP over HTTP.
//!
//! One task of the control plane: it takes spans from a tracer's queue, sends them in batches, and tries again
//! for a while. What it cannot get rid of is counted and lost; no request ever waits for a collector.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use prost::Message as _;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};
use url::Url;

use crate::{
    outbound::{self, Proxy, Roots, RootsError},
    source::Source,
    telemetry::trace::{Counts, Parcel, Share, Span, Tracer},
};

mod otlp;

use otlp::{ExportRequest, ExportResponse, Resource};

/// Spans of one request to the collector, about 200 KiB.
const BATCH_MAX: usize = 512;
/// A span waits so long for others to come along.
const BATCH_TIME: Duration = Duration::from_secs(2);
/// For one request to the collector.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// A batch is given up after so many attempts: about half a minute, in which the queue may fill up.
const ATTEMPTS_MAX: u32 = 6;
/// Before the second attempt; doubled each time.
const PAUSE: Duration = Duration::from_millis(500);
/// Whatever the collector asks for.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Of an answer, which is a few bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Where spans go, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The collector's address, with the path of traces.
    pub endpoint: Url,
    /// Fields that it wants, such as a key.
    pub headers: Vec<(HeaderName, Source)>,
    /// Certificate authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// How many of the traces that begin here are kept.
    pub share: Share,
    /// The name of this gateway in traces.
    pub service: String,
}

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file of authorities does not serve.
    #[error("telemetry.otlp: ca: {0}")]
    Authorities(#[from] RootsError),
    /// TLS cannot be set up.
    #[error("telemetry.otlp: {0}")]
    SetUp(String),
}

/// Starts sending on `control`, until the tracer that this gives is dropped.
///
/// # Errors
/// [`StartError`]. A collector that is not there is none.
pub fn start(settings: Settings, counts: &Arc<Counts>, control: &Handle) -> Result<Arc<Tracer>, StartError> {
    let http = client(&settings)?;
    let (tracer, queue) = Tracer::new(settings.share, Arc::clone(counts));
    let resource = Resource::of([
        ("service.name", settings.service.clone()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        // Tells replicas apart, and one life of a gateway from the next.
        ("service.instance.id", format!("{:032x}", fastrand::u128(..))),
    ]);
    let counts = Arc::clone(counts);
    let exporter = Exporter { settings, http, resource, counts, headers: None, is_failing: false };
    // Ends by itself when nobody can send any more.
    control.spawn(exporter.run(queue));
    Ok(tracer)
}

struct Exporter {
    settings: Settings,
    http: reqwest::Client,
    resource: Resource,
    counts: Arc<Counts>,
    /// As read from their sources; read again when the collector refuses them.
    headers: Option<HeaderMap>,
    /// A failure was told of, and no success since.
    is_failing: bool,
}

/// What stands between spans and the collector.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    /// It cannot even be tried.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The value of a header cannot be had.
    #[error("{0}")]
    Header(String),
    /// Nobody has answered.
    #[error("{0}")]
    Unreached(String),
    /// It has answered, but with this status.
    #[error("it answered {}{}", .0.as_u16(), hint(*.0))]
    Refused(StatusCode),
}

fn hint(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => " (look at telemetry.otlp.headers)",
        StatusCode::NOT_FOUND => " (look at the path of telemetry.otlp.endpoint)",
        _ => "",
    }
}

/// Why the collector has not taken a batch.
enum Refusal {
    /// It may next time.
    Later(Obstacle, Option<Duration>),
    /// It never will.
    Never(Obstacle),
}

/// Tries the collector once, with a request that holds no spans.
///
/// # Errors
/// The [`Obstacle`] that spans would meet.
pub async fn try_once(settings: &Settings) -> Result<(), Obstacle> {
    let http = client(settings)?;
    let (resource, counts) = (Resource::of([]), Arc::default());
    let mut exporter =
        Exporter { settings: settings.clone(), http, resource, counts, headers: None, is_failing: false };
    match exporter.send(Vec::new()).await {
        Ok(_) => Ok(()),
        Err(Refusal::Later(obstacle, _) | Refusal::Never(obstacle)) => Err(obstacle),
    }
}

fn client(settings: &Settings) -> Result<reqwest::Client, StartError> {
    let roots = settings.ca.as_deref().map(Roots::read).transpose()?;
    let builder = outbound::builder(&settings.endpoint, &Proxy::Environment, roots.as_ref());
    outbound::built(builder.timeout(REQUEST_LIMIT)).map_err(StartError::SetUp)
}

impl Exporter {
    async fn run(mut self, mut queue: mpsc::Receiver<Parcel>) {
        while let Some(first) = queue.recv().await {
            let (batch, flush) = gather(first, &mut queue).await;
            if !batch.is_empty() {
                self.export(batch).await;
            }
            if queue.is_empty() {
                self.counts.caught_up();
            }
            // Whoever asked may have stopped waiting.
            let _ = flush.map(|done| done.send(()));
        }
    }

    /// Sends a batch, or gives it up.
    async fn export(&mut self, batch: Vec<Span>) {
        let spans = batch.len() as u64;
        let body = ExportRequest::of(&self.resource, batch).encode_to_vec();
        let mut pause = PAUSE;
        for attempt in 1..=ATTEMPTS_MAX {
            let (why, asked) = match self.send(body.clone()).await {
                Ok(refused) => return self.sent(spans, refused.min(spans)),
                Err(Refusal::Later(why, asked)) => (why, asked),
                Err(Refusal::Never(why)) => {
                    self.counts.refused.fetch_add(spans, Ordering::Relaxed);
                    return self.tell(&why);
                }
            };
            self.tell(&why);
            if attempt < ATTEMPTS_MAX {
                tokio::time::sleep(asked.unwrap_or(pause).min(PAUSE_MAX)).await;
                pause *= 2;
            }
        }
        self.counts.unreachable.fetch_add(spans, Ordering::Relaxed);
    }

    fn sent(&mut self, spans: u64, refused: u64) {
        self.counts.exported.fetch_add(spans - refused, Ordering::Relaxed);
        self.counts.refused.fetch_add(refused, Ordering::Relaxed);
        if std::mem::take(&mut self.is_failing) {
            tracing::info!("the collector takes spans again");
        }
    }

    /// Once, until it works again.
    fn tell(&mut self, why: &Obstacle) {
        if !std::mem::replace(&mut self.is_failing, true) {
            // Its path may hold a key.
            let collector = self.settings.endpoint.origin().ascii_serialization();
            tracing::warn!(
                collector,
                "the collector has not taken spans: {why}; they are lost if that lasts"
            );
        }
    }

    /// One request; gives how many spans of it were refused.
    async fn send(&mut self, body: Vec<u8>) -> Result<u64, Refusal> {
        let headers = self.headers().await?;
        let request = self.http.post(self.settings.endpoint.clone()).headers(headers).body(body);
        let sent = request.header(header::CONTENT_TYPE, "application/x-protobuf").send().await;
        let unreached = |error| Refusal::Later(Obstacle::Unreached(outbound::reason(&error)), None);
        let mut answer = sent.map_err(unreached)?;
        let status = answer.status();
        match status {
            _ if status.is_success() => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.has_stale_headers() => {
                self.headers = None;
                return Err(Refusal::Later(Obstacle::Refused(status), None));
            }
            // OTLP 1.x, "Failures": these and no others are worth another attempt.
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                let after = answer.headers().get(header::RETRY_AFTER).and_then(|after| after.to_str().ok());
                let after = after.and_then(|after| after.trim().parse().ok()).map(Duration::from_secs);
                return Err(Refusal::Later(Obstacle::Refused(status), after));
            }
            _ => return Err(Refusal::Never(Obstacle::Refused(status))),
        }
        let mut read = Vec::new();
        while let Ok(Some(chunk)) = answer.chunk().await {
            if read.len() + chunk.len() > ANSWER_BYTES_MAX {
                break;
            }
            read.extend_from_slice(&chunk);
        }
        // An answer that cannot be read says nothing against the spans.
        Ok(ExportResponse::decode(read.as_slice()).map_or(0, |answer| answer.refused()))
    }

    fn has_stale_headers(&self) -> bool {
        !self.settings.headers.is_empty() && self.headers.is_some()
    }

    async fn headers(&mut self) -> Result<HeaderMap, Refusal> {
        if let Some(headers) = &self.headers {
            return Ok(headers.clone());
        }
        let mut headers = HeaderMap::new();
        for (name, source) in &self.settings.headers {
            let unread = |words: String| Refusal::Later(Obstacle::Header(words), None);
            let secret = source.read().await.map_err(|error| unread(error.to_string()))?;
            let words = || unread(format!("the value of {name} is none that a header can have"));
            let mut value = HeaderValue::from_str(secret.expose()).map_err(|_| words())?;
            value.set_sensitive(true);
            headers.append(name.clone(), value);
        }
        self.headers = Some(headers.clone());
        Ok(headers)
    }
}

/// What comes within a moment after `first`, until a batch is full or somebody cannot wait.
async fn gather(
    first: Parcel,
    queue: &mut mpsc::Receiver<Parcel>,
) -> (Vec<Span>, Option<oneshot::Sender<()>>) {
    let deadline = Instant::now() + BATCH_TIME;
    let (mut batch, mut next) = (Vec::new(), Some(first));
    while let Some(parcel) = next {
        match parcel {
            Parcel::Spans(spans) => batch.extend(spans),
            Parcel::Flush(done) => return (batch, Some(done)),
        }
        if batch.len() >= BATCH_MAX {
            break;
        }
        next = timeout_at(deadline, queue.recv()).await.unwrap_or(None);
    }
    (batch, None)
}

/// Sends what `tracer` has kept so far, within `limit`. Blocks, so it must not be called on a task.
pub fn flush(tracer: &Tracer, limit: Duration, control: &Handle) {
    let _ = control.block_on(async { timeout(limit, tracer.flush()).await });
}
