//! The dispatcher: one task that owns everything about waiting messages.
//!
//! Sessions, the store and the registry tell it what happened through one mailbox of [`Event`]s. In each turn it takes
//! all of them, updates its tables, lets due times take effect, delivers what can be delivered, and hands what has
//! accumulated to the store and to the connections in batches. Nothing here is shared, so nothing here is locked.

mod body_cache;
pub(crate) mod connections;
mod deliver;
mod group_set;
mod groups;
mod intake;
mod lane;
mod outcome;
mod paging;
mod prepared;
mod recent_ids;
mod routes;
mod shelves;
mod shelving;
mod stats;
mod sweep;
mod table;
mod transient;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kiteq_protocol::Message;
use kiteq_registry::{Binding, Registry};
use kiteq_store::{
    DeadLetter, GroupState, Kill, Loaded, Page, PageSource, SharedStore, Shelf, Shelving, Slot, StoreError,
    VerdictOutcome,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;

use crate::BrokerConfig;
use crate::clock::WallClock;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::session::outbound::Pace;
use crate::shared::TransientBudget;
use body_cache::BodyCache;
use connections::{Ack, ConnectionId, Connections, NewConnection};
use groups::{GroupId, Groups};
use lane::{LaneId, Lanes, Ready};
use paging::Paging;
use recent_ids::RecentIds;
use routes::{Routes, TopicId};
pub use stats::{BrokerStats, LaneStats, Residency};
use table::{MessageRef, Table, Ticket};
pub(crate) use transient::Trial;

/// What the dispatcher is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// The store holds these messages. The permit is their share of the publish budget.
    Stored {
        messages: Vec<(Slot, Message)>,
        budget: OwnedSemaphorePermit,
    },
    /// Deliver these without storing them; their bytes are accounted for in the transient budget.
    Fly(Vec<Message>),
    /// Deliver these first, and store those that not every group acks at once.
    Try(Vec<Trial>),
    /// The store holds the message of a trial that some groups have acked already.
    StoredAfterTrial {
        slot: Slot,
        message: Box<Message>,
        done: Vec<Bytes>,
    },
    /// A consumer answered deliveries.
    Acks {
        connection: ConnectionId,
        acks: Vec<Ack>,
    },
    /// The store carried out producers' verdicts.
    Decided(Vec<VerdictOutcome>),
    Connected(NewConnection),
    Disconnected(ConnectionId),
    /// The registry's bindings of a topic, read for the first time or changed.
    Bindings {
        topic: TopicId,
        bindings: Arc<[Binding]>,
    },
    /// Bodies that were asked for.
    Loaded(Vec<(Ticket, Result<Loaded, StoreError>)>),
    /// Messages that are resident now, as request number `request` asked; or that request has failed.
    Paged {
        request: u64,
        from: PageSource,
        page: Result<Page, StoreError>,
    },
    /// The shelves of the store.
    Shelves(Result<Vec<Shelf>, StoreError>),
    /// The store holds messages that are not resident.
    Deferred,
    /// Messages of another broker have become this one's.
    Adopted,
    /// This broker was cut off, so others may have taken messages of it.
    SuspectLost,
    /// These messages are other brokers' now.
    Lost(Result<Vec<Slot>, StoreError>),
    /// Dead letters that are live again.
    Revived(Vec<(Slot, DeadLetter)>),
    /// Start no more deliveries; tells when none is out any more.
    Drain(oneshot::Sender<()>),
    /// Note how far every message is, then end.
    Stop(oneshot::Sender<()>),
}

/// A failed delivery's next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Retry {
    /// Milliseconds since the dispatcher started.
    due_ms: u64,
    lane: LaneId,
    ready: Ready,
}

impl Ord for Retry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due_ms.cmp(&other.due_ms)
    }
}

impl PartialOrd for Retry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What a turn has accumulated for the store.
#[derive(Debug, Default)]
struct ForStore {
    settle: Vec<Slot>,
    note: Vec<(Slot, Vec<GroupState>)>,
    kill: Vec<Kill>,
    load: Vec<Ticket>,
    shelve: Vec<Shelving>,
}

/// How often due times are looked at when nothing else happens.
const TICK: Duration = Duration::from_millis(20);
/// So many finished messages are handed to the store at once, fewer at the next tick.
const SETTLE_BATCH: usize = 512;
/// In a turn with deliveries for at most so many connections, the dispatcher writes little ones itself.
const DIRECT_CONNECTIONS_MAX: usize = 4;
/// How often the slow things are done: time-outs, figures, a part of the sweep.
const HOUSEKEEPING: Duration = Duration::from_millis(500);

/// What a dispatcher works with.
pub(crate) struct Surroundings {
    pub(crate) config: Arc<BrokerConfig>,
    pub(crate) store: SharedStore,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<WallClock>,
    pub(crate) inbox: Arc<Mailbox<Event>>,
    pub(crate) transient_budget: Arc<TransientBudget>,
    pub(crate) stats: Arc<BrokerStats>,
    /// Ends the tasks that follow the registry.
    pub(crate) stop: CancellationToken,
}

pub(crate) struct Dispatcher {
    around: Surroundings,
    started: Instant,
    table: Table,
    bodies: BodyCache,
    routes: Routes,
    lanes: Lanes,
    groups: Groups,
    connections: Connections,
    retries: BinaryHeap<Reverse<Retry>>,
    /// Undecided prepared messages in the order in which their producers are asked next.
    checks: VecDeque<(Instant, Ticket)>,
    /// Lanes that wait for their watermark.
    throttled: Vec<LaneId>,
    /// Lanes that wait for bodies.
    loading: Vec<LaneId>,
    /// Groups that may have something to deliver.
    dirty: Vec<GroupId>,
    /// Groups whose connections are all full.
    blocked: Vec<GroupId>,
    /// Connections with deliveries that go out at the end of the turn.
    staged: Vec<ConnectionId>,
    /// Groups that a message failed for good, until the message is finished.
    dead_groups: HashMap<MessageRef, Vec<Bytes>>,
    /// What was noted before the restart, until the topic's bindings are read.
    recovered: HashMap<MessageRef, Arc<[GroupState]>>,
    /// The states that were recovered last.
    last_states: Option<Arc<[GroupState]>>,
    trials: HashMap<MessageRef, Trial>,
    /// Trials that succeeded a moment ago.
    tried: RecentIds,
    for_store: ForStore,
    /// For a store whose messages are not all resident.
    paging: Option<Box<Paging>>,
    sweep_place: usize,
    /// Whether this turn does what is done once a tick.
    is_tick: bool,
    tick_at: Instant,
    housekeeping_at: Instant,
    /// Told when no delivery is out any more; no new ones are started.
    draining: Option<oneshot::Sender<()>>,
    is_draining: bool,
}

impl Dispatcher {
    pub(crate) fn new(around: Surroundings) -> Self {
        let bodies = BodyCache::new(around.config.body_cache_bytes);
        Self {
            started: Instant::now(),
            table: Table::default(),
            bodies,
            routes: Routes::default(),
            lanes: Lanes::default(),
            groups: Groups::default(),
            connections: Connections::default(),
            retries: BinaryHeap::new(),
            checks: VecDeque::new(),
            throttled: Vec::new(),
            loading: Vec::new(),
            dirty: Vec::new(),
            blocked: Vec::new(),
            staged: Vec::new(),
            dead_groups: HashMap::new(),
            recovered: HashMap::new(),
            last_states: None,
            trials: HashMap::new(),
            tried: RecentIds::default(),
            for_store: ForStore::default(),
            paging: around.store.paged().map(|store| Box::new(Paging::new(store.resident_max()))),
            sweep_place: 0,
            is_tick: true,
            tick_at: Instant::now(),
            housekeeping_at: Instant::now(),
            draining: None,
            is_draining: false,
            around,
        }
    }

    /// Runs until [`Event::Stop`].
    pub(crate) async fn run(mut self) {
        let inbox = self.around.inbox.clone();
        let mut events = Vec::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // A turn's work is bounded: what it left undone is done in the next, with other tasks in between.
            if self.dirty.is_empty() || self.is_draining {
                tokio::select! {
                    () = inbox.arrival() => {}
                    _ = tick.tick() => {}
                }
            }
            let now = Instant::now();
            self.is_tick = now >= self.tick_at;
            if self.is_tick {
                self.tick_at = now + TICK;
            }
            inbox.take_all(&mut events);
            for event in events.drain(..) {
                if let Event::Stop(stopped) = event {
                    self.note_everything();
                    self.is_tick = true;
                    self.hand_over();
                    let _ = stopped.send(());
                    return;
                }
                self.on_event(event);
            }
            self.on_time();
            self.deliver();
            self.hand_over();
            if self.draining.is_some()
                && self.connections.in_flight() == 0
                && let Some(landed) = self.draining.take()
            {
                let _ = landed.send(());
            }
            // Sessions get their turn also while the mailbox never runs dry.
            tokio::task::yield_now().await;
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Stored { messages, budget } => {
                for (slot, message) in messages {
                    self.on_stored(slot, message);
                }
                drop(budget);
            }
            Event::Fly(messages) => messages.into_iter().for_each(|message| self.on_fly(message)),
            Event::Try(trials) => trials.into_iter().for_each(|trial| self.on_trial(trial)),
            Event::StoredAfterTrial { slot, message, done } => {
                self.on_stored_after_trial(slot, *message, &done);
            }
            Event::Acks { connection, acks } => self.on_acks(connection, acks),
            Event::Decided(outcomes) => outcomes.into_iter().for_each(|outcome| self.on_decided(outcome)),
            Event::Connected(connection) => self.on_connected(connection),
            Event::Disconnected(connection) => self.on_disconnected(connection),
            Event::Bindings { topic, bindings } => self.on_bindings(topic, &bindings),
            Event::Loaded(loaded) => self.on_loaded(loaded),
            Event::Paged { request, from, page } => self.on_page(request, &from, page),
            Event::Shelves(shelves) => self.on_shelves(shelves),
            Event::Deferred => self.on_deferred(),
            Event::Adopted => self.on_adopted(),
            Event::SuspectLost => self.suspect_lost(),
            Event::Lost(lost) => self.on_lost(lost),
            Event::Revived(letters) => {
                letters.into_iter().for_each(|(slot, letter)| self.on_revived(slot, &letter));
            }
            Event::Drain(landed) => {
                self.is_draining = true;
                self.draining = Some(landed);
            }
            Event::Stop(_) => {}
        }
    }

    /// Lets due times take effect.
    fn on_time(&mut self) {
        let now = Instant::now();
        self.release_retries(now);
        self.release_throttled(now);
        if self.is_tick {
            self.mind_residency(now);
        }
        if now >= self.housekeeping_at {
            self.housekeeping_at = now + HOUSEKEEPING;
            self.time_out_deliveries(now);
            self.time_out_trials(now);
            self.drop_unbound(now);
            // Before the questions: a message that is being read back for one is not swept.
            self.sweep_expired();
            self.drop_stale_tickets();
            self.ask_producers(now);
            // Windows of connections that warm up grow without an event.
            self.unblock_all();
            self.publish_stats();
        }
    }

    /// Hands everything that the turn has accumulated to the store and the connections.
    fn hand_over(&mut self) {
        // With little to do, waking each connection's writer would take longer than writing; with much, this task has
        // better things to do.
        let pace = if self.staged.len() <= DIRECT_CONNECTIONS_MAX { Pace::Direct } else { Pace::Queued };
        for connection in self.staged.drain(..) {
            if let Some(connection) = self.connections.get_mut(connection) {
                connection.flush(pace);
            }
        }
        let store = &self.around.store;
        let work = &mut self.for_store;
        if !work.note.is_empty() {
            store.note(std::mem::take(&mut work.note));
        }
        // After the notes: a slot that is given back is no longer ours to speak of.
        if !work.shelve.is_empty()
            && let Some(paged) = store.paged()
        {
            let shelved = work.shelve.len() as u64;
            self.around.metrics.messages_shelved.inc_by(shelved);
            if let Some(paging) = &mut self.paging {
                paging.counts.shelved += shelved;
            }
            paged.shelve(std::mem::take(&mut work.shelve));
        }
        // Nobody waits for a settle, so it is not worth waking the store for each: the next tick takes what is there.
        if work.settle.len() >= SETTLE_BATCH || (self.is_tick && !work.settle.is_empty()) {
            store.settle(std::mem::take(&mut work.settle));
        }
        if !work.kill.is_empty() {
            for kill in &work.kill {
                self.around.metrics.dead_letter(kill.reason);
            }
            store.kill(std::mem::take(&mut work.kill));
        }
        if !work.load.is_empty() {
            let tickets = std::mem::take(&mut work.load);
            let slots = tickets.iter().filter_map(|ticket| ticket.message.slot()).collect();
            let inbox = self.around.inbox.clone();
            store.load(
                slots,
                Box::new(move |loaded| inbox.push(Event::Loaded(tickets.into_iter().zip(loaded).collect()))),
            );
        }
    }

    fn mark_dirty(&mut self, group: GroupId) {
        let entry = self.groups.get_mut(group);
        if !entry.is_dirty && !entry.is_blocked {
            entry.is_dirty = true;
            self.dirty.push(group);
        }
    }

    /// A connection may have room again.
    fn open(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if !std::mem::replace(&mut connection.is_open, true) {
            let group = connection.group;
            self.groups.get_mut(group).open.push(id);
        }
    }

    /// Lets a group be served again that has, or may have, a connection with room.
    fn unblock(&mut self, group: GroupId) {
        self.groups.get_mut(group).is_blocked = false;
        if !self.groups.get(group).active.is_empty() {
            self.mark_dirty(group);
        }
    }

    fn unblock_all(&mut self) {
        for (id, connection) in self.connections.iter_mut() {
            if !std::mem::replace(&mut connection.is_open, true) {
                self.groups.get_mut(connection.group).open.push(id);
            }
        }
        for group in std::mem::take(&mut self.blocked) {
            self.unblock(group);
        }
    }

    /// Puts a lane that has something to deliver into its group's turn.
    fn activate(&mut self, lane_id: LaneId) {
        let lane = self.lanes.get_mut(lane_id);
        if lane.is_active || lane.is_loading || lane.throttled_until.is_some() || lane.ready.is_empty() {
            return;
        }
        lane.is_active = true;
        let group = lane.group;
        self.groups.get_mut(group).active.push_back(lane_id);
        self.mark_dirty(group);
    }
}
