//! A sink: takes batches, keeps books, measures, and does wrong what it is told to.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kiteq_flume::{Answer, EventBatch, Handler, Incoming, Status};
use tokio_util::sync::CancellationToken;

use crate::clock::{clock_tag, now_ns};
use crate::counters::Counters;
use crate::flume::books::Books;
use crate::flume::faults::{Fault, FaultPlan};
use crate::flume::journal::{Event, Journal};
use crate::flume::marker::Marker;
use crate::latency::Latencies;

/// Different businesses that are counted each on its own.
const BUSINESSES_MAX: usize = 1000;

/// What a sink has taken.
#[derive(Debug)]
pub struct Taken {
    /// Which elements.
    pub books: Books,
    /// From push to here.
    pub latencies: Latencies,
    /// Events by the header `businessName`.
    pub businesses: BTreeMap<String, u64>,
    /// Batches.
    pub batches: u64,
    /// When the first batch came, ns of the monotonic clock.
    pub first_at_ns: u64,
    journal: Option<Journal>,
}

/// The handler of a sink's server.
#[derive(Debug)]
pub struct Sink {
    /// For progress: `delivered` counts events, `foreign` those without a marker.
    pub counters: Counters,
    /// What goes wrong.
    pub faults: FaultPlan,
    /// Cancelled once so many different elements were taken as are wanted: whoever waits for them is not woken by each batch.
    pub has_enough: CancellationToken,
    enough: u64,
    taken: Mutex<Taken>,
    clock_tag: u32,
}

impl Sink {
    /// A sink with these books, which what it takes is added to, in the journal first. `enough` different elements are wanted, those
    /// in the books included; without a number there are never enough.
    #[must_use]
    pub fn new(faults: FaultPlan, books: Books, journal: Option<Journal>, enough: Option<u64>) -> Self {
        let taken = Taken {
            books,
            latencies: Latencies::default(),
            businesses: BTreeMap::new(),
            batches: 0,
            first_at_ns: 0,
            journal,
        };
        let sink = Self {
            counters: Counters::default(),
            faults,
            has_enough: CancellationToken::new(),
            enough: enough.unwrap_or(u64::MAX),
            taken: Mutex::new(taken),
            clock_tag: clock_tag(),
        };
        sink.count_up(&sink.taken().books);
        sink
    }

    fn count_up(&self, books: &Books) {
        if books.received() >= self.enough {
            self.has_enough.cancel();
        }
    }

    /// What it has taken. No batch is taken while this is held.
    pub fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a batch: its elements are in the journal when this returns.
    fn take(&self, events: &EventBatch) -> io::Result<()> {
        let now_ns = now_ns();
        let batch = Batch::read(events);
        let taken = &mut *self.taken();
        write(taken.journal.as_mut(), &batch.markers)?;
        taken.count(&batch, now_ns, self.clock_tag);
        Counters::add(&self.counters.delivered, events.len() as u64);
        Counters::add(&self.counters.delivered_bytes, batch.body_bytes);
        Counters::add(&self.counters.foreign, (events.len() - batch.markers.len()) as u64);
        self.counters.last_delivery_ns.store(now_ns, Relaxed);
        self.count_up(&taken.books);
        Ok(())
    }
}

/// What is read from a batch before the books are opened for it, for other batches are read meanwhile.
struct Batch<'a> {
    /// Of its elements, without those that have none.
    markers: Vec<Marker>,
    body_bytes: u64,
    /// Businesses and how many events of each come together: a batch is for one business as a rule.
    businesses: Vec<(&'a [u8], u64)>,
}

impl<'a> Batch<'a> {
    fn read(events: &'a EventBatch) -> Self {
        let mut batch =
            Self { markers: Vec::with_capacity(events.len()), body_bytes: 0, businesses: Vec::new() };
        let mut near = 0;
        for event in events.iter() {
            batch.body_bytes += event.body().len() as u64;
            if let Some(marker) = Marker::find_near(event.body(), &mut near) {
                batch.markers.push(marker);
            }
            let business = event.header(b"businessName").unwrap_or_default();
            match batch.businesses.last_mut() {
                Some((of, count)) if *of == business => *count += 1,
                _ => batch.businesses.push((business, 1)),
            }
        }
        batch
    }
}

/// Elements of one run most often come together.
fn write(journal: Option<&mut Journal>, markers: &[Marker]) -> io::Result<()> {
    let Some(journal) = journal else { return Ok(()) };
    markers.chunk_by(|left, right| left.run_id == right.run_id).try_for_each(|of_run| {
        let sequences = of_run.iter().map(|marker| marker.sequence..=marker.sequence);
        journal.elements(Event::Received, of_run[0].run_id, sequences)
    })
}

impl Taken {
    fn count(&mut self, batch: &Batch<'_>, now_ns: u64, clock_tag: u32) {
        if self.batches == 0 {
            self.first_at_ns = now_ns;
        }
        self.batches += 1;
        // Those that were pushed together are recorded together.
        for together in batch.markers.chunk_by(|left, right| left.pushed_at_ns == right.pushed_at_ns) {
            let mut firsts = 0;
            for marker in together {
                let first = self.books.receive(marker.run_id, marker.sequence);
                // A repetition says nothing about how long an element took, another machine's clock neither.
                firsts += u64::from(first && marker.clock_tag == clock_tag);
            }
            if firsts > 0 {
                self.latencies.record(now_ns.saturating_sub(together[0].pushed_at_ns), firsts);
            }
        }
        for (business, count) in &batch.businesses {
            let business = String::from_utf8_lossy(business);
            if let Some(counted) = self.businesses.get_mut(&*business) {
                *counted += count;
            } else if self.businesses.len() < BUSINESSES_MAX {
                self.businesses.insert(business.into_owned(), *count);
            }
        }
    }
}

impl Handler for Sink {
    fn accepts(&self, connection: u64) -> bool {
        self.faults.accepts(connection)
    }

    async fn handle(&self, incoming: Incoming) -> Answer {
        let faults = self.faults.faults();
        if !faults.delay.is_zero() {
            tokio::time::sleep(faults.delay).await;
        }
        let fault = self.faults.next();
        match fault {
            Fault::Fail => return Answer::Status(faults.fail_with),
            Fault::Drop => return Answer::Drop,
            Fault::Stall => return Answer::Silence,
            Fault::None | Fault::LoseAnswer => {}
        }
        if let Err(error) = self.take(&incoming.events) {
            tracing::error!("cannot write the ledger, batches are refused: {error}");
            return Answer::Status(Status::Failed);
        }
        if fault == Fault::LoseAnswer { Answer::Drop } else { Answer::Status(Status::Ok) }
    }
}
