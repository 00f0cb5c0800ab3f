//! The messages that a store in memory holds.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hashbrown::HashMap;
use kiteq_protocol::{Message, MessageId, MessageKind, Payload};

use super::options::MemoryOptions;
use crate::dedupe::DedupeWindow;
use crate::error::StoreError;
use crate::held::{AppendOutcome, DeadLetter, Kill, Loaded, Slot, StoreStats, Verdict, VerdictOutcome};

/// What an entry takes beside its payload: its own fields, its place in the tables, the allocator's share.
const ENTRY_OVERHEAD_BYTES: u64 = 200;

pub(super) struct State {
    options: MemoryOptions,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    by_id: HashMap<MessageId, u32>,
    /// By id, so that pages come in a stable order.
    dead: BTreeMap<MessageId, u32>,
    dedupe: DedupeWindow,
    payload_bytes: u64,
    pub(super) closed: bool,
}

struct Entry {
    id: MessageId,
    kind: MessageKind,
    committed: bool,
    payload: Payload,
    dead: Option<Death>,
}

struct Death {
    reason: crate::held::DeadReason,
    died_at: i64,
    groups: Vec<Bytes>,
}

impl Entry {
    fn dead_letter(&self, death: &Death) -> DeadLetter {
        DeadLetter {
            id: self.id,
            kind: self.kind,
            reason: death.reason,
            died_at: death.died_at,
            groups: death.groups.clone(),
            payload: self.payload.clone(),
        }
    }
}

impl State {
    pub(super) fn new(options: MemoryOptions) -> Self {
        Self {
            entries: Vec::with_capacity(options.messages_expected),
            free: Vec::new(),
            by_id: HashMap::with_capacity(options.messages_expected),
            dead: BTreeMap::new(),
            dedupe: DedupeWindow::new(options.dedupe),
            payload_bytes: 0,
            closed: false,
            options,
        }
    }

    /// Tells the time, once before a batch.
    pub(super) fn turn(&mut self, now: Duration) {
        self.dedupe.turn(now);
    }

    pub(super) fn append(&mut self, message: &Message) -> AppendOutcome {
        if self.by_id.contains_key(&message.id) || self.dedupe.contains(&message.id) {
            return AppendOutcome::Duplicate;
        }
        if let Err(full) = self.room_for(message.payload.len() as u64) {
            return AppendOutcome::Refused(full);
        }
        let entry = Entry {
            id: message.id,
            kind: message.kind,
            committed: message.committed,
            payload: compact(&message.payload),
            dead: None,
        };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                // Bounded by messages_max, which is below the largest slot.
                self.entries.push(None);
                (self.entries.len() - 1) as u32
            }
        };
        self.payload_bytes += entry.payload.len() as u64;
        self.by_id.insert(entry.id, slot);
        self.entries[slot as usize] = Some(entry);
        AppendOutcome::Stored(Slot(slot))
    }

    pub(super) fn decide(&mut self, id: &MessageId, verdict: Verdict) -> VerdictOutcome {
        let Some(&slot) = self.by_id.get(id) else { return VerdictOutcome::Ignored };
        match &mut self.entries[slot as usize] {
            Some(entry) if !entry.committed && entry.dead.is_none() => match verdict {
                Verdict::Commit => {
                    entry.committed = true;
                    VerdictOutcome::Committed(Slot(slot))
                }
                Verdict::Rollback => {
                    self.remove(slot);
                    VerdictOutcome::RolledBack(Slot(slot))
                }
            },
            _ => VerdictOutcome::Ignored,
        }
    }

    pub(super) fn settle(&mut self, slot: Slot) {
        if let Some(entry) = self.live(slot) {
            let id = entry.id;
            self.dedupe.insert(id);
            self.remove(slot.0);
        }
    }

    pub(super) fn kill(&mut self, kill: Kill) {
        if !self.options.keeps_dead_letters {
            return self.settle(kill.slot);
        }
        let Some(entry) = self.live(kill.slot) else { return };
        entry.dead = Some(Death { reason: kill.reason, died_at: unix_seconds(), groups: kill.groups });
        let id = entry.id;
        self.dead.insert(id, kill.slot.0);
    }

    pub(super) fn load(&self, slot: Slot) -> Result<Loaded, StoreError> {
        match self.entries.get(slot.0 as usize) {
            Some(Some(entry)) => {
                let payload = entry.payload.clone();
                Ok(Loaded { id: entry.id, kind: entry.kind, payload, committed_elsewhere: false })
            }
            _ => Err(StoreError::Corrupt {
                place: format!("slot {}", slot.0),
                reason: "no message is held there".to_owned(),
            }),
        }
    }

    pub(super) fn dead_letters(&self, after: Option<MessageId>, limit: usize) -> Vec<DeadLetter> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.dead
            .range((from, std::ops::Bound::Unbounded))
            .filter_map(|(_, &slot)| {
                let entry = self.entries.get(slot as usize)?.as_ref()?;
                entry.dead.as_ref().map(|death| entry.dead_letter(death))
            })
            .take(limit)
            .collect()
    }

    pub(super) fn revive(&mut self, id: &MessageId) -> Option<(Slot, DeadLetter)> {
        let slot = self.dead.remove(id)?;
        let entry = self.entries.get_mut(slot as usize)?.as_mut()?;
        let death = entry.dead.take()?;
        // A person decided that it is to be delivered, so no verdict is waited for any more.
        entry.committed = true;
        Some((Slot(slot), entry.dead_letter(&death)))
    }

    pub(super) fn purge(&mut self, id: &MessageId) -> bool {
        let Some(slot) = self.dead.remove(id) else { return false };
        self.remove(slot);
        true
    }

    pub(super) fn stats(&self) -> StoreStats {
        let dead_letters = self.dead.len() as u64;
        StoreStats {
            messages: self.by_id.len() as u64 - dead_letters,
            dead_letters,
            payload_bytes: self.payload_bytes,
            disk_bytes: 0,
        }
    }

    pub(super) fn health(&self) -> Result<(), StoreError> {
        if self.closed { Err(StoreError::Closed) } else { self.room_for(0) }
    }

    fn room_for(&self, payload_bytes: u64) -> Result<(), StoreError> {
        let held = self.by_id.len() as u64;
        if held >= self.options.messages_max {
            return Err(StoreError::Full { held, limit: self.options.messages_max });
        }
        let held_bytes = self.payload_bytes + held * ENTRY_OVERHEAD_BYTES;
        if held_bytes + payload_bytes + ENTRY_OVERHEAD_BYTES > self.options.bytes_max {
            return Err(StoreError::FullBytes { held_bytes, limit_bytes: self.options.bytes_max });
        }
        Ok(())
    }

    fn live(&mut self, slot: Slot) -> Option<&mut Entry> {
        self.entries.get_mut(slot.0 as usize)?.as_mut().filter(|entry| entry.dead.is_none())
    }

    fn remove(&mut self, slot: u32) {
        if let Some(entry) = self.entries[slot as usize].take() {
            self.payload_bytes -= entry.payload.len() as u64;
            self.by_id.remove(&entry.id);
            self.free.push(slot);
        }
    }
}

/// A copy that shares memory with nothing: a slice would keep the whole buffer that it was received in, and the byte
/// bound would not know.
fn compact(payload: &Payload) -> Payload {
    let whole = payload.to_bytes();
    Payload { head: whole.slice(..payload.head.len()), body: whole.slice(payload.head.len()..) }
}

fn unix_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}
