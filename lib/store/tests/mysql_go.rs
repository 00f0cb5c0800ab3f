//! An installation that was the Go broker's: its tables and rows are read as they are.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use bytes::Bytes;
use kiteq_protocol::{MessageKind, pb};
use kiteq_store::{DeadReason, GroupState, PageSource, StoreError};
use prost::Message;
use support::{Caller, OWNER, database, mariadb};

/// A table as the Go broker makes it.
const TABLE: &str = "(id int NOT NULL AUTO_INCREMENT, header mediumblob, body mediumblob, msg_type tinyint(3) unsigned \
    DEFAULT NULL, message_id varchar(32) NOT NULL, topic varchar(255) DEFAULT NULL, message_type varchar(255) DEFAULT \
    NULL, publish_group varchar(255) DEFAULT NULL, `commit` tinyint(1) DEFAULT NULL, expired_time bigint(13) DEFAULT \
    NULL, publish_time bigint(13) DEFAULT NULL, deliver_count int(11) DEFAULT NULL, deliver_limit int(11) DEFAULT NULL, \
    kite_server varchar(255) DEFAULT NULL, fail_groups varchar(255) DEFAULT NULL, succ_groups varchar(255) DEFAULT NULL, \
    next_deliver_time bigint(13) DEFAULT NULL, PRIMARY KEY (id), UNIQUE KEY uk (message_id), KEY c (`commit`), \
    KEY k (kite_server), KEY e (expired_time), \
    KEY recover (next_deliver_time,kite_server,expired_time,deliver_count,deliver_limit)) \
    ENGINE=InnoDB DEFAULT CHARSET=utf8";

const HOST: &str = "web-01";

fn header(id: &str, commit: bool) -> pb::Header {
    pb::Header {
        message_id: id.to_owned(),
        topic: "trade".to_owned(),
        message_type: "pay-succ".to_owned(),
        expired_time: 4_000_000_000,
        deliver_limit: 100,
        group_id: "go-kite-test".to_owned(),
        commit,
        fly: false,
        ..pb::Header::default()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The values of a row, but for its number.
fn row(header: &[u8], body: &str, kind: u8, id: &str, rest: &str) -> String {
    format!(
        "(x'{}',x'{}',{kind},'{id}','trade','pay-succ','go-kite-test',{rest})",
        hex(header),
        hex(body.as_bytes())
    )
}

const COLUMNS: &str = "header,body,msg_type,message_id,topic,message_type,publish_group,`commit`,expired_time,publish_time,\
    deliver_count,deliver_limit,kite_server,fail_groups,succ_groups,next_deliver_time";

const FRESH: &str = "0123456789abcdef0123456789abcde0";
const TRIED: &str = "0123456789abcdef0123456789abcde1";
const PREPARED: &str = "0123456789ABCDEF0123456789ABCDE2";
const DEAD: &str = "0123456789abcdef0123456789abcde3";
const GARBAGE: &str = "0123456789abcdef0123456789abcde4";
const NO_ID: &str = "not an id at all";

fn dump(name: &str) {
    let server = mariadb();
    for shard in 0..4 {
        server.execute(&format!("CREATE DATABASE {name}_{shard}"));
        for table in ["kite_msg_0", "kite_msg_1", "kite_msg_2", "kite_msg_3", "kite_msg_dlq"] {
            server.execute(&format!("CREATE TABLE {name}_{shard}.{table} {TABLE}"));
        }
    }
    let insert = |table: &str, row: &str| {
        server.execute(&format!("INSERT INTO {name}_{table} ({COLUMNS}) VALUES {row}"));
    };
    let fresh = header(FRESH, true).encode_to_vec();
    let waits = format!("1,4000000000,1500000000,0,100,'{HOST}','null','null',1500000000");
    insert("0.kite_msg_0", &row(&fresh, "echo", 18, FRESH, &waits));
    let tried =
        format!("1,4000000000,1500000000,5,100,'{HOST}','[\"s-mts-test\"]','[\"s-other\"]',1500000160");
    insert("0.kite_msg_1", &row(&header(TRIED, true).encode_to_vec(), "tried", 17, TRIED, &tried));
    let open = format!("0,4000000000,1500000000,0,100,'{HOST}',NULL,NULL,1500000000");
    insert("0.kite_msg_2", &row(&header(PREPARED, false).encode_to_vec(), "prepared", 18, PREPARED, &open));
    insert("1.kite_msg_0", &row(&[0xff, 0x01, 0x02], "garbage", 18, GARBAGE, &waits));
    insert("1.kite_msg_1", &row(&fresh, "whose?", 18, NO_ID, &waits));
    let dead = format!("1,1400000000,1300000000,7,100,'{HOST}','[\"s-mts-test\"]','[]',1399999999");
    insert("0.kite_msg_dlq", &row(&header(DEAD, true).encode_to_vec(), "dead", 18, DEAD, &dead));
}

#[test]
fn a_dump_is_taken_over_and_delivered() {
    let name = database();
    dump(&name);
    let columns = |name: &str| {
        mariadb().query(&format!(
            "SELECT COLUMN_NAME,COLUMN_TYPE FROM information_schema.COLUMNS WHERE TABLE_SCHEMA='{name}_0' AND \
             TABLE_NAME='kite_msg_0' ORDER BY ORDINAL_POSITION"
        ))
    };
    let before = columns(&name);
    let store = Caller::open_mysql(&mariadb().uri(&name, "adopt=web-01,web-02"), OWNER);
    assert_eq!(columns(&name), before, "the tables stay as they are");
    assert_eq!(store.raw().owned().unwrap().adoptable(), ["web-01", "web-02"]);
    assert_eq!(store.all_waiting(10), [], "nothing is taken that was not asked for");
    let names: Vec<String> = store.owners().unwrap().into_iter().map(|owner| owner.name).collect();
    assert_eq!(names, [OWNER, HOST]);
    assert_eq!(store.adopt(HOST, 100).unwrap(), 5);

    let mut paged = store.all_waiting(10);
    paged.sort_by_key(|paged| paged.id);
    let ids: Vec<String> = paged.iter().map(|paged| paged.id.to_string()).collect();
    assert_eq!(ids, [FRESH, TRIED, &PREPARED.to_lowercase()]);
    assert_eq!(
        (paged[0].kind, &paged[0].topic[..], paged[0].expires_at),
        (MessageKind::String, &b"trade"[..], 4_000_000_000)
    );
    assert!(paged[0].committed && paged[0].groups.is_empty() && !paged[2].committed);
    let states = [
        GroupState { group: Bytes::from_static(b"s-mts-test"), attempts: 5, done: false },
        GroupState { group: Bytes::from_static(b"s-other"), attempts: 0, done: true },
    ];
    assert_eq!(paged[1].groups, states);
    let loaded = store.load_one(paged[0].slot).unwrap();
    let sent = pb::StringMessage { header: header(FRESH, true), body: "echo".into() }.encode_to_vec();
    assert_eq!(loaded.payload.to_bytes(), sent);
    store.settle(paged.iter().map(|paged| paged.slot).collect());
    assert_eq!(store.find_lost().unwrap(), []);
    assert!(!store.suspects_loss(), "every row was hit, the one with capitals too");
}

#[test]
fn rows_that_make_no_sense_are_dead_letters_and_not_in_the_way() {
    let name = database();
    dump(&name);
    let store = Caller::open_mysql(&mariadb().uri(&name, ""), OWNER);
    store.adopt(HOST, 100).unwrap();
    for row in 0..3 {
        store.page(1, PageSource::Waiting).unwrap();
        assert!(row < 3);
    }
    store.all_waiting(10);
    assert!(store.all_waiting(10).is_empty());
    let letters = store.dead_letters(None, 10).unwrap();
    let of = |text: &str| letters.iter().find(|letter| letter.id.to_string() == text).unwrap();
    assert_eq!(letters.len(), 3);
    let garbage = of(GARBAGE);
    assert_eq!((garbage.reason, &garbage.payload.body[..]), (DeadReason::Unreadable, &b"garbage"[..]));
    assert!(garbage.died_at > 1_600_000_000);
    let old = of(DEAD);
    assert_eq!((old.reason, old.died_at), (DeadReason::Expired, 1_400_000_000), "as the columns tell");
    assert_eq!(old.groups, [Bytes::from_static(b"s-mts-test")]);
    let nameless = letters.iter().find(|letter| &letter.payload.body[..] == b"whose?").unwrap();
    assert_eq!(nameless.reason, DeadReason::Unreadable);

    assert!(
        matches!(&store.revive(vec![garbage.id])[0], Err(StoreError::Corrupt { .. })),
        "it cannot be delivered"
    );
    let revived = store.revive(vec![old.id]).remove(0).unwrap().unwrap();
    assert_eq!(store.load_one(revived.0).unwrap().payload, revived.1.payload);
    assert_eq!(store.purge(vec![garbage.id, nameless.id]), 2);
    assert_eq!(store.dead_letters(None, 10).unwrap(), []);
}
