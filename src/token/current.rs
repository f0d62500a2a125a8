//! Reading the current token.

use std::sync::Arc;

use arc_swap::Guard;

use crate::token::Token;

/// A lock-free hold on the current token, for the length of a few statements.
pub struct Current(pub(super) Guard<Option<Arc<Token>>>);

impl Current {
    /// The token.
    pub fn token(&self) -> &Token {
        self.0.as_ref().expect("`Handle::current` gives no empty guard")
    }

    /// A hold that may be kept across an await.
    pub fn arc(&self) -> Arc<Token> {
        Arc::clone(self.0.as_ref().expect("`Handle::current` gives no empty guard"))
    }
}
