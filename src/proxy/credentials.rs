//! Credentials on requests: the profile's and those of profiles that go with it.
//!
//! Nearly every request has one bearer token in one field, so that case costs a copy of one field's
//! value. Everything else lies behind one pointer.

use std::{rc::Rc, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header::AUTHORIZATION, request};

use crate::{
    clock::{self, Moment},
    profile::{
        credential::{Ready, Slot},
        dpop::{Bound, DPOP, Subject},
    },
    proxy::{fault::Fault, query},
    secret::Secret,
    token::{Handle, Token},
    upstream::Upstream,
};

/// What one attempt proves its account with.
#[derive(Clone)]
pub struct Credentials {
    /// The generation of the profile's own token.
    generation: u64,
    /// The one field of nearly every request.
    authorization: Option<HeaderValue>,
    rest: Option<Rc<Rest>>,
    /// When the first of its tokens expires, if one does.
    expires: Option<Moment>,
}

#[derive(Default)]
struct Rest {
    fields: Vec<(HeaderName, HeaderValue)>,
    /// `name=value`, encoded.
    parameters: Vec<Secret>,
    bound: Option<Bound>,
    /// Generations of the tokens that go with it, in the order of the route's profiles.
    generations: Vec<u64>,
}

impl Credentials {
    /// What goes on requests for `token` and those that go with it.
    ///
    /// These are copies that belong to this thread: reference counts that travel between cores cost more
    /// than the copy. `None` when a value is no header's, which cannot be.
    pub fn of(token: &Token, also: &[Arc<Token>]) -> Option<Self> {
        let others = also.iter().map(|token| (token.generation(), token.ready()));
        let expiries = also.iter().filter_map(|token| token.expires());
        let expires = token.expires().into_iter().chain(expiries).min();
        Some(Self { expires, ..Self::made((token.generation(), token.ready()), others)? })
    }

    /// The same from generations and what goes on, which never expires.
    pub fn made<'a>(
        own: (u64, &'a Ready),
        others: impl ExactSizeIterator<Item = (u64, &'a Ready)>,
    ) -> Option<Self> {
        let (generation, ready) = own;
        if let (Ready::Header(AUTHORIZATION, value), 0) = (ready, others.len())
            && value.as_bytes().starts_with(b"Bearer ")
        {
            return Some(Self { generation, authorization: Some(copy(value)?), rest: None, expires: None });
        }
        let mut rest = Rest::default();
        rest.add(ready)?;
        for (generation, ready) in others {
            rest.generations.push(generation);
            rest.add(ready)?;
        }
        Some(Self { generation, authorization: None, rest: Some(Rc::new(rest)), expires: None })
    }

    /// Whether one of its tokens must not leave any more.
    pub fn have_expired(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= clock::now())
    }

    /// The generation of the profile's own token.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Generations of the tokens that go with it.
    pub fn generations_of_others(&self) -> &[u64] {
        self.rest.as_ref().map_or(&[], |rest| &rest.generations)
    }

    /// Whether an upstream that wants another one names the scheme Bearer, if any. One that wants an API key or
    /// a password names anything, or nothing.
    pub fn is_bearer(&self) -> bool {
        self.rest.is_none()
    }

    /// Whether it holds a token that is bound to a key.
    pub fn is_bound(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| rest.bound.is_some())
    }

    /// Keeps what an upstream's answer says about the proofs that it wants to read.
    pub fn learn(&self, upstream: &Upstream, answer: &HeaderMap) {
        if let Some(bound) = self.rest.as_ref().and_then(|rest| rest.bound.as_ref()) {
            bound.key.learn(&upstream.origin().to_string(), answer);
        }
    }

    /// Whether an upstream that has refused `other` would refuse this as well.
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.rest, &other.rest) {
            (None, None) => self.authorization == other.authorization,
            (Some(rest), Some(other)) => {
                let pairs = |rest: &Rest| rest.parameters.iter().map(|p| p.fingerprint()).collect::<Vec<_>>();
                let bound = |rest: &Rest| rest.bound.as_ref().map(|bound| Arc::clone(&bound.digest));
                rest.fields == other.fields && pairs(rest) == pairs(other) && bound(rest) == bound(other)
            }
            _ => false,
        }
    }

    /// Puts everything on: the last thing that happens to a request's head, whose method and target are
    /// those that `upstream` gets to read.
    ///
    /// # Errors
    /// [`Fault`] when the target has no room for a parameter, or the system gives no random numbers.
    pub fn put_on(&self, head: &mut request::Parts, upstream: &Upstream) -> Result<(), Fault> {
        if let Some(value) = &self.authorization {
            head.headers.insert(AUTHORIZATION, value.clone());
        }
        match &self.rest {
            None => Ok(()),
            Some(rest) => rest.put_on(head, upstream),
        }
    }
}

impl Rest {
    fn add(&mut self, ready: &Ready) -> Option<()> {
        match ready {
            Ready::Header(name, value) => self.fields.push((name.clone(), copy(value)?)),
            Ready::Query(pair) => self.parameters.push(pair.clone()),
            Ready::Dpop(bound) => {
                self.bound = Some(Bound { authorization: copy(&bound.authorization)?, ..bound.clone() });
            }
        }
        Some(())
    }

    fn put_on(&self, head: &mut request::Parts, upstream: &Upstream) -> Result<(), Fault> {
        if let Some(bound) = &self.bound {
            put_bound(bound, head, &upstream.origin().to_string())?;
        }
        for (name, value) in &self.fields {
            head.headers.insert(name, value.clone());
        }
        for pair in &self.parameters {
            head.uri = query::with(&head.uri, pair)?;
        }
        Ok(())
    }
}

/// Puts one credential on a request that is the gateway's own, to `origin`.
///
/// # Errors
/// [`Fault`] when the target has no room for a parameter, or the system gives no random numbers.
pub fn put_one(ready: &Ready, head: &mut request::Parts, origin: &str) -> Result<(), Fault> {
    match ready {
        Ready::Header(name, value) => {
            head.headers.insert(name, value.clone());
        }
        Ready::Query(pair) => head.uri = query::with(&head.uri, pair)?,
        Ready::Dpop(bound) => put_bound(bound, head, origin)?,
    }
    Ok(())
}

fn put_bound(bound: &Bound, head: &mut request::Parts, origin: &str) -> Result<(), Fault> {
    let (method, path) = (head.method.as_str(), head.uri.path());
    let subject = Subject { method, origin, path, token: Some(&bound.digest) };
    let proof = bound.key.proof(&subject).ok_or(Fault::Internal)?;
    head.headers.insert(AUTHORIZATION, bound.authorization.clone());
    head.headers.insert(DPOP, proof);
    Ok(())
}

fn copy(value: &HeaderValue) -> Option<HeaderValue> {
    let mut copy = HeaderValue::from_bytes(value.as_bytes()).ok()?;
    copy.set_sensitive(true);
    Some(copy)
}

/// Where a route's credentials go, beside `Authorization`: what a caller must not say itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    fields: Vec<HeaderName>,
    /// Names of parameters as [`query::read`] reads them.
    parameters: Vec<String>,
}

impl Slots {
    /// Those of all of a route's profiles.
    pub fn of<'a>(profiles: impl IntoIterator<Item = &'a Handle>) -> Self {
        let mut slots = Self::default();
        for slot in profiles.into_iter().flat_map(Handle::slots) {
            slots.add(slot);
        }
        slots
    }

    /// One more.
    pub fn add(&mut self, slot: Slot) {
        match slot {
            // Taken off every request already, whatever its route.
            Slot::Header(AUTHORIZATION) => {}
            Slot::Header(name) => self.fields.push(name),
            Slot::Query(name) => self.parameters.push(query::read(name.as_bytes())),
        }
    }

    /// Whether a field of this name is ours. `X_Api_Key` is `X-Api-Key` to servers that hand fields on as
    /// CGI variables.
    pub fn has_field(&self, name: &str) -> bool {
        self.fields.iter().any(|field| is_taken_for(field.as_str(), name))
    }

    /// Takes the caller's fields of our names off.
    pub fn strip(&self, headers: &mut HeaderMap) {
        if self.fields.is_empty() {
            return;
        }
        let theirs: Vec<HeaderName> =
            headers.keys().filter(|name| self.has_field(name.as_str())).cloned().collect();
        theirs.iter().for_each(|name| drop(headers.remove(name)));
    }

    /// Takes the caller's parameters of our names out of a target.
    ///
    /// # Errors
    /// [`Fault`] when what is left is no target, which cannot be.
    pub fn clean(&self, target: Uri) -> Result<Uri, Fault> {
        if self.parameters.is_empty() { Ok(target) } else { query::without(target, &self.parameters) }
    }
}

/// Whether an upstream could take what goes into one for what goes into the other.
pub fn collide(one: &Slot, other: &Slot) -> bool {
    match (one, other) {
        (Slot::Header(one), Slot::Header(other)) => is_taken_for(one.as_str(), other.as_str()),
        (Slot::Query(one), Slot::Query(other)) => {
            query::read(one.as_bytes()) == query::read(other.as_bytes())
        }
        _ => false,
    }
}

fn is_taken_for(ours: &str, theirs: &str) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    ours.len() == theirs.len() && ours.bytes().map(plain).eq(theirs.bytes().map(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(slots: &[Slot]) -> Slots {
        let mut out = Slots::default();
        slots.iter().for_each(|slot| out.add(slot.clone()));
        out
    }

    #[test]
    fn every_spelling_of_a_field_is_taken_off_and_no_other_field() {
        let ours = slots(&[Slot::Header(HeaderName::from_static("x-api-key"))]);
        let mut headers = HeaderMap::new();
        for name in ["X-API-Key", "x_api_key", "x-api_key", "x-api-key2", "x-api", "accept"] {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_static("theirs"));
        }
        ours.strip(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "x-api", "x-api-key2"]);
    }

    #[test]
    fn a_target_without_our_parameters_stays_as_it_is() {
        let ours = slots(&[Slot::Query("key".into())]);
        let target: Uri = "/a?b=%2F&c&&keys=1".parse().unwrap();
        assert_eq!(ours.clean(target.clone()).unwrap(), target);
        assert_eq!(ours.clean("/a?key=1".parse().unwrap()).unwrap(), "/a");
    }
}
