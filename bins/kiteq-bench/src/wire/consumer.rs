//! One consumer connection: acks everything that one read brings with one write.

use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use kiteq_protocol::frame::put_frame;
use kiteq_protocol::message::HeaderView;
use kiteq_protocol::reply::{DeliverAckFields, put_deliver_ack};
use kiteq_protocol::scan::{Fields, Value};
use kiteq_protocol::{Command, pb};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::Interval;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::clock::{clock_tag, now_ns, unix_seconds};
use crate::counters::Counters;
use crate::latency::RunRecorder;
use crate::ledger::LedgerPage;
use crate::run::Run;
use crate::stamp::Stamp;
use crate::wire::connection::{Reader, WireError, connect};
use crate::wire::inbound::FrameView;
use crate::wire::producer::HEARTBEAT_PERIOD;
use crate::wire::template::DIALECT;
use crate::wire::workers::Local;

/// Above so many bytes of unsent acks nothing more is read.
const ACKS_BYTES_MAX: usize = 256 * 1024;

/// What one consumer connection is to do.
#[derive(Debug, Clone)]
pub struct ConsumerPlan {
    /// Where.
    pub address: String,
    /// Password of the group.
    pub secret: String,
    /// The group.
    pub group: String,
    /// The group's number in the ledger.
    pub group_index: usize,
    /// Whether messages of any run count, or only this run's.
    pub any_run: bool,
}

/// Receives and acks until the run is left.
///
/// # Errors
/// When the server is not there, refuses, or goes away.
pub async fn consume(local: Local, plan: ConsumerPlan) -> Result<(), WireError> {
    let stream = connect(&plan.address, &plan.group, &plan.secret).await?;
    local.run.line_up().await;
    let address = plan.address.clone();
    let mut consumer = Consumer {
        reader: Reader::new(local.scratch.clone()),
        acks: BytesMut::with_capacity(ACKS_BYTES_MAX),
        heartbeat: tokio::time::interval(HEARTBEAT_PERIOD),
        leave: Box::pin(local.run.leave.clone().cancelled_owned()),
        clock_tag: clock_tag(),
        stream,
        local,
        plan,
    };
    let result = std::future::poll_fn(|cx| consumer.poll(cx)).await;
    result.map_err(|reason| WireError::Lost { address, reason })
}

struct Consumer {
    local: Local,
    plan: ConsumerPlan,
    stream: TcpStream,
    reader: Reader,
    acks: BytesMut,
    heartbeat: Interval,
    leave: Pin<Box<WaitForCancellationFutureOwned>>,
    clock_tag: u32,
}

impl Consumer {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        if self.heartbeat.poll_tick(cx).is_ready() {
            let beat = pb::HeartBeat { version: unix_seconds() };
            put_frame(&mut self.acks, DIALECT, Command::Heartbeat, 0, &beat);
            // Registers for the next one.
            let _ = self.heartbeat.poll_tick(cx);
        }
        let leaving = self.leave.as_mut().poll(cx).is_ready();
        loop {
            let wrote = self.poll_write(cx)?;
            // Acks of what was counted as received still leave, as far as the socket takes them.
            if leaving {
                return Poll::Ready(Ok(()));
            }
            let read = self.acks.len() < ACKS_BYTES_MAX && self.poll_read(cx)?;
            if !wrote && !read {
                return Poll::Pending;
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<bool, String> {
        let mut wrote = false;
        while !self.acks.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.acks) {
                Poll::Pending => break,
                Poll::Ready(Ok(len)) => self.acks.advance(len),
                Poll::Ready(Err(error)) => return Err(error.to_string()),
            }
            wrote = true;
        }
        Ok(wrote)
    }

    /// Receives and acks all deliveries of one read.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<bool, String> {
        let Self { local, plan, stream, reader, acks, clock_tag, .. } = self;
        let mut measured = local.measured.borrow_mut();
        let mut batch = DeliveryBatch {
            run: &local.run,
            plan,
            clock_tag: *clock_tag,
            recorder: RunRecorder::new(&mut measured.end_to_end),
            ledger: None,
            delivered: 0,
            delivered_bytes: 0,
            foreign: 0,
        };
        let polled = reader.poll_frames(cx, stream, |frame| {
            if matches!(Command::from_byte(frame.cmd), Some(Command::BytesMessage | Command::StringMessage)) {
                batch.take(frame, acks);
            }
        });
        batch.finish();
        match polled {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(error)) => Err(error.to_string()),
        }
    }
}

/// The deliveries of one read.
struct DeliveryBatch<'a> {
    run: &'a Run,
    plan: &'a ConsumerPlan,
    clock_tag: u32,
    recorder: RunRecorder<'a>,
    ledger: Option<LedgerPage<'a>>,
    delivered: u64,
    delivered_bytes: u64,
    foreign: u64,
}

impl DeliveryBatch<'_> {
    fn take(&mut self, frame: FrameView<'_>, acks: &mut BytesMut) {
        let (mut header, mut body) = (None, &[][..]);
        for field in Fields::of(frame.body).flatten() {
            match (field.number, field.value) {
                (1, Value::Bytes(bytes)) => header = Some(bytes),
                (2, Value::Bytes(bytes)) => body = bytes,
                _ => {}
            }
        }
        // What cannot be understood is not acked: the broker will say so again and again, as it should.
        let Some(header) = header.and_then(|header| HeaderView::parse(header).ok()) else {
            self.foreign += 1;
            return;
        };
        let ack = DeliverAckFields {
            message_id: header.message_id,
            topic: header.topic,
            message_type: header.message_type,
            group_id: self.plan.group.as_bytes(),
            status: true,
            feedback: "",
        };
        put_deliver_ack(acks, DIALECT, frame.opaque, &ack);
        self.book(body);
    }

    fn book(&mut self, body: &[u8]) {
        let stamp = Stamp::read(body);
        let ours = stamp.is_some_and(|stamp| stamp.run_id == self.run.run_id);
        if !ours && !self.plan.any_run {
            self.foreign += 1;
            return;
        }
        self.delivered += 1;
        self.delivered_bytes += body.len() as u64;
        let Some(stamp) = stamp else { return };
        if let Some(ledger) = self.run.ledger.as_ref().filter(|_| ours) {
            let page = self.ledger.get_or_insert_with(|| ledger.open());
            page.delivered(self.plan.group_index, stamp.number);
        }
        if stamp.clock_tag == self.clock_tag && self.run.measures(stamp.sent_at_ns) {
            self.recorder.record(stamp.sent_at_ns);
        }
    }

    fn finish(self) {
        let counters = &self.run.counters;
        if self.delivered > 0 {
            counters.last_delivery_ns.store(now_ns(), Relaxed);
        }
        Counters::add(&counters.delivered, self.delivered);
        Counters::add(&counters.delivered_bytes, self.delivered_bytes);
        Counters::add(&counters.foreign, self.foreign);
    }
}
