//! One producer connection: as many publishes in flight as its window allows, or as its schedule asks for.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use kiteq_protocol::frame::put_frame;
use kiteq_protocol::scan::{Field, Fields, Value};
use kiteq_protocol::{Command, pb};
use prost::Message as _;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::Interval;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::clock::{now_ns, unix_seconds};
use crate::counters::Counters;
use crate::latency::RunRecorder;
use crate::ledger::LedgerPage;
use crate::load::is_transaction;
use crate::run::Run;
use crate::schedule::Schedule;
use crate::stamp::MessageNumber;
use crate::wire::alarm::Alarm;
use crate::wire::connection::{Reader, WireError, connect};
use crate::wire::in_flight::{InFlight, Pending};
use crate::wire::inbound::FrameView;
use crate::wire::outbox::Outbox;
use crate::wire::template::{DIALECT, MessageShape, Template, Variation, commit_frame};
use crate::wire::workers::Local;

/// An open loop sends what has come due at most so often. Finer steps cost more of the CPU that is being measured.
const PACE_STEP_NS: u64 = 100_000;
/// Brokers close connections that are silent for longer.
pub(crate) const HEARTBEAT_PERIOD: Duration = Duration::from_secs(30);

/// What one producer connection is to do.
#[derive(Debug, Clone)]
pub struct ProducerPlan {
    /// Where.
    pub address: String,
    /// Password of the group.
    pub secret: String,
    /// The producer's number within the run.
    pub index: usize,
    /// Templates that it publishes in turn, one for each topic and type. Not empty.
    pub shapes: Arc<Vec<MessageShape>>,
    /// Unacked publishes allowed.
    pub window: usize,
    /// Publishes after which it is done; `None`: until it is told to stop.
    pub count: Option<u64>,
    /// Messages a second over all producers, and how many they are; `None`: as fast as acks come.
    pub rate: Option<(f64, usize)>,
    /// Share of the publishes that are transactions, 0 to 1.
    pub transactions: f64,
    /// Memory for ready-made frames.
    pub block_bytes: usize,
}

/// Publishes until the count is reached or the run stops, and then waits for the acks that are outstanding.
///
/// # Errors
/// When the server is not there, refuses, or goes away.
pub async fn produce(local: Local, plan: ProducerPlan) -> Result<(), WireError> {
    let group = plan.shapes.first().map_or("", |shape| &shape.group);
    let stream = connect(&plan.address, group, &plan.secret).await?;
    local.run.line_up().await;
    let mut producer = Producer::new(&local, &plan, stream)?;
    let result = std::future::poll_fn(|cx| producer.poll(cx)).await;
    Counters::add(&local.run.counters.in_doubt, producer.in_flight.len() as u64);
    if let Some(ledger) = &local.run.ledger {
        ledger.open().sent(producer.index, producer.sequence);
    }
    local.run.producers_done.send_modify(|done| *done += 1);
    result.map_err(|reason| WireError::Lost { address: plan.address, reason })
}

struct Producer {
    run: Arc<Run>,
    local: Local,
    stream: TcpStream,
    reader: Reader,
    outbox: Outbox,
    in_flight: InFlight,
    shapes: Vec<MessageShape>,
    index: usize,
    sequence: u64,
    count: u64,
    pace: Option<Pace>,
    transactions: f64,
    heartbeat: Interval,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    leave: Pin<Box<WaitForCancellationFutureOwned>>,
    stopped: bool,
    verdicts: Vec<MessageNumber>,
    body_bytes: u64,
}

struct Pace {
    schedule: Schedule,
    alarm: Alarm,
    not_before_ns: u64,
}

impl Producer {
    fn new(local: &Local, plan: &ProducerPlan, stream: TcpStream) -> Result<Self, WireError> {
        // A connection whose block cannot hold every topic takes some of them; others take the rest.
        let frame_bytes = plan.shapes.first().map_or(1, |shape| shape.body_bytes + 256);
        let taken = (plan.block_bytes / frame_bytes).clamp(1, plan.shapes.len().max(1));
        let shapes: Vec<_> = plan
            .shapes
            .iter()
            .cycle()
            .skip(plan.index % plan.shapes.len().max(1))
            .take(taken)
            .cloned()
            .collect();
        let templates: Vec<_> = shapes.iter().map(Template::new).collect();
        let pace = match plan.rate {
            None => None,
            Some((rate, producers)) => Some(Pace {
                schedule: Schedule::new(now_ns(), rate, producers, plan.index),
                alarm: Alarm::new().map_err(WireError::Timer)?,
                not_before_ns: 0,
            }),
        };
        Ok(Self {
            run: Arc::clone(&local.run),
            local: local.clone(),
            stream,
            reader: Reader::new(local.scratch.clone()),
            outbox: Outbox::new(&templates, plan.window, plan.block_bytes),
            in_flight: InFlight::new(plan.window),
            shapes,
            index: plan.index,
            sequence: 0,
            count: plan.count.unwrap_or(u64::MAX),
            pace,
            transactions: plan.transactions,
            heartbeat: tokio::time::interval(HEARTBEAT_PERIOD),
            stop: Box::pin(local.run.stop_publishing.clone().cancelled_owned()),
            leave: Box::pin(local.run.leave.clone().cancelled_owned()),
            stopped: false,
            verdicts: Vec::new(),
            body_bytes: plan.shapes.first().map_or(0, |shape| shape.body_bytes as u64),
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        if self.leave.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if !self.stopped {
            self.stopped = self.stop.as_mut().poll(cx).is_ready();
        }
        if self.heartbeat.poll_tick(cx).is_ready() {
            let mut beat = BytesMut::new();
            put_frame(&mut beat, DIALECT, Command::Heartbeat, 0, &pb::HeartBeat { version: unix_seconds() });
            self.outbox.push_extra(&beat);
            // Registers for the next one.
            let _ = self.heartbeat.poll_tick(cx);
        }
        loop {
            self.fill(cx)?;
            let wrote = self.poll_write(cx)?;
            let read = self.poll_read(cx)?;
            let done = self.stopped || self.sequence >= self.count;
            if done && self.in_flight.is_empty() && self.outbox.pending().is_empty() {
                return Poll::Ready(Ok(()));
            }
            if !wrote && !read {
                return Poll::Pending;
            }
        }
    }

    /// Adds every publish that window, block, count and schedule allow.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<(), String> {
        if self.stopped {
            return Ok(());
        }
        let left = usize::try_from(self.count - self.sequence).unwrap_or(usize::MAX);
        let room = self.in_flight.room().min(self.outbox.room()).min(left);
        if room == 0 {
            return Ok(());
        }
        let created_at = unix_seconds();
        let before = self.sequence;
        if let Some(ledger) = &self.run.ledger {
            // Before the first byte leaves: what is delivered must already be known as sent.
            ledger.open().sending(self.index, before + room as u64);
        }
        match &mut self.pace {
            None => {
                let now_ns = now_ns();
                (0..room).for_each(|_| self.push(now_ns, created_at));
            }
            Some(_) => self.fill_due(cx, room, created_at)?,
        }
        Counters::add(&self.run.counters.published, self.sequence - before);
        Ok(())
    }

    /// Adds what has come due, and has the alarm ring when the next is.
    fn fill_due(&mut self, cx: &mut Context<'_>, room: usize, created_at: i64) -> Result<(), String> {
        let mut room = room;
        loop {
            let now_ns = now_ns();
            while room > 0 {
                let Some(at_ns) = self.pace.as_mut().and_then(|pace| pace.schedule.take_due(now_ns)) else {
                    break;
                };
                self.push(at_ns, created_at);
                room -= 1;
                if let Some(pace) = &mut self.pace {
                    pace.not_before_ns = now_ns + PACE_STEP_NS;
                }
            }
            let Some(pace) = &mut self.pace else { return Ok(()) };
            if room == 0 {
                return Ok(());
            }
            let at_ns = pace.schedule.next_at_ns().max(pace.not_before_ns);
            match pace.alarm.poll_at(cx, at_ns) {
                Poll::Pending => return Ok(()),
                Poll::Ready(rung) => rung.map_err(|error| error.to_string())?,
            }
        }
    }

    fn push(&mut self, sent_at_ns: u64, created_at: i64) {
        let number = MessageNumber::new(self.index, self.sequence);
        let prepared = is_transaction(self.transactions, number.sequence());
        let pending = Pending { number, sent_at_ns, prepared };
        if let Some(opaque) = self.in_flight.insert(pending) {
            self.outbox.push(Variation { opaque, number, sent_at_ns, created_at, commit: !prepared });
            self.sequence += 1;
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<bool, String> {
        let mut wrote = false;
        while !self.outbox.pending().is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, self.outbox.pending()) {
                Poll::Pending => break,
                Poll::Ready(Ok(len)) => self.outbox.advance(len),
                Poll::Ready(Err(error)) => return Err(error.to_string()),
            }
            wrote = true;
        }
        Ok(wrote)
    }

    /// Handles all acks of one read.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<bool, String> {
        let Self { run, local, in_flight, reader, stream, verdicts, outbox, .. } = self;
        let mut measured = local.measured.borrow_mut();
        let mut batch = AckBatch {
            run,
            in_flight,
            verdicts,
            recorder: RunRecorder::new(&mut measured.publish),
            ledger: None,
            acked: 0,
            refused: 0,
        };
        let mut checks = BytesMut::new();
        let polled = reader.poll_frames(cx, stream, |frame| match Command::from_byte(frame.cmd) {
            Some(Command::StoreAck) => batch.take(frame),
            Some(Command::TxAck) => answer_check(frame, &mut checks),
            _ => {}
        });
        Counters::add(&batch.run.counters.acked, batch.acked);
        Counters::add(&batch.run.counters.acked_bytes, batch.acked * self.body_bytes);
        Counters::add(&batch.run.counters.refused, batch.refused);
        drop(batch);
        drop(measured);
        outbox.push_extra(&checks);
        self.send_verdicts();
        match polled {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(error)) => Err(error.to_string()),
        }
    }

    fn send_verdicts(&mut self) {
        for number in std::mem::take(&mut self.verdicts) {
            let shape = &self.shapes[(number.sequence() % self.shapes.len() as u64) as usize];
            self.outbox.push_extra(&commit_frame(shape, number, 0, unix_seconds()));
        }
    }
}

/// The acks of one read.
struct AckBatch<'a> {
    run: &'a Run,
    in_flight: &'a mut InFlight,
    verdicts: &'a mut Vec<MessageNumber>,
    recorder: RunRecorder<'a>,
    ledger: Option<LedgerPage<'a>>,
    acked: u64,
    refused: u64,
}

impl<'a> AckBatch<'a> {
    fn take(&mut self, frame: FrameView<'_>) {
        let Some(pending) = self.in_flight.remove(frame.opaque) else {
            return;
        };
        if self.run.measures(pending.sent_at_ns) {
            self.recorder.record(pending.sent_at_ns);
        }
        if !ack_status(frame.body) {
            self.refused += 1;
            self.run.counters.first_refusal.get_or_init(|| ack_feedback(frame.body));
            if let Some(ledger) = &self.run.ledger {
                self.ledger.get_or_insert_with(|| ledger.open()).refused(pending.number);
            }
            return;
        }
        self.acked += 1;
        if pending.prepared {
            self.verdicts.push(pending.number);
        }
        if let Some(ledger) = &self.run.ledger {
            self.ledger.get_or_insert_with(|| ledger.open()).acked(pending.number);
        }
    }
}

/// Whether a STORE_ACK says true. One that cannot be read does not.
fn ack_status(body: &[u8]) -> bool {
    let is_status = |field: &Field<'_>| field.number == 2;
    Fields::of(body).flatten().find(is_status).is_some_and(|field| field.value == Value::Varint(1))
}

fn ack_feedback(body: &[u8]) -> String {
    pb::MessageStoreAck::decode(body).map_or_else(|error| error.to_string(), |ack| ack.feedback)
}

/// Answers a broker's question for a prepared message. Every transaction of this tool is a commit.
fn answer_check(frame: FrameView<'_>, answers: &mut BytesMut) {
    if let Ok(check) = pb::TxAckPacket::decode(frame.body) {
        let verdict = pb::TxAckPacket { status: 1, feedback: "committed".to_owned(), ..check };
        put_frame(answers, DIALECT, Command::TxAck, frame.opaque, &verdict);
    }
}
