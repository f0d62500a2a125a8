//! Which certificate a caller is shown: by the server name that it asks for (SNI).
//!
//! An exact name beats a wildcard, which stands for one label. Without a name, or with one that no
//! certificate has, it is the first certificate.

use std::{collections::HashMap, sync::Arc};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// A listener's certificates, by name.
#[derive(Debug)]
pub(super) struct Choice {
    certificates: Vec<Arc<CertifiedKey>>,
    exact: HashMap<String, usize>,
    /// What follows the `*`, with its dot.
    wildcards: HashMap<String, usize>,
}

impl Choice {
    /// Certificates with their DNS names in lower case, the default one first. Of two with the same
    /// name the earlier one takes it.
    pub(super) fn new(certificates: Vec<(Arc<CertifiedKey>, Vec<String>)>) -> Self {
        let (mut exact, mut wildcards) = (HashMap::new(), HashMap::new());
        let mut keys = Vec::new();
        for (index, (key, names)) in certificates.into_iter().enumerate() {
            keys.push(key);
            for name in names {
                let (map, name) = match name.strip_prefix('*') {
                    Some(suffix) => (&mut wildcards, suffix.to_owned()),
                    None => (&mut exact, name),
                };
                map.entry(name).or_insert(index);
            }
        }
        Self { certificates: keys, exact, wildcards }
    }

    /// The number of the certificate that `name` chooses.
    pub(super) fn index(&self, name: &str) -> usize {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let wildcard = || {
            let dot = name.find('.')?;
            self.wildcards.get(name.get(dot..)?)
        };
        self.exact.get(&name).or_else(wildcard).copied().unwrap_or(0)
    }
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let index = hello.server_name().map_or(0, |name| self.index(name));
        self.certificates.get(index).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_name_beats_a_wildcard_and_the_first_takes_the_rest() {
        let key = rcgen::generate_simple_self_signed(["unused".to_owned()]).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let der = key.signing_key.serialize_der().try_into().unwrap();
        let key = Arc::new(CertifiedKey::from_der(vec![key.cert.der().clone()], der, &provider).unwrap());
        let certificate =
            |names: &[&str]| (Arc::clone(&key), names.iter().map(|n| (*n).to_owned()).collect());
        let choice = Choice::new(vec![
            certificate(&["first.example"]),
            certificate(&["*.a.example", "a.example"]),
            certificate(&["b.a.example", "a.example"]),
        ]);
        let check = |name: &str, expected: usize| assert_eq!(choice.index(name), expected, "{name}");
        check("first.example", 0);
        check("a.example", 1);
        check("x.a.example", 1);
        check("X.A.Example.", 1);
        check("b.a.example", 2);
        check("y.x.a.example", 0);
        check(".a.example", 1);
        check("example", 0);
        check("", 0);
        check("192.0.2.7", 0);
    }
}
