//! The body of an answer: the upstream's, streamed on, or a fault's.
//!
//! It carries the request's record to the end and gives the upstream's connection back when, and only
//! when, both bodies have been read to their ends.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Response, header::CONNECTION};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::{
    proxy::{
        attempt::{RequestBody, Upload},
        fault::Fault,
        record::Record,
    },
    upstream::connection::Connection,
};

/// An answer on its way to the caller.
pub struct Answer {
    body: Content,
    /// The connection and what must have been sent over it before it is free.
    connection: Option<(Connection<RequestBody>, Upload)>,
    record: Record,
}

enum Content {
    Upstream(Incoming),
    Fault(Option<Bytes>),
}

impl Answer {
    /// An upstream's body.
    pub fn upstream(
        body: Incoming,
        connection: Connection<RequestBody>,
        upload: Upload,
        record: Record,
    ) -> Self {
        let ended = body.is_end_stream();
        let mut answer =
            Self { body: Content::Upstream(body), connection: Some((connection, upload)), record };
        if ended {
            answer.end();
        }
        answer
    }

    /// The response to a fault.
    pub fn fault(fault: Fault, mut record: Record) -> Response<Self> {
        record.faulted(&fault);
        let mut response = fault.response(record.route_name(), record.profile_name(), record.request_id());
        // Nobody reads the rest of a body that came with a fault.
        if record.has_unread_body() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.map(|bytes| {
            record.complete();
            Self { body: Content::Fault(Some(bytes)), connection: None, record }
        })
    }

    /// The last byte has been read from the upstream.
    fn end(&mut self) {
        self.record.complete();
        if let Some((connection, upload)) = self.connection.take() {
            // An upload that is still under way keeps its connection busy: it ends with it.
            if upload.is_none_or(|upload| upload.is_sent()) {
                connection.give_back();
            }
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        match &mut this.body {
            Content::Fault(bytes) => {
                let bytes = bytes.take();
                this.record.sent(bytes.as_ref().map_or(0, Bytes::len));
                Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
            Content::Upstream(body) => {
                let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
                let ended = body.is_end_stream();
                match &frame {
                    Some(Ok(frame)) => {
                        this.record.sent(frame.data_ref().map_or(0, Bytes::len));
                        if ended {
                            this.end();
                        }
                    }
                    None => this.end(),
                    Some(Err(_)) => drop(this.connection.take()),
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Content::Upstream(body) => body.is_end_stream(),
            Content::Fault(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Content::Upstream(body) => body.size_hint(),
            Content::Fault(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
        }
    }
}
