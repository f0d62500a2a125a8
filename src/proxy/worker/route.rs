//! A route as one worker sees it.

use std::{cell::RefCell, sync::Arc};

use crate::{
    proxy::{
        credentials::{Credentials, Slots},
        settings::RouteSettings,
        worker::{Route, Shard},
    },
    token,
    upstream::Upstream,
};

/// One worker's side of a route.
pub struct RouteState {
    route: Arc<Route>,
    shard: Arc<Shard>,
    /// A copy of the current tokens that no other thread touches.
    credentials: RefCell<Option<Credentials>>,
}

impl RouteState {
    pub(super) fn new(route: Arc<Route>, shard: Arc<Shard>) -> Self {
        Self { route, shard, credentials: RefCell::default() }
    }

    /// The route's name.
    pub fn name(&self) -> &str {
        &self.route.name
    }

    /// The matched path prefix.
    pub fn prefix(&self) -> &str {
        &self.route.prefix
    }

    /// What the route was told.
    pub fn settings(&self) -> &RouteSettings {
        &self.route.settings
    }

    /// Where it forwards to.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.route.upstream
    }

    /// The owner of its profile's token.
    pub fn profile(&self) -> Option<&token::Handle> {
        self.route.profile.as_ref()
    }

    /// This worker's counters.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// The owners of tokens that go on the same requests.
    pub fn also(&self) -> &[token::Handle] {
        &self.route.also
    }

    /// Where all these go beside `Authorization`.
    pub fn slots(&self) -> &Slots {
        &self.route.slots
    }

    /// What goes on a request now, if every profile has a valid token.
    pub fn current_credentials(&self) -> Option<Credentials> {
        let current = self.profile()?.current()?;
        if !self.route.also.is_empty() {
            return self.current_of_several(&current.arc());
        }
        let current = current.token();
        let mut copy = self.credentials.borrow_mut();
        match copy.as_ref() {
            Some(copied) if copied.generation() == current.generation() => Some(copied.clone()),
            _ => {
                *copy = Credentials::of(current, &[]);
                copy.clone()
            }
        }
    }

    fn current_of_several(&self, own: &token::Token) -> Option<Credentials> {
        let others = self.route.also.iter().map(|profile| Some(profile.current()?.arc()));
        let others: Vec<_> = others.collect::<Option<_>>()?;
        let mut copy = self.credentials.borrow_mut();
        let is_known = copy.as_ref().is_some_and(|copied| {
            let known = copied.generations_of_others().iter().copied();
            copied.generation() == own.generation() && known.eq(others.iter().map(|o| o.generation()))
        });
        if !is_known {
            *copy = Credentials::of(own, &others);
        }
        copy.clone()
    }
}
