//! The limit of open files, which many systems set to 1024 for no broker's sake.

use kiteq_broker::BrokerConfig;
use rustix::process::{Resource, getrlimit, setrlimit};

/// Files that are no client connections: store segments, HTTP connections, the registry, logs.
const FILES_BESIDE_CONNECTIONS: u64 = 5_000;

/// Raises the limit to what the system lets this process have, and warns when that is too low for `config`.
pub(crate) fn raise_limit(config: &BrokerConfig) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("the limit of open files cannot be raised: {error}");
    }
    let wanted = config.connections_max as u64 + FILES_BESIDE_CONNECTIONS;
    // None is no limit.
    if let Some(allowed) = getrlimit(Resource::Nofile).current.filter(|&allowed| allowed < wanted) {
        tracing::warn!(
            allowed,
            wanted,
            "few open files are allowed for this number of connections: raise the limit (ulimit -n, LimitNOFILE=) or \
             lower --connections-max"
        );
    }
}
