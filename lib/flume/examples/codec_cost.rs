//! What the hand-written code for events saves: nanoseconds an event, beside the generated code over the `thrift` crate.
//!
//!     cargo run --release -p kiteq-flume --example codec_cost

#![allow(clippy::unwrap_used, reason = "an example")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kiteq_flume::generated::{ThriftFlumeEvent, ThriftSourceProtocolAppendBatchArgs};
use kiteq_flume::{BatchBuilder, FRAME_BYTES_MAX, Protocol, Request, decode_request};
use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TCompactInputProtocol, TCompactOutputProtocol,
    TInputProtocol, TMessageIdentifier, TMessageType, TOutputProtocol, TSerializable,
};

const EVENTS: usize = 1000;
const HEADERS: [(&str, &str); 2] = [("businessName", "location3"), ("type", "update")];
const TIME: Duration = Duration::from_millis(500);

/// The best time of one event, over runs of a batch.
fn nanos(mut run: impl FnMut()) -> f64 {
    let (begin, mut best) = (Instant::now(), Duration::MAX);
    while begin.elapsed() < TIME {
        let begin = Instant::now();
        run();
        best = best.min(begin.elapsed());
    }
    best.as_nanos() as f64 / EVENTS as f64
}

fn encode_ours(protocol: Protocol, body: &[u8]) {
    let mut builder = BatchBuilder::new(protocol, FRAME_BYTES_MAX);
    let headers = HEADERS.map(|(key, value)| (key.as_bytes(), value.as_bytes()));
    let (begin, end) = body.split_at(20);
    for _ in 0..EVENTS {
        builder.push(&headers, &[begin, end]).unwrap();
    }
    black_box(builder.finish());
}

fn event(body: &[u8]) -> ThriftFlumeEvent {
    let headers: BTreeMap<_, _> =
        HEADERS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    ThriftFlumeEvent { headers, body: body.to_vec() }
}

/// Event by event too, into one buffer: what stands against ours.
fn encode_generated(protocol: Protocol, body: &[u8]) {
    let mut out = Vec::new();
    let mut output: Box<dyn TOutputProtocol> = match protocol {
        Protocol::Compact => Box::new(TCompactOutputProtocol::new(&mut out)),
        Protocol::Binary => Box::new(TBinaryOutputProtocol::new(&mut out, true)),
    };
    for _ in 0..EVENTS {
        event(body).write_to_out_protocol(&mut *output).unwrap();
    }
    drop(output);
    black_box(out);
}

fn frame(protocol: Protocol, body: &[u8]) -> Bytes {
    let mut out = Vec::new();
    let arguments = ThriftSourceProtocolAppendBatchArgs { events: vec![event(body); EVENTS] };
    let head = TMessageIdentifier::new("appendBatch", TMessageType::Call, 1);
    let write = |output: &mut dyn TOutputProtocol| {
        output.write_message_begin(&head).unwrap();
        arguments.write_to_out_protocol(output).unwrap();
    };
    match protocol {
        Protocol::Compact => write(&mut TCompactOutputProtocol::new(&mut out)),
        Protocol::Binary => write(&mut TBinaryOutputProtocol::new(&mut out, true)),
    }
    out.into()
}

fn decode_ours(protocol: Protocol, frame: &Bytes) {
    let request = decode_request(protocol, frame.clone()).unwrap();
    let Request::Append { events, .. } = request else { panic!("{request:?}") };
    for event in events.iter() {
        black_box((event.body(), event.header(b"type")));
    }
}

fn decode_generated(protocol: Protocol, frame: &[u8]) {
    let mut input: Box<dyn TInputProtocol> = match protocol {
        Protocol::Compact => Box::new(TCompactInputProtocol::new(frame)),
        Protocol::Binary => Box::new(TBinaryInputProtocol::new(frame, true)),
    };
    input.read_message_begin().unwrap();
    let arguments = ThriftSourceProtocolAppendBatchArgs::read_from_in_protocol(&mut *input).unwrap();
    for event in &arguments.events {
        black_box((&event.body, event.headers.get("type")));
    }
}

fn main() {
    let body = [b'x'; 300];
    println!("ns an event of 300 bytes   encode ours   generated   decode ours   generated");
    for protocol in [Protocol::Compact, Protocol::Binary] {
        let frame = frame(protocol, &body);
        println!(
            "{:24} {:>13.1} {:>11.1} {:>13.1} {:>11.1}",
            protocol.to_string(),
            nanos(|| encode_ours(protocol, &body)),
            nanos(|| encode_generated(protocol, &body)),
            nanos(|| decode_ours(protocol, &frame)),
            nanos(|| decode_generated(protocol, &frame)),
        );
    }
}
