//! `static://host:port[,host:port]`: a fixed list of brokers, for tests and for clients that have just an address.

use async_trait::async_trait;

use crate::alive::Alive;
use crate::binding::Binding;
use crate::error::RegistryError;
use crate::publication::check_topics;
use crate::topics::TopicTable;
use crate::{AliveWatch, BindingsWatch, BrokerRecord, BrokersWatch, Registry};

/// Brokers that serve every topic, as the URI lists them. It keeps nothing: bindings cannot be published to it.
#[derive(Debug)]
pub struct FixedRegistry {
    uri: String,
    addresses: Vec<String>,
    brokers: TopicTable<String>,
    alive: Alive,
    bindings: TopicTable<Binding>,
}

impl FixedRegistry {
    /// A registry that knows these `host:port` addresses.
    #[must_use]
    pub fn new(addresses: &[String]) -> Self {
        Self {
            uri: format!("static://{}", addresses.join(",")),
            addresses: addresses.to_vec(),
            brokers: TopicTable::new(),
            alive: Alive::new(),
            bindings: TopicTable::new(),
        }
    }

    fn refused(&self, what: &str) -> RegistryError {
        RegistryError::Refused {
            place: self.uri.clone(),
            reason: format!("{what}: a static list of brokers keeps nothing; use http://, zk:// or file://"),
        }
    }
}

#[async_trait]
impl Registry for FixedRegistry {
    fn describe(&self) -> String {
        self.uri.clone()
    }

    async fn register_broker(&self, broker: BrokerRecord) -> Result<(), RegistryError> {
        Err(self.refused(&format!("broker {:?} cannot register", broker.address)))
    }

    async fn unregister_broker(&self) -> Result<(), RegistryError> {
        Ok(())
    }

    /// Stays `None`: nothing is known of bindings.
    fn watch_bindings(&self, topic: &str) -> BindingsWatch {
        self.bindings.watch(topic, || None)
    }

    fn watch_brokers(&self, topic: &str) -> BrokersWatch {
        self.brokers.watch(topic, || Some(self.addresses.as_slice().into()))
    }

    /// Stays `None`: nothing is known of whether they live.
    fn watch_alive(&self) -> AliveWatch {
        self.alive.watch()
    }

    async fn publish_bindings(&self, group: &str, _bindings: &[Binding]) -> Result<(), RegistryError> {
        Err(self.refused(&format!("bindings of group {group:?} cannot be published")))
    }

    /// Accepts and keeps nothing: the note is for people who look into a registry, and here is none to look into.
    async fn register_producer(&self, _group: &str, topics: &[String]) -> Result<(), RegistryError> {
        check_topics(&self.uri, topics)
    }

    async fn close(&self) {
        self.brokers.close();
        self.alive.close();
        self.bindings.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_topic_has_the_listed_brokers_and_nothing_can_be_published() {
        let addresses = ["127.0.0.1:13800".to_owned(), "[::1]:13801".to_owned()];
        let registry = FixedRegistry::new(&addresses);
        let watch = registry.watch_brokers("trade");
        assert_eq!(watch.borrow().as_deref(), Some(addresses.as_slice()));
        assert!(registry.watch_bindings("trade").borrow().is_none());
        registry.register_producer("p-trade", &["trade".to_owned()]).await.unwrap();
        let error = registry.publish_bindings("s-pay", &[]).await.unwrap_err();
        assert!(
            matches!(&error, RegistryError::Refused { reason, .. } if reason.contains("keeps nothing")),
            "{error}"
        );
        assert!(!error.is_retryable());
        registry.close().await;
        assert!(watch.has_changed().is_err());
    }
}
