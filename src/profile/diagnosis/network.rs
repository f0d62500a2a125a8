//! What the words of the system and the TLS library mean when nobody has answered.

use crate::profile::diagnosis::{Diagnosis, words};

/// The words of a failure, looked for in this order: the first that fits is taken.
const FAILURES: &[(&[&str], Diagnosis)] = &[
    (
        &["Temporary failure in name resolution"],
        words("this machine's DNS does not answer", "check /etc/resolv.conf and the way to the name server"),
    ),
    (
        &["failed to lookup address", "Name or service not known", "dns error", "No address associated"],
        words(
            "the name has no address here: misspelt, or this machine's DNS does not know it",
            "check the host's spelling and the machine's resolver (getent hosts NAME)",
        ),
    ),
    (
        &[
            " cannot be read: ",
            "in PEM form",
            "a certificate in it is damaged",
            "does not belong to the certificate",
        ],
        words(
            "a file with authorities, or with the certificate to show, cannot be used",
            "put the PEM file right, readable by the gateway's user",
        ),
    ),
    (
        &["UnknownIssuer", "unknown issuer", "self-signed", "self signed", "BadSignature"],
        words(
            "TLS: the server's certificate comes from an authority that is not trusted here",
            "a private authority goes into ca: {file: …}; otherwise something between breaks TLS open",
        ),
    ),
    (
        &["certificate expired", "Expired"],
        words(
            "TLS: the server's certificate has expired, or this machine's clock is wrong",
            "compare the clock first; then ask the server's operator for a new certificate",
        ),
    ),
    (
        &["certificate not valid yet", "NotValidYet"],
        words(
            "TLS: the server's certificate is not valid yet: this machine's clock is behind",
            "set the clock (NTP)",
        ),
    ),
    (
        &["not valid for name", "NotValidForName"],
        words(
            "TLS: the server's certificate is for another name",
            "check the host in the URL; a proxy or balancer may answer in its place",
        ),
    ),
    (
        &["certificate revoked", "Revoked"],
        words("TLS: the server's certificate was revoked", "ask the server's operator"),
    ),
    (
        &["InvalidContentType", "corrupt message"],
        words(
            "the port does not speak TLS",
            "check the port, and whether the server is meant to be plain http",
        ),
    ),
    (
        &["CertificateRequired", "certificate required", "BadCertificate", "AccessDenied", "UnknownCA"],
        words(
            "TLS: the server wants a client certificate, or another one than it was shown",
            "give the profile or the upstream the certificate that the server expects",
        ),
    ),
    (
        &["HandshakeFailure", "ProtocolVersion", "handshake eof", "fatal alert", "peer is incompatible"],
        words(
            "TLS: the server ended the handshake: no version or cipher in common, or not its name",
            "the gateway speaks TLS 1.2 and 1.3; look for an old server or an inspecting proxy",
        ),
    ),
    (
        &["CaUsedAsEndEntity"],
        words(
            "TLS: the server shows the certificate of an authority (CA:TRUE) as its own, which is not taken",
            "sign a certificate for the server with it, or make one with basicConstraints=critical,CA:FALSE",
        ),
    ),
    (
        &["invalid peer certificate", "invalid certificate"],
        words("TLS: the server's certificate cannot be used", "ask the server's operator"),
    ),
    (
        &["proxy authorization required"],
        words(
            "the outbound proxy wants a login of its own",
            "put user and password into HTTPS_PROXY of the gateway's environment, or let its address through",
        ),
    ),
    (
        &["unsuccessful tunnel", "tunnel", "proxy"],
        words(
            "the outbound proxy did not open the way",
            "check HTTPS_PROXY or proxy:, and whether the proxy allows this host",
        ),
    ),
    (
        &["onnection refused"],
        words(
            "the host is there, but nothing listens on the port",
            "check the port, and whether the server runs",
        ),
    ),
    (
        &[
            "reset by peer",
            "onnection reset",
            "closed before",
            "roken pipe",
            "unexpected end",
            "IncompleteMessage",
        ],
        words(
            "the connection was cut in the middle: by the server, a balancer or a firewall",
            "try again; if it stays, see whether the gateway's address is allowed",
        ),
    ),
    (
        &["etwork is unreachable", "No route to host", "etwork unreachable", "Host is unreachable"],
        words(
            "this machine has no way to the address",
            "check routes and firewall; with an IPv6 address, whether IPv6 works here",
        ),
    ),
    (
        &["timed out", "deadline", "no connection within"],
        words(
            "nobody answered in time: a firewall that drops packets, or a host that is down",
            "see whether the gateway may connect to host and port, or needs an outbound proxy",
        ),
    ),
    (
        &["answered HTTP 4"],
        words(
            "there is no metadata at the issuer's well-known addresses",
            "check issuer:, or write token_url instead",
        ),
    ),
];

/// The words for a failure of DNS, TCP, TLS or a proxy, from what the system or the TLS library said.
pub fn of_network(reason: &str) -> Diagnosis {
    let fits = |signs: &[&str]| signs.iter().any(|sign| reason.contains(sign));
    FAILURES.iter().find(|(signs, _)| fits(signs)).map_or(
        words("the server cannot be reached", "try to reach it from this machine by other means"),
        |(_, diagnosis)| *diagnosis,
    )
}
