//! What keeps a MySQL store from being opened, and what is said about it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use kiteq_testkit::{Log, MariaDb, free_port};
use support::{Caller, OWNER, database, mariadb, message};

fn refused(uri: &str) -> String {
    match kiteq_store::open_owned(uri, OWNER) {
        Ok(store) => panic!("{uri} opened {}", store.describe()),
        Err(error) => error.to_string(),
    }
}

/// An installation whose first table was changed.
fn changed(statement: &str) -> String {
    let name = database();
    drop(Caller::open_mysql(&mariadb().uri(&name, ""), OWNER));
    mariadb().execute(&format!("ALTER TABLE {name}_0.kite_msg_0 {statement}"));
    mariadb().uri(&name, "")
}

#[test]
fn what_is_missing_is_created() {
    let name = database();
    let store = Caller::open_mysql(&mariadb().uri(&name, "shardnum=2&maxConn=4"), OWNER);
    for number in 0..32 {
        store.stored(message(number, "trade", "pay", b"body"));
    }
    let tables = mariadb().query(&format!(
        "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA IN ('{name}_0','{name}_1') AND TABLE_NAME LIKE \
         'kite\\_msg%'"
    ));
    assert_eq!(tables, "18");
    assert_eq!(mariadb().query(&format!("SELECT COUNT(*) FROM {name}_1.kite_msg_7")), "2");
}

#[test]
fn wrong_credentials_are_named() {
    let name = database();
    mariadb().execute(&format!("CREATE USER {name}@'127.0.0.1' IDENTIFIED BY 'right'"));
    let uri = format!("mysql://{}?db={name}&username={name}&password=wrong", mariadb().host());
    let said = refused(&uri);
    assert!(said.contains("Access denied") && said.contains("check username and password"), "{said}");
    assert!(!said.contains("wrong"), "{said}");
}

#[test]
fn a_database_that_may_not_be_created_is_named_with_what_to_do() {
    let name = database();
    mariadb().execute(&format!("CREATE USER {name}@'127.0.0.1' IDENTIFIED BY 'x y&z'"));
    let uri = format!("mysql://{}?db={name}&username={name}&password=x+y%26z", mariadb().host());
    let said = refused(&uri);
    assert!(said.contains(&format!("database {name}_0")) && said.contains("GRANT ALL"), "{said}");
    // With databases of its own it needs no further right.
    for shard in 0..4 {
        mariadb().execute(&format!(
            "CREATE DATABASE {name}_{shard}; GRANT ALL ON {name}_{shard}.* TO {name}@'127.0.0.1'"
        ));
    }
    Caller::open_mysql(&uri, OWNER).stored(message(1, "trade", "pay", b"body"));
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let said = refused(&format!("mysql://127.0.0.1:{}?db=kite&timeout=1s", free_port()));
    assert!(said.contains("cannot connect") && said.contains("is the server running"), "{said}");
}

#[test]
fn a_table_with_missing_columns_is_named() {
    let said = refused(&changed("DROP COLUMN succ_groups"));
    assert!(said.contains("_0.kite_msg_0 lacks succ_groups"), "{said}");
}

#[test]
fn a_table_with_foreign_columns_is_named_unless_they_have_a_default() {
    let said = refused(&changed("ADD COLUMN tenant int NOT NULL"));
    assert!(said.contains("no default: tenant"), "{said}");
    let uri = changed("ADD COLUMN remark varchar(20) NOT NULL DEFAULT ''");
    let store = Caller::open_mysql(&uri, OWNER);
    for number in 0..16 {
        store.stored(message(number, "trade", "pay", b"body"));
    }
}

#[test]
fn a_column_that_would_cut_messages_is_named() {
    let said = refused(&changed("MODIFY body blob"));
    assert!(said.contains("body is blob") && said.contains("mediumblob"), "{said}");
}

#[test]
fn a_table_without_its_index_is_named_with_the_statement_that_makes_it() {
    let said = refused(&changed("DROP KEY idx_recover"));
    assert!(said.contains("ADD KEY idx_recover (next_deliver_time,kite_server,"), "{said}");
    let said = refused(&changed("DROP KEY idx_message_id"));
    assert!(said.contains("ADD UNIQUE KEY"), "{said}");
}

#[test]
fn a_name_that_the_tables_cannot_hold_is_refused() {
    let uri = mariadb().uri(&database(), "");
    for name in ["", "bröker:1", "a b"] {
        assert!(kiteq_store::open_owned(&uri, name).is_err(), "{name:?}");
    }
}

#[test]
fn the_password_is_shown_nowhere() {
    let name = database();
    mariadb().execute(&format!(
        "CREATE USER {name}@'127.0.0.1' IDENTIFIED BY 'hunter2'; GRANT ALL ON *.* TO {name}@'127.0.0.1'"
    ));
    let uri = format!("mysql://{}?db={name}&username={name}&password=hunter2", mariadb().host());
    let store = Caller::open_mysql(&uri, OWNER);
    let shown = store.raw().describe();
    assert!(shown.contains(&name) && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn settings_that_weaken_the_promise_are_warned_of() {
    let server = MariaDb::start_with(&[
        "--innodb-flush-log-at-trx-commit=2",
        "--log-bin=log",
        "--server-id=1",
        "--sync-binlog=0",
    ]);
    let (log, capture) = Log::capture();
    let store = Caller::open_mysql(&server.uri("kite", ""), OWNER);
    store.stored(message(1, "trade", "pay", b"body"));
    drop(capture);
    let text = log.text();
    for advice in ["set innodb_flush_log_at_trx_commit = 1", "set sync_binlog = 1"] {
        assert_eq!(text.lines().filter(|line| line.contains(advice)).count(), 1, "{text}");
    }
    drop(store);
    server.execute("SET GLOBAL binlog_format='STATEMENT'");
    let said = refused(&server.uri("kite", ""));
    assert!(said.contains("ROW or MIXED"), "{said}");
}
