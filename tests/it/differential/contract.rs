//! What Keybearer promises of every request that it forwards, read from the bytes.

use crate::differential::recorder::{Recorded, chunked};

/// Fields that belong to one connection (RFC 9110 §7.6.1), and that this gateway has no use for.
const HOP_BY_HOP: [&str; 5] =
    ["keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "trailer"];

/// What is broken in `request`, if anything. `host` is the upstream's authority.
pub(crate) fn broken(request: &Recorded, host: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let mut demand = |holds: bool, what: &str| {
        if !holds {
            broken.push(what.to_owned());
        }
    };
    demand(is_plain(&request.head), "a control character, a bare CR or LF, or a folded line");
    let text = String::from_utf8_lossy(&request.head);
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let parts: Vec<&str> = line.split(' ').collect();
    demand(parts.len() == 3 && parts[2] == "HTTP/1.1", "the request line");
    let target = parts.get(1).copied().unwrap_or_default();
    demand(target.starts_with("/v1") && target.is_ascii(), "the target");
    demand(!target.contains("never"), "a request that was hidden in another one's body");
    let fields: Vec<(String, &str)> = lines
        .filter(|line| !line.is_empty())
        .map(|line| line.split_once(':').unwrap_or((line, "")))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
        .collect();
    let values = |wanted: &str| -> Vec<&str> {
        fields.iter().filter(|(name, _)| name == wanted).map(|(_, value)| *value).collect()
    };
    demand(fields.iter().all(|(name, _)| is_token(name)), "a header name");
    demand(values("host") == [host], "exactly one Host, the upstream's");
    let ours = |value: &&str| value.starts_with("Bearer ") && !value.contains("theirs");
    let authorization = values("authorization");
    demand(authorization.len() == 1 && authorization.iter().all(ours), "exactly one Authorization, ours");
    demand(
        !text.contains("theirs") || values("x-a") == ["b%0d%0aAuthorization: Bearer theirs"],
        "a credential",
    );
    for name in HOP_BY_HOP {
        demand(values(name).is_empty(), &format!("the hop-by-hop field {name}"));
    }
    let ours_to_say = match (values("connection").as_slice(), values("te").as_slice()) {
        ([], []) => values("upgrade").is_empty(),
        (["TE"], ["trailers"]) => values("upgrade").is_empty(),
        (["Upgrade"], []) => values("upgrade") == ["websocket"] && parts[0] == "GET",
        _ => false,
    };
    demand(ours_to_say, "Connection, TE or Upgrade as the gateway never says them");
    demand(values("upgrade").is_empty() || request.framed.is_empty(), "an upgrade with a body");
    demand(fields.iter().all(|(name, _)| !name.contains('_')), "a name with an underscore");
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    demand(lengths.len() + codings.len() <= 1, "more than one length");
    demand(codings.iter().all(|coding| *coding == "chunked"), "an odd Transfer-Encoding");
    if !codings.is_empty() && !request.is_cut {
        let end = chunked(&request.framed).map(|(_, end)| end);
        demand(end == Some(request.framed.len()), "chunks, or extensions or trailers in them");
    }
    if let Some(length) = lengths.first() {
        demand(length.bytes().all(|b| b.is_ascii_digit()), "a Content-Length that is no number");
    }
    broken
}

/// Lines end in CR LF, none is folded, and there is no other control character but a tab in a value.
fn is_plain(head: &[u8]) -> bool {
    let Some(lines) = head.strip_suffix(b"\r\n\r\n") else { return false };
    let text = lines.escape_ascii().to_string().replace("\\r\\n", "\n");
    let escapes = text.replace("\\\\", "").replace("\\'", "").replace("\\\"", "").replace("\\t", "");
    let is_control = |code: &str| u8::from_str_radix(code, 16).is_ok_and(|code| code < 0x20 || code == 0x7f);
    !escapes.contains("\n ")
        && !escapes.contains("\\r")
        && !escapes.contains("\\n")
        && !escapes.split("\\x").skip(1).any(|rest| rest.get(..2).is_some_and(is_control))
}

fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
