//! Live progress on stderr: a line every second on a terminal, every five seconds elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::counters::{Counters, Snapshot};
use crate::format::{count, rate};

/// The display of one run.
#[derive(Debug)]
pub struct Progress {
    label: String,
    period: Duration,
    begin: Instant,
    shown_at: Instant,
    shown: Snapshot,
    quiet: bool,
}

impl Progress {
    /// A display whose lines begin with `label`. A quiet one shows nothing.
    #[must_use]
    pub fn new(label: &str, quiet: bool) -> Self {
        let seconds = if std::io::stderr().is_terminal() { 1 } else { 5 };
        let (begin, shown) = (Instant::now(), Snapshot::default());
        let period = Duration::from_secs(seconds);
        Self { label: label.to_owned(), period, begin, shown_at: begin, shown, quiet }
    }

    /// Shows the counters when it is time to. `groups` is how many groups every acked message is to reach.
    pub fn show(&mut self, counters: &Counters, groups: u64) {
        if self.shown_at.elapsed() < self.period {
            return;
        }
        self.write(&counters.snapshot(), groups);
    }

    fn write(&mut self, now: &Snapshot, groups: u64) {
        let seconds = self.shown_at.elapsed().as_secs_f64();
        self.shown_at = Instant::now();
        let line = progress_line(&self.label, self.begin.elapsed(), seconds, &self.shown, now, groups);
        self.shown = *now;
        if !self.quiet {
            eprintln!("{line}");
        }
    }
}

fn progress_line(
    label: &str,
    since_begin: Duration,
    seconds: f64,
    before: &Snapshot,
    now: &Snapshot,
    groups: u64,
) -> String {
    let per_second = |after: u64, before: u64| rate(after.saturating_sub(before) as f64 / seconds);
    let mut line = format!("{label} {:>5.0}s", since_begin.as_secs_f64());
    if now.published > 0 {
        line += &format!("  acked {} ({})", count(now.acked), per_second(now.acked, before.acked));
    }
    if groups > 0 || now.delivered > 0 {
        line += &format!(
            "  delivered {} ({})",
            count(now.delivered),
            per_second(now.delivered, before.delivered)
        );
    }
    if groups > 0 && now.published > 0 {
        line += &format!("  waiting {}", count((now.acked * groups).saturating_sub(now.delivered)));
    }
    if now.refused > 0 {
        line += &format!("  refused {}", count(now.refused));
    }
    if now.in_doubt > 0 {
        line += &format!("  in doubt {}", count(now.in_doubt));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_the_run_does() {
        let before = Snapshot { published: 1000, acked: 1000, delivered: 900, ..Snapshot::default() };
        let now =
            Snapshot { published: 3000, acked: 3000, delivered: 2900, refused: 5, ..Snapshot::default() };
        let line = progress_line("e2e", Duration::from_secs(2), 1.0, &before, &now, 1);
        assert_eq!(
            line,
            "e2e     2s  acked 3,000 (2,000/s)  delivered 2,900 (2,000/s)  waiting 100  refused 5"
        );
    }
}
