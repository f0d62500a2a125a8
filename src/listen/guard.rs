//! The guard between a caller's socket and the HTTP library: only judged bytes pass.
//!
//! A head passes when it is complete and sound. In the place of a refused one the library gets a
//! stand-in, so that the refusal is answered in order, like any other request, and the connection
//! closes behind it. A body that breaks its framing later on breaks the stream.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::{
    listen::{
        Limits,
        framing::{self, BodyLength, Chunks, Extent, Refusal},
        watched::{End, Watched},
    },
    proxy::fault::{BadRequest, Fault},
    upstream::gather,
};

/// What the library gets in the place of a refused head.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nHost: -\r\nConnection: close\r\n\r\n";

/// Bytes of further requests that are read while one is being served.
const WAITING_BYTES_MAX: usize = 64 * 1024;

enum Place {
    /// At the beginning of a head or in it.
    Head,
    Bytes(u64),
    Chunked(Chunks),
    /// Behind a stand-in: nothing passes any more.
    Closed,
}

/// See the module.
pub(super) struct Guard<T> {
    io: T,
    /// Bytes that were read before the guard took over.
    early: Vec<u8>,
    limits: Arc<Limits>,
    watched: Rc<Watched>,
    place: Place,
    /// An incomplete head.
    held: Vec<u8>,
    /// How much of it has been looked through for its end.
    seen: usize,
    has_skipped: bool,
    /// Judged bytes that did not fit into the reader's buffer yet.
    judged: Vec<u8>,
    handed: usize,
}

impl<T> Guard<T> {
    /// Guards `io`, of which `early` has been read already.
    pub(super) fn new(io: T, early: Vec<u8>, limits: &Arc<Limits>, watched: &Rc<Watched>) -> Self {
        Self {
            io,
            early,
            limits: Arc::clone(limits),
            watched: Rc::clone(watched),
            place: Place::Head,
            held: Vec::new(),
            seen: 0,
            has_skipped: false,
            judged: Vec::new(),
            handed: 0,
        }
    }

    /// The socket, and whether the caller may still be sending what nobody will read.
    pub(super) fn into_parts(self) -> (T, bool) {
        let is_inside = !matches!(self.place, Place::Head) || !self.held.is_empty();
        (self.io, is_inside || self.watched.has_refused.get())
    }

    /// What is below.
    pub(super) fn io(&mut self) -> &mut T {
        &mut self.io
    }

    /// `early` has been read from below and is to be read again.
    pub(super) fn unread(&mut self, early: Vec<u8>) {
        self.early = early;
    }

    /// The socket and what has been read behind the current request, for whoever takes over.
    pub(super) fn into_tunnel(self) -> (T, Vec<u8>) {
        (self.io, self.held)
    }

    /// Hands out judged bytes that are waiting. True if there were any.
    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let waiting = self.judged.get(self.handed..).unwrap_or_default();
        if waiting.is_empty() {
            return false;
        }
        let fits = waiting.get(..buf.remaining()).unwrap_or(waiting);
        buf.put_slice(fits);
        self.handed += fits.len();
        if self.handed == self.judged.len() {
            self.judged = Vec::new();
            self.handed = 0;
        }
        true
    }

    /// Judges `bytes`, which begin where the last ones ended. Gives how many may pass; the rest is
    /// the beginning of a head. A refused head is cut off in front of itself.
    fn judge(&mut self, bytes: &[u8]) -> io::Result<Verdict> {
        let mut at = 0;
        // Where the head of the current request begins, if it is in `bytes` and not out of reach.
        let mut head_at = None;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(Verdict::Pass(at));
            }
            match &mut self.place {
                Place::Closed => return Ok(Verdict::Pass(at)),
                Place::Bytes(left) => {
                    let used = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= used as u64;
                    if *left == 0 {
                        self.place = Place::Head;
                    }
                    at += used;
                }
                Place::Chunked(chunks) => match chunks.read(rest) {
                    Ok(used) => {
                        at += used;
                        if chunks.is_done() {
                            self.place = Place::Head;
                        }
                    }
                    Err(refusal) => {
                        if let Some(head_at) = head_at {
                            return Ok(Verdict::Refuse(head_at, refusal, true));
                        }
                        self.place = Place::Closed;
                        return Err(io::Error::new(io::ErrorKind::InvalidData, "malformed chunk"));
                    }
                },
                // One request at a time: what follows waits here, where its end can be noticed.
                Place::Head if self.watched.is_busy() => return Ok(Verdict::Pass(at)),
                Place::Head => {
                    // RFC 9112 §2.2: an empty line in front of a request line is skipped.
                    if !self.has_skipped && rest.starts_with(b"\r\n") {
                        self.has_skipped = true;
                        at += 2;
                        continue;
                    }
                    let end = match framing::extent(rest, if at == 0 { self.seen } else { 0 }, &self.limits) {
                        Ok(Extent::Complete(end)) => end,
                        Ok(Extent::Partial) => return Ok(Verdict::Pass(at)),
                        Err(refusal) => return Ok(Verdict::Refuse(at, refusal, false)),
                    };
                    let length = match framing::head(rest.get(..end).unwrap_or_default(), &self.limits) {
                        Ok(length) => length,
                        Err(refusal) => return Ok(Verdict::Refuse(at, refusal, false)),
                    };
                    self.place = match length {
                        BodyLength::None => Place::Head,
                        BodyLength::Bytes(n) => Place::Bytes(n),
                        BodyLength::Chunked => Place::Chunked(Chunks::new(self.limits.headers)),
                    };
                    self.has_skipped = false;
                    self.watched.pass();
                    head_at = Some(at);
                    at += end;
                    self.seen = 0;
                }
            }
        }
    }

    /// Takes `verdict` on the bytes that `buf` holds from `from` on.
    fn apply(&mut self, verdict: Verdict, buf: &mut ReadBuf<'_>, from: usize) {
        let (pass, refusal) = match verdict {
            Verdict::Pass(pass) => (pass, None),
            Verdict::Refuse(at, refusal, was_passed) => (at, Some((refusal, was_passed))),
        };
        let rest = buf.filled().get(from + pass..).unwrap_or_default().to_vec();
        buf.set_filled(from + pass);
        match refusal {
            Some((refusal, was_passed)) => {
                self.stand_in(fault(refusal), was_passed);
                self.hand_out(buf);
            }
            None if !rest.is_empty() => self.hold(rest, true),
            None => {}
        }
    }

    /// Keeps what cannot pass yet: the beginning of a head, or a request that has to wait.
    fn hold(&mut self, bytes: Vec<u8>, is_new: bool) {
        let is_waiting = !bytes.is_empty() && self.watched.is_busy();
        self.watched.has_waiting.set(is_waiting);
        self.seen = if is_waiting { 0 } else { bytes.len() };
        self.watched.has_partial_head.set(!is_waiting && !bytes.is_empty());
        if is_new && !is_waiting {
            self.watched.since.set(Instant::now());
        }
        self.held = bytes;
    }

    fn stand_in(&mut self, fault: Fault, was_passed: bool) {
        if was_passed {
            // Its head had been counted, but has not reached the library.
            self.watched.passed.set(self.watched.passed.get() - 1);
        }
        self.watched.refuse(fault);
        self.watched.has_partial_head.set(false);
        self.judged.extend_from_slice(STAND_IN);
        self.place = Place::Closed;
        self.held = Vec::new();
    }

    /// Judges a head that comes in pieces, all of them together.
    fn judge_held(&mut self, new: &[u8]) -> io::Result<()> {
        self.held.extend_from_slice(new);
        let held = std::mem::take(&mut self.held);
        match self.judge(&held)? {
            Verdict::Refuse(at, refusal, was_passed) => {
                self.judged.extend_from_slice(held.get(..at).unwrap_or_default());
                self.stand_in(fault(refusal), was_passed);
            }
            Verdict::Pass(pass) => {
                self.judged.extend_from_slice(held.get(..pass).unwrap_or_default());
                let rest = if pass == 0 { held } else { held.get(pass..).unwrap_or_default().to_vec() };
                self.hold(rest, pass > 0 || self.watched.has_waiting.get());
            }
        }
        Ok(())
    }
}

enum Verdict {
    /// So many bytes may pass; the rest is the beginning of a head.
    Pass(usize),
    /// The head that begins here is refused; whether it had been counted already.
    Refuse(usize, Refusal, bool),
}

fn fault(refusal: Refusal) -> Fault {
    match refusal {
        Refusal::Framing(what) => Fault::BadRequest(BadRequest::Framing(what)),
        Refusal::HeadersTooLarge => Fault::HeadersTooLarge,
        Refusal::UriTooLong => Fault::UriTooLong,
    }
}

impl<T: AsyncRead + Unpin> Guard<T> {
    fn read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let fits = self.early.len().min(buf.remaining());
        let rest = self.early.split_off(fits);
        buf.put_slice(&self.early);
        self.early = rest;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> Guard<T> {
    /// Informational responses go out before anything that the library writes.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut interim = self.watched.interim.borrow_mut();
        while !interim.is_empty() {
            let written = Pin::new(&mut self.io).poll_write(cx, &interim);
            let written = ready!(self.note(written))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            interim.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Notes whether the caller takes what is written.
    fn note<R>(&self, written: Poll<R>) -> Poll<R> {
        self.watched.is_blocked.set(written.is_pending());
        self.watched.has_moved.set(self.watched.has_moved.get() || written.is_ready());
        written
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guard<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if buf.remaining() == 0 || this.hand_out(buf) {
                return Poll::Ready(Ok(()));
            }
            if this.watched.has_waiting.get() && !this.watched.is_busy() {
                this.judge_held(&[])?;
                continue;
            }
            match this.watched.end.get() {
                End::No => {}
                End::Silently => return Poll::Ready(Ok(())),
                End::TooSlow => {
                    this.watched.end.set(End::No);
                    this.stand_in(Fault::CallerTimeout, false);
                    continue;
                }
            }
            if this.watched.has_waiting.get() && this.held.len() >= WAITING_BYTES_MAX {
                // The library does not ask again by itself when it is done with the request before.
                this.watched.wake_by(cx);
                return Poll::Pending;
            }
            let from = buf.filled().len();
            let read = this.read(cx, buf);
            if read.is_pending() {
                this.watched.wake_by(cx);
                return Poll::Pending;
            }
            ready!(read)?;
            let new = buf.filled().get(from..).unwrap_or_default();
            if new.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if matches!(this.place, Place::Closed) {
                // What comes behind a refusal is nobody's business; only its end is.
                buf.set_filled(from);
                continue;
            }
            if this.watched.has_waiting.get() {
                this.held.extend_from_slice(new);
                buf.set_filled(from);
                continue;
            }
            if this.held.is_empty() {
                let verdict = this.judge(new)?;
                this.apply(verdict, buf, from);
                if buf.filled().len() > from {
                    return Poll::Ready(Ok(()));
                }
            } else {
                let new = new.to_vec();
                buf.set_filled(from);
                this.judge_held(&new)?;
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guard<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.note(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        let written = gather::poll_write(&mut this.io, cx, bufs);
        this.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        // TLS holds what the socket does not take. That nothing was held is no movement.
        if this.watched.is_blocked.replace(flushed.is_pending()) && flushed.is_ready() {
            this.watched.has_moved.set(true);
        }
        flushed
    }

    /// What is below is closed by whoever gets it back: there may be something to read first.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
