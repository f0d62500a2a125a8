//! The messages of OTLP (opentelemetry-proto 1.x, `trace/v1`) as far as spans need them.
//!
//! Written by hand: the library that has all of them brings a second implementation of tracing with it. The
//! tests read these bytes with that library.

use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use crate::telemetry::trace::{self, Kind};

/// The body of a request to a collector.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

/// The body of its answer.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

/// Who the spans are of.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "13")]
    links: Vec<Link>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Link {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// Of the enumerations `SpanKind` and `StatusCode`.
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const ERROR: i32 = 2;
/// Of `SpanFlags`: who made the parent is known, and it was somebody else.
const REMOTE_KNOWN: u32 = 0x100;
const REMOTE: u32 = 0x200;

impl Resource {
    /// The gateway, by these attributes.
    pub(super) fn of(attributes: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        let attributes = attributes.into_iter();
        Self { attributes: attributes.map(|(key, text)| pair(key, trace::Value::from(text))).collect() }
    }
}

impl ExportRequest {
    /// One for `spans`.
    pub(super) fn of(resource: &Resource, spans: Vec<trace::Span>) -> Self {
        let scope = Scope { name: "keybearer".into(), version: env!("CARGO_PKG_VERSION").into() };
        let spans = spans.into_iter().map(span).collect();
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
        Self { resource_spans: vec![ResourceSpans { resource: Some(resource.clone()), scope_spans }] }
    }
}

impl ExportResponse {
    /// How many spans the collector did not take although it took the request.
    pub(super) fn refused(&self) -> u64 {
        let refused = self.partial_success.as_ref().map_or(0, |partial| partial.rejected_spans);
        u64::try_from(refused).unwrap_or_default()
    }
}

fn span(span: trace::Span) -> Span {
    let kind = if span.kind == Kind::Server { SERVER } else { CLIENT };
    let is_remote = span.kind == Kind::Server && span.parent.is_some();
    Span {
        trace_id: span.context.trace.0.into(),
        span_id: span.context.span.0.into(),
        parent_span_id: span.parent.map_or_else(Vec::new, |parent| parent.0.into()),
        name: span.name.into_owned(),
        kind,
        start_time_unix_nano: nanoseconds(span.began),
        end_time_unix_nano: nanoseconds(span.ended),
        attributes: span.attributes.into_iter().map(|(key, value)| pair(key, value)).collect(),
        links: span.links.iter().map(link).collect(),
        status: span.has_failed.then_some(Status { code: ERROR }),
        // All that is sent was sampled.
        flags: 1 | REMOTE_KNOWN | if is_remote { REMOTE } else { 0 },
    }
}

fn link(link: &trace::Link) -> Link {
    Link { trace_id: link.trace.0.into(), span_id: link.span.0.into() }
}

fn pair(key: &'static str, value: trace::Value) -> KeyValue {
    let value = match value {
        trace::Value::Text(text) => Value::Text(text.into_owned()),
        trace::Value::Number(number) => Value::Number(number),
    };
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }) }
}

fn nanoseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
