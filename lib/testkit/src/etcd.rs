//! An etcd server of a test's own: on free ports of loopback, in a temporary directory, killed at the end.
//!
//! Tests speak to it through its JSON gateway, so that nothing of what they test is used for looking at the outcome.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::certificates::Certificates;
use crate::process::{ServerProcess, free_port};
use crate::wait::eventually;

/// An etcd server.
#[derive(Debug)]
pub struct Etcd {
    directory: tempfile::TempDir,
    name: String,
    port: u16,
    peer_port: u16,
    /// Says whether it serves, without TLS and without a password.
    health_port: u16,
    /// `name=url` of every member.
    members: String,
    is_tls: bool,
    /// What is sent with each request, once authentication is on.
    token: Mutex<Option<String>>,
    process: Option<ServerProcess>,
}

impl Etcd {
    /// Starts a server with no keys and waits until it serves.
    pub async fn start() -> Self {
        let mut server = Self::prepare();
        server.run().await;
        server
    }

    /// A server that speaks TLS and wants a certificate from its clients, see [`Etcd::certificates`]; no requests of the test
    /// itself can be made to it.
    pub async fn start_tls() -> Self {
        let mut server = Self::prepare();
        server.is_tls = true;
        let _ = Certificates::make(server.directory.path());
        server.run().await;
        server
    }

    /// A server that is not running yet.
    #[must_use]
    pub fn prepare() -> Self {
        let mut server = Self::member(0);
        server.members = server.membership();
        server
    }

    /// Starts a cluster of `size` members and waits until all of them serve.
    pub async fn start_cluster(size: usize) -> Vec<Self> {
        let mut members: Vec<_> = (0..size).map(Self::member).collect();
        let all = members.iter().map(Self::membership).collect::<Vec<_>>().join(",");
        for member in &mut members {
            member.members.clone_from(&all);
            member.launch();
        }
        for member in &mut members {
            member.serves().await;
        }
        members
    }

    fn member(number: usize) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            name: format!("member-{number}"),
            port: free_port(),
            peer_port: free_port(),
            health_port: free_port(),
            members: String::new(),
            is_tls: false,
            token: Mutex::default(),
            process: None,
        }
    }

    fn membership(&self) -> String {
        format!("{}=http://127.0.0.1:{}", self.name, self.peer_port)
    }

    /// Its `host:port`.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts the server, again if it has run before, with the data that it has.
    pub async fn run(&mut self) {
        self.launch();
        self.serves().await;
    }

    fn launch(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let scheme = if self.is_tls { "https" } else { "http" };
        let (client, peer) =
            (format!("{scheme}://{}", self.host()), format!("http://127.0.0.1:{}", self.peer_port));
        let mut command = Command::new("etcd");
        command
            .args(["--name", &self.name, "--log-level", "warn", "--logger", "zap", "--log-outputs", "stderr"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.members])
            .arg(format!("--listen-metrics-urls=http://127.0.0.1:{}", self.health_port))
            .arg("--data-dir")
            .arg(self.directory.path().join("data"));
        if self.members == self.membership() {
            // One that is alone need not wait long for others before it serves, and grants leases of a second.
            command.args(["--heartbeat-interval", "50", "--election-timeout", "500"]);
        }
        if self.is_tls {
            let Certificates { authority, certificate, key } = self.certificates();
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(authority);
            command.arg("--cert-file").arg(certificate).arg("--key-file").arg(key);
        }
        self.process = Some(ServerProcess::start("etcd", self.directory.path(), &mut command));
    }

    async fn serves(&mut self) {
        eventually("etcd serves", async || {
            if let Some(process) = &mut self.process {
                process.check();
            }
            let answer = exchange(self.health_port, "GET /health HTTP/1.0\r\n\r\n")?;
            answer.contains(r#""health":"true""#).then_some(())
        })
        .await;
    }

    /// Ends the server as a crash would. Its data stays.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Deletes the data of a server that does not run.
    pub fn wipe(&mut self) {
        assert!(self.process.is_none(), "it runs");
        std::fs::remove_dir_all(self.directory.path().join("data")).unwrap();
    }

    /// Freezes the server: its port stays open and nothing is answered.
    pub fn pause(&self) {
        self.process.as_ref().expect("it runs").pause();
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.process.as_ref().expect("it runs").resume();
    }

    /// What it presents, and what its clients may present.
    #[must_use]
    pub fn certificates(&self) -> Certificates {
        Certificates::in_directory(self.directory.path())
    }

    /// A call through the JSON gateway: its answer, which is an object with an `error` when it is refused.
    ///
    /// # Panics
    /// When the server cannot be reached.
    pub fn call(&self, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let token = self.token.lock().unwrap().clone();
        let authorization = token.map(|token| format!("Authorization: {token}\r\n")).unwrap_or_default();
        let request = format!(
            "POST /v3/{path} HTTP/1.0\r\n{authorization}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = exchange(self.port, &request).expect("etcd answers");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    fn done(&self, path: &str, body: &Value) -> Value {
        let answer = self.call(path, body);
        assert!(answer.get("error").is_none(), "{path}: {answer}");
        answer
    }

    /// Writes a key as another program would.
    pub fn put(&self, key: &str, value: &[u8]) {
        self.done("kv/put", &json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value)}));
    }

    /// Deletes a key.
    pub fn delete(&self, key: &str) {
        self.done("kv/deleterange", &json!({"key": STANDARD.encode(key)}));
    }

    /// The keys that begin with `prefix`.
    #[must_use]
    pub fn keys(&self, prefix: &str) -> Vec<EtcdKey> {
        let mut end = prefix.as_bytes().to_vec();
        *end.last_mut().expect("a prefix") += 1;
        let answer = self
            .done("kv/range", &json!({"key": STANDARD.encode(prefix), "range_end": STANDARD.encode(end)}));
        let pairs = answer.get("kvs").and_then(Value::as_array).cloned().unwrap_or_default();
        pairs.iter().map(EtcdKey::read).collect()
    }

    /// A key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<EtcdKey> {
        let answer = self.done("kv/range", &json!({"key": STANDARD.encode(key)}));
        answer.pointer("/kvs/0").map(EtcdKey::read)
    }

    /// Ends a lease, as its time running out would.
    pub fn revoke(&self, lease: i64) {
        self.done("lease/revoke", &json!({"ID": lease.to_string()}));
    }

    /// Forgets every change before the newest one.
    pub fn compact(&self) {
        let answer = self.done("kv/range", &json!({"key": STANDARD.encode("any")}));
        let revision = answer.pointer("/header/revision").expect("a revision").clone();
        self.done("kv/compaction", &json!({"revision": revision, "physical": true}));
    }

    /// How many calls of a gRPC method it has answered so far.
    #[must_use]
    pub fn calls(&self, method: &str) -> u64 {
        let text = exchange(self.health_port, "GET /metrics HTTP/1.0\r\n\r\n").expect("metrics");
        let name = format!("grpc_method=\"{method}\"");
        let counts = text
            .lines()
            .filter(|line| line.starts_with("grpc_server_started_total") && line.contains(&name))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        counts.map(|count| count as u64).sum()
    }

    /// Turns authentication on, with the user `root` and one who may read and write everything below `/kiteq/`.
    pub fn enable_auth(&self, name: &str, password: &str) {
        self.done("auth/user/add", &json!({"name": "root", "password": "root"}));
        self.done("auth/role/add", &json!({"name": "root"}));
        self.done("auth/user/grant", &json!({"user": "root", "role": "root"}));
        self.done("auth/user/add", &json!({"name": name, "password": password}));
        self.done("auth/role/add", &json!({"name": "kite"}));
        let range = json!({
            "permType": "READWRITE", "key": STANDARD.encode("/kiteq/"), "range_end": STANDARD.encode("/kiteq0"),
        });
        self.done("auth/role/grant", &json!({"name": "kite", "perm": range}));
        self.done("auth/user/grant", &json!({"user": name, "role": "kite"}));
        self.done("auth/enable", &json!({}));
        self.log_in();
    }

    /// Gets a token for the requests of the test itself.
    pub fn log_in(&self) {
        *self.token.lock().unwrap() = None;
        let answer = self.done("auth/authenticate", &json!({"name": "root", "password": "root"}));
        let token = answer.get("token").and_then(Value::as_str).map(str::to_owned);
        *self.token.lock().unwrap() = token;
    }
}

/// A key of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdKey {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// The lease that it goes with, or 0.
    pub lease: i64,
    /// The revision of its last change.
    pub mod_revision: i64,
}

impl EtcdKey {
    fn read(pair: &Value) -> Self {
        let bytes = |field: &str| {
            let text = pair.get(field).and_then(Value::as_str).unwrap_or_default();
            STANDARD.decode(text).expect("base64")
        };
        let number = |field: &str| {
            pair.get(field).and_then(Value::as_str).map_or(0, |text| text.parse().expect("a number"))
        };
        Self {
            key: String::from_utf8(bytes("key")).expect("a readable key"),
            value: bytes("value"),
            lease: number("lease"),
            mod_revision: number("mod_revision"),
        }
    }
}

/// One HTTP request over a connection of its own; `None` when there is no answer.
fn exchange(port: u16, request: &str) -> Option<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}
