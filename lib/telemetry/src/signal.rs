//! SIGTERM and SIGINT: the first asks the service to stop, the second ends the process at once.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

use crate::shutdown::Shutdown;

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

/// Triggers `shutdown` at the first SIGTERM or SIGINT. A second one exits with 128 + its number, without waiting for
/// anything.
///
/// # Errors
/// When the system does not let the process handle them.
pub fn stop_on_signals(shutdown: &Shutdown) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = shutdown.clone();
    // Not tracked: it must outlive the shutdown that it starts.
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => SIGTERM,
                _ = interrupt.recv() => SIGINT,
            }
        };
        let first = next().await;
        shutdown.trigger(name_of(first));
        let second = next().await;
        tracing::error!("{} while stopping: exit at once, what was in flight is left", name_of(second));
        std::process::exit(128 + second);
    });
    Ok(())
}

fn name_of(signal: i32) -> &'static str {
    if signal == SIGTERM { "SIGTERM" } else { "SIGINT" }
}
