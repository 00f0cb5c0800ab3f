//! Calls on their way through the writers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use kiteq_protocol::{Message, MessageId};

use super::order::Order;
use super::slots::Entry;
use crate::error::StoreError;
use crate::held::{AppendOutcome, DeadReason, Done, GroupState, Verdict, VerdictOutcome};
use crate::mailbox::lock;
use crate::paging::ShelfPlace;

/// What a writer is told to do.
pub(super) enum Work {
    /// Store those of a call's messages that are in this writer's tables.
    Append { part: Arc<Part<Message, AppendOutcome>>, indexes: Vec<u32> },
    /// Carry out those of a call's verdicts.
    Decide { part: Arc<Part<(MessageId, Verdict), VerdictOutcome>>, indexes: Vec<u32> },
    /// Do what nobody waits for.
    Later(Vec<Later>),
    /// Look whether these were stored after all, and let them come with a page.
    Recheck(Vec<MessageId>),
    /// Says when everything before it is done.
    Barrier(Arc<Barrier>),
    /// The last work there is.
    Close(Arc<Barrier>),
}

/// Something that is to be written, and for which nobody waits.
#[derive(Debug)]
pub(super) enum Later {
    /// How far the groups of a resident message are.
    Note { entry: Entry, states: Vec<GroupState> },
    /// A message was given up.
    Leave { entry: Entry, how: Leaving },
}

impl Later {
    pub(super) fn id(&self) -> &MessageId {
        match self {
            Self::Note { entry, .. } | Self::Leave { entry, .. } => &entry.id,
        }
    }
}

/// Why a message was given up.
#[derive(Debug)]
pub(super) enum Leaving {
    Settled,
    Killed { reason: DeadReason, groups: Vec<Bytes> },
    Shelved { states: Vec<GroupState>, place: ShelfPlace },
}

type Finish<I, O> = Box<dyn FnOnce(Vec<I>, Vec<O>) + Send>;

/// A call whose items are in the hands of several writers.
pub(super) struct Call<I, O> {
    items: RwLock<Vec<I>>,
    outcomes: Mutex<Vec<O>>,
    /// Writers that have yet to answer.
    parts: AtomicUsize,
    place: u64,
    order: Arc<Order>,
    finish: Mutex<Option<Finish<I, O>>>,
}

/// A writer's share of a call. Dropping it is the answer: what has no outcome by then was not done.
pub(super) struct Part<I: Send + 'static, O: Send + 'static>(Arc<Call<I, O>>);

impl<I: Send + 'static, O: Clone + Send + 'static> Call<I, O> {
    /// A call in so many parts. `finish` gets the items and their outcomes, in their order, after those of earlier calls;
    /// items without an outcome get `unanswered`.
    pub(super) fn split(
        order: &Arc<Order>,
        items: Vec<I>,
        unanswered: &O,
        parts: usize,
        finish: impl FnOnce(Vec<I>, Vec<O>) + Send + 'static,
    ) -> Vec<Arc<Part<I, O>>> {
        let outcomes = vec![unanswered.clone(); items.len()];
        let call = Arc::new(Self {
            items: RwLock::new(items),
            outcomes: Mutex::new(outcomes),
            parts: AtomicUsize::new(parts),
            place: order.next(),
            order: order.clone(),
            finish: Mutex::new(Some(Box::new(finish))),
        });
        (0..parts).map(|_| Arc::new(Part(call.clone()))).collect()
    }
}

impl<I: Send + 'static, O: Send + 'static> Part<I, O> {
    /// The items of the whole call.
    pub(super) fn items(&self) -> RwLockReadGuard<'_, Vec<I>> {
        self.0.items.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of one item so far.
    pub(super) fn get(&self, index: u32) -> O
    where
        O: Clone,
    {
        lock(&self.0.outcomes)[index as usize].clone()
    }

    /// What became of one item.
    pub(super) fn set(&self, index: u32, outcome: O) {
        lock(&self.0.outcomes)[index as usize] = outcome;
    }
}

impl<I: Send + 'static, O: Send + 'static> Drop for Part<I, O> {
    fn drop(&mut self) {
        if self.0.parts.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let call = self.0.clone();
        let Some(finish) = lock(&call.finish).take() else { return };
        let items = std::mem::take(&mut *call.items.write().unwrap_or_else(PoisonError::into_inner));
        let outcomes = std::mem::take(&mut *lock(&call.outcomes));
        call.order.answer(call.place, Box::new(move || finish(items, outcomes)));
    }
}

/// Reports once every writer has come to it. Dropped before that, it reports that the store is closed.
pub(super) struct Barrier {
    waiting: AtomicUsize,
    failure: Mutex<Option<StoreError>>,
    done: Mutex<Option<Done<Result<(), StoreError>>>>,
}

impl Barrier {
    pub(super) fn new(writers: usize, done: Done<Result<(), StoreError>>) -> Arc<Self> {
        Arc::new(Self {
            waiting: AtomicUsize::new(writers),
            failure: Mutex::default(),
            done: Mutex::new(Some(done)),
        })
    }

    /// One writer has come to it; `failure` says what it could not do.
    pub(super) fn reached(&self, failure: Option<StoreError>) {
        if let Some(failure) = failure {
            lock(&self.failure).get_or_insert(failure);
        }
        if self.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            let result = lock(&self.failure).take().map_or(Ok(()), Err);
            self.report(result);
        }
    }

    fn report(&self, result: Result<(), StoreError>) {
        let done = lock(&self.done).take();
        if let Some(done) = done {
            done(result);
        }
    }
}

impl Drop for Barrier {
    fn drop(&mut self) {
        self.report(Err(StoreError::Closed));
    }
}
