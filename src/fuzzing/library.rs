//! What the HTTP library makes of bytes that the guard has passed: the two must read the same.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use http::{Request, Response, request};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    rt::{Read, ReadBufCursor, Write},
    server::conn::http1,
    service::service_fn,
};

use crate::listen::Limits;

/// A request behind another one, by which its beginning is known.
pub(super) const MARK: &[u8] = b"GET /mark HTTP/1.1\r\nHost: mark\r\n\r\n";

/// Nothing waits here, so a connection is done after few looks.
const LOOKS_MAX: usize = 10_000;

/// A request as the library hands it over.
pub(super) struct Seen {
    pub(super) head: request::Parts,
    /// `None` when it broke off.
    pub(super) body: Option<Vec<u8>>,
}

/// The requests that the library finds in `bytes`.
pub(super) fn requests(bytes: &[u8]) -> Vec<Seen> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.ok().map(|body| body.to_bytes().to_vec());
            seen.borrow_mut().push(Seen { head, body });
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let is_over = Rc::new(Cell::new(false));
    let input = Input { bytes: bytes.to_vec(), at: 0, is_over: Rc::clone(&is_over) };
    {
        // As `listen::serve` sets them: a little above the guard's limits.
        let mut builder = http1::Builder::new();
        builder.header_read_timeout(None).max_headers(Limits::default().headers + 8).max_buf_size(256 * 1024);
        let mut connection = pin!(builder.serve_connection(input, service));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let ended = (0..LOOKS_MAX).any(|_| {
            let is_ready = connection.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
            // It has nothing left to do: the caller closes, not earlier, as it waits for its answers.
            if !woken.0.swap(false, Ordering::Relaxed) {
                is_over.set(true);
            }
            is_ready
        });
        assert!(ended, "the library does not come to an end");
    }
    seen.take()
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Input {
    bytes: Vec<u8>,
    at: usize,
    /// Nothing comes any more.
    is_over: Rc<Cell<bool>>,
}

impl Read for Input {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let rest = this.bytes.get(this.at..).unwrap_or_default();
        if rest.is_empty() && !this.is_over.get() {
            return Poll::Pending;
        }
        let fits = rest.get(..buf.remaining()).unwrap_or(rest);
        buf.put_slice(fits);
        this.at += fits.len();
        Poll::Ready(Ok(()))
    }
}

/// Answers go nowhere.
impl Write for Input {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
