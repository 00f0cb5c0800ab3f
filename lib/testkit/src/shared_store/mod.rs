//! A store in memory that pages and that several brokers share: what `mysql://` is, without a server.

mod rows;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};

use kiteq_protocol::{Message, MessageId};
use kiteq_store::{
    AppendOutcome, DeadLetter, Done, GroupState, Kill, Loaded, MessageStore, OwnedStore, Owner, Page,
    PageSource, PagedStore, Recovered, Revived, Shelf, Shelving, Slot, StoreError, StoreStats, Verdict,
    VerdictOutcome,
};

use rows::{Rows, Slots};

/// The rows that brokers share. Clones are the same rows.
#[derive(Debug, Clone, Default)]
pub struct SharedRows(Arc<Mutex<Rows>>);

impl SharedRows {
    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap()
    }

    /// Opens the rows for one broker. At most `resident_max` messages are resident, as far as appends go.
    #[must_use]
    pub fn open(&self, owner: &str, resident_max: usize) -> Arc<SharedStore> {
        self.lock().arrive(owner);
        let (calls, waiting) = mpsc::channel::<Call>();
        let inside = Arc::new(Inside {
            owner: owner.to_owned(),
            resident_max,
            resident_peak: AtomicUsize::new(0),
            rows: self.clone(),
            slots: Mutex::default(),
            is_away: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
        });
        let works = inside.clone();
        std::thread::spawn(move || waiting.into_iter().for_each(|call| call(&works)));
        Arc::new(SharedStore { inside, calls: Mutex::new(calls) })
    }

    /// Live messages of one owner.
    #[must_use]
    pub fn owned_by(&self, owner: &str) -> usize {
        self.lock().owned_by(owner)
    }

    /// Live messages of all owners.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.lock().messages()
    }

    /// Ids of dead letters with the groups that did not get them.
    #[must_use]
    pub fn dead(&self) -> Vec<(MessageId, Vec<String>)> {
        let text = |group: &bytes::Bytes| String::from_utf8_lossy(group).into_owned();
        let rows = self.lock();
        rows.dead_letters(None, usize::MAX)
            .into_iter()
            .map(|letter| (letter.id, letter.groups.iter().map(text).collect()))
            .collect()
    }
}

type Call = Box<dyn FnOnce(&Inside) + Send>;

struct Inside {
    owner: String,
    resident_max: usize,
    resident_peak: AtomicUsize,
    rows: SharedRows,
    slots: Mutex<Slots>,
    is_away: AtomicBool,
    is_closed: AtomicBool,
}

impl Inside {
    /// The rows and this broker's slots.
    fn work<T>(&self, work: impl FnOnce(&mut Rows, &mut Slots) -> T) -> Result<T, StoreError> {
        if self.is_closed.load(Ordering::SeqCst) {
            return Err(StoreError::Closed);
        }
        if self.is_away.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable {
                place: "test".to_owned(),
                reason: "it is away".to_owned(),
            });
        }
        let (mut rows, mut slots) = (self.rows.lock(), self.slots.lock().unwrap());
        let result = work(&mut rows, &mut slots);
        self.resident_peak.fetch_max(slots.len(), Ordering::SeqCst);
        Ok(result)
    }
}

/// One broker's view of [`SharedRows`]. A thread of its own does what it is asked, in order.
pub struct SharedStore {
    inside: Arc<Inside>,
    calls: Mutex<mpsc::Sender<Call>>,
}

impl SharedStore {
    fn call(&self, call: impl FnOnce(&Inside) + Send + 'static) {
        self.calls.lock().unwrap().send(Box::new(call)).unwrap();
    }

    /// Cuts the broker off from the rows, or ends that: meanwhile everything fails.
    pub fn set_away(&self, is_away: bool) {
        self.inside.is_away.store(is_away, Ordering::SeqCst);
    }

    /// Messages that are resident now.
    #[must_use]
    pub fn resident(&self) -> usize {
        self.inside.slots.lock().unwrap().len()
    }

    /// Most messages that have been resident at once.
    #[must_use]
    pub fn resident_peak(&self) -> usize {
        self.inside.resident_peak.load(Ordering::SeqCst)
    }
}

impl MessageStore for SharedStore {
    fn describe(&self) -> String {
        format!("shared://{}", self.inside.owner)
    }

    fn recover(&self, _visit: &mut dyn FnMut(Recovered<'_>)) -> Result<(), StoreError> {
        Ok(())
    }

    fn append(&self, messages: Vec<Message>, done: Done<Vec<(Message, AppendOutcome)>>) {
        self.call(move |inside| {
            let outcomes = messages.into_iter().map(|message| {
                let outcome = inside.work(|rows, slots| {
                    let Some(row) = rows.insert(&inside.owner, &message) else {
                        return AppendOutcome::Duplicate;
                    };
                    if slots.len() >= inside.resident_max {
                        return AppendOutcome::Deferred;
                    }
                    AppendOutcome::Stored(slots.take(row, message.committed))
                });
                (message, outcome.unwrap_or_else(AppendOutcome::Refused))
            });
            done(outcomes.collect());
        });
    }

    fn decide(&self, verdicts: Vec<(MessageId, Verdict)>, done: Done<Vec<VerdictOutcome>>) {
        self.call(move |inside| {
            let outcomes = verdicts.into_iter().map(|(id, verdict)| {
                let outcome = inside.work(|rows, slots| rows.decide(slots, id, verdict));
                outcome.unwrap_or_else(VerdictOutcome::Failed)
            });
            done(outcomes.collect());
        });
    }

    fn settle(&self, slots: Vec<Slot>) {
        self.call(move |inside| {
            for slot in slots {
                // A real store does it once it can be reached; a test that cuts it off sees the message again.
                let _ = inside.work(|rows, slots| {
                    if let Some(row) = slots.give_back(slot) {
                        rows.settle(&inside.owner, row);
                    }
                });
            }
        });
    }

    fn note(&self, states: Vec<(Slot, Vec<GroupState>)>) {
        self.call(move |inside| {
            for (slot, states) in states {
                let _ = inside.work(|rows, slots| {
                    let row = slots.row(slot).expect("notes are about resident messages");
                    rows.note(&inside.owner, row, states);
                });
            }
        });
    }

    fn kill(&self, dead: Vec<Kill>) {
        self.call(move |inside| {
            for kill in dead {
                let _ = inside.work(|rows, slots| {
                    if let Some(row) = slots.give_back(kill.slot) {
                        rows.kill(&inside.owner, row, kill.reason, kill.groups);
                    }
                });
            }
        });
    }

    fn load(&self, slots: Vec<Slot>, done: Done<Vec<Result<Loaded, StoreError>>>) {
        self.call(move |inside| {
            let load = |slot| inside.work(|rows, slots| rows.load(&inside.owner, slots, slot))?;
            done(slots.into_iter().map(load).collect());
        });
    }

    fn dead_letters(&self, after: Option<MessageId>, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        self.inside.work(|rows, _| rows.dead_letters(after, limit))
    }

    fn revive(&self, ids: Vec<MessageId>, done: Done<Vec<Revived>>) {
        self.call(move |inside| {
            let revive = |id| {
                inside.work(|rows, slots| {
                    let (row, letter) = rows.revive(&inside.owner, id)?;
                    Some((slots.take(row, true), letter))
                })
            };
            done(ids.into_iter().map(revive).collect());
        });
    }

    fn purge(&self, ids: Vec<MessageId>, done: Done<usize>) {
        self.call(move |inside| {
            done(inside.work(|rows, _| ids.iter().filter(|id| rows.purge(id)).count()).unwrap_or(0));
        });
    }

    fn paged(&self) -> Option<&dyn PagedStore> {
        Some(self)
    }

    fn owned(&self) -> Option<&dyn OwnedStore> {
        Some(self)
    }

    fn stats(&self) -> StoreStats {
        self.inside.rows.lock().stats(&self.inside.owner)
    }

    fn health(&self) -> Result<(), StoreError> {
        self.inside.work(|_, _| ())
    }

    fn close(&self) -> Result<(), StoreError> {
        let (done, is_done) = mpsc::channel();
        self.call(move |inside| {
            inside.is_closed.store(true, Ordering::SeqCst);
            done.send(()).unwrap();
        });
        is_done.recv().map_err(|_| StoreError::Closed)
    }
}

impl PagedStore for SharedStore {
    fn resident_max(&self) -> usize {
        self.inside.resident_max
    }

    fn page(&self, room: usize, from: PageSource, done: Done<Result<Page, StoreError>>) {
        self.call(move |inside| {
            done(inside.work(|rows, slots| {
                let room = room.min(inside.resident_max.saturating_sub(slots.len()));
                rows.page(&inside.owner, slots, room, &from)
            }));
        });
    }

    fn shelve(&self, messages: Vec<Shelving>) {
        self.call(move |inside| {
            for shelving in messages {
                let _ = inside.work(|rows, slots| {
                    let row = slots.give_back(shelving.slot).expect("what is shelved is resident");
                    rows.shelve(&inside.owner, row, shelving.states, shelving.place);
                });
            }
        });
    }

    fn shelves(&self, done: Done<Result<Vec<Shelf>, StoreError>>) {
        self.call(move |inside| done(inside.work(|rows, _| rows.shelves())));
    }
}

impl OwnedStore for SharedStore {
    fn owner(&self) -> &str {
        &self.inside.owner
    }

    fn owners(&self, done: Done<Result<Vec<Owner>, StoreError>>) {
        self.call(move |inside| done(inside.work(|rows, _| rows.owners())));
    }

    fn adopt(&self, owner: String, limit: usize, done: Done<Result<usize, StoreError>>) {
        self.call(move |inside| done(inside.work(|rows, _| rows.adopt(&owner, &inside.owner, limit))));
    }

    fn find_lost(&self, done: Done<Result<Vec<Slot>, StoreError>>) {
        self.call(move |inside| done(inside.work(|rows, slots| rows.lost(&inside.owner, slots))));
    }

    fn leave(&self, done: Done<Result<(), StoreError>>) {
        self.call(move |inside| done(inside.work(|rows, _| rows.leave(&inside.owner))));
    }
}
