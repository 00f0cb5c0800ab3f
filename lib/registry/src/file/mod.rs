//! `file://PATH[?env=NAME]`: brokers and bindings as a YAML file says, read again when it changes.

mod content;
mod strict;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::AbortHandle;

use crate::alive::Alive;
use crate::binding::Binding;
use crate::error::RegistryError;
use crate::publication::{by_topic, check_topics};
use crate::topics::TopicTable;
use crate::{ANY_TOPIC, AliveWatch, BindingsWatch, BrokerRecord, BrokersWatch, Registry};
use content::{Content, FILE_BYTES_MAX};

/// How often the file is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// A registry that is a file: what it says is what there is, and nothing is published to it.
#[derive(Debug)]
pub struct FileRegistry {
    shared: Arc<Shared>,
    follower: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    env: Option<String>,
    content: Mutex<Content>,
    bindings: TopicTable<Binding>,
    brokers: TopicTable<String>,
    alive: Alive,
    warned_of_publication: AtomicBool,
}

impl Shared {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, next: Content) {
        let mut content = self.content();
        *content = next;
        self.brokers.refresh(|topic| content.brokers_of(topic, self.env.as_deref()));
        self.bindings.refresh(|topic| content.bindings_of(topic));
    }
}

impl FileRegistry {
    /// Reads the file and follows it. `env` selects the brokers of that environment; those without one are in every
    /// environment. Needs a running tokio runtime.
    ///
    /// # Errors
    /// When the file cannot be read or is not what it must be.
    pub async fn open(path: &Path, env: Option<String>) -> Result<Arc<Self>, RegistryError> {
        let text = read(path.to_owned()).await?;
        let content = parse(path, &text)?;
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            env,
            content: Mutex::new(content),
            bindings: TopicTable::new(),
            brokers: TopicTable::new(),
            alive: Alive::new(),
            warned_of_publication: AtomicBool::new(false),
        });
        let follower = tokio::spawn(follow(Arc::clone(&shared), text)).abort_handle();
        Ok(Arc::new(Self { shared, follower }))
    }
}

impl Drop for FileRegistry {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// Looks at the file until the task is aborted. A change is taken when two looks have seen it alike, so that a file which
/// is being written is not taken half. A failure is logged once and leaves the last good content in place.
async fn follow(shared: Arc<Shared>, mut taken: String) {
    let mut seen: Option<Result<String, String>> = None;
    let mut logged = None;
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let look = read(shared.path.clone()).await.map_err(|error| error.to_string());
        if seen.as_ref() != Some(&look) {
            seen = Some(look);
            continue;
        }
        let parsed = match look {
            Ok(text) if text == taken && logged.is_none() => continue,
            Ok(text) => {
                let parsed = parse(&shared.path, &text).map_err(|error| error.to_string());
                taken = text;
                parsed
            }
            Err(words) => Err(words),
        };
        match parsed {
            Ok(content) => {
                tracing::info!(path = %shared.path.display(), "registry file read");
                shared.replace(content);
                logged = None;
            }
            Err(words) => {
                if logged.as_ref() != Some(&words) {
                    tracing::error!(error = %words, "registry file is not usable; what was last read stands");
                    logged = Some(words);
                }
            }
        }
    }
}

async fn read(path: PathBuf) -> Result<String, RegistryError> {
    let place = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        std::fs::File::open(&path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    });
    let bytes = match read.await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => return Err(RegistryError::Unavailable { place, reason: error.to_string() }),
        Err(error) => return Err(RegistryError::Unavailable { place, reason: error.to_string() }),
    };
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(RegistryError::Content { place, reason: format!("larger than {FILE_BYTES_MAX} bytes") });
    }
    String::from_utf8(bytes).map_err(|error| RegistryError::Content { place, reason: error.to_string() })
}

fn parse(path: &Path, text: &str) -> Result<Content, RegistryError> {
    Content::parse(text)
        .map_err(|reason| RegistryError::Content { place: path.display().to_string(), reason })
}

#[async_trait]
impl Registry for FileRegistry {
    fn describe(&self) -> String {
        let env = self.shared.env.as_ref().map(|env| format!("?env={env}")).unwrap_or_default();
        format!("file://{}{env}", self.shared.path.display())
    }

    /// Publishes nothing. What the file says otherwise of this broker is logged: clients believe the file.
    async fn register_broker(&self, broker: BrokerRecord) -> Result<(), RegistryError> {
        check_topics(&self.describe(), &broker.topics)?;
        let content = self.shared.content();
        let path = self.shared.path.display();
        let Some(listed) = content.topics_of(&broker.address, self.shared.env.as_deref()) else {
            tracing::warn!(%path, address = broker.address, "the registry file does not list this broker; no client finds it");
            return Ok(());
        };
        let serves_any = broker.topics.iter().any(|topic| topic == ANY_TOPIC);
        let unserved: Vec<_> =
            listed.iter().filter(|topic| !serves_any && !broker.topics.contains(topic)).collect();
        if !unserved.is_empty() {
            tracing::warn!(%path, address = broker.address, topics = ?unserved,
                "the registry file gives this broker topics that it does not serve");
        }
        Ok(())
    }

    async fn unregister_broker(&self) -> Result<(), RegistryError> {
        Ok(())
    }

    fn watch_bindings(&self, topic: &str) -> BindingsWatch {
        // The lock is taken first, so that no change falls between the first value and the first notice.
        let content = self.shared.content();
        self.shared.bindings.watch(topic, || Some(content.bindings_of(topic).into()))
    }

    fn watch_brokers(&self, topic: &str) -> BrokersWatch {
        let content = self.shared.content();
        self.shared
            .brokers
            .watch(topic, || Some(content.brokers_of(topic, self.shared.env.as_deref()).into()))
    }

    /// Stays `None`: a file says which brokers there are, not which of them live.
    fn watch_alive(&self) -> AliveWatch {
        self.shared.alive.watch()
    }

    /// Publishes nothing: consumers publish whatever registry they are given, and must run with this one too. A binding
    /// that the file lacks is logged, once.
    async fn publish_bindings(&self, group: &str, bindings: &[Binding]) -> Result<(), RegistryError> {
        by_topic(&self.describe(), group, bindings)?;
        let content = self.shared.content();
        let missing: Vec<_> = bindings.iter().filter(|binding| !content.has_binding(binding)).collect();
        if !missing.is_empty() && !self.shared.warned_of_publication.swap(true, Ordering::Relaxed) {
            tracing::warn!(path = %self.shared.path.display(), group, ?missing,
                "bindings are not published: with a file registry what the file says is what there is");
        }
        Ok(())
    }

    async fn register_producer(&self, _group: &str, topics: &[String]) -> Result<(), RegistryError> {
        check_topics(&self.describe(), topics)
    }

    async fn close(&self) {
        self.follower.abort();
        self.shared.brokers.close();
        self.shared.alive.close();
        self.shared.bindings.close();
    }
}
