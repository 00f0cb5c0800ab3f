//! What the tests of the bridge share.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test file uses its part")]

pub mod rig;
pub mod sink;

pub use kiteq_testkit::{Log, PATIENCE, ZooKeeper, eventually, free_port};
