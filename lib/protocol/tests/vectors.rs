//! The golden bytes of the wire format, and what must hold for any bytes.
#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::{Bytes, BytesMut};
use kiteq_protocol::frame::{BODY_BYTES_MAX, put_frame};
use kiteq_protocol::{
    Command, Dialect, Frame, FrameDecoder, FrameError, Framing, HeaderChanges, Message, MessageError,
    MessageKind, pb, reply,
};
use proptest::prelude::*;
use prost::Message as _;

const CONN_META_GO: &str =
    "000000010200000000000000000000000000160a0a732d6d74732d7465737412063132333435361800";
const CONN_META_JAVA: &str =
    "00000029000000010200020000000000000000000000160a0a732d6d74732d7465737412063132333435361800";
const STRING_MESSAGE: &str = "0000000712000000000000000000000000005a0a520a203031323334353637383961626364656630313233343536373839616263646566120574726164651a087061792d7375636320ffffffffffffffffff012864320c676f2d6b6974652d746573743801400012046563686f";
const STORE_ACK: &str = "0000000704000000000000000000000000003e0a20303132333435363738396162636465663031323334353637383961626364656610011a1853746f726520526573756c74207472756520436f73743a30";
const ID: &str = "0123456789abcdef0123456789abcdef";

fn unhex(hex: &str) -> BytesMut {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn conn_meta() -> pb::ConnMeta {
    pb::ConnMeta { group_id: "s-mts-test".into(), secret_key: "123456".into(), warmingup_sec: Some(0) }
}

fn header() -> pb::Header {
    pb::Header {
        message_id: ID.into(),
        topic: "trade".into(),
        message_type: "pay-succ".into(),
        expired_time: -1,
        deliver_limit: 100,
        group_id: "go-kite-test".into(),
        commit: true,
        fly: false,
        ..Default::default()
    }
}

fn string_message() -> pb::StringMessage {
    pb::StringMessage { header: header(), body: "echo".into() }
}

fn decoded(message: &pb::StringMessage) -> Message {
    Message::decode(MessageKind::String, &Bytes::from(message.encode_to_vec())).unwrap()
}

#[test]
fn both_framings_are_told_apart_by_the_first_frame() {
    for (hex, dialect) in [(CONN_META_GO, Dialect::GO), (CONN_META_JAVA, Dialect::JAVA)] {
        let mut encoded = BytesMut::new();
        put_frame(&mut encoded, dialect, Command::ConnMeta, 1, &conn_meta());
        assert_eq!(encoded, unhex(hex));
        let mut decoder = FrameDecoder::detecting(BODY_BYTES_MAX);
        let frame = decoder.decode(&mut encoded).unwrap().unwrap();
        assert_eq!(decoder.dialect(), Some(dialect));
        assert_eq!((frame.opaque, frame.cmd), (1, Command::ConnMeta as u8));
        assert_eq!(pb::ConnMeta::decode(frame.body).unwrap(), conn_meta());
        assert!(encoded.is_empty());
    }
}

#[test]
fn the_string_message_vector_decodes_and_encodes() {
    let mut encoded = BytesMut::new();
    put_frame(&mut encoded, Dialect::GO, Command::StringMessage, 7, &string_message());
    assert_eq!(encoded, unhex(STRING_MESSAGE));
    let mut decoder = FrameDecoder::speaking(Dialect::GO, BODY_BYTES_MAX);
    let frame = decoder.decode(&mut encoded).unwrap().unwrap();
    let message = Message::decode(MessageKind::String, &frame.body).unwrap();
    assert_eq!(message.id.to_string(), ID);
    assert_eq!(message.topic, "trade");
    assert_eq!(message.message_type, "pay-succ");
    assert_eq!(message.publish_group, "go-kite-test");
    assert_eq!((message.expires_at, message.deliver_limit, message.created_at), (-1, 100, 0));
    assert!(message.committed && !message.fly);
    assert_eq!(message.payload.body, "echo");
    assert_eq!(message.payload.to_bytes(), frame.body);
}

#[test]
fn the_store_ack_vector_encodes() {
    let mut encoded = BytesMut::new();
    reply::put_store_ack(&mut encoded, Dialect::GO, 7, ID.as_bytes(), true, "Store Result true Cost:0");
    assert_eq!(encoded, unhex(STORE_ACK));
}

#[test]
fn a_deliver_ack_is_what_prost_reads() {
    let mut encoded = BytesMut::new();
    let fields = reply::DeliverAckFields {
        message_id: ID.as_bytes(),
        topic: b"trade",
        message_type: b"pay-succ",
        group_id: b"s-mts-test",
        status: false,
        feedback: "handler failed",
    };
    reply::put_deliver_ack(&mut encoded, Dialect::JAVA, 9, &fields);
    let mut decoder = FrameDecoder::speaking(Dialect::JAVA, BODY_BYTES_MAX);
    let frame = decoder.decode(&mut encoded).unwrap().unwrap();
    assert_eq!(frame.opaque, 9);
    let view = reply::DeliverAckView::parse(&frame.body).unwrap();
    assert_eq!((view.message_id, view.status), (ID.as_bytes(), false));
    let ack = pb::DeliverAck::decode(frame.body).unwrap();
    assert_eq!((ack.message_id.as_str(), ack.feedback.as_deref()), (ID, Some("handler failed")));
}

#[test]
fn a_stream_that_cannot_be_kiteq_is_refused_at_once() {
    let long = [0x41; 64];
    for (input, hint) in [
        (b"GET / HTTP/1.1\r\n\r\n".as_slice(), "HTTP"),
        (&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03], "TLS"),
        (&long, "CONN_META"),
    ] {
        let error = FrameDecoder::detecting(BODY_BYTES_MAX).decode(&mut BytesMut::from(input)).unwrap_err();
        assert!(matches!(error, FrameError::NotKiteq { .. }) && error.to_string().contains(hint), "{error}");
    }
}

#[test]
fn wrong_lengths_are_refused_with_the_opaque() {
    for (body_len, dialect) in [
        (-1, Dialect::GO),
        (i32::MAX, Dialect::GO),
        (-1, Dialect::JAVA),
        (BODY_BYTES_MAX as i32 + 1, Dialect::JAVA),
    ] {
        let mut encoded = BytesMut::new();
        put_frame(&mut encoded, dialect, Command::BytesMessage, 77, &conn_meta());
        let at = dialect.overhead() - 4;
        encoded[at..at + 4].copy_from_slice(&i32::to_be_bytes(body_len));
        let error = FrameDecoder::speaking(dialect, BODY_BYTES_MAX).decode(&mut encoded).unwrap_err();
        assert_eq!(error.request(), Some((77, Command::BytesMessage as u8)), "{error}");
    }
    let mut encoded = BytesMut::new();
    put_frame(&mut encoded, Dialect::JAVA, Command::Heartbeat, 5, &pb::HeartBeat { version: 1 });
    encoded[3] += 1;
    let error = FrameDecoder::speaking(Dialect::JAVA, BODY_BYTES_MAX).decode(&mut encoded).unwrap_err();
    assert!(matches!(error, FrameError::PrefixMismatch { opaque: 5, .. }), "{error}");
}

#[test]
fn a_changed_header_keeps_properties_and_unknown_fields() {
    let mut message = string_message();
    message.header.properties.push(pb::Entry { key: "trace".into(), value: "1".into() });
    let mut encoded = message.encode_to_vec();
    // An unknown field 100 at the end of the header.
    let unknown = [0xa0, 0x06, 0x2a];
    let header_len = encoded[1] as usize;
    encoded[1] += unknown.len() as u8;
    encoded.splice(2 + header_len..2 + header_len, unknown);
    let mut message = Message::decode(MessageKind::String, &Bytes::from(encoded)).unwrap();
    let changes = HeaderChanges {
        created_at: Some(1_700_000_000),
        expires_at: Some(1_700_604_800),
        deliver_limit: Some(50),
        committed: Some(false),
    };
    message.change_header(changes, &mut BytesMut::new()).unwrap();
    let bytes = message.payload.to_bytes();
    let read = pb::StringMessage::decode(bytes.clone()).unwrap();
    assert_eq!(read.header.properties[0].key, "trace");
    assert_eq!((read.header.create_time, read.header.expired_time), (Some(1_700_000_000), 1_700_604_800));
    assert_eq!((read.header.deliver_limit, read.header.commit), (50, false));
    assert_eq!(read.body, "echo");
    assert!(bytes.windows(unknown.len()).any(|window| window == unknown));
    let again = kiteq_protocol::Payload::from_canonical(bytes).unwrap();
    assert_eq!(Message::from_payload(MessageKind::String, again).unwrap(), message);
}

#[test]
fn body_before_header_becomes_canonical() {
    let canonical = string_message().encode_to_vec();
    let header_len = 2 + canonical[1] as usize;
    let swapped = [&canonical[header_len..], &canonical[..header_len]].concat();
    let message = Message::decode(MessageKind::String, &Bytes::from(swapped)).unwrap();
    assert_eq!(message.payload.to_bytes(), canonical);
}

#[test]
fn a_missing_field_and_a_bad_id_are_named() {
    let mut message = string_message();
    message.header.message_id = "not-an-id".into();
    let error = Message::decode(MessageKind::String, &Bytes::from(message.encode_to_vec())).unwrap_err();
    assert_eq!(error, MessageError::InvalidId { text: Bytes::from_static(b"not-an-id") });
    let error =
        Message::decode(MessageKind::String, &Bytes::from_static(&[0x0a, 0x00, 0x12, 0x00])).unwrap_err();
    assert_eq!(error, MessageError::MissingField { field: "Header.messageId" });
}

fn any_header() -> impl Strategy<Value = pb::Header> {
    (
        proptest::array::uniform16(any::<u8>()),
        (".{0,40}", ".{0,40}", ".{0,40}"),
        (any::<i64>(), any::<i32>(), any::<bool>(), any::<bool>()),
        proptest::option::of(any::<i64>()),
        proptest::collection::vec((".{0,8}", ".{0,8}"), 0..4),
    )
        .prop_map(
            |(
                id,
                (topic, message_type, group_id),
                (expired_time, deliver_limit, commit, fly),
                create_time,
                properties,
            )| {
                pb::Header {
                    message_id: kiteq_protocol::MessageId(id).to_string(),
                    topic,
                    message_type,
                    expired_time,
                    deliver_limit,
                    group_id,
                    commit,
                    fly,
                    properties: properties.into_iter().map(|(key, value)| pb::Entry { key, value }).collect(),
                    create_time,
                    snappy: None,
                }
            },
        )
}

proptest! {
    #[test]
    fn the_scan_agrees_with_prost(header in any_header(), body in ".{0,300}") {
        let message = decoded(&pb::StringMessage { header: header.clone(), body: body.clone() });
        prop_assert_eq!(message.id.to_string(), header.message_id);
        prop_assert_eq!(message.topic, header.topic);
        prop_assert_eq!(message.message_type, header.message_type);
        prop_assert_eq!(message.publish_group, header.group_id);
        prop_assert_eq!((message.expires_at, message.deliver_limit), (header.expired_time, header.deliver_limit));
        prop_assert_eq!((message.committed, message.fly), (header.commit, header.fly));
        prop_assert_eq!(message.created_at, header.create_time.unwrap_or(0));
        prop_assert_eq!(message.payload.body, body);
    }

    #[test]
    fn frames_survive_any_split(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..12),
        splits in proptest::collection::vec(1usize..64, 1..40),
        java in any::<bool>(),
    ) {
        let dialect = Dialect { framing: if java { Framing::LengthPrefixed } else { Framing::HeaderOnly }, version: 3 };
        let mut stream = BytesMut::new();
        put_frame(&mut stream, dialect, Command::ConnMeta, 1, &conn_meta());
        for (index, body) in bodies.iter().enumerate() {
            let message = pb::BytesMessage { header: header(), body: Bytes::from(body.clone()) };
            put_frame(&mut stream, dialect, Command::BytesMessage, index as u32, &message);
        }
        let mut decoder = FrameDecoder::detecting(BODY_BYTES_MAX);
        let mut received = BytesMut::new();
        let mut frames: Vec<Frame> = Vec::new();
        let mut splits = splits.into_iter().cycle();
        while !stream.is_empty() {
            let len = splits.next().unwrap_or(1).min(stream.len());
            received.extend_from_slice(&stream.split_to(len));
            while let Some(frame) = decoder.decode(&mut received).unwrap() {
                frames.push(frame);
            }
        }
        prop_assert_eq!(decoder.dialect(), Some(dialect));
        prop_assert_eq!(frames.len(), bodies.len() + 1);
        for (index, body) in bodies.iter().enumerate() {
            let frame = &frames[index + 1];
            prop_assert_eq!(frame.opaque, index as u32);
            prop_assert_eq!(Message::decode(MessageKind::Bytes, &frame.body).unwrap().payload.body, body);
        }
    }

    #[test]
    fn no_bytes_crash_a_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..400), go in any::<bool>()) {
        let mut stream = if go { unhex(CONN_META_GO) } else { BytesMut::new() };
        stream.extend_from_slice(&bytes);
        let mut decoder = FrameDecoder::detecting(BODY_BYTES_MAX);
        while let Ok(Some(frame)) = decoder.decode(&mut stream) {
            let _ = Message::decode(MessageKind::Bytes, &frame.body);
            let _ = reply::DeliverAckView::parse(&frame.body);
        }
        let _ = Message::decode(MessageKind::Bytes, &Bytes::from(bytes.clone()));
        let _ = kiteq_protocol::Payload::from_canonical(Bytes::from(bytes));
    }
}

proptest! {
    #[test]
    fn any_change_of_any_header_is_what_prost_would_write(
        header in any_header(),
        created_at in proptest::option::of(any::<i64>()),
        expires_at in proptest::option::of(any::<i64>()),
        deliver_limit in proptest::option::of(any::<i32>()),
        committed in proptest::option::of(any::<bool>()),
    ) {
        let changes = HeaderChanges { created_at, expires_at, deliver_limit, committed };
        let mut expected = header.clone();
        expected.create_time = created_at.or(header.create_time);
        expected.expired_time = expires_at.unwrap_or(header.expired_time);
        expected.deliver_limit = deliver_limit.unwrap_or(header.deliver_limit);
        expected.commit = committed.unwrap_or(header.commit);
        let mut message = decoded(&pb::StringMessage { header, body: "body".into() });
        // Once with what decoding has found out, once more without.
        for _ in 0..2 {
            message.change_header(changes, &mut BytesMut::new()).unwrap();
            let read = pb::StringMessage::decode(message.payload.to_bytes()).unwrap();
            prop_assert_eq!(&read.header, &expected);
            prop_assert_eq!(read.body, "body");
        }
    }
}
