//! Pages: messages that wait in the store become resident.
//!
//! Every question is a look into an index, for a bounded number of rows:
//!
//! | what | index, and where in it |
//! |---|---|
//! | of earlier runs | place: each earlier epoch that had rows of ours at the start |
//! | expired | expiry: from where the last look ended |
//! | due | place: the value for it |
//! | whose time came, and rows of a Go broker | place: from where the last look ended |
//! | on a shelf | place: the shelf |
//!
//! Looks that go on where the last one ended overlap by [`OVERLAP`]: a time is put into a row a little before the row is
//! committed. Rows are locked, made resident, and reported when that is committed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kiteq_protocol::MessageId;
use sqlx::Row;

use super::fault::Fault;
use super::layout::{DIGITS, DUE, HELD, SETTLED, SHELVED, held, on_shelf};
use super::link::Link;
use super::rows::{PAGE_COLUMNS, PageContent, PageRow, read_page_row};
use super::shared::{Shared, unix_seconds};
use super::text::{put_number, put_quoted};
use super::{letters, slots};
use crate::error::StoreError;
use crate::held::Slot;
use crate::mailbox::lock;
use crate::paging::{Page, PageSource, Paged, ShelfId};

/// Longer than a transaction can take, from the making of its text to its commit.
const OVERLAP: i64 = 150;

/// Rows of one transaction.
const ROWS_MAX: usize = 1000;

/// Tries of a transaction that gives way to another one.
const GAVE_WAY_MAX: usize = 8;

/// Where the looks into the indexes of one table stand.
#[derive(Debug, Clone, Default)]
struct Looks {
    /// Earlier runs of ours that may have rows.
    epochs: Vec<i64>,
    /// Times up to here have been looked at.
    due_until: i64,
    /// Expiries up to here have been looked at.
    expired_until: i64,
    /// Rows with a time of a Go broker's before all others.
    is_past_done: bool,
}

/// One of the questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Epoch(i64),
    Expired { after: i64, until: i64 },
    Due,
    Time { after: i64, until: i64 },
    Shelf(ShelfId),
}

/// The state of paging. One page at a time.
pub(super) struct Pager {
    shared: Arc<Shared>,
    looks: Vec<Looks>,
    /// The table to begin with, so that none is always last.
    first: usize,
    /// Rows of which it is not known whether they became resident.
    pub(super) doubtful: Vec<MessageId>,
}

impl Pager {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, looks: vec![Looks::default(); DIGITS], first: 0, doubtful: Vec::new() }
    }

    /// Finds which earlier runs left rows.
    pub(super) async fn find_epochs(&mut self, link: &mut Link) -> Result<(), Fault> {
        for digit in 0..DIGITS {
            let mut after = HELD - 1;
            let mut epochs = Vec::new();
            while let Some(value) = next_place(&self.shared, link, digit, after, SHELVED).await? {
                if value != held(self.shared.epoch) {
                    epochs.push(value);
                }
                after = value;
            }
            self.looks[digit].epochs = epochs;
        }
        Ok(())
    }

    /// Makes up to `room` messages resident.
    pub(super) async fn page(&mut self, room: usize, from: &PageSource) -> Result<Page, StoreError> {
        let shared = self.shared.clone();
        let mut lease = shared.pool.lease().await.map_err(|fault| fault.to_error())?;
        let mut page = Page::default();
        let result = self.collect(&mut lease, room, from, &mut page).await;
        lease.give_back();
        page.messages.sort_by_key(|paged| (paged.published_at, paged.expires_at, paged.slot));
        match result {
            Err(fault) if page.messages.is_empty() => Err(fault.to_error()),
            Err(fault) => {
                // What is resident must be reported; the caller asks again.
                tracing::warn!(%fault, "a page ends early");
                page.has_more = true;
                Ok(page)
            }
            Ok(()) => Ok(page),
        }
    }

    async fn collect(
        &mut self,
        link: &mut Link,
        room: usize,
        from: &PageSource,
        page: &mut Page,
    ) -> Result<(), Fault> {
        let room = room.min(lock(&self.shared.slots).room());
        if room == 0 {
            page.has_more = true;
            return Ok(());
        }
        let now = unix_seconds();
        self.first = (self.first + 1) % DIGITS;
        for step in 0..DIGITS {
            let digit = (self.first + step) % DIGITS;
            // What tables before this one left free is for the rest; one that has more than its share gets it next time.
            let share = (room - page.messages.len()).div_ceil(DIGITS - step);
            let until = page.messages.len() + share;
            for source in self.sources(digit, from, now) {
                self.drain(link, digit, source, until, page).await?;
            }
        }
        Ok(())
    }

    fn sources(&self, digit: usize, from: &PageSource, now: i64) -> Vec<Source> {
        if let PageSource::Shelves(shelves) = from {
            return shelves.iter().map(|&shelf| Source::Shelf(shelf)).collect();
        }
        let looks = &self.looks[digit];
        let mut sources: Vec<Source> = looks.epochs.iter().map(|&epoch| Source::Epoch(epoch)).collect();
        sources.push(Source::Expired { after: looks.expired_until, until: now });
        sources.push(Source::Due);
        if !looks.is_past_done {
            sources.push(Source::Time { after: i64::MIN, until: DUE - 1 });
        }
        sources.push(Source::Time { after: looks.due_until.max(DUE), until: now });
        sources
    }

    /// Makes rows of one source resident until the page has `until` messages; remembers when there are no more.
    async fn drain(
        &mut self,
        link: &mut Link,
        digit: usize,
        source: Source,
        until: usize,
        page: &mut Page,
    ) -> Result<(), Fault> {
        loop {
            let limit = until.saturating_sub(page.messages.len()).min(ROWS_MAX);
            if limit == 0 {
                page.has_more = true;
                return Ok(());
            }
            let found = self.take_rows(link, digit, source, limit, page).await?;
            if found < limit {
                break;
            }
        }
        let looks = &mut self.looks[digit];
        match source {
            Source::Epoch(epoch) => looks.epochs.retain(|&other| other != epoch),
            Source::Expired { until, .. } => looks.expired_until = looks.expired_until.max(until - OVERLAP),
            Source::Time { until, .. } if until < DUE => looks.is_past_done = true,
            Source::Time { until, .. } => looks.due_until = looks.due_until.max(until - OVERLAP),
            Source::Due | Source::Shelf(_) => {}
        }
        Ok(())
    }

    /// One transaction; tells how many rows it moved.
    async fn take_rows(
        &mut self,
        link: &mut Link,
        digit: usize,
        source: Source,
        limit: usize,
        page: &mut Page,
    ) -> Result<usize, Fault> {
        let mut gave_way = 0;
        loop {
            let result = self.try_rows(link, digit, source, limit, page).await;
            match result {
                Err(fault) if fault.kind == super::fault::FaultKind::GaveWay && gave_way < GAVE_WAY_MAX => {
                    link.roll_back().await;
                    gave_way += 1;
                }
                Err(fault) => {
                    link.roll_back().await;
                    return Err(fault);
                }
                Ok(found) => return Ok(found),
            }
        }
    }

    async fn try_rows(
        &mut self,
        link: &mut Link,
        digit: usize,
        source: Source,
        limit: usize,
        page: &mut Page,
    ) -> Result<usize, Fault> {
        let select = select(&self.shared, digit, source, limit);
        // Most questions find nothing, and then there is nothing to lock.
        let mut answers = link.run(&select).await?;
        if answers.first().is_none_or(|answer| answer.rows.is_empty()) {
            return Ok(0);
        }
        answers = link.run(&format!("START TRANSACTION;{select} FOR UPDATE")).await?;
        let rows: Vec<PageRow> = answers.iter().flat_map(|answer| &answer.rows).map(read_page_row).collect();
        let found = rows.len();
        let mut sql = String::new();
        let mut taken = Vec::new();
        let mut numbers = Vec::new();
        let (mut letters_count, mut skipped) = (0, 0);
        {
            let mut slots = lock(&self.shared.slots);
            for row in rows {
                match row.content {
                    Ok(content) => {
                        let known = slots.find(&content.paged.id);
                        if known.is_some_and(|slot| slots.get(slot).is_none()) {
                            // It is being published once more just now: the writer looks at the row as it is.
                            page.has_more = true;
                            skipped += 1;
                            continue;
                        }
                        numbers.push(row.number);
                        if !content.is_id_canonical {
                            put_canonical_id(&mut sql, &self.shared, digit, row.number, &content.paged.id);
                        }
                        // Otherwise it is resident, and somebody changed the row: it says so again.
                        if known.is_none() {
                            let slot = slots.reserve(content.paged.id);
                            taken.push((slot, content));
                        }
                    }
                    Err(reason) => {
                        letters::put_unreadable(
                            &mut sql,
                            &self.shared,
                            digit,
                            row.number,
                            &row.id_text,
                            &reason,
                        );
                        letters_count += 1;
                    }
                }
            }
        }
        put_held(&mut sql, &self.shared, digit, &numbers);
        sql.push_str("COMMIT");
        let ended = link.run(&sql).await;
        let mut slots = lock(&self.shared.slots);
        match ended {
            Ok(_) => {
                fill(&mut slots, taken, page);
                let counters = &self.shared.counters;
                counters.waiting.fetch_sub((found - skipped) as i64, Ordering::Relaxed);
                counters.dead_letters.fetch_add(letters_count, Ordering::Relaxed);
                Ok(found - skipped)
            }
            Err(fault) => {
                for (slot, content) in taken {
                    slots.release(slot);
                    if !fault.spares_connection() {
                        self.doubtful.push(content.paged.id);
                    }
                }
                Err(fault)
            }
        }
    }
}

fn fill(slots: &mut slots::Slots, taken: Vec<(Slot, PageContent)>, page: &mut Page) {
    for (slot, content) in taken {
        let paged = Paged { slot, ..content.paged };
        slots.fill(slot, content.header_len, content.payload_len, paged.committed);
        if !paged.groups.is_empty() {
            slots.note(slot);
        }
        page.messages.push(paged);
    }
}

/// The question for rows of ours of one source.
fn select(shared: &Shared, digit: usize, source: Source, limit: usize) -> String {
    let indexes = &shared.indexes[digit];
    let index = if matches!(source, Source::Expired { .. }) { &indexes.expiry } else { &indexes.place };
    let mut sql = format!(
        "SELECT {PAGE_COLUMNS} FROM {} FORCE INDEX ({index}) WHERE kite_server=",
        shared.layout.table(digit)
    );
    put_quoted(&mut sql, &shared.owner);
    sql.push_str(" AND ");
    sql.push_str(&match source {
        Source::Epoch(value) => format!("next_deliver_time={value}"),
        Source::Due => format!("next_deliver_time={DUE}"),
        Source::Shelf(shelf) => format!("next_deliver_time={}", on_shelf(shelf)),
        Source::Time { after, until } => {
            format!("next_deliver_time>{after} AND next_deliver_time<={until}")
        }
        Source::Expired { after, until } => format!(
            "expired_time>{after} AND expired_time<={until} AND \
             (next_deliver_time<{HELD} OR next_deliver_time>={SHELVED} AND next_deliver_time<{SETTLED})"
        ),
    });
    sql.push_str(" LIMIT ");
    put_number(&mut sql, limit as i64);
    sql
}

fn put_held(sql: &mut String, shared: &Shared, digit: usize, numbers: &[i64]) {
    if numbers.is_empty() {
        return;
    }
    sql.push_str("UPDATE ");
    sql.push_str(shared.layout.table(digit));
    sql.push_str(" SET next_deliver_time=");
    put_number(sql, held(shared.epoch));
    sql.push_str(" WHERE id IN (");
    for (index, &number) in numbers.iter().enumerate() {
        if index > 0 {
            sql.push(',');
        }
        put_number(sql, number);
    }
    sql.push_str(");");
}

/// Later statements look for the id as we write it, and a column may tell capitals apart.
fn put_canonical_id(sql: &mut String, shared: &Shared, digit: usize, number: i64, id: &MessageId) {
    sql.push_str("UPDATE ");
    sql.push_str(shared.layout.table(digit));
    sql.push_str(" SET message_id=");
    super::text::put_id(sql, id);
    sql.push_str(" WHERE id=");
    put_number(sql, number);
    sql.push(';');
}

/// The next value of `next_deliver_time` of rows of ours, after `after` and below `end`; looks once for each value that
/// any broker has there.
async fn next_place(
    shared: &Shared,
    link: &mut Link,
    digit: usize,
    after: i64,
    end: i64,
) -> Result<Option<i64>, Fault> {
    next_place_of(shared, link, digit, &shared.owner, after, end).await
}

/// Like [`next_place`], for any owner.
pub(super) async fn next_place_of(
    shared: &Shared,
    link: &mut Link,
    digit: usize,
    owner: &str,
    mut after: i64,
    end: i64,
) -> Result<Option<i64>, Fault> {
    let (table, index) = (shared.layout.table(digit), &shared.indexes[digit].place);
    loop {
        let next = format!(
            "SELECT next_deliver_time FROM {table} FORCE INDEX ({index}) WHERE next_deliver_time>{after} \
             AND next_deliver_time<{end} ORDER BY next_deliver_time LIMIT 1"
        );
        let Some(value) = first_number(link, &next).await? else { return Ok(None) };
        let mut is_ours = format!(
            "SELECT 1 FROM {table} FORCE INDEX ({index}) WHERE next_deliver_time={value} AND kite_server="
        );
        put_quoted(&mut is_ours, owner);
        is_ours.push_str(" LIMIT 1");
        if first_number(link, &is_ours).await?.is_some() {
            return Ok(Some(value));
        }
        after = value;
    }
}

/// The first value of the first row.
pub(super) async fn first_number(link: &mut Link, sql: &str) -> Result<Option<i64>, Fault> {
    let answers = link.run(sql).await?;
    let row = answers.iter().flat_map(|answer| &answer.rows).next();
    Ok(row.and_then(|row| row.try_get_unchecked::<i64, _>(0).ok()))
}
