//! `mysql://`: messages in the tables of existing installations, shared by several brokers.
//!
//! Where a message is, and what its row says of it, is in [`layout`]; what the columns cannot hold in [`extra`]; who writes,
//! and what happens when that fails, in [`writer`]; how messages come back into memory in [`pager`]; whose they are in
//! [`owners`].
//!
//! # What is durable when
//!
//! An append or a verdict is reported after the commit of its transaction. That a message was settled, noted, killed or shelved
//! is written with the next transaction; after a crash of the broker before that, the message comes once more.
//!
//! # What is remembered of a settled message
//!
//! Its row stays for the dedupe window, marked as settled. The unique index of message ids then answers a repeated publish on
//! every broker, without a table of ids beside it that every publish would have to ask and every settle to write.
//!
//! # The second address
//!
//! The slave serves bodies: see [`reader`]. Nothing waits for it, and nothing is believed because of it.

mod extra;
mod fault;
mod layout;
mod letters;
mod link;
mod options;
mod order;
mod owners;
mod pager;
mod reader;
mod rows;
mod schema;
mod shared;
mod shelves;
mod slots;
mod text;
mod turn;
mod upkeep;
mod work;
mod writer;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kiteq_protocol::{Message, MessageId};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tracing::instrument::WithSubscriber;

use fault::{Fault, FaultKind};
use layout::{Epoch, Layout, digit_of};
use link::{Link, Target};
pub(crate) use options::MysqlOptions;
use pager::Pager;
use reader::Load;
use shared::{Opened, RunningCall, Shared};
use work::{Barrier, Call, Later, Leaving, Work};
use writer::Writer;

use crate::error::{OpenError, StoreError};
use crate::held::{
    AppendOutcome, DeadLetter, Done, GroupState, Kill, Loaded, Recovered, Revived, Slot, StoreStats, Verdict,
    VerdictOutcome,
};
use crate::mailbox::lock;
use crate::paging::{OwnedStore, Owner, Page, PageSource, PagedStore, Shelf, Shelving};
use crate::store::{MessageStore, barrier};

/// Connections that are not for writing: loads, pages, dead letters, deleting.
const READING_CONNECTIONS: usize = 3;

/// Threads that talk to the servers. Most of the work is theirs.
const THREADS: usize = 2;

/// The store. Its tasks run on threads of its own, and end with it.
pub(crate) struct MysqlStore {
    shared: Arc<Shared>,
    writers: Vec<UnboundedSender<Work>>,
    loads: UnboundedSender<Load>,
    pager: Arc<tokio::sync::Mutex<Pager>>,
    /// `None` once it is dropped.
    runtime: Option<Runtime>,
}

impl MysqlStore {
    /// Connects, looks at the tables, creates what is missing, and takes the owner's name.
    pub(crate) fn open(options: MysqlOptions, owner: &str) -> Result<Self, OpenError> {
        let uri = options.describe();
        let error = |reason: String| OpenError { uri: uri.clone(), reason };
        if owner.is_empty() || owner.len() > 255 || !owner.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(error(format!(
                "{owner:?} cannot be a broker's name in the tables: it takes up to 255 visible ASCII characters"
            )));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("kiteq-mysql")
            .enable_all()
            .build()
            .map_err(|cause| error(format!("no thread could be started: {cause}")))?;
        let (told, heard) = std::sync::mpsc::sync_channel(1);
        let owner = owner.to_owned();
        let preparing = async move {
            // Whoever opens the store waits below.
            let _ = told.send(prepare(options, owner).await);
        };
        runtime.spawn(preparing.with_current_subscriber());
        let prepared = heard.recv().map_err(|_| error("opening it failed".to_owned()))?;
        let (shared, pager, writer_count) = match prepared {
            Ok(prepared) => prepared,
            Err(reason) => {
                runtime.shutdown_background();
                return Err(error(reason));
            }
        };
        let mut writers = Vec::new();
        for number in 0..writer_count {
            let (sender, receiver) = unbounded_channel();
            runtime.spawn(Writer::new(shared.clone(), number, receiver).run());
            writers.push(sender);
        }
        let (loads, receiver) = unbounded_channel();
        runtime.spawn(reader::run(shared.clone(), receiver));
        runtime.spawn(upkeep::run(shared.clone()));
        let pager = Arc::new(tokio::sync::Mutex::new(pager));
        Ok(Self { shared, writers, loads, pager, runtime: Some(runtime) })
    }

    fn is_closed(&self) -> bool {
        self.shared.is_closed.load(Ordering::Acquire)
    }

    /// The writer that has a message's table.
    fn writer_of(&self, id: &MessageId) -> usize {
        self.shared.layout.shard_of(digit_of(id)) % self.writers.len()
    }

    /// Gives work to a writer. A writer that has ended drops it, and its answer says that the store is closed.
    fn push(&self, writer: usize, work: Work) {
        let _ = self.writers[writer].send(work);
    }

    /// Splits a call's items over the writers; a call without items waits for all of them.
    fn split<I: Send + Sync + 'static, O: Clone + Send + 'static>(
        &self,
        items: Vec<I>,
        unanswered: &O,
        id_of: impl Fn(&I) -> MessageId,
        to_work: impl Fn(Arc<work::Part<I, O>>, Vec<u32>) -> Work,
        finish: impl FnOnce(Vec<I>, Vec<O>) + Send + 'static,
    ) {
        let mut indexes: Vec<Vec<u32>> = vec![Vec::new(); self.writers.len()];
        for (index, item) in items.iter().enumerate() {
            indexes[self.writer_of(&id_of(item))].push(index as u32);
        }
        let running = RunningCall::begin(&self.shared);
        let finish = move |items: Vec<I>, outcomes: Vec<O>| {
            finish(items, outcomes);
            drop(running);
        };
        if items.is_empty() {
            let parts = Call::split(&self.shared.order, items, unanswered, 1, finish);
            return self.flush(Box::new(move |_| drop(parts)));
        }
        let chosen = indexes.iter().filter(|indexes| !indexes.is_empty()).count();
        let mut parts = Call::split(&self.shared.order, items, unanswered, chosen, finish);
        for (writer, indexes) in indexes.into_iter().enumerate() {
            if !indexes.is_empty()
                && let Some(part) = parts.pop()
                && !self.is_closed()
            {
                self.push(writer, to_work(part, indexes));
            }
        }
    }

    /// Hands over what nobody waits for.
    fn later(&self, laters: Vec<Later>) {
        let mut by_writer: Vec<Vec<Later>> = Vec::new();
        by_writer.resize_with(self.writers.len(), Vec::new);
        for later in laters {
            by_writer[self.writer_of(later.id())].push(later);
        }
        for (writer, laters) in by_writer.into_iter().enumerate().filter(|(_, laters)| !laters.is_empty()) {
            self.push(writer, Work::Later(laters));
        }
    }

    /// Gives messages up; those that are gone already need nothing to be written.
    fn leave_slots(&self, leaving: impl IntoIterator<Item = (Slot, Leaving)>) {
        let laters = {
            let mut slots = lock(&self.shared.slots);
            leaving
                .into_iter()
                .filter_map(|(slot, how)| slots.give_up(slot).map(|entry| Later::Leave { entry, how }))
                .collect()
        };
        self.later(laters);
    }

    /// Runs `done` when everything queued before is written, or why it is not.
    fn flush(&self, done: Done<Result<(), StoreError>>) {
        let barrier = Barrier::new(self.writers.len(), done);
        for writer in 0..self.writers.len() {
            self.push(writer, Work::Barrier(barrier.clone()));
        }
    }

    /// Runs a question on the store's threads after everything queued before, and gives its answer to `done`.
    fn ask<T: Send + 'static, F>(&self, question: impl FnOnce(Arc<Shared>) -> F, closed: T, done: Done<T>)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let Some(runtime) = self.runtime.as_ref().filter(|_| !self.is_closed()) else { return done(closed) };
        let (told, heard) = tokio::sync::oneshot::channel();
        self.flush(Box::new(move |_| {
            // What was not written does not keep the question from being asked.
            let _ = told.send(());
        }));
        let running = RunningCall::begin(&self.shared);
        let answer = question(self.shared.clone());
        runtime.spawn(async move {
            let _ = heard.await;
            done(answer.await);
            drop(running);
        });
    }
}

/// Everything that needs the server before the store can be used; the reason when it cannot.
async fn prepare(options: MysqlOptions, owner: String) -> Result<(Arc<Shared>, Pager, usize), String> {
    let layout = Layout::new(&options.database, options.shard_count);
    let master = Arc::new(Target::new(&options, &options.master));
    let mut link = Link::new(master.clone());
    let found = schema::open(&mut link, &layout, &options.username).await?;
    let said = |fault: Fault| match fault.kind {
        FaultKind::ReadOnly => {
            format!("{fault}; open it when the server takes writes, or name the master first")
        }
        _ => fault.to_string(),
    };
    let epoch = owners::enter(&mut link, &layout.brokers(), &owner).await.map_err(said)?;
    let writers = usize::from(options.shard_count).min(options.connections_max - READING_CONNECTIONS);
    let opened = Opened {
        options,
        layout,
        owner,
        epoch: Epoch(epoch),
        master,
        indexes: found.indexes,
        packet_bytes_max: found.packet_bytes_max,
    };
    let shared = Arc::new(Shared::new(opened, writers));
    let mut pager = Pager::new(shared.clone());
    pager.find_epochs(&mut link).await.map_err(said)?;
    upkeep::count_waiting(&shared, &mut link).await.map_err(said)?;
    upkeep::take_figures(&shared, &mut link).await.map_err(said)?;
    link.close().await;
    Ok((shared, pager, writers))
}

impl Drop for MysqlStore {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // It may be dropped where waiting is not allowed.
            runtime.shutdown_background();
        }
    }
}

impl MessageStore for MysqlStore {
    fn describe(&self) -> String {
        self.shared.options.describe()
    }

    fn recover(&self, _visit: &mut dyn FnMut(Recovered<'_>)) -> Result<(), StoreError> {
        // What earlier runs left comes with pages.
        Ok(())
    }

    fn append(&self, messages: Vec<Message>, done: Done<Vec<(Message, AppendOutcome)>>) {
        self.split(
            messages,
            &AppendOutcome::Refused(StoreError::Closed),
            |message| message.id,
            |part, indexes| Work::Append { part, indexes },
            |messages, outcomes| done(messages.into_iter().zip(outcomes).collect()),
        );
    }

    fn decide(&self, verdicts: Vec<(MessageId, Verdict)>, done: Done<Vec<VerdictOutcome>>) {
        self.split(
            verdicts,
            &VerdictOutcome::Failed(StoreError::Closed),
            |(id, _)| *id,
            |part, indexes| Work::Decide { part, indexes },
            |_, outcomes| done(outcomes),
        );
    }

    fn settle(&self, slots: Vec<Slot>) {
        self.leave_slots(slots.into_iter().map(|slot| (slot, Leaving::Settled)));
    }

    fn note(&self, states: Vec<(Slot, Vec<GroupState>)>) {
        let laters = {
            let mut slots = lock(&self.shared.slots);
            let noted = states.into_iter().filter_map(|(slot, states)| {
                let is_noted = slots.get(slot)?.is_noted;
                // A row says nothing of its groups until it is noted.
                if states.is_empty() && !is_noted {
                    return None;
                }
                slots.note(slot).map(|entry| Later::Note { entry, states })
            });
            noted.collect()
        };
        self.later(laters);
    }

    fn kill(&self, dead: Vec<Kill>) {
        self.leave_slots(
            dead.into_iter().map(|Kill { slot, reason, groups }| (slot, Leaving::Killed { reason, groups })),
        );
    }

    fn load(&self, slots: Vec<Slot>, done: Done<Vec<Result<Loaded, StoreError>>>) {
        let running = RunningCall::begin(&self.shared);
        if let Err(refused) = self.loads.send(Load { slots, done, running }) {
            let Load { slots, done, .. } = refused.0;
            done(slots.iter().map(|_| Err(StoreError::Closed)).collect());
        }
    }

    fn dead_letters(&self, after: Option<MessageId>, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        let (told, heard) = std::sync::mpsc::sync_channel(1);
        self.ask(
            |shared| async move { letters::list(&shared, after, limit).await },
            Err(StoreError::Closed),
            Box::new(move |letters| {
                // The caller waits below.
                let _ = told.send(letters);
            }),
        );
        heard.recv().unwrap_or(Err(StoreError::Closed))
    }

    fn revive(&self, ids: Vec<MessageId>, done: Done<Vec<Revived>>) {
        let closed = ids.iter().map(|_| Err(StoreError::Closed)).collect();
        self.ask(|shared| async move { letters::revive(&shared, &ids).await }, closed, done);
    }

    fn purge(&self, ids: Vec<MessageId>, done: Done<usize>) {
        self.ask(|shared| async move { letters::purge(&shared, &ids).await }, 0, done);
    }

    fn paged(&self) -> Option<&dyn PagedStore> {
        Some(self)
    }

    fn owned(&self) -> Option<&dyn OwnedStore> {
        Some(self)
    }

    fn stats(&self) -> StoreStats {
        let (resident, payload_bytes) = {
            let slots = lock(&self.shared.slots);
            (slots.messages() as u64, slots.payload_bytes())
        };
        let counters = &self.shared.counters;
        let waiting = counters.waiting.load(Ordering::Relaxed).max(0) as u64;
        StoreStats {
            messages: resident + waiting,
            dead_letters: counters.dead_letters.load(Ordering::Relaxed).max(0) as u64,
            payload_bytes,
            disk_bytes: counters.disk_bytes.load(Ordering::Relaxed),
        }
    }

    fn health(&self) -> Result<(), StoreError> {
        self.shared.health()
    }

    fn close(&self) -> Result<(), StoreError> {
        if self.shared.is_closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let closed = barrier(|done| {
            let barrier = Barrier::new(self.writers.len(), done);
            for writer in 0..self.writers.len() {
                self.push(writer, Work::Close(barrier.clone()));
            }
        });
        if let Some(runtime) = &self.runtime {
            let shared = self.shared.clone();
            runtime.spawn(async move { shared.pool.close().await });
        }
        closed
    }
}

impl PagedStore for MysqlStore {
    fn resident_max(&self) -> usize {
        self.shared.options.resident_max
    }

    fn page(&self, room: usize, from: PageSource, done: Done<Result<Page, StoreError>>) {
        let pager = self.pager.clone();
        let writers = self.writers.clone();
        self.ask(
            |shared| async move {
                let mut pager = pager.lock().await;
                let page = pager.page(room, &from).await;
                for id in pager.doubtful.drain(..) {
                    let writer = shared.layout.shard_of(digit_of(&id)) % writers.len();
                    // A writer that has ended leaves them to the next run.
                    let _ = writers[writer].send(Work::Recheck(vec![id]));
                }
                page
            },
            Err(StoreError::Closed),
            done,
        );
    }

    fn shelve(&self, messages: Vec<Shelving>) {
        self.leave_slots(
            messages
                .into_iter()
                .map(|Shelving { slot, states, place }| (slot, Leaving::Shelved { states, place })),
        );
    }

    fn shelves(&self, done: Done<Result<Vec<Shelf>, StoreError>>) {
        self.ask(
            |shared| async move { list_shelves(&shared).await.map_err(|fault| fault.to_error()) },
            Err(StoreError::Closed),
            done,
        );
    }
}

async fn list_shelves(shared: &Shared) -> Result<Vec<Shelf>, Fault> {
    let mut lease = shared.pool.lease().await?;
    let answers = lease.run(&format!("SELECT id,topic,`groups` FROM {}", shared.layout.shelves())).await?;
    lease.give_back();
    let shelves: Vec<Shelf> =
        answers.iter().flat_map(|answer| &answer.rows).filter_map(shelves::read).collect();
    for shelf in &shelves {
        shared.knows_shelf(shelf);
    }
    Ok(shelves)
}

impl OwnedStore for MysqlStore {
    fn owner(&self) -> &str {
        &self.shared.owner
    }

    fn adoptable(&self) -> &[String] {
        &self.shared.options.adopt
    }

    fn owners(&self, done: Done<Result<Vec<Owner>, StoreError>>) {
        self.ask(
            |shared| async move { owners::owners(&shared).await.map_err(|fault| fault.to_error()) },
            Err(StoreError::Closed),
            done,
        );
    }

    fn adopt(&self, owner: String, limit: usize, done: Done<Result<usize, StoreError>>) {
        self.ask(
            |shared| async move { owners::adopt(&shared, &owner, limit).await.map_err(|fault| fault.to_error()) },
            Err(StoreError::Closed),
            done,
        );
    }

    fn find_lost(&self, done: Done<Result<Vec<Slot>, StoreError>>) {
        self.ask(|shared| async move { owners::find_lost(&shared).await }, Err(StoreError::Closed), done);
    }

    fn suspects_loss(&self) -> bool {
        self.shared.counters.suspects_loss.load(Ordering::Relaxed)
    }

    fn leave(&self, done: Done<Result<(), StoreError>>) {
        self.ask(
            |shared| async move { owners::leave(&shared).await.map_err(|fault| fault.to_error()) },
            Err(StoreError::Closed),
            done,
        );
    }
}
