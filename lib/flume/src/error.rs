//! Why a batch was not taken.

use std::io;
use std::time::Duration;

use crate::status::Status;

/// Why a batch was not taken by a source. Whatever the reason, the batch may be sent again; but for a refusal of
/// [`FlumeError::Connect`] the source may have taken it, and a second sending may come as a duplicate.
#[derive(Debug, thiserror::Error)]
pub enum FlumeError {
    /// No connection could be made, or no TLS session over it.
    #[error(
        "cannot connect to {address}: {source}; is a Flume Thrift source listening there, and with the same TLS setting?"
    )]
    Connect {
        /// `host:port`.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// It took too long.
    #[error("{address}: {what} took longer than {timeout:?}")]
    Timeout {
        /// `host:port`.
        address: String,
        /// What took too long.
        what: &'static str,
        /// What was allowed.
        timeout: Duration,
    },
    /// The other side closed the connection, or its half of it.
    #[error("{address} closed the connection")]
    Closed {
        /// `host:port`.
        address: String,
    },
    /// The network failed.
    #[error("{address}: {source}")]
    Io {
        /// `host:port`.
        address: String,
        /// How.
        source: io::Error,
    },
    /// The source answered that it did not take the batch. The connection is fine.
    #[error("{address} answered {status}")]
    Status {
        /// `host:port`.
        address: String,
        /// FAILED, ERROR or UNKNOWN.
        status: Status,
    },
    /// The source answered with a TApplicationException.
    #[error("{address} answered with an exception: {message}")]
    Exception {
        /// `host:port`.
        address: String,
        /// Its kind and text.
        message: String,
    },
    /// What came is not an answer to what was asked.
    #[error("{address}: {reason}; is it a Flume Thrift source with the same protocol setting?")]
    Protocol {
        /// `host:port`.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl FlumeError {
    /// The `host:port` that it is about.
    #[must_use]
    pub fn address(&self) -> &str {
        match self {
            Self::Connect { address, .. }
            | Self::Timeout { address, .. }
            | Self::Closed { address }
            | Self::Io { address, .. }
            | Self::Status { address, .. }
            | Self::Exception { address, .. }
            | Self::Protocol { address, .. } => address,
        }
    }

    /// Whether the connection can go on being used. After any other error it must be dropped.
    #[must_use]
    pub fn leaves_connection_usable(&self) -> bool {
        matches!(self, Self::Status { .. })
    }

    /// An error of the network, told apart from an end that the other side made.
    pub(crate) fn network(address: &str, source: io::Error) -> Self {
        let address = address.to_owned();
        match source.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::Closed { address },
            _ => Self::Io { address, source },
        }
    }
}
