//! The mmap store on a real file system: its directory, its damage, its growth.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use kiteq_store::{AppendOutcome, Kill, Slot, StoreError};
use support::{Backend, Caller, id, message};

/// A body that makes a record easy to find in a file.
fn body(number: u32) -> Vec<u8> {
    format!("body-{number:06}-").repeat(40).into_bytes()
}

fn numbered(number: u32) -> kiteq_protocol::Message {
    message(number, "trade", "pay", &body(number))
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("log-"))
        .collect();
    paths.sort();
    paths
}

/// A closed store with the messages `0..count`, and its first segment.
fn written(count: u32) -> (Backend, PathBuf) {
    let store = Backend::mmap().open("");
    for number in 0..count {
        store.stored(numbered(number));
    }
    let backend = store.shut();
    let segment = segments(backend.path()).remove(0);
    (backend, segment)
}

fn refused(backend: &Backend) -> String {
    let opened = kiteq_store::open(&backend.uri(""));
    match opened {
        Err(error) => error.to_string(),
        Ok(store) => store.recover(&mut |_| {}).expect_err("the store must not open").to_string(),
    }
}

fn position(haystack: &[u8], needle: &[u8]) -> usize {
    haystack.windows(needle.len()).position(|window| window == needle).expect("the bytes are there")
}

fn found_numbers(store: &Caller) -> Vec<u32> {
    store.recovered().iter().map(|found| u32::from_be_bytes(found.id.0[..4].try_into().unwrap())).collect()
}

#[test]
fn a_second_broker_on_the_directory_is_refused() {
    let store = Backend::mmap().open("");
    let reason = refused(store.backend());
    assert!(reason.contains("in use by another broker"), "{reason}");
    let backend = store.shut();
    kiteq_store::open(&backend.uri("")).unwrap().recover(&mut |_| {}).unwrap();
}

#[test]
fn a_directory_of_another_version_is_refused() {
    let (backend, _) = written(1);
    fs::write(backend.path().join("kiteq.lock"), "kiteq store, format 2\n").unwrap();
    let reason = refused(&backend);
    assert!(reason.contains("format 2") && reason.contains("format 1"), "{reason}");
}

#[test]
fn a_segment_of_another_version_is_refused_and_left_alone() {
    let (backend, segment) = written(1);
    let mut bytes = fs::read(&segment).unwrap();
    let copy = bytes.len() - 64;
    (bytes[8], bytes[copy + 8]) = (2, 2);
    fs::write(&segment, &bytes).unwrap();
    let reason = refused(&backend);
    assert!(reason.contains("format 2"), "{reason}");
    assert_eq!(fs::read(&segment).unwrap(), bytes);
}

#[test]
fn a_foreign_file_with_the_name_of_a_segment_is_refused_and_left_alone() {
    let (backend, _) = written(1);
    let foreign = backend.path().join("log-0000000009.kiteq");
    fs::write(&foreign, "my diary ".repeat(100)).unwrap();
    let reason = refused(&backend);
    assert!(reason.contains("log-0000000009.kiteq") && reason.contains("move the file away"), "{reason}");
    assert!(fs::read_to_string(&foreign).unwrap().starts_with("my diary"));
}

#[test]
fn other_files_in_the_directory_are_no_business_of_the_store() {
    let (backend, _) = written(3);
    fs::write(backend.path().join("registry.json"), "{}").unwrap();
    fs::create_dir(backend.path().join("log-0000000007.kiteq.d")).unwrap();
    let store = backend.open("");
    assert_eq!(found_numbers(&store), [0, 1, 2]);
}

#[test]
fn a_damaged_byte_costs_one_message_and_is_kept_aside() {
    let (backend, segment) = written(10);
    let mut bytes = fs::read(&segment).unwrap();
    let hit = position(&bytes, &body(4)) + 100;
    bytes[hit] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    let store = backend.open("");
    assert_eq!(found_numbers(&store), [0, 1, 2, 3, 5, 6, 7, 8, 9]);
    let kept: Vec<PathBuf> = fs::read_dir(store.backend().path().join("damaged"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(kept.len(), 1);
    assert!(fs::read(&kept[0]).unwrap().windows(12).any(|window| window == b"body-000004-"));
    // It is not held any more, so it can be sent again.
    store.stored(numbered(4));
    assert_eq!(found_numbers(&store.reopen("")), [0, 1, 2, 3, 5, 6, 7, 8, 9, 4]);
}

#[test]
fn a_damaged_length_costs_one_message() {
    let (backend, segment) = written(10);
    let mut bytes = fs::read(&segment).unwrap();
    // The record begins before its id by the length of the record header.
    let record = position(&bytes, &id(4).0) - 24;
    bytes[record + 4..record + 8].copy_from_slice(&0x0fff_ffffu32.to_le_bytes());
    fs::write(&segment, &bytes).unwrap();
    assert_eq!(found_numbers(&backend.open("")), [0, 1, 2, 3, 5, 6, 7, 8, 9]);
}

#[test]
fn a_message_that_is_damaged_while_it_is_held_is_an_error_and_nothing_else_is() {
    let store = Backend::mmap().open("");
    let slots: Vec<Slot> = (0..10).map(|number| store.stored(numbered(number))).collect();
    let segment = segments(store.backend().path()).remove(0);
    let hit = position(&fs::read(&segment).unwrap(), &body(4)) as u64 + 100;
    let file = fs::OpenOptions::new().write(true).open(&segment).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"#", hit).unwrap();
    for (number, loaded) in (0..).zip(store.load(slots)) {
        match (number, loaded) {
            (4, Err(StoreError::Corrupt { place, .. })) => assert!(place.contains("log-"), "{place}"),
            (4, other) => panic!("{other:?}"),
            (number, loaded) => assert_eq!(loaded.unwrap().payload, numbered(number).payload),
        }
    }
}

#[test]
fn a_damaged_header_is_replaced_by_its_copy() {
    let (backend, segment) = written(5);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[16..40].fill(0xee);
    fs::write(&segment, &bytes).unwrap();
    assert_eq!(found_numbers(&backend.open("")), [0, 1, 2, 3, 4]);
}

#[test]
fn a_torn_tail_is_cut_and_the_log_goes_on() {
    let (backend, segment) = written(10);
    let mut bytes = fs::read(&segment).unwrap();
    // As if the machine had died while the last record was on its way: half of it is there, and nothing after it.
    let last = position(&bytes, &body(9));
    let records_end = bytes.len() - 64;
    bytes[last + 50..records_end].fill(0);
    fs::write(&segment, &bytes).unwrap();
    let store = backend.open("");
    assert_eq!(found_numbers(&store), (0..9).collect::<Vec<_>>());
    assert!(!store.backend().path().join("damaged").exists(), "a torn tail is normal");
    store.stored(numbered(9));
    assert_eq!(found_numbers(&store.reopen("")), (0..10).collect::<Vec<_>>());
}

#[test]
fn random_damage_costs_only_what_it_hits() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..20 {
        let (backend, segment) = written(60);
        let mut bytes = fs::read(&segment).unwrap();
        let places: Vec<usize> = (0..60).map(|number| position(&bytes, &id(number).0) - 24).collect();
        let hits: Vec<usize> = (0..5).map(|_| random.usize(places[0]..places[59])).collect();
        for hit in &hits {
            bytes[*hit] = bytes[*hit].wrapping_add(random.u8(1..));
        }
        fs::write(&segment, &bytes).unwrap();
        let untouched: Vec<u32> = (0..60u32)
            .filter(|number| {
                let from = places[*number as usize];
                let to = places.get(*number as usize + 1).copied().unwrap_or(usize::MAX);
                !hits.iter().any(|hit| (from..to).contains(hit))
            })
            .collect();
        let found = found_numbers(&backend.open(""));
        let missing: Vec<_> = untouched.iter().filter(|number| !found.contains(number)).collect();
        assert!(missing.is_empty(), "{missing:?} were not hit by {hits:?}");
    }
}

#[test]
fn one_stuck_message_does_not_pin_the_disk() {
    let store = Backend::mmap().open("sync=os");
    let stuck = store.stored(message(0, "stuck", "pay", b"stuck"));
    let dead = store.stored(message(1, "dead", "pay", b"dead"));
    let groups = vec!["s-a".into()];
    store.kill(vec![Kill { slot: dead, reason: kiteq_store::DeadReason::Expired, groups }]);
    let noted = vec![kiteq_store::GroupState { group: "s-b".into(), attempts: 7, done: false }];
    store.note(vec![(stuck, noted.clone())]);
    // The log keeps to a few segments of 1 MiB, however much goes through; how fast depends on the machine.
    let bulk = vec![0x55; 100_000];
    let enough = std::time::Instant::now() + std::time::Duration::from_secs(60);
    for round in 0.. {
        let messages = (0..10).map(|number| message(10 + round * 10 + number, "t", "m", &bulk)).collect();
        let slots: Vec<Slot> = store
            .append(messages)
            .into_iter()
            .map(|(_, outcome)| match outcome {
                AppendOutcome::Stored(slot) => slot,
                other => panic!("{other:?}"),
            })
            .collect();
        store.settle(slots);
        let on_disk = store.stats().disk_bytes;
        if round > 300 && on_disk < 64 << 20 {
            break;
        }
        assert!(std::time::Instant::now() < enough, "{on_disk} bytes on the disk after {round} rounds");
    }
    let still = store.load_one(stuck).unwrap();
    assert_eq!(&still.payload.body[..], b"stuck");
    let store = store.reopen("sync=os");
    let found = store.recovered();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].id, &found[0].groups), (id(0), &noted));
    let letters = store.dead_letters(None, 10).unwrap();
    assert_eq!(
        (letters.len(), &letters[0].payload.body[..], &letters[0].groups[0][..]),
        (1, &b"dead"[..], &b"s-a"[..])
    );
}

#[test]
fn what_was_read_stays_what_it_was_when_its_segment_is_used_again() {
    let store = Backend::mmap().open("sync=os");
    // Large enough to be mapped and not copied.
    let large = vec![0xab; 200_000];
    let slot = store.stored(message(0, "t", "m", &large));
    let loaded = store.load_one(slot).unwrap();
    store.settle(vec![slot]);
    for number in 1..100 {
        let slot = store.stored(message(number, "t", "m", &vec![number as u8; 200_000]));
        store.settle(vec![slot]);
    }
    assert!(loaded.payload.body.iter().all(|byte| *byte == 0xab));
}

#[test]
fn a_message_larger_than_a_segment_is_refused_for_good() {
    let store = Backend::mmap().open("");
    let outcome = store.append_one(message(1, "t", "m", &vec![1; 2 << 20]));
    let AppendOutcome::Refused(error) = outcome else { panic!("{outcome:?}") };
    assert!(matches!(error, StoreError::TooLarge { .. }) && !error.is_retryable(), "{error}");
    store.stored(message(2, "t", "m", &vec![1; 1_000_000]));
}

#[test]
fn every_sync_mode_keeps_what_it_took() {
    for sync in ["sync=group", "sync=os", "sync=interval:5ms"] {
        let store = Backend::mmap().open(sync);
        for number in 0..50 {
            store.stored(numbered(number));
        }
        assert_eq!(found_numbers(&store.reopen(sync)), (0..50).collect::<Vec<_>>(), "{sync}");
    }
}

#[test]
fn calls_before_recovery_read_the_log_themselves() {
    let (backend, _) = written(3);
    let store = kiteq_store::open(&backend.uri("")).unwrap();
    let duplicate = Caller::wait_at_most(std::time::Duration::from_secs(60), |done| {
        store.append(vec![numbered(1)], done);
    });
    assert_eq!(duplicate.unwrap()[0].1, AppendOutcome::Duplicate);
    store.close().unwrap();
}

#[test]
fn a_dropped_store_releases_its_directory() {
    let backend = Backend::mmap();
    for round in 0..3 {
        let store = kiteq_store::open(&backend.uri("")).unwrap();
        let mut found = 0;
        store.recover(&mut |_| found += 1).unwrap();
        assert_eq!(found, round);
        Caller::wait_at_most(std::time::Duration::from_secs(60), |done| {
            store.append(vec![numbered(round)], done);
        })
        .unwrap();
        drop(store);
    }
}

#[test]
fn missing_directories_are_created_and_a_file_in_the_way_is_an_error() {
    let place = tempfile::tempdir().unwrap();
    let nested = place.path().join("data/store");
    kiteq_store::open(&format!("mmap://{}", nested.display())).unwrap().recover(&mut |_| {}).unwrap();
    assert!(nested.join("kiteq.lock").is_file());
    let file = place.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let opened = kiteq_store::open(&format!("mmap://{}", file.display()));
    let reason = opened.map(|store| store.describe()).unwrap_err().to_string();
    assert!(reason.contains(file.to_str().unwrap()), "{reason}");
}
