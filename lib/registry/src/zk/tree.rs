//! The tree that existing brokers and clients share.
//!
//! | path | kind | data |
//! |---|---|---|
//! | `/kiteq/server/{topic}/{host:port}` | ephemeral | empty |
//! | `/kiteq/alive_servers/{host:port}` | ephemeral | empty |
//! | `/kiteq/all_servers/{host:port}` | persistent | empty |
//! | `/kiteq/pub/{topic}/{group}/{host}` | persistent | empty |
//! | `/kiteq/sub/{topic}/{group}-bind` | persistent | JSON array of bindings |

pub(super) const ALIVE_SERVERS: &str = "/kiteq/alive_servers";
pub(super) const ALL_SERVERS: &str = "/kiteq/all_servers";

pub(super) fn server(topic: &str) -> String {
    format!("/kiteq/server/{topic}")
}

pub(super) fn publishers(topic: &str) -> String {
    format!("/kiteq/pub/{topic}")
}

pub(super) fn subscribers(topic: &str) -> String {
    format!("/kiteq/sub/{topic}")
}
