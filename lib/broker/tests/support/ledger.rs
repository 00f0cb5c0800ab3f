//! Who got what how often.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use kiteq_protocol::Command;
use kiteq_protocol::pb;
use tokio::task::JoinHandle;

use super::{RawClient, TestBroker};

/// Deliveries that were acked, by group and body. Clones are the same ledger.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<HashMap<(String, String), usize>>>);

impl Ledger {
    /// How many different messages `group` has.
    pub fn count(&self, group: &str) -> usize {
        self.0.lock().unwrap().keys().filter(|(of, _)| of == group).count()
    }

    /// How often `group` got message `number`.
    pub fn times(&self, group: &str, number: u128) -> usize {
        let key = (group.to_owned(), format!("body {number}"));
        self.0.lock().unwrap().get(&key).copied().unwrap_or(0)
    }

    /// Asserts that `group` got each of these messages once, and no others.
    pub fn has_each_once(&self, group: &str, numbers: impl IntoIterator<Item = u128>) {
        let mut expected = 0;
        for number in numbers {
            expected += 1;
            assert_eq!(self.times(group, number), 1, "message {number} for {group}");
        }
        assert_eq!(self.count(group), expected, "messages of {group}");
    }
}

/// A consumer that answers every delivery until it is stopped. Its connection ends with it.
pub struct Worker(JoinHandle<RawClient>, tokio_util::sync::CancellationToken);

impl Worker {
    /// Acks everything.
    pub async fn start(broker: &TestBroker, group: &str, ledger: &Ledger) -> Self {
        Self::answering(broker, group, ledger, |_| Some(true)).await
    }

    /// Answers what `answer` says; `None` for no answer at all.
    pub async fn answering(
        broker: &TestBroker,
        group: &str,
        ledger: &Ledger,
        mut answer: impl FnMut(&pb::StringMessage) -> Option<bool> + Send + 'static,
    ) -> Self {
        let mut client = broker.client(group).await;
        let (group, ledger) = (group.to_owned(), ledger.clone());
        let stop = tokio_util::sync::CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            loop {
                let frame = tokio::select! {
                    frame = client.read() => frame,
                    () = stopped.cancelled() => return client,
                };
                let Some(frame) = frame else { return client };
                if frame.cmd != Command::StringMessage as u8 {
                    continue;
                }
                let message = <pb::StringMessage as prost::Message>::decode(frame.body).unwrap();
                let answer = answer(&message);
                if answer == Some(true) {
                    let key = (group.clone(), message.body.clone());
                    *ledger.0.lock().unwrap().entry(key).or_default() += 1;
                }
                if let Some(status) = answer {
                    client.ack(frame.opaque, &message, status).await;
                }
            }
        });
        Self(task, stop)
    }

    /// Ends it between two deliveries, with everything answered that it took, and closes its connection.
    pub async fn stop(self) {
        self.1.cancel();
        let mut client = self.0.await.unwrap();
        // The broker has read every ack once it answers this.
        client.settle().await;
    }
}
