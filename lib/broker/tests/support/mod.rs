//! A broker on a store in memory, a registry in the test's hands, and a client that speaks raw frames.
#![allow(dead_code, unreachable_pub, reason = "every test file uses its own part of this module")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

pub mod ledger;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use kiteq_broker::{Broker, BrokerConfig, RedeliverySchedule};
use kiteq_protocol::frame::{BODY_BYTES_MAX, put_frame};
use kiteq_protocol::{Command, Dialect, Frame, FrameDecoder, MessageId, pb};
use kiteq_registry::{
    AliveWatch, Binding, BindingsWatch, BrokerRecord, BrokersWatch, Registry, RegistryError,
};
use kiteq_store::SharedStore;
use kiteq_telemetry::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// How long anything may take before a test calls it missing.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long a test listens for what must not come.
pub const SILENCE: Duration = Duration::from_millis(300);

type BindingsSender = watch::Sender<Option<Arc<[Binding]>>>;

/// A registry that says what the test tells it to say.
#[derive(Default)]
pub struct TestRegistry {
    bindings: Mutex<HashMap<String, BindingsSender>>,
    pub registered: Mutex<Option<BrokerRecord>>,
    /// Whether it cannot be reached.
    pub is_away: AtomicBool,
    /// The brokers that it shows for every topic.
    pub brokers: watch::Sender<Option<Arc<[String]>>>,
    /// The brokers that it shows as living.
    pub alive: watch::Sender<Option<Arc<[String]>>>,
}

impl TestRegistry {
    fn sender(&self, topic: &str) -> BindingsSender {
        self.bindings
            .lock()
            .unwrap()
            .entry(topic.to_owned())
            .or_insert_with(|| watch::channel(None).0)
            .clone()
    }

    /// Lets the bindings of `topic` be known.
    pub fn bind(&self, topic: &str, bindings: &[Binding]) {
        self.sender(topic).send_replace(Some(bindings.into()));
    }
}

#[async_trait]
impl Registry for TestRegistry {
    fn describe(&self) -> String {
        "test://".to_owned()
    }

    async fn register_broker(&self, broker: BrokerRecord) -> Result<(), RegistryError> {
        if self.is_away.load(Ordering::Relaxed) {
            let (place, reason) = ("test".to_owned(), "it is away".to_owned());
            return Err(RegistryError::Unavailable { place, reason });
        }
        *self.registered.lock().unwrap() = Some(broker);
        Ok(())
    }

    async fn unregister_broker(&self) -> Result<(), RegistryError> {
        *self.registered.lock().unwrap() = None;
        Ok(())
    }

    fn watch_bindings(&self, topic: &str) -> BindingsWatch {
        self.sender(topic).subscribe()
    }

    fn watch_brokers(&self, _topic: &str) -> BrokersWatch {
        self.brokers.subscribe()
    }

    fn watch_alive(&self) -> AliveWatch {
        self.alive.subscribe()
    }

    async fn publish_bindings(&self, _group: &str, _bindings: &[Binding]) -> Result<(), RegistryError> {
        Ok(())
    }

    async fn register_producer(&self, _group: &str, _topics: &[String]) -> Result<(), RegistryError> {
        Ok(())
    }

    async fn close(&self) {}
}

/// A running broker.
pub struct TestBroker {
    pub broker: Broker,
    pub registry: Arc<TestRegistry>,
    pub store: SharedStore,
    pub metrics: prometheus_client::registry::Registry,
    service: Shutdown,
}

/// Quick retries and checks, so that tests need not wait for them.
pub fn config() -> BrokerConfig {
    BrokerConfig {
        bind: SocketAddr::from(([127, 0, 0, 1], 0)),
        topics: vec!["trade".to_owned()],
        delivery_timeout: Duration::from_millis(700),
        recover_period: Duration::from_millis(200),
        redelivery: RedeliverySchedule {
            immediate_attempts: 3,
            steps: vec![(10, Duration::from_millis(50))],
            beyond: Duration::from_millis(100),
        },
        handshake_timeout: Duration::from_millis(500),
        leave_grace: Duration::from_millis(10),
        drain_timeout: Duration::from_secs(2),
        ..BrokerConfig::default()
    }
}

impl TestBroker {
    pub async fn start() -> Self {
        Self::with(config()).await
    }

    pub async fn with(config: BrokerConfig) -> Self {
        Self::over(config, kiteq_store::open("memory://.?maxcap=100000").unwrap(), Arc::default()).await
    }

    /// Topic `trade` with these bindings.
    pub async fn bound(config: BrokerConfig, bindings: &[Binding]) -> Self {
        let registry = Arc::new(TestRegistry::default());
        registry.bind("trade", bindings);
        Self::over(config, kiteq_store::open("memory://.?maxcap=100000").unwrap(), registry).await
    }

    pub async fn over(config: BrokerConfig, store: SharedStore, registry: Arc<TestRegistry>) -> Self {
        let service = Shutdown::new();
        let mut metrics = prometheus_client::registry::Registry::default();
        let broker =
            Broker::start(config, store.clone(), registry.clone(), &mut metrics, &service).await.unwrap();
        Self { broker, registry, store, metrics, service }
    }

    pub async fn client(&self, group: &str) -> RawClient {
        self.client_with(group, Dialect::GO, 0).await
    }

    pub async fn client_with(&self, group: &str, dialect: Dialect, warm_up_seconds: i32) -> RawClient {
        let mut client = RawClient::connect(self.broker.address(), dialect).await;
        let ack = client.present(group, "", warm_up_seconds).await;
        assert!(ack.status, "{}", ack.feedback);
        client
    }

    /// The value of a metric, by its name and labels as they are written.
    pub fn metric(&self, name: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in\n{text}")).parse().unwrap()
    }

    /// Waits until `count` is nought, for as long as it keeps falling: how fast is not what the test is about.
    pub async fn until_none_of(&self, what: &str, count: impl Fn() -> usize) {
        let mut left = count();
        while left > 0 {
            self.until(&format!("fewer than {left} {what}"), |_| count() < left).await;
            left = count();
        }
    }

    /// Waits until `is_so` holds.
    pub async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !is_so(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
    }
}

/// One message, ready to be published.
pub fn message(number: u128) -> pb::StringMessage {
    pb::StringMessage {
        header: pb::Header {
            message_id: MessageId(number.to_be_bytes()).to_string(),
            topic: "trade".into(),
            message_type: "pay-succ".into(),
            expired_time: -1,
            deliver_limit: 100,
            group_id: "publisher".into(),
            commit: true,
            fly: false,
            ..Default::default()
        },
        body: format!("body {number}"),
    }
}

/// A connection that says exactly what a test wants it to say.
pub struct RawClient {
    pub stream: TcpStream,
    dialect: Dialect,
    decoder: FrameDecoder,
    received: BytesMut,
    opaque: u32,
}

impl RawClient {
    pub async fn connect(address: SocketAddr, dialect: Dialect) -> Self {
        Self {
            stream: TcpStream::connect(address).await.unwrap(),
            dialect,
            decoder: FrameDecoder::speaking(dialect, BODY_BYTES_MAX),
            received: BytesMut::new(),
            opaque: 0,
        }
    }

    pub async fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub async fn send(&mut self, command: Command, opaque: u32, body: &impl prost::Message) {
        let mut frame = BytesMut::new();
        put_frame(&mut frame, self.dialect, command, opaque, body);
        self.send_raw(&frame).await;
    }

    fn next_opaque(&mut self) -> u32 {
        self.opaque += 1;
        self.opaque
    }

    /// The next frame; `None` when the broker has closed the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("the broker says nothing")
    }

    async fn read(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.received).unwrap() {
                return Some(frame);
            }
            if self.stream.read_buf(&mut self.received).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Asserts that nothing comes for a while.
    pub async fn hears_nothing(&mut self) {
        if let Ok(frame) = tokio::time::timeout(SILENCE, self.read()).await {
            panic!("expected nothing, got {frame:?}");
        }
    }

    pub async fn is_closed(&mut self) {
        let frame = self.next().await;
        assert!(frame.is_none(), "expected the end of the connection, got {frame:?}");
    }

    pub async fn expect<T: prost::Message + Default>(&mut self, command: Command) -> (u32, T) {
        let frame = self.next().await.expect("the broker closed the connection");
        assert_eq!(frame.cmd, command as u8, "{frame:?}");
        (frame.opaque, T::decode(frame.body).unwrap())
    }

    pub async fn present(&mut self, group: &str, secret: &str, warm_up_seconds: i32) -> pb::ConnAuthAck {
        let opaque = self.next_opaque();
        let meta = pb::ConnMeta {
            group_id: group.into(),
            secret_key: secret.into(),
            warmingup_sec: Some(warm_up_seconds),
        };
        self.send(Command::ConnMeta, opaque, &meta).await;
        let (answered, ack) = self.expect(Command::ConnAuth).await;
        assert_eq!(answered, opaque);
        ack
    }

    /// Publishes and returns the broker's answer.
    pub async fn publish(&mut self, message: &pb::StringMessage) -> pb::MessageStoreAck {
        let opaque = self.next_opaque();
        self.send(Command::StringMessage, opaque, message).await;
        let (answered, ack) = self.expect::<pb::MessageStoreAck>(Command::StoreAck).await;
        assert_eq!(answered, opaque);
        ack
    }

    pub async fn publish_ok(&mut self, message: &pb::StringMessage) {
        let ack = self.publish(message).await;
        assert!(ack.status, "{}", ack.feedback);
    }

    /// The next delivery.
    pub async fn delivery(&mut self) -> (u32, pb::StringMessage) {
        self.expect(Command::StringMessage).await
    }

    pub async fn ack(&mut self, opaque: u32, message: &pb::StringMessage, status: bool) {
        let ack = pb::DeliverAck {
            message_id: message.header.message_id.clone(),
            topic: message.header.topic.clone(),
            message_type: message.header.message_type.clone(),
            // What the Go client puts there: the publisher's group.
            group_id: message.header.group_id.clone(),
            status,
            feedback: None,
        };
        self.send(Command::DeliverAck, opaque, &ack).await;
    }

    /// Receives the next delivery and acks it.
    pub async fn consume(&mut self) -> pb::StringMessage {
        let (opaque, message) = self.delivery().await;
        self.ack(opaque, &message, true).await;
        message
    }

    pub async fn verdict(&mut self, opaque: u32, message: &pb::StringMessage, status: i32) {
        let packet = pb::TxAckPacket { header: message.header.clone(), status, feedback: String::new() };
        self.send(Command::TxAck, opaque, &packet).await;
    }

    /// Publishes many at once and waits for their acks.
    pub async fn publish_all(&mut self, messages: impl IntoIterator<Item = pb::StringMessage>) {
        let mut opaques = std::collections::HashSet::new();
        for message in messages {
            let opaque = self.next_opaque();
            self.send(Command::StringMessage, opaque, &message).await;
            opaques.insert(opaque);
        }
        while !opaques.is_empty() {
            let (opaque, ack) = self.expect::<pb::MessageStoreAck>(Command::StoreAck).await;
            assert!(ack.status, "{}", ack.feedback);
            assert!(opaques.remove(&opaque));
        }
    }

    /// Waits until the broker has read everything; deliveries that come meanwhile stay unanswered.
    pub async fn settle(&mut self) {
        let opaque = self.next_opaque();
        self.send(Command::Heartbeat, opaque, &pb::HeartBeat { version: 1 }).await;
        while self.next().await.is_some_and(|frame| frame.cmd != Command::Heartbeat as u8) {}
    }

    /// Proves that everything sent before has been read.
    pub async fn heartbeat(&mut self) {
        let opaque = self.next_opaque();
        self.send(Command::Heartbeat, opaque, &pb::HeartBeat { version: 42 }).await;
        let (answered, beat) = self.expect::<pb::HeartBeat>(Command::Heartbeat).await;
        assert_eq!((answered, beat.version), (opaque, 42));
    }
}

/// The bytes of a body, for messages published as bytes.
pub fn bytes_message(number: u128, body: &'static [u8]) -> pb::BytesMessage {
    pb::BytesMessage { header: message(number).header, body: Bytes::from_static(body) }
}
