//! Why a bridge does not start.

/// Why a bridge does not start. Servers that are away are no reason: they are waited for.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting has no meaning.
    #[error("{setting}: {reason}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// What is wrong, and what to give instead.
        reason: String,
    },
    /// The address of a Redis server cannot be understood.
    #[error(
        "redis host {host:?}: {reason}; give host:port or redis://user:password@host:port/db (rediss for TLS)"
    )]
    RedisHost {
        /// As given, without its password.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// The way to the sinks cannot be set up.
    #[error("sinks: {reason}")]
    Sinks {
        /// What is wrong, and what to do.
        reason: String,
    },
}
