//! The real binary between a real Redis, a real ZooKeeper and a sink that keeps what it gets.
#![allow(dead_code, reason = "each test file uses its part")]

use std::process::Command;
use std::sync::{Arc, Mutex};

use kiteq_flume::{Answer, Handler, Incoming, Server, ServerOptions, Status};
use kiteq_testkit::{Binary, Program, Redis, ZooKeeper};
use kiteq_zookeeper::{Client, make};
use tokio::task::JoinHandle;

pub(crate) const BRIDGE: Binary =
    Binary { path: env!("CARGO_BIN_EXE_flume-bridge"), variable_prefix: "FLUME_BRIDGE_" };

/// The queue that bridges drain here.
pub(crate) const QUEUE: &str = "user-log";
/// The business that they serve.
pub(crate) const BUSINESS: &str = "location3";

/// An element of [`BUSINESS`], and the body of the event that becomes of it.
pub(crate) fn element(id: u64) -> (String, String) {
    let element = format!(
        r#"{{"action":"location","params":{{"momoid":"{id}","businessName":"location","type":"update","log_type":3,"body":{{"at":18446744073709551615}}}}}}"#
    );
    let body = r#"{"at":18446744073709551615,"business_type":"location","log_type":"3"}"#;
    (element, format!("{id}\tupdate\t{body}"))
}

/// A sink: bodies of all events, or no answer at all.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    bodies: Mutex<Vec<String>>,
    is_silent: bool,
}

impl Sink {
    pub(crate) fn bodies(&self) -> Vec<String> {
        self.bodies.lock().unwrap().clone()
    }
}

impl Handler for Sink {
    async fn handle(&self, incoming: Incoming) -> Answer {
        if self.is_silent {
            return Answer::Silence;
        }
        let bodies = incoming.events.iter().map(|event| String::from_utf8(event.body().to_vec()).unwrap());
        self.bodies.lock().unwrap().extend(bodies);
        Answer::Status(Status::Ok)
    }
}

/// What a bridge needs.
pub(crate) struct Installation {
    pub(crate) redis: Redis,
    pub(crate) zookeeper: ZooKeeper,
    pub(crate) sink: Arc<Sink>,
    serving: JoinHandle<()>,
}

impl Installation {
    /// With a sink that takes everything.
    pub(crate) async fn start() -> Self {
        Self::start_with(Sink::default()).await
    }

    /// With a sink that never answers.
    pub(crate) async fn start_silent() -> Self {
        Self::start_with(Sink { is_silent: true, ..Sink::default() }).await
    }

    async fn start_with(sink: Sink) -> Self {
        let (redis, zookeeper) = (Redis::start().await, ZooKeeper::start().await);
        let sink = Arc::new(sink);
        let server = Server::bind("127.0.0.1:0", ServerOptions::default()).await.unwrap();
        let port = server.local_addr().unwrap().port();
        let serving = tokio::spawn(server.run(Arc::clone(&sink)));
        let client = Client::connect(&zookeeper.host()).await.unwrap();
        make(&client, &format!("/flume/{BUSINESS}/127.0.0.1_{port}")).await.unwrap();
        Self { redis, zookeeper, sink, serving }
    }

    /// Runs a Redis command and gives what it printed.
    pub(crate) fn redis(&self, arguments: &[&str]) -> String {
        let port = self.redis.port().to_string();
        let output = Command::new("redis-cli").args(["-p", &port]).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Starts a bridge with the flags of existing installations, and waits until it was started.
    pub(crate) fn bridge(&self, more: &[&str]) -> Program {
        let flags = [
            format!("-redis={}", self.redis.host()),
            format!("-zkhost={}", self.zookeeper.host()),
            format!("-queuename={QUEUE}"),
            format!("-businesses={BUSINESS}"),
            "-instancename=test".to_owned(),
            "-pport=0".to_owned(),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let mut bridge = BRIDGE.start(&flags, &[]);
        bridge.wait_for("started: ");
        bridge
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
