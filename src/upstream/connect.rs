//! Making a connection to an upstream: name, TCP, TLS.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    time::Duration,
};

use tokio::net::TcpStream;

use crate::upstream::{
    Http2, Upstream, Want, addresses,
    addresses::Failures,
    names::Names,
    race::race,
    stream::{Stream, Transport},
    tls,
};

/// Why a connection could not be made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// No address, or none of them answers.
    #[error("{0}")]
    Unreachable(Rc<io::Error>),
    /// Neither success nor failure within the limit.
    #[error("no connection within the limit")]
    TimedOut,
    /// The TLS handshake failed, most often over the certificate.
    #[error("{0}")]
    Tls(Rc<io::Error>),
    /// The process may not open as many files.
    #[error("no room for another connection")]
    NoRoom,
    /// The upstream has hung up instead of speaking HTTP/2.
    #[error("the upstream closed the connection instead of speaking HTTP/2")]
    NotHttp2,
}

fn unreachable(error: io::Error) -> ConnectError {
    ConnectError::Unreachable(Rc::new(error))
}

/// A connection without a protocol on it yet.
pub(super) struct Connected {
    pub(super) stream: Stream,
    /// Whether to speak HTTP/2 on it.
    pub(super) is_http2: bool,
}

/// How one worker connects.
pub(super) struct Dialer {
    /// Covers name, TCP and TLS together.
    pub(super) limit: Cell<Duration>,
    pub(super) failures: RefCell<Failures>,
    pub(super) names: Names,
}

impl Dialer {
    /// Connects to `upstream`. Its name is asked for anew each time, together with others who do just now.
    ///
    /// # Errors
    /// [`ConnectError`], which tells the network's failures from TLS's.
    pub(super) async fn connect(&self, upstream: &Upstream, want: Want) -> Result<Connected, ConnectError> {
        let connecting = self.connect_slowly(upstream, want);
        tokio::time::timeout(self.limit.get(), connecting).await.unwrap_or(Err(ConnectError::TimedOut))
    }

    async fn connect_slowly(&self, upstream: &Upstream, want: Want) -> Result<Connected, ConnectError> {
        let origin = &upstream.origin;
        let resolved =
            self.names.addresses(&origin.host, origin.port).await.map_err(ConnectError::Unreachable)?;
        let ordered = {
            let failures = self.failures.borrow();
            addresses::order(resolved, upstream.next_turn(), |address| failures.has(address))
        };
        let tcp = race(ordered, &self.failures, TcpStream::connect).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let (transport, is_http2, era) = match upstream.tls_now() {
            None => (Transport::Plain(tcp), origin.http2 == Http2::PriorKnowledge, None),
            Some((tls, era)) => {
                let connecting = tls.connector(want).connect(tls.name.clone(), tcp);
                let stream = connecting.await.map_err(|error| ConnectError::Tls(Rc::new(error)))?;
                let is_http2 = tls::is_http2(&stream);
                (Transport::Tls(Box::new(stream)), is_http2, era)
            }
        };
        Ok(Connected { stream: Stream::new(transport, era, &upstream.traffic), is_http2 })
    }
}
