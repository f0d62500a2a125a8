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

/// What keeping one frame costs beside its bytes, about. A body may come in pieces of one byte, or of none.
const FRAME_OVERHEAD: usize = 128;

type Read = Result<Frame<Bytes>, ReceiveError>;

/// What has come of a body, and the body behind it.
pub struct Kept {
    begun: VecDeque<Read>,
    /// What it costs.
    cost: usize,
    rest: Received,
    /// What was announced of the body and has not been handed out. Reading ahead makes no length known: who was told one
    /// would hold a body that breaks off, or that ends with trailers, for whole.
    left: Option<u64>,
}

impl Kept {
    pub(super) fn new(rest: Received) -> Self {
        Self { begun: VecDeque::new(), cost: 0, left: rest.size_hint().exact(), rest }
    }

    /// Reads until the end or until what is kept takes more than `bytes_max`. Whether all has come.
    pub(super) async fn read(&mut self, bytes_max: usize) -> bool {
        poll_fn(|cx| {
            while self.cost <= bytes_max && !self.rest.is_end_stream() {
                let Some(read) = ready!(Pin::new(&mut self.rest).poll_frame(cx)) else {
                    self.rest = Received::Empty;
                    continue;
                };
                self.cost += cost(&read);
                let is_broken = read.is_err();
                self.begun.push_back(read);
                if is_broken {
                    self.rest = Received::Empty;
                    return Poll::Ready(false);
                }
            }
            Poll::Ready(self.rest.is_end_stream())
        })
        .await
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Read>> {
        let read = match self.begun.pop_front() {
            Some(read) => {
                self.cost -= cost(&read);
                Some(read)
            }
            None => ready!(Pin::new(&mut self.rest).poll_frame(cx)),
        };
        if let Some(Ok(frame)) = &read {
            let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
            self.left = self.left.map(|left| left.saturating_sub(bytes));
        }
        Poll::Ready(read)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.begun.is_empty() && self.rest.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

fn cost(read: &Read) -> usize {
    let bytes = read.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
    bytes + FRAME_OVERHEAD
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, task::Waker};

    use super::*;

    /// Sixty thousand pieces of a byte took six megabytes, where 64 KiB may be kept.
    #[test]
    fn what_is_kept_is_bounded_also_in_short_pieces() {
        let mut source = Kept::new(Received::Empty);
        for _ in 0..60_000 {
            source.begun.push_back(Ok(Frame::data(Bytes::from_static(b"x"))));
            source.cost += 1 + FRAME_OVERHEAD;
        }
        let mut kept = Kept::new(Received::Kept(Box::new(source)));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(pin!(kept.read(64 * 1024)).poll(&mut cx), Poll::Ready(false)));
        assert!(kept.begun.len() < 64 * 1024 / FRAME_OVERHEAD + 2, "{}", kept.begun.len());
        let mut count = 0;
        while let Poll::Ready(Some(Ok(_))) = kept.poll_frame(&mut cx) {
            count += 1;
        }
        assert_eq!(count, 60_000, "nothing is lost");
        assert!(kept.is_end_stream());
    }
}
