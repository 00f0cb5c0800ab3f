//! SIGINT and SIGTERM: the first ends a run in an orderly way, the next one ends the waiting too.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Both signals as one stream.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Starts listening: from now on neither signal ends the process by itself.
    ///
    /// # Errors
    /// When the system refuses the handlers.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost when the wait is given up.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
