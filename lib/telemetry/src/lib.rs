//! What every binary shares: logging, metrics, the HTTP side and shutdown.
//!
//! A binary starts with [`logging::init`], makes one [`Shutdown`], lets [`signal::stop_on_signals`] trigger it, spawns
//! every long-lived task through [`Shutdown::spawn`], and ends with [`Shutdown::finish`], whose [`Outcome`] is the exit
//! code. [`http::HttpServer`] serves health, metrics and whatever else the binary mounts.

pub mod health;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod open_files;
mod process;
mod rotation;
pub mod shutdown;
pub mod signal;
mod stage;

pub use http::{HttpLimits, HttpServer, Request, Response, Routes};
pub use logging::{LogConfig, LogFormat, LogGuard};
pub use shutdown::{Importance, Outcome, Shutdown};
pub use stage::Stage;
