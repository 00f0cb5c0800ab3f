//! One simulated run: random commands and accidents, and what must hold after each.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use kiteq_protocol::{Message, MessageId};

use super::disk::{Crash, SimDisk};
use super::model::{EXPIRES_AT, Model, Standing, WINDOW, death_of, id, is_payload_of, message};
use crate::command::Command;
use crate::dedupe::DedupeLimits;
use crate::error::StoreError;
use crate::held::{
    AppendOutcome, DeadLetter, Done, GroupState, Kill, Revived, Slot, Verdict, VerdictOutcome,
};
use crate::mailbox::lock;
use crate::mmap::engine::{Engine, Event, Health, Shared};
use crate::mmap::index::{Aside, Index};
use crate::mmap::options::{MmapOptions, SyncMode};
use crate::mmap::read::{DeadLetterPlan, read_noted};
use crate::mmap::reader::{self, Load};
use crate::mmap::recovery;
use crate::mmap::tasks::{Helper, Outcome, Prepared, Task, carry_out};
use crate::mmap::time::Now;

const IDS: u32 = 120;
const SEGMENT_BYTES: u64 = 16 << 10;
const AMPLE_BYTES: u64 = 64 << 20;
const MESSAGES_MAX: u64 = 60;

/// Tasks wait until the simulation feels like doing one.
#[derive(Default)]
struct Waiting {
    files: VecDeque<Task>,
    syncs: VecDeque<Task>,
    prepared: Option<Result<Prepared, String>>,
    outcomes: Vec<Event>,
}

struct SimHelper {
    waiting: Arc<Mutex<Waiting>>,
    shared: Arc<Shared>,
}

fn do_files_task(waiting: &Mutex<Waiting>, shared: &Shared) -> bool {
    let task = lock(waiting).files.pop_front();
    let Some(task) = task else { return false };
    let outcome = carry_out(task, &*shared.disk, &shared.index);
    let mut waiting = lock(waiting);
    match outcome {
        Outcome::Prepared(result) => waiting.prepared = Some(result),
        outcome => waiting.outcomes.push(Event::Outcome(outcome)),
    }
    true
}

fn do_sync_task(waiting: &Mutex<Waiting>, shared: &Shared) -> bool {
    let task = lock(waiting).syncs.pop_front();
    let Some(task) = task else { return false };
    let outcome = carry_out(task, &*shared.disk, &shared.index);
    lock(waiting).outcomes.push(Event::Outcome(outcome));
    true
}

impl Helper for SimHelper {
    fn start(&mut self, task: Task) {
        let mut waiting = lock(&self.waiting);
        match task {
            Task::Prepare { .. } | Task::Retire { .. } => waiting.files.push_back(task),
            Task::Sync { .. } | Task::Collect(_) => waiting.syncs.push_back(task),
        }
    }

    fn prepared(&mut self) -> Option<Result<Prepared, String>> {
        lock(&self.waiting).prepared.take()
    }

    fn wait_prepared(&mut self) -> Result<Prepared, String> {
        loop {
            if let Some(result) = self.prepared() {
                return result;
            }
            assert!(do_files_task(&self.waiting, &self.shared), "a preparation is under way");
        }
    }
}

struct Open {
    shared: Arc<Shared>,
    engine: Engine,
    waiting: Arc<Mutex<Waiting>>,
}

pub(super) struct World {
    random: fastrand::Rng,
    disk: SimDisk,
    sync: SyncMode,
    now: Duration,
    model: Model,
    open: Option<Open>,
    /// Writes or syncs may have failed since the store was opened.
    faulty: bool,
    full: bool,
    /// Power failed under sync=os: a death may have met another publication of its id than the one that died.
    scrambled: bool,
}

/// A call whose answer arrives when its batch is done.
enum Asked {
    Append(mpsc::Receiver<Vec<(Message, AppendOutcome)>>),
    Decide(Vec<(MessageId, Verdict)>, mpsc::Receiver<Vec<VerdictOutcome>>),
    Revive(Vec<MessageId>, mpsc::Receiver<Vec<Revived>>),
    Purge(Vec<MessageId>, mpsc::Receiver<usize>),
    /// Settled ids, whose standing changes at its place in the batch.
    Settle(Vec<MessageId>),
    Kill(Vec<MessageId>),
    Note(Vec<(MessageId, Vec<GroupState>)>),
}

fn answer<T: Send + 'static>() -> (Done<T>, mpsc::Receiver<T>) {
    let (sender, receiver) = mpsc::channel();
    (Box::new(move |answer| sender.send(answer).expect("the world waits for it")), receiver)
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        // Segments take their unique ids from here.
        fastrand::seed(seed);
        let mut random = fastrand::Rng::with_seed(seed);
        let sync = if random.u8(..4) == 0 { SyncMode::Os } else { SyncMode::Group };
        let mut world = Self {
            disk: SimDisk::new(random.fork(), AMPLE_BYTES),
            random,
            sync,
            now: Duration::from_secs(1000),
            model: Model::new(IDS),
            open: None,
            faulty: false,
            full: false,
            scrambled: false,
        };
        world.reopen(None);
        world
    }

    pub(super) fn run(&mut self, steps: u32) {
        for _ in 0..steps {
            match self.random.u8(..100) {
                0..=59 => self.batch(),
                60..=84 => self.help(),
                85..=91 => self.read_some(),
                92..=94 => self.now += Duration::from_millis(self.random.u64(..6000)),
                95 => self.accident(),
                96 => self.fill_or_free_disk(),
                97 => self.compare_dead_letters(),
                98 => self.crash(),
                _ => self.close(),
            }
        }
        self.crash();
        self.everything_goes_well_again();
    }

    fn now(&self) -> Now {
        Now { monotonic: self.now, unix_seconds: self.now.as_secs() as i64 }
    }

    fn open(&mut self) -> &mut Open {
        self.open.as_mut().expect("the store is open")
    }

    /// Opens the store and compares what it finds with what it must find.
    fn reopen(&mut self, crash: Option<Crash>) {
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

    fn take_found(&mut self, found: &[(MessageId, Standing, Vec<GroupState>, u32)], nothing_promised: bool) {
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
    fn take_dead(&mut self, nothing_promised: bool) {
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

    fn dead_letters(&mut self) -> Vec<DeadLetter> {
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

    fn compare_dead_letters(&mut self) {
        let expected = self.model.select(|standing| matches!(standing, Standing::Dead { .. }));
        let letters = self.dead_letters();
        assert_eq!(letters.iter().map(|letter| letter.id).collect::<Vec<_>>(), expected);
        let stats = lock(&self.open().shared.index).stats();
        assert_eq!((stats.messages + stats.dead_letters, stats.dead_letters), {
            (self.model.held(), expected.len() as u64)
        });
    }

    fn read_some(&mut self) {
        let live = self.model.select(|standing| matches!(standing, Standing::Live { .. }));
        for _ in 0..live.len().min(5) {
            let id = live[self.random.usize(..live.len())];
            self.load_and_compare(id);
        }
    }

    fn load_and_compare(&mut self, id: MessageId) {
        let known = &self.model.ids[&id];
        let Standing::Live { version, .. } = *known.now() else { return };
        let slot = Slot(known.slot.expect("a live message has a slot"));
        let (done, loaded) = answer();
        reader::answer(&self.open().shared, &mut vec![Load { slots: vec![slot], done }]);
        let loaded = loaded.recv().expect("an answer").remove(0).expect("a held message can be read");
        assert_eq!(loaded.id, id);
        assert!(is_payload_of(&loaded.payload, id, version), "{loaded:?} is not version {version}");
        if !self.faulty && !self.full && !self.model.ids[&id].unlogged {
            let noted = self.noted(slot.0);
            assert_eq!(Some(&noted), self.model.ids[&id].notes.last(), "what is known about {id}");
        }
    }

    /// What the log would copy with a message.
    fn noted(&mut self, slot: u32) -> Vec<GroupState> {
        let index = lock(&self.open().shared.index);
        match index.aside(slot) {
            Some(Aside::At(place)) => {
                let source = index.source(*place).expect("a segment that is there");
                read_noted(&source, *place).expect("what was noted")
            }
            _ => Vec::new(),
        }
    }

    /// One round of the writer with some commands.
    fn batch(&mut self) {
        let mut events = std::mem::take(&mut lock(&self.open().waiting).outcomes);
        let mut asked = Vec::new();
        // What this batch says about an id is said once: answers come when the batch is done.
        let mut untouched: Vec<MessageId> = (0..IDS).map(id).collect();
        self.random.shuffle(&mut untouched);
        for _ in 0..self.random.usize(1..6) {
            self.add_command(&mut untouched, &mut events, &mut asked);
        }
        self.run_events(&mut events);
        self.take_answers(asked);
    }

    fn add_command(
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

    fn slot(&self, id: &MessageId) -> Slot {
        Slot(self.model.ids[id].slot.expect("a live message has a slot"))
    }

    fn kill(&self, id: &MessageId) -> Kill {
        let Standing::Live { version, .. } = *self.model.ids[id].now() else { unreachable!() };
        let (reason, groups) = death_of(*id, version);
        Kill { slot: self.slot(id), reason, groups }
    }

    fn take_answers(&mut self, asked: Vec<Asked>) {
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

    fn failed(&mut self) -> bool {
        lock(&self.open().shared.health).failure.is_some()
    }

    fn appended(&mut self, message: &Message, outcome: &AppendOutcome) -> bool {
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

    fn decided(&mut self, id: MessageId, verdict: Verdict, outcome: &VerdictOutcome) -> bool {
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

    fn revived(&mut self, id: MessageId, revived: Revived) -> bool {
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

    fn purged(&mut self, ids: &[MessageId], count: usize) -> bool {
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

    /// Lets helpers work, and the writer hear of it.
    fn help(&mut self) {
        let files_first = self.random.bool();
        let Open { waiting, shared, .. } = self.open();
        let _ = if files_first { do_files_task(waiting, shared) } else { do_sync_task(waiting, shared) };
        let mut events = std::mem::take(&mut lock(&self.open().waiting).outcomes);
        events.push(Event::Wake);
        self.run_events(&mut events);
    }

    fn accident(&mut self) {
        self.faulty = true;
        let writes = self.random.bool();
        self.disk.set_faults(writes, !writes || self.random.bool());
        self.batch();
        self.disk.set_faults(false, false);
        self.batch();
        if self.failed() && self.random.bool() {
            self.crash();
        }
    }

    fn fill_or_free_disk(&mut self) {
        self.full = !self.full;
        let segments = self.random.u64(1..6);
        self.disk.set_capacity(if self.full { segments * SEGMENT_BYTES } else { AMPLE_BYTES });
        if !self.full {
            // Whoever was refused is told so until the store asks again.
            self.now += Duration::from_secs(1);
            self.help();
        }
    }

    fn crash(&mut self) {
        let crash = if self.random.u8(..3) == 0 { Crash::Process } else { Crash::Power };
        self.open = None;
        self.disk.crash(crash);
        self.reopen(Some(crash));
    }

    fn close(&mut self) {
        let open = self.open();
        let closed = open.engine.close();
        // The threads finish what they have.
        while do_files_task(&open.waiting, &open.shared) || do_sync_task(&open.waiting, &open.shared) {}
        let failed = self.failed();
        assert!(closed.is_ok() || failed || self.full, "{closed:?}");
        // What could not be written down while the disk was full, or after a failure, may be forgotten.
        if closed.is_ok() && !failed {
            self.model.all_durable();
        }
        self.open = None;
        let crash = if self.random.bool() { Crash::Process } else { Crash::Power };
        self.disk.crash(crash);
        // A closed log is synced, also under sync=os.
        self.reopen(Some(if self.sync == SyncMode::Os && (failed || self.full) {
            crash
        } else {
            Crash::Process
        }));
    }

    /// With room on the disk and no failures, everything is possible, and one message that stays holds nothing else.
    fn everything_goes_well_again(&mut self) {
        self.full = false;
        self.disk.set_capacity(AMPLE_BYTES);
        self.now += WINDOW * 10;
        self.help();
        let mut live = self.model.select(|standing| matches!(standing, Standing::Live { .. }));
        let stuck = live.pop();
        let slots = live.iter().map(|id| self.slot(id)).collect();
        let dead = self.model.select(|standing| matches!(standing, Standing::Dead { .. }));
        let (done, purged) = answer();
        self.run_all(vec![Command::Settle { slots }, Command::Purge { ids: dead.clone(), done }]);
        assert_eq!(purged.recv().expect("an answer"), dead.len());
        for number in 0..150 {
            let (done, appended) = answer();
            self.run_all(vec![Command::Append { messages: vec![message(id(IDS + number), 1, true)], done }]);
            let outcome = appended.recv().expect("an answer").remove(0).1;
            let AppendOutcome::Stored(slot) = outcome else { panic!("{outcome:?}") };
            self.run_all(vec![Command::Settle { slots: vec![slot] }]);
            self.now += Duration::from_millis(30);
            self.help();
        }
        for _ in 0..40 {
            self.now += Duration::from_millis(100);
            for _ in 0..4 {
                self.help();
            }
        }
        let index = lock(&self.open.as_ref().expect("the store is open").shared.index);
        assert_eq!(index.held(), u64::from(stuck.is_some()));
        assert!(index.segments.len() <= 5, "{} segments for one message", index.segments.len());
        drop(index);
        if let Some(stuck) = stuck {
            self.load_and_compare(stuck);
        }
    }

    fn run_all(&mut self, commands: Vec<Command>) {
        let mut events: Vec<Event> = commands.into_iter().map(Event::Command).collect();
        self.run_events(&mut events);
    }

    fn run_events(&mut self, events: &mut Vec<Event>) {
        let now = self.now();
        let engine = &mut self.open().engine;
        engine.run(events, now);
        // A writer that is to wake at once for ever is a busy loop.
        let wake_at = engine.wake_at();
        assert!(wake_at.is_none_or(|at| at > now.monotonic), "{wake_at:?} is not after {now:?}");
    }
}
