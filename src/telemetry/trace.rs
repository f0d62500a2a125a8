//! Traces: where a request stands in somebody's trace (W3C Trace Context), and the spans that are kept of it.
//!
//! Whoever makes spans gives them to a [`Tracer`], which never makes anybody wait: what its queue does not
//! take is counted and lost. Who sends them on is not known here.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwapOption;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::{mpsc, oneshot};

/// Where a request stands in a trace.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What the systems on the way say of it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Requests and token requests whose spans may wait to be sent. At four spans each some MiB.
const QUEUE_MAX: usize = 2048;
const SAMPLED: u8 = 1;
/// The trace's id is random (Trace Context Level 2); who began the trace says so.
const RANDOM: u8 = 2;

/// A trace's id; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub [u8; 16]);

/// A span's id; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanId(pub [u8; 8]);

impl TraceId {
    /// A new trace's.
    pub fn random() -> Self {
        Self(fastrand::u128(1..).to_be_bytes())
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl SpanId {
    /// A new span's.
    pub fn random() -> Self {
        Self(fastrand::u64(1..).to_be_bytes())
    }
}

/// A place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: TraceId,
    /// The span that what follows belongs to.
    pub span: SpanId,
    flags: u8,
}

impl Context {
    /// The beginning of a trace.
    pub fn root(trace: TraceId, is_sampled: bool) -> Self {
        Self { trace, span: SpanId::random(), flags: RANDOM | u8::from(is_sampled) }
    }

    /// The place that `headers` tell, if there is exactly one and it is well formed.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut fields = headers.get_all(TRACEPARENT).iter();
        let first = fields.next()?;
        if fields.next().is_some() { None } else { Self::read(first.as_bytes()) }
    }

    /// Reads `traceparent`. What later versions add behind is not read (§4.3).
    fn read(text: &[u8]) -> Option<Self> {
        let (known, rest) = text.split_at_checked(55)?;
        let [version, trace, span, flags] =
            <[&[u8]; 4]>::try_from(known.split(|byte| *byte == b'-').collect::<Vec<_>>()).ok()?;
        let [version] = hex(version)?;
        let is_complete = rest.is_empty() || (version > 0 && rest.starts_with(b"-"));
        if version == 0xff || !is_complete {
            return None;
        }
        let (trace, span, [flags]) = (hex(trace)?, hex(span)?, hex(flags)?);
        let is_valid = trace != [0; 16] && span != [0; 8];
        is_valid.then_some(Self {
            trace: TraceId(trace),
            span: SpanId(span),
            flags: flags & (SAMPLED | RANDOM),
        })
    }

    /// Whether those before want spans to be kept.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The same trace, at another span.
    pub fn at(self, span: SpanId) -> Self {
        Self { span, ..self }
    }

    /// The value of `traceparent`.
    pub fn header(&self) -> HeaderValue {
        let text = format!("00-{}-{:016x}-{:02x}", self.trace, u64::from_be_bytes(self.span.0), self.flags);
        HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
    }

    /// For other spans to point to.
    pub fn link(&self) -> Link {
        Link { trace: self.trace, span: self.span }
    }
}

/// Lower-case digits, exactly as many as it takes (§3.2.2).
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let bytes = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    bytes.collect::<Option<Vec<u8>>>()?.try_into().ok()
}

/// A span that another one has to do with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its trace.
    pub trace: TraceId,
    /// Itself.
    pub span: SpanId,
}

/// Whose work a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request of a caller.
    Server,
    /// A request of ours.
    Client,
}

/// What an attribute says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A word.
    Text(Cow<'static, str>),
    /// A number.
    Number(i64),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

/// A piece of work that is over.
#[derive(Clone, Debug)]
pub struct Span {
    /// Where it stands.
    pub context: Context,
    /// What it is a part of.
    pub parent: Option<SpanId>,
    /// What it does, one of few names.
    pub name: Cow<'static, str>,
    /// Whose work it is.
    pub kind: Kind,
    /// When it began.
    pub began: SystemTime,
    /// When it was over.
    pub ended: SystemTime,
    /// What is known of it. Nothing secret, and no query.
    pub attributes: Vec<(&'static str, Value)>,
    /// What it has waited for.
    pub links: Vec<Link>,
    /// Whether it went wrong.
    pub has_failed: bool,
}

/// The share of traces that are kept, of those that begin here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u64);

impl Share {
    /// All of them.
    pub const ALL: Self = Self(u64::MAX);

    /// `share` of all, from 0 to 1; `None` for anything else.
    pub fn of(share: f64) -> Option<Self> {
        // The cast saturates, so 1 is all of them.
        (0.0..=1.0).contains(&share).then_some(Self((share * u64::MAX as f64) as u64))
    }

    /// The same answer for a trace everywhere: the id is random, so part of it serves as the dice.
    fn has(self, trace: TraceId) -> bool {
        let [.., a, b, c, d, e, f, g, h] = trace.0;
        self.0 > 0 && u64::from_be_bytes([a, b, c, d, e, f, g, h]) <= self.0
    }
}

/// What became of spans.
#[derive(Debug, Default)]
pub struct Counts {
    /// Taken by the collector.
    pub exported: AtomicU64,
    /// Lost, as too many were waiting.
    pub overflowed: AtomicU64,
    /// Lost, as the collector could not be reached or had no time.
    pub unreachable: AtomicU64,
    /// Lost, as the collector would not have them.
    pub refused: AtomicU64,
    /// An overflow has been told of.
    has_told: AtomicBool,
}

impl Counts {
    fn overflow(&self, spans: usize) {
        self.overflowed.fetch_add(spans as u64, Ordering::Relaxed);
        if !self.has_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "spans are lost: the collector takes them more slowly than they come (lower telemetry.otlp.sampling)"
            );
        }
    }

    /// Nobody waits any more: the next overflow is told of again.
    pub fn caught_up(&self) {
        self.has_told.store(false, Ordering::Relaxed);
    }
}

/// What comes out of a tracer's queue.
pub enum Parcel {
    /// Spans that belong together.
    Spans(Vec<Span>),
    /// Everything before shall be sent now, and then this be told.
    Flush(oneshot::Sender<()>),
}

/// Where finished spans go.
#[derive(Debug)]
pub struct Tracer {
    share: Share,
    queue: mpsc::Sender<Parcel>,
    counts: Arc<Counts>,
}

impl Tracer {
    /// A tracer, and the end of its queue for who sends the spans on.
    pub fn new(share: Share, counts: Arc<Counts>) -> (Arc<Self>, mpsc::Receiver<Parcel>) {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        (Arc::new(Self { share, queue, counts }), waiting)
    }

    /// Whether a trace that begins here is kept.
    pub fn wants(&self, trace: TraceId) -> bool {
        self.share.has(trace)
    }

    /// Takes finished spans, if there is room for them. Never waits.
    pub fn keep(&self, spans: Vec<Span>) {
        if let Err(refused) = self.queue.try_send(Parcel::Spans(spans))
            && let Parcel::Spans(spans) = refused.into_inner()
        {
            self.counts.overflow(spans.len());
        }
    }

    /// Waits until everything that was kept so far has been sent, or lost.
    pub async fn flush(&self) {
        let (done, is_done) = oneshot::channel();
        if self.queue.send(Parcel::Flush(done)).await.is_ok() {
            let _ = is_done.await;
        }
    }
}

/// The tracer in force, which a reload may change, for those who outlive a reload.
#[derive(Debug, Default)]
pub struct Traces {
    tracer: ArcSwapOption<Tracer>,
    counts: Arc<Counts>,
}

impl Traces {
    /// The tracer in force, if there is one.
    pub fn tracer(&self) -> Option<Arc<Tracer>> {
        self.tracer.load_full()
    }

    /// From now on this one.
    pub fn set(&self, tracer: Option<Arc<Tracer>>) {
        self.tracer.store(tracer);
    }

    /// What became of spans since the start.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_place_is_read_and_written_as_it_was() {
        let context = Context::read(GIVEN.as_bytes()).unwrap();
        assert!(context.is_sampled());
        assert_eq!(context.header(), GIVEN);
        let unsampled = Context::read(GIVEN.replace("-01", "-00").as_bytes()).unwrap();
        assert!(!unsampled.is_sampled());
        let root = Context::root(TraceId::random(), true);
        assert_eq!(Context::read(root.header().as_bytes()), Some(root));
    }

    #[test]
    fn a_later_version_may_say_more_and_this_one_may_not() {
        let later = GIVEN.replacen("00", "cc", 1);
        assert!(Context::read(later.as_bytes()).is_some());
        assert!(Context::read(format!("{later}-more").as_bytes()).is_some());
        assert!(Context::read(format!("{later}more").as_bytes()).is_none());
        assert!(Context::read(format!("{GIVEN}-more").as_bytes()).is_none());
    }

    #[test]
    fn what_is_malformed_is_no_place() {
        let zero_trace = GIVEN.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let zero_span = GIVEN.replace("00f067aa0ba902b7", &"0".repeat(16));
        let upper = GIVEN.to_uppercase();
        let never = GIVEN.replacen("00", "ff", 1);
        let shifted = GIVEN.replace("736-00", "73-600");
        for bad in ["", "00", &zero_trace, &zero_span, &upper, &never, &shifted, &GIVEN.replace('-', "_")] {
            assert_eq!(Context::read(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn the_share_of_kept_traces_is_what_was_asked_for() {
        let kept = |share: f64| {
            let share = Share::of(share).unwrap();
            (0..10_000).filter(|_| share.has(TraceId::random())).count()
        };
        assert_eq!((kept(0.0), kept(1.0)), (0, 10_000));
        assert!((800..1200).contains(&kept(0.1)));
        assert!(Share::of(1.1).is_none() && Share::of(-0.1).is_none() && Share::of(f64::NAN).is_none());
    }

    #[test]
    fn what_does_not_fit_is_counted_and_nobody_waits() {
        let counts = Arc::new(Counts::default());
        let (tracer, waiting) = Tracer::new(Share::of(1.0).unwrap(), Arc::clone(&counts));
        let context = Context::root(TraceId::random(), true);
        let now = SystemTime::UNIX_EPOCH;
        let span = Span {
            context,
            parent: None,
            name: "GET".into(),
            kind: Kind::Client,
            began: now,
            ended: now,
            attributes: Vec::new(),
            links: Vec::new(),
            has_failed: false,
        };
        for _ in 0..QUEUE_MAX + 3 {
            tracer.keep(vec![span.clone(), span.clone()]);
        }
        assert_eq!((waiting.len(), counts.overflowed.load(Ordering::Relaxed)), (QUEUE_MAX, 6));
    }
}
