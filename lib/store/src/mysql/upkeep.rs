//! What is done now and then: settled rows are deleted once their ids need not be known any more, and figures are taken.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::fault::Fault;
use super::layout::{DIGITS, DUE, HELD, SETTLED, settled};
use super::link::Link;
use super::pager::{first_number, next_place_of};
use super::shared::{Shared, unix_seconds};
use super::text::{put_number, put_quoted};

/// Rows of one statement.
const ROWS_MAX: usize = 900;

/// Settled rows of other brokers are theirs to delete; after so much longer anybody does it.
const OTHERS_GRACE: i64 = 300;

/// How often the settled rows of other brokers are looked at, and figures are taken.
const SLOWLY: Duration = Duration::from_secs(60);

/// Rows of one place in one table that are counted; of more there are about as many.
const COUNT_MAX: usize = 100_000;

/// Runs until it is dropped.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut slowly_at = Instant::now();
    loop {
        tokio::time::sleep(shared.options.purge_interval).await;
        let is_slow = slowly_at <= Instant::now();
        if is_slow {
            slowly_at = Instant::now() + SLOWLY;
        }
        if let Err(fault) = once(&shared, is_slow).await {
            // The writers say it loudly enough.
            tracing::debug!(%fault, "settled rows were not deleted; they are later");
        }
    }
}

async fn once(shared: &Shared, is_slow: bool) -> Result<(), Fault> {
    let mut lease = shared.pool.lease().await?;
    let now = unix_seconds();
    let window = shared.options.dedupe.window.as_secs() as i64;
    let kept = shared.counters.settled.load(Ordering::Relaxed).max(0) as usize;
    let mut purged = 0;
    for digit in 0..DIGITS {
        let before = settled(now - window);
        let mut limit = shared.options.purge_rows_max;
        purged += purge(shared, &mut lease, digit, Some(&shared.owner), before, &mut limit).await?;
        // More ids than are to be remembered: the oldest go early.
        let mut excess = kept.saturating_sub(shared.options.dedupe.ids_max + purged).div_ceil(DIGITS);
        if excess > 0 {
            purged +=
                purge(shared, &mut lease, digit, Some(&shared.owner), settled(now), &mut excess).await?;
        }
        if is_slow {
            let before = settled(now - window - OTHERS_GRACE);
            purge(shared, &mut lease, digit, None, before, &mut limit).await?;
        }
    }
    shared.counters.settled.fetch_sub(purged as i64, Ordering::Relaxed);
    if is_slow {
        take_figures(shared, &mut lease).await?;
    }
    lease.give_back();
    Ok(())
}

/// Deletes up to `limit` rows that were settled before a time.
async fn purge(
    shared: &Shared,
    link: &mut Link,
    digit: usize,
    owner: Option<&str>,
    before: i64,
    limit: &mut usize,
) -> Result<usize, Fault> {
    let (table, index) = (shared.layout.table(digit), &shared.indexes[digit].place);
    let mut purged = 0;
    while *limit > 0 {
        let count = (*limit).min(ROWS_MAX);
        let mut sql = format!(
            "SELECT id FROM {table} FORCE INDEX ({index}) WHERE next_deliver_time>={SETTLED} \
             AND next_deliver_time<{before}"
        );
        if let Some(owner) = owner {
            sql.push_str(" AND kite_server=");
            put_quoted(&mut sql, owner);
        }
        sql.push_str(" ORDER BY next_deliver_time LIMIT ");
        put_number(&mut sql, count as i64);
        let numbers = numbers(link, &sql).await?;
        if numbers.is_empty() {
            break;
        }
        let list: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        let delete =
            format!("DELETE FROM {table} WHERE id IN ({}) AND next_deliver_time>={SETTLED}", list.join(","));
        let answers = link.run(&delete).await?;
        purged += answers.iter().map(|answer| answer.affected as usize).sum::<usize>();
        *limit -= numbers.len();
        if numbers.len() < count {
            break;
        }
    }
    Ok(purged)
}

async fn numbers(link: &mut Link, sql: &str) -> Result<Vec<i64>, Fault> {
    use sqlx::Row;
    let answers = link.run(sql).await?;
    let rows = answers.iter().flat_map(|answer| &answer.rows);
    Ok(rows.filter_map(|row| row.try_get_unchecked(0).ok()).collect())
}

/// Counts dead letters, and asks how much room the tables take.
pub(super) async fn take_figures(shared: &Shared, link: &mut Link) -> Result<(), Fault> {
    let (mut letters, mut bytes) = (0, 0);
    for shard in 0..shared.layout.shard_count() {
        let count = format!("SELECT COUNT(*) FROM {}", shared.layout.letters(shard));
        letters += first_number(link, &count).await?.unwrap_or(0);
        let mut size = "SELECT CAST(COALESCE(SUM(DATA_LENGTH+INDEX_LENGTH),0) AS SIGNED) FROM information_schema.TABLES \
                        WHERE TABLE_SCHEMA="
            .to_owned();
        put_quoted(&mut size, &shared.layout.database_of(shard));
        bytes += first_number(link, &size).await?.unwrap_or(0);
    }
    shared.counters.dead_letters.store(letters, Ordering::Relaxed);
    shared.counters.disk_bytes.store(bytes.max(0) as u64, Ordering::Relaxed);
    Ok(())
}

/// Counts what waits at the start, about.
pub(super) async fn count_waiting(shared: &Shared, link: &mut Link) -> Result<(), Fault> {
    let mut waiting = 0;
    for digit in 0..DIGITS {
        let mut places = vec![DUE];
        let mut after = HELD - 1;
        while let Some(value) = next_place_of(shared, link, digit, &shared.owner, after, SETTLED).await? {
            places.push(value);
            after = value;
        }
        for place in places {
            let (table, index) = (shared.layout.table(digit), &shared.indexes[digit].place);
            let mut sql = format!(
                "SELECT COUNT(*) FROM (SELECT 1 FROM {table} FORCE INDEX ({index}) \
                 WHERE next_deliver_time={place} AND kite_server="
            );
            put_quoted(&mut sql, &shared.owner);
            sql.push_str(&format!(" LIMIT {COUNT_MAX}) AS some"));
            waiting += first_number(link, &sql).await?.unwrap_or(0);
        }
    }
    shared.counters.waiting.store(waiting, Ordering::Relaxed);
    Ok(())
}
