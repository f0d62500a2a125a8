//! What makes two tokens of one client interchangeable.

use crate::{
    profile::{
        Identity,
        oauth2::{Endpoint, Settings},
    },
    secret::Fingerprint,
};

impl Settings {
    /// What a token is known by that is asked for so, with a secret of this fingerprint.
    ///
    /// `claims` are part of it: a token with them and one without are not interchangeable.
    pub(super) fn identity(&self, fingerprint: Option<&Fingerprint>, claims: Option<&str>) -> Identity {
        let endpoint = match &self.endpoint {
            Endpoint::TokenUrl(url) => url.as_str(),
            Endpoint::Issuer(issuer) => issuer,
        };
        let mut parts: Vec<&[u8]> =
            vec![endpoint.as_bytes(), self.client_id.as_bytes(), self.auth.name().as_bytes()];
        parts.push(fingerprint.map_or(&[], |f| f.as_bytes()));
        for value in [&self.scope, &self.audience] {
            parts.push(value.as_deref().unwrap_or_default().as_bytes());
        }
        parts.push(claims.unwrap_or_default().as_bytes());
        parts.push(if self.cae { b"cp1" } else { b"" });
        parts.extend(self.resource.iter().map(|r| r.as_bytes()));
        parts.push(if self.dpop { b"dpop" } else { b"" });
        parts.push(b"grant");
        parts.extend(self.grant.parts().into_iter().map(str::as_bytes));
        parts.push(self.token_field.as_bytes());
        parts.push(b"extra");
        parts.extend(self.extra.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]));
        Identity::of(parts)
    }
}
