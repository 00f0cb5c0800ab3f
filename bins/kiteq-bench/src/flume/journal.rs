//! Ledgers on disk: lines of text, appended as things happen. A process that is killed has written all that it was sure of.
//!
//! | line | meaning |
//! |---|---|
//! | `pushed RUN A-B ...` | Redis took the elements A to B of the run, both included |
//! | `in-doubt RUN A-B ...` | these were sent and no answer came: Redis has them or not |
//! | `dead RUN N` | so many of the pushed ones are made to become dead letters |
//! | `received RUN A-B ...` | a sink took these; a number that comes again is a duplicate |
//!
//! A run is 16 hexadecimal digits, numbers are decimal. A last line without its end is one that was being written when
//! its process died: nothing was promised yet, and it is passed over.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Context, bail};

/// What a line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// See above.
    Pushed,
    /// See above.
    InDoubt,
    /// See above.
    Received,
}

impl Event {
    fn word(self) -> &'static str {
        match self {
            Self::Pushed => "pushed",
            Self::InDoubt => "in-doubt",
            Self::Received => "received",
        }
    }
}

/// A line that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Something happened to elements of a run.
    Elements(Event, u64, Vec<RangeInclusive<u64>>),
    /// So many elements of a run are to become dead letters.
    Dead(u64, u64),
}

/// A ledger that is being written.
#[derive(Debug)]
pub struct Journal {
    file: File,
    line: String,
}

impl Journal {
    /// Opens a ledger to append to it, and makes it where there is none. An unfinished last line is cut off.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let what = || format!("cannot write the ledger {}", path.display());
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(what)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).with_context(what)?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64).with_context(what)?;
        file.seek(SeekFrom::End(0)).with_context(what)?;
        Ok(Self { file, line: String::new() })
    }

    /// Appends what happened to elements. `sequences` are best in order: neighbours become one range.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn elements(
        &mut self,
        event: Event,
        run_id: u64,
        sequences: impl IntoIterator<Item = RangeInclusive<u64>>,
    ) -> std::io::Result<()> {
        use std::fmt::Write as _;
        self.line.clear();
        // Writing to a string does not fail.
        let _ = write!(self.line, "{} {run_id:016x}", event.word());
        let mut open: Option<(u64, u64)> = None;
        for range in sequences {
            match &mut open {
                Some((_, end)) if *end + 1 == *range.start() => *end = *range.end(),
                _ => {
                    if let Some((start, end)) = open.replace((*range.start(), *range.end())) {
                        let _ = write!(self.line, " {start}-{end}");
                    }
                }
            }
        }
        let Some((start, end)) = open else { return Ok(()) };
        let _ = writeln!(self.line, " {start}-{end}");
        self.file.write_all(self.line.as_bytes())
    }

    /// Appends how many elements are made to become dead letters.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn dead(&mut self, run_id: u64, count: u64) -> std::io::Result<()> {
        self.file.write_all(format!("dead {run_id:016x} {count}\n").as_bytes())
    }
}

/// Reads a ledger.
///
/// # Errors
/// When the file cannot be read or is no ledger.
pub fn read(path: &Path) -> anyhow::Result<Vec<Line>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the ledger {}", path.display()))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    let lines = whole.lines().enumerate().map(|(index, line)| {
        parse(line).with_context(|| format!("{}, line {}: this is no ledger", path.display(), index + 1))
    });
    lines.collect()
}

fn parse(line: &str) -> anyhow::Result<Line> {
    let mut words = line.split(' ');
    let (word, run) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let run_id = u64::from_str_radix(run, 16).context("expected a run")?;
    let event = match word {
        "dead" => return Ok(Line::Dead(run_id, words.next().unwrap_or_default().parse()?)),
        "pushed" => Event::Pushed,
        "in-doubt" => Event::InDoubt,
        "received" => Event::Received,
        other => bail!("unknown word {other:?}"),
    };
    let range = |word: &str| {
        let (start, end) = word.split_once('-').context("expected a range")?;
        let range = start.parse()?..=end.parse()?;
        anyhow::ensure!(!range.is_empty(), "an empty range");
        Ok(range)
    };
    Ok(Line::Elements(event, run_id, words.map(range).collect::<anyhow::Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        (directory, path)
    }

    #[test]
    fn what_is_written_is_read_back_with_neighbours_joined() {
        let (_directory, path) = path();
        let mut journal = Journal::open(&path).unwrap();
        journal.elements(Event::Pushed, 0xab, [0..=9]).unwrap();
        journal.dead(0xab, 3).unwrap();
        drop(journal);
        let mut journal = Journal::open(&path).unwrap();
        journal.elements(Event::Received, 0xab, [4, 5, 6, 9, 2, 2].map(|number| number..=number)).unwrap();
        journal.elements(Event::InDoubt, 0xab, []).unwrap();
        assert_eq!(
            read(&path).unwrap(),
            [
                Line::Elements(Event::Pushed, 0xab, vec![0..=9]),
                Line::Dead(0xab, 3),
                Line::Elements(Event::Received, 0xab, vec![4..=6, 9..=9, 2..=2, 2..=2]),
            ]
        );
    }

    #[test]
    fn a_line_that_was_being_written_counts_for_nothing() {
        let (_directory, path) = path();
        std::fs::write(&path, "pushed 00ab 0-1\nreceived 00ab 0-1").unwrap();
        assert_eq!(read(&path).unwrap().len(), 1);
        Journal::open(&path).unwrap().elements(Event::Received, 1, [7..=7]).unwrap();
        assert_eq!(read(&path).unwrap()[1], Line::Elements(Event::Received, 1, vec![7..=7]));
    }

    #[test]
    fn what_is_no_ledger_is_named() {
        let (_directory, path) = path();
        for text in ["hello world\n", "pushed xyz 1-2\n", "pushed 1 2\n", "pushed 1 3-2\n", "dead 1 x\n"] {
            std::fs::write(&path, format!("pushed 1 0-1\n{text}")).unwrap();
            let error = format!("{:#}", read(&path).unwrap_err());
            assert!(error.contains("line 2") && error.contains("ledger"), "{error}");
        }
    }
}
