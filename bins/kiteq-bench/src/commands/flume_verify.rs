//! `kiteq-bench flume-verify`

use std::fmt;

use serde::Serialize;

use crate::cli::bridge::FlumeVerifyArgs;
use crate::commands::Verdict;
use crate::commands::bridge_run::publish;
use crate::flume::books::{Balance, Books};
use crate::flume::dead_letters::{Found, lists_of};
use crate::flume::journal;
use crate::format::{Table, count};

/// What the ledgers say together.
#[derive(Debug, Serialize)]
pub struct VerifyReport {
    /// The books.
    #[serde(flatten)]
    pub balance: Balance,
    /// Dead letters without an element that redis-fill made.
    pub dead_letters_of_others: u64,
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.table())?;
        for run in self.balance.runs.iter().filter(|run| run.missing > 0) {
            let listed: Vec<_> = run.missing_sequences.iter().map(u64::to_string).collect();
            let unlisted = run.missing - listed.len() as u64;
            let more = if unlisted > 0 { format!(" and {} more", count(unlisted)) } else { String::new() };
            writeln!(f, "not found of run {}: elements {}{more}", run.run, listed.join(" "))?;
        }
        if self.dead_letters_of_others > 0 {
            writeln!(f, "dead letters of others: {}", count(self.dead_letters_of_others))?;
        }
        if self.balance.alien > 0 {
            writeln!(f, "{} receipts carry numbers that cannot be", count(self.balance.alien))?;
        }
        if self.balance.dead_letters_counted > 0 {
            let counted = count(self.balance.dead_letters_counted);
            writeln!(f, "{counted} of those not found are taken to be dead letters")?;
        }
        match self.balance.missing {
            0 => writeln!(f, "every pushed element reached a sink or is a dead letter"),
            missing => writeln!(f, "LOST: {} pushed elements are nowhere", count(missing)),
        }
    }
}

impl VerifyReport {
    fn table(&self) -> Table {
        let mut table = Table::new(&[
            "run",
            "pushed",
            "in doubt",
            "received",
            "came again",
            "dead letters",
            "expected",
            "unknown",
            "NOT FOUND",
        ]);
        for run in &self.balance.runs {
            let numbers = [
                run.pushed,
                run.in_doubt,
                run.received,
                run.duplicates,
                run.dead_letters,
                run.dead_letters_expected,
                run.not_in_the_ledger,
                run.missing,
            ];
            table.row(std::iter::once(run.run.clone()).chain(numbers.map(count)));
        }
        table
    }
}

/// Compares, and shows the result.
///
/// # Errors
/// When a ledger cannot be read, or Redis is not there.
pub async fn run(args: FlumeVerifyArgs) -> anyhow::Result<Verdict> {
    let mut books = Books::default();
    for path in args.pushed.iter().chain(&args.received) {
        journal::read(path)?.iter().for_each(|line| books.book(line));
    }
    let mut found = Found::default();
    let lists = match &args.dead_letter_list[..] {
        [] => lists_of(&args.queuename).to_vec(),
        lists => lists.to_vec(),
    };
    for address in &args.dead_letters_of {
        for list in &lists {
            found.read(address, list).await?;
        }
    }
    found.markers.iter().for_each(|marker| books.bury(marker.run_id, marker.sequence));
    let balance = books.balance(args.list_missing, args.dead_letters);
    let verdict = if balance.missing == 0 { Verdict::Fine } else { Verdict::Lost };
    publish("flume-verify", &VerifyReport { balance, dead_letters_of_others: found.unknown }, &args.output)?;
    Ok(verdict)
}
