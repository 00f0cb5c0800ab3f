//! The threads of an open log.
//!
//! | thread | does |
//! |---|---|
//! | `kiteq-log` | everything that is written, and the `done` closures of it, where the caller's thread does not do it |
//! | `kiteq-read` | loads |
//! | `kiteq-files` | names of files: preparing and removing segments |
//! | `kiteq-sync` | syncs that nobody waits for, and looking for messages to copy |

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::engine::{Engine, Event, Shared};
use super::reader::{self, Load};
use super::recovery::RecoveredLog;
use super::tasks::{Helper, Outcome, Prepared, Task, carry_out};
use super::time::Clock;
use crate::error::StoreError;
use crate::mailbox::{Mailbox, Taken, lock};

/// Loads answered in one go, so that the first answer of many does not wait for all.
const LOADS_MAX: usize = 64;

/// Rounds of work that a caller does on its own thread before it leaves the rest to `kiteq-log`.
const CALLER_ROUNDS_MAX: usize = 2;

/// A log that is written to and read from.
pub(crate) struct Threads {
    events: Arc<Mailbox<Event>>,
    writer: Arc<Mutex<Writer>>,
    shared: Arc<Shared>,
    pub(crate) loads: Arc<Mailbox<Load>>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    pub(crate) fn start(
        shared: &Arc<Shared>,
        recovered: RecoveredLog,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let writer = Writer { engine: None, batch: Vec::new(), clock };
        let threads = Self {
            events: Arc::new(Mailbox::new()),
            writer: Arc::new(Mutex::new(writer)),
            shared: shared.clone(),
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
        lock(&threads.writer).engine = Some(engine);
        let (events, writer) = (threads.events.clone(), threads.writer.clone());
        threads.spawn(shared.clone(), "kiteq-log", move || write(&writer, &events))?;
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

    /// Gives work to `kiteq-log`, or gives it back when the log has ended.
    pub(crate) fn push(&self, event: Event) -> Result<(), Event> {
        self.events.push(event)
    }

    /// Does work on the caller's thread if nobody else is writing, and leaves it to `kiteq-log` otherwise. To wake a
    /// thread and to be woken by it takes longer than to write a batch that is not synced.
    pub(crate) fn push_and_help(&self, event: Event) -> Result<(), Event> {
        self.events.push_quietly(event)?;
        let Ok(mut writer) = self.writer.try_lock() else {
            // Whoever writes may have looked for work for the last time.
            self.events.wake();
            return Ok(());
        };
        let _ended =
            EndOnExit { events: self.events.clone(), loads: self.loads.clone(), shared: self.shared.clone() };
        let known_wake_at = writer.wake_at();
        let mut is_done = false;
        for _ in 0..CALLER_ROUNDS_MAX {
            is_done = !writer.run_waiting(&self.events);
            if is_done {
                break;
            }
        }
        if !is_done || writer.wake_at() != known_wake_at {
            self.events.wake();
        }
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

/// The one that writes, whichever thread it is. Work is taken from the mailbox only by who holds it, so that it is done in
/// the order of the calls.
struct Writer {
    /// `None` before the start and after the end.
    engine: Option<Engine>,
    batch: Vec<Event>,
    clock: Clock,
}

impl Writer {
    /// Does what waits; says whether there was anything.
    fn run_waiting(&mut self, events: &Mailbox<Event>) -> bool {
        let has_work = self.engine.is_some() && events.take_now(&mut self.batch);
        if has_work {
            self.run();
        }
        has_work
    }

    fn run(&mut self) {
        if let Some(engine) = &mut self.engine {
            engine.run(&mut self.batch, self.clock.now());
        }
    }

    fn wake_at(&self) -> Option<Duration> {
        self.engine.as_ref().and_then(Engine::wake_at)
    }
}

fn write(writer: &Mutex<Writer>, events: &Mailbox<Event>) {
    loop {
        let timeout = {
            let writer = lock(writer);
            writer.wake_at().map(|at| at.saturating_sub(writer.clock.now().monotonic))
        };
        if events.wait(timeout) == Taken::Ended {
            break;
        }
        let mut writer = lock(writer);
        if !writer.run_waiting(events) {
            // Its time has come, or a caller did the work and left something to look at.
            writer.run();
        }
    }
    let engine = lock(writer).engine.take();
    if let Some(mut engine) = engine
        && let Err(error) = engine.close()
    {
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
