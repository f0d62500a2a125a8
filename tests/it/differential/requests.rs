//! Reads `requests.txt`: its first lines say how requests are written there.

/// One raw request, or what takes its place.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// All requests of the file, in its order.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut is_inside = false;
    for line in include_str!("requests.txt").lines() {
        if line.starts_with("### ") {
            is_inside = false;
        } else if let Some(name) = line.strip_prefix("== ") {
            cases.push(Case { name: name.to_owned(), bytes: Vec::new() });
            is_inside = true;
        } else if is_inside && let Some(case) = cases.last_mut() {
            line_of(line, &mut case.bytes);
        }
    }
    cases
}

fn line_of(line: &str, bytes: &mut Vec<u8>) {
    // An escaped backslash at the end would be an even number of them.
    let backslashes = line.bytes().rev().take_while(|b| *b == b'\\').count();
    match line.strip_suffix('\\') {
        Some(line) if backslashes % 2 == 1 => unescape(line, bytes),
        _ => {
            unescape(line, bytes);
            bytes.extend_from_slice(b"\r\n");
        }
    }
}

fn unescape(text: &str, bytes: &mut Vec<u8>) {
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let (letter, after) = escaped.split_at(1);
        rest = after;
        match letter {
            "r" => bytes.push(b'\r'),
            "n" => bytes.push(b'\n'),
            "t" => bytes.push(b'\t'),
            "s" => bytes.push(b' '),
            "0" => bytes.push(0),
            "\\" => bytes.push(b'\\'),
            "x" => {
                let (digits, after) = rest.split_at(2);
                bytes.push(u8::from_str_radix(digits, 16).expect("two hexadecimal digits"));
                rest = after;
            }
            "{" => {
                let (repeated, after) = rest.split_once('}').expect("a closing brace");
                let (times, what) = repeated.split_once('*').expect("a number, a star and a text");
                let mut once = Vec::new();
                unescape(what, &mut once);
                bytes.extend(once.repeat(times.parse().expect("a number")));
                rest = after;
            }
            other => panic!("\\{other} is no escape: {text}"),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
}
