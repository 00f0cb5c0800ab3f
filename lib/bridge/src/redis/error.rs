//! What can go wrong with a Redis server, and what to do about it.

use std::io;
use std::time::Duration;

/// What a user of Redis has to be allowed.
const RIGHTS: &str = "let this user run EVALSHA and SCRIPT LOAD and any command on keys, lists and hashes, and read and write the queue and its kiteq: keys";

/// Why a server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RedisError {
    /// It cannot be reached, or the connection broke.
    #[error("{step}: {source}")]
    Io { step: &'static str, source: io::Error },
    /// No answer in time.
    #[error("{step}: no answer in {timeout:?}")]
    Timeout { step: &'static str, timeout: Duration },
    /// What it says is not Redis' protocol.
    #[error("{reason}; is it a Redis server?")]
    Protocol { reason: String },
    /// It refused a command.
    #[error("{command}: {refusal}")]
    Refused { command: &'static str, refusal: Refusal },
    /// No connection can be had over TLS.
    #[error("TLS: {reason}")]
    Tls { reason: String },
    /// It ended the connection over our first words.
    #[error(
        "{step}: {source} (it may want TLS at this port: then its host is written rediss://, not redis://)"
    )]
    HungUp { step: &'static str, source: io::Error },
}

/// An error reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) String);

impl Refusal {
    /// The first word, which names the kind.
    pub(crate) fn kind(&self) -> &str {
        self.0.split(' ').next().unwrap_or_default()
    }

    /// Scripts are gone from the server: it restarted or somebody flushed them.
    pub(crate) fn wants_scripts(&self) -> bool {
        self.kind() == "NOSCRIPT"
    }

    /// The server turns away this connection, whatever it is asked.
    pub(crate) fn turns_away(&self) -> bool {
        matches!(self.kind(), "NOAUTH" | "DENIED") || self.is_crowded()
    }

    /// Whoever connects is told the same: it is enough if one of our connections to the server tells of it.
    pub(crate) fn is_for_everybody(&self) -> bool {
        matches!(self.kind(), "WRONGPASS" | "LOADING") || self.turns_away()
    }

    fn is_crowded(&self) -> bool {
        self.0.starts_with("ERR max number of clients")
    }

    /// A script was refused what it runs: in the words of version 7.0, and of later ones.
    fn lacks_rights(&self) -> bool {
        self.0.contains("The user executing the script can't") || self.0.contains("ACL failure in script")
    }

    fn lacks_scripts(&self) -> bool {
        let text = self.0.to_ascii_lowercase();
        text.contains("unknown command") && (text.contains("script") || text.contains("evalsha"))
    }

    fn advice(&self) -> Option<&'static str> {
        Some(match self.kind() {
            "NOAUTH" => "give a password: redis://user:password@host:port",
            "WRONGPASS" => "check the user and password of this host",
            "NOPERM" => RIGHTS,
            "LOADING" => "it is reading its data; waiting",
            "READONLY" => "it is a replica; waiting for it to be promoted or its name to point elsewhere",
            "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" => "it is failing over; waiting",
            "MOVED" | "ASK" => "the queue is on another node of the cluster: name that node as its host",
            "CROSSSLOT" => "put a hash tag into the queue's name, such as {logs}",
            "WRONGTYPE" => "another kind of value is at the key; the key of a queue must hold a list",
            "OOM" => "it is out of memory; waiting",
            "BUSY" => "a script is running there; waiting",
            "DENIED" => {
                "it takes connections from its own host alone; see protected-mode in its configuration"
            }
            "ERR" if self.is_crowded() => "it has as many as its maxclients; waiting",
            "ERR" if self.lacks_rights() => RIGHTS,
            "ERR" if self.lacks_scripts() => {
                "this server has no scripts; --claim=pop does without, and loses what it holds when it dies"
            }
            "MISCONF" => "it cannot save its data and refuses writes; see its log",
            _ => return None,
        })
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.advice() {
            Some(advice) => write!(formatter, "{} ({advice})", self.0),
            None => formatter.write_str(&self.0),
        }
    }
}
