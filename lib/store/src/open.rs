//! From a URI to a store.

use std::sync::Arc;

use crate::error::OpenError;
use crate::memory::{MemoryOptions, MemoryStore};
use crate::mmap::{MmapOptions, MmapStore};
use crate::store::SharedStore;
use crate::uri::{StoreUri, did_you_mean};

const SCHEMES: [&str; 4] = ["mmap", "file", "memory", "mock"];

/// Opens the store that `uri` names.
///
/// | URI | store |
/// |---|---|
/// | `mmap://DIRECTORY?sync=group&segment=64MiB&maxcap=50000000` | on the local disk; `sync` is `group`, `os` or `interval:100ms` |
/// | `file://DIRECTORY?...` | the same, as existing configurations have it: parameters of the Go broker's store are ignored |
/// | `memory://?maxcap=2000000&maxbytes=1GiB` | in memory, gone when the process ends; refuses when full |
/// | `mock://` | like memory, smaller, and keeps no dead letters: for trying things out |
///
/// All take `dedupeWindow=60s` and `dedupeIds=1000000`: how long, and how many, settled ids are remembered.
///
/// # Errors
/// When the URI is not one of these, has a parameter that is not known, or the backend cannot be opened.
pub fn open(uri: &str) -> Result<SharedStore, OpenError> {
    match Options::read(uri)? {
        Options::Mmap(options) => Ok(Arc::new(MmapStore::open(options)?)),
        Options::Memory(options) => Ok(Arc::new(MemoryStore::start(options)?)),
    }
}

/// Checks a URI as [`open`] would, without touching what it names.
///
/// # Errors
/// When the URI is not one that [`open`] takes.
pub fn check(uri: &str) -> Result<(), OpenError> {
    Options::read(uri).map(drop)
}

enum Options {
    Mmap(MmapOptions),
    Memory(MemoryOptions),
}

impl Options {
    fn read(uri: &str) -> Result<Self, OpenError> {
        let uri = StoreUri::parse(uri)?;
        match uri.scheme {
            "mmap" | "file" => Ok(Self::Mmap(MmapOptions::read(uri)?)),
            "memory" => Ok(Self::Memory(MemoryOptions::memory(uri)?)),
            "mock" => Ok(Self::Memory(MemoryOptions::mock(uri)?)),
            "rocksdb" => Err(uri.error(format!(
                "there is no RocksDB store; use mmap://{} instead, which keeps messages on the local disk too",
                uri.place
            ))),
            "mysql" => Err(uri.error(
                "the MySQL store is not in this version yet; use mmap://DIRECTORY, which keeps messages on the local disk",
            )),
            scheme => {
                Err(uri.error(format!("there is no store {scheme:?}{}", did_you_mean(scheme, &SCHEMES))))
            }
        }
    }
}
