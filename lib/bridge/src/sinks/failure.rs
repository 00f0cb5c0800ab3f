//! What a failure of a sink means.

use std::io::ErrorKind;

use kiteq_flume::{FlumeError, Status};

use super::health::Trouble;

/// The label of a failure in metrics, one of [`super::metrics::REASONS`], and what it says of the sink.
pub(super) fn classify(error: &FlumeError, is_connected: bool) -> (&'static str, Trouble) {
    match error {
        FlumeError::Connect { source, .. } => match source.kind() {
            ErrorKind::ConnectionRefused => ("refused", Trouble::Dead),
            // A connection that was made, and then: a TLS handshake has failed.
            ErrorKind::InvalidData
            | ErrorKind::InvalidInput
            | ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset => ("tls", Trouble::Dead),
            _ => ("connect", Trouble::Dead),
        },
        FlumeError::Timeout { .. } if is_connected => ("timeout", Trouble::Dead),
        FlumeError::Timeout { .. } => ("connect_timeout", Trouble::Dead),
        FlumeError::Closed { .. } => ("closed", Trouble::Dead),
        FlumeError::Io { .. } => ("io", Trouble::Dead),
        FlumeError::Status { status, .. } => match status {
            Status::Failed => ("failed", Trouble::Full),
            Status::Error => ("error", Trouble::Full),
            Status::Ok | Status::Unknown => ("unknown", Trouble::Full),
        },
        FlumeError::Exception { .. } => ("exception", Trouble::Dead),
        FlumeError::Protocol { .. } => ("protocol", Trouble::Dead),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use super::*;
    use crate::sinks::metrics::REASONS;

    #[test]
    fn every_failure_is_counted_under_a_reason_and_only_an_answer_leaves_a_sink_alive() {
        let address = || "a:1".to_owned();
        let connect =
            |kind: ErrorKind| FlumeError::Connect { address: address(), source: io::Error::from(kind) };
        let status = |status| FlumeError::Status { address: address(), status };
        let timeout =
            || FlumeError::Timeout { address: address(), what: "waiting", timeout: Duration::from_secs(1) };
        for (error, is_connected, reason, trouble) in [
            (connect(ErrorKind::ConnectionRefused), false, "refused", Trouble::Dead),
            (connect(ErrorKind::InvalidData), false, "tls", Trouble::Dead),
            (connect(ErrorKind::UnexpectedEof), false, "tls", Trouble::Dead),
            (connect(ErrorKind::HostUnreachable), false, "connect", Trouble::Dead),
            (timeout(), false, "connect_timeout", Trouble::Dead),
            (timeout(), true, "timeout", Trouble::Dead),
            (FlumeError::Closed { address: address() }, true, "closed", Trouble::Dead),
            (
                FlumeError::Io { address: address(), source: ErrorKind::Other.into() },
                true,
                "io",
                Trouble::Dead,
            ),
            (status(Status::Failed), true, "failed", Trouble::Full),
            (status(Status::Error), true, "error", Trouble::Full),
            (status(Status::Unknown), true, "unknown", Trouble::Full),
            (
                FlumeError::Exception { address: address(), message: "x".to_owned() },
                true,
                "exception",
                Trouble::Dead,
            ),
            (
                FlumeError::Protocol { address: address(), reason: "x".to_owned() },
                true,
                "protocol",
                Trouble::Dead,
            ),
        ] {
            assert_eq!(classify(&error, is_connected), (reason, trouble), "{error}");
            assert!(REASONS.contains(&reason));
        }
    }
}
