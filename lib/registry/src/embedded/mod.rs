//! `embedded://`: the broker keeps the registry itself, in its data directory, and serves it over its HTTP port.

mod content;
mod handler;
mod query;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::{Semaphore, watch};

use crate::alive::Alive;
use crate::binding::{Binding, check_name};
use crate::error::RegistryError;
use crate::http_api::ProducerRequest;
use crate::publication::{by_topic, check_topics, local_host};
use crate::topics::TopicTable;
use crate::{ANY_TOPIC, AliveWatch, BindingsWatch, BrokerRecord, BrokersWatch, Registry};
use content::{BINDINGS_MAX, Content, FILE_NAME};

pub use handler::HttpReply;

/// Producers noted at most; a further one is refused.
const PRODUCERS_MAX: usize = 20_000;
/// Requests that wait for a change at a time; a further one is refused.
const WAITING_MAX: usize = 8_192;

/// The registry of one broker, kept in its data directory.
///
/// Bindings are durable when their publication is answered; brokers and producers are known while the broker runs.
///
/// Over HTTP, people can `GET /registry/brokers?topic=T`, `GET /registry/bindings[?topic=T]` and `GET /registry/producers`,
/// and `DELETE /registry/bindings?group=G[&topic=T]` for a group that is not coming back.
#[derive(Debug)]
pub struct EmbeddedRegistry {
    shared: Arc<Shared>,
    /// Bounds the requests that wait.
    waiting: Semaphore,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// Held while the file is replaced, so that publications reach it in their order.
    state: Mutex<State>,
    bindings: TopicTable<Binding>,
    brokers: TopicTable<String>,
    alive: Alive,
    /// Counts changes, for requests that wait for one; `None` once the registry is closed.
    changes: watch::Sender<Option<u64>>,
}

#[derive(Debug)]
struct State {
    content: Content,
    broker: Option<BrokerRecord>,
    producers: BTreeSet<ProducerRequest>,
}

impl State {
    fn brokers_of(&self, topic: &str) -> Vec<String> {
        let serves =
            |broker: &&BrokerRecord| broker.topics.iter().any(|name| name == topic || name == ANY_TOPIC);
        self.broker.as_ref().filter(serves).map(|broker| broker.address.clone()).into_iter().collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn refused(&self, reason: String) -> RegistryError {
        RegistryError::Refused { place: self.place(), reason }
    }

    /// Makes `next` the content: first on disk, then for everybody.
    fn store(&self, state: &mut State, next: Content) -> Result<(), RegistryError> {
        if self.changes.borrow().is_none() {
            return Err(self.refused("the registry is closed".to_owned()));
        }
        if next == state.content {
            return Ok(());
        }
        let count = next.count();
        if count > BINDINGS_MAX && count > state.content.count() {
            return Err(
                self.refused(format!("{count} bindings would be held; at most {BINDINGS_MAX} are allowed"))
            );
        }
        next.save(&self.path)?;
        state.content = next;
        self.bindings.refresh(|topic| state.content.of_topic(topic));
        self.announce();
        Ok(())
    }

    fn set_broker(&self, broker: Option<BrokerRecord>) {
        let mut state = self.lock();
        state.broker = broker;
        self.brokers.refresh(|topic| state.brokers_of(topic));
        self.announce();
    }

    fn announce(&self) {
        self.changes.send_modify(|count| *count = count.map(|count| count + 1));
    }
}

impl EmbeddedRegistry {
    /// Opens the registry in `data_dir`, which is made when it is missing.
    ///
    /// # Errors
    /// When the directory cannot be written, or the file in it cannot be read or is not what it must be.
    pub fn open(data_dir: &Path) -> Result<Arc<Self>, RegistryError> {
        let path = data_dir.join(FILE_NAME);
        std::fs::create_dir_all(data_dir).map_err(|error| RegistryError::Unavailable {
            place: data_dir.display().to_string(),
            reason: error.to_string(),
        })?;
        let content = if let Some(content) = Content::load(&path)? {
            content
        } else {
            let fresh = Content::fresh();
            fresh.save(&path)?;
            fresh
        };
        let shared = Shared {
            path,
            state: Mutex::new(State { content, broker: None, producers: BTreeSet::new() }),
            bindings: TopicTable::new(),
            brokers: TopicTable::new(),
            alive: Alive::new(),
            changes: watch::Sender::new(Some(0)),
        };
        Ok(Arc::new(Self { shared: Arc::new(shared), waiting: Semaphore::new(WAITING_MAX) }))
    }

    /// Changes the content on a thread that may block. Once begun it is done, also when the caller goes away.
    async fn change<T: Send + 'static>(
        &self,
        edit: impl FnOnce(&mut Content) -> T + Send + 'static,
    ) -> Result<T, RegistryError> {
        let shared = Arc::clone(&self.shared);
        let edited = tokio::task::spawn_blocking(move || {
            let mut state = shared.lock();
            let mut next = state.content.clone();
            let outcome = edit(&mut next);
            shared.store(&mut state, next).map(|()| outcome)
        });
        edited.await.unwrap_or_else(|error| {
            Err(RegistryError::Unavailable { place: self.shared.place(), reason: error.to_string() })
        })
    }

    fn note_producer(&self, producer: ProducerRequest) -> Result<(), RegistryError> {
        let place = self.shared.place();
        check_name("group", &producer.group)
            .and_then(|()| check_name("host", &producer.host))
            .map_err(|reason| self.shared.refused(reason))?;
        check_topics(&place, &producer.topics)?;
        let mut state = self.shared.lock();
        if state.producers.len() >= PRODUCERS_MAX && !state.producers.contains(&producer) {
            return Err(self.shared.refused(format!("{PRODUCERS_MAX} producers are noted already")));
        }
        state.producers.insert(producer);
        Ok(())
    }
}

#[async_trait]
impl Registry for EmbeddedRegistry {
    fn describe(&self) -> String {
        format!("embedded://{}", self.shared.place())
    }

    async fn register_broker(&self, broker: BrokerRecord) -> Result<(), RegistryError> {
        check_topics(&self.shared.place(), &broker.topics)?;
        self.shared.set_broker(Some(broker));
        Ok(())
    }

    async fn unregister_broker(&self) -> Result<(), RegistryError> {
        self.shared.set_broker(None);
        Ok(())
    }

    fn watch_bindings(&self, topic: &str) -> BindingsWatch {
        // The lock is taken first, so that no change falls between the first value and the first notice.
        let state = self.shared.lock();
        self.shared.bindings.watch(topic, || Some(state.content.of_topic(topic).into()))
    }

    fn watch_brokers(&self, topic: &str) -> BrokersWatch {
        let state = self.shared.lock();
        self.shared.brokers.watch(topic, || Some(state.brokers_of(topic).into()))
    }

    /// Stays `None`: of other brokers nothing is known here, and taking them for dead could be wrong.
    fn watch_alive(&self) -> AliveWatch {
        self.shared.alive.watch()
    }

    async fn publish_bindings(&self, group: &str, bindings: &[Binding]) -> Result<(), RegistryError> {
        let topics = by_topic(&self.shared.place(), group, bindings)?;
        let group = group.to_owned();
        self.change(move |content| content.publish(&group, topics)).await
    }

    async fn register_producer(&self, group: &str, topics: &[String]) -> Result<(), RegistryError> {
        let producer =
            ProducerRequest { group: group.to_owned(), host: local_host(), topics: topics.to_vec() };
        self.note_producer(producer)
    }

    async fn close(&self) {
        self.shared.set_broker(None);
        self.shared.changes.send_replace(None);
        self.shared.bindings.close();
        self.shared.brokers.close();
        self.shared.alive.close();
    }
}
