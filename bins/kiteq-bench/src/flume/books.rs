//! Which elements were pushed and which were received: bits for each run, and what they say together.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::Serialize;

use crate::flume::journal::{Event, Line};
use crate::ledger::BitSet;

/// Elements that one run can have: half a gigabyte of bits. A greater number is no element of this tool.
pub const SEQUENCE_MAX: u64 = 1 << 32;
/// Runs in one ledger.
const RUNS_MAX: usize = 1000;

/// One run.
#[derive(Debug, Default)]
struct Run {
    pushed: BitSet,
    in_doubt: BitSet,
    received: BitSet,
    dead: BitSet,
    dead_expected: u64,
    duplicates: u64,
}

/// The books of all runs.
#[derive(Debug, Default)]
pub struct Books {
    runs: BTreeMap<u64, Run>,
    /// Receipts whose numbers cannot be.
    alien: u64,
}

impl Books {
    /// Books an element that a sink took. Gives whether it is the first time.
    pub fn receive(&mut self, run_id: u64, sequence: u64) -> bool {
        let Some(run) = self.run(run_id, sequence) else { return false };
        let first = run.received.insert(sequence);
        run.duplicates += u64::from(!first);
        first
    }

    /// Books an element that is a dead letter.
    pub fn bury(&mut self, run_id: u64, sequence: u64) {
        if let Some(run) = self.run(run_id, sequence) {
            run.dead.insert(sequence);
        }
    }

    /// Books a line of a ledger.
    pub fn book(&mut self, line: &Line) {
        match line {
            Line::Dead(run_id, count) => {
                if let Some(run) = self.run(*run_id, 0) {
                    run.dead_expected += count;
                }
            }
            Line::Elements(event, run_id, ranges) => {
                ranges.iter().for_each(|range| self.book_range(*event, *run_id, range));
            }
        }
    }

    fn book_range(&mut self, event: Event, run_id: u64, range: &RangeInclusive<u64>) {
        for sequence in range.clone() {
            // A number that cannot be ends the range too: those after it cannot be either.
            let Some(run) = self.run(run_id, sequence) else { return };
            match event {
                Event::Pushed => drop(run.pushed.insert(sequence)),
                Event::InDoubt => drop(run.in_doubt.insert(sequence)),
                Event::Received => drop(self.receive(run_id, sequence)),
            }
        }
    }

    fn run(&mut self, run_id: u64, sequence: u64) -> Option<&mut Run> {
        let is_full = self.runs.len() >= RUNS_MAX && !self.runs.contains_key(&run_id);
        if sequence >= SEQUENCE_MAX || is_full {
            self.alien += 1;
            return None;
        }
        Some(self.runs.entry(run_id).or_default())
    }

    /// Different elements received, over all runs.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.runs.values().map(|run| run.received.len()).sum()
    }

    /// Receipts beyond an element's first, over all runs.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.runs.values().map(|run| run.duplicates).sum()
    }

    /// What the books say, with the first `listed_max` missing numbers of each run. `dead_letters` that are only counted are taken to be
    /// missing elements of any run.
    #[must_use]
    pub fn balance(&self, listed_max: usize, dead_letters: u64) -> Balance {
        let runs = self.runs.iter().map(|(&run_id, run)| {
            let accounted = run.received.union(&run.dead);
            RunBalance {
                run: format!("{run_id:016x}"),
                pushed: run.pushed.len(),
                in_doubt: run.in_doubt.len(),
                received: run.received.len(),
                duplicates: run.duplicates,
                dead_letters: run.dead.len(),
                dead_letters_expected: run.dead_expected,
                not_in_the_ledger: accounted.minus_count(&run.pushed.union(&run.in_doubt)),
                missing: run.pushed.minus_count(&accounted),
                missing_sequences: run.pushed.minus(&accounted).take(listed_max).collect(),
            }
        });
        let runs: Vec<_> = runs.collect();
        let missing: u64 = runs.iter().map(|run| run.missing).sum();
        Balance {
            missing: missing.saturating_sub(dead_letters),
            dead_letters_counted: dead_letters,
            alien: self.alien,
            runs,
        }
    }
}

/// What the books say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// Pushed elements that are neither in a sink's ledger nor a dead letter.
    pub missing: u64,
    /// Dead letters that were only counted.
    pub dead_letters_counted: u64,
    /// Receipts whose numbers cannot be.
    pub alien: u64,
    /// One for each run.
    pub runs: Vec<RunBalance>,
}

/// What the books say of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunBalance {
    /// The run's id.
    pub run: String,
    /// Elements that Redis took.
    pub pushed: u64,
    /// Elements that Redis may have taken.
    pub in_doubt: u64,
    /// Different elements that sinks took.
    pub received: u64,
    /// Receipts beyond an element's first.
    pub duplicates: u64,
    /// Elements found in dead letters.
    pub dead_letters: u64,
    /// Elements that were made to become dead letters.
    pub dead_letters_expected: u64,
    /// Received or dead, and not in a ledger of what was pushed: its writer was killed, or the ledger was not given.
    pub not_in_the_ledger: u64,
    /// Pushed, and neither received nor dead.
    pub missing: u64,
    /// The first of them.
    pub missing_sequences: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(lines: &[Line]) -> Books {
        let mut books = Books::default();
        lines.iter().for_each(|line| books.book(line));
        books
    }

    #[test]
    fn every_pushed_element_is_received_dead_or_missing() {
        let mut books = books(&[
            Line::Elements(Event::Pushed, 1, vec![0..=99]),
            Line::Elements(Event::InDoubt, 1, vec![100..=109]),
            Line::Dead(1, 2),
            Line::Elements(Event::Received, 1, vec![0..=89, 91..=97, 100..=102, 200..=200]),
            Line::Elements(Event::Received, 1, vec![5..=6]),
        ]);
        books.bury(1, 98);
        let balance = books.balance(10, 0);
        let run = &balance.runs[0];
        assert_eq!((balance.missing, &run.missing_sequences[..]), (2, &[90, 99][..]));
        assert_eq!((run.pushed, run.in_doubt, run.received, run.duplicates), (100, 10, 101, 2));
        assert_eq!((run.dead_letters, run.dead_letters_expected, run.not_in_the_ledger), (1, 2, 1));
        assert_eq!(books.balance(10, 1).missing, 1);
        books.receive(1, 90);
        books.bury(1, 99);
        assert_eq!(books.balance(10, 0).missing, 0);
    }

    #[test]
    fn runs_are_kept_apart() {
        let books = books(&[
            Line::Elements(Event::Pushed, 1, vec![0..=9]),
            Line::Elements(Event::Received, 2, vec![0..=9]),
        ]);
        let balance = books.balance(3, 0);
        assert_eq!((balance.runs.len(), balance.missing, books.received()), (2, 10, 10));
        assert_eq!(balance.runs[0].missing_sequences, [0, 1, 2]);
    }

    #[test]
    fn numbers_that_cannot_be_take_no_memory() {
        let mut books = Books::default();
        assert!(!books.receive(1, u64::MAX));
        for run in 0..2000 {
            books.receive(run, 0);
        }
        let balance = books.balance(0, 0);
        assert_eq!((balance.runs.len(), balance.alien), (RUNS_MAX, 1001));
    }
}
