//! Runs the application's handler over what brokers deliver, within bounds, and answers.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use bytes::Bytes;
use kiteq_protocol::MessageKind;
use kiteq_protocol::reply::{DeliverAckFields, put_deliver_ack};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::delivery::{AnyHandler, Delivery, HandlerFuture, Header, Nack};
use crate::link::{Link, SessionNumber};
use crate::panics::poll_caught;
use crate::settings::{Settings, places};
use crate::sync::lock;

/// A delivered message that waits for the handler.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) link: Arc<Link>,
    pub(crate) session: SessionNumber,
    pub(crate) opaque: u32,
    pub(crate) kind: MessageKind,
    pub(crate) frame_body: Bytes,
}

impl Job {
    /// Nacks the delivery without a handler.
    pub(crate) fn refuse(&self, reason: &str) {
        let (header, _) = Delivery::decode(self.kind, &self.frame_body, 0);
        post_answer(&self.link, self.session, self.opaque, &header, Some(reason));
    }
}

/// Where a delivery's answer goes.
#[derive(Debug)]
struct Ticket {
    link: Arc<Link>,
    session: SessionNumber,
    opaque: u32,
    header: Header,
}

/// The consuming half of a client.
///
/// Deliveries wait in a bounded backlog; above it sockets are not read. The backlog is there so that acks for what a
/// handler itself publishes are still read while every handler is busy. A few runners start handlers: one that finishes
/// at once costs no task, one that waits goes on as a task of its own.
pub(crate) struct Consumer {
    handler: Arc<dyn AnyHandler>,
    jobs: Mutex<VecDeque<Job>>,
    /// One permit for each job that waits.
    waiting: Semaphore,
    /// Free places of the backlog.
    room: Semaphore,
    room_places: usize,
    concurrency: Arc<Semaphore>,
    concurrency_max: usize,
    decompressed_bytes_max: usize,
    unfinished: AtomicUsize,
    /// Told when nothing is left to answer.
    settled: Arc<Notify>,
    tasks: TaskTracker,
    /// Ends handlers that have not finished when the client's time to close is over.
    abort: CancellationToken,
}

impl Consumer {
    pub(crate) fn new(
        handler: Arc<dyn AnyHandler>,
        settings: &Settings,
        settled: Arc<Notify>,
        tasks: TaskTracker,
        abort: CancellationToken,
    ) -> Self {
        Self {
            handler,
            jobs: Mutex::default(),
            waiting: Semaphore::new(0),
            room: Semaphore::new(settings.backlog),
            room_places: settings.backlog,
            concurrency: Arc::new(Semaphore::new(settings.concurrency)),
            concurrency_max: settings.concurrency,
            decompressed_bytes_max: settings.decompressed_bytes_max,
            unfinished: AtomicUsize::new(0),
            settled,
            tasks,
            abort,
        }
    }

    /// Deliveries that have not been answered.
    pub(crate) fn unfinished(&self) -> usize {
        self.unfinished.load(Ordering::Acquire)
    }

    /// Starts the runners.
    pub(crate) fn start(self: &Arc<Self>) {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads.min(self.concurrency_max) {
            let (consumer, abort) = (Arc::clone(self), self.abort.clone());
            self.tasks.spawn(async move {
                tokio::select! {
                    () = consumer.run() => {}
                    () = abort.cancelled() => {}
                }
            });
        }
    }

    /// Queues `jobs`, waiting for room where there is none.
    ///
    /// # Cancel safety
    /// Jobs that have not been queued are lost, so drop this only with their connection.
    pub(crate) async fn accept(&self, jobs: &mut Vec<Job>) {
        let mut admitted = VecDeque::with_capacity(jobs.len());
        for job in jobs.drain(..) {
            let places = places(job.frame_body.len(), self.room_places);
            let room = match self.room.try_acquire_many(places) {
                Ok(room) => room,
                Err(_) => {
                    self.queue(&mut admitted);
                    match self.room.acquire_many(places).await {
                        Ok(room) => room,
                        Err(_) => return,
                    }
                }
            };
            room.forget();
            admitted.push_back(job);
        }
        self.queue(&mut admitted);
    }

    fn queue(&self, jobs: &mut VecDeque<Job>) {
        let count = jobs.len();
        for job in &*jobs {
            job.link.deliveries.fetch_add(1, Ordering::AcqRel);
        }
        self.unfinished.fetch_add(count, Ordering::AcqRel);
        lock(&self.jobs).append(jobs);
        self.waiting.add_permits(count);
    }

    async fn run(self: Arc<Self>) {
        while let Ok(mut permit) = Arc::clone(&self.concurrency).acquire_owned().await {
            // The permit serves one handler after the other as long as each finishes at once.
            loop {
                let Ok(waiting) = self.waiting.acquire().await else { return };
                waiting.forget();
                let Some(job) = lock(&self.jobs).pop_front() else { continue };
                self.room.add_permits(places(job.frame_body.len(), self.room_places) as usize);
                match self.begin(job, permit).await {
                    Some(unused) => permit = unused,
                    None => break,
                }
            }
        }
    }

    /// Runs the handler as far as it goes without waiting. Gives the permit back when that was all.
    async fn begin(self: &Arc<Self>, job: Job, permit: OwnedSemaphorePermit) -> Option<OwnedSemaphorePermit> {
        let Job { link, session, opaque, kind, frame_body } = job;
        let (header, delivery) = Delivery::decode(kind, &frame_body, self.decompressed_bytes_max);
        let ticket = Ticket { link, session, opaque, header };
        let delivery = match delivery {
            Ok(delivery) => delivery,
            Err(error) => {
                tracing::error!(broker = %ticket.link.address, opaque, %error, "refused a delivery");
                self.answer(&ticket, Some(&error.to_string()));
                return Some(permit);
            }
        };
        let mut future = Arc::clone(&self.handler).start(delivery);
        match poll_fn(|context| Poll::Ready(poll_caught(future.as_mut(), context))).await {
            Poll::Ready(result) => {
                self.finish(&ticket, result);
                Some(permit)
            }
            Poll::Pending => {
                self.go_on(future, ticket, permit);
                None
            }
        }
    }

    /// Runs the rest of a handler as a task of its own.
    fn go_on(self: &Arc<Self>, mut future: HandlerFuture, ticket: Ticket, permit: OwnedSemaphorePermit) {
        let consumer = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                result = poll_fn(|context| poll_caught(future.as_mut(), context)) => {
                    consumer.finish(&ticket, result);
                }
                () = consumer.abort.cancelled() => {}
            }
            drop(permit);
        });
    }

    fn finish(&self, ticket: &Ticket, result: Result<Result<(), Nack>, String>) {
        match result {
            Ok(Ok(())) => self.answer(ticket, None),
            Ok(Err(nack)) => self.answer(ticket, Some(&nack.reason)),
            Err(panic) => {
                let id = String::from_utf8_lossy(ticket.header.id_text());
                tracing::error!(message = %id, topic = ticket.header.topic(), panic, "the handler panicked");
                self.answer(ticket, Some("the handler panicked"));
            }
        }
    }

    fn answer(&self, ticket: &Ticket, nack: Option<&str>) {
        let Ticket { link, session, opaque, header } = ticket;
        post_answer(link, *session, *opaque, header, nack);
        let unanswered_on_link = link.deliveries.fetch_sub(1, Ordering::AcqRel) - 1;
        let unanswered = self.unfinished.fetch_sub(1, Ordering::AcqRel) - 1;
        if unanswered_on_link == 0 || unanswered == 0 {
            self.settled.notify_waiters();
        }
    }
}

/// Acks, or nacks with a reason. Without its connection the answer goes nowhere and the message comes again.
fn post_answer(link: &Link, session: SessionNumber, opaque: u32, header: &Header, nack: Option<&str>) {
    let fields = DeliverAckFields {
        message_id: header.id_text(),
        topic: header.topic().as_bytes(),
        message_type: header.message_type().as_bytes(),
        group_id: link.group.as_bytes(),
        status: nack.is_none(),
        feedback: nack.unwrap_or_default(),
    };
    link.post(Some(session), |buf, dialect| put_deliver_ack(buf, dialect, opaque, &fields));
}
