//! The body of one attempt.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::{
    body::{ReceiveError, Received},
    proxy::interim::Gate,
    replay::{Attempt, AttemptError},
};

/// The body of one attempt.
pub enum RequestBody {
    /// The request has none.
    Empty,
    /// The caller's, recorded on the way, and perhaps held back until the upstream wants it.
    Recorded(Attempt<Received>, Option<Rc<Gate>>),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = AttemptError<ReceiveError>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Recorded(attempt, gate) => {
                if let Some(gate) = gate
                    && ready!(gate.poll_open(cx)).is_err()
                {
                    return Poll::Ready(Some(Err(AttemptError::Abandoned)));
                }
                Pin::new(attempt).poll_frame(cx)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Recorded(attempt, _) => attempt.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Recorded(attempt, _) => attempt.size_hint(),
        }
    }
}
