//! The limit of open files, which many systems set to 1024 for no server's sake.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit to what the system lets this process have, and warns when fewer files than `wanted` are allowed;
/// `bounded_by` is the setting that would lower their number.
pub fn raise_limit(wanted: usize, bounded_by: &str) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("the limit of open files cannot be raised: {error}");
    }
    let wanted = wanted as u64;
    // None is no limit.
    if let Some(allowed) = getrlimit(Resource::Nofile).current.filter(|&allowed| allowed < wanted) {
        tracing::warn!(
            allowed,
            wanted,
            "few open files are allowed for this number of connections: raise the limit (ulimit -n, LimitNOFILE=) or \
             lower --{bounded_by}"
        );
    }
}
