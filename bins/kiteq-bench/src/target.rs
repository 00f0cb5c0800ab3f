//! Finding the broker, and telling its registry what the consumer groups want.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use kiteq_registry::{Binding, Registry};
use tokio::time::timeout;

use crate::cli::{Bind, GroupArgs, TargetArgs, is_local};
use crate::cpu::listener_pid;

/// A broker hears of new bindings within this time.
const WATCH_DELAY: Duration = Duration::from_secs(1);
/// Where brokers are looked for when nothing is said.
pub const REGISTRY_DEFAULT: &str = "http://127.0.0.1:13801";
/// A registry may take so long to answer.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(5);

/// The broker or brokers of a run.
pub struct Target {
    /// `host:port` of each.
    pub addresses: Vec<String>,
    /// Where bindings are published; `None` when there is only an address.
    pub registry: Option<Arc<dyn Registry>>,
    uri: String,
    /// The broker's process, where it is on this machine.
    pub pid: Option<u32>,
}

impl Target {
    /// Finds the brokers that serve `topics`.
    ///
    /// # Errors
    /// When the registry does not answer or knows no broker.
    pub async fn find(args: &TargetArgs, topics: &[String]) -> anyhow::Result<Self> {
        let uri = match (&args.registry, &args.broker) {
            (Some(uri), _) => Some(uri.as_str()),
            (None, None) => Some(REGISTRY_DEFAULT),
            (None, Some(_)) => None,
        };
        let registry = match uri {
            Some(uri) => Some(kiteq_registry::connect(uri).await?),
            None => None,
        };
        let addresses = match (&args.broker, &registry) {
            (Some(address), _) => vec![address.clone()],
            (None, Some(registry)) => brokers_of(registry.as_ref(), topics).await?,
            (None, None) => bail!("neither a broker nor a registry was given"),
        };
        let local_port = addresses.first().filter(|address| is_local(address)).and_then(|address| {
            let (_, port) = address.rsplit_once(':')?;
            port.parse().ok()
        });
        let uri = match &args.broker {
            Some(address) => format!("static://{address}"),
            None => uri.unwrap_or(REGISTRY_DEFAULT).to_owned(),
        };
        Ok(Self { addresses, registry, uri, pid: args.pid.or_else(|| local_port.and_then(listener_pid)) })
    }

    /// Publishes the bindings of every group; with only an address they are taken to be there already.
    ///
    /// # Errors
    /// When the registry refuses them.
    pub async fn bind(
        &self,
        args: &GroupArgs,
        groups: &[String],
        topics: &[String],
        message_types: &[String],
    ) -> anyhow::Result<()> {
        let Some(registry) = self.registry.as_ref().filter(|_| !args.no_bindings) else {
            return Ok(());
        };
        for group in groups {
            let bindings = bindings(args, group, topics, message_types);
            let publishing = timeout(REGISTRY_TIMEOUT, registry.publish_bindings(group, &bindings));
            publishing
                .await
                .map_err(|_| anyhow::anyhow!("no answer within {REGISTRY_TIMEOUT:?}"))
                .and_then(|result| result.map_err(anyhow::Error::from))
                .with_context(|| format!("cannot publish the bindings of group {group:?}"))?;
        }
        if !self.uri.starts_with("http://") {
            // A broker's own registry has the bindings when it answers; from any other one the broker has yet to hear.
            tokio::time::sleep(WATCH_DELAY).await;
        }
        Ok(())
    }

    /// A registry of its own for the client engine: the one of the run, or one that knows just the given address.
    ///
    /// # Errors
    /// When the URI is not one.
    pub async fn client_registry(&self) -> anyhow::Result<Arc<dyn Registry>> {
        Ok(kiteq_registry::connect(&self.uri).await?)
    }

    /// Ends the connection to the registry.
    pub async fn close(&self) {
        if let Some(registry) = &self.registry {
            registry.close().await;
        }
    }
}

fn bindings(args: &GroupArgs, group: &str, topics: &[String], message_types: &[String]) -> Vec<Binding> {
    let persistent = !args.not_persistent;
    topics
        .iter()
        .flat_map(|topic| match args.bind {
            Bind::Fanout => vec![Binding::fanout(group, topic, args.watermark, persistent)],
            Bind::Direct => message_types
                .iter()
                .map(|message_type| Binding::direct(group, topic, message_type, args.watermark, persistent))
                .collect(),
        })
        .collect()
}

/// The brokers that serve every one of `topics`.
async fn brokers_of(registry: &dyn Registry, topics: &[String]) -> anyhow::Result<Vec<String>> {
    let mut common: Option<BTreeSet<String>> = None;
    for topic in topics {
        let mut watch = registry.watch_brokers(topic);
        let known = timeout(
            REGISTRY_TIMEOUT,
            watch.wait_for(|brokers| brokers.as_ref().is_some_and(|brokers| !brokers.is_empty())),
        )
        .await;
        let brokers: BTreeSet<String> = match &known {
            Ok(Ok(brokers)) => brokers.iter().flat_map(|brokers| brokers.iter().cloned()).collect(),
            Ok(Err(_)) | Err(_) => BTreeSet::new(),
        };
        if brokers.is_empty() {
            bail!(
                "no broker of topic {topic:?} in registry {} within {} s. Start one (`kiteq`: its embedded registry is {REGISTRY_DEFAULT}), \
                 or say where it is with --registry URI or --broker HOST:PORT",
                registry.describe(),
                REGISTRY_TIMEOUT.as_secs()
            );
        }
        common = Some(match common {
            None => brokers,
            Some(common) => common.intersection(&brokers).cloned().collect(),
        });
    }
    let common: Vec<String> = common.unwrap_or_default().into_iter().collect();
    if common.is_empty() {
        bail!("no single broker serves all of the topics {}", topics.join(", "));
    }
    Ok(common)
}
