//! The broker: sessions, admission, dispatch, delivery, transactions, dead letters.

pub mod config;

pub use config::{BrokerConfig, RedeliverySchedule};
