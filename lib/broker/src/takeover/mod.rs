//! Taking over the messages of brokers that are gone, where several brokers share a store.
//!
//! One task watches who lives and who has messages in the store. Whoever is gone for longer than the grace, or has left in
//! good order, is taken from: in chunks, each by one conditional update, with pauses of random length between them, so that
//! all living brokers get some. Nothing is taken on stale knowledge, nor by a broker that is not registered itself. A broker
//! that was cut off looks for what it has lost meanwhile as soon as it is registered again.

mod decision;
mod machine;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiteq_registry::AliveWatch;
use kiteq_store::{Done, OwnedStore, Owner, SharedStore, StoreError};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::dispatch::Event;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use decision::{Because, Decider, Idle, WhyNot};
use machine::Machine;

/// Messages taken by one update.
const CHUNK: usize = 2000;
/// The longest pause after a chunk.
const PAUSE_MAX: Duration = Duration::from_millis(60);
/// How often the store is asked who has messages in it.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A task that wakes up so late may have been frozen, together with the whole broker.
const FROZEN: Duration = Duration::from_secs(5);
/// How long it may take to learn who lives before that is worth a word.
const SAY_IDLE_AFTER: Duration = Duration::from_secs(10);

/// What the task works with.
pub(crate) struct Takeover {
    pub(crate) store: SharedStore,
    pub(crate) alive: AliveWatch,
    pub(crate) inbox: Arc<Mailbox<Event>>,
    pub(crate) metrics: Metrics,
    pub(crate) advertised: String,
    pub(crate) grace: Duration,
    pub(crate) stop: CancellationToken,
}

impl Takeover {
    /// Runs until the broker stops; at once where its store is its own.
    pub(crate) async fn run(self) {
        let Some(owned) = self.store.owned() else { return };
        let machine = Machine::this(&self.advertised);
        let decider = Decider::new(owned.owner(), self.grace, owned.adoptable().to_vec(), machine);
        let stop = self.stop.clone();
        let task = Task {
            around: self,
            decider,
            was_registered: false,
            was_ever_registered: false,
            idle_since: Instant::now(),
            idle_said: None,
            said: HashMap::new(),
            store_fails: false,
        };
        tokio::select! {
            () = task.run() => {}
            () = stop.cancelled() => {}
        }
    }
}

struct Task {
    around: Takeover,
    decider: Decider,
    was_registered: bool,
    was_ever_registered: bool,
    idle_since: Instant,
    /// Why nothing is taken, as it was last said.
    idle_said: Option<Idle>,
    /// Why an owner is not taken from, as it was last said.
    said: HashMap<String, WhyNot>,
    /// The store cannot be asked, which has been said.
    store_fails: bool,
}

impl Task {
    async fn run(mut self) {
        let mut alive = self.around.alive.clone();
        let mut looked_at = Instant::now();
        loop {
            if looked_at.elapsed() > FROZEN {
                self.around.inbox.push(Event::SuspectLost);
            }
            looked_at = Instant::now();
            self.look().await;
            tokio::select! {
                // A registry that has ended says nothing any more, and what it said last is not current.
                changed = alive.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn alive(&self) -> Option<Arc<[String]>> {
        self.around.alive.borrow().clone()
    }

    async fn look(&mut self) {
        let alive = self.alive();
        let may_take = self.decider.may_take(alive.as_deref());
        self.mind_registration(may_take);
        let (Ok(()), Some(alive)) = (may_take, alive) else { return };
        let owners = match self.ask(|owned, done| owned.owners(done)).await {
            Ok(owners) => owners,
            Err(error) => return self.say_store_fails(&error),
        };
        self.store_fails = false;
        let stands = self.decider.look(&owners, &alive, Instant::now());
        let mut to_take = Vec::new();
        for (owner, stands) in stands {
            match stands {
                Ok(because) => to_take.push((owner.to_owned(), because)),
                Err(why) => say_why_not(&mut self.said, owner, why),
            }
        }
        // Whoever starts with another owner is less in the others' way.
        fastrand::shuffle(&mut to_take);
        for (owner, because) in to_take {
            self.said.remove(&owner);
            self.take(&owner, because, &owners).await;
        }
    }

    /// A broker that was cut off may have lost messages to others.
    fn mind_registration(&mut self, may_take: Result<(), Idle>) {
        match may_take {
            Ok(()) => {
                if !std::mem::replace(&mut self.was_registered, true) {
                    if std::mem::replace(&mut self.was_ever_registered, true) {
                        tracing::info!(
                            "registered again; looking for messages that others took over meanwhile"
                        );
                    }
                    self.around.inbox.push(Event::SuspectLost);
                }
                if self.idle_said.take().is_some() {
                    tracing::info!("the messages of brokers that are gone are taken over again");
                }
            }
            Err(idle) => {
                if std::mem::replace(&mut self.was_registered, false) {
                    self.idle_since = Instant::now();
                }
                if self.idle_said != Some(idle) && self.idle_since.elapsed() >= SAY_IDLE_AFTER {
                    self.idle_said = Some(idle);
                    tracing::warn!(
                        reason = idle.in_words(),
                        "nobody's messages are taken over for the time being"
                    );
                }
            }
        }
    }

    /// Takes what is there of one owner, for as long as the reason holds.
    async fn take(&mut self, owner: &str, because: Because, owners: &[Owner]) {
        let started = Instant::now();
        let mut taken = 0usize;
        loop {
            let from = owner.to_owned();
            match self.ask(|owned, done| owned.adopt(from, CHUNK, done)).await {
                Ok(0) => {
                    self.decider.emptied(owner, Instant::now());
                    break;
                }
                Ok(count) => {
                    taken += count;
                    self.around.metrics.messages_adopted.inc_by(count as u64);
                    self.around.inbox.push(Event::Adopted);
                }
                Err(error) => {
                    self.say_store_fails(&error);
                    break;
                }
            }
            tokio::time::sleep(PAUSE_MAX.mul_f64(fastrand::f64())).await;
            if !self.may_go_on(owner, owners) {
                tracing::info!(owner, "taking over ends early: the registry shows it again, or is away");
                break;
            }
        }
        if taken > 0 {
            tracing::info!(
                owner,
                messages = taken,
                took = ?started.elapsed(),
                because = because.in_words(),
                "took over the messages of another broker"
            );
        }
    }

    fn may_go_on(&mut self, owner: &str, owners: &[Owner]) -> bool {
        let Some(alive) = self.alive() else { return false };
        let Some(owner) = owners.iter().find(|known| known.name == owner) else { return false };
        self.decider.may_take(Some(&alive)).is_ok() && self.decider.still(owner, &alive, Instant::now())
    }

    async fn ask<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn OwnedStore, Done<Result<T, StoreError>>),
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let Some(owned) = self.around.store.owned() else { return Err(StoreError::Closed) };
        call(
            owned,
            Box::new(move |result| {
                // Nobody waits any more when the broker stops.
                let _ = answer.send(result);
            }),
        );
        answered.await.unwrap_or(Err(StoreError::Closed))
    }

    fn say_store_fails(&mut self, error: &StoreError) {
        if !std::mem::replace(&mut self.store_fails, true) {
            tracing::warn!(%error, "the store cannot be asked for messages to take over; this is tried again until it succeeds");
        }
    }
}

/// Says once what keeps an owner's messages where they are.
fn say_why_not(said: &mut HashMap<String, WhyNot>, owner: &str, why: WhyNot) {
    if said.insert(owner.to_owned(), why) == Some(why) {
        return;
    }
    match why {
        WhyNot::InGrace => {
            tracing::warn!(
                owner,
                "a broker with messages in the store is not registered; they are taken over if it stays away"
            );
        }
        WhyNot::NotAnAddress => tracing::warn!(
            owner,
            "the store has messages of an owner under whose name nobody registers: a Go broker's host name. They wait for \
             it; if it is gone for good, list the name with adopt= in the store's URI"
        ),
        WhyNot::BrokerOnMachine => tracing::info!(
            owner,
            "the store has messages under this machine's name, and another broker runs here: they are left to it"
        ),
        WhyNot::Alive | WhyNot::Emptied => {}
    }
}
