//! What some faults have in common with others of their code, and what tells them apart: the cause, in words.

use std::fmt;

/// What there is too much of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overload {
    /// Requests that wait for a token of this profile.
    Waiters(String),
    /// Connections of the caller's address.
    Address,
    /// Connections to upstreams, of all that the process may have.
    Upstreams,
}

impl fmt::Display for Overload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiters(profile) => write!(
                f,
                "as many requests as limits.waiters allows wait for a token of profile \"{profile}\": its identity \
                 provider does not answer in time"
            ),
            Self::Address => f.write_str(
                "the caller's address has as many connections as limits.connections_per_address allows: keep them open \
                 and use them again",
            ),
            Self::Upstreams => f.write_str(
                "there is no room for a further connection to an upstream: upstreams do not answer, or the process may \
                 open too few files (its log names the limit)",
            ),
        }
    }
}
