//! Redis, as far as a bridge needs it: addresses, a pipelined connection, keys and scripts.
//!
//! Replies to claims are read element by element, straight from the socket's buffer: no element is copied or allocated for,
//! and a reply of any size takes no more memory than its largest element. This is why the connection is our own; addresses are
//! read by the `redis` crate.

mod address;
mod connection;
mod error;
mod keys;
mod reply;
mod scripts;
mod tls;

pub(crate) use address::Address;
pub(crate) use connection::{Connection, Dialer};
pub(crate) use error::{RedisError, Refusal};
pub(crate) use keys::{Keys, Owner, Source, unix_ms};
pub(crate) use reply::{Head, Reply, head, short_bulk, skip_crlf};
pub(crate) use scripts::{PARK_FULL, PARK_GONE, Script, Scripts};
pub(crate) use tls::connector as tls_connector;
