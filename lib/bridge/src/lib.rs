//! Everything between Redis and the sinks: claim, decode, route, batch, send, settle.
//!
//! The promise: until a sink has said OK for the batch that an element is in, the element is in Redis: in its queue, in
//! a claim, parked, or in a dead-letter list.

mod bridge;
mod config;
mod deliver;
mod drain;
mod element;
mod error;
mod letter;
mod limit;
mod metrics;
mod recovery;
mod redis;
mod route;
pub mod sinks;
mod stat;

pub use bridge::Bridge;
pub use config::{BatchConfig, BridgeConfig, ClaimMode, SinkProtocol, SinkTls, SinksConfig};
pub use deliver::{AliveMarks, Deliver, Undeliverable};
#[doc(hidden)]
pub use element::{batch_elements, decode_elements, event_body};
pub use error::StartError;
pub use stat::{BusinessStat, QueueStat, Stat, StopReport};
