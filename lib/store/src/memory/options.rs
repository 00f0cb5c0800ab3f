//! What a memory store's URI says.

use crate::dedupe::DedupeLimits;
use crate::error::OpenError;
use crate::uri::StoreUri;

const MEMORY_MESSAGES_MAX: u64 = 2_000_000;
const MOCK_MESSAGES_MAX: u64 = 200_000;
const MEMORY_BYTES_MAX: u64 = 1 << 30;
const MOCK_BYTES_MAX: u64 = 256 << 20;

/// Bounds of a store in memory.
#[derive(Debug, Clone)]
pub(crate) struct MemoryOptions {
    /// How it presents itself.
    pub(crate) uri: String,
    /// Messages and dead letters that it may hold; more are refused.
    pub(crate) messages_max: u64,
    /// Bytes of memory that they may take; more are refused.
    pub(crate) bytes_max: u64,
    /// Entries to make room for at once.
    pub(crate) messages_expected: usize,
    /// Whether a killed message is kept as a dead letter.
    pub(crate) keeps_dead_letters: bool,
    pub(crate) dedupe: DedupeLimits,
}

impl MemoryOptions {
    pub(crate) fn memory(uri: StoreUri<'_>) -> Result<Self, OpenError> {
        Self::read(uri, MEMORY_MESSAGES_MAX, MEMORY_BYTES_MAX, true)
    }

    pub(crate) fn mock(uri: StoreUri<'_>) -> Result<Self, OpenError> {
        Self::read(uri, MOCK_MESSAGES_MAX, MOCK_BYTES_MAX, false)
    }

    fn read(
        mut uri: StoreUri<'_>,
        messages_max: u64,
        bytes_max: u64,
        keeps_dead_letters: bool,
    ) -> Result<Self, OpenError> {
        let messages_max = uri.number("maxcap", messages_max, 1, u64::from(u32::MAX - 1))?;
        let bytes_max = uri.bytes("maxbytes", bytes_max, 1, u64::MAX)?;
        // Existing configurations say an initcap above their maxcap; it is a hint and no promise.
        let expected = uri.number("initcap", 0, 0, u64::MAX)?.min(messages_max).min(65_536);
        let options = Self {
            uri: format!("{}://?maxcap={messages_max}&maxbytes={bytes_max}", uri.scheme),
            messages_max,
            bytes_max,
            messages_expected: usize::try_from(expected).unwrap_or(0),
            keeps_dead_letters,
            dedupe: uri.dedupe()?,
        };
        uri.finish()?;
        Ok(options)
    }
}
