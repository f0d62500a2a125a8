//! What a machine tells about itself: environment variables, and the files of the Azure Arc agent.

use std::path::PathBuf;

/// The program of the Azure Arc agent that gives tokens.
const ARC_AGENT: &str = "/opt/azcmagent/bin/himds";
/// Where that program puts its keys.
const ARC_TOKENS: &str = "/var/opt/azcmagent/tokens";

/// Gives the value of an environment variable.
type Lookup = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Everything that finding the endpoint goes by. Tests make their own.
pub(super) struct Surroundings {
    pub(super) variables: Box<Lookup>,
    pub(super) arc_agent: PathBuf,
    /// The only folder that Arc's keys are read from.
    pub(super) arc_tokens: PathBuf,
}

impl Surroundings {
    pub(super) fn of_this_process() -> Self {
        Self {
            variables: Box::new(|name| std::env::var(name).ok()),
            arc_agent: ARC_AGENT.into(),
            arc_tokens: ARC_TOKENS.into(),
        }
    }

    /// A variable that is set and not empty.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.variables)(name).filter(|value| !value.is_empty())
    }

    /// Whether the Azure Arc agent is installed.
    pub(super) fn has_arc_agent(&self) -> bool {
        self.arc_agent.exists()
    }
}
