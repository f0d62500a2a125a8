//! Makes requests that are one edit away from a right one.

/// What is put in at every place, and what takes the place of every byte there.
const INSERTED: [&[u8]; 44] = [
    b"\0", b"\x01", b"\x08", b"\t", b"\n", b"\x0b", b"\x0c", b"\r", b"\x1b", b"\x1f", b" ", b"!", b"\"",
    b"#", b"%", b"'", b"(", b"*", b"+", b",", b"-", b".", b"/", b"0", b":", b";", b"=", b"?", b"@", b"A",
    b"[", b"\\", b"_", b"x", b"{", b"|", b"\x7f", b"\x80", b"\x85", b"\xa0", b"\xff", b"\r\n", b"\r\n ",
    b"\n\r",
];
/// A whole request, which is a body as long as framing is not in doubt. It has the other's number.
const HIDDEN: &str = "GET /v1/hidden HTTP/1.1\r\nHost: a\r\nX-Case: 00000\r\n\r\n";
const CODINGS: [&str; 18] = [
    "chunked",
    "Chunked",
    "CHUNKED",
    "chunked ",
    "\tchunked",
    "chunked\t",
    "chunked,",
    ",chunked",
    "chunked, chunked",
    "identity",
    "chunked, identity",
    "identity, chunked",
    "gzip",
    "gzip, chunked",
    "chunked;a=b",
    "\"chunked\"",
    "x",
    "",
];
const LENGTHS: [&str; 16] = [
    "0",
    "5",
    "05",
    "+5",
    "-5",
    "5 ",
    "\t5",
    "5, 5",
    "5,5",
    "0x5",
    "5.0",
    "",
    "5a",
    "18446744073709551616",
    "5 5",
    "٥",
];

/// A request in parts. Each edit is made in one of them.
struct Message {
    line: &'static str,
    fields: Vec<String>,
    body: String,
}

impl Message {
    fn new(fields: &[&str], body: &str) -> Self {
        let fields = fields.iter().map(|&field| field.to_owned()).collect();
        Self { line: "POST /v1/a HTTP/1.1\r\n", fields, body: body.to_owned() }
    }

    fn parts(&self) -> Vec<Vec<u8>> {
        let fields = self.fields.iter().map(|field| format!("{field}\r\n"));
        let parts = std::iter::once(self.line.to_owned()).chain(fields).chain([self.body.clone()]);
        parts.map(String::into_bytes).collect()
    }
}

/// All requests. Each carries its number.
pub(crate) fn all() -> Vec<Vec<u8>> {
    let chunks = format!("5\r\nhello\r\n{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len());
    let behind = format!("0\r\n\r\n{HIDDEN}");
    let length = format!("Content-Length: {}", behind.len());
    let mut made = Vec::new();
    edit_everywhere(
        &mut made,
        &Message::new(&["Host: a", "Transfer-Encoding: chunked"], &chunks),
        &[0, 1, 2, 3],
    );
    edit_everywhere(&mut made, &Message::new(&["Host: a", &length], &behind), &[2]);
    edit_everywhere(
        &mut made,
        &Message::new(&["Host: a", &length, "Transfer-Encoding: chunked"], &behind),
        &[2, 3],
    );
    edit_everywhere(
        &mut made,
        &Message::new(&["Host: a", "Transfer-Encoding: chunked", &length], &behind),
        &[2, 3],
    );
    for version in ["1.0", "1.1", "0.9", "2.0", "1.2"] {
        for method in ["GET", "POST", "HEAD", "DELETE", "OPTIONS"] {
            together(&mut made, &format!("{method} /v1/a HTTP/{version}\r\n"), &behind);
        }
    }
    made
}

/// Edits the parts of `message` that are named, at every place in them.
fn edit_everywhere(made: &mut Vec<Vec<u8>>, message: &Message, parts: &[usize]) {
    let whole = message.parts();
    for &part in parts {
        let text = &whole[part];
        // Behind a body comes what is no part of it any more.
        let places = if part + 1 == whole.len() { 0..text.len() } else { 0..text.len() + 1 };
        for at in places {
            for inserted in INSERTED {
                push(made, &whole, part, [&text[..at], inserted, &text[at..]].concat());
                if let Some(rest) = text.get(at + 1..) {
                    push(made, &whole, part, [&text[..at], inserted, rest].concat());
                }
            }
            if let Some(rest) = text.get(at + 1..) {
                push(made, &whole, part, [&text[..at], rest].concat());
            }
        }
    }
}

/// Every coding with every length, and two of each.
fn together(made: &mut Vec<Vec<u8>>, line: &str, body: &str) {
    let codings = CODINGS.map(|coding| format!("Transfer-Encoding: {coding}"));
    let lengths = LENGTHS.map(|length| format!("Content-Length: {length}"));
    let is_thorough = line.starts_with("POST") && line.contains("1.1");
    for first in codings.iter().chain(&lengths) {
        let seconds = codings.iter().chain(&lengths).filter(|_| is_thorough);
        for second in seconds.map(String::as_str).chain([""]) {
            let fields: Vec<&str> =
                ["Host: a", first, second].into_iter().filter(|f| !f.is_empty()).collect();
            let parts = Message::new(&fields, body).parts();
            push(made, &parts, 0, line.as_bytes().to_vec());
        }
    }
}

/// Puts the request together with `edited` in the place of a part. Its number stands in front of all edits
/// but those of its first line.
fn push(made: &mut Vec<Vec<u8>>, parts: &[Vec<u8>], place: usize, edited: Vec<u8>) {
    let number = format!("X-Case: {:05}\r\n", made.len()).into_bytes();
    let mut parts = parts.to_vec();
    parts[place] = edited;
    parts.insert(parts.len() - 1, b"\r\n".to_vec());
    parts.insert(1, number.clone());
    let mut request = parts.concat();
    if let Some(at) = request.windows(number.len()).rposition(|window| window == b"X-Case: 00000\r\n") {
        request[at..at + number.len()].copy_from_slice(&number);
    }
    made.push(request);
}
