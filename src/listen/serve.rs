//! Serving one connection, from its first byte to its last.

use std::{rc::Rc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    listen::{
        connections::Registered,
        guard::Guard,
        transport::{Accepted, Transport},
        watched::Watched,
    },
    proxy::{self, Inbound, worker::Worker},
};

/// What a caller still sends behind an early answer is read for so long, so that the answer reaches it.
const LINGER_TIME_MAX: Duration = Duration::from_secs(10);
/// And for so long when nothing comes.
const LINGER_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Serves a connection until it ends.
pub(super) async fn serve(worker: Rc<Worker>, registered: &Registered, accepted: Accepted) {
    let (watched, limits) = (registered.watched(), registered.limits());
    let Accepted { transport, caller, .. } = accepted;
    let guard = Guard::new(transport, limits, watched);
    let service = service_fn(|request| {
        let refused = watched.serve();
        let (presence, answering) = (Presence(Rc::clone(watched)), Rc::clone(watched));
        let worker = Rc::clone(&worker);
        async move {
            let inbound = Inbound { request, refused, caller, presence: Box::new(presence) };
            let answer = proxy::respond(worker, inbound).await;
            answering.begin_answer();
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    // The guard has judged every head before hyper sees it, so hyper's limits only have to be no
    // smaller. Its header timer is replaced by the watch.
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_headers(limits.headers.saturating_add(8))
        .max_buf_size((limits.header_bytes + limits.uri_bytes + 8 * 1024).max(64 * 1024))
        .serve_connection(TokioIo::new(guard), service);
    match connection.without_shutdown().await {
        Ok(parts) => {
            let (stream, is_sending) = parts.io.into_inner().into_parts();
            close(stream, is_sending).await;
        }
        Err(error) => tracing::debug!(%error, %caller, "connection ended"),
    }
}

/// Closes a connection. One whose caller may still be sending is read for a moment: closing it with
/// unread bytes would reset it, and the caller might never see the answer.
async fn close(mut stream: Transport, linger: bool) {
    if stream.shutdown().await.is_err() || !linger {
        return;
    }
    let drain = async {
        let mut scratch = vec![0; 16 * 1024];
        while let Ok(Ok(1..)) = tokio::time::timeout(LINGER_PAUSE_MAX, stream.read(&mut scratch)).await {}
    };
    let _ = tokio::time::timeout(LINGER_TIME_MAX, drain).await;
}

/// Lives as long as a request of a connection does.
struct Presence(Rc<Watched>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.answer();
    }
}
