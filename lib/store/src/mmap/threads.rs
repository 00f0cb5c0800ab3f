//! The threads of an open log.
//!
//! | thread | does |
//! |---|---|
//! | `kiteq-log` | everything that is written, and the `done` closures of it |
//! | `kiteq-read` | loads |
//! | `kiteq-files` | names of files: preparing and removing segments |
//! | `kiteq-sync` | syncs that nobody waits for, and looking for messages to copy |

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::engine::{Engine, Event, Shared};
use super::reader::{self, Load};
use super::recovery::RecoveredLog;
use super::tasks::{Helper, Outcome, Prepared, Task, carry_out};
use super::time::Clock;
use crate::error::StoreError;
use crate::mailbox::{Mailbox, Taken, lock};

/// Loads answered in one go, so that the first answer of many does not wait for all.
const LOADS_MAX: usize = 64;

/// A log that is written to and read from.
pub(crate) struct Threads {
    pub(crate) events: Arc<Mailbox<Event>>,
    pub(crate) loads: Arc<Mailbox<Load>>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    pub(crate) fn start(
        shared: &Arc<Shared>,
        recovered: RecoveredLog,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let threads = Self {
            events: Arc::new(Mailbox::new()),
            loads: Arc::new(Mailbox::new()),
            handles: Mutex::new(Vec::new()),
        };
        let files = Arc::new(Mailbox::new());
        let syncs = Arc::new(Mailbox::new());
        let prepared = Arc::new(PreparedSlot::default());
        for (name, tasks) in [("kiteq-files", &files), ("kiteq-sync", &syncs)] {
            let (tasks, shared) = (tasks.clone(), shared.clone());
            let (events, prepared) = (threads.events.clone(), prepared.clone());
            threads.spawn(shared.clone(), name, move || help(&tasks, &shared, &events, &prepared))?;
        }
        let helper = HelperThreads { files, syncs, prepared };
        let engine = Engine::start(shared.clone(), recovered, Box::new(helper), clock.now());
        let events = threads.events.clone();
        threads.spawn(shared.clone(), "kiteq-log", move || write(engine, &events, clock))?;
        let loads = threads.loads.clone();
        let reader = shared.clone();
        threads.spawn(shared.clone(), "kiteq-read", move || read(&loads, &reader))?;
        Ok(threads)
    }

    fn spawn(
        &self,
        shared: Arc<Shared>,
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), StoreError> {
        let ended = EndOnExit { events: self.events.clone(), loads: self.loads.clone(), shared };
        let handle = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let _ended = ended;
                body();
            })
            .map_err(|error| StoreError::Unavailable {
                place: name.to_owned(),
                reason: format!("no thread could be started: {error}"),
            })?;
        lock(&self.handles).push(handle);
        Ok(())
    }

    /// Ends all threads when they have done what waits for them. A closure may do this on a thread of the log; that one
    /// then ends a little later.
    pub(crate) fn end(&self) {
        self.events.end();
        self.loads.end();
        let handles = std::mem::take(&mut *lock(&self.handles));
        // Started first, the helpers end last: the writer tells them to, and it waits for nobody.
        for handle in handles.into_iter().rev() {
            if handle.thread().id() != thread::current().id() {
                // A panic was reported when it happened, by EndOnExit.
                let _ = handle.join();
            }
        }
    }
}

/// Callers must get answers, not silence, also when a thread of the log panicked.
struct EndOnExit {
    events: Arc<Mailbox<Event>>,
    loads: Arc<Mailbox<Load>>,
    shared: Arc<Shared>,
}

impl Drop for EndOnExit {
    fn drop(&mut self) {
        if thread::panicking() {
            let place = self.shared.disk.place();
            let reason = "a thread of the store panicked".to_owned();
            lock(&self.shared.health).failure = Some(StoreError::Poisoned { place, reason });
            self.events.end();
            self.loads.end();
        }
    }
}

fn write(mut engine: Engine, events: &Mailbox<Event>, clock: Clock) {
    let mut batch = Vec::new();
    loop {
        let timeout = engine.wake_at().map(|at| at.saturating_sub(clock.now().monotonic));
        if events.take(&mut batch, timeout) == Taken::Ended {
            break;
        }
        engine.run(&mut batch, clock.now());
    }
    if let Err(error) = engine.close() {
        tracing::error!(%error, "the log could not be closed");
    }
}

fn read(loads: &Mailbox<Load>, shared: &Shared) {
    let mut waiting = Vec::new();
    let mut batch = Vec::new();
    while loads.take(&mut waiting, None) == Taken::Items {
        while !waiting.is_empty() {
            batch.extend(waiting.drain(..waiting.len().min(LOADS_MAX)));
            reader::answer(shared, &mut batch);
        }
    }
}

fn help(tasks: &Mailbox<Task>, shared: &Shared, events: &Mailbox<Event>, prepared: &PreparedSlot) {
    /// Nobody must wait for a thread that is gone.
    struct AnswerOnExit<'a>(&'a PreparedSlot);
    impl Drop for AnswerOnExit<'_> {
        fn drop(&mut self) {
            self.0.put(Err("the thread that prepares segments has ended".to_owned()));
        }
    }
    let _answer = AnswerOnExit(prepared);
    let mut waiting = Vec::new();
    while tasks.take(&mut waiting, None) == Taken::Items {
        for task in waiting.drain(..) {
            let event = match carry_out(task, &*shared.disk, &shared.index) {
                Outcome::Prepared(result) => {
                    prepared.put(result);
                    Event::Wake
                }
                outcome => Event::Outcome(outcome),
            };
            // A closed log does not want to know.
            let _ = events.push(event);
        }
    }
}

/// Where the writer waits for its next segment.
#[derive(Default)]
struct PreparedSlot {
    result: Mutex<Option<Result<Prepared, String>>>,
    arrived: Condvar,
}

impl PreparedSlot {
    fn put(&self, result: Result<Prepared, String>) {
        *lock(&self.result) = Some(result);
        self.arrived.notify_all();
    }
}

struct HelperThreads {
    files: Arc<Mailbox<Task>>,
    syncs: Arc<Mailbox<Task>>,
    prepared: Arc<PreparedSlot>,
}

impl Helper for HelperThreads {
    fn start(&mut self, task: Task) {
        let mailbox = match task {
            Task::Prepare { .. } | Task::Retire { .. } => &self.files,
            Task::Sync { .. } | Task::Collect(_) => &self.syncs,
        };
        // The mailboxes end with this helper.
        let _ = mailbox.push(task);
    }

    fn prepared(&mut self) -> Option<Result<Prepared, String>> {
        lock(&self.prepared.result).take()
    }

    fn wait_prepared(&mut self) -> Result<Prepared, String> {
        let mut result = lock(&self.prepared.result);
        loop {
            if let Some(result) = result.take() {
                return result;
            }
            result = self.prepared.arrived.wait(result).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for HelperThreads {
    fn drop(&mut self) {
        self.files.end();
        self.syncs.end();
    }
}
