//! What all parts of a client share, and how a message finds a connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use kiteq_registry::Registry;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::consumer::{Consumer, Job};
use crate::error::PublishError;
use crate::id::MessageIds;
use crate::in_flight::{GiveUp, Intent, Outgoing, Submitted};
use crate::link::Link;
use crate::publish::Publish;
use crate::route::{Pick, Route};
use crate::settings::Settings;
use crate::sync::read;
use crate::transaction::Transactions;

/// Topics that one client may use. Each is followed in the registry for as long as the client lives.
const TOPICS_MAX: usize = 10_000;
/// How long a message waits for a place at one broker before it looks for a less loaded one again.
const WINDOW_WAIT_MAX: Duration = Duration::from_millis(100);

pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) ids: MessageIds,
    pub(crate) routes: RwLock<HashMap<Box<str>, Arc<Route>>>,
    pub(crate) links: Mutex<HashMap<Arc<str>, Arc<Link>>>,
    pub(crate) consumer: Option<Arc<Consumer>>,
    pub(crate) transactions: Transactions,
    /// Counts changes to what can be sent where: a broker found, connected, refused, lost.
    pub(crate) changes: watch::Sender<u64>,
    /// Told whenever something in flight has been settled.
    pub(crate) settled: Arc<Notify>,
    /// No more deliveries are taken.
    pub(crate) deaf: AtomicBool,
    /// No more publishes are taken.
    pub(crate) closed: AtomicBool,
    /// Ends every task.
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// Why a message was not sent.
#[derive(Debug)]
pub(crate) enum Unplaced {
    Closed,
    Deadline(&'static str),
    Refused { broker: Arc<str>, feedback: Arc<str> },
}

/// Whether a message is new or has been sent before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It lets parked ones go first, and fails at once where all brokers refuse this client.
    New,
    /// It waits as long as it may.
    Parked,
}

impl Shared {
    /// Tells everybody who waits for a broker to look again.
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Accepts a message and sends it, waiting for a place in a window.
    pub(crate) async fn submit(
        self: &Arc<Self>,
        mut publish: Publish,
        intent: Intent,
    ) -> Result<Submitted, PublishError> {
        if self.is_closed() {
            return Err(PublishError::Closed);
        }
        let id = publish.id.take().unwrap_or_else(|| self.ids.next());
        let message = Outgoing::new(publish, id, intent, &self.settings)?;
        let route = self.route(&message.head.topic)?;
        if !route.announced.load(Ordering::Relaxed) {
            self.announce(&route);
        }
        match self.place(&route, &message, Turn::New).await {
            Ok(()) => Ok(Submitted { message }),
            Err(Unplaced::Refused { broker, feedback }) => {
                Err(PublishError::Unauthorized { broker, feedback })
            }
            Err(Unplaced::Closed) => Err(PublishError::Closed),
            Err(Unplaced::Deadline(reason)) => Err(message.never_sent(reason)),
        }
    }

    /// The route of `topic`; a topic seen for the first time is followed in the registry from then on.
    pub(crate) fn route(self: &Arc<Self>, topic: &str) -> Result<Arc<Route>, PublishError> {
        if let Some(route) = read(&self.routes).get(topic) {
            return Ok(Arc::clone(route));
        }
        self.add_route(topic, TOPICS_MAX)
            .ok_or(PublishError::Invalid { reason: "this client has too many topics" })
    }

    /// Sends `message` over the least loaded connection of its topic, waiting for one until its deadline.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the message has not been sent.
    async fn place(&self, route: &Route, message: &Arc<Outgoing>, turn: Turn) -> Result<(), Unplaced> {
        if (turn == Turn::Parked || !route.has_parked())
            && let Pick::Link(link) = route.pick(None)
            && link.try_send(message)
        {
            return Ok(());
        }
        self.place_slowly(route, message, turn).await
    }

    async fn place_slowly(&self, route: &Route, message: &Arc<Outgoing>, turn: Turn) -> Result<(), Unplaced> {
        let deadline = Instant::from_std(message.deadline);
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            let reason = match route.pick(None) {
                _ if turn == Turn::New && route.has_parked() => "earlier messages wait for a broker",
                Pick::Link(link) => {
                    if self.wait_for_place(&link, message, deadline).await && link.send(message) {
                        return Ok(());
                    }
                    if self.stop.is_cancelled() {
                        return Err(Unplaced::Closed);
                    }
                    if Instant::now() >= deadline {
                        return Err(Unplaced::Deadline("the window of its brokers is full"));
                    }
                    continue;
                }
                Pick::Refused { broker, feedback } if turn == Turn::New => {
                    return Err(Unplaced::Refused { broker, feedback });
                }
                Pick::Refused { .. } => "its brokers refuse this client",
                Pick::Nowhere(reason) => reason,
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Unplaced::Closed),
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(deadline) => return Err(Unplaced::Deadline(reason)),
            }
        }
    }

    /// Takes places in the window of `link`. False when there were none for a while.
    async fn wait_for_place(&self, link: &Link, message: &Outgoing, deadline: Instant) -> bool {
        let until = deadline.min(Instant::now() + WINDOW_WAIT_MAX);
        tokio::select! {
            biased;
            places = link.window.acquire_many(message.places) => match places {
                Ok(places) => {
                    places.forget();
                    true
                }
                Err(_) => false,
            },
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep_until(until) => false,
        }
    }

    /// Sends another copy of a message whose ack is late over a connection other than `link`, where one has room.
    pub(crate) fn send_elsewhere(&self, message: &Arc<Outgoing>, link: &Link) -> bool {
        let route = read(&self.routes).get(&message.head.topic).cloned();
        match route.map(|route| route.pick(Some(link))) {
            Some(Pick::Link(other)) => other.try_send(message),
            _ => false,
        }
    }

    /// Sends a message that the broker of `link` did not take to another one, where one has room.
    pub(crate) fn move_elsewhere(&self, message: &Arc<Outgoing>, link: &Link) -> bool {
        let route = read(&self.routes).get(&message.head.topic).cloned();
        match route.map(|route| route.pick(Some(link))) {
            Some(Pick::Link(other)) => other.try_send(message) && message.copy_moved(),
            _ => false,
        }
    }

    /// Takes over messages whose connection broke.
    pub(crate) fn adopt(&self, orphans: Vec<Arc<Outgoing>>) {
        for message in orphans {
            let route = read(&self.routes).get(&message.head.topic).cloned();
            match route {
                Some(route) => route.park(message),
                None => message.give_up(GiveUp::Closed),
            }
        }
        // Whoever closed the client may have looked before these were parked.
        if self.stop.is_cancelled() {
            self.abandon();
        }
    }

    /// Sends the parked messages of a topic, oldest first, for as long as the client lives.
    pub(crate) async fn place_parked(self: Arc<Self>, route: Arc<Route>) {
        loop {
            while let Some(message) = route.first_parked() {
                if !message.is_done() {
                    match self.place(&route, &message, Turn::Parked).await {
                        Ok(()) => {}
                        Err(Unplaced::Deadline(reason)) => message.give_up(GiveUp::Deadline(reason)),
                        Err(Unplaced::Refused { .. } | Unplaced::Closed) => return,
                    }
                }
                if route.unpark() {
                    self.changed();
                    self.settled.notify_waiters();
                }
            }
            tokio::select! {
                () = route.to_place.notified() => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Hands deliveries to the handler, waiting for room. What nobody can handle any more stays unanswered: the broker
    /// gives it to another member of the group when the connection closes.
    pub(crate) async fn deliver(&self, jobs: &mut Vec<Job>) {
        match &self.consumer {
            Some(consumer) if !self.deaf.load(Ordering::Acquire) => consumer.accept(jobs).await,
            Some(_) => jobs.clear(),
            None => {
                for job in jobs.drain(..) {
                    job.refuse("this client of the group has no handler");
                }
            }
        }
    }
}
