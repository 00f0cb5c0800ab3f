//! What a server or a connection can answer instead of doing what it was asked, and what that means.

use sqlx::mysql::MySqlDatabaseError;

use crate::error::StoreError;

/// A statement that was not carried out, or of which that is not known.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    /// The server.
    pub(super) place: String,
    /// For a person.
    pub(super) reason: String,
}

/// What a caller has to know about a [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// The transaction was chosen to give way to another one: it may be tried again at once.
    GaveWay,
    /// The server does not take writes: it has become a slave, or is being switched over.
    ReadOnly,
    /// The server's disk is full.
    DiskFull,
    /// The server said no; there is nothing wrong with the connection.
    Refused,
    /// No connection could be made. Nothing was sent.
    Unreachable,
    /// The connection broke, or the answer did not come in time: what was sent may have been carried out.
    Lost,
}

impl Fault {
    pub(super) fn unreachable(place: String, reason: String) -> Self {
        Self { kind: FaultKind::Unreachable, place, reason }
    }

    pub(super) fn timed_out(place: String, timeout: std::time::Duration) -> Self {
        let reason = format!("no answer within {timeout:?}");
        Self { kind: FaultKind::Lost, place, reason }
    }

    pub(super) fn of(error: &sqlx::Error, place: String) -> Self {
        let number = match error {
            sqlx::Error::Database(error) => error.try_downcast_ref().map(MySqlDatabaseError::number),
            _ => None,
        };
        let (kind, advice) = number.map_or((FaultKind::Lost, ""), meaning);
        let said = match error {
            sqlx::Error::Database(error) => number
                .map_or_else(|| error.to_string(), |number| format!("{} (error {number})", error.message())),
            error => error.to_string(),
        };
        Self { kind, place, reason: format!("{said}{advice}") }
    }

    /// An answer that does not look as it must.
    pub(super) fn strange(place: String, reason: String) -> Self {
        Self { kind: FaultKind::Refused, place, reason }
    }

    /// Whether the connection can be used on.
    pub(super) fn spares_connection(&self) -> bool {
        matches!(self.kind, FaultKind::GaveWay | FaultKind::DiskFull | FaultKind::Refused)
    }

    /// What the caller of the store is told.
    pub(super) fn to_error(&self) -> StoreError {
        let (place, reason) = (self.place.clone(), self.reason.clone());
        match self.kind {
            FaultKind::DiskFull => StoreError::DiskFull { place, reason },
            _ => StoreError::Unavailable { place, reason },
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)
    }
}

/// What a server's error number means, and what to do about it.
fn meaning(number: u16) -> (FaultKind, &'static str) {
    match number {
        // Deadlock, lock wait timeout, record changed since it was read.
        1213 | 1205 | 1020 => (FaultKind::GaveWay, ""),
        1290 | 1792 | 1836 | 3100 => {
            (FaultKind::ReadOnly, "; the server takes no writes: it may have become a slave")
        }
        // Error writing a file, temporary file, disk full, no space for the binary log, table full.
        3 | 1021 | 1026 | 1114 => (FaultKind::DiskFull, "; make room on the server's disk"),
        // The engine's own number stands in the text; the usual one is 28, no space left.
        1030 => (FaultKind::DiskFull, "; look into the server's error log"),
        1040 | 1203 | 1226 => {
            (FaultKind::Unreachable, "; raise the server's limit of connections or lower maxConn")
        }
        1044 | 1045 | 1142 | 1227 | 1698 => {
            (FaultKind::Refused, "; check username and password, and what the user may do")
        }
        // The server is going down, or killed this connection.
        1053 | 1927 | 1317 | 1077 | 1079 | 4031 => (FaultKind::Lost, ""),
        1180 => (FaultKind::Lost, "; the commit failed"),
        1153 => (FaultKind::Refused, "; raise the server's max_allowed_packet"),
        _ => (FaultKind::Refused, ""),
    }
}
