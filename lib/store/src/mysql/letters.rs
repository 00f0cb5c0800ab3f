//! Dead letters: listed, made live again, deleted for good. Whoever asks, they are those of all brokers.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use kiteq_protocol::MessageId;

use super::extra;
use super::fault::{Fault, FaultKind};
use super::layout::{DEAD, digit_of, held};
use super::link::Link;
use super::rows::{LETTER_COLUMNS, LetterRow, read_letter};
use super::shared::{Shared, unix_seconds};
use super::text::{put_bytes, put_id, put_ids, put_number, put_quoted};
use super::turn::COLUMNS;
use crate::error::StoreError;
use crate::held::{DeadLetter, DeadReason, Revived, Slot};
use crate::mailbox::lock;

/// Letters of one statement: each may carry a body of the largest size.
const LETTERS_MAX: usize = 64;

/// Ids of one statement.
const IDS_MAX: usize = 500;

/// Tries of a transaction that gives way to another one.
const GAVE_WAY_MAX: usize = 8;

/// Up to `limit` letters in the order of their ids, from the one after `after`.
pub(super) async fn list(
    shared: &Shared,
    after: Option<MessageId>,
    limit: usize,
) -> Result<Vec<DeadLetter>, StoreError> {
    let mut lease = shared.pool.lease().await.map_err(|fault| fault.to_error())?;
    let mut letters = Vec::new();
    for shard in 0..shared.layout.shard_count() {
        let of_shard =
            list_shard(shared, &mut lease, shard, after, limit).await.map_err(|fault| fault.to_error())?;
        letters.extend(of_shard);
    }
    lease.give_back();
    letters.sort_by_key(|letter| letter.id);
    letters.truncate(limit);
    Ok(letters)
}

async fn list_shard(
    shared: &Shared,
    link: &mut Link,
    shard: usize,
    mut after: Option<MessageId>,
    limit: usize,
) -> Result<Vec<DeadLetter>, Fault> {
    let mut letters: Vec<DeadLetter> = Vec::new();
    while letters.len() < limit {
        let count = (limit - letters.len()).min(LETTERS_MAX);
        let mut sql = format!("SELECT {LETTER_COLUMNS} FROM {}", shared.layout.letters(shard));
        if let Some(after) = &after {
            sql.push_str(" WHERE message_id>");
            put_id(&mut sql, after);
        }
        sql.push_str(" ORDER BY message_id LIMIT ");
        put_number(&mut sql, count as i64);
        let answers = link.run(&sql).await?;
        let rows: Vec<_> = answers.iter().flat_map(|answer| &answer.rows).collect();
        let read: Vec<LetterRow> = rows.iter().filter_map(|row| read_letter(row, unix_seconds())).collect();
        let Some(last) = read.last() else { break };
        after = Some(last.letter.id);
        letters.extend(read.into_iter().map(|row| row.letter));
        if rows.len() < count {
            break;
        }
    }
    Ok(letters)
}

/// Makes letters live and resident again.
pub(super) async fn revive(shared: &Shared, ids: &[MessageId]) -> Vec<Revived> {
    let mut revived: BTreeMap<MessageId, Revived> = BTreeMap::new();
    let mut by_shard: Vec<Vec<MessageId>> = vec![Vec::new(); shared.layout.shard_count()];
    for id in ids {
        let of_shard = &mut by_shard[shared.layout.shard_of(digit_of(id))];
        if !of_shard.contains(id) {
            of_shard.push(*id);
        }
    }
    for (shard, ids) in by_shard.iter().enumerate() {
        for ids in ids.chunks(LETTERS_MAX) {
            match revive_some(shared, shard, ids).await {
                Ok(some) => revived.extend(some),
                Err(fault) => {
                    revived.extend(ids.iter().map(|id| (*id, Err(fault.to_error()))));
                }
            }
        }
    }
    // An id that was asked for twice was a dead letter once.
    ids.iter().map(|id| revived.remove(id).unwrap_or(Ok(None))).collect()
}

async fn revive_some(
    shared: &Shared,
    shard: usize,
    ids: &[MessageId],
) -> Result<Vec<(MessageId, Revived)>, Fault> {
    let mut lease = shared.pool.lease().await?;
    let mut gave_way = 0;
    loop {
        match try_revive(shared, &mut lease, shard, ids).await {
            Ok(revived) => {
                lease.give_back();
                return Ok(revived);
            }
            Err(fault) => {
                lease.roll_back().await;
                if fault.kind != FaultKind::GaveWay || gave_way == GAVE_WAY_MAX {
                    return Err(fault);
                }
                gave_way += 1;
            }
        }
    }
}

async fn try_revive(
    shared: &Shared,
    link: &mut Link,
    shard: usize,
    ids: &[MessageId],
) -> Result<Vec<(MessageId, Revived)>, Fault> {
    let mut sql = format!(
        "START TRANSACTION;SELECT {LETTER_COLUMNS} FROM {} WHERE message_id IN ",
        shared.layout.letters(shard)
    );
    put_ids(&mut sql, ids);
    sql.push_str(" FOR UPDATE");
    let answers = link.run(&sql).await?;
    let now = unix_seconds();
    let rows: Vec<LetterRow> =
        answers.iter().flat_map(|answer| &answer.rows).filter_map(|row| read_letter(row, now)).collect();
    let (good, bad): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.defect.is_none());
    let mut revived: Vec<(MessageId, Revived)> = bad
        .into_iter()
        .map(|row| {
            let reason = format!("its row cannot be read: {}", row.defect.unwrap_or_default());
            let place = format!("dead letter {}", row.letter.id);
            (row.letter.id, Err(StoreError::Corrupt { place, reason }))
        })
        .collect();
    if good.is_empty() {
        link.run("COMMIT").await?;
        return Ok(revived);
    }
    let answers = link.run(&put_live(shared, shard, &good)).await?;
    // Two statements each; of a row that is live already there is nothing to make.
    let is_live: Vec<bool> =
        answers.chunks(2).map(|pair| pair.last().is_some_and(|answer| answer.affected > 0)).collect();
    let good: Vec<LetterRow> =
        good.into_iter().zip(is_live).filter_map(|(row, is_live)| is_live.then_some(row)).collect();
    let slots = reserve(shared, &good);
    let mut sql = String::new();
    if !good.is_empty() {
        put_delete(&mut sql, shared.layout.letters(shard), good.iter().map(|row| &row.letter.id));
        sql.push(';');
    }
    sql.push_str("COMMIT");
    let ended = link.run(&sql).await;
    let mut all = lock(&shared.slots);
    if let Err(fault) = ended {
        for slot in slots {
            all.release(slot);
        }
        return Err(fault);
    }
    shared.counters.dead_letters.fetch_sub(good.len() as i64, Ordering::Relaxed);
    for (row, slot) in good.into_iter().zip(slots) {
        all.fill(slot, row.header_len, row.payload_len, true);
        revived.push((row.letter.id, Ok(Some((slot, row.letter)))));
    }
    Ok(revived)
}

fn reserve(shared: &Shared, rows: &[LetterRow]) -> Vec<Slot> {
    let mut slots = lock(&shared.slots);
    rows.iter().map(|row| slots.reserve(row.letter.id)).collect()
}

/// Makes the letters' rows live again: without expiry, and committed, as a person decided that they are to be delivered.
fn put_live(shared: &Shared, shard: usize, rows: &[LetterRow]) -> String {
    let mut sql = String::new();
    for row in rows {
        let table = shared.layout.table(digit_of(&row.letter.id));
        sql.push_str("DELETE FROM ");
        sql.push_str(table);
        sql.push_str(" WHERE next_deliver_time=");
        put_number(&mut sql, DEAD);
        sql.push_str(" AND message_id=");
        put_id(&mut sql, &row.letter.id);
        sql.push_str(";INSERT IGNORE INTO ");
        sql.push_str(table);
        sql.push_str(" (");
        sql.push_str(COLUMNS);
        sql.push_str(") SELECT ");
        put_id(&mut sql, &row.letter.id);
        sql.push_str(",LEFT(header,");
        put_number(&mut sql, row.header_len as i64);
        sql.push_str("),body,msg_type,topic,message_type,publish_group,1,publish_time,0,0,deliver_limit,");
        put_quoted(&mut sql, &shared.owner);
        sql.push_str(",'[]','[]',");
        put_number(&mut sql, held(shared.epoch));
        sql.push_str(" FROM ");
        sql.push_str(shared.layout.letters(shard));
        sql.push_str(" WHERE message_id='");
        sql.push_str(&String::from_utf8_lossy(&row.id_text));
        sql.push_str("';");
    }
    sql.truncate(sql.len() - 1);
    sql
}

fn put_delete<'a>(sql: &mut String, table: &str, ids: impl IntoIterator<Item = &'a MessageId>) {
    sql.push_str("DELETE FROM ");
    sql.push_str(table);
    sql.push_str(" WHERE message_id IN ");
    put_ids(sql, ids);
}

/// Deletes letters for good; tells how many there were. What cannot be deleted now is logged and stays.
pub(super) async fn purge(shared: &Shared, ids: &[MessageId]) -> usize {
    let mut by_shard: Vec<Vec<MessageId>> = vec![Vec::new(); shared.layout.shard_count()];
    for id in ids {
        by_shard[shared.layout.shard_of(digit_of(id))].push(*id);
    }
    let mut purged = 0;
    for (shard, ids) in by_shard.iter().enumerate() {
        for ids in ids.chunks(IDS_MAX) {
            match purge_some(shared, shard, ids).await {
                Ok(count) => purged += count,
                Err(fault) => tracing::warn!(%fault, "dead letters could not be deleted"),
            }
        }
    }
    shared.counters.dead_letters.fetch_sub(purged as i64, Ordering::Relaxed);
    purged
}

async fn purge_some(shared: &Shared, shard: usize, ids: &[MessageId]) -> Result<usize, Fault> {
    let mut lease = shared.pool.lease().await?;
    let mut sql = "START TRANSACTION;".to_owned();
    put_delete(&mut sql, shared.layout.letters(shard), ids);
    sql.push(';');
    for digit in shared.layout.digits_of(shard) {
        let of_table: Vec<&MessageId> = ids.iter().filter(|id| digit_of(id) == digit).collect();
        if !of_table.is_empty() {
            put_delete(&mut sql, shared.layout.table(digit), of_table);
            sql.push_str(" AND next_deliver_time=");
            put_number(&mut sql, DEAD);
            sql.push(';');
        }
    }
    sql.push_str("COMMIT");
    let mut gave_way = 0;
    loop {
        match lease.run(&sql).await {
            Ok(answers) => {
                lease.give_back();
                return Ok(answers.get(1).map_or(0, |answer| answer.affected as usize));
            }
            Err(fault) => {
                lease.roll_back().await;
                if fault.kind != FaultKind::GaveWay || gave_way == GAVE_WAY_MAX {
                    return Err(fault);
                }
                gave_way += 1;
            }
        }
    }
}

/// Moves a row that does not make sense to the dead letters, as it is. One whose id is none gets one: there it can be seen
/// and deleted.
pub(super) fn put_unreadable(
    sql: &mut String,
    shared: &Shared,
    digit: usize,
    number: i64,
    id_text: &[u8],
    reason: &str,
) {
    let id = MessageId::parse(id_text).unwrap_or_else(|_| made_up_id(digit, number));
    tracing::error!(
        table = shared.layout.table(digit),
        row = number,
        message_id = %String::from_utf8_lossy(id_text),
        letter = %id,
        reason,
        "a row that cannot be read is a dead letter now"
    );
    let now = unix_seconds();
    let (fail_groups, death) = extra::write_death(DeadReason::Unreadable, now, &[]);
    let table = shared.layout.table(digit);
    sql.push_str("REPLACE INTO ");
    sql.push_str(shared.layout.letters(shared.layout.shard_of(digit)));
    sql.push_str(" (");
    sql.push_str(COLUMNS);
    sql.push_str(") SELECT ");
    put_id(sql, &id);
    // A header that does not decode hides what stands behind it: the columns then say that it is unreadable.
    sql.push_str(",CONCAT(header,");
    put_bytes(sql, &death);
    sql.push_str(
        "),body,msg_type,topic,message_type,publish_group,`commit`,publish_time,expired_time,deliver_count,\
         deliver_limit,kite_server,",
    );
    put_quoted(sql, &fail_groups);
    sql.push_str(",succ_groups,");
    put_number(sql, now);
    sql.push_str(" FROM ");
    sql.push_str(table);
    sql.push_str(" WHERE id=");
    put_number(sql, number);
    sql.push_str(";UPDATE ");
    sql.push_str(table);
    sql.push_str(" SET header='',body='',expired_time=0,next_deliver_time=");
    put_number(sql, DEAD);
    sql.push_str(",message_id=");
    put_id(sql, &id);
    sql.push_str(" WHERE id=");
    put_number(sql, number);
    sql.push(';');
}

/// An id for a row that has none: in the same table, and unlike any that a client makes.
fn made_up_id(digit: usize, number: i64) -> MessageId {
    let mut id = [0xff; 16];
    id[6..14].copy_from_slice(&number.to_be_bytes());
    id[14] = 0;
    id[15] = 0xf0 | digit as u8;
    MessageId(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_up_id_stays_in_its_table() {
        for digit in 0..16 {
            assert_eq!(digit_of(&made_up_id(digit, 77)), digit);
        }
        assert_ne!(made_up_id(3, 1), made_up_id(3, 2));
    }
}
