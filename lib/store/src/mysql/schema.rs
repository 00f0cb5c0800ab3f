//! Databases, tables and the server's settings, looked at once when the store is opened.
//!
//! What is missing is created; what is there is never changed. A table that this store could not write or search as it must
//! is an error that says what to do.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row;
use sqlx::mysql::MySqlRow;

use super::fault::{Fault, FaultKind};
use super::layout::{DIGITS, Layout};
use super::link::Link;
use super::shared::Indexes;
use super::text::put_quoted;

/// What the store has to know of its server.
pub(super) struct Found {
    pub(super) indexes: Vec<Indexes>,
    pub(super) packet_bytes_max: usize,
}

/// The columns of a table of messages but its number.
const COLUMNS: [&str; 16] = [
    "message_id",
    "header",
    "body",
    "msg_type",
    "topic",
    "message_type",
    "publish_group",
    "commit",
    "publish_time",
    "expired_time",
    "deliver_count",
    "deliver_limit",
    "kite_server",
    "fail_groups",
    "succ_groups",
    "next_deliver_time",
];

/// Below this a server cannot take the largest messages that the broker lets in.
const PACKET_BYTES_WANTED: u64 = 5 << 20;

/// Looks at everything; `Err` is for a person.
pub(super) async fn open(link: &mut Link, layout: &Layout, username: &str) -> Result<Found, String> {
    let packet_bytes_max = check_server(link).await?;
    create_databases(link, layout, username).await?;
    create_tables(link, layout, username).await?;
    let indexes = check_tables(link, layout).await?;
    Ok(Found { indexes, packet_bytes_max })
}

fn said(fault: &Fault) -> String {
    match fault.kind {
        FaultKind::Unreachable | FaultKind::Lost => {
            format!("cannot connect: {fault}; is the server running, and is the address right?")
        }
        _ => fault.to_string(),
    }
}

fn text(row: &MySqlRow, index: usize) -> String {
    let bytes: Vec<u8> =
        row.try_get_unchecked::<Option<Vec<u8>>, _>(index).ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn rows(link: &mut Link, sql: &str) -> Result<Vec<MySqlRow>, String> {
    let answers = link.run(sql).await.map_err(|fault| said(&fault))?;
    Ok(answers.into_iter().flat_map(|answer| answer.rows).collect())
}

/// Warns of settings that weaken the promise; gives the longest text.
async fn check_server(link: &mut Link) -> Result<usize, String> {
    let rows = rows(
        link,
        "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version','max_allowed_packet','log_bin','binlog_format',\
         'sync_binlog','innodb_flush_log_at_trx_commit')",
    )
    .await?;
    let variables: BTreeMap<String, String> = rows.iter().map(|row| (text(row, 0), text(row, 1))).collect();
    let value = |name: &str| variables.get(name).map_or("", String::as_str);
    let place = link.place();
    if !matches!(value("innodb_flush_log_at_trx_commit"), "1" | "3" | "") {
        tracing::warn!(
            server = place,
            innodb_flush_log_at_trx_commit = value("innodb_flush_log_at_trx_commit"),
            "a crash of the database's machine may lose acked messages; set innodb_flush_log_at_trx_commit = 1"
        );
    }
    let logs = matches!(value("log_bin"), "ON" | "1");
    if logs && value("sync_binlog") != "1" {
        tracing::warn!(
            server = place,
            sync_binlog = value("sync_binlog"),
            "a crash of the database's machine may lose acked messages on its slaves, or all that follow; set sync_binlog = 1"
        );
    }
    if logs && value("binlog_format") == "STATEMENT" {
        return Err(format!(
            "{place} has binlog_format = STATEMENT, with which read-committed transactions cannot write; set it to ROW or MIXED"
        ));
    }
    let packet: u64 = value("max_allowed_packet").parse().unwrap_or(1 << 20);
    if packet < PACKET_BYTES_WANTED {
        tracing::warn!(
            server = place,
            max_allowed_packet = packet,
            "large messages are refused; set max_allowed_packet to 16M or more"
        );
    }
    Ok(usize::try_from(packet).unwrap_or(usize::MAX))
}

/// A list of quoted names.
fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut sql = String::new();
    for name in names {
        if !sql.is_empty() {
            sql.push(',');
        }
        put_quoted(&mut sql, name);
    }
    sql
}

fn databases(layout: &Layout) -> Vec<String> {
    (0..layout.shard_count()).map(|shard| layout.database_of(shard)).collect()
}

async fn create_databases(link: &mut Link, layout: &Layout, username: &str) -> Result<(), String> {
    let databases = databases(layout);
    let sql = format!(
        "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME IN ({})",
        list(databases.iter().map(String::as_str))
    );
    let there: BTreeSet<String> = rows(link, &sql).await?.iter().map(|row| text(row, 0)).collect();
    for database in databases.iter().filter(|database| !there.contains(*database)) {
        // Another broker may be at it too.
        link.run(&format!("CREATE DATABASE IF NOT EXISTS `{database}`")).await.map_err(|fault| {
            format!(
                "database {database} is not there, or {username} may not see it, and it cannot be created: {fault}; \
                 create {} to {}, and GRANT ALL ON `{database}`.* TO {username}, and so on",
                layout.database_of(0),
                layout.database_of(layout.shard_count() - 1)
            )
        })?;
        tracing::info!(database, "database created");
    }
    Ok(())
}

/// Table names without quotes and database.
fn table_names(layout: &Layout, shard: usize) -> Vec<String> {
    let live = (0..layout.digits_of(shard).len()).map(|number| format!("kite_msg_{number}"));
    live.chain(["kite_msg_dlq".to_owned()]).collect()
}

async fn create_tables(link: &mut Link, layout: &Layout, username: &str) -> Result<(), String> {
    let databases = databases(layout);
    let sql = format!(
        "SELECT TABLE_SCHEMA,TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA IN ({})",
        list(databases.iter().map(String::as_str))
    );
    let there: BTreeSet<(String, String)> =
        rows(link, &sql).await?.iter().map(|row| (text(row, 0), text(row, 1))).collect();
    let mut missing = Vec::new();
    for (shard, database) in databases.iter().enumerate() {
        for name in table_names(layout, shard) {
            missing.push((database, name, MESSAGES_TABLE));
        }
    }
    missing.push((&databases[0], "kiteq_brokers".to_owned(), BROKERS_TABLE));
    missing.push((&databases[0], "kiteq_shelves".to_owned(), SHELVES_TABLE));
    missing.retain(|(database, name, _)| !there.contains(&((*database).clone(), name.clone())));
    for (database, name, columns) in missing {
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS `{database}`.`{name}` ({columns}) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
        );
        link.run(&sql).await.map_err(|fault| {
            format!("table {database}.{name} is not there and {username} cannot create it: {fault}")
        })?;
        tracing::info!(database, table = name, "table created");
    }
    Ok(())
}

/// As the Go broker has them; only the row's number is wider, so that it does not run out.
const MESSAGES_TABLE: &str = "\
    id bigint NOT NULL AUTO_INCREMENT,\
    header mediumblob NOT NULL,\
    body mediumblob NOT NULL,\
    msg_type tinyint unsigned NOT NULL,\
    message_id varchar(32) CHARACTER SET ascii NOT NULL,\
    topic varchar(255) NOT NULL,\
    message_type varchar(255) NOT NULL,\
    publish_group varchar(255) NOT NULL,\
    `commit` tinyint(1) NOT NULL,\
    expired_time bigint NOT NULL,\
    publish_time bigint NOT NULL,\
    deliver_count int NOT NULL DEFAULT 0,\
    deliver_limit int NOT NULL,\
    kite_server varchar(255) CHARACTER SET ascii NOT NULL,\
    fail_groups varchar(255) NOT NULL DEFAULT '',\
    succ_groups varchar(255) NOT NULL DEFAULT '',\
    next_deliver_time bigint NOT NULL,\
    PRIMARY KEY (id),\
    UNIQUE KEY idx_message_id (message_id),\
    KEY idx_commit (`commit`),\
    KEY idx_kite_server (kite_server),\
    KEY idx_expired_time (expired_time),\
    KEY idx_recover (next_deliver_time,kite_server,expired_time,deliver_count,deliver_limit)";

const BROKERS_TABLE: &str = "\
    name varchar(255) CHARACTER SET ascii NOT NULL,\
    epoch bigint NOT NULL,\
    left_at bigint NOT NULL,\
    seen_at bigint NOT NULL,\
    PRIMARY KEY (name)";

const SHELVES_TABLE: &str = "\
    id bigint NOT NULL,\
    checksum bigint NOT NULL,\
    topic mediumblob NOT NULL,\
    `groups` mediumblob NOT NULL,\
    PRIMARY KEY (id,checksum)";

/// A column of a table that is there.
struct Column {
    name: String,
    data_type: String,
    /// Whether a row may be written without it.
    is_optional: bool,
}

async fn check_tables(link: &mut Link, layout: &Layout) -> Result<Vec<Indexes>, String> {
    let mut columns: BTreeMap<(String, String), Vec<Column>> = BTreeMap::new();
    let databases = databases(layout);
    let in_databases = list(databases.iter().map(String::as_str));
    let sql = format!(
        "SELECT TABLE_SCHEMA,TABLE_NAME,COLUMN_NAME,DATA_TYPE,\
         IS_NULLABLE='YES' OR COLUMN_DEFAULT IS NOT NULL OR EXTRA<>'' \
         FROM information_schema.COLUMNS WHERE TABLE_SCHEMA IN ({in_databases}) AND TABLE_NAME LIKE 'kite%'"
    );
    for row in rows(link, &sql).await? {
        columns.entry((text(&row, 0), text(&row, 1))).or_default().push(Column {
            name: text(&row, 2).to_lowercase(),
            data_type: text(&row, 3).to_lowercase(),
            is_optional: text(&row, 4) == "1",
        });
    }
    let mut problems = Vec::new();
    for (shard, database) in databases.iter().enumerate() {
        for name in table_names(layout, shard) {
            let key = (database.clone(), name);
            let found = columns.get(&key).map_or(&[][..], Vec::as_slice);
            problems.extend(check_columns(&format!("{}.{}", key.0, key.1), found));
        }
    }
    let indexes = find_indexes(link, layout, &in_databases, &mut problems).await?;
    if problems.is_empty() { Ok(indexes) } else { Err(problems.join("; ")) }
}

fn check_columns(table: &str, found: &[Column]) -> Vec<String> {
    let mut problems = Vec::new();
    let missing: Vec<&str> = std::iter::once("id")
        .chain(COLUMNS)
        .filter(|name| !found.iter().any(|column| column.name == *name))
        .collect();
    if !missing.is_empty() {
        problems.push(format!(
            "table {table} lacks {}: is it a table of KiteQ? Name another db, or add what is missing",
            missing.join(", ")
        ));
    }
    let foreign: Vec<&str> = found
        .iter()
        .filter(|column| {
            column.name != "id" && !COLUMNS.contains(&column.name.as_str()) && !column.is_optional
        })
        .map(|column| column.name.as_str())
        .collect();
    if !foreign.is_empty() {
        problems.push(format!(
            "table {table} has columns that are not KiteQ's and have no default: {}; give them one",
            foreign.join(", ")
        ));
    }
    for column in found.iter().filter(|column| matches!(column.name.as_str(), "header" | "body")) {
        if !matches!(column.data_type.as_str(), "mediumblob" | "longblob") {
            problems.push(format!(
                "table {table}: {} is {}, which does not hold every message; make it a mediumblob",
                column.name, column.data_type
            ));
        }
    }
    problems
}

/// Columns of each index of a table, by its name and whether it is unique.
type IndexColumns = BTreeMap<(String, bool), Vec<String>>;

async fn find_indexes(
    link: &mut Link,
    layout: &Layout,
    in_databases: &str,
    problems: &mut Vec<String>,
) -> Result<Vec<Indexes>, String> {
    let sql = format!(
        "SELECT TABLE_SCHEMA,TABLE_NAME,INDEX_NAME,COLUMN_NAME,NON_UNIQUE FROM information_schema.STATISTICS \
         WHERE TABLE_SCHEMA IN ({in_databases}) AND TABLE_NAME LIKE 'kite%' \
         ORDER BY TABLE_SCHEMA,TABLE_NAME,INDEX_NAME,SEQ_IN_INDEX"
    );
    let mut found: BTreeMap<(String, String), IndexColumns> = BTreeMap::new();
    for row in rows(link, &sql).await? {
        let index = (text(&row, 2), text(&row, 4) == "0");
        let columns = found.entry((text(&row, 0), text(&row, 1))).or_default().entry(index).or_default();
        columns.push(text(&row, 3).to_lowercase());
    }
    let nothing = BTreeMap::new();
    let mut all = Vec::new();
    for digit in 0..DIGITS {
        let shard = layout.shard_of(digit);
        let (database, name) =
            (layout.database_of(shard), format!("kite_msg_{}", digit - layout.digits_of(shard).start));
        let of_table = found.get(&(database.clone(), name.clone())).unwrap_or(&nothing);
        let mut find = |columns: &[&str], is_unique: bool, statement: &str| {
            let index = of_table.iter().find(|((_, unique), found)| {
                found.iter().map(String::as_str).take(columns.len()).eq(columns.iter().copied())
                    && (!is_unique || *unique && found.len() == columns.len())
            });
            match index {
                Some(((index, _), _)) => format!("`{index}`"),
                None => {
                    problems.push(format!(
                        "table {database}.{name} has no {}index that begins with {}: ALTER TABLE `{database}`.`{name}` ADD {statement}",
                        if is_unique { "unique " } else { "" },
                        columns.join(", ")
                    ));
                    String::new()
                }
            }
        };
        all.push(Indexes {
            id: find(&["message_id"], true, "UNIQUE KEY idx_message_id (message_id)"),
            place: find(
                &["next_deliver_time", "kite_server"],
                false,
                "KEY idx_recover (next_deliver_time,kite_server,expired_time,deliver_count,deliver_limit)",
            ),
            expiry: find(&["expired_time"], false, "KEY idx_expired_time (expired_time)"),
            owner: find(&["kite_server"], false, "KEY idx_kite_server (kite_server)"),
        });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, data_type: &str, is_optional: bool) -> Column {
        Column { name: name.to_owned(), data_type: data_type.to_owned(), is_optional }
    }

    fn complete() -> Vec<Column> {
        std::iter::once("id")
            .chain(COLUMNS)
            .map(|name| {
                column(name, if matches!(name, "header" | "body") { "mediumblob" } else { "int" }, false)
            })
            .collect()
    }

    #[test]
    fn a_table_must_have_what_is_written_and_nothing_that_must_be_written() {
        assert!(check_columns("t", &complete()).is_empty());
        let mut columns = complete();
        columns.push(column("remark", "varchar", true));
        assert!(check_columns("t", &columns).is_empty());
        columns.push(column("tenant", "int", false));
        assert!(check_columns("t", &columns)[0].contains("no default: tenant"));
        columns.retain(|column| !matches!(column.name.as_str(), "fail_groups" | "tenant"));
        assert!(check_columns("t", &columns)[0].contains("lacks fail_groups"));
        let mut columns = complete();
        columns[3].data_type = "blob".to_owned();
        assert!(check_columns("t", &columns)[0].contains("body is blob"));
    }
}
