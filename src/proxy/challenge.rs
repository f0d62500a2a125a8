//! Reading `WWW-Authenticate` (RFC 9110 §11.6.1, RFC 6750 §3) to decide what a 401 asks for.
//!
//! The text comes from the upstream and is treated as hostile: it can cause a refresh, or not, and
//! hand claims to the identity provider if they are a JSON object; nothing else.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, header::WWW_AUTHENTICATE};

/// A field is read up to here; what comes later says nothing that anybody sends.
const CHALLENGE_BYTES_MAX: usize = 8 * 1024;

/// What a 401 asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Another token.
    Refresh,
    /// Another token with these claims: a JSON object for the `claims` parameter.
    Claims(String),
    /// Nothing that another token could give: `insufficient_scope`.
    Scope,
    /// The same token, with the server's nonce in the proof of it (RFC 9449 §9).
    Nonce,
    /// Another scheme than ours.
    OtherScheme,
}

/// What the challenges of a 401 response ask for. No challenge at all asks for another token: many
/// APIs send none. A bound token (`is_bound`) is asked for by the scheme DPoP, or by Bearer where a server
/// takes both.
pub fn demand(headers: &HeaderMap, is_bound: bool) -> Demand {
    let mut seen_any = false;
    let (mut bearer, mut dpop) = (None, None);
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let bytes = value.as_bytes();
        // What is not ASCII stands in texts for people (RFC 9110 §5.5), in whatever encoding.
        let text = String::from_utf8_lossy(bytes.get(..CHALLENGE_BYTES_MAX).unwrap_or(bytes));
        for challenge in challenges(&text) {
            seen_any = true;
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                prefer(&mut bearer, &challenge, of_bearer);
            }
            if is_bound && challenge.scheme.eq_ignore_ascii_case("dpop") {
                prefer(&mut dpop, &challenge, of_dpop);
            }
        }
    }
    match dpop.or(bearer) {
        Some(found) => found.demand,
        None if seen_any => Demand::OtherScheme,
        None => Demand::Refresh,
    }
}

/// What a challenge asks for, and whether it says what was wrong.
struct Found {
    has_error: bool,
    demand: Demand,
}

/// Of several challenges of one scheme the first counts, or the first that says what was wrong.
fn prefer(found: &mut Option<Found>, challenge: &Challenge<'_>, read: impl Fn(&Challenge<'_>) -> Demand) {
    let has_error = challenge.parameter("error").is_some();
    if found.as_ref().is_none_or(|found| has_error && !found.has_error) {
        *found = Some(Found { has_error, demand: read(challenge) });
    }
}

fn of_bearer(challenge: &Challenge<'_>) -> Demand {
    match challenge.parameter("error").as_deref() {
        Some("insufficient_scope") => Demand::Scope,
        Some("insufficient_claims") => challenge
            .parameter("claims")
            .and_then(|text| claims(&text))
            .map_or(Demand::Refresh, Demand::Claims),
        _ => Demand::Refresh,
    }
}

fn of_dpop(challenge: &Challenge<'_>) -> Demand {
    match challenge.parameter("error").as_deref() {
        Some("use_dpop_nonce") => Demand::Nonce,
        // The proof was at fault, most often the clock behind it; another token would have the same.
        Some("invalid_dpop_proof") => Demand::OtherScheme,
        _ => of_bearer(challenge),
    }
}

/// Claims are base64 of a JSON object, with either alphabet, padded or not.
fn claims(text: &str) -> Option<String> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = [alphabet::URL_SAFE, alphabet::STANDARD]
        .iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, config).decode(text).ok())?;
    let json: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    json.is_object().then(|| json.to_string())
}

#[derive(Debug)]
struct Challenge<'a> {
    scheme: &'a str,
    parameters: Vec<(&'a str, String)>,
}

impl Challenge<'_> {
    fn parameter(&self, name: &str) -> Option<String> {
        self.parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
    }
}

/// Splits a field value into challenges. Lists of challenges and of parameters share the comma, so a
/// word followed by `=` is a parameter of the last challenge, and any other word begins a new one.
fn challenges(text: &str) -> Vec<Challenge<'_>> {
    let mut found: Vec<Challenge<'_>> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = split_word(rest);
        if word.is_empty() {
            return found;
        }
        let after_space = after.trim_start_matches([' ', '\t']);
        match (after_space.strip_prefix('='), found.last_mut()) {
            (Some(value), Some(challenge)) => {
                let (value, after) = split_value(value.trim_start_matches([' ', '\t']));
                challenge.parameters.push((word, value));
                rest = after;
            }
            (Some(value), None) => rest = split_value(value).1,
            (None, _) => {
                found.push(Challenge { scheme: word, parameters: Vec::new() });
                rest = after;
            }
        }
    }
}

fn split_word(text: &str) -> (&str, &str) {
    let end = text.find([' ', '\t', ',', '=', '"']).unwrap_or(text.len());
    // A stray quote must not stop the scan for good.
    let end = if end == 0 { text.chars().next().map_or(0, char::len_utf8) } else { end };
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// A token or a quoted string with its backslashes resolved.
fn split_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (word, rest) =
            text.split_at_checked(text.find([',', ' ', '\t']).unwrap_or(text.len())).unwrap_or((text, ""));
        return (word.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn check(values: &[&str], expected: Demand) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        assert_eq!(demand(&headers, false), expected, "{values:?}");
    }

    #[test]
    fn a_bound_token_is_asked_for_by_its_own_scheme() {
        let check = |value: &str, expected: Demand| {
            let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, value.parse().unwrap())]);
            assert_eq!(demand(&headers, true), expected, "{value}");
        };
        check("DPoP error=\"use_dpop_nonce\", error_description=\"x\"", Demand::Nonce);
        check("Bearer, DPoP algs=\"ES256\", error=\"use_dpop_nonce\"", Demand::Nonce);
        check("DPoP error=\"invalid_token\"", Demand::Refresh);
        check("dpop algs=\"ES256 PS256\"", Demand::Refresh);
        check("DPoP error=\"insufficient_scope\"", Demand::Scope);
        check("DPoP error=\"invalid_dpop_proof\"", Demand::OtherScheme);
        check("Bearer error=\"invalid_token\"", Demand::Refresh);
        check("Bearer error=\"use_dpop_nonce\"", Demand::Refresh);
        check("Basic realm=\"x\"", Demand::OtherScheme);
    }

    #[test]
    fn anything_but_scope_and_another_scheme_asks_for_another_token() {
        check(&[], Demand::Refresh);
        check(&["Bearer"], Demand::Refresh);
        check(&["bearer realm=\"x\""], Demand::Refresh);
        check(
            &["Bearer realm=\"a, b\", error=\"invalid_token\", error_description=\"say \\\"x\\\"\""],
            Demand::Refresh,
        );
        check(&["Bearer error=\"something_new\""], Demand::Refresh);
        check(&["Bearer error=insufficient_scope, scope=\"a\""], Demand::Scope);
        check(&["Bearer realm=\"r\" , error = \"insufficient_scope\""], Demand::Scope);
        check(&["Basic realm=\"x\""], Demand::OtherScheme);
        check(&["Negotiate", "NTLM"], Demand::OtherScheme);
        check(&["DPoP error=\"use_dpop_nonce\""], Demand::OtherScheme);
    }

    #[test]
    fn the_bearer_challenge_is_found_among_others() {
        check(&["Basic realm=\"x\", Bearer error=\"invalid_token\""], Demand::Refresh);
        check(&["Negotiate YII=, Bearer error=\"insufficient_scope\""], Demand::Scope);
        check(&["Basic realm=\"Bearer\""], Demand::OtherScheme);
        check(&["Basic realm=\"x\"", "Bearer error=\"insufficient_scope\""], Demand::Scope);
    }

    /// They used to count as no challenge at all, which asks for another token.
    #[test]
    fn challenges_with_words_that_are_not_ascii_or_long_are_read_like_any_other() {
        check(&["Basic realm=\"Zugriff für alle\""], Demand::OtherScheme);
        check(&["Bearer realm=\"Prüfung\", error=\"insufficient_scope\""], Demand::Scope);
        check(&["Bearer realm=\"Prüfung\", error=\"invalid_token\""], Demand::Refresh);
        let latin1 = HeaderValue::from_bytes(b"Basic realm=\"f\xfcr\"").unwrap();
        let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, latin1)]);
        assert_eq!(demand(&headers, false), Demand::OtherScheme);
        let long = "x".repeat(9000);
        check(&[&format!("Basic realm=\"{long}\"")], Demand::OtherScheme);
        check(&[&format!("Bearer error=\"insufficient_scope\", scope=\"{long}\"")], Demand::Scope);
        check(&[&format!("Bearer error=\"invalid_token\", error_description=\"{long}\"")], Demand::Refresh);
    }

    #[test]
    fn of_several_bearer_challenges_the_one_that_says_what_is_wrong_counts() {
        check(&["Bearer realm=\"a\", Bearer error=\"insufficient_scope\""], Demand::Scope);
        check(&["Bearer realm=\"a\"", "Bearer error=\"insufficient_scope\""], Demand::Scope);
        check(&["Bearer error=\"insufficient_scope\", Bearer realm=\"a\""], Demand::Scope);
        check(&["Bearer error=\"invalid_token\", Bearer error=\"insufficient_scope\""], Demand::Refresh);
    }

    #[test]
    fn claims_are_taken_from_every_kind_of_base64_and_only_as_an_object() {
        let claims = Demand::Claims("{\"access_token\":{\"nbf\":{\"essential\":true}}}".into());
        let url_unpadded = "eyJhY2Nlc3NfdG9rZW4iOnsibmJmIjp7ImVzc2VudGlhbCI6dHJ1ZX19fQ";
        for text in [url_unpadded.to_owned(), format!("{url_unpadded}==")] {
            check(&[&format!("Bearer error=\"insufficient_claims\", claims=\"{text}\"")], claims.clone());
            check(&[&format!("Bearer claims=\"{text}\", error=\"insufficient_claims\"")], claims.clone());
        }
        check(&["Bearer error=\"insufficient_claims\", claims=\"WzFd\""], Demand::Refresh);
        check(&["Bearer error=\"insufficient_claims\", claims=\"%%%\""], Demand::Refresh);
        check(&["Bearer error=\"insufficient_claims\""], Demand::Refresh);
    }

    #[test]
    fn nonsense_ends() {
        for text in ["\"", "=", "\"\"\"", "Bearer \"", "a=\"b", ",,,", "Bearer error=\"\\"] {
            let mut headers = HeaderMap::new();
            headers.append(WWW_AUTHENTICATE, text.parse().unwrap());
            demand(&headers, true);
        }
    }
}
