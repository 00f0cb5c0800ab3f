//! The lean engine: frames encoded once and patched in place, natural batches, one thread per core.
//!
//! It exists to measure servers, so it must cost much less than they do: the same loop drives the bare server of
//! `limits` and a broker, and a ratio of the two says something about the broker alone. It does not reconnect: a lost
//! connection ends the run with an error. The client engine is the one that survives restarts.

pub mod alarm;
pub mod connection;
pub mod consumer;
pub mod in_flight;
pub mod inbound;
pub mod outbox;
pub mod producer;
pub mod session;
pub mod template;
pub mod workers;
