//! The MySQL store when its server dies, falls silent, refuses or is full: publishers hear of it in time, nothing acked is
//! lost, and all goes on by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::collections::HashSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kiteq_protocol::{Message, MessageId};
use kiteq_store::{AppendOutcome, Slot, StoreError, Verdict, VerdictOutcome};
use kiteq_testkit::{Line, MariaDb, Proxy};
use support::{Caller, OWNER, database, id, mariadb, message, prepared, until};

fn plain(number: u32) -> Message {
    message(number, "trade", "pay", b"body")
}

fn over(proxy: &Proxy, name: &str) -> Caller {
    Caller::open_mysql(&format!("mysql://{}?db={name}&timeout=1s", proxy.host()), OWNER)
}

fn refusal(outcome: AppendOutcome) -> StoreError {
    match outcome {
        AppendOutcome::Refused(error) => error,
        other => panic!("{other:?}"),
    }
}

/// Rows over all tables for which a condition holds.
fn rows(server: &MariaDb, name: &str, condition: &str) -> u32 {
    let counts = (0..16).map(|digit| {
        let sql =
            format!("SELECT COUNT(*) FROM {name}_{}.kite_msg_{} WHERE {condition}", digit / 4, digit % 4);
        server.query(&sql).parse::<u32>().unwrap()
    });
    counts.sum()
}

#[test]
fn nothing_acked_is_missing_after_the_server_was_killed_under_load() {
    let mut server = MariaDb::start();
    let store = Caller::open_mysql(&server.uri("kite", "timeout=2s&dedupeWindow=1h"), OWNER);
    let (acked, next, is_over) = (Mutex::new(HashSet::new()), AtomicU32::new(0), AtomicBool::new(false));
    let publish = || {
        while !is_over.load(Ordering::Relaxed) {
            let from = next.fetch_add(20, Ordering::Relaxed);
            for (message, outcome) in store.append((from..from + 20).map(plain).collect()) {
                match outcome {
                    AppendOutcome::Stored(_) => assert!(acked.lock().unwrap().insert(message.id)),
                    AppendOutcome::Refused(error) => assert!(error.is_retryable(), "{error}"),
                    other => panic!("{other:?}"),
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(publish);
        }
        for _ in 0..3 {
            let count = || acked.lock().unwrap().len();
            let before = count();
            until("publishes go on", || count() > before + 400);
            server.kill();
            until("it is noticed", || store.raw().health().is_err());
            server.run();
        }
        until("the store is well again", || store.raw().health().is_ok());
        is_over.store(true, Ordering::Relaxed);
    });
    drop(store);
    let acked = acked.into_inner().unwrap();
    let store = Caller::open_mysql(&server.uri("kite", ""), OWNER);
    let found: Vec<MessageId> = store.all_waiting(1000).iter().map(|paged| paged.id).collect();
    let missing: Vec<&MessageId> = acked.iter().filter(|id| !found.contains(id)).collect();
    assert!(missing.is_empty(), "{} of {} are missing", missing.len(), acked.len());
    assert_eq!(found.iter().collect::<HashSet<_>>().len(), found.len(), "none comes twice");
}

#[test]
fn a_message_that_was_refused_and_stored_all_the_same_is_delivered() {
    let name = database();
    let proxy = Proxy::start(&mariadb().host());
    let store = over(&proxy, &name);
    store.stored(plain(0));
    proxy.set(Line::Deaf);
    let started = Instant::now();
    let error = refusal(store.append_one(plain(1)));
    assert!(error.is_retryable() && started.elapsed() < Duration::from_secs(10), "{error}");
    assert!(store.raw().health().is_err());
    assert_eq!(rows(mariadb(), &name, "1=1"), 2, "the server has it");
    proxy.set(Line::Good);
    proxy.cut();
    until("it comes with a page", || {
        store.all_waiting(10).iter().map(|paged| paged.id).collect::<Vec<_>>() == [id(1)]
    });
    assert!(store.raw().health().is_ok());
    assert_eq!(store.append_one(plain(1)), AppendOutcome::Duplicate);
}

#[test]
fn a_message_that_is_sent_again_after_an_unheard_commit_is_held_once() {
    let name = database();
    let proxy = Proxy::start(&mariadb().host());
    let store = over(&proxy, &name);
    store.stored(plain(0));
    proxy.set(Line::Deaf);
    refusal(store.append_one(plain(1)));
    proxy.set(Line::Good);
    proxy.cut();
    let mut slot = None;
    until("it is taken", || match store.append_one(plain(1)) {
        AppendOutcome::Stored(stored) => {
            slot = Some(stored);
            true
        }
        // It was found before it was sent again, and waits for a page.
        AppendOutcome::Duplicate => true,
        _ => false,
    });
    let found = store.all_waiting(10);
    assert_eq!(found.len() + usize::from(slot.is_some()), 1, "{found:?}, {slot:?}");
    assert_eq!(rows(mariadb(), &name, "1=1"), 2);
}

#[test]
fn a_lost_connection_is_not_noticed_by_publishers_when_there_is_another() {
    let name = database();
    let proxy = Proxy::start(&mariadb().host());
    let store = over(&proxy, &name);
    for number in 0..64 {
        if number % 8 == 0 {
            proxy.cut();
        }
        store.stored(plain(number));
    }
    assert_eq!(rows(mariadb(), &name, "1=1"), 64);
}

#[test]
fn a_lost_connection_is_not_noticed_by_readers_once_there_can_be_another() {
    let proxy = Proxy::start(&mariadb().host());
    let store = over(&proxy, &database());
    let slots: Vec<Slot> = (0..8).map(|number| store.stored(plain(number))).collect();
    for slot in slots {
        assert!(store.load_one(slot).is_ok());
        proxy.cut();
        assert!(store.load_one(slot).is_ok());
    }
}

#[test]
fn what_nobody_waits_for_is_written_once_the_server_is_back() {
    let name = database();
    let proxy = Proxy::start(&mariadb().host());
    let store = over(&proxy, &name);
    let slots: Vec<Slot> = (0..40).map(|number| store.stored(plain(number))).collect();
    proxy.set(Line::Down);
    proxy.cut();
    store.settle(slots[..30].to_vec());
    assert!(store.raw().health().is_err());
    assert_eq!(store.append_one(plain(0)), AppendOutcome::Duplicate, "still known");
    assert_eq!(rows(mariadb(), &name, "next_deliver_time>=1<<52"), 0);
    proxy.set(Line::Good);
    until("it is written", || rows(mariadb(), &name, "next_deliver_time>=1<<52") == 30);
    assert!(!store.suspects_loss());
    assert!(store.load_one(slots[30]).is_ok());
}

#[test]
fn closing_says_what_could_not_be_written() {
    let proxy = Proxy::start(&mariadb().host());
    let store = over(&proxy, &database());
    let slot = store.stored(plain(0));
    proxy.set(Line::Down);
    proxy.cut();
    store.raw().settle(vec![slot]);
    assert!(store.raw().close().unwrap_err().is_retryable());
}

#[test]
fn a_silent_server_costs_a_refusal_and_not_a_hang() {
    let server = MariaDb::start();
    let store = Caller::open_mysql(&server.uri("kite", "timeout=1s"), OWNER);
    store.stored(prepared(0, b"body"));
    server.pause();
    let started = Instant::now();
    let error = refusal(store.append_one(plain(1)));
    assert!(error.is_retryable() && error.to_string().contains("within 1s"), "{error}");
    assert!(matches!(&store.decide(vec![(id(0), Verdict::Commit)])[..], [VerdictOutcome::Failed(_)]));
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    server.resume();
    until("it is well again", || store.raw().health().is_ok());
    assert!(matches!(&store.decide(vec![(id(0), Verdict::Commit)])[..], [VerdictOutcome::Committed(_)]));
}

#[test]
fn a_server_that_takes_no_writes_refuses_publishes_and_serves_loads() {
    let server = MariaDb::start();
    let name = "kite";
    server.execute(
        "CREATE USER app@'127.0.0.1'; GRANT SELECT,INSERT,UPDATE,DELETE,CREATE ON *.* TO app@'127.0.0.1'",
    );
    let uri = format!("mysql://{}?db={name}&username=app", server.host());
    let store = Caller::open_mysql(&uri, OWNER);
    let slot = store.stored(plain(0));
    server.execute("SET GLOBAL read_only=1");
    let error = refusal(store.append_one(plain(1)));
    assert!(error.is_retryable() && error.to_string().contains("takes no writes"), "{error}");
    assert_eq!(store.raw().health(), Err(error));
    assert!(store.load_one(slot).is_ok());
    store.settle(vec![slot]);
    server.execute("SET GLOBAL read_only=0");
    until("it is well again without a publish", || store.raw().health().is_ok());
    store.stored(plain(1));
    until("the settled one is settled", || rows(&server, name, "next_deliver_time>=1<<52") == 1);
    server.execute("SET GLOBAL read_only=1");
    let refused = kiteq_store::open_owned(&uri, "10.0.0.9:1").map(drop).unwrap_err().to_string();
    assert!(refused.contains("when the server takes writes"), "{refused}");
}

#[test]
fn a_full_tablespace_is_a_full_disk_until_somebody_makes_room() {
    let mut server = MariaDb::start_with(&[
        "--innodb-file-per-table=0",
        "--innodb-data-file-path=ibdata1:12M;ibdata2:48M",
    ]);
    let store = Caller::open_mysql(&server.uri("kite", ""), OWNER);
    let large = |number: u32| message(number, "trade", "pay", &vec![b'x'; 200_000]);
    let mut slots = Vec::new();
    let error = (0..2000)
        .find_map(|number| match store.append_one(large(number)) {
            AppendOutcome::Stored(slot) => {
                slots.push(slot);
                None
            }
            outcome => Some(refusal(outcome)),
        })
        .expect("it is full at some point");
    assert!(matches!(&error, StoreError::DiskFull { .. }), "{error}");
    assert!(error.is_retryable() && store.raw().health().is_err());
    assert!(store.load_one(slots[0]).is_ok(), "delivery goes on");
    let settled = slots.len() as u32;
    store.settle(slots);
    server.kill();
    server.run_with(&["--innodb-data-file-path=ibdata1:12M;ibdata2:48M;ibdata3:64M"]);
    until("it is well again", || store.raw().health().is_ok());
    store.stored(large(2000));
    until("the settled ones are settled", || rows(&server, "kite", "next_deliver_time>=1<<52") == settled);
}

#[test]
fn a_message_that_the_server_cannot_take_is_refused_alone() {
    let server = MariaDb::start_with(&["--max-allowed-packet=1M"]);
    let store = Caller::open_mysql(&server.uri("kite", ""), OWNER);
    let binary = |bytes: usize| message(1, "trade", "pay", &vec![0xff; bytes]);
    let outcomes = store.append(vec![plain(0), binary(600_000), plain(2)]);
    let error = refusal(outcomes[1].1.clone());
    assert!(matches!(error, StoreError::TooLarge { .. }) && !error.is_retryable(), "{error}");
    assert!([0, 2].iter().all(|&index: &usize| matches!(outcomes[index].1, AppendOutcome::Stored(_))));
    let slot = store.stored(binary(400_000));
    assert_eq!(store.load_one(slot).unwrap().payload.body.len(), 400_000);
}

/// Holds the row of a message until it is dropped.
struct Locked {
    server: &'static MariaDb,
    marker: String,
    client: std::process::Child,
}

impl Locked {
    fn row(server: &'static MariaDb, name: &str, digit: u32, id: &MessageId) -> Self {
        let marker = format!("{name}_lock");
        let sql = format!(
            "START TRANSACTION; SELECT id FROM {name}_{}.kite_msg_{} WHERE message_id='{id}' FOR UPDATE; \
             SELECT GET_LOCK('{marker}',0); SELECT SLEEP(60)",
            digit / 4,
            digit % 4
        );
        let host = server.host();
        let (host, port) = host.split_once(':').unwrap();
        let client = Command::new("mariadb")
            .args(["--no-defaults", "--user=root", "--protocol=tcp", "-h", host, "-P", port, "-e", &sql])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("the row is locked", || server.query(&format!("SELECT IS_FREE_LOCK('{marker}')")) == "0");
        Self { server, marker, client }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let connection = self.server.query(&format!("SELECT IS_USED_LOCK('{}')", self.marker));
        self.server.execute(&format!("KILL {connection}"));
        self.client.wait().unwrap();
    }
}

#[test]
fn a_locked_row_does_not_hold_up_publishers() {
    let name = database();
    let uri = mariadb().uri(&name, "timeout=2s");
    let store = Caller::open_mysql(&uri, OWNER);
    let slots: Vec<Slot> = (0..2).map(|number| store.stored(plain(16 * number))).collect();
    let locked = Locked::row(mariadb(), &name, 0, &id(0));
    store.raw().settle(slots);
    let started = Instant::now();
    for number in 2..6 {
        store.stored(plain(16 * number));
    }
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    drop(locked);
    until("both are settled", || rows(mariadb(), &name, "next_deliver_time>=1<<52") == 2);
}

#[test]
fn the_victim_of_a_deadlock_is_tried_again() {
    let server = MariaDb::start();
    let store = Caller::open_mysql(&server.uri("kite", "timeout=60s"), OWNER);
    let host = server.host();
    let (host, port) = host.split_once(':').unwrap();
    let mut other = Command::new("mariadb")
        .args(["--no-defaults", "--user=root", "--protocol=tcp", "-h", host, "-P", port])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = other.stdin.take().unwrap();
    let insert = |table: u32, ids: &str| {
        format!(
            "INSERT INTO kite_0.kite_msg_{table} (message_id,header,body,msg_type,topic,message_type,publish_group,`commit`,\
             publish_time,expired_time,deliver_count,deliver_limit,kite_server,fail_groups,succ_groups,next_deliver_time) \
             SELECT {ids},'','',17,'t','t','g',1,0,0,0,0,'else','[]','[]',0 FROM kite_0.seq_1_to_100;"
        )
    };
    // The server gives up the transaction that has changed less: this one has a hundred rows.
    let first = insert(1, &format!("IF(seq=1,'{}',seq)", id(1)));
    writeln!(input, "START TRANSACTION; {first} SELECT GET_LOCK('first',0);").unwrap();
    until("the other one holds its rows", || server.query("SELECT IS_FREE_LOCK('first')") == "0");
    std::thread::scope(|scope| {
        let publishing = scope.spawn(|| store.append(vec![plain(0), plain(1)]));
        // The store's own housekeeping may wait for those rows too.
        let waiting = "SELECT COUNT(*) FROM information_schema.INNODB_TRX \
                       WHERE trx_state='LOCK WAIT' AND trx_query LIKE 'INSERT IGNORE%'";
        until("the publish waits for it", || server.query(waiting) != "0");
        let second = insert(0, &format!("IF(seq=1,'{}',seq)", id(0)));
        writeln!(input, "{second} ROLLBACK;").unwrap();
        drop(input);
        assert!(other.wait().unwrap().success(), "the publish gave way, not the other one");
        for (message, outcome) in publishing.join().unwrap() {
            assert!(matches!(outcome, AppendOutcome::Stored(_)), "{}: {outcome:?}", message.id);
        }
    });
    let deadlocks =
        "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME='INNODB_DEADLOCKS'";
    assert_eq!(server.query(deadlocks), "1");
    assert_eq!(rows(&server, "kite", "1"), 2);
}

#[test]
fn a_slave_is_read_from_and_one_that_lags_costs_nothing() {
    let slave = MariaDb::start();
    let name = database();
    // No replication is needed to see where a body comes from: the same message with another body tells.
    let of_slave = Caller::open_mysql(&slave.uri(&name, ""), "10.0.0.7:1");
    of_slave.stored(message(0, "trade", "pay", b"from the slave"));
    of_slave.stored(message(2, "trade", "pay", b"old"));
    drop(of_slave);
    let uri = format!("mysql://{},{}?db={name}&username=root&timeout=4s", mariadb().host(), slave.host());
    let store = Caller::open_mysql(&uri, OWNER);
    let slots: Vec<Slot> =
        vec![store.stored(plain(0)), store.stored(plain(1)), store.stored(prepared(2, b"body"))];
    let bodies = || {
        let loaded = store.load(slots.clone());
        loaded.into_iter().map(|loaded| loaded.unwrap().payload.body.to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(
        bodies(),
        [&b"from the slave"[..], b"body", b"body"],
        "what it lacks, and what is undecided, is the master's"
    );
    slave.pause();
    assert_eq!(bodies(), [b"body", b"body", b"body"]);
    let started = Instant::now();
    assert_eq!(bodies(), [b"body", b"body", b"body"]);
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "it is left alone for a while: {:?}",
        started.elapsed()
    );
}
