//! The real gateway, in process on free ports, with the demo's identity provider and Web API.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    reason = "a test may stop at once, and say why"
)]

mod addresses; // names of upstreams with several addresses, or other ones than before
mod admin_api; // reading and changing a running gateway
mod admin_crowds; // too many and too slow connections to the admin listener
mod attacks; // hostile callers and hostile upstreams
mod attacks2; // the order and the bounds of connections
mod authority; // certificates, and callers that speak TLS
mod authorization_server; // npm's oidc-provider, a server nobody here wrote
mod frames; // a caller that writes HTTP/2 frame by frame
mod front; // a gateway with a TLS listener as well, and raw peers
mod hints;
mod hostile; // an upstream and callers that write raw bytes
mod judge; // an upstream that answers as a test's function says
mod peer; // upstreams that speak TLS and HTTP/2
mod process; // starts the binary as an operator would
mod programs; // callers and servers in other languages, started and spoken to
mod stage; // starts gateway, provider and API; sends requests
mod terminal; // a terminal with the binary in it
mod vaults; // servers that keep secrets

mod accidents; // what happens to secrets in practice, and what is said about it
mod bodies; // bodies over HTTP/2 in short pieces, and such as break off
mod callers; // who is connected now
mod clients; // callers that nobody here wrote: curl, Python, Node, Java
mod commands; // the binary: check, explain, token, run, exit codes
mod contract; // the safety contract of docs/security.md, one test each
mod counters; // what is counted, and under which words
mod crowds; // too many connections, too few files
mod dependencies; // versions and sources of what the program is built from
mod diagnosis; // what is told about a profile that works, or does not
mod differential; // the same bytes to Keybearer and to nginx
mod docs; // what the documentation says, tried
mod doctor; // keybearer doctor: each step, each failure in words
mod dpop; // tokens that are bound to a key
mod drain; // stopping under load
mod endings; // switches that end by themselves, and those that a restart keeps
mod entra; // B2C's policies, and claims with every token request
mod floods; // callers of HTTP/2 that want to cost as much as they can
mod forwarding; // what reaches the upstream, and what comes back
mod grants; // assertions and foreign tokens that are traded, and what is answered
mod grpc; // gRPC with its own library on both sides
mod http2; // tricks with the header and the framing of HTTP/2
mod http2_rules; // every rule of HTTP/2 for servers, broken once
mod init; // a first configuration, by flags and by answers
mod keys; // credentials that lie in their source, alone and together
mod layers; // the ladder of modules
mod listeners; // TLS and unix sockets: who gets in, and with which certificate
mod logs; // access lines and metrics, and what never gets into them
mod managed_identity; // the gateway on a pretended Azure machine
mod metrics;
mod microsoft; // MSAL and azure-identity against the demo's provider
mod moves; // listeners that a reload gives other names, addresses and permissions
mod mutants; // requests that are one edit away from a right one
mod operating; // commands that speak to a running gateway
mod outbound; // proxies and certificate authorities towards identity providers
mod packages; // what deploy/ ships, tried with the tools that read it
mod proofs; // accounts that prove themselves by certificates and by tokens of others
mod readers; // callers that read slowly
mod real_proofs; // every way of client authentication against oidc-provider, and bound tokens
mod real_server; // the gateway against oidc-provider, curl in front
mod recovery; // what becomes of an upstream's 401
mod refusals; // bad requests: the answer, and that nothing reaches the upstream
mod reload; // another configuration while everything runs
mod schedules; // both sides in pieces, at odd moments, and not always to the end
mod schemathesis; // the API against its own document
mod service; // what systemd is told, and restarts that no caller notices
mod sources; // where secrets are kept, and what becomes of new, broken and second ones
mod stalled;
mod status_page;
mod storms; // many requests at once
mod streams; // answers that arrive bit by bit: events, early hints
mod switches; // other accounts while the gateway serves
mod tails; // the end of an answer that the caller takes late
mod tokens; // what the identity provider does, and what callers see of it
mod traces;
mod uploads; // bodies, large and interrupted
mod upstreams; // connections to upstreams: HTTP/2, TLS, sharing, ends
mod waits; // whose time runs: the caller's, the upstream's, never a neighbour's
mod websocket; // upgraded connections, over HTTP/1.1 and HTTP/2
mod words; // what is said to an operator who has mistyped something
