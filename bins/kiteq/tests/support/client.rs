//! A client that speaks just enough of the wire to publish.

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::BytesMut;
use kiteq_protocol::frame::{BODY_BYTES_MAX, put_frame};
use kiteq_protocol::{Command, Dialect, FrameDecoder, pb};
use prost::Message;

use super::LONG;

pub(crate) struct Client {
    stream: TcpStream,
    decoder: FrameDecoder,
    received: BytesMut,
    opaque: u32,
}

impl Client {
    /// Connects and presents itself as `group`.
    pub(crate) fn connect(address: &str, group: &str, secret: &str) -> (Self, pb::ConnAuthAck) {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let decoder = FrameDecoder::speaking(Dialect::GO, BODY_BYTES_MAX);
        let mut client = Self { stream, decoder, received: BytesMut::new(), opaque: 0 };
        let meta = pb::ConnMeta {
            group_id: group.to_owned(),
            secret_key: secret.to_owned(),
            warmingup_sec: Some(0),
        };
        let answer = client.ask(Command::ConnMeta, &meta);
        let answer = pb::ConnAuthAck::decode(answer.as_slice()).unwrap();
        (client, answer)
    }

    fn ask(&mut self, command: Command, body: &impl Message) -> Vec<u8> {
        self.opaque += 1;
        let mut frame = BytesMut::new();
        put_frame(&mut frame, Dialect::GO, command, self.opaque, body);
        self.stream.write_all(&frame).unwrap();
        loop {
            match self.decoder.decode(&mut self.received).unwrap() {
                Some(frame) => return frame.body.to_vec(),
                None => {
                    let mut chunk = [0; 4096];
                    let count = self.stream.read(&mut chunk).unwrap();
                    assert!(count > 0, "the broker closed the connection");
                    self.received.extend_from_slice(&chunk[..count]);
                }
            }
        }
    }

    /// Publishes a message that expires at `expires_at` and gives the broker's answer.
    pub(crate) fn publish(
        &mut self,
        id: &str,
        topic: &str,
        message_type: &str,
        expires_at: i64,
    ) -> pb::MessageStoreAck {
        let header = pb::Header {
            message_id: id.to_owned(),
            topic: topic.to_owned(),
            message_type: message_type.to_owned(),
            expired_time: expires_at,
            deliver_limit: 100,
            group_id: "p-test".to_owned(),
            commit: true,
            fly: false,
            ..pb::Header::default()
        };
        let message = pb::StringMessage { header, body: "hello".to_owned() };
        let answer = self.ask(Command::StringMessage, &message);
        pb::MessageStoreAck::decode(answer.as_slice()).unwrap()
    }
}
