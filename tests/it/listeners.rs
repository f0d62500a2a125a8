//! TLS and unix sockets: who gets in, with which certificate, and what changes while it runs.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    process::Command,
    sync::Mutex,
    time::Duration,
};

use keybearer::{app, config};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{
    authority::{self, Authority, Issued, TLS_1_2, TLS_1_3, shown},
    frames::{PREFACE, SETTINGS, frame, get},
    process::Process,
    stage::{PATIENCE, Plan, Stage, eventually, pause},
};

/// A gateway whose listener `local` speaks TLS, with `server.pem` for `gateway.example` in `folder`.
struct Secured {
    stage: Stage,
    authority: Authority,
    server: Issued,
    folder: TempDir,
}

/// The plan of a [`Secured`]; `{folder}` in `more` stands for its folder.
async fn secured(more: &str, prepare: impl FnOnce(&Authority, &Path)) -> Secured {
    secured_with(more, "", prepare).await
}

async fn secured_with(more: &str, sections: &str, prepare: impl FnOnce(&Authority, &Path)) -> Secured {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let server = authority.issue(&["gateway.example", "127.0.0.1"]);
    server.write(folder.path(), "server");
    prepare(&authority, folder.path());
    let place = folder.path().display().to_string();
    let listener = format!(
        "local:\n  address: 127.0.0.1:0\n  tls:\n    certificate: {{file: {place}/server.pem}}\n    \
         key: {{file: {place}/server.key}}\n    {}",
        more.replace("{folder}", &place)
    );
    let stage = Plan::default().listeners(&listener).more(sections).start().await;
    stage.ready().await;
    Secured { stage, authority, server, folder }
}

impl Secured {
    async fn metric(&self, name: &str) -> f64 {
        metric(&self.stage, name).await
    }
}

/// The value of the one sample that begins like this.
pub(crate) async fn metric(stage: &Stage, name: &str) -> f64 {
    let text = stage.admin("/metrics").await.1;
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Waits for a condition that has to be asked for.
async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let holds = async {
        while !condition().await {
            pause().await;
        }
    };
    tokio::time::timeout(PATIENCE, holds).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

fn is_ok(answer: &io::Result<String>) -> bool {
    answer.as_ref().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

fn curl(arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new("curl");
    command.args(["-sS", "--noproxy", "*", "-m", "20", "-o", "/dev/null"]);
    command.args(["-w", "%{http_code} %{http_version}"]).args(arguments);
    let output = command.output().expect("curl is installed");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text.into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_over_tls_reaches_the_api_with_the_token_in_each_protocol() {
    let secured = secured("", |_, _| {}).await;
    let address = secured.stage.address();
    let url = format!("https://gateway.example:{}/v1/orders", address.port());
    let certificate = reqwest::Certificate::from_pem(secured.authority.pem.as_bytes()).unwrap();
    let client = || {
        let builder = reqwest::Client::builder().no_proxy().timeout(PATIENCE);
        builder.tls_certs_only([certificate.clone()]).resolve("gateway.example", address)
    };
    for (client, version) in
        [(client(), reqwest::Version::HTTP_2), (client().http1_only(), reqwest::Version::HTTP_11)]
    {
        let response = client.build().unwrap().get(&url).send().await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (200, version));
        assert!(secured.stage.api.last().unwrap().token().is_some());
    }
    fs::write(secured.folder.path().join("ca.pem"), &secured.authority.pem).unwrap();
    let ca = secured.folder.path().join("ca.pem").display().to_string();
    let resolve = format!("gateway.example:{}:127.0.0.1", address.port());
    for (option, answer) in [("--http2", "200 2"), ("--http1.1", "200 1.1")] {
        let arguments = [option, "--cacert", &ca, "--resolve", &resolve, &url];
        assert_eq!(tokio::task::block_in_place(|| curl(&arguments)), (true, answer.to_owned()));
    }
    assert_eq!(secured.stage.api.unauthorized(), 0);
}

#[tokio::test]
async fn the_server_name_chooses_the_certificate() {
    let additional = "additional:\n      - {certificate: {file: {folder}/wild.pem}, key: {file: {folder}/wild.key}}\n      \
                      - {certificate: {file: {folder}/exact.pem}, key: {file: {folder}/exact.key}}";
    let secured = secured(additional, |authority, folder| {
        authority.issue(&["*.orders.example", "orders.example"]).write(folder, "wild");
        authority.issue(&["eu.orders.example"]).write(folder, "exact");
    })
    .await;
    let read = |name: &str| fs::read_to_string(secured.folder.path().join(name)).unwrap();
    let check = async |name: &str, pem: &str| {
        let stream = secured.authority.caller().connect(secured.stage.address(), name).await.unwrap();
        let expected = rustls::pki_types::pem::PemObject::from_pem_slice(read(pem).as_bytes()).unwrap();
        assert_eq!(shown(&stream), expected, "{name} is shown another certificate than {pem}");
    };
    check("gateway.example", "server.pem").await;
    check("orders.example", "wild.pem").await;
    check("us.orders.example", "wild.pem").await;
    check("eu.orders.example", "exact.pem").await;
    // An address is not sent as a server name.
    check("127.0.0.1", "server.pem").await;
    let unknown = secured.authority.caller().connect(secured.stage.address(), "unknown.example").await;
    let words = unknown.unwrap_err().to_string();
    assert!(words.contains("NotValidForName") || words.contains("not valid for name"), "{words}");
}

#[tokio::test]
async fn a_request_for_another_certificates_name_is_misdirected() {
    let additional =
        "additional: [{certificate: {file: {folder}/other.pem}, key: {file: {folder}/other.key}}]";
    let secured = secured(additional, |authority, folder| {
        authority.issue(&["other.example"]).write(folder, "other");
    })
    .await;
    let connect = |name| secured.authority.caller().connect(secured.stage.address(), name);
    let mut stream = connect("other.example").await.unwrap();
    let answer = authority::get(&mut stream, "other.example:443").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut stream = connect("other.example").await.unwrap();
    let answer = authority::get(&mut stream, "gateway.example").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
    // Who asks for no name has not asked for another one.
    let mut stream = connect("127.0.0.1").await.unwrap();
    let answer = authority::get(&mut stream, "other.example").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(secured.stage.api.requests(), 2);
}

#[tokio::test]
async fn a_required_client_certificate_must_be_there_and_of_the_authority() {
    let secured = secured("client_ca: {file: {folder}/ca.pem}", |authority, folder| {
        fs::write(folder.join("ca.pem"), &authority.pem).unwrap();
    })
    .await;
    let (caller, address) = (secured.authority.caller(), secured.stage.address());
    let daemon = secured.authority.issue(&["daemon.example"]);
    let stranger = Authority::new().issue(&["daemon.example"]);
    for versions in [TLS_1_2, TLS_1_3] {
        let caller = caller.versions(versions);
        assert!(is_ok(&caller.with(&daemon).get(address, "gateway.example").await));
        assert!(
            caller.get(address, "gateway.example").await.is_err(),
            "nobody gets in without a certificate"
        );
        assert!(caller.with(&stranger).get(address, "gateway.example").await.is_err());
    }
    assert_eq!(secured.stage.api.requests(), 2);
    let refused = "keybearer_connections_refused_total{listener=\"local\",reason=\"tls_handshake\"}";
    until("four handshakes are counted", async || secured.metric(refused).await == 4.0).await;
    assert_eq!(secured.metric("keybearer_connections_accepted_total{listener=\"local\"}").await, 6.0);
}

#[tokio::test]
async fn an_optional_client_certificate_may_be_absent_but_not_of_somebody_else() {
    let secured =
        secured("client_ca: {file: {folder}/ca.pem}\n    client_auth: optional", |authority, folder| {
            fs::write(folder.join("ca.pem"), &authority.pem).unwrap();
        })
        .await;
    let (caller, address) = (secured.authority.caller(), secured.stage.address());
    let daemon = secured.authority.issue(&["daemon.example"]);
    let stranger = Authority::new().issue(&["daemon.example"]);
    assert!(is_ok(&caller.get(address, "gateway.example").await));
    assert!(is_ok(&caller.with(&daemon).get(address, "gateway.example").await));
    assert!(caller.with(&stranger).get(address, "gateway.example").await.is_err());
}

#[tokio::test]
async fn old_versions_and_plain_http_are_refused() {
    let secured = secured("min_version: \"1.3\"", |_, _| {}).await;
    let (caller, address) = (secured.authority.caller(), secured.stage.address());
    assert!(caller.versions(TLS_1_2).connect(address, "gateway.example").await.is_err());
    let stream = caller.connect(address, "gateway.example").await.unwrap();
    assert_eq!(authority::version(&stream), rustls::ProtocolVersion::TLSv1_3);
    let answer = secured.stage.raw("GET /v1/orders HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("use https"), "{answer}");
    assert_eq!(answer.matches("connection: close").count(), 1, "{answer}");
    assert_eq!(secured.stage.api.requests(), 0);
    let other = caller.alpn(&["spdy/3"]).connect(address, "gateway.example").await;
    assert!(other.is_err(), "a protocol that nobody speaks is agreed on");
}

/// Whoever has agreed on HTTP/2 has to begin it as soon as any other head.
#[tokio::test]
async fn a_preface_that_dribbles_over_tls_ends() {
    let secured = secured_with("", "timeouts: {header_read: 500ms, idle: 30s}", |_, _| {}).await;
    let caller = secured.authority.caller().alpn(&["h2"]);
    let begun = tokio::time::Instant::now();
    // The preface that stops, the one that goes on byte by byte, and one behind which nothing comes.
    let beginnings = [vec![&PREFACE[..10]], PREFACE.chunks(1).collect(), vec![PREFACE]];
    for pieces in beginnings {
        let stream = caller.connect(secured.stage.address(), "gateway.example").await.unwrap();
        let (mut reading, mut writing) = tokio::io::split(stream);
        let sending = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(200));
            for piece in pieces {
                ticks.tick().await;
                if writing.write_all(piece).await.is_err() || writing.flush().await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        let mut answer = Vec::new();
        // What is dropped has nothing left to do.
        tokio::select! {
            ended = tokio::time::timeout(PATIENCE, reading.read_to_end(&mut answer)) => drop(ended.expect("it ends")),
            () = sending => {}
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_session_is_resumed_where_it_began_and_nowhere_else() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.issue(&["gateway.example"]).write(folder.path(), "server");
    fs::write(folder.path().join("ca.pem"), &authority.pem).unwrap();
    let place = folder.path().display();
    let tls = format!("certificate: {{file: {place}/server.pem}}, key: {{file: {place}/server.key}}");
    let listeners = format!(
        "local: {{address: \"127.0.0.1:0\", tls: {{{tls}}}}}\n\
         strict: {{address: \"127.0.0.1:0\", tls: {{{tls}, client_ca: {{file: {place}/ca.pem}}}}}}"
    );
    let stage = Plan::default().listeners(&listeners).start().await;
    for versions in [TLS_1_2, TLS_1_3] {
        let config = authority.caller().versions(versions).config();
        let open = async |listener: &str| {
            let address = stage.gateway.listener(listener).unwrap();
            let mut stream = authority::connect(&config, address, "gateway.example").await?;
            // Reads the tickets as well.
            let answer = authority::get(&mut stream, "gateway.example").await;
            answer.map(|_| authority::is_resumed(&stream))
        };
        assert!(!open("local").await.unwrap());
        assert!(open("local").await.unwrap(), "a session is not resumed at all");
        assert!(open("strict").await.is_err(), "a session without a certificate gets in elsewhere");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_certificate_is_shown_to_new_connections_while_old_ones_go_on() {
    let secured = secured("", |_, _| {}).await;
    let (caller, address) = (secured.authority.caller(), secured.stage.address());
    let mut old = caller.connect(address, "gateway.example").await.unwrap();
    assert!(is_ok(&authority::get(&mut old, "gateway.example").await));
    assert_eq!(shown(&old), secured.server.der);
    let renewed = secured.authority.issue_expired("gateway.example");
    renewed.write(secured.folder.path(), "server");
    let name = "keybearer_listener_certificate_reloads_total{listener=\"local\",result=\"ok\"}";
    until("the certificate is renewed", async || secured.metric(name).await >= 1.0).await;
    // Expired, which callers that look will not like: only a warning here.
    let words = caller.connect(address, "gateway.example").await.unwrap_err().to_string();
    assert!(words.contains("xpired"), "{words}");
    let expiry = secured.metric("keybearer_listener_certificate_expiry_seconds{listener=\"local\"").await;
    assert_eq!(expiry, 1_577_923_200.0, "2020-01-02 in seconds");
    assert!(is_ok(&authority::get(&mut old, "gateway.example").await), "the old connection is dropped");
}

/// A connection that was opened before and said nothing used to begin with what was in force then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_was_silent_meanwhile_is_judged_by_the_new_files() {
    let secured = secured("client_ca: {file: {folder}/ca.pem}", |authority, folder| {
        fs::write(folder.join("ca.pem"), &authority.pem).unwrap();
    })
    .await;
    let daemon = secured.authority.issue(&["daemon.example"]);
    let silent = TcpStream::connect(secured.stage.address()).await.unwrap();
    until("it is open", async || secured.metric("keybearer_connections{").await == 1.0).await;
    fs::write(secured.folder.path().join("ca.pem"), Authority::new().pem).unwrap();
    let name = "keybearer_listener_certificate_reloads_total{listener=\"local\",result=\"ok\"}";
    until("the authorities are changed", async || secured.metric(name).await >= 1.0).await;
    let connector = TlsConnector::from(secured.authority.caller().with(&daemon).config());
    let answer = async {
        let mut stream = connector.connect("gateway.example".try_into().unwrap(), silent).await?;
        authority::get(&mut stream, "gateway.example").await
    };
    assert!(answer.await.is_err(), "a certificate of an authority that is trusted no more");
    assert_eq!(secured.stage.api.requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_swapped_by_a_link_is_noticed() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    // As Kubernetes mounts a secret: files are links through `..data`, which is replaced as a whole.
    let put = |name: &str, issued: &Issued| {
        fs::create_dir(folder.path().join(name)).unwrap();
        issued.write(&folder.path().join(name), "tls");
        symlink(name, folder.path().join("..next")).unwrap();
        fs::rename(folder.path().join("..next"), folder.path().join("..data")).unwrap();
    };
    let (first, second) = (authority.issue(&["gateway.example"]), authority.issue(&["gateway.example"]));
    put("..first", &first);
    for name in ["tls.pem", "tls.key"] {
        symlink(format!("..data/{name}"), folder.path().join(name)).unwrap();
    }
    let place = folder.path().display();
    let listener = format!(
        "local: {{address: \"127.0.0.1:0\", tls: {{certificate: {{file: {place}/tls.pem}}, key: {{file: {place}/tls.key}}}}}}"
    );
    let stage = Plan::default().listeners(&listener).start().await;
    let connect = || authority.caller().connect(stage.address(), "gateway.example");
    assert_eq!(shown(&connect().await.unwrap()), first.der);
    put("..second", &second);
    until("the second certificate is shown", async || shown(&connect().await.unwrap()) == second.der).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_cannot_be_used_leave_the_old_certificate_in_place_and_are_complained_of_once() {
    let secured = secured("", |_, _| {}).await;
    let process = Process::start(&secured.stage, &[]).await;
    let caller = secured.authority.caller();
    let other = secured.authority.issue(&["gateway.example"]);
    fs::write(secured.folder.path().join("server.pem"), &other.pem).unwrap();
    let complaint = "does not fit the certificate";
    eventually("the gateway complains", || process.has_logged(complaint)).await;
    let stream = caller.connect(process.address(), "gateway.example").await.unwrap();
    assert_eq!(shown(&stream), secured.server.der);
    let failed = "keybearer_listener_certificate_reloads_total{listener=\"local\",result=\"failed\"}";
    until("the failure is counted", async || secured.metric(failed).await == 1.0).await;
    fs::write(secured.folder.path().join("server.pem"), "half of a cert").unwrap();
    eventually("the next complaint", || process.has_logged("holds no certificate")).await;
    // Whoever opens a pipe waits for ever, and the files would not be followed any more.
    let certificate = secured.folder.path().join("server.pem");
    fs::remove_file(&certificate).unwrap();
    assert!(Command::new("mkfifo").arg(&certificate).status().unwrap().success());
    eventually("the pipe is named", || process.has_logged("is a pipe or a device")).await;
    fs::remove_file(&certificate).unwrap();
    other.write(secured.folder.path(), "server");
    eventually("the new one is in use", || process.has_logged("have changed and are in use")).await;
    let stream = caller.connect(process.address(), "gateway.example").await.unwrap();
    assert_eq!(shown(&stream), other.der);
    let lines = process.lines();
    assert_eq!(lines.iter().filter(|line| line.contains(complaint)).count(), 1, "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("gateway.example")), "the names are told");
}

/// The TLS library used to warn of each with the whole name, as often as a stranger liked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_none_in_a_greeting_is_not_logged() {
    let secured = secured("", |_, _| {}).await;
    let process = Process::start(&secured.stage, &["--log-level", "debug"]).await;
    for name in [&b"no name"[..], b"192.0.2.77"] {
        let mut stream = TcpStream::connect(process.address()).await.unwrap();
        stream.write_all(&greeting(name)).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    let failed = || process.lines().iter().filter(|line| line.contains("the TLS handshake failed")).count();
    eventually("both handshakes have failed", || failed() == 2).await;
    assert!(!process.has_logged("no name") && !process.has_logged("192.0.2.77"), "{:#?}", process.lines());
}

/// A ClientHello that asks for this name (RFC 8446 §4.1.2, RFC 6066 §3) and offers nothing else.
fn greeting(name: &[u8]) -> Vec<u8> {
    let with_length =
        |bytes: Vec<u8>| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat();
    let names = with_length([&[0][..], &with_length(name.to_vec())].concat());
    let extensions = with_length([&[0, 0][..], &with_length(names)].concat());
    let hello = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 0x01, 1, 0], &extensions].concat();
    let message = [&[1, 0][..], &with_length(hello)].concat();
    [&[22, 3, 1][..], &with_length(message)].concat()
}

/// It used to be IPv6 only on a listener, and both on the admin listener.
#[tokio::test]
async fn every_address_in_ipv6_is_every_address_in_ipv4_as_well() {
    if std::net::TcpListener::bind("[::]:0").is_err() {
        println!("this machine has no IPv6: this is not tried");
        return;
    }
    let listeners = "local: {address: \"[::]:0\"}";
    let stage = Plan::default().listeners(listeners).start().await;
    stage.ready().await;
    for host in ["127.0.0.1", "[::1]"] {
        let url = format!("http://{host}:{}/v1/orders", stage.address().port());
        assert_eq!(stage.http.get(url).send().await.unwrap().status(), 200);
    }
    // A caller is who it is, whichever way it came.
    let (_, callers) = stage.admin("/api/v1/callers").await;
    assert!(callers.contains("\"127.0.0.1") && !callers.contains("ffff"), "{callers}");
}

#[tokio::test]
async fn a_handshake_that_stands_still_is_ended() {
    let secured = secured_with("", "timeouts: {tls_handshake: 200ms}", |_, _| {}).await;
    for beginning in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = TcpStream::connect(secured.stage.address()).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        let _ = ended.expect("the gateway closes the connection");
    }
    let refused = "keybearer_connections_refused_total{listener=\"local\",reason=\"tls_handshake\"}";
    until("both are counted", async || secured.metric(refused).await == 2.0).await;
    until("both are gone", async || secured.metric("keybearer_connections{").await == 0.0).await;
    assert!(is_ok(&secured.authority.caller().get(secured.stage.address(), "gateway.example").await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_stands_still_does_not_hold_up_the_end() {
    let secured = secured("", |_, _| {}).await;
    let _stream = TcpStream::connect(secured.stage.address()).await.unwrap();
    until("it is open", async || secured.metric("keybearer_connections{").await == 1.0).await;
    let gateway = secured.stage.gateway;
    gateway.stop();
    let waiting = tokio::task::spawn_blocking(move || gateway.wait());
    // The handshake alone might take ten seconds.
    let drained = tokio::time::timeout(Duration::from_secs(6), waiting).await.expect("it ends soon").unwrap();
    assert_eq!(drained, app::Drained::Completely);
}

#[test]
fn what_is_wrong_with_certificates_is_said_before_the_gateway_starts() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let (one, other) = (authority.issue(&["a.example"]), authority.issue(&["b.example"]));
    one.write(folder.path(), "one");
    other.write(folder.path(), "other");
    authority.issue(&["127.0.0.1"]).write(folder.path(), "address");
    authority.issue_expired("a.example").write(folder.path(), "old");
    fs::write(folder.path().join("empty"), "").unwrap();
    fs::write(
        folder.path().join("locked"),
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    )
    .unwrap();
    fs::write(folder.path().join("torn"), "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
        .unwrap();
    let said = |tls: &str| {
        let yaml = format!(
            "listeners: {{l: {{address: \"127.0.0.1:0\", tls: {{{tls}}}}}}}\n\
             routes: {{r: {{upstream: \"https://a.example\", profile: none}}}}\n"
        );
        match config::parse(&yaml, &folder.path().join("keybearer.yaml"), None) {
            Ok(loaded) => {
                loaded.warnings.iter().map(|w| format!("warning: {}", w.message)).collect::<String>()
            }
            Err(problems) => {
                problems.iter().map(|problem| problem.message.clone()).collect::<Vec<_>>().join("; ")
            }
        }
    };
    let check = |tls: &str, expected: &str| {
        let said = said(tls);
        assert!(said.contains(expected) && !expected.is_empty(), "{tls}: {said}");
    };
    assert_eq!(said("certificate: {file: one.pem}, key: {file: one.key}"), "");
    check("certificate: {file: none.pem}, key: {file: one.key}", "tls.certificate: file ");
    check("certificate: {file: none.pem}, key: {file: one.key}", "none.pem cannot be read: no such file");
    check("certificate: {file: empty}, key: {file: one.key}", "empty holds no certificate in PEM form");
    check("certificate: {file: one.key}, key: {file: one.key}", "one.key holds no certificate in PEM form");
    check("certificate: {file: torn}, key: {file: one.key}", "torn holds a damaged certificate (number 1");
    check("certificate: {file: one.pem}, key: {file: one.pem}", "tls.key: file ");
    check("certificate: {file: one.pem}, key: {file: one.pem}", "one.pem holds no private key in PEM form");
    check(
        "certificate: {file: one.pem}, key: {file: locked}",
        "locked holds an encrypted key (decrypt it: openssl",
    );
    check(
        "certificate: {file: one.pem}, key: {file: other.key}",
        "other.key does not fit the certificate in ",
    );
    check(
        "certificate: {file: old.pem}, key: {file: old.key}",
        "warning: listener \"l\": tls.certificate: the certificate in ",
    );
    check(
        "certificate: {file: one.pem}, key: {file: one.key}, client_ca: {file: empty}",
        "tls.client_ca: file ",
    );
    let nameless = "additional: [{certificate: {file: address.pem}, key: {file: address.key}}]";
    let nameless = said(&format!("certificate: {{file: one.pem}}, key: {{file: one.key}}, {nameless}"));
    assert!(nameless.contains("tls.additional[0].certificate: the certificate in "), "{nameless}");
}

/// A stage with a unix socket besides.
async fn with_socket(folder: &TempDir, more: &str) -> (Stage, String) {
    let path = folder.path().join("gateway.sock").display().to_string();
    let listeners =
        format!("local: {{address: \"127.0.0.1:0\"}}\nsocket: {{address: \"unix:{path}\"{more}}}");
    let stage = Plan::default().listeners(&listeners).start().await;
    stage.ready().await;
    (stage, path)
}

fn through(path: &str) -> (bool, String) {
    tokio::task::block_in_place(|| curl(&["--unix-socket", path, "http://gateway.example/v1/orders"]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unmodified_curl_gets_through_a_unix_socket_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let (stage, path) = with_socket(&folder, "").await;
    for _ in 0..5 {
        assert_eq!(through(&path), (true, "200 1.1".into()));
    }
    assert_eq!(metric(&stage, "keybearer_connections_accepted_total{listener=\"socket\"}").await, 5.0);
    assert!(stage.api.last().unwrap().token().is_some());
}

#[tokio::test]
async fn a_socket_has_the_mode_and_owner_that_it_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let (_stage, path) = with_socket(&folder, "").await;
    let made = fs::symlink_metadata(&path).unwrap();
    assert!(made.file_type().is_socket());
    assert_eq!(made.permissions().mode() & 0o7777, 0o660, "the default");
    let other = tempfile::tempdir().unwrap();
    // Nobody but root may give files away: the own user is the one that always works.
    let (user, group) = (made.uid(), made.gid());
    let more = format!(", socket: {{mode: \"0602\", owner: {user}, group: {group}}}");
    let (_stage, path) = with_socket(&other, &more).await;
    let made = fs::symlink_metadata(&path).unwrap();
    assert_eq!((made.permissions().mode() & 0o7777, made.uid(), made.gid()), (0o602, user, group));
    if user == 0 {
        let third = tempfile::tempdir().unwrap();
        let (_stage, path) = with_socket(&third, ", socket: {owner: 12345, group: 54321}").await;
        let made = fs::symlink_metadata(&path).unwrap();
        assert_eq!((made.uid(), made.gid()), (12345, 54321));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_sockets_file_is_replaced_and_a_live_ones_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "the dead one has left its file");
    let (stage, path) = with_socket(&folder, "").await;
    assert_eq!(through(&path).1, "200 1.1");
    let start = || {
        let loaded = config::parse(&stage.yaml, &stage.folder.path().join("keybearer.yaml"), None).unwrap();
        app::start(loaded.settings, None).err().expect("it does not start").to_string()
    };
    let words = start();
    assert!(words.contains("another process listens there"), "{words}");
    assert_eq!(through(&path).1, "200 1.1", "the live one is still there");
    // A file that is none of ours stays, whatever it is.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    let words = start();
    assert!(words.contains("a file that is no socket is there"), "{words}");
    stage.gateway.stop();
    tokio::task::block_in_place(|| stage.gateway.wait());
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_gateway_takes_its_socket_away() {
    let folder = tempfile::tempdir().unwrap();
    let (stage, path) = with_socket(&folder, "").await;
    assert_eq!(through(&path).1, "200 1.1");
    stage.gateway.stop();
    tokio::task::block_in_place(|| stage.gateway.wait());
    assert!(!Path::new(&path).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callers_user_and_process_are_on_record() {
    let folder = tempfile::tempdir().unwrap();
    let (stage, path) = with_socket(&folder, "").await;
    let own = folder.path().join("process.sock").display().to_string();
    let config = stage.folder.path().join("process.yaml");
    fs::write(&config, stage.yaml.replace(&path, &own)).unwrap();
    let process = Process::start_with(&config, &[]).await;
    let mut command = Command::new("curl");
    command.args(["-sS", "-m", "20", "--noproxy", "*", "--unix-socket", &own, "http://a/v1/orders"]);
    let child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let caller = format!("unix:uid={},pid={}", fs::metadata(&own).unwrap().uid(), child.id());
    let child = Mutex::new(child);
    eventually("curl is done", || child.lock().unwrap().try_wait().unwrap().is_some()).await;
    eventually("the caller is logged", || process.has_logged(&format!("\"caller\":\"{caller}\""))).await;
}

/// What the upstream is told in `X-Forwarded-For` when the caller says `203.0.113.9`.
async fn told(stage: &Stage, socket: Option<&str>) -> String {
    let words = ["-H", "X-Forwarded-For: 203.0.113.9"];
    let url = stage.url("/v1/orders");
    let arguments = match socket {
        Some(path) => [&words[..], &["--unix-socket", path, "http://a/v1/orders"]].concat(),
        None => [&words[..], &[url.as_str()]].concat(),
    };
    let (is_done, answer) = tokio::task::block_in_place(|| curl(&arguments));
    assert!(is_done && answer.starts_with("200"), "{answer}");
    stage.api.last().unwrap().values("x-forwarded-for").join(", ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_trusted_proxies_are_believed_about_callers_before_them() {
    let start = async |trusted: &str, folder: &TempDir| {
        let path = folder.path().join("gateway.sock").display().to_string();
        let listeners = format!(
            "local: {{address: \"127.0.0.1:0\", trusted_proxies: {trusted}}}\n\
             socket: {{address: \"unix:{path}\", trusted_proxies: {trusted}}}"
        );
        let stage = Plan::default().listeners(&listeners).more("forwarded: x").start().await;
        stage.ready().await;
        (stage, path)
    };
    for (trusted, over_tcp, over_socket) in [
        ("[]", "127.0.0.1", ""),
        ("[192.0.2.0/24, unix]", "127.0.0.1", "203.0.113.9"),
        ("[127.0.0.0/8]", "203.0.113.9, 127.0.0.1", ""),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (stage, path) = start(trusted, &folder).await;
        assert_eq!(told(&stage, None).await, over_tcp, "{trusted}");
        assert_eq!(told(&stage, Some(&path)).await, over_socket, "{trusted}, unix socket");
    }
}

/// An upstream that knows its callers by IPv4 addresses knew nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_over_ipv4_is_told_so_also_where_the_listener_takes_all_addresses() {
    for (kind, field, expected) in
        [("x", "x-forwarded-for", "127.0.0.1"), ("rfc7239", "forwarded", "for=127.0.0.1;")]
    {
        let plan =
            Plan::default().listeners("local: {address: \"[::]:0\"}").more(&format!("forwarded: {kind}"));
        let stage = plan.start().await;
        let url = format!("http://127.0.0.1:{}/v1/orders", stage.address().port());
        assert_eq!(stage.http.get(url).send().await.unwrap().status(), 200);
        let told = stage.api.last().unwrap().values(field).join(", ");
        assert!(told.starts_with(expected), "{told}");
    }
}

/// What ALPN has settled is what is spoken. Anything else ends the connection, and nothing is forwarded.
#[tokio::test]
async fn whoever_speaks_another_http_than_was_settled_is_not_served() {
    const GET: &[u8] = b"GET /v1/orders HTTP/1.1\r\nHost: gateway.example\r\n\r\n";
    let secured = secured("", |_, _| {}).await;
    let two = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &get(1, "/v1/orders")].concat();
    let cases: [(&'static [&'static str], &[u8]); 3] = [(&["h2"], GET), (&["http/1.1"], &two), (&[], &two)];
    for (alpn, bytes) in cases {
        let caller = secured.authority.caller().alpn(alpn);
        let mut stream = caller.connect(secured.stage.address(), "gateway.example").await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        let _ = read.expect("the connection is closed");
        let is_refused = alpn == ["h2"] || answer.starts_with(b"HTTP/1.1 400 ");
        assert!(is_refused, "{alpn:?}: {}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(secured.stage.api.requests(), 0);
}
