//! The `keybearer` program. Everything is in the library; see `keybearer::cli`.

use std::process::ExitCode;

/// Measured: the least processor time for a request and the least memory of the allocators that were tried.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    keybearer::cli::main()
}
