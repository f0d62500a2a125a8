//! Good files, shipped files, and the odd ways a file can be missing.

use std::{fs, path::PathBuf, time::Duration};

use super::*;
use crate::{
    profile::{Kind, authentication, oauth2},
    source::Source,
    upstream::Scheme,
};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

fn loaded(text: &str, environment: Option<&str>) -> Loaded {
    parse(text, Path::new("/nowhere/keybearer.yaml"), environment).unwrap_or_else(|e| panic!("{e}"))
}

fn refused(path: &Path) -> String {
    load(path, None).unwrap_err().to_string()
}

const GOOD: &str = r#"
listeners: {l: {address: "127.0.0.1:0"}}
profiles:
  crm:
    kind: oauth2
    issuer: https://id.example/
    client_id: 0123
    client_secret: {env: PATH}
    resource: https://a.example/api
    extra: {hint: emea}
    required: false
    recovery: {min_token_age: 0s}
routes:
  crm: {match: {path: /1, host: "*.a.example"}, upstream: "http://[::1]:7000/base/", profile: crm, replay: {limit: 0}}
  rest: {upstream: https://B.example, profile: none, pass_authorization: true}
environments:
  staging:
    profiles: {crm: {token_url: "https://id.example/t", client_secret: {file: s}}}
    routes: {crm: {upstream: https://c.example, match: {host: ~}}}
"#;

#[test]
fn each_cloud_and_door_of_entra_has_its_own_token_endpoint() {
    let endpoint = |more: &str| {
        let text = format!(
            "listeners: {{l: {{address: \"127.0.0.1:0\"}}}}\nprofiles: {{a: {{kind: entra, tenant: contoso.onmicrosoft.com, \
             client_id: a, client_secret: {{env: PATH}}, scope: api://orders/.default{more}}}}}\n\
             routes: {{r: {{upstream: \"https://a.example\", profile: a}}}}\n"
        );
        let settings = loaded(&text, None).settings;
        let Kind::Entra(entra) = &settings.profiles[0].profile.kind else { panic!("another kind") };
        match entra.as_oauth2().endpoint {
            oauth2::Endpoint::TokenUrl(url) => url.to_string(),
            oauth2::Endpoint::Issuer(issuer) => issuer,
        }
    };
    for (more, host) in [
        ("", "login.microsoftonline.com"),
        (", cloud: global", "login.microsoftonline.com"),
        (", cloud: us_government", "login.microsoftonline.us"),
        (", cloud: china", "login.partner.microsoftonline.cn"),
        (", cloud: bleu_france", "login.sovcloud-identity.fr"),
        (", cloud: delos_germany", "login.sovcloud-identity.de"),
        (", cloud: singapore_government", "login.sovcloud-identity.sg"),
        (", authority: \"https://contoso.ciamlogin.com\"", "contoso.ciamlogin.com"),
        (", policy: B2C_1_service", "contoso.b2clogin.com"),
    ] {
        let policy = if more.contains("policy") { "/B2C_1_service" } else { "" };
        let expected = format!("https://{host}/contoso.onmicrosoft.com{policy}/oauth2/v2.0/token");
        assert_eq!(endpoint(more), expected, "{more}");
    }
}

#[test]
fn the_line_shown_is_the_one_meant_whatever_ends_lines() {
    for end in ["\n", "\r\n", "\r", "\r\r\n"] {
        let text = ["# x", "listeners: {}", "routes:", "  r: {upstreem: https://a.example}", ""].join(end);
        let problems = parse(&text, Path::new("keybearer.yaml"), None).unwrap_err();
        let problem = problems.iter().find(|problem| problem.message.contains("upstreem")).unwrap();
        assert_eq!(problem.source_line.as_deref(), Some("  r: {upstreem: https://a.example}"), "{end:?}");
    }
}

#[test]
fn every_shipped_file_loads_without_a_warning() {
    let mut seen = 0;
    for entry in fs::read_dir(shipped("")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "yaml") {
            let loaded = load(&path, None).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(loaded.warnings, [], "{}", path.display());
            for name in &loaded.environments {
                load(&path, Some(name)).unwrap_or_else(|e| panic!("{e}"));
            }
            seen += 1;
        }
    }
    assert!(seen >= 3);
}

#[test]
fn the_full_sample_shows_every_default_as_it_is() {
    let full = load(&shipped("full.yaml"), None).unwrap().settings;
    let minimal = load(&shipped("minimal.yaml"), None).unwrap().settings;
    assert_eq!(full.limits, minimal.limits);
    assert_eq!(full.timeouts, minimal.timeouts);
    assert_eq!(full.replay, minimal.replay);
    assert_eq!(full.workers, minimal.workers);
    assert_eq!(full.log, minimal.log);
    let profile = |settings: &Settings| {
        let mut profile = settings.profiles[0].clone();
        profile.profile.expected_roles.clear();
        profile
    };
    assert_eq!(profile(&full), profile(&minimal));
}

#[test]
fn the_full_sample_has_every_key_of_the_schema() {
    fn keys(value: &serde_json::Value, out: &mut Vec<String>) {
        if let Some(properties) = value.get("properties").and_then(|p| p.as_object()) {
            out.extend(properties.keys().cloned());
        }
        value.as_object().into_iter().flatten().for_each(|(_, inner)| keys(inner, out));
        value.as_array().into_iter().flatten().for_each(|inner| keys(inner, out));
    }
    let mut all = Vec::new();
    keys(&schema(), &mut all);
    assert!(all.len() > 50);
    let text = fs::read_to_string(shipped("full.yaml")).unwrap();
    for key in all {
        assert!(text.contains(&format!("{key}:")), "config/full.yaml does not show {key}");
    }
}

#[test]
fn the_entra_sample_has_other_accounts_in_staging() {
    let accounts = |environment| {
        let settings = load(&shipped("entra.yaml"), environment).unwrap().settings;
        let tenant = |name: &Option<String>| {
            let profile = settings.profiles.iter().find(|p| Some(&p.profile.name) == name.as_ref());
            match &profile.unwrap().profile.kind {
                Kind::Entra(entra) => entra.tenant.clone(),
                _ => panic!("not entra"),
            }
        };
        settings.routes.iter().map(|route| tenant(&route.target.profile)).collect::<Vec<_>>()
    };
    assert_eq!(accounts(None), ["contosob2c.onmicrosoft.com"; 2]);
    assert_eq!(accounts(Some("staging")), ["contosostaging.onmicrosoft.com"; 2]);
}

#[test]
fn a_good_file_becomes_settings() {
    let settings = loaded(GOOD, None).settings;
    let crm = &settings.profiles[0];
    let Kind::OAuth2(kind) = &crm.profile.kind else { panic!("{crm:?}") };
    assert_eq!(kind.client_id, "0123");
    assert_eq!(kind.endpoint, oauth2::Endpoint::Issuer("https://id.example/".into()));
    assert_eq!(kind.resource, ["https://a.example/api"]);
    assert_eq!(kind.extra, [("hint".to_owned(), "emea".to_owned())]);
    assert!(!crm.required);
    assert_eq!(crm.recovery.min_token_age, Duration::ZERO);
    assert_eq!(crm.recovery.min_interval, Duration::from_secs(30));
    let [crm, rest] = &settings.routes[..] else { panic!("two routes") };
    assert_eq!(crm.target.upstream.scheme, Scheme::Http);
    assert_eq!((crm.target.upstream.host.as_str(), crm.target.upstream.port), ("::1", 7000));
    assert_eq!(crm.target.base_path.as_ref().unwrap().as_str(), "/base");
    assert_eq!(crm.target.replay_limit_bytes, 0);
    assert_eq!(crm.target.profile.as_deref(), Some("crm"));
    assert_eq!((rest.target.upstream.host.as_str(), rest.target.upstream.port), ("b.example", 443));
    assert!(rest.target.base_path.is_none() && rest.target.profile.is_none());
    assert!(rest.target.pass_authorization);
}

#[test]
fn an_environment_patches_and_the_rest_stays() {
    // Its secret is absent here: selected it would be a problem, otherwise it is a warning.
    let loaded = loaded(GOOD, None);
    assert_eq!(loaded.environments, ["staging"]);
    assert!(loaded.warnings[0].message.contains("/nowhere/s cannot be read"), "{:?}", loaded.warnings);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("s"), "secret").unwrap();
    let settings = parse(GOOD, &folder.path().join("k.yaml"), Some("staging")).unwrap().settings;
    let Kind::OAuth2(kind) = &settings.profiles[0].profile.kind else { panic!("{settings:?}") };
    assert!(matches!(kind.endpoint, oauth2::Endpoint::TokenUrl(_)), "the issuer gave way");
    let authentication::ClientAuth::SecretBasic { secret, .. } = &kind.auth else { panic!("{kind:?}") };
    assert_eq!(*secret, Source::File(folder.path().join("s")).into());
    assert_eq!(kind.client_id, "0123");
    let route = &settings.routes[0];
    assert_eq!(route.target.upstream.host, "c.example");
    assert!(route.rule.host.is_none(), "a key without a value takes the base's away");
    assert_eq!(route.rule.path.as_str(), "/1");
    assert_eq!(settings.environment.as_deref(), Some("staging"));
}

#[test]
fn ten_mistakes_are_reported_at_once() {
    let text = include_str!("testdata/ten_mistakes.yaml");
    let problems = parse(text, Path::new("k.yaml"), None).unwrap_err();
    assert!(problems.len() >= 10, "{problems}");
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("k.yaml");
    assert!(refused(&path).contains("k.yaml: cannot be read: no such file"));
    assert!(refused(folder.path()).ends_with("is a directory (name the file in it)"));
    fs::write(&path, b"listeners:\n  \xff\n").unwrap();
    assert!(refused(&path).contains("not UTF-8 text (line 2 has a byte that is none"));
}

#[test]
fn a_byte_order_mark_does_no_harm() {
    loaded(&format!("\u{feff}{GOOD}"), None);
}

#[test]
fn the_schema_lists_no_word_that_is_not_built() {
    let schema = schema().to_string();
    for word in ["transparent", "\"callers\""] {
        assert!(!schema.contains(word), "{word}");
    }
}

#[test]
fn a_thousand_routes_in_two_environments_are_read_in_a_moment() {
    let mut text = String::from("listeners: {l: {address: \"127.0.0.1:0\"}}\nroutes:\n");
    for i in 0..1000 {
        text += &format!("  r{i}: {{match: {{path: /r{i}}}, upstream: https://a.example, profile: none}}\n");
    }
    text += "environments: {staging: {routes: {r7: {upstream: https://b.example}}}}\n";
    let settings = loaded(&text, Some("staging")).settings;
    assert_eq!(settings.routes.len(), 1000);
    assert_eq!(settings.routes[7].target.upstream.host, "b.example");
}
