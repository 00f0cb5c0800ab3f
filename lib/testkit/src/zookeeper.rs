//! A ZooKeeper server of a test's own: on a free port of loopback, in a temporary directory, killed at the end.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::process::{ServerProcess, free_port};
use crate::wait::eventually;

/// Where the Debian package puts the server and everything that it names in its manifest.
const SERVER_JAR: &str = "/usr/share/java/zookeeper.jar";
const MAIN_CLASS: &str = "org.apache.zookeeper.server.quorum.QuorumPeerMain";

/// A ZooKeeper server.
#[derive(Debug)]
pub struct ZooKeeper {
    directory: tempfile::TempDir,
    port: u16,
    process: Option<ServerProcess>,
}

impl ZooKeeper {
    /// Starts a server with an empty tree and waits until it serves.
    pub async fn start() -> Self {
        let mut server = Self::prepare();
        server.run().await;
        server
    }

    /// A server that is not running yet.
    #[must_use]
    pub fn prepare() -> Self {
        assert!(
            Path::new(SERVER_JAR).exists(),
            "ZooKeeper is not installed ({SERVER_JAR} is missing): scripts/test installs it and runs these tests"
        );
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let config = format!(
            "tickTime=200\ninitLimit=10\nsyncLimit=5\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\n\
             admin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\nforceSync=no\n",
            directory.path().join("data").display()
        );
        std::fs::write(directory.path().join("zoo.cfg"), config).unwrap();
        Self { directory, port, process: None }
    }

    /// Its `host:port`.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its registry URI.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("zk://{}", self.host())
    }

    /// Starts the server, again if it has run before, with the data that it has.
    pub async fn run(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let mut command = Command::new("java");
        command
            .args([
                "-Xmx96m",
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
                "-Xshare:auto",
                "-cp",
                SERVER_JAR,
            ])
            .arg(MAIN_CLASS)
            .arg(self.directory.path().join("zoo.cfg"));
        self.process = Some(ServerProcess::start("ZooKeeper", self.directory.path(), &mut command));
        eventually("ZooKeeper serves", async || self.answers().then_some(())).await;
    }

    fn answers(&mut self) -> bool {
        if let Some(process) = &mut self.process {
            process.check();
        }
        self.ask("srvr").is_some_and(|answer| answer.contains("Mode: standalone"))
    }

    /// A four-letter command and its answer; `None` when the server cannot be reached.
    #[must_use]
    pub fn ask(&self, command: &str) -> Option<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        stream.write_all(command.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// Ends the server as a crash would. Its data stays.
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
