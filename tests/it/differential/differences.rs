//! Reads and writes `differences.txt`: what Keybearer does otherwise than nginx, and why.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

/// What stands in the place of a reason that nobody has written yet.
pub(crate) const NO_REASON: &str = "TO BE WRITTEN";

/// One request that the two treat differently.
pub(crate) struct Difference {
    pub(crate) keybearer: String,
    pub(crate) nginx: String,
    pub(crate) why: String,
}

pub(crate) struct List {
    /// The nginx that it was made with.
    pub(crate) nginx: String,
    /// By the name of the request.
    pub(crate) differences: BTreeMap<String, Difference>,
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/differential/differences.txt")
}

const HEADER: &str = "\
Where Keybearer and nginx treat the same bytes differently, and why. The bytes are in requests.txt under the
same names. Each outcome is: the statuses of the answers, whether the connection takes another request, and
behind \"->\" each request that reached the upstream, with fields added (+) and missing (-) beside the
usual four: authorization, host, via, x-request-id.

`KEYBEARER_BLESS=1 cargo test --test it differential::` writes the outcomes anew and keeps the reasons.
";

pub(crate) fn read() -> List {
    let text = fs::read_to_string(path()).unwrap_or_default();
    let mut list = List { nginx: String::new(), differences: BTreeMap::new() };
    let mut name = String::new();
    for line in text.lines() {
        if let Some(version) = line.strip_prefix("made with nginx ") {
            list.nginx = version.to_owned();
        } else if let Some(next) = line.strip_prefix("== ") {
            name = next.to_owned();
            let empty =
                Difference { keybearer: String::new(), nginx: String::new(), why: NO_REASON.to_owned() };
            let earlier = list.differences.insert(name.clone(), empty);
            assert!(earlier.is_none(), "{name} is listed twice");
        } else if let (Some(entry), Some((key, value))) =
            (list.differences.get_mut(&name), line.split_once(": "))
        {
            let value = value.to_owned();
            match key {
                "keybearer" => entry.keybearer = value,
                "nginx" => entry.nginx = value,
                "why" => entry.why = value,
                _ => panic!("{name}: {line:?} is none of keybearer, nginx, why"),
            }
        }
    }
    list
}

/// In the order of `names`.
pub(crate) fn write(list: &List, names: &[&str]) {
    let mut text = format!("{HEADER}\nmade with nginx {}\n", list.nginx);
    for (name, entry) in names.iter().filter_map(|name| Some((name, list.differences.get(*name)?))) {
        let Difference { keybearer, nginx, why } = entry;
        write!(text, "\n== {name}\nkeybearer: {keybearer}\nnginx: {nginx}\nwhy: {why}\n").unwrap();
    }
    fs::write(path(), text).unwrap();
}
