//! Numbers and tables that people can read.

/// A count with thousands separated: `1,234,567`.
#[must_use]
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate a second: `1,234/s`; slow ones with a decimal.
#[must_use]
pub fn rate(per_second: f64) -> String {
    if !per_second.is_finite() {
        "-".to_owned()
    } else if per_second < 100.0 {
        format!("{per_second:.1}/s")
    } else {
        format!("{}/s", count(per_second.round() as u64))
    }
}

/// A latency: microseconds, milliseconds or seconds, three digits or so.
#[must_use]
pub fn latency(micros: f64) -> String {
    match micros {
        m if m < 99.95 => format!("{m:.1} us"),
        m if m < 999.5 => format!("{m:.0} us"),
        m if m < 99_950.0 => format!("{:.2} ms", m / 1e3),
        m if m < 999_500.0 => format!("{:.0} ms", m / 1e3),
        m => format!("{:.2} s", m / 1e6),
    }
}

/// A size in bytes: `1.4 GiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    let bytes_f = bytes as f64;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes_f / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes_f / 1_048_576.0),
        _ => format!("{:.2} GiB", bytes_f / 1_073_741_824.0),
    }
}

/// A table whose first column is text and whose other columns are numbers, aligned to the right.
#[derive(Debug, Clone)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads.
    #[must_use]
    pub fn new(heads: &[&str]) -> Self {
        Self { rows: vec![heads.iter().map(|&head| head.to_owned()).collect()] }
    }

    /// Adds a row; missing cells at its end stay empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                line += &if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
            }
            writeln!(f, "{}", line.trim_end())?;
            if index == 0 {
                writeln!(f, "{}", "-".repeat(widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1)))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_scaled() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([3.25, 99.0, 2_300_000.4].map(rate), ["3.2/s", "99.0/s", "2,300,000/s"]);
        assert_eq!(rate(f64::NAN), "-");
        assert_eq!(
            [1.5, 250.0, 1_500.0, 120_000.0, 3.2e6].map(latency),
            ["1.5 us", "250 us", "1.50 ms", "120 ms", "3.20 s"]
        );
        assert_eq!([500, 2048, 3 << 20, 3 << 29].map(size), ["500 B", "2.0 KiB", "3.0 MiB", "1.50 GiB"]);
    }

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["", "rate", "p50"]);
        table.row(["publish".to_owned(), "1,000/s".to_owned(), "5.0 us".to_owned()]);
        table.row(["x".to_owned(), "9.0/s".to_owned()]);
        assert_eq!(
            table.to_string(),
            "            rate     p50\n------------------------\npublish  1,000/s  5.0 us\nx          9.0/s\n"
        );
    }
}
