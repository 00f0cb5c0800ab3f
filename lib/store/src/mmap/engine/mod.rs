//! Carries out commands, a batch at a time. Synchronous and without threads of its own, so that a test can drive it step
//! by step against a simulated disk.
//!
//! A batch goes through four steps: every command changes the index and encodes its records (one lock for all of them);
//! the records are written, and synced when the store promises that and somebody waits for it; if that failed, what the
//! batch changed is taken back; the commands' `done` closures run.

mod batch;
mod commands;
mod housekeeping;
mod letters;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kiteq_protocol::{Message, MessageId};

use super::disk::Disk;
use super::index::{Aside, Index, Place};
use super::log::Log;
pub(crate) use super::log::Purpose;
use super::options::{MmapOptions, SyncMode};
use super::recovery::RecoveredLog;
use super::tasks::{Helper, Outcome};
use super::time::Now;
use crate::command::Command;
use crate::error::StoreError;
use crate::held::{AppendOutcome, Done, Revived, VerdictOutcome};
use crate::mailbox::lock;
use housekeeping::Housekeeping;

/// What the writer shares with everybody else.
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: MmapOptions,
    pub(crate) index: Mutex<Index>,
    pub(crate) health: Mutex<Health>,
}

/// Why appends would fail now.
#[derive(Debug, Default)]
pub(crate) struct Health {
    pub(crate) failure: Option<StoreError>,
    pub(crate) disk_full: Option<StoreError>,
    pub(crate) closed: bool,
}

/// Work for the writer.
pub(crate) enum Event {
    Command(Command),
    /// A helper finished a task.
    Outcome(Outcome),
    /// Nothing, but look whether there is something to do.
    Wake,
}

/// A command that is done but for its batch's write, and its closure.
enum Completion {
    Append {
        results: Vec<(Message, AppendOutcome)>,
        done: Done<Vec<(Message, AppendOutcome)>>,
    },
    Decide {
        ids: Vec<MessageId>,
        outcomes: Vec<VerdictOutcome>,
        done: Done<Vec<VerdictOutcome>>,
    },
    Revive {
        revived: Vec<Revived>,
        done: Done<Vec<Revived>>,
    },
    Purge {
        count: usize,
        done: Done<usize>,
    },
    Barrier {
        done: Done<Result<(), StoreError>>,
    },
    Close {
        done: Done<Result<(), StoreError>>,
    },
    /// Came after the end.
    Refused(Command),
}

/// A message that was copied, and moves when the copy is written.
struct Relocation {
    slot: u32,
    from: Place,
    to: Place,
    record_len: usize,
    /// What was known aside when it was copied.
    aside: Option<Aside>,
    /// Whether the copy says it too.
    with_state: bool,
}

pub(crate) struct Engine {
    shared: Arc<Shared>,
    log: Log,
    helper: Box<dyn Helper>,
    now: Now,
    /// The batch must be durable before its closures run.
    promised: bool,
    completions: Vec<Completion>,
    relocations: Vec<Relocation>,
    housekeeping: Housekeeping,
    /// Reused for the ids of one command.
    ids: Vec<MessageId>,
    /// Length of the last record for which the disk had no room.
    refused_record_len: usize,
    /// Nothing is accepted any more.
    closing: bool,
    closed: bool,
}

/// The index, locked while commands use it and free while files are worked on.
struct Held<'a> {
    mutex: &'a Mutex<Index>,
    guard: Option<MutexGuard<'a, Index>>,
}

impl<'a> Held<'a> {
    fn new(mutex: &'a Mutex<Index>) -> Self {
        Self { mutex, guard: None }
    }

    fn index(&mut self) -> &mut Index {
        self.guard.get_or_insert_with(|| lock(self.mutex))
    }

    fn release(&mut self) {
        self.guard = None;
    }
}

impl Engine {
    /// Starts writing after what was recovered. The recovered index is in `shared` already.
    pub(crate) fn start(
        shared: Arc<Shared>,
        recovered: RecoveredLog,
        helper: Box<dyn Helper>,
        now: Now,
    ) -> Self {
        let RecoveredLog { index, next_lsn, next_number, spares } = recovered;
        *lock(&shared.index) = index;
        let log = Log::new(&shared.options, shared.disk.place(), next_number, next_lsn, spares, now);
        let mut engine = Self {
            shared,
            log,
            helper,
            now,
            promised: false,
            completions: Vec::new(),
            relocations: Vec::new(),
            housekeeping: Housekeeping::default(),
            ids: Vec::new(),
            refused_record_len: 0,
            closing: false,
            closed: false,
        };
        engine.housekeep();
        engine
    }

    /// Carries out a batch and runs its closures.
    pub(crate) fn run(&mut self, events: &mut Vec<Event>, now: Now) {
        self.now = now;
        self.log.set_now(now);
        let shared = self.shared.clone();
        let mut held = Held::new(&shared.index);
        held.index().dedupe.turn(now.monotonic);
        let failed_before = self.log.failure().is_some();
        for event in events.drain(..) {
            match event {
                Event::Command(command) if self.closing => {
                    self.completions.push(Completion::Refused(command));
                }
                Event::Command(command) => self.command(&mut held, command),
                Event::Outcome(outcome) => self.outcome(&mut held, outcome),
                Event::Wake => {}
            }
        }
        held.release();
        self.finish(failed_before);
        self.housekeep();
    }

    /// When [`Engine::run`] must be called at the latest, also when there is nothing to do.
    pub(crate) fn wake_at(&self) -> Option<Duration> {
        // After a failure nothing is looked after any more.
        if self.closed || self.log.failure().is_some() {
            return None;
        }
        [self.log.retry_at(), self.housekeeping.check_at, self.sync_due_at()].into_iter().flatten().min()
    }

    /// Ends the log as after [`Command::Close`].
    pub(crate) fn close(&mut self) -> Result<(), StoreError> {
        self.closing = true;
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        let result = self.log.close();
        lock(&self.shared.health).closed = true;
        result
    }

    fn syncs_batches(&self) -> bool {
        self.shared.options.sync == SyncMode::Group
    }
}
