//! A file that frames are appended to, as the simplest store would do it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A file is given up for a fresh one at this size, which bounds the disk that a measurement takes.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Appends of all connections, in one file at a time. The files are deleted when it is dropped.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    durable: bool,
    current: Mutex<Current>,
    /// Bytes that are known to be on the disk; the lock is held during a sync, so that one sync serves all who wait.
    synced_bytes: Mutex<u64>,
}

#[derive(Debug)]
struct Current {
    file: File,
    path: PathBuf,
    file_bytes: u64,
    /// Bytes appended over all files.
    total_bytes: u64,
    rotations: u32,
}

impl Journal {
    /// Creates the first file in `dir`. A durable journal is one that is going to be synced.
    ///
    /// # Errors
    /// When no file can be created there.
    pub fn create(dir: &Path, durable: bool) -> io::Result<Self> {
        let (file, path) = fresh_file(dir, 0)?;
        let current = Current { file, path, file_bytes: 0, total_bytes: 0, rotations: 0 };
        Ok(Self { dir: dir.to_owned(), durable, current: Mutex::new(current), synced_bytes: Mutex::new(0) })
    }

    /// Appends a batch and returns the position up to which a sync makes it durable.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn append(&self, batch: &[u8]) -> io::Result<u64> {
        let mut current = lock(&self.current);
        if current.file_bytes + batch.len() as u64 > FILE_BYTES_MAX && current.file_bytes > 0 {
            self.rotate(&mut current)?;
        }
        current.file.write_all(batch)?;
        current.file_bytes += batch.len() as u64;
        current.total_bytes += batch.len() as u64;
        Ok(current.total_bytes)
    }

    /// Returns once everything up to `position` is on the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&self, position: u64) -> io::Result<()> {
        let mut synced_bytes = lock(&self.synced_bytes);
        if *synced_bytes >= position {
            return Ok(());
        }
        let (file, reached) = {
            let current = lock(&self.current);
            (current.file.try_clone()?, current.total_bytes)
        };
        file.sync_data()?;
        *synced_bytes = reached;
        Ok(())
    }

    fn rotate(&self, current: &mut Current) -> io::Result<()> {
        if self.durable {
            // A sync that comes later only reaches the new file.
            current.file.sync_data()?;
        }
        let (file, path) = fresh_file(&self.dir, current.rotations + 1)?;
        std::fs::remove_file(&current.path)?;
        *current = Current {
            file,
            path,
            file_bytes: 0,
            total_bytes: current.total_bytes,
            rotations: current.rotations + 1,
        };
        Ok(())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Best effort: a file that stays behind is named for what it is.
        let _ = std::fs::remove_file(&lock(&self.current).path);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fresh_file(dir: &Path, rotation: u32) -> io::Result<(File, PathBuf)> {
    let name = format!("kiteq-bench-limits-{}-{:08x}-{rotation}.tmp", std::process::id(), fastrand::u32(..));
    let path = dir.join(name);
    Ok((OpenOptions::new().append(true).create_new(true).open(&path)?, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_appended_in_order_and_the_file_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(dir.path(), true).unwrap();
        assert_eq!(journal.append(b"one").unwrap(), 3);
        let position = journal.append(b"two").unwrap();
        journal.sync(position).unwrap();
        assert_eq!(*lock(&journal.synced_bytes), 6);
        let path = lock(&journal.current).path.clone();
        assert_eq!(std::fs::read(&path).unwrap(), b"onetwo");
        drop(journal);
        assert!(!path.exists());
    }

    #[test]
    fn a_full_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(dir.path(), true).unwrap();
        journal.append(b"old").unwrap();
        lock(&journal.current).file_bytes = FILE_BYTES_MAX;
        assert_eq!(journal.append(b"new").unwrap(), 6);
        let files: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1);
        assert_eq!(std::fs::read(&files[0]).unwrap(), b"new");
    }
}
