//! Whose messages are in the store, and taking over those of another broker.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use hashbrown::HashSet;
use kiteq_protocol::MessageId;
use sqlx::Row;

use super::fault::{Fault, FaultKind};
use super::layout::{DIGITS, DUE, HELD, SETTLED, SHELVED, digit_of};
use super::link::{Lease, Link};
use super::pager::next_place_of;
use super::shared::{Shared, unix_millis, unix_seconds};
use super::text::{put_ids, put_number, put_quoted};
use super::turn::{put_force_id, put_where_ours};
use crate::error::StoreError;
use crate::held::Slot;
use crate::mailbox::lock;
use crate::paging::Owner;

/// Rows of one statement.
const ROWS_MAX: usize = 1000;

/// Tries of a statement that gives way to another one.
const GAVE_WAY_MAX: usize = 20;

/// Every broker that has rows.
pub(super) async fn owners(shared: &Shared) -> Result<Vec<Owner>, Fault> {
    let mut lease = shared.pool.lease().await?;
    let mut names = BTreeSet::from([shared.owner.clone()]);
    for digit in 0..DIGITS {
        let (table, index) = (shared.layout.table(digit), &shared.indexes[digit].owner);
        let mut after: Option<String> = None;
        loop {
            // One look for each name, however many rows it has.
            let mut sql = format!("SELECT kite_server FROM {table} FORCE INDEX ({index})");
            if let Some(after) = &after {
                sql.push_str(" WHERE kite_server>");
                put_quoted(&mut sql, after);
            }
            sql.push_str(" ORDER BY kite_server LIMIT 1");
            let Some(name) = first_text(&mut lease, &sql).await? else { break };
            names.insert(name.clone());
            after = Some(name);
        }
    }
    names.remove("");
    let left =
        texts(&mut lease, &format!("SELECT name FROM {} WHERE left_at>0", shared.layout.brokers())).await?;
    lease.give_back();
    let left: HashSet<String> = left.into_iter().collect();
    Ok(names.into_iter().map(|name| Owner { has_left: left.contains(&name), name }).collect())
}

async fn texts(link: &mut Link, sql: &str) -> Result<Vec<String>, Fault> {
    let answers = link.run(sql).await?;
    let rows = answers.iter().flat_map(|answer| &answer.rows);
    Ok(rows
        .filter_map(|row| row.try_get_unchecked::<Vec<u8>, _>(0).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .collect())
}

async fn first_text(link: &mut Link, sql: &str) -> Result<Option<String>, Fault> {
    Ok(texts(link, sql).await?.into_iter().next())
}

/// Makes up to `limit` rows of another broker ours.
pub(super) async fn adopt(shared: &Shared, owner: &str, limit: usize) -> Result<usize, Fault> {
    if owner == shared.owner {
        return Ok(0);
    }
    let mut lease = shared.pool.lease().await?;
    let mut adopted = 0;
    for digit in 0..DIGITS {
        while adopted < limit {
            let count = (limit - adopted).min(ROWS_MAX);
            let taken = adopt_some(shared, &mut lease, digit, owner, count).await?;
            adopted += taken;
            shared.counters.waiting.fetch_add(taken as i64, Ordering::Relaxed);
            if taken == 0 {
                break;
            }
        }
    }
    lease.give_back();
    Ok(adopted)
}

/// Takes some rows of one kind; 0 when none of any kind are left.
async fn adopt_some(
    shared: &Shared,
    link: &mut Link,
    digit: usize,
    owner: &str,
    count: usize,
) -> Result<usize, Fault> {
    let (table, indexes) = (shared.layout.table(digit), &shared.indexes[digit]);
    let mut quoted = String::new();
    put_quoted(&mut quoted, owner);
    if !owner.contains(':') {
        // A Go broker's rows are at as many places as there are seconds, and it leaves none that are settled.
        let which = format!("FORCE INDEX ({}) SET {} WHERE kite_server={quoted}", indexes.owner, set(shared));
        return update(
            link,
            &format!("UPDATE {table} {which} AND next_deliver_time<{SETTLED} LIMIT {count}"),
        )
        .await;
    }
    let at = |place: &str| {
        let index = &indexes.place;
        format!(
            "UPDATE {table} FORCE INDEX ({index}) SET {} WHERE {place} AND kite_server={quoted} LIMIT {count}",
            set(shared)
        )
    };
    for place in
        [format!("next_deliver_time={DUE}"), format!("next_deliver_time>{DUE} AND next_deliver_time<{HELD}")]
    {
        let taken = update(link, &at(&place)).await?;
        if taken > 0 {
            return Ok(taken);
        }
    }
    // Runs and shelves are few: each is looked for by itself.
    let mut after = HELD - 1;
    while let Some(value) = next_place_of(shared, link, digit, owner, after, SETTLED).await? {
        let taken = update(link, &at(&format!("next_deliver_time={value}"))).await?;
        if taken > 0 {
            return Ok(taken);
        }
        after = value;
    }
    update(link, &at(&format!("next_deliver_time<{DUE}"))).await
}

/// What makes a row ours: on its shelf if it lies on one and has not expired, waiting for nothing otherwise.
fn set(shared: &Shared) -> String {
    let mut sql = format!(
        "next_deliver_time=IF(next_deliver_time>={SHELVED} AND (expired_time<=0 OR expired_time>{}),\
         next_deliver_time,{DUE}),kite_server=",
        unix_seconds()
    );
    put_quoted(&mut sql, &shared.owner);
    sql
}

async fn update(link: &mut Link, sql: &str) -> Result<usize, Fault> {
    let mut gave_way = 0;
    loop {
        match link.run(sql).await {
            Ok(answers) => return Ok(answers.iter().map(|answer| answer.affected as usize).sum()),
            Err(fault) if fault.kind == FaultKind::GaveWay && gave_way < GAVE_WAY_MAX => {
                gave_way += 1;
                tokio::time::sleep(std::time::Duration::from_millis(fastrand::u64(1..20))).await;
            }
            Err(fault) => return Err(fault),
        }
    }
}

/// Finds resident messages whose row is not ours any more, and ends their slots.
pub(super) async fn find_lost(shared: &Shared) -> Result<Vec<Slot>, StoreError> {
    shared.counters.suspects_loss.store(false, Ordering::Relaxed);
    let mut lease = shared.pool.lease().await.map_err(|fault| fault.to_error())?;
    let mut lost = Vec::new();
    let mut from = Some(0);
    while let Some(start) = from {
        let (some, next) = lock(&shared.slots).some_from(start, ROWS_MAX);
        from = next;
        let missing = missing(shared, &mut lease, some).await.map_err(|fault| fault.to_error())?;
        if missing.is_empty() {
            continue;
        }
        // What was given up meanwhile is not lost. What is still resident under the same slot, and still not there, is.
        let still: Vec<(Slot, MessageId)> = {
            let slots = lock(&shared.slots);
            let is_still = |(slot, id): &(Slot, MessageId)| {
                slots.get(*slot).is_some_and(|entry| entry.id == *id) && !slots.is_leaving(id)
            };
            missing.into_iter().filter(is_still).collect()
        };
        let missing = self::missing(shared, &mut lease, still).await.map_err(|fault| fault.to_error())?;
        let mut slots = lock(&shared.slots);
        for (slot, id) in missing {
            if slots.get(slot).is_some_and(|entry| entry.id == id) {
                slots.end(slot);
                lost.push(slot);
            }
        }
    }
    lease.give_back();
    Ok(lost)
}

/// Those whose row is not ours.
async fn missing(
    shared: &Shared,
    link: &mut Link,
    some: Vec<(Slot, MessageId)>,
) -> Result<Vec<(Slot, MessageId)>, Fault> {
    let mut by_digit: [Vec<&MessageId>; DIGITS] = Default::default();
    for (_, id) in &some {
        by_digit[digit_of(id)].push(id);
    }
    let mut sql = String::new();
    for (digit, ids) in by_digit.iter().enumerate().filter(|(_, ids)| !ids.is_empty()) {
        sql.push_str("SELECT message_id FROM ");
        sql.push_str(shared.layout.table(digit));
        put_force_id(&mut sql, shared, digit);
        put_where_ours(&mut sql, shared);
        sql.push_str(" IN ");
        put_ids(&mut sql, ids.iter().copied());
        sql.push(';');
    }
    if sql.is_empty() {
        return Ok(Vec::new());
    }
    sql.truncate(sql.len() - 1);
    let found: HashSet<MessageId> =
        texts(link, &sql).await?.iter().filter_map(|text| MessageId::parse(text.as_bytes()).ok()).collect();
    Ok(some.into_iter().filter(|(_, id)| !found.contains(id)).collect())
}

/// Says that this broker leaves.
pub(super) async fn leave(shared: &Shared) -> Result<(), Fault> {
    let mut lease: Lease = shared.pool.lease().await?;
    let mut sql = format!("UPDATE {} SET left_at={} WHERE name=", shared.layout.brokers(), unix_seconds());
    put_quoted(&mut sql, &shared.owner);
    sql.push_str(" AND epoch=");
    put_number(&mut sql, shared.epoch.0);
    lease.run(&sql).await?;
    lease.give_back();
    Ok(())
}

/// Takes this broker's name for a run of it, and gives the run a number that no earlier one had.
pub(super) async fn enter(link: &mut Link, brokers: &str, owner: &str) -> Result<i64, Fault> {
    let now = unix_millis();
    let mut quoted = String::new();
    put_quoted(&mut quoted, owner);
    let sql = format!(
        "START TRANSACTION;\
         INSERT INTO {brokers} (name,epoch,left_at,seen_at) VALUES ({quoted},{now},0,{now}) \
         ON DUPLICATE KEY UPDATE epoch=GREATEST(epoch+1,{now}),left_at=0,seen_at={now};\
         SELECT epoch FROM {brokers} WHERE name={quoted};COMMIT"
    );
    let answers = link.run(&sql).await?;
    let row = answers.iter().flat_map(|answer| &answer.rows).next();
    row.and_then(|row| row.try_get_unchecked::<i64, _>(0).ok()).ok_or_else(|| {
        Fault::strange(link.place().to_owned(), format!("{brokers} does not hold what was written"))
    })
}
