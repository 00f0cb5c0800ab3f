//! `mmap://`: messages in a segmented log on the local disk.
//!
//! What is on the disk is in [`codec`], what is in memory in [`index`], who does what in [`threads`], what happens to a
//! command in [`engine`], what happens at start in [`recovery`], and how old segments go in [`compaction`].
//!
//! # What is durable when
//!
//! | | sync=group | sync=os | sync=interval |
//! |---|---|---|---|
//! | append, commit, revival, purge reported | on the disk | with the operating system | with the operating system, on the disk within the interval |
//! | settled, noted, killed, rolled back | with the operating system at the end of the batch; on the disk with the next batch that somebody waits for | the same, written back when the system likes | the same, within the interval |
//!
//! A message whose append was refused because a write or sync failed may be there after a restart all the same: nobody
//! knows how much of it reached the disk.

mod codec;
mod compaction;
mod disk;
mod engine;
mod files;
mod index;
mod log;
mod options;
mod read;
mod reader;
mod recovery;
#[cfg(test)]
mod simulation;
mod tasks;
mod threads;
mod time;

use std::sync::{Arc, Mutex, OnceLock};

use kiteq_protocol::{Message, MessageId, Payload};

use disk::FileSystemDisk;
use engine::{Event, Health, Shared};
use index::Index;
pub(crate) use options::MmapOptions;
use options::SyncMode;
use read::DeadLetterPlan;
use reader::Load;
use threads::Threads;
use time::Clock;

use crate::command::Command;
use crate::error::{OpenError, StoreError};
use crate::held::{
    AppendOutcome, DeadLetter, Done, GroupState, Kill, Loaded, Recovered, Revived, Slot, StoreStats, Verdict,
    VerdictOutcome,
};
use crate::mailbox::lock;
use crate::store::{MessageStore, barrier};

/// A caller writes so many messages on its own thread at most.
const CALLER_BATCH_MAX: usize = 16;

/// The store. Its directory is its own from the start; its log is read by [`MessageStore::recover`], or by the first
/// other call.
pub(crate) struct MmapStore {
    shared: Arc<Shared>,
    clock: Clock,
    threads: OnceLock<Result<Threads, StoreError>>,
}

impl MmapStore {
    pub(crate) fn open(options: MmapOptions) -> Result<Self, OpenError> {
        let disk = FileSystemDisk::open(&options.directory)
            .map_err(|reason| OpenError { uri: options.describe(), reason })?;
        Ok(Self {
            shared: Arc::new(Shared {
                index: Mutex::new(Index::new(options.dedupe)),
                health: Mutex::new(Health::default()),
                disk: Arc::new(disk),
                options,
            }),
            clock: Clock::start(),
            threads: OnceLock::new(),
        })
    }

    fn threads(&self) -> Result<&Threads, StoreError> {
        self.started(&mut |_| {})
    }

    fn started(&self, visit: &mut dyn FnMut(Recovered<'_>)) -> Result<&Threads, StoreError> {
        let threads = self.threads.get_or_init(|| {
            let Shared { disk, options, .. } = &*self.shared;
            let recovered = recovery::recover(&**disk, options, self.clock.now(), visit)?;
            Threads::start(&self.shared, recovered, self.clock)
        });
        threads.as_ref().map_err(Clone::clone)
    }

    fn push(&self, command: Command) {
        self.push_by(command, Threads::push);
    }

    /// For `count` things that somebody waits for. With `sync=group` the disk is waited for as well, and that is for
    /// `kiteq-log` to do; so are large batches, of which the caller has the next one to prepare meanwhile.
    fn push_urgent(&self, count: usize, command: Command) {
        if self.shared.options.sync == SyncMode::Group || count > CALLER_BATCH_MAX {
            self.push(command);
        } else {
            self.push_by(command, Threads::push_and_help);
        }
    }

    fn push_by(&self, command: Command, push: fn(&Threads, Event) -> Result<(), Event>) {
        let refused = match self.threads() {
            Ok(threads) => match push(threads, Event::Command(command)) {
                Err(Event::Command(command)) => Some((command, self.why_ended())),
                _ => None,
            },
            Err(error) => Some((command, error)),
        };
        if let Some((command, error)) = refused {
            command.refuse(&error);
        }
    }

    fn why_ended(&self) -> StoreError {
        let health = lock(&self.shared.health);
        if health.closed { StoreError::Closed } else { health.failure.clone().unwrap_or(StoreError::Closed) }
    }

    /// A dead letter; without its payload when that cannot be read any more, so that a person sees it all the same.
    fn read_letter(plan: &DeadLetterPlan) -> Result<DeadLetter, StoreError> {
        plan.read().or_else(|error| {
            let death = plan.death().map_err(|_| error.clone())?;
            tracing::warn!(%error, id = %plan.entry.id, "the message of a dead letter cannot be read");
            Ok(DeadLetter {
                id: plan.entry.id,
                kind: kiteq_protocol::MessageKind::Bytes,
                reason: death.reason,
                died_at: death.died_at,
                groups: death.groups,
                payload: Payload::default(),
            })
        })
    }
}

impl Drop for MmapStore {
    fn drop(&mut self) {
        if let Some(Ok(threads)) = self.threads.get() {
            threads.end();
        }
    }
}

impl MessageStore for MmapStore {
    fn describe(&self) -> String {
        self.shared.options.describe()
    }

    fn recover(&self, visit: &mut dyn FnMut(Recovered<'_>)) -> Result<(), StoreError> {
        self.started(visit).map(drop)
    }

    fn append(&self, messages: Vec<Message>, done: Done<Vec<(Message, AppendOutcome)>>) {
        self.push_urgent(messages.len(), Command::Append { messages, done });
    }

    fn decide(&self, verdicts: Vec<(MessageId, Verdict)>, done: Done<Vec<VerdictOutcome>>) {
        self.push_urgent(verdicts.len(), Command::Decide { verdicts, done });
    }

    fn settle(&self, slots: Vec<Slot>) {
        self.push(Command::Settle { slots });
    }

    fn note(&self, states: Vec<(Slot, Vec<GroupState>)>) {
        self.push(Command::Note { states });
    }

    fn kill(&self, dead: Vec<Kill>) {
        self.push(Command::Kill { dead });
    }

    fn load(&self, slots: Vec<Slot>, done: Done<Vec<Result<Loaded, StoreError>>>) {
        let refused = match self.threads() {
            Ok(threads) => {
                threads.loads.push(Load { slots, done }).err().map(|load| (load, self.why_ended()))
            }
            Err(error) => Some((Load { slots, done }, error)),
        };
        if let Some((Load { slots, done }, error)) = refused {
            Command::Load { slots, done }.refuse(&error);
        }
    }

    fn dead_letters(&self, after: Option<MessageId>, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        barrier(|done| self.push(Command::Barrier { done }))?;
        let plans: Vec<DeadLetterPlan> = {
            let index = lock(&self.shared.index);
            let slots = index.dead_after(after, limit);
            slots.into_iter().filter_map(|slot| DeadLetterPlan::new(&index, slot)).collect()
        };
        plans.iter().map(Self::read_letter).collect()
    }

    fn revive(&self, ids: Vec<MessageId>, done: Done<Vec<Revived>>) {
        self.push(Command::Revive { ids, done });
    }

    fn purge(&self, ids: Vec<MessageId>, done: Done<usize>) {
        self.push(Command::Purge { ids, done });
    }

    fn stats(&self) -> StoreStats {
        lock(&self.shared.index).stats()
    }

    fn health(&self) -> Result<(), StoreError> {
        if let Some(Err(error)) = self.threads.get() {
            return Err(error.clone());
        }
        {
            let health = lock(&self.shared.health);
            if health.closed {
                return Err(StoreError::Closed);
            }
            if let Some(error) = health.failure.as_ref().or(health.disk_full.as_ref()) {
                return Err(error.clone());
            }
        }
        let (held, limit) = (lock(&self.shared.index).held(), self.shared.options.messages_max);
        if held >= limit { Err(StoreError::Full { held, limit }) } else { Ok(()) }
    }

    fn close(&self) -> Result<(), StoreError> {
        let closed = match self.threads() {
            Ok(threads) => {
                let closed = barrier(|done| {
                    let command = Event::Command(Command::Close { done });
                    if let Err(Event::Command(command)) = threads.push(command) {
                        let Command::Close { done } = command else { return };
                        done(if lock(&self.shared.health).closed { Ok(()) } else { Err(self.why_ended()) });
                    }
                });
                threads.end();
                closed
            }
            Err(error) => Err(error),
        };
        lock(&self.shared.index).segments.clear();
        self.shared.disk.release();
        closed
    }
}
