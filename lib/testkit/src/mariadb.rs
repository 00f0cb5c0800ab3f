//! A MariaDB server of a test's own: on a free port of loopback, in a temporary directory, killed at the end.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::process::{ServerProcess, free_port};
use crate::wait::PATIENCE;

/// Where packages put programs that are not for everybody.
const PATHS: [&str; 4] = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];

/// A MariaDB server. Its user `root` has no password.
#[derive(Debug)]
pub struct MariaDb {
    directory: tempfile::TempDir,
    port: u16,
    options: Vec<String>,
    process: Option<ServerProcess>,
}

fn program(names: &[&str]) -> PathBuf {
    let found = PATHS.iter().flat_map(|path| names.iter().map(move |name| Path::new(path).join(name)));
    found.into_iter().find(|path| path.exists()).unwrap_or_else(|| {
        panic!("{} is not installed: scripts/test installs it and runs these tests", names[0])
    })
}

impl MariaDb {
    /// Starts a server without databases and waits until it serves.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The server that all tests of this process share, each with databases of its own.
    ///
    /// Nothing is dropped when a process ends, so a shell waits for that end, and ends the server and removes its data.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<MariaDb> = LazyLock::new(|| {
            let server = MariaDb::start();
            let watch = Command::new("sh")
                .args(["-c", "read -r _; kill -9 \"$1\"; rm -rf \"$2\"", "sh"])
                .arg(server.pid().to_string())
                .arg(server.directory.path())
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // The end of this process closes its input, and nothing else does.
            std::mem::forget(watch);
            server
        });
        &SHARED
    }

    /// Like [`MariaDb::start`], with further options such as `--log-bin`.
    #[must_use]
    pub fn start_with(options: &[&str]) -> Self {
        let mut server = Self::prepare(options);
        server.run();
        server
    }

    /// A server that is not running yet.
    #[must_use]
    pub fn prepare(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let made = Command::new(program(&["mariadb-install-db", "mysql_install_db"]))
            .arg("--no-defaults")
            .arg(format!("--datadir={}", directory.path().join("data").display()))
            .args(["--auth-root-authentication-method=normal", "--skip-test-db", "--force"])
            .args(["--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M"])
            .args(run_as_root())
            // A server that starts removes whatever temporary tables it finds, those of others too.
            .env("TMPDIR", directory.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(made.status.success(), "mariadb-install-db: {}", String::from_utf8_lossy(&made.stderr));
        let options = options.iter().map(|&option| option.to_owned()).collect();
        Self { directory, port: free_port(), options, process: None }
    }

    /// Its `host:port`.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The store's URI for databases with this prefix.
    #[must_use]
    pub fn uri(&self, database: &str, parameters: &str) -> String {
        format!("mysql://{}?db={database}&username=root&{parameters}", self.host())
    }

    /// Starts the server, again if it has run before, with the data that it has. Further options may be given.
    pub fn run_with(&mut self, options: &[&str]) {
        self.options.extend(options.iter().map(|&option| option.to_owned()));
        self.run();
    }

    /// Starts the server, again if it has run before, with the data that it has.
    pub fn run(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let mut command = Command::new(program(&["mariadbd", "mysqld"]));
        let path = self.directory.path();
        command
            .arg("--no-defaults")
            .arg(format!("--datadir={}", path.join("data").display()))
            .arg(format!("--socket={}", path.join("socket").display()))
            .arg(format!("--pid-file={}", path.join("pid").display()))
            .arg(format!("--port={}", self.port))
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--skip-log-error"])
            .args([
                "--innodb-buffer-pool-size=128M",
                "--innodb-log-file-size=64M",
                "--performance-schema=off",
            ])
            .args(&self.options)
            .args(run_as_root())
            .env("TMPDIR", path);
        self.process = Some(ServerProcess::start("MariaDB", path, &mut command));
        let deadline = Instant::now() + PATIENCE;
        while !self.answers() {
            assert!(Instant::now() < deadline, "MariaDB does not serve in time");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A server greets whoever connects.
    fn answers(&mut self) -> bool {
        if let Some(process) = &mut self.process {
            process.check();
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else {
            return false;
        };
        let mut greeting = [0; 5];
        stream.set_read_timeout(Some(Duration::from_secs(1))).is_ok()
            && stream.read_exact(&mut greeting).is_ok()
            && greeting[4] == 10
    }

    /// Runs statements as root and gives what they print: rows in lines, columns between tabs.
    #[must_use]
    pub fn query(&self, sql: &str) -> String {
        let output = Command::new(program(&["mariadb", "mysql"]))
            .arg("--no-defaults")
            .arg(format!("--socket={}", self.directory.path().join("socket").display()))
            .args(["--user=root", "--batch", "--skip-column-names", "--binary-mode", "-e", sql])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Runs statements as root.
    pub fn execute(&self, sql: &str) {
        let _ = self.query(sql);
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

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").pid()
    }
}

/// The server refuses to run as root unless it is told to.
fn run_as_root() -> Option<&'static str> {
    let id = Command::new("id").arg("-u").output().unwrap().stdout;
    (id.trim_ascii() == b"0").then_some("--user=root")
}
