//! A Redis server of a test's own: on a free port of loopback, in a temporary directory, killed at the end.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::certificates::Certificates;
use crate::process::{ServerProcess, free_port};
use crate::wait::eventually;

/// What a test wants of its server. By default it keeps nothing and asks for no password.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    /// Every write is synced to an append-only file before it is answered: a kill loses nothing.
    pub append_only: bool,
    /// What clients have to say, as the user `default`.
    pub password: Option<String>,
    /// A further port on which TLS is spoken. No certificate is asked of clients.
    pub tls: bool,
    /// Further arguments, such as `--maxmemory`, `100mb`.
    pub arguments: Vec<String>,
}

/// A Redis server.
#[derive(Debug)]
pub struct Redis {
    directory: tempfile::TempDir,
    port: u16,
    tls_port: u16,
    options: RedisOptions,
    process: Option<ServerProcess>,
}

impl Redis {
    /// Starts an empty server that keeps nothing on disk, and waits until it serves.
    pub async fn start() -> Self {
        Self::start_with(RedisOptions::default()).await
    }

    /// Starts an empty server and waits until it serves.
    pub async fn start_with(options: RedisOptions) -> Self {
        let mut server = Self::prepare(options);
        server.run().await;
        server
    }

    /// A server that is not running yet.
    #[must_use]
    pub fn prepare(options: RedisOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        if options.tls {
            let _ = Certificates::make(directory.path());
        }
        Self { directory, port: free_port(), tls_port: free_port(), options, process: None }
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its `host:port`.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its `redis://` URL, with the password when there is one.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("redis://{}{}", self.credentials(), self.host())
    }

    /// The `host:port` where it speaks TLS.
    #[must_use]
    pub fn tls_host(&self) -> String {
        assert!(self.options.tls, "it was not asked for TLS");
        format!("127.0.0.1:{}", self.tls_port)
    }

    /// Its `rediss://` URL, with the password when there is one.
    #[must_use]
    pub fn tls_uri(&self) -> String {
        format!("rediss://{}{}", self.credentials(), self.tls_host())
    }

    fn credentials(&self) -> String {
        self.options.password.as_ref().map_or(String::new(), |word| format!(":{word}@"))
    }

    /// What it presents where it speaks TLS.
    #[must_use]
    pub fn certificates(&self) -> Certificates {
        Certificates::in_directory(self.directory.path())
    }

    /// Where it keeps its files, and where a test may put what its further arguments name.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Has the next start take further arguments.
    pub fn add_arguments(&mut self, arguments: &[&str]) {
        self.options.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    }

    /// Starts the server, again if it has run before: with the data that it has when it is append-only, else empty.
    pub async fn run(&mut self) {
        self.launch();
        eventually("Redis serves", async || self.serves().then_some(())).await;
    }

    /// The same without waiting: it may have much to read before it serves.
    pub fn launch(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let mut command = Command::new("redis-server");
        command.current_dir(self.directory.path()).args([
            "--bind",
            "127.0.0.1",
            "--port",
            &self.port.to_string(),
            "--save",
            "",
            "--daemonize",
            "no",
        ]);
        if self.options.append_only {
            command.args(["--appendonly", "yes", "--appendfsync", "always"]);
        }
        if let Some(password) = &self.options.password {
            command.args(["--requirepass", password]);
        }
        if self.options.tls {
            let Certificates { authority, certificate, key } = self.certificates();
            command.args(["--tls-port", &self.tls_port.to_string(), "--tls-auth-clients", "no"]);
            command.arg("--tls-ca-cert-file").arg(authority);
            command.arg("--tls-cert-file").arg(certificate).arg("--tls-key-file").arg(key);
        }
        command.args(&self.options.arguments);
        self.process = Some(ServerProcess::start("Redis", self.directory.path(), &mut command));
    }

    fn serves(&mut self) -> bool {
        if let Some(process) = &mut self.process {
            process.check();
        }
        // An error reply that wants a password comes from a server that serves; one that says LOADING does not.
        self.ping().is_some_and(|reply| reply.starts_with("+PONG") || reply.starts_with("-NOAUTH"))
    }

    fn ping(&self) -> Option<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        stream.write_all(b"PING\r\n").ok()?;
        let mut reply = [0; 64];
        let len = stream.read(&mut reply).ok()?;
        Some(String::from_utf8_lossy(&reply[..len]).into_owned())
    }

    /// The process id of the running server.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").pid()
    }

    /// Ends the server as a crash would. What is in its append-only file stays.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Freezes the server: its port stays open and nothing is answered.
    pub fn pause(&self) {
        self.process.as_ref().expect("it runs").pause();
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.process.as_ref().expect("it runs").resume();
    }
}
