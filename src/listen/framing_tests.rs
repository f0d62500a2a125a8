//! Heads and chunks, sound and unsound, each with the verdict on it.

use super::*;

fn judged(text: &str) -> Result<BodyLength, Refusal> {
    head(text.as_bytes(), &Limits::default())
}

fn with(fields: &str) -> Result<BodyLength, Refusal> {
    judged(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
}

#[test]
fn the_end_of_a_body_is_told_by_exactly_one_field() {
    assert_eq!(with(""), Ok(BodyLength::None));
    assert_eq!(with("Content-Length: 0\r\n"), Ok(BodyLength::None));
    assert_eq!(with("content-length:  12 \r\n"), Ok(BodyLength::Bytes(12)));
    assert_eq!(with("Transfer-Encoding: Chunked\r\n"), Ok(BodyLength::Chunked));
}

#[test]
fn what_two_readers_could_frame_differently_is_refused() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: \r\n",
        "Content-Length: 9223372036854775808\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: ,chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "X: a\r\n Transfer-Encoding: chunked\r\n",
        "X: a\nY: b\r\n",
        "X: a\rb\r\n",
        "X: a\0b\r\n",
        "X: a\x7fb\r\n",
        ": a\r\n",
        "X\r\n",
        "X Y: a\r\n",
        "X\u{e9}: a\r\n",
        "Upgrade: websocket\r\nContent-Length: 5\r\n",
        "Upgrade: h2c, websocket\r\nContent-Length: 5\r\n",
    ] {
        assert!(with(fields).is_err(), "{fields:?}");
    }
    assert!(judged("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
}

#[test]
fn a_request_line_has_three_parts_and_one_space_between_them() {
    assert!(judged("GET / HTTP/1.0\r\n\r\n").is_ok());
    assert!(judged("GET http://a/b?c=d HTTP/1.1\r\n\r\n").is_ok());
    for line in [
        "GET /",
        "GET  / HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET /a b HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET / HTTP/2.0",
        "GET / HTTP/1.2",
        "GET / http/1.1",
        "GET / HTTP/1.1x",
        "G(T / HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET /#x HTTP/1.1",
        "GET /\0 HTTP/1.1",
        // The library refuses it by itself, without our fault and our record.
        "CONNECT :/0a HTTP/1.1",
        "",
    ] {
        assert!(judged(&format!("{line}\r\nHost: a\r\n\r\n")).is_err(), "{line:?}");
    }
}

#[test]
fn limits_are_named_by_what_is_over_them() {
    let limits = Limits { header_bytes: 100, headers: 3, uri_bytes: 20, ..Limits::default() };
    let check = |text: &str| head(text.as_bytes(), &limits);
    let long = "a".repeat(21);
    assert_eq!(check(&format!("GET /{long} HTTP/1.1\r\n\r\n")), Err(Refusal::UriTooLong));
    let many = "A: 1\r\n".repeat(4);
    assert_eq!(check(&format!("GET / HTTP/1.1\r\n{many}\r\n")), Err(Refusal::HeadersTooLarge));
    let big = "a".repeat(100);
    assert_eq!(check(&format!("GET / HTTP/1.1\r\nA: {big}\r\n\r\n")), Err(Refusal::HeadersTooLarge));
    assert!(check("GET / HTTP/1.1\r\nA: 1\r\n\r\n").is_ok());
    let flood = vec![b'a'; 200];
    assert!(matches!(extent(&flood, 0, &limits), Err(Refusal::Framing(_))), "no method is so long");
    let flood = [b"GET /".as_slice(), &flood].concat();
    assert!(matches!(extent(&flood, 0, &limits), Err(Refusal::UriTooLong)));
    let flood = [b"GET / HTTP/1.1\r\n".as_slice(), &flood].concat();
    assert!(matches!(extent(&flood, 0, &limits), Err(Refusal::HeadersTooLarge)));
}

#[test]
fn a_head_that_comes_in_pieces_is_found_where_it_ends() {
    let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
    let limits = Limits::default();
    for cut in 0..text.len() {
        let seen = match extent(&text[..cut], 0, &limits) {
            Ok(Extent::Partial) => cut,
            Ok(Extent::Complete(end)) => {
                assert_eq!(end, 27);
                continue;
            }
            Err(refusal) => panic!("{refusal:?} at {cut}"),
        };
        assert!(matches!(extent(text, seen, &limits), Ok(Extent::Complete(27))), "{cut}");
    }
    assert!(extent(b"GET / HTTP/1.1\nHost: a\n\n", 0, &limits).is_err());
}

/// Reads `text` in one piece and byte by byte; both must agree.
fn chunked(text: &str) -> Result<usize, Refusal> {
    let whole = {
        let mut chunks = Chunks::new(3);
        chunks.read(text.as_bytes()).map(|used| (used, chunks.is_done()))
    };
    let mut chunks = Chunks::new(3);
    let mut used = 0;
    let mut refusal = None;
    for byte in text.as_bytes().chunks(1) {
        match chunks.read(byte) {
            Ok(n) => used += n,
            Err(error) => {
                refusal = Some(error);
                break;
            }
        }
    }
    match (whole, refusal) {
        (Ok((whole, done)), None) => {
            assert_eq!((whole, done), (used, chunks.is_done()), "{text:?}");
            assert!(done, "{text:?} has not ended");
            Ok(used)
        }
        (Err(error), Some(_)) => Err(error),
        (whole, bytewise) => panic!("{text:?}: {whole:?} in one piece, {bytewise:?} byte by byte"),
    }
}

#[test]
fn chunks_are_read_to_the_end_of_the_trailers_and_no_further() {
    assert_eq!(chunked("0\r\n\r\n"), Ok(5));
    assert_eq!(chunked("5\r\nhello\r\n0\r\n\r\nGET /"), Ok(15));
    assert_eq!(chunked("A\r\n0123456789\r\n0\r\nX: y\r\n\r\n"), Ok(26));
    let extended = "5;a;b=c;d=\"e \\\" f\"\r\nhello\r\n0\r\n\r\n";
    assert_eq!(chunked(extended), Ok(extended.len()));
}

#[test]
fn sloppy_chunks_are_refused() {
    for text in [
        "\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "5_0\r\n",
        "-1\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "ffffffffffffffff\r\n",
        "5;\r\nhello\r\n0\r\n\r\n",
        "5;a=\r\nhello\r\n0\r\n\r\n",
        "5;a b\r\nhello\r\n0\r\n\r\n",
        "5;a \r\nhello\r\n0\r\n\r\n",
        "5;a=\"b\r\nhello\r\n0\r\n\r\n",
        "5;a\x01\r\nhello\r\n0\r\n\r\n",
        "5\rX\r\nhello\r\n0\r\n\r\n",
        "0\r\n folded\r\n\r\n",
        "0\r\nX\r\n\r\n",
        "0\r\nA: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\n\r\n",
    ] {
        assert!(chunked(text).is_err(), "{text:?}");
    }
    let flood = format!("5;{}\r\n", "a".repeat(9000));
    assert!(Chunks::new(3).read(flood.as_bytes()).is_err());
}
