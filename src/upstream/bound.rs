//! Upstreams that are shown the certificate to which a profile's tokens are bound (RFC 8705 §3).
//!
//! The certificate changes while the gateway runs. A connection that was made with the old one takes no
//! further request, and no TLS session of the old one is resumed.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    profile::certificate::{Certificate, Presented},
    upstream::tls::Tls,
};

/// TLS with whatever certificate the newest token is bound to.
pub(super) struct Bound {
    presented: Arc<Presented>,
    last: Mutex<Option<(Arc<Certificate>, Arc<Tls>)>>,
}

/// What one connection was made with.
pub(super) struct Era {
    presented: Arc<Presented>,
    certificate: Option<Arc<Certificate>>,
}

impl Era {
    /// Whether tokens are bound to another certificate by now.
    pub(super) fn is_over(&self) -> bool {
        self.presented.current().as_ref().map(Arc::as_ptr) != self.certificate.as_ref().map(Arc::as_ptr)
    }
}

impl Bound {
    pub(super) fn new(presented: Arc<Presented>) -> Self {
        Self { presented, last: Mutex::default() }
    }

    /// Whether it is this profile's certificate.
    pub(super) fn is_of(&self, presented: &Arc<Presented>) -> bool {
        Arc::ptr_eq(&self.presented, presented)
    }

    /// How to connect now; `plain` is TLS without a certificate.
    pub(super) fn tls(&self, plain: &Arc<Tls>) -> (Arc<Tls>, Era) {
        let certificate = self.presented.current();
        let tls = match &certificate {
            None => Arc::clone(plain),
            Some(certificate) => {
                let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                match last.as_ref().filter(|(of, _)| Arc::ptr_eq(of, certificate)) {
                    Some((_, tls)) => Arc::clone(tls),
                    None => {
                        let tls = Arc::new(plain.showing(certificate));
                        *last = Some((Arc::clone(certificate), Arc::clone(&tls)));
                        tls
                    }
                }
            }
        };
        (tls, Era { presented: Arc::clone(&self.presented), certificate })
    }
}
