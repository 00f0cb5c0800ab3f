//! `kiteq-bench`: puts load on a KiteQ broker and says what it did.

use std::process::ExitCode;

use clap::Parser;
use kiteq_bench::cli::Cli;
use kiteq_bench::commands::{Verdict, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Runtime::new();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(cli)));
    match result {
        Ok(Verdict::Fine) => ExitCode::SUCCESS,
        Ok(Verdict::Lost) => ExitCode::from(1),
        Err(error) => {
            eprintln!("kiteq-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}
