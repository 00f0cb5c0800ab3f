//! ZooKeeper, as the registry and the bridge need it: one session after another, and the operations on a tree.
//!
//! A session ends when its servers have not heard of it for its timeout; its ephemeral nodes and watches end with it. So
//! whatever is wanted of ZooKeeper is done again in each session: [`Sessions::run`] asks for them one after the other,
//! from several hosts, as long as it takes.

mod backoff;
mod session;
mod tree;

pub use backoff::Backoff;
pub use session::{Link, SESSION_TIMEOUT, Sessions, resync};
pub use tree::{
    ANSWER_TIMEOUT, Listing, NODE_BYTES_MAX, ask, delete, list, make, make_ephemeral, make_sequential, write,
};
pub use zookeeper_client::{Client, Error, OneshotWatcher, SessionState, Stat};
