//! How registries fail.

/// Why a registry could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    /// The URI is not one of the known forms, or lacks something.
    #[error("registry {uri:?}: {reason}")]
    Uri {
        /// As given.
        uri: String,
        /// What is wrong and what is expected.
        reason: String,
    },
    /// The registry's content (a file, a node) is not what it must be.
    #[error("{place}: {reason}")]
    Content {
        /// File or node.
        place: String,
        /// What is wrong, with a line number where there is one.
        reason: String,
    },
    /// The registry cannot be reached right now; a retry may succeed.
    #[error("registry {place} cannot be reached: {reason}")]
    Unavailable {
        /// Hosts or file.
        place: String,
        /// The cause.
        reason: String,
    },
    /// The registry answered and refused; a retry alone will not help.
    #[error("registry {place} refused: {reason}")]
    Refused {
        /// Hosts, node or file.
        place: String,
        /// The cause.
        reason: String,
    },
}

impl RegistryError {
    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}
