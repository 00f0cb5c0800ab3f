//! Pushes elements: many in a command, several commands ahead of their answers, as fast as they are answered or on a schedule.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::clock::{clock_tag, now_ns};
use crate::counters::Counters;
use crate::flume::books::SEQUENCE_MAX;
use crate::flume::element::{ElementMaker, ElementShape, Fate};
use crate::flume::journal::{Event, Journal};
use crate::flume::marker::Marker;
use crate::latency::Latencies;
use crate::redis::connection::{put_argument, put_number};
use crate::redis::{Address, Connection, Reply};
use crate::schedule::Schedule;

/// Between two attempts to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of one command, from which on it is sent whatever its count.
const COMMAND_BYTES: usize = 8 << 20;

/// How to fill.
#[derive(Debug, Clone)]
pub struct FillPlan {
    /// The list.
    pub queue: String,
    /// What is pushed.
    pub shape: ElementShape,
    /// Elements of one command, at most.
    pub per_command: usize,
    /// Commands without an answer, at most.
    pub ahead: usize,
    /// Elements in all.
    pub count: Option<u64>,
    /// Elements a second, over all connections.
    pub rate: Option<u64>,
    /// Connections, of all servers together.
    pub connections: usize,
    /// How long a server may be away.
    pub reconnect_timeout: Duration,
}

/// What all connections share.
#[derive(Debug)]
pub struct Fill {
    /// How to fill.
    pub plan: FillPlan,
    /// The run's id, in every element.
    pub run_id: u64,
    /// `published` counts what was sent, `acked` what Redis took.
    pub counters: Counters,
    /// No further command is sent.
    pub stop: CancellationToken,
    next_sequence: AtomicU64,
    dead: AtomicU64,
    books: Mutex<FillBooks>,
}

#[derive(Debug, Default)]
struct FillBooks {
    journal: Option<Journal>,
    latencies: Latencies,
}

/// A command without an answer.
struct Ahead {
    first: u64,
    count: u64,
    bytes: u64,
    dead: u64,
    /// Of its first element; the others are close to it.
    due_at_ns: u64,
}

impl Fill {
    /// A run that has not begun.
    #[must_use]
    pub fn new(plan: FillPlan, journal: Option<Journal>) -> Arc<Self> {
        Arc::new(Self {
            plan,
            run_id: fastrand::u64(1..),
            counters: Counters::default(),
            stop: CancellationToken::new(),
            next_sequence: AtomicU64::new(0),
            dead: AtomicU64::new(0),
            books: Mutex::new(FillBooks { journal, ..FillBooks::default() }),
        })
    }

    /// Elements that Redis took and that are made to become dead letters.
    #[must_use]
    pub fn dead(&self) -> u64 {
        self.dead.load(Relaxed)
    }

    /// From when an element was to be pushed to Redis's answer.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        self.books().latencies.clone()
    }

    fn books(&self) -> MutexGuard<'_, FillBooks> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to `wanted` numbers of new elements.
    fn numbers(&self, wanted: u64) -> (u64, u64) {
        let end = self.plan.count.unwrap_or(SEQUENCE_MAX).min(SEQUENCE_MAX);
        let taken = self.next_sequence.fetch_update(Relaxed, Relaxed, |next| Some((next + wanted).min(end)));
        let first = taken.unwrap_or(end).min(end);
        (first, wanted.min(end - first))
    }

    fn answered(&self, command: &Ahead, reply: &Reply) -> anyhow::Result<()> {
        if let Reply::Error(text) = reply {
            Counters::add(&self.counters.refused, command.count);
            let _ = self.counters.first_refusal.set(text.clone());
            return Ok(());
        }
        Counters::add(&self.counters.acked, command.count);
        Counters::add(&self.counters.acked_bytes, command.bytes);
        self.dead.fetch_add(command.dead, Relaxed);
        let mut books = self.books();
        books.latencies.record(now_ns().saturating_sub(command.due_at_ns), command.count);
        if let Some(journal) = &mut books.journal {
            let range = command.first..=command.first + command.count - 1;
            let written = journal.elements(Event::Pushed, self.run_id, [range]);
            written
                .and_then(
                    |()| if command.dead > 0 { journal.dead(self.run_id, command.dead) } else { Ok(()) },
                )
                .context("cannot write the ledger")?;
        }
        Ok(())
    }

    fn lost(&self, command: &Ahead) -> anyhow::Result<()> {
        Counters::add(&self.counters.in_doubt, command.count);
        if let Some(journal) = &mut self.books().journal {
            let range = command.first..=command.first + command.count - 1;
            journal.elements(Event::InDoubt, self.run_id, [range]).context("cannot write the ledger")?;
        }
        Ok(())
    }
}

/// One connection's part of a run, until everything is pushed or it is stopped; then the answers are awaited.
///
/// # Errors
/// When the server is away for too long, or the ledger cannot be written.
pub async fn fill(fill: Arc<Fill>, address: Address, index: usize, begin_ns: u64) -> anyhow::Result<()> {
    let plan = &fill.plan;
    let rate = plan.rate.map(|rate| rate as f64);
    let mut filler = Filler {
        fill: &fill,
        maker: ElementMaker::new(plan.shape.clone()),
        schedule: rate.map(|rate| Schedule::new(begin_ns, rate, plan.connections, index)),
        ahead: VecDeque::new(),
        command: Vec::new(),
        element: Vec::new(),
        clock_tag: clock_tag(),
        is_over: false,
    };
    let mut connection = Connection::open(&address).await?;
    while let Err(error) = filler.run(&mut connection).await? {
        tracing::warn!("lost the connection to Redis at {address}: {error}; connecting again");
        filler.ahead.drain(..).try_for_each(|command| fill.lost(&command))?;
        connection = reconnect(&address, plan.reconnect_timeout, &fill.stop).await?;
    }
    Ok(())
}

async fn reconnect(
    address: &Address,
    patience: Duration,
    stop: &CancellationToken,
) -> anyhow::Result<Connection> {
    let until = Instant::now() + patience;
    loop {
        match Connection::open(address).await {
            Err(error) if Instant::now() >= until || stop.is_cancelled() => return Err(error),
            Err(_) => tokio::time::sleep(RECONNECT_PAUSE).await,
            opened => return opened,
        }
    }
}

struct Filler<'a> {
    fill: &'a Fill,
    maker: ElementMaker,
    schedule: Option<Schedule>,
    ahead: VecDeque<Ahead>,
    command: Vec<u8>,
    element: Vec<u8>,
    clock_tag: u32,
    is_over: bool,
}

impl Filler<'_> {
    /// Pushes over one connection. The inner error is the connection's, the outer one ends the run.
    async fn run(&mut self, connection: &mut Connection) -> anyhow::Result<io::Result<()>> {
        loop {
            self.is_over |= self.fill.stop.is_cancelled();
            if !self.is_over && self.ahead.len() < self.fill.plan.ahead && self.make_command() {
                if let Err(error) = connection.send(&self.command).await {
                    return Ok(Err(error));
                }
                continue;
            }
            if self.is_over && self.ahead.is_empty() {
                return Ok(Ok(()));
            }
            tokio::select! {
                reply = connection.reply(), if !self.ahead.is_empty() => {
                    let reply = match reply {
                        Ok(reply) => reply,
                        Err(error) => return Ok(Err(error)),
                    };
                    if let Some(command) = self.ahead.pop_front() {
                        self.fill.answered(&command, &reply)?;
                    }
                }
                () = self.until_due(), if !self.is_over && self.ahead.len() < self.fill.plan.ahead => {}
                () = self.fill.stop.cancelled(), if !self.is_over => {}
            }
        }
    }

    /// Until the next element is to be pushed; without a schedule that is at once.
    async fn until_due(&self) {
        if let Some(schedule) = &self.schedule {
            let wait = schedule.next_at_ns().saturating_sub(now_ns());
            sleep_until(Instant::now() + Duration::from_nanos(wait)).await;
        }
    }

    /// Makes a command of what is due; false when nothing is.
    fn make_command(&mut self) -> bool {
        let now_ns = now_ns();
        let due = self.due(now_ns);
        if due.is_empty() {
            return false;
        }
        let (first, count) = self.fill.numbers(due.len() as u64);
        self.is_over |= count < due.len() as u64;
        if count == 0 {
            return false;
        }
        self.command.clear();
        put_number(&mut self.command, b'*', 2 + count as usize);
        put_argument(&mut self.command, b"RPUSH");
        put_argument(&mut self.command, self.fill.plan.queue.as_bytes());
        let (mut bytes, mut dead) = (0, 0);
        for (sequence, &pushed_at_ns) in (first..first + count).zip(&due) {
            self.element.clear();
            let (run_id, clock_tag) = (self.fill.run_id, self.clock_tag);
            let fate =
                self.maker.put(&mut self.element, Marker { run_id, sequence, pushed_at_ns, clock_tag });
            dead += u64::from(fate == Fate::DeadLetter);
            bytes += self.element.len() as u64;
            put_argument(&mut self.command, &self.element);
        }
        Counters::add(&self.fill.counters.published, count);
        self.ahead.push_back(Ahead { first, count, bytes, dead, due_at_ns: due[0] });
        true
    }

    /// When each element of the next command was to be pushed.
    fn due(&mut self, now_ns: u64) -> Vec<u64> {
        let element_bytes = (*self.fill.plan.shape.sizes.end()).max(1);
        let count = self.fill.plan.per_command.min((COMMAND_BYTES / element_bytes).max(1));
        match &mut self.schedule {
            None => vec![now_ns; count],
            Some(schedule) => std::iter::from_fn(|| schedule.take_due(now_ns)).take(count).collect(),
        }
    }
}
