//! The handle that an application holds.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kiteq_registry::Registry;
use tokio::time::{Instant, timeout_at};

use crate::builder::ClientBuilder;
use crate::error::{CloseError, NotReady, PublishError, TransactionError};
use crate::in_flight::{Intent, Submitted};
use crate::publish::{Publish, Receipt};
use crate::route::Pick;
use crate::shared::Shared;
use crate::sync::read;
use crate::transaction::{Transaction, Verdict};

/// A member of one group: publishes messages, and handles what brokers deliver to the group.
///
/// One connection to each broker of its topics carries everything. Clones share them; when the last clone is dropped the
/// connections are cut. Call [`Client::close`] before that to settle what is in flight.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

/// Stops every task when the last handle is gone.
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.shared.abandon();
    }
}

impl Client {
    /// Starts the description of a client of `group` that finds its brokers in `registry`.
    ///
    /// The registry stays the application's: several clients can share one, and closing a client does not close it.
    pub fn builder(registry: Arc<dyn Registry>, group: &str) -> ClientBuilder {
        ClientBuilder::new(registry, group)
    }

    /// Waits until every topic that the builder named has a connected broker.
    ///
    /// Not needed before publishing, which waits by itself; it tells an application at its start whether it can work.
    ///
    /// # Errors
    /// When that is not so after `patience`, and at once when a topic's brokers all refuse this client.
    ///
    /// # Cancel safety
    /// Can be dropped and called again at any time.
    pub async fn ready(&self, patience: Duration) -> Result<(), NotReady> {
        let shared = &self.inner.shared;
        let deadline = Instant::now() + patience;
        let mut changes = shared.changes.subscribe();
        loop {
            changes.borrow_and_update();
            let routes: Vec<_> = read(&shared.routes).values().cloned().collect();
            let mut missing = None;
            for route in routes {
                match route.pick(None) {
                    Pick::Link(_) => {}
                    Pick::Refused { broker, feedback } => {
                        return Err(NotReady::Unauthorized { broker, feedback });
                    }
                    Pick::Nowhere(reason) => {
                        missing = Some(NotReady::NoBroker { topic: route.topic.clone(), reason });
                    }
                }
            }
            let Some(missing) = missing else { return Ok(()) };
            tokio::select! {
                () = shared.stop.cancelled() => return Err(NotReady::Closed),
                changed = timeout_at(deadline, changes.changed()) => if changed.is_err() { return Err(missing) },
            }
        }
    }

    /// Publishes a message and waits until a broker has it.
    ///
    /// Durability: on `Ok` the broker has promised to keep the message; with its default store it survives a crash of the
    /// broker and the machine. A [fly](Publish::fly) message is only promised to be passed on.
    ///
    /// A message that stays unacked is sent again under its id, over another connection where there is one, until its
    /// [timeout](Publish::timeout) or expiry.
    ///
    /// # Errors
    /// See [`PublishError`].
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the message may have been sent or not.
    pub async fn publish(&self, publish: Publish) -> Result<Receipt, PublishError> {
        let intent = Intent { commit: true, awaited: true };
        self.inner.shared.submit(publish, intent).await?.await
    }

    /// Queues a message and returns the future of its receipt, so that many can be in flight.
    ///
    /// Waits while the [window](ClientBuilder::window) of every broker of the topic is full, or none is connected. What is
    /// submitted while the connection writes goes out together with the next write.
    ///
    /// # Errors
    /// When the message was not sent. See [`PublishError`].
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the message has not been sent.
    pub async fn submit(&self, publish: Publish) -> Result<Submitted, PublishError> {
        self.inner.shared.submit(publish, Intent { commit: true, awaited: false }).await
    }

    /// Publishes many messages, as many at once as the windows allow, and waits for all of them.
    ///
    /// The results come in the order of the messages. One that fails does not keep the others back.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, some may have been sent.
    pub async fn publish_batch(
        &self,
        messages: impl IntoIterator<Item = Publish>,
    ) -> Vec<Result<Receipt, PublishError>> {
        let mut submitted = Vec::new();
        for message in messages {
            submitted.push(self.submit(message).await);
        }
        let mut results = Vec::with_capacity(submitted.len());
        for one in submitted {
            results.push(match one {
                Ok(submitted) => submitted.await,
                Err(error) => Err(error),
            });
        }
        results
    }

    /// Publishes a message together with a local transaction: it is delivered if and only if `local` succeeds.
    ///
    /// The message is prepared at the broker first; then `local` runs; its `Ok` commits the message, its `Err` rolls it
    /// back. The verdict is sent once, to the broker that acked the message or, when that is not connected, to another one of
    /// the topic. Should it get lost, the broker that has the message asks and this client answers from memory: "unknown"
    /// while `local` runs, then its outcome. After a restart of the process, or when `local` panics or this future is
    /// dropped meanwhile, only the [check handler](ClientBuilder::on_check) can tell: store [`Transaction::id`] (or a
    /// property of your own) within the local transaction, and look it up there.
    ///
    /// # Errors
    /// [`TransactionError::Prepare`] when the broker did not take the message: `local` was not run.
    /// [`TransactionError::RolledBack`] with the error of `local`.
    ///
    /// # Cancel safety
    /// Not cancel safe: the broker asks the check handler about a message that was prepared.
    pub async fn transaction<T, E, F, R>(&self, publish: Publish, local: F) -> Result<T, TransactionError<E>>
    where
        F: FnOnce(Transaction) -> R,
        R: Future<Output = Result<T, E>>,
    {
        let shared = &self.inner.shared;
        let id = publish.id.unwrap_or_else(|| shared.ids.next());
        // Known before it is sent: the broker may ask as soon as it has acked.
        let undecided = shared.transactions.begin(id);
        let intent = Intent { commit: false, awaited: true };
        let submitted = match shared.submit(publish.id(id), intent).await {
            Ok(submitted) => submitted,
            Err(error) => return Err(TransactionError::Prepare(error)),
        };
        let header = submitted.message.encoded_header(&shared.settings.group);
        let topic = submitted.message.head.topic.clone();
        let receipt = match submitted.await {
            Ok(receipt) => receipt,
            Err(error) => {
                // A copy may have been stored all the same.
                undecided.decide(Verdict::Rollback);
                return Err(TransactionError::Prepare(error));
            }
        };
        let broker = receipt.broker;
        let result = local(Transaction { id, broker: Arc::clone(&broker) }).await;
        let (verdict, feedback) = match &result {
            Ok(_) => (Verdict::Commit, ""),
            Err(_) => (Verdict::Rollback, "the local transaction failed"),
        };
        undecided.decide(verdict);
        shared.send_verdict(&broker, &topic, &header, verdict, feedback);
        result.map_err(TransactionError::RolledBack)
    }

    /// Closes the client: takes no more deliveries, lets handlers finish, waits for the acks of what was published, writes
    /// what is left to write, and closes the connections.
    ///
    /// Takes `patience` at most, and a few seconds more where a broker does not let go. The registry keeps the group's
    /// bindings, so its messages wait for the next member to come.
    ///
    /// # Errors
    /// When `patience` was over before everything was settled; the client is closed all the same.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the client stays half closed; call it again.
    pub async fn close(&self, patience: Duration) -> Result<(), CloseError> {
        self.inner.shared.close(patience).await
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shared = &self.inner.shared;
        f.debug_struct("Client")
            .field("group", &shared.settings.group)
            .field("registry", &shared.registry.describe())
            .finish_non_exhaustive()
    }
}
