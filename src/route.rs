//! Which route takes a request.
//!
//! A [`Table`] is built once from the configuration and then only read. Finding costs the same for one
//! route and for ten thousand: hosts and path prefixes are hashed, and a request is looked at only as
//! deep as any configured pattern goes. Only rules that share host and path are tried one by one.
//!
//! Nothing here knows what a route leads to: a `Table<T>` carries `T` and never looks at it.

use std::iter::successors;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use memchr::{memchr_iter, memrchr, memrchr_iter};
use rustc_hash::FxHashMap;

use crate::route::pattern::{HostPattern, PathPrefix, fold};

pub mod authority;
pub mod explain;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod origins;
pub mod path;
pub mod pattern;

#[cfg(test)]
mod path_tests;
#[cfg(test)]
mod tests;

/// Enough to see what is wrong with a configuration; ten thousand equal routes have fifty million.
const MAX_CONFLICTS: usize = 1000;

/// What a route is chosen by.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The host as [`authority::parse`] gave it: no port, any case.
    pub host: &'a str,
    /// The path as [`path::read`] gave it.
    pub path: &'a str,
    /// The method.
    pub method: &'a Method,
    /// The header fields.
    pub headers: &'a HeaderMap,
}

/// Which requests a route takes: those that meet every criterion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The host; `None` takes any.
    pub host: Option<HostPattern>,
    /// The path prefix; `/` takes any.
    pub path: PathPrefix,
    /// The methods; none takes any.
    pub methods: Vec<Method>,
    /// Fields that must be there, each exactly once and with exactly this value.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Rule {
    fn has_method(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method)
    }

    fn has_headers(&self, headers: &HeaderMap) -> bool {
        self.headers.iter().all(|(name, value)| {
            let mut lines = headers.get_all(name).iter();
            lines.next() == Some(value) && lines.next().is_none()
        })
    }

    /// Where rules of one host and path stand among each other: the greater is the more specific.
    fn rank(&self) -> (bool, usize) {
        (!self.methods.is_empty(), self.headers.len())
    }

    /// Whether one request could match both rules, of one host and path, with neither more specific.
    fn conflicts_with(&self, other: &Rule) -> bool {
        let share_method =
            self.methods.is_empty() || self.methods.iter().any(|method| other.methods.contains(method));
        let contradict = || {
            self.headers
                .iter()
                .any(|(name, value)| other.headers.iter().any(|(n, v)| n == name && v != value))
        };
        self.rank() == other.rank() && share_method && !contradict()
    }
}

/// A named rule and what it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// The route's name.
    pub name: String,
    /// Which requests it takes.
    pub rule: Rule,
    /// What it leads to.
    pub target: T,
}

/// Two routes that one request could match with equal rank.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "routes {first:?} and {second:?} could take the same request and neither is more specific: \
     make their host, path, methods or headers differ"
)]
pub struct Conflict {
    /// The name of the one defined first.
    pub first: String,
    /// The name of the other.
    pub second: String,
}

/// All routes of a gateway.
#[derive(Clone, Debug)]
pub struct Table<T> {
    entries: Vec<Entry<T>>,
    exact: FxHashMap<Box<str>, Paths>,
    below: FxHashMap<Box<str>, Paths>,
    /// The most labels that any suffix in `below` has.
    below_labels: usize,
    any: Paths,
}

impl<T> Table<T> {
    /// Builds the table, or tells which routes could take the same request with equal rank (the first
    /// 1000 pairs).
    pub fn build(entries: Vec<Entry<T>>) -> Result<Table<T>, Vec<Conflict>> {
        let conflicts = find_conflicts(&entries);
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        let mut order: Vec<_> = entries.iter().enumerate().collect();
        order.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.rule.rank()));
        let (mut exact, mut below) = (FxHashMap::<_, Paths>::default(), FxHashMap::<_, Paths>::default());
        let (mut below_labels, mut any) = (0, Paths::default());
        for (position, entry) in order {
            let paths = match &entry.rule.host {
                Some(HostPattern::Exact(name)) => exact.entry(name.clone()).or_default(),
                Some(HostPattern::Below(suffix)) => {
                    below_labels = below_labels.max(suffix.split('.').count());
                    below.entry(suffix.clone()).or_default()
                }
                None => &mut any,
            };
            paths.insert(&entry.rule.path, position);
        }
        Ok(Table { entries, exact, below, below_labels, any })
    }

    /// The most specific route that takes the request: exact host before longer before shorter suffix
    /// before none, then the longer path, then with methods before without, then more headers.
    pub fn find(&self, head: &Head<'_>) -> Option<&Entry<T>> {
        let host = fold(head.host);
        let exact = self.exact.get(&*host);
        let below = parents(&host, self.below_labels).filter_map(|suffix| self.below.get(suffix));
        exact.into_iter().chain(below).chain([&self.any]).find_map(|paths| {
            paths
                .under(head.path)
                .flatten()
                .filter_map(|position| self.entries.get(*position))
                .find(|entry| entry.rule.has_method(head.method) && entry.rule.has_headers(head.headers))
        })
    }

    /// All routes, in the order of their definition.
    pub fn entries(&self) -> &[Entry<T>] {
        &self.entries
    }
}

/// The rules of one host by path prefix.
#[derive(Clone, Debug, Default)]
struct Paths {
    /// Positions of entries by [`PathPrefix::key`], the most specific first.
    rules: FxHashMap<Box<str>, Vec<usize>>,
    /// The most segments that any prefix has.
    depth: usize,
    /// The most octets that any prefix has.
    length: usize,
}

impl Paths {
    fn insert(&mut self, prefix: &PathPrefix, position: usize) {
        self.depth = self.depth.max(prefix.depth());
        self.length = self.length.max(prefix.key().len());
        self.rules.entry(prefix.key().into()).or_default().push(position);
    }

    /// The rules of each prefix that `path` is under, the longest prefix first. However long `path` is,
    /// no more of it is looked at than a prefix can have.
    fn under(&self, path: &str) -> impl Iterator<Item = &Vec<usize>> {
        let whole = path.as_bytes();
        let window = whole.get(..=self.length).unwrap_or(whole);
        let deepest = memchr_iter(b'/', window)
            .nth(self.depth)
            .or_else(|| if whole.len() <= self.length { Some(whole.len()) } else { memrchr(b'/', window) });
        // The target "*" is no path and no route's business (RFC 9112 §3.2.4).
        let deepest = deepest.filter(|_| whole.starts_with(b"/"));
        let ends = successors(deepest, |end| memrchr(b'/', window.get(..*end)?));
        ends.filter_map(|end| self.rules.get(path.get(..end)?))
    }
}

/// The names above `host` that have at most `most` labels, the longest first.
fn parents(host: &str, most: usize) -> impl Iterator<Item = &str> {
    let dot = memrchr_iter(b'.', host.as_bytes()).take(most).last();
    let longest = dot.and_then(|dot| host.get(dot + 1..));
    successors(longest, |name| name.split_once('.').map(|(_, parent)| parent))
}

fn find_conflicts<T>(entries: &[Entry<T>]) -> Vec<Conflict> {
    let mut groups = FxHashMap::<_, Vec<&Entry<T>>>::default();
    let mut conflicts = Vec::new();
    for entry in entries {
        let group = groups.entry((&entry.rule.host, &entry.rule.path)).or_default();
        let rivals = group.iter().filter(|earlier| earlier.rule.conflicts_with(&entry.rule));
        let room = MAX_CONFLICTS - conflicts.len();
        conflicts.extend(
            rivals
                .take(room)
                .map(|earlier| Conflict { first: earlier.name.clone(), second: entry.name.clone() }),
        );
        group.push(entry);
    }
    conflicts
}
