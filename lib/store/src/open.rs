//! From a URI to a store.

use std::sync::Arc;

use crate::error::OpenError;
use crate::memory::{MemoryOptions, MemoryStore};
use crate::mmap::{MmapOptions, MmapStore};
use crate::mysql::{MysqlOptions, MysqlStore};
use crate::store::SharedStore;
use crate::uri::{StoreUri, did_you_mean};

const SCHEMES: [&str; 5] = ["mmap", "file", "memory", "mock", "mysql"];

/// Opens the store that `uri` names.
///
/// | URI | store |
/// |---|---|
/// | `mmap://DIRECTORY?sync=group&segment=64MiB&maxcap=50000000` | on the local disk; `sync` is `group`, `os` or `interval:100ms` |
/// | `file://DIRECTORY?...` | the same, as existing configurations have it: parameters of the Go broker's store are ignored |
/// | `memory://?maxcap=2000000&maxbytes=1GiB` | in memory, gone when the process ends; refuses when full |
/// | `mock://` | like memory, smaller, and keeps no dead letters: for trying things out |
///
/// | `mysql://MASTER:3306,SLAVE:3306?db=kite&username=root&password=...` | in the tables of existing installations, which several brokers share; see below |
///
/// All take `dedupeWindow=60s` and `dedupeIds=1000000`: how long, and how many, settled ids are remembered.
///
/// # `mysql://`
///
/// | parameter | default | |
/// |---|---|---|
/// | `db` | `kite` | databases are `{db}_0`, `{db}_1`, ... |
/// | `shardnum` | 4 | how many; divides 16 |
/// | `username`, `password` | `root`, none | with `%XX` for what a URI cannot hold |
/// | `maxConn` | 20 | connections: up to one for writing for each database, the others for reading |
/// | `batchUpdateSize` | 2000 | rows of one transaction, about |
/// | `batchDelSize` | 10000 | settled rows that are deleted at once, for each table |
/// | `flushSeconds` | 1 | how often they are |
/// | `resident` | 1000000 | messages that are kept in memory, at about 35 bytes each here; the others wait in the tables |
/// | `timeout` | `5s` | for connecting and for one round trip; a publish is refused after at most about three of them |
/// | `adopt` | none | host names, `web-01,web-02`: what a Go broker left under such a name may be taken over |
/// | `tls` | `off` | `required`, or `verified` with `tlsCa=FILE` |
///
/// The second address is a slave that bodies are read from first; what it does not have is read from the master.
///
/// # Errors
/// When the URI is not one of these, has a parameter that is not known, or the backend cannot be opened.
pub fn open(uri: &str) -> Result<SharedStore, OpenError> {
    open_options(Options::read(uri)?, None)
}

/// Like [`open`], for a broker that others know as `owner`: the `host:port` that it registers. A store that brokers share
/// needs it; it must be the same in every run.
///
/// # Errors
/// See [`open`].
pub fn open_owned(uri: &str, owner: &str) -> Result<SharedStore, OpenError> {
    open_options(Options::read(uri)?, Some(owner))
}

fn open_options(options: Options, owner: Option<&str>) -> Result<SharedStore, OpenError> {
    match options {
        Options::Mysql(options) => match owner {
            Some(owner) => Ok(Arc::new(MysqlStore::open(*options, owner)?)),
            None => Err(OpenError {
                uri: options.describe(),
                reason: "brokers share this store, so it must be opened under the name of one".to_owned(),
            }),
        },
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
    Mysql(Box<MysqlOptions>),
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
            "mysql" => Ok(Self::Mysql(Box::new(MysqlOptions::read(uri)?))),
            scheme => {
                Err(uri.error(format!("there is no store {scheme:?}{}", did_you_mean(scheme, &SCHEMES))))
            }
        }
    }
}
