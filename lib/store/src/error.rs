//! What can go wrong with a store.

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store holds as many messages as it may.
    #[error("store is full: it holds {held} of at most {limit} messages")]
    Full {
        /// Messages held.
        held: u64,
        /// The limit.
        limit: u64,
    },
    /// The store holds as many bytes as it may.
    #[error("store is full: it holds {held_bytes} of at most {limit_bytes} bytes")]
    FullBytes {
        /// Bytes held.
        held_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The message is larger than this store ever takes.
    #[error("a message of {bytes} bytes is too large for this store, which takes at most {limit_bytes}")]
    TooLarge {
        /// Length of the message, in bytes.
        bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The disk has no room for another segment.
    #[error("disk full below {place}: {reason}")]
    DiskFull {
        /// Directory.
        place: String,
        /// The system's words.
        reason: String,
    },
    /// A write or sync failed, so nothing that the store says about later writes could be believed.
    #[error(
        "store {place} stopped writing after a failure: {reason}; restart the broker once the cause is mended"
    )]
    Poisoned {
        /// Directory or database.
        place: String,
        /// What failed.
        reason: String,
    },
    /// What was read back is not what was written.
    #[error("{place}: {reason}")]
    Corrupt {
        /// File and offset, or table and row.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// The message is not held here any more: another broker has taken it over, or finished it.
    #[error("message is not held here any more")]
    Gone,
    /// Reading failed, or the backend cannot be reached right now.
    #[error("{place}: {reason}")]
    Unavailable {
        /// File or database.
        place: String,
        /// The cause.
        reason: String,
    },
    /// The store is closed.
    #[error("store is closed")]
    Closed,
}

impl StoreError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Full { .. } | Self::FullBytes { .. } | Self::DiskFull { .. } | Self::Unavailable { .. }
        )
    }
}

/// Why a store could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("store {uri:?}: {reason}")]
pub struct OpenError {
    /// As given, without secrets.
    pub uri: String,
    /// What is wrong and what to do.
    pub reason: String,
}
