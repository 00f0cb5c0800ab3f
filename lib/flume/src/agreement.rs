//! What we encode, the generated code reads, and the other way round.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TCompactInputProtocol, TCompactOutputProtocol,
    TInputProtocol, TMessageIdentifier, TMessageType, TOutputProtocol,
};

use crate::decode::{Call, Request, decode_request};
use crate::envelope::append_batch_head;
use crate::frame::LENGTH_BYTES;
use crate::generated::{
    ThriftFlumeEvent, ThriftSourceProtocolAppendArgs, ThriftSourceProtocolAppendBatchArgs,
};
use crate::protocol::Protocol;
use crate::{BatchBuilder, EventBatch, EventRef, FRAME_BYTES_MAX, SharedHeaders};

fn events() -> impl Strategy<Value = Vec<ThriftFlumeEvent>> {
    let headers = btree_map(".{0,12}", ".{0,200}", 0..4);
    // Lengths on both sides of where a varint grows, and more events than a short list header holds.
    let body = prop_oneof![vec(any::<u8>(), 0..20), vec(any::<u8>(), 100..300)];
    let event = (headers, body).prop_map(|(headers, body)| ThriftFlumeEvent { headers, body });
    prop_oneof![vec(event.clone(), 0..4), vec(event, 12..20)]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Compact), Just(Protocol::Binary)]
}

fn ours(protocol: Protocol, sequence: i32, events: &[ThriftFlumeEvent]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(protocol, FRAME_BYTES_MAX);
    for (index, event) in events.iter().enumerate() {
        let headers: Vec<(&[u8], &[u8])> =
            event.headers.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())).collect();
        let (begin, end) = event.body.split_at(event.body.len() / 3);
        let body: [&[u8]; 3] = [begin, b"", end];
        match headers.split_last() {
            // Headers that are shared are the same on the wire.
            Some(((key, value), others)) if index % 2 == 1 => {
                builder.push_sharing(&SharedHeaders::new(protocol, others, key), value, &body).unwrap();
            }
            _ => builder.push(&headers, &body).unwrap(),
        }
        assert_eq!(builder.events(), index + 1);
    }
    let batch = builder.finish();
    let mut frame = append_batch_head(protocol, sequence, batch.events(), batch.encoded().len()).unwrap();
    frame.extend_from_slice(batch.encoded());
    let content = frame.split_off(LENGTH_BYTES);
    assert_eq!(frame, (content.len() as u32).to_be_bytes());
    // A batch reckons with the longest sequence number and count: in compact four and five bytes more than the shortest.
    assert!(content.len() <= batch.frame_bytes() && content.len() + 9 >= batch.frame_bytes());
    content
}

fn generated(
    protocol: Protocol,
    call: Call,
    sequence: i32,
    write: impl FnOnce(&mut dyn TOutputProtocol) -> thrift::Result<()>,
) -> Vec<u8> {
    let mut content = Vec::new();
    let head = TMessageIdentifier::new(call.name(), TMessageType::Call, sequence);
    let write = |out: &mut dyn TOutputProtocol| {
        out.write_message_begin(&head)?;
        write(out)?;
        out.write_message_end()
    };
    match protocol {
        Protocol::Compact => write(&mut TCompactOutputProtocol::new(&mut content)).unwrap(),
        Protocol::Binary => write(&mut TBinaryOutputProtocol::new(&mut content, true)).unwrap(),
    }
    content
}

fn read_back(event: EventRef<'_>) -> ThriftFlumeEvent {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let headers: BTreeMap<_, _> = event.headers().map(|(key, value)| (text(key), text(value))).collect();
    for (key, value) in &headers {
        assert_eq!(event.header(key.as_bytes()), Some(value.as_bytes()));
    }
    assert_eq!(event.body_shared(), event.body());
    ThriftFlumeEvent { headers, body: event.body().to_vec() }
}

fn decoded(protocol: Protocol, content: Vec<u8>, call: Call, sequence: i32) -> EventBatch {
    match decode_request(protocol, Bytes::from(content)).unwrap() {
        Request::Append { call: of, sequence: number, events } => {
            assert_eq!((of, number), (call, sequence));
            events
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn the_generated_code_reads_what_we_encode(
        protocol in protocol(), sequence in any::<i32>(), events in events(),
    ) {
        let content = ours(protocol, sequence, &events);
        let mut input: Box<dyn TInputProtocol> = match protocol {
            Protocol::Compact => Box::new(TCompactInputProtocol::new(&content[..])),
            Protocol::Binary => Box::new(TBinaryInputProtocol::new(&content[..], true)),
        };
        let head = input.read_message_begin().unwrap();
        prop_assert_eq!(&head.name, "appendBatch");
        prop_assert_eq!((head.message_type, head.sequence_number), (TMessageType::Call, sequence));
        let arguments = ThriftSourceProtocolAppendBatchArgs::read_from_in_protocol(&mut *input).unwrap();
        prop_assert_eq!(arguments.events, events);
        // Nothing is left over.
        prop_assert!(input.read_byte().is_err());
    }

    #[test]
    fn we_encode_the_bytes_of_the_generated_code(
        protocol in protocol(), sequence in any::<i32>(), events in events(),
    ) {
        let arguments = ThriftSourceProtocolAppendBatchArgs { events: events.clone() };
        let content = generated(protocol, Call::AppendBatch, sequence, |out| arguments.write_to_out_protocol(out));
        prop_assert_eq!(ours(protocol, sequence, &events), content);
    }

    #[test]
    fn we_read_batches_that_the_generated_code_encodes(
        protocol in protocol(), sequence in any::<i32>(), events in events(),
    ) {
        let arguments = ThriftSourceProtocolAppendBatchArgs { events: events.clone() };
        let content = generated(protocol, Call::AppendBatch, sequence, |out| arguments.write_to_out_protocol(out));
        let batch = decoded(protocol, content, Call::AppendBatch, sequence);
        prop_assert_eq!((batch.len(), batch.is_empty()), (events.len(), events.is_empty()));
        let one_by_one: Vec<_> = (0..events.len()).map(|index| read_back(batch.get(index).unwrap())).collect();
        prop_assert_eq!(&one_by_one, &events);
        prop_assert!(batch.get(events.len()).is_none());
        prop_assert_eq!(batch.iter().map(read_back).collect::<Vec<_>>(), events);
    }

    #[test]
    fn we_read_single_events_that_the_generated_code_encodes(
        protocol in protocol(), sequence in any::<i32>(), events in events(),
    ) {
        for event in events {
            let arguments = ThriftSourceProtocolAppendArgs { event: event.clone() };
            let content = generated(protocol, Call::Append, sequence, |out| arguments.write_to_out_protocol(out));
            let batch = decoded(protocol, content, Call::Append, sequence);
            prop_assert_eq!(batch.iter().map(read_back).collect::<Vec<_>>(), [event]);
        }
    }

    #[test]
    fn a_frame_that_is_cut_short_is_refused(
        protocol in protocol(), events in events(), at in any::<proptest::sample::Index>(),
    ) {
        let content = ours(protocol, 1, &events);
        let cut = Bytes::copy_from_slice(&content[..at.index(content.len())]);
        let request = decode_request(protocol, cut);
        prop_assert!(matches!(request, Err(_) | Ok(Request::BadArguments { .. })), "{:?}", request);
    }

    #[test]
    fn any_bytes_are_read_or_refused(protocol in protocol(), events in events(), noise in vec(any::<u8>(), 0..100),
        at in any::<proptest::sample::Index>(),
    ) {
        let _ = decode_request(protocol, Bytes::from(noise.clone()));
        let mut content = ours(protocol, 1, &events);
        let at = at.index(content.len());
        let end = (at + noise.len()).min(content.len());
        content[at..end].copy_from_slice(&noise[..end - at]);
        if let Ok(Request::Append { events, .. }) = decode_request(protocol, Bytes::from(content)) {
            for event in events.iter() {
                assert!(event.headers().count() < 1000 && event.body().len() < 10_000);
            }
        }
    }
}

/// Fields that later versions may add are passed over, whatever their type.
#[test]
fn unknown_fields_are_passed_over() {
    // append(event { 1: {}, 3: true, 4: 300 (i32), 5: list of two bools, 6: { 1: double }, 2: "x" }), in compact.
    let mut content = b"\x82\x21\x01\x06append\x1c".to_vec();
    content.extend_from_slice(b"\x1b\x00\x21\x15\xd8\x04\x19\x21\x01\x02\x1c\x17\0\0\0\0\0\0\0\0\x00");
    content.extend_from_slice(b"\x08\x04\x01x\x00\x00");
    let batch = decoded(Protocol::Compact, content, Call::Append, 1);
    assert_eq!(batch.get(0).unwrap().body(), b"x");
}

#[test]
fn what_is_nested_too_deeply_is_refused() {
    // Field 3 is a list of a list of a list ...
    let mut content = b"\x82\x21\x01\x06append\x1c\x39".to_vec();
    content.extend_from_slice(&[0x19; 1000]);
    let request = decode_request(Protocol::Compact, Bytes::from(content)).unwrap();
    let Request::BadArguments { error, .. } = request else { panic!("{request:?}") };
    assert!(error.to_string().contains("nested too deeply"), "{error}");
}

#[test]
fn a_list_does_not_get_memory_for_more_than_the_frame_can_hold() {
    let mut content = b"\x82\x21\x01\x0bappendBatch\x19\xfc".to_vec();
    content.extend_from_slice(b"\xff\xff\xff\x07");
    let request = decode_request(Protocol::Compact, Bytes::from(content)).unwrap();
    let Request::BadArguments { error, .. } = request else { panic!("{request:?}") };
    assert!(error.what.contains("more elements"), "{error}");
}
