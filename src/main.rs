//! The `keybearer` program. Everything is in the library; see `keybearer::cli`.

use std::process::ExitCode;

/// Measured: a good part of the distance to nginx's cost per request.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keybearer::cli::main()
}
