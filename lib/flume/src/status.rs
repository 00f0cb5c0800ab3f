//! What a source says of a batch.

use std::fmt;

use crate::generated;

/// A source's answer. Only [`Status::Ok`] means that the batch is in its channel, all of it; after any other answer none of
/// it can be counted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// The whole batch is in the channel.
    Ok,
    /// The channel did not take it, because it is full for example.
    Failed,
    /// The source could not make sense of it, or broke.
    Error,
    /// Anything else, codes that are not in the protocol's definition included.
    Unknown,
}

impl From<generated::Status> for Status {
    fn from(status: generated::Status) -> Self {
        match status {
            generated::Status::OK => Self::Ok,
            generated::Status::FAILED => Self::Failed,
            generated::Status::ERROR => Self::Error,
            _ => Self::Unknown,
        }
    }
}

impl From<Status> for generated::Status {
    fn from(status: Status) -> Self {
        match status {
            Status::Ok => Self::OK,
            Status::Failed => Self::FAILED,
            Status::Error => Self::ERROR,
            Status::Unknown => Self::UNKNOWN,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "OK",
            Self::Failed => "FAILED",
            Self::Error => "ERROR",
            Self::Unknown => "UNKNOWN",
        })
    }
}
