//! `kiteq`: the broker. Flags and configuration in, the library's parts wired and run until a signal, an exit code out.

mod service;
mod settings;
mod web;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    kiteq_settings::main(service::run)
}
