//! Heads of calls, replies and exceptions, through the `thrift` crate.

use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TCompactInputProtocol, TCompactOutputProtocol,
    TFieldIdentifier, TInputProtocol, TListIdentifier, TMessageIdentifier, TMessageType, TOutputProtocol,
    TStructIdentifier, TType,
};
use thrift::{ApplicationError, ApplicationErrorKind, TConfiguration};

use crate::decode::Call;
use crate::frame::LENGTH_BYTES;
use crate::generated::{ThriftSourceProtocolAppendBatchResult, ThriftSourceProtocolAppendResult};
use crate::protocol::Protocol;
use crate::status::Status;

/// Reads Thrift values from `bytes`. Nothing that the bytes announce takes more memory than there are bytes.
fn input<'a>(protocol: Protocol, bytes: &'a [u8]) -> thrift::Result<Box<dyn TInputProtocol + 'a>> {
    let limit = Some(bytes.len().max(1));
    let config = TConfiguration::builder()
        .max_message_size(limit)
        .max_frame_size(limit)
        .max_string_size(limit)
        .max_container_size(limit)
        .build()?;
    Ok(match protocol {
        Protocol::Compact => Box::new(TCompactInputProtocol::with_config(bytes, config)),
        Protocol::Binary => Box::new(TBinaryInputProtocol::with_config(bytes, true, config)),
    })
}

/// A frame whose content `write` writes, but for the `rest_bytes` that the caller sends after it.
fn framed(
    protocol: Protocol,
    rest_bytes: usize,
    write: impl FnOnce(&mut dyn TOutputProtocol) -> thrift::Result<()>,
) -> thrift::Result<Vec<u8>> {
    let mut frame = Vec::with_capacity(64);
    frame.extend_from_slice(&[0; LENGTH_BYTES]);
    match protocol {
        Protocol::Compact => write(&mut TCompactOutputProtocol::new(&mut frame))?,
        Protocol::Binary => write(&mut TBinaryOutputProtocol::new(&mut frame, true))?,
    }
    let len = (frame.len() - LENGTH_BYTES + rest_bytes) as u32;
    frame[..LENGTH_BYTES].copy_from_slice(&len.to_be_bytes());
    Ok(frame)
}

/// What stands before the events of an appendBatch call, the frame's length included. `rest_bytes` is what follows.
pub(crate) fn append_batch_head(
    protocol: Protocol,
    sequence: i32,
    events: usize,
    rest_bytes: usize,
) -> thrift::Result<Vec<u8>> {
    framed(protocol, rest_bytes, |out| {
        let name = Call::AppendBatch.name();
        out.write_message_begin(&TMessageIdentifier::new(name, TMessageType::Call, sequence))?;
        out.write_struct_begin(&TStructIdentifier::new("appendBatch_args"))?;
        out.write_field_begin(&TFieldIdentifier::new("events", TType::List, 1))?;
        out.write_list_begin(&TListIdentifier::new(TType::Struct, events as i32))
    })
}

/// What a source answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Status(Status),
    /// A TApplicationException.
    Exception(String),
}

/// Reads the reply to the appendBatch call with this sequence number.
///
/// # Errors
/// What is wrong with it, when it is none.
pub(crate) fn read_reply(protocol: Protocol, sequence: i32, frame: &[u8]) -> Result<Reply, String> {
    let reply = read_reply_of(protocol, sequence, frame);
    reply.unwrap_or_else(|error| Err(format!("the reply is no Thrift message: {error}")))
}

fn read_reply_of(protocol: Protocol, sequence: i32, frame: &[u8]) -> thrift::Result<Result<Reply, String>> {
    let mut input = input(protocol, frame)?;
    let head = input.read_message_begin()?;
    if head.sequence_number != sequence {
        let number = head.sequence_number;
        return Ok(Err(format!("the reply is to call number {number}, not {sequence}")));
    }
    match head.message_type {
        TMessageType::Exception => {
            let error = thrift::Error::read_application_error_from_in_protocol(&mut *input)?;
            Ok(Ok(Reply::Exception(format!("{:?}: {}", error.kind, error.message))))
        }
        TMessageType::Reply if head.name == Call::AppendBatch.name() => {
            let result = ThriftSourceProtocolAppendBatchResult::read_from_in_protocol(&mut *input)?;
            let status = result.result_value.ok_or_else(|| "the reply has no status".to_owned());
            Ok(status.map(|status| Reply::Status(status.into())))
        }
        TMessageType::Reply => Ok(Err(format!("the reply is to a call of {:?}", head.name))),
        other => Ok(Err(format!("a message of type {other:?} came instead of a reply"))),
    }
}

/// The frame of a reply.
pub(crate) fn reply(
    protocol: Protocol,
    call: Call,
    sequence: i32,
    status: Status,
) -> thrift::Result<Vec<u8>> {
    framed(protocol, 0, |out| {
        out.write_message_begin(&TMessageIdentifier::new(call.name(), TMessageType::Reply, sequence))?;
        let result_value = Some(status.into());
        match call {
            Call::Append => ThriftSourceProtocolAppendResult { result_value }.write_to_out_protocol(out)?,
            Call::AppendBatch => {
                ThriftSourceProtocolAppendBatchResult { result_value }.write_to_out_protocol(out)?;
            }
        }
        out.write_message_end()
    })
}

/// The frame of a TApplicationException.
pub(crate) fn exception(
    protocol: Protocol,
    method: &str,
    sequence: i32,
    kind: ApplicationErrorKind,
    message: &str,
) -> thrift::Result<Vec<u8>> {
    framed(protocol, 0, |out| {
        out.write_message_begin(&TMessageIdentifier::new(method, TMessageType::Exception, sequence))?;
        let error = ApplicationError::new(kind, message);
        thrift::Error::write_application_error_to_out_protocol(&error, out)?;
        out.write_message_end()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Protocol; 2] = [Protocol::Compact, Protocol::Binary];

    fn content(frame: &[u8]) -> &[u8] {
        let (length, content) = frame.split_at(LENGTH_BYTES);
        assert_eq!(length, (content.len() as u32).to_be_bytes());
        content
    }

    #[test]
    fn a_head_has_these_bytes() {
        assert_eq!(
            append_batch_head(Protocol::Compact, 300, 1000, 7).unwrap(),
            b"\0\0\0\x1b\x82\x21\xac\x02\x0bappendBatch\x19\xfc\xe8\x07"
        );
        assert_eq!(
            append_batch_head(Protocol::Binary, 300, 1000, 7).unwrap(),
            b"\0\0\0\x26\x80\x01\0\x01\0\0\0\x0bappendBatch\0\0\x01\x2c\x0f\0\x01\x0c\0\0\x03\xe8"
        );
    }

    #[test]
    fn no_head_is_longer_than_a_batch_reckons() {
        for protocol in BOTH {
            let batch = crate::BatchBuilder::new(protocol, 100).finish();
            let head = append_batch_head(protocol, -1, i32::MAX as usize, 0).unwrap();
            assert_eq!(head.len() - LENGTH_BYTES + batch.encoded().len(), batch.frame_bytes());
        }
    }

    #[test]
    fn a_reply_has_these_bytes() {
        let compact = reply(Protocol::Compact, Call::AppendBatch, 1, Status::Error).unwrap();
        assert_eq!(compact, b"\0\0\0\x13\x82\x41\x01\x0bappendBatch\x05\0\x04\0");
        let binary = reply(Protocol::Binary, Call::Append, 1, Status::Ok).unwrap();
        assert_eq!(binary, b"\0\0\0\x1a\x80\x01\0\x02\0\0\0\x06append\0\0\0\x01\x08\0\0\0\0\0\0\0");
    }

    #[test]
    fn every_status_and_exceptions_are_read_back() {
        for protocol in BOTH {
            for status in [Status::Ok, Status::Failed, Status::Error, Status::Unknown] {
                let frame = reply(protocol, Call::AppendBatch, 9, status).unwrap();
                assert_eq!(read_reply(protocol, 9, content(&frame)), Ok(Reply::Status(status)));
            }
            let kind = ApplicationErrorKind::UnknownMethod;
            let frame = exception(protocol, "appendBatch", 9, kind, "no such thing").unwrap();
            let Ok(Reply::Exception(text)) = read_reply(protocol, 9, content(&frame)) else {
                panic!("{frame:?}")
            };
            assert_eq!(text, "UnknownMethod: no such thing");
        }
    }

    #[test]
    fn a_reply_to_something_else_is_refused() {
        for protocol in BOTH {
            let frame = reply(protocol, Call::AppendBatch, 9, Status::Ok).unwrap();
            assert!(read_reply(protocol, 10, content(&frame)).unwrap_err().contains("call number 9, not 10"));
            let frame = reply(protocol, Call::Append, 9, Status::Ok).unwrap();
            assert!(read_reply(protocol, 9, content(&frame)).unwrap_err().contains("\"append\""));
            let frame = append_batch_head(protocol, 9, 0, 0).unwrap();
            assert!(read_reply(protocol, 9, content(&frame)).unwrap_err().contains("Call"));
        }
    }

    #[test]
    fn a_reply_that_is_cut_short_is_refused() {
        for protocol in BOTH {
            let frame = reply(protocol, Call::AppendBatch, 9, Status::Ok).unwrap();
            let content = content(&frame);
            for len in 0..content.len() {
                assert!(read_reply(protocol, 9, &content[..len]).is_err(), "{protocol} {len}");
            }
        }
    }
}
