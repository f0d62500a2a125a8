//! One canonical reading of a request's path, and the ways in which it could be read otherwise.
//!
//! A token must not go where the route's prefix does not reach. An origin decides that after its own
//! decoding, so every path that origins are known to read in more than one way is named here as a
//! [`Flaw`]; what the gateway does about it is the route's [`Check`]. The canonical path serves for
//! matching and is what is sent.
//!
//! It does not repair: dot segments are not removed, slashes are not merged. It knows no query.

use std::borrow::Cow;
use std::fmt;

/// A path as the gateway understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading<'a> {
    /// The canonical path: escapes of unreserved characters are decoded, the hexadecimal digits of the
    /// others are upper case (RFC 3986 §6.2.2). A path with [`Flaw::BadEscape`] has no canonical form
    /// and stays as it came.
    pub path: Cow<'a, str>,
    /// Every way in which an origin could read the path otherwise.
    pub flaws: Flaws,
}

impl Reading<'_> {
    /// The gravest flaw that `check` does not put up with; `None` when the path may pass.
    pub fn refused_by(&self, check: Check) -> Option<Flaw> {
        self.flaws.iter().find(|flaw| match check {
            Check::Strict => true,
            Check::Lenient => !matches!(flaw, Flaw::EncodedSlash | Flaw::EmptySegment),
        })
    }
}

/// How much ambiguity a route accepts in a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Check {
    /// No flaw at all.
    #[default]
    Strict,
    /// `%2f` and empty segments may pass, as some APIs need them; a dot segment behind them may not.
    Lenient,
}

/// One way in which an origin could read a path otherwise, gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    /// A segment that is `.` or `..`, also once or twice percent-decoded, between any separators.
    /// Further dots and spaces do not hide it, because Windows drops them.
    DotSegment,
    /// A segment that becomes `.` or `..` when its parameters are cut off at `;`.
    SemicolonDot,
    /// `%00`, or the octet itself.
    Nul,
    /// A control character (0x01 to 0x1f, 0x7f), plain or percent-encoded.
    Control,
    /// `\`, which some origins take for `/`.
    Backslash,
    /// `%5c`.
    EncodedBackslash,
    /// `%25` in front of digits that a second decoding turns into `. / \ % ;` or a control character.
    DoubleEncoded,
    /// `%` without two hexadecimal digits behind it (RFC 3986 §2.1).
    BadEscape,
    /// Percent-decoded, once or twice, the path is not UTF-8. Overlong encodings of `.` and `/` are here.
    InvalidUtf8,
    /// A character that best-fit or compatibility mappings turn into `.`, `/`, `\`, `%` or `;`.
    LookAlike,
    /// An octet of 0x80 or above that is not percent-encoded (RFC 3986 §2).
    NonAscii,
    /// `%2f`.
    EncodedSlash,
    /// `//`.
    EmptySegment,
    /// No `/` at the start, as in `*` (RFC 9112 §3.2.4).
    Relative,
}

impl Flaw {
    const ALL: [Flaw; 14] = [
        Flaw::DotSegment,
        Flaw::SemicolonDot,
        Flaw::Nul,
        Flaw::Control,
        Flaw::Backslash,
        Flaw::EncodedBackslash,
        Flaw::DoubleEncoded,
        Flaw::BadEscape,
        Flaw::InvalidUtf8,
        Flaw::LookAlike,
        Flaw::NonAscii,
        Flaw::EncodedSlash,
        Flaw::EmptySegment,
        Flaw::Relative,
    ];

    fn bit(self) -> u16 {
        1 << self as u16
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Flaw::DotSegment => "a dot segment (\".\" or \"..\", plain or encoded)",
            Flaw::SemicolonDot => "a dot segment in front of \";\"",
            Flaw::Nul => "a NUL character (\"%00\")",
            Flaw::Control => "a control character",
            Flaw::Backslash => "a backslash",
            Flaw::EncodedBackslash => "an encoded backslash (\"%5c\")",
            Flaw::DoubleEncoded => "a doubly encoded character (\"%25..\")",
            Flaw::BadEscape => "a \"%\" without two hexadecimal digits",
            Flaw::InvalidUtf8 => "percent-encoded octets that are not UTF-8",
            Flaw::LookAlike => "a look-alike of \".\", \"/\", \"\\\", \"%\" or \";\"",
            Flaw::NonAscii => "a non-ASCII character that is not percent-encoded",
            Flaw::EncodedSlash => "an encoded slash (\"%2f\")",
            Flaw::EmptySegment => "an empty segment (\"//\")",
            Flaw::Relative => "no \"/\" at its start",
        })
    }
}

/// A set of [`Flaw`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flaws(u16);

impl Flaws {
    /// Whether the path can be read in one way only.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `flaw` was found.
    pub fn contains(self, flaw: Flaw) -> bool {
        self.0 & flaw.bit() != 0
    }

    /// The flaws that were found, gravest first.
    pub fn iter(self) -> impl Iterator<Item = Flaw> {
        Flaw::ALL.into_iter().filter(move |flaw| self.contains(*flaw))
    }

    fn insert(&mut self, flaw: Flaw) {
        self.0 |= flaw.bit();
    }

    fn insert_if(&mut self, condition: bool, flaw: Flaw) {
        if condition {
            self.insert(flaw);
        }
    }
}

/// Reads `raw`, the path of a request target without its query. Allocates only when there is something
/// to decode.
pub fn read(raw: &str) -> Reading<'_> {
    if is_plain(raw) {
        return Reading { path: Cow::Borrowed(raw), flaws: Flaws::default() };
    }
    let mut flaws = Flaws::default();
    flaws.insert_if(!raw.starts_with('/'), Flaw::Relative);
    flaws.insert_if(raw.contains("//"), Flaw::EmptySegment);
    flaws.insert_if(raw.contains('\\'), Flaw::Backslash);
    flaws.insert_if(!raw.is_ascii(), Flaw::NonAscii);
    flaws.insert_if(raw.contains('\0'), Flaw::Nul);
    flaws.insert_if(raw.bytes().any(is_control), Flaw::Control);
    let path = canonical(raw, &mut flaws);
    inspect_decoded(raw.as_bytes(), &mut flaws);
    Reading { path, flaws }
}

/// Whether one look at each octet suffices: nothing to decode and nothing that could be a flaw.
fn is_plain(raw: &str) -> bool {
    let mut after_slash = false;
    for octet in raw.bytes() {
        match octet {
            b'/' | b'.' if after_slash => return false,
            b'%' | b'\\' | b';' | 0..=0x1f | 0x7f.. => return false,
            _ => after_slash = octet == b'/',
        }
    }
    raw.starts_with('/')
}

/// The canonical path, and the flaws that show in its escapes.
fn canonical<'a>(raw: &'a str, flaws: &mut Flaws) -> Cow<'a, str> {
    let mut pieces = raw.split('%');
    let start = pieces.next().unwrap_or_default();
    if start.len() == raw.len() {
        return Cow::Borrowed(raw);
    }
    let mut path = String::with_capacity(raw.len());
    path.push_str(start);
    for piece in pieces {
        let Some((octet, rest)) = escape(piece) else {
            // Decoding around a stray "%" could form an escape which was not there.
            flaws.insert(Flaw::BadEscape);
            continue;
        };
        match octet {
            b'/' => flaws.insert(Flaw::EncodedSlash),
            b'\\' => flaws.insert(Flaw::EncodedBackslash),
            0 => flaws.insert(Flaw::Nul),
            octet => flaws.insert_if(is_control(octet), Flaw::Control),
        }
        if is_unreserved(octet) {
            path.push(char::from(octet));
        } else {
            path.push('%');
            path.extend([hex_digit(octet >> 4), hex_digit(octet & 0xf)]);
        }
        path.push_str(rest);
    }
    if flaws.contains(Flaw::BadEscape) { Cow::Borrowed(raw) } else { Cow::Owned(path) }
}

/// The flaws that show only in what an origin sees after decoding once or twice. Twice is enough: what
/// has a third layer is [`Flaw::DoubleEncoded`]. Looking at the most decoded form is enough for dot
/// segments, since no decoding takes a dot or a separator away.
fn inspect_decoded(raw: &[u8], flaws: &mut Flaws) {
    let once = decode(raw);
    let twice = decode(&once);
    if once.contains(&b'%') {
        flaws.insert_if(hides_escape(&once), Flaw::DoubleEncoded);
    }
    for form in [&once, &twice] {
        match str::from_utf8(form) {
            Ok(text) => {
                flaws.insert_if(!text.is_ascii() && text.chars().any(is_look_alike), Flaw::LookAlike);
            }
            Err(_) => flaws.insert(Flaw::InvalidUtf8),
        }
    }
    for segment in twice.split(|octet| matches!(octet, b'/' | b'\\')) {
        let name = segment.split(|octet| *octet == b';').next().unwrap_or_default();
        if is_dots(name) {
            let flaw = if name.len() < segment.len() { Flaw::SemicolonDot } else { Flaw::DotSegment };
            flaws.insert(flaw);
        }
    }
}

fn is_dots(name: &[u8]) -> bool {
    name.first() == Some(&b'.') && name.iter().all(|octet| matches!(octet, b'.' | b' '))
}

/// Whether `once`, decoded once, has an escape that would decode to something of consequence.
fn hides_escape(once: &[u8]) -> bool {
    once.split(|octet| *octet == b'%').skip(1).any(|piece| match piece {
        [b'u' | b'U', a, b, c, d, ..] => [a, b, c, d].into_iter().all(u8::is_ascii_hexdigit),
        [high, low, ..] => octet_of(*high, *low)
            .is_some_and(|octet| matches!(octet, b'.' | b'/' | b'\\' | b'%' | b';' | 0) || is_control(octet)),
        _ => false,
    })
}

/// `raw` with each well-formed escape replaced by its octet; the others stay.
fn decode(raw: &[u8]) -> Cow<'_, [u8]> {
    if !raw.contains(&b'%') {
        return Cow::Borrowed(raw);
    }
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = match rest {
            [b'%', high, low, after @ ..] => octet_of(*high, *low).map(|octet| (octet, after)),
            _ => None,
        };
        let (octet, after) = escaped.unwrap_or((first, tail));
        decoded.push(octet);
        rest = after;
    }
    Cow::Owned(decoded)
}

/// The octet that the first two characters of `piece` stand for, and what follows them.
fn escape(piece: &str) -> Option<(u8, &str)> {
    let (digits, rest) = piece.split_at_checked(2)?;
    match digits.as_bytes() {
        [high, low] => Some((octet_of(*high, *low)?, rest)),
        _ => None,
    }
}

fn octet_of(high: u8, low: u8) -> Option<u8> {
    Some((nibble(high)? << 4) | nibble(low)?)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn hex_digit(nibble: u8) -> char {
    char::from(if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 })
}

fn is_unreserved(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~')
}

fn is_control(octet: u8) -> bool {
    matches!(octet, 0x01..=0x1f | 0x7f)
}

/// Compatibility decomposition (Unicode NFKC) and Windows' best-fit tables, including the yen and won
/// signs that code pages 932 and 949 put in the place of the backslash.
fn is_look_alike(character: char) -> bool {
    matches!(
        character,
        '\u{2024}'
            ..='\u{2026}'
                | '\u{fe19}'
                | '\u{fe30}'
                | '\u{fe52}'
                | '\u{ff0e}'
                | '\u{2044}'
                | '\u{2215}'
                | '\u{29f8}'
                | '\u{ff0f}'
                | '\u{a5}'
                | '\u{20a9}'
                | '\u{20e5}'
                | '\u{2216}'
                | '\u{29f5}'
                | '\u{29f9}'
                | '\u{fe68}'
                | '\u{ff3c}'
                | '\u{fe6a}'
                | '\u{ff05}'
                | '\u{37e}'
                | '\u{fe14}'
                | '\u{fe54}'
                | '\u{ff1b}'
    )
}
