//! What the tests of the store share: messages, and calls that wait for their answer.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use kiteq_protocol::message::HeaderChanges;
use kiteq_protocol::{Message, MessageId, MessageKind, pb};
use kiteq_store::{
    AppendOutcome, DeadLetter, Done, GroupState, Kill, Loaded, MessageStore, OwnedStore, Owner, Page,
    PageSource, Paged, PagedStore, Recovered, Revived, SharedStore, Shelf, Shelving, Slot, StoreError,
    StoreStats, Verdict, VerdictOutcome,
};
use kiteq_testkit::MariaDb;

/// How long an answer may take on a machine that does other things too.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Ids in the order of their numbers, in every table of a store that has several.
pub fn id(number: u32) -> MessageId {
    let mut id = [0x5a; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    id[15] = 0x50 | (number % 16) as u8;
    MessageId(id)
}

pub fn message(number: u32, topic: &str, message_type: &str, body: &[u8]) -> Message {
    message_with(id(number), number, topic, message_type, body)
}

pub fn message_with(id: MessageId, number: u32, topic: &str, message_type: &str, body: &[u8]) -> Message {
    let kind = if number.is_multiple_of(2) { MessageKind::Bytes } else { MessageKind::String };
    let header = pb::Header {
        message_id: id.to_string(),
        topic: topic.to_owned(),
        message_type: message_type.to_owned(),
        expired_time: 4_000_000_000 + i64::from(number),
        deliver_limit: 100,
        group_id: "p-test".to_owned(),
        commit: true,
        fly: false,
        ..pb::Header::default()
    };
    let encoded = pb::BytesMessage { header, body: Bytes::copy_from_slice(body) };
    Message::decode(kind, &Bytes::from(prost_encode(&encoded))).unwrap()
}

pub fn prepared(number: u32, body: &[u8]) -> Message {
    uncommitted(message(number, "trade", "pay", body))
}

pub fn uncommitted(mut message: Message) -> Message {
    let changes = HeaderChanges { committed: Some(false), ..HeaderChanges::default() };
    message.change_header(changes, &mut bytes::BytesMut::new()).unwrap();
    message
}

fn prost_encode(message: &pb::BytesMessage) -> Vec<u8> {
    prost::Message::encode_to_vec(message)
}

/// The name of this broker in a store that brokers share.
pub const OWNER: &str = "127.0.0.1:13800";

static DATABASES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

/// A name for databases that no other test of this process has.
pub fn database() -> String {
    format!("t{}", DATABASES.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

/// The server that the tests of a binary share.
pub fn mariadb() -> &'static MariaDb {
    MariaDb::shared()
}

/// Waits until something is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + ANSWER_TIMEOUT;
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A backend and what it promises.
pub struct Backend {
    scheme: &'static str,
    /// For a store on a server.
    database: String,
    directory: Option<tempfile::TempDir>,
    /// Whether it refuses when it is full.
    pub is_bounded: bool,
    pub keeps_dead_letters: bool,
    pub durable: bool,
}

impl Backend {
    pub fn memory() -> Self {
        Self {
            scheme: "memory",
            database: String::new(),
            is_bounded: true,
            directory: None,
            keeps_dead_letters: true,
            durable: false,
        }
    }

    pub fn mock() -> Self {
        Self {
            scheme: "mock",
            database: String::new(),
            is_bounded: true,
            directory: None,
            keeps_dead_letters: false,
            durable: false,
        }
    }

    pub fn mmap() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            scheme: "mmap",
            database: String::new(),
            is_bounded: true,
            directory: Some(directory),
            keeps_dead_letters: true,
            durable: true,
        }
    }

    pub fn mysql() -> Self {
        Self {
            scheme: "mysql",
            database: database(),
            is_bounded: false,
            directory: None,
            keeps_dead_letters: true,
            durable: true,
        }
    }

    pub fn path(&self) -> &std::path::Path {
        self.directory.as_ref().unwrap().path()
    }

    pub fn uri(&self, parameters: &str) -> String {
        if self.scheme == "mysql" {
            return mariadb().uri(&self.database, parameters);
        }
        let place = self.directory.as_ref().map_or(".", |directory| directory.path().to_str().unwrap());
        let segment =
            if self.scheme == "mmap" && !parameters.contains("segment=") { "segment=1MiB&" } else { "" };
        format!("{}://{place}?{segment}{parameters}", self.scheme)
    }

    pub fn open(self, parameters: &str) -> Caller {
        let store = kiteq_store::open_owned(&self.uri(parameters), OWNER).unwrap();
        let mut found = Vec::new();
        store.recover(&mut |recovered| found.push(Found::copy(recovered))).unwrap();
        if store.paged().is_some() {
            let page = page_of(&*store, 10_000, PageSource::Waiting).unwrap();
            found.extend(page.messages.into_iter().map(Found::paged));
        }
        Caller { store, backend: self, found }
    }
}

/// [`Recovered`], owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub slot: Slot,
    pub id: MessageId,
    pub kind: MessageKind,
    pub topic: Vec<u8>,
    pub message_type: Vec<u8>,
    pub expires_at: i64,
    pub deliver_limit: u32,
    pub committed: bool,
    pub groups: Vec<GroupState>,
}

impl Found {
    fn copy(recovered: Recovered<'_>) -> Self {
        Self {
            slot: recovered.slot,
            id: recovered.id,
            kind: recovered.kind,
            topic: recovered.topic.to_vec(),
            message_type: recovered.message_type.to_vec(),
            expires_at: recovered.expires_at,
            deliver_limit: recovered.deliver_limit,
            committed: recovered.committed,
            groups: recovered.groups.to_vec(),
        }
    }

    fn paged(paged: Paged) -> Self {
        Self {
            slot: paged.slot,
            id: paged.id,
            kind: paged.kind,
            topic: paged.topic.to_vec(),
            message_type: paged.message_type.to_vec(),
            expires_at: paged.expires_at,
            deliver_limit: paged.deliver_limit,
            committed: paged.committed,
            groups: paged.groups,
        }
    }
}

/// A page of a store that has pages.
pub fn page_of(store: &dyn MessageStore, room: usize, from: PageSource) -> Result<Page, StoreError> {
    let paged = store.paged().expect("a store with pages");
    Caller::wait_at_most(ANSWER_TIMEOUT, |done| paged.page(room, from, done)).expect("an answer in time")
}

/// An open store whose calls wait for their answer.
pub struct Caller {
    store: SharedStore,
    backend: Backend,
    found: Vec<Found>,
}

impl Caller {
    pub fn wait_at_most<T: Send + 'static>(
        timeout: Duration,
        call: impl FnOnce(Done<T>),
    ) -> Result<T, mpsc::RecvTimeoutError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let kept = sender.clone();
        call(Box::new(move |answer| sender.send(answer).unwrap()));
        let answer = receiver.recv_timeout(timeout);
        drop(kept);
        answer
    }

    fn wait<T: Send + 'static>(call: impl FnOnce(Done<T>)) -> T {
        Self::wait_at_most(ANSWER_TIMEOUT, call).expect("an answer in time")
    }

    /// A MySQL store of a broker with this name. What earlier runs left is not asked for.
    pub fn open_mysql(uri: &str, owner: &str) -> Self {
        let store = kiteq_store::open_owned(uri, owner).unwrap();
        Self { store, backend: Backend::mysql(), found: Vec::new() }
    }

    fn paging(&self) -> &dyn PagedStore {
        self.store.paged().expect("a store with pages")
    }

    fn owning(&self) -> &dyn OwnedStore {
        self.store.owned().expect("a store with owners")
    }

    pub fn page(&self, room: usize, from: PageSource) -> Result<Page, StoreError> {
        page_of(&*self.store, room, from)
    }

    /// Everything that waits for nothing, in pages of `room`.
    pub fn all_waiting(&self, room: usize) -> Vec<Paged> {
        let mut all = Vec::new();
        loop {
            let page = self.page(room, PageSource::Waiting).unwrap();
            all.extend(page.messages);
            if !page.has_more {
                return all;
            }
        }
    }

    pub fn shelve(&self, messages: Vec<Shelving>) {
        self.paging().shelve(messages);
    }

    pub fn shelves(&self) -> Result<Vec<Shelf>, StoreError> {
        Self::wait(|done| self.paging().shelves(done))
    }

    pub fn owners(&self) -> Result<Vec<Owner>, StoreError> {
        Self::wait(|done| self.owning().owners(done))
    }

    pub fn adopt(&self, owner: &str, limit: usize) -> Result<usize, StoreError> {
        Self::wait(|done| self.owning().adopt(owner.to_owned(), limit, done))
    }

    pub fn find_lost(&self) -> Result<Vec<Slot>, StoreError> {
        Self::wait(|done| self.owning().find_lost(done))
    }

    pub fn leave(&self) -> Result<(), StoreError> {
        Self::wait(|done| self.owning().leave(done))
    }

    pub fn suspects_loss(&self) -> bool {
        self.owning().suspects_loss()
    }

    pub fn raw(&self) -> &dyn MessageStore {
        &*self.store
    }

    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    pub fn recovered(&self) -> Vec<Found> {
        self.found.clone()
    }

    /// Closes the store and gives back where it was.
    pub fn shut(self) -> Backend {
        self.store.close().unwrap();
        drop(self.store);
        self.backend
    }

    /// Closes the store and opens it again.
    pub fn reopen(self, parameters: &str) -> Self {
        self.shut().open(parameters)
    }

    pub fn append(&self, messages: Vec<Message>) -> Vec<(Message, AppendOutcome)> {
        Self::wait(|done| self.store.append(messages, done))
    }

    pub fn append_one(&self, message: Message) -> AppendOutcome {
        self.append(vec![message]).remove(0).1
    }

    pub fn stored(&self, message: Message) -> Slot {
        match self.append_one(message) {
            AppendOutcome::Stored(slot) => slot,
            other => panic!("not stored: {other:?}"),
        }
    }

    pub fn decide(&self, verdicts: Vec<(MessageId, Verdict)>) -> Vec<VerdictOutcome> {
        Self::wait(|done| self.store.decide(verdicts, done))
    }

    /// Waits until everything queued is done.
    pub fn finish_queued(&self) {
        self.append(Vec::new());
    }

    pub fn settle(&self, slots: Vec<Slot>) {
        self.store.settle(slots);
        self.finish_queued();
    }

    pub fn note(&self, states: Vec<(Slot, Vec<GroupState>)>) {
        self.store.note(states);
        self.finish_queued();
    }

    pub fn kill(&self, dead: Vec<Kill>) {
        self.store.kill(dead);
        self.finish_queued();
    }

    pub fn load(&self, slots: Vec<Slot>) -> Vec<Result<Loaded, StoreError>> {
        Self::wait(|done| self.store.load(slots, done))
    }

    pub fn load_one(&self, slot: Slot) -> Result<Loaded, StoreError> {
        self.load(vec![slot]).remove(0)
    }

    pub fn dead_letters(
        &self,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        self.store.dead_letters(after, limit)
    }

    pub fn revive(&self, ids: Vec<MessageId>) -> Vec<Revived> {
        Self::wait(|done| self.store.revive(ids, done))
    }

    pub fn purge(&self, ids: Vec<MessageId>) -> usize {
        Self::wait(|done| self.store.purge(ids, done))
    }

    pub fn stats(&self) -> StoreStats {
        self.store.stats()
    }
}
