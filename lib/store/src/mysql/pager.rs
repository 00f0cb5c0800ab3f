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

use super::fault::{Fault, FaultKind};
use super::layout::{DIGITS, DUE, HELD, SETTLED, SHELVED, held, on_shelf};
use super::link::{Answer, Link};
use super::rows::{PAGE_COLUMNS, PageContent, read_page_row};
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
const ROWS_MAX: usize = 4000;

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
    /// Rows of which it is not known whether they became resident.
    pub(super) doubtful: Vec<MessageId>,
}

impl Pager {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, looks: vec![Looks::default(); DIGITS], doubtful: Vec::new() }
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
        for questions in self.questions(from, unix_seconds()) {
            self.take(link, room, questions, page).await?;
        }
        Ok(())
    }

    /// Questions in the order in which they are asked; those in one list are asked together, and no row fits two of them.
    fn questions(&self, from: &PageSource, now: i64) -> Vec<Vec<Question>> {
        let of_all = |source: &dyn Fn(&Looks) -> Source| -> Vec<Question> {
            (0..DIGITS).map(|digit| (digit, source(&self.looks[digit]))).collect()
        };
        if let PageSource::Shelves(shelves) = from {
            return shelves.iter().map(|&shelf| of_all(&|_| Source::Shelf(shelf))).collect();
        }
        let epochs = (0..DIGITS).flat_map(|digit| {
            self.looks[digit].epochs.iter().map(move |&epoch| (digit, Source::Epoch(epoch)))
        });
        let past = (0..DIGITS)
            .filter(|&digit| !self.looks[digit].is_past_done)
            .map(|digit| (digit, Source::Time { after: i64::MIN, until: DUE - 1 }));
        vec![
            epochs.collect(),
            of_all(&|looks| Source::Expired { after: looks.expired_until, until: now }),
            of_all(&|_| Source::Due),
            past.collect(),
            of_all(&|looks| Source::Time { after: looks.due_until.max(DUE), until: now }),
        ]
    }

    /// Makes rows resident until the page has `room` messages or nothing answers the questions any more, and remembers that.
    async fn take(
        &mut self,
        link: &mut Link,
        room: usize,
        mut questions: Vec<Question>,
        page: &mut Page,
    ) -> Result<(), Fault> {
        // Most questions find nothing, and then there is nothing to lock.
        let has_rows = self.probe(link, &questions).await?;
        let mut answered = has_rows.into_iter();
        questions.retain(|question| {
            let has_rows = answered.next().unwrap_or(true);
            if !has_rows {
                self.looks[question.0].remember(question.1);
            }
            has_rows
        });
        while !questions.is_empty() {
            let left = (room - page.messages.len()).min(ROWS_MAX);
            if left == 0 {
                page.has_more = true;
                return Ok(());
            }
            let limit = left.div_ceil(questions.len());
            let found = self.take_rows(link, &questions, limit, left, page).await?;
            let mut found = found.into_iter();
            questions.retain(|question| {
                let has_more = found.next().is_some_and(|found| found >= limit);
                if !has_more {
                    self.looks[question.0].remember(question.1);
                }
                has_more
            });
        }
        Ok(())
    }

    async fn probe(&self, link: &mut Link, questions: &[Question]) -> Result<Vec<bool>, Fault> {
        let texts: Vec<String> =
            questions.iter().map(|&(digit, source)| select(&self.shared, "1", digit, source, 1)).collect();
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let answers = link.run(&texts.join(";")).await?;
        Ok(answers.iter().map(|answer| !answer.rows.is_empty()).collect())
    }

    /// One transaction, for up to `limit` rows of each question and `left` in all; tells how many it moved, for each.
    async fn take_rows(
        &mut self,
        link: &mut Link,
        questions: &[Question],
        limit: usize,
        left: usize,
        page: &mut Page,
    ) -> Result<Vec<usize>, Fault> {
        let mut gave_way = 0;
        loop {
            let fault = match self.try_rows(link, questions, limit, left, page).await {
                Ok(found) => return Ok(found),
                Err(fault) => fault,
            };
            link.roll_back().await;
            if fault.kind != FaultKind::GaveWay || gave_way == GAVE_WAY_MAX {
                return Err(fault);
            }
            gave_way += 1;
        }
    }

    async fn try_rows(
        &mut self,
        link: &mut Link,
        questions: &[Question],
        limit: usize,
        left: usize,
        page: &mut Page,
    ) -> Result<Vec<usize>, Fault> {
        let mut sql = "START TRANSACTION".to_owned();
        for &(digit, source) in questions {
            sql.push(';');
            sql.push_str(&select(&self.shared, PAGE_COLUMNS, digit, source, limit));
            sql.push_str(" FOR UPDATE");
        }
        let answers = link.run(&sql).await?;
        let mut moving = Moving { left, ..Moving::default() };
        let mut found = Vec::new();
        // The first answer is that of the transaction's start.
        for ((digit, _), answer) in questions.iter().zip(answers.iter().skip(1)) {
            found.push(moving.add(&self.shared, *digit, answer, limit));
        }
        moving.sql.push_str("COMMIT");
        let ended = link.run(&moving.sql).await;
        let mut slots = lock(&self.shared.slots);
        match ended {
            Ok(_) => {
                fill(&mut slots, moving.taken, page);
                page.has_more |= moving.has_skipped;
                let counters = &self.shared.counters;
                counters.waiting.fetch_sub(moving.rows as i64, Ordering::Relaxed);
                counters.dead_letters.fetch_add(moving.letters, Ordering::Relaxed);
                Ok(found)
            }
            Err(fault) => {
                for (slot, content) in moving.taken {
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

/// A table, and what is asked of it.
type Question = (usize, Source);

impl Looks {
    /// Nothing answers the question any more.
    fn remember(&mut self, source: Source) {
        match source {
            Source::Epoch(epoch) => self.epochs.retain(|&other| other != epoch),
            Source::Expired { until, .. } => self.expired_until = self.expired_until.max(until - OVERLAP),
            Source::Time { until, .. } if until < DUE => self.is_past_done = true,
            Source::Time { until, .. } => self.due_until = self.due_until.max(until - OVERLAP),
            Source::Due | Source::Shelf(_) => {}
        }
    }
}

/// Locked rows that are about to become resident, or dead letters.
#[derive(Default)]
struct Moving {
    /// How many more may be.
    left: usize,
    sql: String,
    taken: Vec<(Slot, PageContent)>,
    rows: usize,
    letters: i64,
    /// A row was left where it is.
    has_skipped: bool,
}

impl Moving {
    /// Adds the rows of one answer; tells how many. When not all could be, it says `limit`: there are more.
    fn add(&mut self, shared: &Shared, digit: usize, answer: &Answer, limit: usize) -> usize {
        let mut numbers = Vec::new();
        let mut moved = 0;
        let mut slots = lock(&shared.slots);
        for row in answer.rows.iter().map(read_page_row) {
            if self.left == 0 {
                moved = limit;
                break;
            }
            let content = match row.content {
                Ok(content) => content,
                Err(reason) => {
                    letters::put_unreadable(&mut self.sql, shared, digit, row.number, &row.id_text, &reason);
                    self.letters += 1;
                    self.rows += 1;
                    moved += 1;
                    continue;
                }
            };
            let known = slots.find(&content.paged.id);
            if known.is_some_and(|slot| slots.get(slot).is_none()) {
                // It is being published once more just now: the writer looks at the row as it is.
                self.has_skipped = true;
                continue;
            }
            numbers.push(row.number);
            if !content.is_id_canonical {
                put_canonical_id(&mut self.sql, shared, digit, row.number, &content.paged.id);
            }
            self.rows += 1;
            moved += 1;
            // Otherwise it is resident, and somebody changed the row: it says so again.
            if known.is_none() {
                self.left -= 1;
                self.taken.push((slots.reserve(content.paged.id), content));
            }
        }
        put_held(&mut self.sql, shared, digit, &numbers);
        moved
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
fn select(shared: &Shared, columns: &str, digit: usize, source: Source, limit: usize) -> String {
    let indexes = &shared.indexes[digit];
    let index = if matches!(source, Source::Expired { .. }) { &indexes.expiry } else { &indexes.place };
    let mut sql = format!(
        "SELECT {columns} FROM {} FORCE INDEX ({index}) WHERE kite_server=",
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
