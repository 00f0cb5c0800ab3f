//! What the brokers share, and what each knows of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use kiteq_protocol::{Message, MessageId};
use kiteq_store::{
    DeadLetter, DeadReason, GroupState, Loaded, Owner, Page, PageSource, Paged, Shelf, ShelfId, ShelfPlace,
    Slot, StoreError, StoreStats, Verdict, VerdictOutcome,
};

/// Rows are numbered in the order of publication.
pub(super) type RowNumber = u64;

#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: BTreeMap<RowNumber, Row>,
    by_id: HashMap<MessageId, RowNumber>,
    next: RowNumber,
    dead: BTreeMap<MessageId, (Row, DeadLetter)>,
    settled: HashSet<MessageId>,
    /// Whether each has left.
    owners: BTreeMap<String, bool>,
    shelves: HashMap<ShelfId, Shelf>,
}

#[derive(Debug, Clone)]
struct Row {
    message: Message,
    published_at: i64,
    committed: bool,
    groups: Vec<GroupState>,
    owner: String,
    place: Option<Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Until(i64),
    On(ShelfId),
}

/// The slots of one broker. One is free again only when its broker has given it up.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// The row, and whether the broker knows that it is committed.
    taken: HashMap<Slot, (RowNumber, bool)>,
    by_row: HashMap<RowNumber, Slot>,
    free: Vec<Slot>,
}

impl Slots {
    pub(super) fn len(&self) -> usize {
        self.taken.len()
    }

    pub(super) fn take(&mut self, row: RowNumber, committed: bool) -> Slot {
        let slot = self.free.pop().unwrap_or(Slot(self.taken.len() as u32));
        self.taken.insert(slot, (row, committed));
        self.by_row.insert(row, slot);
        slot
    }

    pub(super) fn give_back(&mut self, slot: Slot) -> Option<RowNumber> {
        let (row, _) = self.taken.remove(&slot)?;
        self.by_row.remove(&row);
        self.free.push(slot);
        Some(row)
    }

    pub(super) fn row(&self, slot: Slot) -> Option<RowNumber> {
        self.taken.get(&slot).map(|&(row, _)| row)
    }
}

fn unix_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

impl Rows {
    pub(super) fn arrive(&mut self, owner: &str) {
        self.owners.insert(owner.to_owned(), false);
    }

    pub(super) fn leave(&mut self, owner: &str) {
        self.owners.insert(owner.to_owned(), true);
    }

    pub(super) fn owned_by(&self, owner: &str) -> usize {
        self.rows.values().filter(|row| row.owner == owner).count()
    }

    pub(super) fn messages(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn stats(&self, owner: &str) -> StoreStats {
        StoreStats {
            messages: self.owned_by(owner) as u64,
            dead_letters: self.dead.len() as u64,
            payload_bytes: 0,
            disk_bytes: 0,
        }
    }

    pub(super) fn insert(&mut self, owner: &str, message: &Message) -> Option<RowNumber> {
        let id = message.id;
        if self.by_id.contains_key(&id) || self.dead.contains_key(&id) || self.settled.contains(&id) {
            return None;
        }
        let row = Row {
            message: message.clone(),
            published_at: unix_seconds(),
            committed: message.committed,
            groups: Vec::new(),
            owner: owner.to_owned(),
            place: None,
        };
        Some(self.add(row))
    }

    fn add(&mut self, row: Row) -> RowNumber {
        self.next += 1;
        self.by_id.insert(row.message.id, self.next);
        self.rows.insert(self.next, row);
        self.next
    }

    fn own(&mut self, owner: &str, number: RowNumber) -> Option<&mut Row> {
        self.rows.get_mut(&number).filter(|row| row.owner == owner)
    }

    fn remove(&mut self, number: RowNumber) -> Option<Row> {
        let row = self.rows.remove(&number)?;
        self.by_id.remove(&row.message.id);
        Some(row)
    }

    pub(super) fn decide(&mut self, slots: &mut Slots, id: MessageId, verdict: Verdict) -> VerdictOutcome {
        let Some(&number) = self.by_id.get(&id) else { return VerdictOutcome::Ignored };
        let Some(row) = self.rows.get_mut(&number) else { return VerdictOutcome::Ignored };
        let slot = slots.by_row.get(&number).copied();
        let known = slot.and_then(|slot| slots.taken.get_mut(&slot));
        if row.committed && known.as_ref().is_none_or(|(_, is_known)| *is_known) {
            return VerdictOutcome::Ignored;
        }
        if verdict == Verdict::Rollback {
            if row.committed {
                return VerdictOutcome::Ignored;
            }
            self.remove(number);
            return slot.map_or(VerdictOutcome::Deferred, VerdictOutcome::RolledBack);
        }
        row.committed = true;
        if let Some((_, is_known)) = known {
            *is_known = true;
        } else if let Some(Place::Until(_)) = row.place {
            row.place = None;
        }
        slot.map_or(VerdictOutcome::Deferred, VerdictOutcome::Committed)
    }

    pub(super) fn settle(&mut self, owner: &str, number: RowNumber) {
        if self.own(owner, number).is_some()
            && let Some(row) = self.remove(number)
        {
            self.settled.insert(row.message.id);
        }
    }

    pub(super) fn note(&mut self, owner: &str, number: RowNumber, states: Vec<GroupState>) {
        if let Some(row) = self.own(owner, number) {
            row.groups = states;
        }
    }

    pub(super) fn kill(&mut self, owner: &str, number: RowNumber, reason: DeadReason, groups: Vec<Bytes>) {
        if self.own(owner, number).is_none() {
            return;
        }
        let Some(row) = self.remove(number) else { return };
        let letter = DeadLetter {
            id: row.message.id,
            kind: row.message.kind,
            reason,
            died_at: unix_seconds(),
            groups,
            payload: row.message.payload.clone(),
        };
        self.dead.insert(row.message.id, (row, letter));
    }

    pub(super) fn load(&mut self, owner: &str, slots: &mut Slots, slot: Slot) -> Result<Loaded, StoreError> {
        let (number, is_known) = slots.taken.get_mut(&slot).expect("what is loaded is resident");
        let row = self.own(owner, *number).ok_or(StoreError::Gone)?;
        let committed_elsewhere = row.committed && !std::mem::replace(is_known, row.committed);
        Ok(Loaded {
            id: row.message.id,
            kind: row.message.kind,
            payload: row.message.payload.clone(),
            committed_elsewhere,
        })
    }

    pub(super) fn dead_letters(&self, after: Option<MessageId>, limit: usize) -> Vec<DeadLetter> {
        let letters = self.dead.iter().filter(|(id, _)| after.is_none_or(|after| **id > after));
        letters.take(limit).map(|(_, (_, letter))| letter.clone()).collect()
    }

    pub(super) fn revive(&mut self, owner: &str, id: MessageId) -> Option<(RowNumber, DeadLetter)> {
        let (row, letter) = self.dead.remove(&id)?;
        let number = self.add(Row { committed: true, owner: owner.to_owned(), place: None, ..row });
        Some((number, letter))
    }

    pub(super) fn purge(&mut self, id: &MessageId) -> bool {
        self.dead.remove(id).is_some()
    }

    pub(super) fn page(&mut self, owner: &str, slots: &mut Slots, room: usize, from: &PageSource) -> Page {
        let now = unix_seconds();
        let is_wanted = |row: &Row| match (from, row.place) {
            (PageSource::Waiting, None) => true,
            (PageSource::Waiting, Some(Place::Until(due))) => due <= now || row.message.expires_at <= now,
            (PageSource::Waiting, Some(Place::On(_))) => row.message.expires_at <= now,
            (PageSource::Shelves(shelves), Some(Place::On(shelf))) => shelves.contains(&shelf),
            (PageSource::Shelves(_), _) => false,
        };
        let mut page = Page::default();
        for (&number, row) in &mut self.rows {
            if row.owner != owner || slots.by_row.contains_key(&number) || !is_wanted(row) {
                continue;
            }
            if page.messages.len() == room {
                page.has_more = true;
                break;
            }
            row.place = None;
            page.messages.push(Paged {
                slot: slots.take(number, row.committed),
                id: row.message.id,
                kind: row.message.kind,
                topic: row.message.topic.clone(),
                message_type: row.message.message_type.clone(),
                published_at: row.published_at,
                expires_at: row.message.expires_at,
                deliver_limit: row.message.deliver_limit.unsigned_abs(),
                committed: row.committed,
                groups: row.groups.clone(),
            });
        }
        page
    }

    pub(super) fn shelve(
        &mut self,
        owner: &str,
        number: RowNumber,
        states: Vec<GroupState>,
        place: ShelfPlace,
    ) {
        if self.own(owner, number).is_none() {
            return;
        }
        let place = match place {
            ShelfPlace::Until(due) => Place::Until(due),
            ShelfPlace::On(shelf) => {
                self.shelves.entry(shelf.id).or_insert_with(|| Shelf::clone(&shelf));
                Place::On(shelf.id)
            }
        };
        if let Some(row) = self.own(owner, number) {
            row.groups = states;
            row.place = Some(place);
        }
    }

    pub(super) fn shelves(&self) -> Vec<Shelf> {
        self.shelves.values().cloned().collect()
    }

    pub(super) fn owners(&self) -> Vec<Owner> {
        let owners = self.owners.iter();
        owners.map(|(name, &has_left)| Owner { name: name.clone(), has_left }).collect()
    }

    pub(super) fn adopt(&mut self, from: &str, to: &str, limit: usize) -> usize {
        let mut adopted = 0;
        for row in self.rows.values_mut().filter(|row| row.owner == from).take(limit) {
            to.clone_into(&mut row.owner);
            adopted += 1;
        }
        if adopted == 0 && from != to {
            self.owners.remove(from);
        }
        adopted
    }

    pub(super) fn lost(&self, owner: &str, slots: &Slots) -> Vec<Slot> {
        let is_lost = |number: &RowNumber| self.rows.get(number).is_none_or(|row| row.owner != owner);
        slots.by_row.iter().filter(|(number, _)| is_lost(number)).map(|(_, &slot)| slot).collect()
    }
}
