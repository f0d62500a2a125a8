//! What all operations of the API's document have in common.

use utoipa::{
    Modify,
    openapi::{
        OpenApi, RefOr, SecurityRequirement,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

/// The name of the admin token in the document.
const TOKEN: &str = "admin_token";
const TOKEN_WORDS: &str =
    "The token in the file admin-token of state_dir, or where admin.token says. Not needed on a unix socket.";

/// Puts it into the document.
pub(super) struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(TOKEN_WORDS)).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(TOKEN, SecurityScheme::Http(scheme));
        for path in document.paths.paths.values_mut() {
            for change in
                [&mut path.post, &mut path.put, &mut path.patch, &mut path.delete].into_iter().flatten()
            {
                let needed = SecurityRequirement::new(TOKEN, Vec::<String>::new());
                change.security = Some(vec![needed]);
            }
            for operation in [&mut path.get, &mut path.post, &mut path.put].into_iter().flatten() {
                operation.responses.responses.iter_mut().for_each(|(status, answer)| problem(status, answer));
            }
        }
    }
}

/// A refusal has a content type of its own (RFC 9457 §3).
fn problem(status: &str, answer: &mut RefOr<utoipa::openapi::Response>) {
    if let RefOr::T(answer) = answer
        && status.starts_with(['4', '5'])
        && let Some(content) = answer.content.shift_remove("application/json")
    {
        answer.content.insert("application/problem+json".into(), content);
    }
}
