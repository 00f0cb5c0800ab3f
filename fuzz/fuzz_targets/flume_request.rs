//! What a Flume source reads: any bytes are a call whose events lie within the frame, or are refused.

#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use kiteq_flume::{BatchBuilder, Protocol, Request, decode_request};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    binary: bool,
    /// Most bytes do not get beyond a call's head.
    head: bool,
    frame: &'a [u8],
}

fuzz_target!(|input: Input<'_>| {
    let protocol = if input.binary { Protocol::Binary } else { Protocol::Compact };
    let head: &[u8] = match (input.head, protocol) {
        (false, _) => b"",
        (true, Protocol::Compact) => b"\x82\x21\x01\x0bappendBatch",
        (true, Protocol::Binary) => b"\x80\x01\0\x01\0\0\0\x0bappendBatch\0\0\0\x01",
    };
    let frame = Bytes::from([head, input.frame].concat());
    let Ok(Request::Append { events, .. }) = decode_request(protocol, frame.clone()) else { return };
    assert!(events.len() <= frame.len());
    let mut builder = BatchBuilder::new(protocol, frame.len() + 64);
    for (index, event) in events.iter().enumerate() {
        let headers: Vec<_> = event.headers().collect();
        assert_eq!(events.get(index).map(|event| event.body()), Some(event.body()));
        // Our encoding is the shortest one: what was read fits a frame of that length again, whose head may be longer.
        assert_eq!(builder.push(&headers, &[event.body()]), Ok(()));
    }
});
