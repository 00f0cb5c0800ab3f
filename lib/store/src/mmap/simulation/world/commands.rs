//! Random commands.

use super::*;

impl World {
    pub(super) fn add_command(
        &mut self,
        untouched: &mut Vec<MessageId>,
        events: &mut Vec<Event>,
        asked: &mut Vec<Asked>,
    ) {
        let count = self.random.usize(1..5);
        let mut pick = |model: &Model, wanted: &mut dyn FnMut(&Standing) -> bool| -> Vec<MessageId> {
            let mut picked = Vec::new();
            untouched.retain(|id| {
                let take = picked.len() < count && wanted(model.ids[id].now());
                if take {
                    picked.push(*id);
                }
                !take
            });
            picked
        };
        let live = |standing: &Standing| matches!(standing, Standing::Live { .. });
        let dead = |standing: &Standing| matches!(standing, Standing::Dead { .. });
        let command = match self.random.u8(..100) {
            0..=44 => {
                let ids = pick(&self.model, &mut |_| true);
                let mut messages = Vec::new();
                for id in ids {
                    let version = self.model.known(&id).versions + 1;
                    self.model.known(&id).versions = version;
                    messages.push(message(id, version, self.random.u8(..4) != 0));
                    if self.random.u8(..10) == 0 {
                        let again = messages[messages.len() - 1].clone();
                        messages.push(again);
                    }
                }
                let (done, receiver) = answer();
                asked.push(Asked::Append(receiver));
                Command::Append { messages, done }
            }
            45..=54 => {
                let ids = pick(&self.model, &mut |standing| {
                    self.random.u8(..4) == 0 || {
                        matches!(standing, Standing::Live { committed: false, .. })
                    }
                });
                let verdict = if self.random.bool() { Verdict::Commit } else { Verdict::Rollback };
                let mut verdicts: Vec<_> = ids.into_iter().map(|id| (id, verdict)).collect();
                if self.random.u8(..5) == 0 {
                    verdicts.extend_from_within(..);
                }
                let (done, receiver) = answer();
                asked.push(Asked::Decide(verdicts.clone(), receiver));
                Command::Decide { verdicts, done }
            }
            55..=79 => {
                let ids = pick(&self.model, &mut |standing| live(standing));
                let slots = ids.iter().map(|id| self.slot(id)).collect();
                asked.push(Asked::Settle(ids));
                Command::Settle { slots }
            }
            80..=85 => {
                let ids = pick(&self.model, &mut |standing| live(standing));
                let mut states = Vec::new();
                for id in ids {
                    let groups = (0..self.random.u32(..3))
                        .map(|number| GroupState {
                            group: format!("s-{number}").into(),
                            attempts: self.random.u32(..100),
                            done: self.random.bool(),
                        })
                        .collect();
                    states.push((id, groups));
                }
                let command = Command::Note {
                    states: states
                        .iter()
                        .map(|(id, groups): &(_, Vec<_>)| (self.slot(id), groups.clone()))
                        .collect(),
                };
                asked.push(Asked::Note(states));
                command
            }
            86..=91 => {
                let ids = pick(&self.model, &mut |standing| live(standing));
                let dead = ids.iter().map(|id| self.kill(id)).collect();
                asked.push(Asked::Kill(ids));
                Command::Kill { dead }
            }
            92..=95 => {
                let ids = pick(&self.model, &mut |standing| dead(standing) || self.random.u8(..20) == 0);
                let (done, receiver) = answer();
                asked.push(Asked::Revive(ids.clone(), receiver));
                Command::Revive { ids, done }
            }
            _ => {
                let ids = pick(&self.model, &mut |standing| dead(standing) || self.random.u8(..20) == 0);
                let (done, receiver) = answer();
                asked.push(Asked::Purge(ids.clone(), receiver));
                Command::Purge { ids, done }
            }
        };
        events.push(Event::Command(command));
    }

    pub(super) fn slot(&self, id: &MessageId) -> Slot {
        Slot(self.model.ids[id].slot.expect("a live message has a slot"))
    }

    pub(super) fn kill(&self, id: &MessageId) -> Kill {
        let Standing::Live { version, .. } = *self.model.ids[id].now() else { unreachable!() };
        let (reason, groups) = death_of(*id, version);
        Kill { slot: self.slot(id), reason, groups }
    }
}
