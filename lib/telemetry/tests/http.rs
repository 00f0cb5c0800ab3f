//! The HTTP server against well and badly behaved clients, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::future::{pending, ready};
use std::net::SocketAddr;
use std::time::Duration;

use kiteq_telemetry::{HttpLimits, HttpServer, Response, Routes, health};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const LONG: Duration = Duration::from_secs(20);

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn routes() -> Routes {
    let routes = Routes::new()
        .prefix("/echo/", |request| {
            let text = format!("{} {} {} {:?}", request.method, request.path, request.query, request.body);
            ready(Response::text(200, text))
        })
        .get("/slow", |_| pending())
        .get("/panic", |_| async { panic!("a handler's mistake") });
    health::mount(routes, || Ok(()), || Err("store is being read".to_owned()))
}

async fn server(limits: HttpLimits) -> (HttpServer, CancellationToken) {
    let stop = CancellationToken::new();
    let server = HttpServer::bind_with(any_port(), routes(), stop.clone(), limits).await.unwrap();
    (server, stop)
}

/// Sends bytes and reads until the server closes.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    read_to_end(&mut stream).await
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset after the answer is as good a close as any.
    timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the server closes").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn get(address: SocketAddr, path: &str) -> String {
    exchange(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await
}

#[tokio::test]
async fn health_and_readiness_say_how_it_is() {
    let (server, _stop) = server(HttpLimits::default()).await;
    let healthy = get(server.address(), "/healthz").await;
    assert!(healthy.starts_with("HTTP/1.1 200") && healthy.ends_with("ok\n"), "{healthy}");
    let not_ready = get(server.address(), "/readyz").await;
    assert!(not_ready.starts_with("HTTP/1.1 503"), "{not_ready}");
    assert!(not_ready.ends_with("store is being read\n"), "{not_ready}");
}

#[tokio::test]
async fn a_handler_gets_method_path_query_and_body() {
    let (server, _stop) = server(HttpLimits::default()).await;
    let request = b"PUT /echo/a?b=c HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nxyz";
    let answer = exchange(server.address(), request).await;
    assert!(answer.ends_with("PUT /echo/a b=c b\"xyz\""), "{answer}");
}

#[tokio::test]
async fn garbage_costs_only_its_own_connection() {
    let (server, _stop) = server(HttpLimits::default()).await;
    let garbage: [&[u8]; 5] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this looks like TLS \r\n\r\n",
        b"\x00\x00\x00\x01\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x16 a kiteq frame\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: minus one\r\n\r\n",
        b"\r\n\r\n\r\nPOST nowhere\r\n\r\n",
    ];
    for bytes in garbage {
        let answer = exchange(server.address(), bytes).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert!(get(server.address(), "/healthz").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn oversized_headers_and_bodies_are_refused() {
    let limits = HttpLimits { body_bytes_max: 10, ..HttpLimits::default() };
    let (server, _stop) = server(limits).await;
    let header = format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(64 << 10));
    let answer = exchange(server.address(), header.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let body = b"POST /echo/ HTTP/1.1\r\nConnection: close\r\nContent-Length: 11\r\n\r\n12345678901";
    let answer = exchange(server.address(), body).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn slow_requests_slow_bodies_and_slow_handlers_are_cut() {
    let short = Duration::from_millis(50);
    let limits = HttpLimits {
        header_timeout: short,
        body_timeout: short,
        handler_timeout: short,
        ..HttpLimits::default()
    };
    let (server, _stop) = server(limits).await;
    let half = exchange(server.address(), b"GET /healthz HT").await;
    assert!(half.is_empty() || half.starts_with("HTTP/1.1 408"), "{half}");
    let body = b"POST /echo/ HTTP/1.1\r\nConnection: close\r\nContent-Length: 3\r\n\r\nx";
    assert!(exchange(server.address(), body).await.starts_with("HTTP/1.1 408"));
    assert!(get(server.address(), "/slow").await.starts_with("HTTP/1.1 503"));
}

#[tokio::test]
async fn a_panicking_handler_is_a_500() {
    let (server, _stop) = server(HttpLimits::default()).await;
    assert!(get(server.address(), "/panic").await.starts_with("HTTP/1.1 500"));
    assert!(get(server.address(), "/healthz").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_places_become_free_again() {
    let limits = HttpLimits { connections_max: 1, ..HttpLimits::default() };
    let (server, _stop) = server(limits).await;
    let mut first = TcpStream::connect(server.address()).await.unwrap();
    first.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").await.unwrap();
    let mut start = [0; 12];
    timeout(LONG, first.read_exact(&mut start)).await.unwrap().unwrap();
    let mut second = TcpStream::connect(server.address()).await.unwrap();
    assert_eq!(read_to_end(&mut second).await, "");
    drop(first);
    let served = async {
        while !get(server.address(), "/healthz").await.starts_with("HTTP/1.1 200") {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, served).await.expect("the place becomes free");
}

#[tokio::test]
async fn a_port_in_use_is_explained() {
    let (server, _stop) = server(HttpLimits::default()).await;
    let error = HttpServer::bind(server.address(), routes(), CancellationToken::new()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&server.address().to_string()), "{text}");
    assert!(text.contains("another process has this port") && text.contains("choose another"), "{text}");
}

#[tokio::test]
async fn a_stop_ends_idle_connections_and_long_polls() {
    let (server, stop) = server(HttpLimits::default()).await;
    let address = server.address();
    let mut idle = TcpStream::connect(address).await.unwrap();
    let polling = tokio::spawn(async move { get(address, "/slow").await });
    stop.cancel();
    timeout(LONG, server.stopped()).await.expect("the server stops");
    assert_eq!(read_to_end(&mut idle).await, "");
    timeout(LONG, polling).await.expect("the poll ends").ok();
    TcpStream::connect(address).await.unwrap_err();
}
