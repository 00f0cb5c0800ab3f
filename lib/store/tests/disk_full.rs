//! A real file system without room: publishers are refused, everything else goes on, and room that comes back is used.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kiteq_store::{AppendOutcome, Slot, StoreError, Verdict, VerdictOutcome};
use support::{Backend, id, message, prepared};

/// A file system of a few megabytes; needs root.
struct SmallFileSystem<'a> {
    path: &'a Path,
}

impl<'a> SmallFileSystem<'a> {
    fn mount(path: &'a Path) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"])
            .arg(path)
            .status()
            .is_ok_and(|status| status.success());
        mounted.then_some(Self { path })
    }
}

impl Drop for SmallFileSystem<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path).status();
    }
}

#[test]
fn a_full_disk_refuses_publishers_and_nobody_else() {
    let backend = Backend::mmap();
    let path = backend.path().to_owned();
    let Some(_mounted) = SmallFileSystem::mount(&path) else {
        eprintln!(
            "NOT TESTED: a small file system can be mounted by root only; the simulation fills disks too"
        );
        return;
    };
    let store = backend.open("");
    let kept = store.stored(message(0, "t", "m", b"kept"));
    store.stored(prepared(1, b"prepared"));
    let body = vec![7; 50_000];
    let mut slots: Vec<Slot> = Vec::new();
    let error = loop {
        match store.append_one(message(2 + slots.len() as u32, "t", "m", &body)) {
            AppendOutcome::Stored(slot) => slots.push(slot),
            AppendOutcome::Refused(error) => break error,
            AppendOutcome::Duplicate => panic!("every id is new"),
            AppendOutcome::Deferred => panic!("every message is resident in this store"),
        }
        assert!(slots.len() < 200, "ten megabytes do not fit");
    };
    assert!(matches!(error, StoreError::DiskFull { .. }) && error.is_retryable(), "{error}");
    assert_eq!(store.raw().health(), Err(error));
    // Everything else goes on, and is written down.
    assert_eq!(&store.load_one(kept).unwrap().payload.body[..], b"kept");
    assert!(matches!(store.decide(vec![(id(1), Verdict::Commit)])[..], [VerdictOutcome::Committed(_)]));
    let sent = slots.len() as u32;
    store.settle(slots);
    // With the messages gone there is room again, without anybody's doing.
    let enough = Instant::now() + Duration::from_secs(60);
    let mut number = 2 + sent;
    while !matches!(store.append_one(message(number, "t", "m", &body)), AppendOutcome::Stored(_)) {
        assert!(Instant::now() < enough, "the store takes messages again");
        number += 1;
        std::thread::yield_now();
    }
    store.raw().health().unwrap();
    let store = store.reopen("");
    let found: Vec<_> = store.recovered().iter().map(|found| (found.id, found.committed)).collect();
    assert_eq!(found, [(id(0), true), (id(1), true), (id(number), true)]);
    drop(store.shut());
}
