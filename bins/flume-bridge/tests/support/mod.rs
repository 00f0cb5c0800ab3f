//! Starts the real binary.
#![allow(dead_code, reason = "each test file uses its part")]

use kiteq_testkit::{Binary, Program, Redis, ZooKeeper};

pub(crate) const BRIDGE: Binary =
    Binary { path: env!("CARGO_BIN_EXE_flume-bridge"), variable_prefix: "FLUME_BRIDGE_" };

/// A bridge with servers of its own.
pub(crate) struct Installation {
    pub(crate) redis: Redis,
    pub(crate) zookeeper: ZooKeeper,
}

impl Installation {
    pub(crate) async fn start() -> Self {
        Self { redis: Redis::start().await, zookeeper: ZooKeeper::start().await }
    }

    /// Starts a bridge as existing installations do, and waits until its HTTP port answers.
    pub(crate) fn bridge(&self, more: &[&str]) -> Program {
        let flags = [
            format!("-redis={}", self.redis.host()),
            format!("-zkhost={}", self.zookeeper.host()),
            "-queuename=user-log".to_owned(),
            "-businesses=location3,default".to_owned(),
            "-instancename=test".to_owned(),
            "-pport=0".to_owned(),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let mut bridge = BRIDGE.start(&flags, &[]);
        bridge.wait_for("started: ");
        bridge
    }
}
