//! gRPC through the gateway, with gRPC's own library on both sides.

use std::fs;

use crate::{
    front::Front,
    programs::Program,
    stage::{Plan, Stage},
};

/// Every case of `tests/clients/grpc_client.py`.
const CASES: [&str; 12] = [
    "unary",
    "client_streaming",
    "server_streaming",
    "bidirectional",
    "error_with_details",
    "error_midway",
    "deadline",
    "cancellation",
    "large_messages",
    "compression",
    "metadata",
    "many_at_once",
];

/// A gRPC server that demands a token, and where it listens.
async fn server(arguments: &[&str]) -> (Program, u16) {
    let mut server = Program::python("grpc_server.py", arguments);
    let ready = server.hear().await;
    let port = ready.strip_prefix("ready ").unwrap_or_else(|| panic!("{ready}")).parse().unwrap();
    (server, port)
}

/// A gateway in front of a plain gRPC server: HTTP/2 by prior knowledge on both sides.
async fn in_front_of(port: u16, more: &str) -> Stage {
    let upstream = format!("{{url: \"http://127.0.0.1:{port}\", http2: prior_knowledge}}");
    let route = format!("grpc: {{match: {{path: /test.Orders}}, upstream: {upstream}, profile: account}}");
    let stage = Plan::default().routes(&route).more(more).start().await;
    stage.ready().await;
    stage
}

fn caller(address: &str, more: &[&str]) -> Program {
    Program::python("grpc_client.py", &[&[address], more].concat())
}

async fn all_cases_pass(mut caller: Program) {
    caller.say("all");
    for case in CASES {
        assert_eq!(caller.hear().await, format!("ok {case}"));
    }
    assert_eq!(caller.finish().await, ["done"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_call_gets_through_with_a_token() {
    let (_server, port) = server(&[]).await;
    let stage = in_front_of(port, "").await;
    all_cases_pass(caller(&stage.address().to_string(), &[])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_call_gets_through_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("api.pem"), folder.path().join("api.key"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let (_server, port) = server(&[certificate, key]).await;
    let upstream = format!("{{url: \"https://localhost:{port}\", ca: {{file: {certificate}}}}}");
    let plan = Plan::default().routes(&format!("grpc: {{upstream: {upstream}, profile: account}}"));
    let front = Front::start(plan).await;
    all_cases_pass(caller(&front.secure(), &["--ca", &front.certificate()])).await;
}

/// gRPC says "no token" with HTTP 200: the status stands in the head of an answer without a body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_revoked_is_replaced_though_the_answer_is_no_401() {
    let (mut server, port) = server(&[]).await;
    let stage = in_front_of(port, "").await;
    let mut caller = caller(&stage.address().to_string(), &[]);
    assert_eq!(caller.ask("status").await, "OK");
    assert_eq!(server.hear().await, "call Unary ok");
    for case in ["unary", "client_streaming", "server_streaming", "bidirectional", "compression"] {
        let issued = stage.idp.issued();
        server.say("revoke");
        while server.hear().await != "revoked" {}
        assert_eq!(caller.ask(case).await, format!("ok {case}"));
        assert!(server.hear().await.ends_with(" refused"));
        assert!(server.hear().await.ends_with(" ok"));
        assert_eq!(stage.idp.issued(), issued + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_the_gateway_reaches_the_caller_as_a_status_with_words() {
    let (_server, port) = server(&[]).await;
    let stage = in_front_of(port, "").await;
    let address = stage.address().to_string();
    let no_route = caller(&address, &["--service", "test.Elsewhere"]).ask("status").await;
    // gRPC's own word for a service that is not there.
    assert!(no_route.starts_with("UNIMPLEMENTED: "), "{no_route}");
    assert!(no_route.contains("route"), "{no_route}");

    let stage = {
        let upstream = format!("{{url: \"http://127.0.0.1:{port}\", http2: prior_knowledge}}");
        let route = format!("grpc: {{upstream: {upstream}, profile: account}}");
        Plan::default().routes(&route).profile("token_timeout: 1s").without_idp().start().await
    };
    let no_token = caller(&stage.address().to_string(), &[]).ask("status").await;
    assert!(no_token.starts_with("UNAVAILABLE: "), "{no_token}");
    assert!(no_token.contains("token"), "{no_token}");

    let stage = in_front_of(1, "").await;
    let no_upstream = caller(&stage.address().to_string(), &[]).ask("status").await;
    assert!(no_upstream.starts_with("UNAVAILABLE: "), "{no_upstream}");
    assert!(no_upstream.contains("upstream"), "{no_upstream}");
}
