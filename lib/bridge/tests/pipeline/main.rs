//! The pipeline between a real Redis and a Flume source in this process.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod drain;
mod outage;
mod recovery;
mod support;
mod whole;
