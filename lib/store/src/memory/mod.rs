//! `memory://` and `mock://`: messages in memory, gone with the process.
//!
//! Bounded by messages and by bytes; at either bound appends are refused, and nothing is ever evicted.

mod options;
mod state;

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use kiteq_protocol::{Message, MessageId};

pub(crate) use options::MemoryOptions;
use state::State;

use crate::command::Command;
use crate::error::{OpenError, StoreError};
use crate::held::{
    AppendOutcome, DeadLetter, Done, GroupState, Kill, Loaded, Recovered, Revived, Slot, StoreStats, Verdict,
    VerdictOutcome,
};
use crate::mailbox::{Mailbox, Taken, lock};
use crate::store::{MessageStore, barrier};

/// The store; its thread ends when it is dropped.
pub(crate) struct MemoryStore {
    options: MemoryOptions,
    shared: Arc<Shared>,
}

struct Shared {
    mailbox: Mailbox<Command>,
    state: Mutex<State>,
}

impl MemoryStore {
    pub(crate) fn start(options: MemoryOptions) -> Result<Self, OpenError> {
        let shared =
            Arc::new(Shared { mailbox: Mailbox::new(), state: Mutex::new(State::new(options.clone())) });
        let worker = shared.clone();
        thread::Builder::new().name("kiteq-memory".to_owned()).spawn(move || work(&worker)).map_err(
            |error| OpenError {
                uri: options.uri.clone(),
                reason: format!("no thread could be started: {error}"),
            },
        )?;
        Ok(Self { options, shared })
    }

    fn push(&self, command: Command) {
        if let Err(command) = self.shared.mailbox.push(command) {
            command.refuse(&StoreError::Closed);
        }
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.shared.mailbox.end();
    }
}

fn work(shared: &Shared) {
    // Callers must get answers, not silence, also when a closure of theirs panicked on this thread.
    struct EndOnExit<'a>(&'a Mailbox<Command>);
    impl Drop for EndOnExit<'_> {
        fn drop(&mut self) {
            self.0.end();
        }
    }
    let _end = EndOnExit(&shared.mailbox);
    let started = Instant::now();
    let mut commands = Vec::new();
    while shared.mailbox.take(&mut commands, None) == Taken::Items {
        lock(&shared.state).turn(started.elapsed());
        for command in commands.drain(..) {
            carry_out(&shared.state, command);
        }
    }
}

/// Does one command. The lock is free again when `done` runs.
fn carry_out(state: &Mutex<State>, command: Command) {
    if lock(state).closed {
        match command {
            Command::Close { done } => done(Ok(())),
            command => command.refuse(&StoreError::Closed),
        }
        return;
    }
    match command {
        Command::Append { messages, done } => {
            let outcomes = {
                let mut state = lock(state);
                messages
                    .into_iter()
                    .map(|message| {
                        let outcome = state.append(&message);
                        (message, outcome)
                    })
                    .collect()
            };
            done(outcomes);
        }
        Command::Decide { verdicts, done } => {
            let outcomes = {
                let mut state = lock(state);
                verdicts.into_iter().map(|(id, verdict)| state.decide(&id, verdict)).collect()
            };
            done(outcomes);
        }
        Command::Settle { slots } => {
            let mut state = lock(state);
            for slot in slots {
                state.settle(slot);
            }
        }
        // Nothing is recovered from memory, so nobody would ever read a note.
        Command::Note { .. } => {}
        Command::Kill { dead } => {
            let mut state = lock(state);
            for kill in dead {
                state.kill(kill);
            }
        }
        Command::Load { slots, done } => {
            let loaded = {
                let state = lock(state);
                slots.into_iter().map(|slot| state.load(slot)).collect()
            };
            done(loaded);
        }
        Command::Revive { ids, done } => {
            let revived = {
                let mut state = lock(state);
                ids.iter().map(|id| Ok(state.revive(id))).collect()
            };
            done(revived);
        }
        Command::Purge { ids, done } => {
            let purged = {
                let mut state = lock(state);
                ids.iter().filter(|id| state.purge(id)).count()
            };
            done(purged);
        }
        Command::Barrier { done } => done(Ok(())),
        Command::Close { done } => {
            lock(state).closed = true;
            done(Ok(()));
        }
    }
}

impl MessageStore for MemoryStore {
    fn describe(&self) -> String {
        self.options.uri.clone()
    }

    fn recover(&self, _visit: &mut dyn FnMut(Recovered<'_>)) -> Result<(), StoreError> {
        Ok(())
    }

    fn append(&self, messages: Vec<Message>, done: Done<Vec<(Message, AppendOutcome)>>) {
        self.push(Command::Append { messages, done });
    }

    fn decide(&self, verdicts: Vec<(MessageId, Verdict)>, done: Done<Vec<VerdictOutcome>>) {
        self.push(Command::Decide { verdicts, done });
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
        self.push(Command::Load { slots, done });
    }

    fn dead_letters(&self, after: Option<MessageId>, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        barrier(|done| self.push(Command::Barrier { done }))?;
        Ok(lock(&self.shared.state).dead_letters(after, limit))
    }

    fn revive(&self, ids: Vec<MessageId>, done: Done<Vec<Revived>>) {
        self.push(Command::Revive { ids, done });
    }

    fn purge(&self, ids: Vec<MessageId>, done: Done<usize>) {
        self.push(Command::Purge { ids, done });
    }

    fn stats(&self) -> StoreStats {
        lock(&self.shared.state).stats()
    }

    fn health(&self) -> Result<(), StoreError> {
        lock(&self.shared.state).health()
    }

    fn close(&self) -> Result<(), StoreError> {
        barrier(|done| self.push(Command::Close { done }))
    }
}
