//! `keybearer demo`: an identity provider, a Web API and the gateway on loopback.
//!
//! The provider and the API are also what the integration tests run against.

pub mod api;
pub mod idp;
pub mod tour;
