//! The promise of `path`: what passes for a prefix stays under it, however an origin decodes.

use proptest::prelude::*;

use crate::route::{
    origins::{escapes, percent_decode},
    path::{Check, Flaw, Flaws, read},
};

fn flaws(raw: &str) -> Vec<Flaw> {
    read(raw).flaws.iter().collect()
}

/// What traversal strings are made of.
const PIECES: &str = r"
    / / . . .. %2e %2E %2f %5C \ ; ; %3b %25 %252e %252f % 2 5 e f c 3B u a a api %c0 %ae %af %ef%bc%8e ． ／
    é %00 %09 %20 %41 ~ : * + =
";

/// Traversal strings in the manner of the wfuzz lists.
const TRAVERSALS: &str = r"
    ../x .. ./x a/../../x ..%2fx ..%2Fx %2e%2e/x %2e%2e%2fx .%2e/x %2e./x %2E%2E/ ..\x ..%5cx %2e%2e%5cx
    %2e%2e\x .\..\x \..\x %5c..%5cx %252e%252e%252fx %252e%252e/x ..%252fx ..%255cx %25252e%25252e%25252f
    ..%25252f ..;/x ..;a=b/x %2e%2e;/x ..%3b/x ..%3bx/x .;/x a/..;/..;/x ..;%2fx %c0%ae%c0%ae/x
    %c0%ae%c0%ae%c0%afx ..%c0%afx ..%c1%9cx ..%c0%2fx %e0%80%ae%e0%80%ae/ ..%e0%80%afx %f0%80%80%ae/
    %c0%2e%c0%2e/ %uff0e %u002e%u002e/x ..%u2215x ..%u2216x %uff0e%uff0e%u2215 ....//x ..../x ... .../x
    ....\\x /%2e%2e%2fx //../x /..//x %%32%65%%32%65/x %%32%65%%32%65%%32%66x ..%%35%63x ..%%35cx
    %25%32%65%25%32%65/x ..%00/x ../x%00.html ..%0d/x ..%09/x .%0a./x %09../x ．．/x ..／x %ef%bc%8e%ef%bc%8e/x
    ..%ef%bc%8fx ..%e2%88%95x %e2%80%a5/x %c2%a5..%c2%a5x ..%20/x ..%2e/x a%2f..%2f..%2fx a/%2e%2e/%2e%2e/x
    ..%5c..%2fx ..% x/%2e ~/../x
";

/// Paths made of the pieces that traversal strings are made of.
fn hostile_path() -> impl Strategy<Value = String> {
    let pieces: Vec<_> = PIECES.split_whitespace().chain(["\t", " "]).collect();
    let pieces = prop::sample::select(pieces);
    prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    #[test]
    fn no_accepted_path_resolves_outside_of_its_prefix(tail in hostile_path(), any in "\\PC{0,12}") {
        for raw in [format!("/api/{tail}"), format!("/api{tail}"), format!("/api/{any}")] {
            prop_assert_eq!(escapes(&raw, Check::Strict).map(|_| &raw), None);
            prop_assert_eq!(escapes(&raw, Check::Lenient).map(|_| &raw), None);
        }
    }

    #[test]
    fn reading_what_was_read_changes_nothing(tail in hostile_path(), any in ".{0,16}") {
        for raw in [format!("/{tail}"), format!("/{any}"), tail.clone(), any.clone()] {
            let first = read(&raw);
            let second = read(&first.path);
            prop_assert_eq!(&second.path, &first.path);
            prop_assert_eq!(second.flaws, first.flaws);
        }
    }

    #[test]
    fn decoding_what_was_read_gives_what_decoding_the_original_gives(tail in hostile_path()) {
        let raw = format!("/{tail}");
        prop_assert_eq!(percent_decode(read(&raw).path.as_bytes()), percent_decode(raw.as_bytes()));
    }

    #[test]
    fn strict_never_accepts_what_lenient_refuses(tail in hostile_path()) {
        let raw = format!("/{tail}");
        let reading = read(&raw);
        let is_refused = |check| reading.refused_by(check).is_some();
        prop_assert!(is_refused(Check::Strict) || !is_refused(Check::Lenient));
    }
}

#[test]
fn a_plain_path_is_borrowed_without_flaws() {
    for raw in ["/", "/v1/orders/7", "/a/b.c/d-e_f~g/", "/a..b/c.", "/a:b@c!$&'()*+,=d", "/v1/{id}/ x"] {
        let reading = read(raw);
        assert!(matches!(reading.path, std::borrow::Cow::Borrowed(path) if path == raw), "{raw}");
        assert_eq!(reading.flaws, Flaws::default(), "{raw}");
        assert_eq!(reading.refused_by(Check::Strict), None, "{raw}");
    }
}

#[test]
fn the_canonical_path_decodes_unreserved_and_raises_digits() {
    let table = [
        ("/%41%7a%30%2D%5f%7E", "/Az0-_~"),
        ("/a%20b%c3%a9", "/a%20b%C3%A9"),
        ("/a;b=%3b", "/a;b=%3B"),
        ("/.well-known/%2Ehidden", "/.well-known/.hidden"),
        ("/100%25", "/100%25"),
        ("/%2541", "/%2541"),
    ];
    for (raw, canonical) in table {
        let reading = read(raw);
        assert_eq!(reading.path, canonical, "{raw}");
        assert_eq!(reading.refused_by(Check::Strict), None, "{raw}");
    }
}

#[test]
fn each_flaw_is_named() {
    let table = [
        ("/a/..", Flaw::DotSegment),
        ("/a/./b", Flaw::DotSegment),
        ("/a/%2e%2E/b", Flaw::DotSegment),
        ("/a/..%2fb", Flaw::DotSegment),
        ("/a%5c..%5cb", Flaw::DotSegment),
        ("/a\\..\\b", Flaw::DotSegment),
        ("/a/%252e%252e/b", Flaw::DotSegment),
        ("/a%252f..%252fb", Flaw::DotSegment),
        ("/a/.../b", Flaw::DotSegment),
        ("/a/..%20/b", Flaw::DotSegment),
        ("/a/..;/b", Flaw::SemicolonDot),
        ("/a/..;x=1/b", Flaw::SemicolonDot),
        ("/a/.%2e%3bx/b", Flaw::SemicolonDot),
        ("/a/..%253b/b", Flaw::SemicolonDot),
        ("/a%00", Flaw::Nul),
        ("/a\0", Flaw::Nul),
        ("/a%0d%0a", Flaw::Control),
        ("/a%7f", Flaw::Control),
        ("/a\tb", Flaw::Control),
        ("/a\\b", Flaw::Backslash),
        ("/a%5Cb", Flaw::EncodedBackslash),
        ("/a%252eb", Flaw::DoubleEncoded),
        ("/a%252Fb", Flaw::DoubleEncoded),
        ("/a%255cb", Flaw::DoubleEncoded),
        ("/a%2500", Flaw::DoubleEncoded),
        ("/a%250a", Flaw::DoubleEncoded),
        ("/a%2525b", Flaw::DoubleEncoded),
        ("/a%253bb", Flaw::DoubleEncoded),
        ("/a%25%32%65b", Flaw::DoubleEncoded),
        ("/a%25u002eb", Flaw::DoubleEncoded),
        ("/a%", Flaw::BadEscape),
        ("/a%2", Flaw::BadEscape),
        ("/a%zz", Flaw::BadEscape),
        ("/a%+f", Flaw::BadEscape),
        ("/a%2é", Flaw::BadEscape),
        ("/a%u002e", Flaw::BadEscape),
        ("/a%%32e", Flaw::BadEscape),
        ("/a%c0%ae", Flaw::InvalidUtf8),
        ("/a%e0%80%ae", Flaw::InvalidUtf8),
        ("/a%25c0%25ae", Flaw::InvalidUtf8),
        ("/a%ff", Flaw::InvalidUtf8),
        ("/a%ef%bc%8e", Flaw::LookAlike),
        ("/a%E2%80%A4", Flaw::LookAlike),
        ("/a%25EF%25BC%258F", Flaw::LookAlike),
        ("/a．", Flaw::LookAlike),
        ("/é", Flaw::NonAscii),
        ("/a%2fb", Flaw::EncodedSlash),
        ("/a//b", Flaw::EmptySegment),
        ("/a//", Flaw::EmptySegment),
        ("//a", Flaw::EmptySegment),
        ("*", Flaw::Relative),
        ("", Flaw::Relative),
        ("a/b", Flaw::Relative),
    ];
    for (raw, flaw) in table {
        assert!(flaws(raw).contains(&flaw), "{raw}: {:?}", flaws(raw));
        assert!(read(raw).refused_by(Check::Strict).is_some(), "{raw}");
    }
}

#[test]
fn a_path_with_a_broken_escape_stays_as_it_came() {
    assert_eq!(read("/%41%zz%2f").path, "/%41%zz%2f");
}

#[test]
fn lenient_lets_only_encoded_slashes_and_empty_segments_pass() {
    for raw in ["/a%2fb", "/a//b", "/a%2F/b//", "/a;b=c/d"] {
        assert_eq!(read(raw).refused_by(Check::Lenient), None, "{raw}");
    }
    let table = [
        ("/a%2f..%2fb", Flaw::DotSegment),
        ("/a//../b", Flaw::DotSegment),
        ("/a%2f%2e%2e", Flaw::DotSegment),
        ("/a%2f..;x", Flaw::SemicolonDot),
        ("/a%252fb", Flaw::DoubleEncoded),
        ("/a%5cb", Flaw::EncodedBackslash),
        ("/a%00", Flaw::Nul),
    ];
    for (raw, flaw) in table {
        assert_eq!(read(raw).refused_by(Check::Lenient), Some(flaw), "{raw}");
    }
}

#[test]
fn the_gravest_flaw_is_the_one_told() {
    assert_eq!(read("/a//%2f\\..").refused_by(Check::Strict), Some(Flaw::DotSegment));
    assert_eq!(
        read("/a//%5c").refused_by(Check::Strict).unwrap().to_string(),
        "an encoded backslash (\"%5c\")"
    );
}

#[test]
fn every_known_traversal_string_is_refused() {
    for traversal in TRAVERSALS.split_whitespace() {
        for raw in [format!("/api/{traversal}"), format!("/api/a/{traversal}")] {
            assert!(read(&raw).refused_by(Check::Strict).is_some(), "{raw} passes");
            assert!(
                escapes(&raw, Check::Lenient).is_none(),
                "{raw} escapes: {:?}",
                escapes(&raw, Check::Lenient)
            );
        }
    }
}

/// Every way to write a dot, every separator, to some depth: what the public lists of traversal strings
/// are made of, without their names of files.
fn traversals() -> impl Iterator<Item = String> {
    let dots = [
        ".",
        "%2e",
        "%2E",
        "%252e",
        "%25252e",
        "%c0%ae",
        "%e0%80%ae",
        "%u002e",
        "%uff0e",
        "%ef%bc%8e",
        "．",
        "%%32e",
        "%25%32%65",
    ];
    let separators = [
        "/",
        "\\",
        "%2f",
        "%5c",
        "%252f",
        "%255c",
        "%c0%af",
        "%c1%9c",
        "%u2215",
        "%e2%88%95",
        ";/",
        ";x=y/",
        "//",
        "/./",
        "%00/",
        "%20/",
        "%09/",
        "%%35%63",
    ];
    let ups = dots.into_iter().flat_map(move |first| {
        dots.into_iter().flat_map(move |second| {
            separators.into_iter().map(move |separator| format!("{first}{second}{separator}"))
        })
    });
    ups.flat_map(|up| {
        let longer = [up.clone(), up.repeat(2), up.repeat(4), format!("a/{up}{up}")];
        longer.into_iter().flat_map(|up| [format!("{up}x"), format!("{up}etc/x.html")])
    })
}

#[test]
fn no_traversal_escapes_whatever_it_is_made_of() {
    let mut count = 0;
    for traversal in traversals() {
        count += 1;
        for raw in [format!("/api/{traversal}"), format!("/api{traversal}")] {
            for check in [Check::Strict, Check::Lenient] {
                let escape = escapes(&raw, check);
                assert!(escape.is_none(), "{raw} escapes: {escape:?}");
            }
        }
        assert!(read(&format!("/api/{traversal}")).refused_by(Check::Strict).is_some(), "{traversal} passes");
    }
    assert!(count > 20_000, "{count} are not all");
}
