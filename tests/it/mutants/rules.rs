//! Judges a request by RFC 9112 as it is written, and by the stricter choice where it leaves one.

/// What is to become of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It must not be forwarded, at least not to its end, and nothing is read behind it.
    Refuse(&'static str),
    /// It may be, like this.
    Forward { target: String, body: Vec<u8> },
    /// Its end has not come.
    Incomplete,
}

use Verdict::{Forward, Incomplete, Refuse};

struct Head {
    target: String,
    is_http_1_0: bool,
    fields: Vec<(String, Vec<u8>)>,
}

impl Head {
    fn values(&self, wanted: &str) -> Vec<&[u8]> {
        self.fields.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_slice()).collect()
    }
}

/// What `bytes` on one connection are: requests, and what ends them.
pub(crate) fn meant(mut bytes: &[u8]) -> Vec<Verdict> {
    let mut all = Vec::new();
    loop {
        // §2.2: empty lines before a request are nothing.
        while let Some(rest) = bytes.strip_prefix(b"\r\n") {
            bytes = rest;
        }
        if bytes.is_empty() {
            return all;
        }
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        // A line that ends otherwise, or a request that is none, needs no end to be refused.
        let head = head(&bytes[..end.map_or(bytes.len(), |end| end + 2)]);
        let (verdict, rest) = match (head, end) {
            (Err(why), _) => (Refuse(why), None),
            (Ok(_), None) => (Incomplete, None),
            (Ok(head), Some(end)) => {
                let (body, rest) = body(&head, &bytes[end + 4..]);
                match body {
                    Ok(body) => (Forward { target: head.target, body }, rest.filter(|_| !head.is_http_1_0)),
                    Err(why) => (why, None),
                }
            }
        };
        all.push(verdict);
        match rest {
            Some(rest) => bytes = rest,
            None => return all,
        }
    }
}

type Body<'b> = (Result<Vec<u8>, Verdict>, Option<&'b [u8]>);

/// §6.3, and what is behind the body.
fn body<'b>(head: &Head, bytes: &'b [u8]) -> Body<'b> {
    let refused = |why| (Err(Refuse(why)), None);
    match (head.values("transfer-encoding").as_slice(), head.values("content-length").as_slice()) {
        ([], []) => (Ok(Vec::new()), Some(bytes)),
        // §6.1
        ([_, ..], _) if head.is_http_1_0 => refused("a coding in HTTP/1.0"),
        ([_, ..], [_, ..]) => refused("both a length and a coding"),
        ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") => data(bytes),
        ([_, ..], []) => refused("a coding that is not just chunked"),
        ([], [length]) => match number(length).map(usize::try_from) {
            Some(Ok(length)) => match bytes.split_at_checked(length) {
                Some((body, rest)) => (Ok(body.to_vec()), Some(rest)),
                None => (Err(Incomplete), None),
            },
            _ => refused("a length that is no number"),
        },
        ([], [_, ..]) => refused("more than one length"),
    }
}

fn head(lines: &[u8]) -> Result<Head, &'static str> {
    let mut fields = Vec::new();
    let mut line_one = None;
    for line in lines.strip_suffix(b"\r\n").unwrap_or(lines).split(|byte| *byte == b'\n') {
        let line = match line.strip_suffix(b"\r") {
            Some(line) => line,
            None if lines.ends_with(line) || lines[..lines.len() - 2].ends_with(line) => line,
            None => return Err("a bare line feed"),
        };
        if has_control(line) {
            return Err("a control character");
        }
        match line_one {
            None => line_one = Some(request_line(line)?),
            Some(_) => fields.push(field(line)?),
        }
    }
    let (target, is_http_1_0) = line_one.ok_or("no request line")?;
    let head = Head { target, is_http_1_0, fields };
    // §3.2
    match head.values("host").as_slice() {
        [host] if is_host(host) => Ok(head),
        _ => Err("not exactly one Host"),
    }
}

/// §3: the target, and whether it is of HTTP/1.0.
fn request_line(line: &[u8]) -> Result<(String, bool), &'static str> {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("a request line that is not three words");
    };
    match () {
        () if !is_token(method) => Err("a method that is no token"),
        () if !target.starts_with(b"/") || !target.iter().all(u8::is_ascii_graphic) => Err("a target"),
        () if version != b"HTTP/1.0" && version != b"HTTP/1.1" => Err("a version"),
        () => Ok((String::from_utf8_lossy(target).into_owned(), version == b"HTTP/1.0")),
    }
}

/// §5: the name and the value, without the whitespace around it.
fn field(line: &[u8]) -> Result<(String, Vec<u8>), &'static str> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or("a field without a colon")?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if !is_token(name) {
        return Err("a field name that is no token");
    }
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    Ok((name, value.trim_ascii().to_vec()))
}

/// §7.1, without extensions: no edit makes a whole one.
fn data(mut body: &[u8]) -> Body<'_> {
    let refused = |why| (Err(Refuse(why)), None);
    let mut data = Vec::new();
    loop {
        let digits = body.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (size, rest) = body.split_at(digits);
        body = match rest {
            [_, ..] if digits == 0 => return refused("a chunk size without a digit"),
            [] | [b'\r'] => return (Err(Incomplete), None),
            [b'\r', b'\n', rest @ ..] => rest,
            _ => return refused("a chunk size"),
        };
        let size = std::str::from_utf8(size).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let Some(size) = size else { return refused("a chunk size beyond all measure") };
        if size == 0 {
            return last(body, data);
        }
        let Some((chunk, rest)) = body.split_at_checked(size) else { return (Err(Incomplete), None) };
        data.extend_from_slice(chunk);
        body = match rest {
            [] | [b'\r'] => return (Err(Incomplete), None),
            [b'\r', b'\n', rest @ ..] => rest,
            _ => return refused("no line end behind a chunk"),
        };
    }
}

/// §7.1.2: trailers and the end.
fn last(mut body: &[u8], data: Vec<u8>) -> Body<'_> {
    loop {
        if let Some(rest) = body.strip_prefix(b"\r\n") {
            return (Ok(data), Some(rest));
        }
        let Some(end) = body.iter().position(|byte| *byte == b'\n') else { return (Err(Incomplete), None) };
        let line = body[..end].strip_suffix(b"\r").filter(|line| field(line).is_ok() && !has_control(line));
        if line.is_none() {
            return (Err(Refuse("a trailer")), None);
        }
        body = &body[end + 1..];
    }
}

fn has_control(line: &[u8]) -> bool {
    line.iter().any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f)
}

fn number(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_number)?.parse().ok()
}

/// The hosts that the edits of `a` make.
fn is_host(host: &[u8]) -> bool {
    !host.is_empty()
        && host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%:".contains(byte))
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}
