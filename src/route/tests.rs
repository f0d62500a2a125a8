//! Who gets a request, who conflicts with whom, and what is said about it.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;

use crate::route::path::read;
use crate::route::pattern::{HostPattern, PathPrefix};
use crate::route::{Conflict, Entry, Head, Rule, Table};

fn route(name: &str, host: &str, path: &str) -> Entry<()> {
    let rule = Rule {
        host: (!host.is_empty()).then(|| HostPattern::parse(host).unwrap()),
        path: PathPrefix::parse(path).unwrap(),
        methods: Vec::new(),
        headers: Vec::new(),
    };
    Entry { name: name.to_owned(), rule, target: () }
}

impl Entry<()> {
    fn methods(mut self, methods: &[Method]) -> Self {
        self.rule.methods = methods.to_vec();
        self
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.rule.headers.push((HeaderName::from_static(name), HeaderValue::from_static(value)));
        self
    }
}

#[derive(Debug)]
struct Request {
    host: String,
    path: String,
    method: Method,
    headers: HeaderMap,
}

fn request(host: &str, path: &str) -> Request {
    Request { host: host.to_owned(), path: path.to_owned(), method: Method::GET, headers: HeaderMap::new() }
}

impl Request {
    fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.append(name, HeaderValue::from_static(value));
        self
    }

    fn head(&self) -> Head<'_> {
        Head { host: &self.host, path: &self.path, method: &self.method, headers: &self.headers }
    }
}

fn table(routes: Vec<Entry<()>>) -> Table<()> {
    Table::build(routes).unwrap()
}

fn found<'a>(table: &'a Table<()>, request: &Request) -> Option<&'a str> {
    table.find(&request.head()).map(|entry| entry.name.as_str())
}

fn conflicts(routes: Vec<Entry<()>>) -> Vec<(String, String)> {
    let pair = |conflict: Conflict| (conflict.first, conflict.second);
    Table::build(routes).err().unwrap_or_default().into_iter().map(pair).collect()
}

#[test]
fn an_exact_host_beats_a_suffix_beats_none() {
    let table = table(vec![
        route("any", "", "/"),
        route("short", "*.internal", "/"),
        route("long", "*.eu.internal", "/"),
        route("exact", "a.eu.internal", "/"),
        route("address", "[2001:db8::1]", "/"),
    ]);
    let expected = [
        ("a.eu.internal", "exact"),
        ("A.EU.Internal.", "exact"),
        ("b.eu.internal", "long"),
        ("c.b.eu.internal", "long"),
        ("eu.internal", "short"),
        ("xeu.internal", "short"),
        ("internal", "any"),
        ("xinternal", "any"),
        ("[2001:DB8:0::1]", "address"),
        ("[2001:db8::2]", "any"),
        ("10.0.0.1", "any"),
        ("", "any"),
    ];
    for (host, name) in expected {
        assert_eq!(found(&table, &request(host, "/x")), Some(name), "{host}");
    }
}

#[test]
fn what_is_no_path_has_no_route() {
    let table = table(vec![route("root", "", "/"), route("orders", "h", "/v1/orders")]);
    for path in ["", "*", "h:443", "x/v1/orders"] {
        assert_eq!(found(&table, &request("h", path)), None, "{path}");
        assert!(
            table
                .explain(&request("h", path).head(), 2)
                .iter()
                .all(|miss| miss.reasons[0].starts_with("path"))
        );
    }
}

#[test]
fn a_prefix_ends_at_a_segment() {
    let table = table(vec![route("orders", "", "/v1/orders")]);
    for path in ["/v1/orders", "/v1/orders/", "/v1/orders/7", "/v1/orders//", "/v1/orders/a/b/c"] {
        assert_eq!(found(&table, &request("h", path)), Some("orders"), "{path}");
    }
    for path in ["/v1/ordersX", "/v1/order", "/v1", "/", "/V1/orders", "/v1//orders", "//v1/orders", "*", ""]
    {
        assert_eq!(found(&table, &request("h", path)), None, "{path}");
    }
}

#[test]
fn the_longer_path_wins_within_a_host() {
    let table = table(vec![
        route("root", "h", "/"),
        route("deep", "h", "/a/b/c"),
        route("mid", "h", "/a"),
        route("other", "", "/a/b/c/d"),
    ]);
    for (path, name) in [("/", "root"), ("/x/b/c", "root"), ("/a/b", "mid"), ("/a/b/c/d/e", "deep")] {
        assert_eq!(found(&table, &request("h", path)), Some(name), "{path}");
    }
    assert_eq!(found(&table, &request("i", "/a/b/c/d")), Some("other"));
}

#[test]
fn methods_beat_headers_and_more_headers_beat_fewer() {
    let table = table(vec![
        route("plain", "", "/"),
        route("gold", "", "/").header("x-tier", "gold"),
        route("gold-eu", "", "/").header("x-tier", "gold").header("x-zone", "eu"),
        route("post", "", "/").methods(&[Method::POST]),
    ]);
    assert_eq!(found(&table, &request("h", "/")), Some("plain"));
    assert_eq!(found(&table, &request("h", "/").header("x-tier", "gold")), Some("gold"));
    let both = || request("h", "/").header("x-tier", "gold").header("x-zone", "eu");
    assert_eq!(found(&table, &both()), Some("gold-eu"));
    assert_eq!(found(&table, &both().method(Method::POST)), Some("post"));
}

#[test]
fn a_header_must_be_there_once_and_equal() {
    let table = table(vec![route("gold", "", "/").header("x-tier", "gold")]);
    let sent = |values: &[&'static str]| values.iter().fold(request("h", "/"), |r, v| r.header("x-tier", v));
    assert_eq!(found(&table, &sent(&["gold"])), Some("gold"));
    for values in [&[][..], &["Gold"], &["gold", "gold"], &["gold", "lead"], &["gold "], &["gold, gold"]] {
        assert_eq!(found(&table, &sent(values)), None, "{values:?}");
    }
}

#[test]
fn a_less_specific_route_takes_what_the_more_specific_leaves() {
    let table = table(vec![
        route("any", "", "/"),
        route("suffix", "*.b", "/v1"),
        route("exact", "a.b", "/v1").methods(&[Method::POST]),
    ]);
    assert_eq!(found(&table, &request("a.b", "/v1").method(Method::POST)), Some("exact"));
    assert_eq!(found(&table, &request("a.b", "/v1")), Some("suffix"));
    assert_eq!(found(&table, &request("a.b", "/v2")), Some("any"));
}

#[test]
fn every_pair_of_equal_rank_is_a_conflict() {
    let found = conflicts(vec![
        route("a", "h", "/x"),
        route("b", "H.", "/x/"),
        route("c", "", "/x").methods(&[Method::GET, Method::PUT]),
        route("d", "", "/x").methods(&[Method::PUT]),
        route("e", "", "/y").header("x-a", "1"),
        route("f", "", "/y").header("x-b", "1"),
    ]);
    let expected = [("a", "b"), ("c", "d"), ("e", "f")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(found, expected);
}

#[test]
fn routes_that_no_request_could_match_with_equal_rank_are_no_conflict() {
    let found = conflicts(vec![
        route("a", "h", "/x"),
        route("b", "i", "/x"),
        route("c", "*.h", "/x"),
        route("d", "", "/x"),
        route("e", "h", "/x/y"),
        route("f", "h", "/x").methods(&[Method::GET]),
        route("g", "h", "/x").methods(&[Method::PUT]),
        route("h", "h", "/x").header("x-a", "1"),
        route("i", "h", "/x").header("x-a", "2"),
        route("j", "h", "/x").header("x-a", "1").header("x-b", "1"),
    ]);
    assert_eq!(found, []);
}

#[test]
fn ten_thousand_equal_routes_are_told_in_a_bounded_list() {
    let routes = (0..10_000).map(|i| route(&format!("r{i}"), "", "/")).collect();
    assert_eq!(conflicts(routes).len(), 1000);
}

#[test]
fn ten_thousand_routes_are_all_found() {
    let routes =
        (0..10_000).map(|i| route(&format!("r{i}"), &format!("h{}.b", i / 10), &format!("/v{}", i % 10)));
    let table = table(routes.collect());
    assert_eq!(table.entries().len(), 10_000);
    for i in 0..10_000 {
        let request = request(&format!("h{}.b", i / 10), &format!("/v{}/x", i % 10));
        assert_eq!(found(&table, &request), Some(format!("r{i}").as_str()));
    }
}

#[test]
fn near_misses_come_nearest_first_in_plain_words() {
    let table = table(vec![
        route("far", "x.internal", "/v2").methods(&[Method::PUT]),
        route("host", "orders.internal", "/"),
        route("path", "", "/v1/orders"),
        route("write", "", "/").methods(&[Method::GET, Method::POST]).header("x-tier", "gold"),
        route("any", "", "/").header("x-user", "u"),
        route("wide", "", "/"),
    ]);
    let sent = request("a.internal", "/v1/ordersX").method(Method::DELETE).header("x-user", "u");
    let sent = sent.header("x-tier", "s3cret");
    let misses = table.explain(&sent.head(), 10);
    let said: Vec<_> = misses.iter().map(|miss| (miss.route.as_str(), miss.reasons.join("; "))).collect();
    let expected = [
        ("wide", "matches too, but route \"any\" is more specific"),
        ("path", "path \"/v1/ordersX\" is not under \"/v1/orders\""),
        ("host", "host is \"a.internal\", the route wants \"orders.internal\""),
        (
            "write",
            "method DELETE is not one of GET, POST; header x-tier is different, the route wants \"gold\"",
        ),
        (
            "far",
            "host is \"a.internal\", the route wants \"x.internal\"; \
             path \"/v1/ordersX\" is not under \"/v2\"; method DELETE is not one of PUT",
        ),
    ];
    assert_eq!(said, expected.map(|(route, words)| (route, words.to_owned())));
    assert!(!format!("{misses:?}").contains("s3cret"));
    assert_eq!(table.explain(&sent.head(), 2).len(), 2);
}

#[test]
fn missing_and_repeated_headers_are_told_apart() {
    let table = table(vec![route("gold", "", "/").header("x-tier", "gold")]);
    let reason = |request: Request| table.explain(&request.head(), 1).remove(0).reasons.remove(0);
    assert_eq!(reason(request("h", "/")), "header x-tier is missing, the route wants \"gold\"");
    let twice = request("h", "/").header("x-tier", "gold").header("x-tier", "gold");
    assert_eq!(reason(twice), "header x-tier is there more than once, the route wants \"gold\"");
}

#[test]
fn host_patterns_are_kept_in_one_form() {
    let table = [
        ("Orders.Internal.", "orders.internal"),
        ("*.Example.com", "*.example.com"),
        ("10.0.0.1", "10.0.0.1"),
        ("[2001:DB8:0:0::1]", "[2001:db8::1]"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("my_service", "my_service"),
    ];
    for (text, form) in table {
        assert_eq!(HostPattern::parse(text).unwrap().to_string(), form);
    }
}

#[test]
fn what_is_no_host_is_refused_with_a_remedy() {
    let table = [
        ("", "leave it out to match any host"),
        ("*", "only as its first label"),
        ("a.*.b", "only as its first label"),
        ("*a.b", "only as its first label"),
        ("a.b:80", "has a port"),
        ("[::1]:80", "has a port"),
        ("bücher.example", "punycode"),
        ("a b", "' '"),
        ("a/b", "'/'"),
        ("https://a", "has a port"),
        ("a@b", "'@'"),
        ("a%2eb", "'%'"),
        ("a..b", "not a name"),
        (".", "not a name"),
        ("*.", "only as its first label"),
        ("*..a", "not a name"),
        ("::1", "not an IP address"),
        ("[::1", "not an IP address"),
        ("[::g]", "not an IP address"),
        ("10.0.0.256", "not an IP address"),
        ("1.2", "not an IP address"),
        ("*.0.0.1", "not an IP address"),
    ];
    for (text, words) in table {
        let error = HostPattern::parse(text).unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
    assert!(HostPattern::parse(&"a".repeat(64)).is_err());
    assert!(HostPattern::parse(&"a.".repeat(130)).is_err());
}

#[test]
fn path_prefixes_are_kept_in_one_form() {
    for (text, form) in [("/", "/"), ("/a", "/a"), ("/a/b/", "/a/b"), ("/a%20b", "/a%20b"), ("/a;b", "/a;b")]
    {
        assert_eq!(PathPrefix::parse(text).unwrap().to_string(), form);
    }
}

#[test]
fn what_is_no_path_prefix_is_refused_with_a_remedy() {
    let table = [
        ("", "does not begin with"),
        ("a/b", "does not begin with"),
        ("/a?b", "has '?'"),
        ("/a#b", "has '#'"),
        ("/a b", "%20"),
        ("/a/../b", "a dot segment"),
        ("/a//b", "an empty segment"),
        ("//", "an empty segment"),
        ("/a%2fb", "an encoded slash"),
        ("/%61", "write \"/a\""),
        ("/%c3%a9", "write \"/%C3%A9\""),
        ("/é", "a non-ASCII character"),
    ];
    for (text, words) in table {
        let error = PathPrefix::parse(text).unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
}

/// What `find` promises, said without any index: of all rules that match, the greatest by precedence.
fn best_by_definition<'a>(routes: &'a [Entry<()>], request: &Request) -> Option<&'a str> {
    let host = request.host.to_ascii_lowercase();
    let is_match = |rule: &Rule| {
        rule.host.as_ref().is_none_or(|pattern| match pattern {
            HostPattern::Exact(name) => **name == *host,
            HostPattern::Below(suffix) => host.ends_with(&format!(".{suffix}")),
        }) && (request.path == rule.path.as_str()
            || request.path.starts_with(&format!("{}/", rule.path.as_str().trim_end_matches('/'))))
            && (rule.methods.is_empty() || rule.methods.contains(&request.method))
            && rule.headers.iter().all(|(name, value)| request.headers.get(name) == Some(value))
    };
    let host_rank = |rule: &Rule| match &rule.host {
        Some(HostPattern::Exact(_)) => (2, 0),
        Some(HostPattern::Below(suffix)) => (1, suffix.len()),
        None => (0, 0),
    };
    let best = routes.iter().filter(|entry| is_match(&entry.rule)).max_by_key(|entry| {
        let rule = &entry.rule;
        (
            host_rank(rule),
            rule.path.as_str().trim_end_matches('/').len(),
            !rule.methods.is_empty(),
            rule.headers.len(),
        )
    });
    best.map(|entry| entry.name.as_str())
}

fn any_route() -> impl Strategy<Value = Entry<()>> {
    let host = prop::sample::select(vec!["", "a", "b.a", "c.b.a", "*.a", "*.b.a", "*.c.b.a"]);
    let path = prop::sample::select(vec!["/", "/x", "/x/y", "/x/y/z", "/xx", "/y"]);
    let method = prop::option::of(prop::sample::select(vec![Method::GET, Method::PUT]));
    let tier = prop::option::of(prop::sample::select(vec!["1", "2"]));
    (host, path, method, tier).prop_map(|(host, path, method, tier)| {
        let entry = route("", host, path).methods(method.as_slice());
        tier.into_iter().fold(entry, |entry, tier| entry.header("x-tier", tier))
    })
}

fn any_request() -> impl Strategy<Value = Request> {
    let host = prop::sample::select(vec!["a", "b.a", "c.b.a", "D.c.B.a", "z"]);
    let path = "(/(x|y|z|xx|)){0,4}/?";
    let method = prop::sample::select(vec![Method::GET, Method::PUT]);
    let tier = prop::option::of(prop::sample::select(vec!["1", "2"]));
    (host, path, method, tier).prop_map(|(host, path, method, tier)| {
        let request = request(host, &path).method(method);
        tier.into_iter().fold(request, |request, tier| request.header("x-tier", tier))
    })
}

proptest! {
    #[test]
    fn find_takes_the_most_specific_of_all_that_match(
        candidates in prop::collection::vec(any_route(), 0..40),
        requests in prop::collection::vec(any_request(), 1..20),
    ) {
        let mut routes: Vec<Entry<()>> = Vec::new();
        for (index, candidate) in candidates.into_iter().enumerate() {
            routes.push(Entry { name: format!("r{index}"), ..candidate });
            if Table::build(routes.clone()).is_err() {
                routes.pop();
            }
        }
        let table = table(routes.clone());
        for request in requests {
            prop_assert_eq!(found(&table, &request), best_by_definition(&routes, &request));
            let misses = table.explain(&request.head(), routes.len());
            prop_assert_eq!(misses.len() + usize::from(found(&table, &request).is_some()), routes.len());
            prop_assert!(misses.iter().all(|miss| !miss.reasons.is_empty()));
        }
    }

    #[test]
    fn the_route_of_a_request_is_the_route_of_what_is_sent(tail in "(/|a|b|%61|%2f|;|%|\\.){0,8}") {
        let paths = ["/", "/a", "/a/b", "/aa"];
        let table = table(paths.map(|path| route(path, "", path)).to_vec());
        let raw = format!("/{tail}");
        let matched = read(&raw).path.into_owned();
        let sent = read(&matched).path.into_owned();
        prop_assert_eq!(found(&table, &request("h", &matched)), found(&table, &request("h", &sent)));
    }
}
