//! A binary of ours as a process: started with flags, its log read line by line, asked over HTTP, stopped by signals.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::wait::PATIENCE;

const POLL: Duration = Duration::from_millis(20);

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` when a signal killed it.
    pub code: Option<i32>,
    /// What it printed; not kept for one that was started to run.
    pub stdout: String,
    /// What it logged.
    pub stderr: String,
}

/// A binary to start: what `env!("CARGO_BIN_EXE_name")` says, and what the names of its environment variables begin with.
#[derive(Debug, Clone, Copy)]
pub struct Binary {
    /// Its path.
    pub path: &'static str,
    /// Variables with this prefix are taken away, so that only the test says what is set.
    pub variable_prefix: &'static str,
}

impl Binary {
    fn command(&self, directory: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path);
        command.args(arguments).current_dir(directory).stdin(Stdio::null());
        let is_ours = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with(self.variable_prefix);
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        command
    }

    /// Runs it in a directory to its end, which must come by itself.
    #[must_use]
    pub fn run_in(&self, directory: &Path, arguments: &[&str]) -> Ended {
        let output = self.command(directory, arguments).output().unwrap();
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The same in an empty directory.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.run_in(tempfile::tempdir().unwrap().path(), arguments)
    }

    /// Starts it in an empty directory of its own.
    #[must_use]
    pub fn start(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Program {
        let directory = tempfile::tempdir().unwrap();
        let mut command = self.command(directory.path(), arguments);
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
        Program { child, lines, seen: Vec::new(), directory }
    }
}

/// A running binary, killed when a test fails before stopping it.
#[derive(Debug)]
pub struct Program {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    /// Its working directory.
    pub directory: TempDir,
}

impl Program {
    /// Waits for a log line with `text`, and gives it.
    pub fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
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

    /// What follows `text` in the first line that has it, among those that were waited through.
    #[must_use]
    pub fn after(&self, text: &str) -> String {
        let found = self.seen.iter().find_map(|line| Some(line.split_once(text)?.1.to_owned()));
        found.unwrap_or_else(|| panic!("no line with {text:?} in:\n{}", self.seen.join("\n")))
    }

    /// Where it says that its HTTP port is.
    #[must_use]
    pub fn http(&self) -> String {
        self.after("HTTP is on ")
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by the name that kill knows, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let arguments = [format!("-{name}"), self.pid().to_string()];
        assert!(Command::new("kill").args(arguments).status().unwrap().success());
    }

    /// Waits for the end of its log, which is its own, and gives both.
    #[must_use]
    pub fn wait(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
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
    #[must_use]
    pub fn stop(self) -> Ended {
        self.signal("TERM");
        self.wait()
    }

    /// One HTTP request: status and body.
    #[must_use]
    pub fn request(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.http()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
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

    /// A GET.
    #[must_use]
    pub fn get(&self, path: &str) -> (u16, String) {
        self.request("GET", path, "")
    }

    /// Asks again and again until the answer's body has `text`.
    pub fn get_until(&self, path: &str, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
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

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
