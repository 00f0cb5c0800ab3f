//! What must hold for a log whose bytes were damaged after its store was closed. Driven by tests/damage.rs with random damage,
//! and by the fuzz target `recovery` with damage of its own making.
#![allow(unreachable_pub, clippy::expect_used, reason = "test support, also built by the fuzzer")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kiteq_protocol::message::HeaderChanges;
use kiteq_protocol::{Message, MessageId, MessageKind, pb};
use kiteq_store::{AppendOutcome, DeadReason, Done, GroupState, Kill, SharedStore, Slot, Verdict};
use prost::Message as _;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The two headers of a segment file; damage to both costs the whole segment.
const HEADER_LEN: usize = 64;

/// Bytes to write over a log's records, at a place given as a share of them.
#[derive(Debug, Clone)]
pub struct Damage {
    /// 0 is the first record, `u16::MAX` the end of the last one.
    pub at: u16,
    /// What to write there.
    pub bytes: Vec<u8>,
}

/// A log as it was left, and what is in it.
struct Original {
    files: BTreeMap<String, Vec<u8>>,
    live: BTreeMap<MessageId, Bytes>,
    /// All that ever was, which losing a settlement brings back.
    written: BTreeMap<MessageId, Bytes>,
}

fn ask<T: Send + 'static>(call: impl FnOnce(Done<T>)) -> T {
    let (sender, receiver) = mpsc::sync_channel(1);
    call(Box::new(move |answer| {
        let _ = sender.send(answer);
    }));
    receiver.recv_timeout(ANSWER_TIMEOUT).expect("the store answers")
}

fn message(number: u8, committed: bool) -> Message {
    let header = pb::Header {
        message_id: MessageId([number; 16]).to_string(),
        topic: "trade".to_owned(),
        message_type: "pay".to_owned(),
        expired_time: 4_000_000_000,
        deliver_limit: 100,
        group_id: "p".to_owned(),
        commit: true,
        ..pb::Header::default()
    };
    let body = Bytes::from(vec![number; usize::from(number) * 7]);
    let encoded = pb::BytesMessage { header, body }.encode_to_vec();
    let mut message = Message::decode(MessageKind::Bytes, &encoded.into()).expect("a message");
    let changes = HeaderChanges { committed: Some(committed), ..HeaderChanges::default() };
    message.change_header(changes, &mut BytesMut::new()).expect("a header");
    message
}

fn append(store: &SharedStore, message: Message) -> Slot {
    let outcome = ask(|done| store.append(vec![message], done)).remove(0).1;
    let AppendOutcome::Stored(slot) = outcome else { panic!("not stored: {outcome:?}") };
    slot
}

fn open(directory: &Path) -> SharedStore {
    let uri = format!("mmap://{}?sync=os&segment=1MiB", directory.display());
    kiteq_store::open(&uri).expect("a store")
}

/// Recovers, and reads everything back.
fn recover(store: &SharedStore) -> BTreeMap<MessageId, Bytes> {
    let mut found = Vec::new();
    store.recover(&mut |recovered| found.push((recovered.slot, recovered.id))).expect("a recovery");
    let slots = found.iter().map(|(slot, _)| *slot).collect();
    let loaded = ask(|done| store.load(slots, done));
    let read = |((_, id), loaded): ((Slot, MessageId), Result<kiteq_store::Loaded, _>)| {
        let loaded = loaded.expect("what was recovered can be read");
        assert_eq!(loaded.id, id);
        (id, loaded.payload.to_bytes())
    };
    found.into_iter().zip(loaded).map(read).collect()
}

fn write_original(directory: &Path) -> Original {
    let store = open(directory);
    recover(&store);
    let mut written = BTreeMap::new();
    let mut slots = Vec::new();
    for number in 1..=40 {
        let message = message(number, number % 8 != 0);
        written.insert(message.id, message.payload.to_bytes());
        slots.push(append(&store, message));
    }
    let state = |done| GroupState { group: Bytes::from_static(b"s-ledger"), attempts: 3, done };
    store.note(vec![(slots[1], vec![state(true)]), (slots[2], vec![state(false), state(true)])]);
    store.settle(slots[10..20].to_vec());
    let reason = DeadReason::DeliverLimit;
    let dead = |slot: &Slot| Kill { slot: *slot, reason, groups: vec![Bytes::from_static(b"s-ledger")] };
    store.kill(slots[20..23].iter().map(dead).collect());
    let verdicts = vec![(MessageId([8; 16]), Verdict::Commit), (MessageId([40; 16]), Verdict::Rollback)];
    ask(|done| store.decide(verdicts, done));
    store.close().expect("a clean close");
    drop(store);
    let store = open(directory);
    let live = recover(&store);
    assert_eq!(live.len(), 40 - 10 - 3 - 1);
    store.close().expect("a clean close");
    drop(store);
    let name = |entry: &fs::DirEntry| entry.file_name().into_string().expect("a name");
    let files = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry"));
    let files = files.map(|entry| (name(&entry), fs::read(entry.path()).expect("a file")));
    Original { files: files.collect(), live, written }
}

/// Damages a copy of a log and opens it: whatever is found was once written, damage costs no more than what it hit, and
/// the store works again afterwards.
pub fn check(damages: &[Damage]) {
    static ORIGINAL: OnceLock<Original> = OnceLock::new();
    let original = ORIGINAL.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory");
        write_original(directory.path())
    });
    let directory = tempfile::tempdir().expect("a directory");
    let mut hits = 0;
    for (name, bytes) in &original.files {
        let mut bytes = bytes.clone();
        let records_end = bytes.len().saturating_sub(HEADER_LEN);
        let used = bytes[..records_end].iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        if name.ends_with(".kiteq") && name.starts_with("log-") && used > HEADER_LEN {
            for damage in damages {
                let at =
                    HEADER_LEN + (used - HEADER_LEN) * usize::from(damage.at) / (usize::from(u16::MAX) + 1);
                let end = (at + damage.bytes.len()).min(used);
                bytes[at..end].copy_from_slice(&damage.bytes[..end - at]);
                // No record is shorter than 24 bytes.
                hits += 2 + damage.bytes.len() / 24;
            }
        }
        fs::write(directory.path().join(name), bytes).expect("a copy");
    }

    let store = open(directory.path());
    let found = recover(&store);
    for (id, payload) in &found {
        assert_eq!(original.written.get(id), Some(payload), "{id} is not what was written");
    }
    let lost = original.live.keys().filter(|id| !found.contains_key(id)).count();
    assert!(
        lost <= hits,
        "{lost} messages are lost to {} damages that hit {hits} records at most",
        damages.len()
    );
    assert!(!damages.is_empty() || found == original.live);
    store.dead_letters(None, 100).expect("dead letters");

    let newcomer = message(77, true);
    let (id, payload) = (newcomer.id, newcomer.payload.to_bytes());
    append(&store, newcomer);
    store.close().expect("a clean close");
    drop(store);
    let store = open(directory.path());
    let again = recover(&store);
    let mut expected = found;
    expected.insert(id, payload);
    assert_eq!(again, expected, "a second recovery finds the same and the newcomer");
    store.close().expect("a clean close");
}
