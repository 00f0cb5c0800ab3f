//! The KiteQ wire protocol: bytes in, bytes out, no I/O.
//!
//! A connection is a stream of [`frame`]s. A frame's body is one of the protobuf messages in [`pb`]; published messages
//! take the short cut in [`message`], which finds the few fields that a broker needs and carries everything else as the
//! bytes it arrived in.

pub mod command;
pub mod frame;
pub mod message;
pub mod message_id;
pub mod reply;
pub mod scan;

/// Prost types of proto/kiteq.proto, for everything that is not on the path of a message.
#[allow(missing_docs, clippy::all, reason = "generated; the documentation is in proto/kiteq.proto")]
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/kiteq.rs"));
}

pub use command::{Command, MessageKind};
pub use frame::{Dialect, Frame, FrameDecoder, FrameError, FrameHeader, Framing};
pub use message::{HeaderChanges, Message, MessageError, Payload};
pub use message_id::{InvalidMessageId, MessageId};
