//! Starts the real binary on free ports.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod client;

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Duration;

use kiteq_testkit::{Binary, Program};
use rustix::process::{Pid, Signal, kill_process};

pub(crate) use kiteq_testkit::Ended;

pub(crate) const LONG: Duration = kiteq_testkit::PATIENCE;

const KITEQ: Binary = Binary { path: env!("CARGO_BIN_EXE_kiteq"), variable_prefix: "KITEQ_" };

/// Runs to the end, which must come by itself.
pub(crate) fn run(arguments: &[&str]) -> Ended {
    KITEQ.run(arguments)
}

/// The same in a directory.
pub(crate) fn run_in(directory: &Path, arguments: &[&str]) -> Ended {
    KITEQ.run_in(directory, arguments)
}

/// A running broker.
pub(crate) struct Kiteq(Program);

impl Kiteq {
    /// Starts it on free ports in a directory of its own and waits until it is ready.
    pub(crate) fn ready(arguments: &[&str]) -> Self {
        let all: Vec<&str> = ["--bind=127.0.0.1:0", "-pport=0"].iter().chain(arguments).copied().collect();
        let mut kiteq = Self::start(&all, &[]);
        kiteq.wait_for("ready: ");
        kiteq
    }

    /// Starts it without waiting.
    pub(crate) fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self(KITEQ.start(arguments, variables))
    }

    /// Where clients are listened for.
    pub(crate) fn address(&self) -> String {
        self.after("ready: clients on ").split(',').next().unwrap().to_owned()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(self) -> Ended {
        self.0.wait()
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(self) -> Ended {
        self.0.stop()
    }
}

impl Deref for Kiteq {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.0
    }
}

impl DerefMut for Kiteq {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.0
    }
}
