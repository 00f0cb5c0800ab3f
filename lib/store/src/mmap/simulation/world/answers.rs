//! What answers must be, and what they mean for the model.

use super::*;

impl World {
    pub(super) fn take_answers(&mut self, asked: Vec<Asked>) {
        let mut promised = false;
        // Without room, or after a failure, what is told about messages is forgotten with the process.
        let unlogged = self.full || self.faulty;
        for asked in asked {
            match asked {
                Asked::Append(receiver) => {
                    for (message, outcome) in receiver.recv().expect("an answer") {
                        promised |= self.appended(&message, &outcome);
                    }
                }
                Asked::Decide(verdicts, receiver) => {
                    let outcomes = receiver.recv().expect("an answer");
                    assert_eq!(outcomes.len(), verdicts.len());
                    for ((id, verdict), outcome) in verdicts.into_iter().zip(outcomes) {
                        promised |= self.decided(id, verdict, &outcome);
                    }
                }
                Asked::Revive(ids, receiver) => {
                    let revived = receiver.recv().expect("an answer");
                    assert_eq!(revived.len(), ids.len());
                    for (id, revived) in ids.into_iter().zip(revived) {
                        promised |= self.revived(id, revived);
                    }
                }
                Asked::Purge(ids, receiver) => {
                    promised |= self.purged(&ids, receiver.recv().expect("an answer"));
                }
                Asked::Settle(ids) => {
                    let now = self.now;
                    for id in ids {
                        let known = self.model.known(&id);
                        known.becomes(Standing::Absent);
                        known.unlogged |= unlogged;
                        (known.slot, known.settled_at, known.settled_uncertain) = (None, Some(now), false);
                        known.noted(Vec::new());
                    }
                }
                Asked::Kill(ids) => {
                    for id in ids {
                        let known = self.model.known(&id);
                        let Standing::Live { version, .. } = *known.now() else { unreachable!() };
                        known.becomes(Standing::Dead { version });
                        known.unlogged |= unlogged;
                        known.slot = None;
                    }
                }
                Asked::Note(states) => {
                    for (id, states) in states {
                        let known = self.model.known(&id);
                        known.noted(states);
                        known.unlogged |= unlogged;
                    }
                }
            }
        }
        let failed = self.failed();
        // One sync makes the whole batch durable, and everything before it. Under sync=os the system has everything that
        // was written, which is all that the death of the process needs.
        if (promised || self.sync == SyncMode::Os) && !failed {
            self.model.all_durable();
        }
    }

    pub(super) fn failed(&mut self) -> bool {
        lock(&self.open().shared.health).failure.is_some()
    }

    pub(super) fn appended(&mut self, message: &Message, outcome: &AppendOutcome) -> bool {
        let (now, faulty, full) = (self.now, self.faulty, self.full);
        let (held, next_order) = (self.model.held(), self.model.next_order);
        let known = self.model.known(&message.id);
        let version = known.versions;
        let standing =
            Standing::Live { version, order: next_order, committed: message.committed, revived: false };
        let since_settled = known.settled_at.map(|at| now.saturating_sub(at));
        let remembered = since_settled.is_some_and(|since| since < WINDOW);
        let forgotten =
            since_settled.is_none_or(|since| since > WINDOW * if known.settled_uncertain { 4 } else { 2 });
        match outcome {
            AppendOutcome::Stored(slot) => {
                assert_eq!(*known.now(), Standing::Absent, "{} is held already", message.id);
                assert!(known.settled_uncertain || !remembered, "{} was settled just now", message.id);
                known.becomes_durably(standing);
                known.slot = Some(slot.0);
                known.notes = vec![Vec::new()];
                self.model.next_order += 1;
                let sharing = self.model.ids.values().filter(|known| known.slot == Some(slot.0)).count();
                assert_eq!(sharing, 1, "slot {} is shared", slot.0);
                true
            }
            AppendOutcome::Deferred => panic!("{}: every message is resident in this store", message.id),
            AppendOutcome::Duplicate => {
                assert!(*known.now() != Standing::Absent || !forgotten, "{} is new", message.id);
                false
            }
            AppendOutcome::Refused(StoreError::Full { .. }) => {
                assert!(held + 20 >= MESSAGES_MAX, "{held} messages are held");
                false
            }
            AppendOutcome::Refused(StoreError::DiskFull { .. }) => {
                assert!(full || faulty, "the disk has room");
                false
            }
            AppendOutcome::Refused(StoreError::Poisoned { .. }) => {
                assert!(faulty, "nothing ever failed");
                if *known.now() == Standing::Absent {
                    known.may_have_become(standing);
                    self.model.next_order += 1;
                }
                false
            }
            AppendOutcome::Refused(error) => panic!("refused: {error}"),
        }
    }

    pub(super) fn decided(&mut self, id: MessageId, verdict: Verdict, outcome: &VerdictOutcome) -> bool {
        let (faulty, full) = (self.faulty, self.full);
        let known = self.model.known(&id);
        let undecided = match known.now() {
            Standing::Live { version, order, committed: false, .. } => Some((*version, *order)),
            _ => None,
        };
        match (outcome, undecided) {
            (VerdictOutcome::Ignored, None) => false,
            (VerdictOutcome::Committed(slot), Some((version, order))) => {
                assert_eq!((verdict, known.slot), (Verdict::Commit, Some(slot.0)));
                // A note that is in memory only stays so.
                let unlogged = known.unlogged;
                known.becomes_durably(Standing::Live { version, order, committed: true, revived: false });
                known.unlogged = unlogged;
                true
            }
            (VerdictOutcome::RolledBack(slot), Some(_)) => {
                assert_eq!((verdict, known.slot), (Verdict::Rollback, Some(slot.0)));
                known.becomes(Standing::Absent);
                known.unlogged |= full || faulty;
                known.noted(Vec::new());
                known.slot = None;
                false
            }
            (VerdictOutcome::Failed(_), Some((version, order))) => {
                assert!((faulty || full) && verdict == Verdict::Commit);
                known.may_have_become(Standing::Live { version, order, committed: true, revived: false });
                false
            }
            (outcome, _) => panic!("{id}: {verdict:?} gave {outcome:?}"),
        }
    }

    pub(super) fn revived(&mut self, id: MessageId, revived: Revived) -> bool {
        let (faulty, full, scrambled) = (self.faulty, self.full, self.scrambled);
        let known = self.model.known(&id);
        let version = match known.now() {
            Standing::Dead { version } => *version,
            _ => {
                assert!(matches!(revived, Ok(None)) || faulty || full, "{revived:?}");
                return false;
            }
        };
        // Its place in the order is that of its publication.
        let order = known
            .ever
            .iter()
            .rev()
            .find_map(|standing| match standing {
                Standing::Live { version: of, order, .. } if *of == version => Some(*order),
                _ => None,
            })
            .expect("a dead letter was published");
        let standing = Standing::Live { version, order, committed: true, revived: true };
        match revived {
            Ok(Some((slot, letter))) => {
                assert!(is_payload_of(&letter.payload, id, version), "{letter:?} is not version {version}");
                assert!(scrambled || (letter.reason, letter.groups) == death_of(id, version));
                known.becomes_durably(standing);
                known.notes = vec![Vec::new()];
                known.slot = Some(slot.0);
                true
            }
            Ok(None) => panic!("{id} is a dead letter"),
            Err(error) => {
                assert!(faulty || full, "{error}");
                known.may_have_become(standing);
                let noted = known.notes[known.notes.len() - 1].clone();
                known.noted(Vec::new());
                known.noted(noted);
                false
            }
        }
    }

    pub(super) fn purged(&mut self, ids: &[MessageId], count: usize) -> bool {
        let dead: Vec<MessageId> = ids
            .iter()
            .filter(|id| matches!(self.model.ids[*id].now(), Standing::Dead { .. }))
            .copied()
            .collect();
        if count == 0 {
            assert!(dead.is_empty() || self.faulty || self.full);
            return false;
        }
        assert_eq!(count, dead.len());
        for id in dead {
            let known = self.model.known(&id);
            known.becomes(Standing::Absent);
            known.noted(Vec::new());
        }
        true
    }
}
