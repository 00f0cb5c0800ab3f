//! The broker: sessions, admission, dispatch, delivery, transactions, dead letters.
//!
//! A published message goes from its [session](crate::session) through admission into the store; when the store holds it,
//! its publisher is answered and the [dispatcher](crate::dispatch) queues it for every group whose binding matches. The
//! dispatcher hands it to one connection of each group, and settles it in the store when all have acked it.

mod broker;
mod clock;
pub mod config;
mod dispatch;
mod mailbox;
mod metrics;
mod session;
mod shared;
mod takeover;
mod token_bucket;

pub use broker::{Broker, StartError, StopReport};
pub use config::{BrokerConfig, RedeliverySchedule};
pub use dispatch::{BrokerStats, LaneStats, Residency};
