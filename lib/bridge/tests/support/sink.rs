//! A Flume source of a test's own: it notes what it has said OK for, and misbehaves on request.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use kiteq_flume::{Answer, Handler, Incoming, Server, ServerOptions, Status};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What it does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Notes the events, then answers.
    Answer(Status),
    /// Closes the connection.
    Drop,
    /// Never answers.
    Silence,
    /// Waits until it has another manner.
    Hold,
}

pub const OK: Manner = Manner::Answer(Status::Ok);
pub const FAILED: Manner = Manner::Answer(Status::Failed);

#[derive(Debug)]
struct Notes {
    manner: watch::Sender<Manner>,
    /// How often each body was said OK for.
    bodies: Mutex<BTreeMap<Vec<u8>, usize>>,
    batches: AtomicUsize,
    in_hand: AtomicUsize,
    connections: AtomicUsize,
}

impl Handler for Notes {
    fn accepts(&self, _connection: u64) -> bool {
        self.connections.fetch_add(1, Ordering::SeqCst);
        true
    }

    async fn handle(&self, incoming: Incoming) -> Answer {
        let is_batch = !incoming.events.is_empty();
        self.in_hand.fetch_add(usize::from(is_batch), Ordering::SeqCst);
        let mut manner = self.manner.subscribe();
        let manner = *manner.wait_for(|manner| *manner != Manner::Hold).await.unwrap();
        self.in_hand.fetch_sub(usize::from(is_batch), Ordering::SeqCst);
        match manner {
            Manner::Answer(status) => {
                if status == Status::Ok && is_batch {
                    let mut bodies = self.bodies.lock().unwrap();
                    for event in incoming.events.iter() {
                        *bodies.entry(event.body().to_vec()).or_default() += 1;
                    }
                    self.batches.fetch_add(1, Ordering::SeqCst);
                }
                Answer::Status(status)
            }
            Manner::Drop => Answer::Drop,
            Manner::Silence | Manner::Hold => Answer::Silence,
        }
    }
}

/// A running source. Dropping it closes its port and connections.
pub struct Sink {
    pub port: u16,
    notes: Arc<Notes>,
    serve: JoinHandle<()>,
}

impl Sink {
    pub async fn start(manner: Manner) -> Self {
        Self::start_at(0, manner, ServerOptions::default()).await
    }

    pub async fn start_at(port: u16, manner: Manner, options: ServerOptions) -> Self {
        let server = Server::bind(("127.0.0.1", port), options).await.unwrap();
        let port = server.local_addr().unwrap().port();
        let notes = Arc::new(Notes {
            manner: watch::Sender::new(manner),
            bodies: Mutex::default(),
            batches: AtomicUsize::new(0),
            in_hand: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        });
        let serve = tokio::spawn(server.run(Arc::clone(&notes)));
        Self { port, notes, serve }
    }

    /// Its address as the bridge writes it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn behave(&self, manner: Manner) {
        self.notes.manner.send_replace(manner);
    }

    /// Batches with events that it has said OK for.
    pub fn batches(&self) -> usize {
        self.notes.batches.load(Ordering::SeqCst)
    }

    /// Batches with events that it has not answered yet.
    pub fn in_hand(&self) -> usize {
        self.notes.in_hand.load(Ordering::SeqCst)
    }

    /// Connections that it has accepted.
    pub fn connections(&self) -> usize {
        self.notes.connections.load(Ordering::SeqCst)
    }

    /// Ends it, and gives what it has said OK for until then.
    pub async fn kill(mut self) -> BTreeMap<Vec<u8>, usize> {
        self.serve.abort();
        let _ = (&mut self.serve).await;
        self.bodies()
    }

    pub fn bodies(&self) -> BTreeMap<Vec<u8>, usize> {
        self.notes.bodies.lock().unwrap().clone()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.serve.abort();
    }
}
