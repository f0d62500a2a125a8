//! The body of an answer: the upstream's, streamed on, or a fault's.
//!
//! It carries the request's record to the end and gives the upstream's connection back when, and only
//! when, both bodies have been read to their ends.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Response, Version, header::CONNECTION};
use http_body::{Body, Frame, SizeHint};

use crate::body::{ReceiveError, Received};
use crate::proxy::{
    attempt::{Carrier, Upload},
    fault::{About, Fault},
    headers, lost,
    record::Record,
};

/// An answer on its way to the caller.
pub struct Answer {
    body: Content,
    /// The connection and what must have been sent over it before it is free.
    carrier: Option<(Carrier, Upload)>,
    /// `None` when somebody else keeps the request's record.
    record: Option<Box<Record>>,
}

enum Content {
    Upstream(Received),
    /// The upstream's has broken off; this is not told yet.
    Broken(Option<ReceiveError>),
    Fault(Option<Bytes>),
}

impl Answer {
    /// An upstream's body.
    pub fn upstream(body: Received, carrier: Option<Carrier>, upload: Upload, record: Box<Record>) -> Self {
        let ended = body.is_end_stream();
        let carrier = carrier.map(|carrier| (carrier, upload));
        let mut answer = Self { body: Content::Upstream(body), carrier, record: Some(record) };
        if ended {
            answer.end();
        }
        answer
    }

    /// The response to a fault.
    pub fn fault(fault: Fault, mut record: Box<Record>) -> Response<Self> {
        record.faulted(&fault);
        let mut response = fault.response(&record.about());
        // Nobody reads the rest of a body that came with a fault.
        if record.has_unread_body() && record.version() != Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        record.complete();
        response.map(|bytes| Self::of(bytes, Some(record)))
    }

    /// The response to a request whose code has just panicked; its record is gone.
    pub fn internal() -> Response<Self> {
        let request_id = lost::take().unwrap_or_else(headers::made_id);
        let about = About { route: None, request_id: &request_id, is_grpc: false, version: Version::HTTP_11 };
        Fault::Internal.response(&about).map(|bytes| Self::of(bytes, None))
    }

    /// No body, for a head after which the connection is something else than HTTP.
    pub fn none() -> Self {
        Self::of(Bytes::new(), None)
    }

    fn of(bytes: Bytes, record: Option<Box<Record>>) -> Self {
        let bytes = Some(bytes).filter(|bytes| !bytes.is_empty());
        Self { body: Content::Fault(bytes), carrier: None, record }
    }

    fn sent(&mut self, bytes: usize) {
        if let Some(record) = &mut self.record {
            record.sent(bytes);
        }
    }

    /// The last byte has been read from the upstream.
    fn end(&mut self) {
        if let Some(record) = &mut self.record {
            record.complete();
        }
        if let Some((carrier, upload)) = self.carrier.take() {
            match upload {
                Some(upload) => carrier.connection.leave(upload.is_sent()),
                None => carrier.connection.give_back(),
            }
        }
    }
}

impl Answer {
    /// The upstream has broken off. Whoever sends the answer throws away what has not left yet, its head
    /// included, when he hears of it; so he hears of it when he comes again, and has sent that.
    fn breaks(&mut self, error: ReceiveError, cx: &Context<'_>) {
        drop(self.carrier.take());
        self.body = Content::Broken(Some(error));
        cx.waker().wake_by_ref();
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = ReceiveError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReceiveError>>> {
        let this = self.get_mut();
        match &mut this.body {
            Content::Fault(bytes) => {
                let bytes = bytes.take();
                this.sent(bytes.as_ref().map_or(0, Bytes::len));
                Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
            Content::Broken(error) => Poll::Ready(error.take().map(Err)),
            Content::Upstream(body) => {
                let mut frame = ready!(Pin::new(&mut *body).poll_frame(cx));
                let mut ended = body.is_end_stream();
                match &mut frame {
                    Some(Ok(frame)) => {
                        if let Some(trailers) = frame.trailers_mut() {
                            headers::trailers(trailers);
                            // Nothing comes behind them, and who sends the answer does not ask.
                            ended = true;
                        }
                        this.sent(frame.data_ref().map_or(0, Bytes::len));
                        if ended {
                            this.end();
                        }
                    }
                    None => this.end(),
                    Some(Err(_)) => {}
                }
                if let Some(Err(error)) = frame {
                    this.breaks(error, cx);
                    return Poll::Pending;
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Content::Upstream(body) => body.is_end_stream(),
            Content::Broken(_) => false,
            Content::Fault(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Content::Upstream(body) => body.size_hint(),
            Content::Broken(_) => SizeHint::default(),
            Content::Fault(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
        }
    }
}
