//! A log of format 1 as it was written once: every later version reads it, or says that it does not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::fs;
use std::path::PathBuf;

use kiteq_protocol::{Message, MessageId};
use kiteq_store::{AppendOutcome, DeadReason, GroupState, Kill, Slot, Verdict, VerdictOutcome};
use support::{Backend, message_with, uncommitted};

const SEGMENT: &str = "log-0000000001.kiteq";

/// The ids that stand in it.
fn id(number: u32) -> MessageId {
    let mut id = [0x5a; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    MessageId(id)
}

fn written(number: u32, body: &[u8]) -> Message {
    message_with(id(number), number, "trade", "pay", body)
}

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1")
}

#[test]
fn a_log_of_format_1_is_read() {
    let backend = Backend::mmap();
    for name in ["kiteq.lock", SEGMENT] {
        fs::copy(fixture().join(name), backend.path().join(name)).unwrap();
    }
    let store = backend.open("");
    let found = store.recovered();
    assert_eq!(found.iter().map(|found| found.id).collect::<Vec<_>>(), [id(1), id(2), id(3), id(5), id(7)]);
    let committed: Vec<bool> = found.iter().map(|found| found.committed).collect();
    assert_eq!(committed, [true, false, true, true, true]);
    let expiries: Vec<i64> = found.iter().map(|found| found.expires_at).collect();
    assert_eq!(expiries, [4_000_000_001, 4_000_000_002, 4_000_000_003, 4_000_000_005, 0]);
    let noted = GroupState { group: "s-noted".into(), attempts: 4, done: true };
    assert_eq!(found[3].groups, [noted]);
    for (found, number) in found.iter().zip([1, 2, 3, 5, 7]) {
        let body = store.load_one(found.slot).unwrap().payload.body;
        assert_eq!(&body[..], format!("body {number}").as_bytes());
        assert_eq!((&found.topic[..], &found.message_type[..]), (&b"trade"[..], &b"pay"[..]));
    }
    let letters = store.dead_letters(None, 10).unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].id, letters[0].reason), (id(6), DeadReason::Expired));
    assert_eq!(letters[0].groups, ["s-a", "s-b"]);
    assert_eq!(&letters[0].payload.body[..], b"body 6");
    assert_eq!(store.append_one(written(1, b"again")), AppendOutcome::Duplicate);
}

/// Writes the fixture anew; only for a new format: `cargo test -p kiteq-store --test fixture -- --ignored`.
#[test]
#[ignore = "writes into the source tree"]
fn write_the_fixture() {
    let store = Backend::mmap().open("");
    let body = |number: u32| format!("body {number}").into_bytes();
    let mut slots = vec![Slot(0)];
    for number in 1..=8 {
        let prepared_ones = [2, 3, 8];
        slots.push(store.stored(match prepared_ones.contains(&number) {
            true => uncommitted(written(number, &body(number))),
            false => written(number, &body(number)),
        }));
    }
    let outcomes = store.decide(vec![(id(3), Verdict::Commit), (id(8), Verdict::Rollback)]);
    assert!(matches!(outcomes[..], [VerdictOutcome::Committed(_), VerdictOutcome::RolledBack(_)]));
    store.settle(vec![slots[4]]);
    store.note(vec![(slots[5], vec![GroupState { group: "s-noted".into(), attempts: 4, done: true }])]);
    let dead = |number: usize| Kill {
        slot: slots[number],
        reason: DeadReason::Expired,
        groups: vec!["s-a".into(), "s-b".into()],
    };
    store.kill(vec![dead(6), dead(7)]);
    assert!(matches!(store.revive(vec![id(7)])[..], [Ok(Some(_))]));
    let gone = store.stored(written(9, &body(9)));
    store.kill(vec![Kill { slot: gone, reason: DeadReason::DeliverLimit, groups: Vec::new() }]);
    assert_eq!(store.purge(vec![id(9)]), 1);
    let backend = store.shut();
    fs::create_dir_all(fixture()).unwrap();
    fs::copy(backend.path().join("kiteq.lock"), fixture().join("kiteq.lock")).unwrap();
    // Cut behind the records, as recovery cuts a segment that a crash left open.
    let mut bytes = fs::read(backend.path().join(SEGMENT)).unwrap();
    let copy_at = bytes.len() - 64;
    let end = bytes[..copy_at].iter().rposition(|byte| *byte != 0).unwrap() + 1;
    bytes.truncate(end.next_multiple_of(8));
    fs::write(fixture().join(SEGMENT), bytes).unwrap();
}
