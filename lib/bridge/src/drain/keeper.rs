//! What a drain writes to Redis: settled claims, dead letters, parked elements.
//!
//! On a connection of its own, so that none of it waits behind claims that are not being read. Jobs that wait are written together.
//! Every job may be done twice, so one whose reply was lost is done again; one that Redis refuses is kept and tried again, and its
//! elements stay in their claim until it is done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kiteq_telemetry::{Importance, Shutdown};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::ClaimMode;
use crate::drain::claims::{Range, Settlement, Span, Spans};
use crate::drain::outage::Outage;
use crate::redis::{Connection, Dialer, Keys, Owner, RedisError, Refusal, Reply, Script, Scripts, unix_ms};

/// Jobs that are written before their replies are read.
const JOBS_AT_ONCE: usize = 64;
/// How long a refused job waits.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Something to be written.
#[derive(Debug)]
pub(crate) enum Job {
    /// These heads of claims are done.
    Settle(Vec<Settlement>),
    /// Dead letters of these elements.
    Dead { letters: Vec<Vec<u8>>, spans: Spans },
    /// The dead letter of an element that stays in Redis.
    Oversize { span: Span, claim: u64, place: i64, letter: Vec<u8> },
    /// Elements of a claim that wait for sinks of a business.
    Park { lane: usize, claim: u64, spans: Vec<Span>, ranges: Vec<Range> },
    /// The same without a claim to copy them from.
    ParkValues { lane: usize, values: Vec<Vec<u8>>, spans: Spans },
    /// How many dead letters there are.
    CountDead,
    /// How many elements are parked for a business.
    CountParked { lane: usize },
}

/// A job that Redis has answered, and its number: a length, or one that the script explains.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) job: Job,
    pub(crate) answer: i64,
}

/// What the keeper has to know.
pub(crate) struct KeeperContext {
    pub(crate) dialer: Dialer,
    pub(crate) keys: Keys,
    pub(crate) owner: Owner,
    pub(crate) mode: ClaimMode,
    /// Names of the lanes' businesses.
    pub(crate) businesses: Vec<String>,
    pub(crate) parked_max: u64,
}

/// The drain's end. Neither channel holds more than the drain has claims, letters and parked elements that are not done, which
/// are bounded by its claims in flight; so they have no bound of their own that could lock the two ends together.
pub(crate) struct Keeper {
    jobs: mpsc::UnboundedSender<Job>,
    pub(crate) kept: mpsc::UnboundedReceiver<Kept>,
    end: CancellationToken,
}

impl Keeper {
    pub(crate) fn start(context: KeeperContext, shutdown: &Shutdown) -> Self {
        let (jobs, inbox) = mpsc::unbounded_channel();
        let (outbox, kept) = mpsc::unbounded_channel();
        let end = CancellationToken::new();
        let outage = Outage::of_refusals(&context.dialer.address, "settling of queue", &context.keys.queue);
        let worker = Worker { context: Arc::new(context), inbox, outbox, held: Vec::new(), outage };
        let until = end.clone();
        shutdown.spawn("keeper", Importance::Essential, async move {
            // Cancelled, what is not answered stays in its claim.
            let _ = until.run_until_cancelled(worker.run()).await;
        });
        Self { jobs, kept, end }
    }

    /// Has something written; the answer comes through `kept`.
    pub(crate) fn give(&self, job: Job) {
        // It is received until the end; what is given after that stays in its claim.
        let _ = self.jobs.send(job);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

struct Worker {
    context: Arc<KeeperContext>,
    inbox: mpsc::UnboundedReceiver<Job>,
    outbox: mpsc::UnboundedSender<Kept>,
    /// Refused, and when to try again.
    held: Vec<(Instant, Job)>,
    outage: Outage,
}

impl Worker {
    async fn run(mut self) {
        let mut jobs = Vec::new();
        let mut connected = None;
        while self.next_jobs(&mut jobs).await {
            while !jobs.is_empty() {
                match self.write(&mut connected, &mut jobs).await {
                    Ok(()) => self.outage.over(),
                    Err(error) => {
                        connected = None;
                        tokio::time::sleep(self.outage.failed(&error)).await;
                    }
                }
            }
        }
    }

    /// Waits for jobs, new ones or ones that are due again. False once the drain is gone.
    async fn next_jobs(&mut self, jobs: &mut Vec<Job>) -> bool {
        let due = self.held.iter().map(|(at, _)| *at).min();
        let wake = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let open = tokio::select! {
            count = self.inbox.recv_many(jobs, JOBS_AT_ONCE) => count > 0,
            () = wake => true,
        };
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.held).into_iter().partition(|(at, _)| *at <= now);
        self.held = later;
        let due: Vec<(Instant, Job)> = due;
        jobs.extend(due.into_iter().map(|(_, job)| job));
        open
    }

    /// Writes all jobs and reads their replies. On an error `jobs` are those without one.
    async fn write(
        &mut self,
        connected: &mut Option<(Connection, Scripts)>,
        jobs: &mut Vec<Job>,
    ) -> Result<(), RedisError> {
        if connected.is_none() {
            let mut connection = self.context.dialer.connect().await?;
            let scripts = match self.context.mode {
                ClaimMode::Script => Scripts::load(&mut connection).await?,
                ClaimMode::Pop => Scripts::default(),
            };
            *connected = Some((connection, scripts));
        }
        let Some((connection, scripts)) = connected else { return Ok(()) };
        for job in jobs.iter() {
            self.context.queue(job, connection, scripts);
        }
        connection.flush().await?;
        let mut unanswered = std::mem::take(jobs).into_iter();
        while let Some(job) = unanswered.next() {
            match self.answer(job, connection.reply().await) {
                Ok(()) => {}
                Err((job, error)) => {
                    jobs.push(job);
                    jobs.extend(unanswered);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, job: Job, reply: Result<Reply, RedisError>) -> Result<(), (Job, RedisError)> {
        match reply {
            Ok(Reply::Error(refusal)) if refusal.wants_scripts() || is_passing(&refusal) => {
                let command = job_command(&job);
                Err((job, RedisError::Refused { command, refusal }))
            }
            Ok(Reply::Error(refusal)) => {
                self.outage.refused(job_command(&job), &refusal);
                self.held.push((Instant::now() + RETRY_AFTER, job));
                Ok(())
            }
            Ok(reply) => {
                let answer = reply.integer().unwrap_or_default();
                // The drain may be gone; then nobody asks.
                let _ = self.outbox.send(Kept { job, answer });
                Ok(())
            }
            Err(error) => Err((job, error)),
        }
    }
}

/// Whether every command is refused, for a while: nothing of what waits would fare better.
fn is_passing(refusal: &Refusal) -> bool {
    matches!(
        refusal.kind(),
        "LOADING" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY" | "NOAUTH" | "MOVED"
    )
}

fn job_command(job: &Job) -> &'static str {
    match job {
        Job::Settle(_) => "settling claims",
        Job::Dead { .. } | Job::Oversize { .. } => "writing a dead letter",
        Job::Park { .. } | Job::ParkValues { .. } => "parking elements",
        Job::CountDead | Job::CountParked { .. } => "counting",
    }
}

impl KeeperContext {
    fn queue(&self, job: &Job, connection: &mut Connection, scripts: &Scripts) {
        match job {
            Job::Settle(settled) => self.queue_settle(settled, connection, scripts),
            Job::Dead { letters, .. } => push(connection, &self.keys.dead(), letters),
            Job::Oversize { claim, place, letter, .. } => {
                let keys = [self.claim_key(*claim), self.keys.dead(), self.keys.dead_oversize()];
                let place = place.to_string();
                scripts.queue(connection, Script::Oversize, &refs(&keys), &[place.as_bytes(), letter]);
            }
            Job::Park { lane, claim, ranges, .. } => {
                self.queue_park(*lane, *claim, ranges, connection, scripts);
            }
            Job::ParkValues { lane, values, .. } => {
                push(connection, &self.keys.parked(&self.businesses[*lane]), values);
            }
            Job::CountDead => connection.queue(&[b"LLEN", self.keys.dead().as_bytes()]),
            Job::CountParked { lane } => {
                connection.queue(&[b"LLEN", self.keys.parked(&self.businesses[*lane]).as_bytes()]);
            }
        }
    }

    fn claim_key(&self, claim: u64) -> String {
        self.keys.claim(&self.owner.claim(claim))
    }

    fn queue_settle(&self, settled: &[Settlement], connection: &mut Connection, scripts: &Scripts) {
        let mut keys = vec![self.keys.claims()];
        let mut arguments = Vec::new();
        for Settlement { claim, keep, .. } in settled {
            keys.push(self.claim_key(*claim));
            arguments.extend([self.owner.claim(*claim), keep.to_string()]);
        }
        let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
        scripts.queue(connection, Script::Settle, &refs(&keys), &arguments);
    }

    fn queue_park(
        &self,
        lane: usize,
        claim: u64,
        ranges: &[Range],
        connection: &mut Connection,
        scripts: &Scripts,
    ) {
        let business = &self.businesses[lane];
        let keys = [self.claim_key(claim), self.keys.parked(business), self.keys.parked_businesses()];
        let mut arguments = vec![self.parked_max.to_string(), business.clone(), unix_ms().to_string()];
        for (first, last) in ranges {
            arguments.extend([first.to_string(), last.to_string()]);
        }
        let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
        scripts.queue(connection, Script::Park, &refs(&keys), &arguments);
    }
}

fn refs(keys: &[String]) -> Vec<&str> {
    keys.iter().map(String::as_str).collect()
}

fn push(connection: &mut Connection, key: &str, values: &[Vec<u8>]) {
    connection.queue_header(2 + values.len());
    connection.queue_word(b"RPUSH");
    connection.queue_word(key.as_bytes());
    values.iter().for_each(|value| connection.queue_word(value));
}
