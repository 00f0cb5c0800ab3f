//! A disk that keeps what was synced, and loses, reorders and tears everything else when the power fails.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::mailbox::lock;
use crate::mmap::disk::{Disk, DiskFile};

const SECTOR_BYTES: usize = 512;
const PAGE_BYTES: usize = 4096;

/// What comes back after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crash {
    /// The process died: the operating system still has everything.
    Process,
    /// The machine died.
    Power,
}

#[derive(Clone)]
pub(super) struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    random: fastrand::Rng,
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since the last sync of the directory, in their order.
    unsynced_names: Vec<NameChange>,
    /// Bytes that files may take together.
    capacity: u64,
    fail_writes: bool,
    fail_syncs: bool,
}

#[derive(Clone)]
enum NameChange {
    Add(String, usize),
    Rename(String, String),
    Remove(String),
}

#[derive(Default)]
struct Inode {
    content: Vec<u8>,
    durable: Vec<u8>,
    dirty_sectors: BTreeSet<usize>,
}

impl SimDisk {
    pub(super) fn new(random: fastrand::Rng, capacity: u64) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                random,
                inodes: Vec::new(),
                names: BTreeMap::new(),
                durable_names: BTreeMap::new(),
                unsynced_names: Vec::new(),
                capacity,
                fail_writes: false,
                fail_syncs: false,
            })),
        }
    }

    pub(super) fn set_capacity(&self, capacity: u64) {
        lock(&self.state).capacity = capacity;
    }

    pub(super) fn set_faults(&self, writes: bool, syncs: bool) {
        let mut state = lock(&self.state);
        (state.fail_writes, state.fail_syncs) = (writes, syncs);
    }

    pub(super) fn crash(&self, crash: Crash) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        (state.fail_writes, state.fail_syncs) = (false, false);
        if crash == Crash::Process {
            return;
        }
        // Names come back in order, as a journal has them, but not all of them.
        let kept = state.random.usize(..=state.unsynced_names.len());
        let mut names = state.durable_names.clone();
        for change in &state.unsynced_names[..kept] {
            change.apply(&mut names);
        }
        state.unsynced_names.clear();
        state.names = names.clone();
        state.durable_names = names;
        for inode in &mut state.inodes {
            inode.lose_power(&mut state.random);
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Add(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            Self::Rename(from, to) => {
                let inode = names.remove(from).expect("a name that was there");
                names.insert(to.clone(), inode);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl Inode {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        self.content[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.dirty_sectors.extend(offset / SECTOR_BYTES..(offset + bytes.len()).div_ceil(SECTOR_BYTES));
    }

    fn persist(&mut self, sector: usize) {
        let from = sector * SECTOR_BYTES;
        let to = (from + SECTOR_BYTES).min(self.content.len()).min(self.durable.len());
        if from < to {
            self.durable[from..to].copy_from_slice(&self.content[from..to]);
        }
    }

    fn sync(&mut self) {
        self.durable.resize(self.content.len(), 0);
        for sector in std::mem::take(&mut self.dirty_sectors) {
            self.persist(sector);
        }
    }

    fn lose_power(&mut self, random: &mut fastrand::Rng) {
        let cut = self.content.len() < self.durable.len() && random.bool();
        let all_or_nothing = random.u8(..4);
        let mut pages: BTreeMap<usize, u8> = BTreeMap::new();
        for sector in std::mem::take(&mut self.dirty_sectors) {
            let fate = match all_or_nothing {
                0 => 0,
                1 => 1,
                _ => *pages
                    .entry(sector * SECTOR_BYTES / PAGE_BYTES)
                    .or_insert_with(|| [0, 0, 1, 1, 2][random.usize(..5)]),
            };
            if fate == 1 || (fate == 2 && random.bool()) {
                self.persist(sector);
            }
        }
        if cut {
            self.durable.truncate(self.content.len());
        }
        self.content = self.durable.clone();
    }
}

fn failure(what: &str) -> io::Error {
    io::Error::other(format!("simulated failure of a {what}"))
}

impl State {
    fn used_bytes(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[*inode].content.len() as u64).sum()
    }

    fn inode(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }
}

impl Disk for SimDisk {
    fn place(&self) -> String {
        "/simulated".to_owned()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.state).names.keys().cloned().collect())
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = lock(&self.state);
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if state.used_bytes() + len > state.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = state.inodes.len();
        let content = vec![0; len as usize];
        state.inodes.push(Inode { durable: content.clone(), content, dirty_sectors: BTreeSet::new() });
        state.change(NameChange::Add(name.to_owned(), inode));
        Ok(Arc::new(SimFile { state: self.state.clone(), inode }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let inode = lock(&self.state).inode(name)?;
        Ok(Arc::new(SimFile { state: self.state.clone(), inode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.inode(from)?;
        state.change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.inode(name)?;
        state.change(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        if state.fail_syncs {
            return Err(failure("directory sync"));
        }
        state.durable_names = state.names.clone();
        state.unsynced_names.clear();
        Ok(())
    }

    fn keep_aside(&self, name: &str, _bytes: &[u8]) -> io::Result<String> {
        Ok(name.to_owned())
    }

    fn release(&self) {}
}

struct SimFile {
    state: Arc<Mutex<State>>,
    inode: usize,
}

impl DiskFile for SimFile {
    fn len(&self) -> u64 {
        lock(&self.state).inodes[self.inode].content.len() as u64
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let mut bytes = bytes;
        if state.fail_writes {
            // Some of it may have arrived.
            bytes = &bytes[..state.random.usize(..=bytes.len())];
        }
        state.inodes[self.inode].write(bytes, offset as usize);
        if state.fail_writes { Err(failure("write")) } else { Ok(()) }
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let state = lock(&self.state);
        let from = offset as usize;
        let content = &state.inodes[self.inode].content;
        let content = content.get(from..from + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(content);
        Ok(())
    }

    fn view(self: Arc<Self>, range: Range<u64>) -> io::Result<Bytes> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.read_at(&mut bytes, range.start)?;
        Ok(bytes.into())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let inode = &mut state.inodes[self.inode];
        if state.fail_syncs {
            // As Linux has it: some of the pages were written, all are clean now, and the next sync succeeds.
            for sector in std::mem::take(&mut inode.dirty_sectors) {
                if state.random.bool() {
                    inode.persist(sector);
                }
            }
            return Err(failure("sync"));
        }
        inode.sync();
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        lock(&self.state).inodes[self.inode].content.truncate(len as usize);
        Ok(())
    }
}
