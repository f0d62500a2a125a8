//! `Host` fields: what is accepted is one host and perhaps one port, whoever reads it.

use crate::route::authority::{parse, same};

pub(super) fn target(input: &[u8]) {
    let Ok(read) = parse(input) else { return };
    assert!(!read.host.is_empty() && read.host.is_ascii(), "an empty or non-ASCII host");
    assert!(!read.host.contains(['@', '/', '\\', '?', '#', ',', '%', ' ', '\t']), "{read:?}");
    let again = match read.port {
        Some(port) => format!("{}:{port}", read.host),
        None => read.host.to_owned(),
    };
    assert_eq!(parse(again.as_bytes()), Ok(read), "written again it reads otherwise");
    assert!(same(&read, &read, 80), "{read:?} is not the same as itself");
    // The library that reads targets must see the same host in it.
    let library: http::uri::Authority = again.parse().expect("the library refuses an accepted host");
    assert_eq!(library.host(), read.host);
    assert_eq!(library.port_u16(), read.port);
}
