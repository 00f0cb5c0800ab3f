//! A broker of a hundred lines: acks every publish, delivers it to one connection of every group, and does wrong what
//! the test tells it to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use clap::Parser;
use kiteq_bench::cli::Cli;
use kiteq_bench::commands::{Verdict, run};
use kiteq_protocol::frame::put_frame;
use kiteq_protocol::{Command, Dialect, Frame, FrameDecoder, pb};
use prost::Message;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// What the broker does to the message of this number, counted from 1 in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Acked and never delivered.
    Drop(u64),
    /// Acked and delivered twice.
    Repeat(u64),
    /// Acked false, not delivered.
    Refuse(u64),
    /// The producer's connection is closed, and the message forgotten.
    HangUp(u64),
}

#[derive(Default)]
struct State {
    publishes: u64,
    acked_deliveries: u64,
    committed: u64,
    groups: HashMap<String, mpsc::Sender<Bytes>>,
    /// What waits for groups that are bound and away.
    waiting: HashMap<String, Vec<Bytes>>,
    prepared: HashMap<String, Bytes>,
}

pub(crate) struct FakeBroker {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

const PRODUCERS: &str = "bench-producer";

impl FakeBroker {
    pub(crate) async fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared), fault));
            }
        });
        Self { address, state }
    }

    /// Keeps messages for a group until it comes.
    #[allow(dead_code, reason = "not every test file lets messages wait")]
    pub(crate) fn bind(&self, group: &str) {
        self.state.lock().unwrap().waiting.insert(group.to_owned(), Vec::new());
    }

    /// Deliveries that consumers acked true.
    pub(crate) fn acked_deliveries(&self) -> u64 {
        self.state.lock().unwrap().acked_deliveries
    }

    /// Transactions that were prepared and then committed.
    pub(crate) fn committed(&self) -> u64 {
        self.state.lock().unwrap().committed
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>, fault: Fault) {
    let mut decoder = FrameDecoder::detecting(1 << 20);
    let mut buf = BytesMut::new();
    let (outbound, mut deliveries) = mpsc::channel::<Bytes>(10_000);
    let mut opaque = 0;
    loop {
        let mut out = BytesMut::new();
        while let Some(frame) = decoder.decode(&mut buf).unwrap() {
            if !answer(frame, &mut out, &state, fault, &outbound).await {
                return;
            }
        }
        stream.write_all(&out).await.unwrap();
        tokio::select! {
            read = stream.read_buf(&mut buf) => if read.unwrap_or(0) == 0 { return },
            Some(body) = deliveries.recv() => {
                opaque += 1;
                let mut frame = BytesMut::new();
                let header = kiteq_protocol::FrameHeader::new(Command::BytesMessage, opaque, body.len());
                header.put(&mut frame, Dialect::GO);
                frame.extend_from_slice(&body);
                stream.write_all(&frame).await.unwrap();
            }
        }
    }
}

/// Handles one frame; false when the connection is to be closed.
async fn answer(
    frame: Frame,
    out: &mut BytesMut,
    state: &Arc<Mutex<State>>,
    fault: Fault,
    outbound: &mpsc::Sender<Bytes>,
) -> bool {
    let opaque = frame.opaque;
    match Command::from_byte(frame.cmd).unwrap() {
        Command::ConnMeta => {
            let group = pb::ConnMeta::decode(frame.body).unwrap().group_id;
            if group != PRODUCERS {
                let mut state = state.lock().unwrap();
                for body in state.waiting.remove(&group).unwrap_or_default() {
                    outbound.try_send(body).unwrap();
                }
                state.groups.insert(group, outbound.clone());
            }
            let auth = pb::ConnAuthAck { status: true, feedback: "Auth Succ".to_owned() };
            put_frame(out, Dialect::GO, Command::ConnAuth, opaque, &auth);
        }
        Command::BytesMessage => {
            let header = pb::BytesMessage::decode(frame.body.clone()).unwrap().header;
            let number = {
                let mut state = state.lock().unwrap();
                state.publishes += 1;
                state.publishes
            };
            if fault == Fault::HangUp(number) {
                return false;
            }
            let refused = fault == Fault::Refuse(number);
            let ack = pb::MessageStoreAck {
                message_id: header.message_id.clone(),
                status: !refused,
                feedback: if refused { "no room".to_owned() } else { "stored".to_owned() },
            };
            put_frame(out, Dialect::GO, Command::StoreAck, opaque, &ack);
            if !header.commit {
                state.lock().unwrap().prepared.insert(header.message_id, frame.body);
            } else if !refused && fault != Fault::Drop(number) {
                let times = if fault == Fault::Repeat(number) { 2 } else { 1 };
                deliver(state, &frame.body, times).await;
            }
        }
        Command::TxAck => {
            let verdict = pb::TxAckPacket::decode(frame.body).unwrap();
            assert_eq!(verdict.status, 1);
            let prepared = state.lock().unwrap().prepared.remove(&verdict.header.message_id);
            if let Some(body) = prepared {
                state.lock().unwrap().committed += 1;
                deliver(state, &body, 1).await;
            }
        }
        Command::DeliverAck => {
            let ack = pb::DeliverAck::decode(frame.body).unwrap();
            state.lock().unwrap().acked_deliveries += u64::from(ack.status);
        }
        Command::Heartbeat => {
            let beat = pb::HeartBeat::decode(frame.body).unwrap();
            put_frame(out, Dialect::GO, Command::Heartbeat, opaque, &beat);
        }
        _ => {}
    }
    true
}

async fn deliver(state: &Arc<Mutex<State>>, body: &Bytes, times: usize) {
    let groups: Vec<_> = {
        let mut state = state.lock().unwrap();
        state.waiting.values_mut().for_each(|waiting| waiting.push(body.clone()));
        state.groups.values().cloned().collect()
    };
    for group in groups {
        for _ in 0..times {
            group.send(body.clone()).await.unwrap();
        }
    }
}

/// Runs `kiteq-bench` with these arguments against `broker`, and gives the verdict and the JSON report.
pub(crate) async fn bench(broker: &FakeBroker, arguments: &str) -> (Verdict, Value) {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("result.json");
    let address = broker.address.to_string();
    let mut line = vec!["kiteq-bench"];
    line.extend(arguments.split_whitespace());
    line.extend(["--broker", &address, "--quiet", "--json", json.to_str().unwrap()]);
    let verdict = run(Cli::try_parse_from(line).unwrap()).await.unwrap();
    (verdict, serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap())
}
