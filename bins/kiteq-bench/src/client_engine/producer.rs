//! One publishing client: as many publishes in flight as the window allows, or as the schedule asks for.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kiteq_client::{Client, Publish, PublishError, TransactionError};

use crate::client_engine::CLOSE_TIMEOUT;
use crate::clock::{clock_tag, now_ns};
use crate::counters::Counters;
use crate::latency::Latencies;
use crate::load::{Load, is_transaction};
use crate::run::{Measured, Run};
use crate::schedule::Schedule;
use crate::stamp::{MessageNumber, Stamp, filler, message_id};
use crate::wire::alarm::Alarm;

/// A publish on its way.
type InFlight = Pin<Box<dyn Future<Output = Finished> + Send>>;

struct Finished {
    number: MessageNumber,
    sent_at_ns: u64,
    result: Result<(), PublishError>,
}

/// Publishes until its share is done or the run stops, then waits for what is outstanding.
pub(super) async fn run(run: Arc<Run>, client: Client, load: Load, index: usize) -> anyhow::Result<Measured> {
    run.line_up().await;
    let pace = match load.rate {
        Some(rate) => Some((Schedule::new(now_ns(), rate, load.connections, index), Alarm::new()?)),
        None => None,
    };
    let mut producer = Producer::new(&run, client, &load, index);
    producer.publish_all(pace).await?;
    producer.settle().await;
    if let Some(ledger) = &run.ledger {
        ledger.open().sent(index, producer.sequence);
    }
    Counters::add(&run.counters.in_doubt, producer.in_flight.len() as u64);
    run.producers_done.send_modify(|done| *done += 1);
    // A broker that lost a verdict asks for it, so the group stays until everybody leaves.
    run.leave.cancelled().await;
    if let Err(error) = producer.client.close(CLOSE_TIMEOUT).await {
        tracing::debug!(%error, "producer closed");
    }
    Ok(Measured { publish: producer.latencies, ..Measured::default() })
}

struct Producer {
    run: Arc<Run>,
    client: Client,
    templates: Vec<Publish>,
    body: Vec<u8>,
    index: usize,
    window: usize,
    count: u64,
    sequence: u64,
    clock_tag: u32,
    transactions: f64,
    in_flight: FuturesUnordered<InFlight>,
    latencies: Latencies,
}

impl Producer {
    fn new(run: &Arc<Run>, client: Client, load: &Load, index: usize) -> Self {
        let template = |topic: &str, message_type: &str| {
            let template = Publish::bytes(topic, message_type, "");
            if load.fly { template.fly() } else { template }
        };
        let mut templates: Vec<_> = load
            .topics
            .iter()
            .flat_map(|topic| load.message_types.iter().map(move |name| template(topic, name)))
            .collect();
        // Producers begin at different topics.
        let turns = index % templates.len().max(1);
        templates.rotate_left(turns);
        Self {
            run: Arc::clone(run),
            client,
            templates,
            body: filler(load.body_bytes),
            index,
            window: load.window,
            count: load.share(index).unwrap_or(u64::MAX),
            sequence: 0,
            clock_tag: clock_tag(),
            transactions: load.transactions,
            in_flight: FuturesUnordered::new(),
            latencies: Latencies::default(),
        }
    }

    async fn publish_all(&mut self, mut pace: Option<(Schedule, Alarm)>) -> std::io::Result<()> {
        let run = Arc::clone(&self.run);
        while self.sequence < self.count && !run.stop_publishing.is_cancelled() {
            let room = self.window > self.in_flight.len();
            // With room, a free producer publishes at once and a paced one when the next message is due.
            let next = async {
                match &mut pace {
                    _ if !room => std::future::pending().await,
                    None => Ok(now_ns()),
                    Some((schedule, alarm)) => {
                        let at_ns = schedule.next_at_ns();
                        if at_ns > now_ns() {
                            poll_fn(|cx| alarm.poll_at(cx, at_ns)).await?;
                        }
                        Ok::<_, std::io::Error>(at_ns)
                    }
                }
            };
            tokio::select! {
                biased;
                () = run.stop_publishing.cancelled() => return Ok(()),
                Some(finished) = self.in_flight.next(), if !self.in_flight.is_empty() => self.book(&finished),
                at_ns = next => {
                    let at_ns = at_ns?;
                    if let Some((schedule, _)) = &mut pace {
                        schedule.take_due(at_ns);
                    }
                    self.push(at_ns);
                }
            }
        }
        Ok(())
    }

    /// Waits for what is outstanding, until everybody leaves.
    async fn settle(&mut self) {
        let run = Arc::clone(&self.run);
        while !self.in_flight.is_empty() {
            tokio::select! {
                biased;
                () = run.leave.cancelled() => return,
                Some(finished) = self.in_flight.next() => self.book(&finished),
            }
        }
    }

    fn push(&mut self, sent_at_ns: u64) {
        let number = MessageNumber::new(self.index, self.sequence);
        let template = &self.templates[(self.sequence % self.templates.len() as u64) as usize];
        self.sequence += 1;
        let prepared = is_transaction(self.transactions, number.sequence());
        let run_id = self.run.run_id;
        let mut body = self.body.clone();
        Stamp { clock_tag: self.clock_tag, sent_at_ns, run_id, number }.write(&mut body);
        let publish = template.with_body(body).id(message_id(run_id, number));
        if let Some(ledger) = &self.run.ledger {
            // Before the first byte leaves: what is delivered must already be known as sent.
            ledger.open().sending(self.index, self.sequence);
        }
        Counters::add(&self.run.counters.published, 1);
        let client = self.client.clone();
        self.in_flight.push(Box::pin(async move {
            let result =
                if prepared { transact(&client, publish).await } else { send(&client, publish).await };
            Finished { number, sent_at_ns, result }
        }));
    }

    fn book(&mut self, finished: &Finished) {
        let counters = &self.run.counters;
        let mut page = self.run.ledger.as_ref().map(|ledger| ledger.open());
        match &finished.result {
            Ok(()) => {
                if self.run.measures(finished.sent_at_ns) {
                    self.latencies.record(now_ns().saturating_sub(finished.sent_at_ns), 1);
                }
                Counters::add(&counters.acked, 1);
                Counters::add(&counters.acked_bytes, self.body.len() as u64);
                if let Some(page) = &mut page {
                    page.acked(finished.number);
                }
            }
            Err(error) if error.is_retry_safe() => {
                counters.first_refusal.get_or_init(|| error.to_string());
                Counters::add(&counters.refused, 1);
                if let Some(page) = &mut page {
                    page.refused(finished.number);
                }
            }
            // It may have been stored: neither acked nor refused.
            Err(_) => Counters::add(&counters.in_doubt, 1),
        }
    }
}

async fn send(client: &Client, publish: Publish) -> Result<(), PublishError> {
    client.publish(publish).await.map(|_| ())
}

async fn transact(client: &Client, publish: Publish) -> Result<(), PublishError> {
    match client.transaction(publish, async |_| Ok::<(), Infallible>(())).await {
        Ok(()) => Ok(()),
        Err(TransactionError::Prepare(error)) => Err(error),
        Err(TransactionError::RolledBack(never)) => match never {},
    }
}
