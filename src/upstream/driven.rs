//! An HTTP/1.1 connection that has no task of its own: who waits for it moves it.
//!
//! A request and its connection need the thread at the same moments. On one task, nobody has to be woken
//! when one of them has something for the other.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use http_body::Body;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWriteExt, runtime::Handle, task::coop};

use crate::{
    body::{Drive, Read},
    upstream::{
        Sendable,
        bell::Bell,
        departures::{Depart, Departures},
        stream::{Stream, Upgraded, Wire},
    },
};

/// How long saying goodbye may take: TLS has a last record to send, which a stalled peer does not take.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);
/// How long the rest of an upload may stand still when everybody has gone.
const STALL_LIMIT: Duration = Duration::from_secs(10);

type Running<B> = http1::Connection<TokioIo<Stream>, B>;

/// A connection that moves while somebody waits for it.
pub(super) struct Driven<B: Sendable> {
    /// `None` when HTTP on it is over.
    running: RefCell<Option<Running<B>>>,
    /// What is left of it then.
    left: Cell<Option<Upgraded>>,
    /// It has been given a task.
    has_task: Cell<bool>,
    wire: Rc<Wire>,
    bell: Arc<Bell>,
    /// Rings the bell.
    ring: Waker,
}

impl<B: Sendable> Driven<B> {
    pub(super) fn new(running: Running<B>, wire: Rc<Wire>) -> Rc<Self> {
        let bell = Arc::new(Bell::default());
        Rc::new(Self {
            running: RefCell::new(Some(running)),
            left: Cell::default(),
            has_task: Cell::new(false),
            wire,
            ring: Waker::from(Arc::clone(&bell)),
            bell,
        })
    }

    /// A request has been handed over. It leaves with others; whoever `cx` belongs to is woken when there is more to
    /// say than that.
    pub(super) fn begin(self: &Rc<Self>, cx: &Context<'_>, departures: &Rc<Departures>) {
        // That it was handed over is no news.
        self.bell.clear();
        self.bell.call(cx.waker());
        departures.add(Rc::clone(self) as Rc<dyn Depart>);
    }

    /// Polls `what`, which the connection yields, and moves the connection as far as that takes.
    pub(super) fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        mut what: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if self.has_task.get() {
            return what(cx);
        }
        self.bell.mute();
        if let Poll::Ready(ready) = self.look(&mut what) {
            return Poll::Ready(ready);
        }
        self.turn();
        if let Poll::Ready(ready) = self.look(&mut what) {
            return Poll::Ready(ready);
        }
        self.bell.call(cx.waker());
        // Then `what` may be there and have said no, and its word to come again has reached nobody.
        if !coop::has_budget_remaining() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Polls `what`, which need not wake anybody: it changes with the connection, and is looked at then.
    ///
    /// That something was taken is news for a connection which wants to hand on more, but this is asked of it
    /// before anybody waits. So it is no reason to move it once more behind a body's end.
    fn look<T>(&self, what: &mut impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let had_rung = self.bell.has_rung();
        let outcome = what(&mut Context::from_waker(Waker::noop()));
        // One thread moves the connection and its socket: nobody else has rung meanwhile.
        if outcome.is_ready() && !had_rung {
            self.bell.clear();
        }
        outcome
    }

    /// What is done to the connection next wakes nobody.
    pub(super) fn mute(&self) {
        self.bell.mute();
    }

    /// Nobody waits for it any more.
    pub(super) fn rest(&self) {
        self.bell.forget();
    }

    /// Takes notice of what has happened while nobody was waiting.
    pub(super) fn catch_up(&self) {
        if self.bell.has_rung() {
            self.turn();
        }
    }

    /// Reads and writes what can be, once.
    pub(super) fn turn(&self) {
        self.bell.clear();
        let mut running = self.running.borrow_mut();
        let ended = match running.as_mut() {
            Some(running) => running.poll_without_shutdown(&mut Context::from_waker(&self.ring)),
            None => return,
        };
        if let Poll::Ready(outcome) = ended
            && let Some(running) = running.take()
        {
            self.left.set(remains(running, outcome));
        }
    }

    /// Gives the connection a task, so that it moves also while nobody waits for it. It has it to its end.
    pub(super) fn let_go(self: &Rc<Self>) {
        if self.has_task.replace(true) {
            return;
        }
        let (this, held, wire) = (Rc::clone(self), Rc::downgrade(self), Rc::clone(&self.wire));
        // Ends by itself when the connection closes, or when its sender is dropped and all is sent.
        tokio::task::spawn_local(async move {
            let Some(mut running) = this.running.take() else { return };
            drop(this);
            let mut sent_bytes = wire.sent_bytes();
            let outcome = loop {
                let moving = poll_fn(|cx| running.poll_without_shutdown(cx));
                if let Ok(outcome) = tokio::time::timeout(STALL_LIMIT, moving).await {
                    break outcome;
                }
                // Nobody would notice otherwise that the upstream never reads the rest of an upload.
                if held.strong_count() == 0 && wire.sent_bytes() == sent_bytes {
                    return;
                }
                sent_bytes = wire.sent_bytes();
            };
            if let Some((stream, _)) = remains(running, outcome) {
                say_goodbye(stream).await;
            }
        });
    }

    /// Waits for the end of HTTP on it; gives its bytes, and those that were read already.
    pub(super) async fn upgraded(&self) -> Option<Upgraded> {
        poll_fn(|cx| {
            self.poll(cx, |_| match &*self.running.borrow() {
                Some(_) => Poll::Pending,
                None => Poll::Ready(()),
            })
        })
        .await;
        self.left.take()
    }
}

/// What is left of a connection on which HTTP is over.
fn remains<B: Sendable>(running: Running<B>, outcome: hyper::Result<()>) -> Option<Upgraded> {
    if let Err(error) = outcome {
        tracing::debug!(%error, "upstream connection ended");
        return None;
    }
    let parts = running.into_parts();
    Some((parts.io.into_inner(), parts.read_buf))
}

async fn say_goodbye(mut stream: Stream) {
    let _ = tokio::time::timeout(SHUTDOWN_LIMIT, stream.shutdown()).await;
}

impl<B: Sendable> Depart for Driven<B> {
    fn depart(&self) {
        let known = |wire: &Wire| (wire.received_bytes(), wire.has_ended());
        let (sent_bytes, before) = (self.wire.sent_bytes(), known(&self.wire));
        self.turn();
        self.bell.call_again();
        // Nobody has asked the library for the request's outcome, so nobody is told of it.
        let is_under_way = self.running.borrow().is_some() && self.wire.sent_bytes() > sent_bytes;
        if !is_under_way || known(&self.wire) != before {
            self.ring.wake_by_ref();
        }
    }

    fn abandon(&self) {
        drop(self.running.take());
        self.bell.call_again();
        self.ring.wake_by_ref();
    }
}

impl<B: Sendable> Drive for Driven<B> {
    fn poll_body(&self, body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<Read>> {
        self.poll(cx, |cx| Pin::new(&mut *body).poll_frame(cx))
    }
}

impl<B: Sendable> Drop for Driven<B> {
    fn drop(&mut self) {
        let left = self.left.take();
        let running = self.running.take().map(|running| running.into_parts().io.into_inner());
        // Without TLS there is nothing to say that the system does not say by itself.
        if let Some(stream) = running.or(left.map(|(stream, _)| stream)).filter(Stream::is_tls)
            && Handle::try_current().is_ok()
        {
            tokio::task::spawn_local(say_goodbye(stream));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        pin::pin,
        thread,
    };

    use bytes::Bytes;
    use http::Request;
    use http_body_util::Empty;
    use tokio::{io::Interest, net::TcpStream, sync::oneshot};

    use super::*;
    use crate::upstream::stream::Transport;

    /// What tokio lets a task do in one poll.
    const BUDGET: usize = 128;

    /// Whether an answer arrives whose head comes when its task may do only so much more.
    async fn arrives(left: usize) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serving = thread::spawn(move || {
            let (mut tcp, _) = listener.accept().unwrap();
            let mut some = [0; 4096];
            let _ = tcp.read(&mut some).unwrap();
            tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart").unwrap();
            // Until the other end has gone.
            let _ = tcp.read(&mut some);
        });
        let tcp = TcpStream::connect(address).await.unwrap();
        let stream = Stream::new(Transport::Plain(tcp), None, &Arc::default());
        let wire = stream.wire();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let driven = Driven::new(connection, wire);
        let request = Request::get("/").header("host", "a").body(Empty::<Bytes>::new()).unwrap();
        let mut sending = Box::pin(sender.try_send_request(request));
        let mut polls = 0;
        let asking = tokio::task::spawn_local(poll_fn(move |cx| {
            polls += 1;
            if polls == 2 {
                for _ in 0..BUDGET - left {
                    let (told, hears) = oneshot::channel::<()>();
                    told.send(()).unwrap();
                    assert!(pin!(hears).poll(cx).is_ready());
                }
            }
            driven.poll(cx, |cx| sending.as_mut().poll(cx)).map(|answer| answer.is_ok())
        }));
        let aborting = asking.abort_handle();
        let arrived = tokio::time::timeout(Duration::from_secs(2), asking).await;
        aborting.abort();
        drop(sender);
        tokio::task::spawn_blocking(|| serving.join().unwrap()).await.unwrap();
        arrived.is_ok_and(|arrived| arrived.unwrap())
    }

    #[test]
    fn an_answer_that_comes_when_its_task_may_do_no_more_is_not_forgotten() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        let runtime = runtime.unwrap();
        for left in 0..6 {
            assert!(runtime.block_on(arrives(left)), "{left} left");
        }
    }

    /// The answer to a request that leaves with others over a connection whose other end has sent `before` and closed.
    async fn outcome(before: &'static [u8]) -> Option<u16> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut other, _) = listener.accept().await.unwrap();
        other.write_all(before).await.unwrap();
        drop(other);
        // Nothing will happen any more that could ring.
        tcp.ready(Interest::READABLE | Interest::WRITABLE).await.unwrap();
        tokio::task::yield_now().await;
        let stream = Stream::new(Transport::Plain(tcp), None, &Arc::default());
        let wire = stream.wire();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let driven = Driven::new(connection, wire);
        let departures = Rc::<Departures>::default();
        let request = Request::get("/").header("host", "a").body(Empty::<Bytes>::new()).unwrap();
        let mut sending = Box::pin(sender.try_send_request(request));
        let mut has_begun = false;
        let asking = poll_fn(|cx| {
            if !std::mem::replace(&mut has_begun, true) {
                driven.begin(cx, &departures);
                return Poll::Pending;
            }
            driven.poll(cx, |cx| sending.as_mut().poll(cx))
        });
        let outcome = tokio::time::timeout(Duration::from_secs(2), asking).await;
        outcome.expect("it is told").ok().map(|answer| answer.status().as_u16())
    }

    #[test]
    fn a_request_is_told_what_happened_when_it_left() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        let runtime = runtime.unwrap();
        // What came before a request is no answer to it.
        for before in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"] {
            assert_eq!(runtime.block_on(outcome(before)), None);
        }
    }
}
