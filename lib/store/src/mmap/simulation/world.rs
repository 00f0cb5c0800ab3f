//! One simulated run: random commands and accidents, and what must hold after each.

mod answers;
mod commands;
mod opening;

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
