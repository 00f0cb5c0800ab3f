//! What a writer does in one transaction, as text and as what the answers mean.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use hashbrown::HashMap;
use kiteq_protocol::{Message, MessageId};

use super::extra::{self, Columns};
use super::layout::{DEAD, DIGITS, DUE, digit_of, held, on_shelf, settled};
use super::shared::Shared;
use super::slots::Entry;
use super::text::{put_bytes, put_id, put_ids, put_name, put_number, put_quoted};
use super::work::{Later, Leaving, Part};
use crate::held::{AppendOutcome, DeadReason, GroupState, Slot, Verdict, VerdictOutcome};
use crate::paging::{Shelf, ShelfPlace};

/// Characters of the columns for names.
const NAME_CHARS: usize = 255;

/// The columns of a row but its number, in the order in which they are written and read.
pub(super) const COLUMNS: &str = "message_id,header,body,msg_type,topic,message_type,publish_group,`commit`,publish_time,\
                                  expired_time,deliver_count,deliver_limit,kite_server,fail_groups,succ_groups,\
                                  next_deliver_time";

/// A message that is being stored.
pub(super) struct Insert {
    pub(super) part: Arc<Part<Message, AppendOutcome>>,
    pub(super) index: u32,
    pub(super) id: MessageId,
    /// `None` for one that waits in the store alone.
    pub(super) slot: Option<Slot>,
    pub(super) header_len: usize,
    pub(super) payload_len: usize,
    pub(super) is_committed: bool,
}

/// A message whose id is being stored already.
pub(super) struct Twin {
    pub(super) part: Arc<Part<Message, AppendOutcome>>,
    pub(super) index: u32,
    /// Digit and place of the first one.
    pub(super) of: (usize, usize),
}

/// A verdict that is being carried out.
pub(super) struct Decision {
    pub(super) part: Arc<Part<(MessageId, Verdict), VerdictOutcome>>,
    pub(super) index: u32,
    pub(super) id: MessageId,
    pub(super) verdict: Verdict,
    /// `None` for a message that is not resident here.
    pub(super) slot: Option<Slot>,
}

/// What goes into one transaction.
#[derive(Default)]
pub(super) struct Turn {
    /// By digit.
    pub(super) inserts: [Vec<Insert>; DIGITS],
    /// The rows of `inserts`, as text.
    values: [String; DIGITS],
    /// Where an id stands in `inserts`.
    positions: HashMap<MessageId, (usize, usize)>,
    /// Messages whose id stands in `inserts` already: they fare like that one.
    pub(super) twins: Vec<Twin>,
    pub(super) decisions: Vec<Decision>,
    pub(super) laters: Vec<Later>,
    /// Bytes of text, about.
    pub(super) bytes: usize,
}

/// What a statement's answer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing that matters.
    Other,
    /// Rows of the inserts of a digit that were new.
    Inserted(usize),
    /// Whether this decision hit its row.
    Decided(usize),
    /// Rows that were ours, of so many.
    Ours(u64),
    /// Like [`Step::Ours`], of one row, which is a dead letter now.
    Killed,
}

/// A transaction.
#[derive(Default)]
pub(super) struct Script {
    pub(super) sql: String,
    /// One for each statement.
    pub(super) steps: Vec<Step>,
}

impl Script {
    fn step(&mut self, step: Step) {
        self.sql.push(';');
        self.steps.push(step);
    }
}

impl Turn {
    /// Whether somebody waits for it.
    pub(super) fn is_urgent(&self) -> bool {
        !self.decisions.is_empty() || self.inserts.iter().any(|inserts| !inserts.is_empty())
    }

    /// Statements and rows, about.
    pub(super) fn rows(&self) -> usize {
        self.positions.len() + self.decisions.len() + self.laters.len()
    }

    pub(super) fn position_of(&self, id: &MessageId) -> Option<(usize, usize)> {
        self.positions.get(id).copied()
    }

    /// Adds a message and writes its row.
    pub(super) fn insert(&mut self, shared: &Shared, message: &Message, insert: Insert, now: i64) {
        let digit = digit_of(&insert.id);
        self.positions.insert(insert.id, (digit, self.inserts[digit].len()));
        let values = &mut self.values[digit];
        let before = values.len();
        let next_deliver_time = if insert.slot.is_some() { held(shared.epoch) } else { DUE };
        put_row(values, shared, message, next_deliver_time, now);
        self.bytes += values.len() - before;
        self.inserts[digit].push(insert);
    }

    /// The whole transaction, or only what somebody waits for.
    pub(super) fn script(&self, shared: &Shared, now: i64, with_laters: bool) -> Script {
        let mut script = Script::default();
        script.sql.reserve(self.bytes + 4096);
        script.sql.push_str("START TRANSACTION");
        script.step(Step::Other);
        for (digit, values) in self.values.iter().enumerate().filter(|(_, values)| !values.is_empty()) {
            script.sql.push_str("INSERT IGNORE INTO ");
            script.sql.push_str(shared.layout.table(digit));
            script.sql.push_str(" (");
            script.sql.push_str(COLUMNS);
            script.sql.push_str(") VALUES ");
            script.sql.push_str(values);
            script.step(Step::Inserted(digit));
        }
        for (index, decision) in self.decisions.iter().enumerate() {
            put_decision(&mut script.sql, shared, decision);
            script.step(Step::Decided(index));
        }
        if with_laters {
            put_laters(&mut script, shared, &self.laters, now);
        }
        script.sql.push_str("COMMIT");
        script.step(Step::Other);
        script
    }
}

/// Bytes of text that a message's row takes at most.
pub(super) fn row_bytes_max(message: &Message) -> usize {
    2 * message.payload.len()
        + 2 * (message.topic.len() + message.message_type.len() + message.publish_group.len())
        + 1024
}

fn put_row(sql: &mut String, shared: &Shared, message: &Message, next_deliver_time: i64, now: i64) {
    sql.push_str(if sql.is_empty() { "(" } else { ",(" });
    put_id(sql, &message.id);
    sql.push(',');
    put_bytes(sql, message.payload.header());
    sql.push(',');
    put_bytes(sql, &message.payload.body);
    sql.push(',');
    put_number(sql, message.kind as i64);
    for name in [&message.topic, &message.message_type, &message.publish_group] {
        sql.push(',');
        put_name(sql, name, NAME_CHARS);
    }
    let created_at = if message.created_at > 0 { message.created_at } else { now };
    for number in [i64::from(message.committed), created_at, message.expires_at, 0] {
        sql.push(',');
        put_number(sql, number);
    }
    sql.push(',');
    put_number(sql, i64::from(message.deliver_limit));
    sql.push(',');
    put_quoted(sql, &shared.owner);
    sql.push_str(",'[]','[]',");
    put_number(sql, next_deliver_time);
    sql.push(')');
}

/// ` WHERE the row is ours and resident`, but for which rows.
pub(super) fn put_where_ours(sql: &mut String, shared: &Shared) {
    sql.push_str(" WHERE kite_server=");
    put_quoted(sql, &shared.owner);
    sql.push_str(" AND next_deliver_time=");
    put_number(sql, held(shared.epoch));
    sql.push_str(" AND message_id");
}

/// `UPDATE` of rows that are found by their ids, whatever the server believes of its tables' sizes.
pub(super) fn put_update_by_id(sql: &mut String, shared: &Shared, digit: usize) {
    sql.push_str("UPDATE ");
    sql.push_str(shared.layout.table(digit));
    put_force_id(sql, shared, digit);
}

/// ` FORCE INDEX` of the ids.
pub(super) fn put_force_id(sql: &mut String, shared: &Shared, digit: usize) {
    sql.push_str(" FORCE INDEX (");
    sql.push_str(&shared.indexes[digit].id);
    sql.push(')');
}

fn put_ours(sql: &mut String, shared: &Shared, id: &MessageId) {
    put_where_ours(sql, shared);
    sql.push('=');
    put_id(sql, id);
}

fn put_decision(sql: &mut String, shared: &Shared, decision: &Decision) {
    let table = shared.layout.table(digit_of(&decision.id));
    match decision.verdict {
        Verdict::Commit => {
            sql.push_str("UPDATE ");
            sql.push_str(table);
            sql.push_str(" SET `commit`=1");
        }
        Verdict::Rollback => {
            sql.push_str("DELETE FROM ");
            sql.push_str(table);
        }
    }
    if decision.slot.is_some() {
        put_ours(sql, shared, &decision.id);
        if decision.verdict == Verdict::Rollback {
            sql.push_str(" AND `commit`=0");
        }
    } else {
        sql.push_str(" WHERE message_id=");
        put_id(sql, &decision.id);
        sql.push_str(" AND `commit`=0 AND next_deliver_time<");
        put_number(sql, super::layout::SETTLED);
    }
}

fn put_laters(script: &mut Script, shared: &Shared, laters: &[Later], now: i64) {
    for later in laters {
        if let Later::Note { entry, states } = later {
            put_note(script, shared, entry, states);
        }
    }
    let mut settles: [Vec<&MessageId>; DIGITS] = Default::default();
    // Messages that are shelved alike share a statement.
    let mut shelves: BTreeMap<(usize, i64), Vec<&MessageId>> = BTreeMap::new();
    for later in laters {
        let Later::Leave { entry, how } = later else { continue };
        match how {
            Leaving::Settled => settles[digit_of(&entry.id)].push(&entry.id),
            Leaving::Killed { reason, groups } => put_kill(script, shared, entry, *reason, groups, now),
            Leaving::Shelved { states, place } => {
                if let ShelfPlace::On(shelf) = place {
                    put_new_shelf(script, shared, shelf);
                }
                // Rows are written with no states, so that most need no statement of their own.
                if !states.is_empty() || entry.is_noted {
                    put_note(script, shared, entry, states);
                }
                shelves.entry((digit_of(&entry.id), place_of(place, now))).or_default().push(&entry.id);
            }
        }
    }
    for (digit, ids) in settles.iter().enumerate().filter(|(_, ids)| !ids.is_empty()) {
        put_settle(&mut script.sql, shared, digit, ids, now);
        script.step(Step::Ours(ids.len() as u64));
    }
    for ((digit, place), ids) in shelves {
        put_shelve(&mut script.sql, shared, digit, place, &ids, now);
        script.step(Step::Ours(ids.len() as u64));
    }
}

fn put_note(script: &mut Script, shared: &Shared, entry: &Entry, states: &[GroupState]) {
    let (Columns { deliver_count, fail_groups, succ_groups }, extra) = extra::write_groups(states);
    let sql = &mut script.sql;
    sql.push_str("UPDATE ");
    sql.push_str(shared.layout.table(digit_of(&entry.id)));
    sql.push_str(" SET deliver_count=");
    put_number(sql, deliver_count);
    sql.push_str(",fail_groups=");
    put_quoted(sql, &fail_groups);
    sql.push_str(",succ_groups=");
    put_quoted(sql, &succ_groups);
    if extra.is_some() || entry.is_noted {
        sql.push_str(",header=");
        put_header(sql, entry, extra.as_ref());
    }
    put_ours(sql, shared, &entry.id);
    script.step(Step::Ours(1));
}

/// The published header, with something behind it.
fn put_header(sql: &mut String, entry: &Entry, extra: Option<&BytesMut>) {
    sql.push_str("CONCAT(LEFT(header,");
    put_number(sql, i64::from(entry.header_len));
    sql.push_str("),");
    put_bytes(sql, extra.map_or(&[], |extra| extra));
    sql.push(')');
}

fn put_settle(sql: &mut String, shared: &Shared, digit: usize, ids: &[&MessageId], now: i64) {
    let table = shared.layout.table(digit);
    if shared.options.dedupe.window.is_zero() || shared.options.dedupe.ids_max == 0 {
        sql.push_str("DELETE FROM ");
        sql.push_str(table);
    } else {
        put_update_by_id(sql, shared, digit);
        sql.push_str(" SET next_deliver_time=");
        put_number(sql, settled(now));
    }
    put_where_ours(sql, shared);
    sql.push_str(" IN ");
    put_ids(sql, ids.iter().copied());
}

/// Copies a row to the dead letters, and leaves what holds its id.
fn put_kill(
    script: &mut Script,
    shared: &Shared,
    entry: &Entry,
    reason: DeadReason,
    groups: &[bytes::Bytes],
    now: i64,
) {
    let digit = digit_of(&entry.id);
    let (fail_groups, extra) = extra::write_death(reason, now, groups);
    let sql = &mut script.sql;
    sql.push_str("REPLACE INTO ");
    sql.push_str(shared.layout.letters(shared.layout.shard_of(digit)));
    sql.push_str(" (");
    sql.push_str(COLUMNS);
    sql.push_str(") SELECT message_id,");
    put_header(sql, entry, Some(&extra));
    sql.push_str(
        ",body,msg_type,topic,message_type,publish_group,`commit`,publish_time,expired_time,deliver_count,\
         deliver_limit,kite_server,",
    );
    put_quoted(sql, &fail_groups);
    sql.push_str(",succ_groups,");
    put_number(sql, now);
    sql.push_str(" FROM ");
    sql.push_str(shared.layout.table(digit));
    put_ours(sql, shared, &entry.id);
    script.step(Step::Other);
    let sql = &mut script.sql;
    sql.push_str("UPDATE ");
    sql.push_str(shared.layout.table(digit));
    sql.push_str(" SET header='',body='',expired_time=0,next_deliver_time=");
    put_number(sql, DEAD);
    put_ours(sql, shared, &entry.id);
    script.step(Step::Killed);
}

/// A shelf that this process has not seen is written down before the first message lies on it.
fn put_new_shelf(script: &mut Script, shared: &Shared, shelf: &Shelf) {
    if !shared.is_new_shelf(shelf) {
        return;
    }
    let sql = &mut script.sql;
    sql.push_str("INSERT IGNORE INTO ");
    sql.push_str(&shared.layout.shelves());
    sql.push_str(" (id,checksum,topic,`groups`) VALUES (");
    put_number(sql, i64::from(shelf.id.0));
    sql.push(',');
    put_number(sql, i64::from(super::shelves::checksum(shelf)));
    sql.push(',');
    put_bytes(sql, &shelf.topic);
    sql.push(',');
    put_bytes(sql, &super::shelves::encode_groups(&shelf.groups));
    sql.push(')');
    script.step(Step::Other);
}

/// The value of `next_deliver_time`. Pages look at every second once, so nothing may be put into the past.
fn place_of(place: &ShelfPlace, now: i64) -> i64 {
    match place {
        ShelfPlace::Until(at) if *at > now => (*at).min(super::layout::HELD - 1),
        ShelfPlace::Until(_) => DUE,
        ShelfPlace::On(shelf) => on_shelf(shelf.id),
    }
}

fn put_shelve(sql: &mut String, shared: &Shared, digit: usize, place: i64, ids: &[&MessageId], now: i64) {
    put_update_by_id(sql, shared, digit);
    // What has expired by now is not looked for among those that expire any more.
    sql.push_str(" SET next_deliver_time=IF(expired_time>0 AND expired_time<=");
    put_number(sql, now);
    sql.push(',');
    put_number(sql, DUE);
    sql.push(',');
    put_number(sql, place);
    sql.push(')');
    put_where_ours(sql, shared);
    sql.push_str(" IN ");
    put_ids(sql, ids.iter().copied());
}
