//! The caller's side of one request, as far as the proxy has to know it.

use std::rc::Rc;

use crate::{proxy::tunnel::Tunnel, upstream::interims::Interim};

/// What a listener does for one request.
pub trait Line {
    /// Whether the caller came over TLS.
    fn is_tls(&self) -> bool;

    /// Whether `host` is served under another certificate than the one that the caller has seen
    /// (RFC 9110 §15.5.20).
    fn is_misdirected(&self, host: &str) -> bool;

    /// Passes an informational response on, where the caller's protocol has a place for it.
    fn inform(&self, interim: &Interim);

    /// Takes over what is to carry bytes both ways once the answer's head is out.
    fn hand_over(&self, tunnel: Tunnel);

    /// The request has failed by its caller's doing when it was on its way already: what was begun at the
    /// upstream is lost, as with a request that is taken back.
    fn spoil(&self) {}

    /// The request is over, its answer included.
    fn end(&self) {}
}

/// A request's hold on its line, which it tells of its end, however that comes.
pub struct Held(Rc<dyn Line>);

impl Held {
    /// The request begins.
    pub fn new(line: Rc<dyn Line>) -> Self {
        Self(line)
    }

    /// The line.
    pub fn line(&self) -> &Rc<dyn Line> {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.end();
    }
}
