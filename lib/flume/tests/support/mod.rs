//! A source that answers as it is told, and batches for it.
#![allow(dead_code, reason = "not every test file uses all of it")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kiteq_flume::{
    Answer, Batch, BatchBuilder, ConnectOptions, Connection, FRAME_BYTES_MAX, Handler, Incoming, Protocol,
    Server, ServerOptions,
};
use tokio::task::JoinHandle;

pub(crate) const BOTH: [Protocol; 2] = [Protocol::Compact, Protocol::Binary];

/// Keeps the bodies that it gets, and gives its answers in turn, the last one for ever.
pub(crate) struct Script {
    answers: Mutex<Vec<Answer>>,
    pub(crate) bodies: Mutex<Vec<Vec<u8>>>,
    pub(crate) refuses_connection: Option<u64>,
}

impl Script {
    pub(crate) fn new(answers: &[Answer]) -> Arc<Self> {
        let answers = Mutex::new(answers.iter().rev().copied().collect());
        Arc::new(Self { answers, bodies: Mutex::default(), refuses_connection: None })
    }

    pub(crate) fn bodies(&self) -> Vec<Vec<u8>> {
        self.bodies.lock().unwrap().clone()
    }
}

impl Handler for Script {
    fn accepts(&self, connection: u64) -> bool {
        self.refuses_connection != Some(connection)
    }

    async fn handle(&self, incoming: Incoming) -> Answer {
        let bodies = incoming.events.iter().map(|event| event.body().to_vec());
        self.bodies.lock().unwrap().extend(bodies);
        let mut answers = self.answers.lock().unwrap();
        if answers.len() > 1 { answers.pop().unwrap() } else { answers[0] }
    }
}

/// A running server; dropping it ends it.
pub(crate) struct Source {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) async fn source(options: ServerOptions, handler: Arc<Script>) -> Source {
    let server = Server::bind("127.0.0.1:0", options).await.unwrap();
    let address = server.local_addr().unwrap();
    Source { address, task: tokio::spawn(server.run(handler)) }
}

pub(crate) fn options(protocol: Protocol) -> ConnectOptions {
    ConnectOptions {
        protocol,
        connect_timeout: Duration::from_secs(10),
        request_timeout: Duration::from_secs(10),
        ..ConnectOptions::default()
    }
}

pub(crate) async fn connect(address: SocketAddr, options: &ConnectOptions) -> Connection {
    Connection::connect("127.0.0.1", address.port(), options).await.unwrap()
}

pub(crate) fn batch(protocol: Protocol, bodies: &[&[u8]]) -> Batch {
    let mut builder = BatchBuilder::new(protocol, FRAME_BYTES_MAX);
    for body in bodies {
        builder.push(&[(b"businessName", b"location3"), (b"type", b"update")], &[body]).unwrap();
    }
    builder.finish()
}

/// Bounds a wait on a bare socket.
pub(crate) async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("not in time")
}
