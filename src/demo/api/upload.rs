//! A request body that is read piece by piece: measured and hashed, never kept.

use aws_lc_rs::digest;
use axum::body::Body;
use http_body_util::BodyExt;

/// What has been read so far, and the rest.
pub(super) struct Upload {
    body: Body,
    digest: digest::Context,
    length: u64,
    finished: bool,
}

impl Upload {
    pub(super) fn new(body: Body) -> Upload {
        Upload { body, digest: digest::Context::new(&digest::SHA256), length: 0, finished: false }
    }

    /// Reads until at least `enough` bytes have come, or the body has ended or broken.
    pub(super) async fn read(&mut self, enough: u64) {
        while !self.finished && self.length < enough {
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.digest.update(data);
                        self.length += data.len() as u64;
                    }
                }
                Some(Err(_)) | None => self.finished = true,
            }
        }
    }

    /// How much was read.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The digest of what was read, in hex.
    pub(super) fn sha256(&self) -> String {
        self.digest.clone().finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether nothing is left to read.
    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }
}
