//! The pipeline between a real Redis and a Flume source in this process.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod bad_elements;
mod drain;
mod outage;
mod recovery;
mod refusals;
mod support;
mod tls;
mod whole;
