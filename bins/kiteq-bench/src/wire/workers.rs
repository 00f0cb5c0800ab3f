//! The threads of the engine: one single-threaded runtime each, with its share of the connections.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;

use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use crate::latency::Latencies;
use crate::ledger::Ledger;
use crate::wire::connection::{Scratch, WireError, scratch};
use crate::wire::counters::Counters;

/// What all connections of a run share.
#[derive(Debug)]
pub struct Run {
    /// Names the run's messages.
    pub run_id: u64,
    /// Progress.
    pub counters: Counters,
    /// Latencies count for messages that were to be sent at or after this, ns of the monotonic clock.
    pub measure_from_ns: AtomicU64,
    /// Producers stop publishing and wait for the acks that are outstanding.
    pub stop_publishing: CancellationToken,
    /// Everybody leaves at once; what is outstanding is in doubt.
    pub leave: CancellationToken,
    /// Which message reached whom, when that is to be verified.
    pub ledger: Option<Arc<Ledger>>,
    /// Connections that are established.
    pub connected: watch::Sender<usize>,
    /// Nobody sends before this: connecting is not part of a measurement.
    pub go: CancellationToken,
    /// Producers that have published all they were to and have every ack.
    pub producers_done: watch::Sender<usize>,
}

impl Run {
    /// A run with a fresh id that measures from the start.
    #[must_use]
    pub fn new(ledger: Option<Arc<Ledger>>) -> Arc<Self> {
        let run_id = ledger.as_ref().map_or_else(|| fastrand::u64(1..), |ledger| ledger.run_id());
        Arc::new(Self {
            run_id,
            counters: Counters::default(),
            measure_from_ns: AtomicU64::new(0),
            stop_publishing: CancellationToken::new(),
            leave: CancellationToken::new(),
            ledger,
            connected: watch::Sender::new(0),
            go: CancellationToken::new(),
            producers_done: watch::Sender::new(0),
        })
    }

    /// Reports a connection as established and waits for the start.
    pub async fn line_up(&self) {
        self.connected.send_modify(|connected| *connected += 1);
        tokio::select! {
            () = self.go.cancelled() => {}
            () = self.leave.cancelled() => {}
        }
    }

    /// Whether a message that was to be sent then counts.
    #[must_use]
    pub fn measures(&self, sent_at_ns: u64) -> bool {
        sent_at_ns >= self.measure_from_ns.load(Relaxed)
    }
}

/// Latencies of one thread, merged at the end of a run.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// From the intended send to the ack.
    pub publish: Latencies,
    /// From the intended send to the receipt by a consumer.
    pub end_to_end: Latencies,
}

impl Measured {
    /// Adds what another thread measured.
    pub fn merge(&mut self, other: &Self) {
        self.publish.merge(&other.publish);
        self.end_to_end.merge(&other.end_to_end);
    }
}

/// What a connection needs of its thread.
#[derive(Debug, Clone)]
pub struct Local {
    /// The run.
    pub run: Arc<Run>,
    /// The thread's read buffer.
    pub scratch: Scratch,
    /// The thread's latencies.
    pub measured: Rc<RefCell<Measured>>,
}

/// The threads, at work.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<Result<Measured, WireError>>>,
}

impl Workers {
    /// Starts `threads` threads. `connection(index)` makes the task of a connection; `index` runs from 0 to `connections`,
    /// dealt out to the threads in turn. The first error makes everybody leave.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start<Task, Made>(
        run: &Arc<Run>,
        threads: usize,
        connections: usize,
        connection: Made,
    ) -> std::io::Result<Self>
    where
        Made: Fn(Local, usize) -> Task + Send + Clone + 'static,
        Task: Future<Output = Result<(), WireError>> + 'static,
    {
        let threads = threads.clamp(1, connections.max(1));
        let start = |thread: usize| {
            let (run, connection) = (Arc::clone(run), connection.clone());
            let indices = (thread..connections).step_by(threads);
            std::thread::Builder::new()
                .name(format!("bench-{thread}"))
                .spawn(move || work(run, indices, connection))
        };
        Ok(Self { threads: (0..threads).map(start).collect::<Result<_, _>>()? })
    }

    /// Whether all threads have ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits for the threads, which blocks, and gives what they measured or the first error.
    ///
    /// # Errors
    /// The first connection's error.
    pub fn join(self) -> Result<Measured, WireError> {
        let mut all = Measured::default();
        let mut first_error = None;
        for thread in self.threads {
            match thread.join() {
                Ok(Ok(measured)) => all.merge(&measured),
                Ok(Err(error)) => first_error = first_error.or(Some(error)),
                // A panic is a bug of this tool: pass it on rather than report figures.
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        first_error.map_or(Ok(all), Err)
    }
}

fn work<Task, Made>(
    run: Arc<Run>,
    indices: impl Iterator<Item = usize>,
    connection: Made,
) -> Result<Measured, WireError>
where
    Made: Fn(Local, usize) -> Task,
    Task: Future<Output = Result<(), WireError>> + 'static,
{
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(WireError::Timer)?;
    let local = Local { run, scratch: scratch(), measured: Rc::default() };
    let tasks = LocalSet::new();
    let handles: Vec<_> = indices
        .map(|index| tasks.spawn_local(guard(local.clone(), connection(local.clone(), index))))
        .collect();
    runtime.block_on(tasks.run_until(async {
        let mut first_error = None;
        for handle in handles {
            match handle.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => first_error = first_error.or(Some(error)),
                Err(join) => std::panic::resume_unwind(join.into_panic()),
            }
        }
        first_error.map_or(Ok(()), Err)
    }))?;
    Ok(local.measured.borrow().clone())
}

/// Runs one connection's task; its error ends the run for everybody.
async fn guard(local: Local, task: impl Future<Output = Result<(), WireError>>) -> Result<(), WireError> {
    let result = task.await;
    if result.is_err() {
        local.run.stop_publishing.cancel();
        local.run.leave.cancel();
    }
    result
}
