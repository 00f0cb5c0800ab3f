//! The client against the real broker.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kiteq_broker::{Broker, BrokerConfig};
use kiteq_client::{
    Bind, Client, Delivery, Framing, Handler, MessageId, Nack, Publish, PublishError, TxCheck, Verdict,
};
use kiteq_registry::{EmbeddedRegistry, Registry};
use kiteq_telemetry::Shutdown;
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

struct Place {
    registry: Arc<dyn Registry>,
    broker: Broker,
    service: Shutdown,
    config: BrokerConfig,
    directory: tempfile::TempDir,
}

async fn start(registry: &Arc<dyn Registry>, config: &BrokerConfig, service: &Shutdown) -> Broker {
    let store = kiteq_store::open("memory://").unwrap();
    let mut metrics = prometheus_client::registry::Registry::default();
    Broker::start(config.clone(), store, Arc::clone(registry), &mut metrics, service).await.unwrap()
}

impl Place {
    async fn open(change: impl FnOnce(&mut BrokerConfig)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let registry: Arc<dyn Registry> = EmbeddedRegistry::open(directory.path()).unwrap();
        let mut config = BrokerConfig {
            bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            leave_grace: Duration::ZERO,
            drain_timeout: Duration::from_secs(1),
            recover_period: Duration::from_millis(100),
            ..BrokerConfig::default()
        };
        change(&mut config);
        let service = Shutdown::new();
        let broker = start(&registry, &config, &service).await;
        config.bind = broker.address();
        Self { registry, broker, service, config, directory }
    }

    fn client(&self, group: &str) -> kiteq_client::ClientBuilder {
        let backoff = Duration::from_millis(20);
        Client::builder(Arc::clone(&self.registry), group).reconnect_backoff(backoff, backoff)
    }

    /// Stops the broker, which closes its registry, and starts another one on the same port.
    async fn restart(self) -> Self {
        self.broker.stop().await;
        self.service.finish(PATIENCE).await;
        let registry: Arc<dyn Registry> = EmbeddedRegistry::open(self.directory.path()).unwrap();
        let service = Shutdown::new();
        let broker = start(&registry, &self.config, &service).await;
        Self { registry, broker, service, ..self }
    }

    /// A consumer of everything in `trade`, and what it got.
    async fn consumer(&self, group: &str) -> (Client, mpsc::Receiver<Delivery>) {
        let (seen, got) = mpsc::channel(2000);
        let binds = [Bind::fanout("trade")];
        let client = self.client(group).consume(binds, passing_on(seen)).build().await.unwrap();
        client.ready(PATIENCE).await.unwrap();
        (client, got)
    }
}

/// A handler that shows the test what comes.
fn passing_on(seen: mpsc::Sender<Delivery>) -> impl Handler {
    move |delivery: Delivery| {
        let seen = seen.clone();
        async move {
            seen.send(delivery).await.map_err(|_| Nack::new("gone"))?;
            Ok(())
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_published_reaches_every_group() {
    let place = Place::open(|_| {}).await;
    let (one, mut got_one) = place.consumer("s-one").await;
    let (two, mut got_two) = place.consumer("s-two").await;
    let producer = place.client("p").framing(Framing::LengthPrefixed).build().await.unwrap();
    let text = "abc".repeat(100);
    let messages = (0..1000).map(|number| {
        let body = format!("{number} {text}");
        match number % 3 {
            0 => Publish::bytes("trade", "pay-succ", body),
            1 => Publish::string("trade", "pay-succ", body).snappy(),
            _ => Publish::bytes("trade", "pay-succ", body).snappy().property("number", number.to_string()),
        }
    });
    let receipts = soon("the receipts", producer.publish_batch(messages)).await;
    let ids: HashSet<MessageId> = receipts.into_iter().map(|receipt| receipt.unwrap().id).collect();
    assert_eq!(ids.len(), 1000);
    for got in [&mut got_one, &mut got_two] {
        let mut arrived = HashSet::new();
        while arrived.len() < 1000 {
            let delivery = soon("a delivery", got.recv()).await.unwrap();
            assert!(delivery.text().unwrap().ends_with(&text));
            arrived.insert(delivery.id());
        }
        assert_eq!(arrived, ids);
    }
    for client in [one, two, producer] {
        client.close(PATIENCE).await.unwrap();
    }
}

#[tokio::test]
async fn a_nacked_message_comes_again() {
    let place = Place::open(|_| {}).await;
    let attempts = Arc::new(AtomicU32::new(0));
    let handler = {
        let attempts = Arc::clone(&attempts);
        move |_delivery: Delivery| {
            let attempt = attempts.fetch_add(1, Ordering::SeqCst);
            async move { if attempt < 2 { Err(Nack::new("not yet")) } else { Ok(()) } }
        }
    };
    let consumer = place.client("s").consume([Bind::direct("trade", "pay-succ")], handler);
    let consumer = consumer.build().await.unwrap();
    consumer.ready(PATIENCE).await.unwrap();
    let producer = place.client("p").build().await.unwrap();
    producer.publish(Publish::string("trade", "pay-succ", "a")).await.unwrap();
    let third = async {
        while attempts.load(Ordering::SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
    };
    soon("the third attempt", third).await;
    consumer.close(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn only_committed_messages_are_delivered() {
    let place = Place::open(|_| {}).await;
    let (_consumer, mut got) = place.consumer("s").await;
    let check = async |check: TxCheck| match check.property("order") {
        Some("committed before the restart") => Verdict::Commit,
        _ => Verdict::Rollback,
    };
    let producer = place.client("p").on_check(check).build().await.unwrap();
    let message = |order: &str| Publish::string("trade", "order-new", order).property("order", order);
    let local = async |_transaction| Err::<(), _>("no funds");
    producer.transaction(message("failed"), local).await.unwrap_err();
    // Two whose closures never end, as if the process had died in them.
    for order in ["committed before the restart", "lost in the restart"] {
        let (begun, is_begun) = tokio::sync::oneshot::channel();
        let local = async |_transaction| {
            begun.send(()).unwrap();
            std::future::pending::<Result<(), &str>>().await
        };
        tokio::select! {
            _ = producer.transaction(message(order), local) => unreachable!("it never ends"),
            begun = is_begun => begun.unwrap(),
        }
    }
    let local = async |_transaction| Ok::<_, &str>(());
    producer.transaction(message("done"), local).await.unwrap();
    let mut orders = Vec::new();
    for _ in 0..2 {
        orders.push(soon("a delivery", got.recv()).await.unwrap().text().unwrap().to_owned());
    }
    orders.sort();
    assert_eq!(orders, ["committed before the restart", "done"]);
}

#[tokio::test]
async fn clients_come_back_after_a_restart_of_the_broker() {
    let place = Place::open(|_| {}).await;
    let binding = kiteq_registry::Binding::fanout("s", "trade", 0, true);
    place.registry.publish_bindings("s", &[binding]).await.unwrap();
    let addresses = [place.broker.address().to_string()];
    let registry: Arc<dyn Registry> = Arc::new(kiteq_registry::FixedRegistry::new(&addresses));
    let backoff = Duration::from_millis(20);
    let builder = |group| {
        Client::builder(Arc::clone(&registry), group).topics(["trade"]).reconnect_backoff(backoff, backoff)
    };
    let (seen, mut got) = mpsc::channel(8);
    let _consumer = builder("s").consume([], passing_on(seen)).build().await.unwrap();
    let producer = builder("p").build().await.unwrap();
    producer.publish(Publish::string("trade", "t", "before")).await.unwrap();
    assert_eq!(soon("a delivery", got.recv()).await.unwrap().text(), Some("before"));
    let _place = place.restart().await;
    producer.publish(Publish::string("trade", "t", "after")).await.unwrap();
    assert_eq!(soon("a delivery", got.recv()).await.unwrap().text(), Some("after"));
}

#[tokio::test]
async fn a_wrong_secret_is_told_and_the_right_one_works() {
    let place = Place::open(|config| {
        config.secrets.insert("p".to_owned(), "123456".to_owned());
    })
    .await;
    let message = Publish::string("trade", "t", "a");
    let wrong = place.client("p").secret("guess").build().await.unwrap();
    let error = soon("an answer", wrong.publish(message.clone())).await.unwrap_err();
    assert!(matches!(error, PublishError::Unauthorized { .. }), "{error}");
    let right = place.client("p").secret("123456").build().await.unwrap();
    soon("a receipt", right.publish(message)).await.unwrap();
}

#[tokio::test]
async fn what_the_broker_does_not_take_is_told() {
    let place = Place::open(|config| config.topics = vec!["trade".to_owned()]).await;
    let (_consumer, mut got) = place.consumer("s").await;
    let producer = place.client("p").build().await.unwrap();
    let id = MessageId([7; 16]);
    for _ in 0..2 {
        producer.publish(Publish::string("trade", "t", "once").id(id)).await.unwrap();
    }
    assert_eq!(soon("a delivery", got.recv()).await.unwrap().id(), id);
    producer.publish(Publish::string("trade", "t", "flown").fly()).await.unwrap();
    assert_eq!(soon("a delivery", got.recv()).await.unwrap().text(), Some("flown"), "the first came once");
    let elsewhere = Publish::string("feed", "t", "a").timeout(Duration::from_millis(100));
    let error = producer.publish(elsewhere).await.unwrap_err();
    assert!(error.is_retry_safe(), "{error}");
}
