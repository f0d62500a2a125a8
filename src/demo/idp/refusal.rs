//! Refusals in the words of the door that was knocked at: Entra's AADSTS errors, B2C's AADB2C
//! errors, and the plain errors of RFC 6749 §5.2.
//!
//! The texts are Entra's, shortened. They name what the client sent except its secret.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use serde_json::json;

use super::issue::{guid, random, unix_ms};

/// Whose words an error is told in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Voice {
    Entra,
    Policy,
    Plain,
}

/// Why no token was given.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) error: &'static str,
    pub(super) code: u32,
    pub(super) words: String,
    /// RFC 6749 §5.2: who tried `Basic` is answered with a challenge for it.
    pub(super) basic_challenge: bool,
}

impl Refusal {
    pub(super) fn new(status: u16, error: &'static str, code: u32, words: impl Into<String>) -> Refusal {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Refusal { status, error, code, words: words.into(), basic_challenge: false }
    }

    pub(super) fn missing(parameter: &str) -> Refusal {
        let words = format!("The request body must contain the following parameter: '{parameter}'.");
        Refusal::new(400, "invalid_request", 900_144, words)
    }

    pub(super) fn malformed(words: &str) -> Refusal {
        Refusal::new(400, "invalid_request", 9_002_313, format!("Invalid request. {words}"))
    }

    pub(super) fn no_secret() -> Refusal {
        let words =
            "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.";
        Refusal::new(401, "invalid_client", 7_000_218, words)
    }

    pub(super) fn wrong_secret(client_id: &str) -> Refusal {
        let words = format!(
            "Invalid client secret provided. Ensure the secret being sent in the request is the client secret \
             value, not the client secret ID, for a secret added to app '{client_id}'."
        );
        Refusal::new(401, "invalid_client", 7_000_215, words)
    }

    pub(super) fn unknown_client(client_id: &str, tenant: &str) -> Refusal {
        let words = format!(
            "Application with identifier '{client_id}' was not found in the directory '{tenant}'. You may have \
             sent your authentication request to the wrong tenant."
        );
        Refusal::new(400, "unauthorized_client", 700_016, words)
    }

    pub(super) fn unknown_tenant(tenant: &str) -> Refusal {
        if matches!(tenant, "common" | "organizations" | "consumers") {
            let words = "The grant type 'client_credentials' is not supported over the /common or /consumers \
                         endpoints. Please use the tenant-specific endpoint.";
            return Refusal::new(400, "invalid_request", 9_001_023, words);
        }
        let words = format!(
            "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing \
             into the correct cloud."
        );
        Refusal::new(400, "invalid_request", 90_002, words)
    }

    pub(super) fn unknown_resource(resource: &str, tenant: &str) -> Refusal {
        let words =
            format!("The resource principal named {resource} was not found in the tenant named {tenant}.");
        Refusal::new(400, "invalid_resource", 500_011, words)
    }

    pub(super) fn grant_type(grant_type: &str) -> Refusal {
        let words = format!("The app requested an unsupported grant type '{grant_type}'.");
        Refusal::new(400, "unsupported_grant_type", 70_003, words)
    }

    pub(super) fn scope_without_default(scope: &str) -> Refusal {
        let words = format!(
            "The provided value for scope {scope} is not valid. Client credential flows must have a scope value \
             with /.default suffixed to the resource identifier (application ID URI)."
        );
        Refusal::new(400, "invalid_scope", 1_002_012, words)
    }

    pub(super) fn several_scopes(scope: &str) -> Refusal {
        let words =
            format!("The provided request must include a valid 'scope'. The scope {scope} is not valid.");
        Refusal::new(400, "invalid_scope", 70_011, words)
    }

    /// What Entra says with a bare status: throttling, trouble of its own, or a bad request.
    pub(super) fn of_status(status: u16) -> Refusal {
        match status {
            401 => Refusal::wrong_secret("00000000-0000-0000-0000-000000000000"),
            429 => Refusal::new(
                status,
                "temporarily_unavailable",
                90_055,
                "The tenant exceeded the request limit, try again later.",
            ),
            500.. => Refusal::new(
                status,
                "temporarily_unavailable",
                90_033,
                "A transient error has occurred. Please try again.",
            ),
            _ => Refusal::new(status, "invalid_request", 90_014, "The required field is missing."),
        }
    }

    /// The answer. `correlation_id` is the client's own when it sent one.
    pub(super) fn answer(&self, voice: Voice, correlation_id: Option<&str>) -> Response {
        let Refusal { error, words, .. } = self;
        // A policy's word for every scope that it does not take.
        let code = if voice == Voice::Policy && *error == "invalid_scope" { 90_085 } else { self.code };
        let trace_id = guid(random());
        let correlation_id = correlation_id.map_or_else(|| guid(random()), str::to_owned);
        let timestamp = timestamp(unix_ms() / 1000);
        let prefix = if voice == Voice::Policy { "AADB2C" } else { "AADSTS" };
        let body = if voice == Voice::Plain {
            json!({"error": error, "error_description": words})
        } else {
            json!({
                "error": error,
                "error_description": format!(
                    "{prefix}{code}: {words} Trace ID: {trace_id} Correlation ID: {correlation_id} Timestamp: {timestamp}"
                ),
                "error_codes": [code],
                "timestamp": timestamp,
                "trace_id": trace_id,
                "correlation_id": correlation_id,
            })
        };
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-cache"));
        if self.basic_challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"demo\""));
        }
        response
    }
}

/// `2026-01-31 12:00:00Z`. The calendar is Howard Hinnant's `civil_from_days`, for days after 1970.
fn timestamp(unix_seconds: u64) -> String {
    let (days, second) = (unix_seconds / 86_400 + 719_468, unix_seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::timestamp;

    #[test]
    fn timestamps_are_the_calendars() {
        assert_eq!(timestamp(0), "1970-01-01 00:00:00Z");
        assert_eq!(timestamp(951_782_400), "2000-02-29 00:00:00Z");
        assert_eq!(timestamp(1_772_323_199), "2026-02-28 23:59:59Z");
    }
}
