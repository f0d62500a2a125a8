//! Every number of the fact sheet has words and its class; the document shows the table as it is.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use reqwest::StatusCode;

use super::*;
use crate::profile::answer::{self, Reply};

/// What Microsoft documents of each number, by the class that follows from it.
const EXPECTED: &[(Class, &[u64])] = &[
    (Class::Credential, &[7000215, 7000222, 700024]),
    (Class::NewCredential, &[700027]),
    (
        Class::Eventual,
        &[
            700016, 700011, 7000229, 70021, 700211, 700212, 700213, 7002138, 500011, 50001, 501051, 50105,
            65001, 650056, 650057,
        ],
    ),
    (Class::Transient, &[90033, 90006, 90012, 90024, 90090, 90091, 50033]),
    (Class::Throttled, &[90055]),
    (
        Class::Permanent,
        &[
            7000218, 7000112, 70001, 700025, 700030, 50012, 700229, 90002, 50059, 900023, 90038, 900382,
            900432, 9001023, 50194, 90124, 90130, 70011, 1002012, 28002, 700022, 700023, 901002, 53003,
            530032, 50196, 90036, 90092, 1002016, 900144, 90014, 9002313, 50034,
        ],
    ),
];

fn rejected(status: u16, body: &str) -> ExchangeError {
    let status = StatusCode::from_u16(status).unwrap();
    let reply = Reply { status, retry_after: None, body: body.as_bytes().to_vec() };
    answer::read(&reply, answer::Scheme::Bearer, std::time::Duration::from_secs(300), &[]).err().unwrap()
}

#[test]
fn each_of_entras_numbers_has_words_and_its_class_wherever_the_number_stands() {
    for (class, numbers) in EXPECTED {
        for number in *numbers {
            for body in [
                format!(r#"{{"error":"invalid_request","error_codes":[{number}]}}"#),
                format!(r#"{{"error":"invalid_request","error_description":"AADSTS{number}: x"}}"#),
            ] {
                let error = rejected(400, &body);
                assert_eq!(error.class(), *class, "{body}");
                let code = of_code(Family::Entra, *number).unwrap_or_else(|| panic!("{number} has no words"));
                assert_eq!(error.diagnosis(), words(code.meaning, code.remedy), "{body}");
                assert!(error.to_string().contains(&format!("AADSTS{number}")), "{error}");
            }
        }
    }
    let known: usize = EXPECTED.iter().map(|(_, numbers)| numbers.len()).sum();
    let told: usize =
        CODES.iter().filter(|code| code.family == Family::Entra).map(|code| code.numbers.len()).sum();
    assert_eq!(known, told, "a number is in one table only");
}

#[test]
fn no_number_stands_twice_and_words_are_lines_without_a_stop() {
    let mut seen = BTreeSet::new();
    for code in CODES {
        for number in code.numbers {
            assert!(seen.insert((code.family.prefix(), number)), "{number} stands twice");
        }
        for text in [code.meaning, code.remedy] {
            assert!(text.len() < 130 && !text.ends_with('.') && !text.contains(['\n', '|']), "{text}");
        }
    }
}

#[test]
fn a_loop_that_entra_sees_is_a_wait_of_five_minutes_at_least() {
    let error = rejected(400, r#"{"error":"invalid_grant","error_codes":[50196]}"#);
    assert_eq!(error.retry_after(), Some(std::time::Duration::from_secs(300)));
    let other = rejected(400, r#"{"error":"invalid_grant","error_codes":[50194]}"#);
    assert_eq!(other.retry_after(), None);
}

#[test]
fn without_a_known_number_the_error_member_speaks_and_without_one_the_status() {
    let check = |status, body, sign: &str| {
        let meaning = rejected(status, body).diagnosis().meaning;
        assert!(meaning.contains(sign), "{status} {body}: {meaning}");
    };
    check(401, r#"{"error":"invalid_client"}"#, "does not take the client's proof");
    check(400, r#"{"error":"invalid_client","error_codes":[1]}"#, "does not take the client's proof");
    check(400, r#"{"error":"invalid_target"}"#, "does not know the resource");
    check(400, r#"{"error":"access_denied"}"#, "grants it nothing");
    check(400, r#"{"error":"what_is_this"}"#, "does not say why");
    check(302, "", "redirects");
    check(404, "<html>", "no token endpoint");
    check(503, "<html>", "out of order");
    // A throttled provider may well say what else it thinks: the wait is what counts.
    check(429, r#"{"error":"invalid_client","error_codes":[7000215]}"#, "asked too often");
}

#[test]
fn an_answer_without_a_body_is_told_from_one_that_does_not_fit_the_profile() {
    for (body, sign) in [
        ("", "no token endpoint"),
        ("<html>", "no token endpoint"),
        (r#"{"access_token":"t","token_type":"mac"}"#, "something else"),
        (r#"{"id_token":"t"}"#, "something else"),
    ] {
        let meaning = rejected(200, body).diagnosis().meaning;
        assert!(meaning.contains(sign), "{body}: {meaning}");
    }
}

#[test]
fn what_the_system_and_the_tls_library_say_is_put_into_words() {
    for (reason, sign) in [
        ("failed to lookup address information: Name or service not known", "no address"),
        ("failed to lookup address information: Temporary failure in name resolution", "DNS does not answer"),
        ("Connection refused (os error 111)", "nothing listens"),
        ("Network is unreachable (os error 101)", "no way to the address"),
        ("No route to host (os error 113)", "no way to the address"),
        ("invalid peer certificate: UnknownIssuer", "not trusted here"),
        ("invalid peer certificate: certificate expired: verification time 5", "has expired"),
        ("invalid peer certificate: certificate not valid yet: verification time 5", "not valid yet"),
        ("invalid peer certificate: certificate not valid for name \"a\"", "another name"),
        ("invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))", "certificate of an authority"),
        ("file /ca.pem cannot be read: no such file", "cannot be used"),
        ("received corrupt message of type InvalidContentType", "does not speak TLS"),
        ("received fatal alert: CertificateRequired", "wants a client certificate"),
        ("received fatal alert: HandshakeFailure", "ended the handshake"),
        ("tls handshake eof", "ended the handshake"),
        ("the proxy cannot be used: tunnel error: proxy authorization required", "login of its own"),
        ("unsuccessful tunnel", "outbound proxy"),
        ("Connection reset by peer (os error 104)", "cut in the middle"),
        ("timed out", "nobody answered in time"),
        ("something new", "cannot be reached"),
    ] {
        let meaning = of_network(reason).meaning;
        assert!(meaning.contains(sign), "{reason}: {meaning}");
    }
}

/// `KEYBEARER_BLESS=1 cargo test --lib diagnosis` writes the table anew.
#[test]
fn the_document_shows_the_table_as_it_is() {
    const BEGIN: &str = "<!-- the table of src/profile/diagnosis/codes.rs -->\n";
    const END: &str = "<!-- end -->\n";
    let mut table = String::from("| code | means | do next | class |\n| --- | --- | --- | --- |\n");
    for code in CODES {
        let numbers: Vec<_> =
            code.numbers.iter().map(|number| format!("`{}{number}`", code.family.prefix())).collect();
        let (numbers, class) = (numbers.join(" "), code.class.name());
        writeln!(table, "| {numbers} | {} | {} | {class} |", code.meaning, code.remedy).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/diagnosis.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the document marks where the table begins");
    let (shown, after) = rest.split_once(END).expect("the document marks where the table ends");
    if std::env::var_os("KEYBEARER_BLESS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
    } else {
        assert!(shown == table, "docs/diagnosis.md is behind (KEYBEARER_BLESS=1 cargo test --lib diagnosis)");
    }
    for class in Class::ALL {
        assert!(before.contains(&format!("| `{}` |", class.name())), "{} is not explained", class.name());
    }
}
