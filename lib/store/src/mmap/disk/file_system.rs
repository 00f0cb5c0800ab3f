//! A directory of a real file system.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;

use super::{Disk, DiskFile};
use crate::mailbox::lock;
use crate::mmap::codec::FORMAT_VERSION;

/// Present in every store's directory: names the format, and is locked while a broker uses it.
const LOCK_FILE: &str = "kiteq.lock";
const LOCK_FILE_PREFIX: &str = "kiteq store, format ";
/// Below the store's directory.
const DAMAGED_DIRECTORY: &str = "damaged";
/// Shorter views are copied: mapping costs two system calls, page faults and a flush of the address translation.
const MAPPED_BYTES_MIN: u64 = 64 << 10;
const ZEROS_LEN: usize = 1 << 20;

pub(crate) struct FileSystemDisk {
    directory: PathBuf,
    /// Locked as long as it is open.
    lock: Mutex<Option<File>>,
}

impl FileSystemDisk {
    /// Takes possession of a directory, which is created when it is not there.
    ///
    /// # Errors
    /// What is wrong and what to do, for people.
    pub(crate) fn open(directory: &Path) -> Result<Self, String> {
        let shown = directory.display();
        create_durably(directory).map_err(|error| format!("{shown} cannot be created: {error}"))?;
        let path = directory.join(LOCK_FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| format!("{} cannot be opened: {error}", path.display()))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => format!(
                "{shown} is in use by another broker; stop that one or give this one a directory of its own"
            ),
            error => format!("{} cannot be locked: {error}", path.display()),
        })?;
        check_format(&mut file).map_err(|reason| format!("{}: {reason}", path.display()))?;
        Ok(Self { directory: directory.to_owned(), lock: Mutex::new(Some(file)) })
    }
}

/// Creates a directory and those above it, and makes their names durable: a store in a directory that a crash takes away
/// has kept nothing.
fn create_durably(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_durably(parent)?;
    // Somebody else may be faster; what is there then is a directory or an error below.
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(parent)?.sync_all()
}

/// Reads the format from the lock file, or writes it into a new one.
fn check_format(file: &mut File) -> Result<(), String> {
    let mut text = String::new();
    Read::by_ref(file).take(100).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.is_empty() {
        let written = file.write_all(format!("{LOCK_FILE_PREFIX}{FORMAT_VERSION}\n").as_bytes());
        return written.and_then(|()| file.sync_all()).map_err(|error| error.to_string());
    }
    match text.trim_end().strip_prefix(LOCK_FILE_PREFIX) {
        Some(version) if version == FORMAT_VERSION.to_string() => Ok(()),
        Some(version) => Err(format!(
            "the directory has format {version}, this version reads format {FORMAT_VERSION}; run the version that wrote it, \
             or choose an empty directory"
        )),
        None => Err("the file is not a store's; choose another directory".to_owned()),
    }
}

impl Disk for FileSystemDisk {
    fn place(&self) -> String {
        self.directory.display().to_string()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            // A name that is not text is none of ours.
            if let (true, Ok(name)) = (entry.file_type()?.is_file(), entry.file_name().into_string()) {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.directory.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        if let Err(error) = allocate(&file, len) {
            // Room that was taken in part goes back; the error that counts is the first.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(Arc::new(SegmentFile { file, len: AtomicU64::new(len) }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.directory.join(name))?;
        let len = AtomicU64::new(file.metadata()?.len());
        Ok(Arc::new(SegmentFile { file, len }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.directory.join(from), self.directory.join(to))
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.directory.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    fn keep_aside(&self, name: &str, bytes: &[u8]) -> io::Result<String> {
        let directory = self.directory.join(DAMAGED_DIRECTORY);
        fs::create_dir_all(&directory)?;
        let path = directory.join(name);
        if !path.exists() {
            fs::write(&path, bytes)?;
        }
        Ok(path.display().to_string())
    }

    fn release(&self) {
        *lock(&self.lock) = None;
    }
}

fn allocate(file: &File, len: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, len) {
        Err(Errno::OPNOTSUPP) => {
            let zeros = vec![0; ZEROS_LEN];
            let mut offset = 0;
            while offset < len {
                let part = zeros.len().min(usize::try_from(len - offset).unwrap_or(usize::MAX));
                file.write_all_at(&zeros[..part], offset)?;
                offset += part as u64;
            }
            Ok(())
        }
        result => Ok(result?),
    }
}

struct SegmentFile {
    file: File,
    len: AtomicU64,
}

impl DiskFile for SegmentFile {
    fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    fn view(self: Arc<Self>, range: Range<u64>) -> io::Result<Bytes> {
        let len = range.end.saturating_sub(range.start);
        if range.end > self.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let short = len < MAPPED_BYTES_MIN;
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        if short {
            let mut bytes = vec![0; len];
            self.read_at(&mut bytes, range.start)?;
            return Ok(bytes.into());
        }
        Ok(Bytes::from_owner(Mapped { map: map(&self.file, range.start, len)?, _file: self }))
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.len.store(len, Ordering::Relaxed);
        Ok(())
    }
}

#[allow(unsafe_code, reason = "memory maps have no safe interface")]
fn map(file: &File, offset: u64, len: usize) -> io::Result<Mmap> {
    let mut options = MmapOptions::new();
    options.offset(offset).len(len).populate();
    // SAFETY: the bytes behind the map do not change while it exists. The store is the only user of the directory (it
    // holds the lock), writes every byte of a segment once, before any reader knows of it, cuts only files that nobody
    // reads yet, and writes over a file only when it is the only holder of the `Arc` that the map keeps too.
    unsafe { options.map(file) }
}

/// A map that keeps its file from being recycled.
struct Mapped {
    map: Mmap,
    _file: Arc<SegmentFile>,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}
