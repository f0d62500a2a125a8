//! What is odd about a token that a provider gave: it can be used, and is not quite what was asked for.

use std::fmt;

use crate::profile::diagnosis::Diagnosis;

/// Something that an operator should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// The token has not all of the scope: these are missing. Some servers drop what they do not know and answer 200
    /// (RFC 6749 §3.3 lets them).
    Dropped(String),
    /// The issuer can bind tokens to the client's certificate, and has not bound this one.
    Unbound,
}

impl Oddity {
    /// The doctor's word for it.
    pub fn step(&self) -> &'static str {
        match self {
            Self::Dropped(_) => "scope",
            Self::Unbound => "binding",
        }
    }

    /// What it means, and what to do next.
    pub fn diagnosis(&self) -> Diagnosis {
        match self {
            Self::Dropped(_) => Diagnosis {
                meaning: "the provider does not know it, or the client may not have it, and it says so in this way only",
                remedy: "compare scope: with what the provider knows and the client may have",
            },
            Self::Unbound => Diagnosis {
                meaning: "whoever gets hold of the token can use it without the certificate",
                remedy: "switch certificate-bound access tokens on for this client",
            },
        }
    }
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dropped(scope) => write!(f, "the token comes without the scope {scope}"),
            Self::Unbound => {
                f.write_str("the token is not bound to the certificate, though the issuer can bind it")
            }
        }
    }
}

/// What of the scope that was `asked` for is not in the one that was `granted`, when the provider says.
pub(super) fn dropped(asked: Option<&str>, granted: Option<&str>) -> Option<Oddity> {
    let (asked, granted) = asked.zip(granted)?;
    let lacking: Vec<_> =
        asked.split(' ').filter(|scope| !granted.split(' ').any(|given| given == *scope)).collect();
    (!lacking.is_empty()).then(|| Oddity::Dropped(lacking.join(" ")))
}
