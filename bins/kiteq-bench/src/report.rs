//! What a run says of itself at the end: a table for people, JSON for programs.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::cpu::Memory;
use crate::format::{Table, count, latency, rate, size};
use crate::latency::LatencySummary;
use crate::ledger::Balance;
use crate::limits::{Limit, Limits};

/// Everything that was measured.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// `produce`, `e2e`, ...
    pub command: String,
    /// As typed.
    pub arguments: Vec<String>,
    /// One for each direction and phase.
    pub flows: Vec<Flow>,
    /// One connection with a window of one: latencies may be compared with the round trip.
    pub one_at_a_time: bool,
    /// Publishes acked false.
    pub refused: u64,
    /// The first refusal's text.
    pub first_refusal: Option<String>,
    /// Publishes without an ack.
    pub in_doubt: u64,
    /// Received messages of other runs.
    pub foreign: u64,
    /// Deliveries outstanding when publishing ended.
    pub backlog_at_end: Option<u64>,
    /// Deliveries that never came although this run waited for them.
    pub undelivered: Option<u64>,
    /// CPU time.
    pub cpu: Cpu,
    /// The broker's memory at moments of the run.
    pub broker_memory: Vec<(String, Memory)>,
    /// The machine's limits, measured in the same run.
    pub limits: Option<Limits>,
    /// The ledger.
    pub ledger: Option<Balance>,
    /// Anything else that a reader should know.
    pub notes: Vec<String>,
}

/// One direction of messages over one phase.
#[derive(Debug, Clone, Serialize)]
pub struct Flow {
    /// `publish`, `deliver`, ...
    pub name: String,
    /// Messages over the whole phase.
    pub messages: u64,
    /// Messages a second while measured.
    pub messages_per_second: f64,
    /// Mebibytes of bodies a second while measured.
    pub mib_per_second: f64,
    /// `publish-to-ack` or `end-to-end`.
    pub latency_name: String,
    /// The latencies while measured.
    pub latency: Option<LatencySummary>,
}

/// CPU time for each message published, in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Cpu {
    /// This process.
    pub bench_us_per_message: Option<f64>,
    /// The broker.
    pub broker_us_per_message: Option<f64>,
    /// Which process that is.
    pub broker_pid: Option<u32>,
}

impl Report {
    /// Writes the JSON file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let json = serde_json::to_vec_pretty(self)?;
        std::fs::write(path, json).with_context(|| format!("cannot write the result to {}", path.display()))
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(limits) = &self.limits {
            write!(f, "{}", limits_table(limits))?;
            if !self.flows.is_empty() {
                writeln!(f)?;
            }
        }
        if !self.flows.is_empty() {
            write!(f, "{}", flows_table(&self.flows))?;
        }
        self.fmt_ratios(f)?;
        self.fmt_details(f)?;
        if let Some(balance) = &self.ledger {
            write!(f, "\n{}", ledger_text(balance))?;
        }
        Ok(())
    }
}

impl Report {
    fn fmt_ratios(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(limits) = self.limits.as_ref().filter(|_| !self.flows.is_empty()) else { return Ok(()) };
        for flow in &self.flows {
            let percent = |limit: &Limit| 100.0 * flow.messages_per_second / limit.messages_per_second;
            write!(
                f,
                "\n{}: {:.0}% of echo, {:.0}% of append, {:.0}% of append + fdatasync",
                flow.name,
                percent(&limits.echo),
                percent(&limits.append),
                percent(&limits.append_sync)
            )?;
            // Beside a window of many it would compare queueing with none.
            if let Some(latency) = flow.latency.as_ref().filter(|_| self.one_at_a_time) {
                let times = latency.p50_us / limits.round_trip.publish_to_ack.p50_us;
                write!(f, "; p50 {} is {times:.1}x the echo's round trip", flow.latency_name)?;
            }
        }
        writeln!(f)
    }

    fn fmt_details(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.flows.is_empty() {
            return Ok(());
        }
        let mut line = format!("\nrefused {}, in doubt {}", count(self.refused), count(self.in_doubt));
        if let Some(backlog) = self.backlog_at_end {
            line += &format!(", waiting when publishing ended {}", count(backlog));
        }
        if let Some(undelivered) = self.undelivered {
            line += &format!(", never delivered {}", count(undelivered));
        }
        if self.foreign > 0 {
            line += &format!(", received of other runs {}", count(self.foreign));
        }
        writeln!(f, "{line}")?;
        if let Some(text) = &self.first_refusal {
            writeln!(f, "first refusal: {text}")?;
        }
        let cpu = [("this tool", self.cpu.bench_us_per_message), ("broker", self.cpu.broker_us_per_message)]
            .into_iter()
            .filter_map(|(who, micros)| micros.map(|micros| format!("{who} {micros:.2} us")))
            .collect::<Vec<_>>();
        if !cpu.is_empty() {
            writeln!(f, "CPU for each message published (or received, where none was): {}", cpu.join(", "))?;
        }
        for (when, memory) in &self.broker_memory {
            writeln!(
                f,
                "broker memory {when}: {} resident ({} of its own, {} of files), peak {}",
                size(memory.resident),
                size(memory.anonymous),
                size(memory.file),
                size(memory.peak)
            )?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

/// The flows as a table.
#[must_use]
pub fn flows_table(flows: &[Flow]) -> Table {
    let mut table = Table::new(&["", "messages", "rate", "MiB/s", "latency", "p50", "p99", "p99.9", "max"]);
    for flow in flows {
        let mut row = vec![
            flow.name.clone(),
            count(flow.messages),
            rate(flow.messages_per_second),
            format!("{:.1}", flow.mib_per_second),
        ];
        if let Some(latency) = &flow.latency {
            row.push(flow.latency_name.clone());
            row.extend(quantiles(latency));
        }
        table.row(row);
    }
    table
}

/// The limits as a table.
#[must_use]
pub fn limits_table(limits: &Limits) -> Table {
    let mut table = Table::new(&["limits of this machine", "rate", "MiB/s", "p50", "p99", "p99.9", "max"]);
    let rows = [
        ("(a) echo", &limits.echo),
        ("(b) append", &limits.append),
        ("(c) append + fdatasync", &limits.append_sync),
        ("round trip, one at a time", &limits.round_trip),
    ];
    for (name, limit) in rows {
        let mut row =
            vec![name.to_owned(), rate(limit.messages_per_second), format!("{:.1}", limit.mib_per_second)];
        row.extend(quantiles(&limit.publish_to_ack));
        table.row(row);
    }
    table
}

fn quantiles(summary: &LatencySummary) -> [String; 4] {
    [summary.p50_us, summary.p99_us, summary.p999_us, summary.max_us].map(latency)
}

/// The ledger as text.
#[must_use]
pub fn ledger_text(balance: &Balance) -> String {
    let mut table =
        Table::new(&["ledger", "acked", "delivered", "came again", "without ack, delivered", "MISSING"]);
    for group in &balance.groups {
        table.row([
            group.group.clone(),
            count(balance.acked),
            count(group.delivered - group.unacked_delivered),
            count(group.duplicates),
            count(group.unacked_delivered),
            count(group.missing),
        ]);
    }
    let mut text = table.to_string();
    for group in balance.groups.iter().filter(|group| group.missing > 0) {
        text += &format!("missing in {}: {}", group.group, group.missing_ids.join(" "));
        let unlisted = group.missing - group.missing_ids.len() as u64;
        text += &if unlisted > 0 { format!(" and {} more\n", count(unlisted)) } else { "\n".to_owned() };
    }
    if balance.alien > 0 {
        text += &format!("{} deliveries carry numbers that were never sent\n", count(balance.alien));
    }
    text += &match balance.missing() {
        0 if balance.is_clean() => {
            format!("every acked message reached every group ({} in doubt)\n", count(balance.in_doubt))
        }
        missing => format!("LOST: {} acked messages did not arrive\n", count(missing)),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Ledger;
    use crate::stamp::MessageNumber;

    fn limit(messages_per_second: f64) -> Limit {
        let publish_to_ack =
            LatencySummary { count: 9, p50_us: 10.0, p99_us: 20.0, p999_us: 30.0, max_us: 40.0 };
        Limit { messages_per_second, mib_per_second: messages_per_second / 1024.0, publish_to_ack }
    }

    #[test]
    fn ratios_stand_beside_the_limits() {
        let flow = Flow {
            name: "publish".to_owned(),
            messages: 300_000,
            messages_per_second: 300_000.0,
            mib_per_second: 293.0,
            latency_name: "publish-to-ack".to_owned(),
            latency: Some(limit(1.0).publish_to_ack),
        };
        let limits =
            Limits { echo: limit(2e6), append: limit(6e5), append_sync: limit(5e5), round_trip: limit(1e5) };
        let mut report = Report { flows: vec![flow], limits: Some(limits), ..Report::default() };
        assert!(!report.to_string().contains("round trip\n"), "{report}");
        report.one_at_a_time = true;
        let text = report.to_string();
        assert!(text.contains("publish: 15% of echo, 50% of append, 60% of append + fdatasync"), "{text}");
        assert!(text.contains("p50 publish-to-ack is 1.0x"), "{text}");
        assert!(text.contains("300,000/s"), "{text}");
    }

    #[test]
    fn the_ledger_lists_what_is_missing() {
        let ledger = Ledger::new(1, 1, vec!["a".to_owned()]);
        let mut page = ledger.open();
        page.sending(0, 5);
        (0..5).for_each(|sequence| page.acked(MessageNumber::new(0, sequence)));
        page.delivered(0, MessageNumber::new(0, 0));
        drop(page);
        let text = ledger_text(&ledger.balance(2));
        assert!(text.contains("missing in a: 00000000000000010000000000000001"), "{text}");
        assert!(text.contains("and 2 more") && text.contains("LOST: 4"), "{text}");
    }
}
