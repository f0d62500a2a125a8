//! The rules of HTTP/2 for servers, all of them broken once by `tests/clients/http2_rules.py`.

use crate::{programs::Program, stage::Plan};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rule_of_http_2_is_kept() {
    let mut caller = Program::python("http2_rules.py", &[]);
    let upstream = caller.hear().await;
    let route = format!("all: {{upstream: \"http://127.0.0.1:{upstream}\", profile: account}}");
    let stage = Plan::default().routes(&route).start().await;
    stage.ready().await;
    caller.say(&stage.address().port().to_string());
    let said = caller.finish().await;
    let [summary] = said.as_slice() else { panic!("rules were not kept: {said:#?}") };
    let (kept, all) = summary.split_once(" of ").unwrap();
    assert_eq!(kept, all);
    assert!(all.parse::<usize>().unwrap() > 100, "{all} rules were tried");
}
