//! Keybearer: a reverse-proxy gateway that carries credentials for programs that cannot.
//!
//! It matches each request to a route, puts the bearer token of the route's service-account profile
//! on it, forwards it, and, when the upstream answers 401, gets a fresh token and sends it once more.
//!
//! # Layout: a ladder
//!
//! A module imports only modules of lower levels; `tests/it/layers.rs` holds it to that.
//!
//! | level | module | what it knows |
//! | --- | --- | --- |
//! | 0 | [`secret`], [`clock`], [`telemetry`], [`replay`], [`body`], [`route`], [`outbound`], [`accepting`] | nothing of ours |
//! | 1 | [`source`] | where a secret is read |
//! | 2 | [`profile`] | one exchange with an identity provider |
//! | 2 | [`export`] | sending spans to a collector |
//! | 3 | [`caller`] | who is calling |
//! | 3 | [`token`] | one owner per profile: current, refresh, reject |
//! | 3 | [`upstream`] | connecting and pooling |
//! | 4 | [`proxy`] | the straight line of one request, and the faults |
//! | 5 | [`listen`] | accept, strict framing, limits, drain |
//! | 5 | [`admin`] | health and metrics |
//! | 6 | [`config`] | the file, and everyone's settings from it |
//! | 7 | [`app`] | wire, bind, run, stop |
//! | 8 | [`doctor`] | what works, what does not, and what to do about it |
//! | 8 | [`demo`] | a provider, an API and a tour on loopback |
//! | 9 | [`cli`] | what a person types |
//!
//! # Invariants, including what is absent
//!
//! - `route` never sees a token, and a request never chooses an upstream's scheme, host or port.
//! - Requests never fetch tokens: one owner task per profile does, on the control plane.
//! - A request never leaves the worker thread that accepted it, and takes no lock shared with another.
//! - Nothing but `config` knows YAML; nothing but `proxy::fault` turns a failure into a response.
//! - A secret's plain text leaves through `Secret::expose` and nowhere else.

pub mod accepting;
pub mod admin;
pub mod app;
pub mod body;
pub mod caller;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod export;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod listen;
pub mod outbound;
pub mod profile;
pub mod proxy;
pub mod replay;
pub mod route;
pub mod secret;
pub mod source;
pub mod telemetry;
pub mod token;
pub mod upstream;
