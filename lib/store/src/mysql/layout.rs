//! Databases, tables, and what the columns of a row say about where its message is.
//!
//! # Databases and tables
//!
//! `{db}_{0..shardnum}`, each with `kite_msg_{0..16/shardnum}` and `kite_msg_dlq`. The last hexadecimal digit of a message's
//! id is its *digit*: it chooses database and table, and one of 16 tables is named by it everywhere here. `{db}_0` holds two
//! more tables, ours alone: `kiteq_brokers` and `kiteq_shelves`.
//!
//! # Whose a row is, and where its message is
//!
//! `kite_server` names the broker that owns the row. `next_deliver_time`, which with it is the start of an index, says more
//! than a time, so that every question is a look into that index:
//!
//! | value | the message |
//! |---|---|
//! | up to now, in unix seconds | waits for nothing; a Go broker writes it so |
//! | 1 ([`DUE`]) | waits for nothing; this store writes it so |
//! | a later time | waits for that time |
//! | 2^50 + epoch ([`held`]) | is resident in the run of its owner with that epoch |
//! | 2^51 + shelf ([`on_shelf`]) | lies on that shelf |
//! | 2^52 + unix seconds ([`settled`]) | was settled then, and is kept so long as its id counts as a duplicate |
//! | 2^53 ([`DEAD`]) | is a dead letter, and stands in `kite_msg_dlq`; this row, without header and body, holds its id |
//!
//! A Go broker takes rows whose time has come, so it never touches the last four kinds.

use kiteq_protocol::MessageId;

use crate::paging::ShelfId;

/// Tables of live messages over all databases.
pub(super) const DIGITS: usize = 16;

/// Waits for nothing.
pub(super) const DUE: i64 = 1;

/// First value that is no time any more.
pub(super) const HELD: i64 = 1 << 50;

/// First value of a shelf.
pub(super) const SHELVED: i64 = 1 << 51;

/// First value of a row that is no live message any more.
pub(super) const SETTLED: i64 = 1 << 52;

/// The row of a dead letter.
pub(super) const DEAD: i64 = 1 << 53;

/// The run of a broker in which a message is resident. Later runs of the same broker have larger ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Epoch(pub(super) i64);

/// Resident in the run with this epoch.
pub(super) fn held(epoch: Epoch) -> i64 {
    HELD + epoch.0
}

/// On a shelf.
pub(super) fn on_shelf(shelf: ShelfId) -> i64 {
    SHELVED + i64::from(shelf.0)
}

/// Settled at a time, in unix seconds.
pub(super) fn settled(at: i64) -> i64 {
    SETTLED + at.clamp(0, SETTLED - 1)
}

/// Which of the 16 tables a message is in.
pub(super) fn digit_of(id: &MessageId) -> usize {
    usize::from(id.0[15] & 0x0f)
}

/// The names of everything, quoted and with their database.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    database: String,
    shard_count: usize,
    tables: Vec<String>,
    letters: Vec<String>,
}

impl Layout {
    pub(super) fn new(database: &str, shard_count: u8) -> Self {
        let shard_count = usize::from(shard_count);
        let mut layout =
            Self { database: database.to_owned(), shard_count, tables: Vec::new(), letters: Vec::new() };
        let each = DIGITS / shard_count;
        layout.tables = (0..DIGITS)
            .map(|digit| format!("`{}`.`kite_msg_{}`", layout.database_of(digit / each), digit % each))
            .collect();
        layout.letters =
            (0..shard_count).map(|shard| format!("`{}`.`kite_msg_dlq`", layout.database_of(shard))).collect();
        layout
    }

    pub(super) fn shard_count(&self) -> usize {
        self.shard_count
    }

    /// A database's name, unquoted.
    pub(super) fn database_of(&self, shard: usize) -> String {
        format!("{}_{shard}", self.database)
    }

    pub(super) fn shard_of(&self, digit: usize) -> usize {
        digit / (DIGITS / self.shard_count)
    }

    /// The digits of a database.
    pub(super) fn digits_of(&self, shard: usize) -> std::ops::Range<usize> {
        let each = DIGITS / self.shard_count;
        shard * each..(shard + 1) * each
    }

    /// The table of live messages.
    pub(super) fn table(&self, digit: usize) -> &str {
        &self.tables[digit]
    }

    /// The table of dead letters that belongs to a table of live messages.
    pub(super) fn letters(&self, shard: usize) -> &str {
        &self.letters[shard]
    }

    /// Which run of which broker is the present one, and who left.
    pub(super) fn brokers(&self) -> String {
        format!("`{}`.`kiteq_brokers`", self.database_of(0))
    }

    /// What shelves there are.
    pub(super) fn shelves(&self) -> String {
        format!("`{}`.`kiteq_shelves`", self.database_of(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(last: u8) -> MessageId {
        let mut id = [0xa5; 16];
        id[15] = last;
        MessageId(id)
    }

    #[test]
    fn the_last_digit_chooses_database_and_table() {
        let layout = Layout::new("kite", 4);
        assert_eq!(layout.table(digit_of(&id(0xf0))), "`kite_0`.`kite_msg_0`");
        assert_eq!(layout.table(digit_of(&id(0x07))), "`kite_1`.`kite_msg_3`");
        assert_eq!(layout.table(digit_of(&id(0x5f))), "`kite_3`.`kite_msg_3`");
        assert_eq!(layout.letters(layout.shard_of(15)), "`kite_3`.`kite_msg_dlq`");
        assert_eq!(layout.digits_of(1), 4..8);
        let layout = Layout::new("kite", 1);
        assert_eq!(layout.table(13), "`kite_0`.`kite_msg_13`");
        let layout = Layout::new("kite", 16);
        assert_eq!(layout.table(13), "`kite_13`.`kite_msg_0`");
    }

    #[test]
    fn the_classes_of_rows_do_not_overlap() {
        // Milliseconds since 1970, until the year 10000.
        let epochs = [Epoch(0), Epoch(253_402_300_800_000)];
        assert!(epochs.iter().all(|epoch| (HELD..SHELVED).contains(&held(*epoch))));
        assert!([0, u32::MAX].iter().all(|id| (SHELVED..SETTLED).contains(&on_shelf(ShelfId(*id)))));
        assert!([-1, 0, i64::MAX].iter().all(|at| (SETTLED..DEAD).contains(&settled(*at))));
    }
}
