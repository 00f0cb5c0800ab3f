//! `kiteq-bench`: puts load on a KiteQ broker and says what it did.

use std::process::ExitCode;

use clap::Parser;
use kiteq_bench::cli::Cli;
use kiteq_bench::commands::{Verdict, run};
use kiteq_telemetry::logging::{self, LogConfig};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Lost connections and their like: worth knowing beside figures, and nothing more than that.
    let log = LogConfig { level: "warn".to_owned(), ..LogConfig::for_binary("kiteq-bench") };
    let _guard = logging::init(&log).inspect_err(|error| eprintln!("kiteq-bench: no log: {error}"));
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
