//! A body on an HTTP/1.1 connection that moves only while somebody reads from it.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// A connection that moves while its body is read.
pub trait Drive {
    /// Reads `body`, and moves the connection as far as that takes.
    fn poll_body(&self, body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<Read>>;
}

/// What comes of reading.
pub type Read = Result<Frame<Bytes>, hyper::Error>;

/// A body with its connection.
pub struct Driven {
    body: Incoming,
    /// Until the body has ended: behind it the connection is somebody else's.
    connection: Option<Rc<dyn Drive>>,
}

impl Driven {
    /// `body`, which comes over `connection`.
    pub fn new(body: Incoming, connection: Rc<dyn Drive>) -> Self {
        let connection = Some(connection).filter(|_| !body.is_end_stream());
        Self { body, connection }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Read>> {
        let Some(connection) = &self.connection else { return Pin::new(&mut self.body).poll_frame(cx) };
        let read = connection.poll_body(&mut self.body, cx);
        let has_ended = match &read {
            Poll::Pending => false,
            Poll::Ready(None | Some(Err(_))) => true,
            Poll::Ready(Some(Ok(_))) => self.body.is_end_stream(),
        };
        if has_ended {
            self.connection = None;
        }
        read
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
