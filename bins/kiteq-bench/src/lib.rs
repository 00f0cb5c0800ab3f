//! The load tool: what a KiteQ broker does under load, beside what the machine itself can do.
//!
//! Two engines. [`wire`] speaks the protocol with frames that are made once and patched, so that it costs far less than
//! what it measures; it drives brokers and the bare server of [`bare`] alike. The client engine is what applications
//! link; it survives broker restarts, which `--verify` needs. Beside them stand both ends of a bridge: [`redis`] fills queues, and
//! [`flume`] is a sink that keeps books.

pub mod bare;
pub mod cli;
pub mod client_engine;
pub mod clock;
pub mod commands;
pub mod counters;
pub mod cpu;
pub mod flume;
pub mod format;
pub mod latency;
pub mod ledger;
pub mod limits;
pub mod load;
pub mod open_files;
pub mod phases;
pub mod progress;
pub mod redis;
pub mod report;
pub mod run;
pub mod schedule;
pub mod signals;
pub mod stamp;
pub mod target;
pub mod units;
pub mod wire;
