//! A broker played by the test, frame by frame, and a registry in memory.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use kiteq_client::{Client, ClientBuilder};
use kiteq_protocol::frame::{BODY_BYTES_MAX, put_frame};
use kiteq_protocol::reply::put_store_ack;
use kiteq_protocol::{Command, Dialect, Frame, FrameDecoder, pb};
use kiteq_registry::{
    AliveWatch, Binding, BindingsWatch, BrokerRecord, BrokersWatch, Registry, RegistryError,
};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Nothing that a test waits for takes so long unless it does not happen.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough to see that something does not happen.
pub const MOMENT: Duration = Duration::from_millis(150);

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}

/// A builder whose waits are short.
pub fn client_of(registry: &Arc<TestRegistry>, group: &str) -> ClientBuilder {
    let registry: Arc<dyn Registry> = Arc::clone(registry) as _;
    Client::builder(registry, group)
        .resend_after(Duration::from_millis(100))
        .publish_timeout(PATIENCE)
        .reconnect_backoff(Duration::from_millis(5), Duration::from_millis(20))
        .refused_retry(Duration::from_millis(200))
}

type BrokersSender = watch::Sender<Option<Arc<[String]>>>;

/// A registry that says what the test tells it to say.
#[derive(Default)]
pub struct TestRegistry {
    brokers: Mutex<HashMap<String, BrokersSender>>,
    pub published: Mutex<Vec<Binding>>,
    pub producers: Mutex<Vec<(String, String)>>,
    /// What to answer to the next presentations, the last one first; `Ok` when empty.
    pub answers: Mutex<Vec<RegistryError>>,
}

impl TestRegistry {
    pub fn with(topic: &str, addresses: &[&str]) -> Arc<Self> {
        let registry = Arc::new(Self::default());
        registry.set(topic, addresses);
        registry
    }

    pub fn set(&self, topic: &str, addresses: &[&str]) {
        let addresses: Arc<[String]> = addresses.iter().map(|address| (*address).to_owned()).collect();
        self.sender(topic).send_replace(Some(addresses));
    }

    fn sender(&self, topic: &str) -> BrokersSender {
        let mut brokers = self.brokers.lock().unwrap();
        brokers.entry(topic.to_owned()).or_insert_with(|| watch::channel(None).0).clone()
    }

    fn answer(&self) -> Result<(), RegistryError> {
        self.answers.lock().unwrap().pop().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl Registry for TestRegistry {
    fn describe(&self) -> String {
        "test://".to_owned()
    }

    async fn register_broker(&self, _broker: BrokerRecord) -> Result<(), RegistryError> {
        unreachable!("no client registers a broker")
    }

    async fn unregister_broker(&self) -> Result<(), RegistryError> {
        unreachable!("no client registers a broker")
    }

    fn watch_bindings(&self, _topic: &str) -> BindingsWatch {
        unreachable!("no client reads bindings")
    }

    fn watch_brokers(&self, topic: &str) -> BrokersWatch {
        self.sender(topic).subscribe()
    }

    fn watch_alive(&self) -> AliveWatch {
        unreachable!("no client asks who lives")
    }

    async fn publish_bindings(&self, _group: &str, bindings: &[Binding]) -> Result<(), RegistryError> {
        self.answer()?;
        self.published.lock().unwrap().extend_from_slice(bindings);
        Ok(())
    }

    async fn register_producer(&self, group: &str, topics: &[String]) -> Result<(), RegistryError> {
        let entries = topics.iter().map(|topic| (group.to_owned(), topic.clone()));
        self.producers.lock().unwrap().extend(entries);
        Ok(())
    }

    async fn close(&self) {}
}

/// A port that the test answers.
pub struct FakeBroker {
    listener: TcpListener,
    pub address: String,
}

impl FakeBroker {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self { listener, address }
    }

    /// The next connection, before its handshake.
    pub async fn accept_raw(&self) -> Connection {
        let (stream, _) = soon("a connection", self.listener.accept()).await.unwrap();
        Connection::new(stream)
    }

    /// The next connection, let in.
    pub async fn accept(&self) -> Connection {
        let mut connection = self.accept_raw().await;
        connection.authenticate(true, "Auth Succ").await;
        connection
    }
}

/// A published message as the broker gets it.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    pub opaque: u32,
    pub cmd: u8,
    pub header: pb::Header,
    pub body: Bytes,
}

/// The broker's side of one connection.
pub struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
    decoder: FrameDecoder,
    pub meta: Option<pb::ConnMeta>,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: BytesMut::new(), decoder: FrameDecoder::detecting(BODY_BYTES_MAX), meta: None }
    }

    pub fn dialect(&self) -> Dialect {
        self.decoder.dialect().unwrap()
    }

    pub async fn authenticate(&mut self, status: bool, feedback: &str) {
        let frame = self.receive(Command::ConnMeta).await;
        self.meta = Some(pb::ConnMeta::decode(frame.body).unwrap());
        let answer = pb::ConnAuthAck { status, feedback: feedback.to_owned() };
        self.send(Command::ConnAuth, frame.opaque, &answer).await;
    }

    /// The next frame, or `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buffer).unwrap() {
                return Some(frame);
            }
            match soon("a frame", self.stream.read_buf(&mut self.buffer)).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next frame of this command. Heartbeats are answered on the way; anything else is a failure.
    pub async fn receive(&mut self, command: Command) -> Frame {
        loop {
            let frame = self.next().await.expect("the connection ended");
            if frame.cmd == command as u8 {
                return frame;
            }
            assert_eq!(frame.cmd, Command::Heartbeat as u8, "expected {command:?}");
            let beat = pb::HeartBeat::decode(frame.body).unwrap();
            self.send(Command::Heartbeat, frame.opaque, &beat).await;
        }
    }

    /// The next message.
    pub async fn published(&mut self) -> Published {
        loop {
            let Frame { opaque, cmd, body } = self.next().await.expect("the connection ended");
            match Command::from_byte(cmd).unwrap() {
                Command::BytesMessage => {
                    let pb::BytesMessage { header, body } = pb::BytesMessage::decode(body).unwrap();
                    return Published { opaque, cmd, header, body };
                }
                Command::StringMessage => {
                    let pb::StringMessage { header, body } = pb::StringMessage::decode(body).unwrap();
                    return Published { opaque, cmd, header, body: body.into() };
                }
                Command::Heartbeat => {}
                other => panic!("expected a message, not {other:?}"),
            }
        }
    }

    pub async fn send(&mut self, command: Command, opaque: u32, body: &impl prost::Message) {
        let mut buf = BytesMut::new();
        put_frame(&mut buf, self.dialect(), command, opaque, body);
        self.raw(&buf).await;
    }

    pub async fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub async fn ack(&mut self, message: &Published) {
        self.answer(message, true, "Store Result true Cost:0").await;
    }

    pub async fn answer(&mut self, message: &Published, status: bool, feedback: &str) {
        let mut buf = BytesMut::new();
        let id = message.header.message_id.as_bytes();
        put_store_ack(&mut buf, self.dialect(), message.opaque, id, status, feedback);
        self.raw(&buf).await;
    }

    /// Delivers a message of bytes.
    pub async fn deliver(&mut self, opaque: u32, header: pb::Header, body: &[u8]) {
        let message = pb::BytesMessage { header, body: Bytes::copy_from_slice(body) };
        self.send(Command::BytesMessage, opaque, &message).await;
    }

    pub async fn deliver_string(&mut self, opaque: u32, header: pb::Header, body: &str) {
        self.send(Command::StringMessage, opaque, &pb::StringMessage { header, body: body.to_owned() }).await;
    }

    /// The next answer to a delivery.
    pub async fn delivered(&mut self) -> (u32, pb::DeliverAck) {
        let frame = self.receive(Command::DeliverAck).await;
        (frame.opaque, pb::DeliverAck::decode(frame.body).unwrap())
    }

    /// Asks about a transaction.
    pub async fn check(&mut self, opaque: u32, header: pb::Header) {
        let question = pb::TxAckPacket { header, status: 0, feedback: "Server Check".to_owned() };
        self.send(Command::TxAck, opaque, &question).await;
    }

    /// Asks about a transaction; an error when the connection is gone.
    pub async fn try_check(&mut self, opaque: u32, header: pb::Header) -> std::io::Result<()> {
        let question = pb::TxAckPacket { header, status: 0, feedback: "Server Check".to_owned() };
        let mut buf = BytesMut::new();
        put_frame(&mut buf, self.dialect(), Command::TxAck, opaque, &question);
        self.stream.write_all(&buf).await
    }

    /// The next verdict.
    pub async fn verdict(&mut self) -> (u32, pb::TxAckPacket) {
        let frame = self.receive(Command::TxAck).await;
        (frame.opaque, pb::TxAckPacket::decode(frame.body).unwrap())
    }

    /// Checks that nothing but heartbeats comes for a moment.
    pub async fn assert_silent(&mut self) {
        if let Ok(frame) = tokio::time::timeout(MOMENT, self.next()).await {
            assert_eq!(frame.map(|frame| frame.cmd), Some(Command::Heartbeat as u8));
        }
    }

    /// Checks that the client has closed its side.
    pub async fn assert_closed(&mut self) {
        while let Some(frame) = self.next().await {
            assert_eq!(frame.cmd, Command::Heartbeat as u8, "nothing but heartbeats before the end");
        }
    }
}

/// The header of a message to deliver or to ask about.
pub fn header(number: u8) -> pb::Header {
    pb::Header {
        message_id: kiteq_protocol::MessageId([number; 16]).to_string(),
        topic: "trade".to_owned(),
        message_type: "pay-succ".to_owned(),
        expired_time: -1,
        deliver_limit: 100,
        group_id: "p-orders".to_owned(),
        commit: true,
        fly: false,
        ..Default::default()
    }
}
