//! What `deploy/` ships, tried with the tools that read it: the systemd unit, the package's files, manifests and chart,
//! alerts and dashboard. A tool that is not installed is named, and its test says that it left something out.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

use crate::{authority::Authority, process::command};

/// What `systemd-analyze security` may say of the unit. 10 is a unit without any hardening.
const EXPOSURE_MAX: f64 = 2.0;
/// Where the manifests mount what the configuration reads.
const MOUNTS: [&str; 3] = ["/run/secrets/keybearer", "/etc/keybearer-admin", "/var/lib/keybearer"];
/// Kubernetes versions that the manifests are valid for: the oldest with all that they use, and a new one.
const VERSIONS: [&str; 2] = ["1.31", "1.37"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn deploy(path: &str) -> PathBuf {
    root().join("deploy").join(path)
}

fn text_of(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The output of a tool, or none where it is not installed.
fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(arguments).env("LC_ALL", "C").output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("{program} is not installed: what it would look at is not tried");
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

// --- systemd -------------------------------------------------------------------------------------------------------

#[test]
fn the_unit_is_hardened() {
    let unit = deploy("systemd/keybearer.service");
    let arguments = ["security", "--offline=true", "--no-pager", unit.to_str().unwrap()];
    let Some(output) = run("systemd-analyze", &arguments) else { return };
    let said = words(&output);
    // `→ Overall exposure level for keybearer.service: 1.4 OK`
    let level = said.rsplit_once("keybearer.service: ").unwrap_or_else(|| panic!("{said}")).1;
    let level: f64 = level.split_whitespace().next().unwrap().parse().unwrap();
    assert!(level <= EXPOSURE_MAX, "{said}");
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("keybearer.service");
    // The binary is not installed here: the one of the tests stands for it.
    let text = text_of(&deploy("systemd/keybearer.service"));
    assert!(text.contains("ExecStart=/usr/bin/keybearer run"), "the unit starts something else");
    fs::write(&unit, text.replace("/usr/bin/keybearer", env!("CARGO_BIN_EXE_keybearer"))).unwrap();
    let socket = folder.path().join("keybearer.socket");
    fs::copy(deploy("systemd/keybearer.socket"), &socket).unwrap();
    let units = [unit.to_str().unwrap(), socket.to_str().unwrap()];
    let Some(output) = run("systemd-analyze", &["verify", "--man=no", units[0], units[1]]) else {
        return;
    };
    let said = words(&output);
    assert!(output.status.success() && !said.contains("keybearer."), "{said}");
}

#[test]
fn the_socket_unit_has_the_address_of_the_packages_listener() {
    let unit = text_of(&deploy("systemd/keybearer.socket"));
    let address = unit.lines().find_map(|line| line.strip_prefix("ListenStream=")).unwrap();
    let sample = text_of(&deploy("deb/keybearer.yaml"));
    assert!(sample.contains(&format!("address: {address}")), "no listener of the package is at {address}");
}

#[test]
fn the_unit_gives_a_stopping_gateway_the_time_that_it_takes() {
    let unit = text_of(&deploy("systemd/keybearer.service"));
    let value = |name: &str| unit.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let patience: u64 = value("TimeoutStopSec=").strip_suffix('s').unwrap().parse().unwrap();
    let full = text_of(&root().join("config/full.yaml"));
    let drain = full.lines().find_map(|line| line.trim().strip_prefix("drain: ")).unwrap();
    let drain: u64 = drain.split('s').next().unwrap().parse().unwrap();
    assert!(patience > drain, "systemd kills after {patience} s what may take {drain} s");
    assert_eq!(value("ExecReload="), "/bin/kill -HUP $MAINPID");
}

#[test]
fn the_environment_file_is_a_template_that_sets_nothing() {
    for line in text_of(&deploy("systemd/keybearer.env")).lines() {
        assert!(line.is_empty() || line.starts_with('#'), "{line:?} sets something");
    }
    let unit = text_of(&deploy("systemd/keybearer.service"));
    assert!(unit.contains("\nEnvironmentFile=-/etc/keybearer/keybearer.env\n"), "the unit reads another one");
}

// --- the package ---------------------------------------------------------------------------------------------------

#[test]
fn the_package_has_every_file_that_it_names_and_a_configuration_that_passes_check() {
    let manifest = text_of(&root().join("Cargo.toml"));
    let (_, assets) = manifest.split_once("assets = [").unwrap();
    let sources = assets.split_once("\n]").unwrap().0.lines().filter_map(|line| line.split('"').nth(1));
    let mut looked_at = 0;
    for source in sources.filter(|source| !source.starts_with("target/")) {
        let folder = root().join(source.rsplit_once("/*").map_or(source, |(folder, _)| folder));
        assert!(folder.exists(), "the package names {source}, which is not there");
        looked_at += 1;
    }
    assert!(looked_at >= 6, "the list of the package's files was not found");
    let sample = deploy("deb/keybearer.yaml");
    passes_check(&text_of(&sample), "deploy/deb/keybearer.yaml", &[]);
}

#[test]
fn the_image_is_built_from_every_file_that_the_program_carries_along() {
    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    sources(&root().join("src"), &mut found);
    let (dockerfile, ignored) = (text_of(&root().join("Dockerfile")), text_of(&root().join(".dockerignore")));
    let mut carried = 0;
    for source in found {
        let text = text_of(&source);
        // What tests read is not built into the image.
        let program = text.split("#[cfg(test)]").next().unwrap_or_default();
        for name in program.split("include_str!(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let file = source.parent().unwrap().join(name).canonicalize().unwrap();
            let file =
                file.strip_prefix(root().canonicalize().unwrap()).unwrap().to_str().unwrap().to_owned();
            if !file.starts_with("src/") {
                assert!(dockerfile.contains(&format!("COPY {file} {file}\n")), "Dockerfile copies no {file}");
                assert!(ignored.contains(&format!("!{file}\n")), ".dockerignore keeps {file} out");
            }
            carried += 1;
        }
    }
    assert!(carried >= 4, "the files that the program carries along were not found");
    // How the allocator is built, which a build without it would not miss.
    assert!(dockerfile.contains("COPY .cargo .cargo\n") && ignored.contains("!.cargo\n"));
}

/// The configuration passes `check` with secrets, certificates and tokens where the pod has them.
fn passes_check(yaml: &str, place: &str, variables: &[(&str, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["orders-secret", "token"] {
        fs::write(folder.path().join(name), "not-a-real-secret-but-long-enough\n").unwrap();
    }
    // It only has to look like a token.
    fs::write(folder.path().join("azure-identity-token"), "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.c2ln\n")
        .unwrap();
    let issued = Authority::new().issue(&["keybearer.example"]);
    issued.write(folder.path(), "tls");
    fs::rename(folder.path().join("tls.pem"), folder.path().join("tls.crt")).unwrap();
    let here = folder.path().to_str().unwrap();
    let yaml = MOUNTS.iter().fold(yaml.to_owned(), |yaml, mount| yaml.replace(mount, here));
    let path = folder.path().join("keybearer.yaml");
    fs::write(&path, &yaml).unwrap();
    let mut check = command(&["check", "--config", path.to_str().unwrap()]);
    for (name, value) in variables {
        check.env(name, value.replace("/var/run/secrets/azure/tokens", here));
    }
    let output = check.output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{place}\n{yaml}\n{}", words(&output));
}

// --- Kubernetes ----------------------------------------------------------------------------------------------------

/// The objects of a file with several documents.
fn objects(text: &str) -> Vec<Value> {
    let documents = text.split("\n---\n").filter(|document| document.contains("kind:"));
    documents
        .map(|document| {
            serde_yaml::from_str(document).unwrap_or_else(|error| panic!("{error}\nin\n{document}"))
        })
        .collect()
}

/// The pods that a file makes, with the variables of their containers.
fn pods(objects: &[Value]) -> impl Iterator<Item = &Value> {
    objects.iter().filter_map(|object| object.pointer("/spec/template/spec"))
}

/// Every object is what the API of these versions takes, down to the last key.
fn are_valid(path: &Path) {
    let validate = root().join("target/clients/bin/kubernetes-validate");
    assert!(validate.exists(), "{} is missing: `make tools` installs it", validate.display());
    for version in VERSIONS {
        let arguments = ["--strict", "--quiet", "-k", version, path.to_str().unwrap()];
        let output = run(validate.to_str().unwrap(), &arguments).unwrap();
        assert!(output.status.success(), "{} in Kubernetes {version}\n{}", path.display(), words(&output));
    }
}

/// What a gateway's pod must and must not be allowed, whichever way it was written down.
fn are_safe(objects: &[Value], place: &str) {
    let mut containers = 0;
    for pod in pods(objects) {
        assert_eq!(
            pod["automountServiceAccountToken"], false,
            "{place}: the pod has a token for the cluster"
        );
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{place}");
        assert!(
            pod["terminationGracePeriodSeconds"].as_u64().unwrap() > 30,
            "{place}: killed while it drains"
        );
        let all = ["containers", "initContainers"].iter().filter_map(|list| pod[list].as_array()).flatten();
        for container in all.filter(|container| container["name"] == "keybearer") {
            let context = &container["securityContext"];
            assert_eq!(context["readOnlyRootFilesystem"], true, "{place}");
            assert_eq!(context["allowPrivilegeEscalation"], false, "{place}");
            assert_eq!(context["capabilities"]["drop"][0], "ALL", "{place}");
            // An outage of the identity provider must not restart gateways.
            let alive = container["livenessProbe"].to_string();
            assert!(!alive.contains("status") && !alive.contains("readyz"), "{place}: {alive}");
            containers += 1;
        }
    }
    assert_eq!(containers, 1, "{place} has no gateway");
}

/// The configuration in the ConfigMap passes `check` with the variables that the container has.
fn configuration_passes_check(objects: &[Value], place: &str) {
    let yaml = objects.iter().find_map(|object| object["data"]["keybearer.yaml"].as_str());
    let yaml = yaml.unwrap_or_else(|| panic!("{place} has no keybearer.yaml"));
    let lists = ["/containers", "/initContainers"];
    let containers =
        pods(objects).flat_map(|pod| lists.iter().filter_map(|list| pod.pointer(list)?.as_array()));
    let variables: Vec<(&str, &str)> = containers
        .flatten()
        .filter(|container| container["name"] == "keybearer")
        .filter_map(|container| container["env"].as_array())
        .flatten()
        .filter_map(|variable| Some((variable["name"].as_str()?, variable["value"].as_str()?)))
        .collect();
    passes_check(yaml, place, &variables);
}

#[test]
fn the_manifests_are_valid_and_their_configuration_passes_check() {
    for name in ["gateway.yaml", "sidecar.yaml"] {
        let path = deploy("kubernetes").join(name);
        let objects = objects(&text_of(&path));
        assert!(objects.len() >= 3, "{name}: {} objects", objects.len());
        are_valid(&path);
        are_safe(&objects, name);
        configuration_passes_check(&objects, name);
    }
}

/// Helm, from the path or where `make tools` puts it.
fn helm(arguments: &[&str]) -> Option<Output> {
    let made = root().join("target/helm/helm");
    run(if made.exists() { made.to_str().unwrap() } else { "helm" }, arguments)
}

#[test]
fn helm_finds_nothing_wrong_with_the_chart() {
    let chart = deploy("kubernetes/chart");
    let Some(output) = helm(&["lint", "--strict", chart.to_str().unwrap()]) else { return };
    assert!(output.status.success(), "{}", words(&output));
}

#[test]
fn what_the_chart_makes_is_valid_and_its_configuration_passes_check() {
    let example = text_of(&deploy("kubernetes/values-example.yaml"));
    let secret = "client_secret: {file: /run/secrets/keybearer/orders-secret}";
    let federated =
        example.split_once("\nsecrets:").unwrap().0.replace(secret, "federated_token: environment");
    let is_needed = |line: &&str| !["tenant:", "client_id:"].iter().any(|key| line.contains(key));
    let federated = federated.lines().filter(is_needed).collect::<Vec<_>>().join("\n");
    let workload = "workloadIdentity.enabled=true,workloadIdentity.clientId=id,workloadIdentity.tenantId=contoso.example";
    let fixed = "autoscaling.enabled=false,podDisruptionBudget.enabled=false,networkPolicy.enabled=false,\
                 serviceAccount.create=false";
    let cases = [
        ("as it is", &example, "image.tag=1"),
        ("with TLS on the admin listener", &example, "admin.tls.secretName=admin"),
        ("with workload identity", &federated, workload),
        ("with a fixed number and little else", &example, fixed),
    ];
    for (case, mine, values) in cases {
        let folder = tempfile::tempdir().unwrap();
        let (chart, version) = (deploy("kubernetes/chart"), format!("{}.0", VERSIONS[0]));
        let file = folder.path().join("mine.yaml");
        fs::write(&file, mine).unwrap();
        let (chart, file) = (chart.to_str().unwrap(), file.to_str().unwrap());
        let arguments = ["--kube-version", &version, "--values", file, "--set", values];
        let Some(output) = helm(&[&["template", "keybearer", chart], &arguments[..]].concat()) else {
            return;
        };
        assert!(output.status.success(), "{case}: {}", words(&output));
        let path = folder.path().join("rendered.yaml");
        fs::write(&path, &output.stdout).unwrap();
        let objects = objects(&text_of(&path));
        are_valid(&path);
        are_safe(&objects, case);
        configuration_passes_check(&objects, case);
    }
}

#[test]
fn the_chart_opens_the_admin_listener_only_with_a_certificate() {
    let render = |values: &str| Some(String::from_utf8(example_with(values)?.stdout).unwrap());
    let Some(plain) = render("image.tag=1") else { return };
    assert!(plain.contains("address: 127.0.0.1:9901") && !plain.contains("containerPort: 9901"), "{plain}");
    let open = render("admin.tls.secretName=admin").unwrap();
    assert!(open.contains("address: 0.0.0.0:9901") && open.contains("scheme: HTTPS"), "{open}");
    // Whoever asks the service by its name is no page of another web site.
    assert!(open.contains("- keybearer.default.svc\n"), "{open}");
}

/// The chart with the values to begin with, and others over them.
fn example_with(values: &str) -> Option<Output> {
    let (chart, example) = (deploy("kubernetes/chart"), deploy("kubernetes/values-example.yaml"));
    let files = ["--values", example.to_str().unwrap(), "--set", values];
    helm(&[&["template", "keybearer", chart.to_str().unwrap()], &files[..]].concat())
}

#[test]
fn values_of_ones_own_are_not_mixed_with_others() {
    let folder = tempfile::tempdir().unwrap();
    let mine = folder.path().join("mine.yaml");
    let values = "service: {targetPort: 8443}\nconfig:\n  watch: false\n  listeners: {public: {address: \"0.0.0.0:8443\"}}\n  \
                  routes: {status: {match: {path: /}, upstream: \"http://127.0.0.1:7000\", profile: none}}\n";
    fs::write(&mine, values).unwrap();
    let chart = deploy("kubernetes/chart");
    let arguments = ["template", "keybearer", chart.to_str().unwrap(), "--values", mine.to_str().unwrap()];
    let Some(output) = helm(&arguments) else { return };
    assert!(output.status.success(), "{}", words(&output));
    let objects = objects(&String::from_utf8(output.stdout).unwrap());
    configuration_passes_check(&objects, "values of one's own");
    let yaml = objects.iter().find_map(|object| object["data"]["keybearer.yaml"].as_str()).unwrap();
    let file: Value = serde_yaml::from_str(yaml).unwrap();
    let names = |key: &str| file[key].as_object().map(|map| map.keys().cloned().collect::<Vec<_>>());
    assert_eq!((names("listeners"), names("profiles")), (Some(vec!["public".into()]), None), "{yaml}");
    assert_eq!((&file["watch"], &file["workers"]), (&false.into(), &2.into()), "{yaml}");
    assert_eq!(pods(&objects).next().unwrap()["volumes"].as_array().unwrap().len(), 1);
}

#[test]
fn values_with_which_no_pod_would_serve_are_refused() {
    let chart = deploy("kubernetes/chart");
    let Some(empty) = helm(&["template", "keybearer", chart.to_str().unwrap()]) else { return };
    assert!(
        !empty.status.success() && words(&empty).contains("config.routes is missing"),
        "{}",
        words(&empty)
    );
    for address in ["127.0.0.1:8080", "0.0.0.0:8081"] {
        let output = example_with(&format!("config.listeners.local.address={address}")).unwrap();
        let said = words(&output);
        assert!(!output.status.success() && said.contains("no listener of config has the address"), "{said}");
    }
}

#[test]
fn an_admin_listener_that_the_probes_cannot_ask_is_refused() {
    let tls = "config.admin.tls.certificate.file=/etc/keybearer-admin/tls.crt,\
               config.admin.tls.key.file=/etc/keybearer-admin/tls.key,\
               config.admin.token.file=/etc/keybearer-admin/token";
    let secret = "admin.tls.secretName=admin";
    let asked_for = "tls.client_ca.file=/etc/keybearer-admin/ca.crt";
    for (values, is_taken) in [
        ("config.admin.address=127.0.0.1:9901".to_owned(), true),
        ("config.admin.address=127.0.0.1:9900".to_owned(), false),
        ("config.admin.address=unix:/run/admin.sock".to_owned(), false),
        (format!("config.admin.address=127.0.0.1:9901,{tls}"), false),
        (format!("{secret},config.admin.address=127.0.0.1:9901,{tls}"), false),
        (format!("{secret},config.admin.address=0.0.0.0:9900,{tls}"), false),
        (format!("{secret},config.admin.address=0.0.0.0:9901"), false),
        (format!("{secret},config.admin.address=0.0.0.0:9901,{tls},config.admin.{asked_for}"), false),
        (format!("{secret},config.admin.address=0.0.0.0:9901,{tls}"), true),
    ] {
        let Some(output) = example_with(&values) else { return };
        let said = words(&output);
        assert_eq!(output.status.success(), is_taken, "{values}: {said}");
        assert_eq!(said.contains("config.admin is not what the probes ask"), !is_taken, "{values}: {said}");
    }
}

#[test]
fn the_chart_and_the_package_have_the_programs_version() {
    let chart = text_of(&deploy("kubernetes/chart/Chart.yaml"));
    let version = format!("\nappVersion: {}\n", env!("CARGO_PKG_VERSION"));
    assert!(chart.contains(&version), "Chart.yaml does not say{version}");
    let image = format!("image: keybearer:{}\n", env!("CARGO_PKG_VERSION"));
    for name in ["gateway.yaml", "sidecar.yaml"] {
        assert!(text_of(&deploy("kubernetes").join(name)).contains(&image), "{name} does not say {image}");
    }
}

// --- alerts and dashboard ------------------------------------------------------------------------------------------

#[test]
fn every_alert_fires_when_it_should_and_not_else() {
    let (rules, tests) = (deploy("prometheus/alerts.yaml"), deploy("prometheus/alerts-test.yaml"));
    let Some(output) = run("promtool", &["check", "rules", rules.to_str().unwrap()]) else { return };
    assert!(output.status.success(), "{}", words(&output));
    let output = run("promtool", &["test", "rules", tests.to_str().unwrap()]).unwrap();
    assert!(output.status.success(), "{}", words(&output));
}

#[test]
fn every_alert_has_a_case_in_which_it_fires() {
    let tests = text_of(&deploy("prometheus/alerts-test.yaml"));
    let fires: BTreeSet<&str> = tests
        .split("alertname: ")
        .skip(1)
        .filter(|rest| rest.lines().nth(1).is_some_and(|line| line.trim() == "exp_alerts:"))
        .map(|rest| rest.lines().next().unwrap())
        .collect();
    let rules = text_of(&deploy("prometheus/alerts.yaml"));
    let alerts: BTreeSet<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 6, "{alerts:?}");
    assert_eq!(alerts, fires);
}

/// Names of metrics in a text, without what a histogram adds to them.
fn metrics(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("keybearer_") {
        let name: String = text[at..].chars().take_while(|&c| is_name(c)).collect();
        found.insert(name.strip_suffix("_bucket").unwrap_or(&name).to_owned());
    }
    found
}

#[test]
fn alerts_and_dashboard_use_metrics_that_there_are() {
    let operating = text_of(&root().join("docs/operating.md"));
    let table = operating.split_once("\n## Metrics\n").unwrap().1.split("\n## ").next().unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let known: BTreeSet<String> = rows.map(|(name, _)| name.to_owned()).collect();
    let dashboard = text_of(&deploy("grafana/dashboard.json"));
    let panels: Value = serde_json::from_str(&dashboard).unwrap();
    assert!(panels["panels"].as_array().unwrap().len() > 15, "the dashboard is empty");
    let mut used = metrics(&dashboard);
    assert!(used.len() >= 15, "{used:?}");
    used.extend(metrics(&text_of(&deploy("prometheus/alerts.yaml"))));
    let unknown: Vec<&String> = used.difference(&known).collect();
    assert!(unknown.is_empty(), "not in docs/operating.md: {unknown:?}");
}
