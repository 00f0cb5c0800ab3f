//! A server process: started, frozen, killed, and gone with its value.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

/// A port of loopback that nobody listens on, never the same twice in a process.
///
/// It lies below the range from which the system takes ports for outgoing connections and for listeners on port 0: those
/// cannot be given it before the caller binds it, or while the caller wants nobody to listen there.
#[must_use]
pub fn free_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    // Test processes that run at the same time begin at different places.
    let first = std::process::id().wrapping_mul(97);
    loop {
        let turn = u32::from(TAKEN.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + u16::try_from(first.wrapping_add(turn) % 20_000).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct ServerProcess {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl ServerProcess {
    /// Starts `command` with what it prints in `directory`/server.log.
    #[must_use]
    pub fn start(name: &'static str, directory: &Path, command: &mut Command) -> Self {
        let path = directory.join("server.log");
        let log = File::options().create(true).append(true).open(&path).unwrap();
        let child =
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap_or_else(
                |error| panic!("{name}: {error}; scripts/test installs it and runs these tests"),
            );
        Self { name, child, log: path }
    }

    /// Fails the test when the process has ended by itself.
    pub fn check(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!(
                "{} ended with {status}: {}",
                self.name,
                std::fs::read_to_string(&self.log).unwrap_or_default()
            );
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Freezes it: its ports stay open and nothing is answered.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    /// Asks it to stop in good order, and waits until it has.
    pub fn stop(mut self) {
        self.signal("-TERM");
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
