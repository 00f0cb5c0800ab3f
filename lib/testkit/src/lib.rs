//! What tests share: real servers of their own, bounded waits, captured logs.
//!
//! Each server runs on a free port of loopback with its data in a temporary directory, and is killed when its value is
//! dropped. A server that is not installed fails the test with a word about what installs it. Only tests depend on this.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::missing_panics_doc, reason = "every function here panics when its server does not work")]

mod certificates;
mod etcd;
mod log;
mod mariadb;
mod process;
mod program;
mod proxy;
mod redis;
mod shared_store;
mod wait;
mod zookeeper;

pub use certificates::Certificates;
pub use etcd::{Etcd, EtcdKey};
pub use log::Log;
pub use mariadb::MariaDb;
pub use process::{ServerProcess, free_port};
pub use program::{Binary, Ended, Program};
pub use proxy::{Line, Proxy};
pub use redis::{Redis, RedisOptions};
pub use shared_store::{SharedRows, SharedStore};
pub use wait::{PATIENCE, eventually};
pub use zookeeper::ZooKeeper;
