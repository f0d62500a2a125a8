//! A body whose beginning has been read already.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{ReceiveError, Received};

type Read = Result<Frame<Bytes>, ReceiveError>;

/// What has come of a body, and the body behind it.
pub struct Kept {
    begun: VecDeque<Read>,
    bytes: usize,
    rest: Received,
}

impl Kept {
    pub(super) fn new(rest: Received) -> Self {
        Self { begun: VecDeque::new(), bytes: 0, rest }
    }

    /// Reads until the end or until there are more than `bytes_max`. Whether all has come.
    pub(super) async fn read(&mut self, bytes_max: usize) -> bool {
        poll_fn(|cx| {
            while self.bytes <= bytes_max && !self.rest.is_end_stream() {
                match ready!(Pin::new(&mut self.rest).poll_frame(cx)) {
                    None => self.rest = Received::Empty,
                    Some(Ok(frame)) => {
                        self.bytes += frame.data_ref().map_or(0, Bytes::len);
                        self.begun.push_back(Ok(frame));
                    }
                    Some(Err(error)) => {
                        self.rest = Received::Empty;
                        self.begun.push_back(Err(error));
                        return Poll::Ready(false);
                    }
                }
            }
            Poll::Ready(self.rest.is_end_stream())
        })
        .await
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Read>> {
        let Some(read) = self.begun.pop_front() else { return Pin::new(&mut self.rest).poll_frame(cx) };
        if let Ok(frame) = &read {
            self.bytes -= frame.data_ref().map_or(0, Bytes::len);
        }
        Poll::Ready(Some(read))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.begun.is_empty() && self.rest.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let (mut hint, bytes) = (self.rest.size_hint(), self.bytes as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(bytes));
        }
        hint.set_lower(hint.lower().saturating_add(bytes));
        hint
    }
}
