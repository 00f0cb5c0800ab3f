//! Starts the real binary, reads its log, talks to its ports.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod client;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub(crate) const LONG: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiteq"));
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KITEQ_")) {
        command.env_remove(name);
    }
    command
}

/// Runs to the end, which must come by itself.
pub(crate) fn run(arguments: &[&str]) -> Ended {
    run_in(tempfile::tempdir().unwrap().path(), arguments)
}

/// The same in a directory.
pub(crate) fn run_in(directory: &Path, arguments: &[&str]) -> Ended {
    let output = command(directory, arguments).output().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A running broker, killed when a test fails before stopping it.
pub(crate) struct Kiteq {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    pub(crate) directory: TempDir,
}

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
        let directory = tempfile::tempdir().unwrap();
        let mut command = command(directory.path(), arguments);
        let mut child = command.envs(variables.iter().copied()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines, seen: Vec::new(), directory }
    }

    /// Waits for a log line with `text`, and gives it.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + LONG;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(end) => panic!("no line with {text:?} ({end}); there was:\n{}", self.seen.join("\n")),
            }
        }
    }

    fn after(&self, text: &str) -> String {
        let found = self.seen.iter().find_map(|line| Some(line.split_once(text)?.1.to_owned()));
        found.unwrap_or_else(|| panic!("no line with {text:?} in:\n{}", self.seen.join("\n")))
    }

    /// Where clients are listened for.
    pub(crate) fn address(&self) -> String {
        self.after("ready: clients on ").split(',').next().unwrap().to_owned()
    }

    /// The HTTP port.
    pub(crate) fn http(&self) -> String {
        self.after("HTTP is on ")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for the end of its log, which is its own, and gives both.
    pub(crate) fn wait(mut self) -> Ended {
        let deadline = Instant::now() + LONG;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("still running after:\n{}", self.seen.join("\n")),
            }
        }
        let code = self.child.wait().unwrap().code();
        Ended { code, stdout: String::new(), stderr: std::mem::take(&mut self.seen).join("\n") }
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// One HTTP request: status and body.
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.http()).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all((head + body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.request("GET", path, "")
    }

    /// Asks again and again until the answer's body has `text`.
    pub(crate) fn get_until(&self, path: &str, text: &str) -> String {
        let deadline = Instant::now() + LONG;
        loop {
            let (status, body) = self.get(path);
            if body.contains(text) {
                return body;
            }
            assert!(Instant::now() < deadline, "{path} never had {text:?}, last {status}:\n{body}");
            thread::sleep(POLL);
        }
    }
}

impl Drop for Kiteq {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
