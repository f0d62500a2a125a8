//! What listeners count below HTTP, and what is known of their certificates.
//!
//! Each worker counts in a [`ListenerShard`] of its own, as with requests. A listener's [`Certificates`] are
//! written by the control plane only, once in a while, and so is the [`AdminShard`].

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use super::metrics::Count;

/// What one worker counts for one listener.
#[derive(Debug, Default)]
pub struct ListenerShard {
    /// Connections that were taken, also those that were then refused.
    pub accepted: Count,
    /// Connections of an address that had too many.
    pub refused_address: Count,
    /// Handshakes that failed or took too long.
    pub refused_tls: Count,
    /// Times that accepting paused because the limit of connections was reached.
    pub paused_limit: Count,
    /// Times that accepting paused because there were too few file descriptors.
    pub paused_files: Count,
    /// Times that accepting paused because the system refused, for instance without memory.
    pub paused_system: Count,
    /// Connections that were ended because nothing was asked for a while.
    pub ended_idle: Count,
    /// Because more HTTP/2 connections were idle than are kept.
    pub ended_surplus: Count,
    /// Because a head did not get complete.
    pub ended_slow_head: Count,
    /// Because an answer was not taken.
    pub ended_slow_reader: Count,
    /// Because an answer did not come.
    pub ended_silence: Count,
    /// WebSockets over HTTP/1.1 on which nothing moved.
    pub ended_tunnel: Count,
    /// Because they stayed when their listener was gone or had other rules.
    pub ended_drain: Count,
    /// Because of control frames that nobody needs.
    pub ended_flood: Count,
    /// Because what came was no HTTP/2, or too much of it.
    pub ended_http2: Count,
    /// HTTP/2 streams that were given up because their answers were not taken or did not come, and WebSockets
    /// on which nothing moved.
    pub lost_streams: Count,
    /// HTTP/2 streams that were refused because the connection carried as many as it may.
    pub refused_streams: Count,
    /// Because their header lists were so long that the HTTP library answered.
    pub refused_lists: Count,
    /// HTTP/2 streams that were reset because the caller sent more ahead than it may.
    pub overrun_windows: Count,
}

/// What the control plane counts for the admin listener.
#[derive(Debug, Default)]
pub struct AdminShard {
    /// Connections beyond as many as it takes.
    pub refused_limit: Count,
    /// Handshakes that failed or took too long.
    pub refused_tls: Count,
    /// Times that accepting paused because there were too few file descriptors.
    pub paused_files: Count,
    /// Times that accepting paused because the system refused, for instance without memory.
    pub paused_system: Count,
    /// Connections that were ended because nothing was asked for a while.
    pub ended_idle: Count,
    /// Because a head did not get complete.
    pub ended_slow_head: Count,
    /// Because a request's body did not.
    pub ended_slow_body: Count,
    /// Because an answer was not taken.
    pub ended_slow_reader: Count,
}

/// What is known of a listener's certificates.
#[derive(Debug, Default)]
pub struct Certificates {
    /// The file, and its expiry in seconds since 1970.
    expiries: Mutex<Vec<(String, i64)>>,
    renewed: AtomicU64,
    failed: AtomicU64,
}

impl Certificates {
    /// These are in use now.
    pub fn show(&self, expiries: Vec<(String, i64)>) {
        *self.expiries.lock().unwrap_or_else(PoisonError::into_inner) = expiries;
    }

    /// Changed files have been read and are in use.
    pub fn renewed(&self) {
        self.renewed.fetch_add(1, Ordering::Relaxed);
    }

    /// Changed files could not be used.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Files in use with their expiries in seconds since 1970.
    pub fn expiries(&self) -> Vec<(String, i64)> {
        self.expiries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often changed files were taken into use, and how often they could not be.
    pub fn reloads(&self) -> (u64, u64) {
        (self.renewed.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}
