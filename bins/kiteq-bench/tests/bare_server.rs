#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
//! The bare server answers what a broker would, in every mode, and writes what it says it writes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kiteq_bench::bare::server::{BareServer, Mode};
use kiteq_bench::stamp::MessageNumber;
use kiteq_bench::wire::template::{DIALECT, MessageShape, Variation, publish_message};
use kiteq_protocol::frame::put_frame;
use kiteq_protocol::{Command, Frame, FrameDecoder, pb};
use prost::Message;

fn shape() -> MessageShape {
    MessageShape {
        topic: "trade".to_owned(),
        message_type: "pay".to_owned(),
        group: "p".to_owned(),
        body_bytes: 200,
        fly: false,
        run_id: 9,
        clock_tag: 1,
    }
}

fn message(sequence: u64) -> pb::BytesMessage {
    let variation = Variation {
        opaque: 0,
        number: MessageNumber::new(0, sequence),
        sent_at_ns: 1,
        created_at: 1_700_000_000,
        commit: true,
    };
    publish_message(&shape(), variation)
}

fn receive(stream: &mut TcpStream, frames: usize) -> Vec<Frame> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut decoder = FrameDecoder::speaking(DIALECT, 1 << 20);
    let (mut received, mut buf) = (Vec::new(), BytesMut::new());
    let mut chunk = [0; 4096];
    loop {
        while let Some(frame) = decoder.decode(&mut buf).unwrap() {
            received.push(frame);
        }
        if received.len() >= frames {
            return received;
        }
        let len = stream.read(&mut chunk).unwrap();
        assert_ne!(len, 0, "closed after {} frames", received.len());
        buf.extend_from_slice(&chunk[..len]);
    }
}

fn greet(server: &BareServer) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let meta = pb::ConnMeta { group_id: "p".to_owned(), secret_key: String::new(), warmingup_sec: None };
    let mut hello = BytesMut::new();
    put_frame(&mut hello, DIALECT, Command::ConnMeta, 1, &meta);
    stream.write_all(&hello).unwrap();
    let auth = receive(&mut stream, 1).remove(0);
    assert_eq!((auth.cmd, auth.opaque), (Command::ConnAuth as u8, 1));
    assert!(pb::ConnAuthAck::decode(auth.body).unwrap().status);
    stream
}

#[test]
fn every_publish_is_acked_with_its_opaque_and_id_in_every_mode() {
    for mode in [Mode::Echo, Mode::Append, Mode::AppendSync] {
        let dir = tempfile::tempdir().unwrap();
        let server = BareServer::start(mode, dir.path()).unwrap();
        let mut stream = greet(&server);
        let mut publishes = BytesMut::new();
        for sequence in 0..50 {
            put_frame(
                &mut publishes,
                DIALECT,
                Command::BytesMessage,
                1000 + sequence,
                &message(sequence.into()),
            );
        }
        // The cut in the middle of a frame makes two batches.
        let (first, second) = publishes.split_at(publishes.len() / 2 + 7);
        stream.write_all(first).unwrap();
        stream.write_all(second).unwrap();
        for (sequence, frame) in (0..).zip(receive(&mut stream, 50)) {
            assert_eq!((frame.cmd, frame.opaque), (Command::StoreAck as u8, 1000 + sequence as u32));
            let ack = pb::MessageStoreAck::decode(frame.body).unwrap();
            assert_eq!(ack.message_id, message(sequence).header.message_id);
            assert!(ack.status);
        }
        let appended: Vec<u8> = std::fs::read_dir(dir.path())
            .unwrap()
            .flat_map(|file| std::fs::read(file.unwrap().path()).unwrap())
            .collect();
        // The append modes write whole frames as they came, behind the greeting.
        assert_eq!(appended.ends_with(&publishes), mode != Mode::Echo);
        drop(server);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file is deleted");
    }
}

#[test]
fn an_unreadable_id_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = BareServer::start(Mode::Echo, dir.path()).unwrap();
    let mut stream = greet(&server);
    let mut broken = message(1);
    broken.header.message_id = "short".to_owned();
    broken.body = Bytes::new();
    let mut publish = BytesMut::new();
    put_frame(&mut publish, DIALECT, Command::BytesMessage, 5, &broken);
    stream.write_all(&publish).unwrap();
    let ack = pb::MessageStoreAck::decode(receive(&mut stream, 1).remove(0).body).unwrap();
    assert!(!ack.status);
}
