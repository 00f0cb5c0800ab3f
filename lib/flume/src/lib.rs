//! The source protocol of Apache Flume (thrift/flume.thrift): batches of events over framed Thrift.
//!
//! The client: a [`BatchBuilder`] encodes events as they come, a [`Batch`] goes out over a [`Connection`], again over
//! another one if it must. The other side: a [`Server`] hands decoded [`EventBatch`]es to a [`Handler`]; tests and the load
//! tool's sink are made of it.
//!
//! # What goes over the wire
//!
//! Each message is a frame: its length in bytes as a big-endian u32, which does not count itself, then a Thrift message in the
//! compact or the binary protocol. A source takes frames of up to [`FRAME_BYTES_MAX`] bytes. One request is on its way
//! over a connection at a time; its reply carries its sequence number.
//!
//! # What is written by hand
//!
//! Message heads, replies and exceptions go through the `thrift` crate and the code that its compiler made ([`generated`]).
//! Events do not: that code wants a map and two vectors of their own for every event, wants headers to be UTF-8, and
//! reserves memory for as many events as a frame claims to hold. `examples/codec_cost.rs` measures both: for an event of
//! 300 bytes with two headers, 40 ns against 250 for encoding, and 40 against 460 for decoding (compact, on a machine of
//! two cores). The generated code stays the reference: in tests each side reads what the other one wrote.

#[cfg(test)]
mod agreement;
mod batch;
mod connection;
mod decode;
mod envelope;
mod error;
mod event;
mod frame;
#[rustfmt::skip]
pub mod generated;
mod protocol;
mod reader;
mod server;
mod status;
mod stream;
mod tls;

pub use batch::{Batch, BatchBuilder, PushError, SharedHeaders};
pub use connection::{ConnectOptions, Connection};
pub use decode::{Call, DecodeError, Request, decode_request};
pub use error::FlumeError;
pub use event::{EventBatch, EventRef, Headers};
pub use frame::FRAME_BYTES_MAX;
pub use protocol::{Protocol, UnknownProtocol};
pub use server::{Answer, Handler, Incoming, Server, ServerOptions};
pub use status::Status;
pub use tls::{TlsError, TlsFiles, TlsOptions, TlsServerFiles, TlsServerOptions};
