//! The server's side of bad input.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::Arc;

use kiteq_flume::{Answer, FlumeError, Protocol, ServerOptions, Status};
use support::{Script, Source, batch, connect, options, source, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const COMPACT: Protocol = Protocol::Compact;

async fn ok_source(options: ServerOptions) -> (Source, Arc<Script>) {
    let script = Script::new(&[Answer::Status(Status::Ok)]);
    (source(options, script.clone()).await, script)
}

/// A call of `append` with one event, in the compact protocol.
const APPEND: &[u8] = b"\0\0\0\x12\x82\x21\x05\x06append\x1c\x1b\0\x18\x01x\0\0";

#[tokio::test]
async fn a_call_may_come_in_pieces_and_several_at_once() {
    let (source, script) = ok_source(ServerOptions::default()).await;
    let mut stream = TcpStream::connect(source.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in APPEND {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.write_all(&[APPEND, APPEND].concat()).await.unwrap();
    let mut replies = vec![0; 3 * 18];
    within(stream.read_exact(&mut replies)).await.unwrap();
    assert_eq!(replies, b"\0\0\0\x0e\x82\x41\x05\x06append\x05\0\0\0".repeat(3));
    assert_eq!(script.bodies(), [b"x", b"x", b"x"]);
}

#[tokio::test]
async fn what_is_no_call_of_a_source_is_answered_with_an_exception_and_the_next_one_is_served() {
    let (source, _) = ok_source(ServerOptions::default()).await;
    let mut stream = TcpStream::connect(source.address).await.unwrap();
    let calls: [(&[u8], &str); 3] = [
        (b"\0\0\0\x09\x82\x21\x05\x04ping\0", "unknown method \"ping\""),
        (b"\0\0\0\x0b\x82\x21\x05\x06append\0", "the call has no events"),
        (b"\0\0\0\x0b\x82\x41\x05\x06append\0", "this is no call"),
    ];
    for (call, expected) in calls {
        stream.write_all(call).await.unwrap();
        let mut reply = vec![0; within(stream.read_u32()).await.unwrap() as usize];
        within(stream.read_exact(&mut reply)).await.unwrap();
        assert_eq!(reply[..3], *b"\x82\x61\x05");
        assert!(String::from_utf8_lossy(&reply).contains(expected), "{}", reply.escape_ascii());
    }
    stream.write_all(APPEND).await.unwrap();
    assert_eq!(within(stream.read_u32()).await.unwrap(), 14);
}

#[tokio::test]
async fn garbage_and_frames_that_are_too_long_end_their_connection_only() {
    let limited = ServerOptions { frame_bytes_max: 1000, ..ServerOptions::default() };
    let (source, _) = ok_source(limited).await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\0\x03\xe9", b"\0\0\0\x04abcd", b"\0\0\0\0"] {
        let mut stream = TcpStream::connect(source.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut rest = Vec::new();
        // Bytes that nobody read make the close a reset.
        let _ = within(stream.read_to_end(&mut rest)).await;
        assert!(rest.is_empty(), "{}", rest.escape_ascii());
    }
    let mut connection = connect(source.address, &options(COMPACT)).await;
    connection.append_batch(&batch(COMPACT, &[b"x"])).await.unwrap();
    let error = connection.append_batch(&batch(COMPACT, &[&[0; 1000]])).await.unwrap_err();
    assert!(matches!(error, FlumeError::Closed { .. }), "{error}");
}

#[tokio::test]
async fn connections_beyond_the_maximum_wait_for_one_to_end() {
    let (source, script) = ok_source(ServerOptions { connections_max: 1, ..ServerOptions::default() }).await;
    let mut first = connect(source.address, &options(COMPACT)).await;
    first.append_batch(&batch(COMPACT, &[b"first"])).await.unwrap();
    let mut second = connect(source.address, &options(COMPACT)).await;
    let second_batch = batch(COMPACT, &[b"second"]);
    let mut waiting = Box::pin(second.append_batch(&second_batch));
    // The first connection's request is served while the second one's waits.
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("it was served beside the first"),
        result = async {
            for _ in 0..100 {
                first.append_batch(&batch(COMPACT, &[b"first"])).await?;
            }
            Ok::<_, FlumeError>(())
        } => result.unwrap(),
    }
    drop(first);
    waiting.await.unwrap();
    assert_eq!(script.bodies().last().unwrap(), b"second");
}

#[tokio::test]
async fn a_connection_that_the_handler_does_not_want_is_closed() {
    let mut script = Arc::into_inner(Script::new(&[Answer::Status(Status::Ok)])).unwrap();
    script.refuses_connection = Some(2);
    let source = source(ServerOptions::default(), Arc::new(script)).await;
    for (number, expected) in [(1, true), (2, false), (3, true)] {
        let mut connection = connect(source.address, &options(COMPACT)).await;
        let result = connection.append_batch(&batch(COMPACT, &[b"x"])).await;
        assert_eq!(result.is_ok(), expected, "connection {number}");
    }
}

#[tokio::test]
async fn a_dropped_server_frees_its_port_and_closes_its_connections() {
    let (source, _) = ok_source(ServerOptions::default()).await;
    let address = source.address;
    let mut connection = connect(address, &options(COMPACT)).await;
    connection.append_batch(&batch(COMPACT, &[b"x"])).await.unwrap();
    drop(source);
    let error = connection.append_batch(&batch(COMPACT, &[b"x"])).await.unwrap_err();
    assert!(matches!(error, FlumeError::Closed { .. }), "{error}");
    assert!(TcpStream::connect(address).await.is_err());
}
