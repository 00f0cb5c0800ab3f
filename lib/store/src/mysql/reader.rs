//! Loads: messages read back, many at a time.
//!
//! A message never changes once it is stored, so it may be read from the slave. What the slave does not have, because it
//! lags, or all when it cannot be reached, is read from the master, which alone can say that a message is gone.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use kiteq_protocol::MessageId;
use tokio::sync::mpsc::UnboundedReceiver;

use super::fault::Fault;
use super::layout::{DIGITS, digit_of};
use super::link::{Lease, Pool};
use super::rows::{LOAD_COLUMNS, read_loaded};
use super::shared::{RunningCall, Shared};
use super::slots::State;
use super::text::put_ids;
use super::turn::{put_force_id, put_where_ours};
use crate::error::StoreError;
use crate::held::{Done, Loaded, Slot};
use crate::mailbox::lock;

/// A call that is to be answered.
pub(super) struct Load {
    pub(super) slots: Vec<Slot>,
    pub(super) done: Done<Vec<Result<Loaded, StoreError>>>,
    pub(super) running: RunningCall,
}

/// Calls answered in one go, about so many messages of them.
const LOADS_MAX: usize = 512;

/// Messages of one question, and bytes of their payload.
const QUESTION_MAX: usize = 512;
const QUESTION_BYTES_MAX: u64 = 8 << 20;

/// A slave that failed is left alone for so long.
const SLAVE_PAUSE: Duration = Duration::from_secs(10);

type Found = HashMap<MessageId, Result<Loaded, StoreError>>;

/// Answers loads until there will be no more.
pub(super) async fn run(shared: Arc<Shared>, mut loads: UnboundedReceiver<Load>) {
    let mut batch = Vec::new();
    let mut slave_from = Instant::now();
    while loads.recv_many(&mut batch, 64).await > 0 {
        let mut rest = std::mem::take(&mut batch).into_iter().peekable();
        while rest.peek().is_some() {
            let mut some: Vec<Load> = Vec::new();
            let mut count = 0;
            while let Some(load) = rest.next_if(|load| count == 0 || count + load.slots.len() <= LOADS_MAX) {
                count += load.slots.len();
                some.push(load);
            }
            answer(&shared, some, &mut slave_from).await;
        }
    }
}

/// A message that is to be read.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    id: MessageId,
    payload_len: u32,
    /// Its row may say what no slave need know yet: that another broker carried out its producer's verdict.
    is_prepared: bool,
}

async fn answer(shared: &Shared, loads: Vec<Load>, slave_from: &mut Instant) {
    let mut wanted: Vec<Wanted> = Vec::new();
    let ids: Vec<Vec<Option<Wanted>>> = {
        let slots = lock(&shared.slots);
        let mut id_of = |slot: &Slot| {
            let entry = slots.get(*slot)?;
            let one = Wanted {
                id: entry.id,
                payload_len: entry.payload_len,
                is_prepared: entry.state == State::Prepared,
            };
            wanted.push(one);
            Some(one)
        };
        loads.iter().map(|load| load.slots.iter().map(&mut id_of).collect()).collect()
    };
    let mut found = Found::new();
    let mut failure = None;
    if shared.is_closed.load(Ordering::Acquire) {
        failure = Some(StoreError::Closed);
    } else {
        for question in questions(&wanted) {
            if let Err(fault) = ask(shared, question, &mut found, slave_from).await {
                failure = Some(fault.to_error());
            }
        }
    }
    for (load, ids) in loads.into_iter().zip(ids) {
        let mut results = Vec::with_capacity(ids.len());
        for (slot, wanted) in load.slots.iter().zip(ids) {
            let loaded =
                wanted.and_then(|wanted| found.get(&wanted.id).cloned().map(|loaded| (wanted, loaded)));
            results.push(match loaded {
                Some((wanted, Ok(loaded))) => Ok(told(shared, *slot, wanted, loaded)),
                Some((_, Err(error))) => Err(error),
                None => Err(failure.clone().unwrap_or(StoreError::Gone)),
            });
        }
        (load.done)(results);
        drop(load.running);
    }
}

/// A commit by another broker is told once, and counts from then on.
fn told(shared: &Shared, slot: Slot, wanted: Wanted, mut loaded: Loaded) -> Loaded {
    loaded.committed_elsewhere &= wanted.is_prepared;
    if loaded.committed_elsewhere {
        let mut slots = lock(&shared.slots);
        // A verdict that came here meanwhile tells it by itself.
        loaded.committed_elsewhere = slots.get(slot).is_some_and(|entry| entry.state == State::Prepared);
        slots.commit(slot);
    }
    loaded
}

/// Splits what is wanted, so that no answer is too long.
fn questions(wanted: &[Wanted]) -> Vec<&[Wanted]> {
    let mut questions = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, Wanted { payload_len, .. }) in wanted.iter().enumerate() {
        if index > start
            && (index - start >= QUESTION_MAX || bytes + u64::from(*payload_len) > QUESTION_BYTES_MAX)
        {
            questions.push(&wanted[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += u64::from(*payload_len);
    }
    if start < wanted.len() {
        questions.push(&wanted[start..]);
    }
    questions
}

async fn ask(
    shared: &Shared,
    question: &[Wanted],
    found: &mut Found,
    slave_from: &mut Instant,
) -> Result<(), Fault> {
    let mut wanted: Vec<MessageId> = question.iter().map(|wanted| wanted.id).collect();
    let old: Vec<MessageId> =
        question.iter().filter(|wanted| !wanted.is_prepared).map(|wanted| wanted.id).collect();
    if let Some(slave) = &shared.slave
        && *slave_from <= Instant::now()
        && !old.is_empty()
    {
        match ask_server(shared, slave, &old, false, found).await {
            Ok(()) => wanted.retain(|id| !found.contains_key(id)),
            Err(fault) => {
                tracing::warn!(%fault, "the slave cannot be read; messages are read from the master");
                *slave_from = Instant::now() + SLAVE_PAUSE;
            }
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    ask_server(shared, &shared.pool, &wanted, true, found).await?;
    if wanted.iter().any(|id| !found.contains_key(id)) {
        shared.counters.suspects_loss.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// Asks one server. Only the master knows whose a row is.
async fn ask_server(
    shared: &Shared,
    pool: &Arc<Pool>,
    wanted: &[MessageId],
    is_master: bool,
    found: &mut Found,
) -> Result<(), Fault> {
    let mut by_digit: [Vec<&MessageId>; DIGITS] = Default::default();
    for id in wanted {
        by_digit[digit_of(id)].push(id);
    }
    let mut sql = String::new();
    for (digit, ids) in by_digit.iter().enumerate().filter(|(_, ids)| !ids.is_empty()) {
        if !sql.is_empty() {
            sql.push(';');
        }
        sql.push_str("SELECT ");
        sql.push_str(LOAD_COLUMNS);
        sql.push_str(" FROM ");
        sql.push_str(shared.layout.table(digit));
        put_force_id(&mut sql, shared, digit);
        if is_master {
            put_where_ours(&mut sql, shared);
        } else {
            sql.push_str(" WHERE header<>'' AND message_id");
        }
        sql.push_str(" IN ");
        put_ids(&mut sql, ids.iter().copied());
    }
    let mut lease: Lease = pool.lease().await?;
    let answers = lease.read(&sql).await?;
    lease.give_back();
    for row in answers.iter().flat_map(|answer| &answer.rows) {
        if let Some((id, loaded)) = read_loaded(row) {
            let loaded = loaded.map_err(|reason| StoreError::Corrupt {
                place: format!("{}, message {id}", shared.layout.table(digit_of(&id))),
                reason,
            });
            found.insert(id, loaded);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_question_is_too_long() {
        let wanted = |lens: &[u32]| -> Vec<Wanted> {
            let one = |&payload_len: &u32| Wanted { id: MessageId([0; 16]), payload_len, is_prepared: false };
            lens.iter().map(one).collect()
        };
        let lens =
            |wanted: &[Wanted]| questions(wanted).iter().map(|question| question.len()).collect::<Vec<_>>();
        assert!(lens(&[]).is_empty());
        assert_eq!(lens(&wanted(&[9 << 20, 1, 1])), [1, 2]);
        assert_eq!(lens(&wanted(&[1; 513])), [512, 1]);
    }
}
