//! How fast messages are stored in MySQL, beside what the same server takes from a bare loop.
//!
//!     cargo run --release -p kiteq-store --example mysql_rate -- [SECONDS] [BODY_BYTES] [SHARDS]
//!
//! Starts a MariaDB of its own. The bare loop is one connection that inserts the same rows, 500 in one statement, into the same
//! tables; then one connection for each database does so at the same time, and the ratio is to that. The store is fed by two producers that keep 256 messages each on their way, and settles them in a third run.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a program to look at")]

use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use kiteq_protocol::{Message, MessageId, MessageKind, pb};
use kiteq_store::{AppendOutcome, SharedStore, Slot};
use kiteq_testkit::MariaDb;
use sqlx::{Connection, MySql, MySqlConnection, QueryBuilder};

const OWNER: &str = "127.0.0.1:13800";
const PRODUCERS: u64 = 2;
const WINDOW: usize = 256;
/// Messages of one read from a producer's connection.
const READ: usize = 32;
const ROWS: usize = 500;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>().expect("a number"));
    let run_time = Duration::from_secs(arguments.next().unwrap_or(5));
    let body_bytes = arguments.next().unwrap_or(1024) as usize;
    let shards = arguments.next().unwrap_or(4);
    let server = MariaDb::start_with(&["--innodb-buffer-pool-size=1G", "--innodb-log-file-size=512M"]);
    println!("{body_bytes} bytes, {shards} databases, {PRODUCERS} producers with a window of {WINDOW}");
    let mut ratios = Vec::new();
    for round in 0..4 {
        let measure = |what: &str, run: &dyn Fn() -> f64| {
            let before = [cpu_seconds(server.pid()), cpu_seconds(std::process::id())];
            let started = Instant::now();
            let rate = run();
            let rows = rate * run_time.as_secs_f64();
            let cost = |now: f64, before: f64| (now - before) * 1e6 / rows;
            println!(
                "{what:36} {rate:8.0}/s in {:4.1} s   CPU for each: server {:5.1} us, here {:5.1} us",
                started.elapsed().as_secs_f64(),
                cost(cpu_seconds(server.pid()), before[0]),
                cost(cpu_seconds(std::process::id()), before[1])
            );
            rate
        };
        let bare = |name: &str, connections| {
            bare_loop(&server, &format!("{name}{round}"), shards, connections, body_bytes, run_time)
        };
        let one = measure("bare loop", &|| bare("one", 1));
        let all = measure("bare loops, one for each database", &|| bare("all", shards));
        let store = open(&server, &format!("kite{round}"), shards);
        let publish = measure("publish", &|| run(&store, 1, body_bytes, run_time, false));
        measure("publish and settle", &|| run(&store, 2, body_bytes, run_time, true));
        store.close().unwrap();
        let ratio = publish / one.max(all);
        println!("publish to the better bare loop: {:.1}%", ratio * 100.0);
        ratios.push(ratio);
        for database in ["one", "all", "kite"] {
            for shard in 0..shards {
                server.execute(&format!("DROP DATABASE {database}{round}_{shard}"));
            }
        }
    }
    ratios.sort_by(f64::total_cmp);
    println!("median {:.1}%", (ratios[1] + ratios[2]) * 50.0);
}

/// What a process has used so far.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = |place: usize| fields.split(' ').nth(place).unwrap().parse::<f64>().unwrap();
    // Linux counts in hundredths of a second.
    (ticks(11) + ticks(12)) / 100.0
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

struct Source {
    random: fastrand::Rng,
    body: Bytes,
}

impl Source {
    fn new(seed: u64, body_bytes: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let body = (0..body_bytes).map(|_| random.alphanumeric() as u8).collect();
        Self { random, body }
    }

    fn message(&mut self) -> Message {
        let id = MessageId(self.random.u128(..).to_be_bytes());
        let header = pb::Header {
            message_id: id.to_string(),
            topic: "trade".to_owned(),
            message_type: "pay-succ".to_owned(),
            expired_time: now() + 7 * 86_400,
            deliver_limit: 100,
            group_id: "go-kite-test".to_owned(),
            commit: true,
            fly: false,
            create_time: Some(now()),
            ..pb::Header::default()
        };
        let encoded = pb::BytesMessage { header, body: self.body.clone() };
        let mut bytes = BytesMut::new();
        prost::Message::encode(&encoded, &mut bytes).unwrap();
        Message::decode(MessageKind::Bytes, &bytes.freeze()).unwrap()
    }
}

fn open(server: &MariaDb, database: &str, shards: u64) -> SharedStore {
    kiteq_store::open_owned(&server.uri(database, &format!("shardnum={shards}")), OWNER).unwrap()
}

/// Rows a second of `connections` bare loops, each on databases of its own.
fn bare_loop(
    server: &MariaDb,
    database: &str,
    shards: u64,
    connections: u64,
    body_bytes: usize,
    run_time: Duration,
) -> f64 {
    // Makes the tables.
    open(server, database, shards).close().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let loops: Vec<_> = (0..connections)
        .map(|connection| {
            let url = format!("mysql://root@{}/{database}_0?ssl-mode=disabled", server.host());
            let tables: Vec<String> = (0..16)
                .map(|digit| (digit / (16 / shards), digit % (16 / shards)))
                .filter(|(shard, _)| shard % connections == connection)
                .map(|(shard, table)| format!("{database}_{shard}.kite_msg_{table}"))
                .collect();
            runtime.spawn(insert(url, tables, Source::new(connection, body_bytes), run_time))
        })
        .collect();
    runtime.block_on(async {
        let mut rate = 0.0;
        for each in loops {
            rate += each.await.unwrap();
        }
        rate
    })
}

/// Rows a second of one connection that inserts into these tables.
async fn insert(url: String, tables: Vec<String>, mut source: Source, run_time: Duration) -> f64 {
    let mut connection = MySqlConnection::connect(&url).await.unwrap();
    // The first statement on each table is prepared; that is not what is measured.
    for table in &tables {
        insert_rows(&mut connection, table, &rows(&mut source)).await;
    }
    let (mut inserted, mut made) = (0, Duration::ZERO);
    let started = Instant::now();
    while started.elapsed() < run_time + made {
        let making = Instant::now();
        let messages = rows(&mut source);
        // Making messages is not measured either.
        made += making.elapsed();
        insert_rows(&mut connection, &tables[fastrand::usize(..tables.len())], &messages).await;
        inserted += messages.len();
    }
    inserted as f64 / (started.elapsed() - made).as_secs_f64()
}

fn rows(source: &mut Source) -> Vec<Message> {
    (0..ROWS).map(|_| source.message()).collect()
}

async fn insert_rows(connection: &mut MySqlConnection, table: &str, messages: &[Message]) {
    let mut query = QueryBuilder::<MySql>::new(format!(
        "INSERT INTO {table} (message_id,header,body,msg_type,topic,message_type,publish_group,`commit`,publish_time,\
         expired_time,deliver_count,deliver_limit,kite_server,fail_groups,succ_groups,next_deliver_time) "
    ));
    query.push_values(messages, |mut row, message| {
        row.push_bind(message.id.to_string())
            .push_bind(message.payload.header())
            .push_bind(&message.payload.body[..])
            .push_bind(17u8)
            .push_bind("trade")
            .push_bind("pay-succ")
            .push_bind("go-kite-test")
            .push_bind(message.committed)
            .push_bind(message.created_at)
            .push_bind(message.expires_at)
            .push_bind(0)
            .push_bind(message.deliver_limit)
            .push_bind(OWNER)
            .push_bind("[]")
            .push_bind("[]")
            .push_bind(1i64 << 50);
    });
    query.build().execute(connection).await.unwrap();
}

/// Messages a second over all producers.
fn run(store: &SharedStore, seed: u64, body_bytes: usize, run_time: Duration, settles: bool) -> f64 {
    std::thread::scope(|scope| {
        let produce = |producer: u64| {
            let mut source = Source::new(seed * 100 + producer, body_bytes);
            let (answer, answers) = sync_channel(WINDOW);
            for _ in 0..WINDOW / READ {
                send(store, &mut source, READ, &answer);
            }
            let (mut stored, started) = (0, Instant::now());
            while started.elapsed() < run_time {
                let slots = answers.recv().unwrap();
                stored += slots.len();
                send(store, &mut source, slots.len(), &answer);
                if settles {
                    store.settle(slots);
                }
            }
            stored as f64 / started.elapsed().as_secs_f64()
        };
        let producers: Vec<_> =
            (0..PRODUCERS).map(|producer| scope.spawn(move || produce(producer))).collect();
        producers.into_iter().map(|producer| producer.join().unwrap()).sum()
    })
}

fn send(store: &SharedStore, source: &mut Source, count: usize, answer: &SyncSender<Vec<Slot>>) {
    let answer = answer.clone();
    store.append(
        (0..count).map(|_| source.message()).collect(),
        Box::new(move |outcomes| {
            let slots = outcomes.iter().map(|(_, outcome)| match outcome {
                AppendOutcome::Stored(slot) => *slot,
                other => panic!("{other:?}"),
            });
            // The producer may have ended.
            let _ = answer.send(slots.collect());
        }),
    );
}
