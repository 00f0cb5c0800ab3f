//! A client and what sources do to it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use kiteq_flume::{Answer, ConnectOptions, Connection, FlumeError, Protocol, ServerOptions, Status};
use support::{BOTH, Script, batch, connect, options, source};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const COMPACT: Protocol = Protocol::Compact;
const SHORT: Duration = Duration::from_millis(200);

/// A peer on the other end that does what the test wants with one connection.
async fn peer<Fut: Future<Output = ()> + Send + 'static>(
    serve: impl FnOnce(TcpStream) -> Fut + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { serve(listener.accept().await.unwrap().0).await });
    address
}

/// Reads a whole request.
async fn read_request(stream: &mut TcpStream) -> Vec<u8> {
    let mut request = vec![0; stream.read_u32().await.unwrap() as usize];
    stream.read_exact(&mut request).await.unwrap();
    request
}

/// Sends a batch to a peer that answers it with these bytes and then waits.
async fn answered_with(
    reply: &'static [u8],
    options: ConnectOptions,
) -> (Result<(), FlumeError>, Connection) {
    let address = peer(move |mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(reply).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let mut connection = connect(address, &options).await;
    let result = connection.append_batch(&batch(options.protocol, &[b"x"])).await;
    (result, connection)
}

#[tokio::test]
async fn batches_arrive_whole_and_in_order_over_one_connection() {
    for protocol in BOTH {
        let script = Script::new(&[Answer::Status(Status::Ok)]);
        let source = source(ServerOptions { protocol, ..ServerOptions::default() }, script.clone()).await;
        let mut connection = connect(source.address, &options(protocol)).await;
        // Larger than what sockets buffer, so that it takes many writes.
        let large = vec![7; 8 << 20];
        connection.append_batch(&batch(protocol, &[b"a", b"", &large])).await.unwrap();
        connection.append_batch(&batch(protocol, &[])).await.unwrap();
        for _ in 0..200 {
            connection.append_batch(&batch(protocol, &[b"b"])).await.unwrap();
        }
        assert!(connection.is_usable());
        let bodies = script.bodies();
        assert_eq!(bodies[..3], [b"a".to_vec(), Vec::new(), large]);
        assert_eq!(bodies[3..], vec![b"b".to_vec(); 200]);
    }
}

#[tokio::test]
async fn a_batch_can_be_sent_again_over_another_connection() {
    let script = Script::new(&[Answer::Status(Status::Failed), Answer::Status(Status::Ok)]);
    let source = source(ServerOptions::default(), script.clone()).await;
    let batch = batch(COMPACT, &[b"a", b"b"]);
    let mut first = connect(source.address, &options(COMPACT)).await;
    assert!(first.append_batch(&batch).await.is_err());
    let mut second = connect(source.address, &options(COMPACT)).await;
    second.append_batch(&batch).await.unwrap();
    assert_eq!(script.bodies(), [b"a", b"b", b"a", b"b"]);
}

#[tokio::test]
async fn a_refusal_is_told_by_its_status_and_leaves_the_connection_usable() {
    for protocol in BOTH {
        let refusals = [Status::Failed, Status::Error, Status::Unknown];
        let script = Script::new(&refusals.map(Answer::Status));
        let source = source(ServerOptions { protocol, ..ServerOptions::default() }, script).await;
        let mut connection = connect(source.address, &options(protocol)).await;
        for expected in refusals {
            let error = connection.append_batch(&batch(protocol, &[b"x"])).await.unwrap_err();
            assert!(matches!(error, FlumeError::Status { status, .. } if status == expected), "{error}");
            assert!(error.leaves_connection_usable() && connection.is_usable());
            assert!(
                error.to_string().contains(&format!("{} answered {expected}", source.address)),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn a_reply_may_come_in_pieces() {
    let address = peer(|mut stream| async move {
        read_request(&mut stream).await;
        for byte in b"\0\0\0\x13\x82\x41\x01\x0bappendBatch\x05\0\0\0" {
            stream.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        read_request(&mut stream).await;
    })
    .await;
    let mut connection = connect(address, &options(COMPACT)).await;
    connection.append_batch(&batch(COMPACT, &[b"x"])).await.unwrap();
    assert!(connection.is_usable());
}

#[tokio::test]
async fn a_code_that_is_no_status_counts_as_unknown() {
    let reply = b"\0\0\0\x13\x82\x41\x01\x0bappendBatch\x05\0\x54\0";
    let (result, _) = answered_with(reply, options(COMPACT)).await;
    let error = result.unwrap_err();
    assert!(matches!(error, FlumeError::Status { status: Status::Unknown, .. }), "{error}");
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_ends_the_connection() {
    let garbage: [(&[u8], &str); 6] = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "1213486160 bytes"),
        (b"\x15\x03\x03\0\x02\x02\x16", "352518912 bytes"),
        (b"\0\0\0\x00", "no Thrift message"),
        (b"\0\0\0\x05\x82\x41\x01\x0bap", "no Thrift message"),
        (b"\0\0\0\x13\x82\x41\x02\x0bappendBatch\x05\0\0\0", "call number 2, not 1"),
        (b"\0\0\0\x10\x82\x41\x01\x0bappendBatch\0", "no status"),
    ];
    for (reply, expected) in garbage {
        let (result, mut connection) = answered_with(reply, options(COMPACT)).await;
        let error = result.unwrap_err();
        assert!(matches!(error, FlumeError::Protocol { .. }), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.to_string().contains(connection.address()), "{error}");
        assert!(!error.leaves_connection_usable() && !connection.is_usable());
        let again = connection.append_batch(&batch(COMPACT, &[b"x"])).await.unwrap_err();
        assert!(matches!(again, FlumeError::Closed { .. }), "{again}");
    }
}

#[tokio::test]
async fn a_reply_is_bounded() {
    let reply = b"\0\0\0\x15\x82\x41\x01\x0bappendBatch\x05\0\0\0";
    let (result, _) = answered_with(reply, ConnectOptions { reply_bytes_max: 20, ..options(COMPACT) }).await;
    let error = result.unwrap_err();
    assert!(matches!(&error, FlumeError::Protocol { reason, .. } if reason.contains("21 bytes")), "{error}");
}

#[tokio::test]
async fn an_exception_is_told_with_its_text() {
    let reply = b"\0\0\0\x19\x82\x61\x01\x0bappendBatch\x18\x05sorry\x15\x0c\0";
    let (result, mut connection) = answered_with(reply, options(COMPACT)).await;
    let error = result.unwrap_err();
    assert!(
        matches!(&error, FlumeError::Exception { message, .. } if message == "InternalError: sorry"),
        "{error}"
    );
    assert!(!connection.is_usable());
}

#[tokio::test]
async fn a_reply_beyond_the_first_ends_the_connection_but_not_the_batch() {
    let reply =
        b"\0\0\0\x13\x82\x41\x01\x0bappendBatch\x05\0\0\0\0\0\0\x13\x82\x41\x02\x0bappendBatch\x05\0\0\0";
    let (result, mut connection) = answered_with(reply, options(COMPACT)).await;
    result.unwrap();
    assert!(!connection.is_usable());
}

#[tokio::test]
async fn a_source_that_never_answers_costs_the_request_timeout() {
    let script = Script::new(&[Answer::Silence]);
    let source = source(ServerOptions::default(), script).await;
    let mut connection =
        connect(source.address, &ConnectOptions { request_timeout: SHORT, ..options(COMPACT) }).await;
    let error = connection.append_batch(&batch(COMPACT, &[b"x"])).await.unwrap_err();
    assert!(matches!(error, FlumeError::Timeout { timeout: SHORT, .. }), "{error}");
    assert!(!connection.is_usable());
}

#[tokio::test]
async fn a_source_that_does_not_read_costs_the_request_timeout() {
    let address = peer(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let mut connection =
        connect(address, &ConnectOptions { request_timeout: SHORT, ..options(COMPACT) }).await;
    let error = connection.append_batch(&batch(COMPACT, &[&vec![0; 15 << 20]])).await.unwrap_err();
    assert!(matches!(error, FlumeError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn a_connection_that_is_closed_instead_of_an_answer_is_told() {
    let script = Script::new(&[Answer::Drop]);
    let source = source(ServerOptions::default(), script).await;
    let mut connection = connect(source.address, &options(COMPACT)).await;
    let error = connection.append_batch(&batch(COMPACT, &[b"x"])).await.unwrap_err();
    assert!(matches!(error, FlumeError::Closed { .. }), "{error}");
    assert!(error.to_string().contains(&source.address.to_string()), "{error}");
}

/// The peer closes its half only and goes on reading, so that no write ever fails.
#[tokio::test]
async fn a_half_closed_connection_is_told_before_and_after_the_request() {
    let address = peer(|mut stream| async move {
        stream.shutdown().await.unwrap();
        let mut sink = Vec::new();
        stream.read_to_end(&mut sink).await.unwrap();
    })
    .await;
    let mut connection = connect(address, &options(COMPACT)).await;
    let error = connection.append_batch(&batch(COMPACT, &[b"x"])).await.unwrap_err();
    assert!(matches!(error, FlumeError::Closed { .. }), "{error}");
}

/// The peer closes its half and stops reading: without a look at it the request would wait for its timeout.
#[tokio::test]
async fn a_half_closed_connection_is_told_in_the_middle_of_a_request() {
    let address = peer(|mut stream| async move {
        stream.read_u32().await.unwrap();
        stream.shutdown().await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let mut connection = connect(address, &options(COMPACT)).await;
    let error = connection.append_batch(&batch(COMPACT, &[&vec![0; 15 << 20]])).await.unwrap_err();
    assert!(matches!(error, FlumeError::Closed { .. }), "{error}");
}

#[tokio::test]
async fn a_peer_that_closes_an_idle_connection_is_noticed() {
    let address = peer(|mut stream| async move { stream.shutdown().await.unwrap() }).await;
    let mut connection = connect(address, &options(COMPACT)).await;
    let noticed = async {
        while connection.is_usable() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), noticed).await.unwrap();
    let error = connection.append_batch(&batch(COMPACT, &[b"x"])).await.unwrap_err();
    assert!(matches!(error, FlumeError::Closed { .. }), "{error}");
}

#[tokio::test]
async fn a_connection_whose_request_was_given_up_refuses_the_next_one() {
    let script = Script::new(&[Answer::Silence]);
    let source = source(ServerOptions::default(), script).await;
    let mut connection = connect(source.address, &options(COMPACT)).await;
    assert!(connection.is_usable());
    let given_up = tokio::time::timeout(SHORT, connection.append_batch(&batch(COMPACT, &[b"x"]))).await;
    assert!(given_up.is_err());
    assert!(!connection.is_usable());
    let error = connection.append_batch(&batch(COMPACT, &[b"y"])).await.unwrap_err();
    assert!(matches!(error, FlumeError::Closed { .. }), "{error}");
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = Connection::connect("127.0.0.1", port, &options(COMPACT)).await.unwrap_err();
    assert!(matches!(error, FlumeError::Connect { .. }), "{error}");
    assert_eq!(error.address(), format!("127.0.0.1:{port}"));
}

#[tokio::test]
async fn the_wrong_protocol_is_told() {
    let script = Script::new(&[Answer::Status(Status::Ok)]);
    let source = source(ServerOptions::default(), script.clone()).await;
    let mut connection = connect(source.address, &options(Protocol::Binary)).await;
    let error = connection.append_batch(&batch(COMPACT, &[b"x"])).await.unwrap_err();
    assert!(matches!(error, FlumeError::Protocol { .. }), "{error}");
    let error = connection.append_batch(&batch(Protocol::Binary, &[b"x"])).await.unwrap_err();
    assert!(matches!(error, FlumeError::Closed { .. }), "{error}");
    assert!(script.bodies().is_empty());
}
