//! Whatever decodes as a message can be stored, read back, changed and delivered, and stays the message that it was.

#![no_main]

use arbitrary::Arbitrary;
use bytes::{Bytes, BytesMut};
use kiteq_protocol::{HeaderChanges, Message, MessageKind, Payload, pb};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

#[derive(Debug, Arbitrary)]
struct Input {
    created_at: Option<i64>,
    expires_at: Option<i64>,
    deliver_limit: Option<i32>,
    committed: Option<bool>,
    body: Vec<u8>,
}

fuzz_target!(|input: Input| {
    let body = Bytes::from(input.body);
    let Ok(message) = Message::decode(MessageKind::Bytes, &body) else { return };

    let stored = message.payload.to_bytes();
    assert_eq!(stored.len(), message.payload.len());
    let Ok(read_back) = Payload::from_canonical(stored) else { panic!("a decoded message is not canonical") };
    let Ok(read_back) = Message::from_payload(MessageKind::Bytes, read_back) else {
        panic!("a stored message does not decode")
    };
    assert_eq!(read_back, message);

    let changes = HeaderChanges {
        created_at: input.created_at,
        expires_at: input.expires_at,
        deliver_limit: input.deliver_limit,
        committed: input.committed,
    };
    let mut changed = message.clone();
    if changed.change_header(changes, &mut BytesMut::new()).is_err() {
        panic!("the header of a decoded message is not well-formed");
    }
    let Ok(decoded) = Message::decode(MessageKind::Bytes, &changed.payload.to_bytes()) else {
        panic!("a changed message does not decode")
    };
    assert_eq!(decoded, changed);
    assert_eq!(
        (decoded.id, &decoded.topic, &decoded.payload.body),
        (message.id, &message.topic, &message.payload.body)
    );
    assert_eq!(decoded.expires_at, input.expires_at.unwrap_or(message.expires_at));
    assert_eq!(decoded.deliver_limit, input.deliver_limit.unwrap_or(message.deliver_limit));

    // The generated decoder, which also wants strings to be UTF-8, must agree wherever it takes the message.
    if let Ok(generated) = pb::BytesMessage::decode(changed.payload.to_bytes()) {
        assert_eq!(generated.header.topic.as_bytes(), &decoded.topic[..]);
        assert_eq!(generated.header.expired_time, decoded.expires_at);
        assert_eq!(generated.header.deliver_limit, decoded.deliver_limit);
        assert_eq!(generated.header.commit, decoded.committed);
        assert_eq!(&generated.body[..], &decoded.payload.body[..]);
    }
});
