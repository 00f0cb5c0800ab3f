//! A log file that starts anew when it is full and keeps a bounded number of its predecessors.
//!
//! `NAME` is the one being written, `NAME.1` the one before it, and so on; what would become `NAME.{kept + 1}` is
//! deleted. The disk taken is therefore bounded by `bytes_max * (kept + 1)` and one line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes to a file, rotating it by size.
#[derive(Debug)]
pub(crate) struct RotatingFile {
    path: PathBuf,
    file: File,
    bytes_written: u64,
    bytes_max: u64,
    kept: usize,
}

impl RotatingFile {
    /// Appends to `directory/name`, creating both where needed.
    pub(crate) fn open(directory: &Path, name: &str, bytes_max: u64, kept: usize) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let path = directory.join(name);
        let file = append_to(&path)?;
        let bytes_written = file.metadata()?.len();
        Ok(Self { path, file, bytes_written, bytes_max, kept })
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.kept).rev() {
            rename_if_present(&self.numbered(number), &self.numbered(number + 1))?;
        }
        if self.kept > 0 {
            rename_if_present(&self.path, &self.numbered(1))?;
        } else {
            fs::remove_file(&self.path)?;
        }
        self.file = append_to(&self.path)?;
        self.bytes_written = 0;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn rename_if_present(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Write for RotatingFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if self.bytes_written > 0 && self.bytes_written + buffer.len() as u64 > self.bytes_max {
            self.rotate()?;
        }
        let count = self.file.write(buffer)?;
        self.bytes_written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_rotated_and_only_so_many_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = RotatingFile::open(directory.path(), "kiteq.log", 10, 2).unwrap();
        for line in ["one......\n", "two......\n", "three....\n", "four.....\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(read("kiteq.log"), "four.....\n");
        assert_eq!(read("kiteq.log.1"), "three....\n");
        assert_eq!(read("kiteq.log.2"), "two......\n");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_restart_appends_to_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        for line in ["first\n", "second\n"] {
            RotatingFile::open(directory.path(), "kiteq.log", 100, 2)
                .unwrap()
                .write_all(line.as_bytes())
                .unwrap();
        }
        let text = fs::read_to_string(directory.path().join("kiteq.log")).unwrap();
        assert_eq!(text, "first\nsecond\n");
    }
}
