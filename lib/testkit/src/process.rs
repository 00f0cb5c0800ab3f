//! A server process: started, frozen, killed, and gone with its value.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A port of loopback that nobody listens on.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
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
