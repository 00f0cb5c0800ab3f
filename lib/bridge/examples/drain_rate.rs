//! How fast a bridge drains a queue into a Flume source in this process, beside what bare pipelined LPOP reads from the same Redis.
//!
//!     redis-server --port 7379 --save '' &
//!     cargo run --release -p kiteq-bridge --example drain_rate -- 127.0.0.1:7379 3000000 1
//!
//! Arguments: the Redis server, whose queue `drain-rate` is overwritten; elements; businesses.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement ends when something fails")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kiteq_bridge::{Bridge, BridgeConfig, Deliver, Undeliverable};
use kiteq_flume::{
    Answer, Batch, ConnectOptions, Connection, Handler, Incoming, Server, ServerOptions, Status,
};
use kiteq_telemetry::Shutdown;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

const QUEUE: &str = "drain-rate";

struct Counter(AtomicUsize);

impl Handler for Counter {
    async fn handle(&self, incoming: Incoming) -> Answer {
        self.0.fetch_add(incoming.events.len(), Ordering::Relaxed);
        Answer::Status(Status::Ok)
    }
}

#[derive(Clone)]
struct Pool {
    port: u16,
    idle: Arc<Mutex<Vec<Connection>>>,
    available: watch::Receiver<bool>,
}

impl Deliver for Pool {
    async fn deliver(&self, _: &str, batch: &Batch) -> Result<(), Undeliverable> {
        let idle = self.idle.lock().unwrap().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::connect("127.0.0.1", self.port, &ConnectOptions::default()).await.unwrap(),
        };
        connection.append_batch(batch).await.unwrap();
        self.idle.lock().unwrap().push(connection);
        Ok(())
    }

    fn availability(&self, _: &str) -> watch::Receiver<bool> {
        self.available.clone()
    }
}

fn element(id: usize, businesses: usize) -> String {
    format!(
        "{{\"action\":\"location\",\"params\":{{\"momoid\":\"{id}\",\"businessName\":\"location{}\",\"type\":\"update\",\"log_type\":3,\n     \
         \"body\":{{\"lat\":39.996176990443,\"lng\":116.47478272276,\"acc\":65,\"ip\":\"106.39.7.226\",\"loctype\":0,\
         \"timestamp\":1404447385}}}}}}",
        id % businesses
    )
}

fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn fill(redis: &str, elements: usize, businesses: usize) {
    let mut stream = TcpStream::connect(redis).unwrap();
    stream.write_all(&command(&[b"DEL", QUEUE.as_bytes()])).unwrap();
    let mut reply = [0; 64];
    assert!(stream.read(&mut reply).unwrap() > 0);
    for first in (0..elements).step_by(1000) {
        let some: Vec<String> =
            (first..(first + 1000).min(elements)).map(|id| element(id, businesses)).collect();
        let mut words: Vec<&[u8]> = vec![b"RPUSH", QUEUE.as_bytes()];
        words.extend(some.iter().map(String::as_bytes));
        stream.write_all(&command(&words)).unwrap();
        assert!(stream.read(&mut reply).unwrap() > 0);
    }
}

/// Elements per second of LPOP 1000 with several on their way.
fn bare(redis: &str, elements: usize) -> f64 {
    const AHEAD: usize = 4;
    let mut stream = TcpStream::connect(redis).unwrap();
    let pop = command(&[b"LPOP", QUEUE.as_bytes(), b"1000"]);
    let begun = Instant::now();
    stream.write_all(&pop.repeat(AHEAD)).unwrap();
    let (mut buffer, mut end, mut popped) = (vec![0; 1 << 20], 0, 0);
    // Elements of the current reply that are still to come.
    let mut left = 0_usize;
    while popped < elements {
        end += stream.read(&mut buffer[end..]).unwrap();
        let mut at = 0;
        while let Some(line) = buffer[at..end].windows(2).position(|pair| pair == b"\r\n") {
            let number: usize = std::str::from_utf8(&buffer[at + 1..at + line]).unwrap().parse().unwrap();
            let body = at + line + 2;
            if buffer[at] == b'*' {
                left = number;
                at = body;
            } else if body + number + 2 <= end {
                at = body + number + 2;
                popped += 1;
                left -= 1;
                if left == 0 {
                    stream.write_all(&pop).unwrap();
                }
            } else {
                break;
            }
        }
        buffer.copy_within(at..end, 0);
        end -= at;
    }
    elements as f64 / begun.elapsed().as_secs_f64()
}

async fn bridged(redis: &str, elements: usize, businesses: usize) -> f64 {
    let server = Server::bind("127.0.0.1:0", ServerOptions::default()).await.unwrap();
    let port = server.local_addr().unwrap().port();
    let counter = Arc::new(Counter(AtomicUsize::new(0)));
    tokio::spawn(server.run(Arc::clone(&counter)));
    let available = watch::Sender::new(true);
    let pool = Pool { port, idle: Arc::default(), available: available.subscribe() };
    let config = BridgeConfig {
        redis_hosts: vec![redis.to_owned()],
        queues: vec![QUEUE.to_owned()],
        businesses: (0..businesses).map(|number| format!("location{number}3")).collect(),
        ..BridgeConfig::default()
    };
    let alive = watch::Sender::new(Some(Arc::new(BTreeSet::new())));
    let shutdown = Shutdown::new();
    let begun = Instant::now();
    let bridge = Bridge::start_with(
        config,
        pool,
        alive.subscribe(),
        &mut Registry::default(),
        &shutdown,
        Shutdown::new(),
    )
    .unwrap();
    while counter.0.load(Ordering::Relaxed) < elements {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rate = elements as f64 / begun.elapsed().as_secs_f64();
    println!("{:?}", bridge.stop().await);
    rate
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let redis = arguments.first().map_or("127.0.0.1:7379", String::as_str);
    let number =
        |place: usize, otherwise| arguments.get(place).map_or(otherwise, |text| text.parse().unwrap());
    let (elements, businesses) = (number(1, 1_000_000), number(2, 1));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for round in 1..=3 {
        fill(redis, elements, businesses);
        let bare = bare(redis, elements);
        fill(redis, elements, businesses);
        let bridged = runtime.block_on(bridged(redis, elements, businesses));
        println!(
            "round {round}: LPOP {:.0} k/s, bridge {:.0} k/s, ratio {:.2}",
            bare / 1e3,
            bridged / 1e3,
            bridged / bare
        );
    }
}
