//! What a store must find when it is opened.

use super::*;

impl World {
    /// Opens the store and compares what it finds with what it must find.
    pub(super) fn reopen(&mut self, crash: Option<Crash>) {
        let options = MmapOptions {
            directory: "simulated".into(),
            sync: self.sync,
            segment_bytes: SEGMENT_BYTES,
            messages_max: MESSAGES_MAX,
            dedupe: DedupeLimits { window: WINDOW, ids_max: 10_000 },
        };
        let disk: Arc<SimDisk> = Arc::new(self.disk.clone());
        let mut found: Vec<(MessageId, Standing, Vec<GroupState>, u32)> = Vec::new();
        let nothing_promised = self.sync == SyncMode::Os && crash == Some(Crash::Power);
        self.scrambled |= nothing_promised;
        let model = &self.model;
        let recovered = recovery::recover(&*disk, &options, self.now(), &mut |live| {
            let known = &model.ids[&live.id];
            let version = live.deliver_limit;
            let (is_committed, is_revived) = (live.committed, live.expires_at != EXPIRES_AT);
            // What was there at the last start, and was not spoken of since, is on the disk in any case.
            let nothing_promised = nothing_promised && known.touched;
            let candidates = if nothing_promised { &known.ever } else { &known.standings };
            let standing = candidates.iter().rev().find_map(|standing| match *standing {
                Standing::Live { version: possible, order, committed, revived } if possible == version => {
                    // What became of another publication of the id may have met this one when nothing is promised.
                    let fits = nothing_promised || (committed, revived) == (is_committed, is_revived);
                    fits.then_some(Standing::Live {
                        version,
                        order,
                        committed: is_committed,
                        revived: is_revived,
                    })
                }
                _ => None,
            });
            let standing =
                standing.unwrap_or_else(|| panic!("{live:?} is none of {candidates:?} after {crash:?}"));
            let sent = message(live.id, version, true);
            assert_eq!((live.topic, live.message_type), (&sent.topic[..], &sent.message_type[..]));
            assert_eq!(live.kind, sent.kind);
            let noted = if nothing_promised { &known.ever_noted } else { &known.notes };
            assert!(
                noted.iter().any(|noted| noted == live.groups),
                "{}: {:?} is none of {noted:?}",
                live.id,
                live.groups
            );
            found.push((live.id, standing, live.groups.to_vec(), live.slot.0));
        })
        .expect("recovery");
        self.take_found(&found, nothing_promised);
        let shared = Arc::new(Shared {
            disk,
            index: Mutex::new(Index::new(options.dedupe)),
            health: Mutex::new(Health::default()),
            options,
        });
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let helper = SimHelper { waiting: waiting.clone(), shared: shared.clone() };
        let engine = Engine::start(shared.clone(), recovered, Box::new(helper), self.now());
        self.open = Some(Open { shared, engine, waiting });
        self.faulty = false;
        self.take_dead(nothing_promised);
        self.model.all_durable();
        for known in self.model.ids.values_mut() {
            known.touched = false;
        }
        for (id, ..) in found {
            self.load_and_compare(id);
        }
    }

    pub(super) fn take_found(
        &mut self,
        found: &[(MessageId, Standing, Vec<GroupState>, u32)],
        nothing_promised: bool,
    ) {
        let mut orders = Vec::new();
        for known in self.model.ids.values_mut() {
            known.slot = None;
            known.settled_uncertain = true;
            known.unlogged = false;
        }
        for (id, standing, noted, slot) in found {
            let known = self.model.known(id);
            assert!(known.slot.replace(*slot).is_none(), "{id} was reported twice");
            if let Standing::Live { order, .. } = standing {
                orders.push(*order);
            }
            known.standings.push(standing.clone());
            known.notes.push(noted.clone());
        }
        assert!(nothing_promised || orders.is_sorted(), "not in the order of publication: {orders:?}");
        let mut slots: Vec<u32> = found.iter().map(|(.., slot)| *slot).collect();
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), found.len(), "two messages in one slot");
    }

    /// What was not found live is a dead letter or gone.
    pub(super) fn take_dead(&mut self, nothing_promised: bool) {
        let dead = self.dead_letters();
        for (id, known) in &mut self.model.ids {
            if known.slot.is_some() {
                assert!(dead.iter().all(|letter| letter.id != *id), "{id} is alive and dead");
                continue;
            }
            let letter = dead.iter().find(|letter| letter.id == *id);
            let found = match letter {
                None => Standing::Absent,
                Some(letter) => {
                    let version = (1..=known.versions)
                        .rev()
                        .find(|version| is_payload_of(&letter.payload, *id, *version))
                        .expect("a dead letter was published once");
                    Standing::Dead { version }
                }
            };
            // Under no promise anything may be gone, or be dead without having died.
            assert!(
                (nothing_promised && known.touched) || known.standings.contains(&found),
                "{id}: {found:?} is none of {:?}",
                known.standings
            );
            let standing = found;
            known.standings.push(standing);
            known.notes.push(Vec::new());
        }
    }

    pub(super) fn dead_letters(&mut self) -> Vec<DeadLetter> {
        let open = self.open.as_ref().expect("the store is open");
        let plans: Vec<DeadLetterPlan> = {
            let index = lock(&open.shared.index);
            let slots = index.dead_after(None, usize::MAX);
            slots.into_iter().filter_map(|slot| DeadLetterPlan::new(&index, slot)).collect()
        };
        let mut letters = Vec::new();
        for plan in plans {
            let letter = plan.read().expect("a dead letter can be read");
            let versions = self.model.ids[&letter.id].versions;
            let fits = (0..=versions).any(|version| {
                let (reason, groups) = death_of(letter.id, version);
                is_payload_of(&letter.payload, letter.id, version)
                    && (self.scrambled || (reason == letter.reason && groups == letter.groups))
            });
            assert!(fits, "{letter:?} is nothing that was ever killed");
            letters.push(letter);
        }
        letters
    }
}
