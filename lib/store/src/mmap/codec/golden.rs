//! Every record type as bytes, so that the format cannot change by accident.

use bytes::Bytes;
use kiteq_protocol::{Message, MessageId, MessageKind, pb};
use prost::Message as _;

use super::*;
use crate::held::{DeadReason, GroupState, Kill, Slot};

const SEED: u32 = 0x1234_5678;
const ID: MessageId = MessageId([0xaa; 16]);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The record that `write` makes with LSN 7, and its bytes in hexadecimal without the checksum, in parts.
fn written(write: impl FnOnce(&mut Vec<u8>) -> usize) -> (Vec<u8>, String) {
    let mut buffer = Vec::new();
    let len = write(&mut buffer);
    assert_eq!(buffer.len(), padded(len));
    assert!(buffer[len..].iter().all(|byte| *byte == 0), "padding is zeros");
    let record = RawRecord::parse(&buffer, SEED).unwrap();
    assert_eq!((record.lsn, record.len), (7, len));
    assert_eq!(
        u32_at(&buffer, 0),
        crc32c::crc32c_append(SEED, &buffer[4..len]),
        "the checksum covers all but itself"
    );
    let text = hex(&buffer[4..len]);
    (buffer, text)
}

fn message() -> Message {
    let header = pb::Header {
        message_id: ID.to_string(),
        topic: "t".to_owned(),
        message_type: "mm".to_owned(),
        expired_time: 0x0102,
        deliver_limit: 3,
        group_id: "p".to_owned(),
        commit: true,
        fly: false,
        ..pb::Header::default()
    };
    let encoded = pb::BytesMessage { header, body: Bytes::from_static(b"body") }.encode_to_vec();
    Message::decode(MessageKind::String, &encoded.into()).unwrap()
}

#[test]
fn published() {
    let message = message();
    let (bytes, text) = written(|buffer| RecordWriter::published(buffer, SEED, 7, &message));
    let payload = hex(&message.payload.to_bytes());
    let len = 24 + 36 + 3 + message.payload.len();
    let expected = format!(
        "{}{}{}{}{}{}{}{}{}{}{}{payload}",
        hex(&(len as u32).to_le_bytes()),
        "0700000000000000",
        "01011200",
        "00000000",
        "aa".repeat(16),
        "0201000000000000",
        "03000000",
        "01000000",
        "02000000",
        "74",
        "6d6d",
    );
    assert_eq!(text, expected);
    let record = RawRecord::parse(&bytes, SEED).unwrap();
    let read = record.message().unwrap();
    assert_eq!((read.id, read.kind, read.committed), (ID, MessageKind::String, true));
    assert_eq!((read.expires_at, read.deliver_limit), (0x0102, 3));
    assert_eq!((read.topic, read.message_type), (&b"t"[..], &b"mm"[..]));
    assert_eq!(bytes[read.payload.clone()], message.payload.to_bytes());
    assert!(read.moved.is_none());
}

#[test]
fn moved() {
    let (original, _) = written(|buffer| RecordWriter::published(buffer, SEED, 7, &message()));
    let record = RawRecord::parse(&original, SEED).unwrap();
    let message = record.message().unwrap();
    let payload = &original[message.payload.clone()];
    let states = encode_group_names(&[Bytes::from_static(b"s-a")]);
    let state = MovedState {
        published_lsn: 5,
        death: Some(DeadReason::Expired),
        died_at: 9,
        states: &states,
        states_count: 1,
    };
    let (bytes, text) = written(|buffer| RecordWriter::moved(buffer, SEED, 7, &message, payload, &state));
    let len = 24 + 56 + 3 + 12 + payload.len();
    let expected = format!(
        "{}{}{}{}{}{}{}{}{}{}{}{}{}{}{}{}",
        hex(&(len as u32).to_le_bytes()),
        "0700000000000000",
        "02031202",
        "01000000",
        "aa".repeat(16),
        "0201000000000000",
        "03000000",
        "01000000",
        "02000000",
        "0500000000000000",
        "0900000000000000",
        "0c000000",
        "74",
        "6d6d",
        "000000000003000000732d61",
        hex(payload),
    );
    assert_eq!(text, expected);
    let record = RawRecord::parse(&bytes, SEED).unwrap();
    assert_eq!(record.message().unwrap().moved.unwrap().published_lsn, 5);
    assert_eq!(record.death().unwrap(), (9, DeadReason::Expired, &states[..]));
    assert_eq!(bytes[record.message().unwrap().payload], *payload);
}

#[test]
fn records_of_ids() {
    let types = [
        (RecordType::Committed, "03"),
        (RecordType::RolledBack, "04"),
        (RecordType::Settled, "05"),
        (RecordType::Revived, "06"),
        (RecordType::Purged, "07"),
    ];
    for (record_type, byte) in types {
        let ids = [ID, MessageId([0xbb; 16])];
        let (bytes, text) = written(|buffer| RecordWriter::ids(buffer, SEED, 7, record_type, 0x0305, &ids));
        let expected = format!(
            "400000000700000000000000{byte}000000020000000503000000000000{}{}",
            "aa".repeat(16),
            "bb".repeat(16)
        );
        assert_eq!(text, expected);
        let read = RawRecord::parse(&bytes, SEED).unwrap().ids().unwrap();
        assert_eq!((read.at, read.iter().collect::<Vec<_>>()), (0x0305, ids.to_vec()));
        assert_eq!(ids_record_len(2), 0x40);
    }
}

#[test]
fn noted() {
    let states = vec![GroupState { group: Bytes::from_static(b"s-a"), attempts: 0x0203, done: true }];
    let (bytes, text) = written(|buffer| RecordWriter::noted(buffer, SEED, 7, ID, &states));
    let expected = format!(
        "34000000070000000000000008000000{}{}03020000{}",
        "01000000",
        "aa".repeat(16),
        "0103000000732d61"
    );
    assert_eq!(text, expected);
    let record = RawRecord::parse(&bytes, SEED).unwrap();
    assert_eq!(decode_groups(record.states().unwrap(), record.count), Some(states.clone()));
    assert_eq!(RecordWriter::noted_len(&states), 0x34);
}

#[test]
fn dead() {
    let kill =
        Kill { slot: Slot(1), reason: DeadReason::NoVerdict, groups: vec![Bytes::from_static(b"s-a")] };
    let (bytes, text) = written(|buffer| RecordWriter::dead(buffer, SEED, 7, ID, 0x0405, &kill));
    let expected = format!(
        "3c00000007000000000000000900000301000000{}0504000000000000000000000003000000732d61",
        "aa".repeat(16)
    );
    assert_eq!(text, expected);
    let record = RawRecord::parse(&bytes, SEED).unwrap();
    let (died_at, reason, _) = record.death().unwrap();
    assert_eq!((died_at, reason), (0x0405, DeadReason::NoVerdict));
    assert_eq!(RecordWriter::dead_len(&kill), 0x3c);
}

#[test]
fn sealed() {
    let (_, text) = written(|buffer| RecordWriter::sealed(buffer, SEED, 7));
    assert_eq!(text, "1800000007000000000000000a00000000000000");
}

#[test]
fn faults_are_told_apart() {
    let (good, _) = written(|buffer| RecordWriter::sealed(buffer, SEED, 7));
    let fault = |bytes: &[u8]| RawRecord::parse(bytes, SEED).unwrap_err();
    assert_eq!(fault(&good[..20]), RecordFault::Short { needed: 24, found: 20 });
    assert_eq!(RawRecord::parse(&good, SEED + 1).unwrap_err(), RecordFault::Checksum);
    let mut bad = good.clone();
    bad[4] = 5;
    assert_eq!(fault(&bad), RecordFault::Length(5));
    bad[4] = 25;
    assert_eq!(fault(&bad), RecordFault::Short { needed: 25, found: 24 });
    let mut bad = good;
    bad[16] = 99;
    assert_eq!(fault(&bad), RecordFault::Type(99));
    assert_eq!(decode_groups(&[0; 9], u32::MAX), None);
    assert_eq!(decode_groups(&[0xff; 9], 1), None);
}
