//! What a caller's bytes come over, below HTTP.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::server::TlsStream;

use crate::{caller::Caller, listen::sni::Choice};

/// A connection that is ready for HTTP.
pub(super) struct Accepted {
    pub(super) transport: Transport,
    pub(super) caller: Caller,
    /// `None` when the caller speaks without TLS.
    pub(super) tls: Option<TlsFacts>,
}

/// What a TLS handshake has settled.
pub(super) struct TlsFacts {
    /// ALPN chose HTTP/2.
    pub(super) is_http2: bool,
    /// The server name that the caller asked for (SNI).
    pub(super) server_name: Option<Box<str>>,
    pub(super) choice: Arc<Choice>,
}

impl TlsFacts {
    /// Whether a request for `host` came over a connection that was made for another one: the caller
    /// asked for a server name, and `host` would have been shown another certificate (RFC 9110
    /// §15.5.20). `host` may have a port.
    pub(super) fn is_misdirected(&self, host: &str) -> bool {
        let Some(asked) = self.server_name.as_deref() else { return false };
        let name = match host.rsplit_once(':') {
            // A colon inside of brackets belongs to an IPv6 address.
            Some((name, port)) if !port.contains(']') => name,
            _ => host,
        };
        self.choice.index(asked) != self.choice.index(name)
    }
}

/// A caller's connection.
pub(super) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// In a box, as it is much larger than the others.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
