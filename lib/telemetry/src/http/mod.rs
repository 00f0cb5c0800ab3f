//! A small HTTP/1 server for health, metrics, the registry and people with curl.
//!
//! Everything that a client can make it hold is bounded by [`HttpLimits`]; what a client gets wrong costs that client
//! its answer or its connection, and nobody else anything.

mod message;
mod routes;
mod server;

pub use hyper::Method;
pub use message::{Request, Response};
pub use routes::{Routes, unavailable};
pub use server::{HttpError, HttpLimits, HttpServer};
