//! What the log needs of a disk, and nothing else, so that a simulated one can take its place in tests.

mod file_system;

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

pub(crate) use file_system::FileSystemDisk;

/// One directory.
///
/// A file's bytes are durable after [`DiskFile::sync`], its name after [`Disk::sync_directory`]. Until then a crash may
/// take any of it back, in any order.
pub(crate) trait Disk: Send + Sync {
    /// Where this is, for people.
    fn place(&self) -> String;

    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;

    /// A new file of `len` zero bytes for which there is room, so that writing to it cannot find the disk full.
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>>;

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file over what `to` was.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    fn delete(&self, name: &str) -> io::Result<()>;

    fn sync_directory(&self) -> io::Result<()>;

    /// Keeps a copy of damaged bytes for inspection, out of the log's way. Returns where.
    fn keep_aside(&self, name: &str, bytes: &[u8]) -> io::Result<String>;

    /// Lets others use the directory.
    fn release(&self);
}

/// One file of a [`Disk`].
pub(crate) trait DiskFile: Send + Sync {
    fn len(&self) -> u64;

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Fills `bytes`; fewer bytes in the file are an error.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    /// The bytes of `range`, which stay what they are as long as somebody holds them or this file: neither is it
    /// recycled then.
    fn view(self: Arc<Self>, range: Range<u64>) -> io::Result<Bytes>;

    fn sync(&self) -> io::Result<()>;

    /// Cuts the file's end off.
    fn truncate(&self, len: u64) -> io::Result<()>;
}
