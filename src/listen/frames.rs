//! HTTP/2 frames as they arrive (RFC 9113 §4.1): only their headers are read, to bound what a caller
//! makes the gateway do.
//!
//! The HTTP library bounds resets, header blocks and empty data. Frames that cost work and ask for no
//! answer (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, RST_STREAM, unknown ones) are bounded here by an
//! allowance that grows with time, with requests, and with what the caller is sent: bytes, and pieces of
//! answers.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use h2::Reason;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::listen::{
    heads::{ACK, CONTINUATION, DATA, END_HEADERS, HEADERS, Head, Heads, RST_STREAM, SETTINGS},
    outgoing::{Outgoing, Step},
    streams::Streams,
    watched::{Ending, Watched},
};

/// What an HTTP/2 caller sends first (RFC 9113 §3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Control frames that a connection may send at once.
const ALLOWANCE_MAX: u32 = 1000;
/// And so many more in each second.
const ALLOWANCE_PER_SECOND: u32 = 100;
/// And one for so many bytes that it is sent: windows are updated as answers are read.
const BYTES_PER_FRAME: u32 = 512;
/// And so many for each piece that an upstream sends of an answer, however short: two windows are updated,
/// and gRPC for Go sends a ping to measure the way.
const ALLOWANCE_PER_PIECE: u32 = 4;
/// And so many for each request: its windows, a ping to measure the way, an empty end, a change of mind.
const ALLOWANCE_PER_REQUEST: u32 = 4;

/// Reads frame headers out of a stream of bytes.
#[derive(Debug)]
pub(crate) struct Scanner {
    preface_left: usize,
    /// The frame that has to come first has come.
    has_settings: bool,
    heads: Heads,
    /// A header block has begun and not ended.
    in_block: bool,
    allowance: u32,
    /// Bytes sent that have not become allowance yet.
    sent_bytes: u32,
    refilled_at: Instant,
    /// Streams that the caller has given up since somebody asked.
    resets: Vec<u32>,
}

/// Why a connection is not listened to any longer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Bad {
    /// The caller sends more control frames than any honest one has reason to.
    #[error("too many control frames")]
    Flood,
    /// Its first frame says something else than what it can do (RFC 9113 §3.4).
    #[error("no SETTINGS at the beginning")]
    NoSettings,
}

impl Scanner {
    pub(crate) fn new() -> Self {
        Self {
            preface_left: PREFACE.len(),
            has_settings: false,
            heads: Heads::default(),
            in_block: false,
            allowance: ALLOWANCE_MAX,
            sent_bytes: 0,
            refilled_at: Instant::now(),
            resets: Vec::new(),
        }
    }

    /// Reads on through `bytes`.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> Result<(), Bad> {
        let preface = bytes.len().min(self.preface_left);
        self.preface_left -= preface;
        bytes = bytes.get(preface..).unwrap_or_default();
        while let Some(head) = self.heads.next(&mut bytes) {
            self.frame(&head)?;
        }
        Ok(())
    }

    fn frame(&mut self, head: &Head) -> Result<(), Bad> {
        if !self.has_settings && (head.kind != SETTINGS || head.has(ACK)) {
            return Err(Bad::NoSettings);
        }
        self.has_settings = true;
        let is_bounded_by_library = match head.kind {
            DATA => head.length > 0,
            HEADERS | CONTINUATION => {
                if head.kind == HEADERS {
                    self.earn(ALLOWANCE_PER_REQUEST);
                }
                self.in_block = !head.has(END_HEADERS);
                true
            }
            RST_STREAM => {
                self.resets.push(head.stream);
                false
            }
            _ => false,
        };
        if is_bounded_by_library { Ok(()) } else { self.spend() }
    }

    fn spend(&mut self) -> Result<(), Bad> {
        if self.allowance == 0 {
            let now = Instant::now();
            let seconds = u32::try_from((now - self.refilled_at).as_secs()).unwrap_or(u32::MAX);
            self.allowance = seconds.saturating_mul(ALLOWANCE_PER_SECOND).min(ALLOWANCE_MAX);
            self.refilled_at = now;
        }
        self.allowance = self.allowance.checked_sub(1).ok_or(Bad::Flood)?;
        Ok(())
    }

    fn earn(&mut self, frames: u32) {
        self.allowance = self.allowance.saturating_add(frames).min(ALLOWANCE_MAX);
    }

    /// Upstreams have sent so many pieces of answers to the caller.
    pub(crate) fn passed(&mut self, pieces: u32) {
        self.earn(pieces.saturating_mul(ALLOWANCE_PER_PIECE));
    }

    /// The caller was sent so many bytes.
    pub(crate) fn sent(&mut self, bytes: usize) {
        let bytes = self.sent_bytes.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.earn(bytes / BYTES_PER_FRAME);
        self.sent_bytes = bytes % BYTES_PER_FRAME;
    }

    /// Whether the beginning that an HTTP/2 caller has to make, a frame other than data, or a header block is
    /// incomplete.
    pub(crate) fn is_partial(&self) -> bool {
        let in_payload = self.heads.in_payload_of().is_some_and(|kind| kind != DATA);
        !self.has_settings || self.heads.is_in_head() || self.in_block || in_payload
    }
}

/// A caller's connection that speaks HTTP/2.
pub(super) struct Frames<T> {
    io: T,
    /// Bytes that were read before.
    early: Vec<u8>,
    scanner: Scanner,
    outgoing: Outgoing,
    watched: Rc<Watched>,
}

impl<T> Frames<T> {
    /// Reads `io`, of which `early` has been read already.
    pub(super) fn new(io: T, early: Vec<u8>, watched: &Rc<Watched>) -> Self {
        let outgoing = Outgoing::default();
        Self { io, early, scanner: Scanner::new(), outgoing, watched: Rc::clone(watched) }
    }

    fn streams(&self) -> Option<&Streams> {
        self.watched.streams.get()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Frames<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let from = buf.filled().len();
        let is_early = !this.early.is_empty();
        if is_early {
            let rest = this.early.split_off(this.early.len().min(buf.remaining()));
            buf.put_slice(&this.early);
            this.early = rest;
        } else {
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        }
        let pieces = this.streams().map_or(0, Streams::take_passed);
        this.scanner.passed(pieces);
        if let Err(bad) = this.scanner.read(buf.filled().get(from..).unwrap_or_default()) {
            this.watched.blame(match bad {
                Bad::Flood => Ending::Flood,
                Bad::NoSettings => Ending::Http2,
            });
            return Poll::Ready(Err(io::Error::other(bad)));
        }
        if let Some(streams) = this.watched.streams.get() {
            this.scanner.resets.drain(..).for_each(|stream| _ = streams.ends(stream));
            let since = streams.partial_since.get();
            // What was read to see the protocol has been coming since then.
            let begun = || if is_early { this.watched.since.get() } else { Instant::now() };
            streams.partial_since.set(this.scanner.is_partial().then(|| since.unwrap_or_else(begun)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> Frames<T> {
    /// Notes what has been `written` of `pieces`, and whether the caller takes it.
    fn note(
        &mut self,
        written: Poll<io::Result<usize>>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(streams) = self.watched.streams.get() else { return written };
        if let Poll::Ready(Ok(bytes)) = &written {
            self.scanner.sent(*bytes);
            streams.sent(*bytes);
            let shard = &self.watched.shard;
            self.outgoing.read(pieces, *bytes, |step| match step {
                Step::Begins(stream) => streams.begins(stream),
                Step::Moves(stream) => streams.moves(stream),
                Step::Ends(stream) => _ = streams.ends(stream),
                // An answer on a stream that was never handed over is the library's own, a 431.
                Step::EndsWithFields(stream) => shard.refused_lists.add(u64::from(!streams.ends(stream))),
                Step::Resets(stream, why) => {
                    streams.ends(stream);
                    match Reason::from(why) {
                        Reason::REFUSED_STREAM => shard.refused_streams.add(1),
                        Reason::FLOW_CONTROL_ERROR => shard.overrun_windows.add(1),
                        _ => {}
                    }
                }
            });
        }
        streams.blocked(written.is_pending());
        written
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Frames<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.note(written, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.note(written, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        // TLS holds what the socket does not take.
        if let Some(streams) = this.streams() {
            streams.blocked(flushed.is_pending());
        }
        flushed
    }

    /// The caller may not have read all, and says so as it reads on: a connection that is closed with such
    /// words unread is reset, and what the system still holds is lost. So they are read until it closes
    /// as well, or the watch has seen enough of it.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        // Whoever broke the rules is not listened to.
        let Some(streams) = this.watched.streams.get().filter(|streams| streams.leaves()) else {
            return Poll::Ready(Ok(()));
        };
        loop {
            streams.linger();
            let mut scratch = [0; 2048];
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut this.io).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        bytes.resize(9 + payload, 0);
        bytes
    }

    /// A scanner behind the preface and the first frame.
    fn begun() -> Scanner {
        let mut scanner = Scanner::new();
        scanner.read(PREFACE).unwrap();
        scanner.read(&frame(SETTINGS, 0, 0)).unwrap();
        scanner.earn(1);
        scanner
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_frame_says_what_the_caller_can_do() {
        for (kind, flags) in [(6, 0), (HEADERS, END_HEADERS), (SETTINGS, ACK)] {
            let mut scanner = Scanner::new();
            scanner.read(PREFACE).unwrap();
            assert_eq!(scanner.read(&frame(kind, flags, 0)), Err(Bad::NoSettings), "{kind}");
        }
        assert_eq!(begun().read(&frame(SETTINGS, ACK, 0)), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_control_frames_is_noticed_however_it_is_cut() {
        for step in [1, 7, 9, 17, 4096] {
            let mut scanner = Scanner::new();
            let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0)].concat();
            (1..ALLOWANCE_MAX).for_each(|_| bytes.extend(frame(6, 0, 8)));
            for part in bytes.chunks(step) {
                assert_eq!(scanner.read(part), Ok(()));
            }
            assert_eq!(scanner.read(&frame(6, 0, 8)), Err(Bad::Flood), "{step}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_and_answers_earn_further_frames() {
        let mut scanner = begun();
        (0..ALLOWANCE_MAX).for_each(|_| scanner.read(&frame(8, 0, 4)).unwrap());
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        (0..ALLOWANCE_PER_SECOND).for_each(|_| scanner.read(&frame(8, 0, 4)).unwrap());
        assert_eq!(scanner.read(&frame(8, 0, 4)), Err(Bad::Flood));
        scanner.sent(10 * BYTES_PER_FRAME as usize);
        (0..10).for_each(|_| scanner.read(&frame(8, 0, 4)).unwrap());
        assert_eq!(scanner.read(&frame(8, 0, 4)), Err(Bad::Flood));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_and_data_cost_nothing_but_empty_data_does() {
        let mut scanner = begun();
        for _ in 0..5 * ALLOWANCE_MAX {
            scanner.read(&frame(1, END_HEADERS, 20)).unwrap();
            scanner.read(&frame(0, 0, 100)).unwrap();
        }
        (0..ALLOWANCE_MAX).for_each(|_| scanner.read(&frame(0, 0, 0)).unwrap());
        assert_eq!(scanner.read(&frame(0, 0, 0)), Err(Bad::Flood));
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_caller_that_pings_with_every_request_is_no_flood() {
        let mut scanner = begun();
        for _ in 0..5 * ALLOWANCE_MAX {
            scanner.read(&frame(1, END_HEADERS, 20)).unwrap();
            for (kind, payload) in [(0, 50), (0, 0), (6, 8), (8, 4), (8, 4)] {
                scanner.read(&frame(kind, 0, payload)).unwrap();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_beginning_is_partial_until_the_first_frame_is_whole() {
        let mut scanner = Scanner::new();
        let beginning = [PREFACE, &frame(SETTINGS, 0, 6)].concat();
        for (at, byte) in beginning.iter().enumerate() {
            assert!(scanner.is_partial(), "{at}");
            scanner.read(&[*byte]).unwrap();
        }
        assert!(!scanner.is_partial());
    }

    #[tokio::test(start_paused = true)]
    async fn an_incomplete_header_block_is_partial() {
        let mut scanner = begun();
        assert!(!scanner.is_partial());
        let headers = frame(1, 0, 20);
        scanner.read(&headers[..4]).unwrap();
        assert!(scanner.is_partial());
        scanner.read(&headers[4..]).unwrap();
        assert!(scanner.is_partial(), "END_HEADERS is missing");
        scanner.read(&frame(9, END_HEADERS, 3)).unwrap();
        assert!(!scanner.is_partial());
        scanner.read(&frame(0, 0, 20)[..15]).unwrap();
        assert!(!scanner.is_partial(), "data may come slowly");
    }
}
