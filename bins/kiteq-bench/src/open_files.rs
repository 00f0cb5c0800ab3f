//! The limit of open files, which many systems set to 1024: less than the connections that a run may have.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit to what the system lets this process have, and says when `connections` are still too many.
///
/// # Errors
/// When so many connections cannot be had.
pub fn allow(connections: usize) -> anyhow::Result<()> {
    /// Standard streams, timers, the runtime, the registry; the bare server holds two descriptors for each connection.
    const BESIDE: u64 = 100;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // A refusal leaves the limit as it is, and the check below tells.
    let _ = setrlimit(Resource::Nofile, limit);
    let wanted = 4 * connections as u64 + BESIDE;
    match getrlimit(Resource::Nofile).current {
        // None is no limit.
        Some(allowed) if allowed < wanted => anyhow::bail!(
            "{connections} connections need up to {wanted} open files and this system allows {allowed}: raise it (ulimit -n) or take \
             fewer connections"
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_connections_are_fine_and_absurdly_many_are_refused_with_advice() {
        allow(10).unwrap();
        if let Some(allowed) = getrlimit(Resource::Nofile).maximum {
            let error = allow(allowed as usize).unwrap_err();
            assert!(error.to_string().contains("ulimit -n"), "{error}");
        }
    }
}
