//! Refusing a connection: an answer at once, and no more. Nobody reads the request.
//!
//! A caller whose address has too many connections gets the fault `overloaded`, so that it learns why and
//! when to come back. A TLS connection is only closed: a handshake costs more than the refusal saves.
//! A caller that does not speak TLS where it has to is told so.

use std::{cell::Cell, io::Write as _, rc::Rc, time::Duration};

use bytes::Bytes;
use http::{Response, Version, header::CONNECTION};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    listen::transport::Transport,
    proxy::{
        fault::{About, BadRequest, Fault, Overload},
        headers,
    },
};

/// An answer reaches its caller only if what the caller sent is read: so long, and no longer.
const LINGER_MAX: Duration = Duration::from_secs(1);
/// Refused connections of a worker that are open for that. Others are cut, as they cost descriptors.
const LINGERING_MAX: usize = 64;

/// One worker's refused connections.
#[derive(Default)]
pub(super) struct Refusals {
    lingering: Rc<Cell<usize>>,
}

impl Refusals {
    /// Refuses a connection of a caller that has too many.
    pub(super) fn refuse(&self, transport: Transport, speaks_tls: bool) {
        if !speaks_tls {
            self.say(transport, &Fault::Overloaded(Overload::Address));
        }
    }

    /// Refuses a request that came without TLS to a listener with it.
    pub(super) fn refuse_plain(&self, transport: Transport) {
        self.say(transport, &Fault::BadRequest(BadRequest::Plain));
    }

    fn say(&self, mut transport: Transport, fault: &Fault) {
        if self.lingering.get() >= LINGERING_MAX {
            return;
        }
        let (guest, words) = (Guest::new(&self.lingering), answer(fault));
        let farewell = async move {
            transport.write_all(&words).await?;
            transport.shutdown().await?;
            let mut scratch = vec![0; 4096];
            while transport.read(&mut scratch).await? > 0 {}
            std::io::Result::Ok(())
        };
        // Ends by its limit of time, at the latest.
        tokio::task::spawn_local(async move {
            let _guest = guest;
            let _ = tokio::time::timeout(LINGER_MAX, farewell).await;
        });
    }
}

struct Guest(Rc<Cell<usize>>);

impl Guest {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The fault as bytes of HTTP/1.1.
fn answer(fault: &Fault) -> Vec<u8> {
    let request_id = headers::made_id();
    let about = About { route: None, request_id: &request_id, is_grpc: false, version: Version::HTTP_11 };
    written(&fault.response(&about))
}

fn written(response: &Response<Bytes>) -> Vec<u8> {
    let (status, body) = (response.status(), response.body());
    let mut out =
        format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default())
            .into_bytes();
    for (name, value) in response.headers().iter().filter(|(name, _)| *name != CONNECTION) {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    // Writing to a vector does not fail.
    let _ = write!(out, "content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    out.extend_from_slice(body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_complete_http_and_says_when_to_come_back() {
        let answer = String::from_utf8(answer(&Fault::Overloaded(Overload::Address))).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
        for line in ["retry-after: 1", "connection: close", "content-type: application/problem+json"] {
            assert!(head.contains(&format!("\r\n{line}")), "{line} is not in {head}");
        }
        assert!(head.contains(&format!("content-length: {}", body.len())));
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["code"], "overloaded");
    }
}
