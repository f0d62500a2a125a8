//! Strict reading of HTTP/1.1 framing (RFC 9112), ahead of the HTTP library.
//!
//! Where two readers could disagree about where a request ends, the request is refused: both lengths,
//! odd transfer codings, folded lines, bare line feeds, control bytes, sloppy chunk sizes. This file
//! only judges bytes; it changes none and keeps none.

use std::sync::LazyLock;

use memchr::{memchr, memmem};

use crate::listen::Limits;

/// What is wrong with a head or a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Framing(&'static str),
    HeadersTooLarge,
    UriTooLong,
}

use Refusal::Framing as F;

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLength {
    None,
    Bytes(u64),
    Chunked,
}

/// How much of a head is there.
pub(crate) enum Extent {
    /// It ends after so many bytes.
    Complete(usize),
    Partial,
}

/// Looks for the end of the head at the front of `bytes`, of which the first `seen` held none.
pub(crate) fn extent(bytes: &[u8], seen: usize, limits: &Limits) -> Result<Extent, Refusal> {
    static END: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(b"\r\n\r\n"));
    let from = seen.saturating_sub(3);
    let unseen = bytes.get(from..).unwrap_or_default();
    if let Some(at) = END.find(unseen) {
        return Ok(Extent::Complete(from + at + 4));
    }
    // A sender of bare line feeds would otherwise wait for its answer until the time limit.
    for at in memchr::memchr_iter(b'\n', unseen) {
        let before = (from + at).checked_sub(1).and_then(|i| bytes.get(i));
        if before != Some(&b'\r') {
            return Err(F("a line ends in a bare line feed"));
        }
    }
    if memchr(b'\n', bytes).is_none() && bytes.len() > limits.uri_bytes.saturating_add(64) {
        let has_method = memchr(b' ', bytes.get(..64).unwrap_or(bytes)).is_some();
        return Err(if has_method { Refusal::UriTooLong } else { F("no method is so long") });
    }
    if bytes.len() > limits.uri_bytes.saturating_add(limits.header_bytes) {
        return Err(Refusal::HeadersTooLarge);
    }
    Ok(Extent::Partial)
}

/// Judges a complete head, its final empty line included.
pub(crate) fn head(bytes: &[u8], limits: &Limits) -> Result<BodyLength, Refusal> {
    let mut lines = Lines(bytes);
    let line = lines.next().ok_or(F("the request line is missing"))??;
    let is_11 = request_line(line, limits)?;
    if bytes.len().saturating_sub(line.len() + 4) > limits.header_bytes {
        return Err(Refusal::HeadersTooLarge);
    }
    let mut framing = Framing::default();
    let mut count = 0;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        count += 1;
        let (name, value) = field(line)?;
        // The HTTP library knows no longer name, and would refuse it without our words.
        if count > limits.headers || name.len() > usize::from(u16::MAX) {
            return Err(Refusal::HeadersTooLarge);
        }
        framing.take(name, value)?;
    }
    framing.decide(is_11)
}

/// The lines of a head, without their ends.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8], Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        let end = memchr(b'\n', self.0)?;
        let (line, rest) = self.0.split_at_checked(end + 1)?;
        self.0 = rest;
        Some(line.strip_suffix(b"\r\n").ok_or(F("a line ends in a bare line feed")))
    }
}

/// `method SP target SP HTTP/1.x`, nothing more and nothing less (RFC 9112 §3). True for HTTP/1.1.
fn request_line(line: &[u8], limits: &Limits) -> Result<bool, Refusal> {
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(F("the request line is not method, target and version with one space between"));
    };
    if method.is_empty() || !method.iter().all(|b| is_token(*b)) {
        return Err(F("the method holds characters that no method holds"));
    }
    if target.len() > limits.uri_bytes {
        return Err(Refusal::UriTooLong);
    }
    // Nearly every target is plain; what is not is shown to the library that will have to read it.
    if target.first() != Some(&b'/') || !target.iter().all(|b| is_plain(*b)) {
        if target.is_empty() || !target.iter().all(|b| b.is_ascii_graphic() && *b != b'#') {
            return Err(F("the request target holds characters that no target holds"));
        }
        if http::Uri::try_from(target).is_err() {
            return Err(F("the request target is no path and no URL"));
        }
    }
    match version {
        b"HTTP/1.1" => Ok(true),
        b"HTTP/1.0" => Ok(false),
        _ => Err(F("the version is not HTTP/1.1 or HTTP/1.0")),
    }
}

/// `name ":" value` (RFC 9112 §5).
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(F("a header line is folded"));
    }
    let colon = memchr(b':', line).ok_or(F("a header line has no colon"))?;
    let (name, value) = line.split_at_checked(colon).ok_or(F("a header line has no colon"))?;
    if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
        return Err(F("a header name is empty or holds characters that no name holds"));
    }
    let value = value.get(1..).unwrap_or_default();
    // Not `all`: values are short, and looking at every byte goes several at a time.
    if !value.iter().fold(true, |sound, b| sound & ((*b == b'\t') | ((*b >= b' ') & (*b != 0x7f)))) {
        return Err(F("a header value holds a control character"));
    }
    Ok((name, value.trim_ascii()))
}

/// The fields that say where the body ends.
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    is_chunked: bool,
    upgrades: bool,
}

impl Framing {
    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        // By length first: nearly every field is none of these.
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return Err(F("there is more than one Content-Length"));
                }
                self.length = Some(digits(value).ok_or(F("the Content-Length is no number"))?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(F("the Transfer-Encoding is not exactly one \"chunked\""));
                }
                self.is_chunked = true;
            }
            // An offer of h2c is never taken up nor passed on, so what follows the head is its body.
            // Java's HttpClient makes the offer with its first request, whatever that is.
            7 if name.eq_ignore_ascii_case(b"upgrade") && !value.eq_ignore_ascii_case(b"h2c") => {
                self.upgrades = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn decide(&self, is_11: bool) -> Result<BodyLength, Refusal> {
        let length = match (self.is_chunked, self.length) {
            (true, Some(_)) => return Err(F("there are both Content-Length and Transfer-Encoding")),
            (true, None) if !is_11 => return Err(F("HTTP/1.0 knows no Transfer-Encoding")),
            (true, None) => BodyLength::Chunked,
            (false, None | Some(0)) => BodyLength::None,
            (false, Some(length)) => BodyLength::Bytes(length),
        };
        if self.upgrades && length != BodyLength::None {
            return Err(F("a request that asks for an upgrade has a body"));
        }
        Ok(length)
    }
}

/// At most 2^63: a larger length overflows somewhere along the way.
fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok().filter(|n| *n <= i64::MAX as u64)
}

/// What a target may hold without a second look.
fn is_plain(b: u8) -> bool {
    b.is_ascii_graphic() && !matches!(b, b'"' | b'#' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
}

/// RFC 9110 §5.6.2.
fn is_token(b: u8) -> bool {
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let mut b = 0usize;
        while b < 128 {
            let c = b as u8;
            let mark = matches!(
                c,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
            #[expect(clippy::indexing_slicing, reason = "the index is below the table's length")]
            {
                table[b] = mark || c.is_ascii_alphanumeric();
            }
            b += 1;
        }
        table
    };
    TABLE.get(usize::from(b)).copied().unwrap_or(false)
}

/// Chunk extensions and trailers are read up to here, all of a request's together.
const CHUNK_EXTRAS_MAX: usize = 8 * 1024;

/// Where a reader is inside a chunked body (RFC 9112 §7.1).
#[derive(Debug)]
pub(crate) struct Chunks {
    state: Chunk,
    /// The line that is being collected: a chunk's size with its extensions, or a trailer.
    line: Vec<u8>,
    extras: usize,
    /// The library counts trailers as it counts fields.
    trailers_left: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    Size,
    Data(u64),
    DataEnd(u8),
    Trailer,
    Done,
}

impl Chunks {
    /// At the beginning of a body that ends in no more than `trailers_max` trailers.
    pub(crate) fn new(trailers_max: usize) -> Self {
        Self { state: Chunk::Size, line: Vec::new(), extras: 0, trailers_left: trailers_max }
    }

    /// Reads on through `bytes`. Gives how many belong to the body; fewer than all when it has ended.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let mut rest = bytes;
        while !rest.is_empty() && self.state != Chunk::Done {
            let used = match self.state {
                Chunk::Data(left) => {
                    let used = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - used as u64;
                    self.state = if left == 0 { Chunk::DataEnd(b'\r') } else { Chunk::Data(left) };
                    used
                }
                Chunk::DataEnd(expected) => {
                    if rest.first() != Some(&expected) {
                        return Err(F("a chunk is longer than its size says"));
                    }
                    self.state = if expected == b'\r' { Chunk::DataEnd(b'\n') } else { Chunk::Size };
                    1
                }
                Chunk::Size | Chunk::Trailer => self.collect(rest)?,
                Chunk::Done => 0,
            };
            rest = rest.get(used..).unwrap_or_default();
        }
        Ok(bytes.len() - rest.len())
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == Chunk::Done
    }

    /// Collects a line; judges it when it is complete.
    fn collect(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let end = memchr(b'\n', bytes);
        let used = end.map_or(bytes.len(), |at| at + 1);
        self.line.extend_from_slice(bytes.get(..used).unwrap_or_default());
        if self.line.len() > CHUNK_EXTRAS_MAX {
            return Err(F("a chunk's extensions or the trailers are too long"));
        }
        if end.is_some() {
            let line = std::mem::take(&mut self.line);
            let line = line.strip_suffix(b"\r\n").ok_or(F("a chunk line ends in a bare line feed"))?;
            self.state = self.judge(line)?;
        } else if self.state == Chunk::Size && !self.line.iter().all(|b| *b >= b' ' || *b == b'\r') {
            return Err(F("a chunk size holds a control character"));
        }
        Ok(used)
    }

    fn judge(&mut self, line: &[u8]) -> Result<Chunk, Refusal> {
        if self.state == Chunk::Trailer {
            if line.is_empty() {
                return Ok(Chunk::Done);
            }
            field(line)?;
            self.spend(line.len())?;
            let left = self.trailers_left.checked_sub(1);
            self.trailers_left = left.ok_or(F("there are more trailers than a request may have fields"))?;
            return Ok(Chunk::Trailer);
        }
        let end = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
        let (size, extensions) = line.split_at_checked(end).ok_or(F("a chunk has no size"))?;
        if size.is_empty() || size.len() > 15 {
            return Err(F("a chunk size is no hexadecimal number, or too large"));
        }
        extensions_of(extensions)?;
        self.spend(extensions.len())?;
        let size = std::str::from_utf8(size).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
        match size.ok_or(F("a chunk size is no hexadecimal number, or too large"))? {
            0 => Ok(Chunk::Trailer),
            size => Ok(Chunk::Data(size)),
        }
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.extras += bytes;
        if self.extras > CHUNK_EXTRAS_MAX {
            return Err(F("a chunk's extensions or the trailers are too long"));
        }
        Ok(())
    }
}

/// `*( ";" name [ "=" ( token / quoted-string ) ] )` (RFC 9112 §7.1.1), without the white space that
/// the grammar calls bad.
fn extensions_of(mut text: &[u8]) -> Result<(), Refusal> {
    const BAD: Refusal = F("a chunk extension is malformed");
    while !text.is_empty() {
        text = text.strip_prefix(b";").ok_or(BAD)?;
        text = token(text).ok_or(BAD)?;
        let Some(value) = text.strip_prefix(b"=") else { continue };
        text = match value.strip_prefix(b"\"") {
            Some(quoted) => quoted_string(quoted).ok_or(BAD)?,
            None => token(value).ok_or(BAD)?,
        };
    }
    Ok(())
}

/// What follows a token of at least one character.
fn token(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|b| !is_token(*b)).unwrap_or(text.len());
    if end == 0 { None } else { text.get(end..) }
}

/// What follows the closing quote.
fn quoted_string(text: &[u8]) -> Option<&[u8]> {
    let mut bytes = text.iter().enumerate();
    loop {
        match bytes.next()? {
            (at, b'"') => return text.get(at + 1..),
            (_, b'\\') => {
                bytes.next().filter(|(_, b)| **b >= b' ' && **b != 0x7f)?;
            }
            (_, b) if *b < b' ' || *b == 0x7f => return None,
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
